"""encoders.py against computations by hand: PCA, TF-IDF, names, states, vectors as they are."""

import re
import runpy
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import encoders
from encoders import from_state, make
from errors import EncoderError
from glyphs import FACES, draw_glyphs
from latents import encode

WORDS = "red blue green cat dog bird runs sleeps eats on the a mat moon".split()


def pictures(n, size=(50, 37), mode="RGB", seed=0):
    """Noise, never square, so that a swapped axis shows."""
    shape = (n, size[1], size[0]) + ((3,) if mode == "RGB" else ())
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return [Image.fromarray(x) for x in pixels]


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(n)]


def saved(state, tmp_path):
    """The state after a trip through a file that may hold no pickled objects."""
    torch.save(state, tmp_path / "state.pt")
    return torch.load(tmp_path / "state.pt", weights_only=True)


def error_of(*args, **kwargs):
    with pytest.raises(EncoderError) as caught:
        make(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------
# PCA and TF-IDF


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pca_is_the_svd_of_the_pixels(mode):
    """The projection is not the leading subspace of the centred pixels, or decode is no inverse."""
    train, new = pictures(60, (32, 32), mode), pictures(7, (32, 32), mode, seed=1)
    pca = make("pca:20", "image", train)
    x = np.stack([np.asarray(i, float).ravel() for i in train]) / 255
    y = np.stack([np.asarray(i, float).ravel() for i in new]) / 255
    V = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:20]
    z = pca(new)
    assert z.shape == (7, 20) and z.dtype == np.float32 and pca.dim == 20
    assert np.abs(np.abs(z) - np.abs((y - x.mean(0)) @ V.T)).max() < 2e-3  # signs are free
    want = np.clip((y - x.mean(0)) @ V.T @ V + x.mean(0), 0, 1)
    shape = (7, 32, 32) if mode == "L" else (7, 32, 32, 3)
    assert np.abs(pca.decode(z) - want.reshape(shape)).max() < 2e-3


def test_pca_with_all_components_gives_the_pictures_back():
    """decode(encode(x)) loses or turns something even when nothing needs to be lost."""
    basis = np.random.default_rng(0).uniform(0, 1 / 5, (5, 32, 32))
    mixes = np.random.default_rng(1).uniform(0, 1, (40, 5))
    train = [Image.fromarray((255 * np.tensordot(m, basis, 1)).astype(np.uint8)) for m in mixes]
    pca = make("pca:36", "image", train)
    x = np.stack([np.asarray(i) for i in train]) / 255
    assert np.abs(pca.decode(pca(train)) - x).max() < 1.5 / 255


def test_pca_of_other_sizes_modes_and_broken_files(tmp_path):
    """A picture that is not 32 x 32, or not of the first one's mode, or broken, stops the fit."""
    truncated = tmp_path / "cut.png"
    pictures(1)[0].save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    images = [Image.open(truncated)] + pictures(30) + pictures(2, mode="L")
    pca = make("pca:4", "image", images)
    assert pca.decode(pca(images[1:])).shape == (32, 32, 32, 3)
    small = images[1].resize((32, 32))
    assert np.array_equal(pca([images[1]]), pca([small]))


@pytest.mark.parametrize("grey", [0, 7])
def test_one_grey_picture_does_not_make_all_grey(grey):
    """Red and green of one brightness get one latent because a single photo is grey."""
    walls = [Image.new("RGB", (33, 20), [(200, 60, 60), (60, 129, 60)][n % 2]) for n in range(60)]
    walls[grey] = walls[grey].convert("L")
    z = make("pca:2", "image", walls)(walls[20:40])
    assert np.abs(z[0] - z[1]).max() > 5


def test_a_grey_set_stays_grey():
    """Three equal channels instead of one: other latents for all grey sets."""
    assert make("pca:3", "image", pictures(9, mode="L")).arrays["W"].shape == (3, 1024)


def test_small_sets_lower_the_default(capsys):
    """Twelve photos are refused because the default is 128, or get fewer numbers unsaid."""
    assert make("pca", "image", pictures(10)).dim == 10
    assert "pca: 10 numbers instead of 128, 10 images" in capsys.readouterr().err
    tfidf = make("tfidf", "text", sentences(11))
    assert tfidf.dim == 10 and tfidf(["red cat"]).shape == (1, 10)
    assert "tfidf: 10 numbers instead of 256, 11 captions" in capsys.readouterr().err
    make("pca", "image", pictures(140))
    make("tfidf:7", "text", sentences(11))
    assert capsys.readouterr().err == ""


def test_nothing_to_tell_apart():
    """A set of one repeated item gets latents that are rounding errors."""
    assert "9 times the same" in error_of("pca:3", "image", pictures(1) * 9)
    assert "8 times the same" in error_of("tfidf:2", "text", ["a red cat runs"] * 8)
    assert "too few" in error_of("tfidf", "text", ["cat", "Cat"])


