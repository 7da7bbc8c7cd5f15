"""
evaluate.py RUN: the tables and figures of paper 1 (MT) for a trained run, beside honest baselines.

    python evaluate.py runs/glyphs-translator                     everything
    python evaluate.py RUN --task similarity ablation             some of it
    python evaluate.py RUN --on celeba --data-dir ~/celeba        another data set, same encoders (MT Table 4)
    python evaluate.py RUN --on cifar10 --data-dir ~/cifar --task classification        (MT Table 6)

Tasks    similarity      MT Tables 2, 3     cosine and its controls, R@1/5/10, both directions
         bare            the same with captions that name several images alike (glyphs: names without a typeface)
         cross-domain    MT Table 4         another data set (glyphs: the STIX faces)
         ablation        MT Table 7         each term of Eq. 5 alone, at gamma = 1 and at gamma auto
         curves          cosine against gamma, omega, DDIM steps, K: one figure
         classification  MT Table 6         zero-shot by prompts
         retrieval       MT Fig. 3b         a picture: queries and their top 5
         pictures        MT Fig. 3a         a picture: images drawn from captions never seen
Leaves   RUN/translation.json: {"rows": [{task, direction, method, cosine, centred_cosine, unrelated_cosine,
         r1, r5, r10, pool, seed}, ...]}; RUN/classification.json; RUN/*.png
Rules    choices (ridge's lambda, gamma, the curves) are made on validation pairs, tables on test pairs
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as fn
from sklearn.linear_model import Ridge
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import data
import encoders
import metrics
from ddim_translator import EpsTheta, Translator
from encoders import DIRECTIONS

TASKS = "similarity bare cross-domain ablation curves classification retrieval pictures".split()
PAPER = {  # (trained on, tested on) with CLIP ViT-B/32 on both sides: (Sim_img, Sim_txt), MT Tables 2 and 4
    ("coco", "coco"): (0.8233, 0.8394),
    ("cc3m", "cc3m"): (0.7443, 0.7389),
    ("coco", "celeba"): (0.5974, 0.8237),
}
SCRIPTS = (  # ten classes of glyphs: the word that opens the character's name -> the class name of the prompt
    ("latin", "latin letter"), ("greek", "greek letter"), ("cyrillic", "cyrillic letter"),
    ("arabic", "arabic letter"), ("armenian", "armenian letter"), ("georgian", "georgian letter"),
    ("canadian", "canadian syllabics"), ("braille", "braille pattern"), ("box", "box drawings"),
    ("lisu", "lisu letter"),
)  # fmt: skip


class EvaluateError(Exception):
    """One line: what went wrong, where, what to do."""


# ---------------------------------------------------------------------------------------------
# A trained run, and what it is tested on


class Run:
    """RUN/model.pt read back: the arguments, the frozen encoders, one translator a direction."""

    def __init__(self, folder, device, download=False):
        from train import load

        self.folder, self.device = folder, device
        saved = load(os.path.join(folder, "model.pt"))
        self.args = argparse.Namespace(**saved["args"])
        state = saved["encoders"]
        read = lambda s: encoders.from_state(s, device=device, download=download)
        self.E_image, self.E_text = read(state["image"]), read(state["text"])
        self.dims = {"text->image": (self.E_text.dim, self.E_image.dim)}
        self.dims["image->text"] = self.dims["text->image"][::-1]
        self.gamma = {d: saved["sides"][d]["gamma"] for d in DIRECTIONS}
        if None in self.gamma.values():
            raise EvaluateError(f"{folder}: training has not ended; go on with train.py --resume")
        self.translators = {d: self.translator(d, saved["sides"][d]["ema"]) for d in DIRECTIONS}

    def translator(self, direction, ema):
        a = self.args
        shape = a.width, a.layers, a.dropout, a.T, a.predict, a.objective
        net = Translator(*self.dims[direction], *shape)
        averaged = {k.removeprefix("module."): v for k, v in ema.items() if k.startswith("module.")}
        net.load_state_dict(averaged)
        return net.eval().to(self.device)

    def latents(self, split, dataset=None, data_dir=None):
        """(Split, Latents) of the run's own data set, or of another one through the same encoders."""
        from train import data_options

        a = self.args
        name = dataset or a.dataset
        options = data_options(a) if name == a.dataset else {}
        s = data.load(
            name, data_dir or (a.data_dir if name == a.dataset else None), split, **options
        )
        return s, encoders.encode_split(s, self.E_image, self.E_text, a.cache_dir)

    def parts(self, direction, c, seed=0, **how):
        """(cM, F) for raw c (N, h1), in chunks; `how` overrides steps, omega, K of the run."""
        a, net = self.args, self.translators[direction]
        how = {"steps": a.ddim_steps, "omega": a.omega, "K": a.K, **how}
        g = torch.Generator().manual_seed(seed)
        randn = lambda shape, device: torch.randn(shape, generator=g).to(device)
        out = [net.parts(x.to(self.device), randn=randn, **how) for x in c.split(1024)]
        return [torch.cat(x).cpu() for x in zip(*out, strict=True)]

    def translate(self, direction, c, seed=0, gamma=None, **how):
        """z_hat of MT Eq. 5, raw (N, h2), for raw c (N, h1); gamma: the run's unless given."""
        cM, F = self.parts(direction, c, seed, **how)
        gamma = self.gamma[direction] if gamma is None else gamma
        return (cM + gamma * F) / self.translators[direction].z_scale.cpu()


