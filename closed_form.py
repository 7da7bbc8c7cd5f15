"""
closed_form.py: what needs no training: the best linear map M, and the best weight gamma of F.

MT's M is one linear layer, and under a square loss nobody has to train a linear layer: the best one
can be computed from sums over the pairs. It is the translator's M (ddim_translator.py) and the row
"ridge" of every table (baselines.py), from the same lines, so that the two are the same.

    W = (CC + lambda s I)^-1 CZ          b = z_mean - c_mean W

with CC the covariance of c, (h1, h1), CZ that of c and z, (h1, h2), and s the mean variance of c.
This is ridge regression: it minimises  mean |z - c W - b|^2 + lambda s |W|^2.

Why lambda? Some directions of c hardly vary. There a few pairs decide what W does, and their noise
    with them: W gets large numbers that new pairs do not confirm. The second term keeps W small
    where the pairs say little, and leaves it alone where they say much.
Which lambda? It depends on the data, so validation pairs decide. On the training pairs the smallest
    always looks best. In units of s it does not matter whether the latents' length is 1 or 0.001.

And when M and F are there, how much should F weigh in Eq. 5, z_hat = c M + gamma F? The cosine of
z and z_hat has its maximum over gamma in closed form, too.

Map      Moments, moments          the sums over all pairs, in one pass
         ridge, best_ridge         the formula above; lambda by validation
         gamma_star, best_gamma    gamma by a formula; and what --gamma auto takes
Letters  N pairs   h1 = dim c   h2 = dim z
"""

from typing import NamedTuple

import torch
import torch.nn.functional as fn

# --------------------------------------------------------------------------------------------------
# The linear map

# From hardly any to as strong as the variance itself: a factor of ten apart is near enough, for
# the score is flat around the best.
LAMBDAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Moments(NamedTuple):
    """What least squares has to know of N pairs, all float64."""

    N: int
    c_mean: torch.Tensor  # (h1,)
    z_mean: torch.Tensor  # (h2,)
    CC: torch.Tensor  # (h1, h1)  covariance of c
    CZ: torch.Tensor  # (h1, h2)  covariance of c and z
    z_var: torch.Tensor  # (h2,)  variance of each coordinate of z

    @property
    def c_var(self):
        """(h1,) the variance of each coordinate of c."""
        return self.CC.diagonal()


def moments(chunks):
    """Moments of pairs that come as an iterable of (c, z), float32 (n, h1) and (n, h2).

    One pass, chunk by chunk: the data may be larger than memory."""
    # With a 1 appended to each c, one matrix product has all the sums:
    #     G = sum over pairs of [c 1]' [c 1 z]        columns:   h1         1        h2
    #                                                 h1 rows    sum c'c    sum c'   sum c'z
    #                                                 1 row      sum c      N        sum z
    # In float64: a variance is the small difference of two large numbers, the mean square and
    # the squared mean, and float32's seven digits may all be lost in it.
    G, zz = 0.0, 0.0
    for c, z in chunks:
        c_one = torch.cat([c, torch.ones(len(c), 1)], 1).double()
        G = G + c_one.T @ torch.cat([c_one, z.double()], 1)
        zz = zz + z.double().square().sum(0)  # (h2,) sums of z^2, coordinate by coordinate

    # The last row of G cuts it into the blocks of the picture above.
    h1 = G.shape[0] - 1
    N = G[h1, h1]
    c_mean = G[h1, :h1] / N
    z_mean = G[h1, h1 + 1 :] / N
    CC = G[:h1, :h1] / N - torch.outer(c_mean, c_mean)
    CZ = G[:h1, h1 + 1 :] / N - torch.outer(c_mean, z_mean)
    return Moments(int(N), c_mean, z_mean, CC, CZ, zz / N - z_mean**2)


def ridge(found, lam):
    """(W (h1, h2), b (h2,)) of the Moments `found`, float64; lam in units of c's mean variance."""
    s = found.c_var.mean()
    W = torch.linalg.solve(found.CC + lam * s * torch.eye(len(found.CC)), found.CZ)  # MT Eq. 13*
    return W, found.z_mean - found.c_mean @ W


def best_ridge(found, c, z):
    """The lambda of LAMBDAS with the best mean cosine on validation pairs c (n, h1), z (n, h2)."""

    def score(lam):
        W, b = ridge(found, lam)
        return fn.cosine_similarity(c.double() @ W + b, z.double()).mean().item()

    return max(LAMBDAS, key=score)


# --------------------------------------------------------------------------------------------------
# The weight of F


def gamma_star(cM, F, z):
    """The gamma >= 0 with the best cosine of z and c M + gamma F; all (N, h2).

    gamma* = a (q - c1 kappa) / (c1 - q kappa) / |F|, from five numbers, all means over rows:
        a = |c M|    |F|    c1 = cos(z, c M)    q = cos(z, F)    kappa = cos(c M, F)
    Example: c M = (2, 0), F = (0, 1), z = (2, 1). a = 2, c1 = 2 / sqrt(5), q = 1 / sqrt(5), kappa
    = 0: gamma* = 1, and z_hat = z.
    Exact for one row; for N rows, the formula at the five means. In the units of c M: scaled."""
    # With |F| = 1 the cosine is (a c1 + gamma q) / sqrt(a^2 + 2 a gamma kappa + gamma^2). Its
    # derivative is 0 where q (a^2 + 2 a gamma kappa + gamma^2) = (a c1 + gamma q) (a kappa + gamma)
    # gamma^2 q cancels, one a divides out, and a (q - c1 kappa) = gamma (c1 - q kappa) is left.
    a = cM.norm(dim=1).mean()
    c1 = fn.cosine_similarity(z, cM).mean()
    q = fn.cosine_similarity(z, F).mean()
    kappa = fn.cosine_similarity(cM, F).mean()

    # q <= c1 kappa: F tells nothing that c M does not; 0 is best. c1 <= q kappa: c M tells nothing
    # that F does not; the best is infinite, and we return as much as the floor 1e-3 lets it be.
    up = (q - c1 * kappa).clamp(min=0)
    down = (c1 - q * kappa).clamp(min=1e-3)
    return (a * up / down / F.norm(dim=1).mean()).item()


def cosine_of(z_hat, z):
    """Mean cosine of the rows; both (N, h2)."""
    return fn.cosine_similarity(z_hat, z).mean().item()


def best_gamma(cM, F, z):
    """What `--gamma auto` takes: the best mean cosine at 0 and 41 points around gamma_star.

    gamma_star is exact for one row; over rows whose |cM| and cos(z, F) differ, the maximum of the
    mean lies elsewhere: on glyphs at 1.5 times, worth 0.0005 (theory/gamma.py, G9)."""

    def score(gamma):
        return cosine_of(cM + gamma * F, z)

    grid = gamma_star(cM, F, z) * 4 ** torch.linspace(-1, 1, 41)  # from a quarter to four times
    return max([0.0, *grid.tolist()], key=score)
