"""
Small and useless sets: what cannot be learned from is refused before training, by name; what cannot
be measured is said and left out; and all that can be is there.

Of runs.py (check_trainable), scores.py, bridge_scores.py, evaluate.py, evaluate_bridge.py and the
flags of tables/."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import torch
from PIL import Image

import checkpoints
import evaluate
import evaluate_bridge
import pictures
import runs
import scores
import train
import train_bridge
from bridge_scores import BridgeTestSet
from errors import DataError, InputError, RunError
from latents import DIRECTIONS, Latents
from tables import captioning, encoder_pairs, lddbm

ROOT = Path(evaluate.__file__).parent


def latents_of(image, text):
    n = len(image)
    pairs = np.stack([np.arange(n)] * 2, 1)
    arrays = [np.asarray(side, np.float32) for side in (image, text)]
    return Latents(*arrays, pairs, np.arange(n), np.zeros(0, int))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


USELESS = {
    "the image latents of all 30 training pairs are the same": (np.ones((30, 5)), normal(30, 7)),
    "the text latents of all 30 .* the same": (normal(30, 5), np.zeros((30, 7))),
    "the same, but for rounding": (normal(30, 5), 3 + 1e-7 * normal(30, 7)),
    "text latents are one number wide": (normal(30, 5), normal(30, 1)),
    "1 training pair is too little": (normal(1, 5), normal(1, 7)),
    "image latents have numbers of size .e.2[01]": (1e20 * normal(30, 5), normal(30, 7)),
    "text latents have numbers of size .e-20|.e-19": (normal(30, 5), 1e-20 * normal(30, 7)),
    "text latents have an outlier": (normal(30, 5), normal(30, 7) + 1e6 * np.eye(30)[:, 11:12]),
}


@pytest.mark.parametrize("told", USELESS)
def test_what_cannot_be_learned_from_is_refused_by_name(told):
    """A constant target trains to NaN, and the line speaks of the learning rate."""
    with pytest.raises(DataError, match=told):
        for direction in DIRECTIONS:
            runs.check_trainable(latents_of(*USELESS[told]), direction)


def test_odd_but_honest_sets_are_taken():
    """Two pairs, a constant column, rows of zeros, rare masks: all of these can be learned from."""
    text = normal(30, 7)
    text[:, 3] = 1
    text[::4] = 0
    for image, words in ((normal(30, 5), text), (normal(2, 5), normal(2, 7, seed=1))):
        for direction in DIRECTIONS:
            runs.check_trainable(latents_of(image, words), direction)
    masks = np.zeros((40, 1, 6, 6), np.uint8)
    masks[17, :, 2:4] = 255  # one mask of forty is not empty
    runs.check_items("targets", masks)
    with pytest.raises(DataError, match="targets of all 40"):
        runs.check_items("targets", 0 * masks)


def write_latents(folder, n, h_image=5, h_text=7):
    np.save(folder / "a.npy", normal(n, h_image))
    np.save(folder / "b.npy", normal(n, h_text, seed=1))
    argv = ["--dataset", "latents", "--image-latents", str(folder / "a.npy")]
    argv += ["--text-latents", str(folder / "b.npy"), "--out", str(folder / "run")]
    return argv + "--steps 9 --width 16 --layers 2 --batch 8 --K 2 --device cpu".split()


def test_both_scripts_check_before_training(tmp_path, monkeypatch):
    """The check stands in a function that nobody calls, or after the loop."""

    def refuse(*_):
        raise DataError("refused")

    argv = write_latents(tmp_path, 40)
    monkeypatch.setattr(train, "check_trainable", refuse)
    monkeypatch.setattr(train_bridge, "check_items", refuse)
    for script in (train, train_bridge):
        flags = argv if script is train else argv[: argv.index("--steps")] + ["--device", "cpu"]
        with pytest.raises(DataError, match="refused"):
            script.main(flags)
        assert not os.path.exists(tmp_path / "run")


def test_ten_latents_end_in_a_table(tmp_path, capsys):
    """Ten pairs, one of them for the test: no second caption, no gallery, no exit 1 either."""
    train.main(write_latents(tmp_path, 10))
    capsys.readouterr()
    out = str(tmp_path / "run")
    evaluate.main([out])
    text = capsys.readouterr().out
    left_out = "not measured, for the test pairs are too few: unrelated, R@1, R@5, R@10"
    assert text.count(left_out) == 4  # similarity and ablation, both directions
    rows = json.loads(Path(out, "translation.json").read_text())["rows"]
    assert {r["method"] for r in rows} >= {"ours", "ridge", "knn", "mlp", "both"}
    assert all("r1" not in r and "unrelated_cosine" not in r and r["pool"] == 1 for r in rows)
    assert os.path.getsize(Path(out, "curves.png")) > 1000
    assert not [f for f in os.listdir(out) if f.endswith((".tmp", ".lock"))]


def test_twelve_photos_end_in_pictures(tmp_path, capsys):
    """The docstring's own twelve photos: the first look has its table and both its pictures."""
    lines = ["image,caption"]
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,a {['red', 'blue', 'old'][n % 3]} {['dog', 'cat'][n % 2]} no {n}")
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    out = str(tmp_path / "run")
    argv = ["--dataset", "captions", "--data-dir", str(tmp_path), "--out", out]
    argv += ["--image-encoder", "pca:4", "--text-encoder", "tfidf:4", "--device", "cpu"]
    argv += ["--cache-dir", str(tmp_path / "cache")]
    train.main([*argv, *"--steps 9 --width 32 --batch 8".split()])
    assert "not measured" in capsys.readouterr().out
    assert {"loss.png", "retrieval.png", "text-to-image.png"} <= set(os.listdir(out))


