"""What a pair's log probabilities depend on: the leaves that training moves, each with a name."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message, am_i_wrapped
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrovae.errors import UsageError
from pyrovae.traces.pair import Args, Pair, _list
from pyrovae.traces.sites import log_prob, run, sites

__all__ = [
    "Backwards",
    "Shown",
    "in_graph_order",
    "leaves_of",
    "naming",
    "naming_in_store",
    "parameters",
    "showing",
    "stored",
    "unreached",
    "wrapped",
]


def parameters(pair: Pair, args: Args) -> dict[str, Tensor]:
    """The leaves that the pair's log probabilities depend on, by name, in a fixed order.

    Found by walking the autograd graph of one run, so that a module that neither program
    registered is trained all the same. A ``pyro.param`` that the programs hide
    (``poutine.block``) keeps its value.

    Raises:
        UsageError: no parameter at all; one that no name leads to, which no file could hold.
    """
    leaves = _reached(pair, args)
    if not leaves:
        raise UsageError(
            "neither program depends on a parameter, so there is nothing to train: use an "
            "nn.Module with parameters that require gradients, or pyro.param"
        )
    names = _names(pair)
    nameless = [leaf for leaf in leaves if id(leaf) not in names]
    what = [f"a tensor of shape {list(leaf.shape)}" for leaf in nameless] or pair.nameless()
    if what:
        raise UsageError(
            f"the programs depend on {_list(what[:5])}, which no name leads to, so that no file "
            f"could hold what is learned. Make it an attribute of an nn.Module or of the object "
            f"that the programs belong to, a variable that they name, or a pyro.param"
        )
    reached = {id(leaf): leaf for leaf in leaves}
    return {name: reached[key] for key, name in names.items() if key in reached}


def in_graph_order(pair: Pair, args: Args) -> list[str]:
    """The names of the leaves as the autograd graph comes to them."""
    names = _names(pair)
    return [names[id(leaf)] for leaf in _reached(pair, args)]


def _names(pair: Pair) -> dict[int, str]:
    """The name of each tensor, by its id."""
    return {id(tensor): name for name, tensor in pair.tensors().items()}


def _reached(pair: Pair, args: Args) -> list[Tensor]:
    with pair.evaluating(), torch.enable_grad():  # evaluating, lest buffers move
        with poutine.trace(param_only=True) as shown:
            traced = run(pair, args)
        found = [site for trace in traced for site in sites(trace).values()]
        total = sum((log_prob(s).sum() for s in found), start=torch.zeros(()))
        hidden = {id(t) for name, t in pair.params.items() if name not in shown.trace.nodes}
    return [leaf for leaf in leaves_of(total) if id(leaf) not in hidden]


def leaves_of(total: Tensor) -> list[Tensor]:
    """The leaves that a tensor depends on, as its autograd graph comes to them."""
    leaves: list[Tensor] = []
    stack, seen = [total.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves


class Shown:
    """The parameters that a run of a loss showed.

    Attributes:
        named: those that ``pyro.param`` and ``pyro.module`` showed to the outside, as leaves.
    """

    def __init__(self) -> None:
        self.named: list[Tensor] = []

    def trained(self, leaves: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Of these leaves, which a loss depends on, those that are trained, in a fixed order, and
        parameters that it does not depend on.

        What the programs named and hid from the outside (``poutine.block``) keeps its value, as
        with Pyro's own SVI; what they never named is trained.
        """
        reached = {id(leaf): leaf for leaf in leaves}
        named = {id(leaf): leaf for leaf in self.named}
        hidden = {id(leaf) for _, leaf in stored()} - set(named)
        found = [leaf for key, leaf in named.items() if key in reached]
        found += [t for k, t in reached.items() if k not in named and k not in hidden]
        return found, [leaf for key, leaf in named.items() if key not in reached]


class Backwards(TorchFunctionMode):
    """What losses depend on that call ``backward`` themselves; a loss that depends on nothing
    passes.

    Attributes:
        leaves: their leaves, whose gradients are those of this run alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.leaves: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.backward:
            if not args[0].requires_grad:
                return None
            known = set(map(id, self.leaves))
            for leaf in leaves_of(args[0]):
                if id(leaf) not in known:
                    leaf.grad = None
                    self.leaves.append(leaf)
        return func(*args, **(kwargs or {}))


@contextmanager
def showing() -> Iterator[Shown]:
    """What a loss names as its parameters while it runs, as Pyro's SVI sees them."""
    found = Shown()
    with poutine.trace(param_only=True) as shown:
        yield found
    values = [site["value"] for site in shown.trace.nodes.values()]
    leaves = (getattr(value, "unconstrained", lambda value=value: value)() for value in values)
    found.named = list({id(leaf): leaf for leaf in leaves}.values())


@contextmanager
def naming_in_store(leaves: Mapping[Tensor, str]) -> Iterator[None]:
    """Names that Pyro's optimisers ask its store for, of leaves that are not in there."""
    names: dict[Tensor, str] = pyro.get_param_store()._param_to_name
    new = {leaf: name for leaf, name in leaves.items() if leaf not in names}
    names.update(new)
    try:
        yield
    finally:
        for leaf in new:
            names.pop(leaf, None)


def stored() -> Iterable[tuple[str, Tensor]]:
    """The leaves in Pyro's store, with their names."""
    return pyro.get_param_store().named_parameters()  # type: ignore[no-any-return]


def wrapped() -> bool:
    """Whether a handler of Pyro's is at work around what runs now."""
    return am_i_wrapped()


class _Known(Messenger):
    """Answers for parameters that no store shall hold."""

    def __init__(self, known: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.known = known

    def _pyro_param(self, msg: Message) -> None:
        if msg["name"] in self.known:
            leaf: Any = self.known[msg["name"]]
            leaf.unconstrained = weakref.ref(leaf)  # as Pyro's store leaves it
            msg["value"], msg["done"] = leaf, True


def naming(program: Callable[..., Any], leaves: Mapping[str, Tensor]) -> Callable[..., Any]:
    """A program that shows these leaves to Pyro: some losses call ``backward`` themselves, and do
    so only where a trace has a parameter."""

    def named(*args: Any, **kwargs: Any) -> Any:
        with _Known(leaves):
            for name in leaves:
                pyro.param(name)
        return program(*args, **kwargs)

    return named


def unreached(pair: Pair, reached: dict[str, Tensor]) -> list[str]:
    """Names of trainable parameters of the pair's modules that no log probability depends on."""
    known = {id(leaf) for leaf in reached.values()}
    return [
        name
        for name, tensor in pair.tensors().items()
        if tensor.requires_grad and tensor.is_leaf and id(tensor) not in known
    ]
