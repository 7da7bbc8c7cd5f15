"""
runs.py: from the arguments of a run to its data, and from its folder back to a network.

Training starts with the first half of the map, evaluation with the last two. What lies on the disk
meanwhile is in checkpoints.py.

Map      data_options, load_latents, bridge_pairs   arguments -> data, frozen encoders, latents
         check_trainable, check_items               what no training can learn from is refused
         make_bridge                                arguments -> an untrained bridge
         draw_batch, learning_rate                  what every step of training needs
         load_run, TranslatorRun, BridgeRun         RUN/model.pt read back, to translate
Random   each step draws from a generator seeded by (seed, direction, step). So a killed run that
         goes on sees the batches that it would have seen, and so does any number of processes
Letters  B batch   N conditions   h1 = dim c   h2 = dim z
"""

import argparse
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

import data
import encoders
from as_released import Released
from checkpoints import averaged_weights, read_run, restore
from data_captions import PARTIAL
from data_pairs import PAIRS, load_pairs
from ddim_translator import Noise, Translator, draw_noise
from devices import usable
from errors import DataError, RunError
from latent_bridge import Bridge
from latents import DIRECTIONS, Latents, encode_split, new_items

# --------------------------------------------------------------------------------------------------
# From arguments to data and latents


def source_of(args):
    """The set of images and captions whose latents are wanted; glyph-names are the glyphs'."""
    return "glyphs" if args.dataset == "glyph-names" else args.dataset


# Flags that a loader takes as they are; celeba, captions and coco have more of a rule.
OPTIONS = {"latents": "image_latents text_latents groups", "pairs": "source_dir target_dir seconds"}
OPTIONS |= {"glyph-solids": "poses", "nuscenes": "size grid"}
OPTIONS |= dict.fromkeys(("celebahq", "ffhq", "edges2handbags", "shapenet"), "size")
OPTIONS |= dict.fromkeys(("voxceleb", "voxceleb-faces"), "size seconds")


def data_options(args):
    """{option: value} of the flags that only this data set knows."""
    # Loaders take few options: a flag that this one has no use for must not reach it.
    # getattr: a run of an older version has no such flag.
    partial = {"partial": True} if getattr(args, "partial", False) else {}
    if args.dataset == "celeba":
        return {"allow_train": args.celeba_train} | partial
    if args.dataset in ("captions", "coco"):
        return partial
    flags = OPTIONS.get(args.dataset, "").split()
    return {name: getattr(args, name) for name in flags if getattr(args, name, None) is not None}


def load_encoders(args, device, train_split):
    """{"image": Encoder, "text": Encoder}; PCA and TF-IDF are fitted on the training split."""
    # A slip in the second encoder should not show after minutes of fitting the first.
    items = {"image": train_split.images, "text": train_split.captions}
    for modality in items:
        encoders.check_items(getattr(args, f"{modality}_encoder"), modality, items[modality])

    # Only the training split may be looked at: a PCA that has seen test images would know them.
    found = {}
    for modality in items:
        found[modality] = encoders.make(
            getattr(args, f"{modality}_encoder"),
            modality,
            items[modality],
            device=device,
            download=args.download,
            pooling=getattr(args, f"{modality}_pooling"),
        )
    return found


class RunData(NamedTuple):
    """What a run trains on."""

    encoders: dict  # {"image": Encoder, "text": Encoder}
    train: Latents
    val: Latents
    keys: dict  # {split: key}: they change with the data


def load_splits(args):
    """{"train", "val": Split} of the arguments: tables are read, nothing is encoded yet."""
    options = data_options(args)
    names = ("train", "val")
    return {n: data.load(source_of(args), args.data_dir, n, **options) for n in names}


def cut(latents, args):
    """The Latents with --pairs of their full captions, drawn by the run's seed, and none else."""
    if getattr(args, "pairs", None) is None:
        return latents
    rows = np.random.default_rng(args.seed).permutation(latents.full)[: args.pairs]
    return latents._replace(full=np.sort(rows), bare=latents.bare[:0])


