"""A number predicted from data, with its noise: the supervised side of an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.errors import UsageError, whole_number
from pyrovae.guides import Guide
from pyrovae.likelihoods import Likelihood, Normal
from pyrovae.networks import MLP, Network
from pyrovae.program import Parts, Program
from pyrovae.randomness import set_seed
from pyrovae.tensors import TensorData, log_mean_exp
from pyrovae.traces import as_pair


class Regression(Program[dict[str, Tensor], Tensor]):
    """p(x, y, z) = N(z; 0, I) p(x|z) N(y; f(z), s(z)^2), guide q(z|x).

    ::

        x <- z -> y        y is observed where it is known; predicted, z is inferred from x alone

    Zhao, Adeli, Honnorat, Leng and Pohl, "Variational AutoEncoder for Regression: Application to
    Brain Aging Analysis", 2019; the noise is learned with its mean, Nix and Weigend, "Estimating
    the Mean and Variance of the Target Probability Distribution", 1994. Data without y still
    teach the model what x are like.

    The programs take x, y ``[N]`` and, where some y are unknown, ``known``, bool ``[N]``; a y
    that is NaN is not known either.

    Args:
        event_shape: shape of one x.
        latent_dim: size of z.
        target: the column of a table ``[N, D + 1]`` that is y.
        likelihood: p(x|z), a normal with a scale per dimension by default.
        guide: q(z|x).
        head: network of f and s.

    Raises:
        UsageError: a target that is no column of the table.

    >>> _ = torch.manual_seed(0)
    >>> program = Regression((3,), latent_dim=2)
    >>> mean, sd = program.predict(torch.ones(4, 3))
    >>> mean.shape, bool((sd > 0).all())
    (torch.Size([4]), True)
    """

    zeros: Tensor
    origin: Tensor
    unit: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 10,
        target: int = -1,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
        head: Network = MLP([64]),  # noqa: B008
    ) -> None:
        super().__init__(event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        columns = self.event_shape[0] + 1
        self.target = whole_number("target", target, -columns, columns - 1)
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.posterior = guide or self.usual()["guide"]
        self.likelihood.build((latent_dim,), self.event_shape)
        self.posterior.build(self.likelihood.feature_shape, (latent_dim,))
        self.head = head
        self.regress = Normal(head, scale="network")
        self.regress.build((latent_dim,), ())
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        # y's own, from initialise, so that the head's outputs are of the order of 1
        self.register_buffer("origin", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    @classmethod
    def usual(cls) -> Parts:
        """The parts where none are given, new ones."""
        return super().usual() | {"likelihood": Normal(scale="per_dimension")}

    def model(self, x: Tensor, y: Tensor | None = None, known: Tensor | None = None) -> None:
        """z ~ N(0, I), x ~ p(x|z) observed, y ~ N(f(z), s(z)^2) observed where it is known."""
        y = x.new_full((len(x),), torch.nan) if y is None else y
        seen = ~y.isnan() if known is None else ~y.isnan() & known
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z), obs=x)
            p = self.regress(z)
            p = dist.Normal(self.origin + self.unit * p.loc, self.unit * p.scale)
            pyro.sample("y", p.mask(seen), obs=torch.where(seen, y, self.origin))

    def guide(self, x: Tensor, y: Tensor | None = None, known: Tensor | None = None) -> None:
        """z ~ q(z|x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(self.features(x)))

    def predict(self, x: Tensor, num_particles: int = 100, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of y given x, ``[N]`` each, over z ~ q(z|x): the variance is
        the mean of s(z)^2 and the variance of f(z)."""
        loc, scale = self._given(x, num_particles, seed)
        variance = scale.square().mean(0) + loc.var(0, correction=0)
        return loc.mean(0), variance.sqrt()

    def _given(self, x: Tensor, num_particles: int, seed: int) -> tuple[Tensor, Tensor]:
        """f(z) and s(z) in y's unit, ``[num_particles, N]``."""
        with as_pair(self).evaluating():
            set_seed(seed)
            z = self.posterior(self._seen(x)).sample((num_particles,))
            p = self.regress(z)
            return self.origin + self.unit * p.loc, self.unit * p.scale

    def _seen(self, x: Tensor) -> Tensor:
        """x as the guide sees it, missing entries 0."""
        return self.features(x.to(self.zeros)).nan_to_num(0.0)

    @classmethod
    def decided_by(cls, data: TensorData, classes: int | None) -> dict[str, Any]:
        """The shape of x: of a table without y apart, that of the other columns."""
        shape = tuple(data.event_shape)
        if len(data.tensors) > 1:
            schema = data.schema
            suited = {} if schema is None else cls.suited(data.summary(), schema)
            return {"event_shape": shape} | {n: v for n, v in suited.items() if n != "prior"}
        if len(shape) != 1 or shape[0] < 2:
            raise UsageError(
                f"Regression takes a table [N, D + 1], one column of which is y, or (x, y); got "
                f"data of shape {list(shape)}: give (x, y), y one number per datum"
            )
        return {"event_shape": (shape[0] - 1,)}

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """(x, y), y the column ``target`` of a table; where some y are NaN (x, y, known)."""
        self._in_memory(data)
        if len(data.tensors) == 1 and tuple(data.event_shape) == self.event_shape:
            return data  # of which no y is known
        if len(data.tensors) == 1:
            columns = self.event_shape[0] + 1
            if tuple(data.event_shape) != (columns,):
                raise UsageError(
                    f"this Regression takes tables of {columns} columns, column {self.target} of "
                    f"them y, or (x, y) with x of shape {list(self.event_shape)}; got data of "
                    f"shape {list(data.event_shape)}"
                )
            table, at = data.x, self.target % columns
            x = torch.cat([table[:, :at], table[:, at + 1 :]], 1)
            schema = data.schema and data.schema.apart(at)
            data = TensorData(x, table[:, at], labels=data.labels)._with(schema=schema)
        x, y, *known = data.tensors
        y = y.to(torch.get_default_dtype())
        if y.isnan().any():
            known = [~y.isnan() & known[0] if known else ~y.isnan()]
        return data.with_arguments(y.nan_to_num(0.0), *known)

    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """Take the mean and the standard deviation of the known y for its origin and unit."""
        super().initialise(data, seed)
        _, y = self._known(data)
        self.origin.copy_(y.mean())
        self.unit.copy_(y.std(correction=0).clamp_min(1e-6) if len(y) else torch.ones(()))

    def scores(self, data: TensorData) -> dict[str, float]:
        """Of y predicted from x: root mean squared error, share of variance explained, coverage
        of the 90 % interval, mean log predictive density (nats)."""
        if len(data.tensors) == 1:
            return {}  # of which no y is known
        x, y = self._known(data)
        loc, scale = self._given(x, 1000, 0)
        mean, low, high = self._interval(loc, scale)
        error = (y - mean).square().mean()
        density = log_mean_exp(dist.Normal(loc, scale).log_prob(y))
        return {
            "rmse": float(error.sqrt()),
            "r2": float(1 - error / y.var(correction=0)),
            "coverage_90": float(((low <= y) & (y <= high)).double().mean()),
            "log_predictive_density": float(density.mean()),
        }

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Axes:
        """y against what is predicted from x, with 90 % intervals."""
        x, y = self._known(data)
        mean, low, high = self._interval(*self._given(x, 1000, 0))
        column = data.schema.target if data.schema else None
        unit = f" ({column.unit})" if column and column.unit else ""
        return plots.intervals(
            *(y, mean, low, high),
            x_label=f"{column.name}{unit}" if column else "y",
            y_label="predicted, 90 % interval",
        )

    def _interval(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the 5 % and the 95 % quantile of y ``[N]`` over particles ``[K, N]``."""
        noise = torch.randn(loc.shape, generator=torch.Generator().manual_seed(0)).to(loc)
        drawn = loc + scale * noise
        return loc.mean(0), drawn.quantile(0.05, 0), drawn.quantile(0.95, 0)

    def _known(self, data: TensorData) -> tuple[Tensor, Tensor]:
        """x and y of the data whose y is known."""
        x, y, *known = data.fixed()[:]
        x, y = x.to(self.zeros), y.to(self.zeros)
        seen = known[0].to(y.device) & ~y.isnan() if known else ~y.isnan()
        if not seen.any():
            raise UsageError("no y is known: give (x, y), or a table with a column for y")
        return x[seen], y[seen]
