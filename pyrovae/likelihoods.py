"""p(x|z): what the data are. A likelihood is a module whose ``forward(z)`` returns a distribution
over one datum; the network gives its parameters.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.networks import MLP, Conditional, Network, Shapes
from pyrovae.schema import Column, Schema
from pyrovae.summaries import Summary
from pyrovae.units import Units, average, largest

__all__ = [
    "Bernoulli",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "Laplace",
    "Likelihood",
    "LogNormal",
    "LogisticMixture",
    "Mixed",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]


UNITS = ("auto", "none")


class Likelihood(Conditional):
    """p(x|z). Two abstract methods: ``parameter_shapes`` and ``distribution``.

    Data stay in their own units. With ``units="auto"`` what a network needs in their place is
    learned by :meth:`measure` from the data to train on, and kept with the weights: guides see
    :meth:`features` of x, and the network's outputs are in the same units. Arrays of values in
    [0, 1], such as images, are seen as they are.

    Args:
        network: gives the parameters.
        units: ``"auto"`` or ``"none"``, which takes x as it is.

    Attributes:
        whole: whether x are counts or classes, whole numbers that are taken as they are stored.
    """

    whole: ClassVar[bool] = False
    base: Tensor
    unit_interval = False  # whether x is in [0, 1] always, so that arrays of it have no unit
    of_columns = False  # whether entries are columns of a table

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        units: str = "auto",
    ) -> None:
        super().__init__(network)
        if units not in UNITS:
            raise UsageError(f"units is auto or none, got {units!r}{nearest(str(units), UNITS)}")
        self.units = units
        self.scale_of: Units | None = None

    def together(self) -> Likelihood:
        """A likelihood of several columns of this kind, what is learned learned for each."""
        given = {n: "per_dimension" if v == "shared" else v for n, v in self.arguments().items()}
        made = type(self)(**given)  # type: ignore[arg-type]
        made.of_columns = True
        return made

    def link(self, x: Tensor) -> Tensor:
        """x where its entries spread most evenly: log x, say, of what varies by factors."""
        return x

    def origin(self, x: Tensor) -> Tensor | None:
        """What the first parameter is where the network gives 0, of the shape of that parameter:
        its best value for all data ``[N, *event]`` alike; None where it has none."""
        return None

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.units == "none" or (self.unit_interval and not self.of_columns):
            return
        self.scale_of = Units(self.event_shape, own=self.of_columns)
        if type(self).origin is not Likelihood.origin:
            first = next(iter(self.parameter_shapes(self.event_shape).values()))
            self.register_buffer("base", torch.zeros(first))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of :meth:`features` of one datum."""
        return self.event_shape

    def features(self, x: Tensor) -> Tensor:
        """What a network is shown of x ``[*batch, *event_shape]``: ``[*batch, *feature_shape]``,
        of the order of 1, missing entries (NaN) like the mean."""
        return x if self.scale_of is None else self.scale_of(self.link(x))

    def marks(self, entries: Tensor) -> Tensor:
        """For every feature that of ``[*batch, *event_shape]`` which belongs to its entry."""
        return entries

    @property
    def measured(self) -> bool:
        """Whether units were learned, or there are none to learn."""
        return self.scale_of is None or bool(self.scale_of.known)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Learn units from the data to train on, ``[N, *event_shape]`` with NaN where missing, at
        the first call. What never was observed stays as it is."""
        if self.scale_of is not None and self.scale_of.measure(self.link(x)):
            self.begin(x)

    def unmeasured(self) -> dict[str, Tensor]:
        """The buffers of units by name, as they are where x is taken as it is: for weights that
        were trained before units were learned."""
        fresh = type(self)(**self.arguments())  # type: ignore[arg-type]
        fresh.of_columns = self.of_columns
        fresh.allocate(self.event_shape)
        if fresh.scale_of is None:
            return {}
        fresh.scale_of.known.fill_(True)
        kept = ("scale_of", "base", "top")
        return {n: b for n, b in fresh.named_buffers() if n.partition(".")[0] in kept}

    def begin(self, x: Tensor) -> None:
        """Let the parameters of the family itself start from what is best for all data alike."""
        base = self.origin(x)
        if base is not None:
            self.base.copy_(base)

    def from_base(self, parameter: Tensor) -> Tensor:
        """The first parameter, seen from its origin."""
        return parameter if self.scale_of is None else parameter + self.base

    @classmethod
    def suits(cls, seen: Summary) -> str:
        """Why this likelihood suits data of such values; "" where it does not."""
        return ""

    @classmethod
    def decided_by(cls, seen: Summary, schema: Schema | None = None) -> dict[str, Any]:
        """The constructor's arguments that data to train on decide where they are not given."""
        return {}


