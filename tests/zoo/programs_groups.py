"""Latents that rows share: groups, repeated measurements, regression, weights of all data.

Where a latent is shared, ``exact_*`` is log p of all rows together, one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    init_to_mean,
    init_to_value,
)
from pyro.poutine import block
from torch import Tensor

from zoo.cases import Case
from zoo.closed_forms import encoder, gaussian, loadings, seeded

Program = Callable[..., None]
N, GROUPS = 24, 4


@seeded
def make_hierarchical() -> tuple[Program, Program, tuple[Tensor, ...]]:
    """Slopes in a plate of groups under a common mean; N rows in all, the batch's places an
    argument. The guide is the exact posterior, p(mean | y) prod p(slope | mean, y)."""
    covariate, group, index = torch.randn(N), torch.arange(N) % GROUPS, torch.arange(N)
    slopes = 0.7 + 0.5 * torch.randn(GROUPS)
    y = slopes[group] * covariate + 0.6 * torch.randn(N)

    squares, products = torch.zeros(2, GROUPS)
    squares = squares.index_add(0, group, covariate**2) / 0.36
    products = products.index_add(0, group, covariate * y) / 0.36
    own = 4 + squares  # precision of a slope given the mean: 1 / 0.5² and the data's
    precision = 1 + (4 - 16 / own).sum()
    loc = (4 * products / own).sum() / precision

    def model(covariate: Tensor, y: Tensor, group: Tensor, index: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", GROUPS):
            slope = pyro.sample("slope", dist.Normal(mean, 0.5))
        with pyro.plate("data", N, subsample=index):
            noise = pyro.param("noise", torch.tensor(0.6), constraint=dist.constraints.positive)
            pyro.sample("y", dist.Normal(slope[..., group] * covariate, noise), obs=y)

    def guide(covariate: Tensor, y: Tensor, group: Tensor, index: Tensor) -> None:
        centre = pyro.param("centre", loc)
        mean = pyro.sample("mean", dist.Normal(centre, precision**-0.5))
        pull = pyro.param("pull", products / own)
        with pyro.plate("groups", GROUPS):
            pyro.sample("slope", dist.Normal(pull + 4 * mean / own, own**-0.5))

    return model, guide, (covariate, y, group, index)


def exact_hierarchical(data: tuple[Tensor, ...]) -> Tensor:
    covariate, y, group, _ = data
    same = (group == group[:, None]).double()
    outer = covariate.double() * covariate.double()[:, None]
    return gaussian(y, outer * (1.0 + 0.25 * same) + 0.36 * torch.eye(N).double())


@seeded
def make_mixed_effects() -> tuple[Program, Program, Tensor]:
    """Random intercepts: subjects by trials, both plates of fixed sizes; a row is a subject. It
    runs on all rows only."""
    subjects, trials = 12, 4

    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.tensor(0.5))
        spread = pyro.param("spread", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("subjects", subjects, dim=-2):
            intercept = pyro.sample("intercept", dist.Normal(mean * torch.ones(1), spread))
            with pyro.plate("trials", trials, dim=-1):
                pyro.sample("x", dist.Normal(intercept, 0.6), obs=x)

    def guide(x: Tensor) -> None:
        precision = 1 / 0.64 + trials / 0.36
        slope = pyro.param("slope", torch.tensor(trials / 0.36 / precision))
        with pyro.plate("subjects", subjects, dim=-2):
            centre = 0.5 + slope * (x.mean(-1, keepdim=True) - 0.5)
            pyro.sample("intercept", dist.Normal(centre, precision**-0.5))

    x = 0.5 + 0.8 * torch.randn(subjects, 1) + 0.6 * torch.randn(subjects, trials)
    return model, guide, x


def exact_mixed_effects(x: Tensor) -> Tensor:
    return gaussian(x, 0.64 + 0.36 * torch.eye(x.shape[1]).double(), 0.5)


W = loadings(5, [1.5, 1.0])


@seeded
def make_matrix_global() -> tuple[Program, Program, Tensor]:
    """Bayesian factor analysis: a matrix of weights that all data share beside a code per datum."""
    encode = encoder(W, 1.0)

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(2, 5), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        loc = pyro.param("w_loc", W.T.clone())
        pyro.sample("w", dist.Normal(loc, 0.01).to_event(2))
        with pyro.plate("data", len(x)):
            centre, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(centre, log_scale.exp()).to_event(1))

    return model, guide, torch.randn(20, 2) @ W.T + torch.randn(20, 5)


@seeded
def make_global_mean() -> tuple[Program, Program, Tensor]:
    """One mean of all data, which come in batches: the plate says of how many they are part."""

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 60, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    x = torch.randn(60) + 3

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(2.9))
        scale = pyro.param("scale", torch.tensor(0.15), constraint=dist.constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    return model, guide, x


def exact_global_mean(x: Tensor) -> Tensor:
    return gaussian(x, 1.0 + torch.eye(len(x)).double())


BETA = torch.tensor([0.8, -0.5])


def regress(x: Tensor, y: Tensor) -> None:
    """Bayesian linear regression: weights and an intercept of standard normal prior."""
    beta = pyro.sample("beta", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1) + alpha, 0.5), obs=y)


def regression_data() -> tuple[Tensor, Tensor]:
    x = torch.randn(20, 2)
    return x, x @ BETA + 0.4 + 0.5 * torch.randn(20)


def posterior(data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (beta, alpha) given all rows, float64."""
    x, y = (t.double() for t in data)
    design = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    covariance = (design.T @ design / 0.25 + torch.eye(3).double()).inverse()
    return covariance @ design.T @ y / 0.25, covariance


