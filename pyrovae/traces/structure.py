"""What one run of a pair shows: its sites, plates and mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.util import check_site_shape
from torch import Tensor

from pyrovae.errors import UsageError, in_short, whole_number
from pyrovae.supports import entries
from pyrovae.traces.pair import Args, Pair, _list
from pyrovae.traces.sites import (
    FAILURES,
    PARTICLES,
    Sites,
    argument,
    draws,
    is_deterministic,
    is_factor,
    run,
    sites,
    within,
)

SUMMED = 2**12  # combinations of discrete values that are summed out as one table


@dataclass(frozen=True)
class Plate:
    """A plate as a run shows it: one without a size has that of what lies in it."""

    name: str
    dim: int
    size: int
    full_size: int
    fixed: bool = False  # the full size is as large for a smaller batch


@dataclass(frozen=True)
class Structure:
    """What running a pair shows about its shape.

    Attributes:
        latents: sites that guide and model share, in the guide's order.
        observed: the model's observed sites.
        auxiliary: sites of the guide alone, declared ``infer={"is_auxiliary": True}``.
        enumerated: discrete sites summed out exactly.
        globals: latent sites outside the plate over the data.
        plate: name of the plate over the data.
        dim: its dimension, counted from the right (-1 is the last batch dimension).
        nesting: how many batch dimensions plates use.
        size: the plate's full size where it has one of its own (N for a batch of B), else None.
        pathwise: latents whose guide is reparameterised.
        scaled: sites that carry another scale (``poutine.scale``, a subsampled inner plate) than
            that of the plate over the data.
        closed_form: latents whose KL may be taken in closed form: whatever comes before them in
            the model comes before them in the guide too.
        contracted: whether the enumerated sites are summed out plate by plate, by message passing,
            and not as one table.
        points: local latents that the guide puts at a point, without a density.
        tied: whether what a datum's terms are depends on which others are there, or on its place.
        share: for how many data in all what is global counts once, where :func:`sharing` says so.
        broadcasts: whether many particles can be drawn in one vectorised run.
        row_bytes: memory that one particle of one datum takes, an upper bound.
        signature: what another run must show for all this to hold of it.
        places: per latent, the dimensions of its plates from the left, and of its events.
    """

    latents: tuple[str, ...]
    observed: tuple[str, ...]
    auxiliary: tuple[str, ...]
    enumerated: tuple[str, ...]
    globals: tuple[str, ...]
    plate: str
    dim: int
    nesting: int
    size: int | None
    pathwise: tuple[str, ...]
    scaled: tuple[str, ...]
    closed_form: tuple[str, ...]
    contracted: bool = False
    points: tuple[str, ...] = ()
    tied: bool = False
    share: int | None = None
    broadcasts: bool = True
    row_bytes: int = 1
    signature: tuple[object, ...] = ()
    places: tuple[tuple[str, tuple[int, ...], int], ...] = ()

    def native(self, name: str, value: Tensor) -> Tensor:
        """A latent ``[batch, ...]`` as the programs have it, in its own plates."""
        dims, event = self.place(name)
        if not dims or self.dim not in dims:
            return value
        moved = value.movedim(0, dims.index(self.dim))
        sizes = iter(moved.shape)
        plates = [next(sizes) if dim in dims else 1 for dim in range(dims[0], 0)]
        return moved.reshape(*plates, *sizes)

    def by_datum(self, name: str, value: Tensor) -> Tensor:
        """A latent as the programs have it -> ``[batch, ...]``."""
        dims, event = self.place(name)
        if not dims or self.dim not in dims or value.dim() < event - self.dim:
            return value
        moved = value.movedim(self.dim - event, 0)
        first = moved.dim() - event
        kept = [moved.shape[k] for k in range(1, first) if moved.shape[k] > 1]
        return moved.reshape(len(moved), *kept, *moved.shape[first:])

    def place(self, name: str) -> tuple[tuple[int, ...], int]:
        """The dimensions of a latent's plates, from the left, and of its events."""
        return next(((dims, event) for n, dims, event in self.places if n == name), ((), 0))

    def rows_within(self, chunk_bytes: int, copies: int = 1) -> int:
        """For how many data so many bytes are enough, each in so many particles; at least one."""
        return max(1, whole_number("chunk_bytes", chunk_bytes) // (copies * self.row_bytes))

    @property
    def scored(self) -> tuple[str, ...]:
        """Latents whose gradient is the score function's: sampled, and not reparameterised."""
        return tuple(n for n in self.latents if n not in (*self.pathwise, *self.enumerated))

    @property
    def exact(self) -> bool:
        """Whether every latent is summed out, and nothing is left to sampling."""
        return bool(self.enumerated) and set(self.latents) <= set(self.enumerated)

    def refuse_globals(self) -> None:
        """Raise where a per-datum weight has no meaning."""
        if self.globals:
            raise UsageError(
                f"the latent site(s) {', '.join(self.globals)} lie outside the plate "
                f"{self.plate!r}: all data share one draw, so no single datum has an importance "
                f"weight of its own. pv.elbo and pv.evaluate count such a site once; for log p(x) "
                f"per datum, condition on its value or move it into the plate"
            )

    def refuse_points(self) -> None:
        """Raise where a weight p(x, z) / q(z|x) does not exist."""
        if self.points:
            raise UsageError(
                f"the guide puts {', '.join(self.points)} at a point (dist.Delta), as an "
                f"autoencoder does: without a density q(z|x) there is no bound on log p(x) and no "
                f"importance weight. pv.evaluate measures the reconstruction; for log p(x) give "
                f"the guide a density, such as dist.Normal"
            )


# --- the mistakes that one run shows --------------------------------------------------------------


@contextmanager
def said(
    batch: Args,
    advice: str = "; it did on other data of this kind: give data of one shape, and programs that "
    "take any number of them",
) -> Iterator[None]:
    """What Pyro or torch raises at a batch, as one sentence that ends in ``advice``."""
    try:
        yield
    except FAILURES as error:
        if isinstance(error, UsageError):  # Pyro adds to its words
            raise UsageError(in_short(error, 2000)) from error
        shapes = ", ".join(str(tuple(a.shape)) for a in batch if isinstance(a, Tensor))
        raise UsageError(
            f"the pair does not run on a batch of shape {shapes}: {in_short(error)}{advice}"
        ) from error


def check(pair: Pair, args: Args) -> tuple[Trace, Trace]:
    """Run the pair once and compare its sites; returns the two traces.

    Raises:
        UsageError: the sites of model and guide differ (Pyro only warns), no observed site,
            a shape that the plates do not explain.
    """
    advice = (
        ". The data must lie in the sites' support, every batch dimension in a pyro.plate, every "
        "event dimension in .to_event(n)"
    )
    with said(args, advice), pyro.validation_enabled():
        model_trace, guide_trace = run(pair, args)
        model, guide = sites(model_trace), sites(guide_trace)
        for site in (*model.values(), *guide.values()):
            site["log_prob"] = site["fn"].log_prob(site["value"])
            check_site_shape(site, math.inf)
    _check_names(model, guide)
    return model_trace, guide_trace


def _check_names(model: Sites, guide: Sites) -> None:
    summed = {n for n, s in model.items() if s["infer"].get("enumerate")}
    latent = [n for n, s in model.items() if not s["is_observed"]]
    sampled = [n for n, s in guide.items() if not s["is_observed"]]
    auxiliary = [n for n in sampled if guide[n]["infer"].get("is_auxiliary") and n not in latent]
    missing = [n for n in latent if n not in sampled and n not in summed]
    extra = [n for n in sampled if n not in latent and n not in auxiliary]
    if missing or extra:
        observed = [n for n in extra if n in model]
        why = (
            f" ({', '.join(observed)} is observed in the model)"
            if observed
            else " (was an obs= forgotten?)"
            if missing
            else ""
        )
        raise UsageError(
            f"model and guide must sample the same latent sites{why}. Model: "
            f"{_shapes(model, latent)}; guide: {_shapes(guide, sampled)}. Missing from the guide: "
            f"{_list(missing)}; only in the guide: {_list(extra)}. Rename them, or declare a "
            f'guide\'s helper with infer={{"is_auxiliary": True}}'
        )
    for name in latent:
        if name in guide and not same(model[name]["scale"], guide[name]["scale"]):
            raise UsageError(
                f"site {name!r} is scaled by {model[name]['scale']} in the model and by "
                f"{guide[name]['scale']} in the guide: the KL would be weighted on one side, and "
                f"Trace_ELBO and TraceMeanField_ELBO would optimise different things in silence. "
                f"Put the same poutine.scale around both sites"
            )
    if not any(is_data(s) for s in model.values()):
        raise UsageError(
            f"the model observes nothing: none of its sites {_list(list(model))} has obs=. Give "
            f"the data to one, e.g. pyro.sample('x', p_x, obs=x)"
        )


def is_data(site: Message) -> bool:
    """Whether a site observes data: a factor and a ``pyro.deterministic`` only look so."""
    return site["is_observed"] and not is_factor(site) and not is_deterministic(site)


def enumerates(model_trace: Trace, guide_trace: Trace) -> bool:
    """Whether a latent site of either program asks to be summed out."""
    model, guide = sites(model_trace), draws(sites(guide_trace))
    return any(
        not s["is_observed"] and bool(s["infer"].get("enumerate"))
        for s in {**model, **guide}.values()
    )


def _shapes(found: Sites, names: Sequence[str]) -> str:
    return _list([f"{n} {list(found[n]['value'].shape)}" for n in names])


def same(a: object, b: object) -> bool:
    """Whether two scales are equal."""
    return bool(torch.equal(torch.as_tensor(a).float(), torch.as_tensor(b).float()))


# --- what it is made of ---------------------------------------------------------------------------


def structure(model: Sites, guide: Sites, plate: Plate, plates: Sequence[Plate]) -> Structure:
    """Of the sites of one run, given which of its plates is that over the data."""
    guide = draws(guide)
    every = {**model, **guide}  # a site is enumerated where the guide says so, if it has it
    nesting = max((-p.dim for p in plates), default=0)
    enumerated = tuple(
        n for n, s in every.items() if not s["is_observed"] and s["infer"].get("enumerate")
    )
    latents = tuple(n for n in guide if n in model)
    order = [n for n in model if n in latents]
    outside = tuple(
        n for n, s in every.items() if not s["is_observed"] and not within(s, plate.name)
    )
    _refuse_shared(enumerated, outside, plate)
    contracted = bool(enumerated) and not _is_one_table([every[n] for n in enumerated], plate)
    if contracted:  # what the guide has is drawn from it
        enumerated = tuple(n for n in enumerated if n not in guide)
        contracted = bool(enumerated)
    return Structure(
        latents=latents,
        observed=tuple(n for n, s in model.items() if is_data(s)),
        auxiliary=tuple(n for n in guide if n not in model),
        enumerated=enumerated,
        globals=outside,
        plate=plate.name,
        dim=plate.dim,
        nesting=nesting,
        size=plate.full_size if plate.fixed or plate.full_size != plate.size else None,
        pathwise=tuple(n for n in latents if guide[n]["fn"].has_rsample),
        scaled=tuple(n for n, s in every.items() if _rescaled(s, plate)),
        closed_form=tuple(
            name
            for name in latents
            if set(order[: order.index(name)]) <= set(latents[: latents.index(name)])
        ),
        contracted=contracted,
        share=next(
            (s["infer"][SHARED_BY] for s in every.values() if SHARED_BY in s["infer"]), None
        ),
        signature=signature(model, guide),
        places=tuple(
            (n, tuple(sorted(f.dim for f in _vectorized(s))), int(s["fn"].event_dim))
            for n, s in every.items()
            if not s["is_observed"]
        ),
    )


def _refuse_shared(enumerated: Iterable[str], outside: Sequence[str], plate: Plate) -> None:
    shared = [n for n in enumerated if n in outside]
    if shared:
        raise UsageError(
            f"the enumerated site(s) {', '.join(shared)} lie outside the plate {plate.name!r}: all "
            f"data share their values, so no datum's terms can be summed over them alone. Move "
            f"them into the plate, or draw them: leave out infer={{'enumerate': 'parallel'}}"
        )


def _is_one_table(found: Sequence[Any], plate: Plate) -> bool:
    """Whether discrete sites can be summed over as one table per datum: few values, each site in
    the plate over the data alone, none a link of a chain."""
    combinations = 1
    for site in found:
        if [f.name for f in _vectorized(site)] != [plate.name]:
            return False
        if any(not frame.vectorized for frame in site["cond_indep_stack"]):
            return False
        if site["infer"].get("_markov_scope"):
            return False
        try:
            combinations *= len(site["fn"].enumerate_support(expand=False))
        except NotImplementedError:
            continue
    return combinations <= SUMMED


def signature(model: Sites, guide: Sites) -> tuple[object, ...]:
    """What two runs of one structure have in common."""
    return tuple(
        (
            which,
            name,
            type(entries(s["fn"])).__name__,
            s["fn"].event_dim,
            s["is_observed"],
            tuple((f.name, f.dim) for f in _vectorized(s)),
        )
        for which, found in enumerate((model, draws(guide)))
        for name, s in found.items()
    )


def _vectorized(site: Message) -> list[CondIndepStackFrame]:
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]


