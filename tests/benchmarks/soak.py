"""Many fits and evaluations in one process: what grows, and what is left changed.

    python tests/benchmarks/soak.py --out tests/benchmarks/results/soak.json

A round is one piece of work on a pair made anew (``WORKS``, in turn): training with and without a
run folder, with and without kernels, from a DataLoader, resumed, refused; evaluation, samples,
codes, imputation, log evidence. After ``--warm-up`` rounds and then ``--rows`` times, memory is
collected and looked at: resident bytes, descriptors, threads, live tensors, everything that the
collector knows. "changed" names the states of Pyro, torch, NumPy and Python that are not what they
were before the first round; of the environment's variables and the filters of warnings, not what
they were after the warm-up. ``--trace`` prints where what has grown was allocated (it is slow).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae.runs import environment

X = torch.bernoulli(torch.rand(48, 6, generator=torch.Generator().manual_seed(0)))
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False}


def vae() -> pv.VAE:
    return pv.VAE((6,), 2)


def own() -> pv.Pair:
    """A pair of functions and modules, some of its parameters in Pyro's store."""
    net = nn.Linear(6, 4)

    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.zeros(6))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None] + mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        code = net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(code[..., 0], code[..., 1].exp()))

    return pv.Pair(model, guide)


def kept(seed: int, folder: Path) -> None:
    """A run folder: checkpoints, the best weights, a run that goes on, weights read again."""
    settings = QUICK | {"out": folder, "validation": 0.25, "seed": seed, "compile": False}
    pv.fit(vae(), X, keep_best=True, checkpoint_every=3, **settings)
    pv.fit(vae(), X, keep_best=True, resume=True, **settings | {"epochs": 3})


def refused(seed: int, folder: Path) -> None:
    """Mistakes: their errors hold no pair for ever."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))

    for work in (
        lambda: pv.fit(pv.Pair(model, vae().guide), X, **QUICK),
        lambda: pv.fit(vae(), X[:, :3], **QUICK),
        lambda: pv.evaluate(vae(), X, 0, progress=False),
    ):
        try:
            work()
        except pv.UsageError:
            continue
        raise AssertionError("a mistake was not refused")


def looked_at(seed: int, folder: Path) -> None:
    pair = vae()
    pv.sample(pair, 8, seed=seed)
    pv.encode(pair, X)
    pv.reconstruct(pair, X[:8])
    pv.log_evidence(pair, X[:8], 8, seed=seed, progress=False)


def filled(seed: int, folder: Path) -> None:
    gaps = X[:8].clone()
    gaps[:, seed % 6] = torch.nan
    pv.impute(vae(), gaps, num_particles=20, seed=seed, progress=False)


def streamed(seed: int, folder: Path) -> None:
    loader = DataLoader(TensorDataset(X), batch_size=16, shuffle=True)
    pv.fit(vae(), loader, epochs=2, progress=False, seed=seed)


WORKS: dict[str, Callable[[int, Path], object]] = {
    "fit": lambda seed, folder: pv.fit(vae(), X, seed=seed, compile=False, **QUICK),
    "evaluate": lambda seed, folder: pv.evaluate(vae(), X, 8, seed=seed, progress=False),
    "fit, kernels": lambda seed, folder: pv.fit(vae(), X, seed=seed, compile=True, **QUICK),
    "sample, encode, log_evidence": looked_at,
    "fit, own pair": lambda seed, folder: pv.fit(own(), X, seed=seed, **QUICK),
    "evaluate, own pair": lambda seed, folder: pv.evaluate(own(), X, 8, seed=seed, progress=False),
    "fit --out, --resume": kept,
    "impute": filled,
    "fit, DataLoader": streamed,
    "refused": refused,
}


def looked() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    found = gc.get_objects()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
        "tensors": sum(issubclass(type(each), Tensor) for each in found),
        "modules": sum(issubclass(type(each), nn.Module) for each in found),
        "objects": len(found),
    }


def states() -> dict[str, str]:
    """What belongs to the whole process, in words that can be compared."""
    return {
        "Pyro's store": repr([(n, p.tolist()) for n, p in pyro.get_param_store().items()]),
        "Pyro's handlers": repr(_PYRO_STACK),
        "Pyro's settings": repr(pyro.settings.get()),
        "validation": repr(torch.distributions.Distribution._validate_args),
        "torch's random state": repr(torch.get_rng_state().tolist()),
        "NumPy's random state": repr([str(part) for part in np.random.get_state()]),
        "Python's random state": repr(random.getstate()),
        "torch's defaults": repr(
            (
                torch.get_default_dtype(),
                torch.get_default_device(),
                torch.is_grad_enabled(),
                torch.is_anomaly_enabled(),
                torch.are_deterministic_algorithms_enabled(),
                torch.get_float32_matmul_precision(),
                torch.get_num_threads(),
                torch.is_autocast_enabled("cpu"),
            )
        ),
        "signals": repr([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]),
        "warnings": repr(warnings.filters),
        "hooks": repr((sys.excepthook, threading.excepthook, sys.unraisablehook)),
        "log": repr((logging.root.handlers, logging.getLogger("pyrovae").handlers)),
        "paths": repr((sys.path, Path.cwd())),
        "environment": repr(sorted(os.environ.items())),
    }


def kinds() -> Counter[str]:
    gc.collect()
    return Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())


def soak(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is found, after the warm-up and after each row's rounds."""
    random.seed(options.seed)
    np.random.seed(options.seed)
    torch.manual_seed(options.seed)
    pyro.clear_param_store()
    pyro.param("mine", torch.full((2,), 7.0))
    before, begin = states(), time.monotonic()
    seconds: Counter[str] = Counter()
    table: list[dict[str, int]] = []
    marks = {options.rounds * i // options.rows for i in range(options.rows + 1)}
    for number, (name, work) in zip(
        range(-options.warm_up, options.rounds + 1), itertools.cycle(WORKS.items())
    ):
        if number in marks:
            table.append({"round": number} | looked())
            if not number:
                held, now = kinds(), states()
                before |= {name: now[name] for name in ("environment", "warnings")}
            found = {
                "rounds": number,
                "warm_up": options.warm_up,
                "seed": options.seed,
                "wall_seconds": round(time.monotonic() - begin),
                "seconds": {n: round(s, 1) for n, s in seconds.items()},
                "changed": [n for n, state in states().items() if state != before[n]],
                "grown": dict((kinds() - held).most_common(20)),
                "table": table,
            }
            yield found
        if number < options.rounds:
            start, seed = time.monotonic(), options.seed + options.warm_up + number
            with tempfile.TemporaryDirectory() as place, torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # weights are drawn from the global state
                work(seed, Path(place) / "run")
            seconds[name] += time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    first = None
    for found in soak(options):
        print("  ".join(f"{k} {v:,}" for k, v in found["table"][-1].items()), flush=True)
        if options.out:
            record = json.dumps(found | {"environment": environment()}, indent=2)
            options.out.write_text(record + "\n")
        if options.trace and first is None:
            tracemalloc.start(12)
            first = tracemalloc.take_snapshot()
    print(json.dumps({k: found[k] for k in ("wall_seconds", "seconds", "changed", "grown")}))
    if first is not None:
        for grown in tracemalloc.take_snapshot().compare_to(first, "traceback")[:12]:
            print(grown, *grown.traceback.format(), sep="\n")


if __name__ == "__main__":
    main()
