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
_MEASURE = re.compile(  # a number with a unit or a currency
    r"(?P<before>[$€£¥]\s*)?(?P<number>[+-]?\d[\d.,]*)(?P<after>\s*[a-zA-Z%°µ€$£¥/²³]{1,8})?"
)
_CLOCK = r"(?:[T ]+\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:[AaPp][Mm])?(?:Z|[+-]\d{2}:?\d{2})?)?"
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_YEAR_FIRST = re.compile(rf"\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}{_CLOCK}")
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


def decimal_mark(columns: Mapping[str, Sequence[str]], asked: str | None = None) -> str:
    """The decimal mark of a table, "." or ",", told from its columns of text.

    Raises:
        UsageError: columns that contradict each other, or ``1,234`` alone, which may be either.

    >>> decimal_mark({"a": ["1,5", "2"], "b": ["1.234", "2.345.678"]})
    ','
    """
    if asked is not None:
        if asked not in _NUMBER:
            raise UsageError(f'decimal must be "." or ",", got {got(asked)}')
        return asked
    grouped = {name: texts for name, texts in columns.items() if not _all_plain(texts)}
    fits = {
        name: tuple(all(map(_NUMBER[mark].fullmatch, texts)) for mark in _NUMBER)
        for name, texts in grouped.items()
    }
    point = next((name for name, fit in fits.items() if fit == (True, False)), None)
    comma = next((name for name, fit in fits.items() if fit == (False, True)), None)
    either = next((n for n, fit in fits.items() if all(fit) and _has(grouped[n], ",")), None)
    if comma is None and (point is not None or either is None):
        return "."
    if comma is not None:
        point = point or _written_with_points({n: columns[n] for n in columns if n not in grouped})
    if comma is None or point is not None:
        shown = ", ".join(
            f"{columns[name][_first(columns[name], mark)]!r} in column {name!r}"
            for name, mark in ((point, "."), (comma or either, ","))
            if name is not None
        )
        raise UsageError(
            f"the decimal mark may be the point or the comma ({shown}): say decimal='.' or "
            f"decimal=','"
        )
    return ","


def _has(texts: Sequence[str], sign: str) -> bool:
    return any(sign in text for text in texts)


def _first(texts: Sequence[str], sign: str) -> int:
    return next((i for i, text in enumerate(texts) if sign in text), 0)


def _all_plain(texts: Sequence[str]) -> bool:
    try:
        [float(text) for text in texts]
    except ValueError:
        return False
    return True


def _written_with_points(columns: Mapping[str, Sequence[str]]) -> str | None:
    """A column whose points are decimal ones, not those of thousands."""
    return next((n for n, t in columns.items() if not all(map(_NUMBER[","].fullmatch, t))), None)


# --- columns -----------------------------------------------------------------------------------


def scalars(column: pd.Series) -> list[object]:
    """The cells of a column, texts stripped, None where nothing is known."""
    found = (cell.strip() if isinstance(cell, str) else cell for cell in column.astype(object))
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
    cells = scalars(column)
    known = [cell for cell in cells if cell is not None]
    kinds = {_type(cell) for cell in known}
    if not known:
        return pd.Series(np.full(len(cells), np.nan), name=name)
    if "other" in kinds:
        at, cell = next((i, c) for i, c in enumerate(cells) if _type(c) == "other")
        raise UsageError(
            f"column {name!r} holds {_a(cell)} in data row {at + 1}, no number, date or text: "
            f"spread it over columns of its own, or leave it out with drop={name!r}"
        )
    if kinds == {"boolean"}:
        return _booleans(cells, name)
    if kinds == {"date"}:
        return _date_column([None if c is None else str(c) for c in cells], str(name))
    if kinds == {"number"}:
        return _number_column([None if c is None else _plain(c) for c in cells], name)
    if kinds == {"boolean", "number"}:
        raise UsageError(
            f"column {name!r} holds True or False among numbers: make it one of them, or leave it "
            f"out with drop={name!r}"
        )
    texts = [None if cell is None else str(cell) for cell in cells]
    return _of_text(texts, str(name), str(column.dtype), kind, mark)


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


def _type(cell: object) -> str:
    """What a cell is."""
    types: dict[str, tuple[type, ...]] = {
        "missing": (type(None),),
        "text": (str,),
        "boolean": (bool, np.bool_),
        "number": (numbers.Real, decimal.Decimal),
        "date": (datetime.date, np.datetime64),
    }
    return next((name for name, kinds in types.items() if isinstance(cell, kinds)), "other")


def _a(cell: object) -> str:
    return in_short(f"{type(cell).__name__} {cell!r}", 80)


def _plain(cell: object) -> int | float:
    whole = isinstance(cell, numbers.Integral)
    return int(cell) if whole else float(cell)  # type: ignore[call-overload, arg-type]


def _booleans(cells: Sequence[object], name: object) -> pd.Series:
    import pandas as pd

    return pd.Series(cells, name=name, dtype="boolean" if None in cells else "bool")


