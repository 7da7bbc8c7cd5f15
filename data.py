"""
data.py: paired images and captions, read lazily, from eight sources.

Every loader returns one `Split`: images, captions, and the rows (i, j) that say "caption j describes image i".
So an image may have several captions (COCO), a caption several images (CIFAR-10's class prompts; a character's
name in twelve typefaces), and nothing downstream knows which data set it is looking at.

Map      load            the one entry point: load("coco", root, "train") -> Split
         glyphs          every character of the fonts inside matplotlib, and its Unicode name (default, no download)
         coco, cc3m, celeba, cifar10, captions                official layouts on disk
         latents         paired vectors computed elsewhere
         Strings         millions of strings as one byte buffer
Rules    nothing is downloaded; nothing is unpickled; a missing data set stops with the tree it expects
Try      python data.py                  counts of the embedded set, and a picture of it
         python data.py coco ~/coco      the same for a data set on your disk
"""

import hashlib
import os
import unicodedata
from typing import NamedTuple, Sequence

import numpy as np


class DataError(Exception):
    """Bad input: one line that says what was wrong, where, and what to do."""


class Split(NamedTuple):
    """One split of a paired data set.

    images    images[i] -> PIL image (RGB or L), read when asked for; images.name(i) -> str names it in messages.
              Raises OSError if the file is broken.
    captions  captions[j] -> str
    pairs     (P, 2) int64: row (i, j) means "caption j describes image i"
    bare      (P,) bool: True where the caption names several images alike (glyphs: the name without its typeface).
              Such a caption is a fair question and a poor answer: it is never the target of image->text.
    key       str: changes whenever the files, the split or the options change (the latent cache's key)
    """

    images: Sequence
    captions: Sequence
    pairs: np.ndarray
    bare: np.ndarray
    key: str


class Strings:
    """A list of strings kept as one UTF-8 buffer and N + 1 offsets: 3.3 M captions are two objects, not 3.3 M."""

    def __init__(self, strings):
        data = [s.encode() for s in strings]
        self.offsets = np.cumsum([0] + [len(b) for b in data], dtype=np.int64)
        self.buffer = b"".join(data)

    def __len__(self):
        return len(self.offsets) - 1

    def __getitem__(self, j):
        if not -len(self) <= j < len(self):  # also ends `for s in strings`
            raise IndexError(j)
        j %= len(self)
        return self.buffer[self.offsets[j] : self.offsets[j + 1]].decode()


def digest(*parts):
    """16 hex digits of a SHA-256 over strings and arrays: keys for the latent cache."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
        h.update(b"\0")
    return h.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------------
# glyphs: real pairs on every machine


SIZE = 32  # pixels a side
FACES = {  # file in matplotlib's font folder -> the words that name the face in a caption
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
STIX = {
    "STIXGeneral": "serif",
    "STIXGeneralBol": "serif bold",
    "STIXGeneralItalic": "serif italic",
    "STIXGeneralBolIta": "serif bold italic",
}


class Images:
    """An array (N, H, W) or (N, H, W, 3) of uint8 that answers like a folder of pictures."""

    def __init__(self, pixels, names):
        self.pixels, self.names = pixels, names

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        from PIL import Image

        return Image.fromarray(self.pixels[i])

    def name(self, i):
        return str(self.names[i])


def draw_glyph(char, font):
    """(32, 32) uint8: the character in white on black, centred by its ascender and advance, so size and place stay."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE // 2, SIZE // 2), char, fill=255, font=font, anchor="mm")
    return np.asarray(image)


def split_of(codes, seed=0):
    """0 train, 1 val, 2 test for each character: 90 / 5 / 5 %, the same character always on the same side.

    One hash per character, not a shuffle: adding a font or a character moves no other one."""
    u = [int(digest("glyphs", seed, int(c))[:8], 16) / 2**32 for c in codes]
    return np.digitize(u, [0.90, 0.95])


def glyphs(split="train", faces=FACES):
    """Every named character of `faces` drawn at 32 x 32. About 47,000 pairs of 6,700 characters in 2 seconds.

    Caption j < N is full ("serif bold greek small letter alpha") and describes image j alone; the captions after
    those are bare names ("greek small letter alpha"), one per character, each describing all its faces."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    pixels, codes, captions = [], [], []
    for file, words in faces.items():
        path = os.path.join(get_data_path(), "fonts", "ttf", file + ".ttf")
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC)
        charmap = np.array(sorted(FT2Font(path).get_charmap()))
        side = {"train": 0, "val": 1, "test": 2}[split]
        for code in charmap[split_of(charmap) == side]:
            name = unicodedata.name(chr(code), "").lower()
            image = draw_glyph(chr(code), font)
            if name and image.any():  # unnamed control characters and blank spaces are no pairs
                pixels.append(image), codes.append(code), captions.append(f"{words} {name}")
    n = len(codes)
    characters, character_of = np.unique(codes, return_inverse=True)
    names = [unicodedata.name(chr(c)).lower() for c in characters]
    full = np.stack([np.arange(n), np.arange(n)], 1)
    bare = np.stack([np.arange(n), n + character_of], 1)
    pixels = np.stack(pixels)
    return Split(
        images=Images(pixels, captions),
        captions=Strings(captions + names),
        pairs=np.concatenate([full, bare]),
        bare=np.repeat([False, True], n),
        key=digest("glyphs", split, pixels, *captions),
    )
