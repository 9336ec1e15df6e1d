"""What long work shows: one bar, on a terminal or in a notebook, whatever goes on inside it."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pyrovae.turns import turn

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = [
    "alone",
    "count",
    "doing",
    "interactive",
    "quiet",
    "say",
    "shown",
    "steps",
    "task",
    "tell",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

log = logging.getLogger("pyrovae")

DELAY = 1.0  # seconds that a bar waits: what is over by then needs none
FORMAT = "{desc} {bar} {percentage:3.0f}% {elapsed}, {remaining} left"


def interactive() -> bool:
    """Whether somebody watches: the standard error is a terminal, or this is a notebook; of the
    processes under torchrun the first is watched."""
    if os.environ.get("RANK", "0") != "0":
        return False
    stream = sys.stderr
    terminal = stream is not None and not stream.closed and stream.isatty()
    return terminal or "ipykernel" in sys.modules


class _Work:
    """What somebody waits for, with all that it calls: the tasks and the loops that are open, the
    outermost first, and the one bar that they move.

    Args:
        asked: whether it may be shown.
    """

    def __init__(self, asked: bool) -> None:
        disabled = os.environ.get("TQDM_DISABLE", "0") not in ("", "0")  # notebooks' bars forget it
        self.asked, self.watched = asked, asked and interactive() and not disabled
        self.names: list[str] = []
        self.loops: list[Loop] = []
        self.bar: tqdm[Any] | None = None
        self.begun = 0.0  # when the outermost task was

    def open(self, loop: Loop) -> None:
        self.loops.append(loop)
        self.move()

    def close(self, depth: int) -> None:
        """End the loops from this one on."""
        del self.loops[depth:]
        if self.bar is not None and not self.loops:
            self.bar.close()
            self.bar = None

    def move(self) -> None:
        """Show where the loops are."""
        if not self.watched or not self.loops:
            return
        first, share = self.loops[0], 0.0
        for loop in reversed(self.loops):
            share = loop.share(share)
        if self.bar is None:
            if share >= 1 or not (first.at_once or time.perf_counter() - self.begun >= DELAY):
                return
            self.bar = _bar(first, self.words(first))
        gained = min(share, 1.0) * first.total - self.bar.n
        if gained > 0:
            self.bar.update(gained)

    def words(self, loop: Loop) -> str:
        return ", ".join(filter(None, [": ".join(self.names), loop.words]))


class Loop:
    """Something that is counted.

    Attributes:
        total: how much there is; 0 where nobody knows.
        done: how much of it is done.
        step: how much of it is being done, which the loops inside divide among them.
        words: what it is.
    """

    def __init__(self, work: _Work, total: float, words: str, options: dict[str, Any]) -> None:
        self.work, self.total, self.words, self.options = work, total, words, options
        self.done = self.step = 0.0
        self.at_once = bool(options.get("leave")) or not total
        self.begun = time.perf_counter()

    def share(self, inside: float) -> float:
        """How much is done of all, if ``inside`` is how much of the step at hand."""
        return (self.done + self.step * min(inside, 1.0)) / self.total if self.total else 0.0

    def advance(self, count: float) -> None:
        """So much more is done."""
        self.done, self.step = self.done + count, 0.0
        self.work.move()

    @property
    def bar(self) -> tqdm[Any] | None:
        """The bar, where there is one and it is this loop's."""
        return self.work.bar if self.work.loops[:1] == [self] else None

    def describe(self, words: str, note: str) -> None:
        """Words before the bar and after it, from when it next moves."""
        self.words = words
        if self.bar is not None:
            self.bar.set_description_str(self.work.words(self), refresh=False)
            self.bar.set_postfix_str(note, refresh=False)


# each thread has its own
_current: ContextVar[_Work | None] = ContextVar("work", default=None)


