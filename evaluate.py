"""
evaluate.py RUN: the tables and figures of both papers for a trained run, beside honest baselines.

    python evaluate.py runs/glyphs-translator                     everything
    python evaluate.py runs/glyph-sr-bridge                       the same for a run of the bridge
    python evaluate.py --reproduce lddbm-losses                   a table of LD, trained anew
    python evaluate.py --pairs pca,tfidf pca:32,tfidf:64          MT Table 3, trained anew
    python evaluate.py RUN --task similarity ablation             some of it
    python evaluate.py RUN --on celeba --data-dir ~/celeba        another data set, same encoders
    python evaluate.py RUN --on cifar10 --data-dir ~/cifar --task classification

Tasks    similarity      MT Tables 2, 3   cosine and its controls, R@1/5/10, both directions
         bare            the same with captions of several images (glyphs: names without typeface)
         cross-domain    MT Table 4       another data set (glyphs: the STIX faces)
         ablation        MT Table 7       each term of Eq. 5 alone, at gamma = 1 and gamma auto
         curves          one figure       cosine against gamma, omega, DDIM steps, K
         classification  MT Table 6       zero-shot by prompts
         retrieval       MT Fig. 3b       a picture: queries and their top 5
         pictures        MT Fig. 3a       a picture: images drawn from captions never seen
         text-to-image   a table of them: FID, IS, R-precision
         captioning      MT Table 5, Fig. 4: BLEU and ROUGE-L, beside other captions
         gap             a picture: where images, texts and translations lie (equal widths)
Bridge   quality         one sample, the mean of 8, and its yardsticks: Basic, the regressor, ...
         trade-off       a figure over NFE: perception against distortion, every sampler
         samples, tsne   pictures (LD Fig. 1); parts (when asked): what each part of it sees
Leaves   RUN/translation.json: {"rows": [{task, direction, method, cosine, centred_cosine,
         unrelated_cosine, r1, r5, r10, pool, seed}, ...]}; RUN/classification.json; RUN/*.png;
         RUN/text-to-image.json, captioning.json, captions.txt; RUN/capdec.pt, clipcap.pt, judge.pt:
         trained once; with --on, the data set's name is part of every task and picture; bridge:
         RUN/bridge.json: {"rows": [{data, method, metric, value, nfe, seconds_per_sample, seed}]}
Rules    choices (ridge's lambda, gamma, the curves) are made on validation pairs, tables on test
Letters  N conditions, or pairs of the bridge   Q queries   G gallery   P pairs   h1 = dim c
         h2 = dim z
"""

import argparse
import importlib.util
import itertools
import json
import os
import re
import sys
import textwrap
import time
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure  # draws without a display
from PIL import Image, ImageOps
from scipy.ndimage import binary_erosion, gaussian_filter  # scikit-learn brings scipy
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data
import encoders
import metrics
import train  # a circle, for train.main ends with us: neither uses the other while imported
from ddim_translator import EpsTheta, Translator
from encoders import DIRECTIONS
from latent_bridge import Noise, kind_of

PAPER = {  # trained on, tested on: (Sim_img, Sim_txt), both sides CLIP ViT-B/32; MT Tables 2 and 4
    ("coco", "coco"): (0.8233, 0.8394),
    ("cc3m", "cc3m"): (0.7443, 0.7389),
    ("coco", "celeba"): (0.5974, 0.8237),
}
TABLE_3 = {  # encoders of images, of texts: (Sim_img, Sim_txt), COCO; MT swaps the column heads
    "clip:ViT-L-14-quickgelu,clip:ViT-L-14-quickgelu": (0.8192, 0.7765),
    "clip:ViT-L-14-quickgelu,bert": (0.7796, 0.9745),
    "dinov2,clip:RN50x4-quickgelu": (0.5207, 0.7917),
}
TABLE_5 = """MT, COCO, CLIP RN50x4, B@1, B@4, R-L: ours + CapDec 67.7, 25.5, 48.7; ours + ClipCap
65.9, 23.6, 47.7; CapDec itself 69.2, 26.4, 51.8; ClipCap itself 74.7, 33.5, -"""
TABLE_6 = "MT, ViT-B/32: CLIP itself 0.697, translated 0.607; ViT-L/14: 0.851, 0.771"
TABLE_7 = {  # trained and tested on COCO, both sides CLIP ViT-B/32
    "text->image": "MT: projection only 0.8199, ddim only 0.6155, both 0.8233",
    "image->text": "MT: projection only 0.8386, ddim only 0.6280, both 0.8394",
}
COLUMN = {"iou": 0, "one_nna": 1, "psnr": 2, "ssim": 3, "fid": 4}  # of POSTER
POSTER = {  # LD's ablations: ShapeNet IoU, 1-NNA, CelebA-HQ PSNR, SSIM, LPIPS (ours beside it: FID)
    "lddbm-design": {
        "unet": (0.635, 0.518, 23.2, 0.57, 0.42),
        "dit": (0.613, 0.548, 22.2, 0.52, 0.49),
        "encoder-decoder": (0.651, 0.518, 23.4, 0.53, 0.38),
        "spatial": (0.658, 0.522, 22.9, 0.56, 0.41),
        "mask": (0.664, 0.508, 25.6, 0.68, 0.32),
    },
    "lddbm-losses": {
        "rec": (0.609, 0.625, 20.5, 0.49, 0.62),
        "pred": (0.643, 0.522, 23.7, 0.64, 0.41),
        "rec+nce": (0.627, 0.578, 21.4, 0.51, 0.63),
        "pred+nce": (0.664, 0.508, 25.6, 0.68, 0.32),
    },
    "lddbm-training": {
        "two-step": (0.637, 0.522, 23.3, 0.58, 0.40),
        "end-to-end": (0.642, 0.517, 23.4, 0.57, 0.39),
        "iterative": (0.664, 0.508, 25.6, 0.68, 0.32),
    },
}
SPEED = "poster, edges2handbags: latent FID 4.17 in 7.8 s, data space (DDBM) 2.93 in 16.9 s"
REPRODUCE_STEPS = {"glyph-sr": 300, "glyph-solids": 300}  # 10 to 15 minutes a table on two cores
SAMPLES = 8  # of which the mean is taken
AS_OURS = {"bridge": ("ours", "_mean8"), "bridge, one sample": ("ours", "")}  # in bridge.json
NFES, HEUN_STEPS = (1, 2, 3, 5, 10, 20, 50), (5, 10, 20, 40)
SAMPLERS = {"DBIM 1": {}, "DBIM 2": {"order": 2}, "DBIM 3": {"order": 3}}
SAMPLERS |= {"DBIM eta 1": {"eta": 1.0}, "Heun": {"sampler": "heun"}}
FID = "FID: 128 PCA features, fitted on at most 5,000 training targets"
NOTES = {
    "image": f"PSNR and SSIM in [-1, 1]; {FID}",
    "volume": "occupied: above 0; 1-NNA by Chamfer",
    "vector": FID,
}
DIGITS = {"psnr": 2, "fid": 2}
PANELS = {"image": ("psnr", "fid"), "volume": ("iou", "one_nna"), "vector": ("cosine", "fid")}
SCRIPTS = {  # ten classes of glyphs: the word that opens a character's name -> the prompt's words
    "latin": "latin letter",
    "greek": "greek letter",
    "cyrillic": "cyrillic letter",
    "arabic": "arabic letter",
    "armenian": "armenian letter",
    "georgian": "georgian letter",
    "canadian": "canadian syllabics",
    "braille": "braille pattern",
    "box": "box drawings",
    "lisu": "lisu letter",
}
NO_DECODER = "this image encoder has no decoder: pca has one, --karlo is one for CLIP ViT-L/14"
FACE_WORDS = set(" ".join(data.FACES.values()).split())  # they come before the name


class EvaluateError(ValueError):
    """One line: what went wrong, where, what to do."""


# ---------------------------------------------------------------------------------------------
# A trained run, and what it is tested on


def checkpoint(folder):
    """RUN/model.pt as train.py left it. EvaluateError for a foreign one, TrainError: unreadable."""
    path = os.path.join(folder, "model.pt")
    saved = train.load(path)
    if not isinstance(saved, dict) or not {"args", "encoders", "sides"} <= saved.keys():
        raise EvaluateError(f"{path}: not a checkpoint of train.py")
    return saved


def kept(path, stamp):
    """What was trained and saved at `path` with this stamp; None if there is no such thing."""
    saved = train.load(path) if os.path.exists(path) else {}
    return saved if {k: saved.get(k) for k in stamp} == stamp else None


def averaged(ema):
    """The state dict of the averaged weights, those used, in a side of a checkpoint."""
    return {k.removeprefix("module."): v for k, v in ema.items() if k.startswith("module.")}


class Run:
    """RUN/model.pt read back: the arguments, the frozen encoders, one translator a direction.

    Raises EvaluateError for an unfinished or foreign checkpoint, TrainError for an unreadable one.
    """

    def __init__(self, folder, device, download=False):
        self.folder, self.device = folder, device
        saved = checkpoint(folder)
        self.args = argparse.Namespace(**saved["args"])
        self.gamma = {d: saved["sides"][d]["gamma"] for d in DIRECTIONS}
        if None in self.gamma.values():
            raise EvaluateError(f"{folder}: training has not ended; go on with train.py --resume")
        read = lambda state: encoders.from_state(state, device=device, download=download)
        self.E_image, self.E_text = (read(saved["encoders"][m]) for m in ("image", "text"))
        self.dims = {"text->image": (self.E_text.dim, self.E_image.dim)}
        self.dims["image->text"] = self.dims["text->image"][::-1]
        self.translators = {d: self.translator(d, saved["sides"][d]["ema"]) for d in DIRECTIONS}

    def translator(self, direction, ema):
        a = self.args
        shape = a.width, a.layers, a.dropout, a.T, a.predict, a.objective
        net = Translator(*self.dims[direction], *shape)
        net.load_state_dict(averaged(ema))
        return net.eval().to(self.device)

    def latents(self, split, dataset=None, data_dir=None):
        """(Split, Latents) of the run's own data set, or of another through the same encoders.

        Raises EvaluateError where the run has no encoder for it, or its widths are other ones."""
        a, name, options = self.args, dataset or self.args.dataset, {}
        if name == a.dataset:
            data_dir, options = data_dir or a.data_dir, train.data_options(a)
        elif "none" in (self.E_image.spec, self.E_text.spec):
            raise EvaluateError(f"{self.folder} was trained on latents: no encoder for {name}")
        s = data.load(name, data_dir, split, **options)
        latents = encoders.encode_split(s, self.E_image, self.E_text, a.cache_dir)
        found, ours = latents.dims("text->image"), self.dims["text->image"]
        if found != ours:
            raise EvaluateError(
                f"{name}: text and image latents are {found} wide, {self.folder} takes {ours}"
            )
        return s, latents

    def parts(self, direction, c, seed=0, **how):
        """(cM, F) for raw c (N, h1), in chunks; `how` overrides steps, omega, K of the run."""
        a, net = self.args, self.translators[direction]
        how = {"steps": a.ddim_steps, "omega": a.omega, "K": a.K, "randn": on_cpu(seed), **how}
        out = [net.parts(x.to(self.device), **how) for x in c.split(1024)]
        return [torch.cat(x).cpu() for x in zip(*out, strict=True)]

    def translate(self, direction, c, seed=0, gamma=None, **how):
        """z_hat of MT Eq. 5, raw (N, h2), for raw c (N, h1); gamma: the run's unless given."""
        cM, F = self.parts(direction, c, seed, **how)
        gamma = self.gamma[direction] if gamma is None else gamma
        return (cM + gamma * F) / self.translators[direction].z_scale.cpu()


