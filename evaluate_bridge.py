"""
evaluate_bridge.py: LD's tables and figures for one trained bridge.

    python evaluate_bridge.py runs/glyph-sr-bridge                  all but `parts` and `movie`
    python evaluate_bridge.py runs/glyph-sr-bridge --task parts     what each part sees
    python evaluate_bridge.py runs/glyph-sr-bridge --task movie     samples on their way, a GIF
    python reproduce.py runs/glyph-sr-bridge                        trains Basic first, then all

A bridge makes of a source y the latent z_T = E_y(y), walks from there to a latent z_0 of the target
with its denoiser B, and decodes: x_hat = D_x(z_0). Is a PSNR of 19.5 good for that? Nobody can say
without knowing what else is possible. So beside the samples of the bridge ("ours") a table has

regressor    D_x(B(z_T, T)): one evaluation of our own denoiser, at t = T. There the state is z_T,
             nothing of the target is in it, and the best that B can do is to predict the mean of
             the z_0 that fit. Samples that do not beat it in FID were not worth their time.
mean of 8    eight samples of each pair averaged: another estimate of that mean
ceiling      D_x(E_x(x)): the true target, encoded and decoded. What is lost there, no bridge finds
classical    without learning: bicubic interpolation, the visual hull of silhouettes, the code
             that plays glyphs or its decoder
basic        LD's "simple solution": autoencoders trained alone, a bridge between their latents
data-space   DDBM, a bridge of pixels without encoders; only where y and x have one shape

basic and data-space are runs of their own, in the folders RUN/basic and RUN/data-space. Nothing is
trained here: tables/lddbm.py does that (`python reproduce.py RUN`). bridge_scores.py says what the
scores are, and why no method wins in all of them.

NFE, the number of network (function) evaluations of a sample, is its price in a unit that does not
depend on hardware. Only the denoiser counts; E_y, D_x and the memory of z_T run once a sample.

Map      BridgeEvaluation                            the run, its companions, its rows and figures
         quality, trade_off, samples, tsne, parts    the tasks of --task
Files    RUN/bridge.json: rows {data, method, metric, value, nfe, seconds_per_sample, seed};
         RUN/translation.json for latents; RUN/*.png; RUN/sounds/*.wav of sounds
Letters  N pairs   n samples of a pair   y, x items   z_T, z_0 their latents   x_hat prediction
"""

import argparse
import os
from functools import cached_property

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

import metrics
from arguments import EMBEDDED
from baselines import Baselines
from bridge_scores import (
    NOTES,
    YARDSTICKS,
    BridgeTestSet,
    draw,
    plain_methods,
    print_bridge_scores,
    scores_of_mean,
)
from bridge_sounds import NOTE, latents_match, recognised, save_sounds, sounds_of
from devices import usable
from errors import RunError, run_script
from evaluate import check_flags, run_tasks
from latent_bridge import BridgeNoise
from latents import DIRECTIONS
from movies import bridge_movie
from pictures import COLOURS, PAGE, draw_columns, draw_trade_off, save_figure
from runs import BridgeRun, cpu_randn
from scores import Report, TestSet, at_work, print_left_out, rows_of

# Whose mean is taken. Of a perfect sampler its squared error is 1/8 above that of the best guess.
SAMPLES = 8

# The trade-off: settings of Bridge.sample by name, and steps. DBIM's steps are its NFE. Heun's 5,
# 10, 20, 40 steps are 14, 29, 59, 119 evaluations; 40 steps are the default of DDBM's code.
SAMPLERS = {"DBIM": {}, "DBIM eta 1": {"eta": 1.0}, "Heun": {"sampler": "heun"}}
NFES = (1, 2, 3, 5, 10, 20, 50)
HEUN_STEPS = (5, 10, 20, 40)
# What the two panels of its figure show: distortion, perception.
PANELS = {"image": ("psnr", "fid"), "volume": ("iou", "one_nna"), "vector": ("cosine", "fid")}


