"""
bridge_scores.py: the held-out pairs on which a bridge is tested, and the scores of predictions.

    test_set = BridgeTestSet(run, limit=1000)
    x_hat, seconds = test_set.predict(test_set.sampler(run, seed=0, steps=10))
    test_set.score(x_hat)            {"psnr": 19.5, "ssim": 0.75, "fid": 9.7}

What is a good prediction? Many pictures of 32 x 32 pixels have the same 8 x 8 version, so there is
no single right answer, and two kinds of scores ask two different things:

Distortion   Is x_hat near the true x of its own pair?  PSNR, SSIM, LPIPS; IoU; cosine
Perception   Could all x_hat together be true ones? Pairs are forgotten.  FID; 1-NNA

No method wins both (Blau and Michaeli 2018). Take a pixel that is -1 or 1 with equal chance, given
y. The best guess by squared error is the mean of both, 0: its error is 1, PSNR 10 log10(2^2 / 1) =
6.0 dB, and it looks like no true pixel. A sample, -1 or 1, always looks true, but half of the time
it is wrong by 2: error 2, 3.0 dB. So a regressor, which predicts the mean, wins PSNR, and samples
win FID. The mean of n samples lies between, with the error 1 + 1/n: 5.5 dB for n = 8.

By kind of x     scores                what is special here
images           psnr, ssim, fid       in [-1, 1]; several views of one object are several images
volumes          iou, one_nna          voxels are occupied where x_hat > 0
vectors          cosine, fid           everything else: latents, and images given as floats

FID compares mean and covariance of features of the predictions with those of the true items. The
field's features are Inception's, made for photos, behind a download. Ours are the first 128
principal components of the training targets: numbers to compare with each other, not with papers.

Map      BridgeTestSet                   pairs; predict, score, and R@1 between the latents
         plain_methods, draw             predictions without chance, and with it
         print_bridge_scores             the table of quality
Letters  N pairs   B batch   n samples of each pair   y source, x target, x_hat prediction
"""

import importlib.util
import os
import time
from functools import cache, cached_property

import numpy as np
import torch
import torch.nn.functional as fn
from sklearn.decomposition import PCA

import glyph_rooms
import glyphs
import metrics
from bridge_networks import kind_of
from glyph_sounds import decode, heard
from runs import cpu_randn
from scores import print_left_out, spread

FID = "FID: 128 PCA features, fitted on at most 5,000 training targets"
NOTES = {  # what a table of scores says of them
    "image": f"PSNR and SSIM in [-1, 1]; {FID}",
    "volume": "occupied: above 0; 1-NNA by Chamfer",
    "vector": FID,
}
DIGITS = {"psnr": 2, "fid": 2}  # printed after the point; all others 3
# What others report, where it can be compared in part only: by data set.
YARDSTICKS = {
    "nuscenes": "for comparison only: SurroundOcc has IoU 0.315 on nuScenes' official validation "
    "scenes, LD's poster IoU 0.233 and 1-NNA 0.807. Here are other scenes (a hash splits them), "
    "IoU is a mean over scenes, and voxels of class 0 count as empty, at any --grid"
}


