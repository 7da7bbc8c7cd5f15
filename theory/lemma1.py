"""
lemma1.py: Lemma 1 (MT 3.3, proof in App. A), statement by statement.

It says: training by Eq. 9 leads c M to the projection of z on the column space of the conditions,
and gamma F(c) to the residual, perpendicular to that space.
Map      L1   projection       what least squares projects, Eq. 12-15
         L2   orthogonality    z.cM = |cM|^2 sample by sample, Eq. 16, 19, 20
         L3   complement       the subspace that Eq. 16 puts F into
         L4   radius, eq11     the bound of Eq. 11 and its condition
         L5   minimisers       does minimising Eq. 10 minimise the right side of Eq. 11?
         L6   slopes           Eq. 8 is an L1 norm, Eq. 13 solves the L2 one
         L7   ridge            weight decay
         L8   joint            Eq. 8 alone: M and F trained together, F any function of c
         L9   shrunk           Eq. 9 with F held by its DDIM loss at a sample of p(z|c)
         L10  joint            when c M is the projection
         L11  orthogonality    gamma F and the residual
Letters  rows are samples: C (N, h1), Z (N, h2), X = [C 1];  m = c M with a bias, r = z - m,
         F unit rows;  mu(c) = E[z|c];  zeta = |z|;  R = |E[z / |z| | c]|;  M_hat: least squares
Try      python theory/lemma1.py --run runs/glyphs-translator
"""

import os
import sys

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from theory import report
from theory.report import NEEDS, Claim, cosine, listed, need, unit

SIZES = (8, 64, 512)  # h2 of L2


def with_one(C):
    return np.hstack([C, np.ones((len(C), 1))])


def project(C, Z):
    """c M_hat of every row, (N, h2): least squares with a bias."""
    return with_one(C) @ np.linalg.lstsq(with_one(C), Z, rcond=None)[0]


# -- data


def linear(N, h1, h2, seed=0):
    """Well specified: z = c A + b + isotropic noise."""
    rng = np.random.default_rng(seed)
    C, A, b = rng.normal(size=(N, h1)), rng.normal(size=(h1, h2)), rng.normal(size=h2)
    return C, C @ A / np.sqrt(h1 * h2) + b + rng.normal(size=(N, h2)) / np.sqrt(h2)


def saturating(N, h1, h2, seed=0, noise=0.3):
    """Misspecified: z = unit(c A) + noise, |c| log-normal: c M is too short or too long."""
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(N, h1)) * np.exp(rng.normal(size=(N, 1)))
    Z = unit(C @ rng.normal(size=(h1, h2)))
    return C, Z + noise * rng.normal(size=(N, h2)) / np.sqrt(h2)


def conditions(K=40, h1=5, h2=8, curve=0.0, seed=0):
    """K conditions and mu(c) = c A + b + curve tanh(2 c B): linear where curve = 0."""
    rng = np.random.default_rng(seed)
    C, A, B = rng.normal(size=(K, h1)), rng.normal(size=(h1, h2)), rng.normal(size=(h1, h2))
    return C, C @ A + rng.normal(size=h2) + curve * np.tanh(2 * C @ B)


# -- least squares: L1, L2, L3, L6, L7


def projection(N=300, h1=5, h2=7, seed=0):
    """L1. P = X (X'X)^-1 X' mixes the N rows of Z; a single z has h2 numbers. `best_Q`: the
    relative error of the h2 x h2 matrix Q that brings z Q closest to c M_hat over all samples."""
    C, Z = linear(N, h1, h2, seed)
    C = C + 1  # not centred: there a bias matters
    X = with_one(C)
    solve = np.linalg.inv(X.T @ X) @ X.T
    fitted, no_bias = X @ (solve @ Z), C @ np.linalg.lstsq(C, Z, rcond=None)[0]
    missed = fitted - Z @ np.linalg.lstsq(Z, fitted, rcond=None)[0]
    return {
        "P": (X @ solve).shape,
        "PZ": abs(fitted - (X @ solve) @ Z).max(),
        "Xr": abs(X.T @ (Z - fitted)).max() / N,
        "best_Q": np.linalg.norm(missed) / np.linalg.norm(fitted),
        "mean_r_no_bias": abs((Z - no_bias).mean(0)).max(),
    }


