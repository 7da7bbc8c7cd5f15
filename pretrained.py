"""
pretrained.py: encoders that others have trained, CLIP, BERT and DINOv2, and their weights.

MT takes its encoders from the shelf. Two libraries have them, open_clip and Hugging Face's
transformers, and both are friendly: they fetch what is not there, and fill what they do not find.
Here they are used strictly. Three rules, each because its breach would go unnoticed:

  1. Nothing is fetched without --download. It may be gigabytes, and a class shares one line.
  2. Weights that are missing are an error. The libraries would go on with random numbers and a
     warning: all tables would be printed, and every number in them would be wrong.
  3. No pickle is run. A pickle is a small program that rebuilds objects, and to open it is to run
     it: a file of "weights" can delete your home. Of Hugging Face's files we read safetensors,
     which hold numbers only; elsewhere weights_only=True, which builds tensors and refuses the rest

Each kind of model comes as three things, from which encoders.make builds an `Encoder`:
    prepare       one item -> what the model takes
    run           n prepared items -> (n, d)
    fingerprint   a hash of all that decides about the latents
A fingerprint sees the weights themselves, how pictures are resized and scaled, how text is cut,
and the pooling. It does not see the path: a folder may move.

Map      hub, missing_weights           the network, only where it is allowed
         clip                           open_clip: one model with an image and a text half
         load_hf, hugging_face, pool    transformers: a vector for each token, pooled to one
         one_line                       errors of both libraries, told as ours
Letters  n items of a batch   d width of a latent
Differs  MT does not say which vector of BERT it takes: here that of the first token, [CLS], as it
         leaves the last layer; for DINOv2 the same after a LayerNorm, which it calls pooler
"""

import contextlib
import difflib
import functools
import json
import os
import re

import torch

from errors import EncoderError
from glyphs import digest

# open_clip and transformers take seconds to import, and many runs need neither: each function
# below imports what it uses.

# Which vector of a Hugging Face model is the latent (see `pool`); the first is the default.
POOLINGS = {
    "image": ["pooler", "cls", "mean", "cls+mean", "features"],
    "text": ["cls", "pooler", "mean", "features"],
}
# Any change of a tokenizer (case, accents, digits, punctuation) changes the ids of this text.
PROBE = "Two cafés, 3.5 km apart: the 2nd isn't OPEN!"


def reason(error):
    """The first line of another library's error, short enough to stand inside ours."""
    lines = str(error).strip().splitlines() or ["it gives no reason"]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def one_line(spec, modality, prepare, run):
    """(prepare, run) whose errors are ours: somebody else's network may fail in any way.

    prepare   OSError, as for a file that is cut off: latents.py counts and names such items, and
              goes on with the others. One odd picture of a million should not stop a run
    run       EncoderError: the next batch would fail, too"""

    # Any exception: what a processor raises at an odd picture is nowhere written down.
    def prepare_item(item):
        try:
            return prepare(item)
        except Exception as error:
            raise OSError(f"{spec} cannot prepare this {modality} ({reason(error)})") from error

    def run_batch(prepared):
        try:
            return run(prepared)
        except Exception as error:
            told = f"{spec} cannot encode a batch of {len(prepared)} {modality}s"
            raise EncoderError(f"{told}: {reason(error)}") from error

    return prepare_item, run_batch


@contextlib.contextmanager
def hub(download):
    """Inside, huggingface.co is out of reach unless `download`.

    open_clip and some tokenizers have no argument for that: they would look there by themselves."""
    from huggingface_hub import constants

    # The hub's client looks at this switch before each request. A user may have set it herself.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not download
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def missing_weights(spec, what, download, error):
    """The EncoderError that says why there are no weights, and what to do."""
    if download:
        why = f"was not found ({reason(error)}) at"
    else:
        why = "is not on this machine: name a local copy, or --download it (0.4 to 1.7 GB) from"
    return EncoderError(f"{spec}: {what} {why} huggingface.co")