class BridgeEvaluation:
    """A run of the bridge, the runs beside it, and where results go."""

    def __init__(self, run, args):
        self.run = run
        self.args = args
        self.first_look = args.first_look
        self.is_latent = len(run.bridges) > 1  # latents go both ways, items only from y to x
        # A first look takes seconds: one noise seed, and a quarter of the pairs.
        self.seeds = list(range(1 if args.first_look else args.seeds))
        most = limit_of(run.args.dataset)
        self.limit = args.limit or (most // 4 if args.first_look else most)
        # A new row replaces the old ones of the same data, method and metric.
        key = ("data", "method", "metric")
        self.report = Report(run.folder, "bridge.json", key, print_bridge_scores)

    def headline(self):
        a = self.run.args
        what = "in data space" if a.data_space else f"{a.design}, {a.procedure}, L_{a.loss}"
        return f"{self.run.folder}: a bridge on {a.dataset}, {what}; {self.args.nfe} DBIM steps"

    @cached_property
    def runs(self):
        """{method: run}: ours, and the companions that have been trained into its folder."""
        runs = {"ours": self.run}
        if self.first_look:  # at the end of a training: there are none yet
            return runs
        for name in ("basic", "data-space"):
            folder = os.path.join(self.run.folder, name)
            if os.path.exists(os.path.join(folder, "model.pt")):
                runs[name] = BridgeRun(folder, self.run.device)
        if "basic" not in runs:
            print(f"no row of Basic: python reproduce.py {self.run.folder} trains it")
        return runs

    def rows(self, method, scores, nfe, seconds, direction=""):
        """Rows of RUN/bridge.json from `scores`, a list of {metric: value} of seed 0, 1, ..."""
        data = f"{self.run.args.dataset} {direction}".strip()
        cost = {"nfe": nfe, "seconds_per_sample": seconds}
        rows = []
        for seed, found in enumerate(scores):
            for metric, value in found.items():
                what = {"data": data, "method": method, "metric": metric, "value": value}
                rows.append({**what, **cost, "seed": seed})
        return rows

    def figure(self, fig, name):
        save_figure(fig, self.run.folder, name)


def limit_of(dataset):
    """Test pairs at most. 1-NNA compares all volumes with each other: 200 take a while."""
    return 200 if dataset in ("glyph-solids", "glyph-rooms", "nuscenes") else 1000


# --------------------------------------------------------------------------------------------------
# Quality


def quality(evaluation):
    """Samples of ours and of its companions, the baselines, and what all that costs."""
    if evaluation.is_latent:
        return quality_of_latents(evaluation)
    test_set = BridgeTestSet(evaluation.run, evaluation.limit)
    steps = evaluation.args.nfe
    seeds = len(evaluation.seeds)
    rows, matched = [], []
    has_sounds = bool(sounds_of(evaluation.run))

    # With chance: a row a seed. Of ours at least eight samples are drawn, for the mean of 8.
    for name, run in evaluation.runs.items():
        n = max(SAMPLES, seeds) if name == "ours" else seeds
        draws, seconds = draw(test_set, run, n, steps=steps)
        scores = [test_set.score(x_hat) for x_hat in draws[:seeds]]
        # These are not of one sample. They have no spread over seeds, and stand with seed 0 alone.
        if test_set.N > 1:
            scores[0]["r1"] = test_set.r1(run)
        if name == "ours":
            scores[0] |= scores_of_mean(test_set, draws[:SAMPLES])
        rows += evaluation.rows(name, scores, steps, seconds)
        if has_sounds:
            scores = [recognised(test_set, x_hat) for x_hat in draws[:seeds]]
            scores[0] |= latents_match(test_set, run)
            matched += evaluation.rows(name, scores, steps, seconds)

    # Without chance: one row.
    for name, (method, nfe) in plain_methods(test_set).items():
        x_hat, seconds = test_set.predict(method)
        rows += evaluation.rows(name, [test_set.score(x_hat)], nfe, seconds)
        if has_sounds:
            matched += evaluation.rows(name, [recognised(test_set, x_hat)], nfe, seconds)
    evaluation.report.add(rows, f", {test_set.N} pairs; {NOTES[test_set.kind]}")
    if matched:
        evaluation.report.add(matched, f", {test_set.N} pairs; {NOTE}")
    test_set.say_what_is_left_out()
    if evaluation.run.args.dataset in YARDSTICKS:
        print(YARDSTICKS[evaluation.run.args.dataset])
    print_cost(test_set, steps)


def print_cost(test_set, steps):
    """Parameters and NFE. The memory of z_T is computed once a sample: it is not in the NFE."""
    bridge = test_set.bridge
    everything = sum(p.numel() for p in bridge.parameters()) / 1e6
    denoiser = sum(p.numel() for p in bridge.net.parameters()) / 1e6
    print(
        f"{everything - denoiser:.2f} M parameters in the modality modules, {denoiser:.2f} M in "
        f"the denoiser; a sample evaluates it {test_set.nfe(steps=steps)} times"
    )


def quality_of_latents(evaluation):
    """A bridge between latents takes MT's test, so that both papers stand in one table.

    Cosines and R@k of z_hat go to RUN/translation.json, as evaluate.py writes them: there "bridge"
    is the mean of eight samples, for MT averages its samples too, beside "bridge, one sample".
    RUN/bridge.json has R@1 and two-way matching, LD's score for faces and voices: is z_hat nearer
    to its own target than to one other? By chance 0.5."""
    run = evaluation.run
    report = Report(run.folder)
    # A split holds the latents of both modalities: either direction gives all.
    train, val, test = (run.pairs(s, DIRECTIONS[0]).latents for s in ("train", "val", "test"))
    for direction in DIRECTIONS:
        limit = evaluation.args.limit or 5000  # as in evaluate.py
        queries = TestSet(test, direction, test.full, limit, evaluation.args.pool or 1000)
        baselines = Baselines(run, direction, train, val, () if evaluation.first_look else ("knn",))
        # A query may have several right targets, and a bridge wants pairs: the first is taken.
        _, first = np.unique(queries.q, return_index=True)
        test_set = BridgeTestSet(run, 0, direction, (queries.c, queries.z[queries.g[first]]))

        z_hats, rows = {}, []
        for name, (methods, nfe) in latent_methods(evaluation, test_set).items():
            found = [test_set.predict(method) for method in methods]
            z_hats[name] = [test_set.bridge.unscale(x.to(run.device)).cpu() for x, _ in found]
            # In RUN/bridge.json one sample and the mean of eight are both of "ours": the name of
            # the metric tells them apart.
            method = "ours" if name.startswith("bridge") else name
            end = f"_mean{SAMPLES}" if name == "bridge" else ""
            scores = [matching(queries, z_hat, baselines.mean, end) for z_hat in z_hats[name]]
            seconds = min(seconds for _, seconds in found)
            rows += evaluation.rows(method, scores, nfe, seconds, direction)

        # The same baselines as in MT's table, and the translator itself, if it has been trained.
        for name, answer in baselines.answers.items():
            z_hats[name] = [answer(queries.c)]
        seeds = evaluation.seeds
        table = rows_of("similarity", direction, queries, z_hats, baselines.mean, seeds)
        report.add(table + translator_rows(evaluation, direction))
        note = f", {len(queries.q)} pairs, R@1 of {len(queries.pool)}"
        if rows:
            evaluation.report.add(rows, note)
        else:
            print_left_out(["two-way matching", "R@1"])


def matching(queries, z_hat, mean, end):
    """{metric: value} of z_hat (Q, h2), the metrics' names with the ending `end`."""
    scores = {}
    # A wrong one to compare with: there have to be two.
    if len(queries.q) > 1:
        two_way = metrics.two_way(z_hat[queries.q], queries.z[queries.g])
        scores[f"two_way{end}"] = two_way
    if len(queries.pool) > 1:
        scores[f"r1{end}"] = queries.score(z_hat, mean)["r1"]
    return scores


def latent_methods(evaluation, test_set):
    """{name: ([a method for each seed, or one without chance], NFE)}."""
    steps = evaluation.args.nfe
    # {name: (run, samples to average)}
    samplers = {"bridge, one sample": (evaluation.run, 1), "bridge": (evaluation.run, SAMPLES)}
    for name, run in evaluation.runs.items():
        if name != "ours":
            samplers[name] = run, 1
    methods = {}
    for name, (run, n) in samplers.items():
        each = [test_set.sampler(run, seed, n, steps=steps) for seed in evaluation.seeds]
        methods[name] = each, steps
    for name, (method, nfe) in plain_methods(test_set).items():
        methods[name] = [method], nfe
    return methods


def translator_rows(evaluation, direction):
    """MT's own rows on the same test set, from the table of the run that --beside names."""
    folder = evaluation.args.beside
    # glyph-names are the latents of the glyphs, those of the translator's usual run.
    if not folder and evaluation.run.args.dataset == "glyph-names":
        folder = "runs/glyphs-translator"
    table = Report(folder).rows if folder else []
    wanted = ("similarity", direction, "ours")
    rows = []
    for row in table:
        if (row["task"], row["direction"], row["method"]) == wanted:
            rows.append({**row, "method": "translator"})
    if not rows:
        print(f"\nno row of the translator: --beside {folder} has no table of this direction")
    return rows


# --------------------------------------------------------------------------------------------------
# Quality over evaluations


def trade_off(evaluation):
    """Distortion and perception over NFE: a table and a figure, by sampler.

    Where chance comes in: all paths of a bridge start at one point, z_T. DBIM leaves it with fresh
    noise ("booting noise"). With eta = 0 no more is added, so this noise is all that makes samples
    differ; with eta = 1 each step adds some. In one or two evaluations the walk ends before the
    noise has grown: the sample is the regressor, or nearly. DDBM's Heun adds noise in each step
    ("churn").

    What to expect: with more evaluations of DBIM the samples differ more, so that distortion grows
    and perception gets better; the mean of four wins back some of the distortion."""
    test_set = BridgeTestSet(evaluation.run, max(2, evaluation.limit // 2))
    rows = []
    for name, settings in SAMPLERS.items():
        # Four samples, for a mean and the diversity. One is enough of eta 1, which is like eta 0.
        n = 1 if name == "DBIM eta 1" else 4
        for steps in HEUN_STEPS if name == "Heun" else NFES:
            draws, seconds = draw(test_set, test_set.run, n, steps=steps, **settings)
            scores = test_set.score(draws[0])
            if n > 1:
                scores |= scores_of_mean(test_set, draws)
            nfe = test_set.nfe(steps=steps, **settings)
            rows += evaluation.rows(f"ours, {name}", [scores], nfe, seconds)
    evaluation.report.add(rows, f", {test_set.N} pairs; {NOTES[test_set.kind]}")
    print_dbim_against_heun(rows)

    # The figure has the regressor as a star and the ceiling as a line.
    plain = {}
    for name, (method, _) in plain_methods(test_set).items():
        x_hat, _ = test_set.predict(method)
        plain[name] = test_set.score(x_hat)
    draw_trade_off(evaluation, rows, plain, PANELS[test_set.kind], SAMPLERS)


def print_dbim_against_heun(rows):
    """What DBIM does in 10 evaluations, against DDBM's sampler in its usual 119."""
    dbim = {r["metric"]: r for r in rows if (r["method"], r["nfe"]) == ("ours, DBIM", 10)}
    heun = {r["metric"]: r for r in rows if (r["method"], r["nfe"]) == ("ours, Heun", 119)}
    changes = []
    for metric, row in dbim.items():
        if heun[metric]["value"]:  # no change in per cent of 0
            change = row["value"] / heun[metric]["value"] - 1
            changes.append(f"{metric} {change:+.1%}")
    # The time is the same in all rows of a method.
    fast = next(iter(dbim.values()))["seconds_per_sample"]
    slow = next(iter(heun.values()))["seconds_per_sample"]
    print(
        f"DBIM at 10 against Heun at 119: {', '.join(changes)}; "
        f"Heun takes {slow / fast:.1f} times as long"
    )


# --------------------------------------------------------------------------------------------------
# Pictures


def samples(evaluation):
    """Eight held-out pairs: source, baselines, four samples, the mean of eight, truth."""
    test_set = BridgeTestSet(evaluation.run, 8)
    draws, _ = draw(test_set, test_set.run, SAMPLES, steps=evaluation.args.nfe)
    columns = {"source": test_set.bridge.scale_y(test_set.y.to(test_set.run.device))}
    # The ceiling is left out: the picture is about what can be known from y.
    methods = plain_methods(test_set)
    for name in ("classical", "regressor"):
        if name in methods:
            method, _ = methods[name]
            columns[name], _ = test_set.predict(method)
    # Four of them show how much samples differ; their mean is that of all eight.
    for n in range(4):
        columns[f"sample {n + 1}"] = draws[n]
    columns[f"mean of {SAMPLES}"] = torch.stack(draws).mean(0)
    columns["truth"] = test_set.truth
    draw_columns(evaluation, test_set, columns, "samples")
    save_sounds(evaluation, columns)  # of sounds; nothing else can be heard


def tsne(evaluation):
    """LD Fig. 1: the latents of both modalities on one plane, for Basic and for ours.

    t-SNE keeps neighbours together; places and distances mean nothing else. Where circles (z_T)
    and triangles (z_0) of one colour mix, both modalities share one space; R@1 is its measure."""
    test_set = BridgeTestSet(evaluation.run, 300)
    if test_set.N < 4:
        return print(f"\ntsne: skipped, {test_set.N} test pairs have no neighbours to show")
    # LD colours by category. These pairs have none: clusters of the targets take their place.
    flat = test_set.truth.flatten(1).numpy()
    flat = PCA(min(30, *flat.shape), random_state=0).fit_transform(flat)
    colour = KMeans(min(8, test_set.N), n_init=3, random_state=0).fit_predict(flat)

    # Side by side, or ours alone where Basic has not been trained.
    runs = {name: evaluation.runs[name] for name in ("basic", "ours") if name in evaluation.runs}
    fig = Figure(figsize=(PAGE, 4.2), layout="constrained")
    axes = fig.subplots(1, len(runs), squeeze=False)[0]
    for ax, (name, run) in zip(axes, runs.items(), strict=True):
        # Both modalities at once, so that they can meet. Perplexity: how many neighbours a point
        # has, about; sklearn wants it below the number of points.
        z = torch.cat(test_set.latents(run)).numpy()  # (2 N, tokens x D)
        perplexity = min(30, test_set.N / 2)
        at = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(z)
        style = {"s": 14, "c": np.array(COLOURS)[colour], "alpha": 0.8}
        ax.scatter(*at[: test_set.N].T, marker="o", label="z_T", **style)
        ax.scatter(*at[test_set.N :].T, marker="^", label="z_0", **style)
        ax.set(xticks=[], yticks=[], xlabel="colour: k-means cluster of the target")
        ax.set_title(f"{name}: R@1 of {test_set.N} is {test_set.r1(run):.3f}")
    axes[-1].legend(frameon=False)
    evaluation.figure(fig, "tsne")


@torch.no_grad()
def parts(evaluation):
    """What each part sees, on four pairs. Where does a broken bridge break?

    First the latents as maps, a line a token. Then, at five times between 0 and T, the noised state
    z_t and the denoiser's estimate z0_hat, both decoded by D_x. Near t = 0 both look like x. Near T
    z_t keeps only what z_T says of x, with noise on the way; z0_hat should be the cleaner one."""
    test_set = BridgeTestSet(evaluation.run, 4)
    bridge = test_set.bridge
    device = test_set.run.device
    z_T, z_0 = bridge.latents(test_set.y.to(device), test_set.x.to(device))
    eps = cpu_randn(0)(z_T.shape, device)
    memory = bridge.net.remember(z_T)

    # A token has mean 0 and std 1: divided by 3, nearly all of it is in [-1, 1], black to white.
    columns = {"y": bridge.scale_y(test_set.y.to(device))}
    columns["E_y(y)"] = z_T[:, None] / 3  # (N, 1, tokens, D): an image of one channel
    columns["E_x(x)"] = z_0[:, None] / 3
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        t = torch.full((test_set.N,), share * bridge.kernel.T, dtype=torch.float64, device=device)
        z_t = bridge.noised(z_0, z_T, BridgeNoise(t, eps))
        # A title breaks at its blank; not at this one.
        columns[f"z_t, {share}\u00a0T"] = bridge.D_x(z_t)
        columns[f"z0_hat, {share}\u00a0T"] = bridge.D_x(bridge.denoise(z_t, t, memory))
    columns["x"] = test_set.truth
    draw_columns(evaluation, test_set, columns, "parts")


# --------------------------------------------------------------------------------------------------
# The command line

BRIDGE_TASKS = {
    "quality": quality,
    "trade-off": trade_off,
    "samples": samples,
    "tsne": tsne,
    "parts": parts,
    "movie": bridge_movie,
}
# `parts` is for the search of a fault, `movie` to be looked at.
USUAL = ("quality", "trade-off", "samples", "tsne")
FIRST_LOOK = ("quality", "samples")  # what train_bridge.py shows at its end


def add_flags(parser, latents=True):
    """The flags of every script that evaluates a bridge; latents: whether it may be one of them."""
    a = parser.add_argument
    parser.set_defaults(pool=None)
    a("--nfe", type=int, default=10, help="network evaluations of a sample (10)")
    a("--seeds", type=int, help="noise seeds of the rows with chance in them (3)")
    a(
        "--limit",
        type=int,
        help="test pairs at most (1000; glyph-solids, glyph-rooms, nuscenes 200)",
    )
    a("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    if latents:
        a("--pool", type=int, help="latents: gallery of R@k (1000)")
        a("--download", action="store_true", help="allow fetching encoder weights")


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Tables and figures of LD for a trained bridge.")
    # What this script alone asks for; add_flags has what it shares with tables/lddbm.py.
    a = parser.add_argument
    a("run", help="folder that train_bridge.py left, e.g. runs/glyph-sr-bridge")
    tasks = f"{', '.join(BRIDGE_TASKS)} (default: all but parts and movie)"
    a("--task", nargs="+", choices=tuple(BRIDGE_TASKS), metavar="TASK", help=tasks)
    a("--beside", help="latents: the translator's run (runs/glyphs-translator)")
    a("--data-dir", help="where the run's data set has moved")
    a("--first-look", action="store_true", help="few tasks, and nothing that is slow")
    add_flags(parser)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    if args.first_look and args.seeds:
        parser.error("--first-look has one noise seed: leave out --seeds, or --first-look")
    args.seeds = args.seeds or 3
    return args


def open_evaluation(args):
    """The BridgeEvaluation of args.run. RunError for flags that it would not look at."""
    run = BridgeRun(args.run, usable(args.device), args.data_dir, args.download)
    dataset = run.args.dataset
    if args.data_dir and dataset in EMBEDDED:
        raise RunError(f"--data-dir: {dataset} is embedded, it has no folder")
    evaluation = BridgeEvaluation(run, args)
    for name in ("pool", "beside"):
        if getattr(args, name) and not evaluation.is_latent:
            raise RunError(f"--{name} is for bridges between latents, {dataset} has none")
    return evaluation


def main(argv=None):
    args = parse(argv)
    chosen = args.task or (FIRST_LOOK if args.first_look else USUAL)
    with at_work(args.run):
        run_tasks(open_evaluation(args), {name: BRIDGE_TASKS[name] for name in chosen})


if __name__ == "__main__":
    run_script("evaluate_bridge.py", main)
