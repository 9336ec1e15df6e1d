"""What the columns of a table are: names, kinds, categories, units; values <-> numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from pyrovae.arrays import channels_last
from pyrovae.cells import BOOLEANS, scalars, typed
from pyrovae.errors import UsageError, got, in_short, nearest
from pyrovae.files import Place, writing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Column", "Schema", "face", "frame_of", "is_frame", "write"]

KINDS = ("real", "positive", "count", "category", "boolean", "date")
Level = str | int | float | bool
# the units of dates, the coarsest that fits is a column's
UNITS = {"D": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
NO, YES = zip(*BOOLEANS, strict=True)
ENTRIES = 100  # of a table, at most, where all are of one kind
WRITTEN = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Column:
    """One column of a table, and how its values are numbers.

    Attributes:
        name: as in the table.
        kind: ``real`` numbers; ``positive`` ones; a ``count``, 0, 1, ...; a ``category``, its place
            among ``levels``; a ``boolean``, 0 or 1, its place among ``levels``; a ``date``, time
            since the ``origin``.
        dtype: of pandas, which the column is written back with.
        levels: of a category or a boolean, in the order of their codes.
        unit: of a date, "D" days, "h" hours, "m" minutes, "s" seconds or "ms" since the origin;
            otherwise "" or what a user says.
        origin: of a date, in ISO 8601.
        decimals: digits after the point that the table has, 0 for whole numbers; None for more
            than can be told.
        low: the smallest number in the table.
        high: the largest.
        gaps: whether entries are missing in the table.
        missing: the share of entries that are.
        ordered: whether the levels of a pandas Categorical are ordered.
        order: of a date's text, ``day/month`` or ``month/day`` where that was said.
    """

    name: str
    kind: str
    dtype: str
    levels: tuple[Level, ...] = ()
    unit: str = ""
    origin: str = ""
    decimals: int | None = None
    low: float = 0.0
    high: float = 1.0
    gaps: bool = False
    missing: float = 0.0
    ordered: bool = False
    order: str = ""

    @classmethod
    def of(cls, values: pd.Series, kind: str) -> Column:
        """The column that :func:`pyrovae.cells.typed` values of a kind make.

        >>> import pandas as pd
        >>> column = Column.of(pd.Series([181.0, None, 195.0], name="flipper"), "real")
        >>> column.decimals, column.low, column.high, column.gaps
        (0, 181.0, 195.0, True)
        """
        unknown = values.isna().to_numpy(dtype=bool)
        name, dtype = str(values.name), str(values.dtype)
        about: dict[str, Any] = {"gaps": bool(unknown.any()), "missing": float(unknown.mean())}
        if kind in ("category", "boolean"):
            levels = _levels(values, kind)
            ordered = bool(getattr(values.dtype, "ordered", False))
            return cls(name, kind, dtype, levels, high=len(levels) - 1.0, ordered=ordered, **about)
        if kind == "date":
            stamps = _naive(values)
            unit, origin = _unit(stamps[~unknown])
            high = float((stamps[~unknown].max() - origin) / _step(unit))
            return cls(name, kind, dtype, (), unit, str(origin), 0, 0.0, high, **about)
        own = values.to_numpy(dtype=_precision(dtype), na_value=np.nan)
        own = own[~unknown]
        low, high = float(own.min()), float(own.max())
        return cls(name, kind, dtype, (), decimals=_decimals(own), low=low, high=high, **about)

    def encode(self, values: pd.Series) -> np.ndarray:
        """Values of the column as numbers, float64 [N], NaN where they are missing.

        Raises:
            UsageError: a value that the column does not have: its name, the value, the data row.
        """
        if self.kind in ("category", "boolean"):
            return self._codes(values)
        if self.kind == "date":
            return self._times(values)
        cells = self._typed(values)
        if getattr(cells.dtype, "kind", "O") not in "biuf":
            self._refuse(0, scalars(cells), f"{cells.dtype} where numbers are expected")
        found = cells.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = np.isinf(found)
        if bad.any():
            self._refuse(int(bad.argmax()), found.tolist(), "which is infinite")
        below = found < (0 if self.kind == "count" else -math.inf)
        below |= (found <= 0) if self.kind == "positive" else False
        if below.any():
            self._refuse(int(below.argmax()), found.tolist(), f"which is no {self.kind} value")
        return found

    def _typed(self, values: pd.Series) -> pd.Series:
        kind = self.order or (self.kind if self.kind != "category" else "")
        return typed(values.rename(self.name), kind)

    def _refuse(self, row: int, cells: object, why: str) -> None:
        cell = cells[row]  # type: ignore[index]
        raise UsageError(
            f"column {self.name!r} has {in_short(repr(cell), 60)} in data row {row + 1}, {why}: "
            f"correct it, empty the cell, or leave the row out"
        )

    def _codes(self, values: pd.Series) -> np.ndarray:
        codes = {self._key(level): i for i, level in enumerate(self.levels)}
        if self.kind == "boolean":
            codes = dict.fromkeys(NO, 0) | dict.fromkeys(YES, 1) | codes
        cells = scalars(values)
        keys = [None if cell is None else self._key(cell) for cell in cells]
        places: dict[str | None, float] = {None: math.nan}
        places.update(codes)
        lost = [i for i, key in enumerate(keys) if key not in places]
        if lost:
            few = ", ".join(map(repr, self.levels[:8])) + ", ..." * (len(self.levels) > 8)
            near = nearest(str(cells[lost[0]]), map(str, self.levels)).removesuffix("?")
            self._refuse(lost[0], cells, f"which is none of its levels ({few}){near}")
        return np.array([places[key] for key in keys], np.float64)

    def _key(self, level: object) -> str:
        """A level as text, the same for 2, 2.0 and "2"."""
        key = _plain_key(level)
        return key.lower() if self.kind == "boolean" else key

    def _times(self, values: pd.Series) -> np.ndarray:
        cells = self._typed(values)
        if getattr(cells.dtype, "kind", "O") != "M":
            if cells.isna().all():
                return np.full(len(cells), np.nan)
            self._refuse(0, scalars(cells), "where dates are expected")
        since = _naive(cells) - np.datetime64(self.origin)
        unknown = np.isnat(since)
        return np.where(unknown, np.nan, since / _step(self.unit))

    def decode(self, numbers: np.ndarray) -> pd.Series:
        """Numbers [N] as values of the column: what :meth:`encode` gave, back.

        Counts and whole numbers are rounded, others to ``decimals``; codes are rounded and kept
        within the levels; counts are at least 0, positive numbers above it.
        """
        import pandas as pd

        numbers = np.asarray(numbers, np.float64)
        known = ~np.isnan(numbers)
        if self.kind in ("category", "boolean"):
            codes = np.clip(np.rint(np.where(known, numbers, 0)), 0, len(self.levels) - 1)
            return self._level_series(np.where(known, codes, -1).astype(int))
        if self.kind == "date":
            return self._dates(numbers, known)
        if self.kind == "count" or self.decimals is not None:
            numbers = np.round(numbers, self.decimals or 0)
        if self.kind == "count":
            numbers = np.maximum(numbers, 0)
        if self.kind == "positive" and self.decimals is not None:
            numbers = np.maximum(numbers, 10.0**-self.decimals)
        return pd.Series(numbers, name=self.name).pipe(self._as_dtype, known)

    def _as_dtype(self, series: pd.Series, known: np.ndarray) -> pd.Series:
        """Numbers in the dtype of the column: in its nullable one where numbers of an integer
        type are missing."""
        dtype = self.dtype
        if dtype in ("object", "category", "str") or dtype.startswith("string"):
            return series
        if dtype.lower().startswith(("int", "uint")) and "[" not in dtype:
            most = np.iinfo(dtype.lower())
            series = series.clip(most.min, most.max)
            if not known.all():
                return series.astype(dtype.replace("uint", "UInt").replace("int", "Int"))
        if dtype == "bool" and not known.all():
            dtype = "boolean"
        return series.astype(dtype)

    def _level_series(self, codes: np.ndarray) -> pd.Series:
        import pandas as pd

        if self.dtype == "category":
            kept = pd.Categorical.from_codes(codes, list(self.levels), ordered=self.ordered)
            return pd.Series(kept, name=self.name)
        known = codes >= 0
        if all(isinstance(level, int | float) for level in self.levels):
            own = np.array(self.levels, dtype=np.float64)
            series = pd.Series(np.where(known, own[codes], np.nan), name=self.name)
            return self._as_dtype(series, known)
        cells = [self.levels[code] if code >= 0 else math.nan for code in codes]
        words = pd.Series(["a"]).dtype if self.dtype == "str" else self.dtype
        return pd.Series(cells, name=self.name, dtype=words)

    def _dates(self, numbers: np.ndarray, known: np.ndarray) -> pd.Series:
        import pandas as pd

        # years that nanoseconds of 64 bits hold
        least, most = (
            (np.datetime64(year, "s") - np.datetime64(self.origin)) / _step(self.unit)
            for year in ("1678", "2262")
        )
        counted = np.rint(np.clip(np.where(known, numbers, 0), least, most)).astype(np.int64)
        step = "ms" if self.unit == "ms" else "s"
        since = counted.astype(f"timedelta64[{self.unit}]").astype(f"timedelta64[{step}]")
        stamps = np.datetime64(self.origin).astype(f"datetime64[{step}]") + since
        stamps[~known] = np.array("NaT", stamps.dtype)
        dates = pd.Series(stamps, name=self.name)
        aware = "," in self.dtype or "tz=" in self.dtype
        return (dates.dt.tz_localize("UTC") if aware else dates).astype(self.dtype)

    def words(self) -> tuple[str, str, str, str]:
        """Its name, kind, values and gaps, as a table shows them."""
        if self.levels:
            values = f"{len(self.levels)} levels: {_few(self.levels)}"
        elif self.kind == "date":
            ends = self.decode(np.array([self.low, self.high]))
            cut = 10 if self.unit == "D" else 19
            values = f"{str(ends[0])[:cut]} to {str(ends[1])[:cut]}, {UNITS[self.unit]}"
        else:
            values = f"{self.low:.6g} to {self.high:.6g}" + (f" {self.unit}" if self.unit else "")
            values += ", whole" if self.decimals == 0 else ""
        gaps = f"{100 * self.missing:.1f} % missing" if self.gaps else ""
        return in_short(self.name, 40), self.kind, values, gaps


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order; what the model calls x is ``[N, columns]`` numbers.

    Attributes:
        columns: those of x.
        label: the column that held the classes, "" without one.
        classes: the names of the classes, in the order of their codes.
        target: the column that is given to a model beside x; None without one.
        notes: what was said of the table as it was read, a line each; no part of what is saved.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"sex": ["male", None, "female"], "mass": [3750, 3800, 3250]})
    >>> schema = Schema((Column.of(frame["mass"], "real"), Column.of(frame["sex"], "category")))
    >>> x = schema.encode(frame)
    >>> x
    tensor([[3.7500e+03, 1.0000e+00],
            [3.8000e+03,        nan],
            [3.2500e+03, 0.0000e+00]])
    >>> schema.decode(x)
       mass     sex
    0  3750    male
    1  3800     NaN
    2  3250  female
    """

    columns: tuple[Column, ...]
    label: str = ""
    classes: tuple[str, ...] = ()
    target: Column | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def vector(self) -> bool:
        """Whether the columns are the entries of one vector rather than a table's, as those of
        genes or words are: more than 100, all counts or all real numbers.

        >>> Schema.unnamed(3).vector, Schema.unnamed(2000).vector
        (False, True)
        """
        kinds = {column.kind for column in self.columns}
        return len(self.columns) > ENTRIES and kinds in ({"count"}, {"real"})

    def encode(self, frame: object) -> Tensor:
        """The columns of a table as numbers ``[N, columns]`` of the default dtype, NaN where they
        are missing.

        They are found by name, in any order; other columns are left out.

        Args:
            frame: a pandas or polars DataFrame, or a dict of columns.

        Raises:
            UsageError: a column that is missing or stands twice, a level that is not known, text
                where numbers are expected, with the column's name, the value and the data row.
        """
        table = frame_of(frame)
        if not len(table):
            raise UsageError("there are no data: the table has no rows")
        found = [column.encode(column_of(table, column.name)) for column in self.columns]
        return torch.from_numpy(np.stack(found, 1)).to(torch.get_default_dtype())

    def decode(self, values: Tensor | np.ndarray, index: object = None) -> pd.DataFrame:
        """Numbers ``[N, columns]`` as the table they came from, each column in its dtype, an
        integer one in pandas' nullable dtype where entries are missing.

        Args:
            values: as :meth:`encode` gave them, or a model.
            index: of the table; 0, 1, ... by default.

        Raises:
            UsageError: another number of columns.
        """
        import pandas as pd

        numbers = torch.as_tensor(values).detach().cpu().double().numpy()
        if numbers.ndim != 2 or numbers.shape[1] != len(self.columns):
            raise UsageError(
                f"values of shape {list(numbers.shape)} are no table of the {len(self.columns)} "
                f"columns {', '.join(self.names)}: give [N, {len(self.columns)}]"
            )
        made = [column.decode(numbers[:, i]) for i, column in enumerate(self.columns)]
        table = pd.concat(made, axis=1)
        if index is not None:
            table.index = index
        return table

    def with_intervals(
        self, given: Tensor, filled: Tensor, draws: Tensor, share: float = 0.9
    ) -> pd.DataFrame:
        """A table with its gaps filled, and how sure that is: beside a column of numbers in which
        entries were missing the ends of the interval that holds ``share`` of the draws, ``low``
        and ``high``; beside categories the ``share`` of draws that agree.

        Args:
            given: ``[N, columns]``, NaN where entries are missing.
            filled: ``[N, columns]``.
            draws: of the filled table, ``[draws, N, columns]``.
            share: of the draws between the ends.
        """
        import pandas as pd

        table, gone = self.decode(filled), given.cpu().isnan().numpy()
        columns: dict[str, Any] = {}
        for i, column in enumerate(self.columns):
            columns[column.name] = table[column.name]
            if not gone[:, i].any():
                continue
            of = draws[..., i].double().cpu()
            if column.levels:
                agree = (of == filled[:, i].double().cpu().round()).double().mean(0).numpy()
                columns[f"{column.name} share"] = np.where(gone[:, i], agree, np.nan)
                continue
            ends = {"low": (1 - share) / 2, "high": (1 + share) / 2}
            for word, at in ends.items():
                numbers = np.where(gone[:, i], of.quantile(at, 0).numpy(), np.nan)
                columns[f"{column.name} {word}"] = column.decode(numbers)
        return pd.DataFrame(columns)

    def describe(self) -> str:
        """The columns as lines: name, kind, levels or range in units, share of gaps.

        >>> print(Schema((Column("mass", "real", "int64", decimals=0, low=2700, high=6300),)))
        column  kind  values
        mass    real  2700 to 6300, whole
        """
        rows = [("column", "kind", "values", ""), *(column.words() for column in self.columns)]
        if self.target is not None:
            name, kind, values, gaps = self.target.words()
            rows.append((f"{name} (target)", kind, values, gaps))
        if self.label:
            classes = f"{len(self.classes)} classes: {_few(self.classes)}"
            rows.append((in_short(self.label, 40), "label", classes, ""))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
        return "\n".join(lines)

    __str__ = describe

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and YAML."""
        return {
            "columns": [_plain(column) for column in self.columns],
            "label": self.label,
            "classes": list(self.classes),
            "target": None if self.target is None else _plain(self.target),
        }

    def apart(self, at: int) -> Schema:
        """The same but for the column at a place, which is the target.

        >>> Schema.unnamed(3).apart(1).names
        ('column 1', 'column 3')
        """
        others = self.columns[:at] + self.columns[at + 1 :]
        return replace(self, columns=others, target=self.columns[at])

    @classmethod
    def unnamed(cls, count: int) -> Schema:
        """That of columns of which nothing is known.

        >>> Schema.unnamed(2).names
        ('column 1', 'column 2')
        """
        return cls(tuple(Column(f"column {k + 1}", "real", "float64") for k in range(count)))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Schema:
        """What :meth:`to_dict` gave.

        Raises:
            UsageError: it describes no schema.
        """
        try:
            columns = tuple(map(_column, given["columns"]))
            target = given.get("target")
            classes = tuple(map(str, given.get("classes", ())))
            label = str(given.get("label", ""))
            return cls(columns, label, classes, None if target is None else _column(target))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            known = ", ".join(sorted(each.name for each in fields(Column)))
            raise UsageError(
                f"this is no schema of a table ({error}): columns have {known}"
            ) from error


def _few(levels: Sequence[Level]) -> str:
    """The first levels, on one line."""
    found = in_short(", ".join(map(str, levels[:6])), 60)
    return found + (", ..." if len(levels) > 6 and not found.endswith("...") else "")


def _plain(column: Column) -> dict[str, Any]:
    return asdict(column) | {"levels": list(column.levels)}


def _column(given: Mapping[str, Any]) -> Column:
    column = Column(**{**given, "levels": tuple(given.get("levels", ()))})
    if column.kind not in KINDS:
        raise ValueError(f"{column.kind!r} is no kind of column: {', '.join(KINDS)}")
    return column


def column_of(table: pd.DataFrame, name: str) -> pd.Series:
    """The column of this name.

    Raises:
        UsageError: there is none, or there are several.
    """
    columns = table.columns
    if columns.inferred_type == "string":  # looked up, as there may be very many
        at = [int(i) for i in columns.get_indexer_for([name]) if i >= 0]
    else:
        at = [i for i, each in enumerate(columns) if str(each) == name]
    if not at:
        names = list(map(str, table.columns))
        few = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
        hint = nearest(name, names) or "."
        raise UsageError(f"there is no column {name!r}{hint} Columns: {few}")
    if len(at) > 1:
        raise UsageError(f"the table has {len(at)} columns named {name!r}: rename all but one")
    return table.iloc[:, at[0]]


def is_frame(x: object) -> bool:
    """Whether it is a DataFrame, of pandas or polars."""
    columns = hasattr(x, "columns") and hasattr(x, "dtypes")
    return columns and (hasattr(x, "iloc") or hasattr(x, "get_columns"))


def frame_of(table: object) -> pd.DataFrame:
    """A pandas DataFrame of a pandas or polars one, or of a dict of columns.

    Raises:
        UsageError: it is none of these, or its columns are of unequal lengths.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    if hasattr(table, "to_pandas") and hasattr(table, "get_columns"):  # of polars
        columns = {each.name: each for each in table.get_columns()}
        return pd.DataFrame({name: _of_polars(each) for name, each in columns.items()})
    if not isinstance(table, Mapping):
        raise UsageError(
            f"a table is a DataFrame of pandas or polars, a dict of columns or a path, not "
            f"{got(table)}: give pandas.DataFrame(x, columns=[...])"
        )
    columns = {n: c.cpu().numpy() if isinstance(c, Tensor) else c for n, c in table.items()}
    try:
        return pd.DataFrame(columns)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the columns make no table: {in_short(error)}; give each as many values as the others"
        ) from error


