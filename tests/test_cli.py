"""The command line: what it accepts, what it refuses and how, what it leaves on disk."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from test_components import GUIDES, LIKELIHOODS, PRIORS
from test_objectives import OBJECTIVES

import pyrovae as pv
from pyrovae import cli
from pyrovae.cli import options
from pyrovae.cli.options import PARTS as OPTION_PARTS
from pyrovae.cli.options import fit_options, program

SHARED = Path(os.environ.get("PYROVAE_DATA") or Path(__file__).parents[2] / "shared" / "data")
TINY = ["--epochs", "1", "--num-particles", "10", "--quiet"]
SMALL = ["--likelihood.network.hidden", "[16]", "--guide.network.hidden", "[16]"]

Run = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a folder of its own: nothing may be left in it by accident."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(run: Run, here: Path) -> Callable[..., str]:
    """The one line that a refusal prints, having left nothing on disk."""

    def refused(*arguments: object) -> str:
        before = sorted(here.rglob("*"))
        done = run(*arguments, code=2)
        assert done.out == ""
        assert re.fullmatch(r"pyrovae: error: [^\n]{10,620}\n", done.err), done.err
        assert sorted(here.rglob("*")) == before
        return str(done.err)

    return refused


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of every kind, sound and not."""
    folder = tmp_path_factory.mktemp("data")
    grey = pv.data.load("mnist5k").train.tensors[0][:200].numpy()
    binary = (grey > 127).astype(np.float32)
    rng = np.random.default_rng(0)
    bad, infinite = binary.copy(), binary.copy()
    bad[3, 0, 4, 5], infinite[3, 0, 4, 5] = np.nan, np.inf
    weights = rng.random((120, 3, 1, 1))
    across, up = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    arrays = {
        "bytes": grey,
        "binary": binary,
        "grey": (grey / 255).astype(np.float32),
        "nan": bad,
        "infinite": infinite,
        "empty": np.zeros((0, 4)),
        "one": binary[:1],
        "two": binary[:2],
        "names": np.array(["a", "b"]),
        "colour": (255 * (weights * across + (1 - weights) * up)).astype(np.uint8),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "grey_test.npz", x_train=binary[:150], x_test=arrays["grey"][150:])
    np.savez(folder / "infinite_test.npz", x_train=binary[:150], x_test=infinite[:50])
    (folder / "cut.npy").write_bytes((folder / "binary.npy").read_bytes()[:5000])
    (folder / "nothing.npy").touch()
    (folder / "nothing.csv").touch()
    (folder / "no.npz").write_bytes(b"not a zip file")
    (folder / "no.pt").write_bytes(b"not a tensor")
    (folder / "text.csv").write_text("a,b\n1,2\n3,foo\n")
    (folder / "odd.xyz").write_text("1")
    table = rng.normal(size=(150, 3)) @ rng.normal(size=(3, 12)) + 0.1 * rng.normal(size=(150, 12))
    with (folder / "table.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([*(f"c{i}" for i in range(12)), "kind"])
        lines.writerows([*row, "up" if row[0] > 0 else "down"] for row in table)
    (folder / "images").mkdir()
    for i, width in enumerate((8, 8, 9)):
        Image.fromarray(np.zeros((8, width), np.uint8)).save(folder / "images" / f"{i}.png")
    (folder / "no_images").mkdir()
    return folder


@pytest.fixture(scope="session")
def runs(files: Path) -> Iterator[Path]:
    """One small run of each kind of data, for the commands that read runs."""
    folder = files / "runs"
    conv = "network ConvNet --{0}.network.channels [4] --{0}.network.hidden 8"
    kinds = {
        "binary": f"binary.npy {' '.join(SMALL)}",
        "colour": f"colour.npy --likelihood Normal --likelihood.{conv.format('likelihood')} "
        f"--guide.{conv.format('guide')} --latent-dim 2 --batch-size 32",
        "table": "table.csv --label kind --likelihood Normal --batch-size 32 --validation 0",
        "digits": "digits --likelihood Normal --likelihood.scale per_dimension --latent-dim 1",
    }
    for name, arguments in kinds.items():
        data, *flags = arguments.split()
        data = data if data == "digits" else str(files / data)
        with pytest.raises(SystemExit) as stopped:
            cli.main(["fit", "--data", data, *flags, *TINY, "--out", str(folder / name)])
        assert stopped.value.code == 0
    yield folder
    shutil.rmtree(folder)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        timing = ("seconds", "images_per_second")
        return [{k: v for k, v in row.items() if k not in timing} for row in csv.DictReader(file)]


def config(run: Path) -> dict[str, object]:
    read: dict[str, object] = yaml.safe_load((run / "config.yaml").read_text())
    return read


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"], ["--version"]])
def test_help_and_version_open_no_torch(arguments: list[str]) -> None:
    program = f"""
import sys
from pyrovae import cli
try:
    cli.main({arguments!r})
except SystemExit as stopped:
    assert stopped.code == 0
heavy = {{"torch", "pyro", "numpy", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    if arguments == ["--version"]:
        assert done.stdout == f"pyrovae {pv.__version__}\n"
    else:
        assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_shows_its_examples(command: str, run: Run) -> None:
    done = run(command, "--help")
    assert f"\nexamples:\n  pyrovae {command}" in done.out and done.err == ""
    assert cli.COMMANDS[command].__doc__.splitlines()[0] in done.out  # type: ignore[union-attr]


def test_the_help_of_fit_names_every_class_and_the_arguments_of_those_chosen(run: Run) -> None:
    words = re.split(r"[\s,;]+", run("fit", "--help").out)
    for option, part in OPTION_PARTS.items():
        for name, cls in pv.components.classes(part).items():
            assert name in words
            told = run("fit", f"--{option}", name, "--help").out
            assert all(
                f"--{option}.{a}".replace("_", "-") in told for a in pv.components.slots(cls)
            )
    for whole in ([], ["--likelihood", "Normal"]):  # a part of a part, whose class is said or not
        told = run("fit", *whole, "--likelihood.network", "ResNet", "--help").out
        arguments = pv.components.slots(pv.networks.ResNet)
        assert all(f"--likelihood.network.{name}" in told for name in arguments)


def test_a_setting_is_the_same_in_python_and_on_the_command_line() -> None:
    """Name, default and words are those of pv.fit's signature and docstring."""
    settings, own = pv.signatures.options(pv.fit), options.all_options()
    assert all(setting.words for setting in settings.values())
    assert set(options.INSTEAD) <= settings.keys()
    for name, setting in settings.items():
        if name in own and name not in options.INSTEAD:
            assert own[name][1:] == (setting.default, setting.words)
        else:  # what no text can give, or what has another option in its place
            assert name in ("loss", "lr_schedule", "optimizer", "callbacks", *options.INSTEAD)
    given, _ = fit_options(cli.fit, [])
    assert all(getattr(given, name) == settings[name].default for name in options.of_fit())


def test_what_others_call_it_leads_to_what_there_is(run: Run) -> None:
    """Every synonym's targets are options, arguments of pv.fit, classes or commands, and the class
    of one has the argument; none is a synonym of what it is already."""
    told = [run(command, "--help").out for command in cli.COMMANDS]
    flags = {flag.replace("-", "_") for text in told for flag in re.findall(r" --([\w-]+)", text)}
    classes = {n: c for part in pv.components.PARTS for n, c in pv.components.classes(part).items()}
    words = {word for words in options.WORDS.values() for word in words}
    known = {*flags, *pv.signatures.options(pv.fit), *classes, *cli.COMMANDS, *words}
    known |= {*pv.aggregate.KINDS}
    for word, targets in pv.errors.SYNONYMS.items():
        assert word == re.sub("[-_]", "", word).lower() and targets
        for target in targets:
            name, mark, rest = re.fullmatch(r"(\w+)([.=]?)(.*)", target).groups()  # type: ignore
            assert name in known, target
            if mark == "=":
                room, cls, argument = re.fullmatch(r"(\w+)\.(\w+)\((\w+)\)", rest).groups()  # type: ignore
                assert argument in pv.components.slots(getattr(getattr(pv, room), cls)), target
            elif mark == ".":
                assert f"--{name}.{rest}" in run("fit", "--help").out, target


# --- classes and their arguments ---------------------------------------------------------------


@pytest.fixture
def parts() -> Callable[..., dict[str, object]]:
    """Prior, likelihood and guide of the program that ``fit`` would train, and its loss."""

    def parts(*arguments: object) -> dict[str, object]:
        given, made = fit_options(cli.fit, [str(argument) for argument in arguments])
        _, config = program(pv.data.TensorData(torch.zeros(2, 1, 28, 28)), 10, given, made)
        losses = {name: made[name] for name in ("loss", "lr_schedule")}
        return config | {name: pv.components.describe(part) for name, part in losses.items()}

    return parts


def described(path: str, **arguments: object) -> dict[str, object]:
    return {"class_path": f"pyrovae.{path}", "init_args": arguments}


def mlp(hidden: list[int] | None = None, activation: str = "ReLU") -> dict[str, object]:
    return described("networks.MLP", hidden=hidden or [400], activation=activation)


def convnet(channels: list[int]) -> dict[str, object]:
    return described("networks.ConvNet", channels=channels, hidden=256, activation="ReLU")


def normal(network: object, scale: object = "shared") -> dict[str, object]:
    return described("likelihoods.Normal", network=network, scale=scale, units="auto")


@pytest.mark.parametrize(
    ("arguments", "part", "expected"),
    [
        ([], "prior", described("priors.StandardNormal")),
        ([], "guide", described("guides.MeanField", network=mlp())),
        (["--likelihood", "Normal"], "likelihood", normal(mlp())),
        (["--likelihood=pyrovae.likelihoods.Normal"], "likelihood", normal(mlp())),
        (
            ["--likelihood.scale", "per_dimension", "--likelihood", "Normal"],
            "likelihood",
            normal(mlp(), "per_dimension"),
        ),
        (["--likelihood", "Normal", "--likelihood.scale=0.5"], "likelihood", normal(mlp(), 0.5)),
        (
            [
                *("--likelihood=Normal", "--likelihood.network", "ConvNet"),
                *("--likelihood.network.channels", "[8,16]"),
            ],
            "likelihood",
            normal(convnet([8, 16])),
        ),
        (
            ["--guide.network.hidden", "[300,300]", "--guide.network.activation", "Tanh"],
            "guide",
            described("guides.MeanField", network=mlp([300, 300], "Tanh")),
        ),
    ],
)
def test_flags_reach_the_arguments_of_classes(
    parts: Callable[..., dict[str, object]], arguments: list[str], part: str, expected: object
) -> None:
    assert parts(*arguments)[part] == expected


def test_configs_by_hand_and_flags_over_them(
    parts: Callable[..., dict[str, object]], here: Path
) -> None:
    (here / "c.yaml").write_text(
        "prior: StandardNormal\n"
        "likelihood: {class_path: Normal, init_args: {scale: 0.5, network: ConvNet}}\n"
        "guide: {class_path: MeanField, init_args: {network: {init_args: {hidden: [30]}}}}\n"
        "epochs: 3\nlr: 1e-2\nlatent_dim: 5\nquiet: true\n"
    )
    small = described("guides.MeanField", network=mlp([30]))
    made = parts("--config", "c.yaml")
    assert made["likelihood"] == normal(convnet([32, 64]), 0.5) and made["guide"] == small

    # another likelihood keeps the configured network, and drops what is not its own
    made = parts("--config", "c.yaml", "--likelihood", "Bernoulli", "--guide.network.hidden", "[7]")
    assert made["likelihood"] == described(
        "likelihoods.Bernoulli", network=convnet([32, 64]), units="auto"
    )
    assert made["guide"] == described("guides.MeanField", network=mlp([7]))
    # another network starts from its own defaults
    made = parts("--config", "c.yaml", "--guide.network", "ConvNet")
    assert made["guide"] == described("guides.MeanField", network=convnet([32, 64]))

    given, _ = fit_options(cli.fit, ["--epochs", "7", "--config", "c.yaml"])
    got = (given.epochs, given.lr, given.latent_dim, given.quiet, given.batch_size)
    assert got == (7, 0.01, 5, True, None)  # of the batch: as many as there are, 128 at most


@pytest.mark.parametrize("flag", ["latent-dim", "latent_dim"])
def test_dashes_and_underscores(flag: str) -> None:
    assert fit_options(cli.fit, [f"--{flag}", "3"])[0].latent_dim == 3
    assert fit_options(cli.fit, [f"--{flag}=3"])[0].latent_dim == 3


def test_a_new_class_appears_by_itself(
    parts: Callable[..., dict[str, object]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wide(pv.networks.Network):
        def __init__(self, factor: float, body: pv.networks.Network | None = None) -> None:
            self.factor, self.body = factor, body

        def build(self, inputs: tuple[int, ...], outputs: object) -> torch.nn.Module:
            return pv.networks.MLP([4]).build(inputs, outputs)

    Wide.__module__, Wide.__qualname__ = "pyrovae.networks", "Wide"
    monkeypatch.setattr(pv.networks, "Wide", Wide, raising=False)
    monkeypatch.setattr(pv.networks, "__all__", [*pv.networks.__all__, "Wide"])
    flags = ["--guide.network", "Wide", "--guide.network.factor", "2"]
    expected = described("networks.Wide", factor=2.0, body=None)
    made = parts(*flags)
    assert made["guide"] == described("guides.MeanField", network=expected)
    assert pv.components.describe(pv.components.construct(made["guide"])) == made["guide"]
    assert parts(*flags, "--guide.network.body", "MLP")["guide"] == described(
        "guides.MeanField", network=described("networks.Wide", factor=2.0, body=mlp())
    )
    assert "did you mean 'Wide'" in run("fit", "--guide.network", "Wid", code=2).err
    assert "Wide needs factor" in run("fit", "--guide.network", "Wide", code=2).err


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("fti", "did you mean 'fit'"),
        ("fit --data mnits", "did you mean 'mnist'"),
        ("fit --prior Standard", "did you mean 'StandardNormal'"),
        ("fit --likelihood Bernuli", "did you mean 'Bernoulli'"),
        ("fit --likelihood os.system", "no likelihood 'os.system'"),
        ("fit --guide Meanfield", "did you mean 'MeanField'"),
        ("fit --likelihood.network ConvNt", "did you mean 'ConvNet'"),
        ("fit --guide.network torch.nn.Linear", "no network 'torch.nn.Linear'"),
        ("fit --likelihood.netwrk ConvNet", "did you mean 'network'"),
        ("fit --likelihood.network.hiden [3]", "did you mean 'hidden'"),
        ("fit --likelihood.network.hidden abc", "list of whole numbers"),
        ("fit --likelihood.network.hidden [0]", "positive whole numbers"),
        ("fit --likelihood.network.activation Reul", "did you mean 'ReLU'"),
        ("fit --likelihood.scale 3", "no argument of Bernoulli"),
        ("fit --likelihood Normal --likelihood.scale foo", "per_dimension"),
        ("fit --likelihood Normal --likelihood.scale -1", "positive number"),
        ("fit --likelihood", "--likelihood needs a value"),
        ("fit --likelihood --epochs 3", "--likelihood needs a value"),
        ("fit --loss trac", "did you mean 'trace'"),
        ("fit --epochz 3", "did you mean '--epochs'"),
        ("fit --epoch 3", "did you mean '--epochs'"),
        ("fit --beta 4", "did you mean '--loss BetaELBO --loss.beta'"),
        ("fit --kl-weight=4", "did you mean '--loss BetaELBO --loss.beta'"),
        ("fit --units 3", "did you mean '--latent-dim'"),
        ("fit --latent 3", "did you mean '--latent-dim'"),
        ("fit --z-dim 3", "did you mean '--latent-dim'"),
        ("fit --zdim=3", "did you mean '--latent-dim'"),
        ("fit --learning-rate 1", "did you mean '--lr'"),
        ("fit --batch 3", "did you mean '--batch-size'"),
        ("fit --hidden [3]", "did you mean '--guide.network.hidden'"),
        ("fit --optim Adam", "pv.fit(pair, x, optimizer=...)"),
        ("fit --callbacks x", "pv.fit(pair, x, callbacks=...)"),
        ("fit --loss ELBO", "did you mean 'trace'"),
        ("fit --likelihood Gaussian", "did you mean 'Normal'"),
        ("fit --prior gaussian", "did you mean 'StandardNormal'"),
        ("train", "did you mean 'fit'"),
        ("traverse nowhere --units [3]", "did you mean '--dims'"),
        ("sample nowhere --samples 3", "did you mean '--n'"),
        ("fit --epochs 0", "at least 1"),
        ("fit --epochs abc", "--epochs must be a whole number, got 'abc'"),
        ("fit --epochs 1.5", "--epochs must be a whole number"),
        ("fit --epochs", "--epochs expected one argument"),
        ("fit foo", "unrecognized arguments: foo"),
        ("fit --lr 0", "lr must be a positive number"),
        ("fit --lr -1", "lr must be a positive number"),
        ("fit --lr nan", "--lr must be a number"),
        ("fit --latent-dim 0", "at least 1"),
        ("fit --latent-dim -3", "at least 1"),
        ("fit --latent-dim abc", "--latent-dim must be a whole number"),
        ("fit --latent-dim 1000000000000", "memory"),
        ("fit --validation 1.5", "cannot hold out 1.5"),
        ("fit --validation -1", "cannot hold out -1"),
        ("fit --validation 5000", "cannot hold out 5000"),
        ("fit --validation nan", "--validation must be a number"),
        ("fit --batch-size 0", "at least 1"),
        ("fit --batch-size 5000", "larger than the 4500"),
        ("fit --num-particles 0", "--num-particles must be at least 1"),
        ("fit --seed -1", "--seed must be at least 0"),
        ("fit --device cuda:99", "cpu"),
        ("fit --device foo", "device 'foo' is not usable"),
        ("fit --device meta", "device 'meta' is not usable"),
        ("fit --binarise foo", "no way to binarise 'foo'"),
        ("fit --data mnist5k --likelihood Bernoulli --binarise none", "--binarise dynamic"),
        ("fit --label x", "label"),
        ("evaluate nowhere", "there is no saved model"),
        ("evaluate", "required: run"),
        ("info", "give a run folder, or --data"),
        ("info nowhere", "there is no saved model"),
        ("info --data nowhere.csv", "there is no file 'nowhere.csv'"),
    ],
)
def test_refusals(refused: Callable[..., str], arguments: str, said: str) -> None:
    assert said in refused(*arguments.split())


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("missing.npy", "there is no file"),
        ("binry.npy", "did you mean 'binary.npy'"),
        ("nowhere/x.npy", "nor a folder"),
        ("odd.xyz", "not known by its suffix"),
        ("cut.npy", "cannot be read"),
        ("nothing.npy", "cannot be read"),
        ("nothing.csv", "there are no data"),
        ("no.npz", "cannot be read"),
        ("no.pt", "cannot be read"),
        ("text.csv", "column 'b' has 'foo' in data row 2"),
        ("names.npy", "not real numbers"),
        ("grey.npy --likelihood Bernoulli", "--binarise dynamic"),
        ("bytes.npy --likelihood Bernoulli", "--binarise dynamic"),
        ("infinite.npy", "entries that are infinite"),
        ("infinite_test.npz", "entries that are infinite"),
        ("grey_test.npz", "--binarise dynamic"),
        ("empty.npy", "there are no data"),
        ("one.npy", "at least 2 are needed"),
        ("images", "one size"),
        ("no_images", "there are no images"),
    ],
)
def test_refused_data(refused: Callable[..., str], files: Path, file: str, said: str) -> None:
    name, *flags = file.split()
    assert said in refused("fit", "--data", files / name, *flags)


