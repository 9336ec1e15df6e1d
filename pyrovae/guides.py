"""q(z|x): the amortised posterior. A guide is a module whose ``forward(x)`` returns a distribution
over the latent; the network gives its parameters.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae.networks import MLP, Conditional, Network, Shapes

__all__ = ["Guide", "MeanField"]


class Guide(Conditional):
    """q(z|x). Two abstract methods: ``parameter_shapes`` and ``distribution``."""

    def __init__(self, network: Network | nn.Module = MLP([400])) -> None:  # noqa: B008
        super().__init__(network)


class MeanField(Guide):
    """q(z|x) = prod_d N(z_d; loc_d(x), scale_d(x)^2).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013. The network gives loc and a raw
    scale, scale = softplus(raw) + 1e-5: no overflow, never zero.

    >>> import torch
    >>> guide = MeanField(MLP([16]))
    >>> guide.build((1, 8, 8), (2,))
    >>> guide(torch.zeros(5, 1, 8, 8)).event_shape
    torch.Size([2])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"loc": event_shape, "raw_scale": event_shape}

    def distribution(self, loc: Tensor, raw_scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, F.softplus(raw_scale) + 1e-5).to_event(1)
