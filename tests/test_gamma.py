"""
theory/gamma.py against closed forms, other routes to the same number, and random cases.
Run: pytest tests/test_gamma.py
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

from closed_form import gamma_star
from theory import gamma as G
from theory import gamma_four_numbers as four_numbers
from theory import gamma_samples, gamma_table7, report

VERDICTS = {f"G{i}": "needs a condition" for i in range(1, 11)}
VERDICTS |= {key: "fails" for key in ("G4", "G6")}


def triples(seed, n, h2=3):
    """Cosines c1, q, kappa of n random triples of vectors; every angle occurs."""
    z, u, F = np.random.default_rng(seed).standard_normal((3, n, h2))
    return row_cosine(z, u), row_cosine(z, F), row_cosine(u, F)


def row_cosine(x, y):
    return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)


def test_every_verdict():
    """Otherwise a verdict has changed, or a corrected statement fails its own check."""
    claims = G.claims()
    assert {c.key: c.verdict for c in claims} == VERDICTS
    assert all(c.corrected_holds for c in claims)
    assert all(str(c.number).isascii() and "nan" not in c.number for c in claims)


# -- the four numbers


def test_cosine_is_that_of_vectors():
    """Otherwise the formula is no cosine: lengths of z and cM, angles and gamma all vary here."""
    rng = np.random.default_rng(3)
    z, cM, F = rng.standard_normal((3, 500, 4)) * np.array([9, 0.3, 1])[:, None, None]
    F /= np.linalg.norm(F, axis=1, keepdims=True)
    gamma, a = rng.lognormal(size=500), np.linalg.norm(cM, axis=1)
    angles = row_cosine(z, cM), row_cosine(z, F), row_cosine(cM, F)
    found = four_numbers.cosine(gamma, a, *angles)
    assert np.allclose(found, row_cosine(z, cM + gamma[:, None] * F), rtol=0, atol=1e-12)


def test_vectors_have_their_numbers():
    """Otherwise gamma_star is asked about other vectors than the numbers say."""
    c1, q, kappa = triples(1, 40)
    cM, F, z = four_numbers.vectors(2.5, c1, q, kappa)
    pairs = ((z, cM, c1), (z, F, q), (cM, F, kappa), (z, z, 1), (F, F, 1), (cM, cM, 6.25))
    for x, y, value in pairs:
        scale = 2.5 if (x is cM) != (y is cM) else 1
        assert np.allclose((x * y).sum(1).numpy(), scale * value, atol=1e-12)


def test_best_cosine_is_the_projection_or_an_end():
    """Otherwise the best is not the supremum: against a sweep, and a projection where inside."""
    c1, q, kappa = triples(2, 3000)
    best = four_numbers.best_cosine(c1, q, kappa)
    assert np.abs(best - four_numbers.sweep(c1, q, kappa)[1]).max() < 1e-9
    inside = (q > c1 * kappa) & (c1 > q * kappa)
    cM, F, z = (x.numpy()[inside] for x in four_numbers.vectors(1.7, c1, q, kappa))
    plane = np.stack([cM, F], 2)  # (n, 3, 2)
    project = plane @ np.linalg.pinv(plane) @ z[:, :, None]
    assert np.allclose(np.linalg.norm(project[:, :, 0], axis=1), best[inside], atol=1e-9)
    assert 500 < inside.sum() < 2500 and (best >= np.maximum(c1, q) - 1e-12).all()


def test_break_even_in_every_case():
    """Otherwise F hurts below the break-even, or helps above it: 10^5 cases, all three kinds."""
    c1, q, kappa = triples(4, 250_000)
    c1, q, kappa = (x[c1 > 0] for x in (c1, q, kappa))
    a, free = np.random.default_rng(5).lognormal(size=(2, len(c1)))
    edge = four_numbers.break_even(a, c1, q, kappa)
    never, always = edge == np.inf, edge == 0
    assert len(edge) > 100_000 and min(never.sum(), always.sum(), (~never & ~always).sum()) > 9000

    def at(gamma, rows):
        return four_numbers.cosine(*(x[rows] for x in (gamma, a, c1, q, kappa)))

    assert (at(free, never) > c1[never]).all() and (at(free, always) < c1[always]).all()
    rows = ~never & ~always
    share = 1 - np.random.default_rng(6).uniform(1e-3, 1, len(edge))
    assert (at(edge * share, rows)[share[rows] > 0] > c1[rows][share[rows] > 0]).all()
    assert (at(edge * (1.001 + free), rows) < c1[rows]).all()
    known = 2 * 0.64 * 0.3 / (0.64 - 0.09)
    assert four_numbers.break_even(0.8, 0.8, 0.3, 0.0) == pytest.approx(known)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: four_numbers.cosine(1, 1, 1.2, 0, 0), "c1 = 1.2"),
        (lambda: four_numbers.cosine(1, 1, 0, np.nan, 0), "q = nan"),
        (lambda: four_numbers.cosine(1, 0, 0.5, 0.5, 0), "a = 0"),
        (lambda: four_numbers.cosine(np.inf, 1, 0.5, 0.5, 0), "gamma = inf"),
        (lambda: four_numbers.best_cosine(0.5, 0.5, -1), "parallel"),
        (lambda: four_numbers.best_cosine(0.9, 0.9, 0.0), "no three vectors"),
        (lambda: four_numbers.break_even(1, -0.1, 0.5, 0), "c1 = -0.1"),
        (
            lambda: four_numbers.diagnose(torch.ones(2, 3), torch.ones(2, 3), torch.ones(3, 2)),
            "shapes",
        ),
        (lambda: four_numbers.diagnose(*torch.eye(3).repeat(3, 1, 1) * 2), "length 1"),
        (
            lambda: four_numbers.diagnose(torch.zeros(2, 3), torch.ones(2, 3), torch.eye(2, 3)),
            "is 0",
        ),
        (lambda: gamma_samples.averaged(1.1), "R = 1.1"),
        (lambda: gamma_samples.averaged(0.5, 0), "K = 0"),
        (lambda: gamma_samples.guided_limit(0.7, 1), "share"),
        (lambda: gamma_samples.guided_limit(0.1, -1), "omega"),
    ],
)
def test_refusals(call, message):
    """Otherwise impossible numbers give an answer."""
    with pytest.raises(ValueError, match=message):
        call()


def test_diagnose_one_row_and_many():
    """Otherwise the four means, gamma* or the best cosine are swapped: one row is exact."""
    cM, F, z = four_numbers.vectors(2.0, 0.6, 0.5, 0.2)
    one = four_numbers.diagnose(7 * z, cM, F)
    star = 2 * (0.5 - 0.12) / (0.6 - 0.1)
    best = ((0.36 + 0.25 - 0.12) / 0.96) ** 0.5
    assert list(one.values()) == pytest.approx([2, 0.6, 0.5, 0.2, star, best], rel=1e-12)
    assert four_numbers.cosine(star, 2, 0.6, 0.5, 0.2) == pytest.approx(best, rel=1e-12)
    many = four_numbers.diagnose(*(torch.cat(x) for x in ((z, z), (cM, 3 * cM), (F, F))))
    assert many["a"] == pytest.approx(4) and many["c1"] == pytest.approx(0.6)


# -- the claims, with other seeds and sizes


def test_gamma_one_is_never_best_in_the_papers_model():
    """Otherwise the closed forms miss the best gamma, or it reaches 1 before s = 0, rho = 1."""
    e_gamma, e_cos, largest, least, _ = four_numbers.unit_model(seed=8, n=321)
    assert e_gamma < 1e-6 and e_cos < 1e-12 and largest < 1 and least > 0
    cM, F, z = four_numbers.vectors(1e-3, 1e-3, (1 - 1e-6) ** 0.5, 0.0)  # s = 1e-6, rho = 1
    assert gamma_star(cM, F, z) == pytest.approx(1, abs=1e-6)


def test_break_even_at_one():
    """Otherwise the rule, or the cosine 0.9152 above which no F helps, is wrong."""
    hurts, wrong, helped, root = four_numbers.at_one(seed=9, n=150_000)
    assert wrong == 0 and 0.7 < hurts < 0.85 and 0 < root - helped < 1e-4
    assert root**0.5 == pytest.approx(0.9152, abs=5e-5)
    for s, sign in ((root - 1e-6, 1), (root + 1e-6, -1)):  # the largest q there is
        gain = four_numbers.cosine(1.0, s**0.5, s**0.5, (1 - s) ** 0.5, 0.0) - s**0.5
        assert np.sign(gain) == sign


def test_eq21_needs_its_conditions():
    """Otherwise Eq. 21 is blamed where it holds, or the general formula fails somewhere."""
    error, short, eq21, wrong = four_numbers.general(seed=10, n=110_000, stars=300, h2=5)
    assert error < 1e-12 and short < 2e-3 and wrong == 0 and eq21 > 0.5
    s, q = 0.5, 0.3
    assert four_numbers.cosine(0.7, s**0.5, s**0.5, q, 0) == pytest.approx(
        (s + 0.7 * q) / (s + 0.49) ** 0.5
    )


def test_table_7_breaks_the_bound_of_eq_16():
    """Otherwise an orthogonal F could score what Table 7 has, or random ones break the bound."""
    for (q, c1, _), most in zip(gamma_table7.TABLE.values(), (0.5447, 0.5725), strict=True):
        assert gamma_table7.bound(c1 - 5e-5) < q - 5e-5 and gamma_table7.bound(c1) == pytest.approx(
            most, abs=5e-5
        )
    rng = np.random.default_rng(11)  # 2000 groups of 60 vectors, seen along cM = e_1, F = e_2
    size, shift = rng.uniform(0, 1, (2, 2000, 1, 5))
    z = rng.standard_normal((2000, 60, 5)) * size / 4 + shift * [1, 1, 0, 0, 0]
    c1, q = np.moveaxis(z / np.linalg.norm(z, axis=-1, keepdims=True), -1, 0)[:2]
    ratio = q.mean(1) / gamma_table7.bound(c1.mean(1))
    assert (q <= gamma_table7.bound(c1) + 1e-12).all() and 0.95 < ratio.max() < 1
    cM, F, z = four_numbers.vectors(1.0, 0.8386, 0.628, 0.2)  # not orthogonal: such vectors exist
    assert four_numbers.diagnose(z, cM, F)["q"] > gamma_table7.bound(0.8386)


@pytest.mark.parametrize("direction", gamma_table7.TABLE)
def test_readings_give_the_table_back(direction):
    """Otherwise the implied rho or kappa does not reproduce the cosine of both at gamma = 1."""
    q, c1, both = gamma_table7.TABLE[direction]
    for length in (None, 1, 5, 10, 20):
        r = gamma_table7.reading(direction, length)
        a = c1 * (length or 1)
        assert four_numbers.cosine(1.0, a, c1, r["q"], r["kappa"]) == pytest.approx(both, rel=1e-12)
        assert four_numbers.cosine(r["gamma_star"], a, c1, r["q"], r["kappa"]) == pytest.approx(
            r["best"]
        )
        assert length is None or r["q"] == q
    assert gamma_table7.reading(direction)["gamma_star"] == pytest.approx(0.392, abs=5e-4)
    assert (
        gamma_table7.reading(direction, 1)["lost"]
        > 0.03
        > 0.003
        > gamma_table7.reading(direction, 10)["lost"]
    )


def test_samples_are_worth_what_the_formula_says():
    """Otherwise R^2, R or the K-average is wrong: Monte Carlo, 5 standard errors, K = 1 exact."""
    for K, (x, se) in gamma_samples.samples(0.7, (1, 3, 9), h2=300, N=1500, seed=12).items():
        assert abs(x - gamma_samples.averaged(0.7, K)) < 5 * se < 0.01
    assert gamma_samples.averaged(0.7) == pytest.approx(0.49) and gamma_samples.averaged(
        0.7, 1e12
    ) == pytest.approx(0.7)
    R = np.random.default_rng(13).uniform(0, 1, (100, 1000))  # R(c) of 1000 conditions
    assert (gamma_samples.averaged(R, 1).mean(1) >= R.mean(1) ** 2).all()  # the calibration test


def test_a_sample_after_the_mean_direction_hurts():
    """Otherwise F could help a perfect cM: Monte Carlo of the formula, and 10^5 cases below R."""
    g = torch.Generator().manual_seed(14)
    R, a = 0.75, 0.6
    mu = fn.normalize(torch.randn(2000, 90, generator=g, dtype=torch.float64))
    z, F = gamma_samples.scatter(g, R, mu), gamma_samples.scatter(g, R, mu)
    assert torch.allclose(z.norm(dim=1), torch.ones(2000).double())
    assert torch.allclose((z * mu).sum(1), torch.full((2000,), R).double())
    for gamma in (0.3, 1.0, 3.0):
        x = fn.cosine_similarity(z, a * mu + gamma * F)
        formula = R * (a + gamma * R) / ((a + gamma * R) ** 2 + gamma**2 * (1 - R**2)) ** 0.5
        assert four_numbers.cosine(gamma, a, R, R**2, R) == pytest.approx(formula, rel=1e-12)
        assert abs(x.mean().item() - formula) < 5 * x.std().item() / 2000**0.5
    R, a, gamma = np.random.default_rng(15).uniform(0.02, 0.98, (3, 120_000))
    assert (four_numbers.cosine(gamma, a, R, R**2, R) < R).all()


def test_only_a_curved_mean_lets_a_sample_help():
    """Otherwise F helps a linear mean, or fails to help a curved one."""
    flat, both = gamma_samples.curved_mean(bend=1e-6, R=0.8, Ks=(4,), h2=20, N=3000, seed=16)
    assert flat == pytest.approx(0.8, abs=2e-3) and both[4] < flat + 1e-3
    alone, both = gamma_samples.curved_mean(bend=2.5, R=0.8, Ks=(1, 8), h2=20, N=3000, seed=17)
    assert alone + 0.005 < both[1] < both[8] - 0.01 and both[8] < 0.8


@pytest.mark.parametrize("share, omega", [(0.0, 5.0), (0.35, 1.5), (0.6, 5.0)])
def test_guided_limit_solves_the_ode(share, omega):
    """Otherwise A or B is wrong: dx/dsigma integrated numerically, and 1 < A < 1 + omega."""
    A, B, _ = gamma_samples.guided_limit(share, omega)
    v, v0, top = 0.3, 1 - share, 1e4

    def slope(sigma, x):  # x[0]: from a start at 0 with E[z|c] - m = 1; x[1]: start only
        guided = (1 + omega) * (x - np.array([1, 0])) / (v + sigma**2)
        return sigma * (guided - omega * x / (v0 + sigma**2))

    x = solve_ivp(slope, (top, 0), [0.0, top], rtol=1e-10, atol=1e-12, method="DOP853").y[:, -1]
    assert x[0] == pytest.approx(A, abs=2e-3) and x[1] == pytest.approx(B, rel=1e-6)
    assert 1 < A < 1 + omega


def test_guided_limit_where_it_is_elementary():
    """Otherwise the quadrature is off: omega = 0 gives R^2, omega = 2 a cubic."""
    assert gamma_samples.guided_limit(0.4, 0) == pytest.approx((1, 0.3**0.5, 0.7), rel=1e-10)
    A, B, value = gamma_samples.guided_limit(0.4, 2, R2=0.8)
    x = (0.6 / 0.2 - 1) ** 0.5
    assert A == pytest.approx(1.5 / x / 3 * (2 * x + 2 * x**3 / 3), rel=1e-10)
    assert B == pytest.approx(0.2**0.5 / 3, rel=1e-10)
    assert value == pytest.approx((0.4 + 0.4 * A) / (0.4 + 0.4 * A**2 + B**2) ** 0.5, rel=1e-10)


def test_guidance_hurts_with_a_large_common_mean():
    """Otherwise the sampler misses its limit, a small common mean hurts too, or centring cures."""
    for share, centre in ((0.0, False), (0.6, False), (0.6, True)):
        many = gamma_samples.guided(share, 5, steps=500, centre=centre, h2=150, N=200, seed=18)
        assert many == pytest.approx(gamma_samples.guided_limit(share, 5)[2], abs=0.012)

    def at(share, omega, **kw):
        return gamma_samples.guided(share, omega, h2=90, N=250, seed=19, **kw)

    assert at(0.0, 5) > at(0.0, 0) + 0.05 and at(0.35, 5) > at(0.35, 0) + 0.02
    assert at(0.6, 5) < at(0.6, 0) - 0.03 and at(0.6, 1) > at(0.6, 0)
    assert at(0.6, 5, A=gamma_samples.guided_limit(0.6, 5)[0]) > at(0.6, 0) + 0.05


def test_means_suffice_only_where_lengths_agree():
    """Otherwise --gamma auto has no reason to search, or searches in the wrong place."""
    star, auto, top = four_numbers.lengths(0.1, seed=20, N=3000)
    assert top[1] - star[1] < 5e-4 and auto[1] >= star[1] - 1e-9
    star, auto, top = four_numbers.lengths(1.0, seed=21, N=3000)
    assert top[1] - star[1] > 0.02 and top[1] - auto[1] < 2e-3 and star[0] > 2 * top[0]


# -- on a run


class Stub:
    """A translator whose F of K samples has cosine averaged(0.8, K) with z."""

    def __init__(self, z):
        self.z = fn.normalize(z)

    def terms(self, c, K, steps, omega):
        assert len(c) == 1000 and steps == 2 and omega == 0.0
        q, z = gamma_samples.averaged(0.8, K), self.z[: len(c)]
        other = fn.normalize(torch.linalg.cross(z, torch.eye(1, 3).double().expand_as(z)))
        return None, (q * z + (1 - q**2) ** 0.5 * other).float()


def test_measured_and_drawn_on_known_answers():
    """Otherwise a run's table or picture says something else than its latents do."""
    cM, F, z = (x.expand(1200, 3) for x in four_numbers.vectors(2.0, 0.6, 0.5, 0.2))
    raw, z = torch.zeros(1200, 4), 5 * z
    held = report.Held(raw, z, cM, F, cM, 0.25, np.arange(9), Stub(z), raw)
    got = G.measured(held)
    best = ((0.36 + 0.25 - 0.12) / 0.96) ** 0.5
    want = {"a": 2, "c1": 0.6, "q": 0.5, "kappa": 0.2, "gamma_star": 1.52, "best_gamma": 1.52}
    want |= {"run's gamma": 0.25, "best cosine predicted": best, "sweep's best cosine": best}
    want |= {"cosine at gamma_star": best, "R": 0.8}
    want |= {
        "K = 1 - (best cosine)^2": 0.64 - gamma_samples.averaged(0.8, 16) ** 2,
        "gamma_star / |z|": 0.304,
    }
    want |= {"cosine at 1": (1.2 + 0.5) / 5.8**0.5, "at gamma_star - sweep's best": 0}
    want |= {f"cos(z, F), K = {K}": gamma_samples.averaged(0.8, K) for K in (1, 2, 4, 8, 16)}
    want |= {f"  by R, K = {K}": gamma_samples.averaged(0.8, K) for K in (1, 2, 4, 8, 16)}
    assert {k: got[k] for k in want} == pytest.approx(want, abs=2e-4)
    assert got["sweep's gamma"] == pytest.approx(1.52, rel=0.02)
    assert got["sweep's gamma / |z|"] == pytest.approx(got["sweep's gamma"] / 5)
    assert got["cosine at run's gamma"] == pytest.approx(1.325 / 4.2625**0.5, abs=1e-9)
    ax = Figure().subplots()
    G.draw(ax, held, "text->image")
    x, y = ax.lines[0].get_data()
    assert x[y.argmax()] == pytest.approx(1.52, rel=0.02) and y.max() == pytest.approx(best, 1e-4)
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == pytest.approx([1.52, 0.25, 1])


