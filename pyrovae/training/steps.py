"""Steps of the optimiser: gradients by all processes and in parts, clipped; averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pyrovae.checkpoints import check_alike, copied
from pyrovae.errors import UsageError, got, in_short
from pyrovae.objectives import BetaELBO, Objective
from pyrovae.optimisers import fused_step, laid_out
from pyrovae.processes import Processes
from pyrovae.schedules import Schedule
from pyrovae.svi import Step
from pyrovae.traces import Args, Structure
from pyrovae.training.observed import Observed, refuse_closed_form

__all__ = ["Optimizer", "Recipe", "Steps"]

Optimizer = Callable[[list[Tensor], float], torch.optim.Optimizer]


@dataclass(frozen=True)
class Recipe:
    """How steps are taken; each field as :func:`pyrovae.fit` tells of it."""

    loss: ELBO | None
    optimizer: Optimizer | None
    lr: float
    lr_schedule: Schedule | None
    accumulate: int
    clip_norm: float | None
    ema: float | None
    compile: bool | str
    precision: str

    def objective(self, observed: Observed) -> ELBO:
        """The loss, or the one that fits the pair; refused where it would be wrong."""
        found = observed.structure
        if self.loss is None and observed.enumerates:
            return _summing(found)
        if isinstance(self.loss, TraceMeanField_ELBO) and found is not None:
            refuse_closed_form(found)
        return self.loss or Trace_ELBO()

    def build(self, leaves: list[Tensor]) -> torch.optim.Optimizer:
        """The optimiser, if it is one whose steps need no function of the loss."""
        say = "optimizer(parameters, lr) must give a torch.optim optimiser such as torch.optim.Adam"
        try:
            found = (self.optimizer or _adam)(leaves, self.lr)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{say}; it does not work here: {in_short(error)}") from error
        if not isinstance(found, torch.optim.Optimizer):
            raise UsageError(f"{say}, got {got(found)}")
        if isinstance(found, torch.optim.LBFGS):
            raise UsageError(f"{say}; LBFGS evaluates the loss many times a step, on other noise")
        return found


def _adam(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, fused=True)


class Steps:
    """The steps of a run.

    Args:
        observed: the pair, its leaves among it.
        recipe: how they are taken.
        processes: those that take them together.
        data_size: how many data there are to train on.

    Attributes:
        objective: what is minimised.
        loss: the last step's, a tensor without dimensions.
        optimizer: the ``torch.optim`` optimiser.
        average: the moving average of the leaves, None where none is kept.
    """

    def __init__(
        self, observed: Observed, recipe: Recipe, processes: Processes, data_size: int
    ) -> None:
        self.recipe, self.processes = recipe, processes
        self.objective = recipe.objective(observed)
        several = recipe.accumulate > 1 or processes.size > 1
        self.additive = observed.additive() if several else True
        self.leaves = observed.values()
        self.optimizer = recipe.build(self.leaves)
        self._advance = fused_step(self.optimizer)
        self._rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.average: list[Tensor] | None = None
        if recipe.ema is not None:
            self.average = [leaf.detach().clone() for leaf in self.leaves]
        if isinstance(self.objective, Objective):
            self.objective.prepare(data_size)
        self.loss = torch.zeros((), device=self.leaves[0].device)
        self.gradient = Step(
            observed.program, self.objective, observed.leaves, recipe.compile, recipe.precision
        )

    def expect(self, count: int, say: Callable[[str], None]) -> None:
        """Tell how many batches there will be, and where to say what takes long."""
        self.gradient.steps, self.gradient.say = count * self.recipe.accumulate, say

    def clock(self, epoch: float, epochs: int, rate: float) -> None:
        """Tell the time to what changes over training; ``rate`` multiplies the learning rate."""
        if isinstance(self.objective, Objective):
            self.objective.clock(epoch, epochs)
        schedule = self.recipe.lr_schedule
        if schedule is None and rate == 1.0:
            return
        factor = 1.0 if schedule is None else schedule.at(epoch, epochs)
        for group, own in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = own * factor * rate

    def differentiate(self, batch: Args, *, validating: bool) -> int:
        """Find loss and gradients of the batch of all processes; its size."""
        parts, size = self.recipe.accumulate, len(batch[0])
        if parts == 1 and self.processes.size == 1:
            self.loss = self.gradient(batch, validating=validating)
            return size
        cuts = [i * size // parts for i in range(parts + 1)]
        loss, sums = self._summed(
            [tuple(a[i:j] for a in batch) for i, j in pairwise(cuts) if j > i], validating
        )
        head = torch.stack([loss, torch.full_like(loss, size)])
        self.processes.sum([head, *sums])
        self.loss, count = head[0], int(head[1])
        if not self.additive:
            self.loss = self.loss / count
            torch._foreach_div_(sums, count)
        for leaf, grad in zip(self.leaves, sums, strict=True):
            leaf.grad = grad
        return count

    def _summed(self, parts: list[Args], validating: bool) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradients of parts of a batch, added; means weigh as much as they are of."""
        loss, sums = torch.zeros_like(self.loss), [torch.zeros_like(leaf) for leaf in self.leaves]
        for rows in parts:
            weight = 1.0 if self.additive else float(len(rows[0]))
            loss = loss + weight * self.gradient(rows, validating=validating)
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.leaves]
            torch._foreach_add_(sums, grads, alpha=weight)
        return loss, sums

    def advance(self) -> None:
        """Go along the gradients that were found."""
        if self.recipe.clip_norm is not None:
            clip_grad_norm_(self.leaves, self.recipe.clip_norm)
        self._advance()
        if self.average is not None and self.recipe.ema is not None:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.leaves, 1 - self.recipe.ema)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The weights as they would be given away: their moving average, where there is one."""
        if self.average is None:
            yield
            return
        with torch.no_grad():
            own = [leaf.detach().clone() for leaf in self.leaves]
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.leaves, own)

    def settle(self) -> None:
        """Leave the moving average in the pair, where there is one."""
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_copy_(self.leaves, self.average)

    @property
    def handlers(self) -> str:
        """Why steps are left to Pyro's handlers though graphs were asked for."""
        return self.gradient.why_not if self.gradient.compile else ""

    def identity(self) -> dict[str, str]:
        """What must be the same when a run is taken up again."""
        recipe = self.recipe
        return {
            "lr": repr(recipe.lr),
            "accumulate": repr(recipe.accumulate),
            "clip_norm": repr(recipe.clip_norm),
            "ema": repr(recipe.ema),
            "loss": _described(self.objective),
            "lr_schedule": repr(recipe.lr_schedule),
            "optimizer": type(self.optimizer).__name__,
            "precision": recipe.precision,
        }

    def restore(self, optimizer: dict[str, Any], average: list[Tensor] | None, why: str) -> None:
        """Take over the state of the optimiser, the average, and why there are no graphs."""
        if why and not self.gradient.why_not:
            self.gradient.refuse(why)
        with torch.no_grad():
            for mean, value in zip(self.average or (), average or (), strict=True):
                mean.copy_(value)
        self._load_optimizer(copied(optimizer))

    def _twin(self) -> torch.optim.Optimizer:
        """An optimiser of leaves like these that has taken a step."""
        twins = [leaf.detach().clone().requires_grad_() for leaf in self.leaves]
        for twin in twins:
            twin.grad = torch.zeros_like(twin)
        other = self.recipe.build(twins)
        other.step()
        return other

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over a state like that of a twin that has taken a step: a kernel that is given
        another may read beyond its end."""
        own = self._twin().state_dict()
        own["state"] = {index: own["state"][index] for index in state["state"]}
        check_alike(own, state, "optimizer")
        for mine, theirs in zip(own["param_groups"], state["param_groups"], strict=True):
            for name, value in mine.items():  # numbers may have changed, as the rate does
                if isinstance(value, bool | str | list | None) and value != theirs[name]:
                    raise ValueError(f"{name} of the optimiser is {theirs[name]!s:.100}")
        self.optimizer.load_state_dict(state)
        for leaf, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == leaf.shape:
                    kept[name] = laid_out(leaf, value)


def _summing(found: Structure | None) -> ELBO:
    """The loss of a pair with enumerated sites, of this structure where it has one."""
    if found is None:
        return TraceEnum_ELBO(max_plate_nesting=math.inf)
    if found.enumerated and not found.contracted and not found.scaled:
        return BetaELBO()  # sums them out, and its steps can be compiled
    return TraceEnum_ELBO(max_plate_nesting=found.nesting)


def _described(loss: ELBO) -> str:
    """A loss and the plain values that it was made of."""
    if isinstance(loss, Objective):
        return repr(loss)
    plain = {k: v for k, v in vars(loss).items() if isinstance(v, bool | int | float | str)}
    return f"{type(loss).__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(plain.items()))})"
