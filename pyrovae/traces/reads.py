"""What programs read and write in Python while they run, seen by running them."""

from __future__ import annotations

import copy
import datetime
import decimal
import dis
import functools
import gc
import importlib.util
import logging
import operator
import os
import random
import re
import sys
import sysconfig
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import (
    BuiltinFunctionType,
    CellType,
    ClassMethodDescriptorType,
    CodeType,
    FrameType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pyrovae.traces.fingerprint import (
    MISSING,
    PLAIN,
    Attribute,
    Bytes,
    Cell,
    ClassEntry,
    Element,
    Entry,
    Facts,
    Fingerprint,
    Keys,
    Length,
    Place,
    Stored,
    Version,
    alike,
    facts,
    value_now,
)

__all__ = ["Decided", "Looks", "Reads"]

MOST = 2000  # entries of a list or a dict, which are compared one by one
MOST_BYTES = 1 << 16  # of a NumPy array
MOST_PLACES = 20_000
IMPURE = {
    print: "print", open: "open", input: "input", time.time: "time.time",
    time.time_ns: "time.time_ns", time.monotonic: "time.monotonic",
    time.perf_counter: "time.perf_counter", time.process_time: "time.process_time",
    datetime.datetime.now: "datetime.now", datetime.date.today: "date.today",
}  # fmt: skip
GLOBALS = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "STORE_NAME")
REGISTERS = ("_parameters", "_buffers", "_modules")  # of an nn.Module
LOOKING = {__file__, str(Path(__file__).with_name("fingerprint.py"))}  # who reads here
SPECIAL = {*dir(type), *dir(object), "__dict__"}  # of every object and class
LAZY = ("_pyro_params", "_pyro_samples")  # of a PyroModule


