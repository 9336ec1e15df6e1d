"""Batches as Pyro's own programs take them: dicts, lists, keywords, integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.cases import Arguments, Case
from zoo.closed_forms import (
    decoder,
    draws,
    encoder,
    factor_analysis,
    line,
    linear,
    loadings,
    normal,
    seeded,
)

Program = Callable[..., None]
W, NOISE = loadings(5, [1.5, 1.0]), 0.5


def model(network: nn.Module, x: Tensor, offset: Tensor) -> None:
    """x = offset + W z + noise; the offset is known, datum by datum."""
    pyro.module("decoder", network)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        loc = network(z) + offset[..., None]
        pyro.sample("x", dist.Normal(loc, NOISE).to_event(1), obs=x)


def guide(network: nn.Module, x: Tensor, offset: Tensor) -> None:
    pyro.module("encoder", network)
    with pyro.plate("data", len(x)):
        loc, log_scale = network(x - offset[..., None]).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def _columns() -> tuple[nn.Linear, nn.Linear, Tensor, Tensor]:
    offset = torch.randn(20)
    x = draws(20, W, NOISE) + offset[:, None]
    return decoder(W), encoder(W, NOISE, 1.1), x, offset


def _exact(x: Tensor, offset: Tensor) -> Tensor:
    return factor_analysis(x.double() - offset.double()[:, None], W, NOISE)


@seeded
def make_dict() -> tuple[Program, Program, dict[str, Tensor]]:
    """One argument, a dict of tensors: what a DataLoader makes of a Dataset of dicts."""
    decode, encode, x, offset = _columns()
    return (
        lambda batch: model(decode, batch["x"], batch["offset"]),
        lambda batch: guide(encode, batch["x"], batch["offset"]),
        {"x": x, "offset": offset},
    )


def exact_dict(data: dict[str, Tensor]) -> Tensor:
    return _exact(data["x"], data["offset"])


@seeded
def make_list() -> tuple[Program, Program, list[Tensor]]:
    """One argument, a list of tensors, as PyG's and HuggingFace's collators make them."""
    decode, encode, x, offset = _columns()
    return (
        lambda batch: model(decode, batch[0], batch[1]),
        lambda batch: guide(encode, batch[0], batch[1]),
        [x, offset],
    )


def exact_list(data: list[Tensor]) -> Tensor:
    return _exact(*data)


@seeded
def make_keywords() -> tuple[Program, Program, dict[str, Tensor]]:
    """Keyword arguments alone: ``svi.step(x=x, offset=offset)``."""
    decode, encode, x, offset = _columns()

    def named(*, x: Tensor, offset: Tensor) -> None:
        model(decode, x, offset)

    def named_guide(*, x: Tensor, offset: Tensor) -> None:
        guide(encode, x, offset)

    return named, named_guide, {"x": x, "offset": offset}


exact_keywords = exact_dict
LOGITS = torch.tensor([[1.5, 0.5, 0.0, -0.5, -1.5, 1.0, -1.0]])


@seeded
def make_tokens() -> tuple[Program, Program, Tensor]:
    """Token ids: an embedding reads them, a categorical scores them; they stay integers."""
    embed = nn.Embedding(7, 2)
    with torch.no_grad():
        embed.weight.copy_(torch.cat([LOGITS / 2, torch.full((1, 7), -0.4)]).T)
    decode = linear(LOGITS.T)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            logits = decode(z)[..., None, :].expand(*z.shape[:-1], x.shape[-1], 7)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("embedding", embed)
        loc, log_scale = embed(x).mean(-2).split(1, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    z = torch.randn(20, 1, 1)
    return model, guide, dist.Categorical(logits=(z @ LOGITS).expand(20, 4, 7)).sample()


def exact_tokens(x: Tensor) -> Tensor:
    counts = torch.nn.functional.one_hot(x.long(), 7).double().sum(1)

    def log_density(z: Tensor) -> Tensor:
        return normal(z, 0.0, 1.0) + (z @ LOGITS.double()).log_softmax(-1) @ counts.T

    return line(log_density)


def one(batch: Any) -> Arguments:
    """The batch whole, as the only argument."""
    return (batch,), {}


CASES = [
    Case(
        "a dict",
        make_dict,
        like="`model(batch)` of a DataLoader of dicts",
        observed={"x": "x"},
        exact=exact_dict,
        hide="x",
        arguments=one,
    ),
    Case(
        "a list",
        make_list,
        like="`model(batch)` of a collated list",
        exact=exact_list,
        arguments=one,
    ),
    Case(
        "keywords",
        make_keywords,
        like="`svi.step(x=x, offset=offset)`",
        observed={"x": "x"},
        exact=exact_keywords,
        hide="x",
    ),
    Case(
        "token ids",
        make_tokens,
        like="embeddings; integers",
        exact=exact_tokens,
        hide=None,
        meaningless={"impute": "scalar types: Long"},
    ),
]
