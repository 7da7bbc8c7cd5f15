"""
scores.py: a test set, the scores of an answer to it, and the table that they go to.

A translator is given QUERIES, latents of one modality, and answers each with a vector z_hat. The
right answers lie in the GALLERY, the test latents of the other modality. Four kinds of scores say
how near z_hat is to them (metrics.py has the formulas):

cosine     Of z_hat and the target: Sim_txt, Sim_img of MT. A high one may mean nothing. All CLIP
           latents of a modality point roughly the same way: they have length 1, and their mean has
           length 0.7. Now answer EVERY query with that mean m. Its expected cosine with a target z
           is (m / |m|) . E[z] = |m|, so 0.7, for an answer that does not even look at the query.
centred    The cosine after the training mean is subtracted from both. That constant scores 0.
unrelated  The cosine of z_hat with somebody else's target. With a cosine of 0.80 and an unrelated
           one of 0.65, only 0.15 of it is about this query.
R@k        The share of queries with a right answer among the k items nearest to z_hat. A constant
           finds k in G, whatever its cosine. If a query has several right answers, one is enough.

Of few test pairs some of them cannot be measured: "unrelated" needs somebody else, and in a gallery
of one item every answer finds it. Such a score has no entry in its row.

A method that translates in both directions has two more rows. They rank by two latents at a time,
a query and an item, so there is no one answer that could have a cosine: they have R@k alone.

both ways  by s(c, z) = cos(z_hat(c), z) + cos(c, c_hat(z)), where z_hat is the translator of this
           direction and c_hat that of the other one. Is what c became near to z, and is c near to
           what z became? Translating the gallery, too, is fair: no right answer is looked at.
hubs out   by s(c, z) / tau - log sum_c' exp(s(c', z) / tau), the sum over all queries of the test.
           A hub is an item that is near to many queries' answers. The exponential of this is a
           softmax over the queries: the share of the item's similarity that is this query's. IT
           SEES ALL QUERIES TOGETHER (it is "transductive"); all other rows see one at a time, so
           that such a row is no fair winner over them.

Map      TestSet         queries, gallery, and which belongs to which
         linked_groups   which pairs can never be "unrelated"
         rows_of         {method: its answers} -> the rows of a table
         rows_together   the same of two translators: R@k only
         Report          the rows on disk, RUN/translation.json
         at_work         who writes to a run's folder: one process at a time
         print_table, print_scores
Letters  P pairs   Q queries   G gallery   h1 = dim c   h2 = dim z
Try      python evaluate.py runs/glyphs-translator --task similarity
"""

import contextlib
import json
import os

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

import metrics
from errors import RunError
from safe_files import Lock, write_json

# tau of "hubs out". On validation pairs of glyphs R@1 hardly changes from 0.1 to 0.2, and falls
# beyond: of 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2 and 0.3 the least of the good ones.
TAU = 0.1

# --------------------------------------------------------------------------------------------------
# A test set


