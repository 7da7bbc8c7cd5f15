"""
sampling.py: do the samplers sample? Eq. 3 of MT, the scales it needs, and LD's bridge.

Papers   [MT], [DDIM] as in ddim_translator.py; [LD], [DDBM], [DBIM] as in latent_bridge.py
Claims   S1  MT Eq. 3 as printed leaves the noise in                        chain, gain, monte_carlo
         S2  few-step DDIM of small latents returns their mean, no sample            conditional
         S3  T steps must end in noise: beta depends on T                 linear_alpha, start_error
         S4  Kernel is a diffusion conditioned on its end                     conditioned, by_bayes
         S5  an ODE started at z_T has one answer; booting noise has all            bridge_spread
         S6  VE with sigma_max 80 on latents of size 1 is nearly a regression         share, buried
Method   data are Gaussian, so the best denoiser is affine and every sampler an affine map of its
         noises: variances follow in closed form, without a network
Letters  v variance of a coordinate   a = alpha_t   V_t = a v + 1 - a, the variance of z_t
         S steps at sampling   G what a sampler multiplies its starting noise by
Try      python theory/sampling.py        5 s; --run runs/glyphs-translator for a trained network
"""

import math
import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from ddim_translator import ddim_step, make_alpha
from latent_bridge import Kernel, dbim, heun
from theory import report
from theory.report import NEEDS, listed, need

R, H2 = 0.8386, 512  # MT Table 7, "w/o DDIM": cosine of z and c M, here taken for E[z|c]


# ---------------------------------------------------------------------------------------------
# S1: the second factor of Eq. 3


def printed_step(z_t, z0_hat, alpha_t, alpha_s):
    """Eq. 3 to the letter: sqrt(alpha_s) z0_hat + sqrt(1 - alpha_t) eps_hat, as ddim_step takes it.

    By Eq. 1 the second term is z_t - sqrt(alpha_t) z0_hat: all the noise that z_t has."""
    return alpha_s.sqrt() * z0_hat + (z_t - alpha_t.sqrt() * z0_hat)


def sample(step, denoise, z_t, alpha, S):
    """From z_t at t = T to z_0 in S steps, at the levels of Translator.cdim."""
    levels = torch.linspace(len(alpha) - 1, 0, S + 1).round().long().tolist()
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        z_t = step(z_t, denoise(z_t, t), alpha[t], alpha[s])
    return z_t


def chain(a, v, printed=False):
    """G (...) of data of variance v (...) for levels a (..., S + 1) that rise from alpha_T to 1.

    With the exact denoiser a step t -> s multiplies z_t's deviation from its mean by one number.
    DDIM: G^2 <= v / V_T; printed: G >= 1. Proof: README, S1."""
    v, t, s = torch.as_tensor(v, dtype=a.dtype)[..., None], a[..., :-1], a[..., 1:]
    kept = 1 - (t if printed else s)
    return (((s * t).sqrt() * v + (kept * (1 - t)).sqrt()) / (t * v + 1 - t)).prod(-1)


def gain(v, S, alpha, printed=False):
    """G of S steps of a schedule alpha (T + 1,); a sample's variance is G^2, and should be v.

    Raises ValueError unless v > 0 and S is in 1..T."""
    T = len(alpha) - 1
    need(0 < v < math.inf, f"v = {v}: a variance is a number above 0")
    need(1 <= S <= T, f"S = {S}: between 1 and T = {T} steps")
    return chain(alpha[torch.linspace(T, 0, S + 1).round().long()], v, printed).item()


def printed_limit(v):
    """Variance ratio of Eq. 3 as printed in the limit of small steps, alpha_T -> 0."""
    return math.e if v == 1 else v ** (1 / (v - 1))


def monte_carlo(step, v, S, alpha, n=20_000, seed=0):
    """(variance ratio, its standard error) of n draws of data N(0, v) that go through `step`."""
    z_T = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    denoise = lambda z_t, t: alpha[t].sqrt() * v / (alpha[t] * v + 1 - alpha[t]) * z_t
    ratio = sample(step, denoise, z_T, alpha, S).var().item() / v
    return ratio, ratio * math.sqrt(2 / n)


