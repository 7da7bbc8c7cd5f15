"""
Training as a user meets it: resume, kill, NaN, processes, precision, wrong flags.

Every run is real and tiny: 600 pairs of vectors (11 and 7 numbers) through `--dataset latents`.
Run: pytest tests/test_train.py
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch

import checkpoints
import latents
import runs
import train
from errors import InputError, RunError

ROOT = Path(train.__file__).parent


@pytest.fixture(scope="session")
def pair_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(600, 11)).astype(np.float32)
    b = np.tanh(a @ rng.normal(size=(11, 7))).astype(np.float32)
    np.save(folder / "a.npy", a)
    np.save(folder / "b.npy", b)
    return str(folder / "a.npy"), str(folder / "b.npy")


def tiny_run(pair_files, top):
    """flags("--steps 7", out="x"): the command line of a tiny run in the folder `top`."""
    a, b = pair_files

    def make(more="", out="run"):
        small = "--steps 12 --width 24 --layers 3 --batch 32 --save-every 5 --ddim-steps 2 --K 2"
        here = f"--dataset latents --image-latents {a} --text-latents {b} --out {top / out}"
        return f"{here} --cache-dir {top / 'cache'} {small} {more}".split()

    return make


def leave_out(patch):
    """No evaluation and no loss.png: half of the time of a tiny run."""
    patch.setattr(train.evaluate, "main", lambda argv: None)
    patch.setattr(train, "draw_losses", lambda *args: None)


@pytest.fixture
def flags(pair_files, tmp_path, monkeypatch):
    """The command line of a tiny run in this test's own folder; evaluation is left out."""
    leave_out(monkeypatch)
    return tiny_run(pair_files, tmp_path)


@pytest.fixture(scope="session")
def trained(pair_files, tmp_path_factory):
    """trained("--dropout 0.2"): the folder of such a run, trained once. It is to be copied."""
    runs_of = {}

    def folder_of(more=""):
        if more not in runs_of:
            top = tmp_path_factory.mktemp("trained")
            with pytest.MonkeyPatch.context() as patch:
                leave_out(patch)
                train.main(tiny_run(pair_files, top)(more))
            runs_of[more] = top / "run"
        return runs_of[more]

    return folder_of


def weights(folder, which="net"):
    sides = checkpoints.load_checkpoint(str(folder / "model.pt"))["learners"]
    return {f"{d} {k}": v for d, side in sides.items() for k, v in side[which].items()}


def same(a, b, exact=True, **tolerance):
    assert a.keys() == b.keys()
    return all(
        torch.equal(a[k], b[k]) if exact else torch.allclose(a[k], b[k], **tolerance) for k in a
    )


# -- reproducible, resumable


@pytest.mark.parametrize("kill_at", [1, 5, 8, 11])
def test_killed_run_resumes_bit_for_bit(flags, trained, tmp_path, monkeypatch, kill_at):
    """Otherwise randomness, optimiser, EMA or dropout depend on more than (seed, step)."""
    whole = trained("--dropout 0.2")
    real, count = train.train_step, [0]

    def dies(*args, **kw):
        count[0] += 1
        if count[0] > 2 * kill_at:  # two directions a step
            raise KeyboardInterrupt
        return real(*args, **kw)

    monkeypatch.setattr(train, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train.main(flags("--dropout 0.2", "killed"))
    monkeypatch.setattr(train, "train_step", real)
    resume = "--resume" if kill_at >= 5 else ""  # before the first checkpoint there is nothing
    train.main(flags(f"--dropout 0.2 {resume}", "killed"))
    for which in ("net", "ema"):
        assert same(weights(whole, which), weights(tmp_path / "killed", which))
    log = [(run / "log.csv").read_text().splitlines() for run in (whole, tmp_path / "killed")]
    cut = [[row.rsplit(",", 1)[0] for row in rows] for rows in log]  # the last column is a speed
    assert cut[0] == cut[1] and len(cut[0]) == 1 + 2 * 3


def test_seeds_differ(trained):
    """Otherwise --seed does nothing; and the two directions must not share their batches."""
    assert not same(weights(trained()), weights(trained("--seed 1")))


def test_training_learns(flags, tmp_path):
    """Otherwise the loop runs and teaches nothing: the DDIM loss must fall well below its start."""
    train.main(flags("--steps 250 --lr 3e-3 --save-every 50"))
    rows = [r.split(",") for r in (tmp_path / "run" / "log.csv").read_text().splitlines()[1:]]
    for direction, most in (("text->image", 0.8), ("image->text", 0.6)):
        losses = [float(r[4]) for r in rows if r[1] == direction]
        assert losses[-1] < most * losses[0]
    gamma = [
        s["gamma"]
        for s in checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))[
            "learners"
        ].values()
    ]
    assert all(0 < g < 1e4 for g in gamma)


