"""
tables/text_to_image.py: images drawn from held-out captions, and judged; MT Fig. 3a as a table.

    python tables/text_to_image.py runs/glyphs-translator         a minute on one core
    python tables/text_to_image.py runs/coco-translator --karlo   CLIP ViT-L/14; wants a GPU

    caption -> E_text -> c -> translator -> image latent -> decoder -> image -> judge -> scores

What is drawn is a SAMPLE of the translator, not z_hat of MT Eq. 5: z_hat is made for the cosine, so
it is near to the mean of all images that fit the caption, and a mean of images is a blur.

THE DECODER turns an image latent into an image. PCA has one, its inverse. CLIP has none, but there
are diffusion models trained to draw an image whose CLIP latent is the given one: "unCLIP", known
from DALL-E 2. MT draws with an open one, Karlo (`karlo`).

THE JUDGE is a classifier. Its last hidden layer gives each image a vector of features, in which
what looks alike is near; its softmax gives probabilities of classes. The field's is Inception,
trained on the photos of ImageNet (`inception`). It needs a download, and glyphs are none of its
classes; `small_judge` trains a small one on the run's own images. The scores by the judge's eyes:

    FID           Are the drawings AS A SET like real images? Fit a Gaussian to the features of each
                  set; FID is the distance of the two, |mu_f - mu_g|^2 + tr(C_f + C_g - 2 (C_f
                  C_g)^(1/2)). Blur and lack of variety raise it; captions do not count.
    IS            Inception score. Is each image clearly of one class, and are there many classes?
                  exp(mean KL(p(class | image), p(class))): 1 to the number of classes.
    R-precision   Does an image fit ITS caption? The share of drawings that are nearer to their own
                  real image than to 99 others; chance is 0.01.

FID grows as the number of images N falls: a covariance that is estimated from N images has errors,
and every difference of two Gaussians counts as distance. Two halves of the real glyphs, whose true
distance is 0, have FID 0.27 at 1,159 images each, and 0.61 at half of them ("fid_half"). So FIDs of
different N cannot be compared, and 0 is not what the best method would reach. That is why the
captions are those of one half of the test pairs and the real images of FID those of the other half:
the first half's real images get a FID too, and it is the floor.

Map      karlo                           a decoder for CLIP latents
         judge, inception, small_judge   features and class probabilities of images
         text_to_image, scores_of        the table
Letters  N images   d features
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

# A script's own folder, tables/, is on Python's path; the files it imports are one folder above.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import evaluate
import metrics
from checkpoints import load_if_same, restore, save_checkpoint
from data_files import colour_of
from encoders import fixed_sample, reason, thumbnail
from errors import EncoderError, run_script
from pictures import NO_DECODER, drawn_captions
from pretrained import hub, missing_weights
from runs import cpu_randn
from safe_files import write_json
from scores import at_work, print_scores

# --------------------------------------------------------------------------------------------------
# A decoder for CLIP latents


def karlo(name, E_image, device, download):
    """decode(raw CLIP ViT-L/14 image latents (N, 768)) -> PIL images, 256 x 256, in batches of 8.

    Karlo's unCLIP decoder and super-resolution, by diffusers' image-variation pipeline, which
    takes the latent in the image's place. Weights: CreativeML Open RAIL-M, by Kakao Brain.
    Raises EncoderError without diffusers, without the weights, for latents of another encoder."""
    check_karlos_latents(E_image)
    if not importlib.util.find_spec("diffusers"):
        raise EncoderError("Karlo needs the package diffusers: pip install diffusers accelerate")
    from diffusers import UnCLIPImageVariationPipeline as Pipeline
    from diffusers import pipelines

    # Karlo's files name classes of diffusers.pipelines.unclip, which newer versions have moved.
    if not hasattr(pipelines, "unclip"):
        pipelines.unclip = sys.modules[Pipeline.__module__]
    # Its 2.3 billion weights take 4.6 GB of a GPU in 16 bits; CPUs are slow in 16 bits.
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    # local_files_only: nothing is fetched unless --download asks for it.
    try:
        with hub(download):
            options = dict(torch_dtype=dtype, local_files_only=not download)
            pipe = Pipeline.from_pretrained(name, **options).to(device)
    except Exception as error:  # anything may be in a folder
        if os.path.isdir(name):
            raise EncoderError(f"Karlo: cannot load {name}: {reason(error)}") from error
        raise missing_weights("Karlo", name, download, error) from error
    pipe.set_progress_bar_config(disable=True)

    def decode(z):
        # The pipeline starts from noise. One generator in all places of its list: each image draws
        # from it in turn, so that noises differ, and are the same at every call of decode.
        generator = torch.Generator().manual_seed(0)
        images = []
        for batch in torch.as_tensor(z).split(8):
            batch = batch.to(device, dtype)
            images += pipe(image_embeddings=batch, generator=[generator] * len(batch)).images
        return images

    return decode


def check_karlos_latents(E_image):
    """EncoderError unless E_image is OpenAI's CLIP ViT-L/14, the one that Karlo was trained for."""
    kind, _, weights = E_image.spec.partition("@")
    # A local file may hold OpenAI's weights: who names one is trusted.
    openai = weights in ("", "openai") or os.path.isfile(os.path.expanduser(weights))
    if kind not in ("clip:ViT-L-14", "clip:ViT-L-14-quickgelu") or not openai or E_image.dim != 768:
        raise EncoderError(f"Karlo draws CLIP ViT-L/14 image latents, not those of {E_image.spec}")


