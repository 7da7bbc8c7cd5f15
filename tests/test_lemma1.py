"""
theory/lemma1.py: every verdict in both directions, other seeds and sizes than the script's.

Independent evaluations: L1 regression as a linear program, the radius over all vertices, ridge as
a stacked least squares, the joint toy by Adam (squared loss, and the L1 loss of Eq. 8).
"""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.optimize import linprog

from theory import lemma1
from theory import lemma1_inequality as inequality
from theory import lemma1_least_squares as least_squares
from theory.lemma1_inequality import radius
from theory.lemma1_joint_training import conditions, joint, shrunk
from theory.lemma1_least_squares import orthogonality, project
from theory.report import Held, unit

VERDICTS = {f"L{i}": "fails" for i in range(1, 12)}
VERDICTS |= {key: "needs a condition" for key in ("L6", "L7", "L10")}


def test_verdicts():
    """Otherwise a verdict changed, or a corrected statement fails its own check."""
    claims = lemma1.claims()
    assert {c.key: c.verdict for c in claims} == VERDICTS
    assert [c.key for c in claims] == list(VERDICTS)
    assert all(c.corrected_holds for c in claims)


def test_projection_acts_on_samples():
    """Otherwise least squares is not the projection on span[C, 1], or one z could be projected."""
    p = least_squares.projection(N=90, h1=4, h2=6, seed=3)
    assert p["P"] == (90, 90) and max(p["PZ"], p["Xr"]) < 1e-12
    assert p["best_Q"] > 0.1 and p["mean_r_no_bias"] > 0.1
    C, Z = least_squares.linear(70, 3, 5, seed=2)
    X = np.c_[C + 2, np.ones(70)]  # a shift of C changes nothing, thanks to the bias
    np.testing.assert_allclose(project(C, Z), X @ np.linalg.pinv(X) @ Z, rtol=0, atol=1e-10)


def test_orthogonality_on_known_rows():
    """Otherwise an aggregate, a cosine or a miss is not what its name says."""
    z, m = np.array([[2.0, 0, 0], [0, 1, 1]]), np.array([[1.0, 0, 0], [0, 1, 0]])
    found = orthogonality(z, m)  # r.m = 1, 0; cosines 1, 0
    assert found == pytest.approx({"aggregate": 0.5, "mean": 0.5, "std": 0.5, "miss": 0.5})
    for bad in (m[:1], m[:, :2], m * np.nan):
        with pytest.raises(ValueError, match="one shape"):
            orthogonality(z, bad)
    with pytest.raises(ValueError, match="one shape"):
        orthogonality(z[:0], m[:0])


@pytest.mark.parametrize("h2", [11, 90])
def test_per_sample_orthogonality(h2):
    """Otherwise Eq. 19 would hold per sample, or its sum would not, or high dimension cures it."""
    for make in (least_squares.linear, least_squares.saturating):
        C, Z = make(3000, 5, h2, seed=4)
        found = orthogonality(Z, project(C, Z))
        assert abs(found["aggregate"]) < 1e-12 and found["miss"] > 0.001
        if make is least_squares.linear:
            assert abs(found["mean"]) < 5 * found["std"] / 3000**0.5
            assert found["std"] == pytest.approx(h2**-0.5, rel=0.05)
        else:
            assert found["mean"] > 0.5


@pytest.mark.parametrize("h1, h2, left", [(9, 4, 0), (7, 7, 0), (3, 12, 8)])
def test_complement(h1, h2, left):
    """Otherwise F has room where c M fills R^h2, or the bias adds no dimension, or the residual
    avoids the span of c M."""
    size, inside, per_sample = least_squares.complement(h1, h2, N=1500, seed=5)
    assert size == left and per_sample < 1e-12
    assert inside == pytest.approx(1 - left / h2, abs=0.03)


