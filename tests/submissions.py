"""
submissions.py: a student's file in a process of its own, with limits. Not a test by itself.

A file that somebody handed in may loop for ever, end Python, fill the memory, write to our files,
or print what looks like a result. None of this may stop the grading of the others, or look like an
answer. So scoreboard.py never imports such a file. It starts a process, which

    runs in an empty folder, beside a fresh copy of the reference, and may hold so much memory
    tells its result in a file, never on stdout: what a student prints is no result
    is killed, with all its children, when its time is over, and when it has ended

Map      alone              the parent's side: start, wait, kill, read the result
         main               the child's side: `translate` is asked, or pytest grades
         Watch              what the child opens: the reference's files, and files of others
         load               the module of a file
What is not noticed: a copy of the reference's text under another name; a process that begins a
session of its own (os.setsid); whatever a file does on purpose to the process that grades it, for
it is the same process. Code is run with your rights. Where that matters, use a container.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("*.py", "*.toml", "tables/*.py", "tests/*.py", "theory/*.py", "assignments/*.py")
START = 120.0  # seconds in which Python, torch and the data have to be there
GRACE = 2.0  # seconds, for a last step that was begun in time
MORE = 28.0  # ... and for what is not the answer: the file's imports, writing the result


class Broken(Exception):
    """A file that cannot be loaded: one line that says why."""


# --------------------------------------------------------------------------------------------------
# The parent's side


def alone(job, file, seconds, reference, words=(), gigabytes=4.0, questions=None, shown=False):
    """What a process said that has run `main` with `file`: a dictionary.

    job        "translate" (questions: {name: tensor}) or "pytest" (words: graded names, arguments)
    reference  `sources` of the reference, of which every process gets a copy of its own
    "why"      "" if there is a result, else one line
    "told"     lines about what else it did: files, programs, the reference's functions
    "answer"   translate: an array or None; "used": its seconds
    "passed"   pytest: so many of "of" tests"""
    with tempfile.TemporaryDirectory() as folder:
        private, scratch, copy = (
            Path(folder, name) for name in ("private", "scratch", "reference")
        )
        for path in (private, scratch):
            path.mkdir()
        write_sources(copy, reference)
        if questions:
            np.savez(private / "questions.npz", **{k: v.numpy() for k, v in questions.items()})

        # The process leads a group of its own, so that its children can be killed with it.
        paths = [str(path) for path in (private, copy, ROOT, file)]
        argv = [job, *paths, str(gigabytes), str(seconds), *words]
        process = launch(argv, copy, scratch, private, shown)
        why = wait(process, private / "begun", seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

        end = ended(process)
        result = read_result(private, why or end)
        other = changed(reference, sources(copy))
        result["told"] += left_in(scratch)
    # Whoever changes what grades has no result.
    if other:
        result["why"] = f"changes its copy of the reference: {', '.join(other[:3])}"
    return result


def sources(root=ROOT):
    """{name: bytes} of the reference's code."""
    paths = [path for pattern in COPIED for path in sorted(root.glob(pattern))]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def write_sources(copy, files):
    for name, content in files.items():
        path = copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def launch(argv, copy, scratch, private, shown):
    """Start `main(argv)` of the copy. shown: a student alone may see what she prints."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch)}
    env["PYTHONPATH"] = str(copy)
    errors = open(private / "stderr", "w")
    return subprocess.Popen(
        [sys.executable, str(copy / "tests" / "submissions.py"), *argv],
        cwd=scratch,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=None if shown else subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )


def wait(process, begun, seconds):
    """Why it was given up, or "" if it has ended. The clock starts when the file is loaded."""
    start, first = time.monotonic(), None
    while process.poll() is None:
        now = time.monotonic()
        if first is None and begun.exists():
            first = now
        if first is None and now - start > START:
            return f"did not start within {START:g} s"
        if first is not None and now - first > seconds + GRACE + MORE:
            return f"over time: killed after {now - first:.0f} s, {seconds:g} are allowed"
        time.sleep(0.02)
    return ""


def ended(process):
    """Why there may be no result, by how the process has ended."""
    code = process.wait()
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    return f"ended without a result, exit code {code}: os._exit in the file?"


def read_result(private, why):
    """The child's result, or {"why": why}. Numbers only: nothing is unpickled."""
    result = {"why": why, "told": [], "answer": None, "used": 0.0, "passed": 0, "of": 0}
    if (private / "result.json").exists():
        result |= json.loads((private / "result.json").read_text())
        if (private / "answer.npy").exists():
            result["answer"] = np.load(private / "answer.npy", allow_pickle=False)
    elif (private / "stderr").exists():
        # pytest refuses a file before any test, and says why in one line.
        found = re.findall("^ERROR: (.*)$", (private / "stderr").read_text(errors="replace"), re.M)
        result["why"] = found[-1] if found else why
    return result


