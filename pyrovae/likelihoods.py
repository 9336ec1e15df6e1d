"""p(x|z): what the data are. A likelihood is a module whose ``forward(z)`` returns a distribution
over one datum; the network gives its parameters.
"""

from __future__ import annotations

import inspect
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, cast

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.networks import MLP, Conditional, Network, Shapes
from pyrovae.summaries import Summary

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


class Likelihood(Conditional):
    """p(x|z). Two abstract methods: ``parameter_shapes`` and ``distribution``.

    Attributes:
        whole: whether x are counts or classes, whole numbers that are taken as they are stored.
    """

    whole: ClassVar[bool] = False

    def __init__(self, network: Network | nn.Module = MLP([400])) -> None:  # noqa: B008
        super().__init__(network)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        """Why this likelihood suits data of such values; "" where it does not."""
        return ""


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


def _log_link(raw: Tensor) -> Tensor:
    """The logarithm of a positive parameter, below that of 2^24 ~ exp(16.6), where float32 counts
    in twos."""
    return 16 - F.softplus(16 - raw)


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
        base = dist.Bernoulli(logits=logits)
        return distributions.IndependentBernoulli(base, len(self.event_shape))

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
        scale: ``"shared"`` one learned number, ``"per_dimension"`` one learned number per pixel,
            ``"network"`` a function of z, ``"optimal"`` while training the one that fits the
            batch best and later their running average, or a positive number, fixed.
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
    ) -> None:
        super().__init__(network)
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

    def distribution(self, loc: Tensor, *raw: Tensor) -> dist.TorchDistribution:
        if self.scale == "optimal":
            scale = torch.where(self.running_scale > 0, self.running_scale, 1.0)
            if self.training:
                base = distributions.OptimalScale(loc, scale, self.family, self.optimal)
                return base.to_event(len(self.event_shape))
        elif isinstance(self.scale, str):
            scale = F.softplus(raw[0] if raw else self.raw_scale) + self.MINIMUM
        else:
            scale = self.fixed_scale
        return self.family(loc, scale).to_event(len(self.event_shape))

    def _keep(self, deviation: Tensor, observed: Tensor | None, power: int) -> Tensor:
        """(mean of deviation^power)^(1/power), and its running average."""
        powered = deviation.abs() ** power
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
        return scale


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
        scale: ``"shared"`` one learned number, ``"per_dimension"`` one learned number per pixel,
            ``"network"`` a function of z, ``"optimal"`` while training the one that fits the
            batch best and later their running average, or a positive number, fixed.

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
    ) -> None:
        super().__init__(network, scale)
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
    ) -> None:
        super().__init__(network)
        self.classes = whole_number("classes", classes, least=2)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": (self.classes, *event_shape)}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        depth = len(self.event_shape)
        return distributions.Categorical(logits=logits.movedim(-1 - depth, -1)).to_event(depth)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen) or seen.high > 255:
            return ""
        return (
            f"whole numbers from 0 to {seen.high:.0f}, where they are names or levels: "
            f"classes={seen.high + 1:.0f}"
        )


class Binomial(Likelihood):
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

    whole = True

    def __init__(
        self,
        total_count: int,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(network)
        self.total_count = whole_number("total_count", total_count)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"logits": event_shape}

    def distribution(self, logits: Tensor) -> dist.TorchDistribution:
        base = distributions.Binomial(logits=logits, total_count=self.total_count)
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen):
            return ""
        return (
            f"whole numbers from 0 to {seen.high:.0f}, where a known total bounds them: "
            f"total_count={seen.high:.0f} or more"
        )


class BetaBinomial(Likelihood):
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

    whole = True

    MINIMUM = 1e-4  # of a and b

    def __init__(
        self,
        total_count: int,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(network)
        self.total_count = whole_number("total_count", total_count)

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"log_concentration1": event_shape, "log_concentration0": event_shape}

    def distribution(self, *raw: Tensor) -> dist.TorchDistribution:
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


class Poisson(Likelihood):
    """p(x|z) = prod_d rate_d^x_d exp(-rate_d) / x_d!, log rate = log rate(z), x in {0, 1, ...}.

    For counts whose variance, once z is known, is their mean.

    Args:
        network: gives the logarithm of the rate; rates stay below exp(16).

    >>> likelihood = Poisson(MLP([16]))
    >>> likelihood.build((2,), (3,))
    >>> likelihood(torch.zeros(5, 2)).mean.shape
    torch.Size([5, 3])
    """

    whole = True

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {"log_rate": event_shape}

    def distribution(self, log_rate: Tensor) -> dist.TorchDistribution:
        base = distributions.Poisson(log_rate=_log_link(log_rate))
        return base.to_event(len(self.event_shape))

    @classmethod
    def suits(cls, seen: Summary) -> str:
        if not _counts(seen):
            return ""
        return f"counts, if z explains why variance/mean is {seen.dispersion:.2g}, not 1"


class Dispersed(Likelihood):
    """Counts of a mean given z and an inverse dispersion r, variance mean + mean^2 / r.

    Args:
        network: gives the logarithm of the mean, and with ``dispersion="network"`` that of r.
        dispersion: where r varies.
    """

    whole = True

    CHOICES = ("per_dimension", "shared", "network")

    def __init__(
        self,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
        dispersion: float | str = "per_dimension",
    ) -> None:
        super().__init__(network)
        self.dispersion = _choice("dispersion", dispersion, self.CHOICES)

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
            log_mean=_log_link(log_mean), inverse_dispersion=inverse
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

    def __init__(
        self,
        components: int = 5,
        network: Network | nn.Module = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(network)
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

    def _columns(self) -> list[Likelihood]:
        return [cast(Likelihood, column) for column in self.columns]

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        return {
            f"{i}.{name}": shape
            for i, column in enumerate(self._columns())
            for name, shape in column.parameter_shapes(()).items()
        }

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        if event_shape != (len(self.columns),):
            raise UsageError(
                f"Mixed has {len(self.columns)} likelihoods, one per column of a table, but one "
                f"datum has shape {tuple(event_shape)}; give as many as there are columns"
            )
        super().allocate(event_shape)
        for column in self._columns():
            column.allocate(())

    def distribution(self, *raw: Tensor) -> dist.TorchDistribution:
        parameters, parts = iter(raw), []
        for column in self._columns():
            count = len(column.parameter_shapes(()))
            parts.append(column.distribution(*itertools.islice(parameters, count)))
        return distributions.Columns(parts).to_event(1)

    @classmethod
    def suits(cls, seen: Summary) -> str:
        kinds = {type(column).__name__ for column in column_likelihoods(seen)}
        return f"columns of several kinds ({', '.join(sorted(kinds))})" if len(kinds) > 1 else ""


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
    return NegativeBinomial() if seen.dispersion > 1.2 else Poisson()
