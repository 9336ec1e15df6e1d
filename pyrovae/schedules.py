"""How a number changes over training: annealed KL weights, learning rates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from pyrovae.components import Component
from pyrovae.errors import UsageError, whole_number

__all__ = ["Cosine", "Cyclic", "Linear", "Schedule", "Sigmoid"]


class Schedule(Component, ABC):
    """A factor in [0, 1] that a number is multiplied by. One abstract method: :meth:`at`."""

    @abstractmethod
    def at(self, epoch: float, epochs: int) -> float:
        """The factor ``epoch`` epochs (fractions count) into ``epochs`` of training."""


class Linear(Schedule):
    """min(1, t / epochs): warm-up of the KL, so that the latent is used before it is paid for.

    Bowman et al., "Generating Sentences from a Continuous Space", 2016; Sonderby et al., "Ladder
    Variational Autoencoders", 2016.

    >>> [Linear(epochs=10).at(t, 100) for t in (0, 5, 10, 50)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, epochs: int = 10) -> None:
        self.epochs = whole_number("epochs", epochs)

    def at(self, epoch: float, epochs: int) -> float:
        return min(1.0, epoch / self.epochs)


class Sigmoid(Schedule):
    """A smooth step from 0 to 1 over ``epochs``: s(12 t / epochs - 6), rescaled to end at 1.

    Bowman et al., "Generating Sentences from a Continuous Space", 2016.

    >>> [round(Sigmoid(epochs=10).at(t, 100), 3) for t in (0, 5, 10, 50)]
    [0.0, 0.5, 1.0, 1.0]
    """

    def __init__(self, epochs: int = 10) -> None:
        self.epochs = whole_number("epochs", epochs)

    def at(self, epoch: float, epochs: int) -> float:
        low, here = (1 / (1 + math.exp(-x)) for x in (-6, 12 * min(1, epoch / self.epochs) - 6))
        return (here - low) / (1 - 2 * low)


class Cyclic(Schedule):
    """``cycles`` times from 0 to 1: up during a share ``rise`` of the cycle, then at 1.

    Fu et al., "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", 2019.

    >>> [Cyclic(cycles=2).at(t, 40) for t in (0, 5, 10, 19, 20, 30, 40)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, cycles: int = 4, rise: float = 0.5) -> None:
        self.cycles = whole_number("cycles", cycles)
        if not 0 < rise <= 1:
            raise UsageError(f"rise is the share of a cycle that goes up, in (0, 1], got {rise!r}")
        self.rise = rise

    def at(self, epoch: float, epochs: int) -> float:
        if epoch >= epochs:
            return 1.0
        position = epoch * self.cycles / epochs % 1.0
        return min(1.0, position / self.rise)


class Cosine(Schedule):
    """Up in a line over ``warmup`` epochs, then down half a cosine to 0 at the end of training.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017. For
    learning rates.

    >>> [round(Cosine(warmup=2).at(t, 10), 3) for t in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, warmup: int = 0) -> None:
        self.warmup = whole_number("warmup", warmup, least=0)

    def at(self, epoch: float, epochs: int) -> float:
        if epoch < self.warmup:
            return epoch / self.warmup
        done = (epoch - self.warmup) / max(1, epochs - self.warmup)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2
