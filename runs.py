"""
runs.py: a run, from its arguments to its folder on disk and back; the same for both papers.

    RUN/model.pt    the checkpoint: weights, averages, optimisers, encoders, arguments
    RUN/log.csv     a row every 50 steps: losses, gradient norm, learning rate, speed
    RUN/loss.png    the log as a picture

Training goes through the map from top to bottom; evaluation begins with the last two.

Map      data_options, load_latents, bridge_pairs   arguments -> data, frozen encoders, latents
         make_bridge                                arguments -> an untrained bridge
         draw_batch, learning_rate                  what every step of training needs
         save_checkpoint, load_checkpoint           one file, written whole or not at all
         RunFolder                                  the folder while a run is trained
         TranslatorRun, BridgeRun                   RUN/model.pt read back, to be evaluated
Random   each step draws from a generator seeded by (seed, direction, step). So a killed run that
         goes on sees the batches that it would have seen, and so does any number of processes
Letters  B batch   N conditions   h1 = dim c   h2 = dim z
         a learner: one direction in training (train.py, train_bridge.py)
"""

import argparse
import math
import os
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import data
import encoders
from data_pairs import PAIRS, load_pairs
from ddim_translator import Noise, Translator, draw_noise
from latent_bridge import Bridge
from latents import DIRECTIONS, Latents, encode_split

# What --resume may give anew: it says where and how to compute, not what.
MAY_CHANGE = "out resume overwrite device data_dir cache_dir save_every download amp".split()


class RunError(ValueError):
    """One line: what went wrong, where, what to do."""


# --------------------------------------------------------------------------------------------------
# From arguments to data and latents


def source_of(args):
    """The set of images and captions whose latents are wanted; glyph-names are the glyphs'."""
    return "glyphs" if args.dataset == "glyph-names" else args.dataset


def data_options(args):
    """{option: value} of the flags that only this data set knows."""
    if args.dataset == "celeba":
        return {"allow_train": args.celeba_train}
    if args.dataset == "latents":
        flags = ("image_latents", "text_latents", "groups")
    elif args.dataset == "pairs":
        flags = ("source_dir", "target_dir")
    elif args.dataset == "glyph-solids":
        flags = ("poses",)
    elif args.dataset in ("celebahq", "ffhq", "edges2handbags", "shapenet"):
        flags = ("size",)
    else:
        flags = ()
    return {name: getattr(args, name) for name in flags if getattr(args, name) is not None}


def load_encoders(args, device, train_split):
    """The two frozen encoders; PCA and TF-IDF are fitted on the training split."""
    image = encoders.make(
        args.image_encoder,
        "image",
        train_split.images,
        device=device,
        download=args.download,
        pooling=args.image_pooling,
    )
    text = encoders.make(
        args.text_encoder,
        "text",
        train_split.captions,
        device=device,
        download=args.download,
        pooling=args.text_pooling,
    )
    return image, text


def load_latents(args, device, rank, world):
    """(image encoder, text encoder, Latents of train, Latents of val)."""
    options = data_options(args)
    splits = [data.load(source_of(args), args.data_dir, s, **options) for s in ("train", "val")]
    E_image, E_text = load_encoders(args, device, splits[0])
    # Process 0 fills the cache while the others wait; then they find it filled.
    if world > 1 and rank > 0:
        dist.barrier()
    latents = [encode_split(s, E_image, E_text, args.cache_dir) for s in splits]
    if world > 1 and rank == 0:
        dist.barrier()
    return E_image, E_text, *latents


class LatentPairs(NamedTuple):
    """The latents of images and captions as `Pairs` of arrays, in one direction."""

    latents: Latents
    direction: str

    @property
    def x(self):
        """As many as there are pairs: a bridge asks `len(pairs.x)`, and `of` for the items."""
        return self.latents.full

    def of(self, rows):
        """y (n, h1) and x (n, h2), arrays, of n rows of the full captions."""
        c, z = self.latents.of(self.direction, self.latents.full[rows])
        return c.numpy(), z.numpy()


