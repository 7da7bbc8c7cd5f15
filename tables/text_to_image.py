"""
tables/text_to_image.py: MT Fig. 3a as a table, images drawn from held-out captions, judged.
"""

import argparse
import importlib.util
import os
import sys

import numpy as np
import torch
import torch.nn.functional as fn
from PIL import ImageOps
from sklearn.cluster import KMeans
from torch import nn
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import metrics
from data import DataError
from encoders import EncoderError, fixed_sample, reason, thumbnail
from pictures import NO_DECODER, pictures
from pretrained import hub, missing_weights
from runs import RunError, cpu_randn, load_if_same, save_checkpoint
from scores import print_scores, write_json


def karlo(name, E_image, device, download):
    """decode(raw CLIP ViT-L/14 image latents (N, 768)) -> PIL images, 256 x 256, in batches of 8.

    Karlo's unCLIP decoder and super-resolution, by diffusers' image-variation pipeline, which
    takes the latent in the image's place. Weights: CreativeML Open RAIL-M, by Kakao Brain.
    Raises EncoderError without diffusers, without the weights, for latents of another encoder."""
    kind, _, weights = E_image.spec.partition("@")
    openai = weights in ("", "openai") or os.path.isfile(os.path.expanduser(weights))
    if kind not in ("clip:ViT-L-14", "clip:ViT-L-14-quickgelu") or not openai or E_image.dim != 768:
        raise EncoderError(f"Karlo draws CLIP ViT-L/14 image latents, not those of {E_image.spec}")
    if not importlib.util.find_spec("diffusers"):
        raise EncoderError("Karlo needs the package diffusers: pip install diffusers accelerate")
    from diffusers import UnCLIPImageVariationPipeline as Pipeline
    from diffusers import pipelines

    if not hasattr(pipelines, "unclip"):  # where Karlo's index looks; newer diffusers has moved it
        pipelines.unclip = sys.modules[Pipeline.__module__]
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    try:
        with hub(download):
            options = dict(torch_dtype=dtype, local_files_only=not download)
            pipe = Pipeline.from_pretrained(name, **options).to(device)
    except Exception as error:
        if os.path.isdir(name):
            raise EncoderError(f"Karlo: cannot load {name}: {reason(error)}") from error
        raise missing_weights("Karlo", name, download, error) from error
    pipe.set_progress_bar_config(disable=True)

    def decode(z):
        noise, images = torch.Generator().manual_seed(0), []
        for x in torch.as_tensor(z).split(8):
            x = x.to(device, dtype)
            images += pipe(image_embeddings=x, generator=[noise] * len(x)).images
        return images

    return decode


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, in torch.hub's folder


