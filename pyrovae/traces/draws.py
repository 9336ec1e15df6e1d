"""Runs of a pair: the guide with the model replayed against it, or the model on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import infer_discrete
from torch import Tensor

from pyrovae.errors import UsageError, in_short, whole_number
from pyrovae.traces.pair import Args, Pair, as_pair
from pyrovae.traces.structure import structure
from pyrovae.traces.terms import (
    Structure,
    Traces,
    _argument,
    _factor,
    _in_particles,
    _measure,
    _replay,
    _run,
    _sites,
    _slice,
    _term,
    _within,
    joined,
)


def draw(pair: Any, args: Args, num_particles: int = 1, shape: Structure | None = None) -> Traces:
    """Run guide and model on one batch, with gradients if they are enabled.

    Args:
        pair: a model and a guide.
        args: the batch as a tuple, as the programs take it.
        num_particles: vectorised where the pair broadcasts, one by one where it does not.
        shape: the pair's :func:`structure`, found anew when not given.

    Raises:
        UsageError: whatever :func:`structure` raises; a plate that subsamples by itself.

    >>> import torch
    >>> from pyrovae.vae import VAE
    >>> traces = draw(VAE((4,), 2), (torch.ones(5, 4),), num_particles=3)
    >>> traces.log_weights.shape, traces.guide["z"].value.shape
    (torch.Size([3, 5]), torch.Size([3, 5, 2]))
    """
    found = list(slices(pair, args, num_particles, num_particles, shape))
    return found[0] if len(found) == 1 else joined(found)


def slices(
    pair: Any, args: Args, num_particles: int, at_once: int, shape: Structure | None = None
) -> Iterator[Traces]:
    """The particles of :func:`draw`, ``at_once`` of them at a time: the guide runs once for all,
    the model is replayed slice by slice, so that a slice bounds the memory."""
    whole_number("num_particles", num_particles)
    pair = as_pair(pair)
    shape = shape or structure(pair, args)
    enumerating = bool(shape.enumerated)
    with pair.scope():
        if num_particles == 1 or not shape.broadcasts:
            for _ in range(num_particles):
                yield _whole_run(pair, args, 1, shape)
        elif at_once >= num_particles or enumerating:
            yield _whole_run(pair, args, num_particles, shape)
        else:
            guide = _in_particles(pair.guide, num_particles, shape.nesting)
            guide_trace = poutine.trace(guide).get_trace(*args)
            for site in _sites(guide_trace).values():
                guide_trace.nodes[site["name"]]["reduced"] = _term(site, shape)
            for start in range(0, num_particles, at_once):
                stop = min(start + at_once, num_particles)
                part = _slice(guide_trace, start, stop, shape)
                model = pair.model
                if stop - start > 1:
                    model = _in_particles(model, stop - start, shape.nesting)
                traces = _replay(model, part, args), part
                yield _whole(_measure(*traces, shape, stop - start), args)


def _whole_run(pair: Pair, args: Args, particles: int, shape: Structure) -> Traces:
    model_trace, guide_trace = _run(pair, args, particles, shape.nesting, shape.enumerated)

    def rerun() -> Traces:
        constant = guide_trace.copy()
        for name, site in _sites(guide_trace).items():
            constant.nodes[name] = {**site, "value": site["value"].detach()}
        guide, model = pair.guide, pair.model
        if particles > 1:
            guide, model = (_in_particles(p, particles, shape.nesting) for p in (guide, model))
        again = _replay(guide, constant, args)
        return _measure(_replay(model, again, args), again, shape, particles)

    found = _measure(model_trace, guide_trace, shape, particles)
    return dataclasses.replace(_whole(found, args), rerun=None if shape.enumerated else rerun)


def _whole(traces: Traces, args: Args) -> Traces:
    batch = traces.log_joint.shape[-1]
    if batch != len(args[0]):
        raise UsageError(
            f"the plate {traces.shape.plate!r} draws {batch} of the {len(args[0])} data by itself; "
            f"give the programs the minibatch instead: pyro.plate('data', N, "
            f"subsample_size=len(x)), and pass batches of x"
        )
    return traces


def latents(pair: Any, args: Args, shape: Structure) -> dict[str, Tensor]:
    """One draw of every latent given the batch, ``[batch, ...]``: from the guide, and discrete
    ones that the model alone has from what is exact given the others."""
    pair = as_pair(pair)
    with pair.scope():
        sites = _sites(poutine.trace(pair.guide).get_trace(*args))
    return discrete(pair, args, {n: sites[n]["value"] for n in shape.latents}, shape)


def discrete(
    pair: Any, args: Args, given: Mapping[str, Tensor], shape: Structure
) -> dict[str, Tensor]:
    """The latents given, and a draw of the enumerated ones that are not from
    p(discrete | x, given), which is exact."""
    left = [name for name in shape.enumerated if name not in given]
    if not left:
        return dict(given)
    pair = as_pair(pair)
    with pair.scope():
        model = poutine.condition(pair.model, data=dict(given))
        model = infer_discrete(model, first_available_dim=-shape.nesting - 1)
        sites = _sites(poutine.trace(model).get_trace(*args))
    return {**given, **{name: sites[name]["value"] for name in left}}


def sampling(shape: Structure, guide: Iterable[str]) -> Structure:
    """The structure with the guide's discrete sites drawn instead of summed out."""
    left = tuple(name for name in shape.enumerated if name not in guide)
    return dataclasses.replace(shape, enumerated=left)


