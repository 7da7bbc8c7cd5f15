"""
proposition1_formulas.py: the probability of Proposition 1, as printed and repaired; and its model,
built from random vectors, to try both against.

The model behind Eq. 18-23 of MT, in words. A target z of length 1 is split into c M, which the
linear map finds, and a rest r, perpendicular to it. The diffusion model knows nothing about r: its
F is perpendicular to c M, and may point anywhere there. How often has z_hat = c M + gamma F at
least the cosine alpha with z?

    z = c M + r,  |c M|^2 = s,  |r|^2 = 1 - s        rho = cos(r, F)
    cos(z, z_hat) = (s + gamma sqrt(1-s) rho) / sqrt(s + gamma^2)
    this is at least alpha  where rho >= beta = (alpha sqrt(s + gamma^2) - s) / (gamma sqrt(1-s))

So all that is random is rho, the cosine of two random directions; and in many dimensions these are
nearly perpendicular. Example: MT's own numbers, s = 0.8386^2 = 0.70, gamma = 1, h2 = 512. Then rho
is 0 +- 1/sqrt(511) = 0.044, and the cosine (0.70 + 0.545 rho) / 1.305 is 0.539 +- 0.018. Without
F, at gamma = 0, it is 0.8386 for certain. An F that knows nothing costs a lot.

Map      tail                         P(x.y >= b) of random directions: Eq. 22, repaired
         threshold                    beta
         probability, printed         Eq. 23, repaired, and as it stands
         general                      for any lengths and angles
         frequency                    the same probability, counted
         construct, alpha_at, errors  the model built vector by vector, and how far a formula is off
Letters  N samples   h2 = dim z   n = h2 - k, the dimensions in which r and F may point: k are
         taken (k = 1: c M alone)   tau = |r|
         Formulas take numbers, or arrays that broadcast.
"""

import numpy as np
from scipy import special

from theory.report import cosine, need, unit

# MT Table 7, text, CLIP ViT-B/32: c M alone has the cosine 0.8386, with F 0.8394.
S = 0.8386**2
H2 = 512
PAPER = 0.8394

# --------------------------------------------------------------------------------------------------
# Formulas


def tail(b, n):
    """P(x.y >= b) of independent random directions x, y in R^n, for real n >= 1.

    Turn y to the first axis: x.y is then one coordinate of x, and its square has the law
    Beta(1/2, (n-1)/2). By symmetry half of its upper tail at b^2 belongs to x.y >= b, for b >= 0;
    for b < 0 it is 1 minus that at |b|. n = 1 is a coin: x.y = +-1.
    b is clipped to [-1, 1]. Raises ValueError for b = NaN or n < 1."""
    b = np.asarray(b, float)
    n = np.asarray(n, float)
    need(~np.isnan(b), "b = {}: must be in [-inf, inf], and is clipped to [-1, 1]", b)
    need((n >= 1) & np.isfinite(n), "dimension n = {}: must be in [1, inf)", n)

    # betaincc is the upper tail itself. 1 minus the lower one would lose all digits: at n = 512
    # and b = 0.4 the answer is 2e-21. (At n = 1 the 1e-9 avoids an error; its value is not used.)
    second = np.maximum(n - 1, 1e-9) / 2
    squared = np.clip(b, -1, 1) ** 2
    half = special.betaincc(0.5, second, squared) / 2
    both_signs = np.where(b < 0, 1 - half, half)
    coin = np.where(b > 1, 0.0, np.where(b > -1, 0.5, 1.0))
    return np.where(n > 1, both_signs, coin)


