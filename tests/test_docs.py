"""The documents against the code: equation tags, stars, commands, files; the planted bugs."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from grading import STUBS
from test_assignments import header

import evaluate
import evaluate_bridge
import train
import train_bridge
from tables import (
    captioning,
    choices,
    encoder_pairs,
    lddbm,
    released,
    small_clip,
    text_to_image,
    training_seeds,
)

ROOT = Path(train.__file__).parent
README, RESULTS, PAPERS, ASSIGNMENTS = (
    (ROOT / name).read_text()
    for name in ("README.md", "RESULTS.md", "PAPERS.md", "assignments/README.md")
)
EVERY = {"README": README, "RESULTS": RESULTS, "PAPERS": PAPERS, "ASSIGNMENTS": ASSIGNMENTS}
TAG = re.compile(r"# ((?:MT|DDIM) Eq\. \d+\*?|(?:LD|DDBM|DBIM) [\w ]+\*?)$", re.M)
PARSERS = {
    "train.py": train.parse,
    "train_bridge.py": train_bridge.parse,
    "evaluate.py": evaluate.parse,
    "evaluate_bridge.py": evaluate_bridge.parse,
    "tables/captioning.py": captioning.parse,
    "tables/text_to_image.py": text_to_image.parse,
}
TABLES = {  # the names that reproduce.py hands on
    "captioning": captioning.parse,
    "text-to-image": text_to_image.parse,
    "encoder-pairs": encoder_pairs.parse,
    "small-clip": small_clip.parse,
    "training-seeds": training_seeds.parse,
    "choices": choices.parse,
    "as-released": released.parse,
}


def code_tags():
    """{tag: [files]} of the tags that end a line of code."""
    found = {}
    for path in sorted(ROOT.glob("*.py")):
        for tag in TAG.findall(path.read_text()):
            found.setdefault(tag, []).append(path.name)
    return found


def equation_rows():
    """{tag: file} of the table "From paper to code"."""
    section = PAPERS.split("## From paper to code")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ((?:MT|LD|DDIM|DDBM|DBIM) [^|]*?) \|[^|]*\| `([\w.]+)`", section, re.M)
    return dict(rows)


def test_tags_equal_the_table():
    """Otherwise a reader looks for an equation where it is not, or an equation has no place."""
    tags = code_tags()
    assert {t: f[0] for t, f in tags.items()} == equation_rows()
    assert {t: len(f) for t, f in tags.items() if len(f) > 1} == {}


def test_every_star_is_explained():
    """Otherwise the code differs from the paper and nobody says so."""
    section = PAPERS.split("## Differences from the papers")[1].split("\n## ")[0]
    starred = {t for t in code_tags() if t.endswith("*")}
    named = set(re.findall(r"((?:MT|DDIM) Eq\. \d+\*|LD L_\w+\*)", section))
    assert starred == named
    numbers = re.findall(r"^\| D(\d+) \|", section, re.M)
    assert numbers == [str(n + 1) for n in range(len(numbers))]


def commands():
    """Every command line of a document that starts one of our scripts."""
    for text in EVERY.values():
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.S):
            for line in block.splitlines():
                line = line.split(" # ")[0].strip()
                if re.search(r"(python|torchrun).* [\w/]+\.py", line):
                    yield line
    checks = README.split("## When it does not learn\n")[1].split("\n## ")[0]
    yield from re.findall(r"^\d\. .*?`(python [^`]+)`", checks, re.M)


def parse_command(script, words):
    """Hand the words to the parser of that script; those without one take anything."""
    if script == "reproduce.py" and words and words[0].startswith("lddbm"):
        lddbm.parse(words)
    elif script == "reproduce.py" and words and words[0] in TABLES:
        TABLES[words[0]](words[1:])
    elif script in PARSERS:
        PARSERS[script](words)


@pytest.mark.parametrize("line", list(dict.fromkeys(commands())))
def test_commands_parse(line):
    """Otherwise a document names a flag that is gone, and a reader's first command fails."""
    words = shlex.split(line.split("&&")[-1])
    at = next(i for i, w in enumerate(words) if w.endswith(".py"))
    assert (ROOT / words[at]).exists()
    parse_command(words[at], words[at + 1 :])


