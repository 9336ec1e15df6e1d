"""What a pair's log probabilities depend on: the leaves that training moves, each with a name."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.traces.pair import Args, Pair, _list
from pyrovae.traces.sites import log_prob, run, sites

__all__ = ["in_graph_order", "parameters", "unreached"]


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
    return [leaf for leaf in _leaves(total) if id(leaf) not in hidden]


def _leaves(total: Tensor) -> list[Tensor]:
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


def unreached(pair: Pair, reached: dict[str, Tensor]) -> list[str]:
    """Names of trainable parameters of the pair's modules that no log probability depends on."""
    known = {id(leaf) for leaf in reached.values()}
    return [
        name
        for name, tensor in pair.tensors().items()
        if tensor.requires_grad and tensor.is_leaf and id(tensor) not in known
    ]
