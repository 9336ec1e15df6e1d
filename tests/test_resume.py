"""Runs that survive: killed at any moment, interrupted, torn, and resumed to the bit."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from runner import EPOCHS
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrovae as pv
from pyrovae import files
from pyrovae.callbacks import Callback, Run
from pyrovae.training import identity

CLOCKS = ("seconds", "images_per_second")


class Runner:
    """The process of runner.py, and the lines of its children."""

    def __init__(self) -> None:
        environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
        script = Path(__file__).with_name("runner.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment,
        )  # fmt: skip

    def start(self, **settings: Any) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(settings) + "\n")
        word, number = self.line().split()
        assert word == "child"
        return int(number)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, kill: Callable[[int], None] | None = None, **settings: Any) -> list[str]:
        """What a run said until it was gone; ``kill`` is called with its process id."""
        child = self.start(**settings)
        killer = threading.Thread(target=kill or (lambda child: None), args=(child,))
        killer.start()
        lines = [self.line()]
        while not lines[-1].startswith("gone"):
            lines.append(self.line())
        killer.join()
        return lines


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner()
    yield made
    made.process.kill()
    made.process.communicate()


def results(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, str]]]:
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]
    return load_file(folder / "model.safetensors"), rows


def assert_same(one: Path, other: Path) -> None:
    (weights, rows), (theirs, their_rows) = results(one), results(other)
    assert rows == their_rows and len(rows) == EPOCHS
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """The folder of a run that nothing interrupted."""
    made: dict[bool, Path] = {}

    def get(compile: bool) -> Path:  # noqa: A002
        if compile not in made:
            made[compile] = tmp_path_factory.mktemp("whole") / "run"
            lines = runner.run(out=str(made[compile]), compile=compile)
            assert lines[-2:] == ["done", "gone 0"], lines
        return made[compile]

    return get


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_killed_at_twenty_random_moments(
    runner: Runner,
    whole: Callable[[bool], Path],
    tmp_path: Path,
    compile: bool,  # noqa: A002
) -> None:
    """kill -9 whenever, checkpoints being written included: the same bits at the end."""
    reference, moments = whole(compile), random.Random(0)
    kills, folder, steps = 0, tmp_path / "0", 0

    def kill(child: int) -> None:
        time.sleep(moments.uniform(0.0, 1.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    while True:
        lines = runner.run(kill if kills < 20 else None, out=str(folder), compile=compile)
        taken = [int(line.split()[1]) for line in lines if line.startswith("step")]
        # a step that was said and not yet kept is taken again; no other is
        assert not taken or steps <= taken[0] <= steps + 1, (steps, taken)
        steps = taken[-1] if taken else steps
        if lines[-1] == "gone -9":
            kills += 1
            continue
        assert lines[-2:] == ["done", "gone 0"], lines
        assert_same(reference, folder)
        if kills >= 20:
            break
        folder, steps = tmp_path / str(kills), 0  # it was too quick: another run


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 8, 9])
def test_killed_while_a_checkpoint_is_written(
    runner: Runner, whole: Callable[[bool], Path], tmp_path: Path, number: int, late: bool
) -> None:
    """Before and after each renaming that makes a checkpoint the last one."""
    out = str(tmp_path / "run")
    lines = runner.run(out=out, compile=False, dies=[number, late])
    assert lines[-1] == "gone -9", lines
    lines = runner.run(out=out, compile=False)
    assert lines[-2:] == ["done", "gone 0"], lines
    assert_same(whole(False), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


# --- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_after_the_step(
    runner: Runner, whole: Callable[[bool], Path], tmp_path: Path, name: str
) -> None:
    lines = runner.run(
        kill=None, out=str(tmp_path / "run"), compile=False, sends=[13, name], checkpoint_every=1000
    )
    assert "step 13" in lines and "step 14" not in lines
    assert any("after step 13" in line for line in lines) == (name == "SIGINT"), lines
    lines = runner.run(out=str(tmp_path / "run"), compile=False)
    assert "step 14" in lines and "step 13" not in lines
    assert_same(whole(False), tmp_path / "run")


# --- any pair, in one process ---------------------------------------------------------------------

X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))


def functions() -> pv.Pair:
    """A parameter of Pyro's own, a module, one that no program names, noise of NumPy's."""
    torch.manual_seed(0)
    hidden = [torch.nn.Linear(2, 4)]
    encoder = torch.nn.Linear(4, 2)

    def model(x: torch.Tensor) -> None:
        raw = pyro.param("raw", torch.zeros(()), constraint=dist.constraints.real)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(hidden[0](z), raw.exp()).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            shift = 0.01 * np.random.rand() + 0.01 * random.random()
            pyro.sample("z", dist.Normal(encoder(x) + shift, 0.5).to_event(1))

    return pv.Pair(model, guide)


def vae() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))


class Noisy(Dataset[torch.Tensor]):
    """Data with noise of their own, drawn as they are read."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> torch.Tensor:
        return X[i] + 0.1 * torch.randn(4)


