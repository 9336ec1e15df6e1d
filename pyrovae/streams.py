"""Data larger than memory: files read window by window, and the user's own DataLoader."""

from __future__ import annotations

import copy
import functools
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.errors import UsageError, got, in_short, reason
from pyrovae.memory import fits
from pyrovae.sources import ArrayFile, Source, _reading, open_source
from pyrovae.summaries import Summary
from pyrovae.tensors import (
    TensorData,
    _cuts,
    _is_image,
    _no_data,
    _own,
    _part,
    _tensor,
    _tensor_data,
)

__all__ = ["Data", "FileData", "StreamedData", "as_data"]

WINDOW, ROWS = 2**26, 2**16  # bytes and rows that are in memory at once
MOST = 10_000  # rows that are held out or summarised


class FileData:
    """Data in files that do not fit in memory, read window by window: ``TensorData`` of a file.

    One pass puts the blocks of the file in random order, some of them in a window (64 MiB, or
    65,536 data where that is less), and the data within a window in random order: every datum
    is served once. Values are stored, scaled, served and binarised as ``TensorData`` does;
    "static" draws belong to the datum, whatever the order. NaN is passed through.

    Args:
        source: a path (.npy, .parquet, a folder of images), or any :class:`Source`.
        num_workers: processes that read ahead; by default up to 4 for images, which are decoded,
            and none for the others, whose reading takes little of a step's time. The order does
            not depend on it.

    Raises:
        UsageError: no data, or what the source says.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    ...     data = FileData(f"{folder}/x.npy")
    ...     [x.tolist() for (x,) in data.batches(2)]
    [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]], [[8.0, 9.0]]]
    """

    labels: None = None

    def __init__(self, source: Source | str | Path, *, num_workers: int | None = None) -> None:
        self.source = source if isinstance(source, Source) else open_source(source)
        self.num_workers = num_workers
        x, labels = self.source.read(0, min(1, len(self.source)))
        self._stored = _tensor_data(x, labels=labels)  # one datum, and how all of them are served
        self._like = self._stored
        self._static: int | None = None
        self._labelled = False
        self._held = np.empty(0, np.int64)  # rows that are not of these data

    def _with(self, **changes: Any) -> FileData:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x."""
        return self._like.event_shape

    @property
    def device(self) -> torch.device:
        """Where the data are served."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype | None:
        """What x is served in; None for the default dtype."""
        return self._like.dtype

    @property
    def maximum(self) -> float | None:
        """The largest value a served x can have: 1 once binarised, None when unknown."""
        return self._like.maximum

    @property
    def binarise(self) -> str | None:
        """None, "dynamic" or "threshold"."""
        return self._like.binarise

    @property
    def classes(self) -> tuple[str, ...] | None:
        """What the source's labels mean; None without labels."""
        return self.source.classes

    @property
    def nbytes(self) -> int:
        """Bytes that the data would take in memory."""
        return len(self) * self._stored.nbytes

    def __len__(self) -> int:
        return len(self.source) - len(self._held)

    def __repr__(self) -> str:
        settings = repr(self._like).removeprefix("TensorData(1 x ")
        return f"FileData({self.source.name}: {len(self):,} x {settings}"

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FileData:
        """The same data, served on `device`, x in `dtype`."""
        device = self.device if device is None else torch.device(device)
        return self._with(_like=self._like._with(_device=device, dtype=dtype or self.dtype))

    def binarised(self, mode: str, seed: int = 0) -> FileData:
        """The same data, binarised in another way; see :meth:`TensorData.binarised`.

        "static" draws are made anew from `seed` and the datum's place whenever it is read. Values
        outside [0, maximum] raise UsageError here if they are in the first datum, or when read.
        """
        keep = {"_device": self.device, "dtype": self.dtype}
        like = self._stored._with(**keep).binarised(mode, seed)._with(**keep)
        return self._with(_like=like, _static=seed if mode == "static" else None)

    def fixed(self, seed: int = 0) -> FileData:
        """The same data without noise in what is served: dynamic ones become "static"."""
        return self.binarised("static", seed) if self.binarise == "dynamic" else self

    def with_labels(self) -> FileData:
        """The data (x, labels), so that a model(x, y) receives the labels."""
        if self._stored.labels is None:
            raise UsageError(
                f"{self.source.name} has no labels: images in subfolders and tables with "
                f"label='column' have"
            )
        return self._with(_labelled=True)

    def split(self, held_out: float, seed: int = 0) -> tuple[FileData, TensorData]:
        """(train, held): hold out a fraction in (0, 1) or a number of data, 10,000 at most.

        The held-out data are a :meth:`sample`, in memory. Raises UsageError when either side
        would be empty.
        """
        count = min(_part(held_out, len(self)), MOST)
        rows, held = self._some(count, seed)
        return self._with(_held=np.union1d(self._held, rows)), held

    def sample(self, count: int = MOST, seed: int = 0) -> TensorData:
        """`count` data at random, or all there are, in memory and in the order of the file.

        They are drawn from at most 256 blocks of the file, or 1 GiB of it, where these have as
        many.
        """
        return self._some(min(count, len(self)), seed)[1]

    def summary(self) -> Summary:
        """What values x has as it is served, of 10,000 data at random or all there are."""
        return self.sample().summary()

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
        """One pass in batches ([B, *event], ...); the arguments are those of `TensorData`.

        Raises:
            UsageError: no batch can be made, or none fits in memory; as it goes, a damaged file.
        """
        n = len(self)
        cuts = _cuts(n, batch_size, drop_last, skip, share)
        if not fits(nbytes := min(batch_size, n) * self._stored[0][0].nbytes, "cpu"):
            raise UsageError(
                f"a batch of {batch_size:,} data from {self.source.name} takes {nbytes:,} bytes, "
                f"which do not fit in memory; ask for fewer at once"
            )
        seed = None
        if shuffle:
            device = None if generator is None else generator.device
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
        end = n - n % batch_size if drop_last else n
        return self._batches(_Pass.of(self, seed, batch_size, end, skip, share), cuts, generator)

    def _batches(
        self, windows: _Pass, cuts: Iterator[Any], generator: torch.Generator | None
    ) -> Iterator[tuple[Tensor, ...]]:
        needed = windows.needed()
        workers = self.source.workers if self.num_workers is None else self.num_workers
        if multiprocessing.current_process().daemon:  # such a process may start none
            workers = 0
        loader = DataLoader(
            windows,
            batch_size=None,
            sampler=needed,
            num_workers=min(workers, len(needed)),
            collate_fn=_as_is,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # the global one is not to be drawn from
        )
        none = self._columns(self._like.tensors[0], self._stored.labels)
        rest = tuple(t[:0].to(self.device) for t in none)
        reads = iter(loader)
        try:
            for _, size, own in cuts:
                count = own.stop - own.start
                parts, rest = [tuple(t[:count] for t in rest)], tuple(t[count:] for t in rest)
                while missing := count - sum(len(part[0]) for part in parts):
                    window = next(reads)
                    if isinstance(window, UsageError):
                        raise window
                    window = tuple(t.to(self.device) for t in window)
                    parts.append(tuple(t[:missing] for t in window))
                    rest = tuple(t[missing:] for t in window)
                parts = [part for part in parts if len(part[0])] or parts[:1]
                rows = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
                yield self._like._serve(tuple(rows), generator, size, own)
        finally:
            del reads  # an error that is kept would keep the workers

    def _columns(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        return (x, cast(Tensor, labels)) if self._labelled else (x,)

    def _lengths(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """How many of these data blocks have."""
        gone = np.searchsorted(self._held, stop) - np.searchsorted(self._held, start)
        return stop - start - gone

    def _some(self, count: int, seed: int) -> tuple[np.ndarray, TensorData]:
        """Data at random, in file order, and their rows in the file."""
        rng = np.random.default_rng(seed)
        bounds = self.source.bounds
        lengths = self._lengths(bounds[:-1], bounds[1:])
        order = rng.permutation(len(lengths))
        ends = np.cumsum(lengths[order])
        enough = int(np.searchsorted(ends, min(2 * count, len(self)))) + 1
        block = max(1, self.nbytes // len(lengths))
        blocks = np.sort(order[: max(enough, min(256, 2**30 // block))])
        chosen = np.sort(rng.choice(int(lengths[blocks].sum()), count, replace=False))
        rows, x, labels = self._read(blocks, chosen)
        like = self._like._with(tensors=self._columns(x, labels), labels=labels)
        return rows, like.to(self.device)

    def _read(
        self, blocks: np.ndarray, chosen: np.ndarray
    ) -> tuple[np.ndarray, Tensor, Tensor | None]:
        """The chosen ones of the data in some blocks, by their places there: rows, x, labels."""
        first, last = self.source.bounds[blocks], self.source.bounds[blocks + 1]
        lengths = self._lengths(first, last)
        begins = np.cumsum(lengths) - lengths
        order = np.argsort(chosen, kind="stable")
        places = chosen[order]
        which = np.searchsorted(begins, places, "right") - 1
        used, at = np.unique(which, return_index=True)
        rows = np.empty(len(chosen), np.int64)
        like, labels = self._like.tensors[0], self._stored.labels
        x = like.new_empty(len(chosen), *like.shape[1:], device="cpu")
        labels = None if labels is None else labels.new_empty(len(chosen))
        ends = np.append(at, len(chosen))[1:]
        for i, a, b in zip(used, at, ends, strict=True):
            start, stop = int(first[i]), int(last[i])
            held = self._held[slice(*np.searchsorted(self._held, (start, stop)))]
            kept = np.delete(np.arange(start, stop), held - start)
            rows[a:b] = kept[places[a:b] - begins[i]]
            picked = torch.from_numpy(rows[a:b] - start)
            found, own = self._block(start, stop)
            x[a:b] = found if len(found) == b - a else found.index_select(0, picked)
            if labels is not None and own is not None:
                labels[a:b] = own[picked]
        if not np.array_equal(places, chosen):
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            into = torch.from_numpy(back)
            rows, x = rows[back], x.index_select(0, into)
            labels = None if labels is None else labels[into]
        return rows, x, labels

    def _block(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Rows as they are stored, or as they would be if "static" draws were stored."""
        x, labels = self.source.read(start, stop)
        mode = self.binarise if self._static is None else "static"
        if mode is not None:
            data = self._stored._with(tensors=(x,))
            # of the block's place alone, so that a datum keeps its draws
            entropy = np.random.SeedSequence([(self._static or 0) % 2**64, start])
            with _reading(Path(self.source.name)):  # values may be out of range
                data = data.binarised(mode, int(entropy.generate_state(1)[0]))
            x = data.tensors[0]
        return x, labels


@dataclass(frozen=True)
class _Pass(Dataset[Any]):
    """The windows of one pass; each is read as a whole, in this process or another."""

    data: FileData
    order: np.ndarray  # of the blocks
    first: np.ndarray  # of each window: its first block's place in the order, and the end
    edges: np.ndarray  # of each window: its first datum's place in the pass, and the end
    seed: int | None
    size: int
    end: int
    skip: int
    share: tuple[int, int]

    @classmethod
    def of(cls, data: FileData, seed: int | None, *batches: Any) -> _Pass:
        bounds = data.source.bounds
        blocks = len(bounds) - 1
        order = np.arange(blocks)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(blocks)
        most = max(1, min(ROWS, WINDOW // max(1, data._stored.nbytes)))
        if seed is None or blocks == len(data.source):  # nothing to be mixed in a window
            most = min(most, 256)
        ends = np.cumsum(data._lengths(bounds[order], bounds[order + 1]))
        before = np.append(0, ends[:-1])
        _, first = np.unique(before // most, return_index=True)
        edges = np.append(before[first], len(data))
        return cls(data, order, np.append(first, blocks), edges, seed, *batches)

    def needed(self) -> range:
        """The windows that hold what is to be served."""
        begin = min(self.skip * self.size, self.end)
        first = int(np.searchsorted(self.edges, begin, "right")) - 1
        return range(first, int(np.searchsorted(self.edges, self.end)))

    def __getitem__(self, window: int) -> tuple[Tensor, ...] | UsageError:
        rows = np.arange(self.edges[window], self.edges[window + 1])
        batch, at = np.divmod(rows, self.size)
        size = np.minimum(self.size, self.end - batch * self.size)
        rank, world = self.share
        own = (rank * size // world <= at) & (at < (rank + 1) * size // world)
        own &= (batch >= self.skip) & (rows < self.end)
        chosen = np.arange(len(rows))
        if self.seed is not None:
            chosen = np.random.default_rng([self.seed, window]).permutation(len(rows))
        blocks = self.order[self.first[window] : self.first[window + 1]]
        try:
            _, x, labels = self.data._read(blocks, chosen[own])
        except UsageError as error:  # raised in another process, it would lose its words
            return error
        return self.data._columns(x, labels)


def _as_is(window: Any) -> Any:
    return window


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that trains is told, and ends them


# --- the user's own loader ---------------------------------------------------------------------


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
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the loader; the arguments are TensorData's.

        The loader's own size, order and last batch hold; `skip` takes batches from it, unserved.
        """
        loaded = iter(self.loader)
        for _ in range(skip):
            next(loaded, None)
        return self._batches(loaded, share)

    def _batches(
        self, loaded: Iterator[Any], share: tuple[int, int]
    ) -> Iterator[tuple[Tensor, ...]]:
        for batch in _told(loaded):
            parts = (batch,) if isinstance(batch, Tensor) else batch
            if not isinstance(parts, tuple | list) or not all(isinstance(p, Tensor) for p in parts):
                raise UsageError(
                    f"the DataLoader yields {type(batch).__name__}; a batch is a tensor x or a "
                    f"tuple of tensors (x, y, ...): give it such a data set or collate_fn"
                )
            if not parts or len({tuple(p.shape[:1]) for p in parts}) > 1 or not parts[0].dim():
                shapes = ", ".join(str(list(p.shape)) for p in parts[:5]) or "none"
                raise UsageError(
                    f"the DataLoader yields tensors of shapes {shapes}; a batch is x [B, ...] or "
                    f"(x, y, ...) that share their first axis: give the loader a batch_size"
                )
            if what := next((w for p in parts if (w := _no_data(p))), ""):
                raise UsageError(
                    f"the DataLoader yields a tensor that is {what}; data are dense real tensors: "
                    f"convert them in the data set or collate_fn"
                )
            own = _own(len(parts[0]), share)
            x, *others = (part[own].to(self.device, non_blocking=True) for part in parts)
            image, x = _is_image(x), x.to(self.dtype or torch.get_default_dtype())
            yield x / 255 if image else x, *others


def _told(loaded: Iterator[Any]) -> Iterator[Any]:
    """The batches; where there is none to be had, an error that says whose it is."""
    try:
        yield from loaded
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the DataLoader fails ({type(error).__name__}: {in_short(reason(error))}); it must "
            f"give every batch as a tensor x or a tuple of tensors (x, y, ...): look at its data "
            f"set and collate_fn"
        ) from error


Data = TensorData | StreamedData | FileData


def as_data(
    x: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Data:
    """Data from what Python has: moved to `device`, served in `dtype`, when they are given.

    Takes data; a tensor, array or DataFrame x; a tuple (or list of arrays) of those (x, y, ...);
    a TensorDataset; a map-style Dataset of x or (x, y, ...), which becomes a TensorData where it
    fits; a memory-mapped array, which is read window by window where it does not; or a
    DataLoader, which is streamed. uint8 tensors with
    three axes or more are 8-bit images, x / 255. Raises UsageError for anything else.

    >>> as_data((np.zeros((4, 3)), np.arange(4)))
    TensorData(4 x [3] float32, y [], cpu)
    >>> as_data(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    TensorData(4 x [1, 8, 8] uint8 / 255, cpu)
    """
    data: Data
    if isinstance(x, Data):
        data = x
    elif isinstance(x, np.memmap) and x.ndim and not fits(2 * x.nbytes, "cpu"):
        data = FileData(ArrayFile(x, images=False))
    elif isinstance(x, DataLoader):
        data = StreamedData(x)
    elif isinstance(x, TensorDataset):
        data = _tensor_data(*x.tensors)
    elif isinstance(x, Dataset):
        data = _read_dataset(x, device)
    elif isinstance(x, str | Path):
        name = got(str(x))
        raise UsageError(f"{name} is a name, not data; pv.data.load({name}) reads it")
    elif isinstance(x, tuple) or (
        isinstance(x, list) and any(getattr(part, "ndim", 0) > 0 for part in x)
    ):
        data = _tensor_data(*map(_tensor, x))
    else:
        data = _tensor_data(_tensor(x))
    return data if device is None and dtype is None else data.to(device, dtype)


def _read_dataset(dataset: Dataset[Any], device: Any) -> TensorData | StreamedData:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise UsageError(f"{kind} has no length; pass DataLoader({kind}(...), batch_size=...)")
    if not (n := len(dataset)):
        raise UsageError(f"there are no data: {type(dataset).__name__} is empty")
    try:
        item = dataset[0]
    except LookupError as error:
        raise UsageError(
            f"{type(dataset).__name__} has a length of {n} and no item 0 "
            f"({type(error).__name__}: {in_short(error)}); its items are those at 0 to {n - 1}"
        ) from error
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
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise UsageError(
            f"the items of {type(dataset).__name__} do not form one tensor: "
            f"{in_short(reason(error))}; give {n} of them, all of the same shape and type"
        ) from error
    return _tensor_data(*(_tensor(c.numpy()) if c.dtype == torch.float64 else c for c in columns))
