"""
data_cc3m.py: Conceptual Captions (CC3M), 3.3 million pictures with captions, read where they are.

It comes in shards (tar files of 5,000 pictures and texts each), or as a table of captions with the
pictures in files beside it. Unpacked, shards would be six million files, which few file systems
like; as Python strings, captions and paths alone would take nearly a gigabyte. So neither is done:
the files are scanned for where each thing stands, and a row of six integers a pair, 48 bytes, stays
in memory:

    file    hash    offset and size of the picture    offset and size of the caption

To read picture i is then: open its shard, go to the offset, read so many bytes. In a table stands
not the picture itself but its path, and the offset leads to this.

Map      scan_tar      a shard -> its rows of numbers; tarfile says where each member begins
         scan_table    the same of a table
         cc3m          the loader: rows -> Split; says what was found, used and skipped
Try      python data.py cc3m ~/cc3m
"""

import csv
import os
import tarfile
import zlib
from array import array
from glob import glob

import numpy as np

from data_files import (
    DECODER,
    PICTURES,
    TREES,
    file_stamps,
    missing_data,
    picture_folder,
    read_image,
    report,
    say_once,
    split_by_hash,
)
from errors import DataError
from glyphs import SPLITS, Lazy, Split, digest

PICTURE, CAPTION = 2, 4  # columns of their offsets; the sizes stand right of them
BLOCK = 512  # bytes: all parts of a tar file begin at multiples of it
MOST_LINES = 100  # of a quoted caption; a longer one is a quote without an end
HEADERS = (b"filepath", b"file", b"path", b"image", b"url")  # the second column, if it has a name


# --------------------------------------------------------------------------------------------------
# Scanning: a file -> a row of five integers for each pair in it


def scan_tar(path, skipped):
    """(n, 5) int64: hash of KEY, offset and size of KEY.jpg, offset and size of KEY.txt.

    KEY is all of a member's name before its last dot: "dir/22.05" of "dir/22.05.JPG". The two
    members of a key may stand anywhere in the file. What has no partner goes into skipped,
    {reason: [name, ...]}. DataError if the file is not whole."""
    rows = array("q")
    images, texts = {}, {}  # KEY -> (offset, size), while its partner has not come
    notes = set()  # KEYs of .json files that stand before their pair, or without one
    try:
        with open(path, "rb") as f:
            for member in members(f):
                # Macs put a hidden ._KEY.jpg beside each KEY.jpg; it holds no picture.
                key, kind = os.path.splitext(member.name)
                if os.path.basename(key).startswith("."):
                    skipped.setdefault("a hidden file", []).append(member.name)
                elif kind.lower() in PICTURES:
                    remember(images, key, member, skipped)
                elif kind.lower() == ".txt":
                    remember(texts, key, member, skipped)
                elif kind.lower() == ".json":
                    notes.add(key)
                # Once both are there, they make a row, and need not be remembered any longer.
                if key in images and key in texts:
                    crc = zlib.crc32(key.encode(errors="surrogateescape"))
                    rows.extend((crc, *images.pop(key), *texts.pop(key)))
    except Exception as error:  # of a damaged archive tarfile raises ReadError, ValueError and more
        told = "truncated, damaged, or no uncompressed tar file"
        raise DataError(f"{path}: {told} ({error}); fetch it again") from error
    for reason, left in (("no text for a picture", images), ("no picture for a text", texts)):
        skipped.setdefault(reason, []).extend(f"{key} in {path}" for key in left)
    found = np.frombuffer(rows, np.int64).reshape(-1, 5)

    # Of a picture that could not be downloaded, there may be its .json alone.
    crcs = set(found[:, 0].tolist()) if notes else ()
    for key in sorted(notes - images.keys() - texts.keys()):
        if zlib.crc32(key.encode(errors="surrogateescape")) not in crcs:
            skipped.setdefault("a .json alone", []).append(f"{key} in {path}")
    return found


