"""
The translator against closed forms; no trained network. Run: pytest tests/test_translator.py

The oracle: z | c ~ N(c B + b, diag(var)) makes the best z0_hat an affine function of z_t that we
can write down. With it in place of the network the sampler is affine in its start and its noises,
so unit impulses through `randn` read off its mean and covariance exactly, without Monte Carlo.
All sizes differ, so that a swapped axis cannot pass.
"""

import numpy as np
import pytest
import torch
from grading import Mistake, grade, graded, refuses

import ddim_translator as mt
from closed_form import best_gamma, gamma_star, moments
from ddim_translator import Translator, ddim_step, draw_noise, guide, make_alpha, noised

B, H1, H2 = 5, 3, 7


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Exact(torch.nn.Module):
    """The optimal network for z_0 | c ~ N(mean(c), diag(var)), for any output; without c: var0."""

    def __init__(self, translator, mean, var, var0=None):
        super().__init__()
        self.alpha, self.predict, self.calls = translator.alpha, translator.predict, []
        self.mean, self.var, self.var0 = mean, var, var if var0 is None else var0

    def forward(self, z_t, t, c, keep=None):
        self.calls.append(len(z_t))
        a = self.alpha[t][:, None]
        mean, var = self.mean(c), self.var
        if keep is not None:
            mean = torch.where(keep[:, None], mean, -2.0)  # "unconditional": another mean
            var = torch.where(keep[:, None], var, self.var0)
        gain = a.sqrt() * var / (a * var + 1 - a)
        z_0 = mean + gain * (z_t - a.sqrt() * mean)
        eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
        v = a.sqrt() * eps - (1 - a).sqrt() * z_0
        return {"z_0": z_0, "eps": eps, "v": v, "u": eps - z_0}[self.predict]


GEN = torch.Generator().manual_seed(0)
MAP, SHIFT, VAR = (
    torch.randn(H1, H2, generator=GEN).double(),
    torch.randn(H2, generator=GEN).double(),
    torch.rand(H2, generator=GEN).double() + 0.2,
)


def exact(predict="z_0", T=1000, **kw):
    """A translator with unit scales whose network is the exact one, which is fed z_t itself."""
    tr = Translator(H1, H2, width=8, layers=3, T=T, predict=predict, faded=False, **kw)
    tr.alpha = make_alpha(T)
    tr.net = Exact(tr, lambda c: c @ MAP + SHIFT, VAR)
    return tr


def impulses(tr, c, steps, eta):
    """(mean, covariance) of CDIM(c) for one c (1, h1), exactly: it is affine in its noises.

    Row 0 of the batch has no noise; each other row has one 1, in one of the noises."""
    n = 1 + (steps - 1 if eta else 0)  # the start, and one noise a step but the last
    rows = torch.cat([torch.zeros(1, n * H2), torch.eye(n * H2)]).view(-1, n, H2)
    noise = iter(rows.unbind(1))
    start, randn = next(noise), lambda shape, device: next(noise, torch.zeros(shape))
    z_0 = tr.ddim_sample(c.expand(len(rows), -1), start, steps, 0.0, eta, randn)
    gains = z_0[1:] - z_0[0]
    return z_0[0], gains.T @ gains


# -- schedule and noising


def test_schedule_is_the_cumulative_product():
    """Otherwise alpha is no cumulative product: 3.25e-4 at T = 1000, and noise at T for every T."""
    alpha = make_alpha(1000)
    assert alpha.shape == (1001,) and alpha[0] == 1
    running = 1.0
    for t in range(1, 1001):
        running *= 1 - 0.008
        if t in (1, 2, 500, 1000):
            assert alpha[t].item() == pytest.approx(running, rel=1e-12)
    assert alpha[-1].item() == pytest.approx(3.249e-4, rel=1e-3)
    for T in (50, 250):
        assert 1e-5 < make_alpha(T)[-1] < 4e-4 and (make_alpha(T).diff() < 0).all()


def test_schedule_refuses_too_few_steps():
    """Otherwise beta would reach 1 and alpha 0, or turn negative."""
    with pytest.raises(ValueError, match="T = 8"):
        make_alpha(8)


@graded("noised")
def test_noising_keeps_unit_variance():
    """Otherwise the square roots of Eq. 1 are missing: impulses of z_0 and eps have energy 1."""
    alpha_t, one, zero = make_alpha()[[1, 300, 1000]][:, None], torch.ones(3, 1), torch.zeros(3, 1)
    rootless = "no square roots: alpha_t is a variance, its root the amplitude of z_0"
    swapped = "z_0 and eps have changed places: at t = 0, where alpha_t = 1, z_t is z_0"
    of_z, of_eps = noised(one, zero, alpha_t), noised(zero, one, alpha_t)
    grade(of_z, alpha_t.sqrt(), {rootless: alpha_t, swapped: (1 - alpha_t).sqrt()})
    grade(of_eps, (1 - alpha_t).sqrt(), {rootless: 1 - alpha_t, swapped: alpha_t.sqrt()})


@graded("linear_alpha")
def test_linear_schedule(impl):
    """Otherwise DDPM's schedule is no cumulative product, or no noise is left at T for some T."""
    for T in (1000, 250, 50):
        want, unscaled, single = [1.0], [1.0], [1.0]
        for k in range(T):
            beta = 1e-4 + (0.02 - 1e-4) * k / (T - 1)
            single.append(1 - beta * 1000 / T)
            unscaled.append(unscaled[-1] * (1 - beta))
            want.append(want[-1] * single[-1])
        mistakes = {
            f"alpha_T = {unscaled[-1]:.3g} at T = {T}, not noise: beta wants 1000 / T": unscaled,
            "alpha[t] is 1 - beta_t: the product over all steps up to t is missing": single,
            "alpha[0] = 1 is missing: entry t belongs to step t, and step 0 is clean": want[1:],
            "this is sqrt(alpha): alpha is a share of variance, not an amplitude": np.sqrt(want),
        }
        alpha = impl.linear_alpha(T)
        grade(alpha, want, mistakes, rtol=1e-9, atol=0, what=f"alpha at T = {T}")
    refuses(lambda: impl.linear_alpha(20), "T = 20 has beta = 1 and has to raise a ValueError")
    assert alpha.dtype == torch.float64
    impl.number("alpha_T of 50 steps", alpha[-1].item(), 7.74e-6, 1e-8)


