"""What is refused before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrovae import traces
from pyrovae.errors import UsageError, got, in_short
from pyrovae.objectives import Objective
from pyrovae.traces import Args, Pair, Structure

__all__ = ["Optimizer", "adds", "check_analytic", "in_words", "made"]

Optimizer = Callable[[list[Tensor], float], torch.optim.Optimizer]


def check_analytic(shape: Structure) -> None:
    """Refuse a closed form of the KL where it would be wrong."""
    unsafe = [n for n in shape.latents if n not in shape.closed_form]
    scored = [n for n in shape.latents if n not in shape.pathwise]
    if scored:
        raise UsageError(
            f"TraceMeanField_ELBO differentiates through the draws of {', '.join(scored)}, "
            f"which are not reparameterised: gradients would be wrong. Use Trace_ELBO(), or "
            f"enumerate a discrete site with TraceEnum_ELBO()"
        )
    if unsafe:
        raise UsageError(
            f"TraceMeanField_ELBO would be silently wrong here: in the model, the site(s) "
            f"{', '.join(unsafe)} come after latents that the guide draws later, so their KL "
            f"has no closed form given what the guide has drawn. Use Trace_ELBO(), or draw "
            f"the guide's sites in the model's order"
        )


def adds(program: Pair, few: Args, shape: Structure | None) -> bool:
    """Whether the loss of a batch is the sum of its parts' losses, or their mean; by this process
    or by several. Refuse what may not be taken in parts."""
    sums = traces.adds(program, few)
    if sums and shape is not None and shape.globals:
        raise UsageError(
            f"every part of a batch would count {', '.join(shape.globals)}, which all "
            f"data share, once more. Say for how many data the plate stands: "
            f"pyro.plate({shape.plate!r}, N, subsample_size=len(x))"
        )
    return sums


def made(make: Optimizer, leaves: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimiser, if it is one whose steps need no function of the loss."""
    say = "optimizer(parameters, lr) must give a torch.optim optimiser such as torch.optim.Adam"
    try:
        found = make(leaves, lr)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{say}; it does not work here: {in_short(error)}") from error
    if not isinstance(found, torch.optim.Optimizer):
        raise UsageError(f"{say}, got {got(found)}")
    if isinstance(found, torch.optim.LBFGS):
        raise UsageError(f"{say}; LBFGS evaluates the loss many times a step, on other noise")
    return found


def in_words(loss: Any) -> str:
    """A loss and the plain values that it was made of."""
    if isinstance(loss, Objective):
        return repr(loss)
    plain = {k: v for k, v in vars(loss).items() if isinstance(v, bool | int | float | str)}
    return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(plain.items()))})"