def test_slopes():
    """Otherwise L1 is no median regression: ln 2 and 1 apart with skewed noise, equal without."""
    n = 100_000  # standard errors: 1 / sqrt(5 n)-like, median and mean of e and 2 e
    se = np.sqrt(5 / n)
    for seed in (1, 2):
        a1, a2 = least_squares.slopes(True, n, seed)
        b1, b2 = least_squares.slopes(False, n, seed)
        assert abs(a1 - np.log(2)) < 5 * se and abs(a2 - 1) < 5 * se
        assert abs(b1 - 1) < 5 * se and abs(b2 - 1) < 5 * se * 2**0.5


def test_slopes_are_regressions():
    """Otherwise group medians and means are not the L1 and L2 fits: linear program, lstsq."""
    n = 101
    rng = np.random.default_rng(6)
    z = np.r_[rng.exponential(size=n), 2 * rng.exponential(size=n)]
    X = np.c_[np.repeat([0.0, 1.0], n), np.ones(2 * n)]
    one = np.eye(2 * n)  # z = X w + u - v; u, v >= 0; minimise sum(u + v)
    cost, free = np.r_[0, 0, np.ones(4 * n)], [(None, None)] * 2 + [(0, None)] * 4 * n
    fit = linprog(cost, A_eq=np.c_[X, one, -one], b_eq=z, bounds=free)
    l1, l2 = least_squares.slopes(True, n, seed=6)
    assert fit.x[0] == pytest.approx(l1, rel=1e-8)
    assert np.linalg.lstsq(X, z, rcond=None)[0][0] == pytest.approx(l2, rel=1e-10)


def test_ridge():
    """Otherwise weight decay leaves sum r.m = 0, or not lambda N |M|^2; stacked least squares."""
    N, h1, h2, lam = 60, 3, 5, 0.2
    total, theory = least_squares.ridge(lam, N, h1, h2, seed=7)
    C, Z = least_squares.linear(N, h1, h2, seed=7)
    X = np.r_[least_squares.with_one(C), np.c_[np.sqrt(lam * N) * np.eye(h1), np.zeros(h1)]]
    W = np.linalg.lstsq(X, np.r_[Z, np.zeros((h1, h2))], rcond=None)[0]
    m = X[:N] @ W
    assert total == pytest.approx(((Z - m) * m).sum(), rel=1e-10)
    assert total == pytest.approx(theory, rel=1e-10) and theory > 1
    assert abs(least_squares.ridge(0.0, N, h1, h2, seed=7)[0]) < 1e-10


# -- Eq. 11


def test_radius():
    """Otherwise Rad(r) is not the distance of the farthest of the 2 n vertices of the ball."""
    r = np.random.default_rng(8).standard_cauchy((500, 6))
    one = abs(r).sum(1)
    corners = r[:, None] + one[:, None, None] * np.r_[np.eye(6), -np.eye(6)]  # (500, 12, 6)
    np.testing.assert_allclose(radius(r), np.linalg.norm(corners, axis=2).max(1), rtol=1e-10)
    assert (radius(r) > one).all() and (radius(r) <= 2 * one * (1 + 1e-12)).all()
    assert radius([0, -3.0, 0]) == 6 and radius(np.ones(4)) == pytest.approx(np.sqrt(4 + 8 + 16))
    for bad in ([], [1, np.nan], [np.inf], 3.0, np.ones((2, 0))):
        with pytest.raises(ValueError, match="n >= 1"):
            radius(bad)


@pytest.mark.parametrize("seed", [1, 2])
def test_eq11(seed):
    """Otherwise the printed condition would do, or the corrected one has a counterexample."""
    found = inequality.eq11(N=90_000, sizes=(1, 3, 17), seed=seed)
    assert found["printed"][1] > 1000
    for name in ("correct", "radius"):
        met, violations = found[name]
        assert met > 100_000 and violations == 0
    below, above = found["vertex"]
    assert below < 0 < above
    e1, gammas = np.eye(1, 3).repeat(4, 0), np.array([0.5, 1.0, 2.0, 2.5])  # r = F = e_1
    np.testing.assert_allclose(inequality.gain(e1, e1, gammas), [-0.5, -1, 0, 0.5], atol=1e-12)


