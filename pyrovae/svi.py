"""One step of stochastic variational inference: Pyro's handlers, or the graph they leave behind."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

from pyrovae.errors import UsageError, got
from pyrovae.randomness import put_back, states
from pyrovae.traces import Args, Pair, parameters

__all__ = ["SVI", "Step"]

SHAPES = 4  # graphs kept, one per shape of batch
RETRACES = 3
MODES = ("auto", True, False)
PRECISIONS = ("float32", "bf16")

# What torch.compile takes, for a graph or for one of many operations, and what it saves of a step
# per operation and per byte that one writes: on two CPU cores. Fixed numbers, so that the same run
# makes the same choice wherever it runs.
COMPILE_SECONDS = 9.0
COMPILE_NODE_SECONDS = 0.03
NODE_SECONDS = 3e-6
BYTE_SECONDS = 2e-11

Graph = Callable[..., list[Tensor]]


class Step:
    """Loss and gradients of a batch, by ``pyro.infer``.

    The handlers of a pair do the same at every step; run once under ``make_fx`` they leave a
    graph of tensor operations that gives the same loss and the same gradients without them, and
    that ``torch.compile`` can turn into kernels. A graph is used once it has been held against
    the handlers on the same noise, and held against them again at steps 1, 2, 4, 8, ... and
    whenever :meth:`verify` asks for it: programs that change are traced anew, and those that
    keep changing or that look at their values are left to the handlers.

    What a step gives depends on the batch, the parameters and the random state alone, not on
    when the graph was made or held against the handlers, nor on any clock: a run that is taken
    up again goes on as if it had not been interrupted.

    Args:
        pair: the pair.
        loss: any ``pyro.infer`` ELBO.
        parameters: the leaves to differentiate by, by name.
        compile: ``"auto"`` uses graphs where they hold, and kernels where :attr:`steps` of them
            save more than making them takes; True makes kernels and warns where that is not
            possible; False leaves all to the handlers.
        precision: "float32", or "bf16" for matrix products in bfloat16.
        finish: what is done to the gradients before they are written, such as clipping.
    """

    def __init__(
        self,
        pair: Pair,
        loss: ELBO,
        parameters: Mapping[str, Tensor],
        compile: bool | str = "auto",  # noqa: A002
        precision: str = "float32",
        finish: Callable[[list[Tensor]], list[Tensor]] | None = None,
    ) -> None:
        if not isinstance(compile, bool | str) or compile not in MODES:
            raise UsageError(f"compile must be 'auto', True or False, got {got(compile)}")
        if not isinstance(precision, str) or precision not in PRECISIONS:
            words = " or ".join(map(repr, PRECISIONS))
            raise UsageError(f"precision must be {words}, got {got(precision)}")
        self.pair, self.loss, self.parameters = pair, loss, dict(parameters)
        self.compile, self.precision, self.finish = compile, precision, finish
        self.differentiable = hasattr(loss, "differentiable_loss")
        self.why_not = "" if compile else "it was not asked for"
        self.why_no_kernels = ""
        self.graphs: dict[tuple[object, ...], Graph] = {}
        self.retraces = 0
        self.count, self.due = 0, 1
        self.steps = 0  # how many there will be, where that is known
        self.say: Callable[[str], object] = lambda message: None
        if not self.differentiable:
            self.refuse(f"{type(loss).__name__} has no differentiable_loss")

    def refuse(self, reason: str) -> None:
        """Go on without graphs."""
        if not self.why_not and self.compile is True:
            warnings.warn(f"the step is not compiled: {reason}", stacklevel=5)
        self.why_not = self.why_not or reason
        self.graphs.clear()

    def verify(self) -> None:
        """Hold the graph against the handlers at the next step."""
        self.due = self.count + 1

    def __call__(self, batch: Args, *, validating: bool = False) -> Tensor:
        """Write the parameters' gradients, return the loss, a tensor without dimensions.

        Args:
            batch: as the programs take it.
            validating: whether Pyro checks every distribution, which takes the handlers.
        """
        if validating or self.why_not:
            return self.by_handlers(batch, validating)
        self.count += 1
        graph = self._graph(batch)
        return self.by_handlers(batch) if graph is None else self._write(graph(*batch))

    def _graph(self, batch: Args) -> Graph | None:
        """The graph of such a batch, where one holds."""
        leaves, spec = tree_flatten(batch)
        kinds = (_kind(leaf) for leaf in leaves)
        key = (*kinds, None if len(leaves) == len(batch) else str(spec))
        graph = self.graphs.get(key)
        if graph is None:
            graph = self._trace(batch) if len(self.graphs) < SHAPES else None
            if graph is not None:
                self.graphs[key] = graph
                self.verify()
        elif self.count >= self.due:
            self.due = 2 * self.count
            if not self._agrees(graph, batch):
                graph = None
                self.graphs.clear()
                self.retraces += 1
                if self.retraces > RETRACES:
                    self.refuse("the programs change while they train")
        return graph

    def by_handlers(self, batch: Args, validating: bool = False) -> Tensor:
        """The step as Pyro takes it."""
        for parameter in self.parameters.values():
            parameter.grad = None
        with pyro.validation_enabled(validating):
            if self.differentiable:
                with self._autocast(batch):
                    loss = self.loss.differentiable_loss(self.pair.model, self.pair.guide, *batch)
                loss.backward()
                value = loss.detach()
            else:
                found = self.loss.loss_and_grads(self._registered, self.pair.guide, *batch)
                value = torch.as_tensor(found[0] if isinstance(found, tuple) else found)
        if self.finish is not None:
            done = self.finish(self._grads())
            for parameter, grad in zip(self.parameters.values(), done, strict=True):
                parameter.grad = grad
        return value

    def _registered(self, *args: object) -> object:
        """Losses that call backward themselves do so only when a trace holds a parameter."""
        for name, parameter in self.parameters.items():
            pyro.param(f"_pyrovae.{name}", parameter)
        return self.pair.model(*args)

    def _autocast(self, batch: Args) -> torch.autocast:
        device = next((a.device.type for a in batch if isinstance(a, Tensor)), "cpu")
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16")

    def _write(self, out: list[Tensor]) -> Tensor:
        loss, *grads = out
        for parameter, grad in zip(self.parameters.values(), grads, strict=True):
            parameter.grad = grad
        return loss.clone() if loss.is_cuda else loss  # a CUDA graph writes over what it gave

    def _trace(self, batch: Args) -> Graph | None:
        """The graph of a step, as kernels where they pay, if it gives what the handlers give."""
        before = Snapshot(self.pair)
        self.by_handlers(batch)  # objectives learn the pair's structure when they first run
        before.put_back()
        try:
            with _silent_elbos(), pyro.validation_enabled(False):
                graph: GraphModule = make_fx(self._loss_and_grads)(*batch)
            graph.graph.eliminate_dead_code()
            graph.recompile()
            if self.compile is True or self._pays(graph):
                before.put_back()
                chosen = self._made(graph, batch)
            else:
                chosen = torch.no_grad()(graph)
            before.put_back()
            agrees = self._agrees(chosen, batch)
        except Exception as error:
            self.refuse(" ".join(str(error).split())[:200] or type(error).__name__)
            agrees = True
        finally:
            before.put_back()
        if not agrees:
            self.refuse("the graph does not give what the handlers give on the same noise")
        return None if self.why_not else chosen

    def _pays(self, graph: GraphModule) -> bool:
        """Whether the kernels of a graph save more time than making them takes."""
        made = [node for node in graph.graph.nodes if node.op == "call_function"]
        products = ("mm", "convolution", "linear")
        values = [
            node.meta.get("val")
            for node in made
            if not any(p in str(node.target) for p in products)
        ]
        moved = sum(value.nbytes for value in values if isinstance(value, Tensor))
        saved = self.steps * (NODE_SECONDS * len(made) + BYTE_SECONDS * moved)
        if saved <= max(COMPILE_SECONDS, COMPILE_NODE_SECONDS * len(made)):
            return False
        self.say(f"compiling the step: about {saved:.0f} s to be saved")
        return True

    def _made(self, inner: GraphModule, batch: Args) -> Graph:
        """The graph as kernels, or itself where they cannot be made."""
        try:
            with _quiet_inductor():
                options = {
                    "fallback_random": True,  # torch's own numbers: the handlers' noise
                    # a graph is looked up by its shapes here, and nothing else can change
                    "guard_filter_fn": lambda guards: [False] * len(guards),
                    # a check of the compiler that takes as long as the kernels; one that fails
                    # is noticed by them
                    "cpp.vec_isa_ok": True,
                    "triton.cudagraphs": batch[0].device.type == "cuda",
                }
                made = torch.compile(inner, fullgraph=True, dynamic=False, options=options)
                kernels = torch.no_grad()(made)
                kernels(*batch)
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            self.why_no_kernels = f"torch.compile does not work here ({reason})"
            message = f"the step is not compiled: {self.why_no_kernels}"
            if self.compile is True:
                warnings.warn(message, stacklevel=6)
            else:
                self.say(message)
            return torch.no_grad()(inner)  # type: ignore[no-any-return]
        return kernels  # type: ignore[no-any-return]

    def _agrees(self, graph: Graph, batch: Args) -> bool:
        """Whether a graph gives what the handlers give here; random states and buffers stay."""
        before = Snapshot(self.pair)
        try:
            value = self.by_handlers(batch)
            grads, after = self._grads(), Snapshot(self.pair)
            before.put_back()
            return self._close(value, grads, graph(*batch)) and after.holds()
        finally:
            before.put_back()

    def _grads(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]

    def _loss_and_grads(self, *batch: Any) -> list[Tensor]:
        with self._autocast(batch):
            loss = self.loss.differentiable_loss(self.pair.model, self.pair.guide, *batch)
        leaves = list(self.parameters.values())
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        unused = zip(grads, leaves, strict=True)
        found = [torch.zeros_like(p) if g is None else g for g, p in unused]
        return [loss.detach(), *(found if self.finish is None else self.finish(found))]

    def _close(self, value: Tensor, grads: list[Tensor], out: list[Tensor]) -> bool:
        """Whether a graph's loss and gradients are the handlers', up to the order of sums: of a
        gradient whose terms cancel, up to that of the largest one's digits."""
        loss, *theirs = out
        relative = 1e-4 if self.precision == "float32" else 3e-2
        if not bool((loss - value).abs() <= relative * (1 + value.abs())):
            return False
        both = [(a, b) for a, b in zip(theirs, grads, strict=True) if b.numel()]
        top = max((b.abs().max() for _, b in both), default=torch.zeros(()))
        return all(
            bool((a - b).abs().max() <= relative * (1e-6 + torch.maximum(b.abs().max(), top / 10)))
            for a, b in both
        )


