"""
encoders.py: frozen encoders E(x) -> latent vectors, the cache that keeps the vectors on disk, and
a decoder that writes captions from them.

MT  "Modality Translation through Conditional Encoder-Decoder". Its Table 1: CLIP ViT-B/32 (512
    numbers), ViT-L/14 (768), "RNx50" (640: that is RN50x4), BERT (768), DINOv2 large (1024).

Map      make        spec -> Encoder      image: pca[:128], clip:NAME[@WEIGHTS], dinov2, hf:ID, none
                                          text: tfidf[:256], clip:NAME[@WEIGHTS], bert, hf:ID, none
         from_state  checkpoint -> the same Encoder
         encode      items -> (N, d) on disk: done once, resumed if killed, checked when opened
         encode_split        a data set -> Latents, what training and evaluation see
         make_captioner      -> Captioner, a language model that reads a latent: ClipCap, CapDec
         fit_captioner       trains it; noise_level: the error that a translation has
         captioner_from_state        checkpoint -> the same Captioner
         fit_clip    trains a small CLIP on a data set's pairs, for clip:local-dir:FOLDER
Rules    latents are raw; the network is used only with download=True; an encoder without its
         weights is an error, never a random network; pickles stay closed
Letters  N items, n items of a batch, d width of a latent, D width before a projection
Differs  MT does not say which vector of BERT it takes: here the raw [CLS] of the last layer, and
         for DINOv2 the LayerNormed one that it calls pooler. Captions end in EOS, which is learned;
         ClipCap stops at the first full stop
Try      python encoders.py image pca             (or: text bert --download)
         python encoders.py --fit clip           a CLIP for the glyphs, ten minutes on two cores
"""

import argparse
import contextlib
import difflib
import functools
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as fn
from PIL import Image
from torch import nn
from tqdm import tqdm

from data import NAMES, DataError, digest, load
from metrics import ranks, recall_at_k

SPECS = {
    "image": "pca[:128], clip:NAME[@WEIGHTS], dinov2, hf:ID_OR_FOLDER, none",
    "text": "tfidf[:256], clip:NAME[@WEIGHTS], bert, hf:ID_OR_FOLDER, none",
}
ALIASES = {"image dinov2": "hf:facebook/dinov2-large", "text bert": "hf:bert-base-uncased"}
POOLINGS = {"image": ["pooler", "cls", "mean", "cls+mean"], "text": ["cls", "pooler", "mean"]}
STATE = ("spec", "modality", "fingerprint", "dim", "pooling", "arrays")
DIRECTIONS = ("text->image", "image->text")
SIDE = 32  # pixels that PCA sees
MOST = 64  # tokens of a caption, EOS included
FLUSH = 5.0  # seconds of encoding that a killed run may lose
PROBE = "Two cafés, 3.5 km apart: the 2nd isn't OPEN!"  # its token ids tell tokenizers apart
say = lambda line: tqdm.write(line, file=sys.stderr)  # beside a progress bar


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


# --------------------------------------------------------------------------------------------------
# PCA and TF-IDF: fitted in seconds


def sample(n, most):
    """At most `most` of the indices below n, in order, the same ones every time."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most]).tolist()


def read(items, i, prepare):
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
    for i in sample(len(images), 50_000):
        image = read(images, i, lambda image: image.convert("L" if image.mode == "L" else "RGB"))
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


def vectorizer(vocabulary=None):
    """TF-IDF of words and word pairs. Words may have one letter: "latin small letter a"."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # of COCO's half million words and pairs: W of all would be 0.5 GB
    words = dict(ngram_range=(1, 2), token_pattern=r"\b\w+\b", max_features=20_000)
    return TfidfVectorizer(**words, sublinear_tf=True, dtype=np.float32, vocabulary=vocabulary)


