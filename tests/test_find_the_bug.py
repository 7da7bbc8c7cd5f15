"""
Exercise 12 hands in tests, and here they are tested: they must accept what is right and refuse
what is not. For each of the stub's three functions: it without its bug; the same derived in another
way; it as the stub has it; and an unseen bug of the same kind, which a special case misses.
"""

import traceback
from pathlib import Path

import pytest
import torch
from grading import Mistake, graded

import latent_bridge
import metrics
from ddim_translator import Translator, make_alpha

STUB = Path(__file__).parent.parent / "assignments" / "ex12_find_the_bug.py"  # not the student's
LEVEL, KEPT, RANK = (
    "round(1 + (T - 1) * (steps - k) / steps)",
    "std_s * eps_hat",
    "(s > best).sum(1)",
)
FIXED = {  # n: (what stands in planted_n, what should)
    1: (LEVEL, "round(T * (steps - k) / steps)"),
    2: (KEPT, "max(0.0, std_s**2 - omega**2) ** 0.5 * eps_hat"),
    3: (RANK, "(s >= best).sum(1) - 1"),
}
ORDER = "s.argsort(dim=1, descending=True, stable=True)"
UNSEEN = {
    1: (LEVEL, "T - k * (T // steps)"),
    2: (KEPT, "std_t * a_s / a_t * eps_hat"),
    3: (RANK, f"({ORDER} == torch.as_tensor(right)[:, None]).int().argmax(1)"),
}
RELATIVE = {
    1: "the last level is 0 where T is a multiple of steps, and only there",
    2: "the variance is right at eta = 1, and only there",
    3: "of equal items the one that is first in the gallery has the better rank",
}


def planted(n, old="", new=""):
    """planted_n of the stub, with one piece of its text replaced."""
    source, names = STUB.read_text(), {}
    assert not old or source.count(old) == 1, old
    exec(source.replace(old, new) if old else source, names)
    return names[f"planted_{n}"]


def other_1(denoise, z_T, alpha, steps):
    """As an update of z_t: z_s = r z_t + (sqrt(alpha_s) - r sqrt(alpha_t)) z0_hat."""
    T, alpha, z_t = len(alpha) - 1, alpha.double(), z_T.double()
    for k in range(steps):
        t, s = (round(T * (steps - i) / steps) for i in (k, k + 1))
        r = ((1 - alpha[s]) / (1 - alpha[t])).sqrt()
        z0_hat = denoise(z_t.to(z_T.dtype), t).double()
        z_t = r * z_t + (alpha[s].sqrt() - r * alpha[t].sqrt()) * z0_hat
    return z_t


def other_2(z_t, z_T, z0_hat, now, then, eta, noise):
    """Without eps_hat: of z_t, r is kept, and the other weights make up for it."""
    (a_t, b_t, std_t), (a_s, b_s, std_s) = map(float, now), map(float, then)
    fresh = eta**2 * max(0.0, std_s**2 - (std_t * a_s / a_t) ** 2)
    r = max(0.0, std_s**2 - fresh) ** 0.5 / std_t
    z_t, z_T, z0_hat, noise = (z.double() for z in (z_t, z_T, z0_hat, noise))
    return r * z_t + (a_s - r * a_t) * z_T + (b_s - r * b_t) * z0_hat + fresh**0.5 * noise


def other_3(queries, gallery, right):
    """By sorting: G - how many are less similar."""
    q, g = torch.as_tensor(queries).double(), torch.as_tensor(gallery).double()
    length = q.norm(dim=1)[:, None] * g.norm(dim=1)
    s = ((q[:, None] * g).sum(2) / length.clamp(min=1e-12)).float()  # (N, G)
    best = s.gather(1, torch.as_tensor(right)[:, None])
    return len(g) - torch.searchsorted(s.sort(1).values, best)[:, 0]


BODIES = {  # right, right in another way, the bug that is shown, the one that is not
    n: (planted(n, *FIXED[n]), other, planted(n), planted(n, *UNSEEN[n]))
    for n, other in enumerate((other_1, other_2, other_3), 1)
}


def refusal(test, f):
    """Where test(f) raises AssertionError, or None; any other end of the test is a Mistake."""
    torch.manual_seed(0)
    try:
        answer = test(lambda *args, **kw: f(*args, **kw))  # a name would tell
    except NotImplementedError:
        raise
    except AssertionError as e:
        at = traceback.extract_tb(e.__traceback__)[1]
        return f"line {at.lineno}: {at.line}"
    except (Exception, pytest.fail.Exception) as e:
        told = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        raise Mistake(f"{test.__name__} stops with {told}; a test refuses by `assert`") from None
    if answer is not None:
        raise Mistake(f"{test.__name__} returns {answer}: a test refuses by `assert`, or is silent")


