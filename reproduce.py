"""
reproduce.py: the papers' table of contents. Every table and figure, with the command that makes it.

    python reproduce.py                        the list
    python reproduce.py RUN                    all that this trained run can give
    python reproduce.py lddbm-losses ...       one table by its name, with that script's own flags

A table of the first kind belongs to one run: train it first, then any number of tables are read
off it. The others compare several trainings, so they train by themselves; a second call finds the
runs that are there.
"""

import argparse
import os
import sys
from typing import NamedTuple

import evaluate
import evaluate_bridge
from data import DataError
from encoders import EncoderError
from runs import RunError, read_run
from tables import captioning, encoder_pairs, lddbm, small_clip, text_to_image


class Entry(NamedTuple):
    """A table or figure of a paper."""

    where: str  # its place in the paper
    what: str
    command: str
    minutes: str  # on two cores, where its run is already trained


MT = "runs/glyphs-translator"
LD = "runs/glyph-sr-bridge"
PAIRS = "pca:128,tfidf:256 pca:64,tfidf:64"
CONTENTS = {
    "MT, Modality Translation through Conditional Encoder-Decoder": [
        Entry("Table 2", "similarity and controls", f"evaluate.py {MT} --task similarity", "1"),
        Entry("Table 3", "other pairs of encoders", f"reproduce.py encoder-pairs {PAIRS}", "8"),
        Entry("Table 4", "another data set", f"evaluate.py {MT} --task cross-domain", "1"),
        Entry("Table 5", "captions", f"reproduce.py captioning {MT}", "4"),
        Entry("Table 6", "classification", f"evaluate.py {MT} --task classification", "1"),
        Entry("Table 7", "each term of Eq. 5 alone", f"evaluate.py {MT} --task ablation", "1"),
        Entry("Fig. 3a", "images from captions", f"evaluate.py {MT} --task pictures", "1"),
        Entry("Fig. 3a", "the same, judged: FID, IS", f"reproduce.py text-to-image {MT}", "2"),
        Entry("Fig. 3b", "retrieved images", f"evaluate.py {MT} --task retrieval", "1"),
        Entry("Fig. 4", "captions, right to wrong", f"reproduce.py captioning {MT}", "4"),
        Entry("-", "cosine against gamma, omega, steps, K", f"evaluate.py {MT} --task curves", "1"),
        Entry("-", "a small CLIP and its modality gap", "reproduce.py small-clip", "16"),
        Entry("Lemma 1", "does it hold?", "theory/lemma1.py", "1"),
        Entry("Prop. 1", "does it hold?", "theory/proposition1.py", "1"),
    ],
    "LD, Latent Denoising Diffusion Bridge (LDDBM)": [
        Entry("results", "samples beside Basic and yardsticks", f"reproduce.py {LD}", "12"),
        Entry("Fig. 1", "t-SNE of both modalities", f"evaluate_bridge.py {LD} --task tsne", "1"),
        Entry("ablation", "the denoiser's design", "reproduce.py lddbm-design", "30"),
        Entry("ablation", "the losses", "reproduce.py lddbm-losses", "25"),
        Entry("ablation", "the training procedure", "reproduce.py lddbm-training", "20"),
        Entry("speed", "latent against data space", "reproduce.py lddbm-speed", "10"),
        Entry("-", "quality over evaluations", f"evaluate_bridge.py {LD} --task trade-off", "3"),
    ],
}  # fmt: skip

SCRIPTS = {
    "captioning": captioning.main,
    "text-to-image": text_to_image.main,
    "encoder-pairs": encoder_pairs.main,
    "small-clip": small_clip.main,
}


def print_contents():
    for paper, entries in CONTENTS.items():
        print(f"\n{paper}")
        for entry in entries:
            command = "python " + entry.command
            print(f"  {entry.where:9}{entry.what:39}{command:68}{entry.minutes:>3} min")


def translator_tables(folder, flags):
    """All tasks of evaluate.py, and the tables that train a part of their own, in one go."""
    args = evaluate.parse([folder, *flags])
    tasks = {
        **evaluate.TASKS,
        "text-to-image": text_to_image.text_to_image,
        "captioning": lambda evaluation: captioning.captioning(evaluation, most=args.limit or 1000),
        "gap": small_clip.gap,
    }
    evaluate.run_tasks(evaluate.open_evaluation(args), tasks)


def bridge_tables(folder, flags):
    """Train the runs that a bridge is compared with, then all tasks of evaluate_bridge.py."""
    args = evaluate_bridge.parse([folder, *flags])
    evaluation = evaluate_bridge.open_evaluation(args)
    lddbm.train_companions(evaluation.run)
    tasks = {k: v for k, v in evaluate_bridge.BRIDGE_TASKS.items() if k != "parts"}
    evaluate.run_tasks(evaluation, tasks)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = ", ".join([*SCRIPTS, *lddbm.POSTER, "lddbm-speed"])
    parser.add_argument("what", nargs="?", help=f"a run's folder, or one of {names}")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="go to that table's script")
    args = parser.parse_args(argv)
    if args.what is None:
        return print_contents()
    if args.what in SCRIPTS:
        return SCRIPTS[args.what](args.flags)
    if args.what.startswith("lddbm-"):
        return lddbm.main([args.what, *args.flags])
    if not os.path.isdir(args.what):
        raise RunError(f"{args.what}: no such run, and no such table; the tables are {names}")
    tables = bridge_tables if read_run(args.what)["model"] == "bridge" else translator_tables
    tables(args.what, args.flags)


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"reproduce.py: {error}")
