"""
tables/lddbm.py: the ablations and the speed row of LD's poster; and Basic, beside any bridge.

    python reproduce.py lddbm-design                     five denoisers
    python reproduce.py lddbm-losses --on glyph-sr       L_rec or L_pred, with and without InfoNCE
    python reproduce.py lddbm-training --only 0          two-step, end-to-end, iterative; one seed
    python reproduce.py lddbm-speed                      a latent bridge against one of pixels

An ablation asks what each part of a method is worth: it changes one thing at a time, and trains
every variant from nothing with the same data, the same seeds and the same number of updates. Ours
are small on purpose, two minutes of one core each. What can be compared with the poster is
therefore not the numbers but the order: which variant is better? Each table ends with the pairs of
variants that stand the other way round here. Does the order settle? Every run is scored at a
quarter, at half and at the end of its training: see the figure.

Map      ABLATIONS                 the poster's three tables: variants, their flags, their numbers
         train_companions          Basic, beside a run that is there already
         ablation, print_ablation  one of the three tables
         speed                     the fourth
Files    runs/lddbm/TABLE.json and TABLE-DATASET.png, and a run's folder for each variant, data set
         and seed there. A second call finds all, and only prints. Two cores train two seeds at
         once if each is started in its own shell, with --only 0 and --only 1.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

# Started as a script, Python looks for modules in tables/; ours are one folder up.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate_bridge
import train_bridge
from arguments import ONLY_FOR
from bridge_networks import kind_of
from bridge_scores import DIGITS, NOTES, BridgeTestSet, print_bridge_scores
from checkpoints import trained_run
from devices import usable
from errors import run_script
from evaluate import check_flags
from evaluate_bridge import BridgeEvaluation, limit_of, trade_off
from pictures import AXES, PAGE, save_figure
from runs import BridgeRun
from safe_files import write_json
from scores import at_work, spread


class Variant(NamedTuple):
    """A row of an ablation: the flags of train_bridge.py that make it, and the poster's numbers."""

    name: str
    flags: str  # "" for ours, the defaults
    iou: float  # ShapeNet, voxels
    one_nna: float
    psnr: float  # CelebA-HQ, 16 x 16 to 128 x 128 pixels
    ssim: float
    fid: float  # the poster's is LPIPS. We have no LPIPS everywhere: FID stands in its place


# In lddbm-design each denoiser adds something to the one above.
# fmt: off
ABLATIONS = {
    "lddbm-design": [
        #       name               flags                        IoU    1-NNA  PSNR  SSIM  LPIPS
        Variant("unet",            "--design unet",             0.635, 0.518, 23.2, 0.57, 0.42),
        Variant("dit",             "--design dit",              0.613, 0.548, 22.2, 0.52, 0.49),
        Variant("encoder-decoder", "--design encoder-decoder",  0.651, 0.518, 23.4, 0.53, 0.38),
        Variant("spatial",         "--design spatial",          0.658, 0.522, 22.9, 0.56, 0.41),
        Variant("mask",            "",                          0.664, 0.508, 25.6, 0.68, 0.32),
    ],
    "lddbm-losses": [
        Variant("rec",             "--loss rec --w-nce 0",      0.609, 0.625, 20.5, 0.49, 0.62),
        Variant("pred",            "--loss pred --w-nce 0",     0.643, 0.522, 23.7, 0.64, 0.41),
        Variant("rec+nce",         "--loss rec",                0.627, 0.578, 21.4, 0.51, 0.63),
        Variant("pred+nce",        "",                          0.664, 0.508, 25.6, 0.68, 0.32),
    ],
    "lddbm-training": [
        Variant("two-step",        "--procedure two-step",      0.637, 0.522, 23.3, 0.58, 0.40),
        Variant("end-to-end",      "",                          0.642, 0.517, 23.4, 0.57, 0.39),
        Variant("iterative",       "--procedure iterative",     0.664, 0.508, 25.6, 0.68, 0.32),
    ],
}
# fmt: on
SPEED = "poster, edges2handbags: latent FID 4.17 in 7.8 s, data space (DDBM) 2.93 in 16.9 s"

