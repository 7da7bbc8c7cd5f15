"""Shards and tables of CC3M as real downloads leave them: joined, incomplete, quoted."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

import data_cc3m
import data_files
from data import load
from errors import DataError

SPLITS = ("train", "val", "test")


def jpeg(n, kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (n * 5, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def archive(members, kind=tarfile.PAX_FORMAT):
    """The bytes of a tar file of [(name, content), ...]."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def samples(numbers):
    both = [[(f"{n:05}.jpg", jpeg(n)), (f"{n:05}.txt", b"text %d" % n)] for n in numbers]
    return [member for two in both for member in two]


def write_test_shard(root, content):
    (root / "validation").mkdir(parents=True, exist_ok=True)
    (root / "validation" / "00000.tar").write_bytes(content)


def numbers_of(split):
    """The number in each caption, after a look whether its picture is the one of that number."""
    numbers = []
    for i, j in split.pairs:
        n = int(split.captions[j].split()[-1])
        assert abs(split.images[i].getpixel((3, 3))[0] - n * 5) < 8
        numbers.append(n)
    return sorted(numbers)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_one_after_the_other(tmp_path, kind):
    """Of several archives in one file all but the first are lost."""
    parts = [archive(samples(r), kind) for r in (range(7), range(7, 12), range(12, 30))]
    # Another program fills an archive up with other numbers of zeros: at least two blocks.
    short = parts[1].rstrip(b"\0")
    parts[1] = short + bytes(-len(short) % 512 + 1024)
    write_test_shard(tmp_path, b"".join(parts))
    assert numbers_of(load("cc3m", tmp_path, "test")) == list(range(30))


def test_a_pair_in_two_archives_of_a_file(tmp_path):
    """All pictures in one archive, all texts in the next: none of them finds its partner."""
    members = samples(range(9))
    pictures, texts = archive(members[0::2]), archive(members[1::2][::-1])
    write_test_shard(tmp_path, pictures + texts)
    assert numbers_of(load("cc3m", tmp_path, "test")) == list(range(9))


def test_damage_between_archives(tmp_path):
    """A damaged header in the second archive is passed over, and samples with it."""
    first, second = archive(samples(range(4))), archive(samples(range(4, 20)))
    for at in (0, 130, 512 * 8 + 150):
        damaged = bytearray(second)
        damaged[at] ^= 0x55
        write_test_shard(tmp_path, first + bytes(damaged))
        with pytest.raises(DataError, match="00000.tar: truncated, damaged"):
            load("cc3m", tmp_path, "test")
    for rest in (second[:5000], b"no archive at all"):
        write_test_shard(tmp_path, first + rest)
        with pytest.raises(DataError, match="00000.tar: truncated, damaged"):
            load("cc3m", tmp_path, "test")


def test_what_is_left_out_is_told(tmp_path, capsys):
    """Pictures without texts, texts without pictures and copies vanish without a word."""
    members = samples(range(20))
    del members[7], members[19]  # the text of 3, the picture of 10
    members += [("x/00002.jpg", jpeg(2)), ("._00005.jpg", b"Mac OS X"), ("00000.json", b"{}")]
    members += [("alone.PNG", jpeg(1, "PNG"))]
    members.insert(0, ("00001.png", jpeg(9, "PNG")))
    members.insert(0, ("00001.jpg", jpeg(1)))
    write_test_shard(tmp_path, archive(members))
    split = load("cc3m", tmp_path, "test")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"cc3m {tmp_path}: found 18 pairs in 1 tar file")
    assert f"used {len(split.pairs)} for test" in lines[0] and len(split.pairs) == 18
    assert "skipped 1: a hidden file (first: ._00005.jpg)" in lines[0]
    assert "skipped 3: no text for a picture (first: 00003 in" in lines[0]
    assert "skipped 1: no picture for a text (first: 00010 in" in lines[0]
    assert "skipped 2: a second file of its key (first: 00001.png)" in lines[0]


def test_nothing_left(tmp_path):
    """A shard without a single pair ends in a message about hashes, or in none."""
    write_test_shard(tmp_path, archive(samples(range(5))[::2]))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00000.tar").write_bytes(archive([("a.txt", b"a"), ("b.jpg", jpeg(1))]))
    for side in SPLITS:
        with pytest.raises(DataError, match="00000.tar: no pair of a picture and its text"):
            load("cc3m", tmp_path, side)


# --------------------------------------------------------------------------------------------------
# Tables

CAPTIONS = [
    'a "red" car',
    "a plain one",
    'it says "stop"',
    '"all of it"',
    "two\nlines",
    "a\ttab\nand a line",
    '"',
]


def test_quoted_captions(tmp_path):
    """A caption keeps the quotes of the csv module, or is cut at its line break."""
    lines = ["title\tfilepath"]
    for n, caption in enumerate(CAPTIONS):
        quoted = caption
        if set(caption) & set('"\t\n'):
            quoted = '"' + caption.replace('"', '""') + '"'
        lines.append(f"{quoted}\timg/{n}.jpg")
    text = "\n".join(lines) + "\n"
    (tmp_path / "Validation_GCC-1.1.0-Validation_output.csv").write_text(text)
    split = load("cc3m", tmp_path, "test")
    assert list(split.captions) == [" ".join(caption.split()) for caption in CAPTIONS]
    assert [split.images.name(i) for i in range(len(CAPTIONS))] == [
        f"img/{n}.jpg" for n in range(len(CAPTIONS))
    ]


