"""q(z|x): the amortised posterior. A guide is a module whose ``forward(x)`` returns a distribution
over the latent; the network gives its parameters.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import distributions, networks
from pyrovae.errors import number, whole_number
from pyrovae.networks import MLP, Conditional, Network, Shapes

__all__ = [
    "Flow",
    "FullRank",
    "Guide",
    "LowRank",
    "MeanField",
    "Mixture",
    "OneHot",
    "PowerSpherical",
    "RelaxedOneHot",
]

SMALLEST = 1e-5  # of a scale: no overflow, never zero


class Guide(Conditional):
    """q(z|x). Two abstract methods: ``parameter_shapes`` and ``distribution``."""

    space = "real numbers"  # where z lives; a prior must live there too
    enumerate = False  # whether z is summed out exactly

    def __init__(self, network: Network | nn.Module = MLP([400])) -> None:  # noqa: B008
        super().__init__(network)


class MeanField(Guide):
    """q(z|x) = prod_d N(z_d; loc_d(x), scale_d(x)^2).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013. The network gives loc and a raw
    scale, scale = softplus(raw) + 1e-5: no overflow, never zero.

    >>> guide = MeanField(MLP([16]))
    >>> guide.build((1, 8, 8), (2,))
    >>> guide(torch.zeros(5, 1, 8, 8)).event_shape
    torch.Size([2])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"loc": event_shape, "raw_scale": event_shape}

    def distribution(self, loc: Tensor, raw_scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, F.softplus(raw_scale) + SMALLEST).to_event(1)


class FullRank(Guide):
    """q(z|x) = N(z; loc(x), L(x) L(x)') with L = diag(scale(x)) (I + A(x)), A below the diagonal.

    For latents that the data leave correlated; D (D + 3) / 2 outputs for D dimensions. Kingma
    and Welling, "An Introduction to Variational Autoencoders", 2019, section 2.5.

    >>> guide = FullRank(MLP([16]))
    >>> guide.build((4,), (3,))
    >>> guide(torch.zeros(5, 4)).covariance_matrix.shape
    torch.Size([5, 3, 3])
    """

    below: Tensor

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        (size,) = event_shape
        below = (size * (size - 1) // 2,)
        return {"loc": event_shape, "raw_scale": event_shape, "correlation": below}

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        (size,) = event_shape
        rows, columns = torch.tril_indices(size, size, -1)
        self.register_buffer("below", rows * size + columns, persistent=False)

    def distribution(
        self, loc: Tensor, raw_scale: Tensor, correlation: Tensor
    ) -> dist.TorchDistribution:
        size, scale = loc.shape[-1], F.softplus(raw_scale) + SMALLEST
        flat = loc.new_zeros(*loc.shape[:-1], size * size)
        where = self.below.expand(correlation.shape)
        unit = flat.scatter(-1, where, correlation).unflatten(-1, (size, size))
        unit = unit + torch.eye(size).to(loc)
        return distributions.FullRankNormal(loc, scale_tril=scale[..., None] * unit)


class LowRank(Guide):
    """q(z|x) = N(z; loc, S (I + V V') S) with S = diag(scale(x)) and V(x) of ``rank`` columns.

    Correlated like :class:`FullRank`, with D (rank + 2) outputs. Ong, Nott and Smith, "Gaussian
    Variational Approximation with a Factor Covariance Structure", 2018.

    Args:
        network: gives loc, scale and V.
        rank: columns of V.

    >>> guide = LowRank(MLP([16]), rank=1)
    >>> guide.build((4,), (3,))
    >>> guide(torch.zeros(5, 4)).event_shape
    torch.Size([3])
    """

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        rank: int = 2,
    ) -> None:
        super().__init__(network)
        self.rank = whole_number("rank", rank)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        factor = (*event_shape, self.rank)
        return {"loc": event_shape, "raw_scale": event_shape, "factor": factor}

    def distribution(
        self, loc: Tensor, raw_scale: Tensor, factor: Tensor
    ) -> dist.TorchDistribution:
        scale = F.softplus(raw_scale) + SMALLEST
        return dist.LowRankMultivariateNormal(loc, scale[..., None] * factor, scale.square())


class Flow(Guide):
    """q(z|x) = N(e; loc(x), scale(x)^2) / |det dT/de|, z = T(e; h(x)), T autoregressive in e.

    Posteriors of any shape; one pass for a draw and its density, ``latent_dim`` passes for the
    density of another z. Kingma et al., "Improving Variational Inference with Inverse
    Autoregressive Flow", 2016.

    Args:
        network: gives loc, scale and the context h.
        kind: "autoregressive" (affine) or "spline" (rational-quadratic: Durkan et al., "Neural
            Spline Flows", 2019).
        transforms: how many, the order of units reversed in between.
        context: size of h.
        hidden: widths of each transform's network.

    >>> guide = Flow(MLP([16]), transforms=1, context=4, hidden=[16])
    >>> guide.build((4,), (3,))
    >>> guide(torch.zeros(5, 4)).rsample((7,)).shape
    torch.Size([7, 5, 3])
    """

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        kind: str = "autoregressive",
        transforms: int = 2,
        context: int = 16,
        hidden: list[int] = [64],  # noqa: B006
    ) -> None:
        super().__init__(network)
        self.kind = kind
        self.transforms = whole_number("transforms", transforms, most=networks.LAYERS)
        self.context, self.hidden = whole_number("context", context), list(hidden)
        networks.flow(kind, 2, 0, 1)  # a wrong kind is said at once

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"loc": event_shape, "raw_scale": event_shape, "context": (self.context,)}

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        (size,) = event_shape
        self.flow = networks.flow(self.kind, size, self.context, self.transforms, self.hidden)

    def distribution(
        self, loc: Tensor, raw_scale: Tensor, context: Tensor
    ) -> dist.TorchDistribution:
        base = dist.Normal(loc, F.softplus(raw_scale) + SMALLEST).to_event(1)
        return distributions.Flow(base, self.flow(context))


