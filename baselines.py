"""
baselines.py: what an honest table has beside ours.

A cosine of 0.64 says nothing by itself. Is it hard to reach? Does it take a diffusion? Each
baseline answers one such question. All are functions c -> z_hat, of raw latents, as a translator
is, and all but two are fitted on the pairs that the translator was trained on:

mean      One answer to every query: the mean of the training targets. What is a score worth that
          knows nothing of the query? On CLIP latents, a cosine of 0.7 (scores.py says why).
ridge     The best linear map, in closed form, in a second. Does it take a network at all?
knn       The targets of the ten training conditions nearest to c. Is it enough to look things up?
mlp       Regression: our own network, batches and steps, but a plain square loss and no noise.
          THE BAR for a translator: what is not above this row, the diffusion did not add.
identity  z_hat = c, untrained, where both encoders share a space: CLIP's own cosine.
noise     c with much noise: the untrained perturbation of Lafite, a row of MT's Table 2.

Why regression is a bar for a method that samples. Let a name fit two typefaces equally well, with
unit latents (1, 0) and (0, 1). A perfect sampler answers with one of them: it is right half of the
time, cosine 1, and half of the time wrong, cosine 0; mean 0.5. Regression answers with the middle,
(0.5, 0.5), which is no typeface at all, and its cosine with either is 0.71. In general the square
loss is least at E[z|c], the mean of all right answers, and no direction has a higher expected
cosine with unit vectors z. So a translator that averages K samples comes to such a row from below.
What only it has are the samples themselves: each one sharp, and different each time.

Map      nearest         nearest neighbours by cosine, for every table and figure
         identity, lafite_noise, ridge, knn, mlp_regression
         Baselines       all of them for one direction of a run
Letters  N training pairs   n queries   c (n, h1), z (n, h2) raw latents
Try      python evaluate.py runs/glyphs-translator --task similarity
"""

import os

import torch
import torch.nn.functional as fn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import closed_form
from checkpoints import MAY_CHANGE, load_if_same, restore, save_checkpoint
from closed_form import best_ridge, moments
from ddim_translator import EpsTheta
from devices import side_by_side
from encoders import fixed_sample
from glyphs import digest
from runs import draw_batch, ema_decay, learning_rate

# knn holds all its pairs in memory: these many, 512 wide, are 0.4 GB a side.
MOST_PAIRS = 200_000


# --------------------------------------------------------------------------------------------------
# Nearest neighbours


def nearest(queries, keys, k):
    """(cosines, rows), both (n, k): the k of keys (N, h) most similar to each of queries (n, h)."""
    unit_keys = fn.normalize(keys)
    cosines, rows = [], []
    # 512 queries at a time: 5,000 against 200,000 keys at once would be a matrix of 4 GB.
    for chunk in queries.split(512):
        similarity = fn.normalize(chunk) @ unit_keys.T  # (512, N)
        # Ties are real: Latin A and Greek Alpha are one picture. max takes the first of equals,
        # topk any of them, and then the caption of the nearest image might change.
        top = similarity.max(1, keepdim=True) if k == 1 else similarity.topk(k)
        cosines.append(top.values)
        rows.append(top.indices)
    return torch.cat(cosines), torch.cat(rows)


# --------------------------------------------------------------------------------------------------
# Without training


def identity(c):
    """z_hat = c: CLIP's own cosine. Needs equal widths."""
    return c


def lafite_noise(c, seed):
    """z_hat = c / 4 + 3 u / 4 with c and u of length 1, u random: Lafite's perturbation.

    u is nearly orthogonal to everything, so the cosine is that of c times 0.25 / sqrt(0.25^2 +
    0.75^2) = 0.316. In MT's Table 2 that fits the rows CLIP-GEN, 0.3042, and LAFITE, 0.0965."""
    u = torch.randn(c.shape, generator=torch.Generator().manual_seed(seed))
    return 0.25 * fn.normalize(c) + 0.75 * fn.normalize(u)


# --------------------------------------------------------------------------------------------------
# In closed form


def unchanged(x):
    """x itself."""
    return x


def ridge(chunks, c_val, z_val, prepared=unchanged):
    """The best linear map of all pairs, lambda by validation. -> function c -> z_hat.

    chunks: an iterable of (c, z). prepared: what the run does to latents, before all else.
    closed_form.py has the formula, and what lambda is for."""
    found = moments((prepared(c), prepared(z)) for c, z in chunks)
    W, b = closed_form.ridge(found, best_ridge(found, prepared(c_val), z_val))

    # float64: CLIP latents vary so little in some directions that float32 would lose them.
    def answer(c):
        return (prepared(c).double() @ W + b).float()

    return answer


def knn(c, z, k=10, tau=0.05):
    """Weighted mean target of the k most similar training conditions. -> function c -> z_hat.

    Weights softmax(cosine / tau): with tau = 0.05 a neighbour whose cosine is lower by 0.05
    counts e times less. Neither number was tuned."""
    k = min(k, len(c))

    def answer(c_new):
        cosines, rows = nearest(c_new, c, k)
        weights = (cosines / tau).softmax(1)  # (n, k)
        return (weights[:, :, None] * z[rows]).sum(1)  # (n, k, h2) -> (n, h2)

    return answer


