"""
conftest.py: pytest --impl MODULE runs the tests that grade MODULE's functions, and only these.

While such a test runs, the functions that it names in @graded(...) are the student's, wherever the
reference calls them; all else, and what the student's module lacks, is the reference's.
MODULE is a name on the path (assignments.ex02_ddim_step) or a file; `--impl` alone takes every
exercise in assignments/. Nothing of the student's is written to.
"""

import functools
import inspect
import os
import re
import sys
from types import SimpleNamespace

import pytest
import submissions
import torch
from grading import STUBS, Mistake

import closed_form
import ddim_translator
import devices
import glyphs
import latent_bridge
import metrics

REFERENCE = (ddim_translator, closed_form, latent_bridge, metrics)
STUDENT = pytest.StashKey()  # {name: function} of the student, empty without --impl
LACKS = pytest.StashKey()  # a line for each exercise that is not in the student's file as a whole
FILES = set()  # the student's


def pytest_addoption(parser):
    told = "grade MODULE's functions in place of the reference's; alone: all of assignments/"
    parser.addoption("--impl", nargs="?", const="", metavar="MODULE", help=told)


def pytest_configure(config):
    torch.set_num_threads(1)  # the tests' tensors are small: a second thread would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the processes that they start, too
    name = config.getoption("impl")
    config.stash[STUDENT] = {} if name is None else functions(name, config.invocation_params.dir)
    if name is not None:  # the last lines are ours
        config.option.reportchars = config.option.reportchars.replace("fE", "")
        config.option.tbstyle = config.option.tbstyle.replace("auto", "short")


def functions(name, here):
    """{name: function} of what MODULE itself defines, or of all exercises if there is no name."""
    found = {}
    for one in [name] if name else map(str, STUBS):
        module = load(one, str(here))
        mine = lambda f, m=module: callable(f) and getattr(f, "__module__", "") == m.__name__
        found |= {k: f for k, f in vars(module).items() if mine(f)}
    return found


def load(name, here):
    """The module of a file, or of a name in `here` or on the path. UsageError if there is none."""
    try:
        module = submissions.load(name, here)
    except submissions.Broken as e:
        raise pytest.UsageError(f"--impl {name}: {e}") from None
    FILES.add(module.__file__)
    return module


def handed_on(*args, **kwargs):
    """What the reference's function does while a student's answer of this name is graded."""
    import sys  # it runs among the reference's names, which need not have these two

    from grading import Mistake

    name = sys._getframe().f_code.co_name
    raise Mistake(f"{name}: your answer calls the reference's own {name}: it is to be yours")


def forbid(old, short, monkeypatch):
    """Calling `old`, by whatever name it was imported, is told as what it is: no answer.

    Other names of it hold the same function, so its code is exchanged, not the function."""
    code = handed_on.__code__.replace(co_name=short)
    monkeypatch.setattr(inspect.unwrap(old), "__code__", code)


def names(item):
    return [name for mark in item.iter_markers("graded") for name in mark.args]


def shorts(item):
    """What the student has to call the functions that this test grades."""
    return [name.split(".")[-1] for name in names(item)]


def find(name):
    """(owner, short name, the reference's function or None) of "guide" or "Bridge.freeze"."""
    *path, short = name.split(".")
    for module in REFERENCE:
        owner = getattr(module, path[0], None) if path else module
        if hasattr(owner, short):
            return owner, short, getattr(owner, short)
    return None, short, None


def pytest_collection_modifyitems(config, items):
    """Under --impl, what grades the student; else, what grades functions that the reference has."""
    student, impl = config.stash[STUDENT], config.getoption("impl")
    if impl is None:
        wanted = lambda item: all(old for *_, old in map(find, names(item)))
    else:
        wanted = lambda item: not student.keys().isdisjoint(shorts(item))
        graded = {short for item in items for short in shorts(item)}
        config.stash[LACKS] = lacking(student, graded)
    keep, away = [], []
    for item in items:
        (keep if wanted(item) else away).append(item)
    if items and not keep and impl is not None:
        have, asked = (", ".join(sorted(x)) or "nothing" for x in (student, graded))
        told = f"it defines {have}, and these tests grade {asked}"
        raise pytest.UsageError(f"--impl {impl}: {told}")
    config.hook.pytest_deselected(items=away)
    items[:] = keep


