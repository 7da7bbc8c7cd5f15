"""
reproduce.py: the papers' table of contents. Every table and figure, with the command that makes it.

    python reproduce.py                        the list
    python reproduce.py RUN                    all that this trained run can give
    python reproduce.py lddbm-losses ...       one table by its name, with that script's own flags

There are two kinds of tables. Most belong to one run: it is trained first, and then any number of
them can be read off it. The others compare several trainings, so they train by themselves; a second
call finds the runs that are there, and only prints. Those have names, and scripts in tables/.
"""

import argparse
import os
from typing import NamedTuple

import evaluate
import evaluate_bridge
from checkpoints import read_run
from errors import RunError, run_script
from scores import at_work
from tables import (
    bridge_seeds,
    captioning,
    choices,
    encoder_pairs,
    lddbm,
    released,
    small_clip,
    text_to_image,
    training_seeds,
)

# --------------------------------------------------------------------------------------------------
# The list


class Entry(NamedTuple):
    """A table or figure of a paper, or a run that has to be trained first."""

    where: str  # its place in the paper; "-": ours
    what: str
    minutes: float  # on two cores, the runs that it reads not counted
    command: str


MT = "runs/glyphs-translator"
SR = "runs/glyph-sr-bridge"
SOLIDS = "runs/glyph-solids-bridge"
ROOMS = "runs/glyph-rooms-bridge"
NAMES = "runs/glyph-names-bridge"
SOUNDS = "runs/glyph-sounds-bridge"
SIGHTS = "runs/glyph-sights-bridge"
PAIRS = "pca:128,tfidf:256 pca:64,tfidf:64"

# fmt: off
MT_ENTRIES = [
    Entry("run",      "captions and glyphs",       4, "train.py"),
    Entry("all",      "what this run can give",    8, f"reproduce.py {MT}"),
    Entry("Table 2",  "similarity and controls",   1, f"evaluate.py {MT} --task similarity"),
    Entry("Table 3",  "other pairs of encoders",   8, f"reproduce.py encoder-pairs {PAIRS}"),
    Entry("Table 4",  "another data set",          1, f"evaluate.py {MT} --task cross-domain"),
    Entry("Table 5",  "captions, scored",          4, f"reproduce.py captioning {MT}"),
    Entry("Table 6",  "classification",            1, f"evaluate.py {MT} --task classification"),
    Entry("Table 7",  "each term of Eq. 5 alone",  1, f"evaluate.py {MT} --task ablation"),
    Entry("Fig. 3a",  "images from captions",      1, f"evaluate.py {MT} --task pictures"),
    Entry("Fig. 3a",  "the same, scored by FID",   2, f"reproduce.py text-to-image {MT}"),
    Entry("Fig. 3b",  "retrieved images",          1, f"evaluate.py {MT} --task retrieval"),
    Entry("-",        "samples getting clean",     1, f"evaluate.py {MT} --task movie"),
    Entry("Fig. 4",   "captions, right to wrong",  4, f"reproduce.py captioning {MT}"),
    Entry("-",        "gamma, omega, steps, K",    1, f"evaluate.py {MT} --task curves"),
    Entry("-",        "a small CLIP and its gap", 16, "reproduce.py small-clip"),
    Entry("-",        "our choices, measured",   30, "reproduce.py choices"),
    Entry("-",        "three training seeds",    25, "reproduce.py training-seeds"),
    Entry("-",        "... with 3,000 pairs",     8, "reproduce.py training-seeds --pairs 3000"),
    Entry("-",        "as printed, as released",  20, "reproduce.py as-released"),
]
LD_ENTRIES = [
    Entry("run",      "8 x 8 to 32 x 32 pixels",   8, "train_bridge.py"),
    Entry("run",      "silhouettes to voxels",     8, "train_bridge.py --dataset glyph-solids"),
    Entry("run",      "six cameras to voxels",     6, "train_bridge.py --dataset glyph-rooms"),
    Entry("run",      "latents to latents",        4, "train_bridge.py --dataset glyph-names"),
    Entry("run",      "glyphs to their sounds",    6, "train_bridge.py --dataset glyph-sounds"),
    Entry("run",      "sounds to their glyphs",    6, "train_bridge.py --dataset glyph-sights"),
    Entry("Results",  "super resolution",         12, f"reproduce.py {SR}"),
    Entry("Results",  "views to 3D shape",        16, f"reproduce.py {SOLIDS}"),
    Entry("Ablation", "occupancy (nuScenes)",     12, f"reproduce.py {ROOMS}"),
    Entry("Results",  "edges: time and FID",      10, "reproduce.py lddbm-speed"),
    Entry("Results",  "two-way matching",          5, f"reproduce.py {NAMES} --task quality"),
    Entry("Results",  "Face2Voice: glyphs",       12, f"reproduce.py {SOUNDS} --task quality"),
    Entry("Results",  "Voice2Face: glyphs",       12, f"reproduce.py {SIGHTS} --task quality"),
    Entry("Fig. 1",   "samples beside baselines",  1, f"evaluate_bridge.py {SR} --task samples"),
    Entry("-",        "samples on their way",      1, f"evaluate_bridge.py {SR} --task movie"),
    Entry("Fig. 1",   "t-SNE of both modalities",  1, f"evaluate_bridge.py {SR} --task tsne"),
    Entry("Ablation", "the denoiser's design",    60, "reproduce.py lddbm-design"),
    Entry("Ablation", "the losses",               50, "reproduce.py lddbm-losses"),
    Entry("Ablation", "the training procedure",   40, "reproduce.py lddbm-training"),
    Entry("-",        "quality over evaluations",  8, f"evaluate_bridge.py {SR} --task trade-off"),
    Entry("-",        "ours, Basic: three seeds", 45, "reproduce.py bridge-seeds --on glyph-sr"),
    Entry("-",        "... silhouettes",         45, "reproduce.py bridge-seeds --on glyph-solids"),
    Entry("-",        "... six cameras",          30, "reproduce.py bridge-seeds --on glyph-rooms"),
]
THEORY_ENTRIES = [
    Entry("Lemma 1",  "is c M the projection?",  0.2, "theory/lemma1.py"),
    Entry("Prop. 1",  "the probability bound",   0.2, "theory/proposition1.py"),
    Entry("Eq. 21",   "gamma; what F is worth",  0.2, "theory/gamma.py"),
    Entry("Eq. 3",    "what samplers sample",    0.2, "theory/sampling.py"),
]
# fmt: on
CONTENTS = {
    "MT, Modality Translation through Conditional Encoder-Decoder": MT_ENTRIES,
    "LD, Latent Denoising Diffusion Bridge (LDDBM)": LD_ENTRIES,
    "Theory: which statements of the papers hold, fail, or need a condition": THEORY_ENTRIES,
}
NOTE = """
"run": trained first, and read by the rows below it. min: minutes on two cores.
Not here, for there is nothing to measure: MT Table 1 (dimensions of encoders), Fig. 1 and 2."""


