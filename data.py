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
         Strings, Spans  millions of strings or pictures as one buffer or as byte positions in files
         side_of         which side of a split an id falls on, by a hash
Letters  N images, L captions, P pairs, i an image, j a caption
Rules    nothing is downloaded; nothing is unpickled; a missing set stops with the tree it expects
Try      python data.py                          counts of the embedded set, and a picture of it
         python data.py coco ~/coco              the same for a data set on your disk
         python data.py latents A.npy B.npy      row i of A belongs to row i of B
"""

import argparse
import csv
import difflib
import hashlib
import io
import json
import os
import re
import sys
import textwrap
import unicodedata
import zipfile
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


# --------------------------------------------------------------------------------------------------
# what every set on disk needs: pictures and words read late, a hash that splits, a key


def read_image(source, name):
    """A fully decoded RGB or L image from a path or from bytes; OSError names the broken one."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(("I", "F")):  # convert("L") would clip them to plain white
                raise ValueError(f"mode {image.mode}: save it with 8 bits a channel")
            return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # decoders also raise SyntaxError, struct.error, bomb errors, ...
        raise OSError(f"{name}: cannot read this image ({error})") from error


def read_text(source, name):
    return source.decode("utf-8", "replace").strip()


def tidy(text):
    return " ".join(text.split())  # COCO's captions hold newlines and double blanks


class Folder:
    """Pictures in files below `root`; `files` is any sequence of N relative paths."""

    def __init__(self, root, files):
        self.root, self.files = root, files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return read_image(os.path.join(self.root, self.files[i]), self.name(i))

    def name(self, i):
        return self.files[i]


class Spans:
    """N pieces of files, read when asked for: where (N, 3) int64 = file number, offset, size.

    make(bytes, name) turns a piece into a picture or a string. Each read opens its file anew, so
    that worker processes never share a file position."""

    def __init__(self, paths, where, make):
        self.paths, self.where, self.make = paths, where, make

    def __len__(self):
        return len(self.where)

    def __getitem__(self, i):
        file, offset, size = self.where[i]
        with open(self.paths[file], "rb") as f:
            f.seek(offset)
            return self.make(f.read(size), self.name(i))

    def name(self, i):
        return f"{self.paths[self.where[i][0]]} at byte {self.where[i][1]}"


def side_of(ids, cuts, where):
    """(N,) side 0, 1, ... of N integer ids, cut at `cuts` of a hash (splitmix64) in [0, 1).

    Equal ids stay together and new ids move no old one. Only in a tiny set, where a side would stay
    empty, does it take the ids next to its cut. DataError if there are fewer ids than sides."""
    ids, row = np.unique(np.asarray(ids).astype(np.uint64), return_inverse=True)
    spare = len(ids) - len(cuts) - 1
    if spare < 0:
        raise DataError(f"{where}: {len(ids)} separate items, a split needs {len(cuts) + 1}")
    z = ids + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = (z ^ (z >> np.uint64(31))) / 2.0**64
    ranked, borders = np.sort(u), [0]
    for k, cut in enumerate(cuts, 1):
        borders.append(np.clip(np.searchsorted(ranked, cut), borders[-1] + 1, spare + k))
    return np.digitize(u, ranked[borders[1:]])[row]


def stamp(paths):
    """Name, size and time of each file: notices a change without reading millions of rows."""
    there = [(os.path.basename(p), os.stat(p)) for p in paths if os.path.isfile(p)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in there]


def home(root, tops, files):
    """The first of the folders root/top that holds one of the files (of the first 100), or None."""
    folders = [os.path.join(root, top) for top in tops]
    there = lambda folder: any(os.path.isfile(os.path.join(folder, f)) for f in files[:100])
    return next(filter(there, folders), None)