def on_cpu(seed):
    """A randn that draws on the CPU: the same numbers whatever the device."""
    g = torch.Generator().manual_seed(seed)
    return lambda shape, device: torch.randn(shape, generator=g).to(device)


class Exam:
    """One direction of a test, over at most `limit` of the given rows of latents.pairs.

    queries (Q,), gallery (G,)   which rows of the latents they are
    c (Q, h1), z (G, h2)         their latents
    q, g, group (P,)             the pairs: query q belongs to item g; group: see `groups`
    pool                         the items that R@k ranks: at most `pool` of the gallery
    right                        {query: its right answers, as places in the pool}
    Cosines are means over pairs, R@k over the queries that have a right answer in the pool."""

    def __init__(self, latents, direction, rows, limit, pool):
        q, g = latents.pairs[rows].T
        source, target = latents.image, latents.text
        if direction == "text->image":
            q, g, source, target = g, q, target, source
        asked = np.random.default_rng(0).permutation(len(rows))[:limit]
        self.group = groups(q, g)[asked]
        self.queries, self.q = np.unique(q[asked], return_inverse=True)
        self.gallery, self.g = np.unique(g[asked], return_inverse=True)
        self.c = torch.from_numpy(source[self.queries])
        self.z = torch.from_numpy(target[self.gallery])
        self.pool = np.sort(np.random.default_rng(1).permutation(len(self.gallery))[:pool])
        # from all rows: a pair that was not drawn may still link a query and an item that were
        query, place = places(self.queries, q), places(self.gallery[self.pool], g)
        known, self.right = (query >= 0) & (place >= 0), {}
        for n, item in zip(query[known].tolist(), place[known].tolist(), strict=True):
            self.right.setdefault(n, []).append(item)

    def score(self, z_hat, mean):
        """The numbers of one row of a table; z_hat (Q, h2), mean (h2,) of the training targets."""
        ours, true, asked = z_hat[self.q], self.z[self.g], sorted(self.right)
        rank = metrics.ranks(z_hat[asked], self.z[self.pool], [self.right[n] for n in asked])
        return {
            "cosine": metrics.cosine(ours, true),
            "centred_cosine": metrics.centred_cosine(ours, true, mean),
            "unrelated_cosine": metrics.unrelated_cosine(ours, true, self.group),
            **{f"r{k}": metrics.recall_at_k(rank, k) for k in (1, 5, 10)},
            "pool": len(self.pool),
        }


def places(ids, x):
    """(len(x),) where in the sorted `ids` each x is, or -1."""
    where = np.searchsorted(ids, x).clip(max=len(ids) - 1)
    return np.where(ids[where] == x, where, -1)


def groups(q, g):
    """(P,) numbers: equal for pairs that share a query or an item, directly or through others.

    So five captions of one photo, or all photos of one class, are never "unrelated"."""
    n = q.max() + 1
    graph = coo_matrix((np.ones(len(q)), (q, n + g)), shape=[n + g.max() + 1] * 2)
    return connected_components(graph, directed=False)[1][q]


# ---------------------------------------------------------------------------------------------
# Baselines: what each answers to raw queries c (N, h1), fitted on the run's training pairs


def identity(c):
    """z_hat = c: CLIP's own cosine, and the paper's CLIP-GEN row. Needs equal widths."""
    return c


def noise(c, seed):
    """z_hat = normalize(c) / 4 + 3/4 of a random unit vector: Lafite's perturbation, MT's row."""
    u = torch.randn(c.shape, generator=torch.Generator().manual_seed(seed))
    return 0.25 * fn.normalize(c) + 0.75 * fn.normalize(u)


def ridge(c, z, c_val, z_val):
    """scikit-learn's Ridge, which has a bias; lambda by validation cosine. -> function of c."""
    c, z = c.double().numpy(), z.double().numpy()  # float32 loses the small directions of CLIP
    fits = [Ridge(lam).fit(c, z) for lam in 10.0 ** np.arange(-2, 4)]
    answer = lambda fit: lambda c: torch.from_numpy(fit.predict(c.double().numpy())).float()
    return max((answer(f) for f in fits), key=lambda f: metrics.cosine(f(c_val), z_val))


def knn(c, z, k=10, tau=0.05):
    """Mean target of the k most similar training conditions, weighted by softmax(cosine / tau)."""
    keys, k = fn.normalize(c), min(k, len(c))

    def answer(c):
        tops = [(fn.normalize(x) @ keys.T).topk(k) for x in c.split(512)]
        similar, i = (torch.cat(x) for x in zip(*tops, strict=True))
        return ((similar / tau).softmax(1)[:, :, None] * z[i]).sum(1)

    return answer


def mlp(run, latents, direction):
    """Regression by the run's own network: z_0 from c alone (z_t = 0, t = T), mean square error.

    The same batches, steps, learning rate and averaging as the run's; kept in RUN/mlp-*.pt and
    trained again if the run's arguments or data have changed. -> function of c."""
    a, twin = run.args, run.translators[direction]
    torch.manual_seed(a.seed)  # for the first weights and for dropout
    net = EpsTheta(*run.dims[direction], a.width, a.layers, a.dropout).to(run.device)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(a.ema))
    regress = lambda net, c: net(*blank(c, twin), twin.scale_c(c))
    path = os.path.join(run.folder, f"mlp-{direction.replace('->', '-to-')}.pt")
    means = [x.cpu().numpy() for x in (twin.c_mean, twin.z_mean)]
    trained = {k: v for k, v in vars(a).items() if k not in train.MAY_CHANGE}
    stamp = {"args": trained, "data": data.digest(*means)}
    if saved := kept(path, stamp):
        ema.load_state_dict(saved["ema"])
    else:
        train_mlp(run, latents, direction, net, ema, regress)
        train.save(path, {**stamp, "ema": ema.state_dict()})
    ema.eval()

    @torch.no_grad()
    def answer(c):
        out = torch.cat([regress(ema, x.to(run.device)) for x in c.split(4096)])
        return (out / twin.z_scale + twin.z_mean).cpu()

    return answer


def blank(c, twin):
    """z_t = 0 (B, h2) and t = T (B,): a z_t that says nothing about z_0."""
    return c.new_zeros(len(c), twin.h2), torch.full((len(c),), twin.T, device=c.device)


def train_mlp(run, latents, direction, net, ema, regress):
    a, twin = run.args, run.translators[direction]
    decay = a.weight_decay
    optimizer = torch.optim.AdamW(net.parameters(), a.lr, weight_decay=decay, fused=True)
    for step in tqdm(range(a.steps), f"mlp {direction}", disable=None):
        c, z, _ = train.draw_batch(latents, direction, step, a)
        z = (z.to(run.device) - twin.z_mean) * twin.z_scale
        for group in optimizer.param_groups:
            group["lr"] = train.lr_at(step, a)
        loss = (regress(net, c.to(run.device)) - z).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), a.clip)
        optimizer.step()
        ema.update_parameters(net)


class Baselines:
    """Every baseline of one direction, fitted once on (at most 200,000) full training pairs."""

    def __init__(self, run, direction, latents, validation, trained=("knn", "mlp"), most=200_000):
        rows = np.random.default_rng(0).permutation(latents.full)[:most]
        c, z = latents.of(direction, np.sort(rows))
        self.mean = z.mean(0)
        self.answers = {"mean": lambda c: self.mean.expand(len(c), -1)}
        self.answers["ridge"] = ridge(c, z, *validation.of(direction, validation.full))
        if run.dims[direction][0] == run.dims[direction][1]:
            self.answers["identity"] = identity
        if "knn" in (trained or ()):
            self.answers["knn"] = knn(c, z)
        if "mlp" in (trained or ()):
            self.answers["mlp"] = mlp(run, latents, direction)


def table_of(run, exam, direction, baselines, seeds):
    """{method: [z_hat of seed 0, 1, ...]}; methods without chance have one entry."""
    answers = {"ours": [run.translate(direction, exam.c, s) for s in seeds]}
    for name, answer in baselines.answers.items():
        answers[name] = [answer(exam.c)]
    if "identity" in answers:
        answers["noise"] = [noise(exam.c, s) for s in seeds]
    return answers


def rows_of(task, direction, exam, answers, mean, seeds):
    return [
        {"task": task, "direction": direction, "method": method}
        | exam.score(z_hat, mean)
        | {"seed": seed}
        for method, z_hats in answers.items()
        for seed, z_hat in zip(seeds, z_hats, strict=False)
    ]


# ---------------------------------------------------------------------------------------------
# The tables


class Report:
    """The rows of a table in RUN. Raises EvaluateError if the file there is not its own.

    key: which fields make a row replace older ones; show(rows, note) prints rows"""

    def __init__(self, folder, name="translation.json", key=("task", "direction"), show=None):
        self.path, self.rows = os.path.join(folder, name), []
        self.key, self.show = lambda row: [row[k] for k in key], show or print_table
        if os.path.exists(self.path):
            try:
                with open(self.path) as f:
                    self.rows = json.load(f)["rows"]
            except (ValueError, KeyError, TypeError):
                raise EvaluateError(f"{self.path}: not our table; move it away") from None

    def add(self, rows, note=""):
        """Print rows, and put them in the place of older ones."""
        self.show(rows, note)
        new = [self.key(r) for r in rows]
        self.rows = [r for r in self.rows if self.key(r) not in new] + rows
        write_json(self.path, {"rows": self.rows})


def write_json(path, value):
    with open(path + ".tmp", "w") as f:
        json.dump(value, f, indent=1)
    os.replace(path + ".tmp", path)


def spread(values, digits):
    """0.612, or 0.612 +- 0.003 where there are several seeds (sample standard deviation)."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


def print_table(rows, note=""):
    columns = ("cosine", "centred_cosine", "unrelated_cosine", "r1", "r5", "r10")
    titles = ("cosine", "centred", "unrelated", "R@1", "R@5", "R@10")
    task, direction, pool = (rows[0][k] for k in ("task", "direction", "pool"))
    print(f"\n{task}, {direction}; R@k of {pool}{note}")
    print(" " * 16 + "".join(f"{c:>18}" for c in titles))
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        cells = [spread([r[c] for r in mine], 3) for c in columns]
        print(f"{method:16}" + "".join(f"{c:>18}" for c in cells))


def is_papers(run):
    """Whether both encoders are those of MT's Tables 2, 4 and 7."""
    return {run.args.image_encoder, run.args.text_encoder} == {"clip:ViT-B-32-quickgelu"}


