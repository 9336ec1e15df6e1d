"""A pair of the user's own on the command line: every verb on it; code runs only where named."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import pyrovae as pv
from pyrovae import cli

MINE = """
import pathlib
import pyro
import pyro.distributions as dist
import torch
from torch import nn
import pyrovae as pv
from beside import WIDTH

with pathlib.Path("ran.txt").open("a") as file:
    file.write("ran\\n")


class Linear(nn.Module):
    def __init__(self, size, shift=None):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(WIDTH, size), nn.Linear(size, 2 * WIDTH)
        self.shift = shift  # no buffer: only the training data give it back

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(WIDTH), 1.0).to_event(1))
            loc = self.decoder(z) if self.shift is None else self.decoder(z) + self.shift
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, raw = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def build():
    return Linear(5)


def shaped(event_shape):
    return Linear(*event_shape)


def from_data(data, more=1):
    return Linear(data.shape[1], shift=100 * data.mean(0))


def functions():
    def model(x):
        w = pyro.param("w", torch.full((5,), 0.1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * w, 0.5).to_event(1), obs=x)

    def guide(x):
        a = pyro.param("a", torch.full((5,), 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ a, 1.0))

    return model, guide


def labelled(classes):
    means = nn.Embedding(classes, 5)

    def model(x, y):
        pyro.module("means", means)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = means(y) + z.sum(-1, keepdim=True)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
            pyro.sample("z", dist.Normal(x[:, :2], scale).to_event(1))

    return pv.Pair(model, guide)


def declared(event_shape):
    return pv.VAE(event_shape, 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([4])))


pair = Linear(5)
number = 3


def asks(width):
    return Linear(width)


def fails():
    return 1 / 0


def gives_none():
    return None


def faulty():
    def model(x):
        raise KeyError("nothing here")

    return model, model
