"""
data.py
"""

import argparse
import json
import os
import re
import textwrap
import zlib
from array import array
from glob import glob
from itertools import compress

import numpy as np

from data_files import (
    TREES,
    file_stamps,
    missing_data,
    open_array,
    picture_folder,
    read_image,
    split_by_hash,
)
from data_pairs import PAIRS, load_pairs, save_pairs
from errors import DataError, run_script
from glyphs import FACES, SPLITS, STIX, Images, Lazy, Split, Strings, digest, draw_glyphs

NAMES = "glyphs glyphs-stix coco cc3m celeba cifar10 captions latents".split()


def listed(name, split, root, tops, rows, sources):
    """Split of rows [(relative path, caption), ...]; pictures in one of the folders root/top."""
    rows = [(file, " ".join(text.split())) for file, text in rows if text.strip()]
    files = list(dict.fromkeys(file for file, _ in rows))
    there = lambda top: any(os.path.isfile(os.path.join(root, top, file)) for file in files[:100])
    tops = [os.path.join(root, top) for top in tops if there(top)]
    if files and not tops:
        raise missing_data(name, root, f"no image {files[0]}")
    number = {file: i for i, file in enumerate(files)}
    owner = np.array([number[file] for file, _ in rows], np.int64)
    images, texts = (
        picture_folder(tops[0] if tops else "", Strings(files)),
        Strings(t for _, t in rows),
    )
    pairs = np.stack([owner, np.arange(len(rows))], 1)
    key = digest(name, split, files, file_stamps(sources))
    return Split(images, texts, pairs, np.zeros(len(rows), bool), key)


