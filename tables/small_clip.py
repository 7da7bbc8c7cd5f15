"""
tables/small_clip.py: a CLIP trained in minutes, and the modality gap before and after translation.

MT translates between the two halves of CLIP. A laptop without a download has no CLIP, and PCA and
TF-IDF are no substitute: their vectors share nothing. So this script trains a small one on the
pictures and captions of a data set, with the model and the loss of open_clip.

CLIP     Two networks, one for pictures and one for captions, both end in d numbers, scaled to unit
         length: u, v (B, d) for a batch of B pairs. All cosines u_i . v_j are a (B, B) table. For
         picture i the caption i is right and the B - 1 others are wrong: a row of the table is a
         classification with B classes, and so is a column. With a softmax over s u_i . v_j,
             L = 1/2 (mean_i -log p(caption i | picture i) + mean_i -log p(picture i | caption i))
Scale    s is 1 / temperature. Cosines lie in [-1, 1], where a softmax is nearly flat: with s = 1
         and B = 256 even cosines of 1 for the right caption and -1 for all others give it only
         p = e / (e + 255 / e) = 0.03. CLIP learns log s from s = 1 / 0.07 = 14 on, and limits s to
         100, where it ends. With s = 100 a lead of 0.05 in cosine is a factor of e^5 = 148 in p
Gap      Before training all pictures lie in one narrow cone of directions and all captions in
         another; that is how deep networks begin. With s = 100 the loss is met by small differences
         within the cones, and nothing moves the cones together. So in CLIP the cosine of a picture
         and its caption stays low (0.3 in MT) although retrieval is good. The distance of the two
         means is the modality gap (Liang et al. 2022, arXiv 2203.02053). With s = 20 it closes:
         after 300 steps it is 0.14, with s = 100 0.88. Here s = 100 is fixed, as CLIP ends

Map      pair_reader, embed_pairs      pairs of pictures and captions -> unit vectors u, v
         alignment, Validation         how near are pairs, how far apart the two modalities?
         train_clip, fit_clip          the training; a folder that open_clip can load
         gap                           a trained translator's RUN/gap.png, for reproduce.py
Letters  B pairs of a batch   N pairs   d, h width of a vector
Try      python tables/small_clip.py                    a CLIP for the glyphs, 16 minutes on a core
         python train.py --image-encoder clip:local-dir:runs/glyphs-clip \
                         --text-encoder clip:local-dir:runs/glyphs-clip --out runs/clip
"""

import argparse
import functools
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from tqdm import tqdm

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import metrics
from arguments import ENDLESS, within
from data import NAMES, load
from devices import usable
from encoders import SIDE, fixed_sample, reason
from errors import EncoderError, run_script
from latents import MAY_BE_BROKEN, batches, read_or_error, say
from metrics import ranks, recall_at_k
from pictures import PAGE
from runs import warmup_cosine
from safe_files import write_json
from scores import print_scores

# open_clip's description of a model: transformers of 3 and 2 layers, a picture as 16 patches.
# 7.4 million weights, 6.3 of them in the table of the 49,408 tokens of CLIP's vocabulary.
SMALL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "layers": 3, "width": 128},
    "text_cfg": {"context_length": 32, "layers": 2, "width": 128, "heads": 2},
}
# How whoever loads the checkpoint has to scale pixels in [0, 1]: (x - 0.5) / 0.5, so to [-1, 1].
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3}
LR = 1e-3  # of AdamW, after the warm-up
MAX_SCALE = 100  # CLIP's: its authors found training unstable beyond


# --------------------------------------------------------------------------------------------------
# Pairs, and their vectors


def pair_reader(split):
    """A function: row number of split.pairs -> picture (3, 32, 32) uint8, token ids (32,)."""
    import open_clip

    # open_clip's own resizing, so that the trained model will be fed the same way. Without its
    # scaling, since bytes take a quarter of the memory of floats: embed_pairs scales.
    transform = open_clip.image_transform(SIDE, is_train=False, mean=[0] * 3, std=[1] * 3)
    tokenizer = open_clip.SimpleTokenizer(context_length=SMALL["text_cfg"]["context_length"])

    # The last 100,000 pictures are remembered, 0.3 GB. That is all of the glyphs: each is resized
    # once, and not once an epoch.
    @functools.lru_cache(100_000)
    def pixels(i):
        return (255 * transform(split.images[i])).round().byte()

    def prepare(row):
        i, j = split.pairs[row]
        return pixels(i), tokenizer(split.captions[j])[0]

    return prepare


