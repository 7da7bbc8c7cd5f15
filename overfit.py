"""
overfit.py: one batch, learned by heart: what to try first when a training does not learn.

    python train.py --overfit                                  with any data set and any flags
    python train_bridge.py --overfit --dataset glyph-solids

A network that cannot learn 64 pairs by heart will not learn 40,000 either. On so few pairs a bug
shows in a minute, and nothing else can be blamed: not too little data, not too few steps. So
both scripts train on one batch, print what became of it, and end with status 0 or 1. No run is
left behind; --out FOLDER keeps the losses, in overfit.csv and overfit.png.

Which pairs?    Those of one batch, 64 (bridge: 16) at most, no condition twice: if one caption had
                two images, no answer could be right for both.
Which noise?    Fresh at every step. If each row kept its noise, the noise would name the row: the
                loss would fall to 0 in a network that never looks at c, and a sound one would learn
                to read the noise. With fresh noise only the condition tells the rows apart.
What is judged? Not the loss. With fresh noise it stays above 0: where the condition is hidden, or
                noise covers it all, there is no way to know. What the method is for is judged, its
                answers from the condition alone, starting from noise it has never seen:

                    left = sum |answer - target|^2 / sum |mean - target|^2

                The best constant answer, the mean of these targets, has 1; noise of their size
                has 2. It has to fall below 0.1, which is a cosine of 0.95 between answer - mean
                and target - mean. The loss is printed, too: it has to fall, and how far depends.

Map      translator, bridge   called by train.py and train_bridge.py
         few, distinct        the pairs
         learn_by_heart       the steps, and the verdict
Letters  B batch   c, y conditions   z, x targets
"""

import argparse
import csv
import os
import tempfile
import time

import numpy as np
import torch

from data_files import first_equal
from data_pairs import PAIRS
from ddim_translator import draw_noise
from errors import RunError
from glyphs import Lazy, Split, digest
from latent_bridge import draw_bridge_noise
from latents import DIRECTIONS
from pictures import draw_losses
from runs import LatentPairs, bridge_pairs, cpu_randn, load_latents, load_splits, step_seed
from safe_files import whole

BATCH = 64  # of the translator, at most: chance cannot give so many answers, and a step stays cheap
BRIDGE_BATCH = 16  # a bridge learns slower: its pictures are longer than vectors
READ = 512  # pairs that are read and encoded to choose them from: encoders like PCA need some
LEFT = 0.1  # the share of a constant answer's error that may be left
REPORTS = 20  # rows of overfit.csv


# --------------------------------------------------------------------------------------------------
# The pairs


def few(split, seed):
    """A Split of at most READ pairs of `split`: no image twice, no caption twice, none bare."""
    pairs = split.pairs[~split.bare]
    pairs = pairs[np.random.default_rng(seed).permutation(len(pairs))]
    # Of the pairs of an image the first one stays, and then of the pairs of a caption.
    for side in (0, 1):
        _, first = np.unique(pairs[:, side], return_index=True)
        pairs = pairs[np.sort(first)]
    i, j = pairs[:READ].T

    def image(n):
        return split.images[i[n]]

    def caption(n):
        return split.captions[j[n]]

    both = np.repeat(np.arange(len(i))[:, None], 2, axis=1)
    bare = np.zeros(len(i), bool)
    return Split(Lazy(len(i), image), Lazy(len(i), caption), both, bare, digest(split.key, i, j))


def distinct(conditions, B):
    """(B,) rows of conditions (n, ...), no two of them equal, as long as there are B such rows.

    If there are fewer, they come again: a set of ten classes has ten captions."""
    flat = np.asarray(conditions).reshape(len(conditions), -1)
    rows = np.flatnonzero(first_equal(flat) == np.arange(len(flat)))
    return np.resize(rows[:B], B)


def few_latents(args, device, splits):
    """(training Latents, validation Latents) of a few pairs, through the run's encoders."""
    splits = {name: few(split, args.seed) for name, split in splits.items()}
    # Into a cache of its own: these latents are of other encoders than a run's, fitted on few.
    with tempfile.TemporaryDirectory() as folder:
        here = argparse.Namespace(**vars(args) | {"cache_dir": folder, "pairs": None})
        found = load_latents(here, device, 0, 1, None, splits)
        return copied(found.train), copied(found.val)


def copied(latents):
    """The same in memory: a memory map of a file that is removed is not safe everywhere."""
    image, text = (side[np.arange(len(side))] for side in (latents.image, latents.text))
    return latents._replace(image=np.array(image), text=np.array(text))


# --------------------------------------------------------------------------------------------------
# The two methods


def one_process(world):
    """RunError under torchrun."""
    if world > 1:
        raise RunError(f"--overfit is for one process, not for {world}: start it without torchrun")


def translator(args, device, splits, Learner, train_step, losses):
    """--overfit of train.py, whose Learner and train_step these are. RunError: FAIL."""
    train, val = few_latents(args, device, splits)
    tests = []
    for direction in DIRECTIONS:
        torch.manual_seed(args.seed)
        learner = Learner(direction, train, val, args, device)
        c, z = train.of(direction, train.full)
        rows = distinct(c, min(args.batch, BATCH))
        tests.append(TranslatorTest(learner, c[rows], z[rows], args, device, train_step))
    verdict(tests, args, losses)