def bridge_pairs(args, split, E_image=None, E_text=None):
    """{direction: Pairs} of a split; latents go both ways, all other pairs from y to x."""
    options = data_options(args)
    if args.dataset in PAIRS:
        return {"y->x": load_pairs(args.dataset, args.data_dir, split, **options)}
    found = data.load(source_of(args), args.data_dir, split, **options)
    latents = encode_split(found, E_image, E_text, args.cache_dir)
    return {direction: LatentPairs(latents, direction) for direction in DIRECTIONS}


def make_bridge(args, y_shape, x_shape):
    """The Bridge that the arguments describe, untrained."""
    return Bridge(
        y_shape,
        x_shape,
        N=args.tokens,
        D=args.dim,
        width=args.width,
        heads=args.heads,
        layers=args.layers,
        conv=args.conv,
        kernel=args.kernel,
        design=args.design,
        tau=args.tau,
        rec=args.loss == "rec",
        data_space=args.data_space,
    )


# --------------------------------------------------------------------------------------------------
# What a step of training needs


def step_seed(seed, direction, step):
    """A different number for every seed, direction and step, as long as step is below a billion."""
    backwards = direction == "image->text"
    return (2 * seed + backwards) * 1_000_000_007 + step


def draw_rows(full, bare, B, share, generator):
    """(B,) row numbers of `pairs`: uniform over `full`, but a `share` of them from `bare`."""
    rows = full[torch.randint(len(full), (B,), generator=generator).numpy()]
    if share == 0 or len(bare) == 0:
        return rows
    # The same number of random draws whatever comes out, so that every batch is reproducible.
    other = bare[torch.randint(len(bare), (B,), generator=generator).numpy()]
    is_bare = torch.rand(B, generator=generator).numpy() < share
    return np.where(is_bare, other, rows)


def draw_batch(latents, direction, step, args, mine=slice(None)):
    """(c, z, Noise) of one step, on the CPU: a function of seed, step and direction.

    mine: the slice of this process; the noise is drawn for all rows and then cut, so that four
    processes together see the batch that one would see."""
    generator = torch.Generator().manual_seed(step_seed(args.seed, direction, step))
    # A bare caption (a name without its typeface) fits up to twelve images. That is a fair
    # condition, with several right answers. As the target of image->text it would be a poor one:
    # the image shows the typeface, and the caption does not say it.
    share = args.bare if direction == "text->image" else 0.0
    rows = draw_rows(latents.full, latents.bare, args.batch, share, generator)
    h2 = latents.dims(direction)[1]
    noise = draw_noise(args.batch, h2, args.T, args.p, generator)
    c, z = latents.of(direction, rows[mine])
    return c, z, Noise(*(part[mine] for part in noise))


def warmup_cosine(step, steps, warmup=100):
    """Factor of the learning rate: up in a straight line for 100 steps, then half a cosine to 0.

    Adam's first steps rest on averages of very few gradients, so they have to be small."""
    up = min(1, (step + 1) / warmup)
    down = 0.5 * (1 + math.cos(math.pi * step / steps))
    return up * down


def learning_rate(step, args):
    """The translator's learning rate at a step: --lr, on the curve above with --cosine."""
    factor = warmup_cosine(step, args.steps) if args.cosine else 1.0
    return args.lr * factor


def cpu_randn(seed):
    """A `randn` that draws on the CPU: the same numbers whatever the device."""
    generator = torch.Generator().manual_seed(seed)

    def randn(shape, device):
        return torch.randn(shape, generator=generator).to(device)

    return randn


# --------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, checkpoint):
    """Write beside, then rename: a kill leaves the old checkpoint or the new one, no half."""
    torch.save(checkpoint, path + ".tmp")
    os.replace(path + ".tmp", path)


