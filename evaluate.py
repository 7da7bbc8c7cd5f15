"""
evaluate.py: MT's tables and figures for a trained run, beside honest baselines.

    python evaluate.py runs/glyphs-translator                     all tasks
    python evaluate.py RUN --task similarity ablation             some of them
    python evaluate.py RUN --on celeba --data-dir ~/celeba        another data set, same encoders
    python reproduce.py RUN                                       these, and the tables of tables/

What is measured: the latent c of a held-out caption is translated, and the answer z_hat compared
with the latent of its image; then the same from images to captions. scores.py explains the scores
and baselines.py the rows that stand beside "ours". Two rules keep the tables honest:

Validation decides, test reports. Where something is chosen (gamma, ridge's lambda, by eye in the
curves) it is chosen on validation pairs. The best of ten settings on the test pairs would be partly
the luckiest of ten, and its score too high.

A number with chance in it is repeated. A sample starts from noise, so a translation depends on the
noise seed: --seeds 3 translates three times, and the tables print mean +- standard deviation. The
run, its training seed and the test pairs stay the same: how much a second training would differ,
the +- does not say.

Tasks    similarity       MT Tables 2, 3   cosine and its controls, R@k, both directions; and
                                           R@k by both translators together
         bare             the same with captions that fit several images
         cross-domain     MT Table 4       on another data set (glyphs: STIX typefaces)
         ablation         MT Table 7       each term of Eq. 5 alone
         classification   MT Table 6       zero-shot, by prompts
         curves, retrieval (MT Fig. 3b), pictures (MT Fig. 3a): drawn by pictures.py
         movie            of samples getting clean, by movies.py; made only if --task names it
Leaves   RUN/translation.json    {"rows": [{task, direction, method, cosine, ..., seed}, ...]}
         RUN/classification.json, RUN/*.png; with --on, its name is part of every task and file
Map      Evaluation   a run, its data and its baselines: what every task is given
         tables       similarity, bare, cross_domain, ablation, classification
         TASKS, parse, run_tasks, main   the command line
Letters  Q queries   N images   h1 = dim c   h2 = dim z
"""

import argparse
import math
import os
import sys
import time
from functools import cached_property

import numpy as np
import torch
from PIL import Image

import metrics
from arguments import EMBEDDED, ENDLESS
from baselines import MOST_PAIRS, Baselines, lafite_noise, nearest
from data import NAMES
from data_captions import PARTIAL
from devices import usable
from encoders import fixed_sample
from errors import RunError, run_script
from glyphs import FACES
from latents import DIRECTIONS
from movies import caption_movie
from pictures import curves, drawn_captions, retrieval, save_figure
from runs import TranslatorRun
from safe_files import write_json
from scores import Report, TestSet, at_work, rows_of, rows_together, spread

# --------------------------------------------------------------------------------------------------
# What every task is given

LIMIT = 5000  # test pairs at most: as many images as COCO's usual test split has


