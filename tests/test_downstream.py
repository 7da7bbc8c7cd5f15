"""Scores of drawings and captions, the judge, MT Table 3 and Karlo: cases solved by hand."""

import importlib
import json
import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import encoders
import evaluate
import runs
import train
from encoders import EncoderError
from latents import Latents
from tables import captioning, encoder_pairs, small_clip, text_to_image

RED, BLUE = (220, 30, 20), (20, 40, 230)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------
# R-precision, the gap, the scores of captions


def test_r_precision_by_hand():
    """Otherwise drawings of other captions count, the truth does not, or a tie does."""
    for N in (2, 5, 100, 130):  # fewer than 100 too
        truth = normal(N, 7)
        assert text_to_image.r_precision(3 * truth, truth) == 1
    for N in (2, 5, 100):  # all others are candidates, the right one of each row too
        assert text_to_image.r_precision(normal(N, 7).roll(1, 0), normal(N, 7)) == 0
    a, b, c = torch.eye(3)
    assert text_to_image.r_precision(torch.stack([a, a, b, c]), torch.stack([a, a, b, c])) == 0.5
    assert text_to_image.r_precision(torch.stack([a, b, a]), torch.stack([a, b, c])) == 2 / 3


def test_r_precision_is_among_99_others():
    """Otherwise chance is not 0.01: with one better item of 399, it is drawn in 99 of 399 cases."""
    truth = torch.eye(400)
    found = text_to_image.r_precision(truth + 2 * truth.roll(1, 0), truth)
    assert found == pytest.approx(1 - 99 / 399, abs=5 * (0.248 * 0.752 / 400) ** 0.5)


def test_gap_by_hand():
    """Otherwise pairs are crossed, or the gap is not the distance of the two means."""
    x, image = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    found = small_clip.gap_of(x, image, SimpleNamespace(group=np.array([0, 1])))
    # means (0.8, 0.4) and (0.5, 0.5)
    expected = {"paired": 0.3, "unpaired": 0.9, "distance": 0.1**0.5, "mean_norm": 0.8**0.5}
    assert found == pytest.approx(expected)


def test_caption_scores_by_hand():
    """Otherwise scores are no percents, capitals count, or only one reference is looked at."""
    names = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"]
    references = [[["no"], "a cat sat on it".split()], [["two", "dogs", "run", "by"]]]
    found = captioning.caption_scores(["A cat sat on it.", "two dogs run by"], references)
    assert list(found) == names and list(found.values()) == pytest.approx([100] * 5)
    found = captioning.caption_scores(["a cat"], [["a dog is here".split()]])
    # one word of two, half as long as the reference; P = 1/2, R = 1/4, beta = 1.2
    assert found["bleu1"] == pytest.approx(50 * np.exp(1 - 4 / 2))
    assert found["rouge_l"] == pytest.approx(100 * 2.44 / 8 / (1 / 4 + 1.44 / 2))


# of ROUGE-L 1, 1, 3/4, 2/5, 0, 1 against the references
OURS = ["a b c", "d e", "a b c x", "a b v w y", "z", "f g"]
TRUE = ["a b c", "d e", "a b c d", "a b c d e", "q", "f g"]
KIND = ["RIGHT", "RIGHT", "SIMILAR", "CONFUSED", "OTHER", "RIGHT"]
SHARE = {"RIGHT": "50%", "SIMILAR": "17%", "CONFUSED": "17%", "OTHER": "17%"}


