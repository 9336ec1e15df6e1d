"""p(z): what the latent means. A prior is a module whose ``forward()`` returns a distribution."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import distributions, networks
from pyrovae.components import Component
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.labels import check_labels

__all__ = [
    "Conditional",
    "Flow",
    "Laplace",
    "Mixture",
    "Normal",
    "OneHot",
    "Prior",
    "RelaxedOneHot",
    "Sphere",
    "StandardNormal",
    "StudentT",
    "VampPrior",
]

ONE = math.log(math.expm1(1.0))  # softplus(ONE) = 1
SMALLEST = 1e-4  # of a learned scale: a prior that closes in on a point has no bounded density


class Prior(nn.Module, Component, ABC):
    """A distribution over the latent. One abstract method: :meth:`forward`."""

    latent_dim: int
    zeros: Tensor
    ones: Tensor
    space = "real numbers"  # where z lives; a guide must live there too
    takes_labels = False  # whether forward takes y, and with it the pair's programs

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        """Allocate what depends on the latent's size; called once by the pair that owns this,
        which hands its guide over, built already."""
        self.latent_dim = latent_dim
        # buffers, so that .to(device) carries them; they hold no information worth saving
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def meet(self, features: Tensor) -> None:
        """Refuse what the guide will see of the data, ``[N, *feature_shape]``, where this prior is
        not for it."""

    @abstractmethod
    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        """p(z), batch shape ``[]``, event shape ``[latent_dim]``."""


class StandardNormal(Prior):
    """p(z) = N(z; 0, I).

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.

    >>> prior = StandardNormal()
    >>> prior.build(20)
    >>> prior().event_shape
    torch.Size([20])
    """

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.zeros, self.ones).to_event(1)


class Normal(Prior):
    """p(z) = prod_d N(z_d; loc_d, scale_d^2) with learned loc and scale.

    The family of :class:`StandardNormal` in other units: for latents whose scale is given from
    elsewhere, such as a fixed decoder.

    >>> prior = Normal()
    >>> prior.build(20)
    >>> [name for name, _ in prior.named_parameters()]
    ['loc', 'raw_scale']
    """

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.full((latent_dim,), ONE))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.loc, F.softplus(self.raw_scale) + SMALLEST).to_event(1)


class Laplace(Prior):
    """p(z) = prod_d exp(-|z_d|) / 2: units that are mostly near zero, and far out at times.

    Barello, Charles and Pillow, "Sparse-Coding Variational Auto-Encoders", 2018.

    >>> prior = Laplace()
    >>> prior.build(20)
    >>> prior().event_shape
    torch.Size([20])
    """

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(self.zeros, self.ones).to_event(1)


class StudentT(Prior):
    """p(z) = prod_d t(z_d; df): heavy tails, which pull clusters to the middle less.

    Abiri and Ohlsson, "Variational Auto-Encoders with Student's t-Prior", 2020.

    Args:
        df: degrees of freedom; the smaller, the heavier the tails.

    >>> prior = StudentT(df=3.0)
    >>> prior.build(20)
    >>> prior().event_shape
    torch.Size([20])
    """

    def __init__(self, df: float = 5.0) -> None:
        super().__init__()
        self.df = number("df", df)

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(self.df, self.zeros, self.ones).to_event(1)


class Mixture(Prior):
    """p(z) = sum_k w_k N(z; loc_k, diag(scale_k^2)), all of it learned.

    For data in groups: Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture
    Variational Autoencoders", 2016, with the group summed out.

    Args:
        components: K.

    >>> prior = Mixture(components=5)
    >>> prior.build(20)
    >>> prior().log_prob(torch.zeros(3, 20)).shape
    torch.Size([3])
    """

    def __init__(self, components: int = 10) -> None:
        super().__init__()
        self.components = whole_number("components", components)

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        shape = (self.components, latent_dim)
        self.logits = nn.Parameter(torch.zeros(self.components))
        self.loc = nn.Parameter(torch.randn(shape))
        self.raw_scale = nn.Parameter(torch.full(shape, ONE))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        scale = F.softplus(self.raw_scale) + SMALLEST
        parts = dist.Normal(self.loc, scale).to_event(1)
        return distributions.Mixture(dist.Categorical(logits=self.logits), parts)


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

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        if guide is None:
            raise UsageError("VampPrior is made of its pair's guide: build(latent_dim, guide)")
        self.owner = (guide,)  # a tuple, or its weights would count as the prior's own
        self.space = guide.space  # type: ignore[assignment]
        noise = 0.01 * torch.randn(self.components, *guide.context_shape)
        self.pseudo = nn.Parameter(noise + 0.05 if self.unit else noise * 100)

    def meet(self, features: Tensor) -> None:
        if self.unit and bool((features < 0).any() | (features > 1).any()):
            raise UsageError(
                "VampPrior keeps its pseudo-data within [0, 1], as pixels are, and the guide sees "
                "these data standardised: give VampPrior(unit=False), --prior.unit false"
            )

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        (guide,) = self.owner
        pseudo = self.pseudo.clamp(0, 1) if self.unit else self.pseudo
        weights = dist.Categorical(logits=pseudo.new_zeros(self.components))
        return distributions.Mixture(weights, guide(pseudo))


class Flow(Prior):
    """p(z) = N(f(z); 0, I) |det df/dz| with f a masked autoregressive network.

    One pass for a density, ``latent_dim`` passes for a draw. Papamakarios, Pavlakou and Murray,
    "Masked Autoregressive Flow for Density Estimation", 2017; as a prior, Chen et al.,
    "Variational Lossy Autoencoder", 2017.

    Args:
        kind: "autoregressive" (affine) or "spline" (rational-quadratic: Durkan et al., "Neural
            Spline Flows", 2019).
        transforms: how many, the order of units reversed in between.
        hidden: widths of each transform's network.

    >>> prior = Flow("spline", transforms=1, hidden=[16])
    >>> prior.build(3)
    >>> prior().log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        kind: str = "autoregressive",
        transforms: int = 3,
        hidden: list[int] = [64, 64],  # noqa: B006
    ) -> None:
        super().__init__()
        self.kind = kind
        self.transforms = whole_number("transforms", transforms, most=networks.LAYERS)
        self.hidden = list(hidden)
        networks.flow(kind, 2, 0, 1)  # a wrong kind is said at once

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        self.flow = networks.flow(self.kind, latent_dim, 0, self.transforms, self.hidden)

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        base = dist.Normal(self.zeros, self.ones).to_event(1)
        return distributions.Flow(base, self.flow(None).inv)


