"""
Training the bridge as a user meets it: resume, turns, processes, precision, faults, wrong flags.

Every run is real and tiny: 60 vectors (7,) that draw images (1, 8, 8), as files for `pairs`, or
60 vectors of 7 and of 11 numbers as `latents`. Run: pytest tests/test_train_bridge.py
"""

import argparse
import shutil
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import torch
from test_train import same
from torch.optim.swa_utils import AveragedModel

import checkpoints
import evaluate_bridge
import pictures
import runs
import train
import train_bridge
from errors import InputError, RunError
from latents import DIRECTIONS

CPU = torch.device("cpu")
KINDS = ("bridge", "modality")
DRAW = pictures.draw_losses


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders y, x of items, and a.npy, b.npy of latents."""
    top = tmp_path_factory.mktemp("items")
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, 7)).astype(np.float32)
    x = np.uint8(255 / (1 + np.exp(-2 * y @ rng.normal(size=(7, 64))))).reshape(60, 1, 8, 8)
    for side, items in (("y", y), ("x", x)):
        (top / side).mkdir()
        for i, item in enumerate(items):
            np.save(top / side / f"item{i}.npy", item)
    np.save(top / "a.npy", np.tanh(y @ rng.normal(size=(7, 11))).astype(np.float32))
    np.save(top / "b.npy", y)
    return top


@pytest.fixture
def flags(files, tmp_path, monkeypatch):
    """flags("--steps 7", out="x"): the command line of a tiny run without its evaluation."""
    monkeypatch.setattr(evaluate_bridge, "main", lambda argv: None)
    monkeypatch.setattr(train_bridge, "draw_losses", lambda *a: None)  # a second each

    def make(more="", out="run"):
        small = "--tokens 4 --dim 6 --width 16 --heads 2 --layers 1 --conv 16 --batch 16 --lr 1e-3"
        where = f"--dataset pairs --source-dir {files}/y --target-dir {files}/x"
        if "latents" in more:
            where = f"--image-latents {files}/a.npy --text-latents {files}/b.npy"
        if "celebahq" in more:
            where = ""
        rest = f"--cache-dir {tmp_path / 'cache'} --steps 12 --save-every 5 --device cpu {more}"
        return f"{where} --out {tmp_path / out} {small} {rest}".split()

    return make


def flat(tree, path=""):
    """Every tensor and number of nested dicts and lists, as one dict of tensors."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, part in items for k, v in flat(part, f"{path} {key}").items()}
    return {path: torch.as_tensor(0 if tree is None else tree)}


def saved(folder, direction="y->x"):
    return checkpoints.load_checkpoint(str(folder / "model.pt"))["learners"][direction]


def log_of(folder):
    """Rows of log.csv without the last column, which is a speed."""
    return [r.split(",")[:-1] for r in (folder / "log.csv").read_text().splitlines()[1:]]


def one_side(flags, more=""):
    args = train_bridge.parse(flags(more))
    args.amp = "off"
    return make_learners(args)[0]


def make_learners(args):
    """One BridgeLearner a direction, as train_bridge.train_in makes them."""
    pairs = train_bridge.load_pairs(args, CPU, 0, 1)[0]
    torch.manual_seed(args.seed)
    return [train_bridge.BridgeLearner(d, p, args, CPU) for d, p in pairs.items()]


# -- reproducible, resumable


@pytest.mark.parametrize(
    "more",
    [
        "",
        "--procedure two-step --cosine",
        "--dataset latents --procedure iterative --ratio 2 --amp fp16",
    ],
)
def test_killed_run_resumes_bit_for_bit(flags, tmp_path, monkeypatch, more):
    """Otherwise weights, average, moments, an optimiser or the turn hang on more than the step."""
    train_bridge.main(flags(more, "whole"))
    real = train_bridge.draw_batch

    def dies(side, step, *mine):
        if step == 8:
            raise KeyboardInterrupt
        return real(side, step, *mine)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(train_bridge, "draw_batch", dies)
        train_bridge.main(flags(more, "killed"))
    train_bridge.main(flags(f"{more} --resume", "killed"))
    a, b = (
        checkpoints.load_checkpoint(str(tmp_path / k / "model.pt"))["learners"]
        for k in ("whole", "killed")
    )
    assert same(flat(a), flat(b))  # net, ema, scaler, optimizers, shapes
    log = log_of(tmp_path / "whole")
    assert log == log_of(tmp_path / "killed") and len(log) == 3 * len(a)


