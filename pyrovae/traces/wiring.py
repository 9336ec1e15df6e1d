"""Which entries of the data each observed site observes: seen by running on numbered entries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyro
import torch
from pyro.poutine.runtime import Message
from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.traces.pair import Args, Pair
from pyrovae.traces.sites import FAILURES, Sites, argument, run, sites, within
from pyrovae.traces.structure import Structure, is_data, rows


@dataclass(frozen=True)
class Wire:
    """What one site observes.

    Attributes:
        site: its name.
        argument: which argument of the programs.
        entries: of one datum, flattened, ``[...]`` as the site's value has them; None where the
            site observes all of it, as it is or reshaped.
        axis: the data's dimension in the site's value, from the right.
    """

    site: str
    argument: int
    entries: Tensor | None
    axis: int

    def of(self, values: Tensor) -> Tensor:
        """An argument's values as the site observes them."""
        if self.entries is None:
            return values
        flat = values.reshape(len(values), -1)[:, self.entries.flatten().to(values.device)]
        return flat.reshape(len(values), *self.entries.shape).movedim(0, self.axis)


@dataclass(frozen=True)
class Wiring:
    """What a model's observed sites observe.

    Attributes:
        wires: those that observe entries of an argument as they are.
        lost: the names of the others.
    """

    wires: tuple[Wire, ...]
    lost: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The sites that observe entries of the data."""
        return [wire.site for wire in self.wires]

    @classmethod
    def seen(cls, pair: Pair, args: Args, shape: Structure) -> Wiring:
        """Run the model on the data, then on numbers in the place of their entries."""
        with pair.scope(), pyro.validation_enabled(False), torch.no_grad():
            model = {n: s for n, s in sites(run(pair, args)[0]).items() if is_data(s)}
            wires = {w.site: w for w in _whole(model, args, shape)}
            for k in range(len(args)):
                if left := _left(model, wires):
                    wires |= {w.site: w for w in _numbered(pair, args, k, left, shape)}
        return cls(tuple(wires.values()), tuple(_left(model, wires)))

    def filled(self, args: Args, values: Mapping[str, Tensor]) -> Args:
        """The batch with sites' values in the place of what they observe.

        Raises:
            UsageError: a site that observes something else than entries of an argument.
        """
        if self.lost:
            raise UsageError(
                f"the observed site(s) {', '.join(self.lost)} do not observe entries of one of the "
                f"model's arguments as they are, so simulated data cannot be handed to the guide"
            )
        whole = [a.clone() if isinstance(a, Tensor) else a for a in args]
        for wire in self.wires:
            if wire.site in values:
                put(whole[wire.argument], wire, values[wire.site])
        return tuple(whole)


def put(into: Tensor, wire: Wire, value: Tensor) -> None:
    """Write a site's values ``[batch, ...]`` where they are observed, in place."""
    if wire.entries is None:
        into.copy_(value.reshape(into.shape))
        return
    by_datum = value.movedim(wire.axis, 0).reshape(len(into), -1)
    flat = into.reshape(len(into), -1).clone()
    flat[:, wire.entries.flatten().to(flat.device)] = by_datum.to(flat.dtype)
    into.copy_(flat.reshape(into.shape))


def _axis(site: Message, shape: Structure) -> int:
    return shape.dim - int(site["fn"].event_dim)


def _left(model: Sites, wires: Mapping[str, Wire]) -> list[str]:
    return [name for name in model if name not in wires]


def _whole(model: Sites, args: Args, shape: Structure) -> Iterator[Wire]:
    """The wires of the sites that observe all of an argument."""
    for name, site in model.items():
        where = argument(site, args)
        if where is not None:
            yield Wire(name, where, None, _axis(site, shape))


def _numbered(pair: Pair, args: Args, k: int, names: list[str], shape: Structure) -> Iterator[Wire]:
    """The wires of the sites that observe some entries of an argument."""
    given = args[k]
    if not _holds_numbers(given, rows(args)):
        return
    numbers = torch.arange(math.prod(given.shape[1:]), device=given.device)
    seen: list[Sites] = []
    # twice, each number moved on by one within its range, lest a constant pass for one of them
    for order in (numbers, (numbers + 1) % max(2, len(numbers))):
        row = order.to(given.dtype).reshape(given.shape[1:])
        try:
            batch = (*args[:k], row.expand_as(given).clone(), *args[k + 1 :])
            seen.append(sites(run(pair, batch)[0]))
        except FAILURES:
            return
    for name in names:
        if all(name in each and within(each[name], shape.plate) for each in seen):
            first, second = (_one(each[name], shape) for each in seen)
            if _are_numbers(first, second, len(numbers)):
                entries = first.round().long().cpu()
                yield Wire(name, k, entries, _axis(seen[0][name], shape))


def _holds_numbers(given: object, count: int) -> bool:
    return isinstance(given, Tensor) and given.dtype != torch.bool and len(given) == count


def _are_numbers(first: Tensor, second: Tensor, count: int) -> bool:
    """Whether values are some of ``count`` numbers, and then the ones after them."""
    whole = first.round().long()
    return (
        first.shape == second.shape
        and torch.equal(whole.to(first), first)
        and torch.equal((first + 1) % max(2, count), second)
        and bool(((whole >= 0) & (whole < count)).all())
    )


def _one(site: Message, shape: Structure) -> Tensor:
    """What a site observes of the first datum, if it observes the same of all; else nothing."""
    value = site["infer"].get("_observed", site["value"])
    axis = _axis(site, shape)
    if value.dim() < -axis:
        return value.new_full((1,), -1.0).double()
    moved = value.movedim(axis, 0)
    if not bool((moved == moved[:1]).all()):
        return value.new_full((1,), -1.0).double()
    first: Tensor = moved[0].double()
    return first
