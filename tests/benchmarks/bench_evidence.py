"""Annealed importance sampling beside importance sampling, and what a leapfrog step costs.

    python tests/benchmarks/bench_evidence.py --run RUN --data-dir DIR [--images 300]
    python tests/benchmarks/bench_evidence.py --cost
    python tests/benchmarks/bench_evidence.py --quadrature

The first measures a run's test images both ways, and the bounds on simulated ones, and writes
results/evidence.json; the second times one evaluation of a default VAE's densities and gradients
(16 chains of 100 data) beside its decoder's own forward and backward pass, in turns; the third
holds both against quadrature on 300 digits of a VAE of two dimensions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyro
import torch

import pyrovae as pv
from pyrovae.potentials import Potential
from pyrovae.traces import Density, Problem

RESULTS = Path(__file__).parent / "results" / "evidence.json"


def environment() -> dict[str, object]:
    """Command, versions, machine, date."""
    cpu = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].split("\n")[0]
    return {
        "command": " ".join(["python", *(Path(a).name if "/" in a else a for a in sys.argv)]),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def table(run: Path, folder: Path, images: int, temperatures: int) -> dict[str, object]:
    """Both log evidences of a run's first test images."""
    vae = pv.load(run)
    test = pv.data.load("mnist", folder).test.binarised("dynamic")
    x = test.select(torch.arange(images)).fixed()
    began = time.time()
    found = pv.evaluate(vae, x, 1000, evidence="ais", temperatures=temperatures)
    summary = found.to_dict()
    summary["seconds"] = round(time.time() - began)
    summary["khat_and_shortfall"] = [
        [round(float(k), 2), round(float(a - i), 2)]
        for k, a, i in zip(found.khat, found.log_evidence, found.importance, strict=True)
    ]
    print(found)
    return summary | {"images": images, "seed": 0}


def quadrature(images: int = 300) -> dict[str, object]:
    """How far annealing, and 1,000 particles, are from the integral: nats, per digit."""
    torch.manual_seed(0)
    digits = pv.data.load("mnist5k")
    small = pv.networks.MLP([64])  # quadrature asks for a million digits
    parts = {"likelihood": pv.likelihoods.Bernoulli(small), "guide": pv.guides.MeanField(small)}
    vae = pv.VAE((1, 28, 28), 2, **parts)
    pv.fit(vae, digits.train.binarised("dynamic"), epochs=8, progress=False, compile=False)
    x = digits.test.binarised("dynamic").select(torch.arange(images)).fixed()
    exact = pv.exact_log_evidence(vae, x, points=60)
    rows = {}
    for leapfrogs, temperatures in ((5, 100), (5, 400), (1, 400), (1, 1600), (1, 6400)):
        path = pv.Annealing(temperatures=temperatures, leapfrogs=leapfrogs)
        began = time.time()
        rows[str(path)] = _off(pv.anneal(vae, x, path).log_evidence - exact, began)
    began = time.time()
    particles = pv.evaluate(vae, x, 1000)
    rows["1,000 particles"] = _off(particles.log_evidence - exact, began)
    off, khat = particles.log_evidence - exact, particles.khat
    trusted = off[khat < particles.khat_limit]
    return {
        "images": images,
        "rows": rows,
        "particles with a k-hat below its limit": len(trusted),
        "the worst of them": round(float(trusted.min()), 2) if len(trusted) else None,
    }


def _off(off: torch.Tensor, began: float) -> dict[str, float]:
    row = {
        "within 0.05 nats": float((off.abs() < 0.05).double().mean()),
        "mean error": float(off.abs().mean()),
        "lowest": float(off.min()),
        "highest": float(off.max()),
        "seconds": time.time() - began,
    }
    print(row, flush=True)
    return {name: round(value, 4) for name, value in row.items()}


def cost(chains: int = 16, data: int = 100, rounds: int = 9) -> dict[str, object]:
    """Milliseconds of one evaluation of densities and gradients, and of the decoder alone."""
    vae, x = pv.VAE((1, 28, 28), 20), torch.bernoulli(torch.rand(data, 1, 28, 28))
    problem = Problem.of(vae, x)
    layers = [m for m in vae.likelihood.modules() if isinstance(m, torch.nn.Linear)]
    decoder = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1])
    with problem.pair.evaluating():
        density = Density(problem, next(problem.batches(data)))
        potential, u = Potential(density, "guide"), density.draw(chains, "guide")
        z, back = u.reshape(-1, 20).clone().requires_grad_(), torch.randn(chains * data, 784)

        def alone() -> None:
            with torch.enable_grad():
                torch.autograd.grad(decoder(z), z, back)

        def by_handlers() -> None:
            potential.by_handlers(u)

        runs = {"leapfrog": lambda: potential(u), "decoder": alone, "handlers": by_handlers}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for each in runs.values():
            each()
        for _ in range(rounds):
            for name, each in runs.items():
                began = time.perf_counter()
                each()
                times[name].append(1e3 * (time.perf_counter() - began))
    ratios = [a / b for a, b in zip(times["leapfrog"], times["decoder"], strict=True)]
    return {
        "rows": chains * data,
        "milliseconds": {n: round(statistics.median(t), 2) for n, t in times.items()},
        "fastest": {n: round(min(t), 2) for n, t in times.items()},
        "leapfrog / decoder, median of rounds": round(statistics.median(ratios), 2),
        "compiled": not potential.why_not,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--temperatures", type=int, default=100)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--quadrature", action="store_true")
    parser.add_argument("--note", default="", help="what else is to be known of the machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    about = environment() | ({"note": options.note} if options.note else {})
    if options.cost:
        known["cost"] = cost() | about
        print(json.dumps(known["cost"], indent=1))
    if options.quadrature:
        known["two dimensions, against quadrature"] = quadrature() | about
    if options.run:
        known["default VAE, full MNIST, 10 epochs"] = (
            table(options.run, options.data_dir, options.images, options.temperatures) | about
        )
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
