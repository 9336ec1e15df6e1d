"""Tensors of real numbers from whatever Python holds numbers in, and what is none, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.errors import UsageError, got, in_short
from pyrovae.memory import fits

LEVELS, UNUSED = 256, 64  # of 8 bits; neighbouring levels that images may leave unused
CHANNELS = (1, 3, 4)  # grey, colour, colour and opacity
NARROW = 4  # what is no longer than this may be channels, or the side of a small image


def tensor(value: Any) -> Tensor:
    """A tensor of real numbers from anything NumPy takes, float64 arrays in the default dtype.

    What a NumPy mask hides and pandas calls missing becomes NaN; integers stay integers.

    Raises:
        UsageError: what holds no real numbers, with the way to make them of it.

    >>> tensor(np.ma.masked_array([1.0, 999.0], mask=[False, True]))
    tensor([1., nan])
    """
    if isinstance(value, Tensor):
        if not no_data(value):
            _check_repeats(value.stride(), tuple(value.shape), value.element_size())
        return value
    if isinstance(value, np.memmap) and not fits(value.nbytes, "cpu"):
        raise UsageError(
            f"a memory-mapped array of {value.nbytes:,} bytes does not fit in memory; it can be "
            f"streamed where it is all of the data: give x alone"
        )
    if is_sparse(value):
        nbytes = 8 * int(np.prod(value.shape))
        raise UsageError(
            f"this is {got(value)}, sparse, which is taken as x alone or as the first of a tuple "
            f"(x, y): give its toarray() ({nbytes:,} bytes) elsewhere"
        )
    values = _array(value)
    if values.dtype.kind not in "biuf":
        raise UsageError(_no_numbers(values))
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            _check_digits(values.compressed())
            values = np.ma.filled(values.astype(np.float64), np.nan)
        values = np.ma.getdata(values)
    _check_repeats(values.strides, values.shape, values.itemsize)
    return _native(np.asarray(values))


def _check_repeats(strides: Sequence[int], shape: Sequence[int], width: int) -> None:
    """Refuse an array that shows few numbers again and again (``expand``, ``broadcast_to``) as
    more of them than memory holds."""
    repeated = any(not stride and size > 1 for stride, size in zip(strides, shape, strict=True))
    nbytes = math.prod(shape) * width
    if repeated and not fits(nbytes, "cpu"):
        raise UsageError(
            f"the data show the same numbers again and again, as an array of {list(shape)} whose "
            f"{nbytes:,} bytes memory does not hold; give the numbers once"
        )


def is_sparse(value: object) -> bool:
    """Whether it is a sparse matrix, of SciPy or like SciPy's."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def _array(value: Any) -> np.ndarray:
    try:
        return _table(value) if hasattr(value, "iloc") else np.asanyarray(value)
    except (ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        why = in_short(error) or "memory does not hold them"
        raise UsageError(
            f"the data are not one rectangular array: {why}; give a tensor or an array of numbers"
        ) from error


def _native(values: np.ndarray) -> Tensor:
    """Numbers in a dtype, order and memory that torch knows."""
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        if values.size and values.max() > np.iinfo(np.int64).max:
            raise UsageError(
                f"x has a value of {values.max():,}, more than 64 bits with a sign hold; give "
                f"floats, or subtract what all of them have in common"
            )
        values = values.astype(np.int64)
    elif values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    found = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return found.to(torch.get_default_dtype()) if found.dtype == torch.float64 else found


def _table(frame: Any) -> np.ndarray:
    """The numbers of a pandas DataFrame or Series, its missing entries NaN."""
    columns = list(frame.dtypes.items()) if frame.ndim == 2 else [(frame.name, frame.dtype)]
    wrong = [(n, d) for n, d in columns if getattr(d, "kind", "O") not in "biuf"]
    if wrong:
        name, kind = wrong[0]
        raise UsageError(
            f"column {name!r} has dtype {kind}, not numbers; leave it out, or turn it into "
            f"numbers: pandas.factorize for names, pandas.to_numeric for numbers kept as text"
        )
    if bool(frame.isna().to_numpy().any()):
        return _with_nan(frame, [kind.kind for _, kind in columns])
    whole = all(d.kind in "biu" for _, d in columns)
    kept = np.asarray(frame)  # of one dtype, where there is one
    if kept.dtype.kind in "biuf":
        return kept
    made: np.ndarray = frame.to_numpy(dtype=np.int64 if whole else np.float64)
    return made


def _with_nan(frame: Any, kinds: list[str]) -> np.ndarray:
    """Numbers of which some are missing, as floats."""
    for at, kind in enumerate(kinds):
        if kind in "iu":
            column = frame.iloc[:, at] if frame.ndim == 2 else frame
            _check_digits(column.dropna().to_numpy(dtype=np.int64))
    found: np.ndarray = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return found


def _check_digits(known: np.ndarray) -> None:
    """Refuse integers beside missing ones, for which they become floats, that lose digits."""
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    if known.dtype.kind in "iu" and bool((known.astype(dtype).astype(known.dtype) != known).any()):
        raise UsageError(
            f"x has missing entries beside integers as large as {np.abs(known).max()}, whose last "
            f"digits would be lost in {np.dtype(dtype).name}: number them anew "
            f"(numpy.unique(x, return_inverse=True)), or convert them to floats yourself"
        )


def _no_numbers(values: np.ndarray) -> str:
    """What an array holds instead of real numbers, and what to do."""
    words = f"the data have dtype {values.dtype}, not real numbers"
    if values.dtype.kind in "US":
        few = ", ".join(map(repr, values.ravel()[:2].tolist()))
        return (
            f"{words} but strings such as {in_short(few, 60)}; turn names into numbers "
            f"(numpy.unique(x, return_inverse=True)), or give them as labels if they are classes"
        )
    if values.dtype.kind == "O":
        kinds = sorted({type(one).__name__ for one in values.ravel()[:1000].tolist()})
        return (
            f"{words} but Python objects ({', '.join(kinds[:5])}); write NaN for what is missing "
            f"and convert the rest with array.astype('float32')"
        )
    return f"{words}; convert them, for example with array.astype('float32')"


def no_data(tensor: Tensor) -> str:
    """What keeps a tensor from being data, if something does."""
    kinds = {
        "complex": tensor.is_complex(),
        "nested": tensor.is_nested,
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "on the meta device, which holds no values": tensor.is_meta,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def channels_last(shape: Sequence[int]) -> bool | None:
    """Whether an image of this shape is [H, W, C], by its shape; None where it may be either.

    Channels are 1, 3 or 4. Where the last axis alone is as many and height and width are more than
    4, it holds the channels.

    >>> channels_last((28, 28, 1)), channels_last((3, 32, 32)), channels_last((3, 3, 3))
    (True, False, None)
    """
    if len(shape) != 3:
        return False
    first = shape[0] in CHANNELS and min(shape[1:]) > 1
    last = shape[2] in CHANNELS and min(shape[:2]) > 1
    return None if first and last else last and min(shape[:2]) > NARROW


def may_be_image(x: Tensor) -> bool:
    """Whether only the values tell 8-bit pixels from other numbers: uint8 with three axes."""
    return x.dtype == torch.uint8 and x.ndim >= 3


def scaled_by(x: Tensor, scale: float | None = None, remedy: str = "") -> float | None:
    """What stored values are to be divided by, None for nothing: as ``scale`` says, the value of
    white or 1, else as the values of uint8 with three axes or more tell (:func:`divisor`).

    Raises:
        UsageError: values that may be pixels or not.
    """
    if scale is not None:
        return None if scale == 1 else scale
    return divisor(x, remedy) if may_be_image(x) else None


def divisor(x: Tensor, remedy: str = "") -> int | None:
    """What uint8 values are to be divided by: 255 for 8-bit images, None for other numbers.

    A dtype is no meaning, so the values decide. 0 and 1 alone are taken as they are. Values all
    over 0 to 255 (no 64 neighbouring levels unused), or 0 and 255 alone, are pixels.

    Raises:
        UsageError: values that may be either.

    >>> divisor(torch.arange(256).to(torch.uint8)), divisor(torch.ones(2, dtype=torch.uint8))
    (255, None)
    """
    seen = torch.zeros(LEVELS, dtype=torch.bool)
    for part in x.reshape(-1).split(2**20):
        seen |= torch.bincount(part.int(), minlength=LEVELS).cpu() > 0
        levels = seen.nonzero()[:, 0]
        ends = torch.cat([levels.new_zeros(1), levels, levels.new_full((1,), LEVELS - 1)])
        if int(ends.diff().max()) <= UNUSED:
            return LEVELS - 1
    found = set(levels.tolist()) if x.numel() else {0}
    if found <= {0, 1}:
        return None
    if found <= {0, LEVELS - 1}:
        return LEVELS - 1
    raise UsageError(
        f"x is uint8 of shape {list(x.shape)} with values from {min(found)} to {max(found)}, "
        f"which may be 8-bit pixels or other numbers: "
        + (
            remedy
            or "give pv.data.TensorData(x, divisor=255) for pixels, x / 255, or x.float() "
            "for the values as they are"
        )
    )
