"""
lemma1.py: Lemma 1 (MT 3.3, proof in App. A), statement by statement.

MT translates a condition c into z_hat = c M + gamma F(c): a matrix, and a unit vector F made by a
diffusion model. Lemma 1 says what each term learns. In words: training by Eq. 9 leads c M to the
projection of z on the column space of the conditions, which is what linear regression finds, and
gamma F(c) to the residual z - c M, which is perpendicular to that space. If it were so, the second
term would be a pure gain. Eleven checks say what is left of it:

    lemma1_least_squares.py     L1   what least squares projects, Eq. 12-15
                                L2   z.cM = |cM|^2 sample by sample, Eq. 16, 19, 20
                                L3   the subspace that Eq. 16 puts F into
                                L6   Eq. 8 is an L1 norm, Eq. 13 solves the L2 one
                                L7   weight decay
    lemma1_inequality.py        L4   the bound of Eq. 11 and its condition
                                L5   does minimising Eq. 10 minimise the right side of Eq. 11?
    lemma1_joint_training.py    L8   Eq. 8 alone: M and F trained together, F any function of c
                                L9   Eq. 9 with F held by its DDIM loss at a sample of p(z|c)
                                L10  when c M is the projection
                                L11  gamma F and the residual

Here are the figure, and the same quantities measured on a trained run. Proofs: theory/README.md.
Letters  N samples, the rows   h1 = dim c   h2 = dim z   m = c M with a bias   r = z - m
         F unit rows   zeta = |z|   R = |E[z / |z| | c]|   M_hat: least squares
Try      python theory/lemma1.py        then with --run runs/glyphs-translator
"""

import os
import sys

import numpy as np
import torch

# Started as a script, Python looks for modules beside it; most of ours are in the folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from theory import lemma1_inequality as inequality
from theory import lemma1_joint_training as joint_training
from theory import lemma1_least_squares as least_squares
from theory import report
from theory.lemma1_joint_training import rms_distance, shrunk
from theory.lemma1_least_squares import SIZES, linear, orthogonality, project, saturating
from theory.report import cosine


def claims():
    """All eleven: the steps of the proof first, the lemma itself at the end."""
    return [
        # App. A, from Eq. 12 to Eq. 16
        least_squares.claim_L1(),
        least_squares.claim_L2(),
        least_squares.claim_L3(),
        # App. A, Eq. 10 and 11
        inequality.claim_L4(),
        inequality.claim_L5(),
        # what was minimised: another norm, and weight decay
        least_squares.claim_L6(),
        least_squares.claim_L7(),
        # Eq. 9 itself, and the two halves of the lemma
        joint_training.claim_L8(),
        joint_training.claim_L9(),
        joint_training.claim_L10(),
        joint_training.claim_L11(),
    ]


# --------------------------------------------------------------------------------------------------
# The figure


def cosines_of_fit(make, h2):
    """cos(r, c M_hat) of 4,000 samples of the data that `make` makes, h1 = 6."""
    C, Z = make(4000, 6, h2)
    m = project(C, Z)
    return cosine(Z - m, m)


def draw_per_sample(ax):
    """L2: Eq. 19 wants all of these cosines to be 0."""
    bins = np.linspace(-1, 1, 81)
    # Where the linear fit is right they gather at 0, the more the more dimensions there are ...
    for h2 in SIZES:
        cos = cosines_of_fit(linear, h2)
        ax.hist(cos, bins, density=True, histtype="step", label=h2)
    # ... and where it is wrong they do not, not even with 512.
    cos = cosines_of_fit(saturating, SIZES[-1])
    ax.hist(cos, bins, density=True, color="0.7", label=f"{SIZES[-1]}, c M misfits")
    ax.set(xlabel="cos(r, cM), one sample each", ylabel="density", title="per sample (L2)")
    report.legend(ax, title="h2")


def draw_shrunk(ax):
    """L9: M as a multiple of M_hat, for two lengths of z, falls to 0 at gamma = |z|."""
    # In units of |z| both lengths have one curve; the paper's gamma = 1 is at 1 if |z| = 1.
    for zeta, mark in ((1.0, "o"), (10.0, "x")):
        gammas = zeta * np.linspace(0, 1.5, 7)
        slope = [shrunk(g, zeta, N=2000)[0] for g in gammas]
        ax.plot(gammas / zeta, slope, mark, label=f"fitted, |z| = {zeta:.0f}")
    ax.plot([0, 1.5], [1, -0.5], "k-", lw=0.8, label="1 - gamma / |z|")
    ax.axvline(1, color="C1", ls=":", label="gamma = 1, |z| = 1")
    ax.axhline(0, color="gray", lw=0.5)
    ax.set(xlabel="gamma / |z|", ylabel="M as a multiple of M_hat", title="F a sample (L9)")
    report.legend(ax)


