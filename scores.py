"""
scores.py
"""

import json
import os

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import metrics
from runs import RunError


class TestSet:
    """One direction of a test, over at most `limit` of the given rows of latents.pairs.

    queries (Q,), gallery (G,)   which rows of the latents they are
    c (Q, h1), z (G, h2)         their latents
    q, g, group (P,)             the pairs: query q belongs to item g; group: see `groups`
    pool                         the items that R@k ranks: at most `pool` of the gallery
    right                        {query: its right answers, as places in the pool}
    Cosines are means over pairs, R@k over the queries that have a right answer in the pool."""

    def __init__(self, latents, direction, rows, limit, pool):
        q, g = latents.pairs[rows].T
        source, target = latents.image, latents.text
        if direction == "text->image":
            q, g, source, target = g, q, target, source
        asked = np.random.default_rng(0).permutation(len(rows))[:limit]
        self.group = groups(q, g)[asked]
        self.queries, self.q = np.unique(q[asked], return_inverse=True)
        self.gallery, self.g = np.unique(g[asked], return_inverse=True)
        self.c = torch.from_numpy(source[self.queries])
        self.z = torch.from_numpy(target[self.gallery])
        self.pool = np.sort(np.random.default_rng(1).permutation(len(self.gallery))[:pool])
        # from all rows: a pair that was not drawn may still link a query and an item that were
        query, place = places(self.queries, q), places(self.gallery[self.pool], g)
        known, self.right = (query >= 0) & (place >= 0), {}
        for n, item in zip(query[known].tolist(), place[known].tolist(), strict=True):
            self.right.setdefault(n, []).append(item)

    def score(self, z_hat, mean):
        """The numbers of one row of a table; z_hat (Q, h2), mean (h2,) of the training targets."""
        ours, true, asked = z_hat[self.q], self.z[self.g], sorted(self.right)
        rank = metrics.ranks(z_hat[asked], self.z[self.pool], [self.right[n] for n in asked])
        return {
            "cosine": metrics.cosine(ours, true),
            "centred_cosine": metrics.centred_cosine(ours, true, mean),
            "unrelated_cosine": metrics.unrelated_cosine(ours, true, self.group),
            **{f"r{k}": metrics.recall_at_k(rank, k) for k in (1, 5, 10)},
            "pool": len(self.pool),
        }


def places(ids, x):
    """(len(x),) where in the sorted `ids` each x is, or -1."""
    where = np.searchsorted(ids, x).clip(max=len(ids) - 1)
    return np.where(ids[where] == x, where, -1)


def groups(q, g):
    """(P,) numbers: equal for pairs that share a query or an item, directly or through others.

    So five captions of one photo, or all photos of one class, are never "unrelated"."""
    n = q.max() + 1
    graph = coo_matrix((np.ones(len(q)), (q, n + g)), shape=[n + g.max() + 1] * 2)
    return connected_components(graph, directed=False)[1][q]


class Report:
    """The rows of a table in RUN. Raises EvaluateError if the file there is not its own.

    key: which fields make a row replace older ones; show(rows, note) prints rows"""

    def __init__(self, folder, name="translation.json", key=("task", "direction"), show=None):
        self.path, self.rows = os.path.join(folder, name), []
        self.key, self.show = lambda row: [row[k] for k in key], show or print_table
        if os.path.exists(self.path):
            try:
                with open(self.path) as f:
                    self.rows = json.load(f)["rows"]
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{self.path}: not our table; move it away") from None

    def add(self, rows, note=""):
        """Print rows, and put them in the place of older ones."""
        self.show(rows, note)
        new = [self.key(r) for r in rows]
        self.rows = [r for r in self.rows if self.key(r) not in new] + rows
        write_json(self.path, {"rows": self.rows})


def write_json(path, value):
    with open(path + ".tmp", "w") as f:
        json.dump(value, f, indent=1)
    os.replace(path + ".tmp", path)


def spread(values, digits):
    """0.612, or 0.612 +- 0.003 where there are several seeds (sample standard deviation)."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


def print_table(rows, note=""):
    columns = ("cosine", "centred_cosine", "unrelated_cosine", "r1", "r5", "r10")
    titles = ("cosine", "centred", "unrelated", "R@1", "R@5", "R@10")
    task, direction, pool = (rows[0][k] for k in ("task", "direction", "pool"))
    print(f"\n{task}, {direction}; R@k of {pool}{note}")
    print(" " * 16 + "".join(f"{c:>18}" for c in titles))
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        cells = [spread([r[c] for r in mine], 3) for c in columns]
        print(f"{method:16}" + "".join(f"{c:>18}" for c in cells))


def print_scores(table, names, digits):
    """table: {method: [{metric: value} of seed 0, 1, ...]}"""
    print(" " * 30 + "".join(f"{n:>18}" for n in names))
    for method, seeds in table.items():
        cells = (spread([s[n] for s in seeds], d) for n, d in zip(names, digits, strict=True))
        print(f"{method:30}" + "".join(f"{c:>18}" for c in cells))


def rows_of(task, direction, exam, answers, mean, seeds):
    return [
        {"task": task, "direction": direction, "method": method}
        | exam.score(z_hat, mean)
        | {"seed": seed}
        for method, z_hats in answers.items()
        for seed, z_hat in zip(seeds, z_hats, strict=False)
    ]
