"""Tables as people have them -> data with a schema: files and frames, their columns recognised."""

from __future__ import annotations

import codecs
import collections
import contextlib
import csv
import io
import itertools
import math
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyrovae.cells import (
    BOOLEANS,
    DATES,
    decimal_mark,
    is_loose,
    missing,
    number,
    scalars,
    typed,
)
from pyrovae.errors import UsageError, got, in_short, nearest, reason
from pyrovae.files import TIMES, check_held, check_size, home
from pyrovae.schema import KINDS, Column, Schema, column_of, frame_of
from pyrovae.sources import reading, table_nbytes, words_nbytes
from pyrovae.tensors import TensorData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIXES", "read", "table"]

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")
DELIMITERS = (",", ";", "\t", "|")
IDS = ("id", "index", "row", "row id", "row_id", "rowid", "idx")
ORDERS = ("day/month", "month/day")
LARGE = 100  # a median of counts from which on it does not matter that they are whole
LEVELS, FEW, MANY, HEAD = 1000, 10, 30, 100  # of a text, of whole numbers; lines that are looked at
SKEW = 0.5  # of moderately skewed numbers, Bulmer, "Principles of Statistics", 1979
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
Names = str | Sequence[str]


def table(
    source: object,
    *,
    columns: Names | None = None,
    drop: Names | None = None,
    label: str | None = None,
    target: str | None = None,
    kinds: str | Mapping[str, str] | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    schema: Schema | None = None,
) -> TensorData:
    """A table as data: x ``[N, columns]``, in the units of the table, NaN where cells are missing.

    ``.schema`` of the data says what the columns are and what was left out (``schema.notes``, a
    line each): an index, a column that is empty or has one value, a name that stands twice, text
    that has a value of its own in every row, or more than 10 levels and half of the rows. Missing
    are empty cells, NA, N/A, NaN, null, None, ?, - and what pandas calls missing. The kinds of
    columns:

    - ``boolean``: True and False, yes and no, 0 and 1;
    - ``category``: text, a pandas Categorical with its order, and numbers of at most 10 different
      values where each is there twenty times on average, whole ones three times;
    - ``count``: whole numbers from 0, of which the smallest is at most a tenth of the largest; of
      more than 30 different values, where their skewness is above 1/2, and without a 0 where half
      are below 100;
    - ``date``: datetime64, and text such as 2024-12-31;
    - ``positive``: numbers above 0 whose skewness is above 1/2 and two standard errors, and nearer
      to 0 after a logarithm;
    - ``real``: all other numbers.

    Args:
        source: a path (.csv .tsv .txt .parquet .xlsx), a DataFrame of pandas or polars, or a dict
            of columns.
        columns: the columns of x by name, in their order, or all but those with a minus before
            their name: ``["a", "b"]``, ``"a,b"``, ``"-c"``.
        drop: columns that are left out.
        label: a column of classes, which become ``.labels``; their names are ``schema.classes``.
        target: a column of numbers that a model takes as its second argument y ``[N]``.
        kinds: of columns, by name, where they are others than those that are recognised:
            ``{"year": "category"}`` or ``"year=category"``; ``day/month`` and ``month/day`` are
            dates in that order.
        delimiter: between the cells of a text file; recognised by default, as are the following.
        decimal: "." or ",", the decimal mark.
        encoding: of a text file, as Python names it.
        header: whether the first line has the names; without, they are "column 1", ....
        schema: of a table that was read before: this one is read as that one was.

    Raises:
        UsageError: no rows or no column, a name that is not there, cells that are no values of
            their column, or what can be read in two ways, with the option that decides it.

    >>> data = table({"bill": [39.1, 39.5, 40.3, 36.7], "sex": ["male", None, "female", "male"]})
    >>> data.x
    tensor([[39.1000,  1.0000],
            [39.5000,     nan],
            [40.3000,  0.0000],
            [36.7000,  1.0000]])
    >>> print(data.schema)
    column  kind      values
    bill    real      36.7 to 40.3
    sex     category  2 levels: female, male  25.0 % missing
    """
    asked = [*_split(columns), *_split(drop), *_split([label or "", target or ""])]
    asked += [name[1:] for name in asked if name.startswith("-")]
    path = home(source) if isinstance(source, str | Path) else None
    with contextlib.nullcontext() if path is None else reading(path):
        raw, notes = _raw(source, Form(delimiter, decimal, encoding, header), asked)
        reader = _Columns(raw, _kinds(kinds, list(raw.columns)), decimal, notes)
        if schema is None:
            chosen = _chosen(list(raw.columns), _split(columns), _split(drop), [label, target])
            by_name = not set(chosen).isdisjoint(_split(columns))
            schema = reader.schema(chosen, by_name, label, target)
        return reader.data(schema)


