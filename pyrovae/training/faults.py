"""What ends a run, or a step of it, and how it is said."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator

from torch import Tensor

from pyrovae.errors import UsageError, in_short
from pyrovae.svi import Snapshot
from pyrovae.traces import Args
from pyrovae.training.observed import Observed
from pyrovae.training.state import Place

__all__ = [
    "BadStep",
    "Diverged",
    "OutOfMemory",
    "enough_memory",
    "examine",
    "explained",
    "refuse_other_shapes",
]


class Diverged(ArithmeticError):
    """The loss or a gradient stopped being a finite number."""


class OutOfMemory(MemoryError):
    """A step needs more memory than there is."""


class BadStep(Exception):
    """A step that cannot be taken, and why."""


def _memory_is_short(error: Exception) -> bool:
    known = re.search("out of memory|can't allocate memory", str(error))
    return bool(known) or isinstance(error, MemoryError)


@contextlib.contextmanager
def enough_memory(size: int, parts: int) -> Iterator[None]:
    """Say what to do where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _memory_is_short(error):
            raise
        raise OutOfMemory(
            f"there is not enough memory for a step of batch_size {size}"
            f"{f' in {parts} parts' if parts > 1 else ''}: take batch_size "
            f"{max(1, size // 2)} or less, or accumulate={2 * parts} for the same step in "
            f"half the memory; smaller networks and fewer particles need less too"
        ) from error


def refuse_other_shapes(few: Args, batch: Args, step: int, error: Exception) -> None:
    """Say of an error what it comes from, where the data are of another shape than the first."""
    first, now = ([list(a.shape[1:]) for a in each] for each in (few, batch))
    if now != first and not _memory_is_short(error):
        raise UsageError(
            f"the pair does not run on data of shape {', '.join(map(str, now))}, at step "
            f"{step}; the first data are of shape {', '.join(map(str, first))}: give data of one "
            f"shape, validation data too ({in_short(error)})"
        ) from error


@contextlib.contextmanager
def explained(observed: Observed, batch: Args, place: Place) -> Iterator[None]:
    """Say what an error in the step to come means.

    Raises:
        BadStep: numbers that are not finite.
        UsageError: data that the pair does not take.
    """
    step = place.step + 1
    try:
        yield
    except UsageError as error:
        refuse_other_shapes(observed.few, batch, step, error)
        raise UsageError(in_short(error, 2000)) from error  # Pyro adds to its words
    except ValueError as error:  # Pyro's, at what a distribution does not take
        site = ""
        with contextlib.suppress(RuntimeError, TypeError, LookupError, ValueError):
            site = observed.fault(batch)
        if site:
            raise BadStep(f"at step {step} (epoch {place.epoch}), {site}") from error
        refuse_other_shapes(observed.few, batch, step, error)
        raise UsageError(
            f"at step {step} the pair does not take the data: {in_short(error)}"
        ) from error
    except (RuntimeError, TypeError, LookupError) as error:
        refuse_other_shapes(observed.few, batch, step, error)
        raise


def examine(observed: Observed, loss: Tensor, before: Snapshot, batch: Args, place: Place) -> None:
    """What is wrong with a step, before it is taken: the site, the tensor, the gradient.

    Raises:
        BadStep: the loss or a gradient is not finite.
    """
    grads = {n: p.grad for n, p in observed.leaves.items() if p.grad is not None}
    bad = [n for n, g in grads.items() if not bool(g.isfinite().all())]
    finite = math.isfinite(float(loss))
    if finite and not bad:
        return
    before.put_back()
    site = ""
    with contextlib.suppress(ValueError, RuntimeError):
        site = observed.fault(batch)
    before.put_back()
    what = (
        f"the gradient of {', '.join(bad)} is not finite"
        if finite
        else f"the loss is {float(loss)}"
    )
    where = f"at step {place.step + 1} (epoch {place.epoch}) "
    raise BadStep(f"{where}{what}{f': {site}' if site else ''}")
