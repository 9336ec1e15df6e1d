"""Numbers against closed forms; evaluation that changes nothing; mistakes that speak."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import numpy as np
import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PPCA, Bed
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.evaluation import pareto_khat

X = pairs.data(6, 5, dtype=torch.float64)


@pytest.mark.parametrize("make", pairs.BEDS, ids=lambda f: f.__name__)
def test_log_evidence(make: Callable[[], Bed]) -> None:
    bed = make()
    found = pv.evaluate(bed.pair, bed.args[0], 10_000)
    # the delta method: var(log mean w) = (K / ess - 1) / K; no error where all is summed out
    ess = torch.full_like(found.elbo, 10_000) if found.ess is None else found.ess
    error = ((10_000 / ess - 1).clamp_min(0) / 10_000).sqrt()
    assert ((found.log_evidence - bed.log_evidence).abs() < 4 * error + 1e-4).all()
    assert (found.log_evidence >= found.elbo - 1e-4).all()
    torch.testing.assert_close(
        pv.log_evidence(bed.pair, bed.args[0], 10_000), found.log_evidence.float(), rtol=1e-4,
        atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("make", pairs.BEDS, ids=lambda f: f.__name__)
def test_the_terms_of_the_bound_add_up_to_it(make: Callable[[], Bed]) -> None:
    """But for the sampling error of their particles: within 5 of its standard errors."""
    bed = make()
    each = [pv.evaluate(bed.pair, bed.args[0], 300, seed=seed) for seed in range(12)]
    left = torch.stack([(e.reconstruction - e.kl - e.elbo).double().sum() for e in each])
    assert left.mean().abs() <= 5 * left.std() / 12**0.5 + 1e-3


def test_reconstruction_is_the_mean_of_log_p_x_given_z() -> None:
    """Of data that do not depend on z it is exact, whatever the particles are."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(x.new_zeros(5), 2.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 0.5).to_event(1))

    found = pv.evaluate(pv.Pair(model, guide), X, 3)
    exact = -0.5 * (X / 2).square().sum(1) - 5 * math.log(2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(found.reconstruction, exact.to(found.reconstruction.dtype))


def test_exact_guide_to_1e_4() -> None:
    """ELBO = log evidence, KL by the textbook formula, all gaps zero, weights constant."""
    bed = PPCA("exact").double()
    exact = bed.log_evidence(X).detach()
    found = pv.evaluate(bed, X, 100)
    torch.testing.assert_close(found.elbo, exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.log_evidence, exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.kl, bed.kl(X, diagonal=False).detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.ess, torch.full((6,), 100.0).double(), rtol=1e-4, atol=0)
    assert (found.khat == 0).all()
    gap = pv.gap(bed, X, 200)
    for part in (gap.amortisation, gap.approximation):
        torch.testing.assert_close(part, torch.zeros(6).double(), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_gap_report(scale: float) -> None:
    """A diagonal guide of the wrong scale: refining it finds the best diagonal one exactly."""
    bed = PPCA("diagonal", scale=scale).double()
    exact = bed.log_evidence(X).detach()
    gap = pv.gap(bed, X, 20_000)
    torch.testing.assert_close(gap.refined, exact - bed.diagonal_gap(), rtol=0, atol=1e-4)
    # scaling every posterior scale by s adds d (s^2 - 1 - 2 ln s) / 2 nats
    wrong = 2 * (scale**2 - 1 - 2 * math.log(scale)) / 2
    torch.testing.assert_close(
        gap.elbo, exact - bed.diagonal_gap() - wrong, rtol=0, atol=1e-4
    )  # fmt: skip
    assert ((gap.log_evidence - exact).abs() < 0.02).all()
    torch.testing.assert_close(gap.elbo + gap.amortisation + gap.approximation, gap.log_evidence)
    assert all(p.requires_grad for p in bed.parameters())


def test_closed_form_kl() -> None:
    bed = PPCA("diagonal").double()
    found = pv.evaluate(bed, X, 10)
    torch.testing.assert_close(found.kl, bed.kl(X, diagonal=True).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        found.kl_dimensions["z"].sum(), found.kl.mean(), rtol=1e-10, atol=1e-10
    )


def test_collapse_and_khat_verdicts() -> None:
    x = pairs.data(400, 5, dtype=torch.float64)
    good = pv.evaluate(PPCA("diagonal").double(), x, 1000)
    narrow = pv.evaluate(PPCA("diagonal", scale=0.3).double(), x, 1000)
    assert good.active_units == 2 and "2 of 2" in good.verdict
    assert (good.khat < 0.7).double().mean() > 0.99
    assert (narrow.khat > 0.7).double().mean() > 0.7 and narrow.khat.median() > 0.8

    class Collapsed(PPCA):
        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    collapsed = pv.evaluate(Collapsed().double(), x, 10)
    assert collapsed.active_units == 0 and collapsed.verdict.startswith("collapsed")


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_khat_recovers_the_tail(k: float) -> None:
    """Weights from a Pareto of known shape, and the fit of an implementation not our own."""
    torch.manual_seed(0)
    weights = dist.GeneralizedPareto(0.0, 1.0, k).sample((20_000, 8)).double()
    found = pareto_khat(weights.log())
    assert (found - k).abs().max() < 0.35 and (found.mean() - k).abs() < 0.1
    tail = math.ceil(3 * math.sqrt(20_000))
    for column in range(3):
        ordered = weights[:, column].sort().values
        excess = ordered[-tail:] - ordered[-tail - 1]
        theirs, _ = fit_generalized_pareto(excess)
        # Pyro's fit has no weak prior; ours shrinks (n k + 5) / (n + 10)
        assert abs(float(found[column]) - (tail * theirs + 5) / (tail + 10)) < 0.02


def test_khat_needs_a_tail() -> None:
    assert pareto_khat(torch.randn(20, 3)).isnan().all()
    assert (pareto_khat(torch.zeros(200, 3)) == 0).all()


@pytest.mark.slow
def test_evaluating_changes_nothing() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.net(x).chunk(2, -1)

    vae = pv.VAE((4,), 2, guide=pv.guides.MeanField(Split()))
    net[2].eval()  # a mixture of modes, to be found again as it was
    x = torch.bernoulli(torch.rand(30, 4))
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    modes = [module.training for module in vae.modules()]
    random_states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    validating = torch.distributions.Distribution._validate_args
    first = pv.evaluate(vae, x, 20)
    pv.elbo(vae, x), pv.log_evidence(vae, x, 5), pv.gap(vae, x, 50, steps=3)
    (
        pv.sample(vae, 3),
        pv.reconstruct(vae, x),
        pv.traverse(vae, x),
        pv.calibrate(vae, simulations=50),
    )
    assert all(torch.equal(state[name], value) for name, value in vae.state_dict().items())
    assert modes == [module.training for module in vae.modules()]
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (np.random.get_state()[1] == random_states[1]).all()
    assert random.getstate() == random_states[2]
    assert torch.distributions.Distribution._validate_args == validating
    assert all(p.grad is None for p in vae.parameters())
    torch.testing.assert_close(pv.evaluate(vae, x, 20).elbo, first.elbo, rtol=0, atol=0)


def labelled() -> tuple[object, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(7, 4), nn.Linear(5, 4)

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            y = y.expand(*z.shape[:-1], y.shape[-1])
            pyro.sample("x", dist.Normal(decoder(torch.cat([z, y], -1)), 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, raw = encoder(torch.cat([x, y], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    y = torch.nn.functional.one_hot(torch.arange(12) % 3, 3).float()
    return pv.Pair(model, guide), (pairs.data(12, 4), y)


def registered() -> tuple[object, tuple[Tensor, ...]]:
    pair, (x, _) = labelled()
    zeros = torch.zeros(1, 3)
    return (
        pv.Pair(
            lambda x: pair.model(x, zeros.expand(len(x), 3)),
            lambda x: pair.guide(x, zeros.expand(len(x), 3)),
        ),
        (x,),
    )


def pyro_module() -> tuple[object, tuple[Tensor, ...]]:
    from pyro.nn import PyroModule, PyroParam

    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder = PyroModule[nn.Linear](4, 4)
            self.decoder = PyroModule[nn.Linear](2, 4)
            self.noise = PyroParam(torch.tensor(0.8), constraint=dist.constraints.positive)

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                loc, raw = self.encoder(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return Model(), (pairs.data(12, 4),)


def two_layers() -> tuple[object, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    nets = nn.ModuleDict({k: nn.Linear(2, 2) for k in ("p1", "px", "q1", "q2")})

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(nets["p1"](z2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(nets["px"](z1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(nets["q1"](x), 0.7).to_event(1))
            pyro.sample("z2", dist.Normal(nets["q2"](z1), 0.7).to_event(1))

    return pv.Pair(model, guide), (pairs.data(12, 2),)


def missing() -> tuple[object, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    x = pairs.data(12, 4)
    x[3, 1] = x[5] = math.nan
    vae = pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))
    return vae, (x,)


def with_global() -> tuple[object, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    encoder = nn.Linear(4, 4)

    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.cat([z, z], -1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample(
            "mu", dist.Normal(torch.zeros(2), pyro.param("s", torch.tensor(0.3))).to_event(1)
        )
        with pyro.plate("data", len(x)):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    return pv.Pair(model, guide), (pairs.data(12, 4),)


def declarative() -> tuple[object, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return pv.VAE((4,), 2), (torch.bernoulli(torch.rand(12, 4)),)


KINDS = (declarative, registered, pyro_module, labelled, two_layers, missing, with_global)


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS, ids=lambda f: f.__name__)
def test_the_same_calls_work_on_every_kind_of_pair(
    make: Callable[[], tuple[object, tuple[Tensor, ...]]],
) -> None:
    pair, args = make()
    data = args if len(args) > 1 else args[0]
    n, event = len(args[0]), args[0].shape[1:]
    found = pv.evaluate(pair, data, 30)
    assert found.elbo.shape == (n,) and found.elbo.isfinite().all()
    torch.testing.assert_close(pv.elbo(pair, data, 30), found.elbo)
    assert json.loads(json.dumps(found.to_dict()))["data"] == n
    assert "ELBO" in str(found) and found.units > 0
    if make is with_global:
        with pytest.raises(pv.UsageError, match="mu lie outside the plate"):
            pv.log_evidence(pair, data)
        assert found.log_evidence is None and "counted once" in found.notes[0]
    else:
        assert (found.log_evidence >= found.elbo).all()
        assert pv.gap(pair, data, 100, steps=5).amortisation.shape == (n,)
        ranks = pv.calibrate(pair, data, simulations=40).ranks
        assert ranks.shape == (40, found.units)
    assert pv.sample(pair, 3, like=data).shape == (3, *event)
    assert pv.reconstruct(pair, data).shape == (n, *event)
    assert pv.reconstruct(pair, data, draws=2).shape == (2, n, *event)
    assert pv.reconstruct(pair, data).isfinite().all()
    half = tuple(a[:2] for a in args) if len(args) > 1 else data[:2]
    assert pv.interpolate(pair, half, half, 5).shape == (2, 5, *event)
    assert pv.impute(pair, data, num_particles=20).isfinite().all()
    code = pv.encode(pair, data)
    for values in code.values() if isinstance(code, dict) else [code]:
        assert len(values) == n and values.isfinite().all()
    indices, distances = pv.neighbours(pair, data, data, 2)
    assert indices.shape == distances.shape == (n, 2)


def test_missing_entries_are_left_out_exactly() -> None:
    """With entries missing, the evidence is that of the observed entries' marginal."""
    bed = PPCA("exact", d=5).double()
    x = X.clone()
    x[:, 1] = math.nan
    seen = [0, 2, 3, 4]
    covariance = (bed.w @ bed.w.T + bed.noise**2 * torch.eye(5)).detach()[seen][:, seen]
    exact = dist.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x[:, seen])
    found = pv.evaluate(bed, x, 20_000)
    error = ((20_000 / found.ess - 1).clamp_min(0) / 20_000).sqrt()
    assert ((found.log_evidence - exact).abs() < 4 * error + 1e-4).all()
    # nothing missing: the same numbers as without the machinery
    torch.testing.assert_close(
        pv.evaluate(bed, X, 10).elbo, bed.log_evidence(X).detach(), rtol=0, atol=1e-4
    )


def test_a_missing_datum_of_one_number() -> None:
    """Nothing is observed of it, so its evidence is log 1; the others' stay exact."""
    bed = pairs.mixture_in_model()
    x = bed.args[0].clone()
    x[2] = math.nan
    found = pv.log_evidence(bed.pair, x, 10)
    expected = torch.where(x.isnan(), 0.0, bed.log_evidence)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_loader_that_drops_its_last_batch() -> None:
    from torch.utils.data import DataLoader, TensorDataset

    vae = pv.VAE((4,), 2)
    x = torch.bernoulli(torch.rand(10, 4))
    loader = DataLoader(TensorDataset(x), batch_size=4, drop_last=True)
    found = pv.evaluate(vae, loader, 5)
    assert len(found.elbo) == 8 and found.elbo.isfinite().all()
    assert len(pv.elbo(vae, loader)) == len(pv.log_evidence(vae, loader, 5)) == 8


def test_bits_per_dimension() -> None:
    vae = pv.VAE((1, 2, 2), 2)
    x = torch.bernoulli(torch.rand(5, 1, 2, 2))
    found = pv.evaluate(vae, x, 50)
    torch.testing.assert_close(
        found.bits_per_dimension, -found.log_evidence / (4 * math.log(2)), rtol=1e-6, atol=0
    )
    real = pv.VAE((1, 2, 2), 2, likelihood=pv.likelihoods.Normal())
    assert pv.evaluate(real, x, 50).bits_per_dimension is None  # densities are not code lengths


def test_chunks_do_not_change_the_numbers() -> None:
    bed = pairs.ppca()
    whole = pv.evaluate(bed.pair, bed.args[0], 50)
    small = pv.evaluate(bed.pair, bed.args[0], 50, chunk_bytes=1)
    torch.testing.assert_close(whole.log_evidence, small.log_evidence, rtol=0, atol=1e-4)
    torch.testing.assert_close(whole.kl, small.kl, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: pv.evaluate(object(), torch.zeros(3)), "expected a pair"),
        (lambda: pv.evaluate(pv.VAE((4,), 2), torch.zeros(3, 4), 0), "at least 1, got 0"),
        (lambda: pv.evaluate(pv.VAE((4,), 2), torch.full((3, 4), 0.5)), "Binarise them"),
        (lambda: pv.evaluate(pv.VAE((4,), 2), torch.full((3, 4), 7.0)), "range from 7 to 7"),
        (lambda: pv.evaluate(pv.VAE((4,), 2), torch.zeros(3, 5)), r"batch of shape \(3, 5\)"),
        (lambda: pv.evaluate(pv.VAE((4,), 2), torch.zeros(3, 4), plate="rows"), "no plate 'rows'"),
        (lambda: pv.sample(pv.VAE((4,), 2), 0), "at least 1, got 0"),
        (lambda: pv.sample(pairs.ppca_diagonal().pair, 2), "like="),
        (lambda: pv.interpolate(pv.VAE((4,), 2), torch.zeros(2, 4), torch.zeros(3, 4)), "as many"),
        (
            lambda: pv.interpolate(
                pv.VAE((4,), 2), torch.zeros(2, 4), torch.zeros(2, 4), method="lineal"
            ),
            "did you mean 'linear'",
        ),
        (lambda: pv.traverse(pv.VAE((4,), 2), torch.zeros(3, 4), dims=[2]), "units 0 to 1"),
        (lambda: pv.neighbours(pv.VAE((4,), 2), torch.zeros(3, 4), torch.zeros(3, 4), 9), "k must"),
        (lambda: pv.calibrate(pv.VAE((4,), 2), draws=10), "does not divide"),
        (lambda: pv.exact_log_evidence(pv.VAE((4,), 3), torch.zeros(3, 4)), "more than two"),
    ],
)
def test_mistakes_speak(call: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        call()
