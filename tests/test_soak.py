"""What many fits and evaluations leave behind in a process: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent / "benchmarks" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_work_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    words = ["--warm-up", "20", "--rounds", "40", "--rows", "2", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SOAK), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    first, *_, last = found["table"]
    assert (first["round"], last["round"], len(found["seconds"])) == (0, 40, 10)
    for name in ("descriptors", "threads", "tensors", "modules"):
        assert first[name] == last[name], (name, found["grown"])
    assert last["resident"] < first["resident"] + 2**24
    assert last["objects"] < first["objects"] + 200  # five a round would be a leak
    assert found["changed"] == []
