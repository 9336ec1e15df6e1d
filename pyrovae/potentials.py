"""log p(x, z), what z may start from, and both gradients by z: handlers, or their graph."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyrovae.errors import in_short
from pyrovae.kernels import Run, folded, graph_of, kernels, looks, saving
from pyrovae.traces import Density

__all__ = ["Kept", "Point", "Potential"]

log = logging.getLogger("pyrovae")


@dataclass(frozen=True)
class Point:
    """Where chains stand, and what is known there.

    Attributes:
        u: ``[chains, batch, dims]``.
        target: log p(x, u), ``[chains, batch]``, nats.
        base: log density of what they started from, ``[chains, batch]``, nats.
        by_target: gradient of the first by u.
        by_base: gradient of the second.
    """

    u: Tensor
    target: Tensor
    base: Tensor
    by_target: Tensor
    by_base: Tensor

    def at(self, beta: Tensor) -> Tensor:
        """log of base^(1 - beta) target^beta, beta a number or ``[batch]``; below all numbers where
        that is not one."""
        found = _between(self.base, self.target, beta)
        return torch.where(found.isfinite(), found, -torch.inf)

    def gradient(self, beta: Tensor) -> Tensor:
        """Its gradient by u."""
        return _between(self.by_base, self.by_target, beta[..., None])

    def where(self, chosen: Tensor, other: Point) -> Point:
        """These points where ``chosen`` ``[chains, batch]`` says so, the others elsewhere."""
        events = chosen[..., None]
        return Point(
            torch.where(events, self.u, other.u),
            torch.where(chosen, self.target, other.target),
            torch.where(chosen, self.base, other.base),
            torch.where(events, self.by_target, other.by_target),
            torch.where(events, self.by_base, other.by_base),
        )

    @classmethod
    def joined(cls, parts: Sequence[Point]) -> Point:
        """Points of some chains each, as one of all of them."""
        names = cls.__dataclass_fields__
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _between(base: Tensor, target: Tensor, beta: Tensor) -> Tensor:
    """Of the target alone at 1: what it started from may be no number there."""
    return torch.where(beta == 1, target, torch.lerp(base, target, beta))


class Kept:
    """Kernels by the code that they were made of: one batch's serve for the next.

    Args:
        runs: of each graph in all; kernels are made where they save more than making them takes.
    """

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.made: dict[tuple[object, ...], Run] = {}


class Potential:
    """The log densities of a batch's latents and their gradients, as a function of u.

    What Pyro's handlers leave behind is one graph of tensor operations; what in it does not depend
    on u (the encoder, the prior's parameters) is worked out once. It is used where it gives what
    the handlers give, at two places; elsewhere the handlers are.

    Args:
        density: of the batch.
        base: what chains start from, one of :data:`pyrovae.traces.STARTS`, or "" for none.
        kept: kernels of other batches.

    Attributes:
        why_not: why there is no graph, "" where there is one.
    """

    def __init__(self, density: Density, base: str, kept: Kept | None = None) -> None:
        self.density, self.base = density, base
        self.why_not = ""
        self._graphs: dict[tuple[int, ...], Callable[[Tensor], list[Tensor]]] = {}
        self._kept = kept

    def __call__(self, u: Tensor) -> Point:
        if len(u) > 1 and not self.density.shape.broadcasts:  # one graph for each of them
            return Point.joined([self(one) for one in u.split(1)])
        shape = tuple(u.shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._graph(u)
        return Point(u, *self._graphs[shape](u))

    def by_handlers(self, u: Tensor) -> list[Tensor]:
        """The four numbers of a :class:`Point`, by running the programs."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            u = u.detach().requires_grad_()
            both = self.density.both(u, self.base)
            gradients = [self._gradient(value, u) for value in both]
        return [*(value.detach() for value in both), *gradients]

    def _gradient(self, value: Tensor, u: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(u)
        (found,) = torch.autograd.grad(value.sum(), u, retain_graph=True)
        return found

    def _graph(self, u: Tensor) -> Callable[[Tensor], list[Tensor]]:
        if self.why_not:
            return self.by_handlers
        places = [u, u + 0.1 * torch.randn_like(u)]
        truth = [self.by_handlers(place) for place in places]
        try:
            with _without_looking():
                # what is asked of the data alone is answered; what is asked of u is refused here
                traced = graph_of(lambda u: self.by_handlers(u), u, looking=True)
            if looks(traced):
                raise ValueError("the programs look at values that the latents decide")
            traced.graph.eliminate_dead_code()
            graph, tensors = folded(traced)
            run: Run = torch.no_grad()(graph)
            found = [run(place, *tensors) for place in (*places, places[0])]
            if not all(map(_close, found, (*truth, truth[0]))):
                raise ValueError("the graph does not give what the handlers give")
            run = self._compiled(graph, [u, *tensors], run)
        except Exception as error:  # the handlers are right, and slower
            self.why_not = in_short(error, 200) or type(error).__name__
            log.info("the densities are not compiled: %s", self.why_not)
            return self.by_handlers
        return lambda u: run(u, *tensors)

    def _compiled(self, graph: torch.fx.GraphModule, given: Sequence[Tensor], plain: Run) -> Run:
        """Kernels of a graph where they pay."""
        kept = self._kept
        if kept is None or not saving(graph, kept.runs):
            return plain
        key = (graph.code, *((t.shape, t.stride(), t.dtype, t.device) for t in given))
        if key not in kept.made:
            kept.made[key] = kernels(graph, given)
        return kept.made[key]


def _close(found: Sequence[Tensor], truth: Sequence[Tensor]) -> bool:
    return all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-3 * (1 + float(_size(b))), equal_nan=True)
        for a, b in zip(found, truth, strict=True)
    )


def _size(values: Tensor) -> Tensor:
    finite = values[values.isfinite()]
    return finite.abs().mean() if finite.numel() else torch.zeros(())


@contextlib.contextmanager
def _without_looking() -> Iterator[None]:
    """Distributions that were made under validation without it."""
    distribution = torch.distributions.Distribution
    validate = distribution._validate_sample
    try:
        setattr(distribution, "_validate_sample", lambda self, value: None)  # noqa: B010
        yield
    finally:
        setattr(distribution, "_validate_sample", validate)  # noqa: B010
