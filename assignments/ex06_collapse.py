"""
Exercise 6: M collapses. Make it happen, explain it, prevent it.            level 4, 60 minutes

Concept  joint training gives M what F leaves; at gamma = |z| that is nothing
Read     MT Eq. 8, 9; theory/README.md, L8, L9, G4, G5; `Translator.fit` and D5 in PAPERS.md
Grade    pytest tests/test_translator.py --impl assignments.ex06_collapse
Expect   size of M at gamma = 1 and norm sqrt(128): 0.9116 +- 0.0001
Explain  CLIP's latents have length 1, and MT says gamma = 1. What will M learn, and why does
         z_hat look no worse for it? MT's own Table 7 finds c M alone at 0.84: what may differ?
Hint     F = z / |z|: what is z - gamma F? Least squares is linear in what it fits.
See it   python train.py --quick --objective joint --normalize row --gamma 11.3
             --out runs/collapse                                     |z| is 11 in text->image
         python evaluate.py runs/collapse --task ablation
         "projection only" is c M: cosine -0.22 (-0.10 in image->text). With --gamma 1 in the
         first line it is 0.44 (0.25). Why is it not 0 but below?
"""

import torch


def best_M(c, z, F, gamma):
    """The M with the least mean of |z - c M - gamma F|^2: c (N, h1), z, F (N, h2) -> (h1, h2).

    F is given, whatever it is. No bias; N > h1 and c has rank h1."""
    raise NotImplementedError


def size_of_M(gamma, norm):
    """best_M as a multiple of M_hat, which is best_M at gamma = 0; numbers in and out.

    All |z| = norm and F = z / |z|: F is as good as can be. (By L9 the same holds on average if F is
    a fresh sample of p(z|c), made unit.) Not cut off at 0: where it is negative, c M points away
    from z."""
    raise NotImplementedError


def collapsing(z):
    """Make it happen: (scale, gamma), both > 0, for which best_M(c, scale * z, F, gamma) is 0 for
    every c. z (N, h2), rows of one length, whichever; F = z / |z|. There are many such pairs."""
    raise NotImplementedError


def safe_scale(z):
    """Prevent it: the scale > 0 by which z's mean square about its mean becomes 1; z (N, h2).

    The mean is that of each coordinate over the rows, the mean square that over all N h2 numbers.
    Then |z - mean| is about sqrt(h2), and gamma = 1 costs M little. One number: scaling coordinates
    apart would change cosines, and the mean stays in z, for the same reason."""
    raise NotImplementedError
