"""Distributions of data that Pyro lacks, or has in a slower form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

__all__ = [
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "IndependentBernoulli",
    "LogNormal",
    "LogisticMixture",
    "NegativeBinomial",
    "OptimalScale",
    "PerColumn",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "eight_bit",
]

GROUP = 64  # 2^-64 is far from float32's smallest number
BLOCK = 2**19  # elements at a time
LEVELS = 256


class IndependentBernoulli(dist.Independent):
    """``Bernoulli(logits=...).to_event(n)`` whose ``log_prob`` costs a third.

    log p(x) = sum_d log sigmoid(t_d) with t = (2x - 1) logits, and log sigmoid(t) = min(t, 0) +
    log sigmoid(|t|). As sigmoid(|t|) lies in [1/2, 1], many of them can be multiplied before one
    logarithm is taken; logarithms are what the usual form spends its time on.

    >>> logits, x = torch.randn(3, 1, 28, 28), torch.ones(3, 1, 28, 28)
    >>> fast = IndependentBernoulli(dist.Bernoulli(logits=logits), 3).log_prob(x)
    >>> torch.allclose(fast, dist.Bernoulli(logits=logits).to_event(3).log_prob(x), rtol=1e-5)
    True
    """

    def log_prob(self, value: Tensor) -> Tensor:
        base, n = self.base_dist, self.reinterpreted_batch_ndims
        if n == 0 or "logits" not in vars(base):
            exact: Tensor = super().log_prob(value)
            return exact
        if base._validate_args:
            base._validate_sample(value)
        log_prob: Tensor = _SumLogSigmoid.apply(base.logits, 2 * value - 1, n)
        return log_prob


def _sum_log_sigmoid(logits: Tensor, sign: Tensor, n: int) -> Tensor:
    t = sign * logits
    total = t.clamp_max(0).sum(tuple(range(-n, 0)))
    factors = t.abs_().sigmoid_().flatten(t.dim() - n)
    multiplied = 1
    while factors.shape[-1] % 2 == 0 and multiplied < GROUP:
        half = factors.shape[-1] // 2
        factors = factors[..., :half] * factors[..., half:]
        multiplied *= 2
    return total + factors.log().sum(-1)


class _SumLogSigmoid(torch.autograd.Function):
    """sum over the last ``n`` dimensions of log sigmoid(sign * logits), sign -1 or 1."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sign: Tensor, n: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(logits, sign)
        ctx.n = n
        logits, sign = torch.broadcast_tensors(logits, sign)
        if logits.numel() <= BLOCK or logits.dim() == n:
            return _sum_log_sigmoid(logits, sign, n)
        # large temporaries cost more to allocate than to compute
        rows = max(1, BLOCK // logits[0].numel())
        blocks = zip(logits.split(rows), sign.split(rows), strict=True)
        return torch.cat([_sum_log_sigmoid(*block, n) for block in blocks])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        logits, sign = ctx.saved_tensors
        grad = grads[0].reshape(*grads[0].shape, *(1,) * ctx.n)
        return (grad * sign * torch.sigmoid(-sign * logits)).sum_to_size(logits.shape), None, None


def log_rising(a: Tensor, k: Tensor) -> Tensor:
    """log Gamma(a + k) - log Gamma(a) for a > 0, k >= 0, without cancellation at large a.

    >>> log_rising(torch.tensor(1e8), torch.tensor(1.0))  # log a
    tensor(18.4207)
    """
    small, large = a.clamp_max(8), a.clamp_min(8)
    exact = torch.lgamma(small + k) - torch.lgamma(small)
    total = large + k
    stirling = (large - 0.5) * torch.log1p(k / large) + k * total.log() - k
    correction = (1 / total - 1 / large) / 12 - (total**-3 - large**-3) / 360
    return torch.where(a < 8, exact, stirling + correction)


class PerEntry(dist.TorchDistribution):
    """A distribution over single numbers that its keyword arguments give: broadcasts, expands."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, *, validate_args: bool | None = None, **given: Any) -> None:
        self.given = given
        trailing = {
            n: self.arg_constraints[n].event_dim for n in given if n in self._tensors(given)
        }
        batch = torch.broadcast_shapes(
            *(given[n].shape[: given[n].dim() - depth] for n, depth in trailing.items())
        )
        for name, value in given.items():
            if name in trailing:
                value = value.expand(batch + value.shape[value.dim() - trailing[name] :])
            setattr(self, name, value)
        super().__init__(batch, validate_args=validate_args)

    @staticmethod
    def _tensors(given: dict[str, object]) -> list[str]:
        return [name for name, value in given.items() if isinstance(value, Tensor)]

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> PerEntry:
        given = dict(self.given)
        for name in self._tensors(given):
            value, depth = getattr(self, name), self.arg_constraints[name].event_dim
            given[name] = value.expand(*batch_shape, *value.shape[value.dim() - depth :])
        new = type(self)(**given, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _check(self, value: Tensor) -> None:
        if self._validate_args:
            self._validate_sample(value)


class ContinuousBernoulli(PerEntry):
    """p(x) = t exp(t x) / (exp(t) - 1), t the logits, x in [0, 1]; exact at every t.

    >>> x = torch.tensor([0.0, 0.5, 1.0])
    >>> ContinuousBernoulli(logits=torch.tensor(0.0)).log_prob(x)
    tensor([0., 0., 0.])
    """

    logits: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}
    support = constraints.unit_interval
    SMALL = 0.1  # below, a series: the closed form's derivative cancels

    def _parts(self) -> tuple[Tensor, Tensor]:
        small = self.logits.abs() < self.SMALL
        return small, torch.where(small, 1.0, self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        small, t = self._parts()
        exponent = torch.where(t > 0, t * (value - 1), t * value)
        closed = exponent + t.abs().log() - torch.log(-torch.expm1(-t.abs()))
        near = torch.where(small, self.logits, 0.0)
        series = near * (value - 0.5) - near**2 / 24 + near**4 / 2880
        return torch.where(small, series, closed)

    @property
    def mean(self) -> Tensor:
        small, t = self._parts()
        closed = -1 / torch.expm1(-t) - 1 / t
        return torch.where(small, 0.5 + self.logits / 12 - self.logits**3 / 720, closed)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            t = self.logits
            u = torch.rand(self._extended_shape(sample_shape), dtype=t.dtype, device=t.device)
            tiny = t.abs() < 1e-3
            s = torch.where(tiny, 1.0, t.abs())
            down = -torch.log1p(u * torch.expm1(-s)) / s
            x = torch.where(t > 0, 1 - down, down)
            return torch.where(tiny, u, x).clamp(0, 1)


class Categorical(dist.Categorical):
    """Classes 0 to K - 1 as data hold them: floats. There is no mean; the mode is the class with
    the largest probability.

    >>> Categorical(logits=torch.tensor([0.0, 2.0, 1.0])).mode
    tensor(1.)
    """

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        drawn: Tensor = super().sample(sample_shape).to(self.logits.dtype)
        return drawn

    @property
    def mode(self) -> Tensor:
        return self.logits.argmax(-1).to(self.logits.dtype)


class LogNormal(PerEntry):
    """log x ~ N(loc, scale^2); draws and mean are kept within what floats hold.

    >>> LogNormal(loc=torch.tensor(1e4), scale=torch.tensor(1.0)).sample().isfinite()
    tensor(True)
    """

    loc: Tensor
    scale: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.positive

    def _exp(self, value: Tensor) -> Tensor:
        return value.clamp(-85, 85).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        log = value.log()
        z = (log - self.loc) / self.scale
        return -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2 * math.pi) - log

    @property
    def mean(self) -> Tensor:
        return self._exp(self.loc + self.scale.square() / 2)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            noise = self.loc.new_empty(self._extended_shape(sample_shape)).normal_()
            return self._exp(self.loc + self.scale * noise)


class Binomial(PerEntry):
    """p(k) = C(n, k) p^k (1 - p)^(n - k), n ``total_count``, p = sigmoid(logits).

    >>> Binomial(logits=torch.zeros(()), total_count=2).log_prob(torch.tensor(1.0)).exp()
    tensor(0.5000)
    """

    logits: Tensor
    total_count: int
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"logits": constraints.real}

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        rest = self.total_count - value
        odds = value * F.logsigmoid(self.logits) + rest * F.logsigmoid(-self.logits)
        return odds + _log_choose(self.total_count, value)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.sigmoid()

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            p = self.logits.sigmoid().expand(self._extended_shape(sample_shape))
            return torch.binomial(torch.full_like(p, self.total_count), p)


class BetaBinomial(PerEntry):
    """Binomial(k; n, p) with p ~ Beta(a, b), a ``concentration1`` and b ``concentration0``.

    >>> uniform = BetaBinomial(
    ...     concentration1=torch.ones(()), concentration0=torch.ones(()), total_count=3
    ... )
    >>> uniform.log_prob(torch.arange(4.0)).exp()
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    concentration1: Tensor
    concentration0: Tensor
    total_count: int
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.total_count)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        a, b, n = self.concentration1, self.concentration0, self.total_count
        beta = log_rising(a, value) + log_rising(b, n - value)
        return _log_choose(n, value) + beta - log_rising(a + b, torch.full_like(value, n))

    @property
    def mean(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        return self.total_count * a / (a + b)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            ones, zeros = (
                _log_gamma(c.expand(shape)) for c in (self.concentration1, self.concentration0)
            )
            p = (ones - zeros).sigmoid()
            return torch.binomial(torch.full_like(p, self.total_count), p)


def _log_choose(n: int, k: Tensor) -> Tensor:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _log_gamma(concentration: Tensor) -> Tensor:
    """The logarithm of Gamma draws, exact where the draws themselves would be 0."""
    u = torch.rand_like(concentration).clamp_min(torch.finfo(concentration.dtype).tiny)
    return torch._standard_gamma(concentration + 1).log() + u.log() / concentration


class Poisson(PerEntry):
    """p(k) = exp(k log_rate - exp(log_rate)) / k!.

    >>> Poisson(log_rate=torch.tensor(0.0)).log_prob(torch.tensor(0.0))
    tensor(-1.)
    """

    log_rate: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        return value * self.log_rate - self.log_rate.exp() - torch.lgamma(value + 1)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))


