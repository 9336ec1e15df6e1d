"""What every test shares: its part of the cores, no screen, and no figure left to the next test."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

# Each worker of `-n auto`, and what it starts, has its share of the cores. Libraries look when they
# are loaded: this comes before.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, CORES // WORKERS)))

# files that hold the dependencies to little more than the others do, for most of the time
SLOW = {
    *("annealing", "architecture", "devices", "distributed", "fingerprint", "fuzz", "hostile"),
    *("latents", "locks", "missing", "objectives", "posterior", "practice", "processes"),
    "programs",
    *("progress", "prose", "readme", "repro_kinds", "resume", "site", "soak", "streams"),
    *("structured", "survival", "svi", "terminal", "tutorials", "zoo"),
}


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # to files with most tests first: order them by time


def _is_slow(item: pytest.Item) -> bool:
    return item.path.stem.removeprefix("test_") in SLOW


@pytest.hookimpl(hookwrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Slow files are marked, before what is marked is left out; and come first, whatever else puts
    tests in an order: one that begins last keeps a worker busy when the others are done."""
    for item in filter(_is_slow, items):
        item.add_marker("slow")
    yield
    items.sort(key=lambda item: not _is_slow(item))


def pytest_collection_finish() -> None:
    """Torch is a million objects: to look through them again and again was a tenth of the time."""
    gc.set_threshold(20_000, 20, 50)


def pytest_runtest_setup() -> None:
    """The same random numbers in each test and its fixtures, whatever ran before."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """The command line in this process: what it prints, if it ends with the code expected."""
    from pyrovae import cli

    def run(*arguments: object, code: int = 0) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (stopped.value.code or 0) == code, err
        assert "Traceback" not in err
        return SimpleNamespace(out=out, err=err)

    return run
