"""
data_captions.py: photos on disk with sentences, from rows (file, caption) to a Split.

COCO, CelebA, Flickr8k and your own photos differ in their tables. What comes after these is the
same, and is here: find the pictures, leave out what cannot be used, cut into train, val and test,
and say what was found, used and skipped. The loader of your own photos is here as well.

Map      locate            where are the pictures that the rows name, and which are not there?
         split_from_rows   [Row, ...] -> glyphs.Split, for captions, coco and celeba
         captions          the loader of your own photos, and of Flickr8k and Flickr30k
         (data_tables.py reads the tables)
Try      python data.py captions ~/photos
"""

import os
import unicodedata
import zlib

import numpy as np

from data_files import (
    DECODER,
    PICTURES,
    file_stamps,
    missing_data,
    picture_folder,
    report,
    say_once,
    split_by_hash,
)
from data_tables import Row, is_picture, read_table
from errors import DataError
from glyphs import SPLITS, Split, Strings, digest

# Of the pictures that a table names. Flickr8k's own names one in 8,092 that does not exist; more
# than 1 % is a broken download.
MAY_BE_MISSING = 0.01
PARTIAL = ("captions", "coco", "celeba")  # sets of which --partial uses the pictures that are there
# What a phone leaves among its photos and Pillow does not open: photos of other kinds, videos.
NOT_READ = (
    ".heic",
    ".heif",
    ".dng",
    ".raw",
    ".cr2",
    ".nef",
    ".arw",
    ".mov",
    ".mp4",
    ".pdf",
    ".svg",
)


# --------------------------------------------------------------------------------------------------
# Where the pictures are


def is_text(value):
    """Whether it is a text that can be written: JSON may hold halves of signs, like \\ud83d."""
    try:
        value.encode()
        return True
    except (AttributeError, UnicodeEncodeError):
        return False


def below(file, root, table):
    """The path below a folder that a table's entry means. DataError if it leads out of it.

    A table from a stranger must not make us read, and show, files elsewhere on this computer."""
    if not is_text(file) or "\0" in file:
        raise DataError(f"{table} names {file!r}, and no file is called so")
    if "://" in file:
        raise DataError(f"{table} lists web addresses, not files: {file}")
    path = file.replace("\\", "/")  # written on Windows
    if os.path.isabs(path):
        path = os.path.relpath(path, os.path.abspath(root))
    path = os.path.normpath(path)
    if path.split(os.sep)[0] == "..":
        raise DataError(f"{table} names {file}, which is outside of {root}: it may not")
    return path


def stem(name):
    """A name in small letters, without .jpg and the like."""
    # NFC: macOS may write an accented letter as two signs, the letter and its accent.
    plain = unicodedata.normalize("NFC", name).lower()
    start, end = os.path.splitext(plain)
    return start if end in PICTURES else plain


class Listing:
    """The files of folders, each folder read once: to ask for 80,000 files one by one is slow."""

    def __init__(self):
        self.names = {}  # folder -> the names in it
        self.by_stem = {}  # folder -> {stem: [names of pictures]}

    def read(self, folder):
        try:
            names = [name for name in os.listdir(folder) if not name.startswith(".")]
        except OSError:
            names = []  # no such folder
        self.names[folder] = set(names)
        stems = self.by_stem[folder] = {}
        for name in filter(is_picture, names):
            stems.setdefault(stem(name), []).append(name)

    def find(self, folder, file):
        """The path below folder of the file, or None.

        Also p0.JPG for p0.jpg, and p0.jpg for p0, if there is no second one like it."""
        head, name = os.path.split(file)
        place = os.path.join(folder, head)
        if place not in self.names:
            self.read(place)
        if name in self.names[place]:
            return file
        like = self.by_stem[place].get(stem(name), [])
        return os.path.join(head, like[0]) if len(like) == 1 else None

    def pictures(self):
        """{folder: {name, ...}}: the pictures in each folder that was read."""
        return {folder: set(filter(is_picture, names)) for folder, names in self.names.items()}


