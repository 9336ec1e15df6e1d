"""What a program leads to: its modules and leaf tensors, each by the path that leads there."""

from __future__ import annotations

import functools
import inspect
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

DEEP = 8  # steps from a program to what it holds
LIBRARIES = {
    "builtins", "collections", "contextlib", "functools", "logging", "numpy",
    "pandas", "pathlib", "PIL", "pyro", "pyrovae", "random", "scipy", "sklearn", "threading",
    "torch", "tqdm", "typing", "weakref",
}  # fmt: skip
CLOSED = (NoneType, ModuleType, type, str, bytes, int, float, complex, Dataset, DataLoader)
PLAIN = (NoneType, str, bytes, int, float, complex)
OPENED = (Messenger, torch.distributions.Distribution, torch.distributions.transforms.Transform)


class Reach:
    """Names for what programs hold: closures, globals, ``self``, partials, lists, default values.

    Nothing is decided by being found here: what a pair is made of is seen by running it, and this
    gives it a name that is the same in another process.

    Attributes:
        modules: by name; a module that another one holds is named within that.
        leaves: tensors outside modules that can be trained, by name.
        functions: what the programs are made of.
        kinds: the classes of what they hold.
    """

    def __init__(self, roots: Mapping[str, object]) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.leaves: dict[str, Tensor] = {}
        self.functions: dict[int, FunctionType] = {}
        self.kinds: dict[type, None] = {}
        self._seen: set[int] = set()
        for name, value in roots.items():
            self._follow(name, value, 0)

    def _follow(self, name: str, value: object, depth: int) -> None:
        value = _unwrapped(value)
        if isinstance(value, CLOSED) or depth > DEEP or id(value) in self._seen:
            return
        if not isinstance(value, MethodType):  # made anew each time, and not kept
            self._seen.add(id(value))
        if isinstance(value, Tensor):
            if _is_trainable(value):
                _add(self.leaves, name, value)
            return
        self._note(value)
        if isinstance(value, nn.Module):
            _add(self.modules, name, value)
            for module in value.modules():
                self._seen.update(map(id, (module, *module._parameters.values())))
        for key, part in _parts(name, value):
            self._follow(key, part, depth + 1)

    def _note(self, value: object) -> None:
        """What code a value has."""
        function = value.__func__ if isinstance(value, MethodType) else value
        if isinstance(function, FunctionType):
            self.functions[id(function)] = function
        value = value.__self__ if isinstance(value, MethodType) else value
        held = value.modules() if isinstance(value, nn.Module) else [value]
        self.kinds.update((type(each), None) for each in held)

    def code(self) -> list[str]:
        """What the user wrote of the programs: a name and a digest of each function, and of each
        method that the programs or a library may call; none of libraries.

        >>> def model(x):
        ...     return 2 * x
        >>> def other(x):
        ...     return 3 * x  # another constant
        >>> model.__module__ = other.__module__ = "mine"
        >>> [Reach({"": f}).code() == Reach({"": model}).code() for f in (model, other)]
        [True, False]
        """
        new = [*self.functions.values(), *(f for kind in self.kinds for f in _methods(kind))]
        own: dict[int, FunctionType] = {}
        while new:
            function = new.pop()
            file = function.__code__.co_filename
            if id(function) not in own and not _of_library(function.__module__, file):
                own[id(function)] = function
                new += [held for _, held in _named(function) if isinstance(held, FunctionType)]
        return sorted({f"{f.__qualname__}:{_digest(f):08x}" for f in own.values()})


def _of_library(module: str | None, file: str = "") -> bool:
    top = (module or "").split(".")[0]
    known = top in LIBRARIES or (top in sys.stdlib_module_names and top != "__main__")
    return known or "site-packages" in file


def _methods(kind: type) -> list[FunctionType]:
    """The methods of a user's class that programs call, or a library's class that it is made of."""
    own: dict[str, FunctionType] = {}
    called = {"__call__", "forward", "model", "guide"}
    for each in reversed(kind.__mro__):
        if _of_library(each.__module__):
            called |= {name for name in vars(each) if not name.startswith("__")}
        else:
            own |= {n: f for n, f in vars(each).items() if isinstance(f, FunctionType)}
    return list(_reached(own, called))


def _reached(own: dict[str, FunctionType], called: set[str]) -> Iterable[FunctionType]:
    """The functions of these that are called, or that one of them names."""
    found: dict[str, FunctionType] = {}
    while new := called & own.keys() - found.keys():
        found |= {name: own[name] for name in new}
        called = {word for name in new for word in _names(own[name].__code__)}
    return found.values()


def _digest(function: FunctionType) -> int:
    """Of what a function does, whatever its names, its place in a file and its docstring are."""
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    plain = [v for v in defaults if isinstance(v, PLAIN)]
    return zlib.crc32(repr([_content(function.__code__, function.__doc__), plain]).encode())


