"""
arguments.py: the command lines of train.py and train_bridge.py.

A paper has one set of numbers, a laptop needs smaller ones, and a first try smaller ones still. So
a flag may have several defaults, and they stand in ONE place: its row in FLAGS of train.py or
train_bridge.py, from where `--help` prints them. What counts, strongest first:

    what you type  >  --quick  >  the row's `sets`, by name  >  the glyph sets  >  full size

"The glyph sets" are those whose name begins with glyph. All others get the full size, which is
meant for a GPU: on a laptop, give your own --steps and --width

A set of one's own, `latents` or `captions`, may have 300 pairs or three million. Its defaults are
chosen when it has been read (`fit_to_data`): the glyphs' where it is small, or there is no GPU. So
are those of any set that is cut by --pairs.

Map      Flag, add     a row, and how argparse learns of it
         shared_parser the flags of both scripts: data, encoders, the run
         resolve, fit_to_data   fill in what was not typed
         check, check_used   what no run can have, or would ignore, is refused before it starts
"""

import argparse
from typing import Any, NamedTuple

import encoders
from data import NAMES
from data_captions import PARTIAL
from data_files import data_folder
from data_pairs import PAIRS
from devices import AMP
from errors import RunError
from sounds import SECONDS

OVERFIT = 300  # steps of --overfit, unless --steps is typed: enough for one batch (overfit.py)
ENDLESS = 10**9  # more steps, pairs or seeds than anybody has
SIDES = (8, 4096)  # pixels of an image
GRIDS = (200, 100, 50, 25)  # voxels a side: those of nuScenes' labels, and pooled 2, 4, 8 times
EMBEDDED = ("glyphs", "glyph-names", *[name for name in PAIRS if name.startswith("glyph-")])
# Flags that some data sets alone look at.
ONLY_FOR = [
    ("image_latents text_latents groups", ("latents",)),
    ("celeba_train", ("celeba",)),
    ("partial", PARTIAL),
    ("source_dir target_dir", ("pairs",)),
    (
        "size",
        (
            "celebahq",
            "ffhq",
            "edges2handbags",
            "shapenet",
            "nuscenes",
            "voxceleb",
            "voxceleb-faces",
        ),
    ),
    ("grid", ("nuscenes",)),
    ("seconds", ("pairs", "voxceleb", "voxceleb-faces")),
    ("poses", ("glyph-solids",)),
    ("bare", ("glyphs",)),
]

# Sets of one's own: nobody knows how large they are before they have been read.
OWN = ("latents", "captions")
# With fewer pairs than this the network of the glyphs (width 256) is large enough: wider ones learn
# the pairs by heart. It sees each pair 38 times, twice as often as 2,800 steps show the 42,232
# glyph pairs: the best weights are kept, so that more does no harm. But 300 steps at least, for a
# network needs some whatever the pairs, and 20,000 at most, which are hours on a CPU.
SMALL = 100_000
PASSES = 38
OWN_STEPS = (300, 20_000)

# The encoders of a data set that needs no download; all others start from CLIP, as in MT.
ENCODERS = {"glyphs": ("pca:128", "tfidf:256"), "latents": ("none", "none")}
CLIP = ("clip:ViT-B-32-quickgelu", "clip:ViT-B-32-quickgelu")


class Flag(NamedTuple):
    """A number of the method with all its defaults. None: as the column to its left."""

    name: str  # as argparse stores it: "ddim_steps" is --ddim-steps
    full: Any  # at full size: the paper's value, or what `help` says of it; its type is the flag's
    glyphs: Any  # for the embedded sets, which fit minutes on two cores
    quick: Any  # with --quick
    limits: tuple | None  # (least, most), both allowed; None: `choices` say what is allowed
    help: str
    choices: tuple = None
    sets: dict = {}  # for single data sets: {"glyph-solids": 6000}

    @property
    def option(self):
        return "--" + self.name.replace("_", "-")

    def default(self, dataset, quick):
        """The value where nothing was typed."""
        value = self.full
        if dataset.startswith("glyph") and self.glyphs is not None:
            value = self.glyphs
        value = self.sets.get(dataset, value)
        if quick and self.quick is not None:
            value = self.quick
        return value

    def told(self):
        """ "(100000; glyph sets 2800; --quick 250)", for --help."""
        parts = [f"{self.full}"]
        if self.glyphs is not None:
            parts.append(f"glyph sets {self.glyphs}")
        parts += [f"{dataset} {value}" for dataset, value in self.sets.items()]
        if self.quick is not None:
            parts.append(f"--quick {self.quick}")
        return f"({'; '.join(parts)})"