def paper_note(run, on, direction):
    """The published cosine, where our setting is the paper's."""
    key = run.args.dataset, on
    if not (is_papers(run) and key in PAPER):
        return ""
    return f"; the paper's cosine: {PAPER[key][DIRECTIONS.index(direction)]:.4f}"


def compare(bench, task, on, latents, rows):
    """Ours and every baseline, both directions, on rows of latents.pairs of the data set `on`."""
    for direction in DIRECTIONS:
        exam = Exam(latents, direction, rows, bench.limit, bench.pool)
        base = bench.baselines[direction]
        answers = table_of(bench.run, exam, direction, base, bench.seeds)
        table = rows_of(task, direction, exam, answers, base.mean, bench.seeds)
        bench.report.add(table, paper_note(bench.run, on, direction))


def similarity(bench):
    compare(bench, bench.label("similarity"), bench.on, bench.latents, bench.latents.full)


def bare(bench):
    if not len(bench.latents.bare):
        print("\nbare: skipped, no caption of this data set stands for several images")
    else:
        compare(bench, bench.label("bare"), "", bench.latents, bench.latents.bare)


def cross_domain(bench):
    if bench.other:
        compare(bench, bench.label("cross-domain"), bench.on, bench.latents, bench.latents.full)
    elif bench.on == "glyphs":
        _, stix = bench.run.latents("test", "glyphs-stix")
        compare(bench, "cross-domain glyphs-stix", "glyphs-stix", stix, stix.full)
    else:
        print("\ncross-domain: skipped, --on names the other data set")


def ablation(bench):
    """MT Table 7: each term of Eq. 5 alone, and both, at MT's gamma = 1 and at gamma auto."""
    run = bench.run
    for direction in DIRECTIONS:
        exam = bench.exam(direction)
        parts = [run.parts(direction, exam.c, s) for s in bench.seeds]
        scale, auto = run.translators[direction].z_scale.cpu(), run.gamma[direction]
        both = lambda gamma: [(cM + gamma * F) / scale for cM, F in parts]
        answers = {
            "projection only": [parts[0][0] / scale],
            "ddim only": [F / scale for _, F in parts],
            "both, gamma 1": both(1.0),
            "both": both(auto),
        }
        task, mean = bench.label("ablation"), bench.baselines[direction].mean
        rows = rows_of(task, direction, exam, answers, mean, bench.seeds)
        bench.report.add(rows, f'; gamma of "both": {auto:.2f}')
        if is_papers(run) and bench.on == run.args.dataset == "coco":
            print(TABLE_7[direction])


