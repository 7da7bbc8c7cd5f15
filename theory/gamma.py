"""
gamma.py: how much F may weigh in z_hat = c M + gamma F, and what F is worth in cosine.

Papers   [MT] Eq. 4-6 and 15-21; gamma = 1.0 and guidance 5.0 (Section 4.3); Table 7
Uses     four numbers: a = |cM| and cosines c1 of z, cM;  q of z, F;  kappa of cM, F
Map      cosine, best_cosine, break_even   from the four; gamma* is gamma_star of ddim_translator.py
         diagnose                          from vectors
         unit_model G1   at_one G2   general G3   bound, orthogonal G4   reading G5
         averaged, samples G6   curved_mean G7   guided_limit, guided G8   lengths G9
         claims, figure   the verdicts;   measured, draw: on a trained run
Letters  s = |cM|^2 = z.cM where z is unit   rho = q / sqrt(1 - s)   mu the direction of E[z|c]
         R = |E[z|c]| for unit z   K samples averaged   n, N random cases   lost: best minus reached
Try      python theory/gamma.py        then with --run runs/glyphs-translator
"""

import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from scipy import integrate, optimize

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from ddim_translator import best_gamma, ddim_step, gamma_star, guide, make_alpha
from theory import report

# MT Table 7, MS-COCO, ViT-B/32: cosines of F alone ("w/o Projection"), of cM alone, of both
TABLE = {"text": (0.6280, 0.8386, 0.8394), "image": (0.6155, 0.8199, 0.8233)}
Q, C1 = TABLE["text"][:2]
cos = fn.cosine_similarity
SHARES, OMEGAS = (0.0, 0.35, 0.6), (0, 1, 2, 5)

# ---------------------------------------------------------------------------------------------
# The cosine of a sum, from four numbers. Numbers, or arrays that broadcast


def need(ok, message):
    if not np.all(np.asarray(ok)):
        raise ValueError(message)


def check(c1, q, kappa, a=1.0):
    """Three vectors with these cosines exist iff their Gram matrix has no negative eigenvalue,
    which for cosines in [-1, 1] says that its determinant is >= 0."""
    for name, x in {"c1": c1, "q": q, "kappa": kappa}.items():
        need(np.abs(x) <= 1 + 1e-9, f"{name} = {x}: a cosine is in [-1, 1]")
    need(np.abs(kappa) < 1, "kappa is 1 or -1: F must not be parallel to c M")
    need(np.isfinite(a) & (np.asarray(a) > 0), f"a = {a}: the length of c M must be above 0")
    det = 1 + 2 * c1 * q * kappa - c1**2 - q**2 - kappa**2
    need(det > -1e-9, f"no three vectors have cosines c1 = {c1}, q = {q}, kappa = {kappa}")


def cosine(gamma, a, c1, q, kappa):
    """cos(z, cM + gamma F) = (a c1 + gamma q) / sqrt(a^2 + 2 a gamma kappa + gamma^2).

    No orthogonality, any lengths of z and cM; F is unit. Raises ValueError: see check."""
    check(c1, q, kappa, a)
    need(np.isfinite(gamma), f"gamma = {gamma}: it must be finite")
    return (a * c1 + gamma * q) / np.sqrt(a**2 + 2 * a * gamma * kappa + gamma**2)


def best_cosine(c1, q, kappa):
    """The supremum of cosine() over gamma >= 0, whatever a is. Raises ValueError: see check.

    Its derivative in gamma has the sign of a (q - c1 kappa) - gamma (c1 - q kappa). Both brackets
    positive: a maximum at their ratio, and there z_hat is along the projection of z onto the
    plane of cM and F. Otherwise the supremum is at an end: c1 at gamma = 0, or q at infinity."""
    check(c1, q, kappa)
    inside = (q > c1 * kappa) & (c1 > q * kappa)
    in_plane = np.sqrt((c1**2 + q**2 - 2 * c1 * q * kappa) / (1 - kappa**2))
    return np.where(inside, in_plane, np.maximum(c1, q))[()]