def members(f):
    """Yield the files in an archive, or in several that stand one after the other in a file f.

    `cat a.tar b.tar > c.tar` makes such a file. tarfile's own way to read it (ignore_zeros) passes
    over damaged headers, too, and with them over samples. So each archive is read by itself."""
    while True:
        # "r:" opens no compressed archive: there a position in bytes leads nowhere.
        with tarfile.open(fileobj=f, mode="r:") as archive:
            for member in archive:
                archive.members = []  # tarfile would keep every member, and memory would grow
                if member.size < 0:
                    raise tarfile.ReadError("a negative size")  # it would be read for ever
                if member.isreg():  # no folder, no link
                    yield member
        # At a damaged header tarfile stops without a word, as if the archive ended there. So look
        # whether it does: it must end with a block of 512 zeros.
        f.seek(archive.offset)
        block = f.read(BLOCK)
        if block != bytes(BLOCK):
            raise tarfile.ReadError(f"no header, and no end, at byte {archive.offset}")
        # More zeros fill the archive up. What comes after them is the next one.
        while block == bytes(BLOCK):
            block = f.read(BLOCK)
        if not block.strip(b"\0"):
            return
        f.seek(-len(block), os.SEEK_CUR)


def remember(found, key, member, skipped):
    """Keep where a member begins, and its size, until its partner comes."""
    if key in found:  # 7.jpg and 7.png: the first one counts
        skipped.setdefault("a second file of its key", []).append(member.name)
    else:
        found[key] = member.offset_data, member.size


def scan_table(path, root, skipped):
    """(n, 5) int64: hash of the image path, its offset and size, offset and size of the caption.

    DataError names the line that is no `caption TAB path`, or whose path leads out of root."""
    rows = array("q")  # 8 bytes a number; a list takes 40
    start = 0  # of the record, in bytes
    with open(path, "rb") as f:
        for number, record in table_records(f):
            caption, tab, file = record.rstrip().rpartition(b"\t")
            where = f"{path} line {number}"
            if file.strip(b'"').startswith(b"http"):
                raise DataError(f"{path} lists web addresses, not files:{TREES['cc3m']}")
            if file and not tab:
                raise DataError(f"{where}: no tab; expected `caption TAB path`")
            # A table from a stranger must not make us read, and show, files elsewhere.
            if leads_out(file, root):
                raise DataError(f"{where} names a picture outside of {root}: it may not")
            if file and caption.strip() in (b"", b'""'):
                skipped.setdefault("an empty caption", []).append(where)
            # Not a blank line, nor the header that gather_cc.py writes.
            elif file and file.strip(b'"') not in HEADERS:
                at = start + len(caption) + 1
                rows.extend((zlib.crc32(file), at, len(file), start, len(caption)))
            start += len(record)
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


def table_records(f):
    """Yield (number of its first line, bytes) of each record of a table.

    Where a caption holds quotes, tabs or line breaks, gather_cc.py puts the whole of it in quotes,
    by the rules of the csv module. Its record goes on until the quote is closed."""
    # Bytes, not text: positions in the file are what is kept of a record, and they count bytes.
    number = 1
    for line in f:
        record, lines = line, 1
        while quote_is_open(record):
            line = f.readline()
            if not line or lines == MOST_LINES:
                raise DataError(f"{f.name} line {number}: a quote is opened and not closed")
            record += line
            lines += 1
        yield number, record
        number += lines


def quote_is_open(record):
    """Whether a record goes on in the next line: the signs of an open quote are odd in number.

    In tables made without these rules a caption may just begin with a quote. There the path of the
    picture ends the line."""
    if not record.startswith(b'"') or record.count(b'"') % 2 == 0:
        return False
    _, tab, file = record.strip().rpartition(b"\t")
    is_path = b"/" in file or file.lower().endswith(tuple(end.encode() for end in PICTURES))
    return not (tab and is_path)


def unquoted(text):
    """A field of a table as the csv module reads it: `"a ""red"" car"` is `a "red" car`.

    What only begins with a quote, `"red" cars`, stays as it is."""
    if not text.startswith('"'):
        return text
    try:
        fields = next(csv.reader([text], delimiter="\t", strict=True))
    except csv.Error:
        return text
    return fields[0] if len(fields) == 1 else text


def leads_out(file, root):
    """Whether the path of a picture leads out of root."""
    if not file.startswith(b"/") and b".." not in file:
        return False  # nearly all, and quickly
    path = os.path.join(root, unquoted(file.decode("utf-8", "replace")))
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(root))
    return inside.split(os.sep)[0] == ".."


# --------------------------------------------------------------------------------------------------
# The loader


