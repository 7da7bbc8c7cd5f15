"""Every loader of data.py and data_cc3m.py, on small official trees written here; no network."""

import io
import json
import os
import sys
import tarfile
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import data
import data_cc3m
import data_files
import data_latents
import glyphs
from data import load
from errors import DataError

SPLITS = ("train", "val", "test")
RED = (250, 10, 20)


def save_image(path, color=RED, size=(12, 8), **options):
    """A one-coloured, non-square picture (width 12, height 8)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(color, int) else "RGB", size, color).save(path, **options)


def image_bytes(color=RED, size=(12, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


def described(split):
    """{image name: [captions]} through `pairs`, which is what the rest of the code relies on."""
    found = {}
    for i, j in split.pairs:
        found.setdefault(split.images.name(i), []).append(split.captions[j])
    return found


def together(name, root, **options):
    """The three splits of a set as {image: captions}; asserts that no image is in two of them."""
    parts = [described(load(name, root, s, **options)) for s in SPLITS]
    merged = {k: v for part in parts for k, v in part.items()}
    assert len(merged) == sum(map(len, parts)), "an image is in two splits"
    return merged, parts


# --------------------------------------------------------------------------------------------------
# glyphs


@pytest.fixture(scope="module")
def drawn():
    return {s: load("glyphs", split=s) for s in SPLITS}


def bare_names(split):
    return {split.captions[j] for j in np.unique(split.pairs[split.bare, 1])}


def test_glyphs_count(drawn):
    """The embedded set has lost or gained images: fonts, names or the blank test changed."""
    assert 46_000 < sum(len(s.images) for s in drawn.values()) < 48_000
    assert len(drawn["val"].images) > 2_000 and len(drawn["test"].images) > 2_000
    image = drawn["test"].images[7]
    assert (image.mode, image.size) == ("L", (32, 32)) and image.getextrema()[1] > 100


def test_glyphs_splits_share_no_character(drawn):
    """A character of the test split was seen in training, in another typeface."""
    train, val, test = (bare_names(drawn[s]) for s in SPLITS)
    assert not (train & val or train & test or val & test)
    assert len(train) > 5_000 and min(len(val), len(test)) > 250


def test_glyphs_full_and_bare_captions(drawn):
    """A full caption describes another image than its own, or a bare one misses some typeface."""
    s = drawn["val"]
    n = len(s.images)
    assert (s.pairs[~s.bare] == np.arange(n)[:, None]).all()
    assert all(s.captions[j] == s.images.name(j) for j in range(n))
    faces = set(glyphs.FACES.values())
    for i, j in s.pairs[s.bare]:
        words = s.images.name(i).removesuffix(" " + s.captions[j])
        assert words in faces
    assert np.bincount(s.pairs[s.bare, 0]).tolist() == [1] * n
    assert np.bincount(s.pairs[s.bare, 1])[n:].max() == 12


def test_stix_holds_no_training_character(drawn):
    """The cross-domain test set contains characters that training saw, or can be trained on."""
    train = bare_names(drawn["train"])
    for side in ("val", "test"):
        stix = load("glyphs-stix", split=side)
        assert len(stix.images) > 200 and not bare_names(stix) & train
        assert bare_names(stix) & bare_names(drawn[side])
        assert stix.key != drawn[side].key
    with pytest.raises(DataError, match="never trained on"):
        load("glyphs-stix", split="train")


def test_split_keys_differ(drawn):
    """Two splits share a latent-cache key, so one would be answered with the other's latents."""
    assert len({s.key for s in drawn.values()}) == 3


# --------------------------------------------------------------------------------------------------
# shared parts


def test_strings_roundtrip():
    """Strings cuts its UTF-8 buffer at the wrong bytes, or does not end iteration."""
    words = ["naïve", "", "日本", "a b"]
    strings = glyphs.Strings(words)
    assert list(strings) == words and strings[3] == "a b" and len(strings) == 4
    with pytest.raises(IndexError):
        strings[4]


