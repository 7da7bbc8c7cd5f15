"""Folders of photos with sentences as people and programs leave them: read, or refused by name."""

import csv
import io
import json
import os
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from test_data import described, photos, run_main, save_image, together, write_celeba, write_coco

import data_captions
import evaluate
import runs
from arguments import TRANSLATOR_SETS, resolve, shared_parser
from data import load
from errors import DataError, RunError

N = 9  # photos of a tree; a set is split from three on
SAYS = [f"a dog, number {n}, runs" for n in range(N)]


def whole(root):
    """{picture: [captions]} of all three splits."""
    return together("captions", str(root))[0]


def written(rows, **options):
    """A table as the csv module writes it."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **options).writerows(rows)
    return buffer.getvalue()


HEAD = [["image", "caption"]]
ROWS = [[f"photo{n}.jpg", SAYS[n]] for n in range(N)]
R_TABLE = '"image"\t"caption"\n' + "".join(
    f'"{n}"\t"{f}"\t"{c}"\n' for n, (f, c) in enumerate(ROWS)
)
TABLES = {
    "commas": written(HEAD + ROWS),
    "every field quoted": written(HEAD + ROWS, quoting=csv.QUOTE_ALL),
    "semicolons": written(HEAD + ROWS, delimiter=";"),
    "tabs, other names": written([["filepath", "title"], *ROWS], delimiter="\t"),
    "bars": written([["Image Name", "Comment"], *ROWS], delimiter="|"),
    "index of pandas": written([["", *HEAD[0]], *([n, *row] for n, row in enumerate(ROWS))]),
    "index of R": R_TABLE,
    "index, no header": written([n, *row] for n, row in enumerate(ROWS)),
    "caption first": written(row[::-1] for row in HEAD + ROWS),
    "caption first, no header": written(row[::-1] for row in ROWS),
    "a third column": written([["file_name", "text", "split"], *([*row, "train"] for row in ROWS)]),
    "third column, no quotes": "image,caption,n\n" + "".join(f"{f},{c},7\n" for f, c in ROWS),
    "blanks after commas": "image, caption\n" + "".join(f'{f}, "{c}"\n' for f, c in ROWS),
    "no quotes": "image,caption\n" + "".join(f"{f},{c}\n" for f, c in ROWS),
    "no quotes, no header": "".join(f"{f},{c}\n" for f, c in ROWS),
    "quoted names": "image,caption\n" + "".join(f'"{f}",{c}\n' for f, c in ROWS),
    "numbers and a third column, no quotes": "id,image,caption,split\n"
    + "".join(f"{n},{f},{c},train\n" for n, (f, c) in enumerate(ROWS)),
    "Excel's own separator": "sep=;\n" + written(HEAD + ROWS, delimiter=";"),
    "old Macintosh": "image,caption\r" + "".join(f"{f},{c}\r" for f, c in ROWS),
    "empty last rows": written([*HEAD, *ROWS, ["", ""], ["", ""]]),
    "token": "".join(f"{f}#0\t{c}\n" for f, c in ROWS),
    "token, language": "".join(f"{f}#en_c#3 {c}\n" for f, c in ROWS),
    "paths": written([*HEAD, *([f"./{f}", c] for f, c in ROWS)]),
    "without .jpg": written([*HEAD, *([f[:-4], c] for f, c in ROWS)]),
    "other capitals": written([*HEAD, *([f.replace("jpg", "JPEG"), c] for f, c in ROWS)]),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_all_kinds(tmp_path, kind):
    """A table in use is refused, or its captions lose a word or a sign, or gain a column."""
    photos(tmp_path, N)
    (tmp_path / "captions.csv").write_bytes(TABLES[kind].encode())
    assert whole(tmp_path) == {f"photo{n}.jpg": [SAYS[n]] for n in range(N)}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    """A mark before the first name becomes part of it, or UTF-16 of a spreadsheet is refused."""
    photos(tmp_path, N)
    (tmp_path / "captions.txt").write_bytes(TABLES["tabs, other names"].encode(encoding))
    assert len(whole(tmp_path)) == N


# A caption, and what stands in a table with commas for it. Flickr8k has captions with one quote.
FIELDS = {
    '2,000 people and a "dog" .': '2,000 people and a "dog" .',
    'a "stop" sign': '"a ""stop"" sign"',
    '"stop" says a sign': '"""stop"" says a sign"',
    '"no" he said, "no"': '"no" he said, "no"',
    '"A man stands': '"A man stands',
    'and one sits"': 'and one sits"',
    'a sign that says "dead end"': 'a sign that says "dead end"',
    '"': '"',
    "a dog that runs": '"a dog\nthat\r\nruns"',
    'a dog , "it" runs': '"a dog ,\n""it"" runs"',
    "one line and no break": "one\u2028line\x85and\x0bno\x0cbreak",
}


