"""Rows in files: arrays, images and tables that are read a few at a time."""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrovae.arrays import may_be_image, tensor
from pyrovae.errors import UsageError, nearest, reason
from pyrovae.files import UNPACKED, home
from pyrovae.pictures import Picture, Pictures, decoded, has_colour
from pyrovae.tensors import TensorData

__all__ = ["ArrayFile", "ImageFiles", "ParquetFile", "Source", "digest", "open_source"]

BLOCK, ROWS = 2**20, 2**11  # bytes and rows that are read at once
SCALE = (
    "give scale=255 for pixels, scale=1 for the values as they are (--scale on the command line)"
)
OTHERS = 100_000  # files that a folder of images may have besides
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class Source(ABC):
    """Rows in files, which are read a few at a time.

    Attributes:
        name: in words, for messages.
        bounds: int [blocks + 1], where the blocks of rows begin that are best read at once, and
            the number of rows.
        classes: what the labels mean; None without labels.
        columns: the names of a table's columns of x.
        divisor: stored x / divisor = value, as of 8-bit images; None where values are as they are.
        pictures: what is asked for of arrays and files that are images.
        notes: what was done to what is stored, in words.
        workers: how many processes are worth while to read it.
    """

    name: str
    bounds: np.ndarray
    classes: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    divisor: float | None = None
    pictures: Pictures = Pictures()
    notes: tuple[str, ...] = ()
    workers: int = 0

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Rows [stop - start, *event] as stored, and their labels (int) where there are any.

        Raises:
            UsageError: a file that cannot be read, with its name.
        """

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def all(self) -> TensorData:
        """All rows, in memory."""
        x, labels = self.read(0, len(self))
        return self.data(x, labels)

    def data(self, x: Tensor, labels: Tensor | None) -> TensorData:
        """Rows that were read, as data."""
        return self.pictures.data(x, labels, self.divisor)


class ArrayFile(Source):
    """The rows of a .npy file or of a memory-mapped array, read and never mapped.

    Rows [H, W] of pixels, [C, H, W] and [H, W, C] are images [C, H, W], single numbers a column,
    unless ``images`` is False (:meth:`pyrovae.pictures.Pictures.arranged`). Whether uint8 values
    are pixels, to be divided by 255, is told from 64 blocks of the file as
    :func:`pyrovae.arrays.divisor` does; rows read later that contradict it are refused.

    Raises UsageError for a file that is cut short, of another format or not of real numbers.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.arange(6).reshape(3, 2))
    ...     ArrayFile(f"{folder}/x.npy").read(1, 3)
    (tensor([[2, 3],
            [4, 5]]), None)
    """

    def __init__(
        self,
        array: np.memmap[Any, Any] | str | Path,
        *,
        images: bool = True,
        pictures: Pictures = Pictures(),  # noqa: B008
    ) -> None:
        if not isinstance(array, np.memmap):
            with reading(Path(array)):
                array = np.lib.format.open_memmap(Path(array), mode="r")
        if not array.ndim:
            raise UsageError("the array has no first axis, the number of data")
        tensor(np.empty((0, *array.shape[1:]), array.dtype))  # complains about what is no number
        self.name = str(array.filename or "a memory-mapped array")
        self.images, self.pictures = images, pictures
        self.shape, self.dtype = array.shape[1:], array.dtype
        row = max(1, math.prod(self.shape) * array.dtype.itemsize)
        rows = max(1, min(BLOCK // row, ROWS))
        self.bounds = np.append(np.arange(0, len(array), rows), len(array))
        root = array
        while isinstance(root.base, np.memmap):
            root = root.base
        # a slice of a map has the offset of the whole
        offset = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        self._offset = root.offset + offset
        plain = array.flags.c_contiguous and root.mode != "c" and array.filename is not None
        self._map = None if plain else (array, root)
        self.divisor = self._divisor()
        if images:
            self.notes = moved(self.shape, self._arranged(torch.empty(0, *self.shape)))

    def read(self, start: int, stop: int) -> tuple[Tensor, None]:
        with reading(Path(self.name)):
            stored = self._stored(start, stop)
        x = tensor(stored)
        told = may_be_image(x) and self.pictures.scale is None
        if told and self.divisor is None and len(x) and x.max() > 1:
            raise UsageError(
                f"{self.name}: values of 0 and 1 alone are followed by {int(x.max())}; {SCALE}"
            )
        return self._arranged(x) if self.images else x, None

    def _arranged(self, x: Tensor) -> Tensor:
        with reading(Path(self.name)):
            return self.pictures.arranged(x, pixels=self.divisor is not None)

    def _divisor(self) -> float | None:
        if self.pictures.scale is not None:
            return self.pictures.divisor(torch.empty(0))
        if self.dtype != np.uint8 or len(self.shape) < 2 or not len(self):
            return None
        blocks = np.unique(np.linspace(0, len(self.bounds) - 2, 64).astype(int))
        with reading(Path(self.name)):
            parts = [self._stored(*self.bounds[[at, at + 1]].tolist()) for at in blocks]
            return self.pictures.divisor(torch.from_numpy(np.concatenate(parts)), SCALE)

    def _stored(self, start: int, stop: int) -> np.ndarray:
        if self._map is not None:
            array, root = self._map
            part = np.array(array[start:stop])
            pages: Any = getattr(root, "_mmap", None)
            if root.mode != "c" and hasattr(pages, "madvise"):  # mapped pages count as memory
                pages.madvise(mmap.MADV_DONTNEED)
            return part
        part = np.empty((stop - start, *self.shape), self.dtype)
        if not part.nbytes:
            return part
        into, done = memoryview(cast(Any, part.reshape(-1).view(np.uint8))), 0
        with Path(self.name).open("rb", buffering=0) as file:
            file.seek(self._offset + start * (part.nbytes // len(part)))
            while done < len(into):
                got = file.readinto(into[done:])
                if not got:
                    raise EOFError(f"it ends before datum {stop - 1}")
                done += got
        return part


def moved(shape: Sequence[int], arranged: Tensor) -> tuple[str, ...]:
    """What was done to rows of this shape, in words, where their axes were put in another order."""
    found = tuple(arranged.shape[1:])
    if len(shape) != 3 or found == tuple(shape):
        return ()
    return (f"images with channels last, which were put first: {list(found)}",)


CHANGED = {
    "grey": "{} grey pictures made RGB beside those in colour",
    "clear": "{} pictures with transparent parts laid on white",
}


class ImageFiles(Source):
    """Pictures in a folder, uint8 [C, H, W]; subfolders are classes.

    They are RGB where one of them has colours, else grey; upright as their cameras say; of one
    size, or made so by ``pictures.resize``. See :func:`pyrovae.pictures.decoded`.

    Raises UsageError for a folder without images, and for an image that is damaged or of another
    size, with its name.
    """

    def __init__(self, root: str | Path, pictures: Pictures = Pictures()) -> None:  # noqa: B008
        self.root = Path(root)
        self.name = str(root)
        files = _images_below(self.root)
        self.names = [file.parts[0] for file in files] if any(f.parent.name for f in files) else []
        self.labels: np.ndarray | None = None
        if self.names:
            self.classes, labels = class_codes({"y": self.names})
            self.labels = labels["y"]
        # one array: millions of paths would take gigabytes, and worker processes copy them
        self._files = np.array([os.fsencode(file) for file in files])
        self.bounds = np.arange(len(files) + 1)
        self.pictures = pictures
        self.divisor = 255 if pictures.scale is None else pictures.divisor(torch.empty(0))
        self.workers = min(4, _cores())
        self.channels = 3 if any(map(self._has_colour, range(len(files)))) else 1
        self._changed = {kind: np.zeros(len(files), bool) for kind in CHANGED}
        self._height, self._width, _ = self._decoded(0).pixels.shape

    def file(self, row: int) -> Path:
        """Where a row is."""
        return self.root / os.fsdecode(self._files[row])

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What was done to the pictures that were read."""
        counts = {kind: int(rows.sum()) for kind, rows in self._changed.items()}
        done = [CHANGED[kind].format(count) for kind, count in counts.items() if count]
        if self.pictures.resize is not None:
            done.append(f"scaled and cut to {self._height} x {self._width}")
        return tuple(done)

    def _has_colour(self, row: int) -> bool:
        try:
            return has_colour(self.file(row))
        except Exception:  # what cannot be opened is named when it is met
            return False

    def _decoded(self, row: int) -> Picture:
        with reading(self.file(row), "it is damaged or no image: replace it or take it away"):
            return decoded(self.file(row), self.channels, self.pictures.resize)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        # Channels first here: the layout of few pixels cannot be told from their number.
        size = self._height, self._width
        images = np.empty((stop - start, self.channels, *size), np.uint8)
        for row in range(start, stop):
            picture = self._decoded(row)
            if picture.pixels.shape[:2] != size:
                one, other = (
                    f"{self.file(at)} is {' x '.join(map(str, shape))}"
                    for at, shape in ((0, size), (row, picture.pixels.shape[:2]))
                )
                raise UsageError(
                    f"images must have one size (height x width): {one}, {other}; give "
                    f"resize=(height, width), or --resize HxW, to have them scaled and cut to one"
                )
            images[row - start] = picture.pixels.transpose(2, 0, 1)
            for kind in picture.changes:
                self._changed[kind][row] = True
        labels = None if self.labels is None else torch.as_tensor(self.labels[start:stop])
        return torch.from_numpy(images), labels


