"""
theory/proposition1.py: Proposition 1 of MT against mpmath, and against other Monte Carlo than its
own. Run: pytest tests/test_proposition1.py

Each verdict is tested both ways: the printed statement fails where the script says so, and the
corrected one holds. All sizes differ, so that a swapped axis cannot pass.
"""

import mpmath as mp
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from theory import proposition1 as p1
from theory import proposition1_at_least as at_least
from theory import proposition1_formulas as formulas
from theory import proposition1_value as value
from theory import report
from theory.proposition1_formulas import H2, S, general, printed, probability, tail

mp.mp.dps = 40
VERDICTS = {f"P{i}": "fails" for i in range(1, 10)}
VERDICTS |= {key: "needs a condition" for key in ("P4", "P5", "P6", "P7")}


def exact(b, exponent):
    """P(u >= b) of the density (1 - u^2)^exponent, b > 0, by 40-digit incomplete beta functions."""
    return mp.betainc(exponent + 1, 0.5, 0, 1 - mp.mpf(b) ** 2, regularized=True) / 2


def close(value, reference, rel=1e-10):
    return abs(mp.mpf(float(value)) / reference - 1) < rel


# -- formulas


def test_tail_against_mpmath():
    """Otherwise the repaired Eq. 22 is wrong: its exponent is (n - 3) / 2, mirrored for b < 0."""
    for n in (2, 3, 9, 342, 512, 4096, 10**6):
        for b in (1e-6, 1e-3, 0.03, 0.4):
            if tail(b, n) > 1e-300:
                assert close(tail(b, n), exact(b, (mp.mpf(n) - 3) / 2))
                assert tail(-b, n) == pytest.approx(1 - tail(b, n), rel=1e-14)
    b = np.linspace(-1, 1, 41)
    assert tail(b, 2) == pytest.approx(np.arccos(b) / np.pi, abs=1e-12)
    assert tail(b, 3) == pytest.approx((1 - b) / 2, abs=1e-12)
    assert tail([-1.0, -0.5, 0.5, 1.0, 1.1], 1).tolist() == [1, 0.5, 0.5, 0.5, 0]  # a coin
    assert tail([-9.0, 9.0], 5).tolist() == [1, 0]


@pytest.mark.parametrize("h2, gamma, s, alpha", [(7, 0.4, 0.5, 0.8), (343, 2.0, 0.1, 0.2)])
def test_printed_and_corrected_against_their_definitions(h2, gamma, s, alpha):
    """Otherwise `printed` is not Eq. 23, or `probability` not the formula with sqrt(1 - s)."""
    root, h = mp.sqrt(s + gamma**2), mp.mpf(h2)
    beta = (alpha * root - s) / gamma
    ratio = mp.gamma(h / 2 + 0.5) / mp.gamma(h / 2) / mp.sqrt(mp.pi)
    integral = mp.quad(lambda u: (1 - u**2) ** (h / 2 - 1), [-1, 0, beta])
    assert close(printed(alpha, gamma, s, h2), 1 - ratio * integral)
    for k in (1, 4):
        right = exact(beta / mp.sqrt(1 - s), (h - k - 3) / 2)
        assert close(probability(alpha, gamma, s, h2, k), right)


def test_stable_everywhere():
    """Otherwise a value leaves [0, 1] or rises with alpha, or s = 0 or s = 1 divides by zero."""
    low, high, rise = value.stable()
    assert low == 0 and high == 1 and rise < 1e-12
    p = probability(np.linspace(-1, 1, 501), 0.3, 0.6, np.array([[3], [70], [10**7]]))
    assert p.shape == (3, 501) and np.isfinite(p).all() and (np.diff(p) <= 0).all()
    alpha = np.linspace(-1, 1, 21)
    assert probability(alpha, 0.7, 0.0, 6, 2) == pytest.approx(tail(alpha, 4), rel=1e-12)
    assert (probability(alpha, 0.7, 1.0, 6) == (alpha <= 1 / np.sqrt(1 + 0.7**2))).all()


def test_typed_in_overflows():
    """Otherwise Eq. 23 with Gamma functions works at h2 = 512, and beta needs no clipping."""
    assert value.naive(0.1, 342) == pytest.approx(tail(0.1, 343), rel=1e-6)
    assert not np.isfinite([value.naive(0.1, h2) for h2 in (343, 344, 512)]).any()
    assert value.naive(2.0, 8) == pytest.approx(6.0625) and tail(2.0, 9) == 0


# -- against the construction, made here in another way