def _kind(leaf: Any) -> Any:
    """What a graph is made for: of a tensor its shape and type, of anything else itself."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device
    return leaf if isinstance(leaf, Hashable) else id(leaf)


class Snapshot:
    """What a step changes besides the gradients: random states and buffers."""

    def __init__(self, pair: Pair) -> None:
        self.buffers = [b for m in pair.modules() for b in m.buffers(recurse=False)]
        self.values = [b.clone() for b in self.buffers]
        self.random = states()

    def put_back(self) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.buffers, self.values, strict=True):
                buffer.copy_(value)
        put_back(self.random)

    def holds(self) -> bool:
        """Whether the buffers are as they were here."""
        both = zip(self.buffers, self.values, strict=True)
        return all(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6) for a, b in both)


def laid_out(like: Tensor, value: Tensor) -> Tensor:
    """A tensor in the memory layout of another one: fused kernels go through both as they lie."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def fused_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """``optimizer.step``; of a fused Adam its kernel alone, without the bookkeeping around it,
    which takes as long as the kernel for networks of this size."""
    plain = ("amsgrad", "maximize", "capturable", "differentiable")
    if type(optimizer) is not torch.optim.Adam or not all(
        group["fused"] and not any(group.get(name) for name in plain)
        for group in optimizer.param_groups
    ):
        return optimizer.step
    lists: list[tuple[Any, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]] = []

    def step() -> None:
        if not lists or any(
            optimizer.state[leaves[0]].get("exp_avg") is not means[0]
            for _, leaves, means, *_ in lists
        ):
            optimizer.step()  # makes the states, or takes over those that were loaded
            lists.clear()
            for group in optimizer.param_groups:
                states = [optimizer.state[p] for p in group["params"]]
                each = ([s[n] for s in states] for n in ("exp_avg", "exp_avg_sq", "step"))
                lists.append((group, group["params"], *each))
            return
        with torch.no_grad():
            for group, leaves, means, squares, steps in lists:
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    leaves,
                    [laid_out(p, cast(Tensor, p.grad)) for p in leaves],
                    means,
                    squares,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )

    return step


class SVI(pyro.infer.SVI):
    """``pyro.infer.SVI`` whose steps are compiled: same constructor, same :meth:`step`.

    Parameters are what the loss depends on, registered with ``pyro.module`` or not, and one fused
    optimiser over all of them stands for the many of ``optim``. It shares their states, so that
    ``optim.get_state``, ``optim.save`` and learning-rate schedulers work as ever. What cannot be
    compiled is left to Pyro's handlers, with one warning that gives the reason.

    Args:
        model: the model.
        guide: the guide.
        optim: a ``pyro.optim`` optimiser.
        loss: any ``pyro.infer`` ELBO.
        compile: as for :class:`Step`; "auto" uses the traced graph and makes no kernels.
        precision: "float32", or "bf16" for matrix products in bfloat16.

    Raises:
        UsageError: programs that depend on no parameter; an unknown ``compile`` or ``precision``.

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
        self.elbo = loss if isinstance(loss, ELBO) and loss_and_grads is None else None
        self.compile, self.precision = compile, precision
        self.evaluate: Step | None = None
        self.joint: torch.optim.Optimizer | None = None

    def step(self, *args: object, **kwargs: object) -> Tensor | float:
        """One step on a batch; the loss, as a tensor without dimensions: reading it is what waits
        for the device. With keyword arguments, or a loss that is no ELBO, the step is Pyro's."""
        if self.elbo is None or kwargs:
            return super().step(*args, **kwargs)
        if self.evaluate is None:
            pair = Pair.here(self.model, self.guide)
            found = parameters(pair, args)
            self.evaluate = Step(
                pair, self.elbo, found, self.compile, self.precision, self._clip(list(found))
            )
        value = self.evaluate(args) if self.joint else self.evaluate.by_handlers(args)
        if self.joint is None:
            self._join(list(self.evaluate.parameters.values()))
            return value
        for group, own in zip(self.joint.param_groups, self.own, strict=True):
            group["lr"] = own["lr"]  # a scheduler may have changed it
        self.advance()
        return value

    def _join(self, leaves: list[Tensor]) -> None:
        """A step of every parameter's own optimiser, so that their states are there; then one
        optimiser over the same states."""
        each = self._stepped(leaves)
        groups: dict[str, Any] = {}
        for optimizer, leaf in zip(each, leaves, strict=True):
            (own,) = optimizer.param_groups
            options = {**own}
            del options["params"]
            group = groups.setdefault(repr(options), ({**options, "params": []}, own))
            group[0]["params"].append(leaf)
        self.own = [own for _, own in groups.values()]
        self.joint = type(each[0])([group for group, _ in groups.values()])
        for group in self.joint.param_groups:
            if "fused" in group:
                group["fused"], group["foreach"] = True, False
        for optimizer, leaf in zip(each, leaves, strict=True):
            state = optimizer.state[leaf]
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(leaf.device)
            self.joint.state[leaf] = state
        self.advance = fused_step(self.joint)

    def _stepped(self, leaves: list[Tensor]) -> list[Any]:
        """Every parameter's own optimiser, which has taken a step."""
        clips, self.optim.pt_clip_args = self.optim.pt_clip_args, {}  # clipped already
        try:
            self.optim(leaves)
        finally:
            self.optim.pt_clip_args = clips
        each = [self.optim.optim_objs[p] for p in leaves]
        return [getattr(o, "optimizer", o) for o in each]  # a scheduler holds its optimiser

    def _clip(self, names: list[str]) -> Callable[[list[Tensor]], list[Tensor]] | None:
        """What clips each parameter's gradient as the optimiser was asked to."""
        asked = self.optim.pt_clip_args
        if not asked:
            return None

        def clip(grads: list[Tensor]) -> list[Tensor]:
            done = []
            for grad, name in zip(grads, names, strict=True):
                chosen = asked(name) if callable(asked) else asked
                if "clip_norm" in chosen:
                    share = chosen["clip_norm"] / (grad.norm() + 1e-6)
                    grad = grad * share.clamp_max(1.0)
                if "clip_value" in chosen:
                    grad = grad.clamp(-chosen["clip_value"], chosen["clip_value"])
                done.append(grad)
            return done

        return clip


@contextlib.contextmanager
def _quiet_inductor() -> Iterator[None]:
    """torch.compile without its advice, and with the validation of distributions as it was."""
    validates = torch.distributions.Distribution._validate_args
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.distributions.Distribution.set_default_validate_args(validates)


@contextlib.contextmanager
def _silent_elbos() -> Iterator[None]:
    """Pyro's ELBOs without their looks at values, which a trace cannot follow."""
    names = {"torch_item": lambda value: value, "warn_if_nan": lambda *args, **options: None}
    modules = [
        importlib.import_module(f"pyro.infer.{name}")
        for name in ("trace_elbo", "trace_mean_field_elbo", "traceenum_elbo")
    ]
    kept = [(m, n, getattr(m, n)) for m in modules for n in names if hasattr(m, n)]
    try:
        for module, name, _ in kept:
            setattr(module, name, names[name])
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)
