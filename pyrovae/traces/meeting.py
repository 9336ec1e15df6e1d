"""How a pair takes data: as the arguments of its programs, integers or floats, gaps left out."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pyrovae.errors import UsageError
from pyrovae.layouts import Layout
from pyrovae.tensors import Data
from pyrovae.traces.handlers import completed, without_gaps
from pyrovae.traces.pair import Args, Pair, Program
from pyrovae.traces.structure import check

__all__ = ["met"]

SIZES = (64, 5)  # data that a pair is tried on


def met(pair: Pair, data: Data) -> tuple[Pair, Data]:
    """The pair as it takes the flat batches of these data, and the data as it takes them.

    A dict at the top of a batch is given by keyword where both programs have such parameters, else
    whole. Integers that are stored stay integers where the programs run on them. NaN is missing.

    Raises:
        UsageError: programs that take such batches in no way.
    """
    with torch.random.fork_rng(devices=[]):  # a loader draws from the global state
        pair = _laid_out(pair, data)
        if data.stores_integers and _runs(pair, data.integral()):
            data = data.integral()
        return completed(pair, data)


def _laid_out(pair: Pair, data: Data) -> Pair:
    layout = data.layout
    count = 1 if layout is not None else len(_peek(data))
    if layout is None and (count == 1 or _binds(pair.model, count)):
        return pair

    def arranged(program: Program) -> Program:
        if layout is None:  # one argument that is a list
            return lambda *leaves: program(list(leaves))
        bound = layout.bound(_signature(program))
        whole = not bound.names and not _binds(program, _width(bound, data)) and _binds(program, 1)

        def run(*leaves: object) -> Any:
            arguments, named = bound.call(leaves)
            return program(list(arguments)) if whole else program(*arguments, **named)

        return run

    arranged_pair = pair.running(arranged(pair.model), arranged(pair.guide), f"laid out {layout}")
    if layout is None and not _runs(arranged_pair, data):
        return pair  # as it was given, which says how many arguments there are
    return arranged_pair


def _peek(data: Data) -> Args:
    return next(iter(data.batches(1)))


def _width(layout: Layout, data: Data) -> int:
    return len(layout.call(_peek(data))[0])


def _signature(program: Program) -> inspect.Signature:
    try:
        return inspect.signature(program)
    except (TypeError, ValueError):
        return inspect.signature(lambda *batch, **named: None)


def _binds(program: Program, count: int) -> bool:
    """Whether a program takes so many arguments; where that is not known, it does."""
    try:
        _signature(program).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _runs(pair: Pair, data: Data) -> bool:
    """Whether both programs run on some of the data as they are served."""
    with pair.evaluating():
        for count in (*SIZES, len(data)):
            try:
                batch = next(iter(data.batches(min(count, len(data)))))
                check(pair, tuple(map(without_gaps, batch)))
            except UsageError:
                continue
            return True
    return False
