"""
Exercise 15: make ridge lose: a set of pairs on which F must help.          level 4, 75 minutes

Concept  a linear map is right where E[z given c] is linear; all that F can add is the rest
Read     MT Eq. 5, MT Eq. 13*; closed_form.py; theory/README.md, G6 and G7 and their proofs
Grade    pytest tests/test_ridge_loses.py --impl assignments.ex15_ridge_loses
Expect   conditions met: 9 +- 0
Explain  Let z be c W + d or c W - d, as a coin falls: two right answers to every query. What does
         ridge answer, and which F has a higher cosine? What does one sample of p(z given c) score
         on your set, and the mean of many (G6)?
Hint     If x is uniform on [-1, 1], what is the covariance of x and x^2, and of x and x y? Such a
         term is lost on every line; beside it you need a term that is not
See it   with your answer as mine.py in the repository's folder:
         python -c "import mine, numpy as np; c, z = mine.draw_pairs(4000, 0); \
             np.save('c.npy', c); np.save('z.npy', z)"
         python train.py --dataset latents --text-latents c.npy --image-latents z.npy \
             --out runs/mine
         text->image is c to z: how far is ours above ridge, and is R@1 worth looking at here?
"""

import torch

# In all three: R2 = 1 - E|z - z_hat|^2 / E|z - E z|^2, the share of z's variance that is explained.


def draw_pairs(n, seed):
    """(c (n, h1), z (n, h2)), float32: n pairs, drawn independently from one distribution.

    2 <= h1, h2 <= 8. The same seed gives the same pairs, another seed others of the same
    distribution. No coordinate is further than 6 standard deviations from its mean: else a few
    rows would decide who wins. It is a set on which ridge loses, and fairly:
        ridge has an R2 of 0.1 at least           c says something that a line can see
        best_answer has 0.2 more                  ... and something that no line can
        best_answer has 0.9 at most               z is no function of c: something stays open
        ten nearest neighbours have 0.1 more      6,000 pairs are enough to find it
        Eq. 5 has a cosine 0.05 above ridge's     with F your best_answer made unit, gamma by
                                                  best_gamma, all after subtracting the mean of z"""
    raise NotImplementedError


def best_answer(c):
    """E[z given c], (n, h2), for any c (n, h1) of your set: row by row, by a formula.

    Not one of the answers, but their mean: nothing random is in it."""
    raise NotImplementedError


def promise():
    """(ridge, best): the R2 of the best linear map with a bias, and of best_answer, as floats.

    Of infinitely many pairs: computed by hand from your distribution before anything is measured.
    The grader measures both on 20,000 pairs, and grants 0.03."""
    raise NotImplementedError