class Exam:
    """One direction of a test: unique queries c (Q, h1), gallery z (G, h2), rows (q, g) that belong together.

    Cosines are means over all rows. R@k ranks the gallery of the first `pool` items, drawn once by seed 0."""

    def __init__(self, latents, direction, rows, limit, pool):
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:limit]]
        q, g = latents.pairs[rows].T
        source, target = latents.image, latents.text
        if direction == "text->image":
            q, g, source, target = g, q, target, source
        self.queries, self.q = np.unique(q, return_inverse=True)
        self.gallery, self.g = np.unique(g, return_inverse=True)
        self.c, self.z = (
            torch.from_numpy(x[i]) for x, i in ((source, self.queries), (target, self.gallery))
        )
        order = np.random.default_rng(1).permutation(len(self.gallery))[:pool]
        self.pool, place = np.sort(order), np.full(len(self.gallery), -1)
        place[self.pool] = np.arange(len(self.pool))
        self.right = {}  # query -> its right answers, as places in the pool
        for query, item in zip(self.q, place[self.g], strict=True):
            if item >= 0:
                self.right.setdefault(int(query), []).append(int(item))

    def score(self, z_hat, mean):
        """The numbers of one row of a table; z_hat (Q, h2), mean (h2,) of the training targets."""
        z_hat = z_hat.expand(len(self.queries), -1)
        ours, true = z_hat[self.q], self.z[self.g]
        asked = sorted(self.right)
        rank = metrics.ranks(z_hat[asked], self.z[self.pool], [self.right[i] for i in asked])
        return {
            "cosine": metrics.cosine(ours, true),
            "centred_cosine": metrics.centred_cosine(ours, true, mean),
            "unrelated_cosine": metrics.unrelated_cosine(ours, true, self.q),
            **{f"r{k}": metrics.recall_at_k(rank, k) for k in (1, 5, 10)},
            "pool": len(self.pool),
        }


# ---------------------------------------------------------------------------------------------
# Baselines: what each answers to raw queries c (N, h1), fitted on the run's training pairs


def identity(c):
    """z_hat = c: CLIP's own cosine, and the paper's CLIP-GEN row. Needs equal widths."""
    return c


def noise(c, seed):
    """z_hat = normalize(c) / 4 + 3 / 4 of a random unit vector: Lafite's fixed perturbation, the paper's row."""
    u = torch.randn(c.shape, generator=torch.Generator().manual_seed(seed))
    return 0.25 * fn.normalize(c) + 0.75 * fn.normalize(u)


