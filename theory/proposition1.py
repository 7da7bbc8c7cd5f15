"""
proposition1.py: does Proposition 1 of MT say how often the cosine is at least alpha?

MT translates c into z_hat = c M + gamma F(c), and Proposition 1 (Eq. 7 = 17 = 23, proof: Eq. 18-22
in App. B) gives a probability that cos(z, z_hat) >= alpha. It is the paper's only justification of
its method, and it treats F, the diffusion model's output, as a random direction. Nine checks:

    proposition1_formulas.py    the model in words and numbers; the formula, printed and repaired
    proposition1_value.py       P1  Eq. 22, the law of x.y for random directions
                                P2  Eq. 23, its "=": is that the probability?
                                P5  can it be computed as it stands?
                                P6  Eq. 18, 21: for which lengths and angles?
                                P7  one s for all samples, residuals without a preferred direction
    proposition1_at_least.py    P3  Eq. 23, its "at least", in its own model
                                P4  the same for an F that is trained
                                P8  does it justify gamma > 0?
                                P9  "our method ensures": what can be promised

Here are the figure, and the same quantities measured on a trained run. Proofs: theory/README.md.
Letters  N samples   A alphas   h2 = dim z   s = cos(z, c M)^2, which is |c M|^2 for unit z
         rho = cos(r, F), both beside c M: r is what z has beside c M
Try      python theory/proposition1.py        then with --run runs/glyphs-translator
"""

import os
import sys
from typing import NamedTuple

import numpy as np

# Started as a script, Python looks for modules beside it; most of ours are in the folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from theory import proposition1_at_least as at_least
from theory import proposition1_value as value
from theory import report
from theory.proposition1_at_least import guarantee
from theory.proposition1_formulas import (
    H2,
    S,
    alpha_at,
    construct,
    frequency,
    general,
    printed,
    probability,
)
from theory.report import cosine, unit


def claims():
    """All nine, in the order of the README's table."""
    return [
        # the formula in its own model
        value.claim_P1(),
        value.claim_P2(),
        at_least.claim_P3(),
        # what it takes for granted
        at_least.claim_P4(),
        value.claim_P5(),
        value.claim_P6(),
        value.claim_P7(),
        # what it is used for
        at_least.claim_P8(),
        at_least.claim_P9(),
    ]


# --------------------------------------------------------------------------------------------------
# The figure


def draw_paper_setting(ax):
    """P2, P3, P8: in the paper's setting, the printed law is wider than the true one; and c M
    alone, certain up to its cosine, is above both."""
    alpha = np.linspace(0.3, 0.88, 300)
    ax.semilogy(alpha, printed(alpha, 1.0, S, H2), "C3", label="printed")
    ax.plot(alpha, probability(alpha, 1.0, S, H2), "C0", label="corrected")

    # Counted in 10,000 draws, from -2 to +3 standard deviations.
    dots = alpha_at(np.linspace(-2, 3, 6), 1.0, S, H2)
    counted = frequency(construct(1.0, S, H2, N=10_000), dots)
    ax.plot(dots, counted, "k.", label="Monte Carlo")
    label = "gamma = 0,\nand the paper's 0.84"
    ax.plot([0.3, S**0.5, S**0.5], [1, 1, 1e-30], "C2", label=label)
    ax.set(ylim=(1e-13, 5), xlabel="alpha", ylabel="P(cos >= alpha)")
    ax.set_title("h2 = 512, gamma = 1")


def draw_inner_products(ax):
    """P1: x.y of random directions in R^3 is uniform; Eq. 22 has a half ellipse."""
    u = np.linspace(-1, 1, 201)
    products, *_ = value.inner_products()
    ax.hist(products, 40, density=True, color="0.8", label="20,000 pairs in R^3")
    ax.plot(u, 2 / np.pi * np.sqrt(1 - u**2), "C3", label="printed, d = 3")
    ax.plot(u, 0 * u + 0.5, "C0", label="corrected")
    ax.set(xlabel="x.y", ylabel="density", ylim=(0, 0.95))
    ax.set_title("Eq. 22 in R^3")


def draw_better_mean(ax):
    """P4, P9: an F with a better mean than a random one, below both formulas; and its guarantee."""
    alpha = np.linspace(0.7, 1, 300)
    lucky = np.random.default_rng(0).random(1000) < 0.3
    rho = np.where(lucky, 0.9, -0.2)
    x = (0.7 + 0.3 * np.sqrt(0.3) * rho) / np.sqrt(0.7 + 0.3**2)  # s = 0.7, gamma = 0.3
    ax.plot(alpha, printed(alpha, 0.3, 0.7, H2), "C3", label="printed")
    ax.plot(alpha, probability(alpha, 0.3, 0.7, H2), "C0", label="corrected, F random")
    ax.plot(alpha, frequency(x, alpha), "k", label="this F, 1,000 pairs")
    ax.plot(alpha, guarantee(x, alpha), "C1--", label="DKW, 95 %")
    ax.set(ylim=(-0.03, 1.5), xlabel="alpha", ylabel="P(cos >= alpha)")
    ax.set_title("rho = 0.9 or -0.2")


