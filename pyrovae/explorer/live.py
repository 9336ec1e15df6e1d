"""The networks of a pair as simple operations in their order, which the page runs (``net.js``)."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import decomposition_table
from torch.utils._pytree import tree_leaves, tree_map

from pyrovae.errors import UsageError
from pyrovae.explorer.view import View
from pyrovae.exports import Graph, graphed
from pyrovae.kernels import graph_of

Plain = dict[str, object]
LARGEST = 5 * 10**6  # characters of the networks in a page
NEAR = 2 / 255  # of the range of the data, and of the codes' unit
DRAWS = 500  # of the prior
CHECKED = 200  # data on which half precision is held against single
SMALL = 1024  # numbers of a tensor that keeps all its digits, as scales and offsets do

# what the page computes entry by entry; each name is that of ATen and that in net.js
UNARY = [
    "abs", "cos", "erf", "exp", "expm1", "floor", "isnan", "log", "log1p", "neg", "reciprocal",
    "relu", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "tanh", "trunc",
]  # fmt: skip
BINARY = [
    "add", "div", "eq", "ge", "gt", "le", "lt", "maximum", "minimum", "mul", "ne", "pow", "sub",
]  # fmt: skip
OTHER_NAMES = {
    "bitwise_not": "logical_not",
    "logical_not": "logical_not",
    "bitwise_and": "logical_and",
    "logical_and": "logical_and",
    "bitwise_or": "logical_or",
    "logical_or": "logical_or",
}
ROWS = {"sum": "sum", "mean": "mean", "amax": "amax", "amin": "amin", "argmax": "argmax"}
ROWS |= {"_softmax": "softmax", "any": "amax", "all": "amin"}
SAME = ("clone", "alias", "detach", "lift_fresh_copy", "contiguous")
LIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full")
MOVES = ("flip", "gather", "index", "index_select", "repeat", "roll", "upsample_nearest2d")


class NotLive(Exception):
    """Why a page cannot run a pair's networks, as the end of a sentence."""


class Unspoken(NotLive):
    """An operation that the page does not know."""

    def __init__(self, name: object) -> None:
        super().__init__(f"the page does not know the operation {name}")


def networks(view: View) -> Plain:
    """The decoder and the encoder of a view's pair, with draws of its prior: what the page needs in
    the place of a server. Weights are in half precision where that is near enough.

    Raises:
        NotLive: the pair has no such networks, or the page cannot run them.
    """
    try:
        decoder, posterior = (graphed(view.pair, p, view.data) for p in ("decoder", "posterior"))
    except UsageError as error:
        raise NotLive(str(error)) from error
    _check_alone(view, decoder, posterior)
    store = Store()
    small = [_smaller(graph, view) for graph in (decoder, posterior)]
    made = {
        "decoder": program(small[0], store),
        "posterior": program(small[1], store),
        "sites": [[name, math.prod(shape)] for name, shape in view.sites.items()],
        "given": next(iter(posterior.inputs)),
        "x": _shown(decoder, view),
        "ellipse": all(f"{name}.variance" in posterior.outputs for name in view.sites),
        "prior": None if view.kind == "table" else _drawn(view),
    }
    text = store.text()
    if len(text) > LARGEST:
        raise NotLive(f"its networks take {len(text) / 1e6:.1f} MB, more than {LARGEST / 1e6:g}")
    return made | {"bytes": text}


def _check_alone(view: View, decoder: Graph, posterior: Graph) -> None:
    """Refuse what takes more than z, or more than x, such as labels."""
    more = [name for name in decoder.inputs if name not in view.sites] + list(posterior.inputs)[1:]
    if more:
        raise NotLive(f"its networks are also given {', '.join(dict.fromkeys(more))}")
    absent = [name for name in view.sites if name not in posterior.outputs]
    if absent or not posterior.inputs:
        raise NotLive(f"its encoder gives no code of {', '.join(absent)}")


