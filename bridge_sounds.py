"""
bridge_sounds.py: is a sound recognised, and what does it sound like?

For data sets one side of which is a sound: glyph-sounds and glyph-sights, faces and voices, and
`pairs` with .wav files. A PSNR of two sounds says little. Three questions say more:

x_r1, x_r5    Of all true x of the test, is that of the same pair nearest to the sample (or among
              the five nearest)? By chance 1/N, 5/N
x_two_way     Is it nearer than one other, taken at random? By chance 0.5
z_two_way     The same between the latents: is z_T = E_y(y) nearer to its own z_0 = E_x(x)? It is
              LD's test of faces and voices, after Nagrani et al. 2018, with no sample in it

Near means: the cosine of all pixels of x (for a sound, those of its log-mel picture), after the
mean of training targets is subtracted. Not by latents: each method has its own encoder, and would
be its own judge; with pixels one ruler measures all. Of VoxCeleb, one pair a person is looked at:
of two clips of one speaker neither is a wrong answer.

Map      sounds_of       which side of a run is a sound, and how it is read
         recognised, latents_match    the scores above
         save_sounds     RUN/sounds/1-truth.wav, ...
"""

import os

import numpy as np
import torch

import metrics
from data_voxceleb import first_of_each
from glyph_sounds import HEARD, phases_of, play
from sounds import SPEECH, listen, write_wav

NOTE = "x_: a sample among all true x, by pixels less their mean; z_: z_T among all z_0"
LISTEN_TO = 3  # pairs


def sounds_of(run):
    """{"y" and / or "x": the Mel of its pictures}: which sides of a run are sounds. {}: none."""
    dataset = run.args.dataset
    side = {"glyph-sounds": "x", "glyph-sights": "y", "voxceleb": "x", "voxceleb-faces": "y"}
    if dataset.startswith("glyph"):
        return {side[dataset]: HEARD} if dataset in side else {}
    seconds = getattr(run.args, "seconds", None)
    how = SPEECH if seconds is None else SPEECH._replace(seconds=seconds)
    if dataset in side:
        return {side[dataset]: how}
    if dataset != "pairs":
        return {}
    # One's own files: what are they called?
    pairs = run.pairs("test", "y->x")
    sides = {"y": pairs.y, "x": pairs.x}
    return {s: how for s, items in sides.items() if len(items) and is_wav(items)}


def is_wav(items):
    return hasattr(items, "name") and items.name(0).lower().endswith(".wav")


# --------------------------------------------------------------------------------------------------
# Matching


def rows_to_match(test_set):
    """Which of the test pairs are compared: all; of VoxCeleb, one a person."""
    if not test_set.run.args.dataset.startswith("voxceleb"):
        return list(range(test_set.N))
    pairs = test_set.run.pairs("test", test_set.direction)
    return first_of_each(pairs, test_set.rows)


def recognised(test_set, x_hat):
    """{metric: value} of predictions x_hat (N, *x_shape). {} of fewer than two pairs."""
    rows = rows_to_match(test_set)
    if len(rows) < 2:
        return {}
    centre = torch.from_numpy(test_set.pca.mean_)
    found = x_hat.flatten(1)[rows] - centre
    truth = test_set.truth.flatten(1)[rows] - centre
    rank = metrics.ranks(found, truth, [[n] for n in range(len(rows))])
    scores = {"x_two_way": metrics.two_way(found, truth)}
    for k in (1, 5):
        scores[f"x_r{k}"] = metrics.recall_at_k(rank, k)
    return scores


def latents_match(test_set, run):
    """{"z_two_way": value} of the latents of a run. {} of fewer than two pairs."""
    rows = rows_to_match(test_set)
    if len(rows) < 2:
        return {}
    z_T, z_0 = test_set.latents(run)
    return {"z_two_way": metrics.two_way(z_T[rows], z_0[rows])}


# --------------------------------------------------------------------------------------------------
# To listen to


def save_sounds(evaluation, columns):
    """RUN/sounds/NUMBER-TITLE.wav of the first pairs of {title: scaled items (N, ...)}.

    A log-mel picture is heard by Griffin and Lim. A glyph is played as the code plays it: what was
    painted of a sound can be heard beside it."""
    sides = sounds_of(evaluation.run)
    if not sides:
        return
    folder = os.path.join(evaluation.run.folder, "sounds")
    os.makedirs(folder, exist_ok=True)
    for title in ("source", "classical", "sample 1", "truth"):
        side = "y" if title == "source" else "x"
        if title not in columns:
            continue
        pixels = (columns[title][:LISTEN_TO].cpu().float().clamp(-1, 1) + 1) * 127.5
        if side in sides:
            how = sides[side]
            sounds = listen(pixels, how)
        elif evaluation.run.args.dataset in ("glyph-sounds", "glyph-sights"):
            how = HEARD
            phases = np.stack([phases_of(f"listen {n}") for n in range(len(pixels))])
            sounds = play(pixels, phases)
        else:
            continue  # a face makes no sound
        for n, sound in enumerate(sounds, 1):
            write_wav(os.path.join(folder, f"{n}-{title.replace(' ', '-')}.wav"), sound, how.rate)
    print(f"saved {folder}: sources, samples and truths as .wav, of {LISTEN_TO} pairs at most")
