"""Totals by hand: the guide traced, the model replayed, their sites' log probabilities added.

Nothing here is pyrovae's. Many particles are run at once by repeating the rows of the data, so
that a program need not broadcast; sites that are summed out are given each of their values in
turn (those of an inner plate all at once, element by element, as they do not know each other).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from zoo.cases import Arguments, Case, Subject, tiled

Sites = dict[str, Any]
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Estimate:
    """Particles of a quantity per datum, ``[particles, N, ...]``."""

    values: Tensor

    @property
    def mean(self) -> Tensor:
        return self.values.double().mean(0)

    @property
    def error(self) -> Tensor:
        """Standard error of the mean."""
        return self.sd / math.sqrt(len(self.values))

    @property
    def sd(self) -> Tensor:
        return self.values.double().std(0)

    def log_mean(self) -> tuple[Tensor, Tensor]:
        """log of the mean of exp(values), and its standard error by the delta method."""
        values = self.values.double()
        found = values.logsumexp(0) - math.log(len(values))
        relative = (values - found).exp()
        return found, relative.std(0) / math.sqrt(len(values))


@dataclass(frozen=True)
class Terms:
    """One run: ``[N]`` each, and what all data share, a number."""

    log_x: Tensor  # log p(x|z), what is observed
    log_prior: Tensor  # log p(z)
    log_q: Tensor  # of what the guide draws
    shared: Tensor

    @property
    def total(self) -> Tensor:
        return self.log_x + self.log_prior - self.log_q + self.shared / len(self.log_x)


def is_factor(site: Any) -> bool:
    return isinstance(site["fn"], dist.Unit)


def sample_sites(trace: Any) -> Sites:
    """The sites of a trace, plates' own subsamples left out."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample"
    }


@contextmanager
def evaluation() -> Iterator[None]:
    """Whatever module runs is in evaluation mode, wherever a program keeps it; no gradients."""

    def switch(module: nn.Module, _: Any) -> None:
        module.training = False

    hook = register_module_forward_pre_hook(switch)
    try:
        with torch.no_grad():
            yield
    finally:
        hook.remove()


def traced(program: Any, args: Arguments) -> Sites:
    with evaluation():
        return sample_sites(poutine.trace(program).get_trace(*args[0], **args[1]))


@torch.no_grad()
def _log_prob(site: Any, masked: bool = True) -> Tensor:
    """Without the plates' scale, with the mask; over all plates that the site lies in."""
    found = site["fn"].log_prob(site["value"])
    if masked and site["mask"] is not None:
        found = torch.where(torch.as_tensor(site["mask"]), found, found.new_zeros(()))
    frames = [f for f in site["cond_indep_stack"] if f.vectorized]
    shape = [1] * max([0, *(-f.dim for f in frames)])
    for frame in frames:
        shape[frame.dim] = max(frame.size, 1)  # -1 is whatever the site's own shape says
    return found.expand(torch.broadcast_shapes(found.shape, tuple(shape)))


def _plates(site: Any) -> list[str]:
    return [f.name for f in site["cond_indep_stack"] if f.vectorized]


def _rows(site: Any, term: Tensor, plates: tuple[str, ...]) -> Tensor | None:
    """``[N]``; None where the site lies in no plate over the data."""
    frame = next((f for f in site["cond_indep_stack"] if f.vectorized and f.name in plates), None)
    if frame is None:
        return None
    return term.movedim(frame.dim, 0).flatten(1).sum(1) if term.dim() > 1 else term