def test_figure_marks_the_papers_choices():
    """Otherwise a panel lacks gamma = 1, omega = 5, or Table 7's F."""
    one, two, three = G.figure().axes
    marked = [{tuple(line.get_xdata()) for line in ax.lines} for ax in (one, three)]
    assert (1, 1) in marked[0] and (5, 5) in marked[1]
    assert any(list(line.get_ydata()) == [0.628, 0.628] for line in two.lines)


# -- rows of length 1 / sqrt(B)


def test_rows_of_one_over_root_B_hardly_count():
    """Otherwise an F with Normalize over the whole batch does more, or less, than G10 says."""
    printed = {"text": 0.0008, "image": 0.0034}
    for direction, gain in printed.items():
        assert gamma_table7.gain(direction) == pytest.approx(gain, abs=1e-9)
        assert gamma_table7.useless(direction, 1.0) < -0.06
        for B in (gamma_table7.TABLES, gamma_table7.TRAINING):
            assert -0.001 < gamma_table7.useless(direction, B**0.5) < 0
        least, most = gamma_table7.reach(direction, gamma_table7.TABLES**0.5)
        assert -0.005 < least < gain < most < 0.0155
    # A batch whose rows are unit vectors times 1 / sqrt(B) is the formula itself.
    assert gamma_table7.whole_batch_error(B=64, spread=0.0) < 1e-12
    assert gamma_table7.whole_batch_error(B=4096, spread=0.3, seed=5) < 1e-4