def advice(seen: Summary) -> dict[str, str]:
    """The likelihoods that suit data of such values, by name, and why.

    >>> advice(Summary.of(torch.tensor([[0.0], [1.0]])))
    {'Bernoulli': 'every value is 0 or 1'}
    """
    if seen.missing == seen.entries:
        return {}
    known = [globals()[name] for name in __all__]
    reasons = {cls.__name__: cls.suits(seen) for cls in known}
    return {name: reason for name, reason in reasons.items() if reason}


def _counts(seen: Summary) -> bool:
    return seen.whole and seen.low >= 0 and not seen.binary


def _real(seen: Summary) -> bool:
    return not seen.whole or seen.low < 0


def _heavy_tails(seen: Summary) -> bool:
    bounded = seen.low >= 0 and seen.high <= 1  # such as pixels: no outliers, however peaked
    return _real(seen) and not bounded and seen.excess > 1


def _soft_bounds(raw: Tensor, low: float, high: float) -> Tensor:
    """``raw`` within (low, high), close to itself between them and never without a slope."""
    return low + F.softplus(high - F.softplus(high - raw) - low)


def _below(raw: Tensor, top: Tensor | float) -> Tensor:
    """``raw`` below a top, close to itself from there downwards and never without a slope."""
    return raw - F.softplus(raw - top)


FAR = 1e4  # above all that is ever given
HIGHEST = 16.0  # of a logarithm: float32 counts in twos from 2^24 ~ exp(16.6) on


def _log_link(raw: Tensor) -> Tensor:
    """The logarithm of a positive parameter."""
    return _below(raw, HIGHEST)


def _log_odds(share: Tensor) -> Tensor:
    """The log odds of the average of shares ``[N, *event]``, never without bound."""
    few = 0.5 / (len(share) + 1)
    return average(share).clamp(few, 1 - few).logit()


def _log_average(x: Tensor) -> Tensor:
    """The logarithm of the average of counts ``[N, *event]``, never without bound."""
    return average(x).clamp_min(0.5 / len(x)).log()