class Evaluation:
    """A run, its test data (or those of --on), its baselines, and where results go.

    test, latents          the test images and captions, and their Latents
    train_set, training    the same of the run's own training set; validation: its Latents only
    rows                   at most `limit` rows of latents.pairs, mixed, always the same ones
    baselines              {direction: Baselines}
    seeds                  of the noise
    report                 the table RUN/translation.json
    args: of add_flags; trained: which of the slower baselines are wanted"""

    def __init__(self, run, args, trained=("knn", "mlp")):
        self.run = run
        self.limit = args.limit or LIMIT  # None where it was not typed
        self.pool = args.pool
        self.download = args.download
        self.seeds = list(range(args.seeds))
        self.report = Report(run.folder)

        # What is tested on. With --on, --data-dir says where that data set is; without it, where
        # the run's own is now.
        self.on = args.on or run.args.dataset
        self.other = self.on != run.args.dataset
        if args.data_dir and self.on in (*EMBEDDED, "glyphs-stix"):
            raise RunError(f"--data-dir: {self.on} is embedded, it has no folder")
        if args.partial and self.on not in PARTIAL:
            raise RunError(f"--partial is for {', '.join(PARTIAL)}; {self.on} ignores it")
        run.partial = args.partial
        self.test, self.latents = run.latents("test", self.on, args.data_dir)

        # What baselines are fitted on is the run's own data, whatever is tested on.
        home = None if self.other else args.data_dir
        self.train_set, self.training = run.latents("train", None, home)
        _, self.validation = run.latents("val", None, home)

        # For tasks that look at a part of the test pairs: the first of these are a fair sample.
        order = np.random.default_rng(0).permutation(len(self.latents.full))
        self.rows = self.latents.full[order[: self.limit]]
        self.baselines = {}
        for direction in DIRECTIONS:
            self.baselines[direction] = Baselines(
                run, direction, self.training, self.validation, trained
            )

    def headline(self):
        args = self.run.args
        pairs = len(self.latents.full)
        seeds = len(self.seeds)
        how = f"K {args.K}, {args.ddim_steps} DDIM steps, omega {args.omega:g}; {seeds} noise seeds"
        return f"{self.run.folder} on {self.on}: {pairs} test pairs; ours: {how}"

    def label(self, task):
        """A task's name in tables and files. With --on it must not replace the run's own rows."""
        return f"{task} {self.on}" if self.other else task

    def path(self, task, ending):
        """RUN/task-on.ending"""
        return os.path.join(self.run.folder, self.label(task).replace(" ", "-") + ending)

    def figure(self, fig, name):
        save_figure(fig, self.run.folder, name)

    def test_set(self, direction):
        return TestSet(self.latents, direction, self.latents.full, self.limit, self.pool)

    def has_images(self):
        """False for --dataset latents: then there is nothing to show."""
        return self.run.E_image.spec != "none"

    @cached_property
    def decode(self):
        """Function: raw image latents (N, h) -> PIL images. None if the encoder has no way back."""
        decode = self.run.E_image.decode
        if decode is None:
            return None

        def to_images(z):
            pixels = decode(np.asarray(z))  # (N, H, W) or (N, H, W, 3), in [0, 1]
            # Pillow's images have bytes: 0 is black, 255 white.
            return [Image.fromarray((255 * x).round().astype(np.uint8)) for x in pixels]

        return to_images

    # Looking things up in the training set: a way to translate without a translator.

    def nearest_rows(self, direction, c):
        """(n,) rows of training.pairs whose condition is most similar to each of c (n, h1)."""
        rows = self.training.full[fixed_sample(len(self.training.full), MOST_PAIRS)]
        conditions, _ = self.training.of(direction, rows)
        _, found = nearest(c, conditions, 1)
        return rows[found[:, 0].numpy()]

    def nearest_targets(self, direction, c):
        """(n, h2) the targets of these rows."""
        _, z = self.training.of(direction, self.nearest_rows(direction, c))
        return z

    def nearest_captions(self, z, of="text"):
        """The training captions whose text latent, or whose image's latent, is nearest to z."""
        # The condition is what is compared: text from text to image, the image back.
        direction = "text->image" if of == "text" else "image->text"
        captions = self.training.pairs[self.nearest_rows(direction, z), 1]
        return [self.train_set.captions[j] for j in captions.tolist()]


# --------------------------------------------------------------------------------------------------
# Tables of cosine and R@k

PAPER = {  # trained on, tested on: (Sim_img, Sim_txt), both sides CLIP ViT-B/32; MT Tables 2 and 4
    ("coco", "coco"): (0.8233, 0.8394),
    ("cc3m", "cc3m"): (0.7443, 0.7389),
    ("coco", "celeba"): (0.5974, 0.8237),
}

# What the best constant answer scores on COCO with these encoders, for a published cosine says
# little without it. MT's authors published the means of their latents of COCO val2014, of length 1;
# the constant's expected cosine is the length of the mean. For their other sets there are none.
CONSTANT = (0.6893, 0.7158)

TABLE_7 = {  # trained and tested on COCO, both sides CLIP ViT-B/32
    "text->image": "MT: projection only 0.8199, ddim only 0.6155, both 0.8233; a constant 0.6893",
    "image->text": "MT: projection only 0.8386, ddim only 0.6280, both 0.8394; a constant 0.7158",
}