# --------------------------------------------------------------------------------------------------
# The judge

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's, in torch.hub's folder


def judge(evaluation):
    """(name, features_of); features_of(N PIL images) -> features (N, d), probabilities (N, kinds).

    Inception is the field's. It needs the package torch-fidelity and its weights; without them a
    small network trained on the run's own images takes its place, good for comparing rows."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", INCEPTION)
    found = os.path.exists(file)
    if importlib.util.find_spec("torch_fidelity") and (found or evaluation.download):
        # Without a file torch-fidelity downloads its own.
        return "Inception", inception(file if found else None, evaluation.run.device)

    # No Inception: the small network, whose two parts give features and logits.
    net, mode = small_judge(evaluation)

    def prepare(image):
        return thumbnail(image, mode)

    def network(x):
        features = net[0](to_planes(x))
        return features, net[1](features)

    name = f"a small network that tells {net[1].out_features} kinds of caption apart"
    return name, in_batches(prepare, network, evaluation.run.device)


def inception(file, device):
    """features_of by torch-fidelity's Inception v3: 2,048 features, 1,008 classes."""
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    Net = module.FeatureExtractorInceptionV3
    net = Net("inception-v3-compat", ["2048", "logits_unbiased"], file).to(device).eval()

    # The middle square, as is usual for FID on COCO: Karlo's drawings are squares, photos are not.
    def prepare(image):
        return np.asarray(ImageOps.fit(image.convert("RGB"), (256, 256)))

    def network(x):
        return net(x.movedim(3, 1))  # (n, 256, 256, 3) -> (n, 3, 256, 256)

    return in_batches(prepare, network, device)


def in_batches(prepare, network, device, size=64):
    """features_of, 64 images at a time.

    prepare(PIL image) -> uint8 pixels; network(n of them) -> (features, class logits)"""

    @torch.no_grad()
    def features_of(images):
        all_features, all_probabilities = [], []
        for start in range(0, len(images), size):
            pixels = np.stack([prepare(image) for image in images[start : start + size]])
            features, logits = network(torch.from_numpy(pixels).to(device))
            all_features.append(features.cpu())
            all_probabilities.append(logits.softmax(1).cpu())
        return torch.cat(all_features), torch.cat(all_probabilities)

    return features_of


def to_planes(x):
    """uint8 (B, H, W) or (B, H, W, 3) -> float (B, 1 or 3, H, W) in [0, 1]."""
    planes = x[:, None] if x.ndim == 3 else x.movedim(3, 1)
    return planes.float() / 255


