"""
scoreboard.py: scores of exercise 13 on held-out glyphs, and the grades of a class. Not a test.

    python tests/scoreboard.py homework.py                   exercise 13, in full: four minutes
    python tests/scoreboard.py homework.py --seconds 10      a quick look
    python tests/scoreboard.py class/*.py --csv board.csv    one table, the best first
    python tests/scoreboard.py class/*.py --exercise ex02,ex14     students x exercises; or all

Every file runs in a process of its own with a time limit (submissions.py): whatever one of them
does, the others get their line.

The score  The latents of train.py's default run: its data, split, encoders and cache. translate is
           called once a direction, each in a new process, which is shown no test target: the
           queries of one direction are the targets of the other. Mean of the two cosines.
Exercises  The command in the exercise's own header, on each file: "5 of 9" tests pass.
"""

import argparse
import ast
import csv
import os
import re
import shlex
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch
from submissions import GRACE, Broken, alone, as_tensor, changed, file_of, sources

import data
import latents
import metrics
import runs

RESULTS = {"ours": (0.651, 0.673), "mlp": (0.648, 0.662)}  # its tables: text->image, image->text
STUBS = Path(__file__).resolve().parent.parent / "assignments"
QUESTIONS = ("c", "z", "c_val", "z_val", "c_new")


def glyphs():
    """{direction: (c, z, c_val, z_val, c_new, z_new)}, float32; 2,319 test pairs are the last."""
    import train

    args = train.parse([])
    found = runs.load_latents(args, "cpu", 0, 1)
    test = data.load(args.dataset, args.data_dir, "test")
    encoders = found.encoders["image"], found.encoders["text"]
    sets = [found.train, found.val, latents.encode_split(test, *encoders, args.cache_dir)]
    return {d: [x for s in sets for x in s.of(d, s.full)] for d in latents.DIRECTIONS}


# --------------------------------------------------------------------------------------------------
# One answer


def judge(z_hat, z, ridge, used, seconds):
    """(cosine, what is to be said of it or ""); the cosine is None if it does not count.

    z_hat is anything, z (N, h2) the truth, ridge the cosine that ridge has."""
    z_hat, why = as_tensor(z_hat)
    if why:
        return None, why
    if z_hat.shape != z.shape:
        return None, f"shape {tuple(z_hat.shape)}, it should be {tuple(z.shape)}"
    if not z_hat.isfinite().all():
        return None, f"NaN or Inf in {(~z_hat.isfinite()).any(1).sum()} of {len(z)} rows"
    if used > seconds + GRACE:
        return None, f"over time: {used:.1f} s where {seconds:g} are allowed"
    cosine, unit = metrics.cosine(z_hat, z), torch.nn.functional.normalize
    if (z_hat - z_hat[0]).abs().max() <= 1e-4 * z_hat.abs().max():
        return cosine, "the constant: one answer to every query"
    others = (unit(z_hat).mean(0) @ unit(z).mean(0)).item()  # the mean of all N^2 cosines
    if abs(cosine - others) < 1.5 / len(z) ** 0.5:  # four standard errors, about
        return cosine, "as near to others' targets as to its own: are the rows in another order?"
    if abs(cosine - ridge) < 0.005:
        return cosine, "this is ridge's score: the best that is linear in c"
    return cosine, f"below ridge, {ridge:.3f}" if cosine < ridge else ""


