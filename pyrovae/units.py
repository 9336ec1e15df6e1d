"""The data's own units, learned from the data: what a network sees of them, and says of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Units", "average", "largest", "pooled"]

CONSTANT = 1e-12  # of the squared mean: a variance below is rounding


def pooled(event_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of ``[N, *event_shape]`` over which entries share a unit: all but the columns of a
    table ``(columns,)`` or of a series ``(steps, columns)``, or the channels of an image
    ``(channels, height, width)``."""
    axes = len(event_shape)
    own = {0: (), 1: (1,), 2: (2,)}.get(axes, (1,))
    return tuple(axis for axis in range(axes + 1) if axis not in own)


def average(x: Tensor) -> Tensor:
    """The mean of ``[N, *event]`` over the data and what shares a unit, ``[*event]``, in double
    precision; NaN is missing, 0 where nothing is known."""
    event = tuple(x.shape[1:])
    mean = x.double().nanmean(pooled(event), keepdim=True).nan_to_num(0.0)
    return mean[0].expand(event)


def largest(x: Tensor) -> Tensor:
    """The largest value of ``[N, *event]`` over the data and what shares a unit, ``[*event]``; 0
    where nothing is known."""
    event = tuple(x.shape[1:])
    known = torch.where(x.isfinite(), x.double(), -torch.inf)
    found = known.amax(pooled(event), keepdim=True)
    return torch.where(found.isfinite(), found, 0.0)[0].expand(event)


class Units(nn.Module):
    """x = centre + unit * u, entry by entry: u is of the order of 1 where x is in its own unit.

    Until :meth:`measure` has seen data, u is x.

    Args:
        event_shape: of one x.
        own: whether entries are columns of a table, each with a unit whatever its values; otherwise
            arrays of values in [0, 1] are taken as they are.

    Attributes:
        centre: the mean, ``[*event]``.
        unit: the standard deviation, ``[*event]``; 1 where entries never vary.
        known: whether they were learned, a bool.

    >>> units = Units((2,))
    >>> units.measure(torch.tensor([[1.0, 3000.0], [3.0, 5000.0]]))
    True
    >>> units(torch.tensor([3.0, 4000.0]))
    tensor([1., 0.])
    """

    centre: Tensor
    unit: Tensor
    known: Tensor

    def __init__(self, event_shape: tuple[int, ...], *, own: bool = False) -> None:
        super().__init__()
        self.own = own
        self.register_buffer("centre", torch.zeros(event_shape))
        self.register_buffer("unit", torch.ones(event_shape))
        self.register_buffer("known", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """u, ``[*batch, *event]``; 0, the mean, where x is missing (NaN)."""
        return ((x - self.centre) / self.unit).nan_to_num(0.0)

    @torch.no_grad()
    def measure(self, x: Tensor) -> bool:
        """Learn mean and standard deviation from ``[N, *event]``, once; whether x has a unit of
        its own, which arrays of values in [0, 1] have not."""
        if bool(self.known):
            return False
        self.known.fill_(True)
        finite = x.isfinite()
        known = x[finite]
        if not len(known) or not (self.own or known.min() < 0 or known.max() > 1):
            return False
        x = torch.where(finite, x, torch.nan)
        mean = average(x)
        variance = average((x.double() - mean).square())
        varies = variance > CONSTANT * mean.square()
        self.centre.copy_(mean)
        self.unit.copy_(torch.where(varies, variance, 1.0).sqrt())
        return True