def small_judge(evaluation, kinds=20, steps=600, most=50_000):
    """(network, mode of its images): three convolutions, trained once and kept in RUN/judge.pt.

    A classifier needs labels, and pairs of images and captions have none. So the captions are
    sorted into kinds: 20 clusters of their unit latents, by k-means. Images whose captions are
    alike get one label, and the features learn what tells images of different captions apart."""
    run, latents = evaluation.run, evaluation.training
    rows = latents.full[fixed_sample(len(latents.full), most)]
    i, j = latents.pairs[rows].T  # images i, their captions j
    # Unit latents: k-means measures distances, and only the direction of a latent has meaning.
    unit = fn.normalize(torch.from_numpy(latents.text[j])).numpy()
    kinds = min(kinds, len(np.unique(unit, axis=0)))  # fewer captions than clusters
    images = evaluation.train_set.images
    # Grey, if all of some hundred images are: the first alone may be the only grey one.
    mode = colour_of(images, i[fixed_sample(len(i), 256)].tolist())

    torch.manual_seed(0)  # for the first weights, then for the batches
    net = small_network(len(mode), kinds).to(run.device)
    path = os.path.join(run.folder, "judge.pt")
    # All that the weights depend on: where one of these is new, the judge is trained again.
    stamp = {"key": evaluation.train_set.key, "mode": mode}
    stamp["kinds"] = [kinds, run.E_text.fingerprint]
    saved = load_if_same(path, stamp)
    if saved:
        restore(path, "the judge", lambda: net.load_state_dict(saved["net"]))
        return net.eval(), mode

    label = torch.from_numpy(KMeans(kinds, n_init=1, random_state=0).fit_predict(unit)).long()
    pixels = torch.from_numpy(np.stack([thumbnail(images[n], mode) for n in i.tolist()]))
    fit_judge(net, pixels, label, steps, run.device)
    save_checkpoint(path, {**stamp, "net": net.state_dict()})
    return net.eval(), mode


def small_network(channels, kinds):
    """net[0]: (B, channels, 32, 32) -> 128 features; net[1]: features -> kinds."""

    def halving(a, b):
        return nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.SiLU()

    # 32 x 32 -> 16 x 16 -> 8 x 8 -> 4 x 4 places, whose mean is taken: a feature says how much of
    # something is in the image, not where.
    body = nn.Sequential(*halving(channels, 32), *halving(32, 64), *halving(64, 128))
    body.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return nn.Sequential(body, nn.Linear(128, kinds))


