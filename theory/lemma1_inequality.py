"""
lemma1_inequality.py: Eq. 11 of MT, and what would follow from it. L4 and L5.

The first step of MT's proof of Lemma 1: with r = z - c M, the error of c M alone,

    E|z - z_hat|_1  >=  E|z - c M|_1     if gamma >= |z - c M|_1 / 2                     (MT Eq. 11)

so that training, which lowers the left side (Eq. 10), "induces the optimization of the right".
As z - z_hat = r - gamma F, the inequality asks: is the step gamma F so long that it ends no nearer
to r than 0 is? In one dimension: r = 1, F = 1. A step of 1 ends at r itself, the error is 0. A step
of 2 ends at 2, with the old error 1, and only beyond that the inequality is safe. So gamma has to
be at least 2 |r|, and not |r| / 2.

Map      radius, gain, eq11      from which gamma on Eq. 11 is true       claim_L4
         minimisers              does minimising the left side minimise the right?     claim_L5
Letters  N random cases   n dimensions   r (N, n)   F (N, n), rows of length 1   gamma (N,)
         |x|_1 the sum of |x_i|, |x|_2 the length, |x|_inf the largest |x_i|
"""

import numpy as np

from theory.report import Claim, need, unit


def radius(r):
    """Rad(r): from this gamma on, |r - gamma F|_1 >= |r|_1 for every unit F; r (..., n) -> (...).

    sqrt(|r|_2^2 + 2 |r|_inf |r|_1 + |r|_1^2), which is above |r|_1 and at most 2 |r|_1 (r != 0).
    Why: the w with |w - r|_1 < |r|_1, where Eq. 11 fails, form an octahedron around r, with 0 on
    its surface. gamma F can be inside as long as gamma is below the distance from 0 to the farthest
    corner, r + sign(r_j) |r|_1 e_j with the largest |r_j|. Proof: README, L4.
    Example: r = (1, 1), a square around (1, 1) with corners (3, 1), (-1, 1), (1, 3), (1, -1). The
    farthest is sqrt(10) = 3.16 away: between |r|_1 = 2 and 2 |r|_1 = 4.
    Raises ValueError for an empty r, NaN or infinity."""
    r = np.asarray(r, dtype=float)
    ok = r.ndim and r.shape[-1] and np.isfinite(r).all()
    need(ok, f"r has shape {r.shape}: finite numbers (..., n), n >= 1, are needed")
    one = abs(r).sum(-1)
    top = abs(r).max(-1)
    # The squared length of that corner, multiplied out.
    return np.sqrt((r**2).sum(-1) + 2 * top * one + one**2)


def farthest_corner(r):
    """The corner of the octahedron of `radius` that is farthest from 0, (N, n) -> (N, n)."""
    one = abs(r).sum(1, keepdims=True)
    largest = abs(r).argmax(1)[:, None]  # (N, 1), which coordinate
    at_largest = np.arange(r.shape[1]) == largest  # (N, n)
    return r + np.sign(r) * one * at_largest


def gain(r, F, gamma):
    """|r - gamma F|_1 / |r|_1 - 1 of each row: Eq. 11 fails where it is negative."""
    after = abs(r - gamma[:, None] * F).sum(1)
    return after / abs(r).sum(1) - 1


def random_cases(rng, N, n):
    """(r, F, gamma): r of very unequal coordinates; F anywhere, or in half of the cases near r's
    direction, where it helps most; gamma from 0 to 3 |r|_1, around all the conditions."""
    r = rng.normal(size=(N, n)) * np.exp(rng.normal(size=(N, n)))
    # 0 or 1 times r's direction, plus noise of length about 1.
    towards_r = unit(r) * rng.integers(0, 2, (N, 1))
    F = unit(towards_r + rng.normal(size=(N, n)) / np.sqrt(n))
    gamma = abs(r).sum(1) * rng.uniform(0, 3, N)
    return r, F, gamma


def eq11(N=60_000, sizes=(2, 5, 24), seed=0):
    """Count, over random cases of n in `sizes`, where each condition is met and Eq. 11 still fails.

    {"printed", "correct", "radius": [cases that meet it, of these violating Eq. 11], "vertex":
    (largest gain at 0.999 of the radius, least at 1.001), both with F towards the corner}"""
    rng = np.random.default_rng(seed)
    counts = {name: np.zeros(2, int) for name in ("printed", "correct", "radius")}
    below, above = -np.inf, np.inf
    for n in sizes:
        r, F, gamma = random_cases(rng, N, n)
        one = abs(r).sum(1)
        limit = radius(r)
        fails = gain(r, F, gamma) < -1e-12  # by more than rounding
        # The printed condition; ours for the F at hand; ours for all F at once.
        met = {
            "printed": gamma >= one / 2,
            "correct": gamma * abs(F).sum(1) >= 2 * one,
            "radius": gamma >= limit,
        }
        for name, where in met.items():
            counts[name] += [where.sum(), (where & fails).sum()]

        # The radius is exact: just below it one F still breaks Eq. 11, just above none does.
        worst_F = unit(farthest_corner(r))
        below = max(below, gain(r, worst_F, 0.999 * limit).max())
        above = min(above, gain(r, worst_F, 1.001 * limit).min())
    return {**counts, "vertex": (below, above)}


