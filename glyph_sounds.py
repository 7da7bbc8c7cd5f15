"""
glyph_sounds.py: pictures that are heard. A set of pictures and sounds that every machine has.

LD's poster goes from faces to voices and back. Ours needs no download: it is a published code that
plays pictures to blind people (Meijer 1992, "An experimental system for auditory image
representations", IEEE Trans. Biomed. Eng. 39; "The vOICe"). A glyph is played in one second:

    column      when     from left to right, 1/32 s each
    row         pitch    32 tones from 500 Hz, the bottom row, to 3500 Hz, each 6.5 % above the last
    brightness  loudness the amplitude of the tone; black is silence

    "/" is a tone that climbs, "-" one that stays, "|" all tones at once in the middle.

    sound(t) = sum_i A_i(t) sin(2 pi f_i t + phi_i) / 16

A_i(t) is row i of the picture: its pixels are met in the middles of the columns, and in between it
goes straight from one to the next. The phases phi_i are random: one cannot be told from another by
ear, but where tones are too near to be told apart (the low rows: 32 Hz, and a window sees 31 Hz)
phases decide whether they add up or cancel. So a picture has many sounds: there is something to
draw at random. They come from a hash of the glyph's name: each glyph has the same sound for ever.

The bridge sees the sound as a log-mel picture (sounds.py). Two data sets, named after their target:

    glyph-sounds    picture (1, 32, 32)  ->  sound (1, 64, 64)
    glyph-sights    sound (1, 64, 64)    ->  picture (1, 32, 32)

Map      play              pictures -> sounds (B, 8000)
         phases_of         the random phases of a name
         decode            log-mel pictures -> pictures, without learning: energies at known places
         glyph_sounds      the data sets
Letters  B pictures   i rows   c columns   S = 64 the side of a picture of a sound
Try      python data.py glyph-sounds
"""

import functools

import numpy as np
import torch

from glyphs import FACES, Pairs, digest, draw_glyphs
from sounds import Mel, energies_of, log_mel, mel_energies

HEARD = Mel(rate=8000, seconds=1.0, side=64, low=400.0, least=256)
COLUMN = HEARD.rate // 32  # samples of a column: 250
FREQUENCIES = 500 * 7 ** (torch.arange(31, -1, -1, dtype=torch.float64) / 31)  # row 0 is the top
LOUDNESS = 1 / 16  # of a white pixel: with phases at random, 32 of them stay below 1
# Slanted faces look so much like upright ones that they would add time and little else.
UPRIGHT = {file: words for file, words in FACES.items() if "italic" not in words}


def phases_of(name):
    """(32,) in [0, 2 pi), as good as random, that depend on nothing but a name."""
    return np.random.default_rng(int(digest("phases", name), 16)).uniform(0, 2 * np.pi, 32)


def play(pictures, phases):
    """Pictures (B, 1, 32, 32), 0 to 255, phases (B, 32) -> sounds (B, 8000) in [-1, 1].

    Between the middles of two columns the loudness goes straight from A to A': in such a stretch of
    250 samples, u = 0 ... 249 after its start, a row sounds like

        [A (1 - u / 250) + A' u / 250] sin(w u + theta),    theta = phi + w (time of the start)

    and sin(w u + theta) = cos(theta) sin(w u) + sin(theta) cos(w u). So each stretch is a sum of
    the same 4 x 32 curves of u, with weights from A, A' and theta: one matrix product for all."""
    A = torch.as_tensor(pictures)[:, 0].double() / 255 * LOUDNESS  # (B, 32, 32)
    w = 2 * torch.pi * FREQUENCIES / HEARD.rate  # radians a sample
    u = torch.arange(COLUMN, dtype=torch.float64)
    fall, rise = 1 - u / COLUMN, u / COLUMN
    sin, cos = torch.sin(w[:, None] * u), torch.cos(w[:, None] * u)  # (32, 250)
    curves = torch.cat([fall * sin, fall * cos, rise * sin, rise * cos])  # (128, 250)

    # 33 stretches: the first leads from silence to column 0, and the last from column 31 to it.
    silence = torch.zeros(len(A), 32, 1, dtype=torch.float64)
    A = torch.cat([silence, A, silence], 2)
    now, then = A[..., :-1], A[..., 1:]  # (B, 32, 33)
    starts = COLUMN * (torch.arange(33, dtype=torch.float64) - 0.5)
    theta = torch.as_tensor(phases)[:, :, None] + w[:, None] * starts
    cos, sin = torch.cos(theta), torch.sin(theta)
    weights = torch.cat([now * cos, now * sin, then * cos, then * sin], 1)  # (B, 128, 33)
    sound = weights.transpose(1, 2).float() @ curves.float()  # (B, 33, 250)
    # The first half stretch would be before the start, the last one after the end.
    return sound.flatten(1)[:, COLUMN // 2 : -(COLUMN // 2)]


def heard(pictures, phases):
    """Pictures (B, 1, 32, 32) -> log-mel pictures (B, 1, 64, 64) uint8 of their sounds."""
    found = []
    for start in range(0, len(pictures), 256):  # all at once would fill the memory
        some = slice(start, start + 256)
        found.append(log_mel(play(pictures[some], phases[some]), HEARD).numpy())
    return np.concatenate(found)


# --------------------------------------------------------------------------------------------------
# The way back, without learning


@functools.cache
def responses():
    """R (64, 32): the energy in mel band b of a tone of row i, as a white pixel makes it."""
    t = torch.arange(HEARD.length, dtype=torch.float64) / HEARD.rate
    tones = LOUDNESS * torch.sin(2 * torch.pi * FREQUENCIES[:, None] * t)  # (32, 8000)
    middle = HEARD.side // 2  # any piece but the first and the last: the tone is steady
    return mel_energies(tones.float(), HEARD)[:, :, middle].T


def decode(seen):
    """Log-mel pictures (B, 1, 64, 64), 0 to 255, -> pictures (B, 1, 32, 32), 0 to 255.

    The classical answer: the code is public, so look where each pixel must be heard. Column c has
    the pieces 2c and 2c + 1; their energies are a mixture of the 32 tones', E = R A^2, solved by
    least squares. What it gets wrong is where neighbouring tones add up or cancel."""
    energy = energies_of(seen, HEARD)  # (B, 64, 64)
    of_column = (energy[..., 0::2] + energy[..., 1::2]) / 2  # (B, 64, 32)
    squares = torch.linalg.pinv(responses()) @ of_column  # (B, 32, 32): (pixel / 255)^2
    return 255 * squares.clamp(0, 1).sqrt()[:, None]


# --------------------------------------------------------------------------------------------------
# The data sets


@functools.cache
def seen_and_heard(split):
    """(pictures (N, 1, 32, 32), sounds (N, 1, 64, 64)) of the glyphs of a split, uint8 both.

    Kept, since both data sets and all tables of a run ask for them: 100 MB for train."""
    glyphs = draw_glyphs(split, UPRIGHT)
    pictures = glyphs.images.pixels[:, None]
    names = list(glyphs.captions)[: len(pictures)]  # "serif bold greek small letter alpha"
    phases = np.stack([phases_of(name) for name in names])
    return pictures, heard(pictures, phases)


def glyph_sounds(split, name="glyph-sounds"):
    """The glyphs of the six upright faces and their sounds, as Pairs; glyph-sights: turned round.

    The split is by character: no letter that was heard in training is heard in the test."""
    pictures, sounds = seen_and_heard(split)
    y, x = (pictures, sounds) if name == "glyph-sounds" else (sounds, pictures)
    return Pairs(y, x, digest(name, split, y, x))
