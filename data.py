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
         LOADERS           name -> loader: coco, celeba, cifar10, latents are here, cc3m is in
                           data_cc3m.py, captions in data_captions.py, with what coco and celeba
                           share with it; data_files.TREES says what each of them expects
         main              counts, and a picture
Letters  N images, L captions, P pairs, i an image, j a caption
Try      python data.py                   counts of the embedded set, and a picture of it
         python data.py coco ~/coco       the same for a data set on your disk
         python data.py glyph-solids      the same for pairs (data_pairs.py)
"""

import argparse
import os
import textwrap
from glob import glob

import numpy as np

from data_captions import captions, split_from_rows
from data_cc3m import cc3m
from data_files import (
    file_stamps,
    first_equal,
    fits_float32,
    load_array,
    missing_data,
    report,
    say_once,
    split_by_hash,
)
from data_pairs import FEWEST, PAIRS, load_pairs, save_pairs
from data_tables import Row, parse_json, read_text
from errors import DataError, run_script
from glyphs import FACES, SPLITS, STIX, Images, Lazy, Split, Strings, digest, draw_glyphs

# Latents of what typical size, as a root mean square, can be trained on; and from how many times
# this size on one row is an error of its encoder, not a large vector.
SIZES = (1e-4, 1e6)
OUTLIER = 1e4

# --------------------------------------------------------------------------------------------------
# COCO


def coco(root, split, partial=False):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. The
    official val part alone is cut into 90 / 5 / 5 %. Or Karpathy's split, if ROOT/dataset_coco.json
    is there: not comparable, for his val and test are 5,000 images each of val2014, and he trains
    on the rest of it. partial: as in data_captions.split_from_rows."""
    tops = ("", "images")
    # Who puts Karpathy's file there wants his split.
    path = os.path.join(root, "dataset_coco.json")
    if os.path.isfile(path):
        rows = coco_rows(karpathy_rows, path, split, {})
        return split_from_rows("coco", split, root, tops, rows, [path], (), partial)

    year, alone = coco_year(root)
    folder = f"val{year}" if alone or split == "test" else f"train{year}"
    path = os.path.join(root, "annotations", f"captions_{folder}.json")
    if not os.path.isfile(path):
        raise missing_data("coco", root, f"no {path}")
    if alone:
        told = f"no train{year}, so val{year} is cut into 90 / 5 / 5 %"
        say_once(path, f"coco {root}: {told}")
    cuts = [0.90, 0.95] if alone else [0.98] if split != "test" else []
    skipped = {}
    rows = coco_rows(official_rows, path, folder, skipped)
    return split_from_rows("coco", split, root, tops, rows, [path], cuts, partial, skipped)


YEARS = (2014, 2017)


def coco_year(root):
    """(2014 or 2017, whether its val part is there without its train part).

    One year for all three splits: train2017 contains images of val2014."""
    train = [year for year in YEARS if has_part(root, "train", year)]
    val = [year for year in YEARS if has_part(root, "val", year)]
    both = [year for year in train if year in val]
    if both:
        return both[0], False
    if train or val:
        return (val + train)[0], bool(val)
    # Nothing is complete: what the year of the annotations lacks will be told.
    annotations = glob("captions_*2014.json", root_dir=os.path.join(root, "annotations"))
    return 2014 if annotations else 2017, False


def has_part(root, part, year):
    """Whether both the captions and a folder of pictures are there."""
    captions = os.path.join(root, "annotations", f"captions_{part}{year}.json")
    folders = (os.path.join(root, top, f"{part}{year}") for top in ("", "images"))
    return os.path.isfile(captions) and any(map(os.path.isdir, folders))


def coco_rows(read, path, *how):
    """The rows that a reader finds in a JSON file. DataError: it is another kind of file."""
    table = parse_json(read_text(path), path)
    try:
        return read(table, *how)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not the official annotations ({error!r})") from error


def official_rows(table, folder, skipped):
    """[Row, ...] from COCO's own JSON.

    {"images": [{"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}, ...],
     "annotations": [{"image_id": 9, "caption": "Closeup of bins of food ..."}, ...]}"""
    # str: some programs write the ids of one of the two lists as text.
    files = {}
    for image in table["images"]:
        files[str(image["id"])] = os.path.join(folder, image["file_name"])
    rows = []
    for note in table["annotations"]:
        number = str(note["image_id"])
        if number in files:
            # By the image's id: all captions of an image go the same way.
            rows.append(Row(files[number], note.get("caption"), int(number) % 2**63))
        else:
            skipped.setdefault("its image is not listed", []).append(f"image_id {number}")
    return rows