def values(pair: Any) -> list[torch.Tensor]:
    return [t.detach().clone() for t in pv.traces.as_pair(pair).tensors().values()]


def stops(at: int) -> Callback:
    class Stop(Callback):
        def step(self, run: Run) -> str | None:
            return "enough" if run.step == at else None

    return Stop()


def sgd(parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def adagrad(parameters: list[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(parameters, lr=lr)


def rows(history: pv.History) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in history.rows]


@pytest.mark.parametrize(
    ("make", "data", "settings"),
    [
        (functions, lambda: X, {"compile": False}),
        (vae, lambda: X, {"optimizer": sgd, "lr": 1e-4, "validation": 0.2, "keep_best": True}),
        (vae, lambda: X, {"optimizer": adagrad, "accumulate": 3}),
        (vae, lambda: X, {"loss": pv.objectives.BetaELBO(2.0, schedule=pv.schedules.Linear(2))}),
        (vae, lambda: X, {"precision": "bf16"}),
        (vae, lambda: DataLoader(Noisy(), batch_size=16, shuffle=True), {}),
        (vae, lambda: DataLoader(Noisy(), 16, shuffle=True, generator=torch.Generator()), {}),
        (vae, lambda: DataLoader(Noisy(), 16, shuffle=True, num_workers=1), {}),
    ],
    ids=["functions", "sgd", "accumulate", "beta", "bf16", "loader", "generator", "workers"],
)
def test_any_pair_goes_on(
    tmp_path: Path, make: Callable[[], Any], data: Callable[[], Any], settings: dict[str, Any]
) -> None:
    usual = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "progress": False, "device": "cpu"}
    whole, parts = make(), make()
    reference = pv.fit(whole, data(), **usual | settings)
    out = tmp_path / "run"
    for at in (3, 5, 7, 12):  # within an epoch, at its last step, in the next, near the end
        again = parts = make()
        history = pv.fit(
            again, data(), out=out, resume=True, callbacks=[stops(at)], **usual | settings
        )
        assert history.stopped == "enough"
    history = pv.fit(parts, data(), out=out, resume=True, **usual | settings)
    assert rows(history) == rows(reference)
    assert all(map(torch.equal, values(parts), values(whole)))


def test_a_run_that_is_over_goes_on_when_asked_for_more(tmp_path: Path) -> None:
    short, long = vae(), vae()
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    pv.fit(short, X, epochs=2, out=tmp_path / "run", **settings)
    again = vae()
    history = pv.fit(again, X, epochs=2, out=tmp_path / "run", resume=True, **settings)
    assert len(history.rows) == 2 and all(map(torch.equal, values(again), values(short)))
    pv.fit(again, X, epochs=4, out=tmp_path / "run", resume=True, **settings)
    pv.fit(long, X, epochs=4, **settings)
    assert all(map(torch.equal, values(again), values(long)))


def test_the_best_weights_are_a_model_and_a_checkpoint_is_none(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "validation": 0.2}
    pair = vae()
    history = pv.fit(pair, X, epochs=15, out=tmp_path, lr=0.2, keep_best=True, **settings)
    best = pv.load(tmp_path / "checkpoints" / "best.safetensors")
    assert all(map(torch.equal, values(best), values(pair)))
    assert history.best() < 14, "the last epoch is the best one here: change lr"
    with pytest.raises(pv.UsageError, match="is a checkpoint, which fit.resume=True. goes on from"):
        pv.load(tmp_path / "checkpoints" / "last.safetensors")


def test_another_run_is_not_taken_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 16, "progress": False}
    pv.fit(vae(), X, out=out, **settings)
    for changed, said in (
        ({"lr": 0.1}, "lr was 0.001, is now 0.1"),
        ({"batch_size": 8, "seed": 1}, "batch_size was 16, is now 8; seed was 0"),
        ({"loss": pyro.infer.TraceMeanField_ELBO()}, "loss was Trace_ELBO"),
        ({"optimizer": sgd}, "optimizer was Adam, is now SGD"),
    ):
        with pytest.raises(pv.UsageError, match=said):
            pv.fit(vae(), X, out=out, resume=True, **settings | changed)
    with pytest.raises(pv.UsageError, match="data was 80 data"):
        pv.fit(vae(), X[:64], out=out, resume=True, **settings)
    torch.manual_seed(0)
    other = pv.VAE((4,), 3, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))
    with pytest.raises(pv.UsageError, match="pair.latent_dim was 2, is now 3"):
        pv.fit(other, X, out=out, resume=True, **settings)
    with pytest.raises(pv.UsageError, match="give out="):
        pv.fit(vae(), X, resume=True, **settings)
    with pytest.raises(pv.UsageError, match="exists already"):
        pv.fit(vae(), X, out=out, **settings)