def listed(name, split, root, tops, rows, sources):
    """Split of rows [(relative path, [caption, ...]), ...]; pictures in one of the root/tops."""
    rows = [(file, texts) for file, raw in rows if (texts := [t for t in map(tidy, raw) if t])]
    files = [file for file, _ in rows]
    folder = home(root, tops, files)
    if rows and folder is None:
        raise missing(name, root, f"no image {files[0]}")
    owner = np.repeat(np.arange(len(rows)), [len(texts) for _, texts in rows])
    return Split(
        images=Folder(folder, Strings(files)),
        captions=Strings(text for _, texts in rows for text in texts),
        pairs=np.stack([owner, np.arange(len(owner))], 1),
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
  ROOT/cc3m-train-0000.tar, ROOT/cc3m-validation-0000.tar ...   members KEY.jpg and KEY.txt
  or ROOT/{train,validation}/00000.tar ...                      as img2dataset writes them
  or ROOT/{Train_GCC-training,Validation_GCC-1.1.0-Validation}*.{tsv,csv}
     with rows `caption TAB path of an image below ROOT`        as open_clip's gather_cc.py writes
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


def coco(root, split, year=None, karpathy=None):
    """COCO, 5 to 7 captions an image: 2014 (the paper's) if there, else 2017.

    test = the official val images; val = 2 % of the official train images, taken out of train. If
    ROOT/dataset_coco.json is there and no year asked for: Karpathy's 113,287 / 5,000 / 5,000. His
    val and test come from the official val2014, so numbers of the two protocols do not compare."""
    path, part = os.path.join(root, "dataset_coco.json"), "val" if split == "test" else "train"
    if karpathy is None:
        karpathy = year is None and os.path.isfile(path)
    if not karpathy:
        folder = os.path.join(root, "annotations")  # one year for all: train2017 has val2014 in it
        there = [y for y in (2014, 2017) if glob(f"captions_*{y}.json", root_dir=folder)]
        year = year or (there or [2014])[0]
        path = os.path.join(folder, f"captions_{part}{year}.json")
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
    sides = ("train", "restval") if split == "train" else (split,)
    images = [image for image in table["images"] if image["split"] in sides]
    texts = [[sentence["raw"] for sentence in image["sentences"]] for image in images]
    files = [os.path.join(image["filepath"], image["filename"]) for image in images]
    return list(zip(files, texts, strict=True))


def coco_rows(table, folder, split):
    files = {image["id"]: os.path.join(folder, image["file_name"]) for image in table["images"]}
    texts = {k: [] for k in files}
    for row in table["annotations"]:  # in no order
        texts[row["image_id"]].append(row["caption"])
    ids = np.array(list(files))
    if split != "test":
        ids = ids[side_of(ids, [0.98], folder) == SIDES[split]]
    return [(files[k], texts[k]) for k in ids.tolist()]


def cc3m(root, split):
    """Conceptual Captions: shards of images and texts, or a table of captions and local files.

    test = the official validation part; val = 1 % of train. Only byte positions stay in memory."""
    part = "validation" if split == "test" else "train"
    patterns = ("*.tar", "train/*.tar", "validation/*.tar")
    tars = [tar for pattern in patterns for tar in glob(pattern, root_dir=root)]
    files = sorted(t for t in tars if ("validation" in t) == (split == "test"))
    if not tars:
        table = {"train": "Train_GCC-training", "validation": "Validation_GCC-1.1.0-Validation"}
        files = sorted(glob(f"{table[part]}*.[ct]sv", root_dir=root))
    files = [os.path.join(root, f) for f in files]
    if not tars:  # prefer what gather_cc.py made to the addresses that it was made from
        files = sorted(files, key=lists_addresses)[:1]
    if not files:
        raise missing("cc3m", root, f"no {part} part")
    scan = scan_tar if tars else scan_table
    rows = np.concatenate([np.insert(scan(path), 0, k, axis=1) for k, path in enumerate(files)])
    if split != "test":
        rows = rows[side_of(rows[:, 1], [0.99], root) == SIDES[split]]
    images = Spans(files, rows[:, [0, 2, 3]], read_image if tars else read_text)
    return Split(
        images=images if tars else Folder(root, images),
        captions=Spans(files, rows[:, [0, 4, 5]], read_text),
        pairs=np.repeat(np.arange(len(rows))[:, None], 2, axis=1),
        bare=np.zeros(len(rows), bool),
        key=digest("cc3m", split, stamp(files)),
    )


def lists_addresses(path):
    with open(path, "rb") as f:
        return any(b"\thttp" in f.readline() for _ in range(2))  # the first may be a header


def scan_table(path):
    """(n, 5) int64: hash of the image path, its offset and size, offset and size of the caption."""
    if lists_addresses(path):
        raise DataError(f"{path} lists web addresses, not files. Download first:{TREES['cc3m']}")
    found, start = array("q"), 0
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            caption, tab, file = line.rstrip(b"\r\n").rpartition(b"\t")
            if not tab and line.strip():
                raise DataError(f"{path} line {number}: no tab; expected `caption TAB path`")
            if tab and (number > 1 or (caption, file) != (b"title", b"filepath")):
                at = start + len(caption) + 1
                found.extend((zlib.crc32(file), at, len(file), start, len(caption)))
            start += len(line)
    return np.frombuffer(found, np.int64).reshape(-1, 5)


TAR_KINDS = dict.fromkeys((b"jpg", b"jpeg", b"png", b"webp"), "image") | {b"txt": "text"}


def scan_tar(path):
    """(n, 5) int64: hash of KEY, offset and size of KEY.jpg, offset and size of KEY.txt.

    Walks the 512-byte headers and seeks over the contents; `tarfile` builds an object for each."""
    found, at, last, parts, end = array("q"), 0, None, {}, os.path.getsize(path)
    with open(path, "rb") as f:
        while len(head := f.read(512)) == 512:
            if not head[0]:  # an empty block ends a tar
                return np.frombuffer(found, np.int64).reshape(-1, 5)
            digits = head[124:136].strip(b"\0 ")
            if head[257:262] != b"ustar" or not digits.isdigit():
                raise DataError(f"{path}: byte {at} is no header of an uncompressed tar file")
            size = int(digits, 8)
            key, _, kind = head[:100].rstrip(b"\0").rpartition(b"/")[2].partition(b".")
            if head[156] in b"0\0" and kind in TAR_KINDS:  # 0: a plain file
                parts = parts if key == last else {}  # the files of one KEY are neighbours
                last, parts[TAR_KINDS[kind]] = key, (at + 512, size)
                if len(parts) == 2:
                    found.extend((zlib.crc32(key), *parts.pop("image"), *parts.pop("text")))
            at += 512 + -(-size // 512) * 512
            f.seek(at)
    raise DataError(f"{path}: truncated after {end} of at least {at} bytes; fetch it again")


FACE_HAS = """bangs, a receding hairline, bushy eyebrows, arched eyebrows, narrow eyes,
bags under eyes, a big nose, a pointy nose, big lips, an oval face, a double chin, pale skin,
a 5 o'clock shadow, a goatee, a mustache, sideburns, rosy cheeks, heavy makeup, high cheekbones"""
FACE_WEARS = "eyeglasses, a hat, earrings, lipstick, a necklace, a necktie"


def face_caption(attributes):
    """One sentence from CelebA's attribute names, for plain CelebA has no captions:

    "a [blurry] photo of a [attractive] [chubby] [bald] [young] man|woman with [wavy brown] hair,
    .. and .. (FACE_HAS), smiling, mouth slightly open, wearing .. and .. (FACE_WEARS)".
    Only what is present is said: not No_Beard, nor the absence of Young."""
    has = {name.lower().replace("_", " ") for name in attributes}
    who = [word for word in ("attractive", "chubby", "bald", "young") if word in has]
    hair = ("straight", "wavy", "black", "blond", "brown", "gray")
    hair = [word for word in hair if f"{word} hair" in has]
    features = enumerated(([" ".join(hair + ["hair"])] if hair else []) + chosen(FACE_HAS, has))
    worn = enumerated(chosen(FACE_WEARS, has))
    who = " ".join(who + ["man" if "male" in has else "woman"])
    photo = ("a blurry" if "blurry" in has else "a") + " photo of"
    clauses = [
        f"{photo} {'an' if who[0] == 'a' else 'a'} {who}" + (features and f" with {features}"),
        *(word for word in ("smiling", "mouth slightly open") if word in has),
        worn and f"wearing {worn}",
    ]
    return ", ".join(filter(None, clauses))


def chosen(phrases, has):
    """Those phrases whose attribute is there: "a hat" goes with "wearing hat"."""
    bare = {p: re.sub("^an? ", "", p).replace("'", " ") for p in re.split(r",\s", phrases)}
    return [p for p, name in bare.items() if name in has or f"wearing {name}" in has]


def enumerated(words):
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))  # "a, b and c"


