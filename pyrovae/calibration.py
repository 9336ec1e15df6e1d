"""Is a pair right about its own uncertainty? Simulation-based calibration, predictive checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae import markup
from pyrovae.errors import UsageError, whole_number
from pyrovae.evaluation import CHUNK
from pyrovae.generation import reconstruct
from pyrovae.markup import Shown
from pyrovae.progress import shown, steps
from pyrovae.randomness import check_seed, set_seed
from pyrovae.traces import Args, Problem, as_pair

__all__ = ["Calibration", "PredictiveCheck", "calibrate", "predictive_check"]


@dataclass(frozen=True)
class Calibration(Shown):
    """Ranks of simulated latents among the guide's draws, and a test that they are uniform.

    Attributes:
        ranks: ``[simulations, dims]``, from 0 to ``draws``.
        names: of the dimensions, ``site[index]``.
        draws: posterior draws per simulation.
        p_values: ``[dims]``, of a chi-squared test of uniformity.
    """

    ranks: Tensor
    names: tuple[str, ...]
    draws: int
    p_values: Tensor

    def passes(self, level: float = 0.01) -> bool:
        """Whether no dimension is rejected at ``level`` (Bonferroni over the dimensions)."""
        return bool((self.p_values >= level / len(self.p_values)).all())

    def __str__(self) -> str:
        worst = int(self.p_values.argmin())
        verdict = (
            "no dimension's ranks differ from uniform"
            if self.passes()
            else "the guide is not calibrated"
        )
        return (
            f"{len(self.ranks):,} simulations, {self.draws} draws each: {verdict} at level 0.01; "
            f"smallest p-value {float(self.p_values[worst]):.2g} ({self.names[worst]})"
        )

    __repr__ = __str__

    def in_notebook(self) -> list[str]:
        """The verdict, the p-value of each dimension, the ranks of the least likely ones: level
        where the guide is right."""
        parts = [markup.note(self, strong=True)]
        order = self.p_values.argsort().tolist()
        parts.append(markup.table(["dimension", "p-value"], [
            (self.names[k], float(self.p_values[k])) for k in order
        ]))  # fmt: skip
        for k in order[:4]:
            counts = self.ranks[:, k].float().histc(10, 0, self.draws).tolist()
            parts.append(markup.bars(f"ranks of {self.names[k]}", counts, len(self.ranks) / 10))
        return parts


@shown("calibrate")
def calibrate(
    pair: object,
    like: object = None,
    *,
    simulations: int = 1000,
    draws: int = 99,
    bins: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Simulation-based calibration of an amortised guide, which needs no refitting.

    Draw (z, x) from the model, run the guide on x, and rank z among ``draws`` of q(z|x): if q is
    the posterior, ranks are uniform. A guide that is too narrow piles them up at the ends.
    Talts et al., "Validating Bayesian Inference Algorithms with Simulation-Based Calibration",
    2018.

    Args:
        pair: a pair whose local continuous latents are ranked coordinate by coordinate.
        like: data whose shapes, and whose arguments that nothing observes (labels to condition
            on), the simulations take; not needed for a VAE or a trained pair.
        simulations: how many.
        draws: of the guide per simulation; ``bins`` should divide ``draws + 1``.
        bins: of the uniformity test.
        seed: of everything drawn.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: numbers that are no counts; no continuous latent, a global one, a model that
            observes no argument as is.

    >>> from pyrovae.vae import VAE
    >>> calibrate(VAE((4,), 2), simulations=200).ranks.shape
    torch.Size([200, 2])
    """
    whole_number("simulations", simulations)
    whole_number("draws", draws)
    whole_number("bins", bins, least=2)
    if (draws + 1) % bins:
        raise UsageError(f"bins must divide draws + 1: {bins} does not divide {draws + 1}")
    program = as_pair(pair)
    problem = Problem.of(program, program.example() if like is None else like, seed, checked=False)
    given = problem.data.first(10_000)[:]
    problem.shape.refuse_globals()
    problem.shape.refuse_points()
    # a guide's discrete latents are drawn, as its others are
    problem = problem.summing([])
    ranks: list[Tensor] = []
    names: tuple[str, ...] = ()
    size = problem.at_once(min(simulations, problem.shape.rows_within(CHUNK, draws)))
    with problem.pair.evaluating():
        set_seed(seed)
        starts = range(0, simulations, size)
        for start in steps(starts, len(starts), f"{simulations:,} simulations"):
            count = size if problem.whole else min(size, simulations - start)
            rows = torch.randint(len(given[0]), (count,), device=program.device)
            found, names = _ranks(problem, tuple(a[rows] for a in given), draws)
            ranks.append(found[: simulations - start])
    joined = torch.cat(ranks)
    width = (draws + 1) // bins
    counts = torch.stack([(joined // width == b).sum(0) for b in range(bins)]).double()
    from scipy import stats

    p_values = torch.as_tensor(stats.chisquare(counts.numpy(), axis=0).pvalue)
    return Calibration(joined, names, draws, torch.atleast_1d(p_values))


def _ranks(problem: Problem, args: Args, draws: int) -> tuple[Tensor, tuple[str, ...]]:
    """The ranks ``[simulations, dims]`` of simulated latents among the guide's draws, and the
    dimensions' names."""
    latents = list(problem.shape.latents)
    truth, simulated = problem.simulate(args, latents)
    guide = problem.draw(simulated, draws).guide
    columns: list[Tensor] = []
    names: tuple[str, ...] = ()
    for name in latents:
        value = guide[name].value
        if guide[name].is_discrete:
            continue
        flat = value.flatten(2) if value.dim() > 2 else value[..., None]
        columns.append((flat < truth[name].reshape(1, len(args[0]), -1)).sum(0).cpu())
        names += tuple(f"{name}[{k}]" for k in range(columns[-1].shape[1]))
    if not columns:
        raise UsageError("calibration ranks continuous latents, and the pair has none")
    return torch.cat(columns, 1), names


@dataclass(frozen=True)
class PredictiveCheck:
    """A statistic of the data among those of replicated data.

    Attributes:
        observed: the statistic of the data.
        replicated: ``[replicates]``, of data drawn from p(x'|z), z ~ q(z|x).
    """

    observed: float
    replicated: Tensor

    @property
    def p_value(self) -> float:
        """Two-sided tail probability; small where the model cannot produce such data.

        The data are counted among the replications, so that it is at least 2 / (replicates + 1):
        a finite number of draws cannot show that a value never occurs. Phipson and Smyth,
        "Permutation P-values Should Never Be Zero", 2010.
        """
        above = int((self.replicated >= self.observed).sum())
        below = int((self.replicated <= self.observed).sum())
        return min(1.0, 2 * (min(above, below) + 1) / (len(self.replicated) + 1))


@shown("predictive check")
def predictive_check(
    pair: object,
    x: object,
    statistic: Callable[[Tensor], Tensor | float],
    *,
    replicates: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> PredictiveCheck:
    """Posterior predictive check: does data that the pair makes look like the data it was given?

    Gelman, Meng and Stern, "Posterior Predictive Assessment of Model Fitness", 1996.

    Args:
        pair: a pair with one observed site.
        x: data ``[N, ...]``.
        statistic: of a data set ``[N, ...]``, one number.
        replicates: data sets to draw.
        seed: of the draws.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    >>> from pyrovae.vae import VAE
    >>> x = torch.ones(20, 4)
    >>> check = predictive_check(VAE((4,), 2), x, torch.mean, replicates=50)
    >>> check.observed, check.p_value == 2 / 51  # none of the 50 replicates is so large
    (1.0, True)
    """
    whole_number("replicates", replicates)
    check_seed(seed)
    problem = Problem.of(pair, x, seed)
    data = problem.data.first(len(problem.data))
    batch = data[:]
    values = []
    for replicate in steps(range(replicates), replicates, f"{replicates:,} replicates"):
        drawn = reconstruct(pair, data, draws=1, seed=seed + replicate)
        one = drawn if isinstance(drawn, dict) else {problem.shape.observed[0]: drawn}
        values.append(float(statistic(problem.replicate(batch, {n: v[0] for n, v in one.items()}))))
    return PredictiveCheck(float(statistic(problem.replicate(batch))), torch.tensor(values))
