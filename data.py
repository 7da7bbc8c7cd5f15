"""
data.py: paired images and captions, read lazily, from eight sources.

Every loader returns one `Split`: images, captions, and the rows (i, j) that say "caption j
describes image i". So an image may have several captions (COCO), a caption several images
(CIFAR-10's class prompts; a character's name in twelve typefaces), and nothing downstream knows
which data set it is looking at.

Map      load            the one entry point: load("coco", root, "train") -> Split
         glyphs          every character of the fonts inside matplotlib, and its Unicode name
                         (the default, no download); "glyphs-stix": four typefaces kept for testing
         coco, cc3m, celeba, cifar10, captions      official layouts on disk, described in TREES
         latents         paired vectors computed elsewhere
         Strings, Lazy   millions of strings as one buffer; items made when asked for
Letters  N images, L captions, P pairs, i an image, j a caption
Rules    nothing is downloaded; nothing is unpickled; a missing set stops with the tree it expects
Try      python data.py                   counts of the embedded set, and a picture of it
         python data.py coco ~/coco       the same for a data set on your disk
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
import textwrap
import unicodedata
import zlib
from array import array
from collections.abc import Sequence
from glob import glob
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

NAMES = "glyphs glyphs-stix coco cc3m celeba cifar10 captions latents".split()
SIDES = {"train": 0, "val": 1, "test": 2}


class DataError(Exception):
    """Bad input: one line that says what was wrong, where, and what to do."""


class Split(NamedTuple):
    """One split of a paired data set.

    images    images[i] -> PIL image (RGB or L), read when asked for; images.name(i) -> str names it
              in messages. Raises OSError if the file is broken. (latents: a float32 vector)
    captions  captions[j] -> str (latents: a float32 vector)
    pairs     (P, 2) int64: row (i, j) means "caption j describes image i"
    bare      (P,) bool: True where the caption names several images alike (glyphs: the name without
              its typeface). Such a caption is a fair question and a poor answer: it is never the
              target of image->text.
    key       str: changes whenever the files, the split or the options change (for latent caches)
    """

    images: Sequence
    captions: Sequence
    pairs: np.ndarray
    bare: np.ndarray
    key: str


class Strings:
    """A list of strings as one UTF-8 buffer and N + 1 offsets: 3.3 M captions are two objects."""

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


# --------------------------------------------------------------------------------------------------
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
        return Image.fromarray(self.pixels[i])

    def name(self, i):
        return str(self.names[i])


def draw_glyph(char, font):
    """(32, 32) uint8: white on black, centred by ascender and advance, so size and place stay."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text((SIZE // 2, SIZE // 2), char, fill=255, font=font, anchor="mm")
    return np.asarray(image)


def split_of(codes, seed=0):
    """0 train, 1 val, 2 test for each character: 90 / 5 / 5 %, a character always on one side.

    One hash per character, not a shuffle: adding a font or a character moves no other one."""
    u = [int(digest("glyphs", seed, int(c))[:8], 16) / 2**32 for c in codes]
    return np.digitize(u, [0.90, 0.95])


def glyphs(split="train", faces=FACES):
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
        for code in charmap[split_of(charmap) == SIDES[split]]:
            name = unicodedata.name(chr(code), "").lower()
            image = draw_glyph(chr(code), font)
            if name and image.any():  # unnamed control characters and blank spaces are no pairs
                pixels.append(image)
                codes.append(code)
                captions.append(f"{words} {name}")
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


# --------------------------------------------------------------------------------------------------
# what every set on disk needs: pictures and words read late, a hash that splits, a key


