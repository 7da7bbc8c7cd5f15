"""
data_pairs.py: paired arrays (y, x) for the latent bridge, from official layouts on disk.

    from data_pairs import load_pairs
    pairs = load_pairs("celebahq", "~/celebahq", "train")     -> glyphs.Pairs
    y, x = pairs.of([0, 1, 2])                                (3, 3, 16, 16) and (3, 3, 128, 128)

A set on disk is a list of items, an item the files that make one pair. A loader finds them and says
how to read them; it reads none itself. It returns three things:

    items    [(path, ...), ...]: the files of each pair, those of y first, the file of x last
    part     (N,) 0, 1, 2: whether a pair is of train, val or test
    make     make(path, ...) -> y, x: reads one pair

From these `lazy_pairs` makes a `Pairs` that opens its files when a batch needs them.

Map      LOADERS                          name of a set -> its loader
         faces, handbags, shapenet, folders      the loaders, each with its readers before it
         lazy_pairs                       items, part, make -> Pairs
         load_pairs                       the function that other files call; also for glyph-...
         save_pairs                       twelve pairs as a picture
Letters  V views, C channels, H x W pixels; a volume is (D, H, W), its top first
Try      python data.py ffhq ~/ffhq       counts, shapes, and a picture
"""

import os
from functools import lru_cache
from glob import glob

import numpy as np
from PIL import Image

from data_files import (
    channels_first,
    file_stamps,
    find_pictures,
    fits_float32,
    load_array,
    missing_data,
    read_image,
    split_by_name,
)
from errors import DataError
from glyphs import SPLITS, Lazy, Pairs, digest, glyph_pairs, glyph_solids

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
    return items, split_by_name(files, [0.90, 0.95], root), make


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
    return [(file,) for file in files], part, make


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
    items, models = [], []
    for file in sorted(glob("*/*/model.binvox", root_dir=voxels)):
        model = os.path.dirname(file)  # "02691156/10155655850468db78d106ce0a280f87"
        folder = os.path.join(renderings, model, "rendering")
        if os.path.isdir(folder):
            pictures = [os.path.join(folder, f"{v:02}.png") for v in range(views)]
            items.append((*pictures, os.path.join(voxels, file)))
            models.append(model)
    return items, split_by_name(models, [0.80, 0.90], root), make


# --------------------------------------------------------------------------------------------------
# Your own files: two folders


def read_array_or_picture(path):
    """Any file of `pairs`: a picture (C, H, W) uint8, or its array; floats become float32.

    An array (H, W) becomes (1, H, W), one channel."""
    if not path.lower().endswith((".npy", ".npz")):
        return channels_first(read_image(path, path))
    array = load_array(path)
    # Networks compute in float32. What it cannot hold would be inf, and then NaN, in every weight.
    if array.dtype.kind == "f":
        if not fits_float32(array).all():
            raise DataError(f"{path}: holds NaN, inf or numbers over 3e38")
        array = array.astype(np.float32)
    elif array.dtype not in (np.uint8, bool):
        raise DataError(f"{path}: {array.dtype}; expected floats, uint8 or bool")
    return array[None] if array.ndim == 2 else array


def files_by_stem(top):
    """{"7": "top/7.png", ...} of a folder. DataError: no such folder, or two files of one stem."""
    if not os.path.isdir(top):
        raise missing_data("pairs", top, "no such folder")
    kinds = (".png", ".jpg", ".jpeg", ".npy", ".npz")
    files = [file for file in sorted(os.listdir(top)) if file.lower().endswith(kinds)]
    found = {os.path.splitext(file)[0]: os.path.join(top, file) for file in files}
    # 7.png and 7.jpg: which of them is meant?
    if len(found) < len(files):
        raise DataError(f"{top}: two files of one stem among {', '.join(files[:4])} ...")
    return found


