"""
data.py: paired images and captions, and paired arrays of any kind, read lazily.

Every loader returns one `Split`: images, captions, and the rows (i, j) that say "caption j
describes image i". So an image may have several captions (COCO), a caption several images
(CIFAR-10's class prompts; a character's name in twelve typefaces), and nothing downstream knows
which data set it is looking at. `load_pairs` returns `Pairs` for the latent bridge: arrays y and x.

Map      load            the one entry point: load("coco", root, "train") -> Split
         glyphs          every character of the fonts inside matplotlib, and its Unicode name
                         (the default, no download); "glyphs-stix": four typefaces kept for testing
         coco, cc3m, celeba, cifar10, captions      official layouts on disk, described in TREES
         latents         paired vectors computed elsewhere
         Strings, Lazy   millions of strings as one buffer; items made when asked for
         load_pairs      the entry point of pairs: load_pairs("glyph-sr", split="train") -> Pairs
         glyph_pairs     from the glyphs: small -> large, outline -> filled, typeface -> typeface
         glyph_solids    silhouettes -> voxels of turned letters; silhouettes, visual_hull
         faces, handbags, shapenet, folders         layouts on disk; `late` reads them
Letters  N images, L captions, P pairs, i an image, j a caption
Rules    nothing is downloaded; nothing is unpickled; a missing set stops with the tree it expects
Try      python data.py                   counts of the embedded set, and a picture of it
         python data.py coco ~/coco       the same for a data set on your disk
         python data.py glyph-solids      the same for pairs
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
from functools import lru_cache
from glob import glob
from itertools import compress
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
    bare      (P,) bool: True where the caption names several images alike (glyphs: without its
              typeface). A fair question and a poor answer: never the target of image->text.
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
        if not 0 <= j < len(self):  # ends `for s in strings`
            raise IndexError(j)
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


def split_of(codes, seed=0):
    """0 train, 1 val, 2 test, by a hash of each character: a new one moves no other."""
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


# --------------------------------------------------------------------------------------------------
# sets on disk: pictures are read late, a hash splits, a missing set is explained


def read_image(source, name):
    """A fully decoded RGB or L image from a path or from bytes; OSError names the broken one."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # decoders also raise SyntaxError, struct.error, bomb errors, ...
        raise OSError(f"{name}: cannot read this image ({error})") from error


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


def folder(root, files):
    """Pictures in files below root, from any sequence of relative paths."""
    read = lambda i: read_image(os.path.join(root, files[i]), files[i])
    return Lazy(len(files), read, files.__getitem__)


def side_of(ids, cuts, where):
    """(N,) side 0, 1, ... of N integer ids, cut at `cuts` of a hash (splitmix64) in [0, 1).

    Equal ids stay together. New ids move no old one, unless the set is so tiny that a side would
    be empty. DataError if there are fewer ids than sides."""
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


