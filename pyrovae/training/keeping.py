"""Where the states of a run are kept, and when."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pyrovae.checkpoints import Checkpoints, Memory, from_bytes, to_bytes
from pyrovae.errors import UsageError
from pyrovae.processes import Processes
from pyrovae.runs import Folder
from pyrovae.training.state import State, checkpoint_of_this_run

__all__ = ["Keeper", "shared"]

RARELY = 100  # a checkpoint is made after so many times as long as the last one took


class Keeper:
    """Keeps the last states of a run: in its folder, or in memory where it has none.

    Args:
        pair: the pair.
        folder: the run's; None where there is none, or where another process has it.
        processes: those that train together; the first one writes.
        every: steps between checkpoints; None for as often as costs a hundredth of the time.
    """

    def __init__(
        self, pair: object, folder: Folder | None, processes: Processes, every: int | None
    ) -> None:
        self.pair, self.folder, self.processes, self.every = pair, folder, processes, every
        self.kept: Checkpoints | Memory = Memory() if folder is None else folder.checkpoints
        self._next = 0.0
        self._best_kept = 0  # its epoch, once it is on disk
        self._failing: set[str] = set()  # what cannot be written at the moment

    def due(self, step: int) -> bool:
        """Whether a state should be kept after this step."""
        return step % self.every == 0 if self.every else time.perf_counter() > self._next

    def begun(self) -> State | None:
        """The state that the folder has, in all processes."""
        if self.folder is not None:
            self.folder.tidy()
        return self._shared(self.kept.read() if self.processes.first else None)

    def last(self, *, before: bool) -> State | None:
        """The last state, in all processes, or the one ``before`` it where there is one."""
        if before and self.processes.first:
            self.kept.back()
        return self._shared(self.kept.read() if self.processes.first else None)

    def keep(self, state: State, start: float) -> None:
        """Make a state the last one; ``start`` is when collecting it began."""
        with self._training_on("checkpoints", f"no checkpoint at step {state.place.step}"):
            if self.processes.first:
                self.kept.write(state)
                best = state.best
                if self.folder and best and best.epoch != self._best_kept:
                    self.folder.save_best(self.pair, best.weights.named)
                    self._best_kept = best.epoch
        now = time.perf_counter()
        self._next = now + RARELY * (now - start)

    def rewrite(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Tell these rows alone."""
        if self.folder is not None:
            with self._training_on("rows", "metrics.csv lacks rows"):
                self.folder.rewrite(rows)

    def append(self, row: Mapping[str, float]) -> None:
        """Tell one more row, and what could not be told before."""
        if self.folder is None:
            return
        if not self.folder.path.is_dir():
            self._warn("folder", f"{self.folder.path} is gone; it is made again")
            self._best_kept = 0
        with self._training_on("rows", "metrics.csv lacks rows"):
            self.folder.append(row)

    def close(self) -> None:
        """Keep what is needed of a run that is over."""
        if self.processes.first:
            with self._training_on("checkpoints", "one checkpoint too many is left"):
                self.kept.close()

    def finish(self, device: str) -> None:
        """Write the weights, and what could not be written before.

        Raises:
            UsageError: that is still not possible.
        """
        if self.folder is None:
            return
        try:
            self.folder.save(self.pair, device)
            self.folder.catch_up()
        except UsageError as error:
            raise UsageError(
                f"training has ended, and what it made is not whole on disk: {error}. The pair in "
                f"memory has its weights (pv.save(pair, path)); resume=True (--resume) goes on "
                f"from the last checkpoint once {self.folder.path} can be written"
            ) from error

    @contextmanager
    def _training_on(self, what: str, words: str) -> Iterator[None]:
        """Warn where something cannot be written, once until it can be again: hours of work are
        worth more than a full disk."""
        try:
            yield
        except UsageError as error:
            self._warn(what, f"{words}: {error}")
        else:
            self._failing.discard(what)

    def _warn(self, what: str, words: str) -> None:
        if what not in self._failing:
            on = "training goes on, and what is missing is written once it can be"
            warnings.warn(f"{words}; {on}", stacklevel=4)
        self._failing.add(what)

    def _shared(self, tree: Any) -> State | None:
        """The first process's state, in all of them."""
        tree = shared(tree, self.processes)
        if tree is None:
            return None
        with checkpoint_of_this_run():
            return State.of(tree)


def shared(tree: Any, processes: Processes) -> Any:
    """The first process's tree of plain values and tensors, in all of them."""
    if processes.size == 1:
        return tree
    sent = to_bytes(tree)
    size = torch.tensor([len(sent)])
    processes.same([size])
    if not processes.first:
        sent = torch.empty(int(size), dtype=torch.uint8)
    processes.same([sent])
    return from_bytes(sent)
