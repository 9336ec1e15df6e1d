"""p(z): what the latent means. A prior is a module whose ``forward()`` returns a distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import nn

from pyrovae.distributions import Mixture
from pyrovae.networks import Component, Conditional
from pyrovae.tensors import UsageError, whole_number

__all__ = ["Prior", "StandardNormal", "VampPrior"]


class Prior(nn.Module, Component, ABC):
    """A distribution over the latent. One abstract method: :meth:`forward`."""

    latent_dim: int

    def build(self, latent_dim: int, guide: Conditional | None = None) -> None:
        """Allocate what depends on the latent's size; called once by the pair that owns this,
        which hands its guide over, built already."""
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

    def build(self, latent_dim: int, guide: Conditional | None = None) -> None:
        super().build(latent_dim)
        # buffers, so that .to(device) carries them; they hold no information worth saving
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class VampPrior(Prior):
    """p(z) = (1/K) sum_k q(z|u_k): the mixture of the guide's answers to K learned pseudo-data.

    Tomczak and Welling, "VAE with a VampPrior", 2018. Lets the prior follow the aggregate
    posterior. Pseudo-data cost the guide K more rows in every step.

    Args:
        components: K.
        unit: keep pseudo-data within [0, 1], as pixels are; False for real numbers.

    >>> from pyrovae.vae import VAE
    >>> vae = VAE((4,), 2, prior=VampPrior(10))
    >>> vae.prior().log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, components: int = 500, unit: bool = True) -> None:
        super().__init__()
        self.components, self.unit = whole_number("components", components), unit

    def build(self, latent_dim: int, guide: Conditional | None = None) -> None:
        super().build(latent_dim)
        if guide is None:
            raise UsageError("VampPrior is made of its pair's guide: build(latent_dim, guide)")
        self.owner = (guide,)  # a tuple, or its weights would count as the prior's own
        noise = 0.01 * torch.randn(self.components, *guide.context_shape)
        self.pseudo = nn.Parameter(noise + 0.05 if self.unit else noise * 100)

    def forward(self) -> dist.TorchDistribution:
        (guide,) = self.owner
        pseudo = self.pseudo.clamp(0, 1) if self.unit else self.pseudo
        weights = dist.Categorical(logits=pseudo.new_zeros(self.components))
        return Mixture(weights, guide(pseudo))
