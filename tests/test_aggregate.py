"""Densities fitted to codes, held against what is known of them."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import guides, networks, priors


def clusters() -> tuple[pv.Pair, Tensor, float]:
    """A prior that does not fit, the codes' own mixture, and what the mixture is better by."""
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    generator = torch.Generator().manual_seed(11)  # not the noise of the guide
    x = centres[torch.arange(4000) % 2] + 0.3 * torch.randn(4000, 2, generator=generator)
    parts = dist.Normal(centres, math.sqrt(0.3**2 + 0.1**2)).to_event(1)
    exact = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
    z = exact.sample((100000,))
    gain = exact.log_prob(z) - dist.Normal(0.0, 1.0).expand([2]).to_event(1).log_prob(z)
    return pv.Pair(model, guide), x, float(gain.mean())


@pytest.mark.slow
@pytest.mark.parametrize("density", ["mixture", "flow"])
def test_gain_is_that_of_the_known_density(density: str) -> None:
    pair, x, gain = clusters()
    before = torch.get_rng_state()
    found = pv.fit_codes(pair, x, density, components=2)
    assert torch.equal(before, torch.get_rng_state())
    assert float(found.gain.mean()) == pytest.approx(gain, abs=0.12 if density == "flow" else 0.05)
    codes = found.codes(2000)
    assert (codes[:, 0].abs() > 0.8).float().mean() > 0.95  # the prior has half of it in between
    assert abs(float((codes[:, 0] > 0).float().mean()) - 0.5) < 0.1
    assert torch.equal(found.codes(5, seed=3), found.codes(5, seed=3))
    assert found.sample(7).shape == (7, 2)
    assert "closer to the data's codes" in str(found)
    # a density: it sums to one over the plane
    side = torch.linspace(-5, 5, 300)
    total = found.log_prob(torch.cartesian_prod(side, side)).exp().sum() * (10 / 299) ** 2
    assert float(total) == pytest.approx(1, abs=0.02)


def test_mistakes_speak() -> None:
    pair, x, _ = clusters()
    with pytest.raises(pv.UsageError, match="did you mean 'mixture'"):
        pv.fit_codes(pair, x, "mixtures")
    with pytest.raises(pv.UsageError, match="too few"):
        pv.fit_codes(pair, x[:10], components=10)
    codes = pv.VAE(
        (2,), 3, priors.OneHot(3), pv.likelihoods.Normal(), guides.OneHot(networks.MLP([4]), 3)
    )
    with pytest.raises(pv.UsageError, match="one continuous latent vector"):
        pv.fit_codes(codes, x)
