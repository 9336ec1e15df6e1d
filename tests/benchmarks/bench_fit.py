"""pv.fit against a plain PyTorch loop of the same work, interleaved in one run.

python tests/benchmarks/bench_fit.py --data mnist --data-dir DIR --epochs 10
python tests/benchmarks/bench_fit.py                     # bundled digits

Both train the default VAE (784-400-20, Bernoulli, Adam 1e-3, batch 128) on dynamically binarised
images and look at the held-out ELBO after every epoch. The plain loop knows no Pyro.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

import pyrovae as pv
from pyrovae.runs import environment

BATCH = 128


def plain(x: torch.Tensor, held_out: torch.Tensor, epochs: int, fused: bool) -> float:
    """Seconds of the hand-written loop."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=fused or None)

    def negative_elbo(images: torch.Tensor) -> torch.Tensor:
        images = torch.bernoulli(images)
        loc, raw = encoder(images).chunk(2, -1)
        scale = F.softplus(raw) + 1e-5
        z = loc + scale * torch.randn_like(loc)
        logits = decoder(z)
        reconstruction = F.binary_cross_entropy_with_logits(
            logits, images.flatten(1), reduction="sum"
        )
        return reconstruction + 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum()

    start = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for first in range(0, len(x), BATCH):
            batch = x[order[first : first + BATCH]].float() / 255
            optimizer.zero_grad(set_to_none=True)
            loss = negative_elbo(batch)
            loss.backward()
            optimizer.step()
            loss.item()
        with torch.no_grad():
            for part in (held_out, x[:1000]):
                sum(negative_elbo(b.float() / 255).item() for b in part.split(BATCH))
    return time.perf_counter() - start


def ours(train: pv.data.TensorData, held_out: pv.data.TensorData, epochs: int) -> float:
    """Seconds of pv.fit, everything it checks before the first step included."""
    torch.manual_seed(0)
    vae = pv.VAE((1, 28, 28), latent_dim=20)
    start = time.perf_counter()
    pv.fit(vae, train, validation=held_out, epochs=epochs, batch_size=BATCH, progress=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    splits = pv.data.load(options.data, options.data_dir)
    train, held_out = splits.train.split(0.1)
    x, y = train.tensors[0], held_out.tensors[0]
    binary, binary_held_out = train.binarised("dynamic"), held_out.binarised("dynamic")
    plain(x, y, 1, fused=True), ours(binary, binary_held_out, 1)  # warm caches
    times: dict[str, list[float]] = {"plain": [], "plain fused": [], "fit": []}
    for _ in range(options.rounds):
        times["plain"].append(plain(x, y, options.epochs, fused=False))
        times["plain fused"].append(plain(x, y, options.epochs, fused=True))
        times["fit"].append(ours(binary, binary_held_out, options.epochs))
    for name in ("plain", "plain fused"):
        ratios = [a / b for a, b in zip(times["fit"], times[name], strict=True)]
        print(
            f"fit / {name}: median {statistics.median(ratios):.2f}, "
            f"from {min(ratios):.2f} to {max(ratios):.2f}"
        )
    print(json.dumps({"seconds": times, **environment()}, indent=2))


if __name__ == "__main__":
    main()
