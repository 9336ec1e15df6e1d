"""Sparse matrices, as counts of words and genes come, made dense one batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyrovae.arrays import is_sparse, tensor
from pyrovae.errors import UsageError, in_short
from pyrovae.memory import fits
from pyrovae.schema import Column, Schema
from pyrovae.serving import Serving
from pyrovae.sources import class_codes, label_column
from pyrovae.summaries import Summary
from pyrovae.tensors import (
    Batch,
    Cut,
    Data,
    TensorData,
    cuts,
    first_missing,
    infinite,
    negative,
    part_of,
    place_of,
    tensor_data,
)

__all__ = ["Annotated", "SparseData", "annotated", "is_stored_sparse", "read_sparse"]

MOST, BYTES = 10_000, 2**30  # rows that are held out, and what they take once dense
LOOKED_AT, SEEN = 2**28, 2**26  # bytes that are looked at, and that are summarised


class SparseData(Data):
    """Rows of a sparse matrix [N, D] that share a first axis with further arguments of a model.

    It stays as it is, in SciPy's rows (CSR), and what is served is dense: ``TensorData`` of
    ``matrix.toarray()`` without that array. Orders, parts and batches are the same as of those
    dense data, number for number; of binarisation "static" draws others, since zeros need none.

    Args:
        matrix: any sparse matrix or array of SciPy, or what has its ``tocsr``.
        others: tensors [N, ...], served as they are.
        labels: int [N], classes, which never reach a model.

    Raises:
        UsageError: no data, entries that are no real numbers, tensors of another length.

    >>> from scipy.sparse import csr_array
    >>> data = SparseData(csr_array(np.array([[0, 2, 0], [1, 0, 0], [0, 0, 3]])))
    >>> data
    SparseData(3 x [3] int64, cpu, 3 of 9 stored)
    >>> [x.tolist() for (x,) in data.batches(2)]
    [[[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 3.0]]]
    >>> data.with_library_size()[1:]
    (tensor([[1., 0., 0.],
            [0., 0., 3.]]), tensor([1., 3.]))
    """

    in_memory = True

    def __init__(
        self,
        matrix: Any,
        *others: Tensor,
        labels: Tensor | Sequence[int] | np.ndarray | None = None,
    ) -> None:
        self.matrix = _rows_of(matrix)
        if not self.matrix.has_canonical_format:  # entries that are stored twice mean their sum
            self.matrix = self.matrix.copy()
            self.matrix.sum_duplicates()
        # what they have to be is what dense ones have to be
        rows = torch.empty(len(self), 0)
        self.others = TensorData(rows, *others).tensors[1:]
        self.labels = TensorData(rows, labels=labels).labels
        self.serving = Serving(torch.device("cpu"))
        tensor(self.matrix.data[:1])  # complains about what is no number

    def _rows(self, rows: slice | np.ndarray) -> Tensor:
        """Rows as they are stored, dense."""
        part = self.matrix[rows]
        try:
            return tensor(part.toarray())
        except MemoryError as error:
            raise UsageError(
                f"memory does not hold {part.shape[0]:,} rows of {part.shape[1]:,} entries once "
                f"they are dense; take smaller batches, or leave out columns that are empty"
            ) from error

    @property
    def _first(self) -> TensorData:
        return self.dense(slice(1))

    @property
    def _values(self) -> Tensor:
        """The entries that are stored."""
        return tensor(self.matrix.data)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one x."""
        return torch.Size(self.matrix.shape[1:])

    @property
    def stores_integers(self) -> bool:
        """Whether x is stored as integers that are neither scaled nor binarised."""
        return self.serving.keeps_integers(self._first.tensors[0])

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """What is in memory of them: the matrix's parts, and the further arguments."""
        parts = (self.matrix.data, self.matrix.indices, self.matrix.indptr)
        return tuple(t for t in (*map(tensor, parts), *self.others) if len(t))

    def __repr__(self) -> str:
        n, width = self.matrix.shape
        words = repr(self._first).removeprefix("TensorData(1 x ")
        return f"SparseData({n} x {words[:-1]}, {self.matrix.nnz} of {n * width} stored)"

    def __getitem__(self, index: slice | Tensor) -> Batch:
        return self.dense(index)[:]

    def dense(self, indices: slice | Tensor | Sequence[int] | np.ndarray) -> TensorData:
        """The data at ``indices`` (a slice, positions or a mask), as dense ones."""
        part = self.select(indices)
        dense = TensorData(part._rows(slice(None)), *part.others, labels=part.labels)
        return dense._with(serving=self.serving, schema=self.schema, layout=self.layout)

    def select(self, indices: slice | Tensor | Sequence[int] | np.ndarray) -> Self:
        """The data at ``indices`` (a slice, positions or a mask), sparse."""
        at, rows = indices, indices
        if not isinstance(indices, slice):
            chosen = torch.atleast_1d(torch.as_tensor(indices)).cpu()
            at = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
            rows = at.numpy()
        matrix = self.matrix[rows]
        if not matrix.shape[0]:
            raise UsageError(f"the selection is empty; there are {len(self)} data to choose from")
        others = tuple(other[at] for other in self.others)
        labels = None if self.labels is None else self.labels[at]
        return self._with(matrix=matrix, others=others, labels=labels)

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
        """One pass in batches ([B, D], ...); the arguments and the order are TensorData's."""
        parts = cuts(len(self), batch_size, drop_last, skip, share)
        order = None
        if shuffle:
            order = torch.randperm(len(self), generator=generator, device=self.device).cpu()
        return self._batches(parts, order, generator)

    def _batches(
        self, parts: Iterable[Cut], order: Tensor | None, generator: torch.Generator | None
    ) -> Iterator[Batch]:
        self._check_digits(self._values)
        for start, size, own in parts:
            at: slice | Tensor = slice(start + own.start, start + own.stop)
            if order is not None:
                at = order[at]
            x = self._rows(at if isinstance(at, slice) else at.numpy())
            yield self.serving.batch([x, *(o[at] for o in self.others)], generator, size, own)

    def sample(self, count: int, seed: int = 0) -> TensorData:
        """``count`` of the data at random, all there are, or what takes 256 MiB where that is
        less, dense and in their order."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.dense(order[: min(count, self._rows_in(LOOKED_AT))].sort().values)

    def _rows_in(self, nbytes: int) -> int:
        """How many dense data take so many bytes, at least one."""
        return max(1, nbytes // max(1, self._first.nbytes))

    def fits_dense(self) -> bool:
        """Whether all of the data can be dense and in memory."""
        return fits(2 * len(self) * self._first.nbytes, "cpu")

    def split(self, held_out: float, seed: int = 0) -> tuple[Self, TensorData]:
        """(train, held): hold out a fraction in (0, 1) or a whole number of data, at most 10,000
        or what takes 1 GiB, since these are dense. Raises UsageError when either side would be
        empty."""
        count = min(part_of(held_out, len(self)), MOST, self._rows_in(BYTES))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.select(order[count:]), self.dense(order[:count])

    def summary(self) -> Summary:
        """What values x has as it is served, of 10,000 data or 64 MiB at random."""
        return self.sample(min(MOST, self._rows_in(SEEN))).summary()

    def with_labels(self) -> Self:
        """The data (x, labels), so that a model(x, y) receives the labels."""
        if self.labels is None:
            raise UsageError(
                "the data have no labels: give SparseData(matrix, labels=...), or name the column "
                "of an AnnData's obs that holds them (label=)"
            )
        return self.with_arguments(self.labels)

    def with_arguments(self, *others: Tensor) -> Self:
        """The data (x, *others): tensors [N, ...] that a model(x, ...) receives as they are."""
        self._check_arguments(others)
        return self._with(others=others, layout=None)

    def with_library_size(self) -> Self:
        """The data (x, size, ...); see :meth:`Data.with_library_size`."""
        if (self.matrix.data < 0).any():
            raise negative(np.nanmin(self.matrix.data))
        known = self.matrix.copy() if self.matrix.dtype.kind == "f" else self.matrix
        if known is not self.matrix:
            known.data = np.nan_to_num(known.data)
        totals = torch.as_tensor(np.asarray(known.sum(1), np.float64).ravel())
        return self.with_arguments(totals.to(torch.get_default_dtype()), *self.others)

    def binarised(self, mode: str, seed: int = 0) -> Self:
        """The same data, binarised in another way; see :meth:`TensorData.binarised`. "static"
        draws the entries that are stored, in their order."""
        if mode == "none":
            return self._with(serving=replace(self.serving, binarise=None))
        self.serving.check_range(self._values, mode)
        if mode != "static":
            return self._with(serving=replace(self.serving, binarise=mode, integral=False))
        drawn = self.matrix.copy()
        generator = torch.Generator().manual_seed(seed)
        drawn.data = self.serving.static(self._values, generator).numpy()
        serving = replace(self.serving, binarise=None, divisor=None, maximum=1.0, integral=False)
        return self._with(matrix=drawn, serving=serving)

    def incomplete(self, count: int = 64) -> Batch | None:
        """At most ``count`` data with missing entries, as they are served; None without any."""
        found = [first_missing(other) for other in self.others]
        if self.matrix.dtype.kind == "f":
            at = np.flatnonzero(np.isnan(self.matrix.data))
            rows = np.searchsorted(self.matrix.indptr, at, "right") - 1
            _, first = np.unique(self.matrix.indices[at], return_index=True)  # of each column
            found.insert(0, torch.from_numpy(rows[first]))
        rows = torch.cat([*found, torch.empty(0, dtype=torch.long)]).unique()[:count]
        return self.dense(rows)[:] if len(rows) else None

    def check_finite(self) -> None:
        """Raise UsageError when an entry is infinite; NaN is a missing entry."""
        bad = np.flatnonzero(np.isinf(self.matrix.data))
        if len(bad):
            row = int(np.searchsorted(self.matrix.indptr, bad[0], "right")) - 1
            at, value = self.matrix.indices[bad[0]], self.matrix.data[bad[0]]
            raise infinite("x", len(bad), float(value), row, place_of([int(at)], self.schema))
        TensorData(torch.empty(len(self), 0), *self.others).check_finite()


def _rows_of(matrix: Any) -> Any:
    """A matrix by rows (CSR), whose indices lie within it.

    Raises:
        UsageError: they do not, or memory holds no row of it.
    """
    nbytes = 8 * max(map(int, matrix.shape))
    if not fits(nbytes, "cpu"):
        raise UsageError(
            f"the sparse matrix is of {list(matrix.shape)}, and memory does not hold one row and "
            f"the number of entries of each ({nbytes:,} bytes); leave out what is empty"
        )
    try:
        found = matrix.tocsr()
        if hasattr(found, "check_format"):
            found.check_format(full_check=True)  # SciPy reads and writes beside damaged arrays
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        why = in_short(error) or type(error).__name__
        raise UsageError(
            f"the sparse matrix is damaged ({why}): its indices do not lie within its shape; make "
            f"it again"
        ) from error
    return found


@runtime_checkable
class Annotated(Protocol):
    """What AnnData has: a matrix of observations, a table about them, names of its columns."""

    X: Any
    obs: Any
    var_names: Any


def annotated(
    given: Annotated, label: str | None = None
) -> tuple[SparseData | TensorData, tuple[str, ...] | None]:
    """The observations of an AnnData as data, their columns in a schema; the names of the classes
    that the column ``label`` of ``obs`` holds, None without one.

    Raises:
        UsageError: no matrix in memory, no such column.
    """
    matrix, classes, labels = given.X, None, None
    if matrix is None or getattr(given, "isbacked", False):
        what = "its X is on disk: give adata.to_memory()" if matrix is not None else "it has no X"
        raise UsageError(f"the {type(given).__name__} holds no matrix in memory; {what}")
    if label is not None:
        classes, codes = class_codes({"y": _column(given.obs, label)})
        labels = codes["y"]
    sparse = is_sparse(matrix)
    found = (SparseData if sparse else tensor_data)(
        matrix if sparse else tensor(matrix), labels=labels
    )
    return found._with(schema=_schema(given, found)), classes


def _column(table: Any, label: str) -> np.ndarray:
    """The labels in a column of a table, those that are missing refused."""
    column = table[table.columns[label_column(list(table.columns), label)]]
    if bool(column.isna().any()):
        raise UsageError(
            f"column {label!r} of obs has {int(column.isna().sum())} missing labels: leave "
            f"those rows out"
        )
    values = np.asarray(column)
    return values if values.dtype.kind in "biuf" else values.astype(str)


def _schema(given: Annotated, data: SparseData | TensorData) -> Schema:
    """Counts, or numbers, by the names of the columns."""
    values = data.stored[0]
    low, high = (float(end) for end in values.aminmax()) if values.numel() else (0.0, 0.0)
    whole = not values.is_floating_point() or bool((values == values.round()).all())
    kind = "count" if whole and low >= 0 else "real"
    dtype = str(given.X.dtype)
    return Schema(
        tuple(Column(str(n), kind, dtype, low=min(low, 0.0), high=high) for n in given.var_names)
    )


def is_stored_sparse(arrays: Iterable[str]) -> bool:
    """Whether the arrays of an .npz file are the parts that ``scipy.sparse.save_npz`` writes."""
    return {"format", "shape", "data"} <= set(arrays)


def read_sparse(file: Any) -> Any:
    """The matrix in an open .npz file, its indices within its shape."""
    import scipy.sparse

    matrix = scipy.sparse.load_npz(file)
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)  # a damaged one would read and write beside arrays
    return matrix
