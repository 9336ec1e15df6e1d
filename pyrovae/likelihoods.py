"""p(x|z): what the data are. A likelihood is a module whose ``forward(z)`` returns a distribution
over one datum; the network gives its parameters.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae.distributions import IndependentBernoulli
from pyrovae.networks import MLP, Conditional, Network, Shapes
from pyrovae.tensors import UsageError, nearest

__all__ = ["Bernoulli", "Likelihood", "Normal"]


class Likelihood(Conditional):
    """p(x|z). Two abstract methods: ``parameter_shapes`` and ``distribution``."""

    def __init__(self, network: Network | nn.Module = MLP([400])) -> None:  # noqa: B008
        super().__init__(network)


class Bernoulli(Likelihood):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(logits_d(z))), x in {0, 1}.

    For binary data. Grey pixels are not binary: binarise them (``data.binarised("dynamic")``)
    or choose a likelihood whose support holds them.

    >>> likelihood = Bernoulli(MLP([16]))
    >>> likelihood.build((2,), (1, 8, 8))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": event_shape}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        return IndependentBernoulli(dist.Bernoulli(logits=logits), len(self.event_shape))


class Normal(Likelihood):
    """p(x|z) = prod_d N(x_d; loc_d(z), scale_d^2), x real.

    Densities of real data are in nats relative to the data's own unit and can be positive.
    A learned scale is Rybkin, Daniilidis and Levine, "Simple and Effective VAE Training with
    Calibrated Decoders" (sigma-VAE), 2021; a scale fixed at 1 is a hidden choice of beta.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale.
        scale: ``"shared"`` one learned number, ``"per_dimension"`` one learned number per pixel,
            ``"network"`` a function of z, or a positive number, fixed.

    >>> likelihood = Normal(MLP([16]), scale="per_dimension")
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3])
    """

    fixed_scale: Tensor
    MINIMUM = 1e-4  # a density without a floor diverges on pixels that never vary

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        scale: float | str = "shared",
    ) -> None:
        super().__init__(network)
        choices = ["shared", "per_dimension", "network"]
        if isinstance(scale, str) and scale not in choices:
            raise UsageError(
                f"scale is one of {', '.join(choices)} or a positive number, got "
                f"{scale!r}{nearest(scale, choices)}"
            )
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise UsageError(f"a fixed scale is a positive number, got {scale}")
        self.scale = scale

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        names = ["loc", "raw_scale"] if self.scale == "network" else ["loc"]
        return dict.fromkeys(names, event_shape)

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.scale in ("shared", "per_dimension"):
            shape = event_shape if self.scale == "per_dimension" else ()
            self.raw_scale = nn.Parameter(torch.zeros(shape))
        elif not isinstance(self.scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(self.scale)), persistent=False)

    def distribution(self, loc: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        if isinstance(self.scale, str):
            scale = F.softplus(raw[0] if raw else self.raw_scale) + self.MINIMUM
        else:
            scale = self.fixed_scale
        return dist.Normal(loc, scale).to_event(len(self.event_shape))