def figure():
    fig, (left, middle, right) = report.three_panels()
    draw_paper_setting(left)
    draw_inner_products(middle)
    draw_better_mean(right)
    for ax in (left, middle, right):
        report.legend(ax)
    return fig


# --------------------------------------------------------------------------------------------------
# On a trained run


class Geometry(NamedTuple):
    """The lengths and angles of each sample that the formulas take, all (N,)."""

    z: np.ndarray  # |z|
    cM: np.ndarray  # |c M|
    c1: np.ndarray  # cos(z, c M)
    kappa: np.ndarray  # cos(c M, F)
    rho: np.ndarray  # the cosine of what z and F have beside c M
    cos: np.ndarray  # cos(z, z_hat)
    rho_other: np.ndarray  # rho, but with the F of another sample


def beside(x, u):
    """x (N, h2) without its part along the unit vectors u (N, h2)."""
    return x - (x * u).sum(1, keepdims=True) * u


def geometry(held):
    """The Geometry of a run's held-out pairs."""
    z, cM, F = held.z.numpy(), held.cM.numpy(), held.F.numpy()
    u = unit(cM)
    # An F that knows nothing of this sample, and yet has all habits of the run's F: that of the
    # sample half a table further on.
    other_F = np.roll(F, len(F) // 2, 0)
    return Geometry(
        z=np.linalg.norm(z, axis=1),
        cM=np.linalg.norm(cM, axis=1),
        c1=np.clip(cosine(z, u), -1, 1),  # rounding may go beyond 1
        kappa=np.clip(cosine(F, u), -1, 1),
        rho=cosine(beside(z, u), beside(F, u)),
        cos=cosine(z, cM + held.gamma * F),
        rho_other=cosine(beside(z, u), beside(other_F, u)),
    )


def averaged(formula, alpha, *args):
    """The mean over samples of formula(t, *args), for each t of alpha (A,)."""
    return np.array([formula(t, *args).mean() for t in alpha])


def curves(held, alpha):
    """{name: P(cos >= alpha)} at alphas (A,). Measured, guaranteed, and three formulas, averaged
    over the samples with their own |z| and s (P7); "general" also with their own |cM|, cos(z, cM)
    and kappa, so that only rho is a random F's."""
    g = geometry(held)
    gamma, h2 = held.gamma, held.z.shape[1]
    relative = gamma / g.z  # for z of length 1 (P6)
    return {
        "measured": frequency(g.cos, alpha),
        "DKW bound": guarantee(g.cos[held.independent], alpha),
        "general": averaged(general, alpha, gamma, g.cM, g.c1, g.kappa, h2 - 1),
        "corrected": averaged(probability, alpha, relative, g.c1**2, h2),
        "printed": averaged(printed, alpha, relative, g.c1**2, h2),
    }


def measured(held):
    """{quantity: number}: means over the samples, then P(cos >= alpha) at the quartiles of the
    measured cosine."""
    g = geometry(held)
    rows = {
        "gamma": held.gamma,
        "|z|, mean": g.z.mean(),
        "s = cos(z, cM)^2, mean": np.mean(g.c1**2),
        "kappa = cos(cM, F), mean": g.kappa.mean(),
        "rho, mean": g.rho.mean(),
        "rho, std": g.rho.std(),
        # P7: 1 / Var(rho) counts directions only where r and F are independent.
        "rho with another's F, mean": g.rho_other.mean(),
        "n_eff = 1 / Var(rho with another's F)": 1 / g.rho_other.var(),
        "h2 - 1": held.z.shape[1] - 1,
        "independent pairs": len(held.independent),
    }
    # Rounded, so that the table can be read: 0.63 and not 0.628391.
    alphas = np.quantile(g.cos, [0.25, 0.5, 0.75]).round(2)
    table = curves(held, alphas)
    for i, q in enumerate(("q1", "median", "q3")):
        rows[f"alpha at {q} of the cosine"] = alphas[i]
        for name, p in table.items():
            rows[f"  P(cos >= {q}), {name}"] = p[i]
    return {quantity: float(number) for quantity, number in rows.items()}


def draw(ax, held, direction):
    """What the run reaches, what is guaranteed, and what the formulas say."""
    alpha = np.linspace(-0.2, 1, 121)
    colours = ("k", "C1--", "C2", "C0", "C3")
    for (name, p), colour in zip(curves(held, alpha).items(), colours, strict=True):
        ax.plot(alpha, p, colour, label=name)
    ax.set(title=direction, xlabel="alpha", ylabel="P(cos >= alpha)")
    report.legend(ax)


if __name__ == "__main__":
    sys.exit(report.main("proposition1", claims, figure, measured, draw))
