"""latents.py: a cache that is killed, damaged and starved; a data set in latent space."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders import pictures

import encoders
import latents
from data import load
from encoders import make
from errors import EncoderError
from glyphs import Split
from latents import encode

# --------------------------------------------------------------------------------------------------
# the latent cache


class Items:
    """Numbers with names, of which some cannot be read."""

    def __init__(self, n, broken=()):
        self.n, self.broken, self.read = n, set(broken), []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.read.append(i)
        if i in self.broken:
            raise OSError("cut off")
        return float(i)

    def name(self, i):
        return f"file{i}.jpg"


def counter(seen, stop=None, fingerprint="f" * 16):
    """An encoder of numbers that writes down what it encodes; it is killed by the number `stop`."""

    def run(numbers):
        if stop in numbers:
            raise KeyboardInterrupt
        seen.extend(numbers)
        return np.array([[x, 2 * x, -x] for x in numbers]) + 0.5

    return encoders.Encoder("fake:a/b", "image", fingerprint, 3, float, run)


def expected(n, broken=()):
    x = np.arange(n, dtype=np.float32)
    z = np.stack([x, 2 * x, -x], 1) + np.float32(0.5)
    z[list(broken)] = 0
    return z


def finished(folder):
    return sorted(p.suffix for p in Path(folder).iterdir())


@pytest.mark.parametrize("workers", [0, 3])
def test_cache_hit(tmp_path, workers):
    """Rows are out of order, or a second call computes them again."""
    seen = []
    z, broken = encode(counter(seen), Items(1000), "key", tmp_path / "new", 64, workers)
    assert np.array_equal(z, expected(1000)) and z.dtype == np.float32
    assert isinstance(z, np.memmap) and not z.flags.writeable
    assert broken.dtype == np.int64 and broken.shape == (0,)
    assert seen == list(range(1000))
    assert finished(tmp_path / "new") == [".json", ".npy"]
    assert "fake-a-b-image" in next((tmp_path / "new").glob("*.npy")).name
    z, _ = encode(counter(seen), Items(1000), "key", tmp_path / "new", 64)
    assert np.array_equal(z, expected(1000)) and len(seen) == 1000


def test_cache_key(tmp_path):
    """Other items, another encoder or another number of items gets the old latents."""
    seen = []
    for key, n, name in ("a", 5, "f"), ("b", 5, "f"), ("a", 6, "f"), ("a", 5, "g"), ("a", 5, "f"):
        encode(counter(seen, fingerprint=name), Items(n), key, tmp_path)
    assert len(seen) == 5 + 5 + 6 + 5


def test_resume_after_a_kill(tmp_path, monkeypatch):
    """A killed run starts again from nothing, or leaves a hole, or passes for finished."""
    monkeypatch.setattr(latents, "FLUSH", 0.0)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        encode(counter(seen, stop=57), Items(100), "key", tmp_path, batch=10)
    assert finished(tmp_path) == [".json", ".part"] and seen == list(range(50))
    z, _ = encode(counter(seen), Items(100), "key", tmp_path, batch=16)
    assert seen == list(range(100)) and np.array_equal(z, expected(100))
    assert finished(tmp_path) == [".json", ".npy"]


def test_resume_needs_its_own_part(tmp_path, monkeypatch):
    """A part file that is cut, or whose record is of something else, is taken for good."""
    monkeypatch.setattr(latents, "FLUSH", 0.0)
    for damage in ("cut", "garbage", "other", "rows", "minus", "nan", "empty"):
        seen, folder = [], tmp_path / damage
        with pytest.raises(KeyboardInterrupt):
            encode(counter(seen, stop=57), Items(100), "key", folder, batch=10)
        part, record = next(folder.glob("*.part")), next(folder.glob("*.part.json"))
        if damage == "cut":
            part.write_bytes(part.read_bytes()[:500])
        if damage == "garbage":
            record.write_text('{"rows": 5')
        if damage == "other":
            record.write_text(record.read_text().replace('"key"', '"yek"', 1))
        if damage in ("rows", "minus"):
            told = '"rows": 5000' if damage == "rows" else '"rows": -7'
            record.write_text(record.read_text().replace('"rows": 50', told))
        if damage == "nan":
            np.load(part, mmap_mode="r+")[20] = np.nan
        if damage == "empty":
            part.write_bytes(b"")
        seen.clear()
        z, _ = encode(counter(seen), Items(100), "key", folder, batch=10)
        assert seen == list(range(100)) and np.array_equal(z, expected(100))


DAMAGES = "cut longer bytes broken json meta empty zip folder no-json nested nan".split()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_caches_are_built_again(tmp_path, capsys, damage):
    """Latents of a truncated, altered or foreign file are used, or the repair is not reported."""
    seen = []
    encode(counter(seen), Items(3000), "key", tmp_path)
    npy, record = next(tmp_path.glob("*.npy")), next(tmp_path.glob("*.json"))
    data = npy.read_bytes()
    if damage == "cut":
        npy.write_bytes(data[:-40])
    if damage == "longer":
        npy.write_bytes(data + b"\0")
    if damage == "bytes":
        npy.write_bytes(data[:20000] + b"\1\2\3\4" + data[20004:])
    if damage == "broken":
        record.write_text(record.read_text().replace('"broken": []', '"broken": [1]'))
    if damage == "json":
        record.write_text(record.read_text()[:-10])
    if damage == "meta":
        record.write_text(record.read_text().replace("f" * 16, "e" * 16))
    if damage == "empty":
        npy.write_bytes(b"")  # NumPy's EOFError
    if damage == "zip":
        np.savez(npy.with_suffix(".npz"), latents=expected(3000))
        npy.with_suffix(".npz").rename(npy)
    if damage == "no-json":
        record.write_bytes(b"")
    if damage == "nested":
        record.write_text("[" * 100_000)  # json's RecursionError
    if damage == "nan":  # with the checksum that belongs to it
        x = expected(3000)
        x[1234, 1] = np.nan
        np.save(npy, x)
        saved = json.loads(record.read_text())
        record.write_text(json.dumps(saved | {"crc32": latents.checksum(npy, [])}))
    if damage == "folder":
        record.unlink()
        record.mkdir()
        with pytest.raises(EncoderError, match="cannot write the cache"):
            encode(counter(seen), Items(3000), "key", tmp_path)
        return
    z, broken = encode(counter(seen), Items(3000), "key", tmp_path)
    assert len(seen) == 6000 and np.array_equal(z, expected(3000)) and len(broken) == 0
    report = capsys.readouterr().err
    assert report.count("encoding again") == 1 and npy.name in report


def test_the_checksum_is_of_the_whole_file(tmp_path):
    """A byte in the middle of a large file, or a longer list of broken items, changes nothing."""
    file, size = tmp_path / "large", 2**23 + 5
    data = np.random.default_rng(0).bytes(size)
    sums = set()
    for position in (None, 0, 2**20 - 1, 2**20, 2**22 + 7, size - 1):
        changed = bytearray(data)
        if position is not None:
            changed[position] ^= 255
        file.write_bytes(changed)
        sums.add(latents.checksum(file, []))
    sums.add(latents.checksum(file, [7]))
    assert len(sums) == 7


def test_broken_items_are_zero_and_named(tmp_path, capsys):
    """A broken file stops the run, shifts the rows after it, or is not reported."""
    seen, bad = [], [3, 100, 101, 350, 399, 777, 900]
    z, broken = encode(counter(seen), Items(1000, bad), "key", tmp_path, batch=50, workers=2)
    assert broken.tolist() == bad and np.array_equal(z, expected(1000, bad))
    report = capsys.readouterr().err
    assert [i for i in bad if f"file{i}.jpg" in report] == bad[:5] and "7 of 1000" in report
    z, broken = encode(counter(seen), Items(1000), "key", tmp_path)
    assert broken.tolist() == bad and len(seen) == 993


def test_a_picture_that_is_cut_off(tmp_path):
    """Pillow decodes late: a truncated file gets past the reader and stops the encoder."""
    for i, image in enumerate(pictures(120)):
        image.save(tmp_path / f"{i}.png")
    cut = tmp_path / "7.png"
    cut.write_bytes(cut.read_bytes()[:3000])

    class Folder(list):
        def __getitem__(self, i):
            return Image.open(tmp_path / f"{i}.png")

    pca = make("pca:3", "image", Folder(range(20)))
    z, broken = encode(pca, Folder(range(120)), "key", tmp_path / "cache", batch=32)
    assert (
        broken.tolist() == [7] and np.abs(z[8] - pca([Image.open(tmp_path / "8.png")])).max() < 1e-5
    )


def test_too_many_broken_items(tmp_path, capsys):
    """A wrong folder is read to its end, or leaves a cache of zeros."""
    seen, bad = [], list(range(200, 220))
    items = Items(1000, bad)
    with pytest.raises(EncoderError, match="more than 1 %") as caught:
        encode(counter(seen), items, "key", tmp_path, batch=50)
    assert "file200.jpg" in str(caught.value)
    assert max(items.read) < 400 and finished(tmp_path) == [".json", ".part"]
    seen.clear()
    z, broken = encode(counter(seen), Items(1000), "key", tmp_path, batch=50)  # repaired
    assert sorted(seen) == bad + list(range(250, 1000))
    assert np.array_equal(z, expected(1000)) and len(broken) == 0


def test_broken_items_of_a_killed_run_are_tried_again(tmp_path, monkeypatch):
    """What a killed run could not read is forgotten, or counted twice."""
    monkeypatch.setattr(latents, "FLUSH", 0.0)
    with pytest.raises(KeyboardInterrupt):
        encode(counter([], stop=577), Items(1000, [5, 6, 70]), "key", tmp_path, batch=10)
    with pytest.raises(KeyboardInterrupt):  # again, while the third broken one is tried
        encode(counter([], stop=70), Items(1000, [6]), "key", tmp_path, batch=2)
    items = Items(1000, [6, 70, 800])
    z, broken = encode(counter([]), items, "key", tmp_path, batch=2)
    assert broken.tolist() == [6, 70, 800] and np.array_equal(z, expected(1000, broken))
    assert items.read == [6, 70] + list(range(570, 1000))


def test_nan_is_named(tmp_path):
    """An encoder that overflows fills the cache with NaN."""
    encoder = counter([])._replace(run=lambda x: np.log(42.0 - np.array([x, x, x]).T))
    with np.errstate(all="ignore"), pytest.raises(EncoderError, match="NaN or Inf for file42.jpg"):
        encode(encoder, Items(60), "key", tmp_path, batch=25)
    assert not list(tmp_path.glob("*.npy"))


def test_wrong_width_and_no_items(tmp_path):
    """Latents of another width than promised, or none at all, give a file that is nonsense."""
    with pytest.raises(EncoderError, match="expected latents"):
        encode(counter([])._replace(dim=4), Items(10), "key", tmp_path)
    with pytest.raises(EncoderError, match="no images to encode"):
        encode(counter([]), Items(0), "key", tmp_path)


def test_disk_errors_are_one_line(tmp_path, monkeypatch):
    """A full disk or a folder that is a file ends in a stack trace, or in a bus error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EncoderError, match="cannot write the cache") as caught:
        encode(counter([]), Items(10), "key", tmp_path / "file")
    assert "\n" not in str(caught.value)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EncoderError, match="No space left on device"):
        encode(counter([]), Items(10), "key", tmp_path / "new")
    assert finished(tmp_path / "new") == []  # no file that promises room it does not have


