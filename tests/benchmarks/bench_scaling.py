"""How pyrovae's compiled step grows: batch, latent size, particles, dimensions, data, processes.

    python tests/benchmarks/bench_scaling.py --out scaling.json --figure scaling.png
    python tests/benchmarks/bench_scaling.py --axis batch particles --rounds 3

784-400-20 at batch 128, one particle and 10,000 images, Bernoulli, Adam 1e-3; one of them changes
at a time. The settings of an axis take turns. Steps go through the same door as in bench_step.py,
whose binary images it shares. The data axis is an epoch of pv.fit on a file of bytes, read window
by window, once its kernels are made; processes share the batches of such an epoch, a core each.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from bench_step import EVENT, LATENT, RATE, about, by_pyrovae, images, write
from pyro.infer import Trace_ELBO

import pyrovae as pv

AXES = {
    "batch": [32, 128, 512, 2048, 8192],
    "latent": [2, 20, 128, 512],
    "particles": [1, 4, 16, 64],
    "dimensions": [784, 3072, 12_288],
    "data": [1000, 10_000, 100_000, 1_000_000, 10_000_000],
    "processes": [1, 2],
}
USUAL = {
    "batch": 128,
    "latent": LATENT,
    "particles": 1,
    "dimensions": 784,
    "data": 10_000,
    "processes": 1,
}
POOL = 8
TICKS = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200]


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def stepper(setting: dict[str, int], seed: int, device: torch.device) -> Callable[[int], float]:
    """Seconds per step, given how many to take."""
    torch.manual_seed(seed)
    size = setting["dimensions"]
    event = EVENT if size == USUAL["dimensions"] else (size,)
    vae = pv.VAE(event, setting["latent"]).to(device)
    pool = images(-(-POOL * setting["batch"] * size // USUAL["dimensions"]), seed).flatten()
    pool = pool[: POOL * setting["batch"] * size].view(-1, *event)
    batches = pool.to(device).split(setting["batch"])
    several = setting["particles"] > 1
    elbo = Trace_ELBO(setting["particles"], vectorize_particles=several, max_plate_nesting=1)
    store: Any = {"params": {}, "constraints": {}}
    with pyro.get_param_store().scope(store):
        step = by_pyrovae(vae, elbo, batches, compiled=True)

    def run(steps: int) -> float:
        with pyro.get_param_store().scope(store), pyro.validation_enabled(False):
            start = now(device)
            for _ in range(steps):
                step()
            return (now(device) - start) / steps

    return run


def of_bytes(file: Path, count: int, seed: int) -> pv.data.FileData:
    """Binary images as bytes in a file."""
    rows = np.lib.format.open_memmap(file, "w+", np.uint8, (count, *EVENT))
    some = images(min(count, 10_000), seed).numpy().astype(np.uint8)
    for start in range(0, count, len(some)):
        rows[start : start + len(some)] = some[: count - start]
    rows.flush()
    return pv.data.FileData(file)


def epoch(x: Any, setting: dict[str, int], seed: int, device: torch.device) -> float:
    """Seconds per step of an epoch of pv.fit after a first one, which validates and compiles."""
    marks: list[float] = []

    class Clock(pv.callbacks.Callback):
        def epoch(self, run: pv.callbacks.Run) -> None:
            marks.append(now(device))

    torch.manual_seed(seed)
    options = {"epochs": 2, "batch_size": setting["batch"], "lr": RATE, "device": device}
    vae = pv.VAE(EVENT, setting["latent"])
    pv.fit(vae, x, compile=True, callbacks=[Clock()], progress=False, **options)
    if not marks:  # of the first process alone
        return math.nan
    return (marks[1] - marks[0]) / -(-len(x) // setting["batch"])


def fitter(setting: dict[str, int], seed: int, device: torch.device) -> Callable[[int], float]:
    folder = tempfile.TemporaryDirectory()
    x = of_bytes(Path(folder.name) / "images.npy", setting["data"], seed)

    def run(steps: int) -> float:
        assert folder.name  # gone with this function
        return epoch(x, setting, seed, device)

    return run


def joined(setting: dict[str, int], seed: int, device: torch.device) -> Callable[[int], float]:
    """Processes that share each batch, a thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
    command += [str(setting["processes"]), __file__, "--one-epoch", "--seed", str(seed)]
    threads = {"OMP_NUM_THREADS": "1"}

    def run(steps: int) -> float:
        done = subprocess.run(
            command, env=os.environ | threads, capture_output=True, text=True, check=True
        )
        return float(done.stdout.split("seconds per step:")[1].split()[0])

    return run