def _of_polars(column: Any) -> pd.Series:
    """A column of polars: an Enum keeps its order, whole numbers beside gaps their dtype."""
    import pandas as pd

    kind = str(column.dtype)
    if kind.startswith("Enum"):
        return pd.Series(pd.Categorical(column.to_list(), column.dtype.categories.to_list()))
    if kind.startswith(("Int", "UInt")) and column.null_count():
        return pd.Series(column.to_list(), dtype=kind)
    return pd.Series(column.to_list(), dtype="object" if kind.startswith("List") else None)


def write(frame: pd.DataFrame, path: str | Path | Place) -> None:
    """A table as a file: .csv, .tsv or .parquet, whole or not at all; its index too where that is
    more than 0, 1, ....

    Raises:
        UsageError: another suffix, or a path that cannot be written.
    """
    import pandas as pd

    file = Path(str(path))
    suffix = file.suffix.lower()
    if suffix not in WRITTEN:
        raise UsageError(f"a table is written as {' '.join(WRITTEN)}, not as {file.name!r}")
    plain = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    with writing(path if isinstance(path, Place) else file) as stream:
        if suffix == ".parquet":
            try:
                frame.to_parquet(stream, index=not plain)
            except ImportError as error:
                raise UsageError(
                    f"writing {file} needs pyarrow ({error}); "
                    f'pip install "pyrovae[parquet]", or write .csv'
                ) from error
        else:
            separator = "\t" if suffix == ".tsv" else ","
            frame.to_csv(stream, mode="wb", sep=separator, index=not plain)


