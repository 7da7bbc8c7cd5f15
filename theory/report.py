"""
report.py: how the scripts of this folder report. It makes no claims of its own.

A paper states something, and a script checks it in numbers. Each check ends in one Claim:

    printed           the statement, as the paper has it
    corrected         what holds instead, or the condition under which it holds
    number            the measurement that decides
    printed_holds     does the measurement agree with the printed statement?
    corrected_holds   does it agree with ours?

The last two are computed at every run, never written down. So the table cannot go stale: change a
formula, and a verdict changes or the script ends with an error.

    python theory/NAME.py             checks, mostly on made-up data whose law is known
    python theory/NAME.py --run RUN   the same quantities, measured on a trained translator

Map      need            refuses bad numbers by a ValueError
         listed          numbers in a row, to be printed; unit, cosine: of vectors
         Claim, show     one statement; the table of verdicts
         Held, held_out  the latents of a run that its training has not seen
         main            the command line of every script here
Letters  N pairs   h1 = dim c   h2 = dim z   M_hat: the M of least squares
         z_hat = c M + gamma F(c), where F is a unit vector (MT Eq. 5, 6)
"""

import argparse
import os
import textwrap
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure  # draws without a display

import runs
import scores
from errors import InputError
from latents import DIRECTIONS
from pictures import PAGE

NEEDS = "needs a condition"
WIDTH = 99  # columns of the table of verdicts


def need(ok, message, value=None):
    """ValueError unless all of ok is True; {} in the message is the first value that is not.

    need(x > 0, "x = {}: must be above 0", x) with x = [2, -1, -5] says: x = -1: must be above 0.
    Write ok so that NaN makes it False: any comparison with NaN is False, and x > 0 is right,
    where "not x <= 0" would let NaN pass."""
    ok = np.asarray(ok, bool)
    if not ok.all():
        value, ok = np.broadcast_arrays(value, ok)
        raise ValueError(message.format(value[~ok][0]))


def listed(numbers, form=".3g"):
    """[0.5, 1, 2] -> "0.5/1/2"."""
    return "/".join(f"{x:{form}}" for x in numbers)


def unit(x):
    """Vectors of length 1, along the last axis; a zero vector stays zero, and is no NaN."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.maximum(length, 1e-300)


def cosine(x, y):
    """Cosines of the angles between the rows of x and y, (..., n) -> (...)."""
    return (unit(x) * unit(y)).sum(-1)


# --------------------------------------------------------------------------------------------------
# Statements and their verdicts


class Claim(NamedTuple):
    """One statement. The two booleans are computed from the numbers, never written down."""

    key: str  # "L4": row of theory/README.md
    printed: str  # the statement as the paper has it
    corrected: str  # what holds instead; or why it holds
    number: str  # what decides it
    printed_holds: bool
    corrected_holds: bool
    kind: str = "fails"  # verdict where printed_holds is False; or NEEDS: that is our judgement

    @property
    def verdict(self):
        return "holds" if self.printed_holds else self.kind


def show(claims):
    """Print the table of verdicts; -> the keys whose corrected statement failed its own check."""
    for claim in claims:
        lines = {
            "as printed": claim.printed,
            "verdict": claim.verdict.upper(),
            "corrected": claim.corrected,
            "decided by": claim.number,
        }
        print()
        key = claim.key  # stands before the first line alone
        for label, text in lines.items():
            head = f"{key:4}{label:12}"
            print(textwrap.fill(text, WIDTH, initial_indent=head, subsequent_indent=" " * 16))
            key = ""
    return [c.key for c in claims if not c.corrected_holds]


# --------------------------------------------------------------------------------------------------
# A trained run


class Held(NamedTuple):
    """One direction of a run on pairs that it was not trained on, float64, in the translator's
    scaled units, where |z - mean| is about sqrt(h2). That is gamma's unit, too: see Translator."""

    c: torch.Tensor  # (N, h1)
    z: torch.Tensor  # (N, h2)
    cM: torch.Tensor  # (N, h2)   by the run's own M
    F: torch.Tensor  # (N, h2)   unit, the mean of the run's K samples
    M_hat_c: torch.Tensor  # (N, h2)   c M_hat, least squares with a bias, on the training pairs
    gamma: float  # the run's own
    independent: np.ndarray  # rows, at most one of each group of pairs that share anything
    translator: torch.nn.Module  # for other samples: translator.terms(raw c, ...)
    raw_c: torch.Tensor  # (N, h1)   float32


