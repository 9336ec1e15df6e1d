"""Runs that are made to look: whether particles can be drawn at once, and what one takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae.errors import UsageError
from pyrovae.supports import entries
from pyrovae.traces.pair import Args, Pair, Program, _list
from pyrovae.traces.sites import FAILURES, Sites, draws, replay, run, sites, within
from pyrovae.traces.structure import (
    Plate,
    Structure,
    check,
    data_plate,
    head,
    plates,
    points,
    rows,
    signature,
    structure,
)
from pyrovae.traces.terms import measure, narrowed, term


def observe(pair: Pair, args: Args, plate: str | None = None) -> Structure:
    """Learn a pair's structure from a batch, in evaluation mode and without side effects.

    Raises:
        UsageError: whatever :func:`check` raises; no plate or several over the data; a discrete
            site that cannot be summed out exactly.
    """
    fresh = set(pair.params)
    with pair.evaluating():
        model, guide = map(sites, check(pair, args))
        over = _sized(pair, args, data_plate(pair, args, model, guide, plate))
        found = structure(model, guide, over, plates(model, guide))
        found = dataclasses.replace(found, tied=_tied(pair, args, found))
        found = _in_particles(pair, args, found)
        deltas = points(draws(guide), draws(guide), found.latents, found.plate)
        if deltas:
            second = sites(run(pair, args)[1])
            found = dataclasses.replace(
                found, points=points(draws(guide), draws(second), deltas, found.plate)
            )
    if pair.memory.pending and set(pair.params) - fresh and pair.memory.initial:
        _refuse_pending(pair)
    return found


def _sized(pair: Pair, args: Args, over: Plate) -> Plate:
    """The plate over the data, and for how many data in all it stands: one that is as large for a
    smaller batch has a size of its own."""
    if over.full_size != over.size or over.size < 2:
        return over
    try:
        with pyro.validation_enabled(False):
            fewer = {p.name: p for p in plates(*map(sites, run(pair, head(args, over.size - 1))))}
    except FAILURES:
        return over  # they run on all their data alone
    fixed = over.name in fewer and fewer[over.name].full_size == over.full_size
    return dataclasses.replace(over, fixed=fixed)


def _tied(pair: Pair, args: Args, found: Structure) -> bool:
    """Whether a datum's terms are others when some of the data are taken away and the rest turned
    round: one graph, a parameter per datum, a plate that takes all of them."""
    count = rows(args)
    if count < 2 or not all(isinstance(a, Tensor) for a in args):
        return False
    order = torch.arange(count - 1, -1, -2, device=args[0].device)
    model, guide = (dict(sites(t)) for t in run(pair, args))
    values = {**model, **guide}
    try:
        again = _terms(pair, _turned(args, order), values, found, order)
        first = [t[..., order] if t.dim() == 2 else t for t in _measured(model, guide, found)]
        if _close(first, again, 1e-3):
            return False
    except FAILURES:
        return True
    # programs that draw outside of their sites differ from themselves
    same = _terms(pair, args, values, found, None)
    first = _measured(model, guide, found)
    return _close(first, same, 1e-4)


def _close(first: Sequence[Tensor], second: Sequence[Tensor], by: float) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(a, b, rtol=by, atol=by, equal_nan=True) for a, b in pairs)


def _turned(args: Args, order: Tensor) -> Args:
    size = rows(args)
    return tuple(a[order] if isinstance(a, Tensor) and a.dim() and len(a) == size else a
                 for a in args)  # fmt: skip


def _terms(
    pair: Pair, args: Args, values: Sites, found: Structure, order: Tensor | None
) -> list[Tensor]:
    """The terms of both programs on a batch, given the draws of some of its data."""

    def given(program: Program) -> Sites:
        drawn = {n: s for n, s in values.items() if not s["is_observed"]}
        chosen = {n: _rows_of(s, found, order) for n, s in drawn.items()}
        trace = Trace()
        for name, site in drawn.items():
            trace.add_node(name, **{**site, "name": name, "value": chosen[name]})
        return sites(replay(program, trace, args))

    return _measured(given(pair.model), given(pair.guide), found)


def _rows_of(site: Message, found: Structure, order: Tensor | None) -> Tensor:
    """A draw's values for some of the data."""
    value: Tensor = site["value"]
    axis = found.dim - int(site["fn"].event_dim)
    if order is None or not within(site, found.plate) or value.dim() < -axis:
        return value
    return value if value.shape[axis] == 1 else value.index_select(axis, order)


