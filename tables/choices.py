"""
tables/choices.py: each of our choices beside what else could be done, on validation pairs.

    python tables/choices.py                     nine trainings, three seeds each: half an hour
    python tables/choices.py --seeds 1 --steps 300

A default is a choice, and a choice should have a reason. So one setting at a time is changed, all
else stays as in `train.py`, and three scores say what it does. They are measured on VALIDATION
pairs: the best of nine on the test pairs would be partly the luckiest.

cosine, centred, R@1   of z_hat, the answer that the tables are about, with gamma measured anew
sample                 the cosine of one sample, drawn in 20 steps: lower, by its nature
Frechet                the distance between the set of samples and the set of true latents, pairs
                       forgotten: are they as varied as the truth? 0 is best. In scaled units, so
                       that the variance of a coordinate is 1

Runs are kept in runs/choices/, and a second call trains only what is new.
"""

import argparse
import os
import sys

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import metrics
import train
from checkpoints import trained_run
from errors import run_script
from latents import DIRECTIONS
from runs import TranslatorRun, cpu_randn
from safe_files import write_json
from scores import TestSet, spread

CHOICES = {  # what is changed: the flags that change it
    "ours": "",
    "the network sees z_t": "--no-faded",
    "M by Eq. 9": "--objective joint",
    "F models z - c M": "--objective residual",
    "F row by row": "--normalize row",
    "the network says v": "--predict v",
    "the network says eps": "--predict eps",
    "c is never dropped": "--p 0",
    "latents of length 1": "--unit",
}
COLUMNS = ("cosine", "centred", "R@1", "sample", "Frechet")


def scores_of(run, direction):
    """{column: value} of one direction of a run, on at most 2,000 validation pairs."""
    _, latents = run.latents("val")
    test_set = TestSet(latents, direction, latents.full, limit=2000, pool=1000)
    net = run.translators[direction]
    mean = net.z_mean.cpu()
    # Runs on vectors of length 1 are asked for the directions of the same targets as all others.
    if net.unit:
        mean = mean * test_set.z.norm(dim=1).mean()
    z_hat = run.translate(direction, test_set.c)
    row = test_set.score(z_hat, mean)

    # 20 steps from pure noise: in two, samples hardly differ.
    sample = net.sample(test_set.c, steps=20, omega=run.args.omega, randn=cpu_randn(0))
    z = net.prepared(test_set.z)
    distance = metrics.frechet(sample * net.z_scale, z * net.z_scale)
    alone = test_set.score(sample, mean)["cosine"]
    values = row["cosine"], row["centred_cosine"], row["r1"], alone, distance
    return dict(zip(COLUMNS, values, strict=True))


def choices(args):
    """Train every choice with every seed; print the scores, mean +- std over training seeds.

    Writes runs/choices/table.json."""
    table = {}
    for name, flags in CHOICES.items():
        table[name] = {direction: [] for direction in DIRECTIONS}
        for seed in range(args.seeds):
            # "--objective joint" is kept in .../objective-joint-600-seed0.
            slug = flags.replace("--", "").replace(" ", "-") or "ours"
            argv = [*flags.split(), "--steps", str(args.steps), "--seed", str(seed)]
            argv += ["--out", f"runs/choices/{slug}-{args.steps}-seed{seed}"]
            run = TranslatorRun(trained_run(train, argv, "cpu"))
            for direction in DIRECTIONS:
                table[name][direction].append(scores_of(run, direction))

    # A line a choice, under a heading for each direction.
    for direction in DIRECTIONS:
        print(f"\n{direction}, validation pairs; {args.steps} steps, {args.seeds} training seeds")
        print(f"{'':24}" + "".join(f"{title:>18}" for title in COLUMNS))
        for name, rows in table.items():
            cells = [spread([r[c] for r in rows[direction]], 3) for c in COLUMNS]
            print(f"{name:24}" + "".join(f"{cell:>18}" for cell in cells))
    write_json("runs/choices/table.json", {"steps": args.steps, "rows": table})


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Our choices beside their alternatives.")
    a = parser.add_argument
    a("--steps", type=int, default=600, help="training steps of each run (600)")
    a("--seeds", type=int, default=3, help="training seeds, from 0 (3)")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.steps < 1:
        parser.error("--seeds and --steps are 1 or more")
    return args


def main(argv=None):
    choices(parse(argv))


if __name__ == "__main__":
    run_script("tables/choices.py", main)