def test_whole_batch_is_no_normalize_of_rows():
    """Otherwise rows have length 1, or one row's length depends on the number of columns."""
    x = gamma_table7.whole_batch(np.array([[3.0, 0.0], [0.0, 4.0]]))
    assert np.allclose(x, [[0.6, 0.0], [0.0, 0.8]])
    many = gamma_table7.whole_batch(np.random.default_rng(22).standard_normal((2048, 400)))
    length = np.linalg.norm(many, axis=1)
    assert (length**2).sum() == pytest.approx(1)
    assert length.mean() == pytest.approx(2048**-0.5, rel=2e-3)


@pytest.mark.parametrize("length", [1.0, 16.0, 45.0])
@pytest.mark.parametrize("direction", gamma_table7.TABLE)
def test_reach_bounds_every_F(direction, length):
    """Otherwise some vectors with the table's c1 and q move the cosine further."""
    q, c1, _ = gamma_table7.TABLE[direction]
    least, most = gamma_table7.reach(direction, length)
    # All F with cos(z, F) = q, by the angle at which they stand around z = e_1.
    angle = np.linspace(0, 2 * np.pi, 2001)
    z, cM = np.eye(3)[0], length * c1 * np.array([c1, (1 - c1**2) ** 0.5, 0])
    around = (1 - q**2) ** 0.5
    F = np.stack([q + 0 * angle, around * np.cos(angle), around * np.sin(angle)], 1)
    added = row_cosine(z + 0 * F, cM + F) - c1
    assert added.min() == pytest.approx(least, abs=1e-6)
    assert added.max() == pytest.approx(most, abs=1e-6)
    # The one with q = c1 kappa is among them.
    kappa = row_cosine(cM + 0 * F, F)
    rising = slice(1000, None, -1)  # from the far side of z to cM's: kappa grows
    found = np.interp(q / c1, kappa[rising], added[rising])
    assert found == pytest.approx(gamma_table7.useless(direction, length), abs=1e-4)


@pytest.mark.parametrize(
    "bug",
    [
        lambda x: x / np.linalg.norm(x, axis=1, keepdims=True),  # rows, as printed
        lambda x: x / np.abs(x).sum(),  # sums, not squares
        lambda x: x / np.linalg.norm(x) ** 2,  # without the root
    ],
)
def test_a_wrong_normalize_fails_the_claim(bug, monkeypatch):
    """Otherwise G10 would be true of any Normalize."""
    assert gamma_table7.claim_G10().corrected_holds
    monkeypatch.setattr(gamma_table7, "whole_batch", bug)
    assert not gamma_table7.claim_G10().corrected_holds
