"""Ctrl-C and SIGTERM: a run ends after the step at hand."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from pyrovae.progress import say

__all__ = ["Signals"]

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Signals:
    """Within it, a first signal is noted and a second one ends the program at once.

    Attributes:
        came: the name of the first signal, "" where none came.
        twice: whether another one followed.
    """

    def __init__(self) -> None:
        self.came, self.twice = "", False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in NAMES}
        return self

    def __exit__(self, *error: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            self.twice = True
            raise KeyboardInterrupt
        self.came = NAMES[signal.Signals(number)]
        say("\nfinishing this step; Ctrl-C again stops at once")


def end_program(stopped: str, words: str) -> None:
    """End the program as the signal that stopped a run asks for, if one did.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after SIGTERM.
    """
    if stopped == NAMES[signal.SIGINT]:
        raise KeyboardInterrupt(words)
    if stopped == NAMES[signal.SIGTERM]:
        say(f"{stopped}: {words}")
        raise SystemExit(128 + signal.SIGTERM)