def table_nbytes(path: Path) -> int:
    """Bytes that the cells of a Parquet file take as numbers."""
    file = _parquet_file(path)
    with file:
        return 8 * file.metadata.num_rows * file.metadata.num_columns


def words_nbytes(path: Path) -> int:
    """Bytes that the texts of a Parquet file take, each in every row that has it: on disk each text
    may be there once. 0 where they cannot be many, which the sizes of what is packed tell."""
    import pyarrow.compute as pc

    with _parquet_file(path) as file:
        names = _texts(file)
        groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
        if sum(_most_words(group, names) for group in groups) <= UNPACKED:
            return 0
    with _parquet_file(path, read_dictionary=names) as file:  # each text once here too
        found = file.read(columns=names)
    parts = [part for column in found.columns for part in column.chunks]
    lengths = (pc.binary_length(part.dictionary).take(part.indices) for part in parts)
    return sum(pc.sum(each).as_py() or 0 for each in lengths)


def _texts(file: Any) -> list[str]:
    """Names of the columns of text."""
    import pyarrow.types as kinds

    return [f.name for f in file.schema_arrow
            if kinds.is_string(f.type) or kinds.is_large_string(f.type)]  # fmt: skip


def _most_words(group: Any, names: Sequence[str]) -> int:
    """Bytes of a row group's texts, were each row's as long as all that stand in it."""
    columns = (group.column(k) for k in range(group.num_columns))
    return sum(group.num_rows * c.total_uncompressed_size for c in columns
               if c.path_in_schema in names)  # fmt: skip