# --- what a column is, from its values ---------------------------------------------------------


def _plain_key(level: object) -> str:
    """A level as text, the same for 2, 2.0 and "2"."""
    if isinstance(level, str):
        return level
    if isinstance(level, bool | np.bool_):
        return str(bool(level)).lower()
    try:
        value = float(level)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(level)
    return str(int(value)) if value.is_integer() else str(value)


def _levels(values: pd.Series, kind: str) -> tuple[Level, ...]:
    """The levels of a category in their order: pandas' own, numbers by size, text by letters."""
    if str(values.dtype) == "category":
        return tuple(map(_level, values.cat.categories))
    found = set(map(_level, values.dropna().unique()))
    return _pair(found, values.name) if kind == "boolean" else tuple(sorted(found, key=_order))


def _pair(found: set[Level], name: object) -> tuple[Level, ...]:
    """The two levels of a boolean, of which perhaps one is there."""
    words = {_plain_key(level).lower(): level for level in found}
    pair = next((pair for pair in BOOLEANS if set(words) <= set(pair)), None)
    if pair is None:
        raise UsageError(
            f"column {name!r} is no boolean, it has {', '.join(map(repr, words))[:100]}: say "
            f"kinds={{{name!r}: 'category'}}"
        )
    own = {"0": 0, "1": 1, "false": False, "true": True}
    return tuple(words.get(word, own.get(word, word)) for word in pair)


