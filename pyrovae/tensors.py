"""What every verb takes, ``Data``, and tensors in memory, kept as stored and served in batches."""

from __future__ import annotations

import copy
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.arrays import no_data, scaled_by
from pyrovae.errors import UsageError, got
from pyrovae.layouts import Layout
from pyrovae.memory import fits
from pyrovae.schema import Schema
from pyrovae.serving import Serving
from pyrovae.summaries import Summary

__all__ = ["Batch", "Data", "TensorData", "log_mean_exp", "tensor_data"]

Batch = tuple[Any, ...]  # x [B, *event] first; tensors, and what a user's loader puts beside them


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(values) along ``dim``.

    >>> log_mean_exp(torch.tensor([0.0, 0.0]))
    tensor(0.)
    """
    return values.logsumexp(dim) - math.log(values.shape[dim])


Cut = tuple[int, int, slice]  # where a batch starts, its size, the rows of it that are served


def own_rows(size: int, share: tuple[int, int]) -> slice:
    """The rows of a batch that fall to one of several processes."""
    rank, world = share
    return slice(rank * size // world, (rank + 1) * size // world)


def cuts(n: int, size: int, drop_last: bool, skip: int, share: tuple[int, int]) -> Iterator[Cut]:
    """The batches of one pass over n data."""
    if size < 1 or (drop_last and size > n):
        raise UsageError(f"no batch of {size} can be made of {n} data")
    starts = range(0, n - size + 1 if drop_last else n, size)[skip:]
    return ((at, min(size, n - at), own_rows(min(size, n - at), share)) for at in starts)


def part_of(held_out: float, n: int) -> int:
    """How many of n data a fraction in (0, 1) or a whole number means."""
    real = isinstance(held_out, numbers.Real)
    fraction = real and 0 < held_out < 1
    count = 0
    if real and -math.inf < held_out < math.inf:
        count = round(held_out * n) if fraction else int(held_out)
    if not 0 < count < n or not (fraction or count == held_out):
        raise UsageError(
            f"cannot hold out {got(held_out)} of {n} data: give a fraction in (0, 1) or a "
            f"count that leaves at least one datum on each side (0 holds out none)"
        )
    return count


class Data(ABC):
    """What a pair learns from and is asked about: arguments of its programs, in batches.

    The same holds of data in memory, in files and from a loader: the first tensor x is served as
    floats (or, :meth:`integral`, as integers), the others as they are; NaN is a missing entry in
    any of them; infinite entries and values outside a support are refused, at once where all data
    are in memory and as they are served where they are not.

    Attributes:
        serving: how x is served.
        labels: int [N], classes, which never reach a program; None without.
        layout: how a batch becomes the programs' arguments; None where it is these.
        schema: what the columns of x are, where it is a table with names.
        in_memory: whether all of the data can be looked at before any are used.
        own_batches: whether batches have a size and an order that no one can ask for.
    """

    serving: Serving
    labels: Tensor | None = None
    layout: Layout | None = None
    schema: Schema | None = None
    in_memory: bool = False
    own_batches: bool = False
    _checks: tuple[Callable[[Batch], object], ...] = ()
    _exact: frozenset[torch.dtype] = frozenset()  # that x was seen to keep its digits in

    @abstractmethod
    def __len__(self) -> int:
        """The number of data."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """The shape of one x."""

    @property
    @abstractmethod
    def stores_integers(self) -> bool:
        """Whether x is stored as integers that are neither scaled nor binarised."""

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """One pass in batches ([B, *event], ...) gathered on the data's device."""

    @abstractmethod
    def sample(self, count: int, seed: int = 0) -> TensorData:
        """``count`` of the data at random, or all there are, in memory and in their order."""

    @abstractmethod
    def split(self, held_out: float, seed: int = 0) -> tuple[Data, TensorData]:
        """(train, held): at random, hold out a fraction in (0, 1) or a whole number of data."""

    @abstractmethod
    def with_labels(self) -> Self:
        """The data (x, labels), so that a model(x, y) receives the labels."""

    @abstractmethod
    def binarised(self, mode: str, seed: int = 0) -> Self:
        """The same data, binarised in another way."""

    @abstractmethod
    def incomplete(self, count: int = 64) -> Batch | None:
        """At most ``count`` data with missing entries, which differ from one to the next, as they
        are served; None where none can be missing."""

    @abstractmethod
    def check_finite(self) -> None:
        """Raise UsageError when an entry is infinite; NaN is a missing entry."""

    def check_known(self) -> str:
        """Raise UsageError where every entry is missing (NaN); which entries of x are missing in
        all of the data, in words, "" where none are or where that cannot be seen."""
        return ""

    def checked(self, check: Callable[[Batch], object]) -> Self:
        """The same data, every batch of which passes ``check``: before this returns where they
        are in memory, in the first pass over them where they are not."""
        if not self.in_memory:
            return self._with(_checks=(*self._checks, check))
        generator = torch.Generator(self.device).manual_seed(0)
        for batch in self.batches(1024, generator=generator):
            check(batch)
        return self

    def _passing(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            for check in self._checks:
                check(batch)
            yield batch
        self._checks = ()

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """What of them is in memory, x first."""
        return ()

    def with_library_size(self) -> Self:
        """The data (x, size, ...), size [N] the total of each x: the depth at which counts were
        taken, as the second argument of a model(x, size). Missing entries count nothing.

        Raises:
            UsageError: values below 0; data that are not in memory.

        >>> TensorData(torch.tensor([[1.0, 2.0], [0.0, 5.0]])).with_library_size()[:][1]
        tensor([3., 5.])
        """
        raise UsageError(
            "the totals of data that are not in memory are not known before they are read: sum "
            "them in the programs (x.sum(-1)), or let the loader yield (x, size)"
        )

    @property
    def device(self) -> torch.device:
        """Where the data are served."""
        return self.serving.device

    @property
    def dtype(self) -> torch.dtype | None:
        """What x is served in; None for the default dtype."""
        return self.serving.dtype

    @property
    def divisor(self) -> float | None:
        """Stored x / divisor = value."""
        return self.serving.divisor

    @property
    def binarise(self) -> str | None:
        """None, "dynamic" or "threshold"."""
        return self.serving.binarise

    @property
    def maximum(self) -> float | None:
        """The largest value a served x can have: 1 once binarised, None when unknown."""
        return self.serving.maximum if self.serving.binarise is None else 1.0

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """The same data, served on ``device``, x in ``dtype``."""
        target = self.device if device is None else torch.device(device)
        return self._with(serving=replace(self.serving, device=target, dtype=dtype or self.dtype))

    def first(self, count: int) -> TensorData:
        """The first ``count`` of the data, or all there are, in memory, as they are served."""
        rows: list[Batch] = []
        for batch in self._with(_checks=()).batches(count):
            rows.append(batch)
            if sum(len(part[0]) for part in rows) >= count:
                break
        if not rows:
            raise UsageError("there are no data: the DataLoader yields no batch")
        columns = []
        for parts in zip(*rows, strict=True):
            if not all(isinstance(part, Tensor) for part in parts):
                raise UsageError(
                    f"a batch holds {type(parts[0]).__name__}, which cannot be taken apart: give "
                    f"the data as tensors"
                )
            columns.append(_joined(parts)[:count])
        found = TensorData(*columns)._with(layout=self.layout, schema=self.schema)
        return found.integral() if self.serving.integral else found

    def integral(self) -> Self:
        """The same data, x served as the integers that are stored (int64): for embeddings.

        Raises:
            UsageError: x is not stored as integers, or is scaled or binarised.

        >>> TensorData(torch.tensor([[1], [2]])).integral()[0]
        (tensor([1]),)
        """
        if not self.stores_integers:
            raise UsageError("x is not stored as integers to be served as such")
        return self._with(serving=replace(self.serving, integral=True))

    def fixed(self, seed: int = 0) -> Self:
        """The same data without noise in what is served: dynamic ones are drawn once, "static"."""
        return self.binarised("static", seed) if self.binarise == "dynamic" else self

    def summary(self) -> Summary:
        """What values x has as it is served, of 10,000 data at random or all there are."""
        return self.sample(10_000).summary()

    def _check_digits(self, stored: Tensor) -> None:
        """Refuse, once for each dtype, integers that the floats to serve them in do not hold."""
        dtype = self.dtype or torch.get_default_dtype()
        if dtype not in self._exact and not self.serving.integral:
            self.serving.check_digits(stored)
            self._exact |= {dtype}

    def _check_arguments(self, others: Sequence[Tensor]) -> None:
        """Refuse arguments of a model that are not as many as the data."""
        sizes = [len(other) for other in others]
        if any(size != len(self) for size in sizes):
            raise UsageError(f"arguments must be as many as the data, {len(self)}; got {sizes}")

    def _with(self, **changes: object) -> Self:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other


class TensorData(Data, Dataset[Batch]):
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

    in_memory = True
    tensors: tuple[Tensor, ...]

    def __init__(
        self,
        *tensors: Tensor,
        labels: Tensor | Sequence[int] | np.ndarray | None = None,
        divisor: float | None = None,
        maximum: float | None = None,
        binarise: str | None = None,
    ) -> None:
        _check_dense(tensors)
        x = tensors[0].detach()
        self.tensors = (x, *(tensor.detach().to(x.device) for tensor in tensors[1:]))
        self.labels = None
        if labels is not None:
            self.labels = torch.as_tensor(labels, dtype=torch.long, device=x.device)
        _check_rows([*self.tensors, *(() if self.labels is None else (self.labels,))])
        self.serving = Serving(x.device, None, divisor, maximum, binarise)
        if binarise is not None:
            self.serving.check_range(x, binarise, ("dynamic", "threshold"))

    def _serve(
        self,
        stored: Sequence[Tensor],
        generator: torch.Generator | None = None,
        size: int | None = None,
        own: slice = slice(None),
    ) -> Batch:
        self._check_digits(self.tensors[0])
        return self.serving.batch(stored, generator, size, own)

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors."""
        return self.tensors

    @property
    def x(self) -> Tensor:
        """All of x [N, *event] as served, free of noise: dynamic data give probabilities."""
        self._check_digits(self.tensors[0])
        return self.serving.x(self.tensors[0], noise=False)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x."""
        return self.tensors[0].shape[1:]

    @property
    def stores_integers(self) -> bool:
        """Whether x is stored as integers that are neither scaled nor binarised."""
        return self.serving.keeps_integers(self.tensors[0])

    @property
    def nbytes(self) -> int:
        """Bytes of storage, labels included."""
        return sum(t.nbytes for t in (*self.tensors, self.labels) if t is not None)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int | slice | Tensor) -> Batch:
        return self._serve([tensor[index] for tensor in self.tensors])

    def __repr__(self) -> str:
        x, *others = self.tensors
        dtype = str(x.dtype).removeprefix("torch.")
        parts = [f"{len(x)} x {list(x.shape[1:])} {dtype}"]
        parts[0] += f" / {self.divisor:g}" if self.divisor is not None else ""
        parts += [f"y {list(other.shape[1:])}" for other in others]
        parts += ["integral"] if self.serving.integral else []
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
            return self._with(serving=replace(self.serving, binarise=None))
        self.serving.check_range(self.tensors[0], mode)
        if mode != "static":
            return self._with(serving=replace(self.serving, binarise=mode, integral=False))
        drawn = self.serving.static(self.tensors[0], torch.Generator().manual_seed(seed))
        serving = replace(self.serving, binarise=None, divisor=None, maximum=1.0, integral=False)
        return self._with(tensors=(drawn, *self.tensors[1:]), serving=serving)

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
        serving = replace(self.serving, divisor=None, maximum=None, integral=False)
        return self._with(tensors=(x, *self.tensors[1:]), serving=serving)

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
        count = part_of(held_out, len(self))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[count:]), self.select(order[:count])

    def first(self, count: int) -> TensorData:
        """The first ``count`` of the data, or all there are."""
        return self.select(slice(count))

    def sample(self, count: int, seed: int = 0) -> TensorData:
        """``count`` of the data at random, or all there are, in their order."""
        if count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[:count].sort().values)

    def summary(self) -> Summary:
        """What values x has as it is served, dynamic binarisation drawn once.

        >>> TensorData(torch.tensor([[0.0], [3.0]])).summary().whole
        True
        """
        x = self.fixed().x
        return Summary.of(x, columns=x.ndim == 2)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TensorData:
        """The same data on `device`, x served in `dtype`.

        All of them are moved there when they fit in half of its free memory; otherwise they stay
        where they are and every batch is moved as it is served.
        """
        moved = super().to(device, dtype)
        labels, tensors = self.labels, self.tensors
        if moved.device != tensors[0].device and fits(self.nbytes, moved.device):
            labels = None if labels is None else labels.to(moved.device)
            tensors = tuple(t.to(moved.device) for t in tensors)
        return moved._with(tensors=tensors, labels=labels)

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
        self._check_arguments(others)
        return self._with(tensors=(self.tensors[0], *others), layout=None)

    def with_library_size(self) -> TensorData:
        """The data (x, size, ...); see :meth:`Data.with_library_size`."""
        x = self.fixed().x.flatten(1)
        if bool((x < 0).any()):
            raise negative(float(x.nan_to_num().min()))
        totals = x.nansum(1, dtype=torch.float64).to(torch.get_default_dtype())
        return self.with_arguments(totals, *self.tensors[1:])

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
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
        parts = cuts(len(self), batch_size, drop_last, skip, share)
        order = None
        if shuffle:
            order = torch.randperm(len(self), generator=generator, device=self.device)
            order = order.to(self.tensors[0].device)
        return self._batches(parts, order, generator)

    def _batches(
        self, parts: Iterable[Cut], order: Tensor | None, generator: torch.Generator | None
    ) -> Iterator[Batch]:
        for start, size, own in parts:
            rows = slice(start + own.start, start + own.stop)
            if order is None:
                stored = [tensor[rows] for tensor in self.tensors]
            else:
                stored = [tensor.index_select(0, order[rows]) for tensor in self.tensors]
            yield self._serve(stored, generator, size, own)

    def incomplete(self, count: int = 64) -> Batch | None:
        """At most ``count`` data with missing entries, as they are served; None without any.

        Of every entry that is ever missing, the first datum without it, as far as ``count`` goes.
        """
        rows = torch.cat([first_missing(tensor) for tensor in self.tensors]).unique()[:count]
        return self.select(rows)[:] if len(rows) else None

    def check_finite(self) -> None:
        """Raise UsageError when an entry is infinite: how many, the first, the remedy.

        NaN is a missing entry and no mistake.
        """
        for argument, tensor in enumerate(self.tensors):
            count, first = 0, None
            for start, chunk in _chunks(tensor):
                bad = chunk.isinf()
                if found := int(bad.sum()):
                    count += found
                    first = first or (start, bad.nonzero()[0].tolist())
            if first is not None:
                start, (row, *position) = first
                value = tensor[(start + row, *position)].item()
                place = place_of(position, None if argument else self.schema)
                raise infinite("y" if argument else "x", count, value, start + row, place)

    def check_known(self) -> str:
        """Raise UsageError where every entry is missing (NaN); which entries of x are missing in
        all of the data, in words, "" where none are.

        >>> TensorData(torch.tensor([[0.0, math.nan], [1.0, math.nan]])).check_known()
        'column 1 of x is missing (NaN) in all of the 2 data'
        """
        gone = [self._never_known(tensor) for tensor in self.tensors if tensor.is_floating_point()]
        if gone and all(bool(each.all()) for each in gone):
            raise no_entries(f" of the {len(self):,} data")
        of_x = gone[0] if self.tensors[0].is_floating_point() else torch.zeros(0)
        return _named(of_x, self.schema, len(self)) if bool(of_x.any()) else ""

    def _never_known(self, tensor: Tensor) -> Tensor:
        """Which entries of one datum are NaN in all of them."""
        gone = torch.ones(tensor.shape[1:], dtype=torch.bool, device=tensor.device)
        for _, chunk in _chunks(tensor):
            gone &= chunk.isnan().all(0)
        return gone