def test_a_download_without_a_network_ends_soon(
    refused: Callable[..., str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    (here / "data").mkdir()
    start = time.monotonic()
    assert "cannot be downloaded" in refused("fit", "--data", "cifar10", "--data-dir", "data")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read c.yaml"),
        ("data: [1,\n", "it is not a YAML file"),
        ("\x00", "it is not a YAML file"),
        ("", "not a mapping"),
        ("- 1\n- 2\n", "not a mapping"),
        ("epochz: 3\n", "did you mean 'epochs'"),
        ("1: 3\n", "no option for c.yaml to set: 1"),
        ("config: c.yaml\n", "no option for c.yaml"),
        ("epochs: many\n", "c.yaml: epochs must be a whole number"),
        ("quiet: 3\n", "c.yaml: quiet must be true or false"),
        ("lr: -1\n", "lr must be a positive number"),
        ("likelihood: 3\n", "likelihood must be the name of a class"),
        ("likelihood: {class_path: Normal, scale: 3}\n", "class_path and init_args"),
        ("likelihood: {class_path: Normal, init_args: [3]}\n", "class_path and init_args"),
        ("likelihood: {class_path: Normal, init_args: {scal: 3}}\n", "did you mean 'scale'"),
        ("likelihood: os.system\n", "no likelihood 'os.system'"),
        ("prior: {class_path: os.system, init_args: {command: touch x}}\n", "no prior"),
        ("guide: {init_args: {network: {class_path: torch.nn.Linear}}}\n", "no network"),
        ('!!python/object/apply:os.system ["touch x"]\n', "no tags"),
    ],
)
def test_refused_configs(
    refused: Callable[..., str], here: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (here / "c.yaml").write_text(text)
    assert said in refused("fit", "--config", "c.yaml")


def test_a_foreign_class_is_not_imported(refused: Callable[..., str], here: Path) -> None:
    (here / "foreign.py").write_text("raise SystemExit('imported')\n")
    (here / "c.yaml").write_text("likelihood: {class_path: foreign.Thing}\n")
    sys.path.insert(0, str(here))
    try:
        refused("fit", "--likelihood", "foreign.Thing")
        refused("fit", "--guide.network=foreign.Thing")
        refused("fit", "--config", "c.yaml")
    finally:
        sys.path.remove(str(here))
    assert "foreign" not in sys.modules


@pytest.mark.parametrize("out", ["file", "file/run", "/proc/x", "/proc/x/y", "/dev/null", "full"])
def test_refused_run_folders(refused: Callable[..., str], here: Path, out: str) -> None:
    if out.startswith("/") and not Path(out).parents[-2].is_dir():
        pytest.skip(f"there is no {Path(out).parents[-2]} here")
    (here / "file").touch()
    (here / "full").mkdir()
    (here / "full" / "notes.txt").touch()
    assert "choose another" in refused("fit", "--out", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("evaluate RUN --num-particles 0", "--num-particles must be at least 1"),
        ("evaluate RUN --data digits", "the run models data of shape (1, 28, 28)"),
        ("evaluate RUN --data FILES/grey.npy", "--binarise dynamic"),
        ("evaluate RUN --data FILES/infinite_test.npz", "entries that are infinite"),
        ("evaluate RUN other", "unrecognized arguments: other"),
        ("evaluate RUN --evidence aiss", "'importance' or 'ais', got 'aiss'"),
        ("sample RUN --out x.jpg", "ends with one of .png, .npy, .csv, .tsv, .parquet, got x.jpg"),
        ("sample RUN --n 0", "--n must be at least 1"),
        ("sample RUN --mean perhaps", "--mean must be true or false"),
        ("sample RUN --out FILES/one.npy/x.png", "cannot write"),
        ("sample RUN --out FILES/one.npy/x.npy", "cannot write"),
        ("reconstruct RUN --n 0", "--n must be at least 1"),
        ("reconstruct RUN --n -2", "--n must be at least 1"),
        ("reconstruct RUN --draws -1", "--draws must be at least 0"),
        ("interpolate RUN --start 3", "give both --start and --end"),
        ("interpolate RUN --start 3 --end -1", "indices 0 to 19, got -1"),
        ("interpolate RUN --start 20 --end 3", "indices 0 to 19, got 20"),
        ("interpolate RUN --steps 1", "--steps must be at least 2"),
        ("interpolate RUN --method linaer", "did you mean 'linear'"),
        ("traverse RUN --index -1", "indices 0 to 19, got -1"),
        ("traverse RUN --dims [20]", "units 0 to 19"),
        ("traverse RUN --dims [-1]", "units 0 to 19"),
        ("traverse RUN --dims 3", "--dims must be a list of whole numbers"),
        ("traverse RUN --steps 0", "--steps must be at least 1"),
        ("traverse RUN --span nan", "--span must be a number"),
        ("calibrate RUN --draws 50", "bins must divide draws + 1: 20 does not divide 51"),
        ("info RUN --data digits", "give a run folder, or --data"),
    ],
)
def test_refused_uses_of_a_run(
    refused: Callable[..., str], runs: Path, files: Path, arguments: str, said: str
) -> None:
    arguments = arguments.replace("RUN", str(runs / "binary")).replace("FILES", str(files))
    assert said in refused(*arguments.split())


