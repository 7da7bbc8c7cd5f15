"""
glyphs.py: what a data set is, shown by the one that every machine has.

Both papers learn from pairs: MT from images and their captions, LD from any two arrays that belong
together. Two types carry them, and nothing after them knows where the data came from:

    Split    images, captions, and rows (i, j): "caption j describes image i"         for MT
    Pairs    a source y and a target x, arrays                                        for LD

Why rows (i, j) and not simply one caption an image? Because neither is unique. A photo of COCO has
five captions; all 6,000 trucks of CIFAR-10 share "a picture of a truck". The embedded set has both:

    images     0 the letter alpha in a sans face     1 the same letter in a serif face
    captions   0 "sans greek small letter alpha"     1 "serif greek small letter alpha"
               2 "greek small letter alpha"
    pairs      (0, 0) and (1, 1): full captions, each fits one image
               (0, 2) and (1, 2): a bare one, which leaves the typeface open and fits both

The embedded set is called glyphs, which is the printer's word for drawn characters. matplotlib
brings the twelve DejaVu typefaces along, and Python knows the Unicode name of every character.
So there are 47,000 real pairs of an image and a caption without any download.

Map      Split, Pairs, DataError    what every loader returns or raises
         Strings, Lazy, Images      sequences for millions of captions, for files, for arrays
         digest, uniforms           fingerprints; random numbers that depend on a name alone
         draw_glyphs                MT: every character and its name, as a Split
         glyph_pairs                LD: small -> large, outline -> filled, typeface -> typeface
         glyph_solids               LD: four silhouettes -> voxels; letters cut out of board
         silhouettes, visual_hull   voxels -> what is seen of them, and the classical way back
Letters  N images   L captions   P pairs   B solids   i an image, j a caption
         in solids: k a height, (i, j) a place in the plan, v a view, u a column of its picture
Try      python data.py                 counts, and a picture of the set
         python data.py glyph-solids    the same for solids
"""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from errors import DataError

# The parts of a data set, by the numbers that our hashes (and CelebA's own table) give them.
SPLITS = {"train": 0, "val": 1, "test": 2}


# --------------------------------------------------------------------------------------------------
# What a data set is


class Split(NamedTuple):
    """One split of a set of images and captions.

    images    images[i] -> PIL image (RGB or L), read from its file only now; images.name(i) -> str
              names it in messages. OSError if the file is broken. (latents: a float32 vector)
    captions  captions[j] -> str (latents: a float32 vector)
    pairs     (P, 2) int64: row (i, j) means "caption j describes image i"
    bare      (P,) bool: True where the caption leaves something open, so that it fits several
              images (glyphs: the name without the typeface, with up to twelve right images). It is
              a fair condition for text->image: a sampler has something to choose. As a target of
              image->text it would be a poor one, for the image shows more than it says.
    key       str: another one whenever the files, the split or the options change. Latents are
              kept on disk under this key, and those of old files must not be found for new ones
    """

    images: Sequence
    captions: Sequence
    pairs: np.ndarray
    bare: np.ndarray
    key: str


class Pairs(NamedTuple):
    """One split of paired arrays: item i of the source y belongs to item i of the target x.

    y, x      arrays, or Lazy: len(y) == len(x). All items of one side have one shape and dtype:
              image uint8 (C, H, W), C 1 or 3; views uint8 (V, C, H, W); volume bool (D, H, W);
              vector float (n,)
    key       str: as in Split
    """

    y: Sequence
    x: Sequence
    key: str

    def of(self, rows):
        """Items `rows` (B,) -> y (B, ...), x (B, ...), stacked. DataError names a broken file."""
        return stack(self.y, rows), stack(self.x, rows)


def stack(items, rows):
    if isinstance(items, np.ndarray):
        return items[rows]
    return np.stack([items[i] for i in rows])


