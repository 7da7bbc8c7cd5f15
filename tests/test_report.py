"""theory/report.py: what its scripts are given of a run, and what they do with a verdict."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import runs
from closed_form import moments
from ddim_translator import Translator
from latents import DIRECTIONS, Latents
from theory import report

CLAIM = report.Claim("X1", "as printed", "corrected", "1 > 0", False, True)


def fake_run(folder, device):
    """A run of 60 training and 40 held-out pairs, of which four share each text; untrained."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw).numpy()

    sets = {"train": (60, 60), "test": (40, 10)}
    latents = {}
    for split, (images, texts) in sets.items():
        pairs = np.stack([np.arange(images), np.arange(images) * texts // images], 1)
        latents[split] = Latents(
            normal(images, 5), normal(texts, 3) + 2, pairs, np.arange(images), np.arange(0)
        )
    how = {"width": 8, "layers": 2, "normalize": "row"}
    nets = {d: Translator(*latents["train"].dims(d), **how) for d in DIRECTIONS}
    for d, net in nets.items():
        net.fit(moments([latents["train"].of(d, np.arange(60))]))

    def terms(direction, c):
        return nets[direction].terms(c, K=2, steps=1, randn=runs.cpu_randn(0))

    gamma = dict.fromkeys(DIRECTIONS, 2.5)
    return SimpleNamespace(
        latents=lambda split: (None, latents[split]), terms=terms, gamma=gamma, translators=nets
    )


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(runs, "TranslatorRun", fake_run)


def test_held_out(run):
    """Otherwise the scripts measure training pairs, other units, or pairs that hang together."""
    both = report.held_out("any", limit=36)
    run = fake_run("any", "cpu")
    for d, (h1, h2) in {"text->image": (3, 5), "image->text": (5, 3)}.items():
        h, net = both[d], run.translators[d]
        assert h.c.shape == (36, h1) and h.z.shape == h.cM.shape == h.M_hat_c.shape == (36, h2)
        assert {h.z.dtype, h.cM.dtype, h.F.dtype} == {torch.float64} and h.gamma == 2.5
        raw_z = (h.z / net.z_scale).float()
        test = torch.from_numpy(run.latents("test")[1].image)
        text = torch.from_numpy(run.latents("test")[1].text)
        known = test if d == "text->image" else text
        assert (raw_z[:, None] - known).abs().amax(2).amin(1).max() < 1e-5
        assert (h.F.norm(dim=1) - 1).abs().max() < 1e-6
        c, z = run.latents("train")[1].of(d, np.arange(60))  # least squares by another route
        one, held_one = (np.c_[net.scale_c(x).double(), np.ones(len(x))] for x in (c, h.raw_c))
        M = np.linalg.pinv(one) @ (z * net.z_scale).double().numpy()
        np.testing.assert_allclose(h.M_hat_c, held_one @ M, atol=1e-8)
        shared = h.raw_c if d == "text->image" else raw_z
        assert (
            len(h.independent) == 10 == len(shared[h.independent].round(decimals=3).unique(dim=0))
        )


def test_a_failed_correction_is_an_error(tmp_path, capsys):
    """Otherwise a script ends well although a corrected statement fails its own check."""

    def run(claim):
        argv = ["--out", str(tmp_path)]
        return report.main("any", lambda: [claim], Figure, None, None, argv)

    assert run(CLAIM) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("X1", "as printed", "FAILS", "corrected", "1 > 0"))
    assert (tmp_path / "theory-any.png").exists()
    assert "X1" in run(CLAIM._replace(corrected_holds=False))
    kinds = [c.verdict for c in (CLAIM, CLAIM._replace(kind="needs a condition"))]
    assert kinds == ["fails", "needs a condition"]
    assert CLAIM._replace(printed_holds=True).verdict == "holds"


def test_a_run_is_measured(run, tmp_path, capsys):
    """Otherwise --run prints, draws or keeps nothing of one of the directions."""

    def measured(held):
        return {"pairs": len(held.z), "width": f"{held.z.shape[1]} wide"}

    def draw(ax, held, direction):
        ax.set(title=direction)

    argv = ["--run", str(tmp_path), "--limit", "20"]
    assert report.main("any", None, None, measured, draw, argv) == 0
    text = capsys.readouterr().out
    assert "20" in text and "5 wide" in text and "3 wide" in text
    kept = json.loads((tmp_path / "theory-any.json").read_text())
    assert kept["image->text"] == {"pairs": 20, "width": "3 wide"}
    assert (tmp_path / "theory-any.png").exists()


def test_no_run_no_traceback(tmp_path, monkeypatch):
    """Otherwise a wrong folder, or a bridge, ends in a traceback and not in one line."""
    missing = report.main("any", None, None, None, None, ["--run", str(tmp_path / "none")])
    assert "no such checkpoint" in missing and "\n" not in missing
    monkeypatch.setattr(runs, "read_run", lambda folder: {"model": "bridge"})
    bridge = report.main("any", None, None, None, None, ["--run", str(tmp_path)])
    assert "is a bridge" in bridge and os.listdir(tmp_path) == []
    with pytest.raises(SystemExit):
        report.main("any", None, None, None, None, ["--limit", "1"])