"""
GIVING = ["build", "shaped", "functions", "labelled", "declared", "pair"]
TINY = ["--epochs", "2", "--num-particles", "10", "--quiet"]
VERBS = [
    *("evaluate --num-particles 10", "sample --n 5", "reconstruct --n 2", "interpolate --steps 3"),
    *("traverse --steps 3 --dims [0]", "calibrate --simulations 20 --draws 9 --bins 5"),
    *("explore --export page.html --points 10", "info"),
]

Run = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with code and data; what the code brings is forgotten after."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("WIDTH = 2\n")
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(80, 1)) @ rng.normal(size=(1, 5))).astype("float32")
    x += 0.3 * rng.normal(size=(80, 5)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xy.npz", x=x, y=rng.integers(0, 3, 80))
    yield tmp_path
    for name in {*sys.modules} - known:
        if name in ("mine", "beside") or name.startswith("pyrovae_pair"):
            del sys.modules[name]


def data_of(name: str) -> str:
    return "xy.npz" if name == "labelled" else "x.npy"


@pytest.mark.slow
@pytest.mark.parametrize("name", GIVING)
def test_a_pair_is_trained_and_every_verb_opens_the_run(run: Run, here: Path, name: str) -> None:
    pair = ["--pair", f"mine.py:{name}"]
    done = run("fit", *pair, "--data", data_of(name), *TINY, "--out", "run")
    assert "ELBO" in done.out and "no figure" not in done.err
    config = yaml.safe_load((here / "run" / "config.yaml").read_text())
    assert config["pair"] == f"{here / 'mine.py'}:{name}" and "prior" not in config
    names = {path.name for path in (here / "run").rglob("*")}
    assert {"model.safetensors", "metrics.csv", "evaluation.json", "environment.json"} <= names
    assert {"training.png", "reconstructions.png", "samples.png", "interpolation.png"} <= names
    told = json.loads((here / "run" / "evaluation.json").read_text())
    for verb in VERBS:
        command, *flags = verb.split()
        done = run(command, "run", *pair, *flags)
        more = "networks are also given y" if (name, command) == ("labelled", "explore") else ""
        assert done.out and more in done.err and (more or not done.err), verb
    found = json.loads(run("evaluate", "run", *pair, "--num-particles", 10, "--json").out)
    assert found == told


@pytest.mark.slow
def test_a_run_of_python_is_opened_by_its_code_and_data(run: Run, here: Path) -> None:
    sys.path.insert(0, str(here))
    sys.modules.pop("mine", None)  # that of another test
    import mine  # type: ignore[import-not-found]

    x = torch.as_tensor(np.load(here / "x.npy"))
    for name in ("build", "functions"):
        pair = getattr(mine, name)()
        pv.fit(pair, x, epochs=2, out=here / name, progress=False)
        exact = float(pv.elbo(pair, x[:1], 1, seed=3))
        code = ["--pair", f"mine.py:{name}"]
        opened = cli.verbs.Run(
            SimpleNamespace(
                run=here / name, pair=code[1], data="x.npy", seed=0, device="cpu", allow=[]
            )
        )
        assert float(pv.elbo(opened.pair, x[:1], 1, seed=3)) == exact
        said = run("sample", name, *code, code=2).err
        assert "does not say what data it was trained on; give --data" in said
        assert "--pair" in run("evaluate", name, "--data", "x.npy", code=2).err
        for verb in VERBS:
            command, *flags = verb.split()
            assert run(command, name, *code, "--data", "x.npy", *flags).out, verb
        assert "a pair of its own code" in run("info", name).out


@pytest.mark.slow
def test_nothing_that_a_run_names_is_run(run: Run, here: Path) -> None:
    """Who opens a stranger's folder runs code only by naming it."""
    run("fit", "--pair", "mine.py:build", "--data", "x.npy", *TINY, "--out", "run")
    (here / "ran.txt").unlink()
    for verb in VERBS[:-1]:
        command, *flags = verb.split()
        said = run(command, "run", *flags, code=2).err
        assert f"run was made of {here / 'mine.py'}:build; give --pair" in said
    run("fit", "--config", "run/config.yaml", "--out", "again", code=2)
    run("fit", "--out", "run", "--resume", "--epochs", 3, code=2)
    said = run("info", "run").out
    assert "mine.py:build" in said and "2 of 2 epochs" in said
    assert "class" not in said and "pair:" in run("info", "run", "--full").out
    assert not (here / "ran.txt").exists()
    pair = ["--pair", "mine.py:build"]
    run("fit", "--config", "run/config.yaml", *pair, "--out", "again", "--quiet")
    weights = [(here / name / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1] and (here / "ran.txt").exists()
    run("fit", "--out", "run", "--resume", "--epochs", 3, *pair)
    assert len((here / "run" / "metrics.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_what_code_takes_from_data_is_of_the_data_that_it_was_trained_on(
    run: Run, here: Path
) -> None:
    """Other data to measure do not make another pair."""
    pair = ["--pair", "mine.py:from_data"]
    run("fit", *pair, "--data", "x.npy", *TINY, "--out", "run")
    np.save(here / "other.npy", np.load(here / "x.npy") + 7)
    ask = ["--mean", "false", "--n", 3, "--out", "drawn.npy"]
    run("sample", "run", *pair, *ask)
    drawn = np.load("drawn.npy")
    run("sample", "run", *pair, *ask, "--data", "other.npy")
    assert np.array_equal(np.load("drawn.npy"), drawn)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mine.py", "such as mine.py:build; got 'mine.py'"),
        ("mine:build", "such as mine.py:build"),
        ("mine.py:", "such as mine.py:build"),
        ("mine.py:a.b", "such as mine.py:build"),
        ("miine.py:build", "there is no file 'miine.py'; did you mean 'mine.py'?"),
        ("mine.py:biuld", "mine.py has no 'biuld'; did you mean 'build'?"),
        ("mine.py:number", "mine.py:number is 3, which is no pair: give pv.Pair(model, guide)"),
        ("mine.py:gives_none", "mine.py:gives_none gives None, which is no pair"),
        ("mine.py:asks", "asks for width, which the command line has not: it gives data, event_sh"),
        ("mine.py:fails", r"mine.py:fails raised: ZeroDivisionError: division by zero, line \d+"),
        ("mine.py:faulty", "nothing here"),
        ("mine.py:labelled", "mine.py:labelled raised: TypeError"),
        ("absent.py:f", "absent.py cannot be run: ModuleNotFoundError: No module named 'nowhere'"),
        ("syntax.py:f", "syntax.py cannot be run: SyntaxError: .*line 1 of syntax.py"),
        ("ends.py:f", r"ends.py cannot be run: SystemExit: .*line 1 of ends.py"),
    ],
)
def test_mistakes_in_the_code_are_one_sentence(run: Run, here: Path, given: str, said: str) -> None:
    (here / "absent.py").write_text("import nowhere\n")
    (here / "syntax.py").write_text("def f(:\n")
    (here / "ends.py").write_text("raise SystemExit(3)\n")
    before = sorted(path for path in here.iterdir() if path.name != "ran.txt")
    err = run("fit", "--pair", given, "--data", "x.npy", *TINY, code=2).err
    assert re.fullmatch(r"pyrovae: error: [^\n]{10,620}\n", err) and "internal" not in err
    assert re.search(said if "\\" in said or ".*" in said else re.escape(said), err), err
    after = sorted(path for path in here.iterdir() if path.name not in ("ran.txt", "__pycache__"))
    assert after == [path for path in before if path.name != "__pycache__"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--likelihood Normal", "--likelihood has no place beside it"),
        ("--program Conditional", "--program has no place beside it"),
        ("--latent-dim 3", "--latent-dim has no place beside it"),
    ],
)
def test_parts_of_a_program_have_no_place_beside_a_pair(run: Run, flags: str, said: str) -> None:
    assert said in run("fit", "--pair", "mine.py:build", *flags.split(), code=2).err


