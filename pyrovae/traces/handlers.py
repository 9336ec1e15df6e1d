"""Effect handlers that change a pair's programs: missing data, refined guides."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import transform_to

from pyrovae.distributions import PerColumn, eight_bit
from pyrovae.errors import UsageError
from pyrovae.traces.pair import Args, Pair
from pyrovae.traces.terms import FAILURES, Structure, _independent, _sites, rebuild


def completing(pair: Pair, args: Args) -> Pair:
    """The pair for a batch in which NaN means missing.

    Missing entries are masked out of the observed sites. A guide that gives finite values on a
    batch with NaN knows what to do with them; another one is given zeros in their place.
    """
    incomplete = [a for a in args if a.is_floating_point() and bool(a.isnan().any())]
    if not incomplete:
        return pair
    rows = torch.cat([a.isnan().reshape(len(a), -1) for a in incomplete], 1).any(1).nonzero()[:5, 0]
    few = tuple(a[rows] for a in args)
    guide = pair.guide

    def filled(*batch: Any) -> Any:
        return guide(*(b.nan_to_num(0.0) if b.is_floating_point() else b for b in batch))

    try:
        with pair.evaluating(), pyro.validation_enabled(False):
            sites = _sites(poutine.trace(guide).get_trace(*few)).values()
            able = all(bool(s["value"].isfinite().all()) for s in sites)
    except FAILURES:
        able = False  # check says what is wrong with the programs
    return pair.running(_MasksMissing()(pair.model), guide if able else filled)


class _MasksMissing(Messenger):
    """NaN entries of observed values are masked out of their site, entry by entry.

    What is done never depends on which entries are missing, so a step can be traced.
    """

    def _pyro_sample(self, msg: Any) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor):
            return
        if not value.is_floating_point():
            return
        fn, extra = msg["fn"], _independent(msg["fn"])
        base = fn.base_dist if extra else fn
        if base.event_dim:
            if not bool(value.isnan().any()):
                return
            raise UsageError(
                f"the observed site {msg['name']!r} has missing entries and a joint density over "
                f"them ({type(base).__name__}); only entries that are independent given the "
                f"latents can be masked one by one"
            )
        missing = value.isnan()
        msg["infer"] = {**msg["infer"], "_observed": value}
        msg["value"] = torch.where(missing, _inside(base, value), value)
        masked = base.mask(~missing)
        msg["fn"] = masked.to_event(extra) if extra else masked


def _inside(fn: Any, like: Tensor) -> Any:
    """Values within the support, to stand where the mask is: constants where they are known."""
    found = _constant(fn.support)
    if found is not None:
        return torch.as_tensor(found, dtype=like.dtype, device=like.device)
    with pyro.validation_enabled(False), torch.no_grad():
        return fn.sample()


def _constant(support: Any) -> Any:
    kinds = torch.distributions.constraints
    if isinstance(support, PerColumn):
        columns = [_constant(column) for column in support.cseq]
        return None if None in columns else columns
    if support in (kinds.real, kinds.boolean, eight_bit):
        return 0.0
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    if not isinstance(low, int | float):
        return None
    if support.is_discrete:
        return float(low)
    return (low + high) / 2 if isinstance(high, int | float) else low + 1.0


class Refinement(Messenger):
    """Free, per-datum shifts of the parameters of a guide's local sites.

    Every parameter is shifted where it is unconstrained, starting from what the guide gives; so
    a site keeps its family and what it depends on. ``noise`` makes Gaussian sites use particles
    whose first two moments are exact, which integrates quadratic log densities exactly.
    """

    def __init__(self, shape: Structure, particles: int, noise: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.shifts: dict[tuple[str, str], Tensor] = {}
        self.restart(particles, noise)

    def restart(self, particles: int, noise: bool = True) -> None:
        """Keep the shifts; draw other particles from now on."""
        self.particles, self.noise = particles, noise
        self.draws: dict[str, Tensor] = {}

    def of(self, pair: Pair) -> Pair:
        """The same pair, its guide shifted."""
        return pair.running(pair.model, self(pair.guide))

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.shape.latents or name in self.shape.globals or msg["is_observed"]:
            return
        extra = _independent(fn)

        def change(parameter: str, constraint: Any, value: Tensor) -> Tensor:
            kept = self.shape.nesting + extra + constraint.event_dim
            to = transform_to(constraint)
            free = to.inv(value)
            key = (name, parameter)
            if key not in self.shifts:
                shape = free.shape[max(0, free.dim() - kept) :]
                self.shifts[key] = torch.zeros(shape).to(free).requires_grad_()
            shifted: Tensor = to(free + self.shifts[key])
            return shifted

        try:
            msg["fn"] = fn = rebuild(fn, change)
        except NotImplementedError as error:
            raise UsageError(
                f"the guide's site {name!r} cannot be refined per datum: {error}"
            ) from error
        if self.noise and self.particles > 1:
            msg["value"] = self._matched(name, fn)
            msg["done"] = msg["value"] is not None

    def _matched(self, name: str, fn: Any) -> Tensor | None:
        base = fn.base_dist if isinstance(fn, dist.Independent) else fn
        size = fn.event_shape.numel()
        if not isinstance(base, dist.Normal | dist.MultivariateNormal):
            return None
        if self.particles < 2 * size:
            return None  # too few to have the moments of so many dimensions
        if name not in self.draws:
            half = torch.randn(self.particles // 2, size, dtype=torch.float64)
            half = half @ torch.linalg.inv(torch.linalg.cholesky(half.T @ half / len(half))).T
            noise = torch.cat([half, -half, half.new_zeros(self.particles % 2, size)])
            noise *= math.sqrt(self.particles / (2 * len(half)))
            self.draws[name] = noise
        noise = self.draws[name].to(fn.mean)
        lead = (self.particles, *(1,) * self.shape.nesting)
        if isinstance(base, dist.MultivariateNormal):
            return fn.mean + (base.scale_tril @ noise.reshape(*lead, size, 1)).squeeze(-1)
        return fn.mean + base.scale * noise.reshape(*lead, *fn.event_shape)
