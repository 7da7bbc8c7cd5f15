"""
tables/encoder_pairs.py: MT Table 3, a translator for each pair of encoders.
"""

import argparse
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import train
from data import NAMES, DataError
from devices import usable
from encoders import EncoderError
from latents import DIRECTIONS
from runs import RunError, TranslatorRun, trained_run
from scores import spread, write_json

TABLE_3 = {  # encoders of images, of texts: (Sim_img, Sim_txt), COCO; MT swaps the column heads
    "clip:ViT-L-14-quickgelu,clip:ViT-L-14-quickgelu": (0.8192, 0.7765),
    "clip:ViT-L-14-quickgelu,bert": (0.7796, 0.9745),
    "dinov2,clip:RN50x4-quickgelu": (0.5207, 0.7917),
}


def encoder_table(args, device):
    """Train a translator for each of --pairs; print its cosines beside mean's and ridge's."""
    dataset, rows = args.on or "glyphs", {}
    for pair in args.pairs:
        image, text = pair.split(",")
        name = re.sub("[^A-Za-z0-9.]+", "-", f"{dataset}-{image}-{text}").strip("-")
        argv = ["--dataset", dataset, "--image-encoder", image, "--text-encoder", text]
        argv += ["--out", f"runs/pairs/{name}"] + ["--download"] * args.download
        for flag, value in {"--steps": args.steps, "--data-dir": args.data_dir}.items():
            argv += [flag, str(value)] if value else []
        run = TranslatorRun(trained_run(train, argv, device), device, args.download)
        evaluation = evaluate.Evaluation(run, args, trained=())
        evaluate.similarity(evaluation)
        rows[pair] = [r for r in evaluation.report.rows if r["task"] == "similarity"]
    print(f"\nMT Table 3, {dataset}; cosine (mean's, ridge's); in brackets MT on COCO")
    width = max(map(len, rows)) + 2
    print(f"{'image, text encoder':{width}}{'Sim_img':>34}{'Sim_txt':>34}")
    for pair, found in rows.items():
        cells = []
        for n, direction in enumerate(DIRECTIONS):
            mine = [r for r in found if r["direction"] == direction]
            of = lambda method: spread([r["cosine"] for r in mine if r["method"] == method], 3)
            cell = f"{of('ours')} ({of('mean')}, {of('ridge')})"
            cells.append(cell + (f" [{TABLE_3[pair][n]}]" if pair in TABLE_3 else ""))
        print(f"{pair:{width}}" + "".join(f"{c:>34}" for c in cells))
    write_json("runs/pairs/table.json", {"dataset": dataset, "rows": rows})


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a translator for each pair of encoders.")
    a = parser.add_argument
    a("pairs", nargs="+", metavar="IMAGE,TEXT", help="an image encoder, a comma, a text encoder")
    a("--steps", type=int, help="training steps (default: those of train.py)")
    a("--on", choices=NAMES, metavar="DATASET", help="the data set (glyphs)")
    a("--data-dir", help="its folder")
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
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"tables/encoder_pairs.py: {error}")
