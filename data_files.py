"""
data_files.py: what all loaders of sets on disk share.

data.py reads sets of images with captions, data_pairs.py sets of paired arrays. Here stands what
would else be in each of their loaders:

Map      TREES, missing_data    what each set must look like on disk, and where to download it
         data_folder            where a set is looked for: THE rule of --data-dir
         say, report            what a loader tells of what it found, used and skipped
         read_image             THE picture decoder: every file of every set goes through it
         colour_of              is a set grey or colour?
         picture_folder         pictures as a sequence that opens one file at a time
         load_array             the array in a .npy or .npz file
         split_by_hash          train, val and test without a list: each item decides by itself
         file_stamps            has a file changed since its latents were computed?
Rules    Nothing is downloaded: what is missing is explained, with its address, and with fetch.py's
         command where there is one. Nothing is
         unpickled: a pickle can run any program. A set that cannot be read at all is a DataError.
         A single broken picture is an OSError: of three million photos, some always are, and who
         reads them decides what to do (the latents are made without; pairs stop, and name it).
"""

import io
import os
import shlex
import sys
import zlib
from glob import glob

import numpy as np
from PIL import Image

from errors import DataError
from glyphs import Lazy
from official_archives import SETS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FLOAT32_MOST = 3e38  # beyond it, a float64 becomes inf when it is made a float32
# To be raised when `read_image` gives other pixels for the same file. It is part of the keys of
# sets with picture files, so that latents of the old pixels are not used for the new ones.
# 1: Pillow's own convert; 2: 16 bits divided by 257, alpha on white, upright by EXIF.
DECODER = 2

# What a loader expects below ROOT, and where it comes from. A missing set is answered with this.
TREES = {
    "coco": """
  ROOT/annotations/captions_{train,val}2014.json         (or 2017)
  ROOT/train2014/COCO_train2014_000000000009.jpg ...     (or ROOT/images/train2014/...)
  ROOT/dataset_coco.json                                 optional: Karpathy's split
  With the val part alone, this is split into train, val and test. The smallest download, 1.1 GB:
     python data.py --fetch coco-val2017
  http://images.cocodataset.org/zips/{train2014,val2014}.zip    13.5 and 6.6 GB (2017: 19.3, 0.8)
  http://images.cocodataset.org/annotations/annotations_trainval{2014,2017}.zip   0.25 GB each
  https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip""",
    "cc3m": """
  ROOT/cc3m-{train,validation}-0000.tar ... or ROOT/{train,validation}/00000.tar ...
     with members KEY.jpg and KEY.txt; or ROOT/00000.tar ... alone: then 90 / 5 / 5 % are train, val
     and test; or, as open_clip's gather_cc.py writes it,
  ROOT/{Train_GCC-training,Validation_GCC-1.1.0-Validation}*.{tsv,csv}
     with rows `caption TAB path of an image below ROOT`
  https://huggingface.co/datasets/pixparse/cc3m-wds             2.9 M pairs in 576 + 16 shards
  https://ai.google.com/research/ConceptualCaptions/download    0.5 GB of addresses; with a first
     line caption TAB url:  img2dataset --url_list Train_GCC-training.tsv --input_format tsv \\
       --url_col url --caption_col caption --output_format webdataset --output_folder ROOT/train""",
    "celeba": """
  ROOT/img_align_celeba/000001.jpg ... 202599.jpg
  ROOT/list_attr_celeba.txt, ROOT/list_eval_partition.txt
  or the official ROOT/{Anno,Eval,Img}/..., or Kaggle's .csv tables
  http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html       1.4 GB: the aligned and cropped images""",
    "cifar10": """
  ROOT/cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin, batches.meta.txt
  https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz       0.17 GB""",
    "captions": """
  ROOT/captions.csv, captions.txt, metadata.jsonl ...    rows of a picture's name and a sentence,
                                                         any number of rows for a picture
     with a header (image,caption; also separated by TAB, | or ;), or `x.jpg,a sentence` from the
     first line on, or `x.jpg#0 TAB a sentence`
  ROOT/*.jpg                                             or in folders below: ROOT/Images ...
  your own photos; Flickr8k and Flickr30k as they are unpacked, from
  https://shannon.cs.illinois.edu/DenotationGraph or Kaggle""",
    "latents": """
  image_latents=A.npy, text_latents=B.npy          (N, h1), (N, h2) floats: rows i are a pair
     or A.npz, or A.pt of one tensor; or a folder of parts, img_emb_0.npy, img_emb_1.npy, ..., as
     clip-retrieval writes them; or a pattern of these in quotes, 'DIR/img_emb_*.npy'
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
  http://ftp.cs.stanford.edu/cs/cvgl/{ShapeNetRendering,ShapeNetVox32}.tgz    made for 3D-R2N2;
  its own address, http://cvgl.stanford.edu/data2/..., no longer answers""",
    "nuscenes": """
  ROOT/v1.0-{trainval,mini}/{scene,sample,sample_data,calibrated_sensor,sensor}.json
  ROOT/samples/CAM_*/*.jpg                         1600 x 900; the key frames of six cameras
  ROOT/nuscenes_occ/samples/*__LIDAR_TOP__*.pcd.bin.npy    SurroundOcc's labels: x, y, z, class
  https://www.nuscenes.org/download                "metadata" and "keyframe blobs"; a registration
  https://github.com/weiyithu/SurroundOcc          docs/data.md: labels, 200 x 200 x 16, 5 GB""",
    "voxceleb": """
  ROOT/vox1_meta.csv                               TAB between: VoxCeleb1 ID, VGGFace1 ID, ...
  ROOT/wav/id10270/VIDEO/00001.wav                 or ROOT/id*, ROOT/{dev,test}/wav/id*, ...
  ROOT/unzippedFaces/NAME/.../*.jpg                or ROOT/NAME, ROOT/faces/NAME; all pictures below
  https://www.robots.ox.ac.uk/~vgg/data/voxceleb/  VoxCeleb1: audio files 33 GB, cropped faces, and
  https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/vox1_meta.csv""",
    "pairs": """
  source_dir=A, target_dir=B                       below ROOT, if any; default ROOT/{source,target}
  A/STEM.{png,jpg,webp,bmp,tif,gif,wav,npy,npz}, B/STEM...   files of one stem are a pair, also in
                                                   folders below: A/x/7.png and B/x/7.npy;
                                                   A/7_rgb.jpg and B/7_depth.png, if all end so
  axes of an array: (n), (H, W), (C, H, W) or (H, W, C) with C up to 4, (D, H, W), (V, C, H, W);
     floats, uint8, uint16 or bool; a .npz of one array. A .wav is read as a log-mel picture
  no address: any two things that belong together""",
}

