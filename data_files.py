"""
data_files.py: what all loaders of sets on disk share.

data.py reads sets of images with captions, data_pairs.py sets of paired arrays. Here stands what
would else be in each of their loaders:

Map      TREES, missing_data    what each set must look like on disk, and where to download it
         read_image             THE picture decoder: every file of every set goes through it
         picture_folder         pictures as a sequence that opens one file at a time
         load_array             the array in a .npy or .npz file
         split_by_hash          train, val and test without a list: each item decides by itself
         file_stamps            has a file changed since its latents were computed?
Rules    Nothing is downloaded: what is missing is explained, with its address. Nothing is
         unpickled: a pickle can run any program. A set that cannot be read at all is a DataError.
         A single broken picture is an OSError: of three million photos, some always are, and who
         reads them decides what to do (the latents are made without; pairs stop, and name it).
"""

import io
import os
import sys
import zlib
from glob import glob

import numpy as np
from PIL import Image

from errors import DataError
from glyphs import Lazy

PICTURES = (".png", ".jpg", ".jpeg")
FLOAT32_MOST = 3e38  # beyond it, a float64 becomes inf when it is made a float32

# What a loader expects below ROOT, and where it comes from. A missing set is answered with this.
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
    """The DataError for a set that is not there, with its tree: `raise missing_data(...)`."""
    where = "no folder was given" if root is None else f"looked in {root}: {why}"
    tree = TREES[name] + "\nNo data at hand? `python train.py` needs none."
    return DataError(f"data set {name} not found ({where}). It needs:{tree}")


# --------------------------------------------------------------------------------------------------
# What a loader says


def say(line):
    """One line for the reader. On stderr, beside the progress bars: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def report(name, root, found, used, skipped):
    """Say what became of a set: once for each split that is loaded from disk.

    found, used   words: "8,091 pictures and 40,455 captions", "7,280 pictures for train"
    skipped       {reason: [item, ...]}: what was left out; the first item of each reason is named

    captions ~/flickr8k: found 8,092 pictures; used 7,280 for train; skipped 1: no such file
    (first: 123.jpg)"""
    parts = [f"found {found}", f"used {used}"]
    for reason, items in skipped.items():
        if items:
            parts.append(f"skipped {len(items):,}: {reason} (first: {items[0]})")
    say(f"{name} {root}: {'; '.join(parts)}")


# --------------------------------------------------------------------------------------------------
# Pictures and arrays


def read_image(source, name, mode=None):
    """A PIL image from a path or from the bytes of a file, all its pixels decoded.

    mode: "RGB", "RGBA" or "L", to which it is converted; None: "L" if it is grey, else "RGB".
    OSError tells `name`."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file) as image:
            if mode is None:
                mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
            # Pillow reads the pixels only now: a file that was cut short is noticed here.
            return image.convert(mode)
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, DecompressionBombError and more.
        raise OSError(f"{name}: cannot read this image ({error})") from error


def picture_folder(root, files):
    """Pictures in files below root, from any sequence of relative paths."""

    def read(i):
        return read_image(os.path.join(root, files[i]), files[i])

    return Lazy(len(files), read, files.__getitem__)


def find_pictures(root, pattern):
    """Sorted paths of the pictures below root that fit a glob pattern."""
    found = sorted(glob(pattern, root_dir=root, recursive=True))
    return [os.path.join(root, file) for file in found if file.lower().endswith(PICTURES)]


def channels_first(image, size=None):
    """PIL image -> (C, H, W) uint8, PyTorch's order; (C, size, size) if a size is given."""
    if size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.atleast_3d(image)  # (H, W, C), C = 1 if it is grey
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def load_array(path, mmap_mode=None):
    """The array of a .npy file, or of a .npz file: its only one, or the one named `latents`.

    mmap_mode="r": rows of a .npy file are read from disk when they are used, and not before."""
    try:
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        name = found.files[0] if len(found.files) == 1 else "latents"
        return found[name]
    except Exception as error:  # a stranger's file may hold anything
        raise DataError(f"{path}: no .npy array, nor .npz with one array ({error})") from error


def fits_float32(array):
    """Of each number, whether float32 can hold it: no NaN, no inf, not over 3e38."""
    return np.abs(array.astype(np.float64)) < FLOAT32_MOST


# --------------------------------------------------------------------------------------------------
# Train, val, test
#
# A set without official parts is split by a hash: a fixed function that scatters ids over [0, 1)
# as if at random. Cut at 0.90 and 0.95, [0, 0.90) is train, [0.90, 0.95) is val, the rest test. So
#    - no list has to be kept, and every computer finds the same parts;
#    - equal ids meet: all captions of an image, all rows of a group are in one part;
#    - a photo that is added later moves no old one from test to train, as a shuffle would.


def split_by_hash(ids, cuts, where):
    """(N,) part 0, 1, ... of N integer ids, cut at `cuts` of their CRC-32 / 2^32, in [0, 1).

    CRC-32 is a checksum, no cipher; but it scatters consecutive numbers evenly, which is all that
    is needed. Of few ids a part may get none; then the ids of largest hash fill it, one a part.
    `where` opens the message of the DataError for fewer ids than parts."""
    ids, row = np.unique(np.asarray(ids).astype("<u8"), return_inverse=True)
    if len(ids) <= len(cuts):
        raise DataError(f"{where}: {len(ids)} separate items, a split needs {len(cuts) + 1}")
    # zlib's function takes bytes, one id at a time: 8 bytes each.
    raw = ids.tobytes()
    crc = (zlib.crc32(raw[at : at + 8]) for at in range(0, len(raw), 8))
    u = np.fromiter(crc, np.float64, len(ids)) / 2**32
    part = np.digitize(u, cuts)
    if len(np.unique(part)) <= len(cuts):
        part[:] = 0
        largest = np.argsort(u)[-len(cuts) :]
        part[largest] = np.arange(len(cuts)) + 1
    return part[row]


def name_ids(names):
    """An integer id of each name, again by CRC-32: `split_by_hash` takes integers."""
    return [zlib.crc32(name.encode()) for name in names]


def split_by_name(paths, cuts, where):
    """`split_by_hash` by the last part of each path: moving the folder moves no file's part."""
    if not paths:
        return []
    return split_by_hash(name_ids(os.path.basename(path) for path in paths), cuts, where)


def file_stamps(paths):
    """[(name, size, time of last change), ...] of the files that are there.

    It goes into a split's key, so that latents of an older file are not used for a newer one. To
    hash the contents would be surer, but all photos would be read at every start."""
    stamps = []
    for path in paths:
        if os.path.isfile(path):
            stat = os.stat(path)
            stamps.append((os.path.basename(path), stat.st_size, stat.st_mtime_ns))
    return stamps
