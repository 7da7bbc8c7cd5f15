"""
gamma.py: how much F may weigh in z_hat = c M + gamma F, and what F is worth in cosine.

MT adds a diffusion sample F, of length 1, to a linear map of the condition, with gamma = 1 "chosen
empirically" (4.3) and guidance 5, and reports that both terms together are best (Table 7). Ten
checks say when that can be so, and what a user should do instead: measure gamma (--gamma auto),
average samples (--K), and be careful with omega.

    gamma_four_numbers.py   G1  gamma = 1 in the paper's own model    G2  where F helps at 1
                            G3  Eq. 21 without its conditions         G9  samples that differ
    gamma_table7.py         G4  Eq. 16 against Table 7                G5  gamma = 1 against Table 7
                            G10 an F of length 1 / sqrt(B)
    gamma_samples.py        G6  one sample, K samples, their mean     G7  F after a good c M
                            G8  guidance

Here are the figure, and the same quantities measured on a trained run. Proofs: theory/README.md.
Letters  a = |cM|   cosines: c1 of z, cM;  q of z, F;  kappa of cM, F   N held-out pairs
         s = |cM|^2 = z.cM in the paper's model   rho = q / sqrt(1 - s)   K samples averaged
         R = |E[z / |z| | c]|: the most that a mean cosine can be
Try      python theory/gamma.py        then with --run runs/glyphs-translator
"""

import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn

# Started as a script, Python looks for modules beside it; most of ours are in the folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from closed_form import best_gamma, gamma_star
from theory import gamma_four_numbers as four_numbers
from theory import gamma_samples, gamma_table7, report
from theory.gamma_four_numbers import best_cosine, break_even, cosine, diagnose
from theory.gamma_samples import OMEGAS, SHARES, averaged, guided, guided_limit, samples
from theory.gamma_table7 import C1, Q, bound


def claims():
    """All ten, in the order of the README's table."""
    return [
        # gamma, by geometry alone
        four_numbers.claim_G1(),
        four_numbers.claim_G2(),
        four_numbers.claim_G3(),
        gamma_table7.claim_G4(),
        gamma_table7.claim_G5(),
        # what F is
        gamma_samples.claim_G6(),
        gamma_samples.claim_G7(),
        gamma_samples.claim_G8(),
        four_numbers.claim_G9(),
        # what gamma = 1 was, in the authors' code
        gamma_table7.claim_G10(),
    ]


# --------------------------------------------------------------------------------------------------
# The figure


def draw_against_gamma(ax):
    """G1, G2: the cosine in the paper's model with Table 7's c M, for four F from poor to good."""
    # rho = 0.72 is what Eq. 21 makes of the table's "both" (G5).
    gamma = np.linspace(0, 2, 201)
    for i, rho in enumerate((0.2, 0.5, 0.72, 0.9)):
        q = rho * bound(C1)
        ax.plot(gamma, cosine(gamma, C1, C1, q, 0.0), f"C{i}", label=f"rho = {rho}")
        ax.plot(q, best_cosine(C1, q, 0.0), f"C{i}o", ms=4)  # gamma* is q
        ax.plot(break_even(C1, C1, q, 0.0), C1, f"C{i}x")
    ax.axhline(C1, color="0.7", lw=0.8)
    ax.axvline(1, color="0.4", ls=":")
    ax.set(xlabel="gamma (dotted: MT's 1)", ylabel="cos(z, z_hat), s = 0.7033")
    ax.set_title("dot: gamma*, x: break-even")
    report.legend(ax)


def draw_samples(ax):
    """G6: K averaged samples climb from R^2 to R; Table 7's F is below both."""
    # The formula as a line, draws as dots.
    found = samples()
    K = np.geomspace(1, 16, 60)
    ax.semilogx(K, averaged(C1, K), "C0", base=2, label="K averaged; dots: MC")
    ax.plot(list(found), [x for x, _ in found.values()], "C0o", ms=4)
    lines = {
        f"R = {C1}, the paper's cM": (C1, "k--"),
        "R^2, an exact sample": (C1**2, "k:"),
        f"{Q}, the paper's F": (Q, "C3-"),
    }
    for label, (y, style) in lines.items():
        ax.plot([1, 16], [y, y], style, lw=1, label=label)
    ax.set(xlabel="K samples averaged", ylabel="cos(z, F)", ylim=(0.45, 0.87))
    ax.set_xticks(list(found), list(found))
    ax.set_title("what samples are worth")
    report.legend(ax)


def draw_guidance(ax):
    """G8: the cosine of one sample against omega, by the common mean's share of |z|^2."""
    # The limit of many small steps as a line, MT-like 50 steps as dots.
    omega = np.linspace(0, 7, 29)
    for i, share in enumerate(SHARES):
        limit = [guided_limit(share, w)[2] for w in omega]
        ax.plot(omega, limit, f"C{i}", label=f"{share:g}")
        ax.plot(OMEGAS, [guided(share, w) for w in OMEGAS], f"C{i}o", ms=4)
    ax.axvline(5, color="0.4", ls=":")
    ax.set(xlabel="omega (dotted: MT's 5)", ylabel="cos(z, F)", ylim=(0.58, 0.85))
    ax.set_title("guidance; dots: 50 steps")
    report.legend(ax, title="share of common mean")