def weights_of(model, skip=()):
    """Names and arrays of a model's weights, one after the other, for `digest`."""
    for name, x in sorted(model.state_dict().items()):
        if name not in skip:
            yield name
            yield x.cpu().numpy()


# --------------------------------------------------------------------------------------------------
# CLIP, by open_clip. A CLIP is two networks, one for images and one for texts, trained so that the
# vectors of an image and of its caption have a high cosine (tables/small_clip.py trains one).


def clip_source(spec, download):
    """(model name, weights) for open_clip, and the file or folder of the weights on this disk."""
    import open_clip

    # A folder of ours or of the hub: its open_clip_config.json names the architecture.
    if "local-dir:" in spec:
        folder = os.path.expanduser(spec.partition("local-dir:")[2])
        ours = os.path.isfile(os.path.join(folder, "open_clip_config.json"))
        if not ours and os.path.isfile(os.path.join(folder, "config.json")):
            raise EncoderError(
                f"{spec}: a folder of transformers, not of open_clip: say hf:{folder}"
            )
        return "local-dir:" + folder, None, folder

    name, _, weights = spec.removeprefix("clip:").partition("@")
    if name not in open_clip.list_models():
        close = ", ".join(difflib.get_close_matches(name, open_clip.list_models()))
        raise EncoderError(f"{spec}: open_clip has no model {name!r}; it has {close} ...")
    weights = os.path.expanduser(weights or "openai")
    # WEIGHTS is a file, or else a tag of open_clip's table of published weights.
    if os.path.isfile(weights):
        return name, weights, weights
    return name, weights, published_weights(spec, name, weights, download)


def published_weights(spec, name, weights, download):
    """The file on this disk with the weights that open_clip knows by the tag `weights`."""
    import open_clip

    tag = open_clip.get_pretrained_cfg(name, weights)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise EncoderError(f"{spec}: no file and no tag {weights!r}; tags of {name}: {tags}")

    # OpenAI's CLIP was trained with QuickGELU, x sigmoid(1.702 x), an approximation of GELU. An
    # activation has no weights, so the same file fits the model with either, and with the wrong
    # one all latents are slightly off, without an error. open_clip 2 switched by itself; 3 warns.
    if tag.get("quick_gelu") and not open_clip.get_model_config(name).get("quick_gelu"):
        better = f"clip:{name}-quickgelu@{weights}"
        raise EncoderError(f"{spec}: {weights} was trained with QuickGELU: say {better}")
    try:
        with hub(download):
            return open_clip.download_pretrained(tag)
    except Exception as error:
        raise missing_weights(spec, f"{name}@{weights}", download, error) from error


