"""
encoders.py
"""

import argparse
import contextlib
import difflib
import functools
import json
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data import NAMES, DataError, load
from glyphs import digest

SPECS = {
    "image": "pca[:128], clip:NAME[@WEIGHTS], dinov2, hf:ID_OR_FOLDER, none",
    "text": "tfidf[:256], clip:NAME[@WEIGHTS], bert, hf:ID_OR_FOLDER, none",
}


ALIASES = {"image dinov2": "hf:facebook/dinov2-large", "text bert": "hf:bert-base-uncased"}


POOLINGS = {"image": ["pooler", "cls", "mean", "cls+mean"], "text": ["cls", "pooler", "mean"]}


STATE = ("spec", "modality", "fingerprint", "dim", "pooling", "arrays")


SIDE = 32  # pixels that PCA sees


PROBE = "Two cafés, 3.5 km apart: the 2nd isn't OPEN!"  # its token ids tell tokenizers apart


class EncoderError(Exception):
    """Bad input: one line that says what was wrong, where, and what to do."""


class Encoder(NamedTuple):
    """encoder(items) -> (n, dim) float32, raw; made by `make` or `from_state`. Items: PIL images,
    strings, or for the spec `none` vectors (dim is None if `make` saw none)."""

    spec: str
    modality: str
    fingerprint: str  # 16 hex digits: change with the weights, the pooling, the preprocessing
    dim: int | None
    prepare: Callable  # one item -> what `run` takes; `encode` calls it in its reader threads
    run: Callable  # n prepared items -> (n, dim)
    pooling: str | None = None
    arrays: dict = {}  # pca, tfidf: all there is to them
    decode: Callable | None = None  # pca: (N, dim) -> (N, H, W) or (N, H, W, 3) in [0, 1]

    def __call__(self, items):
        return self.embed([self.prepare(x) for x in items])

    @torch.no_grad()
    def embed(self, prepared):
        n = len(prepared)
        z = np.asarray(self.run(prepared) if n else np.zeros((0, self.dim or 0)), np.float32)
        if z.ndim != 2 or z.shape != (n, self.dim or z.shape[1]):
            raise EncoderError(f"{self.spec}: expected latents ({n}, {self.dim}), got {z.shape}")
        return z

    def state(self):
        """What a checkpoint keeps of this encoder; torch.load(weights_only=True) can read it."""
        tensor = lambda v: torch.tensor(v) if isinstance(v, np.ndarray) else v
        arrays = {k: tensor(v) for k, v in self.arrays.items()}
        return {**{name: getattr(self, name) for name in STATE}, "arrays": arrays}


def make(spec, modality, fit_on=None, device="cpu", download=False, pooling=None):
    """The encoder that `spec` names (SPECS), for modality "image" or "text".

    fit_on   the training split's images or captions: fits pca and tfidf, tells `none` its width
    pooling  which vector of a Hugging Face model; the default is the first of POOLINGS[modality]
    Raises EncoderError for a wrong name and for weights that are missing or cannot be trusted."""
    if modality not in SPECS:
        raise EncoderError(f"no modality {modality!r}: say image or text")
    kind, colon, arg = ALIASES.get(f"{modality} {spec}", spec).partition(":")
    if pooling and (kind != "hf" or pooling not in POOLINGS[modality]):
        raise EncoderError(f"{spec}: no pooling {pooling!r}; hf: has {POOLINGS[modality]}")
    if kind == "clip":
        return clip(spec, modality, device, download)
    if kind == "hf":
        return hugging_face(spec, arg, modality, device, download, pooling or POOLINGS[modality][0])
    if spec == "none":
        dim = None if fit_on is None else len(fit_on[0])
        return Encoder(spec, modality, digest(spec), dim, np.asarray, np.stack)
    name, width, fit = dict(image=("pca", 128, fit_pca), text=("tfidf", 256, fit_tfidf))[modality]
    if kind != name or colon and not re.fullmatch("[1-9][0-9]*", arg):
        raise EncoderError(f"no {modality} encoder {spec!r}; there are {SPECS[modality]}")
    if fit_on is None:
        raise EncoderError(f"{spec}: needs the training split's {modality}s to be fitted on")
    return fit(spec, fit_on, int(arg or width))


