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
from ddim_translator import (
    Translator,
    best_gamma,
    ddim_step,
    draw_noise,
    gamma_star,
    guide,
    make_alpha,
    noised,
)

B, H1, H2 = 5, 3, 7


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Exact(torch.nn.Module):
    """The optimal network for z_0 | c ~ N(mean(c), diag(var)), for any of the three outputs."""

    def __init__(self, translator, mean, var):
        super().__init__()
        self.alpha, self.predict, self.mean, self.var = (
            translator.alpha,
            translator.predict,
            mean,
            var,
        )
        self.calls = []

    def forward(self, z_t, t, c, keep=None):
        self.calls.append(len(z_t))
        a = self.alpha[t][:, None]
        mean = self.mean(c)
        if keep is not None:
            mean = torch.where(keep[:, None], mean, -2.0)  # "unconditional": another mean
        gain = a.sqrt() * self.var / (a * self.var + 1 - a)
        z_0 = mean + gain * (z_t - a.sqrt() * mean)
        eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
        v = a.sqrt() * eps - (1 - a).sqrt() * z_0
        return {"z_0": z_0, "eps": eps, "v": v}[self.predict]


GEN = torch.Generator().manual_seed(0)
MAP, SHIFT, VAR = (
    torch.randn(H1, H2, generator=GEN).double(),
    torch.randn(H2, generator=GEN).double(),
    torch.rand(H2, generator=GEN).double() + 0.2,
)


def exact(predict="z_0", T=1000, **kw):
    """A translator with unit scales whose network is the exact one."""
    tr = Translator(H1, H2, width=8, layers=3, T=T, predict=predict, **kw)
    tr.alpha = make_alpha(T)
    tr.net = Exact(tr, lambda c: c @ MAP + SHIFT, VAR)
    return tr


def impulses(tr, c, steps, eta):
    """(mean, covariance) of CDIM(c) for one c (1, h1), exactly: it is affine in its noises."""
    n = 1 + (steps - 1 if eta else 0)  # the start, and one noise a step but the last

    def run(which, unit):
        noise = iter([unit if k == which else torch.zeros(H2, H2) for k in range(n + 1)])
        start = next(noise)
        randn = lambda shape, device: next(noise, torch.zeros(H2, H2))
        return tr.cdim(c.expand(H2, -1), start, steps, 0.0, eta, randn)

    mean = run(-1, None)[0]
    columns = [run(k, torch.eye(H2)) - mean for k in range(n)]
    return mean, sum(A.T @ A for A in columns)


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
        raise Mistake(
            "covariance too large by the noise you did not subtract: is sigma^2 in the mean's "
            "coefficient?"
            if cov.trace() > VAR.sum()
            else "covariance too small: does the fresh noise reach z_s, and eps_hat its share?"
        )
    assert errors[2] < 0.7 * errors[1] and errors[1] < 0.75 * errors[0], errors
    if predict == "z_0" and not eta:
        impl.number("covariance error of 400 steps", errors[2].item(), 0.0501, 0.001)