@pytest.mark.parametrize("name", list(EVERY))
def test_named_files_exist(name):
    """Otherwise a document points at a file or a picture that is not there."""
    text, home = EVERY[name], ROOT / ("assignments" if name == "ASSIGNMENTS" else "")
    for file in re.findall(r"python ((?:[\w-]+/)*[\w-]+\.py)", text):
        assert (ROOT / file).exists(), file
    for file in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (home / file).exists(), file
    for word in ("/work", "/root", "/tmp", "/mnt"):
        assert word not in text


def test_readme_is_one_page_and_names_every_file():
    """Otherwise the first page grows again, or a file has no place in the reading order."""
    assert len(README.splitlines()) <= 220
    names = {path.name for path in ROOT.glob("*.py")}
    assert names - set(re.findall(r"`(\w+\.py)`", README)) == set()


@pytest.mark.parametrize("name", ["lemma1", "proposition1", "gamma", "sampling"])
def test_theory_table(name):
    """Otherwise theory/README.md gives another verdict than the script, or names a lost test."""
    text = (ROOT / "theory" / "README.md").read_text()
    section = text.split(f": `{name}.py`\n")[1].split("\n## ")[0]
    row = r"^\| ([LPGS]\d+) \|.*\| (holds|fails|needs a condition) \|.*\| `(\w+)` \|$"
    rows = re.findall(row, section, re.M)
    module = importlib.import_module(f"test_{name}")
    assert {key: verdict for key, verdict, _ in rows} == module.VERDICTS
    assert [test for *_, test in rows if not hasattr(module, test)] == []
    assert (ROOT / "figures" / f"theory-{name}.png").exists()
    every = re.findall(row, text, re.M)
    proved = [verdict for key, verdict, _ in every if key[0] in "LP"]
    more = [verdict for key, verdict, _ in every if key[0] in "GS"]
    told = r"(\d+) statements of Lemma 1, Proposition 1 and their proofs: (\d+) need\D+ (\d+) fail"
    told += r"\. (\d+) more \D+: (\d+) holds, (\d+) need\D+ (\d+) fail"
    told = re.search(told, " ".join(README.split())).groups()
    words = ("needs a condition", "fails")
    counts = [len(proved), *map(proved.count, words)]
    counts += [len(more), more.count("holds"), *map(more.count, words)]
    assert [int(n) for n in told] == counts


def test_assignments_table():
    """Otherwise the table sets an exercise with another command, level or number than its stub."""
    section = ASSIGNMENTS
    rows = [r for r in section.splitlines() if r.startswith("| [")]
    for n, (row, stub) in enumerate(zip(rows, STUBS, strict=True), 1):
        text, line = stub.read_text(), lambda word, stub=stub: header(stub, word).split(" (")[0]
        level, minutes = re.search(
            rf"^Exercise {n}\b.* level (\d), (\d+) minutes", text, re.M
        ).groups()
        link, _, tags, *rest = (cell.strip() for cell in row.strip("|").split("|"))
        assert link == f"[{n}]({stub.name})" and stub.name.startswith(f"ex{n:02}_")
        told = [level, minutes, "`" + line("Grade").removeprefix("pytest ") + "`", line("Expect")]
        assert [cell.removesuffix(" a try") for cell in rest] == told
        assert all(tag in equation_rows() or tag == "MT 4.2" for tag in tags.split(", "))
        assert f"--impl assignments.{stub.stem}" in line("Grade") and "\nExplain  " in text


@pytest.mark.slow
def test_planted_bugs_are_caught():
    """Otherwise a test has lost its teeth."""
    line = [sys.executable, str(ROOT / "tests" / "mutants.py")]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_ci_finds_the_test_command():
    """Otherwise .ci/run, which runs README's own command, ends before the first test."""
    part = (ROOT / "README.md").read_text().split("\n## Run the tests\n")[1].split("\n## ")[0]
    assert len([line for line in part.splitlines() if line.endswith("&& pytest")]) == 1