TREES["voxceleb-faces"] = TREES["voxceleb"]
SAME_FOLDER = {"voxceleb-faces": "voxceleb"}  # the same files, read the other way round


def data_places(name):
    """[$MODALITY_DATA/NAME, datasets/NAME]: where a set is looked for without --data-dir.

    The variable is for a disk that several people, or several copies of this repository, share."""
    folder = SAME_FOLDER.get(name, name)
    tops = (os.environ.get("MODALITY_DATA"), "datasets")
    return [os.path.join(os.path.expanduser(top), folder) for top in tops if top]


def data_folder(name, given=None, options=None):
    """The folder of a set: `given`, else the first of data_places that is there, else None.

    options: the loader's. Two files that are named (--source-dir, --image-latents) lie where they
    say: they must not be looked for in a folder that only happens to be there."""
    named = ("image_latents", "text_latents", "source_dir", "target_dir")
    if given or any((options or {}).get(option) for option in named):
        return given
    found = [place for place in data_places(name) if os.path.isdir(place)]
    return found[0] if found else None


def no_folder(name, given):
    """The DataError where the given folder is none, or where none was given and none was found."""
    if given:
        return missing_data(name, given, "no such folder")
    places = " or ".join(data_places(name))
    return missing_data(name, None, f"give --data-dir, or put it in {places}")


def missing_data(name, root, why):
    """The DataError for a set that is not there, with its tree: `raise missing_data(...)`.

    root None: no folder was given, and why says what to give. What is wrong comes last, with what
    to do: in a terminal the last line is the one that is read."""
    told = why if root is None else f"looked in {root}: {why}"
    # Into the folder that was given: that is where the next try will look.
    if name in SETS:
        where = "" if root is None else f" {shlex.quote(str(root))}"
        told += f"; to download {SETS[name].part}: python data.py --fetch {name}{where}"
    no_data = "No data at hand? `python train.py` needs none."
    return DataError(f"{name} needs:{TREES[name]}\n{no_data}\ndata set {name} not found: {told}")


# --------------------------------------------------------------------------------------------------
# What a loader says


