"""Two traces -> terms: per-site log p, log q and KL, one number per particle and datum."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import kl_divergence
from torch.distributions.constraints import Constraint

import pyrovae.distributions  # noqa: F401  (registers closed-form divergences)
from pyrovae.errors import UsageError
from pyrovae.supports import discrete
from pyrovae.traces.enumeration import contracted
from pyrovae.traces.sites import PARTICLES, Sites, draws, log_prob, sites, within
from pyrovae.traces.structure import Structure


@dataclass(frozen=True)
class Site:
    """One sample site of one program.

    ``log_prob``: ``[particles, batch]``, or ``[particles]`` for a global site, in nats. ``value``:
    ``[particles, batch, ...]`` or ``[particles, ...]``. Over an enumerated site's values
    ``log_prob`` is the expectation; ``value`` has the enumeration's dimensions in front.
    ``mean`` is that of the distribution, ``[particles, batch, ...]``, where it has one.
    """

    name: str
    fn: dist.TorchDistribution
    value: Tensor
    log_prob: Tensor
    is_observed: bool
    is_global: bool
    event_shape: tuple[int, ...]
    is_discrete: bool
    mean: Tensor | None = None


@dataclass(frozen=True)
class Traces:
    """A run of the guide and the model's replay: some particles of one batch.

    Attributes:
        model: the model's sites, by name.
        guide: the guide's sites, by name.
        shape: the pair's structure.
        log_joint: ``[particles, batch]``, log p(x, z) - log q(z|x) over the local sites, with
            enumerated ones summed out.
        log_ratio: the same with enumerated ones averaged under q: its mean is the local ELBO.
        kl: per latent ``[particles, batch]`` (``[particles]`` when global): closed form where
            valid, else log q - log p at the particle.
        kl_dimensions: per latent whose guide and prior factorise, ``[particles, batch, dims]``.
        rerun: both programs once more on the same particles, held constant.
    """

    model: dict[str, Site]
    guide: dict[str, Site]
    shape: Structure
    log_joint: Tensor
    log_ratio: Tensor
    kl: dict[str, Tensor]
    kl_dimensions: dict[str, Tensor]
    rerun: Callable[[], Traces] | None = None

    def detached(self) -> Traces:
        """The same particles as constants: what depends on a parameter by way of a particle does
        so no longer. Both programs are run once more."""
        if self.rerun is None:
            raise UsageError("these particles were drawn in slices or enumerated: not run again")
        return self.rerun()

    @property
    def log_weights(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x, z) - log q(z|x). Their mean is the ELBO, their
        log-mean-exp the importance-sampled log evidence.

        Raises:
            UsageError: a global latent; its data have no weights of their own.
        """
        self.shape.refuse_globals()
        return self.log_joint

    @property
    def reconstruction(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x|z) of the observed sites."""
        return self._per_datum({s.name: s.log_prob for s in self.model.values() if s.is_observed})

    @property
    def elbo(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x, z) - log q(z|x). What is global is shared out
        evenly, so that the sum over all data counts it once."""
        outside = {n: s.log_prob for n, s in self.model.items() if s.is_global}
        for name, site in self.guide.items():
            if site.is_global:
                outside[name] = outside.get(name, 0.0) - site.log_prob
        return self.log_ratio + self._per_datum(outside)

    @property
    def log_p(self) -> Tensor:
        """``[particles, batch]``, nats: log p(x, z), what is global shared out evenly."""
        return self._per_datum({n: s.log_prob for n, s in self.model.items()})

    def light(self) -> Traces:
        """The same without distributions and observed values: what may pile up over chunks."""

        def strip(sites: dict[str, Site]) -> dict[str, Site]:
            empty = torch.empty(0)
            return {
                name: dataclasses.replace(site, fn=None, value=empty)
                if site.is_observed
                else dataclasses.replace(site, fn=None)
                for name, site in sites.items()
            }

        return dataclasses.replace(
            self, model=strip(self.model), guide=strip(self.guide), rerun=None
        )

    def kl_shares(self) -> dict[str, Tensor]:
        """``[particles, batch]``, nats, per latent: each datum's share of its KL."""
        return {name: self._per_datum({name: kl}) for name, kl in self.kl.items()}

    @property
    def total_kl(self) -> Tensor:
        """``[particles, batch]``, nats: the latents' KL terms added up."""
        return self._per_datum(self.kl)

    def _per_datum(self, terms: dict[str, Tensor]) -> Tensor:
        size = self.shape.size or self.shape.share or self.log_joint.shape[1]
        total = torch.zeros_like(self.log_joint)
        for term in terms.values():
            total = total + (term if term.dim() == 2 else term[:, None] / size)
        return total


