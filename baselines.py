"""
baselines.py
"""

import os

import numpy as np
import torch
import torch.nn.functional as fn
from sklearn.linear_model import Ridge
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

import metrics
from ddim_translator import EpsTheta
from glyphs import digest
from runs import MAY_CHANGE, draw_batch, load_if_same, save_checkpoint, warmup_cosine


def identity(c):
    """z_hat = c: CLIP's own cosine, and the paper's CLIP-GEN row. Needs equal widths."""
    return c


def lafite_noise(c, seed):
    """z_hat = normalize(c) / 4 + 3/4 of a random unit vector: Lafite's perturbation, MT's row."""
    u = torch.randn(c.shape, generator=torch.Generator().manual_seed(seed))
    return 0.25 * fn.normalize(c) + 0.75 * fn.normalize(u)


def ridge(c, z, c_val, z_val):
    """scikit-learn's Ridge, which has a bias; lambda by validation cosine. -> function of c."""
    c, z = c.double().numpy(), z.double().numpy()  # float32 loses the small directions of CLIP
    fits = [Ridge(lam).fit(c, z) for lam in 10.0 ** np.arange(-2, 4)]
    answer = lambda fit: lambda c: torch.from_numpy(fit.predict(c.double().numpy())).float()
    return max((answer(f) for f in fits), key=lambda f: metrics.cosine(f(c_val), z_val))


def knn(c, z, k=10, tau=0.05):
    """Mean target of the k most similar training conditions, weighted by softmax(cosine / tau)."""
    keys, k = fn.normalize(c), min(k, len(c))

    def answer(c):
        tops = [(fn.normalize(x) @ keys.T).topk(k) for x in c.split(512)]
        similar, i = (torch.cat(x) for x in zip(*tops, strict=True))
        return ((similar / tau).softmax(1)[:, :, None] * z[i]).sum(1)

    return answer


def mlp_regression(run, latents, direction):
    """Regression by the run's own network: z_0 from c alone (z_t = 0, t = T), mean square error.

    The same batches, steps, learning rate and averaging as the run's; kept in RUN/mlp-*.pt and
    trained again if the run's arguments or data have changed. -> function of c."""
    a, twin = run.args, run.translators[direction]
    torch.manual_seed(a.seed)  # for the first weights and for dropout
    net = EpsTheta(*run.dims[direction], a.width, a.layers, a.dropout).to(run.device)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(a.ema))
    regress = lambda net, c: net(*blank(c, twin), twin.scale_c(c))
    path = os.path.join(run.folder, f"mlp-{direction.replace('->', '-to-')}.pt")
    means = [x.cpu().numpy() for x in (twin.c_mean, twin.z_mean)]
    trained = {k: v for k, v in vars(a).items() if k not in MAY_CHANGE}
    stamp = {"args": trained, "data": digest(*means)}
    if saved := load_if_same(path, stamp):
        ema.load_state_dict(saved["ema"])
    else:
        fit_mlp(run, latents, direction, net, ema, regress)
        save_checkpoint(path, {**stamp, "ema": ema.state_dict()})
    ema.eval()

    @torch.no_grad()
    def answer(c):
        out = torch.cat([regress(ema, x.to(run.device)) for x in c.split(4096)])
        return (out / twin.z_scale + twin.z_mean).cpu()

    return answer


def blank(c, twin):
    """z_t = 0 (B, h2) and t = T (B,): a z_t that says nothing about z_0."""
    return c.new_zeros(len(c), twin.h2), torch.full((len(c),), twin.T, device=c.device)


def fit_mlp(run, latents, direction, net, ema, regress):
    a, twin = run.args, run.translators[direction]
    decay = a.weight_decay
    optimizer = torch.optim.AdamW(net.parameters(), a.lr, weight_decay=decay, fused=True)
    for step in tqdm(range(a.steps), f"mlp {direction}", disable=None):
        c, z, _ = draw_batch(latents, direction, step, a)
        z = (z.to(run.device) - twin.z_mean) * twin.z_scale
        for group in optimizer.param_groups:
            group["lr"] = a.lr * (warmup_cosine(step, a.steps) if a.cosine else 1.0)
        loss = (regress(net, c.to(run.device)) - z).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), a.clip)
        optimizer.step()
        ema.update_parameters(net)


class Baselines:
    """Every baseline of one direction, fitted once on (at most 200,000) full training pairs."""

    def __init__(self, run, direction, latents, validation, trained=("knn", "mlp"), most=200_000):
        rows = np.random.default_rng(0).permutation(latents.full)[:most]
        c, z = latents.of(direction, np.sort(rows))
        self.mean = z.mean(0)
        self.answers = {"mean": lambda c: self.mean.expand(len(c), -1)}
        self.answers["ridge"] = ridge(c, z, *validation.of(direction, validation.full))
        if run.dims[direction][0] == run.dims[direction][1]:
            self.answers["identity"] = identity
        if "knn" in (trained or ()):
            self.answers["knn"] = knn(c, z)
        if "mlp" in (trained or ()):
            self.answers["mlp"] = mlp_regression(run, latents, direction)
