"""Tables as people have them -> data with a schema: files and frames, their columns recognised."""

from __future__ import annotations

import codecs
import collections
import csv
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

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
from pyrovae.errors import UsageError, got, nearest, reason
from pyrovae.files import home
from pyrovae.schema import KINDS, Column, Schema, column_of, frame_of
from pyrovae.sources import reading
from pyrovae.tensors import TensorData

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIXES", "read", "table"]

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")
DELIMITERS = (",", ";", "\t", "|")
LEVELS, FEW, HEAD = 1000, 10, 100  # of a text, of whole numbers; lines that are looked at
SKEW = 0.5  # of moderately skewed numbers, Bulmer, "Principles of Statistics", 1979
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
    with as many levels as rows. Missing are empty cells, NA, N/A, NaN, null, None, ?, - and what
    pandas calls missing. The kinds of columns:

    - ``boolean``: True and False, yes and no, 0 and 1;
    - ``category``: text, a pandas Categorical with its order, and whole numbers of at most 10
      different values where each is there three times on average;
    - ``count``: whole numbers from 0, of which the smallest is at most a tenth of the largest;
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
    form = Form(delimiter, decimal, encoding, header)
    named = [*_split(columns), *_split(drop), *(n for n in (label, target) if n is not None)]
    raw, notes = _raw(source, form, named)
    if not len(raw):
        raise UsageError("there are no data: the table has no rows")
    if schema is not None:
        return _as_before(raw, schema, decimal)
    if len(raw) < 2:
        raise UsageError("it has 1 row; at least 2 are needed to tell what its columns are")
    asked = _kinds(kinds, list(raw.columns))
    reader = _Columns(raw, asked, decimal)
    chosen, by_name = _chosen(list(raw.columns), columns, drop, label, target)
    found, said = reader.kept(chosen, by_name)
    labels, classes = (None, ()) if label is None else _labels(reader.values(label, "category"))
    y = None if target is None else _target(reader.values(target, asked.get(target, "real")))
    if not found:
        raise UsageError(
            "no column is left for x: " + ("; ".join([*notes, *said]) or "choose others (columns=)")
        )
    goal = None if y is None else y[0]
    made = Schema(tuple(found), label or "", classes, goal, (*notes, *said))
    x = [column.encode(reader.values(column.name)) for column in found]
    numbers = torch.from_numpy(np.stack(x, 1)).to(torch.get_default_dtype())
    return _data(numbers, labels, None if y is None else y[1], made)


def _data(x: Tensor, labels: np.ndarray | None, y: np.ndarray | None, schema: Schema) -> TensorData:
    data = TensorData(x, labels=labels)
    if y is not None:
        data = data.with_arguments(torch.from_numpy(y).to(x.dtype))
    data.schema = schema
    return data


def _as_before(raw: pd.DataFrame, schema: Schema, decimal: str | None) -> TensorData:
    """A table read as another was, with its labels and its target where they are there."""
    reader = _Columns(raw, {}, decimal)
    dates = {c.name: "date" for c in schema.columns if c.kind == "date"}
    x = []
    for column in schema.columns:
        kind = "category" if column.kind in ("category", "boolean") else dates.get(column.name, "")
        column_of(raw, column.name)
        x.append(column.encode(reader.values(column.name, kind or "real")))
    labels = y = None
    if schema.label in raw.columns:
        labels, _ = _labels(reader.values(schema.label, "category"), schema.classes)
    if schema.target is not None and schema.target.name in raw.columns:
        y = schema.target.encode(reader.values(schema.target.name, "real"))
    x_numbers = torch.from_numpy(np.stack(x, 1)).to(torch.get_default_dtype())
    return _data(x_numbers, labels, y, replace(schema, notes=()))


# --- which columns -----------------------------------------------------------------------------


def _split(names: Names | None) -> list[str]:
    """Names in a list or in a text with commas."""
    if names is None:
        return []
    if isinstance(names, str):
        return [name.strip() for name in names.split(",") if name.strip()]
    return [str(name) for name in names]


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
        raise UsageError(f"there is no column {name!r}{nearest(name, names)} Columns: {few}")


