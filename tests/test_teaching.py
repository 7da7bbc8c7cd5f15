"""
The papers of a course against the code: assignments/TEACHING.md, assignments/report.md, and the
errata in PAPERS.md. A teacher follows them word for word, in front of a class.
"""

import re
import shlex
from datetime import date

import pytest
import scoreboard
import test_docs
from grading import STUBS

ROOT = test_docs.ROOT
TEACHING = (ROOT / "assignments" / "TEACHING.md").read_text()
REPORT = (ROOT / "assignments" / "report.md").read_text()
ERRATA = test_docs.PAPERS.split("## Errata, dated")[1]
PLANS = re.split(r"^## Plan \d: ", TEACHING, flags=re.M)[1:]
COMMANDS = sorted(set(re.findall(r"(?:python|pytest) [^`\n]+", TEACHING + REPORT)))
PICTURES = "".join(
    (ROOT / name).read_text() for name in ("pictures.py", "evaluate_bridge.py", "train.py")
)


def minutes_of(stub):
    return int(re.search(r"(\d+) (?:minutes|a try)", stub.read_text())[1])


def test_a_lecture_ends_in_time():
    """Otherwise the parts of the plan are not what its headline says."""
    told = int(re.search(r"(\d+) minutes", PLANS[0])[1])
    assert sum(map(int, re.findall(r"^\| (\d+) \|", PLANS[0], re.M))) == told == 90


def test_minutes_are_those_of_the_exercises():
    """Otherwise a week of homework is longer than the plan says."""
    for number, file, minutes in re.findall(r"\[(\d+)\]\((ex\w+\.py)\) \((\d+)", PLANS[1]):
        stub = STUBS[int(number) - 1]
        assert (file, int(minutes)) == (stub.name, minutes_of(stub))
    weeks = re.findall(r"^\| [123] \|.*$", PLANS[1], re.M)
    sums = [sum(map(int, re.findall(r"\) \((\d+)", week))) for week in weeks]
    told = re.search(r"1 is (\d+) minutes.*2 is (\d+), week 3 is (\d+) and (\d+) more", PLANS[1])
    one, two, three, more = map(int, told.groups())
    assert sums == [one, two, three + more]


def test_source_that_is_shown_exists():
    """Otherwise a teacher looks for a function in front of a class."""
    cited = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", TEACHING)
    for file, names in cited:
        text = (ROOT / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"^ *(?:def|class) {part}\b", text, re.M), (file, name)
    assert len(cited) >= 10


def test_pictures_exist():
    """Otherwise a slide is empty, or a placeholder waits for a picture that nobody draws."""
    for name in re.findall(r"figures/[\w-]+\.png", TEACHING):
        assert (ROOT / name).exists(), name
    for stem in re.findall(r"RUN/([\w-]+)\.png", REPORT):
        assert re.search(rf"[\"/ ]{stem}\b", PICTURES), stem


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line):
    """Otherwise a command of the plan stops with usage."""
    words = shlex.split(line)
    if words[0] == "pytest":
        assert (ROOT / words[1]).exists() and (ROOT / words[3].replace(".", "/")).parent.exists()
    elif words[1] == "tests/scoreboard.py":
        scoreboard.parse(words[2:])
    elif words[1] != "-c":
        assert (ROOT / words[1]).exists(), words[1]
        test_docs.parse_command(words[1], words[2:])


def test_every_placeholder_names_its_command():
    """Otherwise a student does not know what makes a table of the report."""
    places = re.findall(r"\[((?:table|figure)[^\]]*)\]", REPORT)
    assert len(places) >= 10 and all(re.search(r"by `python ", place) for place in places)


def test_marks():
    """Otherwise an exercise has no points, or others than the rule gives."""
    rows = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (\d+) \| (\d+) \+ (\d+) \|", TEACHING, re.M)
    assert [(int(n), file) for n, file, *_ in rows] == [
        (n, stub.name) for n, stub in enumerate(STUBS, 1)
    ]
    for stub, (*_, points, tests, words) in zip(STUBS, rows, strict=True):
        level = int(re.search(r"level (\d)", stub.read_text())[1])
        assert int(points) == 2 * level + 2 == int(tests) + int(words)
        assert int(tests) == round(2 / 3 * int(points))


def test_grading_is_as_fast_as_told():
    """Otherwise the column is empty, or a class waits longer than the page of exercises says."""
    times = re.findall(r"^\| \[\d+\].*\| (\d+) \|$", TEACHING, re.M)
    assert len(times) == len(STUBS) and all(0 < int(seconds) < 20 for seconds in times)


def test_errata_are_dated_and_checked():
    """Otherwise an erratum has no date, or is checked by a test that is gone."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for table in ERRATA.split("\nOur own")[:2]:
        rows = re.findall(r"^\| (\d{4}-\d\d-\d\d) \|(.*)\|$", table, re.M)
        days = [date.fromisoformat(day) for day, _ in rows]
        assert days == sorted(days) and len(rows) >= 9
        for _, cells in rows:
            assert re.search(r"test_|planted|its two commands", cells.split(" | ")[-1]), cells
    for name in re.findall(r"`(test_\w+)`", ERRATA):
        assert f"def {name}(" in tests, name
    for file in re.findall(r"`(tests/\w+\.py)`", ERRATA):
        assert (ROOT / file).exists(), file
    for key in re.findall(r"\(([LPGS]\d+)[,)]", ERRATA):
        assert re.search(rf"^\| {key} \|", (ROOT / "theory" / "README.md").read_text(), re.M), key
