"""Names and paths -> data: the bundled digits, torchvision's sets, files and folders.

>>> splits = load("mnist5k")
>>> splits.train
TensorData(5000 x [1, 28, 28] uint8 / 255, labelled, cpu)
>>> (x,) = next(splits.train.binarised("dynamic").batches(128, shuffle=True))
>>> x.shape, x.dtype, x.unique().tolist()
(torch.Size([128, 1, 28, 28]), torch.float32, [0.0, 1.0])
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrovae.arrays import is_sparse, tensor
from pyrovae.errors import UsageError, nearest, reason
from pyrovae.files import TIMES, check_held, check_size, home
from pyrovae.memory import fits
from pyrovae.pictures import Pictures
from pyrovae.schema import Schema
from pyrovae.sources import (
    SCALE,
    ArrayFile,
    ImageFiles,
    ParquetFile,
    Source,
    class_codes,
    digest,
    moved,
    open_source,
    reading,
    table_nbytes,
)
from pyrovae.sparse import Annotated, SparseData, annotated, is_stored_sparse, read_sparse
from pyrovae.streams import MOST, FileData, StreamedData, as_data
from pyrovae.tables import Names, table
from pyrovae.tensors import Data, TensorData

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "NAMES",
    "SUFFIXES",
    "ArrayFile",
    "Data",
    "FileData",
    "ImageFiles",
    "ParquetFile",
    "Source",
    "SparseData",
    "Splits",
    "StreamedData",
    "TensorData",
    "UsageError",
    "as_data",
    "digest",
    "fits",
    "load",
    "nearest",
    "table",
]


@dataclass(frozen=True)
class Splits:
    """A data set: its training and test parts, what its labels mean, and what the columns of x are
    where it is a table."""

    name: str
    train: Data
    test: TensorData
    classes: tuple[str, ...] | None
    description: str
    columns: tuple[str, ...] | None = None
    schema: Schema | None = None


# torchvision's class, and the arguments of its training and its test part
_TORCHVISION: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
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
_DECODED: dict[str, Callable[[Image], np.ndarray]] = {
    "omniglot": lambda image: 255 - np.asarray(image.resize((28, 28), resample=2)),
    "celeba": lambda image: np.asarray(image.crop((15, 35, 163, 183)).resize((64, 64), resample=2)),
}
_DIGITS = tuple("0123456789")
NAMES = ("mnist5k", "digits", *_TORCHVISION)
ARRAYS = (".npy", ".npz", ".pt")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
SUFFIXES = (*ARRAYS, *TABLES)


def load(
    name: str | Path | Annotated,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    label: str | None = None,
    seed: int = 0,
    stream: bool | str = "auto",
    resize: tuple[int, int] | int | str | None = None,
    layout: str = "auto",
    scale: float | None = None,
    columns: Names | None = None,
    drop: Names | None = None,
    target: str | None = None,
    kinds: str | Mapping[str, str] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    schema: Schema | None = None,
    hold_out: bool = True,
) -> Splits:
    """A data set by its name, or from a file or a folder of images.

    Names: mnist5k (bundled), digits (scikit-learn), and torchvision's mnist, fashion-mnist,
    kmnist, emnist, omniglot, cifar10, svhn and celeba, which are read from `data_dir` (default
    $PYROVAE_DATA or ~/.cache/pyrovae) or downloaded to it. Images are uint8 [N, C, H, W].

    Paths: .npy; .npz or .pt with x or x_train and x_test, and labels y or y_train and y_test;
    .csv, .tsv, .parquet and .xlsx tables, read as :func:`pyrovae.tables.table` does with `label`,
    `columns` and the options that follow it; a folder of images, subfolders being classes, `train`
    and `test` folders the parts. Where there is no test part, a tenth is held out at random
    (`seed`), or without `hold_out` both parts are all.

    Pictures are RGB where one of them has colours, else grey; laid on white where they are
    transparent; scaled to cover `resize` = (H, W), H or "HxW", their middle cut out. Arrays
    [N, H, W, C] become [N, C, H, W] where their shape tells (C is 1, 3 or 4, H and W are more), or
    by `layout` "channels_last"; "channels_first" leaves them. Stored values are divided by `scale`,
    the value of white; 1 takes them as they are. Without it uint8 with three axes or more is told
    by its values (:func:`pyrovae.arrays.divisor`), and refused where they may be pixels or not.
    What was done stands in the description.

    Counts: .npz files of `scipy.sparse.save_npz`, and an AnnData, whose column `label` of obs holds
    class labels; they stay sparse, and batches are made dense (:class:`SparseData`).

    .npy, .parquet (of numbers) and folders that do not fit in memory are streamed: `train` is a
    :class:`FileData`, `test` a TensorData of at most 10,000 data. `stream` True or False has it
    either way.

    Raises UsageError for an unknown name, and for files missing, damaged or of another kind.

    >>> splits = load("digits")
    >>> splits.test, splits.test.maximum, splits.classes[:3]
    (TensorData(360 x [1, 8, 8] float32, labelled, cpu), 16.0, ('0', '1', '2'))
    """
    _check_stream(stream)
    pictures = Pictures.of(resize, layout, scale)
    asked = _asked(
        columns=columns,
        drop=drop,
        label=label,
        target=target,
        kinds=kinds,
        delimiter=delimiter,
        decimal=decimal,
        encoding=encoding,
        header=header,
        schema=schema,
    )
    if isinstance(name, Annotated):
        _no_table(asked, but="label")
        return _from_annotated(name, label, seed, hold_out)
    if isinstance(name, str) and name in NAMES:
        _no_table(asked)
        _check_asked(pictures, name)
        return _scaled(_named(name, data_dir, download, seed, stream), pictures)
    path = home(name)
    _check_path(name, path)
    _check_asked(pictures, str(path), path)
    with reading(path):
        _check_size(path, stream)
        if stream is not True and _is_table(path, stream):
            return _from_table(path, asked, seed, hold_out)
        _no_table(asked, but="label" if path.suffix.lower() == ".parquet" else "")
        if stream is True or path.is_dir() or path.suffix.lower() in (".npy", ".parquet"):
            return _from_sources(path, label, seed, stream, pictures, hold_out)
        return _from_arrays(path, _read(path), seed, pictures, hold_out)


def _check_size(path: Path, stream: bool | str) -> None:
    """Refuse to read a file at once that is small on disk and large in memory."""
    whole = path.suffix.lower() != ".npy" or stream is False or fits(path.stat().st_size, "cpu")
    if stream is True or path.is_dir() or not whole:
        return
    check_size(path)
    claimed = table_nbytes(path) if path.suffix.lower() == ".parquet" else 0
    if stream is False or fits(2 * claimed, "cpu"):
        remedy = "stream it (stream=True, --stream true), or write it without compression"
        check_held(path, claimed, path.stat().st_size, TIMES, remedy)


def _check_stream(stream: object) -> None:
    if stream not in ("auto", True, False):
        raise UsageError(f'stream must be "auto", True or False, got {stream!r}')


def _check_asked(pictures: Pictures, name: str, path: Path | None = None) -> None:
    """Refuse what is asked for of data that do not have it."""
    if pictures.resize is not None and not (path and path.is_dir()):
        raise UsageError(f"resize (--resize) is of folders of pictures, and {name} is none")
    if pictures.layout != "auto" and not (path and path.suffix.lower() in ARRAYS):
        raise UsageError(
            f"layout (--layout) is of arrays in {', '.join(ARRAYS)} files, and {name} is none"
        )
    if pictures.scale not in (None, 1) and path and path.suffix.lower() in TABLES:
        raise UsageError(
            f"scale (--scale) is of pictures and arrays, and {name} is a table, whose columns stay "
            f"in their own units: leave it out"
        )


def _scaled(splits: Splits, pictures: Pictures) -> Splits:
    """A named set, divided by the white that was asked for."""
    if pictures.scale is None:
        return splits
    parts = [
        pictures.data(x, part.labels, pictures.divisor(x))
        for part in (cast(TensorData, splits.train), splits.test)
        for x in part.tensors[:1]
    ]
    return replace(splits, train=parts[0], test=parts[1])


def _from_annotated(given: Annotated, label: str | None, seed: int, hold_out: bool) -> Splits:
    data, classes = annotated(given, label)
    splits = _splits(Path(type(given).__name__), [data], classes, seed, hold_out=hold_out)
    return replace(splits, columns=tuple(map(str, given.var_names)), schema=data.schema)


def _asked(**options: object) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _no_table(asked: Mapping[str, object], but: str = "") -> None:
    """Refuse what is asked of the columns of a table where there is none in memory."""
    for key in {*asked} - {but}:
        raise UsageError(
            f"{key}={asked[key]!r} is about the columns of a table in memory, a "
            f"{' '.join(TABLES)} file"
        )


def _is_table(path: Path, stream: bool | str) -> bool:
    """Whether a path is a table that is read into memory."""
    if path.is_dir() or path.suffix.lower() not in TABLES:
        return False
    large = path.suffix.lower() == ".parquet" and stream == "auto"
    return not (large and not fits(2 * table_nbytes(path), "cpu"))


def _from_table(path: Path, asked: Mapping[str, Any], seed: int, hold_out: bool) -> Splits:
    data = table(path, **asked)
    schema = data.schema
    assert schema is not None
    splits = _splits(path, [data], schema.classes or None, seed, hold_out=hold_out)
    return replace(splits, columns=schema.names, schema=schema)


def _named(
    name: str, data_dir: str | Path | None, download: bool, seed: int, stream: bool | str
) -> Splits:
    if stream is True:
        raise UsageError(f"{name} fits in memory and is not streamed")
    if name == "mnist5k":
        return _load_mnist5k()
    return _load_digits(seed) if name == "digits" else _load_torchvision(name, data_dir, download)


def _check_path(name: str | Path, path: Path) -> None:
    """Refuse what is no file of a known kind and no folder."""
    known = path.suffix.lower() in SUFFIXES
    if not path.exists():
        raise _not_there(name, path, known)
    if path.is_dir():
        return
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file or folder; a pipe or a device may never end")
    if path.suffix.lower() == ".h5ad":
        raise UsageError(
            f"{str(path)!r} is read by anndata, in Python: "
            f"pv.data.load(anndata.read_h5ad({path.name!r}), label=...), or keep its counts for "
            f"the command line: scipy.sparse.save_npz('counts.npz', adata.X)"
        )
    if not known:
        raise UsageError(
            f"the format of {str(path)!r} is not known by its suffix; convert it to one of "
            f"{' '.join(SUFFIXES)} or put images in a folder"
        )


def _not_there(name: str | Path, path: Path, known: bool) -> UsageError:
    separated = any(sep in str(name) for sep in (os.sep, os.altsep) if sep)
    if isinstance(name, Path) or separated or known:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        where = "" if path.parent.is_dir() else f" (nor a folder {str(path.parent)!r})"
        return UsageError(f"there is no file {str(name)!r}{where}{nearest(path.name, siblings)}")
    hint = nearest(name.lower(), NAMES) or "."
    return UsageError(
        f"there is no data set or file {name!r}{hint} Names: {', '.join(NAMES)}. "
        f"Paths: {' '.join(SUFFIXES)} or a folder of images"
    )


def _load_mnist5k() -> Splits:
    source = importlib.resources.files("pyrovae.assets").joinpath("mnist5k.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        train, test = (
            _images(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")
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
    data = TensorData(tensor(x.reshape(-1, 1, 8, 8)), labels=y, maximum=16.0)
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    about = "1,797 images of 8 x 8 handwritten digits, counts 0 to 16 (scikit-learn)"
    return Splits("digits", data.select(train), data.select(test), _DIGITS, about)


def _load_torchvision(name: str, data_dir: str | Path | None, download: bool) -> Splits:
    try:
        import torchvision.datasets as sets
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise UsageError(
            f"{name} needs torchvision, which cannot be imported ({reason(error)}); install the "
            f"two that fit together: pip install torch torchvision"
        ) from error
    kind, for_train, for_test = _TORCHVISION[name]
    root = home(data_dir or os.environ.get("PYROVAE_DATA") or "~/.cache/pyrovae")
    if not download and not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r} to read {name} from; pass --data-dir")
    folder = root / kind / "raw" if "mnist" in name else root
    remedy = (
        f"put its files in {folder}, pass the --data-dir that has them, or use the bundled mnist5k "
        f"or digits"
    )

    def open_part(arguments: dict[str, object]) -> Any:
        make = functools.partial(
            getattr(sets, kind), root=root, transform=_DECODED.get(name), **arguments
        )
        try:
            return make(download=False)
        except ImportError as error:
            raise UsageError(f"{reason(error)}: pip install what {name} needs") from error
        except (RuntimeError, FileNotFoundError) as error:
            if isinstance(error, RuntimeError) and "not found" not in str(error):
                raise  # the files are there but damaged
            if not download:
                raise UsageError(f"{name} is not in {folder}; allow download, {remedy}") from error
        try:
            return make(download=True)
        except (OSError, RuntimeError, ImportError) as error:
            raise UsageError(
                f"{name} is not in {folder} and cannot be downloaded: {reason(error)}; {remedy}"
            ) from error

    with reading(folder, f"delete them to have them downloaded again, or {remedy}"):
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
        return _images(images, targets if name == "omniglot" else None), None
    x = torch.as_tensor(source.data)
    if name == "emnist":  # its files hold the images transposed
        x = x.transpose(1, 2)
    y = source.targets if hasattr(source, "targets") else source.labels
    classes = tuple(c.split(" - ")[0] for c in getattr(source, "classes", _DIGITS))
    return _images(x, y), classes


def _images(x: object, labels: Any = None) -> TensorData:
    """8-bit images in any layout as [N, C, H, W]."""
    images = Pictures().arranged(tensor(x), pixels=True)
    return TensorData(images, labels=labels, divisor=255, maximum=1.0)


def _from_file(
    x: object,
    labels: Any = None,
    pictures: Pictures = Pictures(),  # noqa: B008
) -> tuple[Data, tuple[str, ...]]:
    """What a file holds as data, images as [N, C, H, W]; what was done to it, in words."""
    if is_sparse(x):
        return SparseData(x, labels=labels), ()
    stored = tensor(x)
    by = pictures.divisor(stored, SCALE)
    images = pictures.arranged(stored, pixels=by is not None)
    return pictures.data(images, labels, by), moved(stored.shape[1:], images)


def _from_sources(
    path: Path, label: str | None, seed: int, stream: bool | str, pictures: Pictures, hold_out: bool
) -> Splits:
    sources = _opened(path, label, pictures)
    classes = _shared_classes(sources)
    columns = sources[0].columns
    files = [FileData(each) for each in sources]
    large = not fits(2 * sum(data.nbytes for data in files), "cpu")  # a copy is split
    if stream is not True and not (stream == "auto" and large):
        parts = [each.all() for each in sources]
        splits = _splits(path, parts, classes, seed, hold_out=hold_out)
    else:
        splits = _splits(path, _streamed(*files), classes, seed, ", streamed", hold_out=hold_out)
    notes = itertools.chain.from_iterable(each.notes for each in sources)
    return _noted(replace(splits, columns=columns), notes)


def _streamed(train: FileData, *rest: FileData) -> list[Data]:
    """The training part in its file, the test part, if there is one, in memory."""
    whole = [fits(2 * each.nbytes, "cpu") for each in rest]
    tests = zip(rest, whole, strict=True)
    return [
        train,
        *(each.source.all() if fitting else each.sample(MOST) for each, fitting in tests),
    ]


def _noted(splits: Splits, notes: Iterable[str]) -> Splits:
    """With what was done to the data in their description."""
    about = "; ".join([splits.description, *dict.fromkeys(notes)])
    return replace(splits, description=about)


def _opened(path: Path, label: str | None, pictures: Pictures) -> list[Source]:
    """What the parts are read from, or the one that is to be parted."""
    if path.is_dir() and (path / "train").is_dir() and (path / "test").is_dir():
        named = (open_source(path / part, label, pictures) for part in ("train", "test"))
        both = [cast(ImageFiles, each) for each in named]
        for each in both:  # one of them may be grey
            each.channels = max(other.channels for other in both)
        return [*both]
    return [open_source(path, label, pictures)]


def _shared_classes(sources: list[Source]) -> tuple[str, ...] | None:
    """The names of the classes; of folders of images both parts have the same."""
    named = {str(i): s for i, s in enumerate(sources) if isinstance(s, ImageFiles) and s.names}
    if not named:
        return sources[0].classes
    classes, labels = class_codes({key: each.names for key, each in named.items()})
    for key, each in named.items():
        each.classes, each.labels = classes, labels[key]
    return classes


def _from_arrays(
    path: Path,
    arrays: Mapping[str, object],
    seed: int,
    pictures: Pictures = Pictures(),  # noqa: B008
    hold_out: bool = True,
) -> Splits:
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    keys = _parts_of(arrays)
    ys = {key: arrays[y] for key in keys if (y := key.replace("x", "y")) in arrays}
    classes, labels = class_codes(ys) if ys else (None, {})
    read = [_from_file(arrays[key], labels.get(key), pictures) for key in keys]
    splits = _splits(path, [data for data, _ in read], classes, seed, hold_out=hold_out)
    return _noted(splits, (note for _, notes in read for note in notes))


def _parts_of(arrays: Mapping[str, object]) -> list[str]:
    """Which of some arrays hold x: all of it, or of the training part and of the test part."""
    first = "x_train" if "x_train" in arrays else "x"
    if first not in arrays:
        raise UsageError(
            f"it holds {', '.join(map(str, list(arrays)[:5])) or 'no array'}; the arrays are to be "
            f"named x, or x_train and x_test, with labels y, or y_train and y_test"
        )
    return [key for key in (first, "x_test") if key in arrays]


def _splits(
    path: Path,
    parts: Sequence[Any],
    classes: tuple[str, ...] | None,
    seed: int,
    how: str = "",
    *,
    hold_out: bool = True,
) -> Splits:
    """The training part, and the test part if there is none, of one or both."""
    train, *rest = parts
    if rest and rest[0].event_shape != train.event_shape:
        shapes = f"{list(train.event_shape)} and {list(rest[0].event_shape)}"
        raise UsageError(f"the training and test data must have one shape, not {shapes}")
    if not rest and not hold_out:
        test = _looked_at(train)
        return Splits(path.stem, train, test, classes, f"{len(test):,} data{how} from {path}")
    if not rest and len(train) < 2:
        raise UsageError(
            "it holds 1 datum; at least 2 are needed, to hold one out as the test part"
        )
    held = "" if rest else f" (held out at random, seed {seed})"
    train, test = (train, *rest) if rest else train.split(max(1, round(len(train) / 10)), seed)
    about = f"{len(train):,} training and {len(test):,} test data{held}{how} from {path}"
    return Splits(path.stem, train, test, classes, about)


def _looked_at(data: Data) -> TensorData:
    """All of the data, or those of them that can be in memory."""
    if isinstance(data, SparseData) and data.fits_dense():
        return data.dense(slice(None))
    return data if isinstance(data, TensorData) else data.sample(MOST)


def _read(path: Path) -> dict[str, object]:
    if path.suffix.lower() == ".pt":
        held = torch.load(path, map_location="cpu", weights_only=True)
        return held if isinstance(held, dict) else {"x": held}
    with path.open("rb") as file:  # np.load(path) leaves a damaged .npz open
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        return {"x": read_sparse(path)} if is_stored_sparse(loaded.files) else dict(loaded)
