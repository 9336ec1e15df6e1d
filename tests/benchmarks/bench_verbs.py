"""What a verb costs on a pair that has met its data, beside its networks' own passes.

    python tests/benchmarks/bench_verbs.py --out tests/benchmarks/results/verbs.json

The default VAE on binary images, one thread. Each line is the median of ``--rounds`` calls, the
networks' own passes (the guide's for ``encode``, guide and likelihood's for ``reconstruct`` and
``impute``) timed in turn with the verb's. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import pyrovae as pv

SIZES = {"encode": (1, 256, 10_000), "reconstruct": (1, 256), "impute": (1, 10, 100, 1000)}
PARTICLES = 100  # of impute


def own_passes(vae: pv.VAE, verb: str, x: Tensor) -> Callable[[], object]:
    """The networks alone, as often as the verb's numbers need them."""
    count = {"encode": 0, "reconstruct": 16, "impute": PARTICLES}[verb]

    def passes() -> None:
        with torch.no_grad():
            q = vae.posterior(x)
            if count:
                z = q.expand((count, len(x))).sample()
                vae.likelihood(z.flatten(0, 1))

    return passes


def asked(vae: pv.VAE, verb: str, x: Tensor) -> Callable[[], object]:
    """The verb."""
    if verb == "impute":
        gaps = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.1
        broken = x.masked_fill(gaps, float("nan"))
        return lambda: pv.impute(vae, broken, num_particles=PARTICLES)
    return lambda: getattr(pv, verb)(vae, x)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vae = pv.VAE((1, 28, 28), 20)
    data = torch.bernoulli(torch.full((max(map(max, SIZES.values())), 1, 28, 28), 0.2))
    rows = []
    for verb, sizes in SIZES.items():
        for size in sizes:
            both = asked(vae, verb, data[:size]), own_passes(vae, verb, data[:size])
            for call in both:  # the pair meets its data
                call()
            rounds = max(3, options.rounds // (1 + size // 1000))
            times = [[timed(call) for call in both] for _ in range(rounds)]
            mine, own = (statistics.median(column) for column in zip(*times, strict=True))
            rows.append({"verb": verb, "data": size, "ms": round(mine, 2), "own_ms": round(own, 2)})
            print(
                f"{verb:12s} {size:6d} data {mine:9.2f} ms, networks alone {own:9.2f} ms, "
                f"{1000 * mine / size:9.1f} us per datum"
            )
    if options.out:
        found = {"rounds": options.rounds, "rows": rows, "environment": pv.runs.environment()}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
