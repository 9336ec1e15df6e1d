"""The state of a run as data: all that the rest of it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyrovae import runs, traces
from pyrovae.checkpoints import check_alike
from pyrovae.errors import UsageError, got
from pyrovae.traces import Args, Pair

__all__ = ["Best", "Place", "State", "Weights", "checkpoint_of_this_run", "named"]

VERSION = 2  # of what a checkpoint holds; STEPS lead to it


@dataclass
class Place:
    """Where a run is.

    Attributes:
        step: optimiser steps taken.
        epoch: the epoch at hand, from 1 on.
        batches: of the epoch at hand that have been taken.
        data: that they were made of.
        total: of their losses, a tensor without dimensions.
        seconds: of training so far.
        epoch_seconds: those of the epoch at hand.
        rate: what the learning rate is multiplied by, halved whenever the run rolls back.
        rollbacks: how often it has.
    """

    step: int = 0
    epoch: int = 1
    batches: int = 0
    data: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    rate: float = 1.0
    rollbacks: int = 0

    def on(self, device: torch.device) -> Place:
        """The same with a total of its own on the device."""
        return dataclasses.replace(self, total=self.total.to(device, copy=True))

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.batches, self.data, self.epoch_seconds = self.epoch + 1, 0, 0, 0.0
        self.total.zero_()


@dataclass
class Weights:
    """The tensors of a pair.

    Attributes:
        named: parameters and buffers, by the names that the pair has for them.
        strays: the leaves that it has no name for.
    """

    named: dict[str, Tensor]
    strays: dict[str, Tensor]


@dataclass
class Best:
    """The weights of the epoch with the best validation ELBO."""

    epoch: int
    weights: Weights


@dataclass
class State:
    """All that the rest of a run depends on.

    Attributes:
        identity: what it is a run of, which must be the same when it is taken up again.
        place: where it is.
        rows: of the history.
        weights: of the pair.
        average: the moving average of the leaves, None where none is kept.
        best: the best weights so far, None before there are any.
        optimizer: the state of the ``torch.optim`` optimiser.
        handlers: why steps are left to Pyro's handlers, "" where they are not.
        random: the random states of every process, ``[2, bytes]`` each: as the epoch at hand
            began, and now.
        callbacks: the states of those that have one.
        version: of how a state is made, as :data:`STEPS` counts them.
    """

    identity: dict[str, str]
    place: Place
    rows: list[dict[str, float]]
    weights: Weights
    average: list[Tensor] | None
    best: Best | None
    optimizer: dict[str, Any]
    handlers: str
    random: list[Tensor]
    callbacks: dict[str, dict[str, object]]
    version: int = VERSION

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> State:
        """The state that a checkpoint holds as a tree, one of an earlier version too.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: the tree is of something else.
            UsageError: it is of a later version.
        """
        tree = _current(tree)
        best, identity = tree["best"], tree["identity"]
        if not all(isinstance(word, str) for entry in identity.items() for word in entry):
            raise TypeError(f"it is of the run {identity!s:.100}")
        parts = {
            "place": Place(**tree["place"]),
            "weights": Weights(**tree["weights"]),
            "best": None if best is None else Best(best["epoch"], Weights(**best["weights"])),
        }
        return cls(**{**tree, **parts})

    def check(self, own: State, columns: list[str]) -> None:
        """Raise where this state is not made as a run's own is; a file may hold anything.

        Args:
            own: the run's state at the moment.
            columns: of its history.

        Raises:
            ValueError: what is made otherwise.
        """
        like = dataclasses.replace(
            own,
            identity=dict.fromkeys(self.identity, ""),
            rows=[dict.fromkeys(columns, 0.0)] * len(self.rows),
            random=own.random[:1] * len(self.random),
            best=None if self.best is None else Best(0, own.weights),
            optimizer=self.optimizer,  # held against a twin where it is taken over
            callbacks=self.callbacks,  # each reads its own
        )
        check_alike(like, self)
        counts = (self.place.step, self.place.epoch - 1, self.place.batches, self.place.data)
        if min(counts) < 0 or not self.random:
            raise ValueError(f"it stands at {self.place}")


def named(state: State, program: Pair, few: Args) -> State:
    """The state with all names that the pair has. Version 0.1.0 knew no units, and had no name for
    what no name led to: such leaves stood last, as the graph comes to them, and were numbered with
    the others."""
    if state.weights.strays:
        state = _named_leaves(state, program, few)
    best = state.best

    def whole(weights: Weights) -> Weights:
        return Weights(runs.before_units(program, weights.named), weights.strays)

    best = best and Best(best.epoch, whole(best.weights))
    return dataclasses.replace(state, weights=whole(state.weights), best=best)


def _named_leaves(state: State, program: Pair, few: Args) -> State:
    """The state with a name for every leaf."""
    now = list(traces.parameters(program, few))
    before = _order_of_0_1_0(state.weights, now, traces.in_graph_order(program, few))

    def of_names(weights: Weights) -> Weights:
        new = {n: f"parameter_{k}" for k, n in enumerate(before) if n not in weights.named}
        return Weights(weights.named | {n: weights.strays[old] for n, old in new.items()}, {})

    kept = state.optimizer["state"]
    order = [before.index(name) for name in now]
    return dataclasses.replace(
        state,
        weights=of_names(state.weights),
        average=state.average and [state.average[k] for k in order],
        best=state.best and Best(state.best.epoch, of_names(state.best.weights)),
        optimizer={**state.optimizer, "state": {i: kept[k] for i, k in enumerate(order)}},
    )


def _order_of_0_1_0(weights: Weights, now: list[str], graph: Iterable[str]) -> list[str]:
    """The leaves' names as version 0.1.0 numbered them: those that it knew come first."""
    known = [n for n in weights.named if n in now]
    return known + [n for n in graph if n not in known]


def _current(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a checkpoint as this version would make it."""
    version = tree.get("version", 1 if "told" in tree else 2)  # the first two did not say
    if type(version) is not int or not 0 < version <= VERSION:
        raise UsageError(
            f"the checkpoint is of version {got(version)}, and this pyrovae reads those up to "
            f"{VERSION}: install the pyrovae that wrote it, or a newer one"
        )
    found = dict(tree)
    for step in STEPS[version - 1 :]:
        found = step(found)
    return found


def _from_0_1_0(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of a checkpoint of version 0.1.0 as those of today are made."""
    best = tree["best"]
    step, epoch, batches, data = tree["position"]
    seconds, epoch_seconds = tree["seconds"]
    rate, rollbacks = tree["rolled"]

    def weights(pair: Any) -> dict[str, Any]:
        named, strays = pair
        return {"named": named, "strays": strays}

    return {
        "identity": tree["told"],
        "place": {
            "step": step,
            "epoch": epoch,
            "batches": batches,
            "data": data,
            "total": tree["total"],
            "seconds": seconds,
            "epoch_seconds": epoch_seconds,
            "rate": rate,
            "rollbacks": rollbacks,
        },
        "weights": weights(tree["weights"]),
        "best": best and {"epoch": best["epoch"], "weights": weights(best["weights"])},
        "handlers": tree["refused"],
        "callbacks": {},
        **{name: tree[name] for name in ("rows", "average", "optimizer", "random")},
    }


STEPS = (_from_0_1_0,)  # from each version to the next


@contextmanager
def checkpoint_of_this_run() -> Iterator[None]:
    """Say of a state that cannot be taken over that it is another run's.

    Raises:
        UsageError: for whatever a state that is made otherwise leads to.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the checkpoint is not one of this run ({type(error).__name__}: {error}); give "
            f"the pair and settings that made it, or start anew"
        ) from error
