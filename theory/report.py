"""
report.py: how the four scripts of this folder report. No claims here; M_hat by least squares.

need       refuses bad numbers; listed, unit, cosine: numbers in a row, of vectors
Claim      one statement: as printed, corrected, and the numbers that decide
main       prints the table of verdicts and saves the figure; with --run, the same quantities
           measured on a trained translator's held-out latents
held_out   those latents: z, c M, F of a run
"""

import argparse
import os
import textwrap
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure  # draws without a display

import encoders
import glyphs
import runs
import scores

NEEDS = "needs a condition"
EXPECTED = (glyphs.DataError, encoders.EncoderError, runs.RunError, ValueError)


def need(ok, message, value=None):
    """ValueError unless all is ok; {} in the message becomes the first value that is not.

    Write ok so that it is False for NaN."""
    ok = np.asarray(ok, bool)
    if not ok.all():
        value, ok = np.broadcast_arrays(value, ok)
        raise ValueError(message.format(value[~ok][0]))


def listed(numbers, form=".3g"):
    return "/".join(f"{x:{form}}" for x in numbers)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)


def cosine(x, y):
    return (unit(x) * unit(y)).sum(-1)


class Claim(NamedTuple):
    """`printed_holds` and `corrected_holds` are computed from the numbers, never written down."""

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
        lines = {"as printed": claim.printed, "verdict": claim.verdict.upper()}
        lines |= {"corrected": claim.corrected, "decided by": claim.number}
        print()
        for i, (label, text) in enumerate(lines.items()):
            head = f"{claim.key if i == 0 else '':4}{label:12}"
            print(textwrap.fill(text, 99, initial_indent=head, subsequent_indent=" " * 16))
    return [c.key for c in claims if not c.corrected_holds]


class Held(NamedTuple):
    """One direction of a run on pairs that it was not trained on, float64, in the translator's
    scaled units, where |z - mean| is about sqrt(h2): gamma's unit (`Translator`)."""

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
    """{direction: Held} of at most `limit` pairs, the same whenever asked.

    Raises RunError, RunError, DataError or EncoderError: see runs.TranslatorRun."""
    saved = runs.read_run(folder)
    if saved["args"].get("model", "translator") != "translator":
        raise runs.RunError(f"{folder} is a bridge: these checks are about a translator")
    run = runs.TranslatorRun(folder, "cpu")
    latents, training = run.latents(split)[1], run.latents("train")[1]
    rng = np.random.default_rng(0)
    rows = rng.permutation(latents.full)[:limit]
    group = scores.groups(*latents.pairs.T)[rows]
    independent = np.sort(np.unique(group, return_index=True)[1])
    fit_rows = np.sort(rng.permutation(training.full)[:50_000])
    return {
        d: held(run, d, latents.of(d, rows), training.of(d, fit_rows), independent)
        for d in latents.DIRECTIONS
    }


@torch.no_grad()
def held(run, direction, pairs, training, independent):
    (c, z), net = pairs, run.translators[direction]
    cM, F = run.terms(direction, c)
    with_one = lambda c: torch.cat([net.scale_c(c), torch.ones(len(c), 1)], 1).double()
    M_hat = torch.linalg.lstsq(with_one(training[0]), (training[1] * net.z_scale).double()).solution
    return Held(
        net.scale_c(c).double(),
        (z * net.z_scale).double(),
        cM.double(),
        F.double(),
        with_one(c) @ M_hat,
        run.gamma[direction],
        independent,
        net,
        c,
    )


def show_measured(table):
    """table: {direction: {quantity: number or str}}"""
    width = max(len(q) for rows in table.values() for q in rows) + 2
    print("\n" + " " * width + "".join(f"{d:>16}" for d in table))
    for quantity in next(iter(table.values())):
        cells = (rows[quantity] for rows in table.values())
        texts = (x if isinstance(x, str) else f"{x:.4g}" for x in cells)
        print(f"{quantity:{width}}" + "".join(f"{x:>16}" for x in texts))


def save(fig, folder, name):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"theory-{name}.png")
    fig.savefig(path, dpi=150)
    print(f"\nfigure: {path}")


def main(name, claims, figure, measured, draw, argv=None):
    """The command line of a script of this folder.

    claims() -> [Claim]; figure() -> Figure; measured(held) -> {quantity: number} of one direction;
    draw(ax, held, direction) draws one panel. Exits 1 if a corrected statement fails."""
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
    try:
        both = held_out(args.run, limit=args.limit)
    except EXPECTED as e:
        return f"{name}.py: {e}"
    table = {d: measured(h) for d, h in both.items()}
    print(f"{args.run}: {len(next(iter(both.values())).z)} held-out pairs")
    show_measured(table)
    scores.write_json(os.path.join(args.run, f"theory-{name}.json"), table)
    fig = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, (direction, h) in zip(fig.subplots(1, 2), both.items(), strict=True):
        draw(ax, h, direction)
    save(fig, args.run, name)
    return 0