def lacking(student, graded):
    """A line for each exercise of which the student has a part, and not all that is graded."""
    lines = []
    for stub in STUBS:
        asked = [n for n in re.findall(r"^def (\w+)", stub.read_text(), re.M) if n in graded]
        left = [name for name in asked if name not in student]
        if 0 < len(left) < len(asked):
            lines.append(f"not there, and not graded: {', '.join(left)} ({stub.name})")
    return lines


@pytest.fixture(autouse=True, scope="session")
def no_bf16_units():
    """A CPU without units for bf16 (AMX), so that every machine's tests compute the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "cpu_multiplies_bf16", lambda: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def characters_are_hashed_once():
    """Twelve typefaces have the same characters: without this, half a minute of SHA-256."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "uniforms", functools.cache(glyphs.uniforms))
        yield


@pytest.fixture(autouse=True)
def impl(request, monkeypatch):
    """impl.NAME: the functions that this test grades, the student's under --impl.

    impl.number(what, value, expected, within) is what the exercise's "Expect" line promises."""
    student, mine = request.config.stash[STUDENT], SimpleNamespace()
    for owner, short, old in map(find, names(request.node)):
        setattr(mine, short, student.get(short, old))
        if short in student and owner is not None:
            monkeypatch.setattr(owner, short, student[short])
            forbid(old, short, monkeypatch)
            for module in list(sys.modules.values()):  # `from ddim_translator import guide`
                if getattr(module, "__dict__", {}).get(short) is old:
                    monkeypatch.setattr(module, short, student[short])

    def number(what, value, expected, within):
        told = f"{what}: {value:.4g}, expected {expected:g} +- {within:g}"
        if not abs(value - expected) <= within:
            raise Mistake(told)
        request.node.user_properties.append(("number", told))

    mine.number = number
    return mine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A stub and a wrong answer are one line each, without the traceback. A crash keeps its own."""
    report = yield
    if item.config.getoption("impl") is None or not call.excinfo or report.skipped:
        return report
    error, short = call.excinfo.value, ", ".join(shorts(item))
    theirs = [entry for entry in call.excinfo.traceback if str(entry.path) in FILES]
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    at = theirs and os.path.relpath(str(theirs[-1].path), item.config.invocation_params.dir)
    if isinstance(error, Mistake):
        report.longrepr = str(error)
        key, told = "look", error if str(error).startswith(short) else f"{short}: {error}"
    elif isinstance(error, NotImplementedError) and theirs and not str(error):
        key, told = "open", f"NotImplementedError: write {theirs[-1].name} in {at}"
        report.longrepr = told
    elif theirs:
        key, told = "look", f"{at}, line {theirs[-1].lineno + 1}: {told}"
    else:
        key, told = "stop", f"{short}: with this answer a test stops: {told}"
    report.user_properties.append((key, str(told)))
    return report


def pytest_terminal_summary(terminalreporter, config):
    """Under --impl: how many graded tests pass, what to look at, and the exercise's numbers."""
    stats = terminalreporter.stats
    good, bad = stats.get("passed", []), stats.get("failed", []) + stats.get("error", [])
    if config.getoption("impl") is None or not good + bad:
        return
    terminalreporter.section(f"{len(good)} of {len(good) + len(bad)} graded tests pass")
    for key in ("open", "look", "stop", "number"):
        told = [text for r in good + bad for k, text in r.user_properties if k == key]
        for text in sorted(set(told)) if key == "open" else dict.fromkeys(told):
            terminalreporter.write_line(f"  {text}")
    for text in config.stash[LACKS]:
        terminalreporter.write_line(f"  {text}")