def orthogonality(z, m):
    """L2. z.m = |m|^2 is r.m = 0: m on the sphere with diameter [0, z]. Of z and m, both (N, h2):

    aggregate  mean(r.m) / mean|m|^2: 0 at the least squares optimum
    mean, std  of cos(r, m) over samples; isotropic noise alone makes them 0 and 1 / sqrt(h2)
    miss       median of |z.m - |m|^2| / |m|^2
    Raises ValueError for shapes that differ, no rows, NaN or infinity."""
    ok = z.shape == m.shape and z.ndim == 2 and z.size and np.isfinite(z + m).all()
    need(ok, f"finite z, m of one shape (N, h2), N, h2 >= 1: got {z.shape}, {m.shape}")
    rm, m2, cos = ((z - m) * m).sum(1), (m * m).sum(1), cosine(z - m, m)
    miss = np.median(abs(rm) / np.maximum(m2, 1e-300))
    return {"aggregate": rm.mean() / m2.mean(), "mean": cos.mean(), "std": cos.std(), "miss": miss}


def perpendicular(F, m):
    """F without its part along m, unit again, row by row (Gram-Schmidt); h2 >= 2."""
    return unit(F - (F * unit(m)).sum(1, keepdims=True) * unit(m))


def complement(h1, h2, N=2000, seed=0):
    """L3. The vectors m span rank M dimensions and, with a bias, in general one more; at most h2.
    -> (dimensions left, the residual's share of energy inside the span: rank / h2 for isotropic
    noise, max |F.m| of random F made perpendicular to each sample's own m)"""
    C, Z = linear(N, h1, h2, seed)
    m = project(C, Z)
    _, size, V = np.linalg.svd(m, full_matrices=False)
    rows = V[size > 1e-10 * size[0]]  # (rank, h2)
    share = (((Z - m) @ rows.T) ** 2).sum() / ((Z - m) ** 2).sum()
    F = perpendicular(np.random.default_rng(seed).normal(size=m.shape), m)
    return h2 - len(rows), share, abs((F * m).sum(1)).max()


def slopes(skewed, N=200_000, seed=0):
    """L6. c is 0 or 1, z = (1 + c) e: with a bias each group is fitted freely, by its median (L1)
    or its mean (L2). -> slopes (L1, L2): ln 2 and 1 for e = Exp(1); 1 and 1 for 1 + Laplace."""
    rng = np.random.default_rng(seed)
    draw = rng.exponential if skewed else lambda size: rng.laplace(1, 1, size)
    z0, z1 = draw(size=N), 2 * draw(size=N)
    return np.median(z1) - np.median(z0), z1.mean() - z0.mean()


def ridge(lam, N=400, h1=6, h2=9, seed=0):
    """L7. (sum_i r_i.m_i, lam N |M|^2), with the latter added to the loss. Proof: README, L7."""
    C, Z = linear(N, h1, h2, seed)
    C, mean = C - C.mean(0), Z.mean(0)
    M = np.linalg.solve(C.T @ C + lam * N * np.eye(h1), C.T @ (Z - mean))
    m = C @ M + mean
    return ((Z - m) * m).sum(), lam * N * (M**2).sum()


# -- Eq. 11: L4, L5


def radius(r):
    """Rad(r): the gamma > 0 from which on |r - gamma F|_1 >= |r|_1 for every unit F; r (..., n).

    sqrt(|r|_2^2 + 2 |r|_inf |r|_1 + |r|_1^2), above |r|_1, at most 2 |r|_1 (r != 0). Proof: README,
    L4. Raises ValueError for an empty r, NaN or infinity."""
    r = np.asarray(r, dtype=float)
    ok = r.ndim and r.shape[-1] and np.isfinite(r).all()
    need(ok, f"r has shape {r.shape}: finite numbers (..., n), n >= 1, are needed")
    one, top = abs(r).sum(-1), abs(r).max(-1)
    return np.sqrt((r**2).sum(-1) + 2 * top * one + one**2)


