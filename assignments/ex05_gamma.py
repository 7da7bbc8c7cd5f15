"""
Exercise 5: how much F may weigh.                                           level 3, 45 minutes

Concept  the best gamma depends on what is asked for: the cosine's is not the squared error's
Read     MT Eq. 5; theory/README.md, G1 to G3 and their proofs, if you are stuck
Grade    pytest tests/test_translator.py --impl assignments.ex05_gamma
Expect   gamma* of the row by hand: 5 +- 1e-06 (cM = (9, 0, 0), F = (.6, .8, 0), z = (18, 6, 12))
Explain  z twice as long: what becomes of the three gammas of that row? MT says gamma = 1 without
         a length of z. For which of the three is that enough?
Hint     In the plane of cM and F, where does the best z_hat point? And if cM and z_hat have the
         same cosine with z, how do they lie about that direction?
"""

import torch

# Rows of F have length 1. "One row" is three tensors (1, h2); cos is the cosine of two vectors.


def gamma_star(cM, F, z):
    """The gamma >= 0 with the largest cos(z, cM + gamma F), of one row; a float.

    0 where the cosine falls from gamma = 0 on. Where it grows for ever, the supremum is F's own
    direction: return anything above 100 |cM|, inf included."""
    raise NotImplementedError


def gamma_l2(cM, F, z):
    """The gamma >= 0 with the least mean of |z - cM - gamma F|^2 over rows, (N, h2) each; a float.

    One number for all rows."""
    raise NotImplementedError


def break_even(cM, F, z):
    """The gamma > 0 at which cos(z, cM + gamma F) is cos(z, cM) again, of one row; a float.

    Between 0 and this gamma F helps, beyond it hurts. inf where F's own direction is at least as
    good as cM's, cos(z, F) >= cos(z, cM) > 0; 0 where the cosine falls from gamma = 0 on."""
    raise NotImplementedError
