"""What a run of programs rested on in Python: places and what they held, compared fast."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "MISSING",
    "PLAIN",
    "Attribute",
    "Bytes",
    "Cell",
    "ClassEntry",
    "Element",
    "Entry",
    "Facts",
    "Fingerprint",
    "Keys",
    "Length",
    "Place",
    "Stored",
    "Version",
    "alike",
    "facts",
    "is_number",
    "may_be_input",
    "value_now",
]

PLAIN = (
    bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, torch.dtype,
    torch.device, torch.layout, torch.Size, torch.memory_format, np.generic, np.dtype,
)  # fmt: skip


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


def is_number(value: object) -> bool:
    """Whether a value is computed with: bools decide."""
    return type(value) in (int, float) or isinstance(value, np.floating | np.integer)


def may_be_input(before: object, now: object) -> bool:
    """Whether a graph can take a value that has changed: a number, or a tensor like the other."""
    if isinstance(now, Tensor) and isinstance(before, Tensor):
        plain = not (now.requires_grad or before.requires_grad)
        return plain and alike(facts(before)[1:], facts(now)[1:])
    return is_number(now) and type(now) is type(before)


def alike(a: object, b: object) -> bool:
    """Whether two values cannot be told apart by a program: the same, or equal and immutable."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, MethodType) and isinstance(b, MethodType):
        return a.__self__ is b.__self__ and a.__func__ is b.__func__
    return isinstance(a, PLAIN) and (a == b or (a != a and b != b))


@dataclass(eq=False)
class Place:
    """Where a program found a value: an entry, a cell, an attribute, a fact about an object.

    Attributes:
        holder: what holds it.
        key: where in it.
        value: what was there.
        name: in words.
    """

    holder: Any
    key: Any
    value: Any
    name: str

    term = "{h}[{k}] is {v}"  # Python, true where the value is still there; the key is, elsewhere

    def __post_init__(self) -> None:
        """For what a kind of place keeps beside."""

    def now(self) -> object:
        """What is there at the moment."""
        return self.holder.get(self.key, MISSING)

    def settles(self, now: object) -> bool:
        """Whether it is the same to a program, though it may be another value."""
        return alike(now, self.value)

    def put(self, value: object) -> None:
        """Leave a value there, as long as the programs are traced."""
        raise TypeError(f"{self.name} cannot be an input")

    def identity(self) -> tuple[str, int, object]:
        """What two places have alike that are the same one."""
        return type(self).__name__, id(self.holder), self.key


class Entry(Place):
    """An entry of a dictionary: an attribute, a global, an entry."""

    def put(self, value: object) -> None:
        self.holder[self.key] = value


class Element(Place):
    """An element of a list."""

    def now(self) -> object:
        return self.holder[self.key]

    def put(self, value: object) -> None:
        self.holder[self.key] = value


class ClassEntry(Place):
    """An attribute of a class."""

    def __init__(self, kind: type, key: str, value: object, name: str) -> None:
        super().__init__(kind.__dict__, key, value, name)
        self.kind = kind

    def identity(self) -> tuple[str, int, object]:
        return "ClassEntry", id(self.kind), self.key

    def put(self, value: object) -> None:
        setattr(self.kind, self.key, value)


class Cell(Place):
    """What a closure holds."""

    term = "{h}.cell_contents is {v}"

    def now(self) -> object:
        try:
            return self.holder.cell_contents
        except ValueError:
            return MISSING

    def put(self, value: object) -> None:
        self.holder.cell_contents = value


class Attribute(Place):
    """An attribute that no dictionary holds (``__slots__``)."""

    term = "getattr({h}, {k}) is {v}"

    def now(self) -> object:
        return getattr(self.holder, self.key, MISSING)

    def put(self, value: object) -> None:
        setattr(self.holder, self.key, value)


class Stored(Place):
    """A parameter in Pyro's store."""

    term = "{h}._params[{k}] is {v}"

    def now(self) -> object:
        return self.holder._params.get(self.key, MISSING)


class Keys(Place):
    """Which keys a dictionary has, or elements a set, in their order."""

    term = "len({h}) == len({v}) and all(map(is_, {h}, {v}))"

    def __post_init__(self) -> None:
        if len(self.value) < 2:
            self.term = "len({h}) == 1" if self.value else "not {h}"

    def now(self) -> object:
        return tuple(self.holder)