def plates(*found: Sites) -> list[Plate]:
    """The vectorised plates of a run; that of the particles is none of them."""
    all_sites = [site for each in found for site in each.values()]
    frames = {frame.name: frame for site in all_sites for frame in _vectorized(site)}
    return [Plate(frame.name, frame.dim, *_sizes(frame, all_sites)) for frame in frames.values()]


def _sizes(frame: CondIndepStackFrame, found: Sequence[Any]) -> tuple[int, int]:
    """A plate's size and full size; where it was given none, that of what lies in it."""
    if frame.size >= 0:
        return frame.size, frame.size if frame.full_size in (None, -1) else frame.full_size
    held = 1
    for site in found:
        if within(site, frame.name):
            batch = site["value"].shape[: site["value"].dim() - site["fn"].event_dim]
            held = max(held, batch[frame.dim] if len(batch) >= -frame.dim else 1)
    return held, held


def data_plate(pair: Pair, args: Args, model: Sites, guide: Sites, name: str | None) -> Plate:
    """The plate over the data, as the run shows it: the one that lies along the first axis of an
    argument that a site observes; where none observes one as it is, the one that has the batch's
    size, and goes on having it when the batch is smaller.

    Raises:
        UsageError: no such plate, or several.
    """
    found = {plate.name: plate for plate in plates(model, guide)}
    if name is not None:
        if name not in found:
            raise UsageError(f"there is no plate {name!r}; the pair has {_list(list(found))}")
        return found[name]
    size = rows(args)
    observed = [site for site in model.values() if is_data(site)]
    along = {plate.name for site in observed for plate in _along(site, args, found.values())}
    if len(along) == 1:
        return found[along.pop()]
    following = [plate for plate in found.values() if plate.size == size]
    if len(following) > 1 and size > 1:
        after = {p.name: p for p in plates(*map(sites, run(pair, head(args, size - 1))))}
        following = [p for p in following if p.name in after and after[p.name].size == size - 1]
    around = [p for p in following if any(within(site, p.name) for site in observed)]
    own = [p for p in found.values() if p.size < p.full_size == size]
    if own and not around:
        raise UsageError(
            f"the plate {own[0].name!r} draws {own[0].size} of the {size} data by itself; give the "
            f"programs the minibatch instead: pyro.plate('data', N, subsample_size=len(x)), and "
            f"pass batches of x"
        )
    if len(around) != 1:
        raise (UsageError if around else NoPlate)(
            f"{'no plate follows' if not around else 'several plates follow'} the size of the "
            f"batch ({size} here); the plates are "
            f"{_list([f'{p.name} of size {p.size}' for p in found.values()])}. Put the "
            f"observed site in pyro.plate('data', len(x))"
            + (
                ", or name the plate over the data with plate="
                if around
                else "; of programs that are one graph or series, whose rows have no terms of "
                "their own, pyro.infer.Trace_ELBO().loss(model, guide, *data) measures the whole"
            )
        )
    return around[0]


