"""
Exercise 2: the DDIM step, and the misprint in the paper.                   level 2, 40 minutes

Concept  a step estimates z_0 and eps and mixes them anew, for a cleaner level
Read     MT Eq. 3*; DDIM (arXiv 2010.02502) Eq. 12, its sigma in Eq. 16
Grade    pytest tests/test_translator.py --impl assignments.ex02_ddim_step -k ddim
Expect   covariance error of 400 steps: 0.0501 +- 0.001
As MT    Eq. 1: z_t = sqrt(alpha_t) z_0 + sqrt(1 - alpha_t) eps
printed  Eq. 3: z_{t-1} = sqrt(alpha_{t-1}) z0_hat + sqrt(1 - alpha_t) eps_hat
Explain  One factor of Eq. 3 is wrong. Which? Say z0_hat = z_0: how much noise is left in z_{t-1}
         then, how much should there be, and what becomes of a sample after all steps?
Hint     Feed the step a z_t that Eq. 1 made from a known z_0 and eps, with z0_hat = z_0. Where
         must it land?
"""

import torch


def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    """From level alpha_t to a cleaner one, alpha_s > alpha_t: z_t, z0_hat, noise (B, h2) -> z_s.

    eps_hat is what Eq. 1 says of z_t and z0_hat. z_s has sqrt(alpha_s) of z0_hat, sigma of fresh
    noise and as much of eps_hat as leaves the noise's whole variance at 1 - alpha_s.
    sigma = eta * (the std of q(z_s | z_t, z_0)). eta = 0: no noise is given, and none is needed.
    alpha_s may be 1, the last step. alpha_t, alpha_s are tensors of shape () or (B, 1)."""
    raise NotImplementedError
