"""The commands: ``pyrovae fit``, and those that read what it left."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence

import pyrovae as pv
from pyrovae.cli import exploring, fitting, informing, reading
from pyrovae.cli.options import as_flags, joined, say

__all__ = ["COMMANDS", "main"]

# every name in these files' __all__ is a command
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    name: getattr(room, name)
    for room in (fitting, reading, exploring, informing)
    for name in room.__all__
}


def __getattr__(name: str) -> Callable[[list[str]], None]:
    """A command by its name."""
    try:
        return COMMANDS[name]
    except KeyError:
        raise AttributeError(f"there is no command {name!r}") from None


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits 0, 2 on a mistake in what was asked, 130 on Ctrl-C."""
    arguments = joined(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            if not arguments or arguments[0] in ("-h", "--help", "help"):
                print(_overview())
            elif arguments[0] in ("-V", "--version"):
                print(f"pyrovae {pv.__version__}")
            elif arguments[0] in COMMANDS:
                COMMANDS[arguments[0]](arguments[1:])
            else:
                raise pv.errors.unknown("command", arguments[0], COMMANDS)
            sys.stdout.flush()
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code = _explain(error)
    sys.exit(code)


def _explain(error: BaseException) -> int:
    """One line about what went wrong, and the exit code."""
    words, code = textwrap.shorten(as_flags(str(error)[:5000]), 600), 2
    if isinstance(error, KeyboardInterrupt):
        say(words or "interrupted")
        return 130
    if isinstance(error, BrokenPipeError):  # | head: the reader has seen enough
        _leave_stdout()
        return 1
    if _is_full(error):
        _leave_stdout()
        words = "the standard output is full: write it where there is room"
    elif isinstance(error, OSError) and error.filename:
        words = f"cannot use {error.filename}: {error.strerror}; choose another path"
    elif re.search(
        "out of memory|can't allocate|Storage size|MemoryError", repr(error)
    ) and not isinstance(error, pv.training.OutOfMemory):
        words = (
            "there is not enough memory for this; lower --batch-size, --num-particles, "
            "--latent-dim or the network's sizes"
        )
    elif not _is_told(error):
        last, code = traceback.extract_tb(error.__traceback__)[-1], 1
        words = (
            f"internal error: {type(error).__name__}: {words} (at {last.name}, line "
            f"{last.lineno}). This is a defect of pyrovae; --debug shows the traceback"
        )
    say(f"error: {words}")
    return code


def _is_told(error: BaseException) -> bool:
    """Whether it was raised for its words; those of usage mistakes do not wait for torch."""
    if isinstance(error, pv.UsageError | OSError):
        return True
    ours = (pv.training.Diverged, pv.training.OutOfMemory, pv.processes.Lost)
    return isinstance(error, ours)


def _is_full(error: BaseException) -> bool:
    """Whether a stream, which has no name, has no room."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename


def _leave_stdout() -> None:
    """Write what is left of the standard output nowhere: Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> str:
    lines = [
        "pyrovae: variational autoencoders as probabilistic programs",
        "",
        "  pyrovae fit                              train on bundled digits: under a minute",
        "  pyrovae fit --data mnist --epochs 20     a named data set",
        "  pyrovae fit --data table.csv             a table: its columns, gaps and units",
        "  pyrovae sample runs/... --n 1000 --out samples.csv",
        "  pyrovae fit --data x.npy --likelihood Normal --latent-dim 2",
        "  pyrovae evaluate runs/...                numbers of a saved run",
        "",
        "commands (each answers --help with examples):",
    ]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<12} {(inspect.getdoc(command) or '').splitlines()[0]}")
    return "\n".join([*lines, "", "options: --help, --version; --debug shows tracebacks"])