def steps_gone_wrong(z_t, z_0, a, s, eta, noise):
    """{what is said: the z_s of this mistake}, from z_t = noised(z_0, eps, a)."""
    eps = (z_t - a.sqrt() * z_0) / (1 - a).sqrt()
    sigma = eta * ((1 - s) / (1 - a) * (1 - a / s)).sqrt()
    wide = eta * (1 - a / s).sqrt()
    mixed = lambda kept, sigma: s.sqrt() * z_0 + kept.sqrt() * eps + sigma * noise
    return {
        "sqrt(1 - alpha_t) is MT Eq. 3 as printed, the misprint: the old level's noise all stays": (
            mixed(1 - a - sigma**2, sigma)
        ),
        "covariance too large by the noise you did not subtract: is sigma^2 in the mean's "
        "coefficient?": mixed(1 - s, sigma),
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
        one, want = tr.cdim(c, start, 1, eta=eta, randn=randn), tr.denoise(start, 1000, c)
        wide = eta * (1 - tr.alpha[1000]).sqrt()
        grade(one, want, {late: want + wide * draws[-1]} if eta else {}, what="one step")
        many = tr.cdim(c, start, 4, eta=0.0)
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


# -- guidance


def test_guidance_convention():
    """Otherwise omega means something else: 0 conditional, -1 unconditional, 3 = 4 e_c - 3 e_0."""
    e_c, e_0 = torch.randn(2, B, H2)
    torch.testing.assert_close(guide(e_c, e_0, 0), e_c)
    torch.testing.assert_close(guide(e_c, e_0, -1), e_0)
    torch.testing.assert_close(guide(e_c, e_0, 3), 4 * e_c - 3 * e_0)


@pytest.mark.parametrize("predict", ["z_0", "eps", "v"])
@pytest.mark.parametrize("omega", [-1.0, 0.0, 3.0])
def test_guided_estimate(omega, predict):
    """Or guidance acts on the wrong half, on some coordinates only, or not on eps (Eq. 4)."""
    tr, c, z_t, t = exact(predict), torch.randn(B, H1), torch.randn(B, H2), 600
    a = tr.alpha[t]
    eps = []
    for keep in (torch.ones(B, dtype=torch.bool), torch.zeros(B, dtype=torch.bool)):
        z_0 = tr.z0_of(tr.net(z_t, torch.full((B,), t), c, keep), z_t, a)
        eps.append((z_t - a.sqrt() * z_0) / (1 - a).sqrt())
    e = (1 + omega) * eps[0] - omega * eps[1]
    want = (z_t - (1 - a).sqrt() * e) / a.sqrt()
    torch.testing.assert_close(tr.denoise(z_t, t, c, omega), want)


def test_guided_step_is_one_call():
    """Otherwise guidance costs two network calls a step instead of one of twice the batch."""
    tr = exact()
    tr.cdim(torch.randn(B, H1), torch.randn(B, H2), 3, omega=2.0)
    assert tr.net.calls == [2 * B] * 3


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
    tr.fit([(c[:150], z[:150]), (c[150:], z[150:])])
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


@pytest.mark.parametrize("objective", ["joint", "residual"])
def test_eq5_and_eq6(objective):
    """Otherwise z_hat is not c M + gamma F in raw units with F a unit vector along the sample."""
    tr, c, z = fitted(objective)
    c = c[:B]
    how = dict(steps=3, randn=fixed_randn())
    cM, F = tr.parts(c, K=1, **how)
    torch.testing.assert_close(F.norm(dim=1), torch.ones(B))
    sample = tr.sample(c, K=1, steps=3, randn=fixed_randn())
    if objective == "residual":
        sample = sample - cM / tr.z_scale
    torch.testing.assert_close(F, sample / sample.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-4)
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


@pytest.mark.parametrize("predict", ["z_0", "eps", "v"])
def test_loss_by_hand(predict):
    """Otherwise Eq. 9 is not lam1 L_recon + lam2 L_ddim with L_recon on the rows at t = T."""
    tr, c, z = fitted(predict=predict)
    c, z, noise = c[:24], z[:24], draw_noise(24, H2, 1000, p=0.3)
    total, L_recon, L_ddim = tr.loss(c, z, noise, gamma=1.7, lam1=0.3, lam2=4.0)
    z_s, c_s = z * tr.z_scale, (c - tr.c_mean) * tr.c_scale
    z_0 = z_s - tr.z_mean * tr.z_scale
    a = make_alpha().float()[noise.t][:, None]
    z_t = a.sqrt() * z_0 + (1 - a).sqrt() * noise.eps
    out = tr.net(z_t, noise.t, c_s, noise.keep)
    want = {"z_0": z_0, "eps": noise.eps, "v": a.sqrt() * noise.eps - (1 - a).sqrt() * z_0}[predict]
    assert L_ddim.item() == pytest.approx(((want - out) ** 2).mean().item(), rel=1e-4)
    at_T = torch.arange(24) % 8 == 0
    assert (noise.t[at_T] == 1000).all()
    F = tr.z0_of(out, z_t, a) + tr.z_mean * tr.z_scale
    F = F / F.norm(dim=1, keepdim=True)
    error = (z_s - tr.M(c_s) - 1.7 * F).abs()[at_T].mean()
    assert L_recon.item() == pytest.approx(error.item(), rel=1e-4)
    assert total.item() == pytest.approx(0.3 * error.item() + 4.0 * L_ddim.item(), rel=1e-4)


def test_recon_at_T_does_not_see_the_target():
    """Otherwise L_recon leaks: at a small t the one-step estimate is z itself, at T it is not."""
    tr, c, z = fitted()
    tr.net = Exact(tr, lambda c: torch.zeros(len(c), H2), torch.ones(H2).float())
    tr.alpha = tr.alpha.float()
    n = 64
    noise = draw_noise(n, H2, 1000)._replace(t=torch.full((n,), 1))
    torch.nn.init.zeros_(tr.M.weight), torch.nn.init.zeros_(tr.M.bias)
    tr.z_mean.zero_()
    z = torch.nn.functional.normalize(torch.randn(n, H2)) / tr.z_scale
    leak = tr.loss(c[:n], z, noise, recon_steps=0)[1]
    assert leak < 0.1  # c says nothing, and yet z_hat is right
    honest = tr.loss(c[:n], z, noise._replace(t=torch.full((n,), 1000)), recon_steps=1)[1]
    assert honest > 0.2


def test_recon_through_unrolled_ddim():
    """Otherwise recon_steps = 3 is not a 3-step DDIM from the same noise, or has no gradient."""
    tr, c, z = fitted()
    noise = draw_noise(24, H2, 1000)
    at_T = torch.arange(24) % 8 == 0
    L_recon = tr.loss(c[:24], z[:24], noise, gamma=1.3, recon_steps=3)[1]
    c_s = tr.scale_c(c[:24])[at_T]
    F = tr.F(tr.cdim(c_s, noise.eps[at_T], 3), c_s)
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
    assert (counts > 80).all() and counts.max() < 220  # 140 each
    assert 0.04 < 1 - n.keep.double().mean() < 0.06
    assert abs(n.eps.mean()) < 0.03 and abs(n.eps.std() - 1) < 0.03


# -- gamma


def test_gamma_star_is_the_best_gamma():
    """Otherwise the closed form is wrong: a fine grid must not beat it, for random triples."""
    for seed in range(20):
        torch.manual_seed(seed)
        z = torch.randn(1, H2)
        cM = 3 * torch.randn(1, H2) + z
        F = torch.nn.functional.normalize(torch.randn(1, H2) + 0.7 * z)
        cos = lambda g: torch.cosine_similarity(z, cM + g * F).item()  # noqa: B023
        best = max(cos(g) for g in np.geomspace(1e-3, 300, 800))
        assert cos(gamma_star(cM, F, z)) > best - 1e-4


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
