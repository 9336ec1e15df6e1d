"""The README is true: its Python runs as it stands, its tables name every class."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run(tmp_path: Path) -> None:
    assert len(BLOCKS) == 6
    program = "\n".join(BLOCKS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "ELBO" in done.stdout


@pytest.mark.parametrize(
    "room", ["priors", "likelihoods", "guides", "networks", "objectives", "programs"]
)
def test_tables_name_classes_that_exist(room: str) -> None:
    """Not all of them: a new class is one file and one test row; a row here when it is settled."""
    (table,) = re.findall(rf"^\| `{room}` \|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    named = re.findall(r"^\| `(\w+)[`(]", table, re.MULTILINE)
    assert named and set(named) <= set(getattr(pv, room).__all__)


def test_commands_exist() -> None:
    for command in re.findall(r"^(?:\S*/)?pyrovae ([a-z]+)", README, re.MULTILINE):
        assert command in pv.cli.COMMANDS


ADDED = {  # what a diff adds, where, and how many tests its row inherits
    "Gumbel": ("priors", ["test_components", "test_latents", "test_cli"], 16),
    "Gamma": ("likelihoods", ["test_components", "test_likelihoods", "test_missing"], 9),
}


@pytest.mark.skipif(shutil.which("patch") is None, reason="there is no patch command")
@pytest.mark.parametrize("name", ADDED)
def test_a_class_is_added_as_contributing_says(name: str, tmp_path: Path) -> None:
    """Its diff, applied to a copy: one source file, one test row, and all tests of the row pass."""
    top = Path(__file__).parents[1]
    diffs = re.findall(r"```diff\n(.*?)```", (top / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (diff,) = (diff for diff in diffs if f"+class {name}(" in diff)
    room, tests, least = ADDED[name]
    assert re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE) == [
        f"pyrovae/{room}.py",
        "tests/test_components.py",
    ]
    for folder in ("pyrovae", "tests"):
        shutil.copytree(top / folder, tmp_path / folder)
    shutil.copy(top / "pyproject.toml", tmp_path)
    subprocess.run(["patch", "-p1", "--fuzz=0"], input=diff, text=True, cwd=tmp_path, check=True)
    files = [f"tests/{test}.py" for test in tests]
    chosen = ["-k", f"{name} and not every_likelihood", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files, f"pyrovae/{room}.py", *chosen],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= least