def test_seeds_differ_and_so_do_directions(flags):
    """Otherwise --seed does nothing, or the two directions see the same pairs and noises."""
    sides = [one_side(flags, f"--seed {k}") for k in (0, 1)]
    assert not torch.equal(*(side.net.net.embed.weight for side in sides))
    a, b = (train_bridge.draw_batch(side, 3) for side in sides)
    assert not torch.equal(a[0], b[0]) and not torch.equal(a[2].eps, b[2].eps)
    there, back = make_learners(train_bridge.parse(flags("--dataset latents")))
    assert (there.direction, back.direction) == DIRECTIONS
    assert there.shapes == back.shapes[::-1] == [[7], [11]]
    assert not torch.equal(
        train_bridge.draw_batch(there, 3)[0], train_bridge.draw_batch(back, 3)[1]
    )


def test_training_learns(flags, tmp_path):
    """Otherwise the loop runs and teaches nothing: L_pred falls, and the samples follow y."""
    train_bridge.main(flags("--steps 120 --lr 3e-3 --lr-modality 1e-2 --save-every 20 --ema 0.9"))
    L_pred = [float(row[3]) for row in log_of(tmp_path / "run")]
    assert L_pred[0] > 0.3 and L_pred[-1] < 0.5 * L_pred[0]
    side = one_side(flags)
    side.load(saved(tmp_path / "run"))
    y, x, _ = train_bridge.draw_batch(side, 0)
    x_hat, x = side.ema.module.sample(y, 1)[0], side.ema.module.scale_x(x)
    error = lambda guess: (guess - x).square().mean()
    assert error(x_hat) < 0.6 * error(x_hat.roll(1, 0))


def test_balance_weighs_voxels():
    """Otherwise --balance changes nothing, or not the weight of its data."""
    x = np.zeros((3, 8, 12, 8), bool)
    x[0, 0], x[1:, 1] = True, True  # 1 of 8
    y = np.zeros((3, 2, 1, 8, 8), np.uint8)
    y[1] = 9
    pairs = SimpleNamespace(x=x, of=lambda rows: (y, x))
    args = train_bridge.parse("--dataset glyph-solids --width 16 --conv 16 --heads 2".split())
    for args.balance, w in ((1, 7), (0.5, 7**0.5)):
        net = train_bridge.BridgeLearner("y->x", pairs, args, CPU).net
        assert net.w_occupied.item() == pytest.approx(w)


def test_copies_on_the_way(flags, tmp_path):
    """Otherwise a copy is of another step, changes the run, or stays when the run is replaced."""
    train_bridge.main(flags("--no-cosine --steps 10 --ema 0.9", out="short"))
    train_bridge.main(flags("--no-cosine --steps 12 --keep-every 5 --ema 0.9"))
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == ["step-10", "step-5"]
    copy, short = saved(tmp_path / "run" / "step-10"), saved(tmp_path / "short")
    assert "optimizers" not in copy
    for key, value in flat(copy["ema"]).items():
        assert torch.equal(value, flat(short["ema"])[key])
    early, late = (runs.BridgeRun(tmp_path / "run" / f"step-{n}").bridges["y->x"] for n in (5, 10))
    assert not torch.equal(early.D_x.dense.weight, late.D_x.dense.weight)
    train_bridge.main(flags("--steps 4 --overwrite"))
    assert not (tmp_path / "run" / "step-5" / "model.pt").exists()


