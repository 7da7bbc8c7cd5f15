"""
proposition1.py: does Proposition 1 of MT say how often the cosine is at least alpha?

Papers   [MT] Proposition 1, Eq. 7 = 17 = 23, and its proof, Eq. 18-22 (Appendix B)
         [Massart] The tight constant in the Dvoretzky-Kiefer-Wolfowitz (DKW) inequality, 1990
Model    unit z = c M + r, c M = Pz, s = |Pz|^2; z_hat = c M + gamma F, F a random unit vector of
         the n = h2 - k dimensions, orthogonal to c M, that hold r. With rho = cos(r, F) its cosine
         is (s + gamma sqrt(1-s) rho) / sqrt(s + gamma^2): at least alpha where rho >= beta
Map      tail                P(x.y >= b) of random unit vectors: Eq. 22, repaired      P1 P5
         probability         Eq. 23, repaired; printed: as it stands               P2 P3 P5
         better_laws, best   which F do better than that; which gamma is best         P4 P8
         general, uneven     any lengths and angles; residuals of uneven spread       P6 P7
         dkw, guarantee      a lower bound of P(cos >= alpha) from held-out pairs        P9
         claims, figure      the verdicts; measured, draw: the same on a trained run
Letters  N samples   h2 = dim z   k dimensions to which F and r are orthogonal (1: c M)
Try      python theory/proposition1.py        then with --run runs/glyphs-translator
"""

import os
import sys

import numpy as np
from matplotlib.figure import Figure
from scipy import integrate, special, stats

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from theory import report
from theory.report import NEEDS, cosine, need, unit

S, H2, PAPER = 0.8386**2, 512, 0.8394  # MT Table 7, text: c M alone has 0.8386, with F 0.8394

# ---------------------------------------------------------------------------------------------
# Formulas: numbers or arrays that broadcast


def tail(b, n):
    """P(x.y >= b) of independent uniform unit vectors x, y in R^n, for real n >= 1.

    Half the upper tail of Beta(1/2, (n-1)/2) at b^2, for b >= 0: README, P1. b is clipped to
    [-1, 1]; n = 1 is a coin, x.y = +-1. Raises ValueError for b = NaN or n < 1."""
    b, n = np.asarray(b, float), np.asarray(n, float)
    need(~np.isnan(b), "b = {}: must be in [-inf, inf], and is clipped to [-1, 1]", b)
    need((n >= 1) & np.isfinite(n), "dimension n = {}: must be in [1, inf)", n)
    half = special.betaincc(0.5, np.maximum(n - 1, 1e-9) / 2, np.clip(b, -1, 1) ** 2) / 2
    coin = np.where(b > 1, 0.0, np.where(b > -1, 0.5, 1.0))
    return np.where(n > 1, np.where(b < 0, 1 - half, half), coin)


def threshold(alpha, gamma, a, dot, tau):
    """beta, the rho from which on (dot + gamma tau rho) / sqrt(a^2 + gamma^2) >= alpha."""
    missing, slope = np.multiply(alpha, np.hypot(a, gamma)) - dot, np.multiply(gamma, tau)
    with np.errstate(divide="ignore", invalid="ignore"):  # slope 0 (s = 1): rho plays no part
        return np.where(slope > 0, missing / slope, np.where(missing > 0, np.inf, -np.inf))


def check(alpha, gamma, s, h2, k=1):
    alpha, gamma, s, h2, k = map(np.asarray, (alpha, gamma, s, h2, k))
    need(np.isfinite(alpha), "alpha = {}: must be in (-inf, inf), and is of use in [-1, 1]", alpha)
    need((gamma > 0) & np.isfinite(gamma), "gamma = {}: must be in (0, inf)", gamma)
    need((s >= 0) & (s <= 1), "s = {}: must be in [0, 1]", s)
    need((h2 >= 2) & np.isfinite(h2), "h2 = {}: must be in [2, inf)", h2)
    need((k >= 1) & (k + 1 <= h2), "k = {}: must be in [1, h2 - 1]", k)