def load_checkpoint(path):
    """A checkpoint as tensors, dicts, numbers and strings.

    weights_only: a pickle may run any program when it is opened, so pickled objects are refused."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: no such checkpoint; python train.py makes one") from None
    except Exception as error:
        kind = type(error).__name__
        raise RunError(f"{path}: broken, or not made by our training scripts ({kind})") from None


def load_if_same(path, stamp):
    """What was trained and saved at `path` with the same stamp; None if there is no such thing."""
    if not os.path.exists(path):
        return None
    saved = load_checkpoint(path)
    same = {key: saved.get(key) for key in stamp} == stamp
    return saved if same else None


def read_run(folder):
    """RUN/model.pt as a training script left it. RunError for an unreadable or a foreign one."""
    path = os.path.join(folder, "model.pt")
    saved = load_checkpoint(path)
    if not isinstance(saved, dict) or not {"args", "encoders", "learners"} <= saved.keys():
        raise RunError(f"{path}: not a checkpoint of train.py or train_bridge.py")
    return saved


def averaged_weights(ema):
    """The state dict of the averaged weights, the ones that are used, from a learner's `ema`."""
    return {k.removeprefix("module."): v for k, v in ema.items() if k.startswith("module.")}


# --------------------------------------------------------------------------------------------------
# The folder of a run in training


class RunFolder:
    """The files of a run while it is trained; in processes of rank > 0 it writes nothing.

    model    "translator" or "bridge"
    losses   names of the losses, in the order of learner.sums
    Raises RunError where a run is in the way, or where --resume finds other settings."""

    def __init__(self, args, model, losses, rank=0):
        self.args, self.model, self.losses, self.writes = args, model, losses, rank == 0
        self.path = os.path.join(args.out, "model.pt")
        self.log = os.path.join(args.out, "log.csv")
        self.began = self.clock = time.time()
        self.old = None
        if args.resume:
            self.old = load_checkpoint(self.path)
            check_resumable(self.path, self.old, args)
        elif os.path.exists(self.path) and not args.overwrite:
            raise RunError(
                f"{self.path} exists: --resume goes on, --overwrite replaces it, "
                "--out names another"
            )

    @property
    def finished(self):
        """Whether there is nothing left to train."""
        return bool(self.old and self.old.get("finished"))

    def say(self, line):
        if self.writes:
            print(line)

    def start(self, learners, found):
        """Take what a resumed run had; open the log. found: {modality: encoder}."""
        self.learners, self.encoders = learners, found
        self.first = 0
        if self.old:
            self.first = self.old["step"]
            for learner in learners:
                learner.load(self.old["learners"][learner.direction])
            self.say(f"resumed {self.path} at step {self.first}")
        if self.writes:
            os.makedirs(self.args.out, exist_ok=True)
            self.start_log()
        self.since, self.clock = self.first, time.time()

    def steps(self):
        """The steps still to do, with a progress bar where somebody watches."""
        todo = range(self.first, self.args.steps)
        hidden = None if self.writes else True  # None: shown on a terminal only
        return tqdm(todo, "train", self.args.steps, initial=self.first, disable=hidden)

    def record(self, done, lr):
        """After `done` steps: a row of the log every 50, a checkpoint every --save-every."""
        keep = done % self.args.save_every == 0 or done == self.args.steps
        if not self.writes:
            return
        if keep or done % 50 == 0:
            self.write_log(done, lr)
        if keep:
            self.save(done)

    def finish(self):
        """The last checkpoint, marked as finished."""
        self.save(self.args.steps, finished=True)
        seconds = time.time() - self.began
        self.say(f"trained in {seconds:.0f} s: {self.path}, {self.log}")

    def save(self, step, finished=False):
        checkpoint = {
            "model": self.model,
            "step": step,
            "finished": finished,
            "args": vars(self.args),
            "encoders": {name: encoder.state() for name, encoder in self.encoders.items()},
            "learners": {learner.direction: learner.state() for learner in self.learners},
        }
        save_checkpoint(self.path, checkpoint)

    def start_log(self):
        """A fresh log.csv; on resume the old one up to the checkpoint: the rest comes again."""
        header = ",".join(["step,direction", *self.losses, "grad_norm,lr,steps_per_s"])
        rows = []
        if self.first:
            with open(self.log) as f:
                old_rows = f.read().splitlines()[1:]
            rows = [row for row in old_rows if int(row.split(",")[0]) <= self.first]
        with open(self.log, "w") as f:
            f.write("\n".join([header, *rows]) + "\n")

    def write_log(self, done, lr):
        """One row a direction: means over the steps since the last row. RunError on NaN or Inf."""
        seconds, count = time.time() - self.clock, done - self.since
        with open(self.log, "a") as f:
            for learner in self.learners:
                means = (learner.sums.cpu() / learner.counts.clamp(min=1)).tolist()
                learner.sums.zero_()
                learner.counts.zero_()
                # A NaN spreads to all weights within a step: training on would be for nothing.
                broken = [x for x in means[:3] if not math.isfinite(x)]
                if broken:
                    raise RunError(
                        f"step {done}: the loss of {learner.direction} is {broken[0]}. The "
                        "checkpoint is of an earlier, good step. Try a smaller --lr, --amp off or "
                        "bf16, a smaller --clip; look for outliers in the latents"
                    )
                cells = [f"{x:.6g}" for x in (*means, lr, count / seconds)]
                f.write(",".join([str(done), learner.direction, *cells]) + "\n")
        self.since, self.clock = done, time.time()