# --- which columns -----------------------------------------------------------------------------


def _split(names: Names | None) -> list[str]:
    """Names in a list or in a text with commas, empty ones left out."""
    found = names.split(",") if isinstance(names, str) else names or ()
    return [str(name).strip() for name in found if str(name).strip()]


def _kinds(kinds: str | Mapping[str, str] | None, names: Sequence[str]) -> dict[str, str]:
    """The kinds that are asked for, by the names of columns."""
    if isinstance(kinds, str):
        parts = [part.rpartition("=") for part in _split(kinds)]
        kinds = {name.strip(): kind.strip() for name, _, kind in parts}
    for name, kind in (kinds or {}).items():
        _check_name(name, names)
        if kind not in (*KINDS, *DATES):
            raise UsageError(
                f"{got(kind)} is no kind of column (kinds={{{name!r}: ...}})"
                f"{nearest(str(kind), KINDS)} Kinds: {', '.join((*KINDS, *DATES[1:]))}"
            )
    return dict(kinds or {})


def _check_name(name: str, names: Sequence[str]) -> None:
    if name not in names:
        few = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        hint = nearest(name, names) or "."
        raise UsageError(f"there is no column {name!r}{hint} Columns: {few}")


def _chosen(
    names: Sequence[str], columns: Sequence[str], drop: Sequence[str], apart: Sequence[str | None]
) -> list[str]:
    """The columns of x: those that are asked for, or all but those that are not wanted and those
    that stand apart, the label and the target."""
    minus = [name[1:] for name in columns if name.startswith("-") and name not in names]
    plus = [name for name in columns if name[1:] not in minus]
    aside = list(filter(None, apart))
    gone = {*minus, *drop, *aside}
    for name in (*plus, *minus, *drop, *aside):
        _check_name(name, names)
    _check_once([*plus, *aside, *{*minus, *drop}])
    return [name for name in dict.fromkeys(plus or names) if name not in gone]


def _check_once(asked: Sequence[str]) -> None:
    twice = [name for name, count in collections.Counter(asked).items() if count > 1]
    if twice:
        raise UsageError(
            f"column {twice[0]!r} is named twice, among columns, drop, label and target: name it "
            f"once"
        )


