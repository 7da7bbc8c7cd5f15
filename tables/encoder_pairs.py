"""
tables/encoder_pairs.py: a translator for each pair of encoders; MT Table 3.

    python tables/encoder_pairs.py pca,tfidf pca:32,tfidf:64          two runs of train.py on glyphs
    python tables/encoder_pairs.py dinov2,bert --on coco --data-dir ~/coco --download

MT's point: images and texts may be encoded by models that have never met, such as DINOv2 and BERT,
and the translator still joins them. Its Table 3 gives a cosine for each pair and direction, Sim_img
for text->image and Sim_txt for image->text, and the cosines differ much.

But a COSINE SAYS MORE ABOUT THE TARGET'S SPACE THAN ABOUT THE TRANSLATOR. If all latents of an
encoder share a large mean, any two of them have a high cosine, and so has an answer that ignores
the query. Say unrelated captions have the latents (3, 1, 0, 0), (3, 0, 1, 0) and (3, 0, 0, 1):

    two of them                              cosine 9 / 10 = 0.90
    (3, 0, 0, 0), the answer to anything     cosine 3 / sqrt(10) = 0.95 with each

CLIP's space is of this kind (its mean scores about 0.7), and BERT's is known for it. So MT's 0.9745
into BERT need not be a better translation than its 0.7765 into CLIP. The table therefore prints two
more numbers in each cell: what the mean of the training targets scores, which knows nothing of the
query, and what ridge regression scores, a linear map. What counts is how far ours is above them.

A run is kept in runs/pairs/, so a second call trains only what is new.
"""

import argparse
import os
import re
import sys

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import train
from checkpoints import trained_run
from data import NAMES
from devices import usable
from errors import run_script
from latents import DIRECTIONS
from runs import TranslatorRun
from safe_files import write_json
from scores import at_work, spread

# {encoder of images, of texts: (Sim_img, Sim_txt)} on COCO. MT's column heads are swapped: it has
# CLIP under "text" where the text encoder is BERT.
TABLE_3 = {
    "clip:ViT-L-14-quickgelu,clip:ViT-L-14-quickgelu": (0.8192, 0.7765),
    "clip:ViT-L-14-quickgelu,bert": (0.7796, 0.9745),
    "dinov2,clip:RN50x4-quickgelu": (0.5207, 0.7917),
}
# {encoder: what the best constant answer in its space scores on COCO: as images, as texts}. It is
# the length of the mean of COCO val2014's unit latents, which MT's authors published for this one.
CONSTANT = {"clip:ViT-L-14-quickgelu": (0.5937, 0.7100)}


def encoder_table(args, device):
    """Train a translator for each of args.pairs; print its cosines beside mean's and ridge's.

    Writes runs/pairs/table.json."""
    dataset = args.on or "glyphs"
    # All command lines are read before the first pair is trained, which may take hours.
    for pair in args.pairs:
        train.parse(argv_of(pair, dataset, args))
    table = {}
    for pair in args.pairs:
        folder = train_pair(pair, dataset, args, device)
        with at_work(folder):
            run = TranslatorRun(folder, device, args.download)
            # Without the trained baselines kNN and MLP: the table has no place for them.
            evaluation = evaluate.Evaluation(run, args, trained=())
            evaluate.similarity(evaluation)
        # The report may hold rows of other tasks, from `python evaluate.py` of the same run.
        table[pair] = [r for r in evaluation.report.rows if r["task"] == "similarity"]
    print_table_3(table, dataset)
    write_json("runs/pairs/table.json", {"dataset": dataset, "rows": table})


def train_pair(pair, dataset, args, device):
    """The folder of the run of train.py for "IMAGE,TEXT"; trained now, unless it is there."""
    return trained_run(train, argv_of(pair, dataset, args), device)


def argv_of(pair, dataset, args):
    """The command line of train.py for "IMAGE,TEXT"."""
    image, text = pair.split(",")
    # "glyphs-pca:32-tfidf:32" -> "glyphs-pca-32-tfidf-32": ":" and "/" have no place in a name.
    name = re.sub("[^A-Za-z0-9.]+", "-", f"{dataset}-{image}-{text}").strip("-")
    # Flags that were not given are not passed on, so that the defaults stay those of train.py.
    argv = ["--dataset", dataset, "--image-encoder", image, "--text-encoder", text]
    argv += ["--out", f"runs/pairs/{name}"]
    if args.download:
        argv += ["--download"]
    if args.steps is not None:
        argv += ["--steps", str(args.steps)]
    if args.data_dir:
        argv += ["--data-dir", args.data_dir]
    if args.partial:
        argv += ["--partial"]
    return argv


def print_table_3(table, dataset):
    """table: {pair: rows of the report, each with direction, method, seed and cosine}"""
    print(f"\nMT Table 3, {dataset}; cosine (mean's, ridge's) [MT on COCO, a constant's there]")
    width = max(map(len, table)) + 2  # of the first column: the longest name, and a gap
    print(f"{'image, text encoder':{width}}{'Sim_img':>48}{'Sim_txt':>48}")
    for pair, rows in table.items():
        line = f"{pair:{width}}"
        # Sim_img is the cosine of text->image, the first of DIRECTIONS; Sim_txt of the second.
        for n, direction in enumerate(DIRECTIONS):
            mine = [r for r in rows if r["direction"] == direction]
            cell = f"{cosine_of('ours', mine)} "
            cell += f"({cosine_of('mean', mine)}, {cosine_of('ridge', mine)})"
            if pair in TABLE_3:
                # The target of Sim_img is the first encoder's, of Sim_txt the second one's.
                constant = CONSTANT.get(pair.split(",")[n])
                known = f", {constant[n]:.4f}" if constant else ""
                cell += f" [{TABLE_3[pair][n]:.4f}{known}]"
            line += f"{cell:>48}"
        print(line)


def cosine_of(method, rows):
    """ "0.612 +- 0.003" over noise seeds; "0.612" of a method without chance."""
    return spread([r["cosine"] for r in rows if r["method"] == method], 3)


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a translator for each pair of encoders.")
    a = parser.add_argument
    a("pairs", nargs="+", metavar="IMAGE,TEXT", help="an image encoder, a comma, a text encoder")
    a("--steps", type=int, help="training steps (default: those of train.py)")
    a("--on", choices=NAMES, metavar="DATASET", help="the data set (glyphs)")
    a("--data-dir", help="its folder")
    a("--partial", action="store_true", help="use those of its pictures that are there")
    # The others mean what they mean in evaluate.py, which evaluates each run.
    a("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them (3)")
    a("--pool", type=int, default=1000, help="gallery of R@k (1000)")
    a("--limit", type=int, help="test pairs at most (5000)")
    a("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    a("--download", action="store_true", help="allow fetching encoder weights")
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    for pair in args.pairs:
        if not re.fullmatch("[^,]+,[^,]+", pair):
            parser.error(f"{pair}: an image encoder, a comma, a text encoder")
    return args


def main(argv=None):
    args = parse(argv)
    encoder_table(args, usable(args.device))


if __name__ == "__main__":
    run_script("tables/encoder_pairs.py", main)
