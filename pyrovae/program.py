"""What a declared pair is: two Pyro programs, and what they need to be trained and shown."""

from __future__ import annotations

import functools
import inspect
import itertools
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self, TypedDict, cast

import pyro
import torch
from torch import Tensor, nn

from pyrovae import markup
from pyrovae.components import Component
from pyrovae.errors import UsageError, in_short
from pyrovae.guides import Guide, MeanField
from pyrovae.likelihoods import Bernoulli, Likelihood, suited
from pyrovae.markup import Shown
from pyrovae.priors import Flow, Prior, StandardNormal
from pyrovae.schema import Schema, is_frame
from pyrovae.signatures import Latent, Observed, Typed
from pyrovae.streams import as_data
from pyrovae.summaries import Summary
from pyrovae.tables import table
from pyrovae.tensors import Data, TensorData

__all__ = ["Parts", "Program"]


LATENTS = 20  # at most, of a table
LOOKED, LEARNED = 2**22, 2**23  # entries that a likelihood is chosen by, and units learned from
ROWS = 2**16  # data that units are learned from

_NAMES: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_NUMBERS: dict[str, itertools.count[int]] = {}


def _registered(owner: nn.Module) -> None:
    """Tell Pyro of an object's parameters, as ``pyro.module`` does, under a name that no other
    object has: a second one would otherwise be given the first one's values in silence."""
    if owner not in _NAMES:
        kind = type(owner).__name__
        number = next(_NUMBERS.setdefault(kind, itertools.count()))
        _NAMES[owner] = f"{kind}_{number}" if number else kind
    for name, parameter in owner.named_parameters():
        if parameter.requires_grad:
            pyro.param(f"{_NAMES[owner]}$$${name}", parameter)


