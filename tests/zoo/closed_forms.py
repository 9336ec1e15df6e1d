"""Answers worked out by torch alone, in double precision, and the parts that programs with such
answers are made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Made = TypeVar("Made")


def seeded(make: Callable[[], Made]) -> Callable[[], Made]:
    """``make`` under its own random state: as often as it is called, the same program and data."""

    @functools.wraps(make)
    def fresh() -> Made:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return make()

    return fresh


def loadings(rows: int, scales: list[float], seed: int = 1) -> Tensor:
    """``[rows, k]`` with orthogonal columns of the given lengths: x = W z + noise then leaves the
    units of z independent given x, so that a mean-field guide can be the exact posterior."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(rows, len(scales), generator=generator))[0]
    return basis * torch.tensor(scales)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer that starts at these values."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
    return layer


def decoder(w: Tensor) -> nn.Linear:
    """E[x|z] = W z."""
    return linear(w)


def encoder(w: Tensor, noise: float, width: float = 1.0) -> nn.Linear:
    """Mean and log scale of p(z|x) of x = W z + noise, z standard normal, the columns of W
    orthogonal; scales ``width`` times too large."""
    precision = 1 + (w**2).sum(0) / noise**2
    loc = (w / noise**2 / precision).T
    log_scale = math.log(width) - 0.5 * precision.log()
    bias = torch.cat([torch.zeros_like(log_scale), log_scale])
    return linear(torch.cat([loc, torch.zeros_like(loc)]), bias)


def draws(n: int, w: Tensor, noise: float) -> Tensor:
    """``[n, rows]`` of the model x = W z + noise."""
    return torch.randn(n, w.shape[1]) @ w.T + noise * torch.randn(n, len(w))


def normal(x: Tensor, loc: Tensor | float, scale: Tensor | float) -> Tensor:
    """log N(x; loc, scale²), entry by entry."""
    scale = torch.as_tensor(scale, dtype=torch.double)
    return -0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def gaussian(x: Tensor, covariance: Tensor, loc: Tensor | float = 0.0) -> Tensor:
    """log N(x; loc, covariance) of the rows of ``x`` ``[..., d]``."""
    covariance, apart = covariance.double(), x.double() - loc
    solved = torch.linalg.solve(covariance, apart[..., None])[..., 0]
    log_det = torch.linalg.slogdet(2 * math.pi * covariance).logabsdet
    return -0.5 * ((apart * solved).sum(-1) + log_det)


def factor_analysis(x: Tensor, w: Tensor, noise: float) -> Tensor:
    """log p(x) of x = W z + noise, z standard normal; ``[N]``."""
    w = w.double()
    return gaussian(x, w @ w.T + noise**2 * torch.eye(len(w)).double())


def line(
    log_density: Callable[[Tensor], Tensor], low: float = -10, high: float = 10, points: int = 4001
) -> Tensor:
    """log of the integral of exp(log_density(z)) over z, which comes as ``[points, 1]``, by the
    trapezoidal rule; the density's values are ``[points, N]``."""
    z = torch.linspace(low, high, points, dtype=torch.double)[:, None]
    edge = torch.zeros(points, 1, dtype=torch.double)
    edge[0] = edge[-1] = -math.log(2)
    step = math.log((high - low) / (points - 1))
    return (log_density(z) + edge).logsumexp(0) + step


def plane(
    log_density: Callable[[Tensor, Tensor], Tensor], low: float, high: float, points: int = 301
) -> Tensor:
    """The same over the midpoints of a square; both coordinates come as ``[points², 1]``."""
    step = (high - low) / points
    middle = low + step * (torch.arange(points, dtype=torch.double) + 0.5)
    first, second = torch.cartesian_prod(middle, middle)[:, :, None].unbind(1)
    return log_density(first, second).logsumexp(0) + 2 * math.log(step)