class BridgeTestSet:
    """At most `limit` held-out pairs, always the same, and the scores of predictions for them.

    y, x     raw items (N, *shape), as data sets hold them, or as given in `items`
    truth    x as the bridge scales it: images in [-1, 1], voxels -1 or 1; and so are predictions
    kind     "image", "volume" or "vector"

    A method is a function of raw y and x (B, ...) that returns x_hat (B, *x_shape), scaled. It is
    given x, too, because the ceiling encodes the target itself; all others leave it alone."""

    def __init__(self, run, limit, direction=None, items=None):
        self.run = run
        self.direction = direction or next(iter(run.bridges))
        self.bridge = run.bridges[self.direction]
        if items is None:
            # Shuffled, for data sets are sorted: the first 1,000 glyphs are a few alphabets.
            pairs = run.pairs("test", self.direction)
            self.rows = np.sort(np.random.default_rng(0).permutation(len(pairs.x))[:limit])
            items = [torch.from_numpy(side) for side in pairs.of(self.rows)]
        self.y, self.x = items
        self.N = len(self.x)
        self.truth = self.scaled(self.x)

        # Raw images are uint8 and raw volumes bool. Floats may have the shape of an image, but
        # nobody knows the range of their pixels, and PSNR needs one.
        self.kind = kind_of(self.bridge.x_shape)
        if self.kind == "views":
            self.kind = "image"
        if self.x.dtype not in (torch.uint8, torch.bool):
            self.kind = "vector"

    def scaled(self, x):
        return self.bridge.scale_x(x.to(self.run.device)).cpu()

    def batches(self, size=256):
        """(y, x) on the run's device, `size` pairs at a time."""
        for y, x in zip(self.y.split(size), self.x.split(size), strict=True):
            yield y.to(self.run.device), x.to(self.run.device)

    # -- methods and their predictions

    def sampler(self, run, seed=0, n=1, **settings):
        """The method "mean of n samples of `run`"; settings: see Bridge.sample.

        A seed gives a pair the same noise in every run, if their latents are of one shape."""
        bridge = run.bridges[self.direction]
        randn = cpu_randn(seed)

        def method(y, x):
            total = 0
            for _ in range(n):
                sample, _ = bridge.sample(y, randn=randn, **settings)
                total = total + sample
            return total / n

        return method

    @torch.no_grad()
    def predict(self, method, batch=256):
        """x_hat (N, *x_shape) of a method, on the CPU, and the seconds a pair took.

        Images and voxels are clamped to [-1, 1], as saving them to a file would do."""
        start = time.perf_counter()
        x_hat = torch.cat([method(y, x).cpu() for y, x in self.batches(batch)])
        seconds = (time.perf_counter() - start) / self.N
        if self.kind != "vector":
            x_hat = x_hat.clamp(-1, 1)
        return x_hat, seconds

    def nfe(self, **settings):
        """How often a sample evaluates the denoiser: counted, on one pair."""
        _, count = self.bridge.sample(self.y[:1].to(self.run.device), **settings)
        return count

    # -- scores

    def score(self, x_hat):
        """{metric: value} of one prediction x_hat (N, *x_shape) for each pair."""
        if self.kind == "volume":
            return self.score_volumes(x_hat)
        # A covariance needs two items.
        fid = {}
        if self.N > 1:
            fid["fid"] = metrics.frechet(self.features(x_hat), self.features(self.truth))
        if self.kind == "vector":
            return {"cosine": metrics.cosine(x_hat.flatten(1), self.truth.flatten(1))} | fid

        # Several views (N, V, C, H, W) are N V images.
        made = x_hat.reshape(-1, *x_hat.shape[-3:])
        true = self.truth.reshape(-1, *self.truth.shape[-3:])
        scores = {"psnr": metrics.psnr(made, true, low=-1, high=1)}
        if min(true.shape[2:]) >= 11:  # SSIM's window has 11 x 11 pixels
            scores["ssim"] = metrics.ssim(made, true, low=-1, high=1)
        scores |= fid
        distance = lpips()
        if distance:
            # It wants three channels: grey is repeated.
            coloured = made.expand(-1, 3, -1, -1), true.expand(-1, 3, -1, -1)
            scores["lpips"] = distance(*coloured).mean().item()
        return scores

    def say_what_is_left_out(self):
        """A line for the scores that `score` and `r1` cannot give here."""
        few = []
        if self.N < 2:
            few.append("R@1")
        if self.N < 2 and self.kind != "volume":
            few.append("FID")
        if self.N < 4 and self.kind == "volume":
            few.append("1-NNA")
        print_left_out(few)
        if self.kind == "image" and min(self.truth.shape[-2:]) < 11:
            print_left_out(["SSIM"], "its window has 11 x 11 pixels, the images have fewer")

    def score_volumes(self, x_hat):
        """IoU and 1-NNA. IoU, intersection over union: shared voxels / voxels in either.

        1-NNA asks whether made and true shapes can be told apart: is the nearest neighbour of a
        shape (by Chamfer distance) of its own set? 0.5 is ideal, 1 says "clearly different"."""
        made, true = x_hat > 0, self.truth > 0
        scores = {"iou": metrics.iou(made, true)}

        # The halves are crossed: samples for pairs 0, 2, 4, ... beside the truths of 1, 3, 5, ...
        # Of the same pairs, each sample would have its own truth as the nearest neighbour, and
        # 1-NNA would fall towards 0: one more measure of distortion.
        half = self.N // 2
        made_even, true_odd = made[: 2 * half : 2], true[1::2]
        if half > 1:
            scores["one_nna"] = metrics.one_nna(
                metrics.chamfer(made_even, made_even),
                metrics.chamfer(made_even, true_odd),
                self.distances_of_truth,
            )
        return scores

    @cached_property
    def distances_of_truth(self):
        """Chamfer distances among the truths of 1, 3, 5, ...: the same for every prediction."""
        true_odd = self.truth[1::2] > 0
        return metrics.chamfer(true_odd, true_odd)

    @cached_property
    def pca(self):
        """FID's features, fitted on training targets, so that no test item shapes them."""
        pairs = self.run.pairs("train", self.direction)
        rows = np.sort(np.random.default_rng(1).permutation(len(pairs.x))[:5000])
        _, x = pairs.of(rows)
        flat = self.scaled(torch.from_numpy(x)).flatten(1).numpy()  # (5000, numbers of an item)
        count = min(128, *flat.shape)  # there are no more components than rows or columns
        return PCA(count, svd_solver="randomized", random_state=0).fit(flat)

    def features(self, x):
        return torch.from_numpy(self.pca.transform(x.flatten(1).numpy()))  # (N, 128)

    # -- latents

    @torch.no_grad()
    def latents(self, run):
        """z_T and z_0 of all pairs as unit vectors, (N, tokens x D) each."""
        # In batches, for the encoders of large items fill the memory.
        z_Ts, z_0s = [], []
        for y, x in self.batches():
            z_T, z_0 = run.bridges[self.direction].latents(y, x)
            z_Ts.append(z_T)
            z_0s.append(z_0)
        # All tokens of a latent are one vector. Of length 1, so that a dot product is a cosine.
        z_T = fn.normalize(torch.cat(z_Ts).flatten(1)).cpu()
        z_0 = fn.normalize(torch.cat(z_0s).flatten(1)).cpu()
        return z_T, z_0

    def r1(self, run):
        """R@1 across modalities: the share of z_T whose nearest z_0, of all N, is its own.

        Do both modalities live in one space, as InfoNCE wants it? By chance: 1 / N."""
        z_T, z_0 = self.latents(run)
        right = [[n] for n in range(self.N)]
        return metrics.recall_at_k(metrics.ranks(z_T, z_0, right), 1)


