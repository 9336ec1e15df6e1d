"""One step of stochastic variational inference: Pyro's handlers, or the graph they leave behind."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.fx import GraphModule
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pyrovae import kernels
from pyrovae.errors import UsageError, got, in_short
from pyrovae.optimisers import Joint, laid_out
from pyrovae.randomness import put_back, states
from pyrovae.traces import (
    PLAIN,
    Args,
    Backwards,
    Fingerprint,
    Looks,
    Pair,
    Place,
    Reads,
    Shown,
    is_number,
    leaves_of,
    may_be_input,
    naming,
    naming_in_store,
    showing,
    stored,
    wrapped,
)
from pyrovae.turns import turn

__all__ = ["SVI", "Snapshot", "Step"]

SHAPES = 8  # kinds of batches that graphs are kept for
STATES = 8  # graphs of one kind of batch that are kept, one per state of the programs
VAIN = 3  # graphs in a row that were hardly used,
WORTH = 30  # in fewer steps than this
MODES = ("auto", True, False)
PRECISIONS = ("float32", "bf16")

NOBODY = {"_nobody": torch.zeros(())}  # a parameter for losses that want to see one

log = logging.getLogger("pyrovae")


class Call:
    """The arguments of one call of the programs, taken apart.

    Attributes:
        tensors: those among them.
        others: what is no tensor.
        kind: shapes and types of the first, the others themselves, but for numbers.
    """

    def __init__(self, args: Args, kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs
        self.spec: TreeSpec | None = None
        self.tensors: list[Tensor] = list(args)
        self.others: list[Any] = []
        if kwargs or not all(isinstance(arg, Tensor) for arg in args):
            leaves, self.spec = tree_flatten((args, dict(kwargs)))
            self.is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
            self.tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            self.others = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        self.is_trained = any(tensor.requires_grad for tensor in self.tensors)
        self.kind = self._kind()

    def _kind(self) -> tuple[Any, ...]:
        kind: tuple[Any, ...] = (_process(), *map(_like, self.tensors))
        keys = list(map(id, self.tensors))
        if len(set(keys)) < len(keys):  # a program may ask whether one is the other
            kind += tuple(map(keys.index, keys))
        if self.spec is not None:
            kind += (self.spec, *self.is_tensor, *map(_kind, self.others))
        return kind

    def of(self, tensors: Sequence[Any], others: Sequence[Any]) -> tuple[Args, dict[str, Any]]:
        """Arguments of the same form that hold other leaves."""
        if self.spec is None:
            return tuple(tensors), {}
        first, second = iter(tensors), iter(others)
        leaves = [next(first) if tensor else next(second) for tensor in self.is_tensor]
        return tree_unflatten(leaves, self.spec)  # type: ignore[no-any-return]


def _like(tensor: Tensor) -> tuple[Any, ...]:
    """What a graph takes for granted of a tensor."""
    dense = tensor.layout is torch.strided
    layout = tensor.stride() if dense else tensor.layout
    return tensor.shape, layout, tensor.dtype, tensor.device, tensor.requires_grad


def _kind(leaf: object) -> object:
    if is_number(leaf):
        return type(leaf)
    return (type(leaf), leaf) if isinstance(leaf, PLAIN) else id(leaf)


def _process() -> tuple[Any, ...]:
    """What a graph takes for granted of torch."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        len(_global_forward_hooks) + len(_global_forward_pre_hooks),
    )