def _some(data: Data, entries: int) -> TensorData:
    """So many data that they have about as many entries; all of a table."""
    rows = len(data) if data.schema is not None else ROWS
    return data.sample(max(1000, min(rows, entries // max(1, data.event_shape.numel()))))


class Parts(TypedDict):
    """What a model and a guide are made of."""

    prior: Prior
    likelihood: Likelihood
    guide: Guide


class BoundProgram(nn.Module):
    """One of the two programs of an object: a function of the batch that shows Pyro the object's
    parameters, and a module that has them, as ``Trace_ELBO()(vae.model, vae.guide)`` asks."""

    __self__: nn.Module
    __func__: Callable[..., object]

    def __init__(self, owner: nn.Module, method: _Method) -> None:
        super().__init__()
        # the very dictionaries of the owner, so that names, moves and new parts are the same
        for held in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            vars(self)[held] = vars(owner)[held]
        functools.update_wrapper(self, method.function)
        vars(self).update(__self__=owner, __func__=method.function, __signature__=method.signature)

    def forward(self, *batch: object, **named: object) -> object:
        """Run the program."""
        _registered(self.__self__)
        return self.__func__(self.__self__, *batch, **named)

    def __eq__(self, other: object) -> bool:
        mine = vars(self)
        return isinstance(other, BoundProgram) and all(
            mine[key] is vars(other)[key] for key in ("__self__", "__func__")
        )

    def __hash__(self) -> int:
        return hash((id(vars(self)["__self__"]), vars(self)["__func__"]))


class _Method:
    """A method that is handed out as a :class:`BoundProgram`."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        signature = inspect.signature(function)
        self.signature = signature.replace(parameters=[*signature.parameters.values()][1:])

    def __get__(self, owner: nn.Module | None, kind: type) -> Callable[..., object]:
        return self.function if owner is None else BoundProgram(owner, self)


class Program(nn.Module, Component, Shown, Typed[Observed, Latent], ABC):
    """A pair whose constructor's signature is its configuration.

    Two abstract methods, :meth:`model` and :meth:`guide`: plain Pyro. The others tell the command
    line what is particular to the pair: which data it takes, what precedes training, what it is
    scored by and the figure that shows what it is for.

    A type checker is told what the verbs give by the class that it derives from:
    ``Program[Tensor, Tensor]`` observes one site and has one latent, of several that is
    ``dict[str, Tensor]``.
    """

    named = "classes"  # what the names are that figure takes: or "columns"
    schema: Schema | None = None  # of the tables that it was made for

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        for name in ("model", "guide"):
            function = vars(cls).get(name)
            if inspect.isfunction(function):
                setattr(cls, name, _Method(function))

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = tuple(int(size) for size in event_shape)
        if not self.event_shape or min(self.event_shape) < 1:
            raise UsageError(
                f"event_shape is the shape of one datum, e.g. (1, 28, 28); got {event_shape}"
            )

    @abstractmethod
    def model(self, *batch: Any) -> object:
        """p(x, z): samples the latents, observes the batch."""

    @abstractmethod
    def guide(self, *batch: Any) -> object:
        """q(z|x): samples the latents."""

    @classmethod
    def usual(cls) -> Parts:
        """The parts where none are given, new ones."""
        return {"prior": StandardNormal(), "likelihood": Bernoulli(), "guide": MeanField()}

    @classmethod
    def decided_by(cls, data: TensorData, classes: int | None) -> dict[str, Any]:
        """The constructor's arguments that data and the number of their classes decide."""
        known = {"event_shape": tuple(data.event_shape), "classes": classes}
        names = inspect.signature(cls).parameters
        if data.binarise is None:
            known |= cls.suited(_some(data, LOOKED).summary(), data.schema)
        return {n: v for n, v in known.items() if n in names and v is not None}

    @classmethod
    def suited(cls, seen: Summary, schema: Schema | None) -> dict[str, Any]:
        """Parts for data of such values and columns, where the usual ones are not for them: a
        likelihood that holds them; of tables, whose columns are skewed and in groups (those of
        a vector with names are not), a prior that follows the codes, and about half as many
        latents as columns."""
        likelihood = cls.usual()["likelihood"]
        if schema is not None and not schema.vector:
            found: dict[str, Any] = {"likelihood": suited(seen, schema)}
            if isinstance(cls.usual()["prior"], StandardNormal):
                found["prior"] = Flow()
            return found | {"latent_dim": min(LATENTS, 1 + len(schema.columns) // 2)}
        holds = not isinstance(likelihood, Bernoulli) or seen.binary or seen.missing == seen.entries
        return {} if holds else {"likelihood": suited(seen, schema)}

    @classmethod
    def of(cls, x: object, **given: Any) -> Self:
        """The program for data: its shapes, and parts that suit them where none are given.

        Args:
            x: data to train on, as :func:`pyrovae.fit` takes them, or a DataFrame, which is read
                by :func:`pyrovae.tables.table`.
            given: the constructor's arguments, in the place of what data decide.

        >>> from pyrovae.vae import VAE
        >>> VAE.of(torch.tensor([[0.5, -1.0], [2.0, 7.0]])).likelihood.arguments()["scale"]
        'shared'
        """
        data = _some(table(x) if is_frame(x) else as_data(x), LEARNED)
        classes = None if data.labels is None else int(data.labels.max()) + 1
        made = cls(**(cls.decided_by(data, classes) | given))
        made.schema = data.schema
        return made

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """The data as the programs take them, to train on or to measure."""
        return data

    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """What precedes training, on data as :meth:`serve` gives them."""
        self.measure_units(data)

    def features(self, x: Tensor) -> Tensor:
        """x as a network sees it: see :meth:`pyrovae.likelihoods.Likelihood.features`."""
        return cast(Likelihood, self.likelihood).features(x)

    def marks(self, entries: Tensor) -> Tensor:
        """For every feature the mark of its entry of x."""
        return cast(Likelihood, self.likelihood).marks(entries)

    def measure_units(self, data: Data) -> None:
        """Learn the units of x from the data to train on, at the first call: see
        :class:`~pyrovae.likelihoods.Likelihood`."""
        likelihood, prior = (getattr(self, name, None) for name in ("likelihood", "prior"))
        ours = tuple(data.event_shape) == self.event_shape  # the programs refuse others
        if ours and isinstance(likelihood, Likelihood) and not likelihood.measured:
            x = _some(data, LEARNED).x
            likelihood.measure(x.reshape(-1, *likelihood.event_shape))
            if isinstance(prior, Prior):
                prior.meet(likelihood.features(x))

    def scores(self, data: TensorData) -> dict[str, float]:
        """Numbers besides those of every pair, on data as :meth:`serve` gives them to measure."""
        return {}

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> object:
        """The picture of what the program is for, as Axes; None where there is none.

        Args:
            data: test data as :meth:`serve` gives them.
            names: of the classes, or of x's columns where :attr:`named` is "columns".
        """
        return None

    def example_data(self) -> tuple[Tensor, ...]:
        """Data of the shapes that the programs take."""
        return (torch.zeros(1, *self.event_shape),)

    def arguments(self) -> dict[str, object]:
        """The constructor's arguments, by name; the part called guide is kept as ``posterior``,
        apart from the program of that name."""
        names = inspect.signature(type(self)).parameters
        return {n: getattr(self, "posterior" if n == "guide" else n) for n in names}

    def in_notebook(self) -> list[str]:
        """The constructor's arguments, and how many weights there are."""
        size = sum(p.numel() for p in self.parameters())
        given = [(name, in_short(value, 200)) for name, value in self._said().items()]
        words = f"{type(self).__name__}, {size:,} parameters"
        return [markup.note(words, strong=True), markup.table(["", ""], given)]

    def _said(self) -> dict[str, object]:
        """The arguments, a part by its class and by what it is not usually."""
        return {
            name: f"{type(value).__name__}{value.arguments() or ''}"
            if isinstance(value, Component)
            else value
            for name, value in self.arguments().items()
        }

    def _in_memory(self, data: Data) -> None:
        """Refuse data that are streamed or sparse."""
        if not isinstance(data, TensorData):
            raise UsageError(
                f"{type(self).__name__} needs its data dense and in memory, to hide or to repeat "
                f"some of them: give fewer, --stream false, or x.toarray() of a sparse matrix"
            )

    def _fits(self, x: Tensor) -> None:
        """Refuse a batch of another shape."""
        batched = x.dim() > len(self.event_shape)  # one vector alone is not as many numbers
        if not batched or x.shape[-len(self.event_shape) :] != self.event_shape:
            raise UsageError(
                f"this {type(self).__name__} models data of shape {list(self.event_shape)}, a "
                f"batch is [batch, *shape]; got a batch of shape {tuple(x.shape)}: reshape the "
                f"data, or build a {type(self).__name__} with their event_shape"
            )
