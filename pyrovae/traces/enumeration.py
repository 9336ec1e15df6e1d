"""Discrete sites summed out of a trace plate by plate: inner plates, chains, long tables."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.traces.sites import PARTICLES, log_prob, sites, within
from pyrovae.traces.structure import Structure


@dataclass(frozen=True)
class Contraction:
    """A model's local sites with its discrete ones summed out.

    Attributes:
        log_marginal: ``[particles, batch]``, log sum over the discrete sites of p(x, z, discrete).
        expected: per local site, ``[particles, batch]``: the expectation of its log density under
            p(discrete | x, z).
    """

    log_marginal: Tensor
    expected: dict[str, Tensor]


def contracted(trace: Trace, shape: Structure, particles: int, batch: int) -> Contraction:
    """Sum a model's enumerated sites out, by message passing over its plates and chains.

    The expectation of a factor f is the derivative of log sum p exp(t f) at t = 0.
    Obermeyer et al., "Tensor Variable Elimination for Plated Factor Graphs", 2019.
    """
    local = {n: s for n, s in sites(trace).items() if within(s, shape.plate)}
    trace.symbolize_dims()
    symbols = trace.plate_to_symbol
    again = torch.is_grad_enabled()  # whether somebody differentiates what comes of it
    with torch.enable_grad():
        tilts = {name: torch.zeros(particles, batch) for name in local}
        tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        for name, site in local.items():
            # what is summed out sums to one whether or not the data say something of it
            term = log_prob({**site, "mask": None} if name in shape.enumerated else site)
            tilts[name] = tilts[name].to(term).requires_grad_()
            tilted = term * (1 + _spread(tilts[name], shape))
            held = packed.pack(tilted, site["infer"]["_dim_to_symbol"])
            tree.setdefault(_ordinal(site, symbols, shape), []).append(held)
        summed = {local[n]["infer"]["_enumerate_symbol"] for n in shape.enumerated if n in local}
        dims = {f.dim: symbols[f.name] for s in local.values() for f in _frames(s)}
        back = {symbol: dim for dim, symbol in dims.items()}
        terms = contract_tensor_tree(tree, summed)
        total = torch.zeros(particles, batch).to(next(iter(tilts.values())))
        for parts in terms.values():
            for part in parts:
                total = total + _flat(packed.unpack(part, back), shape)
        found = torch.autograd.grad(
            total.sum(), list(tilts.values()), create_graph=again, retain_graph=True
        )
    expected = dict(zip(tilts, found, strict=True))
    if not again:
        total = total.detach()
    return Contraction(total, expected)


def _frames(site: Message) -> list[CondIndepStackFrame]:
    return [f for f in site["cond_indep_stack"] if f.vectorized]


def _ordinal(site: Message, symbols: dict[str, str], shape: Structure) -> frozenset[str]:
    """The plates that a factor is repeated in, beside those of data and particles."""
    inner = [f for f in _frames(site) if f.name not in (shape.plate, PARTICLES)]
    return frozenset(symbols[f.name] for f in inner)


def _spread(tilt: Tensor, shape: Structure) -> Tensor:
    """``[particles, batch]`` -> ``[particles, *plates]``."""
    sizes = [1] * shape.nesting
    sizes[shape.dim] = tilt.shape[1]
    return tilt.reshape(tilt.shape[0], *sizes)


def _flat(term: Tensor, shape: Structure) -> Tensor:
    """``[particles, *plates]`` -> ``[particles, batch]``, products taken over the other plates."""
    term = term[(None,) * max(0, shape.nesting + 1 - term.dim())]
    for dim in range(-shape.nesting, 0):
        if dim != shape.dim:
            term = term.sum(dim, keepdim=True)
    return term.reshape(term.shape[0], term.shape[shape.dim])