def _chunks(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first position, part) of a tensor that can hold NaN; a part's mask stays small."""
    if tensor.is_floating_point():
        rows = max(1, 2**22 // max(1, tensor[0].numel()))
        yield from zip(range(0, len(tensor), rows), tensor.split(rows), strict=True)


def first_missing(tensor: Tensor) -> Tensor:
    """Of every entry that is ever missing, the first datum without it."""
    first = torch.full((tensor[0].numel(),), len(tensor), device=tensor.device)
    for start, chunk in _chunks(tensor):
        missing = chunk.isnan().reshape(len(chunk), -1)
        at = missing.int().argmax(0) + start
        first = torch.where(missing.any(0), torch.minimum(first, at), first)
    return first[first < len(tensor)]


def place_of(position: Sequence[int], schema: Schema | None) -> str:
    """Where in a datum an entry is, in words."""
    if schema is None or len(position) != 1:
        return f"at position {list(position)}"
    return f"in column {schema.names[position[0]]!r}"


def infinite(name: str, count: int, first: float, datum: int, place: str) -> UsageError:
    """What is said of infinite entries."""
    return UsageError(
        f"{name} has {count} entries that are infinite; the first, {first}, is in datum {datum} "
        f"{place}; drop or fill such data, or write NaN where a value is missing"
    )


def no_entries(of: str = "") -> UsageError:
    """What is said of data of which nothing is known."""
    return UsageError(
        f"all entries{of or ' of the data'} are missing (NaN), so there is nothing to learn from: "
        f"look at how they were read or made"
    )


def negative(least: float) -> UsageError:
    """What is said of values that have no library size."""
    return UsageError(
        f"a library size is the total of counts, and x has values down to {least:g}: give the "
        f"counts as they were taken, before logarithms and scales"
    )


def _named(gone: Tensor, schema: Schema | None, count: int) -> str:
    """Entries of x that no datum has, in words: columns by their names or places."""
    if gone.dim() != 1:
        words, several = f"{int(gone.sum()):,} of {gone.numel():,} entries", True
    else:
        places = gone.nonzero()[:, 0].tolist()
        names = [repr(schema.names[k]) if schema else str(k) for k in places[:10]]
        several = len(places) > 1
        words = f"column{'s' * several} {', '.join(names)}{', ...' * (len(places) > 10)}"
    return f"{words} of x {'are' if several else 'is'} missing (NaN) in all of the {count:,} data"


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of several batches, if they are of one shape."""
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise UsageError(
            f"data of the shapes {' and '.join(map(str, sorted(shapes)))} follow each other: give "
            f"data of one shape, shorter ones filled with NaN"
        )
    return torch.cat(list(parts))


def _check_dense(tensors: Sequence[object]) -> None:
    """Refuse what is no dense tensor of real numbers."""
    if not tensors:
        raise UsageError("there are no data: TensorData needs at least one tensor, x [N, ...]")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise UsageError(f"TensorData holds tensors, not {kind}; as_data(...) converts it")
        if what := no_data(tensor):
            raise UsageError(f"a tensor is {what}; data are dense real tensors: convert it")


def _check_rows(tensors: Sequence[Tensor]) -> None:
    """Refuse tensors that do not share a first axis, x first, and such without a datum."""
    x = tensors[0]
    if len({tuple(t.shape[:1]) for t in tensors}) > 1 or x.ndim == 0:
        shapes = ", ".join(str(list(t.shape)) for t in tensors)
        raise UsageError(
            f"the tensors and labels must share their first axis, the number of data; "
            f"their shapes are {shapes}"
        )
    if len(x) == 0:
        raise UsageError(f"there are no data: x has shape {list(x.shape)}")


def tensor_data(*tensors: Tensor, scale: float | None = None, **options: Any) -> TensorData:
    """Tensors as data, uint8 ones with three axes or more by their values, unless the ``scale`` is
    given: see :func:`pyrovae.arrays.scaled_by`."""
    if tensors and isinstance(tensors[0], Tensor):
        by = scaled_by(tensors[0], scale)
        options |= {"divisor": by, "maximum": 1.0} if by else {}
    return TensorData(*tensors, **options)
