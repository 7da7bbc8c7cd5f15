"""
The bridge against closed forms; no trained network. Run: pytest tests/test_bridge.py

The oracle: z_0 | z_T ~ N(z_T MAP + SHIFT, diag(VAR)) makes the best z0_hat an affine function of
z_t. The samplers are then affine in their noises, so unit impulses through `randn` read off mean
and variance exactly. The kernel, Heun and the preconditioning have their own derivation here: the
base process conditioned on its end, DDBM's printed f, g^2, s and h, and numpy's least squares.
"""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from grading import Mistake, grade, graded, refuses
from scipy.integrate import quad

import bridge_networks
import latent_bridge as lb
from bridge_networks import DESIGNS, ModalityDecoder, ModalityEncoder
from latent_bridge import Bridge, Kernel, dbim, heun, info_nce, time_grid

B, N, D, W = 5, 4, 6, 16
KINDS, END = ("vp", "ve"), {"vp": 1.0, "ve": 80.0, "sub-vp": 1.0}
INSIDE = [1e-6, 1e-3, 0.01, 0.2, 0.5, 0.69, 0.9, 0.999]  # times, as shares of T
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# -- the kernel


@functools.lru_cache
def base(kind, t):
    """s_t and sigma_t^2 of z_t = s_t z_0 + sigma_t eps; VP, sub-VP by integrating beta."""
    if kind == "ve":
        return 1.0, t**2
    u = quad(lambda x: 2 * x + 0.1, 0, t)[0]
    return math.exp(-u / 2), (-math.expm1(-u)) ** (2 if kind == "sub-vp" else 1)


