"""Regressions whose weights are latents of all data, under autoguides; a GPLVM."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroSample
from torch import nn

from zoo.cases import Case


class Regression(PyroModule):
    """y = w x + b + noise, all three of them latents of all data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 3.0).expand([1]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression(kind: type):
    """The autoguide starts near the least squares."""

    def make():
        x = torch.randn(30, 3)
        weight = torch.tensor([[1.0, -0.5, 0.3]])
        y = (x @ weight.T)[:, 0] + 0.4 + 0.5 * torch.randn(30)
        values = {
            "linear.weight": 0.8 * weight,
            "linear.bias": torch.tensor([0.2]),
            "sigma": torch.tensor(0.6),
        }
        model = Regression()
        start = autoguide.initialization.init_to_value(values=values)
        guide = kind(model, init_loc_fn=start, init_scale=0.1)
        guide(x, y)  # learns the model's sites
        return model, guide, (x, y)

    return make


def gplvm():
    """A latent per datum with parameters of its own, features of a Gaussian process: the rows are
    tied to their places."""
    n = 15
    frequencies, phases = torch.randn(2, 6), 6.28 * torch.rand(6)
    weights, start = nn.Linear(6, 4), torch.randn(n, 2) / 3

    def model(x):
        pyro.module("weights", weights)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("X", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = weights((z @ frequencies + phases).cos())
            pyro.sample("y", dist.Normal(loc, 0.8).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("X_loc", start)
        scale = pyro.param("X_scale", torch.ones(n, 2), constraint=dist.constraints.positive)
        with pyro.plate("data", n):
            pyro.sample("X", dist.Normal(loc, scale).to_event(1))

    return model, guide, torch.randn(n, 1) + 0.5 * torch.randn(n, 4)


CASES = [
    *(
        Case(
            f"regression, {kind.__name__}",
            regression(kind),
            like="Bayesian regression tutorial: `PyroSample`, an autoguide",
            latents=(),
            globals=("linear.weight", "linear.bias", "sigma"),
            observed={"obs": 1},
            hide=1,
            lr=3e-2,
        )
        for kind in (
            autoguide.AutoNormal,
            autoguide.AutoDiagonalNormal,
            autoguide.AutoMultivariateNormal,
        )
    ),
    Case(
        "GPLVM",
        gplvm,
        like="GPLVM tutorial: `pyro.param` for each datum",
        latents=("X",),
        observed={"y": 0},
        lr=3e-2,
        rows=False,
        refused={"calibrate": "amortis|places|runs on|batch"},
    ),
]
