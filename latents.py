"""
latents.py: a data set in latent space, every image and caption encoded once and kept on disk.

The encoders are frozen, so an image has the same latent in every epoch. To read it, decode it and
encode it again each time would be nearly all the work of training. So a data set is encoded once,
before the first step, into files that all later runs share:

    CACHE/pca-128-image-15c9bc370b3c6750.npy    (N, d) float32, opened as a memory map
    CACHE/pca-128-image-15c9bc370b3c6750.json   what it is of, which items are broken, the checksum

A memory map looks like an array, but its rows stay on disk until they are read: CC3M's 3.3 million
latents of 512 numbers are 6.8 GB, and a step of training needs 256 of them. The 16 digits in the
name are a hash of the data set's key, the encoder's fingerprint and the shape. Other data or
another encoder get another file, so an old file is never taken for a new one.

Four things go wrong in practice, and the code is about them:
  An encoding is killed       CC3M takes hours. What is done so far is in a .part file, and
                              the same command goes on from there
  A file is damaged           a full disk, a broken copy. It would be trained on without a word, so
                              the checksum is computed again whenever the file is opened
  An image cannot be read     among millions some always are cut off. Such an image has a latent of
                              zeros, and its pairs are left out; over 1 % of them is an error
  Two runs start at once      the second waits for the first one's cache, and then reads it

Map      encode          items -> (N, d) on disk: open_cache if it is there, else build_cache
         batches         reads items in threads, while the device computes on those before
         Latents         what training and evaluation see: latents, and which belong together
         encode_split    a data set -> Latents
         new_items       vectors from Python, checked
Letters  N items   L captions   P pairs   n rows of a batch   d, h width of a latent
         h1, h2 width of the condition c and of the target z
"""

import contextlib
import itertools
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from encoders import check_items, reason
from errors import DataError, EncoderError
from glyphs import digest
from safe_files import Lock, whole, write_json

# MT trains one translator each way: from the condition c on the left to the target z on the right.
DIRECTIONS = ("text->image", "image->text")
FLUSH = 5.0  # seconds of encoding that a killed run may lose
# Of the items that may be broken. A few always are; more means a wrong folder or a bad download.
MAY_BE_BROKEN = 0.01


def say(line):
    """A line to the terminal that does not cut through a progress bar."""
    tqdm.write(line, file=sys.stderr)


# --------------------------------------------------------------------------------------------------
# The cache


def encode(encoder, items, key, cache_dir, batch=256, workers=0):
    """(latents, broken): a read-only memory map (N, d) float32, and the indices of broken items.

    Items that raise OSError get zeros. `key` changes with the items (`Split.key`). `workers`
    threads prepare items meanwhile. Raises EncoderError for NaN, over 1 % broken items, no disk.
    One process at a time encodes a thing; who else wants it waits, with a line, and reads it."""
    if not len(items):
        raise EncoderError(f"{encoder.spec}: there are no {encoder.modality}s to encode")
    # What the file is of: the items by their key, the encoder by its fingerprint. It stands in the
    # record, too, where it is compared: a file that was renamed or copied is recognised.
    shape = [len(items), encoder.dim or len(items[0])]
    meta = {"key": [str(key), encoder.fingerprint, encoder.modality], "shape": shape}
    # "clip:ViT-B-32@openai" -> "clip-ViT-B-32-openai": what a file may be called anywhere.
    slug = re.sub("[^A-Za-z0-9.]+", "-", encoder.spec).strip("-.")[-60:]
    stem = os.path.join(cache_dir, f"{slug}-{encoder.modality}-{digest(json.dumps(meta))}")

    # Without a lock: a complete cache may lie in a folder that is not ours to write to.
    found = open_cache(stem, meta)
    if found:
        return found
    try:
        with Lock(stem + ".lock", f"{stem}.npy is being written by another run", wait=True):
            # Who had to wait finds it filled now.
            found = open_cache(stem, meta)
            if not found:
                if os.path.exists(stem + ".json"):
                    say(f"{stem}.npy is stale or damaged: encoding again")
                build_cache(encoder, items, stem, meta, batch, workers)
                found = open_cache(stem, meta)
    except OSError as error:
        raise EncoderError(f"cannot write the cache {stem}.npy: {reason(error)}") from error
    if not found:
        raise EncoderError(f"{stem}.npy cannot be read back as it was written: a bad disk?")
    return found