def s1():
    alpha, steps = make_alpha(1000), (50, 250, 1000)
    ratios = lambda v, printed: [gain(v, S, alpha, printed) ** 2 / v for S in steps]
    printed, ddim, small = ratios(1, True), ratios(1, False), ratios(1 / H2, True)
    drawn = [monte_carlo(step, 1, 50, alpha) for step in (printed_step, ddim_step)]
    exact = zip(drawn, (printed[0], ddim[0]), strict=True)
    return report.Claim(
        "S1",
        "MT Eq. 3: the step z_{t-1} = sqrt(alpha_{t-1}) z0_hat + sqrt(1 - alpha_t) eps_hat, from "
        "t = T to 1, samples z.",
        "Presumably a misprint for sqrt(1 - alpha_{t-1}), DDIM's second factor. As printed no step "
        "removes noise: the variance stays at 1 or above, and tends to v^(v/(v-1)), instead of v. "
        "DDIM's tends to v, and is never above v / (1 - alpha_T).",
        f"variance over v at S = 50/250/1000: v = 1, printed {listed(printed)} (limit "
        f"{printed_limit(1):.3g}), DDIM {listed(ddim)}; v = 1/{H2}, printed {listed(small)} (limit "
        f"{printed_limit(1 / H2):.3g}); drawn, v = 1, S = 50: {drawn[0][0]:.3g}, {drawn[1][0]:.3g}",
        abs(printed[-1] - 1) < 0.1,
        all(abs(r - x) < 5 * se for (r, se), x in exact)
        and abs(ddim[-1] - 1) < 0.05
        and max(ddim) <= 1 / (1 - alpha[-1].item()),
    )


# ---------------------------------------------------------------------------------------------
# S2, S3: what the sampler assumes of the latents and of the schedule


def conditional(R, h2, S, alpha, scale=1.0):
    """(variance ratio, cosine to E[z|c]) of DDIM samples of z | c ~ N(R mu, (1 - R^2) / h2 I).

    |mu| = 1, so |z| is about 1 and a true sample's cosine about R. DDIM sees scale z: the mean
    comes out as (1 - sqrt(alpha_T) G) R mu, the spread as G / scale; cosine up to O(1 / h2).
    Raises ValueError unless 0 < R < 1, h2 >= 2 and scale > 0."""
    need(0 < R < 1, f"R = {R}: a cosine between 0 and 1, both excluded")
    need(h2 >= 2, f"h2 = {h2}: at least 2 numbers a latent")
    need(0 < scale < math.inf, f"scale = {scale}: a number above 0")
    v = (1 - R**2) / h2
    G = gain(v * scale**2, S, alpha)
    mean, var = (1 - alpha[-1].sqrt().item() * G) * R, G**2 / scale**2
    return var / v, mean / math.sqrt(mean**2 + h2 * var)


def s2():
    steps, alpha, long = (10, 50, 1000), make_alpha(1000), 1000 * H2
    rows = lambda scale: zip(*(conditional(R, H2, S, alpha, scale) for S in steps), strict=True)
    (small, cos_small), (unit, cos_unit) = rows(1.0), rows(math.sqrt(H2))
    patient = conditional(R, H2, long, make_alpha(long))[0]
    return report.Claim(
        "S2",
        "MT Eqs. 1-3: CDIM(c), a DDIM of the embeddings as they are, samples p(z|c). Their scale "
        "and the number of steps S are not stated.",
        "The last steps' noise must be small against the latents' own spread: 1 - alpha_1 << v. "
        "Unit-norm latents have v < 1/h2 and come out near their conditional mean: good for a "
        "cosine, no sample. Times sqrt(h2), many steps sample; unscaled, h2 times as many.",
        f"h2 = {H2}, R = {R}, S = 10/50/1000: unscaled, variance ratio {listed(small)}, cosine to "
        f"the mean {listed(cos_small)}; scaled, {listed(unit)} and {listed(cos_unit)}; a true "
        f"sample has 1 and {R}. Unscaled with S = T = {long}: variance ratio {patient:.3g}",
        all(abs(r - 1) < 0.1 for r in small),
        all(abs(r - 1) < 0.1 for r in (unit[-1], patient)) and abs(cos_unit[-1] - R) < 0.01,
        NEEDS,
    )


