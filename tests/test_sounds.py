"""
Sounds: .wav files, log-mel pictures and back, glyphs that are heard, faces and voices on disk.

Oracles are closed forms: a pure tone, the code written out in loops, a tree that is written here.
"""

import math
import struct
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate_bridge import CPU, PAIRS, make, rows_of  # noqa: F401, a fixture

import bridge_scores
import bridge_sounds
import data_voxceleb
import evaluate_bridge
import glyph_sounds
import glyphs
import metrics
import runs
import sounds
import train_bridge
from data_pairs import load_pairs
from errors import DataError, RunError
from glyph_sounds import FREQUENCIES, HEARD, LOUDNESS
from runs import BridgeRun
from sounds import Mel

SPLITS = ("train", "val", "test")
SMALL = Mel(rate=6000, seconds=0.5, side=20, low=100.0, least=256)  # hop 150, window 512


def write(path, numbers, width=2, rate=8000):
    """numbers (n, channels) -> a .wav of integers of `width` bytes, by the standard library."""
    numbers = np.atleast_2d(np.asarray(numbers, np.int64).T).T
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as f:
        f.setnchannels(numbers.shape[1])
        f.setsampwidth(width)
        f.setframerate(rate)
        for row in numbers:
            for v in row:
                v = int(v) + 128 if width == 1 else int(v)
                f.writeframes(v.to_bytes(width, "little", signed=width > 1))
    return path


def write_tone(path, frequency, seconds=0.4, rate=16_000, amplitude=0.5):
    t = np.arange(round(seconds * rate)) / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    sounds.write_wav(str(path), amplitude * np.sin(2 * np.pi * frequency * t), rate)


def header(path, tag, bits=24, extra=b"", data=b"\0" * 6):
    """A .wav file of one channel whose format has the number `tag`."""
    size = bits // 8
    fmt = struct.pack("<HHIIHH", tag, 1, 8000, 8000 * size, size, bits) + extra
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