class Bernoulli(Likelihood):
    """p(x|z) = prod_d Bernoulli(x_d; sigmoid(logits_d(z))), x in {0, 1}.

    For binary data. Grey pixels are not binary: binarise them (``data.binarised("dynamic")``)
    or choose a likelihood whose support holds them.

    >>> likelihood = Bernoulli(MLP([16]))
    >>> likelihood.build((2,), (1, 8, 8))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    unit_interval = True

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": event_shape}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        base = dist.Bernoulli(logits=self.from_base(logits))
        return distributions.IndependentBernoulli(base, len(self.event_shape))

    def origin(self, x: Tensor) -> Tensor:
        return _log_odds(x)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        return "every value is 0 or 1" if seen.binary else ""


class ContinuousBernoulli(Likelihood):
    """p(x|z) = prod_d C(t_d) exp(t_d x_d), C(t) = t / (exp(t) - 1), t = t(z), x in [0, 1].

    For intensities between 0 and 1 as they are: the Bernoulli's formula with the normaliser that
    makes it a density. Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive
    error in variational autoencoders", 2019.

    Args:
        network: gives the logits t.

    >>> likelihood = ContinuousBernoulli(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.full((5, 3), 0.5)).shape
    torch.Size([5])
    """

    unit_interval = True

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": event_shape}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        base = distributions.ContinuousBernoulli(logits=logits)
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        within = seen.low >= 0 and seen.high <= 1 and not seen.binary
        return "values between 0 and 1, as they are" if within else ""


class LocationScale(Likelihood):
    """p(x|z) = prod_d f((x_d - loc_d(z)) / scale_d) / scale_d, f a fixed density.

    One abstract method more: ``family``. A family whose maximum-likelihood scale has a closed form
    gives it in ``optimal``.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale.
        scale: ``"shared"`` one learned number of units, ``"per_dimension"`` one per pixel,
            ``"network"`` a function of z, ``"optimal"`` while training the one that fits the
            batch best and later their running average, or a positive number, fixed, in the data's
            own unit.
        units: ``"auto"`` learned, see :class:`Likelihood`, or ``"none"``.
    """

    fixed_scale: Tensor
    running_scale: Tensor
    MINIMUM = 1e-4  # a density without a floor diverges on pixels that never vary
    MOMENTUM = 0.1
    CHOICES: tuple[str, ...] = ("shared", "per_dimension", "network", "optimal")

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        scale: float | str = "shared",
        units: str = "auto",
    ) -> None:
        super().__init__(network, units)
        self.scale = _choice("scale", scale, self.CHOICES)

    @abstractmethod
    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distribution of single entries."""

    def optimal(self, loc: Tensor, value: Tensor, observed: Tensor | None) -> Tensor:
        """The scale of largest density, over all (observed) entries; kept for evaluation."""
        raise NotImplementedError

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        names = ["loc", "raw_scale"] if self.scale == "network" else ["loc"]
        return dict.fromkeys(names, event_shape)

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.scale in ("shared", "per_dimension"):
            shape = event_shape if self.scale == "per_dimension" else ()
            self.raw_scale = nn.Parameter(torch.zeros(shape))
        elif self.scale == "optimal":
            self.register_buffer("running_scale", torch.zeros(()))  # 0: none seen yet
        elif not isinstance(self.scale, str):
            self.register_buffer("fixed_scale", torch.tensor(float(self.scale)), persistent=False)

    def location(self, raw: Tensor) -> Tensor:
        """loc, from what a network gives for it."""
        return raw if self.scale_of is None else self.scale_of.centre + self.unit * raw

    def distribution(self, loc: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        loc = self.location(loc)
        if self.scale == "optimal":
            scale = torch.where(self.running_scale > 0, self.running_scale, 1.0) * self.unit
            if self.training:
                base = distributions.OptimalScale(loc, scale, self.family, self.optimal)
                return base.to_event(len(self.event_shape))
        elif isinstance(self.scale, str):
            scale = self.unit * (F.softplus(raw[0] if raw else self.raw_scale) + self.MINIMUM)
        else:
            scale = self.fixed_scale
        return self.family(loc, scale).to_event(len(self.event_shape))

    @property
    def unit(self) -> Tensor | float:
        """What scales are multiples of."""
        return 1.0 if self.scale_of is None else self.scale_of.unit

    def _keep(self, deviation: Tensor, observed: Tensor | None, power: int) -> Tensor:
        """(mean of deviation^power)^(1/power) in units, and its running average."""
        powered = (deviation / self.unit).abs() ** power
        if observed is None:
            mean = powered.mean()
        else:
            observed = observed.expand(powered.shape)
            mean = torch.where(observed, powered, 0.0).sum() / observed.sum().clamp_min(1)
        scale: Tensor = mean.clamp_min(self.MINIMUM**power) ** (1 / power)
        with torch.no_grad():
            running, now = self.running_scale, scale.detach().to(self.running_scale)
            moved = running + self.MOMENTUM * (now - running)
            running.copy_(torch.where(running > 0, moved, now))
        return scale * self.unit


def _choice(name: str, value: float | str, choices: tuple[str, ...]) -> float | str:
    if isinstance(value, str) and value not in choices:
        raise UsageError(
            f"{name} is one of {', '.join(choices)} or a positive number, got "
            f"{value!r}{nearest(value, choices)}"
        )
    if not isinstance(value, str) and not 0 < value < float("inf"):
        raise UsageError(f"a fixed {name} is a positive number, got {value}")
    return value


class Normal(LocationScale):
    """p(x|z) = prod_d N(x_d; loc_d(z), scale_d^2), x real.

    Densities of real data are in nats relative to the data's own unit and can be positive.
    A learned or optimal scale is Rybkin, Daniilidis and Levine, "Simple and Effective VAE
    Training with Calibrated Decoders" (sigma-VAE), 2021; ``"optimal"`` is their sigma^2 = mean
    squared error of the batch. A scale fixed at 1 is a hidden choice of beta.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale.
        scale: ``"shared"`` one learned number of units, ``"per_dimension"`` one per pixel,
            ``"network"`` a function of z, ``"optimal"`` while training the one that fits the
            batch best and later their running average, or a positive number, fixed, in the data's
            own unit.
        units: ``"auto"`` learned, see :class:`Likelihood`, or ``"none"``.

    >>> likelihood = Normal(MLP([16]), scale="per_dimension")
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3])
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)

    def optimal(self, loc: Tensor, value: Tensor, observed: Tensor | None) -> Tensor:
        return self._keep(value - loc, observed, 2)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        return "real numbers" if _real(seen) else ""


class Laplace(LocationScale):
    """p(x|z) = prod_d exp(-|x_d - loc_d(z)| / scale_d) / (2 scale_d), x real.

    For real data with outliers: errors count by their size, not its square, and loc is a median.
    ``scale="optimal"`` is the mean absolute error of the batch, as Rybkin, Daniilidis and Levine,
    "Simple and Effective VAE Training with Calibrated Decoders", 2021, do for the normal.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale.
        scale: ``"shared"``, ``"per_dimension"``, ``"network"``, ``"optimal"`` or a positive
            number, as for :class:`Normal`.

    >>> likelihood = Laplace(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3])
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale)

    def optimal(self, loc: Tensor, value: Tensor, observed: Tensor | None) -> Tensor:
        return self._keep(value - loc, observed, 1)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _heavy_tails(seen):
            return ""
        return f"real numbers with heavy tails (excess kurtosis {seen.excess:.1f})"