def conditioned(kind, t):
    """(a, b, std) from the joint Gaussian of (z_t, z_T) given z_0, conditioned on z_T."""
    (s, var), (s_T, var_T) = base(kind, t), base(kind, END[kind])
    cov = s_T / s * var  # z_T is z_t times s_T / s_t, plus fresh noise
    gain = cov / var_T
    return gain, s - gain * s_T, math.sqrt(max(var - gain * cov, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_is_the_base_process_conditioned_on_its_end(kind):
    """Otherwise the bridge is no diffusion conditioned on z_T, is not pinned, or loses digits."""
    kernel, T = Kernel(kind), END[kind]
    assert kernel.T == T
    assert [c.item() for c in kernel(0.0)] == [0, 1, 0]
    assert [c.item() for c in kernel(T)] == [1, 0, 0]
    assert all(c.dtype == torch.float64 for c in kernel(torch.tensor(INSIDE) * T))
    times = [x * T for x in INSIDE]
    ours = torch.stack(kernel(torch.tensor(times, dtype=torch.float64)), 1)
    close(ours, torch.tensor([conditioned(kind, t) for t in times]).double(), rtol=1e-7, atol=1e-9)
    for t, (a, b, std) in zip(times, ours.tolist(), strict=True):  # DBIM's stable form
        (s, var), (s_T, var_T) = base(kind, t), base(kind, T)
        r, r_T = var / s**2, var_T / s_T**2
        stable = s * r / (s_T * r_T), s * (r_T - r) / r_T, s * math.sqrt(r * (r_T - r) / r_T)
        assert (a, b, std) == pytest.approx(stable, rel=1e-9)
    if kind == "vp":  # exp(u) - 1 at u = 1e-9 would be wrong by 8e-8
        assert kernel(1e-8)[2].item() ** 2 / (1e-9 + 1e-16) == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_g2(kind):
    """Otherwise Heun walks another curve, or kicks too hard: finite differences disagree."""
    kernel, T = Kernel(kind), END[kind]
    for t in (0.05 * T, 0.4 * T, 0.93 * T):
        h = 1e-5 * T
        slope = [(y - x) / (2 * h) for x, y in zip(kernel(t - h), kernel(t + h), strict=True)]
        close(torch.stack(kernel.rates(t)), torch.stack(slope), rtol=1e-6, atol=1e-9)
        ratio = [base(kind, x)[1] / base(kind, x)[0] ** 2 for x in (t - h, t + h)]  # sigma^2 / s^2
        g2 = (ratio[1] - ratio[0]) / (2 * h) * base(kind, t)[0] ** 2
        assert float(kernel.g2(t)) == pytest.approx(g2, rel=1e-6)


# -- the kernel's coefficients as an exercise: any base process


def known(kind, times):
    """s_t and rho_t^2 of the base process, (n,) float64."""
    s, var = torch.tensor([base(kind, float(t)) for t in times], dtype=torch.float64).T
    return s, var / s**2


def three(answer):
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise Mistake("pinned has to return three tensors: a_t, b_t, std_t")
    if any(torch.as_tensor(c).isnan().any() for c in answer):
        raise Mistake(
            "NaN: at the ends rho2_t or rho2_T - rho2_t is 0, do not divide by them; and clamp a "
            "variance that rounding may make less than 0"
        )
    return answer


SWAPPED = "z_T and z_0 have changed places: a_t is the weight of z_T, 0 at t = 0 and 1 at t = T"
NO_PIN = "b_t leaves z_0 in the mean at T: z_0 is also in what z_T says of the noise"
FREE = "std_t is not 0 at T: it is the base process's, as if z_T were not known"


@graded("pinned")
@pytest.mark.parametrize("kind", END)
def test_pins(kind, impl):
    """Otherwise the bridge does not start at z_0 or end at z_T, whichever of seven times T is."""
    for T in np.linspace(0.1, 1, 7) * END[kind]:
        s, rho2 = known(kind, (0, T))
        a, b, std = three(impl.pinned(s, rho2, s[1], rho2[1]))
        grade(a, [0.0, 1.0], {SWAPPED: [1.0, 0.0]}, what="a_t at t = 0 and T")
        grade(b, [1.0, 0.0], {NO_PIN: s}, atol=1e-6, what="b_t at t = 0 and T")
        wrong = {FREE: s * rho2.sqrt(), FREE + ", and lacks its root": s**2 * rho2}
        grade(std, [0.0, 0.0], wrong, atol=1e-6, what="std_t at t = 0 and T")


@graded("pinned")
@pytest.mark.parametrize("kind", END)
def test_pinned_is_the_base_process_conditioned_on_its_end(kind, impl):
    """Otherwise the mean or the variance between the pins is not that of the joint Gaussian."""
    (s, rho2), (s_T, rho2_T) = known(kind, np.array(INSIDE) * END[kind]), known(kind, [END[kind]])
    a, b, std = three(impl.pinned(s, rho2, s_T[0], rho2_T[0]))
    of_t = [conditioned(kind, t) for t in np.array(INSIDE) * END[kind]]
    want, q = torch.tensor(of_t, dtype=torch.float64).T, rho2 / rho2_T
    roots = "a_t has rho_t / rho_T: covariances and variances have rho^2"
    wrong_a = {
        SWAPPED: want[1],
        "a_t = rho2_t / rho2_T is right for VE only: z_T is worth s_t / s_T of itself at t": q,
        "cov(z_t, z_T) is not var(z_t): z_T holds s_T / s_t of z_t": q * (s / s_T) ** 2,
        "a_t has s_T / s_t upside down: cov(z_t, z_T) over var(z_T)": q * s_T / s,
        roots: q.sqrt() * s / s_T,
        roots + ", and s_t / s_T is missing": q.sqrt(),
    }
    grade(a, want[0], wrong_a, rtol=1e-6, what=f"a_t of {kind}")
    wrong_b = {
        NO_PIN: s,
        "b_t = 1 - rho2_t / rho2_T is right for VE only: z_0 is worth s_t of itself at t": 1 - q,
        "b_t = 1 - a_t: the weights need not add up to 1; a_t s_T + b_t = s_t": 1 - want[0],
        "b_t = s_t - a_t: z_T has s_T z_0 in it, not z_0": s - want[0],
    }
    grade(b, want[1], wrong_b, rtol=1e-6, what=f"b_t of {kind}")
    wrong_std = {
        FREE: s * rho2.sqrt(),
        "this is the variance: std_t is its square root": want[2] ** 2,
        "std_t has 1 - rho2_t / rho2_T without its root": s * rho2.sqrt() * (1 - q),
        "std_t lacks s_t: z_t = s_t (z_0 + rho_t eps)": (rho2 * (1 - q)).sqrt(),
    }
    grade(std, want[2], wrong_std, rtol=1e-6, what=f"std_t of {kind}")
    if kind == "vp":
        impl.number("std of the VP bridge at T / 2", float(std[INSIDE.index(0.5)]), 0.4625, 1e-4)


# -- samplers on a Gaussian bridge

GEN = torch.Generator().manual_seed(3)
MAP, SHIFT = torch.randn(3, 3, generator=GEN).double() / 3, torch.tensor([0.6, -0.3, 0.1]).double()
VAR, Z_T = torch.tensor([0.16, 0.5, 1.1]).double(), torch.randn(1, 2, 3, generator=GEN).double()
MEAN = (Z_T @ MAP + SHIFT)[0]


def exact(kind, calls=None):
    """E[z_0 | z_t, z_T], and z_T's own regression where z_t = z_T tells nothing."""

    def denoise(z_t, t):
        if calls is not None:
            calls.append(t)
        a, b, std = conditioned(kind, float(t))
        gain = b * VAR / (b**2 * VAR + std**2 + 1e-300)
        return MEAN + gain * (z_t - a * Z_T - b * MEAN)

    return denoise


def impulses(run, n):
    """(mean, variance) (2, 3) of run(z_T, randn), which calls randn at most n times.

    Row 0 of the batch has no noise; row k has ones in the k-th call: its gain."""
    count = 0

    def randn(shape, device=None):
        nonlocal count
        noise = torch.zeros(shape).double()
        count += 1
        noise[count : count + 1] = 1  # a call too many has no row
        return noise

    rows = run(Z_T.expand(n + 1, -1, -1), randn)
    if count > n:
        raise Mistake(f"randn is called {count} times where it needs at most {n}")
    if not count and not torch.allclose(rows, rows[:1]):
        raise Mistake("noise has to come from the randn that is handed in")
    return rows[0], (rows[1:] - rows[0]).square().sum(0)


def error(run, n):
    mean, var = impulses(run, n)
    return ((mean - MEAN).abs() / VAR.sqrt()).max().item(), ((var - VAR) / VAR).abs().max().item()


def sampled(kind, S, times="uniform", sampler=None, noises=None, **how):
    """(errors of mean and variance, relative) of DBIM, or another sampler, in S evaluations.

    noises: the most draws of it, S if not given: boot, and with eta's noise at each step or at each
    but the last."""
    calls, k, sampler = [], Kernel(kind), sampler or dbim
    grid, denoise = time_grid(S, k.T, times), exact(kind, calls)
    run = lambda z_T, randn: complete(sampler(denoise, z_T, k, grid, randn=randn, **how), z_T)
    errors = error(run, noises or S)
    if not (len(calls) == S and calls[0] == k.T and min(calls) > 0):
        told = f"{len(calls)} evaluations, from t = {calls[0]:g} to {min(calls):g}" if calls else 0
        raise Mistake(f"{S} times and 0: one evaluation at each but 0, T first; here {told}")
    return errors


def complete(z_0, z_T):
    """z_0, if it is an answer at all."""
    if getattr(z_0, "shape", None) != z_T.shape:
        raise Mistake(f"a sampler has to return a tensor of z_T's shape {tuple(z_T.shape)}")
    if not z_0.isfinite().all():
        raise Mistake(
            "NaN or Inf: off z_T, where std_T = 0, eps_hat is 0 / 0, so the first step is a boot; "
            "or the root of a negative number"
        )
    return z_0


def gains(kind, times, eta, z_0):
    """(mean, gain of the boot's noise, gain of the second step's), (2, 3) each; z_0 is known."""
    rows, denoise = [], lambda z, t: z_0.expand_as(z)
    run = lambda z_T, randn: dbim(denoise, z_T, Kernel(kind), times, eta, randn)
    impulses(lambda z_T, randn: rows.append(complete(run(z_T, randn), z_T)) or rows[0], 2)
    return rows[0][0], *(rows[0][1:] - rows[0][0]).abs()


def boots(kind, t, z_0):
    """DBIM's first step alone."""
    a, b, std = conditioned(kind, t)
    mean, kept, _ = gains(kind, [END[kind], t], 0.0, z_0)
    wrong = {"the boot forgets a_s z_T: its mean is the kernel's": b * z_0}
    grade(mean, a * Z_T[0] + b * z_0, wrong, what=f"the mean of the boot from T to s = {t:g}")
    wrong = {"no booting noise: at eta = 0 all samples of one source are equal": 0 * z_0}
    grade(kept, std + 0 * z_0, wrong, what=f"the noise of the boot from T to s = {t:g}")


@graded("dbim")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_dbim_keeps_the_marginal(kind, eta):
    """Otherwise, z_0 known, a step leaves q(z_s | z_0, z_T), or is not Markov at eta = 1."""
    T, t, z_0 = END[kind], 0.7 * END[kind], torch.full((2, 3), 0.7).double()
    boots(kind, t, z_0)
    for s in (0.0, 0.4 * T):
        (a, b, std), (a_t, _, std_t) = conditioned(kind, s), conditioned(kind, t)
        (s_s, var_s), (s_t, var_t) = base(kind, s), base(kind, t)
        on_z_t = s_t / s_s * var_s / var_t  # eta = 1: the base process conditioned on z_t
        assert a == pytest.approx(a_t * on_z_t)  # nothing of z_T beside it
        new = eta * math.sqrt(var_s * (1 - var_s / s_s**2 / (var_t / s_t**2)))
        left = math.sqrt(std**2 - new**2)
        assert eta < 1 or left == pytest.approx(std_t * on_z_t)
        told, same = f"eta = {eta}, z_0 known, t = {t:g}, s = {s:g}: ", lambda x: x + 0 * z_0
        mean, kept, fresh = gains(kind, [T, t, s], eta, z_0)
        wrong = {
            "the step forgets a_s z_T: the bridge leans on its source": b * z_0,
            "eps_hat has a_t z_T in it: z_t is a_t z_T + b_t z0_hat + std_t eps_hat": (
                (a + left * a_t / std_t) * Z_T[0] + b * z_0
            ),
        }
        grade(mean, a * Z_T[0] + b * z_0, wrong, what=told + "the mean of z_s")
        wrong = {
            "noise at the last step: at s = 0 std_s is 0, and z_0 is z0_hat": same(eta * std_t),
            "eta = 1 is not Markov: noise of eta std_s forgets z_t": same(eta * std),
            "no fresh noise is added, though eta > 0": same(0),
            "eta scales fresh, not fresh^2": same(new / max(eta, 0.1) ** 0.5),
        }
        grade(fresh, same(new), wrong, what=told + "what z_s has of fresh noise")
        wrong = {
            "variance too large: fresh^2 is not subtracted from what is kept": same(std),
            "variances add up, not std: kept^2 + fresh^2 = std_s^2": same(std - new),
            "the old level's std_t of eps_hat is kept: z_s has std_s": same(std_t),
        }
        grade(kept, same(left), wrong, what=told + "what z_s has of eps_hat")


GRIDS = [("vp", "uniform"), ("vp", "karras"), ("ve", "karras")]


def tends_to_the_posterior(kind, times, **how):
    """Raises Mistake unless the mean is exact and the variance's error falls as 1 / S."""
    few, many = (sampled(kind, S, times, **how) for S in (50, 400))
    if not few[0] < 1e-6:
        raise Mistake("the mean of the samples is off: it is exact at any number of steps")
    if not (many[1] < 0.04 and many[1] < 0.2 * few[1] < 0.05):
        raise Mistake("the variance of the samples does not come near as 1 / evaluations")


@graded("dbim")
@pytest.mark.parametrize("kind, times", GRIDS)
@pytest.mark.parametrize("eta", [0, 0.5, 1])
def test_dbim_reproduces_a_gaussian(kind, times, eta):
    """Otherwise the step is not DBIM's: mean and variance approach the posterior as 1 / S."""
    tends_to_the_posterior(kind, times, eta=eta)


@graded("dbim")
def test_dbim_against_heun(impl):
    """Otherwise a cheap sample of DBIM's is no better than one of DDBM's, in 20 evaluations."""
    theirs = error(lambda z_T, randn: heun(exact("vp"), z_T, Kernel(), 7, randn=randn), 7)[1]
    impl.number("variance error of DBIM in 20 evaluations", sampled("vp", 20)[1], 0.1562, 1e-3)
    impl.number("variance error of Heun in 20, 7 steps with churn", theirs, 0.5828, 1e-3)


@graded("evaluations")
def test_evaluations(impl):
    """Otherwise samplers are compared at unequal cost; `heun` itself is counted."""
    for n in (7, 40, 1):
        boot = "the boot costs one evaluation, as any other step, and none is at t = 0"
        told = f"evaluations of dbim, {n} steps"
        grade(impl.evaluations("dbim", n), n, {boot: n + 1, boot + "; DBIM": n - 1}, what=told)
        grade(impl.evaluations("dbim", n, 0.33), n, what=told + ", churn 0.33, which it has not")
        for churn, each in ((0.0, 2), (0.33, 3)):
            calls = []
            heun(exact("vp", calls), Z_T, Kernel(), n, churn)
            wrong = {
                "Heun's last step, to s = 0, is Euler's: one evaluation less": each * n,
                "Heun is counted once a step: each has a second evaluation, at its end": n,
                "with churn a step is also a stretch of the SDE: one evaluation more": 2 * n - 1,
                "without churn there is no stretch of the SDE": 3 * n - 1,
                "the SDE of the last step counts too: only its corrector is left out": 3 * n - 2,
            }
            told = f"evaluations of heun, {n} steps, churn {churn}"
            grade(impl.evaluations("heun", n, churn), len(calls), wrong, what=told)
    refuses(lambda: impl.evaluations("euler", 3), "sampler 'euler' has to raise a ValueError")


@graded("pinned")
@pytest.mark.parametrize("kind, times", [("vp", "uniform"), ("ve", "karras")])
def test_pinned_in_the_kernel(kind, times, impl, monkeypatch):
    """Otherwise DBIM, whose kernel it is now, misses the posterior: 1e-15 and 4 to 6 % right."""

    def call(kernel, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        return three(impl.pinned(*kernel.base(t), *kernel.base(torch.full_like(t, kernel.T))))

    monkeypatch.setattr(Kernel, "__call__", call)
    mean, var = sampled(kind, 100, times=times)
    if not (mean < 1e-6 and var < 0.06):
        raise Mistake(
            f"DBIM with your {kind} kernel: the samples' mean is off by {mean:.2g} std, their "
            f"variance by {var:.1%}"
        )


# -- order 2 as an exercise


def integral(lam_s, now, before=None, weight=lambda h: h + torch.expm1(-h)):
    """int exp(lam) z0_hat(lam) dlam from now = (lam_t, z0_hat at t) to lam_s.

    z0_hat is constant, or the line through now and before = (lam_u, z0_hat at u)."""
    lam, z = now
    h = lam_s - lam
    total = -torch.expm1(-h) * z
    if before:
        total = total + weight(h) * (z - before[1]) / (lam - before[0])
    return lam_s.exp() * total


def by_orders(denoise, z_T, kernel, times, randn, order=2, integral=integral, hold=1):
    """DBIM at eta = 0 by its ODE, d(z / std) = z_T d(a / std) + z0_hat d exp(lam)."""
    a, b, std = kernel(times[1])
    z = a * z_T + b * denoise(z_T, times[0]) + std * randn(z_T.shape, device=z_T.device)
    before = None
    for t, s in zip(times[1:-1], times[2:], strict=True):
        (a, b, std), (a_s, b_s, std_s) = kernel(t), kernel(s)
        z0_hat = denoise(z, t)
        if s == 0:
            return z0_hat
        now = (b / std).log(), z0_hat
        moved = std_s * integral((b_s / std_s).log(), now, before)
        z = std_s / std * z + (a_s - hold * a * std_s / std) * z_T + moved
        before = now if order > 1 else None
    return z


def mistakes_of_order_2(*case):
    """{what is said: the sample of this mistake}."""

    def negative(lam_s, now, before):
        return integral(lam_s, now, before and (2 * now[0] - before[0], before[1]))

    def over_the_step(lam_s, now, before):
        return integral(lam_s, now, before and (2 * now[0] - lam_s, before[1]))

    do = functools.partial(by_orders, *case)
    weighted = lambda weight: do(integral=functools.partial(integral, weight=weight))
    middle = "this is DPM-Solver++'s rule, the slope up to the middle of the step, (1 - e^-h) h / 2"
    return {
        "this is order 1: z0_hat is held over the step, its slope is not used": do(order=1),
        "the slope has the wrong sign: z0_hat at t less that at u, over lam_t - lam_u": do(
            integral=negative
        ),
        "the slope is over the step that was, lam_t - lam_u, not the one to come": do(
            integral=over_the_step
        ),
        middle + ": here exp(lam) times the line is integrated exactly": weighted(
            lambda h: -torch.expm1(-h) * h / 2
        ),
        "the slope has the weight h^2 / 2, which is right for small h only": weighted(
            lambda h: h**2 / 2
        ),
        "of z_t, std_s / std_t is kept, and a_t z_T is in it: z_T's own weight is less": do(hold=0),
    }


@graded("dbim2")
@pytest.mark.parametrize("kind", KINDS)
def test_order_2_step_by_step(kind, impl):
    """Otherwise a step of order 2 is not the integral of exp(lam) times a line."""
    T, noise, z_T = END[kind], *torch.randn(2, B, N, D).double()
    times = [x * T for x in (1.0, 0.8, 0.5, 0.3, 0.1, 0.0)]
    for n, told, nan in (
        (2, "z after the boot", "off z_T there is no lambda: the first step is DBIM's boot"),
        (3, "z after the first step from a lambda", "T has no lambda, so its z0_hat has no slope"),
        (4, "z after the first step of order 2", "lambda is ln(b_t / std_t)"),
        (5, "z after the second step of order 2", "lambda is ln(b_t / std_t)"),
        (6, "z_0", "lambda is infinite at s = 0: there, z_0 is z0_hat"),
    ):
        case = lambda z, t: z.sin() + t / T, z_T, Kernel(kind), times[:n], lambda *_, **__: noise
        got = impl.dbim2(*case)
        if got is not None and torch.as_tensor(got).isnan().any():
            raise Mistake(f"NaN: {nan}")
        grade(got, by_orders(*case), mistakes_of_order_2(*case), rtol=1e-6, what=told)


@graded("dbim2")
@pytest.mark.parametrize("kind, times", GRIDS)
def test_order_2_reproduces_a_gaussian(kind, times, impl):
    """Otherwise noise is drawn after the boot, or the network is asked twice a step."""
    tends_to_the_posterior(kind, times, sampler=impl.dbim2, noises=1)


@graded("dbim2")
def test_order_2_is_better(impl):
    """Otherwise extrapolation gains nothing: at 20 evaluations."""
    error = sampled("vp", 20, sampler=impl.dbim2)[1]
    impl.number("variance error of order 2 in 20 evaluations", error, 0.0776, 1e-3)
    error, first = (sampled("ve", 20, "karras", f)[1] for f in (impl.dbim2, None))
    if not error < 0.6 * first:
        raise Mistake(
            f"VE, Karras grid: the error {error:.3f} is not half of order 1's, {first:.3f}"
        )


def test_the_oracle_of_order_2():
    """Otherwise lambda or its integral is off: with one past value it is DBIM's own step."""
    noise, z_T, f = *torch.randn(2, B, N, D).double(), lambda z, t: z.sin() + t
    for times in ([1.0, 0.8, 0.5], [1.0, 0.8, 0.5, 0.2, 0.0]):
        case = f, z_T, Kernel(), times
        one = by_orders(*case, lambda *_, **__: noise, order=1)
        close(dbim(*case, randn=lambda *_, **__: noise), one)
    lam = torch.tensor([0.4, -0.5, 1.7]).double()
    for poly in (np.polynomial.Polynomial([0.7]), np.polynomial.Polynomial([0.7, -1.3])):
        now, before = [(x, poly(x)) for x in lam[:2]]
        want = quad(lambda x, poly=poly: math.exp(x) * poly(x), lam[0], lam[2])[0]
        assert integral(lam[2], now, before).item() == pytest.approx(want, rel=1e-9)


def test_grid():
    """Otherwise an end is missed, an evaluation more or less is counted, or times go up."""
    for kind, T in (("uniform", 1.0), ("karras", 80.0)):
        for S in (1, 2, 3, 17):
            times = time_grid(S, T, kind)
            assert len(times) == S + 1 and times[0] == T and times[-1] == 0
            assert (np.diff(times) < 0).all()
            assert S == 1 or times[1] == pytest.approx(T * (1 - 1e-3))
    gaps = np.diff(time_grid(17, 1.0, "uniform"))[1:]
    np.testing.assert_allclose(gaps, gaps[0])
    roots = np.array(time_grid(17, 80.0, "karras"))[1:-1] ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0])


def ddbm(denoise, z_T, kind, n, churn, randn):
    """DDBM's sampler from its printed f, g^2, s and h, in place of `heun`."""
    T = END[kind]
    s_T, var_T = base(kind, T)

    def field(z, t, share):  # f - g^2 (share s - h): share 1/2 the ODE, 1 the SDE
        (a, b, std), (s_t, var) = conditioned(kind, t), base(kind, t)
        score = -(z - a * z_T - b * denoise(z, t)) / std**2
        ratio = (s_t**2 / var) / (s_T**2 / var_T)  # SNR_t / SNR_T
        h = (s_t / s_T * z_T - z) / (var * (ratio - 1))
        f, g2 = (-(0.1 + 2 * t) / 2 * z, 0.1 + 2 * t) if kind == "vp" else (0 * z, 2 * t)
        return f - g2 * (share * score - h), g2

    times = np.append(np.linspace((0.9999 * T) ** (1 / 7), (1e-4 * T) ** (1 / 7), n) ** 7, 0)
    z = z_T
    for t, s in zip(times[:-1], times[1:], strict=True):
        if churn:
            dt = churn * (t - s)
            slope, g2 = field(z, t, 1)
            z, t = z - dt * slope + math.sqrt(g2 * dt) * randn(z.shape), t - dt
        d = field(z, t, 0.5)[0]
        if s > 0:
            d = (d + field(z + (s - t) * d, s, 0.5)[0]) / 2
        z = z + (s - t) * d
    return z


@pytest.mark.parametrize("kind", KINDS)
def test_heun(kind):
    """Otherwise Heun is not DDBM's hybrid sampler: drift, noise, grid or NFE are off."""
    k = Kernel(kind)
    for n, churn in ((6, 0.33), (6, 0.0), (40, 0.33)):
        calls, draw = [], n if churn else 0
        ours = lambda z_T, randn: heun(exact(kind, calls), z_T, k, n, churn, randn=randn)
        mean, var = impulses(ours, draw)
        theirs = lambda z_T, randn: ddbm(exact(kind), z_T, kind, n, churn, randn)
        close((mean, var), impulses(theirs, draw), rtol=1e-5, atol=1e-6)
        assert len(calls) == (3 * n - 1 if churn else 2 * n - 1)
        assert (var == 0).all() or churn
    assert ((mean - MEAN).abs() < 0.035 * VAR.sqrt()).all()
    assert var[0, 0].sqrt().item() == pytest.approx(0.42, abs=0.01)  # VAR's first is 0.4^2
    finer = error(lambda z_T, randn: heun(exact(kind), z_T, k, 160, randn=randn), 160)
    assert finer[0] < 0.01 and finer[1] < 0.06, finer  # the error of the variance at 40: 0.12


# -- the denoiser


def randomise(module):
    """Zero-initialised gates hide every fault behind them."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module


def denoiser(design):
    return randomise(bridge_networks.make_denoiser(design, N, D, W, heads=2, layers=3))


def inputs():
    return torch.randn(B, N, D), -200 * torch.rand(B), torch.randn(B, N, D)


@pytest.mark.parametrize("design", DESIGNS)
def test_designs(design):
    """Otherwise a parameter is dead, rows mix, or z_t, t or z_T does not reach every answer."""
    net, (z, c, z_T) = denoiser(design), inputs()
    new = bridge_networks.make_denoiser(design, N, D, W, 2)
    assert (new(z, c, new.remember(z_T)) == 0).all()
    run = lambda z, c, z_T: net(z, c, net.remember(z_T))
    out = run(z, c, z_T)
    assert out.shape == (B, N, D)
    (out * torch.randn(B, N, D)).sum().backward()
    for p in net.parameters():  # every column of a matrix: the U-Net's skip is half of one
        columns = p.grad.transpose(0, 1).flatten(1) if p.ndim > 1 else p.grad[None]
        assert (columns.abs().sum(1) > 0).all()
    close(run(z[2:3], c[2:3], z_T[2:3]), out[2:3], rtol=1e-4, atol=1e-5)
    step = torch.zeros(N, D)
    step[1, 2] = 1  # one token is enough to be seen by all
    for changed in (run(z + step, c, z_T), run(z, c + 9, z_T), run(z, c, z_T + step)):
        assert ((changed - out).abs().sum(2) > 1e-6).all()


def test_gates_start_at_zero():
    """Otherwise adaLN-zero is not: a new block must be the identity, both its gates closed."""
    h, block = torch.randn(B, N, W), bridge_networks.DecoderBlock(W, 2)
    assert torch.equal(block(h, torch.randn(B, W), memory=None), h)


@pytest.mark.parametrize("design", DESIGNS[1:])
def test_token_i_answers_for_position_i(design):
    """Otherwise tokens and places part, or z_t, z_T or the masks do not know their places."""
    net, (z, c, z_T), order = denoiser(design), inputs(), torch.tensor([2, 0, 3, 1])
    run = lambda z, z_T: net(z, c, net.remember(z_T))
    same = lambda p, q: torch.allclose(p, q, rtol=1e-4, atol=1e-4)
    out, places = run(z, z_T), design in ("spatial", "mask")
    assert same(run(z[:, order], z_T[:, order]), out[:, order]) != places
    assert same(run(z, z_T[:, order]), out) == (design == "encoder-decoder")  # memory is a set
    assert not same(run(z[:, order], z_T), out) and not same(out[:, order], out)
    if places:
        net.place.data = net.place.data[order]
    assert same(run(z[:, order], z_T[:, order]), out[:, order])


def test_unet_token_i_is_place_i():
    """Otherwise the grid is filled by channels: transposed kernels must give transposed answers."""
    net, (z, c, z_T) = denoiser("unet"), inputs()
    out, turn = net(z, c, z_T), lambda z: z.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
    for p in net.parameters():
        if p.ndim == 4:
            p.data = p.data.transpose(2, 3).contiguous()
    close(net(turn(z), c, turn(z_T)), turn(out), rtol=1e-4, atol=1e-5)


def test_answers_are_read_at_the_masks():
    """Otherwise [MASK] does nothing: with no attention a mask knows t alone, a token its z_t."""
    for design, knows in (("mask", False), ("spatial", True)):
        net, (z, c, z_T) = denoiser(design), inputs()
        for m in net.modules():
            if isinstance(m, bridge_networks.Attention):
                m.out.weight.data.zero_()
        memory = net.remember(z_T)
        assert torch.allclose(net(z, c, memory), net(-z, c, memory)) != knows


# -- encoders and decoders


SHAPES = (11,), (1, 8, 8), (3, 20, 28), (8, 12, 16), (3, 1, 12, 20)


@pytest.mark.parametrize("shape, tokens", [(s, n) for s in SHAPES for n in (4, 16)], ids=str)
def test_encoder_and_decoder_take_any_shape(shape, tokens):
    """Otherwise a shape is lost, or a pixel, a view or a number of the latent is ignored."""
    E, G = ModalityEncoder(shape, tokens, D, W), ModalityDecoder(shape, tokens, D, W)
    x = torch.randn(B, *shape, requires_grad=True)
    z = torch.randn(B, tokens, D, requires_grad=True)
    assert E(x).shape == (B, tokens, D) and G(z).shape == (B, *shape)
    close(E(x[1:3]), E(x)[1:3], rtol=1e-4, atol=1e-5)
    (E(x) * torch.randn(B, tokens, D)).sum().backward()
    (G(z) * torch.randn(B, *shape)).sum().backward()
    assert (x.grad != 0).all() and (z.grad != 0).all()
    assert all((p.grad != 0).any() for p in [*E.parameters(), *G.parameters()])


def test_tokens_keep_their_place():
    """Otherwise token i is not place i, row by row. (Without GroupNorm, which spreads.)"""
    E, G = ModalityEncoder((1, 32, 32), 16, D, W), ModalityDecoder((1, 32, 32), 16, D, W)
    for convs in (E.convs, G.convs):
        for k, layer in enumerate(convs):
            if isinstance(layer, torch.nn.GroupNorm):
                convs[k] = torch.nn.Identity()
    x, z = torch.randn(1, 1, 32, 32), torch.randn(1, 16, D)
    corner, token = x.clone(), z.clone()
    corner[0, 0, 0, 31] += 1  # top right
    token[0, 3] += 1  # top right
    moved = (E(corner) != E(x)).any(2).reshape(4, 4)
    assert moved[0, 3] and not moved[3, 0]
    moved = (G(token) != G(z))[0, 0]
    assert moved[0, 31] and not moved[31, 0]


def test_views_are_seen_one_by_one():
    """Otherwise a view is seen through another's weights, or a place of it is another place."""
    E, G = ModalityEncoder((3, 1, 12, 20), 4, D, W), ModalityDecoder((3, 1, 12, 20), 4, D, W)
    y, z = torch.randn(B, 3, 1, 12, 20), torch.randn(B, 4, D)
    before, made = E(y), G(z)
    order = [2, 0, 1]
    assert not torch.allclose(E(y[:, order]), before, atol=1e-3)
    # Views in another order, and the weights of their places in the same: all is as it was.
    weight = E.mix.weight.data.unflatten(2, (3, 4))
    E.mix.weight.data = weight[:, :, order].flatten(2)
    close(E(y[:, order]), before, rtol=1e-4, atol=1e-5)
    weight = G.mix.weight.data.unflatten(1, (3, 4))
    G.mix.weight.data = weight[:, order].flatten(1, 2)
    close(G(z), made[:, order], rtol=1e-4, atol=1e-5)

    # A weight of 1 brings one place's channels, those of one group, to one token.
    mix = bridge_networks.Mix(6, 5)
    mix.weight.data = torch.zeros_like(mix.weight)
    mix.weight.data[1, 4, 2] = 1
    h = torch.randn(B, 6, 24)
    wanted = torch.zeros(B, 5, 24)
    wanted[:, 4, 3:6] = h[:, 2, 3:6]
    assert torch.equal(mix(h), wanted)


# -- units, preconditioning


def tiny(y=(11,), x=(1, 8, 8), **kw):
    bridge = Bridge(y, x, **{**dict(N=N, D=D, width=W, heads=2, layers=1, conv=W), **kw})
    return randomise(bridge)


def batch(n=B):
    return torch.randn(n, 11), torch.randint(256, (n, 1, 8, 8), dtype=torch.uint8)


def test_units():
    """Otherwise images are not in [-1, 1], voxels not -1 and 1, floats not of unit size."""
    y, bridge = 3 * torch.randn(40, 11) + 7, tiny()
    bridge.fit(y.numpy(), np.zeros((2, 1, 8, 8), np.uint8))
    y_s = bridge.scale_y(y)
    close(torch.stack([y_s.mean(), y_s.square().mean()]), torch.tensor([0.0, 1]), rtol=0, atol=1e-4)
    x = torch.tensor([0, 255, 51]).byte()[:, None, None, None].expand(3, 1, 8, 8)
    close(bridge.scale_x(x)[:, 0, 0, 0], torch.tensor([-1, 1, -0.6]))
    close(bridge.unscale(bridge.scale_x(x)), x.float())
    solids = tiny(x=(8, 6, 7))
    solids.fit(y.numpy(), np.zeros((2, 8, 6, 7), bool))
    for occupied in (False, True):
        x_s = solids.scale_x(torch.full((2, 8, 6, 7), occupied))
        assert x_s.unique().item() == (1 if occupied else -1)


def test_latents_have_a_fixed_scale():
    """Otherwise latents drift or collapse: each token has mean 0 and mean square 1."""
    bridge, (y, x) = tiny(), batch()
    for z in (*bridge.latents(y, x), bridge.latents(100 * y, x)[0]):
        close(z.mean(2), torch.zeros(B, N), rtol=0, atol=1e-5)
        close(z.square().mean(2), torch.ones(B, N), rtol=0, atol=1e-3)
    z_T, z_0 = bridge.latents(y, x)
    close(bridge.reconstruct(x), bridge.D_x(z_0))
    bridge.measure(2 * z_0, z_T)  # E z_0^2, E z_T^2, E z_0 z_T: 1, 1, 0 at first
    moments = torch.tensor([1.03, 1, 0.02 * (z_0 * z_T).mean().item()])
    close(bridge.moments, moments, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_preconditioning_is_least_squares(kind):
    """Otherwise the skip is not the best linear guess, c_out not its error, c_in z_t not of unit
    size, or the network sees another time than 250 ln t. Data whose moments are exact."""
    m_0, m_T, m_0T = 0.7, 1.9, 0.5
    e = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 3)))[0] * math.sqrt(60)
    z_0 = math.sqrt(m_0) * e[:, 0]
    z_T = m_0T / m_0 * z_0 + math.sqrt(m_T - m_0T**2 / m_0) * e[:, 1]
    bridge = tiny(kernel=kind)
    bridge.moments.copy_(torch.tensor([m_0, m_T, m_0T]))
    seen, F = [], torch.randn(60, 1, 1)
    bridge.net.forward = lambda z, c, memory: seen.append((z, c, memory)) or F
    for t in (1e-3 * END[kind], 0.5 * END[kind], END[kind]):
        a, b, std = conditioned(kind, t)
        z_t = a * z_T + b * z_0 + std * e[:, 2]
        (skip,), (rest,) = np.linalg.lstsq(z_t[:, None], z_0, rcond=None)[:2]
        size = math.sqrt((z_t**2).mean())
        ours = [c.item() for c in bridge.precondition(torch.tensor(t).double())]
        assert ours == pytest.approx([skip, math.sqrt(rest / 60), 1 / size], rel=1e-5)
        of = lambda v: torch.tensor(v).float()[:, None, None]
        z0_hat = bridge.denoise(of(z_t), torch.full((60,), t).double(), "memory")
        close(z0_hat, skip * of(z_t) + math.sqrt(rest / 60) * F, rtol=1e-4, atol=1e-4)
        close(seen[-1][0], of(z_t / size), rtol=1e-4, atol=1e-4)
        assert seen[-1][1][0].item() == pytest.approx(250 * math.log(t)) and seen[-1][2] == "memory"


