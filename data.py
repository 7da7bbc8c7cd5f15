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
         LOADERS           name -> loader: coco, celeba, cifar10 are here, cc3m is in data_cc3m.py,
                           latents in data_latents.py, captions in data_captions.py, with what coco
                           and celeba share with it; data_files.TREES says what each expects
         main              counts, and a picture
Letters  N images, L captions, P pairs, i an image, j a caption
Try      python data.py                   counts of the embedded set, and a picture of it
         python data.py coco ~/coco       the same for a data set on your disk
         python data.py glyph-solids      the same for pairs (data_pairs.py)
Get      python data.py --fetch coco      download it; says how much and asks first (fetch.py)
Where    --data-dir, or here ROOT; else $MODALITY_DATA/NAME; else datasets/NAME
"""

import argparse
import os
import textwrap
from glob import glob

import numpy as np

from data_captions import captions, split_from_rows
from data_cc3m import cc3m
from data_files import (
    data_folder,
    file_stamps,
    missing_data,
    no_folder,
    say_once,
)
from data_latents import latents
from data_pairs import PAIRS, load_pairs, save_pairs
from data_tables import Row, parse_json, read_text
from errors import DataError, run_script
from glyphs import FACES, SPLITS, STIX, Images, Split, Strings, digest, draw_glyphs
from official_archives import SETS

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

    root is the folder of a set on disk, as in TREES, or None: see data_folder; options: see
    `latents` and `celeba`. Raises DataError for an unknown name or split, and for data that is
    missing or broken."""
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
    root = data_folder(name, root, options)
    root = root and os.path.expanduser(root)
    if name != "latents" and not (root and os.path.isdir(root)):
        raise no_folder(name, root)
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
    parser.add_argument("root", nargs="?", help="its folder (default: see Where)")
    told = f"download NAME into ROOT; shows what and how much, and asks. NAME: {', '.join(SETS)}"
    parser.add_argument("--fetch", action="store_true", help=told)
    parser.add_argument("--yes", action="store_true", help="--fetch: do not ask")
    args = parser.parse_args()
    if args.yes and not args.fetch:
        parser.error("--yes is the answer to --fetch, which is not there")
    if args.fetch:
        from fetch import fetch  # here, so that nothing else can reach what opens connections

        return fetch(args.name, args.root, args.yes)
    show = show_pairs if args.name in PAIRS else show_images
    for side in ("test", "val", "train"):  # train last: celeba and glyphs-stix refuse it
        show(args.name, args.root, side)


if __name__ == "__main__":
    run_script("data.py", main, "stopped; a --fetch goes on with the same command")
