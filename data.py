"""
data.py: images with captions, from official layouts on disk, or from your own folder.

    from data import load
    split = load("coco", "~/coco", "train")     -> glyphs.Split: images, captions, pairs, bare, key

What comes out looks the same whatever the set, so that the rest of the code does not care. What
differs is who describes what, who decides on train, val and test, and what has to stay in memory:

    set             pairs of                        val                    test
    glyphs          characters and names            5 % of characters      5 % of characters
    glyphs-stix     the same in another family      those of glyphs        those of glyphs
    coco            a photo and 5 to 7 sentences    2 % of official train  official val
    cc3m            a picture and its alt text      1 % of train           official validation
    celeba          a face and its attributes       official               official
    cifar10         a picture and its class         5,000 of train         official
    captions        your photos and sentences       5 % of photos          5 % of photos
    latents         two rows of numbers             5 % of rows            5 % of rows

Pictures stay on disk until they are read, each time anew. The frozen encoders read each once.

Map      load              the function that other files call
         LOADERS           name -> loader: coco, celeba, cifar10, captions, latents are here, cc3m
                           is in data_cc3m.py; data_files.TREES says what each of them expects
         split_from_rows   [(file, caption), ...] -> Split, for coco, celeba and captions
         main              counts, and a picture
Letters  N images, L captions, P pairs, i an image, j a caption
Try      python data.py                   counts of the embedded set, and a picture of it
         python data.py coco ~/coco       the same for a data set on your disk
         python data.py glyph-solids      the same for pairs (data_pairs.py)
"""

import argparse
import json
import os
import re
import textwrap
from glob import glob

import numpy as np

from data_cc3m import cc3m
from data_files import (
    file_stamps,
    fits_float32,
    load_array,
    missing_data,
    name_ids,
    picture_folder,
    split_by_hash,
)
from data_pairs import PAIRS, load_pairs, save_pairs
from errors import DataError, run_script
from glyphs import FACES, SPLITS, STIX, Images, Lazy, Split, Strings, digest, draw_glyphs


def split_from_rows(name, split, root, tops, rows, sources):
    """Split of rows [(relative path, caption), ...]; an image has as many captions as rows.

    tops     folders below root where the pictures may be: the first with one of them is taken
    sources  the files whose change makes the rows, or their latents, out of date"""
    # Captions lose line breaks and double blanks; empty ones go.
    rows = [(file, " ".join(text.split())) for file, text in rows if text.strip()]
    files = list(dict.fromkeys(file for file, _ in rows))  # each once, in the order of the rows
    folder = folder_of(name, root, tops, files) if files else ""

    # Caption j is that of row j; its image is found by its file.
    number = {file: i for i, file in enumerate(files)}
    image_of = np.array([number[file] for file, _ in rows], np.int64)
    pairs = np.stack([image_of, np.arange(len(rows))], axis=1)  # (P, 2)
    return Split(
        picture_folder(folder, Strings(files)),
        Strings(text for _, text in rows),
        pairs,
        np.zeros(len(rows), bool),
        digest(name, split, files, file_stamps(sources)),
    )


def folder_of(name, root, tops, files):
    """The first of the folders root/top that has one of the first hundred files."""
    for top in tops:
        folder = os.path.join(root, top)
        if any(os.path.isfile(os.path.join(folder, file)) for file in files[:100]):
            return folder
    raise missing_data(name, root, f"no image {files[0]}")


def rows_of_split(rows, ids, cuts, split, where):
    """Those of the rows whose ids fall into the split; see data_files.split_by_hash."""
    part = split_by_hash(ids, cuts, where)
    return [row for row, number in zip(rows, part, strict=True) if number == SPLITS[split]]


# --------------------------------------------------------------------------------------------------
# COCO