# The image and the text encoder are two halves of one model: the second call finds the first's.
# `stamp`, the file's time, makes sure that weights which were replaced are read again.
@functools.lru_cache(maxsize=1)
def load_clip(name, weights, device, download, stamp):
    """(model, image transform, tokenizer, fingerprint)"""
    import open_clip

    with hub(download):  # some models take their tokenizer from there
        model, transform = open_clip.create_model_from_pretrained(name, weights, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    # Besides its weights: the activation, how pictures are resized and scaled, how text is cut.
    gelu = open_clip.get_model_config(name).get("quick_gelu", False)
    settings = json.dumps([gelu, model.visual.preprocess_cfg], sort_keys=True)
    tokens = tokenizer([PROBE]).tolist()
    fingerprint = digest("clip", settings, tokens, *weights_of(model))
    return model.to(device).eval(), transform, tokenizer, fingerprint


def clip(spec, modality, device, download):
    """(prepare, run, fingerprint) of one half of a CLIP; its latents are not normalised."""
    name, weights, path = clip_source(spec, download)
    try:
        stamp = os.stat(path).st_mtime_ns
        model, transform, tokenizer, fingerprint = load_clip(name, weights, device, download, stamp)
    except Exception as error:  # anything may be in a file
        raise EncoderError(f"{spec}: cannot load {path}: {reason(error)}") from error

    # normalize=False is said because the default of one family, CoCa, is True.
    def encode_text(texts):
        return model.encode_text(tokenizer(texts).to(device), normalize=False).cpu()

    def encode_image(images):
        return model.encode_image(torch.stack(images).to(device), normalize=False).cpu()

    prepare, run = (str, encode_text) if modality == "text" else (transform, encode_image)
    return *one_line(spec, modality, prepare, run), fingerprint


# --------------------------------------------------------------------------------------------------
# BERT, DINOv2 and others, by Hugging Face's transformers


def load_hf(spec, name, modality, download, pooling, Model="AutoModel"):
    """A model of transformers' class `Model`; name: an ID of the hub, or a folder.

    -> (model, its tokenizer or image processor, names of weights that no file has). The last are
    weights that nobody uses: EncoderError if a weight is missing that is used."""
    import transformers

    Tool = transformers.AutoTokenizer if modality == "text" else transformers.AutoImageProcessor
    # No program from the hub is run: no model's own code, no pickle.
    options = dict(local_files_only=not download, trust_remote_code=False)
    safe = dict(use_safetensors=True, output_loading_info=True)
    try:
        with hub(download):
            model, info = getattr(transformers, Model).from_pretrained(name, **safe, **options)
            tool = Tool.from_pretrained(name, **options)
    except Exception as error:
        if not os.path.isdir(name):
            raise missing_weights(spec, name, download, error) from error
        if os.path.isfile(os.path.join(name, "open_clip_config.json")):
            said = f"a folder of open_clip, not of transformers: say clip:local-dir:{name}"
            raise EncoderError(f"{spec}: {said}") from error
        settings = "tokenizer.json" if modality == "text" else "preprocessor_config.json"
        needs = f"config.json, {settings}, model.safetensors (pickled weights are not read)"
        raise EncoderError(f"{spec}: {reason(error)}; the folder needs {needs}") from error

    lost = set(info["missing_keys"])
    refuse_random(spec, lost, pooling)
    return model.float().eval(), tool, lost


def refuse_random(spec, lost, pooling):
    """EncoderError if a weight that no file has, and that is a random number now, will be used.

    Only in the pooler, which some files lack, does one do no harm, as long as another vector than
    the pooler's is taken."""
    harmless = ("cls", "mean", "cls+mean")
    needed = [key for key in lost if pooling not in harmless or "pooler" not in key]
    if needed:
        raise EncoderError(f"{spec}: the files lack {len(needed)} weights, such as {min(needed)}")


def hugging_face(spec, name, modality, device, download, pooling=None):
    """(prepare, run, fingerprint, pooling) of a transformers model: an item's tokens become one.

    pooling None: `features` of a model of two halves, else the first of POOLINGS[modality]."""
    folder, default = os.path.expanduser(name), POOLINGS[modality][0]
    model, tool, lost = load_hf(spec, folder, modality, download, pooling or default)
    # CLIP, SigLIP and their kind: two networks, and a method for the vector of either.
    features = getattr(model, f"get_{modality}_features", None)
    pooling = pooling or ("features" if features else default)
    if (pooling == "features") != (features is not None):
        has = "features" if features else ", ".join(POOLINGS[modality][:-1])
        raise EncoderError(f"{spec}: no pooling {pooling!r}, this model has {has}")
    refuse_random(spec, lost, pooling)
    if modality == "text":
        prepare, collate, settings = text_inputs(tool, model)
    else:
        prepare, collate, settings = image_inputs(tool)
    # Without the lost weights: they are other random numbers each time.
    fingerprint = digest("hf", pooling, settings, *weights_of(model, lost))
    model.to(device)
    # An image's tokens are [CLS], in some models a few registers, then the patches.
    first_patch = 1 + getattr(model.config, "num_register_tokens", 0)

    def embed(alike):
        batch = {key: x.to(device) for key, x in collate(alike).items()}
        if features:
            batch.pop("token_type_ids", None)  # some tokenizers add them, no such model takes them
            return vector_of(features(**batch)).cpu()
        out = model(**batch)
        # The tokens that stand for the content: words without padding, or patches.
        places = torch.arange(out.last_hidden_state.shape[1], device=device)[None]
        mask = batch.get("attention_mask", places >= first_patch)
        return pool(out, mask, pooling).cpu()

    def run(prepared):
        # A processor that does not crop leaves pictures of many sizes. Only those of one size can
        # be stacked, so each size is a batch of its own. Texts have no shape: they are one batch.
        rows_of = {}
        for row, x in enumerate(prepared):
            rows_of.setdefault(getattr(x, "shape", None), []).append(row)
        z = [None] * len(prepared)
        for rows in rows_of.values():
            found = embed([prepared[row] for row in rows])
            for row, vector in zip(rows, found, strict=True):
                z[row] = vector
        return torch.stack(z)

    return *one_line(spec, modality, prepare, run), fingerprint, pooling


def vector_of(features):
    """(n, d) from what a model's get_..._features returns: the vectors, or an output with them."""
    return features if torch.is_tensor(features) else features.pooler_output


def text_inputs(tokenizer, model):
    """prepare (one text), collate (n of them -> token ids), and what the fingerprint has to see."""
    tokenizer.padding_side = "right"  # so that [CLS] is token 0 of every row
    longest = longest_text(tokenizer, model)
    # SigLIP reads the last token, and was trained on texts that are padded to the full length,
    # without a mask: padded to the longest of a batch, a text would have another latent beside
    # other texts.
    full = model.config.model_type.startswith("siglip")
    padding = "max_length" if full else True

    def collate(texts):
        found = tokenizer(
            texts, padding=padding, truncation=True, max_length=longest, return_tensors="pt"
        )
        return {"input_ids": found["input_ids"]} if full else found

    vocabulary = sorted(tokenizer.get_vocab().items())
    settings = digest(vocabulary, tokenizer(PROBE)["input_ids"], longest)
    return str, collate, settings


def longest_text(tokenizer, model):
    """How many tokens a text may have. The rest is cut: there are no position embeddings for it.

    A tokenizer may not know it: its model_max_length is 1e30 where nobody has set it."""
    config = getattr(model.config, "text_config", model.config)
    positions = getattr(config, "max_position_embeddings", None) or 512
    # RoBERTa and its kind begin to count behind the number of the padding token: with 514
    # positions and padding 1 the first token has position 2, and 512 tokens fit.
    for name, layer in model.named_modules():
        padding = getattr(layer, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            positions = layer.num_embeddings - padding - 1
    # Some models, such as XLNet, have no limit and say so by -1.
    return min(tokenizer.model_max_length, positions if positions > 0 else 512)


def image_inputs(processor):
    """prepare (one image), collate (n of them -> pixels), and what the fingerprint has to see."""

    def prepare(image):
        return processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def collate(images):
        return {"pixel_values": torch.stack(images)}

    # Only what changes pixels: the processor's other entries change with the library's version.
    keep = "do_.*|size|crop_size|resample|rescale_factor|image_mean|image_std"
    settings = {}
    for key, value in processor.to_dict().items():
        if re.fullmatch(keep, key) and value is not None:
            settings[key] = value
    return prepare, collate, json.dumps(settings, sort_keys=True, default=dict)


def pool(out, mask, pooling):
    """One vector (n, width) of a model's output; mask (n, tokens): the tokens that `mean` sees.

    cls        the first token, [CLS], which stands for no word or patch but has looked at all
    mean       the mean of all words or patches
    cls+mean   both, one after the other: (n, 2 width)
    pooler     [CLS] behind the model's own last layer (BERT: linear and tanh; DINOv2: LayerNorm)
    (features  of a model of two halves, its own method gives the vector: see hugging_face)"""
    h = out.last_hidden_state  # (n, tokens, width)
    if pooling == "pooler":
        if getattr(out, "pooler_output", None) is None:
            raise ValueError("the model has no pooler: choose another pooling")
        return out.pooler_output
    cls = h[:, 0]
    if pooling == "cls":
        return cls
    mask = mask[..., None]  # (n, tokens, 1)
    mean = (h * mask).sum(1) / mask.sum(1)
    return mean if pooling == "mean" else torch.cat([cls, mean], 1)
