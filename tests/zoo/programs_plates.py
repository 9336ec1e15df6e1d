"""The plate over the data in the forms that Pyro has, and rows that are tied to their places."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.cases import Case
from zoo.closed_forms import decoder, draws, encoder, factor_analysis, loadings, normal, seeded

Program = Callable[..., None]
W, NOISE, N = loadings(5, [1.5, 1.0]), 0.5, 40


@seeded
def make_no_size() -> tuple[Program, Program, Tensor]:
    """pyro.plate("data"): the sites' shapes say how many data there are."""
    decode, encode = decoder(W), encoder(W, NOISE, 1.1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), NOISE).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", dim=-1):
            loc, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, draws(24, W, NOISE)


@seeded
def make_subsample_size() -> tuple[Program, Program, Tensor]:
    """pyro.plate("data", N, subsample_size=len(x)): a batch stands for N data."""
    decode, encode = decoder(W), encoder(W, NOISE, 1.1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", N, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), NOISE).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", N, subsample_size=len(x)):
            loc, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide, draws(N, W, NOISE)


def exact_linear(x: Tensor) -> Tensor:
    return factor_analysis(x, W, NOISE)


@seeded
def make_places() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """pyro.plate("data", N, subsample=places) with a parameter per datum that the plate takes
    its part of: latent-variable models without an encoder (GPLVM, matrix factorisation). The
    guide is wider than the prior, as it proposes for data that are missing, too."""
    x = torch.randn(N) * 2**0.5

    def model(x: Tensor, places: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(1.0))
        with pyro.plate("data", N, subsample=places):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)

    start = x / 2 + 0.1

    def guide(x: Tensor, places: Tensor) -> None:
        with pyro.plate("data", N, subsample=places):
            loc = pyro.param("loc", start, event_dim=0)
            pyro.sample("z", dist.Normal(loc, 1.2))

    return model, guide, (x, torch.arange(N))


def exact_places(data: tuple[Tensor, Tensor]) -> Tensor:
    return normal(data[0].double(), 0.0, 2**0.5)


@seeded
def make_graph() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """One graph: an adjacency matrix whose rows and columns are the nodes, and their features.
    There is one observation, the graph; rows that are shuffled apart from the columns are
    another graph."""
    nodes = 30
    adjacency = (torch.rand(nodes, nodes) < 0.15).float().triu(1)
    encode = torch.nn.Linear(6, 4)

    def model(adjacency: Tensor, features: Tensor) -> None:
        with pyro.plate("nodes", len(features)):
            z = pyro.sample("z", dist.Normal(features.new_zeros(2), 1.0).to_event(1))
        logits = 2 * z @ z.transpose(-1, -2) - 1
        pyro.sample("adjacency", dist.Bernoulli(logits=logits).to_event(2), obs=adjacency)

    def guide(adjacency: Tensor, features: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("nodes", len(features)):
            loc, log_scale = encode(adjacency @ features / 5).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, (log_scale - 2).exp()).to_event(1))

    return model, guide, (adjacency + adjacency.T, torch.randn(nodes, 6))


NO_PLATE = "no plate follows the size of the batch"
PER_DATUM = (
    "evaluate", "elbo", "log_evidence", "exact_log_evidence", "gap", "calibrate",
    "predictive_check", "sample", "reconstruct", "interpolate", "traverse", "impute", "explore",
    "pyro_svi",
)  # fmt: skip
CASES = [
    Case("plate without a size", make_no_size, like='`pyro.plate("data")`', exact=exact_linear),
    Case(
        "subsampling plate",
        make_subsample_size,
        like="`plate(N, subsample_size=len(x))`",
        exact=exact_linear,
        tiles=False,
    ),
    Case(
        "parameter per datum",
        make_places,
        like="`plate(N, subsample=places)`, subsampled `pyro.param`",
        exact=exact_places,
        tiles=False,
        lr=1e-3,
        falls=False,
    ),
    Case(
        "one graph",
        make_graph,
        like="a graph autoencoder: adjacency and features",
        observed={"adjacency": 0},
        plates=("nodes",),
        rows=False,
        meaningless=dict.fromkeys(PER_DATUM, NO_PLATE),
        refused=dict.fromkeys(("encode", "decode", "neighbours", "fit_codes"), NO_PLATE),
    ),
]
