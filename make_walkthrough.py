"""
make_walkthrough.py: the two files beside walkthrough.py, each made by one command.

    python make_walkthrough.py               walkthrough.ipynb: its cells, run, with their pictures
    python make_walkthrough.py --checkpoint  small-run/model.pt: trained anew, 4 minutes, one core

The notebook is not written by hand: walkthrough.py is the source, and a test says when the notebook
is older. Cells of the script begin with a line `# %%`, or, if they are text, `# %% [markdown]`; so
VS Code and Jupyter (with jupytext) open the script itself as a notebook, too.

small-run is a run as train.py leaves one, so every command of evaluate.py takes it, but small
enough to be handed out with the source. What makes it small, 2.6 MB where the default has 63:
    the averaged weights alone, in 16 bits; no optimiser, for nobody goes on with it
    a network of 4 layers of 224, where the default has 10 of 256
    96 numbers an image, and 160 a caption, without words that a single character has

Map      cells_of, run_cell, notebook     walkthrough.py -> walkthrough.ipynb
         small_encoders, train_small      glyphs -> small-run/model.pt
"""

import argparse
import base64
import contextlib
import io
import os

import numpy as np
import torch

import encoders
import train
from checkpoints import save_checkpoint
from data import load
from errors import run_script
from latents import DIRECTIONS, Latents
from safe_files import write_json

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "walkthrough.py")
NOTEBOOK = os.path.join(HERE, "walkthrough.ipynb")
COLOURS = 64  # of its pictures: so fifteen of them take less than half a megabyte

# --------------------------------------------------------------------------------------------------
# The notebook


def cells_of(text):
    """[("code" or "markdown", source), ...] of a script in percent cells.

    The text of a markdown cell stands in comments; their signs are taken off."""
    cells = []
    for part in ("\n" + text).split("\n# %%")[1:]:
        head, _, source = part.partition("\n")
        source = source.strip("\n")
        if head.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in source.split("\n")]
            cells.append(("markdown", "\n".join(lines)))
        else:
            cells.append(("code", source))
    return cells


def run_cell(source, names):
    """Run a cell in the namespace `names` -> its outputs, as a notebook keeps them."""
    outputs = []

    # What Jupyter's own `display` does, for pictures alone.
    def display(image):
        file = io.BytesIO()
        image.quantize(COLOURS).save(file, "PNG", optimize=True)
        data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})

    names["display"] = display
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(source, SCRIPT, "exec"), names)
    if said.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": said.getvalue()})
    return outputs


def notebook(cells):
    """Run the cells, one after the other -> the notebook, as JSON has it (nbformat 4.5)."""
    # get_ipython: by this name the script knows that it is a notebook.
    names = {"__name__": "__main__", "get_ipython": None}
    made = []
    for number, (kind, source) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source}
        if kind == "code":
            cell["execution_count"] = number
            cell["outputs"] = run_cell(source, names)
        made.append(cell)
        print(f"{number + 1} of {len(cells)} cells", flush=True)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def make_notebook():
    with open(SCRIPT, encoding="utf-8") as f:
        cells = cells_of(f.read())
    write_json(NOTEBOOK, notebook(cells))
    print(f"saved {NOTEBOOK}, {os.path.getsize(NOTEBOOK) / 1e6:.2f} MB")


# --------------------------------------------------------------------------------------------------
# The small run

FOLDER = "small-run"
OPTIONS = "--width 224 --layers 4 --image-encoder pca:96 --text-encoder tfidf:160 --amp off"
RARE = 13  # captions: twelve typefaces, and the bare name, of one character


def small_encoders(train_set):
    """(E_image, E_text), fitted on the training split, with their arrays in 16 bits."""
    fitted = encoders.make("pca:96", "image", train_set.images).arrays
    E_image = encoders.pca("pca:96", halved(fitted))

    # Words of one character alone say nothing about new characters, and there are 5,000 of them.
    # How many captions have a term stands in its weight: idf = ln((1 + N) / (1 + n_t)) + 1.
    fitted = encoders.make("tfidf:160", "text", train_set.captions).arrays
    n = (1 + len(train_set.captions)) / np.exp(fitted["idf"] - 1) - 1
    kept = np.flatnonzero(n > RARE + 0.5)
    arrays = {
        "vocabulary": [fitted["vocabulary"][i] for i in kept],
        "idf": fitted["idf"][kept],
        "W": np.ascontiguousarray(fitted["W"][:, kept]),
    }
    return E_image, encoders.tfidf("tfidf:160", halved(arrays))


def halved(arrays):
    """The arrays of an encoder, floats in 16 bits: three digits, enough for either encoder."""
    return {k: v.astype("f2") if isinstance(v, np.ndarray) else v for k, v in arrays.items()}


def latents_of(split, E_image, E_text):
    """A split through both encoders, in memory; the cache is for larger things."""
    image = E_image([split.images[i] for i in range(len(split.images))])
    text = E_text([split.captions[j] for j in range(len(split.captions))])
    full, bare = np.flatnonzero(~split.bare), np.flatnonzero(split.bare)
    return Latents(image, text, split.pairs, full, bare)


def train_small(folder=FOLDER, more=()):
    """Train both directions as train.py does, and save what is needed to use them."""
    args = train.parse([*OPTIONS.split(), "--out", FOLDER, *more])
    device = torch.device("cpu")
    train_set = load("glyphs", None, "train")
    E_image, E_text = small_encoders(train_set)
    latents = latents_of(train_set, E_image, E_text)
    validation = latents_of(load("glyphs", None, "val"), E_image, E_text)

    torch.manual_seed(args.seed)
    learners = {}
    for direction in DIRECTIONS:
        learner = train.Learner(direction, latents, validation, args, device)
        # As in train.py: the weights are looked at 20 times, and the best ones are kept.
        every = max(1, args.steps // 20)
        for first in range(0, args.steps, every):
            last = min(first + every, args.steps)
            train.train_round(learner, range(first, last), args, device, 0, 1)
            learner.check(last)
        learner.finish()
        print(train.told_of(learner), flush=True)
        learners[direction] = small_state(learner)

    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.pt")
    encoder_states = {"image": E_image.state(), "text": E_text.state()}
    checkpoint = {"model": "translator", "step": args.steps, "finished": True, "data": {}}
    checkpoint |= {"args": vars(args), "encoders": encoder_states, "learners": learners}
    save_checkpoint(path, checkpoint)
    print(f"saved {path}, {os.path.getsize(path) / 1e6:.2f} MB")


def small_state(learner):
    """What a run keeps of a learner, without what only a training that goes on would need."""
    weights = {}
    for name, value in learner.ema.state_dict().items():
        # Scales and the schedule stay exact: they are few.
        large = name.startswith(("module.net.", "module.M."))
        weights[name] = value.half() if large else value
    return {"net": {}, "ema": weights, "gamma": learner.gamma, "length": learner.length}


def main(argv=None):
    parser = argparse.ArgumentParser(description="Make walkthrough.ipynb, or small-run/model.pt.")
    parser.add_argument("--checkpoint", action="store_true", help="train small-run/model.pt anew")
    args = parser.parse_args(argv)
    if args.checkpoint:
        train_small()
    else:
        make_notebook()


if __name__ == "__main__":
    run_script("make_walkthrough.py", main)
