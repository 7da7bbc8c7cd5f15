"""
lemma1_least_squares.py: what a least squares fit c M projects, and onto what. L1, L2, L3, L6, L7.

MT's proof of Lemma 1 (App. A) goes through ordinary least squares: fit M to N pairs (c, z), then
"c M_hat = P z" is the projection of z, and the rest z - c M_hat is perpendicular to it. The algebra
is right about COLUMNS of the data, and MT uses it for ROWS. That is the whole matter:

                    h2 numbers of one sample
                  +--------------------------+
    N samples  Z  | row i: the target z_i    |    column j: coordinate j of all N samples,
                  |                          |    a vector of R^N. P is N x N and projects THIS
                  +--------------------------+

Example: two samples, c = 1 and 1 (no bias), z = 0 and 2, both single numbers. Least squares has
c M_hat = 1 for both. The residuals are -1 and 1. In sum, residual times c M_hat is -1 + 1 = 0: the
column (0, 2) is projected onto (1, 1). But no sample by itself has a residual "perpendicular" to
its c M_hat, for -1 times 1 is not 0.

Map      with_one, project       least squares with a bias
         linear, saturating      made-up data: where a linear fit is right, and where it is not
         projection, claim_L1    does P act on a target?               after MT Eq. 14, Eq. 20
         orthogonality, claim_L2 is each residual perpendicular?       Eq. 16, 19
         complement, claim_L3    how much room is left for F?          Eq. 16
         slopes, claim_L6        Eq. 8 is an L1 norm, Eq. 13 solves the L2 one
         ridge, claim_L7         and weight decay?
Letters  rows are samples: C (N, h1), Z (N, h2), X = [C 1] (N, h1 + 1);  ' is the transpose
         M_hat: least squares   m = c M_hat with a bias (h2,)   r = z - m, the residual
"""

import numpy as np

from theory.report import NEEDS, Claim, cosine, listed, need, unit

SIZES = (8, 64, 512)  # h2 of L2: more dimensions do not help


def with_one(C):
    """[C 1]: a bias is the weight of a condition that is always 1."""
    return np.hstack([C, np.ones((len(C), 1))])


def project(C, Z):
    """c M_hat of every row, (N, h2): least squares with a bias."""
    X = with_one(C)
    M_hat = np.linalg.lstsq(X, Z, rcond=None)[0]  # (h1 + 1, h2)
    return X @ M_hat


# --------------------------------------------------------------------------------------------------
# Made-up data


def linear(N, h1, h2, seed=0):
    """(C, Z) where a linear fit is right: z = c A + b + noise, the same in all directions.

    The scales are such that the signal c A and the noise both have length about 1."""
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(N, h1))
    A = rng.normal(size=(h1, h2))
    b = rng.normal(size=h2)
    signal = C @ A / np.sqrt(h1 * h2)
    noise = rng.normal(size=(N, h2)) / np.sqrt(h2)
    return C, signal + b + noise


