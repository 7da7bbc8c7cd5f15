"""
evaluate.py: MT's tables and figures for a trained run, beside honest baselines.
"""

import argparse
import os
import sys
import time
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as fn
from PIL import Image

import metrics
from baselines import Baselines, lafite_noise
from data import NAMES, DataError
from devices import usable
from encoders import EncoderError, fixed_sample
from glyphs import FACES
from latents import DIRECTIONS
from pictures import curves, pictures, retrieval, save_figure
from runs import RunError, TranslatorRun
from scores import Report, TestSet, rows_of, spread, write_json

PAPER = {  # trained on, tested on: (Sim_img, Sim_txt), both sides CLIP ViT-B/32; MT Tables 2 and 4
    ("coco", "coco"): (0.8233, 0.8394),
    ("cc3m", "cc3m"): (0.7443, 0.7389),
    ("coco", "celeba"): (0.5974, 0.8237),
}


TABLE_6 = "MT, ViT-B/32: CLIP itself 0.697, translated 0.607; ViT-L/14: 0.851, 0.771"


TABLE_7 = {  # trained and tested on COCO, both sides CLIP ViT-B/32
    "text->image": "MT: projection only 0.8199, ddim only 0.6155, both 0.8233",
    "image->text": "MT: projection only 0.8386, ddim only 0.6280, both 0.8394",
}


SCRIPTS = {  # ten classes of glyphs: the word that opens a character's name -> the prompt's words
    "latin": "latin letter",
    "greek": "greek letter",
    "cyrillic": "cyrillic letter",
    "arabic": "arabic letter",
    "armenian": "armenian letter",
    "georgian": "georgian letter",
    "canadian": "canadian syllabics",
    "braille": "braille pattern",
    "box": "box drawings",
    "lisu": "lisu letter",
}


FACE_WORDS = set(" ".join(FACES.values()).split())  # they come before the name


def table_of(run, exam, direction, baselines, seeds):
    """{method: [z_hat of seed 0, 1, ...]}; methods without chance have one entry."""
    answers = {"ours": [run.translate(direction, exam.c, s) for s in seeds]}
    for name, answer in baselines.answers.items():
        answers[name] = [answer(exam.c)]
    if "identity" in answers:
        answers["noise"] = [lafite_noise(exam.c, s) for s in seeds]
    return answers


def is_papers(run):
    """Whether both encoders are those of MT's Tables 2, 4 and 7."""
    return {run.args.image_encoder, run.args.text_encoder} == {"clip:ViT-B-32-quickgelu"}


def paper_note(run, on, direction):
    """The published cosine, where our setting is the paper's."""
    key = run.args.dataset, on
    if not (is_papers(run) and key in PAPER):
        return ""
    return f"; the paper's cosine: {PAPER[key][DIRECTIONS.index(direction)]:.4f}"


def compare(evaluation, task, on, latents, rows):
    """Ours and every baseline, both directions, on rows of latents.pairs of the data set `on`."""
    for direction in DIRECTIONS:
        exam = TestSet(latents, direction, rows, evaluation.limit, evaluation.pool)
        base = evaluation.baselines[direction]
        answers = table_of(evaluation.run, exam, direction, base, evaluation.seeds)
        table = rows_of(task, direction, exam, answers, base.mean, evaluation.seeds)
        evaluation.report.add(table, paper_note(evaluation.run, on, direction))


def similarity(evaluation):
    compare(
        evaluation,
        evaluation.label("similarity"),
        evaluation.on,
        evaluation.latents,
        evaluation.latents.full,
    )


def bare(evaluation):
    if not len(evaluation.latents.bare):
        print("\nbare: skipped, no caption of this data set stands for several images")
    else:
        compare(
            evaluation, evaluation.label("bare"), "", evaluation.latents, evaluation.latents.bare
        )


def cross_domain(evaluation):
    if evaluation.other:
        compare(
            evaluation,
            evaluation.label("cross-domain"),
            evaluation.on,
            evaluation.latents,
            evaluation.latents.full,
        )
    elif evaluation.on == "glyphs":
        _, stix = evaluation.run.latents("test", "glyphs-stix")
        compare(evaluation, "cross-domain glyphs-stix", "glyphs-stix", stix, stix.full)
    else:
        print("\ncross-domain: skipped, --on names the other data set")