class Reads:
    """Runs a function and notes what it reads and writes: attributes, closures, globals, entries.

    Attributes are seen where they are asked for, so that a name that is put together while the
    program runs is seen too. Objects that a run makes are its own affair, and so is what the code
    of libraries keeps for itself between two lines of a program (a plate's frames).

    Args:
        roots: what the run starts from; its objects are followed from there.

    Attributes:
        places: where a value was found, by identity, with what it was at first.
        tensors: those that were found.
        effects: what else the function did that a graph would not do again, in words.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self.roots = list(roots)
        self.places: dict[tuple[str, int, object], Place] = {}
        self.tensors: dict[int, Tensor] = {}
        self.effects: list[str] = []
        self._versions: dict[int, int] = {}
        self._scratch: set[tuple[str, int, object]] = set()
        self._visited: dict[int, object] = {}
        self._codes: set[CodeType] = set()
        self._names: set[str] = set()  # that the functions name, or spell out
        self._spelt: set[str] = set()  # the latter alone, which may ask for what is not there
        self._spaces: dict[int, ModuleType | type] = {}
        self._hooked: dict[type, dict[str, Any]] = {}
        self._imports = 0
        self._thread = threading.get_ident()

    def run(self, function: Callable[[], Any]) -> Any:
        """What ``function()`` gives."""
        before, collects = sys.getprofile(), gc.isenabled()
        if before is not None and not callable(before):
            self._effect("a profiler is at work")
            return function()
        gc.disable()  # what is called as it collects is no part of the function
        try:
            self._hook(nn.Module)
            for root in self.roots:
                self._visit(root, type(root).__name__)
            sys.setprofile(self._event)
            try:
                return function()
            finally:
                sys.setprofile(before)
                self._after()
        finally:
            if collects:
                gc.enable()
            for kind, own in self._hooked.items():
                for name, plain in own.items():
                    if plain is None:
                        type.__delattr__(kind, name)
                    else:
                        type.__setattr__(kind, name, plain)

    def written(self, buffers: Iterable[Tensor] = ()) -> list[str]:
        """Where the run left something else than it found, in words; these buffers may move."""
        found = [p for k, p in self.places.items() if k not in self._scratch]
        moved = {i for i, t in self.tensors.items() if t._version != self._versions[i]}
        stray = moved - {id(b) for b in buffers}
        shapes = [f"a tensor of shape {list(self.tensors[i].shape)}" for i in stray]
        return [p.name for p in found if not alike(value_now(p), p.value)] + shapes

    def fingerprint(
        self,
        inputs: Iterable[Place] = (),
        looked: Iterable[Tensor] = (),
        leaves: Iterable[Tensor] = (),
    ) -> Fingerprint:
        """What to compare: all places but those that are inputs; the values of tensors that were
        looked at; which leaves Pyro's store holds."""
        left = {place.identity() for place in inputs}
        kept = [p for k, p in self.places.items() if k not in left | self._scratch]
        kept += [Facts(t, None, facts(t), "a tensor") for t in self.tensors.values()]
        kept += [Version(t, None, t._version, "a tensor's values") for t in looked]
        trained = set(map(id, leaves))
        store = pyro.get_param_store()
        for name, leaf in store.named_parameters():
            if id(leaf) in trained:
                kept.append(Stored(store, name, leaf, f"the parameter {name!r}"))
        return Fingerprint(kept, inputs)

    # --- while it runs ----------------------------------------------------------------------------

    def _event(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if code.co_name == "_find_and_load":  # what a module does as it is imported is its own
            self._imports += {"call": 1, "return": -1}.get(event, 0)
        if self._imports:
            return
        if event == "call":
            if code.co_name in TOLD:
                self._told(frame, code)
            if code not in self._codes:
                self._codes.add(code)
                if not _is_library(code.co_filename):
                    self._enter(frame, code)
        elif event == "c_call" and not _is_installed(code.co_filename):
            self._calls(code, arg)

    def _told(self, frame: FrameType, code: CodeType) -> None:
        """A function of Python's own library that goes past attributes, or out of the process."""
        if code in COPIES and id(found := frame.f_locals.get("x")) in self._visited:
            held = getattr(found, "__dict__", None)
            if isinstance(held, dict):
                self._dictionary(held, type(found).__name__)
        elif code is LOGS and not _is_installed(_caller(frame, 2)):
            self._effect("the programs log")
        elif _looks_at_files(code) and not _is_installed(_caller(frame, 1)):
            self._effect(f"the programs look at files ({code.co_name})")

    def _calls(self, code: CodeType, function: Any) -> None:
        """A function of C is called by code of the user's."""
        if function in IMPURE or function.__name__ in WRITES:
            self._effect(f"{code.co_name} calls {IMPURE.get(function, function.__name__)}")

    def _enter(self, frame: FrameType, code: CodeType) -> None:
        """A function of the user's begins."""
        if "__getattribute__" in code.co_names:
            self._effect(f"{code.co_name} goes past attributes (__getattribute__)")
        spelt = {c for c in code.co_consts if isinstance(c, str)}
        words = {c for c in spelt if c.isidentifier()}
        new = ({*code.co_names} | words) - self._names
        self._names |= new
        self._spelt |= words
        for space in list(self._spaces.values()):
            self._space(space, new)
        for name in _globals_of(code):
            if name in frame.f_globals or not hasattr(_BUILTINS, name):
                self._entry(frame.f_globals, name, f"the global {name!r}")
        for name in spelt & set(frame.f_globals):
            self._entry(frame.f_globals, name, f"the global {name!r}")
        for name in spelt | _imports_of(code):
            self._visit(sys.modules.get(name), name)
        if new & {"environ", "getenv"}:
            self._dictionary(os.environ._data, "os.environ")  # type: ignore[attr-defined]

    def _after(self) -> None:
        """What is known only when all is over: closures of functions that nothing led to."""
        known = {f.__code__ for f in self._visited.values() if isinstance(f, FunctionType)}
        codes = [c for c in self._codes - known if c.co_freevars and not _is_library(c.co_filename)]
        for function in gc.get_referrers(*codes) if codes else ():
            if isinstance(function, FunctionType):
                self._function(function)
        if len(self.places) > MOST_PLACES:
            self._effect(f"they read {len(self.places):,} values")

    def _space(self, space: ModuleType | type, names: set[str]) -> None:
        """What the programs may read of a module or a class by its name."""
        if isinstance(space, type):
            for each in space.__mro__:
                if not _is_library_name(each.__module__):
                    for name in names & ({*vars(each)} | self._spelt):
                        self._class_entry(each, name)
        else:
            for name in names & ({*vars(space)} | self._spelt):
                self._entry(vars(space), name, f"{space.__name__}.{name}")

    def _add_space(self, space: ModuleType | type) -> None:
        home = space.__module__ if isinstance(space, type) else space.__name__
        if id(space) not in self._spaces and not _is_library_name(home or ""):
            self._spaces[id(space)] = space
            self._space(space, self._names)
            if isinstance(space, type):
                self._add_space(type(space))

    def _effect(self, words: str) -> None:
        if words not in self.effects:
            self.effects.append(words)

    # --- what is found ----------------------------------------------------------------------------

    def _note(self, place: Place) -> None:
        self.places.setdefault(place.identity(), place)

    def _entry(self, holder: Mapping[Any, Any], key: Any, name: str) -> None:
        value = holder.get(key, MISSING)
        place = Entry(holder, key, value, name)
        self._note(place)
        if place.identity() not in self._scratch:  # what the run itself has put there is its own
            self._visit(value, name)

    def _class_entry(self, kind: type, key: str) -> None:
        name = f"{kind.__name__}.{key}"
        value = kind.__dict__.get(key, MISSING)
        hooks = key in HOOKS and kind in self._hooked
        if not hooks and not isinstance(value, MemberDescriptorType | GetSetDescriptorType):
            self._note(ClassEntry(kind, key, value, name))
            self._visit(value, name)

    def _visit(self, value: object, name: str) -> None:
        """Follow a value that the programs can reach."""
        if isinstance(value, PLAIN) or value is MISSING or id(value) in self._visited:
            return
        if not isinstance(value, MethodType):  # made anew each time
            self._visited[id(value)] = value
        for kinds, follow in FOLLOW:
            if isinstance(value, kinds):
                follow(self, value, name)
                break
        else:
            self._object(value, name)

    def _object(self, value: object, name: str) -> None:
        self._add_space(type(value))
        if type(value).__module__.split(".")[0] in ("pandas", "polars"):
            self._unseen(value, name)
        elif not self._hook(type(value)):
            self._closed(value, name)

    def _unseen(self, value: object, name: str) -> None:
        self._effect(f"{name} is a {type(value).__name__}, whose changes cannot be seen")

    def _tensor(self, value: Tensor, name: str) -> None:
        self.tensors[id(value)] = value
        self._versions[id(value)] = value._version
        for key in set(vars(value)) - {"unconstrained"}:
            self._entry(vars(value), key, f"{name}.{key}")

    def _cell(self, value: CellType, name: str) -> None:
        contents = Cell(value, None, None, name).now()
        self._note(Cell(value, None, contents, name))
        self._visit(contents, name)

    def _set(self, value: set[Any], name: str) -> None:
        self._note(Keys(value, None, tuple(value), name))
        self._all(value, name)

    def _attributes_of(self, value: object) -> None:
        """A container of a class of its own may have attributes beside its entries."""
        if type(value) not in BUILT_IN:
            self._add_space(type(value))
            self._hook(type(value))

    def _all(self, values: Iterable[object], name: str) -> None:
        self._attributes_of(values)
        for value in values:
            self._visit(value, name)

    def _dictionary(self, value: Mapping[Any, Any], name: str) -> None:
        self._attributes_of(value)
        if len(value) > MOST:
            self._effect(f"{name} has {len(value):,} entries")
            return
        if name.endswith(REGISTERS):  # of a module: its entries tell, and nobody reorders them
            self._note(Length(value, None, len(value), name))
        else:
            self._note(Keys(value, None, tuple(value), name))
        for key in list(value):
            self._entry(value, key, f"{name}[{key!r}]")

    def _list(self, value: list[Any] | deque[Any], name: str) -> None:
        self._attributes_of(value)
        if len(value) > MOST:
            self._effect(f"{name} has {len(value):,} entries")
            return
        self._note(Length(value, None, len(value), name))
        for i, part in enumerate(list(value)):
            self._note(Element(value, i, part, f"{name}[{i}]"))
            self._visit(part, f"{name}[{i}]")

    def _array(self, value: np.ndarray[Any, Any], name: str) -> None:
        if value.dtype == object:
            self._unseen(value, name)
        elif value.nbytes > MOST_BYTES:
            self._effect(f"{name} is a NumPy array of {value.nbytes:,} bytes")
        else:
            found = Bytes(value, None, None, name)
            found.value = found.now()
            self._note(found)

    def _function(self, function: FunctionType) -> None:
        self._visited[id(function)] = function
        name = function.__name__
        for free, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self._cell(cell, f"{free!r} of {name}")
        self._all(function.__defaults__ or (), f"a default of {name}")
        self._visit(function.__kwdefaults__ or {}, f"a default of {name}")
        if not _is_library(function.__code__.co_filename):
            for key in ("__code__", "__defaults__"):
                self._note(Attribute(function, key, getattr(function, key), f"{key} of {name}"))
            if function.__dict__:
                self._dictionary(function.__dict__, name)

    # --- attributes, as they are asked for --------------------------------------------------------

    def _closed(self, value: Any, name: str) -> None:
        """An object of a class of C: what it holds, where it shows it."""
        kind = type(value)
        if isinstance(value, weakref.ref):
            self._visit(value(), name)
        elif isinstance(value, BuiltinFunctionType | MethodWrapperType):
            self._visit(None if isinstance(value.__self__, ModuleType) else value.__self__, name)
        elif isinstance(held := getattr(value, "__dict__", None), dict):
            if not kind.__flags__ & HEAP or isinstance(value, threading.local):
                self._dictionary(held, name)
        elif (not kind.__flags__ & HEAP or kind.__flags__ & FIXED) and not isinstance(value, BARE):
            self._unseen(value, name)

    def _hook(self, kind: type) -> bool:
        """See what is read from, and written to, the objects of a class, if that can be seen."""
        if kind in self._hooked or not _is_open(kind):
            return kind in self._hooked
        self._hooked[kind] = {name: kind.__dict__.get(name) for name in HOOKS}
        plain_get: Any = kind.__getattribute__
        plain_set: Any = kind.__setattr__
        reads = self

        def __getattribute__(this: Any, name: str) -> Any:  # noqa: N807
            if id(this) in reads._visited and threading.get_ident() == reads._thread:
                reads._read(this, name, sys._getframe(1).f_code)
            return plain_get(this, name)

        def __setattr__(this: Any, name: str, value: object) -> None:  # noqa: N807
            if id(this) in reads._visited and threading.get_ident() == reads._thread:
                reads._wrote(this, name, sys._getframe(1))
            plain_set(this, name, value)

        try:
            type.__setattr__(kind, "__getattribute__", __getattribute__)
            type.__setattr__(kind, "__setattr__", __setattr__)
        except TypeError:  # of C
            del self._hooked[kind]
        return kind in self._hooked

    def _read(self, this: Any, name: str, reader: CodeType) -> None:
        if reader.co_filename in LOOKING:
            return  # of a class and its base, the one that is asked first notes it
        if name in SPECIAL:
            if name == "__dict__" and not _is_library(reader.co_filename):
                self._dictionary(object.__getattribute__(this, "__dict__"), type(this).__name__)
            return
        if name in REGISTERS and reader is nn.Module.__getattr__.__code__:
            return  # the entry that it looks for is noted by its name
        self._places_of(this, name)

    def _places_of(self, this: Any, name: str) -> list[tuple[str, int, object]]:
        """Note every place that an attribute of an object is looked for in."""
        kind = type(this)
        label = f"{kind.__name__}.{name}"
        found = self._in_classes(kind, name)
        if isinstance(found, MemberDescriptorType):
            self._slot(this, name, label)
            return [("Attribute", id(this), name)]
        try:
            held = object.__getattribute__(this, "__dict__")
        except AttributeError:
            return []
        self._note(Attribute(this, "__class__", kind, f"the class of {kind.__name__}"))
        registers = REGISTERS if isinstance(this, nn.Module) else ()
        entries = [each for r in registers if name in (each := held.get(r) or {})]
        for each in (held, *entries):
            self._entry(each, name, label)
        if found is MISSING and not entries and name not in held and hasattr(kind, "__getattr__"):
            for part in LAZY if registers else list(held):  # one of which it is made of
                self._entry(held, part, f"{kind.__name__}.{part}")
        return [("Entry", id(each), name) for each in (held, *entries)]

    def _in_classes(self, kind: type, name: str) -> object:
        """What the classes of an object have under a name; where it was looked for is noted."""
        for each in kind.__mro__:
            found = each.__dict__.get(name, MISSING)
            if not _is_library_name(each.__module__):  # a slot is noted by who holds it
                self._class_entry(each, name)
            if found is not MISSING:
                return found
        return MISSING

    def _slot(self, this: Any, name: str, label: str) -> None:
        value = Attribute(this, name, None, label)
        value.value = value.now()
        self._note(value)
        self._visit(value.value, label)

    def _wrote(self, this: Any, name: str, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code.co_name == "__setattr__":
            frame = frame.f_back
        identities = self._places_of(this, name)
        if frame is not None and _is_library(frame.f_code.co_filename):
            self._scratch.update(identities)


FOLLOW: tuple[tuple[Any, Callable[[Reads, Any, str], None]], ...] = (
    (Tensor, Reads._tensor),
    (FunctionType, lambda reads, value, name: reads._function(value)),
    (MethodType, lambda reads, value, name: reads._all((value.__func__, value.__self__), name)),
    (
        functools.partial,
        lambda reads, value, name: reads._all((value.func, *value.args, value.keywords), name),
    ),
    (property, lambda reads, value, name: reads._all((value.fget, value.fset), name)),
    (functools.cached_property, lambda reads, value, name: reads._visit(value.func, name)),
    ((staticmethod, classmethod), lambda reads, value, name: reads._visit(value.__func__, name)),
    ((ModuleType, type), lambda reads, value, name: reads._add_space(value)),
    ((tuple, frozenset), Reads._all),
    ((dict, MappingProxyType), Reads._dictionary),
    ((list, deque), Reads._list),
    (set, Reads._set),
    (np.ndarray, Reads._array),
    (type(functools.cache(len)), Reads._unseen),  # it answers from memory
    (torch.jit.ScriptModule, Reads._unseen),
    (nn.Module, lambda reads, value, name: reads._add_space(type(value))),
    (
        (np.random.Generator, np.random.RandomState, random.Random, torch.Generator),
        lambda reads, value, name: reads._effect(f"{name} is a generator of random numbers"),
    ),
    (CellType, Reads._cell),
    (Iterator, lambda reads, value, name: reads._effect(f"{name} is an iterator")),
)

BUILT_IN = (list, dict, deque, tuple, set, frozenset, OrderedDict, MappingProxyType)


class Decided(ValueError):
    """A number or a size that Python is told comes from the data or from a draw."""


class Looks(TorchDispatchMode):
    """The tensors whose values Python asks for: numbers that a graph of the run would bake in.

    Args:
        known: tensors that were there before the run, by id.

    Attributes:
        data: the ids of those that differ from run to run; so do draws, and what is made of both.
        tensors: those known ones that a value was computed from that was asked for.

    Raises:
        Decided: a value that differs from run to run is asked for.
    """

    def __init__(self, known: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.known = known
        self.data: set[int] = set()
        self.tensors: dict[int, Tensor] = {}
        self._made_of = WeakIdKeyDictionary()
        self._by_function = _ByFunction(self)

    def __enter__(self) -> Looks:
        self._by_function.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._by_function.__exit__(*error)

    def at(self, tensor: Tensor) -> None:
        """A tensor is looked at."""
        sources = self._sources(tensor)
        if DATA in sources:
            raise Decided("value out of a tracing tensor")
        self.tensors.update({key: self.known[key] for key in sources})

    def _sources(self, tensor: Tensor) -> set[int]:
        if id(tensor) in self.data:
            return {DATA}
        if id(tensor) in self.known:
            return {id(tensor)}
        return self._made_of.get(tensor, set())  # type: ignore[no-any-return]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func in LOOKS or (torch.Tag.dynamic_output_shape in func.tags and _is_by_mask(given)):
            for tensor in given:
                self.at(tensor)
        out = func(*args, **(kwargs or {}))
        sources = set[int]().union(*map(self._sources, given))
        if torch.Tag.nondeterministic_seeded in func.tags:
            sources.add(DATA)
        for made in tree_leaves(out) if sources else ():
            if isinstance(made, Tensor) and id(made) not in self.known:
                self._made_of[made] = sources | self._sources(made)
        return out


def _is_by_mask(given: list[Tensor]) -> bool:
    """Whether an operation's size depends on values: of an index, if that is a mask."""
    return len(given) == 1 or any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])


class _ByFunction(TorchFunctionMode):
    def __init__(self, looks: Looks) -> None:
        super().__init__()
        self.looks = looks

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in SHOWS:
            self.looks.at(args[0])
        return func(*args, **(kwargs or {}))


DATA = -1
SHOWS = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__repr__, Tensor.__format__)
LOOKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
_BUILTINS = __builtins__ if isinstance(__builtins__, ModuleType) else sys.modules["builtins"]