def coco(root, split):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. Or
    Karpathy's split, if ROOT/dataset_coco.json is there: not comparable, for his val and test are
    5,000 images each of val2014, and he trains on the rest of it."""
    karpathy = os.path.join(root, "dataset_coco.json")
    annotations = os.path.join(root, "annotations")
    # One year for all three splits: train2017 contains images of val2014.
    year = 2014 if glob("captions_*2014.json", root_dir=annotations) else 2017
    folder = f"{'val' if split == 'test' else 'train'}{year}"
    path = os.path.join(annotations, f"captions_{folder}.json")
    # Who puts Karpathy's file there wants his split.
    if os.path.isfile(karpathy):
        path = karpathy
    if not os.path.isfile(path):
        raise missing_data("coco", root, f"no {path}")

    # A file cut short is no JSON (ValueError); another JSON has none of these keys.
    try:
        with open(path, encoding="utf-8") as f:
            table = json.load(f)
        if path == karpathy:
            rows = karpathy_rows(table, split)
        else:
            rows = official_rows(table, folder, split, path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the official annotations ({error!r})") from error
    return split_from_rows("coco", split, root, ("", "images"), rows, [path])


def official_rows(table, folder, split, path):
    """[(file, caption), ...] of the split, from COCO's own JSON.

    {"images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}, ...],
     "annotations": [{"image_id": 9, "caption": "Closeup of bins of food ..."}, ...]}"""
    files = {}
    for image in table["images"]:
        files[image["id"]] = os.path.join(folder, image["file_name"])
    captions = table["annotations"]
    rows = [(files[row["image_id"]], row["caption"]) for row in captions]
    if split == "test":
        return rows
    # By the image's id: all captions of an image go the same way.
    ids = [row["image_id"] for row in captions]
    return rows_of_split(rows, ids, [0.98], split, path)


def karpathy_rows(table, split):
    """The same from Karpathy's JSON, where each image brings its sentences and its split."""
    rows = []
    for image in table["images"]:
        # "restval": what he left over of val2014, and trains on.
        if image["split"].replace("restval", "train") == split:
            file = os.path.join(image["filepath"], image["filename"])
            rows += [(file, sentence["raw"]) for sentence in image["sentences"]]
    return rows


# --------------------------------------------------------------------------------------------------
# CelebA


