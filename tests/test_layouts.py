"""Official layouts, written here from real glyph pictures, from the files to every table."""

import functools
import io
import itertools
import json
import math
import os
import re
import shutil
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_data import CLASSES, NAMES
from test_evaluate import TOGETHER, check, draw_roughly, not_blank, table

import baselines
import data
import encoders
import evaluate
import glyphs
import metrics
import pictures
import reproduce
import train
from tables import captioning, small_clip, text_to_image

COLOURS = {"red": (230, 40, 30), "green": (40, 200, 60), "blue": (70, 90, 250)}
SAYS = "A {0} {1}.|{1} drawn in {0}|the {0} picture of a {1} .|A {1}, it is {0}!|one {0} {1}"
SAYS = SAYS.split("|")
NET = "--steps 20 --width 16 --layers 3 --batch 32 --lr 1e-3 --ema 0.9 --K 2 --ddim-steps 2"
WIDTHS = {"coco": (9, 9), "cc3m": (11, 7), "celeba": (8, 10), "cifar10": (6, 6)}  # pca, tfidf
FLAGS, OPTIONS = {"celeba": ["--celeba-train"]}, {"celeba": {"allow_train": True}}


@functools.cache
def things():
    """About 500 (grey glyph, colour, character's name), in a mixed order."""
    split = glyphs.draw_glyphs("val", dict(itertools.islice(glyphs.FACES.items(), 2)))
    names = [split.captions[j] for j in split.pairs[split.bare, 1]]
    order = np.random.default_rng(0).permutation(len(names))
    return [(split.images[i], list(COLOURS)[i % 3], names[i]) for i in order.tolist()]


def tinted(glyph, colour, size=(32, 32)):
    a = np.asarray(glyph.resize(size), np.float32)[:, :, None] / 255
    return Image.fromarray((a * COLOURS[colour] + (1 - a) * 12).astype(np.uint8))


def jpeg(k):
    """Thing k as the bytes of a colour JPEG, 22 to 48 pixels a side, and its captions, 2 to 5."""
    glyph, colour, name = things()[k % len(things())]
    buffer = io.BytesIO()
    tinted(glyph, colour, (22 + 7 * k % 27, 24 + 5 * k % 23)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), [say.format(colour, name) for say in SAYS[: 2 + k % 4]]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def write_coco(root):
    for part, ids in {"train": range(9, 129), "val": range(200, 245)}.items():
        table = {"info": {}, "licenses": [], "images": [], "annotations": []}
        for k in ids:
            content, captions = jpeg(k)
            file = f"COCO_{part}2014_{k:012d}.jpg"
            put(root / f"{part}2014" / file, content)
            table["images"].append({"id": k, "file_name": file, "license": 1})
            notes = [{"image_id": k, "id": 9 * k + n, "caption": c} for n, c in enumerate(captions)]
            table["annotations"] += notes
        put(root / "annotations" / f"captions_{part}2014.json", json.dumps(table))


def write_cc3m(root):
    shards = {"train-0000": range(70), "train-0001": range(70, 120)}
    shards["validation-0000"] = range(300, 333)
    for shard, keys in shards.items():
        with tarfile.open(root / f"cc3m-{shard}.tar", "w") as tar:
            for k in keys:
                content, captions = jpeg(k)
                for end, body in {"jpg": content, "txt": captions[-1].encode()}.items():
                    member = tarfile.TarInfo(f"{k:09d}.{end}")
                    member.size = len(body)
                    tar.addfile(member, io.BytesIO(body))


def write_celeba(root):
    """Pictures 1 to 175; what a "face" has follows its colour and the letters of its name."""
    rows, sides = [], []
    for k in range(1, 176):
        _, colour, name = things()[k]
        put(root / "img_align_celeba" / f"{k:06d}.jpg", jpeg(k)[0])
        hair = dict(red="Black", green="Blond", blue="Brown")[colour] + "_Hair"
        has = [n == hair or n[0].lower() in name[:2] and "Hair" not in n for n in NAMES]
        rows.append(f"{k:06d}.jpg " + " ".join(f"{2 * h - 1:2d}" for h in has))
        sides.append(f"{k:06d}.jpg {(k > 120) + (k > 135)}")
    put(root / "list_attr_celeba.txt", "\n".join([str(len(rows)), " ".join(NAMES), *rows, ""]))
    put(root / "list_eval_partition.txt", "\n".join([*sides, ""]))


def write_cifar10(root):
    """Six batches of 10,000 records: a label, then 1024 red, green and blue bytes."""
    folder = root / "cifar-10-batches-bin"
    for b, name in enumerate(["test_batch", "data_batch_1", "data_batch_5"]):
        records = np.zeros((400, 3073), np.uint8)
        for k, (glyph, colour, _) in enumerate(things()[:400]):
            records[k, 0] = label = (k + b) % 10
            pixels = np.roll(np.asarray(tinted(glyph, colour)), 3 * label, 0)
            records[k, 1:] = pixels.transpose(2, 0, 1).ravel()
        shifted = [records.copy() for _ in range(25)]  # sideways: no two pictures are alike
        for x, part in enumerate(shifted):
            part[:, 1:] = np.roll(records[:, 1:].reshape(-1, 32), x, 1).reshape(400, 3072)
        put(folder / f"{name}.bin", np.concatenate(shifted).tobytes())
    for k in (2, 3, 4):  # nobody looks at them: see `few_photos`
        os.link(folder / "data_batch_1.bin", folder / f"data_batch_{k}.bin")
    put(root / "cifar-10-batches-bin" / "batches.meta.txt", "\n".join(CLASSES) + "\n")


