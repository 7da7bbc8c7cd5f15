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
         cc3m          the loader: rows -> Split
Try      python data.py cc3m ~/cc3m
"""

import os
import tarfile
import zlib
from array import array
from glob import glob

import numpy as np

from data_files import (
    PICTURES,
    TREES,
    file_stamps,
    missing_data,
    picture_folder,
    read_image,
    split_by_hash,
)
from errors import DataError
from glyphs import SPLITS, Lazy, Split, digest

PICTURE, CAPTION = 2, 4  # columns of their offsets; the sizes stand right of them


# --------------------------------------------------------------------------------------------------
# Scanning: a file -> a row of five integers for each pair in it


def scan_tar(path):
    """(n, 5) int64: hash of KEY, offset and size of KEY.jpg, offset and size of KEY.txt.

    KEY is all of a member's name before its last dot: "dir/22.05" of "dir/22.05.JPG". The two
    members of a key may stand anywhere in the archive. DataError if it is not whole."""
    rows = array("q")
    images, texts = {}, {}  # KEY -> (offset, size), while its partner has not come
    try:
        # "r:" opens no compressed archive: there a position in bytes leads nowhere.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # tarfile would keep every member, and memory would grow
                if member.size < 0:
                    raise tarfile.ReadError("a negative size")  # it would be read for ever
                if not member.isreg():
                    continue  # a folder, a link
                key, kind = os.path.splitext(member.name)
                if kind.lower() in (*PICTURES, ".webp"):
                    images[key] = member.offset_data, member.size
                elif kind.lower() == ".txt":
                    texts[key] = member.offset_data, member.size
                # Once both are there, they make a row, and need not be remembered any longer.
                if key in images and key in texts:
                    crc = zlib.crc32(key.encode(errors="surrogateescape"))
                    rows.extend((crc, *images.pop(key), *texts.pop(key)))
            # At a damaged header tarfile stops without a word, as if the archive ended there. So
            # look whether it does: it must end with a block of 512 zeros.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(512) != bytes(512):
                raise tarfile.ReadError(f"no header, and no end, at byte {archive.offset}")
    except Exception as error:  # of a damaged archive tarfile raises ReadError, ValueError and more
        told = "truncated, damaged, or no uncompressed tar file"
        raise DataError(f"{path}: {told} ({error}); fetch it again") from error
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


def scan_table(path):
    """(n, 5) int64: hash of the image path, its offset and size, offset and size of the caption."""
    rows = array("q")  # 8 bytes a number; a list takes 40
    start = 0  # of the line, in bytes
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            caption, tab, file = line.rstrip().rpartition(b"\t")
            if file.startswith(b"http"):
                raise DataError(f"{path} lists web addresses, not files:{TREES['cc3m']}")
            if file and not tab:
                raise DataError(f"{path} line {number}: no tab; expected `caption TAB path`")
            # Not a blank line, nor the header that gather_cc.py writes.
            if file and (caption, file) != (b"title", b"filepath"):
                at = start + len(caption) + 1
                rows.extend((zlib.crc32(file), at, len(file), start, len(caption)))
            start += len(line)
    return np.frombuffer(rows, np.int64).reshape(-1, 5)


# --------------------------------------------------------------------------------------------------
# The loader


def cc3m(root, split):
    """Conceptual Captions: shards of images and texts, or a table of captions and local files.

    test = the official validation part; val = 1 % of train."""
    part = "validation" if split == "test" else "train"
    tars = glob("*.tar", root_dir=root) + glob("*/*.tar", root_dir=root)
    files = sorted(file for file in tars if part in file)
    scan = scan_tar if files else scan_table
    if not files:
        # Of X.tsv, which lists web addresses, gather_cc.py makes X_output.csv, which lists files.
        # If both are there, we want the second, which is the last in sorted order.
        table = "Train_GCC-training" if part == "train" else "Validation_GCC-1.1.0-Validation"
        files = sorted(glob(table + "*.[ct]sv", root_dir=root))[-1:]
    if not files:
        raise missing_data("cc3m", root, f"no {part} part")

    # Before the five integers of each pair, the number of its file.
    files = [os.path.join(root, file) for file in files]
    scanned = [np.insert(scan(path), 0, number, axis=1) for number, path in enumerate(files)]
    rows = np.concatenate(scanned)  # (N, 6) int64
    if split != "test":
        rows = rows[split_by_hash(rows[:, 1], [0.99], root) == SPLITS[split]]

    def read_bytes(i, column):
        number, offset, size = rows[i, [0, column, column + 1]]
        # Opened each time: the threads of an encoder must not share one position in a file.
        with open(files[number], "rb") as f:
            f.seek(offset)
            return f.read(size)

    def read_text(i, column=CAPTION):
        return read_bytes(i, column).decode("utf-8", "replace").strip()

    def place(i):
        return f"{files[rows[i, 0]]} at byte {rows[i, PICTURE]}"

    def read_from_shard(i):
        return read_image(read_bytes(i, PICTURE), place(i))

    def path_from_table(i):
        return read_text(i, PICTURE)

    N = len(rows)
    if scan is scan_tar:
        images = Lazy(N, read_from_shard, place)
    else:
        images = picture_folder(root, Lazy(N, path_from_table))
    pairs = np.stack([np.arange(N), np.arange(N)], axis=1)  # a picture, a caption
    key = digest("cc3m", split, file_stamps(files))
    return Split(images, Lazy(N, read_text), pairs, np.zeros(N, bool), key)