# --------------------------------------------------------------------------------------------------
# Bridges


def bridge_test_set(x, N):
    """A BridgeTestSet of N items x, without a run."""
    test_set = BridgeTestSet.__new__(BridgeTestSet)
    test_set.N, test_set.truth = N, x
    test_set.kind = {1: "image", 9: "volume"}.get(x.shape[1], "vector")
    test_set.features = lambda items: items.flatten(1)
    return test_set


@pytest.mark.parametrize(
    "shape, names, told",
    [
        ((1, 1, 8, 8), {"psnr"}, "FID"),
        ((1, 6), {"cosine"}, "R@1, FID"),
        ((3, 9, 9, 9), {"iou"}, "1-NNA"),
        ((2, 1, 12, 12), {"psnr", "ssim", "fid"}, None),
        ((2, 1, 12, 8), {"psnr", "fid"}, "11 x 11 pixels"),
    ],
)
def test_scores_of_few_items_are_left_out(shape, names, told, capsys):
    """FID of one row is a ValueError, and a missing SSIM is taken for a fault."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    test_set = bridge_test_set(x, shape[0])
    assert set(test_set.score(x.clone())) - {"lpips"} == names
    capsys.readouterr()
    test_set.say_what_is_left_out()
    out = capsys.readouterr().out
    assert told in out if told else out == ""


def test_a_trade_off_without_fid_has_one_panel(tmp_path):
    """A figure asks for the FID of one pair."""
    evaluation = SimpleNamespace(figure=lambda fig, name: seen.append(fig))
    seen, row = [], {"method": "ours, DBIM", "metric": "psnr", "nfe": 1, "value": 9.0}
    plain = {"regressor": {"psnr": 8.0}, "ceiling": {"psnr": 20.0}}
    pictures.draw_trade_off(evaluation, [row], plain, ("psnr", "fid"), ["DBIM"])
    assert len(seen[0].axes) == 1


def test_ten_pairs_of_a_bridge_end_in_a_table(tmp_path, capsys):
    """One test pair, of latents and of pictures: the first look of a bridge is a table."""
    small = "--steps 3 --width 16 --heads 2 --layers 1 --tokens 4 --dim 8 --conv 16 --batch 4"
    argv = write_latents(tmp_path, 10)
    argv = argv[: argv.index("--steps")] + ["--device", "cpu", *small.split()]
    train_bridge.main(argv)
    assert "not measured" in capsys.readouterr().out
    for side, seed in (("source", 0), ("target", 1)):
        os.mkdir(tmp_path / side)
        for n in range(10):
            pixels = np.random.default_rng(10 * n + seed).integers(0, 256, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / side / f"{n}.png")
    out = str(tmp_path / "pairs")
    argv = ["--dataset", "pairs", "--data-dir", str(tmp_path), "--out", out, "--device", "cpu"]
    train_bridge.main([*argv, *small.split()])
    assert "not measured, for the test pairs are too few: R@1, FID" in capsys.readouterr().out
    evaluate_bridge.main([out, "--seeds", "1", "--task", "tsne", "parts"])
    assert "tsne: skipped, 1 test pairs" in capsys.readouterr().out
    assert {"samples.png", "parts.png"} <= set(os.listdir(out))


# --------------------------------------------------------------------------------------------------
# Flags, folders, checkpoints: one line, before the work


@pytest.mark.parametrize(
    "parse, argv",
    [
        (evaluate.parse, "RUN --limit 0"),
        (evaluate.parse, "RUN --seeds 1000000000"),
        (evaluate.parse, "RUN --pool -1"),
        (evaluate.parse, "RUN --task similarity --first-look"),
        (evaluate_bridge.parse, "RUN --limit 0"),
        (evaluate_bridge.parse, "RUN --nfe 1000000"),
        (evaluate_bridge.parse, "RUN --first-look --seeds 2"),
        (encoder_pairs.parse, "pca,tfidf --steps 0"),
        (lddbm.parse, "lddbm-losses --on glyphs"),
        (lddbm.parse, "lddbm-losses --pool 9"),
        (lddbm.parse, "lddbm-speed --on glyph-sr"),
        (lddbm.parse, "lddbm-speed --seeds 2"),
    ],
)
def test_flags_that_cannot_be_are_one_line(parse, argv, capsys):
    """--limit 0 meant 5,000, --steps 0 trained 2,800 steps, --on glyphs was a KeyError."""
    with pytest.raises(SystemExit):
        parse(argv.split())
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_pairs_of_encoders_are_checked_before_the_first_is_trained(monkeypatch):
    """A slip in the second pair is found when the first one has been trained for hours."""
    monkeypatch.setattr(encoder_pairs, "trained_run", lambda *_: pytest.fail("trained"))
    args = encoder_pairs.parse(["pca,tfidf", "--data-dir", "somewhere"])
    with pytest.raises(RunError, match="--data-dir: glyphs is embedded"):
        encoder_pairs.encoder_table(args, torch.device("cpu"))


def test_a_folder_that_cannot_be_written_to_is_refused_first(tmp_path, monkeypatch):
    """A read-only run ends in a traceback after hours; a name mistyped becomes a folder."""
    (tmp_path / "file").write_text("plain")
    for folder in (tmp_path / "file" / "run", tmp_path / "nowhere"):
        for main in (evaluate.main, evaluate_bridge.main):
            with pytest.raises(RunError, match="no such run"):
                main([str(folder)])
        assert not folder.exists()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match="cannot be written"):
        evaluate.main([str(tmp_path)])


def test_the_second_evaluation_waits_for_the_first(tmp_path, capsys):
    """Two processes train the same baselines into the same files, and lose each other's rows."""

    def hold():
        with scores.at_work(str(tmp_path / "run")):
            (tmp_path / "in").touch()
            time.sleep(1.5)

    (tmp_path / "run").mkdir()
    first = processes.start(hold)
    while not (tmp_path / "in").exists():
        time.sleep(0.01)
    began = time.time()
    with scores.at_work(str(tmp_path / "run")):
        waited = time.time() - began
    assert processes.end(first) == 0
    assert waited > 0.7 and f"process {first}" in capsys.readouterr().out
    assert not os.listdir(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small run on latents."""
    folder = tmp_path_factory.mktemp("latents")
    train.train(train.parse(write_latents(folder, 40)))
    return folder / "run"


def damage(saved, path, value):
    *way, last = path
    inner = saved
    for name in way:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value


@pytest.mark.parametrize(
    "path, value",
    [
        (["learners", "text->image"], None),
        (["learners", "text->image", "gamma"], None),
        (["learners", "text->image", "ema"], {}),
        (["learners", "image->text", "ema", "module.M.weight"], torch.ones(2, 2)),
        (["learners", "image->text", "ema", "module.M.weight"], torch.full((5, 7), torch.nan)),
        (["encoders", "text"], None),
        (["args", "width"], "wide"),
        (["args", "predict"], None),
        (["step"], -1),
        (["model"], "bridge"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(trained, tmp_path, path, value):
    """KeyError, StopIteration or a size mismatch, and nothing that names the file."""
    saved = checkpoints.load_checkpoint(str(trained / "model.pt"))
    damage(saved, path, value)
    checkpoints.save_checkpoint(str(tmp_path / "model.pt"), saved)
    with pytest.raises(InputError) as e:
        evaluate.main([str(tmp_path)])
    assert str(tmp_path) in str(e.value) and "\n" not in str(e.value)


def test_a_damaged_baseline_is_one_line(trained, capsys):
    """RUN/mlp-*.pt without its weights is a KeyError at every evaluation."""
    evaluate.main([str(trained), "--task", "similarity"])
    path = str(trained / "mlp-text-to-image.pt")
    saved = checkpoints.load_checkpoint(path)
    del saved["ema"]
    checkpoints.save_checkpoint(path, saved)
    with pytest.raises(RunError, match="mlp-text-to-image.pt"):
        evaluate.main([str(trained), "--task", "similarity"])


# --------------------------------------------------------------------------------------------------
# A decoder of few captions


def test_steps_of_a_caption_decoder(monkeypatch, capsys):
    """Twelve photos are read 6,400 times by a decoder that knows them by heart after 200."""
    steps = {n: captioning.steps_for(n, 32) for n in (0, 10, 63, 64, 320, 639, 640, 40_000)}
    assert steps == {
        0: 200,
        10: 200,
        63: 200,
        64: 200,
        320: 1000,
        639: 1996,
        640: 2000,
        40_000: 2000,
    }
    # And that many are taken, and said.
    model = captioning.make_captioner(5, captions=["a dog", "a cat"], layers=1, width=8)
    taken = []
    loss = model.loss
    monkeypatch.setattr(model, "loss", lambda *a: taken.append(1) or loss(*a))
    monkeypatch.setattr(captioning, "LEAST_STEPS", 7)
    z = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    captioning.fit_captioner(
        model, z, ["a dog", "a cat"], np.array([[0, 0], [1, 1]]), desc="capdec"
    )
    assert len(taken) == 7
    assert "capdec: 7 training steps for 2 captions" in capsys.readouterr().err