def open_cache(stem, meta):
    """(latents, broken) of a complete, unaltered cache; None if there is no such thing."""
    if not os.path.exists(stem + ".json"):
        return None
    try:
        z = np.load(stem + ".npy", mmap_mode="r")
        record = json.loads(Path(stem + ".json").read_text())
        intact = record["crc32"] == checksum(stem + ".npy", record["broken"])
        ours = record["meta"] == meta and list(z.shape) == meta["shape"]
        if ours and intact and all_finite(z):
            return z, np.array(record["broken"], np.int64)
    except Exception:
        # Nothing in it, half a file, no JSON, JSON of something else, another kind of file: NumPy
        # and json have an exception for each, and all are mended in the same way.
        pass
    return None


def all_finite(z):
    """False if there is a NaN or Inf in z (N, d), which may be larger than memory.

    `build_cache` writes none. But a checksum only says that a file is as it was written, and one
    NaN would spread to every weight that is trained on it."""
    blocks = (z[start : start + 8192] for start in range(0, len(z), 8192))
    return all(np.isfinite(block).all() for block in blocks)


def checksum(path, broken):
    """CRC-32 of the list `broken` and of the whole file.

    The file's bytes are read as one long number, and a CRC is the remainder of its division by a
    fixed one: a changed byte always shows, larger damage is missed once in 4 billion times. zlib
    does about 1 GB/s. The glyphs' 24 MB cost nothing, CC3M's 6.8 GB some 7 seconds a run."""
    crc = zlib.crc32(str(broken).encode())
    with open(path, "rb") as f:
        # A megabyte at a time: memory does not grow with the file.
        while block := f.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def build_cache(encoder, items, stem, meta, batch, workers):
    """Writes stem.npy, then stem.json, whose presence means that both are complete.

    On the way there: stem.part, the rows so far, and stem.part.json, how many they are."""
    z, done, broken = open_part(stem, meta)
    todo = broken + list(range(done, len(items)))  # a broken file may have been repaired
    failed, saved = [], time.monotonic()
    with tqdm(total=len(todo), desc=encoder.spec, disable=None) as bar:
        for rows, got in batches(items, encoder.prepare, todo, batch, workers):
            errors = encode_batch(encoder, items, rows, got, z)
            # Five names are enough to see what is wrong.
            for i in list(errors)[: max(0, 5 - len(failed))]:
                say(f"cannot read {name_of(items, i)}: {reason(errors[i])}")
            failed += list(errors)
            # `broken` may hold items of the killed run, some of which can be read by now.
            broken = sorted((set(broken) - set(rows)) | set(errors))
            done = max(done, rows[-1] + 1)
            bar.update(len(rows))

            # Too many: no need to read a wrong folder to its end. What could be encoded is kept.
            too_many = len(failed) > MAY_BE_BROKEN * len(items)
            if too_many or time.monotonic() > saved + FLUSH:
                save_part(stem, meta, z, done, broken)
                saved = time.monotonic()
            if too_many:
                first = ", ".join(name_of(items, i) for i in failed[:3])
                told = f"more than 1 % of {encoder.modality}s cannot be read, the first: {first}"
                raise EncoderError(f"{told}; replace them, or leave them out")
    if failed:
        told = f"{len(failed)} of {len(items)} {encoder.modality}s cannot be read"
        say(f"{told}: their latents are zeros")
    complete(stem, meta, z, done, broken)


