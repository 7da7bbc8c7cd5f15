"""
data_latents.py: vectors of your own encoders, in the files that these and other programs write.

    python train.py --dataset latents --image-latents A --text-latents B

Row i of A and row i of B are a pair. A and B are each one of
    A.npy, A.npz      numpy.save(path, A) of A (N, h), float16, float32 or float64
    A.pt              torch.save(A, path) of one tensor, bfloat16 too
    a folder          parts, img_emb_0.npy, img_emb_1.npy, ...: what clip-retrieval writes
    'img_emb_*.npy'   the same by a pattern, in quotes, or the shell would take it apart

Three things go wrong with parts, and none of them stops a training: sorted as words, part 10 comes
before part 2; one part was not copied; the parts of the two sides were cut at other rows. In each
case captions are trained on somebody else's images, and all that shows is a bad score. So parts are
put in the order of their numbers, and a missing one, or one of another length, is an error.

Map      latents         the loader: files -> Split, called by data.load
         open_vectors    a path -> one array, whose rows stay on disk
         part_files      a folder or a pattern -> its files, 2 before 10
         Parts           several arrays, read as one
         load_tensor     a .pt file, of which nothing is unpickled
         found_groups, mates   which rows belong together
         check_numbers   what no training can use
Letters  N rows, h their width; i an image, j a text, both row numbers
"""

import os
import re
import zipfile
from glob import glob, has_magic

import numpy as np
import torch

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
from data_pairs import FEWEST
from errors import DataError
from glyphs import SPLITS, Lazy, Split, digest

# Latents of what typical size, as a root mean square, can be trained on; and from how many times
# this size on one row is an error of its encoder, not a large vector.
SIZES = (1e-4, 1e6)
OUTLIER = 1e4
TENSORS = (".pt", ".pth")
ARRAYS = (".npy", ".npz", *TENSORS)


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together: give
    the five captions of one photo, in five rows, the same id. Without, equal rows of image_latents
    are a group: see `found_groups`. 90 / 5 / 5 % by a hash of the group, or of the row. A row of
    zeros, as some programs leave for a photo that they could not read, is left out with its
    partner. Paths are relative to root, if any. Raises DataError: unreadable, not 2-D, not floats,
    unequal lengths, a missing part, and check_numbers."""
    if image_latents is None or text_latents is None:
        raise missing_data("latents", root, "give --image-latents and --text-latents")
    given = [path for path in (image_latents, text_latents, groups) if path is not None]
    paths = [os.path.join(root or "", os.path.expanduser(path)) for path in given]
    kinds = [(2, "f"), (2, "f"), (1, "iu")]  # axes and dtypes of each
    opened = [open_vectors(path, *kind) for path, kind in zip(paths, kinds, strict=False)]
    arrays, files = zip(*opened, strict=True)
    check_partners(arrays, files, paths)
    a, b, ids = arrays if groups else (*arrays, None)

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
    shapes = f"{shape_of(a)} and {shape_of(b)}"
    report("latents", paths[0], shapes, f"{len(index):,} rows for {split}", skipped)
    key = digest("latents", split, file_stamps(sum(files, [])))
    return split_of(a, b, index, mates(ids[index], paths[-1]), key)


def split_of(a, b, index, pairs, key):
    """The Split of rows `index` of a and b, with the given pairs of them."""

    def read_a(i):
        return np.array(a[index[i]], np.float32)  # a copy: the file cannot be written through it

    def read_b(j):
        return np.array(b[index[j]], np.float32)

    def name(i):
        return f"row {index[i]}"

    images = Lazy(len(index), read_a, name)
    captions = Lazy(len(index), read_b, name)
    return Split(images, captions, pairs, np.zeros(len(pairs), bool), key)


def shape_of(x):
    """ "float16 (3000, 512)", and of parts how many they are, to be printed."""
    parts = f" in {len(x.arrays)} parts" if isinstance(x, Parts) else ""
    return f"{x.dtype} {x.shape}{parts}"


# --------------------------------------------------------------------------------------------------
# Files


def open_vectors(path, ndim, kinds):
    """(array, [its files]) with `ndim` axes and a dtype of one of the kinds ("f", "iu").

    path: a file, a folder of parts, or a pattern. Rows stay on disk. DataError: anything else."""
    files = part_files(path)
    arrays = [open_array(file, ndim, kinds) for file in files]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[1:] != arrays[0].shape[1:]:
            told = f"rows of {array.shape[1]} numbers, in {files[0]} they have {arrays[0].shape[1]}"
            raise DataError(f"{file}: {told}: not of one array")
    return (Parts(arrays) if len(files) > 1 else arrays[0]), files


def part_files(path):
    """[file, ...] that a path stands for: itself; of a folder or a pattern, its parts in order."""
    if os.path.isdir(path):
        names = [name for name in os.listdir(path) if not name.startswith(".")]
        files = [os.path.join(path, name) for name in names if name.lower().endswith(ARRAYS)]
    elif has_magic(path) and not os.path.exists(path):
        files = glob(os.path.expanduser(path))
    else:
        return [path]
    if not files:
        raise DataError(f"{path}: no parts there; expected x_0.npy, x_1.npy, ... (or .npz, .pt)")
    # A folder with one file, whatever it is called.
    if len(files) == 1 and number_of(files[0])[1] is None:
        return files
    return in_order(files, path)


def number_of(file):
    """("img_emb_", 10) of DIR/img_emb_10.npy; None in place of 10 where a name has no number."""
    name = os.path.splitext(os.path.basename(file))[0]
    stem, digits = re.fullmatch(r"(.*?)([0-9]*)", name, re.DOTALL).groups()
    return stem, int(digits) if digits else None


def in_order(files, path):
    """The files by their numbers. DataError: one is missing, there twice, or of another array."""
    files = sorted(files)  # the disk has them in any order: a message should not depend on it
    by_number, first = {}, files[0]
    for file in files:
        stem, number = number_of(file)
        if number is None or stem != number_of(first)[0]:
            told = f"{os.path.basename(first)} and {os.path.basename(file)} are no parts of one"
            raise DataError(f"{path}: {told} array; give a pattern, as 'img_emb_*.npy', in quotes")
        if number in by_number:
            raise DataError(f"{path}: part {number} is there twice: {by_number[number]} and {file}")
        by_number[number] = file
    # Some programs count from 1. Then there is no part 0, and none is missed.
    numbers = range(0 if 0 in by_number else 1, max(by_number) + 1)
    missing = [number for number in numbers if number not in by_number]
    if missing:
        told = f"part {missing[0]} is missing: of {len(numbers)} parts there are {len(files)}"
        raise DataError(f"{path}: {told}; fetch or encode it again")
    return [by_number[number] for number in numbers]


def check_partners(arrays, files, paths):
    """DataError unless the arrays have equal numbers of rows, and their parts have, too."""
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise DataError(f"unequal numbers of rows: {lengths} in {paths}")
    a, b = arrays[:2]
    if not (isinstance(a, Parts) and isinstance(b, Parts)):
        return
    # Equal sums are not enough: 3 + 2 rows and 2 + 3 rows would pair row 2 with a stranger.
    for one, other, x, y in zip(files[0], files[1], a.arrays, b.arrays, strict=False):
        same_number = number_of(one)[1] == number_of(other)[1]
        if not same_number or len(x) != len(y):
            told = f"{one} has {len(x)} rows, its partner {other} has {len(y)}"
            raise DataError(f"{told}: parts of one number have to be of the same rows")


class Parts:
    """Arrays (n_k, ...), one after the other, read as one (N, ...); they stay where they lie.

    Of 3 and 2 rows: starts = [0, 3, 5], so row 3 is row 0 of the second one."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.starts = np.cumsum([0] + [len(array) for array in arrays])
        self.dtype = np.result_type(*arrays)
        self.shape = (int(self.starts[-1]), *arrays[0].shape[1:])

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, i):
        """Row i of all, or the rows of a slice or of an array of numbers."""
        if isinstance(i, slice):
            i = np.arange(*i.indices(len(self)))
        rows = np.atleast_1d(i)
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        # The part that begins last before the row, or at it.
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        for part in np.unique(part_of):
            mine = part_of == part
            found[mine] = self.arrays[part][rows[mine] - self.starts[part]]
        return found if np.ndim(i) else found[0]


