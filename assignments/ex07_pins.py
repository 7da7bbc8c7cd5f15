"""
Exercise 7: a diffusion that is told where it ends.                         level 3, 60 minutes

Concept  a bridge is an ordinary diffusion, conditioned on its end: two Gaussians, one of them seen
Read     DDBM kernel; the base processes in `Kernel.base` (latent_bridge.py), not `__call__` yet
Grade    pytest tests/test_bridge.py --impl assignments.ex07_pins
Expect   std of the VP bridge at T / 2: 0.4625 +- 0.0001 (without the pin at T it is 0.5091)
Explain  VE with sigma_max = 80: where is std_t largest, and how large? What is left there of a z_0
         of unit variance, and so what can a network learn from such a z_t?
Hint     z_T was once z_t, and moved on. Which noise do the two share, z_0 being given?
"""

import torch


def pinned(s_t, rho2_t, s_T, rho2_T):
    """(a_t, b_t, std_t): z_t, given both z_0 and z_T, is N(a_t z_T + b_t z_0, std_t^2).

    The base process, before it is told its end, is linear and forgets (Markov): it starts at z_0,
    has reached z_t = s_t z_0 + s_t rho_t eps, and goes on from there by
        z_T = (s_T / s_t) z_t + fresh noise,
    just so much that z_T = s_T z_0 + s_T rho_T eps_T too; rho2 is rho^2. Given z_0, (z_t, z_T) is
    Gaussian with two means, two variances and one covariance: condition it on z_T.

    What must come out:
    - z_0 at t = 0, where s = 1 and rho2 = 0; z_T at t = T: the mean is the pin, std_t is 0, not NaN
    - with z_T drawn from the base process the base is back: mean s_t z_0, variance s_t^2 rho2_t
    VP, VE, or any other s and rho. s_t, rho2_t: tensors of one shape; s_T, rho2_T: of this shape,
    or (). Returns three tensors of s_t's shape."""
    raise NotImplementedError
