"""
Exercise 4: four things that a network may predict.                         level 3, 45 minutes

Concept  given z_t, each of z_0, eps, v, u tells the others; what differs is the loss's weight
Read     MT Eq. 1 and 2; `Translator.target` and `z0_of` in ddim_translator.py, which lack u
Grade    pytest tests/test_translator.py --impl assignments.ex04_prediction
Expect   weight of eps at t = T: 0.000325 +- 1e-06 (T = 1000)
Explain  At t = T only c can tell z_0. With this weight, how fast will a network that outputs eps
         learn to use c, and what does that do to its first step of sampling?
Hint     Two equations, two unknowns: Eq. 1 and the definition. For the weights, see how far x
         moves when z_0 moves by 1 and z_t stays: eps has to move, too.
"""

import torch

# z_0, eps, v, u, z_t are (B, h2). alpha_t is a tensor below 1, () or (B, 1); z_t is Eq. 1's.


def v_target(z_0, eps, alpha_t):
    """v = sqrt(alpha_t) eps - sqrt(1 - alpha_t) z_0."""
    raise NotImplementedError


def z0_from_v(v, z_t, alpha_t):
    """The z_0 from which v and z_t were made."""
    raise NotImplementedError


def u_target(z_0, eps):
    """u = eps - z_0, what flow matching predicts: the direction from the data to the noise."""
    raise NotImplementedError


def z0_from_u(u, z_t, alpha_t):
    """The z_0 from which u and z_t were made; z_t is that of Eq. 1, as always here, and not flow
    matching's (1 - t) z_0 + t eps."""
    raise NotImplementedError


def loss_weights(alpha_t):
    """What a squared loss on eps, v or u is as a loss on z_0: alpha_t (n,) -> (w_eps, w_v, w_u).

    z_t is given. The network's z0_hat implies eps_hat by Eq. 1, then v_hat and u_hat, and
        |x - x_hat|^2 = w_x |z_0 - z0_hat|^2,    x = eps, v, u    (three tensors, (n,) each)."""
    raise NotImplementedError