def gain(r, F, gamma):
    """|r - gamma F|_1 / |r|_1 - 1 of each row: Eq. 11 fails where it is negative."""
    return abs(r - gamma[:, None] * F).sum(1) / abs(r).sum(1) - 1


def eq11(N=60_000, sizes=(2, 5, 24), seed=0):
    """L4. {condition: [cases that meet it, of these violating Eq. 11]} over random r and gamma, and
    F random or near r; "vertex": over all r, F towards the vertex of radius(r), the largest gain
    at 0.999 of the radius and the least at 1.001."""
    rng = np.random.default_rng(seed)
    counts = {name: np.zeros(2, int) for name in ("printed", "correct", "radius")}
    below, above = -np.inf, np.inf
    for n in sizes:
        r = rng.normal(size=(N, n)) * np.exp(rng.normal(size=(N, n)))
        F = unit(unit(r) * rng.integers(0, 2, (N, 1)) + rng.normal(size=(N, n)) / np.sqrt(n))
        one, limit = abs(r).sum(1), radius(r)
        gamma = one * rng.uniform(0, 3, N)
        bad = gain(r, F, gamma) < -1e-12
        met = (gamma >= one / 2, gamma * abs(F).sum(1) >= 2 * one, gamma >= limit)
        for count, where in zip(counts.values(), met, strict=True):
            count += [where.sum(), (where & bad).sum()]
        v = r + np.sign(r) * one[:, None] * (np.arange(n) == abs(r).argmax(1)[:, None])
        below = max(below, gain(r, unit(v), 0.999 * limit).max())
        above = min(above, gain(r, unit(v), 1.001 * limit).min())
    return {**counts, "vertex": (below, above)}


def minimisers(z=3.0, F=1.0, gamma=1.0):
    """L5. h2 = 1, c = 1, a grid of M: the minimisers of Eq. 10, |z - M - gamma F|, and of the right
    side, |z - M|; of Eq. 10 also where gamma |F| >= 2 |r|, so that Eq. 11 holds ("bound")."""
    M = z + np.linspace(-3, 3, 6001) * gamma
    left, right = abs(z - M - gamma * F), abs(z - M)
    safe = gamma * abs(F) >= 2 * right - 1e-9
    best = {"left": M[left.argmin()], "right": M[right.argmin()]}
    bound = bool((left >= right - 1e-9)[safe].all())
    return {**best, "left_safe": M[safe][left[safe].argmin()], "bound": bound}


# -- M and F trained together: L8, L9, L10


def joint(C, mu, gamma, steps=1500, seed=0):
    """L8. min E|mu(c) - c M - b - gamma F(c)|^2 by exact alternating steps, from the projection:
    F = unit(mu - c M - b), then M, b by least squares on mu - gamma F. (Scatter of z about mu
    adds a constant.) -> (distances |c M + b - c M_hat| (K,), J = E(|mu - c M - b| - gamma)^2)

    Distances are gamma where mu is linear (proof: README, L8), at most gamma in the root mean
    square for any mu and F (L10)."""
    ok = gamma >= 0 and C.ndim == mu.ndim == 2 and len(C) == len(mu)
    need(ok, f"gamma >= 0, C (K, h1), mu (K, h2): got {gamma}, {C.shape}, {mu.shape}")
    start = project(C, mu)  # where nothing is left any F is as good: a tiny push picks one
    F = unit(mu - start + 1e-6 * np.random.default_rng(seed).normal(size=mu.shape))
    for _ in range(steps):
        m = project(C, mu - gamma * F)
        F = unit(mu - m)
    J = ((np.linalg.norm(mu - m, axis=1) - gamma) ** 2).mean()
    return np.linalg.norm(m - start, axis=1), J