def probability(alpha, gamma, s, h2, k=1):
    """P(cos(z, z_hat) >= alpha) in the model above: tail(beta, h2 - k), where, as |r| = sqrt(1-s),
    beta = (alpha sqrt(s + gamma^2) - s) / (gamma sqrt(1-s)).

    For z of length |z|: s = |Pz|^2 / |z|^2, and gamma / |z| for gamma; a cosine knows no lengths.
    Raises ValueError for s outside [0, 1], h2 < 2, gamma <= 0, k outside [1, h2 - 1], NaN."""
    check(alpha, gamma, s, h2, k)
    beta = threshold(alpha, gamma, np.sqrt(s), s, np.sqrt(np.subtract(1, s)))
    return tail(beta, np.subtract(h2, k))


def printed(alpha, gamma, s, h2):
    """Eq. 23 as printed: its beta has no sqrt(1-s); its density, Eq. 22 with d = h2, is that of
    R^(h2 + 1). Computed stably, and beta clipped. Raises ValueError as `probability` does."""
    check(alpha, gamma, s, h2)
    return tail(threshold(alpha, gamma, np.sqrt(s), s, 1.0), np.add(h2, 1))


def general(alpha, gamma, a, c1, kappa, n):
    """P(cos(z, cM + gamma F) >= alpha), a = |cM|, c1 = cos(z, cM), kappa = cos(cM, F), where only
    rho, the cosine of what z and F have beside cM, is random, as in R^n. |z| cancels.

    Raises ValueError for c1 or kappa outside [-1, 1], a < 0, gamma <= 0, n < 1, NaN."""
    need(np.greater_equal(a, 0), "a = {}: must be in [0, inf), it is a length", a)
    need(np.abs(c1) <= 1, "c1 = {}: must be in [-1, 1], it is a cosine", c1)
    need(np.abs(kappa) <= 1, "kappa = {}: must be in [-1, 1], it is a cosine", kappa)
    check(alpha, gamma, 0, 2)
    along, across = a + np.multiply(gamma, kappa), gamma * np.sqrt(1 - np.square(kappa))
    return tail(threshold(alpha, across, along, along * c1, np.sqrt(1 - np.square(c1))), n)


def dkw(n, delta):
    """sqrt(ln(1/delta) / (2n)). With probability 1 - delta the frequencies P_hat(x >= alpha) of n
    independent draws exceed the true P by no more, at any alpha [Massart]; delta in (0, 1/2]."""
    need(np.greater_equal(n, 1), "n = {}: must be in [1, inf)", n)
    need(0 < delta <= 0.5, "delta = {}: must be in (0, 1/2]", delta)
    return np.sqrt(np.log(np.divide(1, delta)) / np.multiply(2, n))


def frequency(cosines, alpha):
    """P_hat(cos >= alpha) of cosines (N,). Raises ValueError for other shapes, N = 0 or NaN."""
    x = np.sort(np.asarray(cosines, float))
    need(x.ndim == 1 and x.size > 0, f"shape of the cosines = {x.shape}: must be (N,), N > 0")
    need(np.abs(x) < 1 + 1e-6, "a cosine = {}: must be in [-1, 1]", x)
    need(~np.isnan(alpha), "alpha = {}: must be a number, and is of use in [-1, 1]", alpha)
    return 1 - np.searchsorted(x, alpha) / len(x)


def guarantee(cosines, alphas, delta=0.05):
    """Lower bounds of P(cos >= alpha), right for all alphas at once with confidence 1 - delta, from
    the cosines (N,) of independent held-out pairs. Raises ValueError as `frequency` and `dkw`."""
    return np.maximum(frequency(cosines, alphas) - dkw(len(cosines), delta), 0)


# ---------------------------------------------------------------------------------------------
# Checks: each returns numbers