# --------------------------------------------------------------------------------------------------
# files


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_is_read_exactly(tmp_path, width):
    """24-bit samples lose their sign, 8-bit ones are not centred, or a width has another unit."""
    most = 2 ** (8 * width - 1)
    numbers = [0, 1, -1, most // 3, -most // 5, most - 1, -most]
    x, rate = sounds.read_wav(write(tmp_path / "a.wav", numbers, width, 7000))
    assert rate == 7000 and x.dtype == np.float32 and x.shape == (7,)
    assert x == pytest.approx(np.array(numbers) / most, abs=1e-7)


def test_channels_are_mixed_by_their_mean(tmp_path, capsys):
    """Left alone is heard, or the channels are taken for one twice as long."""
    write(tmp_path / "a.wav", [[100, 300, -40], [0, -900, 30]])
    x, _ = sounds.read_wav(tmp_path / "a.wav")
    assert x == pytest.approx(np.array([120, -290]) / 2**15, abs=1e-7)
    assert "3 channels are mixed to one" in capsys.readouterr().err


def test_extensible_pcm_is_pcm(tmp_path):
    """24-bit files, as many programs write them, are refused."""
    guid = b"\1\0" + bytes.fromhex("000000001000800000aa00389b71")
    extra = struct.pack("<HHI", 22, 24, 4) + guid
    path = header(tmp_path / "a.wav", 0xFFFE, extra=extra, data=b"\0\0\x40\0\0\xc0")
    assert sounds.read_wav(path)[0].tolist() == [0.5, -0.5]
    floats = b"\3\0" + guid[2:]
    with pytest.raises(DataError, match="a.wav: no .wav that can be read"):
        sounds.read_wav(header(path, 0xFFFE, 32, struct.pack("<HHI", 22, 32, 4) + floats))


@pytest.mark.parametrize("tag, bits", [(3, 32), (6, 8), (7, 8), (85, 16)])
def test_floats_and_compressed_sounds_are_refused(tmp_path, tag, bits):
    """Floats are read as integers, a noise; or the message does not say what to do."""
    path = header(tmp_path / "loud.wav", tag, bits)
    with pytest.raises(DataError, match=r"loud.wav: no .wav that can be read .*ffmpeg") as error:
        sounds.read_wav(path)
    assert "\n" not in str(error.value)


def test_broken_sounds_are_refused(tmp_path):
    """A file that was cut short ends in silence, and nobody hears of it."""
    path = write(tmp_path / "a.wav", np.arange(50))
    raw = path.read_bytes()
    path.write_bytes(raw[:-20])
    with pytest.raises(DataError, match="a.wav: cut short: 40 of 50 samples"):
        sounds.read_wav(path)
    assert len(sounds.read_wav(path, seconds=0.004)[0]) == 32  # what is wanted of it is there
    for broken in (b"", b"RIFF", raw[:30], b"a picture"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="a.wav: no .wav"):
            sounds.read_wav(path)
    with pytest.raises(DataError, match="without samples"):
        sounds.read_wav(write(path, np.zeros((0, 1))))


def test_written_sounds_are_whole_and_cut_at_one(tmp_path):
    """What is louder than 1 turns round to -1, or a temporary file stays behind."""
    path = tmp_path / "a.wav"
    sounds.write_wav(str(path), torch.tensor([0.0, 0.25, 1.7, -3.0]), 9000)
    x, rate = sounds.read_wav(path)
    assert rate == 9000 and x == pytest.approx([0, 0.25, 1, -1], abs=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_resampling_keeps_pitch_and_loudness():
    """A resampled voice is higher, shorter or softer, or what is too high comes back as noise."""
    t = np.arange(4410) / 44_100
    tone = 0.7 * np.sin(2 * np.pi * 440 * t + 1)
    found = sounds.resample(tone + 0.2 * np.sin(2 * np.pi * 9000 * t), 44_100, 16_000)
    expected = 0.7 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16_000 + 1)
    assert found.shape == (1600,) and np.abs(found - expected).max() < 1e-3
    assert np.abs(sounds.resample(tone, 44_100, 88_200)[::2] - tone).max() < 1e-3
    assert sounds.resample(tone, 8000, 8000) is tone


# --------------------------------------------------------------------------------------------------
# pictures


def band_of(frequency, how):
    """The place of a frequency among the bands, a float: 0 is the middle of the lowest."""
    mel = [2595 * math.log10(1 + f / 700) for f in (how.low, frequency, how.rate / 2)]
    return (mel[1] - mel[0]) / (mel[2] - mel[0]) * (how.side + 1) - 1


@pytest.mark.parametrize("frequency", [330.0, 800.0, 2100.0])
def test_a_tone_lights_its_band_at_its_time(frequency):
    """Time runs the wrong way, high is low, or a band is a neighbour's."""
    t = np.arange(SMALL.length) / SMALL.rate
    on = (t >= 0.3) & (t < 0.4)
    tone = torch.from_numpy(0.5 * np.sin(2 * np.pi * frequency * t) * on).float()[None]
    picture = sounds.log_mel(tone, SMALL)
    assert picture.dtype == torch.uint8 and picture.shape == (1, 1, 20, 20)
    row, column = np.unravel_index(picture[0, 0].argmax(), (20, 20))
    assert abs((19 - row) - band_of(frequency, SMALL)) <= 0.75
    assert 0.3 < (column + 0.5) * 0.025 < 0.4
    # A window has 85 ms: beyond half of that, and half a hop, nothing is heard before or after.
    assert not picture[..., :9].any() and not picture[..., 18:].any()


def test_decibels_by_hand():
    """0 dB is not a tone of amplitude 1, or 20 dB less are not a quarter of the 80."""
    t = torch.arange(SMALL.length) / SMALL.rate
    for amplitude in (1.0, 0.1):
        energy = sounds.mel_energies(amplitude * torch.sin(2 * torch.pi * 1000 * t)[None], SMALL)
        steady = energy[0, :, 5:15].sum(0)
        assert steady == pytest.approx(np.full(10, amplitude**2), rel=0.02)
    # Of one band alone: the pixel of a given energy.
    energy = torch.full((1, 1, 4, 4), 1.0)
    for decibel, pixel in ((0, 255), (-20, 191), (-80, 0)):
        shown = 255 * (1 + decibel / 80)
        assert round(shown) == pixel
        back = sounds.energies_of(energy * pixel, SMALL._replace(side=4))
        expected = 10 ** (decibel / 10) if pixel else 0
        assert back.numpy() == pytest.approx(expected, rel=0.03)


def test_log_mel_by_loops():
    """A window, a sum or a triangle differs from what the docstring says."""
    how = Mel(rate=1000, seconds=0.06, side=3, low=20.0, least=32)
    assert (how.hop, how.window, how.length) == (20, 64, 60)
    x = np.random.default_rng(0).normal(size=60) * 0.2
    W, hop, S = how.window, how.hop, how.side
    w = [0.5 - 0.5 * math.cos(2 * math.pi * n / W) for n in range(W)]
    edges = [20 + 0.0, 500.0]
    low, high = (2595 * math.log10(1 + f / 700) for f in edges)
    expected = np.zeros((S, S))
    for k in range(S):
        start = round((k + 0.5) * hop) - W // 2
        piece = [x[start + n] if 0 <= start + n < 60 else 0.0 for n in range(W)]
        for f in range(W // 2 + 1):
            X = sum(
                w[n] * piece[n] * complex(math.cos(a := -2 * math.pi * f * n / W), math.sin(a))
                for n in range(W)
            )
            P = 4 * abs(X) ** 2 / (W * sum(v * v for v in w))
            mel = 2595 * math.log10(1 + f * 1000 / W / 700)
            for b in range(S):
                place = (mel - low) / (high - low) * (S + 1)
                expected[b, k] += max(0.0, 1 - abs(place - b - 1)) * P
    found = sounds.mel_energies(torch.from_numpy(x).float()[None], how)[0]
    assert found.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    picture = sounds.log_mel(torch.from_numpy(x).float()[None], how)[0, 0].numpy()
    shown = np.rint(np.clip(255 * (1 + np.log10(expected) / 8), 0, 255))
    assert np.abs(picture[::-1].astype(float) - shown).max() <= 1


def test_pieces_make_the_sound_again():
    """Overlapping pieces are added without their weights, or in the wrong place."""
    x = torch.randn(3, SMALL.length, generator=torch.Generator().manual_seed(0))
    again = sounds.sound_of(sounds.spectrum_of(x, SMALL), SMALL)
    assert torch.allclose(again, x, atol=1e-4)


def test_what_is_heard_looks_like_the_picture():
    """Griffin and Lim end at another pitch, another loudness, or at noise."""
    t = torch.arange(SMALL.length) / SMALL.rate
    tone = 0.3 * torch.sin(2 * torch.pi * (400 + 2000 * t) * t) * (t > 0.1)
    picture = sounds.log_mel(tone[None], SMALL)
    heard = sounds.listen(picture, SMALL)
    assert heard.shape == (1, SMALL.length)
    assert torch.equal(heard, sounds.listen(picture, SMALL))
    assert heard.std().item() == pytest.approx(tone.std().item(), rel=0.15)
    energies = [sounds.energies_of(p, SMALL) for p in (picture, sounds.log_mel(heard, SMALL))]
    assert np.corrcoef(energies[0].flatten(), energies[1].flatten())[0, 1] > 0.9
    assert not sounds.listen(torch.zeros(1, 1, 20, 20), SMALL).any()


@pytest.mark.parametrize("seconds", [0.5, 1, 2.56, 7, 60])
def test_no_band_is_empty_and_no_moment_is_missed(seconds):
    """At some lengths a row of every picture is black, or sounds fall between two pieces."""
    how = sounds.SPEECH._replace(seconds=seconds)
    assert (sounds.mel_matrix(how).sum(1) > 0.1).all()
    assert how.window >= 2 * how.hop and how.length / how.rate == pytest.approx(seconds, rel=0.01)


def test_main_makes_a_wav_of_a_wav(tmp_path, capsys):
    """`python sounds.py a.wav b.wav` stops, or writes at another rate."""
    write_tone(tmp_path / "a.wav", 600, rate=11_025)
    sounds.main([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")])
    x, rate = sounds.read_wav(tmp_path / "b.wav")
    assert rate == 16_000 and len(x) == 40_960
    peak = np.abs(np.fft.rfft(x[1000:6000])).argmax() * rate / 5000
    assert peak == pytest.approx(600, abs=25)
    with pytest.raises(SystemExit):
        sounds.main([])


# --------------------------------------------------------------------------------------------------
# pictures and sounds in two folders


def test_pairs_of_pictures_and_sounds(tmp_path, capsys):
    """A .wav is passed over, is of another length than the others, or is said of each file."""
    for n in range(13):
        (tmp_path / "source").mkdir(exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (5, 7, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"source/{n}.png")
        write_tone(tmp_path / f"target/{n}.wav", 300 + 200 * n, 0.2 + 0.3 * n, 8000 + 1000 * n)
    pairs = load_pairs("pairs", str(tmp_path))
    y, x = pairs.of(np.arange(len(pairs.x)))
    assert y.shape[1:] == (3, 5, 7) and x.shape[1:] == (1, 128, 128) and x.dtype == np.uint8
    told = capsys.readouterr().err
    assert told.count("is read as the log-mel picture (1, 128, 128) of its first 2.56 s") == 1
    assert "skipped" not in told
    for i in range(len(pairs.x)):
        n = int(pairs.x.name(i).split("/")[-1][:-4])
        band = 127 - int(x[i, 0, :, 5].argmax())
        assert abs(band - band_of(300 + 200 * n, sounds.SPEECH)) <= 1.5
        end = (0.2 + 0.3 * n) / 2.56 * 128
        assert not x[i, 0, :, int(end) + 3 :].any() and x[i, 0, :, : int(end) - 2].any(0).all()
    longer = load_pairs("pairs", str(tmp_path), seconds=5.12)
    assert longer.key != pairs.key and (longer.of([0])[1] != pairs.of([0])[1]).any()


def test_seconds_reach_the_loader():
    """--seconds is ignored, or is taken where there is no sound."""
    args = train_bridge.parse("--dataset voxceleb --data-dir d --seconds 3 --size 32".split())
    assert runs.data_options(args) == {"size": 32, "seconds": 3.0}
    with pytest.raises(RunError, match="--seconds is for pairs, voxceleb, voxceleb-faces"):
        train_bridge.parse("--dataset glyph-sounds --seconds 3".split())
    with pytest.raises(RunError, match="--seconds 0.01: it has to be between 0.5"):
        train_bridge.parse("--dataset pairs --seconds 0.01".split())
    del args.seconds  # a run of an older version
    assert runs.data_options(args) == {"size": 32}


# --------------------------------------------------------------------------------------------------
# glyphs that are heard


def test_the_code_by_loops():
    """Columns are played from the right, rows upside down, or phases are another row's."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (2, 1, 32, 32)) * (rng.random((2, 1, 32, 32)) < 0.1)
    phases = rng.uniform(0, 6, (2, 32))
    found = glyph_sounds.play(picture, phases)
    assert found.shape == (2, 8000)
    t = np.arange(8000)
    middles = np.concatenate([[-125], 125 + 250 * np.arange(32), [8125]])
    for b in range(2):
        expected = np.zeros(8000)
        for i in range(32):
            loud = np.interp(t, middles, [0, *picture[b, 0, i] / 255, 0])
            f = 500 * 7 ** ((31 - i) / 31)
            expected += loud * np.sin(2 * np.pi * f * t / 8000 + phases[b, i]) / 16
        assert np.abs(found[b].numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("row, column", [(0, 3), (31, 20), (12, 31)])
def test_a_pixel_is_heard_at_its_time_and_pitch(row, column):
    """A column is heard at another time, a row at another pitch: seen in the picture of it."""
    picture = np.zeros((1, 1, 32, 32), np.uint8)
    picture[0, 0, row, column] = 255
    sound = glyph_sounds.play(picture, np.ones((1, 32)))[0].numpy()
    power = np.abs(np.fft.rfft(sound)) ** 2  # bins of 1 Hz
    assert power.argmax() == pytest.approx(500 * 7 ** ((31 - row) / 31), abs=12)
    where = (np.arange(8000) * sound**2).sum() / (sound**2).sum() / 8000
    assert where == pytest.approx((column + 0.5) / 32, abs=0.004)
    seen = sounds.log_mel(torch.from_numpy(sound)[None], HEARD)[0, 0]
    i, j = np.unravel_index(seen.argmax(), (64, 64))
    assert abs((63 - i) - band_of(FREQUENCIES[row].item(), HEARD)) <= 1
    assert j in (2 * column, 2 * column + 1)
    assert np.abs(sound).max() == pytest.approx(LOUDNESS, rel=0.05)


@pytest.fixture(scope="module")
def letters():
    """60 held-out glyphs (60, 1, 32, 32), and their sounds."""
    pictures = glyphs.draw_glyphs("val", {"DejaVuSans": "sans"}).images.pixels[::4, None][:60]
    phases = np.random.default_rng(1).uniform(0, 6.28, (len(pictures), 32))
    return pictures, glyph_sounds.heard(pictures, phases)


def test_the_decoder_gives_the_picture_back(letters):
    """The classical answer is a weak one: a bridge would look good beside it."""
    pictures, seen = letters
    found = glyph_sounds.decode(seen)
    assert found.shape == (60, 1, 32, 32) and 0 <= found.min() and found.max() <= 255
    each = [
        np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(found, pictures, strict=True)
    ]
    assert min(each) > 0.8 and np.mean(each) > 0.97
    level = found.numpy()[pictures > 200].mean()
    assert level == pytest.approx(pictures[pictures > 200].mean(), rel=0.1)


def test_phases_are_their_glyphs_own(monkeypatch):
    """A glyph's sound depends on the others, changes from call to call, or all have one phase."""
    monkeypatch.setattr(glyph_sounds, "UPRIGHT", {"DejaVuSansMono": "mono"})
    glyph_sounds.seen_and_heard.cache_clear()
    one = load_pairs("glyph-sounds", split="val")
    monkeypatch.setattr(glyph_sounds, "UPRIGHT", {"DejaVuSerif": "serif", "DejaVuSansMono": "mono"})
    glyph_sounds.seen_and_heard.cache_clear()
    two, back = load_pairs("glyph-sounds", split="val"), load_pairs("glyph-sights", split="val")
    n = len(one.x)
    assert one.y.shape == (n, 1, 32, 32) and one.x.shape == (n, 1, 64, 64) and len(two.x) > n
    assert (two.x[-n:] == one.x).all() and (two.y[-n:] == one.y).all()
    assert (back.y == two.x).all() and (back.x == two.y).all()
    assert len({one.key, two.key, back.key}) == 3
    a, b = glyph_sounds.phases_of("mono a"), glyph_sounds.phases_of("mono b")
    assert (a == glyph_sounds.phases_of("mono a")).all() and len({*a, *b}) == 64
    assert 0 <= min(a) and 4 < max(a) < 2 * np.pi
    glyph_sounds.seen_and_heard.cache_clear()


def test_no_character_is_in_two_parts(monkeypatch):
    """A letter is heard in training, and again in the test."""
    asked = []
    empty = glyphs.Split(glyphs.Images(np.zeros((2, 32, 32), np.uint8), []), ["a", "b"], 0, 0, "")
    monkeypatch.setattr(glyph_sounds, "draw_glyphs", lambda *a: asked.append(a) or empty)
    for split in SPLITS:
        glyph_sounds.seen_and_heard.__wrapped__(split)
    assert [split for split, _ in asked] == list(SPLITS)  # split by character in draw_glyphs
    assert all(faces == glyph_sounds.UPRIGHT and len(faces) == 6 for _, faces in asked)


# --------------------------------------------------------------------------------------------------
# faces and voices


PEOPLE = [f"id{10_001 + n}" for n in range(14)]
NAMES = [f"Person_{chr(65 + n)}" for n in range(13)] + ["Person_Jr."]


def vox_tree(top, table=None):
    """14 people, three clips and two pictures each: the red of a face, and the pitch of a voice,
    tell who it is. Nobody hears person 2, nobody sees person 3; id19999 is not in the table."""
    places = ["wav", "dev/wav", "test/wav", "."]
    homes = ["unzippedFaces/{}/1.6/vid", "faces/{}", "{}"]
    for n, (person, name) in enumerate(zip(PEOPLE, NAMES, strict=True)):
        for k in range(3):
            if n != 2:
                clip = top / places[n % 4] / person / f"v{k % 2}" / f"0000{k}.wav"
                write_tone(clip, 300 + 150 * n, 0.1 + 0.02 * k)
        for k in range(2):
            if n != 3:
                home = top / homes[n % 3].format(name.rstrip("."))
                home.mkdir(parents=True, exist_ok=True)
                pixels = np.full((20 + n, 31, 3), (15 * n, 40 * k, 99), np.uint8)
                Image.fromarray(pixels).save(home / f"{k}.png")
    write_tone(top / "wav/id19999/v/00001.wav", 200)
    (top / "wav/id10001/v0/notes.txt").write_text("no sound")
    rows = [f"{p}\t{n}\tf\tUK\tdev" for p, n in zip(PEOPLE, NAMES, strict=True)]
    head = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"
    (top / "vox1_meta.csv").write_text(table or "\n".join([head, *rows]) + "\r\n")


@pytest.fixture(scope="module")
def vox(tmp_path_factory):
    top = tmp_path_factory.mktemp("vox")
    vox_tree(top)
    return top


def who_is(face, voice):
    """(by the red of the face, by the pitch of the voice)"""
    band = 127 - int(voice[0, :, 2].argmax())
    pitch = min(range(14), key=lambda n: abs(band_of(300 + 150 * n, sounds.SPEECH) - band))
    return round(int(face[0].mean()) / 15), pitch


@pytest.mark.parametrize("name", ["voxceleb", "voxceleb-faces"])
def test_faces_and_voices_on_disk(vox, name, capsys):
    """A face has another's voice, a person is in two parts, or somebody is left out in silence."""
    part_of, clips = {}, set()
    for split in SPLITS:
        pairs = load_pairs(name, str(vox), split, size=16)
        assert len(pairs.x) == len(pairs.y) > 0
        told = capsys.readouterr().err
        assert f"found 36 pairs; used {len(pairs.x)} for {split}" in told
        for line in (
            "skipped 1: heard, but not in vox1_meta.csv (first: id19999)",
            "skipped 1: heard, but no face (first: id10004)",
            "skipped 1: seen, but not heard (first: id10003)",
        ):
            assert line in told
        for i in range(len(pairs.x)):
            (y,), (x,) = pairs.of([i])
            face, voice = (y, x) if name == "voxceleb" else (x, y)
            assert face.shape == (3, 16, 16) and voice.shape == (1, 128, 128)
            seen, heard = who_is(face, voice)
            assert seen == heard
            assert part_of.setdefault(seen, split) == split
            person = data_voxceleb.person_of((pairs.y.name(i), pairs.x.name(i)))
            assert person == PEOPLE[seen]
            clips.add((pairs.x if name == "voxceleb" else pairs.y).name(i))
    assert len(clips) == 36 and len(part_of) == 12 and set(part_of.values()) == set(SPLITS)


def test_the_two_directions_are_the_same_pairs(vox):
    """voxceleb-faces is split otherwise, so that a test person was seen in the other's training."""
    there = load_pairs("voxceleb", str(vox), "test")
    back = load_pairs("voxceleb-faces", str(vox), "test")
    n = len(there.x)
    assert [there.y.name(i) for i in range(n)] == [back.x.name(i) for i in range(n)]
    assert there.y[0].shape == (3, 64, 64) and there.key != back.key


def test_one_pair_a_person(vox):
    """Another clip of the same speaker counts as a wrong answer."""
    pairs = load_pairs("voxceleb", str(vox), "train")
    rows = np.arange(len(pairs.x))
    first = data_voxceleb.first_of_each(pairs, rows)
    names = [data_voxceleb.person_of((pairs.y.name(i), pairs.x.name(i))) for i in rows]
    assert [names[i] for i in first] == list(dict.fromkeys(names))


BAD_TABLES = {
    "a,b\nid10001,Person_A\n": "expected columns VoxCeleb1 ID and VGGFace1 ID.*has a,b",
    "": "expected columns .*its first line has nothing",
    "VoxCeleb1 ID\tVGGFace1 ID\nPerson_A\tid10001\n": "line 2 is no person: .Person_A",
    "VoxCeleb1 ID\tVGGFace1 ID\nid10001\n": "line 2 is no person: .id10001",
    "VoxCeleb1 ID\tVGGFace1 ID\nid10001\tA\nid10001\tB\n": "line 3 gives id10001 another name",
    "VoxCeleb1 ID\tVGGFace1 ID\nid10009\tX\n": "nobody of vox1_meta.csv has a voice and a face",
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_broken_table_is_refused(tmp_path, table):
    """A table with commas joins nobody, and an empty set is trained on."""
    write_tone(tmp_path / "wav/id10001/v/1.wav", 300)
    (tmp_path / "vox1_meta.csv").write_text(table)
    with pytest.raises(DataError, match=BAD_TABLES[table]):
        load_pairs("voxceleb", str(tmp_path))
    (tmp_path / "vox1_meta.csv").unlink()
    with pytest.raises(DataError, match="no vox1_meta.csv, which joins") as error:
        load_pairs("voxceleb-faces", str(tmp_path))
    assert "ROOT/unzippedFaces/NAME" in str(error.value)


# --------------------------------------------------------------------------------------------------
# scores, and sounds to listen to


def test_recognised_by_hand():
    """A sample is found by what all have in common, or another's counts as its own."""
    truth = torch.tensor([[0.0, 2, 0], [3, 0, 0], [0, 0, 4], [-2, -1, -3]])[:, None, None] + 9
    x_hat = truth.clone()
    x_hat[0], x_hat[1] = truth[1], truth[0]
    run = SimpleNamespace(args=SimpleNamespace(dataset="glyph-sounds"))
    mean = np.full(3, 9.0, np.float32)
    test_set = SimpleNamespace(run=run, N=4, truth=truth, pca=SimpleNamespace(mean_=mean))
    scores = bridge_sounds.recognised(test_set, x_hat)
    assert scores["x_r1"] == 0.5 and scores["x_r5"] == 1.0
    expected = metrics.two_way(x_hat.flatten(1) - 9, truth.flatten(1) - 9)
    assert scores["x_two_way"] == pytest.approx(expected) and expected < 0.9
    test_set.N = 1
    assert bridge_sounds.recognised(test_set, x_hat) == {}


@pytest.fixture
def heard_pairs(letters, monkeypatch):
    pictures, seen = letters[0][:13], letters[1][:13]
    monkeypatch.setitem(PAIRS, "glyph-sounds", glyphs.Pairs(pictures, seen, "sounds"))
    monkeypatch.setitem(PAIRS, "glyph-sights", glyphs.Pairs(seen, pictures, "sights"))


@pytest.mark.parametrize("dataset", ["glyph-sounds", "glyph-sights"])
def test_a_run_is_scored_and_can_be_listened_to(make, heard_pairs, capsys, dataset):  # noqa: F811
    """The classical row is missing or weak, a score is missing, or nothing is left to hear."""
    folder = make(dataset)
    evaluate_bridge.main([folder, "--first-look", "--limit", "11", "--nfe", "2"])
    rows = rows_of(folder)
    values = {(r["method"], r["metric"]): r["value"] for r in rows}
    for method in ("ours", "classical", "regressor", "ceiling"):
        for metric in ("psnr", "x_two_way", "x_r1", "x_r5"):
            assert (method, metric) in values
    assert values["classical", "x_r1"] == 1 and values["classical", "psnr"] > 20
    assert ("ours", "z_two_way") in values and ("classical", "z_two_way") not in values
    run = BridgeRun(folder, CPU)
    test_set = bridge_scores.BridgeTestSet(run, 8)
    names = {p.name for p in (run_folder(folder) / "sounds").iterdir()}
    titles = ("source", "classical", "sample-1", "truth")
    assert names == {f"{n}-{title}.wav" for n in (1, 2, 3) for title in titles}
    # The truth that is played is that of the same pair.
    title = "truth" if dataset == "glyph-sounds" else "source"
    true = (test_set.x if dataset == "glyph-sounds" else test_set.y)[1]
    x, rate = sounds.read_wav(run_folder(folder) / f"sounds/2-{title}.wav")
    assert rate == 8000 and len(x) == 8000
    seen = sounds.log_mel(torch.from_numpy(x)[None], HEARD)
    assert np.corrcoef(seen.flatten(), true.flatten())[0, 1] > 0.9
    assert "x_: a sample among all true x" in capsys.readouterr().out


def run_folder(folder):
    from pathlib import Path

    return Path(folder)


def test_other_sets_have_no_sounds(make):  # noqa: F811
    """A table of pictures gets columns of sounds, or a folder of them."""
    folder = make("glyph-sr")
    evaluate_bridge.main([folder, "--first-look", "--limit", "6", "--nfe", "1"])
    assert not any(r["metric"].startswith(("x_", "z_")) for r in rows_of(folder))
    assert not (run_folder(folder) / "sounds").exists()


def test_sides_of_ones_own_files():
    """A .wav of one's own is no sound in the tables."""
    items = glyphs.Lazy(3, str, lambda i: f"a/{i}.WAV")
    other = glyphs.Lazy(3, str, lambda i: f"b/{i}.png")
    args = SimpleNamespace(dataset="pairs", seconds=4.0)
    run = SimpleNamespace(args=args, pairs=lambda *a: glyphs.Pairs(items, other, ""))
    assert bridge_sounds.sounds_of(run) == {"y": sounds.SPEECH._replace(seconds=4.0)}
    args.dataset = "voxceleb"
    assert list(bridge_sounds.sounds_of(run)) == ["x"]