def print_contents():
    print(f"  {'':34}{'min':>4}  command")
    for heading, entries in CONTENTS.items():
        print(f"\n{heading}")
        for entry in entries:
            place = f"  {entry.where:9}{entry.what:25}{entry.minutes:4g}"
            print(f"{place}  python {entry.command}")
    print(NOTE)


# --------------------------------------------------------------------------------------------------
# The three things that it does


SCRIPTS = {
    "bridge-seeds": bridge_seeds.main,
    "captioning": captioning.main,
    "text-to-image": text_to_image.main,
    "encoder-pairs": encoder_pairs.main,
    "small-clip": small_clip.main,
    "training-seeds": training_seeds.main,
    "choices": choices.main,
    "as-released": released.main,
}


def refuse_first_look(args):
    """RunError for a flag that asks for less than everything."""
    if args.first_look:
        raise RunError("--first-look is for evaluate.py and evaluate_bridge.py: here is all of it")


def translator_tables(folder, flags):
    """All tasks of evaluate.py, and the tables that train a part of their own, in one go."""
    args = evaluate.parse([folder, *flags])
    refuse_first_look(args)

    # Drawing a caption takes a while: fewer than other tasks take.
    def captions(evaluation):
        captioning.captioning(evaluation, most=args.limit or 1000)

    trained = {
        "text-to-image": text_to_image.text_to_image,
        "captioning": captions,
        "gap": small_clip.gap,
    }
    tasks = evaluate.TASKS | trained
    chosen = args.task or (*evaluate.USUAL, *trained)
    with at_work(folder):
        evaluate.run_tasks(evaluate.open_evaluation(args), {name: tasks[name] for name in chosen})


def bridge_tables(folder, flags):
    """Train the runs that a bridge is compared with, then the usual tasks of evaluate_bridge.py."""
    args = evaluate_bridge.parse([folder, *flags])
    refuse_first_look(args)
    chosen = args.task or evaluate_bridge.USUAL
    tasks = {name: evaluate_bridge.BRIDGE_TASKS[name] for name in chosen}
    with at_work(folder):
        evaluation = evaluate_bridge.open_evaluation(args)
        lddbm.train_companions(evaluation.run)
        evaluate.run_tasks(evaluation, tasks)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = ", ".join([*SCRIPTS, *lddbm.ABLATIONS, "lddbm-speed"])
    parser.add_argument("what", nargs="?", help=f"a run's folder, or one of {names}")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="go to that table's script")
    args = parser.parse_args(argv)

    # Nothing: the list. A table's name: its script, with the rest of the command line.
    if args.what is None:
        return print_contents()
    if args.what in SCRIPTS:
        return SCRIPTS[args.what](args.flags)
    if args.what in (*lddbm.ABLATIONS, "lddbm-speed"):
        return lddbm.main([args.what, *args.flags])

    # Else it is a run. Its checkpoint says of which model.
    if not os.path.isdir(args.what):
        raise RunError(f"{args.what}: no such run, and no such table; the tables are {names}")
    if read_run(args.what)["model"] == "bridge":
        bridge_tables(args.what, args.flags)
    else:
        translator_tables(args.what, args.flags)


if __name__ == "__main__":
    run_script("reproduce.py", main)