def _order(level: Level) -> tuple[bool, Level]:
    return isinstance(level, str), level


def _level(value: Any) -> Level:
    """A level as plain data."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | bool) else str(value)


def _precision(dtype: str) -> type[np.floating[Any]]:
    """What numbers are rounded in, to count their digits."""
    return np.float32 if dtype.lower() in ("float32", "float16") else np.float64


def _decimals(values: np.ndarray) -> int | None:
    """The digits after the point that numbers have, at most 6; None for more."""
    return next((d for d in range(7) if np.array_equal(np.round(values, d), values)), None)


def _naive(values: pd.Series) -> np.ndarray:
    """Dates as numpy's, those with a time zone in UTC."""
    if getattr(values.dt, "tz", None) is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    return values.to_numpy(dtype="datetime64[us]")


def _step(unit: str) -> np.timedelta64:
    return cast("np.timedelta64", np.array(1, f"timedelta64[{unit}]")[()])


def _unit(stamps: np.ndarray) -> tuple[str, np.datetime64]:
    """The coarsest unit that dates are whole numbers of, and the first of them."""
    first = stamps.min()
    for unit in UNITS:
        if bool((stamps.astype(f"datetime64[{unit}]") == stamps).all()):
            return unit, first.astype(f"datetime64[{'D' if unit == 'D' else 's'}]")
    return "ms", first.astype("datetime64[s]")


def _is_image(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        return shape[2 if channels_last(shape) else 0] in (1, 3)
    return len(shape) == 2 and min(shape) >= 4


def face(event_shape: Sequence[int], schema: Schema | None = None) -> str:
    """What a datum is looked at as: an "image" ([C, H, W] or [H, W, C] with 1 or 3 channels, or
    [H, W] from 4 by 4 on), a "series" ([T, D], narrower or of named columns), a "table" (a row of
    one) or another "array".

    >>> face((1, 28, 28)), face((24, 2)), face((7,)), face((2, 8, 8))
    ('image', 'series', 'table', 'array')
    """
    shape = tuple(event_shape)
    named = schema is not None and len(shape) == 2
    if not named and _is_image(shape):
        return "image"
    if not named and len(shape) == 2 and shape[0] == 1:
        return "array"  # one step is no series: a signal [1, T]
    return {0: "table", 1: "table", 2: "series"}.get(len(shape), "array")