def examine(n, test):
    """Raises Mistake unless test accepts what is right of BODIES[n] and refuses the bugs."""
    right, other, shown, unseen = (refusal(test, f) for f in BODIES[n])
    name = f"kills_{n}"
    if right:
        raise Mistake(f"{name} refuses a right function, at {right}")
    if other:
        raise Mistake(
            f"{name} refuses another right function, derived otherwise and in float64: compare "
            f"values with a tolerance, not bits or dtypes, at {other}"
        )
    if not shown:
        raise Mistake(f"{name} is content with planted_{n}, the bug that you see")
    if not unseen:
        raise Mistake(f"{name} catches planted_{n}, but not an unseen relative: {RELATIVE[n]}")


@pytest.mark.parametrize("n", [pytest.param(n, marks=graded(f"kills_{n}")) for n in BODIES])
def test_of_a_test(n, impl):
    """Otherwise a student's test refuses what is right, or lets a bug through."""
    examine(n, getattr(impl, f"kills_{n}"))


@graded("kills_1", "kills_2", "kills_3")
def test_bugs_caught(impl):
    """Otherwise a bug is left; those caught by a test that refuses right functions do not count."""
    caught = 0
    for n, (*right, shown, unseen) in BODIES.items():
        test = getattr(impl, f"kills_{n}")
        try:
            if test and not any(refusal(test, f) for f in right):
                caught += sum(refusal(test, f) is not None for f in (shown, unseen))
        except Mistake:
            pass  # told by the test above
    impl.number("bugs caught", caught, 6, 0)


# -- without a student: what is called right agrees with the reference, the bugs show where they say


def differ(bodies, *args, among):
    """Asserts that exactly the named ones of (right, other, planted, unseen) agree with args[0]."""
    want, *args = args
    names = ("right", "other", "planted", "unseen")
    close = [torch.allclose(f(*args).double(), want.double(), 1e-4, 1e-5) for f in bodies]
    assert [n for n, same in zip(names, close, strict=True) if same] == among.split()


def test_the_ddim_bugs():
    """Otherwise "right" is not Translator.cdim, or the unseen bug is no special case's miss."""
    torch.manual_seed(0)
    tr, c, z_T = Translator(3, 7, width=8, layers=3), torch.randn(5, 3), torch.randn(5, 7)
    with torch.no_grad():
        denoise = lambda z_t, t: tr.denoise(z_t, t, c)
        for steps, among in ((3, "right other"), (4, "right other unseen")):
            differ(BODIES[1], tr.cdim(c, z_T, steps), denoise, z_T, tr.alpha, steps, among=among)
    # the moments look right: alpha_1 is near 1
    exact = lambda z_t, t: z_t * make_alpha()[t].sqrt()  # the best estimate if z_0 ~ N(0, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert abs(planted(1)(exact, one, make_alpha(), 100).item() - 1) < 0.05


def test_the_dbim_bugs():
    """Otherwise "right" is not latent_bridge.dbim, or the unseen bug shows at eta = 1 too."""
    kernel, (z_T, z0_hat, boot, noise) = latent_bridge.Kernel(), torch.randn(4, 5, 2, 3).double()
    for eta, among in (
        (0.4, "right other"),
        (1.0, "right other unseen"),
        (0.0, "right other planted"),
    ):
        seen, draws = [], iter([boot, noise])
        denoise = lambda z, t: seen.append(z) or z0_hat
        randn = lambda shape, device: next(draws)
        want = latent_bridge.dbim(denoise, z_T, kernel, [1.0, 0.6, 0.3], eta, randn=randn)
        args = (seen[1], z_T, z0_hat, kernel(0.6), kernel(0.3), eta, noise)
        differ(BODIES[2], want, *args, among=among)


def test_the_ranks_bugs():
    """Otherwise "right" is not metrics.ranks, or the bugs show where nothing is tied."""
    q, g, right = torch.randn(4, 5), torch.randn(6, 5), torch.tensor([0, 5, 2, 2])
    lists = right[:, None].tolist()
    differ(BODIES[3], metrics.ranks(q, g, lists), q, g, right, among="right other planted unseen")
    g[3:] = g[2]
    differ(BODIES[3], metrics.ranks(q, g, lists), q, g, right, among="right other")


def test_names_do_not_tell():
    """Otherwise a test may look at its function's name instead of what it does."""
    told = []
    for f in BODIES[1]:
        refusal(lambda f: told.append(f.__name__), f)
    assert told == ["<lambda>"] * 4