def changed(before, after):
    """Names of the files that are not the same in two `sources`, or in one of them only."""
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


def left_in(scratch):
    """A line about the files that it has left behind, or none."""
    left = sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*") if path.is_file())
    many = f"{len(left)} file{'s' * (len(left) > 1)}"
    return [f"leaves {many}: {', '.join(left[:3])}"] if left else []


# --------------------------------------------------------------------------------------------------
# A file


def file_of(name, here):
    """The path of "homework.py", "homework" or "assignments.ex13_open". Broken if there is none."""
    path = os.path.join(here, os.path.expanduser(name))
    for one in (path, path + ".py", path.replace(".", "/") + ".py"):
        if one.endswith(".py") and os.path.isfile(one):
            return os.path.abspath(one)
    raise Broken(f"{name}: there is no such file in {here}")


def load(name, here):
    """The module of a file, or of a name in `here` or on the path. Broken if there is none."""
    path = os.path.join(here, os.path.expanduser(name))
    if os.path.isfile(path + ".py"):
        path += ".py"
    sys.path += [here, os.path.dirname(path)]  # their helpers; ours come first
    try:
        if not path.endswith(".py"):
            return importlib.import_module(name)
        stem = "student_" + os.path.basename(path)[:-3]  # their train.py is not ours
        spec = importlib.util.spec_from_file_location(stem, path)
        module = sys.modules[stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as e:  # whatever a student's file may raise
        raise Broken(explain(e, path)) from None


def explain(error, path):
    """One line: where in the student's file, and what."""
    frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    line = error.lineno if isinstance(error, SyntaxError) else frames[-1] if frames else None
    at = f"line {line}: " if line else ""
    told = str(getattr(error, "msg", error)).splitlines()
    return f"{at}{type(error).__name__}: {told[0][:200] if told else ''}"


# --------------------------------------------------------------------------------------------------
# The child's side


def main(argv):
    """Do one job, and leave private/result.json, whole or not at all."""
    job, private, copy, home, file, gigabytes, seconds, *words = argv
    private = Path(private)
    import torch

    torch.optim.AdamW([torch.zeros(1)])  # the first one imports for seconds: before the clock
    limit_memory(float(gigabytes))
    if job == "translate":
        watch = Watch(file, os.getcwd(), (home, copy))
        result = translate(private, watch, float(seconds), float(gigabytes))
    else:
        result = grade(private, *words[:1], words[1:])
    (private / "half").write_text(json.dumps(result))
    os.replace(private / "half", private / "result.json")


def limit_memory(gigabytes):
    """So much more than now, for this process and each of its children (Linux)."""
    import resource

    # Libraries reserve much more than they use, so the limit counts from what is reserved now.
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def translate(private, watch, seconds, gigabytes):
    """{"why", "used", "told"}; the answer, float32, goes to private/answer.npy."""
    import torch

    with np.load(private / "questions.npz", allow_pickle=False) as found:
        tensors = [torch.from_numpy(found[name]) for name in found.files]
    why, used, z_hat, error = "", 0.0, None, None
    (private / "begun").touch()

    # From here on it is the student's code that runs. BaseException: sys.exit() is one, too.
    with watch:
        try:
            z_hat, used = ask(load(watch.file, os.getcwd()).translate, tensors, seconds)
        except BaseException as e:
            error = e
    if isinstance(error, NotImplementedError):
        why = f"NotImplementedError: write translate in {os.path.basename(watch.file)}"
    elif error:
        why = str(error) if isinstance(error, Broken) else explain(error, watch.file)
    if re.search("memory", why, re.I):
        why = re.sub(r"\w+Error.*", f"out of memory, {gigabytes:g} GB are allowed", why)
    if not why:
        z_hat, why = as_tensor(z_hat)
    if not why:
        np.save(private / "answer.npy", z_hat.numpy(), allow_pickle=False)
    return {"why": why, "used": used, "told": watch.told}


def ask(translate, tensors, seconds, clock=time.perf_counter):
    """(its z_hat, the seconds it took); tensors c, z, c_val, z_val, c_new."""
    start = clock()
    z_hat = translate(*tensors, seconds)
    return z_hat, clock() - start


def as_tensor(z_hat):
    """(float32 on the CPU, "") or (None, why not)."""
    import torch

    try:
        return torch.as_tensor(z_hat).detach().cpu().float().contiguous(), ""
    except (TypeError, ValueError, RuntimeError):
        return None, f"a {type(z_hat).__name__} and no tensor"


class Counter:
    """A plugin of pytest: how many of the graded tests pass, and what the student is told.

    names    the functions of one exercise: the tests of others in the same file do not count"""

    def __init__(self, names):
        self.names = set(names)
        self.result = {"passed": 0, "of": 0, "told": []}

    def pytest_collection_modifyitems(self, items):
        def graded(item):
            return {n.split(".")[-1] for mark in item.iter_markers("graded") for n in mark.args}

        items[:] = [item for item in items if graded(item) & self.names]

    def pytest_collection_finish(self, session):
        self.result["of"] = len(session.items)

    def pytest_runtest_logreport(self, report):
        self.result["passed"] += report.when == "call" and report.passed
        # "open", "look" and "stop" are what conftest.py tells of a failure; a number is no failure.
        told = [text for key, text in report.user_properties if key != "number"]
        self.result["told"] += [text for text in told if text not in self.result["told"]]


def grade(private, names, words):
    """Counter's result. No result where pytest has refused the file. names: "dbim,evaluations"."""
    import pytest

    counter = Counter(names.split(","))
    (private / "begun").touch()
    # Plugins of other packages, and two of pytest's own, would take a second of every file.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    extras = [f"-pno:{name}" for name in ("cacheprovider", "unraisableexception")]
    code = pytest.main([*words, *extras, "--basetemp", str(private / "tmp")], plugins=[counter])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(int(code))
    return {"why": "", **counter.result}


class Watch:
    """with Watch(file, scratch, roots): what is opened meanwhile is looked at; told says what.

    roots    where the reference lies. Its method files may be used, and that is told; its other
             files, its runs and its cache may not: they hold the test's targets, and answers
    scratch  the only folder to write to"""

    MAY_BE_USED = ("ddim_translator", "closed_form", "as_released", "metrics")
    MAY_BE_USED += ("latent_bridge", "bridge_networks")
    STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
    REMOVED = ("os.remove", "os.rename", "os.rmdir", "os.truncate", "os.chmod")

    def __init__(self, file, scratch, roots):
        self.roots = [os.path.realpath(root) for root in roots]
        self.file, self.scratch = os.path.realpath(file), os.path.realpath(scratch)
        self.told, self.on = [], False

    def __enter__(self):
        # Her own modules come first: her data.py is not ours. The reference comes last.
        others = [path for path in sys.path if os.path.realpath(path) not in self.roots]
        sys.path[:] = [os.path.dirname(self.file), *others, self.roots[-1]]
        self.on = True
        sys.addaudithook(self.hear)  # Python calls it for every open(), and it cannot be taken off
        return self

    def __exit__(self, *error):
        self.on = False

    def hear(self, event, args):
        if not self.on:
            return
        path = args[0] if event in ("open", *self.REMOVED) else None
        if isinstance(path, str | bytes):  # a number is a file that is open already
            path = os.path.realpath(os.fsdecode(path))
            self.opened(path, args[2] if event == "open" else os.O_WRONLY)
        elif event in self.STARTED:
            self.tell(f"starts a program ({event})")
        elif event == "socket.connect":
            self.refuse("opens a connection")

    def tell(self, line):
        if line not in self.told:
            self.told.append(line)

    def refuse(self, line):
        self.tell(line)
        raise PermissionError(f"{line}, which an answer may not")

    def opened(self, path, flags):
        """One file, by its real path."""
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and not inside(path, self.scratch) and not inside(path, "/dev"):
            self.refuse(f"changes {path}")
        for root in self.roots:
            if inside(path, root) and not self.own(path, root):
                self.looked_at(os.path.relpath(path, root))

    def own(self, path, root):
        """Whether it is the student's, or of an environment that lies in the reference's folder."""
        # Her helpers lie beside her file. A file in the reference's own folder, or above it, has
        # none there: all would be hers.
        home = os.path.dirname(self.file)
        helper = inside(path, home) and not inside(root, home)
        return path == self.file or helper or "site-packages" in path or inside(path, sys.prefix)

    def looked_at(self, name):
        if "__pycache__" in name:  # data.py is looked for in __pycache__/data.cpython-311.pyc first
            name = os.path.basename(name).split(".")[0] + ".py"
        if name.removesuffix(".py") in self.MAY_BE_USED:
            self.tell(f"uses the reference's {name}")
        else:
            self.refuse(f"opens the reference's {name}")


def inside(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


if __name__ == "__main__":
    # The folder of this file is no place for a student's imports, and the arguments are none of
    # her business. Ours are imported by then.
    arguments, sys.argv[1:] = sys.argv[1:], []
    if arguments[0] == "translate":
        del sys.path[0]
    main(arguments)
