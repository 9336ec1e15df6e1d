"""Whether data lie where the observed sites take them, and what to say where they do not."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor

from pyrovae.distributions import Columns
from pyrovae.likelihoods import advice
from pyrovae.tensors import Summary, TensorData, UsageError
from pyrovae.traces.pair import Args, Pair
from pyrovae.traces.sites import FAILURES, argument, entries, run, sites


class Supports:
    """The supports of the sites that observe the data as they are.

    Attributes:
        covered: whether these are all the observed sites.
    """

    def __init__(self, pair: Pair, args: Args) -> None:
        self.covered = True
        self.found: list[tuple[Any, int, Any]] = []
        observing: list[Any] = []
        try:
            with pyro.validation_enabled(False), pair.scope():
                observing += sites(run(pair, args)[0]).values()
        except FAILURES:
            self.covered = False  # check says what is wrong with the programs
        for site in observing:
            where = argument(site, args)
            if site["is_observed"] and where is not None:
                support = site["fn"].support
                while hasattr(support, "base_constraint"):
                    support = support.base_constraint
                self.found.append((site, where, support))
            else:
                self.covered = self.covered and not site["is_observed"]

    def check(self, data: TensorData) -> bool:
        """Whether all the data could be checked.

        Raises:
            UsageError: data outside a support, with their range and what would fit.
        """
        for site, where, support in self.found:
            generator = torch.Generator(data.device).manual_seed(0)
            for batch in data.batches(1024, generator=generator):
                value = batch[where]
                try:
                    inside = support.check(value)
                except RuntimeError:
                    self.covered = False
                    break  # a support that differs from datum to datum is checked as it is used
                if inside.shape == value.shape:
                    inside = inside | value.isnan()  # what is missing lies in every support
                if not bool(inside.all()):
                    raise UsageError(_outside(site, support, value, inside, data.summary()))
        return self.covered


def _outside(site: Any, support: Any, value: Tensor, inside: Tensor, seen: Summary) -> str:
    """What the site takes, what the data are, and which likelihoods hold such data."""
    fn, where = site["fn"], ""
    fn = entries(fn)
    if isinstance(fn, Columns):
        column = int((~inside).reshape(-1, inside.shape[-1]).any(0).nonzero()[0])
        fn, support = fn.columns[column], support.cseq[column]
        where, value = f" of column {column}", value[..., column]
        if column < len(seen.columns):
            seen = seen.columns[column]
        fn = entries(fn)
    known = value[~value.isnan()]
    low, high = float(known.min()), float(known.max())
    words = (
        f"the data do not lie in the support of site {site['name']!r}: {type(fn).__name__} takes "
        f"{_in_words(support)}, the data{where} range from {low:.4g} to {high:.4g}"
    )
    names = [name for name in advice(seen) if name not in ("Mixed", "Normal", type(fn).__name__)]
    fitting = f"{', '.join([*names, 'or'])} " * bool(names) + (
        "Normal, for any real numbers"
        if where
        else "Normal, for any real numbers (--likelihood Normal); pyrovae info --data says why each"
    )
    if low >= 0 and high <= 1 and not seen.binary:
        return (
            f"{words} with values between, such as grey pixels. Binarise them "
            f"(data.binarised('dynamic'), --binarise dynamic), or choose a likelihood that holds "
            f"them: {fitting}"
        )
    return f"{words}. Choose a likelihood that holds them{where and ' there'}: {fitting}"


_SUPPORTS = {
    "Boolean()": "0 or 1",
    "Real()": "real numbers",
    "GreaterThan(lower_bound=0.0)": "positive numbers",
    "EightBit()": "the 8-bit levels 0, 1/255, ..., 1",
    "IntegerGreaterThan(lower_bound=0)": "whole numbers from 0 on",
}


def _in_words(support: Any) -> str:
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if isinstance(high, int | float):
        kind = "whole numbers from" if support.is_discrete else "numbers from"
        return f"{kind} {low:g} to {high:g}"
    return _SUPPORTS.get(str(support), str(support))
