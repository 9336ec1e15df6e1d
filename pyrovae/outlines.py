"""What classes and functions of this package may be told, as their source has it.

Importing them imports torch, which takes seconds; a command's help and its mistakes need only the
names, defaults and words that stand in the files.
"""

from __future__ import annotations

import ast
import functools
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyrovae.signatures import Option, words

__all__ = ["PARTS", "Argument", "Outline", "classes", "options"]

# What is named by its class: the module, the base class, the class by default.
PARTS = {
    "program": ("programs", "Program", "VAE"),
    "prior": ("priors", "Prior", "StandardNormal"),
    "likelihood": ("likelihoods", "Likelihood", "Bernoulli"),
    "guide": ("guides", "Guide", "MeanField"),
    "network": ("networks", "Network", "MLP"),
    "loss": ("objectives", "Objective", "BetaELBO"),
    "schedule": ("schedules", "Schedule", "Linear"),
}


class Argument(NamedTuple):
    """One argument of a class.

    Attributes:
        part: which part it is, or a list of which; None for what is no part.
        default: in print, of a part the name of its class; None where one must be given.
    """

    part: str | None
    default: str | None


@dataclass(frozen=True)
class Outline:
    """A class: its name, its docstring, and its arguments by name."""

    name: str
    doc: str
    arguments: dict[str, Argument]


class Other:
    """Stands for every type that no text gives."""


class _Found(NamedTuple):
    """A statement at the top of a file, and the file's room."""

    room: str
    node: ast.stmt


def classes(part: str) -> dict[str, Outline]:
    """The concrete classes of a part, by name, as :func:`pyrovae.components.classes` has them.

    >>> list(classes("schedule")), classes("prior")["Mixture"].arguments
    (['Cosine', 'Cyclic', 'Linear', 'Sigmoid'], {'components': Argument(part=None, default='10')})
    """
    return {name: _outline(name, lineage) for name, lineage in _concrete(part).items()}


def options(room: str, name: str) -> dict[str, Option]:
    """The arguments of a function that have a default, as :func:`pyrovae.signatures.options` has
    them; without their checks, and with :class:`Other` in the place of types that no text gives.

    >>> list(options("generation", "sample")), options("generation", "sample")["seed"].default
    (['n', 'like', 'mean', 'seed'], 0)
    """
    found = _find(room, name)
    if found is None or not isinstance(found.node, ast.FunctionDef):
        raise LookupError(f"{room} has no function {name}")
    told = words(ast.get_docstring(found.node) or "")
    return {
        argument.arg: Option(
            _kind(found.room, argument.annotation), _value(default), told[argument.arg]
        )
        for argument, default in _arguments(found.node)
        if default is not None
    }


def _concrete(part: str) -> dict[str, list[_Found]]:
    """The public classes of a part that can be made, each with those that it derives from."""
    room, base, _ = PARTS[part]
    named = _find(room, "__all__")
    assert named is not None and isinstance(named.node, ast.Assign)
    lineages = {name: list(_lineage(_find(room, name))) for name in _value(named.node.value)}
    root = _find(room, base)
    return {n: found for n, found in lineages.items() if root in found and not _abstract(found)}


def _outline(name: str, lineage: list[_Found]) -> Outline:
    room, init = next(
        ((each.room, f) for each in lineage for f in _functions(each) if f.name == "__init__"),
        ("", None),
    )
    arguments = {
        argument.arg: _argument(room, argument.annotation, default)
        for argument, default in (_arguments(init)[1:] if init else ())
    }
    assert isinstance(lineage[0].node, ast.ClassDef)
    return Outline(name, ast.get_docstring(lineage[0].node) or "", arguments)


def _argument(room: str, annotation: ast.expr | None, default: ast.expr | None) -> Argument:
    part = _part(room, annotation)
    if default is None:
        return Argument(part, None)
    if isinstance(default, ast.Call):
        return Argument(part, ast.unparse(default.func))
    value = _value(default)
    own = "none" if value is None else type(value).__name__
    return Argument(part, str(value) if part is None else own)


def _part(room: str, annotation: ast.expr | None) -> str | None:
    """Which part an annotation names, by its base class."""
    bases = {_find(where, base): part for part, (where, base, _) in PARTS.items()}
    nodes = ast.walk(annotation) if annotation else ()
    found = (_find(room, node.id) for node in nodes if isinstance(node, ast.Name))
    return next((bases[each] for each in found if each in bases), None)


@functools.cache
def _statements(room: str) -> dict[str, ast.stmt]:
    """What a file has at its top, by name."""
    try:
        text = pkgutil.get_data("pyrovae", f"{room.replace('.', '/')}.py")
    except FileNotFoundError:
        text = pkgutil.get_data("pyrovae", f"{room.replace('.', '/')}/__init__.py")
    named: dict[str, ast.stmt] = {}
    for node in ast.parse(text or b"").body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                named[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]):
                named[name] = node
            case ast.ImportFrom(names=aliases):
                named |= dict.fromkeys((alias.asname or alias.name for alias in aliases), node)
    return named


@functools.cache
def _find(room: str, name: str) -> _Found | None:
    """What a name means in a file; None where it comes from another package."""
    node = _statements(room).get(name)
    if node is None:
        return None
    if not isinstance(node, ast.ImportFrom):
        return _Found(room, node)
    where, _, rest = (node.module or "").partition(".")
    return _find(rest, name) if where == "pyrovae" and rest else None


def _lineage(found: _Found | None) -> Iterator[_Found]:
    """A class and those of this package that it derives from, the nearest first."""
    if found is None or not isinstance(found.node, ast.ClassDef):
        return
    yield found
    for base in found.node.bases:
        named = base.value if isinstance(base, ast.Subscript) else base  # Program[Tensor, Tensor]
        if isinstance(named, ast.Name):
            yield from _lineage(_find(found.room, named.id))


def _functions(found: _Found) -> list[ast.FunctionDef]:
    assert isinstance(found.node, ast.ClassDef)
    return [node for node in found.node.body if isinstance(node, ast.FunctionDef)]


def _abstract(lineage: list[_Found]) -> bool:
    """Whether a method is left for others to write."""
    nearest: dict[str, ast.FunctionDef] = {}
    for found in lineage:
        nearest = {f.name: f for f in _functions(found)} | nearest
    marks = (mark for f in nearest.values() for mark in f.decorator_list)
    return any(isinstance(mark, ast.Name) and mark.id == "abstractmethod" for mark in marks)


def _arguments(node: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """A function's arguments with their defaults; of ``*`` and ``**`` none."""
    given = node.args
    placed = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(placed) - len(given.defaults)) + given.defaults
    return [
        *zip(placed, defaults, strict=True),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]


def _value(node: ast.expr) -> Any:
    return ast.literal_eval(node)


def _kind(room: str, node: ast.expr | None) -> Any:
    """The type that an annotation means, as far as a text can give it."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _kind(room, left) | _kind(room, right)
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=ast.Name(id="list"), slice=of):
            return list[_kind(room, of)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *_])):
            return _kind(room, kind)
        case ast.Name(id=name) if name in _KINDS:
            return _KINDS[name]
        case ast.Name(id=name) if (found := _find(room, name)) and isinstance(
            found.node, ast.Assign
        ):
            return _kind(found.room, found.node.value)
    return Other


_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (int, float, bool, str)}
