"""Training where torch.compile has no folder to write to, or no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import torch, pyrovae as pv
from pyrovae import kernels
kernels.COMPILE_SECONDS = kernels.COMPILE_NODE_SECONDS = 0.0  # kernels pay
torch.manual_seed(0)
x = torch.bernoulli(torch.full((62, 6), 0.3))
history = pv.fit(pv.VAE((6,), 2), x, epochs=15, batch_size=31)
assert len(history.rows) == 15
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["TORCHINDUCTOR_CACHE_DIR", "TMPDIR"])
def test_training_goes_on_without_a_folder_for_kernels(setting: str, tmp_path: Path) -> None:
    """A file in the place of the folder refuses root too."""
    (tmp_path / "taken").touch()
    names = {"TMPDIR", "TORCHINDUCTOR_CACHE_DIR"}
    known = {n: v for n, v in os.environ.items() if n not in names}
    known[setting] = str(tmp_path / "taken")
    if setting == "TMPDIR":  # tempfile would find /tmp
        begin = "import tempfile; tempfile._candidate_tempdir_list = lambda: [__file__]\n"
    else:
        begin = ""
    script = tmp_path / "train.py"
    script.write_text(begin + TRAIN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=known)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "not compiled" in line]
    assert len(said) == 1 and "no folder to be written to" in said[0], done.stderr
    assert "Traceback" not in done.stderr
