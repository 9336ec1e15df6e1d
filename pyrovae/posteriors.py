"""Draws of p(z|x) that do not rest on q, of all data at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyrovae.annealing import CHUNK, Annealing, Chains
from pyrovae.errors import UsageError, whole_number
from pyrovae.hmc import Steps, transition
from pyrovae.potentials import Kept, Point, Potential
from pyrovae.progress import shown, steps
from pyrovae.randomness import set_seed
from pyrovae.traces import Args, Density, Problem, said

__all__ = ["Posterior", "Sampler", "posterior", "run_chains", "sampled"]

METHODS = ("hmc",)
ARRIVAL = 30  # temperatures that chains from the prior are annealed by
RHAT = 1.05  # above it the chains of a datum have not come together


@dataclass(frozen=True)
class Sampler:
    """How chains are run.

    Args:
        draws: kept of each chain.
        chains: per datum.
        warmup: transitions before, in which step sizes and masses are found.
        leapfrogs: of each transition.
    """

    draws: int = 250
    chains: int = 4
    warmup: int = 200
    leapfrogs: int = 8

    def __post_init__(self) -> None:
        for name in ("chains", "leapfrogs"):
            whole_number(name, getattr(self, name))
        whole_number("draws", self.draws, least=4)  # two halves of each chain are compared
        whole_number("warmup", self.warmup, least=10)


@dataclass(frozen=True)
class Posterior:
    """Draws of the posterior of each datum, on the CPU.

    Attributes:
        draws: by site, ``[chains, draws, N, ...]``.
        rhat: ``[N]``, the largest of a datum's coordinates: how much further apart its chains are
            than each is wide, 1 where they agree (Gelman and Rubin, "Inference from Iterative
            Simulation Using Multiple Sequences", 1992, on the halves of the chains).
        ess: ``[N]``, effective sample size of all chains, the smallest of a datum's coordinates.
        acceptance: ``[N]``, of the transitions.
        sampler: how they were drawn.
    """

    draws: dict[str, Tensor]
    rhat: Tensor
    ess: Tensor
    acceptance: Tensor
    sampler: Sampler

    @property
    def apart(self) -> Tensor:
        """Which data's chains have not come together, ``[N]``: their draws are not those of the
        posterior, or not enough of them."""
        return ~(self.rhat < RHAT)

    def __str__(self) -> str:
        count = int(self.apart.sum())
        rest = (
            f"the chains of {count:,} data have not come together (R-hat of {RHAT} or more): they "
            f"are in modes of their own, or need more draws"
            if count
            else f"all chains have come together (R-hat below {RHAT})"
        )
        return (
            f"{len(self.rhat):,} data, {self.sampler.chains} chains of {self.sampler.draws:,} "
            f"draws: effective sample size {float(self.ess.median()):,.0f} (median), "
            f"{float(self.ess.min()):,.0f} (least), acceptance "
            f"{float(self.acceptance.mean()):.2f}; {rest}"
        )

    __repr__ = __str__


@shown("posterior")
def posterior(
    pair: object,
    x: object,
    *,
    draws: int = 250,
    chains: int = 4,
    warmup: int = 200,
    leapfrogs: int = 8,
    method: str = "hmc",
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """Draws of p(z|x) by Hamiltonian Monte Carlo, all data at once, a step size for each.

    Half of the chains start at draws of the guide, half are annealed from the prior, so that a
    mode which the guide misses is found, and R-hat says so where the chains stay in modes of their
    own. Masses start from the guide's standard deviations and are found anew from the chains.
    Duane et al., "Hybrid Monte Carlo", 1987; Neal, "MCMC Using Hamiltonian Dynamics", 2011.

    Constrained latents are moved as real numbers (Pyro's bijections), discrete ones that are
    enumerated are summed out, and are not among the draws.

    Args:
        pair: a model and a guide.
        x: data, in any form that ``pv.fit`` takes; NaN is missing.
        draws: kept of each chain, at least 4.
        chains: per datum.
        warmup: transitions of each chain before.
        leapfrogs: of each transition.
        method: "hmc".
        plate: name of the plate over the data, where several follow the batch's size.
        chunk_bytes: most memory for the chains of a chunk, 128 MB by default.
        seed: of the chains.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: a global latent; no continuous one; a discrete one that is drawn; a support that
            is not mapped to real numbers.

    >>> from pyrovae.vae import VAE
    >>> found = posterior(VAE((4,), 2), torch.ones(3, 4), draws=200)
    >>> found.draws["z"].shape, bool((found.rhat < 1.1).all())
    (torch.Size([4, 200, 3, 2]), True)
    """
    check_method(method, METHODS)
    sampler = Sampler(draws, chains, warmup, leapfrogs)
    problem = Problem.of(pair, x, seed, plate)
    rows = problem.shape.rows_within(chunk_bytes, 2 * chains)
    size = len(problem.data) if problem.whole else problem.most(rows)
    evaluations = (warmup + draws) * leapfrogs * math.ceil(len(problem.data) / size)
    kept, parts = Kept(evaluations), []
    with problem.pair.evaluating():
        set_seed(seed)
        data = problem.data.batches(size)
        for batch in steps(data, len(problem.data), "data", lambda batch: len(batch[0])):
            parts.append(sampled(problem, batch, sampler, kept))
    return Posterior(
        draws={n: torch.cat([p.draws[n] for p in parts], 2) for n in parts[0].draws},
        rhat=torch.cat([p.rhat for p in parts]),
        ess=torch.cat([p.ess for p in parts]),
        acceptance=torch.cat([p.acceptance for p in parts]),
        sampler=sampler,
    )


def check_method(method: object, methods: tuple[str, ...]) -> None:
    """Refuse a method that there is not."""
    if method not in methods:
        raise UsageError(f"method is {' or '.join(map(repr, methods))}, got {method!r}")


def sampled(problem: Problem, batch: Args, sampler: Sampler, kept: Kept | None = None) -> Posterior:
    """The same of one batch, of a pair that has met its data, in the random state at hand."""
    with said(batch):
        density = Density(problem, batch)
        u, accepted = run_chains(density, sampler, kept)
        values = density.latent_values(u.flatten(0, 1))
    draws = {n: v.unflatten(0, u.shape[:2]).cpu() for n, v in values.items()}
    return Posterior(draws, *_diagnosed(u), accepted.mean((0, 1)).cpu(), sampler)


def run_chains(
    density: Density, sampler: Sampler, kept: Kept | None = None
) -> tuple[Tensor, Tensor]:
    """Draws of the latents as real numbers, ``[chains, draws, batch, dims]``, and the probability
    of acceptance of each, ``[chains, draws, batch]``."""
    potential = Potential(density, "", kept)
    point = potential(_starts(density, sampler))
    point, scale, step = _warmed(potential, point, sampler)
    found, accepted = [], []
    for _ in steps(range(sampler.draws), sampler.draws):
        point, accept = transition(potential, point, 1.0, scale, step, sampler.leapfrogs)
        found.append(point.u)
        accepted.append(accept)
    return torch.stack(found, 1), torch.stack(accepted, 1)


def _starts(density: Density, sampler: Sampler) -> Tensor:
    """Where the chains begin: draws of the guide, and what is annealed from the prior."""
    points = bool(density.shape.points)
    annealed = sampler.chains if points else sampler.chains // 2
    parts = []
    if annealed < sampler.chains:
        parts.append(density.draw(sampler.chains - annealed, "guide"))
    if annealed:
        path = Annealing("prior", annealed, ARRIVAL, sampler.leapfrogs)
        parts.append(Chains(density, path, Kept(0)).forward()[0].u)
    return torch.cat(parts)


def _warmed(potential: Potential, point: Point, sampler: Sampler) -> tuple[Point, Tensor, Tensor]:
    """The chains after their warm-up, with the scale and the steps found in it."""
    scale, first = potential.density.moments[1], sampler.warmup // 2
    sizes, seen = Steps(potential.density.dims, point.u.shape[1], point.u), []
    for k in range(first):
        point, accept = transition(potential, point, 1.0, scale, sizes.size, sampler.leapfrogs)
        sizes.follow(accept, _gain(k))
        seen.append(point.u)
    late = torch.stack(seen[first // 2 :])
    count = len(late) * late.shape[1]
    within = late.var(0).mean(0)  # chains in two modes are wide together, and narrow each
    scale = ((count * within + 5 * scale.square()) / (count + 5)).sqrt()
    sizes, tail = Steps(potential.density.dims, point.u.shape[1], point.u), []
    for k in range(sampler.warmup - first):
        point, accept = transition(potential, point, 1.0, scale, sizes.size, sampler.leapfrogs)
        sizes.follow(accept, _gain(k))
        tail.append(sizes.log_step)
    return point, scale, torch.stack(tail[len(tail) // 2 :]).mean(0).exp()


def _gain(k: int) -> float:
    """How far a step size follows the k-th acceptance."""
    return 1 / (1 + k) ** 0.6


def _diagnosed(u: Tensor) -> tuple[Tensor, Tensor]:
    """R-hat and effective sample size ``[batch]`` of draws ``[chains, draws, batch, dims]``: those
    of the worst coordinate."""
    u = u.cpu()
    rhat = split_gelman_rubin(u, chain_dim=0, sample_dim=1)
    ess = effective_sample_size(u, chain_dim=0, sample_dim=1)
    return rhat.amax(-1), ess.amin(-1).clamp_max(u.shape[0] * u.shape[1])
