"""
Exercise 12 hands in tests, and here they are tested: they must accept what is right and refuse
what is not. For each of the stub's three functions: it without its bug; the same derived in another
way; it as the stub has it; and an unseen bug of the same kind, which a special case misses.
"""

import importlib
import traceback

import pytest
import torch
from grading import Mistake, graded

import latent_bridge
import metrics
from ddim_translator import Translator, make_alpha

# what the stub shows, with the piece that is wrong there left open: a student may edit the stub


def ddim(level):
    def body(denoise, z_T, alpha, steps):
        T, z_t = len(alpha) - 1, z_T
        levels = [level(T, steps, k) for k in range(steps + 1)]
        for t, s in zip(levels[:-1], levels[1:], strict=True):
            z0_hat = denoise(z_t, t)
            eps_hat = (z_t - alpha[t].sqrt() * z0_hat) / (1 - alpha[t]).sqrt()
            z_t = alpha[s].sqrt() * z0_hat + (1 - alpha[s]).sqrt() * eps_hat
        return z_t

    return body


def dbim(kept):
    def body(z_t, z_T, z0_hat, now, then, eta, noise):
        (a_t, b_t, std_t), (a_s, b_s, std_s) = map(float, now), map(float, then)
        fresh = eta * max(0.0, std_s**2 - (std_t * a_s / a_t) ** 2) ** 0.5
        eps_hat = (z_t - a_t * z_T - b_t * z0_hat) / std_t
        mixed = kept(std_s, fresh, std_t * a_s / a_t) * eps_hat + fresh * noise
        return a_s * z_T + b_s * z0_hat + mixed

    return body


def ranker(place):
    def body(queries, gallery, right):
        unit = lambda x: torch.nn.functional.normalize(torch.as_tensor(x).double())
        s, right = (unit(queries) @ unit(gallery).T).float(), torch.as_tensor(right)[:, None]
        return place(s, s.gather(1, right), right)

    return body


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
    1: (
        ddim(lambda T, S, k: round(T * (S - k) / S)),
        other_1,
        ddim(lambda T, S, k: round(1 + (T - 1) * (S - k) / S)),
        ddim(lambda T, S, k: T - k * (T // S)),
    ),
    2: (
        dbim(lambda std_s, fresh, least: max(0.0, std_s**2 - fresh**2) ** 0.5),
        other_2,
        dbim(lambda std_s, fresh, least: std_s),
        dbim(lambda std_s, fresh, least: least),
    ),
    3: (
        ranker(lambda s, best, right: (s >= best).sum(1)),
        other_3,
        ranker(lambda s, best, right: 1 + (s > best).sum(1)),
        ranker(lambda s, best, right: 1 + (sorted_places(s) == right).int().argmax(1)),
    ),
}
RELATIVE = {
    1: "the last level is 0 where T is a multiple of steps, and only there",
    2: "the variance is right at eta = 1, and only there",
    3: "of equal items the one that is first in the gallery has the better rank",
}


def sorted_places(s):
    return s.argsort(dim=1, descending=True, stable=True)


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


def agree(n, want, *args):
    """Which of right, other, planted, unseen answer `want` to args."""
    close = [torch.allclose(f(*args).double(), want.double(), 1e-4, 1e-5) for f in BODIES[n]]
    names = ("right", "other", "planted", "unseen")
    return " ".join(name for name, same in zip(names, close, strict=True) if same)


@torch.no_grad()
def test_the_ddim_bugs():
    """Otherwise "right" is not Translator.cdim, or the unseen bug is no special case's miss."""
    torch.manual_seed(0)
    tr, c, z_T = Translator(3, 7, width=8, layers=3), torch.randn(5, 3), torch.randn(5, 7)
    denoise = lambda z_t, t: tr.denoise(z_t, t, c)
    for steps, told in ((3, "right other"), (4, "right other unseen")):
        assert agree(1, tr.ddim_sample(c, z_T, steps), denoise, z_T, tr.alpha, steps) == told
    exact = lambda z_t, t: z_t * tr.alpha[t].sqrt()  # the best estimate if z_0 ~ N(0, 1)
    std = BODIES[1][2](exact, torch.ones(1, 1), tr.alpha, 100).item()
    assert std == pytest.approx(1, abs=0.05)  # the bug does not show


def test_the_dbim_bugs():
    """Otherwise "right" is not latent_bridge.dbim, or the unseen bug shows at eta = 1 too."""
    torch.manual_seed(0)
    kernel, (z_T, z0_hat, boot, noise) = latent_bridge.Kernel(), torch.randn(4, 5, 2, 3).double()
    told = {0.4: "right other", 1.0: "right other unseen", 0.0: "right other planted"}
    for eta, names in told.items():
        seen, draws = [], iter([boot, noise])
        denoise = lambda z, t: seen.append(z) or z0_hat
        randn = lambda shape, device: next(draws)
        want = latent_bridge.dbim(denoise, z_T, kernel, [1.0, 0.6, 0.3], eta, randn=randn)
        now_then = kernel(0.6), kernel(0.3)
        assert agree(2, want, seen[1], z_T, z0_hat, *now_then, eta, noise) == names


def test_the_ranks_bugs():
    """Otherwise "right" is not metrics.ranks, or the bugs show where nothing is tied."""
    torch.manual_seed(0)
    q, g, right = torch.randn(4, 5), torch.randn(6, 5), torch.tensor([0, 5, 3, 3])
    for names in ("right other planted unseen", "right other"):
        want = metrics.ranks(q, g, right[:, None].tolist())
        assert agree(3, want, q, g, right) == names
        g[2:] = torch.eye(5)[1]  # a tie however it is rounded


@pytest.mark.slow
def test_the_stub_shows_these_bugs():
    """Otherwise the exam plants other bugs than a student sees. Slow: a student may repair them."""
    torch.manual_seed(0)
    z, stub = torch.randn(4, 5, 7), importlib.import_module("assignments.ex12_find_the_bug")
    denoise = lambda z_t, t: (t * z_t).tanh()
    for n, args in {
        1: (denoise, z[0], make_alpha(), 7),
        2: (*z[:3], (0.5, 0.4, 0.6), (0.3, 0.7, 0.5), 0.4, z[3]),
        3: (z[0], torch.eye(7)[[0, 1, 1, 2]], [0, 2, 1, 1, 3]),
    }.items():
        found = agree(n, getattr(stub, f"planted_{n}")(*args), *args)
        assert found == "planted"


def test_names_do_not_tell():
    """Otherwise a test may look at its function's name instead of what it does."""
    told = []
    for f in BODIES[1]:
        refusal(lambda f: told.append(f.__name__), f)
    assert told == ["<lambda>"] * 4
