"""Verbs that are asked of a DataFrame answer with one."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pyrovae.schema import frame_of, is_frame
from pyrovae.traces import Pair, as_pair

__all__ = ["codes_table", "flat", "framed", "unit_names"]

F = TypeVar("F", bound=Callable[..., Any])


def framed(verb: F) -> F:
    """The same verb; of a DataFrame whose columns the pair models it gives a DataFrame with the
    same index. Values ``[N, columns]`` are columns of the table, ``[draws, N, columns]`` the
    tables of all draws below each other, codes a column per unit, a number per datum a Series.
    """

    @functools.wraps(verb)
    def called(pair: object, x: object, *args: Any, **options: Any) -> Any:
        found = verb(pair, x, *args, **options)
        program = as_pair(pair)
        if program.schema is None or not is_frame(x):
            return found
        return _table(verb.__name__, program, found, frame_of(x).index)

    return cast(F, called)


def _table(name: str, program: Pair, found: Any, index: Any) -> Any:
    import pandas as pd

    schema = program.schema
    assert schema is not None
    if name == "encode":
        return codes_table(found, index)
    if isinstance(found, Tensor) and found.dim() == 1:
        return pd.Series(found.cpu().numpy(), index, name=name)
    columns = len(schema.columns)
    if not isinstance(found, Tensor) or found.shape[-1] != columns or found.dim() > 3:
        return found
    if found.dim() == 2:
        return schema.decode(found, index)
    tables = [schema.decode(draw, index) for draw in found]
    return pd.concat(tables, keys=range(len(tables)), names=["draw"])


def unit_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A name for each unit of a pair's latents, whose shapes are given by name: z0, z1, ..., of
    several latents z1.0, z1.1, ...."""
    apart = "" if len(shapes) == 1 else "."
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return [f"{name}{apart}{k}" for name, size in sizes.items() for k in range(size)]


def flat(codes: Mapping[str, Tensor]) -> Tensor:
    """All codes of a datum as one vector, ``[N, units]``, whatever their shapes."""
    return torch.cat([code.reshape(len(code), -1) for code in codes.values()], 1)


def codes_table(found: Tensor | Mapping[str, Tensor], index: object = None) -> Any:
    """Codes ``[N, ...]``, of one latent or several by name, as a DataFrame: a column per unit."""
    import pandas as pd

    codes = {"z": found} if isinstance(found, Tensor) else dict(found)
    names = unit_names({name: tuple(code.shape[1:]) for name, code in codes.items()})
    return pd.DataFrame(flat(codes).double().cpu().numpy(), cast(Any, index), names)