def inner_products(d=3, N=20_000, seed=0):
    """P1. x.y of random unit vectors in R^d, (N,); Kolmogorov-Smirnov p, printed and corrected."""
    rng = np.random.default_rng(seed)
    u = cosine(rng.normal(size=(N, d)), rng.normal(size=(N, d)))
    return u, *(stats.kstest(u, lambda b, n=n: 1 - tail(b, n)).pvalue for n in (d + 1, d))


def construct(gamma, s, h2, k=1, N=20_000, seed=0, length=1.0, kappa=0.0, a=None):
    """(N,) cosines of the construction, vector by vector: z = length (sqrt(s) u + sqrt(1-s) w),
    u a random unit vector of the first k axes, w of the others; c M = a u, by default Pz;
    F = kappa u + sqrt(1 - kappa^2) v, v random like w. s is a number, or (N,)."""
    rng, s = np.random.default_rng(seed), np.broadcast_to(s, (N,))[:, None]
    u = np.pad(unit(rng.normal(size=(N, k))), ((0, 0), (0, h2 - k)))
    w, v = np.pad(unit(rng.normal(size=(2, N, h2 - k))), ((0, 0), (0, 0), (k, 0)))
    z = length * (np.sqrt(s) * u + np.sqrt(1 - s) * w)
    cM = (length * np.sqrt(s) if a is None else a) * u
    return cosine(z, cM + gamma * (kappa * u + np.sqrt(1 - kappa**2) * v))


def errors(cosines, alpha, p):
    """How many standard errors (at least one count) the frequency of cos >= alpha is from p."""
    n = len(cosines)
    return np.abs(frequency(cosines, alpha) - p) / np.sqrt(np.maximum(p * (1 - p), 1 / n) / n)


def alpha_at(sd, gamma, s, h2, k=1):
    """The alpha that is sd standard deviations of cos(z, z_hat) above its mean."""
    return (s + gamma * np.sqrt((1 - s) / (h2 - k)) * np.asarray(sd)) / np.sqrt(s + gamma**2)


CONFIGS = (0.5, 0.3, 8, 1), (1.0, 0.7, 16, 5), (2.0, 0.5, 5, 2), (0.3, 0.8, 64, 8), (1.0, S, H2, 1)


def against_monte_carlo(configs=CONFIGS, N=10_000, seed=0):
    """P2. (2, points): standard errors off, printed and corrected; gamma, s, h2, k x 4 alphas."""
    rows = []
    for i, (gamma, s, h2, k) in enumerate(configs):
        x = construct(gamma, s, h2, k, N, seed + i)
        alpha = alpha_at([-1.5, -0.5, 0.5, 1.5], gamma, s, h2, k)
        values = printed(alpha, gamma, s, h2), probability(alpha, gamma, s, h2, k)
        rows.append([errors(x, alpha, p) for p in values])
    return np.concatenate(rows, 1)


def signs(sizes=((5, 1), (8, 3), (16, 1), (64, 20), (512, 1), (512, 200), (4096, 1))):
    """P3. (points, violations) of: if s >= (k+1)/(h2-2), then Eq. 23 is not below the true value
    for alpha > alpha_0 = s / sqrt(s + gamma^2), where both are at most 1/2, and not above it for
    alpha < alpha_0. Proof: README, P3."""
    points = violations = 0
    for h2, k in sizes:
        least = (k + 1) / (h2 - 2)
        grid = np.linspace(-1, 1, 61), np.logspace(-3, 2, 16), np.linspace(least, 1, 17)
        alpha, gamma, s = np.meshgrid(*grid)
        p, true = printed(alpha, gamma, s, h2), probability(alpha, gamma, s, h2, k)
        above = alpha > s / np.sqrt(s + gamma**2)
        violations += np.sum(np.where(above, p < true * (1 - 1e-9), p > true * (1 + 1e-9)))
        violations += np.sum(np.where(above, p > 0.5, p < 0.5))
        points += p.size
    return points, int(violations)