def test_quotes_without_rules(tmp_path):
    """A caption that only begins with a quote swallows the rows after it, or loses a sign."""
    captions = ['"no" he said', '"a quote without end', "plain", 'in the "middle', '"']
    rows = "".join(f"{caption}\timg/{n}.jpg\n" for n, caption in enumerate(captions))
    (tmp_path / "Validation_GCC-1.1.0-Validation.tsv").write_text(rows)
    assert list(load("cc3m", tmp_path, "test").captions) == captions
    (tmp_path / "Validation_GCC-1.1.0-Validation.tsv").write_text('a\tb.jpg\n"a\nb\n')
    with pytest.raises(DataError, match="line 2: a quote is opened and not closed"):
        load("cc3m", tmp_path, "test")


def test_empty_captions_and_headers(tmp_path, capsys):
    """An empty caption is trained on, or a header of other names is taken for a picture."""
    text = 'caption\timage\n\ta.jpg\n""\tb.jpg\na dog\tc.jpg\n'
    (tmp_path / "Validation_GCC-1.1.0-Validation.tsv").write_text(text)
    split = load("cc3m", tmp_path, "test")
    assert list(split.captions) == ["a dog"] and split.images.name(0) == "c.jpg"
    told = capsys.readouterr().err
    assert "found 1 pairs in 1 table file" in told and "skipped 2: an empty caption" in told
    assert "Validation.tsv line 2)" in told


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", '"../a.jpg"'])
def test_paths_stay_in_their_folder(tmp_path, path):
    """A table from a stranger shows files from elsewhere on this computer."""
    table = tmp_path / "set" / "Validation_GCC-1.1.0-Validation.tsv"
    table.parent.mkdir()
    table.write_text(f"a cat\tin/b.jpg\na dog\t{path}\n")
    with pytest.raises(DataError, match="line 2 names a picture outside of"):
        load("cc3m", table.parent, "test")
    inside = f"a dog\t{table.parent}/x/../c..jpg\n"
    table.write_text(inside)
    assert len(load("cc3m", table.parent, "test").images) == 1


def test_rows_point_at_bytes(tmp_path):
    """Offsets of a later archive are counted from its own beginning."""
    path = tmp_path / "joined.tar"
    path.write_bytes(archive(samples(range(3))) + archive(samples(range(3, 5))))
    raw, rows = path.read_bytes(), data_cc3m.scan_tar(str(path), {})
    assert rows.dtype == np.int64 and rows.shape == (5, 5)
    texts = [raw[at : at + size] for _, _, _, at, size in rows]
    assert texts == [b"text %d" % n for n in range(5)]


# --------------------------------------------------------------------------------------------------
# Shards as img2dataset leaves them


def img2dataset(root, shards=3, n=12):
    """00000.tar ... of KEY.jpg, KEY.json, KEY.txt; every sixth download failed; notes beside."""
    root.mkdir(parents=True, exist_ok=True)
    for s in range(shards):
        members = []
        for k in range(s * n, s * n + n):
            key = f"{s:05}{k:04}"
            pair = [(f"{key}.jpg", jpeg(k)), (f"{key}.txt", b"text %d" % k)]
            members += [(f"{key}.json", b"{}"), *(pair if k % 6 != 3 else [])]
        (root / f"{s:05}.tar").write_bytes(archive(members))
        (root / f"{s:05}_stats.json").write_text("{}")
        (root / f"{s:05}.parquet").write_bytes(b"PAR1")


def test_one_set_of_shards_is_split(tmp_path, capsys, monkeypatch):
    """A folder as img2dataset writes it has no `train` in any name, and is refused."""
    img2dataset(tmp_path)
    monkeypatch.setattr(data_files, "SAID", set())
    parts = [numbers_of(load("cc3m", tmp_path, side)) for side in SPLITS]
    assert sorted(sum(parts, [])) == [k for k in range(36) if k % 6 != 3]
    assert len(parts[0]) >= 24 and parts[1] and parts[2]
    said = capsys.readouterr().err
    assert "all 3 tar file(s) are cut into 90 / 5 / 5 %" in said
    assert "skipped 6: a .json alone (first: 000000003 in " in said


def test_train_shards_alone_have_a_test_part(tmp_path, capsys, monkeypatch):
    """The command in TREES makes no validation part: the run would end without its tables."""
    img2dataset(tmp_path / "train", n=16)
    monkeypatch.setattr(data_files, "SAID", set())
    parts = [numbers_of(load("cc3m", tmp_path, side)) for side in SPLITS]
    assert sorted(sum(parts, [])) == [k for k in range(48) if k % 6 != 3]
    assert len(parts[0]) == 38 and parts[1] and parts[2]
    assert "no validation part, so val and test are 0.5 % of train each" in capsys.readouterr().err
    # With its validation part, no pair leaves train, and all of that part tests.
    write_test_shard(tmp_path, archive(samples(range(5))))
    assert set(numbers_of(load("cc3m", tmp_path, "train"))) >= set(parts[0])
    assert numbers_of(load("cc3m", tmp_path, "test")) == list(range(5))
