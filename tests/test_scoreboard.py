"""
Exercise 13: `translate` on a toy, by the scoreboard's own rules; and these rules by themselves.

The toy  z = (u + u^2 - 1) B + 1 + noise, u = c A; c (n, 7), z (n, 11). No linear map sees u^2.
"""

import contextlib
import csv
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import processes
import pytest
import scoreboard
import submissions
import torch
from grading import Mistake, graded
from test_assignments import ANSWERS

import metrics

SECONDS = 2.0


@pytest.fixture(scope="module")
def toy():
    """(c, z, c_val, z_val, c_new, z_new): 1,600, 200 and 300 pairs."""
    g = torch.Generator().manual_seed(0)
    A, B, c = (torch.randn(*shape, generator=g) for shape in ((7, 16), (16, 11), (2100, 7)))
    u = c @ A / 7**0.5
    z = (u + u.square() - 1) @ B + 1 + torch.randn(2100, 11, generator=g)
    return [x for n in (slice(1600), slice(1600, 1800), slice(1800, None)) for x in (c[n], z[n])]


def both_ways(toy):
    """The toy in both directions, as `glyphs` has them."""
    c, z, c_val, z_val, c_new, z_new = toy
    return {"text->image": toy, "image->text": (z, c, z_val, c_val, z_new, c_new)}


class Forked:
    """A forked process with what `alone` needs of a Popen: no second import of torch."""

    def __init__(self, pid):
        self.pid, self.code = pid, None

    def poll(self):
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    def wait(self):
        while self.poll() is None:
            time.sleep(0.01)
        return self.code


def forked(argv, copy, scratch, private, shown):
    """In place of `launch`."""

    def work():
        os.setsid()
        os.chdir(scratch)
        # A fresh process has none of our modules. An environment may lie in our folder (.venv).
        for name, module in list(sys.modules.items()):
            path = str(getattr(module, "__file__", ""))
            if path.startswith(str(submissions.ROOT)) and "site-packages" not in path:
                del sys.modules[name]
        submissions.main(argv)

    return Forked(processes.start(work, str(private / "stderr")))


torch.optim.AdamW([torch.zeros(1)])  # its imports take seconds: once, before the forks


def ridge_of(toy):
    """Least squares with a bias, to which ridge comes down where the conditions are independent."""
    c, z, *_, c_new, _ = toy
    with_one, new_with_one = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (c, c_new))
    return new_with_one @ torch.linalg.lstsq(with_one, z).solution


@graded("translate")
def test_translate_on_a_toy(toy, impl):
    """Otherwise the answer is no translation, or no better than the best linear one."""
    ridge = metrics.cosine(ridge_of(toy), toy[-1])
    z_hat, used = submissions.ask(impl.translate, toy[:-1], SECONDS)
    cosine, word = scoreboard.judge(z_hat, toy[-1], ridge, used, SECONDS)
    if word:
        raise Mistake(f"translate: {word}{f', with cosine {cosine:.3f}' if cosine else ''}")
    impl.number("ridge's cosine on the toy", ridge, 0.5243, 0.001)


OFFERED = {  # made from (the truth, ridge's answer); None: it counts, without a word
    "the truth": (lambda z, r: z, None),
    "a numpy array": (lambda z, r: z.numpy(), None),
    "with a gradient": (lambda z, r: z.clone().requires_grad_(), None),
    "nothing": (lambda z, r: None, "a NoneType and no tensor"),
    "transposed": (lambda z, r: z.T, r"shape \(11, 300\), it should be \(300, 11\)"),
    "one row": (lambda z, r: z.mean(0), "shape"),
    "NaN": (lambda z, r: torch.where(z > 4, z / 0, z), r"NaN or Inf in \d+ of 300 rows"),
    "constant": (lambda z, r: z.mean(0).expand_as(z), "the constant"),
    "zeros": (lambda z, r: 0 * z, "the constant"),
    "shuffled": (lambda z, r: z.flip(0), "are the rows in another order"),
    "ridge": (lambda z, r: r, "this is ridge's score"),
    "backwards": (lambda z, r: -z, "below ridge, 0.524"),
    "half of ridge": (lambda z, r: r + 4 * z.roll(1, 0).sign(), "below ridge, 0.524"),
}