def fit_tfidf(spec, captions, dim):
    """TF-IDF and truncated SVD of at most 500,000 captions."""
    from sklearn.decomposition import TruncatedSVD

    table = vectorizer()
    try:
        x = table.fit_transform([captions[j] for j in sample(len(captions), 500_000)])
    except ValueError as error:
        raise EncoderError(f"{spec}: no words in {len(captions)} captions") from error
    if dim >= min(x.shape):
        raise EncoderError(f"{spec}: needs more than {dim} captions and words, got {x.shape}")
    fit = TruncatedSVD(dim, algorithm="arpack", random_state=0).fit(x)
    vocabulary, W = table.get_feature_names_out().tolist(), np.ascontiguousarray(fit.components_)
    return tfidf(spec, {"vocabulary": vocabulary, "idf": table.idf_, "W": W})


def tfidf(spec, arrays):
    vocabulary, idf, W = arrays["vocabulary"], arrays["idf"], arrays["W"]  # D words, (D,), (d, D)
    table = vectorizer(vocabulary)
    table.idf_ = idf
    name, run = digest("tfidf", vocabulary, idf, W), lambda texts: table.transform(texts) @ W.T
    return Encoder(spec, "text", name, len(W), str, run, None, arrays)


# --------------------------------------------------------------------------------------------------
# pretrained networks


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


def missing(spec, what, download, error):
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
        raise missing(spec, f"{name}@{weights}", download, error) from error


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
            raise missing(spec, name, download, error) from error
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


def karlo(name, E_image, device, download):
    """decode(raw CLIP ViT-L/14 image latents (N, 768)) -> PIL images, 256 x 256, in batches of 8.

    Karlo's unCLIP decoder and super-resolution, by diffusers' image-variation pipeline, which
    takes the latent in the image's place. Weights: CreativeML Open RAIL-M, by Kakao Brain.
    Raises EncoderError without diffusers, without the weights, for latents of another encoder."""
    kind, _, weights = E_image.spec.partition("@")
    openai = weights in ("", "openai") or os.path.isfile(os.path.expanduser(weights))
    if kind not in ("clip:ViT-L-14", "clip:ViT-L-14-quickgelu") or not openai or E_image.dim != 768:
        raise EncoderError(f"Karlo draws CLIP ViT-L/14 image latents, not those of {E_image.spec}")
    if not importlib.util.find_spec("diffusers"):
        raise EncoderError("Karlo needs the package diffusers: pip install diffusers accelerate")
    from diffusers import UnCLIPImageVariationPipeline as Pipeline
    from diffusers import pipelines

    if not hasattr(pipelines, "unclip"):  # where Karlo's index looks; newer diffusers has moved it
        pipelines.unclip = sys.modules[Pipeline.__module__]
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    try:
        with hub(download):
            options = dict(torch_dtype=dtype, local_files_only=not download)
            pipe = Pipeline.from_pretrained(name, **options).to(device)
    except Exception as error:
        if os.path.isdir(name):
            raise EncoderError(f"Karlo: cannot load {name}: {reason(error)}") from error
        raise missing("Karlo", name, download, error) from error
    pipe.set_progress_bar_config(disable=True)

    def decode(z):
        noise, images = torch.Generator().manual_seed(0), []
        for x in torch.as_tensor(z).split(8):
            x = x.to(device, dtype)
            images += pipe(image_embeddings=x, generator=[noise] * len(x)).images
        return images

    return decode


# --------------------------------------------------------------------------------------------------
# the latent cache


def encode(encoder, items, key, cache_dir, batch=256, workers=0):
    """(latents, broken): a read-only memory map (N, d) float32, and the indices of broken items.

    Items that raise OSError get zeros. `key` changes with the items (`Split.key`). `workers`
    threads prepare items meanwhile. Raises EncoderError for NaN, over 1 % broken items, no disk.
    One process at a time may encode a thing: under torchrun rank 0 does, the others wait."""
    if not len(items):
        raise EncoderError(f"{encoder.spec}: there are no {encoder.modality}s to encode")
    shape = [len(items), encoder.dim or len(items[0])]
    meta = {"key": [str(key), encoder.fingerprint, encoder.modality], "shape": shape}
    slug = re.sub("[^A-Za-z0-9.]+", "-", encoder.spec).strip("-.")[-60:]
    stem = os.path.join(cache_dir, f"{slug}-{encoder.modality}-{digest(json.dumps(meta))}")
    done = opened(stem, meta)
    if done:
        return done
    try:
        build(encoder, items, stem, meta, batch, workers)
    except OSError as error:
        raise EncoderError(f"cannot write the cache {stem}.npy: {reason(error)}") from error
    return opened(stem, meta)


