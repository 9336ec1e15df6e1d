"""What the numbers of a run may be: types with their checks, for the signature of ``fit``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pyrovae.errors import UsageError, flag, number, whole_number

__all__ = ["Count", "Flag", "Positive", "Seed", "Share", "Whole"]


def _share(name: str, value: object) -> float:
    found = number(name, value)
    if found >= 1:
        raise UsageError(
            f"{name} is the share of the average that a step keeps, below 1; got {found}"
        )
    return found


Whole = Annotated[int, whole_number]  # from 1 on
Count = Annotated[int, partial(whole_number, least=0)]
Seed = Annotated[int, partial(whole_number, least=0, most=2**63 - 1)]
Positive = Annotated[float, number]
Share = Annotated[float, _share]
Flag = Annotated[bool, flag]
