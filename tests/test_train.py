"""
Training as a user meets it: resume, kill, NaN, processes, precision, wrong flags.

Every run is real and tiny: 600 pairs of vectors (11 and 7 numbers) through `--dataset latents`.
Run: pytest tests/test_train.py
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import processes
import pytest
import torch

import checkpoints
import devices
import latents
import runs
import train
from errors import InputError, RunError

ROOT = Path(train.__file__).parent
CPU = torch.device("cpu")
LOOKS_FOR_AMX = devices.cpu_multiplies_bf16  # itself, before conftest.py pins its answer


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


def arguments(argv, pairs=540):
    """The arguments of a run, with the defaults that a set of one's own gets when it is read."""
    args = train.parse(argv)
    train.fit_to_data(args, train.FLAGS, pairs, CPU)
    return args


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


@pytest.mark.parametrize("kill_at, dropout", [(1, 0.2), (5, 0), (8, 0.2), (11, 0)])
def test_killed_run_resumes_bit_for_bit(flags, trained, tmp_path, monkeypatch, kill_at, dropout):
    """Otherwise randomness, optimiser, EMA or dropout depend on more than (seed, step). Without
    dropout the directions are trained side by side."""
    dropout = f"--dropout {dropout}"
    whole = trained(dropout)
    real, count = train.train_step, [0]

    def dies(*args, **kw):
        count[0] += 1
        if count[0] > 2 * kill_at:  # two directions a step
            raise KeyboardInterrupt
        return real(*args, **kw)

    monkeypatch.setattr(train, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train.main(flags(dropout, "killed"))
    monkeypatch.setattr(train, "train_step", real)
    resume = "--resume" if kill_at >= 5 else ""  # before the first checkpoint there is nothing
    train.main(flags(f"{dropout} {resume}", "killed"))
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
    learners = checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["learners"]
    gamma = {direction: side["gamma"] for direction, side in learners.items()}
    # Texts are a bent function of images; images are none of texts, and F need not help.
    assert 0.1 < gamma["image->text"] < 1e4 and 0 <= gamma["text->image"] < 1e4


def test_batches_are_shares_of_one_global_batch(flags):
    """Otherwise two processes train on other pairs or noises than one process would."""
    args = arguments(flags())
    latents = runs.load_latents(args, CPU, 0, 1).train
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
    seed = "--seed 3 --device cpu --amp off"
    processes.run_group(lambda: train.main(flags(seed, "two")), tmp_path)
    compare(trained(seed), tmp_path / "two")


@pytest.mark.slow
def test_torchrun_equals_one_process(flags, trained, tmp_path):
    """Otherwise the processes of torchrun do not find each other: it imports torch three times."""
    seed = "--seed 3 --device cpu --amp off"
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
    args = arguments(flags("--amp fp16"))
    found = runs.load_latents(args, CPU, 0, 1)
    side = train.Learner("text->image", found.train, found.val, args, CPU)
    before = {k: v.clone() for k, v in side.net.state_dict().items()}
    c, z, noise = runs.draw_batch(found.train, "text->image", 0, args)
    train.train_step(side, (c, z * 1e9, noise), 0, args, CPU)
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
    with pytest.raises(RunError, match=r"--lr was 0\.004, now 0\.5"):
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


# -- the average and the best checkpoint


def test_ema_decay():
    """Otherwise the average of a short run is still its random beginning."""
    paper = train.parse(["--dataset", "coco"])
    assert runs.ema_decay(0, paper) == 0.1 and runs.ema_decay(90, paper) == 0.91
    assert runs.ema_decay(89_980, paper) < 0.9999 == runs.ema_decay(89_990, paper)
    assert runs.ema_decay(10**6, paper) == 0.9999
    released = train.parse(["--preset", "as-released"])
    assert runs.ema_decay(500, released) == 0.0  # the weights themselves


@pytest.fixture
def rising_and_falling(flags, monkeypatch):
    """A learner whose validation cosine is best at the third of five looks, and the marks that its
    averaged weights bear at each look."""
    args = arguments(flags())
    args.amp = "off"
    found = runs.load_latents(args, CPU, 0, 1)

    def make():
        torch.manual_seed(0)
        return train.Learner("text->image", found.train, found.val, args, CPU)

    cosines = {1.0: 0.1, 2.0: 0.3, 3.0: 0.6, 4.0: 0.5, 5.0: 0.4}
    real = train.Learner.measure

    def measure(self, limit, K):
        mark = self.ema.module.net.last.bias[0].item()
        return *real(self, limit, K)[:2], cosines[mark]

    monkeypatch.setattr(train.Learner, "measure", measure)

    def look(learner, number):
        with torch.no_grad():
            learner.ema.module.net.last.bias.fill_(number)
        learner.check(10 * number)

    return make, look


def test_the_best_checkpoint_is_kept(rising_and_falling):
    """Otherwise a run that learns few pairs by heart ends with what it has at the end."""
    make, look = rising_and_falling
    learner = make()
    for number in (1, 2, 3, 4, 5):
        look(learner, number)
    assert (learner.best["cosine"], learner.best["step"]) == (0.6, 30)
    assert learner.ema.module.net.last.bias.eq(5).all()  # training itself goes on undisturbed
    learner.finish()
    assert learner.ema.module.net.last.bias.eq(3).all()
    assert learner.gamma >= 0 and learner.length > 0
    assert learner.best["weights"] is None  # not twice in model.pt


def test_the_best_checkpoint_survives_a_resume(rising_and_falling, tmp_path):
    """Otherwise a run that is stopped behind its best step forgets it."""
    make, look = rising_and_falling
    path = str(tmp_path / "learner.pt")
    old, new = make(), make()
    for number in (1, 2, 3, 4):
        look(old, number)
    checkpoints.save_checkpoint(path, old.state())
    new.load(checkpoints.load_checkpoint(path))
    for learner in (old, new):
        look(learner, 5)
        learner.finish()
    assert new.best == old.best and (new.gamma, new.length) == (old.gamma, old.length)
    assert same(old.ema.state_dict(), new.ema.state_dict())
    assert new.ema.module.net.last.bias.eq(3).all()


def test_checks_come_at_intervals(flags, tmp_path, monkeypatch):
    """Otherwise the best weights are looked for once, at the end; or after a resume elsewhere."""
    looks, real = [], train.Learner.check
    note = lambda self, step: looks.append((self.direction, step)) or real(self, step)
    monkeypatch.setattr(train.Learner, "check", note)
    line = "--steps 60 --save-every 20"
    train.main(flags(line, "whole"))
    expected = [(d, step) for step in (25, 50, 60) for d in latents.DIRECTIONS]
    assert looks == expected
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        real_draw = train.draw_batch

        def dies(latents, direction, step, *rest):
            if step == 45:
                raise KeyboardInterrupt
            return real_draw(latents, direction, step, *rest)

        patch.setattr(train, "draw_batch", dies)
        train.main(flags(line, "killed"))
    train.main(flags(f"{line} --resume", "killed"))
    assert looks[6:] == expected
    for which in ("net", "ema"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "killed", which))
    ends = [
        checkpoints.load_checkpoint(str(tmp_path / x / "model.pt")) for x in ("whole", "killed")
    ]
    for direction in latents.DIRECTIONS:
        one, two = (end["learners"][direction] for end in ends)
        assert one["best"] == two["best"] and one["best"]["step"] in (25, 50, 60)
        assert (one["gamma"], one["length"]) == (two["gamma"], two["length"])


