"""A pair of a user's own beside data: what a declared ``Program`` tells of itself, seen by running
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.tensors import TensorData
from pyrovae.traces.pair import Pair, as_pair
from pyrovae.traces.problem import Problem

__all__ = ["OwnPair"]


class OwnPair(Pair):
    """Any pair, with what the commands ask of a :class:`pyrovae.program.Program`.

    Parameters, their names and the memory are those of the pair that was given.

    Attributes:
        event_shape: of one x of the data that it was run on.
        takes_labels: whether the programs run on (x, labels), and not on x alone.
    """

    named = "classes"
    event_shape: tuple[int, ...]
    takes_labels: bool

    @classmethod
    def of(cls, pair: object, data: TensorData) -> OwnPair:
        """A pair, run on some data as they are stored.

        Args:
            pair: anything with ``.model`` and ``.guide``.
            data: x, and labels where there are some.

        Raises:
            UsageError: what is given is no pair, or one that does not run on the data.
        """
        own = cls.__new__(cls)
        vars(own).update(vars(as_pair(pair)))
        own.event_shape, own.takes_labels = tuple(data.event_shape), False
        try:
            Problem.of(own, data)
        except UsageError:
            own.takes_labels = data.labels is not None
            if not (own.takes_labels and own._runs(data)):
                raise
        return own

    def _runs(self, data: TensorData) -> bool:
        try:
            Problem.of(self, data)
        except UsageError:
            return False
        return True

    def serve(self, x: object, training: bool = False) -> TensorData:
        """The data as the programs take them, with their labels if they do."""
        data = super().serve(x)
        labelled = self.takes_labels and data.labels is not None
        return cast("TensorData", data.with_labels() if labelled else data)

    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """Nothing precedes training."""

    def scores(self, data: TensorData) -> dict[str, float]:
        """No numbers besides those of every pair."""
        return {}

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> None:
        """No picture besides those of every pair."""

    def parameters(self) -> list[Tensor]:
        """What can be trained, as far as the programs have shown it."""
        return [tensor for tensor in self.tensors().values() if tensor.requires_grad]