def test_batches_are_shares_of_one_global_batch(flags):
    """Otherwise two processes train on other pairs or noises than one process would."""
    args = train.parse(flags())
    latents = runs.load_latents(args, torch.device("cpu"), 0, 1)[2]
    whole = runs.draw_batch(latents, "text->image", 3, args)
    half = runs.draw_batch(latents, "text->image", 3, args, slice(16, 32))
    for a, b in zip((*whole[:2], *whole[2]), (*half[:2], *half[2]), strict=True):
        assert torch.equal(a[16:32], b)
    other = runs.draw_batch(latents, "text->image", 4, args)
    assert not torch.equal(whole[0], other[0]) and not torch.equal(whole[2].eps, other[2].eps)


def test_bare_names_are_asked_but_never_answered():
    """Otherwise --bare's share is wrong, or bare captions become targets of image->text."""
    full, bare = np.arange(100), np.arange(100, 140)
    g = torch.Generator().manual_seed(0)
    rows = runs.draw_rows(full, bare, 20_000, 0.3, g)
    assert 0.28 < (rows >= 100).mean() < 0.32 and set(rows) == set(range(140))
    assert (runs.draw_rows(full, bare, 500, 0.0, g) < 100).all()
    text = np.repeat(np.float32([0, 1]), [100, 40])[:, None]  # 1 marks a bare name
    pairs = np.stack([np.arange(140) % 100, np.arange(140)], 1)
    pairs_of = latents.Latents(np.zeros((100, 3), np.float32), text, pairs, full, bare)
    args = train.parse(["--bare", "1.0"])
    assert runs.draw_batch(pairs_of, "text->image", 0, args)[0].eq(1).all()
    assert runs.draw_batch(pairs_of, "image->text", 0, args)[1].eq(0).all()


def compare(one, two):
    """The run of two processes has the weights and the gradients of the run of one."""
    assert checkpoints.load_checkpoint(str(two / "model.pt"))["step"] == 12
    assert same(weights(one), weights(two), exact=False, rtol=1e-3, atol=2e-5)
    # AdamW forgives a scaled gradient; its norm in the log does not
    logs = [(run / "log.csv").read_text().splitlines()[1:] for run in (one, two)]
    norms = [[float(row.split(",")[5]) for row in log] for log in logs]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_two_processes_equal_one(flags, trained, tmp_path):
    """Otherwise gradients are summed, not averaged, or the batch is not split: same weights."""
    seed = "--seed 3 --device cpu"
    processes.run_group(lambda: train.main(flags(seed, "two")), tmp_path)
    compare(trained(seed), tmp_path / "two")