def _measured(model: Sites, guide: Sites, found: Structure) -> list[Tensor]:
    """The terms of a run; a Delta's says whether two computations have the same last digit."""
    every = [s for each in (model, draws(guide)) for s in each.values()]
    return [term(s, found) for s in every if not isinstance(entries(s["fn"]), dist.Delta)]


def _refuse_pending(pair: Pair) -> None:
    raise UsageError(
        f"the saved values of {_list(sorted(pair.memory.pending)[:5])} found no parameter, while "
        f"the programs made {_list(sorted(pair.memory.initial)[:5])} anew; build the pair as it "
        f"was when it was saved"
    )


def _in_particles(pair: Pair, args: Args, found: Structure) -> Structure:
    """Whether two particles drawn at once give what each gives alone, and what a row costs."""
    size = rows(args)
    try:
        with _Allocations() as allocations:
            traced = run(pair, args, 2, found.nesting, found.enumerated)
            together = measure(*traced, found, 2)
        if signature(*map(sites, traced)) != found.signature:
            raise ValueError("its sites differ from run to run")
        for k in () if found.enumerated else range(2):  # enumerating is broadcasting already
            one = narrowed(traced[1], k, k + 1, found)
            alone = measure(replay(pair.model, one, args), replay(pair.guide, one, args), found)
            pairs = [(together.elbo[k], alone.elbo[0]), (together.log_joint[k], alone.log_joint[0])]
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs):
                raise ValueError("particles influence each other")
        if size > 2 and not found.tied:  # lest the batch's size pass for another, as channels
            run(pair, head(args, size - 1), 2, found.nesting, found.enumerated)
        # what a particle more takes: a prior made of a guide's answers has costs of its own
        with _Allocations() as more:
            measure(*run(pair, args, 4, found.nesting, found.enumerated), found, 4)
        return dataclasses.replace(
            found, row_bytes=max(1, (more.total - allocations.total) // (2 * size))
        )
    except FAILURES as error:
        return _one_by_one(pair, args, found, error)


def _one_by_one(pair: Pair, args: Args, found: Structure, error: Exception) -> Structure:
    """The structure of a pair that is run once per particle."""
    found = dataclasses.replace(found, broadcasts=False)
    guide = sites(run(pair, args)[1]) if found.enumerated else {}
    try:
        with _Allocations() as allocations:
            measure(*run(pair, args, 1, found.nesting, found.enumerated), found)
    except FAILURES as also:
        if not found.enumerated:
            raise UsageError(f"the pair's terms cannot be told apart by datum: {also}") from also
        if not set(found.enumerated) <= set(guide):
            raise UsageError(
                f"the enumerated sites {_list(found.enumerated)} need programs that broadcast to "
                f"the left (index with Vindex, flatten leading dimensions): {also}"
            ) from error
        # a guide that does not broadcast is drawn from: as right, with more noise
        drawn = dataclasses.replace(found, enumerated=(), contracted=False)
        return _in_particles(pair, args, dataclasses.replace(drawn, broadcasts=True))
    return dataclasses.replace(found, row_bytes=max(1, allocations.total // rows(args)))


class _Allocations(TorchDispatchMode):
    """Counts the bytes of every new tensor made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.kept: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in known | self.kept.keys():
                    self.kept[storage.data_ptr()] = tensor  # alive, so no address comes twice
                    self.total += storage.nbytes()
        return out
