"""What it costs that a run can be resumed: the default run with and without, interleaved.

    python tests/benchmarks/bench_survival.py --out survival.json

Both are ``pv.fit`` of the default VAE on the bundled digits, as ``pyrovae fit`` calls it. "kept"
has a run folder: checkpoints as often as by default, metrics, the best weights. "bare" has no
folder and keeps no state: checkpoints are taken out by hand.
Rounds alternate, the order within a round too; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

import pyrovae as pv
from pyrovae.runs import environment
from pyrovae.training.trainer import Trainer


def seconds(epochs: int, kept: bool) -> float:
    folder = Path(tempfile.mkdtemp())
    taken_out = {} if kept else {"_checkpoint": lambda self: None, "_due": lambda self: False}
    own = {name: getattr(Trainer, name) for name in taken_out}
    try:
        for name, nothing in taken_out.items():
            setattr(Trainer, name, nothing)
        torch.manual_seed(0)
        vae = pv.VAE((1, 28, 28), 20)
        data = pv.data.load("mnist5k").train.binarised("dynamic")
        start = time.perf_counter()
        pv.fit(
            vae, data, epochs=epochs, validation=0.1, progress=False,
            out=folder / "run" if kept else None,
        )  # fmt: skip
        return time.perf_counter() - start
    finally:
        for name, method in own.items():
            setattr(Trainer, name, method)
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds(2, True)
    rounds = []
    for i in range(options.rounds):
        order = [True, False] if i % 2 else [False, True]
        taken = {kept: seconds(options.epochs, kept) for kept in order}
        rounds.append({"kept": taken[True], "bare": taken[False]})
        print(f"kept {taken[True]:.2f} s, bare {taken[False]:.2f} s", flush=True)
    ratios = sorted(r["kept"] / r["bare"] for r in rounds)
    middle = statistics.median(ratios)
    print(f"ratio {middle:.3f} (lowest {ratios[0]:.3f}, highest {ratios[-1]:.3f})")
    if options.out:
        record = {"environment": environment(), "epochs": options.epochs, "rounds": rounds}
        options.out.write_text(json.dumps(record | {"ratio": middle}, indent=2) + "\n")


if __name__ == "__main__":
    main()