def _globals_of(code: CodeType) -> list[str]:
    """The globals that a code names."""
    found = (i.argval for i in dis.get_instructions(code) if i.opname in GLOBALS)
    return list(dict.fromkeys(found))


def _imports_of(code: CodeType) -> set[str]:
    """The modules that a function imports."""
    found = (i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME")
    return {name for name in found if isinstance(name, str)}


def _looks_at_files(code: CodeType) -> bool:
    return code.co_name in FILES and code.co_filename.startswith(("<frozen", *STANDARD))


def _caller(frame: FrameType, steps: int) -> str:
    """The file of who called a function, so many calls ago; a library's where there is none."""
    back: FrameType | None = frame
    for _ in range(steps):
        back = back and back.f_back
    return "<frozen>" if back is None else back.f_code.co_filename


def _home(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).parent) + "/"


OURS = tuple(_home(name) for name in ("torch", "pyro", "numpy", "pyrovae"))
STANDARD = tuple({sysconfig.get_paths()[k] + "/" for k in ("stdlib", "platstdlib")})


@functools.cache
def _is_library(filename: str) -> bool:
    """Whether code is of Pyro, torch, Python itself or this library."""
    if filename.startswith(("<frozen", *OURS)):
        return True
    return filename.startswith(STANDARD) and "site-packages" not in filename