def test_held_out_variance_of_the_glyphs():
    """The default image encoder keeps much less than the promised 92 % of held-out characters."""
    faces = dict(list(FACES.items())[:3])
    train, val = draw_glyphs("train", faces), draw_glyphs("val", faces)
    pca = make("pca", "image", train.images)
    x = val.images.pixels.reshape(len(val.images), -1) / 255
    z = pca([val.images[i] for i in range(len(val.images))])
    kept = (
        1
        - ((x - z @ pca.arrays["W"] - pca.arrays["mean"]) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    )
    assert pca.dim == 128 and 0.90 < kept < 0.97


def test_tfidf_by_hand():
    """Word pairs, sublinear counts, smooth idf or unit length differ from the written formula."""
    texts = ["a cat cat", "a dog", "the cat runs home"]
    tfidf = make("tfidf:2", "text", texts)
    split = [t.split() for t in texts]
    terms = [w + [f"{a} {b}" for a, b in zip(w, w[1:], strict=False)] for w in split]
    names = sorted({t for row in terms for t in row})
    assert tfidf.arrays["vocabulary"] == names
    count = np.array([[row.count(n) for n in names] for row in terms])
    idf = np.log((1 + 3) / (1 + (count > 0).sum(0))) + 1
    x = np.where(count, 1 + np.log(np.maximum(count, 1)), 0) * idf
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    U, S, _ = np.linalg.svd(x, full_matrices=False)
    z = tfidf(texts)
    assert np.abs(np.abs(z) - np.abs(U[:, :2] * S[:2])).max() < 1e-5


def test_one_letter_words_count():
    """Captions that differ in one letter, as those of the glyphs do, have the same latent."""
    tfidf = make("tfidf:3", "text", [f"small letter {c}" for c in "abcdefgh"])
    assert np.abs(np.diff(tfidf(["small letter a", "small letter b"]), axis=0)).max() > 0.1


TERMS = {  # captions -> terms: words with their marks; of scripts without blanks, characters
    "लाल बिल्ली।": ["लाल", "बिल्ली", "लाल बिल्ली"],
    "红色的猫，iPhone12": ["红", "色", "的", "猫", "iphone12"]
    + ["红 色", "色 的", "的 猫", "猫 iphone12"],
    "赤いネコ": ["赤", "い", "ネ", "コ", "赤 い", "い ネ", "ネ コ"],
    "빨간 고양이": ["빨간", "고양이", "빨간 고양이"],
    "cafe\u0301 İzmir": ["cafe\u0301", "i\u0307zmir", "cafe\u0301 i\u0307zmir"],  # marks apart
    "می\u200cخواهم": ["می\u200cخواهم"],  # a joiner inside of a Persian word
    "สีแดง": ["สี", "แ", "ด", "ง", "สี แ", "แ ด", "ด ง"],
}


@pytest.mark.parametrize("text", TERMS)
def test_tfidf_of_other_scripts(text):
    """Vowel signs are dropped, words fall apart at them, or a clause is a single word."""
    assert encoders.make_vectorizer().build_analyzer()(text) == TERMS[text]


def test_terms_of_english_are_as_ever():
    """The words of the glyphs' names, and so all of their latents, change."""
    captions = draw_glyphs("val", dict(list(FACES.items())[:2])).captions
    english = ["It's 3.5 km: a_b, don't! T-shirt", "naïve café №5 x² ½"]
    for text in [*captions, *english, *sentences(50)]:
        words = re.findall(r"\b\w+\b", text.lower())
        pairs = [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
        assert encoders.make_vectorizer().build_analyzer()(text) == words + pairs


@pytest.mark.parametrize("modality", ["image", "text"])
def test_fitted_state_round_trip(modality, tmp_path):
    """A checkpoint gives an encoder back that encodes, decodes or is named otherwise."""
    fit_on = pictures(1100, (32, 32), "L") if modality == "image" else sentences(800)
    new = pictures(5, seed=3) if modality == "image" else sentences(5, seed=3) + ["unknown", ""]
    first = make({"image": "pca:9", "text": "tfidf:9"}[modality], modality, fit_on)
    second = from_state(saved(first.state(), tmp_path))
    assert np.abs(first(new) - second(new)).max() <= 1e-6
    assert (second.spec, second.dim) == (first.spec, 9)
    assert second.fingerprint == first.fingerprint and len(first.fingerprint) == 16
    if modality == "image":
        z = first(new)
        assert np.abs(first.decode(z) - second.decode(z)).max() <= 1e-6


def test_refit_is_the_same_and_other_data_is_not():
    """The fit is random, or the fingerprint does not see the weights."""
    a, b = (make("tfidf:9", "text", sentences(200)) for _ in "ab")
    c = make("tfidf:9", "text", sentences(200, seed=1))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert np.array_equal(a(["red cat"]), b(["red cat"]))


def test_state_that_was_altered_is_refused(tmp_path):
    """A damaged checkpoint would silently encode to other latents."""
    state = saved(make("pca:5", "image", pictures(30)).state(), tmp_path)
    state["arrays"]["W"][0, 0] += 1
    with pytest.raises(EncoderError, match="was trained with weights"):
        from_state(state)
    with pytest.raises(EncoderError, match="not the state of an encoder"):
        from_state({"spec": "pca"})
    for arrays in ({"mode": "L"}, {"mode": "L", "mean": 3, "W": None}, [1, 2]):
        with pytest.raises(EncoderError, match="pca:5: its arrays are damaged"):
            from_state(state | {"arrays": arrays})


def test_vectors_pass_through(tmp_path):
    """`none` changes the vectors, or takes vectors of a width it was not made for."""
    x = np.random.default_rng(0).normal(size=(6, 7))
    none = make("none", "text", fit_on=x)
    assert none.dim == 7 and np.array_equal(none(list(x)), x.astype(np.float32))
    assert from_state(saved(none.state(), tmp_path)).dim == 7
    with pytest.raises(EncoderError, match="expected latents"):
        none(list(x[:, :5]))
    z, broken = encode(make("none", "image"), x, "key", tmp_path)
    assert np.array_equal(z, x.astype(np.float32)) and len(broken) == 0


@pytest.mark.parametrize(
    "spec, modality, needle",
    [
        ("pca", "text", "no text encoder 'pca'"),
        ("bert", "image", "no image encoder 'bert'"),
        ("tfidf:x", "text", "no text encoder 'tfidf:x'"),
        ("tfidf:0", "text", "no text encoder 'tfidf:0'"),
        ("NAME", "image", "no image encoder 'NAME'"),
        ("none:3", "image", "no image encoder 'none:3'"),
        ("pca", "sound", "no modality 'sound'"),
        ("pca:500", "image", "500 numbers are too many, 3 images of 3072 numbers give 3"),
        ("tfidf:500", "text", "500 numbers are too many, 30 captions"),
    ],
)
def test_wrong_specs(spec, modality, needle):
    """A typo ends in a stack trace, or in another encoder than the one that was asked for."""
    fit_on = pictures(3) if modality == "image" else sentences(30)
    assert needle in error_of(spec, modality, fit_on)


class Broken(list):
    """Pictures on a disk: some of the files cannot be read."""

    def __getitem__(self, i):
        if (item := super().__getitem__(i)) is None:
            raise OSError("cut off")
        return item


@pytest.mark.parametrize(
    "spec, modality, items, needle",
    [
        ("pca:4", "image", np.ones((9, 7)), "pca:4 encodes pictures, these are vectors already"),
        ("tfidf", "text", np.ones((9, 7)), "say --text-encoder none"),
        ("clip:ViT-B-32-quickgelu", "image", np.ones((9, 7)), "say --image-encoder none"),
        ("bert", "text", list(np.ones((9, 7))), "bert encodes captions, these are vectors"),
        ("none", "image", pictures(3), "none is for vectors"),
        ("none", "image", Broken([None, None, *pictures(3)]), "these are pictures"),
        ("none", "text", sentences(5), "say --text-encoder with one of tfidf"),
    ],
)
def test_items_that_an_encoder_does_not_take(spec, modality, items, needle):
    """Vectors reach PCA, or pictures reach `none`: a traceback, or letters counted as numbers."""
    assert needle in error_of(spec, modality, items)


def test_wrong_arguments():
    """Fitting on nothing, a pooling for PCA, or decoding latents of another width goes through."""
    assert "training split's images" in error_of("pca", "image")
    assert "no words" in error_of("tfidf:2", "text", ["", "!"])
    assert "no pooling 'mean'" in error_of("pca", "image", pictures(3), pooling="mean")
    pca = make("pca:2", "image", pictures(3))
    with pytest.raises(EncoderError, match="decode takes latents"):
        pca.decode(np.zeros((4, 3)))


def test_the_command_line(monkeypatch, capsys):
    """`python encoders.py` fits no encoder, or ends in a stack trace when it finds none."""
    monkeypatch.setattr(sys, "argv", ["encoders.py", "text", "tfidf:5"])
    runpy.run_path(encoders.__file__, run_name="__main__")
    assert "tfidf:5: 5 numbers" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["encoders.py", "text", "pca"])
    with pytest.raises(SystemExit, match="encoders.py: no text encoder 'pca'"):
        runpy.run_path(encoders.__file__, run_name="__main__")
