"""Effect handlers that change a pair's programs: missing data, refined guides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from pyrovae import supports
from pyrovae.errors import UsageError, in_short
from pyrovae.supports import entries
from pyrovae.tensors import Data
from pyrovae.traces.pair import Args, Pair, Program
from pyrovae.traces.sites import FAILURES, PARTICLES, is_deterministic, is_factor, sites
from pyrovae.traces.structure import SHARE, SHARED_BY, Structure
from pyrovae.traces.terms import independent, rebuild


def completed(pair: Pair, data: Data) -> tuple[Pair, Data]:
    """The pair and the data, in which NaN means missing: see :func:`completing`.

    Raises:
        UsageError: an argument with missing entries that the model computes with; as they are
            served, of data that are not in memory.
    """
    gaps = data.incomplete()
    if gaps is None:
        return pair, data
    if data.in_memory:
        return completing(pair, gaps), data
    masked, conditions = _completing(pair, gaps)  # whether any are missing is not known yet

    def refuse(batch: Args) -> None:
        if any(bool(batch[k].isnan().any()) for k in conditions):
            raise UsageError(_CONDITION)

    return masked, data.checked(refuse) if conditions else data


def completing(pair: Pair, args: Args) -> Pair:
    """The pair for a batch in which NaN means missing.

    Missing entries are masked out of the observed sites. A guide that gives finite values where
    an argument has NaN knows what to do with them; another one is given zeros in their place.

    Raises:
        UsageError: an argument with missing entries that the model computes with.
    """
    masked, conditions = _completing(pair, args)
    if conditions:
        raise UsageError(_CONDITION)
    return masked


_CONDITION = (
    "the model computes with entries that are missing (NaN), and only those that are observed can "
    "be left out: fill them where they are a condition, or drop such data"
)


def _completing(pair: Pair, args: Args) -> tuple[Pair, set[int]]:
    """The pair, and the arguments whose missing entries make the model's densities NaN."""
    incomplete = {k for k, a in enumerate(args) if _floating(a) and bool(a.isnan().any())}
    if not incomplete:
        return pair, set()
    gone = torch.cat([args[k].isnan().reshape(len(args[k]), -1) for k in incomplete], 1)
    rows = gone.any(1).nonzero()[:64, 0]
    some = tuple(a[rows] if isinstance(a, Tensor) else a for a in args)
    guide, model = pair.guide, _MasksMissing()(pair.model)

    def bears(program: Program, gaps: set[int]) -> bool:
        given = (some[k] if k in gaps else a for k, a in enumerate(few))
        try:
            found = sites(poutine.trace(program).get_trace(*given)).values()
            return all(
                not bool(s["fn"].log_prob(s["value"]).isnan().any())
                if s["is_observed"]
                else bool(s["value"].isfinite().all())
                for s in found
            )
        except FAILURES as error:  # check says what is wrong with programs that never run
            if isinstance(error, UsageError) and program is model:
                raise UsageError(in_short(error, 2000)) from error
            return False

    unable, conditions = incomplete, set[int]()
    with pair.evaluating(), pyro.validation_enabled():  # some samplers never end at NaN
        few = tuple(map(without_gaps, some))
        unable = {k for k in incomplete if not bears(guide, {k})}
        few = tuple(_known(a) if k in incomplete else a for k, a in enumerate(some))
        if bears(model, set()):  # else the data are at fault
            conditions = {k for k in incomplete if not bears(model, {k})}

    def filled(*batch: object) -> Any:
        return guide(*(without_gaps(b) if k in unable else b for k, b in enumerate(batch)))

    kind = f"missing, filled {sorted(unable)}"
    return pair.running(model, filled if unable else guide, kind), conditions