def is_papers(run):
    """Whether both encoders are those of MT's Tables 2, 4 and 7: else numbers do not compare."""
    return {run.args.image_encoder, run.args.text_encoder} == {"clip:ViT-B-32-quickgelu"}


def paper_note(run, on, direction):
    """The published cosine, to be printed beside ours, where the setting is the paper's."""
    setting = (run.args.dataset, on)
    if not is_papers(run) or setting not in PAPER:
        return ""
    # Sim_img is the score of text->image, the first of DIRECTIONS.
    n = DIRECTIONS.index(direction)
    note = f"; the paper's cosine: {PAPER[setting][n]:.4f}"
    if on == "coco":
        note += f", a constant's there: {CONSTANT[n]:.4f}"
    return note


def answers_of(run, direction, c, baselines, seeds):
    """{method: [z_hat of seed 0, 1, ...]} to c; a method without chance has one z_hat."""
    answers = {"ours": [run.translate(direction, c, seed) for seed in seeds]}
    for name, answer in baselines.answers.items():
        answers[name] = [answer(c)]
    # Like identity, noise needs equal widths.
    if "identity" in answers:
        answers["noise"] = [lafite_noise(c, seed) for seed in seeds]
    return answers


# Without rows of two translators. mean and identity would rank as they do alone: cos(c, mean) is
# one number for all items, and identity's two cosines are equal. Noise is no translator.
ONE_WAY = ("mean", "identity", "noise")


def compare(evaluation, task, on, latents, rows, together=False):
    """Ours and every baseline, both directions, on rows of latents.pairs of the data set `on`.

    together: with the rows "both ways" and "hubs out" of scores.py."""
    run, seeds = evaluation.run, evaluation.seeds
    for direction in DIRECTIONS:
        test_set = TestSet(latents, direction, rows, evaluation.limit, evaluation.pool)
        baselines = evaluation.baselines[direction]
        answers = answers_of(run, direction, test_set.c, baselines, seeds)
        table = rows_of(task, direction, test_set, answers, baselines.mean, seeds)
        if together:
            # The gallery is translated, too, by the other direction; of it, what R@k ranks.
            other = DIRECTIONS[1 - DIRECTIONS.index(direction)]
            items = test_set.z[test_set.pool]
            back = answers_of(run, other, items, evaluation.baselines[other], seeds)
            pairs = {m: (answers[m], back[m]) for m in answers if m not in ONE_WAY}
            table += rows_together(task, direction, test_set, pairs, seeds)
        evaluation.report.add(table, paper_note(run, on, direction))


def similarity(evaluation):
    """MT Table 2: held-out pairs of the run's own data set.

    This table alone has the eight rows of two translators; `bare` and `cross-domain` stay short."""
    latents, task = evaluation.latents, evaluation.label("similarity")
    compare(evaluation, task, evaluation.on, latents, latents.full, together=True)


def bare(evaluation):
    """The same with captions that fit several images: glyph names without a typeface.

    From text to image such a caption has up to twelve right answers, and a sampler may give each
    of them. A regression can only answer with their middle."""
    latents = evaluation.latents
    if not len(latents.bare):
        print("\nbare: skipped, no caption of this data set stands for several images")
        return
    compare(evaluation, evaluation.label("bare"), "", latents, latents.bare)


def cross_domain(evaluation):
    """MT Table 4: a data set that the run was not trained on, through the same encoders."""
    latents = evaluation.latents
    if evaluation.other:
        task = evaluation.label("cross-domain")
        compare(evaluation, task, evaluation.on, latents, latents.full)
    elif evaluation.on == "glyphs":
        # The other data set that every machine has: typefaces that no run has seen.
        _, stix = evaluation.run.latents("test", "glyphs-stix")
        compare(evaluation, "cross-domain glyphs-stix", "glyphs-stix", stix, stix.full)
    else:
        print("\ncross-domain: skipped, --on names the other data set")


