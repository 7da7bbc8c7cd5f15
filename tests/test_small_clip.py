"""tables/small_clip.py: a CLIP fitted on flat colours, saved, loaded, interrupted."""

import functools
import runpy
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import encoders
from encoders import make
from errors import EncoderError, InputError
from glyphs import Split
from tables import small_clip
from tables.small_clip import fit_clip

TINY = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 24, "head_width": 12},
    "text_cfg": {"context_length": 7, "layers": 1, "width": 16, "heads": 2},
}
COLOURS = "red green blue yellow cyan magenta black white gray orange purple".split()


tokenizer_of = functools.cache(open_clip.SimpleTokenizer)  # its words are read for 0.3 s


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(small_clip, "SMALL", TINY)
    monkeypatch.setattr(open_clip, "SimpleTokenizer", tokenizer_of)


class Flat(list):
    """Pictures read when asked for: an exception among them is raised."""

    def __getitem__(self, i):
        if isinstance(item := super().__getitem__(i), Exception):
            raise item
        return item


def colours():
    """Eleven colours 40 x 50, captions in another order, and a bare pair that must not be read."""
    images = Flat([Image.new("RGB", (40, 50), c) for c in COLOURS])
    images.append(AssertionError("a bare pair was read"))
    order = np.random.default_rng(0).permutation(11)
    captions = [f"a {COLOURS[i]} wall" for i in order] + ["a wall"]
    pairs = np.array([(11, 11), *zip(order, range(11), strict=True)])
    return Split(images, captions, pairs, np.arange(12) == 0, "")


def fit(out, split=None, steps=3, batch=5, scale=100, seed=0, device="cpu"):
    split = split or colours()
    return fit_clip(split, split, str(out), steps, batch, scale, seed, device)


def cross_entropy(u, v, scale):
    """The symmetric cross-entropy by its definition, in float64."""
    u, v = u.detach().double().numpy(), v.detach().double().numpy()
    logits = np.exp(scale * np.array([[a @ b for b in v] for a in u]))
    return -np.mean(
        [np.log(L[n, n] / L[n].sum()) for L in (logits, logits.T) for n in range(len(u))]
    )


