"""Hamiltonian Monte Carlo of many chains and data at once, a step size for each datum."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrovae.potentials import Point

__all__ = ["Steps", "transition"]

TARGET = 0.7  # acceptance: between 0.6 and 0.9 the cost per effective draw is flat
JITTER = 0.2  # of the step size, lest a trajectory come back to where it began
DIVERGED = 1000.0  # nats


def transition(
    potential: Callable[[Tensor], Point],
    point: Point,
    beta: float | Tensor,
    scale: Tensor,
    step: Tensor,
    leapfrogs: int,
) -> tuple[Point, Tensor]:
    """One transition of every chain that leaves base^(1 - beta) target^beta as it is.

    Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC Using Hamiltonian Dynamics", 2011. The
    gradients of the point are known, so that it costs ``leapfrogs`` evaluations.

    Args:
        potential: of the latents u.
        point: where the chains stand.
        beta: from 0 to 1, a number or ``[batch]``.
        scale: ``[batch, dims]``, the standard deviations that masses are the inverse squares of.
        step: ``[batch]``, step sizes in units of the scale.
        leapfrogs: of a trajectory.

    Returns:
        Where the chains go on, and the probability that they moved ``[chains, batch]``.
    """
    beta = torch.as_tensor(beta).to(point.target)
    momentum = torch.randn_like(point.u)
    jitter = 1 + JITTER * (2 * torch.rand(point.target.shape).to(point.u) - 1)
    size = (step * jitter)[..., None]
    move = size * scale
    half = 0.5 * move
    before = point.at(beta) - 0.5 * momentum.square().sum(-1)
    new = point
    momentum = momentum + half * new.gradient(beta)
    for k in range(leapfrogs):
        new = potential(new.u + move * momentum)
        last = k == leapfrogs - 1
        momentum = momentum + (half if last else move) * new.gradient(beta)
    gain = new.at(beta) - 0.5 * momentum.square().sum(-1) - before
    # what is no number has diverged
    accept = torch.where(gain > -DIVERGED, gain, -torch.inf).clamp_max(0).exp()
    chosen = torch.rand(accept.shape).to(accept) < accept
    return new.where(chosen, point), accept


class Steps:
    """Step sizes ``[batch]`` that follow the acceptance of the chains.

    Args:
        dims: real numbers per datum.
        batch: data.
        like: of the device and type.
    """

    def __init__(self, dims: int, batch: int, like: Tensor) -> None:
        self.log_step = torch.full((batch,), math.log(0.9 * dims**-0.25)).to(like)

    @property
    def size(self) -> Tensor:
        """The step sizes at the moment."""
        return self.log_step.exp()

    def follow(self, accept: Tensor, gain: float) -> None:
        """Raise the steps of data whose chains were accepted more often than :data:`TARGET`, lower
        the others. Robbins and Monro, "A Stochastic Approximation Method", 1951."""
        self.log_step = (self.log_step + gain * (accept.mean(0) - TARGET)).clamp(-12, 1.5)
