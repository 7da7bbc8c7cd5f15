"""
encoders.py: frozen encoders E(x), which turn a picture or a caption into a vector, its latent.

MT never sees a pixel or a word. It translates vectors into vectors, and the vectors come from
encoders that are frozen. Some have been trained by others (CLIP, BERT, DINOv2: pretrained.py). Two
are fitted in seconds, and are here, for a laptop without downloads: PCA for pictures and TF-IDF for
captions. They are fitted on the training split alone: a test item must not shape its own latent.

    E = make("pca", "image", fit_on=training_images)
    E([picture, picture])                -> (2, 128) float32

Specs    pca[:128]               image   the directions in which the training pixels vary most
         tfidf[:256]             text    weighted counts of words, reduced by an SVD
                                         (without a number: 128, 256, or what a small set allows)
         clip:NAME[@WEIGHTS]     both    open_clip's models; WEIGHTS is a tag or a file. CLIP
                                         ViT-B/32 gives 512 numbers, ViT-L/14 768, RN50x4 640
         bert, dinov2, hf:ID     one     Hugging Face models (768, 1024 numbers); ID or a folder
         none                    both    the items are latents already
Map      Encoder                 what all of them share
         make, from_state        an encoder by its spec; the same one, from a checkpoint
         check_items             pictures, captions or vectors: is it what the encoder takes?
         fit_pca, pca            pictures without a network
         fit_tfidf, tfidf        captions without a network
         (latents.py applies an encoder to a whole data set, and keeps the result on disk)
Letters  N items   n items of a batch   d width of a latent   D numbers of an item: pixels, terms
Try      python encoders.py image pca             (or: text bert --download)
"""

import argparse
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from data import NAMES, load
from data_files import colour_of, say
from errors import EncoderError, run_script
from glyphs import digest
from metrics import WORD
from pretrained import POOLINGS, PROBE, clip, hugging_face, reason

# For --help and for error messages.
SPECS = {
    "image": "pca[:128], clip:NAME[@WEIGHTS], dinov2, hf:ID_OR_FOLDER, none",
    "text": "tfidf[:256], clip:NAME[@WEIGHTS], bert, hf:ID_OR_FOLDER, none",
}
# MT's own choices, by their short names.
ALIASES = {
    ("image", "dinov2"): "hf:facebook/dinov2-large",
    ("text", "bert"): "hf:bert-base-uncased",
}


# --------------------------------------------------------------------------------------------------
# What all encoders share

# The fields of an Encoder that a checkpoint keeps.
STATE = ("spec", "modality", "fingerprint", "dim", "pooling", "arrays")


class Encoder(NamedTuple):
    """encoder(items) -> (n, dim) float32, raw: neither centred nor of unit length.

    Items are PIL images, strings, or for the spec `none` vectors. The work is cut in two:
      prepare   one item -> what the model takes: decode, resize, crop. Reading from disk is slow,
                so latents.py does this in threads, one batch ahead
      run       n prepared items -> (n, dim). The computation, on the device, for a whole batch
    Two encoders with the same fingerprint give the same latents. It is a hash of all that decides
    about them: weights, vocabulary, preprocessing, pooling; not of the path, so a folder may move.
    Latents in the cache and networks trained on them belong to one fingerprint: weights that have
    changed under the same name would put new vectors before a network that knows the old ones."""

    spec: str
    modality: str  # "image" or "text"
    fingerprint: str  # 16 hex digits
    dim: int | None  # None: `none` before it has seen a vector
    prepare: Callable
    run: Callable
    pooling: str | None = None
    arrays: dict = {}  # pca, tfidf: what was fitted, enough to make the encoder again
    decode: Callable | None = None  # pca: (N, dim) -> (N, H, W) or (N, H, W, 3) in [0, 1]

    def __call__(self, items):
        return self.embed([self.prepare(x) for x in items])

    @torch.no_grad()
    def embed(self, prepared):
        """(n, dim) float32 of n prepared items. EncoderError if `run` gives another shape."""
        n = len(prepared)
        # If all files of a batch are broken, no item is left, and to stack nothing is an error.
        z = self.run(prepared) if n else np.zeros((0, self.dim or 0))
        z = np.asarray(z, np.float32)
        if z.shape != (n, self.dim or z.shape[-1]):
            raise EncoderError(f"{self.spec}: expected latents ({n}, {self.dim}), got {z.shape}")
        return z

    def state(self):
        """What a checkpoint keeps of this encoder; torch.load(weights_only=True) can read it."""
        fields = {name: getattr(self, name) for name in STATE}
        # weights_only knows tensors, and refuses NumPy's arrays.
        fields["arrays"] = {
            name: torch.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in self.arrays.items()
        }
        return fields