def rotated(gamma, s, h2, k, N, seed, length=1.0, drift=0.0, kappa=0.0, a=None):
    """Cosines of one z and N vectors F in a random basis Q, whose first k columns span c M's side.

    drift > 0 scatters F about r instead of evenly."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(h2, h2)))[0]
    inside, outside = Q[:, :k] @ rng.normal(size=k), Q[:, k:] @ rng.normal(size=h2 - k)
    inside, outside = inside / np.linalg.norm(inside), outside / np.linalg.norm(outside)
    Pz, r = length * np.sqrt(s) * inside, length * np.sqrt(1 - s) * outside
    F = rng.normal(size=(N, h2 - k)) @ Q[:, k:].T + drift * outside
    F /= np.linalg.norm(F, axis=1)[:, None]
    F = kappa * inside + np.sqrt(1 - kappa**2) * F
    z, z_hat = Pz + r, (Pz if a is None else a * inside) + gamma * F
    return z_hat @ z / np.linalg.norm(z) / np.linalg.norm(z_hat, axis=1)


@pytest.mark.parametrize("gamma, s, h2, k", [(1.0, 0.7, 6, 1), (0.4, 0.6, 19, 7), (2.5, 0.5, 4, 2)])
def test_corrected_value_against_the_construction(gamma, s, h2, k):
    """Otherwise the corrected Eq. 23 is not the probability in the proposition's own model."""
    x = rotated(gamma, s, h2, k, 30_000, seed=h2)
    alpha = formulas.alpha_at([-1.5, -0.5, 0.5, 1.5], gamma, s, h2, k)
    assert (formulas.errors(x, alpha, probability(alpha, gamma, s, h2, k)) < 5).all()
    assert formulas.errors(x, alpha, printed(alpha, gamma, s, h2)).max() > 10
    assert x.std() == pytest.approx(alpha[3] / 3 - alpha[0] / 3, rel=0.03)  # 3 sd apart


def test_lengths_and_angles_against_the_construction():
    """Otherwise |z|, |c M| or cos(c M, F) enters wrongly; gamma / |z| is what counts."""
    alpha = np.array([0.6, 0.7, 0.8])
    x = rotated(3.0, 0.55, 11, 1, 30_000, seed=1, length=7.0)
    assert (formulas.errors(x, alpha, probability(alpha, 3.0 / 7, 0.55, 11)) < 5).all()
    assert formulas.errors(x, alpha, probability(alpha, 3.0, 0.55, 11)).max() > 10
    same = general(alpha, 3.0, 7 * np.sqrt(0.55), np.sqrt(0.55), 0.0, 10)
    assert same == pytest.approx(probability(alpha, 3.0 / 7, 0.55, 11), rel=1e-10)
    for a, kappa in ((2.0, 0.5), (5.0, -0.6)):
        x = rotated(3.0, 0.55, 11, 1, 30_000, seed=2, length=7.0, kappa=kappa, a=a)
        assert (
            formulas.errors(x, alpha, general(alpha, 3.0, a, np.sqrt(0.55), kappa, 10)) < 5
        ).all()


# -- verdicts, both ways


def test_eq_22_is_one_dimension_off():
    """Otherwise the density of Eq. 22 fits vectors of R^d: it fits those of R^(d+1)."""
    for d, seed in ((2, 5), (3, 6), (5, 7)):
        u, p_printed, p_right = value.inner_products(d, seed=seed)
        assert p_printed < 1e-6 and p_right > 1e-3
        assert u.var() == pytest.approx(1 / d, rel=0.05)


def test_printed_is_no_lower_bound():
    """Otherwise Eq. 23 is not too high where it says less than 1/2, or is where it says more."""
    points, violations = at_least.signs()
    assert points >= 1e5 and violations == 0
    alpha = formulas.alpha_at(2, 1.0, S, H2)
    times = printed(alpha, 1.0, S, H2) / probability(alpha, 1.0, S, H2)
    assert times == pytest.approx(6.07, abs=0.01)
    assert printed(0.8394, 1.0, S, H2) == pytest.approx(1.19e-20, rel=0.01)
    assert probability(0.8394, 1.0, S, H2) == pytest.approx(2.89e-83, rel=0.01)
    alpha = formulas.alpha_at(-1, 1.0, S, H2)
    assert 0.5 < printed(alpha, 1.0, S, H2) < probability(alpha, 1.0, S, H2)
    # its condition matters: with k = 48 of 64 and a small s there are exceptions
    alpha = np.linspace(0.4 / np.sqrt(0.65) + 1e-3, 1, 99)
    assert (printed(alpha, 0.5, 0.4, 64) < probability(alpha, 0.5, 0.4, 64, 48)).any()


