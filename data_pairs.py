"""
data_pairs.py
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
    missing_data,
    read_image,
    read_picture,
    split_by_name,
)
from errors import DataError
from glyphs import SPLITS, Lazy, Pairs, digest, glyph_pairs, glyph_solids

PAIRS = "glyph-sr glyph-edges glyph-faces glyph-solids celebahq ffhq edges2handbags shapenet pairs"


PAIRS = PAIRS.split()


def faces(root, split, size=128):
    """x = the square in the middle, (3, size, size); y = x shrunk 8 times by Pillow's bicubic.

    90 / 5 / 5 % by a hash of the file's name."""

    def make(path):
        image = read_picture(path)
        s, (left, top) = min(image.size), ((n - min(image.size)) // 2 for n in image.size)
        square = image.crop((left, top, left + s, top + s))
        x = square.resize((size, size), Image.Resampling.BICUBIC)
        return channels_first(x, size // 8), channels_first(x)

    files = find_pictures(root, "**/*")
    return [(f,) for f in files], split_by_name(files, [0.90, 0.95], root), make


def handbags(root, split, size=64):
    """Side by side on disk: y = edges (left), x = photo (right), (3, size, size) both.

    test = the official val part; val = 2 % of train by a hash of the name."""

    def make(path):
        image = read_picture(path)
        w, h = image.size
        if w != 2 * h:
            raise DataError(f"{path}: {w} x {h} pixels are not two squares side by side")
        return [channels_first(image.crop((left, 0, left + h, h)), size) for left in (0, h)]

    files = find_pictures(root, "val/*" if split == "test" else "train/*")
    side = [2] * len(files) if split == "test" else split_by_name(files, [0.98], root)
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
        image = read_picture(path, "RGBA")
        if image.size != (137, 137):
            raise DataError(f"{path}: {image.size} pixels; 3D-R2N2's renderings are 137 x 137")
        grey = Image.new("RGBA", image.size, (240, 240, 240, 255))
        image = Image.alpha_composite(grey, image).convert("RGB")
        return channels_first(image.crop((4, 4, 132, 132)), size)

    renderings, voxels = (os.path.join(root, f"ShapeNet{k}") for k in ("Rendering", "Vox32"))
    models = map(os.path.dirname, sorted(glob("*/*/model.binvox", root_dir=voxels)))
    models = [m for m in models if os.path.isdir(os.path.join(renderings, m, "rendering"))]
    files = [f"rendering/{v:02}.png" for v in range(views)]
    item = lambda m: [os.path.join(renderings, m, file) for file in files]
    items = [(*item(m), os.path.join(voxels, m, "model.binvox")) for m in models]
    make = lambda *paths: (np.stack([view(p) for p in paths[:-1]]), read_binvox(paths[-1]))
    return items, split_by_name(models, [0.80, 0.90], root), make


def read_array_or_picture(path):
    """Any file of `pairs`: a picture (C, H, W) uint8, or its array; floats become float32."""
    try:
        if not path.lower().endswith((".npy", ".npz")):
            return channels_first(read_image(path, path))
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
            raise missing_data("pairs", top, "no such folder")
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
    make = lambda *paths: [read_array_or_picture(path) for path in paths]
    return items, split_by_name(stems, [0.90, 0.95], top), make


def lazy_pairs(name, split, items, side, make, options):
    """Pairs of files, read when asked for, and once for both y and x. All must look like the first
    item of all splits: DataError names the file that does not."""
    index = np.flatnonzero(np.asarray(side) == SPLITS[split])
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
    return Pairs(part(0), part(1), digest(name, split, sorted(options.items()), file_stamps(files)))


def load_pairs(name, root=None, split="train", **options):
    """One split of paired arrays, as `load` of images and captions.

    root is the folder of a set on disk, as in TREES; options: see the loader of that name. Raises
    DataError for an unknown name or split, and for data that is missing or broken."""
    if name not in PAIRS:
        raise DataError(f"no pairs {name!r}; there are {', '.join(PAIRS)}")
    if split not in SPLITS:
        raise DataError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if name.startswith("glyph"):
        if name == "glyph-solids":
            return glyph_solids(split, **options)
        return glyph_pairs(split, name, **options)  # which has none: TypeError
    root = root and os.path.expanduser(root)
    if name != "pairs" and not (root and os.path.isdir(root)):
        raise missing_data(name, root, "no such folder")
    loaders = dict(edges2handbags=handbags, shapenet=shapenet, pairs=folders)
    items, side, make = loaders.get(name, faces)(root, split, **options)
    if not items:
        raise missing_data(name, root, f"nothing of it for split {split!r}")
    return lazy_pairs(name, split, items, side, make, options)


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