def without_running(file, names=("translate",)):
    """Whether a file may define one of names, by its text alone. Broken where it is no Python."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError) as e:
        line = f"line {e.lineno}: " if getattr(e, "lineno", None) else ""
        raise Broken(f"{line}{type(e).__name__}: {getattr(e, 'msg', e)}") from None
    # `def translate`, `translate = ...` and `import translate` have the name; a star may bring it.
    kinds = ("name", "asname", "id")
    found = {getattr(one, kind, None) for one in ast.walk(tree) for kind in kinds}
    return bool(found & {*names, "*"})


def score(file, latents, ridge, reference, args, shown=False):
    """{"cosines": [one a direction, or None], "notes": [lines], "used": [seconds]} of a file."""
    row, told = {"cosines": [], "notes": [], "used": []}, {}
    try:
        why = "" if without_running(file) else "there is no translate in it"
    except Broken as error:
        why = str(error)
    if why:
        return {"cosines": [None] * len(latents), "notes": [why], "used": []}
    for direction, (*asked, z_new) in latents.items():
        # Once it has failed, its second try would only cost the class another time limit.
        if None in row["cosines"]:
            row["cosines"].append(None)
            continue
        questions = dict(zip(QUESTIONS, asked, strict=True))
        found = alone("translate", file, args.seconds, reference, (), args.memory, questions, shown)
        cosine, word = None, found["why"]
        if not word:
            best, used = ridge[direction], found["used"]
            cosine, word = judge(found["answer"], z_new, best, used, args.seconds)
        row["cosines"].append(cosine)
        row["used"].append(found["used"])
        # Why it failed, and what else it did; not twice, where the one is the other.
        for line in [word, *(line for line in found["told"] if line not in word)]:
            told.setdefault(line, []).append(direction)
    for line, where in told.items():
        both = len(where) == len(latents)
        row["notes"] += [line if both else f"{where[0]}: {line}"] * bool(line)
    return row


def mean_of(cosines):
    """The score: None, if one direction does not count."""
    return None if None in cosines else sum(cosines) / len(cosines)


# --------------------------------------------------------------------------------------------------
# The table of exercise 13


def show(name, cosines, note="", width=14):
    told = "".join(f"{'-' if x is None else f'{x:.3f}':>13}" for x in [*cosines, mean_of(cosines)])
    print(f"{name:{width}}{told}  {note}".rstrip(), flush=True)


def board(files, latents, reference, args):
    """Prints the table; latents as of `glyphs`. -> its rows, [(name, row of `score`)]."""
    from baselines import ridge

    mean, best = {}, {}
    for direction, (c, z, c_val, z_val, c_new, z_new) in latents.items():
        mean[direction] = metrics.cosine(z.mean(0).expand_as(z_new), z_new)
        best[direction] = metrics.cosine(ridge([(c, z)], c_val, z_val)(c_new), z_new)
    rows = []
    for n, (name, file) in enumerate(files.items(), 1):
        if len(files) > 1:
            print(f"{n} of {len(files)}: {name} ...", file=sys.stderr, flush=True)
        rows.append((name, score(file, latents, best, reference, args, len(files) == 1)))

    # The best first; what does not count comes last.
    def place(row):
        score = mean_of(row[1]["cosines"])
        return -2.0 if score is None else score  # a cosine is at least -1

    rows.sort(key=place, reverse=True)
    width = max(14, *(len(name) + 2 for name, _ in rows))
    pairs = len(next(iter(latents.values()))[-1])
    print(f"cosine on {pairs:,} pairs of characters that were not seen in training\n")
    print(f"{'':{width}}" + "".join(f"{name:>13}" for name in (*latents, "score")))
    show("mean", mean.values(), "", width)
    show("ridge", best.values(), "", width)
    for name, cosines in RESULTS.items():
        show(name, cosines, "by RESULTS.md, not run here", width)
    for name, row in rows if len(files) > 1 else [("yours", rows[0][1])]:
        used = ", ".join(f"{x:.0f} s" for x in row["used"])
        show(name, row["cosines"], used if len(files) == 1 else "; ".join(row["notes"]), width)
    for line in rows[0][1]["notes"] if len(files) == 1 else []:
        print(line)
    return rows


def score_cells(rows, directions):
    """The table for --csv: a list of rows of cells."""
    cells = [["name", *directions, "score", "notes"]]
    for name, row in rows:
        numbers = [*row["cosines"], mean_of(row["cosines"])]
        written = ["" if x is None else f"{x:.4f}" for x in numbers]
        cells.append([name, *written, "; ".join(row["notes"])])
    return cells


# --------------------------------------------------------------------------------------------------
# The table of exercises


def stubs_of(words):
    """[stub, ...] of "ex02,ex14" or "all". Broken where there is none."""
    every = sorted(STUBS.glob("ex*.py"))
    if words == "all":
        return every
    found = []
    for word in words.split(","):
        named = [stub for stub in every if stub.stem.split("_")[0] == word or stub.stem == word]
        if not named:
            known = ", ".join(stub.stem.split("_")[0] for stub in every)
            raise Broken(f"--exercise {word}: there are {known}")
        found += named
    return found


def grade(stub, file, reference, args):
    """(cell, passed, of, lines): the exercise's own command, with `file` as --impl."""
    text = stub.read_text()
    names = re.findall(r"^def (\w+)", text, re.M)
    try:
        if not without_running(file, names):  # not handed in for this exercise
            return "-", "", "", []
    except Broken as error:
        return "failed", 0, "", [str(error)]

    command = re.search(r"^Grade +pytest (.*)$", text, re.M)[1]
    tests, *words = shlex.split(command.replace(f"assignments.{stub.stem}", str(file)))
    tests = str(Path("..", "reference", tests))  # the copy beside the folder it runs in
    words = [",".join(names), tests, *words]
    found = alone("pytest", file, args.seconds, reference, words, args.memory)
    if not found["why"]:
        cell = f"{found['passed']} of {found['of']}"
        return cell, found["passed"], found["of"], found["told"]
    why = found["why"].removeprefix(f"--impl {file}: ")
    return "failed", 0, found["of"] or "", [why, *found["told"]]