def ablation(evaluation):
    """MT Table 7: each term of Eq. 5 alone, and both, at MT's gamma = 1 and at gamma auto."""
    run = evaluation.run
    for direction in DIRECTIONS:
        exam = evaluation.test_set(direction)
        parts = [run.terms(direction, exam.c, s) for s in evaluation.seeds]
        scale, auto = run.translators[direction].z_scale.cpu(), run.gamma[direction]
        both = lambda gamma: [(cM + gamma * F) / scale for cM, F in parts]
        answers = {
            "projection only": [parts[0][0] / scale],
            "ddim only": [F / scale for _, F in parts],
            "both, gamma 1": both(1.0),
            "both": both(auto),
        }
        task, mean = evaluation.label("ablation"), evaluation.baselines[direction].mean
        rows = rows_of(task, direction, exam, answers, mean, evaluation.seeds)
        evaluation.report.add(rows, f'; gamma of "both": {auto:.2f}')
        if is_papers(run) and evaluation.on == run.args.dataset == "coco":
            print(TABLE_7[direction])


def classification(evaluation):
    """MT Table 6: an image's translated text latent -> the nearest "a picture of a {class}"."""
    classes, prompts, label, images = evaluation.classes()
    if not len(label):
        return print("\nclassification: no classes are defined for this data set; try --on cifar10")
    run, direction = evaluation.run, "image->text"
    prompts = torch.from_numpy(run.E_text(prompts))
    answers = {"ours": [run.translate(direction, images, s) for s in evaluation.seeds]}
    answers |= {name: [f(images)] for name, f in evaluation.baselines[direction].answers.items()}
    nearest = lambda z: (fn.normalize(z) @ fn.normalize(prompts).T).argmax(1)
    out = {m: [metrics.accuracy(nearest(z), label) for z in zs] for m, zs in answers.items()}
    out["most frequent class"] = [np.bincount(label).max() / len(label)]
    print(f"\nclassification of {len(label)} images, {len(classes)} classes: accuracy")
    for method, values in out.items():
        print(f"{method:20} {spread(values, 3)}")
    if evaluation.on == "cifar10":
        print(TABLE_6)
    counts = {c: int((label == k).sum()) for k, c in enumerate(classes)}
    table = {
        "dataset": evaluation.on,
        "classes": counts,
        "accuracy": out,
        "seeds": evaluation.seeds,
    }
    write_json(evaluation.path("classification", ".json"), table)


class Evaluation:
    """A run, its test data (or those of --on), its baselines, and where results go."""

    def __init__(self, run, args, trained=("knn", "mlp")):
        self.run, self.limit, self.pool = run, args.limit or 5000, args.pool
        self.download = args.download
        self.seeds, self.report = list(range(args.seeds)), Report(run.folder)
        self.on = args.on or run.args.dataset
        self.other = self.on != run.args.dataset
        self.test, self.latents = run.latents("test", self.on, args.data_dir)
        home = None if self.other else args.data_dir
        self.train_set, self.training = run.latents("train", None, home)
        self.validation = run.latents("val", None, home)[1]
        order = np.random.default_rng(0).permutation(len(self.latents.full))
        self.rows = self.latents.full[order[: self.limit]]
        fit = lambda d: Baselines(run, d, self.training, self.validation, trained)
        self.baselines = {d: fit(d) for d in DIRECTIONS}

    def headline(self):
        a, n = self.run.args, len(self.latents.full)
        how = (
            f"K {a.K}, {a.ddim_steps} DDIM steps, omega {a.omega:g}; {len(self.seeds)} noise seeds"
        )
        return f"{self.run.folder} on {self.on}: {n} test pairs; ours: {how}"

    def label(self, task):
        return f"{task} {self.on}" if self.other else task

    def test_set(self, direction):
        return TestSet(self.latents, direction, self.latents.full, self.limit, self.pool)

    def has_images(self):
        return self.run.E_image.spec != "none"

    @cached_property
    def decode(self):
        """Raw image latents (N, h) -> PIL images; None if there is no decoder."""
        decode = self.run.E_image.decode
        if decode:
            to_pil = lambda x: Image.fromarray((255 * x).round().astype(np.uint8))
            return lambda z: [to_pil(x) for x in decode(np.asarray(z))]

    def nearest_rows(self, direction, c):
        """(n,) rows of training.pairs whose condition is most similar to each of c (n, h1)."""
        rows = self.training.full[fixed_sample(len(self.training.full), 200_000)]
        keys = fn.normalize(self.training.of(direction, rows)[0])
        return rows[torch.cat([(fn.normalize(x) @ keys.T).argmax(1) for x in c.split(512)]).numpy()]

    def nearest(self, direction, c):
        return self.training.of(direction, self.nearest_rows(direction, c))[1]

    def nearest_captions(self, z, of="text"):
        """The training captions whose text latent, or whose image's latent, is nearest to z."""
        direction = "text->image" if of == "text" else "image->text"
        j = self.training.pairs[self.nearest_rows(direction, z), 1]
        return [self.train_set.captions[k] for k in j.tolist()]

    def path(self, task, ending):
        return os.path.join(self.run.folder, self.label(task).replace(" ", "-") + ending)

    def figure(self, fig, name):
        save_figure(fig, self.run.folder, name)

    def classes(self):
        """(class names, prompts, labels (N,), image latents (N, h1)); N = 0: there are none."""
        i, label = self.latents.pairs[self.latents.full].T
        names, prompts = [], []
        if self.on == "cifar10":  # caption j is the prompt of class j
            prompts = list(self.test.captions)
            names = [p.split()[-1] for p in prompts]
        elif self.on.startswith("glyphs"):
            names = list(SCRIPTS.values())
            prompts = [f"a picture of a {n}" for n in names]
            label = np.array([script(self.test.captions[j]) for j in label.tolist()])
        kept = (label >= 0) & bool(names)
        return names, prompts, label[kept], torch.from_numpy(self.latents.image[i[kept]])