def _floating(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()


def _known(argument: Tensor) -> Tensor:
    """An argument, missing entries replaced by what other data have there."""
    flat = argument.reshape(len(argument), -1)
    known = ~flat.isnan()
    usual = flat.gather(0, known.int().argmax(0, keepdim=True)).nan_to_num(0.0)
    return torch.where(known, flat, usual).reshape(argument.shape)


def without_gaps(argument: Any) -> Any:
    """An argument with zeros for its missing entries."""
    return argument.nan_to_num(0.0) if _floating(argument) else argument


class _MasksMissing(Messenger):
    """NaN entries of observed values are masked out of their site, entry by entry.

    What is done never depends on which entries are missing, so a step can be traced.
    """

    def _pyro_sample(self, msg: Message) -> None:
        value = msg["value"]
        if not msg["is_observed"] or not isinstance(value, Tensor):
            return
        if not value.is_floating_point():
            return
        fn, extra = msg["fn"], independent(msg["fn"])
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


def sharing(pair: Pair, plate: str, total: int) -> Pair:
    """The pair whose sites outside the plate over the data, which all data share, count in a batch
    for its part of the ``total`` data, so that an epoch counts them once."""

    def shared(program: Program) -> Program:
        def run(*batch: Any) -> Any:
            with _Shares(plate, len(batch[0]) / total, total):
                return program(*batch)

        return run

    return pair.running(shared(pair.model), shared(pair.guide), f"sharing {total}")


class _Shares(Messenger):
    def __init__(self, plate: str, share: float, total: int) -> None:
        super().__init__()
        self.plate, self.share, self.total = plate, share, total

    def _pyro_sample(self, msg: Message) -> None:
        if site_is_subsample(msg) or any(f.name == self.plate for f in msg["cond_indep_stack"]):
            return
        msg["scale"] = msg["scale"] * self.share
        msg["infer"] = {**msg["infer"], SHARE: self.share, SHARED_BY: self.total}


def filling(pair: Pair, missing: Mapping[str, Tensor]) -> Pair:
    """The pair whose model draws what is missing of what its sites observe, entry by entry, so that
    sites that depend on it have parents; ``missing`` marks it, as each site has it."""
    return pair.running(_FillsMissing(missing)(pair.model), pair.guide, "filling")


class Unmasked(Messenger):
    """Discrete sites that are summed out keep their whole distribution where a mask says that the
    data are silent, as in the bound."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.names:
            msg["mask"] = None


class Drawing(Messenger):
    """Data are drawn; what is computed, and what is only scored, stays."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] and not is_factor(msg) and not is_deterministic(msg):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


class _FillsMissing(Messenger):
    def __init__(self, missing: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.missing = missing

    def _pyro_sample(self, msg: Message) -> None:
        gone, value = self.missing.get(msg["name"]), msg["value"]
        if gone is not None and msg["is_observed"]:
            with pyro.validation_enabled(False):
                drawn = msg["fn"].sample().to(value)
            msg["value"] = torch.where(gone.reshape(value.shape), drawn, value)


def _inside(fn: dist.TorchDistribution, like: Tensor) -> Tensor:
    """Values within the support, to stand where the mask is: constants where they are known."""
    found = supports.inside(supports.bare(fn), like)
    if found is not None:
        return found
    with pyro.validation_enabled(False), torch.no_grad():
        drawn: Tensor = fn.sample()
        return drawn


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
        return pair.running(pair.model, self(pair.guide), "refined")

    def _pyro_sample(self, msg: Message) -> None:
        if not self._refines(msg):
            return
        name, fn = msg["name"], msg["fn"]
        extra = independent(fn)

        def change(parameter: str, constraint: Constraint, value: Tensor) -> Tensor:
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
                f"the guide's site {name!r} cannot be refined per datum: {in_short(error)}"
            ) from error
        plates = {f.name for f in msg["cond_indep_stack"] if f.vectorized}
        apart = plates <= {self.shape.plate, PARTICLES}  # of an inner plate, each has noise
        if self.noise and self.particles > 1 and apart:
            msg["value"] = self._matched(name, fn)
            msg["done"] = msg["value"] is not None

    def _refines(self, msg: Message) -> bool:
        """Whether a site is local and free; a Delta follows what it was computed from."""
        local = {*self.shape.latents, *self.shape.auxiliary} - set(self.shape.globals)
        free = msg["name"] in local and not msg["is_observed"]
        return free and not isinstance(entries(msg["fn"]), dist.Delta)

    def _matched(self, name: str, fn: dist.TorchDistribution) -> Tensor | None:
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