class LogNormal(LocationScale):
    """p(x|z) = prod_d N(log x_d; loc_d(z), scale_d^2) / x_d, x > 0.

    For positive amounts that vary by factors: prices, concentrations, durations. The formula is a
    textbook's; for the ``"optimal"`` scale see :class:`Normal`.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale, both of log x.
        scale: ``"shared"``, ``"per_dimension"``, ``"network"``, ``"optimal"`` or a positive
            number, as for :class:`Normal`.

    >>> likelihood = LogNormal(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> bool((likelihood(torch.zeros(5, 2)).sample() > 0).all())
    True
    """

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return distributions.LogNormal(loc=loc, scale=scale)

    top: Tensor

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.scale_of is not None:
            self.register_buffer("top", torch.full(self.event_shape, FAR))

    def link(self, x: Tensor) -> Tensor:
        return x.log()

    def begin(self, x: Tensor) -> None:
        super().begin(x)
        assert self.scale_of is not None
        self.top.copy_(largest((x.log() - self.scale_of.centre) / self.scale_of.unit) + 1)

    def location(self, raw: Tensor) -> Tensor:
        """As a decoder that is asked far from what it has seen must not answer by factors, loc
        stays below a standard deviation above the largest datum to train on."""
        return raw if self.scale_of is None else super().location(_below(raw, self.top))

    def optimal(self, loc: Tensor, value: Tensor, observed: Tensor | None) -> Tensor:
        return self._keep(value.log() - loc, observed, 2)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if seen.whole or not seen.low > 0 or seen.high <= 1:
            return ""
        return f"positive numbers, the largest {seen.high / seen.low:.2g} times the smallest"


