"""Tensors kept as stored and served as floats in batches."""

from __future__ import annotations

import copy
import difflib
import math
import numbers
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


class UsageError(ValueError):
    """A mistake in what was asked for: what happened, why, what to do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint at the choice that `word` seems to mean, or "" when none is near.

    >>> nearest("mnits", ["digits", "mnist"])
    "; did you mean 'mnist'?"
    """
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def in_short(text: object, most: int = 300) -> str:
    """A message or a value on one line: without the tensors and traces that Pyro and torch show.

    >>> in_short("found invalid values: tensor([nan, nan])")
    'found invalid values'
    """
    shown = (str(text) if isinstance(text, str | Exception) else repr(text))[:100_000]
    shown = re.split(r":?\s*\btensor\(\[|\n\s*Trace Shapes:", shown)[0]
    shown = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return shown if len(shown) <= most else f"{shown[: most - 4]} ..."


def got(value: object) -> str:
    """A value as an error shows it: whole where it is short.

    >>> got(-1), got(np.zeros((99, 99)))
    ('-1', 'a ndarray of shape [99, 99]')
    """
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {list(shape)}"
    try:
        return in_short(repr(value), 100)
    except ValueError:  # Python writes no number of thousands of digits
        return f"a {type(value).__name__} of more than {sys.get_int_max_str_digits():,} digits"


def whole_number(name: str, value: object, least: int = 1, most: float = math.inf) -> int:
    """``value``, if it is a whole number from ``least`` to ``most``; UsageError otherwise."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= cast(int, value) <= most:
        upper = "" if most == math.inf else f" and at most {most}"
        raise UsageError(
            f"{name} must be a whole number of at least {least}{upper}, got {got(value)}"
        )
    return int(cast(int, value))


def number(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a float, if it is a positive number (0 too with ``zero``); UsageError
    otherwise."""
    try:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        found = float(cast(float, value)) if real else -math.inf
    except OverflowError:
        found = math.inf
    if not 0 <= found < math.inf or (found == 0 and not zero):
        words = "a number of at least 0" if zero else "a positive number"
        raise UsageError(f"{name} must be {words}, got {got(value)}")
    return found


def flag(name: str, value: object) -> bool:
    """``value``, if it is True or False; UsageError otherwise: "no" would pass for True."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, got {got(value)}")
    return bool(value)


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(values) along ``dim``.

    >>> log_mean_exp(torch.tensor([0.0, 0.0]))
    tensor(0.)
    """
    return values.logsumexp(dim) - math.log(values.shape[dim])