def test_drawn_captions_are_of_their_kind(tmp_path):
    """Otherwise a caption stands beside another image, or under a kind that is not its own."""
    images = np.array([3, 5, 6, 8, 9, 12])
    pictures = type("", (dict,), {"name": lambda self, i: f"photo {i}"})()
    pictures.update({i: Image.new("L", (4, 5), 10 * i) for i in images.tolist()})
    figures, path = [], lambda name, ending: str(tmp_path / (name + ending))
    evaluation = SimpleNamespace(test=SimpleNamespace(images=pictures), label=str, path=path)
    evaluation.figure = lambda fig, name: figures.append(fig)
    captions = {"ours + CapDec": OURS, "ours + ClipCap": [f"clip {i}" for i in images]}
    captions["caption of the nearest image"] = [f"near {i}" for i in images]
    captioning.draw_captions(evaluation, images, captions, [[t, "elsewhere"] for t in TRUE])

    def says(n):
        return [f"{method}: {texts[n]}" for method, texts in captions.items()]

    seen = []
    for left, right in zip(figures[0].axes[::2], figures[0].axes[1::2], strict=True):
        n = images.tolist().index(left.images[0].get_array()[0, 0] // 10)
        lines = [f"{KIND[n]}, {SHARE[KIND[n]]} of 6", *says(n), f"reference: {TRUE[n]}"]
        assert right.texts[0].get_text().split("\n") == lines
        seen.append(KIND[n])
    assert seen == ["RIGHT", "RIGHT", "SIMILAR", "CONFUSED", "OTHER"]  # two at most of each
    file = (tmp_path / "captions.txt").read_text().splitlines()
    lines = [*says(1), "reference: d e", "reference: elsewhere"]
    assert file[6:12] == ["image photo 5", *["  " + line for line in lines]] and len(file) == 36


# ---------------------------------------------------------------------------------------------
# The small judge, and captions by neighbours


def square(colour, k):
    """A noisy square of one colour, its sides 12 to 40 pixels."""
    noise = np.random.default_rng(k).normal(0, 12, (12 + 5 * k % 29, 12 + 7 * k % 27, 3))
    return Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8))


@pytest.fixture
def squares(tmp_path):
    """An evaluation of 60 squares: red ones and blue ones, whose captions share no word."""
    colours = [RED, RED, BLUE] * 20
    says = {RED: "a b {}", BLUE: "c d {}"}
    captions = [says[colour].format("ef"[k % 2]) for k, colour in enumerate(colours)]
    text = encoders.fit_tfidf("tfidf:3", captions, 3)(captions)
    rows = np.arange(60)
    latents = Latents(text[:, :2], text, np.stack([rows, rows], 1), rows, rows[:0])
    images = [square(colour, k) for k, colour in enumerate(colours)]
    E_text = SimpleNamespace(fingerprint="f")
    run = SimpleNamespace(folder=str(tmp_path), device=torch.device("cpu"), E_text=E_text)
    train_set = SimpleNamespace(images=images, captions=captions, key="first")
    return SimpleNamespace(run=run, training=latents, train_set=train_set, download=False)


def test_the_small_judge_tells_captions_apart(squares, monkeypatch):
    """Otherwise features say nothing of the captions, it trains at every task, or never again."""
    net, mode = text_to_image.small_judge(squares, kinds=2, steps=60)
    assert mode == "RGB" and net[1].out_features == 2
    new = [square(colour, k) for k, colour in enumerate([RED] * 7 + [BLUE] * 6, 100)]
    x = torch.from_numpy(np.stack([encoders.thumbnail(image, mode) for image in new]))
    p = net(text_to_image.to_planes(x)).softmax(1)
    kind = p[0].argmax()
    assert p[:7, kind].min() > 0.9 and p[7:, kind].max() < 0.1
    fits, KMeans = [], text_to_image.KMeans

    def count(*args, **kwargs):
        fits.append(1)
        return KMeans(*args, **kwargs)

    monkeypatch.setattr(text_to_image, "KMeans", count)
    again, _ = text_to_image.small_judge(squares, kinds=2, steps=60)
    assert not fits and torch.equal(again(text_to_image.to_planes(x)).softmax(1), p)
    squares.train_set.key = "second"
    text_to_image.small_judge(squares, kinds=2, steps=1)
    assert fits == [1]
    text_to_image.small_judge(squares, kinds=2, steps=1)
    assert fits == [1]