def test_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    """Hours of encoding are lost because there was no room for the record of 100 bytes."""

    def full(path, text):
        raise OSError(28, "No space left on device")

    seen = []
    with monkeypatch.context() as patch, pytest.raises(EncoderError, match="No space left"):
        patch.setattr(Path, "write_text", full)
        encode(counter(seen), Items(100), "key", tmp_path)
    assert finished(tmp_path) == [".json", ".part"]
    z, _ = encode(counter(seen), Items(100), "key", tmp_path)
    assert np.array_equal(z, expected(100)) and seen == list(range(100))


def test_a_complete_cache_needs_no_right_to_write(tmp_path, monkeypatch):
    """The cache of a class, read-only to its students, cannot be used."""
    encode(counter([]), Items(10), "key", tmp_path)

    def forbidden(path, *how, **options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(latents, "Lock", forbidden)
    z, _ = encode(counter([]), Items(10), "key", tmp_path)
    assert np.array_equal(z, expected(10))
    with pytest.raises(EncoderError, match="cannot write the cache .*Permission denied"):
        encode(counter([]), Items(10), "another key", tmp_path)


# --------------------------------------------------------------------------------------------------
# two runs at once


def slow(folder, pause=0.02):
    """An encoder that takes its time, and writes what it has seen to a file of all processes."""

    def run(numbers):
        time.sleep(pause)
        with open(folder / "seen", "a") as f:
            f.write("".join(f"{int(x)} " for x in numbers))
        return np.array([[x, 2 * x, -x] for x in numbers]) + 0.5

    return counter([])._replace(run=run)


def side_by_side(work, n):
    """Starts n processes that call work(k); forked, they need no time for imports."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(k,)) for k in range(n)]
    for process in processes:
        process.start()
    return processes


def until(condition, seconds=60):
    """Waits for a condition; fails when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(processes):
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_two_processes_on_one_fresh_cache(tmp_path):
    """One of them dies, reads rows of zeros, or encodes everything again."""
    trials, together = 15, multiprocessing.get_context("fork").Barrier(2)

    def work(k):
        for trial in range(trials):
            folder = tmp_path / str(trial)
            folder.mkdir(exist_ok=True)
            together.wait(60)
            z, broken = encode(slow(folder), Items(40, [7]), "key", folder / "cache", batch=10)
            assert np.array_equal(z, expected(40, [7])) and broken.tolist() == [7]

    # One broken item of 40 is over 1 %.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "MAY_BE_BROKEN", 0.1)
        assert ended(side_by_side(work, 2)) == [0, 0]
    for trial in range(trials):
        seen = (tmp_path / str(trial) / "seen").read_text().split()
        assert seen == [str(x) for x in range(40) if x != 7]
        assert finished(tmp_path / str(trial) / "cache") == [".json", ".npy"]


def test_who_waits_goes_on_when_the_other_is_killed(tmp_path, monkeypatch, capfd):
    """A second run waits for ever for one that is dead, begins again, or waits without a word."""
    monkeypatch.setattr(latents, "FLUSH", 0.0)

    def work(k):
        z, _ = encode(slow(tmp_path, 0.1), Items(60), "key", tmp_path / "cache", batch=10)
        assert np.array_equal(z, expected(60))

    def rows():
        record = next((tmp_path / "cache").glob("*.part.json"), None)
        return json.loads(record.read_text())["rows"] if record else 0

    first = side_by_side(work, 1)
    until(lambda: rows() >= 20)
    second = side_by_side(work, 1)
    until(lambda: "waiting" in "".join(capfd.readouterr()))
    os.kill(first[0].pid, signal.SIGKILL)
    assert ended(first + second) == [-signal.SIGKILL, 0]
    seen = (tmp_path / "seen").read_text().split()
    assert sorted(map(int, set(seen))) == list(range(60)) and len(seen) <= 70  # one batch twice


# --------------------------------------------------------------------------------------------------
# a data set, encoded


def small_split():
    """6 images and 5 captions: 1 is broken, 4 names two images alike; pairs in no order."""
    pairs = np.array([[2, 0], [0, 3], [1, 1], [4, 2], [5, 2], [1, 4], [3, 4]])
    bare = np.array([False, False, False, False, False, True, True])
    items = Items(300, [1])  # one broken item of 300 is less than 1 %
    return Split(items, Items(5), pairs, bare, "key")


def two_encoders():
    """Image i -> (i, 2 i, -i) + 0.5; caption j -> (j, 10 j)."""

    def texts(numbers):
        return np.array([[x, 10 * x] for x in numbers])

    text = encoders.Encoder("fake-text", "text", "e" * 16, 2, float, texts)
    return counter([]), text


def test_pairs_of_a_broken_image_disappear(tmp_path, capsys):
    """Training sees the zeros that stand for a broken image, or loses the pairs of others."""
    found = latents.encode_split(small_split(), *two_encoders(), tmp_path)
    assert found.full.tolist() == [0, 1, 3, 4] and found.bare.tolist() == [6]
    assert "1 of 300 images" in capsys.readouterr().err


@pytest.mark.parametrize("direction", latents.DIRECTIONS)
def test_latents_of_a_direction(tmp_path, direction):
    """Condition and target change places, or c and z are rows of different pairs."""
    split = small_split()
    found = latents.encode_split(split, *two_encoders(), tmp_path)
    rows = np.array([4, 0, 6, 1])  # images 5, 2, 3, 0 and captions 2, 0, 4, 3
    image = torch.tensor(expected(6)[[5, 2, 3, 0]])
    text = torch.tensor([[2.0, 20.0], [0.0, 0.0], [4.0, 40.0], [3.0, 30.0]])
    c, z = found.of(direction, rows)
    wanted = (text, image) if direction == "text->image" else (image, text)
    assert torch.equal(c, wanted[0]) and torch.equal(z, wanted[1])
    assert c.dtype == z.dtype == torch.float32
    assert found.dims(direction) == (c.shape[1], z.shape[1])


def test_chunks_are_all_full_pairs_once(tmp_path):
    """The last, shorter chunk is lost, a pair comes twice, or bare captions come along."""
    found = latents.encode_split(small_split(), *two_encoders(), tmp_path)
    chunks = list(found.chunks("image->text", size=3))
    assert [len(c) for c, _ in chunks] == [3, 1]
    c, z = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    wanted = found.of("image->text", found.full)
    assert torch.equal(c, wanted[0]) and torch.equal(z, wanted[1])


def test_vectors_are_neither_cached_nor_copied(tmp_path):
    """`none` writes gigabytes of vectors that are on the disk already, or mixes their rows up."""
    a = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float16)
    b = np.random.default_rng(1).normal(size=(90, 3))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    split = load("latents", tmp_path, "train", image_latents="a.npy", text_latents="b.npy")
    image, text = make("none", "image", split.images), make("none", "text", split.captions)
    found = latents.encode_split(split, image, text, tmp_path / "cache")
    assert found.image is split.images and found.text is split.captions
    assert not (tmp_path / "cache").exists()
    assert found.full.tolist() == list(range(len(split.pairs))) and len(found.bare) == 0
    in_file = np.array([int(split.images.name(i).split()[-1]) for i in range(len(split.images))])
    for direction in latents.DIRECTIONS:
        c, z = found.of(direction, np.array([7, 0, 30]))
        i = in_file[split.pairs[[7, 0, 30], 0]]
        wanted = [b[i], a[i]] if direction == "text->image" else [a[i], b[i]]
        assert np.array_equal(c, wanted[0].astype(np.float32))
        assert np.array_equal(z, wanted[1].astype(np.float32))
        assert found.dims(direction) == ((3, 4) if direction == "text->image" else (4, 3))


def test_items_are_looked_at_before_anything_is_encoded(tmp_path):
    """Captions without a text encoder are noticed when all images have been encoded."""
    image, text = two_encoders()
    seen, split = [], small_split()
    words = split._replace(captions=["a", "b", "c", "d", "e"])
    with pytest.raises(EncoderError, match="none is for vectors .*captions"):
        latents.encode_split(words, counter(seen), make("none", "text"), tmp_path)
    vectors = split._replace(captions=np.zeros((5, 3)))
    with pytest.raises(EncoderError, match="fake-text encodes captions, these are vectors"):
        latents.encode_split(vectors, counter(seen), text, tmp_path)
    assert seen == []


def test_one_side_may_be_vectors(tmp_path):
    """With vectors on one side, the broken images of the other side are forgotten."""
    split = small_split()._replace(captions=np.arange(10, dtype=np.float32).reshape(5, 2))
    image, none = two_encoders()[0], make("none", "text", np.zeros((1, 2)))
    found = latents.encode_split(split, image, none, tmp_path)
    assert found.text is split.captions and found.full.tolist() == [0, 1, 3, 4]
    c, z = found.of("text->image", np.array([3]))
    assert c.tolist() == [[4, 5]] and z.tolist() == expected(5)[[4]].tolist()
