"""Tensors kept as stored and served as floats in batches; streams of those that do not fit."""

from __future__ import annotations

import copy
import difflib
import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


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


def whole_number(name: str, value: object, least: int = 1) -> int:
    """``value``, if it is a whole number of at least ``least``; UsageError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def number(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a float, if it is a positive number (0 too with ``zero``); UsageError
    otherwise."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not 0 <= cast(float, value) < float("inf") or (value == 0 and not zero):
        words = "a number of at least 0" if zero else "a positive number"
        raise UsageError(f"{name} must be {words}, got {value!r}")
    return float(cast(float, value))


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
            if tensor.is_complex() or tensor.layout != torch.strided:
                what = "complex" if tensor.is_complex() else "sparse"
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

    def _served(self, stored: Tensor, generator: torch.Generator | None, noise: bool) -> Tensor:
        x = stored.to(self._device, non_blocking=True)
        x = x.to(self.dtype or torch.get_default_dtype())
        if self.divisor is not None:
            x = x / self.divisor
        if self.binarise is None:
            return x
        probability = x if self._maximum in (None, 1) else x / self._maximum
        if self.binarise == "threshold":
            return (probability >= 0.5).to(x.dtype)
        return torch.bernoulli(probability, generator=generator) if noise else probability

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
        x, *others = (tensor[index] for tensor in self.tensors)
        return self._served(x, None, noise=True), *(o.to(self._device) for o in others)

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
        fraction = 0 < held_out < 1
        count = round(held_out * len(self)) if fraction else int(held_out)
        if not 0 < count < len(self) or not (fraction or count == held_out):
            raise UsageError(
                f"cannot hold out {held_out} of {len(self)} data: give a fraction in (0, 1) or a "
                f"count that leaves at least one datum on each side"
            )
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
            raise UsageError("the data have no labels: give TensorData(x, labels=...) or (x, y)")
        return self._with(tensors=(self.tensors[0], self.labels))

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass in batches ([B, *event], ...) gathered on the data's device.

        `generator` (on that device) drives the order and the binarisation.

        >>> data = TensorData(torch.arange(5.0))
        >>> [x.tolist() for (x,) in data.batches(2)]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
        """
        if batch_size < 1 or (drop_last and batch_size > len(self)):
            raise UsageError(f"no batch of {batch_size} can be made of {len(self)} data")
        return self._batches(batch_size, shuffle, generator, drop_last)

    def _batches(
        self, size: int, shuffle: bool, generator: torch.Generator | None, drop_last: bool
    ) -> Iterator[tuple[Tensor, ...]]:
        n = len(self)
        order = None
        if shuffle:
            order = torch.randperm(n, generator=generator, device=self._device)
            order = order.to(self.tensors[0].device)
        for start in range(0, n - size + 1 if drop_last else n, size):
            batch = slice(start, start + size)
            if order is None:
                x, *others = (tensor[batch] for tensor in self.tensors)
            else:
                x, *others = (tensor.index_select(0, order[batch]) for tensor in self.tensors)
            yield (
                self._served(x, generator, noise=True),
                *(o.to(self._device, non_blocking=True) for o in others),
            )

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


def _is_image(x: Tensor) -> bool:
    return x.dtype == torch.uint8 and x.ndim >= 3