def test_batches_are_slices_of_one_global_batch(flags):
    """Otherwise two processes train on other pairs or noises than one process would."""
    side = one_side(flags)
    whole, half, later = (train_bridge.draw_batch(side, *a) for a in ([3], [3, slice(8, 16)], [4]))
    assert [tuple(a.shape) for a in half[:2]] == [(8, 7), (8, 1, 8, 8)]
    for a, b, c in zip(*((*batch[:2], *batch[2]) for batch in (whole, half, later)), strict=True):
        assert torch.equal(a[8:], b) and not torch.equal(a, c)


def test_two_processes_equal_one(flags, tmp_path):
    """Otherwise gradients, moments or InfoNCE's negatives are one process's, not the batch's."""
    more = "--procedure end-to-end --w-nce 1 --tau 0.5 --clip 1e9"
    train_bridge.main(flags(more, "one"))
    two = flags(more, "two")
    processes.run_group(lambda: train_bridge.train(train_bridge.parse(two)), tmp_path)
    one, two = (saved(tmp_path / k) for k in ("one", "two"))
    moments = [side["net"].pop("moments") for side in (one, two)]
    assert torch.allclose(*moments, rtol=0, atol=2e-6)
    assert same(one["net"], two["net"], exact=False, rtol=1e-3, atol=1e-3)
    # AdamW forgives a scaled gradient; the log does not: its L_infoNCE and norm are the batch's
    for a, b in zip(*(log_of(tmp_path / k) for k in ("one", "two")), strict=True):
        assert [float(a[k]) for k in (4, 5)] == pytest.approx([float(b[k]) for k in (4, 5)], 3e-4)


# -- turns


def test_turns():
    """Otherwise the three procedures are not LD's: who moves when, and who is there to move."""
    turns = lambda more: [
        train_bridge.turn_of(s, train_bridge.parse(f"--steps 9 {more}".split())) for s in range(9)
    ]
    assert turns("--procedure iterative --ratio 1") == (["modality", "bridge"] * 5)[:9]
    assert turns("--procedure iterative --ratio 2") == ["modality", "bridge", "bridge"] * 3
    assert turns("--procedure end-to-end") == ["both"] * 9
    assert turns("--procedure two-step") == ["apart"] * 4 + ["bridge"] * 5
    for procedure in ("iterative", "end-to-end", "two-step"):
        assert turns(f"--data-space --procedure {procedure}") == ["bridge"] * 9


