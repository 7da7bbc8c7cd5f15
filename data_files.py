"""
data_files.py
"""

import io
import os
import zlib
from glob import glob

import numpy as np
from PIL import Image

from errors import DataError
from glyphs import Lazy

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


def missing_data(name, root, why):
    where = "no folder was given" if root is None else f"looked in {root}: {why}"
    tree = TREES[name] + "\nNo data at hand? `python train.py` needs none."
    return DataError(f"data set {name} not found ({where}). It needs:{tree}")


def read_image(source, name):
    """A fully decoded RGB or L image from a path or from bytes; OSError names the broken one."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except Exception as error:  # decoders also raise SyntaxError, struct.error, bomb errors, ...
        raise OSError(f"{name}: cannot read this image ({error})") from error


def read_picture(path, mode="RGB"):
    """As `read_image`, in a given mode; DataError."""
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except Exception as error:
        raise DataError(f"{path}: cannot read this image ({error})") from error


def picture_folder(root, files):
    """Pictures in files below root, from any sequence of relative paths."""
    read = lambda i: read_image(os.path.join(root, files[i]), files[i])
    return Lazy(len(files), read, files.__getitem__)


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


def find_pictures(root, pattern):
    """Sorted paths of the pictures below root that fit a glob pattern."""
    found = sorted(glob(pattern, root_dir=root, recursive=True))
    return [os.path.join(root, f) for f in found if f.lower().endswith((".png", ".jpg", ".jpeg"))]


def channels_first(image, size=None):
    """PIL image -> (C, H, W) uint8, (C, size, size) if a size is given."""
    image = image.resize((size, size), Image.Resampling.BICUBIC) if size else image
    return np.ascontiguousarray(np.atleast_3d(image).transpose(2, 0, 1))


def split_by_hash(ids, cuts, where):
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


def split_by_name(names, cuts, where):
    """`side_of` by a hash of each path's last part."""
    ids = [zlib.crc32(os.path.basename(name).encode()) for name in names]
    return split_by_hash(ids, cuts, where) if ids else []


def file_stamps(paths):
    """Name, size and time of each file: notices a change without reading millions of rows."""
    there = [(os.path.basename(p), os.stat(p)) for p in paths if os.path.isfile(p)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in there]
