"""A pair that has met its data: how often it is run, what Pyro's own SVI sees of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, priors, programs
from pyrovae.traces import Problem

OWN = {  # runs of the model and of the guide that a verb's own numbers take
    "evaluate": (lambda vae, x: pv.evaluate(vae, x, 10), 1, 1),
    "elbo": (lambda vae, x: pv.elbo(vae, x, 10), 1, 1),
    "encode": (pv.encode, 0, 1),
    "reconstruct": (pv.reconstruct, 1, 1),
    "interpolate": (lambda vae, x: pv.interpolate(vae, x[:2], x[2:4], 8), 1, 2),
}


@pytest.mark.parametrize("verb", OWN)
def test_a_pair_that_has_met_its_data_is_run_for_a_verbs_own_numbers(verb: str) -> None:
    """At most twice beyond, and of interpolate's two ends for each of them."""
    torch.manual_seed(0)
    vae, x = pv.VAE((6,), 2), torch.bernoulli(torch.full((40, 6), 0.3))
    ask, of_model, of_guide = OWN[verb]
    ask(vae, x)
    runs = {"model": 0, "guide": 0}

    def count(name: str) -> Callable[..., None]:
        def called(module: nn.Module, inputs: object) -> None:
            runs[name] += 1

        return called

    vae.likelihood.register_forward_pre_hook(count("model"))
    vae.posterior.register_forward_pre_hook(count("guide"))
    ask(vae, x)
    assert runs["model"] <= of_model + 2 and runs["guide"] <= of_guide + 2, runs


def test_what_was_seen_is_held_against_later_runs() -> None:
    """Programs that change their sites after they were first met are seen anew."""
    twice = [False]

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if twice[0]:
                z = z + pyro.sample("more", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 6, 1.0))
            if twice[0]:
                pyro.sample("more", dist.Normal(x / 2, 1.5))

    torch.manual_seed(0)
    pair, x = pv.Pair(model, guide), torch.randn(8)
    for scale, changed in ((2.0, False), (6.0, True)):
        twice[0] = changed
        exact = dist.Normal(0.0, scale**0.5).log_prob(x)
        assert (pv.log_evidence(pair, x, 20_000) - exact).abs().max() < 0.05
        assert len(pv.evaluate(pair, x, 5).kl_sites) == 1 + changed


MADE = {
    "VAE": lambda: pv.VAE((6,), 2, likelihood=likelihoods.Bernoulli(networks.MLP([8]))),
    "mixture": lambda: pv.VAE((6,), 2, priors.Mixture(3), guide=guides.FullRank()),
    "MissingData": lambda: programs.MissingData(event_shape=(6,), latent_dim=2),
    "Hierarchical": lambda: programs.Hierarchical(event_shape=(6,), latent_dims=[2, 2]),
}
LOSSES = {
    "trace": Trace_ELBO,
    "analytic": TraceMeanField_ELBO,
    "beta": lambda: objectives.BetaELBO(2.0),
    "iwae": lambda: objectives.IWAE(3),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MADE)
def test_pyros_own_svi_trains_every_program(name: str, loss: str) -> None:
    """As pv.SVI does: every parameter moves, to the same values on the same noise."""
    x = torch.bernoulli(torch.full((20, 6), 0.5))
    found = []
    for kind, options in ((SVI, {}), (pv.SVI, {"compile": False})):
        pyro.clear_param_store()
        torch.manual_seed(0)
        vae = MADE[name]()
        before = [p.detach().clone() for p in vae.parameters()]
        svi = kind(vae.model, vae.guide, pyro.optim.SGD({"lr": 1e-3}), LOSSES[loss](), **options)
        torch.manual_seed(1)
        for _ in range(3):
            svi.step(x)
        assert not any(map(torch.equal, before, vae.parameters()))
        found.append([p.detach() for p in vae.parameters()])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_elbo_as_a_module_has_every_parameter() -> None:
    vae = pv.VAE((6,), 2)
    held = list(Trace_ELBO()(vae.model, vae.guide).parameters())
    assert {id(p) for p in held} == {id(p) for p in vae.parameters()}