@pytest.mark.parametrize("z, F, gamma", [(-2.0, 1.0, 0.5), (5.0, -1.0, 2.0)])
def test_minimisers(z, F, gamma):
    """Otherwise the bound of Eq. 11 passes its minimiser on."""
    found = inequality.minimisers(z, F, gamma)
    expected = {"left": z - gamma * F, "right": z, "left_safe": z - gamma * F / 2, "bound": True}
    assert found == pytest.approx(expected, abs=1e-9)


# -- M and F together


@pytest.mark.parametrize("gamma", [0.2, 0.7, 3.0])
def test_joint_training_leaves_the_projection(gamma):
    """Otherwise c M stays at the projection, or the residual's length does not go to gamma."""
    C, mu = conditions(K=30, h1=3, h2=7, seed=1)
    for seed in (1, 2, 3):
        distance, J = joint(C, mu, gamma, seed=seed)
        np.testing.assert_allclose(distance, gamma, rtol=0.01)
        assert J < 1e-4 * gamma**2


@pytest.mark.parametrize("absolute", [False, True])
def test_joint_training_by_gradients(absolute, gamma=0.4, steps=1000):
    """Otherwise the alternating steps mislead: Adam, one free unit vector per condition, squared
    loss or the L1 loss of Eq. 8, must end at the same distance."""
    C, mu = conditions(K=30, h1=3, h2=7, seed=1)
    X, target, start = (torch.tensor(x) for x in (least_squares.with_one(C), mu, project(C, mu)))
    V = torch.randn(mu.shape, generator=torch.Generator().manual_seed(9)).double()
    params = [torch.linalg.lstsq(X, start).solution, V]  # M with b, and F before Normalize
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for step in range(steps):
        M, V = (p.requires_grad_() for p in params)
        left = target - X @ M - gamma * torch.nn.functional.normalize(V, dim=1)
        loss = left.abs().mean() if absolute else left.square().mean()
        lr = 0.015 * (1 + np.cos(np.pi * step / steps))
        for i, g in enumerate(torch.autograd.grad(loss, [M, V])):
            first[i], second[i] = 0.9 * first[i] + 0.1 * g, 0.99 * second[i] + 0.01 * g**2
            params[i] = params[i].detach() - lr * first[i] / (second[i].sqrt() + 1e-9)
    distance = (X @ params[0] - start).norm(dim=1)
    np.testing.assert_allclose(distance, gamma, rtol=0.04)


def test_distance_is_at_most_gamma_for_any_F():
    """Otherwise gamma -> 0 would not bring c M to the projection on curved data."""
    C, mu = conditions(K=50, h1=4, h2=6, curve=0.7, seed=2)
    F = unit(np.random.default_rng(3).normal(size=(2000, *mu.shape)) + 2 * mu)
    for gamma in (0.05, 2.0):
        away = project(C, mu) - np.stack([project(C, mu - gamma * f) for f in F])
        assert (np.linalg.norm(away, axis=2) ** 2).mean(1).max() <= gamma**2
        distance, J = joint(C, mu, gamma)
        assert 0 < (distance**2).mean() <= gamma**2
        left = np.linalg.norm(mu - project(C, mu), axis=1)
        assert J < ((left - gamma) ** 2).mean()  # than at the projection, with its best F


@pytest.mark.parametrize("gamma, zeta", [(0.5, 1.0), (1.0, 1.0), (1.0, 4.0), (3.0, 2.0)])
def test_M_shrinks_where_F_is_a_sample(gamma, zeta):
    """Otherwise M is not (1 - gamma / zeta) M_hat: 0 at gamma = |z|, and negative beyond."""
    for mean, R in ((False, 0.8), (True, 0.8)):
        found = [shrunk(gamma, zeta, mean, R, N=9000, h1=3, h2=8, seed=s)[0] for s in range(5)]
        expected = 1 - gamma / (R * zeta) if mean else 1 - gamma / zeta
        se = np.std(found, ddof=1) / np.sqrt(5)
        assert abs(np.mean(found) - expected) < 5 * se < 0.02 * gamma / zeta
    cos = shrunk(gamma, zeta, R=0.8, N=9000, h1=3, h2=8)[1]  # |z| = zeta: at most about R
    sign = np.sign(1 - gamma / zeta)
    assert (abs(cos) < 0.05) if sign == 0 else 0.75 < sign * cos < 0.81