def judge(evaluation):
    """(name, see); see(PIL images) -> (features (N, d) for FID, class probabilities for IS).

    Inception is the field's. It needs the package torch-fidelity and its weights; without them a
    small network trained on the run's own images takes its place, good for comparing rows."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION)
    if importlib.util.find_spec("torch_fidelity") and (os.path.exists(file) or evaluation.download):
        return "Inception", inception(file if os.path.exists(file) else None, evaluation.run.device)
    net, mode = small_judge(evaluation)

    def look(x):
        f = net[0](to_planes(x))
        return f, net[1](f)

    prepare = lambda image: thumbnail(image, mode)
    name = f"a small network that tells {net[1].out_features} kinds of caption apart"
    return name, in_batches(prepare, look, evaluation.run.device)


def inception(file, device):
    name = "torch_fidelity.feature_extractor_inceptionv3"
    Net = importlib.import_module(name).FeatureExtractorInceptionV3
    net = Net("inception-v3-compat", ["2048", "logits_unbiased"], file).to(device).eval()
    square = lambda image: np.asarray(ImageOps.fit(image.convert("RGB"), (256, 256)))
    return in_batches(square, lambda x: net(x.movedim(3, 1)), device)


def in_batches(prepare, look, device, size=64):
    """see(PIL images) of a judge whose look(uint8 pixels (n, ...)) is (features, class logits)."""

    @torch.no_grad()
    def see(images):
        f, p = [], []
        for start in range(0, len(images), size):
            x = np.stack([prepare(image) for image in images[start : start + size]])
            features, logits = look(torch.from_numpy(x).to(device))
            f.append(features.cpu()), p.append(logits.softmax(1).cpu())
        return torch.cat(f), torch.cat(p)

    return see


def to_planes(x):
    """uint8 (B, H, W) or (B, H, W, 3) -> float (B, 1 or 3, H, W) in [0, 1]."""
    return (x[:, None] if x.ndim == 3 else x.movedim(3, 1)).float() / 255


def small_judge(evaluation, kinds=20, steps=600, most=50_000):
    """(network, mode of its images): three convolutions, trained once and kept in RUN/judge.pt.

    No labels are needed: the kinds are clusters (k-means) of the training captions' latents."""
    run, latents = evaluation.run, evaluation.training
    rows = latents.full[fixed_sample(len(latents.full), most)]
    i, j = latents.pairs[rows].T
    unit = fn.normalize(torch.from_numpy(latents.text[j])).numpy()
    kinds = min(kinds, len(np.unique(unit, axis=0)))
    mode = "L" if evaluation.train_set.images[int(i[0])].mode == "L" else "RGB"
    torch.manual_seed(0)
    conv = lambda a, b: (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.SiLU())
    body = nn.Sequential(*conv(len(mode), 32), *conv(32, 64), *conv(64, 128))
    body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    net = nn.Sequential(body, nn.Linear(128, kinds)).to(run.device)
    path, stamp = (
        os.path.join(run.folder, "judge.pt"),
        {"key": evaluation.train_set.key, "mode": mode},
    )
    stamp["kinds"] = [kinds, run.E_text.fingerprint]
    if saved := load_if_same(path, stamp):
        net.load_state_dict(saved["net"])
        return net.eval(), mode
    label = KMeans(kinds, n_init=1, random_state=0).fit_predict(unit)
    x = [thumbnail(evaluation.train_set.images[n], mode) for n in i.tolist()]
    x, label = torch.from_numpy(np.stack(x)), torch.from_numpy(label).long()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in tqdm(range(steps), "judge", disable=None):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        b = torch.randint(len(x), (128,))
        loss = fn.cross_entropy(net(to_planes(x[b].to(run.device))), label[b].to(run.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_checkpoint(path, {**stamp, "net": net.state_dict()})
    return net.eval(), mode


def text_to_image(evaluation):
    """FID, IS and R-precision of images drawn from held-out captions.

    The captions are of one half of the test pairs, the real images that FID compares with of the
    other, so that real images have a FID too: its floor at this number. R-precision: the share of
    drawings that are nearer to their own image than to 99 others, by the judge's features."""
    if not evaluation.decode:
        return print(f"\ntext-to-image: skipped, {NO_DECODER}")
    run, net = evaluation.run, evaluation.run.translators["text->image"]
    first = np.unique(evaluation.latents.pairs[evaluation.rows, 0], return_index=True)[1]
    rows = evaluation.rows[np.sort(first)]  # each image once, so that the halves share none
    half = len(rows) // 2
    if half < 4:
        return print(f"\ntext-to-image: skipped, {len(rows)} test images are too few")
    asked, others = rows[:half], rows[half : 2 * half]
    name, see = judge(evaluation)
    real = lambda rows: see(
        [evaluation.test.images[i] for i in evaluation.latents.pairs[rows, 0].tolist()]
    )
    (truth, p_truth), (other, _) = real(asked), real(others)
    c, z = evaluation.latents.of("text->image", asked)
    how = dict(steps=max(20, run.args.ddim_steps), omega=run.args.omega)
    fixed_sample = lambda s: net.sample(c.to(run.device), randn=cpu_randn(s), **how).cpu()
    base = evaluation.baselines["text->image"].answers
    drawn = {"ours, a sample": [see(evaluation.decode(fixed_sample(s))) for s in evaluation.seeds]}
    drawn["ridge"] = [see(evaluation.decode(base["ridge"](c)))]
    drawn["image of the nearest caption"] = [
        see(evaluation.decode(evaluation.nearest("text->image", c)))
    ]
    drawn["real, through the decoder"], drawn["real"] = (
        [see(evaluation.decode(z))],
        [(truth, p_truth)],
    )
    marks = lambda f, p: {
        "fid": metrics.frechet(f, other),
        "fid_half": metrics.frechet(f[: half // 2], other[: half // 2]),
        "is": metrics.inception_score(p, 1)[0],
        "is_half": metrics.inception_score(p[: half // 2], 1)[0],
        "r_precision": r_precision(f, truth),
    }
    table = {m: [marks(*seen) for seen in seeds] for m, seeds in drawn.items()}
    print(f"\n{evaluation.label('text-to-image')}: {half} captions, judge: {name}")
    print_scores(table, ("fid", "fid_half", "is", "is_half", "r_precision"), (2, 2, 3, 3, 3))
    note = {"judge": name, "images": half, "seeds": evaluation.seeds}
    write_json(evaluation.path("text-to-image", ".json"), {**note, "rows": table})


def r_precision(f, truth, n=100):
    """Share of rows n whose cosine to truth[n] exceeds that to 99 other rows of it; (N, d) both."""
    similar, N = fn.normalize(f) @ fn.normalize(truth).T, len(f)
    g = torch.Generator().manual_seed(0)
    other = torch.stack([torch.randperm(N - 1, generator=g)[: n - 1] for _ in range(N)])
    other += other >= torch.arange(N)[:, None]  # jumps over the row's own
    return (similar.diag()[:, None] > similar.gather(1, other)).all(1).double().mean().item()


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Images from held-out captions, judged.")
    evaluate.add_flags(parser)
    told = "draw with Karlo (package diffusers), from CLIP ViT-L/14 image latents; ID or folder"
    usual = "kakaobrain/karlo-v1-alpha-image-variations"
    parser.add_argument("--karlo", nargs="?", const=usual, help=told)
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    return args


def main(argv=None):
    args = parse(argv)
    evaluation = evaluate.open_evaluation(args, trained=())
    if args.karlo:
        run = evaluation.run
        evaluation.decode = karlo(args.karlo, run.E_image, run.device, args.download)
        pictures(evaluation)
    text_to_image(evaluation)


if __name__ == "__main__":
    try:
        main()
    except (RunError, DataError, EncoderError, ValueError, OSError) as error:
        sys.exit(f"tables/text_to_image.py: {error}")
