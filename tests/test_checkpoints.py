"""
A run on disk that is killed, repeated, moved, or meets a full disk: nothing half is believed.

Runs are those of test_train.py: real and tiny. Run: pytest tests/test_checkpoints.py
"""

import errno
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
import torch
from test_train import ROOT, flags, pair_files, same, trained, weights  # noqa: F401  (fixtures)

import checkpoints
import errors
import pictures
import safe_files
import train
from errors import RunError


def edit(folder, change):
    """Load RUN/model.pt, let `change` alter it in place, write it back."""
    path = str(folder / "model.pt")
    saved = checkpoints.load_checkpoint(path)
    change(saved)
    checkpoints.save_checkpoint(path, saved)


@pytest.fixture
def run(trained, tmp_path):  # noqa: F811
    """run("--seed 1"): tmp_path/run, as if it had just been trained; the command knows no other."""

    def copy(more=""):
        folder = shutil.copytree(trained(more), tmp_path / "run")
        edit(folder, lambda saved: saved["args"].update(out=str(folder)))
        return folder

    return copy


def unfinished(saved):
    """As a checkpoint of step 5 is: not at its end, and no weights have been compared yet."""
    saved.update(finished=False, step=5)
    for side in saved["learners"].values():
        side["best"] = {"cosine": -1.0, "step": 0, "weights": None}


def stop_at(monkeypatch, step):
    """Ctrl-C in the middle of a run."""
    real = train.draw_batch

    def dies(latents, direction, now, *rest):
        if now == step:
            raise KeyboardInterrupt
        return real(latents, direction, now, *rest)

    monkeypatch.setattr(train, "draw_batch", dies)


# -- files that are whole, folders with one writer


def test_whole_leaves_the_old_file_or_the_new_one(tmp_path):
    """Otherwise an error in the middle leaves half a file, or its temporary name."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError), safe_files.whole(str(path)) as name:
        open(name, "w").write("ne")
        raise ValueError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with safe_files.whole(str(path)) as name:
        open(name, "w").write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_lock_has_one_holder_and_no_ghosts(tmp_path):
    """Otherwise two runs write one folder, or a killed one blocks it for ever."""
    path = str(tmp_path / "x" / ".lock")
    with safe_files.Lock(path, "in use"):
        with pytest.raises(RunError, match=rf"in use \(process {os.getpid()}\)"):
            safe_files.Lock(path, "in use").__enter__()
    assert not os.path.exists(path)
    open(path, "w").write("1234567")  # left by a kill
    with safe_files.Lock(path, "in use"):
        assert open(path).read() == str(os.getpid())


def test_lock_can_wait(tmp_path, capsys):
    """Otherwise the second run on one cache stops, or reads it while it is written."""
    path = str(tmp_path / "lock")
    code = f"""if True:
        import sys, time
        sys.path.insert(0, {str(ROOT)!r})
        from safe_files import Lock
        with Lock({path!r}, "x"):
            print("mine", flush=True)
            time.sleep(1.5)
            open({str(tmp_path / "done")!r}, "w").close()"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    with safe_files.Lock(path, "the cache is being filled", wait=True):
        assert (tmp_path / "done").exists()
    assert other.wait() == 0
    assert f"the cache is being filled (process {other.pid}): waiting" in capsys.readouterr().out


def test_second_run_is_refused(flags, tmp_path):  # noqa: F811
    """Otherwise two runs write one model.pt, and the last one to save wins."""
    line = flags("--steps 100000 --device cpu")
    first = processes.start(lambda: train.train(train.parse(line)))
    try:
        deadline = time.time() + 100
        while not (tmp_path / "run" / "model.pt").exists() and time.time() < deadline:
            time.sleep(0.02)
        for more in ("--resume --steps 100000", "--overwrite"):
            with pytest.raises(RunError, match=f"in use by another run.*process {first}"):
                train.main(flags(f"--device cpu {more}"))
    finally:
        processes.stop(first)
    train.main(flags("--device cpu --overwrite"))  # a killed run is no obstacle


# -- resume


def test_resume_refuses_other_data(flags, run, pair_files, tmp_path):  # noqa: F811
    """Otherwise one half of a run sees other pairs than the other half, without a word."""
    run()
    edit(tmp_path / "run", unfinished)
    before = (tmp_path / "run" / "model.pt").read_bytes()
    b = np.load(pair_files[1])
    np.save(tmp_path / "other.npy", b[::-1])
    line = [word.replace(pair_files[1], str(tmp_path / "other.npy")) for word in flags("--resume")]
    edit(
        tmp_path / "run",
        lambda saved: saved["args"].update(text_latents=line[line.index("--text-latents") + 1]),
    )
    before = (tmp_path / "run" / "model.pt").read_bytes()
    with pytest.raises(RunError, match="the train data are not those that this run began with"):
        train.main(line)
    assert (tmp_path / "run" / "model.pt").read_bytes() == before


def test_resume_takes_the_encoders_of_the_checkpoint(flags, run, tmp_path, monkeypatch):  # noqa: F811
    """Otherwise PCA is fitted again, to other numbers where the machine's library is another."""
    run()
    edit(tmp_path / "run", unfinished)
    monkeypatch.setattr("encoders.make", lambda *a, **kw: pytest.fail("fitted again"))
    monkeypatch.setattr("runs.load_encoders", lambda *a: pytest.fail("fitted again"))
    monkeypatch.setattr("encoders.from_state", real_none(monkeypatch))
    train.main(flags("--resume"))