def draw_joint(ax):
    """L8, L10: how far c M is from the projection after joint training."""
    # On the line where E[z|c] is linear, and below it where it is not.
    gammas = np.geomspace(0.01, 3, 11)
    for curve, mark, label in ((0.0, "o", "linear"), (0.4, "x", "not linear")):
        distance = [rms_distance(curve, g) for g in gammas]
        ax.loglog(gammas, distance, mark, label=f"E[z|c] {label}")
    ax.loglog(gammas, gammas, "k-", lw=0.8, label="gamma, the bound")
    ax.axvline(1, color="C1", ls=":", label="gamma = 1")
    ax.set(xlabel="gamma", ylabel="rms |cM - projection|", ylim=(3e-5, 6))
    ax.set_title("joint (L8, L10)")
    report.legend(ax)


def figure():
    fig, (left, middle, right) = report.three_panels()
    draw_per_sample(left)
    draw_shrunk(middle)
    draw_joint(right)
    return fig


# --------------------------------------------------------------------------------------------------
# On a trained run


def measured(held):
    """{quantity: number} of one direction of a run, on pairs that it was not trained on.

    M_hat was fitted to the training pairs: only there is its r.m exactly 0 in sum."""
    z, m, F, best = (x.numpy() for x in (held.z, held.cM, held.F, held.M_hat_c))
    return {
        # L2, L3: where the run's c M and F are, beside least squares
        **measured_orthogonality("run's M", z, m),
        **measured_orthogonality("M_hat", z, best),
        **measured_complement(held),
        "mean cos(F, cM) (Eq. 16: 0)": cosine(F, m).mean(),
        # L4, L9: at the run's gamma, and at the paper's
        "the run's gamma": held.gamma,
        **measured_eq11("run's gamma", held.gamma, z - m, F),
        **measured_eq11("gamma 1", 1.0, z - m, F),
        **measured_slope(z, m, F, best),
    }


def measured_orthogonality(name, z, m):
    """L2: Eq. 16 and 19 say that all of it is 0."""
    found = orthogonality(z, m)
    return {
        f"{name}: mean r.m / mean |m|^2": found["aggregate"],
        f"{name}: mean cos(r, m)": found["mean"],
        f"{name}: std cos(r, m)": found["std"],
        f"{name}: median |z.m / |m|^2 - 1|": found["miss"],
    }


def measured_complement(held):
    """L3: how many dimensions the vectors c M leave. Their rank is counted in float32, the
    precision that they were made in: in float64 rounding errors would count as dimensions."""
    h2 = held.z.shape[1]
    rank = int(torch.linalg.matrix_rank(held.cM.float()))
    return {
        "1 / sqrt(h2)": h2**-0.5,
        "rank of the vectors c M, of h2": f"{rank} of {h2}",
        "dimension of the complement (Eq. 16)": h2 - rank,
    }


def measured_eq11(name, gamma, r, F):
    """L4: how many samples meet the printed and the corrected condition, and whether Eq. 11 holds:
    it does where the last number is at least 1. A run whose F helps has less than 1."""
    one = abs(r).sum(1)
    return {
        f"{name}: share gamma >= |r|_1 / 2": (gamma >= one / 2).mean(),
        f"{name}: share gamma |F|_1 >= 2 |r|_1": (gamma * abs(F).sum(1) >= 2 * one).mean(),
        f"{name}: E|z - z_hat|_1 / E|r|_1": abs(r - gamma * F).sum() / one.sum(),
    }


def measured_slope(z, m, F, best):
    """L9: M as a multiple of M_hat, and what the formulas say at gamma = 1."""
    # About their means: the bias is not shrunk, and would hide that M is.
    dm = m - m.mean(0)
    db = best - best.mean(0)
    zeta = np.linalg.norm(z, axis=1).mean()
    R = cosine(z, F).mean()
    return {
        "slope <cM, cM_hat> / |cM_hat|^2, centred": (dm * db).sum() / (db**2).sum(),
        "zeta: mean |z|": zeta,
        "R: mean cos(z, F)": R,
        "slope if gamma 1, F a sample: 1 - 1/zeta": 1 - 1 / zeta,
        "if F the mean direction: 1 - 1/(R zeta)": 1 - 1 / (R * zeta),
    }


def draw(ax, held, direction):
    """The panel of L2 for a run: cos(r, c M) of each held-out pair."""
    z = held.z.numpy()
    spread = held.z.shape[1] ** -0.5
    for m, name in ((held.cM, "the run's M"), (held.M_hat_c, "least squares")):
        cos = cosine(z - m.numpy(), m.numpy())
        label = f"{name}: mean {cos.mean():.2f}, std {cos.std():.2f}"
        ax.hist(cos, 60, density=True, histtype="step", label=label)

    # If r pointed anywhere with equal chance: nearly a normal law, 4 standard deviations of it.
    x = np.linspace(-4, 4, 201)
    law = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) / spread
    ax.plot(x * spread, law, "k:", label=f"isotropic r: std 1/sqrt(h2) = {spread:.2f}")
    ax.set(title=direction, xlabel="cos(r, cM), one held-out pair each", ylabel="density")
    ax.set(xlim=(-1, 1), ylim=(0, 1.4 * law.max()))  # room for the legend
    report.legend(ax)


if __name__ == "__main__":
    sys.exit(report.main("lemma1", claims, figure, measured, draw))
