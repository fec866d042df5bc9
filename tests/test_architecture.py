"""The arrows of import that docs and DESIGN promise, and what `--help` may cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {
    "bench",
    "cli",
    "conversion",
    "predict_i2v",
    "predict_t2v",
    "predictors",
    "sampling",
    "train",
    "training",
    "weights",
}
ALLOWED = {
    "weights": {"weights"},
    "conversion": {"conversion", "weights"},
    "predictors": {"predictors", "weights"},
    "predict_i2v.py": {"predictors"},
    "predict_t2v.py": {"predictors"},
    "train.py": {"training"},
    "bench": {"bench", "predictors", "weights"},
    "training": {"training", "conversion", "predictors", "weights"},
    "sampling": {"sampling", "conversion", "predictors", "weights"},
    "cli": OURS,
}
HEAVY = {
    "av",
    "cog",
    "diffusers",
    "numpy",
    "obstore",
    "pyarrow",
    "ray",
    "requests",
    "torch",
    "transformers",
}
SAYS_NOTHING = {"util", "utils", "helper", "helpers", "misc", "common", "manager", "managers"}


def sources(place):
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


@pytest.mark.parametrize("place", ALLOWED)
def test_imports_follow_the_arrows(place):
    files = sources(place)
    assert files
    for path in files:
        ours = {name.split(".")[0] for name in imported(path)} & OURS
        assert ours <= ALLOWED[place], f"{path} imports {ours - ALLOWED[place]}"


def test_names_say_what_is_inside():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert files
    parts = {Path(part).stem for file in files for part in Path(file).parts}
    assert not parts & SAYS_NOTHING


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["bench"],
        ["cache"],
        ["convert"],
        ["fetch"],
        ["plan"],
        ["predict"],
        ["push"],
        ["sample"],
        ["serve"],
        ["train"],
    ],
)
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys; from cli.main import main\n"
        "try: main(sys.argv[1:] + ['--help'])\n"
        "except SystemExit: pass\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *verb], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: cogvideox" in done.stdout