def shrunk(gamma, zeta=1.0, mean=False, R=0.8, N=8000, h1=6, h2=20, seed=0):
    """L9. M fitted to z - gamma F, F the direction of another sample of p(z|c), or of its mean;
    |z| = zeta. -> (<cM, cM_hat> / |cM_hat|^2: 1 - gamma / zeta, or 1 - gamma / (R zeta) for the
    mean; mean cos(z, cM)), on fresh pairs. Proof: README, L9."""
    need(0 < R <= 1 and zeta > 0, f"R in (0, 1] and zeta > 0 are needed: R = {R}, zeta = {zeta}")
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(2 * N, h1))
    d = unit(C @ rng.normal(size=(h1, h2)))

    def sample():  # |z| = 1 and E[z|c] = R d
        v = perpendicular(rng.normal(size=d.shape), d)
        return R * d + np.sqrt(1 - R**2) * v

    X, Z, F = with_one(C), zeta * sample(), d if mean else sample()
    M, M_hat = (np.linalg.lstsq(X[:N], y[:N], rcond=None)[0] for y in (Z - gamma * F, Z))
    m, m_hat = (X[N:] @ W for W in (M, M_hat))
    return (m * m_hat).sum() / (m_hat**2).sum(), cosine(Z[N:], m).mean()


# -- the verdicts


def least_squares_claims():
    p = projection()
    yield Claim(
        "L1",
        "The line after Eq. 14, and Eq. 20: c M_hat = P z, P = C(C'C)^-1 C', for a target vector.",
        "Rightly meant for one coordinate over all N samples, a vector of R^N: C M_hat = P Z, and "
        "Z - P Z is orthogonal to C's columns and, with the layer's bias, to 1. The cosines of Eq. "
        "18-21 need it for one sample, in R^h2.",
        f"P has shape {p['P']}; best h2 x h2 matrix: relative error {p['best_Q']:.2f}; |[C 1]'(Z - "
        f"P Z)| / N = {p['Xr']:.0e}; mean residual {p['mean_r_no_bias']:.2f} without a bias",
        p["best_Q"] < 1e-6,
        max(p["PZ"], p["Xr"]) < 1e-12 < p["mean_r_no_bias"],
    )
    good, bad = (
        [orthogonality(Z, project(C, Z)) for C, Z in (make(4000, 6, h2) for h2 in SIZES)]
        for make in (linear, saturating)
    )
    worst, std = max(abs(o["aggregate"]) for o in good + bad), np.array([o["std"] for o in good])
    yield Claim(
        "L2",
        "Eq. 16, 19: r is perpendicular to c M and z.cM = |cM|^2, for each sample.",
        "Only the sum over samples of r.cM is 0, at the L2 optimum. Isotropic noise alone makes "
        "cos(r, cM) about 1/sqrt(h2), by concentration; where c M misfits no h2 makes it small.",
        f"sum {worst:.0e}; cos(r, cM) at h2 = {listed(SIZES)}: std {listed(std)}; in a "
        f"misspecified case mean {listed((o['mean'] for o in bad), '.2f')}",
        max(o["miss"] for o in good + bad) < 1e-6,
        worst < 1e-12 and abs(std * np.sqrt(SIZES) - 1).max() < 0.05,
    )
    square, wide = complement(12, 12), complement(6, 24)
    yield Claim(
        "L3",
        "Eq. 16: gamma F(c) lies in the orthogonal complement of C(H_cond).",
        "That is {0} when rank M = h2 (generic for h1 >= h2), else of at most h2 - rank M "
        "dimensions, and part of the residual lies in the span of the c M too. Over samples, in "
        "R^N, it is meant rightly (L1); per sample, F can be made perpendicular to its own c M.",
        f"complement's dimension {square[0]} at h1 = h2 = 12; {wide[0]} at h1 = 6, h2 = 24, where "
        f"it misses {wide[1]:.2f} of the residual's energy; per sample |F.cM| {wide[2]:.0e}",
        square[0] > 0 and max(square[1], wide[1]) < 1e-6,
        (square[0], wide[0]) == (0, 17) and abs(wide[1] - 7 / 24) < 0.02 and wide[2] < 1e-12,
    )