class Length(Place):
    """How long a list is, or a dictionary whose order nobody changes."""

    term = "len({h}) == {v}"

    def __post_init__(self) -> None:
        self.term = "len({h}) == {v}" if self.value else "not {h}"

    def now(self) -> object:
        return len(self.holder)


class Bytes(Place):
    """What a small NumPy array holds."""

    term = "{h}.tobytes() == {v}[0]"

    def now(self) -> object:
        return self.holder.tobytes(), self.holder.shape, str(self.holder.dtype)


class Facts(Place):
    """What a graph takes for granted of a tensor that it reads from where it lies."""

    term = (
        "{h}.data_ptr() == {v}[0] and {h}.shape == {v}[1] and {h}.requires_grad is {v}[2]"
        " and {h}.stride() == {v}[5]"
        " and (not ({h}._backward_hooks or {h}._post_accumulate_grad_hooks)) is {v}[6]"
    )

    def __post_init__(self) -> None:
        if self.value[5] is None:
            self.term = "{h}.shape == {v}[1] and {h}.requires_grad is {v}[2]"

    def now(self) -> object:
        return facts(self.holder)

    def settles(self, now: object) -> bool:  # the memory may be another one
        return alike(self.value[1:], now[1:])  # type: ignore[index]


class Version(Place):
    """What a tensor holds whose values a program looked at."""

    term = "{h}._version == {v} and {k}({h})"

    def __post_init__(self) -> None:
        self.values = self.holder.detach().clone()
        self.key = self._is_equal  # written through .data, it has the version that it had

    def _is_equal(self, tensor: Tensor) -> bool:
        return torch.equal(tensor.detach(), self.values)

    def now(self) -> object:
        return self.holder._version

    def settles(self, now: object) -> bool:
        return self._is_equal(self.holder)


def facts(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, what it is like, whether it is trained and watched."""
    plain = tensor.layout is torch.strided
    hooked = tensor._backward_hooks or tensor._post_accumulate_grad_hooks
    return (
        tensor.data_ptr() if plain else 0,
        tensor.shape,
        tensor.requires_grad,
        tensor.dtype,
        tensor.device,
        tensor.stride() if plain else None,
        not hooked,
    )


class Fingerprint:
    """What a run rests on: places and what they held.

    Compared before every step, so it is a single expression of Python, made once.
    """

    def __init__(self, places: Iterable[Place], inputs: Iterable[Place] = ()) -> None:
        self.places, self.inputs = list(places), list(inputs)
        self.scope: dict[str, Any] = {"is_": operator.is_}
        names: dict[int, str] = {}
        absent: dict[str, list[object]] = {}
        terms = []
        for i, place in enumerate(self.places):
            holder = names.setdefault(id(place.holder), f"h{len(names)}")
            self.scope[holder] = place.holder
            if place.value is MISSING and isinstance(place, Entry | ClassEntry):
                absent.setdefault(holder, []).append(place.key)
                continue
            self.scope |= {f"k{i}": place.key, f"v{i}": place.value}
            key = repr(place.key) if type(place.key) in (str, int) else f"k{i}"
            terms.append(f"({place.term.format(h=holder, k=key, v=f'v{i}')})")
        for holder, keys in absent.items():
            self.scope[f"{holder}_absent"] = frozenset(keys)
            terms.append(f"{holder}.keys().isdisjoint({holder}_absent)")
        source = f"lambda: {' and '.join(terms) or 'True'}"
        self._holds = eval(compile(source, "<fingerprint>", "eval"), self.scope)

    def holds(self) -> bool:
        """Whether every place holds what it held."""
        try:
            if self._holds():
                return True
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            pass  # something is gone, or of another kind
        return not self.changed()

    def changed(self) -> list[Place]:
        """The places that hold something else now."""
        found = []
        for i, place in enumerate(self.places):
            now = value_now(place)
            if place.settles(now) if now is not MISSING else now is place.value:
                place.value = now
                if now is not MISSING:
                    self.scope[f"v{i}"] = now
            else:
                found.append(place)
        return found


def value_now(place: Place) -> object:
    """What a place holds, nothing where it is gone."""
    try:
        return place.now()
    except (IndexError, KeyError, RuntimeError):
        return MISSING