def say(line):
    """One line for the reader. On stderr, beside the progress bars: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


SAID = set()  # topics of `say_once`


def say_once(topic, line):
    """The same for what is true of many files: the first of them is named, the rest is not."""
    if topic not in SAID:
        SAID.add(topic)
        say(line)


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
    where = f"{name} {root}".strip()  # `pairs` may have no root, but two folders
    say(f"{where}: {'; '.join(parts)}")


# --------------------------------------------------------------------------------------------------
# Pictures and arrays


# What EXIF's orientation says of a photo -> how it has to be turned. Phones store a photo as their
# sensor saw it, often lying on its side, and write down how they were held.
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's names of the pixels that it converts to 8-bit RGB as one would expect: black and white,
# grey, a palette, colour; with alpha (A), or multiplied by it (a); inks, video, hue.
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def read_image(source, name, mode=None):
    """A PIL image from a path or from the bytes of a file, all its pixels decoded.

    mode: "RGB", "RGBA" or "L", to which it is converted; None: "L" if it is grey, else "RGB".
    Whatever the file holds, one rule a kind leads to 8 bits a channel:

        16-bit grey     divided by 257, so that 65535 becomes 255; said once
        floats          times 255; they must lie in [0, 1]
        transparent     laid on white, as a browser shows it, unless "RGBA" is wanted; said once
        turned          upright, by its EXIF orientation
        several frames  the first one; said once
        colour profile  ignored, as by PyTorch's loaders
        anything else   refused

    OSError tells `name`."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file) as opened:
            # Before the pixels: to count frames, Pillow goes through the file. Photos of phones are
            # often MPO, with a small preview as their second frame.
            frames = getattr(opened, "n_frames", 1)
            if frames > 1 and opened.format != "MPO":
                say_once("frames", f"{name}: the first of {frames} frames is taken")
            # A file that was cut short is noticed here: opening it has read its header alone.
            opened.load()
            turn = TURNS.get(opened.getexif().get(ORIENTATION))
            image = eight_bits(opened, name)
        if turn is not None:
            image = image.transpose(turn)
        # Pixels that cannot be seen have any colour, often black: without a ground they would show.
        if mode != "RGBA":
            image = on_white(image, name)
        if mode is None:
            mode = "L" if image.mode in ("1", "L") else "RGB"
        return image.convert(mode)
    except Exception as error:
        # Decoders raise SyntaxError, struct.error, DecompressionBombError and more.
        raise OSError(f"{name}: cannot read this image ({error})") from error


def eight_bits(image, name):
    """The image in one of Pillow's 8-bit modes. ValueError where there is no rule for its pixels.

    Pillow's own `convert` cuts off what is over 255: of 16-bit grey all becomes white, and of
    floats in [0, 1] all black."""
    # Pillow calls 16-bit grey I;16, or I, its 32-bit integers, in formats that have no 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        x = np.asarray(image)
        say_once("16 bits", f"{name}: 16-bit grey is divided by 257, so that 65535 becomes 255")
        if x.max() < 64 * 257:
            told = f"{name}: of 16-bit grey up to {x.max()}, {x.max() // 257 + 1} levels are left"
            say_once("few levels", told)
        # A PNG may say that one of its grey values stands for transparent.
        clear = x == image.info.get("transparency", -1)
        return Image.fromarray(np.where(clear, 255, np.rint(x / 257)).astype(np.uint8))

    if image.mode == "F":
        x = np.asarray(image)
        # NaN is no number >= 0, so this refuses it, too.
        if not (x.min() >= 0 and x.max() <= 1):
            raise ValueError(f"floats from {x.min():g} to {x.max():g}; only [0, 1] has a rule")
        return Image.fromarray(np.rint(x * 255).astype(np.uint8))

    if image.mode not in PLAIN + WITH_ALPHA:
        raise ValueError(f"no rule for its mode {image.mode}: save it as 8-bit grey or RGB")
    return image


def on_white(image, name):
    """An image without transparency: where it had some, white shows through."""
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image
    solid = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    # La and RGBa are multiplied by their alpha already: undo that first.
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    # Most files with an alpha channel do not use it: nothing to tell.
    if image.getchannel("A").getextrema()[0] < 255:
        say_once("alpha", f"{name}: transparent pixels are laid on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert(solid)


def colour_of(images, sample):
    """ "L" if all the sampled images are grey, else "RGB". Broken ones are passed over.

    sample: indices of images. The first image alone says little: COCO has hundreds of grey photos
    among its colour ones."""
    for i in sample:
        try:
            if images[i].mode != "L":
                return "RGB"
        except OSError:
            pass  # latents.py counts broken files, and names them
    return "L"


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
        told = f"no .npy array, nor .npz with one array ({error})"
        raise DataError(f"{path}: {array_hint(path) or told}") from error


def array_hint(path):
    """What to do with a path that is no file of NumPy's, if its kind says so; else None."""
    if os.path.isdir(path):
        return "is a folder; join its parts into one file with numpy.concatenate, in their order"
    if path.lower().endswith((".pt", ".pth", ".bin", ".safetensors")):
        return "a file of PyTorch; save it as numpy.save(path, x.float().cpu().numpy())"


def first_equal(x):
    """(N,) of each row of x (N, h), the number of the first row that is equal to it.

    Rows [5, 1], [2, 2], [5, 1] -> 0, 1, 0. x may exceed memory: one number a row is kept, its hash
    of 64 bits, by which two of a million different rows meet once in 40 million files."""
    hashes = np.empty(len(x), np.int64)
    for start in range(0, len(x), 8192):
        rows = np.ascontiguousarray(x[start : start + 8192])
        hashes[start : start + len(rows)] = [hash(row.tobytes()) for row in rows]
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    return first[number]


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
