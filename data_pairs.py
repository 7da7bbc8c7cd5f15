"""
data_pairs.py: paired arrays (y, x) for the latent bridge, from official layouts on disk.

    from data_pairs import load_pairs
    pairs = load_pairs("celebahq", "~/celebahq", "train")     -> glyphs.Pairs
    y, x = pairs.of([0, 1, 2])                                (3, 3, 16, 16) and (3, 3, 128, 128)

A set on disk is a list of items, an item the files that make one pair. A loader finds them and says
how to read them; it reads none itself. It returns four things:

    items    [(path, ...), ...]: the files of each pair, those of y first, the file of x last
    part     (N,) 0, 1, 2: whether a pair is of train, val or test
    make     make(path, ...) -> y, x: reads one pair
    skipped  {reason: [file, ...]}: what was found and makes no pair

From these `lazy_pairs` makes a `Pairs` that opens its files when a batch needs them. Of many files
some are always broken, and one of them must not end a run after hours, and again whenever it is
resumed. `Reader` explains what happens then.

Map      LOADERS                          name of a set -> its loader
         faces, handbags, shapenet, folders      the loaders, each with its readers before it;
                           those of your own arrays are in data_arrays.py, nuScenes' in
                           data_nuscenes.py, faces and voices in data_voxceleb.py
         Reader                           broken and odd pairs: replaced, or the set is refused
         lazy_pairs                       items, part, make -> Pairs
         load_pairs                       the function that other files call; also for glyph-...
         save_pairs                       twelve pairs as a picture
Letters  V views, C channels, H x W pixels; a volume is (D, H, W), its top first
Try      python data.py ffhq ~/ffhq       counts, shapes, and a picture
"""

import os
import re
from collections import Counter
from functools import lru_cache
from glob import glob

import numpy as np
from PIL import Image

from data_arrays import read_array_or_picture
from data_files import (
    PICTURES,
    channels_first,
    data_folder,
    file_stamps,
    find_pictures,
    missing_data,
    no_folder,
    read_image,
    report,
    say,
    say_once,
    split_by_name,
)
from data_nuscenes import nuscenes
from data_voxceleb import voxceleb, voxceleb_faces
from errors import DataError
from glyph_rooms import glyph_rooms
from glyph_sounds import glyph_sounds
from glyphs import SPLITS, Lazy, Pairs, digest, glyph_pairs, glyph_solids
from sounds import SPEECH

FEWEST = 10  # pairs: of fewer, train, val and test would be one each, or little more
# The share of broken pairs that is passed over, as latents.py does with images. In a set of up to
# 100 pairs one broken pair is more than that: so these are all read at once.
MAY_BE_BROKEN = 0.01
FIRST_LOOK = 100

# --------------------------------------------------------------------------------------------------
# Photos of faces, 8 times smaller and large: LD's super-resolution, 16 x 16 -> 128 x 128