def break_even(a, c1, q, kappa):
    """The gamma above which cM + gamma F has a lower cosine than cM: 0 always, inf never.

    cosine^2 = c1^2 is linear in gamma > 0 once gamma = 0 is divided out:
    2 a c1 (q - c1 kappa) = gamma (c1^2 - q^2), positive on both sides for c1 kappa < q < c1.
    q <= c1 kappa: F hurts from 0 on. q >= c1: it never does. Orthogonal, unit z: 2 s q / (s - q^2).
    Raises ValueError for c1 <= 0, where cM itself points away from z, or see check."""
    check(c1, q, kappa, a)
    need(np.asarray(c1) > 0, f"c1 = {c1}: a break-even needs cos(z, cM) above 0")
    between = (q > c1 * kappa) & (q < c1)
    gap = np.where(between, c1**2 - q**2, 1.0)
    beyond = np.where(q >= c1, np.inf, 0.0)
    return np.where(between, 2 * a * c1 * (q - c1 * kappa) / gap, beyond)[()]


def diagnose(z, cM, F):
    """{a, c1, q, kappa: means over rows; gamma_star; cosine: the best, predicted from the means}.

    z, cM, F (N, h2), rows of F unit. The means are consistent: a mean of Gram matrices is one.
    Raises ValueError for other shapes, numbers that are not finite, zero rows, |F| not 1."""
    z, cM, F = (torch.as_tensor(x).double() for x in (z, cM, F))
    shapes = [tuple(x.shape) for x in (z, cM, F)]
    need(z.ndim == 2 and len(set(shapes)) == 1, f"z, cM, F have shapes {shapes}: all (N, h2)")
    length = torch.stack([x.norm(dim=1) for x in (z, cM, F)])
    need(length.isfinite().all() and (length > 0).all(), "a row of z, cM or F is 0 or not finite")
    need((length[2] - 1).abs().max() < 1e-4, "rows of F must have length 1")
    c1, q, kappa = (cos(x, y).mean().item() for x, y in ((z, cM), (z, F), (cM, F)))
    out = {"a": length[1].mean().item(), "c1": c1, "q": q, "kappa": kappa}
    return out | {"gamma_star": gamma_star(cM, F, z), "cosine": float(best_cosine(c1, q, kappa))}


# ---------------------------------------------------------------------------------------------
# G1-G3: gamma


def vectors(a, c1, q, kappa):
    """(cM, F, z) in three dimensions with these numbers, (N, 3) each: what gamma_star takes."""
    a, c1, q, kappa = np.broadcast_arrays(*np.atleast_1d(a, c1, q, kappa))
    up = (q - c1 * kappa) / np.sqrt(1 - kappa**2)
    out = np.sqrt(np.maximum(1 - c1**2 - up**2, 0))
    rows = [[a, 0 * a, 0 * a], [kappa, np.sqrt(1 - kappa**2), 0 * a], [c1, up, out]]
    return tuple(torch.tensor(np.stack(row, 1)) for row in rows)


def sweep(c1, q, kappa, points=801):
    """Brute force over gamma = a tan(angle): (best gamma / a, its cosine), refined twice; (n,)."""
    lo, hi = np.zeros_like(c1), np.full_like(c1, np.pi / 2)
    for _ in range(3):
        angle = np.linspace(lo, hi, points)  # (points, n)
        score = cosine(np.tan(angle), 1.0, c1, q, kappa)
        best = np.take_along_axis(angle, score.argmax(0)[None], 0)[0]
        step = (hi - lo) / (points - 1)
        lo, hi = np.maximum(best - step, 0), np.minimum(best + step, np.pi / 2)
    return np.tan(best), score.max(0)


def unit_model(seed=0, n=500):
    """The paper's own model: unit z, F orthogonal to cM, |cM|^2 = z.cM = s. The slope in
    gamma has the sign of q - gamma: gamma* = q = rho sqrt(1 - s) < 1, cosine sqrt(s + q^2).

    -> errors of the two against brute force; largest best gamma; smallest, mean lost at gamma 1."""
    s, rho = np.random.default_rng(seed).uniform(0.01, 0.99, (2, n))
    a, q = np.sqrt(s), rho * np.sqrt(1 - s)
    gamma, top = sweep(a, q, 0 * q)
    lost = top - cosine(1.0, a, a, q, 0.0)
    errors = np.abs(gamma * a - q).max(), np.abs(top - np.sqrt(s + q**2)).max()
    return *errors, (gamma * a).max(), lost.min(), lost.mean()