@pytest.mark.parametrize("last", [False, True])
def test_quotes_and_line_breaks(tmp_path, last):
    """A quote that never closes swallows the rows after it, or a caption loses its quotes."""
    photos(tmp_path, 11)
    fields = list(FIELDS.items())
    fields = fields[::-1] if last else fields  # beside other neighbours
    text = "".join(f"photo{k}.jpg,{field}\n" for k, (_, field) in enumerate(fields))
    (tmp_path / "captions.txt").write_bytes(("image,caption\n" + text).encode())
    expected = {f"photo{k}.jpg": [caption] for k, (caption, _) in enumerate(fields)}
    assert whole(tmp_path) == expected


def test_all_captions_begin_with_numbers(tmp_path):
    """`2,000 people` becomes `000 people`, as if 2 were the number of the caption."""
    photos(tmp_path, N)
    rows = "".join(f"photo{n}.jpg,{n + 1},000 people\n" for n in range(N))
    (tmp_path / "captions.csv").write_text("image,caption\n" + rows)
    assert whole(tmp_path)["photo2.jpg"] == ["3,000 people"]


def test_odd_names(tmp_path):
    """A comma, # or accent in a file's name, or a Windows path, cuts the name or the row."""
    names = ["p, 1.jpg", "p#2.jpg", "Fête d'été 3.jpg", "deep/er/4.jpg", "win\\dows\\5.jpg"]
    for name in names:
        save_image(tmp_path / name.replace("\\", "/"))
    rows = [[name, f"shows {k}"] for k, name in enumerate(names)]
    (tmp_path / "captions.csv").write_text(written(HEAD + rows))
    assert whole(tmp_path) == {n.replace("\\", "/"): [f"shows {k}"] for k, n in enumerate(names)}
    # macOS writes an accented letter as two signs
    (tmp_path / names[2]).rename(tmp_path / unicodedata.normalize("NFD", names[2]))
    assert ["shows 2"] in whole(tmp_path).values() and len(whole(tmp_path)) == 5


def test_jsonl(tmp_path):
    """Hugging Face's metadata.jsonl is not read; one bad line in it is a traceback."""
    photos(tmp_path, N)
    lines = [{"file_name": f"photo{n}.jpg", "text": SAYS[n] + "\u2028 on"} for n in range(N)]
    lines[4]["text"] = ["one", "two"]
    lines[5]["text"] = None
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n"
    (tmp_path / "metadata.jsonl").write_text(text, "utf-8")
    found = whole(tmp_path)
    assert found["photo3.jpg"] == [SAYS[3] + " on"] and found["photo4.jpg"] == ["one", "two"]
    assert "photo5.jpg" not in found and len(found) == N - 1
    bad = ["[1]", '{"file_name": "x.jpg"}', '{"file_name": 3, "text": "a"}', '{"file', "[" * 99_999]
    for line in bad:
        (tmp_path / "metadata.jsonl").write_text(text + line)
        with pytest.raises(DataError, match=r"metadata.jsonl line 10: [^\n]*$"):
            load("captions", str(tmp_path), "train")


def test_five_captions_in_a_row(tmp_path):
    """Of a table with caption_0 to caption_4 nothing is read, or one caption of five."""
    photos(tmp_path, N)
    rows = [["file_name", "caption_0", "caption_1"], *([f, c, c + "!"] for f, c in ROWS)]
    (tmp_path / "metadata.csv").write_text(written(rows))
    assert whole(tmp_path)["photo7.jpg"] == [SAYS[7], SAYS[7] + "!"]