def figure():
    fig, (left, middle, right) = report.three_panels()
    draw_against_gamma(left)
    draw_samples(middle)
    draw_guidance(right)
    return fig


# --------------------------------------------------------------------------------------------------
# On a trained run


def curve(held, points=401):
    """(gammas from a/1000 to 1000 a, mean cosine at each), both (points,)."""
    # The cosine at each gamma follows from the products of each row: no z_hat has to be made.
    z, cM, F = fn.normalize(held.z), held.cM, held.F
    zM = (z * cM).sum(1)  # (N,), and so are the others
    zF = (z * F).sum(1)
    MF = (cM * F).sum(1)
    MM = (cM * cM).sum(1)
    gammas = MM.sqrt().mean() * torch.logspace(-3, 3, points, dtype=torch.float64)
    score = []
    for gamma in gammas:
        z_hat_length = (MM + 2 * gamma * MF + gamma * gamma).sqrt()
        score.append(((zM + gamma * zF) / z_hat_length).mean())
    return gammas.numpy(), torch.stack(score).numpy()


def measured(held):
    """{quantity: number} of one direction of a run: the four numbers, four ways to choose gamma
    and the cosine at each, and what averaging samples gains."""
    means = diagnose(held.z, held.cM, held.F)
    gammas, score = curve(held)
    top = score.max()
    length = held.z.norm(dim=1).mean()
    chosen = {
        "gamma_star": means["gamma_star"],
        "best_gamma": best_gamma(held.cM, held.F, held.z),
        "run's gamma": held.gamma,
    }
    # The cosine at each of them, and at the paper's 1.
    reached = {}
    for name, gamma in {**chosen, "1": 1.0}.items():
        z_hat = held.cM + gamma * held.F
        reached[name] = fn.cosine_similarity(held.z, z_hat).mean()

    swept = gammas[score.argmax()]
    table = {name: means[name] for name in ("a", "c1", "q", "kappa")}
    table |= {
        **chosen,
        "sweep's gamma": swept,
        # The paper's gamma = 1 is about unit z, so these two compare with it.
        "gamma_star / |z|": chosen["gamma_star"] / length,
        "sweep's gamma / |z|": swept / length,
        "best cosine predicted": means["cosine"],
        "sweep's best cosine": top,
        **{f"cosine at {name}": x for name, x in reached.items()},
        "at gamma_star - sweep's best": reached["gamma_star"] - top,
        **measured_samples(held, top),
    }
    return {quantity: float(x) for quantity, x in table.items()}


def measured_samples(held, top):
    """The cosine of F for growing K, beside the formula of G6 with R = sqrt(cosine at K = 1), on
    1,000 pairs; top: the best cosine of z_hat.

    Samples are drawn in two steps, as the runs are scored. Such samples hardly differ, so that K
    gains less than the formula says. The last row is at least 0 for an exact sampler."""
    torch.manual_seed(0)
    c, z = held.raw_c[:1000], held.z[:1000]
    sampled = {}
    for K in (1, 2, 4, 8, 16):
        _, F = held.translator.terms(c, K=K, steps=2, omega=0.0)
        sampled[K] = fn.cosine_similarity(z, F.double()).mean().item()

    R = max(sampled[1], 1e-6) ** 0.5  # a network may score below 0; R is for the formula alone
    table = {}
    for K, x in sampled.items():
        table[f"cos(z, F), K = {K}"] = x
        table[f"  by R, K = {K}"] = averaged(R, K)
    best = max(top, *sampled.values())
    return table | {"R": R, "K = 1 - (best cosine)^2": sampled[1] - best**2}


def draw(ax, held, direction):
    """The mean cosine against gamma, and three choices of gamma."""
    # Where the three are on the curve, as vertical lines.
    gammas, score = curve(held)
    star = gamma_star(held.cM, held.F, held.z)
    ax.semilogx(gammas, score, "C0")
    marks = {
        f"gamma_star {star:.3g}": (star, "-"),
        f"run's {held.gamma:.3g}": (held.gamma, "--"),
        "1": (1.0, ":"),
    }
    for label, (gamma, style) in marks.items():
        # gamma = 0, which a run may have, is not on a logarithmic axis: it goes to its left end.
        ax.axvline(max(gamma, gammas[0]), color="C1", ls=style, label=label)
    ax.set(xlabel="gamma", ylabel="mean cos(z, cM + gamma F)", title=direction)
    report.legend(ax)


if __name__ == "__main__":
    sys.exit(report.main("gamma", claims, figure, measured, draw))
