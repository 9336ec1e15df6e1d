"""Calibration accepts exact guides and rejects wrong ones; oracles agree with closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PPCA, Bed
from torch import Tensor

import pyrovae as pv


def test_exact_guide_passes_and_half_its_scale_does_not() -> None:
    """At level 0.01; the seed is fixed, the exact guide's p-values are uniform over seeds."""
    like = torch.zeros(1, 5)

    class Narrow(PPCA):
        def guide(self, x: Tensor) -> None:
            loc, covariance = self.posterior(x)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.MultivariateNormal(loc, covariance / 4))

    exact = pv.calibrate(PPCA("exact"), like, simulations=2000)
    narrow = pv.calibrate(Narrow(), like, simulations=2000)
    assert exact.passes(0.01) and "no dimension" in str(exact)
    assert not narrow.passes(0.01) and "not calibrated" in str(narrow)
    assert exact.names == ("z[0]", "z[1]") and exact.ranks.shape == (2000, 2)


def test_p_values_of_an_exact_guide_are_uniform() -> None:
    values = torch.stack(
        [
            pv.calibrate(PPCA("exact"), torch.zeros(1, 5), simulations=400, seed=s).p_values
            for s in range(40)
        ]
    )
    # 80 uniform numbers: their mean lies within 4 standard errors of one half
    assert abs(float(values.mean()) - 0.5) < 4 * (1 / 12 / values.numel()) ** 0.5


@pytest.mark.parametrize(
    "make", [pairs.ppca, pairs.ppca_diagonal, pairs.two_level], ids=lambda f: f.__name__
)
def test_linear_gaussian_evidence(make: Callable[[], Bed]) -> None:
    bed = make()
    found = pv.exact_log_evidence(bed.pair, bed.args[0])
    torch.testing.assert_close(found.float(), bed.log_evidence, rtol=0, atol=1e-4)


def test_quadrature_finds_both_modes() -> None:
    """x = |z| + noise has two posterior modes; integrated in one dimension by hand."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.abs() * 3, 0.05), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 3, 0.1))

    x = torch.tensor([0.1, 2.0, 5.0], dtype=torch.float64)
    z = torch.linspace(-6, 6, 400_001, dtype=torch.float64)[:, None]
    log_f = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs() * 3, 0.05).log_prob(x)
    exact = log_f.logsumexp(0) + torch.log(torch.tensor(12 / 400_000))
    found = pv.exact_log_evidence(pv.Pair(model, guide), x, points=400)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)


def test_quadrature_of_a_trained_vae() -> None:
    torch.manual_seed(0)
    vae = pv.VAE((6,), 2, likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP([16], "Tanh")))
    with torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter *= 4  # a posterior far from the prior
    x = torch.bernoulli(torch.rand(5, 6))
    coarse = pv.exact_log_evidence(vae, x)
    torch.testing.assert_close(coarse, pv.exact_log_evidence(vae, x, points=240), rtol=0, atol=1e-4)
    found = pv.evaluate(vae, x, 40_000)
    error = ((40_000 / found.ess - 1) / 40_000).sqrt()
    assert ((found.log_evidence - coarse).abs() < 4 * error).all()


def test_predictive_check_knows_good_from_bad() -> None:
    bed = PPCA("exact")
    x = pv.sample(bed, 500, like=torch.zeros(1, 5))
    good = pv.predictive_check(bed, x, torch.std, replicates=100)
    bad = pv.predictive_check(bed, x.clamp_min(0), lambda t: t.min(), replicates=100)
    assert good.p_value > 0.05 and bad.p_value == pytest.approx(2 / 101)


@pytest.mark.parametrize("observed", [-9.0, 0.1, 0.5, 0.99, 9.0])
def test_tail_probabilities_of_a_check_are_those_of_ranks(observed: float) -> None:
    """Among 99 draws of the same law every rank is as likely: twice the smaller tail, never 0."""
    replicated = (torch.arange(99) + 0.5) / 99
    check = pv.calibration.PredictiveCheck(observed, replicated)
    smaller = min((replicated > observed).sum(), (replicated < observed).sum())
    assert check.p_value == pytest.approx(min(1, (smaller + 1) / 50))
    shown = pv.plots.predictive_check(observed, replicated).get_title()
    assert shown.endswith(f"{check.p_value:.2g}")