WRITERS = dict(coco=write_coco, cc3m=write_cc3m, celeba=write_celeba, cifar10=write_cifar10)


def few_photos(root, split, load=data.LOADERS["cifar10"]):
    """CIFAR-10 with 2,000 pictures to learn from and 500 to choose by, and all of its test."""
    found = load(root, split)
    n = {"train": 2000, "val": 500, "test": None}[split]
    images = glyphs.Images(found.images.pixels[:n], found.images.names[:n])
    return found._replace(images=images, pairs=found.pairs[:n], bare=found.bare[:n])


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """{data set: folder}; meanwhile what is slow about evaluation is small, the rest is itself.

    COCO's is datasets/coco, seen from where we are meanwhile: it is found without --data-dir."""
    roots, few = {}, functools.partial
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("MODALITY_DATA", raising=False)
        for name, write in WRITERS.items():
            roots[name] = (
                here / "datasets" / name if name == "coco" else tmp_path_factory.mktemp(name)
            )
            roots[name].mkdir(parents=True, exist_ok=True)
            write(roots[name])
        patch.setattr(
            captioning, "fit_captioner", few(captioning.fit_captioner, steps=20, batch=32)
        )
        patch.setattr(
            captioning, "make_captioner", few(captioning.make_captioner, layers=1, width=32)
        )
        patch.setattr(captioning, "MAX_TOKENS", 16)  # words of a caption
        patch.setattr(text_to_image, "small_judge", few(text_to_image.small_judge, steps=10))
        patch.setattr(pictures, "draw_pictures", few(pictures.draw_pictures, lines=2, samples=1))
        patch.setitem(evaluate.TASKS, "retrieval", few(pictures.retrieval, queries=2, k=2))
        patch.setitem(data.LOADERS, "cifar10", few_photos)
        sample = encoders.fixed_sample  # the test of CIFAR-10 has 10,000 images whatever we do
        for module in (encoders, baselines, evaluate, captioning, text_to_image):
            patch.setattr(module, "fixed_sample", lambda n, most: sample(n, min(most, 400)))
        yield roots
    shutil.rmtree(roots["cifar10"])  # 184 MB


@pytest.fixture(scope="module")
def runs(trees):
    """runs(data set) -> (folder of a run that has done every task, what was printed)."""

    @functools.cache
    def run_of(name):
        out, pca, tfidf = str(trees[name] / "run"), *WIDTHS[name]
        argv = ["--dataset", name, "--out", out, "--device", "cpu"]
        argv += ["--data-dir", str(trees[name])] if name != "coco" else []
        argv += ["--cache-dir", str(trees["coco"] / "cache"), *NET.split(), *FLAGS.get(name, [])]
        argv += ["--image-encoder", f"pca:{pca}", "--text-encoder", f"tfidf:{tfidf}"]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
            patch.setattr(evaluate, "main", lambda argv: None)  # the first look: all comes below
            if name != "coco":
                patch.setattr(Figure, "savefig", draw_roughly)
            train.main(argv)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as text:
            if name != "coco":  # once as they are
                patch.setattr(Figure, "savefig", draw_roughly)
            reproduce.main([out, "--limit", "90"])
        return out, text.getvalue()

    return run_of


def finite_json(out, file):
    """The JSON value of a file, whose numbers are all finite."""
    found = json.loads(Path(out, file).read_text())
    numbers, inner = [], [found]
    while inner:
        value = inner.pop()
        if isinstance(value, dict | list):
            inner += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int | float):
            numbers.append(value)
    assert len(numbers) > 10 and all(map(math.isfinite, numbers)), file
    return found


def check_scores(out, file, names, methods):
    """All methods of a table of scores, each with all of its scores; those with chance thrice."""
    rows = finite_json(out, file)["rows"]
    assert set(rows) == set(methods)
    for method, seeds in rows.items():
        assert len(seeds) == 1 + 2 * method.startswith("ours")
        assert all(list(scores) == names.split() for scores in seeds)
    return rows


