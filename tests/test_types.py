"""What type checkers make of a user's script: every public name is there, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RIGHT = """
from typing import Any, assert_type

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, priors, schedules
from pyrovae.sklearn import VAETransformer

digits = pv.data.load("mnist5k")
vae: pv.VAE = pv.VAE(
    event_shape=(1, 28, 28),
    latent_dim=20,
    prior=priors.VampPrior(10),
    likelihood=likelihoods.Bernoulli(networks.MLP([400])),
    guide=guides.MeanField(networks.MLP([400])),
)
x = torch.zeros(5, 1, 28, 28)
loss = objectives.BetaELBO(schedule=schedules.Linear(5))
history: pv.History = pv.fit(vae, digits.train.binarised("dynamic"), loss=loss, epochs=2)
found: pv.Evaluation = pv.evaluate(vae, x)
mean: float = found.means()["elbo"][0]
gap: Tensor = pv.gap(vae, x).amortisation
bound: Tensor = pv.elbo(vae, x)
print(pv.sketch(vae, x))
transformer = VAETransformer(2, likelihood=likelihoods.Normal())
styles = pv.programs.Conditional(event_shape=(1, 28, 28), classes=10)
pv.plots.kl_bars(found.kl_dimensions["z"])
path = pv.export(vae, "encoder.pt2")

# what a pair observes and draws is known without a look at it
assert_type(pv.sample(vae, 5), Tensor)
assert_type(pv.encode(vae, x), Tensor)
assert_type(pv.reconstruct(vae, x, draws=2), Tensor)
assert_type(pv.decode(vae, torch.zeros(3, 20)), Tensor)
assert_type(pv.interpolate(vae, x[0], x[1]), Tensor)
assert_type(pv.impute(vae, digits.test), Tensor)
assert_type(pv.fit_codes(vae, x).sample(3), Tensor)
layers = pv.programs.Hierarchical((1, 28, 28))
assert_type(pv.encode(layers, x), dict[str, Tensor])
views = pv.programs.Multimodal([[4], [3]])
assert_type(pv.sample(views), dict[str, Tensor])


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


own = pv.Pair[Tensor, Tensor](model, guide)
assert_type(pv.encode(own, torch.zeros(5)), Tensor)
unsaid = pv.Pair(model, guide)
pv.encode(unsaid, torch.zeros(5)).mean()  # whatever it is
pv.sample((model, guide), 3, like=x).mean()
pv.log_evidence(own, torch.zeros(5)).mean()
"""
WRONG = "import pyrovae as pv\n\npv.fitt\npv.sample(pv.VAE((4,), 2)).keys()\n"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    whole = [sys.executable, "-m", *command]
    return subprocess.run(whole, cwd=folder, capture_output=True, text=True, env=env).stdout


@pytest.mark.slow
def test_mypy_strict(scripts: Path) -> None:
    pytest.importorskip("mypy")
    found = run(
        scripts, "mypy", "--strict", "--follow-imports=silent", "--config-file=",
        "right.py", "wrong.py",
    )  # fmt: skip
    said = [line for line in found.splitlines() if ": error:" in line]
    assert len(said) == 2, found
    assert said[0].startswith("wrong.py:3") and 'has no attribute "fitt"' in said[0]
    assert said[1].startswith("wrong.py:4") and 'has no attribute "keys"' in said[1]


@pytest.mark.slow
def test_basedpyright(scripts: Path) -> None:
    pytest.importorskip("basedpyright")
    config = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (scripts / "pyrightconfig.json").write_text(json.dumps(config))
    page = run(scripts, "basedpyright", "--outputjson", "--pythonpath", sys.executable)
    found = json.loads(page)["generalDiagnostics"]
    said = [(Path(e["file"]).name, e["message"]) for e in found if e["severity"] == "error"]
    assert [name for name, _ in said] == ["wrong.py", "wrong.py"], said
    assert '"fitt"' in said[0][1] and '"keys"' in said[1][1]