@dataclass(frozen=True)
class Summary:
    """What values data have: of all entries, or of one column of a table.

    Attributes:
        low: the smallest value.
        high: the largest value.
        whole: whether all are whole numbers.
        binary: whether all are 0 or 1.
        eight_bit: whether all are one of k / 255, k = 0 to 255.
        distinct: how many values differ, 257 for more than 256 or any that is not whole.
        missing: how many entries are NaN.
        entries: how many entries there are.
        mean: of all entries.
        dispersion: variance over mean within a dimension: 1 for Poisson counts, NaN where the
            mean is not positive.
        excess: kurtosis beyond the normal's within a dimension: 3 for Laplace.
        zeros: share of zeros.
        expected_zeros: share that negative binomials of the dimensions' means and variances have.
        constant: how many dimensions never vary.
        spread: the smallest and the largest standard deviation of those that do.
        columns: of a table, the summary of every column.
    """

    low: float
    high: float
    whole: bool
    binary: bool
    eight_bit: bool
    distinct: int
    missing: int
    entries: int
    mean: float
    dispersion: float
    excess: float
    zeros: float
    expected_zeros: float
    constant: int
    spread: tuple[float, float]
    columns: tuple[Summary, ...] = ()

    @classmethod
    def of(cls, x: Tensor, *, columns: bool = True) -> Summary:
        """Of data [N, *event].

        >>> seen = Summary.of(torch.tensor([[0.0, 2.0], [1.0, float("nan")]]))
        >>> seen.low, seen.high, seen.missing, seen.columns[0].binary
        (0.0, 2.0, 1, True)
        """
        x = x.reshape(len(x), -1)
        known = x.isfinite()
        seen = x[known]
        if not seen.numel():
            nan = math.nan
            kind = (nan, nan, False, False, False, 0)
            return cls(*kind, x.numel(), x.numel(), nan, nan, nan, nan, nan, 0, (nan, nan))
        # 0 for unknown entries: they add nothing
        count = known.sum(0).clamp_min(1)
        mean = torch.where(known, x, 0.0).sum(0, dtype=torch.float64) / count
        squares, fourths = torch.zeros_like(mean), torch.zeros_like(mean)
        for rows, of in zip(x.split(4096), known.split(4096), strict=True):
            centred = torch.where(of, rows.double() - mean, 0.0).square_()
            squares += centred.sum(0)
            fourths += centred.square_().sum(0)
        variance = squares / count
        varying = variance > 1e-12 * mean.square()
        whole = bool((seen == seen.round()).all())
        scales = variance[varying].sqrt()
        kurtosis = (fourths / count)[varying] / variance[varying].square()
        positive = mean.sum() > 0
        inverse = mean.square() / (variance - mean).clamp_min(1e-9 * mean.abs() + 1e-30)
        zero = torch.where(mean > 0, -inverse * torch.log1p(mean / inverse), 0.0).exp()
        table = x.shape[1] if columns and x.shape[1] <= 1000 else 0
        level = seen * 255
        return cls(
            low=float(seen.min()),
            high=float(seen.max()),
            whole=whole,
            binary=bool(((seen == 0) | (seen == 1)).all()),
            eight_bit=bool(
                ((level - level.round()).abs().max() < 1e-2) & (seen.min() >= 0) & (seen.max() <= 1)
            ),
            distinct=min(len(seen.unique()), 257) if whole else 257,
            missing=int(x.isnan().sum()),
            entries=x.numel(),
            mean=float(seen.mean(dtype=torch.float64)),
            dispersion=float(variance.sum() / mean.sum()) if positive else math.nan,
            excess=float(kurtosis.mean() - 3) if len(kurtosis) else math.nan,
            zeros=1 - int(seen.count_nonzero()) / len(seen),
            expected_zeros=float((zero * count).sum() / count.sum()) if positive else math.nan,
            constant=int((~varying).sum()),
            spread=(float(scales.min()), float(scales.max())) if len(scales) else (0.0, 0.0),
            columns=tuple(cls.of(x[:, [i]], columns=False) for i in range(table)),
        )


_MODES = ("none", "dynamic", "threshold", "static")
Cut = tuple[int, int, slice]  # where a batch starts, its size, the rows of it that are served


