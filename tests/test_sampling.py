"""
theory/sampling.py: every verdict both ways, closed forms against other evaluations of the same.
Run: pytest tests/test_sampling.py
"""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from ddim_translator import Translator, ddim_step, make_alpha
from latent_bridge import Kernel, dbim, heun, time_grid
from theory import report, sampling, sampling_bridge, sampling_ddim

F64 = torch.float64
VERDICTS = {"S1": "fails", "S2": "needs a condition", "S3": "needs a condition", "S4": "holds"}
VERDICTS |= {"S5": "needs a condition", "S6": "needs a condition"}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def exact(v, alpha, m=0.0):
    """The best z0_hat for data N(m, v): m + Cov(z_0, z_t) / Var(z_t) (z_t - E z_t)."""

    def denoise(z_t, t):
        a = alpha[t]
        return m + a**0.5 * v / (a * v + (1 - a)) * (z_t - a**0.5 * m)

    return denoise


def levels(cases, S, seed=0):
    """alpha (cases, S + 1), rising to exactly 1, in random steps from 1e-4 to 0.9."""
    steps = torch.rand(cases, S, dtype=F64, generator=rng(seed)) ** 2
    low = 10 ** (-4 * torch.rand(cases, 1, dtype=F64, generator=rng(seed + 1)) - 0.05)
    rise = torch.cat([torch.zeros(cases, 1, dtype=F64), steps.cumsum(1)], 1)
    return low ** (1 - rise / rise[:, -1:])


# -- all claims


def test_verdicts():
    """Otherwise a verdict of the table, or a corrected statement, no longer follows."""
    claims = {c.key: c for c in sampling.claims()}
    assert {k: c.verdict for k, c in claims.items()} == VERDICTS
    assert all(c.corrected_holds is True for c in claims.values())