# -- rounds of steps, and two directions at once


def test_rounds(tmp_path):
    """Otherwise a row of the log, a checkpoint or a look at the weights comes at another step."""

    def ends(first, steps, every, save_every):
        args = argparse.Namespace(
            steps=steps, save_every=save_every, out=str(tmp_path), resume=False
        )
        args.overwrite = False
        folder = checkpoints.RunFolder(args, "translator", (), rank=1)
        folder.first, folder.clock = first, 0.0
        rounds = list(folder.rounds(every))
        steps_done = [step for one in rounds for step in one]
        assert steps_done == list(range(first, steps))  # each once, in order
        return [one.stop for one in rounds]

    assert ends(0, 130, 40, 500) == [40, 50, 80, 100, 120, 130]
    assert ends(0, 60, 25, 20) == [20, 25, 40, 50, 60]
    assert ends(40, 60, 25, 20) == [50, 60]  # the same marks after a resume
    assert ends(33, 34, 25, 7) == [34] and ends(60, 60, 25, 20) == []


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)


def test_side_by_side(two_cores):
    """Otherwise answers come in the order in which they are done, or one after the other."""
    meeting = threading.Barrier(2, timeout=20)

    def square(x):
        meeting.wait()  # each waits for the other: one after the other would never end
        return x * x, torch.get_num_threads()

    before = torch.get_num_threads()
    assert devices.side_by_side(square, [3, 2]) == [(9, 1), (4, 1)]
    assert torch.get_num_threads() == before
    assert devices.side_by_side(lambda x: x + 1, []) == []