def coco(root, split):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. Or
    Karpathy's split, if ROOT/dataset_coco.json is there: not comparable, for his val and test are
    5,000 images each of val2014, and he trains on the rest of it."""
    path = os.path.join(root, "dataset_coco.json")
    karpathy = os.path.isfile(path)
    if not karpathy:
        notes = os.path.join(root, "annotations")
        # one year for all splits: train2017 has images of val2014 in it
        year = 2014 if glob("captions_*2014.json", root_dir=notes) else 2017
        top = f"{'val' if split == 'test' else 'train'}{year}"
        path = os.path.join(notes, f"captions_{top}.json")
    if not os.path.isfile(path):
        raise missing_data("coco", root, f"no {path}")
    rows = []
    try:
        with open(path, encoding="utf-8") as f:
            table = json.load(f)
        if karpathy:
            for image in table["images"]:
                if image["split"].replace("restval", "train") == split:
                    file = os.path.join(image["filepath"], image["filename"])
                    rows += [(file, sentence["raw"]) for sentence in image["sentences"]]
        else:
            files = {
                image["id"]: os.path.join(top, image["file_name"]) for image in table["images"]
            }
            ids = [row["image_id"] for row in table["annotations"]]
            rows = [(files[row["image_id"]], row["caption"]) for row in table["annotations"]]
            if split != "test":
                rows = compress(rows, split_by_hash(ids, [0.98], path) == SPLITS[split])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the official annotations ({error!r})") from error
    return listed("coco", split, root, ("", "images"), rows, [path])


def cc3m(root, split):
    """Conceptual Captions: shards of images and texts, or a table of captions and local files.

    test = the official validation part; val = 1 % of train. Only byte positions stay in memory."""
    part = "validation" if split == "test" else "train"
    tars = glob("*.tar", root_dir=root) + glob("*/*.tar", root_dir=root)
    files = sorted(f for f in tars if part in f)
    scan = scan_tar if files else scan_table
    if not files:  # the last: X_output.csv, which gather_cc.py makes of X.tsv, sorts after it
        table = "Train_GCC-training" if part == "train" else "Validation_GCC-1.1.0-Validation"
        files = sorted(glob(table + "*.[ct]sv", root_dir=root))[-1:]
    if not files:
        raise missing_data("cc3m", root, f"no {part} part")
    files = [os.path.join(root, f) for f in files]
    rows = np.concatenate([np.insert(scan(path), 0, k, axis=1) for k, path in enumerate(files)])
    if split != "test":
        rows = rows[split_by_hash(rows[:, 1], [0.99], root) == SPLITS[split]]

    def piece(i, column):
        file, offset, size = rows[i, [0, column, column + 1]]
        with open(files[file], "rb") as f:  # anew: threads must not share a position
            f.seek(offset)
            return f.read(size)

    text = lambda i, column: piece(i, column).decode("utf-8", "replace").strip()
    name = lambda i: f"{files[rows[i, 0]]} at byte {rows[i, 2]}"
    images = Lazy(len(rows), lambda i: read_image(piece(i, 2), name(i)), name)
    if scan is scan_table:  # then the piece is a path
        images = picture_folder(root, Lazy(len(rows), lambda i: text(i, 2)))
    captions, pairs = Lazy(len(rows), lambda i: text(i, 4)), np.arange(len(rows))[:, None]
    key = digest("cc3m", split, file_stamps(files))
    return Split(images, captions, np.repeat(pairs, 2, axis=1), np.zeros(len(rows), bool), key)


def scan_table(path):
    """(n, 5) int64: hash of the image path, its offset and size, offset and size of the caption."""
    rows, start = array("q"), 0  # 8 bytes a number, unlike a list
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            caption, tab, file = line.rstrip().rpartition(b"\t")
            if file.startswith(b"http"):
                raise DataError(f"{path} lists web addresses, not files:{TREES['cc3m']}")
            if file and not tab:
                raise DataError(f"{path} line {number}: no tab; expected `caption TAB path`")
            if file and (caption, file) != (b"title", b"filepath"):
                at = start + len(caption) + 1
                rows.extend((zlib.crc32(file), at, len(file), start, len(caption)))
            start += len(line)
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


def scan_tar(path):
    """(n, 5) int64: hash of KEY, offset and size of KEY.jpg, offset and size of KEY.txt.

    Walks the 512-byte headers and seeks over the contents: `tarfile` builds an object for each."""
    rows, at, image, text = array("q"), 0, None, None
    with open(path, "rb") as f:
        while len(head := f.read(512)) == 512:
            if not head[0]:  # an empty block ends a tar
                return np.frombuffer(rows, np.int64).reshape(-1, 5)
            digits = head[124:136].strip(b"\0 ")
            if head[257:262] != b"ustar" or not digits.isdigit():
                raise DataError(f"{path}: byte {at} is no header of an uncompressed tar file")
            size = int(digits, 8)
            if head[156] in b"0\0":  # a plain file
                key, _, kind = os.path.basename(head[:100].rstrip(b"\0")).partition(b".")
                if kind in (b"jpg", b"jpeg", b"png", b"webp"):
                    image = key, at + 512, size
                elif kind == b"txt":
                    text = key, at + 512, size
                if image and text and image[0] == text[0]:  # neighbours
                    rows.extend((zlib.crc32(key), *image[1:], *text[1:]))
                    image = text = None
            at += 512 + -(-size // 512) * 512  # contents fill whole blocks
            f.seek(at)
    raise DataError(f"{path}: truncated: its end is missing at byte {at}; fetch it again")


def face_caption(has):
    """CelebA has no captions: "a photo of a young woman, smiling, wavy hair, wearing hat"."""
    who = ("young " if "Young" in has else "") + ("man" if "Male" in has else "woman")
    rest = [name for name in has if name not in ("Young", "Male", "No_Beard")]
    return ", ".join([f"a photo of a {who}", *rest]).lower().replace("_", " ")


def celeba(root, split, allow_train=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: the train split needs allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba: MT only tests on it; test with --on celeba, or say --celeba-train")
    files = [os.path.join(root, f"list_{name}.txt") for name in ("attr_celeba", "eval_partition")]
    rows = []
    try:
        with open(files[0]) as f, open(files[1]) as g:
            count, names = int(f.readline()), f.readline().split()
            table, sides = f.readlines(), dict(map(str.split, g))
        if len(table) != count:
            raise ValueError(f"{len(table)} rows, not {count}")
        for file, *signs in map(str.split, table):
            has = [name for name, sign in zip(names, signs, strict=True) if sign == "1"]
            if sides[file] == str(SPLITS[split]):  # CelebA too writes 0 train, 1 val, 2 test
                rows.append((os.path.join("img_align_celeba", file), face_caption(has)))
    except FileNotFoundError as error:
        raise missing_data("celeba", root, f"no {error.filename}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{' or '.join(files)}: not the official table ({error})") from error
    return listed("celeba", split, root, ("",), rows, files)


def cifar10(root, split):
    """CIFAR-10, binary version: (i, j) says image i shows class j; ten captions in every split.

    val = the last 5,000 train images. `bare` is False although a caption fits thousands of images:
    image -> text is classification here, and must have its answers."""
    top = os.path.join(root, "cifar-10-batches-bin")
    if not os.path.isfile(os.path.join(top, "batches.meta.txt")):
        raise missing_data(
            "cifar10", root, "no batches.meta.txt; the pickled version is never read"
        )
    batches = ["test_batch"] if split == "test" else [f"data_batch_{k}" for k in range(1, 6)]
    files = [os.path.join(top, f"{name}.bin") for name in batches]
    for path in files:
        if not os.path.isfile(path) or os.path.getsize(path) != 10_000 * 3073:
            raise DataError(f"{path}: missing, or not 30,730,000 bytes; unpack the archive again")
    data = np.concatenate([np.fromfile(path, np.uint8) for path in files]).reshape(-1, 3073)
    if split != "test":
        data = data[:45_000] if split == "train" else data[45_000:]
    n = len(data)
    pixels = data[:, 1:].reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, 3)
    with open(os.path.join(top, "batches.meta.txt")) as f:
        texts = Strings(f"a picture of a {name}" for name in f.read().split())  # "a airplane": MT's
    images, pairs = Images(pixels, range(n)), np.stack([np.arange(n), data[:, 0]], 1)
    return Split(
        images, texts, pairs, np.zeros(n, bool), digest("cifar10", split, file_stamps(files))
    )


# image name, one of `,` `,0,` `#0 TAB` `| 0 |`, caption
TABLE_ROW = re.compile(r"([^,|#]+\.\w+)(?:,(?:\d+,)?|#\d+\t|\|\s*\d+\s*\|?)(.*\S)")


def captions(root, split):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name. The key sees the photos: they may be exchanged."""
    tables = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt")
    there = [t for t in tables if os.path.isfile(os.path.join(root, t))]
    if not there:
        raise missing_data("captions", root, "no captions.txt")
    path, rows = os.path.join(root, there[0]), []
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = f.read().splitlines()
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        row = TABLE_ROW.fullmatch(line.strip())
        if row:
            rows.append((row[1], row[2].strip(' "').replace('""', '"')))
        elif line.strip() and (number > 1 or "." in line):  # else it is a header
            raise DataError(f"{path} line {number}: expected `image,caption` on one line")
    ids = [zlib.crc32(image.encode()) for image, _ in rows]
    rows = list(compress(rows, split_by_hash(ids, [0.90, 0.95], path) == SPLITS[split]))
    tops = ("", "Images", "images", "flickr30k_images")
    sources = [path] + [os.path.join(root, top, image) for top in tops for image, _ in rows]
    return listed("captions", split, root, tops, rows, sources)


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together.
    90 / 5 / 5 % by a hash of the group, or of the row. Paths are relative to root, if any. Raises
    DataError: unreadable, not 2-D, not floats, unequal lengths, NaN or inf."""
    if image_latents is None or text_latents is None:
        raise missing_data("latents", root, "give image_latents and text_latents")
    paths = [p for p in (image_latents, text_latents, groups) if p is not None]
    paths = [os.path.join(root or "", os.path.expanduser(p)) for p in paths]
    a, b = (open_array(path, 2, "f") for path in paths[:2])
    ids = open_array(paths[2], 1, "iu") if groups else np.arange(len(a))
    if not len(a) == len(b) == len(ids):
        raise DataError(f"unequal numbers of rows: {len(a)}, {len(b)}, {len(ids)} in {paths}")
    for x, path in zip((a, b), paths, strict=False):
        for start in range(0, len(x), 8192):  # in chunks: the file may be larger than memory
            fine = (np.abs(x[start : start + 8192].astype(np.float64)) < 3e38).all(1)
            if not fine.all():  # 3e38: what float32 holds
                raise DataError(f"{path}: row {start + fine.argmin()} holds NaN, inf or over 3e38")
    index = np.flatnonzero(split_by_hash(ids, [0.90, 0.95], paths[0]) == SPLITS[split])
    name = lambda i: f"row {index[i]}"
    rows = lambda x: Lazy(len(index), lambda i: np.array(x[index[i]], np.float32), name)
    pairs, key = mates(ids[index], paths[-1]), digest("latents", split, file_stamps(paths))
    return Split(rows(a), rows(b), pairs, np.zeros(len(pairs), bool), key)


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j]."""
    order, count = np.argsort(ids, kind="stable"), np.unique(ids, return_counts=True)[1]
    if (count.astype(float) ** 2).sum() > 1e8:
        raise DataError(f"{where}: over 100 M pairs of equal ids; use ids of finer groups")
    if count.max(initial=1) == 1:
        return np.stack([order, order], 1)
    groups = np.split(order, np.cumsum(count)[:-1])
    pairs = [np.stack([np.repeat(g, len(g)), np.tile(g, len(g))], 1) for g in groups]
    return np.concatenate(pairs)