@cache
def lpips():
    """The package's metric if it is installed and its AlexNet is already here, else None."""
    file = os.path.join(torch.hub.get_dir(), "checkpoints", "alexnet-owt-7be5be79.pth")
    if importlib.util.find_spec("lpips") and os.path.exists(file):
        return importlib.import_module("lpips").LPIPS(net="alex", verbose=False).eval()
    # Said once, for the answer is cached.
    print("LPIPS: left out; it needs its package, and AlexNet's weights in torch.hub's folder")
    return None


# --------------------------------------------------------------------------------------------------
# Methods (see BridgeTestSet): without chance, and with it


def solid_hull(y, x):
    """The method "visual hull": the largest solid with these silhouettes, as voxels -1 or 1."""
    return torch.from_numpy(glyphs.visual_hull(y.cpu().numpy())) * 2.0 - 1


def room_hull(y, x):
    """The same for a room, seen from its middle."""
    return torch.from_numpy(glyph_rooms.visual_hull(y.cpu().numpy())) * 2.0 - 1


def decoded(y, x):
    """The same for glyph-sights: what the public code says of a sound, as a picture in [-1, 1]."""
    return decode(y.cpu()) / 127.5 - 1


def played(y, x):
    """The same for glyph-sounds: the code itself, with other phases than the true sound has.

    It knows the rule that the bridge has to find out: a sample can be as good, and not better."""
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (len(y), 32))
    return torch.from_numpy(heard(y.cpu().numpy(), phases)) / 127.5 - 1


