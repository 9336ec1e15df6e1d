"""Series: a state that moves by a nonlinear Markov chain, inferred from what is still to come."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import plots
from pyrovae.errors import UsageError, flag, nearest, whole_number
from pyrovae.generation import impute
from pyrovae.guides import SMALLEST, MeanField
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Conditional, Network, Shapes
from pyrovae.program import Program
from pyrovae.programs.missing_data import supported
from pyrovae.tensors import TensorData

NOISES = ("network", "shared")


class Transition(Conditional):
    """N(z'; f(z), g(z)^2), f the network's, or gated: (1 - gate) * linear + gate * network's."""

    def __init__(self, network: Network, gated: bool, noise: str) -> None:
        super().__init__(network)
        self.gated, self.noise = gated, noise

    def parameter_shapes(self, event_shape: tuple[int, ...]) -> Shapes:
        own = {"loc": True, "gate": self.gated, "raw_scale": self.noise == "network"}
        return {name: event_shape for name, needed in own.items() if needed}

    def allocate(self, event_shape: tuple[int, ...]) -> None:
        super().allocate(event_shape)
        (size,) = event_shape
        if self.noise == "shared":
            self.raw_scale = nn.Parameter(torch.zeros(size))
        if self.gated:
            self.linear = nn.Linear(size, size)
            nn.init.eye_(self.linear.weight)  # the state stays, until it is learned where it goes
            nn.init.zeros_(self.linear.bias)

    def forward(self, *contexts: Tensor) -> dist.TorchDistribution:
        (z,) = contexts
        return self.distribution(z, **dict(zip(self.shapes, self.outputs(z), strict=True)))

    def distribution(
        self, z: Tensor, loc: Tensor, gate: Tensor | None = None, raw_scale: Tensor | None = None
    ) -> dist.TorchDistribution:
        if gate is not None:
            loc = torch.lerp(self.linear(z), loc, gate.sigmoid())
        raw_scale = self.raw_scale if raw_scale is None else raw_scale
        return dist.Normal(loc, F.softplus(raw_scale) + SMALLEST).to_event(1)


class DeepMarkov(Program[Tensor, dict[str, Tensor]]):
    """p(x, z) = p(z_1) prod_t N(z_t; f(z_{t-1}), g(z_{t-1})^2) prod_t p(x_t|z_t).

    ::

        z_1 -> z_2 -> .. -> z_T
         |      |            |
         v      v            v
        x_1    x_2    ..    x_T

    Guide q(z_1|x) prod_t q(z_t|z_{t-1}, x_t, .., x_T), as the posterior itself factorises: a
    network that runs backwards tells what is still to come. Krishnan, Shalit and Sontag,
    "Structured Inference Networks for Nonlinear State Space Models", 2017.

    NaN is a missing entry, anywhere; a shorter series ends in NaN. Where nothing more is observed
    the guide is the model's own transition, so that ``pv.impute`` forecasts.

    Args:
        event_shape: (steps, features), or (1, steps, features): an image, its rows the steps.
        latent_dim: size of each z_t.
        likelihood: p(x_t|z_t), of one step's features.
        transition: network of f and g.
        gated: f is (1 - gate) * linear + gate * network, as in the paper; else the network alone.
        noise: g is of the "network", or "shared" by all states.
        combiner: network of q(z_t|z_{t-1}, h_t).
        hidden: size of h_t, the state of the network that runs backwards.

    >>> import pyrovae as pv
    >>> program = DeepMarkov((5, 2), latent_dim=3, likelihood=pv.likelihoods.Normal())
    >>> x = torch.ones(4, 5, 2)
    >>> x[:, 3:] = torch.nan
    >>> pv.impute(program, x, draws=7, num_particles=20).shape
    torch.Size([7, 4, 5, 2])
    """

    inside: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 16,
        likelihood: Likelihood | None = None,
        transition: Network = MLP([100]),  # noqa: B008
        gated: bool = True,
        noise: str = "network",
        combiner: Network = MLP([100]),  # noqa: B008
        hidden: int = 100,
    ) -> None:
        super().__init__(event_shape)
        *image, self.steps, size = 1, *self.event_shape
        if image not in ([1], [1, 1]):
            raise UsageError(
                f"DeepMarkov models series, event_shape (steps, features), or images (1, steps, "
                f"features); got {list(self.event_shape)}: reshape the data, one feature as [T, 1]"
            )
        if noise not in NOISES:
            raise UsageError(
                f"noise is {' or '.join(NOISES)}, got {noise!r}{nearest(noise, NOISES)}"
            )
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.hidden = whole_number("hidden", hidden)
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.transition, self.gated, self.noise = transition, flag("gated", gated), noise
        self.combiner = combiner
        self.names = [f"z{t}" for t in range(1, self.steps + 1)]
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.raw_scale = nn.Parameter(torch.zeros(latent_dim))
        self.move = Transition(transition, gated, noise)
        self.move.build((latent_dim,), (latent_dim,))
        self.likelihood.build((latent_dim,), (size,))
        self.combine = MeanField(combiner)
        self.combine.build([(latent_dim,), (hidden,)], (latent_dim,))
        self.register_buffer("inside", supported(self.likelihood, latent_dim), persistent=False)
        (width,) = self.likelihood.feature_shape
        self.backwards = nn.GRU(width + size, hidden, batch_first=True)

    def model(self, x: Tensor) -> None:
        """z_1 ~ p(z_1), z_t ~ p(z_t|z_{t-1}), x_t ~ p(x_t|z_t) observed where not NaN."""
        seen = ~x.isnan()
        with pyro.plate("data", len(x)):
            z = [pyro.sample("z1", self.first())]
            for name in self.names[1:]:
                z.append(pyro.sample(name, self.move(z[-1])))
            z = torch.stack(z, -2).unflatten(-2, self.event_shape[:-1])
            p = self.likelihood(z).base_dist.mask(seen).to_event(len(self.event_shape))
            pyro.sample("x", p, obs=torch.where(seen, x, self.inside))

    def guide(self, x: Tensor) -> None:
        """z_t ~ q(z_t|z_{t-1}, x_t, .., x_T), or p(z_t|z_{t-1}) where all of these are missing."""
        x = x.flatten(1, -2) if x.dim() > 3 else x
        seen = ~x.isnan()
        known = self.features(x).nan_to_num(0.0)
        h = self.summarise(torch.cat([known, seen.to(x)], -1))
        more = seen.any(-1, keepdim=True).flip(1).cumsum(1).flip(1) > 0
        with pyro.plate("data", len(x)):
            z, p = self.loc, self.first()
            for t, name in enumerate(self.names):
                q = self.combine(z, h[:, t])
                loc = torch.where(more[:, t], q.base_dist.loc, p.base_dist.loc)
                scale = torch.where(more[:, t], q.base_dist.scale, p.base_dist.scale)
                z = pyro.sample(name, dist.Normal(loc, scale).to_event(1))
                p = self.move(z)

    def first(self) -> dist.TorchDistribution:
        """p(z_1)."""
        return dist.Normal(self.loc, F.softplus(self.raw_scale) + SMALLEST).to_event(1)

    def summarise(self, x: Tensor) -> Tensor:
        """h_t of x_t, .., x_T, ``[batch, steps, hidden]``."""
        return self.backwards(x.flip(1))[0].flip(1)

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """The first two thirds of series given, the rest forecast: images beside the mean and
        draws of what follows, other series with the interval that holds 90 % of the draws."""
        count = min(len(data), 8 if len(self.event_shape) > 2 else 4)
        x = data.fixed().select(range(count)).x.cpu()
        given = x.clone()
        given[..., -(-2 * self.steps // 3) :, :] = torch.nan
        if len(self.event_shape) == 2:
            draws = impute(self, given, draws=200, num_particles=3000)
            columns = None if data.schema is None else data.schema.names
            return plots.forecasts(x, draws, given, names=columns)
        mean, draws = (impute(self, given, draws=k, num_particles=3000) for k in (0, 3))
        rows = torch.stack([x, given, mean, *draws])
        return plots.strips(rows, ["data", "given", "mean", "draw 1", "draw 2", "draw 3"])
