"""What a program looks like: its sites with their shapes and plates, and what each depends on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.infer.inspect import TrackProvenance
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae import markup
from pyrovae.errors import UsageError, in_short, whole_number
from pyrovae.markup import Shown
from pyrovae.supports import entries
from pyrovae.traces.meeting import met
from pyrovae.traces.pair import Args, Pair, Program, as_pair
from pyrovae.traces.sites import FAILURES, Sites, in_particles, is_factor, sites

DRAWS = "draws"  # the plate of particles, as it is shown


@dataclass(frozen=True)
class SketchedSite:
    """One site of a program, or an argument that a program conditions on.

    Attributes:
        name: the site's.
        program: ``"model"``, ``"guide"``, or ``"data"`` for an argument that no site observes.
        distribution: that of single entries, by name; empty for an argument.
        batch_shape: the distribution's independent draws, all of which belong in plates.
        event_shape: the shape of one draw, which has one log probability.
        plates: ``{dim: name}``, dim from the right of the batch shape, -1 its last.
        observed: whether its value is given.
        parents: what its distribution is computed from: names of sites and arguments.
    """

    name: str
    program: str
    distribution: str
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    plates: dict[int, str]
    observed: bool
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Sketch(Shown):
    """The sites of a model, and of its guide where there is one, in the order they are run.

    ``print`` gives them as a table; ``pv.plots.graph`` draws what depends on what,
    ``pv.plots.shapes`` the shapes.
    """

    sites: tuple[SketchedSite, ...]

    def __iter__(self) -> Iterator[SketchedSite]:
        return iter(self.sites)

    def of(self, program: str) -> tuple[SketchedSite, ...]:
        """The sites of ``"model"``, ``"guide"`` or ``"data"``."""
        return tuple(site for site in self.sites if site.program == program)

    def in_notebook(self) -> list[str]:
        """The table that ``print`` gives."""
        head, *rows = self._rows()
        return [markup.table(head, rows)]

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("program", "site", "distribution", "batch | event", "plates", "given")
        ]
        for site in self.sites:
            batch, event = (" ".join(map(str, s)) for s in (site.batch_shape, site.event_shape))
            plates = ", ".join(site.plates[dim] for dim in sorted(site.plates))
            name = f"{site.name} (observed)" if site.observed else site.name
            given = ", ".join(site.parents)
            shape = f"{batch} | {event}".strip()
            rows.append((site.program, name, site.distribution, shape, plates, given))
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def sketch(pair: Any, x: object, *, num_particles: int = 1) -> Sketch:
    """The sites of a pair, or of a model alone, run once on the data x.

    Nothing is checked: a program with a mistake in its plates or events is shown as it is, where
    it runs at all. ``x`` is what the programs take, a tuple where they take several arguments.

    Args:
        pair: a model and a guide, or one Pyro function.
        x: a batch; its size is what the shapes show.
        num_particles: draws at once, in a plate to the left of all others.

    Raises:
        UsageError: a program that does not run on x.

    >>> import torch, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("data", len(x)):
    ...         z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    ...         pyro.sample("x", dist.Normal(z @ x.new_ones(2, 5), 1.0).to_event(1), obs=x)
    >>> print(sketch(model, torch.zeros(7, 5)))
    program  site          distribution  batch | event  plates  given
    model    z             Normal        7 | 2          data
    model    x (observed)  Normal        7 | 5          data    z
    """
    whole_number("num_particles", num_particles)
    alone = callable(pair) and not hasattr(pair, "model")
    program = Pair(pair, pair) if alone else as_pair(pair)
    program, data = met(program, program.serve(x))
    args = data.first(len(data))[:]
    with program.evaluating():
        try:
            names = _argument_names(program.model, len(args))
            drawn = None if alone else poutine.trace(program.guide).get_trace(*args)
            tracked = _tracked(args, {k: (name,) for k, name in enumerate(names)})
            plain = sites(_replayed(program.model, drawn, tracked))
            nesting = max((-f.dim for s in plain.values() for f in _frames(s)), default=0)
            seen = _observers(plain, names)
            given = {k: name for k, name in enumerate(names) if name not in seen}
            programs = [program.guide, program.model]
            if num_particles > 1:
                programs = [in_particles(p, num_particles, nesting) for p in programs]
            guide: list[tuple[Message, tuple[str, ...]]] = []
            if not alone:
                known = {k: seen.get(name, (name,)) for k, name in enumerate(names)}
                drawn, guide = _dependencies(programs[0], None, args, known)
            left = {k: (name,) for k, name in given.items()}
            _, model = _dependencies(programs[1], drawn, args, left)
        except FAILURES as error:
            raise UsageError(
                f"the program does not run on a batch of shape "
                f"{', '.join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))}: "
                f"{in_short(error)}"
            ) from error
    found = [
        *(_sketched(site, "model", parents) for site, parents in model),
        *(_sketched(site, "guide", parents) for site, parents in guide),
    ]
    used = {name for site in found for name in site.parents}
    arguments = [_given(name, args[k], found) for k, name in given.items() if name in used]
    return Sketch((*arguments, *found))


def _argument_names(program: Program, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(program).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    names = [p.name for p in parameters if p.kind in kinds]
    names += [f"argument {k}" for k in range(len(names), count)]
    return names[:count]


def _tracked(args: Args, named: Mapping[int, tuple[str, ...]]) -> Args:
    """The arguments, so that what is computed from them is known to be."""
    return tuple(
        track_provenance(a, frozenset(named[k])) if k in named and isinstance(a, Tensor) else a
        for k, a in enumerate(args)
    )


def _observers(sites: Sites, names: list[str]) -> dict[str, tuple[str, ...]]:
    """For each argument that sites observe, as it is or changed, these sites."""
    seen = {n: get_provenance(s["value"]) for n, s in sites.items() if s["is_observed"]}
    found = {name: tuple(site for site, of in seen.items() if name in of) for name in names}
    return {name: by for name, by in found.items() if by}


def _replayed(program: Program, drawn: Trace, args: Args) -> Trace:
    with pyro.validation_enabled(False):
        if drawn is not None:  # a flat prior cannot be drawn from
            program = poutine.replay(program, trace=drawn)
        return poutine.trace(program).get_trace(*args)


class _TracksDraws(TrackProvenance):  # type: ignore[misc]
    """Draws are followed; a parameter stays what Pyro takes it for."""

    def _pyro_post_param(self, msg: Message) -> None:
        return


def _dependencies(
    program: Program, drawn: Trace, args: Args, named: Mapping[int, tuple[str, ...]]
) -> tuple[Trace, list[tuple[Message, tuple[str, ...]]]]:
    """The program's trace, and for each of its sites the names that its distribution depends on."""
    with _TracksDraws():
        trace = _replayed(program, drawn, _tracked(args, named))
    order = [*(name for names in named.values() for name in names), *trace.nodes]
    found = []
    for name, site in sites(trace).items():
        value = trace.nodes[name]["value"] = detach_provenance(site["value"])
        if not is_factor(site):
            with pyro.validation_enabled(False):
                parents = get_provenance(site["fn"].log_prob(value)) - {name}
            found.append((site, tuple(sorted(parents, key=order.index))))
    return trace, found


def _frames(site: Message) -> list[CondIndepStackFrame]:
    return [frame for frame in site["cond_indep_stack"] if frame.vectorized]


def _sketched(site: Message, program: str, parents: tuple[str, ...]) -> SketchedSite:
    fn = site["fn"]
    return SketchedSite(
        name=site["name"],
        program=program,
        distribution=type(entries(fn)).__name__,
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        plates={f.dim: DRAWS if f.name == "_particles" else f.name for f in _frames(site)},
        observed=bool(site["is_observed"]),
        parents=parents,
    )


def _given(name: str, value: object, sites: list[SketchedSite]) -> SketchedSite:
    """An argument that no site observes, in the plate that a batch of its size lies in, if one."""
    shape = tuple(getattr(value, "shape", ()))
    last = {s.plates[-1] for s in sites if -1 in s.plates and s.batch_shape[-1:] == shape[:1]}
    plates = {-1: last.pop()} if len(last) == 1 else {}
    return SketchedSite(name, "data", "", shape[:1], shape[1:], plates, True, ())