def from_state(state, device="cpu", download=False):
    """The encoder whose `state()` this is: pca and tfidf from their arrays, others from the weights
    they name. EncoderError if those are not the weights that the checkpoint was trained with."""
    try:
        spec, modality, trained, dim, pooling, arrays = (state[k] for k in STATE)
    except (KeyError, TypeError) as error:
        raise EncoderError(f"this is not the state of an encoder: no {error}") from error
    if arrays:
        arrays = {k: v.cpu().numpy() if torch.is_tensor(v) else v for k, v in arrays.items()}
        encoder = (pca if modality == "image" else tfidf)(spec, arrays)
    else:
        encoder = make(spec, modality, None, device, download, pooling)._replace(dim=dim)
    if encoder.fingerprint != trained:
        was = f"the checkpoint was trained with weights {trained}"
        raise EncoderError(f"{spec}: {was}, these are {encoder.fingerprint}: find the old ones")
    return encoder


def fixed_sample(n, most):
    """At most `most` of the indices below n, in order, the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most]).tolist()


def read_or_error(items, i, prepare):
    """prepare(items[i]), or the OSError if its file is broken (Pillow may notice in prepare)."""
    try:
        return prepare(items[i])
    except OSError as error:
        return error


def thumbnail(image, mode):
    """(32, 32) or (32, 32, 3) uint8. Other shapes are squeezed: PCA sees the whole picture."""
    return np.asarray(image.convert(mode).resize((SIDE, SIDE)))


def fit_pca(spec, images, dim):
    """PCA of at most 50,000 images, grey if the first is. Broken ones are left to `encode`."""
    from sklearn.decomposition import PCA

    rows, mode = [], None
    for i in fixed_sample(len(images), 50_000):
        image = read_or_error(
            images, i, lambda image: image.convert("L" if image.mode == "L" else "RGB")
        )
        if not isinstance(image, OSError):
            mode = mode or image.mode
            rows.append(thumbnail(image, mode).ravel())
    if not rows or dim > min(len(rows), len(rows[0])):
        raise EncoderError(f"{spec}: needs {dim} or more images and pixels, got {len(rows)} images")
    x = np.stack(rows).astype(np.float32) / 255
    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"  # both exact; 9 times faster
    fit = PCA(dim, svd_solver=solver).fit(x)
    W = np.ascontiguousarray(fit.components_)  # torch takes no flipped arrays
    return pca(spec, {"mode": mode, "mean": fit.mean_, "W": W})


def pca(spec, arrays):
    mode, mean, W = arrays["mode"], arrays["mean"], arrays["W"]  # str, (D,), (d, D) orthonormal
    shape = (-1, SIDE, SIDE) if mode == "L" else (-1, SIDE, SIDE, 3)
    flat = lambda rows: np.stack(rows).reshape(len(rows), -1).astype(np.float32) / 255 - mean

    def decode(z):
        z = np.asarray(z, np.float32)
        if z.ndim != 2 or z.shape[1] != len(W):
            raise EncoderError(f"{spec}: decode takes latents (N, {len(W)}), got {z.shape}")
        return np.clip(z @ W + mean, 0, 1).reshape(shape)

    name = digest("pca", SIDE, mode, mean, W)
    prepare, run = lambda image: thumbnail(image, mode), lambda rows: flat(rows) @ W.T
    return Encoder(spec, "image", name, len(W), prepare, run, None, arrays, decode)


def make_vectorizer(vocabulary=None):
    """TF-IDF of words and word pairs. Words may have one letter: "latin small letter a"."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # of COCO's half million words and pairs: W of all would be 0.5 GB
    words = dict(ngram_range=(1, 2), token_pattern=r"\b\w+\b", max_features=20_000)
    return TfidfVectorizer(**words, sublinear_tf=True, dtype=np.float32, vocabulary=vocabulary)


def fit_tfidf(spec, captions, dim):
    """TF-IDF and truncated SVD of at most 500,000 captions."""
    from sklearn.decomposition import TruncatedSVD

    table = make_vectorizer()
    try:
        x = table.fit_transform([captions[j] for j in fixed_sample(len(captions), 500_000)])
    except ValueError as error:
        raise EncoderError(f"{spec}: no words in {len(captions)} captions") from error
    if dim >= min(x.shape):
        raise EncoderError(f"{spec}: needs more than {dim} captions and words, got {x.shape}")
    fit = TruncatedSVD(dim, algorithm="arpack", random_state=0).fit(x)
    vocabulary, W = table.get_feature_names_out().tolist(), np.ascontiguousarray(fit.components_)
    return tfidf(spec, {"vocabulary": vocabulary, "idf": table.idf_, "W": W})