class NegativeBinomial(PerEntry):
    """p(k) = Gamma(k + r) / (k! Gamma(r)) (r / (r + m))^r (m / (r + m))^k, m = exp(log_mean), r
    ``inverse_dispersion``: mean m, variance m + m^2 / r. As exact at r = 1e8 as at r = 1.

    >>> r, m = torch.tensor(2.0), torch.tensor(0.0)
    >>> fn = NegativeBinomial(log_mean=m, inverse_dispersion=r)
    >>> fn.log_prob(torch.arange(4.0)).exp()
    tensor([0.4444, 0.2963, 0.1481, 0.0658])
    """

    log_mean: Tensor
    inverse_dispersion: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_mean": constraints.real,
        "inverse_dispersion": constraints.positive,
    }
    support = constraints.nonnegative_integer

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        r, mean = self.inverse_dispersion, self.mean
        failures = log_rising(r, value) - torch.lgamma(value + 1) - r * torch.log1p(mean / r)
        return failures + value * (self.log_mean - (r + mean).log())

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            r = self.inverse_dispersion.expand(self._extended_shape(sample_shape))
            rate = torch._standard_gamma(r) * (self.mean / r)
            # beyond 2^24 float32 holds no odd numbers
            return torch.poisson(rate.clamp_max(2.0**24))


