"""What values a distribution takes: in words, one of them, and how several are put together.

All of it is read from the support itself (its bounds, what it accepts), so that a support which
nobody thought of is spoken of like the others.
"""

from __future__ import annotations

import re
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from pyrovae.distributions import Columns

__all__ = ["bare", "discrete", "dividing_edges", "entries", "in_words", "inside", "voted"]

# what a support of single numbers accepts of these tells its kind
_PROBES = (0.0, 1.0, 0.5, -1.0, 2.0, -1.5)
_NUMBERS_IN_WORDS = {
    frozenset(_PROBES): "real numbers",
    frozenset({0.0, 1.0}): "0 or 1",
    frozenset({0.0, 1.0, 2.0, -1.0}): "whole numbers",
}
_VECTORS = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [2.0, 1.0, 0.0]])
_VECTORS_IN_WORDS: dict[tuple[bool, ...], str] = {
    (True, True, False, False): "vectors of numbers from 0 on that add up to 1",
    (False, True, False, False): "vectors of a single 1 among zeros",
    (False, True, True, False): "vectors of length 1",
}


def entries(fn: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution of single entries."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def bare(fn: dist.TorchDistribution) -> Constraint | None:
    """The support of a distribution's single entries; None where it declares none.

    >>> bare(dist.Normal(torch.zeros(3), 1.0).to_event(1))
    Real()
    """
    try:
        support = entries(fn).support
    except (NotImplementedError, AttributeError):
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return None if support is None or constraints.is_dependent(support) else support


def discrete(fn: dist.TorchDistribution, value: Tensor) -> bool:
    """Whether a distribution's values are discrete; by the dtype of one where it does not say."""
    support = bare(fn)
    return not value.is_floating_point() if support is None else bool(support.is_discrete)


def in_words(support: Constraint | None) -> str:
    """What a support holds.

    >>> in_words(constraints.positive), in_words(constraints.integer_interval(0, 9))
    ('positive numbers', 'whole numbers from 0 to 9')
    """
    if support is None:
        return "values of a support that it does not declare"
    if words := getattr(support, "words", ""):
        return str(words)
    if hasattr(support, "cseq"):
        return "; ".join(dict.fromkeys(in_words(bare_part) for bare_part in support.cseq))
    return _of_vectors(support) if support.event_dim else _of_numbers(support)


def _of_numbers(support: Constraint) -> str:
    kind = "whole numbers" if support.is_discrete else "numbers"
    low, high = _bounds(support)
    if low is None and high is None:
        accepted = frozenset(v for v in _PROBES if _accepts(support, v))
        return _NUMBERS_IN_WORDS.get(accepted, _by_name(support))
    if high is None:
        return _from(support, low, kind)
    if low is None:
        return f"{kind} {'up to' if _accepts(support, high) else 'below'} {_shown(high)}"
    return f"{kind} from {_shown(low)} to {_shown(high)}"


def _from(support: Constraint, low: Tensor | float, kind: str) -> str:
    if _accepts(support, low):
        return f"{kind} from {_shown(low)} on"
    return "positive numbers" if _shown(low) == "0" else f"{kind} above {_shown(low)}"


def _of_vectors(support: Constraint) -> str:
    if hasattr(support, "upper_bound"):
        return (
            f"vectors of whole numbers from 0 on that add up to {_shown(support.upper_bound)}"
            if support.is_discrete
            else _by_name(support)
        )
    if support.event_dim == 1:
        accepted = tuple(_accepts(support, row) for row in _VECTORS)
        return _VECTORS_IN_WORDS.get(accepted, _by_name(support))
    return _by_name(support)


def _by_name(support: Constraint) -> str:
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", type(support).__name__) or ["unknown"]
    return f"values that are {' '.join(words).lower()}"


def _bounds(support: Constraint) -> tuple[Any, Any]:
    return getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)


def _shown(bound: Tensor | float) -> str:
    values = torch.as_tensor(bound).unique()
    if values.numel() == 1:
        return f"{values.item():g}"
    return f"a bound that differs from datum to datum ({values.min():g} to {values.max():g})"


def _accepts(support: Constraint, value: Tensor | float) -> bool:
    try:
        found = support.check(value)  # of a plain number where it can be: a step may be traced
    except (AttributeError, TypeError):
        return not isinstance(value, Tensor) and _accepts(support, torch.tensor(value))
    except (RuntimeError, ValueError, NotImplementedError, IndexError):
        return False
    return bool(found.all()) if isinstance(found, Tensor) else bool(found)


def inside(support: Constraint | None, like: Tensor) -> Tensor | None:
    """A value within a support, which broadcasts with values ``like``; None where none is known.

    >>> inside(constraints.positive, torch.zeros(2)), inside(constraints.simplex, torch.zeros(2))
    (tensor(1.), tensor([0.5000, 0.5000]))
    """
    if support is None:
        return None
    if hasattr(support, "cseq"):
        columns = [inside(part, like) for part in support.cseq]
        found = [c for c in columns if c is not None]
        whole = len(found) == len(columns)
        return torch.stack(torch.broadcast_tensors(*found), -1) if whole else None
    value = _vector(support, like) if support.event_dim else _number(support, like)
    if value is None:
        return None
    return value.to(like.device, like.dtype if like.is_floating_point() else value.dtype)


def _number(support: Constraint, like: Tensor) -> Tensor | None:
    low, high = (None if b is None else torch.as_tensor(b) for b in _bounds(support))
    if low is not None:
        if support.is_discrete:
            return low.to(torch.get_default_dtype())
        return low + 1.0 if high is None else (low + high) / 2
    if high is not None:
        return high.to(torch.get_default_dtype()) - float(not support.is_discrete)
    found = next((v for v in _PROBES if _accepts(support, v)), None)
    return None if found is None else torch.tensor(found)


def _vector(support: Constraint, like: Tensor) -> Tensor | None:
    shape = like.shape[like.dim() - support.event_dim :]
    if support.is_discrete:
        value = torch.zeros(shape)
        value[..., 0] = torch.as_tensor(getattr(support, "upper_bound", 1.0)).max()
    else:
        try:
            to = transform_to(support)
            value = to(torch.zeros(to.inverse_shape(shape)))
        except (NotImplementedError, RuntimeError, ValueError):
            return None
    return value if _accepts(support, value) else None


def dividing_edges(fn: dist.TorchDistribution, value: Tensor) -> tuple[float, ...]:
    """The ends of a continuous support that belong to it, and where the density of some of the
    values' entries is 0 or infinite: 0 under a Gamma."""
    support = bare(fn)
    if support is None or support.event_dim or hasattr(support, "cseq") or support.is_discrete:
        return ()
    ends = [b for b in _bounds(support) if isinstance(b, int | float)]
    return tuple(
        float(end)
        for end in ends
        if _accepts(support, float(end))
        and not bool(entries(fn).log_prob(torch.full_like(value, end)).isfinite().all())
    )


def voted(fn: dist.TorchDistribution) -> Tensor:
    """Which entries are classes, discrete values without a mean, so that several of them are
    put together by vote; broadcasts with a value."""
    single = entries(fn)
    columns = single.columns if isinstance(single, Columns) else [single]
    return torch.tensor([_classes(entries(column)) for column in columns])


def _classes(fn: dist.TorchDistribution) -> bool:
    support = bare(fn)
    if support is None or not support.is_discrete:
        return False
    try:
        return bool(fn.mean.isnan().all())
    except (NotImplementedError, AttributeError):
        return not support.event_dim
