"""Series: chains summed out, chains of real latents, lengths that differ from batch to batch."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from zoo.cases import Case
from zoo.closed_forms import gaussian, normal, plane, seeded

Program = Callable[..., None]


def summed_out() -> TraceEnum_ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1)


INITIAL = torch.tensor([0.6, 0.4])
TRANSITIONS = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
LOCS = torch.tensor([-1.0, 1.5])


@seeded
def make_hmm() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """Hidden Markov model with Gaussian emissions, its states summed out in parallel; series of
    several lengths, padded with zeros and masked. The guide is empty."""

    def model(x: Tensor, lengths: Tensor) -> None:
        simplex = dist.constraints.simplex
        initial = pyro.param("initial", INITIAL, constraint=simplex)
        transitions = pyro.param("transitions", TRANSITIONS, constraint=simplex)
        locs = pyro.param("locs", LOCS.clone())
        state: Tensor | None = None
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < lengths):
                    probs = initial if state is None else transitions[state]
                    state = pyro.sample(
                        f"state_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"}
                    )
                    pyro.sample(f"x_{t}", dist.Normal(locs[state], 1.0), obs=x[:, t])

    def guide(x: Tensor, lengths: Tensor) -> None:
        pass

    states = torch.zeros(15, 4, dtype=torch.long)
    states[:, 0] = dist.Categorical(INITIAL).sample((15,))
    for t in range(1, 4):
        states[:, t] = dist.Categorical(TRANSITIONS[states[:, t - 1]]).sample()
    lengths = torch.tensor([4, 3, 2] * 5)
    there = torch.arange(4) < lengths[:, None]
    return model, guide, (torch.where(there, LOCS[states] + torch.randn(15, 4), 0.0), lengths)


def exact_hmm(data: tuple[Tensor, Tensor]) -> Tensor:
    """The forward recursion, series by series."""
    x, lengths = data[0].double(), data[1]
    found = []
    for series, length in zip(x, lengths.tolist(), strict=True):
        alpha = INITIAL.double().log()
        for t, value in enumerate(series[:length]):
            if t:
                alpha = (alpha[:, None] + TRANSITIONS.double().log()).logsumexp(0)
            alpha = alpha + normal(value, LOCS.double(), 1.0)
        found.append(alpha.logsumexp(0))
    return torch.stack(found)


SURVIVAL, DETECTION = 0.8, 0.6


def _captures(n: int, occasions: int) -> Tensor:
    alive, first = torch.ones(n), torch.arange(n) % (occasions - 1)
    seen = torch.zeros(n, occasions)
    for t in range(occasions):
        alive = torch.where(t > first, alive * torch.bernoulli(torch.full((n,), SURVIVAL)), alive)
        again = torch.bernoulli(alive * DETECTION)
        seen[:, t] = torch.where(t == first, 1.0, torch.where(t > first, again, 0.0))
    return seen


def _survive(x: Tensor, survival: Tensor, detection: Tensor) -> None:
    """What both capture-recapture models share: conditional on first capture, alive or dead is
    a chain that is summed out."""
    with pyro.plate("data", len(x)):
        alive, marked = torch.ones(len(x)), torch.zeros(len(x), dtype=torch.bool)
        for t in pyro.markov(range(x.shape[1])):
            if t:
                with poutine.mask(mask=marked):
                    alive = pyro.sample(
                        f"alive_{t}",
                        dist.Bernoulli(torch.where(marked, survival * alive, 1.0)),
                        infer={"enumerate": "parallel"},
                    )
                    pyro.sample(f"seen_{t}", dist.Bernoulli(detection * alive), obs=x[:, t])
            marked = marked | x[:, t].bool()


@seeded
def make_capture_recapture() -> tuple[Program, Program, Tensor]:
    """Cormack-Jolly-Seber with parameters for survival and detection: rows are animals."""
    unit = dist.constraints.unit_interval

    def model(x: Tensor) -> None:
        survival = pyro.param("survival", torch.tensor(SURVIVAL), constraint=unit)
        detection = pyro.param("detection", torch.tensor(DETECTION), constraint=unit)
        _survive(x, survival, detection)

    def guide(x: Tensor) -> None:
        pass

    return model, guide, _captures(20, 4)


@seeded
def make_capture_recapture_bayes() -> tuple[Program, Program, Tensor]:
    """The same with a posterior over survival and detection, which all animals share."""
    positive = dist.constraints.positive

    def model(x: Tensor) -> None:
        survival = pyro.sample("survival", dist.Beta(2.0, 1.0))
        detection = pyro.sample("detection", dist.Beta(1.0, 1.0))
        _survive(x, survival, detection)

    def guide(x: Tensor) -> None:
        for name, counts in (("survival", [14.0, 4.0]), ("detection", [10.0, 7.0])):
            a, b = pyro.param(f"{name} counts", torch.tensor(counts), constraint=positive)
            pyro.sample(name, dist.Beta(a, b))

    return model, guide, _captures(20, 4)


def _history(series: Tensor, survival: Tensor, detection: Tensor) -> Tensor:
    """log p of the captures after the first, the two states carried along."""
    first = int(series.nonzero()[0])
    alive, dead = torch.ones_like(survival), torch.zeros_like(survival)
    for seen in series[first + 1 :]:
        alive, dead = alive * survival, dead + alive * (1 - survival)
        alive, dead = (alive * detection, dead * 0) if seen else (alive * (1 - detection), dead)
    return (alive + dead).log()


def exact_capture_recapture(x: Tensor) -> Tensor:
    survival, detection = torch.tensor([SURVIVAL, DETECTION]).double()
    return torch.stack([_history(series, survival, detection) for series in x])


def exact_capture_recapture_bayes(x: Tensor) -> Tensor:
    """log p of all rows together, over the unit square."""

    def log_density(survival: Tensor, detection: Tensor) -> Tensor:
        rows = torch.stack([_history(series, survival, detection) for series in x])
        return rows.sum(0) + (2 * survival).log()

    return plane(log_density, 0.0, 1.0)[0]


def _local_level(steps: int) -> Tensor:
    """Covariance of a series: a first level, a random walk of drifts, noise."""
    t = torch.arange(1, steps + 1).double()
    return 0.01 * torch.minimum(t, t[:, None]) + torch.eye(steps).double() + 1.0


@seeded
def make_local_level() -> tuple[Program, Program, Tensor]:
    """A forecaster's local level: drifts in a plate over time inside the plate over the series,
    their sum the level. The guide is the best mean-field one."""
    steps = 6
    # x = level + A drift + noise with all of it standard normal: posterior by precision
    design = torch.cat([torch.ones(steps, 1), 0.1 * torch.ones(steps, steps).tril()], 1)
    precision = design.T @ design + torch.eye(steps + 1)
    weight = precision.inverse() @ design.T
    scales = precision.diagonal().rsqrt()

    def model(x: Tensor) -> None:
        data = pyro.plate("data", len(x), dim=-2)
        time = pyro.plate("time", x.shape[-1], dim=-1)
        with data:
            level = pyro.sample("level", dist.Normal(x.new_zeros(1), 1.0))
        with data, time:
            drift = pyro.sample("drift", dist.Normal(0.0, 1.0))
            noise = pyro.param("noise", torch.tensor(1.0), constraint=dist.constraints.positive)
            pyro.sample("x", dist.Normal(level + 0.1 * drift.cumsum(-1), noise), obs=x)

    def guide(x: Tensor) -> None:
        loc = x @ pyro.param("weight", weight).T
        scale = pyro.param("scales", scales, constraint=dist.constraints.positive)
        data = pyro.plate("data", len(x), dim=-2)
        time = pyro.plate("time", x.shape[-1], dim=-1)
        with data:
            pyro.sample("level", dist.Normal(loc[:, :1], scale[:1]))
        with data, time:
            pyro.sample("drift", dist.Normal(loc[:, 1:], scale[1:]))

    x = dist.MultivariateNormal(torch.zeros(steps), _local_level(steps).float()).sample((16,))
    return model, guide, x


def exact_local_level(x: Tensor) -> Tensor:
    return gaussian(x, _local_level(x.shape[1]))


def _walks() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([2, 3, 2, 6, 4, 5] * 4)
    x = torch.randn(24, 6).cumsum(1) + 0.8 * torch.randn(24, 6)
    return torch.where(torch.arange(6) < lengths[:, None], x, 0.0), lengths


def _backward(x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of the message that x_t, x_{t+1}, ... send to z_t, step by step: what
    makes p(z_t | z_{t-1}, x) a normal that the guide can have."""
    messages: list[tuple[Tensor, Tensor]] = []
    precision, shift = torch.zeros(len(x)), torch.zeros(len(x))
    for t in reversed(range(x.shape[1])):
        there = (t < lengths).float()
        # the message of the step after this one, through z_{t+1} = z_t + noise
        passed = 1 / (1 + precision)
        precision, shift = precision * passed, shift * passed
        precision, shift = precision + there / 0.64, shift + there * x[:, t] / 0.64
        messages.append((precision, shift))
    return messages[::-1]


