"""A number that is none is refused in a sentence that names it, by every verb that takes one."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import pytest
import torch

import pyrovae as pv

X = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).round()
GAPS = torch.where(torch.arange(4) == 1, torch.nan, X)
VERBS = {name: getattr(pv, name) for name in pv.__all__ if inspect.isfunction(getattr(pv, name))}
# what a verb is given where x is not enough
OTHERS: dict[str, dict[str, Any]] = {
    "disentanglement": {"codes": torch.randn(60, 2), "factors": torch.arange(60)[:, None] % 3},
    "fit_codes": {"x": X.repeat(8, 1)},
    "impute": {"x": GAPS},
    "interpolate": {"a": X[:1], "b": X[1:2]},
    "neighbours": {"among": X},
    "predictive_check": {"statistic": torch.mean},
    "sample": {"n": 2},
    "to_arviz": {"x": X},
}
WORDS = {"held_out": "hold out"}
NUMBERS = [
    (verb, name)
    for verb, function in VERBS.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if re.fullmatch(r"(int|float|Seed)( \| None)?", str(parameter.annotation)) and verb != "fit"
]


@functools.cache
def pair() -> pv.VAE:
    return pv.VAE((4,), 2)


def called(verb: str, **options: object) -> object:
    function = VERBS[verb]
    taken = inspect.signature(function).parameters
    given: dict[str, Any] = {"pair": pair(), "x": X, **OTHERS.get(verb, {})}
    return function(**{n: v for n, v in given.items() if n in taken} | options)


def test_numbers_are_found() -> None:
    assert len(NUMBERS) > 50 and {"seed", "chunk_bytes", "span"} <= {name for _, name in NUMBERS}


@pytest.mark.parametrize(("verb", "name"), NUMBERS)
def test_what_is_no_number_is_said(verb: str, name: str) -> None:
    if verb == "to_arviz":
        pytest.importorskip("arviz")
    method = {"log_evidence": "method", "evaluate": "evidence"}.get(verb)
    annealed = method is not None and name in ("chains", "temperatures", "leapfrogs", "tolerance")
    options = {method: "ais"} if annealed else {}
    for wrong in ("a", -1.5, [2]):
        with pytest.raises(pv.UsageError, match=rf"\b{WORDS.get(name, name)}\b"):
            called(verb, **options, **{name: wrong})


def test_what_belongs_to_another_method_is_said() -> None:
    with pytest.raises(pv.UsageError, match="tolerance is how far.*give evidence='ais'"):
        pv.evaluate(pair(), X, 10, tolerance=0.1)
