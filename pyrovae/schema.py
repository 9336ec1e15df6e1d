"""What the columns of a table are: names, kinds, categories, units; values <-> numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyrovae.errors import UsageError

__all__ = ["KINDS", "Column", "Schema"]

KINDS = ("real", "positive", "count", "category", "boolean", "date")


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
        unit: of a date, "D" days or "s" seconds since the origin; otherwise "" or what a user says.
        origin: of a date, in ISO 8601.
        decimals: digits after the point that the table has, 0 for whole numbers; None for more
            than can be told.
        low: the smallest number in the table.
        high: the largest.
        gaps: whether entries are missing in the table.
    """

    name: str
    kind: str
    dtype: str
    levels: tuple[str | int | float | bool, ...] = ()
    unit: str = ""
    origin: str = ""
    decimals: int | None = None
    low: float = 0.0
    high: float = 1.0
    gaps: bool = False


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in their order; what the model calls x is ``[N, columns]`` numbers.

    Attributes:
        columns: those of x.
        label: the column that held the classes, "" without one.
    """

    columns: tuple[Column, ...]
    label: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and YAML."""
        return {"columns": [asdict(column) for column in self.columns], "label": self.label}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Schema:
        """What :meth:`to_dict` gave.

        Raises:
            UsageError: it describes no schema.
        """
        known = {field.name for field in fields(Column)}
        try:
            columns = tuple(
                Column(**{**column, "levels": tuple(column.get("levels", ()))})
                for column in given["columns"]
            )
            label = given.get("label", "")
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"this is no schema of a table ({error}): columns have {', '.join(sorted(known))}"
            ) from error
        return cls(columns, label)