class StudentT(LocationScale):
    """p(x|z) = prod_d t(x_d; df, loc_d(z), scale_d), x real.

    For real data with outliers that should not pull the fit; near the normal at large df, the
    Cauchy at df = 1. Takahashi et al., "Student-t Variational Autoencoder for Robust Density
    Estimation", 2018.

    Args:
        network: gives loc, and with ``scale="network"`` also the scale.
        scale: ``"shared"``, ``"per_dimension"``, ``"network"`` or a positive number, as for
            :class:`Normal`.
        df: degrees of freedom: ``"shared"`` one learned number above 1, so that there is a mean,
            ``"per_dimension"`` one per pixel, or a positive number, fixed.

    >>> likelihood = StudentT(MLP([16]), df=4)
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).event_shape
    torch.Size([3])
    """

    CHOICES = ("shared", "per_dimension", "network")

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        scale: float | str = "shared",
        df: float | str = "shared",
        units: str = "auto",
    ) -> None:
        super().__init__(network, scale, units)
        self.df = _choice("df", df, ("shared", "per_dimension"))

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if isinstance(self.df, str):
            shape = event_shape if self.df == "per_dimension" else ()
            self.raw_df = nn.Parameter(torch.full(shape, 4.0))

    def family(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        df = 1.01 + F.softplus(self.raw_df) if isinstance(self.df, str) else self.df
        return dist.StudentT(df, loc, scale)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _heavy_tails(seen):
            return ""
        return f"real numbers with outliers (excess kurtosis {seen.excess:.1f})"


class Categorical(Likelihood):
    """p(x|z) = prod_d softmax(logits_d(z))[x_d], x in {0, ..., classes - 1}.

    For names and levels coded as whole numbers. Classes have no mean: means and reconstructions
    show the most probable one.

    Args:
        classes: how many.
        network: gives the logits, ``(classes, *event_shape)``.

    >>> likelihood = Categorical(4, MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    whole = True

    def __init__(
        self,
        classes: int,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        units: str = "auto",
    ) -> None:
        super().__init__(network, units)
        self.classes = whole_number("classes", classes, least=2)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": (self.classes, *event_shape)}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        depth = len(self.event_shape)
        logits = self.from_base(logits).movedim(-1 - depth, -1)
        return distributions.Categorical(logits=logits).to_event(depth)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """One number per class; those of images are among their channels."""
        if self.units == "none":
            return self.event_shape
        if len(self.event_shape) < 3:
            return (self.classes, *self.event_shape)
        return (self.classes * self.event_shape[0], *self.event_shape[1:])

    def features(self, x: Tensor) -> Tensor:
        """One-hot codes, all 0 where x is missing."""
        if self.units == "none":
            return x
        depth = len(self.event_shape)
        codes = torch.arange(self.classes, device=x.device)
        hot = (x[..., None] == codes).to(self.base).movedim(-1, -1 - depth)
        return hot.reshape(*x.shape[: x.dim() - depth], *self.feature_shape)

    def marks(self, entries: Tensor) -> Tensor:
        if self.units == "none":
            return entries
        lead = entries.shape[: entries.dim() - len(self.event_shape)]
        each = entries.unsqueeze(len(lead)).expand(*lead, self.classes, *self.event_shape)
        return each.reshape(*lead, *self.feature_shape)

    def origin(self, x: Tensor) -> Tensor:
        codes = torch.arange(self.classes, device=x.device)
        known = torch.where(x.isnan(), x, 1.0) if x.is_floating_point() else torch.ones_like(x)
        hot = torch.stack([(x == code) * known.double() for code in codes], 1)  # missing stays so
        shares = torch.stack([average(each) for each in hot.unbind(1)])
        few = 0.5 / (len(x) + 1)
        return (shares + few).log()

    @classmethod
    def decided_by(cls, seen: Summary, schema: Schema | None = None) -> dict[str, Any]:
        return {"classes": max(2, int(seen.high) + 1)} if _counts(seen) or seen.binary else {}

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen) or seen.high > 255:
            return ""
        return (
            f"whole numbers from 0 to {seen.high:.0f}, where they are names or levels: "
            f"classes={seen.high + 1:.0f}"
        )


class Tries(Likelihood):
    """Successes out of n tries, the first parameter growing with their log odds."""

    whole = True

    def __init__(
        self,
        total_count: int,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        units: str = "auto",
    ) -> None:
        super().__init__(network, units)
        self.total_count = whole_number("total_count", total_count)

    def origin(self, x: Tensor) -> Tensor:
        return _log_odds(x / self.total_count)

    @classmethod
    def decided_by(cls, seen: Summary, schema: Schema | None = None) -> dict[str, Any]:
        return {"total_count": max(1, int(seen.high))} if _counts(seen) or seen.binary else {}


class Binomial(Tries):
    """p(x|z) = prod_d C(n, x_d) p_d^x_d (1 - p_d)^(n - x_d), p = sigmoid(logits(z)), x in {0..n}.

    For successes out of n tries, the n the same everywhere.

    Args:
        total_count: n.
        network: gives the logits.

    >>> likelihood = Binomial(16, MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": event_shape}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        base = distributions.Binomial(logits=self.from_base(logits), total_count=self.total_count)
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen):
            return ""
        return (
            f"whole numbers from 0 to {seen.high:.0f}, where a known total bounds them: "
            f"total_count={seen.high:.0f} or more"
        )


class BetaBinomial(Tries):
    """p(x|z) = prod_d C(n, x_d) B(x_d + a_d, n - x_d + b_d) / B(a_d, b_d), a, b = a, b(z).

    For successes out of n tries that vary more than a binomial's: p ~ Beta(a, b) for each entry.

    Args:
        total_count: n.
        network: gives the logarithms of a and b.

    >>> likelihood = BetaBinomial(16, MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    MINIMUM = 1e-4  # of a and b

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"log_concentration1": event_shape, "log_concentration0": event_shape}

    def distribution(self, *raw: Tensor) -> dist.TorchDistribution:
        raw = (self.from_base(raw[0]), raw[1])
        a, b = (_log_link(t).exp() + self.MINIMUM for t in raw)
        base = distributions.BetaBinomial(
            concentration1=a, concentration0=b, total_count=self.total_count
        )
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen) or seen.dispersion <= 1.2 * (1 - seen.mean / seen.high):
            return ""
        return f"as Binomial, but more spread than one (variance/mean {seen.dispersion:.2g})"


class Counted(Likelihood):
    """Counts, whose first parameter is the logarithm of their mean given z. A decoder that is asked
    far from what it has seen must not answer by factors: means stay below e times the largest
    count of the data to train on."""

    whole = True
    top: Tensor

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.scale_of is not None:
            self.register_buffer("top", torch.full(self.event_shape, HIGHEST))

    def link(self, x: Tensor) -> Tensor:
        return x.log1p()

    def origin(self, x: Tensor) -> Tensor:
        return _log_average(x)

    def begin(self, x: Tensor) -> None:
        super().begin(x)
        self.top.copy_((largest(x).clamp_min(1).log() + 1).clamp_max(HIGHEST))

    def log_mean(self, raw: Tensor) -> Tensor:
        """The logarithm of the mean, from what a network gives for it."""
        return _below(self.from_base(raw), HIGHEST if self.scale_of is None else self.top)


class Poisson(Counted):
    """p(x|z) = prod_d rate_d^x_d exp(-rate_d) / x_d!, log rate = log rate(z), x in {0, 1, ...}.

    For counts whose variance, once z is known, is their mean.

    Args:
        network: gives the logarithm of the rate; rates stay below exp(16).

    >>> likelihood = Poisson(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"log_rate": event_shape}

    def distribution(self, log_rate: Tensor) -> dist.TorchDistribution:
        base = distributions.Poisson(log_rate=self.log_mean(log_rate))
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen):
            return ""
        return f"counts, if z explains why variance/mean is {seen.dispersion:.2g}, not 1"


