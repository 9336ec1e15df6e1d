"""log p(x) by annealed importance sampling, and how far it is to be trusted."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.errors import UsageError, nearest, number, whole_number
from pyrovae.hmc import Steps, transition
from pyrovae.potentials import Kept, Point, Potential
from pyrovae.progress import shown, steps
from pyrovae.randomness import set_seed
from pyrovae.tensors import log_mean_exp
from pyrovae.traces import STARTS, Args, Density, Problem, as_pair, said

__all__ = [
    "Annealed",
    "Annealing",
    "Chains",
    "Sandwich",
    "anneal",
    "annealed",
    "annealed_batch",
    "certified",
    "sandwich",
]

CHUNK = 2**27
STEEP = 4.0  # of the sigmoid that temperatures are spaced by
PILOT = 4  # chains that the schedule is found with, on a fourth of the temperatures
EVEN = 0.3  # of the temperatures, by the sigmoid alone


@dataclass(frozen=True)
class Annealing:
    """How chains go from where they start to the posterior.

    The densities on the way are q(z|x)^(1 - beta) p(x, z)^beta, beta on a sigmoid from 0 to 1,
    which is slow at both ends, and of each datum besides where a short run before saw the densities
    differ most.

    Args:
        start: "guide" for q(z|x); "prior" for p(z), which does not rest on the guide and finds
            modes that it misses; "gaussian" for one with the moments of the guide's draws.
        chains: per datum.
        temperatures: steps of beta.
        leapfrogs: of each transition.
    """

    start: str = "guide"
    chains: int = 16
    temperatures: int = 100
    leapfrogs: int = 5

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            words = ", ".join(map(repr, STARTS))
            hint = nearest(str(self.start), STARTS)
            raise UsageError(f"start must be one of {words}, got {self.start!r}{hint}")
        for name in ("chains", "temperatures", "leapfrogs"):
            whole_number(name, getattr(self, name))

    @property
    def cost(self) -> int:
        """Evaluations of the model per datum."""
        return self.chains * self.temperatures * self.leapfrogs

    def of(self, problem: Problem) -> Annealing:
        """The same where the pair has it: a guide whose density cannot be asked for at other points
        than its draws is stood in for by its moments."""
        if self.start != "prior":
            problem.shape.refuse_points()
        return self

    def __str__(self) -> str:
        return (
            f"{self.chains} chains x {self.temperatures:,} temperatures x {self.leapfrogs} "
            f"leapfrogs from the {self.start}"
        )


def _betas(temperatures: int) -> list[float]:
    t = torch.linspace(-STEEP, STEEP, temperatures + 1, dtype=torch.float64).sigmoid()
    return ((t - t[0]) / (t[-1] - t[0])).tolist()


@dataclass(frozen=True)
class Annealed:
    """What annealing found; all tensors on the CPU, nats.

    Attributes:
        log_weights: ``[chains, N]``, log of independent unbiased estimates of p(x).
        acceptance: ``[N]``, of the transitions.
        path: how it was gone.
        compiled: whether the densities were evaluated by their graph.
    """

    log_weights: Tensor
    acceptance: Tensor
    path: Annealing
    compiled: bool = True

    @property
    def log_evidence(self) -> Tensor:
        """log p(x), ``[N]``: log of the mean weight, a lower bound in expectation."""
        return log_mean_exp(self.log_weights)

    @property
    def standard_error(self) -> Tensor:
        """Of the log evidence, ``[N]``, over the chains, by the delta method; NaN of one chain."""
        weights = self.log_weights.softmax(0) * len(self.log_weights)
        return weights.std(0) / math.sqrt(len(weights))

    @property
    def typical_error(self) -> float:
        """The root of the mean square of the standard errors, nats."""
        return float(self.standard_error.square().mean().sqrt())

    @property
    def ess(self) -> Tensor:
        """Effective sample size of the chains' weights, ``[N]``, from 1 to the chains."""
        weights = self.log_weights
        return (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()

    def __str__(self) -> str:
        value = self.log_evidence
        spread = float(value.std() / math.sqrt(len(value))) if len(value) > 1 else math.nan
        return (
            f"log evidence {float(value.mean()):.2f} nats per datum (s.e. over {len(value):,} data "
            f"{spread:.2f}, of each over its chains {self.typical_error:.3f}), {self.path}; "
            f"acceptance {float(self.acceptance.mean()):.2f}"
        )

    __repr__ = __str__


class Schedule(NamedTuple):
    """The temperatures of each datum, and the step sizes there.

    The log weight's variance is least where each step of beta adds as much to the path's length,
    the integral of the standard deviation of log f_1 - log f_0 by beta (Gelman and Meng,
    "Simulating Normalizing Constants", 1998); a share of the steps is spaced by the sigmoid
    alone, as few chains see the deviations roughly.

    Attributes:
        betas: ``[temperatures + 1, batch]``, from 0 to 1.
        steps: of the same shape.
    """

    betas: Tensor
    steps: Tensor

    @classmethod
    def of(cls, spread: Tensor, log_steps: Tensor, temperatures: int) -> Schedule:
        """From variances of log f_1 - log f_0 and step sizes at few temperatures of the sigmoid,
        ``[few + 1, batch]``.

        >>> even = torch.ones(11, 1)
        >>> found = Schedule.of(even, even.log(), 4)
        >>> [round(float(beta), 2) for beta in found.betas[:, 0]]
        [0.0, 0.21, 0.5, 0.79, 1.0]
        """
        few, batch = len(spread) - 1, spread.shape[1]
        seen = torch.cat([spread[:1]] * 2 + [spread] + [spread[-1:]] * 2).unfold(0, 5, 1).mean(-1)
        seen = seen.nan_to_num(0.0, 1e300, 0.0).clamp_min(1e-12).sqrt()
        at = torch.tensor(_betas(few), dtype=torch.float64, device=spread.device)
        length = (seen[1:] + seen[:-1]) * at.diff()[:, None]
        share = (1 - EVEN) * length / length.sum(0) + EVEN / few
        gone = torch.cat([torch.zeros_like(share[:1]), share.cumsum(0)])
        gone = gone / gone[-1]
        wanted = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64, device=spread.device)
        wanted = wanted[:, None].expand(-1, batch)
        place = torch.searchsorted(gone.T.contiguous(), wanted.T.contiguous(), right=True).T
        place = place.clamp(1, few) - 1
        low, high = gone.gather(0, place), gone.gather(0, place + 1)
        way = ((wanted - low) / (high - low)).clamp(0, 1)
        betas = torch.lerp(at[place], at[place + 1], way)
        betas[0], betas[-1] = 0, 1
        near = log_steps.gather(0, place), log_steps.gather(0, place + 1)
        return cls(betas, torch.lerp(*near, way.to(log_steps)).exp())