@pytest.mark.parametrize("make, told", OFFERED.values(), ids=OFFERED.keys())
def test_judge(make, told, toy):
    """Otherwise the scoreboard praises an answer that is none, or finds fault with a right one."""
    z, ridge = toy[-1], ridge_of(toy)
    cosine, word = scoreboard.judge(make(z, ridge), z, metrics.cosine(ridge, z), 3.9, 2.0)
    assert re.search(told, word) if told else (word, cosine) == ("", pytest.approx(1))
    assert (cosine is None) == any(w in word for w in ("shape", "NaN", "NoneType"))


def test_over_time_does_not_count(toy):
    """Otherwise an answer wins by more time, or one that ends a moment late is lost."""
    word = "over time: 4.1 s where 2 are allowed"
    assert scoreboard.judge(toy[-1], toy[-1], 0.5, 4.1, 2.0) == (None, word)

    def slow(*args):
        time.sleep(0.2)

    assert 0.2 <= submissions.ask(slow, toy[:-1], 0.1)[1] < 1


def test_the_table(toy, capsys, monkeypatch, tmp_path):
    """Otherwise columns are swapped, the score is no mean, or a student is shown test targets."""
    monkeypatch.setattr(scoreboard, "glyphs", lambda: both_ways(toy))
    monkeypatch.setattr(submissions, "launch", forked)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import torch\n"
        "def translate(c, z, c_val, z_val, c_new, seconds):\n"
        "    assert [len(x) for x in (c, z, c_val, z_val, c_new)] == [1600, 1600, 200, 200, 300]\n"
        "    assert c.shape[1] == c_val.shape[1] == c_new.shape[1] and seconds == 5\n"
        "    near = torch.cdist(c_new, c).argmin(1)\n"
        "    return z[near] if z.shape[1] == 11 else near\n"
    )
    with pytest.raises(SystemExit) as stop:
        scoreboard.main([str(mine), "--seconds", "5"])
    assert stop.value.code == 1  # one direction does not count
    out = capsys.readouterr().out

    def row(name):
        return re.search(rf"^{name} +(.*)$", out, re.M)[1].split()

    assert row("ridge")[0] == "0.524" and out.count("not run here") == 2 and "on 300 pairs" in out
    one, other, score = map(float, row("mean"))
    assert score == pytest.approx((one + other) / 2, abs=1e-3) and one != other
    assert float(row("yours")[0]) > 0.7 and row("yours")[1:3] == ["-", "-"]
    assert "image->text: shape (300,), it should be (300, 7)" in out


# Ten files of a class: what is in it, what its row says of it. {SECRET} is a file of somebody else.
GOOD = "near = torch.cdist(c_new, c).argmin(1)\n    return z[near]"
CLASS = {
    "anna": (GOOD, "^image->text: below ridge, 0.648$"),
    "ben": ("while True: pass", "over time: killed after"),
    "carl": (
        "for i in range(2):\n        if os.fork() == 0:\n            break\n"
        "    open('pid', 'a').write(f'{os.getpid()} ')\n    time.sleep(60)",
        "over time: killed after .*leaves 1 file: pid",
    ),
    "dora": ("os._exit(0)", "ended without a result, exit code 0: os._exit"),
    "emil": ("from baselines import ridge", "line 3: .*opens the reference's baselines.py"),
    "fay": ("open('{SECRET}', 'w').write('10')", "line 3: PermissionError: changes .*secret"),
    "mia": ("os.remove('{SECRET}')", "line 3: PermissionError: changes .*secret"),
    "nia": (
        f"os.system('echo >> ../reference/metrics.py')\n    {GOOD}",
        "changes its copy of the reference: metrics.py.*starts a program",
    ),
    "gus": ("print('gus 0.9 0.9 0.9')\n    sys.exit(0)", "line 4: SystemExit: 0"),
    "hans": ("return torch.empty(2**28)[:300]", "line 3: out of memory, 0.5 GB are allowed"),
    "ida": ("return c_new / 0", "shape|NaN or Inf in 300 of 300 rows"),
    "jan": ("return z z", "^line 3: SyntaxError: invalid syntax"),
    "kim": (f"from closed_form import ridge\n    {GOOD}", "uses the reference's closed_form.py"),
    "lea": ("return c_new @ c", "line 3: RuntimeError: mat1 and mat2"),
}


