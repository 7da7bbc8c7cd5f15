"""metrics, scores, baselines, evaluate: every number, from hand-solved cases to whole runs."""

import functools
import itertools
import json
import math
import os
import pickle
import runpy
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from grading import Mistake, grade, graded, refuses
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk
from sklearn.metrics.pairwise import cosine_similarity

import baselines
import checkpoints
import closed_form
import data
import evaluate
import glyphs
import metrics
import runs
import scores
import train
from closed_form import gamma_star
from ddim_translator import Translator
from errors import DataError, DeviceError, RunError
from latents import DIRECTIONS, Latents

TOGETHER = ["ours", "ridge", "knn", "mlp"]  # methods with the rows "both ways" and "hubs out"
KEYS = "task direction method cosine centred_cosine unrelated_cosine r1 r5 r10 pool seed".split()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------
# metrics.py


def ranks_by_loops(q, g, positives, length=np.linalg.norm, pick=np.argmax, tie=1, alone=0, sign=1):
    """`ranks` in float64, one cosine after the other; each option is a mistake.

    tie=0: for the query; alone=1: what is not picked competes, right or wrong."""
    q, g, out = np.asarray(q, float), np.asarray(g, float), []
    for x, right in zip(q, positives, strict=True):
        s = [sign * (x @ y) / max(length(x) * length(y), 1e-12) for y in g]
        mine = right[pick([s[i] for i in right])]
        wrong = [v for i, v in enumerate(s) if i not in ([mine] if alone else right)]
        out.append(1 + sum(v > s[mine] or (tie and v == s[mine]) for v in wrong))
    return out


def grade_ranks(q, g, positives):
    """The ranks; Mistake, with a likely one's name, unless metrics.ranks agrees."""
    q, g = torch.as_tensor(q), torch.as_tensor(g)
    slow = functools.partial(ranks_by_loops, q, g, positives)
    want = slow()
    mistakes = {
        "a tie counts for the query: so a model that answers 0 has R@1 = 1": slow(tie=0),
        "other right answers compete: only wrong items do": slow(alone=1),
        "only the first right answer is looked at: the most similar one counts": slow(
            pick=lambda s: 0
        ),
        "only the first right answer is looked at, the others compete": slow(
            pick=lambda s: 0, alone=1
        ),
        "this is the dot product: a long row of the gallery is no better answer": slow(
            length=lambda x: 1.0
        ),
        "ranks start at 0: the first place is rank 1": [n - 1 for n in want],
        "the right answer competes with itself: rank 1 is one too high": [n + 1 for n in want],
        "upside down: the most similar item has rank 1": slow(sign=-1),
    }
    grade(metrics.ranks(q, g, positives), want, mistakes, what="the rank")
    return want


def grade_recall(rank, k, want):
    strict = (torch.as_tensor(rank) < k).double().mean()
    mistakes = {f"rank {k} is among the first {k}: <=, not <": strict}
    mistakes[f"the number of queries, not their share, of {len(rank)}"] = want * len(rank)
    grade(metrics.recall_at_k(torch.as_tensor(rank), k), want, mistakes, what=f"R@{k}")


def grade_centred(z_hat, z, mean):
    z_hat, z, cosine = torch.as_tensor(z_hat), torch.as_tensor(z), torch.cosine_similarity
    got = metrics.centred_cosine(z_hat, z, mean)
    if torch.as_tensor(got).isnan().any():
        raise Mistake("0 / 0: where nothing is left of z_hat - mean, the cosine is 0")
    mistakes = {
        "the mean is not subtracted": cosine(z_hat, z).mean(),
        "the mean is subtracted from the answers only": cosine(z_hat - mean, z).mean(),
        "the mean is subtracted from the targets only": cosine(z_hat, z - mean).mean(),
        "each side's own mean is subtracted, not that of the training targets": cosine(
            z_hat - z_hat.mean(0), z - z.mean(0)
        ).mean(),
        "one cosine of all rows together, not the mean over rows": cosine(
            (z_hat - mean).flatten(), (z - mean).flatten(), dim=0
        ),
    }
    want = np.diag(cosine_similarity(z_hat - mean, z - mean)).mean()
    grade(got, want, mistakes, atol=1e-6, what="the centred cosine")
    return want


@graded("ranks", "recall_at_k", "centred_cosine")
def test_metrics_by_hand():
    """The case that metrics.py solves on paper does not come out: a definition has changed."""
    z_hat, z = [[1.0, 0], [1, 1]], [[1.0, 0], [0, 2]]
    assert metrics.cosine(z_hat, z) == pytest.approx((1 + 0.5**0.5) / 2)
    assert metrics.unrelated_cosine(z_hat, z, [0, 1]) == pytest.approx((0 + 0.5**0.5) / 2)
    tie = "query 1 is as near to both rows, a tie, which counts against it: rank 2"
    rank = metrics.ranks(torch.tensor(z_hat), torch.tensor(z), [[0], [1]])
    grade(rank, [1, 2], {tie: [1, 1]}, what="the rank")
    grade_recall([1, 2], 1, 0.5)
    grade_recall([1, 2], 2, 1.0)
    # about the mean (1, 1): z_hat (0, -1), (1, 0) against z (0, -1), (0, 1): cosines 1 and 0
    assert grade_centred([[1.0, 0], [2, 1]], [[1.0, 0], [1, 2]], torch.ones(2)) == 0.5


@graded("ranks", "recall_at_k")
def test_metrics_agree_with_scikit_learn():
    """A metric that scikit-learn has gives another number."""
    z_hat, z, gallery = normal(40, 7), normal(40, 7, seed=1), normal(23, 7, seed=2)
    S = cosine_similarity(z_hat, gallery)
    assert metrics.cosine(z_hat, z) == pytest.approx(np.diag(cosine_similarity(z_hat, z)).mean())
    answer = np.arange(40) % 23
    rank = grade_ranks(z_hat, gallery, [[i] for i in answer])
    for k in (1, 5, 10, 22):
        grade_recall(rank, k, sk.top_k_accuracy_score(answer, S, k=k, labels=np.arange(23)))
    predicted = S.argmax(1)
    assert metrics.accuracy(predicted, answer) == pytest.approx(
        sk.accuracy_score(answer, predicted)
    )


