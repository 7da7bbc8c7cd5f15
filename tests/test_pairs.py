"""Pairs (y, x) of data.py: glyphs, solids, and every layout on disk as a tiny tree written here."""

import math
import os
import re
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

import data
import data_arrays
import data_files
import data_pairs
import glyphs
from data import load
from data_pairs import load_pairs
from errors import DataError
from glyphs import silhouettes, visual_hull

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def solids():
    p = load_pairs("glyph-solids", split="val")
    return p.of(np.arange(len(p.x)))


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_small_glyphs_are_block_means():
    """The source of glyph-sr is not its own target made small, or the order of glyphs is lost."""
    p, glyphs = load_pairs("glyph-sr", split="val"), load("glyphs", split="val").images
    assert p.y.shape[1:] == (1, 8, 8) and p.x.shape[1:] == (1, 32, 32) and p.y.dtype == np.uint8
    assert len(p.y) == len(p.x) == len(glyphs)
    for n in (3, 700):
        assert (p.x[n, 0] == np.asarray(glyphs[n])).all()
        for i in range(8):
            for j in range(8):
                block = [int(v) for v in p.x[n, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flat]
                assert abs(int(p.y[n, 0, i, j]) - sum(block) / 16) <= 0.5
    y, x = p.of(np.array([5, 2]))
    assert (y == p.y[[5, 2]]).all() and (x == p.x[[5, 2]]).all()


def test_outline_by_hand():
    """An outline misses a side, takes corners for neighbours, or ends at the picture's border."""
    x = np.zeros((1, 1, 5, 6), np.uint8)
    x[0, 0, 0:4, 1:5] = [[200] * 4] * 4
    x[0, 0, 2, 4], x[0, 0, 4, 0] = 127, 128  # a dent of an almost inside pixel; a lone pixel
    # (1, 3) keeps all four neighbours although (2, 4), a corner of it, is outside
    drawn = [".####.", ".#..#.", ".#.#..", ".####.", "#....."]
    assert glyphs.outline(x)[0, 0].tolist() == [[255 * (c == "#") for c in row] for row in drawn]
    p = load_pairs("glyph-edges", split="val")
    assert (p.y == glyphs.outline(p.x)).all() and (p.y <= np.where(p.x >= 128, 255, 0)).all()


def test_faces_show_the_same_character():
    """A sans letter is paired with another letter of the serif face."""
    p, glyphs = load_pairs("glyph-faces", split="test"), load("glyphs", split="test")
    named = {glyphs.captions[n]: np.asarray(glyphs.images[n]) for n in range(len(glyphs.images))}
    full = "serif bold italic "
    both = [c[len(full) :] for c in named if c.startswith(full)]
    both = sorted((unicodedata.lookup(c), c) for c in both if "sans " + c in named)
    assert len(p.x) == len(both) > 100
    for n, (_, name) in enumerate(both):
        assert (p.y[n, 0] == named["sans " + name]).all()
        assert (p.x[n, 0] == named[full + name]).all()


def test_solids_share_no_character(monkeypatch):
    """A letter is trained on and tested on; or what is no letter is among the solids."""
    seen = {}
    two = {"DejaVuSans-Bold": "sans bold", "DejaVuSerif-Bold": "serif bold"}
    monkeypatch.setattr(glyphs, "FACES", two)
    for split in SPLITS:
        codes = seen[split] = set()

        def record(font, code, codes=codes):
            codes.add(int(code))
            return np.ones((1, 1), bool)

        monkeypatch.setattr(glyphs, "letter", record)
        monkeypatch.setattr(glyphs, "solid", lambda *a: np.ones((32, 32, 32), bool))
        load_pairs("glyph-solids", split=split)
        assert (glyphs.split_of_character(list(codes)) == glyphs.SPLITS[split]).all()
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["val"]
    everything = set().union(*seen.values())
    found = {unicodedata.category(chr(c)) for c in everything}
    assert found == set("Lu Ll Lt Lm Lo Nd".split())
    assert everything > {ord(c) for c in "aZ7"} and ord("!") not in everything


def test_solids_fill_the_frame_and_are_not_cut(solids):
    """Solids are small in their grid, or a turned one leaves it and its silhouettes lie."""
    y, x = solids
    assert x.dtype == bool and x.any((1, 2, 3)).all()
    i, j = np.mgrid[:32, :32]
    assert not x.any((0, 1))[np.hypot(i - 15.5, j - 15.5) >= 15.5].any()
    assert not y[..., [0, -1]].any() and not x[:, [0, 1, 30, 31]].any()
    height = x.any((2, 3)).sum(1)
    width = (y > 0).any((2, 3)).sum(2).max(1)  # of the best of four views
    size = np.maximum(height, width)  # thin ends of strokes cover no half voxel: 26 is usual
    assert height.max() == 28 and np.median(size) == 28 and (size >= 24).mean() > 0.95
    assert (silhouettes(x) == y).all()


def test_solid_by_hand():
    """A solid is upside down, mirrored, of the wrong thickness, or turned the wrong way."""
    mask = np.zeros((28, 20), bool)
    mask[:4], mask[4:, :6] = True, True  # a Gamma, heavy on top and on the left
    straight = glyphs.solid(mask, 8, 0.0)
    expected = np.zeros((32, 32, 32), bool)
    expected[2:6, 6:26, 12:20], expected[6:30, 6:12, 12:20] = True, True
    assert (straight == expected).all()
    # a quarter turn: what stood at small i stands at small j
    assert (glyphs.solid(mask, 8, np.pi / 2) == expected.transpose(0, 2, 1)).all()
    views = silhouettes(glyphs.solid(mask, 4, np.radians(135))[None])[0, :, 0]  # (4, 32, 32)
    assert (views > 0).any(1).sum(1)[[1, 3]].tolist() == [4, 20]  # edge on; broad side


def test_poses_differ_and_repeat(monkeypatch):
    """Poses are copies, change from call to call, depend on other letters, or reach the tests."""
    monkeypatch.setattr(glyphs, "LETTERS", ["Nd"])
    one, three, again = (load_pairs("glyph-solids", poses=n) for n in (1, 3, 3))
    assert len(three.x) == 3 * len(one.x) and three.key == again.key != one.key
    assert (three.y[::3] == one.y).all() and (three.y == again.y).all()
    volumes = three.of(np.arange(len(three.x)))[1]
    assert len(np.unique(volumes.reshape(len(volumes), -1), axis=0)) == len(volumes)
    test = [load_pairs("glyph-solids", split="test", poses=n) for n in (1, 3)]
    assert test[0].key == test[1].key and len(test[0].x) == len(test[0].y)
    monkeypatch.setattr(glyphs, "FACES", {"DejaVuSans-Bold": "sans bold"})
    alone = load_pairs("glyph-solids", poses=1)
    assert (alone.y == one.y[: len(alone.y)]).all() and len(alone.y) < len(one.y)


def test_silhouettes_by_loops():
    """A silhouette is turned the wrong way, rounds differently, or mixes heights and columns."""
    rng = np.random.default_rng(1)
    volumes = rng.random((3, 32, 32, 32)) < 0.002
    volumes[0, 4, 5, 26] = volumes[1, 9, 7, 7] = True  # halves: on the axis of view 1, of view 3
    expected = np.zeros((3, 4, 1, 32, 32), np.uint8)
    for b, k, i, j in np.argwhere(volumes):
        root = math.sqrt(2)  # p + q = i + j - 31 and q - p = j - i
        columns = i, (i + j - 31) / root + 15.5, j, (j - i) / root + 15.5
        for v, u in enumerate(columns):
            expected[b, v, 0, k, min(max(math.floor(u + 0.5), 0), 31)] = 255
    assert (silhouettes(volumes) == expected).all()


def test_hull_contains_the_shape(solids):
    """The hull cuts shapes off, is no better than the bounding box, or claims to be the shape."""
    y, x = solids
    hull = visual_hull(y)
    assert hull.dtype == bool and (hull | ~x).all()
    assert (silhouettes(hull) == y).all()  # nothing to see in the views tells the two apart
    iou = (hull & x).sum((1, 2, 3)) / hull.sum((1, 2, 3))
    assert 0.65 < iou.mean() < 0.8


def test_hull_of_a_box():
    """The hull misses what all views agree on: a box on the axes has itself for a hull at 0, 90."""
    box = np.zeros((2, 32, 32, 32), bool)
    box[0, 3:9, 12:20, 6:26], box[1, 20:31, 10:15, 18:22] = True, True
    views = silhouettes(box)
    views[:, [1, 3]] = 255  # the two straight views alone
    assert (visual_hull(views) == box).all()
    views[0, 1] = 0  # seen as empty once: nothing can be there
    assert not visual_hull(views)[0].any() and (visual_hull(views)[1] == box[1]).all()


# --------------------------------------------------------------------------------------------------
# layouts on disk


def everything(name, root=None, **options):
    """{file of x: (y, x)} over the three splits; asserts that they share none."""
    found = {}
    for split in SPLITS:
        p, again = (load_pairs(name, root and str(root), split, **options) for _ in range(2))
        assert len(p.y) == len(p.x) > 0 and p.key == again.key
        for i in range(len(p.x)):
            assert p.x.name(i) not in found
            y, x = p.of(np.array([i]))
            assert (again.of(np.array([i]))[1] == x).all()
            found[p.x.name(i)] = y[0], x[0]
    return {os.path.relpath(k, root): v for k, v in found.items()}


@pytest.mark.parametrize("name", ["celebahq", "ffhq"])
def test_faces_on_disk(tmp_path, name):
    """A photo is squeezed instead of cropped, its small copy is another's, or one is not found."""
    shapes, files = [(18, 24), (30, 20), (17, 17)], ["a.jpg", "b.PNG", "c.png"]
    for n in range(12):
        save(
            tmp_path / ["", "0", "1/2"][n % 3] / f"{n}{files[n % 3]}",
            noise(*shapes[n % 3], 3, seed=n),
        )
    (tmp_path / "notes.txt").write_text("no picture")
    found = everything(name, tmp_path, size=16)
    assert len(found) == 12 and {y.shape + x.shape for y, x in found.values()} == {
        (3, 2, 2, 3, 16, 16)
    }
    y, x = found[os.path.join("0", "4b.PNG")]
    square = Image.fromarray(noise(30, 20, 3, seed=4)[5:25]).resize((16, 16), Image.BICUBIC)
    assert (x == np.moveaxis(np.asarray(square), 2, 0)).all()
    assert (y == np.moveaxis(np.asarray(square.resize((2, 2), Image.BICUBIC)), 2, 0)).all()
    small, large = load_pairs(name, str(tmp_path), size=16), load_pairs(name, str(tmp_path))
    assert large.x[0].shape == (3, 128, 128) and large.key != small.key


def test_handbags_on_disk(tmp_path):
    """Edges and photo are exchanged, the two parts are mixed, or val is cut out of test."""
    for n in range(13):
        both = np.full((256, 512, 3), 20 + n, np.uint8)
        both[:, 256:] = 230, 100, 10 * n
        save(tmp_path / ("val" if n < 2 else "train") / f"{n}_AB.jpg", both)
    found = everything("edges2handbags", tmp_path, size=16)
    assert len(found) == 13 and found["val/1_AB.jpg"][0].shape == (3, 16, 16)
    y, x = found["train/5_AB.jpg"]
    assert np.abs(y - 25.0).max() < 3 and np.abs(x.mean((1, 2)) - [230, 100, 50]).max() < 3
    test = load_pairs("edges2handbags", str(tmp_path), "test")
    assert [os.path.basename(test.x.name(i)) for i in range(2)] == ["0_AB.jpg", "1_AB.jpg"]
    assert len(test.x) == 2 and test.x[0].shape == (3, 64, 64)


def write_binvox(path, volume):
    """volume [x, y, z], run by run: y fastest, then z, then x, as binvox's own page says."""
    (X, Y, Z), out = volume.shape, bytearray()
    values = volume.transpose(0, 2, 1).ravel()
    ends = [*(np.flatnonzero(values[1:] != values[:-1]) + 1), len(values)]
    for start, end in zip([0, *ends], ends, strict=False):  # of runs of one value
        for k in range(start, end, 255):  # a length is one byte
            out += bytes([int(values[start]), min(255, end - k)])
    head = f"#binvox 1\ndim {X} {Z} {Y}\ntranslate -0.5 0 -0.25\nscale 1\ndata\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.encode() + bytes(out))


def test_binvox(tmp_path):
    """A shape lies on its side, is mirrored, or its runs are read as voxels."""
    volume = np.random.default_rng(2).random((3, 7, 5)) < 0.4
    write_binvox(tmp_path / "a.binvox", volume)
    found = data_pairs.read_binvox(tmp_path / "a.binvox")
    assert found.shape == (7, 3, 5) and found.dtype == bool
    for x, y, z in np.ndindex(volume.shape):
        assert found[6 - y, x, z] == volume[x, y, z]
    write_binvox(tmp_path / "b.binvox", np.ones((10, 10, 10), bool))  # runs longer than a byte
    assert data_pairs.read_binvox(tmp_path / "b.binvox").all()


def shapes_tree(top, models=11):
    for n in range(models):
        volume = np.zeros((32, 32, 32), bool)
        volume[n : n + 3, 2:9, 10] = True
        write_binvox(top / f"ShapeNetVox32/0{n % 2}/m{n}/model.binvox", volume)
        for v in range(3):
            view = np.full((137, 137, 4), 255, np.uint8)  # opaque white over grey 240 on the right
            view[:, 68:] = 7, 7, 7, 0
            view[4, 4], view[3] = (10 * n, v, 99, 255), (0, 0, 0, 255)
            save(top / f"ShapeNetRendering/0{n % 2}/m{n}/rendering/0{v}.png", view)


def test_shapenet_on_disk(tmp_path):
    """Views are those of another model or out of order, or transparent pixels become black."""
    shapes_tree(tmp_path)
    write_binvox(tmp_path / "ShapeNetVox32/00/unseen/model.binvox", np.ones((32, 32, 32), bool))
    found = everything("shapenet", tmp_path, views=3, size=128)
    assert len(found) == 11  # without the model that has no renderings
    y, x = found["ShapeNetVox32/01/m3/model.binvox"]
    assert y.shape == (3, 3, 128, 128) and y[:, :, 0, 0].tolist() == [[30, v, 99] for v in range(3)]
    assert (y[:, :, 1:, :64] == 255).all() and (y[:, :, :, 64:] == 240).all()
    assert x.sum() == 21 and x[23:30, 3:6, 10].all()
    assert load_pairs("shapenet", str(tmp_path), views=2).y[0].shape == (2, 3, 64, 64)


def folders_tree(top, n=12):
    """source/I.png (C, H, W) = (1, 4, 6), target/I.npy (5,); each also has a file of its own."""
    for i in range(n):
        save(top / f"source/{i}.png", noise(4, 6, seed=i))
        (top / "target").mkdir(exist_ok=True)
        np.save(top / f"target/{i}.npy", np.arange(5.0) + i)
    save(top / "source/lonely.png", noise(4, 6))
    np.save(top / "target/single.npy", np.zeros(5))


def test_folders_on_disk(tmp_path):
    """Files of unequal stems are paired, or an array changes its shape or its numbers."""
    folders_tree(tmp_path)
    found = everything("pairs", tmp_path)
    assert sorted(found) == sorted(f"target/{i}.npy" for i in range(12))
    for i in range(12):
        y, x = found[f"target/{i}.npy"]
        assert (y == noise(4, 6, seed=i)[None]).all() and x.dtype == np.float32
        assert (x == np.arange(5) + i).all()
    arrays = dict(a=noise(2, 3, 9), b=np.ones((7, 6)), c=np.ones((5, 6, 7), bool), d=noise(3, 2))
    for name, array in arrays.items():
        np.savez(tmp_path / f"{name}.npz", array)
        read = data_arrays.read_array_or_picture(str(tmp_path / f"{name}.npz"))
        assert (read == array).all() and read.shape == (1, *array.shape)[-3:]
    keys = {load_pairs("pairs", str(tmp_path), s).key for s in SPLITS}
    for i in range(12):
        np.save(tmp_path / f"target/{i}.npy", np.arange(6.0) * i)
    assert len(keys | {load_pairs("pairs", str(tmp_path), s).key for s in SPLITS}) == 6
    swapped = dict(source_dir=tmp_path / "target", target_dir=tmp_path / "source")
    assert load_pairs("pairs", **{k: str(v) for k, v in swapped.items()}).x[0].shape == (1, 4, 6)


def cut(b):
    return b[: len(b) // 2]


def tree(top, name):
    """A sound tree of that name, and the options that go with it."""
    if name == "shapenet":
        shapes_tree(top)
    elif name == "pairs":
        folders_tree(top)
    else:
        for n in range(12):
            part = "" if name == "ffhq" else "val" if n == 0 else "train"
            save(top / part / f"{n}.png", noise(8, 16, 3, seed=n))
    return {"shapenet": dict(views=2), "ffhq": dict(size=16)}.get(name, {})


VIEW = "ShapeNetRendering/00/m2/rendering/01.png"
VOXELS, PAIR = "ShapeNetVox32/00/m2/model.binvox", "target/4.npy"


@pytest.mark.parametrize(
    "name, file, content, said",
    [  # content: a function of the file's bytes, or an array to store there
        ("shapenet", VIEW, cut, "m2.rendering.01.png: cannot read"),
        ("shapenet", VIEW, noise(64, 65, 4), "m2.rendering.01.png.*137"),
        ("shapenet", VOXELS, lambda b: b[:-1], "m2.model.binvox: not a whole"),
        ("shapenet", VOXELS, lambda b: b[:-2], "m2.model.binvox: not a whole"),
        ("shapenet", VOXELS, lambda b: b.replace(b"#binvox", b"#others"), "m2.model.binvox"),
        ("shapenet", VOXELS, np.ones((16, 16, 16), bool), "m2.model.binvox.*16.*32"),
        ("ffhq", "3.png", cut, "3.png: cannot read"),
        ("edges2handbags", "train/2.png", noise(8, 15, 3), "2.png: 15 x 8"),
        ("pairs", PAIR, np.array([1, np.nan, 3, 4, 5]), "4.npy: .*NaN"),
        ("pairs", PAIR, np.array([1, 2, 3, 4, 1e39]), "4.npy: .*3e38"),
        ("pairs", PAIR, np.arange(4.0), "4.npy: float32 .4,.*float32 .5,"),
        ("pairs", PAIR, np.arange(5), "4.npy: int64"),
        ("pairs", PAIR, np.array([{}] * 5), "4.npy.*allow_pickle"),
        ("pairs", "source/2.png", noise(4, 7, 3), "2.png: uint8 .3, 4, 7"),
        ("pairs", "source/2.npy", np.ones(3), "source: two files of one stem"),
    ],
)
def test_bad_file_is_named(tmp_path, name, file, content, said):
    """A bad file passes, ends in a traceback, or the message does not say which one it is."""
    options, path = tree(tmp_path, name), tmp_path / file
    if callable(content):
        path.write_bytes(content(path.read_bytes()))
    else:
        {".png": save, ".npy": np.save, ".binvox": write_binvox}[path.suffix](path, content)
    with pytest.raises(DataError, match="(?s)" + said):
        everything(name, tmp_path, **options)


def test_missing_is_explained(tmp_path, monkeypatch):
    """What is missing, or nobody's pair, is not explained."""
    needs = dict(celebahq="CelebA-HQ", ffhq="70,000", edges2handbags="512 x 256", shapenet="binvox")
    for name, said in dict(needs, pairs="A/STEM").items():
        for root in (str(tmp_path), str(tmp_path / "nowhere"), None):
            with pytest.raises(DataError, match="(?s)" + said):
                load_pairs(name, root)
    folders_tree(tmp_path, n=3)
    for i in range(3):
        (tmp_path / f"source/{i}.png").rename(tmp_path / f"source/s{i}.png")
    with pytest.raises(DataError, match="lonely.png, .*s0.png .*0.npy, .*1.npy"):
        load_pairs("pairs", str(tmp_path))
    for wrong in (dict(name="mnist"), dict(name="glyph-sr", split="dev")):
        with pytest.raises(DataError, match="glyph-solids.*ffhq|train, val, test"):
            load_pairs(**wrong)
    monkeypatch.setattr(glyphs, "LETTERS", ["Nd"])
    with pytest.raises(DataError, match="poses=0"):
        load_pairs("glyph-solids", poses=0)


# --------------------------------------------------------------------------------------------------
# What real folders hold


def two_folders(top, targets, sources=None):
    """source/000.npy, target/000.npy, ... of arrays, or .png of what has the kind of pictures."""
    for n, target in enumerate(targets):
        for side, array in (
            ("source", sources[n] if sources else np.ones(3) * n),
            ("target", target),
        ):
            (top / side).mkdir(parents=True, exist_ok=True)
            np.save(top / side / f"{n:03}.npy", array)


LAYOUTS = {  # shape of the array -> shape of the item
    (7,): (7,),
    (1, 7): (7,),
    (7, 1): (7,),
    (1, 1, 7): (7,),
    (1, 1): (1,),
    (6, 7): (1, 6, 7),
    (1, 6, 7): (1, 6, 7),
    (6, 7, 1): (1, 6, 7),
    (3, 6, 7): (3, 6, 7),
    (6, 7, 3): (3, 6, 7),
    (6, 7, 4): (4, 6, 7),
    (6, 7, 8): (6, 7, 8),
    (1, 6, 7, 8): (6, 7, 8),
    (1, 6, 7, 3): (3, 6, 7),
    (1, 3, 6, 7): (3, 6, 7),
    (5, 3, 6, 7): (5, 3, 6, 7),
    (5, 6, 7, 3): (5, 3, 6, 7),
}


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
def test_which_axis_is_what(tmp_path, shape, monkeypatch, capsys):
    """A colour picture is taken for a volume, an embedding for a picture, or this is not said."""
    monkeypatch.setattr(data_files, "SAID", set())
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "a.npy", array)
    found = data_arrays.read_array_or_picture(str(tmp_path / "a.npy"))
    assert found.shape == LAYOUTS[shape]
    # Channels last are moved; all else keeps the order of its numbers.
    moved = shape[-1] in (3, 4) and len(shape) > 2 and LAYOUTS[shape][-1] == 7
    expected = np.moveaxis(array, -1, -3) if moved else array
    assert (found == expected.reshape(found.shape)).all()
    squeezed = array.reshape(shape[1:]) if len(shape) == 4 and shape[0] == 1 else array
    told = capsys.readouterr().err
    assert (f"is read as {found.shape}" in told) == (squeezed.shape != found.shape)


@pytest.mark.parametrize(
    "shape, said",
    [
        ((3, 28, 3), "may be two things; save it as"),
        ((4, 4, 4), "may be two things"),
        ((2, 28, 4), "may be two things"),
        ((32, 32, 32, 1), "may be two things"),
        ((3, 4, 28, 4), "may be two things"),
        ((5, 6, 7, 8), "no axis of channels"),
        ((2, 3, 4, 5, 6), "is no item; save it as"),
        ((0, 7), "is no item"),
        ((0,), "is no item"),
    ],
)
def test_open_axes_are_refused(tmp_path, shape, said):
    """What may be two things is trained on as one of them."""
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(DataError, match=f"a.npy: an array .*{said}"):
        data_arrays.read_array_or_picture(str(tmp_path / "a.npy"))


def test_deep_pictures_keep_their_values(tmp_path, monkeypatch, capsys):
    """A depth map becomes white, or is left with a dozen levels; its range is not said."""
    monkeypatch.setattr(data_files, "SAID", set())
    depth = (500 + 300 * np.arange(30)).astype(np.uint16).reshape(5, 6)
    save(tmp_path / "a.png", depth)
    save(tmp_path / "b.tif", depth.astype(np.float32) / 1000)
    np.save(tmp_path / "c.npy", depth)
    Image.fromarray(depth.astype(">u2")).save(tmp_path / "d.tif")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(depth).save(tmp_path / "turned.png", exif=exif)
    for file, expected in dict.fromkeys(["a.png", "c.npy", "d.tif"], depth).items():
        found = data_arrays.read_array_or_picture(str(tmp_path / file))
        assert found.dtype == np.float32 and (found == expected[None]).all(), file
    metres = data_arrays.read_array_or_picture(str(tmp_path / "b.tif"))
    assert np.allclose(metres[0], depth / 1000)
    turned = data_arrays.read_array_or_picture(str(tmp_path / "turned.png"))
    assert (turned[0] == np.rot90(depth, -1)).all()
    assert "keep their values, here 500 to 9200, as float32" in capsys.readouterr().err


def test_what_it_is_taken_for_is_said(tmp_path, monkeypatch, capsys):
    """Nobody sees that a target was taken for a volume, or that half of the stems have no pair."""
    monkeypatch.setattr(data_files, "SAID", set())
    pictures = [noise(9, 8, 3, seed=n) for n in range(11)]
    two_folders(tmp_path, pictures, [np.ones((1, 5)) * n for n in range(11)])
    for side, name in dict(source="left", target="right").items():
        np.save(tmp_path / side / f"{name}.npy", np.ones(5))
        (tmp_path / side / "._000.npy").write_bytes(b"Mac OS X")
        (tmp_path / side / "notes.txt").write_text("of mine")
    load_pairs("pairs", str(tmp_path))
    told = capsys.readouterr().err
    assert "source: vectors (5,) float32; target: pictures (3, 9, 8) uint8" in told
    first = told.splitlines()[0]
    assert first.startswith(f"pairs {tmp_path}: found 11 pairs; used ") and "for train" in first
    assert "skipped 1: no target of its stem (first: " + str(tmp_path / "source/left.npy") in first
    assert "skipped 1: no source of its stem (first: " + str(tmp_path / "target/right.npy") in first
    assert (
        "skipped 2: a hidden file" in first and "skipped 2: no picture, .wav, .npy or .npz" in first
    )


def test_folders_in_folders(tmp_path):
    """Pictures in folders below are not found, or those of one name in two folders are mixed."""
    for n in range(12):
        for side in ("source", "target"):
            save(tmp_path / side / "ab"[n % 2] / f"{n // 2}.png", noise(4, 6, seed=n))
    found = everything("pairs", tmp_path)
    assert len(found) == 12
    for n in range(12):
        y, x = found[f"target/{'ab'[n % 2]}/{n // 2}.png"]
        assert (y == noise(4, 6, seed=n)).all() and (x == y).all()


def test_grey_among_colour(tmp_path):
    """One grey file among colour ones ends a run, even where it is the first."""
    for n in range(14):
        grey = n in (0, 7)
        save(tmp_path / f"target/{n:02}.png", noise(5, 6, *([] if grey else [3]), seed=n))
        save(tmp_path / f"source/{n:02}.png", noise(5, 6, seed=n))
    found = everything("pairs", tmp_path)
    assert {y.shape + x.shape for y, x in found.values()} == {(1, 5, 6, 3, 5, 6)}
    assert (found["target/07.png"][1] == noise(5, 6, seed=7)).all()
    # The other way round colours would be lost: that is no conversion.
    for n in range(14):
        save(tmp_path / f"target/{n:02}.png", noise(5, 6, seed=n))
    np.save(tmp_path / "target/08.npy", np.ones((5, 6, 3), np.float32))
    (tmp_path / "target/08.png").unlink()
    with pytest.raises(
        DataError, match="1 of 14 pairs.*08.npy: float32 .3, 5, 6.; most have uint8"
    ):
        load_pairs("pairs", str(tmp_path))


def test_one_broken_pair_of_many(tmp_path, capsys):
    """One broken file of 300 ends a run late; or the rows that are drawn differ on a resume."""
    two_folders(tmp_path, [np.ones(5) * n for n in range(300)])
    whole = load_pairs("pairs", str(tmp_path))
    # One that the first look at every third pair does not meet.
    met = set(np.linspace(0, 299, data_pairs.FIRST_LOOK).astype(int))
    numbers = [int(whole.x[i][0]) for i in range(len(whole.x))]
    k = next(k for k in range(3, len(numbers)) if numbers[k] not in met)
    path = tmp_path / f"target/{numbers[k]:03}.npy"
    path.write_bytes(path.read_bytes()[:-3])
    capsys.readouterr()
    pairs = load_pairs("pairs", str(tmp_path))
    assert path.name not in capsys.readouterr().err
    expected = [*numbers[:k], numbers[k + 1], *numbers[k + 1 :]]
    order = np.random.default_rng(0).permutation(len(numbers))
    for rows in (order, order[::-1]):  # a run, and the same resumed
        y, x = pairs.of(rows)
        assert x[:, 0].tolist() == [expected[i] for i in rows] and (y[:, 0] == x[:, 0]).all()
        told = capsys.readouterr().err
        assert told.count(f"{path.name}: no .npy") == 1
        pairs = load_pairs("pairs", str(tmp_path))
    assert "the next pair takes its place" in told
    assert pairs.key != whole.key


def test_over_one_percent_broken(tmp_path):
    """A folder of broken files is trained on until somebody looks at the pictures."""
    two_folders(tmp_path, [np.ones(5) * n for n in range(300)])
    for n in (1, 50, 101, 200):
        np.save(tmp_path / f"target/{n:03}.npy", np.ones(4))
    with pytest.raises(DataError, match="4 of 300 pairs cannot be used, over 1 %: .*npy: float32"):
        for side in SPLITS:
            pairs = load_pairs("pairs", str(tmp_path), side)
            pairs.of(np.arange(len(pairs.x)))
    for n in range(300):
        np.save(tmp_path / f"target/{n:03}.npy", np.arange(5))
    with pytest.raises(DataError, match="4 of 300 pairs.*target/000.npy: int64.*one-hot"):
        load_pairs("pairs", str(tmp_path))


def test_nothing_to_learn(tmp_path):
    """Three pairs, or a target that is always the same, are trained on for an hour."""
    two_folders(tmp_path, [np.ones(5) * n for n in range(9)])
    with pytest.raises(DataError, match="9 pairs are too few to be cut.*at least 10"):
        load_pairs("pairs", str(tmp_path))
    two_folders(tmp_path, [np.zeros((6, 7), np.uint8)] * 12)
    for side in SPLITS:
        with pytest.raises(DataError, match="all 12 targets are the same"):
            load_pairs("pairs", str(tmp_path), side)


def test_a_rare_target(tmp_path):
    """Masks most of which are empty are refused, because a first look at 100 met no other one."""
    masks = [np.zeros((6, 7), bool) for n in range(250)]
    looked_at = set(np.linspace(0, 249, data_pairs.FIRST_LOOK).astype(int))
    masks[min(set(range(60, 250)) - looked_at)][2, 3] = True
    two_folders(tmp_path, masks)
    assert len(load_pairs("pairs", str(tmp_path)).x) > 200


def test_models_of_one_tree(tmp_path, capsys):
    """Voxels without renderings, and renderings without voxels, vanish without a word."""
    shapes_tree(tmp_path)
    write_binvox(tmp_path / "ShapeNetVox32/00/solid/model.binvox", np.ones((32, 32, 32), bool))
    (tmp_path / "ShapeNetRendering/01/flat/rendering").mkdir(parents=True)
    load_pairs("shapenet", str(tmp_path), "test", views=2)
    told = capsys.readouterr().err
    assert "found 11 pairs" in told and "skipped 1: voxels without renderings (first: 00/" in told
    assert "skipped 1: renderings without voxels (first: 01/flat)" in told


def test_main_draws_pairs(tmp_path, monkeypatch, capsys):
    """`python data.py NAME` stops at one kind of array, or counts something else."""
    monkeypatch.chdir(tmp_path)
    folders_tree(tmp_path, n=40)
    monkeypatch.setattr(glyphs, "LETTERS", ["Nd"])
    for name in ("pairs", "glyph-solids"):
        monkeypatch.setattr(sys, "argv", ["data.py", name, str(tmp_path)])
        data.main()
        assert Image.open(f"data-{name}.png").size[0] > 1000
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and sum(int(line.split()[1]) for line in lines[:3]) == 40
    assert "(1, 4, 6)" in lines[0] and "(32, 32, 32)" in lines[5]


def renamed(top, side, change):
    for path in sorted((top / side).iterdir()):
        path.rename(path.with_stem(change(path.stem)))


def test_names_that_end_alike(tmp_path, capsys):
    """7_rgb.png and 7_depth.npy, as programs write them, have no stem in common: refused."""
    two_folders(tmp_path, [noise(6, 7, seed=n) for n in range(12)])
    plain = everything("pairs", tmp_path)
    renamed(tmp_path, "source", lambda stem: stem + "_rgb")
    renamed(tmp_path, "target", lambda stem: stem + "-depth")
    found = everything("pairs", tmp_path)
    said = capsys.readouterr().err
    assert f"{tmp_path}/source: all names end with _rgb; pairs are found without it" in said
    assert len(found) == 12
    for (y, x), (y_before, x_before) in zip(found.values(), plain.values(), strict=True):
        assert (y == y_before).all() and (x == x_before).all()


@pytest.mark.parametrize("name", ["{}_7", "x{}_t7", "x{}", "x7{}_depth"])
def test_numbers_are_no_endings(tmp_path, name):
    """Part of a number is dropped with the ending, and strangers become pairs."""
    two_folders(tmp_path, [noise(6, 7, seed=n) for n in range(12)])
    renamed(tmp_path, "source", lambda stem: stem + "_rgb")
    renamed(tmp_path, "target", name.format)
    with pytest.raises(DataError, match="no stem is in both .*; give the two files of a pair one"):
        load_pairs("pairs", str(tmp_path))


def test_one_folder_for_both_sides(tmp_path):
    """Every file becomes its own partner, and a network learns to copy."""
    two_folders(tmp_path, [noise(6, 7, seed=n) for n in range(12)])
    same = dict(source_dir=str(tmp_path / "source"), target_dir=str(tmp_path / "source/../source"))
    with pytest.raises(DataError, match="source is given twice: move its sources and its targets"):
        load_pairs("pairs", **same)


def test_no_folder_at_all():
    """The last line of a set without a folder does not say which flag to give."""
    for name, flags in dict(ffhq="--data-dir", pairs="--source-dir and --target-dir").items():
        with pytest.raises(DataError) as error:
            load_pairs(name)
        assert (
            str(error.value).splitlines()[-1].startswith(f"data set {name} not found: give {flags}")
        )


def test_the_tree_of_pairs_is_true(tmp_path, capsys):
    """TREES names other endings, places or axes than the loader reads."""
    tree = data_files.TREES["pairs"]
    kinds = re.search(r"A/STEM\.\{(.*?)\}", tree)[1].split(",")
    known = {kind.strip(".") for kind in (*data_files.PICTURES, ".wav", ".npy", ".npz")}
    assert set(kinds) == known - {"jpeg", "tiff"}
    kinds.remove("wav")  # of another shape than pictures: test_sounds.py has them
    for n, kind in enumerate(kinds):
        for side in ("source", "target"):
            (tmp_path / side / "x").mkdir(parents=True, exist_ok=True)
            path = tmp_path / side / "x" / f"{n}.{kind}"
            pixels = noise(3, 6, 7, seed=n)
            if kind == "npy":
                np.save(path, pixels)
            elif kind == "npz":
                np.savez(path, pixels)
            else:
                save(path, pixels.transpose(1, 2, 0))
    top = tmp_path / "target" / "x"
    for n in range(len(kinds), 14):
        for side in ("source", "target"):
            np.save(tmp_path / side / "x" / f"{n}.npy", noise(3, 6, 7, seed=n))
    assert len(everything("pairs", tmp_path)) == 14 and top.is_dir()
    assert "skipped" not in capsys.readouterr().err


def test_two_folders_have_no_name_of_a_root(tmp_path, capsys):
    """`pairs :` begins the line where two folders are given."""
    two_folders(tmp_path, [noise(6, 7, seed=n) for n in range(12)])
    folders = {f"{side}_dir": str(tmp_path / side) for side in ("source", "target")}
    load_pairs("pairs", **folders)
    assert "pairs: found 12 pairs" in capsys.readouterr().err