def measure(axis: str, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    settings = [USUAL | {axis: value} for value in AXES[axis]]
    make = {"data": fitter, "processes": joined}.get(axis, stepper)
    runs = [make(setting, options.seed, device) for setting in settings]
    if make is stepper:
        for run in runs:  # compiles, and warms caches
            run(options.steps)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(options.rounds if make is stepper else options.epochs):
        for run, taken in zip(runs, seconds, strict=True):
            taken.append(run(options.steps))
    rows = []
    for setting, taken in zip(settings, seconds, strict=True):
        ratios = [a / b for a, b in zip(taken, seconds[0], strict=True)]
        passes = setting["batch"] * setting["particles"]
        rows.append(
            {
                "axis": axis,
                "value": setting[axis],
                "setting": setting,
                "seconds_per_step": taken,
                "median_ms": 1e3 * statistics.median(taken),
                "passes_per_second": passes / statistics.median(taken),
                "against_first": {
                    "median": statistics.median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                },
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| axis | value | ms per step | against the axis's first | images x particles per s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        grown = row["against_first"]
        lines.append(
            f"| {row['axis']} | {row['value']:,} | {row['median_ms']:.3f} | {grown['median']:.2f} "
            f"({grown['low']:.2f} to {grown['high']:.2f}) | {row['passes_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Time per step against each axis, both logarithmic, and what would be proportional."""
    import matplotlib.pyplot as plt

    axes = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    figure, panels = plt.subplots(
        2, -(-len(axes) // 2), figsize=(9, 5), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(axes) :]:
        panel.set_visible(False)
    for axis, panel in zip(axes, panels.flat, strict=False):
        mine = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in mine]
        each = [sorted(1e3 * second for second in row["seconds_per_step"]) for row in mine]
        panel.plot(values, [row["median_ms"] for row in mine], "o-", color="C0")
        panel.fill_between(values, [e[0] for e in each], [e[-1] for e in each], alpha=0.2)
        if axis not in ("data", "processes"):
            last = mine[-1]["median_ms"]
            line = [last * value / values[-1] for value in values]
            panel.plot(values, line, ":", color="grey", linewidth=1)
        panel.set_ylim(0.7 * min(e[0] for e in each), 1.5 * max(e[-1] for e in each))
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=8, rotation=20)
        ticks = [tick for tick in TICKS if panel.get_ylim()[0] < tick < panel.get_ylim()[1]]
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.set_ylabel("ms per step")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2, help="of data and processes: rounds")
    parser.add_argument("--figure", help="a picture of it")
    parser.add_argument("--one-epoch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0, help="0: as PyTorch chooses")
    parser.add_argument("--most", type=int, help="leave out the values of an axis above this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file; the table is written beside it as .md")
    options = parser.parse_args()
    cuda = torch.cuda.is_available() if options.device == "auto" else options.device == "cuda"
    device = torch.device("cuda:0" if cuda else "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.one_epoch:
        seconds = epoch(images(USUAL["data"], options.seed), USUAL, options.seed, device)
        if math.isfinite(seconds):
            print(f"seconds per step: {seconds}")
        return
    if options.most is not None:
        for axis, values in AXES.items():
            AXES[axis] = [value for value in values if value <= options.most]
    rows = list(itertools.chain(*(measure(axis, options, device) for axis in options.axis)))
    asked = vars(options) | {"out": None, "figure": None}
    report = {"options": asked, "seed": options.seed, "results": rows}
    report["environment"] = about(device)
    report["pyrovae_through"] = "svi.SVI" if hasattr(pv.svi, "SVI") else "svi.Step"
    write(options.out, report, table(rows))
    print(table(rows))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
