"""
--overfit: one batch learned by heart; what passes, what fails, what is left behind.

The tries are real and tiny: vectors of 7 and 11 numbers, one direction, 40 steps, and so a limit of
0.3 in place of 0.1. Run: pytest tests/test_overfit.py
"""

import csv
import os

import numpy as np
import pytest
import torch
from test_train import pair_files  # noqa: F401

import bridge_networks
import ddim_translator
import errors
import overfit
import train
import train_bridge
from ddim_translator import ROWS_AT_T
from errors import RunError
from glyphs import Split


@pytest.fixture
def flags(pair_files, tmp_path, monkeypatch):  # noqa: F811
    """flags("--steps 7"): the command line of a tiny try; it runs in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(overfit, "BATCH", 16)
    monkeypatch.setattr(overfit, "LEFT", 0.3)
    monkeypatch.setattr(overfit, "DIRECTIONS", ("text->image",))
    a, b = pair_files
    files = f"--dataset latents --image-latents {a} --text-latents {b} --device cpu --overfit"
    small = "--width 32 --layers 2 --batch 24 --lr 1e-2 --steps 40 --ddim-steps 2 --no-cosine"
    return lambda more="": f"{files} {small} {more}".split()


@pytest.fixture
def bridge_flags(flags):
    """The same for train_bridge.py."""
    small = "--tokens 2 --dim 8 --width 32 --heads 2 --layers 1 --conv 16 --batch 12"
    where = " ".join(flags()[: flags().index("--width")])
    rates = "--lr 1e-2 --lr-modality 1e-2 --no-cosine --steps 40"
    return lambda more="": f"{where} {small} {rates} {more}".split()


def test_a_sound_method_passes(flags, capsys, monkeypatch):
    """A training that works is called broken, or the check leaves files where it was started."""
    monkeypatch.setattr(overfit, "DIRECTIONS", ("text->image", "image->text"))
    assert train.main(flags()) is None
    said = capsys.readouterr().out
    assert "text->image: 16 pairs, 40 steps" in said and "image->text: 16 pairs" in said
    assert said.splitlines()[-1].startswith("PASS") and said.count("L_ddim") == 2
    assert os.listdir(".") == []


def test_a_network_that_never_sees_the_condition_fails(flags, capsys, monkeypatch):
    """The noise tells the rows apart, and the most common bug of a conditional model passes."""
    real = ddim_translator.Layer.forward
    blind = lambda self, h, emb, c: real(self, h, emb, 0 * c)
    monkeypatch.setattr(ddim_translator.Layer, "forward", blind)
    with pytest.raises(RunError, match=r"FAIL: text->image has \d.*, below 0.3 is") as caught:
        train.main(flags())
    assert "\n" not in str(caught.value) and "PASS" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:  # a text there: it is printed, and the status is 1
        errors.run_script("train.py", lambda: train.main(flags("--steps 2")))
    assert str(stop.value).startswith("train.py: FAIL")


def test_eps_is_no_bug(flags):
    """MT's own choice is taken for a bug, with nothing said of why its samples are far off."""
    with pytest.raises(RunError, match="of --predict eps that is to be expected"):
        train.main(flags("--predict eps --steps 3"))


def test_a_sampler_that_stays_noisy_fails(flags, monkeypatch):
    """Only the loss is looked at, and a bug of the sampler, which no loss feels, passes."""
    real = ddim_translator.ddim_step
    noisy = lambda z_t, z0_hat, *rest: real(z_t, z0_hat, *rest) + torch.randn(z_t.shape)
    monkeypatch.setattr(ddim_translator, "ddim_step", noisy)
    with pytest.raises(RunError, match="FAIL"):
        train.main(flags())


def test_nan_fails(flags, monkeypatch):
    """A loss of NaN counts as small."""
    monkeypatch.setattr(overfit, "left", lambda answer, target: float("nan"))
    with pytest.raises(RunError, match="FAIL: text->image has nan left"):
        train.main(flags("--steps 1"))


def test_a_bridge_passes_or_fails(bridge_flags, capsys, monkeypatch):
    """The bridge's check passes what does not look at its source, or fails what works."""
    monkeypatch.setattr(overfit, "LEFT", 0.7)
    train_bridge.main(bridge_flags())
    said = capsys.readouterr().out
    assert "12 pairs, 40 steps" in said and said.count("L_pred") == 1
    assert said.splitlines()[-1].startswith("PASS") and os.listdir(".") == []
    real = bridge_networks.ModalityEncoder.forward
    blind = lambda self, x: real(self, 0 * x)
    monkeypatch.setattr(bridge_networks.ModalityEncoder, "forward", blind)
    with pytest.raises(RunError, match="FAIL"):
        train_bridge.main(bridge_flags())