def test_ranks_in_chunks():
    """Queries of the second chunk get the right answers of the first."""
    q, g, right = normal(40, 7), normal(23, 7, seed=2), [[n % 23] for n in range(40)]
    assert metrics.ranks(q, g, right, chunk=16).tolist() == ranks_by_loops(q, g, right)


@graded("ranks")
def test_ties_count_against_the_query():
    """A constant, or a model whose answers collapsed to zero, is credited with finding things."""
    twins = torch.tensor([[0.0, 2, 0, 0, 0]]).expand(30, 5)  # a tie however it is rounded
    assert grade_ranks(normal(8, 5, seed=1), twins, [[n] for n in range(8)]) == [30] * 8
    collapsed = metrics.ranks(torch.zeros(8, 5), normal(30, 5), [[n] for n in range(8)])
    nan = "a query of zeros is as near to all: 0 / 0 is NaN, to which nothing compares, so rank 1"
    grade(collapsed, [30] * 8, {nan: [1] * 8}, what="the rank of a query of zeros")


@graded("ranks")
def test_the_best_of_several_positives_counts():
    """Right answers compete with each other, or only the first of them is looked at."""
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0]] * 3)
    assert grade_ranks(queries, gallery, [[2, 1], [3, 0, 1], [1, 2, 3]]) == [2, 1, 2]
    twins = gallery[[3, 0, 2, 0]]  # two faces in which a letter looks the same
    assert grade_ranks(queries[:2], twins, [[1, 3], [2, 1, 3]]) == [1, 1]
    for right in ([[0], []], [[], [0]]):
        none = "a query without a right answer has no rank: raise a ValueError"
        refuses(functools.partial(metrics.ranks, queries[:2], gallery, right), none)


@graded("chance_recall")
def test_chance_recall(impl):
    """A shuffled gallery is said to score more or less than it does."""
    for G, p, k in ((7, 3, 2), (6, 1, 4), (8, 2, 1), (7, 4, 5)):
        places = list(itertools.combinations(range(G), p))  # of the right ones, all as likely
        want = np.mean([min(place) < k for place in places])
        miss = math.prod((G - p - i) / (G - i) for i in range(k))
        mistakes = {
            "k p / G counts a list with two right answers twice": k * p / G,
            "1 - (1 - p / G)^k draws an item again: a list has k different ones": (
                1 - (1 - p / G) ** k
            ),
            "this is the chance that all k are wrong": miss,
        }
        grade(impl.chance_recall(G, p, k), want, mistakes, what=f"chance_recall({G}, {p}, {k})")
    value = impl.chance_recall(1000, 12, 10)
    impl.number("chance R@10 among 1,000 with 12 right", value, 0.11421, 1e-5)
    grade(impl.chance_recall(10**5, 1, 10), 1e-4, what="chance_recall(100000, 1, 10)")


@graded("ranks", "recall_at_k", "chance_recall")
def test_a_constant_is_worth_chance(impl):
    """An answer that does not depend on the query is credited with more than its luck."""
    constant, gallery = normal(1, 5).expand(30, 5), normal(30, 5, seed=1)
    rank = torch.as_tensor(impl.ranks(constant, gallery, [[n] for n in range(30)]))
    for k in (1, 4, 30):
        told = f"R@{k} of one answer to 30 queries, each with one right item of 30,"
        grade(impl.recall_at_k(rank, k), impl.chance_recall(30, 1, k), what=told)


def test_unrelated_is_always_of_another_group():
    """ "Unrelated" targets include right answers, or some other groups are never drawn."""
    group = torch.tensor([4, 0, 4, 2, 0, 4, 9, 4])
    z = torch.eye(10)[group]  # two targets have cosine 1 in one group, else 0
    drawn = []
    for seed in range(200):
        assert metrics.unrelated_cosine(z, z, group, seed) == 0
        drawn.append(metrics.unrelated_cosine(torch.eye(10)[[9] * 8], z, group, seed))
    assert 0 < np.mean(drawn) < 0.5  # the lone row of group 9 is drawn sometimes
    for seed in range(20):  # two rows: each has the other one, whatever the seed
        assert metrics.unrelated_cosine(torch.eye(2), torch.eye(2), [0, 1], seed) == 0


@graded("centred_cosine")
def test_the_mean_scores_zero_when_centred():
    """The centred cosine rewards the constant that it is there to expose."""
    z = normal(50, 6) + 3
    mean = z.mean(0)
    constant = mean.expand(50, -1)
    assert grade_centred(constant, z, mean) == 0
    assert metrics.cosine(constant, z) > 0.9
    grade_centred(normal(50, 6, seed=1) + 2, z, mean + 0.5)  # the training set has another mean


NAN = torch.tensor([[1.0, float("nan")]])
ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: metrics.cosine(NAN, torch.ones(1, 2)),
        lambda: metrics.cosine(torch.ones(1, 2), NAN / 0),
        lambda: metrics.cosine(ONES, torch.ones(1, 3)),  # would broadcast
        lambda: metrics.cosine(torch.ones(3), torch.ones(3)),
        lambda: metrics.cosine(torch.ones(0, 3), torch.ones(0, 3)),
        lambda: metrics.centred_cosine(ONES, ONES, torch.ones(1)),  # would broadcast
        lambda: metrics.centred_cosine(ONES, ONES, NAN[0]),
        lambda: metrics.unrelated_cosine(ONES, ONES, [0]),
        lambda: metrics.unrelated_cosine(ONES, ONES, [5, 5]),
        lambda: metrics.ranks(ONES, torch.ones(4, 2), [[0], [1]]),
        lambda: metrics.ranks(ONES, torch.ones(4, 3), [[0]]),
        lambda: metrics.ranks(ONES, torch.ones(4, 3), [[0], []]),
        lambda: metrics.accuracy([0, 1], [[0], [1]]),  # would broadcast
    ],
)
def test_bad_input_raises_value_error(call):
    """NaN, or a shape that torch would silently broadcast, becomes a number in a table."""
    with pytest.raises(ValueError):
        call()