def celeba(root, split, allow_train=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: the train split needs allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba: MT only tests on it; test with --on celeba, or say --celeba-train")
    attributes = os.path.join(root, "list_attr_celeba.txt")
    partition = os.path.join(root, "list_eval_partition.txt")
    rows = []
    try:
        with open(attributes) as f, open(partition) as g:
            # Line 1: how many rows; line 2: the 40 attributes; then `000001.jpg -1 1 1 ...`.
            count, names = int(f.readline()), f.readline().split()
            table = f.readlines()
            part_of = dict(line.split() for line in g)  # {"000001.jpg": "0", ...}
        if len(table) != count:
            raise ValueError(f"{len(table)} rows, not {count}")
        # `strict` refuses a row with fewer signs than names: a file that was cut short.
        for line in table:
            file, *signs = line.split()
            has = [name for name, sign in zip(names, signs, strict=True) if sign == "1"]
            if part_of[file] == str(SPLITS[split]):  # CelebA too writes 0 train, 1 val, 2 test
                rows.append((os.path.join("img_align_celeba", file), face_caption(has)))
    except FileNotFoundError as error:
        raise missing_data("celeba", root, f"no {error.filename}") from None
    except (ValueError, KeyError) as error:
        told = f"{attributes} or {partition}: not the official table"
        raise DataError(f"{told} ({error})") from error
    return split_from_rows("celeba", split, root, ("",), rows, [attributes, partition])


def face_caption(has):
    """CelebA has no captions: "a photo of a young woman, smiling, wavy hair, wearing hat".

    has: those of 40 attributes that a face has. No_Beard is not worth saying."""
    who = "man" if "Male" in has else "woman"
    if "Young" in has:
        who = "young " + who
    rest = [name for name in has if name not in ("Young", "Male", "No_Beard")]
    return ", ".join([f"a photo of a {who}", *rest]).lower().replace("_", " ")


# --------------------------------------------------------------------------------------------------
# CIFAR-10


def cifar10(root, split):
    """CIFAR-10, binary version: (i, j) says image i shows class j; ten captions in every split.

    val = the last 5,000 train images. `bare` is False although a caption fits thousands of images:
    image -> text is classification here, and must have its answers."""
    top = os.path.join(root, "cifar-10-batches-bin")
    classes = os.path.join(top, "batches.meta.txt")
    if not os.path.isfile(classes):
        why = "no batches.meta.txt; the pickled version is never read"
        raise missing_data("cifar10", root, why)

    # A file of the wrong length would shift every record after it.
    batches = ["test_batch"] if split == "test" else [f"data_batch_{k}" for k in range(1, 6)]
    files = [os.path.join(top, f"{name}.bin") for name in batches]
    for path in files:
        if not os.path.isfile(path) or os.path.getsize(path) != 10_000 * 3073:
            raise DataError(f"{path}: missing, or not 30,730,000 bytes; unpack the archive again")

    # A record is the class, then 1024 bytes each of red, green and blue.
    records = np.concatenate([np.fromfile(path, np.uint8) for path in files]).reshape(-1, 3073)
    if split == "train":
        records = records[:45_000]
    elif split == "val":
        records = records[45_000:]
    N = len(records)
    pixels = records[:, 1:].reshape(N, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, 3)
    with open(classes) as f:
        captions = Strings(
            f"a picture of a {name}" for name in f.read().split()
        )  # as MT: "a airplane"
    pairs = np.stack([np.arange(N), records[:, 0]], axis=1)
    key = digest("cifar10", split, file_stamps(files))
    return Split(Images(pixels, range(N)), captions, pairs, np.zeros(N, bool), key)


# --------------------------------------------------------------------------------------------------
# Your own photos

# A row of the tables in use: x.jpg,a dog      x.jpg,0,a dog      x.jpg#0 TAB a dog
# x.jpg| 0| a dog      and, once in Flickr30k's results.csv, x.jpg| 4   a dog
TABLE_ROW = re.compile(
    r"""([^,|\#]+\.\w+)                                 # the image's name
        (?: ,(?:\d+,)?  |  \#\d+\t  |  \|\s*\d+\s*\|? )   # what stands between
        (.*\S)                                          # the caption""",
    re.VERBOSE,
)


def captions(root, split):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name. The key sees the photos: they may be exchanged."""
    tables = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt")
    there = [table for table in tables if os.path.isfile(os.path.join(root, table))]
    if not there:
        raise missing_data("captions", root, "no captions.txt")
    path = os.path.join(root, there[0])
    try:
        # "-sig": spreadsheets begin a file with an invisible mark, which is not part of a name.
        with open(path, encoding="utf-8-sig") as f:
            lines = f.read().splitlines()
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error

    rows = []
    for number, line in enumerate(lines, 1):
        row = TABLE_ROW.fullmatch(line.strip())
        if row:
            text = row[2].strip(' "').replace('""', '"')  # CSV writes "he said ""no"" to her"
            rows.append((row[1], text))
        elif line.strip() and (number > 1 or "." in line):  # else it is a header, `image,caption`
            raise DataError(f"{path} line {number}: expected `image,caption` on one line")

    # By the image's name: all captions of an image go the same way.
    ids = name_ids(image for image, _ in rows)
    rows = rows_of_split(rows, ids, [0.90, 0.95], split, path)

    # In which of the folders the pictures are is found out later; their stamps are taken here.
    tops = ("", "Images", "images", "flickr30k_images")
    sources = [path]
    for top in tops:
        sources += [os.path.join(root, top, image) for image, _ in rows]
    return split_from_rows("captions", split, root, tops, rows, sources)


# --------------------------------------------------------------------------------------------------
# Latents of your own encoders


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together: give
    the five captions of one photo, in five rows, the same id. Without, every row is on its own.
    90 / 5 / 5 % by a hash of the group, or of the row. Paths are relative to root, if any. Raises
    DataError: unreadable, not 2-D, not floats, unequal lengths, NaN or inf."""
    if image_latents is None or text_latents is None:
        raise missing_data("latents", root, "give image_latents and text_latents")
    given = [path for path in (image_latents, text_latents, groups) if path is not None]
    paths = [os.path.join(root or "", os.path.expanduser(path)) for path in given]
    a = open_array(paths[0], 2, "f")
    b = open_array(paths[1], 2, "f")
    ids = open_array(paths[2], 1, "iu") if groups else np.arange(len(a))
    if not len(a) == len(b) == len(ids):
        raise DataError(f"unequal numbers of rows: {len(a)}, {len(b)}, {len(ids)} in {paths}")
    check_numbers(a, paths[0])
    check_numbers(b, paths[1])

    # Row i of this split is row index[i] of the files, which stay on disk.
    part = split_by_hash(ids, [0.90, 0.95], paths[0])
    index = np.flatnonzero(part == SPLITS[split])

    def read_a(i):
        return np.array(a[index[i]], np.float32)  # a copy: the file cannot be written through it

    def read_b(j):
        return np.array(b[index[j]], np.float32)

    def name(i):
        return f"row {index[i]}"

    pairs = mates(ids[index], paths[-1])
    key = digest("latents", split, file_stamps(paths))
    images = Lazy(len(index), read_a, name)
    captions = Lazy(len(index), read_b, name)
    return Split(images, captions, pairs, np.zeros(len(pairs), bool), key)


def open_array(path, ndim, kinds):
    """An array that stays on disk, with `ndim` axes and a dtype of one of the kinds ("f", "iu")."""
    found = load_array(path, mmap_mode="r")
    if found.ndim != ndim or found.dtype.kind not in kinds or not found.size:
        expected = "(rows, width) of floats" if ndim == 2 else "(rows,) of integers"
        raise DataError(f"{path}: expected {expected}, found {found.shape} of {found.dtype}")
    return found


def check_numbers(x, path):
    """DataError names the first row that float32 cannot hold; the file may exceed memory."""
    for start in range(0, len(x), 8192):
        fine = fits_float32(x[start : start + 8192]).all(1)
        if not fine.all():
            raise DataError(f"{path}: row {start + fine.argmin()} holds NaN, inf or over 3e38")


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j].

    ids 7, 8, 7 -> (0, 0), (0, 2), (2, 0), (2, 2), (1, 1)"""
    order = np.argsort(ids, kind="stable")  # equal ids become neighbours
    count = np.unique(ids, return_counts=True)[1]
    # A group of n rows has n^2 pairs.
    if (count.astype(float) ** 2).sum() > 1e8:
        raise DataError(f"{where}: over 100 M pairs of equal ids; use ids of finer groups")
    if count.max(initial=1) == 1:
        return np.stack([order, order], axis=1)
    # Within a group of rows 0, 2: each (0, 0, 2, 2) with each (0, 2, 0, 2).
    groups = np.split(order, np.cumsum(count)[:-1])
    pairs = [np.stack([np.repeat(g, len(g)), np.tile(g, len(g))], axis=1) for g in groups]
    return np.concatenate(pairs)


# --------------------------------------------------------------------------------------------------
# All of them

LOADERS = {
    "coco": coco,
    "cc3m": cc3m,
    "celeba": celeba,
    "cifar10": cifar10,
    "captions": captions,
    "latents": latents,
}
NAMES = ["glyphs", "glyphs-stix", *LOADERS]


def load(name, root=None, split="train", **options):
    """One split of a data set: the only function that other files call.

    root is the folder of a set on disk, as in TREES; options: see `latents` and `celeba`. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in NAMES:
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")

    # The embedded sets need no folder.
    if name == "glyphs":
        return draw_glyphs(split, FACES)
    if name == "glyphs-stix":
        if split == "train":
            raise DataError("glyphs-stix is never trained on: train on glyphs, test on glyphs-stix")
        return draw_glyphs(split, STIX)

    # "latents" may do without a root: its files can be given as they are.
    root = root and os.path.expanduser(root)
    if name != "latents" and not (root and os.path.isdir(root)):
        raise missing_data(name, root, "no such folder")
    found = LOADERS[name](root, split, **options)
    if not len(found.pairs):
        raise DataError(f"{name} in {root}: no pairs in split {split!r}")
    return found


