"""A run in this process: the parts that have a state, and that state as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyrovae.callbacks import Callback, History
from pyrovae.checkpoints import copied
from pyrovae.processes import Processes
from pyrovae.randomness import pack, put_back, states, unpack
from pyrovae.streams import Data
from pyrovae.training.measure import Measure
from pyrovae.training.observed import Observed
from pyrovae.training.state import Best, Place, State, Weights, checkpoint_of_this_run
from pyrovae.training.steps import Steps

__all__ = ["Session"]


@dataclass(eq=False, repr=False)
class Session:
    """The parts of a run that have a state; to callbacks, a :class:`pyrovae.callbacks.Run`.

    Attributes:
        pair: as it was given.
        data: to train on.
        held_out: to watch, None where there are none.
        observed: the pair with its data.
        steps: of the optimiser.
        measure: what is told of an epoch.
        history: what was told.
        identity: what it is a run of.
        processes: those that train together.
        generator: of the order of the data.
        callbacks: what looks on, in this process.
        epochs: how many there will be.
        out: the run's folder, None where this process has none.
        place: where the run is.
        best: the weights of the epoch with the best validation ELBO.
        opening: the random states as the epoch at hand began, None between two epochs.
    """

    pair: object
    data: Data
    held_out: Data | None
    observed: Observed
    steps: Steps
    measure: Measure
    history: History
    identity: dict[str, str]
    processes: Processes
    generator: torch.Generator
    callbacks: Sequence[Callback]
    epochs: int
    out: Path | None
    place: Place
    best: Best | None = None
    opening: Tensor | None = None

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.place.step

    @property
    def epoch(self) -> int:
        """The epoch at hand, from 1 on."""
        return self.place.epoch

    @property
    def loss(self) -> Tensor:
        """The last step's loss."""
        return self.steps.loss

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The ``torch.optim`` optimiser."""
        return self.steps.optimizer

    def state(self) -> State:
        """The state at this moment, as far as this process knows it: its tensors are the live
        ones."""
        now = pack(self._random())
        opening = now if self.opening is None else self.opening
        return State(
            identity=self.identity,
            place=self.place,
            rows=self.history.rows,
            weights=self.observed.weights(),
            average=self.steps.average,
            best=self.best,
            optimizer=self.steps.optimizer.state_dict(),
            handlers=self.steps.handlers,
            random=[torch.stack([opening, now])],
            callbacks={n: s for n, c in self._named() if (s := c.state_dict())},
        )

    def shared_state(self) -> State:
        """The same with the random states of every process; whole in the first one."""
        state = self.state()
        state.random = self.processes.gather(state.random[0]) or []
        return state

    def restore(self, state: State) -> bool:
        """Go back, or on, to a state; whether every process has its random states again.

        Raises:
            UsageError: it is not one of this run.
        """
        with checkpoint_of_this_run():
            state.check(self.state(), self.measure.columns())
            self.place = state.place.on(self.place.total.device)
            self.history.rows[:] = [dict(row) for row in state.rows]
            self.observed.fill(state.weights)
            self.best = state.best
            self.steps.restore(state.optimizer, state.average, state.handlers)
            for name, callback in self._named():
                if name in state.callbacks:
                    callback.load_state_dict(state.callbacks[name])
            rank = self.processes.rank
            self.opening, now = state.random[min(rank, len(state.random) - 1)]
            put_back(unpack(now, self._random()), self._generators())
        if len(state.random) == self.processes.size:
            return True
        torch.manual_seed(self.history.seed + 1000 * self.place.step + rank)
        return False

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """The rest of the epoch's batches, this process's share of each."""
        now = None
        if self.place.batches and self.opening is not None:  # the order as the epoch began
            now = self._random()
            put_back(unpack(self.opening, now), self._generators())
        self.opening = pack(self._random())
        share = (self.processes.rank, self.processes.size)
        batches = self.data.batches(
            size,
            # all of them at once have no order to be drawn
            shuffle=size < len(self.data) and not self.observed.tied,
            generator=self.generator,
            skip=self.place.batches,
            share=share,
        )
        if now is not None:
            put_back(now, self._generators())
        return batches

    def keep_best(self) -> None:
        """Note the weights of this moment as the best ones."""
        weights = Weights(**copied(self.observed.weights()))
        self.best = Best(self.place.epoch, weights)

    def _named(self) -> Iterator[tuple[str, Callback]]:
        """The callbacks with names that are theirs alone."""
        count: dict[str, int] = {}
        for callback in self.callbacks:
            name = type(callback).__name__
            count[name] = count.get(name, 0) + 1
            yield (name if count[name] == 1 else f"{name} {count[name]}"), callback

    def _random(self) -> dict[str, Tensor]:
        return states(self._generators())

    def _generators(self) -> list[torch.Generator]:
        loader = getattr(self.data, "loader", None)
        own = [getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", 0))]
        found = {id(g): g for g in own if isinstance(g, torch.Generator)}
        return [self.generator, *found.values()]