def linear_alpha(T, scaled=False):
    """alpha_t (T + 1,) of beta = 1e-4 ... 0.02, DDPM's at T = 1000; scaled: beta times 1000 / T.

    Raises ValueError for T < 2, or T < 21 if scaled: beta would reach 1."""
    low = 21 if scaled else 2
    need(T >= low, f"T = {T}: this schedule needs T >= {low}")
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * (1000 / T if scaled else 1)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])


def start_error(alpha, m=1.0, v=1.0):
    """(share of the mean m that is lost, variance ratio, KL) of T steps of DDIM from N(0, 1).

    sqrt(a) G, a = alpha_T; G^2 / v; and of z_T's law from N(0, 1), in nats. Proof: README, S3."""
    a, G = alpha[-1].item(), gain(v, len(alpha) - 1, alpha)
    V = a * v + 1 - a
    return math.sqrt(a) * G, G**2 / v, (V + a * m**2 - 1 - math.log(V)) / 2


def s3():
    fixed = lambda T: linear_alpha(T, scaled=True)
    table = lambda of: zip(*(start_error(of(T)) for T in (50, 250, 1000)), strict=True)
    schedules = linear_alpha, fixed, make_alpha
    (lost, _, kl), (lost_fixed, _, _), (lost_ours, _, _) = map(table, schedules)
    ends = lambda of: listed(of(T)[-1].item() for T in (50, 250, 1000))
    return report.Claim(
        "S3",
        "MT Sec. 2.2: noise is added for T steps; sampling is taken to start at N(0, I). Neither T "
        "nor beta is given.",
        "alpha_T must be near 0, so beta grows as 1000 / T. DDPM's beta, copied to a smaller T, "
        "leaves signal in z_T, and a sampler that starts without it loses about sqrt(alpha_T) of "
        "the mean.",
        f"T = 50/250/1000, m = v = 1. DDPM's beta copied: alpha_T {ends(linear_alpha)}, share of "
        f"the mean lost {listed(lost)}, KL of z_T and N(0, 1) {listed(kl)} nats. Times 1000 / T: "
        f"alpha_T {ends(fixed)}, lost {listed(lost_fixed)}; make_alpha: {ends(make_alpha)}, lost "
        f"{listed(lost_ours)}",
        max(lost) < 0.05,
        max(lost_fixed + lost_ours) < 0.05,
        NEEDS,
    )


# ---------------------------------------------------------------------------------------------
# S4: the bridge is a diffusion conditioned on its end


def conditioned(kernel, z_0=-0.7, z_T=1.3, steps=400, paths=10_000, seed=0):
    """(times, means, stds), each (steps + 1,), of the base diffusion from z_0, led to z_T.

    Doob's h-transform: dz = (f + g^2 h) dt + g dw with f = -g^2 z / 2 (VP) or 0 (VE), and
    h = d/dz_t log p(z_T | z_t) = r (z_T - r z_t) / (s_T^2 (rho_T^2 - rho_t^2)), r = s_T / s_t.
    Euler-Maruyama: means and stds are off by O(1 / steps); the last step's own noise stays.
    Raises ValueError for steps < 2 or paths < 2."""
    need(steps >= 2 and paths >= 2, f"steps {steps}, paths {paths}: at least 2 of each")
    rng, dt = np.random.default_rng(seed), kernel.T / steps
    times = torch.linspace(0, kernel.T, steps + 1, dtype=torch.float64)
    s, rho2, g2 = (x.numpy() for x in (*kernel.base(times), kernel.g2(times)))
    z, means, stds = np.full(paths, z_0), [z_0], [0.0]
    for i in range(steps):
        r = s[-1] / s[i]
        h = r * (z_T - r * z) / (s[-1] ** 2 * (rho2[-1] - rho2[i]))
        f = -g2[i] * z / 2 if kernel.kind == "vp" else 0.0
        z = z + (f + g2[i] * h) * dt + math.sqrt(g2[i] * dt) * rng.standard_normal(paths)
        means.append(z.mean()), stds.append(z.std())
    return times, np.array(means), np.array(stds)


def by_bayes(kernel, t):
    """(a_t, b_t, std_t) at 0 < t < T from q(z_t | z_0) p(z_T | z_t): precisions add."""
    t = torch.as_tensor(t, dtype=torch.float64)
    (s, rho2), (s_T, rho2_T) = kernel.base(t), kernel.base(torch.full_like(t, kernel.T))
    r, var_0, var_T = s_T / s, s**2 * rho2, s_T**2 * (rho2_T - rho2)
    var = 1 / (1 / var_0 + r**2 / var_T)
    return var * r / var_T, var * s / var_0, var.sqrt()