def listed(name, split, root, tops, rows, sources):
    """Split of rows [(relative path, caption), ...]; pictures in one of the folders root/top."""
    rows = [(file, " ".join(text.split())) for file, text in rows if text.strip()]
    files = list(dict.fromkeys(file for file, _ in rows))
    there = lambda top: any(os.path.isfile(os.path.join(root, top, file)) for file in files[:100])
    tops = [os.path.join(root, top) for top in tops if there(top)]
    if files and not tops:
        raise missing(name, root, f"no image {files[0]}")
    number = {file: i for i, file in enumerate(files)}
    owner = np.array([number[file] for file, _ in rows], np.int64)
    images, texts = folder(tops[0] if tops else "", Strings(files)), Strings(t for _, t in rows)
    pairs = np.stack([owner, np.arange(len(rows))], 1)
    key = digest(name, split, files, stamp(sources))
    return Split(images, texts, pairs, np.zeros(len(rows), bool), key)


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
  https://ai.google.com/research/ConceptualCaptions/download    0.5 GB of addresses; with a first
     line caption TAB url:  img2dataset --url_list Train_GCC-training.tsv --input_format tsv \\
       --url_col url --caption_col caption --output_format webdataset --output_folder ROOT/train""",
    "celeba": """
  ROOT/img_align_celeba/000001.jpg ... 202599.jpg
  ROOT/list_attr_celeba.txt, ROOT/list_eval_partition.txt
  http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html       1.4 GB: the aligned and cropped images""",
    "cifar10": """
  ROOT/cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin, batches.meta.txt
  https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz       0.17 GB""",
    "captions": """
  ROOT/captions.txt or captions.csv                rows `image,caption`, any number for an image
  (or Flickr30k's results.csv, Flickr8k.token.txt)
  ROOT/*.jpg                                       or in ROOT/{Images,images,flickr30k_images}
  your own photos, or https://shannon.cs.illinois.edu/DenotationGraph (Flickr30k)""",
    "latents": """
  image_latents=A.npy, text_latents=B.npy          (N, h1), (N, h2) floats: rows i are a pair
  groups=G.npy                                     optional (N,) integers: equal ids fit each other
  no address: any encoder's output, saved with numpy.save""",
    "celebahq": """
  ROOT/*.{png,jpg}                                 or in folders below; photos of faces
  https://github.com/tkarras/progressive_growing_of_gans     30,000 faces of CelebA-HQ""",
    "ffhq": """
  ROOT/*.{png,jpg}                                 or in folders below: ROOT/00000/00000.png ...
  https://github.com/NVlabs/ffhq-dataset           70,000 faces; thumbnails128x128 will do""",
    "edges2handbags": """
  ROOT/{train,val}/*.jpg                           512 x 256: edges left, photo right
  http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/edges2handbags.tar.gz""",
    "shapenet": """
  ROOT/ShapeNetRendering/SYNSET/MODEL/rendering/{00,...,23}.png   137 x 137, RGBA
  ROOT/ShapeNetVox32/SYNSET/MODEL/model.binvox                    32 x 32 x 32
  http://cvgl.stanford.edu/data2/{ShapeNetRendering,ShapeNetVox32}.tgz    made for 3D-R2N2""",
    "pairs": """
  source_dir=A, target_dir=B                       below ROOT, if any; default ROOT/{source,target}
  A/STEM.{png,jpg,jpeg,npy,npz}, B/STEM...         files of one stem are a pair; .npz of one array
  no address: any two things that belong together""",
}


def missing(name, root, why):
    where = "no folder was given" if root is None else f"looked in {root}: {why}"
    tree = TREES[name] + "\nNo data at hand? `python train.py` needs none."
    return DataError(f"data set {name} not found ({where}). It needs:{tree}")


def coco(root, split):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. Or
    Karpathy's split, if ROOT/dataset_coco.json is there: not comparable, for his val and test are
    5,000 images each of val2014, and he trains on the rest of it."""
    path = os.path.join(root, "dataset_coco.json")
    karpathy = os.path.isfile(path)
    if not karpathy:
        notes = os.path.join(root, "annotations")
        # one year for all splits: train2017 has images of val2014 in it
        year = 2014 if glob("captions_*2014.json", root_dir=notes) else 2017
        top = f"{'val' if split == 'test' else 'train'}{year}"
        path = os.path.join(notes, f"captions_{top}.json")
    if not os.path.isfile(path):
        raise missing("coco", root, f"no {path}")
    rows = []
    try:
        with open(path, encoding="utf-8") as f:
            table = json.load(f)
        if karpathy:
            for image in table["images"]:
                if image["split"].replace("restval", "train") == split:
                    file = os.path.join(image["filepath"], image["filename"])
                    rows += [(file, sentence["raw"]) for sentence in image["sentences"]]
        else:
            files = {
                image["id"]: os.path.join(top, image["file_name"]) for image in table["images"]
            }
            ids = [row["image_id"] for row in table["annotations"]]
            rows = [(files[row["image_id"]], row["caption"]) for row in table["annotations"]]
            if split != "test":
                rows = compress(rows, side_of(ids, [0.98], path) == SIDES[split])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the official annotations ({error!r})") from error
    return listed("coco", split, root, ("", "images"), rows, [path])


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
    captions, pairs = Lazy(len(rows), lambda i: text(i, 4)), np.arange(len(rows))[:, None]
    key = digest("cc3m", split, stamp(files))
    return Split(images, captions, np.repeat(pairs, 2, axis=1), np.zeros(len(rows), bool), key)


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
    rows, at, image, text = array("q"), 0, None, None
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
                if kind in (b"jpg", b"jpeg", b"png", b"webp"):
                    image = key, at + 512, size
                elif kind == b"txt":
                    text = key, at + 512, size
                if image and text and image[0] == text[0]:  # neighbours
                    rows.extend((zlib.crc32(key), *image[1:], *text[1:]))
                    image = text = None
            at += 512 + -(-size // 512) * 512  # contents fill whole blocks
            f.seek(at)
    raise DataError(f"{path}: truncated: its end is missing at byte {at}; fetch it again")


def face_caption(has):
    """CelebA has no captions: "a photo of a young woman, smiling, wavy hair, wearing hat"."""
    who = ("young " if "Young" in has else "") + ("man" if "Male" in has else "woman")
    rest = [name for name in has if name not in ("Young", "Male", "No_Beard")]
    return ", ".join([f"a photo of a {who}", *rest]).lower().replace("_", " ")


def celeba(root, split, allow_train=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: the train split needs allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba: MT only tests on it; test with --on celeba, or say --celeba-train")
    files = [os.path.join(root, f"list_{name}.txt") for name in ("attr_celeba", "eval_partition")]
    rows = []
    try:
        with open(files[0]) as f, open(files[1]) as g:
            count, names = int(f.readline()), f.readline().split()
            table, sides = f.readlines(), dict(map(str.split, g))
        if len(table) != count:
            raise ValueError(f"{len(table)} rows, not {count}")
        for file, *signs in map(str.split, table):
            has = [name for name, sign in zip(names, signs, strict=True) if sign == "1"]
            if sides[file] == str(SIDES[split]):  # CelebA too writes 0 train, 1 val, 2 test
                rows.append((os.path.join("img_align_celeba", file), face_caption(has)))
    except FileNotFoundError as error:
        raise missing("celeba", root, f"no {error.filename}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{' or '.join(files)}: not the official table ({error})") from error
    return listed("celeba", split, root, ("",), rows, files)


def cifar10(root, split):
    """CIFAR-10, binary version: (i, j) says image i shows class j; ten captions in every split.

    val = the last 5,000 train images. `bare` is False although a caption fits thousands of images:
    image -> text is classification here, and must have its answers."""
    top = os.path.join(root, "cifar-10-batches-bin")
    if not os.path.isfile(os.path.join(top, "batches.meta.txt")):
        raise missing("cifar10", root, "no batches.meta.txt; the pickled version is never read")
    batches = ["test_batch"] if split == "test" else [f"data_batch_{k}" for k in range(1, 6)]
    files = [os.path.join(top, f"{name}.bin") for name in batches]
    for path in files:
        if not os.path.isfile(path) or os.path.getsize(path) != 10_000 * 3073:
            raise DataError(f"{path}: missing, or not 30,730,000 bytes; unpack the archive again")
    data = np.concatenate([np.fromfile(path, np.uint8) for path in files]).reshape(-1, 3073)
    if split != "test":
        data = data[:45_000] if split == "train" else data[45_000:]
    n = len(data)
    pixels = data[:, 1:].reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, 3)
    with open(os.path.join(top, "batches.meta.txt")) as f:
        texts = Strings(f"a picture of a {name}" for name in f.read().split())  # "a airplane": MT's
    images, pairs = Images(pixels, range(n)), np.stack([np.arange(n), data[:, 0]], 1)
    return Split(images, texts, pairs, np.zeros(n, bool), digest("cifar10", split, stamp(files)))


# image name, one of `,` `,0,` `#0 TAB` `| 0 |`, caption
TABLE_ROW = re.compile(r"([^,|#]+\.\w+)(?:,(?:\d+,)?|#\d+\t|\|\s*\d+\s*\|?)(.*\S)")


def captions(root, split):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name. The key sees the photos: they may be exchanged."""
    tables = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt")
    there = [t for t in tables if os.path.isfile(os.path.join(root, t))]
    if not there:
        raise missing("captions", root, "no captions.txt")
    path, rows = os.path.join(root, there[0]), []
    try:
        with open(path, encoding="utf-8-sig") as f:
            lines = f.read().splitlines()
    except ValueError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        row = TABLE_ROW.fullmatch(line.strip())
        if row:
            rows.append((row[1], row[2].strip(' "').replace('""', '"')))
        elif line.strip() and (number > 1 or "." in line):  # else it is a header
            raise DataError(f"{path} line {number}: expected `image,caption` on one line")
    ids = [zlib.crc32(image.encode()) for image, _ in rows]
    rows = list(compress(rows, side_of(ids, [0.90, 0.95], path) == SIDES[split]))
    tops = ("", "Images", "images", "flickr30k_images")
    sources = [path] + [os.path.join(root, top, image) for top in tops for image, _ in rows]
    return listed("captions", split, root, tops, rows, sources)


def open_array(path, ndim, kinds):
    """The array of a .npy (memory-mapped) or .npz file (its only one, or the one named latents)."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            found = found[found.files[0] if len(found.files) == 1 else "latents"]
    except Exception as error:  # anything may be in a file
        raise DataError(f"{path}: no .npy array, nor .npz with one array ({error})") from error
    if found.ndim != ndim or found.dtype.kind not in kinds or not found.size:
        expected = "(rows, width) of floats" if ndim == 2 else "(rows,) of integers"
        raise DataError(f"{path}: expected {expected}, found {found.shape} of {found.dtype}")
    return found


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together.
    90 / 5 / 5 % by a hash of the group, or of the row. Paths are relative to root, if any. Raises
    DataError: unreadable, not 2-D, not floats, unequal lengths, NaN or inf."""
    if image_latents is None or text_latents is None:
        raise missing("latents", root, "give image_latents and text_latents")
    paths = [p for p in (image_latents, text_latents, groups) if p is not None]
    paths = [os.path.join(root or "", os.path.expanduser(p)) for p in paths]
    a, b = (open_array(path, 2, "f") for path in paths[:2])
    ids = open_array(paths[2], 1, "iu") if groups else np.arange(len(a))
    if not len(a) == len(b) == len(ids):
        raise DataError(f"unequal numbers of rows: {len(a)}, {len(b)}, {len(ids)} in {paths}")
    for x, path in zip((a, b), paths, strict=False):
        for start in range(0, len(x), 8192):  # in chunks: the file may be larger than memory
            fine = (np.abs(x[start : start + 8192].astype(np.float64)) < 3e38).all(1)
            if not fine.all():  # 3e38: what float32 holds
                raise DataError(f"{path}: row {start + fine.argmin()} holds NaN, inf or over 3e38")
    index = np.flatnonzero(side_of(ids, [0.90, 0.95], paths[0]) == SIDES[split])
    name = lambda i: f"row {index[i]}"
    rows = lambda x: Lazy(len(index), lambda i: np.array(x[index[i]], np.float32), name)
    pairs, key = mates(ids[index], paths[-1]), digest("latents", split, stamp(paths))
    return Split(rows(a), rows(b), pairs, np.zeros(len(pairs), bool), key)


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j]."""
    order, count = np.argsort(ids, kind="stable"), np.unique(ids, return_counts=True)[1]
    if (count.astype(float) ** 2).sum() > 1e8:
        raise DataError(f"{where}: over 100 M pairs of equal ids; use ids of finer groups")
    if count.max(initial=1) == 1:
        return np.stack([order, order], 1)
    groups = np.split(order, np.cumsum(count)[:-1])
    pairs = [np.stack([np.repeat(g, len(g)), np.tile(g, len(g))], 1) for g in groups]
    return np.concatenate(pairs)


def load(name, root=None, split="train", **options):
    """One split of a data set: the only function that other files call.

    root is the folder of a set on disk, as in TREES; options: see `latents` and `celeba`. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in NAMES:
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}")
    if split not in SIDES:
        raise DataError(f"no split {split!r}; there are {', '.join(SIDES)}")
    if split == "train" and name == "glyphs-stix":
        raise DataError("glyphs-stix is never trained on: train on glyphs, test on glyphs-stix")
    if name.startswith("glyphs"):
        return glyphs(split, FACES if name == "glyphs" else STIX)
    root = root and os.path.expanduser(root)
    if name != "latents" and not (root and os.path.isdir(root)):
        raise missing(name, root, "no such folder")
    loaders = dict(coco=coco, cc3m=cc3m, celeba=celeba, cifar10=cifar10, captions=captions)
    found = loaders.get(name, latents)(root, split, **options)
    if not len(found.pairs):
        raise DataError(f"{name} in {root}: no pairs in split {split!r}")
    return found


# --------------------------------------------------------------------------------------------------
# pairs (y, x) for the latent bridge: arrays of any two shapes


PAIRS = "glyph-sr glyph-edges glyph-faces glyph-solids celebahq ffhq edges2handbags shapenet pairs"
PAIRS = PAIRS.split()
LETTERS = "Lu Ll Lt Lm Lo Nd".split()  # categories of Unicode: letters and decimal digits
YAWS = np.radians([0, 45, 90, 135])  # of the four views of a solid


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
        faces = [glyphs(split, {f: FACES[f]}) for f in ("DejaVuSans", "DejaVuSerif-BoldItalic")]
        # the captions after the full ones are bare names, here in the order of the images
        names = [list(face.captions)[len(face.images) :] for face in faces]
        _, *rows = np.intersect1d(*names, return_indices=True)
        y, x = (f.images.pixels[np.sort(i), None] for f, i in zip(faces, rows, strict=True))
    else:
        x = glyphs(split).images.pixels[:, None]
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
        for code in charmap[split_of(charmap) == SIDES[split]]:
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


def picture(path, mode="RGB"):
    """As `read_image`, in a given mode; DataError."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except Exception as error:
        raise DataError(f"{path}: cannot read this image ({error})") from error


def planes(image, size=None):
    """PIL image -> (C, H, W) uint8, (C, size, size) if a size is given."""
    image = image.resize((size, size), Image.Resampling.BICUBIC) if size else image
    return np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))


def find(root, pattern):
    """Sorted paths of the pictures below root that fit a glob pattern."""
    found = sorted(glob(pattern, root_dir=root, recursive=True))
    return [os.path.join(root, f) for f in found if f.lower().endswith((".png", ".jpg", ".jpeg"))]


def sides(names, cuts, where):
    """`side_of` by a hash of each path's last part."""
    ids = [zlib.crc32(os.path.basename(name).encode()) for name in names]
    return side_of(ids, cuts, where) if ids else []


# Each layout: (root, split, options) -> items, side, make. An item is a tuple of paths, those of y
# first; side (N,) is its split, 0 to 2; make(*item) -> y, x reads it.


def faces(root, split, size=128):
    """x = the square in the middle, (3, size, size); y = x shrunk 8 times by Pillow's bicubic.

    90 / 5 / 5 % by a hash of the file's name."""

    def make(path):
        image = picture(path)
        s, (left, top) = min(image.size), ((n - min(image.size)) // 2 for n in image.size)
        square = image.crop((left, top, left + s, top + s))
        x = square.resize((size, size), Image.Resampling.BICUBIC)
        return planes(x, size // 8), planes(x)

    files = find(root, "**/*")
    return [(f,) for f in files], sides(files, [0.90, 0.95], root), make


def handbags(root, split, size=64):
    """Side by side on disk: y = edges (left), x = photo (right), (3, size, size) both.

    test = the official val part; val = 2 % of train by a hash of the name."""

    def make(path):
        image = picture(path)
        w, h = image.size
        if w != 2 * h:
            raise DataError(f"{path}: {w} x {h} pixels are not two squares side by side")
        return [planes(image.crop((left, 0, left + h, h)), size) for left in (0, h)]

    files = find(root, "val/*" if split == "test" else "train/*")
    side = [2] * len(files) if split == "test" else sides(files, [0.98], root)
    return [(f,) for f in files], side, make


def read_binvox(path):
    """Voxels (D, H, W) bool of a .binvox file, turned to [k, i, j]: height, top first, then plan.

    After a header of text, pairs of bytes (value, count) run along y (up), then z, then x."""
    try:
        with open(path, "rb") as f:
            head, _, body = f.read().partition(b"\ndata\n")
        words = head.split()
        at = words.index(b"dim") + 1
        if words[0] != b"#binvox":
            raise ValueError("no #binvox in its first line")
        value, count = np.frombuffer(body, np.uint8).reshape(-1, 2).T
        X, Z, Y = (int(n) for n in words[at : at + 3])
        volume = np.repeat(value > 0, count).reshape(X, Z, Y)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole binvox file ({error})") from error
    return np.ascontiguousarray(volume.transpose(2, 0, 1)[::-1])  # [x, z, y] -> [-y, x, z]


def shapenet(root, split, views=4, size=64):
    """3D-R2N2's ShapeNet: y = the first `views` renderings (V, 3, size, size), x = (32, 32, 32).

    Models that both trees have. 80 / 10 / 10 % by a hash of the model's id: not the lists of any
    paper. Renderings lie on grey 240, and lose 4 or 5 pixels of margin, as in LDDBM's code."""

    def view(path):
        image = picture(path, "RGBA")
        if image.size != (137, 137):
            raise DataError(f"{path}: {image.size} pixels; 3D-R2N2's renderings are 137 x 137")
        grey = Image.new("RGBA", image.size, (240, 240, 240, 255))
        image = Image.alpha_composite(grey, image).convert("RGB")
        return planes(image.crop((4, 4, 132, 132)), size)

    renderings, voxels = (os.path.join(root, f"ShapeNet{k}") for k in ("Rendering", "Vox32"))
    models = map(os.path.dirname, sorted(glob("*/*/model.binvox", root_dir=voxels)))
    models = [m for m in models if os.path.isdir(os.path.join(renderings, m, "rendering"))]
    files = [f"rendering/{v:02}.png" for v in range(views)]
    item = lambda m: [os.path.join(renderings, m, file) for file in files]
    items = [(*item(m), os.path.join(voxels, m, "model.binvox")) for m in models]
    make = lambda *paths: (np.stack([view(p) for p in paths[:-1]]), read_binvox(paths[-1]))
    return items, sides(models, [0.80, 0.90], root), make


def read_item(path):
    """Any file of `pairs`: a picture (C, H, W) uint8, or its array; floats become float32."""
    try:
        if not path.lower().endswith((".npy", ".npz")):
            return planes(read_image(path, path))
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            (only,) = found.files
            found = found[only]
    except Exception as error:  # anything may be in a file
        raise DataError(f"{path}: no picture, .npy, nor .npz of one array ({error})") from error
    if found.dtype.kind == "f":
        if not (np.abs(found.astype(np.float64)) < 3e38).all():  # what float32 holds
            raise DataError(f"{path}: holds NaN, inf or numbers over 3e38")
        found = found.astype(np.float32)
    elif found.dtype not in (np.uint8, bool):
        raise DataError(f"{path}: {found.dtype}; expected floats, uint8 or bool")
    return found[None] if found.ndim == 2 else found


def folders(root, split, source_dir=None, target_dir=None):
    """Two folders whose files share stems: y of one, x of the other. 90 / 5 / 5 % by their hash."""
    found = []
    for given in (source_dir or "source", target_dir or "target"):
        top = os.path.join(root or "", os.path.expanduser(given))
        if not os.path.isdir(top):
            raise missing("pairs", top, "no such folder")
        kinds = ("png", "jpg", "jpeg", "npy", "npz")
        files = [f for f in sorted(os.listdir(top)) if f.lower().rpartition(".")[2] in kinds]
        found.append({os.path.splitext(f)[0]: os.path.join(top, f) for f in files})
        if len(found[-1]) < len(files):
            raise DataError(f"{top}: two files of one stem among {', '.join(files[:4])} ...")
    y, x = found
    stems = [stem for stem in y if stem in x]
    if not stems:
        some = [", ".join(list(part.values())[:2]) or "no file" for part in found]
        raise DataError(f"no stem is in both folders: found {some[0]} ... and {some[1]} ...")
    items = [(y[stem], x[stem]) for stem in stems]
    make = lambda *paths: [read_item(path) for path in paths]
    return items, sides(stems, [0.90, 0.95], top), make


def late(name, split, items, side, make, options):
    """Pairs of files, read when asked for, and once for both y and x. All must look like the first
    item of all splits: DataError names the file that does not."""
    index = np.flatnonzero(np.asarray(side) == SIDES[split])
    first = make(*items[0])

    @lru_cache(256)  # of(rows) asks for the y of a batch, then for the x of the same
    def both(i):
        item = items[index[i]]
        found = make(*item)
        for a, b, path in zip(found, first, (item[0], item[-1]), strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise DataError(f"{path}: {a.dtype} {a.shape}; the first has {b.dtype} {b.shape}")
        return found

    part = lambda k: Lazy(len(index), lambda i: both(i)[k], lambda i: items[index[i]][-k])
    files = [path for i in index for path in items[i]]
    return Pairs(part(0), part(1), digest(name, split, sorted(options.items()), stamp(files)))


def load_pairs(name, root=None, split="train", **options):
    """One split of paired arrays, as `load` of images and captions.

    root is the folder of a set on disk, as in TREES; options: see the loader of that name. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in PAIRS:
        raise DataError(f"no pairs {name!r}; there are {', '.join(PAIRS)}")
    if split not in SIDES:
        raise DataError(f"no split {split!r}; there are {', '.join(SIDES)}")
    if name.startswith("glyph"):
        if name == "glyph-solids":
            return glyph_solids(split, **options)
        return glyph_pairs(split, name, **options)  # which has none: TypeError
    root = root and os.path.expanduser(root)
    if name != "pairs" and not (root and os.path.isdir(root)):
        raise missing(name, root, "no such folder")
    loaders = dict(edges2handbags=handbags, shapenet=shapenet, pairs=folders)
    items, side, make = loaders.get(name, faces)(root, split, **options)
    if not items:
        raise missing(name, root, f"nothing of it for split {split!r}")
    return late(name, split, items, side, make, options)


def save_grid(split, path):
    """24 images of the split, each with a caption."""
    from matplotlib.figure import Figure  # draws without a display

    figure, pairs = Figure(figsize=(12, 9), layout="constrained"), split.pairs[~split.bare]
    some = pairs[np.linspace(0, len(pairs) - 1, 24).astype(int)]
    for ax, (i, j) in zip(figure.subplots(4, 6).flat, some, strict=True):
        ax.set_title(textwrap.fill(split.captions[j][:90], 28), fontsize=7, parse_math=False)
        ax.imshow(split.images[i], cmap="gray", vmin=0, vmax=255)
        ax.axis("off")
    figure.savefig(path, dpi=120)


def sheet(a):
    """(H, W) or (H, W, 3) of any item: views in a row; a volume as its shadows along j and i."""
    a = np.concatenate(a, axis=-1) if a.ndim == 4 else np.atleast_2d(a)  # (C, H, V W)
    if a.ndim == 3 and len(a) not in (1, 3):
        return np.hstack([a.max(2), a.max(1)])
    return a if a.ndim == 2 else a.transpose(1, 2, 0).squeeze()


def save_pairs(pairs, path):
    """Twelve pairs, y left of x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    some = np.linspace(0, len(pairs.x) - 1, 12).astype(int)
    for n, ax in enumerate(figure.subplots(4, 6).flat):
        a = (pairs.x if n % 2 else pairs.y)[some[n // 2]]
        low_high = dict(vmin=0, vmax=255) if a.dtype == np.uint8 else {}
        ax.imshow(sheet(a), cmap="gray", **low_high)
        ax.axis("off")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", nargs="?", default="glyphs", help="data set (default: glyphs)")
    parser.add_argument("root", nargs="?", help="its folder")
    args = parser.parse_args()
    for side in ("test", "val", "train"):  # train last: some sets have none
        if args.name in PAIRS:
            split = load_pairs(args.name, args.root, side)
            y, x = (f"{a[0].dtype} {a[0].shape}" for a in split[:2])
            print(f"{side:6}{len(split.x):>9,} pairs of y {y} and x {x}")
            if side == "test":
                save_pairs(split, f"data-{args.name}.png")
            continue
        split = load(args.name, args.root, side)
        images, captions, pairs = map(len, split[:3])
        print(f"{side:6}{images:>9,} images {captions:>9,} captions {pairs:>9,} pairs")
        if side == "test":
            save_grid(split, f"data-{args.name}.png")


if __name__ == "__main__":
    try:
        main()
    except (DataError, OSError) as error:
        sys.exit(f"data.py: {error}")