def ablation(evaluation):
    """MT Table 7: each term of Eq. 5 alone, and both, at MT's gamma = 1 and at gamma auto."""
    run, seeds = evaluation.run, evaluation.seeds
    for direction in DIRECTIONS:
        test_set = evaluation.test_set(direction)
        auto, length = run.gamma[direction], run.length[direction]
        net = run.translators[direction]
        scale = net.z_scale.cpu()
        # Alone, F needs a length, for the centred cosine: that of a typical z about its mean.
        alone = math.sqrt(net.h2) / scale
        # The two terms are computed once a seed, in scaled units; what follows only mixes them.
        # c M is the same for every seed: chance is in F alone.
        terms = [run.terms(direction, test_set.c, seed) for seed in seeds]
        cM, _ = terms[0]
        answers = {
            "projection only": [cM / scale],
            "ddim only": [alone * F for _, F in terms],
            "both, gamma 1": [(cM + 1.0 * F) / scale for cM, F in terms],
            "both": [length * (cM + auto * F) / scale for cM, F in terms],
        }
        mean = evaluation.baselines[direction].mean
        rows = rows_of(evaluation.label("ablation"), direction, test_set, answers, mean, seeds)
        evaluation.report.add(rows, f'; gamma of "both": {auto:.2f}')
        if is_papers(run) and evaluation.on == run.args.dataset == "coco":
            print(TABLE_7[direction])


# --------------------------------------------------------------------------------------------------
# Classification

TABLE_6 = "MT, ViT-B/32: CLIP itself 0.697, translated 0.607; ViT-L/14: 0.851, 0.771"

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

FACE_WORDS = set(" ".join(FACES.values()).split())  # "serif", "bold": they come before the name


def script(caption):
    """Which of SCRIPTS "serif bold greek small letter alpha" is of, or -1."""
    # The first word after the typeface's. A later one may be of something else: the caption
    # "mono bold x in a rectangle box" is not of the class "box drawings".
    first = next(word for word in caption.split() if word not in FACE_WORDS)
    return list(SCRIPTS).index(first) if first in SCRIPTS else -1


def labelled_images(evaluation):
    """(class names, their prompts, labels (N,), image latents (N, h1)) of the test images.

    N = 0 where no classes are defined for the data set."""
    latents, captions = evaluation.latents, evaluation.test.captions
    image, caption = latents.pairs[latents.full].T
    if evaluation.on == "cifar10":
        # Its captions ARE the prompts, one a class: caption j is that of class j.
        prompts = list(captions)
        names = [prompt.split()[-1] for prompt in prompts]
        label = caption
    elif evaluation.on.startswith("glyphs"):
        names = list(SCRIPTS.values())
        prompts = [f"a picture of a {name}" for name in names]
        label = np.array([script(captions[j]) for j in caption.tolist()])
    else:
        names, prompts = [], []
        label = np.full(len(caption), -1)
    kept = label >= 0  # a glyph may be of none of the ten scripts
    return names, prompts, label[kept], torch.from_numpy(latents.image[image[kept]])


def classification(evaluation):
    """MT Table 6, zero-shot: no image was ever labelled, a class is known by its name alone.

    An image's translation, a text latent, is compared with the text latents of "a picture of a
    {class}": the most similar prompt is the predicted class."""
    names, prompts, label, c = labelled_images(evaluation)
    if not len(label):
        print("\nclassification: no classes are defined for this data set; try --on cifar10")
        return
    run, seeds = evaluation.run, evaluation.seeds
    prompts = torch.from_numpy(run.E_text(prompts))
    answers = {"ours": [run.translate("image->text", c, seed) for seed in seeds]}
    for name, answer in evaluation.baselines["image->text"].answers.items():
        answers[name] = [answer(c)]

    # The prompts are a gallery of ten, and the predicted class is the nearest of it.
    accuracy = {}
    for method, z_hats in answers.items():
        accuracy[method] = []
        for z_hat in z_hats:
            _, predicted = nearest(z_hat, prompts, 1)
            accuracy[method].append(metrics.accuracy(predicted[:, 0], label))
    # What an answer is worth that names the largest class every time.
    accuracy["most frequent class"] = [np.bincount(label).max() / len(label)]

    print(f"\nclassification of {len(label)} images, {len(names)} classes: accuracy")
    for method, values in accuracy.items():
        print(f"{method:20} {spread(values, 3)}")
    if evaluation.on == "cifar10":
        print(TABLE_6)
    # The classes differ in size, so the file keeps how many images each has.
    counts = {name: int((label == number).sum()) for number, name in enumerate(names)}
    table = {"dataset": evaluation.on, "classes": counts, "accuracy": accuracy, "seeds": seeds}
    write_json(evaluation.path("classification", ".json"), table)


