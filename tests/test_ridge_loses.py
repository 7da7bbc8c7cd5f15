"""
Exercise 15 hands in a set of pairs, and here it is tested: ridge must lose on it, and fairly.

Nine conditions. A set may break one on purpose (a trick) or by mistake; each is told what it is.
Without a student, an answer meets all nine, and each known mistake breaks the one that names it.
"""

import functools
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as fn
from grading import Mistake, as_tensor, graded
from test_assignments import ANSWERS, MISTAKES

import closed_form

TRAIN, VAL, NEW = 6000, 1000, 20_000
ALL = ("draw_pairs", "best_answer", "promise")


class Measured(NamedTuple):
    """What all conditions look at; rows are held-out pairs but for c_train, z_train."""

    c_train: torch.Tensor
    z_train: torch.Tensor
    c: torch.Tensor  # (NEW, h1)
    z: torch.Tensor  # (NEW, h2)
    ridge: torch.Tensor  # (NEW, h2) its answers
    squares: torch.Tensor  # (NEW, h2) those of least squares, without a penalty
    best: torch.Tensor  # (NEW, h2) best_answer's


def share(z_hat, z):
    """R2."""
    return 1 - ((z - z_hat).square().sum() / (z - z.mean(0)).square().sum()).item()


def pairs_of(draw_pairs, n, seed):
    """(c, z) of one call, or what is wrong with their form."""
    drawn = draw_pairs(n, seed)
    if not isinstance(drawn, tuple | list) or len(drawn) != 2:
        raise Mistake("draw_pairs has to return two tensors, c and z")
    for name, x in zip("cz", drawn, strict=True):
        x = as_tensor(x)
        if x.ndim != 2 or len(x) != n or not 2 <= x.shape[1] <= 8:
            told = f"it should be ({n}, 2 to 8)"
            raise Mistake(f"draw_pairs: {name} has shape {tuple(x.shape)}, {told}")
        if not x.isfinite().all():
            raise Mistake(f"draw_pairs: {name} holds NaN or Inf")
    return [as_tensor(x).float() for x in drawn]


def answer_of(best_answer, c, z):
    best = as_tensor(best_answer(c))
    if best.shape != z.shape:
        told = f"{tuple(best.shape)}, it should be {tuple(z.shape)}"
        raise Mistake(f"best_answer has shape {told}")
    return best


@functools.lru_cache(maxsize=2)  # ten tests look at one set
def measured(draw_pairs, best_answer):
    c, z = pairs_of(draw_pairs, TRAIN + VAL + NEW, 1)
    mixed = torch.randperm(len(c), generator=torch.Generator().manual_seed(0))
    c, z = c[mixed], z[mixed]  # in whatever order they were drawn
    parts = [TRAIN, VAL, NEW]
    (c_train, c_val, c_new), (z_train, z_val, z_new) = c.split(parts), z.split(parts)
    found = closed_form.moments([(c_train, z_train)])
    # The lambda of the least square error. best_ridge's has the best cosine, and in two dimensions
    # that may be a strong penalty's: ridge would lose by it.
    maps = [closed_form.ridge(found, lam) for lam in closed_form.LAMBDAS]
    W, b = max(maps, key=lambda one: share(c_val.double() @ one[0] + one[1], z_val))
    one = lambda x: torch.cat([x, torch.ones(len(x), 1)], 1).double()
    squares = one(c_new) @ torch.linalg.lstsq(one(c_train), z_train.double()).solution
    best = answer_of(best_answer, c_new, z_new)
    c_new, z_new = c_new.double(), z_new.double()
    return Measured(c_train, z_train, c_new, z_new, c_new @ W + b, squares, best)


# -- the conditions, each a function of the three functions


def are_pairs(draw_pairs, best_answer, promise):
    first, again, other = (pairs_of(draw_pairs, 50, seed) for seed in (3, 3, 4))
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise Mistake("draw_pairs: the same seed has to give the same pairs: random without seed?")
    if torch.equal(first[0], other[0]) or torch.equal(first[1], other[1]):
        raise Mistake("draw_pairs: another seed has to give other pairs")
    both = torch.cat(pairs_of(draw_pairs, 2000, 1), 1)
    if len(both.unique(dim=0)) < 1900:
        raise Mistake("draw_pairs: pairs repeat: draw each anew")


