"""The rooms keep their order, and the declarative VAE is a leaf."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import conftest
import pytest

PACKAGE = Path(__file__).parents[1] / "pyrovae"
ORDER = [
    "errors", "turns", "markup", "progress", "memory", "summaries", "arrays", "layouts", "serving",
    "signatures", "outlines",
    "files", "locks", "cells", "schema", "tensors", "pictures", "sources", "sparse",
    "tables", "streams", "randomness", "data", "labels", "components", "networks", "units",
    "schedules", "distributions", "supports", "priors", "likelihoods", "guides", "program", "vae",
    "traces", "objectives", "kernels", "optimisers", "svi", "processes", "checkpoints", "runs",
    "callbacks", "training", "potentials", "hmc", "annealing", "posteriors", "framing",
    "evaluation", "oracles", "generation", "exports", "sklearn", "measures", "arviz", "aggregate",
    "calibration", "plots", "programs", "explorer", "cli",
]  # fmt: skip


def sources(room: str) -> list[Path]:
    """The files of a room: one, or a folder of them."""
    folder = PACKAGE / room
    return sorted(folder.glob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]


def internal(node: ast.AST) -> list[str]:
    """Rooms of the package that an import statement opens."""
    if isinstance(node, ast.ImportFrom) and node.module:
        if node.module == "pyrovae":
            return [alias.name for alias in node.names]
        if node.module.startswith("pyrovae."):
            return [node.module.split(".")[1]]
    if isinstance(node, ast.Import):
        names = [a.name for a in node.names if a.name.startswith("pyrovae.")]
        return [name.split(".")[1] for name in names]
    return []


def test_every_room_has_its_place() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"assets"}
    assert files | folders == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room: str) -> None:
    for path in sources(room):
        for node in ast.walk(ast.parse(path.read_text())):
            for opened in internal(node):
                inside = opened == room and len(sources(room)) > 1
                assert inside or ORDER.index(opened) < ORDER.index(room), f"{path} opens {opened}"


@pytest.mark.parametrize("room", ORDER)
def test_no_internal_import_hides_in_a_function(room: str) -> None:
    for path in sources(room):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    assert not internal(node), f"{path}: {function.name}"


def test_poutine_and_matplotlib_have_one_user() -> None:
    for room in set(ORDER) - {"traces"}:
        assert all("poutine" not in path.read_text() for path in sources(room)), room
    for room in set(ORDER) - {"plots"}:
        assert all("matplotlib" not in path.read_text() for path in sources(room)), room


def test_yaml_has_one_reader() -> None:
    for path in PACKAGE.rglob("*.py"):
        used = set(re.findall(r"\byaml\.(\w+)", path.read_text()))
        assert path.name == "files.py" or used <= {"safe_dump"}, path


def test_plain_functions_need_no_vae() -> None:
    """Everything works on two functions when vae.py cannot be imported."""
    program = """
import sys
import tomllib
sys.modules["pyrovae.vae"] = None  # any import of it fails
import torch, pyro, pyro.distributions as dist, pyrovae as pv
torch.manual_seed(0)
decoder, encoder = torch.nn.Linear(2, 4), torch.nn.Linear(4, 4)
def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)
def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))
x = torch.randn(64, 4)
pair = pv.Pair(model, guide)
pv.fit(pair, x, epochs=2, batch_size=16, progress=False)
found = pv.evaluate(pair, x, 50)
assert found.log_evidence.mean() > found.elbo.mean()
assert pv.sample(pair, 3).shape == (3, 4) and pv.reconstruct(pair, x).shape == (64, 4)
assert pv.interpolate(pair, x[:2], x[2:4], 5).shape == (2, 5, 4)
assert pv.traverse(pair, x)[0].shape[1:] == (9, 4)
assert pv.calibrate(pair, x, simulations=100).ranks.shape == (100, 2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_workers_share_the_cores(tmp_path: Path) -> None:
    """Each worker of pytest, and what it starts, has as many threads as its share of the cores."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_threads.py").write_text(
        """
import subprocess, sys, pathlib, pytest, torch
@pytest.mark.parametrize("number", range(2))
def test_threads(number):
    program = "import torch; print(torch.get_num_threads())"
    started = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    own = torch.get_num_threads()
    pathlib.Path(f"{number}.txt").write_text(f"{own} {started.stdout}")
"""
    )
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("OMP_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
    subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, check=True)
    share = max(1, conftest.CORES // 2)
    for number in range(2):
        assert (tmp_path / f"{number}.txt").read_text().split() == [str(share)] * 2


def test_every_requirement_names_the_oldest_version_that_is_tested() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = ("excel", "explore", "onnx", "parquet", "tensorboard")
    for room in (project["dependencies"], *map(extras.get, optional)):
        for requirement in room:
            assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement
    for requirement in extras["test"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+|pyrovae\[.*\]", requirement), requirement


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the package, with where it is."""
    return [
        (f"{path.relative_to(PACKAGE)}: {node.name}", node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, FUNCTIONS)
    ]


def complexity(node: ast.AST) -> int:
    """Cyclomatic complexity as radon counts it: 1, and what a function branches at (``if``, loops
    and their ``else``, handlers, comprehensions and their conditions, ``and``, ``or``,
    ``assert``); of the functions inside it each has its own."""
    return 1 + sum(map(branches, node.body))


def branches(node: ast.AST) -> int:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return 0
        case ast.If() | ast.IfExp() | ast.Assert():
            own = 1
        case ast.For() | ast.AsyncFor() | ast.While():
            own = 1 + bool(node.orelse)
        case ast.Try():
            own = len(node.handlers) + bool(node.orelse)
        case ast.BoolOp():
            own = len(node.values) - 1
        case ast.comprehension():
            own = 1 + len(node.ifs)
        case ast.Match():
            own = len(node.cases) - 1
        case _:
            own = 0
    return own + sum(map(branches, ast.iter_child_nodes(node)))


def test_the_measure_of_complexity_counts_what_branches() -> None:
    text = """
def f(x):
    def g(y):
        return y and x or 1
    for a in [b for b in x if b]:
        assert a
    else:
        try:
            return a if x else g(a)
        except (ValueError, TypeError):
            pass
        except LookupError:
            while x:
                x = x.last
"""
    # the comprehension and its condition, the loop and its else, assert, the choice, two
    # handlers, the loop
    (f,) = ast.parse(text).body
    assert complexity(f) == 1 + 2 + 2 + 1 + 1 + 2 + 1
    assert complexity(f.body[0]) == 1 + 2


def test_few_functions_are_complex() -> None:
    """By radon's measure (:func:`complexity`), in which ``and`` and comprehensions count."""
    found = {where: n for where, node in functions() if (n := complexity(node)) > 10}
    assert len(found) <= 25, found


def test_functions_are_short() -> None:
    """Ninety lines at most after the docstring, which may be a contract of many lines."""
    for where, node in functions():
        body = node.body[1:] if ast.get_docstring(node) else node.body
        assert not body or body[-1].end_lineno - body[0].lineno < 90, where


def test_few_annotations_are_any() -> None:
    """What is annotated: arguments, what functions return, variables."""
    total = loose = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [getattr(node, name, None) for name in ("annotation", "returns")]
            for annotation in filter(None, found):
                total += 1
                names = {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}
                loose += "Any" in names
    assert loose <= 0.08 * total, f"{loose} of {total}"