def add(group, flag):
    """Tell argparse of one Flag. None stands for "not typed": `resolve` fills it in."""
    # Yes or no; one of a few words; a number of the type that its default has.
    how = {"default": None, "help": f"{flag.help} {flag.told()}"}
    if isinstance(flag.full, bool):
        how["action"] = argparse.BooleanOptionalAction  # --cosine and --no-cosine
    elif flag.choices:
        how["choices"] = flag.choices
    else:
        how["type"] = type(flag.full)
        how["metavar"] = flag.name.rpartition("_")[2].upper()  # --weight-decay DECAY
    group.add_argument(flag.option, **how)


def shared_parser(description, datasets, flags):
    """The parser of a training script: `flags`, its own, after those of both scripts.

    datasets: the names that it takes, the default first."""
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,  # --data is not --data-dir: a slip should not find another flag
        epilog="Numbers in brackets are defaults: full size, then those of the glyph sets. "
        "Of latents and captions fewer than 100,000 pairs, or a machine without a GPU, get the "
        "glyph sets' and steps by the number of pairs. A run prints its values when it starts.",
    )
    # Groups are headings in --help, nothing more.
    add_data_flags(parser.add_argument_group("data").add_argument, datasets)
    add_encoder_flags(parser.add_argument_group("frozen encoders").add_argument)
    add_run_flags(parser.add_argument_group("run").add_argument)
    method = parser.add_argument_group("method and optimisation")
    for flag in flags:
        add(method, flag)
    return parser


def add_data_flags(data, datasets):
    """What is trained on. `data` adds a flag to its group; datasets: as for shared_parser."""
    data("--dataset", default=datasets[0], help=f"{', '.join(datasets)} (default {datasets[0]})")
    told = "folder of the data set ($MODALITY_DATA/NAME, else datasets/NAME); never written to"
    data("--data-dir", help=told)
    told = ".npy, .npz, .pt, or a folder of parts"
    data("--image-latents", help=f"latents: {told}, (N, h) image latents")
    data("--text-latents", help=f"latents: {told}, (N, h) text latents, row by row the partners")
    data("--groups", help="latents: .npy, (N,) ids; rows of one id are right answers to each other")
    data("--celeba-train", action="store_true", help="celeba: train on it; MT only tests on it")
    data(
        "--partial",
        action="store_true",
        help=f"{', '.join(PARTIAL)}: use the pictures that are there",
    )
    # The bridge's script alone takes pairs of arrays.
    if set(datasets) & set(PAIRS):
        data("--source-dir", help="pairs: folder of y; its files and those of x share their stems")
        data("--target-dir", help="pairs: folder of x")
        data(
            "--size",
            type=int,
            help="image side: celebahq, ffhq (128), edges2handbags, shapenet, voxceleb (64), "
            "nuscenes (72)",
        )
        data("--grid", type=int, choices=GRIDS, help="nuscenes: voxels a side of the plan (200)")
        data("--seconds", type=float, help="how much of a .wav is seen: pairs, voxceleb (2.56)")


def add_encoder_flags(frozen):
    """Which encoders make latents of images and captions, and where those are kept."""
    frozen("--image-encoder", help=encoders.SPECS["image"])
    frozen("--text-encoder", help=encoders.SPECS["text"])
    frozen("--image-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['image'])}")
    frozen("--text-pooling", help=f"hf: models: {', '.join(encoders.POOLINGS['text'])}")
    frozen("--download", action="store_true", help="allow fetching encoder weights")
    frozen("--cache-dir", default="cache", help="where latents are kept (cache)")


def add_run_flags(run):
    """Where the run goes, how it begins, and on what it computes."""
    run("--out", help="run folder (runs/DATASET-translator or runs/DATASET-bridge)")
    run("--quick", action="store_true", help="a real but small run: glyph sets 1 to 2 minutes")
    told = "learn one batch by heart, and say whether that works; keeps no run (overfit.py)"
    run("--overfit", action="store_true", help=told)
    run("--resume", action="store_true", help="go on with the run in --out")
    run("--overwrite", action="store_true", help="replace the run in --out")
    run("--seed", type=int, default=0, help="of weights, batches and noise (0)")
    run("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    run(
        "--amp",
        choices=tuple(AMP),
        help="mixed precision (CPU: off, bf16 with AMX; GPU: bf16, else fp16)",
    )
    run("--save-every", type=int, default=500, help="steps between checkpoints (500)")


