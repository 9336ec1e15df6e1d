"""Numbers for any pair: ELBO, log evidence, effective sample size, k-hat, active units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pyrovae import markup, traces
from pyrovae.annealing import Annealed, Annealing, Sandwich, annealed, annealed_batch, certified
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.framing import framed
from pyrovae.markup import Shown
from pyrovae.progress import count, shown
from pyrovae.randomness import set_seed
from pyrovae.tensors import log_mean_exp
from pyrovae.traces import Args, Problem, Structure, Traces

__all__ = [
    "Evaluation",
    "Gap",
    "clustering",
    "elbo",
    "evaluate",
    "gap",
    "log_evidence",
    "pareto_khat",
]

CHUNK = 2**27
METHODS = ("importance", "ais")
GAP_PATHS = (Annealing("guide", chains=8), Annealing("prior", temperatures=200))
AGAIN = 4  # times as many chains where one seems to be larger
MOST_CHAINS = AGAIN * max(path.chains for path in GAP_PATHS)
SUSPECT, APART = 2.0, 3.0  # standard errors by which a bound seems to be larger, and is
ACTIVE = 0.01  # Burda, Grosse and Salakhutdinov, 2015: variance of the posterior mean
COLLAPSED = 0.01  # nats of KL per datum
DOUBTFUL = 0.01  # share of data whose k-hat is too large that is passed over
REMEDY = (
    "; annealed importance sampling measures it: pv.evaluate(..., evidence='ais'), "
    "pyrovae evaluate RUN --evidence ais"
)


@dataclass(frozen=True)
class Evaluation(Shown):
    """Everything :func:`evaluate` measured; all tensors on the CPU, all terms in nats.

    Attributes:
        elbo: ``[N]``, E_q[log p(x, z) - log q(z|x)].
        reconstruction: ``[N]``, E_q[log p(x|z)], the mean over the particles.
        kl: ``[N]``, KL(q(z|x) || p(z)) of all latents, in closed form where there is one; then
            reconstruction - kl differs from the ELBO by the sampling error of the particles.
        kl_sites: the same per latent site ``[N]``.
        kl_dimensions: mean over the data per latent dimension ``[dims]``, where q and p factorise.
        log_evidence: ``[N]``, log p(x), or None with a global latent: annealed where that was asked
            for, else importance-sampled.
        ess: ``[N]``, effective sample size of the importance weights, of ``num_particles``.
        khat: ``[N]``, Pareto shape of the weights' tail; above :attr:`khat_limit` the log evidence
            and its ESS are not to be trusted (Vehtari et al., "Pareto Smoothed Importance
            Sampling", 2024); :attr:`trust` says so.
        codes: posterior mean of each local latent, ``[N, ...]``.
        active: per local latent, which units' posterior mean varies by more than 0.01 over the
            data (Burda et al., "Importance Weighted Autoencoders", 2015).
        bits_per_dimension: ``[N]``, -log p(x) / (D ln 2) for discrete images, else None.
        num_particles: importance samples per datum.
        notes: what could not be measured, and warnings.
        bound: whether ``elbo`` is a bound on log p(x); under a guide without a density it is
            log p(x, z) at the code.
        importance: ``[N]``, importance-sampled log p(x), whatever ``log_evidence`` is.
        annealed: what annealed importance sampling found, where it was asked for.
        sandwich: bounds on the log evidence of simulated data, by the same settings.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    kl_sites: dict[str, Tensor]
    kl_dimensions: dict[str, Tensor]
    log_evidence: Tensor | None
    ess: Tensor | None
    khat: Tensor | None
    codes: dict[str, Tensor]
    active: dict[str, Tensor]
    bits_per_dimension: Tensor | None
    num_particles: int
    notes: tuple[str, ...] = field(default=())
    bound: bool = True
    importance: Tensor | None = None
    annealed: Annealed | None = None
    sandwich: Sandwich | None = None

    @property
    def active_units(self) -> int:
        """How many units of all local latents are active."""
        return sum(int(active.sum()) for active in self.active.values())

    @property
    def units(self) -> int:
        """How many units there are."""
        return sum(active.numel() for active in self.active.values())

    @property
    def khat_limit(self) -> float:
        """min(1 - 1 / log10(S), 0.7), S = ``num_particles``: above it so many particles are not
        enough (Vehtari et al., 2024)."""
        return min(1 - 1 / math.log10(self.num_particles), 0.7) if self.num_particles > 10 else 0.0

    @property
    def share_above(self) -> float:
        """The share of data whose k-hat is above :attr:`khat_limit`; NaN where none is known."""
        if self.khat is None or bool(self.khat.isnan().all()):
            return math.nan
        return float((self.khat > self.khat_limit).double().mean())

    @property
    def trust(self) -> str:
        """How far the importance-sampled log evidence is to be trusted, and what to do, in a
        sentence; "" where nothing speaks against it."""
        if not self.share_above > DOUBTFUL:
            return ""
        rest = "" if self.annealed else REMEDY
        return (
            f"for {self.share_above:.1%} of the data {self.num_particles:,} particles are too few: "
            f"the importance-sampled log evidence is a lower bound that still rises with more "
            f"particles (k-hat above {self.khat_limit:.2f}){rest}"
        )

    @property
    def verdict(self) -> str:
        """Collapse in a sentence."""
        if not self.units:
            return "no continuous latent"
        if len(self.elbo) < 2:
            return "one datum alone does not show which units vary with the data"
        collapsed = self.bound and float(self.kl.mean()) < COLLAPSED
        if collapsed or not self.active_units:
            return "collapsed: the guide ignores the data and the latent carries nothing"
        idle = self.units - self.active_units
        rest = f"; {idle} ignored" if idle else ""
        return f"{self.active_units} of {self.units} latent units carry information{rest}"

    def means(self) -> dict[str, tuple[float, float]]:
        """Mean over the data and its standard error, per quantity."""
        found = {
            "elbo": self.elbo,
            "reconstruction": self.reconstruction,
            "kl": self.kl,
            "log_evidence": self.log_evidence,
            "importance": self.importance if self.annealed else None,
            "bits_per_dimension": self.bits_per_dimension,
            "ess": self.ess,
        }
        return {
            name: (float(value.mean()), _standard_error(value))
            for name, value in found.items()
            if value is not None
        }

    def to_dict(self) -> dict[str, object]:
        """The summary as plain data; per-datum tensors are left to the attributes."""
        summary: dict[str, Any] = {
            name: {"mean": mean, "standard_error": error}
            for name, (mean, error) in self.means().items()
        }
        summary["kl_sites"] = {name: float(kl.mean()) for name, kl in self.kl_sites.items()}
        summary["kl_dimensions"] = {name: kl.tolist() for name, kl in self.kl_dimensions.items()}
        if self.khat is not None and not self.khat.isnan().all():
            summary["khat"] = {
                "median": float(self.khat.median()),
                "limit": self.khat_limit,
                "share_above": self.share_above,
            }
        if self.annealed is not None:
            summary["annealed"] = asdict(self.annealed.path) | {
                "standard_error_over_chains": self.annealed.typical_error,
                "acceptance": float(self.annealed.acceptance.mean()),
            }
        if self.sandwich is not None:
            summary["sandwich"] = {
                "width": self.sandwich.width,
                "standard_error": self.sandwich.error,
                "data": len(self.sandwich.lower),
            }
        summary |= {
            "active_units": self.active_units,
            "units": self.units,
            "verdict": self.verdict,
            "trust": self.trust,
            "data": len(self.elbo),
            "num_particles": self.num_particles,
            "notes": list(self.notes),
        }
        return summary

    def _words(self) -> dict[str, str]:
        return {
            "elbo": "ELBO" if self.bound else "log p(x, z) at the code",
            "reconstruction": "reconstruction",
            "kl": "KL",
            "log_evidence": "log evidence (annealed)"
            if self.annealed
            else f"log evidence ({self.num_particles:,} particles)",
            "importance": f"the same by {self.num_particles:,} particles",
            "bits_per_dimension": "bits per dimension",
            "ess": "effective sample size",
        }

    def in_notebook(self) -> list[str]:
        """Means and standard errors, the KL of each unit, the share of doubtful weights, notes."""
        words = self._words()
        rows = [(words[name], *found) for name, found in self.means().items()]
        parts = [
            markup.note(f"{len(self.elbo):,} data, nats per datum", strong=True),
            markup.table(["", "mean", "s.e."], rows),
        ]
        parts += [
            markup.bars(f"KL per unit of {name}, nats", kl.flatten().tolist())
            for name, kl in self.kl_dimensions.items()
        ]
        said = [self.verdict, self.trust, *self.notes]
        return parts + [markup.note(words) for words in said if words]

    def __str__(self) -> str:
        words = self._words()
        lines = [f"{len(self.elbo):,} data, nats per datum{'mean':>24} {'s.e.':>8}"]
        width = len(lines[0]) - 18
        lines += [
            f"{words[name]:<{width}} {mean:>8.2f} {error:>8.2f}"
            for name, (mean, error) in self.means().items()
        ]
        if not math.isnan(self.share_above):
            above = f"k-hat above {self.khat_limit:.2f}"
            lines.append(f"{above:<{width}} {self.share_above:>8.1%}")
        lines.append(f"{'active units':<{width}} {f'{self.active_units} of {self.units}':>8}")
        lines += [self.verdict, *filter(None, [self.trust]), *self.notes]
        return "\n".join(lines)

    __repr__ = __str__


def _standard_error(value: Tensor) -> float:
    return float(value.double().std() / math.sqrt(len(value))) if len(value) > 1 else math.nan


@shown("evaluate")
def evaluate(
    pair: object,
    x: object,
    num_particles: int = 1000,
    *,
    evidence: str = "importance",
    chains: int = 16,
    temperatures: int = 100,
    leapfrogs: int = 5,
    start: str = "guide",
    tolerance: float | None = None,
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure a pair on data; changes neither weights, buffers, modes nor random states.

    With ``evidence="ais"`` the log evidence is annealed (:func:`pyrovae.annealing.anneal`), and
    bounded from both sides on 32 simulated data by the same settings
    (:func:`pyrovae.annealing.sandwich`): where a tolerance is named, the temperatures are doubled
    until the bounds are no further apart.

    Args:
        pair: a model and a guide.
        x: data, in any form that ``pv.fit`` takes; dynamic binarisation is drawn once.
        num_particles: importance samples per datum.
        evidence: "importance", or "ais" for annealed importance sampling.
        chains: of the latter, per datum.
        temperatures: of the latter.
        leapfrogs: of each of its transitions.
        start: of its chains, "guide", "prior" or "gaussian".
        tolerance: nats, how far the bounds of simulated data may be apart; None takes the
            temperatures as they are.
        plate: name of the plate over the data, where several follow the batch's size.
        chunk_bytes: most memory for the particles of a chunk, 128 MB by default.
        seed: of the particles and the binarisation.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: whatever :func:`pyrovae.traces.structure` raises; with "ais", whatever
            :func:`pyrovae.annealing.anneal` raises.

    >>> from pyrovae.vae import VAE
    >>> found = evaluate(VAE((4,), 2), torch.ones(10, 4), num_particles=50)
    >>> bool((found.log_evidence.mean() >= found.elbo.mean()).item()), found.units
    (True, 2)
    """
    path = _path(evidence, chains, temperatures, leapfrogs, start)
    _check_tolerance(tolerance, path)
    problem = Problem.of(pair, x, seed, plate)
    shape = problem.shape
    found_by_chains = _by_chains(problem, path, tolerance, chunk_bytes, seed)
    filled = _Filled(len(problem.data))
    dimensions: dict[str, Tensor] = {}
    bits = False
    for _, parts in problem.chunks(num_particles, chunk_bytes, seed):
        filled.add(_terms(parts, num_particles))
        for name in parts[0].kl_dimensions:
            kl = _mean([p.kl_dimensions[name] for p in parts]).sum(0)
            dimensions[name] = dimensions.get(name, 0.0) + kl.double().cpu()
        bits = bits or _discrete_images(parts[0])
    found = filled.tensors()
    codes = _under("code/", found)
    importance = found.get("log_evidence")
    log_evidence = found_by_chains.log_evidence(importance)
    elements = math.prod(problem.data.event_shape)
    return Evaluation(
        elbo=found["elbo"],
        reconstruction=found["reconstruction"],
        kl=found["kl"],
        kl_sites=_under("kl/", found),
        kl_dimensions={name: kl / filled.start for name, kl in dimensions.items()},
        log_evidence=log_evidence,
        ess=found.get("ess"),
        khat=found.get("khat"),
        codes=codes,
        active={name: _varies(code) for name, code in codes.items()},
        bits_per_dimension=(
            -log_evidence / (elements * math.log(2)) if bits and log_evidence is not None else None
        ),
        num_particles=num_particles,
        notes=(*_notes(shape), *found_by_chains.notes),
        bound=not shape.points,
        importance=importance,
        annealed=found_by_chains.annealed,
        sandwich=found_by_chains.sandwich,
    )


@dataclass(frozen=True)
class _ByChains:
    """What annealing found, where it was asked for and something is left to it."""

    annealed: Annealed | None = None
    sandwich: Sandwich | None = None
    notes: tuple[str, ...] = ()

    def log_evidence(self, importance: Tensor | None) -> Tensor | None:
        """The better of the two."""
        return importance if self.annealed is None else self.annealed.log_evidence


def _by_chains(
    problem: Problem, path: Annealing | None, tolerance: float | None, chunk_bytes: int, seed: int
) -> _ByChains:
    if path is None or problem.shape.exact:
        return _ByChains()
    try:
        path, bounds = certified(problem, path, tolerance, seed)
    except UsageError as error:  # of data that cannot be simulated
        found = annealed(problem, path, chunk_bytes, seed)  # or of what cannot be annealed at all
        if tolerance is not None:
            raise
        return _ByChains(found, None, (f"annealed by {path}, without bounds: {error}",))
    found = annealed(problem, path, chunk_bytes, seed)
    words = f"annealed by {path}; {bounds.words}"
    if tolerance is not None and bounds.width > tolerance:
        words += f", more than the tolerance of {tolerance:g}: more leapfrogs, or another start"
    return _ByChains(found, bounds, (words,))


def _path(
    method: str, chains: int, temperatures: int, leapfrogs: int, start: str
) -> Annealing | None:
    """The path of the method "ais"; None for "importance"."""
    if method not in METHODS:
        words = " or ".join(map(repr, METHODS))
        raise UsageError(
            f"log p(x) is measured by {words}, got {method!r}{nearest(str(method), METHODS)}"
        )
    return None if method == "importance" else Annealing(start, chains, temperatures, leapfrogs)


def _check_tolerance(tolerance: float | None, path: Annealing | None) -> None:
    if tolerance is not None and path is None:
        raise UsageError(
            "a tolerance is how far annealing's bounds of log p(x) may be apart, and importance "
            "sampling has no such bounds: give evidence='ais' too"
        )


def _under(prefix: str, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose names have the prefix, without it."""
    return {n.removeprefix(prefix): v for n, v in found.items() if n.startswith(prefix)}


def _terms(parts: Sequence[Traces], num_particles: int) -> dict[str, Tensor]:
    """Everything that is told of each datum, ``[batch, ...]``, by name."""
    first, shape = parts[0], parts[0].shape
    names = {"elbo": "elbo", "reconstruction": "reconstruction", "kl": "total_kl"}
    terms = {name: _mean([getattr(p, of) for p in parts]) for name, of in names.items()}
    for name in first.kl:
        if first.kl[name].dim() == 2:
            terms[f"kl/{name}"] = _mean([p.kl[name] for p in parts])
    terms |= _codes(parts)
    weighed = num_particles > 1 or shape.exact
    if weighed and not (shape.globals or shape.points):
        terms |= _evidence(parts)
    return terms


def _codes(parts: Sequence[Traces]) -> dict[str, Tensor]:
    """The mean of each local latent that has one, ``[batch, ...]``."""
    first = parts[0]
    codes = {}
    for site in first.guide.values():
        if site.name in first.shape.latents and not site.is_global:
            code = _code(site, parts)
            if code is not None:
                codes[f"code/{site.name}"] = code
    return codes


def _evidence(parts: Sequence[Traces]) -> dict[str, Tensor]:
    """The log evidence, and how far it is to be trusted where it is sampled."""
    weights = torch.cat([p.log_weights for p in parts]).double()
    terms = {"log_evidence": log_mean_exp(weights)}
    if not parts[0].shape.exact:
        terms["ess"] = (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()
        terms["khat"] = pareto_khat(weights)
    return terms


def _notes(shape: Structure) -> tuple[str, ...]:
    """What could not be measured, and why."""
    notes = []
    if shape.globals:
        notes.append(
            f"no log evidence per datum: all data share {', '.join(shape.globals)}; the KL is "
            f"counted once, spread evenly over the data"
        )
    if shape.points:
        notes.append(
            f"no bound and no log evidence: the guide puts {', '.join(shape.points)} at a point, "
            f"as an autoencoder does, without a density q(z|x)"
        )
    if shape.scaled:
        notes.append(
            f"the scale that the programs put on {', '.join(shape.scaled)} weighs "
            f"training; these are the numbers of the densities themselves"
        )
    if shape.exact:
        notes.append("every latent is summed out: ELBO and log evidence have no sampling error")
    if not shape.broadcasts:
        notes.append("the pair does not broadcast: particles were run one by one")
    return tuple(notes)


def clustering(found: Tensor, labels: Tensor) -> dict[str, float]:
    """How well clusters agree with classes, two ways: ``one_to_one`` is the accuracy when each
    cluster stands for one class and no two for the same (the best such assignment: Kuhn, "The
    Hungarian Method for the Assignment Problem", 1955), ``majority`` when each stands for the
    class most of its members have, which many clusters reach without effort. Report both.

    Args:
        found: ``[N]``, whole numbers, each datum's cluster.
        labels: ``[N]``, whole numbers, each datum's class.

    >>> clustering(torch.tensor([5, 5, 7, 7]), torch.tensor([0, 0, 0, 1]))
    {'one_to_one': 0.75, 'majority': 0.75}
    """
    if found.shape != labels.shape or found.dim() != 1 or not len(found):
        raise UsageError(
            f"clusters and classes must be [N] alike, got {list(found.shape)}, {list(labels.shape)}"
        )
    ours, theirs = (t.cpu().unique(return_inverse=True) for t in (found, labels))
    sizes = len(ours[0]), len(theirs[0])
    table = (ours[1] * sizes[1] + theirs[1]).bincount(minlength=sizes[0] * sizes[1]).reshape(sizes)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table.numpy(), maximize=True)
    return {
        "one_to_one": float(table[rows, columns].sum()) / len(found),
        "majority": float(table.amax(1).sum()) / len(found),
    }


@shown("elbo")
@framed
def elbo(
    pair: object,
    x: object,
    num_particles: int = 1,
    *,
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """E_q[log p(x, z) - log q(z|x)] per datum, ``[N]``, nats, by Monte Carlo.

    A global latent's terms are spread evenly over the data: the sum counts them once. Arguments
    as in :func:`evaluate`.

    Raises:
        UsageError: "expected a pair: pv.Pair(model, guide), a pv.VAE, or an object whose .model and
            .guide are Pyro programs; got ...".
        UsageError: "there are no data: x has shape ...".
        UsageError: "x has ... entries that are infinite; the first, ..., is in datum ... at
            position ...; drop or fill such data, or write NaN where a value is missing".
        UsageError: "the data do not lie in the support of site ...: ... takes ..., the data range
            from ... to ...".
        UsageError: "this ... models data of shape ..., a batch is [batch, *shape]; got a batch of
            shape ...: reshape the data, or build a ... with their event_shape".
        UsageError: "the guide puts ... at a point (dist.Delta), as an autoencoder does: without a
            density q(z|x) there is no bound on log p(x) and no importance weight. pv.evaluate
            measures the reconstruction; for log p(x) give the guide a density, such as
            dist.Normal".
        UsageError: whatever :func:`pyrovae.traces.structure` raises.

    >>> from pyrovae.vae import VAE
    >>> elbo(VAE((4,), 2), torch.ones(10, 4)).shape
    torch.Size([10])
    """
    problem = Problem.of(pair, x, seed, plate)
    problem.shape.refuse_points()
    found = _Filled(len(problem.data))
    for _, parts in problem.chunks(num_particles, chunk_bytes, seed):
        found.add({"elbo": _mean([p.elbo for p in parts])})
    return found.tensors()["elbo"]


@shown("log evidence")
@framed
def log_evidence(
    pair: object,
    x: object,
    num_particles: int = 1000,
    *,
    method: str = "importance",
    chains: int = 16,
    temperatures: int = 100,
    leapfrogs: int = 5,
    start: str = "guide",
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """log p(x) per datum, ``[N]``, nats, a lower bound in expectation.

    "importance" samples with q as the proposal, log (1/K) sum_k p(x, z_k) / q(z_k|x), which rises
    with K (Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2015). "ais" moves
    chains from their start to the posterior and weighs them on the way (Neal, "Annealed Importance
    Sampling", 2001), which does not rest on q being close: 16 chains x 50 temperatures x 5
    leapfrogs, 4,000 evaluations, are nearer to log p(x) of a VAE of MNIST than 20,000 particles;
    :func:`pyrovae.annealing.anneal` gives its weights and standard errors too. Arguments as in
    :func:`evaluate`.

    Raises:
        UsageError: a global latent; its data have no evidence of their own. With "ais", what
            :func:`pyrovae.annealing.anneal` raises.

    >>> from pyrovae.vae import VAE
    >>> _ = torch.manual_seed(0)
    >>> vae, x = VAE((4,), 2), torch.ones(10, 4)
    >>> log_evidence(vae, x, num_particles=50).shape
    torch.Size([10])
    >>> found = log_evidence(vae, x, method="ais", chains=8, temperatures=20)
    >>> bool((found - log_evidence(vae, x, 20_000)).mean().abs() < 0.2)
    True
    """
    path = _path(method, chains, temperatures, leapfrogs, start)
    problem = Problem.of(pair, x, seed, plate)
    problem.shape.refuse_globals()
    if path is not None and not problem.shape.exact:
        return annealed(problem, path, chunk_bytes, seed).log_evidence
    problem.shape.refuse_points()
    found = _Filled(len(problem.data))
    for _, parts in problem.chunks(num_particles, chunk_bytes, seed):
        weights = torch.cat([p.log_weights for p in parts])
        found.add({"log_evidence": log_mean_exp(weights)})
    return found.tensors()["log_evidence"]


class _Filled:
    """Per-datum results, written in place as chunks come: small tensors kept from every chunk
    would scatter over the memory that the next chunk's large ones need."""

    def __init__(self, size: int) -> None:
        self.size, self.start = size, 0
        self.found: dict[str, Tensor] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        """One chunk's; a site that it lacks has no KL there, and no code (NaN)."""
        stop = self.start + len(next(iter(terms.values())))
        for name, value in terms.items():
            if name not in self.found:
                shape = (self.size, *value.shape[1:])
                absent = 0.0 if name.startswith("kl/") else math.nan
                self.found[name] = torch.full(shape, absent, dtype=value.dtype)
            if self.found[name].shape[1:] != value.shape[1:]:
                raise UsageError(
                    f"{name.removeprefix('code/')} is of shape {list(value.shape[1:])} in one "
                    f"batch and {list(self.found[name].shape[1:])} in another, which no table "
                    f"can hold; pad the data to one length"
                )
            self.found[name][self.start : stop] = value.detach().cpu()
        self.start = stop

    def tensors(self) -> dict[str, Tensor]:
        """What came, by name: a loader may yield less than it has."""
        return {name: value[: self.start] for name, value in self.found.items()}


@dataclass(frozen=True)
class Gap(Shown):
    """Where log p(x) goes; per datum ``[N]``, nats: log_evidence = elbo + amortisation +
    approximation.

    Attributes:
        elbo: with the guide as it is.
        refined: with the guide's parameters refined for each datum by itself.
        log_evidence: the largest of three lower bounds, as far as their standard errors tell them
            apart: importance-sampled with the refined guide as the proposal, annealed from the
            guide, annealed from the prior, which finds modes that the guide misses.
        notes: why it was not annealed, where it was not.
    """

    elbo: Tensor
    refined: Tensor
    log_evidence: Tensor
    notes: tuple[str, ...] = ()

    @property
    def amortisation(self) -> Tensor:
        """What sharing one network among all data costs."""
        return self.refined - self.elbo

    @property
    def approximation(self) -> Tensor:
        """What the guide's family costs."""
        return self.log_evidence - self.refined

    def _rows(self) -> dict[str, Tensor]:
        return {
            "log evidence": self.log_evidence,
            "ELBO": self.elbo,
            "amortisation gap": self.amortisation,
            "approximation gap": self.approximation,
        }

    def in_notebook(self) -> list[str]:
        """Means and standard errors, and the two gaps as bars."""
        rows = [(n, float(v.mean()), _standard_error(v)) for n, v in self._rows().items()]
        gaps = [float(gap.mean()) for gap in (self.amortisation, self.approximation)]
        return [
            markup.note(f"{len(self.elbo):,} data, nats per datum", strong=True),
            markup.table(["", "mean", "s.e."], rows),
            markup.bars("amortisation, approximation: nats", gaps),
            *map(markup.note, self.notes),
        ]

    def __str__(self) -> str:
        rows = self._rows()
        lines = [f"{len(self.elbo):,} data, nats per datum{'mean':>12} {'s.e.':>8}"]
        width = len(lines[0]) - 18
        for name, value in rows.items():
            lines.append(
                f"{name:<{width}} {float(value.mean()):>8.3f} {_standard_error(value):>8.3f}"
            )
        worse = "network" if self.amortisation.mean() > self.approximation.mean() else "family"
        lines += [f"the larger part is due to the guide's {worse}", *self.notes]
        return "\n".join(lines)

    __repr__ = __str__


@shown("gap")
def gap(
    pair: object,
    x: object,
    num_particles: int = 1000,
    *,
    refine_particles: int = 64,
    steps: int = 60,
    plate: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Gap:
    """Split log p(x) - ELBO into what amortisation and what the guide's family costs.

    Each datum's own variational parameters start where the guide puts them and climb the ELBO
    (L-BFGS on fixed particles); what that gains is the amortisation gap, what is left the
    approximation gap. Cremer, Li and Duvenaud, "Inference Suboptimality in Variational
    Autoencoders", 2018. log p(x) is annealed where importance sampling misses some of it: on
    posteriors of two modes a refined guide of one sees half of the mass, and would call log 2 of
    the gap nothing.

    Args:
        pair: a model and a guide whose sites are given by their parameters (no flows).
        x: data; some hundreds are enough.
        num_particles: for the log evidence and both ELBOs.
        refine_particles: for the refinement.
        steps: of L-BFGS.
        plate: name of the plate over the data, where several follow the batch's size.
        seed: of the particles.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Returns:
        The parts per datum, ``[N]`` each, in nats.

    Raises:
        UsageError: numbers that are no counts; a global latent, a site without a pathwise gradient,
            a flow.
    """
    whole_number("num_particles", num_particles)
    whole_number("refine_particles", refine_particles)
    whole_number("steps", steps, least=0)
    problem = Problem.of(pair, x, seed, plate)
    shape = problem.shape
    shape.refuse_globals()
    shape.refuse_points()
    if shape.enumerated or not shape.broadcasts:
        raise UsageError("the gap report needs latents that are drawn, in a pair that broadcasts")
    if shape.scored:
        raise UsageError(
            f"the gap report refines each datum's q by its gradient, and the draws of "
            f"{', '.join(shape.scored)} have none (they are not reparameterised); pv.evaluate "
            f"measures ELBO and log evidence without refining"
        )
    parts: list[tuple[Tensor, ...]] = []
    notes: tuple[str, ...] = ()
    size = shape.rows_within(CHUNK, 4 * max(refine_particles, num_particles))
    # chains are fewer than particles: more data at once
    together = max(size, shape.rows_within(CHUNK, 2 * MOST_CHAINS))
    with torch.inference_mode(False), problem.pair.evaluating():
        set_seed(seed)
        for batch in problem.batches(together):
            with traces.said(batch):
                each = [
                    _refined(problem, some, num_particles, refine_particles, steps)
                    for some in _split(batch, problem.at_once(size))
                ]
                *refined, error = (torch.cat(column) for column in zip(*each, strict=True))
                notes = notes or _unannealable(problem, batch)
                if not notes:
                    refined[-1] = _larger(problem, batch, refined[-1], error)
            parts.append(tuple(refined))
    before, after, evidence = (torch.cat(column) for column in zip(*parts, strict=True))
    return Gap(before, after, evidence, notes)


def _unannealable(problem: Problem, batch: Args) -> tuple[str, ...]:
    """Why the latents cannot be annealed, in words, if they cannot."""
    try:
        traces.Density(problem, batch)
    except UsageError as reason:
        return (f"log evidence by importance sampling alone: {reason}",)
    return ()


def _split(batch: Args, size: int) -> Iterator[Args]:
    """Its data, so many at once."""
    return zip(*(a.split(size) for a in batch), strict=True)


def _larger(problem: Problem, batch: Args, value: Tensor, error: Tensor) -> Tensor:
    """The largest of three lower bounds ``[batch]``: that by importance sampling, whose standard
    error is given, unless annealing from the guide or the prior says more. What seems to be larger
    is annealed anew by four times as many chains: the largest of noisy numbers is too large."""
    for path in GAP_PATHS:
        found = annealed_batch(problem, batch, path)
        rows = _above(found, value, error, SUSPECT).nonzero()[:, 0]
        if len(rows):
            rows = torch.arange(len(value)) if problem.whole else rows
            some = tuple(a[rows.to(a.device)] for a in batch)
            again = annealed_batch(problem, some, replace(path, chains=AGAIN * path.chains))
            larger = _above(again, value[rows], error[rows], APART)
            value[rows] = torch.where(larger, again.log_evidence.to(value), value[rows])
            error[rows] = torch.where(larger, again.standard_error.to(error), error[rows])
    return value


def _above(found: Annealed, value: Tensor, error: Tensor, by: float) -> Tensor:
    """Whether a bound is above another by so many standard errors of the two."""
    spread = (error.square() + found.standard_error.square()).sqrt()
    return found.log_evidence - value > by * spread


def _refined(
    problem: Problem, batch: Args, num_particles: int, refine_particles: int, steps: int
) -> tuple[Tensor, ...]:
    """Per datum: the ELBO before and after the refinement, the log evidence and its standard
    error."""
    refinement = traces.Refinement(problem.shape, num_particles)
    refined = problem.running(refinement.of(problem.pair))
    start = refined.draw(batch, num_particles).elbo.mean(0)
    refinement.restart(refine_particles)
    with torch.enable_grad():
        _climb(refined, batch, refinement, steps)
    refinement.restart(num_particles)
    end = refined.draw(batch, num_particles).elbo.mean(0)
    # independent draws, as importance sampling needs
    refinement.restart(num_particles, noise=False)
    weights = refined.draw(batch, num_particles).log_weights
    better = end >= start  # a refinement that its own particles misled is not one
    if not bool(better.all()):
        weights = torch.where(better, weights, problem.draw(batch, num_particles).log_weights)
    error = (weights.softmax(0) * num_particles).std(0) / math.sqrt(num_particles)
    found = (start, torch.where(better, end, start), log_mean_exp(weights), error)
    return tuple(value.cpu() for value in found)


def _climb(refined: Problem, batch: Args, refinement: traces.Refinement, steps: int) -> None:
    """Maximise the batch's ELBO in the refinement's shifts."""
    particles = refinement.particles
    first = refined.draw(batch, particles).elbo.mean(0).sum()
    shifts = list(refinement.shifts.values())
    if not shifts:
        raise UsageError("the pair draws no local latent, so there is no gap to report")
    if any(not s.requires_grad for s in shifts) or not first.requires_grad:
        raise UsageError("the guide's latents have no pathwise gradient, so nothing to refine by")
    optimizer = torch.optim.LBFGS(
        shifts,
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        torch.manual_seed(0)  # sites that are not Gaussian keep their noise too
        loss = -refined.draw(batch, particles).elbo.mean(0).sum()
        # not backward(): the networks' own gradients stay as they are
        for shift, grad in zip(shifts, torch.autograd.grad(loss, shifts), strict=True):
            shift.grad = grad
        climb.advance(1)
        return loss

    with count(steps) as climb:
        optimizer.step(closure)


def pareto_khat(log_weights: Tensor) -> Tensor:
    """Shape k-hat of a generalised Pareto fitted to the largest weights of each datum.

    The fit is Zhang and Stephens, "A New and Efficient Estimation Method for the Generalized
    Pareto Distribution", 2009, with the weak prior of Vehtari et al., "Pareto Smoothed Importance
    Sampling", 2024. With S particles the importance estimate is reliable below
    min(1 - 1 / log10(S), 0.7).

    Args:
        log_weights: ``[particles, batch]``.

    Returns:
        ``[batch]``; 0 where the weights are constant (an exact guide), NaN with under 25
        particles, whose tail is too short to fit.

    >>> weights = torch.distributions.Pareto(1.0, 2.0).sample((4000, 1))  # k = 1/2
    >>> 0.2 < float(pareto_khat(weights.log())) < 0.8
    True
    """
    count = log_weights.shape[0]
    tail = math.ceil(min(count / 5, 3 * math.sqrt(count)))
    if tail < 5:
        return log_weights.new_full(log_weights.shape[1:], math.nan)
    largest = log_weights.double().topk(tail + 1, dim=0).values
    weights = (largest - largest[0]).exp()
    excess = (weights[:-1] - weights[-1]).flip(0)  # ascending
    constant = excess[-1] < 1e-4
    excess = torch.where(constant, torch.linspace(0.1, 1, tail).to(excess)[:, None], excess)
    excess = excess.clamp_min(1e-300)

    grid = 30 + int(math.sqrt(tail))
    b = 1 - (grid / (torch.arange(1, grid + 1).to(excess) - 0.5)).sqrt()
    quartile = excess[int(tail / 4 + 0.5) - 1]
    b = b[:, None] / (3 * quartile) + 1 / excess[-1]  # [grid, batch]
    k = torch.log1p(-b[:, None] * excess).mean(1)
    log_likelihood = tail * ((-b / k).log() - k - 1)
    posterior = log_likelihood.softmax(0)
    b = (b * posterior).sum(0)
    k = torch.log1p(-b * excess).mean(0)
    k = (tail * k + 5) / (tail + 10)
    return torch.where(constant, 0.0, k).to(log_weights.dtype)


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).mean(0)


def _code(site: traces.Site, parts: Sequence[Traces]) -> Tensor | None:
    if site.is_discrete:
        return None
    sites = [p.guide[site.name] for p in parts]
    return torch.cat([s.value if s.mean is None else s.mean for s in sites]).mean(0)


def _varies(code: Tensor) -> Tensor:
    if len(code) < 2:
        return torch.zeros(code.shape[1:], dtype=torch.bool)
    return code.var(0) > ACTIVE


def _discrete_images(drawn: Traces) -> bool:
    return all(
        site.is_discrete and len(site.event_shape) == 3
        for site in drawn.model.values()
        if site.is_observed
    )