def test_a_copy_is_trained_by_itself() -> None:
    """Pyro gives a second module of one name the first one's values; a copy has its own name."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    first, x = pv.VAE((6,), 2), torch.bernoulli(torch.full((20, 6), 0.5))
    second = copy.deepcopy(first)
    for vae in (first, second):
        before = [p.detach().clone() for p in vae.parameters()]
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
        assert not any(map(torch.equal, before, vae.parameters()))


def mixture(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": "parallel"})
        loc = torch.tensor([-1.0, 2.0])[k][..., None]
        z = pyro.sample("z", dist.Normal(loc.expand(*loc.shape[:-1], 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def mixture_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.8).to_event(1))


def test_a_value_that_the_model_sums_out_has_no_closed_form_of_its_own() -> None:
    """Its weights depend on z, so KL(q(z) || p(z|k)) cannot be averaged with them: BetaELBO is
    then the bound, as TraceEnum_ELBO has it, within 4 standard errors."""
    torch.manual_seed(0)
    x = torch.randn(6, 2)
    both = []
    for loss in (objectives.BetaELBO(), TraceEnum_ELBO(max_plate_nesting=1)):
        both.append(torch.tensor([loss.loss(mixture, mixture_guide, x) for _ in range(400)]))
    error = sum(values.var() / len(values) for values in both) ** 0.5
    assert abs(both[0].mean() - both[1].mean()) < 4 * error


@pytest.mark.slow
def test_a_global_counts_once_an_epoch() -> None:
    """The posterior of a mean of all data is as narrow in mini-batches as from all at once."""

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.positive)
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))

    torch.manual_seed(0)
    x = torch.randn(200)
    pair = pv.Pair(model, guide)
    pv.fit(pair, x, loss=TraceMeanField_ELBO(), epochs=150, batch_size=20, lr=0.03, progress=False)
    exact = (1 / (200 + 1 / 100)) ** 0.5
    assert abs(float(pair.params["scale"].detach().exp()) / exact - 1) < 0.15


def test_rows_side_by_side_are_those_of_single_runs() -> None:
    """Latents drawn for many particles lie as the model takes them, inner plates included."""

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("columns", 3, dim=-1):
                w = pyro.sample("w", dist.Normal(z, 1.0))
                pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("z", dist.Delta(x.sum(-1, keepdim=True)))
            with pyro.plate("columns", 3, dim=-1):
                pyro.sample("w", dist.Delta(10 * x))

    x = torch.arange(12.0).reshape(4, 3)
    problem = Problem.of(pv.Pair(model, guide), x)
    with problem.pair.evaluating():
        drawn = problem.particles((x,), 5)
    assert torch.equal(drawn["z"], x.sum(-1, keepdim=True).repeat(5, 1))
    assert torch.equal(drawn["w"], (10 * x).repeat(5, 1))
    assert torch.equal(problem.shape.by_datum("z", drawn["z"]), x.sum(-1).repeat(5))
    again = problem.shape.native("z", problem.shape.by_datum("z", drawn["z"]))
    assert torch.equal(again, drawn["z"])
    assert torch.allclose(pv.reconstruct(pv.Pair(model, guide), x, num_particles=3), 10 * x)


class Linear(nn.Module):
    """A pair whose scale weighs training, with a constant beside the data."""

    def __init__(self) -> None:
        super().__init__()
        self.decode, self.encode = nn.Linear(2, 3), nn.Linear(3, 2)

    def joint(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=3.0):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.LogNormal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.decode(z), s[..., None]).to_event(1))

    def model(self, x: Tensor) -> None:
        given = {"x": x, "s": torch.ones(len(x))}
        pyro.poutine.condition(self.joint, data=given)(x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=3.0):
            pyro.sample("z", dist.Normal(self.encode(x), 1.0).to_event(1))


def test_a_pair_that_was_used_is_pickled_and_varied() -> None:
    """The copy measures the same; of two observed sites the one of the data is varied, and what
    a scale does is said."""
    torch.manual_seed(0)
    linear, x = Linear(), torch.randn(30, 3)
    pair = pv.Pair(linear.model, linear.guide)
    found = pv.evaluate(pair, x, 5)
    assert any("weighs training" in note for note in found.notes)
    again = pickle.loads(pickle.dumps(pair))
    assert torch.equal(pv.elbo(again, x, 5), pv.elbo(pair, x, 5))
    assert pv.traverse(pair, x, steps=3)[0].shape[1:] == (3, 3)
