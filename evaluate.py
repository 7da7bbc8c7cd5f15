"""
evaluate.py RUN: the tables and figures of paper 1 (MT) for a trained run, beside honest baselines.

    python evaluate.py runs/glyphs-translator                     everything
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
Leaves   RUN/translation.json: {"rows": [{task, direction, method, cosine, centred_cosine,
         unrelated_cosine, r1, r5, r10, pool, seed}, ...]}; RUN/classification.json; RUN/*.png;
         with --on, the data set's name is part of every task and picture
Rules    choices (ridge's lambda, gamma, the curves) are made on validation pairs, tables on test
Letters  N conditions   Q queries   G gallery   P pairs   h1 = dim c   h2 = dim z
"""

import argparse
import json
import os
import sys
import textwrap
import time

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure  # draws without a display
from scipy.sparse import coo_matrix  # scikit-learn brings scipy
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import Ridge
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data
import encoders
import metrics
import train  # a circle, for train.main ends with us: neither uses the other while imported
from ddim_translator import EpsTheta, Translator
from encoders import DIRECTIONS

PAPER = {  # trained on, tested on: (Sim_img, Sim_txt), both sides CLIP ViT-B/32; MT Tables 2 and 4
    ("coco", "coco"): (0.8233, 0.8394),
    ("cc3m", "cc3m"): (0.7443, 0.7389),
    ("coco", "celeba"): (0.5974, 0.8237),
}
TABLE_6 = "MT, ViT-B/32: CLIP itself 0.697, translated 0.607; ViT-L/14: 0.851, 0.771"
TABLE_7 = {  # trained and tested on COCO, both sides CLIP ViT-B/32
    "text->image": "MT: projection only 0.8199, ddim only 0.6155, both 0.8233",
    "image->text": "MT: projection only 0.8386, ddim only 0.6280, both 0.8394",
}
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
FACE_WORDS = set(" ".join(data.FACES.values()).split())  # they come before the name


class EvaluateError(ValueError):
    """One line: what went wrong, where, what to do."""


# ---------------------------------------------------------------------------------------------
# A trained run, and what it is tested on


class Run:
    """RUN/model.pt read back: the arguments, the frozen encoders, one translator a direction.

    Raises EvaluateError for an unfinished or foreign checkpoint, TrainError for an unreadable one.
    """

    def __init__(self, folder, device, download=False):
        self.folder, self.device = folder, device
        path = os.path.join(folder, "model.pt")
        saved = train.load(path)
        if not isinstance(saved, dict) or not {"args", "encoders", "sides"} <= saved.keys():
            raise EvaluateError(f"{path}: not a checkpoint of train.py")
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
        averaged = {k.removeprefix("module."): v for k, v in ema.items() if k.startswith("module.")}
        net.load_state_dict(averaged)
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
    fits = [Ridge(lam).fit(c.numpy(), z.numpy()) for lam in 10.0 ** np.arange(-2, 4)]
    answer = lambda fit: lambda c: torch.from_numpy(fit.predict(c.numpy())).float()
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
    saved = train.load(path) if os.path.exists(path) else {}
    if {k: saved.get(k) for k in stamp} == stamp:
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

    def __init__(self, run, direction, latents, validation, trained=True, most=200_000):
        rows = np.random.default_rng(0).permutation(latents.full)[:most]
        c, z = latents.of(direction, np.sort(rows))
        self.mean = z.mean(0)
        self.answers = {"mean": lambda c: self.mean.expand(len(c), -1)}
        self.answers["ridge"] = ridge(c, z, *validation.of(direction, validation.full))
        if run.dims[direction][0] == run.dims[direction][1]:
            self.answers["identity"] = identity
        if trained:
            self.answers["knn"] = knn(c, z)
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
    """The rows of RUN/translation.json. Raises EvaluateError if that file is not its own."""

    def __init__(self, folder):
        self.path, self.rows = os.path.join(folder, "translation.json"), []
        if os.path.exists(self.path):
            try:
                with open(self.path) as f:
                    self.rows = json.load(f)["rows"]
            except (ValueError, KeyError, TypeError):
                raise EvaluateError(f"{self.path}: not our table; move it away") from None

    def add(self, rows, note=""):
        """Print the rows of one task and direction, and put them in the place of older ones."""
        print_table(rows, note)
        key = lambda r: (r["task"], r["direction"])
        self.rows = [r for r in self.rows if key(r) != key(rows[0])] + rows
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
    if len(bench.latents.bare):
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
    write_json(os.path.join(run.folder, "classification.json"), table)


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
    if not bench.has_images() or bench.run.E_image.decode is None:
        return print("\npictures: skipped, this image encoder has no decoder (pca has one)")
    draw_pictures(bench, bench.label("text-to-image"), bench.latents.full)
    if len(bench.latents.bare):
        draw_pictures(bench, bench.label("text-to-image-bare"), bench.latents.bare)


