"""
tables/choices.py: one setting a row, scored on validation pairs.
Run: pytest tests/test_choices.py
"""

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from closed_form import moments
from ddim_translator import Translator
from latents import Latents
from tables import choices


def test_each_row_changes_one_flag():
    """Otherwise two settings are changed at once, or a row repeats the default."""
    ours = vars(train.parse([]))
    seen = []
    for name, flags in choices.CHOICES.items():
        found = vars(train.parse(flags.split()))
        changed = {k: v for k, v in found.items() if v != ours[k]}
        assert len(changed) == (name != "ours"), name
        seen.append(str(changed))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("unit", [False, True])
def test_scores_are_of_validation_pairs(unit):
    """Otherwise test pairs choose, or a run of unit vectors is measured about another mean."""
    rng = torch.Generator().manual_seed(0)
    c, z = torch.randn(90, 7, generator=rng), torch.randn(90, 5, generator=rng) + 2
    rows = np.arange(90)
    latents = Latents(z.numpy(), c.numpy(), np.stack([rows, rows], 1), rows, rows[:0])
    net = Translator(7, 5, width=8, layers=3, unit=unit)
    net.fit(moments([(net.prepared(c), net.prepared(z))]))
    asked = []

    def split(name):
        asked.append(name)
        return None, latents

    def translate(direction, c_asked):
        return z[[int((c == row).all(1).nonzero()) for row in c_asked]]  # the truth itself

    run = SimpleNamespace(latents=split, translate=translate, args=Namespace(omega=0.0))
    run.translators = {"text->image": net}
    found = choices.scores_of(run, "text->image")
    assert asked == ["val"] and list(found) == list(choices.COLUMNS)
    assert found["cosine"] == pytest.approx(1) and found["R@1"] == 1
    assert found["centred"] == pytest.approx(1, abs=1e-5)
    # An untrained network's sample is far from the truth, and its set, too.
    assert found["sample"] < 0.95 and found["Frechet"] > 0.1
