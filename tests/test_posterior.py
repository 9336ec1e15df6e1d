"""Draws of the posterior against exact posteriors, Pyro's NUTS, and calibrated ranks."""

from __future__ import annotations

import math

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PPCA
from pyro.infer import MCMC, NUTS
from scipy import stats
from torch import Tensor

import pyrovae as pv


def gamma_poisson() -> tuple[object, Tensor]:
    """The posterior is Gamma(a + x, b + 1)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(3.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x: Tensor) -> None:  # far off
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(x * 0, 1.0))

    return pv.Pair(model, guide), torch.tensor([0.0, 1.0, 4.0, 9.0, 25.0])


def two_modes(width: float = 0.5) -> object:
    """x = z^2 + noise: the posterior of a large x has two modes, of which the guide knows one."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * z, width), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp_min(0.1).sqrt(), 0.2))

    return pv.Pair(model, guide)


@pytest.mark.parametrize(("k", "d"), [(2, 5), (10, 30)])
def test_means_and_covariances_are_exact(k: int, d: int) -> None:
    bed, x = PPCA("diagonal", d=d, k=k, scale=0.5), pairs.data(5, d)
    mean, covariance = (t.detach() for t in bed.posterior(x))
    found = pv.posterior(bed, x, draws=300)
    assert found.draws["z"].shape == (4, 300, 5, k)
    assert not found.apart.any() and (found.acceptance > 0.5).all() and found.ess.min() > 100
    z = found.draws["z"].flatten(0, 1)
    error = (covariance.diagonal() / found.ess[:, None]).sqrt()
    assert ((z.mean(0) - mean).abs() < 4 * error).all()
    centred = z - mean
    ours = torch.einsum("pni,pnj->nij", centred, centred) / len(z)
    # var(ab) of Gaussians is C_ii C_jj + C_ij^2; the effective size is that of the worst unit
    spread = covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()
    assert ((ours - covariance).abs() < 4 * (spread / found.ess[:, None, None]).sqrt()).all()


def test_a_support_that_ends() -> None:
    pair, x = gamma_poisson()
    found = pv.posterior(pair, x, draws=300)
    exact = dist.Gamma(3.0 + x, 1.5)
    rate = found.draws["rate"].flatten(0, 1)
    assert ((rate.mean(0) - exact.mean).abs() < 4 * (exact.variance / found.ess).sqrt()).all()
    # a Gamma's fourth moment gives the error of its variance
    excess = 6 / exact.concentration
    error = exact.variance * ((2 + excess) / found.ess).sqrt()
    assert ((rate.var(0) - exact.variance).abs() < 4 * error).all()


def test_beside_nuts_of_pyro() -> None:
    """One datum at a time, the same posterior by another sampler."""
    pair, x = two_modes(1.0), torch.tensor([0.5])
    found = pv.posterior(pair, x, draws=300)
    with pyro.validation_enabled(False):
        chain = MCMC(NUTS(pair.model), 400, 100, disable_progbar=True)
        chain.run(x)
    theirs = chain.get_samples()["z"][:, 0]
    size = pyro.ops.stats.effective_sample_size(theirs[None], chain_dim=0, sample_dim=1)
    ours = found.draws["z"][..., 0].flatten()
    for moment in (1, 2):
        a, b = ours**moment, theirs**moment
        error = (a.var() / found.ess[0] + b.var() / size.clamp_max(len(b))).sqrt()
        assert abs(a.mean() - b.mean()) < 4 * error


@pytest.mark.slow
def test_ranks_of_simulated_latents_are_uniform() -> None:
    """Simulation-based calibration (Talts et al., 2018) over 40 seeds of data."""
    bed = PPCA("diagonal", d=6, k=2, scale=0.5)
    drawn = []
    for seed in range(40):
        torch.manual_seed(seed)
        z = torch.randn(20, 2)
        drawn.append((z, z @ bed.w.detach().T + bed.noise * torch.randn(20, 6)))
    z, x = map(torch.cat, zip(*drawn, strict=True))
    found = pv.posterior(bed, x, draws=99, chains=2, warmup=60)
    thin = found.draws["z"][:, ::11].flatten(0, 1)  # 18 draws, nearly independent
    counts = (thin < z).sum(0).flatten().bincount(minlength=19)
    assert len(counts) == 19 and stats.chisquare(counts.numpy()).pvalue > 0.01


