"""One thread at a time where something belongs to the whole process.

Pyro's handlers and its parameter store, torch's modes of modules and every global random state are
one for all threads. Whatever runs a pair's programs takes a :class:`turn`, so that threads give
what they would give one after the other.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from types import FrameType

from pyrovae.errors import UsageError, worker_lost

__all__ = ["at_most", "turn"]

LOOK = 0.2  # seconds between two looks at the thread that is waited for
LONG = 10.0  # seconds of waiting after which that is said

log = logging.getLogger("pyrovae")
_patience: ContextVar[float] = ContextVar("patience", default=float("inf"))


class _Process:
    """Whose turn it is.

    Attributes:
        lock: held by the thread whose turn it is, as often as it has asked.
        thread: which one that is.
        names: what it does, the outermost first.
        lost: what another thread did when this process was forked from it; "" if none did.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.mending = threading.Lock()
        self.thread, self.names, self.lost = 0, list[str](), ""

    def enter(self, name: str) -> None:
        if not self.lock.acquire(blocking=False):
            self._wait()
        if self.thread != threading.get_ident():
            self.thread, self.names = threading.get_ident(), []
        self.names.append(name)

    def leave(self) -> None:
        if self.names:
            self.names.pop()
        self.lock.release()

    def _wait(self) -> None:
        begun, told = time.monotonic(), False
        while not (lock := self.lock).acquire(timeout=LOOK):
            if self.lost:
                raise UsageError(
                    f"this process was forked while another thread was busy ({self.lost}), so that "
                    f"Pyro's state in it is half of that thread's: fork from that thread, or start "
                    f"processes with the method 'spawn'"
                )
            waited, thread = time.monotonic() - begun, self.thread
            if thread not in sys._current_frames():  # it is gone, with its turn
                self._mend(lock)
            elif _waits_for(thread, threading.get_ident()):
                raise UsageError(
                    f"this thread would wait for ever: {self._other()}, and that thread waits for "
                    f"this one. Threads take turns at Pyro's state; do this in the other thread "
                    f"itself, such as in fit's callback, or do not join this one there"
                )
            elif waited > _patience.get():
                raise UsageError(f"{self._other()}: threads take turns, ask again when it is done")
            elif waited > LONG and not told:
                told = True
                log.warning(
                    "waiting: %s, and threads take turns at Pyro's state; if that thread waits for "
                    "this one, neither will end",
                    self._other(),
                )

    def _other(self) -> str:
        words = next(filter(None, self.names), "a pair's programs")
        name = next((t.name for t in threading.enumerate() if t.ident == self.thread), "unknown")
        return f"another thread ({name}) is busy with {words}"

    def _mend(self, lock: object) -> None:
        with self.mending:
            if self.lock is lock:
                self.lock = threading.RLock()

    def forked(self) -> None:
        """In a new process: whether a thread that it does not have has the turn."""
        self.mending = threading.Lock()
        if self.lock.acquire(blocking=False):
            self.lock.release()
        else:
            self.lost = next(filter(None, self.names), "a pair's programs")


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.forked)


class turn(ContextDecorator):  # noqa: N801
    """The turn of this thread, which it may take again within: other threads wait for its end.

    Args:
        name: what is done, for those who wait.

    Raises:
        UsageError: the thread whose turn it is waits for this one by ``Thread.join`` or
            ``Future.result``, so that neither would end; this process was forked meanwhile by
            another thread than that one; within :func:`at_most`, it took too long; a worker
            process of a DataLoader was lost meanwhile.

    >>> with turn("count"), turn():
    ...     1 + 1
    2
    """

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __enter__(self) -> None:
        _process.enter(self.name)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _process.leave()
        if (told := worker_lost(error)) is not None:
            raise told from error


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Within it, a turn that does not come in so many seconds is a ``UsageError``."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


def _waits_for(thread: int, other: int) -> bool:
    """Whether a thread waits without a limit for another to end or to give its result, or for one
    that waits for it."""
    stacks = {ident: list(_frames(frame)) for ident, frame in sys._current_frames().items()}
    seen, todo = set[int](), [thread]
    while todo:
        each = todo.pop()
        if each == other:
            return True
        if each not in seen:
            seen.add(each)
            todo += _awaited(each, stacks)
    return False


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited(thread: int, stacks: dict[int, list[FrameType]]) -> Iterator[int]:
    """The threads that one waits for without a limit."""
    for frame in stacks.get(thread, ()):
        if frame.f_code not in _WAITING or frame.f_locals.get("timeout") is not None:
            continue
        awaited = frame.f_locals.get("self")
        if isinstance(awaited, threading.Thread):
            yield awaited.ident or 0
        elif isinstance(awaited, Future):
            yield from (i for i, stack in stacks.items() if any(_makes(f, awaited) for f in stack))


_WAITING = (threading.Thread.join.__code__, Future.result.__code__)


def _makes(frame: FrameType, future: Future[object]) -> bool:
    """Whether a frame is that of an executor which works on a future."""
    run = frame.f_code.co_name == "run"
    return run and getattr(frame.f_locals.get("self"), "future", None) is future
