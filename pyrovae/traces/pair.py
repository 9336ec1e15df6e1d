"""The two programs of a pair, and what belongs to them: parameters, buffers, one datum's shapes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from pyrovae import markup
from pyrovae.errors import UsageError, got
from pyrovae.markup import Shown
from pyrovae.schema import Schema, is_frame
from pyrovae.signatures import Latent, Observed, Typed
from pyrovae.streams import Data, as_data
from pyrovae.tables import table
from pyrovae.traces.reach import MEMORY, Reach
from pyrovae.turns import turn

Program: TypeAlias = Callable[..., Any]
Args: TypeAlias = tuple[Any, ...]
FEW = 16  # data kept as examples


@dataclass
class _Memory:
    """What a pair keeps between calls.

    Attributes:
        store: its parameters, as Pyro's store keeps them.
        pending: saved values whose parameter is not there yet.
        initial: what measuring declared and nothing has changed, with the version of its tensor.
        example: a few data, for their shapes.
        seen: what observed runs showed, by the shapes and types of the data.
        entered: modules that were called while the programs ran.
        reach: names of what the programs hold.
        refused: parameters that stand in Pyro's own store too, with another value.
        outer: Pyro's own parameters while this pair's are in their place; None while they are not.
        here: whether Pyro's own store is this pair's.
        trained: whether its parameters are its own affair: trained, or loaded.
        schema: what the columns of its data are, where they are tables.
    """

    store: dict[str, Any] = field(default_factory=lambda: {"params": {}, "constraints": {}})
    pending: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    example: Args | None = None
    seen: dict[Any, Any] = field(default_factory=dict)
    entered: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)
    reach: Reach | None = None
    refused: set[str] = field(default_factory=set)
    outer: Mapping[str, Tensor] | None = None
    here: bool = False
    trained: bool = False
    schema: Schema | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the pair is seen anew."""
        kept = ("store", "pending", "initial", "example", "trained", "here", "schema")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**vars(_Memory()), **state})


class _Declarations(Messenger):
    """What happens when a program first declares a ``pyro.param`` in a pair's own store."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair, self.memory = pair, pair.memory
        self.known: set[str] = set()
        self.conflicts: list[str] = []

    def refuse(self) -> None:
        """Raise where a value would be the initial one, and Pyro's own store has another."""
        if self.conflicts:
            raise UsageError(
                f"the parameter {self.conflicts[0]!r} stands in Pyro's own store, where an SVI may "
                f"have trained it, and not yet in this pair's: its value here would be the initial "
                f"one. pv.Pair.here(model, guide) takes Pyro's store as it is; for a pair that "
                f"begins anew call pyro.clear_param_store() first"
            )

    def _pyro_param(self, msg: Message) -> None:
        given = msg["args"][1] if len(msg["args"]) > 1 else None
        if isinstance(given, nn.Parameter):  # of a module (pyro.module), which keeps it
            self.known.add(msg["name"])
            msg["value"], msg["done"] = given, True
        elif msg["name"] in pyro.get_param_store() and msg["name"] not in self.memory.refused:
            self.known.add(msg["name"])

    def _pyro_post_param(self, msg: Message) -> None:
        name, memory = msg["name"], self.memory
        if name not in self.known and msg["value"] is not None:
            self.known.add(name)
            self._declared(name, msg)
        if memory.pending and name in pyro.get_param_store():
            self.pair._settle()  # of a module that this run has just made
            msg["value"] = pyro.get_param_store()[name]

    def _declared(self, name: str, msg: Message) -> None:
        own, memory = msg["value"].unconstrained(), self.memory
        saved, elsewhere = memory.pending.get(name), (memory.outer or {}).get(name)
        if saved is not None:
            try:
                _put(name, own, saved)
            except UsageError:
                del pyro.get_param_store()[name]  # asked again, it is refused again
                raise
            del memory.pending[name]
            msg["value"] = pyro.get_param_store()[name]
        elif not memory.trained:
            memory.initial[name] = own, own._version
            if elsewhere is not None and not torch.equal(own, elsewhere):
                memory.refused.add(name)
                self.conflicts.append(name)
            else:
                memory.refused.discard(name)


def _put(name: str, own: Tensor, saved: Tensor) -> None:
    """Give a parameter its saved value."""
    if isinstance(own, UninitializedTensorMixin):
        own.materialize(saved.shape)
    if own.shape != saved.shape:
        raise UsageError(
            f"the saved {name!r} has shape {list(saved.shape)}, this pair's has "
            f"{list(own.shape)}; build the pair as it was when it was saved"
        )
    with torch.no_grad():
        own.copy_(saved)