def _is_installed(filename: str) -> bool:
    """Whether code is a library's, of whichever."""
    return "site-packages" in filename or _is_library(filename)


def _is_library_name(module: str) -> bool:
    top = module.split(".")[0]
    return top in ("torch", "pyro", "numpy", "pyrovae") or (
        top in sys.stdlib_module_names and top != "__main__"
    )


def _is_open(kind: type) -> bool:
    """Whether what is read from objects of a class is a program's affair: of this library's, what
    networks, distributions and objectives hold."""
    if issubclass(kind, Tensor | type | ModuleType | BaseException):
        return False
    if kind.__module__.split(".")[0] == "pyrovae":
        return issubclass(kind, nn.Module | ELBO | torch.distributions.Distribution)
    return bool(kind.__flags__ & HEAP)


HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by Python, so that it can be changed
FIXED = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: but for these
HOOKS = ("__getattribute__", "__setattr__")
WRITES = ("write", "writelines", "urandom", "putenv")
LOGS = logging.Logger._log.__code__
COPIES = {copy.copy.__code__, copy.deepcopy.__code__}
FILES = {
    "exists", "is_file", "is_dir", "stat", "lstat", "read_text", "read_bytes", "write_text",
    "write_bytes", "iterdir", "glob", "getmtime", "getsize", "isfile", "isdir", "open",
}  # fmt: skip
TOLD = {*FILES, LOGS.co_name, *(code.co_name for code in COPIES)}
BARE = (  # objects of C that never change, or that no number comes from
    BuiltinFunctionType, WrapperDescriptorType, MethodDescriptorType, ClassMethodDescriptorType,
    MethodWrapperType, GetSetDescriptorType, MemberDescriptorType, GenericAlias, UnionType,
    CodeType, FrameType, re.Pattern,
    operator.itemgetter, operator.attrgetter, operator.methodcaller,
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, np.ufunc,
    torch.finfo, torch.iinfo, type(threading.Lock()), type(threading.RLock()),
)  # fmt: skip
