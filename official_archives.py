"""
official_archives.py: the official files of the data sets that are free to download.

A row for each file: where it is, how many bytes, its checksum, and what is in it. fetch.py reads
these rows, and nothing else says what it does. A set whose owners want a registration, or a person
at a browser, has no row: data_files.TREES says where to go.

Where the facts come from. Sizes and SHA-256 are those that TensorFlow Datasets records in its
url_checksums/{coco,cifar10,celeb_a}.txt, and, for CC3M, Hugging Face in conceptual_captions/
dataset_infos.json. Of these files the authors themselves publish a checksum for CIFAR-10 alone,
MD5 c32a1d4ab5d03f1284b67883e8d87530. captions_{train,val}2014.json have 66,782,097 and 32,421,077
bytes; photos are no smaller in a zip, so a folder of them is given 5 % more than its archive.

Map      Archive, Official    a file; a set
         SETS                 name -> Official: what `python data.py --fetch NAME` takes
"""

from typing import NamedTuple


class Archive(NamedTuple):
    """One official file."""

    name: str
    url: str  # "": it can only be got by hand, and is looked for in ROOT
    size: int  # bytes
    sha256: str
    gives: dict  # {path below ROOT: how many files are in it at least; 1 for a file}
    unpacked: int  # bytes that it may come to at most; 0: it is no archive, it is moved as it is


class Official(NamedTuple):
    """A data set, or a part of one."""

    home: str  # the name of the set, and of its folder: "coco" of "coco-2017"
    part: str  # how much of the set that is: "it", "its lists"
    page: str  # the official page, with the terms of use
    archives: list
    then: str  # what to do next
    by_hand: str = ""  # how to get what has no url


COCO = "http://images.cocodataset.org"  # its https has the certificate of another name
DRIVE = "https://drive.google.com/uc?export=download&id="
GCC = "https://storage.googleapis.com/gcc-data"

TRAIN_2014 = Archive(
    "train2014.zip",
    f"{COCO}/zips/train2014.zip",
    13_510_573_713,
    "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    {"train2014": 82_783},
    14_200_000_000,
)
VAL_2014 = Archive(
    "val2014.zip",
    f"{COCO}/zips/val2014.zip",
    6_645_013_297,
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    {"val2014": 40_504},
    7_000_000_000,
)
NOTES_2014 = Archive(
    "annotations_trainval2014.zip",
    f"{COCO}/annotations/annotations_trainval2014.zip",
    252_872_794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    {"annotations/captions_train2014.json": 1, "annotations/captions_val2014.json": 1},
    110_000_000,
)
TRAIN_2017 = Archive(
    "train2017.zip",
    f"{COCO}/zips/train2017.zip",
    19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    {"train2017": 118_287},
    20_300_000_000,
)
VAL_2017 = Archive(
    "val2017.zip",
    f"{COCO}/zips/val2017.zip",
    815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    {"val2017": 5_000},
    860_000_000,
)
NOTES_2017 = Archive(
    "annotations_trainval2017.zip",
    f"{COCO}/annotations/annotations_trainval2017.zip",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    {"annotations/captions_train2017.json": 1, "annotations/captions_val2017.json": 1},
    110_000_000,
)
CIFAR_10 = Archive(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    {"cifar-10-batches-bin": 7},
    190_000_000,
)
CELEBA_FACES = Archive(
    "img_align_celeba.zip",
    "",
    1_443_490_838,
    "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    {"img_align_celeba": 202_599},
    1_600_000_000,
)
CELEBA_ATTRIBUTES = Archive(
    "list_attr_celeba.txt",
    f"{DRIVE}0B7EVK8r0v71pblRyaVFSWGxPY0U",
    26_721_026,
    "f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
    {"list_attr_celeba.txt": 1},
    0,
)
CELEBA_SPLIT = Archive(
    "list_eval_partition.txt",
    f"{DRIVE}0B7EVK8r0v71pY0NSMzRuSXJEVkk",
    2_836_386,
    "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
    {"list_eval_partition.txt": 1},
    0,
)
# In a folder of their own: in ROOT the loader would take the addresses for files on this disk.
CC3M_TRAIN = Archive(
    "Train_GCC-training.tsv",
    f"{GCC}/Train/GCC-training.tsv",
    564_607_502,
    "eab84e5ebc713a41a6b1f6ae6fa3d6617821a13b03fe24e16004cc4aac189635",
    {"lists/Train_GCC-training.tsv": 1},
    0,
)
CC3M_VAL = Archive(
    "Validation_GCC-1.1.0-Validation.tsv",
    f"{GCC}/Validation/GCC-1.1.0-Validation.tsv",
    2_603_670,
    "528a0c939ec2ad8d1740bd3f459a51e9fe67643050e29f68fabb6da3f8ac985d",
    {"lists/Validation_GCC-1.1.0-Validation.tsv": 1},
    0,
)

# What is printed at the end. {root}: its folder; {data_dir}: --data-dir, where it is needed.
COCO_THEN = """now: python train.py --dataset coco{data_dir} --download
     (--download: CLIP's weights, 0.6 GB, the first time)"""
ON_THEN = "now: python evaluate.py runs/coco-translator --on {home}{data_dir}"
CELEBA_BY_HAND = """the faces are on Google Drive, which gives large files to people only. By hand:
  1. open {page}, "Align&Cropped Images",
     and save img_align_celeba.zip (1.44 GB) in {root}
  2. python data.py --fetch celeba {root}    checks it and unpacks it"""
CC3M_THEN = """these are captions and addresses of pictures. The pictures (days; many are gone):
  1. pip install img2dataset
  2. (printf 'caption\\turl\\n'; cat {root}/lists/Train_GCC-training.tsv) > {root}/lists/train.tsv
  3. img2dataset --url_list {root}/lists/train.tsv --input_format tsv --url_col url \\
       --caption_col caption --output_format webdataset --output_folder {root}/train
  4. 2 and 3 again: from Validation_GCC-1.1.0-Validation.tsv to {root}/validation"""

COCO_PAGE = "https://cocodataset.org/#download"
CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CELEBA_PAGE = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
CC3M_PAGE = "https://ai.google.com/research/ConceptualCaptions/download"
CELEBA = [CELEBA_FACES, CELEBA_ATTRIBUTES, CELEBA_SPLIT]
# Photos before their captions: without captions no loader takes a folder of photos for a set.
SETS = {
    "coco": Official("coco", "it", COCO_PAGE, [TRAIN_2014, VAL_2014, NOTES_2014], COCO_THEN),
    "coco-2017": Official("coco", "it", COCO_PAGE, [TRAIN_2017, VAL_2017, NOTES_2017], COCO_THEN),
    "coco-val2017": Official("coco", "it", COCO_PAGE, [VAL_2017, NOTES_2017], COCO_THEN),
    "cifar10": Official("cifar10", "it", CIFAR_PAGE, [CIFAR_10], ON_THEN),
    "celeba": Official("celeba", "its lists", CELEBA_PAGE, CELEBA, ON_THEN, CELEBA_BY_HAND),
    "cc3m": Official("cc3m", "its lists", CC3M_PAGE, [CC3M_TRAIN, CC3M_VAL], CC3M_THEN),
}
