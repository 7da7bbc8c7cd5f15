"""
Vectors of one's own: the files that other programs write, and a trained run used from Python.

Oracles: numpy.concatenate of the parts; the translator's own `terms` with the same noise; README's
code, run as it stands there. Run: pytest tests/test_own_vectors.py
"""

import os
import pickle
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from test_train import pair_files, tiny_run, trained  # noqa: F401
from test_train_bridge import files as bridge_files  # noqa: F401

import data_files
import data_latents
import encoders
import evaluate_bridge
import runs
import train
import train_bridge
from data import load
from errors import DataError, DeviceError, RunError
from glyphs import SPLITS
from runs import load_run

ROOT = Path(train.__file__).parent
T2I, I2T = "text->image", "image->text"
ROWS = (5, 3, 9, 4, 1, 6, 2, 7, 3, 8, 5, 10)  # of 12 parts: as words, part 10 comes before part 2


def write_parts(folder, x, name="img_emb_", first=0, rows=ROWS):
    """x (63, h), cut into parts NAME0.npy, NAME1.npy, ..., in a new folder."""
    folder.mkdir()
    for number, part in enumerate(np.split(x, np.cumsum(rows)[:-1]), first):
        np.save(folder / f"{name}{number}.npy", part)


def vectors(seed, h, dtype=np.float16):
    return np.random.default_rng(seed).standard_normal((sum(ROWS), h)).astype(dtype)


def rows_of(root, **files):
    """({row: its image vector}, {row: its text vector}) of all splits, rows as the loader names."""
    images, texts = {}, {}
    for side in SPLITS:
        split = load("latents", root, side, **files)
        for i, j in split.pairs:
            row = int(split.images.name(i).split()[-1])
            images[row], texts[row] = split.images[i], split.captions[j]
    return images, texts


def check_rows(root, a, b, **files):
    images, texts = rows_of(root, **files)
    assert sorted(images) == list(range(len(a)))
    for row in images:
        assert np.array_equal(images[row], a[row].astype(np.float32))
        assert np.array_equal(texts[row], b[row].astype(np.float32))


# --------------------------------------------------------------------------------------------------
# parts


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    """Part 10 is read before part 2: nearly all captions belong to another image."""
    a, b = vectors(0, 4), vectors(1, 7, np.float32)
    write_parts(tmp_path / "img_emb", a)
    write_parts(tmp_path / "text", b, "text_emb_", first=0)
    (tmp_path / "img_emb" / "._img_emb_0.npy").write_bytes(b"what Macs leave")
    (tmp_path / "img_emb" / "notes.txt").write_text("no array")
    np.save(tmp_path / "b.npy", b)
    check_rows(tmp_path, a, b, image_latents="img_emb", text_latents="text")
    check_rows(tmp_path, a, b, image_latents="img_emb", text_latents="b.npy")
    pattern = str(tmp_path / "text" / "text_emb_*.npy")
    check_rows(None, a, b, image_latents=str(tmp_path / "img_emb"), text_latents=pattern)


def test_parts_that_count_from_one_or_with_zeros(tmp_path):
    """A part 0 is missed that never was; or 0007 and 7 are taken for two kinds of names."""
    a, b = vectors(0, 4), vectors(1, 7)
    write_parts(tmp_path / "one", a, first=1)
    write_parts(tmp_path / "zeros", b, "x", first=1)
    for file in (tmp_path / "zeros").iterdir():
        file.rename(file.with_name(f"x{int(file.stem[1:]):04}.npy"))
    check_rows(tmp_path, a, b, image_latents="one", text_latents="zeros")
    # A folder of one file, whatever its name.
    (tmp_path / "single").mkdir()
    np.save(tmp_path / "single" / "all.npy", b)
    check_rows(tmp_path, a, b, image_latents="one", text_latents="single")


