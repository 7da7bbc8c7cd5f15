"""
glyphs.py
"""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SPLITS = {"train": 0, "val": 1, "test": 2}


class DataError(Exception):
    """Bad input: one line that says what was wrong, where, and what to do."""


class Split(NamedTuple):
    """One split of a paired data set.

    images    images[i] -> PIL image (RGB or L), read when asked for; images.name(i) -> str names it
              in messages. Raises OSError if the file is broken. (latents: a float32 vector)
    captions  captions[j] -> str (latents: a float32 vector)
    pairs     (P, 2) int64: row (i, j) means "caption j describes image i"
    bare      (P,) bool: True where the caption names several images alike (glyphs: without its
              typeface). A fair question and a poor answer: never the target of image->text.
    key       str: changes whenever the files, the split or the options change (for latent caches)
    """

    images: Sequence
    captions: Sequence
    pairs: np.ndarray
    bare: np.ndarray
    key: str


class Pairs(NamedTuple):
    """One split of paired arrays: item i of the source y and item i of the target x.

    y, x      arrays, or Lazy: len(y) == len(x). All items of one side have one shape and dtype:
              image uint8 (C, H, W), C 1 or 3; views uint8 (V, C, H, W); volume bool (D, H, W);
              vector float (n,)
    key       str: changes whenever the files, the split or the options change
    """

    y: Sequence
    x: Sequence
    key: str

    def of(self, rows):
        """Items `rows` (B,) -> y (B, ...), x (B, ...), stacked. DataError names a broken file."""
        take = lambda a: a[rows] if isinstance(a, np.ndarray) else np.stack([a[i] for i in rows])
        return take(self.y), take(self.x)


class Strings:
    """A list of strings as one UTF-8 buffer and N + 1 offsets: 3.3 M captions are two objects."""

    def __init__(self, strings):
        data = [s.encode() for s in strings]
        self.offsets = np.cumsum([0] + [len(b) for b in data], dtype=np.int64)
        self.buffer = b"".join(data)

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, j):
        if not 0 <= j < len(self):  # ends `for s in strings`
            raise IndexError(j)
        return self.buffer[self.offsets[j] : self.offsets[j + 1]].decode()


class Images:
    """An array (N, H, W) or (N, H, W, 3) of uint8 that answers like a folder of pictures."""

    def __init__(self, pixels, names):
        self.pixels, self.names = pixels, names

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return Image.fromarray(self.pixels[i])

    def name(self, i):
        return str(self.names[i])


class Lazy:
    """n items: make(i) -> item i, when it is asked for; name(i) -> str names it in messages."""

    def __init__(self, n, make, name=str):
        self.n, self.make, self.name = n, make, name

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if np.any(np.greater_equal(i, self.n)):  # ends `for item in items`; latents: i (n,) too
            raise IndexError(i)
        return self.make(i)


