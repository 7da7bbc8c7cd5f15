"""
sampling.py: do the samplers sample? Eq. 3 of MT, the scales it needs, and LD's bridge.

A generative model is meant to draw from p(z|c), and not to guess the mean: a mean of pictures is a
blur. Whether it draws depends on small things, a printed index, the scale of the latents, where a
sampler starts. Each is checked on Gaussian data, where the best network is a formula, so that what
is wrong is the sampler's fault:

    sampling_ddim.py     S1  MT Eq. 3 as printed leaves the noise in
                         S2  few-step DDIM of small latents returns their mean, no sample
                         S3  T steps must end in noise: beta depends on T
    sampling_bridge.py   S4  Kernel is a diffusion conditioned on its end
                         S5  an ODE started at z_T has one answer; booting noise has all
                         S6  VE with sigma_max 80 on latents of size 1 is nearly a regression

Here are the figure, and S1, S2 on a trained run. Proofs: theory/README.md.
Papers   [MT], [DDIM] as in ddim_translator.py; [LD], [DDBM], [DBIM] as in latent_bridge.py
Letters  v variance of a coordinate   S steps at sampling   K samples   h1 = dim c   h2 = dim z
Try      python theory/sampling.py        5 s; --run runs/glyphs-translator for a trained network
"""

import os
import sys

import torch
import torch.nn.functional as fn

# Started as a script, Python looks for modules beside it; most of ours are in the folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from ddim_translator import ddim_step, make_alpha
from latent_bridge import Kernel
from theory import report, sampling_bridge, sampling_ddim
from theory.sampling_bridge import STD, booted, churned, conditioned
from theory.sampling_ddim import H2, printed_step, sample, variance_ratio


def claims():
    return [
        # MT's DDIM
        sampling_ddim.claim_S1(),
        sampling_ddim.claim_S2(),
        sampling_ddim.claim_S3(),
        # LD's bridge
        sampling_bridge.claim_S4(),
        sampling_bridge.claim_S5(),
        sampling_bridge.claim_S6(),
    ]


# --------------------------------------------------------------------------------------------------
# The figure


def draw_eq3(ax):
    """S1, S2: the variance of samples over the true one, for latents of size 1 and of unit norm."""
    # Two sizes of latents, by line; the printed step and DDIM's, by colour.
    alpha = make_alpha(1000)
    steps = (1, 2, 5, 10, 20, 50, 100, 250, 500, 1000)
    for v, mark, name in ((1, "o-", "v = 1"), (1 / H2, "s--", f"v = 1/{H2}")):
        for printed, color, which in ((True, "C3", "printed"), (False, "C0", "DDIM")):
            ratio = [variance_ratio(v, S, alpha, printed) for S in steps]
            ax.loglog(steps, ratio, color + mark, markersize=3, label=f"{which}, {name}")
    ax.axhline(1, color="k", linewidth=0.8)
    ax.set(xlabel="steps S", ylabel="variance / true variance", ylim=(1e-7, 1e6))
    ax.set_title("MT Eq. 3: a sample has 1")
    report.legend(ax)


def draw_kernel(ax):
    """S4: mean and std of z_t by Kernel, and by simulating the conditioned diffusion."""
    times, means, stds = conditioned(Kernel("vp"))
    a, b, std = Kernel("vp")(times)
    ax.plot(times, 1.3 * a - 0.7 * b, "C0", label="mean, Kernel")
    ax.plot(times, std, "C1", label="std, Kernel")
    # Every 25th of the 400 steps as a dot.
    for dots, color in ((means, "C0o"), (stds, "C1o")):
        ax.plot(times[::25], dots[::25], color, markersize=3, label="simulated")
    ax.set(xlabel="t", ylabel="z_t, given z_0 = -0.7 and z_T = 1.3")
    ax.set_title("a bridge's kernel")
    report.legend(ax)