def _chosen(
    names: Sequence[str],
    columns: Names | None,
    drop: Names | None,
    label: str | None,
    target: str | None,
) -> tuple[list[str], bool]:
    """The columns of x, and whether they were asked for by name."""
    asked = _split(columns)
    minus = [n.removeprefix("-") for n in asked if n not in names and n.startswith("-")]
    plus = [n for n in asked if n in names or not n.startswith("-")]
    apart = [name for name in (label, target) if name is not None]
    gone = [*minus, *_split(drop), *apart]
    for name in (*plus, *gone):
        _check_name(name, names)
    if label is not None and label == target:
        raise UsageError(f"column {label!r} is named as label and as target: name one of them")
    if both := [name for name in plus if name in gone]:
        raise UsageError(f"column {both[0]!r} is asked for in x and taken out of it: do one")
    return [name for name in dict.fromkeys(plus or names) if name not in gone], bool(plus)


@dataclass
class _Columns:
    """The columns of a table as typed values, read when they are asked for."""

    raw: pd.DataFrame
    kinds: Mapping[str, str]
    decimal: str | None
    _mark: str = ""

    def values(self, name: str, kind: str = "") -> pd.Series:
        """Typed values of a column: of the kind asked for, or ``kind``, or what they look like."""
        column = column_of(self.raw, name)
        column = column.reset_index(drop=True).rename(name)
        return typed(column, self.kinds.get(name, kind), self._decimal())

    def _decimal(self) -> str:
        if not self._mark:
            loose = {n: c for n, c in self.raw.items() if is_loose(c)}
            texts = {
                str(n): sorted({t for t in scalars(c) if isinstance(t, str)})
                for n, c in loose.items()
            }
            self._mark = decimal_mark({n: t for n, t in texts.items() if t}, self.decimal)
        return self._mark

    def kept(self, names: Sequence[str], by_name: bool) -> tuple[list[Column], list[str]]:
        """The columns of x, and a line about each that is left out."""
        found, notes = [], []
        for name in names:
            wanted = by_name or name in self.kinds
            values = self.values(name)
            why = _useless(values, wanted) or ("" if wanted else _left_out(values, self.raw))
            if why:
                notes.append(f"column {name!r} {why}")
                continue
            kind = self.kinds.get(name, "")
            kind = "date" if kind in DATES else kind or kind_of(values)
            _check_kind(values, kind)
            if why := _digits(values, kind, name in self.kinds):
                notes.append(f"column {name!r} {why}")
                continue
            found.append(Column.of(values, kind))
        return found, notes


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
        return f"is {known.iloc[0]!s} in every row where it is known: {take}"
    if _numbers_rows(values, name):
        return f"numbers the rows: {take}"
    if _is_text(values) and distinct == len(known):
        return f"is text with a value of its own in every row, {known.iloc[0]!r}, ...: {take}"
    return ""


def _numbers_rows(values: pd.Series, name: str) -> bool:
    """Whether a column is 0 to N-1 or 1 to N, or called an index and different in every row."""
    if getattr(values.dtype, "kind", "O") not in "iuf" and not _is_text(values):
        return False
    called = name.strip().lower() in ("id", "index", "row", "rowid", "row_id", "row id", "idx")
    called |= name.startswith("Unnamed: ")
    if values.isna().any() or (not called and len(values) < FEW):
        return False
    if called:
        return values.nunique() == len(values)
    numbers = np.zeros(len(values)) if _is_text(values) else values.to_numpy(dtype=np.float64)
    rows = np.arange(len(values))
    return bool(np.array_equal(numbers, rows) or np.array_equal(numbers, rows + 1))


