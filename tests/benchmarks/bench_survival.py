"""What it costs that a run can be resumed: the default run with and without, interleaved.

    python tests/benchmarks/bench_survival.py --out survival.json

Both are ``pv.fit`` of the default VAE on the bundled digits, as ``pyrovae fit`` calls it. "kept"
has a run folder: checkpoints as often as by default, metrics, the best weights. "bare" has no
folder and keeps no state: checkpoints are taken out by hand.
Rounds alternate, the order within a round too; "ratio" is the median of the rounds' ratios, which
differ by more than the cost on a machine that others use. "share" is the part of a kept run's wall
time that goes into what a bare one does without (states, files, flags after each step), by a clock
around it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pyrovae as pv
from pyrovae.runs import Folder, environment
from pyrovae.training import identity, session
from pyrovae.training.keeping import Keeper
from pyrovae.training.trainer import Trainer


class Clock:
    """Seconds within the methods that it is put around, the outermost alone."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, self.depth = time.perf_counter(), self.depth + 1
            try:
                return method(*args, **kwargs)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.perf_counter() - start

        return timed


OURS = [
    *((Trainer, name) for name in ("_checkpoint", "_after_step")),
    *((Folder, name) for name in ("create", "append", "rewrite", "save")),
    *((identity, name) for name in ("of_data", "of_pair")),
    (session, "copied"),
]


def seconds(epochs: int, kept: bool, clock: Clock | None = None) -> float:
    folder = Path(tempfile.mkdtemp())
    changed: list[tuple[Any, str, Any]] = []
    if not kept:
        changed = [
            (Trainer, "_checkpoint", lambda self: None),
            (Keeper, "due", lambda self, step: 0),
        ]
    elif clock is not None:
        changed = [(owner, n, clock.around(getattr(owner, n))) for owner, n in OURS]
    own = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, method in changed:
            setattr(owner, name, method)
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
        for owner, name, method in own:
            setattr(owner, name, method)
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds(2, True)
    clock = Clock()
    whole = seconds(options.epochs, True, clock)
    share = clock.seconds / whole
    print(f"share {share:.4f} ({clock.seconds:.3f} s of {whole:.2f} s)", flush=True)
    rounds = []
    for i in range(options.rounds):
        order = [True, False] if i % 2 else [False, True]
        taken = {kept: seconds(options.epochs, kept) for kept in order}
        rounds.append({"kept": taken[True], "bare": taken[False]})
        print(f"kept {taken[True]:.2f} s, bare {taken[False]:.2f} s", flush=True)
    ratios = sorted(r["kept"] / r["bare"] for r in rounds)
    middle = statistics.median(ratios)
    print(f"ratio {middle:.3f} (lowest {ratios[0]:.3f}, highest {ratios[-1]:.3f})")
    found = {"share": share, "ratio": middle}
    if options.out:
        record = {"environment": environment(), "epochs": options.epochs, "rounds": rounds}
        options.out.write_text(json.dumps(record | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