def test_a_class_in_one_table(toy, capsys, monkeypatch, tmp_path):
    """Otherwise one file ends, stops or fakes the table of the others."""
    monkeypatch.setattr(scoreboard, "glyphs", lambda: both_ways(toy))
    monkeypatch.setattr(submissions, "launch", forked)
    monkeypatch.setattr(submissions, "MORE", 0.2)  # on a busy core a file needs a second to begin
    (tmp_path / "class").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for name, (body, _) in CLASS.items():
        head = (
            "import os, sys, time, torch\ndef translate(c, z, c_val, z_val, c_new, seconds):\n    "
        )
        body = body.replace("{SECRET}", str(secret))
        (tmp_path / "class" / f"{name}.py").write_text(head + body + "\n")
    files = sorted(map(str, (tmp_path / "class").glob("*.py")))
    table = tmp_path / "board.csv"
    scoreboard.main([*files, "--seconds", "0.3", "--memory", "0.5", "--csv", str(table)])

    rows = {row["name"]: row for row in csv.DictReader(table.open())}
    assert list(rows)[:2] == ["anna", "kim"] and len(rows) == len(CLASS)  # the best first
    for name, (_, told) in CLASS.items():
        score, notes = rows[name]["score"], rows[name]["notes"]
        assert re.search(told, notes) and "tests/" not in notes, (name, notes)
        assert (score != "") == (name in ("anna", "kim")), name
    out = capsys.readouterr().out
    assert all(re.search(rf"^{name} .*", out, re.M) for name in CLASS) and "0.9 0.9" not in out
    assert secret.read_text() == "mine"


# In place of exercise 3's test file, which takes seconds to be read: two of its tests, one other.
SMALL = """
import torch
from grading import grade, graded

e_c, e_0 = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 5.0]])

@graded("guide")
def test_three(impl):
    mistakes = {"this is diffusers' guidance_scale": 3 * e_c - 2 * e_0}
    grade(impl.guide(e_c, e_0, 3), 4 * e_c - 3 * e_0, mistakes)

@graded("guide")
def test_one(impl):
    grade(impl.guide(e_c, e_c, 1), e_c)

@graded("ddim_step")
def test_another_exercise(impl):
    impl.ddim_step
"""