class TestSet:
    """One direction of a test, over at most `limit` of the given rows of latents.pairs.

    queries (Q,), gallery (G,)   which rows of the latents they are
    c (Q, h1), z (G, h2)         their latents
    q, g (P,)                    the pairs: query q[n] belongs to item g[n]
    group (P,)                   pairs of one group are never "unrelated": see linked_groups
    pool                         the items that R@k ranks: at most `pool` of the gallery
    right                        {query: its right answers, as places in the pool}

    Two photos of COCO, with five captions each, are ten pairs. From image to text:
        queries 0, 1                   the photos: each is translated once
        gallery 0 ... 9                the captions
        q = 0 0 0 0 0 1 1 1 1 1        the cosine is a mean over these ten pairs ...
        g = 0 1 2 3 4 5 6 7 8 9
        right = {0: [0, 1, 2, 3, 4], 1: [5, 6, 7, 8, 9]}      ... and R@k one over two queries
    From text to image q and g change places: ten queries, two items, one right answer each."""

    def __init__(self, latents, direction, rows, limit, pool):
        images, texts = latents.pairs[rows].T
        if direction == "text->image":
            query_of, item_of = texts, images
            source, target = latents.text, latents.image
        else:
            query_of, item_of = images, texts
            source, target = latents.image, latents.text

        # The same pairs in every run, by a fixed seed, so that the tables of two runs compare.
        drawn = np.random.default_rng(0).permutation(len(rows))[:limit]
        self.group = linked_groups(query_of, item_of)[drawn]
        # Each query once, however many pairs it has; q says where in `queries` it stands.
        self.queries, self.q = np.unique(query_of[drawn], return_inverse=True)
        self.gallery, self.g = np.unique(item_of[drawn], return_inverse=True)
        self.c = torch.from_numpy(source[self.queries])
        self.z = torch.from_numpy(target[self.gallery])

        # R@k falls as the gallery grows, so papers fix its size: 1,000 or 5,000.
        self.pool = np.sort(np.random.default_rng(1).permutation(len(self.gallery))[:pool])
        # What is right, by ALL pairs: one that was not drawn may still join a query and an item
        # that were, and finding this item is no mistake.
        query = places(self.queries, query_of)
        place = places(self.gallery[self.pool], item_of)
        both = (query >= 0) & (place >= 0)
        self.right = {}
        for n, item in zip(query[both].tolist(), place[both].tolist(), strict=True):
            self.right.setdefault(n, []).append(item)

    def score(self, z_hat, mean):
        """One row of a table, {score: value}, for answers z_hat (Q, h2).

        mean (h2,): of the training targets. R@k counts only queries with a right answer in the
        pool: the others could not be right. A score that so few pairs cannot give is left out."""
        # An answer is compared with each of its query's targets: one line a pair.
        answers = z_hat[self.q]  # (P, h2)
        targets = self.z[self.g]  # (P, h2)
        scores = {
            "cosine": metrics.cosine(answers, targets),
            "centred_cosine": metrics.centred_cosine(answers, targets, mean),
        }
        # Somebody else's target: there has to be somebody else.
        if (self.group != self.group[0]).any():
            unrelated = metrics.unrelated_cosine(answers, targets, self.group)
            scores["unrelated_cosine"] = unrelated
        # R@k, from the rank of each query's best right answer among the items of the pool.
        findable, right = self.findable()
        rank = metrics.ranks(z_hat[findable], self.z[self.pool], right)
        return scores | self.recalls(rank)

    def score_together(self, z_hat, c_hat):
        """{"both ways": {score: value}, "hubs out": ...}: rows of two translators together.

        z_hat (Q, h2): answers to the queries. c_hat (pool, h1): the other translator's answers to
        the items of the pool, the only ones that are ranked."""
        s = metrics.both_ways(self.c, self.z[self.pool], z_hat, c_hat)  # (Q, pool)
        # All queries take part in finding the hubs, also those without a right answer in the pool:
        # who uses this cannot know which they are. R@k then counts the others only, as ever.
        similarities = {"both ways": s, "hubs out": metrics.hubs_out(s, TAU)}
        findable, right = self.findable()
        rows = {}
        for name, similarity in similarities.items():
            rank = metrics.ranks_of(similarity[findable], right)
            rows[name] = self.recalls(rank)
        return rows

    def findable(self):
        """(queries with a right answer in the pool, the lists of these answers)"""
        findable = sorted(self.right)
        return findable, [self.right[n] for n in findable]

    def recalls(self, rank):
        """{"r1", "r5", "r10": R@k, "pool": its size} from the ranks of the findable queries."""
        scores = {}
        # With one item to choose from, every answer would be right. (R@10 of ten is 1, too: the
        # size of the gallery stands above the table.)
        for k in (1, 5, 10):
            if len(self.pool) > 1:
                scores[f"r{k}"] = metrics.recall_at_k(rank, k)
        scores["pool"] = len(self.pool)
        return scores


def places(ids, x):
    """(len(x),) where in the sorted `ids` each x is, or -1."""
    # searchsorted says where x would have to be put in. For an x above all ids that is the end,
    # one place too far to look at.
    where = np.searchsorted(ids, x).clip(max=len(ids) - 1)
    return np.where(ids[where] == x, where, -1)


def linked_groups(q, g):
    """(P,) numbers: equal for pairs that share a query or an item, directly or through others.

    Caption a fits photos 1 and 2, caption b fits photos 2 and 3: the pairs a-1, a-2, b-2, b-3 are
    one group, so 3 is never an "unrelated" target for a. Neither is another caption of one photo.
    In a graph of queries and items, with a line for each pair, these are the connected parts."""
    # One node for each query, then one for each item.
    first_item = q.max() + 1
    nodes = first_item + g.max() + 1
    # Sparse, a 1 for each line of the graph: in full, COCO's 30,000 nodes are 10^9 entries.
    graph = coo_matrix((np.ones(len(q)), (q, first_item + g)), shape=(nodes, nodes))
    _, part_of_node = connected_components(graph, directed=False)
    return part_of_node[q]


# --------------------------------------------------------------------------------------------------
# Tables


def rows_of(task, direction, test_set, answers, mean, seeds):
    """Rows of a table, dicts, from answers {method: [z_hat of seed 0, 1, ...]}.

    A method without chance has one z_hat: its one row is that of the first seed."""
    rows = []
    for method, z_hats in answers.items():
        for seed, z_hat in zip(seeds, z_hats, strict=False):
            row = {"task": task, "direction": direction, "method": method}
            row |= test_set.score(z_hat, mean)
            row["seed"] = seed
            rows.append(row)
    return rows