def are_of_one_distribution(draw_pairs, best_answer, promise):
    one, two = (torch.cat(pairs_of(draw_pairs, 4000, seed), 1) for seed in (1, 22))
    off = (one.mean(0) - two.mean(0)) / (one.var(0) / 2000).sqrt().clamp(min=1e-9)
    if off.abs().max() > 6 or ((one.std(0) / two.std(0)).log().abs() > 0.2).any():
        raise Mistake("draw_pairs: two seeds give two distributions: ridge learns one of them")


def are_bounded(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    for name, x in (("c", m.c), ("z", m.z)):
        far = ((x - x.mean(0)).abs().amax(0) / x.std(0).clamp(min=1e-9)).max()
        if far > 6:
            told = f"a coordinate of {name} is {far:.1f} standard deviations from its mean, 6 is"
            raise Mistake(f"draw_pairs: {told} the most: few rows would decide. Is c bounded?")


def is_the_mean(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    again, few = (answer_of(best_answer, x.float(), m.z[: len(x)]) for x in (m.c, m.c[:7]))
    if not torch.equal(again, m.best):
        raise Mistake("best_answer says two things of one c: it is the mean, nothing is random")
    if not torch.allclose(few, m.best[:7], 1e-4, 1e-5):
        raise Mistake("best_answer of a row depends on the other rows")

    # What is left of z is uncorrelated with every function of c, if it is the mean: t is about 1.
    left = m.z - m.best
    A = torch.randn(m.c.shape[1], 16, generator=torch.Generator().manual_seed(5)).double()
    x = (m.c - m.c.mean(0)) / m.c.std(0).clamp(min=1e-9)
    told = "best_answer is not E[z given c]: z - best_answer(c)"
    for functions, words in (
        (torch.ones(len(x), 1).double(), "has a mean that is not 0"),
        (x, "still rises or falls with c: a linear part is off"),
        (torch.cat([x**2, (x @ A).tanh(), (x @ A).cos()], 1), "still bends with c"),
    ):
        products = (
            left[:, :, None] * (functions - functions.mean(0) * (functions.std() > 0))[:, None]
        )
        t = products.mean(0) / (products.std(0) / len(x) ** 0.5).clamp(min=1e-9)
        if t.abs().max() > 6:
            raise Mistake(f"{told} {words}")


def ridge_is_above_the_constant(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    ridge, squares = share(m.ridge, m.z), share(m.squares, m.z)
    if squares > ridge + 0.02:
        told = f"least squares has {squares:.2f} where ridge has {ridge:.2f}: units of c, or copies"
        raise Mistake(f"draw_pairs: ridge loses by its penalty alone, {told} in it")
    if ridge < 0.1:
        told = (
            f"ridge has an R2 of {ridge:.2f}, 0.1 is the least: it is no better than the constant"
        )
        raise Mistake(f"draw_pairs: {told}")


def ridge_loses(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    ridge, best = share(m.ridge, m.z), share(m.best, m.z)
    if best < ridge + 0.2:
        told = f"ridge has {ridge:.2f}, best_answer {best:.2f}: 0.2 more are asked for"
        raise Mistake(f"draw_pairs: {told}. Several answers are one mean: is E[z given c] a line?")
    if best > 0.9:
        told = f"best_answer has {best:.2f}, 0.9 is the most: z is nearly a function of c"
        raise Mistake(f"draw_pairs: {told}; let something stay open")


def can_be_learned(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    scale = m.c_train.std(0).clamp(min=1e-9)
    near = torch.cdist((m.c[:2000] / scale).float(), m.c_train / scale).topk(10, largest=False)
    knn = share(m.z_train[near.indices].mean(1).double(), m.z[:2000])
    ridge = share(m.ridge[:2000], m.z[:2000])
    if knn < ridge + 0.1:
        told = f"ten nearest neighbours have {knn:.2f}, ridge {ridge:.2f}: 0.1 more are asked for"
        raise Mistake(f"draw_pairs: {told}. Who is to find it? Fewer wiggles, or less noise")


def F_helps(draw_pairs, best_answer, promise):
    m = measured(draw_pairs, best_answer)
    mean = m.z_train.mean(0).double()
    cM, F, z = m.ridge - mean, fn.normalize(m.best - mean), m.z - mean
    gamma = closed_form.best_gamma(cM, F, z)
    gain = closed_form.cosine_of(cM + gamma * F, z) - closed_form.cosine_of(cM, z)
    if gain < 0.05:
        told = f"Eq. 5 gains {gain:.3f} of cosine over ridge at gamma = {gamma:.2f}"
        raise Mistake(f"draw_pairs: {told}, 0.05 are asked for")


def promise_is_kept(draw_pairs, best_answer, promise):
    m, said = measured(draw_pairs, best_answer), promise()
    if not isinstance(said, tuple | list) or len(said) != 2:
        raise Mistake("promise has to return two numbers, ridge's R2 and best_answer's")
    truth = share(m.ridge, m.z), share(m.best, m.z)
    if abs(said[0] - truth[1]) < 0.03 and abs(said[1] - truth[0]) < 0.03:
        raise Mistake("promise: the two numbers have changed places")
    for name, number, true in zip(("ridge", "best_answer"), said, truth, strict=True):
        if not abs(number - true) <= 0.03:
            raise Mistake(f"promise: {name} has an R2 of {true:.3f}, promised was {number:.3f}")


CONDITIONS = (
    are_pairs,
    are_of_one_distribution,
    are_bounded,
    is_the_mean,
    ridge_is_above_the_constant,
    ridge_loses,
    can_be_learned,
    F_helps,
    promise_is_kept,
)


def three(impl):
    """The student's three functions; one that is not there cannot meet a condition."""
    found = [getattr(impl, name) for name in ALL]
    for name, function in zip(ALL, found, strict=True):
        if function is None:
            raise Mistake(f"there is no {name} in the file")
    return found


@graded(*ALL)
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda f: f.__name__)
def test_a_condition(condition, impl):
    """Otherwise ridge wins, or loses by a trick."""
    condition(*three(impl))


@graded(*ALL)
def test_conditions_met(impl):
    """Otherwise a set that breaks one has the same number as one that breaks none."""
    met = 0
    for condition in CONDITIONS:
        try:
            condition(*three(impl))
            met += 1
        except Mistake:
            pass  # told by the test above
    impl.number("conditions met", met, 9, 0)


# -- without a student


def written(source):
    """The three functions of a file's text."""
    names = {}
    exec(source, names)
    return [names[name] for name in ALL]


def told(functions, words=None):
    """{condition: what it says} of the conditions that are not met; up to the one with `words`."""
    found = {}
    for condition in CONDITIONS:
        try:
            condition(*functions)
        except Mistake as e:
            found[condition.__name__] = str(e)
            if words and words in str(e):
                break
    return found


def test_an_answer_meets_all():
    """Otherwise the conditions contradict each other."""
    assert told(written(ANSWERS["ex15"])) == {}


@pytest.mark.parametrize("old, new, words", MISTAKES["ex15"], ids=lambda x: x[:30])
def test_mistakes_are_named(old, new, words):
    """Otherwise a trick passes, or its author is not told which."""
    assert ANSWERS["ex15"].count(old) == 1
    found = told(written(ANSWERS["ex15"].replace(old, new)), words)
    assert any(words in line for line in found.values()), found


def test_lambda_is_not_chosen_by_the_cosine():
    """Otherwise a fair set is called unfair: here the cosine's lambda costs ridge a quarter."""
    two = (
        ANSWERS["ex15"]
        .replace("n, 3, generator", "n, 2, generator")
        .replace("x, y, w = c.T", "x, y = c.T")
        .replace("w / 2 + 3 * x * y", "y + 2 * (y.abs() - 0.5)")
        .replace("x + 2 * (y**2", "x + 3 * (x**2")
        .replace("1 / 3 + 1 / 12, 16 / 45 + 1, 1 / 2", "2 / 3, 9 * 4 / 45 + 4 / 12, 1 / 2")
    )
    assert told(written(two)) == {}


def test_units_of_c():
    """Otherwise ridge loses because a coordinate is written in other units."""
    draw, best, promise = written(ANSWERS["ex15"].replace("w / 2", "2 * w"))
    units = torch.tensor([1.0, 1.0, 1e-4])
    drawn = lambda n, seed: (draw(n, seed)[0] * units, draw(n, seed)[1])
    found = told([drawn, lambda c: best(c / units), promise])
    assert "by its penalty alone" in found["ridge_is_above_the_constant"]


def test_share():
    """Otherwise R2 is something else: 1 is the truth, 0 the mean, and half of z has 3/4."""
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    z = z - z.mean(0)
    assert [share(x, z) for x in (z, 0 * z, z / 2)] == pytest.approx([1, 0, 0.75])
