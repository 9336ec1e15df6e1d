"""What may look on while a pair trains, and end it: the protocol, and what people expect."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pyrovae import markup, progress
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.markup import Shown
from pyrovae.tensors import Data

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = [
    "Callback",
    "EarlyStopping",
    "History",
    "JSONLines",
    "Logger",
    "Run",
    "TensorBoard",
    "TimeLimit",
]

BAR = "{desc} {bar} {percentage:3.0f}% {rate_fmt}, {remaining} left{postfix}"


@dataclass
class History(Shown):
    """What a training run saw, one row per epoch.

    Each row: ``epoch``, ``step``, ``seconds`` of training so far, ``images_per_second``, ``lr``,
    ``loss`` (the objective, mean over the epoch), then ``elbo``, ``reconstruction``, ``kl`` on at
    most 1,000 training data at the epoch's end and ``validation_*`` on the held-out ones, all in
    nats per datum. The terms come from the pair's traces, so they mean the same whatever the loss.

    ``stopped`` says why training ended before its last epoch, "" if it did not.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    seed: int = 0
    device: str = "cpu"
    stopped: str = ""

    def in_notebook(self) -> list[str]:
        """The ELBO over the epochs, and the last of them."""
        if not self.rows:
            return [markup.note("no epoch yet", strong=True)]
        names: list[str] = [name for name in ("elbo", "validation_elbo") if name in self.last]
        curves = {name: [row.get(name, math.nan) for row in self.rows] for name in names}
        return [
            markup.note(f"{len(self.rows):,} epochs on {self.device}", strong=True),
            markup.lines("nats per datum", curves),
            markup.table(["last epoch", ""], list(self.last.items())),
            *([markup.note(self.stopped)] if self.stopped else []),
        ]

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.rows]

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's row."""
        return self.rows[-1]

    def best(self, name: str = "validation_elbo") -> int:
        """The index of the row with the largest ``name``; NaN is smaller than all.

        >>> History([{"elbo": -3.0}, {"elbo": -1.0}, {"elbo": -2.0}]).best("elbo")
        1
        """
        values = [-math.inf if math.isnan(value) else value for value in self[name]]
        return values.index(max(values))


class Run(Protocol):
    """What callbacks see of a run.

    Attributes:
        pair: the pair being trained, with the weights of this moment.
        history: the rows so far.
        step: optimiser steps taken.
        epoch: the epoch at hand, from 1 on.
        epochs: how many there will be.
        loss: the last step's loss, a tensor without dimensions; reading it waits for the device.
        optimizer: the ``torch.optim`` optimiser.
        held_out: the data to validate on, None where there are none.
        out: the run folder, None where there is none.
    """

    pair: object
    history: History
    epochs: int
    held_out: Data | None
    out: Path | None

    @property
    def step(self) -> int:
        """Optimiser steps taken."""

    @property
    def epoch(self) -> int:
        """The epoch at hand, from 1 on."""

    @property
    def loss(self) -> Tensor:
        """The last step's loss, ``[]``; reading it waits for the device."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser, one of ``torch.optim``."""


class Callback:
    """Something that looks on. Override what is wanted; every method is called in one process
    alone, and draws random numbers at its own risk: a run is repeated only if it draws none.

    :meth:`step` and :meth:`epoch` end training by returning a reason, a text, or True.
    """

    def begin(self, run: Run) -> None:
        """Before the first step, of a resumed run too, and before the run folder is made."""

    def step(self, run: Run) -> str | bool | None:
        """After every optimiser step."""

    def epoch(self, run: Run) -> str | bool | None:
        """After every epoch, its row being the last of ``run.history``."""

    def end(self, run: Run) -> None:
        """When training is over, however it ended."""

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs to know of this callback: numbers, text, tensors, and lists
        and dicts of them. Nothing, where all is in the history."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, before :meth:`begin` or when a run goes back to it."""


class EachEpoch(Callback):
    """A function of the history as a callback."""

    def __init__(self, function: Callable[[History], object]) -> None:
        self.function = function

    def epoch(self, run: Run) -> str | bool | None:
        """A reason or a truth value; what else a function happens to return means nothing."""
        answer = self.function(run.history)
        if isinstance(answer, np.bool_):
            return bool(answer)
        return answer if isinstance(answer, str | bool) else None


class EarlyStopping(Callback):
    """Ends training once ``patience`` epochs have not raised ``metric`` by more than ``least``
    nats over its best.

    It reads the history alone, so a resumed run stops where the uninterrupted one does.

    Raises:
        UsageError: a metric that no row has.

    >>> EarlyStopping(patience=2).verdict([-9.0, -7.0, -8.0, -7.5])
    'no better for 2 epochs than epoch 2'
    """

    def __init__(
        self, patience: int = 10, metric: str = "validation_elbo", least: float = 0.0
    ) -> None:
        self.patience = whole_number("patience", patience)
        self.metric, self.least = metric, number("least", least, zero=True)

    def begin(self, run: Run) -> None:
        if run.held_out is None and self.metric.startswith("validation_"):
            raise UsageError(
                f"early stopping watches {self.metric}, and no data are held out; give "
                f"validation=0.1 (--validation 0.1), say"
            )

    def epoch(self, run: Run) -> str | None:
        if self.metric not in run.history.last:
            raise UsageError(
                f"early stopping watches {self.metric!r}, which this run does not measure; there "
                f"is {', '.join(run.history.last)}"
            )
        return self.verdict(run.history[self.metric])

    def verdict(self, values: Sequence[float]) -> str | None:
        """Why to stop after these values, or None."""
        best, at = -math.inf, 0
        for i, value in enumerate(values):
            if value > best + (self.least if i else 0.0):
                best, at = value, i
        waited = len(values) - 1 - at
        if waited < self.patience:
            return None
        return f"no better for {waited} epochs than epoch {at + 1}"