@seeded
def make_ragged() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """A random walk under noise, cut at the batch's longest series: which sites there are, z_0 to
    z_T, depends on the batch. The first five rows are shorter than the sixth."""

    def model(x: Tensor, lengths: Tensor) -> None:
        noise = pyro.param("noise", torch.tensor(0.8), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x))
            for t in range(int(lengths.max())):
                with poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", dist.Normal(z, 1.0))
                    pyro.sample(f"x_{t}", dist.Normal(z, noise), obs=x[:, t])

    def guide(x: Tensor, lengths: Tensor) -> None:
        width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = x.new_zeros(len(x))
            for t, (precision, shift) in enumerate(_backward(x[:, : int(lengths.max())], lengths)):
                with poutine.mask(mask=t < lengths):
                    variance = 1 / (1 + precision)
                    fn = dist.Normal((z + shift) * variance, variance.sqrt() * width)
                    z = pyro.sample(f"z_{t}", fn)

    return model, guide, _walks()


def exact_walks(data: tuple[Tensor, Tensor]) -> Tensor:
    """Each series under the covariance of its length."""
    found = []
    for series, length in zip(data[0], data[1].tolist(), strict=True):
        t = torch.arange(1, length + 1).double()
        covariance = torch.minimum(t, t[:, None]) + 0.64 * torch.eye(length).double()
        found.append(gaussian(series[:length], covariance))
    return torch.stack(found)


