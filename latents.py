"""
latents.py
"""

import json
import os
import re
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from encoders import EncoderError, read_or_error, reason, say
from glyphs import digest

DIRECTIONS = ("text->image", "image->text")


FLUSH = 5.0  # seconds of encoding that a killed run may lose


def encode(encoder, items, key, cache_dir, batch=256, workers=0):
    """(latents, broken): a read-only memory map (N, d) float32, and the indices of broken items.

    Items that raise OSError get zeros. `key` changes with the items (`Split.key`). `workers`
    threads prepare items meanwhile. Raises EncoderError for NaN, over 1 % broken items, no disk.
    One process at a time may encode a thing: under torchrun rank 0 does, the others wait."""
    if not len(items):
        raise EncoderError(f"{encoder.spec}: there are no {encoder.modality}s to encode")
    shape = [len(items), encoder.dim or len(items[0])]
    meta = {"key": [str(key), encoder.fingerprint, encoder.modality], "shape": shape}
    slug = re.sub("[^A-Za-z0-9.]+", "-", encoder.spec).strip("-.")[-60:]
    stem = os.path.join(cache_dir, f"{slug}-{encoder.modality}-{digest(json.dumps(meta))}")
    done = open_cache(stem, meta)
    if done:
        return done
    try:
        build_cache(encoder, items, stem, meta, batch, workers)
    except OSError as error:
        raise EncoderError(f"cannot write the cache {stem}.npy: {reason(error)}") from error
    return open_cache(stem, meta)


def open_cache(stem, meta):
    """(latents, broken) of a complete, unaltered cache; else None, and says that it is not."""
    if not os.path.exists(stem + ".json"):
        return None
    try:
        z = np.load(stem + ".npy", mmap_mode="r")
        done = json.loads(Path(stem + ".json").read_text())
        intact = done["checksum"] == checksum(stem + ".npy", done["broken"])
        if intact and done["meta"] == meta and list(z.shape) == meta["shape"]:
            return z, np.array(done["broken"], np.int64)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    say(f"{stem}.npy is stale or damaged: encoding again")


def checksum(path, broken):
    """CRC-32 of the size, of `broken`, and of the first and the last 4 MB: quick for any size."""
    crc, ends = zlib.crc32(f"{os.path.getsize(path)} {broken}".encode()), 2**22
    with open(path, "rb") as f:
        for position in (0, max(0, os.path.getsize(path) - ends)):
            f.seek(position)
            crc = zlib.crc32(f.read(ends), crc)
    return crc


def write_json(path, value):
    Path(path + ".tmp").write_text(json.dumps(value))
    os.replace(path + ".tmp", path)


