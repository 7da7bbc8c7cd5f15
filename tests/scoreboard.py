"""
scoreboard.py: the score of exercise 13 on held-out glyphs. Not a test: four minutes a try.

    python tests/scoreboard.py assignments.ex13_open        or a file, homework.py
    python tests/scoreboard.py homework.py --seconds 10     a quick look

The latents of train.py's default run: its data, split, encoders and cache. translate is called once
a direction, and is shown no test target. The score is the mean of the two cosines.
"""

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import pytest
import torch
from conftest import load

import data
import latents
import metrics
import runs

GRACE = 2.0  # seconds, for a last step that was begun in time
RESULTS = {"ours": (0.651, 0.673), "mlp": (0.648, 0.662)}  # its tables: text->image, image->text


def glyphs():
    """{direction: (c, z, c_val, z_val, c_new, z_new)}, float32; 2,319 test pairs are the last."""
    import train

    args = train.parse([])
    found = runs.load_latents(args, "cpu", 0, 1)
    test = data.load(args.dataset, args.data_dir, "test")
    encoders = found.encoders["image"], found.encoders["text"]
    sets = [found.train, found.val, latents.encode_split(test, *encoders, args.cache_dir)]
    return {d: [x for s in sets for x in s.of(d, s.full)] for d in latents.DIRECTIONS}


def ask(translate, c, z, c_val, z_val, c_new, seconds):
    """(its z_hat, the seconds it took)"""
    torch.optim.AdamW([torch.zeros(1)])  # the first one imports for seconds: before the clock
    start = time.perf_counter()
    z_hat = translate(c, z, c_val, z_val, c_new, seconds)
    return z_hat, time.perf_counter() - start


def judge(z_hat, z, ridge, used, seconds):
    """(cosine, what is to be said of it or ""); the cosine is None if it does not count.

    z_hat is anything, z (N, h2) the truth, ridge the cosine that ridge has."""
    try:
        z_hat = torch.as_tensor(z_hat).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError):
        return None, f"a {type(z_hat).__name__} and no tensor"
    if z_hat.shape != z.shape:
        return None, f"shape {tuple(z_hat.shape)}, it should be {tuple(z.shape)}"
    if not z_hat.isfinite().all():
        return None, f"NaN or Inf in {(~z_hat.isfinite()).any(1).sum()} of {len(z)} rows"
    if used > seconds + GRACE:
        return None, f"over time: {used:.1f} s where {seconds:g} are allowed"
    cosine, unit = metrics.cosine(z_hat, z), torch.nn.functional.normalize
    if (z_hat - z_hat[0]).abs().max() <= 1e-4 * z_hat.abs().max():
        return cosine, "the constant: one answer to every query"
    others = (unit(z_hat).mean(0) @ unit(z).mean(0)).item()  # the mean of all N^2 cosines
    if abs(cosine - others) < 1.5 / len(z) ** 0.5:  # four standard errors, about
        return cosine, "as near to others' targets as to its own: are the rows in another order?"
    if abs(cosine - ridge) < 0.005:
        return cosine, "this is ridge's score: the best that is linear in c"
    return cosine, f"below ridge, {ridge:.3f}" if cosine < ridge else ""


def show(name, cosines, note=""):
    cells = [*cosines, None if None in cosines else sum(cosines) / 2]
    told = "".join(f"{'-' if x is None else f'{x:.3f}':>13}" for x in cells)
    print(f"{name:14}{told}  {note}".rstrip(), flush=True)


def board(translate, latents, seconds):
    """Prints the table; latents as of `glyphs`."""
    from baselines import ridge

    rows, said, times = {"mean": [], "ridge": [], "yours": []}, [], []
    for direction, (c, z, c_val, z_val, c_new, z_new) in latents.items():
        rows["mean"].append(metrics.cosine(z.mean(0).expand_as(z_new), z_new))
        rows["ridge"].append(metrics.cosine(ridge([(c, z)], c_val, z_val)(c_new), z_new))
        z_hat, used = ask(translate, c, z, c_val, z_val, c_new, seconds)
        cosine, word = judge(z_hat, z_new, rows["ridge"][-1], used, seconds)
        rows["yours"].append(cosine)
        times.append(f"{used:.0f} s")
        said += [f"{direction}: {'not counted, ' if cosine is None else ''}{word}"] if word else []
    pairs = len(next(iter(latents.values()))[-1])
    print(f"cosine on {pairs:,} pairs of characters that were not seen in training\n")
    print(f"{'':14}" + "".join(f"{name:>13}" for name in (*latents, "score")))
    show("mean", rows["mean"])
    show("ridge", rows["ridge"])
    for name, cosines in RESULTS.items():
        show(name, cosines, "by RESULTS.md, not run here")
    show("yours", rows["yours"], ", ".join(times))
    for line in said:
        print(line)


def main(argv=None):
    p = argparse.ArgumentParser(description="The score of exercise 13 on held-out glyphs.")
    p.add_argument("module", help="assignments.ex13_open, or a file")
    p.add_argument("--seconds", type=float, default=120.0, help="for each direction (120)")
    args = p.parse_args(argv)
    try:
        translate = load(args.module, os.getcwd()).translate
    except (pytest.UsageError, AttributeError) as e:
        sys.exit(str(e).removeprefix("--impl "))
    print("loading the latents ...", flush=True)
    try:
        board(translate, glyphs(), args.seconds)
    except NotImplementedError:
        sys.exit(f"NotImplementedError: write translate in {args.module}")


if __name__ == "__main__":
    main()