def joined(parts: list[Traces]) -> Traces:
    """Particles that were drawn one after the other, as one draw of all of them."""

    def cat(terms: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([t[name] for t in terms]) for name in terms[0]}

    def particles(each: list[dict[str, Site]]) -> dict[str, Site]:
        found = {}
        for name, site in each[0].items():
            same = [part[name] for part in each]
            found[name] = dataclasses.replace(
                site,
                fn=None,
                value=torch.cat([s.value for s in same]),
                log_prob=torch.cat([s.log_prob for s in same]),
                mean=None if site.mean is None else torch.cat([cast(Tensor, s.mean) for s in same]),
            )
        return found

    reruns = [part.rerun for part in parts]
    return Traces(
        model=particles([p.model for p in parts]),
        guide=particles([p.guide for p in parts]),
        shape=parts[0].shape,
        log_joint=torch.cat([p.log_joint for p in parts]),
        log_ratio=torch.cat([p.log_ratio for p in parts]),
        kl=cat([p.kl for p in parts]),
        kl_dimensions=cat([p.kl_dimensions for p in parts]),
        rerun=lambda: joined([rerun() for rerun in reruns if rerun is not None]),
    )


def measure(model_trace: Trace, guide_trace: Trace, shape: Structure, particles: int = 1) -> Traces:
    """Reduce two traces to per-site, per-particle, per-datum terms."""
    model, guide = sites(model_trace), draws(sites(guide_trace))
    log_q = {name: term(site, shape) for name, site in guide.items()}
    if shape.contracted:
        return _contracted(model_trace, model, guide, log_q, shape, particles)
    log_p = {name: term(site, shape) for name, site in model.items()}
    local_p = [t for n, t in log_p.items() if within(model[n], shape.plate)]
    local_q = {n: t for n, t in log_q.items() if within(guide[n], shape.plate)}
    joint = sum(local_p[1:], start=local_p[0])
    log_joint = joint - sum(t for n, t in local_q.items() if n not in shape.enumerated)
    log_ratio, weights = log_joint, None
    kl, kl_dimensions = _divergences(model, guide, log_p, log_q, shape)
    if shape.enumerated:
        weights, log_conditional = _enumeration_weights(joint, log_q, model, guide, shape)
        only_model = [n for n in shape.enumerated if n not in guide]
        if only_model:
            kl["+".join(only_model)] = log_conditional - sum(log_p[n] for n in only_model)
        axes = tuple(range(weights.dim() - 2))
        log_ratio = log_joint - weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        log_joint = log_joint.logsumexp(axes)
        expected = functools.partial(_expected, weights)
        kl, log_p, log_q = ({n: expected(t) for n, t in d.items()} for d in (kl, log_p, log_q))
        log_ratio = expected(log_ratio)
        kl_dimensions = {}
    return _assembled(
        model, guide, log_p, log_q, kl, kl_dimensions, (log_joint, log_ratio), weights, shape,
        particles,
    )  # fmt: skip


def _contracted(
    model_trace: Trace,
    model: Sites,
    guide: Sites,
    log_q: dict[str, Tensor],
    shape: Structure,
    particles: int,
) -> Traces:
    """The same where discrete sites of the model are summed out by message passing."""
    first = next(s for s in model.values() if s["is_observed"] and within(s, shape.plate))
    batch = next(f.size for f in first["cond_indep_stack"] if f.name == shape.plate)
    if batch < 0:
        batch = log_prob(first).shape[shape.dim]
    found = contracted(model_trace, shape, particles, batch)
    outside = {n: s for n, s in model.items() if not within(s, shape.plate)}
    log_p = found.expected | {n: term(s, shape) for n, s in outside.items()}
    kl, kl_dimensions = _divergences(model, guide, log_p, log_q, shape)
    of_model = [n for n in shape.enumerated if n not in guide]
    log_conditional = sum(found.expected.values()) - found.log_marginal
    kl["+".join(of_model)] = log_conditional - sum(found.expected[n] for n in of_model)
    local = [t for n, t in log_q.items() if within(guide[n], shape.plate)]
    log_joint = found.log_marginal - sum(local)
    return _assembled(
        model,
        guide,
        log_p,
        log_q,
        kl,
        kl_dimensions,
        (log_joint, log_joint),
        None,
        shape,
        particles,
    )