# -- losses


def cosines(u, v, dims):
    """(B, B) of u, v (B, N, D), numpy, as unit vectors over dims; None: as they are."""
    unit = lambda z: z if dims is None else z / np.sqrt((z**2).sum(dims, keepdims=True))
    return np.einsum("ind,jnd->ij", unit(u.numpy()), unit(v.numpy()))


def nce(S, counts, right=None):
    """Mean over rows i of -ln(sum_j right_ij e^S_ij / sum_j counts_ij e^S_ij), (B, B) bools."""
    share = np.where(np.eye(len(S)) if right is None else right, np.exp(S), 0).sum(1)
    return -np.log(share / np.where(counts, np.exp(S), 0).sum(1)).mean()


def nces_gone_wrong(u, v, tau):
    """{what is said: the loss of this mistake}."""
    S, every = cosines(u, v, (1, 2)) / tau, np.ones((len(u), len(u)), bool)
    others = every & ~np.eye(len(u), dtype=bool)
    both = lambda S, counts=every: (nce(S, counts) + nce(S.T, counts)) / 2
    one = "one direction only: the other half of the loss is z_{} finding its z_{}"
    return {
        "the printed sign, which pushes pairs apart: a logarithm of p <= 1 wants a minus": -both(S),
        one.format("T", 0): nce(S, every),
        one.format(0, "T"): nce(S.T, every),
        "tau is multiplied: the scores are divided by it": both(S * tau**2),
        "twice as large: a mean over the items, and over the two directions": 2 * both(S),
        "a sum over the batch: the loss is a mean over items": len(u) * both(S),
        "latents are not made unit vectors": both(cosines(u, v, None) / tau),
        "tokens are made unit vectors, not items": both(cosines(u, v, (2,)) / tau),
        "the right pair is missing in the softmax's sum, which is over all j": both(S, others),
    }