def faces(root, split, size=128):
    """x = the square in the middle, (3, size, size); y = x shrunk 8 times by Pillow's bicubic.

    90 / 5 / 5 % by a hash of the file's name."""

    def make(path):
        image = read_image(path, path, "RGB")
        # The largest square: photos are cropped, never squeezed.
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        x = square.resize((size, size), Image.Resampling.BICUBIC)
        return channels_first(x, size // 8), channels_first(x)

    files = find_pictures(root, "**/*")
    items = [(file,) for file in files]
    return items, split_by_name(files, [0.90, 0.95], root), make, {}


# --------------------------------------------------------------------------------------------------
# Drawn edges and photos of handbags


def handbags(root, split, size=64):
    """Side by side on disk: y = edges (left), x = photo (right), (3, size, size) both.

    test = the official val part; val = 2 % of train by a hash of the name."""

    def make(path):
        image = read_image(path, path, "RGB")
        width, height = image.size
        if width != 2 * height:
            raise DataError(f"{path}: {width} x {height} pixels are not two squares side by side")
        edges = image.crop((0, 0, height, height))
        photo = image.crop((height, 0, width, height))
        return channels_first(edges, size), channels_first(photo, size)

    # The official parts are called train and val, and val is what papers test on.
    if split == "test":
        files = find_pictures(root, "val/*")
        part = [SPLITS["test"]] * len(files)
    else:
        files = find_pictures(root, "train/*")
        part = split_by_name(files, [0.98], root)
    return [(file,) for file in files], part, make, {}


# --------------------------------------------------------------------------------------------------
# Renderings and voxels of ShapeNet


def read_binvox(path):
    """Voxels (D, H, W) bool of a .binvox file, turned to [k, i, j]: height, top first, then plan.

    The file is a header of text, with a line `dim X Z Y`, and then pairs of bytes (value, count):
    (0, 200) (1, 3) is 200 empty voxels and 3 filled ones. They run along y (up), then z, then x.
    Format: www.patrickmin.com/binvox/binvox.html"""
    try:
        with open(path, "rb") as f:
            head, _, body = f.read().partition(b"\ndata\n")
        words = head.split()
        at = words.index(b"dim") + 1
        if words[0] != b"#binvox":
            raise ValueError("no #binvox in its first line")
        X, Z, Y = (int(n) for n in words[at : at + 3])
        # An odd number of bytes, or runs that do not fill the grid, are a ValueError here.
        value, count = np.frombuffer(body, np.uint8).reshape(-1, 2).T
        volume = np.repeat(value > 0, count).reshape(X, Z, Y)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole binvox file ({error})") from error
    upright = volume.transpose(2, 0, 1)[::-1]  # [x, z, y] -> [-y, x, z]
    return np.ascontiguousarray(upright)


def read_rendering(path, size):
    """One view (3, size, size) of 3D-R2N2: its transparent ground made grey, its margin cut off."""
    image = read_image(path, path, "RGBA")
    if image.size != (137, 137):
        raise DataError(f"{path}: {image.size} pixels; 3D-R2N2's renderings are 137 x 137")
    # Grey 240, and 128 of the 137 pixels, as in LDDBM's code.
    grey = Image.new("RGBA", image.size, (240, 240, 240, 255))
    image = Image.alpha_composite(grey, image).convert("RGB")
    return channels_first(image.crop((4, 4, 132, 132)), size)


def shapenet(root, split, views=4, size=64):
    """3D-R2N2's ShapeNet: y = the first `views` renderings (V, 3, size, size), x = (32, 32, 32).

    Models that both trees have. 80 / 10 / 10 % by a hash of the model's id: not the lists of any
    paper."""

    def make(*paths):
        y = np.stack([read_rendering(path, size) for path in paths[:-1]])
        return y, read_binvox(paths[-1])

    # The same MODEL in two trees: its 24 pictures in one, its voxels in the other.
    renderings = os.path.join(root, "ShapeNetRendering")
    voxels = os.path.join(root, "ShapeNetVox32")
    items, models, alone = [], [], []
    for file in sorted(glob("*/*/model.binvox", root_dir=voxels)):
        model = os.path.dirname(file)  # "02691156/10155655850468db78d106ce0a280f87"
        folder = os.path.join(renderings, model, "rendering")
        if os.path.isdir(folder):
            pictures = [os.path.join(folder, f"{v:02}.png") for v in range(views)]
            items.append((*pictures, os.path.join(voxels, file)))
            models.append(model)
        else:
            alone.append(model)
    # The other way round, too: the trees were made from different versions of ShapeNet.
    rendered = glob("*/*/rendering", root_dir=renderings)
    unbuilt = sorted({os.path.dirname(folder) for folder in rendered} - {*models, *alone})
    skipped = {"voxels without renderings": alone, "renderings without voxels": unbuilt}
    return items, split_by_name(models, [0.80, 0.90], root), make, skipped


# --------------------------------------------------------------------------------------------------
# Your own files: two folders


def files_by_stem(top, skipped):
    """{"7": "top/7.png", "a/7": "top/a/7.npy", ...} of a folder and all folders in it.

    What is no picture, sound or array goes into skipped. DataError: two files of one stem."""
    if not os.path.isdir(top):
        raise missing_data("pairs", top, "no such folder")
    found = {}
    for folder, inner, files in os.walk(top):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        for file in sorted(files):
            path = os.path.join(folder, file)
            # Macs put a hidden ._7.png beside each 7.png; it holds no picture.
            if file[0] == ".":
                skipped.setdefault("a hidden file", []).append(path)
            elif not file.lower().endswith((*PICTURES, ".wav", ".npy", ".npz")):
                skipped.setdefault("no picture, .wav, .npy or .npz", []).append(path)
            else:
                stem = os.path.splitext(os.path.relpath(path, top))[0]
                # 7.png and 7.jpg: which of them is meant?
                if stem in found:
                    raise DataError(f"{top}: two files of one stem: {found[stem]} and {path}")
                found[stem] = path
    return found


def without_endings(files, top):
    """{"7": ..., "8": ...} of {"7_rgb": ..., "8_rgb": ...}: files whose stems all end alike.

    Programs that write pictures and depth maps often tell them apart by such an ending. It begins
    with one of - _ . and holds no digit, which would be part of a number."""
    endings = {re.search(r"([-_.][^-_.\d/]+)?$", stem)[0] for stem in files}
    if len(endings) != 1 or endings == {""}:
        return files
    ending = endings.pop()
    say_once((top, ending), f"{top}: all names end with {ending}; pairs are found without it")
    return {stem.removesuffix(ending): path for stem, path in files.items()}


def folders(root, split, source_dir=None, target_dir=None, seconds=None):
    """Two folders whose files share stems: y of one, x of the other. 90 / 5 / 5 % by their hash.

    source/7.png and target/7.npy are a pair; a stem that only one folder has is left out. If no
    stem is in both, as with 7_rgb.png and 7_depth.png, an ending common to a folder is dropped.
    seconds: how much of a .wav is seen, 2.56 if it is not given."""
    how = SPEECH if seconds is None else SPEECH._replace(seconds=seconds)

    def make(y_path, x_path):
        return read_array_or_picture(y_path, how), read_array_or_picture(x_path, how)

    if not (root or (source_dir and target_dir)):
        raise missing_data("pairs", None, "give --source-dir and --target-dir, or --data-dir")
    source = os.path.join(root or "", os.path.expanduser(source_dir or "source"))
    target = os.path.join(root or "", os.path.expanduser(target_dir or "target"))
    skipped = {}
    y, x = files_by_stem(source, skipped), files_by_stem(target, skipped)
    # Each file would be its own partner: the network would learn to copy.
    if os.path.samefile(source, target):
        told = "is given twice: move its sources and its targets into a folder each"
        raise DataError(f"pairs: {source} {told}")
    if not y.keys() & x.keys():
        y, x = without_endings(y, source), without_endings(x, target)
    stems = [stem for stem in y if stem in x]
    skipped["no target of its stem"] = [y[stem] for stem in y if stem not in x]
    skipped["no source of its stem"] = [x[stem] for stem in x if stem not in y]
    # Two files of each folder show why: "a_src.png" and "a_tgt.png" have no stem in common.
    if not stems:
        some_y = ", ".join(list(y.values())[:2]) or "no file"
        some_x = ", ".join(list(x.values())[:2]) or "no file"
        told = f"no stem is in both folders: found {some_y} ... and {some_x} ..."
        raise DataError(f"{told}; give the two files of a pair one name")
    items = [(y[stem], x[stem]) for stem in stems]
    return items, split_by_name(stems, [0.90, 0.95], target), make, skipped


# --------------------------------------------------------------------------------------------------
# From files to Pairs

LOADERS = {
    "celebahq": faces,
    "ffhq": faces,
    "edges2handbags": handbags,
    "shapenet": shapenet,
    "nuscenes": nuscenes,
    "voxceleb": voxceleb,
    "voxceleb-faces": voxceleb_faces,
    "pairs": folders,
}
SOUNDS = ("glyph-sounds", "glyph-sights")
SCENES = ("glyph-solids", "glyph-rooms")
PAIRS = ["glyph-sr", "glyph-edges", "glyph-faces", *SCENES, *SOUNDS, *LOADERS]


class Reader:
    """Reads pairs, and notices those that cannot be used: broken, or unlike the others.

    A network has one input shape and one output shape. Which ones, a first look at up to 100 pairs,
    evenly spread, tells. To read all of them at every start would be sure, but takes ten minutes
    for 70,000 photos; so a larger set may hold broken files that are met only in training.

    broken    {number of an item: why}. Over 1 % of all: DataError
    like      [(shape, dtype) of y, (shape, dtype) of x]; None before the first look"""

    def __init__(self, name, items, make):
        self.name, self.items, self.make = name, items, make
        self.broken, self.like = {}, None
        some = np.linspace(0, len(items) - 1, min(len(items), FIRST_LOOK)).astype(int)
        looks = {n: self.read(n) for n in some}
        looks = {n: pair for n, pair in looks.items() if pair is not None}
        if not looks:
            raise DataError(self.refusal())
        self.like = [most_common(side) for side in zip(*looks.values(), strict=True)]
        # Which of them are unlike most?
        sound = [self.read(n, pair) for n, pair in looks.items()]
        targets = [pair[1] for pair in sound if pair is not None]
        # Were all targets the same, there would be nothing to learn.
        if len(items) > 1 and self.all_targets_are(targets[0]):
            raise DataError(f"{name}: all {len(items):,} targets are the same")
        y, x = (described(*like) for like in self.like)
        say_once((name, y, x), f"{name}: source: {y}; target: {x}")

    def read(self, n, pair=None):
        """(y, x) of item n, or None if it cannot be used; pair: what was read of it before."""
        if n in self.broken:
            return None
        try:
            item = self.items[n]
            pair = pair or self.make(*item)
            if self.like is None:
                return pair
            return fitted(pair[0], self.like[0], item[0]), fitted(pair[1], self.like[1], item[-1])
        except (OSError, DataError) as error:  # both name the file
            self.broken[n] = str(error)
        if len(self.broken) > MAY_BE_BROKEN * len(self.items):
            raise DataError(self.refusal())
        # Five names are enough to see what is wrong.
        if len(self.broken) <= 5:
            say(f"{self.broken[n]}; the next pair takes its place")

    def all_targets_are(self, x):
        """Whether all targets equal x. It reads no further than to the first that does not."""
        for n in range(len(self.items)):
            pair = self.read(n)
            if pair is not None and (pair[1] != x).any():
                return False
        return True

    def refusal(self):
        first = next(iter(self.broken.values()))
        told = f"{len(self.broken)} of {len(self.items):,} pairs cannot be used, over 1 %"
        return f"{self.name}: {told}: {first}"


def most_common(arrays):
    """The (shape, dtype) of most of them; of grey and colour pictures of one size, colour's."""
    count = Counter((array.shape, array.dtype) for array in arrays)
    shape, dtype = count.most_common(1)[0][0]
    if dtype == np.uint8 and len(shape) == 3 and shape[0] == 1:
        colour = ((3, *shape[1:]), dtype)
        if colour in count:
            return colour
    return shape, dtype


def fitted(array, like, path):
    """The array, if it is like that (shape, dtype), or grey and the others colour. DataError."""
    shape, dtype = like
    if (array.shape, array.dtype) == like:
        return array
    is_grey = array.dtype == dtype == np.uint8 and array.ndim == 3 and len(array) == 1
    if is_grey and shape == (3, *array.shape[1:]):
        say_once(("grey", os.path.dirname(path)), f"{path}: grey among colour, made R = G = B")
        return np.repeat(array, 3, axis=0)
    raise DataError(f"{path}: {array.dtype} {array.shape}; most have {dtype} {shape}")


def described(shape, dtype):
    """What an item is taken for, in words: "pictures (3, 64, 64) uint8"."""
    kinds = {1: "vectors", 3: "pictures" if shape[0] <= 4 else "volumes", 4: "views"}
    return f"{kinds[len(shape)]} {shape} {dtype}"


def lazy_pairs(name, root, split, found, options):
    """The Pairs of one part of what a loader has found. Files are opened when a pair is needed.

    A pair that cannot be used is replaced by the next one of its part that can. Which one, depends
    on the files alone, so a resumed run sees the batches that it would have seen without a stop."""
    items, part, make, skipped = found
    rows = np.flatnonzero(np.asarray(part) == SPLITS[split])
    report(name, root, f"{len(items):,} pairs", f"{len(rows):,} for {split}", skipped)
    if split == "train" and len(items) < FEWEST:
        told = f"{len(items)} pairs are too few to be cut into train, val and test"
        raise DataError(f"{name} {root}: {told}; give at least {FEWEST}")
    reader = Reader(name, items, make)

    # `Pairs.of` takes the y of a whole batch, then its x. Without this memory of the last 256
    # pairs, every file would be opened and decoded twice.
    @lru_cache(256)
    def both(i):
        for other in (*range(i, len(rows)), *range(i)):
            pair = reader.read(rows[other])
            if pair is not None:
                return pair
        raise DataError(f"{name} {root}: no pair for {split} can be used; {reader.refusal()}")

    def read_y(i):
        return both(i)[0]

    def read_x(i):
        return both(i)[1]

    def name_y(i):
        return items[rows[i]][0]

    def name_x(i):
        return items[rows[i]][-1]

    y = Lazy(len(rows), read_y, name_y)
    x = Lazy(len(rows), read_x, name_x)

    # The key notices an exchanged file.
    files = []
    for i in rows:
        files += items[i]
    return Pairs(y, x, digest(name, split, sorted(options.items()), file_stamps(files)))


def load_pairs(name, root=None, split="train", **options):
    """One split of paired arrays, as `data.load` of images and captions.

    root is the folder of a set on disk, as in TREES, or None: see data_folder; options: see the
    loader of that name. Raises DataError for an unknown name or split, and for data that is
    missing or broken."""
    if name not in PAIRS:
        raise DataError(f"no pairs {name!r}; there are {', '.join(PAIRS)}")
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")

    # The embedded sets need no folder. glyph_pairs knows no options: given some, a TypeError.
    if name == "glyph-solids":
        return glyph_solids(split, **options)
    if name == "glyph-rooms":
        return glyph_rooms(split, **options)
    if name in SOUNDS:
        return glyph_sounds(split, name, **options)
    if name not in LOADERS:
        return glyph_pairs(split, name, **options)

    # "pairs" may do without a root: its two folders can be given as they are.
    root = data_folder(name, root, options)
    root = root and os.path.expanduser(root)
    if name != "pairs" and not (root and os.path.isdir(root)):
        raise no_folder(name, root)
    found = LOADERS[name](root, split, **options)
    if not found[0]:
        raise missing_data(name, root, f"nothing of it for split {split!r}")
    return lazy_pairs(name, root or "", split, found, options)


# --------------------------------------------------------------------------------------------------
# A look at them


def sheet(item):
    """(H, W) or (H, W, 3) of any item: views in a row; a volume as its shadows along j and i."""
    if item.ndim == 4:
        item = np.concatenate(item, axis=-1)  # (V, C, H, W) -> (C, H, V W)
    if item.ndim < 2:
        return np.atleast_2d(item)  # a vector, as a row
    # Of three axes, the first has up to 4 channels in a picture, and more layers in a volume.
    if item.ndim == 3 and len(item) > 4:
        return np.hstack([item.max(2), item.max(1)])
    if len(item) == 2:
        item = item[:1]  # two channels have no colours
    return item if item.ndim == 2 else np.atleast_2d(item.transpose(1, 2, 0).squeeze())


def save_pairs(pairs, path):
    """Twelve pairs, spread evenly over the split, y left of x."""
    from matplotlib.figure import Figure  # draws without a display

    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(4, 6).flatten()
    some = np.linspace(0, len(pairs.x) - 1, 12).astype(int)
    for row, left, right in zip(some, axes[0::2], axes[1::2], strict=True):
        for ax, item in ((left, pairs.y[row]), (right, pairs.x[row])):
            # Pixels have a fixed scale; of other numbers matplotlib finds it.
            scale = {"vmin": 0, "vmax": 255} if item.dtype == np.uint8 else {}
            ax.imshow(sheet(item), cmap="gray", **scale)
            ax.axis("off")
    figure.savefig(path, dpi=120)