def open_array(path, ndim, kinds):
    """An array that stays on disk, with `ndim` axes and a dtype of one of the kinds ("f", "iu")."""
    tensor = path.lower().endswith(TENSORS)
    found = load_tensor(path) if tensor else load_array(path, mmap_mode="r")
    # Some programs keep an axis of length 1 from their batches of one: (N, 1, h).
    if ndim == 2 and found.ndim == 3 and found.shape[1] == 1:
        told = f"{path}: {found.shape} is read as {found[:, 0].shape}, without its axis of 1"
        say_once((os.path.dirname(path), "an axis of 1"), told)
        found = found[:, 0]
    if found.ndim != ndim or found.dtype.kind not in kinds or not found.size:
        expected = "(rows, width) of floats" if ndim == 2 else "(rows,) of integers"
        told = f"expected {expected}, found {found.shape} of {found.dtype}"
        # Indexes of neighbours keep vectors in 8 bits, each times a scale that is not in the file.
        if ndim == 2 and found.dtype.kind in "iu":
            told += "; if these are rounded floats, multiply by their scale and save as float32"
        raise DataError(f"{path}: {told}")
    return found


def load_tensor(path):
    """The one tensor of a file of torch.save, as an array. DataError for anything else in it."""
    # weights_only: a pickled object may run any program when it is opened. mmap: rows are read from
    # the disk when they are used; files of PyTorch before 1.6 are no zip files, and are read whole.
    try:
        mmap = zipfile.is_zipfile(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a stranger's file may hold anything
        told = "damaged, or pickled objects, which may run any program and are not opened"
        raise DataError(f"{path}: {told}; save one tensor x by torch.save(x, path)") from error
    if not torch.is_tensor(found) or found.layout != torch.strided:
        told = f"{type(found).__name__}" if not torch.is_tensor(found) else "sparse tensor"
        raise DataError(f"{path}: holds a {told}; save one tensor x by torch.save(x, path)")
    # NumPy has no bfloat16; every such number is a float32, too.
    if found.dtype == torch.bfloat16:
        found = found.float()
    return found.detach().numpy()


# --------------------------------------------------------------------------------------------------
# Rows


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
