"""
Exercise 1: the noise schedule, and what a shorter one forgets.             level 1, 20 minutes

Concept  alpha_t is a product, and sampling starts from pure noise: alpha_T has to be near 0
Read     MT Eq. 1; `make_alpha` in ddim_translator.py, which has another schedule than this one
Grade    pytest tests/test_translator.py --impl assignments.ex01_schedule
Expect   alpha_T of 50 steps: 7.74e-06 +- 1e-08 (0.603 if beta stays as it is at T = 1000)
Explain  A course's code takes beta from 1e-4 to 0.02 whatever T is, and samples well at T = 1000.
         At T = 50 its samples lie too near to 0: most of the data's mean is lost, and directions
         in which the data's variance is above 1 come out too narrow. Why?
Hint     What is z_T made of when alpha_T = 0.603, and what does the sampler start from?
"""

import torch


def linear_alpha(T):
    """DDPM's schedule for any T: alpha_t = prod_{s=1..t} (1 - beta_s), (T + 1,) float64.

    alpha[0] = 1. At T = 1000 beta rises linearly from 1e-4 (t = 1) to 0.02 (t = T); at another T
    every beta is scaled by 1000 / T. Raises ValueError where a beta would reach 1 (T <= 20)."""
    raise NotImplementedError


def noised(z_0, eps, alpha_t):
    """z_t of MT Eq. 1: z_0, eps (B, h2), alpha_t (B, 1) -> (B, h2).

    If z_0 and eps are independent with unit variance, so is z_t."""
    raise NotImplementedError