def test_at_least_needs_dominance():
    """Otherwise the corrected value bounds every F; it bounds those scattered about r."""
    cases, margin = at_least.better_laws(dims=(5, 40), laws=150, seed=3)
    assert cases >= 1e5 and margin > -1e-12
    alpha = formulas.alpha_at(np.linspace(-2, 2, 9), 0.5, 0.6, 13)
    bound = probability(alpha, 0.5, 0.6, 13)
    for drift in (0.0, 0.5, 2.0):
        p = formulas.frequency(rotated(0.5, 0.6, 13, 1, 20_000, 4, drift=drift), alpha)
        assert (p >= bound - 5 * np.sqrt(0.25 / 20_000)).all() and (drift < 1 or p.min() > 0.3)
    rho = np.where(np.random.default_rng(0).random(5000) < 0.3, 0.9, -0.2)
    x = (0.7 + 0.3 * np.sqrt(0.3) * rho) / np.sqrt(0.79)
    assert rho.mean() > 0.1 and formulas.frequency(x, 0.78) < 0.33 < printed(0.78, 0.3, 0.7, H2)


def test_samples_and_directions_differ():
    """Otherwise the mean s, or n = h2 - k for uneven residuals, would do."""
    s = np.random.default_rng(8).uniform(0.2, 0.9, 15_000)
    x = formulas.construct(0.5, s, 21, N=15_000, seed=9)
    assert formulas.errors(x, 0.7, probability(0.7, 0.5, s, 21).mean()) < 5
    assert formulas.errors(x, 0.7, probability(0.7, 0.5, s.mean(), 21)) > 10
    p, n_eff = value.uneven(power=1.0, n=90, N=20_000, seed=10)
    assert n_eff < 30 and abs(tail(0.1, n_eff) - p) < 0.02 < p - tail(0.1, 90) - 0.05
    assert value.uneven(power=0.0, n=90, N=20_000, seed=11)[1] == pytest.approx(90, rel=0.05)


def test_best_gamma():
    """Otherwise some gamma > 0 beats gamma = 0 below sqrt(s), or sqrt(alpha^2 - s) above it."""
    assert at_least.gammas(seed=12)[0] == 0
    grid = np.linspace(1e-4, 2, 20_000)
    for alpha, s, h2, k in ((0.6, 0.3, 8, 1), (0.9, 0.75, 30, 4)):
        p, (gamma, highest) = probability(alpha, grid, s, h2, k), at_least.best(alpha, s, h2, k)
        assert grid[p.argmax()] == pytest.approx(gamma, abs=2e-4) and 0 < highest < 0.5
        assert p.max() == pytest.approx(highest, rel=1e-6)
        assert gamma**2 == pytest.approx(alpha**2 - s)
    x = rotated(0.6, 0.5, 9, 1, 20_000, seed=16)  # and it pays on average
    assert abs(x.mean() - 0.5 / np.sqrt(0.5 + 0.36)) < 5 * x.std() / 20_000**0.5
    assert at_least.best(0.83, S, H2) == (0, 1) and probability(0.83, 1e-3, S, H2) == 1
    assert at_least.best(-0.9, 0.3, 5) == (0, 1)


def test_guarantee_covers():
    """Otherwise the held-out bound is above the truth more often than delta, or far too low."""
    assert at_least.dkw(40_000, 0.05) == pytest.approx(0.0061194, abs=1e-7)
    assert 0.945 < at_least.coverage(N=150, seed=13) < 0.965
    assert at_least.coverage(N=150, seed=13, copies=5) < 0.6
    alphas = np.linspace(0, 1, 201)
    truth = probability(alphas, 0.8, 0.5, 9)
    x = formulas.construct(0.8, 0.5, 9, N=60 * 2000, seed=14).reshape(2000, 60)
    right = np.mean([(at_least.guarantee(row, alphas, 0.2) <= truth).all() for row in x])
    assert 0.8 - 5 * np.sqrt(0.16 / 2000) < right < 0.9
    want = [
        1 - at_least.dkw(2, 0.5),
        0.5 - at_least.dkw(2, 0.5),
        0,
    ]  # cos >= alpha includes alpha itself
    assert at_least.guarantee([0.3, 0.5], [0.2, 0.5, 0.6], 0.5).tolist() == pytest.approx(want)


def test_claims_and_figure():
    """Otherwise a verdict changed, or a corrected statement fails its own check."""
    claims = p1.claims()
    assert {c.key: c.verdict for c in claims} == VERDICTS
    assert all(c.corrected_holds is True and c.printed_holds is False for c in claims)
    assert len(p1.figure().axes) == 3


# -- on a run