def test_out_keeps_the_losses_and_nothing_else(flags, tmp_path, monkeypatch):
    """A run that lies in --out is written over, or the losses cannot be looked at."""
    (tmp_path / "run").mkdir()
    for name in ("model.pt", "log.csv"):
        (tmp_path / "run" / name).write_text("hours of work")
    monkeypatch.setattr(overfit, "LEFT", 9.0)
    monkeypatch.setattr(overfit, "REPORTS", 4)
    train.main(flags(f"--steps 9 --out {tmp_path}/run"))
    assert (
        sorted(os.listdir(tmp_path / "run")) == "log.csv model.pt overfit.csv overfit.png".split()
    )
    assert (tmp_path / "run" / "model.pt").read_text() == "hours of work"
    rows = list(csv.DictReader(open(tmp_path / "run" / "overfit.csv")))
    steps = [int(row["step"]) for row in rows if row["direction"] == "text->image"]
    assert steps == [2, 4, 6, 8, 9] == [int(row["step"]) for row in rows]
    assert float(rows[0]["L_ddim"]) > 0 and list(rows[0])[2:] == list(train.LOSSES)


def test_the_same_pairs_in_fresh_noise(flags, monkeypatch):
    """Noise that stays names its row; a row that is never at t = T has no answer."""
    seen, real = [], train.train_step

    def spy(learner, batch, *rest):
        if learner.direction == "text->image":
            seen.append(batch)
        real(learner, batch, *rest)

    monkeypatch.setattr(train, "train_step", spy)
    monkeypatch.setattr(overfit, "LEFT", 9.0)
    train.main(flags())
    keys = [
        {(tuple(c.tolist()), tuple(z.tolist())) for c, z in zip(*b[:2], strict=True)} for b in seen
    ]
    assert len(keys) == 40 and all(key == keys[0] for key in keys) and len(keys[0]) == 16
    assert len({batch[2].eps[0, 0].item() for batch in seen}) == 40
    at_T = {tuple(c.tolist()) for batch in seen for c in batch[0][::ROWS_AT_T]}
    assert len(at_T) == 16


def test_few_pairs():
    """A caption with two images is in the batch: no answer could be right for both."""
    images = [10.0 * n for n in range(50)]
    captions = [f"caption {n}" for n in range(70)]
    pairs = np.stack([np.arange(140) % 50, np.arange(140) % 70], axis=1)
    bare = np.arange(140) % 4 == 0
    split = Split(images, captions, pairs, bare, "key")
    found = overfit.few(split, seed=0)
    i = [images.index(found.images[n]) for n in range(len(found.images))]
    j = [captions.index(found.captions[n]) for n in range(len(found.captions))]
    assert 20 < len(i) == len(set(i)) == len(set(j)) == len(found.pairs)
    full = set(map(tuple, pairs[~bare].tolist()))
    assert set(zip(i, j, strict=True)) <= full and not found.bare.any()
    assert (found.pairs == np.arange(len(i))[:, None]).all()
    assert found.key != overfit.few(split, seed=1).key != split.key


def test_distinct_conditions():
    """The ten captions of ten classes stand for 64 images, each of which wants to be the answer."""
    c = np.array([[1, 2], [3, 4], [1, 2], [5, 6], [3, 4], [7, 8]], np.float32)
    assert overfit.distinct(c, 3).tolist() == [0, 1, 3]
    assert overfit.distinct(torch.from_numpy(c).reshape(6, 1, 2), 7).tolist() == [
        0,
        1,
        3,
        5,
        0,
        1,
        3,
    ]


def test_the_error_that_is_left():
    """It is not in units of a constant's error, so that 0.1 means nothing."""
    target = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    other = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1)) * 5 + 2
    assert overfit.left(target, target) == 0
    assert overfit.left(target.mean(0).expand(4000, 3), target) == pytest.approx(1)
    assert overfit.left(other, target) == pytest.approx(2, abs=0.05)
    # The cosine of 0.95 that the docstring promises: answer = target + noise, seen from the mean.
    noisy = target + 0.1**0.5 * (other - 2)
    cosine = torch.cosine_similarity(noisy.flatten() - 2, target.flatten() - 2, 0)
    assert (
        overfit.left(noisy, target) == pytest.approx(overfit.LEFT, abs=0.01)
        and 0.945 < cosine < 0.96
    )


def test_flags_of_overfit(flags, tmp_path):
    """--overfit trains for hours, names a run folder, goes on with a run, or waits for others."""
    args = train.parse(["--overfit", "--quick"])
    assert (args.steps, args.out) == (300, None)
    assert train.parse(["--overfit", "--steps", "77"]).steps == 77
    assert train_bridge.parse(["--overfit", "--dataset", "glyph-solids"]).steps == 300
    assert train.parse(["--quick"]).out == "runs/glyphs-translator-quick"
    for word in ("--resume", "--overwrite"):
        with pytest.raises(RunError, match="--overfit keeps no run: leave out --resume"):
            train.parse(["--overfit", word])
    with pytest.raises(RunError, match="--overfit is for one process, not for 3"):
        overfit.one_process(3)