def small_vae() -> pv.VAE:
    torch.manual_seed(0)
    bodies = [pv.networks.MLP([3]) for _ in range(2)]
    parts = {
        "likelihood": pv.likelihoods.Normal(bodies[0]),
        "guide": pv.guides.MeanField(bodies[1]),
    }
    return pv.VAE((4,), 2, **parts)


# How the runs in runs-0.1.0.tar.xz were made: by version 0.1.0, stopped after step 10 of 16 or 20.
# Beside each is what was left of the same run without the stop, NAME-whole.
OLD: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "vae": (
        small_vae,
        {
            "validation": 16, "ema": 0.9, "keep_best": True, "clip_norm": 5.0,
            "lr_schedule": pv.schedules.Cosine(warmup=1), "loss": pv.objectives.BetaELBO(2.0),
        },
    ),
    "functions": (functions, {"compile": False}),
}  # fmt: skip


def unpacked(archive: str, folder: Path) -> None:
    with tarfile.open(Path(__file__).with_name(archive)) as old:
        old.extractall(folder, filter="data")


def compared(made: Path, whole: Path) -> list[dict[str, str]]:
    """The rows of a run that went on, which has come to what it would have without the stop."""
    (weights, rows), (theirs, their_rows) = map(results, (made, whole))
    for key, value in theirs.items():  # another machine rounds otherwise
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5)
    for row, other in zip(rows, their_rows, strict=True):
        assert row.keys() == other.keys()
        assert all(float(row[k]) == pytest.approx(float(other[k]), rel=1e-3) for k in row)
    return rows


