"""
tables/bridge_seeds.py: ours and Basic over training seeds, with trainings of a few steps.
Run: pytest tests/test_bridge_seeds.py
"""

import itertools
import json

import numpy as np
import pytest
import torch

import glyphs
import reproduce
import runs
import train_bridge
from tables import bridge_seeds, lddbm

SMALL = "--width 16 --heads 2 --layers 1 --tokens 4 --dim 8 --conv 16 --batch 5".split()


def pictures(side, seed):
    return np.random.default_rng(seed).integers(0, 256, (13, 1, side, side), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Every training is of a small network, on 13 pairs. -> the arguments of all trainings."""
    pairs = glyphs.Pairs(pictures(8, 0), pictures(16, 1), "sr")
    monkeypatch.setattr(runs, "load_pairs", lambda *a, **k: pairs)
    monkeypatch.chdir(tmp_path)
    asked, real = [], train_bridge.parse

    def parse(argv):
        asked.append(real([*argv, *SMALL]))
        return asked[-1]

    monkeypatch.setattr(train_bridge, "parse", parse)
    return asked


def test_a_table_over_training_seeds(small, capsys):
    """Otherwise seeds are one training, Basic has fewer updates, or a row is another method's."""
    reproduce.main("bridge-seeds --seeds 2 --steps 3 --limit 11 --device cpu".split())
    out = capsys.readouterr().out
    settings = [(a.seed, a.procedure, a.loss, a.w_nce, a.steps) for a in small]
    ours, basic = ("end-to-end", "pred", 0.05, 3), ("two-step", "rec", 0.0, 6)
    assert settings == [(0, *ours), (0, *basic), (1, *ours), (1, *basic)]
    with open("runs/bridge-seeds/glyph-sr.json") as file:
        rows = json.load(file)["rows"]
    assert [row["seed"] for row in rows] == [0, 1]

    # The rows, made a second way: by each run's own samples.
    run = runs.BridgeRun("runs/bridge-seeds/glyph-sr-seed1", torch.device("cpu"))
    other = runs.BridgeRun("runs/bridge-seeds/glyph-sr-seed1/basic", torch.device("cpu"))
    scores = rows[1]["scores"]
    y, x = (torch.from_numpy(side) for side in (pictures(8, 0), pictures(16, 1)))
    kept = np.sort(np.random.default_rng(0).permutation(13)[:11])
    for name, of, n in (("ours", run, 1), ("basic", other, 1), ("ours, mean of 8", run, 8)):
        bridge = of.bridges["y->x"]
        total = 0
        for seed in range(n):
            x_hat, _ = bridge.sample(y[kept], steps=10, randn=runs.cpu_randn(seed))
            total = total + x_hat.clamp(-1, 1) / n
        # The mean over pictures of the PSNR of each.
        errors = (total - bridge.scale_x(x[kept])).square().flatten(1).mean(1)
        assert scores[name]["psnr"] == pytest.approx(
            (10 * (4 / errors).log10()).mean().item(), abs=1e-3
        )
    psnr = [row["scores"]["ours"]["psnr"] for row in rows]
    assert f"{np.mean(psnr):.2f} +- {np.std(psnr, ddof=1):.2f}" in out
    assert set(scores) == {"ours", "ours, mean of 8", "regressor", "ceiling", "classical", "basic"}

    # A second call finds all four, and trains none.
    train, trained = train_bridge.train_in, []
    train_bridge.train_in = lambda *a: trained.append(a)
    try:
        reproduce.main("bridge-seeds --seeds 2 --steps 3 --limit 11 --device cpu".split())
    finally:
        train_bridge.train_in = train
    assert not trained


def test_turns_and_updates_of_the_poster_s_procedures():
    """Otherwise a procedure of the table has more updates of a side than another."""
    updates = {}
    for variant in lddbm.ABLATIONS["lddbm-training"]:
        argv = ["--steps", "12" if variant.flags else "6", *variant.flags.split()]
        args = train_bridge.parse(argv)
        turns = [train_bridge.turn_of(step, args) for step in range(args.steps)]
        of_bridge = sum(turn in ("bridge", "both") for turn in turns)
        updates[variant.name] = of_bridge, sum(turn != "bridge" for turn in turns)
    assert set(itertools.chain(*updates.values())) == {6}


def test_wrong_commands():
    for argv in (["--on", "glyph-names"], ["--on", "ffhq"], ["--seeds", "0"], ["--limit", "3"]):
        with pytest.raises(SystemExit):
            bridge_seeds.parse(argv)