def bound_claims():
    e1, counts = np.eye(1, 5), eq11()
    counter = gain(e1, e1, np.ones(1))[0]
    (met, bad), (met_c, bad_c), (met_r, bad_r), (below, above) = counts.values()
    yield Claim(
        "L4",
        "Eq. 11: E|z - z_hat|_1 >= E|z - cM|_1 if gamma >= 1/2 |z - cM|_1.",
        "It holds sample by sample, so on average too, if gamma |F|_1 >= 2 |r|_1, r = z - cM; as "
        "|F|_1 >= 1, gamma >= 2 |r|_1 is enough: the printed 1/2 is the 2 upside down. For one r "
        "and every unit F, gamma > 0: exactly if gamma >= Rad(r) = sqrt(|r|_2^2 + 2 |r|_inf |r|_1 "
        "+ |r|_1^2), which is above |r|_1.",
        f"r = F = e_1, gamma = 1: {1 + counter:.0f} >= 1 is false. Violations: printed {bad} of "
        f"{met}, corrected {bad_c} of {met_c}, Rad {bad_r} of {met_r}; towards the vertex relative "
        f"change <= {below:.0e} at 0.999 Rad, >= {above:.0e} at 1.001",
        counter >= 0 and bad == 0,
        bad_c == bad_r == 0 and below < 0 < above,
    )
    x = minimisers()
    yield Claim(
        "L5",
        "Minimising Eq. 10 induces minimisation of the right side of Eq. 11.",
        "Where Eq. 11 holds it bounds the right side's value, not where its minimum lies: with F "
        "held, Eq. 10 fits c M to z - gamma F.",
        f"z = 3, c = F = gamma = 1: Eq. 10 is least at M = {x['left']:.2f} ({x['left_safe']:.2f} "
        f"where Eq. 11 is sure to hold), the right side at {x['right']:.2f}",
        abs(x["left"] - x["right"]) < 1e-6,
        x["bound"] and abs(x["left"] - 2) < 1e-9 and abs(x["left_safe"] - 2.5) < 1e-3,
    )