class Chains:
    """Chains of one batch on their path.

    Args:
        density: of the batch.
        path: the path.
        kept: kernels.
    """

    def __init__(self, density: Density, path: Annealing, kept: Kept) -> None:
        self.density, self.path = density, path
        self.base = path.start
        if self.base == "guide" and not density.guided:
            self.base = "gaussian"
        self.potential = Potential(density, self.base, kept)
        self.accepted: list[Tensor] = []

    def scale(self, beta: Tensor) -> Tensor:
        """What masses are the inverse squares of: precisions go the way that densities go."""
        end = self.density.moments[1]
        if self.base != "prior":
            return end
        start = self.density.spread
        return ((1 - beta) / start.square() + beta / end.square()).rsqrt()

    @functools.cached_property
    def schedule(self) -> Schedule:
        """Found by a few chains of a run before: the weights of a run whose own chains set its
        steps would be biased."""
        path = self.path
        few = max(10, path.temperatures // 4)
        u = self.density.draw(PILOT, self.base)
        point = self.potential(u)
        sizes = Steps(self.density.dims, u.shape[1], u)
        found, spread = [], []
        for beta in _betas(few):
            seen = []
            for gain in (0.8, 0.4):
                point, accept = self._moved(point, beta, sizes.size)
                sizes.follow(accept, gain)
                seen.append(point.target - point.base)
            found.append(sizes.log_step)
            spread.append(torch.stack(seen).double().var(1).mean(0))
        return Schedule.of(torch.stack(spread), torch.stack(found), path.temperatures)

    def _moved(self, point: Point, beta: float | Tensor, size: Tensor) -> tuple[Point, Tensor]:
        scale = self.scale(torch.as_tensor(beta).to(point.u)[..., None])
        return transition(self.potential, point, beta, scale, size, self.path.leapfrogs)

    def move(self, point: Point, k: int) -> Point:
        """One transition of every chain at the path's ``k``-th temperature."""
        point, accept = self._moved(point, self.schedule.betas[k], self.schedule.steps[k])
        self.accepted.append(accept.mean(0))
        return point

    def forward(self) -> tuple[Point, Tensor]:
        """Where the chains end, and their log weights ``[chains, batch]``."""
        gains = self.schedule.betas.diff(dim=0)
        point = self.potential(self.density.draw(self.path.chains, self.base))
        log_weights = torch.zeros_like(point.target, dtype=torch.float64)
        for k in steps(range(len(gains)), len(gains)):
            point = self.move(point, k) if k else point
            log_weights += gains[k] * (point.target - point.base).double()
        return point, log_weights

    def backward(self, u: Tensor) -> Tensor:
        """Log weights ``[chains, batch]`` of chains that start at exact draws of the posterior: the
        mean of 1 / weight is 1 / p(x)."""
        gains = self.schedule.betas.diff(dim=0)
        point = self.potential(u.expand(self.path.chains, *u.shape[1:]).contiguous())
        log_weights = torch.zeros_like(point.target, dtype=torch.float64)
        for k in steps(range(len(gains) - 1, -1, -1), len(gains)):
            log_weights += gains[k] * (point.target - point.base).double()
            point = self.move(point, k) if k else point
        return log_weights

    @property
    def acceptance(self) -> Tensor:
        """The share of moves that were accepted so far, per datum ``[batch]``; NaN before any."""
        if not self.accepted:
            return torch.full(self.density.moments[0].shape[:1], math.nan)
        return torch.stack(self.accepted).mean(0)


def _batches(problem: Problem, path: Annealing, chunk_bytes: int) -> Iterator[tuple[Args, Kept]]:
    """Batches that bound the memory, and the kernels that they share."""
    rows = problem.shape.rows_within(chunk_bytes, 2 * path.chains)  # forwards and backwards
    size = len(problem.data) if problem.whole else problem.most(rows)
    chunks = math.ceil(len(problem.data) / size)
    kept = Kept(chunks * path.temperatures * path.leapfrogs)
    data = problem.data.batches(size)
    for batch in steps(data, len(problem.data), "annealing", lambda batch: len(batch[0])):
        yield batch, kept


@shown("anneal")
def anneal(
    pair: object,
    x: object,
    path: Annealing = Annealing(),
    *,
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Annealed:
    """log p(x) per datum by annealed importance sampling (AIS).

    Each of the path's chains is drawn from its start, moved by Hamiltonian Monte Carlo on the
    densities on the way, and weighed: w = prod_t f_t(z_t) / f_(t-1)(z_t), E[w] = p(x). The mean of
    the weights does not rest on the guide being good, only on the chains keeping up, which
    :func:`sandwich` measures. Neal, "Annealed Importance Sampling", 2001; Wu et al., "On the
    Quantitative Analysis of Decoder-Based Generative Models", 2017.

    Constrained latents are moved as real numbers (Pyro's bijections), discrete ones that are
    enumerated are summed out. Step sizes and the spacing of the temperatures are found, datum by
    datum, by a short run before.

    Args:
        pair: a model and a guide.
        x: data, in any form that ``pv.fit`` takes.
        path: where the chains start, how many and how slowly they go.
        plate: name of the plate over the data, where several follow the batch's size.
        chunk_bytes: most memory for the chains of a chunk, 128 MB by default.
        seed: of the chains.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Returns:
        Log weights ``[chains, N]`` and, by their mean, log p(x) ``[N]``, in nats, on the CPU.

    Raises:
        UsageError: a global latent; no continuous one; a discrete one that is drawn; a support that
            is not mapped to real numbers; a guide that puts latents at a point (start="prior" does
            without it).

    >>> from pyrovae.vae import VAE
    >>> found = anneal(VAE((4,), 2), torch.ones(3, 4), Annealing(chains=8, temperatures=20))
    >>> found.log_evidence.shape, bool((found.ess > 4).all())
    (torch.Size([3]), True)
    """
    problem = Problem.of(pair, x, seed, plate)
    return annealed(problem, path, chunk_bytes, seed)


def annealed(
    problem: Problem, path: Annealing, chunk_bytes: int = CHUNK, seed: int = 0
) -> Annealed:
    """The same of a pair that has met its data."""
    path = path.of(problem)
    with problem.pair.evaluating():
        set_seed(seed)
        parts = [
            annealed_batch(problem, batch, path, kept)
            for batch, kept in _batches(problem, path, chunk_bytes)
        ]
    return Annealed(
        torch.cat([part.log_weights for part in parts], 1),
        torch.cat([part.acceptance for part in parts]),
        path,
        all(part.compiled for part in parts),
    )


def annealed_batch(
    problem: Problem, batch: Args, path: Annealing, kept: Kept | None = None
) -> Annealed:
    """The same of one batch, in the random state at hand."""
    with said(batch):
        run = Chains(Density(problem, batch), path, kept or Kept(0))
        weights = run.forward()[1].cpu()
    return Annealed(weights, run.acceptance.cpu(), path, not run.potential.why_not)


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of data that the model made; per datum ``[N]``, nats, on the CPU.

    Attributes:
        lower: annealed forwards, below log p(x) in expectation.
        upper: annealed backwards from the z that x was made of, above it in expectation.
        path: how it was gone.
    """

    lower: Tensor
    upper: Tensor
    path: Annealing

    @property
    def width(self) -> float:
        """The mean of upper - lower: the mean error of the log evidence is at most that."""
        return float((self.upper - self.lower).mean())

    @property
    def error(self) -> float:
        """The width's standard error over the data."""
        gaps = self.upper - self.lower
        return float(gaps.std() / math.sqrt(len(gaps))) if len(gaps) > 1 else math.nan

    @property
    def words(self) -> str:
        """The width in a sentence."""
        return (
            f"on {len(self.lower):,} data simulated from the model its bounds are {self.width:.3f} "
            f"+- {self.error:.3f} nats apart"
        )

    def __str__(self) -> str:
        return (
            f"log evidence of {len(self.lower):,} simulated data between "
            f"{float(self.lower.mean()):.3f} and {float(self.upper.mean()):.3f} nats: "
            f"{self.width:.3f} +- {self.error:.3f} wide, {self.path}"
        )

    __repr__ = __str__


MOST = 6  # doublings of the temperatures
SIMULATED = 32  # data


@shown("sandwich")
def sandwich(
    pair: object,
    like: object = None,
    path: Annealing = Annealing(),
    *,
    simulations: int = SIMULATED,
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Sandwich:
    """Bidirectional Monte Carlo: how far :func:`anneal` is off, on data drawn from the model.

    Of simulated data one exact draw of the posterior is known, the z that x was made of. Chains
    that start there and go the path backwards give a stochastic upper bound on log p(x), those that
    go it forwards a lower one; both close in as the temperatures rise. It says of real data what it
    says of simulated ones as far as the model fits them. Grosse, Ghahramani and Adams, "Sandwiching
    the Marginal Likelihood Using Bidirectional Monte Carlo", 2015; Wu et al., "On the Quantitative
    Analysis of Decoder-Based Generative Models", 2017.

    Of probabilistic PCA with ten units, from the prior, the bounds are 3.9 +- 0.3 nats apart with
    4 temperatures, 1.0 +- 0.2 with 16, 0.2 +- 0.1 with 64; ``pv.plots.sandwich`` draws such widths.

    Args:
        pair: a model and a guide.
        like: data whose shapes, gaps, and whose arguments that nothing observes the simulated ones
            take; not needed for a VAE or a trained pair.
        path: as for :func:`anneal`.
        simulations: data to draw.
        plate: name of the plate over the data, where several follow the batch's size.
        chunk_bytes: most memory for the chains of a chunk.
        seed: of everything drawn.
        progress: as for :func:`anneal`.

    Raises:
        UsageError: what :func:`anneal` raises; a model that observes no argument as it is.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> found = sandwich(VAE((4,), 2), path=Annealing(chains=8, temperatures=20), simulations=4)
    >>> found.lower.shape, -0.5 < found.width < 0.5
    (torch.Size([4]), True)
    """
    whole_number("simulations", simulations)
    program = as_pair(pair)
    given = program.example() if like is None else like
    problem = Problem.of(program, given, seed, plate, checked=False)
    return sandwiched(problem, path, simulations, chunk_bytes, seed)


def sandwiched(
    problem: Problem, path: Annealing, simulations: int, chunk_bytes: int = CHUNK, seed: int = 0
) -> Sandwich:
    """The same of a pair that has met its data."""
    path = path.of(problem)
    given = problem.data.first(10_000)[:]
    rows = problem.shape.rows_within(chunk_bytes, 2 * path.chains)
    size = problem.at_once(min(simulations, rows))
    kept = Kept(2 * math.ceil(simulations / size) * path.temperatures * path.leapfrogs)
    lower, upper = [], []
    with problem.pair.evaluating():
        set_seed(seed)
        parts = range(0, simulations, size)
        for start in steps(parts, len(parts), "simulated data"):
            left = simulations - start
            chosen = torch.randint(len(given[0]), (size,), device=problem.pair.device)
            chosen = chosen if problem.whole else chosen[:left]
            truth, batch = _simulated(problem, tuple(a[chosen] for a in given))
            with said(batch):
                run = Chains(Density(problem, batch), path, kept)
                lower.append(log_mean_exp(run.forward()[1])[:left].cpu())
                back = run.backward(run.density.free(truth))
                upper.append(-log_mean_exp(-back)[:left].cpu())
    return Sandwich(torch.cat(lower), torch.cat(upper), path)


def _simulated(problem: Problem, args: Args) -> tuple[dict[str, Tensor], Args]:
    """Latents and data drawn from the model; what is missing of the data given is missing there."""
    truth, made = problem.simulate(args, problem.on(args).shape.latents)
    gaps = [
        torch.where(old.isnan(), old, new) if old.is_floating_point() else new
        for old, new in zip(args, made, strict=True)
    ]
    return truth, tuple(gaps)


def certified(
    problem: Problem, path: Annealing, tolerance: float | None, seed: int = 0
) -> tuple[Annealing, Sandwich]:
    """The path, its temperatures doubled until the sandwich is no wider than a tolerance (nats),
    six times at most, and the last sandwich."""
    found = sandwiched(problem, path, SIMULATED, seed=seed)
    for _ in range(MOST if tolerance is not None else 0):
        if found.width <= number("tolerance", tolerance):
            break
        path = replace(path, temperatures=2 * path.temperatures)
        found = sandwiched(problem, path, SIMULATED, seed=seed)
    return path, found
