"""Gates and slabs against scipy's densities, the bound's order and a known sparse support."""

from __future__ import annotations

import pyro
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score
from torch import Tensor

import pyrovae as pv
from pyrovae import likelihoods, networks, objectives, programs, schedules


def from_model(program: programs.SpikeAndSlab, n: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    x = torch.zeros(n, *program.event_shape)
    with torch.no_grad():
        trace = pyro.poutine.trace(program.model).get_trace(x)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "data"}


def test_a_heavy_group_is_multivariate_student() -> None:
    """|w|^2 / d is F(d, df), a unit t(df); that of units drawn apart would not be."""
    program = programs.SpikeAndSlab((4,), latent_dim=6, groups=2, df=4.0)
    slab = from_model(program, 20_000)["slab"].double().unflatten(-1, (2, 3))
    for group in range(2):
        radius = slab[:, group].square().mean(-1)
        assert stats.kstest(radius, stats.f(3, 4).cdf).statistic < 0.0138  # 1 in 1,000
        assert stats.kstest(slab[:, group, 0], stats.t(4).cdf).statistic < 0.0138
    apart = torch.cat([slab[:, 0, :2], slab[:, 1, :1]], -1).square().mean(-1)
    assert stats.kstest(apart, stats.f(3, 4).cdf).statistic > 0.02


def test_gates_open_at_their_rate() -> None:
    program = programs.SpikeAndSlab((4,), latent_dim=4, rate=0.2, temperature=0.5)
    gate = from_model(program, 20_000)["gate"].double()
    assert float((gate > 0).double().mean()) == pytest.approx(0.2, abs=0.01)
    s = gate.float().sigmoid().clamp(1e-6, 1 - 1e-6)  # its density, in s, is Pyro's relaxed one
    relaxed = pyro.distributions.RelaxedBernoulli(torch.tensor(0.5), probs=torch.tensor(0.2))
    own = pyro.distributions.Logistic(program.odds[0] / 0.5, 1 / 0.5).log_prob(s.logit())
    assert torch.allclose(own - (s * (1 - s)).log(), relaxed.log_prob(s), atol=1e-3)


def test_sure_gates_keep_the_bound_below_the_evidence() -> None:
    """Where Pyro's relaxed Bernoulli rounds to 1, its density is that of another value."""
    torch.manual_seed(0)
    program = programs.SpikeAndSlab((4,), latent_dim=2, df=3.0)
    with torch.no_grad():
        list(program.posterior.parameters())[-1][:2] = torch.tensor([40.0, -40.0])
    x = torch.bernoulli(torch.full((200, 4), 0.5))
    found = pv.evaluate(program, x, 500)
    assert bool(found.elbo.isfinite().all())
    # KL(q(gate) || p(gate)) of two logistics 40 / T apart, at least that much
    assert float(found.kl_sites["gate"].mean()) > 30


@pytest.mark.parametrize("df", [None, 3.0])
def test_the_bound_rises_to_the_evidence(df: float | None) -> None:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((100, 5), 0.5))
    net = networks.MLP([16])
    program = programs.SpikeAndSlab(
        (5,), 4, 2, df=df, likelihood=likelihoods.Bernoulli(net), network=net
    )
    before = pv.elbo(program, x, 200).mean()
    pv.fit(program, x, epochs=20, batch_size=20, lr=3e-3, progress=False)
    found = [float(pv.elbo(program, x, 500).mean())]
    found += [float(pv.log_evidence(program, x, k).mean()) for k in (10, 2000)]
    assert float(before) < found[0] <= found[1] <= found[2]
    again = float(pv.log_evidence(program, x, 2000, seed=1).mean())
    assert again == pytest.approx(found[2], abs=0.05)


def support(groups: int = 8, size: int = 2, n: int = 2000) -> tuple[Tensor, Tensor]:
    """Data made of two of the groups of a dictionary's atoms each, and which."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(n, groups, generator=generator).argsort(-1) < 2
    dictionary = torch.randn(groups * size, 40, generator=generator) / 40**0.5 * 6
    w = torch.randn(n, groups * size, generator=generator)
    z = truth.repeat_interleave(size, -1) * w
    return z @ dictionary + 0.3 * torch.randn(n, 40, generator=generator), truth


def recovered(found: Tensor, truth: Tensor) -> float:
    """Mean AUC of the gates, each matched with the true group that it tells best."""
    auc = torch.tensor([[roc_auc_score(t, f) for t in truth.T.numpy()] for f in found.T.numpy()])
    return float(auc[linear_sum_assignment(auc, maximize=True)].mean())


@pytest.mark.slow
def test_gates_find_the_support() -> None:
    x, truth = support()
    torch.manual_seed(0)
    program = programs.SpikeAndSlab(
        (40,),
        16,
        8,
        rate=0.25,
        likelihood=likelihoods.Normal(networks.MLP([])),
        network=networks.MLP([100]),
    )
    loss = objectives.BetaELBO(schedule=schedules.Linear(epochs=15))
    pv.fit(program, x[:1500], loss=loss, epochs=40, batch_size=50, lr=1e-2, progress=False)
    found = recovered(program.active(x[1500:]), truth[1500:])
    assert found > 0.8


def test_groups_share_the_units_evenly() -> None:
    with pytest.raises(pv.UsageError, match="3 groups do not share 20 units"):
        programs.SpikeAndSlab((4,), 20, 3)
    with pytest.raises(pv.UsageError, match="between 0 and 1"):
        programs.SpikeAndSlab((4,), rate=1.0)