def _smaller(graph: Graph, view: View) -> Graph:
    """A graph in half precision, or as it is where that is not near it on some data."""
    half = halved(graph)
    given = [_several(name, value, view) for name, value in graph.inputs.items()]
    with torch.no_grad():
        for name, right, own in zip(
            graph.outputs, graph.module(*given), half.module(*given), strict=True
        ):
            scale = torch.tensor(1.0) if name in view.sites else _spread(right)
            near = ((own - right).abs() <= NEAR * scale) | (own.isnan() & right.isnan())
            if not name.endswith(".variance") and not near.all():
                return graph
    return half


def _several(name: str, like: Tensor, view: View) -> Tensor:
    """The codes of some data by site, or these data."""
    if name in view.sites:
        return view.split(view.codes[:CHECKED])[name].to(like).reshape(-1, *like.shape[1:])
    return view.data.x[:CHECKED].to(like)


def _spread(values: Tensor) -> Tensor:
    """The range of each column, or of all entries of pictures."""
    rows = values.flatten(1) if values.dim() == 2 else values.reshape(-1, 1)
    spread: Tensor = (rows.amax(0) - rows.amin(0)).nan_to_num(0.0)
    return spread


def _shown(decoder: Graph, view: View) -> str:
    """The output that is shown: of several, the one of the data's shape."""
    first = decoder.module(*decoder.inputs.values())
    shapes = {n: tuple(v.shape[1:]) for n, v in zip(decoder.outputs, first, strict=True)}
    alike = [name for name, shape in shapes.items() if shape == view.event_shape]
    return (alike or decoder.outputs)[0]


def _drawn(view: View) -> list[list[float]] | None:
    """Draws of z; none where the pair gives none."""
    try:
        return [[round(v, 4) for v in row] for row in view.prior(DRAWS).tolist()]
    except UsageError:
        return None


@dataclass(frozen=True)
class Slot:
    """A value that the page computes.

    Attributes:
        number: which.
        like: its value at an example, contiguous, which tells shape and kind.
    """

    number: int
    like: Tensor