def held_out(folder, split="test", limit=2000):
    """{direction: Held} of at most `limit` pairs, the same whenever they are wanted.

    Raises RunError, DataError or EncoderError: see runs.TranslatorRun."""
    run = runs.TranslatorRun(folder, "cpu")
    _, test = run.latents(split)
    _, training = run.latents("train")
    rng = np.random.default_rng(0)
    rows = rng.permutation(test.full)[:limit]

    # Twelve typefaces of one character are twelve pairs, but not twelve independent ones: if one
    # is easy, all are. A guarantee may count such a group once, so we keep its first row.
    group = scores.linked_groups(*test.pairs.T)[rows]
    first = np.unique(group, return_index=True)[1]
    independent = np.sort(first)

    # M_hat comes from training pairs; 50,000 are enough for it, and fit any memory.
    fit_rows = np.sort(rng.permutation(training.full)[:50_000])
    found = {}
    for direction in DIRECTIONS:
        pairs = test.of(direction, rows)
        fit_pairs = training.of(direction, fit_rows)
        found[direction] = held(run, direction, pairs, fit_pairs, independent)
    return found


@torch.no_grad()
def held(run, direction, pairs, fit_pairs, independent):
    """The Held of raw pairs (c, z); M_hat is fitted to the raw fit_pairs."""
    net = run.translators[direction]
    c, z = pairs
    cM, F = run.terms(direction, c)
    # The claims are about an F of length 1: what it loses here, gamma gets.
    length = F.norm(dim=1, keepdim=True)  # (N, 1)

    # The translator's layer M has a bias, so ours has one: the weight of an additional 1 in c.
    fit_c, fit_z = fit_pairs
    X = scaled_with_one(net, fit_c)  # (n, h1 + 1)
    Z = net.scale_z(fit_z).double()  # (n, h2)
    M_hat = torch.linalg.lstsq(X, Z).solution  # (h1 + 1, h2)
    return Held(
        c=net.scale_c(c).double(),
        z=net.scale_z(z).double(),
        cM=cM.double(),
        F=(F / length).double(),
        M_hat_c=scaled_with_one(net, c) @ M_hat,
        gamma=run.gamma[direction] * length.mean().item(),
        independent=independent,
        translator=net,
        raw_c=c,
    )


def scaled_with_one(net, c):
    """[c 1] of raw c (N, h1) -> (N, h1 + 1), scaled, float64."""
    one = torch.ones(len(c), 1)
    return torch.cat([net.scale_c(c), one], 1).double()


def show_measured(table):
    """table: {direction: {quantity: number or str}}"""
    quantities = list(next(iter(table.values())))  # both directions have the same
    width = max(map(len, quantities)) + 2
    print("\n" + " " * width + "".join(f"{d:>16}" for d in table))
    for quantity in quantities:
        line = f"{quantity:{width}}"
        for rows in table.values():
            value = rows[quantity]
            text = value if isinstance(value, str) else f"{value:.4g}"
            line += f"{text:>16}"
        print(line)


# --------------------------------------------------------------------------------------------------
# The command line


def three_panels():
    """(figure, its three axes): what the checks of a script look like, side by side."""
    fig = Figure(figsize=(PAGE, 4.4), layout="constrained")
    return fig, fig.subplots(1, 3)


def legend(ax, **how):
    """Below the panel: letters that can be read on paper would hide the lines inside of it."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False, **how)


def save(fig, folder, name):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"theory-{name}.png")
    fig.savefig(path, dpi=150, bbox_inches="tight")
    print(f"\nfigure: {path}")


def measure_run(name, folder, both, measured, draw):
    """Print and keep measured(held), and draw, for each direction; both: what held_out returns."""
    table = {direction: measured(h) for direction, h in both.items()}
    print(f"{folder}: {len(both[DIRECTIONS[0]].z)} held-out pairs")
    show_measured(table)
    scores.write_json(os.path.join(folder, f"theory-{name}.json"), table)

    fig = Figure(figsize=(PAGE, 4.2), layout="constrained")
    for ax, (direction, h) in zip(fig.subplots(1, 2), both.items(), strict=True):
        draw(ax, h, direction)
    save(fig, folder, name)


def main(name, claims, figure, measured, draw, argv=None):
    """The command line of a script of this folder; -> 0, or what went wrong, for sys.exit.

    claims() -> [Claim]; figure() -> Figure; measured(held) -> {quantity: number} of one direction;
    draw(ax, held, direction) draws one panel. A corrected statement that fails is an error."""
    parser = argparse.ArgumentParser(description=f"theory/{name}.py: a paper's claims, checked")
    parser.add_argument("--run", help="a folder of train.py: measure on its held-out latents")
    parser.add_argument("--limit", type=int, default=2000, help="held-out pairs (with --run)")
    parser.add_argument("--out", default="runs", help="where the figure goes (without --run)")
    args = parser.parse_args(argv)
    if args.limit < 2:
        parser.error(f"--limit {args.limit}: at least 2 pairs are needed")

    if args.run is None:
        failed = show(claims())
        save(figure(), args.out, name)
        return f"{name}.py: these corrected statements failed: {failed}" if failed else 0

    # A wrong folder, or a bridge in it, is told in one line.
    try:
        both = held_out(args.run, limit=args.limit)
    except (InputError, ValueError) as error:
        return f"{name}.py: {error}"
    measure_run(name, args.run, both, measured, draw)
    return 0