def test_judge_without_inception(squares, tmp_path, monkeypatch):
    """Otherwise a missing package or missing weights end in a traceback or a download."""
    weights, nn = tmp_path / "checkpoints" / text_to_image.INCEPTION, torch.nn
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), "RGB"
    monkeypatch.setattr(text_to_image, "small_judge", lambda evaluation: small)
    monkeypatch.setattr(text_to_image, "inception", lambda file, device: file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights.parent.mkdir()
    for package, there, download in ((0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 0, 1)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=package: found or None)
        weights.touch() if there else weights.unlink(missing_ok=True)
        squares.download = bool(download)
        name, features_of = text_to_image.judge(squares)
        if package and (there or download):
            assert (name, features_of) == ("Inception", str(weights) if there else None)
            continue
        assert name == "a small network that tells 5 kinds of caption apart"
        f, p = features_of(squares.train_set.images[:7])
        assert f.shape == (7, 3 * 32 * 32) and p.shape == (7, 5) and 0 <= f.min() <= f.max() <= 1
        assert torch.allclose(p.sum(1), torch.ones(7))


@pytest.mark.parametrize("n", [6, 1])
def test_nearest_captions_are_the_loop(n):
    """Otherwise a neighbour's caption is another item's, a bare name, or one query is none."""
    image, text = normal(5, 3), normal(13, 4, seed=1)
    pairs = np.array([(j % 5, j) for j in (7, 2, 9, 0, 11, 4, 1, 8, 3, 10, 12)])
    full, bare = np.arange(1, 11), np.array([0])
    evaluation = object.__new__(evaluate.Evaluation)
    evaluation.training = Latents(image.numpy(), text.numpy(), pairs, full, bare)
    evaluation.train_set = SimpleNamespace(captions=[f"caption {j}" for j in range(13)])
    for of, keys, column in (("text", text, 1), ("image", image, 0)):
        queries, expected = normal(n, keys.shape[1], seed=2), []
        if of == "text":
            queries[0] = 2 * text[7]  # whose only pair is bare: another one is the nearest
        for z in queries:
            cosines = [torch.cosine_similarity(z, keys[pairs[r, column]], 0) for r in full]
            expected.append(f"caption {pairs[full[int(np.argmax(cosines))], 1]}")
        assert evaluation.nearest_captions(queries, of) == expected


# ---------------------------------------------------------------------------------------------
# MT Table 3


@pytest.fixture
def pairs_of(tmp_path, monkeypatch):
    """pairs_of(pairs, ...) runs encoder_pairs.py on 90 captioned squares with small nets."""
    rows = ["image,caption"]
    for k in range(90):
        square([RED, BLUE][k % 2], k).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,a {['red', 'blue'][k % 2]} square of number {k % 7}")
    (tmp_path / "captions.txt").write_text("\n".join(rows))
    small = dict(width=16, layers=3, batch=32, K=2, ddim_steps=2)
    flags = [f._replace(full=small.get(f.name, f.full)) for f in train.FLAGS]
    monkeypatch.setattr(train, "FLAGS", flags)
    monkeypatch.chdir(tmp_path)
    where = ["--on", "captions", "--data-dir", str(tmp_path)]
    return lambda *argv: encoder_pairs.main([*argv, *where])


def test_pairs_print_both_directions(pairs_of, capsys, monkeypatch):
    """Otherwise columns are swapped, a pair gets another's numbers, or all is trained anew."""
    pairs, steps, step = ("pca:3,tfidf:4", "pca:6,tfidf:2"), [], train.train_step
    monkeypatch.setattr(train, "train_step", lambda *a: steps.append(1) or step(*a))
    monkeypatch.setitem(encoder_pairs.TABLE_3, pairs[1], (0.1234, 0.5678))
    pairs_of(*pairs, "--steps", "20")
    assert len(steps) == 2 * 2 * 20
    with open("runs/pairs/table.json") as f:
        found = json.load(f)["rows"]
    lines = capsys.readouterr().out.splitlines()
    for pair, rows in found.items():
        cells = [line for line in lines if line.startswith(pair + " ")][-1].split(maxsplit=1)[1]
        numbers = [float(x) for x in re.findall(r"-?\d\.\d+", cells)]
        expected = []
        for n, direction in enumerate(("text->image", "image->text")):  # Sim_img, Sim_txt
            of = {m: [] for m in ("ours", "mean", "ridge")}
            for r in rows:
                if r["direction"] == direction and r["method"] in of:
                    of[r["method"]].append(r["cosine"])
            assert [len(v) for v in of.values()] == [3, 1, 1]
            means = [np.mean(of["ours"]), np.std(of["ours"], ddof=1), of["mean"][0], of["ridge"][0]]
            expected += means + ([(0.1234, 0.5678)[n]] if pair == pairs[1] else [])
        assert numbers == pytest.approx(expected, abs=6e-4)
    assert list(found) == list(pairs) and found[pairs[0]] != found[pairs[1]]
    saved = runs.load_checkpoint("runs/pairs/captions-pca-6-tfidf-2/model.pt")
    assert [saved["encoders"][m]["spec"] for m in ("image", "text")] == pairs[1].split(",")
    pairs_of(*pairs, "--steps", "20")
    assert len(steps) == 80
    pairs_of(pairs[0], "--steps", "5")  # other settings: trained again
    assert len(steps) == 80 + 2 * 5


@pytest.mark.parametrize("pair", ["pca", "pca,tfidf,none", "pca,", ",tfidf"])
def test_no_pair_is_refused(pair, pairs_of, capsys):
    """Otherwise half a pair is trained for hours, or ends in a traceback."""
    with pytest.raises(SystemExit):
        pairs_of(pair)
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{pair}: an image encoder, a comma, a text encoder" in last


# ---------------------------------------------------------------------------------------------
# Karlo: no weights here, so a pipeline that shows what it was given

L14 = SimpleNamespace(spec="clip:ViT-L-14-quickgelu", dim=768)


class UnCLIPImageVariationPipeline:
    """Draws one grey pixel of the first number of each embedding; `asked` has what it was told."""

    asked = []
    to = set_progress_bar_config = lambda self, *args, **options: self

    @classmethod
    def from_pretrained(cls, name, **options):
        if name != "there":
            raise OSError("no such file\nand more lines")
        cls.asked.append(options["local_files_only"])
        return cls()

    def __call__(self, image_embeddings, generator):
        self.asked.append(len(generator))
        levels = image_embeddings[:, 0].tolist()
        return SimpleNamespace(images=[Image.new("L", (1, 1), int(v)) for v in levels])


def test_karlo(monkeypatch):
    """Otherwise latents of another space are drawn, it downloads unasked, or order is lost."""
    refused = ["pca", "clip:ViT-B-32-quickgelu", "clip:ViT-L-14-336-quickgelu"]
    refused += ["clip:ViT-L-14@laion2b_s32b_b82k"]
    for spec in refused:
        with pytest.raises(EncoderError, match=f"not those of {spec}"):
            text_to_image.karlo("there", SimpleNamespace(spec=spec, dim=768), "cpu", False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="pip install diffusers"):
        text_to_image.karlo("there", L14, "cpu", False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "a spec")
    fake = ModuleType("diffusers")
    fake.UnCLIPImageVariationPipeline, fake.pipelines = (
        UnCLIPImageVariationPipeline,
        ModuleType("p"),
    )
    monkeypatch.setitem(sys.modules, "diffusers", fake)
    with pytest.raises(EncoderError, match="Karlo: nowhere is not on this machine") as error:
        text_to_image.karlo("nowhere", L14, "cpu", False)
    assert "\n" not in str(error.value)
    decode = text_to_image.karlo("there", L14, "cpu", False)
    z = torch.arange(19.0)[:, None].expand(-1, 768)
    assert [image.getpixel((0, 0)) for image in decode(z)] == list(range(19))
    assert UnCLIPImageVariationPipeline.asked == [True, 8, 8, 3]