def tfidf(spec, arrays):
    vocabulary, idf, W = arrays["vocabulary"], arrays["idf"], arrays["W"]  # D words, (D,), (d, D)
    table = make_vectorizer(vocabulary)
    table.idf_ = idf
    name, run = digest("tfidf", vocabulary, idf, W), lambda texts: table.transform(texts) @ W.T
    return Encoder(spec, "text", name, len(W), str, run, None, arrays)


@contextlib.contextmanager
def hub(download):
    """Without `download` the hub is switched off: open_clip and tokenizers ask it unasked."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not download
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def reason(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def missing_weights(spec, what, download, error):
    why = "is not on this machine: name a local copy, or --download it (0.4 to 1.7 GB) from"
    why = f"was not found ({reason(error)}) at" if download else why
    return EncoderError(f"{spec}: {what} {why} huggingface.co")


def weights_of(model, skip=()):
    """Names and arrays of a model's weights, for `digest`."""
    for name, x in sorted(model.state_dict().items()):
        if name not in skip:
            yield from (name, x.cpu().numpy())


def measured(encoder):
    """The encoder with its width, found by trying it."""
    try:
        item = PROBE if encoder.modality == "text" else Image.new("RGB", (40, 30))
        return encoder._replace(dim=encoder([item]).shape[1])
    except Exception as error:  # whatever a model that does not fit raises
        raise EncoderError(f"{encoder.spec} cannot encode one item: {reason(error)}") from error


def clip_source(spec, download):
    """(model name, weights) for open_clip, and the file or folder of the weights on this disk."""
    import open_clip

    name, _, weights = spec.removeprefix("clip:").partition("@")
    if "local-dir:" in spec:  # a folder: its open_clip_config.json names the architecture
        folder = os.path.expanduser(spec.partition("local-dir:")[2])
        return "local-dir:" + folder, None, folder
    if name not in open_clip.list_models():
        close = ", ".join(difflib.get_close_matches(name, open_clip.list_models()))
        raise EncoderError(f"{spec}: open_clip has no model {name!r}; it has {close} ...")
    weights = os.path.expanduser(weights or "openai")
    if os.path.isfile(weights):
        return name, weights, weights
    tag = open_clip.get_pretrained_cfg(name, weights)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise EncoderError(f"{spec}: no file and no tag {weights!r}; tags of {name}: {tags}")
    if tag.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        better = f"clip:{name}-quickgelu@{weights}"  # open_clip 2 switched by itself, 3 only warns
        raise EncoderError(f"{spec}: {weights} was trained with QuickGELU: say {better}")
    try:
        with hub(download):
            return name, weights, open_clip.download_pretrained(tag)
    except Exception as error:
        raise missing_weights(spec, f"{name}@{weights}", download, error) from error


