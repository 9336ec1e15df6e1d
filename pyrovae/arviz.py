"""A pair and data -> ArviZ: posterior, predictive, observed data, likelihoods, weights."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.errors import UsageError, whole_number
from pyrovae.generation import decoded_at
from pyrovae.posteriors import CHUNK, Sampler, check_method, run_chains
from pyrovae.progress import shown, steps
from pyrovae.randomness import set_seed
from pyrovae.traces import Args, Density, Problem, said

__all__ = ["to_arviz"]

Groups = dict[str, dict[str, Tensor]]


@shown("to_arviz")
def to_arviz(
    pair: object,
    x: object,
    *,
    draws: int = 100,
    chains: int = 4,
    method: str = "hmc",
    plate: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Any:
    """A pair's posterior on data as ArviZ has it: ``InferenceData``, or the ``DataTree`` of its
    newer versions. Kumar et al., "ArviZ a unified library for exploratory analysis of Bayesian
    models in Python", 2019; ``pip install "pyrovae[arviz]"``.

    Every variable has the dimensions ``chain``, ``draw`` and ``datum``, then its own: ``z_unit``
    of a vector ``z``, ``column`` with the columns' names of a table, ``x_dim_0`` ... of images.

    ==================== ===========================================================
    posterior            latents, from p(z|x) ("hmc") or q(z|x) ("guide")
    posterior_predictive x' drawn from p(x'|z) at each of them
    prior                latents drawn from the model, as many
    prior_predictive     x' drawn at those
    observed_data        x
    log_likelihood       ``per_datum``: log p(x|z), nats, what LOO and WAIC take
    sample_stats         "guide": ``log_weight``, log p(x, z) - log q(z|x), nats; "hmc": ``lp``,
                         log p(x, z), nats, and ``acceptance_rate``
    ==================== ===========================================================

    Args:
        pair: a model and a guide.
        x: data; some hundreds, as all draws of all of them are held in memory.
        draws: of each chain.
        chains: per datum; the guide's draws are independent, and only so divided.
        method: "hmc" as :func:`pyrovae.posterior`, or "guide".
        plate: name of the plate over the data, where several follow the batch's size.
        seed: of the draws.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: ArviZ is not installed; a global latent; with "hmc", what
            :func:`pyrovae.posterior` raises.
    """
    check_method(method, ("hmc", "guide"))
    arviz = _arviz()
    sampler = Sampler(whole_number("draws", draws, 4), chains)
    problem = Problem.of(pair, x, seed, plate)
    problem.shape.refuse_globals()
    parts: list[Groups] = []
    rows = problem.shape.rows_within(CHUNK, 2 * chains * draws)
    with problem.pair.evaluating():
        set_seed(seed)
        data = problem.batches(rows)
        for batch in steps(data, len(problem.data), "data", lambda batch: len(batch[0])):
            with said(batch):
                parts.append(_groups(problem, batch, sampler, method))
    joined = {
        group: {
            name: torch.cat([part[group][name] for part in parts], _axis(group))
            for name in parts[0][group]
        }
        for group in parts[0]
    }
    return _converted(arviz, joined, problem)


def _arviz() -> ModuleType:
    try:
        return importlib.import_module("arviz")
    except ImportError as error:
        raise UsageError(
            'ArviZ is not installed, and pv.to_arviz makes its data: pip install "pyrovae[arviz]"'
        ) from error


def _axis(group: str) -> int:
    """Where the data lie in a group's variables."""
    return 0 if group == "observed_data" else 2