def _number_column(cells: Sequence[int | float | None], name: object) -> pd.Series:
    """As pandas has it: int64 of whole numbers without gaps, float64 of all others."""
    import pandas as pd

    if all(isinstance(cell, int) for cell in cells):
        if max(map(abs, cells), default=0) >= 2**63:  # type: ignore[arg-type]
            return pd.Series([str(cell) for cell in cells], name=name)
        return pd.Series(cells, name=name, dtype="int64")
    return pd.Series([math.nan if c is None else c for c in cells], name=name, dtype="float64")


def _of_text(texts: Sequence[str | None], name: str, dtype: str, kind: str, mark: str) -> pd.Series:
    """A column of text as what its cells say."""
    import pandas as pd

    known = [text for text in texts if text is not None]
    if kind in DATES:
        return _date_column(texts, name, kind)
    words = {text.lower() for text in known}
    if words <= {"false", "true"}:
        return _booleans([None if t is None else t.lower() == "true" for t in texts], name)
    read = _numbers(texts, mark)
    lost = [i for i, (t, n) in enumerate(zip(texts, read, strict=True)) if t and n is None]
    if not lost and not (kind == "category" and any(re.match(r"0\d", t) for t in known)):
        return _number_column(read, name)
    if kind not in ("", "category", "boolean"):
        raise UsageError(
            f"column {name!r} has {texts[lost[0]]!r} in data row {lost[0] + 1} where numbers are "
            f"expected: {_remedy(name)}"
        )
    if not kind:
        _check_text(texts, lost, name)
        if all(map(_is_date, known)):
            return _date_column(texts, name)
    kept = dtype if dtype.startswith("string") else None
    return pd.Series(texts, name=name, dtype=kept or pd.Series(["a"]).dtype)


def _remedy(name: str) -> str:
    return (
        f"empty the cell where a value is missing, leave the column out with drop={name!r}, or "
        f"take its values as names with kinds={{{name!r}: 'category'}}"
    )


def _numbers(texts: Sequence[str | None], mark: str) -> list[int | float | None]:
    """The numbers of texts, None where they are none."""
    made: dict[str | None, int | float | None] = {None: None}
    for text in texts:
        if text not in made and text is not None:
            try:
                made[text] = int(text) if "_" not in text else None
            except ValueError:
                made[text] = number(text, mark)
    return [made[text] for text in texts]


def _check_text(texts: Sequence[str | None], lost: Sequence[int], name: str) -> None:
    """Refuse text that is meant as numbers."""
    known = [text for text in texts if text is not None]
    if 2 * len(lost) <= len(known):
        raise UsageError(
            f"column {name!r} has {texts[lost[0]]!r} in data row {lost[0] + 1} among its numbers: "
            f"{_remedy(name)}"
        )
    found = [_MEASURE.fullmatch(text) for text in known]
    distinct = len(set(known))
    if not all(found) or (distinct <= 10 and 2 * distinct <= len(known)):
        return
    units = {((m["before"] or "").strip(), (m["after"] or "").strip()) for m in found if m}
    if len(units) == 1:
        raise UsageError(
            f"column {name!r} has numbers with a unit, such as {known[0]!r}: write the numbers "
            f"alone and the unit into the column's name, leave it out with drop={name!r}, or take "
            f"its values as names with kinds={{{name!r}: 'category'}}"
        )


# --- dates -------------------------------------------------------------------------------------


def _is_date(text: str) -> bool:
    return any(p.fullmatch(text) for p in (_YEAR_FIRST, _YEAR_LAST, _NAMED))


def _date_column(texts: Sequence[str | None], name: str, kind: str = "date") -> pd.Series:
    """Text as dates.

    Raises:
        UsageError: text that is no date, or one whose day and month could be either.
    """
    import pandas as pd

    known = [text for text in texts if text is not None]
    found = [m for text in known if (m := _YEAR_LAST.fullmatch(text))]
    day_first = _day_first(found, name, kind)
    try:
        made = [
            None
            if text is None
            else pd.to_datetime(text, dayfirst=day_first and bool(_YEAR_LAST.fullmatch(text)))
            for text in texts
        ]
        zones = {stamp.utcoffset() for stamp in made if stamp is not None}
        dates = pd.Series(pd.to_datetime(made, utc=True if zones != {None} else None), name=name)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(
            f"column {name!r} cannot be read as dates: {in_short(error, 120)}; write them as "
            f"2024-12-31, or say kinds={{{name!r}: 'category'}}"
        ) from error
    return dates


def _day_first(found: Sequence[re.Match[str]], name: str, kind: str) -> bool:
    """Whether the day stands before the month in dates such as 31.12.2024."""
    if kind in DATES[1:] or not found:
        return kind == "day/month"
    day = any(int(m[1]) > 12 for m in found) or all(m[2] == "." for m in found)
    month = any(int(m[3]) > 12 for m in found)
    if day == month:
        raise UsageError(
            f"column {name!r} has dates such as {found[0][0]!r}, whose day and month could be "
            f"either: say kinds={{{name!r}: 'day/month'}} or kinds={{{name!r}: 'month/day'}}"
        )
    return day