def locate(files, root, tops):
    """(folder, {file: its path below folder}, pictures beside these that no row names).

    tops: folders below root where the pictures may be: the first that has most of them is taken."""
    # Each layout has its own folder for pictures: look in all of them, stop where all are there.
    best, best_top = {}, tops[0]
    for top in tops:
        listing = Listing()
        folder = os.path.join(root, top)
        paths = {file: listing.find(folder, file) for file in files}
        paths = {file: path for file, path in paths.items() if path is not None}
        if len(paths) > len(best) or not best:
            best, best_top, best_listing = paths, top, listing
        if len(best) == len(files):
            break
    # What lies beside them and is in no row is told to the reader: often a forgotten table.
    folder = os.path.join(root, best_top)
    used = {os.path.join(folder, path) for path in best.values()}
    others = []
    for place, names in best_listing.pictures().items():
        others += [name for name in sorted(names) if os.path.join(place, name) not in used]
    return folder, best, others


# --------------------------------------------------------------------------------------------------
# Rows -> Split


def rows_with_words(rows, places, skipped):
    """The rows whose captions say something, without line breaks and double blanks.

    places: {file as its table names it: its path}. skipped: {reason: [item, ...]} grows."""
    # ".photo.jpg" and "._photo.jpg" are what editors and file systems leave behind.
    hidden = {path for path in places.values() if os.path.basename(path).startswith(".")}
    kept = []
    for row in rows:
        path = places[row.file]
        if not is_text(row.caption):
            skipped.setdefault("the caption is no text", []).append(f"{path}: {row.caption!r}")
        elif not row.caption.strip():
            skipped.setdefault("an empty caption", []).append(path)
        elif path in hidden:
            skipped.setdefault("a hidden file", []).append(path)
        else:
            kept.append(Row(path, " ".join(row.caption.split()), row.id))
    return kept


def rows_of_split(rows, cuts, split, where):
    """Those of the rows that fall into the split by a hash of their ids, or of their files' names.

    All captions of a picture go the same way."""
    if not rows:
        return []
    ids = [zlib.crc32(row.file.encode()) if row.id is None else row.id for row in rows]
    part = split_by_hash(ids, cuts, where)
    return [row for row, number in zip(rows, part, strict=True) if number == SPLITS[split]]


def split_from_rows(name, split, root, tops, rows, sources, cuts=(), partial=False, skipped=()):
    """Split of rows; says what it found, used and skipped.

    tops      folders below root where the pictures may be
    sources   the files whose change makes the rows, or their latents, out of date
    cuts      where to cut the rows into train, val and test; none: they are all of this split
    partial   use the pictures that are there, however few. Else DataError if over 1 % are missing
    skipped   {reason: [item, ...]} of what the caller has left out"""
    skipped = dict(skipped)
    files = dict.fromkeys(row.file for row in rows)
    places = {file: below(file, root, sources[0]) for file in files}
    named = {os.path.basename(path) for path in places.values()}
    found = counted(rows)
    rows = rows_with_words(rows, places, skipped)
    files = list(dict.fromkeys(row.file for row in rows))  # each once, in the order of the rows

    # Which of the pictures are there?
    folder, paths, others = locate(files, root, tops)
    missing = [file for file in files if file not in paths]
    if files and not paths:
        raise missing_data(name, root, f"no image {files[0]}")
    unread = [file for file in paths if file.lower().endswith(NOT_READ)]
    for file in unread:
        del paths[file]
    if len(missing) + len(unread) > MAY_BE_MISSING * len(files) and not partial:
        told = refusal(missing, unread, len(files))
        raise DataError(f"{name} {root}: {told}; --partial uses the other {len(paths):,}")
    skipped["no such file"] = missing
    skipped["its kind is not read"] = unread
    other_names = [f"{file} is {path}" for file, path in paths.items() if path != file]
    if other_names:
        told = f"{len(other_names):,} names differ on disk (first: {other_names[0]})"
        say_once(root + told, f"{name} {root}: {told}")
    # Only your own table is sure to name all the pictures of its folder.
    if name == "captions":
        skipped["no row in the table"] = [file for file in others if file not in named]

    rows = [row for row in rows if row.file in paths]
    if cuts:
        rows = rows_of_split(rows, cuts, split, f"{name} {root}")
    report(name, root, found, f"{counted(rows)} for {split}", skipped)
    return make_split(name, split, folder, paths, rows, sources)


