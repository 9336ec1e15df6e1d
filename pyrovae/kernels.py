"""What tensor operations are -> their graph -> kernels, where they pay."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg


def _no_cache() -> str:
    """Why there is no place for what torch.compile makes; "" if there is one. It is wanted, and an
    error where it is missing, as soon as the compiler, or an optimiser, is imported: a folder that
    is there lets them be, and nothing is compiled into it."""
    try:
        folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path.cwd())
        return f"there is no folder to be written to: {error}; set TORCHINDUCTOR_CACHE_DIR to one"
    return ""


NO_CACHE = _no_cache()

__all__ = ["Run", "compiled", "folded", "graph_of", "kernels", "looks", "saving"]

Run = Callable[..., list[Tensor]]

# What torch.compile takes, for a graph or for one of many operations, and what it saves of a step
# per operation and per byte that one writes: on two CPU cores. Fixed numbers, so that the same run
# makes the same choice wherever it runs.
COMPILE_SECONDS = 9.0
COMPILE_NODE_SECONDS = 0.03
NODE_SECONDS = 3e-6
BYTE_SECONDS = 2e-11

LEAST = 1 << 21  # multiply-adds of a product below which a call of MKL costs less than oneDNN's


def compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` has made a module; the compiler is a second to import."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def graph_of(function: Callable[..., Any], *inputs: Tensor, looking: bool = False) -> GraphModule:
    """The operations of a function of tensors, as they are for these.

    Args:
        function: what is done.
        inputs: what it is given.
        looking: whether it may ask for values, which the graph then takes as they are.
    """
    # what a node gives is noted as a tensor without values; such tensors belong to a mode, of which
    # torch makes one a node where none is at hand, a third of the time
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        made: GraphModule = make_fx(function, _error_on_data_dependent_ops=not looking)(*inputs)
    return made


def saving(graph: GraphModule, runs: int) -> float:
    """Seconds that the kernels of a graph save in so many runs, 0 where making them takes more."""
    made = [node for node in graph.graph.nodes if node.op == "call_function"]
    products = ("mm", "convolution", "linear")
    values = [
        node.meta.get("val") for node in made if not any(p in str(node.target) for p in products)
    ]
    moved = sum(value.nbytes for value in values if isinstance(value, Tensor))
    saved = runs * (NODE_SECONDS * len(made) + BYTE_SECONDS * moved)
    return saved if saved > max(COMPILE_SECONDS, COMPILE_NODE_SECONDS * len(made)) else 0.0


def folded(graph: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """A graph without what does not depend on its inputs (an encoder, beside latents that move),
    which is worked out once: a graph of the inputs and these tensors, and the tensors."""
    known = _known(graph)
    nodes = [node for node in graph.graph.nodes if node not in known]
    inputs = [node for node in nodes if node.op == "placeholder"]
    made, tensors = Graph(), list[Tensor]()
    new: dict[Node, Any] = known | {node: made.node_copy(node) for node in inputs}
    for node, value in known.items():  # their places come first, as those of all inputs do
        if isinstance(value, Tensor) and not known.keys() >= node.users.keys():
            new[node] = made.placeholder(f"known_{len(tensors)}")
            new[node].meta["val"] = value
            tensors.append(value)
    for node in nodes[len(inputs) :]:
        new[node] = made.node_copy(node, new.__getitem__)
    made.eliminate_dead_code()
    return GraphModule(torch.nn.Module(), made), tensors


def looks(graph: GraphModule) -> bool:
    """Whether what was traced looked at values that its inputs decide, so that the graph holds for
    the values at hand alone."""
    known = _known(graph)
    return any(
        node not in known
        and isinstance(node.target, torch._ops.OpOverload)
        and _LOOKING & set(node.target.tags)
        for node in graph.graph.nodes
    )


_LOOKING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _known(graph: GraphModule) -> dict[Node, Any]:
    """The values of a graph that do not depend on its inputs."""
    known: dict[Node, Any] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = functools.reduce(getattr, node.target.split("."), graph)
        elif node.op == "call_function" and known.keys() >= set(node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    return known


def kernels(graph: GraphModule, example: Sequence[Tensor]) -> Run:
    """A graph as kernels, made for inputs like these.

    Raises:
        Exception: whatever the compiler raises.
    """
    if NO_CACHE:
        raise OSError(NO_CACHE)
    options: dict[str, Any] = {
        "fallback_random": True,  # torch's own numbers: the handlers' noise
        # a check of the compiler that takes as long as the kernels; one that fails is noticed by
        # them
        "cpp.vec_isa_ok": True,
        "triton.cudagraphs": any(t.is_cuda for t in example),
    }
    if _mkl_is_slow() and not any(t.is_cuda for t in example):
        options["post_grad_custom_post_pass"] = _to_onednn()
    # past Dynamo, which would look at the graph's Python again at every call: it is looked up by
    # its shapes and its fingerprint, and nothing else can change
    with _quiet_inductor(), torch.no_grad():
        made = torch.no_grad()(torch._inductor.compile(graph, list(example), options=options))
        made(*example)
    return made  # type: ignore[no-any-return]


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether MKL's products take its path for other makers' CPUs, where oneDNN's, in the same
    torch, use all of the vector units: on AMD's with AVX-512 they are twice as fast."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    fits = "AuthenticAMD" in cpu and "avx512f" in cpu
    return fits and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


@functools.cache
def _to_onednn() -> object:
    """Large products of float32 on a CPU as oneDNN's inner products, bias and ReLU within.

    The choice is by size, not by a clock, so that a run makes the same one again.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class ToOneDNN(CustomGraphPass):
        def uuid(self) -> Any:
            return get_hash_for_files((__file__,), str(LEAST))

        def __call__(self, graph: Graph) -> None:
            for node in list(graph.nodes):
                if product := _product(node):
                    _replace(graph, node, *product)
            graph.lint()

    return ToOneDNN()


