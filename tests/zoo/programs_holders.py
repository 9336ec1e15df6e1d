"""One linear-Gaussian pair, x = W z + noise, its networks held in every way that Python has.

The guide has the posterior's mean and scales a tenth too large, so that importance weights are
bounded and not constant. ``exact_linear`` is log p(x) of all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from zoo.closed_forms import decoder, draws, encoder, factor_analysis, loadings, seeded

Made = tuple[Callable[..., object], Callable[..., object], Tensor]
W, NOISE, WIDE = loadings(5, [1.5, 1.0]), 0.5, 1.1


def data() -> Tensor:
    return draws(24, W, NOISE)


def exact_linear(x: Tensor) -> Tensor:
    return factor_analysis(x, W, NOISE)


def model(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(network(z), NOISE).to_event(1), obs=x)


def guide(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        loc, log_scale = network(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def networks() -> tuple[nn.Linear, nn.Linear]:
    return decoder(W), encoder(W, NOISE, WIDE)


@seeded
def make_closure() -> Made:
    """Two functions that close over their networks: the tutorials' usual pair."""
    decode, encode = networks()
    return lambda x: model(decode, x), lambda x: guide(encode, x), data()


@seeded
def make_partial() -> Made:
    """Networks bound by functools.partial."""
    decode, encode = networks()
    return functools.partial(model, decode), functools.partial(guide, encode), data()


@seeded
def make_method_partial() -> Made:
    """A bound method of an object that is no module, bound once more by functools.partial."""

    class Programs:
        def __init__(self) -> None:
            self.decode, self.encode = networks()

        def model(self, noise: float, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decode(z), noise).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            guide(self.encode, x)

    programs = Programs()
    return functools.partial(programs.model, NOISE), programs.guide, data()


@seeded
def make_list() -> Made:
    """Networks in a plain list."""
    held = list(networks())
    return lambda x: model(held[0], x), lambda x: guide(held[1], x), data()


@seeded
def make_dict() -> Made:
    """Networks in a dict inside a dict."""
    decode, encode = networks()
    held = {"nets": {"decode": decode, "encode": encode}}
    return lambda x: model(held["nets"]["decode"], x), lambda x: guide(held["nets"]["encode"], x), \
        data()  # fmt: skip


@seeded
def make_default() -> Made:
    """Networks as default arguments."""
    decode, encode = networks()

    def by_default(x: Tensor, network: nn.Module = decode) -> None:
        model(network, x)

    def guide_by_default(x: Tensor, *, network: nn.Module = encode) -> None:
        guide(network, x)

    return by_default, guide_by_default, data()


@dataclass(slots=True)
class Slotted:
    """A program that is an object with ``__call__`` and no ``__dict__``."""

    network: nn.Module
    program: Callable[[nn.Module, Tensor], None]

    def __call__(self, x: Tensor) -> None:
        self.program(self.network, x)


@seeded
def make_slotted() -> Made:
    """Networks in the slots of a dataclass with ``__call__``."""
    decode, encode = networks()
    return Slotted(decode, model), Slotted(encode, guide), data()


@seeded
def make_bare_parameter() -> Made:
    """No module at all: nn.Parameter, as in a regression by hand."""
    w, encode = nn.Parameter(W.clone()), encoder(W, NOISE, WIDE)
    loc = nn.Parameter(encode.weight[:2].detach().clone())
    log_scale = nn.Parameter(encode.bias[2:].detach().clone())

    def inferred(x: Tensor) -> Tensor:
        return torch.cat([x @ loc.T, log_scale.expand(*x.shape[:-1], 2)], -1)

    return lambda x: model(lambda z: z @ w.T, x), lambda x: guide(inferred, x), data()


@seeded
def make_leaf_tensor() -> Made:
    """A tensor with requires_grad=True beside a network."""
    w, encode = W.clone().requires_grad_(), encoder(W, NOISE, WIDE)
    return lambda x: model(lambda z: z @ w.T, x), lambda x: guide(encode, x), data()


@seeded
def make_handlers() -> Made:
    """Both programs behind handlers, as annealing and tempering write them: bound partials."""
    decode, encode = networks()
    plain = functools.partial(model, decode)
    return poutine.scale(scale=1.0)(plain), \
        poutine.scale(poutine.mask(functools.partial(guide, encode), mask=True), scale=1.0), \
        data()  # fmt: skip


@seeded
def make_pyro_module() -> Made:
    """PyroModule with a positive PyroParam and layers below it; no PyroSample."""

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.decode = PyroModule[nn.Linear](2, 5)
            self.decode.load_state_dict(decoder(W).state_dict())
            self.noise = PyroParam(torch.tensor(NOISE), constraint=dist.constraints.positive)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decode(z), self.noise).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.encode = encoder(W, NOISE, WIDE)

        def forward(self, x: Tensor) -> None:
            guide(self.encode, x)

    return Model(), Guide(), data()


@seeded
def make_registered() -> Made:
    """pyro.module and pyro.param in the programs, as Pyro's tutorials register them."""
    decode, encode = networks()

    def registered(x: Tensor) -> None:
        pyro.module("decoder", decode)
        noise = pyro.param("noise", torch.tensor(NOISE), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), noise).to_event(1), obs=x)

    def registered_guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        guide(encode, x)

    return registered, registered_guide, data()


@seeded
def make_lazy() -> Made:
    """A layer that gets its shape when it first runs (nn.LazyLinear), beside one that has it."""
    (decode, encode), lazy = networks(), nn.LazyLinear(4)

    def inferred(x: Tensor) -> Tensor:
        return encode(x) + 0.1 * lazy(x)

    return functools.partial(model, decode), functools.partial(guide, inferred), data()
