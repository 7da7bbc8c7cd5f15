"""
tables/small_clip.py: a CLIP trained in minutes, and the modality gap before and after translation.
"""

import argparse
import functools
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as fn
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import metrics
from data import NAMES, DataError, load
from devices import usable
from encoders import SIDE, EncoderError, fixed_sample, read_or_error, reason, say
from latents import batches, write_json
from metrics import ranks, recall_at_k
from runs import RunError
from scores import print_scores

SMALL = {  # 7.4 million weights, 6.3 of them in the table of open_clip's 49,408 tokens
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "patch_size": 8, "layers": 3, "width": 128},
    "text_cfg": {"context_length": 32, "layers": 2, "width": 128, "heads": 2},
}


LOOKS = {"mean": [0.5] * 3, "std": [0.5] * 3}  # pixels in [-1, 1]


def pair_reader(split):
    """prepare: row of split.pairs -> picture (3, 32, 32) uint8, token ids (32,).

    It remembers 100,000 pictures (0.3 GB): those of glyphs are resized once, not once an epoch."""
    import open_clip

    transform = open_clip.image_transform(SIDE, is_train=False, mean=[0] * 3, std=[1] * 3)
    tokenizer = open_clip.SimpleTokenizer(context_length=SMALL["text_cfg"]["context_length"])
    pixels = lambda i: (255 * transform(split.images[i])).round().byte()
    pixels = functools.lru_cache(100_000)(pixels)

    def prepare(row):
        i, j = split.pairs[row]
        return pixels(i), tokenizer(split.captions[j])[0]

    return prepare


def whole(got):
    """The prepared pairs without the OSErrors of broken images."""
    good = [x for x in got if not isinstance(x, OSError)]
    if not good:
        raise EncoderError(f"none of {len(got)} images can be read, the first: {got[0]}")
    return good


def embed_pairs(model, prepared):
    """n prepared pairs -> unit vectors (n, d) of their pictures and of their captions."""
    device = model.logit_scale.device
    pixels, tokens = (torch.stack(x).to(device) for x in zip(*prepared, strict=True))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        u, v = model.encode_image(pixels / 127.5 - 1), model.encode_text(tokens)
    return fn.normalize(u.float(), dim=1), fn.normalize(v.float(), dim=1)


def meeting(u, v, same):
    """How two modalities meet: a dict of numbers. u, v (N, d) unit vectors, same (N, N) bool.

    paired, unpaired: mean cosine of u_n and v_m where `same`, and elsewhere. gap: |mean u - mean v|
    (Liang et al. 2022). R@1: the nearest of N is a right one, both ways."""
    cos, mu, mv = u @ v.T, u.mean(0), v.mean(0)
    right = [row.nonzero()[0] for row in same.numpy()]  # `same` is symmetric
    hits = lambda a, b: recall_at_k(ranks(a, b, right), 1)
    found = {"paired": cos[same].mean(), "unpaired": cos[~same].mean(), "gap": (mu - mv).norm()}
    found |= {"|mean u|": mu.norm(), "|mean v|": mv.norm(), "i->t": hits(u, v), "t->i": hits(v, u)}
    return {name: float(x) for name, x in found.items()}


def reporter(model, split, most=1000):
    """report(step) prints `meeting` on at most 1,000 full pairs, and the logit scale, as a row."""
    rows = np.flatnonzero(~split.bare)
    rows, prepare = rows[fixed_sample(len(rows), most)], pair_reader(split)
    got = [read_or_error(rows, k, prepare) for k in range(len(rows))]
    i, j = torch.from_numpy(split.pairs[rows[[not isinstance(x, OSError) for x in got]]].T)
    same = (i[:, None] == i) | (j[:, None] == j)  # (N, N): captions of one image, and vice versa

    @torch.no_grad()
    def report(step):
        u, v = embed_pairs(model, whole(got))
        found = meeting(u.cpu(), v.cpu(), same) | {"scale": model.logit_scale.exp().item()}
        if step == 0:
            print(f"validation, {len(i)} pairs\n  step" + "".join(f"{k:>9}" for k in found))
        print(f"{step:6}" + "".join(f"{x:9.3f}" for x in found.values()), flush=True)

    return report