def test_refuses():
    """Otherwise bad numbers give NaN, or a distance to nothing."""
    C, mu = conditions(K=9, h1=2, h2=3)
    for bad in ((C, mu, -1.0), (C, mu, np.nan), (C[:5], mu, 1.0), (C, mu[:, 0], 1.0)):
        with pytest.raises(ValueError, match="gamma >= 0"):
            joint(*bad)
    for bad in ({"R": 0.0}, {"R": 1.1}, {"zeta": 0.0}, {"R": np.nan}):
        with pytest.raises(ValueError, match="R in"):
            shrunk(1.0, **bad)


def test_normalize_ends_perpendicularity():
    """Otherwise E[r|c] is not perpendicular to a frozen c M in sum, or is so per sample."""
    for seed in (1, 2):
        C, mu = least_squares.saturating(2000, 4, 7, seed, noise=0.0)
        found = orthogonality(mu, project(C, mu))
        length = np.linalg.norm(mu - project(C, mu), axis=1)
        assert abs(found["aggregate"]) < 1e-12 and found["mean"] > 0.5
        assert length.std() > 0.2 * length.mean()


# -- on a run


def test_measured():
    """Otherwise the table of a run does not say what its rows say; a made-up run, known answers."""
    N, h1, h2 = 400, 3, 6
    C, best = conditions(N, h1, h2, seed=3)  # z = best + r, r and 1 uncorrelated with c
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(N, h2))
    z = best + noise - project(C, noise)
    m = best.mean(0) + 0.3 * (best - best.mean(0))
    F = np.eye(1, h2).repeat(N, 0)  # |F|_1 = 1
    gamma = float(np.median(abs(z - m).sum(1)))
    held = Held(*(torch.tensor(x) for x in (C, z, m, F, best)), gamma, None, None, None)
    table = lemma1.measured(held)
    assert abs(table["M_hat: mean r.m / mean |m|^2"]) < 1e-10
    assert table["run's M: mean r.m / mean |m|^2"] > 0.01
    assert table["slope <cM, cM_hat> / |cM_hat|^2, centred"] == pytest.approx(0.3)
    assert table["rank of the vectors c M, of h2"] == "4 of 6"  # three conditions and a bias
    assert table["dimension of the complement (Eq. 16)"] == 2
    assert table["run's gamma: share gamma >= |r|_1 / 2"] > 0.9
    assert table["run's gamma: share gamma |F|_1 >= 2 |r|_1"] < 0.2
    assert table["gamma 1: share gamma >= |r|_1 / 2"] == (abs(z - m).sum(1) <= 2).mean()
    change = abs(z - m - gamma * F).sum() / abs(z - m).sum()
    assert table["run's gamma: E|z - z_hat|_1 / E|r|_1"] == pytest.approx(change)
    cos = (m[:, 0] / np.linalg.norm(m, axis=1)).mean()
    assert table["mean cos(F, cM) (Eq. 16: 0)"] == pytest.approx(cos)
    length, R = np.linalg.norm(z, axis=1).mean(), (z[:, 0] / np.linalg.norm(z, axis=1)).mean()
    assert table["slope if gamma 1, F a sample: 1 - 1/zeta"] == pytest.approx(1 - 1 / length)
    expected = 1 - 1 / (R * length)
    assert table["if F the mean direction: 1 - 1/(R zeta)"] == pytest.approx(expected)
    ax = Figure().subplots()
    lemma1.draw(ax, held, "text->image")
    assert ax.get_title() == "text->image" and ax.get_legend() is not None
