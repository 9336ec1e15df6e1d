"""How pyrovae's compiled step grows with batch, latent size, particles and data.

    python tests/benchmarks/bench_scaling.py --out scaling.json
    python tests/benchmarks/bench_scaling.py --axis batch particles --rounds 3

784-400-20 at batch 128, one particle and 10,000 images, Bernoulli, Adam 1e-3; one of the four
changes at a time. The settings of an axis take turns. The data axis is an epoch of pv.fit, the
others are steps through the same door as in bench_step.py, whose binary images it shares.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from bench_step import EVENT, LATENT, RATE, about, by_pyrovae, images, write
from pyro.infer import Trace_ELBO

import pyrovae as pv

AXES = {
    "batch": [32, 128, 512, 2048],
    "latent": [2, 20, 100, 500],
    "particles": [1, 5, 20],
    "data": [1000, 10_000, 60_000],
}
USUAL = {"batch": 128, "latent": LATENT, "particles": 1, "data": 10_000}
POOL = 8


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def stepper(setting: dict[str, int], seed: int, device: torch.device) -> Callable[[int], float]:
    """Seconds per step, given how many to take."""
    torch.manual_seed(seed)
    vae = pv.VAE(EVENT, setting["latent"]).to(device)
    batches = images(POOL * setting["batch"], seed).to(device).split(setting["batch"])
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


def fitter(setting: dict[str, int], seed: int, device: torch.device) -> Callable[[int], float]:
    """Seconds per step of an epoch of pv.fit, everything it checks before and after included."""
    x = images(setting["data"], seed)

    def run(steps: int) -> float:
        torch.manual_seed(seed)
        vae = pv.VAE(EVENT, setting["latent"])
        start = now(device)
        batch = setting["batch"]
        pv.fit(vae, x, epochs=1, batch_size=batch, lr=RATE, device=device, progress=False)
        return (now(device) - start) / -(-len(x) // batch)

    return run


def measure(axis: str, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    settings = [USUAL | {axis: value} for value in AXES[axis]]
    make = fitter if axis == "data" else stepper
    runs = [make(setting, options.seed, device) for setting in settings]
    for run in runs:  # compiles, and warms caches
        run(options.steps)
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(options.rounds):
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
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
    if options.most is not None:
        for axis, values in AXES.items():
            AXES[axis] = [value for value in values if value <= options.most]
    rows = list(itertools.chain(*(measure(axis, options, device) for axis in options.axis)))
    report = {"options": vars(options) | {"out": None}, "seed": options.seed, "results": rows}
    report["environment"] = about(device)
    report["pyrovae_through"] = "svi.SVI" if hasattr(pv.svi, "SVI") else "svi.Step"
    write(options.out, report, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
