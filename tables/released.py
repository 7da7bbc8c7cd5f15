"""
tables/released.py: the paper as printed, the paper as released, and what lies between.

    python tables/released.py                      or: python reproduce.py as-released
    python tables/released.py --steps 2800 --width 256 --layers 10         longer, and at full size

MT's authors published a repository, and what it runs is not what the paper prints (as_released.py
has every difference). Which of the differences matter? One row of the table is the paper as printed
(train.py --preset as-printed). Each row below it changes ONE thing, so that what a row loses or
gains is that one thing's. Then come all of them together (--preset as-released), and ours.

Why each alone, and not each on top of the one before? Then a row would depend on the order, and a
switch that loses much would hide what the later ones do. The price: what two switches do only
together shows in no row. So one row more has all of them but `norm`, the one that makes F short.

A row has, in each direction, the cosine of c M alone, of F alone, and of both at MT's gamma = 1, on
test pairs, and how long F is beside c M: a short F cannot turn c M, whatever it points at. Above
them stands a constant answer, the mean of the training targets. An F below it knows nothing.

All rows are small on purpose: a narrow network, few steps, 10 steps of DDIM where the authors take
50, and 3 where they take 50 inside L_recon. So F is weak in all of them. Compare rows, not papers.

A run is kept in runs/released/, so a second call trains only what is new.
"""

import argparse
import os
import sys
from typing import NamedTuple

import numpy as np

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import train
from as_released import SWITCHES
from checkpoints import trained_run
from closed_form import cosine_of
from devices import usable
from errors import run_script
from latents import DIRECTIONS
from runs import TranslatorRun
from safe_files import write_json
from scores import TestSet


class Variant(NamedTuple):
    """A row of the table: the flags of train.py that make it."""

    name: str
    flags: str


# The paper's rows sample in few steps here, or the table would take hours.
PRINTED = "--preset as-printed --ddim-steps 10"
RELEASED = "--preset as-released --ddim-steps 10 --recon-steps 3"
ALL_BUT_NORM = ",".join(name for name in SWITCHES if name != "norm")

# fmt: off
VARIANTS = [
    Variant("printed",           PRINTED),
    # Switches of as_released.py. `rows` puts every row into L_recon, and t is no longer T there:
    # so z_hat has to be made by a sampler, or z_t would give z away.
    Variant("norm",              f"{PRINTED} --released norm"),
    Variant("l1",                f"{PRINTED} --released l1"),
    Variant("bias",              f"{PRINTED} --released bias"),
    Variant("zscore",            f"{PRINTED} --released zscore"),
    Variant("guide",             f"{PRINTED} --released guide"),
    Variant("drop",              f"{PRINTED} --released drop"),
    Variant("rows, recon-steps", f"{PRINTED} --released rows --recon-steps 3"),
    # Flags of train.py. The sampler inside L_recon once more, now without `rows`.
    Variant("recon-steps",       f"{PRINTED} --recon-steps 3"),
    Variant("lam1, lam2",        f"{PRINTED} --lam1 2 --lam2 1"),
    Variant("unit",              f"{PRINTED} --unit"),
    Variant("ema",               f"{PRINTED} --ema 0"),
    Variant("released",          RELEASED),
    Variant("released but norm", f"{RELEASED} --released {ALL_BUT_NORM}"),
    Variant("ours",              ""),
]
# fmt: on
SCORES = ("c M", "F", "both", "|F|/|cM|")


def released_table(args, device):
    """Train every row, and print and keep its scores: runs/released/table.json."""
    # All command lines are read before the first row is trained.
    for variant in VARIANTS:
        train.parse(argv_of(variant, args))
    table = {}
    for variant in VARIANTS:
        folder = trained_run(train, argv_of(variant, args), device)
        run = TranslatorRun(folder, device)
        table[variant.name] = {d: scores_of(run, d, args) for d in DIRECTIONS}
        if variant.name == "printed":
            constant = {d: constant_of(run, d, args) for d in DIRECTIONS}
    print_table(table, constant, args)
    write_json("runs/released/table.json", {"constant": constant, "rows": table})


