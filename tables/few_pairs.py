"""
tables/few_pairs.py: does the translator hold with 3,000 pairs? Ours beside every baseline.

    python tables/few_pairs.py                  3,000 glyph pairs, three training seeds
    python tables/few_pairs.py --pairs 1000     fewer

Who brings embeddings of her own has thousands of pairs, not half a million. There a network with a
million weights soon knows the pairs by heart, and a linear map, which cannot, is hard to beat. This
table asks whether our defaults for such sets hold: M is ridge, so with gamma measured on validation
pairs z_hat should not be below ridge; and of the averaged weights the best are kept.

The pairs are glyphs and their names, drawn by a seed from the training characters; validation and
test characters are those of every other table. Each seed draws other pairs and trains from other
weights; a run is kept in runs/few/, and a second call trains only what is new.
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
COLUMNS = {"cosine": "cosine", "centred_cosine": "centred", "r1": "R@1"}


def few_pairs(args):
    """Train every seed; print ours and the baselines, mean +- std over training seeds.

    Writes runs/few/N-pairs.json."""
    rows = []
    for seed in range(args.seeds):
        argv = ["--pairs", str(args.pairs), "--seed", str(seed)]
        argv += ["--out", f"runs/few/{args.pairs}-pairs-seed{seed}"]
        if args.steps:
            argv += ["--steps", str(args.steps)]
        folder = trained_run(train, argv, "cpu")
        with at_work(folder):
            # One noise seed a run: what differs here is the training.
            argv = [folder, "--seeds", "1", "--task", "similarity"]
            evaluation = evaluate.open_evaluation(evaluate.parse(argv))
            evaluate.similarity(evaluation)
        mine = [r for r in evaluation.report.rows if r["task"] == "similarity"]
        rows += [row | {"seed": seed} for row in mine]
    print_few(rows, args)
    write_json(f"runs/few/{args.pairs}-pairs.json", {"pairs": args.pairs, "rows": rows})


def print_few(rows, args):
    """A table a direction: a line a method, mean +- std over the training seeds."""
    for direction in DIRECTIONS:
        print(f"\n{args.pairs} pairs, {direction}; {args.seeds} training seeds")
        print(f"{'':8}" + "".join(f"{title:>18}" for title in COLUMNS.values()))
        for method in METHODS:
            mine = [r for r in rows if (r["direction"], r["method"]) == (direction, method)]
            cells = [spread([r[column] for r in mine], 3) for column in COLUMNS]
            print(f"{method:8}" + "".join(f"{cell:>18}" for cell in cells))


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Ours and the baselines with few pairs.")
    a = parser.add_argument
    a("--pairs", type=int, default=3000, help="how many (3000)")
    a("--seeds", type=int, default=3, help="training seeds, from 0 (3)")
    a("--steps", type=int, help="training steps (by the number of pairs)")
    args = parser.parse_args(argv)
    if args.pairs < 100 or args.seeds < 1:
        parser.error("--pairs is 100 or more, --seeds 1 or more")
    return args


def main(argv=None):
    few_pairs(parse(argv))


if __name__ == "__main__":
    run_script("tables/few_pairs.py", main)
