"""
evaluate_bridge.py: LD's tables and figures for a trained run of the bridge.
"""

import argparse
import importlib.util
import os
import sys
import time
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import metrics
from baselines import Baselines
from bridge_networks import kind_of
from data import DataError
from devices import usable
from encoders import EncoderError
from evaluate import run_tasks
from glyphs import visual_hull
from latent_bridge import BridgeNoise
from latents import DIRECTIONS
from pictures import draw_columns, draw_trade_off, save_figure
from runs import BridgeRun, RunError, cpu_randn
from scores import Report, TestSet, rows_of, spread

SAMPLES = 8  # of which the mean is taken


AS_OURS = {"bridge": ("ours", "_mean8"), "bridge, one sample": ("ours", "")}  # in bridge.json


NFES, HEUN_STEPS = (1, 2, 3, 5, 10, 20, 50), (5, 10, 20, 40)


SAMPLERS = {"DBIM": {}, "DBIM eta 1": {"eta": 1.0}, "Heun": {"sampler": "heun"}}


FID = "FID: 128 PCA features, fitted on at most 5,000 training targets"


NOTES = {
    "image": f"PSNR and SSIM in [-1, 1]; {FID}",
    "volume": "occupied: above 0; 1-NNA by Chamfer",
    "vector": FID,
}


DIGITS = {"psnr": 2, "fid": 2}


PANELS = {"image": ("psnr", "fid"), "volume": ("iou", "one_nna"), "vector": ("cosine", "fid")}


class BridgeTestSet:
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
        bridge, randn = run.bridges[self.direction], cpu_randn(seed)
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


