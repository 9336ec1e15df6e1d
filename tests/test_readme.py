"""The README is true: its Python runs as it stands, its tables name every class."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae as pv

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_python_blocks_run(tmp_path: Path) -> None:
    assert len(BLOCKS) == 3
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


@pytest.mark.parametrize("room", ["priors", "likelihoods", "guides", "networks", "objectives"])
def test_tables_name_classes_that_exist(room: str) -> None:
    """Not all of them: a new class is one file and one test row; a row here when it is settled."""
    (table,) = re.findall(rf"^\| `{room}` \|.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    named = re.findall(r"^\| `(\w+)[`(]", table, re.MULTILINE)
    assert named and set(named) <= set(getattr(pv, room).__all__)


def test_commands_exist() -> None:
    for command in re.findall(r"^(?:\S*/)?pyrovae ([a-z]+)", README, re.MULTILINE):
        assert command in pv.cli.COMMANDS
