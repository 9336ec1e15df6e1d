"""Whether data lie where the observed sites take them, and what to say where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from pyro.poutine.runtime import Message
from torch import Tensor

from pyrovae import supports
from pyrovae.distributions import Columns
from pyrovae.errors import UsageError
from pyrovae.likelihoods import advice
from pyrovae.summaries import Summary
from pyrovae.supports import entries
from pyrovae.tensors import Data, TensorData
from pyrovae.traces.pair import Args, Pair
from pyrovae.traces.sites import FAILURES, argument, run, sites


class Supports:
    """The supports of the sites that observe the data as they are.

    Attributes:
        covered: whether these are all the observed sites.
    """

    def __init__(self, pair: Pair, args: Args) -> None:
        observing = _observing(pair, args)
        self.covered = observing is not None  # check says what is wrong with the programs
        self.found: list[tuple[Message, int, Any, tuple[float, ...]]] = []
        for site in observing or ():
            where = argument(site, args)
            if site["is_observed"] and where is not None:
                support = supports.bare(site["fn"])
                edges = supports.dividing_edges(site["fn"], site["value"])
                self.found.append((site, where, support, edges))
            else:
                self.covered = self.covered and not site["is_observed"]
        if any(_bound(support) for _, _, support, _ in self.found):
            self._leave_out_those_of_the_batch(pair, args)

    def _leave_out_those_of_the_batch(self, pair: Pair, args: Args) -> None:
        """A support that one datum alone has otherwise, such as that of a Multinomial of the
        batch's largest total, is that of a batch: what others must lie in is seen as they come."""
        ends = [
            tuple(a[rows] if isinstance(a, Tensor) else a for a in args)
            for rows in (slice(0, 1), slice(-1, None))
        ]
        alone = [{s["name"]: s for s in _observing(pair, end) or ()} for end in ends]
        kept = [
            entry
            for entry in self.found
            if all(
                entry[0]["name"] in each
                and _bound(supports.bare(each[entry[0]["name"]]["fn"])) == _bound(entry[2])
                for each in alone
            )
        ]
        self.covered = self.covered and len(kept) == len(self.found)
        self.found = kept

    def check(self, data: Data) -> Data:
        """The same data, checked: now where they are in memory, else as they are served.

        Raises:
            UsageError: data outside a support, with their range and what would fit.
        """
        return data.checked(lambda batch: self.inspect(batch, data if data.in_memory else None))

    def inspect(self, batch: Args, data: Data | None = None) -> None:
        """Refuse a batch, of these ``data``, with entries outside a support."""
        for site, where, support, edges in self.found:
            value = batch[where]
            try:
                inside = support.check(value)
            except (RuntimeError, AttributeError):  # or none is declared
                self.covered = False
                continue  # a support that differs from datum to datum is checked as it is used
            if inside.shape == value.shape:
                inside = inside | value.isnan()  # what is missing lies in every support
            if not bool(inside.all()):
                of = TensorData(batch[0]) if data is None else data
                names = () if of.schema is None else list(map(repr, of.schema.names))
                raise UsageError(_outside(site, support, value, inside, of.summary(), names))
            for edge in edges:
                if count := int((value == edge).sum()):
                    raise UsageError(
                        f"{count} entries are {edge:g}, where the density of site "
                        f"{site['name']!r}, a {type(entries(site['fn'])).__name__}, is 0 or "
                        f"infinite: move them off the edge if they are rounded (clamp), write NaN "
                        f"if they are missing, or choose a distribution that holds them"
                    )


def _observing(pair: Pair, args: Args) -> list[Message] | None:
    """The model's sites on a batch; None where the programs do not run on it."""
    try:
        with pyro.validation_enabled(False), pair.scope():
            return list(sites(run(pair, args)[0]).values())
    except FAILURES:
        return None


def _bound(support: Any) -> float | None:
    """The largest value of a support that is neither a probability nor a class."""
    bound = getattr(support, "upper_bound", None)
    return float(bound) if isinstance(bound, int | float) and bound > 1 else None


PADDING = -100  # torch's ignore_index
OPTIONS = " (--likelihood Normal); pyrovae info --data says why each"


def _first_column(fn: Any, value: Tensor, inside: Tensor, names: Sequence[str]) -> Any:
    """The first column of a table with an entry outside; None of other data."""
    of_names = inside.shape == value.shape and value.shape[-1:] == (len(names),)
    if not (of_names or isinstance(fn, Columns)):
        return None
    return int((~inside).reshape(-1, inside.shape[-1]).any(0).nonzero()[0])


def _outside(
    site: Message, support: Any, value: Tensor, inside: Tensor, seen: Summary, names: Sequence[str]
) -> str:
    """What the site takes, what the data are, and which likelihoods hold such data."""
    fn, where = entries(site["fn"]), ""
    column = _first_column(fn, value, inside, names)
    if column is not None:
        name = dict(enumerate(names)).get(column, str(column))
        where, value = f" of column {name}", value[..., column]
        seen = dict(enumerate(seen.columns)).get(column, seen)
    if isinstance(fn, Columns):
        fn, support = entries(fn.columns[column]), support.cseq[column]
    known = value[~value.isnan()]
    low, high = float(known.min()), float(known.max())
    words = (
        f"the data do not lie in the support of site {site['name']!r}: {type(fn).__name__} takes "
        f"{supports.in_words(support)}, the data{where} range from {low:.4g} to {high:.4g}"
    )
    fitting = _fitting(seen, type(fn).__name__, "" if where else OPTIONS)
    if low == PADDING and bool(getattr(support, "is_discrete", False)):
        return words + _PADDING
    if low >= 0 and high <= 1 and not seen.binary:
        return f"{words} with values between, such as grey pixels{_CROSS}. {_GREY}: {fitting}"
    return f"{words}. Choose a likelihood that holds them{where and ' there'}: {fitting}"


_PADDING = (
    f". {PADDING} marks padding for PyTorch's losses and is no value: write NaN there, which is "
    f"missing (x.float().masked_fill(x == {PADDING}, float('nan')))"
)
_CROSS = (
    ", whose cross-entropy is the mean log probability of binary pixels drawn from them, not the "
    "log density of grey ones"
)
_GREY = (
    "Binarise them (data.binarised('dynamic'), --binarise dynamic), or choose a likelihood that "
    "holds them"
)


def _fitting(seen: Summary, taken: str, options: str) -> str:
    """The likelihoods that hold such data, other than the one taken."""
    names = [name for name in advice(seen) if name not in ("Mixed", "Normal", taken)]
    listed = f"{', '.join([*names, 'or'])} " * bool(names)
    return f"{listed}Normal, for any real numbers{options}"
