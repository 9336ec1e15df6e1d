"""The command line as a process: standard streams that are closed, full or broken, and Ctrl-C."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIT = "fit --data digits --epochs 1 --num-particles 2 --latent-dim 2 --out"
PYROVAE = f"{shlex.quote(sys.executable)} -m pyrovae"


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [environment.pop("FIRST", ""), str(ROOT)]))
    known = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, env=known, capture_output=True, text=True, timeout=300
    )


def quiet(text: str) -> bool:
    return not any(w in text for w in ("Traceback", "internal error", "Exception ignored"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    assert not shell(f"{PYROVAE} {FIT} run", folder).returncode
    return folder / "run"


# of the standard error alone: that work goes on, and what is asked for is written
LOST = {
    "closed": "{} 2>&-",
    "full": "{} 2>/dev/full",
    "without a reader": "{{ {}; echo $? >code; }} 2>&1 >out | true; cat code out",
}


@pytest.mark.parametrize("how", LOST)
def test_training_goes_on_where_nobody_can_be_told(how: str, trained: Path, tmp_path: Path) -> None:
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    done = shell(LOST[how].format(f"{PYROVAE} {FIT} run"), tmp_path)
    if how == "without a reader":
        assert done.stdout.startswith("0\n"), done
    else:
        assert not done.returncode, done
    assert quiet(done.stdout) and "epoch 1/1" not in done.stdout and "test set" in done.stdout
    names = [sorted(str(p.relative_to(f)) for f in [each] for p in f.rglob("*"))
             for each in (tmp_path / "run", trained)]  # fmt: skip
    assert names[0] == names[1]
    for each in (tmp_path / "run").rglob("*.*"):  # nothing that was said stands in a file
        assert each.is_dir() or b"images/s" not in each.read_bytes(), each


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_closed_streams_take_no_file(closed: str, trained: Path, tmp_path: Path) -> None:
    """The next file that is opened would have the number of the closed stream, and its text."""
    done = shell(f"{PYROVAE} {FIT} run {closed}", tmp_path)
    assert not done.returncode and quiet(done.stderr), done
    model = [(each / "model.safetensors").read_bytes() for each in (tmp_path / "run", trained)]
    assert model[0] == model[1]


def test_a_mistake_keeps_its_exit_code_where_it_cannot_be_told(tmp_path: Path) -> None:
    for lost in ("2>&-", "2>/dev/full"):
        done = shell(f"{PYROVAE} fit --nonsense 3 {lost}", tmp_path)
        assert (done.returncode, done.stdout) == (2, "")


def test_an_output_without_a_reader_or_room(trained: Path, tmp_path: Path) -> None:
    line = f"{PYROVAE} info {trained}"
    done = shell(f"{{ {line}; echo $? >&2; }} | true", tmp_path)
    assert done.stderr in ("0\n", "1\n"), done  # by whether the reader is still there
    if Path("/dev/full").exists():
        done = shell(f"{line} >/dev/full", tmp_path)
        assert done.returncode == 2 and quiet(done.stderr)
        assert "the standard output is full" in done.stderr and done.stderr.count("\n") == 1


INTERRUPTS = """
import os, signal, sys

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

kind, _, at = os.environ.get("INTERRUPT", "").partition(":")
if kind == "import":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == at:
                sys.meta_path.remove(self)
                interrupt()
    sys.meta_path.insert(0, Finder())
"""
MOMENTS = [
    *(f"import:{name}" for name in ("pyrovae.cli", "numpy", "torch", "torch._C", "torch.nn")),
    *(f"import:{name}" for name in ("pyro", "scipy.special", "pyrovae.traces")),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_is_one_line_whenever_it_comes(moment: str, trained: Path, tmp_path: Path) -> None:
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    (tmp_path / "sitecustomize.py").write_text(heard + INTERRUPTS)  # who runs tests may ignore it
    line = f"exec {PYROVAE} evaluate {trained} --num-particles 200"
    done = shell(line, tmp_path, FIRST=str(tmp_path), INTERRUPT=moment)
    assert (done.returncode, done.stderr) == (130, "pyrovae: interrupted\n"), done


def test_ctrl_c_that_is_ignored_stays_ignored(trained: Path, tmp_path: Path) -> None:
    """As of nohup, and of what a script starts in the background."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS)
    line = f"trap '' INT; exec {PYROVAE} evaluate {trained} --num-particles 2"
    done = shell(line, tmp_path, FIRST=str(tmp_path), INTERRUPT="import:torch")
    assert not done.returncode and quiet(done.stderr), done