class _Undata(UnconditionMessenger):
    """Observed sites are drawn; a ``pyro.deterministic`` is not data, and stays what it is."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic"):
            super()._pyro_sample(msg)


class Hand:
    """A subject's runs, in evaluation mode and without gradients.

    Args:
        subject: a fresh one, or one whose parameters are in Pyro's store and modules.
        data: instead of all its data.
    """

    def __init__(self, subject: Subject, data: Any = None) -> None:
        self.subject, self.case = subject, subject.case
        self.data = subject.whole if data is None else data

    def batches(self, particles: int) -> Iterator[tuple[Arguments, int]]:
        """Arguments, and how many particles their rows are."""
        if self.case.rows and self.case.tiles and not self.case.globals:
            yield self.case.arguments(tiled(self.data, particles)), particles
        else:
            for _ in range(particles):
                yield self.case.arguments(self.data), 1

    def run(self, args: Arguments, given: Values | None = None) -> tuple[Sites, Sites]:
        """The guide's sites, and the model's with the latents that it drew; of the sites to sum
        out, the values ``given``."""
        trace = self._guided(args, given or {}, None)
        return sample_sites(trace), self._replayed(args, given or {}, trace)

    def _guided(self, args: Arguments, given: Values, like: Any) -> Any:
        """A trace of the guide, with the draws of another one."""
        guide = _given(self.subject.guide, given)
        with evaluation():
            if like is not None:
                guide = poutine.replay(guide, trace=like)
            return poutine.trace(guide).get_trace(*args[0], **args[1])

    def _replayed(self, args: Arguments, given: Values, trace: Any) -> Sites:
        with evaluation():
            return traced(poutine.replay(_given(self.subject.model, given), trace=trace), args)

    def _groups(self, args: Arguments) -> tuple[list[Values], list[Values], list[Values]]:
        """Values in turn of what is summed out: what the guide has in the plate over the data,
        what the model alone has there, and what lies in inner plates."""
        groups: tuple[dict[str, Tensor], ...] = ({}, {}, {})
        if self.case.enumerated:
            guide, model = self.run(args)
            for name in self.case.enumerated:
                site = guide.get(name, model.get(name))
                inner = set(_plates(site)) - set(self.case.plates)
                which = 2 if inner else int(name not in guide)
                groups[which][name] = site["fn"].enumerate_support(expand=True)
        each = [
            [dict(zip(group, v, strict=True)) for v in itertools.product(*group.values())]
            for group in groups
        ]
        return each[0], each[1], each[2]

    def outcomes(self, args: Arguments, bound: bool) -> list[tuple[list[Terms], Tensor]]:
        """For every value of what the guide sums out, a run for every value of what the model
        alone sums out, on the same draws; and log q of the former ``[N]``.

        Of elements in inner plates that the guide sums out, the bound is an expectation and the
        evidence a sum.
        """
        ours, theirs, inner = self._groups(args)
        found = []
        for mine in ours:
            trace = self._guided(args, {**mine, **inner[0]}, None)
            guide = sample_sites(trace)
            log_q = [_rows(guide[n], _log_prob(guide[n]), self.case.plates) for n in mine]
            runs = [self._run_of(args, {**mine, **other}, inner, trace, bound) for other in theirs]
            found.append((runs, sum(log_q, torch.zeros(()))))
        return found

    def _run_of(
        self, args: Arguments, outer: Values, inner: list[Values], trace: Any, bound: bool
    ) -> Terms:
        if inner == [{}]:
            return self._sums(sample_sites(trace), self._replayed(args, outer, trace), set())
        names, log_p, log_q = list(inner[0]), [], []
        for values in inner:
            given = {**outer, **values}
            own = self._guided(args, given, trace)
            guide, model = sample_sites(own), self._replayed(args, given, own)
            around = set(_plates(model[names[0]]))
            within = {n for n, s in model.items() if around <= set(_plates(s))}
            log_p.append(sum(_log_prob(model[n]) for n in within))
            q = [_log_prob(guide[n]) for n in names if n in guide]
            log_q.append(sum(q, torch.zeros_like(log_p[-1])))
        p, q = torch.stack(log_p), torch.stack(log_q)
        in_guide = any(n in guide for n in names)
        summed = (q.exp() * (p - q)).sum(0) if in_guide and bound else p.logsumexp(0)
        rest = self._sums(guide, model, within | set(names))
        elements = _rows(model[names[0]], summed, self.case.plates)
        return dataclasses.replace(rest, log_x=rest.log_x + elements)

    def _sums(self, guide: Sites, model: Sites, skip: set[str]) -> Terms:
        size = None
        sums: dict[str, Any] = {"log_x": 0.0, "log_prior": 0.0, "log_q": 0.0}
        shared = torch.zeros(())
        drawn = set(self.case.latents) | set(self.case.globals) | set(self.case.enumerated)
        for program, sites in (("model", model), ("guide", guide)):
            for name, site in sites.items():
                if name in skip and (program == "model" or name in self.case.enumerated):
                    continue
                factor = is_factor(site) and site["fn"].has_rsample
                given = site["is_observed"] and name not in drawn and not factor
                if program == "guide" and given:
                    continue  # what a guide observes is no draw of q
                # Pyro sums the model's own sites out without their mask: the values' shares add up
                summed = name in self.case.enumerated and name not in guide
                term = _log_prob(site, masked=not summed)
                rows = _rows(site, term, self.case.plates)
                if rows is None:
                    shared = shared + (term.sum() if program == "model" else -term.sum())
                    continue
                size = len(rows)
                if program == "guide":
                    sums["log_q"] = sums["log_q"] + rows
                elif name in self.case.observed or is_factor(site):
                    sums["log_x"] = sums["log_x"] + rows
                else:
                    sums["log_prior"] = sums["log_prior"] + rows
        found = {n: torch.as_tensor(v, dtype=shared.dtype) for n, v in sums.items()}
        size = size or 1
        return Terms(**{n: v.expand(size) for n, v in found.items()}, shared=shared)

    def _estimate(self, of: Any, particles: int) -> Estimate:
        found = []
        for args, count in self.batches(particles):
            value = of(args)
            found.append(value.reshape(count, -1, *value.shape[1:]))
        return Estimate(torch.cat(found))

    def elbo(self, particles: int) -> Estimate:
        """E_q[log p(x, z) - log q(z|x)]; what all data share is spread evenly over them."""

        def of(args: Arguments) -> Tensor:
            outcomes = self.outcomes(args, bound=True)
            each = [torch.stack([t.total for t in runs]).logsumexp(0) for runs, _ in outcomes]
            if len(each) == 1:
                return each[0]
            shares = torch.stack([log_q for _, log_q in outcomes]).exp()
            return (shares * torch.stack(each)).sum(0)

        return self._estimate(of, particles)

    def kl(self, particles: int) -> Estimate:
        """E_q[log q(z|x) - log p(z)], where nothing is summed out."""

        def of(args: Arguments) -> Tensor:
            (((terms,), _),) = self.outcomes(args, bound=True)
            return terms.log_q - terms.log_prior - terms.shared / len(terms.log_x)

        return self._estimate(of, particles)

    def log_weights(self, particles: int) -> Estimate:
        """log p(x, z) / q(z|x), what is summed out summed out."""

        def of(args: Arguments) -> Tensor:
            outcomes = self.outcomes(args, bound=False)
            joint = [t.total + log_q for runs, log_q in outcomes for t in runs]
            return torch.stack(joint).logsumexp(0)

        return self._estimate(of, particles)

    def chosen(self, args: Arguments) -> Sites:
        """The model's sites in a run where what is summed out is drawn: from the guide, or, where
        the model alone has it in the plate over the data, from p(. | x, z)."""
        trace = self._guided(args, {}, None)
        _, theirs, _ = self._groups(args)
        drawn: dict[str, Tensor] = {}
        if theirs != [{}]:
            guide = sample_sites(trace)
            runs = [self._sums(guide, self._replayed(args, v, trace), set()) for v in theirs]
            which = dist.Categorical(logits=torch.stack([t.total for t in runs], -1)).sample()
            for name in theirs[0]:
                every = torch.stack([values[name] for values in theirs])
                drawn[name] = every[which, torch.arange(len(which))]
        return self._replayed(args, drawn, trace)

    def draw(self) -> dict[str, Tensor]:
        """One draw of every latent given all the data, as the program has them."""
        case, model = self.case, self.chosen(self.case.arguments(self.data))
        names = dict.fromkeys((*case.latents, *case.globals, *case.enumerated))
        return {name: model[name]["value"] for name in names if name in model}

    def draw_at(self, args: Arguments) -> Sites:
        """The model's sites at latents drawn from the guide, what it observes drawn too."""
        model = self.chosen(args)
        names = (*self.case.latents, *self.case.globals, *self.case.enumerated)
        return self.drawn(args, {n: model[n]["value"] for n in names if n in model})

    def first(self, site: Any, value: Tensor) -> Tensor:
        """``[N, ...]`` of a site's value, whatever the plates' order; of a global one itself."""
        event = site["fn"].event_dim
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and frame.name in self.case.plates:
                value = value.movedim(frame.dim - event, 0)
                while value.dim() > 1 + event + len(_plates(site)) - 1 and value.shape[1] == 1:
                    value = value.squeeze(1)
                return value
        return value

    def predicted(self, args: Arguments, values: Values) -> dict[str, Tensor]:
        """E[x|z] of every observed site at given latents; observed parents are as they are."""
        model = traced(_given(self.subject.model, values), args)
        return {n: self._mean(model[n]) for n in self.case.observed if n in model}

    def _mean(self, site: Any, mode: bool = True) -> Tensor:
        return self.first(site, centre(site, mode)).detach()

    def drawn(self, args: Arguments, values: Values | None = None) -> Sites:
        """The model's sites with what it observes drawn too."""
        model = _Undata()(self.subject.model)
        return traced(_given(model, values or {}), args)

    def reconstruction(self, particles: int) -> dict[str, Estimate]:
        """Particles of E[x|z], z from the guide."""
        found: dict[str, list[Tensor]] = {}
        for args, count in self.batches(particles):
            model = self.chosen(args)
            for name in self.case.observed:
                if name in model:
                    mean = self._mean(model[name])
                    found.setdefault(name, []).append(mean.reshape(count, -1, *mean.shape[1:]))
        return {name: Estimate(torch.cat(parts)) for name, parts in found.items()}

    def codes(self, particles: int = 200) -> dict[str, Estimate]:
        """Particles of every continuous latent's mean under q, given what the guide drew before
        it (its value, where the distribution does not know its mean)."""
        found: dict[str, list[Tensor]] = {}
        for args, count in self.batches(particles):
            guide = traced(self.subject.guide, args)
            for name in self.subject.sites:
                mean = self._mean(guide[name], mode=False)
                found.setdefault(name, []).append(mean.reshape(count, -1, *mean.shape[1:]))
        return {name: Estimate(torch.cat(parts)) for name, parts in found.items()}

    def completed(self, site_name: str, missing: Tensor, particles: int) -> Estimate:
        """E[x_hidden | x_known] of an observed site, where the data hold zeros for what is missing:
        particles of E[x|z], weighted by p(x_known, z) / q(z|x). Two values, a standard error below
        the mean and one above it.
        """
        means, weights = [], []
        for args, count in self.batches(particles):
            ours, theirs, _ = self._groups(args)
            gone = missing.repeat(count, *(1,) * (missing.dim() - 1))
            for mine in ours:
                trace = self._guided(args, mine, None)
                guide = sample_sites(trace)
                log_q = [_rows(guide[n], _log_prob(guide[n]), self.case.plates) for n in mine]
                for other in theirs:
                    model = self._replayed(args, {**mine, **other}, trace)
                    terms = self._sums(guide, model, {site_name})
                    site = model[site_name]
                    known = _entries(site, gone).reshape(len(gone), -1).sum(1)
                    weights.append((terms.total + known + sum(log_q)).reshape(count, -1))
                    mean = self._mean(site)
                    means.append(mean.reshape(count, -1, *mean.shape[1:]))
        log_w, mean = torch.cat(weights).double(), torch.cat(means).double()
        share = log_w.softmax(0)
        share = share.reshape(*share.shape, *(1,) * (mean.dim() - 2))
        middle = (share * mean).sum(0)
        error = (share**2 * (mean - middle) ** 2).sum(0).sqrt()
        return Estimate(torch.stack([middle - error, middle + error]))