def crc_by_hand(data):
    """CRC-32 as in ISO 3309, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xEDB88320 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def test_split_is_by_crc32():
    """The split of a data set changed: numbers measured before cannot be compared any more."""
    assert crc_by_hand(b"123456789") == 0xCBF43926  # the published check value
    u = [crc_by_hand(i.to_bytes(8, "little")) / 2**32 for i in range(2_000)]
    expected = [(x >= 0.90) + (x >= 0.95) for x in u]
    sides = data_files.split_by_hash(range(2_000), [0.90, 0.95], "x")
    assert sides.tolist() == expected
    assert data_files.name_ids(["123456789"]) == [0xCBF43926]
    names = data_files.split_by_name(["a/7.png", "b/7.png", "8.png", "9.png"], [0.5], "x")
    assert names[0] == names[1]  # by the last part of a path


def test_split_shares():
    """CRC-32 of consecutive numbers is uneven: a split gets far too many items, or too few."""
    for step in (1, 2, 10, 1000, 4096):
        ids = np.arange(100_000) * step
        for cuts, shares in (([0.90, 0.95], [0.90, 0.05, 0.05]), ([0.98], [0.98, 0.02])):
            found = np.bincount(data_files.split_by_hash(ids, cuts, "x")) / len(ids)
            assert np.abs(found - shares).max() < 0.01
    names = [f"photo{k}.jpg" for k in range(10_000)]
    found = np.bincount(data_files.split_by_name(names, [0.90, 0.95], "x")) / 10_000
    assert np.abs(found - [0.90, 0.05, 0.05]).max() < 0.01


def test_split_small_and_stable():
    """A tiny set has an empty split, equal ids are torn apart, or a new id moves an old one."""
    for n in range(3, 40):
        for start in (0, 1000, 10**12):
            sides = data_files.split_by_hash(np.arange(start, start + n), [0.90, 0.95], "x")
            assert set(sides.tolist()) == {0, 1, 2}
    ids = np.arange(3000)
    sides = data_files.split_by_hash(ids, [0.90, 0.95], "x")
    assert (data_files.split_by_hash(np.arange(5000), [0.90, 0.95], "x")[:3000] == sides).all()
    twice = data_files.split_by_hash(np.repeat(ids, 2)[::-1], [0.90, 0.95], "x")
    assert (twice[::-2] == sides).all()
    with pytest.raises(DataError, match="x: 2 separate items"):
        data_files.split_by_hash([5, 5, 6], [0.90, 0.95], "x")


@pytest.mark.parametrize("name", ["coco", "cc3m", "celeba", "cifar10", "captions", "latents"])
def test_missing_set_explains_itself(name, tmp_path):
    """A student without the data gets no tree, no address, or no command that works without it."""
    roots = [None] if name == "latents" else [None, str(tmp_path / "nowhere"), str(tmp_path)]
    for root in roots:
        with pytest.raises(DataError) as error:
            load(name, root, "test")
        message = str(error.value)
        assert "python train.py" in message and name in message
        assert "http" in message or name == "latents"
        # The last line is the one that is read: it holds the reason.
        last = message.splitlines()[-1]
        assert last.startswith(f"data set {name} not found: ")
        assert root is None or root in last


def test_official_addresses():
    """A missing-data message leads to the wrong download."""
    assert "http://images.cocodataset.org/zips/{train2014" in data_files.TREES["coco"]
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in data_files.TREES["cifar10"]
    assert "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html" in data_files.TREES["celeba"]
    assert "img2dataset --url_list" in data_files.TREES["cc3m"]


def test_unknown_names():
    """A misspelt set or split is not answered with the names there are."""
    with pytest.raises(DataError, match="no data set 'cifar-10'; there are glyphs, glyphs-stix"):
        load("cifar-10")
    with pytest.raises(DataError, match="train, val, test"):
        load("glyphs", split="validation")


def broken_files(folder):
    """{name: what} of files that PIL refuses in different ways."""
    png = io.BytesIO()
    Image.effect_noise((40, 30), 50).save(png, "PNG")
    png = png.getvalue()
    noise = io.BytesIO()
    Image.effect_noise((90, 70), 80).save(noise, "JPEG")
    crc = bytearray(png)
    crc[45] ^= 255
    contents = {
        "text.jpg": b"this is no picture",
        "empty.jpg": b"",
        "cut.jpg": noise.getvalue()[:900],
        "crc.png": bytes(crc),
        "cut.png": png[:50],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    save_image(folder / "bomb.png", 0, (64, 64))
    return [*contents, "bomb.png", "absent.jpg"]


def test_broken_images_raise_oserror_when_read(tmp_path, monkeypatch):
    """A broken file raises another error than OSError, or one that does not name the file."""
    names = broken_files(tmp_path)
    save_image(tmp_path / "good.jpg")
    folder = data_files.picture_folder(str(tmp_path), [*names, "good.jpg"])
    assert folder[len(names)].size == (12, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)  # bomb.png has more than twice as many
    for i, name in enumerate(names):
        with pytest.raises(OSError, match=name):
            folder[i]


def test_image_modes(tmp_path):
    """A grey, transparent or CMYK file arrives in a mode that the encoders do not expect."""
    save_image(tmp_path / "grey.jpg", 77)
    Image.new("RGBA", (12, 8), (*RED, 128)).save(tmp_path / "alpha.png")
    Image.new("CMYK", (12, 8)).save(tmp_path / "print.jpg")
    Image.new("P", (12, 8)).save(tmp_path / "palette.gif")
    folder = data_files.picture_folder(
        str(tmp_path), ["grey.jpg", "alpha.png", "print.jpg", "palette.gif"]
    )
    assert [image.mode for image in folder] == ["L", "RGB", "RGB", "RGB"]
    assert folder[0].getpixel((3, 3)) == 77


# A scene whose three colours are all different, and flat, so that JPEG keeps them: white sky above,
# red left and blue right below. (row, column) of a pixel of each, in 12 x 16.
SCENE = np.zeros((12, 16, 3), np.uint8)
SCENE[4:, :8], SCENE[4:, 8:], SCENE[:4] = (220, 40, 40), (40, 40, 220), 240
GREY = np.asarray(Image.fromarray(SCENE).convert("L"))


def file_of(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reads(content, mode=None):
    """The pixels of read_image, as integers."""
    return np.asarray(data_files.read_image(content, "x", mode)).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_stand_upright(orientation, kind):
    """A phone's photo is read lying on its side, or upside down, or as in a mirror."""
    # What a viewer does for orientations 1 to 8, from the standard: (transpose first?, flips)
    scene = Image.fromarray(np.repeat(np.repeat(SCENE, 8, 0), 8, 1))
    stored = np.asarray(scene)
    # row 0 and column 0 of the stored picture are these sides of the scene
    stored = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[::-1],
        7: stored.transpose(1, 0, 2)[::-1, ::-1],
        8: stored.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    content = file_of(Image.fromarray(stored), kind, exif=exif, **options)
    found = reads(content)
    assert found.shape == (96, 128, 3)
    assert np.abs(found - np.asarray(scene)).mean() < 3


def test_sixteen_bits_and_floats(capsys):
    """A depth map or an X-ray becomes all white, a float picture all black."""
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    # Pillow opens a 16-bit PNG as I;16, a PGM as I, a TIFF of another byte order as I;16B
    for content in (file_of(deep, "PNG"), file_of(deep, "TIFF"), file_of(deep, "JPEG2000")):
        assert np.abs(reads(content) - GREY).max() == 0
    pgm = b"P5 16 12 65535\n" + (GREY * np.int32(257)).astype(">u2").tobytes()
    assert (reads(pgm) == GREY).all()
    assert (reads(pgm, "RGB") == GREY[:, :, None]).all()
    between = b"P5 16 12 65535\n" + (GREY * np.int32(257) + 200).astype(">u2").tobytes()
    assert (reads(between) == GREY + 1).all()  # 200 / 257 is nearer to 1
    floats = Image.fromarray(GREY.astype(np.float32) / 255)
    assert (reads(file_of(floats, "TIFF")) == GREY).all()
    told = capsys.readouterr().err
    assert told.count("16-bit grey is divided by 257") <= 1


def test_dark_sixteen_bits_are_said(capsys, monkeypatch):
    """Of a depth map in millimetres eight grey levels are left, and nobody is told."""
    monkeypatch.setattr(data_files, "SAID", set())
    depth = Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50))
    for _ in range(3):
        reads(file_of(depth, "PNG"))
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "x: 16-bit grey is divided by 257, so that 65535 becomes 255",
        "x: of 16-bit grey up to 1999, 8 levels are left",
    ]


def test_pixels_without_a_rule_are_refused():
    """Floats beyond 1, NaN, 32-bit integers or Lab colours are clipped in silence."""
    for value in (255.0, 1.01, -0.5, np.nan, np.inf):
        x = GREY.astype(np.float32) / 255
        x[3, 5] = value
        with pytest.raises(OSError, match="x: .*floats from .*only .0, 1. has a rule"):
            reads(file_of(Image.fromarray(x), "TIFF"))
    for image in (Image.fromarray(GREY.astype(np.int32)), Image.new("LAB", (4, 3))):
        with pytest.raises(OSError, match="x: .*no rule for its mode (I|LAB)"):
            reads(file_of(image, "TIFF"))


def test_transparent_pixels_become_white(capsys, monkeypatch):
    """The hidden colours of transparent pixels show: a sprite stands on black or green."""
    monkeypatch.setattr(data_files, "SAID", set())
    hidden = np.dstack([SCENE, np.full((12, 16), 255, np.uint8)])
    hidden[:4] = (0, 255, 0, 0)
    hidden[11] = (100, 0, 50, 51)  # a fifth of it is seen: 0.2 * 100 + 0.8 * 255 = 224
    expected = SCENE.astype(int)
    expected[:4], expected[11] = 255, (224, 204, 214)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        found = reads(file_of(Image.fromarray(hidden), kind, **options))
        assert np.abs(found - expected).max() <= 1, kind
    assert capsys.readouterr().err == "x: transparent pixels are laid on white\n"
    assert (reads(file_of(Image.fromarray(hidden), "PNG"), "RGBA") == hidden).all()
    assert reads(file_of(Image.fromarray(hidden), "PNG"), "L")[0, 0] == 255

    # grey with alpha stays grey; one colour of a palette, or one grey, may be called transparent
    grey = np.dstack([GREY, np.where(GREY > 200, 0, 255).astype(np.uint8)])
    white_sky = np.where(GREY > 200, 255, GREY)
    assert (reads(file_of(Image.fromarray(grey), "PNG")) == white_sky).all()
    black = np.where(SCENE == 240, 0, SCENE)
    few = Image.fromarray(black).quantize(4)
    clear = few.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        found = reads(file_of(few, kind, transparency=clear))
        assert (found[0, 0] == 255).all() and np.abs(found[8, 2] - (220, 40, 40)).max() < 9
    sky = int(GREY[0, 0])
    assert (reads(file_of(Image.fromarray(GREY), "PNG", transparency=sky)) == white_sky).all()


