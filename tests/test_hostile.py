"""Hostile inputs are refused in a sentence or taken: a sample of those that
``tests/benchmarks/hostile.py`` counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hostiles
import pytest

COMMAND = Path(__file__).parent / "benchmarks" / "hostile.py"


def test_there_are_many_of_many_kinds() -> None:
    cases = hostiles.corpus()
    assert len(cases) >= 700 and len({(case.kind, case.name) for case in cases}) == len(cases)
    assert len(hostiles.KINDS) >= 12


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for memory")
def test_a_sample_of_them_does_no_harm(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = [sys.executable, str(COMMAND), "--every", "30", "--seconds", "40", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    found = json.loads(out.read_text())
    assert found["faults"] == [] and done.returncode == 0, done.stdout
    counts = found["counts"]
    assert counts["refused"] + counts["taken"] == counts["cases"] >= 50
    assert counts["refused"] > 20 and counts["taken"] > 5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for memory")
def test_harm_is_seen(tmp_path: Path) -> None:
    """The judge itself, on inputs that do what none may."""
    script = tmp_path / "harm.py"
    script.write_text(HARMS.format(tests=str(COMMAND.parents[1]), harm=HARM))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=600
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert list(seen) == list(HARM)
    for name, faults in seen.items():
        wanted = name.split(":")[0]
        assert ([] if wanted == "none" else [wanted]) == [f.split(":")[0] for f in faults], name


HARM = {
    "executed": "place.canary.mkdir()",
    "written or removed outside: written": "(place.outside / 'new').touch()",
    "written or removed outside: removed": "(place.home / '.bashrc').unlink()",
    "hung": "while True: pass",
    "memory": "b'x' * (400 * 2**20)",
    "internal": "1 / 0",
    "crashed": "__import__('os').abort()",
    "escapes": "print('\\x1b[2J')",
    "no sentence": "raise hostiles.pv.UsageError('no')",
    "none: taken": "pass",
    "none: refused": "raise hostiles.pv.UsageError('this is a sentence that says what to do')",
}
HARMS = """
import json, sys, tempfile
from pathlib import Path
sys.path.insert(0, {tests!r})
import hostiles
HARM = {harm!r}
hostiles.SECONDS = 4
def act(code):
    return lambda place: lambda: exec(code, {{"place": place, "hostiles": hostiles}})
with tempfile.TemporaryDirectory() as folder:
    place = hostiles.Place(Path(folder))
    judge = hostiles.Judge([hostiles.Case("harm", n, act(c)) for n, c in HARM.items()], place)
    seen = {{name: judge.verdict(k).faults for k, name in enumerate(HARM)}}
    judge.end()
print(json.dumps(seen))
"""