def test_a_run_of_version_2_goes_on(tmp_path: Path) -> None:
    """Stopped and whole as those of 0.1.0; the first with units and names for all leaves."""
    unpacked("runs-2.tar.xz", tmp_path)
    make, settings = OLD["vae"]
    usual = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "progress": False, "device": "cpu"}
    pv.fit(make(), X, out=tmp_path / "vae", resume=True, **usual | settings)
    assert len(compared(tmp_path / "vae", tmp_path / "vae-whole")) == 4
    assert torch.isfinite(pv.elbo(pv.load(tmp_path / "vae-whole"), X)).all()


@pytest.mark.parametrize("name", OLD)
def test_a_run_of_version_0_1_0_goes_on(tmp_path: Path, name: str) -> None:
    unpacked("runs-0.1.0.tar.xz", tmp_path)
    make, settings = OLD[name]
    usual = {"epochs": 4, "batch_size": 16, "lr": 1e-2, "progress": False, "device": "cpu"}
    pv.fit(make(), X, out=tmp_path / name, resume=True, **usual | settings)
    (weights, rows), (theirs, their_rows) = map(
        results, (tmp_path / name, tmp_path / f"{name}-whole")
    )
    assert weights.keys() >= theirs.keys() and len(rows) == len(their_rows) == 4
    if name == "vae":
        unit = weights["likelihood.scale_of.unit"]  # learned by later versions alone
        assert torch.equal(unit, torch.ones_like(unit)) and weights["likelihood.scale_of.known"]
        saved = pv.load(tmp_path / f"{name}-whole")
        assert torch.isfinite(pv.elbo(saved, X)).all()
    else:  # weights that version 0.1.0 had no name for are in no file of its: said, not made up
        with pytest.raises(pv.UsageError, match=r"missing \[hidden\.0\.weight, hidden\.0\.bias\]"):
            pv.load(tmp_path / f"{name}-whole", into=make())
    compared(tmp_path / name, tmp_path / f"{name}-whole")


def written(
    prior: Callable[..., Any] = dist.Normal,
    scale: float = 1.0,
    activation: Callable[..., Any] = torch.relu,
    body: Callable[..., Any] = torch.nn.Sigmoid,
) -> pv.Pair:
    """Two plain functions, in which nothing but what they do tells one pair from another."""
    torch.manual_seed(0)
    decoder, encoder = torch.nn.Linear(2, 4), torch.nn.Sequential(torch.nn.Linear(4, 2), body())

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(x.new_zeros(2), scale).to_event(1))
            pyro.sample("x", dist.Normal(activation(decoder(z)), 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    return pv.Pair(model, guide)


def test_what_plain_functions_do_must_be_the_same(tmp_path: Path) -> None:
    """Sites, their families and constants, modules, operations, and all the data."""
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 16, "progress": False}
    pv.fit(written(), X, validation=X[:16], out=tmp_path, **settings)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"prior": dist.Laplace}, r"pair.model.z was Normal\(loc=0, scale=1\), is now Laplace"),
        (
            {"scale": 2.0},
            r"pair.model.z was Normal\(loc=0, scale=1\), is now Normal\(loc=0, scale=2\)",
        ),
        ({"activation": torch.tanh}, "operations of the pair, torch .* was relu, is now tanh"),
        ({"body": torch.nn.Tanh}, r"was Sigmoid\(\), is now Tanh\(\)"),
    ]
    for changed, said in changes:
        with pytest.raises(pv.UsageError, match=said):
            pv.fit(written(**changed), X, validation=X[:16], out=tmp_path, resume=True, **settings)
    other = X.clone()
    other[-1, -1] += 1e-6
    with pytest.raises(pv.UsageError, match="digest of the data was"):
        pv.fit(written(), other, validation=X[:16], out=tmp_path, resume=True, **settings)
    with pytest.raises(pv.UsageError, match="digest of the validation was"):
        pv.fit(written(), X, validation=other[-16:], out=tmp_path, resume=True, **settings)
    settings["epochs"] = 2
    history = pv.fit(written(), X, validation=X[:16], out=tmp_path, resume=True, **settings)
    assert len(history.rows) == 2