class Pair(Shown, Typed[Observed, Latent]):
    """A model and a guide: two plain Pyro functions, with parameters of their own.

    Whatever the two declare with ``pyro.param`` lives in this pair's own parameter store, so
    that two pairs never share a parameter by accident; modules used inside them keep theirs.

    A type checker is told by ``Pair[Tensor, dict[str, Tensor]](model, guide)`` that the model
    observes one site and that there are several latents; of a plain ``Pair`` it knows neither.

    Args:
        model: ``model(*batch)``, observing the batch in a plate over its first axis.
        guide: ``guide(*batch)``, sampling the same latent sites.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     shift = pyro.param("shift", torch.tensor(0.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("z", dist.Normal(x / 2 + shift, 0.5**0.5))
    >>> Pair(model, guide).params  # declared when the programs first run
    {}
    """

    def __init__(self, model: Program, guide: Program) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise UsageError(f"{name} must be a function of the batch, got {program!r}")
        self.model, self.guide = model, guide
        self.code: tuple[object, ...] = (_code(model), _code(guide))
        self.owner: object = self
        self.memory = _Memory()

    def in_notebook(self) -> list[str]:
        """The two programs, and every parameter and buffer by name."""
        held = [(name, str(tuple(value.shape))) for name, value in self.tensors().items()]
        programs = [(n, _called(p)) for n, p in (("model", self.model), ("guide", self.guide))]
        return [markup.table(["program", ""], programs), markup.table(["tensor", "shape"], held)]

    def __getstate__(self) -> dict[str, Any]:
        """What tells the programs apart is of this process."""
        return {name: value for name, value in vars(self).items() if name != "code"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, code=(_code(state["model"]), _code(state["guide"])))

    @classmethod
    def here(cls, model: Program, guide: Program) -> Self:
        """Two programs whose parameters are those in Pyro's own store, as they are at the moment.

        For programs that ``pyro.infer.SVI`` or :class:`pyrovae.SVI` has trained: a plain ``Pair``
        has a store of its own, and would not see what was learned.

        >>> import pyro.distributions as dist
        >>> def model(x):
        ...     mu = pyro.param("mu", torch.tensor(0.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        >>> pyro.clear_param_store()
        >>> svi = pyro.infer.SVI(model, lambda x: None, pyro.optim.Adam({"lr": 0.1}),
        ...                      pyro.infer.Trace_ELBO())
        >>> _ = svi.step(torch.ones(5))
        >>> round(Pair.here(model, lambda x: None).params["mu"].item(), 3)
        0.1
        """
        pair = cls(model, guide)
        pair.memory.here = True
        return pair

    def running(self, model: Program, guide: Program, kind: str) -> Pair:
        """The same pair, its parameters and memory, with other programs in their place; of one
        kind, the same are made of the same."""
        other = Pair(model, guide)
        other.owner, other.memory, other.code = self.owner, self.memory, (*self.code, kind)
        return other

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Pyro as this pair sees it: a parameter store of its own, in this thread's turn."""
        with turn(), self._scope():
            yield

    @contextmanager
    def _scope(self) -> Iterator[None]:
        memory, store = self.memory, pyro.get_param_store()
        if memory.here or memory.outer is not None:
            yield
            if memory.pending:
                self._settle()
            return
        outer = store.get_state()
        memory.outer = outer["params"]
        declared = _Declarations(self)
        try:
            store.clear()
            store.set_state(memory.store)  # type: ignore[arg-type]
            with declared:
                yield
        finally:
            memory.store = store.get_state()  # type: ignore[assignment]
            store.clear()
            store.set_state(outer)
            memory.outer = None
            if memory.pending:
                self._settle()
        declared.refuse()

    def _settle(self) -> None:
        """Give modules that have been made meanwhile their saved values."""
        for name, own in self.tensors(pending=False).items():
            saved = self.memory.pending.pop(name, None)
            if saved is not None:
                _put(name, own, saved)

    def begin(self) -> None:
        """Its parameters are its own from now on; what measuring alone declared is forgotten, so
        that training does not depend on what was measured before."""
        memory = self.memory
        for name, (tensor, version) in memory.initial.items():
            if memory.store["params"].get(name) is tensor and tensor._version == version:
                for part in memory.store.values():
                    part.pop(name, None)
        memory.initial.clear()
        memory.trained = True

    @property
    def schema(self) -> Schema | None:
        """What the columns of the tables are that the pair models; None of other data."""
        own = None if isinstance(self.owner, Pair) else getattr(self.owner, "schema", None)
        return own or self.memory.schema

    def table(self, x: object) -> object:
        """A DataFrame as data of the pair's columns; anything else as it is."""
        return table(x, schema=self.schema) if self.schema and is_frame(x) else x

    def keep(self, schema: Schema | None) -> None:
        """Keep what the columns of the data to train on are.

        Raises:
            UsageError: they are others than those that are known.
        """
        known = self.schema
        if known is not None and schema is not None and known.names != schema.names:
            raise UsageError(
                f"the pair models the columns {', '.join(known.names)}, and the table has "
                f"{', '.join(schema.names)}: give the same, or build a new pair"
            )
        if known is None and schema is not None:
            self.memory.schema = schema

    def measure_units(self, data: Data) -> None:
        """Let the owner learn the units of the data to train on, where it has such, and keep what
        their columns are."""
        self.keep(data.schema)
        if not isinstance(self.owner, Pair) and hasattr(self.owner, "measure_units"):
            self.owner.measure_units(data)

    @property
    def params(self) -> dict[str, Tensor]:
        """What the two functions declared with ``pyro.param`` (unconstrained leaves), by name."""
        live = self.memory.here or self.memory.outer is not None
        return dict((pyro.get_param_store().get_state() if live else self.memory.store)["params"])

    def reach(self, *, anew: bool = True) -> Reach:
        """Names of what the programs hold; ``anew`` looks again, as after a run."""
        if anew or self.memory.reach is None:
            programs = (
                getattr(self.owner, "model", self.model),
                getattr(self.owner, "guide", self.guide),
            )
            roots: dict[str, object] = {"model": programs[0], "guide": programs[1]}
            if isinstance(self.owner, nn.Module):
                roots = {"": self.owner, **roots}
            self.memory.reach = Reach(roots)
        return self.memory.reach

    def modules(self) -> list[nn.Module]:
        """Every module that the programs hold or were seen to call."""
        tops = [*self.reach(anew=False).modules.values(), *self.memory.entered]
        return list({id(m): m for top in tops for m in top.modules()}.values())

    def tensors(self, *, pending: bool = True) -> dict[str, Tensor]:
        """Every parameter and persistent buffer, by name: what a checkpoint holds."""
        reach, tensors = self.reach(), dict[str, Tensor]()
        for prefix, module in reach.modules.items():
            for name, value in module.state_dict(keep_vars=True).items():
                tensors[f"{prefix}.{name}" if prefix else name] = value
        _update(tensors, reach.leaves)
        if pending:
            tensors.update(self.memory.pending)
        _update(tensors, self.params)
        return tensors

    def nameless(self) -> list[str]:
        """Modules with a state that the programs call and no name leads to, in words."""
        named = {id(t) for t in self.tensors().values()}
        return [
            type(module).__name__
            for module in self.memory.entered
            if any(id(t) not in named for t in module.state_dict(keep_vars=True).values())
        ]

    def example(self, like: Args | None = None) -> Args:
        """A few data of the shapes that the programs take, ``[n, ...]`` each: the first of
        ``like``, else those seen before, else what the owner's ``example_data()`` gives.

        Raises:
            UsageError: none of them is known.
        """
        if like is not None:
            if not all(isinstance(a, Tensor) for a in like):
                return like  # what cannot be taken apart is not kept
            self.memory.example = tuple(a[:FEW].detach().cpu() for a in like)
        if self.memory.example is None and hasattr(self.owner, "example_data"):
            self.memory.example = self.owner.example_data()
        if self.memory.example is None:
            raise UsageError(
                "the shapes of this pair's data are not known yet; train it, or pass one or more "
                "data as like="
            )
        return tuple(a.to(self.device) for a in self.memory.example)

    def _floats(self) -> Iterator[Tensor]:
        reach = self.reach(anew=False)
        for module in reach.modules.values():
            yield from module.parameters()
            yield from module.buffers()
        yield from reach.leaves.values()
        yield from self.params.values()

    @property
    def device(self) -> torch.device:
        """Where the pair's tensors are."""
        return next((t.device for t in self._floats()), torch.device("cpu"))

    def serve(self, x: object) -> Data:
        """``x`` as data on this pair's device, in its floating dtype."""
        floats = next((t.dtype for t in self._floats() if t.is_floating_point()), None)
        given = x.dtype if isinstance(x, Tensor) and x.is_floating_point() else None
        return as_data(self.table(x), self.device, floats or given, scale=self.scale)

    @property
    def scale(self) -> float | None:
        """What uint8 data are divided by: 1 where the likelihood takes whole numbers, None where
        their values are to tell."""
        return 1 if getattr(getattr(self.owner, "likelihood", None), "whole", False) else None

    def some(self, x: object, n: int | None = None) -> Args:
        """At most ``n`` of the data ``x``, as the programs take them."""
        data = self.serve(x)
        n = len(data) if n is None else min(n, len(data))
        return data.first(n)[:]

    def fill(self, tensors: Mapping[str, Tensor], source: str = "") -> None:
        """Put saved values in; those of ``pyro.param`` and of modules that are yet to be made,
        once they are there.

        Raises:
            UsageError: names or shapes that do not fit this pair.
        """
        own = self.tensors()
        missing, wrong = _missing(own, tensors), _misshapen(own, tensors)
        left = {name: value for name, value in tensors.items() if name not in own}
        foreign = list(left) if self._is_whole() else []
        if missing or wrong or foreign:
            raise UsageError(
                f"{f'{source} does' if source else 'these tensors do'} not fit the pair: missing "
                f"{_list(missing)}, wrong shape {_list(wrong)}, unknown {_list(foreign)}; build "
                f"the pair as it was when it was saved"
            )
        for name, value in own.items():
            if name in tensors:
                _put(name, value, tensors[name])
        self.memory.pending.update(left)
        self.memory.trained = True

    def _is_whole(self) -> bool:
        """Whether all that it will ever hold is there before its programs run."""
        return hasattr(self.owner, "example_data") and isinstance(self.owner, nn.Module)

    def to(self, device: torch.device | str) -> Pair:
        """Move modules and parameters."""
        for module in self.modules():
            module.to(device)
        for value in (*self.reach(anew=False).leaves.values(), *self.params.values()):
            value.data = value.data.to(device)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, no gradient; modes and every random state are put back after.

        Whatever module the programs call is switched as it is entered, however they reach it.
        """
        with turn(), self._evaluating():
            yield

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training: list[nn.Module] = []
        thread = threading.get_ident()

        def switch(module: nn.Module, inputs: object = None) -> None:
            if threading.get_ident() != thread:  # a module that another thread trains
                return
            if inputs is not None:
                self.memory.entered.add(module)
            if module.training:
                training.append(module)
                module.training = False

        for module in self.modules():
            switch(module)
        handle = register_module_forward_pre_hook(switch)
        try:
            with torch.random.fork_rng(_devices()), torch.no_grad(), self.scope():
                yield
        finally:
            handle.remove()
            for module in training:
                module.training = True


def as_pair(pair: object) -> Pair:
    """``pair`` as a :class:`Pair`: anything with ``.model`` and ``.guide``, or a tuple of two."""
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, tuple) and len(pair) == 2:
        found = Pair(*pair)
        found.memory = _remembered(*pair, found.memory)
        return found
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if isinstance(pair, type) or not (callable(model) and callable(guide)):
        raise UsageError(
            f"expected a pair: pv.Pair(model, guide), a pv.VAE, or an object whose .model and "
            f".guide are Pyro programs; got {got(pair)}"
        )
    wrapped = Pair(model, guide)
    wrapped.owner = pair
    # the memory stays with the object that the user holds, as long as that lives
    try:
        wrapped.memory = vars(pair).setdefault(MEMORY, wrapped.memory)
    except TypeError:  # an object without a __dict__
        wrapped.memory = _remembered(model, guide, wrapped.memory)
    return wrapped


def _called(program: object) -> str:
    """What a program is called, without looking at what it holds."""
    name = getattr(program, "__qualname__", type(program).__qualname__)
    return f"{getattr(program, '__module__', '')}.{name}"


def _code(program: object) -> Any:
    """What tells a program apart: its code, or the object that it is."""
    code = getattr(getattr(program, "__func__", program), "__code__", None)
    return _Itself(program) if code is None else code


@dataclass(frozen=True, eq=False)
class _Itself:
    """An object as a key: it may say that it equals others, or that it cannot be one."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _remembered(model: Program, guide: Program, new: _Memory) -> _Memory:
    """The memory of two programs that nothing else holds together: it is kept beside the model."""
    anchor = getattr(model, "__self__", model)
    try:
        known = vars(anchor).setdefault(MEMORY + "_with", [])
    except TypeError:  # an object without a __dict__
        return new
    for their_model, their_guide, memory in known:
        if (their_model, their_guide) == (model, guide):
            return memory
    known.append((model, guide, new))
    return new


def _update(tensors: dict[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Add those that have no name yet."""
    known = {id(value) for value in tensors.values()}
    tensors.update((n, v) for n, v in found.items() if id(v) not in known)


def _missing(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors for which no value was saved, under any of their names."""
    known = {id(value) for name, value in own.items() if name in saved}
    return [n for n, t in own.items() if n not in saved and id(t) not in known]


def _misshapen(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    """Tensors whose saved values have another shape, in words; a lazy one takes any."""
    both = [(n, t, saved[n]) for n, t in own.items() if n in saved]
    return [
        f"{name} {tuple(value.shape)} for {tuple(tensor.shape)}"
        for name, tensor, value in both
        if not isinstance(tensor, UninitializedTensorMixin) and value.shape != tensor.shape
    ]


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(names) + "]"
