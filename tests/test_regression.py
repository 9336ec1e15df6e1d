"""Predictions with their noise: it is found where it is known, and no worse than a linear fit."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from torch import Tensor

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, programs
from pyrovae.errors import UsageError
from pyrovae.tensors import TensorData


def noisy(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, 3] of one factor t, y = 100 + 20 sin(2t) with a noise that grows with t; its sd."""
    generator = torch.Generator().manual_seed(seed)
    t = 2 * torch.rand(n, 1, generator=generator) - 1
    x = torch.cat([t, 2 * t, -t], 1) * 1.5 + 0.1 * torch.randn(n, 3, generator=generator)
    sd = 10 * (0.2 + 0.5 * (t[:, 0] + 1))
    y = 100 + 20 * torch.sin(2 * t[:, 0]) + sd * torch.randn(n, generator=generator)
    return x, y, sd


def small(size: int, latent_dim: int) -> programs.Regression:
    net = networks.MLP([32], "Tanh")
    return programs.Regression(
        (size,),
        latent_dim,
        likelihood=likelihoods.Normal(net, scale="per_dimension"),
        guide=guides.MeanField(net),
        head=net,
    )


@pytest.mark.slow
def test_noise_that_depends_on_x_is_found() -> None:
    torch.manual_seed(0)
    program = small(3, 2)
    x, y, _ = noisy(3000, 0)
    y[::10] = torch.nan  # not known
    data = program.serve(TensorData(x, y))
    assert [tuple(t.shape) for t in data.tensors] == [(3000, 3), (3000,), (3000,)]
    program.initialise(data)
    pv.fit(program, data, epochs=60, batch_size=100, lr=3e-3, progress=False)
    x, y, sd = noisy(2000, 1)
    mean, found = program.predict(x, 200)
    assert torch.corrcoef(torch.stack([found, sd]))[0, 1] > 0.95
    assert ((found / sd).log().mean().abs()) < 0.1
    scores = program.scores(program.serve(TensorData(x, y)))
    assert 0.85 < scores["coverage_90"] < 0.95
    assert scores["rmse"] < 1.05 * sd.square().mean().sqrt()
    best = torch.distributions.Normal(y, sd).log_prob(y + sd).mean()  # the noise's entropy
    assert abs(scores["log_predictive_density"] - best) < 0.1
    again = program.predict(x, 200)
    assert torch.equal(mean, again[0])


def test_variance_is_that_of_ancestral_draws() -> None:
    torch.manual_seed(0)
    program = small(3, 2)
    x = torch.randn(4, 3)
    mean, sd = program.predict(x, 20_000)
    draws = pv.reconstruct(program, (x, torch.zeros(4)), draws=4000)["y"]
    assert torch.allclose(mean, draws.mean(0), atol=5 * float(sd.max()) / math.sqrt(4000))
    assert torch.allclose(sd, draws.std(0), rtol=0.06)


@pytest.mark.slow
def test_diabetes_beside_a_linear_fit() -> None:
    """Least squares explain about half of the variance, and nothing does much better."""
    x, y = (torch.as_tensor(t).float() for t in load_diabetes(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:342], order[342:]
    linear = LinearRegression().fit(x[train], y[train]).predict(x[test])
    linear = float((torch.as_tensor(linear) - y[test]).square().mean().sqrt())
    torch.manual_seed(0)
    program = small(10, 5)
    data = program.serve(TensorData(torch.cat([x, y[:, None]], 1)))
    program.initialise(data.select(train))
    pv.fit(program, data.select(train), epochs=100, batch_size=32, lr=2e-3, progress=False)
    scores = program.scores(data.select(test))
    assert scores["rmse"] < 1.15 * linear
    assert 0.8 < scores["coverage_90"] < 0.97


@pytest.mark.parametrize("target", [0, 2, -1])
def test_target_is_a_column(target: int) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    decided = programs.Regression.decided_by(TensorData(table), None)
    program = programs.Regression(latent_dim=2, target=target, **decided)
    x, y = program.serve(TensorData(table))[:]
    assert torch.equal(y, table[:, target]) and x.shape == (3, 3)
    assert not (x == y[:, None]).any()


def test_refused() -> None:
    with pytest.raises(UsageError, match="target must be a whole number of at least -4"):
        programs.Regression((3,), target=4)
    with pytest.raises(UsageError, match=r"takes a table \[N, D \+ 1\]"):
        programs.Regression.decided_by(TensorData(torch.zeros(3, 1, 4, 4)), None)
    program = programs.Regression((3,))
    with pytest.raises(UsageError, match="takes tables of 4 columns"):
        program.serve(TensorData(torch.zeros(3, 7)))
    with pytest.raises(UsageError, match="no y is known"):
        program.scores(program.serve(TensorData(torch.zeros(3, 3), torch.full((3,), torch.nan))))
