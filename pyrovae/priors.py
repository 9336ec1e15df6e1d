"""p(z): what the latent means. A prior is a module whose ``forward()`` returns a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import nn

from pyrovae.networks import Component

__all__ = ["Prior", "StandardNormal"]


class Prior(nn.Module, Component, ABC):
    """A distribution over the latent. One abstract method: :meth:`forward`."""

    latent_dim: int

    def build(self, latent_dim: int) -> None:
        """Allocate what depends on the latent's size; called once by the pair that owns this."""
        self.latent_dim = latent_dim

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """p(z), batch shape ``[]``, event shape ``[latent_dim]``."""


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.

    >>> prior = StandardNormal()
    >>> prior.build(20)
    >>> prior().event_shape
    torch.Size([20])
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def build(self, latent_dim: int) -> None:
        super().build(latent_dim)
        # buffers, so that .to(device) carries them; they hold no information worth saving
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)
