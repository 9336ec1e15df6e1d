"""What training maximises: bounds on log p(x) and weighings of their terms, read from traces.

Every objective is a ``pyro.infer.ELBO``: it goes where Pyro's own go, into ``pyro.infer.SVI`` or
``pv.fit``. All take any pair; terms are nats per datum. A subsampled plate scales the sum over a
batch by N / B, as Pyro's do.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from pyrovae.components import Component
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.schedules import Schedule
from pyrovae.tensors import log_mean_exp
from pyrovae.traces import Pair, Problem, Structure, Traces
from pyrovae.traces.sites import Trace

__all__ = [
    "CIWAE",
    "IWAE",
    "MIWAE",
    "MMD",
    "BetaELBO",
    "Capacity",
    "DReG",
    "FreeBits",
    "Objective",
    "Renyi",
    "StickingTheLanding",
    "TotalCorrelation",
]


class Objective(ELBO, Component, ABC):
    """An objective made of the particles of a batch. One abstract method: :meth:`bound`.

    Latents without a pathwise gradient (discrete ones) are learned with the score function, the
    other data's mean as the baseline, where a datum's bound is its own.
    """

    num_particles: int
    schedule: Schedule | None = None
    needs_pathwise = False  # the formula is one of reparameterised particles
    needs_batch = False  # a datum's bound depends on the others'
    analytic = True  # KL terms in closed form where that is valid

    def __init__(self, num_particles: int = 1, schedule: Schedule | None = None) -> None:
        super().__init__(num_particles=whole_number("num_particles", num_particles))
        self.schedule = schedule
        self._factor: Tensor | None = None
        self._met: tuple[object, object, Pair] | None = None

    @abstractmethod
    def bound(self, drawn: Traces) -> Tensor:
        """``[batch]``, nats, to be maximised; ``drawn`` holds :attr:`particles` of each datum."""

    @property
    def particles(self) -> int:
        """How many particles of a datum one bound takes."""
        return self.num_particles

    @property
    def factor(self) -> Tensor | float:
        """The schedule's value, 1 without one."""
        if self.schedule is None:
            return 1.0
        if self._factor is None:
            raise UsageError(
                f"{type(self).__name__} follows {self.schedule} and was not told the time: "
                f"pv.fit does; in a loop of your own call objective.clock(epoch, epochs) before "
                f"each step"
            )
        return self._factor

    def clock(self, epoch: float, epochs: int) -> None:
        """Tell how far training is: ``epoch`` (fractions count) of ``epochs``."""
        if self.schedule is not None:
            if self._factor is None:
                self._factor = torch.zeros(())
            self._factor.fill_(self.schedule.at(epoch, epochs))  # in place: graphs hold it

    def prepare(self, data_size: int) -> None:
        """Tell how many data there are; only objectives that must know keep it."""

    def differentiable_loss(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        """Minus the bounds' sum over the batch, times N / B in a plate that subsamples."""
        drawn = self._problem(model, guide, args, kwargs).draw(args, self.particles)
        shape, value = drawn.shape, self.bound(drawn)
        if shape.scored:
            others = (value.sum() - value).detach() / max(1, len(value) - 1)
            score = torch.stack([drawn.guide[n].log_prob.sum(0) for n in shape.scored]).sum(0)
            value = value + (value.detach() - others) * (score - score.detach())
        scale = 1.0 if shape.size is None else shape.size / len(value)
        return -scale * value.sum()

    def loss(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        *args: object,
        **kwargs: object,
    ) -> float:
        """The same as a number, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        *args: object,
        **kwargs: object,
    ) -> float:
        """The loss as a number; its gradients are added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())

    def _get_trace(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> tuple[Trace, Trace]:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def _problem(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> Problem:
        """The pair on such a batch; what is seen of it is kept as long as it is the same pair."""
        if self._met is None or (self._met[0], self._met[1]) != (model, guide) or kwargs:
            programs = (_with(p, kwargs) if kwargs else p for p in (model, guide))
            self._met = model, guide, Pair.here(*programs)
        problem = Problem.at(self._met[2], args)
        self._check(problem.shape)
        if not self.analytic:
            problem = problem.like(dataclasses.replace(problem.shape, closed_form=()))
        return problem

    def _check(self, shape: Structure) -> None:
        name, scored = type(self).__name__, shape.scored
        if shape.scaled:
            raise UsageError(
                f"the site(s) {', '.join(shape.scaled)} carry a scale of their own, which {name} "
                f"does not follow; remove that scale and give the KL's weight to the "
                f"objective: BetaELBO(beta=...)"
            )
        if scored and (self.needs_pathwise or self.needs_batch or set(scored) & set(shape.globals)):
            raise UsageError(
                f"{name} differentiates through the draws of {', '.join(scored)}, which are not "
                f"reparameterised: gradients would be wrong. Use BetaELBO(), IWAE() or "
                f"pyro.infer.Trace_ELBO(), or a relaxed guide"
            )
        if shape.enumerated and self.needs_pathwise:
            raise UsageError(
                f"{name} is made of particles, and {', '.join(shape.enumerated)} is summed out; "
                f"use IWAE() or BetaELBO()"
            )


def _with(program: Callable[..., object], kwargs: dict[str, object]) -> Callable[..., object]:
    return lambda *args: program(*args, **kwargs)


class BetaELBO(Objective):
    """E_q[log p(x|z)] - beta * s(t) * KL(q(z|x) || p(z)).

    beta < 1 leans to an autoencoder, beta > 1 to independent, few units; a schedule s(t) warms
    the KL up. Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained
    Variational Framework", 2017; Bowman et al., "Generating Sentences from a Continuous Space",
    2016.

    Args:
        beta: weight of the KL of all latents, in model and guide alike.
        schedule: a factor that beta is multiplied by, e.g. ``schedules.Linear(epochs=10)``.
        analytic: the KL in closed form where it is valid, at the particles elsewhere; False
            takes the particles everywhere. Both have the same expectation.
        num_particles: particles averaged over.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> bool(BetaELBO(beta=2.0).loss(vae.model, vae.guide, x) > 0)
    True
    """

    def __init__(
        self,
        beta: float = 1.0,
        schedule: Schedule | None = None,
        analytic: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles, schedule)
        self.beta, self.analytic = number("beta", beta, zero=True), analytic

    def bound(self, drawn: Traces) -> Tensor:
        return drawn.reconstruction.mean(0) - self.beta * self.factor * drawn.total_kl.mean(0)


class FreeBits(Objective):
    """E_q[log p(x|z)] - sum_j max(nats, mean over the batch of KL_j).

    A unit's first ``nats`` of KL are free, so that it is not switched off early. Kingma et al.,
    "Improving Variational Inference with Inverse Autoregressive Flow", 2016. Latents whose guide
    or prior does not factorise are one unit that has ``nats`` for each of its dimensions.

    Args:
        nats: free nats per unit of the latent.
        analytic: as in :class:`BetaELBO`.
        num_particles: particles averaged over.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> FreeBits(100.0).loss(vae.model, vae.guide, x) > 10 * 2 * 100
    True
    """

    needs_batch = True

    def __init__(self, nats: float = 0.1, analytic: bool = True, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.nats, self.analytic = number("nats", nats, zero=True), analytic

    def bound(self, drawn: Traces) -> Tensor:
        shares, floored = drawn.kl_shares(), []
        for name, kl in shares.items():
            units = drawn.kl_dimensions.get(name)
            if units is not None:
                floored.append(units.mean((0, 1)).clamp_min(self.nats).sum())
            else:
                size = math.prod(drawn.guide[name].event_shape) if name in drawn.guide else 1
                floored.append(kl.mean().clamp_min(self.nats * size))
        return drawn.reconstruction.mean(0) - sum(floored)


class Capacity(Objective):
    """E_q[log p(x|z)] - gamma * |mean over the batch of KL - nats * s(t)|.

    Holds the KL at a capacity that the schedule lets grow. Burgess et al., "Understanding
    Disentangling in beta-VAE", 2018.

    Args:
        nats: the capacity, nats per datum.
        gamma: how firmly it is held.
        schedule: a factor that the capacity is multiplied by, e.g. ``schedules.Linear(10)``.
        analytic: as in :class:`BetaELBO`.
        num_particles: particles averaged over.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> Capacity(nats=50.0, gamma=1000.0).loss(vae.model, vae.guide, x) > 10 * 1000 * 40
    True
    """

    needs_batch = True

    def __init__(
        self,
        nats: float = 25.0,
        gamma: float = 100.0,
        schedule: Schedule | None = None,
        analytic: bool = True,
        num_particles: int = 1,
    ) -> None:
        super().__init__(num_particles, schedule)
        self.nats = number("nats", nats, zero=True)
        self.gamma = number("gamma", gamma, zero=True)
        self.analytic = analytic

    def bound(self, drawn: Traces) -> Tensor:
        off = (drawn.total_kl.mean() - self.nats * self.factor).abs()
        return drawn.reconstruction.mean(0) - self.gamma * off


class IWAE(Objective):
    """log (1/K) sum_k p(x, z_k) / q(z_k|x): tighter than the ELBO, and more so with K.

    Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2015. With missing
    entries this is the bound of Mattei and Frellsen, "MIWAE: Deep Generative Modelling and
    Imputation of Incomplete Data Sets", 2019. The guide's gradient weakens as K grows (Rainforth
    et al., "Tighter Variational Bounds are Not Necessarily Better", 2018): see :class:`DReG`.

    Args:
        num_particles: K.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> IWAE(500).loss(vae.model, vae.guide, x) < BetaELBO(num_particles=500).loss(
    ...     vae.model, vae.guide, x)
    True
    """

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def bound(self, drawn: Traces) -> Tensor:
        return log_mean_exp(drawn.log_weights)


class Renyi(Objective):
    """1 / (1 - alpha) log (1/K) sum_k (p(x, z_k) / q(z_k|x))^(1 - alpha).

    alpha = 0 is IWAE, alpha -> 1 the ELBO, alpha < 0 bounds log p(x) from above as K grows. Li
    and Turner, "Renyi Divergence Variational Inference", 2016.

    Args:
        alpha: any number but 1.
        num_particles: K.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> Renyi(0.5, 20).loss(vae.model, vae.guide, x) > 0
    True
    """

    def __init__(self, alpha: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        if not (isinstance(alpha, int | float) and math.isfinite(alpha)) or alpha == 1:
            raise UsageError(
                f"alpha is a number other than 1, where the bound is the ELBO: use BetaELBO(); "
                f"got {alpha!r}"
            )
        self.alpha = float(alpha)

    def bound(self, drawn: Traces) -> Tensor:
        return log_mean_exp((1 - self.alpha) * drawn.log_weights) / (1 - self.alpha)


class MIWAE(Objective):
    """The mean of ``groups`` IWAE bounds of K particles each.

    Between the ELBO (K = 1) and IWAE (one group) in tightness and in the noise of the guide's
    gradient. Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018
    (the multiply importance-weighted one; for missing entries see :class:`IWAE`).

    Args:
        groups: how many bounds are averaged.
        num_particles: K of each.

    >>> MIWAE(8, 5).particles
    40
    """

    def __init__(self, groups: int = 5, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        self.groups = whole_number("groups", groups)

    @property
    def particles(self) -> int:
        return self.groups * self.num_particles

    def bound(self, drawn: Traces) -> Tensor:
        grouped = drawn.log_weights.unflatten(0, (self.groups, self.num_particles))
        return log_mean_exp(grouped, 1).mean(0)


class CIWAE(Objective):
    """beta * ELBO + (1 - beta) * IWAE, of the same K particles.

    Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", 2018.

    Args:
        beta: share of the ELBO, in [0, 1].
        num_particles: K.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> CIWAE(0.5, 20).loss(vae.model, vae.guide, x) > 0
    True
    """

    def __init__(self, beta: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        if not 0 <= beta <= 1:
            raise UsageError(f"beta is the ELBO's share, in [0, 1], got {beta!r}")
        self.beta = float(beta)

    def bound(self, drawn: Traces) -> Tensor:
        weights = drawn.log_weights
        return self.beta * weights.mean(0) + (1 - self.beta) * log_mean_exp(weights)


class StickingTheLanding(Objective):
    """The ELBO, its gradient without the score of q: exactly zero once q is the posterior.

    The gradient of E_q[log p(x, z) - log q(z|x)] by the guide's parameters is taken by way of z
    alone; what is left out has mean zero and only noise to add. Roeder, Wu and Duvenaud,
    "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference",
    2017. Any reparameterised guide; both programs run twice.

    Args:
        num_particles: particles averaged over.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> StickingTheLanding().loss_and_grads(vae.model, vae.guide, x) > 0
    True
    """

    needs_pathwise = True

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    def bound(self, drawn: Traces) -> Tensor:
        constant = drawn.detached()
        surrogate = constant.log_p + (drawn.elbo - constant.elbo)
        return _with_value(drawn.elbo, surrogate).mean(0)


class DReG(Objective):
    """IWAE's bound with the doubly reparameterised gradient for the guide.

    The guide's gradient is sum_k w_k^2 d log w_k / d z_k * d z_k / d phi with normalised weights
    w: unbiased for IWAE's, and its signal does not vanish as K grows. The model's is IWAE's own.
    Tucker et al., "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives", 2019.
    Any reparameterised guide; both programs run twice.

    Args:
        num_particles: K.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> DReG(8).loss_and_grads(vae.model, vae.guide, x) > 0
    True
    """

    needs_pathwise = True

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles)

    def bound(self, drawn: Traces) -> Tensor:
        constant, weights = drawn.detached(), drawn.log_weights
        share = weights.detach().softmax(0)
        path = weights - constant.log_weights  # zero, with the gradient by way of z alone
        surrogate = (share * constant.log_p + share.square() * path).sum(0)
        return _with_value(log_mean_exp(weights), surrogate)


class TotalCorrelation(Objective):
    """E_q[log p(x|z)] - alpha * I(x; z) - beta * TC(q(z)) - gamma * sum_j KL(q(z_j) || p(z_j)).

    The KL to the prior in three parts, each with its weight; with all of them 1 this is the
    ELBO. beta > 1 asks for independent units and pays less reconstruction for it than
    :class:`BetaELBO`. The aggregate q(z) is estimated from the batch with stratified weights:
    large batches, please. Chen et al., "Isolating Sources of Disentanglement in VAEs"
    (beta-TCVAE), 2018.

    Args:
        alpha: weight of the mutual information of datum and code.
        beta: weight of the total correlation.
        gamma: weight of the units' own KL.
        data_size: how many data there are; ``pv.fit`` tells.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> TotalCorrelation(data_size=100).loss(vae.model, vae.guide, x) > 0
    True
    """

    needs_batch = True

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        data_size: int | None = None,
    ) -> None:
        super().__init__(1)
        self.alpha, self.beta = number("alpha", alpha, zero=True), number("beta", beta, zero=True)
        self.gamma = number("gamma", gamma, zero=True)
        self.data_size = data_size if data_size is None else whole_number("data_size", data_size)
        self._told: int | None = None

    def bound(self, drawn: Traces) -> Tensor:
        value = drawn.reconstruction[0]
        log_share = self._log_share(len(value)).to(value)
        for name in drawn.shape.latents:
            site = drawn.guide[name]
            q = getattr(site.fn, "base_dist", None)
            if site.is_global or q is None or site.fn.reinterpreted_batch_ndims != 1:
                raise UsageError(
                    f"TotalCorrelation needs a guide whose units are independent given x, such as "
                    f"MeanField; the site {name!r} has {type(site.fn).__name__}"
                )
            every = q.log_prob(site.value[0][:, None])  # [batch of z, batch of x, units]
            joint = (log_share + every.sum(-1)).logsumexp(1)
            units = (log_share[..., None] + every).logsumexp(1).sum(-1)
            information = site.log_prob[0] - joint
            rest = self.beta * (joint - units)
            rest = rest + self.gamma * (units - drawn.model[name].log_prob[0])
            value = value - self.alpha * information - rest
        return value

    def prepare(self, data_size: int) -> None:
        self._told = data_size

    def _log_share(self, batch: int) -> Tensor:
        """Log weights ``[batch, batch]`` that make the batch stand for all N data: a datum of
        its own 1 / N, one other (B - 1 being what is left) what the N - 1 others lack."""
        size = self.data_size or self._told
        if size is None:
            raise UsageError(
                "TotalCorrelation needs data_size, the number of data; pv.fit tells it, "
                "elsewhere give TotalCorrelation(data_size=N)"
            )
        if batch < 2:
            raise UsageError("TotalCorrelation compares the data of a batch; 2 or more, please")
        share = torch.full((batch, batch), (size - 1) / (size * (batch - 1)))
        return share.fill_diagonal_(1 / size).log()


class MMD(Objective):
    """E_q[log p(x|z)] - beta * KL(q(z|x) || p(z)) - weight * MMD^2(q(z), p(z)).

    The codes of a batch as a whole are held against draws from the prior by the maximum mean
    discrepancy, kernel sum_c C c / (C c + |a - b|^2) over scales c with C = 2 * dimension.
    beta = 0 is the Wasserstein autoencoder (Tolstikhin et al., "Wasserstein Auto-Encoders",
    2018), between 0 and 1 an InfoVAE (Zhao, Song and Ermon, "InfoVAE: Balancing Learning and
    Inference in Variational Autoencoders", 2019).

    Args:
        weight: of the discrepancy.
        beta: of the KL.
        analytic: as in :class:`BetaELBO`.

    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> MMD(weight=0.0, beta=1.0).loss(vae.model, vae.guide, x) > 0
    True
    """

    needs_batch = True
    SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

    def __init__(self, weight: float = 100.0, beta: float = 0.0, analytic: bool = True) -> None:
        super().__init__(1)
        self.weight = number("weight", weight, zero=True)
        self.beta = number("beta", beta, zero=True)
        self.analytic = analytic

    def bound(self, drawn: Traces) -> Tensor:
        value = drawn.reconstruction[0] - self.beta * drawn.total_kl[0]
        for name in drawn.shape.latents:
            prior, code = drawn.model[name].fn, drawn.guide[name].value[0]
            other = prior.rsample() if prior.has_rsample else prior.sample()
            other = other.expand(code.shape)
            value = value - self.weight * self.discrepancy(code.flatten(1), other.flatten(1))
        return value

    def discrepancy(self, a: Tensor, b: Tensor) -> Tensor:
        """Unbiased estimate of MMD^2 between two samples ``[n, dims]``."""
        n = len(a)
        if n < 2:
            raise UsageError("MMD compares the data of a batch; 2 or more, please")
        others = 1 - torch.eye(n).to(a)

        def kernel(x: Tensor, y: Tensor) -> Tensor:
            squared = (x[:, None] - y).square().sum(-1)
            return sum((s := 2.0 * a.shape[1] * scale) / (s + squared) for scale in self.SCALES)  # type: ignore[return-value]

        within = ((kernel(a, a) + kernel(b, b)) * others).sum() / (n * (n - 1))
        return within - 2 * kernel(a, b).mean()


def _with_value(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value of one, the gradient of the other."""
    return value.detach() + surrogate - surrogate.detach()