def training_claims():
    (a1, a2), (b1, b2) = slopes(True), slopes(False)
    yield Claim(
        "L6",
        "The least squares M_hat (Eq. 13) is the optimum of the L1 loss (Eq. 8, 10).",
        "L1 fits conditional medians, coordinate by coordinate, L2 means: one M if the noise is "
        "symmetric given c and the linear model right.",
        f"slopes L1, L2: {a1:.3f}, {a2:.3f} with skewed noise (ln 2 = {np.log(2):.3f}, 1); "
        f"{b1:.3f}, {b2:.3f} with symmetric noise (1, 1)",
        abs(a1 - a2) < 0.05,
        max(abs(a1 - np.log(2)), abs(a2 - 1), abs(b1 - 1), abs(b2 - 1)) < 0.03,
        NEEDS,
    )
    (total, theory), plain = ridge(0.05), ridge(0.0)[0]
    yield Claim(
        "L7",
        '"When loss terms are fully optimized, we can assume that M = M_hat": cM and r are then '
        "perpendicular in sum.",
        "It needs M without weight decay (the paper trains with 0.01): a ridge penalty makes "
        "sum r.cM = lambda N |M|^2 > 0, and c M too short.",
        f"lambda = 0.05: {total:.4f} = {theory:.4f}; lambda = 0: {plain:.0e}",
        abs(total) < 1e-6,
        abs(total / theory - 1) < 1e-9 and abs(plain) < 1e-9 < theory,
        NEEDS,
    )
    gammas = (0.01, 0.1, 0.5, 1.0)
    found = {g: joint(*conditions(), g) for g in gammas}
    yield Claim(
        "L8",
        "Eq. 8 alone (Eq. 9 with lambda_2 = 0), over M and any F(c): c M goes to the projection.",
        "It drives the length of E[z|c] - cM to gamma. Where E[z|c] is linear, every optimum is "
        "at distance gamma from the projection: F takes over a part of the mean.",
        f"squared loss, started at the projection, gamma = {listed(gammas)}: mean distance "
        f"{listed((found[g][0].mean() for g in gammas), '.4f')}; loss at gamma = 1: 1 at the "
        f"projection, {found[1.0][1]:.0e} reached",
        found[1.0][0].max() < 0.01,
        all(abs(d / g - 1).max() < 0.01 and J < 1e-4 * g**2 for g, (d, J) in found.items()),
    )
    one, ten, mean = shrunk(1.0), shrunk(1.0, 10.0), shrunk(1.0, mean=True)
    yield Claim(
        "L9",
        "Eq. 9 with F held by its DDIM loss at an exact sample of p(z|c): c M goes to the "
        "projection.",
        "M becomes (1 - gamma/zeta) M_hat, zeta = |z|, with a squared loss: 0 at gamma = 1 and "
        "unit z. For F the mean direction it is (1 - gamma/(R zeta)) M_hat, here negative. L8 and "
        "L9 are the two limits of Eq. 9; between them we only measure.",
        f"slope at gamma = 1: {one[0]:.3f} (zeta = 1), {ten[0]:.3f} (zeta = 10), {mean[0]:.3f} "
        f"(mean, R = 0.8, zeta = 1); cos(z, cM): {one[1]:.3f}, {ten[1]:.3f}, {mean[1]:.3f}",
        abs(one[0] - 1) < 0.01,
        max(abs(one[0]), abs(ten[0] - 0.9), abs(mean[0] + 0.25)) < 0.02,
    )
    rms = {g: (joint(*conditions(curve=0.4), g)[0] ** 2).mean() ** 0.5 for g in gammas}
    yield Claim(
        "L10",
        "Lemma 1, first half: c M goes to the projection of z.",
        "True of M by least squares, frozen; or as gamma -> 0: the best M (squared loss) is within "
        "an rms distance gamma of it, whatever F is; so gamma has to be small against |c M_hat|.",
        f"joint, curved E[z|c]: distance / gamma {listed((rms[g] / g for g in gammas), '.2f')} at "
        f"gamma = {listed(gammas)}",
        rms[1.0] < 0.01,
        all(rms[g] <= g for g in gammas),
        NEEDS,
    )
    C, mu = saturating(4000, 6, 9, noise=0.0)
    frozen = orthogonality(mu, project(C, mu))  # E[r|c] = mu - c M_hat, F its direction
    length = np.linalg.norm(mu - project(C, mu), axis=1)
    yield Claim(
        "L11",
        "Lemma 1, second half: gamma F(c) goes to the residual, perpendicular to c M.",
        "|gamma F| = gamma whatever |r| is. With M the population fit, frozen, E[r|c], all of r "
        "that c tells, is perpendicular to c M in sum only, and Normalize ends even that.",
        f"frozen: sum {frozen['aggregate']:.0e}, but mean cos(F, cM) {frozen['mean']:.2f}; "
        f"|E[r|c]| = {length.mean():.2f} +- {length.std():.2f}",
        frozen["mean"] < 0.01 and length.std() < 0.01,
        abs(frozen["aggregate"]) < 1e-12,
    )


def claims():
    return [*least_squares_claims(), *bound_claims(), *training_claims()]


# -- pictures, and the same on a trained run


def figure():
    fig = Figure(figsize=(8, 3.4), layout="constrained")
    left, middle, right = fig.subplots(1, 3)
    bins = np.linspace(-1, 1, 81)
    cosines = lambda C, Z: cosine(Z - project(C, Z), project(C, Z))
    for h2 in SIZES:
        cos = cosines(*linear(4000, 6, h2))
        left.hist(cos, bins, density=True, histtype="step", label=h2)
    cos = cosines(*saturating(4000, 6, h2))
    left.hist(cos, bins, density=True, color="0.7", label=f"{h2}, c M misfits")
    left.set(xlabel="cos(r, cM), one sample each", ylabel="density", title="per sample (L2)")
    left.legend(title="h2", fontsize=7)

    for zeta, mark in ((1.0, "o"), (10.0, "x")):
        gammas = zeta * np.linspace(0, 1.5, 7)
        slope = [shrunk(g, zeta, N=2000)[0] for g in gammas]
        middle.plot(gammas / zeta, slope, mark, label=f"fitted, |z| = {zeta:.0f}")
    middle.plot([0, 1.5], [1, -0.5], "k-", lw=0.8, label="1 - gamma / |z|")
    middle.axvline(1, color="tab:red", ls=":", label="gamma = 1, |z| = 1")
    middle.axhline(0, color="gray", lw=0.5)
    middle.set(xlabel="gamma / |z|", ylabel="M as a multiple of M_hat", title="F a sample (L9)")
    middle.legend(fontsize=7)

    gammas = np.geomspace(0.01, 3, 11)
    for curve, mark, label in ((0.0, "o", "linear"), (0.4, "x", "not linear")):
        distance = [(joint(*conditions(curve=curve), g)[0] ** 2).mean() ** 0.5 for g in gammas]
        right.loglog(gammas, distance, mark, label=f"E[z|c] {label}")
    right.loglog(gammas, gammas, "k-", lw=0.8, label="gamma, the bound")
    right.axvline(1, color="tab:red", ls=":", label="gamma = 1")
    right.set(xlabel="gamma", ylabel="rms |cM - projection|", ylim=(3e-5, 6))
    right.set_title("joint (L8, L10)")
    right.legend(fontsize=7)
    return fig