def karpathy_rows(table, split, skipped):
    """The same from Karpathy's JSON, where each image brings its sentences and its split."""
    rows = []
    for image in table["images"]:
        # "restval": what he left over of val2014, and trains on.
        if image["split"].replace("restval", "train") == split:
            file = os.path.join(image["filepath"], image["filename"])
            rows += [Row(file, sentence.get("raw")) for sentence in image["sentences"]]
    return rows


# --------------------------------------------------------------------------------------------------
# CelebA


def celeba(root, split, allow_train=False, partial=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: the train split needs allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba: MT only tests on it; test with --on celeba, or say --celeba-train")
    attributes = celeba_table(root, "Anno", "list_attr_celeba")
    partition = celeba_table(root, "Eval", "list_eval_partition")
    rows = []
    try:
        names, table = celeba_attributes(attributes)
        part_of = dict(celeba_lines(partition))  # {"000001.jpg": "0", ...}
        # `strict` refuses a row with fewer signs than names: a file that was cut short.
        for file, *signs in table:
            has = [name for name, sign in zip(names, signs, strict=True) if sign == "1"]
            if part_of[file] == str(SPLITS[split]):  # CelebA too writes 0 train, 1 val, 2 test
                rows.append(Row(os.path.join("img_align_celeba", file), face_caption(has)))
    except (ValueError, KeyError, IndexError) as error:
        told = f"{attributes} or {partition}: not the official table"
        raise DataError(f"{told} ({error})") from error
    # As one unpacks it; the official folders; Kaggle's img_align_celeba/img_align_celeba.
    tops = ("", "Img", "img_align_celeba")
    return split_from_rows("celeba", split, root, tops, rows, [attributes, partition], (), partial)


def celeba_table(root, folder, name):
    """The path of a table in root, or in its official folder; .csv: as Kaggle has it."""
    for place in ("", folder):
        for end in (".txt", ".csv"):
            path = os.path.join(root, place, name + end)
            if os.path.isfile(path):
                return path
    raise missing_data("celeba", root, f"no {name}.txt")


def celeba_lines(path):
    """[[word, ...], ...]: the lines of a table, separated by blanks, or by commas in a .csv."""
    comma = "," if path.endswith(".csv") else None
    return [line.split(comma) for line in read_text(path).splitlines() if line.strip()]


def celeba_attributes(path):
    """(names of the 40 attributes, [[file, "-1", "1", ...], ...]). ValueError if rows are lost."""
    lines = celeba_lines(path)
    if path.endswith(".csv"):
        return lines[0][1:], lines[1:]  # image_id,5_o_Clock_Shadow,...
    # Line 1: how many rows; line 2: the 40 attributes; then `000001.jpg -1 1 1 ...`.
    count, names, table = int(lines[0][0]), lines[1], lines[2:]
    if len(table) != count:
        raise ValueError(f"{len(table)} rows, not {count}")
    return names, table


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
# Latents of your own encoders


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together: give
    the five captions of one photo, in five rows, the same id. Without, equal rows of image_latents
    are a group: see `found_groups`. 90 / 5 / 5 % by a hash of the group, or of the row. A row of
    zeros, as some programs leave for a photo that they could not read, is left out with its
    partner. Paths are relative to root, if any. Raises DataError: unreadable, not 2-D, not floats,
    unequal lengths, and check_numbers."""
    if image_latents is None or text_latents is None:
        raise missing_data("latents", root, "give --image-latents and --text-latents")
    given = [path for path in (image_latents, text_latents, groups) if path is not None]
    paths = [os.path.join(root or "", os.path.expanduser(path)) for path in given]
    a = open_array(paths[0], 2, "f")
    b = open_array(paths[1], 2, "f")
    ids = open_array(paths[2], 1, "iu") if groups else None
    lengths = [len(array) for array in (a, b, ids) if array is not None]
    if len(set(lengths)) > 1:
        raise DataError(f"unequal numbers of rows: {lengths} in {paths}")
    empty = check_numbers(a, paths[0]) | check_numbers(b, paths[1])  # (N,)
    ids = found_groups(a, b, ids, ~empty, paths)
    kept = np.flatnonzero(~empty)
    if len(kept) < FEWEST:
        told = f"{len(kept)} rows are too few to be cut into train, val and test"
        raise DataError(f"{paths[0]}: {told}; give at least {FEWEST}")

    # Row i of this split is row index[i] of the files, which stay on disk.
    part = split_by_hash(ids[kept], [0.90, 0.95], paths[0])
    index = kept[part == SPLITS[split]]
    skipped = {"a row of zeros": [f"row {row}" for row in np.flatnonzero(empty)]}
    shapes = f"{a.dtype} {a.shape} and {b.dtype} {b.shape}"
    report("latents", paths[0], shapes, f"{len(index):,} rows for {split}", skipped)

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
    # Some programs keep an axis of length 1 from their batches of one: (N, 1, h).
    if ndim == 2 and found.ndim == 3 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != ndim or found.dtype.kind not in kinds or not found.size:
        expected = "(rows, width) of floats" if ndim == 2 else "(rows,) of integers"
        told = f"expected {expected}, found {found.shape} of {found.dtype}"
        # Indexes of neighbours keep vectors in 8 bits, each times a scale that is not in the file.
        if ndim == 2 and found.dtype.kind in "iu":
            told += "; if these are rounded floats, multiply by their scale and save as float32"
        raise DataError(f"{path}: {told}")
    return found


def found_groups(a, b, ids, kept, paths):
    """(N,) the ids of the rows; says what train and test would share.

    ids None: rows that hold the very same image are a group, whose id is its first row's number.
    Five captions of a photo give five such rows. Each on its own, four would be in train and the
    fifth in test: its answer would be known. kept (N,): rows that are used; paths: those files."""
    first = first_equal(a)
    copies = int((first != np.arange(len(a)))[kept].sum())
    if ids is None:
        ids = first
        told = "they are split together, as --groups would do it"
    else:
        # Only what the user's own groups tear apart is worth a line.
        copies = int((ids[first] != ids)[kept].sum())
        told = "in another group, so train and test may share them"
    if copies:
        told = f"{copies:,} of {len(a):,} rows are equal to an earlier row; {told}"
        say_once((paths[0], "copies"), f"{paths[0]}: {told}")

    # A text may fit many images, the name of a class does: these are only counted.
    apart = int((ids[first_equal(b)] != ids)[kept].sum())
    if apart:
        told = f"{apart:,} of {len(b):,} rows are equal to an earlier row of another image"
        say_once((paths[1], "copies"), f"{paths[1]}: {told}: train and test share these texts")
    return ids


def check_numbers(x, path):
    """(N,) which rows of x (N, h) are all zeros. DataError for numbers that cannot be trained on.

    These are NaN, inf and what float32 cannot hold; one number a row, which has no direction; rows
    that are all the same; one row far larger than the others, which alone would set the scale of
    all; and sizes at which squares overflow. The file may exceed memory: it is read in parts."""
    if x.shape[1] < 2:
        raise DataError(f"{path}: rows of one number have no direction, cosines would be 1 or -1")
    sizes, varies = [], False
    for start in range(0, len(x), 8192):
        rows = np.asarray(x[start : start + 8192], np.float64)
        fine = fits_float32(rows).all(1)
        if not fine.all():
            raise DataError(f"{path}: row {start + fine.argmin()} holds NaN, inf or over 3e38")
        sizes.append(np.sqrt((rows**2).mean(1)))
        # A millionth of its size is float32's rounding, no difference.
        varies = varies or (np.abs(rows - x[0]) > 1e-6 * np.abs(rows).max()).any()
    if not varies and len(x) > 1:
        raise DataError(f"{path}: all rows are the same, there is nothing to translate")

    size = np.concatenate(sizes)  # (N,) root mean squares
    typical = np.median(size[size > 0])
    if not SIZES[0] <= typical <= SIZES[1]:
        told = f"its numbers are of size {typical:.0e}; multiply them so that it is about 1"
        raise DataError(f"{path}: {told}")
    if size.max() > OUTLIER * typical:
        told = f"row {size.argmax()} is {size.max() / typical:.0e} times as large as others"
        raise DataError(f"{path}: {told}; leave it out")
    return size == 0


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j].

    ids 7, 8, 7 -> (0, 0), (0, 2), (2, 0), (2, 2), (1, 1)"""
    order = np.argsort(ids, kind="stable")  # equal ids become neighbours
    count = np.unique(ids, return_counts=True)[1]
    # A group of n rows has n^2 pairs.
    if (count.astype(float) ** 2).sum() > 1e8:
        told = "over 100 M pairs within groups of equal ids or rows"
        raise DataError(f"{where}: {told}; give --groups with finer ones")
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
        why = "no such folder" if root else "give --data-dir"
        raise missing_data(name, root or None, why)
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