class Sphere(Prior):
    """p(z) uniform on the unit sphere in ``latent_dim`` dimensions.

    For directions, without a middle to crowd around; needs the guide :class:`PowerSpherical`.
    Davidson et al., "Hyperspherical Variational Auto-Encoders", 2018.

    >>> prior = Sphere()
    >>> prior.build(3)
    >>> prior().sample().norm().round(decimals=4)
    tensor(1.)
    """

    space = "the unit sphere"

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(whole_number("the latent_dim of a Sphere", latent_dim, least=2))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return distributions.Uniform(self.zeros)


class Conditional(Prior):
    """p(z|y) = prod_d N(z_d; loc_yd, scale_yd^2), a learned Gaussian for each label y.

    The pair's programs become ``model(x, y)`` and ``guide(x, y)``; the guide looks at x alone.
    Sohn, Lee and Yan, "Learning Structured Output Representation using Deep Conditional
    Generative Models", 2015.

    Args:
        classes: how many labels there are, 0 to classes - 1.

    >>> prior = Conditional(classes=10)
    >>> prior.build(3)
    >>> prior(torch.tensor([1, 7])).batch_shape
    torch.Size([2])
    """

    takes_labels = True

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = whole_number("classes", classes)

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        self.loc = nn.Parameter(0.1 * torch.randn(self.classes, latent_dim))
        self.raw_scale = nn.Parameter(torch.full((self.classes, latent_dim), ONE))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        if len(labels) != 1:
            raise UsageError(
                "the prior Conditional is p(z|y): give the data as (x, y), for example "
                "TensorData(x, labels=y).with_labels()"
            )
        y = labels[0].long()
        check_labels(y, self.classes, "the prior Conditional")
        scale = F.softplus(self.raw_scale[y]) + SMALLEST
        return dist.Normal(self.loc[y], scale).to_event(1)


class OneHot(Prior):
    """p(z) = prod_c Categorical(z_c; w_c): ``latent_dim / categories`` one-hot codes, w learned.

    For groups and attributes. Draws have no pathwise gradient: the guide :class:`OneHot` is
    trained with the score function, or summed out when there is one code (``enumerate=True``
    and ``pyro.infer.TraceEnum_ELBO``). Jang, Gu and Poole, "Categorical Reparameterization with
    Gumbel-Softmax", 2017, compare the ways.

    Args:
        categories: of each code; ``latent_dim`` is a multiple of it.

    >>> prior = OneHot(categories=4)
    >>> prior.build(8)
    >>> prior().sample().sum()
    tensor(2.)
    """

    def __init__(self, categories: int = 10) -> None:
        super().__init__()
        self.categories = whole_number("categories", categories, least=2)
        self.space = f"one-hot codes of {categories}"

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        self.logits = nn.Parameter(torch.zeros(distributions.codes(latent_dim, self.categories)))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        return distributions.Codes(dist.OneHotCategorical(logits=self.logits))


class RelaxedOneHot(Prior):
    """p(z) = prod_c Concrete(z_c; w_c, temperature): one-hot codes made continuous, w learned.

    Maddison, Mnih and Teh, "The Concrete Distribution: A Continuous Relaxation of Discrete Random
    Variables", 2017. Needs the guide :class:`RelaxedOneHot`.

    Args:
        categories: of each code; ``latent_dim`` is a multiple of it.
        temperature: towards 0 the codes become one-hot, and gradients noisy.

    >>> prior = RelaxedOneHot(categories=4)
    >>> prior.build(8)
    >>> prior().rsample().sum().round(decimals=4)
    tensor(2., grad_fn=<RoundBackward1>)
    """

    def __init__(self, categories: int = 10, temperature: float = 0.5) -> None:
        super().__init__()
        self.categories = whole_number("categories", categories, least=2)
        self.temperature = number("temperature", temperature)
        self.space = f"relaxed codes of {categories}"

    def build(self, latent_dim: int, guide: networks.Conditional | None = None) -> None:
        super().build(latent_dim)
        self.logits = nn.Parameter(torch.zeros(distributions.codes(latent_dim, self.categories)))

    def forward(self, *labels: Tensor) -> dist.TorchDistribution:
        heat = self.temperature * self.ones[0]
        return distributions.Codes(distributions.Relaxed(heat, logits=self.logits))