def at_one(seed=0, n=200_000):
    """In the same model gamma = 1 hurts iff q < sqrt(s^2 + s) - s: (s + q) / sqrt(s + 1) < sqrt(s).
    The largest q there is, sqrt(1 - s), is there where 4 s^3 - 4 s + 1 = 0 (squared twice).

    -> share of random (s, q) where it hurts; cases against the rule; largest s where F helped; that
    root, above which no F can help."""
    s, rho = np.random.default_rng(seed).uniform([[0], [-1]], 1, (2, n))
    s, q = np.append(s, s), np.append(rho, 1 - 0 * s) * np.sqrt(1 - np.append(s, s))
    hurts = cosine(1.0, np.sqrt(s), np.sqrt(s), q, 0.0) < np.sqrt(s)
    wrong = int((hurts != (q < np.sqrt(s**2 + s) - s)).sum())
    root = optimize.brentq(lambda s: 4 * s**3 - 4 * s + 1, 0.6, 1)
    return hurts[:n].mean(), wrong, s[~hurts].max(), root


def general(seed=0, n=200_000, stars=1000, h2=6):
    """Random vectors of any length and angle; z unit, and turned so that z.cM > 0.

    -> largest error of cosine(); of the cosine at gamma_star on `stars` rows, against brute force;
    mean error of Eq. 21 at gamma = 1; cases against "a small gamma > 0 helps iff q > c1 kappa",
    which is the slope at 0."""
    z, cM, F = torch.tensor(np.random.default_rng(seed).standard_normal((3, n, h2)))
    F, z = fn.normalize(F), fn.normalize(z) * (z * cM).sum(1, keepdim=True).sign()
    a, c1, q, kappa = (x.numpy() for x in (cM.norm(dim=1), cos(z, cM), cos(z, F), cos(cM, F)))
    exact = cos(z, cM + F).numpy()
    eq21 = (a**2 + q) / np.sqrt(a**2 + 1)
    slope = q - c1 * kappa
    helps = cosine(0.1 * np.abs(slope), 1.0, c1, q, kappa) > c1
    star = np.array([[gamma_star(cM[[i]], F[[i]], z[[i]])] for i in range(stars)])
    k = slice(stars)
    top, reached = (
        sweep(c1[k], q[k], kappa[k])[1],
        cos(z[k], cM[k] + torch.tensor(star) * F[k]).numpy(),
    )
    off = lambda x, y: np.abs(x - y).max()
    errors = off(cosine(1.0, a, c1, q, kappa), exact), off(top, reached)
    return *errors, np.abs(eq21 - exact).mean(), int((helps != (slope > 0)).sum())


# ---------------------------------------------------------------------------------------------
# G4, G5: what Table 7 says


def bound(c1):
    """The most that mean cos(z, F) can be if each F is orthogonal to its cM; c1 = mean cos(z, cM).

    Bessel: c1^2 + q^2 <= 1 for z/|z| and orthonormal cM/|cM|, F. Jensen: sqrt(1 - x^2) is concave,
    so mean q <= mean sqrt(1 - c1^2) <= sqrt(1 - (mean c1)^2). The length of z does not matter."""
    return np.sqrt(1 - c1**2)