class Graph:
    """A step as tensor operations: what Pyro's handlers leave behind.

    Attributes:
        leaves: what the loss is differentiated by.
        idle: parameters that the programs name and the loss does not depend on.
        inputs: Python's numbers that are given to it at each call.
        uses: how often it was used.
        plain: whether it is made of the handlers' operations, and not of kernels.
    """

    def __init__(
        self,
        run: kernels.Run,
        leaves: list[Tensor],
        idle: list[Tensor],
        fingerprint: Fingerprint,
        numbers: list[Tensor],
        kept: object,
    ) -> None:
        self.run, self.leaves, self.idle = run, leaves, idle
        self.fingerprint, self.numbers, self.kept = fingerprint, numbers, kept
        self.inputs = fingerprint.inputs
        self.uses, self.plain = 0, True

    def holds(self) -> bool:
        """Whether all that it rests on is as it was when it was made."""
        return self.fingerprint.holds() and all(
            may_be_input(place.value, place.now()) for place in self.inputs
        )

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The loss, and its gradient by each leaf."""
        for place, number in zip(self.inputs, self.numbers, strict=True):
            number.copy_(torch.as_tensor(place.now()))
        return self.run(*tensors, *self.numbers)


class Step:
    """Loss and gradients of a batch, by ``pyro.infer``.

    The handlers of a pair do the same at every step; run once under ``make_fx`` they leave a
    graph of tensor operations that gives the same loss and the same gradients without them, and
    that ``torch.compile`` can turn into kernels. What the programs read in Python while they ran
    (attributes, closures, globals, modes, whether a parameter is trained) is compared before every
    step: a change makes another graph, and a number that changed is an input of it; graphs are
    kept, one per state. Programs that write Python state, or look at their values, are left to
    the handlers. A graph is used once it has been held against the handlers on the same noise, and
    held against them again at steps 1, 2, 4, 8, ... and whenever :meth:`verify` asks for it.

    What a step gives depends on the batch, the parameters, the random state and the programs'
    alone, not on when the graph was made or held against the handlers, nor on any clock: a run
    that is taken up again goes on as if it had not been interrupted.

    Args:
        pair: the pair.
        loss: any ``pyro.infer`` ELBO.
        parameters: the leaves to differentiate by, by name; None finds them in each run, as Pyro's
            SVI does, and leaves the first run on each kind of batch to Pyro and its validation.
        compile: ``"auto"`` uses graphs where they hold, and kernels where :attr:`steps` of them
            save more than making them takes; True makes kernels and warns where that is not
            possible; False leaves all to the handlers.
        precision: "float32", or "bf16" for matrix products in bfloat16.

    Attributes:
        leaves: those that the last step found gradients of.
        idle: parameters that it named and did not depend on.
        parts: what a loss of several parts gave.
    """

    def __init__(
        self,
        pair: Pair,
        loss: ELBO,
        parameters: Mapping[str, Tensor] | None = None,
        compile: bool | str = "auto",  # noqa: A002
        precision: str = "float32",
    ) -> None:
        _check_options(compile, precision)
        self.pair, self.loss = pair, loss
        self.parameters = None if parameters is None else dict(parameters)
        self.compile, self.precision = compile, precision
        self.leaves: list[Tensor] = list((self.parameters or {}).values())
        self.idle: list[Tensor] = []
        self.unnamed: list[Tensor] | None = None  # parameters that the programs never name
        self.anonymous = False  # whether they name none at all
        self.parts: tuple[Any, ...] | None = None
        self.differentiable = _is_differentiable(type(loss))
        self.why_not = "" if compile else "it was not asked for"
        self.why_no_kernels = ""
        self.graphs: dict[tuple[Any, ...], list[Graph]] = {}
        self.numbers: list[Any] = []  # among the arguments of the call at hand
        self.inputs: set[tuple[str, int, object]] = set()  # places that changed once
        self.fixed: set[tuple[str, int, object]] = set()  # those that cannot be inputs
        self.count, self.due = 0, 1
        self.steps = 0  # how many there will be, where that is known
        self.say: Callable[[str], object] = log.warning
        self.names: dict[int, str] = {}  # of leaves, where the programs name none
        self._looked = False
        self._told: set[str] = set()
        if not self.differentiable:
            self.refuse(f"{type(loss).__name__} has no differentiable_loss of its own")

    def refuse(self, reason: str) -> None:
        """Go on without graphs."""
        self.why_not = self.why_not or reason
        self.graphs.clear()

    def tell(self, message: str) -> None:
        """Say something once: a warning where kernels were asked for, else a line."""
        if message in self._told:
            return
        self._told.add(message)
        if self.compile is True:
            warnings.warn(message, stacklevel=5)
        else:
            self.say(message)

    def verify(self) -> None:
        """Hold the graph against the handlers at the next step."""
        self.due = self.count + 1

    def __call__(
        self, args: Args, kwargs: Mapping[str, Any] | None = None, *, validating: bool = False
    ) -> Tensor:
        """Write the parameters' gradients, return the loss, a tensor without dimensions.

        Args:
            args, kwargs: as the programs take them.
            validating: whether Pyro checks every distribution, which takes the handlers.
        """
        kwargs = kwargs or {}
        taken = None if validating or self.why_not else self._by_graph(args, kwargs)
        if self.why_not and self.compile:
            self.tell(f"the step is not compiled: {self.why_not}")
        return self.by_handlers(args, kwargs, validating) if taken is None else taken

    def _by_graph(self, args: Args, kwargs: Mapping[str, Any]) -> Tensor | None:
        """The step, if it is not left to the handlers."""
        self.count += 1
        call = Call(args, kwargs)
        if call.is_trained:
            self.tell("the step is not compiled: an argument requires gradients")
            return None
        known = self.graphs.get(call.kind)
        if known is None:
            if len(self.graphs) >= SHAPES:
                self.tell(f"batches of more than {SHAPES} kinds: the others are not compiled")
                return None
            known = self.graphs[call.kind] = []
            if self.parameters is None:  # Pyro's own, with its validation
                return None
        self.numbers[:] = [leaf for leaf in call.others if is_number(leaf)]
        graph = next((graph for graph in known if graph.holds()), None)
        if graph is None:
            return self._new(call, known)
        try:
            return self._checked(graph, call)
        except Exception as error:  # the handlers' own, or of the graph alone
            self.refuse(_why(error))
            return None

    def by_handlers(
        self, args: Args, kwargs: Mapping[str, Any] | None = None, validating: bool = False
    ) -> Tensor:
        """The step as Pyro takes it."""
        kwargs = kwargs or {}
        validation = contextlib.nullcontext()  # Pyro's own SVI leaves it as it is
        if self.parameters is not None:
            validation = pyro.validation_enabled(validating)
        with validation:
            value = None
            if self.differentiable:
                with contextlib.suppress(_NothingToTrain):
                    value = self._differentiated(args, kwargs)
            if value is None:
                value = self._by_its_own(args, kwargs)
        for leaf in self.idle:
            leaf.grad = None
        return value

    def _differentiated(self, args: Args, kwargs: Mapping[str, Any]) -> Tensor:
        with showing() as shown:
            loss = self._loss(args, kwargs)
        self._find(shown, leaves_of(loss))
        for leaf in self.leaves:
            leaf.grad = None
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def _by_its_own(self, args: Args, kwargs: Mapping[str, Any]) -> Tensor:
        """A loss that calls ``backward`` itself, where a trace holds a parameter."""
        for leaf in [*self.leaves, *(leaf for _, leaf in stored())]:
            leaf.grad = None
        looks = self.unnamed is None or self.anonymous
        known = self.parameters or (NOBODY if looks else {})
        with showing() as shown, Backwards() if looks else contextlib.nullcontext() as seen:
            found = self.loss.loss_and_grads(
                naming(self.pair.model, known), self.pair.guide, *args, **kwargs
            )
        shown.named = [leaf for leaf in shown.named if leaf is not NOBODY["_nobody"]]
        named = set(map(id, shown.named))
        if seen is not None:
            self.unnamed = [leaf for leaf in seen.leaves if id(leaf) not in named]
            self.anonymous = not named
        reached = [leaf for leaf in shown.named if leaf.grad is not None]
        self._find(shown, [*reached, *(self.unnamed or ())])
        self.parts = found if isinstance(found, tuple) else None
        return torch.as_tensor(found[0] if isinstance(found, tuple) else found)

    def _find(self, shown: Shown, reached: list[Tensor]) -> None:
        """The leaves of this run."""
        found, idle = shown.trained(reached)
        if self.parameters is None:
            self.leaves, self.idle = self._kept(found, shown), idle
            if not self.leaves:
                self.tell("neither program depends on a parameter, so the steps train nothing")
            return
        known = {id(leaf): leaf for leaf in self.parameters.values()}
        new = [leaf for leaf in found if id(leaf) not in known]
        if new:
            names = {id(t): n for n, t in self.pair.tensors().items()}
            words = ", ".join(names.get(id(t), f"one of shape {list(t.shape)}") for t in new)
            raise UsageError(
                f"the programs depend on parameters that they did not use when training began "
                f"({words}), and that would not be trained: let both programs name them from the "
                f"first batch on, or train with pv.SVI"
            )
        used = set(map(id, found))
        self.leaves = [leaf for key, leaf in known.items() if key in used]
        self.idle = [leaf for key, leaf in known.items() if key not in used]

    def _kept(self, found: list[Tensor], shown: Shown) -> list[Tensor]:
        """Of the leaves that a loss depends on, those that are trained: what the programs name to
        Pyro; where they name nothing, what they hold."""
        named = set(map(id, shown.named))
        others = [leaf for leaf in found if id(leaf) not in named]
        if others and not self._looked:
            self.names = {id(tensor): name for name, tensor in self.pair.tensors().items()}
            self._looked = True
        held = [leaf for leaf in others if id(leaf) in self.names]
        if not named:
            return held
        if held:
            words = _listed([self.names[id(leaf)] for leaf in held])
            self.tell(
                f"{words}: the loss depends on it, and neither program names it to Pyro "
                f"(pyro.module), so it is not trained"
            )
        return [leaf for leaf in found if id(leaf) in named]

    def _loss(self, args: Args, kwargs: Mapping[str, Any]) -> Tensor:
        with self._autocast(args):
            try:
                loss = self.loss.differentiable_loss(
                    self.pair.model, self.pair.guide, *args, **kwargs
                )
            except ValueError as error:
                if "cannot be differentiated" in str(error):  # as Pyro's TraceEnum_ELBO says
                    raise _NothingToTrain from error
                raise
        return torch.as_tensor(loss)

    def _autocast(self, args: Args) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()  # as the user has it
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        return torch.autocast(device, torch.bfloat16)

    def _write(self, graph: Graph, out: Sequence[Tensor]) -> Tensor:
        loss, *grads = out
        self.leaves, self.idle = graph.leaves, graph.idle
        for leaf, grad in zip(graph.leaves, grads, strict=True):
            leaf.grad = laid_out(leaf, grad)  # as autograd leaves it
        for leaf in graph.idle:
            leaf.grad = None
        return loss.clone() if loss.is_cuda else loss  # a CUDA graph writes over what it gave

    # --- graphs -----------------------------------------------------------------------------------

    def _checked(self, graph: Graph, call: Call) -> Tensor:
        """A step by a graph, held against the handlers from time to time."""
        graph.uses += 1
        if self.count < self.due:
            return self._write(graph, graph(*call.tensors))
        self.due = 2 * self.count
        before = Snapshot(self.pair)
        done = Done(self, self.by_handlers(call.args, call.kwargs))
        before.put_back()
        out = graph(*call.tensors)
        if self._close(done, graph, out):
            return self._write(graph, out)
        self.refuse("the programs change while they train, in a way that cannot be seen")
        return done.put_back()

    def _new(self, call: Call, known: list[Graph]) -> Tensor | None:
        """A step, and the graph of steps like it."""
        changed = known[-1].fingerprint.changed() if known else []
        if _is_vain(known):
            self.refuse(f"{_words(changed)} keeps changing, and no graph could take it as an input")
            return None
        numbers = {p.identity() for p in changed if may_be_input(p.value, p.now())} - self.fixed
        self.inputs |= numbers
        objects = [leaf for leaf in call.others if not is_number(leaf)]
        if any(map(kernels.compiled, self.pair.modules())):
            self.refuse("a module is under torch.compile already")
            return None
        before, versions = Snapshot(self.pair), [t._version for t in call.tensors]
        reads = Reads([self.pair.model, self.pair.guide, self.loss, self.numbers, *objects])
        self._looked = False  # a change may have brought others
        done = Done(self, reads.run(lambda: self.by_handlers(call.args, call.kwargs)))
        why = _unfit(reads, before, done)
        if versions != [t._version for t in call.tensors]:
            why = "the programs write to the batch"
        if why:
            self.refuse(why)
            return done.value
        try:
            graph = self._graph(call, reads, before, done)
            before.put_back()
            out = graph(*call.tensors)
            if not self._close(done, graph, out):
                raise _Different("the graph does not give what the handlers give")
        except Exception as error:
            if not self.inputs:
                self.refuse(_why(error))
                return done.put_back()
            self.fixed |= numbers or self.inputs  # what cannot be one
            self.inputs -= self.fixed
            before.put_back()
            return self._new(call, known)
        del known[: 1 - STATES]
        known.append(graph)
        self.verify()
        return self._write(graph, out)

    def _graph(self, call: Call, reads: Reads, before: Snapshot, done: Done) -> Graph:
        leaves, idle = self.leaves, self.idle
        inputs = [p for key, p in reads.places.items() if key in self.inputs]
        inputs = [p for p in inputs if may_be_input(p.value, p.value)]
        device = call.tensors[0].device if call.tensors else torch.device("cpu")
        numbers = [_as_input(place.value, device) for place in inputs]
        looks = Looks(reads.tensors | {id(leaf): leaf for leaf in leaves})

        def step(*flat: Tensor) -> list[Tensor]:
            count = len(call.tensors)
            others = list(call.others)
            looks.data = set(map(id, flat))
            with _placed(inputs, flat[count:]), looks:
                given = iter(self.numbers)
                others = [next(given) if is_number(leaf) else leaf for leaf in others]
                args, kwargs = call.of(flat[:count], others)
                loss = self._loss(args, kwargs)
                grads = torch.autograd.grad(loss, leaves, allow_unused=True) if leaves else ()
            pairs = zip(grads, leaves, strict=True)
            return [loss.detach(), *(torch.zeros_like(p) if g is None else g for g, p in pairs)]

        before.put_back()
        with _silent_elbos(), pyro.validation_enabled(False):
            traced = kernels.graph_of(step, *call.tensors, *numbers)
        traced.graph.eliminate_dead_code()
        traced.recompile()
        seen = reads.fingerprint(inputs, looks.tensors.values(), [*leaves, *idle])
        graph = Graph(torch.no_grad()(traced), leaves, idle, seen, numbers, call.others)
        before.put_back()
        if not self._close(done, graph, graph(*call.tensors)):
            raise _Different("the graph does not give what the handlers give")
        if self._to_compile(traced):
            before.put_back()
            try:
                graph.run = kernels.kernels(traced, [*call.tensors, *numbers])
                graph.plain = False
            except Exception as error:
                self.why_no_kernels = f"torch.compile does not work here ({in_short(error, 160)})"
                self.tell(f"the step is not compiled: {self.why_no_kernels}")
        return graph

    def _to_compile(self, graph: GraphModule) -> bool:
        """Whether kernels are wanted, or pay."""
        saved = kernels.saving(graph, self.steps)
        if self.compile is True:
            self.say("compiling the step, which takes some seconds the first time")
        elif saved:
            self.say(f"compiling the step: about {saved:.0f} s to be saved")
        return self.compile is True or bool(saved)

    def _close(self, done: Done, graph: Graph, out: Sequence[Tensor]) -> bool:
        """Whether a graph's loss, gradients and buffers are the handlers' on the same noise.

        The graph's operations are the handlers', and theirs are compared up to the order of sums:
        of a gradient whose terms cancel, up to that of the largest one's digits. Kernels make
        their products in other ways, so that a unit next to a ReLU's kink may fall on its other
        side: their gradients are compared as a whole.
        """
        if list(map(id, graph.leaves)) != list(map(id, done.leaves)):
            return False
        (loss, *theirs), value = out, done.value
        exact = self.precision == "float32"
        relative = 1e-4 if exact else 3e-2
        if not bool((loss - value).abs() <= relative * (1 + value.abs())):
            return False
        both = [(a, b) for a, b in zip(theirs, done.grads, strict=True) if b.numel()]
        size = _largest if exact and graph.plain else torch.linalg.vector_norm
        relative = relative if exact and graph.plain else 3e-2
        top = max((size(b) for _, b in both), default=torch.zeros(()))
        return done.after.holds() and all(
            bool(size(a - b) <= relative * (1e-6 + torch.maximum(size(b), top / 10)))
            for a, b in both
        )


def _largest(tensor: Tensor) -> Tensor:
    return tensor.abs().max()


class Done:
    """A step that the handlers have taken, to be compared with, or gone back to."""

    def __init__(self, step: Step, value: Tensor) -> None:
        self.step, self.value = step, value
        self.leaves, self.idle = step.leaves, step.idle
        self.grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves]
        self.after = Snapshot(step.pair)

    def put_back(self) -> Tensor:
        """Leave all as the handlers left it; the loss."""
        self.after.put_back()
        self.step.leaves, self.step.idle = self.leaves, self.idle
        for leaf, grad in zip(self.leaves, self.grads, strict=True):
            leaf.grad = grad
        return self.value


def _unfit(reads: Reads, before: Snapshot, done: Done) -> str:
    """Why a run cannot be left to a graph; "" if it can."""
    if reads.effects:
        return reads.effects[0]
    for source, word in (("python", "Python's random"), ("numpy", "numpy.random")):
        if not torch.equal(before.random[source], done.after.random[source]):
            return f"the programs draw from {word}"
    hooks = ("_backward_hooks", "_post_accumulate_grad_hooks")
    if any(getattr(leaf, name, None) for leaf in done.leaves for name in hooks):
        return "a parameter has hooks"
    written = reads.written(before.buffers)
    return f"the programs write to {_listed(written)} as they run" if written else ""


def _check_options(compile: object, precision: object) -> None:  # noqa: A002
    if not isinstance(compile, bool | str) or compile not in MODES:
        raise UsageError(f"compile must be 'auto', True or False, got {got(compile)}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        words = " or ".join(map(repr, PRECISIONS))
        raise UsageError(f"precision must be {words}, got {got(precision)}")


class _NothingToTrain(Exception):
    """A loss that depends on no parameter."""


class _Different(Exception):
    """A graph gives something else than the handlers."""


def _as_input(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.tensor(getattr(value, "item", lambda: value)(), device=device)  # of NumPy too


def _is_vain(graphs: Sequence[Graph]) -> bool:
    """Whether the last graphs were hardly used before another one was needed."""
    return len(graphs) >= VAIN and all(graph.uses < WORTH for graph in graphs[-VAIN:])


def _words(places: Sequence[Place]) -> str:
    return _listed([place.name for place in places]) or "what the programs read"


def _why(error: Exception) -> str:
    """Why there is no graph of a run."""
    text = in_short(error, 200) or type(error).__name__
    if "value out of a tracing tensor" in text:
        return "the programs look at values (.item(), float(), if) that the data or draws decide"
    return text


def _listed(words: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(dict.fromkeys(words[:most]))
    return f"{shown} and {len(words) - most} more" if len(words) > most else shown


@contextlib.contextmanager
def _placed(places: Sequence[Place], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors in the places of numbers."""
    numbers = [place.now() for place in places]
    try:
        for place, tensor in zip(places, tensors, strict=True):
            place.put(tensor)
        yield
    finally:
        for place, number in zip(places, numbers, strict=True):
            place.put(number)


