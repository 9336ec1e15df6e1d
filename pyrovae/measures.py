"""Numbers of the codes: what they know of x, how they lie under the prior, what each unit means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.evaluation import CHUNK
from pyrovae.progress import shown, steps
from pyrovae.randomness import own_randomness, set_seed
from pyrovae.traces import Density, Problem

__all__ = ["Information", "disentanglement", "information"]

BINS = 20  # of a unit's values, as many of the same width (Locatello et al., 2019)


@dataclass(frozen=True)
class Information:
    """The two parts of the mean KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z)); nats.

    q(z) is the mean of q(z|x) over the data that there may be, of which N are known. With a
    datum's own q(z|x) among the N, I_q is too low in expectation (and at most log N); without it,
    too high (Poole et al., "On Variational Bounds of Mutual Information", 2019). Both are given.

    Attributes:
        kl: the mean KL, by one draw of each q(z|x).
        lower: of I_q(x; z), ``[N]``, one term per datum.
        upper: of I_q(x; z), ``[N]``.
    """

    kl: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def mutual_information(self) -> tuple[float, float]:
        """Bounds on I_q(x; z) in expectation."""
        return float(self.lower.mean()), float(self.upper.mean())

    @property
    def marginal_kl(self) -> tuple[float, float]:
        """Bounds on KL(q(z) || p(z)) in expectation; the lower one may be noise below 0."""
        return float((self.kl - self.upper).mean()), float((self.kl - self.lower).mean())

    def __str__(self) -> str:
        (low, high), (least, most) = self.mutual_information, self.marginal_kl
        count = len(self.kl)
        return (
            f"{count:,} data, nats: mean KL {float(self.kl.mean()):.2f} = I_q(x; z), "
            f"{low:.2f} to {high:.2f} (the lower bound is at most log N = {math.log(count):.2f}), "
            f"+ KL(q(z) || p(z)), {least:.2f} to {most:.2f}"
        )

    __repr__ = __str__


@shown("information")
def information(
    pair: object,
    x: object,
    *,
    plate: str | None = None,
    chunk_bytes: int = CHUNK,
    seed: int = 0,
    progress: bool = True,
) -> Information:
    """What the codes know of x, and how far they lie from the prior as a whole.

    One z of each datum, its log density under the guide of every datum: N^2 densities. Hoffman and
    Johnson, "ELBO Surgery", 2016; Makhzani et al., "Adversarial Autoencoders", 2016.

    Args:
        pair: a model and a guide whose density can be asked for at other points than its own
            draws; discrete sites that are enumerated are summed out.
        x: data, at least two; a thousand are enough where I_q is a few nats, and log N is the most
            that the lower bound says.
        plate: name of the plate over the data, where several follow the batch's size.
        chunk_bytes: most memory for the densities of a chunk, 128 MB by default.
        seed: of the draws.
        progress: a bar on a terminal or in a notebook, once it takes more than a second.

    Raises:
        UsageError: a global latent, a discrete one that is drawn, a guide with auxiliary variables
            or points, programs whose rows are tied, fewer than two data.

    >>> from pyrovae.vae import VAE
    >>> found = information(VAE((4,), 2), torch.bernoulli(torch.full((50, 4), 0.5)))
    >>> found.mutual_information[0] <= found.mutual_information[1], found.kl.shape
    (True, torch.Size([50]))
    """
    problem = Problem.of(pair, x, seed, plate)
    problem.shape.refuse_points()
    count = len(problem.data)
    if count < 2 or (problem.whole and problem.shape.tied):
        raise UsageError(
            "mutual information compares each datum's q(z|x) with the others': it takes two data "
            "or more, whose rows do not depend on one another"
        )
    with problem.pair.evaluating():
        set_seed(seed)
        parts = [_drawn(density) for density in _densities(problem, chunk_bytes)]
        u, own, prior = (torch.cat(part) for part in zip(*parts, strict=True))
        every = steps(
            _densities(problem, chunk_bytes),
            count,
            "densities",
            lambda density: len(density.batch[0]),
        )
        table = [_across(density, u, chunk_bytes) for density in every]
    log_q = torch.cat(table, 1).double()  # of the draw of each row, under the q of each column
    mixed = log_q.logsumexp(1) - math.log(count)
    others = log_q.fill_diagonal_(-torch.inf).logsumexp(1) - math.log(count - 1)
    own, prior = own.double(), prior.double()
    return Information(own - prior, own - mixed, own - others)


def _densities(problem: Problem, chunk_bytes: int) -> Iterator[Density]:
    for batch in problem.batches(min(256, problem.shape.rows_within(chunk_bytes, 8))):
        density = Density(problem, batch)
        if not density.guided:
            raise UsageError(
                "the guide draws its latents by way of others (auxiliary variables, points), so "
                "that its density at the draws of other data is not known"
            )
        yield density


def _drawn(density: Density) -> tuple[Tensor, Tensor, Tensor]:
    """A draw of each datum ``[batch, dims]``, and its log densities under its own q and the
    prior."""
    u = density.draw(1, "guide")
    prior = density.both(u, "prior")[1]
    return u[0], density.guide(u)[0], prior[0]


def _across(density: Density, u: Tensor, chunk_bytes: int) -> Tensor:
    """log q of the draws of all data ``[N, dims]`` given each of the batch, ``[N, batch]``."""
    size = len(density.batch[0])
    lines = max(2, density.shape.rows_within(chunk_bytes, size))
    parts = [density.guide(some[:, None].expand(-1, size, -1)).cpu() for some in u.split(lines)]
    return torch.cat(parts)


def disentanglement(codes: Tensor, factors: Tensor, *, seed: int = 0) -> dict[str, float]:
    """How far each unit of a code stands for one known factor of the data, from 0 to 1.

    ``mig``: the gap of the mutual information with the best and the second-best unit, over the
    factor's entropy (Chen et al., "Isolating Sources of Disentanglement in Variational
    Autoencoders", 2018), by 20 bins, which is too large by about 20 x classes / 2N nats in each
    term. ``sap``: the gap of the accuracy of linear classifiers that see one unit each (Kumar et
    al., "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", 2018).
    ``dci_disentanglement``, ``dci_completeness``: one less the entropy of the importance of units
    for factors, over the factors and over the units; ``dci_informativeness``: the accuracy of the
    forests that say so, on data held out (Eastwood and Williams, "A Framework for the Quantitative
    Evaluation of Disentangled Representations", 2018).

    Args:
        codes: ``[N, units]``, such as ``pv.encode(pair, x)``.
        factors: ``[N, factors]``, whole numbers, the classes of each factor.
        seed: of the forests, and of the half that is held out.

    >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(30, 1)
    >>> found = disentanglement(factors.float(), factors)
    >>> {name: round(value, 2) for name, value in found.items() if name != "sap"}
    {'mig': 1.0, 'dci_disentanglement': 1.0, 'dci_completeness': 1.0, 'dci_informativeness': 1.0}
    """
    if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors) or len(codes) < 4:
        raise UsageError(
            f"codes must be [N, units] and factors [N, factors] of the same data, at least 4; got "
            f"{list(codes.shape)}, {list(factors.shape)}"
        )
    if factors.is_floating_point() and bool((factors != factors.round()).any()):
        raise UsageError("factors must be whole numbers, the classes of each factor; bin others")
    with own_randomness(seed):
        order = torch.randperm(len(codes))
    codes, factors = codes[order].cpu().double(), factors[order].cpu().long()
    constant = [k for k in range(factors.shape[1]) if len(factors[:, k].unique()) < 2]
    if constant:
        raise UsageError(f"factor {constant[0]} is the same in all data, so no unit can tell it")
    scores = {"mig": _mig(codes, factors), "sap": _sap(codes, factors)}
    return scores | _dci(codes, factors, seed)


def _gap(scores: Tensor) -> Tensor:
    """The best less the second-best unit, ``[units, factors]`` -> ``[factors]``."""
    best = scores.topk(min(2, len(scores)), 0).values
    return best[0] - best[1] if len(best) > 1 else best[0]


def _mig(codes: Tensor, factors: Tensor) -> float:
    from sklearn.metrics import mutual_info_score

    low, high = codes.amin(0), codes.amax(0)
    bins = ((codes - low) / (high - low).clamp_min(1e-12) * BINS).long().clamp_max(BINS - 1)
    units, classes = bins.T.numpy(), factors.T.numpy()
    shared = torch.tensor([[mutual_info_score(v, u) for v in classes] for u in units])
    entropy = torch.tensor([mutual_info_score(v, v) for v in classes])
    return float((_gap(shared) / entropy).mean())


def _sap(codes: Tensor, factors: Tensor) -> float:
    from sklearn.svm import LinearSVC

    half = len(codes) // 2
    scaled = ((codes - codes.mean(0)) / codes.std(0).clamp_min(1e-12)).numpy()
    scores = torch.zeros(codes.shape[1], factors.shape[1])
    for k, factor in enumerate(factors.T.numpy()):
        for j in range(codes.shape[1]):
            unit = scaled[:, j : j + 1]
            machine = LinearSVC(class_weight="balanced", dual="auto").fit(
                unit[:half], factor[:half]
            )
            scores[j, k] = machine.score(unit[half:], factor[half:])
    return float(_gap(scores).mean())


def _dci(codes: Tensor, factors: Tensor, seed: int) -> dict[str, float]:
    from sklearn.ensemble import RandomForestClassifier

    half, columns, right = len(codes) // 2, [], []
    for factor in factors.T.numpy():
        forest = RandomForestClassifier(50, random_state=seed, max_features=None)
        forest.fit(codes[:half].numpy(), factor[:half])
        columns.append(torch.as_tensor(forest.feature_importances_))
        right.append(forest.score(codes[half:].numpy(), factor[half:]))
    importance = torch.stack(columns, 1)  # [units, factors]
    return {
        "dci_disentanglement": _one_sided(importance),
        "dci_completeness": _one_sided(importance.T),
        "dci_informativeness": sum(right) / len(right),
    }


def _one_sided(importance: Tensor) -> float:
    """The mean over rows of 1 - entropy of a row, weighed by the rows' importance."""
    if importance.shape[1] < 2:
        return 1.0
    shares = importance / importance.sum(1, keepdim=True).clamp_min(1e-12)
    entropy = -torch.special.xlogy(shares, shares).sum(1) / math.log(importance.shape[1])
    weights = importance.sum(1) / importance.sum()
    return float((weights * (1 - entropy)).sum())