@pytest.mark.parametrize("stored", [lambda x: x, lambda x: DataLoader(TensorDataset(x), 16)])
def test_other_data_of_the_same_count_and_first_sum(
    tmp_path: Path, stored: Callable[[torch.Tensor], Any]
) -> None:
    """Two numbers exchanged, two rows exchanged, another shape: of all of them nothing but the
    bytes tells."""
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    pv.fit(vae(), stored(X), epochs=1, out=tmp_path, **settings)
    values, rows = X.clone(), X.clone()
    values[2, 0], values[2, 1] = X[2, 1], X[2, 0]
    rows[[40, 70]] = X[[70, 40]]
    for other in (values, rows, X.flip(0), X + 1e-6 * (torch.arange(80) == 79)[:, None]):
        with pytest.raises(pv.UsageError, match="digest of the data was"):
            pv.fit(vae(), stored(other), epochs=2, out=tmp_path, resume=True, **settings)
    pv.fit(vae(), stored(X.clone()), epochs=2, out=tmp_path, resume=True, **settings)


@pytest.mark.parametrize("small", [0, identity.SMALL])
def test_a_digest_is_of_all_bytes(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    """Of large data by sums, of small ones one by one; wherever in its storage a tensor begins."""
    monkeypatch.setattr(identity, "SMALL", small)
    x = torch.randint(256, (400, 211), dtype=torch.uint8)
    own = identity.digest([x])
    places = [(i, j) for i in (0, 1, 133, 398, 399) for j in (0, 7, 210)]
    for i, j in places:
        other = x.clone()
        other[i, j] ^= 1
        assert identity.digest([other]) != own
    other = x.clone()
    other[[20, 300]] = x[[300, 20]]
    for different in (other, x[:, :-1], x.t(), x.reshape(211, 400), x.view(torch.int8), x[1:]):
        assert identity.digest([different]) != own
    whole = torch.cat([torch.zeros(1, 211, dtype=torch.uint8), x])
    assert identity.digest([whole[1:]]) == own == identity.digest([x.t().contiguous().t()])
    assert identity.digest([torch.zeros(0, 3)]) != identity.digest([torch.zeros(3, 0)])


BODY = """
def helper(z, gain={gain}):
    "{words}"
    return gain * z.repeat_interleave(2, -1)  # {words}

class Body(torch.nn.Module):
    def forward(self, z):
        return self.inner({constant} * z)
    def inner(self, z):
        return {inner}
    def unused(self):
        return {unused}

body, encoder = Body(), torch.nn.Linear(4, 2)

def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(body(z), 1.0).to_event(1), obs=x)

def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))
"""


def typed(**changes: object) -> pv.Pair:
    """A pair as a user types it, with a module of its own code."""
    code = {"gain": 1.5, "words": "as it was", "constant": 2.0, "inner": "helper(z)", "unused": 1}
    space: dict[str, Any] = {"torch": torch, "pyro": pyro, "dist": dist, "__name__": "mine"}
    torch.manual_seed(0)
    exec(BODY.format(**code | changes), space)
    return pv.Pair(space["model"], space["guide"])


def test_another_code_is_another_run(tmp_path: Path) -> None:
    """What no site, module or operation shows: constants, defaults, what a method calls."""
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    pv.fit(typed(), X, epochs=1, out=tmp_path, **settings)
    for changed, name in (
        ({"constant": 3.0}, "Body.forward"),
        ({"inner": "helper(z, 1.0)"}, "Body.inner"),
        ({"gain": 2.5}, "helper"),
    ):
        said = rf"code of the programs, Python \S+ was {name}:\w+, is now {name}:\w+\."
        with pytest.raises(pv.UsageError, match=said):
            pv.fit(typed(**changed), X, epochs=2, out=tmp_path, resume=True, **settings)
    again = typed(words="otherwise", unused=2)
    history = pv.fit(again, X, epochs=2, out=tmp_path, resume=True, **settings)
    assert len(history.rows) == 2


class Tanh(pv.priors.StandardNormal):
    """A prior of the user's own."""

    def forward(self, *labels: torch.Tensor) -> Any:
        return dist.Normal(self.zeros, 1.0 + self.zeros).to_event(1)


def test_another_part_is_another_run(tmp_path: Path) -> None:
    def made(**changes: Any) -> pv.VAE:
        torch.manual_seed(0)
        mlp = pv.networks.MLP
        parts = {"likelihood": pv.likelihoods.Normal(mlp([8])), "guide": None, **changes}
        return pv.VAE((4,), 2, **{name: part for name, part in parts.items() if part is not None})

    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    pv.fit(made(), X, epochs=1, out=tmp_path, **settings)
    likelihoods, mlp = pv.likelihoods, pv.networks.MLP
    for changes, said in (
        ({"likelihood": likelihoods.Normal(mlp([8], "Tanh"))}, "activation was 'ReLU', is now"),
        ({"likelihood": likelihoods.Laplace(mlp([8]))}, "pair.likelihood was Normal, is now"),
        ({"prior": pv.priors.Laplace()}, "pair.prior was StandardNormal, is now Laplace"),
        ({"prior": Tanh()}, "pair.prior was StandardNormal, is now Tanh"),
        ({"guide": pv.guides.MeanField(mlp([400], "Tanh"))}, "is now 'Tanh'"),
    ):
        with pytest.raises(pv.UsageError, match=said):
            pv.fit(made(**changes), X, epochs=2, out=tmp_path, resume=True, **settings)


def test_what_may_change_is_said(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "batch_size": 16, "progress": False, "device": "cpu", "validation": 16, "out": tmp_path
    }  # fmt: skip
    pair = vae()
    pv.fit(pair, X, epochs=3, compile=False, **settings)
    again = vae()
    with pytest.warns(UserWarning, match="compile was False, is now 'auto'; keep_best was False"):
        pv.fit(again, X, epochs=4, keep_best=True, resume=True, **settings)
    best, final = values(again), pv.load(tmp_path / "checkpoints" / "best.safetensors")
    assert all(map(torch.equal, best, values(final)))
    settings |= {"resume": True, "keep_best": True}
    with pytest.warns(UserWarning, match=r"is in epoch 4 already and epochs=2 asks for fewer"):
        history = pv.fit(other := vae(), X, epochs=2, **settings)
    assert len(history.rows) == 4 and all(map(torch.equal, values(other), best))
    pv.fit(vae(), X, epochs=5, callbacks=[stops(18)], **settings)
    with pytest.warns(UserWarning, match="is in epoch 5 already and epochs=4"):
        pv.fit(vae(), X, epochs=4, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pv.fit(vae(), X, epochs=5, **settings).rows) == 5


@pytest.mark.parametrize("version", [3, 0, "2", True, None])
def test_a_checkpoint_of_a_version_that_is_not_known(tmp_path: Path, version: object) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    pv.fit(vae(), X, epochs=1, out=tmp_path, **settings)
    file = tmp_path / "checkpoints" / "last.safetensors"
    tensors, notes = files.read_tensors(file)
    entries = notes["state"]["dict"]
    assert ["version", 2] in entries
    entries[entries.index(["version", 2])][1] = version
    files.write_tensors(file, tensors, notes)
    before = file.read_bytes()
    with pytest.raises(pv.UsageError, match="is of version .*reads those up to 2: install"):
        pv.fit(vae(), X, epochs=2, out=tmp_path, resume=True, **settings)
    assert file.read_bytes() == before


class Counting(Callback):
    """Ends a run after so many steps in all, which only it counts."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, torch.zeros(())

    def step(self, run: Run) -> str | None:
        self.count += 1
        return "counted" if self.count >= self.most else None

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "seen": ["step"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["seen"] == ["step"]
        self.count = state["count"].clone()


def test_callbacks_go_on_with_the_run(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 9, "batch_size": 16, "progress": False, "out": tmp_path}
    pv.fit(vae(), X, callbacks=[Counting(99), stops(7), Counting(8)], **settings)
    both = [Counting(12), Counting(99)]
    history = pv.fit(vae(), X, callbacks=both, resume=True, **settings)
    assert history.stopped == "counted" and [int(each.count) for each in both] == [12, 12]


# --- torn, truncated, gone ------------------------------------------------------------------------


def halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [halved, flipped, emptied, Path.unlink])
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False, "device": "cpu"}
    whole, again, out = vae(), vae(), tmp_path / "run"
    pv.fit(whole, X, **settings)
    pv.fit(vae(), X, out=out, checkpoint_every=2, callbacks=[stops(9)], **settings)
    damage(out / "checkpoints" / "last.safetensors")
    told = contextlib.nullcontext() if damage is Path.unlink else pytest.warns(match="before it")
    with told:
        pv.fit(again, X, out=out, resume=True, **settings)
    assert all(map(torch.equal, values(again), values(whole)))


def test_when_no_checkpoint_is_whole(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 16, "progress": False}
    pv.fit(vae(), X, out=tmp_path, **settings)
    for file in (tmp_path / "checkpoints").iterdir():
        halved(file)
    with pytest.raises(pv.UsageError, match="no checkpoint of .* can be read"):
        pv.fit(vae(), X, out=tmp_path, resume=True, **settings)
    for file in (tmp_path / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(pv.UsageError, match="has no checkpoint to go on from"):
        pv.fit(vae(), X, out=tmp_path, resume=True, **settings)


# --- a stranger's -------------------------------------------------------------------------------


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in a tree of JSON, as the container and the key there."""
    found = []
    for key in range(len(tree)) if isinstance(tree, list) else list(tree):
        found.append((tree, key))
        if isinstance(tree[key], list | dict) and tree[key]:
            found += nodes(tree[key])
    return found


def deep() -> Any:
    tree: Any = 0
    for _ in range(900):
        tree = [tree]
    return tree


ODD: list[Any] = [
    None, -1, 0, 10**30, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]], {"tensor": "no"},
    {"tensor": 3}, {"tuple": 1}, {"dict": [1]}, {"a": 1, "b": 2}, True,
]  # fmt: skip


