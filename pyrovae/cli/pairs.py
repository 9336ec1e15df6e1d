"""``--pair FILE.py:NAME``: a pair of the user's own, given by code that runs because it was named.

Nothing that a run's folder says is ever run.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import pyrovae as pv

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.program import Program
    from pyrovae.tensors import TensorData
    from pyrovae.traces import OwnPair

    Shown: TypeAlias = Program | OwnPair  # a pair, and what the commands ask of it

GIVEN = ("data", "event_shape", "classes")  # what a function that gives a pair may ask for


def named(text: str) -> str:
    """FILE.py:NAME with the file's whole path.

    Raises:
        UsageError: it is of another form, or there is no such file.
    """
    file, colon, name = text.rpartition(":")
    if not (colon and file.endswith(".py") and name.isidentifier()):
        raise pv.UsageError(
            f"--pair names a Python file and what gives the pair in it, such as mine.py:build; "
            f"got {pv.errors.got(text)}"
        )
    path = pv.files.home(file)
    if not path.is_file():
        there = [each.name for each in path.parent.glob("*.py")]
        raise pv.UsageError(f"there is no file {file!r}{pv.errors.nearest(path.name, there)}")
    return f"{path.resolve()}:{name}"


def own_pair(
    text: str,
    data: TensorData,
    classes: int | None,
    x: Callable[[], Tensor],
) -> Shown:
    """The pair that a file's code gives, on data.

    Args:
        text: FILE.py:NAME, of a pair or of what gives one when it is called; of a pair that is no
            ``Program``, what there is to know is seen by running it.
        data: what it is to run on, as they are stored.
        classes: how many their labels have.
        x: gives the training data, where the code asks for them.

    Raises:
        UsageError: there is no such name, the code raises, what it gives is no pair or one that
            does not run on the data.
    """
    file, _, name = named(text).rpartition(":")
    label = f"{Path(file).name}:{name}"
    found = _attribute(_module(Path(file)), name, Path(file))
    if not _is_pair(found):
        decided = {"data": x, "event_shape": lambda: tuple(data.event_shape)}
        found = _called(found, label, Path(file), {**decided, "classes": lambda: classes})
    if isinstance(found, pv.program.Program):
        return found
    with _said(f"the pair of {label} cannot be run", Path(file)):
        return pv.traces.OwnPair.of(found, data)


def _module(path: Path) -> ModuleType:
    """A file's code, run as that of a module beside its siblings."""
    known = sys.modules.get(path.stem)
    ours = known is None or getattr(known, "__file__", None) == str(path)
    name = path.stem if ours else f"pyrovae_pair_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # where classes look for themselves
    try:
        with _said(f"{path.name} cannot be run", path):
            spec.loader.exec_module(module)
    except pv.UsageError:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _said(words: str, path: Path) -> Iterator[None]:
    """What the user's code raises, as one sentence with the line."""
    try:
        yield
    except pv.UsageError:
        raise
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        where = f", line {line} of {path.name}" if line else ""
        raise pv.UsageError(
            f"{words}: {type(error).__name__}: {pv.errors.in_short(error)}{where}; --debug shows "
            f"the traceback"
        ) from error


def _attribute(module: ModuleType, name: str, path: Path) -> object:
    try:
        return getattr(module, name)
    except AttributeError:
        there = [each for each in vars(module) if not each.startswith("_")]
        hint = pv.errors.nearest(name, there)
        raise pv.UsageError(
            f"{path.name} has no {name!r}{hint or ': name what it defines'}"
        ) from None


def _is_pair(found: object) -> bool:
    try:
        pv.traces.as_pair(found)
    except pv.UsageError:
        return False
    return True


def _called(
    give: object, label: str, path: Path, decided: dict[str, Callable[[], object]]
) -> object:
    """What a function or a class gives, called with what it asks for."""
    if not callable(give):
        raise _no_pair(label, "is", give)
    asked = _asked(give, label)
    with _said(f"{label} raised", path):
        found = give(**{name: decided[name]() for name in asked})
    if not _is_pair(found):
        raise _no_pair(label, "gives", found)
    return found


def _asked(give: Callable[..., object], label: str) -> list[str]:
    """The arguments that it is called with.

    Raises:
        UsageError: others are required.
    """
    try:
        parameters = inspect.signature(give).parameters.values()
    except (TypeError, ValueError):  # of what is written in C
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in free]
    other = [name for name in required if name not in GIVEN]
    if other:
        raise pv.UsageError(
            f"{label} asks for {', '.join(other)}, which the command line has not: it gives "
            f"{', '.join(GIVEN)} by name; give other arguments a default"
        )
    return [p.name for p in parameters if p.name in GIVEN]


def _no_pair(label: str, verb: str, found: object) -> pv.UsageError:
    return pv.UsageError(
        f"{label} {verb} {pv.errors.got(found)}, which is no pair: give pv.Pair(model, guide), the "
        f"two functions as a tuple, or an object with .model and .guide"
    )