@dataclass
class Store:
    """Constants of all networks, laid end to end; in half the bytes where this changes nothing."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, values: Tensor) -> list[object]:
        """Where a constant is kept: offset, count, kind."""
        flat = values.detach().flatten()
        if values.is_floating_point():
            flat = flat.float()
            half = flat.half()
            kind = "f2" if torch.equal(half.float(), flat) else "f4"
            raw = (half if kind == "f2" else flat).numpy().tobytes()
        else:
            kind, raw = "i4", flat.to(torch.int32).numpy().tobytes()
        raw += bytes(-len(raw) % 4)
        self.parts.append(raw)
        self.size += len(raw)
        return [self.size - len(raw), values.numel(), kind]

    def text(self) -> str:
        return base64.b64encode(zlib.compress(b"".join(self.parts), 9)).decode()


def program(graph: Graph, store: Store) -> Plain:
    """What the page runs for one datum: inputs and outputs by name, constants by place, and
    operations in their order, ``[number, name, numbers of the operands, settings]``.

    What does not depend on the inputs is computed here.

    Raises:
        Unspoken: an operation that the page does not know.
    """
    made = _Lowering(store)
    inputs = {n: made.slot(v[:1].float()) for n, v in graph.inputs.items()}
    outputs = made.run(graph.module, list(inputs.values()))
    kept = [made.operand(value).number for value in outputs]
    return {
        "inputs": {name: slot.number for name, slot in inputs.items()},
        "constants": made.constants,
        "steps": made.steps,
        "outputs": dict(zip(graph.outputs, kept, strict=True)),
    }


def halved(graph: Graph) -> Graph:
    """The same graph with large weights as they are in half precision."""
    module = fx.GraphModule(graph.module, graph.module.graph)
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = getattr(module, str(node.target))
            if value.numel() >= SMALL and value.is_floating_point():
                setattr(module, str(node.target), _rounded(value.detach()))
    return Graph(module, graph.inputs, graph.outputs)


def _rounded(value: Tensor) -> Any:
    return torch.nn.Parameter(value.half().to(value.dtype), requires_grad=False)


@dataclass
class _Lowering:
    """One network on its way to the page."""

    store: Store
    steps: list[object] = field(default_factory=list)
    constants: dict[int, list[object]] = field(default_factory=dict)
    count: int = 0
    known: dict[int, tuple[Tensor, Slot]] = field(default_factory=dict)

    def slot(self, like: Tensor) -> Slot:
        self.count += 1
        return Slot(self.count - 1, like.detach().clone(memory_format=torch.contiguous_format))

    def operand(self, value: Slot | Tensor | float) -> Slot:
        """A slot for a value, which is kept as a constant where it is none."""
        if isinstance(value, Slot):
            return value
        tensor = value if isinstance(value, Tensor) else torch.tensor(value)
        if id(tensor) not in self.known:
            slot = self.slot(tensor)
            self.constants[slot.number] = self.store.add(slot.like)
            self.known[id(tensor)] = (tensor, slot)
        return self.known[id(tensor)][1]

    def emit(self, name: str, given: Sequence[Any], like: Tensor, **settings: object) -> Slot:
        numbers = [self.operand(value).number for value in given]
        slot = self.slot(like)
        self.steps.append([slot.number, name, numbers, settings])
        return slot

    def run(self, module: fx.GraphModule, given: Sequence[Any]) -> list[Any]:
        """The outputs of a graph whose inputs are slots, or known."""
        values: dict[fx.Node, Any] = {}
        waiting = iter(given)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(waiting)
            elif node.op == "get_attr":
                values[node] = getattr(module, str(node.target)).detach()
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                if node.op == "output":
                    return tree_leaves(args[0])
                values[node] = self.call(node.target, args, kwargs)
        raise AssertionError("a graph ends with its output")

    def call(self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = [v for v in tree_leaves((args, dict(kwargs))) if isinstance(v, Slot)]
        if not given or not isinstance(target, torch._ops.OpOverload):
            return target(*args, **kwargs)  # known, or an entry of a list
        examples = tree_map(lambda v: v.like if isinstance(v, Slot) else v, (args, dict(kwargs)))
        shown = target(*examples[0], **examples[1])
        name = target._schema.name.removeprefix("aten::")
        if name == "sym_size" or name in LIKE:
            return shown
        if rule := _RULES.get(name):
            return rule(self, target, args, dict(kwargs), shown)
        if target.is_view:
            return self.viewed(given[0], shown)
        return self.taken_apart(target, args, kwargs, shown)

    def viewed(self, slot: Slot, shown: Tensor | list[Tensor]) -> Any:
        """Entries of a contiguous value in another order, by strides."""
        if not isinstance(shown, Tensor):
            return [self.viewed(slot, each) for each in shown]
        if shown.is_contiguous() and shown.numel() == slot.like.numel():
            return Slot(slot.number, shown)
        places = {"size": list(shown.shape), "stride": list(shown.stride())}
        return self.emit("strided", [slot], shown, **places, offset=shown.storage_offset())

    def taken_apart(
        self, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], shown: Any
    ) -> Any:
        """An operation by simpler ones, as torch itself takes it apart."""
        parts = decomposition_table.get(target)
        if parts is None:
            raise Unspoken(str(target))
        leaves = tree_leaves((args, dict(kwargs)))
        given = [v for v in leaves if isinstance(v, Slot | Tensor)]

        def simpler(*values: Tensor) -> Any:
            each = iter(values)
            put = tree_map(
                lambda v: next(each) if isinstance(v, Slot | Tensor) else v, (args, dict(kwargs))
            )
            return parts(*put[0], **put[1])

        examples = [v.like if isinstance(v, Slot) else v for v in given]
        found = self.run(graph_of(simpler, *examples), given)
        return found[0] if isinstance(shown, Tensor) else found

    def spread(self, value: Any, shape: Sequence[int]) -> Slot:
        """An operand as large as the result; one number stays one."""
        slot = self.operand(value)
        if slot.like.numel() == 1 or list(slot.like.shape) == list(shape):
            return slot
        expanded: Slot = self.viewed(slot, slot.like.expand(*shape))
        return expanded

    def rows(
        self, name: str, value: Any, dims: Sequence[int], shown: Tensor, **settings: object
    ) -> Slot:
        """A function of the entries along some dimensions, which are laid last for it."""
        slot = self.operand(value)
        all_dims = range(slot.like.dim())
        chosen = [d % max(1, slot.like.dim()) for d in dims] or list(all_dims)
        order = [d for d in all_dims if d not in chosen] + chosen
        turned = self.viewed(slot, slot.like.permute(order))
        length = math.prod(slot.like.shape[d] for d in chosen)
        if name != "softmax":
            return self.emit(name, [turned], shown, length=length, **settings)
        made = self.emit(name, [turned], shown.permute(order), length=length)
        back: Slot = self.viewed(made, made.like.permute([order.index(d) for d in all_dims]))
        return back


# --- rules: how one operation of ATen is said ---------------------------------------------------

Rule = Callable[[_Lowering, Any, tuple[Any, ...], dict[str, Any], Any], Any]


def _entrywise(name: str) -> Rule:
    def rule(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
        given = list(args[: 1 if name in UNARY or name == "logical_not" else 2])
        if kwargs.get("alpha", 1) != 1:
            given[1] = to.call(torch.ops.aten.mul.Tensor, (given[1], kwargs["alpha"]), {})
        made = to.emit(name, [to.spread(v, shown.shape) for v in given], shown)
        if kwargs.get("rounding_mode"):
            made = to.emit(kwargs["rounding_mode"], [made], shown)
        return made

    return rule


def _reduced(name: str) -> Rule:
    def rule(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        dims = [] if dims is None else [dims] if isinstance(dims, int) else list(dims)
        return to.rows(name, args[0], dims, shown)

    return rule


def _variance(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    value, dims, *correction = args
    given = float(correction[0] if correction else kwargs.get("correction", 1.0))
    return to.rows("variance", value, dims or [], shown, correction=given)


def _same(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    return Slot(to.operand(args[0]).number, shown.contiguous())


def _copied(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    """Other kinds of numbers are the same numbers on the page, whole or not."""
    if shown.dtype == torch.bool:
        return to.emit("ne", [args[0], 0.0], shown)
    if not shown.is_floating_point() and args[0].like.is_floating_point():
        return to.emit("trunc", [args[0]], shown)
    return _same(to, _, args, kwargs, shown)


def _where(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    return to.emit("where", [to.spread(v, shown.shape) for v in args], shown)


def _clamped(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Any:
    least, most = [*args[1:], None, None][:2]
    least, most = kwargs.get("min", least), kwargs.get("max", most)
    made = args[0]
    if least is not None:
        made = to.emit("maximum", [made, to.spread(least, shown.shape)], shown)
    return made if most is None else to.emit("minimum", [made, to.spread(most, shown.shape)], shown)


def _put(to: _Lowering, target: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    """Values where a mask says so."""
    base, (mask, *more), value = args[:3]
    if more or isinstance(mask, Slot) or mask.dtype != torch.bool or value.numel() != 1:
        raise Unspoken(str(target))
    return _where(to, target, (mask, value, base), kwargs, shown)


def _joined(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    parts = [to.operand(v) for v in args[0]]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % shown.dim()
    lengths = [math.prod(p.like.shape[dim:]) for p in parts]
    return to.emit("cat", parts, shown, lengths=lengths)


def _moved(to: _Lowering, target: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    """Entries of one value at places that are known, -1 where none is."""
    value, *rest = args
    if any(isinstance(v, Slot) for v in tree_leaves((rest, kwargs))):
        raise Unspoken(str(target))
    like = to.operand(value).like
    places = 1 + torch.arange(like.numel(), dtype=torch.float64).reshape(like.shape)
    fill = 0.0
    if target is torch.ops.aten.constant_pad_nd.default:
        fill = float([*rest, 0.0][1])
        rest = rest[:1]
    taken = target(places, *rest, **kwargs).to(torch.int32) - 1
    return to.emit("take", [value, taken], shown, fill=fill)


def _product(to: _Lowering, target: Any, args: Any, kwargs: Any, shown: Tensor) -> Any:
    """A matrix product, with what is added to it, or a batch of them."""
    *added, a, b = args
    a, b = to.operand(a), to.operand(b)
    batch = a.like.shape[0] if a.like.dim() == 3 else 1
    rows, inner = a.like.shape[-2:]
    sizes = {"batch": batch, "rows": rows, "inner": inner, "columns": b.like.shape[-1]}
    made = to.emit("product", [a, b], shown, **sizes)
    if kwargs:
        raise Unspoken(f"{target} with factors")
    return to.call(torch.ops.aten.add.Tensor, (made, *added), {}) if added else made


def _convolved(to: _Lowering, target: Any, args: Any, kwargs: Any, shown: Tensor) -> Slot:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    x, weight = to.operand(x), to.operand(weight)
    if x.like.dim() != 4:
        raise Unspoken(f"{target} in {x.like.dim() - 2} dimensions")
    settings = {"shape": list(x.like.shape[1:]), "result": list(shown.shape[1:])}
    settings |= {"kernel": list(weight.like.shape[2:]), "stride": list(stride), "groups": groups}
    settings |= {"padding": list(padding), "dilation": list(dilation), "transposed": transposed}
    given = [x, weight] if bias is None else [x, weight, bias]
    return to.emit("convolution", given, shown, **settings)


def _group_normalised(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Any) -> Any:
    """Groups of channels of one datum with mean 0 and variance 1, scaled and shifted."""
    x, weight, bias, _, channels, _, groups, eps = args
    shape = (1, channels, *[1] * (shown[0].dim() - 2))
    return _normalised(to, x, (weight, bias), shape, shown, x.like.numel() // groups, eps)


def _layer_normalised(to: _Lowering, _: Any, args: Any, kwargs: Any, shown: Any) -> Any:
    x, shape, weight, bias, eps = args
    return _normalised(to, x, (weight, bias), shape, shown, math.prod(shape), eps)


def _normalised(
    to: _Lowering, x: Slot, factors: Any, shape: Sequence[int], shown: Any, length: int, eps: float
) -> Any:
    made = to.emit("standardise", [x], shown[0], length=length, eps=eps)
    for name, factor in zip(("mul", "add"), factors, strict=True):
        if factor is not None:
            wide = to.call(torch.ops.aten.view.default, (to.operand(factor), shape), {})
            made = to.emit(name, [made, to.spread(wide, shown[0].shape)], shown[0])
    return [made, *shown[1:]]


_RULES: dict[str, Rule] = {
    **{name: _entrywise(name) for name in (*UNARY, *BINARY)},
    **{name: _entrywise(own) for name, own in OTHER_NAMES.items()},
    **{name: _reduced(own) for name, own in ROWS.items()},
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys((*MOVES, "constant_pad_nd"), _moved),
    **dict.fromkeys(("clamp", "clamp_min"), _clamped),
    **dict.fromkeys(("mm", "bmm", "addmm"), _product),
    "_unsafe_view": _same,
    "_to_copy": _copied,
    "where": _where,
    "index_put": _put,
    "cat": _joined,
    "convolution": _convolved,
    "native_group_norm": _group_normalised,
    "native_layer_norm": _layer_normalised,
    "prims::var": _variance,
}