def load_latents(args, device, rank, world, old=None, splits=None):
    """RunData of the arguments.

    splits: those of load_splits, if they are there already.
    old: the checkpoint of a resumed run. Its encoders are taken, not fitted again: on other data
    PCA and TF-IDF would become other encoders, and their latents other vectors."""
    splits = splits or load_splits(args)
    keys = {name: split.key for name, split in splits.items()}
    if old:
        states = old["encoders"].items()
        E = {m: encoders.from_state(state, device, args.download) for m, state in states}
    else:
        E = load_encoders(args, device, splits["train"])
    # Process 0 fills the cache while the others wait; then they find it filled.
    if world > 1 and rank > 0:
        dist.barrier()
    pair = E["image"], E["text"], args.cache_dir
    train, val = (encode_split(split, *pair) for split in splits.values())
    train = cut(train, args)
    if world > 1 and rank == 0:
        dist.barrier()
    return RunData(E, train, val, keys)


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
    # Arrays go one way: a small picture can be made of a large one without any learning.
    if args.dataset in PAIRS:
        return {"y->x": load_pairs(args.dataset, args.data_dir, split, **options)}
    found = data.load(source_of(args), args.data_dir, split, **options)
    latents = encode_split(found, E_image, E_text, args.cache_dir)
    return {direction: LatentPairs(latents, direction) for direction in DIRECTIONS}


def check_trainable(latents, direction):
    """DataError for training latents from which nothing can be learned, before any time is spent.

    Of large sets, 5,000 pairs are looked at."""
    rows = latents.full[encoders.fixed_sample(len(latents.full), 5000)]
    c, z = latents.of(direction, rows)
    condition, target = direction.split("->")
    check_items(f"{condition} latents", c)
    check_items(f"{target} latents", z)


def check_items(name, items):
    """DataError unless items (n, ...), one side of n training pairs, can be told apart."""
    items = torch.as_tensor(items)
    if len(items) < 2:
        raise DataError(f"{len(items)} training pair is too little to learn from: add more pairs")
    # A scale is 1 / spread: of a constant it would be infinite, and all losses NaN.
    if (items == items[0]).all():
        raise DataError(f"the {name} of all {len(items)} training pairs are the same")
    # The cosine of two numbers only says whether they have one sign.
    if items.ndim == 2 and items.shape[1] == 1:
        raise DataError(f"the {name} are one number wide: a cosine needs two at least")
    if items.is_floating_point():
        check_sizes(name, items)


