"""
tables/lddbm.py: the poster's ablations and its speed row; Basic, beside any bridge.
"""

import argparse
import itertools
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate_bridge
import train_bridge
from bridge_networks import kind_of
from data import DataError
from devices import usable
from encoders import EncoderError
from evaluate_bridge import (
    DIGITS,
    NOTES,
    BridgeEvaluation,
    BridgeTestSet,
    limit_of,
    print_bridge_scores,
    trade_off,
)
from runs import BridgeRun, RunError, trained_run
from scores import spread, write_json

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
    return BridgeRun(trained_run(train_bridge, argv, device), device)


def train_companions(run):
    """Train what stands beside a bridge in its table of quality, into RUN/basic and so on.

    basic        two autoencoders, then a bridge between their frozen latents
    data-space   where both sides are images of one shape: a bridge of pixels, DDBM"""
    args, bridge = run.args, next(iter(run.bridges.values()))
    others = {"basic": dict(procedure="two-step", loss="rec", w_nce=0.0, data_space=False)}
    same = kind_of(bridge.x_shape) == "image" and bridge.x_shape == bridge.y_shape
    if same and not args.data_space:
        others["data-space"] = dict(data_space=True)
    for name, changes in others.items():
        argv = argv_of(args, out=os.path.join(run.folder, name), **changes)
        trained_run(train_bridge, argv, run.device)


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
    what = f"--dataset {dataset} --steps {steps} --ema 0.97 --seed {seed}"
    return trained([*what.split(), *flags, "--out", f"runs/lddbm/{name}"], device)


def reproduce(args, device):
    """Train the variants of one table, every seed; print them beside the poster's numbers."""
    table, rows = args.table, []
    for dataset in [args.on] if args.on else REPRODUCE_STEPS:
        q = None
        for variant, seed in itertools.product(POSTER[table], range(args.seeds)):
            run = variant_run(table, variant, dataset, seed, device)
            q = q or BridgeTestSet(run, args.limit or limit_of(dataset))
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
    what = f"--dataset glyph-edges --steps {REPRODUCE_STEPS['glyph-sr']}".split()
    rows, evaluation = [], None
    for name, flag in {"latent": "--no-data-space", "data-space": "--data-space"}.items():
        run = trained([*what, flag, "--out", f"runs/lddbm/glyph-edges-{name}"], device)
        evaluation = evaluation or BridgeEvaluation(run, args)
        q = BridgeTestSet(evaluation.run, evaluation.limit)
        x_hat, seconds = q.ask(q.sampler(run, steps=args.nfe), batch=64)
        size = sum(p.numel() for p in run.bridges[q.direction].parameters()) / 1e6
        marks = q.score(x_hat) | {"parameters_M": size}
        rows += evaluation.rows(name, [marks], args.nfe, seconds)
    print_bridge_scores(rows, f", {q.N} pairs in batches of 64; {NOTES[q.kind]}")
    ratio = rows[-1]["seconds_per_sample"] / rows[0]["seconds_per_sample"]
    print(f"data space takes {ratio:.1f} times as long; {SPEED}")
    write_json("runs/lddbm/lddbm-speed.json", {"rows": rows})
    evaluation.limit = min(evaluation.limit, 400)
    trade_off(evaluation)


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a table of LD's poster, and print it.")
    parser.add_argument("table", choices=[*POSTER, "lddbm-speed"])
    told = "on this set alone (default: all)"
    parser.add_argument("--on", choices=list(REPRODUCE_STEPS), metavar="DATASET", help=told)
    evaluate_bridge.add_flags(parser)
    args = parser.parse_args(argv)
    evaluate_bridge.check_flags(parser, args)
    args.first_look, args.beside = False, None
    return args


def main(argv=None):
    args = parse(argv)
    make = speed if args.table == "lddbm-speed" else reproduce
    make(args, usable(args.device))
    print(f"\nrows in runs/lddbm/{args.table}.json")


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"tables/lddbm.py: {error}")