def opened(stem, meta):
    """(latents, broken) of a complete, unaltered cache; else None, and says that it is not."""
    if not os.path.exists(stem + ".json"):
        return None
    try:
        z = np.load(stem + ".npy", mmap_mode="r")
        done = json.loads(Path(stem + ".json").read_text())
        intact = done["checksum"] == checksum(stem + ".npy", done["broken"])
        if intact and done["meta"] == meta and list(z.shape) == meta["shape"]:
            return z, np.array(done["broken"], np.int64)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"{stem}.npy is stale or damaged: encoding again")


def checksum(path, broken):
    """CRC-32 of the size, of `broken`, and of the first and the last 4 MB: quick for any size."""
    crc, ends = zlib.crc32(f"{os.path.getsize(path)} {broken}".encode()), 2**22
    with open(path, "rb") as f:
        for position in (0, max(0, os.path.getsize(path) - ends)):
            f.seek(position)
            crc = zlib.crc32(f.read(ends), crc)
    return crc


def write_json(path, value):
    Path(path + ".tmp").write_text(json.dumps(value))
    os.replace(path + ".tmp", path)


def open_part(stem, meta):
    """(writable memory map (N, d), rows done, broken): those of a killed run, or new ones."""
    part = stem + ".part"
    try:
        old = json.loads(Path(part + ".json").read_text())
        if old["meta"] == meta and list(np.load(part, mmap_mode="r").shape) == meta["shape"]:
            return np.load(part, mmap_mode="r+"), old["rows"], old["broken"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
    out = np.lib.format.open_memmap(part, "w+", np.float32, tuple(meta["shape"]))
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, later it would be a SIGBUS
        with open(part, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, os.path.getsize(part))
    return out, 0, []


def batches(items, prepare, todo, size, workers):
    """Yields (rows, their prepared items or OSErrors); the threads are one batch ahead."""
    blocks = [todo[k : k + size] for k in range(0, len(todo), size)] + [[]]
    with ThreadPoolExecutor(max(1, workers)) as threads:
        fetch = lambda rows: threads.map(lambda i: read(items, i, prepare), rows)
        ahead = fetch(blocks[0])
        for rows, following in zip(blocks, blocks[1:], strict=False):
            got, ahead = list(ahead), fetch(following)
            yield rows, got


def build(encoder, items, stem, meta, batch, workers):
    """Writes stem.npy, then stem.json, whose presence means that both are complete."""
    out, done, broken = open_part(stem, meta)
    todo = broken + list(range(done, len(items)))  # a broken file may have been repaired
    name = getattr(items, "name", "item {}".format)
    failed, saved, what = [], time.monotonic(), encoder.modality + "s"

    def record():
        out.flush()
        write_json(stem + ".part.json", {"meta": meta, "rows": done, "broken": broken})

    with tqdm(total=len(todo), desc=encoder.spec, disable=None) as bar:
        for rows, got in batches(items, encoder.prepare, todo, batch, workers):
            bad = {i: x for i, x in zip(rows, got, strict=True) if isinstance(x, OSError)}
            good = [i for i in rows if i not in bad]
            z = encoder.embed([x for x in got if not isinstance(x, OSError)])
            fine = np.isfinite(z).all(1)
            if not fine.all():
                raise EncoderError(f"{encoder.spec}: NaN or Inf for {name(good[fine.argmin()])}")
            out[good] = z
            for i in list(bad)[: max(0, 5 - len(failed))]:
                say(f"cannot read {name(i)}: {reason(bad[i])}")
            failed += bad
            broken = sorted(set(broken) - set(good) | set(bad))
            done = max(done, rows[-1] + 1)
            bar.update(len(rows))
            if len(failed) > 0.01 * len(items):
                record()
                first = ", ".join(map(name, failed[:3]))
                raise EncoderError(f"more than 1 % of {what} cannot be read, the first: {first}")
            if time.monotonic() > saved + FLUSH:
                record()
                saved = time.monotonic()
    if failed:
        say(f"{len(failed)} of {len(items)} {what} cannot be read: their latents are zeros")
    record()  # an msync: the rows are on the disk before a finished name says so
    sums = checksum(stem + ".part", broken)
    os.replace(stem + ".part", stem + ".npy")
    write_json(stem + ".json", {"meta": meta, "broken": broken, "checksum": sums})
    os.remove(stem + ".part.json")


class Latents(NamedTuple):
    """A `Split` in latent space: nothing here remembers pictures or words."""

    image: Sequence  # (N, h) float32, in memory maps
    text: Sequence  # (L, h)
    pairs: np.ndarray  # (P, 2) rows (i, j) of `image` and `text` that belong together
    full: np.ndarray  # row numbers of `pairs`: captions of their own image
    bare: np.ndarray  # row numbers of `pairs`: captions of several images alike

    def of(self, direction, rows):
        """Raw (c, z), tensors (n, h1) and (n, h2), for n row numbers of `pairs`."""
        i, j = self.pairs[rows].T
        image, text = torch.from_numpy(self.image[i]), torch.from_numpy(self.text[j])
        return (text, image) if direction == "text->image" else (image, text)

    def dims(self, direction):
        """(h1, h2)"""
        h = len(self.image[0]), len(self.text[0])
        return h[::-1] if direction == "text->image" else h

    def chunks(self, direction, size=8192):
        """All full pairs, `size` at a time: memory does not grow with the data."""
        for start in range(0, len(self.full), size):
            yield self.of(direction, self.full[start : start + size])


def encode_split(split, E_image, E_text, cache_dir):
    """Each image once, each caption once -> Latents, without the pairs of broken images."""
    image, text, lost = split.images, split.captions, []
    if E_image.spec != "none":  # else they are vectors already, memory-mapped where they lie
        image, lost = encode(E_image, image, split.key, cache_dir)
    if E_text.spec != "none":
        text, _ = encode(E_text, text, split.key, cache_dir)
    kept = ~np.isin(split.pairs[:, 0], lost)
    full, bare = np.flatnonzero(kept & ~split.bare), np.flatnonzero(kept & split.bare)
    return Latents(image, text, split.pairs, full, bare)


# --------------------------------------------------------------------------------------------------
# decoders: from a latent to a caption


class Captioner(nn.Module):
    """A causal language model that continues `prefix` vectors, made from a latent by an MLP.

    ClipCap (arXiv 2111.09734): trained on image latents. CapDec (2211.00575): on text latents plus
    noise, without images, then it reads latents of images. Latents are raw; it sets their length.
    """

    def __init__(self, h, lm, tokenizer, prefix=10):
        super().__init__()
        from transformers import GenerationConfig

        self.h, self.prefix, self.lm, self.tokenizer = h, prefix, lm, tokenizer
        self.eos, width = tokenizer.eos_token_id, lm.get_input_embeddings().weight.shape[1]
        inner, outer = width * prefix // 2, width * prefix
        self.map = nn.Sequential(nn.Linear(h, inner), nn.Tanh(), nn.Linear(inner, outer))
        lm.generation_config = GenerationConfig()  # a hub model may bring penalties of its own

    def read(self, latents, noise=0.0, generator=None):
        """(B, prefix, width) for latents (B, h); noise: see `loss`."""
        z = fn.normalize(latents, dim=1)
        if noise:  # drawn on the CPU: the same numbers for any device
            z = fn.normalize(z + noise * torch.randn(z.shape, generator=generator).to(z.device))
        # sqrt(h): inputs of mean square 1, so that the first prefixes differ between latents
        return self.map(z * self.h**0.5).unflatten(1, (self.prefix, -1))

    def tokens(self, captions):
        """ids (B, L): caption, EOS, padding, cut at MOST; mask (B, L): False on the padding."""
        ids = self.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([*row, self.eos][:MOST]) for row in ids]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.eos)
        return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])

    def loss(self, latents, captions, noise=0.0, generator=None):
        """Mean cross-entropy, over their tokens and EOS, of B captions given latents (B, h).

        noise: standard deviation per coordinate of CapDec's Gaussian, for latents of length 1;
        they get length 1 again afterwards."""
        ids, mask = (x.to(latents.device) for x in self.tokens(captions))
        prefix = self.read(latents, noise, generator)
        x = torch.cat([prefix, self.lm.get_input_embeddings()(ids)], 1)
        # no attention mask: the padding is on the right, where a causal model does not look
        logits = self.lm(inputs_embeds=x).logits[:, self.prefix - 1 : -1]  # (B, L, words)
        return fn.cross_entropy(logits[mask], ids[mask])

    @torch.no_grad()
    def generate(self, latents, beams=5, batch=256):
        """A caption for each of the latents (N, h), by beam search; beams=1 is greedy."""
        unknown = self.tokenizer.unk_token_id
        banned = None if unknown in (None, self.eos) else [unknown]
        how = dict(eos_token_id=self.eos, pad_token_id=self.eos, suppress_tokens=banned)
        how |= dict(min_new_tokens=1, max_new_tokens=MOST, num_beams=beams, do_sample=False)
        captions = []
        self.eval()
        for z in latents.split(batch):
            x = self.read(z.to(self.map[0].weight.device))
            mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
            out = self.lm.generate(inputs_embeds=x, attention_mask=mask, **how)  # without prefix
            captions += self.tokenizer.batch_decode(out, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    def state(self):
        """All there is to it, a large model's weights too: `captioner_from_state` asks no hub."""
        tool = self.tokenizer
        words = dict(tokenizer=tool.backend_tokenizer.to_str(), eos=tool.eos_token)
        model = dict(config=self.lm.config.to_json_string(), weights=self.state_dict())
        return dict(h=self.h, prefix=self.prefix, unk=tool.unk_token, **words, **model)


def captioner_from_state(state, device="cpu"):
    """The Captioner whose `state()` this is; torch.load(weights_only=True) can read it."""
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        tool = fast_tokenizer(Tokenizer.from_str(state["tokenizer"]), state["eos"], state["unk"])
        config = AutoConfig.for_model(**json.loads(state["config"]))
        lm = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float()
        captioner = Captioner(state["h"], lm, tool, state["prefix"])
        captioner.load_state_dict(state["weights"])
    except Exception as error:  # anything may be in a file
        raise EncoderError(f"this is not the state of a captioner: {reason(error)}") from error
    return captioner.to(device).eval()


def fast_tokenizer(tool, eos, unk):
    from transformers import PreTrainedTokenizerFast

    options = dict(eos_token=eos, unk_token=unk, clean_up_tokenization_spaces=False)
    return PreTrainedTokenizerFast(tokenizer_object=tool, **options)


def word_tokenizer(captions):
    """One token a word: the 10,000 commonest, in lower case; "t-shirt" is one, a comma too."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tool = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tool.normalizer = normalizers.Lowercase()
    words = Regex(r"\w+(?:[-'’.]\w+)*|[^\w\s]")
    tool.pre_tokenizer = pre_tokenizers.Split(words, "removed", invert=True)
    special = dict(special_tokens=["<eos>", "<unk>"], show_progress=False)
    tool.train_from_iterator(captions, trainers.WordLevelTrainer(vocab_size=10_000, **special))
    return fast_tokenizer(tool, "<eos>", "<unk>")


def make_captioner(h, lm="scratch", captions=(), download=False, seed=0, layers=2, width=128):
    """A Captioner to be trained, for latents h wide.

    lm   "scratch": a small GPT-2 (layers, width) whose words are those of `captions`;
         else a causal language model of huggingface.co, or its folder (gpt2 is ClipCap's)
    Raises EncoderError if there are no words, or if the model is not there or not whole."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)  # for the first weights
    if lm != "scratch":
        name, Model = os.path.expanduser(lm), "AutoModelForCausalLM"
        model, tool, _ = load_hf(lm, name, "text", download, "pooler", Model)  # no weight may lack
        if not tool.is_fast or tool.eos_token is None:
            raise EncoderError(f"{lm}: needs a tokenizer.json and an end-of-text token")
        tool = fast_tokenizer(tool.backend_tokenizer, tool.eos_token, tool.unk_token)
        return Captioner(h, model, tool)
    tool, prefix = word_tokenizer(captions), 4  # with ClipCap's 10 a step takes 1.7 times as long
    if len(tool) == 2:
        raise EncoderError(f"a captioner needs captions to learn words from, got {len(captions)}")
    size = dict(n_embd=width, n_layer=layers, n_head=4, n_positions=prefix + MOST)
    drop = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    ends = dict(bos_token_id=tool.eos_token_id, eos_token_id=tool.eos_token_id)
    config = GPT2Config(vocab_size=len(tool), **size, **drop, **ends)
    return Captioner(h, GPT2LMHeadModel(config), tool, prefix)


def fit_captioner(
    model, latents, captions, rows, noise=0.0, steps=2000, batch=32, lr=2e-3, seed=0, desc="words"
):
    """Trains all of a Captioner, in place; returns it.

    latents  (N, h) array or memory map; captions (L,) strings
    rows     (P, 2) integers: row (i, j) says that caption j is to be written for latent i
    noise    ClipCap: 0. CapDec, with text latents and rows (j, j): up to `noise_level`, to be
             chosen on validation captions; on glyphs a quarter to a half was best
    lr       2e-3 is for "scratch"; ClipCap tunes GPT-2 with 2e-5"""
    from transformers import get_cosine_schedule_with_warmup

    torch.manual_seed(seed)  # for dropout
    g, device = torch.Generator().manual_seed(seed), next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    model.train()
    for _ in tqdm(range(steps), desc, disable=None):
        i, j = rows[torch.randint(len(rows), (batch,), generator=g).numpy()].T
        z, words = torch.from_numpy(latents[i]).to(device), [captions[k] for k in j.tolist()]
        loss = model.loss(z, words, noise, g)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def noise_level(z_hat, z):
    """sqrt(mean((unit(z_hat) - unit(z))^2)) over rows and coordinates, both (N, h): the error per
    coordinate that the decoder of a translator will meet."""
    return (fn.normalize(z_hat, dim=1) - fn.normalize(z, dim=1)).square().mean().sqrt().item()


# --------------------------------------------------------------------------------------------------
# a small CLIP: one space for pictures and captions, trained in minutes


SMALL = {  # 7.4 million weights, 6.3 of them in the table of open_clip's 49,408 tokens
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "layers": 3, "width": 128},
    "text_cfg": {"context_length": 32, "layers": 2, "width": 128, "heads": 2},
}
LOOKS = {"mean": [0.5] * 3, "std": [0.5] * 3}  # pixels in [-1, 1]


def pair_reader(split):
    """prepare: row of split.pairs -> picture (3, 32, 32) uint8, token ids (32,).

    It remembers 100,000 pictures (0.3 GB): those of glyphs are resized once, not once an epoch."""
    import open_clip

    transform = open_clip.image_transform(SIDE, is_train=False, mean=[0] * 3, std=[1] * 3)
    tokenizer = open_clip.SimpleTokenizer(context_length=SMALL["text_cfg"]["context_length"])
    pixels = lambda i: (255 * transform(split.images[i])).round().byte()
    pixels = functools.lru_cache(100_000)(pixels)

    def prepare(row):
        i, j = split.pairs[row]
        return pixels(i), tokenizer(split.captions[j])[0]

    return prepare


def whole(got):
    """The prepared pairs without the OSErrors of broken images."""
    good = [x for x in got if not isinstance(x, OSError)]
    if not good:
        raise EncoderError(f"none of {len(got)} images can be read, the first: {got[0]}")
    return good


def embed_pairs(model, prepared):
    """n prepared pairs -> unit vectors (n, d) of their pictures and of their captions."""
    device = model.logit_scale.device
    pixels, tokens = (torch.stack(x).to(device) for x in zip(*prepared, strict=True))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        u, v = model.encode_image(pixels / 127.5 - 1), model.encode_text(tokens)
    return fn.normalize(u.float(), dim=1), fn.normalize(v.float(), dim=1)


def meeting(u, v, same):
    """How two modalities meet: a dict of numbers. u, v (N, d) unit vectors, same (N, N) bool.

    paired, unpaired: mean cosine of u_n and v_m where `same`, and elsewhere. gap: |mean u - mean v|
    (Liang et al. 2022). R@1: the nearest of N is a right one, both ways."""
    cos, mu, mv = u @ v.T, u.mean(0), v.mean(0)
    right = [row.nonzero()[0] for row in same.numpy()]  # `same` is symmetric
    hits = lambda a, b: recall_at_k(ranks(a, b, right), 1)
    found = {"paired": cos[same].mean(), "unpaired": cos[~same].mean(), "gap": (mu - mv).norm()}
    found |= {"|mean u|": mu.norm(), "|mean v|": mv.norm(), "i->t": hits(u, v), "t->i": hits(v, u)}
    return {name: float(x) for name, x in found.items()}


def reporter(model, split, most=1000):
    """report(step) prints `meeting` on at most 1,000 full pairs, and the logit scale, as a row."""
    rows = np.flatnonzero(~split.bare)
    rows, prepare = rows[sample(len(rows), most)], pair_reader(split)
    got = [read(rows, k, prepare) for k in range(len(rows))]
    i, j = torch.from_numpy(split.pairs[rows[[not isinstance(x, OSError) for x in got]]].T)
    same = (i[:, None] == i) | (j[:, None] == j)  # (N, N): captions of one image, and vice versa

    @torch.no_grad()
    def report(step):
        u, v = embed_pairs(model, whole(got))
        found = meeting(u.cpu(), v.cpu(), same) | {"scale": model.logit_scale.exp().item()}
        if step == 0:
            print(f"validation, {len(i)} pairs\n  step" + "".join(f"{k:>9}" for k in found))
        print(f"{step:6}" + "".join(f"{x:9.3f}" for x in found.values()), flush=True)

    return report


def train_clip(model, split, steps, batch, seed, report):
    """AdamW on open_clip's ClipLoss over the full pairs; 100 steps of warm-up, then cosine to 0.

    As in CLIP, all other captions of a batch count as wrong, even a second one of the same image.
    Broken images are left out; EncoderError if they are over 1 % of those asked for."""
    import open_clip

    full, rng, lost = np.flatnonzero(~split.bare), np.random.default_rng(seed), []
    batch = min(batch, len(full))
    epochs = -(-steps * batch // len(full))
    rows = np.concatenate([rng.permutation(full) for _ in range(epochs)])[: steps * batch]
    ahead = batches(rows, pair_reader(split), range(len(rows)), batch, os.cpu_count())
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    rate = lambda k: min(1, (k + 1) / 100) * (1 + math.cos(math.pi * k / steps)) / 2
    rate, loss_of = torch.optim.lr_scheduler.LambdaLR(adam, rate), open_clip.ClipLoss()
    for step, (_, got) in enumerate(tqdm(ahead, "--fit clip", total=steps, disable=None)):
        if step % max(1, steps // 4) == 0:
            report(step)
        lost += [x for x in got if isinstance(x, OSError)]
        if len(lost) > 0.01 * len(rows):
            raise EncoderError(f"more than 1 % of images cannot be read, the first: {lost[0]}")
        loss = loss_of(*embed_pairs(model, whole(got)), model.logit_scale.exp())
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
        model.logit_scale.data.clamp_(max=math.log(100))  # as CLIP does
    report(steps)
    if lost:
        say(f"{len(lost)} times an image could not be read, and was left out; the first: {lost[0]}")


def fit_clip(train, val, out, steps, batch, scale, seed, device):
    """Trains SMALL on `train`, prints how it does on `val`; the folder `out` appears when complete.

    scale: what multiplies the cosines in the softmax, at most 100; 0: learned, from 1 / 0.07.
    Returns the model. EncoderError: `out` exists, wrong numbers, no pictures with captions."""
    import open_clip
    from safetensors.torch import save

    out = os.path.normpath(os.path.expanduser(out))
    part = out + ".part"
    if os.path.exists(out):
        raise EncoderError(f"{out} exists: remove it, or name another folder with --out")
    if steps < 1 or batch < 2 or not 0 <= scale <= 100:
        wanted = "1 or more steps, a batch of 2 or more, a scale from 0 to 100"
        raise EncoderError(f"--fit clip needs {wanted}; got {steps}, {batch}, {scale}")
    if not isinstance(train.captions[0], str):
        raise EncoderError("--fit clip needs pictures and captions, these are vectors")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"--device {device}: {reason(error)}") from error
    torch.manual_seed(seed)
    model = open_clip.CLIP(**SMALL)
    if scale:
        model.logit_scale.requires_grad_(False).fill_(math.log(scale))
    try:
        os.makedirs(part, exist_ok=True)  # no disk: an error now, not after ten minutes
        train_clip(model.to(device), train, steps, batch, seed, reporter(model, val))
        weights = {k: x.cpu().contiguous() for k, x in model.state_dict().items()}
        Path(part, "open_clip_model.safetensors").write_bytes(save(weights))
        config = {"model_cfg": SMALL, "preprocess_cfg": LOOKS}  # an ordinary open_clip checkpoint
        write_json(os.path.join(part, "open_clip_config.json"), config)
        os.replace(part, out)
    except OSError as error:
        raise EncoderError(f"cannot write {out}: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return model.eval()


def main():
    p = argparse.ArgumentParser(description="Loads an encoder, fits one, or trains a small CLIP.")
    a = p.add_argument
    a("modality", nargs="?", choices=SPECS)
    a("spec", nargs="?", help=f"image: {SPECS['image']}; text: {SPECS['text']}")
    a("--download", action="store_true", help="fetch weights from huggingface.co")
    a("--dataset", default="glyphs", help=f"{', '.join(NAMES)} (default glyphs)")
    a("--data-dir", help="folder of the data set")
    a("--fit", choices=["clip"], help="train one; the flags below are for it")
    a("--out", help="folder for the checkpoint (default runs/DATASET-clip)")
    a("--steps", type=int, default=1200)
    a("--batch", type=int, default=256)
    a("--logit-scale", type=float, default=100, help="fixed, or 0: learned (default %(default)s)")
    a("--seed", type=int, default=0)
    a("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    a = p.parse_args()
    if not (a.fit or a.spec):
        p.error("say MODALITY SPEC, or --fit clip")
    if a.device == "auto":
        a.device = "cuda" if torch.cuda.is_available() else "cpu"
    split = load(a.dataset, a.data_dir, "val")
    if a.fit:
        train, out = load(a.dataset, a.data_dir, "train"), a.out or f"runs/{a.dataset}-clip"
        fit_clip(train, split, out, a.steps, a.batch, a.logit_scale, a.seed, a.device)
        return print(f"wrote {out}: --image-encoder and --text-encoder clip:local-dir:{out}")
    items = split.images if a.modality == "image" else split.captions
    encoder = make(a.spec, a.modality, items, download=a.download)
    print(f"{a.spec}: {encoder.dim} numbers, fingerprint {encoder.fingerprint}")


if __name__ == "__main__":
    try:
        main()
    except (EncoderError, DataError) as error:
        sys.exit(f"encoders.py: {error}")
    except KeyboardInterrupt:
        sys.exit("encoders.py: stopped, nothing was written")
