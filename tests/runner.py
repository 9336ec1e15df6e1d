"""A process that starts runs in children of its own, so that they can be killed without ado.

    python runner.py        then, line by line on its standard input, JSON settings of a run

Every child trains the pair below and prints "step N" after each step, "done" at the end. The
parent prints the child's process id first and, when it is gone, "gone STATUS".
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from typing import Any

import torch
from torch import nn

import pyrovae as pv
from pyrovae.callbacks import Callback, Run

EPOCHS, STEPS = 6, 8  # steps per epoch
X = torch.rand(STEPS * 16 + 16, 12, generator=torch.Generator().manual_seed(0))


def pair() -> pv.VAE:
    """Dropout and BatchNorm, so that random states and buffers matter."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 12)
    )
    return pv.VAE((12,), 2, likelihood=pv.likelihoods.Bernoulli(body))


class Tell(Callback):
    """Says where the run is, and sends itself a signal at a step."""

    def __init__(self, sends: list[Any] | None) -> None:
        self.at, self.signal = sends or (None, None)

    def step(self, run: Run) -> None:
        print(f"step {run.step}", flush=True)
        if run.step == self.at:
            os.kill(os.getpid(), getattr(signal, str(self.signal)))


def dying(number: int, late: bool) -> None:
    """From now on, the process dies before or after it renames its ``number``-th file."""
    count, rename = 0, os.replace

    def replace(*files: Any, **folders: Any) -> None:
        nonlocal count
        count += 1
        if count == number and not late:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*files, **folders)
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def train(
    out: str,
    compile: bool,  # noqa: A002
    dies: list[Any] | None = None,
    sends: list[Any] | None = None,
    **settings: Any,
) -> None:
    if dies:
        dying(*dies)
    given: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": 16, "validation": 16, "clip_norm": 5.0, "ema": 0.9,
        "lr_schedule": pv.schedules.Cosine(warmup=1), "checkpoint_every": 1, "keep_best": True,
    }  # fmt: skip
    data = pv.data.TensorData(X).binarised("dynamic")
    pv.fit(
        pair(), data, out=out, compile=compile, resume=True, device="cpu", progress=False,
        callbacks=[Tell(sends)], **given | settings,
    )  # fmt: skip
    print("done", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        settings = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            code = 1
            try:
                train(**settings)
                code = 0
            except BaseException as error:
                print(f"error {type(error).__name__}: {error}", flush=True)
            finally:
                os._exit(code)
        print(f"child {child}", flush=True)
        _, status = os.waitpid(child, 0)
        print(f"gone {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
