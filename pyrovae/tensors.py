"""Tensors kept as stored and served as floats in batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyrovae.errors import UsageError, got, in_short, nearest
from pyrovae.memory import fits
from pyrovae.summaries import Summary


def log_mean_exp(values: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp(values) along ``dim``.

    >>> log_mean_exp(torch.tensor([0.0, 0.0]))
    tensor(0.)
    """
    return values.logsumexp(dim) - math.log(values.shape[dim])


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
