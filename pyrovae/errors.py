"""Mistakes told in words: the one error of a user's mistake, and what its sentence is made of."""

from __future__ import annotations

import difflib
import math
import numbers
import re
import sys
from collections.abc import Iterable
from typing import cast

import numpy as np


class UsageError(ValueError):
    """A mistake in what was asked for: what happened, why, what to do."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint at the choice that `word` seems to mean, or "" when none is near.

    >>> nearest("mnits", ["digits", "mnist"])
    "; did you mean 'mnist'?"
    """
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f"; did you mean {by_lower[found[0]]!r}?" if found else ""


def in_short(text: object, most: int = 300) -> str:
    """A message or a value on one line: without the tensors and traces that Pyro and torch show.

    >>> in_short("found invalid values: tensor([nan, nan])")
    'found invalid values'
    """
    shown = (str(text) if isinstance(text, str | Exception) else repr(text))[:100_000]
    shown = re.split(r":?\s*\btensor\(\[|\n\s*Trace Shapes:", shown)[0]
    shown = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    return shown if len(shown) <= most else f"{shown[: most - 4]} ..."


def got(value: object) -> str:
    """A value as an error shows it: whole where it is short.

    >>> got(-1), got(np.zeros((99, 99)))
    ('-1', 'a ndarray of shape [99, 99]')
    """
    shape = getattr(value, "shape", ())
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {list(shape)}"
    try:
        return in_short(repr(value), 100)
    except ValueError:  # Python writes no number of thousands of digits
        return f"a {type(value).__name__} of more than {sys.get_int_max_str_digits():,} digits"


def whole_number(name: str, value: object, least: int = 1, most: float = math.inf) -> int:
    """``value``, if it is a whole number from ``least`` to ``most``; UsageError otherwise."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not least <= cast(int, value) <= most:
        upper = "" if most == math.inf else f" and at most {most}"
        raise UsageError(
            f"{name} must be a whole number of at least {least}{upper}, got {got(value)}"
        )
    return int(cast(int, value))


def number(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a float, if it is a positive number (0 too with ``zero``); UsageError
    otherwise."""
    try:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        found = float(cast(float, value)) if real else -math.inf
    except OverflowError:
        found = math.inf
    if not 0 <= found < math.inf or (found == 0 and not zero):
        words = "a number of at least 0" if zero else "a positive number"
        raise UsageError(f"{name} must be {words}, got {got(value)}")
    return found


def flag(name: str, value: object) -> bool:
    """``value``, if it is True or False; UsageError otherwise: "no" would pass for True."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, got {got(value)}")
    return bool(value)


def reason(error: Exception) -> str:
    """The last line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