def refusal(missing, unread, most):
    """What is wrong with a table that names files which cannot be used: two lists of them."""
    told = []
    if missing:
        told.append(f"{len(missing):,} of {most:,} pictures are not there (first: {missing[0]})")
    if unread:
        first = f"first: {unread[0]}; save them as .jpg"
        told.append(f"{len(unread):,} of {most:,} are of a kind that is not read ({first})")
    return ", ".join(told)


def counted(rows):
    files = {row.file for row in rows}
    return f"{len(files):,} pictures and {len(rows):,} captions"


def make_split(name, split, folder, paths, rows, sources):
    """The Split of rows whose pictures are at folder/paths[file]."""
    # Caption j is that of row j; its image is found by its file.
    files = list(dict.fromkeys(paths[row.file] for row in rows))
    number = {file: i for i, file in enumerate(files)}
    image_of = np.array([number[paths[row.file]] for row in rows], np.int64)
    pairs = np.stack([image_of, np.arange(len(rows))], axis=1)  # (P, 2)
    # Your own photos may be exchanged; those of official sets never are.
    if name == "captions":
        sources = sources + [os.path.join(folder, file) for file in files]
    return Split(
        picture_folder(folder, Strings(files)),
        Strings(row.caption for row in rows),
        pairs,
        np.zeros(len(rows), bool),
        digest(name, split, files, file_stamps(sources), DECODER),
    )


# --------------------------------------------------------------------------------------------------
# Your own photos

TABLES = """captions.txt captions.csv captions.tsv captions.jsonl results.csv Flickr8k.token.txt
results_20130124.token metadata.jsonl metadata.csv""".split()


def captions(root, split, partial=False):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name. The key sees the photos: they may be exchanged."""
    path = find_table(root)
    rows, told = read_table(path)
    say_once(path, f"captions {root}: {os.path.relpath(path, root)} has {told}")
    tops = ["", *folders_below(root)]
    cuts = [0.90, 0.95]
    return split_from_rows("captions", split, root, tops, rows, [path], cuts, partial)


def folders_below(root):
    """Folders in root, and in these: flickr30k_images/flickr30k_images is where Kaggle has them."""
    found = []
    for folder, inner, _ in os.walk(root):
        depth = os.path.relpath(folder, root).count(os.sep) + (folder != root)
        inner[:] = sorted(name for name in inner if name[0] not in "._")
        found += [os.path.relpath(os.path.join(folder, name), root) for name in inner]
        if depth > 0:
            inner.clear()
    return found


def find_table(root):
    """The path of root's table of captions: one of TABLES, or the only .csv, .tsv or .jsonl.

    In root, or else in one of its folders. DataError: none, or several."""
    for folders in ([root], [os.path.join(root, folder) for folder in folders_below(root)]):
        # A name that we know beats any other table: an archive may bring several.
        known, other = [], []
        for folder in folders:
            names = sorted(os.listdir(folder))
            known += [os.path.join(folder, table) for table in TABLES if table in names][:1]
            ends = (".csv", ".tsv", ".jsonl", ".token")
            names = [name for name in names if name.lower().endswith(ends) and name[0] != "."]
            other += [os.path.join(folder, name) for name in names]
        tables = known or other
        if len(tables) > 1:
            told = ", ".join(tables[:4])
            raise DataError(
                f"captions {root}: which table? {told}: call one captions.csv, or name"
                " its folder with --data-dir"
            )
        if tables:
            return tables[0]
    # A spreadsheet is the commonest thing to have instead: say how to make a table of it.
    why = "no captions.csv or captions.txt"
    sheets = [name for name in os.listdir(root) if name.lower().endswith((".xlsx", ".xls", ".ods"))]
    if sheets:
        why += f"; save {sheets[0]} as captions.csv"
    raise missing_data("captions", root, why)
