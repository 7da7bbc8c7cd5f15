"""
gamma_four_numbers.py: the cosine of z and c M + gamma F, from four numbers. G1, G2, G3, G9.

How much should F weigh in z_hat = c M + gamma F? That depends on how long c M is and on three
angles, and on nothing else:

    a = |c M|     c1 = cos(z, c M)     q = cos(z, F)     kappa = cos(c M, F)        |F| = 1
    cos(z, z_hat) = (a c1 + gamma q) / sqrt(a^2 + 2 a gamma kappa + gamma^2)

As gamma grows, z_hat turns in the plane of c M and F, from c M's direction towards F's. The best
gamma stops where z_hat is nearest to z: along the shadow of z on that plane. Example: a = 2,
c1 = 0.6, q = 0.5, kappa = 0.2. By `gamma_star` (ddim_translator.py) the best gamma is
2 (0.5 - 0.6 0.2) / (0.6 - 0.5 0.2) = 1.52, and the cosine rises from 0.6 to 0.714. If q were less
than c1 kappa = 0.12, F would point away from what c M misses, and gamma = 0 would be best.

The paper's own model (App. B): z is a unit vector, F is perpendicular to c M, and
z.cM = |cM|^2 = s. Then a = c1 = sqrt(s), kappa = 0, and with rho = cos(z - cM, F):
q = rho sqrt(1 - s), gamma* = q.

Map      cosine, best_cosine, break_even   formulas of the four numbers
         diagnose                          the four numbers of given vectors
         vectors, sweep                    vectors of given numbers; the best gamma by brute force
         unit_model, claim_G1    is 1 the best gamma?      at_one, claim_G2    does F help at 1?
         general, claim_G3       Eq. 21, in general        lengths, claim_G9   samples that differ
Letters  n, N random cases   lost: the best cosine minus the one reached
         Formulas take numbers, or arrays that broadcast.
"""

import numpy as np
import torch
import torch.nn.functional as fn
from scipy import optimize

from closed_form import best_gamma, gamma_star
from theory.report import NEEDS, Claim, need

# --------------------------------------------------------------------------------------------------
# Formulas


def check(c1, q, kappa, a=1.0):
    """ValueError unless there are three vectors with these cosines.

    There are iff the matrix of their inner products, 1 on the diagonal, has no negative eigenvalue.
    For cosines in [-1, 1] that says that its determinant is >= 0. (0.9, 0.9 and 0 are impossible:
    what is 26 degrees from both of two vectors keeps them within 52 degrees of each other.)"""
    for name, x in {"c1": c1, "q": q, "kappa": kappa}.items():
        need(np.abs(x) <= 1 + 1e-9, name + " = {}: a cosine is in [-1, 1]", x)
    need(np.abs(kappa) < 1, "kappa is 1 or -1: F must not be parallel to c M")
    need(np.isfinite(a) & (np.asarray(a) > 0), "a = {}: the length of c M must be above 0", a)
    # of [[1, c1, q], [c1, 1, kappa], [q, kappa, 1]]
    determinant = 1 + 2 * c1 * q * kappa - c1**2 - q**2 - kappa**2
    impossible = f"no three vectors have cosines c1 = {c1}, q = {q}, kappa = {kappa}"
    need(determinant > -1e-9, impossible)


def cosine(gamma, a, c1, q, kappa):
    """cos(z, cM + gamma F) = (a c1 + gamma q) / sqrt(a^2 + 2 a gamma kappa + gamma^2).

    For any angles, and any lengths of z and cM; F is unit. Raises ValueError: see check."""
    check(c1, q, kappa, a)
    need(np.isfinite(gamma), "gamma = {}: it must be finite", gamma)
    z_hat_length = np.sqrt(a**2 + 2 * a * gamma * kappa + gamma**2)
    return (a * c1 + gamma * q) / z_hat_length