def curves(bench):
    """Validation cosine against gamma, omega, DDIM steps and K, the others at the run's values."""
    run, a, rows = bench.run, bench.run.args, bench.validation.full
    fig = Figure(figsize=(14, 3.3), layout="constrained")
    axes = fig.subplots(1, 4, sharey=True)
    sweeps = {
        "omega": (0, 0.5, 1, 2, 3, 5),
        "steps": (1, 2, 5, 10, 20),
        "K": (1, 2, 4, 8, 16, 32),
    }
    for direction in DIRECTIONS:
        c, z = bench.validation.of(direction, rows[:: -(-len(rows) // 300)])
        draw_gammas(axes[0], run, direction, c, z)
        for ax, (name, values) in zip(axes[1:], sweeps.items(), strict=True):
            y = [metrics.cosine(run.translate(direction, c, **{name: v}), z) for v in values]
            ax.plot(values, y, "o-", ms=3)
    axes[0].axvline(1, color="grey", lw=0.8, ls=":", label="gamma = 1 (MT)")
    axes[0].set(xscale="symlog", xlim=(0, None), xlabel="gamma (dots: auto)")
    axes[0].set(ylabel="cosine, validation")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].set(xlabel=f"omega (this run: {a.omega:g}; MT: 5)")
    axes[2].set(xscale="log", xlabel=f"DDIM steps (this run: {a.ddim_steps})")
    axes[3].set(xscale="log", xlabel=f"K samples (this run: {a.K})")
    bench.figure(fig, "curves")


def draw_gammas(ax, run, direction, c, z):
    cM, F = run.parts(direction, c)
    scale, auto = run.translators[direction].z_scale.cpu(), run.gamma[direction]
    gammas = sorted([0, *np.geomspace(0.1, 300, 60), auto])
    cosines = [metrics.cosine((cM + g * F) / scale, z) for g in gammas]
    line = ax.plot(gammas, cosines, label=direction)[0]
    ax.plot(auto, cosines[gammas.index(auto)], "o", color=line.get_color())


def classification(bench):
    """MT Table 6: an image's translated text latent -> the nearest "a picture of a {class}"."""
    classes, prompts, label, images = bench.classes()
    if not len(label):
        return print("\nclassification: no classes are defined for this data set; try --on cifar10")
    run, direction = bench.run, "image->text"
    prompts = torch.from_numpy(run.E_text(prompts))
    answers = {"ours": [run.translate(direction, images, s) for s in bench.seeds]}
    answers |= {name: [f(images)] for name, f in bench.baselines[direction].answers.items()}
    nearest = lambda z: (fn.normalize(z) @ fn.normalize(prompts).T).argmax(1)
    out = {m: [metrics.accuracy(nearest(z), label) for z in zs] for m, zs in answers.items()}
    out["most frequent class"] = [np.bincount(label).max() / len(label)]
    print(f"\nclassification of {len(label)} images, {len(classes)} classes: accuracy")
    for method, values in out.items():
        print(f"{method:20} {spread(values, 3)}")
    if bench.on == "cifar10":
        print(TABLE_6)
    counts = {c: int((label == k).sum()) for k, c in enumerate(classes)}
    table = {"dataset": bench.on, "classes": counts, "accuracy": out, "seeds": bench.seeds}
    write_json(bench.path("classification", ".json"), table)


# ---------------------------------------------------------------------------------------------
# The pictures


def show(ax, image, title="", colour=None):
    """image: a PIL image, or floats in [0, 1], (H, W) or (H, W, 3)."""
    pixels = np.asarray(image)
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255 if pixels.dtype == np.uint8 else 1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=7)
    for side in ax.spines.values():
        side.set(visible=colour is not None, color=colour, linewidth=2)


def write(ax, caption):
    ax.axis("off")
    style = dict(ha="right", va="center", fontsize=8)
    ax.text(1.0, 0.5, textwrap.fill(caption, 26), **style, parse_math=False)  # "$" is a dollar


def grid(lines, columns, size):
    fig = Figure(figsize=(2 + size * columns, size * lines + 0.3))
    return fig, fig.subplots(lines, columns, squeeze=False)


def retrieval(bench, queries=8, k=5):
    """MT Fig. 3b: captions and the five images nearest to their translations; green is right."""
    if not bench.has_images():
        return print("\nretrieval: skipped, the run knows latents and no images")
    exam, base = bench.exam("text->image"), bench.baselines["text->image"].answers
    asked = sorted(exam.right)[:: max(1, len(exam.right) // queries)][:queries]
    methods = {"ours": lambda c: bench.run.translate("text->image", c)}
    methods |= {name: base[name] for name in ("ridge", "identity") if name in base}
    pool, k = fn.normalize(exam.z[exam.pool]), min(k, len(exam.pool))
    tops = [(fn.normalize(f(exam.c[asked])) @ pool.T).topk(k).indices for f in methods.values()]
    fig, axes = grid(len(asked), 1 + k * len(methods), 0.8)
    for line, query, found in zip(axes, asked, torch.cat(tops, 1).tolist(), strict=True):
        write(line[0], bench.test.captions[int(exam.queries[query])])
        for ax, place in zip(line[1:], found, strict=True):
            image = bench.test.images[int(exam.gallery[exam.pool[place]])]
            show(ax, image, colour="limegreen" if place in exam.right[query] else "lightgrey")
    for ax, name in zip(axes[0, 1::k], methods, strict=True):
        ax.set_title(name, fontsize=8, loc="left")
    axes[0, 0].set_title(f"top {k} of {len(exam.pool)}", fontsize=8)
    bench.figure(fig, bench.label("retrieval"))


def pictures(bench):
    """MT Fig. 3a: held-out captions drawn as images; then bare names, which leave the face open."""
    if not bench.decode:
        return print(f"\npictures: skipped, {NO_DECODER}")
    draw_pictures(bench, bench.label("text-to-image"), bench.latents.full)
    if len(bench.latents.bare):
        draw_pictures(bench, bench.label("text-to-image-bare"), bench.latents.bare)


def draw_pictures(bench, file, rows, lines=8, samples=5):
    run, net, test = bench.run, bench.run.translators["text->image"], bench.test
    rows = rows[np.random.default_rng(3).permutation(len(rows))[:lines]]
    c, z = bench.latents.of("text->image", rows)
    how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega, randn=on_cpu(0))
    columns = {"true, decoded": z, "ridge": bench.baselines["text->image"].answers["ridge"](c)}
    # Eq. 5 with a normalised F gives z_hat a direction and no length: the samples' mean lends its
    length = net.sample(c.to(run.device), K=run.args.K, **how).cpu().norm(dim=1, keepdim=True)
    columns["ours, z_hat"] = fn.normalize(run.translate("text->image", c)) * length
    for n in range(samples):
        columns[f"sample {n + 1}"] = net.sample(c.to(run.device), **how).cpu()
    drawn = {name: bench.decode(x) for name, x in columns.items()}
    fig, axes = grid(len(rows), len(columns) + 2, 1.0)
    for n, (line, (i, j)) in enumerate(zip(axes, bench.latents.pairs[rows].tolist(), strict=True)):
        write(line[0], test.captions[j])
        show(line[1], test.images[i], "" if n else "true")
        for ax, (name, images) in zip(line[2:], drawn.items(), strict=True):
            show(ax, images[n], "" if n else name)
    bench.figure(fig, file)


# ---------------------------------------------------------------------------------------------
# Images from captions, judged: MT Fig. 3a


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, in torch.hub's folder


def judge(bench):
    """(name, see); see(PIL images) -> (features (N, d) for FID, class probabilities for IS).

    Inception is the field's. It needs the package torch-fidelity and its weights; without them a
    small network trained on the run's own images takes its place, good for comparing rows."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION)
    if importlib.util.find_spec("torch_fidelity") and (os.path.exists(file) or bench.download):
        return "Inception", inception(file if os.path.exists(file) else None, bench.run.device)
    net, mode = small_judge(bench)

    def look(x):
        f = net[0](planes(x))
        return f, net[1](f)

    prepare = lambda image: encoders.thumbnail(image, mode)
    name = f"a small network that tells {net[1].out_features} kinds of caption apart"
    return name, in_batches(prepare, look, bench.run.device)


def inception(file, device):
    name = "torch_fidelity.feature_extractor_inceptionv3"
    Net = importlib.import_module(name).FeatureExtractorInceptionV3
    net = Net("inception-v3-compat", ["2048", "logits_unbiased"], file).to(device).eval()
    square = lambda image: np.asarray(ImageOps.fit(image.convert("RGB"), (256, 256)))
    return in_batches(square, lambda x: net(x.movedim(3, 1)), device)


def in_batches(prepare, look, device, size=64):
    """see(PIL images) of a judge whose look(uint8 pixels (n, ...)) is (features, class logits)."""

    @torch.no_grad()
    def see(images):
        f, p = [], []
        for start in range(0, len(images), size):
            x = np.stack([prepare(image) for image in images[start : start + size]])
            features, logits = look(torch.from_numpy(x).to(device))
            f.append(features.cpu()), p.append(logits.softmax(1).cpu())
        return torch.cat(f), torch.cat(p)

    return see


def planes(x):
    """uint8 (B, H, W) or (B, H, W, 3) -> float (B, 1 or 3, H, W) in [0, 1]."""
    return (x[:, None] if x.ndim == 3 else x.movedim(3, 1)).float() / 255


def small_judge(bench, kinds=20, steps=600, most=50_000):
    """(network, mode of its images): three convolutions, trained once and kept in RUN/judge.pt.

    No labels are needed: the kinds are clusters (k-means) of the training captions' latents."""
    run, latents = bench.run, bench.training
    rows = latents.full[encoders.sample(len(latents.full), most)]
    i, j = latents.pairs[rows].T
    unit = fn.normalize(torch.from_numpy(latents.text[j])).numpy()
    kinds = min(kinds, len(np.unique(unit, axis=0)))
    mode = "L" if bench.train_set.images[int(i[0])].mode == "L" else "RGB"
    torch.manual_seed(0)
    conv = lambda a, b: (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.SiLU())
    body = nn.Sequential(*conv(len(mode), 32), *conv(32, 64), *conv(64, 128))
    body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    net = nn.Sequential(body, nn.Linear(128, kinds)).to(run.device)
    path, stamp = os.path.join(run.folder, "judge.pt"), {"key": bench.train_set.key, "mode": mode}
    stamp["kinds"] = [kinds, run.E_text.fingerprint]
    if saved := kept(path, stamp):
        net.load_state_dict(saved["net"])
        return net.eval(), mode
    label = KMeans(kinds, n_init=1, random_state=0).fit_predict(unit)
    x = [encoders.thumbnail(bench.train_set.images[n], mode) for n in i.tolist()]
    x, label = torch.from_numpy(np.stack(x)), torch.from_numpy(label).long()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in tqdm(range(steps), "judge", disable=None):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        b = torch.randint(len(x), (128,))
        loss = fn.cross_entropy(net(planes(x[b].to(run.device))), label[b].to(run.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    train.save(path, {**stamp, "net": net.state_dict()})
    return net.eval(), mode


def text_to_image(bench):
    """FID, IS and R-precision of images drawn from held-out captions.

    The captions are of one half of the test pairs, the real images that FID compares with of the
    other, so that real images have a FID too: its floor at this number. R-precision: the share of
    drawings that are nearer to their own image than to 99 others, by the judge's features."""
    if not bench.decode:
        return print(f"\ntext-to-image: skipped, {NO_DECODER}")
    run, net = bench.run, bench.run.translators["text->image"]
    first = np.unique(bench.latents.pairs[bench.rows, 0], return_index=True)[1]
    rows = bench.rows[np.sort(first)]  # each image once, so that the halves share none
    half = len(rows) // 2
    if half < 4:
        return print(f"\ntext-to-image: skipped, {len(rows)} test images are too few")
    asked, others = rows[:half], rows[half : 2 * half]
    name, see = judge(bench)
    real = lambda rows: see([bench.test.images[i] for i in bench.latents.pairs[rows, 0].tolist()])
    (truth, p_truth), (other, _) = real(asked), real(others)
    c, z = bench.latents.of("text->image", asked)
    how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega)
    sample = lambda s: net.sample(c.to(run.device), randn=on_cpu(s), **how).cpu()
    base = bench.baselines["text->image"].answers
    drawn = {"ours, a sample": [see(bench.decode(sample(s))) for s in bench.seeds]}
    drawn["ridge"] = [see(bench.decode(base["ridge"](c)))]
    drawn["image of the nearest caption"] = [see(bench.decode(bench.nearest("text->image", c)))]
    drawn["real, through the decoder"], drawn["real"] = [see(bench.decode(z))], [(truth, p_truth)]
    marks = lambda f, p: {
        "fid": metrics.frechet(f, other),
        "fid_half": metrics.frechet(f[: half // 2], other[: half // 2]),
        "is": metrics.inception_score(p, 1)[0],
        "is_half": metrics.inception_score(p[: half // 2], 1)[0],
        "r_precision": r_precision(f, truth),
    }
    table = {m: [marks(*seen) for seen in seeds] for m, seeds in drawn.items()}
    print(f"\n{bench.label('text-to-image')}: {half} captions, judge: {name}")
    print_marks_of(table, ("fid", "fid_half", "is", "is_half", "r_precision"), (2, 2, 3, 3, 3))
    note = {"judge": name, "images": half, "seeds": bench.seeds}
    write_json(bench.path("text-to-image", ".json"), {**note, "rows": table})


def r_precision(f, truth, n=100):
    """Share of rows n whose cosine to truth[n] exceeds that to 99 other rows of it; (N, d) both."""
    similar, N = fn.normalize(f) @ fn.normalize(truth).T, len(f)
    g = torch.Generator().manual_seed(0)
    other = torch.stack([torch.randperm(N - 1, generator=g)[: n - 1] for _ in range(N)])
    other += other >= torch.arange(N)[:, None]  # jumps over the row's own
    return (similar.diag()[:, None] > similar.gather(1, other)).all(1).double().mean().item()


def print_marks_of(table, names, digits):
    """table: {method: [{metric: value} of seed 0, 1, ...]}"""
    print(" " * 30 + "".join(f"{n:>18}" for n in names))
    for method, seeds in table.items():
        cells = (spread([s[n] for s in seeds], d) for n, d in zip(names, digits, strict=True))
        print(f"{method:30}" + "".join(f"{c:>18}" for c in cells))


# ---------------------------------------------------------------------------------------------
# Captions of images: MT Table 5, Fig. 4


def captioner(bench, name, noise):
    """A decoder of latents into words, trained on the run's captions once; kept in RUN/NAME.pt.

    "capdec": trained on text latents with noise, without images; "clipcap": on image latents."""
    run, latents, captions = bench.run, bench.training, bench.train_set.captions
    pairs = latents.pairs[latents.full]
    texts, images = (latents.text, pairs[:, [1, 1]]), (latents.image, pairs)
    source, rows = {"capdec": texts, "clipcap": images}[name]
    stamp = {"data": bench.train_set.key, "lm": bench.lm, "noise": noise}
    stamp["encoders"] = [run.E_image.fingerprint, run.E_text.fingerprint]
    path = os.path.join(run.folder, f"{name}.pt")
    if saved := kept(path, stamp):
        return encoders.captioner_from_state(saved["captioner"], run.device)
    words = [captions[j] for j in pairs[encoders.sample(len(pairs), 500_000), 1].tolist()]
    made = encoders.make_captioner(len(source[0]), bench.lm, words, bench.download)
    encoders.fit_captioner(made.to(run.device), source, captions, rows, noise, desc=name)
    train.save(path, {**stamp, "captioner": made.state()})
    return made.eval()


def captioning(bench):
    """MT Table 5: image -> its text latent, translated -> words; and other ways to a caption.

    CapDec reads text latents. ClipCap reads image latents: where both have one width it is given
    the translation itself, as in MT, else the translation's translation back."""
    if not bench.has_images():
        return print("\ncaptioning: skipped, the run knows latents and no captions")
    run, there, back = bench.run, "image->text", "text->image"
    images = np.unique(bench.latents.pairs[bench.rows[: bench.captions], 0])
    references = {i: [] for i in images.tolist()}
    for i, j in bench.latents.pairs[bench.latents.full].tolist():
        if i in references:
            references[i].append(j)
    c = torch.from_numpy(bench.latents.image[images])
    true = torch.from_numpy(bench.latents.text[[references[i][0] for i in images.tolist()]])
    c_val, z_val = bench.validation.of(there, bench.validation.full[:2000])
    level = encoders.noise_level(run.translate(there, c_val), z_val)
    noise = round(level / 2, 4) if bench.noise is None else bench.noise
    capdec, clipcap = captioner(bench, "capdec", noise), captioner(bench, "clipcap", 0.0)
    z_hats = [run.translate(there, c, s) for s in bench.seeds]
    equal = c.shape[1] == true.shape[1]
    as_image = (lambda z: z) if equal else (lambda z: run.translate(back, z))
    answers = {
        "ours + CapDec": [capdec.generate(z) for z in z_hats],
        "ours + ClipCap": [clipcap.generate(as_image(z)) for z in z_hats],
        "ours + nearest caption": [bench.nearest_captions(z) for z in z_hats],
        "ClipCap, no translator": [clipcap.generate(c)],
        **({"CapDec, no translator": [capdec.generate(c)]} if equal else {}),
        "caption of the nearest image": [bench.nearest_captions(c, "image")],
        "CapDec of the true latent": [capdec.generate(true)],
    }
    words = [[bench.test.captions[j] for j in references[i]] for i in images.tolist()]
    tokens = [[metrics.caption_tokens(w) for w in refs] for refs in words]
    table = {m: [caption_marks(texts, tokens) for texts in seeds] for m, seeds in answers.items()}
    how = f"CapDec's noise {noise:.4f}, the translator's error {level:.4f} a coordinate"
    print(f"\n{bench.label('captioning')}: {len(images)} images; {how}")
    print_marks_of(table, ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"), (1,) * 5)
    if bench.on == run.args.dataset == "coco":
        print(TABLE_5)
    note = {"images": len(images), "noise": noise, "lm": bench.lm, "seeds": bench.seeds}
    write_json(bench.path("captioning", ".json"), {**note, "rows": table})
    draw_captions(bench, images, {m: seeds[0] for m, seeds in answers.items()}, words, tokens)


def caption_marks(texts, references):
    """{metric: in percent, as captioning papers print them}"""
    said = [metrics.caption_tokens(t) for t in texts]
    marks = {f"bleu{n + 1}": 100 * b for n, b in enumerate(metrics.bleu(said, references))}
    return {**marks, "rouge_l": 100 * metrics.rouge_l(said, references)}


KINDS = {"right": 1.0, "similar": 0.7, "confused": 0.4, "other": 0.0}  # ROUGE-L of at least


def draw_captions(bench, images, answers, words, tokens, each=2):
    """MT Fig. 4, by ROUGE-L of "ours + CapDec": a picture of a few, a text file of all."""
    ours = [metrics.caption_tokens(t) for t in answers["ours + CapDec"]]
    marks = [metrics.rouge_l([o], [refs]) for o, refs in zip(ours, tokens, strict=True)]
    kind = [next(k for k, least in KINDS.items() if m >= least - 1e-9) for m in marks]
    order = np.random.default_rng(0).permutation(len(images))
    chosen = [[n for n in order if kind[n] == k][:each] for k in KINDS]
    chosen = [int(n) for some in chosen for n in some]
    share = {k: kind.count(k) / len(kind) for k in KINDS}
    fig = Figure(figsize=(8, 0.95 * len(chosen)), layout="constrained")
    axes = fig.subplots(len(chosen), 2, squeeze=False, width_ratios=(1, 8))
    shown = ("ours + CapDec", "ours + ClipCap", "caption of the nearest image")
    for (left, right), n in zip(axes, chosen, strict=True):
        show(left, bench.test.images[int(images[n])])
        lines = [f"{kind[n].upper()}, {share[kind[n]]:.0%} of {len(images)}"]
        lines += [f"{m}: {answers[m][n]}" for m in shown] + [f"reference: {words[n][0]}"]
        right.axis("off")
        right.text(0, 0.5, "\n".join(lines), va="center", fontsize=8, parse_math=False)
    bench.figure(fig, bench.label("captioning"))
    with open(bench.path("captions", ".txt"), "w", encoding="utf-8") as f:
        for n, i in enumerate(images.tolist()):
            says = [f"  {m}: {answers[m][n]}" for m in shown]
            says += [f"  reference: {w}" for w in words[n]]
            print(f"image {getattr(bench.test.images, 'name', str)(i)}", *says, sep="\n", file=f)


# ---------------------------------------------------------------------------------------------
# Where the latents lie


def gap(bench):
    """The modality gap (Liang et al. 2022) of two encoders of one width, and after translation."""
    run, exam = bench.run, bench.exam("text->image")
    if exam.c.shape[1] != exam.z.shape[1]:
        return print("\ngap: skipped, image and text latents have different widths")
    text, image = fn.normalize(exam.c[exam.q]), fn.normalize(exam.z[exam.g])
    moved = fn.normalize(run.translate("text->image", exam.c)[exam.q])
    print(
        f"\n{bench.label('gap')}: unit latents of {len(image)} pairs; |mean image| "
        f"{image.mean(0).norm():.3f}"
    )
    table = {"text": [gap_of(text, image, exam)], "text, translated": [gap_of(moved, image, exam)]}
    print_marks_of(table, ("paired", "unpaired", "distance", "mean_norm"), (3,) * 4)
    some, across = slice(0, 300), fn.normalize(image.mean(0) - text.mean(0), dim=0)
    along = PCA(1).fit(image - (image @ across)[:, None] * across).components_[0]
    plane = torch.stack([across, torch.from_numpy(along).float()], 1)  # (h, 2)
    fig = Figure(figsize=(9, 4.2), layout="constrained")
    axes, both = fig.subplots(1, 2, sharex=True, sharey=True), {"before": text, "after": moved}
    for ax, (title, x) in zip(axes, both.items(), strict=True):
        a, b = ((v[some] @ plane).numpy() for v in (image, x))
        ax.plot(*np.stack([a, b], 1).transpose(2, 1, 0), color="lightgrey", lw=0.4)
        ax.plot(*a.T, ".", ms=4, label="image")
        ax.plot(*b.T, ".", ms=4, label="text" if title == "before" else "text, translated")
        ax.set(xlabel="along the gap", title=f"{title} translation; lines join pairs")
        ax.legend(frameon=False)
    axes[0].set_ylabel("first principal direction")
    bench.figure(fig, bench.label("gap"))


def gap_of(x, image, exam):
    return {
        "paired": (x * image).sum(1).mean().item(),
        "unpaired": metrics.unrelated_cosine(x, image, exam.group),
        "distance": (x.mean(0) - image.mean(0)).norm().item(),
        "mean_norm": x.mean(0).norm().item(),
    }


# ---------------------------------------------------------------------------------------------
# MT Table 3: pairs of encoders


def encoder_table(args, device):
    """Train a translator for each of --pairs; print its cosines beside mean's and ridge's."""
    dataset, rows = args.on or "glyphs", {}
    for pair in args.pairs:
        image, text = pair.split(",")
        name = re.sub("[^A-Za-z0-9.]+", "-", f"{dataset}-{image}-{text}").strip("-")
        argv = ["--dataset", dataset, "--image-encoder", image, "--text-encoder", text]
        argv += ["--out", f"runs/pairs/{name}"] + ["--download"] * args.download
        for flag, value in {"--steps": args.steps, "--data-dir": args.data_dir}.items():
            argv += [flag, str(value)] if value else []
        bench = Bench(Run(folder_of(argv, device), device, args.download), args)
        similarity(bench)
        rows[pair] = [r for r in bench.report.rows if r["task"] == "similarity"]
    print(f"\nMT Table 3, {dataset}; cosine (mean's, ridge's); in brackets MT on COCO")
    width = max(map(len, rows)) + 2
    print(f"{'image, text encoder':{width}}{'Sim_img':>34}{'Sim_txt':>34}")
    for pair, found in rows.items():
        cells = []
        for n, direction in enumerate(DIRECTIONS):
            mine = [r for r in found if r["direction"] == direction]
            of = lambda method: spread([r["cosine"] for r in mine if r["method"] == method], 3)
            cell = f"{of('ours')} ({of('mean')}, {of('ridge')})"
            cells.append(cell + (f" [{TABLE_3[pair][n]}]" if pair in TABLE_3 else ""))
        print(f"{pair:{width}}" + "".join(f"{c:>34}" for c in cells))
    write_json("runs/pairs/table.json", {"dataset": dataset, "rows": rows})


# ---------------------------------------------------------------------------------------------
# The translator's tasks


class Bench:
    """A run, its test data (or those of --on), its baselines, and where results go."""

    def __init__(self, run, args):
        self.run, self.limit, self.pool = run, args.limit or 5000, args.pool
        self.lm, self.noise, self.download = args.lm, args.noise, args.download
        self.captions = args.limit or 1000
        self.seeds, self.report = list(range(args.seeds)), Report(run.folder)
        self.on = args.on or run.args.dataset
        self.other = self.on != run.args.dataset
        self.test, self.latents = run.latents("test", self.on, args.data_dir)
        home = None if self.other else args.data_dir
        self.train_set, self.training = run.latents("train", None, home)
        self.validation = run.latents("val", None, home)[1]
        order = np.random.default_rng(0).permutation(len(self.latents.full))
        self.rows = self.latents.full[order[: self.limit]]
        trained = () if args.first_look or args.pairs else ("knn", "mlp")
        fit = lambda d: Baselines(run, d, self.training, self.validation, trained)
        self.baselines = {d: fit(d) for d in DIRECTIONS}
        self.karlo = args.karlo

    def headline(self):
        a, n = self.run.args, len(self.latents.full)
        how = (
            f"K {a.K}, {a.ddim_steps} DDIM steps, omega {a.omega:g}; {len(self.seeds)} noise seeds"
        )
        return f"{self.run.folder} on {self.on}: {n} test pairs; ours: {how}"

    def label(self, task):
        return f"{task} {self.on}" if self.other else task

    def exam(self, direction):
        return Exam(self.latents, direction, self.latents.full, self.limit, self.pool)

    def has_images(self):
        return self.run.E_image.spec != "none"

    @cached_property
    def decode(self):
        """Raw image latents (N, h) -> PIL images; None if there is no decoder."""
        decode = self.run.E_image.decode
        if self.karlo:
            return encoders.karlo(self.karlo, self.run.E_image, self.run.device, self.download)
        if decode:
            to_pil = lambda x: Image.fromarray((255 * x).round().astype(np.uint8))
            return lambda z: [to_pil(x) for x in decode(np.asarray(z))]

    def nearest_rows(self, direction, c):
        """(n,) rows of training.pairs whose condition is most similar to each of c (n, h1)."""
        rows = self.training.full[encoders.sample(len(self.training.full), 200_000)]
        keys = fn.normalize(self.training.of(direction, rows)[0])
        return rows[torch.cat([(fn.normalize(x) @ keys.T).argmax(1) for x in c.split(512)]).numpy()]

    def nearest(self, direction, c):
        return self.training.of(direction, self.nearest_rows(direction, c))[1]

    def nearest_captions(self, z, of="text"):
        """The training captions whose text latent, or whose image's latent, is nearest to z."""
        direction = "text->image" if of == "text" else "image->text"
        j = self.training.pairs[self.nearest_rows(direction, z), 1]
        return [self.train_set.captions[k] for k in j.tolist()]

    def path(self, task, ending):
        return os.path.join(self.run.folder, self.label(task).replace(" ", "-") + ending)

    def figure(self, fig, name):
        path = os.path.join(self.run.folder, name.replace(" ", "-") + ".png")
        fig.savefig(path, dpi=110, bbox_inches="tight")
        print(f"saved {path}")

    def classes(self):
        """(class names, prompts, labels (N,), image latents (N, h1)); N = 0: there are none."""
        i, label = self.latents.pairs[self.latents.full].T
        names, prompts = [], []
        if self.on == "cifar10":  # caption j is the prompt of class j
            prompts = list(self.test.captions)
            names = [p.split()[-1] for p in prompts]
        elif self.on.startswith("glyphs"):
            names = list(SCRIPTS.values())
            prompts = [f"a picture of a {n}" for n in names]
            label = np.array([script(self.test.captions[j]) for j in label.tolist()])
        kept = (label >= 0) & bool(names)
        return names, prompts, label[kept], torch.from_numpy(self.latents.image[i[kept]])


def script(caption):
    """Which of SCRIPTS "serif bold greek small letter alpha" is of, or -1."""
    first = next(word for word in caption.split() if word not in FACE_WORDS)
    return list(SCRIPTS).index(first) if first in SCRIPTS else -1


TASKS = {
    "similarity": similarity,
    "bare": bare,
    "cross-domain": cross_domain,
    "ablation": ablation,
    "curves": curves,
    "classification": classification,
    "retrieval": retrieval,
    "pictures": pictures,
    "text-to-image": text_to_image,
    "captioning": captioning,
    "gap": gap,
}


# ---------------------------------------------------------------------------------------------
# The bridge (paper 2): a trained run, the runs beside it, the questions that they are asked


class BridgeRun:
    """RUN/model.pt of `--model bridge`: the arguments, one Bridge a direction, averaged weights.

    Raises EvaluateError for an unfinished or foreign checkpoint, TrainError for an unreadable one.
    """

    def __init__(self, folder, device, data_dir=None, download=False):
        self.folder, self.device = folder, device
        saved = checkpoint(folder)
        self.args = argparse.Namespace(**saved["args"])
        self.args.data_dir = data_dir or self.args.data_dir
        if not saved.get("finished"):
            raise EvaluateError(f"{folder}: training has not ended; go on with train.py --resume")
        read = lambda state: encoders.from_state(state, device=device, download=download)
        self.encoders = {m: read(state) for m, state in saved["encoders"].items()}
        self.bridges = {d: self.bridge(side) for d, side in saved["sides"].items()}
        self.dims = {d: (b.y_shape[0], b.x_shape[0]) for d, b in self.bridges.items()}

    def bridge(self, side):
        net = train.make_bridge(self.args, *side["shapes"])
        try:
            net.load_state_dict(averaged(side["ema"]))
        except RuntimeError:
            raise EvaluateError(f"{self.folder}: made by another latent_bridge.py") from None
        net.eval().to(self.device)
        net.sample(torch.zeros(2, *net.y_shape, device=self.device))  # first calls are slow
        return net

    def pairs(self, split, direction):
        found = (self.encoders.get(m) for m in ("image", "text"))
        return train.bridge_pairs(self.args, split, *found)[direction]


def argv_of(args, **changes):
    """A command line of train.py that gives these arguments, but for the changes."""
    argv, yes_no = [], ("cosine", "data_space")
    for name, value in {**vars(args), **changes, "resume": False, "overwrite": False}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            argv += ["--" + flag] if value else ["--no-" + flag] if name in yes_no else []
        elif value is not None:
            argv += ["--" + flag, str(value)]
    return argv


def trained(argv, device):
    return BridgeRun(folder_of(argv, device), device)


def folder_of(argv, device):
    """Where train.py, with this command line, left its run: there already, gone on with, or now.

    One with other settings is of an earlier run in this folder: it is trained again."""
    args = train.parse([*argv, "--device", str(device)])
    path = os.path.join(args.out, "model.pt")
    if os.path.exists(path):
        try:
            args.amp = train.choose_amp(args.amp, device)
            train.check_resumable(path, train.load(path), args)
            args.resume = True
        except train.TrainError:
            args.overwrite = True
    train.run(args)
    return args.out


class Questions:
    """At most `limit` held-out pairs, always the same, and the marks of answers to them.

    y, x     raw items (N, *shape), or those given
    truth    x as the bridge scales it: images in [-1, 1], voxels -1 or 1. Answers are like it
    kind     "image", "volume" (of voxels) or "vector" (all else)
    An answer is a function (y, x) -> (B, *x_shape)."""

    def __init__(self, run, limit, direction=None, items=None):
        self.run, self.direction = run, direction or next(iter(run.bridges))
        self.bridge = run.bridges[self.direction]
        if items is None:
            pairs = run.pairs("test", self.direction)
            rows = np.sort(np.random.default_rng(0).permutation(len(pairs.x))[:limit])
            items = [torch.from_numpy(a) for a in pairs.of(rows)]
        self.y, self.x = items
        self.N, self.truth = len(self.x), self.scaled(self.x)
        kind = kind_of(self.bridge.x_shape).replace("views", "image")
        self.kind = kind if self.x.dtype in (torch.uint8, torch.bool) else "vector"

    def scaled(self, x):
        return self.bridge.scale_x(x.to(self.run.device)).cpu()

    def batches(self, size=256):
        for batch in zip(self.y.split(size), self.x.split(size), strict=True):
            yield [a.to(self.run.device) for a in batch]

    @torch.no_grad()
    def ask(self, answer, batch=256):
        """(N, *x_shape) on the CPU, clamped as files would be, and seconds a pair."""
        start = time.perf_counter()
        out = torch.cat([answer(y, x).cpu() for y, x in self.batches(batch)])
        seconds = (time.perf_counter() - start) / self.N
        return out if self.kind == "vector" else out.clamp(-1, 1), seconds

    def sampler(self, run, seed=0, n=1, **how):
        """The mean of n samples by `run` as an answer; how: see Bridge.sample."""
        bridge, randn = run.bridges[self.direction], on_cpu(seed)
        draw = lambda y: bridge.sample(y, randn=randn, **how)[0]
        return lambda y, x: sum(draw(y) for _ in range(n)) / n

    def nfe(self, **how):
        return self.bridge.sample(self.y[:1].to(self.run.device), **how)[1]

    def score(self, x_hat):
        """{metric: value} of one answer to each question."""
        if self.kind == "volume":
            made, true = x_hat > 0, self.truth > 0
            out = {"iou": metrics.iou(made, true)}
            # 1-NNA of one half's samples and the other half's truths: of one half, each sample
            # would have its own truth as its neighbour
            made, true = made[: 2 * (self.N // 2) : 2], true[1::2]
            if len(made) > 1:
                distances = metrics.chamfer(made, made), metrics.chamfer(made, true)
                out["one_nna"] = metrics.one_nna(*distances, self.among_truth)
            return out
        out = {"fid": metrics.frechet(self.features(x_hat), self.features(self.truth))}
        if self.kind == "vector":
            return {"cosine": metrics.cosine(x_hat.flatten(1), self.truth.flatten(1))} | out
        pair = [x.reshape(-1, *x.shape[-3:]) for x in (x_hat, self.truth)]  # several views: images
        if lpips():
            out["lpips"] = lpips()(*(x.expand(-1, 3, -1, -1) for x in pair)).mean().item()
        if min(pair[0].shape[2:]) >= 11:
            out = {"ssim": metrics.ssim(*pair, low=-1, high=1)} | out
        return {"psnr": metrics.psnr(*pair, low=-1, high=1)} | out

    @cached_property
    def among_truth(self):
        true = self.truth[1::2] > 0
        return metrics.chamfer(true, true)

    @cached_property
    def pca(self):
        pairs = self.run.pairs("train", self.direction)
        some = np.sort(np.random.default_rng(1).permutation(len(pairs.x))[:5000])
        flat = self.scaled(torch.from_numpy(pairs.of(some)[1])).flatten(1).numpy()
        return PCA(min(128, *flat.shape), svd_solver="randomized", random_state=0).fit(flat)

    def features(self, x):
        return torch.from_numpy(self.pca.transform(x.flatten(1).numpy()))

    @torch.no_grad()
    def latents(self, run):
        """z_T and z_0 of all pairs as unit vectors, (N, tokens x D) each."""
        found = [run.bridges[self.direction].latents(y, x) for y, x in self.batches()]
        return [fn.normalize(torch.cat(z).flatten(1)).cpu() for z in zip(*found, strict=True)]

    def r1(self, run):
        """Cross-modal R@1: how many z_T have their own z_0 as the nearest of all N."""
        own = [[n] for n in range(self.N)]
        return metrics.recall_at_k(metrics.ranks(*self.latents(run), own), 1)


@cache
def lpips():
    """The package's metric if it is installed and its AlexNet is already here, else None."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth")
    if importlib.util.find_spec("lpips") and os.path.exists(file):
        return importlib.import_module("lpips").LPIPS(net="alex", verbose=False).eval()
    print("LPIPS: left out; it needs its package, and AlexNet's weights in torch.hub's folder")


class BridgeBench:
    """A run of the bridge, the runs beside it, and where results go."""

    def __init__(self, run, args):
        self.run, self.args, self.first_look = run, args, args.first_look
        self.seeds = list(range(1 if args.first_look else args.seeds))
        self.latent = len(run.bridges) > 1
        most = limit_of(run.args.dataset)
        self.limit = args.limit or (most // 4 if args.first_look else most)
        self.report = Report(run.folder, "bridge.json", ("data", "method", "metric"), print_marks)

    def headline(self):
        a = self.run.args
        what = "in data space" if a.data_space else f"{a.design}, {a.procedure}, L_{a.loss}"
        return f"{self.run.folder}: a bridge on {a.dataset}, {what}; {self.args.nfe} DBIM steps"

    @cached_property
    def runs(self):
        """{method: run}: ours, and real runs to measure it by, trained when first asked for."""
        runs, a, bridge = {"ours": self.run}, self.run.args, next(iter(self.run.bridges.values()))
        others = {"basic": dict(procedure="two-step", loss="rec", w_nce=0.0, data_space=False)}
        same = kind_of(bridge.x_shape) == "image" and bridge.x_shape == bridge.y_shape
        if same and not a.data_space:
            others["data-space"] = dict(data_space=True)
        for name, changes in {} if self.first_look else others.items():
            argv = argv_of(a, out=os.path.join(self.run.folder, name), **changes)
            runs[name] = trained(argv, self.run.device)
        return runs

    def rows(self, method, marks, nfe, seconds, direction=""):
        """Rows of RUN/bridge.json from [{metric: value} of seed 0, 1, ...]."""
        row = {"data": f"{self.run.args.dataset} {direction}".strip(), "method": method}
        cost = {"nfe": nfe, "seconds_per_sample": seconds}
        return [
            row | {"metric": metric, "value": value} | cost | {"seed": seed}
            for seed, found in enumerate(marks)
            for metric, value in found.items()
        ]

    figure = Bench.figure


def limit_of(dataset):
    return 200 if dataset == "glyph-solids" else 1000


def print_marks(rows, note=""):
    """A line a method and NFE: metrics over seeds; below it those of the mean of samples."""
    parts = lambda r: r["metric"].partition("_mean")
    names = list(dict.fromkeys(parts(r)[0] for r in rows))
    print(f"\n{rows[0]['data']}{note}\n{'':22}" + "".join(f"{n:>17}" for n in names), end="")
    print(f"{'NFE':>5}{'ms/sample':>11}")
    key = lambda r: (r["method"], r["nfe"], parts(r)[2])
    for method, nfe, many in dict.fromkeys(map(key, rows)):
        mine = [r for r in rows if key(r) == (method, nfe, many)]
        values = [[r["value"] for r in mine if parts(r)[0] == n] for n in names]
        digits = [DIGITS.get(n, 3) for n in names]
        cells = [spread(v, d) if v else "" for v, d in zip(values, digits, strict=True)]
        cost = f"{nfe:>5}{1000 * mine[0]['seconds_per_sample']:>11.2f}" if not many else ""
        title = f"  mean of {many}" if many else method
        print(f"{title:22}" + "".join(f"{c:>17}" for c in cells) + cost)


# ---------------------------------------------------------------------------------------------
# The bridge's tables


def classical(q):
    """What one would do without learning, as an answer: the visual hull, bicubic; or None."""
    y, x = q.bridge.y_shape, q.bridge.x_shape
    if q.run.args.dataset == "glyph-solids":
        return lambda y, x: torch.from_numpy(data.visual_hull(y.cpu().numpy())) * 2.0 - 1
    if q.kind == "image" and len(x) == len(y) == 3 and x[0] == y[0] and x[1] > y[1]:
        how = dict(size=x[1:], mode="bicubic", antialias=False)
        return lambda y, x: fn.interpolate(q.bridge.scale_y(y), **how)


def plain_answers(q):
    """{method: (answer, NFE)} of the yardsticks without chance."""
    out = {"regressor": (q.sampler(q.run, steps=1), 1)}
    out["ceiling"] = (lambda y, x: q.bridge.reconstruct(x), 0)
    return out | ({"classical": (classical(q), 0)} if classical(q) else {})


def several(q, draws):
    """Marks of the mean of n draws, {metric_mean8: value} for n = 8, and their diversity."""
    draws = torch.stack(draws)  # (n, N, *x_shape)
    out = {f"{m}_mean{len(draws)}": v for m, v in q.score(draws.mean(0)).items()}
    return out | {"diversity": draws.std(0).mean().item()}


def quality(bench):
    """Samples of ours and of the runs beside it, the yardsticks, and what all that costs."""
    if bench.latent:
        return vectors(bench)
    q, steps, seeds, rows = Questions(bench.run, bench.limit), bench.args.nfe, bench.seeds, []
    for name, run in bench.runs.items():
        n = max(SAMPLES, len(seeds)) if name == "ours" else len(seeds)
        found = [q.ask(q.sampler(run, s, steps=steps)) for s in range(n)]
        draws, seconds = [x_hat for x_hat, _ in found], min(s for _, s in found)
        marks = [q.score(x_hat) for x_hat in draws[: len(seeds)]]
        marks[0] |= {"r1": q.r1(run)} | (several(q, draws[:SAMPLES]) if name == "ours" else {})
        rows += bench.rows(name, marks, steps, seconds)
    for name, (answer, nfe) in plain_answers(q).items():
        x_hat, seconds = q.ask(answer)
        rows += bench.rows(name, [q.score(x_hat)], nfe, seconds)
    bench.report.add(rows, f", {q.N} pairs; {NOTES[q.kind]}")
    print_cost(q, steps)


def print_cost(q, steps):
    net, calls = q.bridge.net, []
    net.remember = lambda z_T: calls.append(z_T) or type(net).remember(net, z_T)
    nfe = q.nfe(steps=steps)
    del net.remember
    count = lambda ps: sum(p.numel() for p in ps) / 1e6
    ours = count(net.parameters())
    print(
        f"{count(q.bridge.parameters()) - ours:.2f} M parameters in the modality modules, "
        f"{ours:.2f} M in the denoiser; a sample asks {nfe} times it, {len(calls)} time its encoder"
    )


def vectors(bench):
    """Latents: the translator's exam. Rows in RUN/translation.json, and in RUN/bridge.json."""
    run, seeds, steps, report = bench.run, bench.seeds, bench.args.nfe, Report(bench.run.folder)
    sets = [run.pairs(s, DIRECTIONS[0]).latents for s in ("train", "val", "test")]
    for d in DIRECTIONS:
        exam = Exam(sets[2], d, sets[2].full, bench.args.limit or 5000, bench.args.pool)
        base = Baselines(run, d, *sets[:2], () if bench.first_look else ("knn",))
        own = exam.z[exam.g[np.unique(exam.q, return_index=True)[1]]]  # each query's answer
        q = Questions(run, 0, d, (exam.c, own))
        draws = lambda run, n=1: ([q.sampler(run, s, n, steps=steps) for s in seeds], steps)
        answers = {"bridge, one sample": draws(run), "bridge": draws(run, SAMPLES)}
        answers |= {name: draws(other) for name, other in bench.runs.items() if name != "ours"}
        answers |= {name: ([answer], nfe) for name, (answer, nfe) in plain_answers(q).items()}
        z_hats, marks = {}, []
        for name, (asked, nfe) in answers.items():
            found = [q.ask(answer) for answer in asked]
            z_hats[name] = [q.bridge.unscale(x.to(run.device)).cpu() for x, _ in found]
            method, tail = AS_OURS.get(name, (name, ""))
            won = [{f"two_way{tail}": two_way(exam, z), f"r1{tail}": exam.score(z, base.mean)["r1"]}
                   for z in z_hats[name]]  # fmt: skip
            marks += bench.rows(method, won, nfe, min(s for _, s in found), d)
        z_hats |= {name: [f(exam.c)] for name, f in base.answers.items()}
        rows = rows_of("similarity", d, exam, z_hats, base.mean, seeds)
        report.add(rows + beside(bench, d))
        bench.report.add(marks, f", {len(exam.q)} pairs, R@1 of {len(exam.pool)}")


def two_way(exam, z_hat):
    return metrics.two_way(z_hat[exam.q], exam.z[exam.g])


def beside(bench, direction):
    """The translator's own rows of the same exam, from the run that --beside names."""
    known = "runs/glyphs-translator" if bench.run.args.dataset == "glyph-names" else None
    folder = bench.args.beside or known
    rows = Report(folder).rows if folder else []
    mine = ("similarity", direction, "ours")
    rows = [r for r in rows if (r["task"], r["direction"], r["method"]) == mine]
    if not rows:
        print(f"\nno row of the translator: --beside {folder} has no table of this direction")
    return [r | {"method": "translator"} for r in rows]


def trade_off(bench):
    """Perception against distortion over NFE: a figure and its table, one sample and means of 4."""
    q, rows = Questions(bench.run, max(2, bench.limit // 2)), []
    for name, how in SAMPLERS.items():
        for steps in HEUN_STEPS if name == "Heun" else NFES:
            n = 4 if name in ("DBIM 1", "Heun") else 1
            found = [q.ask(q.sampler(q.run, s, steps=steps, **how)) for s in range(n)]
            draws, seconds = [x_hat for x_hat, _ in found], min(s for _, s in found)
            marks = q.score(draws[0]) | (several(q, draws) if n > 1 else {})
            rows += bench.rows(f"ours, {name}", [marks], q.nfe(steps=steps, **how), seconds)
    bench.report.add(rows, f", {q.N} pairs; {NOTES[q.kind]}")
    print_dbim_against_heun(rows)
    marks = {m: q.score(q.ask(answer)[0]) for m, (answer, _) in plain_answers(q).items()}
    draw_trade_off(bench, rows, marks, PANELS[q.kind])


def draw_trade_off(bench, rows, marks, panels):
    """Left the distance to the truth, of samples and of means of 4; right that of the two sets."""
    fig = Figure(figsize=(11, 4), layout="constrained")
    for ax, metric in zip(fig.subplots(1, 2), panels, strict=True):
        tails = {"": "o-", "_mean4": "s--"} if metric == panels[0] else {"": "o-"}
        for (k, name), tail in itertools.product(enumerate(SAMPLERS), tails):
            mine = [
                r for r in rows if (r["method"], r["metric"]) == (f"ours, {name}", metric + tail)
            ]
            if mine:
                at = [[r[c] for r in mine] for c in ("nfe", "value")]
                label = name + (", mean of 4" if tail else "")
                ax.plot(*at, tails[tail], ms=3, c=f"C{k}", label=label)
        ax.plot(1, marks["regressor"][metric], "k*", ms=9, label="regressor")
        ax.axhline(marks["ceiling"][metric], c="grey", ls=":", label="ceiling: D_x(E_x(x))")
        ax.set(xscale="log", xlabel="network evaluations (NFE)", ylabel=metric)
    fig.axes[0].legend(frameon=False, fontsize=7)
    bench.figure(fig, "trade-off")


def print_dbim_against_heun(rows):
    pick = lambda how: {r["metric"]: r for r in rows if (r["method"], r["nfe"]) == how}
    dbim, heun = pick(("ours, DBIM 1", 10)), pick(("ours, Heun", 119))
    change = {m: r["value"] / heun[m]["value"] - 1 for m, r in dbim.items() if heun[m]["value"]}
    ratio = rows[-1]["seconds_per_sample"] / next(iter(dbim.values()))["seconds_per_sample"]
    change = ", ".join(f"{m} {c:+.1%}" for m, c in change.items())
    print(f"DBIM at 10 against Heun at 119: {change}; Heun takes {ratio:.1f} times as long")


# ---------------------------------------------------------------------------------------------
# The bridge's pictures


def picture(x):
    """A scaled item as (H, W) or (H, W, 3) in [0, 1]: views in a row, voxels as a lit solid."""
    kind, x = kind_of(tuple(x.shape)), (x.cpu().float().clamp(-1, 1) + 1) / 2
    if kind == "volume":
        return lit(x.numpy() > 0.5)
    if kind == "vector":
        return x[None].numpy()
    x = torch.cat(list(x), 2) if kind == "views" else x
    return x.permute(1, 2, 0).squeeze(2).numpy()


def lit(solid, size=64):
    """(size, size) in [0, 1] of voxels (D, H, W) bool, first axis down, seen from above, aslant."""
    solid = np.pad(solid, 1).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # 0.7 pixels each: no holes
    skin = solid & ~binary_erosion(solid)
    n = np.stack(np.gradient(-gaussian_filter(solid.astype(np.float32), 2)))[:, skin]  # outwards
    n /= np.linalg.norm(n, axis=0) + 1e-6
    k, i, j = (np.argwhere(skin) - np.array(solid.shape) / 2).T * size * 0.75 / max(solid.shape)
    (c, d), (s, t) = np.cos([0.5, 0.45]), np.sin([0.5, 0.45])  # turned by one angle, then tipped
    across, away = c * j + s * i, c * i - s * j
    order = np.argsort(d * away - t * k)  # the nearest is drawn last
    at = [
        np.rint(v + size / 2).astype(int).clip(0, size - 1)[order]
        for v in (d * k + t * away, across)
    ]
    image = np.zeros((size, size), np.float32)
    image[tuple(at)] = (0.5 + np.array([-0.4, -0.3, 0.2]) @ n).clip(0.15, 1)[order]
    return image


def draw_columns(bench, q, columns, file):
    """One line a pair, one column for each of {title: scaled items (N, ...)}."""
    fig, axes = grid(q.N, len(columns), 1.1)
    for line, (name, items) in zip(axes.T, columns.items(), strict=True):
        for n, (ax, item) in enumerate(zip(line, items, strict=True)):
            show(ax, picture(item), "" if n else name)
            ax.set_aspect(
                "auto" if kind_of(item.shape) == "vector" or "E_" in name[:8] else "equal"
            )
    bench.figure(fig, file)


def samples(bench):
    """Eight held-out pairs: source, yardsticks, four samples, the mean of eight, truth."""
    q = Questions(bench.run, 8)
    draws = [q.ask(q.sampler(q.run, s, steps=bench.args.nfe))[0] for s in range(SAMPLES)]
    found = {name: q.ask(answer)[0] for name, (answer, _) in plain_answers(q).items()}
    columns = {"source": q.bridge.scale_y(q.y.to(q.run.device))}
    columns |= {name: found[name] for name in ("classical", "regressor") if name in found}
    columns |= {f"sample {n + 1}": draws[n] for n in range(4)}
    columns |= {f"mean of {SAMPLES}": torch.stack(draws).mean(0), "truth": q.truth}
    draw_columns(bench, q, columns, "samples")


def tsne(bench):
    """LD Fig. 1: the latents of both modalities on one plane, for Basic and for ours."""
    q = Questions(bench.run, 300)
    flat = q.truth.flatten(1).numpy()
    flat = PCA(min(30, *flat.shape), random_state=0).fit_transform(flat)
    colour = KMeans(min(8, q.N), n_init=3, random_state=0).fit_predict(flat)
    runs = {name: bench.runs[name] for name in ("basic", "ours") if name in bench.runs}
    fig = Figure(figsize=(5.5 * len(runs), 5), layout="constrained")
    for ax, name in zip(fig.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        how = dict(perplexity=min(30, q.N / 2), init="pca", random_state=0)
        at = TSNE(2, **how).fit_transform(torch.cat(q.latents(runs[name])).numpy())
        for part, marker, label in ((at[: q.N], "o", "z_T"), (at[q.N :], "^", "z_0")):
            ax.scatter(*part.T, 14, colour, marker=marker, cmap="tab10", alpha=0.7, label=label)
        ax.set(xticks=[], yticks=[], title=f"{name}: R@1 of {q.N} is {q.r1(runs[name]):.3f}")
        ax.set_xlabel("colour: k-means cluster of the target")
    ax.legend(frameon=False)
    bench.figure(fig, "tsne")


@torch.no_grad()
def parts(bench):
    """What each part sees: tokens as maps (a line a token), z_t and z0_hat through D_x."""
    q = Questions(bench.run, 4)
    bridge, device = q.bridge, q.run.device
    y, x = q.y.to(device), q.x.to(device)
    z_T, z_0 = bridge.latents(y, x)
    eps, memory = on_cpu(0)(z_T.shape, device), bridge.net.remember(z_T)
    columns = {"y": bridge.scale_y(y), "E_y(y)": z_T[:, None] / 3, "E_x(x)": z_0[:, None] / 3}
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full((q.N,), share * bridge.kernel.T, dtype=torch.float64, device=device)
        z_t = bridge.noised(z_0, z_T, Noise(t, eps))
        columns[f"D_x(z_t), {share} T"] = bridge.D_x(z_t)
        columns[f"D_x(z0_hat), {share} T"] = bridge.D_x(bridge.denoise(z_t, t, memory))
    draw_columns(bench, q, columns | {"x": q.truth}, "parts")


BRIDGE_TASKS = {
    "quality": quality,
    "trade-off": trade_off,
    "samples": samples,
    "tsne": tsne,
    "parts": parts,
}


# ---------------------------------------------------------------------------------------------
# LD's tables, trained from nothing


def flags_of(table, variant):
    """The flags of train.py that make one row of a table of POSTER."""
    if table == "lddbm-losses":
        loss, *nce = variant.split("+")
        return ["--loss", loss] + ([] if nce else ["--w-nce", "0"])
    if variant in ("mask", "iterative"):  # the defaults: ours
        return []
    return ["--design" if table == "lddbm-design" else "--procedure", variant]


def variant_run(table, variant, dataset, seed, device):
    """The trained run of one row and seed. The row that is ours is one run for all tables.

    Each side gets as many updates in every procedure: "end-to-end" updates both at each step."""
    flags, steps = flags_of(table, variant), REPRODUCE_STEPS[dataset]
    if flags == ["--loss", "pred"]:
        flags = []
    if variant == "end-to-end":
        steps //= 2
    name = "-".join([dataset, variant if flags else "ours", str(seed)])
    what = f"--model bridge --dataset {dataset} --steps {steps} --ema 0.97 --seed {seed}"
    return trained([*what.split(), *flags, "--out", f"runs/lddbm/{name}"], device)


def reproduce(args, device):
    """Train the variants of one table, every seed; print them beside the poster's numbers."""
    table, rows = args.reproduce, []
    for dataset in [args.on] if args.on else REPRODUCE_STEPS:
        q = None
        for variant, seed in itertools.product(POSTER[table], range(args.seeds)):
            run = variant_run(table, variant, dataset, seed, device)
            q = q or Questions(run, args.limit or limit_of(dataset))
            x_hat, seconds = q.ask(q.sampler(run, steps=args.nfe))
            marks = q.score(x_hat) | {"r1": q.r1(run)}
            row = {"data": dataset, "method": variant, "seed": seed}
            row |= {"nfe": args.nfe, "seconds_per_sample": seconds}
            rows += [row | {"metric": m, "value": v} for m, v in marks.items()]
        print_ablation(table, [r for r in rows if r["data"] == dataset])
    write_json(f"runs/lddbm/{table}.json", {"rows": rows})


def print_ablation(table, rows):
    """A line a variant: ours, and in brackets the poster's; then where the two orders differ."""
    poster, measured = POSTER[table], list(dict.fromkeys(r["metric"] for r in rows))
    print(f"\n{table}, {rows[0]['data']}; in brackets the poster's ShapeNet or CelebA-HQ")
    print(" " * 16 + "".join(f"{m + ' (LPIPS)' * (m == 'fid'):>24}" for m in measured))
    ours = {(r["method"], r["metric"]): [] for r in rows}
    for r in rows:
        ours[r["method"], r["metric"]].append(r["value"])
    for v in poster:
        cells = [spread(ours[v, m], DIGITS.get(m, 3)) for m in measured]
        theirs = [f" ({poster[v][COLUMN[m]]:g})" if m in COLUMN else "" for m in measured]
        print(f"{v:16}" + "".join(f"{c + t:>24}" for c, t in zip(cells, theirs, strict=True)))
    for m in [m for m in measured if m in COLUMN]:
        rank = lambda value, m=m: {"one_nna": abs(value - 0.5), "fid": value}.get(m, -value)
        mine = {v: rank(np.mean(ours[v, m])) for v in poster}
        theirs = {v: rank(poster[v][COLUMN[m]]) for v in poster}
        swapped = [(a, b) for a, b in itertools.permutations(poster, 2) if mine[a] < mine[b]]
        swapped = [f"{a} before {b}" for a, b in swapped if theirs[a] > theirs[b]]
        print(f"{m}: against the poster's order, {', '.join(swapped) or 'nothing'}")


def speed(args, device):
    """LD's edges2handbags: a latent bridge against one in data space, then the trade-off."""
    what = f"--model bridge --dataset glyph-edges --steps {REPRODUCE_STEPS['glyph-sr']}".split()
    rows, bench = [], None
    for name, flag in {"latent": "--no-data-space", "data-space": "--data-space"}.items():
        run = trained([*what, flag, "--out", f"runs/lddbm/glyph-edges-{name}"], device)
        bench = bench or BridgeBench(run, args)
        q = Questions(bench.run, bench.limit)
        x_hat, seconds = q.ask(q.sampler(run, steps=args.nfe), batch=64)
        size = sum(p.numel() for p in run.bridges[q.direction].parameters()) / 1e6
        marks = q.score(x_hat) | {"parameters_M": size}
        rows += bench.rows(name, [marks], args.nfe, seconds)
    print_marks(rows, f", {q.N} pairs in batches of 64; {NOTES[q.kind]}")
    ratio = rows[-1]["seconds_per_sample"] / rows[0]["seconds_per_sample"]
    print(f"data space takes {ratio:.1f} times as long; {SPEED}")
    write_json("runs/lddbm/lddbm-speed.json", {"rows": rows})
    bench.limit = min(bench.limit, 400)
    trade_off(bench)


# ---------------------------------------------------------------------------------------------
# All of it


def parse(argv=None):
    p = argparse.ArgumentParser(description="Tables and figures of both papers for a trained run.")
    a = p.add_argument
    a("run", nargs="?", help="folder that train.py left, e.g. runs/glyphs-translator")
    tables = [*POSTER, "lddbm-speed"]
    a("--reproduce", choices=tables, help="in place of RUN: train and print a table of LD's poster")
    tasks = f"translator: {', '.join(TASKS)}; bridge: {', '.join(BRIDGE_TASKS)}"
    tasks = dict(choices=[*TASKS, *BRIDGE_TASKS], help=f"{tasks} (default all but parts)")
    a("--task", nargs="+", metavar="TASK", **tasks)
    a("--nfe", type=int, default=10, help="bridge: network evaluations of a sample (default 10)")
    a("--beside", help="bridge of latents: the translator's run (default runs/glyphs-translator)")
    on = "test on another data set (MT Table 4); --reproduce: on this one of its sets alone"
    a("--on", choices=[*data.NAMES, *REPRODUCE_STEPS], metavar="DATASET", help=on)
    a("--data-dir", help="where that data set is, or where the run's own has moved")
    a("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them")
    a("--pool", type=int, default=1000, help="gallery of R@k; COCO papers use 5000")
    a("--limit", type=int, help="test pairs at most (5000; bridge 1000, glyph-solids 200)")
    a("--device", default="cpu")
    a("--download", action="store_true", help="allow fetching encoder weights")
    pairs = dict(nargs="+", metavar="IMAGE,TEXT", help="in place of RUN: MT Table 3, trained anew")
    a("--pairs", **pairs)
    a("--steps", type=int, help="--pairs: training steps (default: those of train.py)")
    lm = "captioning: a small GPT-2 made here (scratch), or one of Hugging Face, ID or folder"
    a("--lm", default="scratch", help=lm)
    noise = "captioning: CapDec's noise; default half of the translator's error on validation"
    a("--noise", type=float, help=noise)
    karlo = "draw with Karlo (package diffusers), from CLIP ViT-L/14 image latents; ID or folder"
    a("--karlo", nargs="?", const="kakaobrain/karlo-v1-alpha-image-variations", help=karlo)
    a("--first-look", action="store_true", help="few tasks, and nothing that trains or is slow")
    args = p.parse_args(argv)
    if sum(x is not None for x in (args.run, args.reproduce, args.pairs)) != 1:
        p.error("one of RUN, --reproduce TABLE and --pairs is needed")
    if args.noise is not None and not 0 <= args.noise < float("inf"):
        p.error(f"--noise {args.noise}: a finite number, 0 or more")
    for pair in args.pairs or ():
        if not re.fullmatch("[^,]+,[^,]+", pair):
            p.error(f"--pairs {pair}: an image encoder, a comma, a text encoder")
    if min(args.seeds, args.pool, args.limit or 1, args.nfe) < 1:
        p.error("--seeds, --pool, --limit and --nfe are at least 1")
    return args


def tasks_of(args, model):
    """The names of --task, or what a run of this model is asked without it. EvaluateError."""
    there = BRIDGE_TASKS if model == "bridge" else TASKS
    wrong = [task for task in args.task or () if task not in there]
    if wrong:
        raise EvaluateError(f"--task {wrong[0]}: {args.run} is a {model}, with {', '.join(there)}")
    if args.on and model == "bridge":
        raise EvaluateError(f"--on is for translators, {args.run} is a bridge")
    if args.task or args.on:
        return args.task or ["cross-domain", "classification"]
    if args.first_look:
        short = {"bridge": ["quality", "samples"]}
        return short.get(model, ["similarity", "retrieval", "pictures"])
    return [task for task in there if task != "parts"]


def peak_memory():
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GiB"


def usable(device):
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise EvaluateError(f"--device {device}: {str(e).splitlines()[0]}") from None
    return torch.device(device)


def main(argv=None):
    args, start = parse(argv), time.time()
    device = usable(args.device)
    if args.pairs:
        return encoder_table(args, device)
    if args.reproduce:
        (speed if args.reproduce == "lddbm-speed" else reproduce)(args, device)
        return print(f"\n{time.time() - start:.0f} s; rows in runs/lddbm/{args.reproduce}.json")
    model = checkpoint(args.run)["args"].get("model", "translator")
    tasks = tasks_of(args, model)
    if model == "bridge":
        bench = BridgeBench(BridgeRun(args.run, device, args.data_dir, args.download), args)
    else:
        bench = Bench(Run(args.run, device, args.download), args)
    print(bench.headline())
    for task in tasks:
        began = time.time()
        (TASKS | BRIDGE_TASKS)[task](bench)
        print(f"[{task}: {time.time() - began:.0f} s{peak_memory()}]")
    print(f"\n{time.time() - start:.0f} s; rows in {bench.report.path}")


if __name__ == "__main__":
    try:
        main()
    except (train.TrainError, data.DataError, encoders.EncoderError, ValueError) as e:
        sys.exit(f"evaluate.py: {e}")