def test_rhat_flags_a_chain_in_a_mode_of_its_own() -> None:
    pair = two_modes(0.2)
    found = pv.posterior(pair, torch.tensor([9.0, 0.0]))
    assert found.apart.tolist() == [True, False] and found.rhat[0] > 2
    assert "chains of 1 data have not come together" in str(found)
    chains = found.draws["z"][:, :, 0].mean(1)
    assert (chains > 2).any() and (chains < -2).any()  # the one that the guide does not know


def test_reconstruct_and_impute_do_not_rest_on_the_guide() -> None:
    """Of a guide that knows nothing: the exact conditional means all the same."""
    bed = PPCA("exact", d=5)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 0.3).to_event(1))

    pair, x = pv.Pair(bed.model, guide), pairs.data(4, 5)
    w, noise = bed.w.detach(), bed.noise
    mean, covariance = (t.detach() for t in bed.posterior(x))
    found = pv.reconstruct(pair, x, num_particles=400, method="hmc")
    error = ((w @ covariance @ w.T).diagonal() / 100).sqrt()
    assert ((found - mean @ w.T).abs() < 4 * error).all()
    assert ((pv.reconstruct(pair, x, num_particles=400) - mean @ w.T).abs() > 4 * error).any()

    gone = x.clone()
    gone[:, 2] = math.nan
    seen = [0, 1, 3, 4]
    full = w @ w.T + noise**2 * torch.eye(5)
    gain = full[2, seen] @ full[seen][:, seen].inverse()
    exact, left = x[:, seen] @ gain, full[2, 2] - gain @ full[seen, 2]
    filled = pv.impute(pair, gone, num_particles=400, method="hmc")
    assert torch.equal(filled[:, seen], x[:, seen])
    assert ((filled[:, 2] - exact).abs() < 4 * (left / 100).sqrt()).all()
    drawn = pv.impute(pair, gone, draws=300, num_particles=400, method="hmc")
    assert ((drawn[:, :, 2].var(0) / left - 1).abs() < 0.6).all()


def test_latents_in_plates_of_their_own_and_chains() -> None:
    """Two latents, one in an inner plate; each datum's posterior is Gaussian and known."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            a = pyro.sample("a", dist.Normal(torch.zeros(1, 1), 1.0))
            with pyro.plate("parts", 3, dim=-1):
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("a", dist.Normal(x.mean(-1, keepdim=True), 1.0))
            with pyro.plate("parts", 3, dim=-1):
                pyro.sample("b", dist.Normal(x / 2, 1.0))

    x = pairs.data(4, 3)
    pair = pv.Pair(model, guide)
    found = pv.posterior(pair, x, draws=250)
    assert {n: tuple(v.shape[2:]) for n, v in found.draws.items()} == {"a": (4,), "b": (4, 3)}
    exact = x.sum(1) / 2 / (1 + 3 / 2)  # x_k | a ~ N(a, 2)
    a = found.draws["a"].flatten(0, 1)
    assert ((a.mean(0) - exact).abs() < 4 * (0.4 / found.ess).sqrt()).all()
    evidence = dist.MultivariateNormal(torch.zeros(3), 2 * torch.eye(3) + 1).log_prob(x)
    for start in ("guide", "prior"):
        annealed = pv.anneal(pair, x, pv.Annealing(start))
        assert ((annealed.log_evidence - evidence).abs() < 4 * annealed.standard_error).all()


def test_every_structured_program_has_a_posterior() -> None:
    """Classes summed out, series, layers, gates: finite draws of the right shapes."""
    small = {"likelihood": pv.likelihoods.Bernoulli(pv.networks.MLP([8])),
             "guide": pv.guides.MeanField(pv.networks.MLP([8]))}  # fmt: skip
    x = torch.bernoulli(torch.rand(6, 1, 4, 4))
    for program in (
        pv.programs.GaussianMixture(event_shape=(1, 4, 4), latent_dim=2, clusters=3, **small),
        pv.programs.Hierarchical(event_shape=(1, 4, 4), latent_dims=[3, 2]),
    ):
        found = pv.posterior(program, x, draws=20, warmup=20)
        assert all(v.shape[:3] == (4, 20, 6) and v.isfinite().all() for v in found.draws.values())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: pv.posterior(two_modes(), x, method="nuts"), "method is 'hmc', got 'nuts'"),
        (lambda x: pv.posterior(two_modes(), x, draws=2), "draws must be a whole number"),
        (lambda x: pv.reconstruct(two_modes(), x, method="mcmc"), "'guide' or 'hmc'"),
        (lambda x: pv.impute(two_modes(), x, method="guide"), "'importance' or 'hmc'"),
        (lambda x: pv.posterior(pairs.mixture_in_model().pair, x), "no continuous latent"),
    ],
)
def test_mistakes_speak(call, match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        call(torch.ones(3))