def at_the_mean(data: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
    mean = posterior(data)[0].float()
    return init_to_value(values={"beta": mean[:2], "alpha": mean[2]})


def exact_regression(data: tuple[Tensor, Tensor]) -> Tensor:
    """log p(y | x) of all rows."""
    x, y = (t.double() for t in data)
    return gaussian(y, x @ x.T + 1.0 + 0.25 * torch.eye(len(x)).double())


def exact_delta(data: tuple[Tensor, Tensor]) -> Tensor:
    """log p(y, beta, alpha | x) at the posterior's mode: what a guide of points is worth."""
    _, covariance = posterior(data)
    return exact_regression(data) - 0.5 * torch.logdet(2 * math.pi * covariance)


Regression = tuple[Program, Program, tuple[Tensor, Tensor]]


@seeded
def make_auto_delta() -> Regression:
    """MAP estimation by AutoDelta."""
    data = regression_data()
    return regress, AutoDelta(regress, init_loc_fn=at_the_mean(data)), data


@seeded
def make_auto_low_rank() -> Regression:
    """AutoLowRankMultivariateNormal: one auxiliary draw, unpacked by Deltas. It is run once, as
    many do to see its parameters; they start at random."""
    data = regression_data()
    guide = AutoLowRankMultivariateNormal(
        regress, init_loc_fn=at_the_mean(data), init_scale=0.3, rank=1
    )
    guide(*data)
    return regress, guide, data


@seeded
def make_auto_list() -> Regression:
    """AutoGuideList: a guide per site, of two kinds."""
    data = regression_data()
    guide = AutoGuideList(regress)
    start = at_the_mean(data)
    guide.append(
        AutoDiagonalNormal(block(regress, expose=["beta"]), init_loc_fn=start, init_scale=0.3)
    )
    guide.append(AutoNormal(block(regress, expose=["alpha"]), init_loc_fn=start, init_scale=0.3))
    guide(*data)
    return regress, guide, data


def _walk(x: Tensor, index: Tensor) -> None:
    """A latent per datum of N in all; the batch's places are an argument."""
    with pyro.plate("data", N, subsample=index):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * torch.tensor([1.0, 0.5]), 0.7).to_event(1),
                    obs=x)  # fmt: skip