def resolve(args, flags, model):
    """Fill what was not typed. model: "translator" or "bridge", the end of the run's folder.

    RunError for numbers outside of their limits, and for flags that this run would ignore."""
    given = [name for name, value in vars(args).items() if value not in (None, False)]
    if args.overfit and args.steps is None:
        args.steps = OVERFIT
    # What was typed is there already; the rest comes from the flag's row.
    if model == "bridge" or not by_size(args):
        fill(args, flags, args.dataset)
    # Pairs of arrays have no frozen encoders; glyph-names are the latents of the glyphs.
    if args.dataset not in PAIRS:
        source = "glyphs" if args.dataset == "glyph-names" else args.dataset
        image, text = ENCODERS.get(source, CLIP)
        args.image_encoder = args.image_encoder or image
        args.text_encoder = args.text_encoder or text
    quick = "-quick" if args.quick else ""
    if not args.overfit:
        args.out = args.out or f"runs/{args.dataset}-{model}{quick}"
    check_used(args, given)
    check(args, flags)
    # The run keeps the folder in which its data were found: evaluation looks there again.
    if args.dataset not in EMBEDDED:
        args.data_dir = data_folder(args.dataset, args.data_dir, vars(args))


def by_size(args):
    """Whether the defaults depend on how many pairs there are."""
    return args.dataset in OWN or getattr(args, "pairs", None) is not None


def fill(args, flags, dataset):
    """Give every flag that was not typed its default for a data set."""
    for flag in flags:
        if getattr(args, flag.name) is None:
            setattr(args, flag.name, flag.default(dataset, args.quick))


def fit_to_data(args, flags, pairs, device):
    """Fill what `resolve` has left open for a set of one's own, by its size and the device.

    -> a line that says what was chosen, or None where all was decided before."""
    if not by_size(args):
        return None
    small = pairs < SMALL or device.type == "cpu"
    chosen = args.steps is None and small and not args.quick
    fill(args, flags, "glyphs" if small else args.dataset)
    if chosen:
        least, most = OWN_STEPS
        args.steps = min(max(PASSES * pairs // args.batch, least), most)
    check(args, flags)
    size = f"width {args.width}, {args.steps:,} steps of {args.batch}"
    return f"{pairs:,} training pairs, {device.type}: {size} (see --width, --steps)"


def check(args, flags):
    """RunError for numbers outside of their limits: nan, a share above 1, a step of 1e-300.

    What no run can use is refused before anything starts, and what would take for ever, too: a
    million layers are a slip of the hand."""
    for flag in flags:
        value = getattr(args, flag.name)  # None: not known before the data are read
        if flag.limits and value is not None and not isinstance(value, str):
            within(flag.option, value, *flag.limits)
    within("--save-every", args.save_every, 1, ENDLESS)
    within("--seed", args.seed, 0, ENDLESS)
    if getattr(args, "size", None) is not None:
        within("--size", args.size, *SIDES)
    if getattr(args, "seconds", None) is not None:
        within("--seconds", args.seconds, *SECONDS)


def within(option, value, least, most):
    """RunError unless least <= value <= most; nan is outside of everything."""
    if not least <= value <= most:
        raise RunError(f"{option} {value:g}: it has to be between {least:g} and {most:g}")


def number(option, word, least, most):
    """The number that a word says, within its limits. RunError."""
    try:
        value = float(word)
    except ValueError:
        raise RunError(f"{option} {word}: a number or `auto` is needed") from None
    within(option, value, least, most)
    return value


def check_used(args, given):
    """RunError for a flag that was typed and that this run would not look at.

    given: names of the flags that were typed. Ignored in silence, such a flag lets somebody believe
    in a comparison that was none."""
    for names, sets in ONLY_FOR:
        for name in names.split():
            if name in given and args.dataset not in sets:
                told = f"is for {', '.join(sets)}; --dataset {args.dataset} ignores it"
                raise RunError(f"--{dashes(name)} {told}")
    if args.overfit and (args.resume or args.overwrite):
        raise RunError("--overfit keeps no run: leave out --resume and --overwrite")
    # Embedded sets lie in no folder, and what is made of arrays needs no frozen encoder.
    files = args.dataset not in EMBEDDED
    if "data_dir" in given and not files:
        raise RunError(f"--data-dir: {args.dataset} is embedded, it has no folder")
    for modality in ("image", "text"):
        encoder = getattr(args, f"{modality}_encoder") or ""
        pooled = encoder.startswith("hf:") or encoder in ("bert", "dinov2")
        if f"{modality}_encoder" in given and args.dataset in PAIRS:
            raise RunError(f"--{modality}-encoder: pairs of arrays have no frozen encoders")
        if f"{modality}_pooling" in given and not pooled:
            raise RunError(f"--{modality}-pooling is for hf: models, not for {encoder or 'none'}")


def dashes(name):
    return name.replace("_", "-")


def known(dataset, names):
    """RunError unless the script takes this data set: the other script may."""
    if dataset in names:
        return
    if dataset in PAIRS or dataset == "glyph-names":
        raise RunError(f"{dataset} has pairs of arrays: they are for train_bridge.py")
    raise RunError(f"no data set {dataset!r}; there are {', '.join(names)}")


TRANSLATOR_SETS = tuple(NAMES)
BRIDGE_SETS = ("glyph-sr", "glyph-names", *[n for n in PAIRS if n != "glyph-sr"], *NAMES)