def real_none(monkeypatch):
    """encoders.from_state, without the `make` that is forbidden above; latents need no weights."""
    from encoders import Encoder, digest

    def from_state(state, *rest, **kw):
        name = digest("none")
        return Encoder("none", state["modality"], name, state["dim"], np.asarray, np.stack)

    return from_state


def test_overwrite_forgets_the_old_run(flags, trained, run, tmp_path, monkeypatch):  # noqa: F811
    """Otherwise an old, finished model.pt counts as the result of a run that was killed early."""
    run("--seed 1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 3)
        train.main(flags("--overwrite"))
    assert not (tmp_path / "run" / "model.pt").exists()
    train.main(flags("--resume"))  # no checkpoint yet: from the beginning
    assert same(weights(tmp_path / "run"), weights(trained()))


def test_resume_without_a_run_is_an_error(flags, tmp_path):  # noqa: F811
    """Otherwise a slip in --out trains a new run instead of going on with the old one."""
    with pytest.raises(RunError, match="no such checkpoint"):
        train.main(flags("--resume"))
    assert not (tmp_path / "run").exists()


def test_half_a_row_of_the_log_is_dropped(flags, tmp_path, monkeypatch):  # noqa: F811
    """Otherwise loss.png cannot be drawn, or shows half a number."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 8)
        train.main(flags())
    with open(tmp_path / "run" / "log.csv", "a") as f:
        f.write("5,text->image,0.1")
    monkeypatch.setattr(train, "draw_losses", pictures.draw_losses)
    train.main(flags("--resume"))
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [row.count(",") for row in rows] == [7] * 7
    assert [row.split(",")[0] for row in rows[1::2]] == ["5", "10", "12"]


def test_picture_is_there_before_the_run_is_finished(flags, tmp_path, monkeypatch):  # noqa: F811
    """Otherwise a kill between the two leaves a finished run without its picture, for ever."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "draw_losses", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        train.main(flags())
    monkeypatch.setattr(train, "draw_losses", pictures.draw_losses)
    train.main(flags("--resume"))
    assert (tmp_path / "run" / "loss.png").stat().st_size > 5000
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["finished"]


@pytest.mark.parametrize("then", ["off", "bf16", "fp16"])
def test_precision_may_change_on_resume(flags, run, tmp_path, then):  # noqa: F811
    """Otherwise --amp fp16 meets the empty state of a loss scaler that was switched off."""
    run("--amp bf16")
    edit(tmp_path / "run", unfinished)
    train.main(flags(f"--amp {then} --resume"))


# -- checkpoints that are not ours, or not whole


def lose(*path):
    def change(saved):
        for name in path[:-1]:
            saved = saved[name]
        del saved[path[-1]]

    return change


@pytest.mark.parametrize(
    "change, says",
    [
        (lose("args"), "no 'args'"),
        (lose("encoders"), "no 'encoders'"),
        (lose("args", "width"), "its arguments lack 'width'"),
        (lose("learners", "text->image", "ema"), "the weights of text->image are missing"),
        (lambda saved: saved.update(step=99), "it says step 99 of 12"),
        (lambda saved: saved.update(step=-1), "it says step -1 of 12"),
        (lambda saved: saved["args"].update(width=32), "is of another network"),
        (
            lambda s: s["learners"]["text->image"]["ema"]["module.M.weight"].fill_(float("nan")),
            "NaN",
        ),
    ],
)
def test_damaged_checkpoint_is_one_line(run, tmp_path, change, says):
    """Otherwise evaluation ends in a KeyError, or prints tables of NaN."""
    import runs

    run()
    edit(tmp_path / "run", change)
    with pytest.raises(errors.InputError, match=says) as error:
        runs.TranslatorRun(str(tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_full_disk_is_one_line_and_keeps_the_checkpoint(flags, tmp_path, monkeypatch):  # noqa: F811
    """Otherwise torch's own traceback, and a model.pt of half its size."""
    real, count = torch.save, []

    def full(obj, path):
        count.append(path)
        if len(count) < 2:
            return real(obj, path)
        open(path, "wb").write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="cannot write .*model.pt"):
        train.main(flags())
    monkeypatch.undo()
    assert checkpoints.load_checkpoint(str(tmp_path / "run" / "model.pt"))["step"] == 5
    assert not list((tmp_path / "run").glob("*.tmp"))


# -- one place for one line


@pytest.mark.parametrize(
    "error, says",
    [
        (errors.DataError("no such set"), "x.py: no such set"),
        (RunError("in use"), "x.py: in use"),
        (KeyboardInterrupt(), "x.py: goes on with --resume"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.npy"),
            "No space left on device (a.npy)",
        ),
        (MemoryError(), "x.py: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "smaller: --batch"),
    ],
)
def test_what_is_no_bug_is_one_line(error, says):
    """Otherwise a reader of a wrong flag or a full disk gets a traceback."""

    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        errors.run_script("x.py", main, "goes on with --resume")
    assert says in stop.value.code and "\n" not in stop.value.code


@pytest.mark.parametrize(
    "bug", [ValueError("x"), KeyError("x"), RuntimeError("shape"), TypeError()]
)
def test_a_bug_keeps_its_traceback(bug):
    """Otherwise nobody can mend it."""

    def main():
        raise bug

    with pytest.raises(type(bug)):
        errors.run_script("x.py", main)


def test_a_closed_pipe_is_no_traceback():
    """Otherwise `evaluate.py RUN | head` ends in BrokenPipeError."""
    code = """if True:
        import errors
        errors.run_script("x.py", lambda: [print("line") for _ in range(100000)])"""
    line = f"{sys.executable} -c '{code}' | head -1"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "line\n" and done.stderr == ""
