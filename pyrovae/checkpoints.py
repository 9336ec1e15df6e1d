"""The state of a training run: a tree of plain values and tensors, in a file that is whole."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.files import inside, read_tensors, write_tensors

__all__ = [
    "Checkpoints",
    "Memory",
    "check_alike",
    "copied",
    "flatten",
    "from_bytes",
    "identity_in",
    "to_bytes",
    "unflatten",
]

LAST, BEFORE = "checkpoints/last.safetensors", "checkpoints/before.safetensors"
NEXT = "checkpoints/next.safetensors"  # on its way to be the last one


def flatten(tree: object, where: str = "state") -> tuple[object, dict[str, Tensor]]:
    """A tree of dicts, lists, tuples, plain values and tensors as JSON's values, and its tensors.
    A dataclass is taken as the dict of its fields.

    Raises:
        UsageError: something else is in it.

    >>> plain, tensors = flatten({0: torch.ones(2), "betas": (0.9, 0.999)})
    >>> unflatten(plain, tensors)
    {0: tensor([1., 1.]), 'betas': (0.9, 0.999)}
    """
    tensors: dict[str, Tensor] = {}

    def plain(value: object, path: str) -> object:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
            return {"tensor": path}
        value = _fields(value)
        if isinstance(value, Mapping):
            return {"dict": [[k, plain(v, f"{path}.{k}")] for k, v in value.items()]}
        if isinstance(value, list | tuple):
            parts = [plain(part, f"{path}.{i}") for i, part in enumerate(value)]
            return parts if isinstance(value, list) else {"tuple": parts}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise UsageError(
            f"{path} is a {type(value).__name__}, which no checkpoint can hold; use an optimiser "
            f"and callbacks whose states are tensors and numbers"
        )

    return plain(tree, where), tensors


def _fields(value: object) -> Any:
    """A dataclass as the dict of its fields; anything else as it is."""
    if not dataclasses.is_dataclass(value):
        return value
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}


def unflatten(plain: object, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`flatten` took apart."""
    if isinstance(plain, list):
        return [unflatten(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "tuple":
        return tuple(unflatten(part, tensors) for part in value)
    return {k: unflatten(v, tensors) for k, v in value}


def identity_in(notes: object) -> dict[str, str]:
    """What the notes of a state's file say that it is a state of; empty where they say nothing.

    >>> identity_in({"state": {"dict": [["identity", {"dict": [["data", "9 data"]]}]]}})
    {'data': '9 data'}
    """
    try:
        fields = dict(notes["state"]["dict"])  # type: ignore[index]
        return {str(k): str(v) for k, v in fields["identity"]["dict"]}
    except (LookupError, TypeError, ValueError):
        return {}


class Checkpoints:
    """The last state of a run and the one before it, in the run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, state: object) -> None:
        """Make ``state`` the last one. At every moment a whole one is on disk.

        Raises:
            UsageError: it cannot be written; those that were there stay.
        """
        plain, tensors = flatten(state)
        last, new = inside(self.folder, LAST), inside(self.folder, NEXT)
        write_tensors(new, tensors, {"state": plain})
        if last.exists():
            last.replace(inside(self.folder, BEFORE))
        new.replace(last)

    def back(self) -> None:
        """Forget the last state where there is one before it."""
        before = inside(self.folder, BEFORE)
        if before.exists():
            before.replace(inside(self.folder, LAST))

    def close(self) -> None:
        """Keep the last state alone: the run is over."""
        if inside(self.folder, LAST).exists():
            inside(self.folder, BEFORE).remove()

    def there(self) -> bool:
        """Whether a state has been kept, whole or torn."""
        return any(inside(self.folder, name).exists() for name in (LAST, BEFORE))

    def read(self) -> Any:
        """The last state that is whole, or None where there has been none.

        Raises:
            UsageError: there are states, and none of them is whole.
        """
        torn = []
        for name in (LAST, BEFORE):
            file = inside(self.folder, name)
            if not file.exists():
                continue
            try:
                tensors, notes = read_tensors(file)
                state = unflatten(notes["state"], tensors)
            except (UsageError, LookupError, TypeError, ValueError, RecursionError) as error:
                torn.append(f"{error}")
                continue
            if torn:
                warnings.warn(f"{torn[0]}; the checkpoint before it is used", stacklevel=4)
            return state
        if torn:
            raise UsageError(
                f"no checkpoint of {self.folder} can be read: {'; '.join(torn)}. Start the run "
                f"anew (force=True, --force)"
            )
        return None


class Memory:
    """The last states of a run that has no folder."""

    def __init__(self) -> None:
        self.states: list[object] = []

    def write(self, state: object) -> None:
        """Make a copy of ``state`` the last one."""
        self.states = [*self.states[-1:], copied(state)]

    def back(self) -> None:
        """Forget the last state where there is one before it."""
        self.states = self.states[:1]

    def close(self) -> None:
        """Keep nothing: the run is over."""
        self.states = []

    def read(self) -> Any:
        """The last state, None where there is none."""
        return self.states[-1] if self.states else None


def check_alike(own: Any, other: Any, where: str = "state") -> None:
    """Raise ValueError where a state is not made like one's own: other fields, keys, types, shapes.

    >>> check_alike({"steps": [1, 2.0]}, {"steps": [3, 0.5]})
    >>> check_alike({"steps": [1, 2.0]}, {"steps": [3, "x"]})
    Traceback (most recent call last):
    ValueError: state.steps.1 is 'x'
    """
    own, other = _fields(own), _fields(other)
    if isinstance(own, Tensor):
        alike = isinstance(other, Tensor) and own.shape == other.shape and own.dtype == other.dtype
    elif isinstance(own, float):
        alike = type(other) in (float, int)
    elif isinstance(own, int):
        alike = type(own) is type(other) and abs(other) < 2**63
    else:
        alike = type(own) is type(other) and _keys(own) == _keys(other)
    if not alike:
        raise ValueError(f"{where} is {str(other)[:100]!r}")
    for key in _keys(own):
        check_alike(own[key], other[key], f"{where}.{key}")


def _keys(tree: object) -> list[object]:
    """The places in a tree's first level, in one order."""
    if isinstance(tree, list | tuple):
        return list(range(len(tree)))
    return sorted(tree, key=repr) if isinstance(tree, dict) else []


def copied(state: Any) -> Any:
    """The state with tensors of its own, on the CPU."""
    plain, tensors = flatten(state)
    return unflatten(plain, {n: t.to("cpu", copy=True) for n, t in tensors.items()})


def to_bytes(state: object) -> Tensor:
    """A state as one tensor of bytes, to send it to another process.

    >>> from_bytes(to_bytes({"step": 3, "rates": [torch.tensor(0.5)]}))
    {'step': 3, 'rates': [tensor(0.5000)]}
    """
    plain, tensors = flatten(state)
    kept = {n: t.to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    sent = safetensors.torch.save(kept, {"state": json.dumps(plain)})
    return torch.frombuffer(bytearray(sent), dtype=torch.uint8)


def from_bytes(sent: Tensor) -> Any:
    """The state that :func:`to_bytes` made bytes of."""
    raw = sent.numpy().tobytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return unflatten(json.loads(header["__metadata__"]["state"]), safetensors.torch.load(raw))