def draw_pictures(bench, file, rows, lines=8, samples=5):
    run, net, test = bench.run, bench.run.translators["text->image"], bench.test
    rows = rows[np.random.default_rng(3).permutation(len(rows))[:lines]]
    c, z = bench.latents.of("text->image", rows)
    how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega, randn=on_cpu(0))
    columns = {"true, through PCA": z, "ridge": bench.baselines["text->image"].answers["ridge"](c)}
    # Eq. 5 with a normalised F gives z_hat a direction and no length: the samples' mean lends its
    length = net.sample(c.to(run.device), K=run.args.K, **how).cpu().norm(dim=1, keepdim=True)
    columns["ours, z_hat"] = fn.normalize(run.translate("text->image", c)) * length
    for n in range(samples):
        columns[f"sample {n + 1}"] = net.sample(c.to(run.device), **how).cpu()
    drawn = {name: run.E_image.decode(x.numpy()) for name, x in columns.items()}
    fig, axes = grid(len(rows), len(columns) + 2, 1.0)
    for n, (line, (i, j)) in enumerate(zip(axes, bench.latents.pairs[rows].tolist(), strict=True)):
        write(line[0], test.captions[j])
        show(line[1], test.images[i], "" if n else "true")
        for ax, (name, images) in zip(line[2:], drawn.items(), strict=True):
            show(ax, images[n], "" if n else name)
    bench.figure(fig, file)


# ---------------------------------------------------------------------------------------------
# All of it


class Bench:
    """A run, its test data (or those of --on), its baselines, and where results go."""

    def __init__(self, run, args):
        self.run, self.limit, self.pool = run, args.limit, args.pool
        self.seeds, self.report = list(range(args.seeds)), Report(run.folder)
        self.on = args.on or run.args.dataset
        self.other = self.on != run.args.dataset
        self.test, self.latents = run.latents("test", self.on, args.data_dir)
        home = None if self.other else args.data_dir
        latents, self.validation = (run.latents(s, None, home)[1] for s in ("train", "val"))
        trained = not args.first_look
        fit = lambda d: Baselines(run, d, latents, self.validation, trained)
        self.baselines = {d: fit(d) for d in DIRECTIONS}

    def label(self, task):
        return f"{task} {self.on}" if self.other else task

    def exam(self, direction):
        return Exam(self.latents, direction, self.latents.full, self.limit, self.pool)

    def has_images(self):
        return self.run.E_image.spec != "none"

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
}


def parse(argv=None):
    p = argparse.ArgumentParser(description="Tables and figures of paper 1 for a trained run.")
    a = p.add_argument
    a("run", help="folder that train.py left, e.g. runs/glyphs-translator")
    tasks = f"of {', '.join(TASKS)} (default all)"
    a("--task", nargs="+", choices=TASKS, metavar="TASK", help=tasks)
    a("--on", choices=data.NAMES, metavar="DATASET", help="test on another data set (MT Table 4)")
    a("--data-dir", help="where that data set is, or where the run's own has moved")
    a("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them")
    a("--pool", type=int, default=1000, help="gallery of R@k; COCO papers use 5000")
    a("--limit", type=int, default=5000, help="test pairs at most")
    a("--device", default="cpu")
    a("--download", action="store_true", help="allow fetching encoder weights")
    a("--first-look", action="store_true", help="without the slower baselines, knn and mlp")
    args = p.parse_args(argv)
    if min(args.seeds, args.pool, args.limit) < 1:
        p.error("--seeds, --pool and --limit are at least 1")
    if args.task is None:
        args.task = ["similarity", "retrieval", "pictures"] if args.first_look else list(TASKS)
        if args.on:
            args.task = ["cross-domain", "classification"]
    return args


def usable(device):
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise EvaluateError(f"--device {device}: {str(e).splitlines()[0]}") from None
    return torch.device(device)


def main(argv=None):
    args, start = parse(argv), time.time()
    bench = Bench(Run(args.run, usable(args.device), args.download), args)
    a = bench.run.args
    print(
        f"{args.run} on {bench.on}: {len(bench.latents.full)} test pairs; "
        f"ours: K {a.K}, {a.ddim_steps} DDIM steps, omega {a.omega:g}; {args.seeds} noise seeds"
    )
    for task in args.task:
        TASKS[task](bench)
    print(f"\n{time.time() - start:.0f} s; rows in {bench.report.path}")


if __name__ == "__main__":
    try:
        main()
    except (train.TrainError, data.DataError, encoders.EncoderError, ValueError) as e:
        sys.exit(f"evaluate.py: {e}")