def test_measured_on_known_latents():
    """Otherwise a length, an angle or the independent rows of a run are read wrongly."""
    N, h2, gamma, c1, kappa = 12, 7, 2.0, 0.8, 0.3
    rng = np.random.default_rng(15)
    Q = np.stack([np.linalg.qr(rng.normal(size=(h2, h2)))[0][:3] for _ in range(N)])
    u, w, v = Q[:, 0], Q[:, 1], Q[:, 2]
    rho = np.tile([0.5, -0.1], N // 2)[:, None]
    length, a = rng.uniform(1, 9, (N, 1)), rng.uniform(3, 4, (N, 1))
    z = length * (c1 * u + 0.6 * w)
    F = kappa * u + np.sqrt(1 - kappa**2) * (rho * w + np.sqrt(1 - rho**2) * v)
    z, cM, F = (torch.from_numpy(x) for x in (z, a * u, F))
    held = report.Held(None, z, cM, F, None, gamma, np.arange(0, N, 3), None, None)
    rows = p1.measured(held)
    assert rows["s = cos(z, cM)^2, mean"] == pytest.approx(c1**2)
    assert rows["kappa = cos(cM, F), mean"] == pytest.approx(kappa)
    assert rows["rho, mean"] == pytest.approx(0.2) and rows["rho, std"] == pytest.approx(0.3)

    def away(x, y):
        return x - (x @ y) / (y @ y) * y

    # of row i and the F of row i - 6
    pairs = [(away(z[i], cM[i]), away(F[i - 6], cM[i])) for i in range(N)]
    other = np.array([torch.cosine_similarity(x, y, dim=0).item() for x, y in pairs])
    assert rows["rho with another's F, mean"] == pytest.approx(other.mean())
    assert rows["n_eff = 1 / Var(rho with another's F)"] == pytest.approx(1 / other.var())
    assert rows["h2 - 1"] == 6
    cos = torch.cosine_similarity(z, cM + gamma * F).numpy()
    alpha = rows["alpha at median of the cosine"]
    assert alpha == pytest.approx(np.median(cos), abs=0.005)
    P = {name: rows[f"  P(cos >= median), {name}"] for name in p1.curves(held, [alpha])}
    assert P["measured"] == pytest.approx(np.mean(cos >= alpha))
    p_hat = np.mean(cos[::3] >= alpha)
    assert P["DKW bound"] == pytest.approx(max(0, p_hat - np.sqrt(np.log(20) / 8)))
    assert P["general"] == pytest.approx(general(alpha, gamma, a, c1, kappa, 6).mean())
    assert P["corrected"] == pytest.approx(probability(alpha, gamma / length, c1**2, 7).mean())
    assert P["printed"] == pytest.approx(printed(alpha, gamma / length, c1**2, 7).mean())
    ax = Figure().subplots()
    p1.draw(ax, held, "text->image")
    assert len(ax.lines) == 5


BAD = [
    (lambda: probability(0.5, 1, 1.1, 8), r"s = 1.1: must be in \[0, 1\]"),
    (lambda: printed(0.5, 1, -0.1, 8), r"s = -0.1: must be in \[0, 1\]"),
    (lambda: probability(0.5, 1, 0.5, 1), r"h2 = 1: must be in \[2, inf\)"),
    (lambda: probability(0.5, 0, 0.5, 8), r"gamma = 0: must be in \(0, inf\)"),
    (lambda: probability(0.5, 1, 0.5, 8, 8), r"k = 8: must be in \[1, h2 - 1\]"),
    (lambda: probability([0.5, np.nan], 1, 0.5, 8), "alpha = nan: must be in"),
    (lambda: probability(0.5, 1, np.array([0.1, np.nan]), 8), r"s = nan: must be in \[0, 1\]"),
    (lambda: probability(0.5, np.ones((2, 2)), 0.5, [8, 1]), r"h2 = 1: must be in \[2, inf\)"),
    (lambda: tail(0.5, 0.5), "dimension n = 0.5"),
    (lambda: tail(np.nan, 5), "b = nan"),
    (lambda: general(0.5, 1, 1, 1.2, 0, 5), r"c1 = 1.2: must be in \[-1, 1\]"),
    (lambda: general(0.5, 1, 1, 0.2, np.nan, 5), "kappa = nan"),
    (lambda: general(0.5, 1, -1, 0.2, 0, 5), "a = -1"),
    (lambda: at_least.dkw(9, 0.7), r"delta = 0.7: must be in \(0, 1/2\]"),
    (lambda: at_least.guarantee(np.zeros((3, 2)), 0.5), r"shape of the cosines = \(3, 2\)"),
    (lambda: at_least.guarantee([], 0.5), r"cosines = \(0,\): must be \(N,\)"),
    (lambda: at_least.guarantee([0.1, np.nan], 0.5), "a cosine = nan"),
    (lambda: at_least.guarantee([0.1], np.nan), "alpha = nan"),
]


@pytest.mark.parametrize("call, message", BAD)
def test_bad_input(call, message):
    """Otherwise bad numbers give a probability instead of one clear line."""
    with pytest.raises(ValueError, match=message):
        call()