class Packs:
    """Batches of (padded series, lengths, the series reversed and packed), as a collate function
    hands them to a recurrent guide."""

    def __init__(self, x: Tensor, lengths: Tensor) -> None:
        self.x, self.lengths = x, lengths

    def loader(self, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
        dataset = TensorDataset(self.x, self.lengths)
        return DataLoader(dataset, batch_size, collate_fn=self.collate)

    @staticmethod
    def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, PackedSequence]:
        x, lengths = (torch.stack(column) for column in zip(*rows, strict=True))
        packed = pack_padded_sequence(x[..., None], lengths, batch_first=True, enforce_sorted=False)
        return x, lengths, packed


@seeded
def make_packed() -> tuple[Program, Program, DataLoader[tuple[Tensor, ...]]]:
    """Tensors beside a PackedSequence: one latent per series, a recurrent guide, a DataLoader."""
    rnn, head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 2)

    def model(x: Tensor, lengths: Tensor, packed: PackedSequence) -> None:
        there = torch.arange(x.shape[1]) < lengths[:, None]
        with pyro.plate("data", len(x)):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            fn = dist.Normal(level[..., None], 0.8).mask(there).to_event(1)
            pyro.sample("x", fn, obs=x)

    def guide(x: Tensor, lengths: Tensor, packed: PackedSequence) -> None:
        states = pad_packed_sequence(rnn(packed)[0], batch_first=True)[0]
        loc, log_scale = (0.1 * head(states.sum(1))).unbind(-1)
        precision = 1 + lengths / 0.64
        with pyro.plate("data", len(x)):
            loc = loc + x.sum(1) / 0.64 / precision
            pyro.sample("level", dist.Normal(loc, log_scale.exp() * precision**-0.5))

    lengths = torch.tensor([5, 3, 4, 2] * 5)
    x = torch.randn(20, 1) + 0.8 * torch.randn(20, 5)
    x = torch.where(torch.arange(5) < lengths[:, None], x, 0.0)
    return model, guide, Packs(x, lengths).loader(5)


def exact_packed(data: DataLoader[tuple[Tensor, ...]]) -> Tensor:
    found = []
    for x, lengths, _ in data:
        for series, length in zip(x, lengths.tolist(), strict=True):
            covariance = 1.0 + 0.64 * torch.eye(length).double()
            found.append(gaussian(series[:length], covariance))
    return torch.stack(found)


CASES = [
    Case(
        "HMM",
        make_hmm,
        like="`hmm.py`: states summed out, padded series, `poutine.mask`",
        latents=(),
        enumerated=tuple(f"state_{t}" for t in range(4)),
        observed={f"x_{t}": (0, t) for t in range(4)},
        exact=exact_hmm,
        exact_guide=True,
        loss=summed_out,
    ),
    Case(
        "capture-recapture",
        make_capture_recapture,
        like="`capture_recapture/cjs.py`, parameters",
        latents=(),
        enumerated=tuple(f"alive_{t}" for t in range(1, 4)),
        observed={f"seen_{t}": (0, t) for t in range(1, 4)},
        exact=exact_capture_recapture,
        exact_guide=True,
        loss=summed_out,
        hide=None,
    ),
    Case(
        "capture-recapture, Bayesian",
        make_capture_recapture_bayes,
        like="`capture_recapture/cjs.py`, survival and detection latent",
        latents=(),
        globals=("survival", "detection"),
        enumerated=tuple(f"alive_{t}" for t in range(1, 4)),
        observed={f"seen_{t}": (0, t) for t in range(1, 4)},
        loss=summed_out,
        hide=None,
    ),
    Case(
        "local level",
        make_local_level,
        like="a forecaster: drifts in a plate over time",
        latents=("level", "drift"),
        exact=exact_local_level,
        lr=1e-3,
        falls=False,
        refused={"exact_log_evidence": "plate over the data"},
    ),
    Case(
        "ragged series",
        make_ragged,
        like="`dmm.py`: sites up to the batch's longest series",
        latents=tuple(f"z_{t}" for t in range(6)),
        observed={f"x_{t}": (0, t) for t in range(6)},
        exact=exact_walks,
        exact_guide=True,
        lr=1e-4,
        falls=False,
        refused={"explore": "one length"},
    ),
]