def argv_of(variant, args):
    """The command line of train.py for a row."""
    # "lam1, lam2" -> "lam1-lam2": a folder's name has no commas.
    name = variant.name.replace(", ", "-").replace(" ", "-")
    argv = ["--dataset", "glyphs", "--out", f"runs/released/{name}", *variant.flags.split()]
    # A row that is stopped on the way goes on from its last checkpoint.
    argv += ["--save-every", "100"]
    for flag in ("steps", "width", "layers"):
        argv += [f"--{flag}", str(getattr(args, flag))]
    return argv


def test_set_of(run, direction, args):
    """The TestSet of the run, the same pairs for every row."""
    _, latents = run.latents("test")
    return TestSet(latents, direction, latents.full, args.limit, args.limit)


def scores_of(run, direction, args):
    """{score: its mean over noise seeds} of SCORES, one direction of a run."""
    test_set = test_set_of(run, direction, args)
    targets = test_set.z[test_set.g]
    found = {name: [] for name in SCORES}
    for seed in range(args.seeds):
        cM, F = run.terms(direction, test_set.c, seed)
        # gamma is 1 in all rows but ours, which has measured its own.
        both = cM + run.gamma[direction] * F
        for name, answers in {"c M": cM, "F": F, "both": both}.items():
            found[name].append(cosine_of(answers[test_set.q], targets))
        ratio = F.norm(dim=1) / cM.norm(dim=1)
        found["|F|/|cM|"].append(ratio.mean().item())
    return {name: float(np.mean(values)) for name, values in found.items()}


def constant_of(run, direction, args):
    """The cosine of the mean of the training targets, as an answer to everything."""
    test_set = test_set_of(run, direction, args)
    targets = test_set.z[test_set.g]
    # `printed` has not divided its latents by their lengths: this is the mean of raw z.
    mean = run.translators[direction].z_mean.cpu()
    return cosine_of(mean.expand_as(targets), targets)


def print_table(table, constant, args):
    """table: {name of a row: {direction: {score: value}}}; constant: {direction: cosine}"""
    print("\nFrom printed to released, one change at a time: cosines on held-out glyphs")
    size = f"{args.steps} steps, width {args.width}, {args.layers} layers"
    print(f"{size}; at most {args.limit} test pairs, mean of {args.seeds} noise seeds\n")
    print(" " * 20 + "".join(f"{'':7}{d:31}" for d in DIRECTIONS).rstrip())
    print(" " * 20 + 2 * ("  " + "".join(f"{name:>9}" for name in SCORES)))
    told = [f"  {constant[d]:9.3f}{'':27}" for d in DIRECTIONS]
    print(f"{'a constant':20}" + "".join(told).rstrip())
    for name, row in table.items():
        line = f"{name:20}"
        for direction in DIRECTIONS:
            line += "  " + "".join(f"{row[direction][score]:9.3f}" for score in SCORES)
        print(line)
    print("both: at gamma = 1; in the row `ours` at gamma auto.")
    print("MT, Table 7, COCO: 0.820 0.616 0.823 and 0.839 0.628 0.839; a constant: 0.689, 0.716.")


def parse(argv=None):
    parser = argparse.ArgumentParser(description="MT as printed, as released, and in between.")
    a = parser.add_argument
    a("--steps", type=int, default=300, help="training steps of every row (300)")
    a("--width", type=int, default=128, help="hidden width of every network (128)")
    a("--layers", type=int, default=5, help="its layers (5)")
    a("--seeds", type=int, default=3, help="noise seeds of the rows (3)")
    a("--limit", type=int, default=1000, help="test pairs at most (1000)")
    a("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    return args


def main(argv=None):
    args = parse(argv)
    released_table(args, usable(args.device))


if __name__ == "__main__":
    run_script("tables/released.py", main)
