"""
Exercise 10: two sides take turns under one optimiser.                      level 3, 60 minutes

Concept  a parameter stays only if the optimiser skips it; a gradient of 0 is not "skip"
Read     LD's training in turns: row D18 of "Differences from the papers" in PAPERS.md;
         `Bridge.loss` in latent_bridge.py, which calls `freeze` (`turn_step` is graded
         with the reference's, so that each is graded alone)
Grade    pytest tests/test_bridge.py --impl assignments.ex10_turns
Expect   share of the parameters that the modality turn moves: 0.5706 +- 0.0001
Explain  In the turn of the modality models the denoiser stays. Why freeze it by
         requires_grad, and why would torch.no_grad() around it be wrong?
Hint     Which two parts of AdamW move a parameter whose gradient is 0? What does it do where the
         gradient is None?
"""

import torch


def freeze(bridge, turn):
    """Decides by requires_grad which parameters of a Bridge may move; returns nothing.

    turn "bridge"    the denoiser, bridge.net
         "modality"  all others: E_x, E_y, D_x, and D_y where there is one (rec=True)
         "apart"     as "modality": the first of two steps, before the denoiser is trained
         "both"      everything
    Called before every loss, on the same bridge, with any turn after any other. Gradients still
    flow *through* what is frozen: L_pred reaches E_y through the denoiser."""
    raise NotImplementedError


def turn_step(bridge, optimizer, y, x, noise, turn):
    """One training step of the side whose turn it is; the loss before the step, a float.

    optimizer is one torch.optim.AdamW of *all* parameters, with weight decay; it has seen other
    turns before. What is minimised is the first number of bridge.loss(y, x, noise, turn).
    What is frozen stays bit for bit: its parameters, and its entries in the optimiser's state, so
    that training goes as with one AdamW for each side, stepped in that side's turns only."""
    raise NotImplementedError