def digest(*parts):
    """16 hex digits of a SHA-256 over strings and arrays: keys for the latent cache."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


STYLES = ("", ""), ("-Bold", " bold"), ("-Oblique", " italic"), ("-BoldOblique", " bold italic")


# file in matplotlib's font folder -> the words that name the face in a caption
FACES = {"DejaVuSans" + file: "sans" + words for file, words in STYLES}


FACES |= {"DejaVuSansMono" + file: "mono" + words for file, words in STYLES}


FACES |= {"DejaVuSerif" + f.replace("Oblique", "Italic"): "serif" + words for f, words in STYLES}


STIX = {
    "STIXGeneral": "serif",
    "STIXGeneralBol": "serif bold",
    "STIXGeneralItalic": "serif italic",
    "STIXGeneralBolIta": "serif bold italic",
}


def split_of_character(codes, seed=0):
    """0 train, 1 val, 2 test, by a hash of each character: a new one moves no other."""
    u = [int(digest("glyphs", seed, int(c))[:8], 16) / 2**32 for c in codes]
    return np.digitize(u, [0.90, 0.95])


def draw_glyphs(split="train", faces=FACES):
    """Every named character of `faces` drawn at 32 x 32: about 47,000, of 6,700 characters.

    Caption j < N is full ("serif bold greek small letter alpha") and describes image j alone; the
    captions after those are bare names ("greek small letter alpha"), one per character, each
    describing all its faces."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    pixels, codes, captions = [], [], []
    for file, words in faces.items():
        path = os.path.join(get_data_path(), "fonts", "ttf", file + ".ttf")
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC)
        charmap = np.array(sorted(FT2Font(path).get_charmap()))
        for code in charmap[split_of_character(charmap) == SPLITS[split]]:
            name = unicodedata.name(chr(code), "").lower()
            image = Image.new("L", (32, 32))
            # centred by ascender and advance, so that a glyph's size and place stay
            ImageDraw.Draw(image).text((16, 16), chr(code), fill=255, font=font, anchor="mm")
            if name and image.getbbox():  # unnamed control characters and blank spaces are no pairs
                pixels.append(np.asarray(image))
                codes.append(code)
                captions.append(f"{words} {name}")
    n = len(codes)
    characters, character_of = np.unique(codes, return_inverse=True)
    names = [unicodedata.name(chr(c)).lower() for c in characters]
    full = np.stack([np.arange(n), np.arange(n)], 1)
    bare = np.stack([np.arange(n), n + character_of], 1)
    pairs, is_bare, pixels = np.concatenate([full, bare]), np.arange(2 * n) >= n, np.stack(pixels)
    key = digest("glyphs", split, pixels, *captions)
    return Split(Images(pixels, captions), Strings(captions + names), pairs, is_bare, key)


LETTERS = "Lu Ll Lt Lm Lo Nd".split()  # categories of Unicode: letters and decimal digits


YAWS = np.radians([0, 45, 90, 135])  # of the four views of a solid


def outline(x):
    """(N, 1, H, W) uint8 -> 255 where a pixel is inside (>= 128) and one of its 4 neighbours not.

    Beyond the border is outside. A stroke two pixels thin is all outline."""
    inside = x >= 128
    ring = np.pad(inside, ((0, 0), (0, 0), (1, 1), (1, 1)))
    deep = ring[..., :-2, 1:-1] & ring[..., 2:, 1:-1] & ring[..., 1:-1, :-2] & ring[..., 1:-1, 2:]
    return np.where(inside & ~deep, 255, 0).astype(np.uint8)


def glyph_pairs(split, name):
    """glyph-sr: (1, 8, 8) -> (1, 32, 32). glyph-edges, glyph-faces: (1, 32, 32) both.

    No character of val or test is in train, but 8 to 10 % of the test targets are, pixel
    for pixel: Latin A and Greek Alpha look the same."""
    if name == "glyph-faces":  # the same characters, which both faces have
        faces = [
            draw_glyphs(split, {f: FACES[f]}) for f in ("DejaVuSans", "DejaVuSerif-BoldItalic")
        ]
        # the captions after the full ones are bare names, here in the order of the images
        names = [list(face.captions)[len(face.images) :] for face in faces]
        _, *rows = np.intersect1d(*names, return_indices=True)
        y, x = (f.images.pixels[np.sort(i), None] for f, i in zip(faces, rows, strict=True))
    else:
        x = draw_glyphs(split).images.pixels[:, None]
        means = x.reshape(-1, 1, 8, 4, 8, 4).mean((3, 5))  # of blocks of 4 x 4 pixels
        y = np.rint(means).astype(np.uint8) if name == "glyph-sr" else outline(x)
    return Pairs(y, x, digest(name, split, y, x))


def letter(font, code):
    """(h, w) bool: a character that fills its box, max(h, w) = 28. None if it is blank."""
    image = Image.new("1", (768, 384))
    ImageDraw.Draw(image).text((384, 192), chr(code), fill=1, font=font, anchor="mm")
    if not image.getbbox():
        return None
    image = image.crop(image.getbbox()).convert("L")
    size = [max(1, round(s * 28 / max(image.size))) for s in image.size]
    return np.asarray(image.resize(size, Image.Resampling.BOX)) >= 128  # half of a voxel covered


