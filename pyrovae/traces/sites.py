"""Runs of the two programs, and what a site of one is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pyro
import pyro.distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.runtime import InferDict, Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pyrovae.supports import entries
from pyrovae.traces.pair import Args, Pair, Program

# what programs raise at a batch that they are not made for
FAILURES = (
    ValueError, RuntimeError, TypeError, LookupError, AttributeError, AssertionError,
)  # fmt: skip
PARTICLES = "_particles"

Sites: TypeAlias = dict[str, Message]


def run(
    pair: Pair,
    args: Args,
    particles: int = 1,
    nesting: int = 0,
    enumerated: Sequence[str] = (),
) -> tuple[Trace, Trace]:
    """(model trace, guide trace), particles in the dimension left of all plates, the values of
    the enumerated sites further to the left."""
    guide, model = pair.guide, pair.model
    if particles > 1:
        guide, model = (in_particles(p, particles, nesting) for p in (guide, model))
    if enumerated:
        guide = enumerating(guide, enumerated, -nesting - 2)
        model = enumerating(model, enumerated)  # goes on to the left of the guide's dimensions
    guide_trace = poutine.trace(guide).get_trace(*args)
    return replay(model, guide_trace, args), guide_trace


def enumerating(program: Program, names: Sequence[str], first: int | None = None) -> Program:
    """A program whose discrete sites of these names hold all of their values, from the dimension
    ``first`` on to the left."""
    configured = poutine.infer_config(program, _only(names))
    enumerated: Program = poutine.enum(configured, first_available_dim=first)
    return enumerated


def _only(names: Sequence[str]) -> Callable[[Message], InferDict]:
    """Enumerate these sites, in parallel, and no others."""

    def configure(site: Message) -> InferDict:
        if site["name"] in names:
            return {"enumerate": "parallel"}
        return {"enumerate": None} if "enumerate" in site["infer"] else {}

    return configure


def in_particles(program: Program, particles: int, nesting: int) -> Program:
    """A program run in a plate of particles, left of its own."""
    wrapped: Program = pyro.plate(PARTICLES, particles, dim=-nesting - 1)(program)
    return wrapped


def replay(program: Program, trace: Trace, args: Args) -> Trace:
    """The trace of a program whose latents are those of a trace."""
    return poutine.trace(poutine.replay(program, trace=trace)).get_trace(*args)


def sites(trace: Trace) -> Sites:
    """A trace's sample sites, by name."""
    return {n: s for n, s in prune_subsample_sites(trace).nodes.items() if s["type"] == "sample"}


def draws(guide: Sites) -> Sites:
    """What is q's of a guide's sites: those it draws. What it observes (a label whose q is trained
    beside the bound) is no part of log q, nor is a ``pyro.factor`` that is not reparameterised."""
    return {
        n: s
        for n, s in guide.items()
        if not s["is_observed"] or (is_factor(s) and s["fn"].has_rsample)
    }


def within(site: Message, plate: str) -> bool:
    """Whether a site lies in a plate."""
    return any(frame.name == plate for frame in site["cond_indep_stack"])


def is_factor(site: Message) -> bool:
    """Whether it is a ``pyro.factor``, which is scored and holds no data."""
    return isinstance(entries(site["fn"]), dist.Unit)


def is_deterministic(site: Message) -> bool:
    """Whether it stands for a value that was computed: ``pyro.deterministic``, a latent that was
    reparameterised."""
    fn = entries(site["fn"])
    computed = isinstance(fn, dist.Delta) and fn.v.data_ptr() == site["value"].data_ptr()
    return bool(site["is_observed"]) and (bool(site["infer"].get("_deterministic")) or computed)


def argument(site: Message, args: Args) -> int | None:
    """Which argument of the programs an observed site observes, as it is or in another shape."""
    value = site["infer"].get("_observed", site["value"])

    def same(a: object) -> bool:
        return a is value or (
            isinstance(a, Tensor)
            and isinstance(value, Tensor)
            and (a.data_ptr(), a.numel(), a.dtype) == (value.data_ptr(), value.numel(), value.dtype)
            and a.is_contiguous()
            and value.is_contiguous()
        )

    return next((k for k, a in enumerate(args) if same(a)), None)


def log_prob(site: Message) -> Tensor:
    """A site's log density, masked, without the scale of its plates."""
    density = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    masked: Tensor = scale_and_mask(density, 1.0, site["mask"])
    return masked.to(site["value"].device)  # that of a flat prior is on the CPU always
