"""
gamma.py: how much F may weigh in z_hat = c M + gamma F, and what F is worth in cosine.

Papers   [MT] Eq. 4-6 and 15-21; gamma = 1.0 and guidance 5.0 (Section 4.3); Table 7
Uses     four numbers: a = |cM| and cosines c1 of z, cM;  q of z, F;  kappa of cM, F
Map      cosine, best_cosine, break_even   from the four; gamma* is gamma_star of ddim_translator.py
         diagnose                          from vectors
         unit_model G1   at_one G2   general G3   bound G4   reading G5
         averaged, samples G6   curved_mean G7   guided_limit, guided G8   lengths G9
         claims, figure   the verdicts;   measured, draw: on a trained run
Letters  s = |cM|^2 = z.cM where z is unit   rho = q / sqrt(1 - s)   E[z/|z| | c] = R mu, mu unit
         K samples averaged   n, N random cases   lost: best minus reached
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
from theory.report import NEEDS, listed, need

# MT Table 7, MS-COCO, ViT-B/32: cosines of F alone ("w/o Projection"), of cM alone, of both
TABLE = {"text": (0.6280, 0.8386, 0.8394), "image": (0.6155, 0.8199, 0.8233)}
Q, C1 = TABLE["text"][:2]
cos = fn.cosine_similarity
SHARES, OMEGAS = (0.0, 0.35, 0.6), (0, 1, 2, 5)

# ---------------------------------------------------------------------------------------------
# The cosine of a sum, from four numbers. Numbers, or arrays that broadcast


def check(c1, q, kappa, a=1.0):
    """Three vectors with these cosines exist iff their Gram matrix has no negative eigenvalue,
    which for cosines in [-1, 1] says that its determinant is >= 0."""
    for name, x in {"c1": c1, "q": q, "kappa": kappa}.items():
        need(np.abs(x) <= 1 + 1e-9, name + " = {}: a cosine is in [-1, 1]", x)
    need(np.abs(kappa) < 1, "kappa is 1 or -1: F must not be parallel to c M")
    need(np.isfinite(a) & (np.asarray(a) > 0), "a = {}: the length of c M must be above 0", a)
    det = 1 + 2 * c1 * q * kappa - c1**2 - q**2 - kappa**2
    need(det > -1e-9, f"no three vectors have cosines c1 = {c1}, q = {q}, kappa = {kappa}")


def cosine(gamma, a, c1, q, kappa):
    """cos(z, cM + gamma F) = (a c1 + gamma q) / sqrt(a^2 + 2 a gamma kappa + gamma^2).

    No orthogonality, any lengths of z and cM; F is unit. Raises ValueError: see check."""
    check(c1, q, kappa, a)
    need(np.isfinite(gamma), "gamma = {}: it must be finite", gamma)
    return (a * c1 + gamma * q) / np.sqrt(a**2 + 2 * a * gamma * kappa + gamma**2)


def best_cosine(c1, q, kappa):
    """The supremum of cosine() over gamma >= 0, whatever a is. Raises ValueError: see check.

    At gamma*, where z_hat is along the projection of z onto the plane of cM and F, or at an end:
    c1 at gamma = 0, q at infinity. Proof: README, G1."""
    check(c1, q, kappa)
    inside = (q > c1 * kappa) & (c1 > q * kappa)
    in_plane = np.sqrt((c1**2 + q**2 - 2 * c1 * q * kappa) / (1 - kappa**2))
    return np.where(inside, in_plane, np.maximum(c1, q))[()]


def break_even(a, c1, q, kappa):
    """The gamma above which cM + gamma F has a lower cosine than cM: 0 always, inf never.

    Where c1 kappa < q < c1 it is 2 a c1 (q - c1 kappa) / (c1^2 - q^2). Proof: README, G2.
    Raises ValueError for c1 <= 0, where cM itself points away from z, or see check."""
    check(c1, q, kappa, a)
    need(np.asarray(c1) > 0, "c1 = {}: a break-even needs cos(z, cM) above 0", c1)
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
    """The paper's own model: unit z, F orthogonal to cM, |cM|^2 = z.cM = s. There gamma* is q =
    rho sqrt(1 - s) < 1 or, if that is negative, 0; and its cosine sqrt(s + gamma*^2).

    -> errors of the two against brute force; largest best gamma; smallest, mean lost at gamma 1."""
    s, rho = np.random.default_rng(seed).uniform([[0.01], [-0.99]], 0.99, (2, n))
    a, q = np.sqrt(s), rho * np.sqrt(1 - s)
    gamma, top = sweep(a, q, 0 * q)
    lost, star = top - cosine(1.0, a, a, q, 0.0), np.maximum(q, 0)
    errors = np.abs(gamma * a - star).max(), np.abs(top - np.sqrt(s + star**2)).max()
    return *errors, (gamma * a).max(), lost.min(), lost.mean()


def at_one(seed=0, n=200_000):
    """In the same model gamma = 1 hurts iff q < sqrt(s^2 + s) - s. Proof: README, G2.

    -> share of random (s, rho) where it hurts; cases against the rule; largest s where F helped;
    the root of 4 s^3 - 4 s + 1, above which no F can help at gamma = 1."""
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
    top = sweep(c1[k], q[k], kappa[k])[1]
    reached = cos(z[k], cM[k] + torch.tensor(star) * F[k]).numpy()
    off = lambda x, y: np.abs(x - y).max()
    errors = off(cosine(1.0, a, c1, q, kappa), exact), off(top, reached)
    return *errors, np.abs(eq21 - exact).mean(), int((helps != (slope > 0)).sum())


# ---------------------------------------------------------------------------------------------
# G4, G5: what Table 7 says


def bound(c1):
    """The most that mean cos(z, F) can be if each F is orthogonal to its cM, for z of any length;
    c1 = mean cos(z, cM). Proof: README, G4."""
    return np.sqrt(1 - c1**2)


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

    Exact for K = 1 (R^2) and as K grows (R, the most there is). Proof: README, G6.
    Raises ValueError for R outside (0, 1] or K < 1."""
    need((np.asarray(R) > 0) & (np.asarray(R) <= 1), "R = {}: it must be in (0, 1]", R)
    need(np.asarray(K) >= 1, "K = {}: at least one sample is needed", K)
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
    noise; v0 = 1 - share is the variance about m. A sample is m + A (E[z|c] - m) + B start, with
    1 < A < 1 + omega, and B falls with omega. Proof: README, G8; its y is 1 + u^2.
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