def better_laws(dims=(8, 64, 511), laws=100, seed=0):
    """P4. (cases, least P(rho >= b) - tail(b, n)) of laws of rho whose density, over a random F's,
    never falls with rho: exp(eta rho), vMF around r, and random steps up. Proof: README, P4."""
    rng, least, b = np.random.default_rng(seed), np.inf, np.linspace(-1, 1, 513)
    for n in dims:
        steps = np.cumsum(rng.exponential(size=(laws, 512)) ** 3, 1)
        vmf = np.exp(np.outer([0.5, 2, 20, 200], b[1:] - 1))
        mass = np.vstack([steps, vmf]) * -np.diff(tail(b, n))  # of each interval of b
        above = np.cumsum(mass[:, ::-1], 1)[:, ::-1]
        least = min(least, np.min(above / above[:, :1] - tail(b[:-1], n)))
    return len(dims) * (laws + 4) * 512, least


def naive(beta, h2):
    """P5. Eq. 23 typed in: Gamma functions, and an integral from -1 to beta."""
    with np.errstate(invalid="ignore"):
        ratio = special.gamma(h2 / 2 + 0.5) / special.gamma(h2 / 2)
    integral = integrate.quad(lambda u: (1 - u * u) ** (h2 / 2 - 1), -1, beta)[0]
    return 1 - ratio / np.sqrt(np.pi) * integral


def stable(sizes=(2, 3, 8, 342, 343, 512, 4096, 10**6)):
    """P5. (least, largest, largest rise with alpha) of both formulas, gamma in [1e-6, 1e3]."""
    s, alpha = np.r_[0, 1e-9, np.linspace(0.01, 0.99, 12), 1], np.linspace(-1, 1, 101)
    gamma, s, h2, alpha = np.meshgrid(np.logspace(-6, 3, 10), s, sizes, alpha, indexing="ij")
    p = np.stack([probability(alpha, gamma, s, h2), printed(alpha, gamma, s, h2)])
    return p.min(), p.max(), np.diff(p, axis=-1).max()


def uneven(power=1.0, n=511, b=0.1, N=10_000, seed=0):
    """P7. r, F independent, variances i^-power on n axes: (frequency of rho >= b, n_eff)."""
    rng, scale = np.random.default_rng(seed), np.arange(1.0, n + 1) ** (-power / 2)
    rho = cosine(rng.normal(size=(N, n)) * scale, rng.normal(size=(N, n)) * scale)
    return frequency(rho, b), 1 / rho.var()


def best(alpha, s, h2, k=1):
    """P8. (gamma, P) of the highest P(cos >= alpha) over gamma >= 0, s < 1. Proof: README, P8."""
    over = np.maximum(alpha * np.abs(alpha) - s, 0)
    return np.sqrt(over), np.where(over > 0, tail(np.sqrt(over / (1 - s)), np.subtract(h2, k)), 1)


def gammas(cases=100_000, seed=0):
    """P8. (random gammas that beat `best`, largest P of `best` where alpha > sqrt(s))."""
    rng = np.random.default_rng(seed)
    alpha, s, h2 = rng.uniform(-1, 1, cases), rng.random(cases), rng.integers(3, 600, cases)
    p, tried = best(alpha, s, h2)[1], 10 ** rng.uniform(-4, 2, cases)
    won = probability(alpha, tried, s, h2) > p * (1 + 1e-9)
    return int(won.sum()), p[alpha > np.sqrt(s)].max()


