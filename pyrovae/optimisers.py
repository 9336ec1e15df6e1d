"""A step of an optimiser: torch's fused kernels, and one optimiser for the many of Pyro."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from pyro.optim import PyroOptim
from torch import Tensor

__all__ = ["Joint", "fused_step", "laid_out"]

FUSED = (torch.optim.Adam, torch.optim.AdamW)
JOINED = (
    *FUSED, torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta,
    torch.optim.Adamax, torch.optim.NAdam, torch.optim.RAdam,
)  # fmt: skip


def laid_out(like: Tensor, value: Tensor) -> Tensor:
    """A tensor in the memory layout of another one: fused kernels go through both as they lie."""
    return value if value.stride() == like.stride() else torch.empty_like(like).copy_(value)


def fused_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """``optimizer.step``; of a fused Adam its kernel alone, without the bookkeeping around it,
    which takes as long as the kernel for networks of this size."""
    plain = ("amsgrad", "maximize", "capturable", "differentiable")
    if type(optimizer) is not torch.optim.Adam or not all(
        group["fused"] and not any(group.get(name) for name in plain)
        for group in optimizer.param_groups
    ):
        return optimizer.step
    lists: list[tuple[Any, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]] = []

    def made() -> bool:
        return bool(lists) and all(
            optimizer.state[leaves[0]].get("exp_avg") is means[0] for _, leaves, means, *_ in lists
        )

    def taken_over() -> None:
        """The states that are there, or were loaded."""
        lists.clear()
        for group in optimizer.param_groups:
            states = [optimizer.state[p] for p in group["params"]]
            each = ([s[n] for s in states] for n in ("exp_avg", "exp_avg_sq", "step"))
            lists.append((group, group["params"], *each))

    def step() -> None:
        grads = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        if any(grad is None for each in grads for grad in each):  # what is not reached rests
            optimizer.step()
            lists.clear()
            return
        if not made():
            optimizer.step()
            taken_over()
            return
        with torch.no_grad():
            for (group, leaves, means, squares, steps), found in zip(lists, grads, strict=True):
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    leaves,
                    cast(list[Tensor], found),
                    means,
                    squares,
                    [],
                    steps,
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=False,
                    maximize=False,
                )

    return step


class Joint:
    """The optimisers of a ``PyroOptim``, one for each parameter, stepped as one.

    Those of torch whose steps change no option of theirs are joined over the same states, so that
    ``get_state``, ``save`` and schedulers work as ever; options are compared before every step.
    All others, and parameters that have no state yet, take Pyro's own step.

    Args:
        optim: Pyro's.
    """

    def __init__(self, optim: PyroOptim) -> None:
        self.optim = optim
        self._sets: dict[tuple[int, ...], _Set] = {}

    def step(self, leaves: Sequence[Tensor], idle: Sequence[Tensor] = ()) -> None:
        """A step of these leaves along their gradients. Those that the loss does not depend on
        move as Pyro moves them: not at all before it once did, with their momentum after."""
        if idle:
            for leaf in idle:
                own = self.optim.optim_objs.get(leaf)
                if own is not None and _torch_optimizer(own).state.get(leaf):
                    leaf.grad = torch.zeros_like(leaf)
            leaves = [*leaves, *idle]
        key = tuple(map(id, leaves))
        found = self._sets.get(key)
        if found is None or not found.has_states():
            self.optim(list(leaves))  # makes what is not there yet
            self._sets[key] = _Set(self.optim, leaves)
            return
        if not found.has_options():
            found = self._sets[key] = _Set(self.optim, leaves)
        found.step()


class _Set:
    """Leaves that are stepped together."""

    def __init__(self, optim: PyroOptim, leaves: Sequence[Tensor]) -> None:
        self.optim, self.leaves = optim, list(leaves)
        self.own = [_torch_optimizer(optim.optim_objs[p]) for p in leaves]
        self.states = [o.state.get(p) for o, p in zip(self.own, leaves, strict=True)]
        self.groups = [dict(o.param_groups[0]) for o in self.own]
        self.plain = [_is_plain(o) for o in self.own]
        each = zip(leaves, self.own, self.plain, strict=True)
        joined = [(p, o) for p, o, plain in each if plain and o.state.get(p)]
        known = {id(p) for p, _ in joined}
        self.apart = [p for p in leaves if id(p) not in known]
        self.advance = [fused_step(o) for o in _joint(joined)]
        self.clipped = [(clip, p) for p, _ in joined if (clip := optim.grad_clip[p])]

    def has_states(self) -> bool:
        """Whether every leaf that moves has the state that was joined."""
        each = zip(self.leaves, self.own, self.states, strict=True)
        return all(o.state.get(p) is s and (s or p.grad is None) for p, o, s in each)

    def has_options(self) -> bool:
        """Whether options are those that were joined: a scheduler may have changed them."""
        each = zip(self.own, self.groups, self.plain, strict=True)
        return all(o.param_groups[0] == g and _is_plain(o) is p for o, g, p in each)

    def step(self) -> None:
        for clip, leaf in self.clipped:
            if leaf.grad is not None:
                clip(leaf)
        for advance in self.advance:
            advance()
        if self.apart:
            self.optim(self.apart)


def _is_plain(own: torch.optim.Optimizer) -> bool:
    """Whether an optimiser's steps are its class's, without a hook or a method of its own but that
    of a scheduler, which counts them."""
    patched = "step" in vars(own) and not hasattr(own.step, "_wrapped_by_lr_sched")
    hooks = own._optimizer_step_pre_hooks or own._optimizer_step_post_hooks
    return type(own) in JOINED and not patched and not hooks


def _torch_optimizer(found: Any) -> torch.optim.Optimizer:
    return getattr(found, "optimizer", found)  # type: ignore[no-any-return]  # of a scheduler


def _joint(each: Sequence[tuple[Tensor, torch.optim.Optimizer]]) -> list[torch.optim.Optimizer]:
    """One optimiser per class, a group per kind of options, over the same states."""
    kinds: dict[Any, dict[str, dict[str, Any]]] = {}
    for leaf, own in each:
        options = {k: v for k, v in own.param_groups[0].items() if k != "params"}
        groups = kinds.setdefault(type(own), {})
        groups.setdefault(repr(options), {**options, "params": []})["params"].append(leaf)
    made = {kind: kind(list(groups.values())) for kind, groups in kinds.items()}
    for kind in set(made).intersection(FUSED):
        for group in made[kind].param_groups:
            if not group["differentiable"]:
                group["fused"], group["foreach"] = True, False
    for leaf, own in each:
        state = made[type(own)].state[leaf] = own.state[leaf]
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(leaf.device)
    return list(made.values())