@pytest.mark.parametrize("name", WRITERS)
def test_tables_are_complete(runs, name):
    """Otherwise a row or a number is missing, is NaN, or pictures met the words of others."""
    out, text = runs(name)
    equal = len(set(WIDTHS[name])) == 1
    rows = {t: [r for r in table(out) if r["task"] == t] for t in ("similarity", "ablation")}
    baselines = ["mean", "ridge", "knn", "mlp"] + ["identity", "noise"] * equal
    check(rows["similarity"], ["ours", *baselines], ["ours", "noise"], TOGETHER)
    both = ["ddim only", "both, gamma 1", "both"]
    check(rows["ablation"], ["projection only", *both], both)
    assert table(out) == finite_json(out, "translation.json")["rows"] == sum(rows.values(), [])
    centred = [r["centred_cosine"] for r in rows["similarity"] if r["method"] == "ridge"]
    assert min(centred) > 0.1, "the pairs are no pairs"
    methods = ["ours, a sample", "ridge", "image of the nearest caption"]
    methods += ["real, through the decoder", "real"]
    names = "fid fid_half is is_half r_precision"
    rows = check_scores(out, "text-to-image.json", names, methods)
    assert rows["real"][0]["r_precision"] == 1
    methods = ["ours + CapDec", "ours + ClipCap", "ours + nearest caption"]
    methods += ["ClipCap, no translator", "caption of the nearest image"]
    methods += ["CapDec of the true latent"] + ["CapDec, no translator"] * equal
    check_scores(out, "captioning.json", "bleu1 bleu2 bleu3 bleu4 rouge_l", methods)
    assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_are_there_and_skips_are_explained(runs, name):
    """Otherwise a picture is missing or blank, or a task that was asked for ends in silence."""
    out, text = runs(name)
    skipped = {"bare", "cross-domain"}
    skipped |= {"classification"} if name != "cifar10" else set()
    skipped |= {"gap"} if len(set(WIDTHS[name])) == 2 else set()
    pictures = {"loss", "curves", "retrieval", "text-to-image", "captioning", "gap"} - skipped
    assert {f[:-4] for f in os.listdir(out) if f.endswith(".png")} == pictures
    for picture in pictures:
        not_blank(os.path.join(out, picture + ".png"))
        assert picture == "loss" or f"saved {out}/{picture}.png" in text
    blocks = re.split(r"\[([\w-]+): \d+ s.*\]\n", text.partition("\n")[2])
    said = {task: block.strip() for block, task in zip(blocks[::2], blocks[1::2], strict=False)}
    assert list(said) == [*evaluate.USUAL, "text-to-image", "captioning", "gap"]
    for task in skipped:
        assert said[task].startswith(task + ": ") and "\n" not in said[task], task


@pytest.mark.parametrize("name", WRITERS)
def test_captions_are_made_of_the_trees_words(trees, runs, name):
    """Otherwise captions are empty, of foreign words, or stand beside another picture."""
    load = functools.partial(data.load, name, trees[name], **OPTIONS.get(name, {}))
    train_set, test = load("train"), load("test")
    words = {w for caption in train_set.captions for w in metrics.caption_tokens(caption)}
    references = {}
    for i, j in test.pairs.tolist():
        references.setdefault(test.images.name(i), []).append(test.captions[j])
    said = {}
    for line in Path(runs(name)[0], "captions.txt").read_text().splitlines():
        method, _, text = line.strip().partition(": ")
        if line.startswith("image "):
            said[line[6:]] = entry = {}
        else:
            entry.setdefault(method, []).append(text)
    assert len(said) > 20
    for file, entry in said.items():
        assert entry.pop("reference") == references[file]
        assert set(entry) == {"ours + CapDec", "ours + ClipCap", "caption of the nearest image"}
        for (text,) in entry.values():
            assert text and words.issuperset(metrics.caption_tokens(text))


@pytest.mark.parametrize("on", ["celeba", "cifar10"])
def test_a_coco_run_on_other_trees(trees, runs, on, tmp_path):
    """Otherwise MT Tables 4 and 6 cannot be made, or their files replace those of the run's set."""
    out = shutil.copytree(runs("coco")[0], tmp_path / "run")
    before = {f: (out / f).read_bytes() for f in os.listdir(out) if "translation" not in f}
    rows = table(out)
    argv = [str(out), "--on", on, "--data-dir", str(trees[on]), "--limit", "90"]
    evaluate.main(argv)
    assert table(out)[: len(rows)] == rows
    methods = ["ours", "mean", "ridge", "knn", "mlp", "identity", "noise"]
    check(table(out)[len(rows) :], methods, ["ours", "noise"])
    assert {r["task"] for r in table(out)[len(rows) :]} == {f"cross-domain {on}"}
    if on == "cifar10":
        found = finite_json(out, "classification-cifar10.json")
        assert found["dataset"] == on and found["classes"] == dict.fromkeys(CLASSES, 1000)
        assert set(found["accuracy"]) == {*methods, "most frequent class"} - {"noise"}
    else:
        evaluation = evaluate.open_evaluation(evaluate.parse(argv), trained=())
        tasks = (evaluate.TASKS["retrieval"], text_to_image.text_to_image, captioning.captioning)
        for task in (*tasks, small_clip.gap):
            task(evaluation)
        made = (
            "retrieval.png gap.png text-to-image.json captioning.json captioning.png captions.txt"
        )
        made = {re.sub(r"\.", f"-{on}.", file) for file in made.split()}
        assert set(os.listdir(out)) == {*before, "translation.json", *made}
        for file in made:
            not_blank(out / file) if file.endswith("png") else None
            finite_json(out, file) if file.endswith("json") else None
    assert before == {f: (out / f).read_bytes() for f in before}