class Mixture(Guide):
    """q(z|x) = sum_k w_k(x) N(z; loc_k(x), diag(scale_k(x)^2)).

    For posteriors with several modes. Its gradient is pathwise, the weights included: Figurnov,
    Mohamed and Mnih, "Implicit Reparameterization Gradients", 2018.

    Args:
        network: gives weights, locs and scales.
        components: how many.

    >>> guide = Mixture(MLP([16]), components=2)
    >>> guide.build((4,), (3,))
    >>> guide(torch.zeros(5, 4)).rsample().requires_grad
    True
    """

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        components: int = 3,
    ) -> None:
        super().__init__(network)
        self.components = whole_number("components", components, least=2)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        each = (self.components, *event_shape)
        return {"logits": (self.components,), "loc": each, "raw_scale": each}

    def distribution(
        self, logits: Tensor, loc: Tensor, raw_scale: Tensor
    ) -> dist.TorchDistribution:
        return distributions.MixtureOfNormals(logits, loc, F.softplus(raw_scale) + SMALLEST)


class PowerSpherical(Guide):
    """q(z|x) proportional to (1 + loc(x) . z)^concentration(x) on the unit sphere.

    For the prior :class:`Sphere`. De Cao and Aziz, "The Power Spherical Distribution", 2020.

    >>> guide = PowerSpherical(MLP([16]))
    >>> guide.build((4,), (3,))
    >>> guide(torch.zeros(5, 4)).rsample().shape
    torch.Size([5, 3])
    """

    space = "the unit sphere"

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"direction": event_shape, "raw_concentration": ()}

    def distribution(self, direction: Tensor, raw_concentration: Tensor) -> dist.TorchDistribution:
        concentration = F.softplus(raw_concentration) + 0.1
        loc = F.normalize(direction, dim=-1, eps=1e-6)
        return distributions.PowerSpherical(loc, concentration)


class OneHot(Guide):
    """q(z|x) = prod_c Categorical(z_c; softmax(logits_c(x))), one-hot codes.

    For the prior :class:`OneHot`. Learned with the score function; with one code,
    ``enumerate=True`` and ``pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)`` sum it out exactly.

    Args:
        network: gives the logits.
        categories: of each code; ``latent_dim`` is a multiple of it.
        enumerate: sum the one code out.

    >>> guide = OneHot(MLP([16]), categories=4)
    >>> guide.build((3,), (8,))
    >>> guide(torch.zeros(5, 3)).sample().sum(-1)
    tensor([2., 2., 2., 2., 2.])
    """

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        categories: int = 10,
        enumerate: bool = False,  # noqa: A002
    ) -> None:
        super().__init__(network)
        self.categories = whole_number("categories", categories, least=2)
        self.enumerate = enumerate
        self.space = f"one-hot codes of {categories}"

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": distributions.codes(event_shape[0], self.categories)}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        return distributions.Codes(dist.OneHotCategorical(logits=logits))


class RelaxedOneHot(Guide):
    """q(z|x) = prod_c Concrete(z_c; softmax(logits_c(x)), temperature): one-hot codes relaxed.

    For the prior :class:`RelaxedOneHot`. Maddison, Mnih and Teh, "The Concrete Distribution: A
    Continuous Relaxation of Discrete Random Variables", 2017; Jang, Gu and Poole, "Categorical
    Reparameterization with Gumbel-Softmax", 2017.

    Args:
        network: gives the logits.
        categories: of each code; ``latent_dim`` is a multiple of it.
        temperature: towards 0 the codes become one-hot, and gradients noisy.

    >>> guide = RelaxedOneHot(MLP([16]), categories=4)
    >>> guide.build((3,), (8,))
    >>> guide(torch.zeros(5, 3)).rsample().requires_grad
    True
    """

    heat: Tensor

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        categories: int = 10,
        temperature: float = 0.67,
    ) -> None:
        super().__init__(network)
        self.categories = whole_number("categories", categories, least=2)
        self.temperature = number("temperature", temperature)
        self.space = f"relaxed codes of {categories}"

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": distributions.codes(event_shape[0], self.categories)}

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        self.register_buffer("heat", torch.tensor(self.temperature), persistent=False)

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        return distributions.Codes(distributions.Relaxed(self.heat, logits=logits))