def rows_together(task, direction, test_set, pairs, seeds):
    """Two rows, "ours, both ways" and "ours, hubs out", for each method and each seed.

    pairs    {method: ([z_hat (Q, h2) of seed 0, 1, ...], [c_hat (pool, h1) of seed 0, 1, ...])}
    No rows at all where the pool is one item: they would have no score."""
    rows = []
    for method, (z_hats, c_hats) in pairs.items():
        # Noise seed by noise seed, the same one on both sides.
        for seed, z_hat, c_hat in zip(seeds, z_hats, c_hats, strict=False):
            for name, scores in test_set.score_together(z_hat, c_hat).items():
                row = {"task": task, "direction": direction, "method": f"{method}, {name}"}
                if "r1" in scores:
                    rows.append(row | scores | {"seed": seed})
    return rows


class Report:
    """The rows of the tables of a run, in one file of its folder.

    key    the fields that name a table: new rows take the place of old ones of the same key
    show   prints rows: show(rows, note)
    Raises RunError if the file is there and is not such a table."""

    def __init__(self, folder, name="translation.json", key=("task", "direction"), show=None):
        self.path = os.path.join(folder, name)
        self.key, self.show = key, show or print_table
        self.rows = []
        # Read now, not at the end: a broken file should stop the work before hours of it.
        if os.path.exists(self.path):
            try:
                with open(self.path) as f:
                    self.rows = json.load(f)["rows"]
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{self.path}: not our table; move it away") from None

    def key_of(self, row):
        return [row[field] for field in self.key]

    def add(self, rows, note=""):
        """Print rows, and put them in the place of older ones."""
        self.show(rows, note)
        # Written after every task, so that what is done is not lost if a later one fails.
        new = [self.key_of(row) for row in rows]
        kept = [row for row in self.rows if self.key_of(row) not in new]
        self.rows = kept + rows
        write_json(self.path, {"rows": self.rows})


@contextlib.contextmanager
def at_work(folder):
    """A run's folder for one process at a time; a second one waits, with a line.

    Two evaluations of one run would train the same baselines into the same files, and each would
    put its own table in the place of the other's. RunError where nothing can be written."""
    if not os.path.isdir(folder):
        raise RunError(f"{folder}: no such run; python train.py makes one")
    # Said before the work: to find it out at the end would cost all of it.
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"{folder}: results go there, and it cannot be written to: copy it")
    told = f"{folder} is being evaluated by another process"
    with Lock(os.path.join(folder, ".evaluate.lock"), told, wait=True):
        yield


def spread(values, digits):
    """0.612, or 0.612 +- 0.003 where there are several seeds (sample standard deviation)."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    # ddof=1: three values, of which their own mean takes one; over 3 the spread is too small.
    return f"{mean} +- {np.std(values, ddof=1):.{digits}f}"


def print_line(title, cells, width):
    print(f"{title:{width}}" + "".join(f"{cell:>18}" for cell in cells))


def print_table(rows, note=""):
    """The rows of one task and direction: a line a method, over its seeds."""
    columns = {
        "cosine": "cosine",
        "centred_cosine": "centred",
        "unrelated_cosine": "unrelated",
        "r1": "R@1",
        "r5": "R@5",
        "r10": "R@10",
    }
    task, direction, pool = (rows[0][k] for k in ("task", "direction", "pool"))
    print(f"\n{task}, {direction}; R@k of {pool}{note}")
    print_line("", columns.values(), 16)
    # Each method once, in the order of the rows: a dict keeps it, a set would not.
    methods = dict.fromkeys(row["method"] for row in rows)
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        cells = []
        for column in columns:
            values = [row[column] for row in mine if column in row]
            cells.append(spread(values, 3) if values else "-")
        print_line(method, cells, 16)
    # A score that too few pairs cannot give is missing in every row. Rows of two translators have
    # no cosine however many pairs there are: that is no gap.
    present = set().union(*rows)
    print_left_out([title for column, title in columns.items() if column not in present])
    if any(method.endswith(", hubs out") for method in methods):
        print(
            "both ways: the two translators together; hubs out: and all queries at once (scores.py)"
        )


def print_left_out(titles, why="the test pairs are too few"):
    """One line about the scores that a table lacks, so that nobody takes a gap for a fault."""
    if titles:
        print(f"not measured, for {why}: {', '.join(titles)}")


def print_scores(table, names, digits):
    """A line a method of {method: [{score: value} of seed 0, 1, ...]}; digits: after the point."""
    print_line("", names, 30)
    # A score that few rows cannot give is missing in every method: it is named once, below.
    left_out = []
    for method, seeds in table.items():
        cells = []
        for name, places_shown in zip(names, digits, strict=True):
            values = [scores[name] for scores in seeds if name in scores]
            cells.append(spread(values, places_shown) if values else "-")
            if not values and name not in left_out:
                left_out.append(name)
        print_line(method, cells, 30)
    print_left_out(left_out)