@pytest.mark.parametrize("scale", [20, 0])
def test_it_learns_colours_with_clips_loss(scale, tmp_path, monkeypatch, capsys):
    """Pairs are mixed up, the loss is not the scaled symmetric one, or the scale is not as said."""
    seen = []

    class Spy(open_clip.ClipLoss):
        def forward(self, u, v, s):
            seen.append((u, v, s.item(), super().forward(u, v, s)))
            return seen[-1][-1]

    monkeypatch.setattr(open_clip, "ClipLoss", Spy)
    fit(tmp_path / "clip", steps=120, batch=99, scale=scale, seed=3)
    for u, v, s, loss in seen[::40]:
        assert u.shape == v.shape == (11, 20) and torch.allclose(v.norm(dim=1), torch.ones(11))
        assert abs(loss.item() - cross_entropy(u, v, s)) < 1e-4
    assert seen[-1][3] < 0.3 < 2 < seen[0][3]
    moved = abs(seen[-1][2] - seen[0][2])
    assert abs(seen[0][2] - (scale or 1 / 0.07)) < 1e-4 and (moved < 1e-4 if scale else moved > 0.1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0", "30", "60", "90", "120"]
    paired, unpaired, *_, to_text, to_image, _ = map(float, rows[-1][1:])
    assert paired > unpaired + 0.3 and to_text > 0.9 and to_image > 0.9


def test_alignment_by_hand():
    """A mean, a norm or a direction of `alignment` differs from its definition."""
    u = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
    v = torch.tensor([[0.8, 0.6], [0, -1], [0, 1]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True  # cosines: .8 0 0, .6 -1 1, .96 -.8 .8
    mu, mv = np.array([1.6, 1.8]) / 3, np.array([0.8, 0.6]) / 3
    want = [1.56 / 5, 0.8 / 4, *(np.linalg.norm(x) for x in (mu - mv, mu, mv)), 2 / 3, 1 / 3]
    assert np.allclose(list(small_clip.alignment(u, v, same).values()), want, atol=1e-6)


def test_the_folder_is_the_model(tmp_path):
    """What `make` loads has other weights, tokens or pixels than what was fitted."""
    model, split = fit(tmp_path / "new" / "clip"), colours()
    image, text = (make(f"clip:local-dir:{tmp_path}/new/clip", m) for m in encoders.SPECS)
    transform = open_clip.image_transform(32, is_train=False, mean=[0.5] * 3, std=[0.5] * 3)
    pictures = split.images[:11]
    with torch.no_grad():
        z = model.encode_image(torch.stack([transform(x) for x in pictures])).numpy()
        y = model.encode_text(open_clip.tokenize(split.captions, context_length=7)).numpy()
        u, v = small_clip.embed_pairs(model, [small_clip.pair_reader(split)(4)])
    assert np.array_equal(image(pictures), z) and np.array_equal(text(split.captions), y)
    for found, w in zip((u, v), (z[split.pairs[4, 0]], y[split.pairs[4, 1]]), strict=True):
        assert np.allclose(found, w / np.linalg.norm(w), atol=1e-5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clip"]


def test_a_seed_decides(tmp_path):
    """Two runs of one seed differ, or two seeds start and draw alike."""
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        fit(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / k / "open_clip_model.safetensors").read_bytes() for k in "abc")
    assert a == b != c


def test_broken_images(tmp_path, capsys):
    """One broken picture in 150 stops the fit, or many do not."""
    images = Flat([Image.new("L", (9, 12), n) for n in range(150)])
    images[70] = OSError("70.png: cut off")
    pairs = np.stack([np.arange(150)] * 2, 1)
    split = Split(images, [f"grey {n}" for n in range(150)], pairs, np.zeros(150, bool), "")
    fit(tmp_path / "clip", split, batch=50)
    out, err = capsys.readouterr()
    assert "149 pairs" in out and "the first: 70.png" in err
    images[::2] = [OSError("even.png")] * 75
    with pytest.raises(EncoderError, match="more than 1 % of images cannot be read"):
        fit(tmp_path / "other", split, batch=50)


@pytest.mark.parametrize("error, raised", [(KeyboardInterrupt,) * 2, (OSError, EncoderError)])
def test_nothing_half_written(error, raised, tmp_path, monkeypatch):
    """A fit that was stopped, or a full disk, leaves what looks like a checkpoint."""

    def stop(path, config):  # after the weights
        raise error("no space")

    monkeypatch.setattr(small_clip, "write_json", stop)
    with pytest.raises(raised, match="no space"):
        fit(tmp_path / "clip")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_own_survives(tmp_path, monkeypatch):
    """A fit that fails, or that ends well, removes somebody's folder `clip.part`."""
    (tmp_path / "clip.part").mkdir()
    (tmp_path / "clip.part" / "thesis.txt").write_text("all I have")
    with monkeypatch.context() as patch, pytest.raises(EncoderError, match="no space"):
        patch.setattr(small_clip, "save_clip", full)
        fit(tmp_path / "clip")
    fit(tmp_path / "clip")
    assert (tmp_path / "clip.part" / "thesis.txt").read_text() == "all I have"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "clip.part"]
    # Others of a group can read the model, as any other file of hers.
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "clip").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def full(model, folder):
    raise OSError(28, "no space")


def test_small_sets(tmp_path, capsys):
    """A validation split of one pair prints nan, and none at all is an IndexError at the end."""
    split, one, none = colours(), colours(), colours()
    one = one._replace(bare=np.arange(12) != 5)
    none = none._replace(bare=np.ones(12, bool))
    fit_clip(split, one, str(tmp_path / "a"), 1, 5, 100, 0, "cpu")
    out = capsys.readouterr().out
    assert "validation, 1 pairs" in out and "nan" not in out
    for train, val, told in [
        (split, none, "needs 1 pairs for val, got 0"),
        (one, split, "needs 2 pairs for train, got 1"),
    ]:
        with pytest.raises(EncoderError, match=told):
            fit_clip(train, val, str(tmp_path / "b"), 1, 5, 100, 0, "cpu")


def test_bad_input(tmp_path):
    """A folder is overwritten, or a wrong value ends in a stack trace."""
    (tmp_path / "old").mkdir()
    (tmp_path / "file").write_text("")
    vectors = colours()._replace(captions=np.zeros((12, 2)))
    for out, how, message in [
        ("old/", {}, "old exists: remove it"),
        ("file/clip", {}, "cannot write .*file/clip"),
        ("new", {"steps": 0}, "needs 1 or more steps"),
        ("new", {"batch": 1}, "needs 1 or more steps"),
        ("new", {"scale": float("nan")}, "needs 1 or more steps"),
        ("new", {"device": "nowhere"}, "--device nowhere"),
        ("new", {"seed": -1}, "--seed -1: it has to be between"),
        ("new", {"split": vectors}, "these are vectors"),
    ]:
        with pytest.raises(InputError, match=message):
            fit(f"{tmp_path}/{out}", **how)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    """The script cannot read a data set, loses a flag, or hides what is missing."""
    for n, colour in enumerate(COLOURS):
        Image.new("RGB", (40, 50), colour).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,a {colour} wall" for n, colour in enumerate(COLOURS)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    base = "small_clip.py --steps 2 --batch 3 --logit-scale 25 --dataset captions".split()
    base += ["--out", f"{tmp_path}/clip", "--data-dir"]
    for folder, message in [("", None), ("", "clip exists"), ("/no", "captions not found")]:
        monkeypatch.setattr(sys, "argv", [*base, f"{tmp_path}{folder}"])
        if message is None:
            runpy.run_path(small_clip.__file__, run_name="__main__")
            *_, row, last = capsys.readouterr().out.splitlines()
            assert row.endswith("25.000") and f"clip:local-dir:{tmp_path}/clip" in last
            assert make(f"clip:local-dir:{tmp_path}/clip", "text").dim == 128
            continue
        with pytest.raises(SystemExit, match=f"(?s)small_clip.py: .*{message}"):
            runpy.run_path(small_clip.__file__, run_name="__main__")