def check_resumable(path, checkpoint, args):
    """RunError if the run at `path` was made with other settings than these."""
    old, new = checkpoint["args"], vars(args)
    changed = [name for name in new if name not in MAY_CHANGE and old.get(name) != new[name]]
    if changed:
        told = [f"--{n.replace('_', '-')} was {old.get(n)}, now {new[n]}" for n in changed]
        raise RunError(
            f"{path} has other settings ({', '.join(told)}): give the same, or another --out"
        )


def trained_run(script, argv, device):
    """The folder where `script` (the module train or train_bridge) leaves the run of argv.

    Trained now, gone on with, or there already. A run of other settings in that folder is of an
    earlier try: it is trained again."""
    args = script.parse([*argv, "--device", str(device)])
    path = os.path.join(args.out, "model.pt")
    if os.path.exists(path):
        try:
            check_resumable(path, load_checkpoint(path), args)
            args.resume = True
        except RunError:
            args.overwrite = True
    script.train(args)
    return args.out


# --------------------------------------------------------------------------------------------------
# A trained run, read back


class TranslatorRun:
    """RUN/model.pt of train.py: the arguments, the frozen encoders, one Translator a direction.

    Raises RunError for an unfinished, foreign or unreadable checkpoint."""

    def __init__(self, folder, device="cpu", download=False):
        self.folder, self.device = folder, device
        saved = read_run(folder)
        if saved["model"] != "translator":
            raise RunError(f"{folder} is a {saved['model']}, a translator is needed here")
        self.args = argparse.Namespace(**saved["args"])
        # gamma is measured last: without it the training has been stopped on the way.
        self.gamma = {d: saved["learners"][d]["gamma"] for d in DIRECTIONS}
        if None in self.gamma.values():
            raise RunError(f"{folder}: training has not ended; go on with train.py --resume")
        states = saved["encoders"]
        self.E_image = encoders.from_state(states["image"], device=device, download=download)
        self.E_text = encoders.from_state(states["text"], device=device, download=download)
        h_image, h_text = self.E_image.dim, self.E_text.dim
        self.dims = {"text->image": (h_text, h_image), "image->text": (h_image, h_text)}
        self.translators = {d: self.read_translator(d, saved["learners"][d]) for d in DIRECTIONS}

    def read_translator(self, direction, state):
        args = self.args
        h1, h2 = self.dims[direction]
        net = Translator(
            h1, h2, args.width, args.layers, args.dropout, args.T, args.predict, args.objective
        )
        net.load_state_dict(averaged_weights(state["ema"]))
        return net.eval().to(self.device)

    def latents(self, split, dataset=None, data_dir=None):
        """(Split, Latents) of the run's own data set, or of another through the same encoders.

        Raises RunError where the run has no encoder for it, or its widths are other ones."""
        args, options = self.args, {}
        name = dataset or args.dataset
        if name == args.dataset:
            data_dir = data_dir or args.data_dir
            options = data_options(args)
        elif "none" in (self.E_image.spec, self.E_text.spec):
            raise RunError(f"{self.folder} was trained on latents: no encoder for {name}")
        found = data.load(name, data_dir, split, **options)
        latents = encode_split(found, self.E_image, self.E_text, args.cache_dir)
        widths, ours = latents.dims("text->image"), self.dims["text->image"]
        if widths != ours:
            raise RunError(
                f"{name}: text and image latents are {widths} wide, {self.folder} takes {ours}"
            )
        return found, latents

    def terms(self, direction, c, seed=0, **how):
        """(c M, F(c)), the two terms of Eq. 5 in scaled units, for raw c (N, h1).

        `how` overrides the run's own steps, omega, K (see Translator.terms)."""
        args, net = self.args, self.translators[direction]
        settings = {"steps": args.ddim_steps, "omega": args.omega, "K": args.K}
        settings |= {"randn": cpu_randn(seed)} | how
        # In chunks: K samples of 1,024 rows fit any memory.
        cMs, Fs = [], []
        for chunk in c.split(1024):
            cM, F = net.terms(chunk.to(self.device), **settings)
            cMs.append(cM.cpu())
            Fs.append(F.cpu())
        return torch.cat(cMs), torch.cat(Fs)

    def translate(self, direction, c, seed=0, gamma=None, **how):
        """z_hat of MT Eq. 5, raw (N, h2), for raw c (N, h1); gamma: the run's unless given."""
        cM, F = self.terms(direction, c, seed, **how)
        if gamma is None:
            gamma = self.gamma[direction]
        return (cM + gamma * F) / self.translators[direction].z_scale.cpu()