def check_sizes(name, items):
    """DataError for floats that a network cannot compute with, although all of them are finite."""
    # At most ten million numbers: enough to see what a set is like.
    x = items[:: 1 + items.numel() // 10_000_000].flatten(1).double()
    # In float32, 1e20 squared is infinite, and 1e-20 squared is 0.
    largest = x.abs().max().item()
    if not 1e-15 < largest < 1e15:
        raise DataError(f"the {name} have numbers of size {largest:.0e}: scale them to about 1")
    # Squared distance of each item to the mean of all. Rounding alone makes some, 1e-14 of x^2.
    apart = (x - x.mean(0)).square().sum(1)  # (n,)
    if apart.max() < 1e-12 * x.square().sum(1).max():
        raise DataError(f"the {name} of all training pairs are the same, but for rounding")
    # All items are divided by one number, their spread. If one item makes it, the others become 0.
    # From the median, not the mean: the mean would be drawn towards that item.
    apart = (x - x.median(0).values).square().sum(1)
    share = (apart.max() / apart.sum()).item()
    if len(x) > 20 and share > 0.99:
        told = f"one item has {share:.2%} of their variance, with numbers up to {largest:.0e}"
        raise DataError(f"the {name} have an outlier: {told}; remove it")


def make_translator(args, h1, h2):
    """The Translator that the arguments describe, untrained. RunError for what cannot be built."""
    names = ("width", "layers", "dropout", "T")
    names += ("predict", "objective", "faded", "normalize", "unit")
    how = {name: getattr(args, name) for name in names}
    try:
        if args.released:
            return Released(h1, h2, args.released, **how)
        return Translator(h1, h2, **how)
    except ValueError as error:
        raise RunError(str(error)) from None


def make_bridge(args, y_shape, x_shape):
    """The Bridge that the arguments describe, untrained. RunError for what cannot be built."""
    # The shapes decide about the modality models, the arguments about all else.
    try:
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
    except ValueError as error:
        raise RunError(str(error)) from None


# --------------------------------------------------------------------------------------------------
# What a step of training needs


def step_seed(seed, direction, step):
    """A different number for every seed, direction and step, as long as step is below a billion."""
    # Two directions for each seed, and far enough apart that no step reaches the next one's.
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


def ema_decay(step, args):
    """The decay of the averaged weights at a step: --ema, and less at the beginning.

    With 0.9999 from the first step on, the average of a short run would still be mostly the random
    weights that it began with. (1 + step) / (10 + step) makes it the average of the last tenth or
    so of the steps until now; at step 90,000 it comes to 0.9999."""
    return min(args.ema, (1 + step) / (10 + step))


def cpu_randn(seed):
    """A `randn` that draws on the CPU: the same numbers whatever the device."""
    generator = torch.Generator().manual_seed(seed)

    def randn(shape, device):
        return torch.randn(shape, generator=generator).to(device)

    return randn


# --------------------------------------------------------------------------------------------------
# A trained run, read back


def load_run(folder, device="cpu"):
    """The finished run of a folder: a TranslatorRun, or a BridgeRun.

        run = load_run("runs/mine")
        z_hat = run.translate("text->image", c)      # c: an array or a tensor (N, h1)

    RUN/model.pt is all that is read: no data, and an encoder only when it is asked for. RunError:
    no such folder, no checkpoint in it, or one that is unfinished, foreign or damaged."""
    saved = read_run(folder)
    kind = {"translator": TranslatorRun, "bridge": BridgeRun}[saved["model"]]
    return kind(folder, usable(device), saved=saved)


def check_direction(direction, run):
    """RunError unless the run goes this way."""
    if direction not in run.dims:
        raise RunError(f"{run.folder}: no direction {direction!r}; it has {', '.join(run.dims)}")


class TranslatorRun:
    """RUN/model.pt of train.py: the arguments, the frozen encoders, one Translator a direction.

    saved: the checkpoint, if it has been read. RunError: an unfinished, foreign or unreadable one.
    EncoderError, when E_image or E_text is first used: its weights are not at hand."""

    def __init__(self, folder, device="cpu", download=False, saved=None):
        self.folder, self.device, self.download = folder, device, download
        self.partial = False  # evaluate.py's --partial: use the pictures that are there
        saved = saved or read_run(folder)
        if saved["model"] != "translator":
            raise RunError(f"{folder} is a {saved['model']}, a translator is needed here")
        self.args = argparse.Namespace(**saved["args"])
        # gamma is measured last: without it the training has been stopped on the way.
        for direction in DIRECTIONS:
            if "gamma" not in saved["learners"].get(direction, {}):
                raise RunError(f"{folder}: model.pt lacks the direction {direction}")
        self.gamma = {d: saved["learners"][d]["gamma"] for d in DIRECTIONS}
        self.length = {d: saved["learners"][d].get("length") for d in DIRECTIONS}
        if None in self.gamma.values():
            raise RunError(f"{folder}: training has not ended; go on with train.py --resume")
        self.states = saved["encoders"]
        if set(self.states) != {"image", "text"}:
            raise RunError(f"{folder}: model.pt lacks an encoder; it has {', '.join(self.states)}")
        h_image, h_text = (encoders.width_of(self.states[m]) for m in ("image", "text"))
        self.dims = {"text->image": (h_text, h_image), "image->text": (h_image, h_text)}
        self.translators = {d: self.read_translator(d, saved["learners"][d]) for d in DIRECTIONS}

    @cached_property
    def E_image(self):  # made when it is first used: vectors are translated without it
        return encoders.from_state(self.states["image"], self.device, self.download)

    @cached_property
    def E_text(self):
        return encoders.from_state(self.states["text"], self.device, self.download)

    def read_translator(self, direction, state):
        args = self.args
        h1, h2 = self.dims[direction]
        weights = averaged_weights(self.folder, state)

        # Arguments may be damaged as weights may: both are read where `restore` says so.
        def load():
            net = make_translator(args, h1, h2)
            net.load_state_dict(weights)
            return net

        net = restore(self.folder, direction, load)
        return net.eval().to(self.device)

    def latents(self, split, dataset=None, data_dir=None):
        """(Split, Latents) of the run's own data set, or of another through the same encoders.

        Raises RunError where the run has no encoder for it, or its widths are other ones."""
        args, options = self.args, {}
        name = dataset or args.dataset
        # Its own data: with the options of its training, perhaps moved to another folder.
        if name == args.dataset:
            data_dir = data_dir or args.data_dir
            options = data_options(args)
        elif "none" in (self.E_image.spec, self.E_text.spec):
            raise RunError(f"{self.folder} was trained on latents: no encoder for {name}")
        if self.partial and name in PARTIAL:
            options = options | {"partial": True}
        found = data.load(name, data_dir, split, **options)
        latents = encode_split(found, self.E_image, self.E_text, args.cache_dir)
        # Baselines are fitted on what the run was trained on.
        if split == "train" and name == args.dataset:
            latents = cut(latents, args)
        # Vectors of somebody else's encoder may have another width: say so before a product fails.
        widths, ours = latents.dims("text->image"), self.dims["text->image"]
        if widths != ours:
            raise RunError(
                f"{name}: text and image latents are {widths} wide, {self.folder} takes {ours}"
            )
        return found, latents

    def terms(self, direction, c, seed=0, **how):
        """(c M, F(c)), the two terms of Eq. 5 in scaled units, for raw c (N, h1).

        `how` overrides the run's own steps, omega, K (see Translator.terms)."""
        check_direction(direction, self)
        c = new_items(c, self.dims[direction][:1], f"{self.folder} {direction}")
        # The run's own numbers, as in its tables, unless the caller sweeps over one of them.
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
        """z_hat of MT Eq. 5, raw (N, h2), for raw c (N, h1); gamma: the run's unless given.

        c is an array or a tensor, z_hat a tensor on the CPU; `how`: see terms. In another company a
        row meets other noise. RunError: no such direction. DataError: another width, NaN, Inf.

        Eq. 5 gives a direction; the run's length, measured on validation pairs, makes it a vector
        as near to z as it can be. A gamma of the caller's keeps the run's length."""
        cM, F = self.terms(direction, c, seed, **how)
        if gamma is None:
            gamma = self.gamma[direction]
        z_hat = (cM + gamma * F) / self.translators[direction].z_scale.cpu()
        return self.length[direction] * z_hat


class BridgeRun:
    """RUN/model.pt of train_bridge.py: the arguments, one Bridge a direction, averaged weights.

    Raises RunError for an unfinished, foreign or unreadable checkpoint."""

    def __init__(self, folder, device="cpu", data_dir=None, download=False, saved=None):
        self.folder, self.device, self.download = folder, device, download
        saved = saved or read_run(folder)
        if saved["model"] != "bridge":
            raise RunError(f"{folder} is a {saved['model']}, a bridge is needed here")
        if not saved.get("finished"):
            raise RunError(f"{folder}: training has not ended; go on with train_bridge.py --resume")
        # The arguments describe the network; the folder of its data may have moved.
        self.args = argparse.Namespace(**saved["args"])
        self.args.data_dir = data_dir or self.args.data_dir
        self.states = saved["encoders"]
        self.bridges = {d: self.read_bridge(d, state) for d, state in saved["learners"].items()}
        self.dims = {d: (b.y_shape[0], b.x_shape[0]) for d, b in self.bridges.items()}

    @cached_property
    def encoders(self):
        """{modality: Encoder} of a bridge between latents; one between arrays has none."""
        how = {"device": self.device, "download": self.download}
        return {m: encoders.from_state(state, **how) for m, state in self.states.items()}

    def read_bridge(self, direction, state):
        weights = averaged_weights(self.folder, state)

        def load():
            net = make_bridge(self.args, *state["shapes"])
            net.load_state_dict(weights)
            return net

        net = restore(self.folder, direction, load)
        net.eval().to(self.device)
        # The first call of a network is slow; without this one, tables would count it.
        net.sample(torch.zeros(2, *net.y_shape, device=self.device))
        return net

    def pairs(self, split, direction):
        """Pairs of a split ("train", "val", "test") in one direction."""
        E_image, E_text = self.encoders.get("image"), self.encoders.get("text")
        return bridge_pairs(self.args, split, E_image, E_text)[direction]

    @torch.no_grad()
    def translate(self, direction, y, seed=0, K=1, **how):
        """x_hat, raw (N, *x_shape), the mean of K samples, for raw y (N, *y_shape).

        Raw is as the data set has it: pixels from 0 to 255, voxels 0 or 1, and x_hat is floats
        about these. direction: "y->x", or that of latents; `how`: see Bridge.sample. Errors as for
        TranslatorRun, and DataError for pixels from 0 to 1."""
        check_direction(direction, self)
        net = self.bridges[direction]
        y = new_items(y, net.y_shape, f"{self.folder} {direction}")
        # Bytes have the unit 127.5. Of pixels from 0 to 1 all would look black to it.
        if net.y_mean == 127.5 and len(y) and 0 < y.max() <= 1:
            raise DataError(f"{self.folder} takes pixels from 0 to 255, here the largest is 1")
        randn = cpu_randn(seed)
        found = [torch.zeros(0, *net.x_shape)]  # of no items at all
        for start in range(0, len(y), 256):
            chunk = y[start : start + 256].to(self.device)
            samples = [net.sample(chunk, randn=randn, **how)[0] for _ in range(K)]
            found.append(net.unscale(sum(samples) / K).cpu())
        return torch.cat(found)