def _groups(problem: Problem, batch: Args, sampler: Sampler, method: str) -> Groups:
    """The groups of one batch, ``[chains, draws, batch, ...]`` each."""
    count, size = sampler.chains * sampler.draws, len(batch[0])
    by = _by_hmc if method == "hmc" else _by_guide
    latents, likelihood, stats = by(problem, batch, sampler)
    native = {n: problem.beside(n, v.flatten(0, 1)) for n, v in latents.items()}
    turns = problem.turns(batch, count, native)
    runs = ((rows, problem.discrete(rows, given)) for rows, given in turns)
    predicted, _ = decoded_at(problem, runs, size, draw=True)
    prior, made = _from_prior(problem, batch, count, list(latents))
    seen = {n: v.flatten(0, 1)[:size] for n, v in _observed(problem, batch).items()}

    def chained(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: v.unflatten(0, (sampler.chains, -1)).cpu() for n, v in values.items()}

    return {
        "posterior": chained(latents),
        "posterior_predictive": chained(predicted),
        "prior": chained(prior),
        "prior_predictive": chained(made),
        "observed_data": seen,
        "log_likelihood": chained({"per_datum": likelihood}),
        "sample_stats": chained(stats),
    }


Drawn = tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]


def _by_hmc(problem: Problem, batch: Args, sampler: Sampler) -> Drawn:
    """Draws of p(z|x) ``[count, batch, ...]``, their log likelihoods ``[count, batch]``, and
    what is known of them."""
    density = Density(problem, batch)
    u, accepted = run_chains(density, sampler)
    flat = u.flatten(0, 1)
    joint, prior = density.both(flat, "prior")
    _, change = density.values(flat)
    stats = {"lp": joint - change, "acceptance_rate": accepted.flatten(0, 1)}
    return density.latent_values(flat), joint - prior, stats


def _by_guide(problem: Problem, batch: Args, sampler: Sampler) -> Drawn:
    """The same of q(z|x)."""
    problem.shape.refuse_points()
    found = problem.summing([n for n in problem.shape.enumerated if n not in problem.shape.latents])
    drawn = found.draw(batch, sampler.chains * sampler.draws)
    latents = {n: drawn.guide[n].value for n in problem.shape.latents}
    return latents, drawn.reconstruction, {"log_weight": drawn.log_weights}


def _from_prior(
    problem: Problem, batch: Args, count: int, names: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Latents and data drawn from the model, ``[count, batch, ...]``."""
    size = len(batch[0])
    latents: dict[str, list[Tensor]] = {name: [] for name in names}
    made: dict[str, list[Tensor]] = {name: [] for name in problem.shape.observed}
    for rows, _ in problem.turns(batch, count, {}):
        sites = problem.generate(rows)
        for name, parts in (*latents.items(), *made.items()):
            fn, value = sites[name]
            by_datum = value.movedim(problem.shape.dim - fn.event_dim, 0)
            parts.append(by_datum.unflatten(0, (-1, size)))
    return (
        {n: torch.cat(parts) for n, parts in latents.items()},
        {n: torch.cat(parts) for n, parts in made.items()},
    )


def _observed(problem: Problem, batch: Args) -> dict[str, Tensor]:
    """What each site observes, ``[1, batch, ...]``."""
    if len(problem.shape.observed) == 1:
        return {problem.shape.observed[0]: problem.replicate(batch)[None]}
    sites = problem.draw(batch).model
    return {n: sites[n].value[:1].cpu() for n in problem.shape.observed}


# --- ArviZ's own form -----------------------------------------------------------------------------


def _converted(arviz: ModuleType, groups: Groups, problem: Problem) -> Any:
    dims, coords = {}, dict[str, Any]()
    schema = problem.data.schema
    names = list(schema.names) if schema is not None else []
    for group, values in groups.items():
        for name, value in values.items():
            own = value.shape[_axis(group) + 1 :]
            columns = name in problem.shape.observed and list(own) == [len(names)]
            coords |= {"column": names} if columns else {}
            dims[name] = ["datum", *_named(name, own, columns)]
    arrays = {
        group: {name: np.asarray(value.detach()) for name, value in values.items()}
        for group, values in groups.items()
    }
    if "posterior" in inspect.signature(arviz.from_dict).parameters:
        return arviz.from_dict(**arrays, dims=dims, coords=coords)
    return arviz.from_dict(arrays, dims=dims, coords=coords)  # from its version 1 on


def _named(name: str, own: tuple[int, ...], columns: bool) -> list[str]:
    if columns:
        return ["column"]
    if len(own) == 1:
        return [f"{name}_unit"]
    return [f"{name}_dim_{k}" for k in range(len(own))]