class BridgeRun:
    """RUN/model.pt of train_bridge.py: the arguments, one Bridge a direction, averaged weights.

    Raises RunError for an unfinished, foreign or unreadable checkpoint."""

    def __init__(self, folder, device="cpu", data_dir=None, download=False):
        self.folder, self.device = folder, device
        saved = read_run(folder)
        if saved["model"] != "bridge":
            raise RunError(f"{folder} is a {saved['model']}, a bridge is needed here")
        if not saved.get("finished"):
            raise RunError(f"{folder}: training has not ended; go on with train_bridge.py --resume")
        self.args = argparse.Namespace(**saved["args"])
        self.args.data_dir = data_dir or self.args.data_dir
        self.encoders = {}
        for modality, state in saved["encoders"].items():
            self.encoders[modality] = encoders.from_state(state, device=device, download=download)
        self.bridges = {d: self.read_bridge(state) for d, state in saved["learners"].items()}
        self.dims = {d: (b.y_shape[0], b.x_shape[0]) for d, b in self.bridges.items()}

    def read_bridge(self, state):
        net = make_bridge(self.args, *state["shapes"])
        try:
            net.load_state_dict(averaged_weights(state["ema"]))
        except RuntimeError:
            raise RunError(f"{self.folder}: made by another latent_bridge.py") from None
        net.eval().to(self.device)
        # The first call of a network is slow; without this one, tables would count it.
        net.sample(torch.zeros(2, *net.y_shape, device=self.device))
        return net

    def pairs(self, split, direction):
        """Pairs of a split ("train", "val", "test") in one direction."""
        E_image, E_text = self.encoders.get("image"), self.encoders.get("text")
        return bridge_pairs(self.args, split, E_image, E_text)[direction]