def generate(
    pair: Any, args: Args, latents: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[Any, Tensor]]:
    """Run the model with its observed sites sampled: ``{site: (distribution, value)}``.

    Args:
        pair: a model and a guide.
        args: a batch of the right shapes; observed values in it are not used.
        latents: values of latent sites ``[batch, ...]``, drawn from the model where absent.

    Raises:
        UsageError: a site that cannot be drawn, such as one with an improper prior.
    """
    pair = as_pair(pair)
    with pair.scope(), _drawing():
        model = poutine.uncondition(pair.model)
        if latents:
            model = poutine.condition(model, data=dict(latents))
        sites = _sites(poutine.trace(model).get_trace(*args))
    return {name: (s["fn"], s["value"]) for name, s in sites.items() if not _factor(s)}


@contextmanager
def _drawing() -> Iterator[None]:
    try:
        yield
    except NotImplementedError as error:
        raise UsageError(
            f"the model cannot be drawn from: {in_short(error)}. A flat prior "
            f"(dist.ImproperUniform), as an autoencoder has, says nothing of z; draw from a "
            f"density fitted to the codes instead: pv.fit_codes(pair, x).sample(n), pyrovae sample "
            f"RUN --density mixture"
        ) from error


def simulate(pair: Any, args: Args, latents: Sequence[str]) -> tuple[dict[str, Tensor], Args]:
    """Draw latents and data from the model: the named latents' values, and ``args`` with every
    argument that an observed site observes replaced by that site's draw.

    Raises:
        UsageError: a site that observes something else than an argument as it is.
    """
    pair = as_pair(pair)
    with pair.scope(), pyro.validation_enabled(False), _drawing():
        observing = _sites(poutine.trace(poutine.uncondition(pair.model)).get_trace(*args))
        given = _sites(_run(pair, args)[0])
    simulated = list(args)
    for name, site in given.items():
        if site["is_observed"] and not _factor(site):
            where = _argument(site, args)
            if where is None:
                raise UsageError(
                    f"the observed site {name!r} does not observe one of the model's arguments as "
                    f"it is, so simulated data cannot be handed to the guide"
                )
            simulated[where] = observing[name]["value"].reshape(args[where].shape)
    return {name: observing[name]["value"] for name in latents}, tuple(simulated)


def log_density(pair: Any, args: Args, latents: Mapping[str, Tensor], shape: Structure) -> Tensor:
    """log p(x, z) of the local sites at given latents ``[particles, batch, ...]``:
    ``[particles, batch]``, with gradients if they are enabled."""
    pair = as_pair(pair)
    particles = len(next(iter(latents.values())))
    model = poutine.condition(pair.model, data=dict(latents))
    if shape.nesting > 1:
        raise UsageError("exact evidence needs latents in the plate over the data alone")
    with pair.scope():
        program = _in_particles(model, particles, shape.nesting)
        sites = _sites(poutine.trace(program).get_trace(*args))
    terms = [_term(s, shape) for s in sites.values() if _within(s, shape.plate)]
    return sum(terms[1:], start=terms[0])