def threshold(alpha, gamma, a, dot, tau):
    """beta, the rho from which on (dot + gamma tau rho) / sqrt(a^2 + gamma^2) >= alpha.

    dot is what c M brings to z.z_hat, gamma tau rho what F brings, the root is |z_hat|."""
    missing = np.multiply(alpha, np.hypot(a, gamma)) - dot  # left for F to bring
    slope = np.multiply(gamma, tau)  # what it brings per unit of rho
    # slope = 0 (s = 1, nothing is left to point at): rho plays no part, and beta is -inf or inf.
    never = np.where(missing > 0, np.inf, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(slope > 0, missing / slope, never)


def check(alpha, gamma, s, h2, k=1):
    """ValueError for numbers for which the model cannot be built."""
    alpha, gamma, s, h2, k = map(np.asarray, (alpha, gamma, s, h2, k))
    need(np.isfinite(alpha), "alpha = {}: must be in (-inf, inf), and is of use in [-1, 1]", alpha)
    need((gamma > 0) & np.isfinite(gamma), "gamma = {}: must be in (0, inf)", gamma)
    need((s >= 0) & (s <= 1), "s = {}: must be in [0, 1]", s)
    need((h2 >= 2) & np.isfinite(h2), "h2 = {}: must be in [2, inf)", h2)
    need((k >= 1) & (k + 1 <= h2), "k = {}: must be in [1, h2 - 1]", k)


def probability(alpha, gamma, s, h2, k=1):
    """P(cos(z, z_hat) >= alpha) in the model above, tail(beta, h2 - k): Eq. 23, repaired.

    For z of length |z|: s = |Pz|^2 / |z|^2, and gamma / |z| for gamma, since a cosine does not
    change if z and z_hat are made |z| times shorter.
    Raises ValueError for s outside [0, 1], h2 < 2, gamma <= 0, k outside [1, h2 - 1], NaN."""
    check(alpha, gamma, s, h2, k)
    tau = np.sqrt(np.subtract(1, s))  # |r|
    beta = threshold(alpha, gamma, np.sqrt(s), s, tau)
    return tail(beta, np.subtract(h2, k))


def printed(alpha, gamma, s, h2):
    """Eq. 23 as printed. Two slips: beta has no sqrt(1-s), as if r had length 1; and the density,
    Eq. 22 with d = h2, is that of R^(h2 + 1). Computed stably, and beta clipped.

    Raises ValueError as `probability` does."""
    check(alpha, gamma, s, h2)
    tau = 1.0
    beta = threshold(alpha, gamma, np.sqrt(s), s, tau)
    return tail(beta, np.add(h2, 1))


def general(alpha, gamma, a, c1, kappa, n):
    """P(cos(z, cM + gamma F) >= alpha) for any lengths and angles: a = |cM|, c1 = cos(z, cM),
    kappa = cos(cM, F). Only rho, the cosine of what z and F have beside cM, is random, as in R^n.

    Raises ValueError for c1 or kappa outside [-1, 1], a < 0, gamma <= 0, n < 1, NaN."""
    need(np.greater_equal(a, 0), "a = {}: must be in [0, inf), it is a length", a)
    need(np.abs(c1) <= 1, "c1 = {}: must be in [-1, 1], it is a cosine", c1)
    need(np.abs(kappa) <= 1, "kappa = {}: must be in [-1, 1], it is a cosine", kappa)
    check(alpha, gamma, 0, 2)
    # z_hat has a part along c M, to which F adds, and a part across. z, taken as a unit vector, has
    # c1 along c M and tau across.
    along = a + np.multiply(gamma, kappa)
    across = gamma * np.sqrt(1 - np.square(kappa))
    tau = np.sqrt(1 - np.square(c1))
    return tail(threshold(alpha, across, along, along * c1, tau), n)


def frequency(cosines, alpha):
    """The share of cosines (N,) that are at least alpha, a number or an array.

    Raises ValueError for other shapes, N = 0 or NaN."""
    x = np.sort(np.asarray(cosines, float))
    need(x.ndim == 1 and x.size > 0, f"shape of the cosines = {x.shape}: must be (N,), N > 0")
    need(np.abs(x) < 1 + 1e-6, "a cosine = {}: must be in [-1, 1]", x)
    need(~np.isnan(alpha), "alpha = {}: must be a number, and is of use in [-1, 1]", alpha)
    below = np.searchsorted(x, alpha)  # how many are smaller
    return 1 - below / len(x)


# --------------------------------------------------------------------------------------------------
# The model, built from vectors


def construct(gamma, s, h2, k=1, N=20_000, seed=0, length=1.0, kappa=0.0, a=None):
    """(N,) cosines of z and z_hat, from N random pairs built as the model says, without a formula.

    z = length (sqrt(s) u + sqrt(1-s) w), u a random direction of the first k axes, w of the others
    c M = a u, by default Pz, what z has along u;  F = kappa u + sqrt(1 - kappa^2) v, v like w
    s is a number, or (N,)."""
    rng = np.random.default_rng(seed)
    s = np.broadcast_to(s, (N,))[:, None]

    # Directions of k and of h2 - k axes, filled up with zeros to h2: so u is orthogonal to w and v.
    few = unit(rng.normal(size=(N, k)))
    many = unit(rng.normal(size=(2, N, h2 - k)))
    u = np.pad(few, ((0, 0), (0, h2 - k)))  # (N, h2)
    w, v = np.pad(many, ((0, 0), (0, 0), (k, 0)))  # (N, h2) each

    z = length * (np.sqrt(s) * u + np.sqrt(1 - s) * w)
    cM = (length * np.sqrt(s) if a is None else a) * u
    F = kappa * u + np.sqrt(1 - kappa**2) * v
    return cosine(z, cM + gamma * F)


def alpha_at(sd, gamma, s, h2, k=1):
    """The alpha that is sd standard deviations of cos(z, z_hat) above its mean.

    To compare formulas with draws, alpha has to be where the draws are: far out hardly any is, and
    every formula would fit."""
    one_sd = gamma * np.sqrt((1 - s) / (h2 - k))  # of gamma z.F
    return (s + one_sd * np.asarray(sd)) / np.sqrt(s + gamma**2)


def errors(cosines, alpha, p):
    """How many standard errors (of at least one count) the frequency of cos >= alpha is from p.

    A right formula is within 2 in 95 % of cases, and within 5 practically always."""
    N = len(cosines)
    variance = np.maximum(p * (1 - p), 1 / N)
    return np.abs(frequency(cosines, alpha) - p) / np.sqrt(variance / N)