LAYOUTS = {
    "Flickr8k.token.txt": ("Flicker8k_Dataset", "token"),
    "Flickr8k_text/Flickr8k.token.txt": ("Flickr8k_Dataset/Flicker8k_Dataset", "token"),
    "results_20130124.token": ("flickr30k-images", "token"),
    "flickr30k_images/results.csv": ("flickr30k_images/flickr30k_images", "bars"),
    "captions.txt": ("Images", "commas"),
    "train/metadata.csv": ("train", "a third column"),
    "my holidays.csv": ("", "semicolons"),
}


@pytest.mark.parametrize("table", LAYOUTS)
def test_folders_as_unpacked(tmp_path, table):
    """An official archive has to be renamed by hand before it can be used."""
    top, kind = LAYOUTS[table]
    photos(tmp_path, N, top)
    (tmp_path / table).parent.mkdir(exist_ok=True)
    (tmp_path / table).write_bytes(TABLES[kind].encode())
    (tmp_path / "._captions.txt").write_bytes(b"\0\1")  # as macOS leaves them
    assert whole(tmp_path) == {f"photo{n}.jpg": [SAYS[n]] for n in range(N)}
    assert load("captions", str(tmp_path), "train").images[0].size[0] == 12


def test_which_table(tmp_path):
    """Of two tables one is taken in silence; a spreadsheet's own file is not mentioned."""
    (tmp_path / "holidays.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"save holidays.xlsx as captions.csv$"):
        load("captions", str(tmp_path), "train")
    for name in ("a.csv", "b.tsv"):
        (tmp_path / name).write_text("image,caption\n")
    with pytest.raises(DataError, match="which table.*a.csv, .*b.tsv"):
        load("captions", str(tmp_path), "train")


# --------------------------------------------------------------------------------------------------
# What is left out is said


def test_what_was_read_is_said(tmp_path, capsys):
    """A row or a picture is dropped without a word, or the separator is a guess in silence."""
    photos(tmp_path, 12)
    save_image(tmp_path / "._photo1.jpg")
    rows = [*ROWS, *ROWS, ["._photo1.jpg", "hidden"], ["photo9.jpg", " "]]
    (tmp_path / "captions.csv").write_text(written(HEAD + rows, delimiter=";"))
    load("captions", str(tmp_path), "train")
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"captions {tmp_path}: captions.csv has semicolons between 2 columns, pictures from column "
        "image, captions from caption",
        f"captions {tmp_path}: found 11 pictures and 20 captions; used 7 pictures and 14 captions "
        "for train; skipped 1: a hidden file (first: ._photo1.jpg); skipped 1: an empty caption "
        f"(first: photo9.jpg); skipped 2: no row in the table (first: photo10.jpg)",
    ]
    load("captions", str(tmp_path), "val")
    assert "used 1 pictures and 2 captions for val" in capsys.readouterr().err


def test_some_photos_are_missing(tmp_path, capsys):
    """Seven of eight photos are not there, and a run starts; or one of 300 stops it."""
    photos(tmp_path, N)
    rows = [[f"photo{n}.jpg", f"says {n}"] for n in range(72)]
    (tmp_path / "captions.csv").write_text(written(HEAD + rows[::-1]))
    with pytest.raises(
        DataError, match=r"63 of 72 pictures are not there \(first: photo71.jpg\); "
    ):
        load("captions", str(tmp_path), "train")
    parts = [described(load("captions", str(tmp_path), s, partial=True)) for s in ("train", "test")]
    assert len(parts[0]) == 7 and len(parts[1]) == 1
    assert "skipped 63: no such file (first: photo71.jpg)" in capsys.readouterr().err
    # Flickr8k's own table names 8,092 photos, and there are 8,091.
    for n in range(N, 200):
        (tmp_path / f"photo{n}.jpg").write_bytes(b"")
    rows = [[f"photo{n}.jpg", f"says {n}"] for n in range(201)]
    (tmp_path / "captions.csv").write_text(written(HEAD + rows))
    assert len(load("captions", str(tmp_path), "train").images) > 150
    assert "skipped 1: no such file (first: photo200.jpg)" in capsys.readouterr().err