def encode_batch(encoder, items, rows, got, z):
    """Puts the latents of the prepared items `got` into z[rows]. -> {row: OSError} of broken ones.

    Broken items keep the zeros of a new file. EncoderError names an item whose latent is NaN."""
    errors = {i: x for i, x in zip(rows, got, strict=True) if isinstance(x, OSError)}
    good = [i for i in rows if i not in errors]
    z_good = encoder.embed([x for x in got if not isinstance(x, OSError)])
    # A NaN would spread to every weight that is trained on it: say which item it is of.
    fine = np.isfinite(z_good).all(1)
    if not fine.all():
        culprit = name_of(items, good[fine.argmin()])
        raise EncoderError(f"{encoder.spec}: NaN or Inf for {culprit}")
    z[good] = z_good
    return errors


def complete(stem, meta, z, done, broken):
    """Makes stem.npy and stem.json of stem.part.

    The order matters: the rows reach the disk, then they get their final name, then the record
    that says that they are complete gets its own. A kill between two of these does no harm. The
    record is written before the rows are renamed: if there is no room even for it, they stay
    what they are, and the same command goes on from there."""
    save_part(stem, meta, z, done, broken)
    crc = checksum(stem + ".part", broken)
    with whole(stem + ".json") as record:
        Path(record).write_text(json.dumps({"meta": meta, "broken": broken, "crc32": crc}))
        os.replace(stem + ".part", stem + ".npy")
    os.remove(stem + ".part.json")


def name_of(items, i):
    """What item i is called in messages: its file, where the data set knows it."""
    return items.name(i) if hasattr(items, "name") else f"item {i}"


def open_part(stem, meta):
    """(writable memory map (N, d), rows done, broken): those of a killed run, or new ones."""
    # The killed run has to be one of the same items by the same encoder.
    part = stem + ".part"
    try:
        old = json.loads(Path(part + ".json").read_text())
        rows, broken = old["rows"], old["broken"]
        # Opened to be read, first: opened to be written, a file that is too short would grow.
        z = np.load(part, mmap_mode="r")
        ours = old["meta"] == meta and list(z.shape) == meta["shape"] and z.dtype == np.float32
        possible = 0 <= rows <= len(z) and all(0 <= i < rows for i in broken)
        if ours and possible and all_finite(z[:rows]):
            return np.load(part, mmap_mode="r+"), rows, broken
    except Exception:
        pass  # there is none, or none of use

    os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
    try:
        z = np.lib.format.open_memmap(part, "w+", np.float32, tuple(meta["shape"]))
        # A new file is a promise: no block of the disk is taken before it is written to, and a
        # memory map that finds the disk full then kills the process (SIGBUS). Taking all blocks now
        # gives an ordinary error instead. Linux has a call for it.
        if hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as f:
                os.posix_fallocate(f.fileno(), 0, os.path.getsize(part))
    except OSError:
        # No room: what there is of it would only fill the disk.
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
    return z, 0, []


def save_part(stem, meta, z, done, broken):
    """Rows on the disk first, then the record that counts them: it never promises too many."""
    z.flush()
    write_json(stem + ".part.json", {"meta": meta, "rows": done, "broken": broken})


def read_or_error(items, i, prepare):
    """prepare(items[i]), or the OSError if its file is broken.

    Both calls may raise it: Pillow opens a file in the first and reads its pixels in the second."""
    try:
        return prepare(items[i])
    except OSError as error:
        return error


def batches(items, prepare, todo, size, workers):
    """Yields (rows, what each of them gave), `size` at a time: prepared items, or OSErrors.

    The threads are one batch ahead: they read the next one while the caller computes on this one.
    Threads are enough, no processes are needed, because Pillow lets others run while it decodes."""

    def fetch(i):
        return read_or_error(items, i, prepare)

    blocks = [todo[k : k + size] for k in range(0, len(todo), size)]
    blocks.append([])  # nothing follows the last one
    with ThreadPoolExecutor(max(1, workers)) as threads:
        # map begins at once, in the background; list waits for the results, which keep their order.
        ahead = threads.map(fetch, blocks[0])
        for rows, following in itertools.pairwise(blocks):
            got = list(ahead)
            ahead = threads.map(fetch, following)
            yield rows, got


