"""``pyrovae``, ``python -m pyrovae``, and ``torchrun -m pyrovae`` for several processes: what comes
before the commands and after, the standard streams and Ctrl-C."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """The command line of a process of its own."""
    _hold_streams()
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup's, & are others
    if ours:
        signal.signal(signal.SIGINT, _interrupted)
    from pyrovae.cli import main as commands

    try:
        commands()
    finally:
        if ours:  # all is done or told: what is left is Python's own end
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _hold_streams() -> None:
    """Something for each standard stream, lest the next file that is opened, a model, say, take the
    number of one that is closed, and with it what is written there."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while something is imported, which nothing can undo, ends the program here."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            try:
                os.write(2, b"pyrovae: interrupted\n")
            finally:
                os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