class StreamedData:
    """Batches of a DataLoader, moved to a device: for data that do not fit in its memory.

    The loader yields x [B, *event] or (x, y, ...), and keeps its own batch size and order.
    Integers x are served as floats, uint8 images [B, ..., H, W] divided by 255.

    >>> stream = as_data(DataLoader(TensorDataset(torch.zeros(10, 3)), batch_size=4))
    >>> len(stream), stream.event_shape, [len(x) for (x,) in stream.batches()]
    (10, torch.Size([3]), [4, 4, 2])
    """

    labels: None = None
    maximum: None = None
    binarise: None = None

    def __init__(
        self,
        loader: DataLoader[Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.loader, self.device, self.dtype = loader, torch.device(device), dtype

    def __len__(self) -> int:
        """The number of data; UsageError when the loader's data set does not tell."""
        try:
            return len(cast(Any, self.loader.dataset))
        except TypeError:
            kind = type(self.loader.dataset).__name__
            raise UsageError(
                f"{kind} has no length; give it a __len__, the number of data"
            ) from None

    def __repr__(self) -> str:
        return f"StreamedData({type(self.loader.dataset).__name__}, {self.device})"

    @functools.cached_property
    def event_shape(self) -> torch.Size:
        """The shape of one x, seen in a first batch."""
        own = self.loader.generator
        state = None if own is None else own.get_state()
        with torch.random.fork_rng(devices=[]):  # a look must not change what is drawn later
            for x, *_ in self.batches():
                if own is not None and state is not None:
                    own.set_state(state)
                return x.shape[1:]
        raise UsageError("there are no data: the DataLoader yields no batch")

    def fixed(self, seed: int = 0) -> StreamedData:
        """Itself: what a loader yields is its own affair."""
        return self

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> StreamedData:
        """The same stream, served on `device`, x in `dtype`."""
        return StreamedData(self.loader, device or self.device, dtype or self.dtype)

    def batches(
        self,
        batch_size: int | None = None,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the loader; the arguments are TensorData's, and the loader's own hold."""
        for batch in self.loader:
            parts = (batch,) if isinstance(batch, Tensor) else batch
            if not isinstance(parts, tuple | list) or not all(isinstance(p, Tensor) for p in parts):
                raise UsageError(
                    f"the DataLoader yields {type(batch).__name__}; a batch is a tensor x or a "
                    f"tuple of tensors (x, y, ...): give it such a data set or collate_fn"
                )
            x, *others = (part.to(self.device, non_blocking=True) for part in parts)
            image, x = _is_image(x), x.to(self.dtype or torch.get_default_dtype())
            yield x / 255 if image else x, *others


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


def as_data(
    x: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> TensorData | StreamedData:
    """Data from what Python has: moved to `device`, served in `dtype`, when they are given.

    Takes TensorData or StreamedData; a tensor, array or DataFrame x; a tuple (or list of
    arrays) of those (x, y, ...); a TensorDataset; a map-style Dataset of x or (x, y, ...), which
    becomes a TensorData where it fits; or a DataLoader, which is streamed. uint8 tensors with
    three axes or more are 8-bit images, x / 255. Raises UsageError for anything else.

    >>> as_data((np.zeros((4, 3)), np.arange(4)))
    TensorData(4 x [3] float32, y [], cpu)
    >>> as_data(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    TensorData(4 x [1, 8, 8] uint8 / 255, cpu)
    """
    data: TensorData | StreamedData
    if isinstance(x, TensorData | StreamedData):
        data = x
    elif isinstance(x, DataLoader):
        data = StreamedData(x)
    elif isinstance(x, TensorDataset):
        data = _tensor_data(*x.tensors)
    elif isinstance(x, Dataset):
        data = _read_dataset(x, device)
    elif isinstance(x, str | Path):
        raise UsageError(f"{str(x)!r} is a name, not data; load({str(x)!r}) reads it")
    elif isinstance(x, tuple) or (
        isinstance(x, list) and any(getattr(part, "ndim", 0) > 0 for part in x)
    ):
        data = _tensor_data(*map(_tensor, x))
    else:
        data = _tensor_data(_tensor(x))
    return data if device is None and dtype is None else data.to(device, dtype)


def _tensor(value: Any) -> Tensor:
    """A tensor of real numbers from anything NumPy takes, float64 arrays in the default dtype."""
    if isinstance(value, Tensor):
        return value
    try:
        values = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"the data are not one rectangular array: {error}") from error
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


def _read_dataset(dataset: Dataset[Any], device: Any) -> TensorData | StreamedData:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise UsageError(f"{kind} has no length; pass DataLoader({kind}(...), batch_size=...)")
    if not (n := len(dataset)):
        raise UsageError(f"there are no data: {type(dataset).__name__} is empty")
    item = dataset[0]
    parts = item if isinstance(item, tuple | list) else (item,)
    for part in parts:
        if not isinstance(part, Tensor | np.ndarray | np.number | int | float):
            raise UsageError(
                f"the items of {type(dataset).__name__} hold {type(part).__name__}, not tensors; "
                f"images become tensors with the data set's transform=ToTensor()"
            )
    nbytes = n * sum(torch.as_tensor(part).nbytes for part in parts)
    if not (fits(nbytes, "cpu") and fits(nbytes, device or "cpu")):
        return StreamedData(DataLoader(dataset, batch_size=128, shuffle=True))
    try:
        # Its own generator: a DataLoader draws a seed from the global one otherwise.
        loader = DataLoader(dataset, batch_size=256, generator=torch.Generator())
        batches = [[batch] if isinstance(batch, Tensor) else batch for batch in loader]
        columns = [torch.cat(rows) for rows in zip(*batches, strict=True)]
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"the items of {type(dataset).__name__} do not form one tensor: {_reason(error)}; "
            f"give them all the same shape and type"
        ) from error
    return _tensor_data(*(_tensor(c.numpy()) if c.dtype == torch.float64 else c for c in columns))


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
