"""The caption decoder of captioning.py: losses by hand, captions by heart, models cut off."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from errors import EncoderError
from glyphs import Strings
from tables import captioning
from tables.captioning import captioner_from_state, fit_captioner, make_captioner, noise_level

H, SMALL = 11, dict(width=32)
NOUNS = "cat dog bird moon fish".split()
# of 1 to 8 words: an end that is not learned shows
CAPTIONS = [" ".join([a] + k * ["and"] + k * [b]) for k, a in enumerate(NOUNS[:4]) for b in NOUNS]
CAPTIONS[1:5] = ["a red t-shirt , please", "the dog's café", "3.5 km .", "moon moon moon moon"]
EACH = np.stack([np.arange(20)] * 2, 1)  # latent i has caption i
ROLLED = CAPTIONS[7:] + CAPTIONS[:7]


def latents(n, seed=0):
    return 5 * torch.randn(n, H, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A captioner that has seen 20 captions many times, from a memory map and a buffer."""
    np.save(tmp_path_factory.mktemp("z") / "z.npy", latents(20).numpy())
    z = np.load(tmp_path_factory.getbasetemp() / "z0" / "z.npy", mmap_mode="r")
    captioner = make_captioner(H, captions=Strings(CAPTIONS), **SMALL)
    rows = np.stack([np.arange(20), np.roll(np.arange(20), -7)], 1)  # latent i: caption i + 7
    return fit_captioner(captioner, z, Strings(CAPTIONS), rows, steps=200, batch=24, lr=6e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A causal language model of another family on disk."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("lm"), captioning.word_tokenizer(CAPTIONS)
    shape = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), attention_dropout=0.5, **shape)
    ).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def error_of(*args, **kwargs):
    with pytest.raises(EncoderError) as caught:
        make_captioner(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("beams", [1, 5])
def test_captions_learned_by_heart(learned, beams):
    """Otherwise training does not train, rows are crossed, the length of a latent counts, words
    come back otherwise spaced, or a caption does not end where it should."""
    assert learned.generate(latents(20), beams) == ROLLED
    assert learned.generate(0.01 * latents(20), beams) == ROLLED


def test_a_caption_does_not_depend_on_its_neighbours(learned):
    """Otherwise short and long captions of a batch disturb each other, or batches are lost."""
    z = latents(9, seed=1)
    alone = [learned.generate(z[k : k + 1])[0] for k in range(9)]
    assert learned.generate(z) == learned.generate(z, batch=4) == alone and len(set(alone)) > 3


def test_beams_find_what_greed_misses():
    """Otherwise beams are not used: "cat" comes first 6 times of 10, "fish bird" is 4 of 10."""
    captions = ["cat dog"] * 3 + ["cat moon"] * 3 + ["fish bird"] * 4
    captioner, z = make_captioner(H, captions=captions, **SMALL), latents(1)
    rows = np.stack([np.zeros(10, int), np.arange(10)], 1)
    fit_captioner(captioner, z.numpy(), captions, rows, steps=60, batch=64, lr=5e-3)
    assert captioner.generate(z, beams=1)[0].startswith("cat")
    assert captioner.generate(z, beams=3) == ["fish bird"]


def test_loss_by_hand(learned):
    """Otherwise padding or the prefix count, EOS does not, or words are read before predicted."""
    z, captions = latents(4, seed=2), [CAPTIONS[k] for k in (0, 19, 6, 4)]
    vocabulary, table, losses = learned.tokenizer.get_vocab(), learned.lm.transformer.wte.weight, []
    for k in range(4):  # one by one: no padding
        ids = [vocabulary[w] for w in captions[k].split()] + [vocabulary["<eos>"]]
        prefix = learned.map(H**0.5 * z[k] / z[k].square().sum().sqrt()).view(4, 32)
        for n, target in enumerate(ids):
            x = torch.cat([prefix, table[ids[:n]]])[None]
            losses.append(-learned.lm(inputs_embeds=x).logits[0, -1].log_softmax(0)[target].item())
    assert learned.loss(z, captions).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_noise_before_length_1():
    """Otherwise the noise has another size, is added to the raw latents, or leaves them long."""
    wide, z = 4000, torch.zeros(3, 4000)
    z[:, 0] = torch.tensor([0.1, 1.0, 70.0])
    captioner = make_captioner(wide, captions=CAPTIONS, **SMALL)
    captioner.map = torch.nn.Identity()
    seen = captioner.prefix(z, 0.03, torch.Generator().manual_seed(0)).flatten(1) / wide**0.5
    assert torch.allclose(seen.norm(dim=1), torch.ones(3))
    # (1 + 0.03 e, 0.03 e, ...) / length: the size of the others over the first is the noise
    assert (seen[:, 1:].std(1) / seen[:, 0]).tolist() == pytest.approx([0.03] * 3, rel=0.1)
    again = captioner.prefix(z, 0.03, torch.Generator().manual_seed(0)).flatten(1) / wide**0.5
    assert torch.equal(seen, again)


def test_noise_level_by_hand():
    """Otherwise the level is a sum, a mean length, or depends on the lengths of the latents."""
    z_hat, z = torch.tensor([[3.0, 0, 0], [0, 5, 0]]), torch.tensor([[0, 0.1, 0], [0, 3, 4]])
    # the differences are (1, -1, 0) and (0, 0.4, -0.8)
    assert noise_level(z_hat, z) == pytest.approx(((1 + 1 + 0.16 + 0.64) / 6) ** 0.5)


def test_words(learned):
    """Otherwise capitals or punctuation make other words, or rare words and ends get lost."""
    text = "A man's  T-shirt,\n(3.5) cafés..."
    tool = captioning.word_tokenizer([text])
    assert tool.decode(tool(text)["input_ids"]) == "a man's t-shirt , ( 3.5 ) cafés . . ."
    for text, words in {
        "लाल बिल्ली।": "लाल बिल्ली ।",
        "红色的猫，3.5": "红 色 的 猫 ， 3.5",
        "cafe\u0301 สีแดง": "cafe\u0301 สี แ ด ง",
    }.items():
        tool = captioning.word_tokenizer([text])
        assert tool.decode(tool(text)["input_ids"]) == words
    many = captioning.word_tokenizer(f"w{k % 11_000} w{k % 9_000}" for k in range(12_000))
    assert len(many) == 10_000 and "w8999" in many.get_vocab() and "w10999" not in many.get_vocab()
    ids, mask = learned.tokens(["dog", "zebra dog", "dog " * 100])
    assert ids.shape == (3, 64) and mask.sum(1).tolist() == [2, 3, 64]
    assert ids[1, 0] == learned.tokenizer.unk_token_id and (ids[:2][~mask[:2]] == learned.eos).all()


def test_unknown_words_are_never_written():
    """Otherwise a captioner that was taught rare words answers <unk>, or nothing in its place."""
    captioner = make_captioner(H, captions=["dog cat", "cat"], **SMALL)
    z, rare = latents(6), ["zebra zebra"] * 6
    fit_captioner(captioner, z.numpy(), rare, EACH[:6], steps=30, batch=8, lr=5e-3)
    first = captioner.lm(inputs_embeds=captioner.prefix(z)).logits[:, -1]
    assert (first.argmax(1) == captioner.tokenizer.unk_token_id).all()
    assert all(captioner.generate(z, beams=1) + captioner.generate(z, beams=3))


def test_fit_is_deterministic():
    """Otherwise a table cannot be made again; or seed, noise or latents do not matter."""

    def weights(seed=0, noise=0.1, other=0):
        captioner, z = make_captioner(H, captions=CAPTIONS, **SMALL), latents(20, other).numpy()
        fit_captioner(captioner, z, CAPTIONS, EACH, noise, steps=3, batch=5, seed=seed)
        return captioner.map[0].weight

    first = weights()
    torch.rand(3)
    assert torch.equal(weights(), first)
    for change in (dict(seed=1), dict(noise=0.2), dict(other=1)):
        assert not torch.equal(weights(**change), first)


def test_state_round_trip(learned, folder, tmp_path, monkeypatch):
    """Otherwise a saved captioner writes other captions, needs a pickle, or asks the hub."""
    z, other = latents(7, seed=3), make_captioner(H, str(folder)).train()  # generate ends that
    monkeypatch.setattr(captioning, "load_hf", None)  # neither folder nor hub is needed again
    for captioner in (learned, other):
        torch.save(captioner.state(), tmp_path / "captioner.pt")
        again = captioner_from_state(torch.load(tmp_path / "captioner.pt", weights_only=True))
        assert again.generate(z) == captioner.generate(z)
        assert again.loss(z, CAPTIONS[:7]).item() == captioner.loss(z, CAPTIONS[:7]).item()
    with pytest.raises(EncoderError, match="not the state of a captioner"):
        captioner_from_state({"h": H})


def test_a_pretrained_model_is_read_and_tuned(folder):
    """Otherwise the weights of the folder are not those that are used, or stay as they were."""
    name, captioner = "model.layers.1.mlp.up_proj.weight", make_captioner(H, str(folder))
    weight = captioner.lm.state_dict()[name].clone()
    assert torch.equal(weight, load_file(folder / "model.safetensors")[name])
    assert captioner.prefix_length == 10
    fit_captioner(captioner, latents(20).numpy(), CAPTIONS, EACH, steps=2, lr=1e-3)
    assert not torch.equal(captioner.lm.state_dict()[name], weight)


def test_models_that_cannot_be_used(folder, tmp_path):
    """Otherwise an unknown name ends in a stack trace or a download, a pickle is opened, lost
    weights are noise, or captions never end."""
    assert "nobody/nothing is not on this machine" in error_of(H, "nobody/nothing")
    assert "/no/such/folder" in error_of(H, "/no/such/folder")
    assert "captions to learn words from" in error_of(H, captions=["", " "])
    copy = tmp_path / "lm"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "layers.1.mlp.up" not in k}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    assert "layers.1.mlp.up_proj" in error_of(H, str(copy))
    (copy / "model.safetensors").rename(tmp_path / "away")
    torch.save(weights, copy / "pytorch_model.bin")
    assert "pickled weights are not read" in error_of(H, str(copy))
    shutil.copy(folder / "model.safetensors", copy)
    options = json.loads((copy / "tokenizer_config.json").read_text())
    options.pop("eos_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(options))
    assert "end-of-text" in error_of(H, str(copy))