def _parquet_file(path: Path, **options: Any) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f'reading it needs pyarrow ({error}); pip install "pyrovae[parquet]"'
        ) from error
    return pyarrow.parquet.ParquetFile(path, **options)


class ParquetFile(Source):
    """The rows of a table of numbers, read by row groups; the column ``label`` holds labels.

    A window holds at least one row group: groups of 10 to 100 MB suit.

    Raises UsageError for a damaged file, an unknown label, or a column that is not of numbers.
    """

    def __init__(self, path: str | Path, label: str | None = None) -> None:
        self.path, self.name = Path(path), str(path)
        with reading(self.path), self._open() as file:
            self._metadata = file.metadata
            schema = file.schema_arrow
            self._at = label_column(schema.names, label)
            self.columns = tuple(n for i, n in enumerate(schema.names) if i != self._at)
            self.bounds = np.cumsum([0, *(group.num_rows for group in _groups(file))])
            self.dtype = _common_dtype(file, self._at)
            self._values: np.ndarray | None = None
            if self._at is not None and len(self):
                self._values = _distinct(file, label)
                self.classes, codes = class_codes({"y": self._values})
                self._codes = codes["y"]

    def _open(self) -> Any:
        return _parquet_file(self.path, metadata=getattr(self, "_metadata", None))

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        first = max(0, int(np.searchsorted(self.bounds, start, "right")) - 1)
        last = int(np.searchsorted(self.bounds, stop, "left"))
        with reading(self.path), self._open() as file:
            table = file.read_row_groups(list(range(first, last)), use_threads=False)
            columns = table.slice(start - int(self.bounds[first]), stop - start).columns
            y = None if self._at is None else columns.pop(self._at)
            x = np.empty((stop - start, len(columns)), self.dtype)
            for i, column in enumerate(columns):
                x[:, i] = column.to_numpy()
            if y is None or self._values is None:
                return tensor(x), None
            codes = self._codes[np.searchsorted(self._values, _label_values(y))]
            return tensor(x), torch.as_tensor(codes)


def _groups(file: Any) -> list[Any]:
    return [file.metadata.row_group(i) for i in range(file.num_row_groups)]


def _common_dtype(file: Any, label: int | None) -> np.dtype[Any]:
    """What all columns but that of the labels are read as."""
    places = [i for i in range(len(file.schema_arrow.names)) if i != label]
    if not places:
        raise UsageError("it has no column of numbers")
    return np.result_type(*(_column_dtype(file, i, _groups(file)) for i in places))


def _column_dtype(file: Any, at: int, groups: Sequence[Any]) -> np.dtype[Any]:
    """What a column of a Parquet file is read as: floats where numbers are missing."""
    name, field = file.schema_arrow.names[at], file.schema_arrow[at]
    try:
        kind = np.dtype(field.type.to_pandas_dtype())
    except NotImplementedError:
        kind = np.dtype(object)
    if kind.kind not in "biuf":
        first = next(file.iter_batches(1, columns=[name]), None)
        raise not_numeric(name, f"{first[0][0].as_py()!r}" if first else str(kind))
    whole = kind.kind != "f" and all(_no_gap(group.column(at)) for group in groups)
    return kind if kind.kind == "f" or whole else np.dtype(np.float64)