def test_weights_of_another_pair_do_not_fit(run: Run, here: Path) -> None:
    run("fit", "--pair", "mine.py:build", "--data", "x.npy", *TINY, "--out", "run")
    (here / "beside.py").write_text("WIDTH = 3\n")
    del sys.modules["beside"]
    shutil.rmtree(here / "__pycache__", ignore_errors=True)
    said = run("evaluate", "run", "--pair", "mine.py:build", code=2).err
    assert "does not fit the pair" in said and "wrong shape" in said


@pytest.mark.slow
def test_integers_and_single_numbers_are_data_of_a_pair(run: Run, here: Path) -> None:
    """What the programs take decides: an embedding's integers stay integers; what is observed may
    be one number, of another shape than the data."""
    (here / "words.py").write_text(
        """
import pyro, torch
import pyro.distributions as dist
from torch import nn

table, head = nn.Embedding(7, 4), nn.Linear(2, 7)

def model(x):
    pyro.module("head", head)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        logits = head(z)[..., None, :].expand(*z.shape[:-1], 3, 7)
        pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

def guide(x):
    pyro.module("table", table)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(table(x).mean(-2)[..., :2], 1.0).to_event(1))

def one(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

def other(x):
    a = pyro.param("a", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(a * x[:, 0], 1.0))

words, numbers = (model, guide), (one, other)
"""
    )
    rng = np.random.default_rng(0)
    np.save(here / "words.npy", rng.integers(0, 7, (60, 3)))
    np.save(here / "numbers.npy", rng.normal(size=60).astype("float32"))
    for name in ("words", "numbers"):
        pair = ["--pair", f"words.py:{name}"]
        run("fit", *pair, "--data", f"{name}.npy", *TINY, "--out", name)
        for verb in VERBS[:5]:
            command, *flags = verb.split()
            assert run(command, name, *pair, *flags).out, verb
