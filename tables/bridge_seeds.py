"""
tables/bridge_seeds.py: does LD's bridge pay? Ours and Basic, trained three times each.

    python tables/bridge_seeds.py                       8 x 8 to 32 x 32 pixels
    python tables/bridge_seeds.py --on glyph-rooms      six cameras to voxels

Basic is what LD's poster calls the simple solution: two autoencoders first, then a bridge between
their frozen latents; no L_pred, no InfoNCE. It has as many updates of each side as ours, so it is
the bar: where ours is not above it, joint training bought nothing. The +- of evaluate_bridge.py is
about noise, that of this table about training: other weights, other batches, other noise.

    ours              one sample, in 10 evaluations of the denoiser
    ours, mean of 8   of eight samples: nearer to the truth than one, and blurred
    regressor         ours in one evaluation: the estimate of a mean, with nothing random
    ceiling           ours, D_x of the true z_0: no sample can be better
    classical         what needs no learning, where there is such an answer
    basic             one sample, as of ours

r1 asks whether z_T and z_0 live in one space: the share of z_T whose nearest z_0 is its own.
Runs are kept in runs/bridge-seeds/, and a second call only prints. Two cores train two seeds at
once if each is started in its own shell, with --only 0 and --only 1.
"""

import argparse
import os
import sys

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import train_bridge
from arguments import BRIDGE_SETS
from bridge_scores import DIGITS, BridgeTestSet, draw, plain_methods
from checkpoints import trained_run
from devices import usable
from errors import run_script
from evaluate_bridge import SAMPLES, limit_of
from runs import BridgeRun
from safe_files import write_json
from scores import spread
from tables.lddbm import train_companions

# Those whose targets are items: of glyph-names, which are latents, evaluate_bridge.py has a table.
SETS = [name for name in BRIDGE_SETS if name.startswith("glyph-") and name != "glyph-names"]


def scores_of(run, basic, limit, n=SAMPLES):
    """{method: {metric: value}} of one training seed. n samples stand behind "mean of n"."""
    test_set = BridgeTestSet(run, limit)
    draws, _ = draw(test_set, run, n, steps=10)
    scores = {"ours": test_set.score(draws[0]) | {"r1": test_set.r1(run)}}
    scores[f"ours, mean of {n}"] = test_set.score(sum(draws) / n)
    for name, (method, _) in plain_methods(test_set).items():
        scores[name] = test_set.score(test_set.predict(method)[0])
    # Basic's latents are of the same shape, so its samples have the same noise.
    x_hat, _ = test_set.predict(test_set.sampler(basic, steps=10))
    scores["basic"] = test_set.score(x_hat) | {"r1": test_set.r1(basic)}
    return scores


def bridge_seeds(args):
    """Train ours and Basic with every seed; print the scores, mean +- std over training seeds.

    Writes runs/bridge-seeds/DATASET.json, if all seeds were asked for."""
    device = usable(args.device)
    seeds = range(args.seeds) if args.only is None else [args.only]
    found = []
    for seed in seeds:
        argv = ["--dataset", args.on, "--seed", str(seed)]
        # What was not typed is left to train_bridge.py, whose defaults are in one place.
        if args.steps is not None:
            argv += ["--steps", str(args.steps)]
        argv += ["--out", f"runs/bridge-seeds/{args.on}-seed{seed}"]
        run = BridgeRun(trained_run(train_bridge, argv, device), device)
        train_companions(run)
        basic = BridgeRun(os.path.join(run.folder, "basic"), device)
        found.append(scores_of(run, basic, args.limit or limit_of(args.on)))
    print_seeds(args.on, found)
    if args.only is None:
        rows = [{"seed": seed, "scores": scores} for seed, scores in zip(seeds, found, strict=True)]
        write_json(f"runs/bridge-seeds/{args.on}.json", {"rows": rows})


def print_seeds(dataset, found):
    """A line a method, mean +- std over training seeds; found is a list of what scores_of gives."""
    columns = list(found[0]["ours"])
    print(f"\n{dataset}; {len(found)} training seed(s)")
    print(f"{'':18}" + "".join(f"{column:>18}" for column in columns))
    for method in found[0]:
        cells = []
        for column in columns:
            # Only what has an encoder for each side has an R@1 between them.
            values = [scores[method][column] for scores in found if column in scores[method]]
            cells.append(spread(values, DIGITS.get(column, 3)) if values else "-")
        print(f"{method:18}" + "".join(f"{cell:>18}" for cell in cells))


def parse(argv=None):
    parser = argparse.ArgumentParser(description="LD's bridge and Basic over training seeds.")
    a = parser.add_argument
    a("--on", default="glyph-sr", choices=SETS, metavar="DATASET", help="data set (glyph-sr)")
    a("--seeds", type=int, default=3, help="training seeds, from 0 (3)")
    a("--only", type=int, help="this training seed alone")
    a("--steps", type=int, help="training steps of ours (those of train_bridge.py)")
    a("--limit", type=int, help="test pairs at most (1000; solids and rooms 200)")
    a("--device", default="auto", help="auto, cpu, cuda, ...")
    args = parser.parse_args(argv)
    if args.seeds < 1 or (args.limit is not None and args.limit < 4):
        parser.error("--seeds is 1 or more, --limit 4 or more")
    return args


def main(argv=None):
    bridge_seeds(parse(argv))


if __name__ == "__main__":
    run_script("tables/bridge_seeds.py", main)
