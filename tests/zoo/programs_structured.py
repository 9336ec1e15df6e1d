"""Series, scenes and mixtures: deep Markov models, AIR, Gaussian mixtures, hidden Markov models."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, init_to_value
from pyro.ops.indexing import Vindex
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo.cases import Case
from zoo.programs_vae import Gaussian, mlp


class DeepMarkov(nn.Module):
    """z_t given z_(t-1), x_t given z_t; a recurrent guide over each series read backwards.

    Args:
        flow: what the guide's normals are pushed through.
        cut: whether a batch's series end with its longest.
    """

    def __init__(self, flow: nn.Module | None = None, cut: bool = False) -> None:
        super().__init__()
        self.first, self.first_q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        self.transition, self.emitter = Gaussian(2, 2, 1.0), mlp([2, 5, 3])
        self.rnn, self.combiner = nn.LSTM(3, 4, batch_first=True), Gaussian(6, 2)
        self.flow, self.cut = flow, cut

    def shape(self, x, lengths):
        steps = int(lengths.max()) if self.cut else x.shape[1]
        return steps, torch.arange(x.shape[1]) < lengths[:, None]

    def model(self, x, lengths):
        pyro.module("dmm", self)
        steps, mask = self.shape(x, lengths)
        with pyro.plate("data", len(x)):
            z = self.first.expand(len(x), 2)
            for t in pyro.markov(range(steps)):
                loc, scale = self.transition(z)
                here = mask[:, t : t + 1]
                z_t = dist.Normal(z + loc, scale)
                z = pyro.sample(f"z_{t + 1}", z_t.mask(here).to_event(1))
                x_t = dist.Normal(self.emitter(z), 0.7).mask(here).to_event(1)
                pyro.sample(f"x_{t + 1}", x_t, obs=x[:, t])

    def guide(self, x, lengths):
        pyro.module("dmm", self)
        steps, mask = self.shape(x, lengths)
        backwards = (lengths[:, None] - 1 - torch.arange(x.shape[1])).clamp_min(0)
        turned = x.gather(1, backwards[..., None].expand_as(x))
        packed = pack_padded_sequence(turned, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.rnn(packed)[0], True, total_length=x.shape[1])
        hidden = hidden.gather(1, backwards[..., None].expand_as(hidden))
        with pyro.plate("data", len(x)):
            z = self.first_q.expand(len(x), 2)
            for t in pyro.markov(range(steps)):
                loc, scale = self.combiner(z, hidden[:, t])
                q = dist.Normal(z + loc, scale)
                if self.flow is None:
                    q = q.mask(mask[:, t : t + 1]).to_event(1)
                else:
                    q = dist.TransformedDistribution(q.to_event(1), [self.flow]).mask(mask[:, t])
                z = pyro.sample(f"z_{t + 1}", q)


def series():
    """Walks of unequal lengths, padded by zeros; the longest is not among the first."""
    lengths = torch.tensor([2, 3, 1, 3, 2, 3, 4, 2, 4, 1, 3, 4, 2, 4])
    x = 0.5 * torch.randn(14, 4, 3).cumsum(1) + 0.5 * torch.randn(14, 4, 3)
    return x * (torch.arange(4) < lengths[:, None])[..., None], lengths


def deep_markov():
    pair = DeepMarkov()
    return pair.model, pair.guide, series()


def deep_markov_iaf():
    pair = DeepMarkov(transforms.affine_autoregressive(2, hidden_dims=[5]), cut=True)
    return pair.model, pair.guide, series()


class Scene(nn.Module):
    """Up to two objects: each is there only where the one before it is, and then has a look."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.presence = mlp([2, 5, 4]), mlp([5, 5, 1])
        self.look = Gaussian(5, 2)

    def model(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            there, canvas = x.new_ones(len(x), 1), torch.zeros_like(x)
            for t in range(2):
                there = pyro.sample(f"present_{t}", dist.Bernoulli(0.6 * there).to_event(1))
                look = dist.Normal(x.new_zeros(len(x), 2), 1.0).mask(there.bool()).to_event(1)
                look = pyro.sample(f"what_{t}", look)
                canvas = canvas + there * self.decoder(look)
            pyro.sample("x", dist.Normal(canvas, 0.7).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            there, step = x.new_ones(len(x), 1), x.new_zeros(len(x), 1)
            for t in range(2):
                share = self.presence(torch.cat([x, step], -1)).sigmoid()
                there = pyro.sample(f"present_{t}", dist.Bernoulli(share * there).to_event(1))
                look = dist.Normal(*self.look(x, step)).mask(there.bool()).to_event(1)
                pyro.sample(f"what_{t}", look)
                step = step + 1


def scene():
    pair = Scene()
    return pair.model, pair.guide, scenes()


def scenes():
    count = torch.arange(20) % 3
    shapes = torch.randn(20, 2, 4) * (torch.arange(2) < count[:, None])[..., None]
    return shapes.sum(1) + 0.5 * torch.randn(20, 4)


class EnumeratedScene(nn.Module):
    """The same, presence a number per datum that is summed out."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.presence = mlp([2, 5, 4]), mlp([4, 5, 2])
        self.look = Gaussian(5, 2)

    def model(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            there, canvas = x.new_ones(()), torch.zeros_like(x)
            for t in range(2):
                there = pyro.sample(f"present_{t}", dist.Bernoulli(0.6 * there))
                mask = there.bool()
                look = dist.Normal(x.new_zeros(2), 1.0).to_event(1).mask(mask)
                look = pyro.sample(f"what_{t}", look)
                canvas = canvas + there[..., None] * self.decoder(look)
            pyro.sample("x", dist.Normal(canvas, 0.7).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("air", self)
        with pyro.plate("data", len(x)):
            there, shares = x.new_ones(()), self.presence(x).sigmoid()
            for t in range(2):
                q = dist.Bernoulli(shares[..., t] * there)
                there = pyro.sample(f"present_{t}", q, infer={"enumerate": "parallel"})
                loc, scale = self.look(x, x.new_full((1,), float(t)))
                look = dist.Normal(loc, scale).to_event(1).mask(there.bool())
                pyro.sample(f"what_{t}", look)


def enumerated_scene():
    pair = EnumeratedScene()
    return pair.model, pair.guide, scenes()


def mixture():
    """Weights, locations and a scale of all data, at points; assignments summed out."""

    @config_enumerate
    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(Vindex(locs)[..., assignment], scale), obs=x)

    values = {
        "weights": torch.tensor([0.4, 0.6]),
        "scale": torch.tensor(1.4),
        "locs": torch.tensor([-1.0, 2.0]),
    }
    hidden = poutine.block(model, expose=list(values))
    guide = AutoDelta(hidden, init_loc_fn=init_to_value(values=values))
    x = torch.cat([torch.randn(15) - 2, torch.randn(25) + 3])[torch.randperm(40)]
    guide(x)
    return model, guide, x


def amortised_mixture():
    """Cluster locations of all data under a normal guide, and a latent vector per datum about
    them; the classes are summed out in the model."""
    decoder, encoder = nn.Linear(2, 4), Gaussian(4, 2, 1.4)
    locs_loc = torch.tensor([[-1.5, 0.0], [1.5, 0.5]])

    def model(x):
        pyro.module("decoder", decoder)
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            even = torch.ones(2) / 2
            k = pyro.sample("k", dist.Categorical(even), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(Vindex(locs)[..., k, :], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.8).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        loc = pyro.param("locs_loc", locs_loc)
        pyro.sample("locs", dist.Normal(loc, 0.005).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return model, guide, torch.randn(12, 4)


STATES, STEPS = 3, 4


def hidden_markov_parameters():
    pyro.set_rng_seed(0)
    first = torch.tensor([0.5, 0.3, 0.2])
    move = torch.eye(STATES) * 0.6 + torch.tensor([[0.1, 0.2, 0.1]])
    return first, move / move.sum(-1, keepdim=True), torch.tensor([-1.5, 0.0, 2.0])


def hidden_markov():
    """Every state of every series is summed out; the guide is empty."""
    first, move, locs = hidden_markov_parameters()

    def model(x):
        simplex, positive = dist.constraints.simplex, dist.constraints.positive
        start = pyro.param("first", first, constraint=simplex)
        matrix = pyro.param("move", move, constraint=simplex)
        loc = pyro.param("locs", locs)
        scale = pyro.param("scale", torch.tensor(0.9), constraint=positive)
        with pyro.plate("data", len(x)):
            state = None
            for t in pyro.markov(range(STEPS)):
                p = start if state is None else Vindex(matrix)[..., state, :]
                infer = {"enumerate": "parallel"}
                state = pyro.sample(f"state_{t}", dist.Categorical(p), infer=infer)
                pyro.sample(f"x_{t}", dist.Normal(Vindex(loc)[..., state], scale), obs=x[:, t])

    def guide(x):
        """Nothing is left to guess."""

    return model, guide, locs[torch.randint(3, (16, STEPS))] + torch.randn(16, STEPS)


def hidden_markov_exact(x):
    """The forward algorithm."""
    state = torch.random.get_rng_state()
    first, move, locs = (t.double() for t in hidden_markov_parameters())
    torch.random.set_rng_state(state)
    seen = dist.Normal(locs, 0.9).log_prob(x.double()[..., None])
    log_p = first.log() + seen[:, 0]
    for t in range(1, STEPS):
        log_p = (log_p[..., None] + move.log()).logsumexp(1) + seen[:, t]
    return log_p.logsumexp(-1)


def sums_out():
    return TraceEnum_ELBO(max_plate_nesting=1)


CASES = [
    Case(
        "deep Markov model",
        deep_markov,
        like="DMM example: padded series, masks, an LSTM guide",
        latents=tuple(f"z_{t}" for t in range(1, 5)),
        observed={f"x_{t}": (0, t - 1) for t in range(1, 5)},
        refused={"impute": "observe"},
    ),
    Case(
        "deep Markov model, IAF",
        deep_markov_iaf,
        like="DMM example with `--num-iafs`, series cut at the batch's longest",
        latents=tuple(f"z_{t}" for t in range(1, 5)),
        observed={f"x_{t}": (0, t - 1) for t in range(1, 5)},
        refused={"impute": "observe", "interpolate": "one length", "explore": "one length"},
    ),
    Case(
        "AIR",
        scene,
        like="AIR example: objects that are masked where they are absent",
        latents=("present_0", "what_0", "present_1", "what_1"),
        discrete=("present_0", "present_1"),
    ),
    Case(
        "AIR, enumerated",
        enumerated_scene,
        like="AIR with its presences summed out",
        latents=("present_0", "what_0", "present_1", "what_1"),
        discrete=("present_0", "present_1"),
        enumerated=("present_0", "present_1"),
        loss=sums_out,
    ),
    Case(
        "Gaussian mixture",
        mixture,
        like="GMM tutorial: `AutoDelta`, `config_enumerate`",
        latents=(),
        globals=("weights", "scale", "locs"),
        enumerated=("assignment",),
        observed={"obs": 0},
        loss=sums_out,
    ),
    Case(
        "mixture of latents",
        amortised_mixture,
        like="global locations, a latent per datum, classes summed out in the model",
        globals=("locs",),
        enumerated=("k",),
        loss=sums_out,
    ),
    Case(
        "hidden Markov model",
        hidden_markov,
        like="HMM example: `pyro.markov`, states summed out",
        latents=(),
        enumerated=tuple(f"state_{t}" for t in range(STEPS)),
        observed={f"x_{t}": (0, t) for t in range(STEPS)},
        exact=hidden_markov_exact,
        loss=sums_out,
        refused={"impute": "observe"},
    ),
]