@functools.lru_cache(maxsize=1)  # the image and the text encoder are one model: memory holds one
def load_clip(name, weights, device, download, stamp):
    import open_clip

    with hub(download):  # some models take their tokenizer from there
        model, transform = open_clip.create_model_from_pretrained(name, weights, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    gelu = open_clip.get_model_config(name).get("quick_gelu", False)
    looks = json.dumps([gelu, model.visual.preprocess_cfg], sort_keys=True)
    fingerprint = digest("clip", looks, tokenizer([PROBE]).tolist(), *weights_of(model))
    return model.to(device).eval(), transform, tokenizer, fingerprint


def clip(spec, modality, device, download):
    name, weights, path = clip_source(spec, download)
    try:
        stamp = os.stat(path).st_mtime_ns  # so that a file that was replaced is read again
        model, transform, tokenizer, name = load_clip(name, weights, device, download, stamp)
    except Exception as error:  # anything may be in a file
        raise EncoderError(f"{spec}: cannot load {path}: {reason(error)}") from error
    # normalize=False is said because CoCa's default is True
    texts = lambda x: model.encode_text(tokenizer(x).to(device), normalize=False).cpu()
    images = lambda x: model.encode_image(torch.stack(x).to(device), normalize=False).cpu()
    prepare, run = (str, texts) if modality == "text" else (transform, images)
    return measured(Encoder(spec, modality, name, None, prepare, run))


def load_hf(spec, name, modality, download, pooling, Model="AutoModel"):
    """(model, tokenizer or image processor, names of weights that no file has and nobody uses)."""
    import transformers

    Tool = transformers.AutoTokenizer if modality == "text" else transformers.AutoImageProcessor
    options = dict(local_files_only=not download, trust_remote_code=False)
    safe = dict(use_safetensors=True, output_loading_info=True)
    try:
        with hub(download):
            model, info = getattr(transformers, Model).from_pretrained(name, **safe, **options)
            tool = Tool.from_pretrained(name, **options)
    except Exception as error:
        if not os.path.isdir(name):
            raise missing_weights(spec, name, download, error) from error
        tool = "tokenizer.json" if modality == "text" else "preprocessor_config.json"
        needs = f"config.json, {tool}, model.safetensors (pickled weights are not read)"
        raise EncoderError(f"{spec}: {reason(error)}; the folder needs {needs}") from error
    lost = set(info["missing_keys"])
    random = [k for k in lost if pooling == "pooler" or "pooler" not in k]
    if random:
        raise EncoderError(f"{spec}: the files lack {len(random)} weights, such as {min(random)}")
    return model.float().eval(), tool, lost


def hugging_face(spec, name, modality, device, download, pooling):
    """A transformers model with last_hidden_state (n, tokens, width), pooled to one vector."""
    model, tool, lost = load_hf(spec, os.path.expanduser(name), modality, download, pooling)
    first = 1 + getattr(model.config, "num_register_tokens", 0)  # of an image's patches
    prepare, inputs, looks = hf_inputs(tool, model, modality)

    def run(prepared):
        batch = {k: v.to(device) for k, v in inputs(prepared).items()}
        out = model(**batch)
        patches = torch.arange(out.last_hidden_state.shape[1], device=device)[None] >= first
        return pool(out, batch.get("attention_mask", patches), pooling).cpu()

    name = digest("hf", pooling, looks, *weights_of(model, lost))
    model.to(device)
    return measured(Encoder(spec, modality, name, None, prepare, run, pooling))


def hf_inputs(tool, model, modality):
    """prepare (one item), inputs (n of them -> what the model takes), what the fingerprint sees."""
    if modality == "text":
        tool.padding_side = "right"  # [CLS] stays at 0
        longest = min(tool.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        options = dict(padding=True, truncation=True, max_length=longest, return_tensors="pt")
        looks = digest(sorted(tool.get_vocab().items()), tool(PROBE)["input_ids"], longest)
        return str, lambda texts: tool(texts, **options), looks
    keep = "do_.*|size|crop_size|resample|rescale_factor|image_mean|image_std"
    looks = {k: v for k, v in tool.to_dict().items() if re.fullmatch(keep, k) and v is not None}
    pixels = lambda x: tool(images=x.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    inputs = lambda images: {"pixel_values": torch.stack(images)}
    return pixels, inputs, json.dumps(looks, sort_keys=True, default=dict)


def pool(out, mask, pooling):
    """(n, width), or (n, 2 width) for cls+mean; `mean` is over the tokens in mask (n, tokens)."""
    h = out.last_hidden_state
    if pooling == "pooler":
        if getattr(out, "pooler_output", None) is None:
            raise ValueError("the model has no pooler: choose another pooling")
        return out.pooler_output
    mean = (h * mask[..., None]).sum(1) / mask[..., None].sum(1)
    return {"cls": h[:, 0], "mean": mean, "cls+mean": torch.cat([h[:, 0], mean], 1)}[pooling]


say = lambda line: tqdm.write(line, file=sys.stderr)  # beside a progress bar


def main(argv=None):
    p = argparse.ArgumentParser(description="Load an encoder, or fit one, and say what it is.")
    p.add_argument("modality", choices=SPECS)
    p.add_argument("spec", help=f"image: {SPECS['image']}; text: {SPECS['text']}")
    p.add_argument("--download", action="store_true", help="fetch weights from huggingface.co")
    p.add_argument("--dataset", default="glyphs", help=f"{', '.join(NAMES)} (default glyphs)")
    p.add_argument("--data-dir", help="folder of the data set")
    a = p.parse_args(argv)
    split = load(a.dataset, a.data_dir, "val")
    items = split.images if a.modality == "image" else split.captions
    encoder = make(a.spec, a.modality, items, download=a.download)
    print(f"{a.spec}: {encoder.dim} numbers, fingerprint {encoder.fingerprint}")


if __name__ == "__main__":
    try:
        main()
    except (EncoderError, DataError) as error:
        sys.exit(f"encoders.py: {error}")