def test_gamma_star_is_the_best_gamma():
    """The closed form is not the maximum that a search finds, or it adds an F that is no help."""
    draw = np.random.default_rng(0)

    def unit(x):
        return x / np.linalg.norm(x)

    helped = 0
    for _ in range(300):
        cM, F, z = draw.normal(size=7) * draw.uniform(0.2, 5), unit(draw.normal(size=7)), None
        z = draw.normal(size=7) + unit(cM) + F
        if min(cM @ z, F @ z) <= 0:
            continue  # a term that points away from z is no translation
        grid = np.append(np.geomspace(1e-3, 1e5, 4000), 0)
        cosines = (cM + grid[:, None] * F) @ z
        cosines /= np.linalg.norm(cM + grid[:, None] * F, axis=1) * np.linalg.norm(z)
        rows = [torch.tensor(x[None], dtype=torch.float32) for x in (cM, F, z)]
        gamma = gamma_star(*rows)
        at_gamma = unit(cM + gamma * F) @ unit(z)
        if (unit(cM) @ unit(z)) > (F @ unit(z)) * (unit(cM) @ F) + 2e-3:  # else all of it is F
            assert at_gamma == pytest.approx(cosines.max(), abs=1e-3)
        if cosines.argmax() == len(grid) - 1:
            assert gamma == 0
        helped += gamma > 0
    assert 100 < helped < 300


# ---------------------------------------------------------------------------------------------
# TestSet: which latents are queries, and which are right


