"""
The exercises themselves: stubs fail, an answer passes, and each listed mistake is named.

    pytest -m slow tests/test_assignments.py -k ex02

ANSWERS are derived in another way than the reference's code, and no better to read: this file is
for maintainers. MISTAKES: what stands in the answer, what a student may write instead, and words
of what the student is told. Each grade is a process of its own, as for a student.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ANSWERS, MISTAKES = {}, {}

# -- the noise schedule

ANSWERS["ex01"] = """
import torch

def linear_alpha(T):
    if T <= 20:
        raise ValueError("T")
    beta = (0.1 + 19.9 * torch.arange(T, dtype=torch.float64) / (T - 1)) / T
    return torch.cat([torch.zeros(1).double(), torch.log1p(-beta).cumsum(0)]).exp()

def noised(z_0, eps, alpha_t):
    angle = torch.arccos(alpha_t.sqrt())
    return angle.cos() * z_0 + angle.sin() * eps
"""
MISTAKES["ex01"] = [
    ("arange(T, dtype=torch.float64) / (T - 1)) / T", "arange(T).double() / (T - 1)) / 1000", "beta wants 1000 / T"),
    (".cumsum(0)", "", "product over all steps"),
    ("torch.cat([torch.zeros(1).double(), torch.log1p(-beta).cumsum(0)])", "torch.log1p(-beta).cumsum(0)", "step 0 is clean"),
    ("cumsum(0)])", "cumsum(0)]).div(2)", "not an amplitude"),
    ("T <= 20", "T <= 2", "T = 20 has beta = 1"),
    ("angle.cos() * z_0 + angle.sin()", "angle.cos() ** 2 * z_0 + angle.sin() ** 2", "no square roots"),
    ("angle.cos() * z_0 + angle.sin()", "angle.sin() * z_0 + angle.cos()", "changed places"),
]  # fmt: skip

# -- the DDIM step: as an update of z_t, not of the two estimates

ANSWERS["ex02"] = """
import torch

def ddim_step(z_t, z0_hat, alpha_t, alpha_s, eta=0.0, noise=None):
    v, w = 1 - alpha_t, 1 - alpha_s
    fresh = eta * eta * (w / v - w * alpha_t / (v * alpha_s))
    ratio = ((w - fresh).clamp(min=0) / v).sqrt()
    z_s = ratio * z_t + (alpha_s.sqrt() - ratio * alpha_t.sqrt()) * z0_hat
    return z_s if noise is None else z_s + fresh.sqrt() * noise
"""
MISTAKES["ex02"] = [
    ("(w - fresh)", "(v - fresh)", "the misprint"),
    ("(w - fresh)", "w", "did not subtract"),
    ("z_s + fresh.sqrt() * noise", "z_s", "the fresh noise is not added"),
    ("(w / v - w * alpha_t / (v * alpha_s))", "(1 - alpha_t / alpha_s)", "sigma is too large"),
    ("(w / v - w * alpha_t / (v * alpha_s))", "(1 - alpha_t / alpha_s)", "noise at the last step"),
    ("(alpha_s.sqrt() - ratio", "(alpha_s - ratio", "without its square root"),
]  # fmt: skip

# -- retrieval: by sorting the wrong items, and by a product of chances

ANSWERS["ex11"] = """
import torch

def unit(x):
    length = x.square().sum(1, keepdim=True).sqrt()
    return x / length.clamp(min=1e-12)

def ranks(queries, gallery, positives):
    out = []
    for x, right in zip(unit(queries), positives):
        if len(right) == 0:
            raise ValueError("no right answer")
        s = unit(gallery) @ x
        best = s[right].amax()
        wrong = s[[i for i in range(len(s)) if i not in right]].sort().values
        below = torch.searchsorted(wrong, best[None], right=False).item()
        out.append(1 + len(wrong) - below)
    return torch.tensor(out)

def recall_at_k(rank, k):
    return 1 - sum(n > k for n in rank.tolist()) / len(rank)

def chance_recall(G, p, k):
    missed = 1.0
    for i in range(k):
        missed *= max(0, G - p - i) / (G - i)
    return 1 - missed

def centred_cosine(z_hat, z, mean):
    a, b = unit(z_hat - mean), unit(z - mean)
    return 1 - (a - b).square().sum(1).mean() / 2 - ((a * a).sum(1) == 0).float().mean() / 2