def _content(value: object, docstring: object = None) -> object:
    """A constant of code, or code, as what it says."""
    if isinstance(value, CodeType):
        constants = [_content(part) for part in value.co_consts if part != docstring or not part]
        return value.co_code, value.co_names, constants
    if isinstance(value, frozenset):  # in an order of its own in each process
        return sorted(map(repr, value))
    return [_content(part) for part in value] if isinstance(value, tuple) else value


def _unwrapped(value: object) -> object:
    """The method that a module is, where it is one."""
    bound = getattr(value, "__dict__", {})
    if isinstance(value, nn.Module) and "__self__" in bound:
        return MethodType(bound["__func__"], bound["__self__"])
    return value


def _is_trainable(value: Tensor) -> bool:
    return isinstance(value, nn.Parameter) or (value.is_leaf and value.requires_grad)


def _add(found: dict[str, T], name: str, value: T) -> None:
    """Under its name, or the first free one of its name and a number."""
    free, count = name, 1
    while free in found:
        count += 1
        free = f"{name}_{count}"
    found[free] = value


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    """What an object holds, with the names that the parts get."""
    if isinstance(value, MethodType):
        yield from _of_method(name, value)
    elif isinstance(value, FunctionType):
        yield from _named(value)
    elif isinstance(value, functools.partial):
        yield from _bound(name, value)
    elif isinstance(value, Mapping):
        yield from _items(name, value.items())
    elif isinstance(value, list | tuple):
        yield from _items(name, enumerate(value))
    elif isinstance(value, nn.Module):
        yield from _of_module(name, value)
    elif _is_open(value):
        yield from _attributes(name, value)
        yield from _named(inspect.getattr_static(type(value), "__call__", None))


def _items(name: str, held: Iterable[tuple[object, object]]) -> Iterator[tuple[str, object]]:
    yield from ((_within(name, k), part) for k, part in held if isinstance(k, str | int))


def _of_method(name: str, method: MethodType) -> Iterator[tuple[str, object]]:
    owner = method.__self__
    if isinstance(owner, (nn.Module, *CLOSED)):
        yield name, owner
    else:
        yield from _attributes("", owner)
    yield from _named(method.__func__)


def _of_module(name: str, value: nn.Module) -> Iterator[tuple[str, object]]:
    for module_name, module in value.named_modules(prefix=name):
        if not type(module).__module__.startswith("torch."):
            yield from _attributes(module_name, module)


def _is_open(value: object) -> bool:
    """Whether an object may hold what belongs to a program: those of libraries do not, but for
    distributions and Pyro's handlers."""
    home = type(value).__module__
    return (
        isinstance(value, OPENED)
        or home.split(".")[0] not in LIBRARIES
        or (home.startswith("pyro.poutine.") and callable(value))
    )


def _within(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _attributes(name: str, value: object) -> Iterator[tuple[str, object]]:
    held = getattr(value, "__dict__", {})
    registered = ("_parameters", "_buffers", "_modules") if isinstance(value, nn.Module) else ()
    slots = [s for kind in type(value).__mro__ for s in _slots(kind)]
    for key, part in [*held.items(), *((s, getattr(value, s, None)) for s in slots)]:
        if key not in registered and not key.startswith(MEMORY):
            yield _within(name, key), part


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [n for n in names if n not in ("__dict__", "__weakref__")]


def _named(function: object) -> Iterator[tuple[str, object]]:
    """What a function's code names: globals, closure, default values."""
    if not isinstance(function, FunctionType):
        return
    if (function.__module__ or "").split(".")[0] not in LIBRARIES:
        for key in dict.fromkeys(_names(function.__code__)):
            if key in function.__globals__:
                yield key, function.__globals__[key]
    for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield key, cell.cell_contents
        except ValueError:  # not yet filled
            continue
    yield from _defaults(function)
    yield function.__name__, getattr(function, "__wrapped__", None)


def _defaults(function: FunctionType) -> Iterator[tuple[str, object]]:
    defaults = function.__defaults__ or ()
    count = function.__code__.co_argcount
    yield from zip(function.__code__.co_varnames[count - len(defaults) : count], defaults,
                   strict=True)  # fmt: skip
    yield from (function.__kwdefaults__ or {}).items()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _bound(name: str, value: functools.partial[Any]) -> Iterator[tuple[str, object]]:
    """A partial's function, and its arguments under the names of the parameters they fill."""
    yield name, value.func
    try:
        names = list(inspect.signature(value.func).parameters)
    except (TypeError, ValueError):
        names = []
    names += [f"{name}.{k}" for k in range(len(names), len(value.args))]
    yield from zip(names, value.args)  # noqa: B905  (a partial may bind fewer)
    yield from value.keywords.items()


T = TypeVar("T")
MEMORY = "_pyrovae_memory"