def make(spec, modality, fit_on=None, device="cpu", download=False, pooling=None):
    """The encoder that `spec` names (SPECS), for modality "image" or "text".

    fit_on   the training split's images or captions: fits pca and tfidf, tells `none` its width
    pooling  which vector of a Hugging Face model; the default is the first of POOLINGS[modality],
             for a model of two halves, as CLIP, `features`
    Raises EncoderError for a wrong name, for weights that are missing or cannot be trusted, and
    for items that the encoder does not take."""
    if modality not in SPECS:
        raise EncoderError(f"no modality {modality!r}: say image or text")
    # "pca:64" -> "pca", ":", "64"; "pca" -> "pca", "", "".
    kind, colon, rest = ALIASES.get((modality, spec), spec).partition(":")
    if pooling and (kind != "hf" or pooling not in POOLINGS[modality]):
        raise EncoderError(f"{spec}: no pooling {pooling!r}; hf: has {POOLINGS[modality]}")
    if fit_on is not None:
        check_items(spec, modality, fit_on)

    if kind == "clip":
        prepare, run, fingerprint = clip(spec, modality, device, download)
        return measured(Encoder(spec, modality, fingerprint, None, prepare, run))
    if kind == "hf":
        found = hugging_face(spec, rest, modality, device, download, pooling)
        prepare, run, fingerprint, pooling = found
        return measured(Encoder(spec, modality, fingerprint, None, prepare, run, pooling))
    if spec == "none":
        dim = None if fit_on is None else len(fit_on[0])
        return Encoder(spec, modality, digest(spec), dim, np.asarray, np.stack)

    # What is left has to be pca for images or tfidf for text. Of held-out glyphs, by default,
    # 128 numbers keep 92 % of the pixels' variance; 256 keep 59 % of the terms' squared weights.
    fitted = "pca" if modality == "image" else "tfidf"
    if kind != fitted or (colon and not re.fullmatch("[1-9][0-9]*", rest)):
        raise EncoderError(f"no {modality} encoder {spec!r}; there are {SPECS[modality]}")
    if fit_on is None:
        raise EncoderError(f"{spec}: needs the training split's {modality}s to be fitted on")
    fit = fit_pca if modality == "image" else fit_tfidf
    return fit(spec, fit_on, int(rest) if rest else None)


def check_items(spec, modality, items):
    """EncoderError where the encoder of this spec does not take these items.

    Two slips are common: `none` for pictures or captions, which have no latents yet, and any other
    encoder for vectors, which need none. Both would end deep inside of somebody else's code."""
    # The first item that can be read decides; of pictures, some may be broken.
    item = None
    for i in range(min(len(items), 20)):
        try:
            item = items[i]
            break
        except OSError:
            pass
    kind = "pictures" if modality == "image" else "captions"
    flag = f"--{modality}-encoder"
    if isinstance(item, np.ndarray) and spec != "none":
        raise EncoderError(f"{spec} encodes {kind}, these are vectors already: say {flag} none")
    if isinstance(item, Image.Image | str) and spec == "none":
        others = SPECS[modality].removesuffix(", none")
        told = f"none is for vectors that were computed elsewhere, these are {kind}"
        raise EncoderError(f"{told}: say {flag} with one of {others}")


def how_many(spec, dim, default, most, what):
    """How many numbers a latent of pca or tfidf has: `dim`, or if nobody said, the default.

    most    what the items allow, `what` tells of them: (N, D) has no more than N or D directions
    A small set lowers the default, and says so. EncoderError for a `dim` that is too large."""
    if most < 1:
        raise EncoderError(f"{spec}: {what} are too few to be fitted on")
    if dim is not None and dim > most:
        raise EncoderError(f"{spec}: {dim} numbers are too many, {what} give {most} at most")
    if dim is None and most < default:
        say(f"{spec}: {most} numbers instead of {default}, {what} give no more")
    return dim or min(default, most)


def measured(encoder):
    """The encoder with its width, found by trying it on one item."""
    try:
        item = PROBE if encoder.modality == "text" else Image.new("RGB", (40, 30))
        return encoder._replace(dim=encoder([item]).shape[1])
    except EncoderError:
        raise  # it says all already
    except Exception as error:  # whatever a model that does not fit raises
        raise EncoderError(f"{encoder.spec} cannot encode one item: {reason(error)}") from error