def best_cosine(c1, q, kappa):
    """The supremum of cosine() over gamma >= 0, whatever a is. Raises ValueError: see check.

    Where the shadow of z on the plane of cM and F lies between the two, it is the length of that
    shadow; else it is at an end, c1 at gamma = 0 or q at infinity. Proof: README, G1."""
    check(c1, q, kappa)
    between = (q > c1 * kappa) & (c1 > q * kappa)
    squared = (c1**2 + q**2 - 2 * c1 * q * kappa) / (1 - kappa**2)
    shadow = np.sqrt(squared)
    best = np.where(between, shadow, np.maximum(c1, q))
    return best[()]  # a number if all were numbers


def break_even(a, c1, q, kappa):
    """The gamma above which cM + gamma F has a lower cosine than cM: 0 always, inf never.

    Where c1 kappa < q < c1 it is 2 a c1 (q - c1 kappa) / (c1^2 - q^2). Proof: README, G2.
    Raises ValueError for c1 <= 0, where cM itself points away from z, or see check."""
    check(c1, q, kappa, a)
    need(np.asarray(c1) > 0, "c1 = {}: a break-even needs cos(z, cM) above 0", c1)
    between = (q > c1 * kappa) & (q < c1)
    beyond = np.where(q >= c1, np.inf, 0.0)  # F beats cM by itself, or does not help at all
    gap = np.where(between, c1**2 - q**2, 1.0)  # 1.0: a number to divide by, where it is not used
    edge = 2 * a * c1 * (q - c1 * kappa) / gap
    return np.where(between, edge, beyond)[()]


def diagnose(z, cM, F):
    """{a, c1, q, kappa: means over rows; gamma_star; cosine: the best, predicted from the means}.

    z, cM, F (N, h2), rows of F unit. The means belong to some three vectors, too: a mean of
    matrices without negative eigenvalues has none.
    Raises ValueError for other shapes, numbers that are not finite, zero rows, |F| not 1."""
    z, cM, F = (torch.as_tensor(x).double() for x in (z, cM, F))
    shapes = [tuple(x.shape) for x in (z, cM, F)]
    need(z.ndim == 2 and len(set(shapes)) == 1, f"z, cM, F have shapes {shapes}: all (N, h2)")
    length = torch.stack([x.norm(dim=1) for x in (z, cM, F)])  # (3, N)
    need(length.isfinite().all() and (length > 0).all(), "a row of z, cM or F is 0 or not finite")
    need((length[2] - 1).abs().max() < 1e-4, "rows of F must have length 1")

    c1 = fn.cosine_similarity(z, cM).mean().item()
    q = fn.cosine_similarity(z, F).mean().item()
    kappa = fn.cosine_similarity(cM, F).mean().item()
    return {
        "a": length[1].mean().item(),
        "c1": c1,
        "q": q,
        "kappa": kappa,
        "gamma_star": gamma_star(cM, F, z),
        "cosine": float(best_cosine(c1, q, kappa)),
    }


# --------------------------------------------------------------------------------------------------
# Vectors and brute force, to try the formulas against


def vectors(a, c1, q, kappa):
    """(cM, F, z) in three dimensions with these numbers, (N, 3) each: what gamma_star takes."""
    a, c1, q, kappa = np.broadcast_arrays(*np.atleast_1d(a, c1, q, kappa))
    # cM along the first axis, F in the plane of the first two, z where its cosines put it.
    zero = 0 * a
    F_up = np.sqrt(1 - kappa**2)
    z_up = (q - c1 * kappa) / np.sqrt(1 - kappa**2)
    z_out = np.sqrt(np.maximum(1 - c1**2 - z_up**2, 0))
    cM = np.stack([a, zero, zero], 1)
    F = np.stack([kappa, F_up, zero], 1)
    z = np.stack([c1, z_up, z_out], 1)
    return torch.tensor(cM), torch.tensor(F), torch.tensor(z)


