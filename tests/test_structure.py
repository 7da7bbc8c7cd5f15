"""
The house: which file may import which. Every script runs in a process of its own.

The floors are those of the README's reading order: an import that points up makes a circle sooner
or later, and a circle loads a script twice, once as `__main__` and once under its name.
"""

import ast
import runpy
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [  # a file may import from lower floors, and from earlier ones of its own
    ["errors", "safe_files"],
    [
        "metrics",
        "closed_form",
        "ddim_translator",
        "as_released",
        "bridge_networks",
        "glyphs",
        "glyph_rooms",
        "devices",
        "unpack",
        "official_archives",
    ],
    [
        "latent_bridge",
        "data_files",
        "fetch",
        "data_cc3m",
        "data_tables",
        "data_captions",
        "sounds",
        "glyph_sounds",
        "data_arrays",
        "data_nuscenes",
        "data_voxceleb",
        "data_pairs",
        "data_latents",
        "data",
    ],
    ["pretrained", "encoders", "latents"],
    ["checkpoints", "runs", "arguments"],
    ["baselines", "scores", "bridge_scores", "bridge_sounds", "pictures", "movies"],
    ["evaluate", "evaluate_bridge", "overfit"],
    ["train", "train_bridge"],
    ["walkthrough", "make_walkthrough"],
    ["tables.captioning", "tables.text_to_image", "tables.encoder_pairs", "tables.small_clip"],
    ["tables.released", "tables.training_seeds", "tables.choices"],
    ["tables.lddbm", "tables.bridge_seeds"],
    ["reproduce"],
]
ORDER = [name for floor in FLOORS for name in floor]
MOST_LINES = 520
DEMOS = ("ddim_translator", "latent_bridge")  # they take no flags and begin at once


def path_of(name):
    return ROOT / (name.replace(".", "/") + ".py")


def imports_of(name):
    """The files of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path_of(name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "tables":
            found |= {f"tables.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found & set(ORDER)


def test_every_file_has_a_floor():
    """Otherwise a new file is outside of the rule."""
    files = [path.stem for path in ROOT.glob("*.py")]
    files += [f"tables.{path.stem}" for path in (ROOT / "tables").glob("*.py")]
    assert sorted(files) == sorted(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_down(name):
    """Otherwise two files need each other, and neither can be read first."""
    above = set(ORDER[ORDER.index(name) :])
    assert imports_of(name) & above == set()


def test_theory_imports_nothing_above_runs():
    """Otherwise checking a theorem loads the tables."""
    allowed = set(ORDER[: ORDER.index("pictures") + 1])
    for path in (ROOT / "theory").glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in ORDER:
                assert node.module in allowed, path.name


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.py"), *ROOT.glob("t*/*.py")]), ids=str)
def test_files_can_be_read_in_one_sitting(path):
    """Otherwise a file has become two."""
    if path.parent.name != "tests":
        assert len(path.read_text().splitlines()) <= MOST_LINES


def ours():
    """{name: file} of what is loaded and ours, and not from an environment inside the folder."""
    files = {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())}
    inside = {n: f for n, f in files.items() if f and f.startswith(str(ROOT) + "/")}
    return {n: f for n, f in inside.items() if "site-packages" not in f}


def load_once(script):
    """Run a script with --help, as in a fresh interpreter that has only what others wrote."""
    for name in ours():
        if name != "__main__":
            del sys.modules[name]
    sys.path.insert(0, str(ROOT))
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        assert stop.code in (0, None), stop.code
    mains = ("__main__", "__mp_main__")  # the script itself; multiprocessing has a second name
    files = [file for name, file in ours().items() if name not in mains]
    assert script not in files, script + " was loaded again under its name"
    assert len(files) == len(set(files)), files


SCRIPTS = [n for n in ORDER if '__name__ == "__main__"' in path_of(n).read_text()]


def test_no_script_is_loaded_twice(tmp_path):
    """Otherwise there are two RunErrors, and `except RunError` does not catch the other one."""
    scripts = [str(path_of(name)) for name in SCRIPTS if name not in DEMOS]
    for script in scripts:
        child = processes.start(lambda script=script: load_once(script), tmp_path / "said")
        assert processes.end(child) == 0, (tmp_path / "said").read_text()[-2000:]
    assert (tmp_path / "said").read_text().count("usage") == len(scripts) >= 10