# -- the DDIM step


@graded("ddim_step")
@pytest.mark.parametrize("predict", ["z_0", "eps", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_reproduces_a_gaussian(eta, predict, impl):
    """Otherwise the step is not DDIM's: mean and covariance approach the truth as 1 / steps."""
    tr, c = exact(predict), torch.randn(1, H1)
    errors = []
    for steps in (25, 50, 100) if eta else (100, 200, 400):
        mean, cov = impulses(tr, c, steps, eta)
        # sqrt(alpha_T) of the mean is missing from a start at N(0, I): 1.8 %
        grade(mean, (c @ MAP + SHIFT)[0], rtol=0.02, atol=0.03, what="the mean of the samples")
        errors.append((cov - torch.diag(VAR)).norm() / VAR.norm())
    if errors[2] > (0.25 if eta else 0.06):
        large = cov.trace() > VAR.sum()
        if not eta:
            told = "large: the old level's noise stays" if large else "small"
            raise Mistake(f"at eta = 0 the covariance is too {told}: look at the factor of eps_hat")
        raise Mistake(
            "covariance too large by the noise you did not subtract: is sigma^2 in the mean's "
            "coefficient, the factor of eps_hat, and the cleaner level's variance?"
            if large
            else "covariance too small: does the fresh noise reach z_s, and eps_hat its share?"
        )
    assert errors[2] < 0.7 * errors[1] and errors[1] < 0.75 * errors[0], errors
    if predict == "z_0" and not eta:
        impl.number("covariance error of 400 steps", errors[2].item(), 0.0501, 0.001)


def mixer(z_t, z_0, a, s, noise):
    """mixed(kept, sigma): z_s with this variance of eps_hat and this std of fresh noise."""
    eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
    return lambda kept, sigma: s.sqrt() * z_0 + kept.sqrt() * eps + sigma * noise


def steps_gone_wrong(z_t, z_0, a, s, eta, noise):
    """{what is said: the z_s of this mistake}, from z_t = noised(z_0, eps, a)."""
    mixed = mixer(z_t, z_0, a, s, noise)
    sigma = eta * ((1 - s) / (1 - a) * (1 - a / s)).sqrt()
    wide = eta * (1 - a / s).sqrt()
    return {
        "sqrt(1 - alpha_t) is MT Eq. 3 as printed, the misprint: the old level's noise all stays": (
            mixed(1 - a - sigma**2, sigma)
        ),
        "covariance too large by the noise you did not subtract: is sigma^2 in the mean's "
        "coefficient, the factor of eps_hat?": mixed(1 - s, sigma),
        "eta changes nothing: at eta > 0 a part of eps_hat gives way to fresh noise": (
            mixed(1 - s, 0 * sigma)
        ),
        "sigma is a std: a root is missing": mixed((1 - s - sigma**4).clamp(min=0), sigma**2),
        "sigma itself is taken off, not sigma^2": mixed((1 - s - sigma).clamp(min=0), sigma),
        "the fresh noise is not added, though eta > 0": mixed(1 - s - sigma**2, 0 * sigma),
        "sigma is too large: q(z_s | z_t, z_0) knows z_0 too, the factor (1 - alpha_s) / "
        "(1 - alpha_t) is missing": mixed((1 - s - wide**2).clamp(min=0), wide),
        "z0_hat without its square root: Eq. 1 has sqrt(alpha_s) of it": (
            mixed(1 - s - sigma**2, sigma) + (s - s.sqrt()) * z_0
        ),
    }


@graded("ddim_step")
def test_ddim_as_printed_would_fail():
    """Otherwise the test above has no teeth: the printed factor leaves the old level's noise."""
    z_0, eps, (a, s) = torch.randn(B, H2), torch.randn(B, H2), make_alpha()[[500, 400]]
    on = a.sqrt() * z_0 + (1 - a).sqrt() * eps
    want = s.sqrt() * z_0 + (1 - s).sqrt() * eps  # on Eq. 1 again, at the cleaner level
    printed = s.sqrt() * z_0 + (1 - a).sqrt() * eps
    assert not torch.allclose(want, printed, rtol=0.01)
    wrong = steps_gone_wrong(on, z_0, a, s, 0.0, eps)
    grade(ddim_step(on, z_0, a, s), want, wrong, what="z_s at eta = 0")


@graded("ddim_step")
def test_ddim_in_one_step_is_the_estimate():
    """Otherwise the last level is not alpha_0 = 1, or noise is added at the end."""
    late = "noise at the last step: where alpha_s = 1, z_s is z0_hat, at any eta"
    for eta in (0.0, 1.0):
        tr, c, start = exact(), torch.randn(B, H1), torch.randn(B, H2)
        draws = []
        randn = lambda shape, device, draws=draws: draws.append(torch.randn(shape)) or draws[-1]
        one, want = tr.ddim_sample(c, start, 1, eta=eta, randn=randn), tr.denoise(start, 1000, c)
        wide = eta * (1 - tr.alpha[1000]).sqrt()
        grade(one, want, {late: want + wide * draws[-1]} if eta else {}, what="one step")
        many = tr.ddim_sample(c, start, 4, eta=0.0)
        z_t = start
        for t, s in ((1000, 750), (750, 500), (500, 250)):
            z_t = ddim_step(z_t, tr.denoise(z_t, t, c), tr.alpha[t], tr.alpha[s])
        grade(many, tr.denoise(z_t, 250, c), what="the last of four steps")


@graded("ddim_step")
def test_ddim_with_eta_one_is_ddpm():
    """Otherwise sigma is off: one eta = 1 step is DDPM's posterior N(., beta-tilde) for any z_0."""
    alpha = make_alpha()
    t = 400
    a, s = alpha[t], alpha[t - 1]
    beta = 1 - a / s
    z_t, z_0, noise = torch.randn(3, B, H2)
    mean = s.sqrt() * beta / (1 - a) * z_0 + (a / s).sqrt() * (1 - s) / (1 - a) * z_t
    std = (beta * (1 - s) / (1 - a)).sqrt()
    wrong = steps_gone_wrong(z_t, z_0, a, s, 1.0, noise)
    grade(ddim_step(z_t, z_0, a, s, 1.0, noise), mean + std * noise, wrong, what="z_s at eta = 1")
    mine, rows = z_t.clone(), (a.expand(B, 1), s.expand(B, 1))
    got = ddim_step(mine, z_0, *rows, 1.0, noise)
    if not torch.equal(mine, z_t):
        raise Mistake("ddim_step changes its z_t in place: z = z - x, not z -= x")
    grade(got, mean + std * noise, what="z_s with levels of shape (B, 1)")
    mixed = mixer(z_t, z_0, a, s, noise)
    want = mixed(1 - s - std**2 / 4, std / 2)  # sigma is linear in eta
    wrong = {"eta scales sigma, not sigma^2": mixed(1 - s - std**2 / 2, 0.5**0.5 * std)}
    grade(ddim_step(z_t, z_0, a, s, 0.5, noise), want, wrong, what="z_s at eta = 1/2")


# -- guidance


def in_part(got, want, rest):
    """want in the columns where got has it, rest in the others."""
    if getattr(got, "shape", None) != want.shape:
        return rest
    return torch.where(torch.isclose(got, want).all(0), want, rest)


@graded("guide")
def test_guidance_convention():
    """Otherwise omega means something else: 0 conditional, -1 unconditional, 3 = 4 e_c - 3 e_0."""
    e_c, e_0 = torch.randn(2, B, H2)
    for omega, want in ((3, 4 * e_c - 3 * e_0), (0, e_c), (-1, e_0)):
        got = guide(e_c, e_0, omega)
        wrong = {
            "omega = 0 must be conditional: this is diffusers' guidance_scale, 1 + omega": (
                e_0 + omega * (e_c - e_0)
            ),
            "e_c and e_0 have changed places: omega = 0 must be e_c": e_0 + omega * (e_0 - e_c),
            "from e_c towards e_0: guidance goes away from it": e_c + omega * (e_0 - e_c),
            "the weights do not add up to 1: where e_c = e_0, guidance moves nothing": (
                e_c + omega * (e_c + e_0)
            ),
            "omega changes nothing: this is e_c": e_c,
            "some columns are guided, the others are e_c: a network's output is guided in all": (
                in_part(got, want, e_c)
            ),
        }
        grade(got, want, wrong, what=f"the output at omega = {omega}")


@graded("guide")
@pytest.mark.parametrize("predict", ["z_0", "eps", "v"])
def test_guided_estimate(predict):
    """Or guidance acts on the wrong half, on some coordinates only, or not on eps (Eq. 4)."""
    tr, c, z_t, t = exact(predict), torch.randn(B, H1), torch.randn(B, H2), 600
    a = tr.alpha[t]
    eps = []
    for keep in (torch.ones(B, dtype=torch.bool), torch.zeros(B, dtype=torch.bool)):
        z_0 = tr.z0_of(tr.net(z_t, torch.full((B,), t), c, keep), z_t, a)
        eps.append((z_t - a.sqrt() * z_0) / (1 - a).sqrt())
    for omega in (-1.0, 0.0, 3.0):
        e = (1 + omega) * eps[0] - omega * eps[1]
        want = (z_t - (1 - a).sqrt() * e) / a.sqrt()
        what = f"the guided z_0 of a network that outputs {predict}"
        grade(tr.denoise(z_t, t, c, omega), want, what=what)


@graded("guide")
def test_guided_std(impl):
    """Otherwise guided samples have another spread than sqrt(v) (v / v0)^(omega / 2) (G8)."""
    tr, c = exact(), torch.randn(1, H1).expand(2, -1)
    tr.net = Exact(tr, lambda c: c @ MAP, torch.tensor(0.25), torch.tensor(1.0))
    start = torch.stack([torch.zeros(H2), torch.ones(H2)])  # affine: two starts tell the std
    for omega in (-1.0, 1.0):
        std = tr.ddim_sample(c, start, 1000, omega).diff(dim=0).mean().item()
        what = f"the std of samples guided by omega = {omega}, 1000 steps,"
        grade(std, 0.5 * 0.25 ** (omega / 2), rtol=0.06, what=what)  # the steps cost 0.01
    impl.number("std of guided samples", std, 0.238, 0.001)


@graded("measure_omega")
def test_measured_omega(impl):
    """Otherwise another program's guidance is taken for MT's, off by 1 or by a sign."""
    for scale in (7.5, 0.3, 1.0, 0.0):
        mix = lambda c, u: u + scale * (c - u)
        wrong = {
            "this is the weight of e_c, 1 + omega: no guidance at all would be 1": scale,
            "this is the weight of e_0, -omega": 1 - scale,
        }
        told = f"omega of e_0 + {scale} (e_c - e_0)"
        grade(impl.measure_omega(mix), scale - 1, wrong, what=told)
    rounded = impl.measure_omega(lambda c, u: 2.2 * c - 1.2 * u)  # the sum is 1 + 2e-16
    grade(rounded, 1.2, what="omega of 2.2 e_c - 1.2 e_0")
    for w_c, w_0 in ((7.5, -7.5), (1.0, 0.1)):
        told = f"{w_c} e_c + ({w_0}) e_0 moves where e_c = e_0: no guidance, raise a ValueError"
        refuses(lambda: impl.measure_omega(lambda c, u: w_c * c + w_0 * u), told)


def test_guided_step_is_one_call():
    """Otherwise guidance costs two network calls a step instead of one of twice the batch."""
    tr = exact()
    tr.ddim_sample(torch.randn(B, H1), torch.randn(B, H2), 3, omega=2.0)
    assert tr.net.calls == [2 * B] * 3


# -- what a network may predict


def levels():
    """z_0, eps (B, H2), alpha (B, 1) of five levels, and Eq. 1's z_t."""
    z_0, eps, a = *torch.randn(2, B, H2), make_alpha()[[1, 200, 400, 700, 1000]][:, None]
    return z_0, eps, a, a.sqrt() * z_0 + (1 - a).sqrt() * eps


@graded("v_target")
def test_v_target(impl):
    """Otherwise the network learns another v than z0_from_v is written for."""
    z_0, eps, a, _ = levels()
    want, z = a.sqrt() * eps - (1 - a).sqrt() * z_0, a.sqrt()
    wrong = {
        "this is -v: z_0 has the minus": -want,
        "the minus of z_0 is missing": want + 2 * (1 - a).sqrt() * z_0,
        "the roots are missing: alpha_t is a share of variance": a * eps - (1 - a) * z_0,
        "the two roots have changed places": (1 - a).sqrt() * eps - z * z_0,
    }
    grade(impl.v_target(z_0, eps, a), want, wrong, what="v")


@graded("z0_from_v")
def test_z0_from_v(impl):
    """Otherwise samples are made from another z_0 than the network means by its v."""
    z_0, eps, a, z_t = levels()
    v, r, w = a.sqrt() * eps - (1 - a).sqrt() * z_0, a.sqrt(), (1 - a).sqrt()
    wrong = {
        "v's sign: v is subtracted, for it holds -sqrt(1 - alpha_t) z_0": r * z_t + w * v,
        "the coefficients of z_t and v have changed places": w * z_t - r * v,
        "the roots are missing: alpha_t is a share of variance": a * z_t - (1 - a) * v,
        "this is eps, not z_0": eps,
        "v is taken for eps: this inverts Eq. 1": (z_t - w * v) / r,
    }
    grade(impl.z0_from_v(v, z_t, a), z_0, wrong, what="z_0 from v")


@graded("u_target")
def test_u_target(impl):
    """Otherwise the network learns another u than z0_from_u is written for."""
    z_0, eps, _, _ = levels()
    wrong = {
        "this is -u: u goes from the data to the noise": z_0 - eps,
        "this is a sum: u is a difference": z_0 + eps,
    }
    grade(impl.u_target(z_0, eps), eps - z_0, wrong, what="u")


@graded("z0_from_u")
def test_z0_from_u(impl):
    """Otherwise samples are made from another z_0 than the network means by its u."""
    z_0, eps, a, z_t = levels()
    u, r, w = eps - z_0, a.sqrt(), (1 - a).sqrt()
    wrong = {
        "not divided: z_t - sqrt(1 - alpha_t) u still has sqrt(alpha_t) + sqrt(1 - alpha_t) "
        "times z_0": z_t - w * u,
        "divided by sqrt(alpha_t): u holds some of z_0, too": (z_t - w * u) / r,
        "the roots are missing: this is for flow matching's z_t": z_t - (1 - a) * u,
        "u's sign: u is eps - z_0": (z_t + w * u) / (r + w),
        "this is eps, not z_0": eps,
    }
    grade(impl.z0_from_u(u, z_t, a), z_0, wrong, what="z_0 from u")


@pytest.mark.parametrize("x", [pytest.param(x, marks=graded(f"z0_from_{x}")) for x in "vu"])
def test_ddim_of_a_network_that_answers(x, impl):
    """Otherwise CDIM does not end at the truth when the exact network answers v or u."""
    tr, c = exact(), torch.randn(1, H1)
    tr.net.predict, tr.z0_of = x, getattr(impl, f"z0_from_{x}")
    mean, cov = impulses(tr, c, 400, 0.0)
    what = f"of the samples of a network that answers {x}"
    grade(mean, (c @ MAP + SHIFT)[0], rtol=0.02, atol=0.03, what=f"the mean {what}")
    grade(cov, torch.diag(VAR), rtol=0.06, atol=0.01, what=f"the covariance {what}")


@graded("loss_weights")
def test_loss_weights(impl):
    """Otherwise a squared error of eps, v or u is not w times that of z_0, z_t being given."""
    z_0, eps, a, z_t = levels()
    near = z_0 + torch.randn(B, H2)
    hat = (z_t - a.sqrt() * near) / (1 - a).sqrt()
    pairs = {"eps": (eps, hat), "u": (eps - z_0, hat - near)}
    pairs["v"] = [a.sqrt() * e - (1 - a).sqrt() * z for z, e in ((z_0, eps), (near, hat))]
    got, a = impl.loss_weights(a[:, 0]), a[:, 0]
    if not isinstance(got, tuple | list) or len(got) != 3:
        raise Mistake("loss_weights returns three tensors: w_eps, w_v, w_u")
    held = "w_{} with eps held: at a given z_t another z_0 is another eps"
    fixed = {"eps": {"this is w_v: the order is w_eps, w_v, w_u": 1 / (1 - a)}}
    fixed |= {"v": {held.format("v"): 1 - a}, "u": {held.format("u"): 1 + 0 * a}}
    fixed["u"]["w_u lacks the mixed term of its square"] = 1 / (1 - a)
    for x, w in zip(("eps", "v", "u"), got, strict=True):
        want = (pairs[x][0] - pairs[x][1]).square().sum(1) / (near - z_0).square().sum(1)
        wrong = fixed[x] | {
            f"w_{x} is upside down: it multiplies the error of z_0": 1 / want,
            f"w_{x} is not squared": want.sqrt(),
        }
        grade(w, want, wrong, what=f"w_{x}")
    impl.number("weight of eps at t = T", got[0][-1].item(), 3.25e-4, 1e-6)


# -- the network


def network(**kw):
    return mt.EpsTheta(H1, H2, width=11, layers=4, **kw)


def test_network_rows_are_independent_and_see_everything():
    """Otherwise rows mix, or z_t, t or c does not reach the output."""
    net, z, c, t = network(), torch.randn(B, H2), torch.randn(B, H1), torch.arange(1, B + 1)
    out = net(z, t, c)
    assert out.shape == (B, H2)
    torch.testing.assert_close(net(z[2:3], t[2:3], c[2:3]), out[2:3])
    for changed in (net(z + 1, t, c), net(z, t + 300, c), net(z, t, c + 1)):
        assert ((changed - out).abs().sum(1) > 1e-6).all()


def test_dropped_condition_is_phi():
    """Otherwise keep = False still leaks c, or keep's polarity is reversed."""
    net, z, t = network(), torch.randn(B, H2), torch.full((B,), 9)
    c, other, keep = torch.randn(B, H1), torch.randn(B, H1), torch.arange(B) % 2 == 0
    a, b = net(z, t, c, keep), net(z, t, other, keep)
    torch.testing.assert_close(a[~keep], b[~keep])
    assert (a[keep] != b[keep]).any(1).all()
    torch.testing.assert_close(a[keep], net(z, t, c)[keep])
    with torch.no_grad():
        net.phi.copy_(other[1])
    torch.testing.assert_close(net(z, t, c, keep)[1], net(z, t, other)[1])


def test_every_layer_gets_z_t_and_c():
    """Otherwise the skip connections of diffae, or the residual injections of c, are missing."""
    net = network()
    assert [layer.linear.in_features for layer in net.layers] == [H2, 11 + H2, 11 + H2]
    net(torch.randn(B, H2), torch.ones(B).long(), torch.randn(B, H1)).square().sum().backward()
    for layer in net.layers:
        for part in (layer.linear, layer.from_t, layer.from_c):
            assert part.weight.grad.abs().sum() > 0
    for linear in [layer.linear for layer in net.layers[1:]] + [net.last]:
        assert linear.weight.grad[:, 11:].abs().sum() > 0  # the columns that meet z_t


def test_dropout_only_in_training():
    """Otherwise sampling is noisy, or training has no dropout."""
    net, args = network(dropout=0.5), (torch.randn(B, H2), torch.ones(B).long(), torch.randn(B, H1))
    assert not torch.equal(net(*args), net(*args))
    net.eval()
    torch.testing.assert_close(net(*args), net(*args))


def test_time_embedding():
    """Otherwise steps are confused: cos first, then sin, period 2 pi at the first frequency."""
    emb = mt.time_embedding(torch.tensor([0, 3]), 8)
    torch.testing.assert_close(emb[0], torch.tensor([1.0] * 4 + [0.0] * 4), check_dtype=False)
    freq = 10000.0 ** (-torch.arange(4) / 4)
    want = torch.cat([(3 * freq).cos(), (3 * freq).sin()])
    torch.testing.assert_close(emb[1], want, check_dtype=False, rtol=1e-5, atol=1e-5)


# -- scales, M, Eq. 5 and the loss


def pairs(n=400):
    torch.manual_seed(7)
    c = torch.randn(n, H1).float() * torch.tensor([3.0, 1, 0.2]) + 2
    z = 5 * (c @ torch.randn(H1, H2).float() + 0.3 * torch.randn(n, H2).float()) - 1
    return c.float(), z.float()


def fitted(objective="joint", **kw):
    torch.set_default_dtype(torch.float32)
    tr = Translator(H1, H2, width=16, layers=3, objective=objective, **kw)
    c, z = pairs()
    tr.fit(moments([(c[:150], z[:150]), (c[150:], z[150:])]))
    return tr.eval(), c, z


def test_scales():
    """Otherwise latents are not unit in mean square about the mean, or cosines change."""
    tr, c, z = fitted()
    torch.testing.assert_close(tr.z_mean, z.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tr.c_mean, c.mean(0), rtol=1e-4, atol=1e-4)
    assert ((z - z.mean(0)) * tr.z_scale).square().mean().item() == pytest.approx(1, rel=1e-4)
    assert tr.scale_c(c).square().mean().item() == pytest.approx(1, rel=1e-4)
    assert tr.z_scale.ndim == 0 and tr.c_scale.ndim == 0  # one number: cosines stay


def test_M_by_least_squares():
    """Otherwise "residual" is not Lemma 1's: M is numpy's least squares with bias, frozen."""
    tr, c, z = fitted("residual")
    ones = np.ones((len(c), 1))
    solution = np.linalg.lstsq(np.hstack([c.numpy(), ones]), z.numpy(), rcond=None)[0]
    ours = tr.M(tr.scale_c(c)) / tr.z_scale
    np.testing.assert_allclose(ours.detach(), np.hstack([c.numpy(), ones]) @ solution, atol=2e-3)
    assert not any(p.requires_grad for p in tr.M.parameters())
    residual = (z * tr.z_scale - tr.M(tr.scale_c(c))) * tr.r_scale
    assert residual.square().mean().item() == pytest.approx(1, rel=1e-3)


def test_M_alone_trained_by_L2_is_least_squares():
    """Otherwise M is no linear map with bias of c: gradient descent must find the same solution."""
    tr, c, z = fitted()
    want = fitted("residual")[0]
    optimizer = torch.optim.LBFGS(tr.M.parameters(), max_iter=200, tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        loss = (z * tr.z_scale - tr.M(tr.scale_c(c))).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(tr.M.weight, want.M.weight, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(tr.M.bias, want.M.bias, rtol=1e-2, atol=2e-3)


def fixed_randn(seed=1):
    g = torch.Generator().manual_seed(seed)
    return lambda shape, device=None: torch.randn(shape, generator=g)


@pytest.mark.parametrize("normalize", ["one", "row"])
@pytest.mark.parametrize("objective", ["ridge", "joint", "residual"])
def test_eq5_and_eq6(objective, normalize):
    """Otherwise z_hat is not c M + gamma F in raw units, or F is not the sample, normalised: by
    its row's own length, or, scaled, by one number, sqrt(h2)."""
    tr, c, z = fitted(objective, normalize=normalize)
    c = c[:B]
    how = dict(steps=3, randn=fixed_randn())
    cM, F = tr.terms(c, K=1, **how)
    sample = tr.sample(c, K=1, steps=3, randn=fixed_randn()) * tr.z_scale
    if objective == "residual":
        sample = sample - cM
    lengths = sample.norm(dim=1, keepdim=True)
    assert lengths.max() > 1.02 * lengths.min()  # else the two would be hard to tell apart
    if normalize == "one":
        lengths = torch.full((B, 1), H2**0.5)
    torch.testing.assert_close(F, sample / lengths, rtol=1e-4, atol=1e-4)
    z_hat = tr(c, gamma=2.5, K=1, steps=3, randn=fixed_randn())
    torch.testing.assert_close(z_hat * tr.z_scale, cM + 2.5 * F, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cM, tr.M((c - tr.c_mean) * tr.c_scale))


def test_K_samples_are_averaged_before_normalising():
    """Otherwise K does nothing, mixes rows, or averages directions instead of samples."""
    tr, c, _ = fitted()
    c, K = c[:B], 3
    noise = torch.randn(K, B, H2)
    flat = lambda shape, device=None: noise.reshape(K * B, H2)
    together = tr.sample(c, K=K, steps=2, randn=flat)
    singles = [
        tr.sample(c, K=1, steps=2, randn=lambda s, device=None, k=k: noise[k]) for k in range(K)
    ]
    torch.testing.assert_close(together, torch.stack(singles).mean(0), rtol=1e-4, atol=1e-4)


def test_wrong_width_is_named():
    """Otherwise latents of another encoder give a matrix error deep inside."""
    tr, c, _ = fitted()
    with pytest.raises(ValueError, match=rf"\(B, {H1}\)"):
        tr(torch.randn(B, H1 + 1))
    with pytest.raises(ValueError, match="predict"):
        Translator(H1, H2, predict="x0")
    with pytest.raises(ValueError, match="objective"):
        Translator(H1, H2, objective="Joint")
    with pytest.raises(ValueError, match="normalize"):
        Translator(H1, H2, normalize="rows")


@pytest.mark.parametrize("normalize, faded", [("one", True), ("row", False)])
@pytest.mark.parametrize("predict", ["z_0", "eps", "v"])
def test_loss_by_hand(predict, normalize, faded):
    """Otherwise Eq. 9 is not lam1 L_recon + lam2 L_ddim with L_recon on the rows at t = T."""
    tr, c, z = fitted(predict=predict, normalize=normalize, faded=faded)
    c, z, noise = c[:24], z[:24], draw_noise(24, H2, 1000, p=0.3)
    total, L_recon, L_ddim = tr.loss(c, z, noise, gamma=1.7, lam1=0.3, lam2=4.0)
    z_s, c_s = z * tr.z_scale, (c - tr.c_mean) * tr.c_scale
    z_0 = z_s - tr.z_mean * tr.z_scale
    a = make_alpha().float()[noise.t][:, None]
    z_t = a.sqrt() * z_0 + (1 - a).sqrt() * noise.eps
    out = tr.net(a.sqrt() * z_t if faded else z_t, noise.t, c_s, noise.keep)
    want = {"z_0": z_0, "eps": noise.eps, "v": a.sqrt() * noise.eps - (1 - a).sqrt() * z_0}[predict]
    assert L_ddim.item() == pytest.approx(((want - out) ** 2).mean().item(), rel=1e-4)
    at_T = torch.arange(24) % 8 == 0
    assert (noise.t[at_T] == 1000).all()
    F = tr.z0_of(out, z_t, a) + tr.z_mean * tr.z_scale
    F = F / (F.norm(dim=1, keepdim=True) if normalize == "row" else H2**0.5)
    error = (z_s - tr.M(c_s) - 1.7 * F).abs()[at_T].mean()
    assert L_recon.item() == pytest.approx(error.item(), rel=1e-4)
    assert total.item() == pytest.approx(0.3 * error.item() + 4.0 * L_ddim.item(), rel=1e-4)


def test_recon_at_T_does_not_see_the_target():
    """Otherwise L_recon leaks: at a small t the one-step estimate is z itself, at T it is not."""
    tr, c, z = fitted(faded=False, normalize="row")
    tr.net = Exact(tr, lambda c: torch.zeros(len(c), H2), torch.ones(H2).float())
    tr.alpha = tr.alpha.float()
    n = 64
    noise = draw_noise(n, H2, 1000)
    torch.nn.init.zeros_(tr.M.weight), torch.nn.init.zeros_(tr.M.bias)
    tr.z_mean.zero_()
    z = torch.nn.functional.normalize(torch.randn(n, H2)) / tr.z_scale
    leak = tr.loss(c[:n], z, noise._replace(t=torch.full((n,), 1)))[1]
    assert leak < 0.1  # c says nothing, and yet z_hat is right
    honest = tr.loss(c[:n], z, noise)[1]
    assert honest > 0.2


def test_recon_through_unrolled_ddim():
    """Otherwise recon_steps = 3 is not a 3-step DDIM from the same noise, or has no gradient."""
    tr, c, z = fitted()
    noise = draw_noise(24, H2, 1000)
    at_T = torch.arange(24) % 8 == 0
    L_recon = tr.loss(c[:24], z[:24], noise, gamma=1.3, recon_steps=3)[1]
    c_s = tr.scale_c(c[:24])[at_T]
    F = tr.F(tr.ddim_sample(c_s, noise.eps[at_T], 3), c_s)
    want = (z[:24][at_T] * tr.z_scale - tr.M(c_s) - 1.3 * F).abs().mean()
    torch.testing.assert_close(L_recon, want)
    L_recon.backward()
    assert tr.net.last.weight.grad.abs().sum() > 0 and tr.M.weight.grad.abs().sum() > 0


def test_lam1_zero_leaves_M_alone():
    """Otherwise M moves without L_recon, by which alone it is trained."""
    tr, c, z = fitted()
    tr.loss(c[:24], z[:24], draw_noise(24, H2, 1000), lam1=0.0)[0].backward()
    assert tr.M.weight.grad is None or tr.M.weight.grad.abs().sum() == 0


def test_draw_noise():
    """Otherwise t misses a level or an eighth at T, or c is dropped at another rate."""
    n = draw_noise(8000, 2, 50, p=0.05, generator=torch.Generator().manual_seed(0))
    assert n.t.min() == 1 and n.t.max() == 50 and (n.t[::8] == 50).all()
    counts = torch.bincount(n.t[torch.arange(8000) % 8 > 0], minlength=51)[1:]
    assert (counts > 80).all() and counts.max() < 200  # 140 each
    assert 0.04 < 1 - n.keep.double().mean() < 0.06
    assert abs(n.eps.mean()) < 0.03 and abs(n.eps.std() - 1) < 0.03


# -- gamma


@graded("gamma_star")
def test_gamma_star_is_the_best_gamma():
    """Otherwise the closed form is wrong: a fine grid must not beat it, for random triples."""
    for seed in range(20):
        torch.manual_seed(seed)
        z = torch.randn(1, H2)
        cM = 3 * torch.randn(1, H2) + z
        F = torch.nn.functional.normalize(torch.randn(1, H2) + 0.7 * z)
        cos = lambda g: torch.cosine_similarity(z, cM + g * F).item()  # noqa: B023
        best = max(np.geomspace(1e-3, 300, 800), key=cos)
        gamma = gamma_star(cM, F, z)
        if not cos(min(gamma, 1e6)) > cos(best) - 1e-4:
            told = f"{cos(gamma):.4f} at {gamma:.4g}, the gamma* of seed {seed}"
            raise Mistake(f"cosine {told}, and {cos(best):.4f} at {best:.4g}")


def rows_by_hand(F):
    """cM = (9, 0, 0), F, z = (18, 6, 12) as they are and in H2 dimensions, then a, c1, q, kappa."""
    rows = torch.tensor([[9.0, 0, 0], F, [18, 6, 12]])
    for frame in (torch.eye(3), torch.linalg.qr(torch.randn(H2, 3))[0].T):
        cM, F, z = rows[:, None] @ frame
        cos = torch.cosine_similarity
        numbers = cM.norm(), cos(z, cM), cos(z, F), cos(cM, F)
        yield cM, F, z, *(x.item() for x in numbers)


@graded("gamma_star")
def test_gamma_star_by_hand(impl):
    """Otherwise gamma* is not 5, where z_hat = (12, 4, 0) is along z's part in the plane."""
    for *row, a, c1, q, kappa in rows_by_hand((0.6, 0.8, 0)):
        wrong = {
            "kappa = cos(cM, F) is left out: right only if F is orthogonal to cM": a * q / c1,
            "kappa is left out of the numerator": a * q / (c1 - q * kappa),
            "kappa is left out of the denominator": a * (q - c1 * kappa) / c1,
            "|cM| is left out: twice as long a cM takes twice the gamma": 5 / a,
            "this gamma has the least squared error, the best cosine was asked for": 10.2,
            "this is the break-even, where F stops to help; it helps most before": 135 / 7,
            "this is cos(z, F): right only in MT's own model, unit z and F orthogonal to cM": q,
        }
        gamma = impl.gamma_star(*row)
        grade(gamma, 5, wrong, what="gamma*")
    for *row, a, c1, q, kappa in rows_by_hand((0.8, -0.6, 0)):
        below = {"no floor: F hurts here, and gamma >= 0": a * (q - c1 * kappa) / (c1 - q * kappa)}
        grade(impl.gamma_star(*row), 0, below, what="gamma* of an F that hurts")
    z, other = torch.eye(H2)[:2, None]
    cM, F = 2 * other, torch.nn.functional.normalize(z + 0.5 * other)  # F needs no more of cM
    if not impl.gamma_star(cM, F, z) > 200:
        raise Mistake("the cosine grows for ever here: gamma* must be large, or inf")
    impl.number("gamma* of the row by hand", float(gamma), 5, 1e-6)


@graded("gamma_l2")
def test_gamma_of_the_squared_error(impl):
    """Otherwise the squared error has its minimum elsewhere: a least squares fit of one number."""
    cM, F = torch.randn(B, H2), torch.nn.functional.normalize(torch.randn(B, H2))
    z = cM + torch.tensor([[-3.0], [1.0], [2.0], [4.0], [6.0]]) * F + 0.3 * torch.randn(B, H2)
    want = np.linalg.lstsq(F.reshape(-1, 1).numpy(), (z - cM).flatten().numpy(), rcond=None)[0][0]
    rows = ((z - cM) * F).sum(1)
    wrong = {
        "one gamma for each row: one for all was asked for": rows,
        "the floor comes before the mean: it is for the one gamma, not for each row": (
            rows.clamp(min=0).mean()
        ),
        "cM is not taken off: this fits z": (z * F).sum(1).mean(),
        "a sum over rows, not a mean": rows.sum(),
        "a mean over coordinates, too: a squared length is a sum": rows.mean() / H2,
        "this is the cosine's gamma*, the squared error was asked for": gamma_star(cM, F, z),
    }
    grade(impl.gamma_l2(cM, F, z), want, wrong, what="the L2 gamma")
    grade(
        impl.gamma_l2(z, F, cM),
        0,
        {"no floor: gamma >= 0": -want},
        what="the L2 gamma where F hurts",
    )


@graded("break_even")
def test_break_even_by_hand(impl):
    """Otherwise F is said to help where it hurts: at 135/7 the cosine is that of cM again."""
    even = lambda a, c1, q, kappa: 2 * a * c1 * (q - c1 * kappa) / (c1**2 - q**2)
    for *row, a, c1, q, _ in rows_by_hand((0.6, 0.8, 0)):
        wrong = {
            "this is gamma*, the best: the cosine comes back later": 5,
            "inf: F alone is not as good as cM here, so the cosine does come back": np.inf,
            "half of it: a factor 2 is lost, that of a square's mixed term": 135 / 14,
            "|cM| is left out: twice as long a cM takes twice the gamma": 135 / 7 / a,
            "cos(z, cM) is left out as a factor": 135 / 7 / c1,
            "kappa = cos(cM, F) is left out": even(a, c1, q, 0),
        }
        grade(impl.break_even(*row), 135 / 7, wrong, what="the break-even")
    for *row, a, c1, q, kappa in rows_by_hand((0.8, -0.6, 0)):
        wrong = {"F hurts from the start, so break-even is 0, not below": even(a, c1, q, kappa)}
        grade(impl.break_even(*row), 0, wrong, what="the break-even of an F that hurts")
    for *row, a, c1, q, kappa in rows_by_hand((0.8, 0.36, 0.48)):
        never = "F alone is better than cM, the cosine never comes back: inf, not "
        wrong = {never + "below 0": even(a, c1, q, kappa), never + "0": 0.0}
        grade(impl.break_even(*row), np.inf, wrong, what="the break-even where F alone is better")


def test_gamma_star_at_its_ends():
    """Otherwise a useless F gets weight, or a useless M keeps its own."""
    z = torch.eye(H2)[:1]
    away, other = -z, torch.eye(H2)[1:2]
    assert gamma_star(z + other, away, z) == 0
    assert gamma_star(2 * other, z, z) > 100  # c M tells nothing: F is (nearly) all
    rho_s = 0.3
    cM, F = 0.8 * z + 0.4 * other, torch.eye(H2)[2:3]
    F = torch.nn.functional.normalize(F + rho_s * z)
    assert 0 < gamma_star(cM, F, z) < 10


def test_best_gamma_of_many_samples():
    """Otherwise auto is not the best of its grid: gamma_star is not, where lengths differ."""
    z = torch.nn.functional.normalize(torch.randn(400, H2))
    cM = (0.5 * z + 0.3 * torch.randn(400, H2)) * torch.exp(0.6 * torch.randn(400, 1))
    F = torch.nn.functional.normalize(z + 0.8 * torch.randn(400, H2))
    cos = lambda g: torch.cosine_similarity(z, cM + g * F).mean().item()
    star, best = gamma_star(cM, F, z), best_gamma(cM, F, z)
    assert cos(best) >= max(cos(g) for g in np.geomspace(star / 4, star * 4, 300)) - 1e-4
    assert cos(best) > cos(star) + 1e-4


# -- what becomes of M


def fit(c, z):
    return torch.from_numpy(np.linalg.lstsq(c.numpy(), z.numpy(), rcond=None)[0])


def one_length(norm, n=40):
    """c (n, H1), z (n, H2) of this length, not of mean 0, and F = z / |z|."""
    c = torch.randn(n, H1)
    F = torch.nn.functional.normalize(c @ MAP + SHIFT + torch.randn(n, H2))
    return c, norm * F, F


@graded("best_M")
def test_best_M(impl):
    """Otherwise M is not the least squares fit of what F leaves."""
    c, z, gamma = torch.randn(20, H1) + 0.5, torch.randn(20, H2), 1.7
    F = torch.nn.functional.normalize(z + torch.randn(20, H2))
    left, mean = z - gamma * F, lambda x: x - x.mean(0)
    wrong = {
        "F is left out: this is M_hat": fit(c, z),
        "this is L9's (1 - gamma / |z|) M_hat: it needs F = z / |z|, and F is another here": (
            fit(c, z) * (1 - gamma / z.norm(dim=1).mean())
        ),
        "gamma is left out": fit(c, z - F),
        "F's sign: M is to fit what F leaves": fit(c, z + gamma * F),
        "a bias is fitted, none was asked for": fit(mean(c), mean(left)),
        "this is M transposed: c M is (N, h2)": fit(c, left).T,
        "(c'c)^-1 is missing: c is not white": c.T @ left / 20,
        "(c'c)^-1 is missing": c.T @ left,
    }
    grade(impl.best_M(c, z, F, gamma), fit(c, left), wrong, what="M")


@graded("size_of_M")
def test_size_of_M(impl):
    """Otherwise L9's formula is not what least squares gives where F = z / |z|."""
    for gamma, norm in ((0.5, 3.0), (3.0, 2.0), (1.0, 128**0.5)):
        c, z, F = one_length(norm)
        M_hat = fit(c, z)
        want, x = (
            ((fit(c, z - gamma * F) * M_hat).sum() / M_hat.square().sum()).item(),
            gamma / norm,
        )
        wrong = {
            "that is for |z| = 1": 1 - gamma,
            "one norm too many": 1 - gamma / norm**2,
            "gamma times norm: the longer z, the less of it F takes": 1 - gamma * norm,
            "this is F's share: M has the rest": x,
            "upside down: F's share is gamma / norm": 1 - norm / gamma,
            "Pythagoras: F is not orthogonal to c M here": abs(1 - x**2) ** 0.5,
            "squares: lengths along one direction add up as they are": 1 - x**2,
            "cut off at 0: where gamma > |z|, c M points away from z": max(0.0, 1 - x),
            "sign: where gamma > |z|, c M points away from z": abs(1 - x),
        }
        size = impl.size_of_M(gamma, norm)
        grade(size, want, wrong, what=f"the size at gamma = {gamma}, |z| = {norm:.4g}")
    impl.number("size of M at gamma = 1 and norm sqrt(128)", float(size), 0.9116, 1e-4)


@graded("collapsing")
def test_collapsing(impl):
    """Otherwise something is left for M: gamma has to be the length of the scaled latents."""
    for norm in (3.7, 0.6):
        z = one_length(norm, 4000)[1]
        got = impl.collapsing(z)
        try:
            scale, gamma = map(float, got)
        except (TypeError, ValueError, RuntimeError):
            raise Mistake("collapsing returns two numbers: scale, gamma") from None
        if not (scale > 0 and gamma > 0):
            raise Mistake("scale and gamma have to be numbers above 0")
        wide = (z - z.mean(0)).square().mean().sqrt().item()
        ratios = {
            "gamma = scale: that is enough where |z| = 1, and here it is another number": 1.0,
            "upside down, or changed places: (scale, gamma), and scale * |z| = gamma": 1 / norm,
            "that is the remedy: gamma / scale is one number's size, not |z|": wide,
            "that is the remedy: gamma / scale is one number's root mean square, not |z|": (
                norm / H2**0.5
            ),
        }
        grade(gamma / scale, norm, ratios, rtol=1e-3, what="gamma / scale")


@graded("safe_scale")
def test_safe_scale(impl):
    """Otherwise latents are not of mean square 1 about their mean, or cosines change."""
    z = torch.randn(3000, H2) * torch.linspace(0.5, 6, H2) + torch.linspace(-4, 3, H2)
    off = z - z.mean(0)
    length = lambda x: {
        "on average": x.norm(dim=1).mean(),
        "in mean square": x.square().sum(1).mean().sqrt(),
    }
    told = "rows of length 1 {}, {}: gamma = 1 is as long as that, and M collapses"
    unit = {told.format(how, "mean and all"): 1 / n for how, n in length(z).items()}
    unit |= {told.format(how, "about the mean"): 1 / n for how, n in length(off).items()}
    wrong = unit | {
        "one scale per coordinate changes cosines: one number was asked for": 1 / off.std(0),
        "one length per row: one number was asked for": 1 / z.norm(dim=1),
        "the mean is not taken off: a mean square about 0": z.square().mean().rsqrt(),
        "one mean for all numbers: each coordinate has its own": 1 / z.std(),
        "upside down: this is the std": off.square().mean().sqrt(),
        "a root is missing: 1 over the variance": 1 / off.square().mean(),
        "a mean of the coordinates' std: the mean square was asked for": 1 / off.std(0).mean(),
    }
    # N - 1 in place of N is fine
    grade(impl.safe_scale(z), off.square().mean().rsqrt(), wrong, rtol=1e-3, what="the scale")
