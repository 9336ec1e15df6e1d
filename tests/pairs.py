"""Pairs whose answers are known in closed form: the beds that the mathematics is tested on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae as pv


@dataclass
class Bed:
    """A pair, data, and the exact per-datum log evidence."""

    pair: object
    args: tuple[Tensor, ...]
    log_evidence: Tensor
    exact_guide: bool


class PPCA(nn.Module):
    """x = W z + noise, z standard normal; the guide is exact, diagonal, or scaled."""

    def __init__(self, guide: str = "exact", d: int = 5, k: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(d, k, generator=generator))
        self.noise = 0.7
        self.kind, self.factor = guide, scale

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact mean and covariance of z given x."""
        precision = self.w.T @ self.w / self.noise**2 + torch.eye(self.w.shape[1]).to(self.w)
        covariance = precision.inverse()
        return x @ self.w @ covariance / self.noise**2, covariance

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.w.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        loc, covariance = self.posterior(x)
        with pyro.plate("data", len(x)):
            if self.kind == "exact":
                fn = dist.MultivariateNormal(loc, covariance)
            else:
                # the best diagonal guide keeps the mean and inverts the precision's diagonal
                scale = covariance.inverse().diagonal().rsqrt() * self.factor
                fn = dist.Normal(loc, scale).to_event(1)
            pyro.sample("z", fn)

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = self.w @ self.w.T + self.noise**2 * torch.eye(self.w.shape[0]).to(self.w)
        return dist.MultivariateNormal(x.new_zeros(len(covariance)), covariance).log_prob(x)

    def diagonal_gap(self) -> float:
        """KL(best diagonal q || p(z|x)), the same for every x."""
        precision = self.w.T @ self.w / self.noise**2 + torch.eye(self.w.shape[1]).to(self.w)
        return float(0.5 * (precision.diagonal().log().sum() - precision.logdet()).detach())

    def kl(self, x: Tensor, diagonal: bool) -> Tensor:
        """KL(q || p(z)) by the textbook formula."""
        loc, covariance = self.posterior(x)
        if diagonal:
            covariance = (1 / covariance.inverse().diagonal()).diag() * self.factor**2
        k = len(covariance)
        return 0.5 * (covariance.trace() + (loc**2).sum(-1) - k - covariance.logdet())


def data(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) * 1.5


def ppca() -> Bed:
    bed, x = PPCA(), data(6, 5)
    return Bed(bed, (x,), bed.log_evidence(x).detach(), True)


def ppca_diagonal() -> Bed:
    bed, x = PPCA("diagonal"), data(6, 5)
    return Bed(bed, (x,), bed.log_evidence(x).detach(), False)


def two_level() -> Bed:
    """z2 -> z1 -> x, all Gaussian; the guide goes bottom-up and is exact."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(2 * x / 3, math.sqrt(2 / 3)))
            pyro.sample("z2", dist.Normal(z1 / 2, math.sqrt(1 / 2)))

    x = data(6, 1)[:, 0]
    exact = dist.Normal(0.0, math.sqrt(3)).log_prob(x)
    return Bed(pv.Pair(model, guide), (x,), exact, True)


WEIGHTS = torch.tensor([0.2, 0.3, 0.5])
LOCS = torch.tensor([-2.0, 0.5, 3.0])


def _mixture(infer: dict[str, str], amortised: bool) -> Bed:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(WEIGHTS), infer=infer)
            pyro.sample("x", dist.Normal(LOCS[y], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        if amortised:
            logits = WEIGHTS.log() - 0.5 * (x[:, None] - LOCS) ** 2 / 2  # not the exact one
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(logits=logits), infer=infer)

    x = data(6, 1)[:, 0]
    mixture = dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(LOCS, 1.0))
    return Bed(pv.Pair(model, guide), (x,), mixture.log_prob(x), False)


def mixture_in_model() -> Bed:
    """The discrete site is enumerated in the model; no guide has it."""
    bed = _mixture({"enumerate": "parallel"}, amortised=False)
    return Bed(bed.pair, bed.args, bed.log_evidence, True)


def mixture_in_guide() -> Bed:
    return _mixture({"enumerate": "parallel"}, amortised=True)


def mixture_sampled() -> Bed:
    return _mixture({}, amortised=True)


def binary_codes() -> Bed:
    """Four binary latents and a non-linear decoder; evidence by brute force over 16 states."""
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(4, 3, generator=generator)

    def loc(z: Tensor) -> Tensor:
        return torch.tanh(z @ w) * 2

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((4,), 0.4)).to_event(1))
            pyro.sample("x", dist.Normal(loc(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=(x @ w.T) / 3).to_event(1))

    x = data(6, 3)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    prior = dist.Bernoulli(torch.full((4,), 0.4)).to_event(1).log_prob(states)
    exact = (prior + dist.Normal(loc(states), 1.0).to_event(1).log_prob(x[:, None])).logsumexp(1)
    return Bed(pv.Pair(model, guide), (x,), exact, False)


BEDS = (
    ppca, ppca_diagonal, two_level, mixture_in_model, mixture_in_guide, mixture_sampled,
    binary_codes,
)  # fmt: skip