class Dispersed(Counted):
    """Counts of a mean given z and an inverse dispersion r, variance mean + mean^2 / r.

    Args:
        network: gives the logarithm of the mean, and with ``dispersion="network"`` that of r.
        dispersion: where r varies.
    """

    CHOICES = ("per_dimension", "shared", "network")

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        dispersion: float | str = "per_dimension",
        units: str = "auto",
    ) -> None:
        super().__init__(network, units)
        self.dispersion = _choice("dispersion", dispersion, self.CHOICES)

    def begin(self, x: Tensor) -> None:
        """From the mean, and the inverse dispersion that the variance of all data tells."""
        super().begin(x)
        if self.dispersion in ("shared", "per_dimension"):
            mean = average(x)
            more = (average((x.double() - mean).square()) - mean).clamp_min(1e-3 * mean + 1e-12)
            inverse = (mean.square() / more).clamp(1e-2, 1e4).log()
            self.log_inverse.copy_(
                inverse if self.dispersion == "per_dimension" else inverse.mean()
            )

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        if self.dispersion in ("shared", "per_dimension"):
            shape = event_shape if self.dispersion == "per_dimension" else ()
            self.log_inverse = nn.Parameter(torch.zeros(shape))

    def family(self, log_mean: Tensor, *raw: Tensor) -> distributions.NegativeBinomial:
        """The negative binomial of single entries."""
        if isinstance(self.dispersion, str):
            inverse = _log_link(raw[0] if raw else self.log_inverse).exp() + 1e-4
        else:
            inverse = torch.full_like(log_mean, self.dispersion)
        return distributions.NegativeBinomial(
            log_mean=self.log_mean(log_mean), inverse_dispersion=inverse
        )