def test_wrong_parts(tmp_path):
    """A part that is missing, twice there, or of something else shifts all rows after it."""
    a, b = vectors(0, 4), vectors(1, 7)
    np.save(tmp_path / "b.npy", b)
    folder = tmp_path / "a"

    def remove(number):
        os.remove(folder / f"img_emb_{number}.npy")

    cases = {
        "part 7 is missing: of 12 parts there are 11": lambda: remove(7),
        "part 1 is missing: of 11 parts there are 10": lambda: [remove(0), remove(1)],
        "part 3 is there twice: .*_0*3.npy and .*_0*3.npy": lambda: shutil.copy(
            folder / "img_emb_3.npy", folder / "img_emb_03.npy"
        ),
        "img_emb_0.npy and text_emb_0.npy are no parts of one": lambda: np.save(
            folder / "text_emb_0.npy", b
        ),
        "no parts of one array; give a pattern": lambda: np.save(folder / "names.npy", b),
        "img_emb_2.npy: rows of 5 numbers, in .*img_emb_0.npy they have 4": lambda: np.save(
            folder / "img_emb_2.npy", np.ones((9, 5), np.float16)
        ),
        "img_emb_4.npy: expected .* of floats": lambda: np.save(
            folder / "img_emb_4.npy", np.ones((1, 4), int)
        ),
        r"unequal numbers of rows: \[53, 63\]": lambda: remove(11),
    }
    for message, damage in cases.items():
        shutil.rmtree(folder, ignore_errors=True)
        write_parts(folder, a)
        damage()
        with pytest.raises(DataError, match=message) as caught:
            load("latents", tmp_path, "train", image_latents="a", text_latents="b.npy")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no parts there"):
        load("latents", tmp_path, "train", image_latents="a/none_*.npy", text_latents="b.npy")


def test_parts_of_two_sides_that_were_cut_elsewhere(tmp_path):
    """As many rows in all, but cut at other places: a part of one side was lost and made anew."""
    a, b = vectors(0, 4), vectors(1, 7)
    write_parts(tmp_path / "a", a)
    other = (5, 3, 9, 4, 1, 6, 2, 7, 4, 7, 5, 10)
    write_parts(tmp_path / "b", b, rows=other)
    write_parts(tmp_path / "late", b, first=1)
    for side, said in {"b": "_8.npy has 3 rows, .*_8.npy has 4", "late": "_0.npy.*_1.npy"}.items():
        with pytest.raises(DataError, match=said):
            load("latents", tmp_path, "train", image_latents="a", text_latents=side)


def test_the_rows_of_parts():
    """A row, a slice or a list of rows of parts differs from that of one array."""
    x = vectors(2, 6, np.float32)
    parts = data_latents.Parts(np.split(x, np.cumsum(ROWS)[:-1]))
    assert (len(parts), parts.shape, parts.dtype) == (63, (63, 6), np.float32)
    for i in (0, 4, 5, 62, slice(3, 40), slice(60, 99), np.array([61, 0, 8, 8, 5])):
        assert np.array_equal(parts[i], x[i])
    assert parts[np.array([], int)].shape == (0, 6)
    with pytest.raises(IndexError):
        parts[63]


def test_parts_stay_on_disk(tmp_path):
    """Parts are joined in memory: seven gigabytes for the pairs of CC3M."""
    x = np.random.default_rng(0).standard_normal((60_000, 32)).astype(np.float16)
    write_parts(tmp_path / "a", x, rows=(20_000, 30_000, 10_000))
    tracemalloc.start()
    found, _ = data_latents.open_vectors(str(tmp_path / "a"), 2, "f")
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 200_000 < x.nbytes and np.array_equal(found[20_000], x[20_000])


def test_the_key_follows_every_part(tmp_path):
    """One part is encoded anew, and the baselines of the old one are used."""
    write_parts(tmp_path / "a", vectors(0, 4))
    np.save(tmp_path / "b.npy", vectors(1, 7))
    key = lambda: load("latents", tmp_path, "val", image_latents="a", text_latents="b.npy").key
    before = key()
    os.utime(tmp_path / "a" / "img_emb_9.npy", (1, 1))
    assert key() != before


