"""Distributions of latents that Pyro lacks, and closed forms between them."""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    LowRankMultivariateNormal,
    MultivariateNormal,
    constraints,
    kl_divergence,
    register_kl,
)

from pyrovae.errors import UsageError

__all__ = [
    "Codes",
    "Flow",
    "FullRankNormal",
    "Mixture",
    "MixtureOfNormals",
    "PowerSpherical",
    "Relaxed",
    "Uniform",
    "codes",
]

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _pick(logits: Tensor, sample_shape: torch.Size) -> Tensor:
    """One-hot draws ``[*sample_shape, *logits.shape]`` of a categorical, by the Gumbel maximum:
    unlike torch's own it looks at no value, so that a step can be traced."""
    with torch.no_grad():
        waits = torch.empty(torch.Size(sample_shape) + logits.shape).to(logits).exponential_()
        chosen = (logits - waits.log()).argmax(-1, keepdim=True)
        return torch.zeros_like(waits).scatter(-1, chosen, 1.0)


class Mixture(dist.MixtureSameFamily):
    """``MixtureSameFamily``; of diagonal Gaussians, its ``log_prob`` is three matrix products.

    log N(z; m_k, s_k^2) = c_k - 1/2 [z^2 s_k^-2 - 2 z m_k s_k^-2], summed over the dimensions by
    a product of ``[points, dims]`` and ``[dims, K]``: no ``[points, K, dims]`` in memory. The
    products are taken in double precision, where the difference of large squares is safe.

    >>> loc, scale = torch.randn(500, 40), torch.rand(500, 40) + 0.1
    >>> parts = dist.Categorical(torch.ones(500)), dist.Normal(loc, scale).to_event(1)
    >>> z = torch.randn(7, 3, 40)
    >>> slow = dist.MixtureSameFamily(*parts).log_prob(z)
    >>> torch.allclose(Mixture(*parts).log_prob(z), slow, rtol=1e-5)
    True
    """

    def log_prob(self, value: Tensor) -> Tensor:
        fn = self.component_distribution
        normal = fn.base_dist if isinstance(fn, dist.Independent) else fn
        logits = self.mixture_distribution.logits
        if not isinstance(normal, torch.distributions.Normal):
            return cast(Tensor, super().log_prob(value))
        loc, scale = normal.loc, normal.scale
        while loc.dim() > 2 and all(len(t) == 1 or t.stride(0) == 0 for t in (loc, scale, logits)):
            loc, scale, logits = loc[0], scale[0], logits[0]  # a plate has only repeated them
        if loc.dim() != 2:
            return cast(Tensor, super().log_prob(value))
        if self._validate_args:
            self._validate_sample(value)
        z, loc, scale = value.double(), loc.double(), scale.double()
        precision = scale.square().reciprocal()
        squares = z.square() @ precision.mT - 2 * (z @ (loc * precision).mT)
        constant = -0.5 * (loc.square() * precision).sum(-1) - scale.log().sum(-1)
        each = constant - 0.5 * squares - HALF_LOG_2PI * loc.shape[-1]
        return (logits.double().log_softmax(-1) + each).logsumexp(-1).to(value.dtype)


class _Remembers:
    """Knows the log density of its own last draw, which drawing it has told."""

    _last: tuple[Tensor, Tensor, bool] | None = None

    def _remember(self, value: Tensor, log_prob: Tensor) -> Tensor:
        self._last = value, log_prob, torch.is_grad_enabled()
        return value

    def _recall(self, value: Tensor) -> Tensor | None:
        if self._last is None or value is not self._last[0]:
            return None
        # a draw made without gradients is a constant, its density by the parameters is not
        return self._last[1] if self._last[2] or not torch.is_grad_enabled() else None


class FullRankNormal(_Remembers, dist.MultivariateNormal):
    """``MultivariateNormal`` that knows the density of its own last draw without solving.

    z = loc + L e has log q(z) = -|e|^2 / 2 - log|L| - D/2 log 2 pi: exact for any L, where the
    triangular solve of an ill-conditioned L overflows.

    >>> fn = FullRankNormal(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0], [0.5, 2.0]]))
    >>> z = fn.rsample((3,))
    >>> torch.allclose(fn.log_prob(z), fn.log_prob(z.clone()), atol=1e-5)
    True
    """

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = torch.randn(self._extended_shape(sample_shape)).to(self.loc)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * noise.square().sum(-1) - log_det - HALF_LOG_2PI * noise.shape[-1]
        return self._remember(self.loc + (self.scale_tril @ noise[..., None]).squeeze(-1), log_prob)

    def log_prob(self, value: Tensor) -> Tensor:
        known = self._recall(value)
        return cast(Tensor, super().log_prob(value)) if known is None else known


