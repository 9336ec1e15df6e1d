"""NaN is missing: left out entry by entry under every likelihood, filled by conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from sklearn.datasets import load_wine
from test_components import LIKELIHOODS, event_of, rows
from torch import Tensor

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, traces
from pyrovae.objectives import IWAE

Make = Callable[[], likelihoods.Likelihood]
LINEAR = networks.MLP([])


def vae_with_gaps(make: Make) -> tuple[pv.VAE, Tensor, Tensor]:
    """A pair, data drawn from it, and the same data with gaps: entries, a datum, a column."""
    torch.manual_seed(0)
    likelihood = make()
    event = event_of(likelihood)
    vae = pv.VAE(event, 2, likelihood=likelihood, guide=guides.MeanField(LINEAR))
    x = pv.sample(vae, 24)
    gone = torch.rand(x.shape) < 0.3
    gone[3] = True
    gone[4] = False
    gone.reshape(24, -1)[:, 0] = gone.reshape(24, -1)[:, 0] | (torch.arange(24) != 4)
    return vae, x, x.masked_fill(gone, math.nan)


@rows(LIKELIHOODS)
def test_missing_entries_count_for_nothing(make: Make) -> None:
    """log p(x|z) is the sum over the observed entries; of a complete datum, all of it."""
    vae, x, broken = vae_with_gaps(make)
    vae.eval()
    pair = traces.completing(traces.as_pair(vae), (broken,))
    drawn = traces.draw(pair, (broken,), 3)
    z = drawn.guide["z"].value
    fn = vae.likelihood(z)
    entries = fn.base_dist.log_prob(x.expand(3, *x.shape))
    expected = torch.where(broken.isnan(), 0.0, entries).flatten(2).sum(-1)
    torch.testing.assert_close(drawn.reconstruction, expected, rtol=1e-4, atol=1e-4)
    complete = fn.log_prob(x.expand(3, *x.shape))[:, 4]
    torch.testing.assert_close(drawn.reconstruction[:, 4], complete, rtol=1e-4, atol=1e-4)
    assert (drawn.reconstruction[:, 3] == 0).all()


@rows(LIKELIHOODS)
def test_a_traced_step_holds_for_other_gaps(make: Make) -> None:
    """The graph of one batch gives the handlers' loss on batches with gaps elsewhere."""
    vae, x, broken = vae_with_gaps(make)
    pair = traces.completing(traces.as_pair(vae), (broken,))
    parameters = traces.parameters(pair, (broken,))
    batches = [broken, broken.flip(0), x, torch.full_like(x, math.nan)]
    found = []
    for compiled in ("auto", False):  # the graph as it is: kernels are tested elsewhere
        step = pv.svi.Step(pair, Trace_ELBO(), parameters, compile=compiled)
        losses = []
        for batch in (broken, *batches):
            torch.manual_seed(1)
            losses.append(step((batch,)))
            grads = [p.grad for p in parameters.values() if p.grad is not None]
            assert grads and all(bool(g.isfinite().all()) for g in grads)
        assert not compiled or not step.why_not, step.why_not
        found.append(losses)
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-4, atol=1e-3)


@rows(LIKELIHOODS)
def test_gaps_are_filled_within_the_support(make: Make) -> None:
    vae, _, broken = vae_with_gaps(make)
    few = broken[2:6]
    filled = pv.impute(vae, few, num_particles=20)
    draws = pv.impute(vae, few, draws=3, num_particles=20)
    kept = ~few.isnan()
    assert torch.equal(filled[kept], few[kept]) and filled.isfinite().all()
    assert all(torch.equal(draw[kept], few[kept]) for draw in draws)
    assert vae.likelihood(torch.zeros(4, 2)).support.check(draws).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda t: dist.Beta(t.exp(), t.exp()),
        lambda t: dist.Gamma(t.exp(), t.exp()),
        lambda t: dist.Uniform(t.new_zeros(()), 1 + t.exp()),
        lambda t: dist.Geometric(logits=t),
        lambda t: dist.Binomial(9, logits=t),
    ],
    ids=["Beta", "Gamma", "Uniform", "Geometric", "Binomial"],
)
def test_any_support(make: Callable[[Tensor], dist.TorchDistribution]) -> None:
    """What stands in the gaps lies in the support, so that no gradient is NaN."""
    weight = torch.zeros(4, requires_grad=True)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))
            pyro.sample("x", make(weight * z).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(4), 1.0).to_event(1))

    x = make(torch.zeros(6, 4)).sample()
    x[2] = x[:, 1] = math.nan
    pair = traces.completing(pv.Pair(model, guide), (x,))
    loss = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    loss.backward()
    assert loss.isfinite() and weight.grad.isfinite().all() and weight.grad[1] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: likelihoods.Normal(LINEAR, scale="per_dimension"),
        lambda: likelihoods.Mixed([likelihoods.Normal() for _ in range(13)], LINEAR),
    ],
    ids=["Normal", "Mixed"],
)
def test_wine_with_thirty_percent_missing(make: Make) -> None:
    """Imputed entries lie nearer than the columns' means, 90 % intervals hold 85 to 95 %."""
    x = torch.tensor(load_wine().data).float()
    x = (x - x.mean(0)) / x.std(0)
    gone = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    broken = x.masked_fill(gone, math.nan)
    torch.manual_seed(0)
    encoder = guides.MeanField(networks.MLP([32], "Tanh"))
    vae = pv.VAE((13,), 3, likelihood=make(), guide=encoder)
    pv.fit(vae, broken, loss=IWAE(5), epochs=150, batch_size=64, lr=5e-3, progress=False)
    error = (pv.impute(vae, broken, num_particles=200) - x)[gone].square().mean().sqrt()
    naive = (broken.nanmean(0) - x)[gone].square().mean().sqrt()
    assert error < 0.85 * naive
    draws = pv.impute(vae, broken, draws=200, num_particles=500)
    low, high = draws.quantile(0.05, 0), draws.quantile(0.95, 0)
    assert 0.85 < ((x >= low) & (x <= high))[gone].float().mean() < 0.95
