"""
metrics.py: the definitions of the metrics, and nothing else. Arrays or tensors in, floats out.

Cosine similarity (MT 4.2) says little by itself: a constant answer, the mean of the training
targets, already has a cosine of 0.7 on CLIP latents. So it comes with controls: `centred_cosine`,
where that constant scores 0, `unrelated_cosine`, the score against somebody else's target, and
`recall_at_k`, where a constant finds one query's answer in G.

By hand  z_hat = [[1, 0], [1, 1]] and z = [[1, 0], [0, 2]] have cosines 1 and 0.7071, mean 0.8536.
         Let z be the gallery and row n the answer of query n. Query 0 has rank 1. Query 1 is as
         near to both rows: a tie, which counts against it, rank 2. So R@1 = 0.5 and R@2 = 1.
Letters  N queries   G gallery   d width
Errors   ValueError for NaN, Inf, nothing at all, and shapes that do not fit
"""

import torch
import torch.nn.functional as fn


def rows(x):
    """(N, d) float32 tensor. Raises ValueError where x is no matrix, is empty, holds NaN or Inf."""
    x = torch.as_tensor(x).float()
    if x.ndim != 2 or not x.numel() or not x.isfinite().all():
        raise ValueError(f"a finite (N, d) matrix is needed, this one is {tuple(x.shape)}")
    return x


def same(a, b):
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return a, b


def cosine(z_hat, z):
    """Mean over rows of z_hat . z / (|z_hat| |z|); both (N, d). Sim_txt or Sim_img of MT 4.2."""
    return fn.cosine_similarity(*same(rows(z_hat), rows(z))).mean().item()


def centred_cosine(z_hat, z, mean):
    """Cosine after subtracting `mean` (d,), the mean of the *training* targets, from both sides."""
    z, mean = rows(z), torch.as_tensor(mean)
    same(z[0], mean)
    return cosine(rows(z_hat) - mean, z - mean)


def unrelated_cosine(z_hat, z, groups, seed=0):
    """Cosine to a random target of another group: the score of not being about the query at all.

    groups (N,) integers: rows of one group are each other's right answers."""
    groups, N = torch.as_tensor(groups), len(z_hat)
    if groups.shape != (N,) or (groups == groups[0]).all():
        raise ValueError(f"groups {tuple(groups.shape)}: {N} are needed, and at least two kinds")
    ordered, order = groups.sort()
    start = torch.searchsorted(ordered, groups)  # my group is ordered[start : start + size]
    size = torch.searchsorted(ordered, groups, right=True) - start
    u = torch.rand(N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = (u * (N - size)).long()
    other += size * (other >= start)  # jumps over my group
    return cosine(z_hat, rows(z)[order[other]])


def ranks(queries, gallery, positives, chunk=2048):
    """Rank of each query's best positive, (N,): 1 + how many wrong items are at least as similar.

    positives[n]: list of gallery indices that are right for query n. A tie counts against the
    query, else a collapsed model, whose answers are equally near to everything, would be right
    every time. queries (N, d), gallery (G, d); similarity is cosine."""
    q, g = fn.normalize(rows(queries)), fn.normalize(rows(gallery))
    same(q[0], g[0])
    if len(positives) != len(q) or not all(len(right) for right in positives):
        raise ValueError(
            f"{len(positives)} lists of right answers for {len(q)} queries, none empty"
        )
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
    return (torch.as_tensor(rank) <= k).double().mean().item()


def accuracy(predicted, label):
    """Share of rows where the two agree; both (N,)."""
    predicted, label = same(torch.as_tensor(predicted), torch.as_tensor(label))
    return (predicted == label).double().mean().item()
