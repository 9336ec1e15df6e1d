"""What is described by the arguments it was made with: in Python, as plain data and back.

The plain data are ``{"class_path": ..., "init_args": {...}}``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pyrovae.errors import UsageError, shown, unknown
from pyrovae.files import DEPTH, SCALAR, VALUES, plain
from pyrovae.outlines import PARTS

__all__ = [
    "PARTS",
    "Bounded",
    "Component",
    "Slot",
    "classes",
    "construct",
    "describe",
    "find",
    "slots",
    "typed",
]


class Component:
    """An object whose constructor's signature is its configuration.

    Every constructor argument is kept as an attribute of the same name; that is all that the
    command line, config files and saved models need to know of a class.
    """

    def arguments(self) -> dict[str, object]:
        """The constructor's arguments, by name."""
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        parameters = inspect.signature(type(self)).parameters.values()
        return {p.name: getattr(self, p.name) for p in parameters if p.kind in named}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.arguments().items())
        return f"{type(self).__name__}({arguments})"


def describe(value: object) -> Any:
    """A component as plain data: ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        TypeError: a function or module is part of it, or a class that no other program could
            import by its path.
    """
    if isinstance(value, Component) and _importable(type(value)):
        cls = type(value)
        try:
            arguments = {name: describe(part) for name, part in value.arguments().items()}
        except AttributeError as error:  # an argument that the class does not keep
            raise TypeError(f"{cls.__name__} cannot be written as plain data") from error
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": arguments}
    if isinstance(value, list | tuple | torch.nn.ModuleList):
        return [describe(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as plain data")


def _importable(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return cls.__module__ != "__main__" and getattr(module, cls.__name__, None) is cls


def classes(part: str) -> dict[str, type]:
    """The concrete classes of a part, by name: a new class is here as soon as it is written."""
    room, base, _ = PARTS[part]
    module = importlib.import_module(f"pyrovae.{room}")
    named = {name: getattr(module, name) for name in module.__all__}
    return {
        name: cls
        for name, cls in named.items()
        if inspect.isclass(cls)
        and issubclass(cls, getattr(module, base))
        and not inspect.isabstract(cls)
    }


def find(part: str | None, name: object, allow: Sequence[str] = ()) -> Any:
    """A class of a part (None: of any) by its name or full path.

    Args:
        part: which part it must be.
        name: of a class of pyrovae, or the path ``module.Class`` of one of your own.
        allow: modules that may be imported for it; their code runs. Nothing else is imported.

    Raises:
        UsageError: no such class, with the nearest name, or one of a module that is not allowed.
    """
    known = {k: c for one in ([part] if part else PARTS) for k, c in classes(one).items()}
    paths = {f"{cls.__module__}.{cls.__name__}": cls for cls in known.values()}
    if isinstance(name, str) and name in known | paths:
        return (known | paths)[name]
    found = _imported(name, unknown(part or "component", name, known), allow)
    room, base, _ = PARTS[part] if part else ("components", "Component", None)
    if not _concrete(found, getattr(importlib.import_module(f"pyrovae.{room}"), base)):
        raise UsageError(f"{name} is not a class derived from pyrovae.{room}.{base}")
    return found


def _concrete(found: object, base: type) -> bool:
    """Whether it is a component's class, derived from another, that can be made."""
    return (
        inspect.isclass(found)
        and not inspect.isabstract(found)
        and issubclass(found, base)
        and issubclass(found, Component)
    )


def _imported(name: object, error: UsageError, allow: Sequence[str]) -> Any:
    """What a path names in a module that is allowed; the error where it is no such path."""
    words = name.split(".") if isinstance(name, str) else []
    module = ".".join(words[:-1])
    if not module or words[0] == "pyrovae" or not all(map(str.isidentifier, words)):
        raise error
    if not any(module == given or module.startswith(f"{given}.") for given in allow):
        raise UsageError(
            f"{error}. If you know the module {module!r} and trust its code to be run, allow it: "
            f"pv.load(path, allow=[{module!r}]), --allow {module}"
        )
    try:
        return getattr(importlib.import_module(module), words[-1])
    except Exception as reason:  # it is the user's code
        raise UsageError(
            f"cannot import {name}: {type(reason).__name__}: {reason}; put the folder of its "
            f"module on PYTHONPATH"
        ) from reason


@dataclass(frozen=True)
class Slot:
    """One argument of a component: its type, its default, and which part it is, if one, or a
    list of it.
    """

    kind: Any
    default: Any
    part: str | None
    many: bool = False

    @property
    def one(self) -> bool:
        """Whether it is a part, not a list of them."""
        return self.part is not None and not self.many

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def slots(cls: type) -> dict[str, Slot]:
    """The arguments of a component's constructor."""
    return dict(_slots(cls))


@functools.lru_cache(1000)
def _slots(cls: Any) -> dict[str, Slot]:
    hints = get_type_hints(cls.__init__)
    bases = {
        getattr(importlib.import_module(f"pyrovae.{room}"), base): part
        for part, (room, base, _) in PARTS.items()
    }
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = hints.get(name, Any)
        part = next((bases[k] for k in (kind, *get_args(kind)) if k in bases), None)
        many = part is not None and get_origin(kind) is list
        found[name] = Slot(kind, parameter.default, part, many)
    return found


def typed(kind: Any, value: Any, where: str) -> Any:
    """A flag's text, or a value out of a file, as the type that was annotated.

    Raises:
        UsageError: it is not of that type, or nothing plain is.

    >>> typed(list[float], "[1, 1e-3]", "--scales"), typed(float | str, "shared", "--scale")
    ([1.0, 0.001], 'shared')
    """
    if value is None and NoneType in get_args(kind):
        return None
    if not _plain(kind):
        raise UsageError(f"{where} is {kind}, which no text can give; build it in Python")
    try:
        return _as(kind, value)
    except (ArithmeticError, ValueError) as error:
        kinds = [kind] if kind in _WORDS else [k for k in get_args(kind) if k is not NoneType]
        words = " or ".join(_in_words(k) for k in kinds or [kind])
        raise UsageError(f"{where} must be {words}, got {shown(value)}") from error


def _as(kind: Any, value: Any) -> Any:
    """The value, or what its text says, as the kind; ValueError where it is of another."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _as_one_of(parts, kind, value)
    if origin is Literal:
        return _as_literal(parts, kind, value)
    if isinstance(value, str) and kind is not str:
        return _as(kind, _READ.get(kind, _yaml)(value))
    return _as_container(kind, value) if origin in _CONTAINERS else _as_plain(kind, value)


_CONTAINERS = (list, tuple, dict, Sequence, Mapping)


def _not_of(kind: Any, value: object) -> ValueError:
    return ValueError(f"{shown(value)} is not {kind}")


def _as_one_of(parts: tuple[Any, ...], kind: Any, value: object) -> object:
    for part in sorted(parts, key=lambda part: (part is str, part is not NoneType)):
        with suppress(ArithmeticError, ValueError):
            return _as(part, value)
    raise _not_of(kind, value)


def _as_literal(parts: tuple[Any, ...], kind: Any, value: object) -> object:
    for part in parts:
        if value in (str(part), part) and type(value) in (str, type(part)):
            return part
    raise _not_of(kind, value)


def _as_container(kind: Any, value: object) -> object:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _not_of(kind, value)
        return {_as(parts[0], name): _as(parts[1], item) for name, item in value.items()}
    if not isinstance(value, list | tuple):
        raise _not_of(kind, value)
    if origin is not tuple:
        return [_as(parts[0], item) for item in value]
    parts = (parts[0],) * len(value) if parts[1:] == (...,) else parts
    return tuple(_as(part, item) for part, item in zip(parts, value, strict=True))


def _as_plain(kind: Any, value: object) -> object:
    if type(value) is kind or (value is None and kind is NoneType):
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise _not_of(kind, value)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not finite")
    return number


def _yaml(text: str) -> Any:
    """What a text means, where it is short enough for a value and means something else."""
    value = plain(text) if len(text) <= SCALAR else text
    if isinstance(value, str) or not text.strip():
        raise ValueError(f"{shown(text)} is text")
    return value


_READ: dict[Any, Callable[[str], Any]] = {int: int, float: _number}


def _plain(kind: object) -> bool:
    """Whether it is made of numbers and text: of other types a text would have to name classes."""
    if get_origin(kind) in (list, tuple, dict, Sequence, Mapping, Union, UnionType):
        return all(part is ... or _plain(part) for part in get_args(kind))
    return kind in (int, float, bool, str, NoneType) or get_origin(kind) is Literal


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of whole numbers such as [3,5]",
}


def _in_words(kind: Any) -> str:
    return ", ".join(get_args(kind)) if get_origin(kind) is Literal else _WORDS.get(kind, str(kind))


def construct(
    given: Any,
    part: str | None = None,
    where: str = "the component",
    default: Any = None,
    allow: Sequence[str] = (),
) -> Any:
    """The component that a description means: that of :func:`describe`, or one made by hand.

    Args:
        given: the name of a class; or its name or path as ``class_path``, with ``init_args``.
        part: which part it must be.
        where: what to call it in errors.
        default: the component that is used where nothing else is given.
        allow: modules of your own whose classes may be named; their code runs.

    Raises:
        UsageError: a class, argument or value that is not known, or a module not allowed.

    >>> construct({"class_path": "MLP", "init_args": {"hidden": [8]}}, "network").hidden
    [8]
    """
    _measure(given, where)
    return _construct(given, part, where, default, tuple(allow))


def _measure(given: object, where: str) -> None:
    """Refuse what would take the stack or minutes to build."""
    level, count = [given], 0
    for _ in range(DEPTH):
        count += len(level)
        if count > VALUES:
            break
        level = [
            part
            for node in level
            if isinstance(node, Mapping | list | tuple)
            for part in (node.values() if isinstance(node, Mapping) else node)
        ]
        if not level:
            return
    raise UsageError(f"{where} has more than {VALUES:,} values or {DEPTH} levels")


def _named(given: Any, where: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A description with its keys, and the arguments in it."""
    given = {"class_path": given} if isinstance(given, str) else given or {}
    init = (given.get("init_args") or {}) if isinstance(given, Mapping) else None
    if not isinstance(init, Mapping) or set(given) - {"class_path", "init_args"}:
        raise UsageError(
            f"{where} must be the name of a class, or have the keys class_path and init_args, "
            f"got {shown(given)}"
        )
    return given, init


def _construct(
    given: Any, part: str | None, where: str, default: Any, allow: tuple[str, ...]
) -> Any:
    given, init = _named(given, where)
    usual = type(default).__name__ if part is None or default is not None else PARTS[part][2]
    cls = find(part, given.get("class_path", usual), allow)
    known = slots(cls)
    for name in init:
        if name not in known:
            raise unknown(f"argument of {cls.__name__} ({where})", name, known)
    arguments = default.arguments() if type(default) is cls else {}
    for name, slot in known.items():
        path = f"{where}.{name}"
        found = _argument(name, slot, init, path, allow)
        if slot.required and not found:
            raise UsageError(f"{cls.__name__} needs {name}; give {path}")
        arguments |= found
    return cls(**arguments)


def _argument(
    name: str, slot: Slot, init: Mapping[str, Any], path: str, allow: tuple[str, ...]
) -> dict[str, object]:
    """What a slot is given, by its name; nothing where the class has its own."""
    value = init.get(name)
    own = None if slot.required else slot.default
    if slot.one and (slot.required or value is not None or own is not None):
        return {name: _construct(value, slot.part, path, own, allow)}
    if slot.many and value is not None:
        each = enumerate(_several(value, path))
        return {name: [_construct(one, slot.part, f"{path}[{i}]", None, allow) for i, one in each]}
    return {name: typed(slot.kind, value, path)} if name in init else {}


def _several(given: object, where: str) -> list[object]:
    """A list, or the text of one."""
    with suppress(ValueError):
        value = _yaml(given) if isinstance(given, str) else given
        if isinstance(value, list):
            return value
    raise UsageError(
        f"{where} must be a list of classes such as [Normal, {{class_path: Categorical, "
        f"init_args: {{classes: 3}}}}], got {shown(given)}"
    )


class Bounded(TorchDispatchMode):
    """Within it, tensors are made only as far as a number of elements and operations goes.

    What an operation would make is found on the meta device, which holds no values, before it
    runs: a description that asks for terabytes is refused before any is allocated.

    >>> with Bounded(elements=10, operations=10, what="this asks for too much"):
    ...     torch.zeros(10**15)
    Traceback (most recent call last):
    pyrovae.errors.UsageError: this asks for too much: over 10 elements or 10 operations
    """

    def __init__(self, elements: int, operations: int, what: str) -> None:
        super().__init__()
        self.elements, self.operations = elements, operations
        self.words = f"{what}: over {elements:,} elements or {operations:,} operations"

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        self.operations -= 1
        if not func._schema.is_mutable:
            self.elements -= _made(func, args, kwargs)
        if self.elements < 0 or self.operations < 0:
            raise UsageError(self.words)
        return func(*args, **kwargs)


def _made(func: OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    """How many elements an operation gives."""
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]

    def empty(value: object) -> object:
        return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value

    args, kwargs = tree_map(empty, (args, kwargs))
    try:
        out = func(*args, **(kwargs | {"device": "meta"} if "device" in kwargs else kwargs))
    except (NotImplementedError, RuntimeError):
        if not given:
            raise
        # its size depends on values: as many indices, counts or copies as there are entries
        return sum(t.numel() * max(1, t.dim()) for t in given)
    return sum(math.prod(t.shape) for t in tree_flatten(out)[0] if isinstance(t, Tensor))