def _expected(weights: Tensor, term: Tensor) -> Tensor:
    """The mean over the enumerated values."""
    if term.dim() < 2:
        return term
    return torch.where(weights > 0, weights * term, 0.0).sum(tuple(range(weights.dim() - 2)))


def _divergences(
    model: Sites,
    guide: Sites,
    log_p: dict[str, Tensor],
    log_q: dict[str, Tensor],
    shape: Structure,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """KL of each latent and of its dimensions: closed form where valid, else at the particle."""
    kl = {
        name: log_q[name] - log_p.get(name, torch.zeros(()))
        for name in (*shape.latents, *shape.auxiliary)
    }
    kl_dimensions: dict[str, Tensor] = {}
    summed = set(shape.enumerated) - guide.keys()
    known = set(shape.closed_form) - set(shape.enumerated)
    for name in shape.latents:
        local, q, p = within(guide[name], shape.plate), guide[name], model[name]
        closed = name in known
        exact = _closed_form(q, p) if closed else None
        # the weights of what the model alone sums out depend on the draw: its prior given such a
        # value has no closed form to be averaged with them
        if exact is not None and not (summed and exact.dim() > shape.nesting + 1):
            kl[name] = _reduce(exact, local, shape)
        per_dimension = _by_dimension(q, p, closed) if local and shape.nesting == 1 else None
        if per_dimension is not None:
            kl_dimensions[name] = per_dimension[(None,) * max(0, 3 - per_dimension.dim())]
    return kl, kl_dimensions


def _assembled(
    model: Sites,
    guide: Sites,
    log_p: dict[str, Tensor],
    log_q: dict[str, Tensor],
    kl: dict[str, Tensor],
    kl_dimensions: dict[str, Tensor],
    joint: tuple[Tensor, Tensor],
    weights: Tensor | None,
    shape: Structure,
    particles: int,
) -> Traces:
    batch = joint[0].shape[-1]

    def full(term: Tensor) -> Tensor:
        return term.expand((particles, batch) if term.dim() == 2 else (particles,))

    def measured(found: Sites, terms: dict[str, Tensor]) -> dict[str, Site]:
        each = {name: _site(site, full(terms[name]), shape) for name, site in found.items()}
        return {name: _averaged(site, weights) for name, site in each.items()}

    return Traces(
        model=measured(model, log_p),
        guide=measured(guide, log_q),
        shape=shape,
        log_joint=full(joint[0]),
        log_ratio=full(joint[1]),
        kl={name: full(term) for name, term in kl.items()},
        kl_dimensions=kl_dimensions,
    )


def _site(site: Message, log_prob: Tensor, shape: Structure) -> Site:
    fn, local, mean = site["fn"], within(site, shape.plate), None
    if not site["is_observed"] and not site.get("opaque"):
        try:
            mean = _place(fn.mean, fn.event_dim, local, shape)
        except (NotImplementedError, RuntimeError, AttributeError):
            mean = None
    return Site(
        name=site["name"],
        fn=fn,
        value=_place(site["value"], fn.event_dim, local, shape),
        log_prob=log_prob,
        is_observed=site["is_observed"],
        is_global=not local,
        event_shape=tuple(fn.event_shape),
        is_discrete=discrete(fn, site["value"]),
        mean=mean,
    )


def _averaged(site: Site, weights: Tensor | None) -> Site:
    """A site whose mean differs from one enumerated value to the next, with their mean."""
    mean = site.value if site.mean is None else site.mean
    if weights is None or site.is_observed or site.is_global or site.is_discrete:
        return site
    event = len(site.event_shape)
    mean = mean[(None,) * max(0, weights.dim() + event - mean.dim())]
    if mean.dim() != weights.dim() + event:  # within plates of its own
        return site
    shares = weights[(..., *[None] * event)]
    return dataclasses.replace(site, mean=(shares * mean).sum(tuple(range(weights.dim() - 2))))


def term(site: Message, shape: Structure) -> Tensor:
    """A site's log density, reduced to one number per particle and datum."""
    if "reduced" in site:
        reduced: Tensor = site["reduced"]
        return reduced
    return _reduce(log_prob(site), within(site, shape.plate), shape)


def _reduce(term: Tensor, local: bool, shape: Structure) -> Tensor:
    """``[*enumerated, particles, *plates]`` -> ``[*enumerated, particles(, batch)]``."""
    term = term[(None,) * max(0, shape.nesting + 1 - term.dim())]
    for dim in range(-shape.nesting, 0):
        if dim != shape.dim or not local:
            term = term.sum(dim, keepdim=True)
    batch = (term.shape[shape.dim],) if local else ()
    return term.reshape(term.shape[: term.dim() - shape.nesting] + batch)


def _place(value: Tensor, event: int, local: bool, shape: Structure) -> Tensor:
    """``[*enumerated, particles, *plates, *event]`` with the data's dimension after particles."""
    value = value[(None,) * max(0, shape.nesting + 1 + event - value.dim())]
    first = value.dim() - event - shape.nesting
    if local:
        value = value.movedim(shape.dim - event, first)
    kept = [d for d in range(first + local, value.dim() - event) if value.shape[d] > 1]
    event_sizes = value.shape[value.dim() - event :]
    return value.reshape(
        *value.shape[: first + local], *(value.shape[d] for d in kept), *event_sizes
    )


def _closed_form(q: Message, p: Message) -> Tensor | None:
    """KL(q || p) of two sites where a closed form is registered and their masks agree."""
    if q["mask"] is not p["mask"] or q.get("opaque"):
        return None
    try:
        kl: Tensor = kl_divergence(q["fn"], p["fn"])
    except NotImplementedError:
        return None
    masked: Tensor = scale_and_mask(kl, 1.0, q["mask"])
    return masked.to(q["value"].device)  # that to a flat prior is on the CPU always


def _by_dimension(q: Message, p: Message, closed: bool) -> Tensor | None:
    """KL of each coordinate, where both distributions factorise over one event dimension, or are
    of one number."""
    if q.get("opaque") or p.get("opaque") or q["mask"] is not None:
        return None
    bases = _coordinates(q["fn"], p["fn"])
    if bases is None:
        return None
    kl: Tensor | None = None
    if closed:
        with contextlib.suppress(NotImplementedError):
            kl = kl_divergence(*bases)
    if kl is None:
        kl = bases[0].log_prob(q["value"]) - bases[1].log_prob(q["value"])
    return kl if independent(q["fn"]) else kl[..., None]


def _coordinates(*fns: dist.TorchDistribution) -> list[dist.TorchDistribution] | None:
    """The distributions of single coordinates, where all factorise alike over at most one event
    dimension."""
    events = {independent(fn) for fn in fns}
    bases = [fn.base_dist if independent(fn) else fn for fn in fns]
    if len(events) > 1 or max(events) > 1 or any(base.event_dim for base in bases):
        return None
    return bases


def _enumeration_weights(
    joint: Tensor, log_q: dict[str, Tensor], model: Sites, guide: Sites, shape: Structure
) -> tuple[Tensor, Tensor]:
    """q of every combination of enumerated values ``[*enumerated, particles, batch]``, and the
    part of log q that is the model's own conditional of the sites that no guide has."""
    axes = []
    for name in shape.enumerated:
        if name not in guide:
            site = model[name]
            axes.append(site["value"].dim() - site["fn"].event_dim)
    log_conditional = torch.zeros(())
    if axes:
        # the n-th dimension from the right of a value is the n-th of the plates' layout; the
        # plates are by now one dimension
        dims = [-(axis - shape.nesting + 1) for axis in axes]
        log_conditional = joint - joint.logsumexp(dims, keepdim=True)
    log_weights = log_conditional + sum(
        (log_q[n] for n in shape.enumerated if n in guide), start=torch.zeros(())
    )
    return (log_weights.exp() + torch.zeros_like(joint)), log_conditional


def reduced(site: Message, shape: Structure, particles: int, batch: int) -> Site:
    """A site of a run of one program alone."""
    found = term(site, shape)
    local = within(site, shape.plate)
    return _site(site, found.expand((particles, batch) if local else (particles,)), shape)


def beside(site: Message, shape: Structure, particles: int) -> Tensor:
    """A site's value with its particles side by side along the data's dimension, particle by
    particle, in the site's own plates."""
    value, event = site["value"], site["fn"].event_dim
    if particles > 1:
        value = value[(None,) * max(0, shape.nesting + 1 + event - value.dim())]
        value = value.expand(particles, *value.shape[1:])
        axis = value.dim() + shape.dim - event
        value = value.movedim(0, axis - 1).flatten(axis - 1, axis)
        dims = [-f.dim for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
        value = value.reshape(value.shape[max(0, value.dim() - max(dims, default=0) - event) :])
    return value


def narrowed(guide_trace: Trace, start: int, stop: int, shape: Structure) -> Trace:
    """The guide's trace with the particles ``start:stop`` alone; a single one stands without the
    particles' dimension, as a run of one particle would have drawn it."""
    count, particle, sliced = stop - start, -shape.nesting - 1, guide_trace.copy()

    def narrow(value: Tensor, dim: int) -> Tensor:
        if value.dim() < -dim:
            return value
        if value.shape[dim] > 1:
            value = value.narrow(dim, start, count)
        return value.squeeze(dim) if count == 1 else value

    for name, site in sites(guide_trace).items():
        fn = site["fn"]
        value = narrow(site["value"], particle - fn.event_dim)
        if count == 1:
            dims = [-f.dim for f in site["cond_indep_stack"] if f.vectorized]
            depth = max((d for d in dims if d < -particle), default=0) + fn.event_dim
            value = value.reshape(value.shape[max(0, value.dim() - depth) :])
        part = {**site, "value": value}
        if "reduced" in site:
            part["reduced"] = site["reduced"][start:stop]
        change = functools.partial(_narrow_parameter, narrow, particle - independent(fn))
        try:
            part["fn"] = rebuild(fn, change)
        except NotImplementedError:
            part["opaque"] = True  # its parameters still hold all particles
        sliced.nodes[name] = part
    return sliced


def _narrow_parameter(
    narrow: Callable[[Tensor, int], Tensor],
    dim: int,
    name: str,
    constraint: Constraint,
    value: Tensor,
) -> Tensor:
    return narrow(value, dim - constraint.event_dim)


def independent(fn: dist.TorchDistribution) -> int:
    """How many dimensions of independent entries a distribution has as events."""
    return fn.reinterpreted_batch_ndims if isinstance(fn, dist.Independent) else 0


def rebuild(
    fn: dist.TorchDistribution, change: Callable[[str, Constraint, Tensor], Tensor]
) -> dist.TorchDistribution:
    """``fn`` with every parameter replaced by ``change(name, constraint, value)``.

    Raises:
        NotImplementedError: a distribution that is not given by its parameters alone.
    """
    if isinstance(fn, dist.Independent):
        return rebuild(fn.base_dist, change).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return rebuild(fn.base_dist, change).mask(fn._mask)
    if isinstance(fn, dist.LogNormal):  # given by the parameters of its base
        base = rebuild(fn.base_dist, change)
        return dist.LogNormal(base.loc, base.scale, validate_args=False)
    given = [n for n in fn.arg_constraints if isinstance(vars(fn).get(n), Tensor)]
    for names in (("logits", "probs"), ("scale_tril", "covariance_matrix", "precision_matrix")):
        # torch caches the other forms of a parameter once they are asked for; one is enough
        forms = [n for n in names if n in given]
        given = [n for n in given if n not in forms[1:]]
    if not given or isinstance(fn, dist.TransformedDistribution):
        raise NotImplementedError(f"{type(fn).__name__} is not given by its parameters alone")
    constraints = fn.arg_constraints
    changed = {name: change(name, constraints[name], vars(fn)[name]) for name in given}
    return type(fn)(**changed, validate_args=False)