def ridge(c, z, c_val, z_val):
    """Linear regression with a bias, scikit-learn's Ridge; lambda by validation cosine. -> function of c."""
    fits = [Ridge(lam).fit(c.numpy(), z.numpy()) for lam in 10.0 ** np.arange(-2, 4)]
    answer = lambda fit: lambda c: torch.from_numpy(fit.predict(c.numpy())).float()
    return max((answer(f) for f in fits), key=lambda f: metrics.cosine(f(c_val), z_val))


def knn(c, z, k=10, tau=0.05):
    """Weighted mean of the targets of the k most similar training conditions. -> function of c."""
    keys = fn.normalize(c)

    def answer(c):
        tops = [(fn.normalize(x) @ keys.T).topk(k) for x in c.split(512)]
        similar, i = (torch.cat(x) for x in zip(*tops, strict=True))
        return ((similar / tau).softmax(1)[:, :, None] * z[i]).sum(1)

    return answer


def mlp(run, latents, direction):
    """Regression by the run's own network: z_0 from c alone (z_t = 0, t = T), mean square error, the same
    batches, steps, learning rate and averaging as the run. Kept in RUN/mlp.pt. -> function of c."""
    from train import draw_batch, load, lr_at, save

    a, twin = run.args, run.translators[direction]
    h1, h2 = run.dims[direction]
    net = EpsTheta(h1, h2, a.width, a.layers, a.dropout).to(run.device)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(a.ema))
    zeros = lambda B: (
        torch.zeros(B, h2, device=run.device),
        torch.full((B,), a.T, device=run.device),
    )
    path = os.path.join(run.folder, f"mlp-{direction.replace('->', '-to-')}.pt")
    if os.path.exists(path) and (saved := load(path))["args"] == vars(a):
        ema.load_state_dict(saved["ema"])
    else:
        optimizer = torch.optim.AdamW(
            net.parameters(), a.lr, weight_decay=a.weight_decay, fused=True
        )
        torch.manual_seed(a.seed)
        for step in tqdm(range(a.steps), f"mlp {direction}", disable=None):
            c, z, _ = draw_batch(latents, direction, step, a)
            c, z = twin.scale_c(c.to(run.device)), (z.to(run.device) - twin.z_mean) * twin.z_scale
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, a)
            loss = (net(*zeros(len(c)), c) - z).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), a.clip)
            optimizer.step()
            ema.update_parameters(net)
        save(path, {"args": vars(a), "ema": ema.state_dict()})
    ema.eval()

    @torch.no_grad()
    def answer(c):
        out = [ema(*zeros(len(x)), twin.scale_c(x.to(run.device))) for x in c.split(4096)]
        return (torch.cat(out) / twin.z_scale + twin.z_mean).cpu()

    return answer


class Baselines:
    """Every baseline of one direction, fitted once on (at most 200,000) full training pairs."""

    def __init__(self, run, direction, train, validation, trained=True, most=200_000):
        rows = np.random.default_rng(0).permutation(train.full)[:most]
        c, z = train.of(direction, np.sort(rows))
        self.mean = z.mean(0)
        self.answers = {"mean": lambda c: self.mean[None].expand(len(c), -1)}
        self.answers["ridge"] = ridge(c, z, *validation.of(direction, validation.full))
        if run.dims[direction][0] == run.dims[direction][1]:
            self.answers["identity"] = identity
        if trained:
            self.answers["knn"] = knn(c, z)
            self.answers["mlp"] = mlp(run, train, direction)


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
        {
            "task": task,
            "direction": direction,
            "method": method,
            **exam.score(z_hat, mean),
            "seed": seed,
        }
        for method, z_hats in answers.items()
        for seed, z_hat in zip(seeds, z_hats, strict=False)
    ]


# ---------------------------------------------------------------------------------------------
# The tables