# --------------------------------------------------------------------------------------------------
# tensors, and what encoders leave


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("new", [True, False])
def test_a_tensor_of_torch(tmp_path, dtype, new):
    """A .pt file is refused, or its 16-bit numbers are read as others."""
    a, b = torch.from_numpy(vectors(0, 4)).to(dtype), vectors(1, 7)
    torch.save(a.requires_grad_(), tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    np.save(tmp_path / "b.npy", b)
    check_rows(tmp_path, a.detach().float().numpy(), b, image_latents="a.pt", text_latents="b.npy")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_nothing_is_unpickled(tmp_path):
    """A stranger's .pt file runs a program; or a dict of weights is taken for latents."""
    np.save(tmp_path / "b.npy", vectors(1, 7))
    trap = Trap(str(tmp_path / "caught"))
    (tmp_path / "old.pt").write_bytes(pickle.dumps(trap, protocol=2))
    torch.save({"x": trap}, tmp_path / "new.pt")
    torch.save({"x": torch.ones(63, 4)}, tmp_path / "dict.pt")
    torch.save(torch.ones(63, 4).to_sparse(), tmp_path / "sparse.pt")
    said = {
        "old.pt": "pickled objects, which may run any program and are not opened; save one tensor",
        "new.pt": "pickled objects, which may run any program and are not opened; save one tensor",
        "dict.pt": "holds a dict; save one tensor x by torch.save",
        "sparse.pt": "holds a sparse tensor; save one",
        "absent.pt": "absent.pt: no such file",
    }
    for file, message in said.items():
        with pytest.raises(DataError, match=message) as caught:
            load("latents", tmp_path, "train", image_latents=file, text_latents="b.npy")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "caught").exists()


def test_an_axis_of_one_is_left_out_with_a_word(tmp_path, capsys, monkeypatch):
    """(N, 1, h) is refused, or changed in silence, or said again for every part."""
    monkeypatch.setattr(data_files, "SAID", set())
    a, b = vectors(0, 4), vectors(1, 7)
    write_parts(tmp_path / "a", a[:, None])
    np.save(tmp_path / "b.npy", b)
    check_rows(tmp_path, a, b, image_latents="a", text_latents="b.npy")
    said = capsys.readouterr().err
    assert said.count("_0.npy: (5, 1, 4) is read as (5, 4), without its axis of 1") == 1
    assert said.count("axis of 1") == 1 and "float16 (63, 4) in 12 parts and" in said


# --------------------------------------------------------------------------------------------------
# a run from Python


@pytest.fixture(scope="module")
def run(trained, pair_files, tmp_path_factory):  # noqa: F811
    """A translator's run whose data are gone, and whose encoders cannot be made."""
    folder = tmp_path_factory.mktemp("moved") / "run"
    folder.mkdir()
    shutil.copy(trained() / "model.pt", folder)  # the checkpoint alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "from_state", lambda *a, **k: pytest.fail("an encoder was made"))
        patch.setattr(runs.data, "load", lambda *a, **k: pytest.fail("data were read"))
        run = load_run(str(folder))
        run.translate(T2I, np.ones((3, 7)))
    return run


def test_translate_new_vectors(run):
    """Eq. 5 of new vectors is not that of the tables, or hangs on how they were handed over."""
    c = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)
    z_hat = run.translate(T2I, c, seed=4)
    assert z_hat.shape == (5, 11) and z_hat.dtype == torch.float32
    net, args = run.translators[T2I], run.args
    how = {"K": args.K, "steps": args.ddim_steps, "omega": args.omega}
    cM, F = net.terms(torch.from_numpy(c), randn=runs.cpu_randn(4), **how)
    expected = run.length[T2I] * (cM + run.gamma[T2I] * F) / net.z_scale
    assert torch.allclose(z_hat, expected, atol=1e-6)
    same = [torch.from_numpy(c), c.astype(">f8"), c[::-1].copy()[::-1], c.tolist()]
    same.append(torch.from_numpy(c).requires_grad_())
    for given in same:
        found = run.translate(T2I, given, seed=4)
        assert torch.equal(found, z_hat) and not found.requires_grad
    assert run.translate(I2T, np.ones((1, 11), np.float16)).shape == (1, 7)
    assert run.translate(I2T, np.ones((0, 11))).shape == (0, 7)