class TimeLimit(Callback):
    """Ends training after ``seconds`` of wall-clock time in this process, within an epoch too;
    ``resume`` goes on from there.

    >>> TimeLimit(0.001).seconds
    0.001
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = number("seconds", seconds)
        self.reason = f"the time limit of {self.seconds:g} s is over"
        self.start = time.monotonic()

    def begin(self, run: Run) -> None:
        self.start = time.monotonic()

    def step(self, run: Run) -> str | None:
        return self.reason if time.monotonic() - self.start > self.seconds else None


class JSONLines(Callback):
    """Every epoch's row as one line of JSON on the standard output."""

    def epoch(self, run: Run) -> None:
        print(json.dumps(run.history.last), flush=True)


class Logger(Callback):
    """Every epoch's row for a function that takes a dict of numbers and a step, as those of
    experiment trackers do: ``Logger(wandb.log)``, ``Logger(mlflow.log_metrics)``.

    What failed the first time it was called ends the run; what worked before and fails later, a
    server that is away, is said once and ends nothing.

    Args:
        log: called as ``log(row, step)``: the names of :class:`History`, numbers, and how many
            steps the optimiser has taken.
        every: also the last step's loss, as ``step_loss``, every so many steps; 0 for never. It is
            that of the whole batch, in nats, and reading it waits for the device.

    Raises:
        UsageError: ``log`` is no function.

    >>> seen = []
    >>> Logger(lambda row, step: seen.append((step, row))).send({"elbo": -9.5}, 40)
    >>> seen
    [(40, {'elbo': -9.5})]
    """

    def __init__(self, log: Callable[[dict[str, float], int], object], every: int = 0) -> None:
        if not callable(log):
            raise UsageError(f"log is a function of a dict of numbers and a step, got {log!r}")
        self.log, self.every = log, whole_number("every", every, least=0)
        self.worked = self.failed = False

    def send(self, row: dict[str, float], step: int) -> None:
        """One row."""
        try:
            self.log(dict(row), step)
            self.worked = True
        except Exception as error:
            if not self.worked:
                raise
            if not self.failed:
                warnings.warn(
                    f"{_name(self.log)} fails ({type(error).__name__}: {error}); training goes on, "
                    f"and what it does not take is lost to it (metrics.csv has every row)",
                    stacklevel=2,
                )
            self.failed = True

    def step(self, run: Run) -> None:
        if self.every and run.step % self.every == 0:
            self.send({"step_loss": float(run.loss)}, run.step)

    def epoch(self, run: Run) -> None:
        self.send({k: v for k, v in run.history.last.items() if k != "step"}, run.step)


def _name(function: object) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


class TensorBoard(Callback):
    """Every epoch's numbers for TensorBoard, in the run folder or in ``folder``.

    Raises:
        UsageError: the package tensorboard is not there; neither folder is.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def begin(self, run: Run) -> None:
        self.writer, folder = None, self.folder or run.out
        if folder is None:
            raise UsageError("TensorBoard needs a folder: give out= or TensorBoard(folder)")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"TensorBoard is not there ({error}): pip install 'pyrovae[tensorboard]'"
            ) from error
        # rows after the one that a resumed run starts from are written again
        again = len(run.history.rows) + 1
        self.open = lambda: SummaryWriter(str(folder), purge_step=again)

    def epoch(self, run: Run) -> None:
        self.writer = self.writer or self.open()
        for name, value in run.history.last.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, run.epoch)
        self.writer.flush()

    def end(self, run: Run) -> None:
        if self.writer is not None:
            self.writer.close()


class Progress:
    """A bar where there is a terminal or a notebook, one line per epoch where there is none."""

    def __init__(self, epochs: int, size: int, enabled: bool) -> None:
        self.epochs, self.size, self.enabled = epochs, size, enabled
        self.lines = enabled and progress.alone()  # what others train is theirs to tell of
        self.shown = 0.0

    def __enter__(self) -> Progress:
        with ExitStack() as stack:
            stack.enter_context(progress.task(shown=self.enabled))
            self.loop = stack.enter_context(
                progress.count(
                    self.epochs * self.size,
                    f"epoch 1/{self.epochs}",
                    leave=self.lines,
                    unit=" images",
                    unit_scale=True,
                    bar_format=BAR,
                )
            )
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def say(self, message: str) -> None:
        """A line of its own, above the bar."""
        if self.lines:
            progress.tell(message)

    def advance(self, count: int) -> None:
        self.loop.advance(count)

    def due(self) -> bool:
        now = time.perf_counter()
        if self.loop.bar is None or now - self.shown < 1.0:
            return False
        self.shown = now
        return True

    def show(self, epoch: int, terms: dict[str, float]) -> None:
        note = _summary(terms) if self.lines else ""
        self.loop.describe(f"epoch {epoch}/{self.epochs}", note)

    def end_epoch(self, row: dict[str, float]) -> None:
        self.show(int(row["epoch"]), row)
        if self.lines and (progress.heard() or not progress.interactive()):
            progress.tell(
                f"epoch {row['epoch']:.0f}/{self.epochs}  {row['images_per_second']:,.0f} "
                f"images/s  {_summary(row)}",
                metrics=dict(row),
            )


def _summary(row: dict[str, float]) -> str:
    words = [
        f"{word} {row[name]:.2f}"
        for word, name in (
            ("ELBO", "elbo"),
            ("reconstruction", "reconstruction"),
            ("KL", "kl"),
            ("validation ELBO", "validation_elbo"),
        )
        if name in row
    ]
    return " ".join(words)
