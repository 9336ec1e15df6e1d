"""A graph of tensor operations -> kernels, where they pay."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

__all__ = ["Run", "kernels", "saving"]

Run = Callable[..., list[Tensor]]

# What torch.compile takes, for a graph or for one of many operations, and what it saves of a step
# per operation and per byte that one writes: on two CPU cores. Fixed numbers, so that the same run
# makes the same choice wherever it runs.
COMPILE_SECONDS = 9.0
COMPILE_NODE_SECONDS = 0.03
NODE_SECONDS = 3e-6
BYTE_SECONDS = 2e-11


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


def kernels(graph: GraphModule, example: Sequence[Tensor]) -> Run:
    """A graph as kernels, made for inputs like these.

    Raises:
        Exception: whatever the compiler raises.
    """
    with _quiet_inductor():
        options: dict[str, Any] = {
            "fallback_random": True,  # torch's own numbers: the handlers' noise
            # a graph is looked up by its shapes and its fingerprint, and nothing else can change
            "guard_filter_fn": lambda guards: [False] * len(guards),
            # a check of the compiler that takes as long as the kernels; one that fails
            # is noticed by them
            "cpp.vec_isa_ok": True,
            "triton.cudagraphs": any(t.is_cuda for t in example),
        }
        made = torch.no_grad()(torch.compile(graph, fullgraph=True, dynamic=False, options=options))
        made(*example)
    return made  # type: ignore[no-any-return]


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