class _Columns:
    """The columns of a table as typed values, read when they are asked for."""

    def __init__(
        self, raw: pd.DataFrame, kinds: Mapping[str, str], decimal: str | None, notes: Sequence[str]
    ) -> None:
        if not len(raw):
            raise UsageError("there are no data: the table has no rows")
        self.raw, self.kinds, self.decimal = raw, kinds, decimal
        self.notes = list(notes)
        self._read: dict[str, pd.Series] = {}
        self._mark = ""

    def values(self, name: str, kind: str = "") -> pd.Series:
        """Typed values of a column: of the kind asked for, or ``kind``, or what they look like."""
        if name not in self._read:
            column = column_of(self.raw, name).reset_index(drop=True).rename(name)
            self._read[name] = typed(column, self.kinds.get(name, kind), self._decimal_mark())
        return self._read[name]

    def _decimal_mark(self) -> str:
        if not self._mark:
            texts = {str(name): column for name, column in self.raw.items() if is_loose(column)}
            self._mark = decimal_mark(texts, self.decimal)
        return self._mark

    def schema(
        self, names: Sequence[str], by_name: bool, label: str | None, target: str | None
    ) -> Schema:
        """What the columns are.

        Args:
            names: of the columns of x, those that are of no use among them.
            by_name: whether they were asked for one by one.
            label: the column of classes.
            target: the column that is given to a model beside x.
        """
        if len(self.raw) < 2:
            raise UsageError("it has 1 row; at least 2 are needed to tell what its columns are")
        found = (self._column(name, by_name or name in self.kinds) for name in names)
        columns = tuple(filter(None, found))
        if not columns:
            why = in_short("; ".join(self.notes or ["all are label, target or dropped"]))
            raise UsageError(f"no column is left for x: {why}; name those to take, columns=...")
        classes = _classes(self.values(label, "category")) if label else ()
        goal = _target(self.values(target, "real")) if target else None
        return Schema(columns, label or "", classes, goal, tuple(self.notes))

    def _column(self, name: str, wanted: bool) -> Column | None:
        """A column of x; None, and a note, of one that is left out."""
        values, asked = self.values(name), self.kinds.get(name, "")
        kind = "date" if asked in DATES else asked
        why = _useless(values, wanted) or ("" if wanted else _left_out(values, self.raw))
        if not why:
            kind = kind or kind_of(values)
            _check_kind(values, kind)
            why = "" if asked else _digits(values, kind, wanted)
        if why:
            self.notes.append(f"column {name!r} {why}")
            return None
        return replace(Column.of(values, kind), order=asked if asked in ORDERS else "")

    def data(self, schema: Schema) -> TensorData:
        """The table as a schema has it, with its labels and its target where they are there."""
        found = [column.encode(self._as(column)) for column in schema.columns]
        labels = y = None
        if schema.label in self.raw.columns:
            labels = _codes(self.values(schema.label, "category"), schema.classes)
        if schema.target is not None and schema.target.name in self.raw.columns:
            y = schema.target.encode(self._as(schema.target))
        dtype = torch.get_default_dtype()
        data = TensorData(torch.from_numpy(np.stack(found, 1)).to(dtype), labels=labels)
        if y is not None:
            data = data.with_arguments(torch.tensor(y, dtype=dtype))
        data.schema = schema
        return data

    def _as(self, column: Column) -> pd.Series:
        """Values read as those of a column are."""
        names = any(isinstance(level, str) for level in column.levels)
        dates = column.order or "date"
        kind = dates if column.kind == "date" else "category" if names else ""
        return self.values(column.name, kind if kind or column.levels else "real")


def _useless(values: pd.Series, wanted: bool) -> str:
    """Why a column cannot be used at all."""
    if values.isna().all():
        if wanted:
            raise UsageError(f"column {values.name!r} is empty in every row: leave it out")
        return "is empty: left out"
    text = _is_text(values)
    levels = values.nunique() if text else 0
    if levels > LEVELS:
        if wanted:
            raise UsageError(
                f"column {values.name!r} has {levels:,} levels, more than {LEVELS:,}: group them, "
                f"or leave it out with drop={values.name!r}"
            )
        return f"is text of {levels:,} levels, more than {LEVELS:,}: left out"
    return ""


def _left_out(values: pd.Series, raw: pd.DataFrame) -> str:
    """Why a column is left out unless it is asked for."""
    name, take = str(values.name), "left out (columns= and its name take it)"
    known = values.dropna()
    distinct = known.nunique()
    first, _, copy = name.rpartition(".")
    if copy.isdecimal() and f"{first}\0" in raw.attrs.get("doubled", ()):
        return f"has the name of another column, {first!r}: {take}"
    if distinct == 1:
        return f"is {in_short(str(known.iloc[0]), 60)} in every row where it is known: {take}"
    if _numbers_rows(values, name):
        return f"numbers the rows: {take}"
    return _names_rows(known, take) if _is_text(values) else ""


