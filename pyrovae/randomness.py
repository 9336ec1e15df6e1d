"""Every random state there is: Python's, NumPy's, torch's on the CPU and on the device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pyrovae.errors import whole_number

__all__ = ["check_seed", "own_randomness", "pack", "put_back", "set_seed", "states", "unpack"]

States = dict[str, Tensor]


def states(generators: Sequence[torch.Generator] = ()) -> States:
    """The states at this moment, those of the generators included, each of one size for ever.

    >>> before = states()
    >>> first = torch.rand(2), np.random.rand(), random.random()
    >>> put_back(before)
    >>> again = torch.rand(2), np.random.rand(), random.random()
    >>> torch.equal(first[0], again[0]), first[1:] == again[1:]
    (True, True)
    """
    _, words, spare = random.getstate()
    legacy: tuple = np.random.get_state()  # type: ignore[type-arg,assignment]
    _, keys, position, has_spare, numpy_spare = legacy
    found = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words),
        "python_spare": torch.tensor([spare is not None, spare or 0.0], dtype=torch.float64),
        "numpy": torch.from_numpy(np.append(keys, position).astype(np.int64)),
        "numpy_spare": torch.tensor([has_spare, numpy_spare], dtype=torch.float64),
    }
    if torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state()
    found |= {f"generator{i}": g.get_state() for i, g in enumerate(generators)}
    return found


def put_back(found: Mapping[str, Tensor], generators: Sequence[torch.Generator] = ()) -> None:
    """The states as they were when :func:`states` was asked.

    Raises:
        ValueError: they are no states. Those that stand before the bad one are put back.
    """
    torch.set_rng_state(found["torch"])
    has_spare, spare = found["python_spare"].tolist()
    random.setstate((3, tuple(found["python"].tolist()), spare if has_spare else None))
    *keys, position = found["numpy"].tolist()
    if not 0 <= position <= len(keys) or not all(0 <= key < 2**32 for key in keys):
        raise ValueError("these are not states of NumPy's generator")
    has_spare, spare = found["numpy_spare"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, int(has_spare), spare))
    if "cuda" in found and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(found["cuda"])
    for i, generator in enumerate(generators):
        generator.set_state(found[f"generator{i}"])


def pack(found: Mapping[str, Tensor]) -> Tensor:
    """States as one tensor of bytes."""
    return torch.cat([found[name].reshape(-1).view(torch.uint8) for name in sorted(found)])


def unpack(packed: Tensor, like: Mapping[str, Tensor]) -> States:
    """What :func:`pack` made one of, given states of the same kinds.

    Raises:
        ValueError: they are of other kinds.

    >>> torch.equal(unpack(pack(states()), states())["numpy"], states()["numpy"])
    True
    """
    names = sorted(like)
    parts = packed.split([like[name].nbytes for name in names])
    return {
        name: part.clone().view(like[name].dtype) for name, part in zip(names, parts, strict=True)
    }


def check_seed(seed: int) -> int:
    """``seed``, if it is one; UsageError otherwise."""
    return whole_number("seed", seed, least=0, most=2**63 - 1)


def set_seed(seed: int) -> None:
    """Seed torch's draws, on every device; UsageError where it is no seed."""
    torch.manual_seed(check_seed(seed))


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Every global random state seeded, and as it was before afterwards."""
    before = states()
    try:
        set_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
    finally:
        put_back(before)