def folders(root, split, source_dir=None, target_dir=None):
    """Two folders whose files share stems: y of one, x of the other. 90 / 5 / 5 % by their hash.

    source/7.png and target/7.npy are a pair; a stem that only one folder has is left out."""

    def make(y_path, x_path):
        return read_array_or_picture(y_path), read_array_or_picture(x_path)

    source = os.path.join(root or "", os.path.expanduser(source_dir or "source"))
    target = os.path.join(root or "", os.path.expanduser(target_dir or "target"))
    y, x = files_by_stem(source), files_by_stem(target)
    stems = [stem for stem in y if stem in x]
    # Two files of each folder show why: "a_src.png" and "a_tgt.png" have no stem in common.
    if not stems:
        some_y = ", ".join(list(y.values())[:2]) or "no file"
        some_x = ", ".join(list(x.values())[:2]) or "no file"
        raise DataError(f"no stem is in both folders: found {some_y} ... and {some_x} ...")
    items = [(y[stem], x[stem]) for stem in stems]
    return items, split_by_name(stems, [0.90, 0.95], target), make


# --------------------------------------------------------------------------------------------------
# From files to Pairs

LOADERS = {
    "celebahq": faces,
    "ffhq": faces,
    "edges2handbags": handbags,
    "shapenet": shapenet,
    "pairs": folders,
}
PAIRS = ["glyph-sr", "glyph-edges", "glyph-faces", "glyph-solids", *LOADERS]


def lazy_pairs(name, split, items, part, make, options):
    """The Pairs of one part. Files are opened when a pair is needed, and then both of its sides.

    A network has one input shape and one output shape, so every pair must look like the first of
    all: DataError names the file that does not, or that cannot be read."""
    rows = np.flatnonzero(np.asarray(part) == SPLITS[split])

    def read(item):
        try:
            return make(*item)
        except OSError as error:  # of read_image, which names the file
            raise DataError(str(error)) from error

    # `Pairs.of` takes the y of a whole batch, then its x. Without this memory of the last 256
    # pairs, every file would be opened and decoded twice.
    @lru_cache(256)
    def both(i):
        item = items[rows[i]]
        y, x = read(item)
        check_like(y, first_y, item[0])
        check_like(x, first_x, item[-1])
        return y, x

    def read_y(i):
        return both(i)[0]

    def read_x(i):
        return both(i)[1]

    def name_y(i):
        return items[rows[i]][0]

    def name_x(i):
        return items[rows[i]][-1]

    # `both` compares with these; they are read at once, so that a wrong folder is told at once.
    first_y, first_x = read(items[0])
    y = Lazy(len(rows), read_y, name_y)
    x = Lazy(len(rows), read_x, name_x)

    # The key notices an exchanged file.
    files = []
    for i in rows:
        files += items[i]
    return Pairs(y, x, digest(name, split, sorted(options.items()), file_stamps(files)))


def check_like(array, first, path):
    if (array.shape, array.dtype) != (first.shape, first.dtype):
        found = f"{array.dtype} {array.shape}"
        raise DataError(f"{path}: {found}; the first has {first.dtype} {first.shape}")


def load_pairs(name, root=None, split="train", **options):
    """One split of paired arrays, as `data.load` of images and captions.

    root is the folder of a set on disk, as in TREES; options: see the loader of that name. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in PAIRS:
        raise DataError(f"no pairs {name!r}; there are {', '.join(PAIRS)}")
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")

    # The embedded sets need no folder. glyph_pairs knows no options: given some, a TypeError.
    if name == "glyph-solids":
        return glyph_solids(split, **options)
    if name not in LOADERS:
        return glyph_pairs(split, name, **options)

    # "pairs" may do without a root: its two folders can be given as they are.
    root = root and os.path.expanduser(root)
    if name != "pairs" and not (root and os.path.isdir(root)):
        raise missing_data(name, root, "no such folder")
    items, part, make = LOADERS[name](root, split, **options)
    if not items:
        raise missing_data(name, root, f"nothing of it for split {split!r}")
    return lazy_pairs(name, split, items, part, make, options)


# --------------------------------------------------------------------------------------------------
# A look at them


def sheet(item):
    """(H, W) or (H, W, 3) of any item: views in a row; a volume as its shadows along j and i."""
    if item.ndim == 4:
        item = np.concatenate(item, axis=-1)  # (V, C, H, W) -> (C, H, V W)
    if item.ndim < 2:
        return np.atleast_2d(item)  # a vector, as a row
    # Of three axes, the first has 1 or 3 channels in a picture, and more layers in a volume.
    if item.ndim == 3 and len(item) not in (1, 3):
        return np.hstack([item.max(2), item.max(1)])
    return item if item.ndim == 2 else item.transpose(1, 2, 0).squeeze()


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
