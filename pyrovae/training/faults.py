"""What ends a run, and how it is said."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from pyrovae.errors import UsageError, in_short
from pyrovae.traces import Args

__all__ = ["Bad", "Diverged", "OutOfMemory", "memory", "memory_is_short", "unlike"]


class Diverged(ArithmeticError):
    """The loss or a gradient stopped being a finite number."""


class OutOfMemory(MemoryError):
    """A step needs more memory than there is."""


class Bad(Exception):
    """A step that cannot be taken, and why."""


def memory_is_short(error: Exception) -> bool:
    """Whether an error is that of memory that ran out."""
    known = re.search("out of memory|can't allocate memory", str(error))
    return bool(known) or isinstance(error, MemoryError)


@contextlib.contextmanager
def memory(size: int, parts: int) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not memory_is_short(error):
            raise
        raise OutOfMemory(
            f"there is not enough memory for a step of batch_size {size}"
            f"{f' in {parts} parts' if parts > 1 else ''}: take batch_size "
            f"{max(1, size // 2)} or less, or accumulate={2 * parts} for the same step in "
            f"half the memory; smaller networks and fewer particles need less too"
        ) from error


def unlike(few: Args, batch: Args, step: int, error: Exception) -> None:
    """Raise what can be said of an error at data of other shapes than the first ones."""
    first, now = ([list(a.shape[1:]) for a in each] for each in (few, batch))
    if now != first and not memory_is_short(error):
        raise UsageError(
            f"the pair does not run on data of shape {', '.join(map(str, now))}, at step "
            f"{step}; the first data are of shape {', '.join(map(str, first))}: give data of one "
            f"shape, validation data too ({in_short(error)})"
        ) from error