def from_state(state, device="cpu", download=False):
    """The encoder whose `state()` this is: pca and tfidf from their arrays, others from the weights
    they name. EncoderError if those are not the weights that the checkpoint was trained with."""
    try:
        spec, modality, trained, dim, pooling, arrays = (state[name] for name in STATE)
    except (KeyError, TypeError) as error:
        raise EncoderError(f"this is not the state of an encoder: no {error}") from error
    if arrays:
        # A fitted encoder travels whole, in the checkpoint: the training set is not needed again.
        rebuild = pca if modality == "image" else tfidf
        try:
            arrays = {k: v.cpu().numpy() if torch.is_tensor(v) else v for k, v in arrays.items()}
            encoder = rebuild(spec, arrays)
        except Exception as error:  # a stranger's file may hold anything
            raise EncoderError(f"{spec}: its arrays are damaged ({reason(error)})") from error
    else:
        encoder = make(spec, modality, None, device, download, pooling)._replace(dim=dim)
    if encoder.fingerprint != trained:
        was = f"the checkpoint was trained with weights {trained}"
        raise EncoderError(f"{spec}: {was}, these are {encoder.fingerprint}: find the old ones")
    return encoder


def width_of(state):
    """The width of an encoder's latents, from its `state()` alone: that needs no weights."""
    if not isinstance(state, dict) or not isinstance(state.get("dim"), int):
        raise EncoderError("this is not the state of an encoder: no 'dim'")
    return state["dim"]


# --------------------------------------------------------------------------------------------------
# Pictures without a network: PCA

SIDE = 32  # PCA sees pictures of 32 x 32 pixels: the size of a glyph


def fixed_sample(n, most):
    """At most `most` of the indices below n, in order, the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most]).tolist()


def thumbnail(image, mode):
    """(32, 32) or (32, 32, 3) uint8. Other shapes are squeezed: PCA sees the whole picture."""
    return np.asarray(image.convert(mode).resize((SIDE, SIDE)))


def fit_pca(spec, images, dim=None):
    """Principal component analysis of at most 50,000 images, grey if all of them are.

    A picture is a point with one coordinate a pixel, D = 1024 (RGB: 3072). PCA finds the `dim`
    orthogonal directions, rows of W (d, D), in which the points vary most. A latent is the place
    along each of them, and it has a way back to a picture, which CLIP's latents lack:
        z = W (x - mean),   x ~ mean + W^T z
    No other d linear numbers bring the pixels back with a smaller squared error. At 32 x 32 this
    takes seconds; at CLIP's 224 x 224 in colour the covariance would have 2e10 entries, 90 GB."""
    from sklearn.decomposition import PCA

    # One grey photo among colour ones must not make all of them grey. A thousand tell: where none
    # of them has a colour, colours are rarer than what PCA could see.
    mode = colour_of(images, fixed_sample(len(images), 1000))
    rows = []
    for i in fixed_sample(len(images), 50_000):
        # Pillow opens a file first and reads its pixels when it has to: both calls may fail.
        try:
            rows.append(thumbnail(images[i], mode).ravel())
        except OSError:
            pass  # a broken file: latents.py will count them and name them
    if not rows:
        raise EncoderError(f"{spec}: none of {len(images)} images can be read")
    x = np.stack(rows).astype(np.float32) / 255  # (N, D) in [0, 1]
    if (x == x[0]).all():
        raise EncoderError(f"{spec}: needs images that differ, got {len(x)} times the same")
    dim = how_many(spec, dim, 128, min(x.shape), f"{len(x)} images of {x.shape[1]} numbers")
    # Both solvers are exact. Eigenvectors of the (D, D) covariance are found 9 times faster than
    # the SVD of (N, D), as long as N > D.
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"
    fit = PCA(dim, svd_solver=solver).fit(x)
    # scikit-learn may return a flipped view, whose strides are negative: torch takes none.
    W = np.ascontiguousarray(fit.components_)
    return pca(spec, {"mode": mode, "mean": fit.mean_, "W": W})


def pca(spec, arrays):
    """The encoder of mode ("L" or "RGB"), mean (D,) and W (d, D) with orthonormal rows."""
    mode, mean, W = arrays["mode"], arrays["mean"], arrays["W"]
    shape = (-1, SIDE, SIDE) if mode == "L" else (-1, SIDE, SIDE, 3)

    def prepare(image):
        return thumbnail(image, mode)

    def run(thumbnails):
        pixels = np.stack(thumbnails).reshape(len(thumbnails), -1)
        x = pixels.astype(np.float32) / 255  # (n, D)
        return (x - mean) @ W.T  # (n, d)

    def decode(z):
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != len(W):
            raise EncoderError(f"{spec}: decode takes latents (N, {len(W)}), got {z.shape}")
        x = z @ W + mean  # (N, D)
        return np.clip(x, 0, 1).reshape(shape)

    fingerprint = digest("pca", SIDE, mode, mean, W)
    return Encoder(spec, "image", fingerprint, len(W), prepare, run, None, arrays, decode)


# --------------------------------------------------------------------------------------------------
# Captions without a network: TF-IDF and a truncated SVD


