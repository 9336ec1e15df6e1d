"""Cells of tables as people write them -> numbers, dates, booleans and words; gaps."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.errors import UsageError, got, in_short

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["BOOLEANS", "MISSING", "decimal_mark", "missing", "number", "scalars", "typed"]

# what stands in a cell where nothing is known, in small letters
MISSING = frozenset(("", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "?", "-"))
_MARKS = [form(word) for word in MISSING for form in (str, str.upper, str.capitalize)] + [
    "NaN",
    "NaT",
]
BOOLEANS = (("false", "true"), ("no", "yes"), ("n", "y"), ("f", "t"), ("0", "1"))
DATES = ("date", "day/month", "month/day")  # kinds whose text is a date

_SPACES = r"'\u2019 \u00a0\u202f"  # between the thousands, beside the comma or the point


def _pattern(mark: str, thousands: str) -> re.Pattern[str]:
    """A number with this decimal mark, its thousands perhaps grouped by one of some signs."""
    grouped = rf"\d{{1,3}}(?:(?P<sign>[{thousands}{_SPACES}])\d{{3}})(?:(?P=sign)\d{{3}})*"
    mark = re.escape(mark)
    return re.compile(
        rf"[+-]?(?:(?:{grouped}|\d+)(?:{mark}\d*)?|{mark}\d+)(?:[eE][+-]?\d+)?"
        r"|[+-]?(?:inf|infinity)",
        re.IGNORECASE,
    )


_NUMBER = {".": _pattern(".", ","), ",": _pattern(",", ".")}
_CODE = re.compile(r"0\d")  # 007 is a name
_MEASURE = re.compile(  # a number with a unit or a currency
    r"(?P<before>[$€£¥]\s*)?(?P<number>[+-]?\d[\d.,]*)(?P<after>\s*[a-zA-Z%°µ€$£¥/²³]{1,8})?"
)
_CLOCK = r"(?:[T ]+\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:[AaPp][Mm])?(?:Z|[+-]\d{2}:?\d{2})?)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_YEAR_FIRST = re.compile(rf"\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}{_CLOCK}")
_ISO = re.compile(rf"\d{{4}}-\d{{2}}-\d{{2}}{_CLOCK}")
_ZONE = re.compile(r":\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})$")
_YEAR_LAST = re.compile(rf"(\d{{1,2}})([-/.])(\d{{1,2}})\2\d{{4}}{_CLOCK}")
_NAMED = re.compile(
    rf"\d{{1,2}}[- ]{_MONTH},?[- ]\d{{4}}{_CLOCK}|{_MONTH} \d{{1,2}},? \d{{4}}{_CLOCK}",
    re.IGNORECASE,
)


def missing(cell: object) -> bool:
    """Whether nothing is known: None, NaN, NaT, pandas.NA, or a text that says so.

    >>> [missing(cell) for cell in (None, float("nan"), " n/a ", "0", 0)]
    [True, True, True, False, False]
    """
    if cell is None:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    if type(cell).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return True
    try:
        return bool(cell != cell)  # NaN of whatever type
    except (TypeError, ValueError):  # an array
        return False


def number(text: str, mark: str = ".") -> float | None:
    """A number that is written with this decimal mark; None where the text is none.

    >>> number("1,234.5"), number("1.234,5", ","), number("12 kg")
    (1234.5, 1234.5, None)
    """
    if not _NUMBER[mark].fullmatch(text):
        return None
    plain = re.sub(rf"[{'.' if mark == ',' else ','}{_SPACES}]", "", text)
    return float(plain.replace(",", "."))


def decimal_mark(columns: Mapping[str, pd.Series], asked: str | None = None) -> str:
    """The decimal mark of a table, "." or ",", told from its columns of text.

    Raises:
        UsageError: columns that contradict each other, or ``1,234`` alone, which may be either.

    >>> import pandas as pd
    >>> decimal_mark({"a": pd.Series(["1,5", "2"]), "b": pd.Series(["1.234", "2.345.678"])})
    ','
    """
    if asked is not None and asked not in _NUMBER:
        raise UsageError(f'decimal must be "." or ",", got {got(asked)}')
    if asked or not any(map(_grouped, columns.values())):
        return asked or "."
    return _told_mark({name: _words(column) for name, column in columns.items()})


def _words(column: pd.Series) -> list[str]:
    """The different texts of a column."""
    return sorted({cell for cell in scalars(column) if isinstance(cell, str)})


def _grouped(column: pd.Series) -> bool:
    """Whether some cell has a comma, or several points."""
    text = "\n".join(cell for cell in column.astype(object) if isinstance(cell, str))
    return "," in text or re.search(r"\.[^\n.]*\.", text) is not None


def _told_mark(columns: Mapping[str, Sequence[str]]) -> str:
    fits = {name: _marks(texts) for name, texts in columns.items()}
    point, comma = (_which(fits, {mark}) for mark in _NUMBER)
    if comma and point:
        raise _two_marks(columns, point, comma)
    if not comma and not point:
        _check_thousands(columns, fits)
    return "," if comma else "."


def _check_thousands(columns: Mapping[str, Sequence[str]], fits: Mapping[str, set[str]]) -> None:
    for name, fit in fits.items():
        if len(fit) == 2 and _first(columns[name], ","):
            raise _two_marks(columns, "", name)


def _two_marks(columns: Mapping[str, Sequence[str]], point: str, comma: str) -> UsageError:
    shown = [(name, mark) for name, mark in ((point, "."), (comma, ",")) if name]
    cells = (f"{_first(columns[name], mark)!r} in column {name!r}" for name, mark in shown)
    return UsageError(
        f"the decimal mark may be the point or the comma ({', '.join(cells)}): say decimal='.' or "
        f"decimal=','"
    )


def _which(fits: Mapping[str, set[str]], marks: set[str]) -> str:
    """The first column that can be read with these marks alone."""
    return next((name for name, fit in fits.items() if fit == marks), "")


def _marks(texts: Sequence[str]) -> set[str]:
    """The decimal marks with which the numbers of a column can be read; both where it has few."""
    likely = list(filter(_is_number, texts))
    if not likely or 2 * len(likely) < len(texts):
        return set(_NUMBER)
    return {mark for mark, pattern in _NUMBER.items() if all(map(pattern.fullmatch, likely))}


def _first(texts: Sequence[str], sign: str) -> str:
    """The first number that has the sign."""
    return next((text for text in texts if sign in text and _is_number(text)), "")


def _is_number(text: str) -> bool:
    """Whether it is one with either mark."""
    return any(pattern.fullmatch(text) for pattern in _NUMBER.values())


# --- columns -----------------------------------------------------------------------------------


def scalars(column: pd.Series) -> list[object]:
    """The cells of a column, texts stripped, None where nothing is known."""
    cells = column.astype(object)
    if str(column.dtype) == "category":  # whose levels mean what they say
        return [None if gap else cell for gap, cell in zip(column.isna(), cells, strict=True)]
    found = (cell.strip() if isinstance(cell, str) else cell for cell in cells)
    return [None if missing(cell) else cell for cell in found]


def is_loose(column: pd.Series) -> bool:
    """Whether the cells of a column may be of several types, or text."""
    kind = str(column.dtype)
    return kind in ("object", "str") or kind.startswith(("string", "large_string"))


def typed(column: pd.Series, kind: str = "", mark: str = ".") -> pd.Series:
    """A column whose cells are of one type: numbers, booleans, dates, categories or text.

    Args:
        column: as it was read.
        kind: what its values are said to be; "" where that is to be told from them.
        mark: the decimal mark of text.

    Raises:
        UsageError: cells that are no values or of several types, with the column's name.
    """
    import pandas as pd

    name = column.name
    if not is_loose(column):
        _check_dtype(column)
        return column
    plain = _plain_numbers(column, mark) if kind not in ("category", "boolean", *DATES) else None
    if plain is not None:
        return plain
    cells = scalars(column)
    types = set(map(_type, set(map(type, cells)))) - {"missing"}
    if not types:
        return pd.Series(np.full(len(cells), np.nan), name=name)
    if "other" in types or types == {"boolean", "number"}:
        raise _no_values(cells, name)
    if types in ({"boolean"}, {"number"}):
        return (_booleans if "boolean" in types else _number_column)(cells, name)
    texts = _Texts(str(name), cells)
    return texts.dates() if types == {"date"} else texts.typed(str(column.dtype), kind, mark)


def _no_values(cells: Sequence[object], name: object) -> UsageError:
    types = [_type(type(cell)) for cell in cells]
    if "other" not in types:
        return UsageError(
            f"column {name!r} holds True or False among numbers: make it one of them, or leave it "
            f"out with drop={name!r}"
        )
    at = types.index("other")
    return UsageError(
        f"column {name!r} holds {_a(cells[at])} in data row {at + 1}, no number, date or text: "
        f"spread it over columns of its own, or leave it out with drop={name!r}"
    )


def _joined(column: pd.Series) -> str:
    """Text of all cells, line by line; "" where some are no text."""
    try:
        return "\n".join(column.to_numpy(dtype=object))
    except TypeError:
        return ""


def _plain_numbers(column: pd.Series, mark: str) -> pd.Series | None:
    """Text that Python reads as numbers, a hundred times faster than cell by cell."""
    import pandas as pd

    if not _joined(column):
        return None
    gaps = column.isin(_MARKS)
    known = column[~gaps]
    text = _joined(known)
    if not re.fullmatch(r"[0-9+\-.eE\n]+", text) or (mark == "," and "." in text):
        return None
    if re.search(r"^0\d", text, re.MULTILINE):
        return None
    cells = known.to_numpy(dtype=object)
    try:
        if not gaps.any() and not re.search("[.eE]", text):
            return column.astype(object).astype(np.int64)
        found = np.full(len(column), np.nan)
        found[~gaps.to_numpy(dtype=bool)] = cells.astype(np.float64)
    except (ValueError, OverflowError):
        return None
    return pd.Series(found, name=column.name)


def _check_dtype(column: pd.Series) -> None:
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    words = {"c": "complex numbers", "m": "time spans", "S": "bytes", "V": "records"}
    nested = str(dtype).startswith(("list", "struct", "large_list", "map", "dictionary", "binary"))
    period = str(dtype).startswith(("period", "interval"))
    if kind in words or nested or period or str(dtype).startswith(("duration", "time")):
        raise UsageError(
            f"column {column.name!r} holds {words.get(kind, str(dtype))}: turn it into numbers, "
            f"dates or text (time spans with .dt.total_seconds()), or leave it out with "
            f"drop={column.name!r}"
        )


def _type(of: type) -> str:
    """What cells of a Python type are."""
    types: dict[str, tuple[type, ...]] = {
        "missing": (type(None),),
        "text": (str,),
        "boolean": (bool, np.bool_),
        "number": (numbers.Real, decimal.Decimal),
        "date": (datetime.date, np.datetime64),
    }
    return next((name for name, kinds in types.items() if issubclass(of, kinds)), "other")


def _a(cell: object) -> str:
    return in_short(f"{type(cell).__name__} {got(cell)}", 80)


def _truths(cells: Sequence[str | None]) -> list[bool | None]:
    return [{"false": False, "true": True}.get(str(cell).lower()) for cell in cells]


def _booleans(cells: Sequence[object], name: object) -> pd.Series:
    import pandas as pd

    return pd.Series(cells, name=name, dtype="boolean" if None in cells else "bool")


def _float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf


def _number_column(cells: Sequence[object], name: object) -> pd.Series:
    """As pandas has it: int64 of whole numbers without gaps, float64 of all others."""
    import pandas as pd

    whole = [int(cell) for cell in cells if isinstance(cell, numbers.Integral)]
    if len(whole) < len(cells):
        found = [math.nan if cell is None else _float(cell) for cell in cells]
        return pd.Series(found, name=name, dtype="float64")
    if max(map(abs, whole)) >= 2**63:  # ids
        return pd.Series([str(cell) for cell in whole], name=name)
    return pd.Series(whole, name=name, dtype="int64")


# --- text --------------------------------------------------------------------------------------


class _Texts:
    """The cells of a column of text."""

    def __init__(self, name: str, cells: Sequence[object]) -> None:
        self.name = name
        self.cells = [None if cell is None else str(cell) for cell in cells]
        self.known = [cell for cell in self.cells if cell is not None]
        self.category = f"kinds={{{name!r}: 'category'}}"
        self.remedy = (
            f"empty the cell where a value is missing, leave the column out with drop={name!r}, or "
            f"take its values as names with {self.category}"
        )

    def typed(self, dtype: str, kind: str, mark: str) -> pd.Series:
        """What the cells say."""
        if kind in DATES:
            return self.dates(kind)
        if {cell.lower() for cell in self.known} <= {"false", "true"}:
            return _booleans(_truths(self.cells), self.name)
        read = self._numbers(mark)
        lost = [i for i, cell in enumerate(self.cells) if cell and read[i] is None]
        names = kind in ("", "category") and any(map(_CODE.match, self.known))
        if lost or names:
            return self._none_of_numbers(dtype, kind, lost)
        return _number_column(read, self.name)

    def _none_of_numbers(self, dtype: str, kind: str, lost: Sequence[int]) -> pd.Series:
        """Dates or words, where some cells are no numbers."""
        if kind not in ("", "category", "boolean"):
            raise UsageError(
                f"column {self.name!r} has {self.cells[lost[0]]!r} in data row {lost[0] + 1} where "
                f"numbers are expected: {self.remedy}"
            )
        if not kind and all(map(_is_date, self.known)):
            return self.dates()
        if not kind and lost:
            self._check_words(lost)
        return self._words(dtype)

    def _words(self, dtype: str) -> pd.Series:
        import pandas as pd

        usual = str(pd.Series(["a"]).dtype)
        return pd.Series(
            list(self.cells), name=self.name, dtype=dtype if dtype.startswith("string") else usual
        )

    def _numbers(self, mark: str) -> list[int | float | None]:
        """The numbers of the cells, None where they are none."""
        made = {text: _read_number(text, mark) for text in set(self.known)}
        return [None if cell is None else made[cell] for cell in self.cells]

    def _check_words(self, lost: Sequence[int]) -> None:
        """Refuse text that is meant as numbers."""
        if 2 * len(lost) <= len(self.known):
            raise UsageError(
                f"column {self.name!r} has {self.cells[lost[0]]!r} in data row {lost[0] + 1} among "
                f"its numbers: {self.remedy}"
            )
        distinct = len(set(self.known))
        if self._have_unit() and (distinct > 10 or 2 * distinct > len(self.known)):
            raise UsageError(
                f"column {self.name!r} has numbers with a unit, such as {self.known[0]!r}: write "
                f"the numbers alone and the unit into the column's name, leave it out with "
                f"drop={self.name!r}, or take its values as names with {self.category}"
            )

    def _have_unit(self) -> bool:
        """Whether all cells are numbers with one and the same unit or currency."""
        found = [_MEASURE.fullmatch(text) for text in self.known]
        units = {((m["before"] or "").strip(), (m["after"] or "").strip()) for m in found if m}
        return all(found) and len(units) == 1 and units != {("", "")}

    def dates(self, kind: str = "date") -> pd.Series:
        """The cells as dates.

        Raises:
            UsageError: text that is no date, or one whose day and month could be either.
        """
        import pandas as pd

        form = "ISO8601" if all(map(_ISO.fullmatch, self.known)) else "mixed"
        zoned = any(map(_ZONE.search, self.known))
        day_first = form == "mixed" and self._day_first(kind)
        try:
            found = pd.to_datetime(
                pd.Series(list(self.cells), name=self.name, dtype=object),
                format=form,
                dayfirst=day_first,
                utc=zoned,
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise UsageError(
                f"column {self.name!r} cannot be read as dates: {in_short(error, 120)}; write them "
                f"as 2024-12-31, or say {self.category}"
            ) from error
        return found

    def _day_first(self, kind: str) -> bool:
        """Whether the day stands before the month in dates such as 31.12.2024."""
        found = [m for text in self.known if (m := _YEAR_LAST.fullmatch(text))]
        if kind in DATES[1:] or not found:
            return kind == "day/month"
        day = any(int(m[1]) > 12 for m in found) or all(m[2] == "." for m in found)
        if day == any(int(m[3]) > 12 for m in found):
            raise UsageError(
                f"column {self.name!r} has dates such as {found[0][0]!r}, whose day and month "
                f"could be either: say kinds={{{self.name!r}: 'day/month'}} or 'month/day'"
            )
        return day


def _read_number(text: str, mark: str) -> int | float | None:
    if re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        return int(text)
    return number(text, mark)


def _is_date(text: str) -> bool:
    return any(p.fullmatch(text) for p in (_YEAR_FIRST, _YEAR_LAST, _NAMED))
