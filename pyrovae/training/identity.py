"""What a run is a run of: named, so that another one is not taken for it when it goes on."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import traces
from pyrovae.components import describe
from pyrovae.errors import UsageError, in_short
from pyrovae.streams import Data
from pyrovae.svi import Snapshot
from pyrovae.traces import Args, Pair

__all__ = ["check", "of_data", "of_pair"]

Identity = dict[str, str]
PAIR = "pair."  # before the names of what the pair is made of
OPERATIONS = f"operations of the pair, torch {torch.__version__}"
SHOWN = 5  # differences that are named


def check(own: Identity, begun: Mapping[str, str]) -> None:
    """Refuse a run that was begun as another one. What an earlier version did not note is not
    compared.

    Raises:
        UsageError: what differs, by name.

    >>> check({"lr": "0.1", "pair.prior": "Laplace"}, {"lr": "0.1"})
    >>> check({"lr": "0.1"}, {"lr": "0.2"})
    Traceback (most recent call last):
    pyrovae.errors.UsageError: this is not the run that was begun: lr was 0.2, is now 0.1. ...
    """
    changed = list(_changes(own, begun))
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UsageError(
            f"this is not the run that was begun: {in_short('; '.join(changed[:SHOWN]), 1000)}"
            f"{more}. Resume with what it was begun with, or start anew (pv.load gives its weights)"
        )


def _changes(own: Identity, begun: Mapping[str, str]) -> Iterator[str]:
    """What was one thing and is another, of what both have noted."""
    noted = [any(name.startswith(PAIR) for name in each) for each in (own, begun)]
    for name in {**begun, **own}:
        was, now = begun.get(name, "not there"), own.get(name, "not there")
        both = name in own and name in begun
        if was == now or not (both or (name.startswith(PAIR) and all(noted))):
            continue
        if name == OPERATIONS:
            was, now = _less(was, now), _less(now, was)
        yield f"{name} was {was}, is now {now}"


def _less(words: str, others: str) -> str:
    """What a list has and another has not."""
    return " ".join(word for word in words.split() if word not in others.split()) or "less"


def of_data(
    data: Data, watched: Data, held_out: Data | None, few: Args, *, whole: bool
) -> Identity:
    """How many data there are, and what the first ones come to; if it is asked for the ``whole``,
    a checksum of those in memory too, which are all or those watched of a file."""
    first = few[0].detach().double().nansum() if data.in_memory else 0.0
    found = {
        "data": f"{len(data)} data (sum of the first {float(first):.6g})",
        "validation": "none" if held_out is None else f"{len(held_out)} data",
    }
    for name, part in (("data", watched), ("validation", held_out)):
        if whole and part is not None and part.stored:
            found[f"checksum of the {name}"] = f"{_checksum(part):08x}"
            found[f"binarisation of the {name}"] = part.binarise or "none"
    return found


def _checksum(data: Data) -> int:
    found = 0
    for tensor in data.stored:
        for rows in tensor.split(max(1, 2**24 // max(1, tensor[0].numel()))):
            found = zlib.crc32(_bytes(rows), found)
    return found


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data


def of_pair(program: Pair, few: Args) -> Identity:
    """What a pair is made of: as it describes itself where it can, else as it is seen to run."""
    try:
        described = describe(program.owner)
    except TypeError:
        return dict(_seen(program, few))
    return {PAIR + name: words for name, words in _entries("program", described)}


def _entries(path: str, described: object) -> Iterator[tuple[str, str]]:
    """The classes and arguments of a description, each with its path."""
    if isinstance(described, Mapping) and "class_path" in described:
        yield path, str(described["class_path"]).rpartition(".")[2]
        for name, value in described["init_args"].items():
            yield from _entries(name if path == "program" else f"{path}.{name}", value)
    elif isinstance(described, list) and any(isinstance(v, Mapping) for v in described):
        for i, value in enumerate(described):
            yield from _entries(f"{path}[{i}]", value)
    else:
        yield path, in_short(repr(described), 200)


class _Operations(TorchDispatchMode):
    """Notes which operations are done."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _seen(program: Pair, few: Args) -> Iterator[tuple[str, str]]:
    """Modules, sites and operations of programs that no description is known of."""
    before = Snapshot(program)
    for top, module in program.reach().modules.items():
        for name, part in module.named_modules(prefix=top):
            if not list(part.children()):
                yield f"{PAIR}module.{name}", in_short(repr(part), 200)
    with contextlib.suppress(UsageError), program.evaluating(), _Operations() as done:
        with torch.enable_grad():
            model, guide = traces.check(program, few)
        for where, trace in (("model", model), ("guide", guide)):
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and hasattr(site["fn"], "event_shape"):
                    yield f"{PAIR}{where}.{name}", _distribution(site["fn"])
        yield OPERATIONS, " ".join(sorted(done.names))
    before.put_back()


def _distribution(fn: object) -> str:
    """A distribution's family, and those of its parameters that are one constant number."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    constants = []
    for name in getattr(fn, "arg_constraints", {}):
        value = vars(fn).get(name)
        if isinstance(value, Tensor) and value.numel() and not value.requires_grad:
            first = value.flatten()[0]
            if bool((value == first).all()):
                constants.append(f"{name}={float(first):.6g}")
    return f"{type(fn).__name__}({', '.join(constants)})"