def make_vectorizer(vocabulary=None):
    """scikit-learn's TF-IDF of words and word pairs: a caption -> D weights, nearly all of them 0.

    A term that is in n_t of N captions, and m times in this one, has the weight
        (1 + ln m) (ln((1 + N) / (1 + n_t)) + 1),   or 0 if m = 0,
    and then the caption's weights are divided by their length. The first factor grows slowly: the
    third "bold" says little more than the second. The last one is large for rare terms, which tell
    captions apart. Example: N = 3, "a cat cat", "a dog", "the cat runs home". In the first caption
        "a"       m = 1, n_t = 2    1     x (ln(4/3) + 1) = 1.288   / 3.485 = 0.369
        "cat"     m = 2, n_t = 2    1.693 x (ln(4/3) + 1) = 2.180   / 3.485 = 0.626
        "a cat"   m = 1, n_t = 1    1     x (ln(4/2) + 1) = 1.693   / 3.485 = 0.486; "cat cat" too

    A word is a run of letters, with their marks, and digits; scikit-learn's own pattern would drop
    the vowel signs of Hindi. Scripts without blanks between words have their characters instead,
    and pairs of them are often words:
        "लाल बिल्ली"   "लाल", "बिल्ली", "लाल बिल्ली"
        "红色的猫"     "红", "色", "的", "猫", "红 色", "色 的", "的 猫"
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        ngram_range=(1, 2),  # words and pairs of neighbours: "small letter" is one thing
        token_pattern=WORD,  # the default drops words of one letter, too: "latin small letter a"
        max_features=20_000,  # COCO has half a million terms: W of all of them would be 0.5 GB
        sublinear_tf=True,  # 1 + ln m, where the default is m
        dtype=np.float32,
        vocabulary=vocabulary,
    )


def fit_tfidf(spec, captions, dim=None):
    """TF-IDF and truncated SVD of at most 500,000 captions.

    The table x (N, D) of all captions is cut to its `dim` largest singular values, x ~ U S W, and a
    latent is z = W x (d,). Terms that come together ("bold italic") share a direction. It is a PCA
    without subtracting the mean, which would fill the zeros of a sparse table: 40 GB."""
    from sklearn.decomposition import TruncatedSVD

    vectorizer = make_vectorizer()
    chosen = fixed_sample(len(captions), 500_000)
    texts = [captions[j] for j in chosen]
    try:
        x = vectorizer.fit_transform(texts)  # sparse (N, D)
    except ValueError as error:
        raise EncoderError(f"{spec}: no words in {len(captions)} captions") from error
    if all(text == texts[0] for text in texts):
        raise EncoderError(f"{spec}: needs captions that differ, got {len(texts)} times the same")
    most = min(x.shape) - 1  # what arpack, below, can find
    dim = how_many(spec, dim, 256, most, f"{x.shape[0]} captions of {x.shape[1]} terms")
    # The default algorithm approximates; arpack is exact. It starts from a random vector, here
    # always the same: otherwise two fits on the same captions would have two fingerprints.
    fit = TruncatedSVD(dim, algorithm="arpack", random_state=0).fit(x)
    arrays = {
        "vocabulary": vectorizer.get_feature_names_out().tolist(),
        "idf": vectorizer.idf_,
        "W": np.ascontiguousarray(fit.components_),
    }
    return tfidf(spec, arrays)


def tfidf(spec, arrays):
    """The encoder of a vocabulary of D terms, their weights idf (D,), and W (d, D)."""
    vocabulary, idf, W = arrays["vocabulary"], arrays["idf"], arrays["W"]
    vectorizer = make_vectorizer(vocabulary)
    vectorizer.idf_ = idf

    def run(texts):
        return vectorizer.transform(texts) @ W.T  # (n, D) -> (n, d)

    fingerprint = digest("tfidf", vocabulary, idf, W)
    return Encoder(spec, "text", fingerprint, len(W), str, run, None, arrays)


def main(argv=None):
    p = argparse.ArgumentParser(description="Load an encoder, or fit one, and say what it is.")
    p.add_argument("modality", choices=SPECS)
    p.add_argument("spec", help=f"image: {SPECS['image']}; text: {SPECS['text']}")
    p.add_argument("--download", action="store_true", help="fetch weights from huggingface.co")
    p.add_argument("--dataset", default="glyphs", help=f"{', '.join(NAMES)} (default glyphs)")
    p.add_argument("--data-dir", help="folder of the data set")
    a = p.parse_args(argv)
    # The validation split is enough for a look; training fits on the training split.
    split = load(a.dataset, a.data_dir, "val")
    items = split.images if a.modality == "image" else split.captions
    encoder = make(a.spec, a.modality, items, download=a.download)
    print(f"{a.spec}: {encoder.dim} numbers, fingerprint {encoder.fingerprint}")


if __name__ == "__main__":
    run_script("encoders.py", main)