class Flow(_Remembers, dist.TorchDistribution):
    """z = T(e), e from ``base``: log q(z) = log base(e) - log|dT/de|.

    The density of its own last draw is known from drawing it; that of another z takes the
    inverse of T, which for an autoregressive T is as many passes as z has dimensions.

    Args:
        base: a distribution over vectors.
        transform: a zuko transform from base to z.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, base: dist.TorchDistribution, transform: Any, validate_args: bool | None = None
    ) -> None:
        self.base_dist, self.transform = base, transform
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> Flow:
        return Flow(self.base_dist.expand(batch_shape), self.transform, self._validate_args)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = self.base_dist.rsample(sample_shape)
        value, log_det = self.transform.call_and_ladj(noise)
        return self._remember(value, self.base_dist.log_prob(noise) - log_det)

    def log_prob(self, value: Tensor) -> Tensor:
        known = self._recall(value)
        if known is not None:
            return known
        noise, log_det = self.transform.inv.call_and_ladj(value)
        return cast(Tensor, self.base_dist.log_prob(noise) + log_det)


class MixtureOfNormals(dist.TorchDistribution):
    """sum_k w_k N(z; loc_k, diag(scale_k^2)) with pathwise gradients for all its parameters.

    The distributional transform u_d = F(z_d | z_1 ... z_{d-1}) is uniform whatever the
    parameters are, so dz = -(dF/dz)^-1 dF/dparameters, dF/dz being triangular. Figurnov, Mohamed
    and Mnih, "Implicit Reparameterization Gradients", 2018.

    Args:
        logits: ``[*batch, K]``, of the weights.
        loc: ``[*batch, K, dims]``.
        scale: ``[*batch, K, dims]``.

    >>> loc = torch.tensor([[-1.0], [2.0]], requires_grad=True)
    >>> fn = MixtureOfNormals(torch.zeros(2), loc, torch.ones(2, 1))
    >>> fn.rsample((20000,)).mean().backward()  # d E[z] / d loc_k = w_k = 1/2
    >>> bool((loc.grad - 0.5).abs().max() < 0.05)
    True
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> MixtureOfNormals:
        batch = torch.Size(batch_shape)
        each = batch + self.loc.shape[-2:]
        return MixtureOfNormals(
            self.logits.expand(batch + self.logits.shape[-1:]),
            self.loc.expand(each),
            self.scale.expand(each),
            self._validate_args,
        )

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1)[..., None] * self.loc).sum(-2)

    def _standard(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """(z - loc) / scale and the log density of every coordinate, ``[..., K, dims]``."""
        x = (value[..., None, :] - self.loc) / self.scale
        return x, -0.5 * x.square() - self.scale.log() - HALF_LOG_2PI

    def log_prob(self, value: Tensor) -> Tensor:
        _, log_density = self._standard(value)
        return (self.logits.log_softmax(-1) + log_density.sum(-1)).logsumexp(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            where = _pick(self.logits, sample_shape)[..., None]
            loc, scale = ((where * part).sum(-2) for part in (self.loc, self.scale))
            value = loc + scale * torch.randn_like(loc)
        if not torch.is_grad_enabled():
            return value
        x, log_density = self._standard(value)
        before = log_density.cumsum(-1) - log_density  # of the coordinates before each
        weight = (self.logits.log_softmax(-1)[..., None] + before).softmax(-2)
        share = weight * torch.special.ndtr(x)
        uniform = share.sum(-2)
        with torch.no_grad():
            slope = -x / self.scale  # of log density by z
            below = share.mT @ slope - uniform[..., None] * (weight.mT @ slope)
            own = (weight * log_density.exp()).sum(-2).clamp_min(torch.finfo(x.dtype).tiny)
            jacobian = below.tril(-1) + torch.diag_embed(own)
        change = (uniform - uniform.detach())[..., None]
        return value - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)


def codes(size: int, categories: int) -> tuple[int, int]:
    """``(codes, categories)`` of a latent of ``size`` units; UsageError where they do not fit."""
    if size % categories:
        raise UsageError(
            f"codes of {categories} categories do not fill latent_dim={size}; choose a multiple, "
            f"such as latent_dim={categories * max(1, round(size / categories))}"
        )
    return size // categories, categories


class Codes(dist.TorchDistribution):
    """Several independent one-hot codes, laid out as one vector ``[codes * categories]``.

    Args:
        base: ``OneHotCategorical`` or a relaxation of it, batch ``[*batch, codes]``.

    >>> fn = Codes(dist.OneHotCategorical(logits=torch.zeros(5, 2, 3)))
    >>> fn.event_shape, fn.sample().sum(-1).tolist()
    (torch.Size([6]), [2.0, 2.0, 2.0, 2.0, 2.0])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, base: dist.TorchDistribution, validate_args: bool | None = None) -> None:
        self.base_dist = base
        codes, self.categories = base.batch_shape[-1], base.event_shape[0]
        event = torch.Size([codes * self.categories])
        super().__init__(base.batch_shape[:-1], event, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base_dist.has_rsample)

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # type: ignore[arg-type]
    def support(self) -> constraints.Constraint:
        return _CodesConstraint(self.base_dist.support, self.categories)

    def _apart(self, value: Tensor) -> Tensor:
        return value.unflatten(-1, (-1, self.categories))

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> Codes:
        shape = (*batch_shape, self.base_dist.batch_shape[-1])
        return Codes(self.base_dist.expand(shape), self._validate_args)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        if isinstance(self.base_dist, torch.distributions.OneHotCategorical):
            return _pick(self.base_dist.logits, sample_shape).flatten(-2)
        return cast(Tensor, self.base_dist.sample(sample_shape).flatten(-2))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return cast(Tensor, self.base_dist.rsample(sample_shape).flatten(-2))

    def log_prob(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.base_dist.log_prob(self._apart(value)).sum(-1))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if self.base_dist.batch_shape[-1] != 1:
            raise NotImplementedError("several codes cannot be enumerated together")
        return cast(Tensor, self.base_dist.enumerate_support(expand).flatten(-2))

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        one = self.base_dist.batch_shape[-1] == 1
        return bool(one and self.base_dist.has_enumerate_support)

    @property
    def mean(self) -> Tensor:
        return cast(Tensor, self.base_dist.mean.flatten(-2))


class _CodesConstraint(constraints.Constraint):
    event_dim = 1

    def __init__(self, each: constraints.Constraint, categories: int) -> None:
        self.each, self.categories = each, categories
        self.is_discrete = each.is_discrete  # type: ignore[misc]

    def check(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.each.check(value.unflatten(-1, (-1, self.categories))).all(-1))


class Relaxed(dist.RelaxedOneHotCategorical):
    """``RelaxedOneHotCategorical`` whose draws stay where the density is finite.

    A coordinate that underflows to zero has log density -inf; it is kept at 1e-30 instead.
    """

    SMALLEST = 1e-30

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return cast(Tensor, super().rsample(sample_shape).clamp_min(self.SMALLEST))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)


class Uniform(dist.TorchDistribution):
    """Uniform on the unit sphere in ``dims`` dimensions: p(z) = Gamma(d/2) / (2 pi^(d/2)).

    >>> round(math.exp(Uniform(torch.zeros(3)).log_area) / math.pi, 6)
    4.0
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = dist.constraints.sphere
    has_rsample = True

    def __init__(self, like: Tensor, validate_args: bool | None = None) -> None:
        self.like = like
        super().__init__(like.shape[:-1], like.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> Uniform:
        return Uniform(self.like.expand(*batch_shape, *self.event_shape), self._validate_args)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        noise = torch.randn(self._extended_shape(sample_shape)).to(self.like)
        return F.normalize(noise, dim=-1)

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self.like)

    @property
    def log_area(self) -> float:
        """Log of the sphere's area."""
        half = self.event_shape[0] / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_full((), -self.log_area).expand(value.shape[:-1])


class PowerSpherical(dist.TorchDistribution):
    """q(z) proportional to (1 + loc . z)^concentration on the unit sphere.

    De Cao and Aziz, "The Power Spherical Distribution", 2020: like the von Mises-Fisher, with an
    exact reparameterised sampler, normaliser and entropy. loc . z = 2 T - 1 with T from
    Beta((d-1)/2 + concentration, (d-1)/2); the rest of the direction is uniform.

    >>> fn = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(20.0))
    >>> draws = fn.rsample((4000,))
    >>> bool((draws.norm(dim=-1) - 1).abs().max() < 1e-5)
    True
    >>> bool((draws.mean(0) - fn.mean).abs().max() < 0.02)
    True
    """

    arg_constraints = {"loc": constraints.real_vector, "concentration": constraints.positive}  # noqa: RUF012
    support = dist.constraints.sphere
    has_rsample = True

    def __init__(
        self, loc: Tensor, concentration: Tensor, validate_args: bool | None = None
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.concentration = concentration.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> PowerSpherical:
        loc = self.loc.expand(*batch_shape, *self.event_shape)
        return PowerSpherical(loc, self.concentration.expand(batch_shape), self._validate_args)

    @property
    def _shapes(self) -> tuple[Tensor, float]:
        half = (self.event_shape[0] - 1) / 2
        return half + self.concentration, half

    @property
    def _log_normaliser(self) -> Tensor:
        a, b = self._shapes
        gammas = torch.lgamma(a) - torch.lgamma(a + b)
        return (a + b) * math.log(2) + b * math.log(math.pi) + gammas

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        a, b = self._shapes
        share = dist.Beta(a, torch.full_like(a, b)).rsample(sample_shape)
        along = (2 * share - 1)[..., None]
        noise = torch.randn(*along.shape[:-1], self.event_shape[0] - 1).to(along)
        # in [0, 1], with a finite slope where the draw is the pole itself
        radius = (4 * share * (1 - share)).clamp_min(1e-12).sqrt()[..., None]
        value = torch.cat([along, radius * F.normalize(noise, dim=-1)], -1)
        first = torch.zeros_like(self.loc)
        first[..., 0] = 1.0
        mirror = F.normalize(first - self.loc, dim=-1, eps=1e-6)
        return value - 2 * (value * mirror).sum(-1, keepdim=True) * mirror

    def log_prob(self, value: Tensor) -> Tensor:
        cosine = (self.loc * value).sum(-1).clamp_min(-1 + 1e-7)
        return self.concentration * torch.log1p(cosine) - self._log_normaliser

    @property
    def mean(self) -> Tensor:
        a, b = self._shapes
        return self.loc * ((a - b) / (a + b))[..., None]

    def entropy(self) -> Tensor:
        a, b = self._shapes
        log_one_plus = math.log(2) + torch.digamma(a) - torch.digamma(a + b)
        return self._log_normaliser - self.concentration * log_one_plus


def _kl_to_diagonal(q: dist.TorchDistribution, p: dist.Independent) -> Tensor:
    """KL(q || prod_d N(l_d, s_d^2)) = -H(q) - E_q[log p], which q's mean and variance give."""
    normal = p.base_dist
    if not isinstance(normal, torch.distributions.Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    squares = (q.variance + (q.mean - normal.loc).square()) / normal.scale.square()
    expected = -(0.5 * squares + normal.scale.log() + HALF_LOG_2PI).sum(-1)
    return cast(Tensor, -q.entropy() - expected)


@register_kl(MultivariateNormal, dist.Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: dist.Independent) -> Tensor:
    return _kl_to_diagonal(q, p)


@register_kl(LowRankMultivariateNormal, dist.Independent)
def _kl_low_rank_diagonal(q: LowRankMultivariateNormal, p: dist.Independent) -> Tensor:
    return _kl_to_diagonal(q, p)


@register_kl(PowerSpherical, Uniform)
def _kl_sphere(q: PowerSpherical, p: Uniform) -> Tensor:
    return p.log_area - q.entropy()


@register_kl(Codes, Codes)
def _kl_codes(q: Codes, p: Codes) -> Tensor:
    return kl_divergence(q.base_dist, p.base_dist).sum(-1)