def _own(size: int, share: tuple[int, int]) -> slice:
    """The rows of a batch that fall to one of several processes."""
    rank, world = share
    return slice(rank * size // world, (rank + 1) * size // world)


def _cuts(n: int, size: int, drop_last: bool, skip: int, share: tuple[int, int]) -> Iterator[Cut]:
    """The batches of one pass over n data."""
    if size < 1 or (drop_last and size > n):
        raise UsageError(f"no batch of {size} can be made of {n} data")
    starts = range(0, n - size + 1 if drop_last else n, size)[skip:]
    return ((at, min(size, n - at), _own(min(size, n - at), share)) for at in starts)


def _part(held_out: float, n: int) -> int:
    """How many of n data a fraction in (0, 1) or a whole number means."""
    fraction = 0 < held_out < 1
    count = 0
    if -math.inf < held_out < math.inf:
        count = round(held_out * n) if fraction else int(held_out)
    if not 0 < count < n or not (fraction or count == held_out):
        raise UsageError(
            f"cannot hold out {got(held_out)} of {n} data: give a fraction in (0, 1) or a "
            f"count that leaves at least one datum on each side"
        )
    return count


class TensorData(Dataset[tuple[Tensor, ...]]):
    """Tensors that share a first axis: x [N, *event], then further arguments of a model.

    They stay as stored (uint8 stays uint8); x is served as floats of the default dtype (or that
    of ``to``), the others as they are.

    - `labels` (int [N]) never reach a model; they follow every selection, and colour plots.
    - `divisor`: stored x / divisor = value, for example 255 for 8-bit images.
    - `maximum`: the largest value x can have; None when unknown, and binarising then takes 1.
    - `binarise`: None, "dynamic" (x ~ Bernoulli(value / maximum), drawn anew each time it is
      served) or "threshold" (value / maximum >= 1/2).

    Raises UsageError for no data, tensors of unequal length, or values outside [0, maximum]
    where they are to be binarised.

    >>> data = TensorData(torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8), divisor=255)
    >>> data
    TensorData(2 x [2] uint8 / 255, cpu)
    >>> data.x
    tensor([[0.0000, 0.2000],
            [1.0000, 0.4000]])
    >>> data.binarised("threshold")[1]
    (tensor([1., 0.]),)
    """

    tensors: tuple[Tensor, ...]
    labels: Tensor | None
    divisor: float | None
    binarise: str | None

    def __init__(
        self,
        *tensors: Tensor,
        labels: Tensor | Sequence[int] | np.ndarray | None = None,
        divisor: float | None = None,
        maximum: float | None = None,
        binarise: str | None = None,
    ) -> None:
        if not tensors:
            raise UsageError("there are no data: TensorData needs at least one tensor, x [N, ...]")
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise UsageError(f"TensorData holds tensors, not {kind}; as_data(...) converts it")
            if what := _no_data(tensor):
                raise UsageError(f"a tensor is {what}; data are dense real tensors: convert it")
        x = tensors[0].detach()
        self.tensors = (x, *(tensor.detach().to(x.device) for tensor in tensors[1:]))
        self.labels = None
        if labels is not None:
            self.labels = torch.as_tensor(labels, dtype=torch.long, device=x.device)
        rows = [t for t in (*self.tensors, self.labels) if t is not None]
        if len({tuple(t.shape[:1]) for t in rows}) > 1 or x.ndim == 0:
            shapes = ", ".join(str(list(t.shape)) for t in rows)
            raise UsageError(
                f"the tensors and labels must share their first axis, the number of data; "
                f"their shapes are {shapes}"
            )
        if len(x) == 0:
            raise UsageError(f"there are no data: x has shape {list(x.shape)}")
        self.divisor, self._maximum, self.binarise = divisor, maximum, binarise
        self.dtype: torch.dtype | None = None
        self._device = x.device
        if binarise is not None:
            self._check_binary(binarise, ("dynamic", "threshold"))

    def _with(self, **changes: Any) -> TensorData:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    def _check_binary(self, mode: str, modes: Sequence[str]) -> None:
        if mode not in modes:
            hint = nearest(str(mode), modes) or "."
            raise UsageError(f"there is no way to binarise {mode!r}{hint} Ways: {', '.join(modes)}")
        low, high = (bound.item() / (self.divisor or 1) for bound in self.tensors[0].aminmax())
        maximum = 1.0 if self._maximum is None else self._maximum
        if not (low >= 0 and high <= maximum):
            raise UsageError(
                f"the data cannot be binarised: their values are in [{low:g}, {high:g}], not in "
                f"[0, {maximum:g}]; rescale them, or give the maximum or divisor they have"
            )

    def _served(
        self,
        stored: Tensor,
        generator: torch.Generator | None,
        noise: bool,
        size: int | None = None,
        own: slice = slice(None),
    ) -> Tensor:
        """``stored`` as floats: the rows ``own`` of a batch of ``size``, with their noise."""
        x = stored.to(self._device, non_blocking=True)
        x = x.to(self.dtype or torch.get_default_dtype())
        if self.divisor is not None:
            x = x / self.divisor
        if self.binarise is None:
            return x
        probability = x if self._maximum in (None, 1) else x / self._maximum
        if self.binarise == "threshold":
            return (probability >= 0.5).to(x.dtype)
        if not noise:
            return probability
        if size is None or size == len(x):
            return torch.bernoulli(probability, generator=generator)
        # as many draws as the whole batch takes, so that each row has the noise it has in there
        whole = probability.new_zeros((size, *probability.shape[1:]))
        whole[own] = probability
        return torch.bernoulli(whole, generator=generator)[own]

    def _serve(
        self,
        stored: Sequence[Tensor],
        generator: torch.Generator | None,
        size: int | None = None,
        own: slice = slice(None),
    ) -> tuple[Tensor, ...]:
        """The rows ``own`` of a batch of ``size``, as a model takes them."""
        x, *others = stored
        return (
            self._served(x, generator, True, size, own),
            *(other.to(self._device, non_blocking=True) for other in others),
        )

    @property
    def x(self) -> Tensor:
        """All of x [N, *event] as served, free of noise: dynamic data give probabilities."""
        return self._served(self.tensors[0], None, noise=False)

    @property
    def maximum(self) -> float | None:
        """The largest value a served x can have: 1 once binarised, None when unknown."""
        return self._maximum if self.binarise is None else 1.0

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x."""
        return self.tensors[0].shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the tensors are served; they are stored there too when they fit."""
        return self._device

    @property
    def nbytes(self) -> int:
        """Bytes of storage, labels included."""
        return sum(t.nbytes for t in (*self.tensors, self.labels) if t is not None)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, ...]:
        return self._serve([tensor[index] for tensor in self.tensors], None)

    def __repr__(self) -> str:
        x, *others = self.tensors
        dtype = str(x.dtype).removeprefix("torch.")
        parts = [f"{len(x)} x {list(x.shape[1:])} {dtype}"]
        parts[0] += f" / {self.divisor:g}" if self.divisor is not None else ""
        parts += [f"y {list(other.shape[1:])}" for other in others]
        parts += ["labelled"] if self.labels is not None else []
        parts += [self.binarise] if self.binarise is not None else []
        return f"TensorData({', '.join(parts)}, {self.device})"

    def binarised(self, mode: str, seed: int = 0) -> TensorData:
        """The same data, binarised in another way ("none" gives the values back).

        "static" draws x ~ Bernoulli(value / maximum) once, from a generator seeded with `seed`
        (the same bits on every device), and stores it as uint8. Raises UsageError for values
        outside [0, maximum] or an unknown mode.

        >>> TensorData(torch.full((4, 1), 0.5)).binarised("static", seed=1).x.flatten()
        tensor([0., 1., 1., 0.])
        """
        if mode == "none":
            return self._with(binarise=None)
        self._check_binary(mode, _MODES)
        if mode != "static":
            return self._with(binarise=mode)
        generator = torch.Generator().manual_seed(seed)
        dynamic = self._with(binarise="dynamic")
        drawn = torch.empty(self.tensors[0].shape, dtype=torch.uint8, device=self.tensors[0].device)
        for stored, out in zip(self.tensors[0].split(4096), drawn.split(4096), strict=True):
            # rand on the CPU, not bernoulli: its stream is the same on every machine.
            probability = dynamic._served(stored, None, noise=False).cpu()
            out.copy_(torch.rand(probability.shape, generator=generator) < probability)
        tensors = (drawn, *self.tensors[1:])
        return self._with(tensors=tensors, binarise=None, divisor=None, _maximum=1.0)

    def fixed(self, seed: int = 0) -> TensorData:
        """The same data without noise in what is served: dynamic ones are drawn once, "static"."""
        return self.binarised("static", seed) if self.binarise == "dynamic" else self

    def standardised(self, by: TensorData | None = None) -> TensorData:
        """The same data with every entry of x less its mean over the data, over its standard
        deviation; of the data `by` (training data, say), missing entries left out. Entries that
        never vary are only shifted.

        >>> TensorData(torch.tensor([[0.0], [4.0]])).standardised().x.flatten()
        tensor([-1.,  1.])
        """
        other = self if by is None else by
        if self.binarise is not None or other.event_shape != self.event_shape:
            raise UsageError(
                f"data of shape {list(self.event_shape)} cannot be standardised by those of shape "
                f"{list(other.event_shape)}, nor binarised ones"
            )
        reference = other.x.double()
        mean = reference.nanmean(0).nan_to_num(0.0)
        scale = (reference - mean).square().nanmean(0).sqrt().nan_to_num(1.0)
        scale = torch.where(scale > 0, scale, 1.0)
        x = ((self.x.double() - mean) / scale).to(self.x.dtype)
        changes = {"tensors": (x, *self.tensors[1:]), "divisor": None, "_maximum": None}
        return self._with(**changes)

    def select(self, indices: slice | Tensor | Sequence[int] | np.ndarray) -> TensorData:
        """The data at `indices` (a slice, positions or a mask), with their labels."""
        if not isinstance(indices, slice):
            chosen = torch.atleast_1d(torch.as_tensor(indices, device=self.tensors[0].device))
            indices = chosen if chosen.numel() else chosen.long()  # [] would be floating
        tensors = tuple(tensor[indices] for tensor in self.tensors)
        if len(tensors[0]) == 0:
            raise UsageError(f"the selection is empty; there are {len(self)} data to choose from")
        labels = None if self.labels is None else self.labels[indices]
        return self._with(tensors=tensors, labels=labels)

    def split(self, held_out: float, seed: int = 0) -> tuple[TensorData, TensorData]:
        """(train, held): at random, hold out a fraction in (0, 1) or a whole number of data.

        Raises UsageError when either side would be empty.

        >>> [len(part) for part in TensorData(torch.randn(10, 3)).split(0.2)]
        [8, 2]
        """
        count = _part(held_out, len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[count:]), self.select(order[:count])

    def summary(self) -> Summary:
        """What values x has as it is served, dynamic binarisation drawn once.

        >>> TensorData(torch.tensor([[0.0], [3.0]])).summary().whole
        True
        """
        data = self.fixed()
        x = data._served(data.tensors[0], None, noise=False)
        return Summary.of(x, columns=x.ndim == 2)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TensorData:
        """The same data on `device`, x served in `dtype`.

        All of them are moved there when they fit in half of its free memory; otherwise they stay
        where they are and every batch is moved as it is served.
        """
        target = self._device if device is None else torch.device(device)
        labels, tensors = self.labels, self.tensors
        if target != tensors[0].device and fits(self.nbytes, target):
            labels = None if labels is None else labels.to(target)
            tensors = tuple(t.to(target) for t in tensors)
        changes = {"tensors": tensors, "labels": labels, "_device": target}
        return self._with(**changes, dtype=dtype or self.dtype)

    def with_labels(self) -> TensorData:
        """The data (x, labels), so that a model(x, y) receives the labels."""
        if self.labels is None:
            raise UsageError(
                "the data have no labels: give TensorData(x, labels=...) or (x, y), or name the "
                "column of a table that holds them (label=, --label)"
            )
        return self.with_arguments(self.labels)

    def with_arguments(self, *others: Tensor) -> TensorData:
        """The data (x, *others): tensors [N, ...] that a model(x, ...) receives as they are.

        >>> TensorData(torch.zeros(3, 2)).with_arguments(torch.arange(3))
        TensorData(3 x [2] float32, y [], cpu)
        """
        sizes = [len(other) for other in others]
        if any(size != len(self) for size in sizes):
            raise UsageError(f"arguments must be as many as the data, {len(self)}; got {sizes}")
        return self._with(tensors=(self.tensors[0], *others))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass in batches ([B, *event], ...) gathered on the data's device.

        `generator` (on that device) drives the order, which is drawn by this call, and the
        binarisation, drawn as batches are served. The first `skip` batches are left out, with
        their noise. Of each batch only the part that `share` = (rank, of) names is served, rows
        rank * B // of to (rank + 1) * B // of, perhaps none: the shares of all ranks, whose
        generators are alike, make up the batch.

        >>> data = TensorData(torch.arange(5.0))
        >>> [x.tolist() for (x,) in data.batches(2)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
        >>> [x.tolist() for (x,) in data.batches(2, skip=1, share=(1, 2))]
        [[3.0], [4.0]]
        """
        parts = _cuts(len(self), batch_size, drop_last, skip, share)
        order = None
        if shuffle:
            order = torch.randperm(len(self), generator=generator, device=self._device)
            order = order.to(self.tensors[0].device)
        return self._batches(parts, order, generator)

    def _batches(
        self, parts: Iterable[Cut], order: Tensor | None, generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, ...]]:
        for start, size, own in parts:
            rows = slice(start + own.start, start + own.stop)
            if order is None:
                stored = [tensor[rows] for tensor in self.tensors]
            else:
                stored = [tensor.index_select(0, order[rows]) for tensor in self.tensors]
            yield self._serve(stored, generator, size, own)

    @staticmethod
    def _chunks(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first position, part) of a tensor that can hold NaN; a part's mask stays small."""
        if tensor.is_floating_point():
            rows = max(1, 2**22 // max(1, tensor[0].numel()))
            yield from zip(range(0, len(tensor), rows), tensor.split(rows), strict=True)

    def incomplete(self) -> Tensor:
        """Positions of the data with a missing entry (NaN), int [M]."""
        found = [
            start + chunk.isnan().reshape(len(chunk), -1).any(1).nonzero()[:, 0]
            for tensor in self.tensors
            for start, chunk in self._chunks(tensor)
        ]
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.long)

    def check_finite(self, missing: bool = False) -> None:
        """Raise UsageError when an entry is infinite or NaN: how many, the first, the remedy.
        With ``missing``, NaN in x is a missing entry and no mistake."""
        for argument, tensor in enumerate(self.tensors):
            count, first = 0, None
            for start, chunk in self._chunks(tensor):
                bad = chunk.isinf() if missing and not argument else ~chunk.isfinite()
                if found := int(bad.sum()):
                    count += found
                    first = first or (start, bad.nonzero()[0].tolist())
            if first is not None:
                start, (row, *position) = first
                value = tensor[(start + row, *position)].item()
                raise UsageError(
                    f"{'y' if argument else 'x'} has {count} entries that are NaN or infinite; the "
                    f"first, {value}, is in datum {start + row} at position {position}; drop or "
                    f"fill such data"
                )


def _no_data(tensor: Tensor) -> str:
    """What keeps a tensor from being data, if something does."""
    kinds = {
        "complex": tensor.is_complex(),
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "on the meta device, which holds no values": tensor.is_meta,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def _is_image(x: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.ndim >= 3


def fits(nbytes: int, device: torch.device | str) -> bool:
    """Whether `nbytes` fit in half of the free memory of `device`.

    >>> fits(1, "cpu"), fits(2**60, "cpu")
    (True, False)
    """
    if torch.device(device).type == "cuda":
        return nbytes <= torch.cuda.mem_get_info(device)[0] / 2
    try:  # free pages alone would leave out the cache that the kernel gives back
        with Path("/proc/meminfo").open() as file:
            free = next(int(line.split()[1]) * 1024 for line in file if "MemAvailable" in line)
    except (OSError, StopIteration):
        sysconf = getattr(os, "sysconf", None)
        free = sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") if sysconf else 2**32
    return nbytes <= free / 2


def _tensor(value: Any) -> Tensor:
    """A tensor of real numbers from anything NumPy takes, float64 arrays in the default dtype."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.memmap) and not fits(value.nbytes, "cpu"):
        raise UsageError(
            f"a memory-mapped array of {value.nbytes:,} bytes does not fit in memory; it can be "
            f"streamed where it is all of the data: give x alone"
        )
    try:
        values = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"the data are not one rectangular array: {in_short(error)}; give a tensor or an "
            f"array of numbers"
        ) from error
    if values.dtype.kind not in "biuf":
        raise UsageError(
            f"the data have dtype {values.dtype}, not real numbers; convert them, for example "
            f"with array.astype('float32')"
        )
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int64)
    elif values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def _tensor_data(*tensors: Tensor, **options: Any) -> TensorData:
    if tensors and isinstance(tensors[0], Tensor) and _is_image(tensors[0]):
        options |= {"divisor": 255, "maximum": 1.0}
    return TensorData(*tensors, **options)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