@pytest.mark.parametrize(
    "procedure, step, moves",
    [("iterative", k, {KINDS[1 - k]}) for k in (0, 1)]
    + [("two-step", k, {KINDS[1 - k // 6]}) for k in (0, 6)]
    + [("end-to-end", 0, set(KINDS))],
)
def test_only_the_one_whose_turn_it_is_moves(flags, procedure, step, moves):
    """Otherwise a frozen half drifts by gradient, weight decay or momentum; or the rates swap."""
    side = one_side(flags, f"--lr-modality 3e-3 --cosine --procedure {procedure}")
    for k in (0, 1, 6):  # until each half has had a turn, and has momentum
        train_bridge.train_step(side, train_bridge.draw_batch(side, 9), k)
    optimizers, moments = side.optimizers, side.net.moments.clone()
    halves = {k: optimizers[k].param_groups[0]["params"] for k in KINDS}
    for name, p in side.net.named_parameters():
        assert any(p is q for q in halves["bridge" if name.startswith("net.") else "modality"])
    half = lambda k: flat([halves[k], [optimizers[k].state[p] for p in halves[k]]])
    before = {k: {n: v.clone() for n, v in half(k).items()} for k in KINDS}
    train_bridge.train_step(side, train_bridge.draw_batch(side, step), step)
    for k in KINDS:
        moved = [n for n, v in half(k).items() if not torch.equal(v, before[k][n])]
        assert 2 * len(moved) > len(before[k]) if k in moves else not moved
        if k in moves:
            rate = {"bridge": 1e-3, "modality": 3e-3}[k] * train_bridge.decay_at(step, side.args)
            assert optimizers[k].param_groups[0]["lr"] == pytest.approx(rate)
    assert not torch.equal(moments, side.net.moments)


def test_learning_rate_restarts_for_the_second_of_two_steps():
    """Otherwise the bridge of a two-step run is trained with what the modality models left over."""
    rate = lambda step, more="": train_bridge.decay_at(
        step, train_bridge.parse(f"--steps 800 {more}".split())
    )
    two = "--procedure two-step --cosine"
    assert [rate(s, two) for s in (400, 500, 799)] == [rate(s, two) for s in (0, 100, 399)]
    assert rate(399, two) < 1e-4 < rate(400, two) == 0.01 and rate(99, two) > 0.8
    assert 0.49 < rate(400) < 0.51 and rate(799) < 1e-4  # in turns: one training
    assert {rate(s, "--no-cosine --procedure two-step") for s in (0, 399, 400, 799)} == {1}


# -- precision


def test_mixed_precision_trains(flags, tmp_path):
    """Otherwise autocast or the GradScaler breaks a step; these are the lines a GPU runs."""
    for amp in ("off", "bf16", "fp16"):
        train_bridge.main(flags(f"--procedure end-to-end --amp {amp}", amp))
    off, *low = (saved(tmp_path / amp) for amp in ("off", "bf16", "fp16"))
    for side in low:
        assert all(v.dtype == torch.float32 for v in side["net"].values())  # master weights
        assert same(side["net"], off["net"], exact=False, rtol=0.1, atol=0.02)
        assert not same(side["net"], off["net"])
    assert [side["scaler"].get("scale", 0) > 1 for side in (off, *low)] == [False, False, True]


# -- faults


def test_nan_stops_with_the_step_and_keeps_the_checkpoint(flags, tmp_path, monkeypatch):
    """Otherwise a NaN run goes on for hours, or overwrites its last good checkpoint."""
    real = train_bridge.draw_batch

    def poisoned(side, step, *rest):
        y, x, noise = real(side, step, *rest)
        return y * float("nan") if step >= 7 else y, x, noise

    monkeypatch.setattr(train_bridge, "draw_batch", poisoned)
    with pytest.raises(RunError, match=r"step 10: the loss of y->x is nan.*--lr"):
        train_bridge.main(flags())
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["step"] == 5
    assert all(v.isfinite().all() for v in flat(saved(tmp_path / "run")).values())


def test_resume_refuses_other_settings(flags, tmp_path):
    """Otherwise half a run is trained with one temperature and half with another."""
    train_bridge.main(flags())
    with pytest.raises(RunError, match=r"--tau was 0\.07, now 0\.5"):
        train_bridge.main(flags("--resume --tau 0.5"))
    with pytest.raises(RunError, match="--overwrite replaces"):
        train_bridge.main(flags())
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["args"]["tau"] == 0.07


def test_checkpoint(flags, tmp_path, monkeypatch):
    """Otherwise evaluate.py cannot rebuild the bridge, takes half a run for a whole one, or a run
    of arrays loads encoders it has no use for."""
    real, seen = checkpoints.save_checkpoint, []
    note = lambda path, c: (seen.append((c["step"], c["finished"])), real(path, c))
    monkeypatch.setattr(checkpoints, "save_checkpoint", note)
    monkeypatch.setattr(runs, "load_encoders", lambda *a: pytest.fail("encoders for arrays"))
    assert train_bridge.train(train_bridge.parse(flags("--loss rec --w-nce 0")))
    assert seen == [(5, False), (10, False), (12, False), (12, True)]
    checkpoint, side = (
        checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt")),
        saved(tmp_path / "run"),
    )
    assert checkpoint["encoders"] == {} and side["shapes"] == [[7], [1, 8, 8]]
    moments = side["net"]["moments"]
    assert torch.equal(moments, side["ema"]["module.moments"]) and moments[2] != 0
    args = argparse.Namespace(**checkpoint["args"])
    ema = AveragedModel(runs.make_bridge(args, *side["shapes"]))
    ema.load_state_dict(side["ema"])
    assert not same(ema.module.state_dict(), side["net"])  # it is an average
    assert {row[4] for row in log_of(tmp_path / "run")} == {"0"}  # --w-nce 0: no InfoNCE
    DRAW(str(tmp_path / "run" / "log.csv"), str(tmp_path / "loss.png"), train_bridge.LOSSES)
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_data_space_runs(flags, files, tmp_path):
    """Otherwise LD's baseline, a bridge of pixels, stumbles over the models it has not."""
    shutil.copytree(files / "x", tmp_path / "same")
    train_bridge.main(flags(f"--data-space --source-dir {tmp_path}/same"))
    assert list(saved(tmp_path / "run")["optimizers"]) == ["bridge"]
    assert all(row[3:5] == ["0", "0"] for row in log_of(tmp_path / "run"))


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("--dataset cocoo", "no data set 'cocoo'; there are glyph-sr"),
        ("--width 16 --heads 3", "--heads"),
        ("--tau 0", "--tau 0"),
        ("--p-T 2", "--p-T 2: it has to be between 0 and 1"),
        ("--design unet --tokens 5", "the U-Net needs the square of an even number"),
        ("--data-space", "data space: (7,) and (1, 8, 8) are not images"),
        ("--source-dir nowhere", "nowhere: no such folder"),
        ("--dataset celebahq", "data set celebahq not found: give --data-dir"),
        ("--resume", "no such checkpoint"),
    ],
)
def test_wrong_flags_are_one_clear_line(flags, tmp_path, wrong, says):
    """Otherwise a slip in the command ends in a traceback, or in another run than asked."""
    with pytest.raises(InputError) as error:
        train_bridge.main(flags(wrong))
    assert says in str(error.value)
    missing_set = "give --data-dir" in says or "folder" in says
    assert missing_set or "\n" not in str(error.value)  # a missing set shows its tree
    assert not (tmp_path / "run").exists()


def test_flags_of_the_bridge_do_not_reach_the_translator(capsys):
    """Otherwise they are ignored in silence."""
    for name in ("glyph-sr", "glyph-names", "pairs"):
        with pytest.raises(RunError, match=f"{name} has .* they are for train_bridge.py"):
            train.parse(["--dataset", name])
    for script, flag in ((train, "--procedure two-step"), (train_bridge, "--gamma 2")):
        with pytest.raises(SystemExit):
            script.parse(flag.split())
        assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_presets():
    """Otherwise the defaults are not LD's on its data sets, or a laptop's on glyphs."""
    parse = lambda line: train_bridge.parse(f"{line}".split())
    faces, glyphs, quick = parse("--dataset celebahq"), parse(""), parse("--quick")
    assert (faces.steps, faces.batch, faces.ema, faces.cosine) == (200_000, 64, 0.9999, False)
    assert (faces.tokens, faces.dim, faces.layers, faces.procedure) == (64, 64, 6, "iterative")
    assert faces.lr == faces.lr_modality == 1e-4 < glyphs.lr and glyphs.cosine
    for size in ("width", "layers", "tokens", "dim", "conv"):
        assert getattr(faces, size) > getattr(glyphs, size) == getattr(quick, size)
    assert 10_000 > glyphs.steps > 1000 > quick.steps > parse("--quick --steps 5").steps == 5
    assert not parse("--no-cosine").cosine and parse("--quick --lr 1").lr == 1
    assert (glyphs.out, quick.out) == ("runs/glyph-sr-bridge", "runs/glyph-sr-bridge-quick")
    assert runs.data_options(parse("--dataset glyph-solids")) == {"poses": 4}
    names = parse("--dataset glyph-names")
    assert (names.text_encoder, faces.text_encoder) == (train.parse([]).text_encoder, None)
