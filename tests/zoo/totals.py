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

from zoo.cases import Arguments, Case, Subject, argument, replaced, tiled

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
class Reconstruction:
    """Of one observed site.

    Attributes:
        means: particles of E[x'|z], what the model alone sums out weighed.
        squares: of E[x'|z, .]², weighed likewise.
        reach: how far apart E[x'|z, .] may be.
        classes: the values of a site of classes, which have no mean.
    """

    means: Estimate
    squares: Estimate
    reach: float
    classes: Tensor | None

    @property
    def mean(self) -> Tensor:
        return self.means.mean

    def error_of(self, draws: int, deviations: float) -> Tensor:
        """Standard error of a mean of draws, so much larger that so many of them suffice for
        values that are drawn seldom (Bernstein's inequality)."""
        variance = (self.squares.mean - self.mean**2).clamp_min(0)
        seldom = deviations * self.reach / (6 * draws)
        return (variance / draws + self.means.error**2).sqrt() + seldom


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

    def given_data(self, args: Arguments) -> tuple[Any, list[Values], Tensor, Values]:
        """A draw from the guide, what the model alone sums out in the plates over the data in
        turn, p of each given the data and the draw ``[values, N]``, and a draw of what it sums
        out in inner plates, element by element."""
        trace = self._guided(args, {}, None)
        _, theirs, inner = self._groups(args)
        runs = [self._run_of(args, v, inner, trace, False) for v in theirs]
        shares = torch.stack([run.total for run in runs]).softmax(0)
        within: dict[str, Tensor] = {}
        if any(name not in trace.nodes for name in inner[0]):
            assert theirs == [{}], "values in inner plates given each of others'"
            log_p = torch.stack([self._elements(args, v, trace)[0] for v in inner], -1)
            which = dist.Categorical(logits=log_p).sample()
            for name in inner[0]:
                every = torch.stack([v[name].expand(which.shape) for v in inner])
                within[name] = every.gather(0, which[None])[0]
        return trace, theirs, shares, within

    def _elements(self, args: Arguments, values: Values, trace: Any) -> tuple[Tensor, Sites]:
        """log p of everything in the inner plate of what is summed out there, element by element,
        and the model's sites."""
        model = self._replayed(args, values, trace)
        around = set(_plates(model[next(iter(values))]))
        terms = [_log_prob(s) for s in model.values() if around <= set(_plates(s))]
        return sum(terms, torch.zeros(())), model

    def chosen(self, args: Arguments) -> Sites:
        """The model's sites in a run where what is summed out is drawn: from the guide, or, where
        the model alone has it, from p(. | x, z)."""
        trace, theirs, shares, drawn = self.given_data(args)
        drawn = dict(drawn)
        if theirs != [{}]:
            which = dist.Categorical(probs=shares.T).sample()
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

    def put(self, args: Arguments, sites: Sites) -> Arguments:
        """The arguments with what the sites have in the place of what they observe."""
        names = [name for name in self.case.observed if name in sites]
        values = {name: self.first(sites[name], sites[name]["value"]) for name in names}
        return self.case.filled(args, values)

    def predicted_at(self, codes: Values) -> dict[str, Tensor]:
        """E[x|z] of the data at latents ``[N, ...]`` of theirs."""
        args = self.case.arguments(self.data)
        model = self.run(args)[1]
        return self.predicted(args, {n: self._native(model[n], v) for n, v in codes.items()})

    def _native(self, site: Any, value: Tensor) -> Tensor:
        """What :meth:`first` undoes: ``[N, ...]`` as the site has it."""
        event = site["fn"].event_dim
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and frame.name in self.case.plates:
                rest = site["value"].movedim(frame.dim - event, 0).shape[1:]
                return value.reshape(len(value), *rest).movedim(0, frame.dim - event)
        return value

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

    def reconstruction(self, particles: int) -> dict[str, Reconstruction]:
        """E[x'|x], z from the guide; what the model alone sums out is not drawn but weighed by
        p(. | x, z)."""
        means: dict[str, list[Tensor]] = {}
        squares: dict[str, list[Tensor]] = {}
        classes: dict[str, set[float]] = {}
        every: dict[str, list[Tensor]] = {}
        for args, count in self.batches(particles):
            trace, theirs, shares, within = self.given_data(args)
            first: dict[str, Any] = {}
            second: dict[str, Any] = {}
            for values, share in zip(theirs, shares, strict=True):
                model = self._replayed(args, {**values, **within}, trace)
                for name in (n for n in self.case.observed if n in model):
                    mean = self._mean(model[name]).double()
                    if isinstance(bare(model[name]["fn"]), dist.Categorical):
                        classes.setdefault(name, set()).update(mean.unique().tolist())
                    every.setdefault(name, []).append(mean)
                    weight = share.reshape(-1, *(1,) * (mean.dim() - 1))
                    first[name] = first.get(name, 0.0) + weight * mean
                    second[name] = second.get(name, 0.0) + weight * mean**2
            for found, new in ((means, first), (squares, second)):
                for name, value in new.items():
                    each = value.reshape(count, -1, *value.shape[1:])
                    found.setdefault(name, []).append(each)
        return {
            name: Reconstruction(
                Estimate(torch.cat(parts)),
                Estimate(torch.cat(squares[name])),
                self._reach(every[name]),
                torch.tensor(sorted(classes[name])).double() if name in classes else None,
            )
            for name, parts in means.items()
        }

    def _reach(self, means: list[Tensor]) -> float:
        """Between the values of what is summed out; no draws of others are rare."""
        if not set(self.case.enumerated) and not self.case.discrete:
            return 0.0
        return max(float(m.max()) for m in means) - min(float(m.min()) for m in means)

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

    def completed(self, where: int | str, missing: Tensor, particles: int) -> tuple[Tensor, Tensor]:
        """E[x_hidden | x_known] of an argument, where the data hold zeros for what is missing, and
        its standard error: E[x|z] weighted by p(x_known, z) / q(z|x); infinite where the weights
        are worth less than a quarter of the particles, as such errors are no errors."""
        means, weights = [], []
        for args, count in self.batches(particles):
            ours, theirs, inner = self._groups(args)
            gone = missing.repeat(count, *(1,) * (missing.dim() - 1))
            for mine in ours:
                trace = self._guided(args, {**mine, **inner[0]}, None)
                guide = sample_sites(trace)
                log_q = [_rows(guide[n], _log_prob(guide[n]), self.case.plates) for n in mine]
                for other in theirs:
                    each = [self._known(args, {**mine, **other, **v}, trace, where, gone)
                            for v in inner]  # fmt: skip
                    log_w, mean = _mixed(each)
                    weights.append((log_w + sum(log_q)).reshape(count, -1))
                    means.append(mean.reshape(count, *missing.shape))
        log_w, mean = torch.cat(weights).double(), torch.cat(means).double()
        share = log_w.softmax(0)
        worth = 1 / share.square().sum(0)
        share = share.reshape(*share.shape, *(1,) * (mean.dim() - 2))
        middle = (share * mean).sum(0)
        error = (share**2 * (mean - middle) ** 2).sum(0).sqrt()
        error[worth < particles / 4] = math.inf
        return middle, error

    def _known(
        self, args: Arguments, values: Values, trace: Any, where: int | str, gone: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One run: log p(z, x_known) / q ``[N]`` but for the sites that observe the argument,
        log p of its known entries, with what is summed out beside them, and its means, of the
        argument's shape each."""
        model, names = self._replayed(args, values, trace), self.case.sources[where]
        names = [name for name in names if name in model]
        beside = {n for n in self.case.enumerated if n in model and self._inside(model[n])}
        terms = self._sums(sample_sites(trace), model, {*names, *beside})
        blank = replaced(args, {where: torch.zeros(gone.shape)})
        hidden = self.case.filled(blank, {n: self._mean(model[n]) for n in names})
        parts = {}
        for name in names:
            column = self.case.observed[name]
            own = gone[:, column[1]] if isinstance(column, tuple) else gone
            parts[name] = _entries(model[name], own).reshape(own.shape)
        known = argument(self.case.filled(blank, parts), where)
        for name in beside:
            known = known + _log_prob(model[name]).reshape(known.shape)
        return terms.total, known, argument(hidden, where)

    def _inside(self, site: Any) -> bool:
        """Whether a site lies in a plate inside those over the data."""
        return bool(set(_plates(site)) - set(self.case.plates))


def _mixed(each: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """log weight ``[N]`` and means of runs for each value of what lies in inner plates, where
    every entry has one of its own."""
    terms, known, mean = (torch.stack(parts) for parts in zip(*each, strict=True))
    total = known.logsumexp(0)
    return terms[0] + total.reshape(len(total), -1).sum(1), ((known - total).exp() * mean).sum(0)


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


def bare(fn: Any) -> Any:
    """A distribution without what wraps it."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


@torch.no_grad()
def centre(site: Any, mode: bool = True) -> Tensor:
    """The mean, of a class the most probable one, of what knows neither the value."""
    fn = site["fn"]
    shape = site["value"].shape
    try:
        mean = fn.mean
        if not bool(mean.isnan().any()):
            return mean.expand(shape)
        if mode:
            return bare(fn).mode.expand(shape)
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
