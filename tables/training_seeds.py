"""
tables/training_seeds.py: how much would a second training differ? Ours and every baseline.

    python tables/training_seeds.py                  all glyph pairs, three training seeds
    python tables/training_seeds.py --pairs 3000     trained on 3,000 of them

The +- of evaluate.py is about noise: it translates one run's test pairs several times. Here whole
trainings are repeated, from other weights and with other batches, and so are those of the mlp row.

--pairs asks whether the method holds where pairs are few. Who brings embeddings of her own has
thousands, not half a million. There a network with a million weights soon knows the pairs by
heart, and a linear map, which cannot, is hard to beat. Each seed draws other pairs, from the
training characters; validation and test characters are those of every other table.

A run is kept in runs/seeds/, and a second call trains only what is new.
"""

import argparse
import os
import sys

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import train
from checkpoints import trained_run
from errors import run_script
from latents import DIRECTIONS
from safe_files import write_json
from scores import at_work, spread

METHODS = ("ours", "ridge", "knn", "mlp", "mean")
# Those of which there are two translators, so that both can rank.
METHODS += tuple(f"{name}, {how}" for how in ("both ways", "hubs out") for name in METHODS[:4])
COLUMNS = {"cosine": "cosine", "centred_cosine": "centred", "r1": "R@1", "r10": "R@10"}


def training_seeds(args):
    """Train every seed; print ours and the baselines, mean +- std over training seeds.

    Writes runs/seeds/all.json, or runs/seeds/3000.json with --pairs 3000."""
    name = "all" if args.pairs is None else str(args.pairs)
    rows = []
    for seed in range(args.seeds):
        # What was not typed is left to train.py, whose defaults are in one place.
        argv = ["--seed", str(seed), "--out", f"runs/seeds/{name}-seed{seed}"]
        if args.pairs is not None:
            argv += ["--pairs", str(args.pairs)]
        if args.steps is not None:
            argv += ["--steps", str(args.steps)]
        folder = trained_run(train, argv, "cpu")
        with at_work(folder):
            # One noise seed a run: what differs here is the training.
            flags = [folder, "--seeds", "1", "--task", "similarity"]
            evaluation = evaluate.open_evaluation(evaluate.parse(flags))
            evaluate.similarity(evaluation)
        mine = [r for r in evaluation.report.rows if r["task"] == "similarity"]
        rows += [row | {"seed": seed} for row in mine]
    print_seeds(rows, name, args.seeds)
    write_json(f"runs/seeds/{name}.json", {"pairs": name, "rows": rows})


def print_seeds(rows, name, seeds):
    """A table a direction: a line a method, mean +- std over the training seeds."""
    for direction in DIRECTIONS:
        print(f"\n{name} pairs, {direction}; {seeds} training seeds")
        print(f"{'':18}" + "".join(f"{title:>18}" for title in COLUMNS.values()))
        for method in METHODS:
            mine = [r for r in rows if (r["direction"], r["method"]) == (direction, method)]
            cells = []
            for column in COLUMNS:
                # Two translators together have ranks, but no z_hat and so no cosine.
                values = [r[column] for r in mine if column in r]
                cells.append(spread(values, 3) if values else "-")
            print(f"{method:18}" + "".join(f"{cell:>18}" for cell in cells))


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Ours and the baselines over training seeds.")
    a = parser.add_argument
    a("--pairs", type=int, help="train on so many pairs (all)")
    a("--seeds", type=int, default=3, help="training seeds, from 0 (3)")
    a("--steps", type=int, help="training steps (those of train.py; with --pairs by their number)")
    args = parser.parse_args(argv)
    if args.seeds < 1 or (args.pairs is not None and args.pairs < 100):
        parser.error("--pairs is 100 or more, --seeds 1 or more")
    return args


def main(argv=None):
    training_seeds(parse(argv))


if __name__ == "__main__":
    run_script("tables/training_seeds.py", main)