def script(caption):
    """Which of SCRIPTS "serif bold greek small letter alpha" is of, or -1."""
    first = next(word for word in caption.split() if word not in FACE_WORDS)
    return list(SCRIPTS).index(first) if first in SCRIPTS else -1


TASKS = {
    "similarity": similarity,
    "bare": bare,
    "cross-domain": cross_domain,
    "ablation": ablation,
    "curves": curves,
    "classification": classification,
    "retrieval": retrieval,
    "pictures": pictures,
}


FIRST_LOOK = ("similarity", "retrieval", "pictures")  # nothing that trains or is slow


def add_flags(parser):
    """The flags of every script that evaluates a translator."""
    a = parser.add_argument
    a("run", help="folder that train.py left, e.g. runs/glyphs-translator")
    a("--on", choices=NAMES, metavar="DATASET", help="test on another data set (MT Table 4)")
    a("--data-dir", help="where that data set is, or where the run's own has moved")
    a("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them (3)")
    a("--pool", type=int, default=1000, help="gallery of R@k (1000); COCO papers use 5000")
    a("--limit", type=int, help="test pairs at most (5000)")
    a("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    a("--download", action="store_true", help="allow fetching encoder weights")


def check_flags(parser, args):
    """Stops with argparse's one line at numbers that no evaluation can have."""
    if min(args.seeds, args.pool, args.limit or 1) < 1:
        parser.error("--seeds, --pool and --limit are at least 1")


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Tables and figures of MT for a trained run.")
    add_flags(parser)
    tasks = f"{', '.join(TASKS)} (default: all; with --on: cross-domain, classification)"
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), metavar="TASK", help=tasks)
    told = "few tasks, and nothing that trains or is slow"
    parser.add_argument("--first-look", action="store_true", help=told)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    return args


def open_evaluation(args, trained=("knn", "mlp")):
    """The Evaluation of args.run; trained: which of the slower baselines are wanted."""
    run = TranslatorRun(args.run, usable(args.device), args.download)
    return Evaluation(run, args, trained)


def run_tasks(evaluation, tasks):
    """Call each of {name: task} with the evaluation; print what it cost."""
    start = time.time()
    print(evaluation.headline())
    for name, task in tasks.items():
        began = time.time()
        task(evaluation)
        print(f"[{name}: {time.time() - began:.0f} s{peak_memory()}]")
    print(f"\n{time.time() - start:.0f} s; rows in {evaluation.report.path}")


def peak_memory():
    """ ", peak memory 1.4 GiB" of this process, where the system tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    return f", peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.1f} GiB"


def main(argv=None):
    args = parse(argv)
    chosen = list(TASKS)
    if args.first_look:
        chosen = FIRST_LOOK
    elif args.on:
        chosen = ("cross-domain", "classification")
    evaluation = open_evaluation(args, () if args.first_look else ("knn", "mlp"))
    run_tasks(evaluation, {name: TASKS[name] for name in args.task or chosen})


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"evaluate.py: {error}")