def _names_rows(known: pd.Series, take: str) -> str:
    """Why text is no category: names, notes."""
    distinct, shown = known.nunique(), in_short(repr(known.iloc[0]), 60)
    if distinct == len(known):
        return f"is text with a value of its own in every row, {shown}, ...: {take}"
    if distinct > max(FEW, len(known) / 2):
        return f"is text of {distinct:,} levels in {len(known):,} rows, {shown}, ...: {take}"
    return ""


def _numbers_rows(values: pd.Series, name: str) -> bool:
    """Whether a column is 0 to N-1 or 1 to N, or called an index and different in every row."""
    called = name.strip().lower() in IDS or name.startswith("Unnamed: ")
    if called and values.nunique() == len(values):
        return True
    if getattr(values.dtype, "kind", "O") not in "iuf" or values.hasnans or len(values) < FEW:
        return False
    numbers, rows = values.to_numpy(dtype=np.float64), np.arange(len(values))
    return bool(np.array_equal(numbers, rows) or np.array_equal(numbers, rows + 1))


def _digits(values: pd.Series, kind: str, wanted: bool) -> str:
    """Refuse whole numbers that lose digits as floats, or say that they are ids."""
    if kind in ("category", "boolean", "date"):
        return ""
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    own = values.dropna().to_numpy()
    own = own.astype(np.int64 if own.dtype.kind in "iu" else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # 2^63 - 1 as a float is 2^63
        kept = own.astype(dtype).astype(own.dtype)
    if bool((kept == own).all()):
        return ""
    if bool((own != np.rint(own)).any()):
        _check_spread(values.name, own, kept, np.dtype(dtype).name)
        return ""
    name, largest = values.name, f"{np.abs(own).max():,.0f}"
    remedy = f"kinds={{{name!r}: 'real'}} takes it and rounds to {np.dtype(dtype).name}"
    if len(np.unique(own)) == len(own) and not wanted:
        return (
            f"has whole numbers up to {largest}, another in every row, such as ids have: left out "
            f"({remedy})"
        )
    raise UsageError(
        f"column {name!r} has whole numbers up to {largest}, whose last digits are lost in "
        f"{np.dtype(dtype).name}: divide them, leave the column out with drop={name!r}, or {remedy}"
    )


def _check_spread(name: object, own: np.ndarray, kept: np.ndarray, dtype: str) -> None:
    """Refuse numbers whose differences drown in what they have in common, and such as floats do
    not reach."""
    finite = own[np.isfinite(own)]
    if not len(finite):
        return
    if np.isfinite(kept).sum() < len(finite):
        raise UsageError(
            f"column {name!r} has {np.abs(finite).max():.3g}, more than {dtype} holds: divide it, "
            f"or leave it out with drop={name!r}"
        )
    error = np.abs(kept - own).max()
    if error > 0.01 * finite.std() > 0:
        raise UsageError(
            f"column {name!r} has numbers near {finite.mean():.6g} that {dtype} keeps to "
            f"{error:.2g}, beside a standard deviation of {finite.std():.2g}: subtract what they "
            f"have in common, or leave it out with drop={name!r}"
        )


# --- what kind ---------------------------------------------------------------------------------


def _is_text(values: pd.Series) -> bool:
    return is_loose(values)


def kind_of(values: pd.Series) -> str:
    """The kind of a column of typed values, as :func:`table` says.

    >>> import pandas as pd
    >>> kind_of(pd.Series([2700, 3750, 6300])), kind_of(pd.Series([0, 2, 5, 40]))
    ('real', 'count')
    """
    kind = getattr(values.dtype, "kind", "O")
    if kind == "b":
        return "boolean"
    if kind == "M":
        return "date"
    if str(values.dtype) == "category":
        return "category"
    if _is_text(values):
        words = {str(word).lower() for word in values.dropna().unique()}
        return "boolean" if words in map(set, BOOLEANS) else "category"
    return _kind_of_numbers(values.dropna().to_numpy(dtype=np.float64))


def _kind_of_numbers(known: np.ndarray) -> str:
    known = known[np.isfinite(known)]
    distinct = np.unique(known)
    if not len(distinct):
        return "real"
    whole = bool((known == np.rint(known)).all())
    if whole and np.array_equal(distinct, [0, 1]):
        return "boolean"
    if len(distinct) <= min(FEW, len(known) // (3 if whole else 20)):
        return "category"
    if whole and _counts(known, distinct):
        return "count"
    return "positive" if len(distinct) > 2 and _is_skewed(known) else "real"


def _counts(known: np.ndarray, distinct: np.ndarray) -> bool:
    """Whether whole numbers count something: they begin near 0, and many levels are skewed; those
    that are not, such as ages, are spread otherwise, and positive ones in their hundreds as if
    they were not whole."""
    near = 0 <= distinct[0] <= distinct[-1] / 10
    large = distinct[0] > 0 and np.median(known) >= LARGE
    return bool(near and not large and (len(distinct) <= MANY or _skewness(known) > SKEW))


def _is_skewed(known: np.ndarray) -> bool:
    """Whether positive numbers are, and less so after a logarithm."""
    least = max(SKEW, 2 * math.sqrt(6 / len(known)))  # two standard errors
    skewness = _skewness(known)
    return known.min() > 0 and skewness > least and abs(_skewness(np.log(known))) < skewness


def _skewness(values: np.ndarray) -> float:
    centred = values - values.mean()
    spread = math.sqrt(float(np.square(centred).mean()))
    return float(np.power(centred / spread, 3).mean()) if spread else 0.0


def _check_kind(values: pd.Series, kind: str) -> None:
    """Refuse values that are not of the kind that they are said to be."""
    numeric = getattr(values.dtype, "kind", "O") in "biuf"
    name, said = values.name, f"kinds={{{values.name!r}: {kind!r}}}"
    if kind in ("category", "boolean"):
        if kind == "category" and values.nunique() > LEVELS and not _is_text(values):
            raise UsageError(
                f"column {name!r} has {values.nunique():,} different values, more than {LEVELS:,} "
                f"levels: choose another kind than {said}"
            )
        return
    if kind == "date":
        if getattr(values.dtype, "kind", "O") != "M":
            raise UsageError(f"column {name!r} has no dates ({values.dtype}), but {said} says so")
        return
    if not numeric:
        raise UsageError(
            f"column {name!r} has {values.dtype}, no numbers, but {said} says so: say "
            f"kinds={{{name!r}: 'category'}}"
        )
    own = values.to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = {
        "count": (own < 0) | (own != np.rint(own)),
        "positive": own <= 0,
    }.get(kind, np.zeros(len(own), bool))
    wrong &= ~np.isnan(own)
    wrong |= np.isinf(own)
    if wrong.any():
        row = int(wrong.argmax())
        why = "which is infinite" if np.isinf(own[row]) else f"which is no {kind} value ({said})"
        raise UsageError(
            f"column {name!r} has {own[row]:g} in data row {row + 1}, {why}: correct it, or leave "
            f"the column out with drop={name!r}"
        )


def _classes(values: pd.Series) -> tuple[str, ...]:
    """The names of the classes that a column has."""
    if getattr(values.dtype, "kind", "O") in "fM" and not _whole(values):
        raise UsageError(
            f"column {values.name!r} has {values.dtype}, no classes: labels are whole numbers or "
            f"names; a number to be predicted is a target={values.name!r}"
        )
    if str(values.dtype) == "category":  # without levels that no row has
        values = values.cat.remove_unused_categories()
    return tuple(map(str, Column.of(values, "category").levels))


def _codes(values: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """The classes of a column as their places among all."""
    unknown = values.isna().to_numpy(dtype=bool)
    if unknown.any():
        raise UsageError(
            f"column {values.name!r}, the label, is empty in data row {int(unknown.argmax()) + 1} "
            f"({int(unknown.sum()):,} in all): fill it or leave such rows out, or have it as a "
            f"column of x, where cells may be missing"
        )
    return Column(str(values.name), "category", "str", classes).encode(values).astype(np.int64)


def _whole(values: pd.Series) -> bool:
    if getattr(values.dtype, "kind", "O") == "M":
        return False
    own = values.dropna().to_numpy(dtype=np.float64)
    return bool((own == np.rint(own)).all())


def _target(values: pd.Series) -> Column:
    """The column of a number that is predicted."""
    if getattr(values.dtype, "kind", "O") not in "biuf":
        raise UsageError(
            f"column {values.name!r}, the target, has no numbers: a class is a "
            f"label={values.name!r}"
        )
    if values.isna().all():
        raise UsageError(f"column {values.name!r}, the target, is empty in every row")
    kind = "boolean" if getattr(values.dtype, "kind", "O") == "b" else "real"
    _check_kind(values, kind)
    return Column.of(values, kind)


# --- reading -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How a file writes a table; None where that is to be recognised."""

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None


def read(source: object, **form: object) -> pd.DataFrame:
    """A table as pandas has it, its columns with different names, text as it stands.

    Args:
        source: as of :func:`table`.
        form: ``delimiter``, ``decimal``, ``encoding``, ``header``, as of :func:`table`.

    Raises:
        UsageError: no such file, or a damaged one.
    """
    return _raw(source, Form(**form), ())[0]  # type: ignore[arg-type]


def _raw(source: object, form: Form, named: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    notes: list[str] = []
    if not isinstance(source, str | Path):
        _check_unused(form)
        return _unique(frame_of(source)), notes
    path = home(source)
    suffix = path.suffix.lower()
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UsageError(f"there is no file {str(path)!r}{nearest(path.name, siblings)}")
    if suffix not in SUFFIXES:
        raise UsageError(
            f"{str(path)!r} is no table by its suffix; tables are {' '.join(SUFFIXES)} files"
        )
    with reading(path):
        check_size(path)
        if suffix == ".parquet":
            _check_unused(form)
            return _unique(_parquet(path)), notes
        if suffix == ".xlsx":
            _check_unused(replace(form, header=None))
            cells = _excel(path, notes)
        else:
            cells = _text_cells(path, form, notes)
        return _with_names(cells, form.header, named), notes


def _check_unused(form: Form) -> None:
    for name, value in vars(form).items():
        if value is not None and name != "decimal":
            raise UsageError(f"{name}={value!r} says how a text file is read, and this is none")


def _unique(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with names of text, each different: a second "a" becomes "a.1"."""
    frame = frame.copy(deep=False)
    taken: set[str] = set()
    names, doubled = [], set()
    own = {str(name) for name in frame.columns}
    for name in map(str, frame.columns):
        new = name
        copies = (f"{name}.{i}" for i in itertools.count(1))
        while new in taken or (new != name and new in own):
            new = next(copies)
            doubled.add(f"{name}\0")
        taken.add(new)
        names.append(new)
    frame.columns = names
    frame.attrs = {"doubled": tuple(doubled)}
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    size = path.stat().st_size
    check_held(path, table_nbytes(path), size, TIMES, "write it without compression")
    remedy = "leave out its long texts, which stand in it once for many rows"
    check_held(path, words_nbytes(path), size, TIMES, remedy)
    return pd.read_parquet(path)


_PLACED = re.compile(rb"""\br=["']([A-Z]{0,9})([0-9]{1,19})["']""")  # a row, or a cell of it


def _check_cells(path: Path) -> None:
    """Refuse a book with a cell so far off that the empty ones before it take the memory."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as book:
        for name in (n for n in book.namelist() if re.fullmatch(r"xl/worksheets/[^/]*\.xml", n)):
            rows, columns = 0, 1
            for letters, row in _PLACED.findall(book.read(name)):
                place = 0
                for letter in letters:
                    place = 26 * place + letter - 64
                rows, columns = max(rows, int(row)), max(columns, place)
            size = path.stat().st_size
            remedy = "leave out the cells that are far off"
            check_held(path, 8 * rows * columns, size, TIMES, remedy)


def _excel(path: Path, notes: list[str]) -> pd.DataFrame:
    import pandas as pd

    _check_cells(path)
    try:
        with pd.ExcelFile(path) as book:
            sheets = book.sheet_names
            cells = pd.read_excel(book, header=None, dtype=object, keep_default_na=False)
    except ImportError as error:
        raise UsageError(
            f'reading it needs openpyxl ({error}); pip install "pyrovae[excel]"'
        ) from error
    if len(sheets) > 1:
        notes.append(f"the first of its {len(sheets)} sheets, {sheets[0]!r}, is read")
    return cells.loc[[not all(map(missing, row)) for row in cells.itertuples(index=False)]]


def _with_names(cells: pd.DataFrame, header: bool | None, named: Sequence[str]) -> pd.DataFrame:
    """The rows of a table without the line of its names."""
    if not len(cells):
        raise UsageError("there are no data: it is empty")
    first = ["" if missing(cell) else str(cell).strip() for cell in cells.iloc[0]]
    if header is None:
        header = not set(first).isdisjoint(named) or _is_header(first, cells)
    if not header:
        names = [f"column {i}" for i in range(1, len(first) + 1)]
        return _unique(cells.set_axis(names, axis=1))
    names = [name or f"Unnamed: {i}" for i, name in enumerate(first)]
    rows = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    return _unique(rows)


def _is_header(first: Sequence[str], cells: pd.DataFrame) -> bool:
    """Whether a first line has names: no numbers, or words above numbers."""
    numeric = [i for i, cell in enumerate(first) if _number_like(cell)]
    words = (i for i, cell in enumerate(first) if cell and i not in numeric)
    return not numeric or any(_all_numbers(cells.iloc[1:HEAD, at]) for at in words)


def _all_numbers(cells: pd.Series) -> bool:
    known = [str(cell) for cell in scalars(cells) if cell is not None]
    return bool(known) and all(map(_number_like, known))


def _number_like(cell: str) -> bool:
    return number(cell) is not None or number(cell, ",") is not None


def _text_cells(path: Path, form: Form, notes: list[str]) -> pd.DataFrame:
    """The cells of a text file, all of them text."""
    import pandas as pd

    text, delimiter = _without_comments(_decoded(path, form.encoding, notes), form.delimiter)
    if not text.strip():
        raise UsageError("there are no data: it is empty")
    if delimiter is None:
        delimiter = _delimiter(text, form.decimal)
    _check_delimiter(delimiter)
    options = {"header": None, "dtype": str, "keep_default_na": False, "na_filter": False}
    separator = r"\s+" if delimiter == " " else delimiter
    try:
        cells = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True, **options)
    except pd.errors.ParserError as error:
        _check_even(text, delimiter)
        raise UsageError(
            f"{in_short(reason(error))}: close what is quoted, or say delimiter=..."
        ) from error
    if (cells.iloc[:, -1] == "").any():  # as it is in a row that is short
        _check_even(text, delimiter)
    return cells


def _check_delimiter(delimiter: object) -> None:
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in "\"'\r\n":
        raise UsageError(
            f'delimiter must be one sign such as "," ";" "\\t" "|" or " ", got {got(delimiter)}'
        )


def _lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text that are not blank, with their numbers."""
    lines = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    for cells in lines:
        cells = [c for c in cells if c] if delimiter == " " else cells
        if cells:
            yield lines.line_num, cells


def _check_even(text: str, delimiter: str) -> None:
    """Refuse lines that have more or fewer cells than the first."""
    width = 0
    for line, cells in _lines(text, delimiter):
        width = width or len(cells)
        if len(cells) != width and any(cells):
            raise UsageError(
                f"line {line} has {len(cells)} cells where there are {width} columns (parted at "
                f"{delimiter!r}): correct the line, or say delimiter=... or decimal=','"
            )


def _delimiter(text: str, decimal: str | None) -> str:
    """What parts the cells of a text: what gives its lines equally many, most of them numbers."""
    heads = {sign: _head(text, sign) for sign in DELIMITERS if sign in text and sign != decimal}
    scores = {sign: _share_of_numbers(head) for sign, head in heads.items() if _width(head) > 1}
    if not scores:
        return _most_even(text, heads) or ("," if decimal is None else ";")
    best, *others = _best(scores)
    if others:
        raise UsageError(
            f"its cells may be parted at {best!r} and at {others[0]!r}: say which, "
            f"delimiter={best!r} or delimiter={others[0]!r}"
        )
    return best


def _best(scores: Mapping[str, float]) -> list[str]:
    return [sign for sign, score in scores.items() if score == max(scores.values())]


def _head(text: str, delimiter: str) -> list[list[str]]:
    return [cells for _, cells in itertools.islice(_lines(text, delimiter), HEAD)]


def _width(head: Sequence[Sequence[str]]) -> int:
    """The number of cells of every line; 0 where it differs."""
    widths = {len(cells) for cells in head}
    return widths.pop() if len(widths) == 1 else 0


def _share_of_numbers(head: Iterable[Sequence[str]]) -> float:
    cells = [cell.strip() for line in head for cell in line]
    return sum(missing(cell) or _number_like(cell) for cell in cells) / len(cells)


def _is_spaced(text: str) -> bool:
    """Whether the lines are numbers between spaces, under a line of names."""
    head = [line.split() for line in itertools.islice(filter(str.strip, text.splitlines()), HEAD)]
    below = itertools.chain.from_iterable(head[1:])
    return _width(head) > 1 and all(_number_like(cell) or missing(cell) for cell in below)


def _most_even(text: str, heads: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """What parts most lines into as many cells, where none of the usual does so for all."""
    if _is_spaced(text):
        return " "
    counts = {
        sign: max(collections.Counter(map(len, head)).values())
        for sign, head in heads.items()
        if len(head[0]) > 1
    }
    return max(counts, key=lambda sign: counts[sign], default="")


def _without_comments(text: str, delimiter: str | None) -> tuple[str, str | None]:
    """The text from its first line of cells on; the line ``sep=;`` of Excel says what parts it.

    Lines at the top that begin with # are comments, the last of them the names where it has as
    many as the line below it has cells.
    """
    if said := re.match(r"sep=(.)\s*\n", text):
        delimiter, text = delimiter or said[1], text[said.end() :]
    end = re.compile(r"(?:\s*\n|#.*(?:\n|$))*").match(text).end()  # type: ignore[union-attr]
    names, body = (re.findall(r"#+\s*(.*\n)", text[:end]) or [""])[-1], text[end:]
    if names.strip() and body.strip():
        sign = delimiter or _delimiter(body, None)
        above, first = _head(names, sign)[0], _head(body, sign)[0]
        body = names + body if len(above) == len(first) > 1 else body
    return body, delimiter


def _decoded(path: Path, encoding: str | None, notes: list[str]) -> str:
    """The text of a file: as its first bytes say, UTF-8, or Western European."""
    raw = path.read_bytes()
    found = encoding or _marked(raw[:1000])
    text = _text_of(raw, found or "utf-8")
    if text is None and found is None:
        text = _text_of(raw, "cp1252")
        notes.append("it is not UTF-8 and is read as cp1252 (encoding= says otherwise)")
    if text is None:
        raise UsageError(
            f"it is no text in {found or 'UTF-8 or cp1252'}: say encoding=..., or make it again if "
            f"it is damaged or of another format"
        )
    return text


def _marked(raw: bytes) -> str | None:
    """The encoding that a mark, or letters of two bytes, tell."""
    if b"\0" in raw and not raw.startswith(tuple(MARKS)):
        return "utf-16-be" if raw[::2].count(0) > raw[1::2].count(0) else "utf-16-le"
    return next((name for mark, name in MARKS.items() if raw.startswith(mark)), None)


def _text_of(raw: bytes, encoding: str) -> str | None:
    """Bytes as text; None where they are none in this encoding."""
    try:
        text = raw.decode(encoding)
    except LookupError as error:
        raise UsageError(f"encoding={encoding!r} is not known to Python ({error})") from error
    except UnicodeError:
        return None
    return None if re.search("[\0-\x08]", text) else text