def _product(node: Node) -> tuple[Node | None, Node, Node] | None:
    """Bias, left and right of a product that oneDNN takes less time for."""
    args: tuple[Any, ...] = node.args
    if node.target is torch.ops.aten.mm.default:
        bias, (left, right) = None, args
    elif node.target is torch.ops.aten.addmm.default and not node.kwargs:
        bias, left, right = args
    else:
        return None
    a, b = left.meta["val"], right.meta["val"]
    fits = bias is None or bias.meta["val"].ndim == 1
    fits = fits and a.dtype == torch.float32 and a.device.type == "cpu"
    return (bias, left, right) if fits and a.numel() * b.shape[1] >= LEAST else None


def _replace(graph: Graph, node: Node, bias: Node | None, left: Node, right: Node) -> None:
    out, then = node, "none"
    users = list(node.users)
    if bias is not None and [user.target for user in users] == [torch.ops.aten.relu.default]:
        (out,), then = users, "relu"
    a, b = left.meta["val"], right.meta["val"]

    def added(target: Any, args: tuple[Any, ...], value: Tensor, **kwargs: Any) -> Node:
        made = graph.call_function(target, args, kwargs)
        made.meta["val"] = value
        return made

    with graph.inserting_before(out):
        if not a.is_contiguous():
            dense = {"memory_format": torch.contiguous_format}
            left = added(torch.ops.aten.clone.default, (left,), a.contiguous(), **dense)
        turned = added(torch.ops.aten.permute.default, (right, [1, 0]), b.permute(1, 0))
        linear = torch.ops.mkldnn._linear_pointwise.default
        made = added(linear, (left, turned, bias, then, [], ""), out.meta["val"])
        made.meta["should_fallback"] = True  # its lowering would copy the weight
    out.replace_all_uses_with(made)
    graph.erase_node(out)
    if out is not node:
        graph.erase_node(node)


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