def train_clip(model, split, steps, batch, seed, report):
    """AdamW on open_clip's ClipLoss over the full pairs; 100 steps of warm-up, then cosine to 0.

    As in CLIP, all other captions of a batch count as wrong, even a second one of the same image.
    Broken images are left out; EncoderError if they are over 1 % of those asked for."""
    import open_clip

    full, rng, lost = np.flatnonzero(~split.bare), np.random.default_rng(seed), []
    batch = min(batch, len(full))
    epochs = -(-steps * batch // len(full))
    rows = np.concatenate([rng.permutation(full) for _ in range(epochs)])[: steps * batch]
    ahead = batches(rows, pair_reader(split), range(len(rows)), batch, os.cpu_count())
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), fused=True)
    rate = lambda k: min(1, (k + 1) / 100) * (1 + math.cos(math.pi * k / steps)) / 2
    rate, loss_of = torch.optim.lr_scheduler.LambdaLR(adam, rate), open_clip.ClipLoss()
    for step, (_, got) in enumerate(tqdm(ahead, "--fit clip", total=steps, disable=None)):
        if step % max(1, steps // 4) == 0:
            report(step)
        lost += [x for x in got if isinstance(x, OSError)]
        if len(lost) > 0.01 * len(rows):
            raise EncoderError(f"more than 1 % of images cannot be read, the first: {lost[0]}")
        loss = loss_of(*embed_pairs(model, whole(got)), model.logit_scale.exp())
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
        model.logit_scale.data.clamp_(max=math.log(100))  # as CLIP does
    report(steps)
    if lost:
        say(f"{len(lost)} times an image could not be read, and was left out; the first: {lost[0]}")


def fit_clip(train, val, out, steps, batch, scale, seed, device):
    """Trains SMALL on `train`, prints how it does on `val`; the folder `out` appears when complete.

    scale: what multiplies the cosines in the softmax, at most 100; 0: learned, from 1 / 0.07.
    Returns the model. EncoderError: `out` exists, wrong numbers, no pictures with captions."""
    import open_clip
    from safetensors.torch import save

    out = os.path.normpath(os.path.expanduser(out))
    part = out + ".part"
    if os.path.exists(out):
        raise EncoderError(f"{out} exists: remove it, or name another folder with --out")
    if steps < 1 or batch < 2 or not 0 <= scale <= 100:
        wanted = "1 or more steps, a batch of 2 or more, a scale from 0 to 100"
        raise EncoderError(f"--fit clip needs {wanted}; got {steps}, {batch}, {scale}")
    if not isinstance(train.captions[0], str):
        raise EncoderError("--fit clip needs pictures and captions, these are vectors")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EncoderError(f"--device {device}: {reason(error)}") from error
    torch.manual_seed(seed)
    model = open_clip.CLIP(**SMALL)
    if scale:
        model.logit_scale.requires_grad_(False).fill_(math.log(scale))
    try:
        os.makedirs(part, exist_ok=True)  # no disk: an error now, not after ten minutes
        train_clip(model.to(device), train, steps, batch, seed, reporter(model, val))
        weights = {k: x.cpu().contiguous() for k, x in model.state_dict().items()}
        Path(part, "open_clip_model.safetensors").write_bytes(save(weights))
        config = {"model_cfg": SMALL, "preprocess_cfg": LOOKS}  # an ordinary open_clip checkpoint
        write_json(os.path.join(part, "open_clip_config.json"), config)
        os.replace(part, out)
    except OSError as error:
        raise EncoderError(f"cannot write {out}: {reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return model.eval()


def gap(evaluation):
    """The modality gap (Liang et al. 2022) of two encoders of one width, and after translation."""
    run, exam = evaluation.run, evaluation.test_set("text->image")
    if exam.c.shape[1] != exam.z.shape[1]:
        return print("\ngap: skipped, image and text latents have different widths")
    text, image = fn.normalize(exam.c[exam.q]), fn.normalize(exam.z[exam.g])
    moved = fn.normalize(run.translate("text->image", exam.c)[exam.q])
    print(
        f"\n{evaluation.label('gap')}: unit latents of {len(image)} pairs; |mean image| "
        f"{image.mean(0).norm():.3f}"
    )
    table = {"text": [gap_of(text, image, exam)], "text, translated": [gap_of(moved, image, exam)]}
    print_scores(table, ("paired", "unpaired", "distance", "mean_norm"), (3,) * 4)
    some, across = slice(0, 300), fn.normalize(image.mean(0) - text.mean(0), dim=0)
    along = PCA(1).fit(image - (image @ across)[:, None] * across).components_[0]
    plane = torch.stack([across, torch.from_numpy(along).float()], 1)  # (h, 2)
    fig = Figure(figsize=(9, 4.2), layout="constrained")
    axes, both = fig.subplots(1, 2, sharex=True, sharey=True), {"before": text, "after": moved}
    for ax, (title, x) in zip(axes, both.items(), strict=True):
        a, b = ((v[some] @ plane).numpy() for v in (image, x))
        ax.plot(*np.stack([a, b], 1).transpose(2, 1, 0), color="lightgrey", lw=0.4)
        ax.plot(*a.T, ".", ms=4, label="image")
        ax.plot(*b.T, ".", ms=4, label="text" if title == "before" else "text, translated")
        ax.set(xlabel="along the gap", title=f"{title} translation; lines join pairs")
        ax.legend(frameon=False)
    axes[0].set_ylabel("first principal direction")
    evaluation.figure(fig, evaluation.label("gap"))


def gap_of(x, image, exam):
    return {
        "paired": (x * image).sum(1).mean().item(),
        "unpaired": metrics.unrelated_cosine(x, image, exam.group),
        "distance": (x.mean(0) - image.mean(0)).norm().item(),
        "mean_norm": x.mean(0).norm().item(),
    }


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
    args.out = args.out or f"runs/{args.dataset}-clip"
    return args


def main(argv=None):
    a = parse(argv)
    device = usable(a.device)
    val, train = (load(a.dataset, a.data_dir, split) for split in ("val", "train"))
    fit_clip(train, val, a.out, a.steps, a.batch, a.logit_scale, a.seed, device)
    print(f"wrote {a.out}: --image-encoder and --text-encoder clip:local-dir:{a.out}")


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"tables/small_clip.py: {error}")
    except KeyboardInterrupt:
        sys.exit("tables/small_clip.py: stopped, nothing was written")
