"""log p(x, z) and log q(z|x) of a batch, as functions of its latents as real numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to

from pyrovae.errors import UsageError
from pyrovae.supports import bare, discrete, entries
from pyrovae.traces.enumeration import contracted
from pyrovae.traces.pair import Args, Program
from pyrovae.traces.problem import Problem
from pyrovae.traces.sites import draws, enumerating, in_particles, run, sites, within
from pyrovae.traces.structure import rows, said
from pyrovae.traces.terms import term

STARTS = ("guide", "prior", "gaussian")
DRAWS = 64  # of the guide, whose moments are taken


@dataclass(frozen=True)
class Latent:
    """A latent as real numbers, and how they become its values.

    Attributes:
        plates: sizes of the plates that it lies in, from the left, that over the data among them.
        event: shape of one of its events as real numbers.
        transform: from real numbers to its support.
    """

    plates: tuple[int, ...]
    event: tuple[int, ...]
    transform: Transform

    @property
    def numbers(self) -> int:
        """How many they are, of all data."""
        return math.prod(self.plates) * math.prod(self.event)


def to_reals(name: str, prior: dist.TorchDistribution, so_that: str) -> Transform:
    """The bijection from real numbers to the support of a latent.

    Args:
        name: of the latent.
        prior: its distribution.
        so_that: what follows where there is none, in words.

    Raises:
        UsageError: a support that is no stretch of real numbers, such as a circle or a sphere.
    """
    fn = entries(prior)
    try:
        support = None if isinstance(fn, dist.VonMises) else bare(prior)
        return biject_to(support)
    except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
        raise UsageError(
            f"the latent {name!r} is a {type(fn).__name__}, whose support is not mapped to real "
            f"numbers here (a circle, a sphere, or none that is declared), so that {so_that}"
        ) from error


class Density:
    """The local latents of a batch as real numbers u ``[particles, batch, dims]``, and the
    densities of u: log p(x, z(u)) + log |dz/du|, and so for the prior and the guide.

    Constrained supports are mapped to real numbers by Pyro's bijections; discrete sites that are
    enumerated are summed out, in the model and in the guide alike.

    Args:
        problem: the pair on its data.
        batch: some of them.

    Attributes:
        dims: real numbers per datum.
        active: which of them count, ``[batch, dims]``.
        guided: whether the guide's density can be asked for at other points than its own draws: it
            draws all latents, and helps itself to no auxiliary variable and no point.

    Raises:
        UsageError: a global latent, no continuous one, a discrete one that is drawn, a support that
            is not mapped to real numbers.
    """

    def __init__(self, problem: Problem, batch: Args) -> None:
        problem.shape.refuse_globals()
        self.problem, self.batch = problem.on(batch), batch
        self.shape = self.problem.shape
        self.names = tuple(n for n in self.shape.latents if n not in self.shape.enumerated)
        with self.problem.pair.scope(), said(batch):
            self._count = min(2, self._at_once(2))
            model, guide = map(sites, self._traced(self._count))
        self._check(model, guide)
        self.latents = {n: self._latent(n, model[n]) for n in self.names}
        size = rows(batch)
        self._sizes = [latent.numbers // size for latent in self.latents.values()]
        self.dims = sum(self._sizes)
        self.active = torch.cat([self._active(n, model[n]) for n in self.names], -1)
        self._refuse_masks(model)
        points = any(isinstance(entries(guide[n]["fn"]), dist.Delta) for n in self.names)
        self.guided = not self.shape.auxiliary and not points

    def _at_once(self, particles: int) -> int:
        return particles if self.shape.broadcasts else 1

    def _traced(self, particles: int) -> tuple[Trace, Trace]:
        """A run whose discrete sites are drawn."""
        pair, shape = self.problem.pair, self.shape
        return run(pair, self.batch, particles, shape.nesting, ())

    def _check(self, model: Mapping[str, Any], guide: Mapping[str, Any]) -> None:
        drawn = [n for n in self.names if discrete(model[n]["fn"], model[n]["value"])]
        if drawn:
            raise UsageError(
                f"the latent(s) {', '.join(drawn)} are discrete and drawn, so that there is no "
                f"gradient to follow them by; have them summed out: infer={{'enumerate': "
                f"'parallel'}}, in both programs where both have them"
            )
        if not self.names:
            raise UsageError("the pair has no continuous latent per datum")

    def _latent(self, name: str, site: Mapping[str, Any]) -> Latent:
        transform = to_reals(
            name, site["fn"], "no gradient leads through it; method 'importance' needs none"
        )
        event = site["fn"].event_dim
        value = self._whole(site["value"], event)
        shape = transform.inverse_shape(value.shape)
        plates = tuple(value.shape[1 : value.dim() - event])
        return Latent(plates, tuple(shape[1 + len(plates) :]), transform)

    def _active(self, name: str, site: Mapping[str, Any]) -> Tensor:
        """Which real numbers of a latent count, ``[batch, numbers]``: those that a mask leaves
        out (the steps after a series' end) are no part of any density."""
        latent = self.latents[name]
        masks = [site["mask"], getattr(site["fn"], "_mask", None)]
        shape = (1, *latent.plates)
        counts = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
        for mask in masks:
            if mask is not None:
                counts = (
                    counts
                    & torch.as_tensor(mask, device=counts.device).expand(
                        self._count, *latent.plates
                    )[:1]
                )
        full = counts.reshape(*shape, *[1] * len(latent.event)).expand(*shape, *latent.event)
        return self._by_datum(full, latent)[0]

    def _refuse_masks(self, model: Mapping[str, Any]) -> None:
        """Refuse latents that count for some values of a discrete site alone: of their density
        there is none that does not depend on it."""
        if not self.shape.enumerated:
            return
        values = {n: self._whole(model[n]["value"], model[n]["fn"].event_dim) for n in self.names}
        particles = self._count if self.shape.broadcasts else None
        if particles is None:
            values = {n: v[0] for n, v in values.items()}
        with self.problem.pair.scope(), pyro.validation_enabled(False):
            found = sites(self._at(self.problem.pair.model, values, particles))
        for name in self.names:
            mask = found[name]["mask"]
            if isinstance(mask, Tensor) and mask.dim() > self.shape.nesting + 1:
                raise UsageError(
                    f"the latent {name!r} is masked where a discrete site says so "
                    f"({', '.join(self.shape.enumerated)}), so that it has no density once that "
                    f"is summed out; give it its prior there instead of a mask"
                )

    def _whole(self, value: Tensor, event: int) -> Tensor:
        """A value ``[particles, *plates, *event]``, whatever dimensions it came without."""
        missing = self.shape.nesting + 1 + event - value.dim()
        return value[(None,) * max(0, missing)]

    # --- latents and real numbers -----------------------------------------------------------------

    def free(self, values: Mapping[str, Tensor]) -> Tensor:
        """Latents as the programs draw them -> u ``[particles, batch, dims]``."""
        parts = []
        for name, latent in self.latents.items():
            event = len(latent.transform.forward_shape(latent.event))
            value = self._whole(values[name], event)
            value = value.expand(-1, *latent.plates, *value.shape[value.dim() - event :])
            parts.append(self._by_datum(latent.transform.inv(value), latent))
        return torch.cat(parts, -1)

    def _by_datum(self, u: Tensor, latent: Latent) -> Tensor:
        """``[particles, *plates, *event]`` -> ``[particles, batch, numbers]``."""
        moved = u.movedim(self.shape.dim - len(latent.event), 1)
        return moved.reshape(*moved.shape[:2], -1)

    def _native(self, u: Tensor, latent: Latent) -> Tensor:
        """The other way."""
        place = len(latent.plates) + self.shape.dim
        others = latent.plates[:place] + latent.plates[place + 1 :]
        return u.reshape(*u.shape[:2], *others, *latent.event).movedim(1, 1 + place)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Latents as the programs draw them, ``[particles, *plates, *event]``, and log |dz/du|
        ``[particles, batch]``."""
        found, change = {}, torch.zeros_like(u[..., 0])
        for (name, latent), part in zip(
            self.latents.items(), u.split(self._sizes, -1), strict=True
        ):
            free = self._native(part, latent)
            found[name] = latent.transform(free)
            jacobian = latent.transform.log_abs_det_jacobian(free, found[name])
            jacobian = jacobian.movedim(1 + len(latent.plates) + self.shape.dim, 1)
            change = change + jacobian.reshape(*u.shape[:2], -1).sum(-1)
        return found, change

    def latent_values(self, u: Tensor) -> dict[str, Tensor]:
        """The latents by datum, ``[particles, batch, ...]``."""
        found = {}
        for name, value in self.values(u)[0].items():
            latent = self.latents[name]
            event = value.dim() - 1 - len(latent.plates)
            moved = value.movedim(self.shape.dim - event, 1)
            last = moved.dim() - event
            inner = [moved.shape[k] for k in range(2, last) if moved.shape[k] > 1]
            found[name] = moved.reshape(*moved.shape[:2], *inner, *moved.shape[last:])
        return found

    # --- draws ------------------------------------------------------------------------------------

    def draw(self, particles: int, source: str) -> Tensor:
        """u ``[particles, batch, dims]`` drawn from the "guide", the "prior", or the "gaussian"
        that has the moments of the guide's draws."""
        if source == "gaussian":
            mean, scale = self.moments
            noise = torch.randn(particles, *mean.shape, dtype=mean.dtype, device=mean.device)
            return mean + scale * noise
        program = self.problem.pair.guide if source == "guide" else self.problem.pair.model
        at_once = self._at_once(particles)
        with self.problem.pair.scope(), said(self.batch), torch.no_grad():
            found = [self._drawn(program, at_once) for _ in range(particles // at_once)]
        return torch.cat(found)

    def _drawn(self, program: Program, particles: int) -> Tensor:
        if self.shape.broadcasts:
            program = in_particles(program, particles, self.shape.nesting)
        found = sites(poutine.trace(program).get_trace(*self.batch))
        return self.free({n: found[n]["value"] for n in self.names})

    @functools.cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of u under the guide, ``[batch, dims]``, from its draws; of
        a guide that puts u at a point, the prior's deviation."""
        drawn = self.draw(DRAWS, "guide")
        scale = drawn.std(0)
        if bool((scale <= 0).any()):
            scale = torch.where(scale > 0, scale, self.spread)
        return drawn.mean(0), scale

    @functools.cached_property
    def spread(self) -> Tensor:
        """The standard deviation of u under the prior, ``[batch, dims]``, from its draws."""
        return self.draw(DRAWS, "prior").std(0).clamp_min(1e-6)

    # --- densities --------------------------------------------------------------------------------

    def joint(self, u: Tensor) -> Tensor:
        """log p(x, u), ``[particles, batch]``, nats."""
        return self.both(u, "")[0]

    def guide(self, u: Tensor) -> Tensor:
        """log q(u|x), ``[particles, batch]``, nats."""
        values, change = self.values(u)
        return self._of(self._guide, values, False)[0] + change

    def both(self, u: Tensor, base: str) -> tuple[Tensor, Tensor]:
        """log p(x, u) and the log density of what u may be drawn from, one of :data:`STARTS`, or
        "" for none; ``[particles, batch]`` each, nats, with gradients if they are enabled."""
        values, change = self.values(u)
        joint, prior = self._of(self._model, values, base == "prior")
        if base == "":
            return joint + change, torch.zeros_like(joint)
        if base == "prior":
            return joint + change, prior + change
        if base == "guide":
            return joint + change, self._of(self._guide, values, False)[0] + change
        mean, scale = self.moments
        normal: Tensor = dist.Normal(mean, scale, validate_args=False).log_prob(u)
        return joint + change, torch.where(self.active, normal, 0.0).sum(-1)

    def _of(
        self,
        terms: Callable[[Mapping[str, Tensor], int | None, bool], tuple[Tensor, Tensor]],
        values: Mapping[str, Tensor],
        apart: bool,
    ) -> tuple[Tensor, Tensor]:
        particles = len(next(iter(values.values())))
        with self.problem.pair.scope(), said(self.batch), pyro.validation_enabled(False):
            if self.shape.broadcasts:
                return terms(values, particles, apart)
            each = [
                terms({n: v[k] for n, v in values.items()}, None, apart) for k in range(particles)
            ]
        first, second = zip(*each, strict=True)
        return torch.cat(first), torch.cat(second)

    def _at(self, program: Program, values: Mapping[str, Tensor], particles: int | None) -> Trace:
        """The trace of a program at given latents, discrete sites enumerated."""
        program = poutine.condition(program, data=dict(values))
        if particles is not None:
            program = in_particles(program, particles, self.shape.nesting)
        if self.shape.enumerated:
            first = -self.shape.nesting - 2
            program = enumerating(program, self.shape.enumerated, first)
        return poutine.trace(program).get_trace(*self.batch)

    def _model(
        self, values: Mapping[str, Tensor], particles: int | None, apart: bool
    ) -> tuple[Tensor, Tensor]:
        """log p(x, z), and where it is asked for, log p(z)."""
        trace = self._at(self.problem.pair.model, values, particles)
        latent = {*self.names, *self.shape.enumerated}
        joint = self._summed(trace, particles)
        if not apart:
            return joint, joint
        prior = trace.copy()
        for name in [n for n in sites(trace) if n not in latent]:
            prior.remove_node(name)
        return joint, self._summed(prior, particles)

    def _guide(
        self, values: Mapping[str, Tensor], particles: int | None, apart: bool
    ) -> tuple[Tensor, Tensor]:
        """log q(z|x), twice."""
        trace = self._at(self.problem.pair.guide, values, particles)
        found = sites(trace)
        ours = {*self.names, *self.shape.enumerated, *draws(found)}
        summed = _table([term(s, self.shape) for n, s in found.items() if self._counts(n, s, ours)])
        return summed, summed

    def _counts(self, name: str, site: Mapping[str, Any], ours: set[str]) -> bool:
        return name in ours and within(site, self.shape.plate)  # type: ignore[arg-type]

    def _summed(self, trace: Trace, particles: int | None) -> Tensor:
        """The local terms of a model's trace with its enumerated sites summed out."""
        if self.shape.contracted:
            return contracted(trace, self.shape, particles or 1, rows(self.batch)).log_marginal
        found = sites(trace).values()
        return _table([term(s, self.shape) for s in found if within(s, self.shape.plate)])


def _table(terms: Sequence[Tensor]) -> Tensor:
    """Terms ``[*enumerated, particles, batch]`` added up, the enumerated values summed over."""
    total = sum(terms[1:], start=terms[0])
    return total.logsumexp(tuple(range(total.dim() - 2))) if total.dim() > 2 else total
