"""One step of stochastic variational inference: Pyro's handlers, or the graph they leave behind."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae.tensors import UsageError
from pyrovae.traces import Args, Pair

__all__ = ["Step"]

SHAPES = 4  # graphs kept, one per shape of batch
RETRACES = 3
MODES = ("auto", True, False)

Graph = Callable[..., list[Tensor]]


class Step:
    """Loss and gradients of a batch, by ``pyro.infer``.

    The handlers of a pair do the same at every step; run once under ``make_fx`` they leave a
    graph of tensor operations that gives the same loss and the same gradients without them. A
    graph is used once it has been held against the handlers on the same noise, and held against
    them again at steps 1, 2, 4, 8, ... and whenever :meth:`verify` asks for it: programs that
    change are traced anew, and those that keep changing, that look at their values, or whose
    buffers move (BatchNorm) are left to the handlers.

    Args:
        pair: the pair.
        loss: any ``pyro.infer`` ELBO.
        parameters: the leaves to differentiate by, by name.
        compile: ``"auto"`` uses graphs where they hold, True warns where they do not, False
            never does.
    """

    def __init__(
        self,
        pair: Pair,
        loss: ELBO,
        parameters: Mapping[str, Tensor],
        compile: bool | str = "auto",  # noqa: A002
    ) -> None:
        if compile not in MODES:
            raise UsageError(f"compile is 'auto', True or False, got {compile!r}")
        self.pair, self.loss, self.parameters = pair, loss, dict(parameters)
        self.differentiable = hasattr(loss, "differentiable_loss")
        self.warns = compile is True
        self.why_not = "" if compile else "it was not asked for"
        self.graphs: dict[Any, Graph] = {}
        self.retraces = 0
        self.count, self.due = 0, 1
        if not self.differentiable:
            self.refuse(f"{type(loss).__name__} has no differentiable_loss")

    def refuse(self, reason: str) -> None:
        """Go on without graphs."""
        if not self.why_not and self.warns:
            warnings.warn(f"the step is not compiled: {reason}", stacklevel=5)
        self.why_not = self.why_not or reason
        self.graphs.clear()

    def verify(self) -> None:
        """Hold the graph against the handlers at the next step."""
        self.due = self.count + 1

    def __call__(self, batch: Args, *, validating: bool = False) -> float:
        """Write the parameters' gradients, return the loss.

        Args:
            batch: as the programs take it.
            validating: whether Pyro checks every distribution, which takes the handlers.
        """
        if validating or self.why_not:
            return self.by_handlers(batch, validating)
        self.count += 1
        key = tuple((a.shape, a.dtype, a.device) for a in batch if isinstance(a, Tensor))
        graph = self.graphs.get(key)
        if graph is None:
            if len(self.graphs) >= SHAPES:
                return self.by_handlers(batch)
            return self._trace(key, batch)
        if self.count < self.due:
            return self._write(graph(*batch))
        self.due = 2 * self.count
        return self._compare(graph, batch)

    def by_handlers(self, batch: Args, validating: bool = False) -> float:
        """The step as Pyro takes it."""
        for parameter in self.parameters.values():
            parameter.grad = None
        with pyro.validation_enabled(validating):
            if self.differentiable:
                loss = self.loss.differentiable_loss(self.pair.model, self.pair.guide, *batch)
                loss.backward()
                return float(loss.detach())
            value = self.loss.loss_and_grads(self._registered, self.pair.guide, *batch)
            return float(value[0] if isinstance(value, tuple) else value)

    def _registered(self, *args: Any) -> Any:
        """Losses that call backward themselves do so only when a trace holds a parameter."""
        for name, parameter in self.parameters.items():
            pyro.param(f"_pyrovae.{name}", parameter)
        return self.pair.model(*args)

    def _write(self, out: list[Tensor]) -> float:
        loss, *grads = out
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        return float(loss)

    def _trace(self, key: Any, batch: Args) -> float:
        buffers = [b for m in self.pair.modules().values() for b in m.buffers()]
        before = [b.clone() for b in buffers]
        states = _random_states()
        value = self.by_handlers(batch)
        grads = self._grads()
        if any(not torch.equal(a, b) for a, b in zip(before, buffers, strict=True)):
            self.refuse("a buffer changes at every step")
            return value
        after = _random_states()
        try:
            with _silent_elbos(), pyro.validation_enabled(False):
                graph = make_fx(self._loss_and_grads)(*batch)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            _set_random_states(states)
            with torch.no_grad():
                out = graph(*batch)
        except Exception as error:
            self.refuse(" ".join(str(error).split())[:200] or type(error).__name__)
        else:
            if not _close(value, grads, out):
                self.refuse("the graph does not give what the handlers give on the same noise")
            else:
                self.graphs[key] = torch.no_grad()(graph)
                self.verify()
        _set_random_states(after)
        return value

    def _compare(self, graph: Graph, batch: Args) -> float:
        """The step by handlers, and whether the graph still gives the same."""
        states = _random_states()
        out = graph(*batch)
        _set_random_states(states)
        value = self.by_handlers(batch)
        if not _close(value, self._grads(), out):
            self.graphs.clear()
            self.retraces += 1
            if self.retraces > RETRACES:
                self.refuse("the programs change while they train")
        return value

    def _grads(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]

    def _loss_and_grads(self, *batch: Any) -> list[Tensor]:
        loss = self.loss.differentiable_loss(self.pair.model, self.pair.guide, *batch)
        leaves = list(self.parameters.values())
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        unused = zip(grads, leaves, strict=True)
        return [loss.detach(), *(torch.zeros_like(p) if g is None else g for g, p in unused)]


def _close(value: float, grads: list[Tensor], out: list[Tensor]) -> bool:
    """Whether a graph's loss and gradients are the handlers', up to the order of sums."""
    loss, *theirs = out
    if abs(float(loss) - value) > 1e-4 * (1 + abs(value)):
        return False
    return all(
        bool((a - b).abs().max() <= 1e-4 * (1e-6 + b.abs().max()))
        for a, b in zip(theirs, grads, strict=True)
        if a.numel()
    )


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return states


def _set_random_states(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


@contextlib.contextmanager
def _silent_elbos() -> Iterator[None]:
    """Pyro's ELBOs without their looks at values, which a trace cannot follow."""
    names = {"torch_item": lambda value: value, "warn_if_nan": lambda *args, **options: None}
    modules = [
        importlib.import_module(f"pyro.infer.{name}")
        for name in ("trace_elbo", "trace_mean_field_elbo")
    ]
    kept = [(m, n, getattr(m, n)) for m in modules for n in names if hasattr(m, n)]
    try:
        for module, name, _ in kept:
            setattr(module, name, names[name])
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
