"""
Exercise 9: InfoNCE, and pictures that occur twice.                         level 2, 30 minutes

Concept  a contrastive loss is a classification: which of the batch's z_T belongs to this z_0?
Read     LD L_infoNCE* and row D13 of "Differences from the papers" in PAPERS.md
Grade    pytest tests/test_bridge.py --impl assignments.ex09_info_nce
Expect   InfoNCE of the case by hand: 0.29874 +- 2e-05 (worked out in test_info_nce_by_hand)
Explain  LD prints the loss without its minus. Which latents minimise it then? And with the minus:
         how large is the loss of B pairs if all latents are the same, and what does tau change?
Hint     B items, B classes: which function of torch takes a row of scores and the right class?
"""

import torch


def info_nce(z_0, z_T, tau):
    """How badly pairs are found among the batch: z_0, z_T (B, N, D) -> ().

    All N D numbers of an item are one vector, made a unit vector. p(j | i) is the softmax over j
    of the scores (z_0 of item i) . (z_T of item j) / tau. The loss is the mean over i of
    -ln p(i | i), and half of it: the other half asks in the other direction, for the z_0 of a
    given z_T."""
    raise NotImplementedError


def info_nce_twins(z_0, z_T, tau, twins):
    """The same where some items are one picture under two names, as Latin A and Greek Alpha.

    twins (B,) int64: items with equal numbers are the same picture. Such items are no negatives of
    each other: neither is in the other's sum. Nor are they positives of each other: the right
    answer for item i is pair i alone. If all numbers differ, this is info_nce."""
    raise NotImplementedError