def celeba(root, split, allow_train=False):
    """CelebA's aligned faces, captioned by `face_caption`, on the official identity-disjoint split.

    Only an evaluation set, as in the paper: "train" raises DataError unless allow_train."""
    if split == "train" and not allow_train:
        raise DataError("celeba is never trained on: use val or test, or pass allow_train=True")
    top = home(root, ("", "celeba"), ["list_attr_celeba.txt"]) or root
    files = [os.path.join(top, f"list_{name}.txt") for name in ("attr_celeba", "eval_partition")]
    try:
        with open(files[0]) as f, open(files[1]) as g:
            count, names, sides = int(f.readline()), f.readline().split(), dict(map(str.split, g))
            table = [line.split() for line in f]
        if {len(row) for row in table} != {len(names) + 1} or len(table) != count:
            raise ValueError(f"expected {count} rows of a file and {len(names)} values")
        rows = []
        for file, *values in table:
            if sides[file] == str(SIDES[split]):  # CelebA too writes 0 train, 1 val, 2 test
                has = [name for name, v in zip(names, values, strict=True) if v == "1"]
                rows.append((os.path.join("img_align_celeba", file), [face_caption(has)]))
    except FileNotFoundError as error:
        raise missing("celeba", root, f"no {error.filename}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{' or '.join(files)}: not the official table ({error})") from error
    return listed("celeba", split, top, ("",), rows, files)


