"""Data larger than memory: files read window by window, and the user's own DataLoader."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from pyrovae.arrays import is_sparse, may_be_image, no_data, scaled_by, tensor
from pyrovae.errors import UsageError, got, in_short, lost, reason, worker_lost
from pyrovae.layouts import Layout, is_array
from pyrovae.memory import fits
from pyrovae.pictures import Pictures
from pyrovae.serving import Serving
from pyrovae.sources import ArrayFile, Source, open_source, reading
from pyrovae.sparse import Annotated, SparseData, annotated
from pyrovae.tensors import (
    Batch,
    Cut,
    Data,
    TensorData,
    cuts,
    no_entries,
    own_rows,
    part_of,
    tensor_data,
)
from pyrovae.turns import turn

__all__ = ["Data", "FileData", "StreamedData", "as_data"]

WINDOW, ROWS = 2**26, 2**16  # bytes and rows that are in memory at once
T = TypeVar("T")
Columns = tuple[Tensor, ...]
MOST = 10_000  # rows that are held out or summarised


class FileData(Data):
    """Data in files that do not fit in memory, read window by window: ``TensorData`` of a file.

    One pass puts the blocks of the file in random order, some of them in a window (64 MiB, or
    65,536 data where that is less), and the data within a window in random order: every datum
    is served once. Values are stored, scaled, served and binarised as ``TensorData`` does;
    "static" draws belong to the datum, whatever the order.

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

    def __init__(self, source: Source | str | Path, *, num_workers: int | None = None) -> None:
        self.source = source if isinstance(source, Source) else open_source(source)
        self.num_workers = num_workers
        x, labels = self.source.read(0, min(1, len(self.source)))
        self._stored = self.source.data(x, labels)  # one datum, and what its values mean
        self.serving = self._stored.serving
        self._static: int | None = None
        self._labelled = False
        self._held = np.empty(0, np.int64)  # rows that are not of these data

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x."""
        return self._stored.event_shape

    @property
    def stores_integers(self) -> bool:
        """Whether x is stored as integers that are neither scaled nor binarised."""
        return self._static is None and self.serving.keeps_integers(self._stored.tensors[0])

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
        like = self._stored._with(serving=self.serving, tensors=self._columns(*self._drawn()))
        settings = repr(like).removeprefix("TensorData(1 x ")
        return f"FileData({self.source.name}: {len(self):,} x {settings}"

    def binarised(self, mode: str, seed: int = 0) -> Self:
        """The same data, binarised in another way; see :meth:`TensorData.binarised`.

        "static" draws are made anew from `seed` and the datum's place whenever it is read. Values
        outside [0, maximum] raise UsageError here if they are in the first datum, or when read.
        """
        static = mode == "static"
        meant = replace(self._stored.serving, device=self.device, dtype=self.dtype)
        meant.check_range(self._stored.tensors[0], mode)
        if static:
            meant = replace(meant, divisor=None, maximum=1.0)
        serving = replace(meant, binarise=None if mode in ("none", "static") else mode)
        return self._with(serving=serving, _static=seed if static else None)

    def with_labels(self) -> Self:
        """The data (x, labels), so that a model(x, y) receives the labels."""
        if self._stored.labels is None:
            raise UsageError(
                f"{self.source.name} has no labels: images in subfolders and tables with "
                f"label='column' have"
            )
        return self._with(_labelled=True)

    def split(self, held_out: float, seed: int = 0) -> tuple[Self, TensorData]:
        """(train, held): hold out a fraction in (0, 1) or a number of data, 10,000 at most.

        The held-out data are a :meth:`sample`, in memory. Raises UsageError when either side
        would be empty.
        """
        count = min(part_of(held_out, len(self)), MOST)
        rows, held = self._some(count, seed)
        return self._with(_held=np.union1d(self._held, rows)), held

    def sample(self, count: int = MOST, seed: int = 0) -> TensorData:
        """`count` data at random, or all there are, in memory and in the order of the file.

        They are drawn from at most 256 blocks of the file, or 1 GiB of it, where these have as
        many.
        """
        return self._some(min(count, len(self)), seed)[1]

    def incomplete(self, count: int = 64) -> Batch | None:
        """At most ``count`` data, entries of each taken away: whether any are missing in the
        file shows as it is read. None where x is stored as integers."""
        if not self._stored.tensors[0].is_floating_point():
            return None
        few = self.sample(count)
        return few._with(tensors=tuple(map(_with_gaps, few.tensors)))[:]

    def check_finite(self) -> None:
        """Infinite entries raise UsageError as they are read."""

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
        """One pass in batches ([B, *event], ...); the arguments are those of `TensorData`.

        Raises:
            UsageError: no batch can be made, or none fits in memory; as it goes, a damaged file.
        """
        n = len(self)
        parts = cuts(n, batch_size, drop_last, skip, share)
        row = math.prod(self.event_shape) * (self.dtype or torch.get_default_dtype()).itemsize
        if not fits(nbytes := min(batch_size, n) * row, "cpu"):
            raise UsageError(
                f"a batch of {batch_size:,} data from {self.source.name} takes {nbytes:,} bytes, "
                f"which do not fit in memory; ask for fewer at once"
            )
        seed = None
        if shuffle:
            device = None if generator is None else generator.device
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
        end = n - n % batch_size if drop_last else n
        windows = _Pass.of(self, seed, batch_size, end, skip, share)
        return self._passing(self._batches(windows, parts, generator))

    def _batches(
        self, windows: _Pass, parts: Iterator[Cut], generator: torch.Generator | None
    ) -> Iterator[Batch]:
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
        none = self._columns(*self._drawn())
        rest = tuple(t[:0].to(self.device) for t in none)
        reads = iter(loader)
        try:
            for _, size, own in parts:
                rows, rest = self._taken(own.stop - own.start, rest, reads)
                yield self.serving.batch(rows, generator, size, own)
        finally:
            del reads  # an error that is kept would keep the workers

    def _taken(
        self, count: int, rest: Columns, reads: Iterator[Columns | UsageError]
    ) -> tuple[Columns, Columns]:
        """So many rows of what is left of a window and of those that follow; what is left then."""
        taken, rest = _parted(rest, count)
        read = [taken]
        while missing := count - sum(len(part[0]) for part in read):
            window = next(reads)
            if isinstance(window, UsageError):
                raise window
            taken, rest = _parted(tuple(t.to(self.device) for t in window), missing)
            read.append(taken)
        read = [part for part in read if len(part[0])] or read[:1]
        if len(read) == 1:
            return read[0], rest
        return tuple(map(torch.cat, zip(*read, strict=True))), rest

    def _drawn(self) -> tuple[Tensor, Tensor | None]:
        """The first datum as :meth:`_block` gives it, and its label."""
        x = self._stored.tensors[0]
        drawn = self._static is not None and not x.is_floating_point()
        return x.to(torch.uint8) if drawn else x, self._stored.labels

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
        changes = {"tensors": self._columns(x, labels), "labels": labels, "serving": self.serving}
        return rows, self._stored._with(**changes).to(self.device)

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
        like, labels = self._drawn()
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
        with reading(Path(self.source.name)):  # values may be out of range
            if self._static is not None or self.binarise is not None:
                self._stored.serving.check_range(x, "dynamic")
            if self._static is not None:
                # of the block's place alone, so that a datum keeps its draws
                entropy = np.random.SeedSequence([self._static % 2**64, start])
                seed = int(entropy.generate_state(1)[0])
                x = self._stored.serving.static(x, torch.Generator().manual_seed(seed)).to(
                    self._drawn()[0].dtype
                )
            self.serving.check_digits(x)
            _check_finite(x, start)
        return x, labels


def _check_finite(x: Tensor, start: int) -> None:
    if x.is_floating_point() and bool((bad := x.isinf()).any()):
        row = int(bad.reshape(len(x), -1).any(1).nonzero()[0])
        raise UsageError(f"x is infinite in datum {start + row}; drop or fill such data")


def _with_gaps(x: Tensor) -> Tensor:
    """Floats [B, *event], every entry of which is missing in one datum and there in others."""
    if not x.is_floating_point():
        return x
    gaps = x.clone().reshape(len(x), -1)
    for row, left in enumerate(gaps):
        left[row % len(left) :: len(gaps)] = torch.nan
    return gaps.reshape(x.shape)


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


def _parted(columns: Columns, count: int) -> tuple[Columns, Columns]:
    """The first rows, and the others."""
    return tuple(t[:count] for t in columns), tuple(t[count:] for t in columns)


def _as_is(window: T) -> T:
    return window


def _ignore_interrupts(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that trains is told, and ends them


# --- the user's own loader ---------------------------------------------------------------------


class StreamedData(Data):
    """Batches of a DataLoader, moved to a device: for data that do not fit in its memory.

    The loader yields x [B, *event], (x, y, ...), or dicts, lists and trees of such (see
    :class:`pyrovae.layouts.Layout`), and keeps its own batch size and order. Tensors share their
    first axis; what is no tensor, such as a PackedSequence, a number or a list of names, is handed
    on whole. Integers x are served as floats; uint8 images as :func:`pyrovae.arrays.divisor` tells
    from the first batch, and a later batch that contradicts it is refused, unless ``scale`` says
    what they are divided by: the value of white, or 1.

    >>> stream = as_data(DataLoader(TensorDataset(torch.zeros(10, 3)), batch_size=4))
    >>> len(stream), stream.event_shape, [len(x) for (x,) in stream.batches()]
    (10, torch.Size([3]), [4, 4, 2])
    """

    labels: None = None
    own_batches = True

    def __init__(
        self,
        loader: DataLoader[Any],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        scale: float | None = None,
    ) -> None:
        self.loader, self.scale = loader, scale
        self.serving = Serving(torch.device(device), dtype)
        self._seen: dict[str, _Form] = {}  # of the first batch; copies share it
        self._seed: int | None = None

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

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors that torch's own data sets are made of; of others none is known."""
        return tuple(_tensors(self.loader.dataset))

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """A look must not change what is drawn later."""
        own = self.loader.generator
        state = None if own is None else own.get_state()
        with turn(), torch.random.fork_rng(devices=[]):
            yield
        if own is not None and state is not None:
            own.set_state(state)

    def check_known(self) -> str:
        """Raise UsageError where every number of every batch is missing (NaN): those after the
        first are looked at only where it shows none."""
        if _is_missing(self._form.few):
            with self._looking():
                missing = all(map(_is_missing, self._stored(self._begun())))
            if missing:
                raise no_entries()
        return ""

    @property
    def _form(self) -> _Form:
        """What a first batch shows."""
        if "first" not in self._seen:
            with self._looking():
                if next(self._stored(self._begun()), None) is None:
                    raise UsageError("there are no data: the DataLoader yields no batch")
        return self._seen["first"]

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x, seen in a first batch."""
        return self._form.few[0].shape[1:]

    @property
    def layout(self) -> Layout | None:  # type: ignore[override]
        """How a batch becomes the programs' arguments, seen in a first batch."""
        return self._form.layout

    @property
    def stores_integers(self) -> bool:
        """Whether x comes as integers that are neither scaled nor binarised."""
        return self._served(self._form).keeps_integers(self._form.few[0])

    def binarised(self, mode: str, seed: int = 0) -> Self:
        """The same stream, binarised as it is served: "dynamic" or "threshold"; "none" undoes it.

        Raises:
            UsageError: "static", since a stream does not know a datum again; as batches are
                served, values outside [0, 1].
        """
        if mode == "static":
            raise UsageError(
                "a DataLoader's data cannot be binarised once, since a datum is not known again; "
                "binarise them in the data set, or give tensors or a file"
            )
        self.serving.check_range(torch.empty(0), mode)
        return self._with(serving=replace(self.serving, binarise=None if mode == "none" else mode))

    def fixed(self, seed: int = 0) -> Self:
        """The same stream, dynamic binarisation drawn from ``seed`` in every pass."""
        return self if self.binarise != "dynamic" else self._with(_seed=seed)

    def with_labels(self) -> Self:
        """UsageError: a loader yields its labels itself, beside x."""
        raise UsageError("a DataLoader has no labels apart: let it yield (x, y)")

    def split(self, held_out: float, seed: int = 0) -> tuple[Data, TensorData]:
        """UsageError: a stream cannot be split."""
        raise UsageError(
            "streamed data cannot be split here; pass the held-out data as validation="
        )

    def sample(self, count: int = MOST, seed: int = 0) -> TensorData:
        """The first ``count`` data of a pass, or all there are, in memory."""
        return self.first(count)

    def incomplete(self, count: int = 64) -> Batch | None:
        """At most ``count`` data of a first batch, entries of each taken away: whether any are
        missing shows as they are served. None where all come as integers."""
        few = [leaf[:count] if isinstance(leaf, Tensor) else leaf for leaf in self._form.few]
        gaps = [_with_gaps(leaf) if isinstance(leaf, Tensor) else leaf for leaf in few]
        floating = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in few)
        return self._served(self._form).batch(gaps, None) if floating else None

    def check_finite(self) -> None:
        """Infinite entries raise UsageError as they are served."""

    def batches(
        self,
        batch_size: int | None = None,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        skip: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """One pass over the loader; the arguments are TensorData's.

        The loader's own size, order and last batch hold; `skip` takes batches from it, unserved.
        """
        loaded = self._begun(skip)
        if self._seed is not None:
            generator = torch.Generator(self.device).manual_seed(self._seed)
        return self._passing(self._batches(loaded, generator, share))

    def _begun(self, skip: int = 0) -> Iterator[object]:
        """A pass of the loader, after so many batches."""
        with _told(self.loader):
            loaded = iter(self.loader)
            for _ in range(skip):
                next(loaded, None)
        return loaded

    def _batches(
        self, loaded: Iterator[object], generator: torch.Generator | None, share: tuple[int, int]
    ) -> Iterator[Batch]:
        for stored in self._stored(loaded):
            size = len(stored[0])
            own = own_rows(size, share)
            serving = self._served(self._seen["first"])
            if serving.binarise is not None:
                serving.check_range(stored[0], serving.binarise)
            serving.check_digits(stored[0])
            yield serving.batch([_shared(s, own, size) for s in stored], generator, size, own)

    def _served(self, form: _Form) -> Serving:
        maximum = 1.0 if form.divisor else None
        return replace(self.serving, divisor=form.divisor, maximum=maximum)

    def _stored(self, loaded: Iterator[object]) -> Iterator[Batch]:
        """The batches as leaves on the loader's device, each of the form of the first."""
        for batch in _loaded(self.loader, loaded):
            layout, stored = Layout.of(batch, _as_tensor)
            _check_leaves(batch, stored, self.loader.batch_sampler is None)
            x = stored[0]
            form = self._seen.get("first")
            if form is None:
                by = scaled_by(x, self.scale, _SCALED)
                form = self._seen["first"] = _Form(layout, by, stored)
            if form.layout != layout or len(form.few) != len(stored):
                raise UsageError(
                    "the DataLoader yields batches of different structures, the first one "
                    f"{_in_words(form.few)}, a later one {_in_words(stored)}: let its data set or "
                    f"collate_fn give all of them alike"
                )
            told = may_be_image(x) and self.scale is None
            if told and form.divisor is None and len(x) and int(x.max()) > 1:
                raise UsageError(
                    f"a first batch of uint8 had values of 0 and 1 alone, a later one has "
                    f"{int(x.max())}: {_SCALED}"
                )
            yield stored


_SCALED = "let the data set give floats, pixels divided by 255 and other numbers as they are"


@dataclass(frozen=True)
class _Form:
    """What the first batch of a stream shows of all of them."""

    layout: Layout | None
    divisor: float | None
    few: Batch


def _in_words(leaves: Batch) -> str:
    shown = [str(list(s.shape)) if isinstance(s, Tensor) else type(s).__name__ for s in leaves[:5]]
    return ", ".join(shown) or "none"


def _check_leaves(batch: object, leaves: Batch, single: bool) -> None:
    """Refuse what is no batch. ``single``: the loader makes no batches of its own."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not leaves or not isinstance(leaves[0], Tensor):
        raise UsageError(
            f"the DataLoader yields {type(batch).__name__} without a tensor; a batch is a tensor "
            f"x, a tuple (x, y, ...) or a dict of tensors: give it such a data set or collate_fn"
        )
    if not _is_batch(leaves, tensors, single):
        raise UsageError(
            f"the DataLoader yields tensors of shapes {_in_words(leaves)}; a batch is x [B, ...] "
            f"or (x, y, ...) that share their first axis: give the loader a batch_size"
        )
    _check_values(tensors)


def _check_values(tensors: Sequence[Tensor]) -> None:
    for each in tensors:
        if what := no_data(each):
            raise UsageError(
                f"the DataLoader yields a tensor that is {what}; data are dense real tensors: "
                f"convert them in the data set or collate_fn"
            )
    if any(bool(p.isinf().any()) for p in tensors if p.is_floating_point()):
        raise UsageError("the DataLoader yields infinite entries; drop or fill such data")


def _is_batch(leaves: Batch, tensors: Sequence[Tensor], single: bool) -> bool:
    """Whether all have a first axis, and one of them; a loader of single items has numbers."""
    numbers = single and any(isinstance(leaf, int | float) for leaf in leaves)
    alike = len({tuple(p.shape[:1]) for p in tensors}) == 1
    return alike and bool(tensors[0].dim()) and not numbers


def _shared(leaf: object, own: slice, size: int) -> object:
    """The rows of a leaf that fall to this process; what is no tensor has none."""
    if isinstance(leaf, Tensor):
        return leaf[own]
    if own != slice(0, size) and hasattr(leaf, "__len__") and not isinstance(leaf, str):
        raise UsageError(
            f"a batch holds {type(leaf).__name__}, which cannot be shared out among processes: "
            f"train in one, or give tensors"
        )
    return leaf


def _is_missing(batch: Batch) -> bool:
    """Whether every number of a batch is NaN."""
    floats = [part for part in batch if isinstance(part, Tensor) and part.is_floating_point()]
    return bool(floats) and all(bool(part.isnan().all()) for part in floats)


def _tensors(dataset: object) -> Iterator[Tensor]:
    """The tensors of torch's own data sets, and which of them there are."""
    if isinstance(dataset, TensorDataset):
        yield from dataset.tensors
    elif isinstance(dataset, Subset):
        yield from _tensors(dataset.dataset)
        yield torch.as_tensor(dataset.indices)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _tensors(part)


def _as_tensor(leaf: object) -> object:
    return tensor(leaf) if isinstance(leaf, np.ndarray) else leaf


def _loaded(loader: DataLoader[Any], loaded: Iterator[object]) -> Iterator[object]:
    """The batches of a pass. Once an error has told of its workers, torch has no more to say of
    them: its signal handler would raise wherever the program is by then."""
    try:
        with _told(loader):
            yield from loaded
    except UsageError:
        with suppress(RuntimeError):
            getattr(loaded, "_shutdown_workers", tuple)()
        raise


@contextmanager
def _told(loader: DataLoader[Any]) -> Iterator[None]:
    """Where there is no batch to be had, an error that says whose it is."""
    try:
        yield
    except UsageError:
        raise
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if not loader.num_workers or str(error).startswith("Caught "):  # the data set's own
            raise
        raise lost(error) from error  # what it had sent is fetched from it
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        if (gone := worker_lost(error)) is not None:
            raise gone from error
        if "has finished its bootstrapping phase" in str(error):
            raise UsageError(
                "the DataLoader's workers are spawned, so that each runs this script from its "
                "beginning: put what it does under if __name__ == '__main__':, or take "
                "num_workers=0"
            ) from error
        raise UsageError(
            f"the DataLoader fails ({type(error).__name__}: {in_short(reason(error))}); it must "
            f"give every batch as a tensor x or a tuple of tensors (x, y, ...): look at its data "
            f"set and collate_fn"
        ) from error


def as_data(
    x: object,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    scale: float | None = None,
) -> Data:
    """Data from what Python has: moved to `device`, served in `dtype`, when they are given.

    Takes data; a tensor, array or DataFrame x; a tuple (or list of arrays) of those (x, y, ...),
    or a dict or a tree of them, whose :attr:`~pyrovae.tensors.Data.layout` says how a batch
    becomes arguments; a TensorDataset; a map-style Dataset of such items, which becomes a
    TensorData where it fits; a memory-mapped array, which is read window by window where it does
    not; a sparse matrix of SciPy, alone or as the first of a tuple, or an AnnData, which are made
    dense batch by batch; or a DataLoader, which is streamed. Masked entries of NumPy arrays and
    missing ones of pandas become NaN. Of uint8 arrays with three axes or more the values tell
    whether they are 8-bit images, x / 255 (:func:`pyrovae.arrays.divisor`), unless `scale` says so:
    the value of white, or 1 for the values as they are. Raises UsageError for anything else.

    >>> as_data((np.zeros((4, 3)), np.arange(4)))
    TensorData(4 x [3] float32, y [], cpu)
    >>> pixels = torch.arange(256).to(torch.uint8).reshape(4, 1, 8, 8)
    >>> as_data(pixels), as_data(pixels % 2)
    (TensorData(4 x [1, 8, 8] uint8 / 255, cpu), TensorData(4 x [1, 8, 8] uint8, cpu))
    >>> as_data({"x": pixels, "mask": torch.ones(4)}).layout.names
    ('x', 'mask')
    """
    held = _sets(x, device, scale)
    data = _values(x, scale) if held is None else held
    return data if device is None and dtype is None else data.to(device, dtype)


def _sets(x: object, device: torch.device | str | None, scale: float | None) -> Data | None:
    """Data from what is a set of them already; None for values."""
    if isinstance(x, Data):
        return x
    if isinstance(x, DataLoader):
        return StreamedData(x, scale=scale)
    if isinstance(x, TensorDataset):
        return tensor_data(*x.tensors, scale=scale)
    return _read_dataset(x, device, scale) if isinstance(x, Dataset) else None


def _values(x: object, scale: float | None) -> Data:
    """Data from tensors, arrays and trees of them."""
    if isinstance(x, np.memmap) and x.ndim and not fits(2 * x.nbytes, "cpu"):
        return FileData(ArrayFile(x, images=False, pictures=Pictures(scale=scale)))
    if isinstance(x, str | Path):
        name = got(str(x))
        raise UsageError(f"{name} is a name, not data; pv.data.load({name}) reads it")
    if isinstance(x, tuple | dict) or (isinstance(x, list) and any(map(is_array, x))):
        return _tree(x, scale)
    if isinstance(x, Annotated):
        return annotated(x)[0]
    return SparseData(x) if is_sparse(x) else tensor_data(tensor(x), scale=scale)


def _tree(x: object, scale: float | None) -> Data:
    """Data from several tensors or arrays, the first of which may be sparse."""
    layout, leaves = Layout.of(x, lambda leaf: leaf if is_sparse(leaf) else tensor(leaf))
    others = map(tensor, leaves[1:])  # refuses those that are sparse
    if leaves and is_sparse(leaves[0]):
        return SparseData(leaves[0], *others)._with(layout=layout)
    return tensor_data(*leaves[:1], *others, scale=scale)._with(layout=layout)


def _read_dataset(
    dataset: Dataset[Any], device: torch.device | str | None, scale: float | None
) -> TensorData | StreamedData:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        kind = type(dataset).__name__
        raise UsageError(f"{kind} has no length; pass DataLoader({kind}(...), batch_size=...)")
    if not (n := len(dataset)):
        raise UsageError(f"there are no data: {type(dataset).__name__} is empty")
    parts = _first_item(dataset, n)
    nbytes = n * sum(torch.as_tensor(part).nbytes for part in parts)
    if not (fits(nbytes, "cpu") and fits(nbytes, device or "cpu")):
        return StreamedData(DataLoader(dataset, batch_size=128, shuffle=True), scale=scale)
    return _gathered(dataset, n, scale)


def _first_item(dataset: Dataset[Any], n: int) -> list[Any]:
    """The numbers and tensors that one of a data set's n items holds."""
    try:
        item = dataset[0]
    except LookupError as error:
        raise UsageError(
            f"{type(dataset).__name__} has a length of {n} and no item 0 "
            f"({type(error).__name__}: {in_short(error)}); its items are those at 0 to {n - 1}"
        ) from error
    parts = pytree.tree_leaves(item)
    for part in parts:
        if not isinstance(part, Tensor | np.ndarray | np.number | int | float):
            raise UsageError(
                f"the items of {type(dataset).__name__} hold {type(part).__name__}, not tensors; "
                f"images become tensors with the data set's transform=ToTensor()"
            )
    return parts


def _gathered(dataset: Dataset[Any], n: int, scale: float | None) -> TensorData:
    """All n items of a data set, in memory."""
    try:
        # Its own generator: a DataLoader draws a seed from the global one otherwise.
        loader = DataLoader(dataset, batch_size=256, generator=torch.Generator())
        layouts, batches = zip(*map(Layout.of, loader), strict=True)
        columns = [torch.cat(rows) for rows in zip(*batches, strict=True)]
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise UsageError(
            f"the items of {type(dataset).__name__} do not form one tensor: "
            f"{in_short(reason(error))}; give {n} of them, all of the same shape and type"
        ) from error
    columns = [tensor(c.numpy()) if c.dtype == torch.float64 else c for c in columns]
    return tensor_data(*columns, scale=scale)._with(layout=layouts[0])