def load(name, root=None, split="train", **options):
    """One split of a data set: the only function that other files call.

    root is the folder of a set on disk, as in TREES; options: see `latents` and `celeba`. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in NAMES:
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if split == "train" and name == "glyphs-stix":
        raise DataError("glyphs-stix is never trained on: train on glyphs, test on glyphs-stix")
    if name.startswith("glyphs"):
        return draw_glyphs(split, FACES if name == "glyphs" else STIX)
    root = root and os.path.expanduser(root)
    if name != "latents" and not (root and os.path.isdir(root)):
        raise missing_data(name, root, "no such folder")
    loaders = dict(coco=coco, cc3m=cc3m, celeba=celeba, cifar10=cifar10, captions=captions)
    found = loaders.get(name, latents)(root, split, **options)
    if not len(found.pairs):
        raise DataError(f"{name} in {root}: no pairs in split {split!r}")
    return found


def save_grid(split, path):
    """24 images of the split, each with a caption."""
    from matplotlib.figure import Figure  # draws without a display

    figure, pairs = Figure(figsize=(12, 9), layout="constrained"), split.pairs[~split.bare]
    some = pairs[np.linspace(0, len(pairs) - 1, 24).astype(int)]
    for ax, (i, j) in zip(figure.subplots(4, 6).flat, some, strict=True):
        ax.set_title(textwrap.fill(split.captions[j][:90], 28), fontsize=7, parse_math=False)
        ax.imshow(split.images[i], cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", default="glyphs", help="data set (default: glyphs)")
    parser.add_argument("root", nargs="?", help="its folder")
    args = parser.parse_args()
    for side in ("test", "val", "train"):  # train last: some sets have none
        if args.name in PAIRS:
            split = load_pairs(args.name, args.root, side)
            y, x = (f"{a[0].dtype} {a[0].shape}" for a in split[:2])
            print(f"{side:6}{len(split.x):>9,} pairs of y {y} and x {x}")
            if side == "test":
                save_pairs(split, f"data-{args.name}.png")
            continue
        split = load(args.name, args.root, side)
        images, captions, pairs = map(len, split[:3])
        print(f"{side:6}{images:>9,} images {captions:>9,} captions {pairs:>9,} pairs")
        if side == "test":
            save_grid(split, f"data-{args.name}.png")


if __name__ == "__main__":
    run_script("data.py", main)