# --------------------------------------------------------------------------------------------------
# A look at a set


def save_grid(split, path):
    """24 images, spread evenly over the split, each with a caption."""
    from matplotlib.figure import Figure  # draws without a display

    figure = Figure(figsize=(12, 9), layout="constrained")
    full = split.pairs[~split.bare]
    some = full[np.linspace(0, len(full) - 1, 24).astype(int)]
    for ax, (i, j) in zip(figure.subplots(4, 6).flat, some, strict=True):
        # parse_math=False: a caption may hold a dollar sign.
        ax.set_title(textwrap.fill(split.captions[j][:90], 28), fontsize=7, parse_math=False)
        ax.imshow(split.images[i], cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
    figure.savefig(path, dpi=120)


def show_images(name, root, side):
    """Print the counts of a split of images and captions; draw the test split."""
    split = load(name, root, side)
    images, captions, pairs = len(split.images), len(split.captions), len(split.pairs)
    print(f"{side:6}{images:>9,} images {captions:>9,} captions {pairs:>9,} pairs")
    if side == "test":
        save_grid(split, f"data-{name}.png")


def show_pairs(name, root, side):
    """The same for a split of paired arrays."""
    pairs = load_pairs(name, root, side)
    y, x = pairs.y[0], pairs.x[0]
    shapes = f"y {y.dtype} {y.shape} and x {x.dtype} {x.shape}"
    print(f"{side:6}{len(pairs.x):>9,} pairs of {shapes}")
    if side == "test":
        save_pairs(pairs, f"data-{name}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", default="glyphs", help="data set (default: glyphs)")
    parser.add_argument("root", nargs="?", help="its folder")
    args = parser.parse_args()
    show = show_pairs if args.name in PAIRS else show_images
    for side in ("test", "val", "train"):  # train last: celeba and glyphs-stix refuse it
        show(args.name, args.root, side)


if __name__ == "__main__":
    run_script("data.py", main)
