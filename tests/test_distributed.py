"""Several processes train as one: the same step, the same run, and none waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

BEGIN = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
import torch, pyro, pyro.distributions as dist, pyrovae as pv
from torch import nn
torch.set_num_threads(1)
out, settings = sys.argv[1], json.loads(sys.argv[2])
"""

# The noise of every datum is given with the datum, so that it is the same in any process.
GIVEN = (
    BEGIN
    + """
class Given(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.encoder = nn.Linear(3, 5), nn.Linear(5, 6)
    def plate(self, x):
        if settings.get("size"):
            return pyro.plate("data", settings["size"], subsample_size=len(x), dim=-1)
        return pyro.plate("data", len(x))
    def model(self, x, noise):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)
    def guide(self, x, noise):
        loc, raw = self.encoder(x).chunk(2, -1)
        with self.plate(x):
            z = loc + raw.exp() * noise
            log = dist.Normal(loc, raw.exp()).to_event(1).log_prob(z)
            pyro.sample("z", dist.Delta(z, log_density=log, event_dim=1))
g = torch.Generator().manual_seed(0)
x, noise = torch.randn(72, 5, generator=g), torch.randn(72, 3, generator=g)
pair = Given()
history = pv.fit(
    pair, (x, noise), batch_size=16, device="cpu", progress=False, out=out,
    validation=(x[:10], noise[:10]), **settings.get("fit", {}),
)
if int(os.environ.get("RANK", 0)) == 0:
    print(json.dumps(history.rows))
"""
)

VAE = (
    BEGIN
    + """
data = pv.data.load("mnist5k")
torch.manual_seed(0)
vae = pv.VAE((1, 28, 28), 20)
train = data.train.binarised("dynamic").select(slice(0, 2000))
from pyrovae.callbacks import Callback
class Tell(Callback):
    def step(self, run):
        print("step", run.step, flush=True)
pv.fit(vae, train, device="cpu", progress=False, out=out, callbacks=[Tell()], **settings["fit"])
if int(os.environ.get("RANK", 0)) == 0 and settings.get("look"):
    found = pv.evaluate(vae, data.test.binarised("dynamic").select(slice(0, 500)), 20)
    print(json.dumps([float(found.elbo.mean()), float(found.elbo.std()) / 500**0.5]))
"""
)


def start(script: str, out: Path, settings: dict[str, Any], size: int = 1) -> list[Any]:
    """The processes of one run, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, str(out), json.dumps(settings)],
            env=shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: list[Any]) -> str:
    """The first one's output, when all have ended well."""
    said = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors
    return said[0][0]


def weights(out: Path) -> torch.Tensor:
    tensors = load_file(out / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("size", [None, 72], ids=["sum", "subsampled"])
def test_two_processes_take_the_steps_of_one(
    tmp_path: Path,
    size: int | None,
    compile: bool,  # noqa: A002
) -> None:
    """Adam turns the sign of a gradient that is nearly zero into a step: SGD would hide less."""
    fit = {"epochs": 8, "compile": compile, "clip_norm": 50.0}
    settings = {"size": size, "fit": fit}
    one = json.loads(finish(start(GIVEN, tmp_path / "one", settings)))
    two = json.loads(finish(start(GIVEN, tmp_path / "two", settings, 2)))
    assert (weights(tmp_path / "one") - weights(tmp_path / "two")).abs().max() < 1e-6
    for mine, theirs in zip(one, two, strict=True):
        for name in ("loss", "elbo", "reconstruction", "kl", "validation_elbo"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name


def test_three_processes_and_a_batch_of_two(tmp_path: Path) -> None:
    """Some shares are empty."""
    settings = {"fit": {"epochs": 1, "compile": False}}
    script = GIVEN.replace("batch_size=16", "batch_size=2").replace("72, ", "9, ")
    one = finish(start(script, tmp_path / "one", settings))
    three = finish(start(script, tmp_path / "three", settings, 3))
    assert (weights(tmp_path / "one") - weights(tmp_path / "three")).abs().max() < 1e-6
    assert json.loads(one)[0]["loss"] == pytest.approx(json.loads(three)[0]["loss"], rel=1e-5)


def test_the_default_vae_learns_the_same(tmp_path: Path) -> None:
    settings = {"look": True, "fit": {"epochs": 6, "batch_size": 100}}
    one = json.loads(finish(start(VAE, tmp_path / "one", settings)).splitlines()[-1])
    two = json.loads(finish(start(VAE, tmp_path / "two", settings, 2)).splitlines()[-1])
    assert abs(one[0] - two[0]) < 4 * (one[1] + two[1]) / 2**0.5
    assert (weights(tmp_path / "one") - weights(tmp_path / "two")).abs().max() > 1e-6


LONG = {"epochs": 2, "batch_size": 100, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(VAE, out, {"fit": {**LONG}}, 2))
    return out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(
    tmp_path: Path, whole: Path, rank: int
) -> None:
    run, settings = tmp_path / "run", {"fit": {**LONG}}
    both = start(VAE, run, settings, 2)
    while both[0].stdout.readline().strip() != "step 27":
        assert both[0].poll() is None
    both[rank].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, errors = both[1 - rank].communicate(timeout=30)
    assert time.monotonic() - killed < 30
    assert both[1 - rank].returncode not in (0, None)
    assert f"process {rank} of 2 is gone" in errors, errors
    both[rank].communicate()
    settings["fit"]["resume"] = True
    finish(start(VAE, run, settings, 2))
    assert torch.equal(weights(run), weights(whole))


def test_a_mistake_in_one_process_ends_all(tmp_path: Path) -> None:
    script = VAE.replace("slice(0, 2000)", "slice(0, 2000 - int(os.environ['RANK']))")
    both = start(script, tmp_path / "run", {"fit": {"epochs": 1}}, 2)
    for process in both:
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0 and "must be the same in every process" in errors


@pytest.mark.parametrize(
    ("alone", "resume", "said"),
    [
        (('device="cpu",', 'device="cpu", lr=1e-3 * (1 + rank),'), True, "lr "),
        (("pair = Given()", "x[71, 4] += rank; pair = Given()"), False, "digest of the data "),
    ],
    ids=["lr", "data"],
)
def test_a_process_that_would_train_otherwise_is_refused(
    tmp_path: Path, alone: tuple[str, str], resume: bool, said: str
) -> None:
    """As the run begins, and as it goes on: each would follow gradients of its own."""
    settings = {"fit": {"epochs": 1, "compile": False}}
    other = GIVEN.replace(*alone).replace("g = torch", "rank = int(os.environ['RANK'])\ng = torch")
    words = f"process 1 was started otherwise than process 0: {said}is "
    if resume:
        finish(start(GIVEN, tmp_path / "run", settings, 2))
        settings["fit"]["resume"] = True
    both = start(other, tmp_path / "run", settings, 2)
    ends = [process.communicate(timeout=300)[1] for process in both]
    assert all(process.returncode for process in both)
    assert all(words in errors for errors in ends), ends
    assert (tmp_path / "run").exists() == resume