def test_bad_input():
    """Otherwise a typing error becomes a NaN or a wrong number instead of one clear line."""
    alpha = make_alpha(30)
    for call, message in (
        (lambda: sampling_ddim.gain(math.nan, 3, alpha), "above 0"),
        (lambda: sampling_ddim.gain(1.0, 31, alpha), "T = 30"),
        (lambda: sampling_ddim.conditional(1.0, 8, 3, alpha), "between 0 and 1"),
        (lambda: sampling_ddim.conditional(0.5, 1, 3, alpha), "at least 2"),
        (lambda: sampling_ddim.conditional(0.5, 8, 3, alpha, 0.0), "scale"),
        (lambda: sampling_ddim.linear_alpha(20, scaled=True), "T >= 21"),
        (lambda: sampling_bridge.conditioned(Kernel(), steps=1), "at least 2"),
        (lambda: sampling_bridge.booted(5, "vq"), "vp or ve"),
        (lambda: sampling_bridge.bridge_spread(None, 3, std=0.0), "above 0"),
        (lambda: sampling_bridge.share(Kernel(), 0.5, math.inf), "size"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# -- S1


def test_printed_step_is_eq_3():
    """Otherwise another step than MT's is blamed: Eq. 3, written with eps as MT does."""
    z_t, eps = torch.randn(2, 5, 7, dtype=F64, generator=rng())
    a, s = make_alpha(100)[[60, 59]]
    z0_hat = (z_t - (1 - a).sqrt() * eps) / a.sqrt()
    eq_3 = s.sqrt() * (z_t - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a).sqrt() * eps
    torch.testing.assert_close(sampling_ddim.printed_step(z_t, z0_hat, a, s), eq_3)
    kept = eq_3 - s.sqrt() * z0_hat  # all of the old level's noise; DDIM keeps that of the new one
    ddim = ddim_step(z_t, z0_hat, a, s) - s.sqrt() * z0_hat
    torch.testing.assert_close(kept * (1 - s).sqrt(), ddim * (1 - a).sqrt())


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("v", [0.004, 1.0, 6.0])
def test_gain_is_what_the_steps_do(printed, v):
    """Otherwise the closed form belongs to another sampler, or other levels, than cdim's."""
    step = sampling_ddim.printed_step if printed else ddim_step
    for S, alpha in (
        (1, make_alpha(90)),
        (7, make_alpha(90)),
        (90, sampling_ddim.linear_alpha(90)),
    ):
        z_0 = sampling_ddim.sample(step, exact(v, alpha), torch.ones(1, dtype=F64), alpha, S)
        assert sampling_ddim.gain(v, S, alpha, printed) == pytest.approx(z_0.item(), rel=1e-10)
    tr = Translator(3, 4, width=8, layers=3, T=90)
    tr.denoise = lambda z_t, t, c, omega: exact(v, tr.alpha)(z_t, t)
    by_cdim = tr.ddim_sample(torch.zeros(1, 3), torch.ones(1, 4), 7)[0, 0].item()
    assert sampling_ddim.gain(v, 7, make_alpha(90)) == pytest.approx(by_cdim, rel=1e-4)  # float32


def test_ddim_never_too_wide_printed_never_narrower():
    """Otherwise a bound is wrong: DDIM G^2 <= v / V_T, printed G^2 >= 1, <= its limit if v <= 1."""
    v = 10 ** (6 * torch.rand(100_000, dtype=F64, generator=rng(5)) - 4)
    for S in (1, 4, 11):
        a = levels(len(v), S, seed=S)
        top = v / (a[:, 0] * v + 1 - a[:, 0])
        ddim, printed = (sampling_ddim.chain(a, v, p) ** 2 for p in (False, True))
        assert (ddim <= top * (1 + 1e-12)).all() and (printed >= 1 - 1e-12).all()
        small = v < 1
        assert (printed > top)[small].all()  # the printed step breaks DDIM's bound
        assert (printed[small] <= v[small] ** (v[small] / (v[small] - 1)) * (1 + 1e-12)).all()
        assert (ddim < 0.9).float().mean() > 0.3  # and DDIM breaks the printed one's


@pytest.mark.parametrize("v", [0.2, 1.0, 5.0])
def test_limits_of_small_steps(v):
    """Otherwise the limits v / V_T and v^(1/(v-1)) are wrong, or depend on the schedule."""
    integral = integrate.quad(lambda a: v / (a * v + 1 - a), 0, 1, epsabs=1e-13)[0]
    assert math.exp(integral) / v == pytest.approx(sampling_ddim.printed_limit(v), rel=1e-10)
    T = 40_000
    for alpha in (make_alpha(T), sampling_ddim.linear_alpha(T, scaled=True)):
        assert sampling_ddim.gain(v, T, alpha) ** 2 / v == pytest.approx(1, abs=3e-3)
        ratio = sampling_ddim.gain(v, T, alpha, True) ** 2 / v
        assert ratio == pytest.approx(sampling_ddim.printed_limit(v), rel=3e-3)


def test_monte_carlo():
    """Otherwise draws disagree with the closed form, which then describes something else."""
    alpha = make_alpha(200)
    for v, S, seed in ((1.0, 20, 3), (0.05, 200, 4)):
        for printed, step in ((False, ddim_step), (True, sampling_ddim.printed_step)):
            ratio, se = sampling_ddim.monte_carlo(step, v, S, alpha, n=9_000, seed=seed)
            assert abs(ratio - sampling_ddim.gain(v, S, alpha, printed) ** 2 / v) < 5 * se
            assert abs(ratio - sampling_ddim.gain(v, S, alpha, not printed) ** 2 / v) > 5 * se


# -- S2, S3


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_conditional_on_vectors(scale):
    """Otherwise variance ratio and cosine are not those of vectors drawn through ddim_step."""
    N, h2, S, R, alpha = 4_000, 81, 12, 0.7, sampling_ddim.linear_alpha(60)
    v, mu = (1 - R**2) / h2, torch.nn.functional.normalize(torch.ones(h2, dtype=F64), dim=0)
    denoise = exact(v * scale**2, alpha, m=scale * R * mu)
    z_T = torch.randn(N, h2, dtype=F64, generator=rng(1))
    z = sampling_ddim.sample(ddim_step, denoise, z_T, alpha, S) / scale
    ratio, cosine = sampling_ddim.conditional(R, h2, S, alpha, scale)
    assert z.var(0).mean().item() / v == pytest.approx(ratio, rel=5 * math.sqrt(2 / (N * h2)))
    drawn = z @ mu / z.norm(dim=1)
    assert abs(drawn.mean() - cosine) < 5 * drawn.std() / math.sqrt(N) + 1 / h2


def test_small_latents_need_small_steps():
    """Otherwise scale and number of steps would not trade: k^2 of variance for k^2 of steps."""
    for T in (200, 1000):
        scaled = sampling_ddim.conditional(0.8, 64, T, make_alpha(T), 8.0)
        patient = sampling_ddim.conditional(0.8, 64, 64 * T, make_alpha(64 * T))
        few = sampling_ddim.conditional(0.8, 64, T, make_alpha(T))
        assert patient[0] == pytest.approx(scaled[0], abs=0.02)
        assert few[0] < 0.6 and few[1] > scaled[1] and scaled[0] > 0.8


def test_start_error():
    """Otherwise the lost mean, the variance or the KL is not what a sampler from N(0, 1) shows."""
    for T, m, v in ((50, 1.3, 0.4), (70, -0.6, 2.0)):
        alpha = sampling_ddim.linear_alpha(T)
        start = torch.tensor([0.0, 1.0])
        mean, up = sampling_ddim.sample(ddim_step, exact(v, alpha, m), start, alpha, T).double()
        lost, ratio, kl = sampling_ddim.start_error(alpha, m, v)
        assert lost == pytest.approx((1 - mean / m).item(), rel=1e-5)
        assert ratio == pytest.approx(((up - mean) ** 2 / v).item(), rel=1e-5)
        a = np.prod(1 - np.linspace(1e-4, 0.02, T))
        M, V = math.sqrt(a) * m, a * v + 1 - a
        expected = integrate.quad(divergence, -20, 20, args=(M, V), epsabs=1e-13)[0]
        assert kl == pytest.approx(expected, rel=1e-8)


def divergence(x, M, V):
    """The integrand of the KL divergence of N(M, V) from N(0, 1)."""
    log_p = -((x - M) ** 2) / (2 * V) - math.log(V) / 2
    return math.exp(log_p) / math.sqrt(2 * math.pi) * (log_p + x * x / 2)


def test_schedule_must_end_in_noise():
    """Otherwise copying beta to a smaller T would be harmless, or scaling it no cure."""
    for T in (50, 100, 250):
        assert sampling_ddim.start_error(sampling_ddim.linear_alpha(T))[0] > 0.25
        for alpha in (sampling_ddim.linear_alpha(T, scaled=True), make_alpha(T)):
            assert sampling_ddim.start_error(alpha)[0] < 0.05 and alpha[0] == 1
    plain, scaled = (sampling_ddim.linear_alpha(1000, scaled=x) for x in (False, True))
    assert torch.equal(plain, scaled)


# -- S4


def euler_moments(kernel, z_0, z_T, steps):
    """Mean and std of the Euler scheme of the bridge SDE, exactly; its drift written out anew."""
    T, dt = kernel.T, kernel.T / steps

    def u(t):
        return kernel.beta_d * t * t / 2 + kernel.beta_min * t

    mean, var, rows = z_0, 0.0, [(z_0, 0.0)]
    for i in range(steps):
        t = i * dt
        if kernel.kind == "ve":
            g2 = 2 * t
            slope, pull = -g2 / (T * T - t * t), g2 * z_T / (T * T - t * t)
        else:  # z_T | z_t ~ N(r z_t, 1 - r^2), r = exp(-(u_T - u_t) / 2)
            r, g2 = math.exp((u(t) - u(T)) / 2), kernel.beta_d * t + kernel.beta_min
            slope, pull = -g2 / 2 - g2 * r * r / (1 - r * r), g2 * r * z_T / (1 - r * r)
        mean, var = mean + dt * (slope * mean + pull), (1 + dt * slope) ** 2 * var + g2 * dt
        rows.append((mean, math.sqrt(var)))
    return np.array(rows).T


@pytest.mark.parametrize("kernel", [Kernel("vp"), Kernel("ve", sigma_max=3.0)])
def test_conditioned_diffusion(kernel):
    """Otherwise the simulation is no Euler scheme of the bridge, or does not tend to Kernel."""
    n, z_0, z_T = 3_000, 0.9, -0.4
    times, *drawn = sampling_bridge.conditioned(kernel, z_0, z_T, steps=100, paths=n, seed=7)
    mean, std = euler_moments(kernel, z_0, z_T, 100)
    assert (abs(drawn[0] - mean) <= 5 * std / math.sqrt(n) + 1e-12).all() and times[-1] == kernel.T
    assert (abs(drawn[1] - std) <= 5 * std / math.sqrt(2 * n) + 1e-12).all() and drawn[1][0] == 0

    def errors(steps):  # at t / T = 0.1 ... 0.9, and the end
        at = [steps * k // 10 for k in range(1, 10)]
        a, b, c = (x.numpy() for x in kernel(torch.linspace(0, kernel.T, steps + 1, dtype=F64)))
        mean, std = euler_moments(kernel, z_0, z_T, steps)
        return max(abs(mean - a * z_T - b * z_0)[at]), max(abs(std - c)[at]), std[-1]

    coarse, fine = errors(200), errors(800)
    assert all(0.2 < f / c < 0.3 for f, c in zip(fine[:2], coarse[:2], strict=True))  # order 1
    assert max(coarse[:2]) < 2 * kernel.T / 200
    assert 0.4 < fine[2] / coarse[2] < 0.6  # the end: order 1/2


class Wide(Kernel):
    def __call__(self, t):
        a, b, std = super().__call__(t)
        return a, b, 1.15 * std


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_kernel_error_tells_kernels_apart(kind):
    """Otherwise the allowance is so wide that a wrong kernel passes."""
    assert sampling_bridge.kernel_error(Kernel(kind, sigma_max=1.5), paths=2_000, seed=1)[0] < 1
    assert sampling_bridge.kernel_error(Wide(kind, sigma_max=1.5), paths=2_000, seed=1)[0] > 1


def test_by_bayes():
    """Otherwise precisions are not added: against the covariance of (z_t, z_T), conditioned."""
    for kernel in (Kernel("vp", 1.5, 0.3), Kernel("ve", sigma_max=5.0)):
        for t in (0.07 * kernel.T, 0.6 * kernel.T):
            s, rho2 = (x.item() for x in kernel.base(torch.tensor(t, dtype=F64)))
            s_T, rho2_T = (x.item() for x in kernel.base(torch.tensor(kernel.T, dtype=F64)))
            cov = np.array([[s**2 * rho2, s * s_T * rho2], [s * s_T * rho2, s_T**2 * rho2_T]])
            a = cov[0, 1] / cov[1, 1]
            want = a, s - a * s_T, math.sqrt(cov[0, 0] - a * cov[0, 1])
            found = [x.item() for x in sampling_bridge.by_bayes(kernel, t)]
            assert found == pytest.approx(want, rel=1e-10)


# -- S5, S6


def test_spread_against_draws():
    """Otherwise impulses do not read off a sampler's mean and std: 5 standard errors of draws."""
    kernel, n = Kernel("vp"), 20_000
    z_T, random = torch.ones(n, 1, 1, dtype=F64), rng(2)

    def randn(shape, device=None):
        return torch.randn(shape, dtype=F64, generator=random)

    def denoise(z_t, t):  # precisions add: of z_0 ~ N(0.6, 0.16), and of z_t, which at T has none
        a, b, c = (x.item() for x in kernel(t))
        p, q = 1 / 0.16, b / c**2 if t < 1 else 0.0
        return (0.6 * p + q * (z_t - a)) / (p + q * b)

    for (mean, std), z in (
        (sampling_bridge.booted(9), dbim(denoise, z_T, kernel, time_grid(9, 1.0), randn=randn)),
        (sampling_bridge.churned(8), heun(denoise, z_T, kernel, 8, 0.33, randn=randn)),
    ):
        assert abs(z.mean() - mean) < 5 * std / math.sqrt(n)
        assert abs(z.std() - std) < 5 * std / math.sqrt(2 * n)
    alone = heun(denoise, z_T[:50], kernel, 8, 0.0, randn=randn)
    assert (alone == alone[0]).all() and sampling_bridge.churned(8, 0.0)[1] == 0


def test_diversity_comes_from_noise():
    """Otherwise booting noise or churn would not tend to the truth, or the bare ODE would."""
    for kind, times in (("vp", "uniform"), ("vp", "karras"), ("ve", "karras")):
        ratio = [sampling_bridge.booted(S, kind, times)[1] / 0.4 for S in (5, 20, 80)]
        assert ratio == sorted(ratio) and 0.95 < ratio[-1] < 1
    off = [abs(sampling_bridge.churned(n, 0.33, "ve")[1] / 0.4 - 1) for n in (5, 20, 60)]
    assert off == sorted(off, reverse=True) and off[-1] < 0.05
    assert all(sampling_bridge.churned(n, 0.0, "ve")[1] == 0 for n in (5, 60))


def test_share():
    """Otherwise the share is not what z_t explains of z_0, or a tenth is not at about 3 size."""
    n, t, size = 20_000, 0.6, 1.7
    z_0, eps = np.random.default_rng(3).normal(size=(2, n))
    _, b, std = (x.item() for x in Kernel("vp")(t))
    r2 = np.corrcoef(size * z_0, b * size * z_0 + std * eps)[0, 1] ** 2
    found = sampling_bridge.share(Kernel("vp"), t, size).item()
    assert found == pytest.approx(r2, abs=5 / math.sqrt(n))
    for T, size in ((80.0, 1.0), (80.0, 40.0), (7.0, 0.5)):
        kernel = Kernel("ve", sigma_max=T)
        edge = 3 * size / math.sqrt(1 + 9 * size**2 / T**2)
        assert sampling_bridge.share(kernel, edge, size).item() == pytest.approx(0.1, rel=1e-10)
        even, rho7, left = sampling_bridge.buried(kernel, size)
        assert even == pytest.approx(1 - edge / T, abs=2e-5)
        lowest, highest = 1e-4 ** (1 / 7), (1 - 1e-3) ** (1 / 7)
        passed = (highest - (edge / T) ** (1 / 7)) / (highest - lowest)
        assert rho7 == pytest.approx(passed, abs=2 / 39)
        kept = integrate.quad(sampled_share, 0, T, args=(kernel, size), limit=200)[0] / T
        assert left == pytest.approx(1 - kept, abs=1e-4)


def sampled_share(t, kernel, size):
    return sampling_bridge.share(kernel, t, size).item()


# -- a trained run


class Exact(torch.nn.Module):
    """The network for z_0 | c ~ N(A c, v), in the diffusion's units."""

    def __init__(self, A, v, alpha):
        super().__init__()
        self.A, self.v, self.alpha = A, v, alpha

    def forward(self, z_t, t, c, keep=None):
        a = self.alpha[t][:, None]
        return exact(self.v, {0: a}, c @ self.A)(z_t, 0)


@pytest.mark.parametrize("objective", ["ridge", "joint", "residual"])
def test_measured(objective):
    """Otherwise units, steps or seeds of what is measured on a run are wrong: answers are known."""
    N, h1, h2, v = 240, 3, 50, 0.3
    tr = Translator(h1, h2, width=8, layers=3, objective=objective, faded=False)
    A = torch.randn(h1, h2, generator=rng(8)) * 0.4
    tr.net, tr.r_scale = Exact(A, v, tr.alpha), torch.tensor(2.0)
    tr.z_mean = torch.linspace(-3, 4, h2)
    c = torch.randn(N, h1, generator=rng(9))
    true = c @ A + math.sqrt(v) * torch.randn(N, h2, generator=rng(10))
    z = (true / 2 + tr.centre(c)).detach().double()
    held = report.Held(c.double(), z, z, z, z, 1.0, np.arange(N), tr, c)
    table, n = sampling.measured(held), 200  # the first 200 rows
    assert table["alpha_T"] == pytest.approx(3.2484e-4, rel=1e-3)
    power, total = (c[:n] @ A).square().mean().item(), true[:n].square().mean().item()
    for S in (2, 10, 50):
        for name, printed in (("DDIM", False), ("printed", True)):
            G = sampling_ddim.gain(v, S, make_alpha(1000), printed)
            square = power * (1 - math.sqrt(3.2484e-4) * G) ** 2 + G**2
            got = table[f"S = {S}, {name}: mean square of z_0"]
            assert got == pytest.approx(square, rel=5 * math.sqrt(4 / (n * h2)))
        share = sampling_ddim.gain(v, S, make_alpha(1000)) ** 2 / total
        se = math.sqrt(2 / (7 * n * h2))
        got = table[f"S = {S}, DDIM: variance among samples, share"]
        assert got == pytest.approx(share, rel=5 * se + 1e-4)
        start = torch.randn(8, n, h2, generator=rng())[0]
        F = tr.F(tr.ddim_sample(c[:n], start, S), c[:n])
        aim = true[:n] if objective == "residual" else z[:n]
        cosine = torch.nn.functional.cosine_similarity(F, aim).mean().item()
        assert table[f"S = {S}, DDIM: cosine of one sample"] == pytest.approx(cosine, abs=1e-5)
        assert table[f"S = {S}, printed: cosine of one sample"] < cosine - 0.02