# --------------------------------------------------------------------------------------------------
# Regression by the translator's own network


def regress(net, translator, c):
    """z_0 in the translator's scaled units, (n, h2), from raw c (n, h1) alone; net: an EpsTheta.

    The network wants z_t and t besides. t = T and z_t = 0 say nothing about z_0: at t = T a
    sampler sees noise alone, and 0 is the mean of that noise."""
    z_t = c.new_zeros(len(c), translator.h2)
    t = torch.full((len(c),), translator.T, device=c.device)
    return net(z_t, t, translator.scale_c(c))


def mlp_regression(run, latents, direction):
    """E[z|c] by the run's own network and a mean square loss. -> function c -> z_hat.

    The same batches, steps, learning rate and averaging as the run's. Kept in RUN/mlp-*.pt, and
    trained again if the run's arguments or its data have changed. The other direction's network
    will be wanted, too: what is missing is trained together."""
    regressions = {direction: Regression(run, direction) for direction in run.translators}
    missing = [one for one in regressions.values() if not one.read()]

    def train(one):
        fit_mlp(run, latents, one.direction, one.net, one.ema)
        one.save()

    # Both at once, as train.py does with the two directions.
    side_by_side(train, missing, run.device, random=run.args.dropout > 0)
    return regressions[direction]


class Regression:
    """A baseline's network of one direction, and its file; called with raw c (n, h1), z_hat."""

    def __init__(self, run, direction):
        self.run, self.direction = run, direction
        args, self.translator = run.args, run.translators[direction]
        torch.manual_seed(args.seed)  # for the first weights and for dropout
        h1, h2 = run.dims[direction]
        self.net = EpsTheta(h1, h2, args.width, args.layers, args.dropout).to(run.device)
        self.ema = AveragedModel(self.net)

        # What decides the outcome: the arguments, but for those that say only where to compute, and
        # the data, by its means.
        settings = {k: v for k, v in vars(args).items() if k not in MAY_CHANGE}
        means = [self.translator.c_mean.cpu().numpy(), self.translator.z_mean.cpu().numpy()]
        self.stamp = {"args": settings, "data": digest(*means)}
        self.path = os.path.join(run.folder, f"mlp-{direction.replace('->', '-to-')}.pt")

    def read(self):
        """Whether it has been trained before, and could be read back."""
        saved = load_if_same(self.path, self.stamp)
        if saved:
            restore(self.path, self.direction, lambda: self.ema.load_state_dict(saved["ema"]))
        return bool(saved)

    def save(self):
        save_checkpoint(self.path, {**self.stamp, "ema": self.ema.state_dict()})

    @torch.no_grad()
    def __call__(self, c):
        # In chunks of 4,096, which fit any GPU; then back to raw units.
        self.ema.eval()
        net, device = self.translator, self.run.device
        out = [regress(self.ema, net, chunk.to(device)) for chunk in c.split(4096)]
        return (torch.cat(out) / net.z_scale + net.z_mean).cpu()


def fit_mlp(run, latents, direction, net, ema):
    """Train `net` and its moving average, in place. train.py explains a step, line by line."""
    args, translator = run.args, run.translators[direction]
    optimizer = torch.optim.AdamW(
        net.parameters(), args.lr, weight_decay=args.weight_decay, fused=True
    )
    for step in tqdm(range(args.steps), f"mlp {direction}", disable=None):
        # The batch that the translator saw at this step. Its noise is not needed: nothing is
        # noised here. The target is in the translator's units, of mean square 1.
        c, z, _ = draw_batch(latents, direction, step, args)
        z = translator.scale_z(z.to(run.device)) - translator.z_mean * translator.z_scale

        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        ema.multi_avg_fn = get_ema_multi_avg_fn(ema_decay(step, args))
        loss = (regress(net, translator, c.to(run.device)) - z).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), args.clip)
        optimizer.step()
        ema.update_parameters(net)


# --------------------------------------------------------------------------------------------------
# All of them


class Baselines:
    """Every baseline of one direction, fitted once, on full training pairs; knn on MOST_PAIRS.

    mean      (h2,) of the training targets
    answers   {name: function c -> z_hat}
    trained   which of "knn" and "mlp" are wanted: they are slow"""

    def __init__(self, run, direction, latents, validation, trained=("knn", "mlp")):
        # Full pairs only: a bare caption fits twelve images, and as a target of eleven of them
        # it would be wrong.
        rows = latents.full[fixed_sample(len(latents.full), MOST_PAIRS)]
        c, z = latents.of(direction, rows)
        self.mean = z.mean(0)
        self.answers = {"mean": self.constant}
        c_val, z_val = validation.of(direction, validation.full)
        # A bridge takes latents as they are; a translator may divide them by their lengths first.
        prepared = run.translators[direction].prepared if hasattr(run, "translators") else unchanged
        self.answers["ridge"] = ridge(latents.chunks(direction), c_val, z_val, prepared)
        # Vectors of two widths have no cosine.
        h1, h2 = run.dims[direction]
        if h1 == h2:
            self.answers["identity"] = identity
        if "knn" in trained:
            self.answers["knn"] = knn(c, z)
        if "mlp" in trained:
            self.answers["mlp"] = mlp_regression(run, latents, direction)

    def constant(self, c):
        return self.mean.expand(len(c), -1)