def whole(got):
    """The prepared pairs of `got`, without the OSErrors of broken images. EncoderError if none."""
    good = [x for x in got if not isinstance(x, OSError)]
    if not good:
        raise EncoderError(f"none of {len(got)} images can be read, the first: {got[0]}")
    return good


def embed_pairs(model, prepared):
    """n prepared pairs -> unit vectors u, v (n, d) of their pictures and of their captions."""
    device = model.logit_scale.device
    pictures, tokens = zip(*prepared, strict=True)
    pixels = torch.stack(pictures).to(device)  # (n, 3, 32, 32), 0 to 255
    ids = torch.stack(tokens).to(device)  # (n, 32)
    # On a GPU the networks run in 16 bits (see train_step in train.py); the vectors go on in 32.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        u = model.encode_image(pixels / 127.5 - 1)  # scaled as PREPROCESS says
        v = model.encode_text(ids)
    return fn.normalize(u.float(), dim=1), fn.normalize(v.float(), dim=1)


# --------------------------------------------------------------------------------------------------
# How two modalities lie to each other


def alignment(u, v, same):
    """{name: number}: how near pairs are, and how far apart the two modalities are.

    u, v (N, d) unit vectors; same (N, N) bool: v_m belongs to u_n; symmetric.
    paired, unpaired    mean cosine of u_n and v_m where `same`, and elsewhere
    gap                 |mean u - mean v|
    |mean u|            1: all pictures in one direction; 0: in all directions alike
    i->t, t->i          R@1: the nearest of the N is a right one"""
    cosines = u @ v.T
    mean_u, mean_v = u.mean(0), v.mean(0)
    right = [row.nonzero()[0] for row in same.numpy()]  # for pictures and for captions
    found = {
        "paired": cosines[same].mean(),
        "unpaired": cosines[~same].mean(),
        "gap": (mean_u - mean_v).norm(),
        "|mean u|": mean_u.norm(),
        "|mean v|": mean_v.norm(),
        "i->t": recall_at_k(ranks(u, v, right), 1),
        "t->i": recall_at_k(ranks(v, u, right), 1),
    }
    return {name: float(x) for name, x in found.items()}


class Validation:
    """At most 1,000 full pairs of the validation split, read once, and a row of numbers on them."""

    def __init__(self, split, most=1000):
        full = np.flatnonzero(~split.bare)
        rows = full[fixed_sample(len(full), most)]
        # These rows are the items here: what is read is a pair, not one side of it.
        prepare = pair_reader(split)
        self.got = [read_or_error(rows, k, prepare) for k in range(len(rows))]
        readable = [not isinstance(x, OSError) for x in self.got]
        i, j = torch.from_numpy(split.pairs[rows[readable]].T)
        # Pairs of one image, or of one caption, are right answers to each other.
        self.same = (i[:, None] == i) | (j[:, None] == j)  # (N, N)

    @torch.no_grad()
    def report(self, model, step):
        """Print a row of the table; before the first one, its head."""
        u, v = embed_pairs(model, whole(self.got))
        found = alignment(u.cpu(), v.cpu(), self.same)
        found["scale"] = model.logit_scale.exp().item()
        if step == 0:
            names = "".join(f"{name:>9}" for name in found)
            print(f"validation, {len(self.same)} pairs\n  step{names}")
        # A validation split of one pair has nothing unpaired: the mean of nothing is NaN.
        numbers = "".join(f"{x:9.3f}" if x == x else f"{'-':>9}" for x in found.values())
        print(f"{step:6}{numbers}", flush=True)


# --------------------------------------------------------------------------------------------------
# Training