def kernel_error(kernel, z_0=-0.7, z_T=1.3, steps=400, paths=10_000, seed=0):
    """(worst, end): the largest error of Kernel's mean and std at t / T = 0.1, ..., 0.9 as a share
    of the allowance, 5 standard errors plus 2 dt; |mean - z_T| plus std at t = T."""
    times, means, stds = conditioned(kernel, z_0, z_T, steps, paths, seed)
    at, dt = [steps * k // 10 for k in range(1, 10)], kernel.T / steps
    a, b, std = (x[at].numpy() for x in kernel(times))
    of_mean = abs(means[at] - a * z_T - b * z_0) / (5 * std / math.sqrt(paths) + 2 * dt)
    of_std = abs(stds[at] - std) / (5 * std / math.sqrt(2 * paths) + 2 * dt)
    return float(max(*of_mean, *of_std)), float(abs(means[-1] - z_T) + stds[-1])


def s4():
    kernels = Kernel("vp"), Kernel("ve", sigma_max=2.0)
    (vp, vp_end), (ve, ve_end) = map(kernel_error, kernels)
    t = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    pairs = [p for k in kernels for p in zip(k(t * k.T), by_bayes(k, t * k.T), strict=True)]
    apart = max(((x - y) / y).abs().max().item() for x, y in pairs)
    return report.Claim(
        "S4",
        "DDBM: q(z_t | z_0, z_T) = N(a_t z_T + b_t z_0, std_t^2) is the base diffusion conditioned "
        "on its end, by Doob's h-transform.",
        "By Bayes it is q(z_t | z_0) p(z_T | z_t), two Gaussians of z_t whose precisions add; a "
        "simulation of the conditioned diffusion agrees, and both ends are pinned.",
        f"10,000 paths, 400 steps: errors of mean and std up to {vp:.2f} (VP), {ve:.2f} (VE to 2) "
        f"of 5 standard errors + 2 dt; at the end {vp_end:.2f}, {ve_end:.2f}, the noise of the "
        f"last step. Kernel against Bayes: {apart:.0e} relative",
        max(vp, ve) < 1 and max(vp_end, ve_end) < 0.2,
        apart < 1e-12,
    )


# ---------------------------------------------------------------------------------------------
# S5, S6: sampling a bridge, and what there is to learn in it


def bridge_spread(sampler, n, kind="vp", mean=0.6, std=0.4):
    """(mean, std) of samples of a bridge from z_T = 1 with the exact denoiser, in closed form.

    sampler(denoise, z_T, kernel, randn) is affine in its noises, at most n: row k of the batch
    gets 1 as its k-th noise, else 0, and the last row only 0. Truth: z_0 | z_T ~ N(mean, std^2).
    Raises ValueError unless std > 0 and n >= 1."""
    need(std > 0 and n >= 1, f"std {std}, n {n}: a std above 0 and at least 1 noise")
    kernel, units = Kernel(kind), iter(torch.eye(n + 1, n, dtype=torch.float64).T)

    def denoise(z_t, t):
        a, b, c = kernel(t)
        if t == kernel.T:
            return torch.full_like(z_t, mean)
        return (mean * c**2 + std**2 * b * (z_t - a)) / (c**2 + std**2 * b**2)

    z_T = torch.ones(n + 1, 1, 1, dtype=torch.float64)
    z = sampler(denoise, z_T, kernel, lambda shape, device: next(units).view(shape)).flatten()
    return z[-1].item(), (z[:-1] - z[-1]).square().sum().sqrt().item()


def booted(S, kind="vp", times="uniform"):
    """(mean, std) of dbim in S evaluations, eta = 0: its booting noise is the only one."""
    run = lambda d, z, k, randn: dbim(d, z, k, time_grid(S, k.T, times), randn=randn)
    return bridge_spread(run, 1, kind)


def churned(steps, churn=0.33, kind="vp"):
    """(mean, std) of heun in 3 steps - 1 evaluations; 2 steps - 1 if churn is 0."""
    run = lambda d, z, k, randn: heun(d, z, k, steps, churn, randn=randn)
    return bridge_spread(run, steps, kind)


def s5():
    ode = vp, ve = churned(40, 0.0), churned(40, 0.0, "ve")
    boot, churn = ([f(n)[1] / 0.4 for n in (10, 50)] for f in (booted, churned))
    boot_ve = booted(50, "ve", "karras")[1] / 0.4
    return report.Claim(
        "S5",
        "A bridge's probability-flow ODE, started at z_T, samples p(z_0 | z_T). LD's released code "
        "samples so (DDBM's Heun, churn 0); its poster names no sampler.",
        "From the point z_T the ODE has one answer a source, close to the mean. It samples if it "
        "starts just below T from a draw of q(z_t | z_T): DBIM's booting noise. DDBM's churn adds "
        "noise on the way.",
        f"truth 0.6 +- 0.4; Heun without churn in 79 evaluations: VP {vp[0]:.3f} +- {vp[1]:.3f}, "
        f"VE {ve[0]:.3f} +- {ve[1]:.3f}. std over truth: dbim in 10/50, VP {listed(boot)}; in 50, "
        f"VE on the rho-7 grid {boot_ve:.3g}; churn 0.33 in 29/149, VP {listed(churn)}",
        all(abs(std / 0.4 - 1) < 0.1 for _, std in ode),
        all(std == 0 for _, std in ode)
        and all(abs(x - 1) < 0.1 for x in (boot[1], boot_ve, churn[1])),
        NEEDS,
    )


def share(kernel, t, size=1.0):
    """b^2 size^2 / (b^2 size^2 + std^2), of t's shape: z_0's part of z_t's variance given z_T.

    z_0 independent of z_T, of std `size`: knowing z_t leaves 1 - share of its variance. For VE
    it falls below 1/10 near t = 3 size if T is large: README, S6. ValueError unless size > 0."""
    need(0 < size < math.inf, f"size = {size}: the latents' std, a number above 0")
    _, b, std = kernel(t)
    return b**2 * size**2 / (b**2 * size**2 + std**2)


def buried(kernel, size=1.0, n=100_000):
    """(p, p_rho7, left): the part of even times, and of 39 times of DDBM's rho-7 grid, at which the
    share is below a tenth; and the mean of 1 - share over even times."""
    even = (torch.arange(n, dtype=torch.float64) + 0.5) / n * kernel.T
    rho7 = torch.tensor(time_grid(40, kernel.T, "karras")[1:-1])
    shares = [share(kernel, t, size) for t in (even, rho7)]
    return *((x < 0.1).double().mean().item() for x in shares), 1 - shares[0].mean().item()


def s6():
    ve, vp, large = buried(Kernel("ve")), buried(Kernel("vp")), buried(Kernel("ve"), size=40.0)
    return report.Claim(
        "S6",
        "A bridge learns how z_T turns into z_0 at all t in [0, T]; LD's released code takes "
        "DDBM's VE kernel with sigma_max = 80 for it.",
        "It needs latents about as large as sigma_max. At size 1, z_t tells little of z_0 above "
        "t = 3, and a loss at even times is nearly a regression of z_0 on z_T. VP, or latents of "
        "half of sigma_max, keep z_0 in sight.",
        "even times / rho-7 times with z_0's share of the variance below a tenth, mean variance "
        f"left: VE, size 1: {listed(ve)}; VP: {listed(vp)}; VE, size 40: {listed(large)}",
        max(ve[:2]) < 0.25,
        max(vp[:2] + large[:2]) < 0.25,
        NEEDS,
    )


def claims():
    return [s1(), s2(), s3(), s4(), s5(), s6()]


# ---------------------------------------------------------------------------------------------
# The figure, and a trained run


def figure():
    fig = Figure(figsize=(8, 3.4), layout="constrained")
    left, middle, right = fig.subplots(1, 3)
    alpha, steps = make_alpha(1000), (1, 2, 5, 10, 20, 50, 100, 250, 500, 1000)
    for v, mark, name in ((1, "o-", "v = 1"), (1 / H2, "s--", f"v = 1/{H2}")):
        for printed, color, which in ((True, "C3", "printed"), (False, "C0", "DDIM")):
            ratio = [gain(v, S, alpha, printed) ** 2 / v for S in steps]
            left.loglog(steps, ratio, color + mark, markersize=3, label=f"{which}, {name}")
    left.set(xlabel="steps S", ylabel="variance / true variance", ylim=(1e-7, 1e6))
    left.set_title("MT Eq. 3: a sample has 1", fontsize=9)

    times, means, stds = conditioned(Kernel("vp"))
    a, b, std = Kernel("vp")(times)
    middle.plot(times, 1.3 * a - 0.7 * b, "C0", label="mean, Kernel")
    middle.plot(times, std, "C1", label="std, Kernel")
    for dots, color in ((means, "C0o"), (stds, "C1o")):
        middle.plot(times[::25], dots[::25], color, markersize=3, label="simulated")
    middle.set(xlabel="t", ylabel="z_t, given z_0 = -0.7 and z_T = 1.3")
    middle.set_title("bridge: a conditioned diffusion", fontsize=9)

    n = (3, 5, 10, 20, 40)
    rows = {
        "C2o-heun, churn 0.33": [(3 * k - 1, churned(k)[1]) for k in n],
        "C0o-dbim, booting noise": [(S, booted(S)[1]) for S in (2, 5, 10, 20, 50, 100)],
        "C3o-heun, churn 0": [(2 * k - 1, churned(k, 0.0)[1]) for k in n],
    }
    for name, row in rows.items():
        nfe, std = np.array(row).T
        right.semilogx(nfe, std / 0.4, name[:4], markersize=3, label=name[4:])
    right.set(xlabel="network evaluations", ylabel="std / true std", ylim=(-0.1, 2))
    right.set_title("bridge: samples from one z_T", fontsize=9)
    for ax in (left, right):
        ax.axhline(1, color="k", linewidth=0.8)
    left.legend(fontsize=6, ncols=2, loc="upper left", columnspacing=0.8, handlelength=1.5)
    middle.legend(fontsize=6)
    right.legend(fontsize=6, loc="lower right", bbox_to_anchor=(1, 0.08))
    return fig


@torch.no_grad()
def trained(held, S, K=8, limit=200, seed=0):
    """{"DDIM" or "printed": (mean square of a coordinate of z_0 in the diffusion's units, cosine)}
    and the share of the variance that K DDIM samples of a row have among themselves.

    The cosine is that of one sample, F of Translator, to z; under "residual" to z - c M."""
    net, c = held.translator, held.c[:limit].float()
    z = held.z[:limit] - (0 if net.objective == "joint" else net.centre(c))
    noise = torch.randn(K, len(c), net.h2, generator=torch.Generator().manual_seed(seed))
    run = lambda step, c, z_T: sample(step, lambda z, t: net.denoise(z, t, c), z_T, net.alpha, S)
    many = run(ddim_step, c.repeat(K, 1), noise.flatten(0, 1)).view_as(noise)
    one = {"DDIM": many[0], "printed": run(printed_step, c, noise[0])}
    cosine = lambda z_0: fn.cosine_similarity(net.F(z_0, c).double(), z).mean().item()
    true = ((held.z[:limit] - net.centre(c)) * net.r_scale).square().mean()
    rows = {k: (z_0.square().mean().item(), cosine(z_0)) for k, z_0 in one.items()}
    return rows, (many.var(0).mean() / true).item()


def measured(held):
    table = {"alpha_T": held.translator.alpha[-1].item()}
    for S in (2, 10, 50):
        rows, spread = trained(held, S)
        for name, (square, cosine) in rows.items():
            table[f"S = {S}, {name}: mean square of z_0"] = square
            table[f"S = {S}, {name}: cosine of one sample"] = cosine
        table[f"S = {S}, DDIM: variance among samples, share"] = spread
    return table


def draw(ax, held, direction):
    steps = (1, 2, 5, 10, 50)
    rows = [trained(held, S, K=2)[0] for S in steps]
    for name, color in (("printed", "C3"), ("DDIM", "C0")):
        ax.semilogx(steps, [row[name][1] for row in rows], "o-", color=color, label=name)
    ax.set(xlabel="steps S", ylabel="cosine of one sample to z", title=direction)
    ax.set_xticks(steps, steps)
    ax.legend(fontsize=7)


if __name__ == "__main__":
    sys.exit(report.main("sampling", claims, figure, measured, draw))