@seeded
def make_auto_normal_places() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """AutoNormal over a latent per datum, its plate made by create_plates from the places: a
    parameter per datum, of which a batch trains its own."""
    x = torch.randn(N, 1) * torch.tensor([1.0, 0.5]) + 0.7 * torch.randn(N, 2)

    def places(x: Tensor, index: Tensor) -> pyro.plate:
        return pyro.plate("data", N, subsample=index)

    guide = AutoNormal(_walk, init_loc_fn=init_to_mean, init_scale=0.9, create_plates=places)
    return _walk, guide, (x, torch.arange(N))


def exact_auto_normal_places(data: tuple[Tensor, Tensor]) -> Tensor:
    w = torch.tensor([1.0, 0.5]).double()
    return gaussian(data[0], w * w[:, None] + 0.49 * torch.eye(2).double())


@seeded
def make_auto_normal_tied() -> tuple[Program, Program, Tensor]:
    """The same without the places: parameters are tied to rows by their order, and only all rows
    as one batch mean what they say. They start near the posterior, but wider: a guide that does
    not read x proposes for rows of which a half is missing, too."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = z[..., None] * torch.tensor([1.0, 0.5])
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1), obs=x)

    x = torch.randn(N, 1) * torch.tensor([1.0, 0.5]) + 0.7 * torch.randn(N, 2)
    centre = x @ torch.tensor([1.0, 0.5]) / (0.49 + 1.25)
    guide = AutoNormal(
        model,
        init_loc_fn=init_to_value(values={"z": 0.8 * centre}),
        init_scale=0.9,
        create_plates=lambda x: pyro.plate("data", len(x)),
    )
    return model, guide, x


def exact_auto_normal_tied(x: Tensor) -> Tensor:
    return exact_auto_normal_places((x, torch.arange(len(x))))


REGRESSION = {
    "latents": (),
    "observed": {"y": 1},
    "globals": ("beta", "alpha"),
    "hide": None,
    "lr": 0.02,
}

CASES = [
    Case(
        "hierarchical regression",
        make_hierarchical,
        like="slopes in a plate of groups, N data by their places",
        latents=(),
        globals=("mean", "slope"),
        observed={"y": 1},
        lr=1e-3,
        falls=False,
        hide=None,
    ),
    Case(
        "mixed effects",
        make_mixed_effects,
        like="`mixed_hmm`: random intercepts, plates of fixed sizes",
        latents=("intercept",),
        plates=("subjects",),
        rows=False,
        exact=exact_mixed_effects,
        exact_guide=True,
        lr=1e-3,
        falls=False,
        refused={"exact_log_evidence": "plate over the data"},
    ),
    Case(
        "matrix of weights",
        make_matrix_global,
        like="Bayesian factor analysis: W of all data, z per datum",
        globals=("w",),
    ),
    Case(
        "mean of all data",
        make_global_mean,
        like="`plate(N, subsample_size)` around a conjugate mean",
        latents=(),
        globals=("mean",),
        hide=None,
    ),
    Case("AutoDelta", make_auto_delta, like="MAP regression", falls=False, **REGRESSION),
    Case(
        "AutoLowRankMultivariateNormal",
        make_auto_low_rank,
        like="Bayesian regression",
        **REGRESSION,
    ),
    Case("AutoGuideList", make_auto_list, like="Bayesian regression", **REGRESSION),
    Case(
        "AutoNormal, places",
        make_auto_normal_places,
        like="`create_plates` over subsampled local latents",
        exact=exact_auto_normal_places,
        tiles=False,
    ),
    Case(
        "AutoNormal, tied to rows",
        make_auto_normal_tied,
        like="`create_plates` over all rows",
        exact=exact_auto_normal_tied,
        rows=False,
        refused={"explore": "any number of them"},
    ),
]