def train_clip(model, split, validation, steps, batch, seed):
    """AdamW on open_clip's ClipLoss over the full pairs of `split`; prints a row every quarter.

    As in CLIP, all other captions of a batch count as wrong, even a second one of the same image.
    Broken images are left out; EncoderError if they are over 1 % of those that are drawn."""
    import open_clip

    # Each epoch has all pairs once, in an order of its own; a batch may reach into the next one.
    full = np.flatnonzero(~split.bare)
    batch = min(batch, len(full))
    epochs = math.ceil(steps * batch / len(full))
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(full) for _ in range(epochs)])[: steps * batch]
    # The items that the threads read are the row numbers themselves, in the order of training.
    reading = batches(rows, pair_reader(split), range(len(rows)), batch, os.cpu_count())

    # betas as in CLIP: 0.98 averages squared gradients over 50 steps, where Adam's 0.999 would
    # take a thousand, nearly all there are.
    optimizer = torch.optim.AdamW(model.parameters(), LR, betas=(0.9, 0.98), fused=True)
    clip_loss = open_clip.ClipLoss()
    broken = []
    for step, (_, got) in enumerate(tqdm(reading, "small CLIP", steps, disable=None)):
        if step % max(1, steps // 4) == 0:
            validation.report(model, step)
        broken += [x for x in got if isinstance(x, OSError)]
        if len(broken) > MAY_BE_BROKEN * len(rows):
            raise EncoderError(f"more than 1 % of images cannot be read, the first: {broken[0]}")

        for group in optimizer.param_groups:
            group["lr"] = LR * warmup_cosine(step, steps)
        u, v = embed_pairs(model, whole(got))  # (B, d)
        # The parameter is the logarithm of the scale, so a step can never make it negative.
        loss = clip_loss(u, v, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(MAX_SCALE))
    validation.report(model, steps)
    if broken:
        told = f"{len(broken)} times an image could not be read, and was left out"
        say(f"{told}; the first: {broken[0]}")


def fit_clip(train, val, out, steps, batch, scale, seed, device):
    """Trains SMALL on `train`, prints how it does on `val`; the folder `out` appears when complete.

    scale: what multiplies the cosines in the softmax, at most 100; 0: learned, from 1 / 0.07.
    Returns the model. EncoderError: `out` exists, wrong numbers, no pictures with captions."""
    import open_clip

    out = os.path.normpath(os.path.expanduser(out))
    if os.path.exists(out):
        raise EncoderError(f"{out} exists: remove it, or name another folder with --out")
    if steps < 1 or batch < 2 or not 0 <= scale <= MAX_SCALE:
        wanted = "1 or more steps, a batch of 2 or more, a scale from 0 to 100"
        raise EncoderError(f"the small CLIP needs {wanted}; got {steps}, {batch}, {scale}")
    within("--seed", seed, 0, ENDLESS)
    if not isinstance(train.captions[0], str):
        raise EncoderError("the small CLIP needs pictures and captions, these are vectors")
    # In a batch of a single pair there is no wrong caption to be told from the right one.
    for name, split, least in (("train", train, 2), ("val", val, 1)):
        if (found := (~split.bare).sum()) < least:
            raise EncoderError(f"the small CLIP needs {least} pairs for {name}, got {found}")

    device = usable(device)
    torch.manual_seed(seed)  # for the first weights
    model = open_clip.CLIP(**SMALL)
    # A given scale stays as it is: the optimizer passes over a parameter without gradient.
    if scale:
        model.logit_scale.requires_grad_(False).fill_(math.log(scale))
    # The folder is made first: a full or forbidden disk is an error now, not after ten minutes. It
    # has its final name only when all is in it, so that no half of a model can be loaded.
    # Until then it lies in a folder whose name nobody else has: that one may be removed.
    parent = os.path.dirname(out) or "."
    try:
        os.makedirs(parent, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".clip-", dir=parent) as own:
            # The folder around it is closed to others; the one in it has the usual rights.
            part = os.path.join(own, "clip")
            os.mkdir(part)
            train_clip(model.to(device), train, Validation(val), steps, batch, seed)
            save_clip(model, part)
            os.replace(part, out)
    except OSError as error:
        raise EncoderError(f"cannot write {out}: {reason(error)}") from error
    return model.eval()


def save_clip(model, folder):
    """An ordinary checkpoint of open_clip, which `clip:local-dir:FOLDER` loads."""
    from safetensors.torch import save

    weights = {name: x.cpu().contiguous() for name, x in model.state_dict().items()}
    Path(folder, "open_clip_model.safetensors").write_bytes(save(weights))
    config = {"model_cfg": SMALL, "preprocess_cfg": PREPROCESS}
    write_json(os.path.join(folder, "open_clip_config.json"), config)


# --------------------------------------------------------------------------------------------------
# The gap, before and after translation


def gap(evaluation):
    """The modality gap of two encoders of one width, of captions and of their translations.

    Prints mean cosines and the distance of the two means over the test pairs; draws RUN/gap.png.
    What a good translation has to show: the distance closes, and `paired` rises above `unpaired`.
    The first alone is easy, the mean image as the answer to everything would do it."""
    run, test_set = evaluation.run, evaluation.test_set("text->image")
    if test_set.c.shape[1] != test_set.z.shape[1]:
        return print("\ngap: skipped, image and text latents have different widths")

    if len(set(test_set.group.tolist())) < 2:
        return print("\ngap: skipped, the test pairs are of one image: none is unrelated")

    # The test set has each caption and each image once; q and g make one row a pair of them.
    z_hat = run.translate("text->image", test_set.c)
    text = fn.normalize(test_set.c[test_set.q])  # (P, h)
    image = fn.normalize(test_set.z[test_set.g])
    moved = fn.normalize(z_hat[test_set.q])

    label, spread = evaluation.label("gap"), image.mean(0).norm()
    print(f"\n{label}: unit latents of {len(image)} pairs; |mean image| {spread:.3f}")
    table = {
        "text": [gap_of(text, image, test_set)],
        "text, translated": [gap_of(moved, image, test_set)],
    }
    print_scores(table, ("paired", "unpaired", "distance", "mean_norm"), (3,) * 4)
    evaluation.figure(draw_gap(text, moved, image), label)


def gap_of(x, image, test_set):
    """How unit vectors x (P, h) lie to those of their images, `image` (P, h).

    The same numbers as in `alignment`, for more pairs than fit a (P, P) table: `unpaired` has one
    unrelated image for each row, where alignment has all."""
    return {
        "paired": (x * image).sum(1).mean().item(),
        "unpaired": metrics.unrelated_cosine(x, image, test_set.group),
        "distance": (x.mean(0) - image.mean(0)).norm().item(),
        "mean_norm": x.mean(0).norm().item(),
    }


def draw_gap(text, moved, image, most=300):
    """Figure: captions before and after translation, each joined to its image; all (P, h).

    The plane of the picture: to the right the direction of the gap, from the mean caption to the
    mean image; upwards the direction in which the images vary most, once the gap is taken out."""
    across = fn.normalize(image.mean(0) - text.mean(0), dim=0)  # (h,)
    flat = image - (image @ across)[:, None] * across  # without their part along the gap
    up = PCA(1).fit(flat).components_[0]
    plane = torch.stack([across, torch.from_numpy(up).float()], 1)  # (h, 2)

    fig = Figure(figsize=(PAGE, 3.8), layout="constrained")
    axes = fig.subplots(1, 2, sharex=True, sharey=True)
    panels = [("before", "text", text), ("after", "text, translated", moved)]
    for ax, (when, name, x) in zip(axes, panels, strict=True):
        a = (image[:most] @ plane).numpy()  # (300, 2)
        b = (x[:most] @ plane).numpy()
        # matplotlib draws one line for each column: ends of line n in column n.
        ends_x, ends_y = np.stack([a, b], 1).transpose(2, 1, 0)  # both (2, 300)
        ax.plot(ends_x, ends_y, color="lightgrey", lw=0.4)
        ax.plot(*a.T, ".", ms=4, label="image")
        ax.plot(*b.T, "^", ms=3, label=name)
        ax.set(xlabel="along the gap", title=f"{when} translation; lines join pairs")
        ax.legend(frameon=False)
    axes[0].set_ylabel("first principal direction")
    return fig


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Train a small CLIP on a data set's pairs.")
    a = parser.add_argument
    a("--dataset", default="glyphs", choices=NAMES, metavar="DATASET", help="(default glyphs)")
    a("--data-dir", help="folder of the data set")
    a("--out", help="folder for the checkpoint (default runs/DATASET-clip)")
    a("--steps", type=int, default=1200)
    a("--batch", type=int, default=256)
    a("--logit-scale", type=float, default=100, help="fixed, or 0: learned (default %(default)s)")
    a("--seed", type=int, default=0)
    a("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parse_args(argv)
    # A name that depends on another flag.
    args.out = args.out or f"runs/{args.dataset}-clip"
    return args


def main(argv=None):
    a = parse(argv)
    train = load(a.dataset, a.data_dir, "train")
    val = load(a.dataset, a.data_dir, "val")
    fit_clip(train, val, a.out, a.steps, a.batch, a.logit_scale, a.seed, a.device)
    print(f"wrote {a.out}: --image-encoder and --text-encoder clip:local-dir:{a.out}")


if __name__ == "__main__":
    run_script("tables/small_clip.py", main, "stopped, nothing was written")