def read_image(source, name):
    """A fully decoded RGB or L image from a path or from bytes; OSError names the broken one."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # decoders also raise SyntaxError, struct.error, bomb errors, ...
        raise OSError(f"{name}: cannot read this image ({error})") from error


class Lazy:
    """n items: make(i) -> item i, only when it is asked for; name(i) -> str names it in messages."""

    def __init__(self, n, make, name=str):
        self.n, self.make, self.name = n, make, name

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:  # ends `for item in items`
            raise IndexError(i)
        return self.make(i)


def folder(root, files):
    """Pictures in files below root, from any sequence of relative paths."""
    read = lambda i: read_image(os.path.join(root, files[i]), files[i])
    return Lazy(len(files), read, files.__getitem__)


def side_of(ids, cuts, where):
    """(N,) side 0, 1, ... of N integer ids, cut at `cuts` of a hash (splitmix64) in [0, 1).

    Equal ids stay together and new ids move no old one, except in a set so tiny that a side would
    stay empty. DataError if there are fewer ids than sides."""
    ids, row = np.unique(np.asarray(ids).astype(np.uint64), return_inverse=True)
    if len(ids) <= len(cuts):
        raise DataError(f"{where}: {len(ids)} separate items, a split needs {len(cuts) + 1}")
    z = ids + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = (z ^ (z >> np.uint64(31))) / 2.0**64
    side = np.digitize(u, cuts)
    if len(np.unique(side)) <= len(cuts):  # tiny: one id for each side but the first
        side[:] = 0
        side[np.argsort(u)[-len(cuts) :]] = np.arange(len(cuts)) + 1
    return side[row]


def stamp(paths):
    """Name, size and time of each file: notices a change without reading millions of rows."""
    there = [(os.path.basename(p), os.stat(p)) for p in paths if os.path.isfile(p)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in there]


def home(root, tops, files):
    """The first of the folders root/top that holds one of the files (of the first 100), or None."""
    for top in tops:
        folder = os.path.join(root, top)
        if any(os.path.isfile(os.path.join(folder, f)) for f in files[:100]):
            return folder


def listed(name, split, root, tops, rows, sources):
    """Split of rows [(relative path, [caption, ...]), ...]; pictures in one of the root/tops."""
    files, owner, captions = [], [], []
    for file, texts in rows:
        texts = [" ".join(t.split()) for t in texts if t.strip()]  # COCO's hold newlines
        if texts:
            owner += [len(files)] * len(texts)
            files.append(file)
            captions += texts
    top = home(root, tops, files)
    if files and top is None:
        raise missing(name, root, f"no image {files[0]}")
    return Split(
        images=folder(top, Strings(files)),
        captions=Strings(captions),
        pairs=np.stack([owner, np.arange(len(owner))], 1).astype(np.int64),
        bare=np.zeros(len(owner), bool),
        key=digest(name, split, files, stamp(sources)),
    )


TREES = {
    "coco": """
  ROOT/annotations/captions_{train,val}2014.json         (or 2017)
  ROOT/train2014/COCO_train2014_000000000009.jpg ...     (or ROOT/images/train2014/...)
  ROOT/dataset_coco.json                                 optional: Karpathy's split
  http://images.cocodataset.org/zips/{train2014,val2014}.zip    13.5 and 6.6 GB (2017: 19.3, 0.8)
  http://images.cocodataset.org/annotations/annotations_trainval{2014,2017}.zip   0.25 GB each
  https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip""",
    "cc3m": """
  ROOT/cc3m-{train,validation}-0000.tar ... or ROOT/{train,validation}/00000.tar ...
     with members KEY.jpg and KEY.txt, or, as open_clip's gather_cc.py writes it,
  ROOT/{Train_GCC-training,Validation_GCC-1.1.0-Validation}*.{tsv,csv}
     with rows `caption TAB path of an image below ROOT`
  https://huggingface.co/datasets/pixparse/cc3m-wds             2.9 M pairs in 576 + 16 shards
  https://ai.google.com/research/ConceptualCaptions/download    0.5 GB, addresses only; then
     sed -i '1s/^/caption\\turl\\n/' Train_GCC-training.tsv
     img2dataset --url_list Train_GCC-training.tsv --input_format tsv --url_col url \\
       --caption_col caption --output_format webdataset --output_folder ROOT/train""",
    "celeba": """
  ROOT/img_align_celeba/000001.jpg ... 202599.jpg        (or all of this in ROOT/celeba)
  ROOT/list_attr_celeba.txt, ROOT/list_eval_partition.txt
  http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html       1.4 GB: the aligned and cropped images""",
    "cifar10": """
  ROOT/cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin, batches.meta.txt
  https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz       0.17 GB""",
    "captions": """
  ROOT/captions.txt or captions.csv                rows `image,caption`, any number for an image
  or ROOT/results.csv (Flickr30k), ROOT/Flickr8k.token.txt
  ROOT/*.jpg                                       or in ROOT/{Images,images,flickr30k_images}
  your own photos, or https://shannon.cs.illinois.edu/DenotationGraph (Flickr30k)""",
    "latents": """
  image_latents=A.npy, text_latents=B.npy          (N, h1), (N, h2) floats: rows i are a pair
  groups=G.npy                                     optional (N,) integers: equal ids fit each other
  any encoder's output saved with numpy.save       no address: you compute them""",
}


def missing(name, root, why):
    where = "no folder was given" if root is None else f"looked in {root}: {why}"
    return DataError(
        f"data set {name} not found ({where}). It needs:{TREES[name]}\n"
        "No data at hand? `python train.py` needs none."
    )


# --------------------------------------------------------------------------------------------------
# official layouts


def coco(root, split, year=None):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. If
    ROOT/dataset_coco.json is there and no year asked for: Karpathy's 113,287 / 5,000 / 5,000. His
    val and test come from the official val2014, so numbers of the two protocols do not compare."""
    path, part = os.path.join(root, "dataset_coco.json"), "val" if split == "test" else "train"
    karpathy = year is None and os.path.isfile(path)
    if not karpathy:
        notes = os.path.join(root, "annotations")
        if year is None:  # one for all splits: train2017 has images of val2014 in it
            year = 2014 if glob("captions_*2014.json", root_dir=notes) else 2017
        path = os.path.join(notes, f"captions_{part}{year}.json")
    if not os.path.isfile(path):
        raise missing("coco", root, f"no {path}")
    try:
        with open(path, encoding="utf-8") as f:
            table = json.load(f)
        rows = karpathy_rows(table, split) if karpathy else coco_rows(table, f"{part}{year}", split)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the official annotations ({error!r})") from error
    return listed("coco", split, root, ("", "images"), rows, [path])


def karpathy_rows(table, split):
    rows = []
    for image in table["images"]:
        if image["split"].replace("restval", "train") == split:
            texts = [sentence["raw"] for sentence in image["sentences"]]
            rows.append((os.path.join(image["filepath"], image["filename"]), texts))
    return rows


def coco_rows(table, top, split):
    texts = {image["id"]: [] for image in table["images"]}
    for row in table["annotations"]:  # in no order
        texts[row["image_id"]].append(row["caption"])
    sides = [2] * len(texts) if split == "test" else side_of(list(texts), [0.98], top)
    rows = zip(table["images"], sides, strict=True)
    kept = [image for image, side in rows if side == SIDES[split]]
    return [(os.path.join(top, image["file_name"]), texts[image["id"]]) for image in kept]


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
        raise missing("cc3m", root, f"no {part} part")
    files = [os.path.join(root, f) for f in files]
    rows = np.concatenate([np.insert(scan(path), 0, k, axis=1) for k, path in enumerate(files)])
    if split != "test":
        rows = rows[side_of(rows[:, 1], [0.99], root) == SIDES[split]]

    def piece(i, column):
        file, offset, size = rows[i, [0, column, column + 1]]
        with open(files[file], "rb") as f:  # anew: threads must not share a position
            f.seek(offset)
            return f.read(size)

    text = lambda i, column: piece(i, column).decode("utf-8", "replace").strip()
    name = lambda i: f"{files[rows[i, 0]]} at byte {rows[i, 2]}"
    images = Lazy(len(rows), lambda i: read_image(piece(i, 2), name(i)), name)
    if scan is scan_table:  # then the piece is a path
        images = folder(root, Lazy(len(rows), lambda i: text(i, 2)))
    return Split(
        images=images,
        captions=Lazy(len(rows), lambda i: text(i, 4)),
        pairs=np.repeat(np.arange(len(rows))[:, None], 2, axis=1),
        bare=np.zeros(len(rows), bool),
        key=digest("cc3m", split, stamp(files)),
    )


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
    rows, at, last, image, text = array("q"), 0, None, None, None
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
                if key != last:  # the files of one KEY are neighbours
                    last, image, text = key, None, None
                if kind in (b"jpg", b"jpeg", b"png", b"webp"):
                    image = at + 512, size
                if kind == b"txt":
                    text = at + 512, size
                if image and text:
                    rows.extend((zlib.crc32(key), *image, *text))
                    image = text = None
            at += 512 + -(-size // 512) * 512  # contents fill whole blocks
            f.seek(at)
    raise DataError(f"{path}: truncated: its end is missing at byte {at}; fetch it again")


def face_caption(attributes):
    """CelebA has no captions: "a photo of a smiling young woman with brown hair, wearing hat".

    Only what is present is said: not No_Beard, nor the absence of Young."""
    front = ("Attractive", "Bald", "Blurry", "Chubby", "Smiling", "Young")
    who = [name for name in attributes if name in front]
    rest = [name for name in attributes if name not in (*front, "Male", "No_Beard")]
    who.append("man" if "Male" in attributes else "woman")
    caption = f"a photo of {'an' if who[0] == 'Attractive' else 'a'} {' '.join(who)}"
    caption += " with " + ", ".join(rest) if rest else ""
    return caption.lower().replace("_", " ")


def celeba(root, split, allow_train=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: "train" raises DataError unless allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba is never trained on: use val or test, or pass allow_train=True")
    root = home(root, ("", "celeba"), ["list_attr_celeba.txt"]) or root
    files = [os.path.join(root, f"list_{name}.txt") for name in ("attr_celeba", "eval_partition")]
    rows = []
    try:
        with open(files[0]) as f, open(files[1]) as g:
            count, names, table = int(f.readline()), f.readline().split(), f.readlines()
            sides = dict(line.split() for line in g)
        if len(table) != count:
            raise ValueError(f"{len(table)} rows, not {count}")
        for file, *values in map(str.split, table):
            has = [name for name, v in zip(names, values, strict=True) if v == "1"]
            if sides[file] == str(SIDES[split]):  # CelebA too writes 0 train, 1 val, 2 test
                rows.append((os.path.join("img_align_celeba", file), [face_caption(has)]))
    except FileNotFoundError as error:
        raise missing("celeba", root, f"no {error.filename}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{' or '.join(files)}: not the official table ({error})") from error
    return listed("celeba", split, root, ("",), rows, files)


def cifar10(root, split):
    """CIFAR-10, binary version: (i, j) says image i shows class j; ten captions in every split.

    val = the last 5,000 of the 50,000 train images. `bare` is False although a caption fits
    thousands of images: image -> text is classification here, and must have its answers."""
    top = home(root, ("", "cifar-10-batches-bin"), ["batches.meta.txt"])
    if top is None:
        raise missing(
            "cifar10", root, "no batches.meta.txt; the pickled python version is not read"
        )
    batches = ["test_batch"] if split == "test" else [f"data_batch_{k}" for k in range(1, 6)]
    files = [os.path.join(top, f"{name}.bin") for name in batches]
    for path in files:
        if not os.path.isfile(path) or os.path.getsize(path) != 10_000 * 3073:
            raise DataError(f"{path}: missing, or not 30,730,000 bytes; unpack the archive again")
    data = np.concatenate([np.fromfile(path, np.uint8) for path in files]).reshape(-1, 3073)
    if split != "test":
        data = data[:45_000] if split == "train" else data[45_000:]
    pixels = data[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, 3)
    with open(os.path.join(top, "batches.meta.txt")) as f:
        classes = f.read().split()
    return Split(
        images=Images(pixels, Strings(f"{split} image {i}" for i in range(len(data)))),
        captions=Strings(f"a picture of a {name}" for name in classes),  # the paper's, "a airplane"
        pairs=np.stack([np.arange(len(data)), data[:, 0].astype(np.int64)], 1),
        bare=np.zeros(len(data), bool),
        key=digest("cifar10", split, stamp(files)),
    )


TABLE_ROW = re.compile(
    r"(?P<image>[^,|#]+\.\w+)"
    r"(,(\d+,)?|#\d+\t|\|\s*\d+\s*\|?)"  # a comma (Kaggle: ,0,), Flickr8k #0 TAB, Flickr30k | 0 |
    r"(?P<caption>.*\S)"
)


def captions(root, split):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name, so all captions of an image are on one side."""
    tables = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt")
    there = [t for t in tables if os.path.isfile(os.path.join(root, t))]
    if not there:
        raise missing("captions", root, "no captions.txt")
    path, texts = os.path.join(root, there[0]), {}
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = f.read().splitlines()
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        row = TABLE_ROW.fullmatch(line.strip())
        if row:
            caption = row["caption"].strip()
            if caption[0] == caption[-1] == '"':  # a caption with commas
                caption = caption[1:-1].replace('""', '"')
            texts.setdefault(row["image"], []).append(caption)
        elif line.strip() and number > 1:  # the first may be a header
            raise DataError(f"{path} line {number}: expected `image,caption` on one line")
    ids = np.array([zlib.crc32(image.encode()) for image in texts])
    side = side_of(ids, [0.90, 0.95], path)
    rows = [row for row, s in zip(texts.items(), side, strict=True) if s == SIDES[split]]
    tops = ("", "Images", "images", "flickr30k_images")
    # the photos too, because a student exchanges them
    sources = [path] + [os.path.join(root, top, image) for top in tops for image, _ in rows]
    return listed("captions", split, root, tops, rows, sources)


def open_array(path):
    """The array of a .npy (memory-mapped) or .npz file (its only one, or the one named latents)."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        return found[found.files[0] if len(found.files) == 1 else "latents"]
    except Exception as error:  # anything may be in a file
        raise DataError(f"{path}: no .npy array, nor .npz with one array ({error})") from error


def open_vectors(path):
    """open_array for (rows, width) finite floats; DataError for others."""
    a = open_array(path)
    if a.ndim != 2 or a.dtype.kind != "f" or not a.size:
        raise DataError(f"{path}: expected (rows, width) of floats, found {a.shape} of {a.dtype}")
    for start in range(0, len(a), 8192):  # in chunks: the file may be larger than memory
        fine = np.abs(a[start : start + 8192].astype(np.float64)) < 3e38  # float32 ends there
        if not fine.all():
            row = start + fine.all(1).argmin()
            raise DataError(f"{path}: row {row} holds NaN, inf or more than 3e38; recompute it")
    return a


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together.
    90 / 5 / 5 % by a hash of the group, or of the row's number. Paths are relative to root, if any.
    Raises DataError: unreadable, not 2-D, not floats, unequal lengths, NaN or inf."""
    if image_latents is None or text_latents is None:
        raise missing("latents", root, "give image_latents and text_latents")
    paths = [p for p in (image_latents, text_latents, groups) if p is not None]
    paths = [os.path.join(root or "", os.path.expanduser(p)) for p in paths]
    a, b = open_vectors(paths[0]), open_vectors(paths[1])
    ids = open_array(paths[2]) if groups else np.arange(len(a))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{paths[2]}: expected (rows,) of integers, found {ids.shape} {ids.dtype}")
    if not len(a) == len(b) == len(ids):
        rows = [len(x) for x in (a, b, ids)]
        raise DataError(f"unequal numbers of rows: {rows} in {paths}; rows i must be a pair")
    index = np.flatnonzero(side_of(ids, [0.90, 0.95], paths[0]) == SIDES[split])
    n, name = len(index), lambda i: f"row {index[i]}"
    pairs = mates(ids[index], paths[-1]) if groups else np.stack([np.arange(n)] * 2, 1)
    return Split(
        images=Lazy(n, lambda i: np.array(a[index[i]], np.float32), name),
        captions=Lazy(n, lambda i: np.array(b[index[i]], np.float32), name),
        pairs=pairs,
        bare=np.zeros(len(pairs), bool),
        key=digest("latents", split, stamp(paths)),
    )


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j]."""
    count = np.unique(ids, return_counts=True)[1]
    if (count.astype(float) ** 2).sum() > 1e8:
        raise DataError(f"{where}: over 100 M pairs of equal ids; use ids of finer groups")
    groups = np.split(np.argsort(ids, kind="stable"), np.cumsum(count)[:-1])
    pairs = [np.stack([np.repeat(g, len(g)), np.tile(g, len(g))], 1) for g in groups]
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)


# --------------------------------------------------------------------------------------------------
# the entry point


def load(name, root=None, split="train", **options):
    """One split of a data set: the only function that other files call.

    name     one of NAMES
    root     folder of a set on disk, as in TREES
    split    "train", "val" or "test"
    options  coco: year; celeba: allow_train; latents: image_latents, text_latents, groups

    Raises DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in NAMES:
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    if split not in SIDES:
        raise DataError(f"no split {split!r}; there are {', '.join(SIDES)}")
    if name == "glyphs":
        return glyphs(split)
    if name == "glyphs-stix":
        if split == "train":
            raise DataError("glyphs-stix is never trained on: train on glyphs, test on glyphs-stix")
        return glyphs(split, STIX)
    root = root and os.path.expanduser(root)
    if name != "latents" and not (root and os.path.isdir(root)):
        raise missing(name, root, "no such folder")
    loaders = dict(coco=coco, cc3m=cc3m, celeba=celeba, cifar10=cifar10, captions=captions)
    found = loaders.get(name, latents)(root, split, **options)
    if not len(found.pairs):
        raise DataError(f"{name} in {root}: no pairs in split {split!r}")
    return found


def save_grid(split, path):
    """24 images of the split, each with a caption."""
    from matplotlib.figure import Figure  # draws without a display

    figure, pairs = Figure(figsize=(12, 9), layout="constrained"), split.pairs[~split.bare]
    some = pairs[np.linspace(0, len(pairs) - 1, min(24, len(pairs))).astype(int)]
    for ax, (i, j) in zip(figure.subplots(4, 6).flat, some, strict=False):
        title = textwrap.fill(split.captions[j][:90], 28)
        ax.set_title(title, fontsize=7, parse_math=False)  # "$" in a caption is a dollar
        ax.imshow(split.images[i], cmap="gray", vmin=0, vmax=255)
    for ax in figure.axes:
        ax.axis("off")
    figure.savefig(path, dpi=120)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="glyphs", help="data set (default: glyphs)")
    parser.add_argument("root", nargs="?", help="its folder")
    args = parser.parse_args()
    try:
        for side in ("test", "val", "train"):  # train last: some sets have none
            split = load(args.name, args.root, side)
            images, captions, pairs = map(len, split[:3])
            print(f"{side:6}{images:>9,} images {captions:>9,} captions {pairs:>9,} pairs")
            if side == "test":
                save_grid(split, f"data-{args.name}.png")
    except (DataError, OSError) as error:
        sys.exit(f"data.py: {error}")


if __name__ == "__main__":
    main()