def _along(site: Message, args: Args, found: Iterable[Plate]) -> list[Plate]:
    """The plate along the first axis of the argument that a site observes as it is."""
    where = argument(site, args)
    if where is None or site["value"].shape[:1] != args[where].shape[:1]:
        return []
    dim = site["fn"].event_dim - site["value"].dim()
    return [p for p in found if p.dim == dim and within(site, p.name) and p.size == rows(args)]


def rows(args: Args) -> int:
    """How many data a batch holds."""
    return len(args[0])


def head(args: Args, count: int) -> Args:
    """The first rows of a batch."""
    size = rows(args)
    return tuple(a[:count] if isinstance(a, Tensor) and len(a) == size else a for a in args)


def _rescaled(site: Message, plate: Plate) -> bool:
    by_plate = plate.full_size / plate.size if within(site, plate.name) else 1.0
    return not same(site["scale"], site["infer"].get(SHARE, by_plate))


def points(first: Sites, second: Sites, latents: Sequence[str], plate: str) -> tuple[str, ...]:
    """Local latents that a guide puts at a point: Deltas that two draws leave where they are."""
    return tuple(
        n
        for n in latents
        if within(first[n], plate)
        and isinstance(entries(first[n]["fn"]), dist.Delta)
        and n in second
        and torch.equal(first[n]["value"], second[n]["value"])
    )


SHARE = "_share"  # the scale that stands for a batch's part in what all data share
SHARED_BY = "_shared_by"  # how many they are


class NoPlate(UsageError):
    """No plate lies over the data: nothing tells one datum's terms from another's."""