def draw_spread(ax):
    """S5: the spread of samples from one z_T over the true one, by network evaluations."""
    # {name: [(network evaluations, std)]}
    steps = (3, 5, 10, 20, 40)
    rows = {
        "C2o-heun, churn 0.33": [(3 * n - 1, churned(n)[1]) for n in steps],
        "C0o-dbim, booting noise": [(S, booted(S)[1]) for S in (2, 5, 10, 20, 50, 100)],
        "C3o-heun, churn 0": [(2 * n - 1, churned(n, 0.0)[1]) for n in steps],
    }
    # The first four characters of a name are its style.
    for name, row in rows.items():
        nfe = [evaluations for evaluations, _ in row]
        ratio = [std / STD for _, std in row]
        ax.semilogx(nfe, ratio, name[:4], markersize=3, label=name[4:])
    ax.axhline(1, color="k", linewidth=0.8)
    ax.set(xlabel="network evaluations", ylabel="std / true std", ylim=(-0.1, 2))
    ax.set_title("samples from one z_T")
    report.legend(ax)


def figure():
    fig, (left, middle, right) = report.three_panels()
    draw_eq3(left)
    draw_kernel(middle)
    draw_spread(right)
    return fig


# --------------------------------------------------------------------------------------------------
# On a trained run


@torch.no_grad()
def trained(held, S, K=8, limit=200, seed=0):
    """S steps with the run's own network, by DDIM and by Eq. 3 as printed, from the same noise:

    {"DDIM" or "printed": (mean square of a coordinate of z_0 in the diffusion's units, cosine)}
    and the share of the variance that K DDIM samples of a row have among themselves.
    The cosine is that of one sample, F of Translator, to z; under "residual" to z - c M."""
    net = held.translator
    c = held.c[:limit].float()  # (B, h1), B = limit
    centre = net.centre(c)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(K, len(c), net.h2, generator=generator)

    def run(step, c, z_T):
        def denoise(z_t, t):
            return net.denoise(z_t, t, c)

        return sample(step, denoise, z_T, net.alpha, S)

    # K samples of each row by DDIM; one, from the first of these noises, by Eq. 3 as printed.
    many = run(ddim_step, c.repeat(K, 1), noise.flatten(0, 1)).view_as(noise)  # (K, B, h2)
    one = {"DDIM": many[0], "printed": run(printed_step, c, noise[0])}

    # What F is to point at: z, or under "residual" what c M leaves of it.
    target = held.z[:limit] - (centre if net.objective == "residual" else 0)
    rows = {}
    for name, z_0 in one.items():
        cosine = fn.cosine_similarity(net.F(z_0, c).double(), target).mean().item()
        rows[name] = z_0.square().mean().item(), cosine

    # How different samples of one row are, beside the mean square of the true z_0.
    true = ((held.z[:limit] - centre) * net.r_scale).square().mean()
    return rows, (many.var(0).mean() / true).item()


def measured(held):
    """{quantity: number} of one direction of a run. A sampler that samples has a mean square of 1,
    the scale of the training data; the variance among samples is what c does not tell."""
    table = {"alpha_T": held.translator.alpha[-1].item()}
    for S in (2, 10, 50):
        rows, spread = trained(held, S)
        for name, (square, cosine) in rows.items():
            table[f"S = {S}, {name}: mean square of z_0"] = square
            table[f"S = {S}, {name}: cosine of one sample"] = cosine
        table[f"S = {S}, DDIM: variance among samples, share"] = spread
    return table


def draw(ax, held, direction):
    """The cosine of one sample against the number of steps, by both steps."""
    steps = (1, 2, 5, 10, 50)
    rows = [trained(held, S, K=2)[0] for S in steps]
    for name, color in (("printed", "C3"), ("DDIM", "C0")):
        cosines = [row[name][1] for row in rows]
        ax.semilogx(steps, cosines, "o-", color=color, label=name)
    ax.set(xlabel="steps S", ylabel="cosine of one sample to z", title=direction)
    ax.set_xticks(steps, steps)
    report.legend(ax)


if __name__ == "__main__":
    sys.exit(report.main("sampling", claims, figure, measured, draw))
