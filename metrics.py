"""
metrics.py: the definitions of the metrics, and nothing else. Arrays or tensors in, floats out.

Cosine similarity (MT 4.2) says little by itself: a constant answer, the mean of the training targets, already has
a cosine of 0.7 on CLIP latents. So it comes with controls: `centred_cosine`, where that constant scores 0,
`unrelated_cosine`, the score against somebody else's target, and `recall_at_k`, where a constant finds nothing.

Letters  N queries   G gallery   d width
"""

import torch
import torch.nn.functional as fn


def rows(x):
    """(N, d) float32 tensor. Raises ValueError where x is no matrix or holds NaN or Inf."""
    x = torch.as_tensor(x).float()
    if x.ndim != 2 or not x.isfinite().all():
        raise ValueError(f"a finite (N, d) matrix is needed, this one is {tuple(x.shape)}")
    return x


def cosine(z_hat, z):
    """Mean over rows of z_hat . z / (|z_hat| |z|); both (N, d). This is Sim_txt or Sim_img (MT 4.2)."""
    z_hat, z = rows(z_hat), rows(z)
    if z_hat.shape != z.shape:
        raise ValueError(f"shapes differ: {tuple(z_hat.shape)} and {tuple(z.shape)}")
    return fn.cosine_similarity(z_hat, z).mean().item()


def centred_cosine(z_hat, z, mean):
    """Cosine after subtracting `mean` (d,), the mean of the *training* targets, from both sides."""
    return cosine(rows(z_hat) - mean, rows(z) - mean)


def unrelated_cosine(z_hat, z, groups, seed=0):
    """Cosine to a random target of another group (N,): what a translation scores without being about its query."""
    N = len(z_hat)
    g = torch.Generator().manual_seed(seed)
    other, groups = torch.randperm(N, generator=g), torch.as_tensor(groups)
    wrong = groups[other] != groups
    if not wrong.any():
        raise ValueError("all rows are of one group: nothing is unrelated")
    return cosine(rows(z_hat)[wrong], rows(z)[other[wrong]])


def ranks(queries, gallery, positives, chunk=2048):
    """Rank of each query's best positive, (N,): 1 + the number of wrong items at least as similar (cosine).

    positives[n]: list of gallery indices that are right for query n. A tie counts against the query, else a
    constant prediction, tied with everything, would be right every time."""
    q, g = fn.normalize(rows(queries)), fn.normalize(rows(gallery))
    out = torch.empty(len(q), dtype=torch.long)
    for start in range(0, len(q), chunk):
        sim = q[start : start + chunk] @ g.T  # (chunk, G)
        for n, s in enumerate(sim, start):
            right = torch.as_tensor(positives[n])
            best = s[right].max()
            s[right] = -torch.inf  # other right answers are no competitors
            out[n] = 1 + (s >= best).sum()
    return out


def recall_at_k(rank, k):
    """Share of queries whose best positive is among the first k; rank (N,) from `ranks`."""
    return (torch.as_tensor(rank) <= k).float().mean().item()


def accuracy(predicted, label):
    """Share of rows where the two agree; both (N,)."""
    return (torch.as_tensor(predicted) == torch.as_tensor(label)).float().mean().item()