# Training steps by data set, two minutes each on one core: up to an hour a table on two cores. The
# average of the weights is over the last 1 / (1 - 0.97) = 33 steps.
STEPS = {"glyph-sr": 400, "glyph-solids": 1000}
EMA = 0.97
SHARES = (0.25, 0.5, 1)  # of the training, after which a run is scored


# --------------------------------------------------------------------------------------------------
# Training the rows


def trained(argv, device):
    """The BridgeRun of a command line of train_bridge.py: trained now, or found."""
    return BridgeRun(trained_run(train_bridge, argv, device), device)


def train_variant(variant, dataset, seed, device):
    """{share: the BridgeRun} of one row and seed. Ours is one run for all three tables."""
    steps = STEPS[dataset]
    # Ours moves both sides at every step, these one: twice the steps, as many updates.
    if "--procedure" in variant.flags:
        steps *= 2
    name = variant.name if variant.flags else "ours"
    argv = ["--dataset", dataset, "--steps", str(steps), "--ema", str(EMA), "--seed", str(seed)]
    argv += ["--keep-every", str(steps // 4), *variant.flags.split()]
    out = f"runs/lddbm/{dataset}-{name}-{seed}"
    found = {1: trained([*argv, "--out", out], device)}
    for share in SHARES[:-1]:
        found[share] = copy_at(found[1], int(share * steps))
    return found


def copy_at(run, step):
    """The BridgeRun that --keep-every has kept after so many steps."""
    return BridgeRun(os.path.join(run.folder, f"step-{step}"), run.device)


def argv_of(args, **changes):
    """The command line of train_bridge.py that gives these arguments, but for the changes."""
    wanted = {**vars(args), **changes}
    # How a run was started is no setting of it.
    wanted |= {"resume": False, "overwrite": False}
    # Most switches are off when they are left out. These are off by "--no-cosine".
    yes_no = [flag.name for flag in train_bridge.FLAGS if isinstance(flag.full, bool)]
    # A flag of other data sets has its default here, and would be refused if it were typed.
    for names, sets in ONLY_FOR:
        if args.dataset not in sets:
            wanted = {name: value for name, value in wanted.items() if name not in names.split()}

    argv = []
    for name, value in wanted.items():
        option = name.replace("_", "-")
        if value is True:
            argv.append("--" + option)
        elif value is False and name in yes_no:
            argv.append("--no-" + option)
        elif value is not None and value is not False:
            argv += ["--" + option, str(value)]
    return argv


def train_companions(run):
    """Train what stands beside a bridge in its table of quality, into RUN/basic and RUN/data-space.

    basic        LD's "simple solution": two autoencoders first (L_rec alone), then a bridge between
                 their frozen latents. No L_pred, no InfoNCE: what do these two add?
    data-space   where both sides are images of one shape: a bridge of pixels, DDBM

    All other settings are the run's own. Where ours moves both sides at every step, basic moves one
    and gets twice the steps: as many updates of each side, in about the same time."""
    twice = 2 if run.args.procedure == "end-to-end" else 1
    basic = dict(procedure="two-step", loss="rec", w_nce=0.0, data_space=False)
    companions = {"basic": basic | {"steps": twice * run.args.steps}}
    bridge = next(iter(run.bridges.values()))
    same = kind_of(bridge.x_shape) == "image" and bridge.x_shape == bridge.y_shape
    if same and not run.args.data_space:
        companions["data-space"] = dict(data_space=True)
    for name, changes in companions.items():
        argv = argv_of(run.args, out=os.path.join(run.folder, name), **changes)
        trained_run(train_bridge, argv, run.device)


# --------------------------------------------------------------------------------------------------
# The ablations


def ablation(args, device):
    """Train the variants of one table, every seed; print them beside the poster's numbers."""
    rows = []
    for dataset in [args.on] if args.on else STEPS:
        test_set = None
        for variant in ABLATIONS[args.table]:
            for seed in range(args.seeds) if args.only is None else [args.only]:
                runs = train_variant(variant, dataset, seed, device)
                # One test set for all runs of a data set: it has the same pairs for each, and the
                # features of FID are fitted once.
                if test_set is None:
                    test_set = BridgeTestSet(runs[1], args.limit or limit_of(dataset))
                row = {"data": dataset, "method": variant.name, "seed": seed, "nfe": args.nfe}
                for share, run in runs.items():
                    row["updates"] = int(share * STEPS[dataset])
                    for metric, value in scores_of(run, test_set, args.nfe).items():
                        rows.append({**row, "metric": metric, "value": value})
        mine = [row for row in rows if row["data"] == dataset]
        print_ablation(args.table, [row for row in mine if row["updates"] == STEPS[dataset]])
        test_set.say_what_is_left_out()
        draw_ablation(mine, f"{args.table}-{dataset}")
    # A part of the table does not take the place of the whole.
    if args.only is None and not args.on:
        write_rows(args.table, rows)


def write_rows(table, rows):
    """runs/lddbm/TABLE.json, and a line that says so."""
    path = f"runs/lddbm/{table}.json"
    write_json(path, {"rows": rows})
    print(f"\nrows in {path}")


def scores_of(run, test_set, nfe):
    """{metric: value} of one sample a source, and R@1 between the two latents.

    Kept beside the run: a second call reads them, unless the run has been trained anew."""
    path = os.path.join(run.folder, f"scores-{test_set.N}-{nfe}.json")
    model = os.path.join(run.folder, "model.pt")
    if os.path.exists(path) and os.path.getmtime(path) > os.path.getmtime(model):
        return json.loads(Path(path).read_text())
    x_hat, _ = test_set.predict(test_set.sampler(run, steps=nfe))
    scores = test_set.score(x_hat)
    if test_set.N > 1:
        scores["r1"] = test_set.r1(run)
    write_json(path, scores)
    return scores


def by_variant(rows):
    """{metric: {variant: [value of each seed]}}."""
    found = {}
    for row in rows:
        values = found.setdefault(row["metric"], {}).setdefault(row["method"], [])
        values.append(row["value"])
    return found


def draw_ablation(rows, name):
    """runs/lddbm/NAME.png: a panel a metric, a line a variant over training.

    Means over seeds, and bars of one standard deviation."""
    updates = sorted({row["updates"] for row in rows})
    after = [by_variant([row for row in rows if row["updates"] == n]) for n in updates]
    metrics = [metric for metric in after[0] if metric in AXES]
    fig = Figure(figsize=(PAGE, 3.6), layout="constrained")
    axes = fig.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        for variant in after[0][metric]:
            values = [found[metric][variant] for found in after]
            means = [np.mean(seeds) for seeds in values]
            stds = [np.std(seeds, ddof=1) if len(seeds) > 1 else 0 for seeds in values]
            ax.errorbar(updates, means, stds, marker="o", ms=3, capsize=2, label=variant)
        ax.set(xlabel="updates of a side", ylabel=AXES[metric], xscale="log")
        ax.set_xticks(updates, [str(n) for n in updates])
        ax.minorticks_off()
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, frameon=False, ncols=5, loc="outside lower center")
    save_figure(fig, "runs/lddbm", name)


def better(metric, a, b):
    """Whether the value a of a metric is better than b."""
    if metric == "fid":  # and LPIPS: distances
        return a < b
    if metric == "one_nna":  # at 0.5 the two sets cannot be told apart; below, they are too alike
        return abs(a - 0.5) < abs(b - 0.5)
    return a > b


def print_ablation(table, rows):
    """A line a variant: ours, and in brackets the poster's; then where the two orders differ."""
    variants = ABLATIONS[table]
    ours = by_variant(rows)

    print(f"\n{table}, {rows[0]['data']}; in brackets the poster's ShapeNet or CelebA-HQ")
    titles = ["fid (LPIPS)" if metric == "fid" else metric for metric in ours]
    print(" " * 16 + "".join(f"{title:>24}" for title in titles))
    for variant in variants:
        line = f"{variant.name:16}"
        for metric, values in ours.items():
            cell = spread(values[variant.name], DIGITS.get(metric, 3))
            if metric in Variant._fields:  # R@1 and LPIPS have no number on the poster
                cell += f" ({getattr(variant, metric):g})"
            line += f"{cell:>24}"
        print(line)

    # All pairs of which we see one in front, and the poster the other. Ties are on no side.
    for metric, values in ours.items():
        if metric not in Variant._fields:
            continue
        swapped = []
        for a in variants:
            for b in variants:
                ours_a = better(metric, np.mean(values[a.name]), np.mean(values[b.name]))
                theirs_b = better(metric, getattr(b, metric), getattr(a, metric))
                if ours_a and theirs_b:
                    swapped.append(f"{a.name} before {b.name}")
        print(f"{metric}: against the poster's order, {', '.join(swapped) or 'nothing'}")


# --------------------------------------------------------------------------------------------------
# Speed


def speed(args, device):
    """LD's edges2handbags: a latent bridge against one in data space, then the trade-off.

    A latent of 16 tokens is cheaper to denoise than a picture of 64 patches, in every evaluation;
    E_y and D_x are paid once. The price is what the autoencoder loses: see the FID."""
    rows = []
    evaluation = test_set = None
    for name, flag in (("latent", "--no-data-space"), ("data-space", "--data-space")):
        argv = ["--dataset", "glyph-edges", "--steps", str(STEPS["glyph-sr"]), flag]
        run = trained([*argv, "--out", f"runs/lddbm/glyph-edges-{name}"], device)
        # The latent run comes first: the test set and the figure below are its.
        if evaluation is None:
            evaluation = BridgeEvaluation(run, args)
            test_set = BridgeTestSet(run, evaluation.limit)
        x_hat, seconds = test_set.predict(test_set.sampler(run, steps=args.nfe), batch=64)
        scores = test_set.score(x_hat)
        parameters = run.bridges[test_set.direction].parameters()
        scores["parameters_M"] = sum(p.numel() for p in parameters) / 1e6
        rows += evaluation.rows(name, [scores], args.nfe, seconds)

    note = f", {test_set.N} pairs in batches of 64; {NOTES[test_set.kind]}"
    print_bridge_scores(rows, note)
    latent, pixels = rows[0], rows[-1]
    ratio = pixels["seconds_per_sample"] / latent["seconds_per_sample"]
    print(f"data space takes {ratio:.1f} times as long; {SPEED}")
    write_rows("lddbm-speed", rows)

    # Of the latent run, and on fewer pairs, for it draws some dozens of samples of each.
    evaluation.limit = min(evaluation.limit, 400)
    with at_work(evaluation.run.folder):
        trade_off(evaluation)


# --------------------------------------------------------------------------------------------------
# The command line


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a table of LD's poster, and print it.")
    parser.add_argument("table", choices=[*ABLATIONS, "lddbm-speed"])
    told = "on this set alone (default: all)"
    parser.add_argument("--on", choices=list(STEPS), metavar="DATASET", help=told)
    parser.add_argument("--only", type=int, metavar="SEED", help="this training seed alone")
    evaluate_bridge.add_flags(parser, latents=False)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    if args.table == "lddbm-speed" and (args.on or args.seeds or args.only is not None):
        told = "are for the ablations: lddbm-speed is one run of glyph-edges"
        parser.error(f"--on, --seeds and --only {told}")
    args.seeds = args.seeds or 3
    # What BridgeEvaluation asks for besides: evaluate_bridge.py has flags for them.
    args.first_look = False
    args.beside = None
    return args


def main(argv=None):
    args = parse(argv)
    if args.table == "lddbm-speed":
        speed(args, usable(args.device))
    else:
        ablation(args, usable(args.device))


if __name__ == "__main__":
    run_script("tables/lddbm.py", main)