"""
MISTAKES["ex11"] = [
    ("right=False", "right=True", "a tie counts for the query"),
    ("[i for i in range(len(s)) if i not in right]", "torch.arange(len(s)) != right[s[right].argmax()]", "other right answers compete"),
    ("s[right].amax()", "s[right[0]]", "only the first right answer"),
    ("1 + len(wrong)", "len(wrong)", "ranks start at 0"),
    ("s = unit(gallery) @ x", "s = gallery @ x", "this is the dot product"),
    (" / length.clamp(min=1e-12)", " / length", "0 / 0 is NaN"),
    ('raise ValueError("no right answer")', "right = [0]", "has no rank"),
    ("n > k", "n >= k", "<=, not <"),
    ("return 1 - missed", "return k * p / G", "twice"),
    ("return 1 - missed", "return 1 - (1 - p / G) ** k", "draws an item again"),
    ("unit(z_hat - mean), unit(z - mean)", "unit(z_hat - mean), unit(z)", "from the answers only"),
]  # fmt: skip

# -- three tests: a denoiser that counts its calls, unit impulses, a gallery of equals

ANSWERS["ex12"] = """
import torch

def kills_1(f):
    for T, steps in ((9, 1), (9, 3), (10, 4), (20, 7)):
        calls = []
        def denoise(z_t, t):
            calls.append(t)
            return torch.full_like(z_t, len(calls))
        out = f(denoise, torch.randn(5, 3), 0.8 ** torch.arange(T + 1.0), steps)
        assert calls == [round(T * (steps - k) / steps) for k in range(steps)]
        assert abs(out - steps).max() < 1e-4

def kills_2(f):
    now, then = (0.5, 0.4, 0.6), (0.3, 0.7, 0.5)
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    for eta in (0.0, 0.5, 1.0):
        kept = f(0.6 * one, zero, zero, now, then, eta, zero)
        fresh = f(zero, zero, zero, now, then, eta, one)
        assert abs(kept ** 2 + fresh ** 2 - 0.5 ** 2).max() < 1e-5
        mean = f(0.5 * one + 0.8, one, 2 * one, now, then, eta, zero)
        assert abs(mean - 1.7).max() < 1e-5

def kills_3(f):
    q, g = torch.randn(4, 5), torch.eye(5)[[0, 0, 0, 0, 0, 0]]
    assert f(q, g, torch.arange(4)).tolist() == [6] * 4
    assert f(torch.eye(5), torch.eye(5), torch.arange(5)).tolist() == [1] * 5
"""
MISTAKES["ex12"] = [
    ("assert calls == [round(T * (steps - k) / steps) for k in range(steps)]\n        assert abs(out - steps).max() < 1e-4", "assert out.shape == (5, 3) and out.isfinite().all()", "kills_1 is content with planted_1"),
    ("((9, 1), (9, 3), (10, 4), (20, 7))", "((9, 1), (9, 3))", "an unseen relative: the last level"),
    ("(0.0, 0.5, 1.0)", "(1.0,)", "an unseen relative: the variance"),
    ("torch.arange(4)", "torch.full((4,), 5)", "an unseen relative: of equal items"),
    ("abs(mean - 1.7).max() < 1e-5", "torch.equal(mean, torch.full((2, 3), 1.7))", "kills_2 refuses another right function"),
    ("[6] * 4", "[1] * 4", "kills_3 refuses a right function, at line"),
    ("f(q, g, torch.arange(4))", "f(q, g)", "kills_3 stops with TypeError"),
    ("    assert f(torch.eye(5)", "    return f(torch.eye(5)", "kills_3 returns True"),
]  # fmt: skip

# -- the scoreboard: an MLP whose schedule is the clock

ANSWERS["ex13"] = """
import math
import time

import torch
from torch import nn