def saturating(N, h1, h2, seed=0, noise=0.3):
    """(C, Z) where no linear fit is right: z = unit(c A) + noise, of length `noise`.

    |c| varies a lot (log-normal), |z| hardly. So c M is too long for a long c and too short for a
    short one, however M is chosen."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(N, h1))
    length = np.exp(rng.normal(size=(N, 1)))
    C = direction * length
    Z = unit(C @ rng.normal(size=(h1, h2)))
    return C, Z + noise * rng.normal(size=(N, h2)) / np.sqrt(h2)


# --------------------------------------------------------------------------------------------------
# L1: what P projects


def projection(N=300, h1=5, h2=7, seed=0):
    """What P = X (X'X)^-1 X' does to the targets. A dict of

    P               its shape
    PZ              largest difference of P Z and the fitted values
    Xr              largest entry of X'(Z - P Z) / N: 0 if residuals are orthogonal to X's columns
    best_Q          how far the best h2 x h2 matrix is from giving c M_hat for every single z
    mean_r_no_bias  the mean residual, if the layer had no bias"""
    C, Z = linear(N, h1, h2, seed)
    C = C + 1  # not centred: only there a bias matters

    # Eq. 13 and 14, with the bias in X.
    X = with_one(C)
    solve = np.linalg.inv(X.T @ X) @ X.T  # (h1 + 1, N)
    P = X @ solve  # (N, N): a row and a column for each SAMPLE
    fitted = X @ (solve @ Z)  # (N, h2)

    # "c M_hat = P z" for one z of R^h2 would need some h2 x h2 matrix Q with z Q = c M_hat. Take
    # the best there is, by least squares over all samples, and see what it misses.
    Q = np.linalg.lstsq(Z, fitted, rcond=None)[0]
    missed = fitted - Z @ Q

    no_bias = C @ np.linalg.lstsq(C, Z, rcond=None)[0]
    return {
        "P": P.shape,
        "PZ": abs(fitted - P @ Z).max(),
        "Xr": abs(X.T @ (Z - fitted)).max() / N,
        "best_Q": np.linalg.norm(missed) / np.linalg.norm(fitted),
        "mean_r_no_bias": abs((Z - no_bias).mean(0)).max(),
    }


def claim_L1():
    """MT reads c M_hat = P z for a target z (h2,), with P = C (C'C)^-1 C' from Eq. 14.

    The check: P turns out N x N, so it cannot be applied to a z at all. And no h2 x h2 matrix in
    its place gives c M_hat of every z: the best one is off by a quarter."""
    p = projection()
    return Claim(
        "L1",
        "The line after Eq. 14, and Eq. 20: c M_hat = P z, P = C(C'C)^-1 C', for a target vector.",
        "Rightly meant for one coordinate over all N samples, a vector of R^N: C M_hat = P Z, and "
        "Z - P Z is orthogonal to C's columns and, with the layer's bias, to 1. The cosines of Eq. "
        "18-21 need it for one sample, in R^h2.",
        f"P has shape {p['P']}; best h2 x h2 matrix: relative error {p['best_Q']:.2f}; |[C 1]'(Z - "
        f"P Z)| / N = {p['Xr']:.0e}; mean residual {p['mean_r_no_bias']:.2f} without a bias",
        # As printed: some matrix would give every c M_hat. (Rounding alone is 1e-15.)
        printed_holds=p["best_Q"] < 1e-6,
        # Ours: P Z is the fit and residuals are orthogonal to X, but not to 1 without the bias.
        corrected_holds=max(p["PZ"], p["Xr"]) < 1e-12 < p["mean_r_no_bias"],
    )


# --------------------------------------------------------------------------------------------------
# L2: is the residual of one sample perpendicular to its c M?


def orthogonality(z, m):
    """How perpendicular r = z - m is to m, both (N, h2). A dict of

    aggregate  mean(r.m) / mean|m|^2: 0 at the least squares optimum
    mean, std  of cos(r, m) over samples; isotropic noise alone makes them 0 and 1 / sqrt(h2)
    miss       median of |z.m - |m|^2| / |m|^2, which Eq. 19 says is 0
    r.m = 0 says that m lies on the sphere with diameter [0, z] (Thales), a rare place to be.
    Raises ValueError for shapes that differ, no rows, NaN or infinity."""
    ok = z.shape == m.shape and z.ndim == 2 and z.size and np.isfinite(z + m).all()
    need(ok, f"finite z, m of one shape (N, h2), N, h2 >= 1: got {z.shape}, {m.shape}")
    r = z - m
    rm = (r * m).sum(1)  # (N,), and so are the others
    m2 = (m * m).sum(1)
    cos = cosine(r, m)
    return {
        "aggregate": rm.mean() / m2.mean(),
        "mean": cos.mean(),
        "std": cos.std(),
        "miss": np.median(abs(rm) / np.maximum(m2, 1e-300)),
    }


def orthogonality_of_fit(make, h2):
    """orthogonality of least squares on 4,000 pairs of the data that `make` makes, h1 = 6."""
    C, Z = make(4000, 6, h2)
    return orthogonality(Z, project(C, Z))


def claim_L2():
    """MT needs r perpendicular to c M for each sample: Eq. 19 puts |c M|^2 for z.cM.

    The check, at h2 = 8, 64, 512. In sum over samples r.cM is 0, that is least squares. Sample by
    sample cos(r, cM) has a spread: where the linear fit is right it is 1/sqrt(h2), as for any two
    unrelated vectors; where it is wrong even its mean is 0.76, in any number of dimensions."""
    good = [orthogonality_of_fit(linear, h2) for h2 in SIZES]
    bad = [orthogonality_of_fit(saturating, h2) for h2 in SIZES]
    worst = max(abs(o["aggregate"]) for o in good + bad)
    std = np.array([o["std"] for o in good])
    return Claim(
        "L2",
        "Eq. 16, 19: r is perpendicular to c M and z.cM = |cM|^2, for each sample.",
        "Only the sum over samples of r.cM is 0, at the L2 optimum. Isotropic noise alone makes "
        "cos(r, cM) about 1/sqrt(h2), by concentration; where c M misfits no h2 makes it small.",
        f"sum {worst:.0e}; cos(r, cM) at h2 = {listed(SIZES)}: std {listed(std)}; in a "
        f"misspecified case mean {listed((o['mean'] for o in bad), '.2f')}",
        # As printed: for the typical sample, too, z.cM would be |cM|^2.
        printed_holds=max(o["miss"] for o in good + bad) < 1e-6,
        # Ours: the sum is 0 up to rounding, the spread is 1/sqrt(h2) within 5 %.
        corrected_holds=worst < 1e-12 and abs(std * np.sqrt(SIZES) - 1).max() < 0.05,
    )


# --------------------------------------------------------------------------------------------------
# L3: how much room Eq. 16 leaves for F


def perpendicular(F, m):
    """F without its part along m, unit again, row by row (Gram-Schmidt); h2 >= 2."""
    along = (F * unit(m)).sum(1, keepdims=True)  # (N, 1)
    return unit(F - along * unit(m))


def complement(h1, h2, N=2000, seed=0):
    """What is perpendicular to ALL vectors c M_hat. A tuple of

    left   its dimension, h2 minus that of the span. The c M without their bias span rank M
           dimensions; the bias adds in general one, if there is room: at h1 = 6, 24 - 7 = 17
    share  the residual's energy inside the span: (h2 - left) / h2 for isotropic noise
    most   max |F.m|, if random F are made perpendicular to their own sample's m alone"""
    C, Z = linear(N, h1, h2, seed)
    m = project(C, Z)

    # The rows of V with a singular value above rounding are an orthonormal basis of the span.
    _, size, V = np.linalg.svd(m, full_matrices=False)
    basis = V[size > 1e-10 * size[0]]  # (rank, h2)
    inside = (Z - m) @ basis.T
    share = (inside**2).sum() / ((Z - m) ** 2).sum()

    random = np.random.default_rng(seed).normal(size=m.shape)
    F = perpendicular(random, m)
    most = abs((F * m).sum(1)).max()
    return h2 - len(basis), share, most


def claim_L3():
    """Eq. 16 puts gamma F(c) into the orthogonal complement of the space of all c M.

    The check: count dimensions. If c has as many numbers as z, the c M fill R^h2, and F, of length
    1, has nowhere to be. With fewer, the noise in z is in both spaces, and F may have only one."""
    square = complement(12, 12)
    wide = complement(6, 24)
    return Claim(
        "L3",
        "Eq. 16: gamma F(c) lies in the orthogonal complement of C(H_cond).",
        "That is {0} when rank M = h2 (generic for h1 >= h2), else of at most h2 - rank M "
        "dimensions, and part of the residual lies in the span of the c M too. Over samples, in "
        "R^N, it is meant rightly (L1); per sample, F can be made perpendicular to its own c M.",
        f"complement's dimension {square[0]} at h1 = h2 = 12; {wide[0]} at h1 = 6, h2 = 24, where "
        f"it misses {wide[1]:.2f} of the residual's energy; per sample |F.cM| {wide[2]:.0e}",
        # As printed: there is room for F, and all of the residual is in it.
        printed_holds=square[0] > 0 and max(square[1], wide[1]) < 1e-6,
        # Ours: no room at h1 = h2; else 17 dimensions, and 7/24 of the energy elsewhere.
        corrected_holds=(square[0], wide[0]) == (0, 17)
        and abs(wide[1] - 7 / 24) < 0.02
        and wide[2] < 1e-12,
    )


# --------------------------------------------------------------------------------------------------
# L6, L7: is least squares what the paper's training minimises?


def slopes(skewed, N=200_000, seed=0):
    """(slope by L1, slope by L2) of z = (1 + c) e, where c is 0 or 1 and e > 0 is random.

    With a bias, the fit has a free number for each c: b at c = 0, b + M at c = 1. The L1 norm is
    least at a group's median, the L2 norm at its mean, so M is a difference of medians or means.
    skewed: e = Exp(1), median ln 2, mean 1. Otherwise e = 1 + Laplace noise: both are 1."""
    rng = np.random.default_rng(seed)

    def draw():
        return rng.exponential(size=N) if skewed else rng.laplace(1, 1, N)

    at_0 = draw()
    at_1 = 2 * draw()
    by_L1 = np.median(at_1) - np.median(at_0)
    by_L2 = at_1.mean() - at_0.mean()
    return by_L1, by_L2


def claim_L6():
    """MT trains with an L1 norm (Eq. 8, 10) and proves with the L2 norm (Eq. 12, 13).

    The check: one example in which both have a known answer. With skewed noise the L1 fit has the
    slope ln 2 = 0.69 and the L2 fit 1; with symmetric noise they agree."""
    a1, a2 = slopes(True)
    b1, b2 = slopes(False)
    off = max(abs(a1 - np.log(2)), abs(a2 - 1), abs(b1 - 1), abs(b2 - 1))
    return Claim(
        "L6",
        "The least squares M_hat (Eq. 13) is the optimum of the L1 loss (Eq. 8, 10).",
        "L1 fits conditional medians, coordinate by coordinate, L2 means: one M if the noise is "
        "symmetric given c and the linear model right.",
        f"slopes L1, L2: {a1:.3f}, {a2:.3f} with skewed noise (ln 2 = {np.log(2):.3f}, 1); "
        f"{b1:.3f}, {b2:.3f} with symmetric noise (1, 1)",
        # As printed: the two norms would agree whatever the noise.
        printed_holds=abs(a1 - a2) < 0.05,
        # Ours: all four as derived; 200,000 draws leave errors of about 0.01.
        corrected_holds=off < 0.03,
        kind=NEEDS,
    )


def ridge(lam, N=400, h1=6, h2=9, seed=0):
    """(sum of r_i.m_i, lam N |M|^2) for the loss |Z - C M - b|^2 + lam N |M|^2.

    The two are equal, so with any weight decay r.m is positive in sum: a shorter M leaves a part
    of c M in the residual. Proof: README, L7."""
    C, Z = linear(N, h1, h2, seed)
    # A bias that is not decayed is the mean, once C is centred.
    C = C - C.mean(0)
    mean = Z.mean(0)
    decay = lam * N * np.eye(h1)
    M = np.linalg.solve(C.T @ C + decay, C.T @ (Z - mean))
    m = C @ M + mean
    return ((Z - m) * m).sum(), lam * N * (M**2).sum()


def claim_L7():
    """MT assumes M = M_hat "when loss terms are fully optimized". It also has weight decay, 0.01.

    The check: with a ridge penalty the sum of r.cM, 0 for M_hat, is what the proof says instead."""
    total, theory = ridge(0.05)
    plain, _ = ridge(0.0)
    return Claim(
        "L7",
        '"When loss terms are fully optimized, we can assume that M = M_hat": cM and r are then '
        "perpendicular in sum.",
        "It needs M without weight decay (the paper trains with 0.01): a ridge penalty makes "
        "sum r.cM = lambda N |M|^2 > 0, and c M too short.",
        f"lambda = 0.05: {total:.4f} = {theory:.4f}; lambda = 0: {plain:.0e}",
        # As printed: the sum would be 0 in spite of the penalty.
        printed_holds=abs(total) < 1e-6,
        # Ours: it is lambda N |M|^2, above 0, and 0 without a penalty.
        corrected_holds=abs(total / theory - 1) < 1e-9 and abs(plain) < 1e-9 < theory,
        kind=NEEDS,
    )