def test_opaque_alpha_changes_nothing(capsys, monkeypatch):
    """An alpha channel that hides nothing changes a colour, or is told of."""
    monkeypatch.setattr(data_files, "SAID", set())
    x = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
    x[:, :, 3] = 255
    assert (reads(file_of(Image.fromarray(x), "PNG")) == x[:, :, :3]).all()
    assert (reads(file_of(Image.fromarray(x[:, :, [0, 3]]), "PNG")) == x[:, :, 0]).all()
    assert capsys.readouterr().err == ""


def test_other_modes(tmp_path):
    """Black and white, inks or a palette arrive in a mode that the encoders do not expect."""
    image = Image.fromarray(SCENE)
    for content in (
        file_of(image.convert("CMYK"), "JPEG", quality=95),
        file_of(image.quantize(4), "PNG"),
        file_of(image, "BMP"),
    ):
        assert (
            np.abs(reads(content)[[0, 8, 8], [0, 2, 13]] - SCENE[[0, 8, 8], [0, 2, 13]]).max() < 9
        )
    assert set(np.unique(reads(file_of(image.convert("1"), "PNG")))) == {0, 255}
    assert reads(file_of(Image.new("RGB", (1, 1)), "PNG")).shape == (1, 1, 3)


def test_of_several_frames_the_first(capsys, monkeypatch):
    """Of a moving picture another frame than the first is taken, or it is not said."""
    monkeypatch.setattr(data_files, "SAID", set())
    other = [Image.new("RGB", (16, 12))]
    found = reads(file_of(Image.fromarray(SCENE), "GIF", save_all=True, append_images=other))
    assert np.abs(found[0, 0] - 240).max() < 9
    assert capsys.readouterr().err == "x: the first of 2 frames is taken\n"


def test_colour_of_a_set(tmp_path):
    """One grey photo at the front makes a colour set grey, or a broken one ends in an error."""
    for k in range(5):
        save_image(tmp_path / f"{k}.png", 50 + k)
    save_image(tmp_path / "5.png")
    (tmp_path / "6.png").write_bytes(b"")
    images = data_files.picture_folder(str(tmp_path), [f"{k}.png" for k in range(7)])
    assert data_files.colour_of(images, range(7)) == "RGB"
    assert data_files.colour_of(images, [6, 0, 3]) == "L"


# --------------------------------------------------------------------------------------------------
# coco


def write_coco(root, year, part, ids, top="", uncaptioned=()):
    """An official part: two captions an image, annotations unsorted, some with newlines."""
    prefix = f"COCO_{part}{year}_" if year == 2014 else ""
    names = {k: f"{prefix}{k:012d}.jpg" for k in ids}
    for k in ids:
        save_image(root / top / f"{part}{year}" / names[k], (k % 200, 0, 0))
    notes = [
        {"image_id": k, "id": 10 * k + r, "caption": f" {year} image {k}\n take  {r}. "}
        for r in range(2)
        for k in reversed(ids)
        if k not in uncaptioned
    ]
    table = {"images": [{"id": k, "file_name": names[k]} for k in ids], "annotations": notes}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(table))


@pytest.mark.parametrize("top", ["", "images"])
def test_coco_2014(tmp_path, top):
    """COCO's captions meet the wrong image, splits overlap, or `test` is not the official val."""
    train_ids, val_ids = list(range(1, 60)), [1001, 1002, 1003]
    write_coco(tmp_path, 2014, "train", train_ids, top, uncaptioned=[7])
    write_coco(tmp_path, 2014, "val", val_ids, top)
    merged, (train, val, test) = together("coco", tmp_path)
    name = os.path.join("{}2014", "COCO_{}2014_{:012d}.jpg")
    assert set(test) == {name.format("val", "val", k) for k in val_ids}
    assert (
        set(train) | set(val) == {name.format("train", "train", k) for k in train_ids if k != 7}
        and 0 < len(val) < 10
    )
    for file, texts in merged.items():
        k = int(file[-16:-4])
        assert sorted(texts) == [f"2014 image {k} take 0.", f"2014 image {k} take 1."]
    split = load("coco", tmp_path, "train")
    image = split.images[3]
    assert image.size == (12, 8) and image.mode == "RGB"
    assert abs(image.getpixel((5, 5))[0] - int(split.images.name(3)[-16:-4])) < 8
    assert not split.bare.any() and split.pairs.dtype == np.int64


def test_coco_year(tmp_path):
    """The 2017 files are not found, or two years get mixed: train2017 contains val2014's images."""
    write_coco(tmp_path, 2017, "train", list(range(1, 30)))
    write_coco(tmp_path, 2017, "val", [500])
    assert list(described(load("coco", tmp_path, "test"))) == ["val2017/000000000500.jpg"]
    # 2014 without its train part does not take the place of a complete 2017
    write_coco(tmp_path, 2014, "val", [600, 601])
    assert list(described(load("coco", tmp_path, "test"))) == ["val2017/000000000500.jpg"]
    os.remove(tmp_path / "annotations" / "captions_val2014.json")
    write_coco(tmp_path, 2014, "train", [700, 701, 702])
    assert list(described(load("coco", tmp_path, "test"))) == ["val2017/000000000500.jpg"]
    write_coco(tmp_path, 2014, "val", [600, 601])
    assert all("2014" in file for file in together("coco", tmp_path)[0])


def test_coco_karpathy(tmp_path):
    """Karpathy's restval images are lost to training, or his test images are not from val2014."""
    sides = ["train", "restval", "val", "test", "test"]
    images = []
    for k, side in enumerate(sides):
        folder = "train2014" if side == "train" else "val2014"
        name = f"COCO_{folder}_{k:012d}.jpg"
        save_image(tmp_path / folder / name)
        texts = [{"raw": f"picture {k}\n"}, {"raw": f"photo {k}"}]
        images.append({"filepath": folder, "filename": name, "split": side, "sentences": texts})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    merged, parts = together("coco", tmp_path)
    assert [len(p) for p in parts] == [2, 1, 2] and len(merged) == 5
    for file, texts in merged.items():
        assert texts == [f"picture {int(file[-16:-4])}", f"photo {int(file[-16:-4])}"]
    write_coco(tmp_path, 2014, "train", [60, 61])
    write_coco(tmp_path, 2014, "val", [70, 71, 72])
    assert len(load("coco", tmp_path, "test").images) == 2
    os.remove(tmp_path / "dataset_coco.json")
    assert len(load("coco", tmp_path, "test").images) == 3