def test_checkpoints_of_strangers_are_refused_or_right(tmp_path: Path) -> None:
    """Whole files with other contents: any value in any place, tensors of other shapes."""
    settings: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}
    settings["compile"] = False
    out, file = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.safetensors"
    pv.fit(vae(), X, epochs=2, out=out, validation=0.2, ema=0.9, keep_best=True, **settings)
    tensors, notes = files.read_tensors(file)
    chance = random.Random(0)
    refused = 0
    for number in range(300):
        torn, changed = json.loads(json.dumps(notes)), dict(tensors)
        if number % 3:
            container, key = chance.choice(nodes(torn))
            container[key] = chance.choice([*ODD, deep()])
        else:
            name = chance.choice(list(changed))
            noise = torch.randint_like(changed[name].double(), 256).to(changed[name].dtype)
            odd = [torch.zeros(0), torch.zeros(3, 3), changed[name].double().bool(), noise, None]
            value = chance.choice(odd)
            changed = {k: v for k, v in changed.items() if k != name}
            if value is not None:
                changed[name] = value
        files.write_tensors(file, changed, torn)
        before = sorted(tmp_path.iterdir())
        pair = vae()
        try:
            pv.fit(
                pair, X, epochs=3, out=out, validation=0.2, ema=0.9, keep_best=True, resume=True,
                **settings,
            )  # fmt: skip
        except (pv.UsageError, pv.training.Diverged) as error:
            refused += len(str(error)) < 2000
        assert sorted(tmp_path.iterdir()) == before
    assert refused > 100