@pytest.fixture
def latents():
    """Four images (3 wide) with two captions each (5 wide); one image and caption in no pair."""
    pairs = np.array([(j // 2, j) for j in (5, 0, 7, 2, 1, 6, 3, 4)])
    z = normal(5, 3).numpy(), normal(9, 5, seed=1).numpy()
    return Latents(*z, pairs, np.arange(8), np.zeros(0, int))


SIZES = {"text->image": (8, 4, 5, 3), "image->text": (4, 8, 3, 5)}  # Q, G, h1, h2


def perfect(test, which=0):
    """(Q, h2): for each query the true latent of its first (or last, which=-1) item."""
    q, g = torch.from_numpy(test.q), torch.from_numpy(test.g)
    return torch.stack([test.z[g[q == n][which]] for n in range(len(test.queries))])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_test_set_has_the_right_queries(latents, direction):
    """Images and captions are swapped, or pairs are matched to the wrong latents."""
    Q, G, h1, h2 = SIZES[direction]
    test = scores.TestSet(latents, direction, latents.full, 100, 100)
    assert test.queries.tolist() == list(range(Q)) and test.gallery.tolist() == list(range(G))
    source, target = (latents.image, latents.text)[:: 1 if direction == "image->text" else -1]
    assert test.c.shape == (Q, h1) and torch.equal(test.c, torch.from_numpy(source[:Q]))
    assert test.z.shape == (G, h2) and torch.equal(test.z, torch.from_numpy(target[:G]))
    found = zip(test.queries[test.q], test.gallery[test.g], strict=True)
    order = 1 if direction == "image->text" else -1
    assert sorted(found) == sorted(tuple(pair[::order]) for pair in latents.pairs)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_perfect_and_wrong_answers_are_scored(latents, direction):
    """The truth has not the full score, or answers to other queries have it."""
    test = scores.TestSet(latents, direction, latents.full, 100, 100)
    score = test.score(perfect(test), torch.zeros(SIZES[direction][3]))
    assert score["r1"] == score["r5"] == 1 and score["pool"] == len(test.gallery)
    if direction == "text->image":  # one right answer each, so the truth is the whole truth
        assert score["cosine"] == pytest.approx(1)
        assert score["centred_cosine"] == pytest.approx(1)
        assert score["unrelated_cosine"] < 0.9
    wrong = perfect(test).roll(2, 0)  # past both captions of an image
    assert test.score(wrong, torch.zeros(SIZES[direction][3]))["r1"] == 0
    other = scores.TestSet(latents, DIRECTIONS[direction == DIRECTIONS[0]], latents.full, 100, 100)
    with pytest.raises((ValueError, IndexError)):
        test.score(perfect(other), torch.zeros(SIZES[direction][3]))


def test_every_caption_of_an_image_is_right(latents):
    """Only one of an image's captions counts, so the same translation is right or wrong by luck."""
    test = scores.TestSet(latents, "image->text", latents.full, 100, 100)
    assert {n: sorted(r) for n, r in test.right.items()} == {
        n: [2 * n, 2 * n + 1] for n in range(4)
    }
    for which in (0, -1):
        assert test.score(perfect(test, which), torch.zeros(5))["r1"] == 1


def test_a_small_pool_restricts_the_right_answers(latents):
    """R@k counts items outside its gallery, or queries whose answer is not there."""
    test = scores.TestSet(latents, "text->image", latents.full, 100, 2)
    inside = {int(test.gallery[place]) for place in test.pool}
    assert len(inside) == 2 and test.pool.tolist() == sorted(test.pool)
    assert {int(test.queries[n]) // 2 for n in test.right} == inside and len(test.right) == 4
    for n, places in test.right.items():
        assert [test.gallery[test.pool[place]] for place in places] == [test.queries[n] // 2]
    score = test.score(perfect(test), torch.zeros(3))
    assert (score["r1"], score["pool"]) == (1, 2)


def test_limit_hides_pairs_but_not_right_answers():
    """Where pairs are sampled, an item whose pair was not drawn is counted as a wrong answer."""
    pairs = np.array([(i, j) for i in range(6) for j in range(6) if i // 3 == j // 3])
    z = normal(6, 3).numpy(), normal(6, 4).numpy()
    latents = Latents(*z, pairs, np.arange(18), np.zeros(0, int))
    test = scores.TestSet(latents, "image->text", latents.full, 7, 100)
    assert len(test.q) == 7
    for n, query in enumerate(test.queries):
        mates = [k for k, item in enumerate(test.gallery) if item // 3 == query // 3]
        assert sorted(test.right[n]) == mates
    assert sum(map(len, test.right.values())) > 7  # so some of them were not drawn
    assert (test.group == test.group[0]).tolist() == (
        test.queries[test.q] // 3 == test.queries[test.q[0]] // 3
    ).tolist()


def test_unrelated_rows_share_no_target():
    """Another caption of the same image counts as unrelated, so its right answer raises the row."""
    pairs = np.array([(j // 4, j) for j in range(12)])
    z = np.eye(3, dtype=np.float32), normal(12, 5).numpy()
    test = scores.TestSet(
        Latents(*z, pairs, np.arange(12), np.zeros(0, int)), "text->image", np.arange(12), 12, 9
    )
    score = test.score(perfect(test), torch.zeros(3))
    assert (score["cosine"], score["unrelated_cosine"]) == (1, 0)


# ---------------------------------------------------------------------------------------------
# Two translators together


def test_two_translators_rank_the_pool(latents, monkeypatch):
    """Items outside the pool are ranked, or hubs are looked for among answerable queries alone."""
    test = scores.TestSet(latents, "text->image", latents.full, 100, 3)
    z_hat, c_hat = normal(8, 3, seed=7), normal(3, 5, seed=8)
    seen, real = [], metrics.hubs_out
    monkeypatch.setattr(metrics, "hubs_out", lambda s, tau: seen.append((s, tau)) or real(s, tau))
    got = test.score_together(z_hat, c_hat)
    items = test.z[test.pool]
    S = cosine_similarity(z_hat, items) + cosine_similarity(test.c, c_hat)
    ((s, tau),) = seen
    np.testing.assert_allclose(s, S, atol=1e-6)  # all eight queries, though two have no answer
    assert len(test.right) == 6 and 0.05 <= tau <= 0.1
    share = np.exp(S / tau) / np.exp(S / tau).sum(0)
    for name, by in {"both ways": S, "hubs out": share}.items():
        rank = [sum(by[n] >= by[n, right[0]]) for n, right in test.right.items()]
        want = {f"r{k}": np.mean(np.array(rank) <= k) for k in (1, 5, 10)}
        assert got[name] == pytest.approx({**want, "pool": 3})


def rotated():
    """An Evaluation of pairs z = c R, where only image->text answers: by z R^T; what it reports."""
    R = torch.linalg.qr(normal(6, 6))[0]
    c = normal(40, 6, seed=1)
    latents = paired(c @ R, c)  # image latents, text latents

    def translate(direction, x, seed):
        asked.append((direction, seed, len(x)))
        return x @ R.T if direction == "image->text" else torch.zeros_like(x)

    args = SimpleNamespace(dataset="latents", image_encoder="none", text_encoder="none")
    run = SimpleNamespace(args=args, translate=translate)
    fitted = {}
    for direction, M in {"text->image": R, "image->text": R.T}.items():
        answers = {"ridge": lambda x, M=M: x @ M}
        answers |= dict.fromkeys(("mean", "identity"), baselines.identity)
        fitted[direction] = SimpleNamespace(answers=answers, mean=torch.zeros(6))
    asked, tables = [], []
    report = SimpleNamespace(add=lambda rows, note: tables.append(rows))
    evaluation = SimpleNamespace(
        run=run, seeds=[0, 1], baselines=fitted, limit=40, pool=15, report=report
    )
    evaluate.compare(evaluation, "similarity", "latents", latents, latents.full, together=True)
    return asked, tables


def test_the_pool_is_translated_back_by_the_other_direction():
    """The gallery goes through the translator of its own queries, whole, or with other noise."""
    asked, tables = rotated()
    ours = [(d, s, n) for d in DIRECTIONS for n in (40, 15) for s in (0, 1)]
    assert sorted(asked) == sorted(ours)
    for rows in tables:
        r1 = {(r["method"], r["seed"]): r["r1"] for r in rows}
        back = rows[0]["direction"] == "image->text"  # the direction that answers by itself
        for seed in (0, 1):
            # The other translator, whose answers are 0, adds nothing and takes nothing away.
            assert r1["ours", seed] == back and r1["ours, both ways", seed] == 1
            assert r1["ours, hubs out", seed] == 1
        named = {method for method, _ in r1} - {"ours", "mean", "ridge", "identity", "noise"}
        assert named == {
            f"{m}, {end}" for m in ("ours", "ridge") for end in ("both ways", "hubs out")
        }


def test_each_noise_seed_is_paired_with_itself():
    """The answer of one seed is ranked with the back translation of another one."""
    seen = []
    fake = SimpleNamespace(
        score_together=lambda *pair: seen.append(pair) or {"both ways": {"r1": 1}}
    )
    rows = scores.rows_together(
        "t", "d", fake, {"ours": ([1, 2], [10, 20]), "x": ([3], [30])}, [5, 6]
    )
    assert seen == [(1, 10), (2, 20), (3, 30)] and [row["seed"] for row in rows] == [5, 6, 5]
    fake.score_together = lambda *pair: {"both ways": {"pool": 1}}  # of one item there is no R@k
    assert scores.rows_together("t", "d", fake, {"ours": ([1], [10])}, [5]) == []


def test_rows_without_a_cosine_are_no_gap(capsys):
    """The table says that test pairs are too few because two translators have R@k only."""
    alone = {"task": "t", "direction": "d", "method": "ours", "pool": 9}
    alone |= dict.fromkeys(("cosine", "centred_cosine", "unrelated_cosine", "r1", "r5", "r10"), 0.5)
    two = {k: v for k, v in alone.items() if "cosine" not in k} | {"method": "ours, hubs out"}
    scores.print_table([alone, two])
    text = capsys.readouterr().out
    assert "not measured" not in text and "all queries" in text
    assert text.splitlines()[4].split() == "ours, hubs out - - - 0.500 0.500 0.500".split()
    del alone["unrelated_cosine"]
    scores.print_table([alone, two])
    assert "too few: unrelated\n" in capsys.readouterr().out
    scores.print_table([alone])
    assert "all queries" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------
# The baselines


def test_ridge_is_the_closed_form_at_the_best_lambda():
    """Ridge lacks its bias, is solved wrongly, or takes lambda from anywhere but validation."""
    c, c_val, c_new = normal(20, 8), normal(40, 8, seed=1), normal(9, 8, seed=2)
    A, bias = normal(8, 3, seed=3), torch.tensor([5.0, -3.0, 1.0])
    z = c @ A + bias + 4 * normal(20, 3, seed=4)
    chosen = []
    for validation in ((c, z), (c_val, c_val @ A + bias)):
        fits = []
        for lam in closed_form.LAMBDAS:
            x, y = (c - c.mean(0)).double(), (z - z.mean(0)).double()
            penalty = lam * x.square().mean(0).mean() * len(x)  # in units of c's mean variance
            W = torch.linalg.solve(x.T @ x + penalty * torch.eye(8), x.T @ y).float()
            fits.append(lambda new, W=W: (new - c.mean(0)) @ W + z.mean(0))
        scores = [metrics.cosine(f(validation[0]), validation[1]) for f in fits]
        chosen.append(int(np.argmax(scores)))
        answer = baselines.ridge([(c[:7], z[:7]), (c[7:], z[7:])], *validation)
        torch.testing.assert_close(answer(c_new), fits[chosen[-1]](c_new), atol=1e-4, rtol=1e-4)
    assert chosen[0] != chosen[1]


def test_knn_is_the_loop():
    """Neighbours are not the nearest by cosine, or their weights are not softmax(cosine / tau)."""
    c, z, queries = normal(25, 6), normal(25, 4, seed=1), normal(7, 6, seed=2)
    for row, out in zip(queries.numpy(), baselines.knn(c, z)(queries).numpy(), strict=True):
        cosines = [row @ x / np.linalg.norm(row) / np.linalg.norm(x) for x in c.numpy()]
        best = sorted(range(25), key=lambda n: -cosines[n])[:10]
        weights = np.exp([cosines[n] / 0.05 for n in best])
        np.testing.assert_allclose(out, weights / weights.sum() @ z.numpy()[best], atol=1e-4)
    assert baselines.knn(c[:3], z[:3])(queries).shape == (7, 4)  # fewer than k to choose from


def test_noise_keeps_a_third_of_the_cosine():
    """The Lafite row is not 1/4 signal and 3/4 noise: its cosine is 0.25 / sqrt(0.625) of c's."""
    z = normal(2000, 512)
    c = 3 * z + 3 * normal(2000, 512, seed=1)
    noisy = torch.cosine_similarity(baselines.lafite_noise(c, 5), z)
    gap = noisy - 0.3162 * torch.cosine_similarity(c, z)
    assert abs(gap.mean()) < 5 * gap.std() / 2000**0.5
    assert not torch.equal(baselines.lafite_noise(c, 5), baselines.lafite_noise(c, 6))


def paired(c, z):
    """Latents whose image i and text i are a pair."""
    rows = np.arange(len(c))
    return Latents(c.numpy(), z.numpy(), np.stack([rows, rows], 1), rows, np.zeros(0, int))


@pytest.mark.parametrize("h1, h2", [(6, 6), (6, 4)])
def test_identity_only_where_widths_agree(h1, h2):
    """A row compares vectors of two widths, or CLIP's own cosine is missing."""
    latents = paired(normal(40, h1), normal(40, h2, seed=1))
    run = SimpleNamespace(
        dims={"image->text": (h1, h2)}, translate=lambda d, c, s: normal(len(c), h2)
    )
    base = baselines.Baselines(run, "image->text", latents, latents, trained=())
    test = scores.TestSet(latents, "image->text", latents.full, 30, 10)
    table = evaluate.answers_of(run, "image->text", test.c, base, [0, 1])
    always = {"ours", "mean", "ridge"}
    assert set(table) == always | ({"identity", "noise"} if h1 == h2 else set())
    assert len(table["ours"]) == 2 and len(table["ridge"]) == 1
    assert torch.allclose(base.mean, torch.from_numpy(latents.text).mean(0), atol=1e-6)
    if h1 == h2:
        assert torch.equal(table["identity"][0], test.c) and len(table["noise"]) == 2


@pytest.fixture
def toy(tmp_path):
    """toy(steps) -> (run, Latents) of a linear relation with a bias, 6 -> 4 numbers."""
    c = normal(3000, 6)
    latents = paired(c, c @ normal(6, 4, seed=1) + 2)

    def make(steps, lr=3e-3):
        flags = f"--dataset latents --steps {steps} --width 32 --layers 3 --batch 64 --ema 0.98"
        args = train.parse([*flags.split(), "--lr", str(lr)])
        train.fit_to_data(args, train.FLAGS, 3000, torch.device("cpu"))
        twin = Translator(6, 4, args.width, args.layers)
        twin.fit(closed_form.moments(latents.chunks("image->text")))
        run = SimpleNamespace(args=args, folder=str(tmp_path), device=torch.device("cpu"))
        run.dims, run.translators = {"image->text": (6, 4)}, {"image->text": twin}
        return run, latents

    return make


def test_mlp_learns_a_linear_map(toy):
    """The baseline that we claim to beat was never given a chance."""
    run, latents = toy(300)
    answer = baselines.mlp_regression(run, latents, "image->text")
    c = normal(200, 6, seed=9)
    assert metrics.cosine(answer(c), c @ normal(6, 4, seed=1) + 2) > 0.95
    z = latents.text.mean(0)  # in raw units, and about the right mean
    assert torch.allclose(answer(c).mean(0), torch.from_numpy(z), atol=0.5)


def test_mlp_is_trained_again_only_when_it_must(toy, monkeypatch):
    """An old baseline is compared with a new run, or every call trains for minutes."""
    run, latents = toy(3)
    steps, real = [], baselines.draw_batch

    def spy(latents, direction, step, args):
        steps.append(step)
        return real(latents, direction, step, args)

    monkeypatch.setattr(baselines, "draw_batch", spy)
    torch.manual_seed(123)
    first = baselines.mlp_regression(run, latents, "image->text")(normal(5, 6))
    again = baselines.mlp_regression(run, latents, "image->text")(normal(5, 6))
    assert steps == [0, 1, 2] and torch.equal(first, again)
    other, _ = toy(3, lr=1e-2)
    assert not torch.equal(
        baselines.mlp_regression(other, latents, "image->text")(normal(5, 6)), first
    )
    assert len(steps) == 6
    other.translators["image->text"].z_mean += 1  # new vectors in files of the same names
    baselines.mlp_regression(other, latents, "image->text")
    assert len(steps) == 9
    torch.manual_seed(456)  # what was drawn before must not matter
    assert torch.equal(baselines.mlp_regression(run, latents, "image->text")(normal(5, 6)), first)


# ---------------------------------------------------------------------------------------------
# A whole run on latents: text 7 wide, image 11 wide, 600 pairs

TINY = "--steps 30 --width 32 --layers 3 --batch 64 --lr 1e-3 --ema 0.9 --K 2 --ddim-steps 3"


def write_latents(folder, h_image=11, h_text=7):
    folder.mkdir()
    u = normal(600, 5)
    np.save(folder / "A.npy", torch.tanh(u @ normal(5, h_image, seed=1)).numpy())
    np.save(folder / "B.npy", (torch.sin(u @ normal(5, h_text, seed=2)) + 1).numpy())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run that train.py left, the batches that its first steps saw)."""
    top = tmp_path_factory.mktemp("latents")
    write_latents(top / "data")
    where = ["--data-dir", top / "data", "--out", top / "run", "--cache-dir", top / "cache"]
    files = "--dataset latents --image-latents A.npy --text-latents B.npy --device cpu"
    with pytest.MonkeyPatch.context() as patch:
        batches = spy_on_batches(patch, train)
        train.main([*files.split(), *TINY.split(), *map(str, where)])
    return str(top / "run"), batches


def spy_on_batches(patch, script):
    seen, real = {}, script.draw_batch

    def spy(latents, direction, step, *rest):
        seen[direction, step] = batch = real(latents, direction, step, *rest)
        return batch

    patch.setattr(script, "draw_batch", spy)
    return seen


@pytest.fixture(scope="module")
def evaluated(trained):
    evaluate.main([trained[0]])
    return trained[0]


@pytest.fixture
def copy(evaluated, tmp_path):
    """A copy of the evaluated run, to break."""
    return shutil.copytree(evaluated, tmp_path / "run")


def table(folder):
    with open(os.path.join(folder, "translation.json")) as f:
        return json.load(f)["rows"]


def check(rows, methods, seeded, together=()):
    """Every row is complete and in range, and there are exactly these methods and seeds.

    together: those of the methods that have the two rows of both translators, R@k only."""
    cosine_keys = ("cosine", "centred_cosine", "unrelated_cosine")
    for row in rows:
        of_two = row["method"].endswith((", both ways", ", hubs out"))
        assert sorted(row) == sorted(set(KEYS) - set(cosine_keys if of_two else ()))
        assert all(-1 <= row[k] <= 1 for k in cosine_keys if not of_two)
        assert 0 <= row["r1"] <= row["r5"] <= row["r10"] <= 1 and row["pool"] >= 1
    for name in ("both ways", "hubs out"):
        methods = [*methods, *(f"{m}, {name}" for m in together)]
        seeded = [*seeded, *(f"{m}, {name}" for m in together if m in seeded)]
    for direction in DIRECTIONS:
        found = [(r["method"], r["seed"]) for r in rows if r["direction"] == direction]
        expected = [(m, s) for m in methods for s in (range(3) if m in seeded else [0])]
        assert sorted(found) == sorted(expected)


def test_train_ends_with_a_first_look(trained):
    """train.py leaves no table, or trains baselines that nobody asked for."""
    first = [r for r in table(trained[0]) if r["task"] == "similarity"]
    quick = [r for r in first if r["method"].split(",")[0] not in ("knn", "mlp")]
    check(quick, ["ours", "mean", "ridge"], ["ours"], ["ours", "ridge"])


def test_every_method_and_direction_has_its_rows(evaluated):
    """A row of the tables is missing, lacks a number, or holds one that cannot be."""
    rows = {task: [r for r in table(evaluated) if r["task"] == task] for task in evaluate.TASKS}
    methods = ["ours", "mean", "ridge", "knn", "mlp"]
    check(rows["similarity"], methods, ["ours"], TOGETHER)
    both = ["ddim only", "both, gamma 1", "both"]
    check(rows["ablation"], ["projection only", *both], both)

    def cosines(task, method):
        return [r["cosine"] for r in rows[task] if r["method"] == method]

    ours = cosines("similarity", "ours")
    assert cosines("ablation", "both") == ours != cosines("ablation", "ddim only")
    assert not any(rows[task] for task in rows if task not in ("similarity", "ablation"))
    _, latents = runs.TranslatorRun(evaluated, torch.device("cpu")).latents("test")
    assert {r["pool"] for r in table(evaluated)} == {len(latents.image)}
    mean = [r for r in table(evaluated) if r["method"] == "mean"]
    assert all(r["centred_cosine"] == 0 and r["r1"] <= 0.05 for r in mean)
    not_blank(os.path.join(evaluated, "curves.png"))


def test_the_mlp_sees_the_batches_of_the_run(trained, monkeypatch):
    """Ours and the baseline are compared after different data."""
    folder, ours = trained
    run = runs.TranslatorRun(folder, torch.device("cpu"))
    monkeypatch.setattr(baselines, "save_checkpoint", lambda *a: None)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    seen = spy_on_batches(monkeypatch, baselines)
    for direction in DIRECTIONS:
        baselines.mlp_regression(run, run.latents("train")[1], direction)
    assert seen.keys() == ours.keys() and len(seen) == 60
    for key, (c, z, _) in seen.items():
        assert torch.equal(c, ours[key][0]) and torch.equal(z, ours[key][1])


def test_a_run_answers_with_the_averaged_weights(trained):
    """evaluate.py rebuilds another network than the one that train.py measured gamma with."""
    folder, _ = trained
    run = runs.TranslatorRun(folder, torch.device("cpu"))
    saved = checkpoints.load_checkpoint(folder + "/model.pt")
    for d in DIRECTIONS:
        for name, value in run.translators[d].state_dict().items():
            assert torch.equal(value, saved["learners"][d]["ema"]["module." + name])
        c = run.latents("test")[1].of(d, np.arange(5))[0]
        cM, F = run.terms(d, c, 1)
        expected = run.length[d] * ((cM + run.gamma[d] * F) / run.translators[d].z_scale)
        assert torch.equal(run.translate(d, c, 1), expected)
        assert not torch.equal(run.translate(d, c, 1), run.translate(d, c, 2)) or run.gamma[d] == 0


def test_another_task_keeps_the_other_rows(copy):
    """Evaluating one task loses the rows of others, or keeps its own old ones beside the new."""
    rows = table(copy)
    for row in rows:
        row["cosine"] = {"similarity": 77, "ablation": 99}[row["task"]]
    scores.write_json(str(copy / "translation.json"), {"rows": rows})
    evaluate.main([str(copy), "--task", "ablation", "--seeds", "1"])
    new = table(copy)
    assert [r for r in new if r["task"] == "similarity"] == [r for r in rows if r["cosine"] == 77]
    ablation = [r for r in new if r["task"] == "ablation"]
    assert len(ablation) == 2 * 4 and all(r["cosine"] <= 1 for r in ablation)


def test_an_unfinished_run_is_refused(copy):
    """A checkpoint without gamma is evaluated with some other gamma, or with a traceback."""
    saved = checkpoints.load_checkpoint(str(copy / "model.pt"))
    saved["learners"]["image->text"]["gamma"] = None
    checkpoints.save_checkpoint(str(copy / "model.pt"), saved)
    with pytest.raises(RunError, match="--resume") as e:
        evaluate.main([str(copy)])
    assert "\n" not in str(e.value)


class Trap:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_broken_checkpoints_are_refused_and_not_unpickled(tmp_path):
    """A bad model.pt runs code, or ends in a traceback that does not name it."""
    path = tmp_path / "model.pt"
    contents = {
        "random bytes": lambda: path.write_bytes(np.random.default_rng(0).bytes(2000)),
        "a pickle": lambda: path.write_bytes(pickle.dumps({"args": Trap(tmp_path / "trap")}, 2)),
        "a pickle in a zip": lambda: torch.save({"args": Trap(tmp_path / "trap")}, path),
        "nothing": lambda: path.write_bytes(b""),
        "foreign": lambda: torch.save({"weights": torch.ones(2)}, path),
        "a tensor": lambda: torch.save(torch.ones(2), path),
    }
    for name, write in contents.items():
        write()
        with pytest.raises(RunError, match="model.pt") as e:
            evaluate.main([str(tmp_path)])
        assert "\n" not in str(e.value), name
    assert not (tmp_path / "trap").exists()


def test_the_command_line_says_one_line(tmp_path, monkeypatch, capsys):
    """A missing run folder shows a traceback to the student who mistyped it."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as stop:  # Python prints a text to stderr, and ends with 1
        runpy.run_path(evaluate.__file__, run_name="__main__")
    assert capsys.readouterr() == ("", "")
    assert "nowhere" in stop.value.code and "\n" not in stop.value.code


def test_a_broken_table_stops_before_the_work(copy):
    """Hours of evaluation end in a JSON error, or wipe out a file that is not ours."""
    (copy / "translation.json").write_text("[1, 2")
    with pytest.raises(RunError, match="translation.json"):
        evaluate.main([str(copy)])
    assert (copy / "translation.json").read_text() == "[1, 2"


def test_other_data_must_fit_the_run(evaluated, tmp_path):
    """Latents of another width, or a set that needs an encoder, end in a matrix error or worse."""
    before = table(evaluated)
    for sizes in ((12, 7), (11, 8), (7, 11)):
        folder = tmp_path / "-".join(map(str, sizes))
        write_latents(folder, *sizes)
        with pytest.raises(RunError, match="wide"):
            evaluate.main([evaluated, "--on", "latents", "--data-dir", str(folder)])
    with pytest.raises(RunError, match="no encoder for glyphs"):
        evaluate.main([evaluated, "--on", "glyphs"])
    with pytest.raises(DeviceError, match="--device"):
        evaluate.main([evaluated, "--device", "nonsense"])
    assert table(evaluated) == before


# ---------------------------------------------------------------------------------------------
# A whole run on glyphs: three faces, one character in 25; pca:8 and tfidf:8, so widths agree


def draw_roughly(figure, path, save=Figure.savefig, **options):
    """A figure at half of its points, its parts not fitted to each other: a third of the time."""
    figure.set_layout_engine("none")
    save(figure, path, dpi=50, format="png")


GLYPHS = "--image-encoder pca:8 --text-encoder tfidf:8 --steps 5 --width 16 --layers 3 --batch 32"


@pytest.fixture(scope="module")
def glyph_run(tmp_path_factory):
    """(folder of an evaluated run, {picture: its figure}); the tiny data set stays in place."""
    top = tmp_path_factory.mktemp("glyphs")
    figures, save, looks = {}, evaluate.Evaluation.figure, []

    def third(codes):
        return np.where(codes % 25 == 0, codes // 25 % 3, 3)

    def few(split, faces):
        return glyphs.draw_glyphs(split, dict(list(faces.items())[:3]))

    def keep(evaluation, fig, name):
        figures[name] = fig
        with pytest.MonkeyPatch.context() as quick:
            quick.setattr(Figure, "savefig", draw_roughly)
            save(evaluation, fig, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "split_of_character", third)
        patch.setattr(data, "draw_glyphs", few)
        where = ["--out", str(top / "run"), "--cache-dir", str(top / "cache"), "--device", "cpu"]
        with pytest.MonkeyPatch.context() as quick:  # axes are slow: once is enough
            for task in ("retrieval", "pictures"):
                quick.setitem(evaluate.TASKS, task, lambda _, task=task: looks.append(task))
            train.main([*GLYPHS.split(), *where, "--K", "2"])
        assert looks == ["retrieval", "pictures"]
        patch.setattr(evaluate.Evaluation, "figure", keep)
        evaluate.main([str(top / "run"), "--pool", "50"])
        yield str(top / "run"), figures


def not_blank(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.std() > 5 and len(np.unique(pixels)) > 20


def test_glyph_tables_are_complete(glyph_run):
    """The bare, cross-domain or ablation rows are missing, or equal widths give no identity row."""
    folder, _ = glyph_run
    rows = {}
    for row in table(folder):
        rows.setdefault(row["task"], []).append(row)
    assert set(rows) == {"similarity", "bare", "cross-domain glyphs-stix", "ablation"}
    del rows["ablation"]
    methods = ["ours", "mean", "ridge", "knn", "mlp", "identity", "noise"]
    for task, same_methods in rows.items():
        check(same_methods, methods, ["ours", "noise"], TOGETHER if task == "similarity" else ())
    cosines = [tuple(r["cosine"] for r in rows[task] if "cosine" in r) for task in rows]
    assert len(set(cosines)) == 3  # three different tests


def test_pictures_are_not_blank(glyph_run):
    """A picture is missing or empty."""
    folder, figures = glyph_run
    assert set(figures) == {"curves", "retrieval", "text-to-image", "text-to-image-bare"}
    for name in [*figures, "loss"]:
        not_blank(os.path.join(folder, name + ".png"))


def lines_of(figure):
    """For each line of a figure: the caption, and the axes with images."""
    lines = {}
    for ax in figure.axes:
        lines.setdefault(ax.get_subplotspec().rowspan.start, []).append(ax)
    return [(line[0].texts[0].get_text().replace("\n", " "), line[1:]) for line in lines.values()]


def test_green_frames_are_the_right_images(glyph_run):
    """The picture shows an image that the caption does not describe as a hit, or hides one."""
    split, green = data.load("glyphs", None, "test"), (50 / 255, 205 / 255, 50 / 255, 1)
    captions = list(split.captions)
    lines = lines_of(glyph_run[1]["retrieval"])
    methods = ["ours", "ours, both ways", "ridge", "identity"]
    titles = [ax.get_title("left").replace("\n", " ") for ax in lines[0][1][::3]]
    assert titles == methods
    for caption, axes in lines:
        truth = split.images.pixels[captions.index(caption)]
        assert len(axes) == 4 * 3
        for ax in axes:
            same = np.array_equal(ax.images[0].get_array(), truth)
            framed = ax.spines["left"].get_edgecolor() == green
            assert same or not framed
            twins = (split.images.pixels == truth).all((1, 2)).sum()  # other letters, same shape
            assert framed or not same or twins > 1


def test_drawn_captions_stand_beside_their_images(glyph_run):
    """A caption is printed next to another caption's image, or the drawings are all alike."""
    split = data.load("glyphs", None, "test")
    captions = list(split.captions)
    for name in ("text-to-image", "text-to-image-bare"):
        lines = lines_of(glyph_run[1][name])
        titles = [ax.get_title().replace("\n", " ") for ax in lines[0][1]]
        assert titles[:4] == ["true", "true, decoded", "ridge", "ours, z_hat"]
        assert len(lines) == 8
        for caption, axes in lines:
            j = captions.index(caption)
            images = split.pairs[split.pairs[:, 1] == j, 0]
            shown = axes[0].images[0].get_array()
            assert any(np.array_equal(shown, split.images.pixels[i]) for i in images)
            samples = [np.array(ax.images[0].get_array()) for ax in axes[-4:]]
            assert all(x.shape == (32, 32) and x.dtype == np.uint8 for x in samples)
            assert not np.array_equal(samples[0], samples[1])


def test_classification_counts_scripts(glyph_run):
    """An image is labelled by a word in the middle of its name, or accuracies are no shares."""
    names = list(evaluate.SCRIPTS)
    assert evaluate.script("serif bold italic greek small letter alpha") == names.index("greek")
    assert evaluate.script("sans box drawings light horizontal") == names.index("box")
    assert evaluate.script("mono bold x in a rectangle box") == -1
    with open(os.path.join(glyph_run[0], "classification.json")) as f:
        found = json.load(f)
    split = data.load("glyphs", None, "test")
    words = [split.captions[j].split() for j in range(len(split.images))]
    assert found["classes"]["latin letter"] == sum("latin" in w[:4] for w in words) > 0
    assert len(found["accuracy"]["ours"]) == 3 and found["dataset"] == "glyphs"
    assert all(0 <= x <= 1 for values in found["accuracy"].values() for x in values)
    counts = found["classes"].values()
    assert found["accuracy"]["most frequent class"] == [max(counts) / sum(counts)]


def test_another_data_set_gets_its_own_rows(glyph_run):
    """--on writes the numbers of another data set over those of the run's own."""
    folder, _ = glyph_run
    before = table(folder)
    evaluate.main(
        [folder, "--on", "glyphs-stix", "--task", "similarity", "retrieval", "--pool", "3"]
    )
    new = table(folder)
    assert [r for r in new if r["task"] != "similarity glyphs-stix"] == before
    assert len(new) > len(before)
    not_blank(os.path.join(folder, "retrieval-glyphs-stix.png"))
    with pytest.raises(DataError, match="image_latents"):
        evaluate.main([folder, "--on", "latents"])