def cifar10(root, split):
    """CIFAR-10, binary version: (i, j) says image i shows class j; ten captions in every split.

    val = the last 5,000 of the 50,000 train images. `bare` is False although a caption fits
    thousands of images: image -> text is classification here, and must have its answers."""
    folder = home(root, ("", "cifar-10-batches-bin"), ["batches.meta.txt"])
    if folder is None:
        pickled = home(root, ("", "cifar-10-batches-py"), ["data_batch_1", "batches.meta"])
        why = "only the pickled python version, which is never opened; get the binary version"
        raise missing("cifar10", root, why if pickled else "no batches.meta.txt")
    batches = ["test_batch"] if split == "test" else [f"data_batch_{k}" for k in range(1, 6)]
    files = [os.path.join(folder, f"{name}.bin") for name in batches]
    for path in files:
        if not os.path.isfile(path) or os.path.getsize(path) != 10_000 * 3073:
            raise DataError(f"{path}: missing, or not 30,730,000 bytes; unpack the archive again")
    records = [np.memmap(path, np.uint8, "r", shape=(10_000, 3073)) for path in files]
    labels = np.concatenate([record[:, 0] for record in records]).astype(np.int64)
    with open(os.path.join(folder, "batches.meta.txt")) as f:
        classes = f.read().split()
    rows = np.arange(len(labels))
    rows = {"train": rows[:45_000], "val": rows[45_000:], "test": rows}[split]
    where = np.stack([rows // 10_000, rows % 10_000 * 3073 + 1, np.full(len(rows), 3072)], 1)
    return Split(
        images=Spans(files, where, planes),
        captions=Strings(f"a picture of a {name}" for name in classes),  # the paper's, "a airplane"
        pairs=np.stack([np.arange(len(rows)), labels[rows]], 1),
        bare=np.zeros(len(rows), bool),
        key=digest("cifar10", split, stamp(files)),
    )


def planes(source, name):
    return Image.merge("RGB", [Image.frombytes("L", (32, 32), source[k:]) for k in (0, 1024, 2048)])


def captions(root, split):
    """A folder of images with a table of captions: Flickr8k, Flickr30k, your own 12 photos.

    90 / 5 / 5 % by a hash of the image's name, so all captions of an image are on one side."""
    tables = ("captions.txt", "captions.csv", "results.csv", "Flickr8k.token.txt")
    path = next((p for t in tables if os.path.isfile(p := os.path.join(root, t))), None)
    if path is None:
        raise missing("captions", root, "no captions.txt")
    texts = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as f:
            for number, image, caption in caption_rows(f, os.path.basename(path)):
                if not caption or "\n" in caption:  # an unclosed quote swallows the rows below it
                    raise DataError(f"{path} line {number}: expected `image,caption` on one line")
                texts.setdefault(image, []).append(caption)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: not UTF-8 text with commas ({error})") from error
    ids = np.array([zlib.crc32(image.encode()) for image in texts])
    kept = side_of(ids, [0.90, 0.95], path) == SIDES[split]
    rows = [(image, texts[image]) for image in np.array(list(texts))[kept].tolist()]
    tops = ("", "Images", "images", "flickr30k_images")
    found = listed("captions", split, root, tops, rows, [path])
    files = [os.path.join(found.images.root, image) for image, _ in rows]
    return found._replace(key=digest(found.key, stamp(files)))  # notices an exchanged photo


def caption_rows(file, name):
    """(row number, image, caption) of an open table; the caption is empty where a row has none."""
    if name == "Flickr8k.token.txt":  # name.jpg#0 TAB caption
        rows = (re.split(r"#\d+\t", line, maxsplit=1) for line in file)
    elif name == "results.csv":  # name.jpg| 0| caption, but one official row lacks its second bar
        rows = (re.split(r"\|\s*\d+\s*\|?", line, maxsplit=1) for line in file)
    else:
        rows = csv.reader(file)
    first = 1
    for number, row in enumerate(rows, 1):
        if number == 1 and row and "." not in row[0]:  # a header, for it is no file name
            first = 2 if "comment_number" in row else 1
        elif "".join(row).strip():
            yield number, row[0].strip(), ",".join(row[first:]).strip()  # commas without quotes


class Rows:
    """Rows `index` of a 2-D array as float32 copies; nothing is read before it is asked for."""

    def __init__(self, array, index, path):
        self.array, self.index, self.path = array, index, path

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        return np.array(self.array[self.index[i]], np.float32)

    def name(self, i):
        return f"{self.path} row {self.index[i]}"


def open_array(path):
    """The array of a .npy (memory-mapped) or .npz file (its only one, or the one named latents)."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        return found[found.files[0] if len(found.files) == 1 else "latents"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no .npy array, nor .npz with one array ({error})") from error


def check_latents(a, path):
    if a.ndim != 2 or a.dtype.kind != "f" or not a.size:
        raise DataError(f"{path}: expected (rows, width) of floats, found {a.shape} of {a.dtype}")
    for start in range(0, len(a), 8192):  # in chunks: the file may be larger than memory
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(a[start : start + 8192].astype(np.float32)).all(1)
        if bad.any():
            raise DataError(f"{path}: row {start + bad.argmax()} holds NaN or inf; recompute it")


def latents(root, split, image_latents=None, text_latents=None, groups=None):
    """Paired vectors computed elsewhere: row i of image_latents (N, h1) and text_latents (N, h2).

    Rows with equal ids in `groups` (N,) are all positives of each other, and split together.
    90 / 5 / 5 % by a hash of the group, or of the row's number. Paths are relative to root, if any.
    Raises DataError: unreadable, not 2-D, not floats, unequal lengths, NaN or inf."""
    if image_latents is None or text_latents is None:
        raise missing("latents", root, "give image_latents and text_latents")
    paths = [p for p in (image_latents, text_latents, groups) if p is not None]
    paths = [os.path.join(root or "", os.path.expanduser(p)) for p in paths]
    a, b, *ids = map(open_array, paths)
    if len({x.shape[:1] for x in (a, b, *ids)}) > 1:
        shapes = [x.shape for x in (a, b, *ids)]
        raise DataError(f"unequal numbers of rows: {paths} have {shapes}; rows i must be a pair")
    check_latents(a, paths[0])
    check_latents(b, paths[1])
    ids = ids[0] if ids else np.arange(len(a))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{paths[2]}: expected (rows,) of integers, found {ids.shape} {ids.dtype}")
    index = np.flatnonzero(side_of(ids, [0.90, 0.95], paths[0]) == SIDES[split])
    return Split(
        images=Rows(a, index, paths[0]),
        captions=Rows(b, index, paths[1]),
        pairs=(pairs := mates(ids[index], paths[-1])),
        bare=np.zeros(len(pairs), bool),
        key=digest("latents", split, stamp(paths)),
    )


def mates(ids, where):
    """(P, 2) all (i, j) with ids[i] == ids[j]."""
    order = np.argsort(ids, kind="stable")
    _, start, count = np.unique(ids[order], return_index=True, return_counts=True)
    if (count.astype(float) ** 2).sum() > 1e8:
        raise DataError(f"{where}: over 100 M pairs of equal ids; use ids of finer groups")
    start, count = np.repeat(start, count), np.repeat(count, count)  # of the group of order[k]
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # 0 .. count - 1
    return np.stack([np.repeat(order, count), order[np.repeat(start, count) + offset]], 1)


# --------------------------------------------------------------------------------------------------
# the entry point


def load(name, root=None, split="train", **options):
    """One split of a data set: the only function that other files call.

    name     one of NAMES
    root     folder of a set on disk, as in TREES
    split    "train", "val" or "test"
    options  coco: year, karpathy; celeba: allow_train; latents: image_latents, text_latents, groups

    Raises DataError for an unknown name or split, and for data that is missing or broken."""
    on_disk = dict(coco=coco, cc3m=cc3m, celeba=celeba, cifar10=cifar10, captions=captions)
    if name not in NAMES:
        hint = "".join(f"; did you mean {n}?" for n in difflib.get_close_matches(name, NAMES, 1))
        raise DataError(f"no data set {name!r}; there are {', '.join(NAMES)}{hint}")
    if split not in SIDES:
        raise DataError(f"no split {split!r}; there are {', '.join(SIDES)}")
    if name == "glyphs-stix" and split == "train":
        raise DataError("glyphs-stix is never trained on: train on glyphs, test on glyphs-stix")
    if name.startswith("glyphs"):
        return glyphs(split, STIX if name == "glyphs-stix" else FACES)
    root = root and os.path.expanduser(root)
    if name in on_disk and not (root and os.path.isdir(root)):
        raise missing(name, root, "no such folder")
    found = on_disk.get(name, latents)(root, split, **options)
    if not len(found.pairs):
        raise DataError(f"{name} in {root}: no pairs in split {split!r}")
    return found


def save_grid(split, path):
    """24 images of the split, each with a caption."""
    from matplotlib.figure import Figure  # draws without a display

    figure, pairs = Figure(figsize=(12, 9), layout="constrained"), split.pairs[~split.bare]
    some = pairs[np.linspace(0, len(pairs) - 1, min(24, len(pairs))).astype(int)]
    for k, (i, j) in enumerate(some, 1):
        ax = figure.add_subplot(4, 6, k)
        ax.axis("off")
        title = textwrap.fill(textwrap.shorten(split.captions[j], 90), 28)
        ax.set_title(title, fontsize=7, parse_math=False)  # "$" in a caption is a dollar
        try:
            ax.imshow(split.images[i], cmap="gray", vmin=0, vmax=255)
        except OSError as error:
            print(error)
    figure.savefig(path, dpi=120)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", default="glyphs", help="data set (default: glyphs)")
    parser.add_argument("path", nargs="*", help="its folder; latents: A.npy B.npy [GROUPS.npy]")
    args = parser.parse_args()
    found, errors, options = {}, {}, {}
    root = args.path[0] if args.path else None
    if args.name == "latents":
        names = ("image_latents", "text_latents", "groups")
        root, options = None, dict(zip(names, args.path, strict=False))
    for side in SIDES:
        try:
            found[side] = load(args.name, root, side, **options)
        except DataError as error:
            errors[side] = str(error)
    if not found:
        sys.exit(f"data.py: {errors['test']}")
    for side, error in errors.items():
        print(f"{side:6}none: {error.splitlines()[0]}")
    for side, split in found.items():
        images, captions, pairs = map(len, split[:3])
        i, j = split.pairs[pairs // 3]
        example = split.captions[j] if args.name != "latents" else split.captions[j].shape
        print(f"{side:6}{images:>9,} images {captions:>9,} captions {pairs:>9,} pairs", end="   ")
        print(f"e.g. {split.images.name(i)}: {example}")
    if args.name != "latents":
        save_grid(next(iter(found.values())), f"data-{args.name}.png")


if __name__ == "__main__":
    main()