def coverage(N=100, delta=0.05, repetitions=20_000, seed=0, copies=1):
    """P9. How often `guarantee` is right at all alphas, for N values of which each is there
    `copies` times. They are uniform; the answer is the same for any continuous law."""
    x = np.random.default_rng(seed).uniform(size=(repetitions, N // copies))
    x = np.repeat(np.sort(x, 1), copies, 1)
    p_hat = 1 - np.arange(x.shape[1]) / x.shape[1]  # of x >= x_i; the true P is 1 - x_i
    return np.mean(np.max(p_hat - (1 - x), 1) <= dkw(x.shape[1], delta))


# ---------------------------------------------------------------------------------------------
# Verdicts


def claims():
    return list(verdicts())


def verdicts():
    u, p_printed, p_right = inner_products()
    b = np.linspace(-1, 1, 101)
    hat_box = np.abs(tail(b, 3) - (1 - b) / 2).max()  # Archimedes: in R^3, x.y is uniform
    yield report.Claim(
        "P1",
        "Eq. 22: x.y of random unit vectors of dimension d has a density ~ (1 - u^2)^(d/2 - 1).",
        "That is R^(d+1). In R^d: exponent (d-3)/2, variance 1/d; in R^3, x.y is uniform.",
        f"in R^3, variance {u.var():.4f}: printed 1/4, corrected 1/3; Kolmogorov-Smirnov p "
        f"{p_printed:.0e} printed, {p_right:.2f} corrected",
        bool(p_printed > 1e-3),
        bool(p_right > 1e-3 and hat_box < 1e-12),
    )

    off_printed, off = against_monte_carlo()
    yield report.Claim(
        "P2",
        'Eq. 23, its "=": the probability is 1 minus the integral of that density, d = h2, from '
        "-1 to beta = (alpha sqrt(s + gamma^2) - s) / gamma.",
        "|r| = sqrt(1-s), so beta is over gamma sqrt(1-s); and F has only n = h2 - k dimensions, "
        "so the exponent is (n-3)/2.",
        f"Monte Carlo of the construction at {off.size} points: printed off by more than 5 "
        f"standard errors at {np.sum(off_printed > 5)}, corrected by at most {off.max():.1f}",
        bool(off_printed.max() <= 5),
        bool(off.max() <= 5),
    )

    points, violations = signs()
    alpha = np.array([alpha_at(2, 1.0, S, H2), PAPER])
    over, true = printed(alpha, 1.0, S, H2), probability(alpha, 1.0, S, H2)
    yield report.Claim(
        "P3",
        'Eq. 23, its "at least": a lower bound of the probability that the cosine is >= alpha.',
        "In its own model, F a random direction, and if s >= (k+1)/(h2-2): a valid, too cautious "
        "lower bound wherever it says more than 1/2 (alpha below the mean cosine, s / sqrt(s + "
        "gamma^2)), and too high wherever it says less.",
        f"{violations} exceptions at {points} points. h2 = 512, gamma = 1, s = 0.8386^2: at +2 sd "
        f"printed {over[0]:.4f}, {over[0] / true[0]:.1f} times the true {true[0]:.4f}; for the "
        f"paper's 0.8394 printed {over[1]:.0e}, true {true[1]:.0e}",
        bool(np.all(over <= true)),
        violations == 0 and points >= 1e5,
    )

    cases, margin = better_laws()
    beta = threshold(0.78, 0.3, 0.7**0.5, 0.7, 0.3**0.5)
    lucky = 0.3 * (0.9 >= beta) + 0.7 * (-0.2 >= beta)
    random, eq23 = probability(0.78, 0.3, 0.7, H2), printed(0.78, 0.3, 0.7, H2)
    yield report.Claim(
        "P4",
        '"At least" (implied): a trained F is no worse than a random direction.',
        "The corrected value is a lower bound if rho = cos(r, F) is stochastically larger than a "
        "random F's, as for F scattered around r. Larger on average is not enough.",
        f"least margin {margin:.0e} in {cases} cases. But rho = 0.9 with probability 0.3, else "
        f"-0.2 (mean +0.13), gamma = 0.3, s = 0.7: P(cos >= 0.78) = {lucky:.2f}, random F "
        f"{random:.2f}, printed {eq23:.2f}",
        bool(lucky >= eq23),
        bool(margin > -1e-12),
        NEEDS,
    )

    overflow = next(h2 for h2 in range(2, 999) if not np.isfinite(naive(0.0, h2)))
    typed = naive(threshold(0.6, 0.1, S**0.5, S, 1.0), 8)
    low, high, rise = stable()
    yield report.Claim(
        "P5",
        "Eq. 23 can be evaluated as it stands.",
        "For beta in [-1, 1]; beyond, clip it. By the incomplete beta function it is then a "
        "probability that never rises with alpha, up to h2 = 10^6.",
        f"Gamma(h2/2 + 1/2) overflows in float64 from h2 = {overflow}. At h2 = 8, gamma = 0.1, s "
        f"= 0.8386^2, alpha = 0.6 beta is below -1, and 1 - integral is {typed:.0f}; clipped, "
        f"{printed(0.6, 0.1, S, 8):.0f}",
        bool(overflow > H2 and 0 <= typed <= 1),
        bool(low >= 0 and high <= 1 and rise < 1e-12),
        NEEDS,
    )

    x, eq21 = construct(1.0, 0.7, 32, length=10), tail(threshold(0.83, 1, 70**0.5, 70, 1), 33)
    y = construct(1.0, 0.7, 32, seed=1, length=10, kappa=0.4, a=3.0)
    p_x, p_y = probability(0.83, 0.1, 0.7, 32), general(0.83, 1.0, 3.0, 0.7**0.5, 0.4, 31)
    yield report.Claim(
        "P6",
        "Eq. 18, 21: the cosine is (s + gamma z.F) / sqrt(s + gamma^2).",
        "For |z| = 1, and F orthogonal to c M = Pz. For other |z| put s / |z|^2 for s, gamma / |z| "
        "for gamma; `general` also frees |c M| and cos(c M, F).",
        f"|z| = 10, gamma = 1, h2 = 32: P(cos >= 0.83) = {frequency(x, 0.83):.3f}, printed "
        f"{eq21:.3f}, corrected {p_x:.3f}; with |c M| = 3, cos(c M, F) = 0.4: "
        f"{frequency(y, 0.83):.3f}, general {p_y:.3f}",
        bool(errors(x, 0.83, eq21) <= 5),
        bool(max(errors(x, 0.83, p_x), errors(y, 0.83, p_y)) <= 5),
        NEEDS,
    )

    s = np.random.default_rng(0).beta(22.3, 9.5, 20_000)  # 0.70 +- 0.08
    x, at_mean = construct(0.3, s, 64, seed=1), probability(0.8, 0.3, s.mean(), 64)
    averaged = probability(0.8, 0.3, s, 64).mean()
    skewed, n_eff = uneven()
    by_n, by_n_eff = tail(0.1, [511, n_eff])
    yield report.Claim(
        "P7",
        "One beta gives the probability, and r has no preferred direction.",
        "Average over the s of the samples. If r and F are independent, of mean 0 and one "
        "covariance, n_eff = 1 / Var(rho) stands, nearly, for h2 - k.",
        f"s = 0.70 +- 0.08: P(cos >= 0.8) = {frequency(x, 0.8):.3f}, at the mean s {at_mean:.3f}, "
        f"averaged {averaged:.3f}. Variances 1/i in 511 dimensions: P(rho >= 0.1) = {skewed:.3f}, "
        f"by n = 511 {by_n:.3f}, by n_eff = {n_eff:.0f} {by_n_eff:.3f}",
        bool(errors(x, 0.8, at_mean) <= 5),
        bool(errors(x, 0.8, averaged) <= 5 and abs(by_n_eff - skewed) < 0.02),
        NEEDS,
    )

    beaten, p_best = gammas()
    p_gamma_1, (gamma_85, p_85) = probability(0.83, 1.0, S, H2), best(0.85, S, H2)
    x, mean = construct(1.0, S, H2, N=2000, seed=2), alpha_at(0, 1.0, S, H2)
    yield report.Claim(
        "P8",
        '"With Eq. (5), we can estimate the target vector in an accurate way, which is justified '
        'by Proposition 1" (gamma > 0).',
        "In its model gamma = 0 gives probability 1 for alpha <= sqrt(s); above, sqrt(alpha^2 - s) "
        "is best, with P < 1/2. For any gamma > 0 a random F buys a few cosines above sqrt(s) and "
        "pays on average: their mean, s / sqrt(s + gamma^2), is below sqrt(s).",
        f"{beaten} of 10^5 random gammas do better; P above sqrt(s) is at most {p_best:.2f}. s = "
        f"0.8386^2: alpha = 0.83 has 1 at gamma = 0, {p_gamma_1:.0e} at gamma = 1; alpha = 0.85 "
        f"has at best {p_85:.0e}, at gamma = {gamma_85:.3f}; mean cosine {S**0.5:.2f} at gamma = "
        f"0, {mean:.2f} at 1 (drawn: {x.mean():.2f})",
        bool(p_gamma_1 >= best(0.83, S, H2)[1]),
        bool(beaten == 0 and p_best < 0.5 and abs(x.mean() - mean) < 5 * x.std() / 2000**0.5),
    )

    opposite = (S - np.sqrt(1 - S)) / np.sqrt(S + 1)  # the cosine at gamma = 1 if F = -r / |r|
    eq23, right, fivefold = printed(0.15, 1.0, S, H2), coverage(), coverage(copies=5)
    yield report.Claim(
        "P9",
        '"our method ensures" it, by a beta "calculated with alpha, gamma, c", without a look at '
        "held-out data.",
        "From N independent held-out pairs: P(cos >= alpha) >= its frequency - sqrt(ln(1/delta) / "
        "(2N)) at all alpha, with confidence 1 - delta (DKW).",
        f"F = -r/|r| has cosine {opposite:.2f}; printed: at least 0.15 with P = {eq23:.2f}. DKW at "
        f"N = 100, delta = 0.05: right in {right:.3f} of 20000 repetitions, in {fivefold:.2f} if "
        f"each pair is there five times; N = 40000: {dkw(40_000, 0.05):.4f}",
        bool(opposite >= 0.15 or eq23 == 0),
        bool(right > 0.95 - 5 * np.sqrt(0.05 * 0.95 / 20_000)),
    )


# ---------------------------------------------------------------------------------------------
# Pictures, and a trained run


def figure():
    fig = Figure(figsize=(8, 3.4), layout="constrained")
    left, middle, right = fig.subplots(1, 3)
    alpha, dots = np.linspace(0.3, 0.88, 300), alpha_at(np.linspace(-2, 3, 6), 1.0, S, H2)
    left.semilogy(alpha, printed(alpha, 1.0, S, H2), "C3", label="printed")
    left.plot(alpha, probability(alpha, 1.0, S, H2), "C0", label="corrected")
    left.plot(dots, frequency(construct(1.0, S, H2, N=10_000), dots), "k.", label="Monte Carlo")
    label = "gamma = 0,\nand the paper's 0.84"
    left.plot([0.3, S**0.5, S**0.5], [1, 1, 1e-30], "C2", label=label)
    left.set(ylim=(1e-13, 5))
    left.set_title("h2 = 512, gamma = 1, s = 0.70", fontsize=9)
    u = np.linspace(-1, 1, 201)
    middle.hist(inner_products()[0], 40, density=True, color="0.8", label="20,000 pairs in R^3")
    middle.plot(u, 2 / np.pi * np.sqrt(1 - u**2), "C3", label="printed, d = 3")
    middle.plot(u, 0 * u + 0.5, "C0", label="corrected")
    middle.set(xlabel="x.y", ylabel="density", ylim=(0, 0.95))
    middle.set_title("Eq. 22 in R^3", fontsize=9)
    alpha, rng = np.linspace(0.7, 1, 300), np.random.default_rng(0)
    rho = np.where(rng.random(1000) < 0.3, 0.9, -0.2)
    x = (0.7 + 0.3 * np.sqrt(0.3) * rho) / np.sqrt(0.7 + 0.3**2)
    right.plot(alpha, printed(alpha, 0.3, 0.7, H2), "C3", label="printed")
    right.plot(alpha, probability(alpha, 0.3, 0.7, H2), "C0", label="corrected, F random")
    right.plot(alpha, frequency(x, alpha), "k", label="this F, 1,000 pairs")
    right.plot(alpha, guarantee(x, alpha), "C1--", label="DKW, 95 %")
    right.set(ylim=(-0.03, 1.5))
    right.set_title("gamma = 0.3, rho = 0.9 or -0.2", fontsize=9)
    for ax in (left, right):
        ax.set(xlabel="alpha", ylabel="P(cos >= alpha)")
    for ax in (left, middle, right):
        ax.legend(fontsize=7)
    return fig


def parts(held):
    """Of each sample (N,): |z|, |cM|, cos(z, cM), kappa, rho (both beside cM), cos(z, z_hat); and
    rho with the F of another sample."""
    z, cM, F = (x.numpy() for x in (held.z, held.cM, held.F))
    u, length = unit(cM), lambda x: np.linalg.norm(x, axis=1)
    beside = lambda x: x - (x * u).sum(1, keepdims=True) * u
    c1, kappa = (np.clip(cosine(x, u), -1, 1) for x in (z, F))
    rho, x = cosine(beside(z), beside(F)), cosine(z, cM + held.gamma * F)
    other = cosine(beside(z), beside(np.roll(F, len(F) // 2, 0)))
    return length(z), length(cM), c1, kappa, rho, x, other


def curves(held, alpha):
    """{name: P(cos >= alpha)} at alphas (A,), the formulas averaged over the samples, each with its
    own |z| and s; "general" with its own |cM|, cos(z, cM), kappa: only rho is a random F's."""
    (z, a, c1, kappa, _, x, _), gamma, h2 = parts(held), held.gamma, held.z.shape[1]
    mean = lambda formula, *args: np.array([formula(t, *args).mean() for t in alpha])
    return {
        "measured": frequency(x, alpha),
        "DKW bound": guarantee(x[held.independent], alpha),
        "general": mean(general, gamma, a, c1, kappa, h2 - 1),
        "corrected": mean(probability, gamma / z, c1**2, h2),
        "printed": mean(printed, gamma / z, c1**2, h2),
    }


def measured(held):
    """Means over the samples; n_eff by the F of other samples, for 1 / Var(rho) counts directions
    of independent r and F; then P(cos >= alpha) at the quartiles of the measured cosine."""
    z, _, c1, kappa, rho, x, other = parts(held)
    rows = {"gamma": held.gamma, "|z|, mean": z.mean(), "s = cos(z, cM)^2, mean": np.mean(c1**2)}
    rows |= {"kappa = cos(cM, F), mean": kappa.mean(), "rho, mean": rho.mean()}
    rows |= {"rho, std": rho.std(), "rho with another's F, mean": other.mean()}
    rows |= {"n_eff = 1 / Var(rho with another's F)": 1 / other.var()}
    rows |= {"h2 - 1": held.z.shape[1] - 1, "independent pairs": len(held.independent)}
    alphas = np.quantile(x, [0.25, 0.5, 0.75]).round(2)
    table = curves(held, alphas)
    for i, q in enumerate(("q1", "median", "q3")):
        rows[f"alpha at {q} of the cosine"] = alphas[i]
        rows |= {f"  P(cos >= {q}), {name}": p[i] for name, p in table.items()}
    return {quantity: float(value) for quantity, value in rows.items()}


def draw(ax, held, direction):
    alpha = np.linspace(-0.2, 1, 121)
    colours = ("k", "C1--", "C2", "C0", "C3")
    for (name, p), colour in zip(curves(held, alpha).items(), colours, strict=True):
        ax.plot(alpha, p, colour, label=name)
    ax.set(title=direction, xlabel="alpha", ylabel="P(cos >= alpha)")
    ax.legend(fontsize=7)


if __name__ == "__main__":
    sys.exit(report.main("proposition1", claims, figure, measured, draw))
