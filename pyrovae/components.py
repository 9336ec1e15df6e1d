"""Components as plain data and back: ``{"class_path": ..., "init_args": {...}}``."""

from __future__ import annotations

import importlib
import inspect
from argparse import ArgumentError
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser

from pyrovae.networks import Component
from pyrovae.tensors import UsageError, nearest

__all__ = ["Slot", "classes", "construct", "describe", "find", "slots", "typed", "unknown"]

# What is named by its class: the module, the base class, the class by default.
PARTS = {
    "model": ("vae", "VAE", "VAE"),
    "prior": ("priors", "Prior", "StandardNormal"),
    "likelihood": ("likelihoods", "Likelihood", "Bernoulli"),
    "guide": ("guides", "Guide", "MeanField"),
    "network": ("networks", "Network", "MLP"),
    "loss": ("objectives", "Objective", "BetaELBO"),
    "schedule": ("schedules", "Schedule", "Linear"),
}


def describe(value: Any) -> Any:
    """A component as plain data: ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        TypeError: a class or module of the user's own is part of it.
    """
    if isinstance(value, Component) and type(value).__module__.startswith("pyrovae."):
        cls = type(value)
        arguments = {name: describe(part) for name, part in value.arguments().items()}
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": arguments}
    if isinstance(value, list | tuple | torch.nn.ModuleList):
        return [describe(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as plain data")


def unknown(what: str, name: object, choices: Iterable[str]) -> UsageError:
    """The error of a name that is none of the choices, with the nearest of them."""
    choices = list(choices)
    hint = nearest(str(name), choices) or "."
    return UsageError(f"there is no {what} {name!r}{hint} Choose one of {', '.join(choices)}")


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


def find(part: str | None, name: Any) -> Any:
    """A class of a part (None: of any) by its name or full path; nothing else is ever imported.

    Raises:
        UsageError: no such class, with the nearest name.
    """
    known = {k: c for one in ([part] if part else PARTS) for k, c in classes(one).items()}
    paths = {f"{cls.__module__}.{cls.__name__}": cls for cls in known.values()}
    if not isinstance(name, str) or name not in known | paths:
        raise unknown(part or "component", name, known)
    return (known | paths)[name]


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
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def slots(cls: Any) -> dict[str, Slot]:
    """The arguments of a component's constructor."""
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
        found[name] = Slot(kind, parameter.default, part, get_origin(kind) is list)
    return found


def typed(kind: Any, value: Any, where: str) -> Any:
    """A flag's text, or a value out of a file, as the type that was annotated.

    Raises:
        UsageError: it is not of that type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        if isinstance(value, str):
            return parser.parse_args([f"--value={value}"]).value
        return parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        kinds = [kind] if kind in _WORDS else [k for k in get_args(kind) if k is not type(None)]
        words = " or ".join(_WORDS.get(k, str(k)) for k in kinds or [kind])
        raise UsageError(f"{where} must be {words}, got {value!r}") from error


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of whole numbers such as [3,5]",
}


def construct(
    given: Any, part: str | None = None, where: str = "the component", default: Any = None
) -> Any:
    """The component that a description means: that of :func:`describe`, or one made by hand.

    Args:
        given: the name of a class; or its name or path as ``class_path``, with ``init_args``.
        part: which part it must be.
        where: what to call it in errors.
        default: the component that is used where nothing else is given.

    Raises:
        UsageError: a class, argument or value that is not known.
    """
    given = {"class_path": given} if isinstance(given, str) else given or {}
    init = (given.get("init_args") or {}) if isinstance(given, Mapping) else None
    if not isinstance(init, Mapping) or set(given) - {"class_path", "init_args"}:
        raise UsageError(
            f"{where} must be the name of a class, or have the keys class_path and init_args, "
            f"got {given!r}"
        )
    usual = type(default).__name__ if part is None or default is not None else PARTS[part][2]
    cls = find(part, given.get("class_path", usual))
    known = slots(cls)
    for name in init:
        if name not in known:
            raise unknown(f"argument of {cls.__name__} ({where})", name, known)
    arguments = default.arguments() if type(default) is cls else {}
    for name, slot in known.items():
        path, value = f"{where}.{name}", init.get(name)
        if slot.part and slot.many and value is not None:
            arguments[name] = [
                construct(one, slot.part, f"{path}[{i}]")
                for i, one in enumerate(_several(value, path))
            ]
        elif (
            slot.part
            and not slot.many
            and (value is not None or slot.required or slot.default is not None)
        ):
            own = None if slot.required else slot.default
            arguments[name] = construct(value, slot.part, path, own)
        elif name in init:
            arguments[name] = typed(slot.kind, value, path)
        elif slot.required:
            raise UsageError(f"{cls.__name__} needs {name}; give {path}")
    return cls(**arguments)


def _several(given: Any, where: str) -> list[Any]:
    """A list, or the text of one."""
    try:
        value = yaml.safe_load(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        value = given
    if not isinstance(value, list):
        raise UsageError(
            f"{where} must be a list of classes such as [Normal, {{class_path: Categorical, "
            f"init_args: {{classes: 3}}}}], got {given!r}"
        )
    return value