@pytest.mark.slow
def test_torchrun_equals_one_process(flags, trained, tmp_path):
    """Otherwise the processes of torchrun do not find each other: it imports torch three times."""
    seed = "--seed 3 --device cpu"
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    port = ["--master_port", str(20_000 + os.getpid() % 20_000)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [*run, *port, "train.py", *flags(seed, "two")]
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (tmp_path / "two" / "model.pt").exists(), done.stderr[-2000:]
    compare(trained(seed), tmp_path / "two")


# -- precision


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(trained, amp):
    """Otherwise autocast or the GradScaler breaks the step; these are the lines a GPU runs."""
    low = trained(f"--amp {amp} --steps 30")
    a, b = weights(low), weights(trained("--steps 30"))
    assert all(v.dtype == b[k].dtype for k, v in a.items())  # master weights stay float32
    assert same(a, b, exact=False, rtol=0.1, atol=0.03) and not same(a, b)
    sides = checkpoints.load_checkpoint(str(low / "model.pt"))["learners"]
    scale = sides["text->image"]["scaler"]
    assert (scale.get("scale", 0) > 1) == (amp == "fp16")


def test_fp16_overflow_skips_the_step(flags):
    """Otherwise one overflow writes Inf into the weights."""
    args = train.parse(flags("--amp fp16"))
    device = torch.device("cpu")
    latents = runs.load_latents(args, device, 0, 1)[2]
    side = train.Learner("text->image", latents, args, device)
    before = {k: v.clone() for k, v in side.net.state_dict().items()}
    c, z, noise = runs.draw_batch(latents, "text->image", 0, args)
    train.train_step(side, (c, z * 1e9, noise), 0, args, device)
    assert same(before, side.net.state_dict())


# -- faults


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(flags, tmp_path, monkeypatch):
    """Otherwise a NaN run goes on for hours, or overwrites its last good checkpoint."""
    real = train.draw_batch

    def poisoned(latents, direction, step, *rest):
        c, z, noise = real(latents, direction, step, *rest)
        return c, z * float("nan") if step >= 7 else z, noise

    monkeypatch.setattr(train, "draw_batch", poisoned)
    with pytest.raises(RunError, match=r"step 10: the loss of text->image is nan.*--lr"):
        train.main(flags())
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["step"] == 5
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    """Otherwise a kill while saving loses the run: the old file must survive."""
    path = str(tmp_path / "model.pt")
    checkpoints.save_checkpoint(path, {"step": 1})

    def dies(obj, file):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint(path, {"step": 2})
    assert checkpoints.load_checkpoint(path)["step"] == 1


@pytest.mark.parametrize("what", ["missing", "noise", "pickle", "truncated"])
def test_bad_checkpoint_is_one_line(tmp_path, what):
    """Otherwise a broken or hostile file gives a traceback, or runs a stranger's code."""
    path = tmp_path / "model.pt"
    if what == "noise":
        path.write_bytes(b"not a checkpoint" * 20)
    elif what == "pickle":
        torch.save({"step": Path("x")}, path)
    elif what == "truncated":
        torch.save({"step": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RunError, match=re.escape(str(path))) as error:
        checkpoints.load_checkpoint(str(path))
    assert "\n" not in str(error.value)


def test_resume_refuses_other_settings(flags, trained, tmp_path):
    """Otherwise half a run is trained with one learning rate and half with another."""
    shutil.copytree(trained(), tmp_path / "run")
    with pytest.raises(RunError, match=r"--lr was 0\.0001, now 0\.5"):
        train.main(flags("--resume --lr 0.5"))
    with pytest.raises(RunError, match="--overwrite replaces"):
        train.main(flags())
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["step"] == 12


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("--gamma high", "--gamma high: a number or `auto`"),
        ("--gamma nan", "--gamma nan"),
        ("--steps 0", "--steps 0"),
        ("--lr -1", "--lr -1"),
        ("--layers 1", "--layers"),
        ("--T 8", "--T 8: it has to be between 9"),
        ("--device gpu", "--device gpu"),
        ("--dataset cocoo", "no data set 'cocoo'; there are glyphs"),
        ("--dataset coco", "--image-latents is for latents; --dataset coco ignores it"),
        ("--image-encoder pcaa", "pcaa"),
        ("--image-latents nowhere.npy", "nowhere.npy"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags, tmp_path, wrong, says):
    """Otherwise a slip in the command ends in a traceback, or in another run than asked."""
    errors = InputError
    with pytest.raises(errors, match=re.escape(says)):
        train.main(flags(wrong))
    assert not (tmp_path / "run").exists()


def test_presets():
    """Otherwise the defaults are not the paper's on coco, or the laptop's on glyphs."""
    paper = train.parse(["--dataset", "coco"])
    assert (paper.lr, paper.weight_decay, paper.batch, paper.omega) == (1e-4, 1e-2, 256, 5.0)
    assert (paper.lam1, paper.lam2, paper.p, paper.layers, paper.cosine) == (1, 2, 0.05, 10, False)
    assert paper.image_encoder == paper.text_encoder == "clip:ViT-B-32-quickgelu"
    glyphs, quick = train.parse([]), train.parse(["--quick"])
    assert glyphs.steps > 1000 > quick.steps and glyphs.width == quick.width == 256
    assert train.parse(["--steps", "5", "--quick"]).steps == 5
    assert train.parse(["--no-cosine"]).cosine is False
    assert (glyphs.out, quick.out) == ("runs/glyphs-translator", "runs/glyphs-translator-quick")


def test_learning_rate():
    """Otherwise the paper's constant rate decays, or the cosine does not warm up and reach 0."""
    glyphs, paper = train.parse([]), train.parse(["--dataset", "coco"])
    assert {runs.learning_rate(s, paper) for s in (0, 10, 99_999)} == {1e-4}
    rates = [runs.learning_rate(s, glyphs) for s in range(glyphs.steps)]
    assert rates[0] < 0.02 * glyphs.lr and max(rates) > 0.98 * glyphs.lr
    assert rates.index(max(rates)) == 99 and rates[-1] < 1e-5 * glyphs.lr
