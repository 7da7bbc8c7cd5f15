"""
--pairs and tables/training_seeds.py: which pairs a run keeps, and that its baselines keep the same.
Run: pytest tests/test_training_seeds.py
"""

import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

import evaluate
import runs
import train
from errors import RunError
from latents import Latents
from tables import training_seeds


def latents(N=40, bare=9):
    rng = np.random.default_rng(3)
    image = rng.standard_normal((N, 5)).astype(np.float32)
    text = rng.standard_normal((N + bare, 4)).astype(np.float32)
    pairs = np.stack([np.arange(N + bare) % N, np.arange(N + bare)], 1)
    return Latents(image, text, pairs, np.arange(N), np.arange(N, N + bare))


def test_cut_keeps_full_pairs_drawn_by_the_seed():
    """Otherwise bare captions join in, a pair comes twice, or seeds share their pairs."""
    whole = latents()
    few = runs.cut(whole, Namespace(pairs=11, seed=0))
    assert len(few.full) == 11 == len(set(few.full.tolist()))
    assert set(few.full.tolist()) <= set(whole.full.tolist())
    assert len(few.bare) == 0
    again = runs.cut(whole, Namespace(pairs=11, seed=0))
    assert np.array_equal(few.full, again.full)
    other = runs.cut(whole, Namespace(pairs=11, seed=1))
    assert not np.array_equal(few.full, other.full)
    # Not asked for: nothing is cut. More than there are: all of them.
    assert runs.cut(whole, Namespace(pairs=None, seed=0)) is whole
    assert len(runs.cut(whole, Namespace(pairs=99, seed=0)).full) == 40


def test_baselines_are_fitted_on_the_same_pairs(monkeypatch):
    """Otherwise ridge has all pairs where ours has few; and the test pairs must not be cut."""
    whole = latents()
    monkeypatch.setattr(runs.data, "load", lambda *a, **k: "split")
    monkeypatch.setattr(runs, "encode_split", lambda *a: whole)
    run = runs.TranslatorRun.__new__(runs.TranslatorRun)
    run.args = Namespace(dataset="glyphs", data_dir=None, pairs=13, seed=5, cache_dir="-")
    run.E_image = run.E_text = SimpleNamespace(spec="pca:5")
    run.partial = False
    run.dims = {"text->image": (4, 5)}
    trained_on = runs.cut(whole, run.args).full
    assert np.array_equal(run.latents("train")[1].full, trained_on)
    for split, name in (("val", None), ("test", None), ("train", "glyphs-stix")):
        assert len(run.latents(split, name)[1].full) == 40


def test_pairs_flag():
    """Otherwise --pairs 1 trains on one pair, or the size is that of all the glyphs."""
    with pytest.raises(RunError, match="--pairs 1"):
        train.parse(["--pairs", "1"])
    assert train.parse(["--pairs", "700"]).steps is None  # chosen when the data are read
    assert train.parse(["--pairs", "700", "--steps", "50"]).steps == 50


def test_table(monkeypatch, tmp_path, capsys):
    """Otherwise a seed's rows are another's, or the spread is not that of the training seeds."""
    asked, cosine = [], {0: 0.4, 1: 0.5, 2: 0.9}

    def fake_run(script, argv, device):
        args = train.parse(argv)
        asked.append((args.pairs, args.seed, args.out, args.steps))
        return f"seed {args.seed}"

    def fake_evaluation(args):
        seed = int(args.run.split()[-1])
        assert args.seeds == 1
        rows = []
        for direction in evaluate.DIRECTIONS:
            for n, method in enumerate(training_seeds.METHODS):
                scores = {"cosine": cosine[seed] - n / 10, "centred_cosine": 0.1, "r1": 0.2}
                row = {"task": "similarity", "direction": direction, "method": method, "seed": 0}
                rows.append(row | scores)
        rows.append({"task": "ablation", "direction": "text->image", "method": "ours"})
        return SimpleNamespace(report=SimpleNamespace(rows=rows))

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "seeds").mkdir(parents=True)
    for seed in range(3):
        (tmp_path / f"seed {seed}").mkdir()
    monkeypatch.setattr(training_seeds, "trained_run", fake_run)
    monkeypatch.setattr(evaluate, "open_evaluation", fake_evaluation)
    monkeypatch.setattr(evaluate, "similarity", lambda evaluation: None)
    training_seeds.main(["--pairs", "700", "--steps", "20"])
    assert asked == [(700, s, f"runs/seeds/700-seed{s}", 20) for s in range(3)]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ours = [line for line in lines if line[:1] == ["ours"]]
    std = np.std(list(cosine.values()), ddof=1)
    assert len(ours) == 2 and ours[0][1:4] == ["0.600", "+-", f"{std:.3f}"]
    with open("runs/seeds/700.json") as f:
        rows = json.load(f)["rows"]
    assert len(rows) == 3 * 2 * len(training_seeds.METHODS)
    assert {row["seed"] for row in rows} == {0, 1, 2}