def test_a_corrupt_model_is_refused(refused: Callable[..., str], runs: Path, here: Path) -> None:
    whole = (runs / "binary" / "model.safetensors").read_bytes()
    for broken in (b"", b"hello", whole[: len(whole) // 2], b"\xff" * 64):
        (here / "model.safetensors").write_bytes(broken)
        for command in ("evaluate", "sample", "info"):
            assert "corrupt or cut off" in refused(command, here)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(pv.UsageError, match="epochs"):
        cli.main(["fit", "--debug", "--epochs", "0"])
    with pytest.raises(pv.UsageError, match="no command"):
        cli.main(["--debug", "fti"])


def test_a_defect_is_called_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise KeyError("x")

    monkeypatch.setitem(cli.COMMANDS, "info", broken)  # type: ignore[arg-type]
    err = run("info", code=1).err
    assert err.count("\n") == 1 and "internal error: KeyError" in err and "--debug" in err


# --- runs --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["auto", "true"])
def test_a_run_is_evaluated_on_what_it_held_out(run: Run, files: Path, stream: str) -> None:
    flags = ["--stream", stream, "--epochs", 1, "--num-particles", 5, "--out", "run"]
    run("fit", "--data", files / "bytes.npy", "--binarise", "dynamic", *flags, *SMALL)
    assert config(Path("run"))["stream"] == ("true" if stream == "true" else "false")
    told = json.loads((Path("run") / "evaluation.json").read_text())
    assert json.loads(run("evaluate", "run", "--num-particles", 5, "--json").out) == told
    few = ("--num-particles", 5, "--evidence", "ais", "--chains", 2, "--temperatures", 2)
    annealed = json.loads(run("evaluate", "run", *few, "--leapfrogs", 1, "--json").out)
    assert annealed["annealed"]["temperatures"] == 2 and annealed["sandwich"]["data"] == 32


@pytest.mark.slow
def test_a_run_is_repeated_by_its_config(run: Run, files: Path, here: Path) -> None:
    flags = ["--data", files / "bytes.npy", "--binarise", "dynamic", "--epochs", 2, "--seed", 5]
    first = run("fit", *flags, "--num-particles", 10, "--out", "runs/a", *SMALL)
    assert first.err.count("epoch ") == 2 and "device cpu" in first.err
    assert "ELBO" in first.out and first.out.endswith("\nruns/a\n")
    again = run("fit", "--config", "runs/a/config.yaml", "--out", "runs/b")
    assert again.out.replace("runs/b", "runs/a") == first.out
    assert metrics(Path("runs/a")) == metrics(Path("runs/b")) and len(metrics(Path("runs/a"))) == 2
    assert config(Path("runs/a")) == config(Path("runs/b"))
    weights = [(here / "runs" / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    run("fit", "--config", "runs/a/config.yaml", "--seed", "6", "--out", "runs/c")
    assert (here / "runs/c/model.safetensors").read_bytes() != weights[0]
    names = {path.name for path in (here / "runs/a").rglob("*")}
    assert names == {
        *("config.yaml", "metrics.csv", "model.safetensors", "environment.json"),
        *("evaluation.json", "figures", "training.png", "reconstructions.png", "samples.png"),
        *("interpolation.png", "latent_map.png", "kl.png"),
        *("checkpoints", "last.safetensors", "best.safetensors", "data.json"),
    }


@pytest.mark.slow
def test_a_new_process_finds_the_same_numbers(run: Run, runs: Path, here: Path) -> None:
    shutil.copytree(runs / "binary", here / "run")
    saved = json.loads((here / "run" / "evaluation.json").read_text())
    arguments = ["evaluate", "run", "--json", "--num-particles", "10"]
    command = [sys.executable, "-c", "from pyrovae.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout) == saved == json.loads(run(*arguments).out)


def test_another_run_is_not_taken_up(run: Run, files: Path, here: Path) -> None:
    """Whatever the options change of a run that was begun is named, and its folder left alone."""
    begun = ["--data", files / "bytes.npy", "--binarise", "dynamic", *TINY, *SMALL, "--out", "run"]
    run("fit", *begun)
    before = (here / "run" / "config.yaml").read_bytes()
    for flags, said in (
        ("--guide.network.activation Tanh", "guide.network.activation was 'ReLU', is now 'Tanh'"),
        ("--prior Laplace", "pair.prior was StandardNormal, is now Laplace"),
        ("--likelihood ContinuousBernoulli", "likelihood was Bernoulli, is now Continuous"),
        ("--latent-dim 3", "latent_dim was 20, is now 3"),
        ("--loss IWAE", "loss was Trace_ELBO("),
        ("--binarise threshold", "was dynamic, is now "),
        ("--data mnist5k", "data was 162 data"),
        ("--validation 5", "data was 162 data"),
    ):
        flags = [*flags.split(), "--epochs", 3]
        assert said in run("fit", "--out", "run", "--resume", *flags, code=2).err, flags
    assert (here / "run" / "config.yaml").read_bytes() == before
    run("fit", "--out", "run", "--resume", "--epochs", 2)
    assert len(metrics(here / "run")) == 2


def test_default_folders_do_not_collide(run: Run, files: Path) -> None:
    arguments = ["fit", "--data", files / "binary.npy", *TINY, *SMALL]
    outs = {run(*arguments).out.splitlines()[-1] for _ in range(2)}
    assert len(outs) == 2
    assert all(re.fullmatch(r"runs/vae-binary-[\d-]+", out) for out in outs)


def test_ten_rows_train_and_a_size_that_was_given_is_kept_to(run: Run, here: Path) -> None:
    np.save(here / "ten.npy", np.random.default_rng(0).normal(size=(10, 3)).astype("float32"))
    few = ["fit", "--data", "ten.npy", "--likelihood", "Normal", *TINY, *SMALL, "--out", "run"]
    assert "larger than the 8 training data" in run(*few, "--batch-size", 9, code=2).err
    done = run(*few)
    assert "one datum alone" in done.out and "collapsed" not in done.out
    assert config(here / "run")["batch_size"] is None
    # what an earlier version wrote goes on: a number, where there were so many data
    run(*few, "--batch-size", 8, "--resume", "--epochs", 2)
    assert len(metrics(here / "run")) == 2


def test_resuming_what_is_not_there_says_that_it_begins(run: Run, files: Path) -> None:
    few = ["fit", "--data", files / "binary.npy", "--epochs", 1, "--num-particles", 5, *SMALL]
    said = run(*few, "--out", "new", "--resume").err
    assert "there is no run in new to go on with: it begins anew" in said
    said = run(*few, "--out", "new", "--resume", "--epochs", 2).err
    assert "begins anew" not in said and "going on after step" in said


@pytest.mark.filterwarnings("always:column 1 of x")
def test_missing_data_are_refused_where_nothing_is_known_and_said_where_a_column_is(
    run: Run, refused: Callable[..., str], here: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    x[:, 1] = np.nan
    np.save(here / "column.npy", x)
    np.save(here / "none.npy", np.full_like(x, np.nan))
    few = ["--likelihood", "Normal", *TINY, *SMALL]
    for name in ("VAE", "MissingData", "GaussianMixture"):
        said = refused("fit", "--data", "none.npy", "--program", name, *few)
        assert "all entries of the" in said and "are missing (NaN)" in said
    assert "column 1 of x is missing (NaN) in all" in run("fit", "--data", "column.npy", *few).err


def test_force_replaces_its_own_files_alone(run: Run, files: Path, here: Path) -> None:
    arguments = ["fit", "--data", files / "binary.npy", *TINY, *SMALL, "--out", "run"]
    run(*arguments, "--epochs", 2)
    for name in ("notes.txt", "figures/mine.png", "figures/traversal.png"):
        (here / "run" / name).write_text("x")
    assert "--force" in run(*arguments, code=2).err
    assert len(metrics(here / "run")) == 2
    run(*arguments, "--latent-dim", 1, "--force")
    assert len(metrics(here / "run")) == 1 and config(here / "run")["latent_dim"] == 1
    assert (here / "run/notes.txt").read_text() == (here / "run/figures/mine.png").read_text()
    assert not (here / "run/figures/traversal.png").exists()
    assert not (here / "run/figures/latent_map.png").exists()  # one dimension has no map


def test_validation_zero_and_quiet(run: Run, files: Path, here: Path) -> None:
    arguments = ["fit", "--data", files / "two.npy", *TINY, *SMALL, "--batch-size", 1]
    done = run(*arguments, "--validation", 0, "--out", "run")
    assert "epoch" not in done.err and done.err.count("\n") == 2
    assert not any(name.startswith("validation") for name in metrics(here / "run")[0])


# The verbs that draw: how they are asked, and the axes of what they give; "x" is one datum's.
DRAWING: list[tuple[str, list[object]]] = [
    ("sample", [64, "x"]),
    ("sample --n 1 --mean false", [1, "x"]),
    ("reconstruct --n 1", [1, "x"]),
    ("reconstruct --n 3 --draws 2", [2, 3, "x"]),
    ("interpolate --steps 3", [5, 3, "x"]),
    ("interpolate --start 0 --end 0 --method spherical", [1, 10, "x"]),
    ("traverse --dims [0] --steps 1 --span 0.5", [1, 1, "x"]),
    ("calibrate --simulations 40 --draws 19", [40, "z"]),
]


def test_every_verb_that_draws_has_a_row() -> None:
    drawing = {name for name, verb in cli.COMMANDS.items() if getattr(verb, "figure", None)}
    assert {asked.split()[0] for asked, _ in DRAWING} == drawing


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "colour", "table", "digits"])
def test_every_command_on_every_kind(run: Run, runs: Path, here: Path, kind: str) -> None:
    folder = here / "run"
    shutil.copytree(runs / kind, folder)
    event = {"binary": [1, 28, 28], "colour": [3, 32, 32], "table": [12], "digits": [1, 8, 8]}[kind]
    units = config(folder)["latent_dim"]
    assert "ELBO" in run("evaluate", folder, "--num-particles", 10).out
    for asked, axes in DRAWING:
        command, *flags = asked.split()
        for file in ("x.npy", "x.png"):
            assert run(command, folder, *flags, "--out", file).out.endswith(f"{file}\n")
        shape = [size for axis in axes for size in {"x": event, "z": [units]}.get(axis, [axis])]
        assert list(np.load("x.npy").shape) == shape
        assert np.isfinite(np.load("x.npy")).all()
        with Image.open("x.png") as image:
            assert np.asarray(image.convert("L")).std() > 0
    out = run("traverse", folder).out
    assert out == f"{folder / 'figures' / 'traversal.png'}\n" and Path(out.strip()).is_file()
    said = run("info", folder, "--full").out
    assert "VAE" in said and "class_path" in said and "torch" in said
    said = run("info", folder).out
    assert "class_path" not in said and "{" not in said and said.count("\n") < 30
    found, ended = json.loads((folder / "evaluation.json").read_text()), metrics(folder)[-1]
    for words in (
        *("VAE", f"latent_dim   {units}", "1 of 1 epochs", f"{float(ended['step']):.0f} steps"),
        *(Path(str(config(folder)["data"])).name, "to train on", f"{float(ended['elbo']):,.2f}"),
        *(f"{found['elbo']['mean']:,.2f}", found["verdict"], "metrics.csv", "figures/samples.png"),
    ):
        assert words in said, words


def test_paths_of_rows_have_a_panel_for_every_column(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[5, 10, 12] are five paths of rows of twelve columns, not five grey images."""
    drawn: list[Figure] = []
    save = Figure.savefig

    def saved(figure: Figure, *args: object, **given: object) -> None:
        drawn.append(figure)
        save(figure, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", saved)
    run("interpolate", runs / "table", "--out", "x.png")
    panels = [panel for panel in drawn[0].axes if panel.lines]
    assert [panel.get_title() for panel in panels] == [f"c{i}" for i in range(12)]
    assert all([len(line.get_xdata()) for line in panel.lines] == [10] * 5 for panel in panels)


def test_evaluating_other_data_leaves_the_run_alone(run: Run, runs: Path, files: Path) -> None:
    saved = (runs / "binary" / "evaluation.json").read_bytes()
    other = ["--data", files / "grey.npy", "--binarise", "threshold", "--num-particles", 5]
    found = json.loads(run("evaluate", runs / "binary", *other, "--json").out)
    assert found["num_particles"] == 5
    assert (runs / "binary" / "evaluation.json").read_bytes() == saved


def test_a_model_file_alone_needs_data(run: Run, runs: Path, files: Path, here: Path) -> None:
    shutil.copy(runs / "binary" / "model.safetensors", here / "m.safetensors")
    assert "give --data" in run("evaluate", "m.safetensors", code=2).err
    run("evaluate", "m.safetensors", "--data", files / "binary.npy", "--num-particles", 5)
    run("sample", "m.safetensors", "--n", 2, "--out", "x.png")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("digits", "train 1,437, test 360, shape [1, 8, 8], 10 classes"),
        ("colour.npy", "values: numbers in [0, 1]"),
        ("binary.npy", "values: 0 or 1"),
        ("nan.npy", "1 missing or infinite"),
        ("table.csv", "2 classes"),
    ],
)
def test_info_on_data(run: Run, files: Path, data: str, said: str) -> None:
    label = ["--label", "kind"] if data == "table.csv" else []
    name = data if data == "digits" else files / data
    assert said in run("info", "--data", name, *label).out


def test_warnings_are_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    import warnings

    def warns(arguments: list[str]) -> None:
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)

    monkeypatch.setitem(cli.COMMANDS, "info", warns)  # type: ignore[arg-type]
    assert run("info").err == "pyrovae: warning: look out\n"


def test_full_mnist(run: Run) -> None:
    if not (SHARED / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("the full MNIST is not at hand: set PYROVAE_DATA to the folder that holds it")
    said = run("info", "--data", "mnist", "--data-dir", SHARED).out
    assert "train 60,000, test 10,000, shape [1, 28, 28], 10 classes" in said


# --- Ctrl-C ------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from pyrovae.cli import main; main()"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} was never said")


@pytest.mark.slow
def test_one_interrupt_saves_the_run(run: Run, files: Path, here: Path) -> None:
    data = ["--data", files / "binary.npy", "--epochs", 1_000_000, *SMALL]
    process = start("fit", *data, "--out", "run")
    wait_for("epoch 1/", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    last = err.splitlines()[-1]
    epoch = len(metrics(here / "run")) + 1
    assert re.fullmatch(rf"pyrovae: training stopped in epoch {epoch}\b.*goes on.* run", last)
    names = {path.name for path in (here / "run").iterdir()}
    assert names == {
        *("config.yaml", "metrics.csv", "model.safetensors", "environment.json", "checkpoints"),
        "data.json",
    }
    assert all(np.isfinite(float(v)) for row in metrics(here / "run") for v in row.values())
    assert "ELBO" in run("evaluate", "run", "--num-particles", 5).out
    run("fit", "--config", "run/config.yaml", "--epochs", 1, "--out", "again", "--quiet")


@pytest.mark.slow
def test_two_interrupts_stop_at_once(files: Path) -> None:
    slow = ["--guide.network.hidden", "[3000,3000,3000]", "--latent-dim", 2]
    data = ["--data", files / "binary.npy", "--batch-size", 162, "--epochs", 1_000_000]
    process = start("fit", *data, *slow)
    wait_for("epoch 1/", process)
    process.send_signal(signal.SIGINT)
    wait_for("finishing this step", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("pyrovae: ")


def flags(option: str, described: dict) -> list[str]:
    """A described component as the flags that mean it."""
    found = [f"--{option}={described['class_path'].rpartition('.')[2]}"]
    for name, value in described["init_args"].items():
        if isinstance(value, dict):
            found += flags(f"{option}.{name}", value)
        elif value is not None:
            found.append(f"--{option}.{name}={json.dumps(value)}".replace('"', ""))
    return found


PARTS = {
    "prior": PRIORS,
    "likelihood": {k: v for k, v in LIKELIHOODS.items() if k != "Mixed"},
    "guide": GUIDES,
    "loss": OBJECTIVES,
}


@pytest.mark.parametrize(
    ("option", "name"), [(option, name) for option, table in PARTS.items() for name in table]
)
def test_every_class_is_an_option_with_its_own_arguments(
    parts: Callable[..., dict[str, object]], option: str, name: str
) -> None:
    part = PARTS[option][name]()
    given = flags(option, pv.components.describe(part))
    beside = {"prior": "guide", "guide": "prior"}.get(option)
    if beside is not None:  # of another space they would be refused
        others = (make() for make in PARTS[beside].values())
        other = next(other for other in others if other.space == part.space)
        given += flags(beside, pv.components.describe(other))
    assert parts(*given, "--latent-dim=6")[option] == pv.components.describe(part)


@pytest.mark.slow
def test_labels_reach_a_prior_of_labels_and_a_density_can_be_sampled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """p(z|y) trains on named data with their labels, and answers every command."""
    run = str(tmp_path / "run")
    small = ["--likelihood.network.hidden=[8]", "--guide.network.hidden=[8]", "--quiet"]
    few = ["--data=digits", "--likelihood=Binomial", "--likelihood.total_count=16", "--epochs=2"]
    more = ["--prior=Conditional", "--num-particles=5", "--latent-dim=2", f"--out={run}"]
    cli.fit([*few, *small, *more])
    for command in ("evaluate", "reconstruct", "interpolate", "traverse"):
        getattr(cli, command)([run])
    cli.sample([run])
    for density in ("mixture", "flow"):
        cli.sample([run, f"--density={density}", f"--out={tmp_path / 'z.npy'}", "--n=7"])
        assert np.load(tmp_path / "z.npy").shape == (7, 1, 8, 8)
    assert "nats per datum over the prior" in capsys.readouterr().out
    with pytest.raises(pv.UsageError, match="there is no density 'gmm'"):
        cli.sample([run, "--density=gmm"])


def test_missing_entries_train_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype("float32")
    x[::7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    data = [f"--data={tmp_path / 'x.npy'}", f"--out={tmp_path / 'run'}", "--latent-dim=2"]
    rest = ["--likelihood=Normal", "--loss=IWAE", "--epochs=3", "--num-particles=5", "--quiet"]
    cli.fit([*data, *rest, "--batch-size=32"])
    said = capsys.readouterr().err
    assert re.search(r"\d+ of 291 training entries are missing \(NaN\), left out", said)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert math.isfinite(found["log_evidence"]["mean"])
