"""Data: tensors kept as they are stored, served as floats in batches, and ways to load them.

>>> splits = load("mnist5k")
>>> splits.train
TensorData(5000 x [1, 28, 28] uint8 / 255, labelled, cpu)
>>> (x,) = next(splits.train.binarised("dynamic").batches(128, shuffle=True))
>>> x.shape, x.dtype, x.unique().tolist()
(torch.Size([128, 1, 28, 28]), torch.float32, [0.0, 1.0])
"""

from __future__ import annotations

import contextlib
import copy
import csv
import difflib
import functools
import importlib.resources
import itertools
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        x = stored.to(self.dtype or torch.get_default_dtype())
        if self.divisor is not None:
            x = x / self.divisor
        if self.binarise is None:
            return x
        probability = x if self._maximum in (None, 1) else x / cast(float, self._maximum)
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
        """Where the tensors are stored and served."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of storage, labels included."""
        return sum(t.nbytes for t in (*self.tensors, self.labels) if t is not None)

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, ...]:
        x, *others = (tensor[index] for tensor in self.tensors)
        return self._served(x, None, noise=True), *others

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
        drawn = torch.empty(self.tensors[0].shape, dtype=torch.uint8, device=self.device)
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
            chosen = torch.atleast_1d(torch.as_tensor(indices, device=self.device))
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

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TensorData:
        """The same data on `device`, x served in `dtype`."""
        labels = None if self.labels is None else self.labels.to(device)
        tensors = tuple(t.to(device) for t in self.tensors)
        return self._with(tensors=tensors, labels=labels, dtype=dtype or self.dtype)

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
        order = torch.randperm(n, generator=generator, device=self.device) if shuffle else None
        for start in range(0, n - size + 1 if drop_last else n, size):
            batch = slice(start, start + size)
            if order is None:
                x, *others = (tensor[batch] for tensor in self.tensors)
            else:
                x, *others = (tensor.index_select(0, order[batch]) for tensor in self.tensors)
            yield self._served(x, generator, noise=True), *others

    def check_finite(self) -> None:
        """Raise UsageError when an entry is NaN or infinite: how many, the first, the remedy."""
        for argument, tensor in enumerate(self.tensors):
            if not tensor.is_floating_point():
                continue
            count, first = 0, None
            rows = max(1, 2**22 // max(1, tensor[0].numel()))  # bounds the mask's memory
            for start, chunk in zip(range(0, len(self), rows), tensor.split(rows), strict=True):
                bad = ~chunk.isfinite()
                if found := int(bad.sum()):
                    count += found
                    first = first or (start, bad.nonzero()[0].tolist())
            if first is not None:
                start, (row, *position) = first
                value = tensor[(start + row, *position)].item()
                raise UsageError(
                    f"{'y' if argument else 'x'} has {count} entries that are NaN or infinite; the "
                    f"first, {value}, is in datum {start + row} at position {position}; drop or fill such data"
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
        with open("/proc/meminfo") as file:
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


@dataclass(frozen=True)
class Splits:
    """A data set: its training and test parts, and what its labels mean."""

    name: str
    train: TensorData
    test: TensorData
    classes: tuple[str, ...] | None
    description: str


# torchvision's class, and the arguments of its training and its test part
_TORCHVISION: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mnist": ("MNIST", {"train": True}, {"train": False}),
    "fashion-mnist": ("FashionMNIST", {"train": True}, {"train": False}),
    "kmnist": ("KMNIST", {"train": True}, {"train": False}),
    "emnist": (
        "EMNIST",
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
    ),
    "omniglot": ("Omniglot", {"background": True}, {"background": False}),
    "cifar10": ("CIFAR10", {"train": True}, {"train": False}),
    "svhn": ("SVHN", {"split": "train"}, {"split": "test"}),
    "celeba": ("CelebA", {"split": "train"}, {"split": "test"}),
}
# sets decoded one by one: Omniglot as ink on 28 x 28, CelebA's faces cropped to 64 x 64
_DECODED: dict[str, Callable[[Any], np.ndarray]] = {
    "omniglot": lambda image: 255 - np.asarray(image.resize((28, 28), resample=2)),
    "celeba": lambda image: np.asarray(image.crop((15, 35, 163, 183)).resize((64, 64), resample=2)),
}
_DIGITS = tuple("0123456789")
NAMES = ("mnist5k", "digits", *_TORCHVISION)
SUFFIXES = (".npy", ".npz", ".pt", ".csv", ".parquet")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def load(
    name: str | Path,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    label: str | None = None,
    seed: int = 0,
) -> Splits:
    """A data set by its name, or from a file or a folder of images.

    Names: mnist5k (bundled), digits (scikit-learn), and torchvision's mnist, fashion-mnist,
    kmnist, emnist, omniglot, cifar10, svhn and celeba, which are read from `data_dir` (default
    $PYROVAE_DATA or ~/.cache/pyrovae) or downloaded to it. Images are uint8 [N, C, H, W].

    Paths: .npy; .npz or .pt with x or x_train and x_test, and labels y or y_train and y_test; .csv
    and .parquet tables, whose column `label` holds class labels; a folder of images, subfolders
    being classes, `train` and `test` folders the parts. uint8 arrays [N, H, W], [N, C, H, W] or
    [N, H, W, C] are images. Where there is no test part, a tenth is held out at random (`seed`).

    Raises UsageError for an unknown name, and for files missing, damaged or of another kind.

    >>> splits = load("digits")
    >>> splits.test, splits.test.maximum, splits.classes[:3]
    (TensorData(360 x [1, 8, 8] float32, labelled, cpu), 16.0, ('0', '1', '2'))
    """
    path = Path(name).expanduser()
    if isinstance(name, str) and name in NAMES:
        if label is not None:
            raise UsageError(f"label={label!r} names a column of a .csv or .parquet file")
        if name == "mnist5k":
            return _load_mnist5k()
        return (
            _load_digits(seed) if name == "digits" else _load_torchvision(name, data_dir, download)
        )
    separated = any(sep in str(name) for sep in (os.sep, os.altsep) if sep)
    known = path.suffix.lower() in SUFFIXES
    if not path.exists():
        if isinstance(name, Path) or separated or known:
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            where = "" if path.parent.is_dir() else f" (nor a folder {str(path.parent)!r})"
            raise UsageError(f"there is no file {str(name)!r}{where}{nearest(path.name, siblings)}")
        hint = nearest(name.lower(), NAMES) or "."
        raise UsageError(
            f"there is no data set or file {name!r}{hint} Names: {', '.join(NAMES)}. "
            f"Paths: {' '.join(SUFFIXES)} or a folder of images"
        )
    if not path.is_dir() and not known:
        raise UsageError(
            f"the format of {str(path)!r} is not known by its suffix; convert it to one of "
            f"{' '.join(SUFFIXES)} or put images in a folder"
        )
    with _reading(path):
        return _from_arrays(path, _read(path, label), seed)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextlib.contextmanager
def _reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with a file's contents into a UsageError that names the file."""
    try:
        yield
    except UsageError as error:
        if str(path) in str(error):
            raise
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # damaged files raise nearly every kind
        remedy = remedy or "it may be cut short or of another format: make it again"
        raise UsageError(f"{path} cannot be read: {_reason(error)}; {remedy}") from error


def _load_mnist5k() -> Splits:
    source = importlib.resources.files("pyrovae.assets").joinpath("mnist5k.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        train, test = (
            _from_file(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")
        )
    about = "5,000 training and 1,000 test images of MNIST, 28 x 28 handwritten digits (bundled)"
    return Splits("mnist5k", train, test, _DIGITS, about)


def _load_digits(seed: int) -> Splits:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UsageError(
            f"digits needs scikit-learn ({error}): pip install scikit-learn"
        ) from error
    x, y = load_digits(return_X_y=True)
    data = TensorData(_tensor(x.reshape(-1, 1, 8, 8)), labels=y, maximum=16.0)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    about = "1,797 images of 8 x 8 handwritten digits, counts 0 to 16 (scikit-learn)"
    return Splits("digits", data.select(train), data.select(test), _DIGITS, about)


def _load_torchvision(name: str, data_dir: str | Path | None, download: bool) -> Splits:
    try:
        import torchvision.datasets as sets
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise UsageError(
            f"{name} needs torchvision, which cannot be imported ({_reason(error)}); install the "
            f"two that fit together: pip install torch torchvision"
        ) from error
    kind, for_train, for_test = _TORCHVISION[name]
    root = Path(data_dir or os.environ.get("PYROVAE_DATA") or "~/.cache/pyrovae").expanduser()
    if not download and not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r} to read {name} from; pass --data-dir")
    folder = root / kind / "raw" if "mnist" in name else root
    remedy = (
        f"put its files in {folder}, pass the --data-dir that has them, or use the bundled mnist5k "
        f"or digits"
    )

    def open_part(arguments: dict[str, Any]) -> Any:
        make = functools.partial(
            getattr(sets, kind), root=root, transform=_DECODED.get(name), **arguments
        )
        try:
            return make(download=False)
        except ImportError as error:
            raise UsageError(f"{_reason(error)}: pip install what {name} needs") from error
        except (RuntimeError, FileNotFoundError) as error:
            if isinstance(error, RuntimeError) and "not found" not in str(error):
                raise  # the files are there but damaged
            if not download:
                raise UsageError(f"{name} is not in {folder}; allow download, {remedy}") from error
        try:
            return make(download=True)
        except (OSError, RuntimeError, ImportError) as error:
            raise UsageError(
                f"{name} is not in {folder} and cannot be downloaded: {_reason(error)}; {remedy}"
            ) from error

    with _reading(folder, f"delete them to have them downloaded again, or {remedy}"):
        train, classes = _from_torchvision(open_part(for_train), name)
        test, _ = _from_torchvision(open_part(for_test), name)
        if name == "omniglot":  # the characters of the test part are all new
            test.labels = cast(Tensor, test.labels) + 1 + int(cast(Tensor, train.labels).max())
    about = f"{len(train):,} training and {len(test):,} test images of {kind} (torchvision)"
    return Splits(name, train, test, classes, about)


def _from_torchvision(source: Any, name: str) -> tuple[TensorData, tuple[str, ...] | None]:
    if name in _DECODED:
        targets = []
        for i, (image, target) in enumerate(source):
            if i == 0:
                images = np.empty((len(source), *image.shape), np.uint8)
            images[i] = image
            targets.append(target)
        return _from_file(images, targets if name == "omniglot" else None), None
    x = torch.as_tensor(source.data)
    if name == "emnist":  # its files hold the images transposed
        x = x.transpose(1, 2)
    y = source.targets if hasattr(source, "targets") else source.labels
    classes = tuple(c.split(" - ")[0] for c in getattr(source, "classes", _DIGITS))
    return _from_file(x, y), classes


def _from_file(x: Any, labels: Any = None) -> TensorData:
    """TensorData of what a file holds: uint8 images in any layout as [N, C, H, W]."""
    x = _tensor(x)
    if x.dtype == torch.uint8 and x.ndim in (3, 4):
        if x.ndim == 3:
            x = x.unsqueeze(1)
        elif x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
            x = x.permute(0, 3, 1, 2)
        return TensorData(x.contiguous(), labels=labels, divisor=255, maximum=1.0)
    return TensorData(x.unsqueeze(1) if x.ndim == 1 else x, labels=labels)


def _from_arrays(path: Path, arrays: dict[str, Any], seed: int) -> Splits:
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    first = "x_train" if "x_train" in arrays else "x"
    if first not in arrays:
        raise UsageError(
            f"it holds {', '.join(map(str, list(arrays)[:5])) or 'no array'}; the arrays are to be "
            f"named x, or x_train and x_test, with labels y, or y_train and y_test"
        )
    keys = [key for key in (first, "x_test") if key in arrays]
    ys = {key: arrays[y] for key in keys if (y := key.replace("x", "y")) in arrays}
    classes, labels = _classes(ys) if ys else (None, {})
    train, *rest = (_from_file(arrays[key], labels.get(key)) for key in keys)
    if rest and rest[0].event_shape != train.event_shape:
        shapes = f"{list(train.event_shape)} and {list(rest[0].event_shape)}"
        raise UsageError(f"the training and test data must have one shape, not {shapes}")
    if not rest and len(train) < 2:
        raise UsageError(
            "it holds 1 datum; at least 2 are needed, to hold one out as the test part"
        )
    held = "" if rest else f" (held out at random, seed {seed})"
    train, test = (train, *rest) if rest else train.split(max(1, round(len(train) / 10)), seed)
    about = f"{len(train):,} training and {len(test):,} test data{held} from {path}"
    return Splits(path.stem, train, test, classes, about)


def _classes(ys: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names of the classes in `ys`, and each y as positions among them."""
    arrays = {key: np.ravel(np.asarray(y)) for key, y in ys.items()}
    joined = np.concatenate(list(arrays.values()))
    if joined.dtype.kind == "U":
        with contextlib.suppress(ValueError):
            joined = joined.astype(np.float64)
    if joined.dtype.kind == "f" and np.all(joined == np.round(joined)):
        joined = joined.astype(np.int64)
    if joined.dtype.kind not in "biuU":
        raise UsageError("labels must be whole numbers or names; put other targets into x")
    names, codes = np.unique(joined, return_inverse=True)
    ends = np.cumsum([len(y) for y in arrays.values()])[:-1]
    return tuple(map(str, names)), dict(zip(arrays, np.split(codes, ends), strict=True))


def _read(path: Path, label: str | None) -> dict[str, Any]:
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".csv":
        return _read_csv(path, label)
    if suffix == ".parquet":
        return _read_parquet(path, label)
    if label is not None:
        raise UsageError(f"label={label!r} names a column of a .csv or .parquet file")
    if suffix == "":
        return _read_folder(path)
    if suffix == ".pt":
        held = torch.load(path, map_location="cpu", weights_only=True)
        return held if isinstance(held, dict) else {"x": held}
    with path.open("rb") as file:  # np.load(path) leaves a damaged .npz open
        loaded = np.load(file, allow_pickle=False)
        return {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)


def _read_csv(path: Path, label: str | None) -> dict[str, Any]:
    values, labels = array("d"), []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        rows = (row for row in lines if row)
        first = next(rows, [])
        header = label in first or not any(map(_is_number, first))
        names = first if header else [f"column {i}" for i in range(1, len(first) + 1)]
        at = _label_column(names, label)
        for row in itertools.chain([] if header else [first], rows):
            if len(row) != len(names):
                raise UsageError(
                    f"line {lines.line_num} has {len(row)} cells where there are {len(names)} columns"
                )
            if at is not None:
                labels.append(row.pop(at))
            try:
                values.extend([float(cell) if cell.strip() else math.nan for cell in row])
            except ValueError:
                column = next(i for i, c in enumerate(row) if c.strip() and not _is_number(c))
                name = [n for i, n in enumerate(names) if i != at][column]
                raise _not_numeric(name, f"{row[column]!r} in line {lines.line_num}") from None
    width = len(names) - (at is not None)
    x = np.frombuffer(values).reshape(-1, width) if values else np.empty((0, width))
    return {"x": x} if at is None else {"x": x, "y": labels}


def _read_parquet(path: Path, label: str | None) -> dict[str, Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f'reading it needs pyarrow ({error}); pip install "pyrovae[parquet]"'
        ) from error
    table = pyarrow.parquet.read_table(path)
    at = _label_column(table.column_names, label)
    columns = [column.to_numpy() for column in table.columns]
    y = None if at is None else columns.pop(at)
    for name, column in zip((n for n in table.column_names if n != label), columns, strict=True):
        if column.dtype.kind not in "biuf":
            raise _not_numeric(name, f"{column[0]!r}" if len(column) else str(column.dtype))
    x = np.stack(columns, axis=1) if columns else np.empty((0, 0))
    if y is not None and y.dtype.kind not in "biuf":
        y = y.astype(str)
    return {"x": x} if y is None else {"x": x, "y": y}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _label_column(names: list[str], label: str | None) -> int | None:
    if label is not None and label not in names:
        few = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        raise UsageError(f"there is no column {label!r}{nearest(label, names)} Columns: {few}")
    return None if label is None else names.index(label)


def _not_numeric(name: str, found: str) -> UsageError:
    return UsageError(
        f"column {name!r} is not numeric ({found}); leave it out, turn it into numbers, or name it "
        f"as label={name!r} if it holds class labels"
    )


def _read_folder(path: Path) -> dict[str, Any]:
    roots = {"x": path}
    if (path / "train").is_dir() and (path / "test").is_dir():
        roots = {"x_train": path / "train", "x_test": path / "test"}
    arrays: dict[str, Any] = {}
    seen: tuple[Path, tuple[int, ...]] | None = None
    for key, root in roots.items():
        files = sorted(
            file
            for file in root.rglob("[!.]*")
            if file.suffix.lower() in _IMAGE_SUFFIXES and file.is_file()
        )
        if not files:
            kinds = " ".join(_IMAGE_SUFFIXES)
            raise UsageError(f"there are no images in {root}; images are files {kinds}")
        for i, file in enumerate(files):
            with _reading(file, "it is damaged or no image: replace it or take it away"):
                image = _decode(file)
            first, shape = seen = seen or (file, image.shape)
            if image.shape != shape:
                one, other = (
                    f"{f} is {' x '.join(map(str, s))}"
                    for f, s in ((first, shape), (file, image.shape))
                )
                raise UsageError(
                    f"images must have one size and mode (height x width x channels): {one}, "
                    f"{other}; resize or convert them to the same"
                )
            if i == 0:
                images = np.empty((len(files), *shape), np.uint8)
            images[i] = image
        # Channels first here: the layout of few pixels cannot be told from their number.
        arrays[key] = images.transpose(0, 3, 1, 2)
        if any(file.parent != root for file in files):
            arrays[key.replace("x", "y")] = [file.relative_to(root).parts[0] for file in files]
    return arrays


def _decode(file: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f"images need Pillow ({error}): pip install pillow") from error
    with Image.open(file) as image:
        simple = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
        mode = simple.get(image.mode, image.mode)
        if mode not in ("L", "RGB", "RGBA"):
            raise UsageError(f"its mode is {mode}; convert it to 8-bit grey or colour")
        return np.atleast_3d(np.asarray(image.convert(mode)))