def test_side_by_side_puts_threads_back(two_cores):
    """Otherwise all that follows is computed on one core, or an error in one item is lost."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []

    def fails(x):
        seen.append(torch.get_num_threads())
        if x == 1:
            raise RunError("one of them")

    try:
        with pytest.raises(RunError, match="one of them"):
            devices.side_by_side(fails, [0, 1])
        assert torch.get_num_threads() == 2 and seen == [1, 1]
    finally:
        torch.set_num_threads(before)


def test_side_by_side_on_one_core(monkeypatch):
    """Otherwise two threads share one core; or a single item is kept from the second core."""
    monkeypatch.setattr(devices, "cores", lambda: 1)
    here = lambda x: (x, threading.get_ident())
    assert devices.side_by_side(here, "ab") == [here("a"), here("b")]
    monkeypatch.setattr(devices, "cores", lambda: 2)
    assert devices.side_by_side(here, "a") == [here("a")]


def test_side_by_side_where_items_would_disturb_each_other(two_cores, monkeypatch):
    """Otherwise two threads share a GPU, or dropout's generator, or processes wait for ever."""
    here = lambda x: (x, threading.get_ident())
    alone = [here("a"), here("b")]
    assert devices.side_by_side(here, "ab", torch.device("cuda")) == alone
    assert devices.side_by_side(here, "ab", CPU, random=True) == alone
    assert devices.side_by_side(here, "ab", CPU) != alone
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert devices.side_by_side(here, "ab", CPU) == alone


def test_training_side_by_side_is_training_alone(flags, tmp_path, two_cores, monkeypatch):
    """Otherwise one direction disturbs the other: a shared generator, or a shared gradient."""
    threads = set()
    real = train.train_step
    note = lambda *args: threads.add(threading.get_ident()) or real(*args)
    monkeypatch.setattr(train, "train_step", note)
    train.main(flags("--steps 30", "beside"))
    assert len(threads) >= 2 and threading.get_ident() not in threads
    monkeypatch.setattr(train, "side_by_side", lambda f, items, *a, **k: [f(x) for x in items])
    train.main(flags("--steps 30", "alone"))
    for which in ("net", "ema"):
        assert same(weights(tmp_path / "beside", which), weights(tmp_path / "alone", which))


def test_choose_amp(monkeypatch):
    """Otherwise bf16 is slow where it is chosen, or a flag that was typed is overruled."""
    cpu, gpu = CPU, torch.device("cuda")
    assert devices.choose_amp(None, cpu) == "off"  # conftest.py: no units for it
    monkeypatch.setattr(devices, "cpu_multiplies_bf16", lambda: True)
    assert devices.choose_amp(None, cpu) == "bf16"
    for word in ("off", "bf16", "fp16"):
        assert devices.choose_amp(word, cpu) == devices.choose_amp(word, gpu) == word
    for can, want in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda can=can: can)
        assert devices.choose_amp(None, gpu) == want


def test_whether_the_cpu_multiplies_bf16(monkeypatch):
    """Otherwise AMX is not seen, or a CPU that only converts bf16 is taken for one that has it."""
    asks = LOOKS_FOR_AMX
    for found, want in (
        ({"amx_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert asks() is want
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert asks() is False
