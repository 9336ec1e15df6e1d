"""What a function may be told, written once: in its signature and its docstring.

There an option has its name, its type, what it may be (a check beside the type, in ``Annotated``),
its default and its words. From these come checks, command lines and configuration files. And what a
pair's verbs give, for a type checker: :class:`Typed`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import TypeVar as TypeVarWithDefault

from pyrovae.errors import UsageError, meant

__all__ = ["Latent", "Observed", "Option", "Typed", "checked", "options", "words"]

P = ParamSpec("P")
R = TypeVar("R")
Observed = TypeVarWithDefault("Observed", default=Any)
Latent = TypeVarWithDefault("Latent", default=Any)
Check = Callable[[str, Any], Any]  # (name, value) -> the value as it is taken; raises


class Typed(Generic[Observed, Latent]):
    """A pair of which a type checker knows what the verbs give: ``Tensor`` where the model observes
    one site, or has one latent, and ``dict[str, Tensor]`` of several."""


def _as_it_is(name: str, value: object) -> Any:
    """Any value will do."""
    return value


@dataclass(frozen=True)
class Option:
    """One argument of a function that has a default.

    Attributes:
        kind: its type, without the check.
        default: its value where none is given.
        words: the first sentence that the docstring has for it, without marks of code.
        check: gives a value as the function takes it, or raises with the name it is given.
    """

    kind: Any
    default: Any
    words: str
    check: Check = _as_it_is

    def told(self, kinds: tuple[Any, ...]) -> Any:
        """What of its type is among the kinds, as a type; None where nothing is.

        >>> Option(int | list | None, None, "").told((int, str))
        int | None
        """
        parts = get_args(self.kind) if _is_union(self.kind) else (self.kind,)
        known = [part for part in parts if part in kinds]
        if not known:
            return None
        return functools.reduce(lambda a, b: a | b, [*known, *(p for p in parts if p is NoneType)])


def options(function: Callable[..., object]) -> dict[str, Option]:
    """The arguments of a function that have a default, by name, in their order.

    >>> def train(pair, rate: float = 0.1) -> None:
    ...     '''Train.
    ...
    ...     Args:
    ...         pair: a pair.
    ...         rate: how ``far`` a step
    ...             goes. It may fall.
    ...     '''
    >>> found = options(train)["rate"]
    >>> found.kind, found.default, found.words
    (<class 'float'>, 0.1, 'how far a step goes')
    """
    return dict(_options(inspect.unwrap(function)))


@functools.lru_cache(100)
def _options(function: Callable[..., object]) -> Mapping[str, Option]:
    kinds, whole = get_type_hints(function), get_type_hints(function, include_extras=True)
    told = words(inspect.getdoc(function) or "")
    return {
        name: Option(kinds.get(name, Any), p.default, told.get(name, ""), _check(whole.get(name)))
        for name, p in inspect.signature(function).parameters.items()
        if p.default is not p.empty
    }


def _is_union(kind: object) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _check(kind: object) -> Check:
    """What an annotation asks of a value; None passes where it is allowed."""
    parts = get_args(kind) if _is_union(kind) else (kind,)
    checks = [part.__metadata__[0] for part in parts if get_origin(part) is Annotated]

    def check(name: str, value: object) -> Any:
        free = not checks or (value is None and NoneType in parts)
        return value if free else checks[0](name, value)

    return check


def words(doc: str) -> dict[str, str]:
    """The first sentence of each entry below "Args:" of a docstring, without marks of code."""
    section = re.split(r"\n(?=\S)", doc.partition("\nArgs:\n")[2])[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
    sentences = {n: re.split(r"\.(?:$|\s+(?=[A-Z`]))", text, maxsplit=1)[0] for n, text in entries}
    return {n: re.sub(r"\s+", " ", re.sub(r'[`"]', "", text)) for n, text in sentences.items()}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, given its arguments as the checks beside their types leave them.

    >>> def positive(name, value):
    ...     if value <= 0:
    ...         raise ValueError(f"{name} must be positive, got {value}")
    ...     return float(value)
    >>> @checked
    ... def train(pair, rate: Annotated[float, positive] = 0.1) -> float:
    ...     return rate
    >>> train("pair", 1)
    1.0
    >>> train("pair", rate=-1)
    Traceback (most recent call last):
    ValueError: rate must be positive, got -1
    >>> train("pair", rat=1)
    Traceback (most recent call last):
    pyrovae.errors.UsageError: train has no argument 'rat'; did you mean 'rate'?
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_unknown(function.__name__, kwargs, signature.parameters)
        given = signature.bind(*args, **kwargs)
        for name, option in options(function).items():
            if name in given.arguments:
                given.arguments[name] = option.check(name, given.arguments[name])
        return function(*given.args, **given.kwargs)

    return call


def _refuse_unknown(
    name: str, given: Mapping[str, object], known: Mapping[str, inspect.Parameter]
) -> None:
    """Refuse an argument that a function has not, with the one that it seems to mean."""
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for word in given:
        if word not in known:
            hint = meant(word, known) or f": it has {', '.join(known)}"
            raise UsageError(f"{name} has no argument {word!r}{hint}")