def _bar(loop: Loop, words: str) -> tqdm[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets: the bar is text
        from tqdm.auto import tqdm
    options: dict[str, Any] = {"bar_format": FORMAT, "leave": False, "dynamic_ncols": True}
    options |= {"total": loop.total or None, "desc": words, "miniters": 0}
    bar: tqdm[Any] = tqdm(**(options | loop.options))
    spent = time.perf_counter() - loop.begun  # what is left follows from all that is done
    bar.start_t, bar.last_print_t = bar.start_t - spent, bar.last_print_t - spent
    return bar


@contextmanager
def task(name: str = "", shown: bool = True) -> Iterator[None]:
    """Work that has a name; of a task inside another both are told.

    Args:
        name: what is done; "" leaves it to the tasks inside.
        shown: whether it may be shown, it and what it calls. A task in one that is not is not.
    """
    outer = _current.get()
    work = outer if outer is not None and shown else _Work(shown)
    token = _current.set(work)
    names, loops = len(work.names), len(work.loops)
    if name:
        if not names:
            work.begun = time.perf_counter()
        work.names.append(name)
    try:
        yield
    finally:
        _current.reset(token)
        del work.names[names:]
        work.close(loops)  # an error may have left some


def quiet() -> AbstractContextManager[None]:
    """No bar and no line of progress inside, in this thread.

    ``TQDM_DISABLE=1`` in the environment is the same for the bars of a whole program.

    >>> with quiet():
    ...     alone()
    False
    """
    return task(shown=False)


def shown(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a task, which its argument ``progress``, if it has one, shows or not; of
    several threads one at a time is at its task.

    >>> @shown("add")
    ... def total(numbers, *, progress: bool = True):
    ...     return sum(steps(numbers, len(numbers)))
    >>> total([1, 2, 3], progress=False)
    6
    """

    def made(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with turn(name), task(name, bool(kwargs.get("progress", True))):
                return function(*args, **kwargs)

        return call

    return made


@contextmanager
def count(total: float, words: str = "", **options: Any) -> Iterator[Loop]:
    """A loop that is counted by :meth:`Loop.advance`; inside another it divides the step that this
    one is at, so that there is one bar.

    Args:
        total: how much there is to do.
        words: what it is.
        options: of ``tqdm``; ``leave=True`` is shown at once and stays.
    """
    work = _current.get() or _Work(False)
    loop = Loop(work, total, words, options)
    work.open(loop)
    try:
        yield loop
    finally:
        if loop in work.loops:
            work.close(work.loops.index(loop))


def steps(
    items: Iterable[T], total: float, words: str = "", size: Callable[[T], float] | None = None
) -> Iterator[T]:
    """The items one by one, counted.

    Args:
        items: what is worked on.
        total: how much they are.
        words: what they are.
        size: how much of the total one is; 1 by default.

    >>> sum(steps([1, 2, 3], 3))
    6
    """
    if _current.get() is None:  # nobody waits for it
        yield from items
        return
    with count(total, words) as loop:
        for item in items:
            loop.step = 1 if size is None else size(item)
            yield item
            loop.advance(loop.step)


def doing(words: str) -> AbstractContextManager[Loop]:
    """Work of another library's, of which nobody knows how far it is: its name alone is shown."""
    return count(0, words, bar_format="{desc} ...")


def alone() -> bool:
    """Whether what is called here is all that somebody waits for, and may write lines."""
    work = _current.get()
    return work is None or (work.asked and not work.names and not work.loops)


def printable(text: str) -> str:
    """Without the control characters by which a stranger's file could speak to the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def say(message: str) -> None:
    """A line on the standard error, above the bar if there is one; none where that is closed, full
    or has lost its reader, which ends no work."""
    work, message = _current.get(), printable(message)
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError, RuntimeError):  # the last: from a signal, within another
        if work is None or work.bar is None:
            print(message, file=sys.stderr, flush=True)
        else:
            work.bar.write(message, file=sys.stderr)


def heard() -> bool:
    """Whether the program listens to the logger ``pyrovae``: it has a handler for what is told."""
    return log.isEnabledFor(logging.INFO) and log.hasHandlers()


def tell(message: str, **facts: object) -> None:
    """A line to whoever listens to the logger ``pyrovae``, with facts as attributes of the record;
    where nobody does, on the standard error."""
    if heard():
        log.info("%s", message, extra=facts)
    else:
        say(message)