class Report:
    """Collects rows, prints them as tables, and merges them into RUN/translation.json."""

    def __init__(self, folder):
        self.path, self.rows = os.path.join(folder, "translation.json"), []

    def add(self, rows, note=""):
        self.rows += rows
        print_table(rows, note)

    def save(self):
        """Rows of the tasks of this call replace the older ones; the rest of the file stays."""
        done, old = {r["task"] for r in self.rows}, []
        if os.path.exists(self.path):
            with open(self.path) as f:
                old = [r for r in json.load(f)["rows"] if r["task"] not in done]
        write_json(self.path, {"rows": old + self.rows})


def write_json(path, value):
    with open(path + ".tmp", "w") as f:
        json.dump(value, f, indent=1)
    os.replace(path + ".tmp", path)


def spread(values, digits):
    """ "0.612", or "0.612 +- 0.003" where there are several seeds (sample standard deviation)."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


def print_table(rows, note=""):
    columns = ("cosine", "centred_cosine", "unrelated_cosine", "r1", "r5", "r10")
    task, direction, pool = (rows[0][k] for k in ("task", "direction", "pool"))
    print(f"\n{task}, {direction}; R@k of {pool}{note}")
    print(
        f"{'':16}"
        + "".join(f"{c:>18}" for c in ("cosine", "centred", "unrelated", "R@1", "R@5", "R@10"))
    )
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        cells = [spread([r[c] for r in mine], 3) for c in columns]
        print(f"{method:16}" + "".join(f"{c:>18}" for c in cells))


def paper_note(run, on, direction):
    """The published cosine, where our setting is the paper's."""
    key = run.args.dataset, on
    both_b32 = {run.args.image_encoder, run.args.text_encoder} == {"clip:ViT-B-32-quickgelu"}
    if not (both_b32 and key in PAPER):
        return ""
    return f"; the paper's cosine: {PAPER[key][DIRECTIONS.index(direction)]:.4f}"


def similarity(bench, task, direction, latents, rows, on):
    exam = Exam(latents, direction, rows, bench.limit, bench.pool)
    base = bench.baselines[direction]
    answers = table_of(bench.run, exam, direction, base, bench.seeds)
    rows = rows_of(task, direction, exam, answers, base.mean, bench.seeds)
    bench.report.add(rows, paper_note(bench.run, on, direction))


def ablation(bench):
    """MT Table 7: each term of Eq. 5 alone, and both, at the paper's gamma = 1 and at gamma auto."""
    for direction in DIRECTIONS:
        exam = bench.exam(direction)
        parts = [bench.run.parts(direction, exam.c, s) for s in bench.seeds]
        scale = bench.run.translators[direction].z_scale.cpu()
        both = lambda gamma: [(cM + gamma * F) / scale for cM, F in parts]
        auto = bench.run.gamma[direction]
        answers = {
            "projection only": [parts[0][0] / scale],
            "ddim only": [F / scale for _, F in parts],
            "both, gamma 1": both(1.0),
            "both": both(auto),
        }
        mean = bench.baselines[direction].mean
        rows = rows_of("ablation", direction, exam, answers, mean, bench.seeds)
        bench.report.add(rows, f'; gamma of "both": {auto:.2f}')