def sweep(c1, q, kappa, points=801):
    """(best gamma / a, its cosine) of each case (n,), by trying 801 gammas, three times finer.

    gamma = a tan(angle), with the angle from 0 to 90 degrees: so all gammas up to infinity have a
    finite grid."""
    low = np.zeros_like(c1)
    high = np.full_like(c1, np.pi / 2)
    for _ in range(3):
        angle = np.linspace(low, high, points)  # (points, n)
        score = cosine(np.tan(angle), 1.0, c1, q, kappa)
        best = np.take_along_axis(angle, score.argmax(0)[None], 0)[0]  # (n,)
        # Next, only from the point before the best one to the point after it.
        step = (high - low) / (points - 1)
        low = np.maximum(best - step, 0)
        high = np.minimum(best + step, np.pi / 2)
    return np.tan(best), score.max(0)


# --------------------------------------------------------------------------------------------------
# G1, G2: gamma = 1 in the paper's own model


def unit_model(seed=0, n=500):
    """The paper's model at n random (s, rho). There gamma* is q = rho sqrt(1 - s) < 1 or, if that
    is negative, 0; and its cosine sqrt(s + gamma*^2). A tuple of

    errors of these two formulas against brute force; largest best gamma; smallest and mean cosine
    lost at gamma = 1"""
    rng = np.random.default_rng(seed)
    s, rho = rng.uniform([[0.01], [-0.99]], 0.99, (2, n))  # s in [.01, .99], rho in [-.99, .99]
    a = np.sqrt(s)  # and c1 is the same number
    q = rho * np.sqrt(1 - s)
    gamma, top = sweep(a, q, 0 * q)
    best = gamma * a

    # The two formulas against it, and what gamma = 1 reaches.
    star = np.maximum(q, 0)
    e_gamma = np.abs(best - star).max()
    e_cos = np.abs(top - np.sqrt(s + star**2)).max()
    lost = top - cosine(1.0, a, a, q, 0.0)
    return e_gamma, e_cos, best.max(), lost.min(), lost.mean()


def claim_G1():
    """MT 4.3: "we empirically choose gamma = 1.0". We read it as: 1 is the best gamma.

    The check finds the best gamma by brute force for 500 random s and rho of the paper's model. It
    is z.F, which for unit z is below 1: the largest found is 0.9."""
    e_gamma, e_cos, largest, least, mean = unit_model()
    return Claim(
        "G1",
        '"We empirically choose gamma = 1.0", read as: 1 is the best gamma.',
        "Not in the paper's own model (unit z, F orthogonal to cM, |cM|^2 = z.cM = s): the best is "
        "z.F = rho sqrt(1 - s) if z.F > 0, else 0; below 1 unless s = 0, rho = 1; and cos^2 there "
        "is s + rho^2 (1 - s), or s. For |z| of 5 to 20 it is about right, or costs little: G5.",
        f"500 random (s, rho), brute force: formulas off by {e_gamma:.0e}, {e_cos:.0e}; largest "
        f"best gamma {largest:.3f}; gamma = 1 costs at least {least:.4f}, on average {mean:.3f}",
        # As printed: gamma = 1 would cost nothing somewhere.
        printed_holds=least <= 0,
        # Ours: the formulas are right, and no best gamma reaches 1.
        corrected_holds=max(e_gamma, e_cos) < 1e-4 and largest < 1,
        kind=NEEDS,
    )


def at_one(seed=0, n=200_000):
    """In the same model gamma = 1 hurts iff q < sqrt(s^2 + s) - s. Proof: README, G2. A tuple of

    the share of random (s, rho) where it hurts; cases against the rule; the largest s where F
    helped; the root of 4 s^3 - 4 s + 1, above which no F can help at gamma = 1"""
    s, rho = np.random.default_rng(seed).uniform([[0], [-1]], 1, (2, n))
    # Each s twice: with its random rho, and with rho = 1, the best F there is.
    rho = np.append(rho, np.ones(n))
    s = np.append(s, s)
    q = rho * np.sqrt(1 - s)

    hurts = cosine(1.0, np.sqrt(s), np.sqrt(s), q, 0.0) < np.sqrt(s)
    rule = q < np.sqrt(s**2 + s) - s
    wrong = int((hurts != rule).sum())

    def margin(s):
        return 4 * s**3 - 4 * s + 1

    root = optimize.brentq(margin, 0.6, 1)
    return hurts[:n].mean(), wrong, s[~hurts].max(), root