def claim_L4():
    """Eq. 11: the error with F is no smaller than without, if gamma >= |z - c M|_1 / 2.

    The check: one counterexample, r = F = (1, 0, ...), gamma = 1, is enough to refute it. Then
    180,000 random cases count how often the printed condition fails, and that ours never does."""
    e1 = np.eye(1, 5)  # (1, 0, 0, 0, 0), one row
    counter = gain(e1, e1, np.ones(1))[0]
    counts = eq11()
    met, bad = counts["printed"]
    met_c, bad_c = counts["correct"]
    met_r, bad_r = counts["radius"]
    below, above = counts["vertex"]
    return Claim(
        "L4",
        "Eq. 11: E|z - z_hat|_1 >= E|z - cM|_1 if gamma >= 1/2 |z - cM|_1.",
        "It holds sample by sample, so on average too, if gamma |F|_1 >= 2 |r|_1, r = z - cM; as "
        "|F|_1 >= 1, gamma >= 2 |r|_1 is enough: the printed 1/2 is the 2 upside down. For one r "
        "and every unit F, gamma > 0: exactly if gamma >= Rad(r) = sqrt(|r|_2^2 + 2 |r|_inf |r|_1 "
        "+ |r|_1^2), which is above |r|_1.",
        f"r = F = e_1, gamma = 1: {1 + counter:.0f} >= 1 is false. Violations: printed {bad} of "
        f"{met}, corrected {bad_c} of {met_c}, Rad {bad_r} of {met_r}; towards the vertex relative "
        f"change <= {below:.0e} at 0.999 Rad, >= {above:.0e} at 1.001",
        # As printed: neither the counterexample nor a random case would break it.
        printed_holds=counter >= 0 and bad == 0,
        # Ours: no case breaks either condition, and Rad is exact to a thousandth.
        corrected_holds=bad_c == bad_r == 0 and below < 0 < above,
    )


def minimisers(z=3.0, F=1.0, gamma=1.0):
    """The M that minimise both sides of Eq. 11, by trying a grid; h2 = 1, c = 1. A dict of

    left       of Eq. 10, |z - M - gamma F|
    right      of the right side, |z - M|
    left_safe  of Eq. 10 among the M where gamma |F| >= 2 |z - M|, so that Eq. 11 is sure to hold
    bound      whether Eq. 11 does hold at all of these"""
    M = z + np.linspace(-3, 3, 6001) * gamma  # 3 gamma to both sides of z, in steps of gamma / 1000
    # Every M of the grid at once, (6001,).
    left = abs(z - M - gamma * F)
    right = abs(z - M)
    safe = gamma * abs(F) >= 2 * right - 1e-9
    return {
        "left": M[left.argmin()],
        "right": M[right.argmin()],
        "left_safe": M[safe][left[safe].argmin()],
        "bound": bool((left >= right - 1e-9)[safe].all()),
    }


def claim_L5():
    """MT goes on: so minimising the left side (Eq. 10) induces the optimization of the right.

    The check: a counterexample in single numbers. z = 3 and c = F = gamma = 1. The left side
    |2 - M| is least at M = 2, the right side |3 - M| at M = 3. An upper bound limits how large the
    right side is. It does not say where it is smallest."""
    x = minimisers()
    return Claim(
        "L5",
        "Minimising Eq. 10 induces minimisation of the right side of Eq. 11.",
        "Where Eq. 11 holds it bounds the right side's value, not where its minimum lies: with F "
        "held, Eq. 10 fits c M to z - gamma F.",
        f"z = 3, c = F = gamma = 1: Eq. 10 is least at M = {x['left']:.2f} ({x['left_safe']:.2f} "
        f"where Eq. 11 is sure to hold), the right side at {x['right']:.2f}",
        # As printed: both sides would have one minimiser.
        printed_holds=abs(x["left"] - x["right"]) < 1e-6,
        # Ours: Eq. 11 holds on [2.5, 3.5], and even there the left side is least at 2.5.
        corrected_holds=x["bound"]
        and abs(x["left"] - 2) < 1e-9
        and abs(x["left_safe"] - 2.5) < 1e-3,
    )