def files_of(root, part):
    """Paths below root of the shards, or the table, of a part: "train" or "validation"."""
    tars = glob("*.tar", root_dir=root) + glob("*/*.tar", root_dir=root)
    shards = sorted(file for file in tars if part in file)
    if shards:
        return shards
    # Of X.tsv, which lists web addresses, gather_cc.py makes X_output.csv, which lists files.
    # If both are there, we want the second, which is the last in sorted order.
    table = "Train_GCC-training" if part == "train" else "Validation_GCC-1.1.0-Validation"
    return sorted(glob(table + "*.[ct]sv", root_dir=root))[-1:]


def files_and_cuts(root, split):
    """(paths below root of the files that hold a split, where to cut their pairs into splits).

    What img2dataset leaves is often one set of shards. A run that ends without a test set would
    have trained for nothing, so there all three splits are cut from what there is."""
    train, test = files_of(root, "train"), files_of(root, "validation")
    if train and not test:
        say_once(root, f"cc3m {root}: no validation part, so val and test are 0.5 % of train each")
        return train, [0.99, 0.995]
    if not train and not test:
        tars = glob("*.tar", root_dir=root) + glob("*/*.tar", root_dir=root)
        if tars:
            told = f"no train and no validation part, so all {len(tars)} tar file(s)"
            say_once(root, f"cc3m {root}: {told} are cut into 90 / 5 / 5 %")
        return sorted(tars), [0.90, 0.95]
    return (test, []) if split == "test" else (train, [0.99])


def cc3m(root, split):
    """Conceptual Captions: shards of images and texts, or a table of captions and local files.

    test = the official validation part; val = 1 % of train; or as in `files_and_cuts`. A picture
    without its text, or a text without its picture, is left out, counted and named. DataError if
    no pair is left."""
    files, cuts = files_and_cuts(root, split)
    if not files:
        part = "validation" if split == "test" else "train"
        raise missing_data("cc3m", root, f"no {part} part")
    in_shards = files[0].endswith(".tar")

    files = [os.path.join(root, file) for file in files]
    skipped = {}
    rows = scan(files, root, in_shards, skipped)  # (N, 6) int64
    found = f"{len(rows):,} pairs in {len(files)} {'tar' if in_shards else 'table'} file(s)"
    if not len(rows):
        report("cc3m", root, found, "none", skipped)
        raise DataError(f"{files[0]}: no pair of a picture and its text")
    if cuts:
        rows = rows[split_by_hash(rows[:, 1], cuts, root) == SPLITS[split]]
    report("cc3m", root, found, f"{len(rows):,} for {split}", skipped)

    pairs = np.repeat(np.arange(len(rows))[:, None], 2, axis=1)  # a picture, a caption
    key = digest("cc3m", split, file_stamps(files), DECODER)
    images, captions = readers(root, files, rows, in_shards)
    return Split(images, captions, pairs, np.zeros(len(rows), bool), key)


def scan(files, root, in_shards, skipped):
    """(N, 6) int64 of all files: before the five integers of each pair, the number of its file."""
    scanned = []
    for number, path in enumerate(files):
        rows = scan_tar(path, skipped) if in_shards else scan_table(path, root, skipped)
        scanned.append(np.insert(rows, 0, number, axis=1))
    return np.concatenate(scanned)


def readers(root, files, rows, in_shards):
    """(images, captions) that go to the place that rows (N, 6) name, each time one is read."""

    def read_bytes(i, column):
        number, offset, size = rows[i, [0, column, column + 1]]
        # Opened each time: the threads of an encoder must not share one position in a file.
        with open(files[number], "rb") as f:
            f.seek(offset)
            return f.read(size)

    def read_text(i):
        text = read_bytes(i, CAPTION).decode("utf-8", "replace").strip()
        return text if in_shards else " ".join(unquoted(text).split())

    def place(i):
        return f"{files[rows[i, 0]]} at byte {rows[i, PICTURE]}"

    def read_from_shard(i):
        return read_image(read_bytes(i, PICTURE), place(i))

    def path_from_table(i):
        return unquoted(read_bytes(i, PICTURE).decode("utf-8", "replace").strip())

    N = len(rows)
    if in_shards:
        images = Lazy(N, read_from_shard, place)
    else:
        images = picture_folder(root, Lazy(N, path_from_table))
    return images, Lazy(N, read_text)