class ZeroInflatedNegativeBinomial(PerEntry):
    """p(k) = pi 1(k = 0) + (1 - pi) NB(k; log_mean, inverse_dispersion), pi = sigmoid(gate).

    >>> zero = torch.tensor(0.0)
    >>> fn = ZeroInflatedNegativeBinomial(log_mean=zero, inverse_dispersion=zero.exp(), gate=zero)
    >>> fn.log_prob(torch.arange(3.0)).exp()
    tensor([0.7500, 0.1250, 0.0625])
    """

    gate: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        **NegativeBinomial.arg_constraints,
        "gate": constraints.real,
    }
    support = constraints.nonnegative_integer

    @property
    def counts(self) -> NegativeBinomial:
        """What is counted where the gate is open."""
        given = {name: getattr(self, name) for name in NegativeBinomial.arg_constraints}
        return NegativeBinomial(**given, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        counted = self.counts.log_prob(value) + F.logsigmoid(-self.gate)
        closed = F.logsigmoid(self.gate)
        return torch.where(value == 0, torch.logaddexp(counted, closed), counted)

    @property
    def mean(self) -> Tensor:
        return self.counts.mean * (-self.gate).sigmoid()

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            drawn = self.counts.sample(sample_shape)
            return torch.where(torch.rand_like(drawn) < self.gate.sigmoid(), 0.0, drawn)


class _EightBit(constraints.Constraint):
    """The numbers k / 255, k = 0 to 255."""

    is_discrete = True
    words = "the 8-bit levels 0, 1/255, ..., 1"

    def check(self, value: Tensor) -> Tensor:
        level = value * (LEVELS - 1)
        whole = (level - level.round()).abs() < 1e-2
        return whole & (value >= 0) & (value <= 1)

    def __repr__(self) -> str:
        return "EightBit()"


eight_bit = _EightBit()


class LogisticMixture(PerEntry):
    """A mixture of logistics rounded to the 256 levels k / 255; the outer two hold the tails.

    With c = 2x - 1, P(x) = sum_j pi_j [sigmoid((c + h - loc_j) / s_j) - sigmoid((c - h - loc_j) /
    s_j)], h = 1 / 255. Components lie in the parameters' last dimension.

    >>> logits, loc = torch.zeros(3), torch.tensor([-1.0, 0.0, 1.0])
    >>> fn = LogisticMixture(logits=logits, loc=loc, log_scale=torch.full((3,), -2.0))
    >>> fn.log_prob(torch.arange(256) / 255).exp().sum()
    tensor(1.0000)
    """

    logits: Tensor
    loc: Tensor
    log_scale: Tensor
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "log_scale": constraints.real_vector,
    }
    support = eight_bit

    def log_prob(self, value: Tensor) -> Tensor:
        self._check(value)
        level = (value * (LEVELS - 1)).round()[..., None]
        half, slope = 1 / (LEVELS - 1), (-self.log_scale).exp()
        centred = 2 * level / (LEVELS - 1) - 1 - self.loc
        below, above = (centred + half) * slope, (half - centred) * slope
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
        left, right = F.logsigmoid(below), F.logsigmoid(above)
        inner = left + right + torch.log(-torch.expm1(-2 * half * slope))
        component = torch.where(level == 0, left, inner)
        component = torch.where(level == LEVELS - 1, right, component)
        return torch.logsumexp(self.logits.log_softmax(-1) + component, -1)

    @property
    def mean(self) -> Tensor:
        """E[k] / 255 with E[k] = sum_{j >= 1} P(k >= j)."""
        weights, slope = self.logits.softmax(-1), (-self.log_scale).exp()
        total = torch.zeros_like(self.loc)
        for j in range(1, LEVELS):
            total = total + torch.sigmoid((self.loc - (2 * j - LEVELS) / (LEVELS - 1)) * slope)
        return ((weights * total).sum(-1) / (LEVELS - 1)).clamp(0, 1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            chosen = dist.Categorical(logits=self.logits).sample(sample_shape)[..., None]
            shape = chosen.shape[:-1] + self.loc.shape[-1:]
            loc, scale = (
                t.expand(shape).gather(-1, chosen)[..., 0] for t in (self.loc, self.log_scale.exp())
            )
            drawn = loc + scale * torch.rand_like(loc).logit(eps=torch.finfo(loc.dtype).eps)
            return ((drawn + 1) / 2 * (LEVELS - 1)).round().clamp(0, LEVELS - 1) / (LEVELS - 1)


class OptimalScale(dist.TorchDistribution):
    """family(loc, scale) at the scale that maximises the density of whatever value is given.

    Rybkin et al. (sigma-VAE), 2021. Draws and mean use the scale kept so far.

    Args:
        loc: ``[*batch, *event]``.
        kept: the scale of draws.
        family: the distribution of loc and scale.
        optimal: the scale of loc, value and a mask of what is observed (None: all of it).
        observed: that mask.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        loc: Tensor,
        kept: Tensor,
        family: Callable[[Tensor, Tensor], dist.TorchDistribution],
        optimal: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        observed: Tensor | None = None,
    ) -> None:
        self.loc, self.kept, self.family, self.optimal = loc, kept, family, optimal
        self.observed = observed
        self.drawn = family(loc, kept)
        super().__init__(loc.shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return self.drawn.support

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> OptimalScale:
        loc = self.loc.expand(batch_shape)
        return OptimalScale(loc, self.kept, self.family, self.optimal, self.observed)

    def mask(self, mask: Tensor | bool) -> dist.TorchDistribution:
        """Masked, the scale being that of the observed entries alone."""
        if not isinstance(mask, Tensor):
            return super().mask(mask)
        loc = self.loc.expand(torch.broadcast_shapes(self.loc.shape, mask.shape))
        own = OptimalScale(loc, self.kept, self.family, self.optimal, mask)
        return dist.MaskedDistribution(own, mask)

    def log_prob(self, value: Tensor) -> Tensor:
        scale = self.optimal(self.loc, value, self.observed)
        log_prob: Tensor = self.family(self.loc, scale).log_prob(value)
        return log_prob

    @property
    def mean(self) -> Tensor:
        mean: Tensor = self.drawn.mean
        return mean

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        drawn: Tensor = self.drawn.sample(sample_shape)
        return drawn


class PerColumn(constraints.stack):
    """One support per column, entry by entry."""

    event_dim = 0

    def __init__(self, columns: Sequence[constraints.Constraint]) -> None:
        super().__init__(list(columns), dim=-1)


class Columns(dist.TorchDistribution):
    """The columns of a table, each of its own distribution: batch shape ``[*B, D]``, event shape
    ``()``.

    Args:
        parts: distributions of batch shape ``[*B, columns]``, each of some of the columns.
        places: which those are, for each part; by default they follow each other.

    >>> fn = Columns([dist.Normal(torch.zeros(5, 2), 1.0), dist.Poisson(torch.ones(5, 1))])
    >>> fn.to_event(1).log_prob(fn.sample()).shape
    torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        parts: Sequence[dist.TorchDistribution],
        places: Sequence[Sequence[int]] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        bare = [p.base_dist if isinstance(p, dist.Independent) else p for p in parts]
        batch = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in bare))
        self.parts = [part.expand((*batch, part.batch_shape[-1])) for part in bare]
        sizes = [part.batch_shape[-1] for part in self.parts]
        count = iter(range(sum(sizes)))
        following = [list(itertools.islice(count, size)) for size in sizes]
        self.places = following if places is None else places
        super().__init__((*batch, sum(sizes)), validate_args=validate_args)

    @property
    def columns(self) -> list[dist.TorchDistribution]:
        """For every column, the distribution that it is a part of."""
        found = {i: p for p, at in zip(self.parts, self.places, strict=True) for i in at}
        return [found[i] for i in range(len(found))]

    @constraints.dependent_property(event_dim=0)
    def support(self) -> constraints.Constraint:
        return PerColumn([column.support for column in self.columns])

    def expand(
        self, batch_shape: tuple[int, ...], _instance: dist.TorchDistribution | None = None
    ) -> Columns:
        batch = tuple(batch_shape)[:-1]
        parts = [part.expand((*batch, part.batch_shape[-1])) for part in self.parts]
        return Columns(parts, self.places)

    def mask(self, mask: Tensor | bool) -> dist.TorchDistribution:
        """Masked part by part, so that each knows which of its entries count."""
        if not isinstance(mask, Tensor):
            return super().mask(mask)
        mask = mask.expand(*mask.shape[:-1], self.batch_shape[-1])
        masked = [p.mask(self._of(mask, at)) for p, at in zip(self.parts, self.places, strict=True)]
        return Columns(masked, self.places)

    def log_prob(self, value: Tensor) -> Tensor:
        pairs = zip(self.parts, self.places, strict=True)
        return self._whole([part.log_prob(self._of(value, at)) for part, at in pairs])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self._whole([part.sample(sample_shape) for part in self.parts])

    @property
    def mean(self) -> Tensor:
        """NaN where a column has none."""
        return self._whole([_property(part, "mean") for part in self.parts])

    @property
    def mode(self) -> Tensor:
        """NaN where a column does not know its own."""
        return self._whole([_property(part, "mode") for part in self.parts])

    @staticmethod
    def _of(values: Tensor, places: Sequence[int]) -> Tensor:
        return values.index_select(-1, torch.tensor(places, device=values.device))

    def _whole(self, values: Sequence[Tensor]) -> Tensor:
        """The parts' values ``[*batch, columns]`` in the order of the columns."""
        batch = torch.broadcast_shapes(*(v.shape[:-1] for v in values))
        joined = torch.cat([v.expand(*batch, v.shape[-1]) for v in values], -1)
        places = list(itertools.chain.from_iterable(self.places))
        order = sorted(range(len(places)), key=places.__getitem__)
        return joined if order == list(range(len(order))) else self._of(joined, order)


def _property(fn: dist.TorchDistribution, name: str) -> Tensor:
    while isinstance(fn, dist.MaskedDistribution):
        fn = fn.base_dist
    try:
        value: Tensor = getattr(fn, name)
    except NotImplementedError:
        parameter: Tensor = next(getattr(fn, name) for name in fn.arg_constraints)
        return parameter.new_full(fn.shape(), math.nan)
    return value
