"""What a run is a run of: named, so that another one is not taken for it when it goes on."""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pyrovae import traces
from pyrovae.components import describe
from pyrovae.errors import UsageError, in_short
from pyrovae.processes import Processes
from pyrovae.streams import Data
from pyrovae.svi import Snapshot
from pyrovae.traces import Args, Pair
from pyrovae.training.keeping import shared

__all__ = ["changes_said", "check", "check_everywhere", "digest", "of_data", "of_pair"]

Identity = dict[str, str]
PAIR = "pair."  # before the names of what the pair is made of
OPERATIONS = f"operations of the pair, torch {torch.__version__}"
CODE = f"code of the programs, Python {sys.version_info.major}.{sys.version_info.minor}"
SAID = ("compile", "keep_best")  # what may change on the way
SHOWN = 5  # differences that are named
SMALL = 2**24  # bytes that are summed up one by one, in some milliseconds


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
    changed = [f"{name} was {was}, is now {now}" for name, was, now in _changes(own, begun)]
    if changed:
        raise UsageError(
            f"this is not the run that was begun: {_first(changed)}. Resume with what it was begun "
            f"with, or start anew (pv.load gives its weights)"
        )


def check_everywhere(own: Identity, processes: Processes) -> None:
    """Refuse processes that do not train the same: each would go its own way.

    Raises:
        UsageError: what differs, by name, in the process where it does.
    """
    first = shared(own if processes.first else None, processes)
    changed = [f"{name} is {now}, there {was}" for name, was, now in _changes(own, first)]
    if changed:
        raise UsageError(
            f"process {processes.rank} was started otherwise than process 0: {_first(changed)}. "
            f"Give all of them the same settings, pair and data"
        )


def changes_said(own: Identity, begun: Mapping[str, str]) -> str:
    """What has changed of that which may, in words; "" where nothing has.

    >>> changes_said({"compile": "True"}, {"compile": "False"})
    'compile was False, is now True'
    """
    both = [name for name in SAID if name in own and name in begun]
    changed = [name for name in both if own[name] != begun[name]]
    return "; ".join(f"{name} was {begun[name]}, is now {own[name]}" for name in changed)


def _first(changed: Sequence[str]) -> str:
    more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"{in_short('; '.join(changed[:SHOWN]), 1000)}{more}"


def _changes(own: Identity, begun: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(name, was, is) of what was one thing and is another, of what both have noted."""
    noted = _tells(own) and _tells(begun)
    for name in {**begun, **own}:
        was, now = begun.get(name, "not there"), own.get(name, "not there")
        both = name in own and name in begun
        if was == now or name in SAID or not (both or (name.startswith(PAIR) and noted)):
            continue
        if name in (OPERATIONS, CODE):
            was, now = _less(was, now), _less(now, was)
        yield name, was, now


def _tells(identity: Mapping[str, str]) -> bool:
    """Whether it says what the pair is made of."""
    return any(name.startswith(PAIR) for name in identity)


def _less(words: str, others: str) -> str:
    """What a list has and another has not."""
    return " ".join(word for word in words.split() if word not in others.split()) or "less"


def of_data(
    data: Data, watched: Data, held_out: Data | None, few: Args, *, whole: bool
) -> Identity:
    """How many data there are, of which shape, and what the first ones come to; if it is asked for
    the ``whole``, a digest of those in memory too, which are all or those watched of a file."""
    first = few[0].detach().double().nansum() if data.in_memory else 0.0
    found = {
        "data": f"{len(data)} data (sum of the first {float(first):.6g})",
        "validation": "none" if held_out is None else f"{len(held_out)} data",
    }
    if data.in_memory:
        found["shape of a datum"] = ", ".join(str(list(part.shape[1:])) for part in few)
    for name, part in (("data", watched), ("validation", held_out)):
        if whole and part is not None and part.stored:
            found[f"digest of the {name}"] = digest(part.stored)
            found[f"binarisation of the {name}"] = part.binarise or "none"
    return found


def digest(tensors: Sequence[Tensor]) -> str:
    """A number for the types, shapes and all the bytes of tensors, in hexadecimal.

    Of those beyond 16 MiB the sums of 512 bytes each are taken in their place, at the speed of
    memory: a hundredth of the time that it takes to load them.

    >>> digest([torch.arange(3)]) == digest([torch.arange(3)])
    True
    >>> digest([torch.arange(3)]) == digest([torch.tensor([1, 0, 2])])
    False
    """
    found = 0
    for tensor in tensors:
        found = zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode(), found)
        most = max(1, 2**24 * len(tensor) // max(1, tensor.numel()))  # rows at a time
        for rows in tensor.detach().split(most):
            flat = rows.contiguous().reshape(-1).view(torch.uint8)
            cut = 0 if tensor.nbytes <= SMALL else len(flat) // 512 * 512
            if cut:
                whole = flat[:cut] if flat.storage_offset() % 8 == 0 else flat[:cut].clone()
                found = zlib.crc32(_bytes(whole.view(torch.int64).view(-1, 64).sum(1)), found)
            found = zlib.crc32(_bytes(flat[cut:]), found)
    return f"{found:08x}"


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().numpy().data.cast("B") if len(tensor) else memoryview(b"")


def of_pair(program: Pair, few: Args) -> Identity:
    """What a pair is made of: as it describes itself where it can, else as it is seen to run; and
    what its user wrote of its code."""
    code = program.reach().code()
    own = {CODE: " ".join(code)} if code else {}
    try:
        described = describe(program.owner)
    except TypeError:
        return dict(_seen(program, few)) | own
    return {PAIR + name: words for name, words in _entries("program", described)} | own


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