def curves(bench):
    """Validation cosine against gamma, omega, DDIM steps and K, the others at the run's values."""
    import matplotlib.pyplot as plt

    run, a = bench.run, bench.run.args
    fig, axes = plt.subplots(1, 4, figsize=(14, 3.3), layout="constrained", sharey=True)
    sweeps = {
        "omega": (0, 0.5, 1, 2, 3, 5),
        "steps": (1, 2, 5, 10, 20, 50),
        "K": (1, 2, 4, 8, 16, 32),
    }
    for direction in DIRECTIONS:
        c, z = bench.validation.of(
            direction, bench.validation.full[:: -(-len(bench.validation.full) // 400)]
        )
        cM, F = run.parts(direction, c)
        scale = run.translators[direction].z_scale.cpu()
        auto = run.gamma[direction]
        gammas = sorted([0, *np.geomspace(0.1, 300, 60), auto])
        cosines = [metrics.cosine((cM + g * F) / scale, z) for g in gammas]
        line = axes[0].plot(gammas, cosines, label=direction)[0]
        axes[0].plot(auto, cosines[gammas.index(auto)], "o", color=line.get_color())
        for ax, (name, values) in zip(axes[1:], sweeps.items(), strict=True):
            y = [metrics.cosine(run.translate(direction, c, **{name: v}), z) for v in values]
            ax.plot(values, y, "o-", ms=3)
    axes[0].axvline(1, color="grey", lw=0.8, ls=":", label="gamma = 1 (MT)")
    axes[0].set(xscale="symlog", xlabel="gamma (dots: auto)", ylabel="cosine, validation")
    for ax, name in zip(
        axes[1:],
        (
            f"omega (this run: {a.omega:g}; MT: 5)",
            f"DDIM steps ({a.ddim_steps})",
            f"K samples ({a.K})",
        ),
        strict=True,
    ):
        ax.set(xlabel=name)
    axes[2].set(xscale="log")
    axes[3].set(xscale="log")
    axes[0].legend(frameon=False, fontsize=8)
    bench.figure(fig, "curves.png")


def classification(bench):
    """MT Table 6: an image's translated text latent, nearest of the prompts "a picture of a {class}"."""
    classes, prompts, label, images = bench.classes()
    if not prompts:
        return print("\nclassification: no classes are defined for this data set; try --on cifar10")
    run, direction = bench.run, "image->text"
    prompts = torch.from_numpy(run.E_text(prompts))
    base = bench.baselines[direction]
    answers = {"ours": [run.translate(direction, images, s) for s in bench.seeds]}
    answers |= {name: [answer(images)] for name, answer in base.answers.items()}
    nearest = lambda z: (fn.normalize(z) @ fn.normalize(prompts).T).argmax(1)
    out = {m: [metrics.accuracy(nearest(z), label) for z in zs] for m, zs in answers.items()}
    out["most frequent class"] = [np.bincount(label).max() / len(label)]
    print(f"\nclassification of {len(label)} images, {len(classes)} classes: accuracy")
    for method, values in out.items():
        print(f"{method:20} {spread(values, 3)}")
    counts = {c: int((label == k).sum()) for k, c in enumerate(classes)}
    table = {"classes": counts, "accuracy": out, "seeds": bench.seeds}
    write_json(os.path.join(run.folder, "classification.json"), table)


# ---------------------------------------------------------------------------------------------
# The pictures


def show(ax, image, title="", colour=None):
    if image is not None:
        ax.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=None if np.ndim(image) == 3 else 1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=7)
    for side in ax.spines.values():
        side.set(visible=colour is not None, color=colour, linewidth=2)


def pixels(image):
    return np.asarray(image, np.float32) / 255


def retrieval(bench, queries=8):
    """MT Fig. 3b: captions, and the five images nearest to their translations; green frames are right."""
    import matplotlib.pyplot as plt

    if not bench.has_images():
        return
    direction, k = "text->image", 5
    exam, base = bench.exam(direction), bench.baselines[direction]
    asked = sorted(exam.right)[:: max(1, len(exam.right) // queries)][:queries]
    methods = {"ours": lambda c: bench.run.translate(direction, c), "ridge": base.answers["ridge"]}
    if "identity" in base.answers:
        methods["identity"] = identity
    size = len(methods) * (k + 0.3)
    fig, axes = plt.subplots(
        queries, len(methods) * k + 1, figsize=(2 + 0.75 * size, 0.95 * queries)
    )
    pool = fn.normalize(exam.z[exam.pool])
    for line, query in zip(axes, asked, strict=True):
        caption = bench.test.captions[int(exam.queries[query])]
        show(line[0], None)
        line[0].axis("off")
        line[0].text(1.0, 0.5, wrap(caption), ha="right", va="center", fontsize=8)
        for m, (name, answer) in enumerate(methods.items()):
            top = (
                (fn.normalize(answer(exam.c[query : query + 1])) @ pool.T)[0]
                .topk(k)
                .indices.tolist()
            )
            for n, place in enumerate(top):
                image = bench.test.images[int(exam.gallery[exam.pool[place]])]
                title = name if n == 0 and line is axes[0] else ""
                right = "limegreen" if place in exam.right[query] else "lightgrey"
                show(line[1 + m * k + n], pixels(image), title, right)
    fig.suptitle(f"caption -> top {k} of {len(exam.pool)} held-out images", fontsize=9)
    bench.figure(fig, "retrieval.png")


def wrap(text, width=26):
    import textwrap

    return "\n".join(textwrap.wrap(text, width))


def pictures(bench, lines=8, samples=5):
    """MT Fig. 3a: held-out captions drawn as images; below, bare names, which leave the typeface open."""
    import matplotlib.pyplot as plt

    decode = bench.run.E_image.decode
    if not bench.has_images() or decode is None:
        return print("\npictures: this image encoder has no decoder (pca has one): skipped")
    direction, run = "text->image", bench.run
    base, net = bench.baselines[direction], run.translators["text->image"]
    for file, rows in (
        ("text-to-image.png", bench.latents.full),
        ("text-to-image-bare.png", bench.latents.bare),
    ):
        if not len(rows):
            continue
        rows = rows[np.random.default_rng(3).permutation(len(rows))[:lines]]
        c, z = bench.latents.of(direction, rows)
        g = torch.Generator().manual_seed(0)
        randn = lambda shape, device: torch.randn(shape, generator=g).to(device)  # noqa: B023
        how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega, randn=randn)
        drawn = [net.sample(c.to(run.device), **how).cpu() for _ in range(samples)]
        columns = {"true, through PCA": z, "ridge": base.answers["ridge"](c)}
        columns["ours, z_hat"] = run.translate(direction, c)
        columns |= {f"sample {n + 1}": x for n, x in enumerate(drawn)}
        fig, axes = plt.subplots(
            lines, len(columns) + 2, figsize=(1 + 1.0 * (len(columns) + 2), lines)
        )
        for n, line in enumerate(axes):
            i, j = bench.latents.pairs[rows[n]]
            line[0].axis("off")
            line[0].text(
                1.0, 0.5, wrap(bench.test.captions[int(j)]), ha="right", va="center", fontsize=8
            )
            show(line[1], pixels(bench.test.images[int(i)]), "" if n else "true")
            for ax, (name, x) in zip(line[2:], columns.items(), strict=True):
                show(ax, decode(x[n : n + 1].numpy())[0].clip(0, 1), "" if n else name)
        bench.figure(fig, file)


# ---------------------------------------------------------------------------------------------


class Bench:
    """A run, its test data, its baselines, and where results go."""

    def __init__(self, run, args):
        self.run, self.limit, self.pool = run, args.limit, args.pool
        self.seeds, self.report = list(range(args.seeds)), Report(run.folder)
        self.on = args.on or run.args.dataset
        where = (args.on, args.data_dir) if args.on else (None, args.data_dir)
        self.test, self.latents = run.latents("test", *where)
        train, self.validation = (
            run.latents(s, None, None if args.on else args.data_dir)[1] for s in ("train", "val")
        )
        trained = not args.first_look
        self.baselines = {d: Baselines(run, d, train, self.validation, trained) for d in DIRECTIONS}

    def exam(self, direction):
        return Exam(self.latents, direction, self.latents.full, self.limit, self.pool)

    def has_images(self):
        return self.run.E_image.spec != "none"

    def figure(self, fig, name):
        import matplotlib.pyplot as plt

        path = os.path.join(self.run.folder, name)
        fig.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(fig)
        print(f"saved {path}")

    def classes(self):
        """(class names, prompts, labels (N,), image latents (N, h1))."""
        pairs = self.latents.pairs[self.latents.full]
        if self.on == "cifar10":
            prompts = list(self.test.captions)
            return (
                [p.split()[-1] for p in prompts],
                prompts,
                pairs[:, 1],
                torch.from_numpy(self.latents.image[pairs[:, 0]]),
            )
        if not self.on.startswith("glyphs"):
            return [], [], [], None
        words = [set(self.test.captions[int(j)].split()) for j in pairs[:, 1]]
        label = np.array(
            [next((k for k, (w, _) in enumerate(SCRIPTS) if w in ws), -1) for ws in words]
        )
        names = [name for _, name in SCRIPTS]
        images = torch.from_numpy(self.latents.image[pairs[label >= 0, 0]])
        return names, [f"a picture of a {n}" for n in names], label[label >= 0], images


def parse(argv=None):
    p = argparse.ArgumentParser(description="Tables and figures of paper 1 for a trained run.")
    p.add_argument("run", help="folder that train.py left, e.g. runs/glyphs-translator")
    p.add_argument(
        "--task",
        nargs="+",
        choices=TASKS,
        metavar="TASK",
        help=f"of {', '.join(TASKS)} (default all)",
    )
    p.add_argument(
        "--on", choices=data.NAMES, metavar="DATASET", help="test on another data set (MT Table 4)"
    )
    p.add_argument("--data-dir", help="where that data set is, or where the run's own has moved")
    p.add_argument(
        "--seeds", type=int, default=3, help="noise seeds of the rows with chance in them"
    )
    p.add_argument("--pool", type=int, default=1000, help="gallery of R@k; COCO papers use 5000")
    p.add_argument("--limit", type=int, default=5000, help="test pairs at most")
    p.add_argument("--device", default="cpu")
    p.add_argument("--download", action="store_true", help="allow fetching encoder weights")
    p.add_argument("--first-look", action="store_true", help="only what needs no trained baseline")
    args = p.parse_args(argv)
    if min(args.seeds, args.pool, args.limit) < 1:
        p.error("--seeds, --pool and --limit are at least 1")
    if args.task is None:
        args.task = ["similarity", "retrieval", "pictures"] if args.first_look else TASKS
        if args.on:
            args.task = ["cross-domain", "classification"]
    return args


def main(argv=None):
    import matplotlib

    matplotlib.use("Agg")
    args, start = parse(argv), time.time()
    bench = Bench(Run(args.run, torch.device(args.device), args.download), args)
    run, latents = bench.run, bench.latents
    sampler = f"K {run.args.K}, {run.args.ddim_steps} DDIM steps, omega {run.args.omega:g}"
    print(
        f"{args.run} on {bench.on}: {len(latents.full)} test pairs; ours: {sampler}; {len(bench.seeds)} noise seeds"
    )
    for task in args.task:
        for direction in DIRECTIONS:
            if task == "similarity":
                similarity(bench, task, direction, latents, latents.full, bench.on)
            if task == "bare" and len(latents.bare):
                similarity(bench, task, direction, latents, latents.bare, "")
            if task == "cross-domain" and bench.on != run.args.dataset:
                similarity(
                    bench, f"cross-domain {bench.on}", direction, latents, latents.full, bench.on
                )
            if task == "cross-domain" and bench.on == "glyphs":
                _, other = run.latents("test", "glyphs-stix")
                similarity(
                    bench, "cross-domain glyphs-stix", direction, other, other.full, "glyphs-stix"
                )
        if task in ("ablation", "curves", "classification", "retrieval", "pictures"):
            globals()[task](bench)
    bench.report.save()
    print(f"\n{time.time() - start:.0f} s; rows in {bench.report.path}")


if __name__ == "__main__":
    from train import TrainError

    try:
        main()
    except (EvaluateError, TrainError, data.DataError, encoders.EncoderError, ValueError) as e:
        sys.exit(f"evaluate.py: {e}")
