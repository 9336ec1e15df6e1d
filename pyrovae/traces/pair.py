"""The two programs of a pair, and what belongs to them: parameters, buffers, one datum's shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.errors import UsageError, got
from pyrovae.streams import Data, as_data

Program = Callable[..., Any]
Args = tuple[Any, ...]
FEW = 16  # data kept as examples


class _Restores(Messenger):
    """Gives a ``pyro.param`` its saved value when its program first declares it."""

    def __init__(self, pending: dict[str, Tensor]) -> None:
        super().__init__()
        self.pending = pending

    def _pyro_post_param(self, msg: Any) -> None:
        saved = self.pending.get(msg["name"])
        if saved is None:
            return
        own = msg["value"].unconstrained()
        if own.shape != saved.shape:
            raise UsageError(
                f"the saved {msg['name']!r} has shape {list(saved.shape)}, this pair's has "
                f"{list(own.shape)}; build the pair as it was when it was saved"
            )
        with torch.no_grad():
            own.copy_(saved)
        del self.pending[msg["name"]]
        msg["value"] = pyro.get_param_store()[msg["name"]]


@dataclass
class _Memory:
    """What a pair keeps between calls: its parameter store, and the shapes of one datum."""

    store: dict[str, Any] = field(default_factory=lambda: {"params": {}, "constraints": {}})
    pending: dict[str, Tensor] = field(default_factory=dict)
    example: tuple[Tensor, ...] | None = None
    active: bool = False


class Pair:
    """A model and a guide: two plain Pyro functions, with parameters of their own.

    Whatever the two declare with ``pyro.param`` lives in this pair's own parameter store, so
    that two pairs never share a parameter by accident; modules used inside them keep theirs.

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
        self.owner: Any = self
        self.memory = _Memory()

    @classmethod
    def here(cls, model: Program, guide: Program) -> Pair:
        """Two programs whose parameters are in Pyro's store as it is at the moment."""
        pair = cls(model, guide)
        pair.memory.active = True
        return pair

    def running(self, model: Program, guide: Program) -> Pair:
        """The same pair, its parameters and memory, with other programs in their place."""
        other = Pair(model, guide)
        other.owner, other.memory = self.owner, self.memory
        return other

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Pyro as this pair sees it: a parameter store of its own."""
        memory, store = self.memory, pyro.get_param_store()
        if memory.active:
            yield
            return
        outer = store.get_state()
        memory.active = True
        try:
            store.clear()
            store.set_state(memory.store)
            with _Restores(memory.pending):
                yield
        finally:
            memory.store = store.get_state()
            store.clear()
            store.set_state(outer)
            memory.active = False

    @property
    def params(self) -> dict[str, Tensor]:
        """What the two functions declared with ``pyro.param`` (unconstrained leaves), by name."""
        live = pyro.get_param_store().get_state() if self.memory.active else self.memory.store
        return dict(live["params"])

    def modules(self) -> dict[str, nn.Module]:
        """Every ``nn.Module`` that the programs reach: themselves, their ``self``, closures."""
        found: dict[str, nn.Module] = {}

        def add(name: str, value: Any, depth: int = 0) -> None:
            if isinstance(value, nn.Module):
                if not any(value is module for module in found.values()):
                    found[name] = value
            elif inspect.ismethod(value):
                add(name, value.__self__, depth)
                if not isinstance(value.__self__, nn.Module):
                    for key, part in getattr(value.__self__, "__dict__", {}).items():
                        if isinstance(part, nn.Module):
                            add(key, part, depth)
            elif inspect.isfunction(value) and depth < 4:
                variables = inspect.getclosurevars(value)
                for key, part in {**variables.globals, **variables.nonlocals}.items():
                    add(key, part, depth + 1)
            elif hasattr(value, "__wrapped__") and depth < 4:
                add(name, value.__wrapped__, depth + 1)
            elif isinstance(value, Messenger | poutine.messenger._bound_partial):
                add(name, getattr(value, "fn", getattr(value, "func", None)), depth + 1)

        if isinstance(self.owner, nn.Module):
            return {"": self.owner}
        add("model", self.model)
        add("guide", self.guide)
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and persistent buffer, by name: what a checkpoint holds."""
        tensors: dict[str, Tensor] = {}
        for prefix, module in self.modules().items():
            for name, value in module.state_dict(keep_vars=True).items():
                tensors[f"{prefix}.{name}" if prefix else name] = value
        tensors.update(self.memory.pending)
        known = {id(value) for value in tensors.values()}
        tensors.update((n, v) for n, v in self.params.items() if id(v) not in known)
        return tensors

    def example(self, like: Args | None = None) -> Args:
        """A few data of the shapes that the programs take, ``[n, ...]`` each: the first of
        ``like``, else those seen before, else what the owner's ``example_data()`` gives.

        Raises:
            UsageError: none of them is known.
        """
        if like is not None:
            self.memory.example = tuple(a[:FEW].detach().cpu() for a in like)
        if self.memory.example is None and hasattr(self.owner, "example_data"):
            self.memory.example = self.owner.example_data()
        if self.memory.example is None:
            raise UsageError(
                "the shapes of this pair's data are not known yet; train it, or pass one or more "
                "data as like="
            )
        return tuple(a.to(self.device) for a in self.memory.example)

    @property
    def device(self) -> torch.device:
        """Where the pair's tensors are."""
        return next((t.device for t in self.tensors().values()), torch.device("cpu"))

    def serve(self, x: Any) -> Data:
        """``x`` as data on this pair's device, in its floating dtype."""
        floats = [t for t in self.tensors().values() if t.is_floating_point()]
        given = x.dtype if isinstance(x, Tensor) and x.is_floating_point() else None
        data = as_data(x, self.device, floats[0].dtype if floats else given)
        if data.layout is not None:
            raise UsageError(
                "the batches are dicts or trees of tensors; give the programs' arguments as a "
                "tuple (x, y, ...)"
            )
        return data

    def some(self, x: Any, n: int | None = None) -> Args:
        """At most ``n`` of the data ``x``, as the programs take them."""
        data = self.serve(x)
        n = len(data) if n is None else min(n, len(data))
        return data.first(n)[:]

    def fill(self, tensors: Mapping[str, Tensor], source: str = "") -> None:
        """Put saved values in; those of ``pyro.param`` once their program declares them.

        Raises:
            UsageError: names or shapes that do not fit this pair.
        """
        own = self.tensors()
        missing = [name for name in own if name not in tensors]
        wrong = [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ]
        left = {name: value for name, value in tensors.items() if name not in own}
        foreign = [name for name in left if isinstance(self.owner, nn.Module)]
        if missing or wrong or foreign:
            raise UsageError(
                f"{source or 'these tensors'} do not fit the pair: missing {_list(missing)}, "
                f"wrong shape {_list(wrong)}, unknown {_list(foreign)}; build the pair as it was "
                f"when it was saved"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
        self.memory.pending.update(left)

    def to(self, device: torch.device | str) -> Pair:
        """Move modules and parameters."""
        for module in self.modules().values():
            module.to(device)
        for value in self.params.values():
            value.data = value.data.to(device)
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, no gradient; modes and every random state are put back after."""
        modes = [(m, m.training) for top in self.modules().values() for m in top.modules()]
        try:
            for module, _ in modes:
                module.training = False
            with torch.random.fork_rng(_devices()), torch.no_grad(), self.scope():
                yield
        finally:
            for module, mode in modes:
                module.training = mode


def as_pair(pair: Any) -> Pair:
    """``pair`` as a :class:`Pair`: anything with ``.model`` and ``.guide``, or a tuple of two."""
    if isinstance(pair, Pair):
        return pair
    if isinstance(pair, tuple) and len(pair) == 2:
        return Pair(*pair)
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if isinstance(pair, type) or not (callable(model) and callable(guide)):
        raise UsageError(
            f"expected a pair: pv.Pair(model, guide), a pv.VAE, or an object whose .model and "
            f".guide are Pyro programs; got {got(pair)}"
        )
    wrapped = Pair(model, guide)
    wrapped.owner = pair
    # the memory stays with the object that the user holds, as long as that lives
    wrapped.memory = vars(pair).setdefault("_pyrovae_memory", wrapped.memory)
    return wrapped


def _devices() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(names) + "]"