def orthogonal(seed=0, n=100_000, group=100, h2=5):
    """Random unit z in groups of different shape, seen along cM = e_1 and F = e_2.

    -> groups of n / group whose mean q exceeds the bound; the largest ratio of the two; rows with
    c1^2 + q^2 > 1."""
    rng = np.random.default_rng(seed)
    size, shift = rng.uniform(0, 1, (2, n // group, 1, h2))
    shift[..., 2:] = 0
    z = rng.standard_normal((n // group, group, h2)) * size / 4 + shift
    c1, q = np.moveaxis(z / np.linalg.norm(z, axis=-1, keepdims=True), -1, 0)[:2]
    ratio = q.mean(1) / bound(c1.mean(1))
    return int((ratio > 1).sum()), ratio.max(), int((c1**2 + q**2 > 1 + 1e-12).sum())


def reading(direction, length=None):
    """Table 7 as one typical sample at gamma = 1: {q, kappa, gamma_star, best, lost at gamma = 1}.

    length None: Eq. 21 as printed, kappa = 0 and |z| = 1, solved for q (F alone is ignored).
    A number: |z|, with |cM| = |z| c1, the length least squares gives; solved for kappa."""
    q, c1, both = TABLE[direction]
    if length is None:
        a, kappa, q = c1, 0.0, both * np.sqrt(1 + c1**2) - c1**2
    else:
        a = length * c1
        kappa = (((a * c1 + q) / both) ** 2 - a**2 - 1) / (2 * a)
    best, star = best_cosine(c1, q, kappa), gamma_star(*vectors(a, c1, q, kappa))
    return {"q": q, "kappa": kappa, "gamma_star": star, "best": best, "lost": best - both}


# ---------------------------------------------------------------------------------------------
# G6, G7: what a sample is worth


def scatter(g, R, mu):
    """Unit vectors of mean exactly R mu: R mu + sqrt(1 - R^2) v, where v is uniform on the unit
    vectors orthogonal to mu; mu (N, h2), rows unit; g a torch.Generator."""
    v = torch.randn(mu.shape, generator=g, dtype=torch.float64)
    v = fn.normalize(v - (v * mu).sum(1, keepdim=True) * mu, dim=1)
    return R * mu + (1 - R**2) ** 0.5 * v


def averaged(R, K=1):
    """Mean cosine of z with the mean of K samples of p(z|c): R / sqrt(1 + (1 - R^2) / (K R^2)).

    Best of all: E[cos(z, x)|c] = R mu.x <= R for any unit x made from c. z . (mean of K) is R^2 on
    average, its squared length R^2 + (1 - R^2) / K: exact for K = 1 (R^2) and as K grows (R).
    Raises ValueError for R outside (0, 1] or K < 1."""
    need((np.asarray(R) > 0) & (np.asarray(R) <= 1), f"R = {R}: it must be in (0, 1]")
    need(np.asarray(K) >= 1, f"K = {K}: at least one sample is needed")
    return R / np.sqrt(1 + (1 - R**2) / (K * R**2))


def samples(R=C1, Ks=(1, 2, 4, 8, 16), h2=512, N=1000, seed=0):
    """{K: (mean cosine, standard error)} of z and the mean of K samples, in the scatter model."""
    g = torch.Generator().manual_seed(seed)
    mu = torch.eye(1, h2, dtype=torch.float64).expand(N, h2)  # any other is a rotation of it
    z, total, out = scatter(g, R, mu), 0.0, {}
    for K in range(1, max(Ks) + 1):
        total = total + scatter(g, R, mu)
        x = cos(z, total)
        out[K] = x.mean().item(), (x.std() / N**0.5).item()
    return {K: out[K] for K in Ks}


def curved_mean(bend=2.0, R=C1, Ks=(1, 16), h2=24, N=10_000, seed=0):
    """mu(c) on a circle at the angle bend c, c uniform in [-1, 1]; cM least squares with a bias.

    -> (cosine of cM, {K: of cM + gamma F at best_gamma}); no predictor has more than R."""
    g = torch.Generator().manual_seed(seed)
    c = torch.rand(N, 1, generator=g, dtype=torch.float64) * 2 - 1
    mu = torch.cat([(bend * c).cos(), (bend * c).sin(), torch.zeros(N, h2 - 2)], 1)
    z, with_one = scatter(g, R, mu), torch.cat([c, torch.ones_like(c)], 1)
    cM, both = with_one @ torch.linalg.lstsq(with_one, z).solution, {}
    for K in Ks:
        F = fn.normalize(sum(scatter(g, R, mu) for _ in range(K)))
        both[K] = cos(z, cM + best_gamma(cM, F, z) * F).mean().item()
    return cos(z, cM).mean().item(), both


# ---------------------------------------------------------------------------------------------
# G8: guidance;   G9: samples that differ


def guided_limit(share, omega, R2=0.7):
    """(A, B, cosine) of guided DDIM with exact Gaussian scores and many small steps.

    Per coordinate E|z|^2 = 1: `share` in the common mean m, R2 - share in what c tells, v = 1 - R2
    noise; v0 = 1 - share is the variance about m. In x = z_t / sqrt(alpha_t) DDIM is dx/dsigma =
    eps, sigma^2 = (1 - alpha_t) / alpha_t, linear in x: x = m + A (E[z|c] - m) + B start, where
    B = sqrt(v) (v/v0)^(omega/2), the noise, shrinks, and, with r = v0/v, 1 < A < 1 + omega:
    A = (1 + omega)/2 r^(-omega/2) (r - 1)^-1/2 int_1^r y^(omega/2) (y - 1)^-1/2 dy, y = 1 + u^2.
    Raises ValueError for share outside [0, R2), R2 outside (0, 1), omega outside [0, inf)."""
    need(0 < R2 < 1 and 0 <= share < R2, f"share {share}, R2 {R2}: need 0 <= share < R2 < 1")
    need(0 <= omega < np.inf, f"omega = {omega}: it must be in [0, inf)")
    v, v0, told = 1 - R2, 1 - share, R2 - share
    end = np.sqrt(v0 / v - 1)
    area = integrate.quad(lambda u: 2 * (1 + u * u) ** (omega / 2), 0, end)[0]
    A = (1 + omega) / 2 * (v / v0) ** (omega / 2) / end * area
    B = np.sqrt(v) * (v / v0) ** (omega / 2)
    return A, B, (share + A * told) / np.sqrt(share + A**2 * told + B**2)


def guided(share, omega, steps=50, centre=False, A=1.0, R2=0.7, h2=128, N=500, seed=0):
    """Mean cosine of z with a guided DDIM sample, scores exact. centre: the common mean is taken
    off before the diffusion and put back after; A divides the sample's deviation from it."""
    g, alpha = torch.Generator().manual_seed(seed), make_alpha()
    randn = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    common = fn.normalize(randn(1, h2)) * (share * h2) ** 0.5
    told, v, v0 = (R2 - share) ** 0.5 * randn(N, h2), 1 - R2, 1 - share
    z = common + told + v**0.5 * randn(N, h2)
    # the diffusion sees (z - off) / unit, of mean square 1 a coordinate
    off, unit = (common, v0**0.5) if centre else (0 * common, 1.0)

    def eps(z_t, a_t, mean, var):  # of the best denoiser for N(mean, var I)
        level = a_t * var / unit**2 + 1 - a_t
        return (1 - a_t).sqrt() * (z_t - a_t.sqrt() * (mean - off) / unit) / level

    z_t = randn(N, h2)
    levels = alpha[torch.linspace(len(alpha) - 1, 0, steps + 1).round().long()]
    for a_t, a_s in zip(levels[:-1], levels[1:], strict=True):
        e = guide(eps(z_t, a_t, common + told, v), eps(z_t, a_t, common, v0), omega)
        z_t = ddim_step(z_t, (z_t - (1 - a_t).sqrt() * e) / a_t.sqrt(), a_t, a_s)
    return cos(z, common + (off + unit * z_t - common) / A).mean().item()


def lengths(spread, seed=0, N=5000):
    """Samples with different s and rho, |cM| / sqrt(s) lognormal of this spread: (gamma, mean
    cosine) of gamma_star at the four means, of best_gamma, of a fine sweep."""
    rng = np.random.default_rng(seed)
    s, rho = rng.beta(14, 6, N), rng.normal(0.35, 0.2, N).clip(-0.99, 0.99)
    c1, q = np.sqrt(s), rho * np.sqrt(1 - s)
    cM, F, z = vectors(c1 * np.exp(spread * rng.standard_normal(N)), c1, q, 0.0)
    score = lambda gamma: cos(z, cM + gamma * F).mean().item()
    star = gamma_star(cM, F, z)
    top = max((star * np.geomspace(1e-2, 1e2, 601)).tolist(), key=score)
    return [(gamma, score(gamma)) for gamma in (star, best_gamma(cM, F, z), top)]


# ---------------------------------------------------------------------------------------------
# The verdicts

NEEDS = "needs a condition"


def claims():
    return [f() for f in (g1, g2, g3, g4, g5, g6, g7, g8, g9)]


def g1():
    e_gamma, e_cos, largest, least, mean = unit_model()
    return report.Claim(
        "G1",
        '"We empirically choose gamma = 1.0."',
        "In the paper's own model (unit z, F orthogonal to cM, |cM|^2 = z.cM = s) the best gamma "
        "is z.F = rho sqrt(1 - s), below 1 unless s = 0, rho = 1; there cos^2 = s + rho^2 (1 - s).",
        f"500 random (s, rho), brute force: formulas off by {e_gamma:.0e}, {e_cos:.0e}; largest "
        f"best gamma {largest:.3f}; gamma = 1 costs at least {least:.4f}, on average {mean:.3f}",
        least <= 0,
        max(e_gamma, e_cos) < 1e-4 and largest < 1,
    )


def g2():
    hurts, wrong, helped, s = at_one()
    return report.Claim(
        "G2",
        '"Using both projection matrix and conditional DDIM in Eq. (5) gives the best performance" '
        "(Table 7, at gamma = 1).",
        "In the same model F at gamma = 1 lowers the cosine iff z.F < sqrt(s^2 + s) - s. Where cM "
        f"alone scores above {np.sqrt(s):.4f}, no orthogonal F can help.",
        f"F hurts in {hurts:.1%} of 200000 random (s, rho); the rule is wrong in {wrong}; largest "
        f"sqrt(s) where any F helped: {np.sqrt(helped):.4f}",
        hurts == 0,
        wrong == 0 and 0 < s - helped < 1e-3,
        NEEDS,
    )


def g3():
    error, short, eq21, wrong = general()
    return report.Claim(
        "G3",
        "Eq. 21: the cosine is (s + gamma z.F) / sqrt(s + gamma^2), s = |cM|^2.",
        "That needs |z| = 1, z.cM = |cM|^2 and F orthogonal to cM. Always: (a c1 + gamma q) / "
        "sqrt(a^2 + 2 a gamma kappa + gamma^2), and gamma* = a (q - c1 kappa) / (c1 - q kappa). "
        "A small gamma > 0 helps iff q > c1 kappa.",
        f"random vectors: Eq. 21 off by {eq21:.2f} on average, the general formula by {error:.0e}; "
        f"cosine at gamma_star, 1000 cases, within {short:.0e} of brute force; the iff is wrong in "
        f"{wrong} of 200000",
        eq21 < 1e-9,
        error < 1e-9 and short < 1e-3 and wrong == 0,
        NEEDS,
    )


def g4():
    (groups, ratio, rows), rule = orthogonal(), "F scores {:.4f}, at most {:.4f} if orthogonal"
    most = {d: (q, bound(c1)) for d, (q, c1, _) in TABLE.items()}
    return report.Claim(
        "G4",
        "Eq. 16: gamma F(c) is orthogonal to cM.",
        "Not if Table 7 ablates one model: F orthogonal to cM gives mean cos(z, F) <= sqrt(1 - "
        "mean cos(z, cM)^2), for z of any length. (F alone may have been trained apart.)",
        "; ".join(f"{d}: {rule.format(*pair)}" for d, pair in most.items())
        + f". Random orthogonal F: {groups} of 1000 groups above the bound, the highest at "
        f"{ratio:.3f} of it",
        all(q <= top for q, top in most.values()),
        groups == rows == 0,
    )


def g5():
    lost = {n: [reading(d, n)["lost"] for d in TABLE] for n in (None, 1, 5, 10, 20)}
    unit, long = min(lost[None] + lost[1]), max(lost[5] + lost[10] + lost[20])
    show = lambda n: "gamma* {gamma_star:.2f}, best {best:.4f}".format(**reading("text", n))
    return report.Claim(
        "G5",
        "gamma = 1 with the cosines of Table 7 (text: F .6280, cM .8386, both .8394).",
        "With unit z these cosines put gamma* at 0.35 to 0.4, and gamma = 1 wastes most of F. With "
        "|z| of 5 to 20, |cM| = |z| c1, they put it nearer 1, and the cosine is flat there.",
        f"text: Eq. 21 {show(None)} (rho {reading('text')['q'] / bound(C1):.2f}); |z| = 1 "
        f"{show(1)}; |z| = 10 {show(10)}. Lost at gamma = 1, both directions: unit z at least "
        f"{unit:.3f}, |z| 5 to 20 at most {long:.4f}",
        unit < 5e-3,
        long < 5e-3 < unit,
        NEEDS,
    )


def g6():
    found = samples()
    off = max(abs(x - averaged(C1, K)) / se for K, (x, se) in found.items())
    line = ", ".join(f"{K}: {x:.4f} ({averaged(C1, K):.4f})" for K, (x, _) in found.items())
    return report.Claim(
        "G6",
        "Eq. 6: F(c) is one normalised sample of the conditional DDIM.",
        "An exact sample scores R^2, the mean direction R, the most there is; K averaged samples "
        "R / sqrt(1 + (1 - R^2)/(K R^2)). So an exact sampler scores at least (mean cosine of any "
        "predictor)^2. Table 7's F scores less: it is no exact sampler, even if trained apart.",
        f"R = {C1}, h2 = 512, K: Monte Carlo (formula) {line}; Table 7: {Q} < {C1}^2 = {C1**2:.4f}",
        found[1][0] + 5 * found[1][1] >= C1,
        off < 5 and all(q < c1**2 for q, c1, _ in TABLE.values()),
    )


def g7():
    """One sample F after cM = a mu: c1 = R, q = R^2, kappa = R, so q = c1 kappa: slope 0, gamma* 0;
    cosine R (a + gamma R) / sqrt((a + gamma R)^2 + gamma^2 (1 - R^2)) < R. Any F: see averaged."""
    R, a = np.random.default_rng(0).uniform(0.05, 0.95, (2, 100_000))
    gamma = np.random.default_rng(1).lognormal(size=len(R))
    gain = (cosine(gamma, a, R, R**2, R) - R).max()
    alone, both = curved_mean()
    return report.Claim(
        "G7",
        "Eq. 5: adding gamma F(c) to cM brings z_hat closer to z.",
        "Only through a part of the conditional mean that cM misses. Where cM points along E[z|c], "
        "no F made from c can help, and a sample of p(z|c) hurts at every gamma > 0.",
        f"cM along the mean, a sample: largest change {gain:.0e} in {len(R)} random cases; {C1} -> "
        f"{cosine(1.0, C1, C1, C1**2, C1):.4f} at a = R, gamma = 1. A curved mean: cM {alone:.4f}, "
        f"with 1 sample {both[1]:.4f}, with 16 averaged {both[16]:.4f}, most possible {C1}",
        gain >= 0,
        gain < 0 and alone + 1e-3 < both[1] < both[16] < C1,
        NEEDS,
    )


def g8():
    table = {share: [guided(share, w) for w in OMEGAS] for share in SHARES}
    A, _, exact = guided_limit(0.6, 5)
    centred, undone = guided(0.6, 5, centre=True), guided(0.6, 5, A=A)
    line = "; ".join(f"{k:g}: " + " ".join(f"{x:.3f}" for x in row) for k, row in table.items())
    return report.Claim(
        "G8",
        "Eq. 4: guidance, omega = 5, improves the samples.",
        "With exact scores it shrinks their noise and multiplies their deviation from the common "
        "mean of z by A, 1 < A < 6: harmless only if that mean is 0. To take it off before the "
        "diffusion and back after changes nothing; to divide the deviation by A repairs it.",
        f"cosine at omega 0, 1, 2, 5 by share of the common mean, 50 steps, most possible 0.837: "
        f"{line}. Share 0.6, omega 5 (A = {A:.1f}): centred {centred:.3f}, divided by A "
        f"{undone:.3f}, many steps {exact:.3f}",
        all(row[-1] > row[0] for row in table.values()),
        table[0.0][-1] > table[0.0][0] + 0.05
        and max(table[0.6][-1], centred) < table[0.6][0] - 0.05
        and undone > 0.8,
        NEEDS,
    )


def g9():
    alike, apart = lengths(0.2), lengths(1.0)
    line = lambda rows: "means {:.3f} ({:.4f}), auto {:.3f} ({:.4f}), sweep {:.3f} ({:.4f})".format(
        *sum(rows, ())
    )
    return report.Claim(
        "G9",
        "One gamma and one s stand for all samples (Eq. 5, 21, 23).",
        "gamma* at the mean a, c1, q, kappa is good where |cM| varies little, and too large where "
        "it varies much; so --gamma auto tries a grid around it.",
        f"gamma (cosine), |cM| lognormal, spread 0.2: {line(alike)}; spread 1: {line(apart)}",
        apart[2][1] - apart[0][1] < 1e-3,
        alike[2][1] - alike[0][1] < 1e-3 and apart[2][1] - apart[1][1] < 2e-3,
        NEEDS,
    )


def figure():
    fig = Figure(figsize=(8, 3.4), layout="constrained")
    one, two, three = fig.subplots(1, 3)
    gamma = np.linspace(0, 2, 201)
    for i, rho in enumerate((0.2, 0.5, 0.72, 0.9)):
        q = rho * bound(C1)
        one.plot(gamma, cosine(gamma, C1, C1, q, 0.0), f"C{i}", label=f"rho = {rho}")
        one.plot(q, best_cosine(C1, q, 0.0), f"C{i}o", ms=4)
        one.plot(break_even(C1, C1, q, 0.0), C1, f"C{i}x")
    one.axhline(C1, color="0.7", lw=0.8)
    one.set(xlabel="gamma (dotted: the paper's 1)", ylabel="cos(z, z_hat), s = 0.7033")
    one.set_title("dot: gamma*, cross: break-even", fontsize=9)
    found, K = samples(), np.geomspace(1, 16, 60)
    two.semilogx(K, averaged(C1, K), "C0", base=2, label="K averaged; dots: MC")
    two.plot(list(found), [x for x, _ in found.values()], "C0o", ms=4)
    lines = {
        f"R = {C1}, the paper's cM": C1,
        "R^2, an exact sample": C1**2,
        f"{Q}, the paper's F": Q,
    }
    for (label, y), style in zip(lines.items(), ("k--", "k:", "C3-"), strict=True):
        two.plot([1, 16], [y, y], style, lw=1, label=label)
    two.set(xlabel="K samples averaged", ylabel="cos(z, F)", ylim=(0.45, 0.87))
    two.set_xticks(list(found), list(found))
    two.set_title("what samples are worth", fontsize=9)
    omega = np.linspace(0, 7, 29)
    for i, share in enumerate(SHARES):
        three.plot(omega, [guided_limit(share, w)[2] for w in omega], f"C{i}", label=f"{share:g}")
        three.plot(OMEGAS, [guided(share, w) for w in OMEGAS], f"C{i}o", ms=4)
    three.set(xlabel="omega (dotted: the paper's 5)", ylabel="cos(z, F)", ylim=(0.58, 0.85))
    three.set_title("guidance; dots: 50 DDIM steps", fontsize=9)
    for ax, x in ((one, 1), (three, 5)):
        ax.axvline(x, color="0.4", ls=":")
    for ax, title in ((one, None), (two, None), (three, "share of common mean")):
        ax.legend(fontsize=7, loc="lower left", title=title, title_fontsize=7)
    return fig


# ---------------------------------------------------------------------------------------------
# On a trained run


def curve(held, points=401):
    """(gammas from a/1000 to 1000 a, mean cosine at each), from products of each row."""
    z, cM, F = fn.normalize(held.z), held.cM, held.F
    zM, zF, MF, MM = ((x * y).sum(1) for x, y in ((z, cM), (z, F), (cM, F), (cM, cM)))
    gammas = MM.sqrt().mean() * torch.logspace(-3, 3, points, dtype=torch.float64)
    score = [((zM + g * zF) / (MM + 2 * g * MF + g * g).sqrt()).mean() for g in gammas]
    return gammas.numpy(), torch.stack(score).numpy()


def measured(held):
    """F of K samples is drawn in two steps, as the runs are scored: less spread than exact samples,
    so that K gains less than the formula says, with R = sqrt(cosine at K = 1). The last row is at
    least 0 for an exact sampler."""
    means, (gammas, score) = diagnose(held.z, held.cM, held.F), curve(held)
    predicted, top = means.pop("cosine"), score.max()
    found = {"gamma_star": means.pop("gamma_star")}
    found |= {"best_gamma": best_gamma(held.cM, held.F, held.z), "run's gamma": held.gamma}
    reached = {k: cos(held.z, held.cM + g * held.F).mean() for k, g in {**found, "1": 1.0}.items()}
    table = means | found | {"sweep's gamma": gammas[score.argmax()]}
    table |= {"best cosine predicted": predicted, "sweep's best cosine": top}
    table |= {f"cosine at {name}": x for name, x in reached.items()}
    table["at gamma_star - sweep's best"] = reached["gamma_star"] - top
    torch.manual_seed(0)
    c, z = held.raw_c[:1000], held.z[:1000]
    F = {K: held.translator.parts(c, K=K, steps=2, omega=0.0)[1] for K in (1, 2, 4, 8, 16)}
    sampled = {K: cos(z, x.double()).mean().item() for K, x in F.items()}
    R = max(sampled[1], 1e-6) ** 0.5
    for K, x in sampled.items():
        table |= {f"cos(z, F), K = {K}": x, f"  by R, K = {K}": averaged(R, K)}
    table |= {"R": R, "K = 1 - (best cosine)^2": sampled[1] - max(top, *sampled.values()) ** 2}
    return {quantity: float(x) for quantity, x in table.items()}


def draw(ax, held, direction):
    (gammas, score), star = curve(held), gamma_star(held.cM, held.F, held.z)
    ax.semilogx(gammas, score, "C0")
    marks = {f"gamma_star {star:.3g}": star, f"run's {held.gamma:.3g}": held.gamma, "1": 1.0}
    for (label, gamma), style in zip(marks.items(), ("-", "--", ":"), strict=True):
        ax.axvline(max(gamma, gammas[0]), color="C1", ls=style, label=label)
    ax.set(xlabel="gamma", ylabel="mean cos(z, cM + gamma F)", title=direction)
    ax.legend(fontsize=8)


if __name__ == "__main__":
    sys.exit(report.main("gamma", claims, figure, measured, draw))
