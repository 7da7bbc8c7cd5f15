"""
Exercise 12: three bugs that look right.                                    level 3, 60 minutes

Concept  a test is worth the bugs it catches: a property that only right code has, whatever it is
Read     DDIM Eq. 12; DBIM step; MT 4.2. Each docstring below is right, each body has one bug
Grade    pytest tests/test_find_the_bug.py --impl assignments.ex12_find_the_bug
Expect   bugs caught: 6 +- 0 (the three here, and an unseen one of each kind)
Explain  The samples of bug 1 have nearly the right mean and covariance; those of bug 2
         the right mean. Which tables of RESULTS.md would show each, and which would not?
Hint     Choose inputs for which you know the answer: a denoiser that always says the same; noises
         that are 0 but for one number; a gallery whose rows are all alike
"""

import torch


def planted_1(denoise, z_T, alpha, steps):
    """A sample of z_0 by DDIM with eta = 0, in `steps` calls of denoise(z_t, t) -> z0_hat.

    z_T (B, h2) is the noise it starts from, alpha (T + 1,) with alpha[0] = 1. Call k = 0, 1, ... is
    at t = round(T (steps - k) / steps), an int; each step leads to the next t, the last one to 0.
    A step from t to s: sqrt(alpha_s) z0_hat + sqrt(1 - alpha_s) eps_hat, with eps_hat from z_t."""
    T, z_t = len(alpha) - 1, z_T
    levels = [round(1 + (T - 1) * (steps - k) / steps) for k in range(steps + 1)]
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        z0_hat = denoise(z_t, t)
        eps_hat = (z_t - alpha[t].sqrt() * z0_hat) / (1 - alpha[t]).sqrt()
        z_t = alpha[s].sqrt() * z0_hat + (1 - alpha[s]).sqrt() * eps_hat
    return z_t


def planted_2(z_t, z_T, z0_hat, now, then, eta, noise):
    """A step of DBIM, from a time t to a cleaner one, s: z_t, z_T, z0_hat, noise (B, h) -> z_s.

    now = (a_t, b_t, std_t), then = (a_s, b_s, std_s), of one Kernel, 0 < t < T; eta in [0, 1].
    fresh = eta sqrt(std_s^2 - (std_t a_s / a_t)^2) is the std of the fresh noise. If z_t is
    a_t z_T + b_t z0_hat + std_t eps, z_s is so at s: with a_s, b_s and as much noise in all as
    std_s says, whatever eta is."""
    (a_t, b_t, std_t), (a_s, b_s, std_s) = map(float, now), map(float, then)
    fresh = eta * max(0.0, std_s**2 - (std_t * a_s / a_t) ** 2) ** 0.5
    eps_hat = (z_t - a_t * z_T - b_t * z0_hat) / std_t
    return a_s * z_T + b_s * z0_hat + std_s * eps_hat + fresh * noise


def planted_3(queries, gallery, right):
    """Rank of each query's right item, (N,), 1 is best: 1 + how many others are as similar or more.

    queries (N, d), gallery (G, d), right (N,) rows of the gallery. Similarity is the cosine; a row
    of zeros has cosine 0 with everything."""
    unit = lambda x: torch.nn.functional.normalize(torch.as_tensor(x).double())
    s = (unit(queries) @ unit(gallery).T).float()  # (N, G); float32, or rounding decides ties
    best = s.gather(1, torch.as_tensor(right)[:, None])
    return 1 + (s > best).sum(1)


def kills_1(f):
    """A test: raises AssertionError where f, called as planted_1, is not what its docstring says.

    It returns nothing where f is right, and f may be right in another way than you expect: derived
    otherwise, rounded otherwise, float64 where you gave float32. Other bugs of this kind count."""
    raise NotImplementedError


def kills_2(f):
    """The same for planted_2."""
    raise NotImplementedError


def kills_3(f):
    """The same for planted_3."""
    raise NotImplementedError