class Strings:
    """A list of strings that fills little memory: one UTF-8 buffer, and where each string begins.

    As a Python list, the 3.3 million captions of CC3M are 3.3 million objects of about 50 bytes
    more than their text. Here they are two objects: ["ab", "", "c"] is b"abc" and [0, 2, 2, 3]."""

    def __init__(self, strings):
        encoded = [s.encode() for s in strings]
        self.offsets = np.cumsum([0] + [len(b) for b in encoded], dtype=np.int64)  # (L + 1,)
        self.buffer = b"".join(encoded)

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, j):
        # `for s in strings` counts up from 0 until it meets an IndexError.
        if not 0 <= j < len(self):
            raise IndexError(j)
        return self.buffer[self.offsets[j] : self.offsets[j + 1]].decode()


class Lazy:
    """n items, each made when it is read: make(i) -> item i; name(i) -> str, for messages.

    This is how photos stay on disk: make(i) opens file i."""

    def __init__(self, n, make, name=str):
        self.n, self.make, self.name = n, make, name

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        # i may be an array: latents are read many rows at a time.
        if np.any(np.greater_equal(i, self.n)):
            raise IndexError(i)
        return self.make(i)


class Images:
    """An array (N, H, W) or (N, H, W, 3) of uint8 that is read like a folder of pictures."""

    def __init__(self, pixels, names):
        self.pixels, self.names = pixels, names

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return Image.fromarray(self.pixels[i])

    def name(self, i):
        return str(self.names[i])


