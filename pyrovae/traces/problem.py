"""A pair that has met its data: what running it showed, and the runs that all verbs are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import infer_discrete
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import UsageError, in_short, whole_number
from pyrovae.progress import steps
from pyrovae.randomness import put_back, set_seed, states
from pyrovae.tensors import Data, TensorData
from pyrovae.traces.handlers import Drawing, Unmasked
from pyrovae.traces.meeting import met
from pyrovae.traces.pair import Args, Pair, as_pair
from pyrovae.traces.probing import observe
from pyrovae.traces.sites import (
    argument,
    draws,
    in_particles,
    is_factor,
    replay,
    run,
    sites,
    within,
)
from pyrovae.traces.structure import Structure, head, is_data, rows, said, signature, structure
from pyrovae.traces.structure import data_plate as plate_over
from pyrovae.traces.structure import plates as plates_of
from pyrovae.traces.supports import Supports
from pyrovae.traces.terms import Site, Traces, beside, joined, measure, narrowed, reduced, term
from pyrovae.traces.wiring import Wiring
from pyrovae.turns import turn

CODES = 256  # draws that stand for the mean of a distribution that knows none
FIRST = 64  # data that a pair first meets
FEWER = (5, 2, 1)  # tried where neither that many nor all of them run


class Problem:
    """An inference problem: a pair, and data that it has been run on.

    What the runs showed (sites, plates, what a particle takes) is kept with the pair for data of
    the same shapes and types, and held against every later run: a run that shows other sites is
    looked at anew.

    Attributes:
        pair: the programs as they run on these data.
        data: the data, fixed, on the pair's device.
        shape: what was seen.
        whole: whether the programs run on all the data alone.
    """

    def __init__(
        self, pair: Pair, shape: Structure, data: Data, plate: str | None, whole: bool = False
    ) -> None:
        self.pair, self.shape, self.data = pair, shape, data
        self.plate, self.whole = plate, whole
        self.blind = False  # whether a distribution of the guide knows no mean
        self.axes: dict[str, int] = {}  # where the data lie in each latent, from the right

    @classmethod
    @turn()
    def of(
        cls,
        pair: object,
        x: object,
        seed: int = 0,
        plate: str | None = None,
        *,
        checked: bool = True,
    ) -> Problem:
        """A pair and data in any form that ``pv.fit`` takes. NaN means missing; a binarisation is
        drawn once.

        Args:
            pair: anything with ``.model`` and ``.guide``.
            x: the data.
            seed: of what is drawn of the data themselves.
            plate: name of the plate over the data, where several lie along their first axis.
            checked: whether the data are held against the sites' supports.

        Raises:
            UsageError: data outside a support; sites that differ between model and guide; no plate
                over the data, or several.
        """
        program = as_pair(pair)
        data = program.serve(x).fixed(seed)
        data.check_finite()
        program, data = met(program, data)
        last: UsageError | None = None
        for count in _sizes(len(data)):
            with torch.random.fork_rng(devices=[]):
                few = next(iter(data.batches(count)))
            try:
                shape = seen(program, few, plate)
            except UsageError as error:
                last = last or error
                continue
            if shape.tied and count < len(data):  # no datum without all the others
                few, count = next(iter(data.batches(len(data)))), len(data)
                shape = seen(program, few, plate)
            found = cls(program, shape, data, plate, shape.tied or count == len(data) > FIRST)
            program.example(few)
            if checked:
                some = few if found.whole else head(few, FEWER[0])  # for the sites' supports
                with program.evaluating():
                    found.data = Supports(program, some).check(data)
            return found
        assert last is not None
        if checked and data.in_memory:  # where the data are the reason, say so
            with program.evaluating():
                Supports(program, next(iter(data.batches(min(len(data), FIRST))))).check(data)
        raise last

    @classmethod
    def at(cls, pair: object, args: Args, plate: str | None = None) -> Problem:
        """A pair and one batch, as the programs take it."""
        program = as_pair(pair)
        shape = seen(program, args, plate)
        return cls(program, shape, _Batch(args), plate, shape.tied)

    def summing(self, names: Sequence[str]) -> Problem:
        """The same with these of its discrete sites summed out alone, the others drawn."""
        left = tuple(name for name in self.shape.enumerated if name in names)
        shape = dataclasses.replace(
            self.shape, enumerated=left, contracted=self.shape.contracted and bool(left)
        )
        return self.like(shape)

    def like(self, shape: Structure) -> Problem:
        """The same under another structure."""
        return Problem(self.pair, shape, self.data, self.plate, self.whole)

    def on(self, batch: Args) -> Problem:
        """The same for a batch whose sites may be others than those that were seen at first, as
        those of series of another length."""
        with self.pair.scope(), said(batch):
            found = signature(*map(sites, run(self.pair, batch)))
        same = found == self.shape.signature
        return self if same else self.like(self._anew(batch, found))

    def running(self, pair: Pair) -> Problem:
        """The same with other programs of the same sites in the pair's place."""
        return Problem(pair, self.shape, self.data, self.plate, self.whole)

    # --- the data, in parts -----------------------------------------------------------------------

    def at_once(self, asked: int) -> int:
        """How many data the programs take in one run, if as many as are asked for."""
        if self.whole:
            return len(self.data)
        # as many as a plate has are taken for all of them in their order (Pyro's subsampled
        # parameters), so one fewer
        limit = asked if self.shape.size is None else min(asked, self.shape.size - 1)
        return max(1, limit)

    def most(self, asked: int) -> int:
        """The same, of those that there are."""
        return min(self.at_once(asked), len(self.data))

    def batches(self, asked: int) -> Iterator[Args]:
        """The data, at most so many at once."""
        return steps(self.data.batches(self.most(asked)), len(self.data), size=rows)

    def chunks(
        self, num_particles: int, chunk_bytes: int, seed: int
    ) -> Iterator[tuple[Args, list[Traces]]]:
        """Per batch of the data, the slices of its particles, so that one of them bounds the
        memory; a slice's distributions are let go."""
        whole_number("num_particles", num_particles)
        num_particles = 1 if self.shape.exact else num_particles  # they would all be the same
        lines = self.shape.rows_within(chunk_bytes)
        # one draw of a global latent serves all data
        every = self.whole or bool(self.shape.globals)
        size = len(self.data) if every else self.most(max(1, lines // num_particles))
        at_once = min(num_particles, max(1, lines // size))
        with self.pair.evaluating():
            set_seed(seed)
            validating = True
            words = f"{num_particles:,} particles" * (num_particles > 1)
            for batch in steps(self.data.batches(size), len(self.data), words, rows):
                # the data have been checked by now, the programs are on their first chunk
                with pyro.validation_enabled(validating), said(batch):
                    slices = self.slices(batch, num_particles, at_once)
                    parts = [p.light() for p in steps(slices, num_particles, size=_particles)]
                validating = False
                yield batch, parts

    # --- runs -------------------------------------------------------------------------------------

    def draw(self, batch: Args, num_particles: int = 1) -> Traces:
        """Run guide and model on one batch, with gradients if they are enabled: particles at once
        where the pair broadcasts, one by one where it does not."""
        found = list(self.slices(batch, num_particles, num_particles))
        return found[0] if len(found) == 1 else joined(found)

    def slices(self, batch: Args, num_particles: int, at_once: int) -> Iterator[Traces]:
        """The particles of :meth:`draw`, ``at_once`` of them at a time: the guide runs once for
        all, the model is replayed slice by slice."""
        whole_number("num_particles", num_particles)
        shape = self.shape
        with self.pair.scope():
            if num_particles == 1 or not shape.broadcasts:
                for _ in range(num_particles):
                    yield self._run(batch, 1)
            elif at_once >= num_particles or shape.enumerated:
                yield self._run(batch, num_particles)
            else:
                yield from self._replayed(batch, num_particles, at_once)

    def _run(self, batch: Args, particles: int) -> Traces:
        shape = self.shape
        before = None if torch.is_grad_enabled() else states()
        traced = self._traced(batch, particles, shape)
        if (found := signature(*map(sites, traced))) != shape.signature:  # others than were seen
            shape = self._anew(batch, found)
            if before is not None:  # the same noise as where they were seen at first
                put_back(before)
            other = self.like(shape)
            if particles > 1 and not shape.broadcasts:
                return joined([other._run(batch, 1) for _ in range(particles)])
            traced = self._traced(batch, particles, shape)
            if signature(*map(sites, traced)) != shape.signature:
                shape = _at_hand(self, batch, traced, shape)
        found_terms = _whole(measure(*traced, shape, particles), batch)
        if shape.enumerated:
            return found_terms
        again = self._again(batch, traced[1], shape, particles)
        return dataclasses.replace(found_terms, rerun=again)

    def _anew(self, batch: Args, found: tuple[Any, ...]) -> Structure:
        """The structure of batches of this kind that have such sites."""
        kept, key = self.pair.memory.seen, (self.pair.code, self.plate, found)
        if key not in kept:
            kept[key] = observe(self.pair, batch, self.plate)
        return kept[key]

    def _traced(self, batch: Args, particles: int, shape: Structure) -> tuple[Trace, Trace]:
        return run(self.pair, batch, particles, shape.nesting, shape.enumerated)

    def _again(
        self, batch: Args, guide_trace: Trace, shape: Structure, particles: int
    ) -> Callable[[], Traces]:
        """Both programs once more on the same particles, held constant."""

        def rerun() -> Traces:
            constant = guide_trace.copy()
            for name, site in sites(guide_trace).items():
                constant.nodes[name] = {**site, "value": site["value"].detach()}
            guide, model = self._in_particles(particles, shape)
            again = replay(guide, constant, batch)
            return measure(replay(model, again, batch), again, shape, particles)

        return rerun

    def _in_particles(self, particles: int, shape: Structure) -> tuple[Trace, Trace]:
        both = (self.pair.guide, self.pair.model)
        if particles == 1:
            return both
        guide, model = (in_particles(p, particles, shape.nesting) for p in both)
        return guide, model

    def _replayed(self, batch: Args, num_particles: int, at_once: int) -> Iterator[Traces]:
        shape = self.shape
        guide, _ = self._in_particles(num_particles, shape)
        guide_trace = poutine.trace(guide).get_trace(*batch)
        for site in sites(guide_trace).values():
            guide_trace.nodes[site["name"]]["reduced"] = term(site, shape)
        for start in range(0, num_particles, at_once):
            stop = min(start + at_once, num_particles)
            part = narrowed(guide_trace, start, stop, shape)
            _, model = self._in_particles(stop - start, shape)
            model_trace = replay(model, part, batch)
            if signature(sites(model_trace), sites(part)) != shape.signature:
                other = self.like(self._anew(batch, signature(sites(model_trace), sites(part))))
                yield from other.slices(batch, num_particles - start, at_once)
                return
            yield _whole(measure(model_trace, part, shape, stop - start), batch)

    # --- latents and data of the batch ------------------------------------------------------------

    def codes(self, batch: Args) -> dict[str, Tensor]:
        """The mean of q(z|x) of every local continuous latent, ``[batch, ...]``; where it is that
        of draws, as of a latent that depends on others or of a distribution that knows no mean,
        averaged over them."""
        if self.shape.enumerated:  # averaged over their values
            several = len(self.shape.latents) > 1 or self.blind
            return self._codes(self.draw(batch, CODES // 4 if several else 1).guide)
        with self.pair.scope(), said(batch):
            found = self._codes(self._guide(batch))
            if self._varies(batch, found):
                if self.shape.broadcasts:
                    return self._codes(self._guide(batch, CODES))
                runs = [self._codes(self._guide(batch)) for _ in range(CODES // 4)]
                return {n: torch.stack([each[n] for each in runs]).mean(0) for n in found}
        return found

    def codes_once(self, batch: Args) -> dict[str, Tensor]:
        """The same by one run of the guide, in which a latent depends on draws of others."""
        with self.pair.scope():
            return self._codes(self._guide(batch))

    def moments_once(self, batch: Args) -> dict[str, Tensor]:
        """:meth:`codes_once`, and by ``NAME.variance`` the variances ``[batch, ...]`` of the
        latents that are independent normals given the batch."""
        with self.pair.scope():
            guide = self._guide(batch)
            found = self._codes(guide)
            spread = {f"{n}.variance": _variance(guide[n]) for n in found}
            return found | {n: v for n, v in spread.items() if v is not None}

    def _varies(self, batch: Args, found: Mapping[str, Tensor]) -> bool:
        """Whether another run gives other codes, where that may be."""
        if len(self.shape.latents) + len(self.shape.auxiliary) == 1 and not self.blind:
            return False
        again = self._codes(self._guide(batch))
        return any(not torch.equal(found[n], again[n]) for n in found if n in again)

    def _codes(self, guide: Mapping[str, Site]) -> dict[str, Tensor]:
        self.blind = any(s.mean is None for s in guide.values())
        local = [guide[n] for n in self.shape.latents if n in guide and not guide[n].is_global]
        return {
            s.name: (s.value if s.mean is None else s.mean).mean(0)
            for s in local
            if not s.is_discrete
        }

    def _guide(self, batch: Args, particles: int = 1) -> dict[str, Site]:
        """The sites of a run of the guide alone."""
        guide, _ = self._in_particles(particles, self.shape)
        found = draws(sites(poutine.trace(guide).get_trace(*batch)))
        return {n: reduced(s, self.shape, particles, rows(batch)) for n, s in found.items()}

    def particles(self, batch: Args, count: int) -> dict[str, Tensor]:
        """Draws of the latents given the batch, each datum ``count`` times, particle by particle:
        ``[count * batch, ...]`` in the model's own plates."""
        return self._beside(batch, count, weigh=False)[0]

    def turns(
        self, batch: Args, count: int, latents: Mapping[str, Tensor]
    ) -> Iterator[tuple[Args, dict[str, Tensor]]]:
        """The batch ``count`` times over beside as many draws of its latents, as :meth:`particles`
        gives them, in as few runs as the programs' plates allow."""
        size = rows(batch)
        step = max(1, min(count, self.at_once(count * size) // size))
        starts = range(0, count, step)
        for start in steps(starts, len(starts)):
            taken = min(step, count - start)
            part = {
                n: v.narrow(self.axes[n], start * size, taken * size) for n, v in latents.items()
            }
            yield tuple(a.repeat(taken, *[1] * (a.dim() - 1)) for a in batch), part

    def weighed(self, batch: Args, count: int) -> tuple[dict[str, Tensor], Tensor]:
        """The same and their log weights ``[count, batch]``, log p(x, z) - log q(z|x)."""
        latents, parts = self._beside(batch, count, weigh=True)
        return latents, torch.cat([part.log_weights for part in parts])

    def _beside(
        self, batch: Args, count: int, *, weigh: bool
    ) -> tuple[dict[str, Tensor], list[Traces]]:
        drawn = self.summing([n for n in self.shape.enumerated if n not in self.shape.latents])
        shape, parts, values = drawn.shape, [], dict[str, list[Tensor]]()
        at_once = count if shape.broadcasts else 1
        with self.pair.scope(), said(batch):
            for _ in steps(range(count // at_once), count // at_once):
                if weigh:
                    model_trace, guide_trace = drawn._traced(batch, at_once, shape)
                    parts.append(_whole(measure(model_trace, guide_trace, shape, at_once), batch))
                else:
                    guide, _ = drawn._in_particles(at_once, shape)
                    guide_trace = poutine.trace(guide).get_trace(*batch)
                found = sites(guide_trace)
                for name in self._shared(found):
                    values.setdefault(name, []).append(beside(found[name], shape, at_once))
                    self.axes[name] = shape.dim - int(found[name]["fn"].event_dim)
        return {n: torch.cat(each, dim=self.axes[n]) for n, each in values.items()}, parts

    def beside(self, name: str, value: Tensor) -> Tensor:
        """A latent by datum ``[rows, ...]`` as :meth:`particles` gives it."""
        self.axes[name] = self.shape.dim - self.shape.place(name)[1]
        return self.shape.native(name, value)

    def latents(self, batch: Args) -> dict[str, Tensor]:
        """One draw of every latent given the batch, ``[batch, ...]``: from the guide, and discrete
        ones that the model alone has from what is exact given the others."""
        with self.pair.scope():
            found = sites(poutine.trace(self.pair.guide).get_trace(*batch))
        return self.discrete(batch, {n: found[n]["value"] for n in self._shared(found)})

    def _shared(self, guide: Mapping[str, Message]) -> list[str]:
        """The latents among a guide's sites: those of the run at hand."""
        helpers = self.shape.auxiliary
        return [n for n, s in guide.items() if not s["is_observed"] and n not in helpers
                and not s["infer"].get("is_auxiliary")]  # fmt: skip

    def discrete(self, batch: Args, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latents given, and a draw of the enumerated ones that are not from
        p(discrete | x, given), which is exact."""
        left = [name for name in self.shape.enumerated if name not in given]
        if not left:
            return dict(given)
        with self.pair.scope():
            model = Unmasked(left)(poutine.condition(self.pair.model, data=dict(given)))
            model = poutine.infer_config(
                model, lambda s: {"enumerate": "parallel"} if s["name"] in left else {}
            )
            model = infer_discrete(model, first_available_dim=-self.shape.nesting - 1)
            found = sites(poutine.trace(model).get_trace(*batch))
        return {**given, **{name: found[name]["value"] for name in left}}

    def generate(
        self, batch: Args, latents: Mapping[str, Tensor] | None = None, *, draw: bool = True
    ) -> dict[str, tuple[dist.TorchDistribution, Tensor]]:
        """Run the model: ``{site: (distribution, value)}``.

        Args:
            batch: of the right shapes.
            latents: values of latent sites ``[batch, ...]``, drawn from the model where absent.
            draw: whether observed sites are drawn; otherwise they keep what they observe, as the
                parents of the sites whose means are asked for.

        Raises:
            UsageError: a site that cannot be drawn, such as one with an improper prior.
        """
        return generate(self.pair, batch, latents, draw=draw)

    def simulate(self, batch: Args, latents: Sequence[str] = ()) -> tuple[dict[str, Tensor], Args]:
        """Latents and data drawn from the model, as :func:`simulate`."""
        return simulate(self.pair, batch, latents, self.wiring(batch))

    def names(self, found: Mapping[str, object]) -> list[str]:
        """The observed sites of a run, in the model's order: those that were seen, and where that
        run has other sites, those it has."""
        kept = {*self.shape.latents, *self.shape.enumerated, *self.shape.auxiliary}
        if set(self.shape.observed) <= set(found):
            return list(self.shape.observed)
        return [name for name in found if name not in kept]

    def wiring(self, batch: Args) -> Wiring:
        """Which entries of which argument each observed site observes."""
        return Wiring.seen(self.pair, batch, self.shape)

    def replicate(self, batch: Args, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """What is observed of a batch ``[batch, ...]``, or values of the observed sites
        ``[batch, ...]`` in its place: of one site as the site has it, of several that observe
        parts of one argument as the argument has it."""
        if len(self.shape.observed) == 1:
            (name,) = self.shape.observed
            if values is not None:
                return values[name]
            with self.pair.scope(), pyro.validation_enabled(False), torch.no_grad():
                site = sites(run(self.pair, batch)[0])[name]
            seen: Tensor = site["infer"].get("_observed", site["value"])
            return seen.movedim(self.shape.dim - site["fn"].event_dim, 0).cpu()
        with self.pair.evaluating():
            wiring = self.wiring(batch)
        arguments = {wire.argument for wire in wiring.wires}
        if wiring.lost or len(arguments) != 1:
            raise UsageError(
                f"a predictive check takes a statistic of what one argument holds; the sites "
                f"{list(self.shape.observed)} observe several, or none as it is"
            )
        native = {
            wire.site: values[wire.site].movedim(0, wire.axis)
            for wire in wiring.wires
            if values is not None
        }
        return wiring.filled(batch, native)[arguments.pop()].cpu()

    def log_density(self, batch: Args, latents: Mapping[str, Tensor]) -> Tensor:
        """log p(x, z) of the local sites at given latents ``[particles, batch, ...]``:
        ``[particles, batch]``, with gradients if they are enabled."""
        particles = len(next(iter(latents.values())))
        if self.shape.nesting > 1:
            raise UsageError("exact evidence needs latents in the plate over the data alone")
        if self.shape.broadcasts:
            return self._local(batch, latents, particles)
        each = ({n: v[k] for n, v in latents.items()} for k in range(particles))
        return torch.cat([self._local(batch, one) for one in each])

    def _local(
        self, batch: Args, latents: Mapping[str, Tensor], particles: int | None = None
    ) -> Tensor:
        """The log density of the local sites in one run, in a plate of particles or without."""
        model = poutine.condition(self.pair.model, data=dict(latents))
        with self.pair.scope(), said(batch):
            if particles is not None:
                model = in_particles(model, particles, self.shape.nesting)
            found = sites(poutine.trace(model).get_trace(*batch)).values()
        terms = [term(s, self.shape) for s in found if within(s, self.shape.plate)]
        return sum(terms[1:], start=terms[0])


class _Batch(TensorData):
    """One batch, as the programs take it: nothing of it is converted."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self.in_memory = True

    def __len__(self) -> int:
        return rows(self.args)

    def batches(self, *args: object, **kwargs: object) -> Iterator[Args]:
        yield self.args


def seen(pair: Pair, args: Args, plate: str | None = None) -> Structure:
    """A pair's structure on such a batch: as it was seen before, else observed now."""
    key = (
        pair.code,
        plate,
        tuple((a.shape[1:], a.dtype) if isinstance(a, Tensor) else type(a) for a in args),
    )
    kept = pair.memory.seen
    if key not in kept or pair.memory.pending:
        kept[key] = observe(pair, args, plate)
    return kept[key]


def _at_hand(
    problem: Problem, batch: Args, traced: tuple[Trace, Trace], known: Structure
) -> Structure:
    """The structure of a run whose sites are its own, as where their number is drawn."""
    model, guide = map(sites, traced)
    over = plate_over(problem.pair, batch, model, guide, problem.plate or known.plate)
    found = structure(model, guide, over, plates_of(model, guide))
    return dataclasses.replace(
        found,
        size=found.size or known.size,
        tied=known.tied,
        broadcasts=known.broadcasts,
        row_bytes=known.row_bytes,
        points=tuple(n for n in known.points if n in found.latents),
    )


def _variance(site: Site) -> Tensor | None:
    fn = site.fn
    while isinstance(fn, dist.Independent):
        fn = fn.base_dist
    if site.mean is None or not isinstance(fn, dist.Normal):
        return None
    alike = fn.variance.numel() == site.mean.numel()
    return fn.variance.reshape(site.mean.shape).mean(0) if alike else None


def _sizes(count: int) -> list[int]:
    """How many data a pair is first run on: many, all, then few."""
    return list(dict.fromkeys(min(n, count) for n in (FIRST, count, *FEWER)))


def _particles(found: Traces) -> int:
    return len(found.log_joint)


def _whole(found: Traces, batch: Args) -> Traces:
    size = found.log_joint.shape[-1]
    if size != rows(batch):
        raise UsageError(
            f"the plate {found.shape.plate!r} draws {size} of the {rows(batch)} data by itself; "
            f"give the programs the minibatch instead: pyro.plate('data', N, "
            f"subsample_size=len(x)), and pass batches of x"
        )
    return found


def generate(
    pair: Pair, args: Args, latents: Mapping[str, Tensor] | None = None, *, draw: bool = True
) -> dict[str, tuple[dist.TorchDistribution, Tensor]]:
    """As :meth:`Problem.generate`, of a pair that need not have a guide."""
    with pair.scope(), _drawing():
        model = Drawing()(pair.model) if draw else pair.model
        if latents:
            model = poutine.condition(model, data=dict(latents))
        found = sites(poutine.trace(model).get_trace(*args))
    return {name: (s["fn"], s["value"]) for name, s in found.items() if not is_factor(s)}


@contextmanager
def _drawing() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, TypeError, LookupError) as error:
        if isinstance(error, UsageError):
            raise UsageError(in_short(error, 2000)) from error
        if isinstance(error, NotImplementedError):
            raise _undrawable(error) from error
        raise UsageError(
            f"the model does not run at these latents: {in_short(error)}; they must lie in their "
            f"sites' support and be of their shapes (a unit of a simplex, say, cannot be moved "
            f"alone)"
        ) from error


def _undrawable(error: Exception) -> UsageError:
    return UsageError(
        f"the model cannot be drawn from: {in_short(error)}. A flat prior (dist.ImproperUniform), "
        f"as an autoencoder has, says nothing of z; draw from a density fitted to the codes "
        f"instead: pv.fit_codes(pair, x).sample(n), pyrovae sample RUN --density mixture"
    )


def simulate(
    pair: Pair, args: Args, latents: Sequence[str], wiring: Wiring
) -> tuple[dict[str, Tensor], Args]:
    """Draw latents and data from the model: the named latents' values, and ``args`` with every
    argument that an observed site observes replaced by that site's draw.

    Raises:
        UsageError: a site that observes something else than entries of an argument.
    """
    with pair.scope(), pyro.validation_enabled(False), _drawing():
        drawn = sites(poutine.trace(Drawing()(pair.model)).get_trace(*args))
    values = {n: s["value"] for n, s in drawn.items() if n in wiring.names}
    return {name: drawn[name]["value"] for name in latents}, wiring.filled(args, values)


def replaced(pair: Pair, args: Args) -> Args:
    """A batch with draws of the model in the place of what it observes as it is."""
    with pair.evaluating(), pyro.validation_enabled(False), _drawing():
        given = sites(poutine.trace(pair.model).get_trace(*args))
        drawn = sites(poutine.trace(Drawing()(pair.model)).get_trace(*args))
    new = list(args)
    for name, site in given.items():
        where = argument(site, args) if is_data(site) else None
        if where is not None:
            new[where] = drawn[name]["value"].reshape(args[where].shape)
    return tuple(new)


def draw(pair: object, args: Args, num_particles: int = 1) -> Traces:
    """Run guide and model of a pair on one batch, with gradients if they are enabled.

    Args:
        pair: a model and a guide.
        args: the batch as a tuple, as the programs take it.
        num_particles: vectorised where the pair broadcasts, one by one where it does not.

    Raises:
        UsageError: whatever :meth:`Problem.of` raises; a plate that subsamples by itself.

    >>> from pyrovae.vae import VAE
    >>> traces = draw(VAE((4,), 2), (torch.ones(5, 4),), num_particles=3)
    >>> traces.log_weights.shape, traces.guide["z"].value.shape
    (torch.Size([3, 5]), torch.Size([3, 5, 2]))
    """
    return Problem.at(pair, args).draw(args, num_particles)