@graded("info_nce")
def test_info_nce_by_hand(impl):
    """Otherwise InfoNCE has the wrong sign, scale or temperature, or only one direction.

    Two tokens of one number each: u = (1, 0), (0, 1); v = (1, 0), (.6, .8); tau = 1/2.
    u v' / tau = [[2, 1.2], [0, 1.6]]. Rows: ln(1 + e^-.8) = .37110, ln(1 + e^-1.6) = .18390.
    Columns: ln(1 + e^-2) = .12693, ln(1 + e^-.4) = .51302. The mean of the four is .29874."""
    z = torch.randn(2, B, N, D)
    S, every = cosines(*z, (1, 2)) / 0.3, np.ones((B, B), bool)
    want = (nce(S, every) + nce(S.T, every)) / 2
    grade(info_nce(*z, 0.3), want, nces_gone_wrong(*z, 0.3), what="InfoNCE of five pairs")
    u, v = torch.tensor([[[1.0, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])[..., None]
    for pair in ((u, v), (v, u), (7 * u, 0.2 * v)):
        impl.number("InfoNCE of the case by hand", info_nce(*pair, 0.5).item(), 0.29874, 2e-5)
    z = z[0]
    assert info_nce(u, v, 0.1) < 0.15 < info_nce(u, v, 0.5)
    assert info_nce(z, z, 0.5) < info_nce(z, z + z.roll(1, 0), 0.5) < info_nce(z, z.roll(1, 0), 0.5)


@graded("info_nce_twins")
def test_info_nce_twins(impl):
    """Otherwise one picture under two names is pushed away from itself, or its pair is lost."""
    u, v = torch.randn(2, B, N, D)
    S, own = cosines(u, v, (1, 2)) / 0.3, np.eye(B, dtype=bool)
    for names in ([0, 1, 2, 3, 4], [3, 0, 3, 2, 0], [1, 1, 1, 4, 0], [7] * B):
        twins = torch.tensor(names)
        alike = (twins[:, None] == twins).numpy()
        far, every = ~alike | own, own | True
        two = lambda f: (f(S) + f(S.T)) / 2
        second = "a twin counts as a second positive: the right answer for item i is pair i alone"
        still = "twins still count as negatives of each other"
        mean_of_alike = lambda S: np.log(np.exp(S).sum(1)) - (S * alike).sum(1) / alike.sum(1)
        wrong = {
            still: two(lambda S: nce(S, every)),
            still + " in the other direction": (nce(S, far) + nce(S.T, every)) / 2,
            still + " in one direction": (nce(S, every) + nce(S.T, far)) / 2,
            "a score of 0 still counts, as e^0 = 1: put -inf": two(lambda S: nce(S * far, every)),
            second: two(lambda S: nce(S, every, alike)),
            second + ", not a mean over all alike": two(mean_of_alike).mean(),
            **nces_gone_wrong(u, v, 0.3),
        }
        got = impl.info_nce_twins(u, v, 0.3, twins)
        if got is not None and not torch.as_tensor(got).isfinite().all():
            raise Mistake("NaN or Inf: every item is its own twin, but its own pair has to stay")
        want = two(lambda S: nce(S, far))
        grade(got, want, wrong, atol=1e-6, what=f"the loss of twins {names}")


def noise_at(t):
    return lb.BridgeNoise(torch.as_tensor(t).double().expand(B), torch.randn(B, N, D))


def got(bridge):
    """Which parts have gradients; a part either has all of its own or none."""
    parts = {}
    for name, p in bridge.named_parameters():
        parts.setdefault(name.split(".")[0], []).append(p.grad is not None and p.grad.any().item())
    assert all(any(v) == all(v) for k, v in parts.items() if k != "net"), parts
    return {k for k, v in parts.items() if any(v)}


def check_frozen(bridge, turn, want, again=False):
    """Raises Mistake unless the parts in `want`, and no others, may move; again: after a turn."""
    may = {k: {p.requires_grad for p in v.parameters()} for k, v in bridge.named_children()}
    halves, free = [k for k in may if len(may[k]) > 1], {k for k in may if may[k] == {True}}
    if free == want and not halves:
        return
    if again and not free & want:
        raise Mistake(
            f"turn {turn!r} after another one: nothing may move. What was frozen before stays "
            "frozen: requires_grad has to be set back to True"
        )
    told = f"{' '.join(sorted(free)) or 'nothing'} may move, it should be {' '.join(sorted(want))}"
    if halves:
        told = f"only some of the parameters of {' '.join(halves)} are frozen"
    elif free == set(may):
        told = "nothing is frozen"
    elif free == set(may) - want:
        told = "the two sides have changed places"
    elif free | {"D_y"} == want:
        told = "D_y, which is there with rec=True, is one of the modality models"
    raise Mistake(f"turn {turn!r}: {told}")


@graded("Bridge.freeze")
@pytest.mark.parametrize("rec", [False, True])
def test_only_whose_turn_it_is_moves(rec):
    """Otherwise a frozen side moves, or one that should does not."""
    modality = {"E_x", "E_y", "D_x"} | ({"D_y"} if rec else set())
    want = {"bridge": {"net"}, "modality": modality, "both": modality | {"net"}, "apart": modality}
    for turn, parts in want.items():
        bridge = tiny(rec=rec)
        total, *three = bridge.loss(*batch(), noise_at(0.6), turn)
        check_frozen(bridge, turn, parts)
        total.backward()
        assert got(bridge) == parts, turn
        pred = turn != "bridge" or not rec  # L_pred is the bridge's loss too; L_rec is not
        asked = [turn in ("bridge", "both"), pred, turn != "bridge"]
        assert [v.item() != 0 for v in three] == asked, turn
        before = {k: v.clone() for k, v in bridge.named_parameters()}
        torch.optim.AdamW(bridge.parameters(), 0.1).step()
        moved = {k.split(".")[0] for k, v in bridge.named_parameters() if (v != before[k]).any()}
        assert moved == parts, turn
    for turn in ("bridge", "modality", "bridge", "both", "apart", "both"):
        bridge.freeze(turn)
        check_frozen(bridge, turn, want[turn], again=True)


@graded("turn_step")
def test_turn_step(impl):
    """Otherwise one AdamW moves what is frozen, by old gradients, momentum or weight decay.

    The oracle: an optimiser for each side, stepped in its own turns only."""
    mine, shares = tiny(), {}
    mine.fit(*(items.numpy() for items in batch(40)))
    theirs = copy.deepcopy(mine)
    parts = {"bridge": ["net"], "modality": ["E_x", "E_y", "D_x"]}
    adamw = lambda ps: torch.optim.AdamW(ps, 0.01, weight_decay=0.1)
    of = lambda side: [p for part in parts[side] for p in getattr(theirs, part).parameters()]
    sides = {side: adamw(of(side)) for side in parts}
    flat = lambda bridge: torch.cat([p.detach().flatten() for p in bridge.parameters()])
    one = adamw(mine.parameters())
    for turn in ("bridge", "modality", "bridge", "bridge", "both", "apart", "modality"):
        args = (*batch(), lb.draw_bridge_noise(B, N, D), turn)
        old = {k: p.detach().clone() for k, p in mine.named_parameters()}
        state = copy.deepcopy(one.state_dict()["state"])
        start, loss = flat(mine), impl.turn_step(mine, one, *args)
        theirs.zero_grad()
        total, L_bridge, L_pred, _ = theirs.loss(*args)
        total.backward()
        whose = {"bridge": ["bridge"], "both": [*sides]}.get(turn, ["modality"])
        for side in whose:
            sides[side].step()
        ours = [part for side in whose for part in parts[side]]
        for name, p in mine.named_parameters():
            if name.split(".")[0] not in ours and not torch.equal(p, old[name]):
                raise Mistake(f"turn {turn!r}: {name} should be frozen and moves: {why(p)}")
        now = one.state_dict()["state"]
        for i, (name, _) in enumerate(mine.named_parameters()):
            kept = i not in now or (
                i in state
                and all(map(torch.equal, *([d[i][k] for k in now[i]] for d in (now, state))))
            )
            if name.split(".")[0] not in ours and not kept:
                raise Mistake(
                    f"turn {turn!r}: {name} stays, but the optimizer has stepped it: its momentum "
                    "is another one now, and its next turn starts from that"
                )
        if torch.equal(flat(mine), start):
            raise Mistake("no parameter moves: does the optimizer step, after backward()?")
        if not one.state:
            raise Mistake("the optimizer that was handed in has not stepped: momentum is lost")
        if not isinstance(loss, float):
            told = "a tensor would keep its graph alive"
            raise Mistake(f"turn_step returns {type(loss).__name__}, not a float; {told}")
        part = "this is one part of the loss: the first number of bridge.loss is the whole"
        wrong = {part + ", not L_bridge": L_bridge, part + ", not L_pred": L_pred}
        grade(loss, total, wrong, what=f"the loss of turn {turn!r}")
        told = f"turn {turn!r}, beside an AdamW for each side: a parameter"
        grade(flat(mine), flat(theirs), rtol=1e-4, atol=1e-5, what=told)
        shares[turn] = (flat(mine) != start).double().mean().item()
    told = "share of the parameters that the modality turn moves"
    impl.number(told, shares["modality"], 0.5706, 1e-4)


def why(p):
    """Of a parameter that moved in the other side's turn."""
    if p.requires_grad:
        return "does bridge.loss get this turn?"
    if p.grad is None:
        return "its gradient has to be None when the optimizer steps"
    if p.grad.any():
        return "its gradient is one of an earlier turn, which AdamW takes again"
    return "its gradient is 0, not None, so momentum and weight decay move it (set_to_none)"


@graded("Bridge.freeze")
def test_stop_gradient_and_no_leak_at_T():
    """Otherwise L_bridge may collapse E_x, or L_pred at t = T sees the target it is to predict."""
    bridge, (y, x) = tiny(), batch()
    bridge.loss(y, x, noise_at(0.6), "both", w_pred=0, w_nce=0)[0].backward()
    assert got(bridge) == {"net", "E_y"}
    bridge.zero_grad()
    bridge.loss(y, x, noise_at(1.0), "modality", w_nce=0)[0].backward()
    check_frozen(bridge, "modality", {"E_x", "E_y", "D_x"})
    if "E_y" not in got(bridge):
        raise Mistake(
            "E_y gets no gradient of L_pred, which comes through the denoiser: freeze its weights "
            "by requires_grad; torch.no_grad() cuts the graph"
        )
    assert got(bridge) == {"E_y", "D_x"}  # through the frozen denoiser
    z_T, z_0 = bridge.latents(y, x)
    for t, leaks in ((1.0, False), (0.5, True)):
        noise = noise_at(t)
        guess = [bridge.estimate(z, z_T, noise) for z in (z_0, -z_0)]
        assert (guess[0] != guess[1]).any() == leaks


@pytest.mark.parametrize("kind", KINDS)
def test_losses_by_hand(kind):
    """Otherwise a weight, a square, 1 / c_out^2, the gathered negatives or D_y is missing."""
    bridge, (y, x), T = tiny(kernel=kind, rec=True), batch(), END[kind]
    noise = lb.draw_bridge_noise(B, N, D, T)
    gather = lambda z: torch.cat([z, z.flip(2)])
    total, *three = bridge.loss(y, x, noise, "both", 0.3, 4.0, gather)
    z_T, z_0 = bridge.latents(y, x)
    now = torch.stack([(z_0**2).mean(), (z_T**2).mean(), (z_0 * z_T).mean()])
    close(bridge.moments, torch.tensor([0.99, 0.99, 0]) + 0.01 * now)
    coefficients = [conditioned(kind, t) for t in noise.t.tolist()]
    a, b, std = torch.tensor(coefficients).T[:, :, None, None]
    z_t = a * z_T + b * z_0 + std * noise.eps
    z0_hat = bridge.denoise(z_t, noise.t, bridge.net.remember(z_T))
    m_0, m_T, m_0T = bridge.moments
    A = a**2 * m_T + b**2 * m_0 + 2 * a * b * m_0T + std**2
    left = m_0 - (b * m_0 + a * m_0T) ** 2 / A  # E z_0^2 without what z_t explains
    x_s, y_s = bridge.scale_x(x), bridge.scale_y(y)
    square = lambda e: e.square().mean()
    rec = square(bridge.D_x(z_0) - x_s) + square(bridge.D_y(z_T) - y_s)
    nce = info_nce(gather(z_0), gather(z_T), 0.07)
    want = ((z0_hat - z_0) ** 2 / left).mean(), rec, nce
    close(torch.stack(three), torch.stack(want), rtol=1e-3, atol=1e-4)
    close(total, three[0] + 0.3 * three[1] + 4.0 * three[2])
    bridge.rec = False
    close(bridge.loss(y, x, noise, "apart")[2], square(bridge.D_x(z_0) - x_s))
    pred = square(bridge.D_x(z0_hat) - x_s)
    half = square(bridge.D_x(z_0[::2]) - x_s[::2])
    for turn in ("modality", "bridge", "both"):  # moments moved on: hence the tolerance
        want = pred + half if turn == "both" else pred
        close(bridge.loss(y, x, noise, turn)[2], want, rtol=2e-2, atol=1e-3)


def test_in_turn_both_the_denoiser_gets_z_0_like_data():
    """Otherwise L_bridge and L_pred reach E_x through z_t: it tells what is easy to guess, and the
    autoencoder's best falls from 25 to 17 dB. What moves E_x is L_rec of every second row alone."""
    bridge, (y, x), noise = tiny(), batch(), noise_at(0.6)
    bridge.loss(y, x, noise, "both", w_nce=0)[0].backward()
    ours = [p.grad.clone() for p in bridge.E_x.parameters()]
    bridge.zero_grad()
    bridge.rec_loss(*reversed(bridge.latents(y[::2], x[::2])), y[::2], x[::2]).backward()
    for p, grad in zip(bridge.E_x.parameters(), ours, strict=True):
        close(p.grad, grad, rtol=1e-4, atol=1e-6)
    # In its own turn E_x does learn through the frozen denoiser, from L_pred.
    bridge.zero_grad()
    bridge.loss(y, x, noise, "modality", w_nce=0)[0].backward()
    assert got(bridge) == {"E_x", "E_y", "D_x"}


def test_occupied_voxels_weigh_more():
    """Otherwise rooms stay empty: 3 % of the voxels are occupied, and "empty" is nearly right."""
    x = torch.zeros(6, 5, 4, 3, dtype=torch.bool)
    x[:, 0, :2] = True  # 6 of 60 voxels: w = sqrt(54 / 6) = 3
    bridge = tiny(x=(5, 4, 3))
    bridge.fit(np.zeros((2, 11)), x.numpy())
    x_s, x_hat = bridge.scale_x(x), torch.randn(6, 5, 4, 3)
    on, off = ((x_hat - x_s)[mask].square().sum() for mask in (x, ~x))
    close(bridge.distance(x_hat, x_s), (3 * on + off) / (3 * 36 + 324))
    for balance, w in ((1, 9), (0, 1), (0.25, 3**0.5)):
        bridge.fit(np.zeros((2, 11)), x.numpy(), balance)
        close(bridge.distance(x_hat, x_s), (w * on + off) / (w * 36 + 324))
    z = torch.randn(6, N, D)
    close(bridge.pred_loss(z, x), bridge.distance(bridge.D_x(z), x_s))
    close(bridge.rec_loss(z, None, None, x), bridge.distance(bridge.D_x(z), x_s))
    # Volumes of floats have no empty voxels, and pictures, also black and white, no voxels: a mean.
    other, picture = tiny(x=(5, 4, 3)), tiny()
    other.fit(np.zeros((2, 11)), x_hat.numpy())
    picture.fit(np.zeros((2, 11)), np.zeros((2, 1, 8, 8), bool))
    for plain in (other, picture):
        close(plain.distance(x_hat, x_s), (x_hat - x_s).square().mean())


def test_draw_noise():
    """Otherwise t leaves (0, T], is not uniform, T has another share, or seeds do not repeat."""
    draw = lambda T: lb.draw_bridge_noise(60_000, 2, 3, T, 0.2, torch.Generator().manual_seed(4))
    for T in (1.0, 80.0):
        t, eps = draw(T)
        assert t.dtype == torch.float64 and eps.shape == (60_000, 2, 3)
        assert 0.19 < (t == T).double().mean() < 0.21
        rest = t[t < T] / T
        assert 1e-4 < rest.min() < 3e-4 and abs(rest.mean() - 0.5) < 0.02 and rest.max() > 0.998
        assert all(torch.equal(p, q) for p, q in zip((t, eps), draw(T), strict=True))
    assert abs(eps.mean()) < 0.03 and abs(eps.std() - 1) < 0.03


# -- sampling


@pytest.mark.parametrize("kind", KINDS)
def test_sample(kind):
    """Otherwise sample ignores a switch, recomputes the memory at each step, or miscounts NFE."""
    bridge, (y, x) = tiny(kernel=kind), batch()
    z_T, T, k = bridge.latents(y, x)[0], END[kind], bridge.kernel
    memory, calls = bridge.net.remember(z_T), []
    f = lambda z, t: bridge.denoise(z, torch.full((B,), float(t)).double(), memory)
    for name in ("remember", "forward"):
        old = getattr(bridge.net, name)
        setattr(bridge.net, name, lambda *a, n=name, old=old: calls.append(n) or old(*a))
    fixed = lambda: functools.partial(torch.randn, generator=torch.Generator().manual_seed(5))
    karras, uniform = (time_grid(5, T, g) for g in ("karras", "uniform"))
    for how, nfe, z_0 in (
        (dict(steps=1), 1, f(z_T, T)),
        (dict(steps=1, eta=1), 1, f(z_T, T)),
        (dict(steps=5, eta=0.7), 5, dbim(f, z_T, k, uniform, 0.7, fixed())),
        (dict(steps=5, times="karras"), 5, dbim(f, z_T, k, karras, 0, fixed())),
        (dict(steps=3, sampler="heun", churn=0.2), 8, heun(f, z_T, k, 3, 0.2, randn=fixed())),
        (dict(steps=3, sampler="heun", churn=0), 5, heun(f, z_T, k, 3, 0)),
    ):
        calls.clear()
        x_hat, told = bridge.sample(y, **how, randn=fixed())
        assert sorted(calls) == ["forward"] * nfe + ["remember"] and told == nfe, how
        assert x_hat.shape == x.shape and not x_hat.requires_grad
        close(x_hat, bridge.D_x(z_0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_in_float32(kind):
    """Otherwise 0 / 0 at an end, where std = 0, or nothing random is left after the boot."""
    bridge, (y, _) = tiny(kernel=kind), batch()
    for steps in (1, 2, 3):
        for how in ({}, dict(eta=1.0), dict(sampler="heun")):
            x_hat, again = (bridge.sample(y, steps, times="karras", **how)[0] for _ in range(2))
            assert x_hat.dtype == torch.float32 and x_hat.isfinite().all(), (steps, how)
            assert torch.equal(x_hat, again) == (steps == 1 and "sampler" not in how)


def test_data_space():
    """Otherwise the data-space bridge moves its pixels, or has modality models to train."""
    bridge = Bridge((3, 8, 12), (3, 8, 12), width=W, heads=2, layers=1, data_space=True)
    y, x = torch.randint(256, (2, B, 3, 8, 12), dtype=torch.uint8)
    bridge.fit(y.numpy(), x.numpy())
    z_T, z_0 = bridge.latents(y, x)
    assert z_0.shape == (B, bridge.N, bridge.D) == (B, 6, 48)
    assert torch.equal(bridge.D_x(z_T), bridge.scale_y(y))
    assert torch.equal(bridge.reconstruct(x), bridge.scale_x(x))
    assert torch.equal(z_0[:, 4].sort(1)[0], bridge.scale_x(x)[:, :, 4:, 4:8].flatten(1).sort(1)[0])
    assert {k.split(".")[0] for k, _ in bridge.named_parameters()} == {"net"}
    bridge.loss(y, x, lb.draw_bridge_noise(B, bridge.N, bridge.D), "bridge")[0].backward()
    assert bridge.sample(y, 3)[0].shape == x.shape


def test_errors_name_the_fault():
    """Otherwise a wrong name or shape fails deep inside, or is taken for another."""
    for wrong, words in (
        (lambda: Kernel("linear"), "linear.*vp or ve"),
        (lambda: bridge_networks.make_denoiser("masks", N, D), "masks.*spatial"),
        (lambda: bridge_networks.make_denoiser("unet", 9, D), "9 tokens"),
        (lambda: bridge_networks.kind_of((2, 3)), r"\(2, 3\)"),
        (lambda: Bridge((1, 8, 8), (1, 8, 12), data_space=True), r"\(1, 8, 8\) and \(1, 8, 12\)"),
        (lambda: Bridge((11,), (11,), data_space=True), r"\(11,\)"),
        (lambda: tiny().scale_y(torch.zeros(2, 9)), r"\(2, 9\).*\(11,\)"),
        (lambda: tiny().scale_x(torch.zeros(2, 1, 8, 7)), r"\(2, 1, 8, 7\).*\(1, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_rows_stay_rows():
    """Otherwise the height of a solid is another axis in its views than in its volume."""
    volume, views = torch.randn(2, 8, 12, 16), torch.randn(2, 3, 4, 8, 12)
    images = (
        bridge_networks.as_images(volume, (8, 12, 16)),
        bridge_networks.as_images(views, (3, 4, 8, 12)),
    )
    assert images[0].shape == (2, 16, 8, 12) and images[1].shape == (6, 4, 8, 12)
    assert images[0][1, 15, 7, 3] == volume[1, 7, 3, 15]
    assert images[1][4, 2, 7, 3] == views[1, 1, 2, 7, 3]
    for x, image in zip((volume, views), images, strict=True):
        assert torch.equal(bridge_networks.from_images(image, tuple(x.shape[1:])), x)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_dbim_refuses_a_share_that_is_none(eta):
    """Otherwise a variance is less than 0, and the noise of the samples is quietly another."""
    with pytest.raises(ValueError, match=f"eta {eta}"):
        dbim(lambda z, t: z, torch.zeros(2, 3, 5), Kernel(), time_grid(3, 1.0), eta)