def solid(mask, thickness, yaw):
    """(32, 32, 32) bool [k, i, j]: mask (h, w) extruded and turned by yaw; k = 0 is the top.

    Half a width of 14 and half a thickness of 5 reach sqrt(14^2 + 5^2) = 14.9 from the axis: the
    solid stays inside the circle of radius 15.5, whatever the yaw, and no view cuts it."""
    h, w = mask.shape
    p, q = np.mgrid[:32, :32] - 15.5  # centres of the voxels of the plan
    along, across = p * np.cos(yaw) + q * np.sin(yaw), q * np.cos(yaw) - p * np.sin(yaw)
    column = np.floor(along + w / 2).astype(int)
    inside = (column >= 0) & (column < w) & (np.abs(across) < thickness / 2)  # (32, 32)
    volume = np.zeros((32, 32, 32), bool)
    volume[(32 - h) // 2 :][:h] = mask[:, column.clip(0, w - 1)] & inside
    return volume


def view_columns():
    """(4, 32, 32) int: the column u of view v in which voxel (i, j) of the plan is seen."""
    p, q = np.mgrid[:32, :32] - 15.5
    u = np.cos(YAWS)[:, None, None] * p + np.sin(YAWS)[:, None, None] * q + 15.5
    return np.floor(u + 0.5 + 1e-9).astype(int).clip(0, 31)  # 1e-9: halves go up, despite cos


def silhouettes(volumes):
    """(B, 32, 32, 32) bool -> (B, 4, 1, 32, 32) uint8: 255 where any voxel falls on a pixel."""
    falls = view_columns().reshape(4, 1, 1024) == np.arange(32)[:, None]  # (4, 32, 1024)
    B, falls = len(volumes), falls.reshape(128, 1024).T.astype(np.float32)
    count = volumes.reshape(B * 32, 1024).astype(np.float32) @ falls  # (B 32, 4 32), k and v, u
    seen = count.reshape(B, 32, 4, 1, 32).transpose(0, 2, 3, 1, 4) > 0
    return np.where(seen, 255, 0).astype(np.uint8)


def visual_hull(views):
    """(B, 4, 1, 32, 32) uint8 -> (B, 32, 32, 32) bool: voxels that all views show. It contains the
    shape, and fills what no silhouette can show: the classical answer to glyph-solids."""
    seen = [views[:, v, 0][:, :, u] >= 128 for v, u in enumerate(view_columns())]
    return np.logical_and.reduce(seen)


def glyph_solids(split, poses=1):
    """Four silhouettes (4, 1, 32, 32) -> a letter or digit of a bold face as voxels (32, 32, 32).

    Thickness U(4, 10) voxels and yaw U(0, 180) degrees, `poses` draws a glyph in train, 1 in val
    and test, come from a hash of face, character and pose: no solid depends on another. 17 % of the
    letters of test look like one of train (Latin A, Greek Alpha), but are turned otherwise."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font

    packed = []
    for file, words in FACES.items():
        if "bold" not in words:
            continue
        path = os.path.join(get_data_path(), "fonts", "ttf", file + ".ttf")
        font = ImageFont.truetype(path, 96, layout_engine=ImageFont.Layout.BASIC)
        charmap = sorted(FT2Font(path).get_charmap())
        charmap = np.array([c for c in charmap if unicodedata.category(chr(c)) in LETTERS])
        for code in charmap[split_of_character(charmap) == SPLITS[split]]:
            mask = letter(font, code)
            for pose in range(0 if mask is None else poses if split == "train" else 1):
                h = digest("solid", words, int(code), pose)
                u, v = int(h[:8], 16) / 2**32, int(h[8:], 16) / 2**32
                packed.append(np.packbits(solid(mask, 4 + 6 * u, np.pi * v)))
    if not packed:
        raise DataError(f"glyph-solids: poses={poses} leaves none")
    packed = np.stack(packed)  # 4 KB a volume
    unpack = lambda i: np.unpackbits(packed[i], axis=-1).view(bool).reshape(-1, 32, 32, 32)
    chunks = np.split(np.arange(len(packed)), range(128, len(packed), 128))
    y = np.concatenate([silhouettes(unpack(i)) for i in chunks])
    x = Lazy(len(packed), lambda i: unpack([i])[0])
    return Pairs(y, x, digest("glyph-solids", split, packed))
