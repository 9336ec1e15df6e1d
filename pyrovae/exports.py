"""The networks of a pair without it: files that torch or an ONNX runtime runs alone."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyro
import torch
from torch import Tensor, fx
from torch.func import functionalize

from pyrovae.errors import UsageError, in_short, nearest
from pyrovae.files import writing
from pyrovae.generation import expectation, on_example
from pyrovae.kernels import graph_of
from pyrovae.randomness import states
from pyrovae.traces import Args, Pair, Problem, as_pair

__all__ = ["export"]

Found: TypeAlias = dict[str, Tensor]
PARTS = ("encoder", "decoder")
SUFFIXES = (".pt2", ".onnx")
NOTES = "pyrovae.json"  # beside a program in its file
NEAR = 1e-5  # of the largest value: how near a graph must come to the programs
SIZES = (4, 6)  # numbers of data that it is traced for
MANY = 300  # and one that it is held against, beside few
HELD = 5  # that it is held against them on


def export(pair: object, path: str | Path, part: str = "encoder", *, like: object = None) -> Path:
    """Write a pair's encoder or decoder as a file that runs without pyrovae and Pyro.

    The encoder is :func:`pyrovae.encode`: x ``[N, *event_shape]`` as the programs take it (pixels
    in [0, 1], a table's numbers as ``schema.encode`` gives them, NaN where they are missing) to the
    means of q(z|x). The decoder is :func:`pyrovae.decode`: z ``[N, ...]`` to E[x|z], and a second
    input where the model conditions on one, as on labels. Several inputs and outputs have the names
    of the programs' arguments and sites. N is free. What is written has been compared with the pair
    on a few data.

    ``.pt2`` is torch's own form: ``torch.export.load(path).module()(x)``. ``.onnx`` is written for
    ONNX runtimes, with ``pip install "pyrovae[onnx]"``. Both hold a JSON text of names, and of the
    columns of a table with their levels and units (:meth:`pyrovae.schema.Schema.from_dict`)::

        notes = {"pyrovae.json": ""}
        torch.export.load(path, extra_files=notes)            # .pt2
        onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["pyrovae.json"]

    Args:
        pair: any pair whose data are independent of each other given what all share.
        path: a file that ends in ``.pt2`` or ``.onnx``.
        part: "encoder" or "decoder".
        like: data of the shapes that the programs take, where the pair does not know them.

    Returns:
        The file written. It appears whole or not at all.

    Raises:
        UsageError: another part or ending; ONNX is not installed; codes that are averages of
            draws; latents that all data share; programs that Python steers by their values, or that
            a graph does not repeat.

    >>> import tempfile
    >>> from pyrovae.vae import VAE
    >>> vae, x = VAE((4,), 2), torch.ones(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = export(vae, Path(folder) / "encoder.pt2")
    ...     encoder = torch.export.load(file).module()
    >>> encoder(x).shape
    torch.Size([3, 2])
    """
    file = Path(path)
    if part not in PARTS:
        raise UsageError(f"part is {' or '.join(PARTS)}, got {part!r}{nearest(str(part), PARTS)}")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"path is a file that ends in {' or '.join(SUFFIXES)}, got {file.name!r}")
    program = as_pair(pair)
    graph = graphed(program, part, like)
    notes: dict[str, object] = {"part": part, "inputs": list(graph.inputs)}
    notes["outputs"] = graph.outputs
    if program.schema is not None:
        notes["schema"] = program.schema.to_dict()
    with writing(file) as stream:
        write = _write_onnx if file.suffix == ".onnx" else _write_torch
        write(graph, stream, json.dumps(notes))
    return file


def graphed(program: Pair, part: str, like: object = None) -> Graph:
    """The graph of a part, on the CPU: what is written is for no machine in particular."""
    device, example = program.device, program.memory.example
    try:
        return Graph.of(program.to("cpu"), part, like)
    finally:
        program.to(device).memory.example = example


@dataclass(frozen=True)
class Graph:
    """A network as operations on tensors.

    Attributes:
        module: of them and of the weights that they use.
        inputs: some data by the names of its arguments, ``[n, ...]``.
        outputs: names of what it gives.
    """

    module: fx.GraphModule
    inputs: Found
    outputs: list[str]

    @classmethod
    def of(cls, pair: Pair, part: str, like: object) -> Graph:
        """The graph of a part, traced for a few data and held against the programs on others.

        The parts are those of :func:`export`, and "posterior": the encoder with the variances
        that :meth:`Problem.moments_once` gives beside the codes.
        """
        problem, rows = _example(pair, like, part)
        if problem.whole:
            raise UsageError(
                f"the {part} of this pair is no function of one datum: its programs tie the rows "
                f"of the data to each other (one graph, a parameter per datum), so there is none "
                f"to write"
            )
        names = _names(pair.model if part == "decoder" else pair.guide, len(rows))
        given = dict(zip(names, rows, strict=True))
        network: Callable[[Found], Found]
        if part != "decoder":
            _check_codes(problem, rows)
            once = problem.codes_once if part == "encoder" else problem.moments_once

            def network(values: Found) -> Found:
                return once(tuple(values[n] for n in names))
        else:
            problem.shape.refuse_globals()
            latents = _latents(problem, rows)
            with problem.pair.evaluating():
                expected = expectation(problem, rows, latents)
            given = {**latents, **{n: v for n, v in given.items() if n not in latents}}

            def network(values: Found) -> Found:
                batch = tuple(values[n] for n in names)
                return expected(batch, {n: values[n] for n in latents})

        with problem.pair.evaluating(), pyro.validation_enabled(False):
            found = _traced(network, given, part)
            _check_equal(found, network, {n: v[:HELD] for n, v in given.items()}, part)
            if problem.shape.size is None:  # a plate that has no size takes many
                many = torch.arange(MANY)
                _check_equal(found, network, {n: v[many % len(v)] for n, v in given.items()}, part)
        return found


def _example(pair: Pair, like: object, part: str) -> tuple[Problem, Args]:
    """The pair on a few data; of a guide on such with a gap, so that it knows what to do with
    them, where the programs do."""
    problem, rows = on_example(pair, like)
    rows = tuple(_several(a) for a in rows)
    gaps = tuple(_with_gap(a) if a.is_floating_point() else a for a in rows)
    if part != "decoder":
        try:
            return Problem.of(pair, gaps if len(gaps) > 1 else gaps[0], checked=False), gaps
        except UsageError:  # a joint density, or a condition
            pass
    return problem, rows


def _several(rows: Tensor) -> Tensor:
    return torch.cat([rows] * max(SIZES))[: max(SIZES)].cpu()


def _with_gap(rows: Tensor) -> Tensor:
    rows = rows.clone()
    rows.view(-1)[0] = torch.nan
    return rows


def _names(program: Callable[..., object], count: int) -> list[str]:
    """Names of the data that a program takes: its arguments', as far as it tells them."""
    known = [n for n, p in inspect.signature(program).parameters.items() if p.kind <= 1][:count]
    return [*known, *(f"x{k + 1}" for k in range(len(known), count))]


def _check_codes(problem: Problem, rows: Args) -> None:
    """Refuse codes that are averages of draws."""
    with problem.pair.evaluating(), pyro.validation_enabled(False):
        first, second = (problem.codes_once(rows) for _ in range(2))
    if not first:
        raise UsageError("the guide has no continuous latent in the plate over the data to encode")
    drawn = [n for n in first if not torch.equal(first[n], second[n])]
    if drawn:
        raise UsageError(
            f"the code of {', '.join(drawn)} is an average over draws of what it depends on, which "
            f"no file of this kind makes: export the decoder, or a pair whose guide gives the mean "
            f"of each latent without draws"
        )


def _latents(problem: Problem, rows: Args) -> Found:
    """A draw of every latent given the data, ``[n, ...]``."""
    with problem.pair.evaluating():
        torch.manual_seed(0)
        drawn = problem.latents(rows)
    return {n: problem.shape.by_datum(n, v).clone() for n, v in drawn.items()}


def _traced(network: Callable[[Found], Found], given: Found, part: str) -> Graph:
    """The operations of a network as a graph whose number of data is free, without what its output
    does not depend on: noise, densities, inputs."""
    outputs: list[str] = []

    def flat(*values: Tensor) -> list[Tensor]:
        found = network(dict(zip(given, values, strict=True)))
        outputs[:] = found
        return list(found.values())

    try:
        first, second = (
            graph_of(functionalize(flat), *(v[:n] for v in given.values())) for n in SIZES
        )
    except Exception as error:  # torch refuses in many ways what no graph can say
        raise UsageError(
            f"the {part} cannot be written as a graph of tensor operations: {in_short(error)}; "
            f"what Python decides by the values of tensors has no place in one"
        ) from error
    for module in (first, second):
        _prune(module.graph)
    try:
        _free(first, second)
    except ValueError as error:
        raise UsageError(
            f"the {part}'s operations are others for {SIZES[1]} data than for {SIZES[0]} "
            f"({in_short(error)}): it is written for any number of data, so a datum's values may "
            f"not depend on how many there are"
        ) from error
    names = _inputs(first.graph, list(given))
    graph = Graph(fx.GraphModule(first, first.graph), {n: given[n] for n in names}, outputs)
    _Draws(graph.module, part).run(*graph.inputs.values())
    return graph


def _prune(graph: fx.Graph) -> None:
    """Leave out of a graph, which changes nothing in place, what its output does not depend on."""
    for node in reversed(graph.nodes):
        if node.op not in ("output", "placeholder") and not node.users:
            graph.erase_node(node)


def _free(first: fx.GraphModule, second: fx.GraphModule) -> None:
    """Make a graph that was traced for one number of data one for any, given that for another:
    numbers that differ between the two are in proportion to that number, or as far from it.

    Raises:
        ValueError: what differs is no such number.
    """
    graph, others = first.graph, list(second.graph.nodes)
    nodes = list(graph.nodes)
    if [(n.op, n.name) for n in nodes] != [(n.op, n.name) for n in others]:
        raise ValueError("there are more or fewer of them")
    same = dict(zip(nodes, others, strict=True))
    count = _count(graph)

    def merged(own: Any, other: Any) -> Any:
        if isinstance(own, fx.Node) and same[own] is other:
            return own
        if isinstance(own, list | tuple) and len(own) == len(other):
            return type(own)(map(merged, own, other))
        if isinstance(own, int) and own != other:
            factor, rest = divmod(other - own, SIZES[1] - SIZES[0])
            if rest:
                raise ValueError(f"{own} and {other}")
            scaled = graph.call_function(operator.mul, (count, factor))
            return graph.call_function(operator.add, (scaled, own - factor * SIZES[0]))
        if own != other and repr(own) != repr(other):  # NaN is not itself
            raise ValueError(f"{own} and {other}")
        return own

    for node, other in same.items():
        _check_constant(node, first, second)
        with graph.inserting_before(node):
            node.args = merged(node.args, other.args)
            node.kwargs = {k: merged(v, other.kwargs[k]) for k, v in node.kwargs.items()}
    if not count.users:
        graph.erase_node(count)


def _count(graph: fx.Graph) -> fx.Node:
    """The number of data, read from an input that the output depends on."""
    places = [n for n in graph.nodes if n.op == "placeholder"]
    used = next((n for n in places if n.users), places[0])
    with graph.inserting_after(places[-1]):
        return graph.call_function(torch.ops.aten.sym_size.int, (used, 0))


def _check_constant(node: fx.Node, first: fx.GraphModule, second: fx.GraphModule) -> None:
    if node.op == "get_attr":
        own, other = (getattr(module, str(node.target)) for module in (first, second))
        alike = own.shape == other.shape and own.dtype == other.dtype
        if not alike or not torch.allclose(own, other, rtol=0, atol=0, equal_nan=True):
            raise ValueError(f"a constant {list(own.shape)} and {list(other.shape)}")


def _inputs(graph: fx.Graph, names: Sequence[str]) -> list[str]:
    """Name the inputs of a graph, and leave out those that nothing depends on."""
    left = []
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(places, names, strict=True):
        if node.users:
            node.target = node.name = name
            left.append(name)
        else:
            graph.erase_node(node)
    graph.lint()
    return left


class _Draws(fx.Interpreter):
    """Refuses a graph that draws: an operation of it moves the random state. That it may (attention
    whose share of dropped weights is 0) does not count.

    Args:
        module: of the graph.
        part: what it is the graph of.
    """

    def __init__(self, module: fx.GraphModule, part: str) -> None:
        super().__init__(module)
        self.part = part

    def run_node(self, n: fx.Node) -> Any:
        if torch.Tag.nondeterministic_seeded not in getattr(n.target, "tags", ()):
            return super().run_node(n)
        before = states()
        found = super().run_node(n)
        after = states()
        if any(not torch.equal(before[name], after[name]) for name in before):
            raise UsageError(
                f"what the {self.part} gives depends on draws ({n.target}), which differ from run "
                f"to run: give every latent a mean, or a value"
            )
        return found


def _check_equal(graph: Graph, network: Callable[[Found], Found], given: Found, part: str) -> None:
    found = graph.module(*(given[n] for n in graph.inputs))
    for own, (name, right) in zip(found, network(given).items(), strict=True):
        most = NEAR * max(1.0, float(right.abs().max()))
        if not torch.allclose(own, right.to(own), rtol=0, atol=most, equal_nan=True):
            raise UsageError(
                f"the {part}'s graph gives other values of {name!r} than the programs do: they "
                f"depend on a state, or on how many data there are; write programs that take any "
                f"number of data"
            )


# --- files ------------------------------------------------------------------------------------


def _exported(graph: Graph) -> torch.export.ExportedProgram:
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in graph.inputs)
    module = _Named(graph)
    return torch.export.export(module, tuple(graph.inputs.values()), dynamic_shapes=(free,))


class _Named(torch.nn.Module):
    """A graph whose output is a tensor, or several by name."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.network, self.names = graph.module, graph.outputs

    def forward(self, *values: Tensor) -> Tensor | Found:
        found = self.network(*values)
        return found[0] if len(found) == 1 else dict(zip(self.names, found, strict=True))


def _write_torch(graph: Graph, stream: IO[bytes], notes: str) -> None:
    held = io.BytesIO()  # what torch takes for a file
    torch.export.save(_exported(graph), held, extra_files={NOTES: notes})
    stream.write(held.getbuffer())


def _write_onnx(graph: Graph, stream: IO[bytes], notes: str) -> None:
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                'ONNX is not installed: pip install "pyrovae[onnx]", or write a .pt2'
            ) from error
    made: Any = torch.onnx.export(
        _exported(graph), (), dynamo=True, verbose=False,
        input_names=list(graph.inputs), output_names=graph.outputs,
    )  # fmt: skip
    made.model.metadata_props[NOTES] = notes
    stream.write(made.model_proto.SerializeToString())