def open_part(stem, meta):
    """(writable memory map (N, d), rows done, broken): those of a killed run, or new ones."""
    part = stem + ".part"
    try:
        old = json.loads(Path(part + ".json").read_text())
        if old["meta"] == meta and list(np.load(part, mmap_mode="r").shape) == meta["shape"]:
            return np.load(part, mmap_mode="r+"), old["rows"], old["broken"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
    out = np.lib.format.open_memmap(part, "w+", np.float32, tuple(meta["shape"]))
    if hasattr(os, "posix_fallocate"):  # a full disk is an error now, later it would be a SIGBUS
        with open(part, "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, os.path.getsize(part))
    return out, 0, []


def batches(items, prepare, todo, size, workers):
    """Yields (rows, their prepared items or OSErrors); the threads are one batch ahead."""
    blocks = [todo[k : k + size] for k in range(0, len(todo), size)] + [[]]
    with ThreadPoolExecutor(max(1, workers)) as threads:
        fetch = lambda rows: threads.map(lambda i: read_or_error(items, i, prepare), rows)
        ahead = fetch(blocks[0])
        for rows, following in zip(blocks, blocks[1:], strict=False):
            got, ahead = list(ahead), fetch(following)
            yield rows, got


def build_cache(encoder, items, stem, meta, batch, workers):
    """Writes stem.npy, then stem.json, whose presence means that both are complete."""
    out, done, broken = open_part(stem, meta)
    todo = broken + list(range(done, len(items)))  # a broken file may have been repaired
    name = getattr(items, "name", "item {}".format)
    failed, saved, what = [], time.monotonic(), encoder.modality + "s"

    def record():
        out.flush()
        write_json(stem + ".part.json", {"meta": meta, "rows": done, "broken": broken})

    with tqdm(total=len(todo), desc=encoder.spec, disable=None) as bar:
        for rows, got in batches(items, encoder.prepare, todo, batch, workers):
            bad = {i: x for i, x in zip(rows, got, strict=True) if isinstance(x, OSError)}
            good = [i for i in rows if i not in bad]
            z = encoder.embed([x for x in got if not isinstance(x, OSError)])
            fine = np.isfinite(z).all(1)
            if not fine.all():
                raise EncoderError(f"{encoder.spec}: NaN or Inf for {name(good[fine.argmin()])}")
            out[good] = z
            for i in list(bad)[: max(0, 5 - len(failed))]:
                say(f"cannot read {name(i)}: {reason(bad[i])}")
            failed += bad
            broken = sorted(set(broken) - set(good) | set(bad))
            done = max(done, rows[-1] + 1)
            bar.update(len(rows))
            if len(failed) > 0.01 * len(items):
                record()
                first = ", ".join(map(name, failed[:3]))
                raise EncoderError(f"more than 1 % of {what} cannot be read, the first: {first}")
            if time.monotonic() > saved + FLUSH:
                record()
                saved = time.monotonic()
    if failed:
        say(f"{len(failed)} of {len(items)} {what} cannot be read: their latents are zeros")
    record()  # an msync: the rows are on the disk before a finished name says so
    sums = checksum(stem + ".part", broken)
    os.replace(stem + ".part", stem + ".npy")
    write_json(stem + ".json", {"meta": meta, "broken": broken, "checksum": sums})
    os.remove(stem + ".part.json")


class Latents(NamedTuple):
    """A `Split` in latent space: nothing here remembers pictures or words."""

    image: Sequence  # (N, h) float32, in memory maps
    text: Sequence  # (L, h)
    pairs: np.ndarray  # (P, 2) rows (i, j) of `image` and `text` that belong together
    full: np.ndarray  # row numbers of `pairs`: captions of their own image
    bare: np.ndarray  # row numbers of `pairs`: captions of several images alike

    def of(self, direction, rows):
        """Raw (c, z), tensors (n, h1) and (n, h2), for n row numbers of `pairs`."""
        i, j = self.pairs[rows].T
        image, text = torch.from_numpy(self.image[i]), torch.from_numpy(self.text[j])
        return (text, image) if direction == "text->image" else (image, text)

    def dims(self, direction):
        """(h1, h2)"""
        h = len(self.image[0]), len(self.text[0])
        return h[::-1] if direction == "text->image" else h

    def chunks(self, direction, size=8192):
        """All full pairs, `size` at a time: memory does not grow with the data."""
        for start in range(0, len(self.full), size):
            yield self.of(direction, self.full[start : start + size])


def encode_split(split, E_image, E_text, cache_dir):
    """Each image once, each caption once -> Latents, without the pairs of broken images."""
    image, text, lost = split.images, split.captions, []
    if E_image.spec != "none":  # else they are vectors already, memory-mapped where they lie
        image, lost = encode(E_image, image, split.key, cache_dir)
    if E_text.spec != "none":
        text, _ = encode(E_text, text, split.key, cache_dir)
    kept = ~np.isin(split.pairs[:, 0], lost)
    full, bare = np.flatnonzero(kept & ~split.bare), np.flatnonzero(kept & split.bare)
    return Latents(image, text, split.pairs, full, bare)