class NegativeBinomial(Dispersed):
    """p(x|z) = prod_d NB(x_d; mean_d(z), r_d), variance mean + mean^2 / r, x in {0, 1, ...}.

    For counts that vary more than Poisson's. Lopez et al., "Deep generative modeling for
    single-cell transcriptomics" (scVI), 2018.

    Args:
        network: gives the logarithm of the mean, and with ``dispersion="network"`` that of r.
        dispersion: where the inverse dispersion r varies: ``"per_dimension"``, ``"shared"``,
            ``"network"`` (a function of z), or a positive number, r itself.

    >>> likelihood = NegativeBinomial(MLP([16]), dispersion="shared")
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        names = ["log_mean", "log_inverse"] if self.dispersion == "network" else ["log_mean"]
        return dict.fromkeys(names, event_shape)

    def distribution(self, log_mean: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        return self.family(log_mean, *raw).to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen) or seen.dispersion <= 1.2:
            return ""
        return f"counts more spread than Poisson (variance/mean {seen.dispersion:.2g})"


class ZeroInflatedNegativeBinomial(Dispersed):
    """p(x|z) = prod_d [pi_d(z) 1(x_d = 0) + (1 - pi_d(z)) NB(x_d; mean_d(z), r_d)].

    For counts with more zeros than their mean and variance explain. Lopez et al., "Deep
    generative modeling for single-cell transcriptomics" (scVI), 2018.

    Args:
        network: gives the logarithm of the mean, the logits of pi, and with
            ``dispersion="network"`` the logarithm of r.
        dispersion: as for :class:`NegativeBinomial`.

    >>> likelihood = ZeroInflatedNegativeBinomial(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        names = ["log_mean", "gate", "log_inverse"][: 3 if self.dispersion == "network" else 2]
        return dict.fromkeys(names, event_shape)

    def distribution(self, log_mean: Tensor, gate: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        counts = self.family(log_mean, *raw)
        base = distributions.ZeroInflatedNegativeBinomial(**counts.given, gate=gate)
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen) or seen.zeros <= seen.expected_zeros + 0.05:
            return ""
        return (
            f"counts with {seen.zeros:.0%} zeros, where their mean and variance explain "
            f"{seen.expected_zeros:.0%}"
        )


class LogisticMixture(Likelihood):
    """P(x|z) = prod_d sum_j pi_dj [sigmoid((c_d + h - loc_dj) / s_dj) - sigmoid((c_d - h - loc_dj)
    / s_dj)], c = 2x - 1, h = 1/255, x in {0, 1/255, ..., 1}; the outer levels hold the tails.

    For 8-bit images as they are: log P are log probabilities of the 256 levels, so bits per
    dimension compare with published ones. Channels are independent given z. Salimans, Karpathy,
    Chen and Kingma, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
    Likelihood and Other Modifications", 2017.

    Args:
        components: logistics in the mixture of one pixel's channel.
        network: gives pi, loc and the scales, each ``(components, *event_shape)``.

    >>> likelihood = LogisticMixture(3, MLP([16]))
    >>> likelihood.build((2,), (1, 4, 4))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.zeros(5, 1, 4, 4)).shape
    torch.Size([5])
    """

    start: Tensor
    unit_interval = True

    def __init__(
        self,
        components: int = 5,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        units: str = "auto",
    ) -> None:
        super().__init__(network, units)
        self.components = whole_number("components", components)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        names = ("logits", "loc", "log_scale")
        return dict.fromkeys(names, (self.components, *event_shape))

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        # components that start alike would stay alike
        start = torch.linspace(-1, 1, self.components + 2)[1:-1]
        self.register_buffer("start", start, persistent=False)

    def distribution(self, *raw: Tensor) -> dist.TorchDistribution:
        depth = len(self.event_shape)
        logits, loc, log_scale = (t.movedim(-1 - depth, -1) for t in raw)
        base = distributions.LogisticMixture(
            logits=logits, loc=self.start + loc, log_scale=_soft_bounds(log_scale - 2, -7, 5)
        )
        return base.to_event(depth)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        return "8-bit intensities k/255" if seen.eight_bit and not seen.binary else ""


class Mixed(Likelihood):
    """p(x|z) = prod_i p_i(x_i|z), one likelihood per column of a table, x of D columns.

    For tables whose columns are of different kinds. One network gives the parameters of all
    columns. Nazabal et al., "Handling incomplete heterogeneous data using VAEs", 2020.

    Args:
        columns: one likelihood per column, without networks of their own.
        network: gives every column's parameters.

    Raises:
        UsageError: a column with a network of its own or used twice; as a model is built, a
            number of columns that is not that of the data.

    >>> likelihood = Mixed([Normal(), Poisson(), Bernoulli(), Categorical(3)], MLP([16]))
    >>> likelihood.build((2,), (4,))
    >>> likelihood(torch.zeros(5, 2)).log_prob(torch.ones(5, 4)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        columns: list[Likelihood],
        network: Network | nn.Module = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(network)
        _check_columns(columns)
        self.columns = nn.ModuleList(columns)

    gaps: Tensor

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        """All parameters of the first column, of the second one, ..., laid end to end."""
        return {"parameters": (sum(math.prod(shape) for _, _, shape in self._layout()),)}

    def _layout(self) -> Iterator[tuple[int, str, tuple[int, ...]]]:
        """The parameters in their order: column, name, shape."""
        for i, column in enumerate(self.columns):
            for name, shape in cast(Likelihood, column).parameter_shapes(()).items():
                yield i, name, shape

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        if event_shape != (len(self.columns),):
            raise UsageError(
                f"Mixed has {len(self.columns)} likelihoods, one per column of a table, but one "
                f"datum has shape {tuple(event_shape)}; give as many as there are columns"
            )
        Conditional.allocate(self, event_shape)
        columns = [cast(Likelihood, column) for column in self.columns]
        self.places = _alike(columns)
        self.groups = nn.ModuleList(columns[places[0]].together() for places in self.places)
        starts, at = {}, 0
        for i, name, shape in self._layout():
            starts[i, name], at = at, at + math.prod(shape)
        for g, (group, places) in enumerate(zip(self._groups(), self.places, strict=True)):
            group.allocate((len(places),))
            self.register_buffer(f"places{g}", torch.tensor(places), persistent=False)
            for k, (name, shape) in enumerate(columns[places[0]].parameter_shapes(()).items()):
                first = torch.tensor([starts[i, name] for i in places])
                each = torch.arange(math.prod(shape)).reshape(*shape, 1) + first
                self.register_buffer(f"parameters{g}_{k}", each, persistent=False)
        if self._encoded():
            self.register_buffer("gaps", torch.zeros(event_shape))

    def _groups(self) -> list[Likelihood]:
        return [cast(Likelihood, group) for group in self.groups]

    def columns_of_old(self) -> Iterator[tuple[str, Tensor, list[str]]]:
        """What is learned of columns together: name, tensor, and the names that the parts had in
        files of version 1, which kept every column's apart."""
        for g, (group, places) in enumerate(zip(self._groups(), self.places, strict=True)):
            for name, own in group.state_dict().items():
                yield f"groups.{g}.{name}", own, [f"columns.{i}.{name}" for i in places]

    def _encoded(self) -> bool:
        return any(group.units != "none" for group in self._groups())

    def _parted(self, x: Tensor) -> Iterator[tuple[Likelihood, Tensor]]:
        """Every group with its columns of x."""
        for g, group in enumerate(self._groups()):
            yield group, x.index_select(-1, getattr(self, f"places{g}"))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The features of every group of columns of one kind, and as many marks of what is missing
        as there are columns."""
        if not self._encoded():
            return self.event_shape
        widths = [math.prod(group.feature_shape) for group in self._groups()]
        return (sum(widths) + len(self.columns),)

    def features(self, x: Tensor) -> Tensor:
        """Every group's features, then 1 for each missing entry of a column that had such while
        units were learned."""
        if not self._encoded():
            return x
        seen = [group.features(part) for group, part in self._parted(x)]
        flat = [part.reshape(*x.shape[:-1], -1).to(self.gaps) for part in seen]
        return torch.cat([*flat, x.isnan() * self.gaps], -1)

    def marks(self, entries: Tensor) -> Tensor:
        if not self._encoded():
            return entries
        seen = [group.marks(part) for group, part in self._parted(entries)]
        return torch.cat([*(m.reshape(*entries.shape[:-1], -1) for m in seen), entries], -1)

    @property
    def measured(self) -> bool:
        return all(group.measured for group in self._groups())

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        for group, part in self._parted(x):
            group.measure(part)
        if self._encoded() and x.is_floating_point():
            self.gaps.copy_(x.isnan().any(0))

    def distribution(self, parameters: Tensor) -> dist.TorchDistribution:
        parts = []
        for g, group in enumerate(self._groups()):
            raw = []
            for k in range(len(group.parameter_shapes(group.event_shape))):
                at = getattr(self, f"parameters{g}_{k}")
                raw.append(parameters.index_select(-1, at.flatten()).unflatten(-1, at.shape))
            parts.append(group.distribution(*raw))
        return distributions.Columns(parts, self.places).to_event(1)

    @classmethod
    def decided_by(cls, seen: Summary, schema: Schema | None = None) -> dict[str, Any]:
        if schema is not None:
            return {"columns": _of_schema(seen, schema)}
        return {"columns": column_likelihoods(seen)} if seen.columns else {}

    @classmethod
    def suits(cls, seen: Summary) -> str:
        kinds = {type(column).__name__ for column in column_likelihoods(seen)}
        return f"columns of several kinds ({', '.join(sorted(kinds))})" if len(kinds) > 1 else ""


def _alike(columns: Sequence[Likelihood]) -> list[list[int]]:
    """The columns of one kind together; an optimal scale is that of a column alone."""
    found: dict[object, list[int]] = {}
    for i, column in enumerate(columns):
        given = {n: v for n, v in column.arguments().items() if n != "network"}
        alone = i if "optimal" in given.values() else None
        found.setdefault((type(column), repr(given), alone), []).append(i)
    return list(found.values())


def _check_columns(columns: Sequence[object]) -> None:
    for i, column in enumerate(columns):
        if not isinstance(column, Likelihood) or isinstance(column, Mixed):
            raise UsageError(
                f"column {i} of Mixed must be a likelihood of single numbers such as Normal(), "
                f"got {type(column).__name__ if isinstance(column, nn.Module) else column!r}"
            )
        usual = inspect.signature(type(column)).parameters["network"].default
        if repr(column.network) != repr(usual):
            raise UsageError(
                f"column {i} of Mixed, {type(column).__name__}, has a network of its own; all "
                f"columns share Mixed's: give it there, Mixed(columns, network=...)"
            )
    if not columns or len({id(column) for column in columns}) < len(columns):
        raise UsageError(
            "Mixed needs one likelihood per column, each an object of its own: write "
            "[Normal(), Normal()] or [Normal() for _ in range(2)], not [Normal()] * 2"
        )


FEW = 50  # columns without names that may be of several kinds
_KINDS: dict[str, Callable[[], Likelihood]] = {
    "real": lambda: Normal(),
    "date": lambda: Normal(),
    "positive": lambda: LogNormal(),
    "boolean": lambda: Bernoulli(),
}


def suited(seen: Summary, schema: Schema | None = None) -> Likelihood:
    """A likelihood that suits data of such values, or the columns of a table, where none is chosen.

    >>> suited(Summary.of(torch.tensor([[0.5], [-2.0]]))).arguments()["scale"]
    'shared'
    >>> suited(Summary.of(torch.tensor([[0.0], [40.0]])))
    NegativeBinomial()
    """
    if schema is None:
        return _of_values(seen)
    if not schema.vector:
        return Mixed(_of_schema(seen, schema))
    if schema.columns[0].kind == "real":
        return Normal(scale="per_dimension")
    return _of_values(replace(seen, columns=()))


def _of_values(seen: Summary) -> Likelihood:
    if seen.binary:
        return Bernoulli()
    if _counts(seen):
        return _of_counts(seen)
    if seen.low >= 0 and seen.high <= 1:
        return ContinuousBernoulli()
    several = len({type(column) for column in column_likelihoods(seen)}) > 1
    table = not seen.whole and len(seen.columns) <= FEW
    return Mixed(column_likelihoods(seen)) if several and table else Normal()


def _of_counts(seen: Summary) -> Likelihood:
    """By their spread."""
    return NegativeBinomial() if seen.dispersion > 1.2 else Poisson()


def _of_schema(seen: Summary, schema: Schema) -> list[Likelihood]:
    """A likelihood for every column of a table, by its kind."""
    each = seen.columns or [seen] * len(schema.columns)  # of very many columns there are none
    return [_of_kind(column, one) for column, one in zip(schema.columns, each, strict=True)]


def _of_kind(column: Column, seen: Summary) -> Likelihood:
    if column.kind == "category":
        return Categorical(max(2, len(column.levels)))
    if column.kind == "count":
        return _of_counts(seen)
    return _KINDS[column.kind]()


def column_likelihoods(seen: Summary) -> list[Likelihood]:
    """A likelihood for every column of a table, by its values alone: small whole numbers count
    as names, larger ones as counts.

    >>> x = torch.tensor([[0.0, 0.3], [1.0, -2.0]])
    >>> [type(column).__name__ for column in column_likelihoods(Summary.of(x))]
    ['Bernoulli', 'Normal']
    """
    return [_column(column) for column in seen.columns]


def _column(seen: Summary) -> Likelihood:
    if seen.binary:
        return Bernoulli()
    if not _counts(seen):
        return Normal()
    if seen.high < 10:
        return Categorical(int(seen.high) + 1)
    return _of_counts(seen)