def test_students_and_exercises(capsys, monkeypatch, tmp_path):
    """Otherwise a grade is of another exercise, or what stops pytest is a grade."""
    small = submissions.sources()
    small["tests/test_translator.py"] = SMALL.encode()
    monkeypatch.setattr(scoreboard, "sources", lambda: small)
    monkeypatch.setattr(submissions, "launch", forked)
    right = ANSWERS["ex03"]
    borrowed = "from ddim_translator import guide as theirs\ndef guide(*x):\n    return theirs(*x)"
    for name, text in {
        "=ben": right.replace("1.0 + omega", "1.0 * omega") + ANSWERS["ex02"],
        "carl": borrowed,
        "dora": "import os\ndef guide(e_c, e_0, omega):\n    print('2 of 2'); os._exit(0)",
        "emil": "def sigma():\n    return 1",
        "fay": "def guide(:",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    files = sorted(map(str, tmp_path.glob("*.py")))
    table = tmp_path / "marks.csv"
    scoreboard.main([*files, "--exercise", "ex03", "--seconds", "30", "--csv", str(table)])

    rows = {row["name"]: row for row in csv.DictReader(table.open())}
    grades = {name: (row["ex03"], row["ex03_of"]) for name, row in rows.items()}
    assert grades["'=ben"] == ("1", "2") and grades["emil"] == ("", "")
    assert grades["carl"][0] == grades["dora"][0] == grades["fay"][0] == "0"
    told = {name: row["ex03_told"] for name, row in rows.items()}
    assert "this is diffusers' guidance_scale" in told["'=ben"]
    assert "calls the reference's own guide" in told["carl"]
    assert "exit code 0" in told["dora"] and "SyntaxError" in told["fay"]
    out = capsys.readouterr().out
    assert "1 of 2" in re.search("^=ben.*", out, re.M)[0] and "2 of 2" not in out
    assert re.search(r"^emil +-$", out, re.M) and re.search("^dora +failed$", out, re.M)


def test_no_process_is_left(toy, monkeypatch, tmp_path):
    """Otherwise the children of a file that loops take the time of the next one."""
    monkeypatch.setattr(submissions, "MORE", -1.8)
    mine = tmp_path / "mine.py"
    mine.write_text("import os, time\nos.fork()\ntime.sleep(20)\n")
    started = []
    monkeypatch.setattr(submissions, "launch", lambda *a: started.append(forked(*a)) or started[0])
    questions = dict(zip(scoreboard.QUESTIONS, toy[:-1], strict=True))
    found = submissions.alone("translate", mine, 0.2, {}, questions=questions)
    assert found["why"].startswith("over time")
    time.sleep(0.1)
    states = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, group = path.read_text().rsplit(")")[-1].split()[:3]
            states += [state] * (group == str(started[0].pid))
    assert set(states) <= {"Z"}  # dead, and nobody has asked for it


def test_directions_do_not_meet(toy, monkeypatch, tmp_path):
    """Otherwise the queries of one direction, which are the other's targets, are remembered."""
    monkeypatch.setattr(submissions, "launch", forked)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "seen = []\n"
        "def translate(c, z, c_val, z_val, c_new, seconds):\n"
        "    seen.append(c_new)\n"
        "    return seen[0] if len(seen) > 1 else z[:len(c_new)]\n"
    )
    args = SimpleNamespace(seconds=5.0, memory=1.0)
    best = dict.fromkeys(both_ways(toy), 0.5)
    row = scoreboard.score(str(mine), both_ways(toy), best, {}, args)
    assert max(row["cosines"]) < 0.5


def test_results_are_quoted_right():
    """Otherwise the scoreboard shows other numbers for ours and mlp than RESULTS.md."""
    text = (Path(scoreboard.__file__).parent.parent / "RESULTS.md").read_text()
    for name, cosines in scoreboard.RESULTS.items():
        found = re.findall(rf"^\| \W*{name}\W[^|]*\| \W*([\d.]+)[^|]*\|", text, re.M)
        assert [float(x) for x in found[:2]] == list(cosines)
        # The exercise and its page say the mean of both directions.
        for file in ("ex13_open.py", "README.md"):
            told = (scoreboard.STUBS / file).read_text()
            assert f"{name} {sum(cosines) / 2:.3f}" in told, (name, file)


@pytest.mark.parametrize("name", ["missing.py", "empty.py", "no.such.module"])
def test_one_line_instead_of_a_traceback(name, tmp_path, monkeypatch):
    """Otherwise a wrong name, or a file without translate, ends in a traceback of ours."""
    (tmp_path / "empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        scoreboard.main([name])
    assert "\n" not in str(stop.value) and len(str(stop.value)) > 20
