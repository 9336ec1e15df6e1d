"""pv.evaluate against the decoder's matrix products alone, interleaved in one run.

python tests/benchmarks/bench_evaluate.py --data 10000 --particles 1000
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch

import pyrovae as pv
from pyrovae.evaluation import CHUNK
from pyrovae.runs import environment


def products(weights: list[torch.Tensor], rows: int, block: int = 4096) -> float:
    """Seconds of the decoder's matrix products for ``rows`` rows."""
    z = torch.randn(block, 20)
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(rows // block):
            h = z
            for weight in weights:
                h = h @ weight.T
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=int, default=1000)
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chunk-bytes", type=int, default=CHUNK)
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = pv.VAE((1, 28, 28), 20)
    x = torch.bernoulli(torch.rand(options.data, 1, 28, 28))
    weights = [p for n, p in vae.likelihood.named_parameters() if n.endswith("weight")]
    rows = options.data * options.particles
    pv.evaluate(vae, x[:20], options.particles), products(weights, 20_000)
    ratios, ours = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        pv.evaluate(vae, x, options.particles, chunk_bytes=options.chunk_bytes)
        ours.append(time.perf_counter() - start)
        ratios.append(ours[-1] / products(weights, rows))
    print(
        f"evaluate / decoder's matrix products: median {statistics.median(ratios):.2f}, from "
        f"{min(ratios):.2f} to {max(ratios):.2f}; {statistics.median(ours):.1f} s for "
        f"{options.data:,} x {options.particles:,}; peak memory of the process "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"
    )
    print(json.dumps({"ratios": ratios, "seconds": ours, **environment()}, indent=2))


if __name__ == "__main__":
    main()