def _digits(values: pd.Series, kind: str, told: bool) -> str:
    """Refuse whole numbers that lose digits as floats, or say that they are ids."""
    if kind in ("category", "boolean", "date") or told:
        return ""
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    whole = values.dropna()
    if getattr(values.dtype, "kind", "O") in "iu":
        own = whole.to_numpy(dtype=np.int64)
        lost = bool((own.astype(dtype).astype(np.float64) != own.astype(np.float64)).any())
    else:
        own = whole.to_numpy(dtype=np.float64)
        lost = bool((own == np.rint(own)).all() and (own.astype(dtype) != own).any())
    if not lost or np.isinf(own).any():
        return ""
    name, largest = values.name, f"{np.abs(own).max():,.0f}"
    remedy = f"kinds={{{name!r}: 'real'}} takes it and rounds to {np.dtype(dtype).name}"
    if len(np.unique(own)) == len(own):
        return (
            f"has whole numbers up to {largest}, another in every row, such as ids have: left out "
            f"({remedy})"
        )
    raise UsageError(
        f"column {name!r} has whole numbers up to {largest}, whose last digits are lost in "
        f"{np.dtype(dtype).name}: divide them, leave the column out with drop={name!r}, or {remedy}"
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
    if (known == np.rint(known)).all():
        if np.array_equal(distinct, [0, 1]):
            return "boolean"
        if len(distinct) <= min(FEW, len(known) // 3):
            return "category"
        if len(distinct) and 0 <= distinct[0] <= distinct[-1] / 10:
            return "count"
    least = max(SKEW, 2 * math.sqrt(6 / max(1, len(known))))  # two standard errors
    skewed = len(distinct) > 2 and distinct[0] > 0 and _skewness(known) > least
    return "positive" if skewed and abs(_skewness(np.log(known))) < _skewness(known) else "real"


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


def _labels(
    values: pd.Series, classes: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The classes of a column as codes, and their names."""
    name = values.name
    unknown = values.isna().to_numpy(dtype=bool)
    if unknown.any():
        raise UsageError(
            f"column {name!r}, the label, is empty in data row {int(unknown.argmax()) + 1} "
            f"({int(unknown.sum()):,} in all): fill it or leave such rows out, or have it as a "
            f"column of x, where cells may be missing"
        )
    if getattr(values.dtype, "kind", "O") in "fM" and not _whole(values):
        raise UsageError(
            f"column {name!r} has {values.dtype}, no classes: labels are whole numbers or names; "
            f"a number to be predicted is a target={name!r}"
        )
    if str(values.dtype) == "category":  # without levels that no row has
        values = values.cat.remove_unused_categories()
    column = Column.of(values, "category")
    if classes is not None:
        column = replace(column, levels=classes)
    return column.encode(values).astype(np.int64), tuple(map(str, column.levels))


def _whole(values: pd.Series) -> bool:
    if getattr(values.dtype, "kind", "O") == "M":
        return False
    own = values.to_numpy(dtype=np.float64)
    return bool((own == np.rint(own)).all())


def _target(values: pd.Series) -> tuple[Column, np.ndarray]:
    """The column of a number that is predicted, and its values."""
    if getattr(values.dtype, "kind", "O") not in "biuf":
        raise UsageError(
            f"column {values.name!r}, the target, has no numbers: a class is a "
            f"label={values.name!r}"
        )
    if values.isna().all():
        raise UsageError(f"column {values.name!r}, the target, is empty in every row")
    kind = "boolean" if getattr(values.dtype, "kind", "O") == "b" else "real"
    _check_kind(values, kind)
    column = Column.of(values, kind)
    return column, column.encode(values)


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

    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise UsageError(
            f'reading it needs pyarrow ({error}); pip install "pyrovae[parquet]"'
        ) from error


def _excel(path: Path, notes: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        with pd.ExcelFile(path) as book:
            if len(book.sheet_names) > 1:
                notes.append(
                    f"the first of its {len(book.sheet_names)} sheets, {book.sheet_names[0]!r}, "
                    f"is read"
                )
            cells = book.parse(0, header=None, dtype=object, keep_default_na=False)
    except ImportError as error:
        raise UsageError(
            f'reading it needs openpyxl ({error}); pip install "pyrovae[excel]"'
        ) from error
    return cells.loc[[not all(map(missing, row)) for row in cells.itertuples(index=False)]]


def _with_names(cells: pd.DataFrame, header: bool | None, named: Sequence[str]) -> pd.DataFrame:
    """The rows of a table without the line of its names."""
    if not len(cells):
        raise UsageError("there are no data: it is empty")
    first = [None if missing(cell) else str(cell).strip() for cell in cells.iloc[0]]
    if header is None:
        header = any(n.removeprefix("-") in first for n in named) or _is_header(first, cells)
    if not header:
        names = [f"column {i}" for i in range(1, len(first) + 1)]
        return _unique(cells.set_axis(names, axis=1))
    names = [f"Unnamed: {i}" if name is None else name for i, name in enumerate(first)]
    rows = cells.iloc[1:].set_axis(names, axis=1).reset_index(drop=True)
    return _unique(rows)


def _is_header(first: Sequence[str | None], cells: pd.DataFrame) -> bool:
    """Whether a first line has names: no numbers, or words above numbers."""
    numeric = [cell is not None and _number_like(cell) for cell in first]
    if not any(numeric):
        return True
    below = cells.iloc[1:HEAD]
    words = [i for i, cell in enumerate(first) if cell is not None and not numeric[i]]
    for at in words:
        rest = [str(cell) for cell in scalars(below.iloc[:, at]) if cell is not None]
        if rest and all(map(_number_like, rest)):
            return True
    return False


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
        raise UsageError(f"{reason(error)}; say delimiter=...") from error
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
    candidates = [sign for sign in DELIMITERS if sign in text and sign != decimal]
    heads = {
        sign: [c for _, c in itertools.islice(_lines(text, sign), HEAD)] for sign in candidates
    }
    even = {sign: head for sign, head in heads.items() if _width(head) > 1}
    if not even:
        return _uneven(text, heads)
    scores = {sign: _share_of_numbers(head) for sign, head in even.items()}
    best = [sign for sign in even if scores[sign] == max(scores.values())]
    if len(best) > 1:
        shown = " and ".join(map(repr, best))
        raise UsageError(
            f"its cells may be parted at {shown}: say which, delimiter={best[0]!r} or "
            f"delimiter={best[1]!r}"
        )
    return best[0]


def _width(head: Sequence[Sequence[str]]) -> int:
    """The number of cells of every line; 0 where it differs."""
    widths = {len(cells) for cells in head}
    return widths.pop() if len(widths) == 1 else 0


def _share_of_numbers(head: Iterable[Sequence[str]]) -> float:
    cells = [cell.strip() for line in head for cell in line]
    return sum(missing(cell) or _number_like(cell) for cell in cells) / len(cells)


def _uneven(text: str, heads: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """What parts a text at no sign of which its lines have equally many cells."""
    spaced = [line.split() for line in itertools.islice(filter(str.strip, text.splitlines()), HEAD)]
    numeric = all(_number_like(cell) or missing(cell) for line in spaced[1:] for cell in line)
    if _width(spaced) > 1 and numeric and len(spaced) > 1:
        return " "
    likely = {
        sign: collections.Counter(map(len, head)).most_common(1)[0]
        for sign, head in heads.items()
        if len(head[0]) > 1
    }
    likely = {sign: (width, n) for sign, (width, n) in likely.items() if width > 1}
    return max(likely, key=lambda sign: likely[sign][1]) if likely else ","


def _without_comments(text: str, delimiter: str | None) -> tuple[str, str | None]:
    """The text from its first line of cells on; the line ``sep=;`` of Excel says what parts it.

    Lines at the top that begin with # are comments, the last of them the names where it has as
    many as the line below it has cells.
    """
    lines = text.splitlines(keepends=True)
    start = 0
    if lines and len(said := lines[0].strip()) == 5 and said.startswith("sep="):
        delimiter, start = delimiter or said[4], 1
    top = list(
        itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), lines[start:])
    )
    comments = [line for line in top if line.strip()]
    body = lines[start + len(top) :]
    if comments and body:
        names = comments[-1].lstrip("# ")
        sign = delimiter or _delimiter("".join(body[:HEAD]), None)
        widths = [len(next(_lines(line, sign))[1]) for line in (names, body[0]) if line.strip()]
        if len(widths) == 2 and widths[0] == widths[1] > 1:
            body.insert(0, names)
    return "".join(body), delimiter


def _decoded(path: Path, encoding: str | None, notes: list[str]) -> str:
    """The text of a file: as its first bytes say, UTF-8, or Western European."""
    raw = path.read_bytes()
    marks = {
        codecs.BOM_UTF8: "utf-8-sig",
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
    found = encoding or next((name for mark, name in marks.items() if raw.startswith(mark)), None)
    if found is None and b"\0" in raw[:1000]:
        even = raw[:1000:2].count(0) > raw[1:1000:2].count(0)
        found = "utf-16-be" if even else "utf-16-le"
    tries = [found] if found else ["utf-8", "cp1252"]
    for name in tries:
        try:
            text = raw.decode(name)
        except LookupError as error:
            raise UsageError(f"encoding={encoding!r} is not known to Python: {error}") from error
        except UnicodeError:
            continue
        if any(sign in text for sign in "\0\x01\x02\x03\x04"):
            continue
        if name == "cp1252":
            notes.append("it is not UTF-8 and is read as cp1252 (encoding= says otherwise)")
        return text
    raise UsageError(
        f"it is no text in {' or '.join(tries)}: say encoding=..., or it may be damaged or of "
        f"another format, and to be made again"
    )