def test_coco_errors(tmp_path):
    """A damaged annotation file or a folder without the images ends in a traceback."""
    write_coco(tmp_path, 2014, "train", [7, 8])
    write_coco(tmp_path, 2014, "val", [1, 2, 3])
    path = tmp_path / "annotations" / "captions_val2014.json"
    whole = path.read_text()
    for content in (whole[:100], "[]", '{"images": []}'):
        path.write_text(content)
        with pytest.raises(DataError, match="captions_val2014.json"):
            load("coco", tmp_path, "test")
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="no pairs in split 'test'"):
        load("coco", tmp_path, "test")
    path.write_text(whole)
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="captions_val2014.json: nested too deeply"):
        load("coco", tmp_path, "test")
    path.write_text(whole)
    (tmp_path / "val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="no image .*COCO_val2014_00000000000[123].jpg"):
        load("coco", tmp_path, "test")


# --------------------------------------------------------------------------------------------------
# cc3m


def write_shard(path, keys, mode="w", order=("jpg", "json", "txt"), mtime=0, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=kind) as tar:
        for k in keys:
            parts = {"jpg": image_bytes((k % 250, 0, 0)), "json": b"{}", "txt": b"text %d\n" % k}
            for end in order:
                info = tarfile.TarInfo(f"{k:09d}.{end}")
                body = parts[end]
                info.size = len(body)
                info.mtime = mtime
                tar.addfile(info, io.BytesIO(body))


def check_shards(root, train_keys, test_keys):
    seen = []
    for side in SPLITS:
        split = load("cc3m", root, side)
        keys = [int(split.captions[j].split()[1]) for j in split.pairs[:, 1]]
        seen.append(set(keys))
        for (i, _), k in zip(split.pairs[:5], keys[:5], strict=True):
            assert split.images[i].size == (12, 8)
            assert abs(split.images[i].getpixel((4, 4))[0] - k % 250) < 8
    assert split.captions[0] == f"text {keys[0]}"  # its line end is cut off
    assert seen[2] == set(test_keys) and seen[0] | seen[1] == set(train_keys)
    assert not seen[0] & seen[1] and seen[1]


def test_cc3m_pixparse_shards(tmp_path):
    """A picture is paired with its neighbour's text, or validation shards are trained on."""
    write_shard(tmp_path / "cc3m-train-0000.tar", range(40))
    write_shard(tmp_path / "cc3m-train-0001.tar", range(40, 70), order=("txt", "jpg", "json"))
    write_shard(tmp_path / "cc3m-validation-0000.tar", range(900, 905))
    check_shards(tmp_path, range(70), range(900, 905))


def test_cc3m_img2dataset_shards(tmp_path):
    """Shards of equal names in train/ and validation/, or with pax headers, are misread."""
    write_shard(tmp_path / "train" / "00000.tar", range(30), kind=tarfile.GNU_FORMAT)
    # a fraction of a second makes tarfile write a header of its own before each member
    write_shard(tmp_path / "validation" / "00000.tar", range(900, 903), mtime=1234.5)
    check_shards(tmp_path, range(30), range(900, 903))
    check_shards(str(tmp_path) + "/", range(30), range(900, 903))


def test_cc3m_incomplete_keys(tmp_path):
    """A text without its picture shifts all pairs after it by one."""
    path = tmp_path / "cc3m-train-0000.tar"
    with tarfile.open(path, "w") as tar:
        for k, kinds in enumerate(["txt jpg", "txt", "jpg", "jpg txt", "txt jpg"] * 3):
            # as GNU tar writes before a member
            extra = tarfile.TarInfo(f"PaxHeaders.7/{k:04d}.txt")
            extra.type = tarfile.XHDTYPE
            tar.addfile(extra)
            for kind in kinds.split():
                body = image_bytes((k * 16, 0, 0)) if kind == "jpg" else f"text {k}".encode()
                info = tarfile.TarInfo(f"./dir.d/{k:04d}.{kind}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    rows = data_cc3m.scan_tar(str(path), {})
    raw = path.read_bytes()
    texts = [raw[at : at + size].decode() for at, size in rows[:, 3:]]
    assert texts == [f"text {k}" for k in range(15) if k % 5 in (0, 3, 4)]
    jpegs = [raw[at : at + size] for _, at, size in rows[:, :3]]
    reds = [Image.open(io.BytesIO(jpeg)).getpixel((1, 1))[0] for jpeg in jpegs]
    assert np.abs(np.array(reds) - [int(t[5:]) * 16 for t in texts]).max() < 8


def write_members(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


@pytest.mark.parametrize("order", ["neighbours", "pictures first", "backwards"])
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_cc3m_keys(tmp_path, order, kind):
    """Pairs vanish whose keys have dots, capitals or over 100 bytes, or do not stand together."""
    long = "a-long-title-of-a-web-page-" * 5
    keys = {
        k: [f"{k:04d}", f"22.{k:02d}", f"{long}{k}", f"d{k}/7", f"naïve {k}"][k % 5]
        for k in range(20)
    }
    pictures = [
        (f"{key}.{['jpg', 'JPG', 'Jpeg'][k % 3]}", image_bytes((k * 12, 0, 0)))
        for k, key in keys.items()
    ]
    texts = [(f"{key}.{['txt', 'TXT'][k % 2]}", f"text {k}".encode()) for k, key in keys.items()]
    members = [m for pair in zip(pictures, texts, strict=True) for m in pair]
    if order != "neighbours":
        members = pictures + (texts if order == "pictures first" else texts[::-1])
    write_members(tmp_path / "validation" / "00000.tar", members, format=kind)
    split = load("cc3m", tmp_path, "test")
    assert sorted(int(text.split()[1]) for text in split.captions) == list(range(20))
    for i, j in split.pairs:
        red = split.images[i].getpixel((1, 1))[0]
        assert abs(red - 12 * int(split.captions[j].split()[1])) < 8


def test_cc3m_damaged_header(tmp_path):
    """A shard is read up to its first damaged header, and what follows is lost in silence."""
    path = tmp_path / "cc3m-train-0000.tar"
    write_shard(path, range(20))
    whole = path.read_bytes()
    header = whole.index(b"000000009.jpg")
    for place in (0, 124, 148, 156, 257):  # name, size, checksum, type, magic of one of 60 headers
        damaged = bytearray(whole)
        damaged[header + place] ^= 0x55
        path.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match="cc3m-train-0000.tar: .*damaged"):
            load("cc3m", tmp_path, "train")


def test_cc3m_shard_needs_no_objects(tmp_path):
    """The members of a shard are kept as objects of tarfile: gigabytes for all of CC3M."""
    path = tmp_path / "cc3m-train-0000.tar"
    write_members(path, [(f"{k // 2:06d}.{['jpg', 'txt'][k % 2]}", b"") for k in range(2_000)])
    tracemalloc.start()
    rows = data_cc3m.scan_tar(str(path), {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 1_000 and peak < 200_000, peak  # with all members, 900 KB


def test_cc3m_broken_shards(tmp_path):
    """A half-downloaded or compressed shard is read as far as it goes, in silence."""
    path = tmp_path / "cc3m-train-0003.tar"
    write_shard(path, range(20))
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # of the last member
    for size in (end - 600, end - 512, end, 10_000, 10_240, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="cc3m-train-0003.tar: truncated"):
            load("cc3m", tmp_path, "train")
    write_shard(path, range(20), mode="w:gz")
    with pytest.raises(DataError, match="cc3m-train-0003.tar.*uncompressed"):
        load("cc3m", tmp_path, "train")


@pytest.mark.parametrize("header", ["title\tfilepath\n", ""])
def test_cc3m_tables(tmp_path, header):
    """A table of local files is read with its header as a caption, or with shifted offsets."""
    rows = [(f"a naïve caption {k}", f"cc_data/train/b  {k}.jpg") for k in range(50)]
    for k, (_, file) in enumerate(rows):
        save_image(tmp_path / file, (k * 4, 0, 0))
    text = header + "".join(f"{caption}\t{file}\n" for caption, file in rows)
    kind = "_output.csv" if header else ".tsv"
    text = text.replace("\n", "\r\n") if header else text.replace("\n", "\n\n", 3)
    (tmp_path / f"Train_GCC-training{kind}").write_bytes(text.encode())
    val = "Validation_GCC-1.1.0-Validation"
    (tmp_path / f"{val}{kind}").write_bytes(b"a val caption\tcc_data/train/b  1.jpg\r\n\n")
    train, val, test = (load("cc3m", tmp_path, s) for s in SPLITS)
    assert described(test) == {"cc_data/train/b  1.jpg": ["a val caption"]}
    found = described(train) | described(val)
    assert found == {file: [caption] for caption, file in rows}
    assert len(train.images) + len(val.images) == 50 and len(val.images) > 0
    k = int(train.captions[9].split()[-1])
    assert abs(train.images[9].getpixel((5, 5))[0] - k * 4) < 8


def test_cc3m_raw_table(tmp_path):
    """The official table of addresses is taken for files, or hides the table made from it."""
    raw = tmp_path / "Train_GCC-training.tsv"
    raw.write_text("a dog\thttp://example.org/dog.jpg\na cat\thttps://example.org/cat.jpg\n")
    with pytest.raises(DataError, match="(?s)web addresses.*img2dataset --url_list"):
        load("cc3m", tmp_path, "train")
    rows = "".join(f"caption {k}\timages/{k}.jpg\n" for k in range(9))
    (tmp_path / "Train_GCC-training_output.csv").write_text("title\tfilepath\n" + rows)
    assert len(load("cc3m", tmp_path, "train").images) == 7  # and one each for val and test
    raw.unlink()
    (tmp_path / "Train_GCC-training_output.csv").write_text(rows + "no tab here\n")
    with pytest.raises(DataError, match="line 10: no tab"):
        load("cc3m", tmp_path, "train")


def test_cc3m_table_needs_no_objects(tmp_path):
    """3.3 M rows would need gigabytes of Python strings, or minutes to open."""
    n = 50_000
    with open(tmp_path / "Train_GCC-training_output.csv", "w") as f:
        f.write("title\tfilepath\n")
        f.writelines(f"caption of image number {k}\tcc_data/{k % 999}/{k}.jpg\n" for k in range(n))
    start = time.process_time()  # not the clock's, which counts what other programs do
    split = load("cc3m", tmp_path, "train")
    assert time.process_time() - start < 5 * n / 200_000  # 80 s for all of CC3M
    assert 0.985 * n < len(split.images) < 0.995 * n
    del split
    tracemalloc.start()
    split = load("cc3m", tmp_path, "train")
    held, peak = (size / n for size in tracemalloc.get_traced_memory())
    tracemalloc.stop()
    assert held < 150 and peak < 300, (held, peak)  # bytes a row; two strings alone take 150
    k = split.captions[12_345].split()[-1]
    assert split.images.name(12_345).endswith(f"/{k}.jpg")


# --------------------------------------------------------------------------------------------------
# celeba, cifar10


NAMES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
Young""".split()
FACES = {
    "Brown_Hair Smiling Young": "a photo of a young woman, brown hair, smiling",
    "Bald Eyeglasses Male Wearing_Necktie": "a photo of a man, bald, eyeglasses, wearing necktie",
    "Attractive No_Beard Oval_Face": "a photo of a woman, attractive, oval face",
    "5_o_Clock_Shadow Male Young": "a photo of a young man, 5 o clock shadow",
    "": "a photo of a woman",
}


def write_celeba(root):
    for k in range(len(FACES)):
        save_image(root / "img_align_celeba" / f"{k + 1:06d}.jpg", size=(11, 13))
    rows = []
    for k, has in enumerate(FACES):
        values = ["1" if name in has.split() else "-1" for name in NAMES]
        rows.append(f"{k + 1:06d}.jpg " + " ".join(f"{v:>2}" for v in values) + "\n")
    head = f"{len(FACES)}\n{' '.join(NAMES)} \n"
    (root / "list_attr_celeba.txt").write_text(head + "".join(rows))
    sides = "".join(f"{k + 1:06d}.jpg {[0, 1, 2, 1, 2][k]}\n" for k in range(len(FACES)))
    (root / "list_eval_partition.txt").write_text(sides)


def test_celeba(tmp_path):
    """Attributes are read from the wrong column or said clumsily, or the partitions are swapped."""
    write_celeba(tmp_path)
    parts = [described(load("celeba", tmp_path, s, allow_train=True)) for s in SPLITS]
    numbers = [[int(name[-10:-4]) for name in part] for part in parts]
    assert numbers == [[1], [2, 4], [3, 5]]
    merged = {name: text for part in parts for name, text in part.items()}
    assert [merged[name] for name in sorted(merged)] == [[text] for text in FACES.values()]
    assert load("celeba", tmp_path, "val").images[1].size == (11, 13)
    with pytest.raises(DataError, match="MT only tests on it"):
        load("celeba", tmp_path, "train")


def test_celeba_says_every_attribute():
    """An attribute is silently dropped from CelebA's captions (only No_Beard is meant to be)."""
    plain = data.face_caption([])
    assert [name for name in NAMES if data.face_caption([name]) == plain] == ["No_Beard"]


def test_celeba_errors(tmp_path):
    """A table that was cut short gives fewer faces, or faces with shifted attributes."""
    write_celeba(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    whole = path.read_text()
    for content in (whole[:-20], whole[: whole.rstrip().rindex("\n") + 1], "file,a,b\n"):
        path.write_text(content)
        with pytest.raises(DataError, match="list_attr_celeba.txt.*not the official table"):
            load("celeba", tmp_path, "val")
    path.write_text(whole)
    (tmp_path / "list_eval_partition.txt").unlink()
    with pytest.raises(DataError, match="no .*list_eval_partition.txt"):
        load("celeba", tmp_path, "val")


CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """The binary version: mostly holes on disk, record k of batch b has label (k + b) % 10."""
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    for b, name in enumerate(["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]):
        with open(folder / f"{name}.bin", "wb") as f:
            f.truncate(10_000 * 3073)
            for k in (0, 1, 9_999):
                f.seek(k * 3073)
                f.write(bytes([(k + b) % 10]))
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return root


def test_cifar10_labels_and_splits(cifar):
    """Images are paired with another image's class, or train and val overlap."""
    train, val, test = (load("cifar10", cifar, s) for s in SPLITS)
    assert [len(s.images) for s in (train, val, test)] == [45_000, 5_000, 10_000]
    for split in (train, val, test):
        assert list(split.captions) == [f"a picture of a {name}" for name in CLASSES]
        assert (split.pairs[:, 0] == np.arange(len(split.images))).all() and not split.bare.any()

    def label(split, i):
        return split.pairs[i, 1]

    assert [label(test, i) for i in (0, 1, 9_999)] == [0, 1, 9]
    assert [label(train, i) for i in (0, 1, 9_999, 10_000, 10_001)] == [1, 2, 0, 2, 3]
    assert label(val, 4_999) == (9_999 + 5) % 10 and label(val, 0) == 0
    assert len({train.key, val.key, test.key}) == 3


def test_cifar10_planes(cifar):
    """CIFAR's colour planes, rows and columns are mixed up: a red picture is not red."""
    path = cifar / "cifar-10-batches-bin" / "data_batch_2.bin"
    planes = np.zeros((3, 32, 32), np.uint8)
    planes[0] = 200
    planes[1, 2, :] = 90  # a line: row 2
    planes[2, 31, 31] = 60  # and the last pixel of all
    with open(path, "r+b") as f:
        f.seek(7 * 3073 + 1)
        f.write(planes.tobytes())
    image = load("cifar10", cifar, "train").images[10_007]
    assert image.size == (32, 32) and image.getpixel((20, 20)) == (200, 0, 0)
    assert image.getpixel((31, 31)) == (200, 0, 60)
    assert image.getpixel((20, 2)) == (200, 90, 0) and image.getpixel((2, 20)) == (200, 0, 0)


def test_cifar10_errors(cifar, tmp_path):
    """A cut file shifts all records, or the pickled version is opened."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES))
    (folder / "test_batch.bin").write_bytes(b"\0" * 3072 * 10)
    with pytest.raises(DataError, match="test_batch.bin.*30,730,000"):
        load("cifar10", tmp_path, "test")
    with pytest.raises(DataError, match="data_batch_1.bin"):
        load("cifar10", tmp_path, "train")
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"pickle")
    (folder / "batches.meta.txt").unlink()
    with pytest.raises(DataError, match="(?s)cifar-10-binary.tar.gz.*pickled"):
        load("cifar10", tmp_path, "test")


# --------------------------------------------------------------------------------------------------
# captions


def photos(root, n, top=""):
    for k in range(n):
        save_image(root / top / f"photo{k}.jpg", (k * 8, 0, 0), (12, 8 + k))


def test_captions_of_twelve_photos(tmp_path):
    """A student's folder has an empty split, loses a caption, or splits an image's captions."""
    photos(tmp_path, 12)
    rows = [f'photo{k}.jpg,"a dog, number {k}"\n' for k in range(12)]
    rows += [f"photo{k}.jpg,it runs, number {k}\n" for k in range(12)] + ["\n"]
    (tmp_path / "captions.txt").write_text("\ufeff" + "".join(rows), "utf-8")
    merged, parts = together("captions", tmp_path)
    assert len(merged) == 12 and min(map(len, parts)) >= 1
    for k in range(12):
        assert merged[f"photo{k}.jpg"] == [f"a dog, number {k}", f"it runs, number {k}"]
    split = load("captions", tmp_path, "train")
    assert split.images[2].size == (12, 8 + int(split.images.name(2)[5:-4]))
    (tmp_path / "captions.txt").write_text("".join(rows[:2]))
    with pytest.raises(DataError, match="2 separate items, a split needs 3"):
        load("captions", tmp_path, "train")


FLICKR = {
    "captions.txt": ("Images", "image,caption\n", "{0},a {1} picture\n"),
    "captions.csv": ("images", "image_name,comment_number,comment\n", "{0},3,a {1} picture\n"),
    "results.csv": (
        "flickr30k_images",
        "image_name| comment_number| comment\n",
        "{0}| 0| a {1} picture\n",
    ),
    "Flickr8k.token.txt": ("", "", "{0}#0\ta {1} picture\n"),
}


@pytest.mark.parametrize("table", FLICKR)
def test_captions_official_tables(tmp_path, table):
    """A table in use has its header, its numbers or its separators in the captions."""
    top, header, row = FLICKR[table]
    photos(tmp_path, 30, top)
    rows = [row.format(f"photo{k}.jpg", f"{k} |") for k in range(30)]
    if table == "results.csv":
        rows[4] = "photo4.jpg| 4   a 4 | picture\n"  # as one row of the official file
    (tmp_path / table).write_text(header + "".join(rows))
    merged, _ = together("captions", tmp_path)
    assert merged == {f"photo{k}.jpg": [f"a {k} | picture"] for k in range(30)}
    load("captions", tmp_path, "train").images[0]


def test_captions_errors(tmp_path):
    """A row without caption or image, odd bytes or names of files that are not there pass."""
    photos(tmp_path, 3)
    path = tmp_path / "captions.csv"
    good = "image,caption\nphoto0.jpg,a\nphoto1.jpg,b\n"
    for row in ("\nphoto2.jpg;c\n", '\n"photo2.jpg"\n', "\nphoto2.jpg\n"):
        path.write_text(good + row)
        with pytest.raises(DataError, match="captions.csv line 5: expected 2 fields"):
            load("captions", tmp_path, "train")
    path.write_text(good + "\n,c\n")
    with pytest.raises(DataError, match="captions.csv line 5: no picture's name"):
        load("captions", tmp_path, "train")
    path.write_text("photo0.jpg;a\n" + good)
    with pytest.raises(DataError, match="captions.csv line 2"):
        load("captions", tmp_path, "train")
    path.write_text(good.replace("caption", "split"))
    with pytest.raises(
        DataError, match="captions.csv line 1: no columns called .*; found image,spl"
    ):
        load("captions", tmp_path, "train")
    path.write_bytes(good.encode() + b"photo2.jpg,caf\xe9\n")
    with pytest.raises(DataError, match="captions.csv: not UTF-8 text, in line 4"):
        load("captions", tmp_path, "train")
    path.write_text("image,caption\nx.jpg,a\ny.jpg,b\nz.jpg,c\n")
    with pytest.raises(DataError, match="no image [xyz].jpg"):
        load("captions", tmp_path, "train")


def test_images_are_read_late(tmp_path):
    """One broken photo stops the loading of a whole data set instead of its own reading."""
    photos(tmp_path, 12)
    rows = "".join(f"photo{k}.jpg,caption {k}\n" for k in range(12))
    (tmp_path / "captions.txt").write_text("image,caption\n" + rows)
    name = load("captions", tmp_path, "train").images.name(1)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    split = load("captions", tmp_path, "train")
    assert split.images[0].mode == "RGB"
    with pytest.raises(OSError, match=name):
        split.images[1]


# --------------------------------------------------------------------------------------------------
# latents


def write_latents(root, n=200, dtype=np.float32):
    a = np.arange(n * 5, dtype=dtype).reshape(n, 5)
    b = np.arange(n * 3, dtype=dtype).reshape(n, 3) + 0.5
    np.save(root / "a.npy", a)
    np.save(root / "b.npy", b)
    return a, b, dict(image_latents=str(root / "a.npy"), text_latents=str(root / "b.npy"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_latents_rows(tmp_path, dtype):
    """Row i of one file meets another row of the other, or rows are lost or in two splits."""
    a, b, files = write_latents(tmp_path, dtype=dtype)
    seen = []
    for side in SPLITS:
        split = load("latents", None, side, **files)
        for i, j in split.pairs:
            row = int(split.images.name(i).split()[-1])
            seen.append(row)
            assert split.images[i].dtype == np.float32 and split.captions[j].shape == (3,)
            assert (split.images[i] == a[row]).all() and (split.captions[j] == b[row]).all()
        assert len(split.pairs) == len(split.images) == len(split.captions) >= 2
    assert sorted(seen) == list(range(200))


def test_latents_stay_on_disk(tmp_path):
    """Loading copies the memory-mapped files, so latents larger than memory cannot be used."""
    _, _, files = write_latents(tmp_path, 200_000)
    tracemalloc.start()
    split = load("latents", None, "val", **files)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1_000_000 < 200_000 * 8 * 4
    row = split.images[0]
    row += 1  # a copy: neither the file nor the next reading changes
    assert (split.images[0] == row - 1).all()


def numbers(split):
    """Of each image of a latent split, its row in the file."""
    return np.array([int(split.images.name(i).split()[-1]) for i in range(len(split.images))])


def test_latents_groups(tmp_path):
    """Rows of one group are in two splits, or are not positives of each other."""
    _, _, files = write_latents(tmp_path, 90)
    ids = np.arange(90)[::-1] // 3 * 10**10 - 7  # unsorted, large, negative
    np.save(tmp_path / "g.npy", ids)
    seen = []
    for side in SPLITS:
        split = load("latents", tmp_path, side, groups="g.npy", **files)
        group = ids[numbers(split)]
        expected = np.argwhere(group[:, None] == group[None, :])
        assert sorted(map(tuple, split.pairs)) == sorted(map(tuple, expected))
        assert len(split.pairs) == 3 * len(split.images) == len(split.bare)
        seen.append(set(group))
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert len(set.union(*seen)) == 30


def test_latents_npz(tmp_path):
    """A .npz with one array, or with one named latents, is refused, or the wrong array is taken."""
    a, _, files = write_latents(tmp_path)
    np.savez(tmp_path / "one.npz", whatever=a)
    np.savez(tmp_path / "two.npz", latents=a, other=a + 1)
    np.savez(tmp_path / "bad.npz", x=a, y=a)
    for name in ("one", "two"):
        files["image_latents"] = str(tmp_path / f"{name}.npz")
        split = load("latents", None, "val", **files)
        assert (split.images[0] == a[numbers(split)[0]]).all()
    files["image_latents"] = str(tmp_path / "bad.npz")
    with pytest.raises(DataError, match="bad.npz"):
        load("latents", None, "val", **files)


def test_latents_bad_values(tmp_path):
    """NaN, infinity or a float64 beyond float32 poisons training without a word."""
    a, _, files = write_latents(tmp_path, 20_000, np.float64)
    for value in (np.nan, np.inf, 1e300):
        bad = a.copy()
        bad[17_001, 2] = bad[18_000, 0] = value
        np.save(tmp_path / "a.npy", bad)
        for side in SPLITS:  # wherever the bad row falls
            with pytest.raises(DataError, match="a.npy: row 17001 "):
                load("latents", None, side, **files)


def test_latents_bad_shapes(tmp_path):
    """Unequal rows, integers, vectors, pickles, wrong ids are accepted or end in a traceback."""
    a, b, files = write_latents(tmp_path)
    cases = [
        (a[:-1], r"unequal numbers of rows: \[199, 200\]"),
        (a.astype(int), "a.npy: expected .* of floats"),
        (a.reshape(200, 5, 1), "a.npy: expected"),
        (a.reshape(100, 2, 5), "a.npy: expected"),
        (a.astype(object), "a.npy: no .npy array"),
    ]
    for array, message in cases:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=message):
            load("latents", None, "train", **files)
    np.save(tmp_path / "a.npy", a)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    with pytest.raises(DataError, match="a.npy"):
        load("latents", None, "train", **files)
    np.save(tmp_path / "a.npy", a)
    for ids in (np.zeros(200), np.zeros((200, 1), int)):
        np.save(tmp_path / "g.npy", ids)
        with pytest.raises(DataError, match="g.npy: expected .* of integers"):
            load("latents", tmp_path, "train", groups="g.npy", **files)
    np.save(tmp_path / "g.npy", np.zeros(199, int))
    with pytest.raises(DataError, match="unequal"):
        load("latents", tmp_path, "train", groups="g.npy", **files)
    with pytest.raises(DataError, match="absent.npy"):
        load("latents", tmp_path, "train", image_latents="absent.npy", text_latents="b.npy")
    with pytest.raises(DataError, match="over 100 M pairs"):
        data_latents.mates(np.zeros(20_000, int), "g.npy")


def test_latents_that_cannot_be_learned(tmp_path):
    """Constant rows, one number a row, nine rows or one wild row are trained on: nan, or 0."""
    rng = np.random.default_rng(0)
    a, b, files = (*rng.standard_normal((2, 60, 7)), {})
    np.save(tmp_path / "a.npy", a)
    wild = b.copy()
    wild[13] *= 1e9
    cases = [
        (b[:, :1], "b.npy: rows of one number have no direction"),
        (b * 0 + 0.3, "b.npy: all rows are the same"),
        (b * 0, "b.npy: all rows are the same"),
        (5 + 1e-8 * b, "b.npy: all rows are the same"),
        (b * 1e-9, "b.npy: its numbers are of size .*e-[01][09]; multiply"),
        (b * 1e20, "b.npy: its numbers are of size .*e.[12][09]; multiply"),
        (wild, "b.npy: row 13 is .e.0. times as large as others; leave it out"),
    ]
    files = dict(image_latents="a.npy", text_latents="b.npy")
    for array, message in cases:
        np.save(tmp_path / "b.npy", array.astype(np.float32))
        for side in SPLITS:
            with pytest.raises(DataError, match=message):
                load("latents", tmp_path, side, **files)
    for name, array in dict(a=a, b=b).items():
        np.save(tmp_path / f"{name}.npy", array[:9])
    with pytest.raises(DataError, match="a.npy: 9 rows are too few to be cut into train"):
        load("latents", tmp_path, "train", **files)


def test_latents_of_other_programs(tmp_path, capsys):
    """An axis of a batch of one is refused, byte orders change numbers, zero rows are targets."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 40, 6)).astype(np.float32)
    b[[3, 17, 39]] = a[[3, 8]] = 0
    np.save(tmp_path / "a.npy", a[:, None].astype(">f4"))
    np.save(tmp_path / "b.npy", np.asfortranarray(b))
    seen = []
    for side in SPLITS:
        split = load("latents", tmp_path, side, image_latents="a.npy", text_latents="b.npy")
        for i, j in split.pairs:
            row = int(split.images.name(i).split()[-1])
            assert (split.images[i] == a[row]).all() and (split.captions[j] == b[row]).all()
            seen.append(row)
    assert sorted(seen) == sorted(set(range(40)) - {3, 8, 17, 39})
    assert "skipped 4: a row of zeros (first: row 3)" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------
# keys and the command line


def test_keys_follow_the_files(tmp_path):
    """Latents cached for old files are used for new ones (or are never found again)."""
    trees = {name: tmp_path / name for name in ("coco", "shards", "table", "celeba", "captions")}
    write_coco(trees["coco"], 2014, "val", [1, 2, 3])
    write_shard(trees["shards"] / "cc3m-validation-0000.tar", range(5))
    photos(trees["captions"], 12)
    rows = "".join(f"photo{k}.jpg,x\n" for k in range(12))
    (trees["captions"] / "captions.txt").write_text(rows)
    trees["celeba"].mkdir(exist_ok=True)
    write_celeba(trees["celeba"])
    trees["table"].mkdir()
    table = trees["table"] / "Validation_GCC-1.1.0-Validation.tsv"
    table.write_text("a\tb.jpg\n")
    _, _, latents = write_latents(tmp_path)
    photo = trees["captions"] / load("captions", trees["captions"], "test").images.name(0)
    cases = [
        ("coco", trees["coco"], trees["coco"] / "annotations" / "captions_val2014.json"),
        ("cc3m", trees["shards"], trees["shards"] / "cc3m-validation-0000.tar"),
        ("cc3m", trees["table"], table),
        ("celeba", trees["celeba"], trees["celeba"] / "list_attr_celeba.txt"),
        ("captions", trees["captions"], trees["captions"] / "captions.txt"),
        ("captions", trees["captions"], photo),
        ("latents", None, tmp_path / "b.npy"),
    ]
    for name, root, file in cases:
        options = latents if name == "latents" else {}
        key = load(name, root, "test", **options).key
        assert load(name, root, "test", **options).key == key
        os.utime(file, (1, 1))
        assert load(name, root, "test", **options).key != key, file
    keys = {load("latents", None, side, **latents).key for side in SPLITS}
    assert len(keys) == 3


def run_main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["data.py", *map(str, words)])
    data.main()


def test_command_line(tmp_path, monkeypatch, capsys):
    """`python data.py NAME ROOT` shows no counts or no picture, or errors are tracebacks."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path, 30)
    rows = "".join(f"photo{k}.jpg,costs $_{{ or ${k}\n" for k in range(30))
    (tmp_path / "captions.txt").write_text(rows)
    run_main(monkeypatch, "captions", tmp_path)
    out = capsys.readouterr().out
    assert all(f"\n{side}" in "\n" + out for side in SPLITS)
    assert Image.open("data-captions.png").size[0] > 1000
    with pytest.raises(DataError, match="http://images.cocodataset.org"):
        run_main(monkeypatch, "coco", tmp_path / "nowhere")
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--help")
    assert "python data.py coco ~/coco" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------
# latents: rows that are there twice, files of other kinds


def twice(tmp_path, groups=None):
    """400 rows of latents, of which 100 images are there four times; their texts differ."""
    rng = np.random.default_rng(3)
    a = np.repeat(rng.standard_normal((100, 6)), 4, 0)[rng.permutation(400)].astype(np.float32)
    b = rng.standard_normal((400, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    files = dict(image_latents="a.npy", text_latents="b.npy")
    if groups is not None:
        np.save(tmp_path / "g.npy", groups)
        files["groups"] = "g.npy"
    return a, b, files


def test_first_equal():
    """Equal rows are not found, or found among unequal ones; in parts of a file, too."""
    x = np.array([[5, 1], [2, 2], [5, 1], [1, 5], [2, 2]], np.float16)
    assert data_files.first_equal(x).tolist() == [0, 1, 0, 3, 1]
    long = np.repeat(np.arange(10_000.0), 2)[:, None] * [1, 2]
    assert (data_files.first_equal(long) == np.arange(20_000) // 2 * 2).all()


def test_rows_of_one_image_stay_together(tmp_path, capsys, monkeypatch):
    """A photo with four captions in four rows is in train and in test: its answer is known."""
    monkeypatch.setattr(data_files, "SAID", set())
    a, b, files = twice(tmp_path)
    seen = [set() for _ in SPLITS]
    for n, side in enumerate(SPLITS):
        split = load("latents", tmp_path, side, **files)
        assert len(split.pairs) == 4 * len(split.images)
        for i, j in split.pairs:
            rows = [
                int(items.name(k).split()[-1]) for items, k in zip(split[:2], (i, j), strict=True)
            ]
            assert (a[rows[0]] == a[rows[1]]).all() and (b[rows[1]] == split.captions[j]).all()
            seen[n].add(a[rows[0]].tobytes())
    assert sum(map(len, seen)) == len(set.union(*seen)) == 100
    said = capsys.readouterr().err
    assert said.count("a.npy: 300 of 400 rows are equal to an earlier row; they are split") == 1
    assert "b.npy: " not in said


def test_groups_that_tear_equal_rows_apart(tmp_path, capsys, monkeypatch):
    """The user's own groups are overruled, or what train and test share is not said."""
    monkeypatch.setattr(data_files, "SAID", set())
    _, _, files = twice(tmp_path, np.arange(400))
    assert sum(len(load("latents", tmp_path, side, **files).pairs) for side in SPLITS) == 400
    said = capsys.readouterr().err
    assert "300 of 400 rows are equal to an earlier row; in another group, so train and" in said


def test_equal_texts_are_counted(tmp_path, capsys, monkeypatch):
    """The same ten texts in train and test are not mentioned, or make ten groups of all rows."""
    monkeypatch.setattr(data_files, "SAID", set())
    rng = np.random.default_rng(3)
    np.save(tmp_path / "a.npy", rng.standard_normal((400, 6)).astype(np.float32))
    np.save(
        tmp_path / "b.npy", rng.standard_normal((10, 5)).astype(np.float32)[np.arange(400) % 10]
    )
    files = dict(image_latents="a.npy", text_latents="b.npy")
    assert sum(len(load("latents", tmp_path, side, **files).pairs) for side in SPLITS) == 400
    said = capsys.readouterr().err
    assert "b.npy: 390 of 400 rows are equal to an earlier row of another image" in said
    assert "a.npy: 390" not in said


def test_splits_of_unequal_rows_are_what_they_were(tmp_path):
    """Looking for equal rows moves rows of older runs from test to train."""
    _, _, files = write_latents(tmp_path)
    part = data_files.split_by_hash(np.arange(200), [0.90, 0.95], "")
    for n, side in enumerate(SPLITS):
        split = load("latents", None, side, **files)
        rows = [int(split.images.name(i).split()[-1]) for i in range(len(split.images))]
        assert rows == np.flatnonzero(part == n).tolist()


def test_latents_of_other_kinds_say_what_to_do(tmp_path):
    """Bytes, a file of PyTorch, a folder of parts: refused without a way on."""
    rng = np.random.default_rng(1)
    for dtype in (np.int8, np.uint8):
        np.save(tmp_path / "a.npy", rng.integers(0, 100, (40, 6)).astype(dtype))
        np.save(tmp_path / "b.npy", rng.standard_normal((40, 5)))
        with pytest.raises(DataError, match=f"{dtype.__name__}; if these are rounded.*by their sc"):
            load("latents", tmp_path, "train", image_latents="a.npy", text_latents="b.npy")
    (tmp_path / "a.pt").write_bytes(b"PK")
    (tmp_path / "parts").mkdir()
    for file, said in {"a.pt": "torch.save", "parts": "no parts there"}.items():
        with pytest.raises(DataError, match=said):
            load("latents", tmp_path, "train", image_latents=file, text_latents="b.npy")
    np.save(tmp_path / "a.npy", rng.standard_normal((39, 6)))
    with pytest.raises(DataError, match=r"unequal numbers of rows: \[39, 40\] in"):
        load("latents", tmp_path, "train", image_latents="a.npy", text_latents="b.npy")


@pytest.mark.parametrize("name", ["coco", "cc3m", "celeba", "cifar10", "captions", "latents"])
def test_a_missing_folder_says_which_flag(name):
    """`no folder was given` is the last line, and not what to give."""
    flags = "--image-latents and --text-latents" if name == "latents" else "--data-dir"
    with pytest.raises(DataError) as error:
        load(name, None, "train")
    assert str(error.value).splitlines()[-1].startswith(f"data set {name} not found: give {flags}")