def claim_G2():
    """MT's ablation (Table 7): both terms together are best, at gamma = 1.

    The check asks when F helps at gamma = 1 at all. A step of length 1 is a long one: unless F is
    very good it leads past z. And the better c M is, the less an F perpendicular to it can add."""
    hurts, wrong, helped, s = at_one()
    return Claim(
        "G2",
        '"Using both projection matrix and conditional DDIM in Eq. (5) gives the best performance" '
        "(Table 7, at gamma = 1).",
        "In the same model F at gamma = 1 lowers the cosine iff z.F < sqrt(s^2 + s) - s. Where cM "
        f"alone scores above {np.sqrt(s):.4f}, no orthogonal F can help at gamma = 1.",
        f"F hurts in {hurts:.1%} of 200000 (s, rho) uniform on [0, 1] x [-1, 1]; the rule is wrong "
        f"in {wrong}; largest sqrt(s) where any F helped: {np.sqrt(helped):.4f}",
        # As printed: F would never hurt.
        printed_holds=hurts == 0,
        # Ours: the rule has no exception, and F helps up to that s and no further.
        corrected_holds=wrong == 0 and 0 < s - helped < 1e-3,
        kind=NEEDS,
    )


# --------------------------------------------------------------------------------------------------
# G3: Eq. 21, and what is true without its conditions


def general(seed=0, n=200_000, stars=1000, h2=6):
    """Random vectors of any length and angle; z unit, and turned so that z.cM > 0. A tuple of

    the largest error of cosine(); of the cosine at gamma_star on `stars` rows, against brute force;
    the mean error of Eq. 21 at gamma = 1; cases against "a small gamma > 0 helps iff q > c1 kappa",
    which is the slope at 0"""
    z, cM, F = torch.tensor(np.random.default_rng(seed).standard_normal((3, n, h2)))
    F = fn.normalize(F)
    z = fn.normalize(z) * (z * cM).sum(1, keepdim=True).sign()
    a = cM.norm(dim=1).numpy()
    c1 = fn.cosine_similarity(z, cM).numpy()
    q = fn.cosine_similarity(z, F).numpy()
    kappa = fn.cosine_similarity(cM, F).numpy()

    # At gamma = 1: the cosine of the vectors, our formula, and Eq. 21, where s = a^2 and z.F = q.
    exact = fn.cosine_similarity(z, cM + F).numpy()
    e_formula = np.abs(cosine(1.0, a, c1, q, kappa) - exact).max()
    eq21 = (a**2 + q) / np.sqrt(a**2 + 1)
    e_eq21 = np.abs(eq21 - exact).mean()

    # A step that is small against the slope shows its sign.
    slope = q - c1 * kappa
    helps = cosine(0.1 * np.abs(slope), 1.0, c1, q, kappa) > c1
    wrong = int((helps != (slope > 0)).sum())

    # gamma_star, one row at a time: for one row its formula is exact.
    k = slice(stars)
    star = [[gamma_star(cM[[i]], F[[i]], z[[i]])] for i in range(stars)]
    z_hat = cM[k] + torch.tensor(star, dtype=torch.float64) * F[k]
    reached = fn.cosine_similarity(z[k], z_hat).numpy()
    _, top = sweep(c1[k], q[k], kappa[k])
    e_star = np.abs(top - reached).max()
    return e_formula, e_star, e_eq21, wrong


