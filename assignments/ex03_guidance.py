"""
Exercise 3: guidance, and what its scale means elsewhere.                   level 2, 30 minutes

Concept  guidance exaggerates what the condition changes; its number has two conventions
Read     MT Eq. 4; `Translator.denoise` in ddim_translator.py, which makes e_c and e_0
Grade    pytest tests/test_translator.py --impl assignments.ex03_guidance
Expect   std of guided samples: 0.238 +- 0.001 (p(z|c) has 0.5, p(z) 1; omega = 1, 1000 steps)
Explain  In ever smaller steps it is 0.5 (0.5 / 1)^omega = 0.25. Why is it less than 0.5, and what
         is lost with it? Is a guided sample a likely answer to c, or an exaggerated one?
Hint     A mix that is linear in e_c and e_0 is two numbers. Which inputs show one of them alone?
"""

import torch


def guide(e_c, e_0, omega):
    """MT Eq. 4: from e_c, the network's output given c, and e_0, its output without c.

    e_c, e_0 (B, h2), omega a number -> (B, h2), affine in omega: e_c at omega = 0, e_0 at -1.
    All h2 columns are guided (the release of another model, DiT, guides 3 of its channels)."""
    raise NotImplementedError


def measure_omega(mix):
    """MT's omega of anybody's guidance, a float.

    mix(e_c, e_0): (B, h2), (B, h2) -> (B, h2), for any B and h2, is each time the same two
    numbers times e_c and e_0, like `lambda c, u: u + 7.5 * (c - u)` of diffusers: 6.5.
    Raises ValueError where those numbers do not add up to 1, within 1e-4: such a mix is no guidance
    for any omega, as it changes the output even where c makes no difference (e_c = e_0)."""
    raise NotImplementedError