def translate(c, z, c_val, z_val, c_new, seconds):
    start = time.perf_counter()
    torch.manual_seed(0)
    scale = lambda x: (x - c.mean(0)) / c.std(0).clamp(min=c.std() / 3)
    mean, size, h = z.mean(0), (z - z.mean(0)).square().mean().sqrt(), 512
    x, y, width = scale(c), (z - mean) / size, z.shape[1]
    block = lambda n: [nn.Linear(n, h), nn.LayerNorm(h), nn.SiLU()]
    net = nn.Sequential(*block(c.shape[1]), *block(h), *block(h), nn.Linear(h, width))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    while (spent := (time.perf_counter() - start) / (0.9 * seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, 20 * spent) * math.cos(math.pi / 2 * spent)
        i = torch.randint(len(x), (256,))
        loss = (net(x[i]) - y[i]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return net(scale(c_new)) * size + mean
"""
MISTAKES["ex13"] = [
    ("return net(scale(c_new)) * size + mean", "return mean.expand(len(c_new), -1)", "the constant"),
    ("scale(c_new)", "scale(c_new).flip(0)", "are the rows in another order"),
    ("return net(scale(c_new))", "return net(scale(c_new[:-1]))", "shape (299, 11), it should be (300, 11)"),
    ("size + mean", "size / 0 + mean", "NaN or Inf in 300 of 300 rows"),
    ("while (spent :=", "time.sleep(seconds + 3)\n    while (spent :=", "over time"),
    ("*block(c.shape[1]), *block(h), *block(h), nn.Linear(h, width)", "nn.Linear(c.shape[1], width)", "this is ridge's score"),
    ("size + mean", "size / 20 + mean", "below ridge"),
]  # fmt: skip

# -- the exam of the exam

STUBS = sorted((ROOT / "assignments").glob("ex*.py"))


def header(stub, word):
    """The rest of the line that starts with `word` in a stub's docstring."""
    return re.search(rf"^{word} +(.*)$", stub.read_text(), re.M)[1]


def graded(stub, source, here, impl):
    """(exit code, output, seconds) of the exercise's own command, with `source` as `impl`."""
    (here / (impl.removesuffix(".py") + ".py")).write_text(source)
    command = header(stub, "Grade").replace(f"assignments.{stub.stem}", impl)
    words = [sys.executable, "-m", *shlex.split(command)]
    words[3] = str(ROOT / words[3])  # as from the student's own folder
    start = time.time()
    env = {**os.environ, "PYTHONPATH": f"{here}:{ROOT}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=here, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, time.time() - start


def jobs():
    """{name of a job: what `graded` needs}: stub, answer, mistakes of each exercise."""
    for stub in STUBS:
        name = stub.stem[:4]
        yield f"{name} stub", (stub, stub.read_text(), "homework")
        yield f"{name} answer", (stub, ANSWERS[name], "elsewhere")
        for n, (old, new, _) in enumerate(MISTAKES[name]):
            assert ANSWERS[name].count(old) == 1, (name, old)
            yield f"{name} mistake {n}", (stub, ANSWERS[name].replace(old, new), "wrong.py")


@pytest.fixture(scope="module")
def grades(request, tmp_path_factory):
    """{job: a future of its grade}, of the exercises that this session asks for; two at a time."""
    asked = {item.callspec.params["stub"] for item in request.session.items}
    pool = ThreadPoolExecutor(2)
    yield {
        job: pool.submit(graded, stub, source, tmp_path_factory.mktemp("student"), impl)
        for job, (stub, source, impl) in jobs()
        if stub in asked
    }
    pool.shutdown(cancel_futures=True)


def passed(out):
    return tuple(map(int, re.search(r"(\d+) of (\d+) graded tests pass", out).groups()))


EVERY = pytest.mark.parametrize("stub", STUBS, ids=lambda s: s.stem)


@pytest.mark.slow
@EVERY
def test_stub_fails_by_name(stub, grades):
    """Otherwise an empty file gets a grade, or its student is not told which file to open."""
    rc, out, _ = grades[f"{stub.stem[:4]} stub"].result()
    good, all_ = passed(out)
    assert rc == 1 and good == 0 < all_, out
    assert "in homework.py" in out and out.count("NotImplementedError") > all_, out


@pytest.mark.slow
@EVERY
def test_answer_passes_and_prints_the_number(stub, grades):
    """Otherwise a right answer of another kind fails, or grading takes long."""
    rc, out, seconds = grades[f"{stub.stem[:4]} answer"].result()
    assert rc == 0 and len(set(passed(out))) == 1, out
    what, number = header(stub, "Expect").split(" (")[0].split(": ")
    assert re.search(rf"{re.escape(what)}: \S+, expected {re.escape(number)}$", out, re.M), out
    assert seconds < 20


@pytest.mark.slow
@EVERY
def test_every_mistake_is_named(stub, grades):
    """Otherwise a student with a usual mistake learns only that it is wrong."""
    for n, (_, new, words) in enumerate(MISTAKES[stub.stem[:4]]):
        rc, out, _ = grades[f"{stub.stem[:4]} mistake {n}"].result()
        assert rc == 1 and words in out.split("graded tests pass")[1], f"{new}\n{out}"


@pytest.mark.slow
@EVERY
def test_nothing_is_written_to_the_student(stub, tmp_path):
    """Otherwise a grade changes the file that it grades, or leaves others beside it."""
    mine = tmp_path / "mine.py"
    graded(stub, stub.read_text(), tmp_path, "mine.py")
    assert mine.read_text() == stub.read_text()
    assert {p.name for p in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}
