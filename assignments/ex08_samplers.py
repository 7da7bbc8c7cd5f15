"""
Exercise 8: from z_T to z_0 in few steps: DBIM against Heun.                level 4, 90 minutes

Concept  where q(z_s | z_0, z_T) is known at every s, a step may be as long as one likes
Read     DBIM boot, DBIM step; DDBM ODE: `heun` in latent_bridge.py; theory/README.md, row S5
Grade    pytest tests/test_bridge.py --impl assignments.ex08_samplers
Expect   variance error of DBIM in 20 evaluations: 0.1562 +- 0.001 (Heun's in 20: 0.5828)
Explain  Two samples of one y at eta = 0 differ by a single draw of noise. Which one? Without it,
         how many answers has a source? (LD's release: Heun from z_T, churn 0.)
Hint     One step: take z0_hat for z_0. q(z_s | z_0, z_T) is a mean plus std_s of some unit noise.
         Of what may this unit noise be made, if you know z_t? And if t = T?
"""

import torch


def dbim(denoise, z_T, kernel, times, eta=0.0, randn=torch.randn):
    """A sample of z_0 given z_T (B, N, D), or of z at the last of times.

    kernel(t) -> (a_t, b_t, std_t): z_t given z_0 and z_T is N(a_t z_T + b_t z_0, std_t^2).
    times falls from T, as a rule to 0. A step, from t to the next time s, evaluates once:
    z0_hat = denoise(z_t, t), t a number of `times`.
    If z0_hat is z_0, and z_t is distributed as the kernel says, then so is z_s:
    - the first step, off z_T where std_T = 0: all of z_s's noise is fresh ("booting noise")
    - later ones: the noise of z_s is eps_hat, what the kernel says of z_t, z_T and z0_hat, and
      beside it fresh noise, of std `fresh`. As much of eps_hat is kept as std_s leaves
    fresh = eta * fresh_1, eta in [0, 1]. fresh_1 makes the chain Markov: z_s, given z_t and z0_hat,
    no longer depends on z_T. (At s = 0 nothing random is left, whatever eta.)
    Fresh noise is randn(z_T.shape, device=z_T.device)."""
    raise NotImplementedError


def evaluations(sampler, steps, churn=0.0):
    """How often one sample asks the network: sampler "dbim" or "heun", an int.

    steps of "dbim" is len(times) - 1, and churn is nothing to it. "heun" is `heun(..., steps,
    churn)` of latent_bridge.py: of each step, count the calls; the last one is special.
    ValueError for another sampler."""
    raise NotImplementedError