def _is_differentiable(kind: type) -> bool:
    """Whether a loss has a ``differentiable_loss`` that its ``loss_and_grads`` does not amend."""
    first = {
        name: next(
            (i for i, each in enumerate(kind.__mro__) if name in vars(each)), len(kind.__mro__)
        )
        for name in ("differentiable_loss", "loss_and_grads")
    }
    found = first["differentiable_loss"]
    return found < len(kind.__mro__) and found <= first["loss_and_grads"]


class Snapshot:
    """What a step changes besides the gradients: random states and buffers."""

    def __init__(self, pair: Pair) -> None:
        self.buffers = [b for m in pair.modules() for b in m.buffers(recurse=False)]
        self.values = [b.clone() for b in self.buffers]
        self.random = states()

    def put_back(self) -> None:
        """Set the buffers and random states to what they were here."""
        with torch.no_grad():
            for buffer, value in zip(self.buffers, self.values, strict=True):
                buffer.copy_(value)
        put_back(self.random)

    def holds(self) -> bool:
        """Whether the buffers are as they were here."""
        both = zip(self.buffers, self.values, strict=True)
        return all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6) for a, b in both)


class SVI(pyro.infer.SVI):
    """``pyro.infer.SVI`` whose steps are compiled: same constructor, same :meth:`step`.

    Parameters are those that Pyro's own SVI sees, call by call; what a handler hides from it keeps
    its value, and so does a network that is not registered, which is said once. Programs that
    register nothing at all, which Pyro would not train, are trained by what the loss depends on.
    A step's gradients are left with the parameters, and what stood there before is replaced.
    The optimisers that ``optim`` makes for them, one each, are stepped as one where torch has a
    kernel for that, over their own states and options. The first step on each kind of batch is
    Pyro's, with its validation; what cannot be compiled, a step inside another handler, and losses
    that are no ELBO, are left to Pyro altogether, which is said once.

    Args:
        model: the model.
        guide: the guide.
        optim: a ``pyro.optim`` optimiser.
        loss: any ``pyro.infer`` ELBO.
        compile: as for :class:`Step`; "auto" uses the traced graph and makes no kernels.
        precision: "float32", or "bf16" for matrix products in bfloat16.

    Raises:
        UsageError: an unknown ``compile`` or ``precision``.

    >>> from pyrovae.vae import VAE
    >>> vae = VAE((4,), 2)
    >>> svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO(),
    ...           compile="auto")
    >>> losses = [float(svi.step(torch.ones(10, 4))) for _ in range(50)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        optim: PyroOptim,
        loss: ELBO | Callable[..., float],
        loss_and_grads: Callable[..., float] | None = None,
        *,
        compile: bool | str = True,  # noqa: A002
        precision: str = "float32",
        **options: object,
    ) -> None:
        super().__init__(model, guide, optim, loss, loss_and_grads, **options)
        self.compile, self.precision = compile, precision
        self.evaluate: Step | None = None
        self._steps: list[tuple[tuple[object, ...], Step]] = []
        self._joint: Joint | None = None

    def step(self, *args: object, **kwargs: object) -> Any:
        """One step on a batch; the loss, as a tensor without dimensions: reading it is what waits
        for the device. A loss that is no ELBO, or a step inside a handler, is Pyro's."""
        loss = getattr(self.loss_and_grads, "__self__", None)
        jit = type(loss).__name__.startswith("Jit")  # Pyro's, which compile themselves
        if not isinstance(loss, ELBO) or jit or wrapped():
            return super().step(*args, **kwargs)
        with turn("SVI.step"):
            self.evaluate = step = self._step(loss)
            value = step(args, kwargs)
            if self._joint is None or self._joint.optim is not self.optim:
                self._joint = Joint(self.optim)
            names = {leaf: step.names[id(leaf)] for leaf in step.leaves if id(leaf) in step.names}
            with naming_in_store(names):
                self._joint.step(step.leaves, step.idle)
        return value if step.parts is None else type(step.parts)(map(float, step.parts))

    def _step(self, loss: ELBO) -> Step:
        """The step of the programs and the loss at hand: a user may have set others."""
        parts = (self.model, self.guide, loss)
        for known, step in self._steps:
            if all(a is b for a, b in zip(known, parts, strict=True)):
                return step
        step = Step(Pair.here(self.model, self.guide), loss, None, self.compile, self.precision)
        self._steps.append((parts, step))
        return step


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextlib.contextmanager
def _silent_elbos() -> Iterator[None]:
    """Pyro's ELBOs without their looks at values, which a trace cannot follow, and distributions
    that were made under validation without it."""
    distribution = torch.distributions.Distribution
    validate = distribution._validate_sample
    names = {"torch_item": _detached, "warn_if_nan": lambda *args, **options: None}
    modules = [
        importlib.import_module(f"pyro.infer.{name}")
        for name in ("trace_elbo", "trace_mean_field_elbo", "traceenum_elbo")
    ]
    kept = [(m, n, getattr(m, n)) for m in modules for n in names if hasattr(m, n)]
    try:
        for module, name, _ in kept:
            setattr(module, name, names[name])
        setattr(distribution, "_validate_sample", lambda self, value: None)  # noqa: B010
        yield
    finally:
        setattr(distribution, "_validate_sample", validate)  # noqa: B010
        for module, name, value in kept:
            setattr(module, name, value)