def test_partial_is_a_flag(tmp_path):
    """--partial does not reach the loader, or is ignored where it has no meaning."""
    parser = shared_parser("", TRANSLATOR_SETS, ())
    for name in ("captions", "coco", "celeba"):
        args = parser.parse_args(["--dataset", name, "--partial"])
        resolve(args, (), "translator")
        assert runs.data_options(args)["partial"] is True
        args = parser.parse_args(["--dataset", name])
        assert not runs.data_options(args).get("partial")
    args = parser.parse_args(["--dataset", "glyphs", "--partial"])
    with pytest.raises(RunError, match="--partial is for captions, coco, celeba"):
        resolve(args, (), "translator")


@pytest.mark.parametrize("file", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", ".."])
def test_a_table_may_not_leave_its_folder(tmp_path, file):
    """A table from a stranger makes us read, and show, a picture from elsewhere."""
    root = tmp_path / "root"
    photos(root, N)
    save_image(tmp_path / "secret.jpg")
    (root / "captions.csv").write_text(written([*HEAD, *ROWS, [file, "a secret"]]))
    with pytest.raises(DataError, match="captions.csv names .* outside of"):
        load("captions", str(root), "train", partial=True)
    # below its own folder, a whole path is as good as a relative one
    (root / "captions.csv").write_text(written([*HEAD, *([str(root / f), c] for f, c in ROWS)]))
    assert whole(root) == {f"photo{n}.jpg": [SAYS[n]] for n in range(N)}
    (root / "captions.csv").write_text("image,caption\nhttp://example.org/x.jpg,a dog\n")
    with pytest.raises(DataError, match="web addresses"):
        load("captions", str(root), "train")


def test_ambiguous_names_are_not_guessed(tmp_path):
    """photo0 is taken for photo0.jpg although there is a photo0.png, too."""
    photos(tmp_path, N)
    save_image(tmp_path / "photo0.png", 9)
    (tmp_path / "captions.csv").write_bytes(TABLES["without .jpg"].encode())
    with pytest.raises(DataError, match=r"1 of 9 pictures are not there \(first: photo0\)"):
        load("captions", str(tmp_path), "train")


# --------------------------------------------------------------------------------------------------
# COCO and CelebA as they are found


def coco_with(root, change):
    """A tree of 2017 whose train part has `change` made to its table."""
    write_coco(root, 2017, "train", list(range(1, 30)))
    write_coco(root, 2017, "val", [500, 501])
    path = root / "annotations" / "captions_train2017.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize("value", [None, 12, float("nan"), ["a"], "half a sign \ud83d", "absent"])
def test_coco_captions_that_are_no_text(tmp_path, capsys, value):
    """One null among 400,000 captions ends in a traceback, or is trained on as "None"."""

    def change(table):
        table["annotations"][0]["caption"] = value
        if value == "absent":
            del table["annotations"][0]["caption"]

    coco_with(tmp_path, change)
    merged, _ = together("coco", str(tmp_path))
    assert sorted(map(len, merged.values())) == [1] + [2] * 30
    told = capsys.readouterr().err
    assert "skipped 1: the caption is no text (first: train2017/000000000029.jpg: " in told


def test_coco_ids(tmp_path, capsys):
    """Ids written as text, or of an image that is not listed, end in a traceback."""

    def change(table):
        for note in table["annotations"]:
            note["image_id"] = str(note["image_id"])
        table["annotations"][7]["image_id"] = "31"

    coco_with(tmp_path, change)
    parts = together("coco", str(tmp_path))[1]
    assert sum(len(texts) for texts in parts[0].values()) >= 50
    assert "skipped 1: its image is not listed (first: image_id 31)" in capsys.readouterr().err


@pytest.mark.parametrize("both", [False, True])
def test_coco_val_alone(tmp_path, capsys, both):
    """Who has only the small val2017.zip cannot train; the annotations come for both parts."""
    write_coco(tmp_path, 2017, "val", list(range(40)))
    if both:
        write_coco(tmp_path, 2017, "train", [77])
        write_coco(tmp_path, 2014, "train", [78])
        for year in (2014, 2017):
            (tmp_path / f"train{year}").rename(tmp_path / f"elsewhere{year}")
    merged, parts = together("coco", str(tmp_path))
    assert len(merged) == 40 and 30 < len(parts[0]) and min(map(len, parts)) > 0
    assert f"coco {tmp_path}: no train2017, so val2017 is cut" in capsys.readouterr().err


def test_coco_partial(tmp_path):
    """Half a download of COCO is trained on as if it were whole, or cannot be used at all."""
    write_coco(tmp_path, 2017, "train", list(range(1, 30)))
    for k in range(10, 30):
        os.remove(tmp_path / "train2017" / f"{k:012d}.jpg")
    with pytest.raises(DataError, match=r"20 of 29 pictures are not there .*; --partial uses"):
        load("coco", str(tmp_path), "train")
    assert len(load("coco", str(tmp_path), "train", partial=True).images) == 8


def test_coco_outside(tmp_path):
    """file_name in a stranger's JSON leads out of the folder."""
    coco_with(tmp_path, lambda table: table["images"][3].update(file_name="../../x.jpg"))
    with pytest.raises(DataError, match="captions_train2017.json names .* outside of"):
        load("coco", str(tmp_path), "train")
    for name in ("a\0.jpg", "\ud83d.jpg"):
        coco_with(tmp_path, lambda table, name=name: table["images"][3].update(file_name=name))
        with pytest.raises(DataError, match="captions_train2017.json names .*no file is called so"):
            load("coco", str(tmp_path), "train")


def move(root, moves):
    for old, new in moves.items():
        (root / new).parent.mkdir(exist_ok=True)
        (root / old).rename(root / new)


def test_celeba_official_folders(tmp_path):
    """CelebA's own Anno/, Eval/ and Img/ have to be taken apart by hand."""
    write_celeba(tmp_path)
    before = [described(load("celeba", str(tmp_path), side)) for side in ("val", "test")]
    move(
        tmp_path,
        {
            "list_attr_celeba.txt": "Anno/list_attr_celeba.txt",
            "list_eval_partition.txt": "Eval/list_eval_partition.txt",
            "img_align_celeba": "Img/img_align_celeba",
        },
    )
    assert [described(load("celeba", str(tmp_path), side)) for side in ("val", "test")] == before
    assert load("celeba", str(tmp_path), "val").images[1].size == (11, 13)


def test_celeba_from_kaggle(tmp_path):
    """Kaggle's tables with commas, and its folder in a folder, are not found."""
    write_celeba(tmp_path)
    before = [described(load("celeba", str(tmp_path), side)) for side in ("val", "test")]
    _, names, *lines = (tmp_path / "list_attr_celeba.txt").read_text().splitlines()
    head = "image_id," + ",".join(names.split())
    table = [head, *(",".join(line.split()) for line in lines)]
    (tmp_path / "list_attr_celeba.csv").write_text("\r\n".join(table) + "\r\n")
    sides = (tmp_path / "list_eval_partition.txt").read_text().split("\n")
    sides = ["image_id,partition", *(line.replace(" ", ",") for line in sides)]
    (tmp_path / "list_eval_partition.csv").write_text("\n".join(sides))
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        os.remove(tmp_path / name)
    move(tmp_path, {"img_align_celeba": "inner"})
    move(tmp_path, {"inner": "img_align_celeba/img_align_celeba"})
    assert [described(load("celeba", str(tmp_path), side)) for side in ("val", "test")] == before
    cut = "\n".join(table)[:-9]
    (tmp_path / "list_attr_celeba.csv").write_text(cut)
    with pytest.raises(DataError, match="list_attr_celeba.csv.*not the official table"):
        load("celeba", str(tmp_path), "val")


def test_two_photos_are_refused_by_name(tmp_path):
    """A set that cannot be split stops somewhere later, and says nothing about its size."""
    photos(tmp_path, 2)
    (tmp_path / "captions.csv").write_text(written(HEAD + ROWS[:2]))
    for side in ("train", "val", "test"):
        with pytest.raises(DataError, match="captions .*: 2 separate items, a split needs 3"):
            load("captions", str(tmp_path), side)


def test_command_line_of_a_photo_folder(tmp_path, monkeypatch, capsys):
    """`python data.py captions ROOT` prints what was skipped among the counts, or not at all."""
    monkeypatch.chdir(tmp_path)
    photos(tmp_path, 12)
    (tmp_path / "captions.csv").write_text(written(HEAD + ROWS))
    run_main(monkeypatch, "captions", tmp_path)
    out, err = capsys.readouterr()
    assert "skipped" not in out and "skipped 3: no row in the table" in err
    assert "\ntrain" in out


# --------------------------------------------------------------------------------------------------
# A phone's folder, and --partial everywhere


def test_photos_of_a_phone(tmp_path, capsys):
    """HEIC photos stop a run after its PCA, or the user is told of them in a second refusal."""
    photos(tmp_path, N)
    names = [f"photo{n}.jpg" for n in range(N)] + ["IMG_7001.HEIC", "VID_1.mp4", "gone.jpg"]
    for name in names[N:-1]:
        (tmp_path / name).write_bytes(b"ftyp")
    rows = [["filename", "caption"], *([name, f'"{n}"; so'] for n, name in enumerate(names))]
    table = "\ufeff" + written([*rows, ["", ""]], delimiter=";", lineterminator="\r\n")
    (tmp_path / "captions.csv").write_text(table, newline="")
    for other in ("Thumbs.db", ".DS_Store", "._photo1.jpg"):
        (tmp_path / other).write_bytes(b"\0")
    said = r"1 of 12 pictures are not there \(first: gone.jpg\), 2 of 12 are of a kind that is not "
    said += r"read \(first: IMG_7001.HEIC; save them as .jpg\); --partial uses the other 9$"
    with pytest.raises(DataError, match=said):
        load("captions", str(tmp_path), "train")
    parts = [load("captions", str(tmp_path), side, partial=True) for side in runs.data.SPLITS]
    found = {name: text for part in parts for name, (text,) in described(part).items()}
    assert found == {f"photo{n}.jpg": f'"{n}"; so' for n in range(N)}
    assert "skipped 2: its kind is not read (first: IMG_7001.HEIC)" in capsys.readouterr().err


def run_without_networks(dataset):
    """A TranslatorRun that knows its arguments and its encoders' names alone."""
    run = object.__new__(runs.TranslatorRun)
    run.folder, run.partial, run.dims = "run", False, {"text->image": (1, 1)}
    run.E_image = run.E_text = SimpleNamespace(spec="pca")
    run.args = SimpleNamespace(dataset=dataset, data_dir="home", cache_dir="", celeba_train=False)
    return run


@pytest.mark.parametrize("on", ["coco", "celeba"])
def test_partial_reaches_an_evaluation(monkeypatch, on):
    """evaluate.py --on celeba has no --partial, though its refusal tells to use it."""
    asked = []
    latents = SimpleNamespace(full=np.arange(3), dims=lambda direction: (1, 1))
    monkeypatch.setattr(runs.data, "load", lambda *a, **o: asked.append((*a, o.get("partial"))))
    monkeypatch.setattr(runs, "encode_split", lambda *_: latents)
    monkeypatch.setattr(evaluate, "Baselines", lambda *_: None)
    monkeypatch.setattr(evaluate, "Report", lambda folder: None)
    for flags, partial in (([], None), (["--partial"], True)):
        args = evaluate.parse(["run", "--on", on, "--data-dir", "there", *flags])
        evaluate.Evaluation(run_without_networks("coco"), args)
        assert asked.pop(0) == (on, "there", "test", partial)
        assert {name for name, *_ in asked} == {"coco"} and len(asked) == 2
        asked.clear()


def test_partial_is_refused_where_it_means_nothing(monkeypatch):
    """--partial is ignored with a set that has no table of photos."""
    args = evaluate.parse(["run", "--on", "cifar10", "--data-dir", "there", "--partial"])
    with pytest.raises(RunError, match="--partial is for captions, coco, celeba; cifar10 ignores"):
        evaluate.Evaluation(run_without_networks("coco"), args)


def test_keys_tell_of_the_decoder(tmp_path, monkeypatch):
    """Latents of pictures that an older decoder read in another way are used for ever."""
    photos(tmp_path / "a", N)
    (tmp_path / "a" / "captions.csv").write_text(written(HEAD + ROWS))
    write_coco(tmp_path / "b", 2014, "val", [1, 2, 3])
    for name, folder in (("captions", "a"), ("coco", "b")):
        before = load(name, str(tmp_path / folder), "test").key
        assert load(name, str(tmp_path / folder), "test").key == before
        monkeypatch.setattr(data_captions, "DECODER", data_captions.DECODER + 1)
        assert load(name, str(tmp_path / folder), "test").key != before