CLASSICAL = {
    "glyph-solids": solid_hull,
    "glyph-rooms": room_hull,
    "glyph-sights": decoded,
    "glyph-sounds": played,
}


def classical(test_set):
    """The method that needs no learning: a row of CLASSICAL, bicubic interpolation; else None."""
    bridge = test_set.bridge
    if test_set.run.args.dataset in CLASSICAL:
        return CLASSICAL[test_set.run.args.dataset]

    def bicubic(y, x):
        size = bridge.x_shape[1:]
        return fn.interpolate(bridge.scale_y(y), size=size, mode="bicubic", antialias=False)

    # Interpolation needs images (C, H, W) on both sides, of the same C, that become larger.
    small, large = bridge.y_shape, bridge.x_shape
    images = test_set.kind == "image" and len(small) == len(large) == 3
    if images and small[0] == large[0] and small[1] < large[1]:
        return bicubic
    return None


def plain_methods(test_set):
    """{name: (method, NFE)} of the baselines without chance: one prediction is enough."""

    def ceiling(y, x):
        return test_set.bridge.reconstruct(x)

    # In one step the sampler goes from T to 0 at once: its only evaluation is that of z_T.
    regressor = test_set.sampler(test_set.run, steps=1)
    methods = {"regressor": (regressor, 1), "ceiling": (ceiling, 0)}
    if classical(test_set):
        methods["classical"] = (classical(test_set), 0)
    return methods


def draw(test_set, run, n, **settings):
    """n samples of each pair, [x_hat of seed 0, 1, ...], and the seconds that one sample takes."""
    draws, times = [], []
    for seed in range(n):
        x_hat, seconds = test_set.predict(test_set.sampler(run, seed, **settings))
        draws.append(x_hat)
        times.append(seconds)
    return draws, min(times)  # the time that other programs disturbed least


def scores_of_mean(test_set, draws):
    """Scores of the mean of n draws, {"psnr_mean8": value} for n = 8, and their diversity.

    Diversity: how much the samples of one pair differ, the std over them of a pixel (voxel, ...),
    mean over pixels and pairs. 0: always the same prediction."""
    draws = torch.stack(draws)  # (n, N, *x_shape)
    scores = {}
    for metric, value in test_set.score(draws.mean(0)).items():
        scores[f"{metric}_mean{len(draws)}"] = value
    scores["diversity"] = draws.std(0).mean().item()
    return scores


# --------------------------------------------------------------------------------------------------
# A table of scores


def print_bridge_scores(rows, note=""):
    """A line for each method and NFE: its scores over seeds; below it those of means of samples.

    rows: of RUN/bridge.json. The metric "psnr_mean8" is the PSNR of the mean of eight samples."""
    # Rows are sorted into lines and columns, both in the order in which they come.
    columns, lines, seconds = [], {}, {}
    for row in rows:
        metric, _, many = row["metric"].partition("_mean")
        if metric not in columns:
            columns.append(metric)
        line = row["method"], row["nfe"], many
        lines.setdefault(line, {}).setdefault(metric, []).append(row["value"])
        seconds.setdefault(line, row["seconds_per_sample"])

    # The head of the table, then its lines.
    print(f"\n{rows[0]['data']}{note}")
    titles = "".join(f"{metric:>17}" for metric in columns)
    print(f"{'':22}{titles}{'NFE':>5}{'ms/sample':>11}")
    for line, values in lines.items():
        method, nfe, many = line
        cells = ""
        for metric in columns:
            cell = spread(values[metric], DIGITS.get(metric, 3)) if metric in values else ""
            cells += f"{cell:>17}"
        # The mean of samples stands below the samples, and their cost is said there.
        if many:
            print(f"{'  mean of ' + many:22}{cells}")
        else:
            print(f"{method:22}{cells}{nfe:>5}{1000 * seconds[line]:>11.2f}")