def claims():
    return [f() for f in (g1, g2, g3, g4, g5, g6, g7, g8, g9)]


def g1():
    e_gamma, e_cos, largest, least, mean = unit_model()
    return report.Claim(
        "G1",
        '"We empirically choose gamma = 1.0", read as: 1 is the best gamma.',
        "Not in the paper's own model (unit z, F orthogonal to cM, |cM|^2 = z.cM = s): the best is "
        "z.F = rho sqrt(1 - s) if z.F > 0, else 0; below 1 unless s = 0, rho = 1; and cos^2 there "
        "is s + rho^2 (1 - s), or s. For |z| of 5 to 20 it is about right, or costs little: G5.",
        f"500 random (s, rho), brute force: formulas off by {e_gamma:.0e}, {e_cos:.0e}; largest "
        f"best gamma {largest:.3f}; gamma = 1 costs at least {least:.4f}, on average {mean:.3f}",
        least <= 0,
        max(e_gamma, e_cos) < 1e-4 and largest < 1,
        NEEDS,
    )


def g2():
    hurts, wrong, helped, s = at_one()
    return report.Claim(
        "G2",
        '"Using both projection matrix and conditional DDIM in Eq. (5) gives the best performance" '
        "(Table 7, at gamma = 1).",
        "In the same model F at gamma = 1 lowers the cosine iff z.F < sqrt(s^2 + s) - s. Where cM "
        f"alone scores above {np.sqrt(s):.4f}, no orthogonal F can help at gamma = 1.",
        f"F hurts in {hurts:.1%} of 200000 (s, rho) uniform on [0, 1] x [-1, 1]; the rule is wrong "
        f"in {wrong}; largest sqrt(s) where any F helped: {np.sqrt(helped):.4f}",
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
    """A mean of Gram matrices is one, so with kappa = 0 it has no negative eigenvalue either."""
    most = [(d, q, bound(c1)) for d, (q, c1, _) in TABLE.items()]
    gram = [[[1, c1, q], [c1, 1, 0], [q, 0, 1]] for q, c1, _ in TABLE.values()]
    return report.Claim(
        "G4",
        "Eq. 16: gamma F(c) is orthogonal to cM.",
        "Not if Table 7's rows are one model (F or M may have been trained alone): F orthogonal to "
        "cM gives mean cos(z, F) <= sqrt(1 - mean cos(z, cM)^2), for z of any length.",
        "; ".join(f"{d}: F scores {q:.4f}, orthogonal at most {top:.4f}" for d, q, top in most),
        all(q <= top for _, q, top in most),
        bool((np.linalg.eigvalsh(gram)[:, 0] < 0).all()),
    )


def g5():
    lost = {n: [reading(d, n)["lost"] for d in TABLE] for n in (None, 1, 5, 10, 20)}
    unit, long = min(lost[None] + lost[1]), max(lost[5] + lost[10] + lost[20])
    show = lambda n: "gamma* {gamma_star:.2f}, best {best:.4f}".format(**reading("text", n))
    star = [listed((reading(d, n)["gamma_star"] for n in (5, 10, 20)), ".2f") for d in TABLE]
    return report.Claim(
        "G5",
        "gamma = 1 with the cosines of Table 7 (text: F .6280, cM .8386, both .8394).",
        "With unit z these cosines put gamma* at 0.35 to 0.4, and gamma = 1 wastes most of F. With "
        "|z| of 5 to 20, |cM| = |z| c1, they put it nearer to 1 or beyond, and the cosine is flat.",
        f"text: Eq. 21 {show(None)} (rho {reading('text')['q'] / bound(C1):.2f}); |z| = 1 "
        f"{show(1)}. gamma* at |z| = 5/10/20: text {star[0]}, image {star[1]}. Lost at gamma = 1, "
        f"both: unit z at least {unit:.3f}, |z| 5 to 20 at most {long:.4f}",
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
        "Eq. 6: F(c) is one normalised sample, read as: that is as good as any F.",
        "An exact sample scores R^2, the mean direction R, the most there is; K averaged samples "
        "R / sqrt(1 + (1 - R^2)/(K R^2)). So an exact sampler scores at least (mean cosine of any "
        "predictor)^2. Table 7's F scores less: it is no exact sampler, nor meant to be one at "
        "omega = 5.",
        f"R = {C1}, h2 = 512, K: Monte Carlo (formula) {line}; Table 7: {Q} < {C1}^2 = {C1**2:.4f}",
        found[1][0] + 5 * found[1][1] >= C1,
        off < 5 and all(q < c1**2 for q, c1, _ in TABLE.values()),
    )


def g7():
    """One sample F after cM = a mu has c1 = R, q = R^2, kappa = R. Proof: README, G7."""
    R, a = np.random.default_rng(0).uniform(0.05, 0.95, (2, 100_000))
    gamma = np.random.default_rng(1).lognormal(size=len(R))
    gain = (cosine(gamma, a, R, R**2, R) - R).max()
    alone, both = curved_mean()
    return report.Claim(
        "G7",
        "Eq. 5: adding gamma F(c) to cM brings z_hat closer to z.",
        "Only through a part of the conditional mean that cM misses. Where cM points along E[z/|z| "
        "| c], no F made from c can help, and a sample of p(z|c) hurts at every gamma > 0.",
        f"cM along the mean, a sample: largest change {gain:.0e} in {len(R)} random cases; {C1} -> "
        f"{cosine(1.0, C1, C1, C1**2, C1):.4f} at a = R, gamma = 1. A curved mean, best gamma: cM "
        f"{alone:.4f}, with 1 sample {both[1]:.4f}, with 16 averaged {both[16]:.4f}, most possible "
        f"{C1}",
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
        "If the common mean of z is 0 or small. With exact scores guidance shrinks their noise and "
        "multiplies their deviation from that mean by A, 1 < A < 6. To take that mean off before "
        "the diffusion and put it back after changes nothing; to divide by A repairs it.",
        f"cosine at omega 0, 1, 2, 5 by share of the common mean, 50 steps, most possible 0.837: "
        f"{line}. Share 0.6, omega 5 (A = {A:.1f}): centred {centred:.3f}, divided by A "
        f"{undone:.3f}, many steps {exact:.3f}",
        all(row[-1] > row[0] for row in table.values()),
        min(table[k][-1] - table[k][0] for k in SHARES[:2]) > 0.05
        and max(table[0.6][-1], centred) < table[0.6][0] - 0.05
        and table[0.6][1] > table[0.6][0] + 0.01
        and undone > 0.8,
        NEEDS,
    )


def g9():
    alike, apart = lengths(0.2), lengths(1.0)
    form = "means {:.3f} ({:.4f}), auto {:.3f} ({:.4f}), sweep {:.3f} ({:.4f})"
    line = lambda rows: form.format(*sum(rows, ()))
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
    lines = {f"R = {C1}, the paper's cM": C1, "R^2, an exact sample": C1**2}
    lines |= {f"{Q}, the paper's F": Q}
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
    three.set_title("guidance; lines: small steps, dots: 50", fontsize=8, loc="right")
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
    length = held.z.norm(dim=1).mean()
    predicted, top = means.pop("cosine"), score.max()
    found = {"gamma_star": means.pop("gamma_star")}
    found |= {"best_gamma": best_gamma(held.cM, held.F, held.z), "run's gamma": held.gamma}
    reached = {k: cos(held.z, held.cM + g * held.F).mean() for k, g in {**found, "1": 1.0}.items()}
    table = means | found | {"sweep's gamma": gammas[score.argmax()]}
    table |= {f"{k} / |z|": table[k] / length for k in ("gamma_star", "sweep's gamma")}
    table |= {"best cosine predicted": predicted, "sweep's best cosine": top}
    table |= {f"cosine at {name}": x for name, x in reached.items()}
    table["at gamma_star - sweep's best"] = reached["gamma_star"] - top
    torch.manual_seed(0)
    c, z = held.raw_c[:1000], held.z[:1000]
    F = {K: held.translator.terms(c, K=K, steps=2, omega=0.0)[1] for K in (1, 2, 4, 8, 16)}
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