# --------------------------------------------------------------------------------------------------
# A data set in latent space


class Latents(NamedTuple):
    """A `Split` in latent space: vectors and their pairs, without pictures and words.

    Row (i, j) of `pairs` says that text j belongs to image i. An image has several captions, so the
    latents are kept once and the pairs point at them. Example: images 0 and 1 with the captions
    0, 1 and 2, 3 have pairs [(0, 0), (0, 1), (1, 2), (1, 3)]; two image latents, not four.
    `full` and `bare` are row numbers of `pairs`. A bare caption names several images alike (a glyph
    without its typeface): a fair condition, but no target, so most code sees `full` only."""

    image: Sequence  # (N, h) float32, in memory maps
    text: Sequence  # (L, h)
    pairs: np.ndarray  # (P, 2)
    full: np.ndarray  # captions of their own image
    bare: np.ndarray  # captions of several images alike

    def of(self, direction, rows):
        """Raw (c, z), tensors (n, h1) and (n, h2), for n row numbers of `pairs`."""
        i, j = self.pairs[rows].T
        image = torch.from_numpy(self.image[i])  # reads these rows from the disk
        text = torch.from_numpy(self.text[j])
        return (text, image) if direction == "text->image" else (image, text)

    def dims(self, direction):
        """(h1, h2)"""
        h_image, h_text = len(self.image[0]), len(self.text[0])
        return (h_text, h_image) if direction == "text->image" else (h_image, h_text)

    def chunks(self, direction, size=8192):
        """All full pairs, `size` at a time: memory does not grow with the data."""
        for start in range(0, len(self.full), size):
            yield self.of(direction, self.full[start : start + size])


def encode_split(split, E_image, E_text, cache_dir):
    """Each image once, each caption once -> Latents, without the pairs of broken images.

    EncoderError for items that an encoder does not take, before anything is encoded."""
    check_items(E_image.spec, "image", split.images)
    check_items(E_text.spec, "text", split.captions)
    # The spec `none` says that the items are latents already: they stay where they lie.
    image, text, broken = split.images, split.captions, []
    if E_image.spec != "none":
        image, broken = encode(E_image, split.images, split.key, cache_dir)
    if E_text.spec != "none":
        text, _ = encode(E_text, split.captions, split.key, cache_dir)
    kept = ~np.isin(split.pairs[:, 0], broken)
    full = np.flatnonzero(kept & ~split.bare)
    bare = np.flatnonzero(kept & split.bare)
    return Latents(image, text, split.pairs, full, bare)


# --------------------------------------------------------------------------------------------------
# Vectors that are handed over in Python


def new_items(items, shape, whose):
    """items (N, *shape), an array, a tensor or lists, as a tensor of float32; N may be 0.

    whose: opens the message of the DataError: no numbers, another shape, NaN or Inf."""
    # By NumPy, which takes lists, memory maps, other byte orders and arrays that run backwards.
    try:
        if not torch.is_tensor(items):
            with np.errstate(over="ignore"):  # beyond float32: the inf is reported below
                items = torch.from_numpy(np.array(items, np.float32))
    except (TypeError, ValueError) as error:
        raise DataError(f"{whose}: these are no arrays of numbers ({reason(error)})") from None
    items = items.detach().float()
    if tuple(items.shape[1:]) != tuple(shape) or items.ndim == 0:
        told = f"{whose} takes (N, {', '.join(map(str, shape))}), this is {tuple(items.shape)}"
        one = "; one item x is x[None]" if tuple(items.shape) == tuple(shape) else ""
        raise DataError(told + one)
    fine = items.isfinite().flatten(1).all(1)
    if not fine.all():
        raise DataError(f"{whose}: row {int(fine.int().argmin())} holds NaN or Inf")
    return items
