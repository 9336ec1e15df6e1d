"""Series: against the Kalman filter where the chain is linear and normal, with gaps and ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import likelihoods, networks, traces
from pyrovae.errors import UsageError
from pyrovae.programs import DeepMarkov
from pyrovae.tensors import TensorData

STEPS, FEATURES, LATENT = 4, 2, 2
LINEAR, SCALE = networks.MLP([]), 0.5


def linear(steps: int = STEPS) -> DeepMarkov:
    """A linear-Gaussian chain, its transition a contraction that turns."""
    torch.manual_seed(0)
    program = DeepMarkov(
        (steps, FEATURES),
        LATENT,
        likelihoods.Normal(LINEAR, scale=SCALE),
        LINEAR,
        gated=False,
        noise="shared",
        combiner=networks.MLP([16]),
        hidden=16,
    )
    with torch.no_grad():
        move, emit = program.move.body[-2], program.likelihood.body[-2]
        move.weight.copy_(torch.tensor([[0.8, -0.4], [0.4, 0.8]]))
        move.bias.copy_(torch.tensor([0.1, -0.2]))
        emit.weight.copy_(torch.tensor([[1.0, 0.5], [-0.3, 1.2]]))
        program.loc.copy_(torch.tensor([0.5, -0.5]))
    return program


def kalman(program: DeepMarkov, x: Tensor) -> tuple[float, np.ndarray, np.ndarray]:
    """log p of what is observed of one series [T, D], and mean and variance [T, D] of p(x_t | what
    was observed up to t - 1)."""

    def numbers(t: Tensor) -> np.ndarray:
        return t.detach().double().numpy()

    a, b = (numbers(t) for t in program.move.body[-2].parameters())
    c, d = (numbers(t) for t in program.likelihood.body[-2].parameters())
    units = program.likelihood.scale_of
    c = numbers(units.unit)[:, None] * c
    d = numbers(units.centre) + numbers(units.unit) * d
    first, moved = (
        np.diag(numbers(torch.nn.functional.softplus(raw) + 1e-5) ** 2)
        for raw in (program.raw_scale, program.move.raw_scale)
    )
    mean, cov, log_p, means, variances = numbers(program.loc), first, 0.0, [], []
    for row in numbers(x):
        spread = c @ cov @ c.T + SCALE**2 * np.eye(len(c))
        means.append(c @ mean + d)
        variances.append(np.diag(spread))
        at = ~np.isnan(row)
        error, s, h = (row - means[-1])[at], spread[np.ix_(at, at)], c[at]
        log_p -= 0.5 * (error @ np.linalg.solve(s, error) + np.linalg.slogdet(s)[1])
        log_p -= 0.5 * at.sum() * math.log(2 * math.pi)
        gain = cov @ h.T @ np.linalg.inv(s)
        mean, cov = mean + gain @ error, cov - gain @ h @ cov
        mean, cov = a @ mean + b, a @ cov @ a.T + moved
    return log_p, np.array(means), np.array(variances)


def series(program: DeepMarkov, seed: int = 0) -> Tensor:
    """Complete ones, with gaps, and short ones, which end in nan; one has nothing at all."""
    x = pv.sample(program, 6, seed=seed)
    x[1, 1, 0] = x[1, 2, 1] = x[2, 1] = torch.nan
    x[3, 2:] = x[4, 1:] = x[5] = torch.nan
    x[4, 0, 1] = torch.nan
    return x


def test_exact_log_evidence_is_kalmans() -> None:
    program = linear()
    x = series(program)
    found = pv.exact_log_evidence(program, x)
    expected = [kalman(program, one)[0] for one in x]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


@pytest.mark.slow
def test_importance_sampling_is_kalmans_within_its_error() -> None:
    program = linear()
    x = series(program)
    gappy = torch.cat([series(program, seed) for seed in range(20)])
    pv.fit(program, gappy, epochs=100, batch_size=60, lr=1e-2, progress=False)
    expected = torch.tensor([kalman(program, one)[0] for one in x])
    pair = traces.completing(traces.as_pair(program), (x,))
    with pair.evaluating():
        torch.manual_seed(0)
        log_w = traces.draw(pair, (x,), 20000).log_weights.double()
    ratio = (log_w - expected).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((ratio.mean(0) - 1).abs() <= 4 * error + 1e-6).all() and (error < 0.1).all()
    found = pv.log_evidence(program, x, 20_000).double()
    torch.testing.assert_close(found, expected, atol=0.2, rtol=0)


def test_what_follows_the_last_observation_costs_nothing() -> None:
    """There the guide is the model: log p - log q is 0, exactly, whatever the particle."""
    torch.manual_seed(0)
    program = DeepMarkov((5, 2), 3, likelihoods.Normal(networks.MLP([8])), hidden=8)
    x = torch.randn(3, 5, 2)
    x[0, 3:] = x[1, 1:] = x[2] = torch.nan
    x[0, 1] = torch.nan  # a gap: what follows still tells of it
    pair = traces.completing(traces.as_pair(program), (x,))
    drawn = traces.draw(pair, (x,), 7)
    for row, end in enumerate((3, 1, 0)):
        for t in range(5):
            name = f"z{t + 1}"
            terms = drawn.model[name].log_prob[:, row] - drawn.guide[name].log_prob[:, row]
            assert (terms == 0).all() == (t >= end), (row, t)
    found = pv.evaluate(program, x, 20)
    assert found.kl_sites["z5"].tolist() == [0.0, 0.0, 0.0]
    assert found.elbo[2] == 0 and found.log_evidence[2] == 0


@pytest.mark.slow
def test_forecasts_are_kalmans() -> None:
    """Mean and variance of what is forecast, within 4 standard errors of weighted draws."""
    program = linear()
    x = pv.sample(program, 12)
    pv.fit(program, x, epochs=60, batch_size=12, lr=1e-2, progress=False)
    x = x[:1]
    x[:, 2:] = torch.nan
    _, mean, variance = kalman(program, x[0])
    # beyond the next step: nothing more is observed, so the filter's predictions are the forecasts
    found = pv.impute(program, x, num_particles=20000)[0]
    ess = float(pv.evaluate(program, x, 20000).ess)
    assert ess > 2000
    error = np.sqrt(variance / ess)
    assert (np.abs(found.numpy() - mean)[2:] < 4 * error[2:]).all()
    draws = pv.impute(program, x, draws=4000, num_particles=20000)[:, 0]
    np.testing.assert_allclose(draws.var(0)[2:], variance[2:], rtol=0.15)
    assert torch.equal(draws[:, :2], x[0, :2].expand(4000, 2, 2))


@pytest.mark.parametrize("event", [(3, 2), (1, 3, 2)])
def test_images_are_series_of_rows(event: tuple[int, ...]) -> None:
    """Same numbers whether or not there is a channel; one row's density is the likelihood's."""
    torch.manual_seed(0)
    program = DeepMarkov(event, 2, likelihoods.Normal(LINEAR), hidden=8)
    x, z = torch.randn(5, *event), torch.randn(4, 5, 3, 2)
    assert pv.sample(program, 3).shape == (3, *event)
    shape = traces.Problem.at(program, (x,)).shape
    assert shape.broadcasts
    latents = {f"z{t + 1}": z[:, :, t] for t in range(3)}
    with torch.no_grad():
        found = traces.Problem.at(program, (x,)).log_density((x,), latents)
        expected = program.first().log_prob(z[:, :, 0])
        for t in range(3):
            expected = expected + program.likelihood(z[:, :, t]).log_prob(x.view(5, 3, 2)[:, t])
            if t:
                expected = expected + program.move(z[:, :, t - 1]).log_prob(z[:, :, t])
    torch.testing.assert_close(found, expected)


def test_the_guide_looks_ahead_and_never_back() -> None:
    """q(z_t|z_{t-1}, x_t, .., x_T): what came before reaches z_t through z_{t-1} alone."""
    torch.manual_seed(0)
    program = DeepMarkov((4, 2), 2, hidden=8)
    x = torch.zeros(1, 4, 2)
    h = program.summarise(torch.cat([x, torch.ones_like(x)], -1))
    for t in range(4):
        other = x.clone()
        other[:, t] = 1.0
        moved = program.summarise(torch.cat([other, torch.ones_like(x)], -1)) != h
        assert moved.any(-1)[0].tolist() == [s <= t for s in range(4)]


def test_figures() -> None:
    program = linear(6)
    axes = program.figure(TensorData(pv.sample(program, 5)))
    assert axes.shape == (4, 2)
    given = axes[0, 0].lines[-1].get_ydata()
    assert np.isfinite(given).tolist() == [True] * 4 + [False] * 2
    image = DeepMarkov((1, 4, 4), 2, hidden=8)
    axes = image.figure(TensorData(torch.ones(5, 1, 4, 4)))
    rows = ["data", "given", "mean", "draw 1", "draw 2", "draw 3"]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": (6,)}, "one feature as .T, 1."),
        ({"event_shape": (3, 4, 4)}, "event_shape .steps, features."),
        ({"event_shape": (4, 4), "noise": "share"}, "did you mean 'shared'"),
        ({"event_shape": (4, 4), "gated": 1}, "gated must be True or False"),
    ],
)
def test_mistakes_are_explained(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        DeepMarkov(**options)