class TranslatorTest:
    """A direction of the translator, on one batch c (B, h1), z (B, h2)."""

    def __init__(self, learner, c, z, args, device, train_step):
        self.learner, self.c, self.target = learner, c, z
        self.args, self.device, self.train_step = args, device, train_step

    def step(self, step):
        args, B = self.args, len(self.c)
        generator = torch.Generator().manual_seed(
            step_seed(args.seed, self.learner.direction, step)
        )
        noise = draw_noise(B, self.learner.net.h2, args.T, args.p, generator)
        # In another order each time: draw_noise puts every eighth PLACE at t = T, and each row has
        # to be there now and then.
        order = torch.randperm(B, generator=generator)
        batch = self.c[order], self.target[order], noise
        self.train_step(self.learner, batch, step, args, self.device)

    def answer(self):
        """Raw samples (B, h2): without guidance, which overstates, and not averaged."""
        net, args = self.learner.net.eval(), self.args
        how = {"steps": args.ddim_steps, "randn": cpu_randn(args.seed)}
        z_hat = net.sample(self.c.to(self.device), **how).cpu()
        net.train()
        return z_hat


def bridge(args, device, Learner, train_step, losses):
    """--overfit of train_bridge.py. RunError: FAIL."""
    if args.dataset in PAIRS:
        pairs = bridge_pairs(args, "train")
    else:
        latents, _ = few_latents(args, device, load_splits(args))
        pairs = {direction: LatentPairs(latents, direction) for direction in DIRECTIONS}
    tests = []
    for direction, found in pairs.items():
        torch.manual_seed(args.seed)
        learner = Learner(direction, found, args, device)
        # Twice as many as are wanted: some sources may be equal.
        B = min(args.batch, BRIDGE_BATCH)
        drawn = np.random.default_rng(args.seed).permutation(len(found.x))[: 2 * B]
        y, x = found.of(np.sort(drawn))
        rows = distinct(y, B)
        y, x = torch.from_numpy(y[rows]), torch.from_numpy(x[rows])
        tests.append(BridgeTest(learner, y, x, args, device, train_step))
    verdict(tests, args, losses)


class BridgeTest:
    """A direction of the bridge, on one batch y (B, ...), x (B, ...)."""

    def __init__(self, learner, y, x, args, device, train_step):
        self.learner, self.y, self.x = learner, y, x
        self.args, self.device, self.train_step = args, device, train_step
        self.target = learner.net.scale_x(x.to(device)).cpu().flatten(1)

    def step(self, step):
        args, net = self.args, self.learner.net
        generator = torch.Generator().manual_seed(
            step_seed(args.seed, self.learner.direction, step)
        )
        noise = draw_bridge_noise(len(self.y), net.N, net.D, net.kernel.T, args.p_T, generator)
        self.train_step(self.learner, (self.y, self.x, noise), step)

    def answer(self):
        """Scaled samples (B, numbers of an item), of ten evaluations."""
        net = self.learner.net.eval()
        x_hat, _ = net.sample(self.y.to(self.device), randn=cpu_randn(self.args.seed))
        net.train()
        return x_hat.cpu().flatten(1)


# --------------------------------------------------------------------------------------------------
# The steps, and the verdict


def left(answer, target):
    """The error of answers (B, n) to targets (B, n), in units of the best constant answer's."""
    constant = target.mean(0)
    return ((answer - target).square().sum() / (constant - target).square().sum()).item()


def learn_by_heart(test, steps):
    """Train on one batch. -> rows [step, direction, losses ...], means over the steps between."""
    learner, rows = test.learner, []
    every = max(1, steps // REPORTS)
    for step in range(steps):
        test.step(step)
        if (step + 1) % every == 0 or step + 1 == steps:
            means = (learner.sums.cpu() / learner.counts.clamp(min=1)).tolist()
            rows.append([step + 1, learner.direction, *means[:3]])
            learner.sums.zero_()
            learner.counts.zero_()
    return rows


def verdict(tests, args, losses):
    """Train each; print a line each. RunError, which is exit status 1, unless all have passed."""
    rows, failed = [], []
    for test in tests:
        before, began = left(test.answer(), test.target), time.time()
        found = learn_by_heart(test, args.steps)
        after, direction = left(test.answer(), test.target), test.learner.direction
        seconds = time.time() - began
        print(f"{direction}: {len(test.target)} pairs, {args.steps} steps, {seconds:.0f} s")
        for name, first, last in zip(losses, found[0][2:], found[-1][2:], strict=True):
            print(f"  {name:10} {first:.4f} -> {last:.4f}")
        print(f"  {'error left':10} {before:.4f} -> {after:.4f}   1: a constant answer", flush=True)
        rows += found
        if not after < LEFT:  # so a NaN fails, too
            failed.append(f"{direction} has {after:.2f} left")
    if args.out:
        keep(rows, args.out, losses)
    if failed:
        told = f"FAIL: {', '.join(failed)} of a constant answer's error, below {LEFT} is needed"
        raise RunError(f"{told}: one batch is not learned; {advice(args)}")
    print(f"PASS: one batch is learned by heart; below {LEFT} of the error was needed")


def advice(args):
    """What to do after a FAIL."""
    # z_0 is computed from eps by a division by 0.018: what is wrong by 0.1 at t = T becomes 5 in
    # z_0, and later steps do not take that back (tried: 50 of them, after 1,200 steps of training).
    if getattr(args, "predict", None) == "eps":
        return (
            "of --predict eps that is to be expected, it divides its error by sqrt(alpha_T): z_0?"
        )
    return "look for a bug, or try --lr, --steps"


def keep(rows, folder, losses):
    """FOLDER/overfit.csv and overfit.png. Nothing else of the folder is touched."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "overfit.csv")
    with whole(path) as temporary, open(temporary, "w", newline="") as f:
        csv.writer(f).writerows([["step", "direction", *losses], *rows])
    draw_losses(path, os.path.join(folder, "overfit.png"), losses)
