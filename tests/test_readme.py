"""README and pages are true: their Python runs as it stands, their tables name what is there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv

TOP = Path(__file__).parents[1]
README = (TOP / "README.md").read_text()
PAGES = {
    path.stem: path.read_text() for path in sorted((TOP / "tutorials/site/pages").glob("*.md"))
}
PROGRAMS = {
    name: "\n".join(blocks)
    for name, text in {"README": README, **PAGES}.items()
    if (blocks := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
PATH = [str(TOP), str(TOP / "tests/fakes"), os.environ.get("PYTHONPATH", "")]
ROOMS = ["priors", "likelihoods", "guides", "networks", "objectives", "schedules", "programs"]


def test_a_newcomer_reads_it_in_one_go() -> None:
    assert len(README.splitlines()) <= 250
    assert set(re.findall(r"tutorials/site/pages/(\w+)\.md", README)) == {*PAGES} - {"notation"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_python_blocks_run(name: str, tmp_path: Path) -> None:
    """Each page by itself, in an empty folder."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[name]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATH)},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ROOMS)
def test_tables_name_classes_that_exist(room: str) -> None:
    """Not all of them: a new class is one file and one test row; here once it is settled."""
    (row,) = re.findall(rf"^\| `{room}` \| (.*) \|$", README, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row))
    assert named and named <= set(getattr(pv, room).__all__)


@pytest.mark.parametrize("repository", ["https://example.org/vae", None])
def test_a_package_index_shows_no_broken_link(repository: str | None) -> None:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("readme", TOP / ".ci/readme.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = made.absolute(README, repository)
    links = re.findall(r"!?\[[^\]]*\]\(([^)]+)\)", text)
    assert all(link.startswith(("https://", "#")) for link in links)
    assert len(links) > 20 or not repository
    assert ("https://example.org/vae/raw/main/tutorials/figures/" in text) == bool(repository)


def test_commands_exist() -> None:
    said = "\n".join([README, *PAGES.values()])
    for command in re.findall(r"^(?:\S*/)?pyrovae ([a-z]+)", said, re.MULTILINE):
        assert command in pv.cli.COMMANDS


ADDED = {  # what a diff adds, where, and how many tests its row inherits
    "Gumbel": ("priors", ["test_components", "test_latents", "test_cli"], 16),
    "Gamma": ("likelihoods", ["test_components", "test_likelihoods", "test_missing"], 9),
}


@pytest.mark.skipif(shutil.which("patch") is None, reason="there is no patch command")
@pytest.mark.parametrize("name", ADDED)
def test_a_class_is_added_as_contributing_says(name: str, tmp_path: Path) -> None:
    """Its diff, applied to a copy: one source file, one test row, and all tests of the row pass."""
    diffs = re.findall(r"```diff\n(.*?)```", (TOP / "CONTRIBUTING.md").read_text(), re.DOTALL)
    (diff,) = (diff for diff in diffs if f"+class {name}(" in diff)
    room, tests, least = ADDED[name]
    assert re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE) == [
        f"pyrovae/{room}.py",
        "tests/test_components.py",
    ]
    for folder in ("pyrovae", "tests"):
        shutil.copytree(TOP / folder, tmp_path / folder)
    shutil.copy(TOP / "pyproject.toml", tmp_path)
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