def measured(held):
    """M_hat was fitted to the training pairs: only there is its r.m exactly 0 in sum."""
    z, m, F, best = (x.numpy() for x in (held.z, held.cM, held.F, held.M_hat_c))
    h2, one, gamma = z.shape[1], abs(z - m).sum(1), held.gamma
    rank = int(torch.linalg.matrix_rank(held.cM.float()))  # float32 is what they were made in
    names = ("mean r.m / mean |m|^2", "mean cos(r, m)", "std cos(r, m)", "median |z.m / |m|^2 - 1|")
    table = {}
    for name, fitted in (("run's M", m), ("M_hat", best)):
        found = orthogonality(z, fitted).values()
        table |= {f"{name}: {what}": x for what, x in zip(names, found, strict=True)}
    table |= {
        "1 / sqrt(h2)": h2**-0.5,
        "rank of the vectors c M, of h2": f"{rank} of {h2}",
        "dimension of the complement (Eq. 16)": h2 - rank,
        "mean cos(F, cM) (Eq. 16: 0)": cosine(F, m).mean(),
        "the run's gamma": gamma,
    }
    for g, name in ((gamma, "run's gamma"), (1.0, "gamma 1")):
        table |= {
            f"{name}: share gamma >= |r|_1 / 2": (g >= one / 2).mean(),
            f"{name}: share gamma |F|_1 >= 2 |r|_1": (g * abs(F).sum(1) >= 2 * one).mean(),
            f"{name}: E|z - z_hat|_1 / E|r|_1": abs(z - m - g * F).sum() / one.sum(),
        }
    dm, db = m - m.mean(0), best - best.mean(0)
    zeta, R = np.linalg.norm(z, axis=1).mean(), cosine(z, F).mean()
    return table | {
        "slope <cM, cM_hat> / |cM_hat|^2, centred": (dm * db).sum() / (db**2).sum(),
        "zeta: mean |z|": zeta,
        "R: mean cos(z, F)": R,
        "slope if gamma 1, F a sample: 1 - 1/zeta": 1 - 1 / zeta,
        "if F the mean direction: 1 - 1/(R zeta)": 1 - 1 / (R * zeta),
    }


def draw(ax, held, direction):
    z, spread = held.z.numpy(), held.z.shape[1] ** -0.5
    for m, label in ((held.cM, "the run's M"), (held.M_hat_c, "least squares")):
        cos = cosine(z - m.numpy(), m.numpy())
        label = f"{label}: mean {cos.mean():.2f}, std {cos.std():.2f}"
        ax.hist(cos, 60, density=True, histtype="step", label=label)
    x = np.linspace(-4, 4, 201)
    law = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) / spread
    ax.plot(x * spread, law, "k:", label=f"isotropic r: std 1/sqrt(h2) = {spread:.2f}")
    ax.set(title=direction, xlabel="cos(r, cM), one held-out pair each", ylabel="density")
    ax.set(xlim=(-1, 1), ylim=(0, 1.4 * law.max()))  # room for the legend
    ax.legend(fontsize=7)


if __name__ == "__main__":
    sys.exit(report.main("lemma1", claims, figure, measured, draw))