def digest(*parts):
    """16 hex digits of a SHA-256 over strings, numbers and arrays: a fingerprint of all of them."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
        h.update(b"\0")  # else ("ab", "c") and ("a", "bc") would be the same
    return h.hexdigest()[:16]


def uniforms(*parts):
    """Two numbers in [0, 1), as good as random, that depend on nothing but `parts`.

    A random generator would deal its numbers out in turn: with one more typeface installed, every
    later character would get another one. These stay with their character for ever."""
    h = digest(*parts)
    return int(h[:8], 16) / 2**32, int(h[8:], 16) / 2**32


# --------------------------------------------------------------------------------------------------
# glyphs: characters and their names


# File in matplotlib's font folder -> the words that name the typeface in a caption.
FACES = {
    "DejaVuSans": "sans",
    "DejaVuSans-Bold": "sans bold",
    "DejaVuSans-Oblique": "sans italic",
    "DejaVuSans-BoldOblique": "sans bold italic",
    "DejaVuSansMono": "mono",
    "DejaVuSansMono-Bold": "mono bold",
    "DejaVuSansMono-Oblique": "mono italic",
    "DejaVuSansMono-BoldOblique": "mono bold italic",
    "DejaVuSerif": "serif",
    "DejaVuSerif-Bold": "serif bold",
    "DejaVuSerif-Italic": "serif italic",
    "DejaVuSerif-BoldItalic": "serif bold italic",
}
# Four faces of another family, never trained on: what CelebA is to MT's model of COCO.
STIX = {
    "STIXGeneral": "serif",
    "STIXGeneralBol": "serif bold",
    "STIXGeneralItalic": "serif italic",
    "STIXGeneralBolIta": "serif bold italic",
}


def open_face(file, size):
    """(a font of `size` pixels to draw with, the sorted code points of its characters)."""
    from matplotlib import get_data_path  # here: only these sets need it
    from matplotlib.ft2font import FT2Font

    path = os.path.join(get_data_path(), "fonts", "ttf", file + ".ttf")
    # Pillow's other layout engine is not installed everywhere, and may place glyphs differently.
    font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    return font, sorted(FT2Font(path).get_charmap())


def split_of_character(codes):
    """(N,) 0 train (90 %), 1 val (5 %), 2 test (5 %) of N code points.

    The split is by character, never by image. Else the test set would ask for a letter in serif
    after training on the same letter in sans, a nearly equal image: that measures memory. Now a
    test caption ("greek small letter eta with varia") is a new combination of words, 97 % of which
    are known from other characters ("greek capital letter eta", "... alpha with varia")."""
    u = [uniforms("glyphs", 0, int(code))[0] for code in codes]  # 0: the seed of the split
    return np.digitize(u, [0.90, 0.95])


def draw_character(font, code):
    """A character in white on black, 32 x 32, at the place where it stands in a line of text.

    "mm" puts the middle between the font's ascender and descender, and the middle of the
    character's advance (the room it takes in a line), at the centre. Both belong to the font and
    not to the ink: so "." stays small and low, and an apostrophe high. Centred by its ink and blown
    up, a full stop, a middle dot and a bullet would be the same picture."""
    image = Image.new("L", (32, 32))
    ImageDraw.Draw(image).text((16, 16), chr(code), fill=255, font=font, anchor="mm")
    return image


def draw_glyphs(split="train", faces=FACES):
    """Every named character of `faces` at 32 x 32, as a Split: 47,000 images of 6,700 characters.

    Caption i < N is full ("serif bold greek small letter alpha") and describes image i alone. The
    captions after those are bare names ("greek small letter alpha"), one a character, each of
    which describes the images of all its faces."""
    pixels, codes, captions = [], [], []
    for file, words in faces.items():
        font, characters = open_face(file, 24)  # ascender to descender: 29 of the 32 pixels
        characters = np.array(characters)
        for code in characters[split_of_character(characters) == SPLITS[split]]:
            name = unicodedata.name(chr(code), "").lower()
            image = draw_character(font, code)
            # Control characters have no name, and spaces no ink: they make no pair.
            if name and image.getbbox():
                pixels.append(np.asarray(image))
                codes.append(code)
                captions.append(f"{words} {name}")
    pixels = np.stack(pixels)  # (N, 32, 32)
    N = len(pixels)

    # The bare captions stand behind the N full ones, one for each different character.
    characters, character_of = np.unique(codes, return_inverse=True)
    names = [unicodedata.name(chr(code)).lower() for code in characters]
    full = np.stack([np.arange(N), np.arange(N)], axis=1)
    bare = np.stack([np.arange(N), N + character_of], axis=1)
    pairs = np.concatenate([full, bare])  # (2 N, 2)
    is_bare = np.arange(2 * N) >= N

    key = digest("glyphs", split, pixels, *captions)
    return Split(Images(pixels, captions), Strings(captions + names), pairs, is_bare, key)


# --------------------------------------------------------------------------------------------------
# Pairs of glyphs, for the latent bridge


def block_means(x):
    """(N, 1, 32, 32) uint8 -> (N, 1, 8, 8) uint8: the rounded mean of each 4 x 4 block."""
    blocks = x.reshape(-1, 1, 8, 4, 8, 4)
    return np.rint(blocks.mean((3, 5))).astype(np.uint8)


def outline(x):
    """(N, 1, H, W) uint8 -> 255 where a pixel is inside (>= 128) and one of its 4 neighbours not.

    Beyond the border is outside. A stroke two pixels thin is all outline."""
    inside = x >= 128
    # A frame of outside pixels, so that those at the border have four neighbours too.
    framed = np.pad(inside, ((0, 0), (0, 0), (1, 1), (1, 1)))
    above, below = framed[..., :-2, 1:-1], framed[..., 2:, 1:-1]
    left, right = framed[..., 1:-1, :-2], framed[..., 1:-1, 2:]
    surrounded = above & below & left & right
    return np.where(inside & ~surrounded, 255, 0).astype(np.uint8)


def two_faces(split):
    """(N, 1, 32, 32) twice: the characters that both faces have, in sans and in serif bold italic.

    Of one face each character has one image. So its bare captions, which stand behind the full
    ones, are in the order of its images, and each image has a name of its own to be found by."""
    sans = draw_glyphs(split, {"DejaVuSans": "sans"})
    serif = draw_glyphs(split, {"DejaVuSerif-BoldItalic": "serif bold italic"})
    sans_names = list(sans.captions)[len(sans.images) :]
    serif_names = list(serif.captions)[len(serif.images) :]
    in_sans = np.isin(serif_names, sans_names)
    in_serif = np.isin(sans_names, serif_names)
    return sans.images.pixels[in_serif, None], serif.images.pixels[in_sans, None]


def glyph_pairs(split, name):
    """glyph-sr (super-resolution): (1, 8, 8) -> (1, 32, 32), a small glyph and its large original.
    glyph-edges: outline -> filled. glyph-faces: sans -> serif bold italic. (1, 32, 32) both.

    No character of val or test is in train, but 8 to 10 % of the test targets are, pixel
    for pixel: Latin A and Greek Alpha look the same."""
    if name == "glyph-faces":
        y, x = two_faces(split)
    else:
        x = draw_glyphs(split).images.pixels[:, None]
        y = block_means(x) if name == "glyph-sr" else outline(x)
    return Pairs(y, x, digest(name, split, y, x))


# --------------------------------------------------------------------------------------------------
# Solids: letters cut out of thick board, turned about their vertical axis, seen from four sides
#
# LD's second task is to find a shape from pictures of it. Ours needs no download: y is four
# silhouettes of a letter, x its 32 x 32 x 32 voxels [k, i, j], k = 0 on top. The plan, from above:
#
#            i ->                     p = i - 15.5 and q = j - 15.5 are measured from the axis.
#      j  + - - - - - +               View v stands at yaw 0, 45, 90 or 135 degrees, and what it
#      |  |           |               sees of voxel (k, i, j) is pixel (row k, column u),
#      v  |  #######  |  a letter       u = p cos(yaw_v) + q sin(yaw_v) + 15.5
#         |           |  of yaw 0     So view 0 (u = i) sees this letter broad, view 2 (u = j) sees
#         + - - - - - +               it edge on, as a bar, and views 1 and 3 see it squeezed.

LETTERS = ["Lu", "Ll", "Lt", "Lm", "Lo", "Nd"]  # Unicode's categories of letters, and of digits
YAWS = np.radians([0, 45, 90, 135])  # of the views; from behind (180 ... 315) nothing is new


def letter(font, code, size=28):
    """(h, w) bool: a character that fills its box, max(h, w) = size. None if it is blank."""
    # Drawn large and then made small: each voxel is on if at least half of it is.
    width, height = 8 * font.size, 4 * font.size
    image = Image.new("1", (width, height))
    at = width / 2, height / 2
    ImageDraw.Draw(image).text(at, chr(code), fill=1, font=font, anchor="mm")
    if not image.getbbox():
        return None
    image = image.crop(image.getbbox()).convert("L")
    sides = [max(1, round(s * size / max(image.size))) for s in image.size]
    return np.asarray(image.resize(sides, Image.Resampling.BOX)) >= 128


def solid(mask, thickness, yaw):
    """(32, 32, 32) bool [k, i, j]: a letter's mask (h, w) made `thickness` voxels thick and turned.

    Half a width of 14 and half a thickness of 5 reach sqrt(14^2 + 5^2) = 14.9 from the axis: the
    solid stays inside the circle of radius 15.5, whatever the yaw, and no view cuts it."""
    h, w = mask.shape
    p, q = np.mgrid[:32, :32] - 15.5  # centres of the cells of the plan, (32, 32) each
    # Turned back by yaw, the letter stands straight: each cell asks where in it it lies.
    along = p * np.cos(yaw) + q * np.sin(yaw)
    across = q * np.cos(yaw) - p * np.sin(yaw)
    column = np.floor(along + w / 2).astype(int)
    inside = (column >= 0) & (column < w) & (np.abs(across) < thickness / 2)
    volume = np.zeros((32, 32, 32), bool)
    top = (32 - h) // 2
    volume[top : top + h] = mask[:, column.clip(0, w - 1)] & inside  # (h, 32, 32)
    return volume


def view_columns():
    """(4, 32, 32) int: the column u of view v in which cell (i, j) of the plan is seen."""
    p, q = np.mgrid[:32, :32] - 15.5
    u = np.cos(YAWS)[:, None, None] * p + np.sin(YAWS)[:, None, None] * q + 15.5
    # Cells on the axis of a view have u = 15.5 sharp; the last digits of cos and sin would send
    # them to column 15 or 16 by chance. With 1e-9 more they all go to 16.
    columns = np.floor(u + 0.5 + 1e-9).astype(int)
    return columns.clip(0, 31)  # corners of the plan, which no solid reaches


def silhouettes(volumes):
    """(B, 32, 32, 32) bool -> (B, 4, 1, 32, 32) uint8: 255 where any voxel falls on a pixel."""
    B = len(volumes)
    # For all 4 views and 32 columns: which of the 1024 cells of the plan fall there?
    falls = view_columns().reshape(4, 1, 1024) == np.arange(32)[:, None]  # (4, 32, 1024)
    falls = falls.reshape(128, 1024).T.astype(np.float32)
    # One matrix product counts the voxels on every pixel of all views at once.
    layers = volumes.reshape(B * 32, 1024).astype(np.float32)
    count = (layers @ falls).reshape(B, 32, 4, 1, 32)  # (B, k, v, 1, u)
    seen = count.transpose(0, 2, 3, 1, 4) > 0  # (B, v, 1, k, u)
    return np.where(seen, 255, 0).astype(np.uint8)


def visual_hull(views):
    """(B, 4, 1, 32, 32) uint8 -> (B, 32, 32, 32) bool: the voxels that all four views show.

    The classical answer to glyph-solids, without learning: start from a full block, and cut away
    whatever some view shows to be empty. What remains is the largest shape that has these
    silhouettes. It contains the true one, and fills what no silhouette can show, as a dent does."""
    hull = True
    for v, columns in enumerate(view_columns()):
        shown = views[:, v, 0][:, :, columns] >= 128  # (B, k, u) -> (B, k, i, j)
        hull = hull & shown
    return hull


def glyph_solids(split, poses=1):
    """Four silhouettes (4, 1, 32, 32) -> a letter or digit of a bold face as voxels (32, 32, 32).

    Thickness U(4, 10) voxels and yaw U(0, 180) degrees; train has `poses` draws of each letter, val
    and test have one. They come from a hash of face, character and pose: no solid depends on
    another. 17 % of the letters of test look like one of train (Latin A, Greek Alpha), but are
    turned otherwise."""
    if split != "train":
        poses = 1
    packed = []
    bold = [file for file, words in FACES.items() if "bold" in words]
    for file in bold:
        font, characters = open_face(file, 96)
        letters = [c for c in characters if unicodedata.category(chr(c)) in LETTERS]
        letters = np.array(letters)
        for code in letters[split_of_character(letters) == SPLITS[split]]:
            mask = letter(font, code)
            if mask is None:
                continue
            for pose in range(poses):
                u, v = uniforms("solid", FACES[file], int(code), pose)
                volume = solid(mask, 4 + 6 * u, np.pi * v)
                packed.append(np.packbits(volume))  # 4 KB instead of 32
    if not packed:
        raise DataError(f"glyph-solids: poses={poses} leaves none")
    packed = np.stack(packed)  # (N, 4096) uint8

    # The silhouettes are computed once, 128 solids at a time to save memory.
    some = np.split(packed, range(128, len(packed), 128))
    y = np.concatenate([silhouettes(unpack(part)) for part in some])  # (N, 4, 1, 32, 32)

    def one_volume(i):
        return unpack(packed[i])[0]

    x = Lazy(len(packed), one_volume)
    return Pairs(y, x, digest("glyph-solids", split, packed))


def unpack(packed):
    """(..., 4096) uint8 -> (n, 32, 32, 32) bool, the inverse of np.packbits."""
    return np.unpackbits(packed, axis=-1).view(bool).reshape(-1, 32, 32, 32)