@torch.no_grad()
def _entries(site: Any, gone: Tensor) -> Tensor:
    """log p of every entry that is known, ``[N, ...]``; the plate over the data is the first."""
    fn, value, masks = site["fn"], site["value"], [site["mask"]]
    while isinstance(fn, dist.Independent | dist.MaskedDistribution):
        masks.append(getattr(fn, "_mask", None))
        fn = fn.base_dist
    found = fn.log_prob(value)
    for mask in (torch.as_tensor(m) for m in masks if m is not None):
        shape = (*mask.shape, *(1,) * (found.dim() - mask.dim()))
        found = torch.where(mask.reshape(shape), found, torch.zeros(()))
    return torch.where(gone.reshape(found.shape), torch.zeros(()), found)


def _given(program: Any, values: Values) -> Any:
    return poutine.condition(program, data=dict(values)) if values else program


@torch.no_grad()
def centre(site: Any, mode: bool = True) -> Tensor:
    """The mean, of a class the most probable one, of what knows neither the value."""
    fn = site["fn"]
    shape = site["value"].shape
    try:
        mean = fn.mean
        if not bool(mean.isnan().any()):
            return mean.expand(shape)
        bare = fn
        while hasattr(bare, "base_dist"):
            bare = bare.base_dist
        if mode:
            return bare.mode.expand(shape)
    except (NotImplementedError, AttributeError):
        pass
    return site["value"]


def pyro_loss(case: Case, runs: int) -> Estimate:
    """Pyro's own loss per datum, at the parameters that a fresh program has."""
    subject = Subject(case)
    args = case.arguments(subject.whole)
    loss = case.loss()
    found = [loss.loss(subject.model, subject.guide, *args[0], **args[1]) for _ in range(runs)]
    return Estimate(torch.tensor(found, dtype=torch.float64)[:, None] / len(subject) / case.scale)


def store() -> dict[str, Tensor]:
    """Pyro's parameter store as it is, copied."""
    return {n: p.detach().clone() for n, p in pyro.get_param_store().named_parameters()}