def test_translate_says_what_is_wrong(run, tmp_path):
    """A slip ends deep inside of torch, or as NaN in the answer."""
    c = np.ones((5, 7))
    holes = c.copy()
    holes[3, 2] = np.nan
    cases = [
        ("text-image", c, RunError, "no direction 'text-image'; it has text->image, image->text"),
        (I2T, c, DataError, r"image->text takes \(N, 11\), this is \(5, 7\)$"),
        (T2I, c[0], DataError, r"takes \(N, 7\), this is \(7,\); one item x is x\[None\]"),
        (T2I, 3.0, DataError, r"takes \(N, 7\), this is \(\)"),
        (T2I, holes, DataError, "row 3 holds NaN or Inf"),
        (T2I, c * 1e300, DataError, "row 0 holds NaN or Inf"),
        (T2I, [["a dog"]], DataError, "these are no arrays of numbers"),
    ]
    for direction, given, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            run.translate(direction, given)
        assert "\n" not in str(caught.value) and run.folder in str(caught.value)
    with pytest.raises(RunError, match="nowhere: no such folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="no such checkpoint"):
        load_run(tmp_path)
    with pytest.raises(DeviceError, match="--device cuda:77"):
        load_run(run.folder, "cuda:77")


def test_an_unfinished_run_does_not_translate(trained, tmp_path):  # noqa: F811
    """A run that was killed answers with weights of the middle of its training."""
    saved = torch.load(trained() / "model.pt", weights_only=True)
    saved["learners"][T2I]["gamma"] = None
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(RunError, match="training has not ended"):
        load_run(tmp_path)


def test_encoders_are_made_when_they_are_needed(run, trained):  # noqa: F811
    """The words of a run with encoders cannot be encoded, or vectors need CLIP's weights."""
    assert "E_text" not in vars(run) and run.dims == {T2I: (7, 11), I2T: (11, 7)}
    assert load_run(trained()).E_text.spec == "none"


def test_a_bridge_translates(bridge_files, tmp_path, monkeypatch):  # noqa: F811
    """A bridge's answers are not in the units of its data, or K samples are not averaged."""
    monkeypatch.setattr(evaluate_bridge, "main", lambda argv: None)
    monkeypatch.setattr(train_bridge, "draw_losses", lambda *a: None)
    # From pictures to vectors: both units are to be undone.
    where = f"--dataset pairs --source-dir {bridge_files}/x --target-dir {bridge_files}/y"
    small = "--tokens 4 --dim 6 --width 16 --heads 2 --layers 1 --conv 16 --batch 16 --steps 3"
    train_bridge.main(f"{where} {small} --out {tmp_path}/run --device cpu".split())
    run = load_run(f"{tmp_path}/run")
    y = np.random.default_rng(3).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    x_hat = run.translate("y->x", y, seed=2, K=3, steps=4)
    net, randn = run.bridges["y->x"], runs.cpu_randn(2)
    draws = [net.sample(torch.from_numpy(y), steps=4, randn=randn)[0] for _ in range(3)]
    expected = torch.stack(draws).mean(0) / net.x_scale + net.x_mean
    assert x_hat.shape == (5, 7) and torch.allclose(x_hat, expected, atol=1e-5)
    assert run.translate("y->x", y[:0]).shape == (0, 7)
    with pytest.raises(DataError, match="takes pixels from 0 to 255, here the largest is 1"):
        run.translate("y->x", y / y.max())
    with pytest.raises(DataError, match=r"y->x takes \(N, 1, 8, 8\), this is \(5, 8, 8\)"):
        run.translate("y->x", y[:, 0])
    with pytest.raises(RunError, match="no direction 'text->image'; it has y->x"):
        run.translate(T2I, y)


# --------------------------------------------------------------------------------------------------
# README


def test_readme_example(tmp_path, monkeypatch):
    """README's first lines with one's own vectors fail, or train on something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.evaluate, "main", lambda argv: None)
    monkeypatch.setattr(train, "draw_losses", lambda *args: None)
    block = re.search(r"```python\n(.*?load_run.*?)```", (ROOT / "README.md").read_text(), re.S)
    code = block[1]
    assert code.count("--out runs/mine") == 1
    tiny = "--out runs/mine --steps 3 --width 16 --layers 2 --batch 16 --K 2 --ddim-steps 2"
    rng = np.random.default_rng(5)
    A = rng.standard_normal((90, 6)).astype(np.float32)
    B = np.tanh(A @ rng.standard_normal((6, 4))).astype(np.float32)
    names = {"A": A, "B": B, "new": B[:8]}
    exec(code.replace("--out runs/mine", tiny), names)
    assert names["z_hat"].shape == (8, 6) and names["rows"].shape == (8, 5)
    # Three steps train little, but M is ridge: far above chance, 5 of 90.
    right = (names["rows"] == torch.arange(8)[:, None]).any(1)
    assert right.sum() >= 4
    for call in ("encode_image(", "SentenceTransformer(", ".encode("):
        assert call in code