def _distinct(file: Any, label: str | None) -> np.ndarray:
    """The values of a column of labels."""
    groups = range(file.num_row_groups)
    parts = [_label_values(file.read_row_group(i, columns=[label]).column(0)) for i in groups]
    return np.unique(np.concatenate([np.unique(part) for part in parts]))


def _no_gap(column: Any) -> bool:
    return column.statistics is not None and column.statistics.null_count == 0


def _label_values(column: Any) -> np.ndarray:
    values = column.to_numpy()
    return values if values.dtype.kind in "biuf" else values.astype(str)


def open_source(
    path: str | Path,
    label: str | None = None,
    pictures: Pictures = Pictures(),  # noqa: B008
) -> Source:
    """A .npy file, a .parquet table or a folder of images, to be read a few rows at a time.

    Raises:
        UsageError: another kind of path, a damaged file, a label without a table.
    """
    path = home(path)
    if path.suffix.lower() == ".parquet" and not path.is_dir():
        table = ParquetFile(path, label)
        table.pictures, table.divisor = pictures, pictures.divisor(torch.empty(0))
        return table
    if label is not None:
        raise UsageError(f"label={label!r} names a column of a .csv or .parquet file")
    if path.is_dir():
        return ImageFiles(path, pictures)
    if path.suffix.lower() == ".npy":
        return ArrayFile(path, pictures=pictures)
    raise UsageError(
        f"{str(path)!r} cannot be streamed; convert it to .npy or .parquet, or put images in a "
        f"folder"
    )


# --- what the files of data have in common -----------------------------------------------------


@contextlib.contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn whatever goes wrong with a file's contents into a UsageError that names the file."""
    try:
        yield
    except UsageError as error:
        if str(path) in str(error):
            raise
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:  # damaged files raise nearly every kind
        remedy = remedy or "it may be cut short or of another format: make it again"
        raise UsageError(f"{path} cannot be read: {reason(error)}; {remedy}") from error


DIGESTED = 2**30  # bytes of a file that are read to know it again


def digest(path: str | Path) -> str:
    """What tells a file's bytes from any other's, or a folder's files by their names and sizes: 32
    hexadecimal digits. Of files beyond 1 GiB as many bytes are read, in blocks all over them.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "x.csv").write_text("a,b")
    ...     digest(f"{folder}/x.csv")
    '623e2a6aee3b45a53e055cf7ae8f9493'
    """
    path, found = home(path), hashlib.blake2b(digest_size=16)
    if path.is_dir():
        for file in sorted(_walked(path)):
            if file.is_file():
                found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        return found.hexdigest()
    size = path.stat().st_size
    found.update(str(size).encode())
    blocks = min(-(-size // BLOCK), DIGESTED // BLOCK)
    with path.open("rb") as stream:
        for at in range(blocks):
            stream.seek(at * BLOCK if size <= DIGESTED else at * (size - BLOCK) // (blocks - 1))
            found.update(stream.read(BLOCK))
    return found.hexdigest()


def class_codes(ys: Mapping[str, object]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
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


def label_column(names: list[str], label: str | None) -> int | None:
    if label is not None and label not in names:
        few = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        hint = nearest(label, names) or "."
        raise UsageError(f"there is no column {label!r}{hint} Columns: {few}")
    return None if label is None else names.index(label)


def not_numeric(name: str, found: str) -> UsageError:
    return UsageError(
        f"column {name!r} is not numeric ({found}); leave it out, turn it into numbers, or name it "
        f"as label={name!r} if it holds class labels"
    )


def _cores() -> int:
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


def _walked(root: Path) -> Iterator[Path]:
    """What is in a folder and its subfolders, as long as it looks like one of images.

    Raises:
        UsageError: much that is none, such as a home or a whole disk.
    """
    images = others = 0
    for file in root.rglob("[!.]*"):
        if file.suffix.lower() in IMAGES:
            images += 1
        else:
            others += 1
        if others > OTHERS + 10 * images:
            raise UsageError(
                f"{root} has {others:,} files and folders beside {images:,} images, so that it is "
                f"no folder of images: name the one that has them alone"
            )
        yield file


def _images_below(root: Path) -> list[Path]:
    """The images in a folder and its subfolders, relative to it."""
    found = sorted(
        file for file in _walked(root) if file.suffix.lower() in IMAGES and file.is_file()
    )
    if not found:
        raise UsageError(f"there are no images in {root}; images are files {' '.join(IMAGES)}")
    return [file.relative_to(root) for file in found]