# --------------------------------------------------------------------------------------------------
# The command line

TASKS = {
    "similarity": similarity,
    "bare": bare,
    "cross-domain": cross_domain,
    "ablation": ablation,
    "curves": curves,
    "classification": classification,
    "retrieval": retrieval,
    "pictures": drawn_captions,
    "movie": caption_movie,
}
USUAL = tuple(name for name in TASKS if name != "movie")  # which is to be looked at
FIRST_LOOK = ("similarity", "retrieval", "pictures")  # nothing that trains or is slow


def add_flags(parser, pool=True):
    """The flags of every script that evaluates a translator; pool: whether it has R@k."""
    add = parser.add_argument
    add("run", help="folder that train.py left, e.g. runs/glyphs-translator")
    add("--on", choices=NAMES, metavar="DATASET", help="test on another data set (MT Table 4)")
    add("--data-dir", help="where that data set is, or where the run's own has moved")
    told = f"{', '.join(PARTIAL)}: use the pictures that are there"
    add("--partial", action="store_true", help=told)
    add("--seeds", type=int, default=3, help="noise seeds of the rows with chance in them (3)")
    # Tables without R@k still build test sets, which have a pool.
    if pool:
        add("--pool", type=int, default=1000, help="gallery of R@k (1000); COCO papers use 5000")
    parser.set_defaults(pool=1000)
    add("--limit", type=int, help="test pairs at most (5000)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    add("--download", action="store_true", help="allow fetching encoder weights")


# (least, most) of what is typed. A billion seeds are a slip of the hand, and would never end.
FLAG_LIMITS = {
    "seeds": (1, 1000),
    "pool": (1, ENDLESS),
    "limit": (1, ENDLESS),
    "nfe": (1, 1000),
    "steps": (1, ENDLESS),
}


def check_flags(parser, args):
    """Stops with argparse's one line at numbers that no evaluation can have. For both papers."""
    for name, (least, most) in FLAG_LIMITS.items():
        value = getattr(args, name, None)  # None: not typed, or no flag of this script
        if value is not None and not least <= value <= most:
            parser.error(f"--{name} {value}: it has to be between {least} and {most}")


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Tables and figures of MT for a trained run.")
    add_flags(parser)
    tasks = f"{', '.join(TASKS)} (default: all but movie; with --on: cross-domain, classification)"
    parser.add_argument("--task", nargs="+", choices=tuple(TASKS), metavar="TASK", help=tasks)
    told = "few tasks, and nothing that trains or is slow"
    parser.add_argument("--first-look", action="store_true", help=told)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    # Both say which tasks: one of them would be ignored.
    if args.task and args.first_look:
        parser.error("--first-look chooses the tasks: leave out --task, or --first-look")
    return args


def open_evaluation(args, trained=("knn", "mlp")):
    """The Evaluation of args.run; trained: which of the slower baselines are wanted."""
    run = TranslatorRun(args.run, usable(args.device), args.download)
    return Evaluation(run, args, trained)


def run_tasks(evaluation, tasks):
    """Call each of {name: task} with the evaluation; print what it cost. For both papers."""
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**30 if sys.platform == "darwin" else 2**20  # macOS counts in bytes, Linux in KiB
    return f", peak memory {peak / unit:.1f} GiB"


def main(argv=None):
    args = parse(argv)
    # What --task does not say: train.py's first look at its end takes seconds; on another data
    # set only these two tasks have a table in the paper.
    if args.first_look:
        chosen = FIRST_LOOK
    elif args.on:
        chosen = ("cross-domain", "classification")
    else:
        chosen = USUAL
    with at_work(args.run):
        evaluation = open_evaluation(args, () if args.first_look else ("knn", "mlp"))
        run_tasks(evaluation, {name: TASKS[name] for name in args.task or chosen})


if __name__ == "__main__":
    run_script("evaluate.py", main)