def fit_judge(net, pixels, label, steps, device):
    """Train the classifier, in place: pixels uint8 (N, 32, 32) or (N, 32, 32, 3), label (N,).

    600 steps of 128 images take half a minute. Its batches are drawn by torch's own generator."""
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for step in tqdm(range(steps), "judge", disable=None):
        # The learning rate falls to 0 in a straight line.
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        b = torch.randint(len(pixels), (128,))  # the rows of a batch
        logits = net(to_planes(pixels[b].to(device)))
        loss = fn.cross_entropy(logits, label[b].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# --------------------------------------------------------------------------------------------------
# The table


def text_to_image(evaluation):
    """FID, IS and R-precision of images drawn from held-out captions, beside baselines.

    Writes RUN/text-to-image.json."""
    if not evaluation.decode:
        return print(f"\ntext-to-image: skipped, {NO_DECODER}")

    # Each image once, with one of its captions, so that the halves have no image in common.
    first = np.unique(evaluation.latents.pairs[evaluation.rows, 0], return_index=True)[1]
    rows = evaluation.rows[np.sort(first)]
    half = len(rows) // 2
    if half < 4:  # FID of half of a half needs two images
        return print(f"\ntext-to-image: skipped, {len(rows)} test images are too few for FID: 8")

    # The first half's captions are drawn; FID compares with the second half's real images.
    name, features_of = judge(evaluation)
    judged = judge_drawings(evaluation, rows[:half], features_of)
    other, _ = features_of(real_images(evaluation, rows[half : 2 * half]))

    # R-precision looks among the first half's real images.
    own, _ = judged["real"][0]
    table = {}
    for method, seeds in judged.items():
        table[method] = [scores_of(f, p, own, other) for f, p in seeds]
    print(f"\n{evaluation.label('text-to-image')}: {half} captions, judge: {name}")
    print_scores(table, ("fid", "fid_half", "is", "is_half", "r_precision"), (2, 2, 3, 3, 3))
    note = {"judge": name, "images": half, "seeds": evaluation.seeds}
    write_json(evaluation.path("text-to-image", ".json"), {**note, "rows": table})


def real_images(evaluation, rows):
    """The PIL images of some rows of the test pairs."""
    return [evaluation.test.images[i] for i in evaluation.latents.pairs[rows, 0].tolist()]


def judge_drawings(evaluation, rows, features_of):
    """{row of the table: [(features, probabilities) of seed 0, 1, ...]}; without chance, one seed.

    rows (N,) of the test pairs: their captions are drawn. Images are forgotten once they are
    judged: 1,000 of Karlo's take 200 MB."""
    run, net = evaluation.run, evaluation.run.translators["text->image"]
    c, z = evaluation.latents.of("text->image", rows)

    def judged(image_latents):
        return features_of(evaluation.decode(image_latents))

    # 20 steps at least: two, glyphs' default, are enough for the mean of samples, not for a sample.
    steps = max(20, run.args.ddim_steps)
    samples = []
    for seed in evaluation.seeds:
        how = dict(randn=cpu_randn(seed), steps=steps, omega=run.args.omega)
        sample = net.sample(c.to(run.device), **how)  # (N, h2)
        samples.append(judged(sample.cpu()))

    ridge = evaluation.baselines["text->image"].answers["ridge"]
    return {
        "ours, a sample": samples,
        "ridge": [judged(ridge(c))],
        "image of the nearest caption": [judged(evaluation.nearest_targets("text->image", c))],
        # What the decoder alone loses: its drawing of the true latent.
        "real, through the decoder": [judged(z)],
        "real": [features_of(real_images(evaluation, rows))],
    }


def scores_of(features, probabilities, own, other):
    """{score: value} of N drawings.

    own (N, d): features of the captions' real images; other (N, d): of the other half's.
    "_half": from the first half of both sets; the difference shows how much N matters."""
    half = len(features) // 2
    return {
        "fid": metrics.frechet(features, other),
        "fid_half": metrics.frechet(features[:half], other[:half]),
        "is": metrics.inception_score(probabilities, 1)[0],
        "is_half": metrics.inception_score(probabilities[:half], 1)[0],
        "r_precision": r_precision(features, own),
    }


def r_precision(features, own, n=100):
    """Share of rows k whose cosine to own[k] exceeds that to 99 other rows of own; (N, d) both."""
    N = len(features)
    similar = fn.normalize(features) @ fn.normalize(own).T  # (N, N)
    generator = torch.Generator().manual_seed(0)
    # For each row 99 numbers below N - 1 without repetition. From the row's own number on they go
    # up by one, which jumps over it: of N = 4, row 1 has the candidates 0, 1, 2 -> 0, 2, 3.
    drawn = [torch.randperm(N - 1, generator=generator)[: n - 1] for _ in range(N)]
    others = torch.stack(drawn)  # (N, 99)
    others += others >= torch.arange(N)[:, None]
    # ">": a tie is no success, else features that are all alike would be perfect.
    nearer = similar.diag()[:, None] > similar.gather(1, others)
    return nearer.all(1).double().mean().item()


def parse(argv=None):
    parser = argparse.ArgumentParser(description="Images from held-out captions, judged.")
    evaluate.add_flags(parser, pool=False)
    told = "draw with Karlo (package diffusers), from CLIP ViT-L/14 image latents; ID or folder"
    usual = "kakaobrain/karlo-v1-alpha-image-variations"
    parser.add_argument("--karlo", nargs="?", const=usual, help=told)
    args = parser.parse_args(argv)
    evaluate.check_flags(parser, args)
    return args


def main(argv=None):
    args = parse(argv)
    # None of the trained baselines (kNN, MLP) has a row in this table.
    with at_work(args.run):
        evaluation = evaluate.open_evaluation(args, trained=())
        if args.karlo:
            # Karlo takes the decoder's place; its drawings are worth a picture, MT's Fig. 3a.
            run = evaluation.run
            evaluation.decode = karlo(args.karlo, run.E_image, run.device, args.download)
            drawn_captions(evaluation)
        text_to_image(evaluation)


if __name__ == "__main__":
    run_script("tables/text_to_image.py", main)