def class_table(files, stubs, reference, args):
    """Prints students x exercises, and what each is told. -> the table for --csv."""
    names = [stub.stem.split("_")[0] for stub in stubs]
    width = max(len(name) + 2 for name in files)
    print(" " * width + "".join(f"{name:>10}" for name in names))
    head = [[name, f"{name}_of", f"{name}_told"] for name in names]
    cells, lines = [["name", *(x for three in head for x in three)]], []
    for name, file in files.items():
        print(f"{name:{width}}", end="", flush=True)
        cells.append([name])
        for stub, short in zip(stubs, names, strict=True):
            cell, passed, of, told = grade(stub, file, reference, args)
            print(f"{cell:>10}", end="", flush=True)
            cells[-1] += [passed, of, "; ".join(told)]
            lines += [f"{name}, {short}: {line}" for line in told]
        print(flush=True)
    print(*lines, sep="\n")
    return cells


def write_csv(path, cells):
    """cells, rows of cells, for a spreadsheet, which would compute a text that begins with "="."""
    with open(path, "w", newline="") as f:
        for row in cells:
            safe = [re.sub(r"^(?=[=+@-])(?!-?$)", "'", str(x)) for x in row]
            csv.writer(f).writerow(safe)
    print(f"\nwritten to {path}")


def names_of(paths):
    """{name: file}: the stem where no other file has it, else with its folder."""
    files = [file_of(path, os.getcwd()) for path in paths]
    stems = [Path(file).stem for file in files]
    found = {}
    for file, stem in zip(files, stems, strict=True):
        found[stem if stems.count(stem) == 1 else f"{Path(file).parent.name}/{stem}"] = file
    return found


def parse(argv=None):
    p = argparse.ArgumentParser(description="Scores and grades, every file in its own process.")
    p.add_argument("modules", nargs="+", help="files, or assignments.ex13_open")
    p.add_argument("--exercise", help="ex02,ex14 or all: grade these; else the score of ex13")
    p.add_argument("--seconds", type=float, help="for each direction (120), or exercise (60)")
    p.add_argument("--memory", type=float, default=4.0, help="GB a process may take (4; Linux)")
    p.add_argument("--csv", metavar="FILE", help="write the table to FILE, too")
    return p.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    try:
        files = names_of(args.modules)
        stubs = stubs_of(args.exercise) if args.exercise else []
        for name, file in files.items() if len(files) == 1 and not stubs else ():
            if not without_running(file):
                raise Broken(f"{name}: there is no function translate in {file}")
    except Broken as error:
        sys.exit(f"scoreboard.py: {error}")
    # One state of the reference grades the whole class.
    reference = sources()
    args.seconds = args.seconds or (60.0 if stubs else 120.0)
    if stubs:
        cells = class_table(files, stubs, reference, args)
    else:
        print("loading the latents ...", flush=True)
        found = glyphs()
        rows = board(files, found, reference, args)
        cells = score_cells(rows, found)
    if args.csv:
        write_csv(args.csv, cells)
    if other := changed(reference, sources()):
        print(f"\nmeanwhile files have changed here, see git diff: {', '.join(other[:5])}")
    if len(files) == 1 and not stubs and None in rows[0][1]["cosines"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
