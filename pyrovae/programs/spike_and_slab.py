"""Sparse latents: gates that open groups of units, whose sizes may have heavy tails."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae import plots
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.generation import decode
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.tensors import TensorData


class SpikeAndSlab(Program[Tensor, dict[str, Tensor]]):
    """z_g = s_g w_g, gates s_g ~ RelaxedBernoulli(rate), slabs w_g ~ N(0, v_g I), x ~ p(x|z).

    ::

        gate s_g ---------> z_g -> x      g in 1 .. groups, z_g of latent_dim / groups units
        scale v_g -> slab w_g ^           v_g = 1, or InverseGamma(df/2, df/2)

    A group is in a datum or not, and its units are so together. With a group for each unit:
    Tonolini, Jensen and Murray-Smith, "Variational Sparse Coding", 2019. Fewer groups: Yuan and
    Lin, "Model Selection and Estimation in Regression with Grouped Variables", 2006; Ainsworth et
    al., "Interpretable VAEs for Nonlinear Group Factor Analysis", 2018. With ``df`` the slab of a
    group is a multivariate Student-t: Andrews and Mallows, "Scale Mixtures of Normal
    Distributions", 1974; Abiri and Ohlsson, "Variational Auto-Encoders with Student's t-Prior",
    2020. The guide has a network for all three, each independent given x; gradients go through
    the draws.

    The site "gate" holds logit(s_g), which is Logistic: a relaxed Bernoulli without the rounding
    to 1 that would make its density wrong where a gate is sure.

    Args:
        event_shape: shape of one datum.
        latent_dim: size of z.
        groups: how many; None for one per unit.
        rate: chance that a gate is open, before x is seen.
        df: degrees of freedom of a group's slab, None for a normal one.
        temperature: of the gates: towards 0 they are open or closed, and gradients noisy.
        likelihood: p(x|z).
        network: of the guide.

    >>> _ = torch.manual_seed(0)
    >>> program = SpikeAndSlab((6,), latent_dim=8, groups=4, df=3.0)
    >>> program.active(torch.ones(5, 6)).shape
    torch.Size([5, 4])
    """

    odds: Tensor
    ones: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        groups: int | None = None,
        rate: float = 0.2,
        df: float | None = None,
        temperature: float = 0.5,
        likelihood: Likelihood | None = None,
        network: Network = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.groups = None if groups is None else whole_number("groups", groups)
        self.count = groups or latent_dim
        if latent_dim % self.count:
            raise UsageError(
                f"{groups} groups do not share {latent_dim} units evenly; choose a latent_dim "
                f"such as {groups} times {max(1, latent_dim // self.count)}"
            )
        self.rate, self.temperature = number("rate", rate), number("temperature", temperature)
        if self.rate >= 1:
            raise UsageError(f"rate is the chance of an open gate, between 0 and 1, got {rate}")
        self.df = None if df is None else number("df", df)
        self.likelihood, self.network = likelihood or self.usual()["likelihood"], network
        self.likelihood.build((latent_dim,), self.event_shape)
        gates, units = (self.count,), (latent_dim,)
        outputs = {"gate": gates, "loc": units, "raw_scale": units}
        if self.df is not None:
            outputs |= {"scale_loc": gates, "scale_raw": gates}
        self.posterior = network.build(self.likelihood.feature_shape, outputs)
        odds = torch.tensor(self.rate).logit()
        self.register_buffer("odds", odds.expand(gates).clone(), persistent=False)
        self.register_buffer("ones", torch.ones(latent_dim), persistent=False)

    def model(self, x: Tensor) -> None:
        """s ~ p(s), v ~ p(v), w ~ p(w|v), x ~ p(x|s w) observed."""
        heat, size = self.temperature, self.latent_dim // self.count
        with pyro.plate("data", len(x)):
            gate = pyro.sample("gate", dist.Logistic(self.odds / heat, 1 / heat).to_event(1))
            scale = self.ones
            if self.df is not None:
                half = self.df / 2 * self.ones[: self.count]
                v = pyro.sample("scale", dist.InverseGamma(half, half).to_event(1))
                scale = v.sqrt().repeat_interleave(size, -1)
            w = pyro.sample("slab", dist.Normal(0 * self.ones, scale).to_event(1))
            z = gate.sigmoid().repeat_interleave(size, -1) * w
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """s ~ q(s|x), v ~ q(v|x), w ~ q(w|x)."""
        heat = self.temperature
        odds, loc, raw_scale, *of_scale = self.posterior(self.features(x))
        with pyro.plate("data", len(x)):
            pyro.sample("gate", dist.Logistic(odds / heat, 1 / heat).to_event(1))
            if self.df is not None:
                centre, spread = of_scale[0], F.softplus(of_scale[1]) + 1e-5
                pyro.sample("scale", dist.LogNormal(centre, spread).to_event(1))
            pyro.sample("slab", dist.Normal(loc, F.softplus(raw_scale) + 1e-5).to_event(1))

    @torch.no_grad()
    def active(self, x: Tensor) -> Tensor:
        """q(s_g > 1/2|x), ``[N, groups]``: the chance that a gate is open."""
        odds: Tensor = self.posterior(self.features(x))[0]
        return odds.sigmoid()

    def scores(self, data: TensorData) -> dict[str, float]:
        """How many gates are open in a datum, on average."""
        opened = torch.cat([self.active(x) for (x,) in data.batches(1000)])
        return {"open_gates": float(opened.double().sum(-1).mean())}

    @torch.no_grad()
    def directions(self, data: TensorData) -> Tensor:
        """A z for each group, ``[groups, latent_dim]``: the group alone, its slab along the
        direction in which the means of q(w|x) vary most, one root mean square out."""
        found = [self.posterior(self.features(x))[:2] for (x,) in data.batches(1000)]
        gate = torch.cat([odds.sigmoid() for odds, _ in found])
        slab = torch.cat([loc for _, loc in found]).unflatten(-1, (self.count, -1))
        share = (gate / gate.sum(0)).clamp_min(torch.finfo(gate.dtype).tiny)
        second = torch.einsum("ng,ngi,ngj->gij", share, slab, slab)
        size, axis = torch.linalg.eigh(second)
        vector = axis[..., -1] * size[:, -1:].clamp_min(0).sqrt()
        mean = torch.einsum("ng,ngi,gi->g", share, slab, vector)
        vector = torch.where(mean[:, None] < 0, -vector, vector)
        alone = torch.eye(self.count).to(vector)[..., None] * vector
        return alone.flatten(1)

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Panels:
        """What each group adds to a datum, either way, above the classes that it is open in."""
        z = self.directions(data)
        size = self.latent_dim // self.count
        wide = torch.full((len(z), self.count), 50.0)  # logits: sigmoid(50) is 1
        shut = torch.where(torch.eye(len(z)) > 0, wide, -wide).to(z)
        sites = {"gate": shut, "scale": torch.ones(len(z), self.count).to(z)}
        if self.df is None:
            del sites["scale"]
        pictures = torch.stack([decode(self, sites | {"slab": way * z}) for way in (1, -1)])
        opened = torch.cat([self.active(x) for (x,) in data.batches(1000)]).cpu()
        labels = torch.zeros(len(opened)).long() if data.labels is None else data.labels.cpu()
        kinds = labels.unique().tolist()
        rows = [names[k] if names else str(k) for k in kinds] if len(kinds) > 1 else ["all data"]
        means = torch.stack([opened[labels == k].mean(0) for k in kinds])
        title = f"groups of {size} units" if size > 1 else "units"
        return plots.parts(pictures, means, rows, title=title, schema=data.schema)