class BridgeEvaluation:
    """A run of the bridge, the runs beside it, and where results go."""

    def __init__(self, run, args):
        self.run, self.args, self.first_look = run, args, args.first_look
        self.seeds = list(range(1 if args.first_look else args.seeds))
        self.latent = len(run.bridges) > 1
        most = limit_of(run.args.dataset)
        self.limit = args.limit or (most // 4 if args.first_look else most)
        self.report = Report(
            run.folder, "bridge.json", ("data", "method", "metric"), print_bridge_scores
        )

    def headline(self):
        a = self.run.args
        what = "in data space" if a.data_space else f"{a.design}, {a.procedure}, L_{a.loss}"
        return f"{self.run.folder}: a bridge on {a.dataset}, {what}; {self.args.nfe} DBIM steps"

    @cached_property
    def runs(self):
        """{method: run}: ours, and the companions in its folder (tables/lddbm.py trains them)."""
        runs = {"ours": self.run}
        if self.first_look:
            return runs
        for name in ("basic", "data-space"):
            folder = os.path.join(self.run.folder, name)
            if os.path.exists(os.path.join(folder, "model.pt")):
                runs[name] = BridgeRun(folder, self.run.device)
        if "basic" not in runs:
            print(f"no row of Basic: python reproduce.py {self.run.folder} trains it")
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

    def figure(self, fig, name):
        save_figure(fig, self.run.folder, name)


def limit_of(dataset):
    return 200 if dataset == "glyph-solids" else 1000


def print_bridge_scores(rows, note=""):
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


def classical(q):
    """What one would do without learning, as an answer: the visual hull, bicubic; or None."""
    y, x = q.bridge.y_shape, q.bridge.x_shape
    if q.run.args.dataset == "glyph-solids":
        return lambda y, x: torch.from_numpy(visual_hull(y.cpu().numpy())) * 2.0 - 1
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


def quality(evaluation):
    """Samples of ours and of the runs beside it, the yardsticks, and what all that costs."""
    if evaluation.latent:
        return vectors(evaluation)
    q, steps, seeds, rows = (
        BridgeTestSet(evaluation.run, evaluation.limit),
        evaluation.args.nfe,
        evaluation.seeds,
        [],
    )
    for name, run in evaluation.runs.items():
        n = max(SAMPLES, len(seeds)) if name == "ours" else len(seeds)
        found = [q.ask(q.sampler(run, s, steps=steps)) for s in range(n)]
        draws, seconds = [x_hat for x_hat, _ in found], min(s for _, s in found)
        marks = [q.score(x_hat) for x_hat in draws[: len(seeds)]]
        marks[0] |= {"r1": q.r1(run)} | (several(q, draws[:SAMPLES]) if name == "ours" else {})
        rows += evaluation.rows(name, marks, steps, seconds)
    for name, (answer, nfe) in plain_answers(q).items():
        x_hat, seconds = q.ask(answer)
        rows += evaluation.rows(name, [q.score(x_hat)], nfe, seconds)
    evaluation.report.add(rows, f", {q.N} pairs; {NOTES[q.kind]}")
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


def vectors(evaluation):
    """Latents: the translator's exam. Rows in RUN/translation.json, and in RUN/bridge.json."""
    run, seeds, steps, report = (
        evaluation.run,
        evaluation.seeds,
        evaluation.args.nfe,
        Report(evaluation.run.folder),
    )
    sets = [run.pairs(s, DIRECTIONS[0]).latents for s in ("train", "val", "test")]
    for d in DIRECTIONS:
        exam = TestSet(
            sets[2], d, sets[2].full, evaluation.args.limit or 5000, evaluation.args.pool
        )
        base = Baselines(run, d, *sets[:2], () if evaluation.first_look else ("knn",))
        own = exam.z[exam.g[np.unique(exam.q, return_index=True)[1]]]  # each query's answer
        q = BridgeTestSet(run, 0, d, (exam.c, own))
        draws = lambda run, n=1: ([q.sampler(run, s, n, steps=steps) for s in seeds], steps)
        answers = {"bridge, one sample": draws(run), "bridge": draws(run, SAMPLES)}
        answers |= {name: draws(other) for name, other in evaluation.runs.items() if name != "ours"}
        answers |= {name: ([answer], nfe) for name, (answer, nfe) in plain_answers(q).items()}
        z_hats, marks = {}, []
        for name, (asked, nfe) in answers.items():
            found = [q.ask(answer) for answer in asked]
            z_hats[name] = [q.bridge.unscale(x.to(run.device)).cpu() for x, _ in found]
            method, tail = AS_OURS.get(name, (name, ""))
            won = [{f"two_way{tail}": two_way(exam, z), f"r1{tail}": exam.score(z, base.mean)["r1"]}
                   for z in z_hats[name]]  # fmt: skip
            marks += evaluation.rows(method, won, nfe, min(s for _, s in found), d)
        z_hats |= {name: [f(exam.c)] for name, f in base.answers.items()}
        rows = rows_of("similarity", d, exam, z_hats, base.mean, seeds)
        report.add(rows + beside(evaluation, d))
        evaluation.report.add(marks, f", {len(exam.q)} pairs, R@1 of {len(exam.pool)}")


def two_way(exam, z_hat):
    return metrics.two_way(z_hat[exam.q], exam.z[exam.g])


def beside(evaluation, direction):
    """The translator's own rows of the same exam, from the run that --beside names."""
    known = "runs/glyphs-translator" if evaluation.run.args.dataset == "glyph-names" else None
    folder = evaluation.args.beside or known
    rows = Report(folder).rows if folder else []
    mine = ("similarity", direction, "ours")
    rows = [r for r in rows if (r["task"], r["direction"], r["method"]) == mine]
    if not rows:
        print(f"\nno row of the translator: --beside {folder} has no table of this direction")
    return [r | {"method": "translator"} for r in rows]


def trade_off(evaluation):
    """Perception against distortion over NFE: a figure and its table, one sample and means of 4."""
    q, rows = BridgeTestSet(evaluation.run, max(2, evaluation.limit // 2)), []
    for name, how in SAMPLERS.items():
        for steps in HEUN_STEPS if name == "Heun" else NFES:
            n = 4 if name in ("DBIM", "Heun") else 1
            found = [q.ask(q.sampler(q.run, s, steps=steps, **how)) for s in range(n)]
            draws, seconds = [x_hat for x_hat, _ in found], min(s for _, s in found)
            marks = q.score(draws[0]) | (several(q, draws) if n > 1 else {})
            rows += evaluation.rows(f"ours, {name}", [marks], q.nfe(steps=steps, **how), seconds)
    evaluation.report.add(rows, f", {q.N} pairs; {NOTES[q.kind]}")
    print_dbim_against_heun(rows)
    marks = {m: q.score(q.ask(answer)[0]) for m, (answer, _) in plain_answers(q).items()}
    draw_trade_off(evaluation, rows, marks, PANELS[q.kind], SAMPLERS)


def print_dbim_against_heun(rows):
    pick = lambda how: {r["metric"]: r for r in rows if (r["method"], r["nfe"]) == how}
    dbim, heun = pick(("ours, DBIM", 10)), pick(("ours, Heun", 119))
    change = {m: r["value"] / heun[m]["value"] - 1 for m, r in dbim.items() if heun[m]["value"]}
    ratio = rows[-1]["seconds_per_sample"] / next(iter(dbim.values()))["seconds_per_sample"]
    change = ", ".join(f"{m} {c:+.1%}" for m, c in change.items())
    print(f"DBIM at 10 against Heun at 119: {change}; Heun takes {ratio:.1f} times as long")


def samples(evaluation):
    """Eight held-out pairs: source, yardsticks, four samples, the mean of eight, truth."""
    q = BridgeTestSet(evaluation.run, 8)
    draws = [q.ask(q.sampler(q.run, s, steps=evaluation.args.nfe))[0] for s in range(SAMPLES)]
    found = {name: q.ask(answer)[0] for name, (answer, _) in plain_answers(q).items()}
    columns = {"source": q.bridge.scale_y(q.y.to(q.run.device))}
    columns |= {name: found[name] for name in ("classical", "regressor") if name in found}
    columns |= {f"sample {n + 1}": draws[n] for n in range(4)}
    columns |= {f"mean of {SAMPLES}": torch.stack(draws).mean(0), "truth": q.truth}
    draw_columns(evaluation, q, columns, "samples")


def tsne(evaluation):
    """LD Fig. 1: the latents of both modalities on one plane, for Basic and for ours."""
    q = BridgeTestSet(evaluation.run, 300)
    flat = q.truth.flatten(1).numpy()
    flat = PCA(min(30, *flat.shape), random_state=0).fit_transform(flat)
    colour = KMeans(min(8, q.N), n_init=3, random_state=0).fit_predict(flat)
    runs = {name: evaluation.runs[name] for name in ("basic", "ours") if name in evaluation.runs}
    fig = Figure(figsize=(5.5 * len(runs), 5), layout="constrained")
    for ax, name in zip(fig.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        how = dict(perplexity=min(30, q.N / 2), init="pca", random_state=0)
        at = TSNE(2, **how).fit_transform(torch.cat(q.latents(runs[name])).numpy())
        for part, marker, label in ((at[: q.N], "o", "z_T"), (at[q.N :], "^", "z_0")):
            ax.scatter(*part.T, 14, colour, marker=marker, cmap="tab10", alpha=0.7, label=label)
        ax.set(xticks=[], yticks=[], title=f"{name}: R@1 of {q.N} is {q.r1(runs[name]):.3f}")
        ax.set_xlabel("colour: k-means cluster of the target")
    ax.legend(frameon=False)
    evaluation.figure(fig, "tsne")


@torch.no_grad()
def parts(evaluation):
    """What each part sees: tokens as maps (a line a token), z_t and z0_hat through D_x."""
    q = BridgeTestSet(evaluation.run, 4)
    bridge, device = q.bridge, q.run.device
    y, x = q.y.to(device), q.x.to(device)
    z_T, z_0 = bridge.latents(y, x)
    eps, memory = cpu_randn(0)(z_T.shape, device), bridge.net.remember(z_T)
    columns = {"y": bridge.scale_y(y), "E_y(y)": z_T[:, None] / 3, "E_x(x)": z_0[:, None] / 3}
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full((q.N,), share * bridge.kernel.T, dtype=torch.float64, device=device)
        z_t = bridge.noised(z_0, z_T, BridgeNoise(t, eps))
        columns[f"D_x(z_t), {share} T"] = bridge.D_x(z_t)
        columns[f"D_x(z0_hat), {share} T"] = bridge.D_x(bridge.denoise(z_t, t, memory))
    draw_columns(evaluation, q, columns | {"x": q.truth}, "parts")


BRIDGE_TASKS = {
    "quality": quality,
    "trade-off": trade_off,
    "samples": samples,
    "tsne": tsne,
    "parts": parts,
}


FIRST_LOOK = ("quality", "samples")


def add_flags(parser):
    """The flags of every script that evaluates a bridge."""
    a = parser.add_argument
    a("--nfe", type=int, default=10, help="network evaluations of a sample (10)")
    a("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them (3)")
    a("--pool", type=int, default=1000, help="latents: gallery of R@k (1000)")
    a("--limit", type=int, help="test pairs at most (1000; glyph-solids 200)")
    a("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    a("--download", action="store_true", help="allow fetching encoder weights")


def check_flags(parser, args):
    """Stops with argparse's one line at numbers that no evaluation can have."""
    if min(args.seeds, args.pool, args.limit or 1, args.nfe) < 1:
        parser.error("--seeds, --pool, --limit and --nfe are at least 1")


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Tables and figures of LD for a trained bridge.")
    parser.add_argument("run", help="folder that train_bridge.py left, e.g. runs/glyph-sr-bridge")
    tasks = f"{', '.join(BRIDGE_TASKS)} (default: all but parts)"
    names = tuple(BRIDGE_TASKS)
    parser.add_argument("--task", nargs="+", choices=names, metavar="TASK", help=tasks)
    told = "latents: the translator's run (runs/glyphs-translator)"
    parser.add_argument("--beside", help=told)
    parser.add_argument("--data-dir", help="where the run's data set has moved")
    told = "few tasks, and nothing that is slow"
    parser.add_argument("--first-look", action="store_true", help=told)
    add_flags(parser)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    return args


def open_evaluation(args):
    run = BridgeRun(args.run, usable(args.device), args.data_dir, args.download)
    return BridgeEvaluation(run, args)


def main(argv=None):
    args = parse(argv)
    chosen = [name for name in BRIDGE_TASKS if name != "parts"]
    if args.first_look:
        chosen = FIRST_LOOK
    run_tasks(open_evaluation(args), {name: BRIDGE_TASKS[name] for name in args.task or chosen})


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"evaluate_bridge.py: {error}")