def claim_G3():
    """Eq. 21 has the cosine (s + gamma z.F) / sqrt(s + gamma^2).

    The check takes random vectors, for which nothing is perpendicular and no length is 1. Eq. 21
    is off by 1.85 on average (cosines are in [-1, 1]); the general formula is exact. The diagnosis
    of a trained run, theory/gamma.py --run, needs the general one."""
    error, short, eq21, wrong = general()
    return Claim(
        "G3",
        "Eq. 21: the cosine is (s + gamma z.F) / sqrt(s + gamma^2), s = |cM|^2.",
        "That needs |z| = 1, z.cM = |cM|^2 and F orthogonal to cM. Always: (a c1 + gamma q) / "
        "sqrt(a^2 + 2 a gamma kappa + gamma^2), and gamma* = a (q - c1 kappa) / (c1 - q kappa). "
        "A small gamma > 0 helps iff q > c1 kappa.",
        f"random vectors: Eq. 21 off by {eq21:.2f} on average, the general formula by {error:.0e}; "
        f"cosine at gamma_star, 1000 cases, within {short:.0e} of brute force; the iff is wrong in "
        f"{wrong} of 200000",
        # As printed: it would be the cosine of these vectors.
        printed_holds=eq21 < 1e-9,
        # Ours: exact; the best gamma up to the floor in gamma_star; the iff without exception.
        corrected_holds=error < 1e-9 and short < 1e-3 and wrong == 0,
        kind=NEEDS,
    )


# --------------------------------------------------------------------------------------------------
# G9: one gamma for samples that differ


def lengths(spread, seed=0, N=5000):
    """[(gamma, mean cosine)] of three gammas, for N samples with different s and rho: gamma_star
    at the four means, best_gamma, and the best of a fine sweep.

    |cM| / sqrt(s) is lognormal of this spread: at 1, many c M are 2.7 times too long or short."""
    # In the paper's model but for |cM|, which is sqrt(s) there.
    rng = np.random.default_rng(seed)
    s = rng.beta(14, 6, N)  # 0.70 +- 0.10
    rho = rng.normal(0.35, 0.2, N).clip(-0.99, 0.99)
    c1 = np.sqrt(s)
    q = rho * np.sqrt(1 - s)
    a = c1 * np.exp(spread * rng.standard_normal(N))
    cM, F, z = vectors(a, c1, q, 0.0)

    def score(gamma):
        return fn.cosine_similarity(z, cM + gamma * F).mean().item()

    # The sweep: 601 gammas from a hundredth of gamma_star to a hundred times it.
    star = gamma_star(cM, F, z)
    grid = star * np.geomspace(1e-2, 1e2, 601)
    swept = max(grid.tolist(), key=score)
    return [(gamma, score(gamma)) for gamma in (star, best_gamma(cM, F, z), swept)]


def claim_G9():
    """MT has one gamma for all samples, and one s in Eq. 21 and 23.

    The check: samples that differ. The formula at the mean of a, c1, q, kappa is not the maximum of
    the mean cosine. Where |cM| varies much it is five times too large: a gamma that suits the long
    c M throws off the samples with a short one."""
    alike = lengths(0.2)
    apart = lengths(1.0)
    (_, by_means), (_, by_auto), (_, by_sweep) = apart
    return Claim(
        "G9",
        "One gamma and one s stand for all samples (Eq. 5, 21, 23).",
        "gamma* at the mean a, c1, q, kappa is good where |cM| varies little, and too large where "
        "it varies much; so --gamma auto tries a grid around it.",
        f"gamma (cosine), |cM| lognormal, spread 0.2: {three(alike)}; spread 1: {three(apart)}",
        # As printed: the formula would reach the sweep's cosine in both cases.
        printed_holds=by_sweep - by_means < 1e-3,
        # Ours: it does at the small spread; at the large one the search does.
        corrected_holds=alike[2][1] - alike[0][1] < 1e-3 and by_sweep - by_auto < 2e-3,
        kind=NEEDS,
    )


def three(rows):
    """The rows of `lengths` as text."""
    names = ("means", "auto", "sweep")
    pairs = zip(names, rows, strict=True)
    return ", ".join(f"{name} {gamma:.3f} ({score:.4f})" for name, (gamma, score) in pairs)
