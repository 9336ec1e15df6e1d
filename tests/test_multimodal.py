"""The product of experts is the posterior where it can be, for every subset of modalities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods, networks, programs
from pyrovae.errors import UsageError
from pyrovae.tensors import TensorData

SIZES, LATENT, SUBSETS = (3, 2, 4), 2, list(itertools.product([True, False], repeat=3))
LINEAR = networks.MLP([])


def linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def linear_gaussian() -> tuple[programs.Multimodal, list[Tensor], list[Tensor], list[float]]:
    """x_m = W_m z + b_m + s_m e with orthogonal columns in W_m, and the experts that are exact:
    N(z; x_m) in proportion to p(x_m|z)."""
    torch.manual_seed(0)
    scales = [0.5, 0.8, 1.2]
    program = programs.Multimodal(
        [[size] for size in SIZES],
        LATENT,
        [likelihoods.Normal(LINEAR, scale=scale) for scale in scales],
        LINEAR,
    ).double()
    weights, shifts = [], []
    for m, (size, scale) in enumerate(zip(SIZES, scales, strict=True)):
        lengths = 0.5 + torch.rand(LATENT, dtype=torch.float64)
        w = torch.linalg.qr(torch.randn(size, LATENT, dtype=torch.float64))[0] * lengths
        b = torch.randn(size, dtype=torch.float64)
        said = scale / lengths  # the expert's scale
        inverse = (w / lengths**2).T
        raw = torch.expm1(said - 1e-3).log()
        with torch.no_grad():
            parts = (program.likelihoods[m], program.experts[m])
            decoder, expert = (next(filter(linear, part.modules())) for part in parts)
            decoder.weight.copy_(w)
            decoder.bias.copy_(b)
            expert.weight.copy_(torch.cat([inverse, torch.zeros_like(inverse)]))
            expert.bias.copy_(torch.cat([-inverse @ b, raw]))
        weights.append(w), shifts.append(b)
    return program, weights, shifts, scales


def drawn(weights: list[Tensor], shifts: list[Tensor], scales: list[float], n: int) -> list[Tensor]:
    z = torch.randn(n, LATENT, dtype=torch.float64)
    parts = zip(weights, shifts, scales, strict=True)
    return [z @ w.T + b + s * torch.randn(n, len(b), dtype=torch.float64) for w, b, s in parts]


def joined(
    weights: list[Tensor], shifts: list[Tensor], scales: list[float], chosen: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """W, b and the noise's variances of the chosen modalities, laid end to end."""
    noise = [torch.full((SIZES[m],), scales[m] ** 2, dtype=torch.float64) for m in chosen]
    parts = [torch.cat([t[m] for m in chosen]) for t in (weights, shifts)]
    return parts[0], parts[1], torch.cat(noise)


def posterior(program: programs.Multimodal, *batch: Tensor) -> torch.distributions.Distribution:
    pair = pv.traces.as_pair(program)
    return pv.traces.draw(pair, batch).guide["z"].fn


@pytest.mark.parametrize("subset", SUBSETS)
def test_the_product_is_the_posterior(subset: tuple[bool, ...]) -> None:
    """Of a linear-Gaussian pair, in closed form; so the bound of each datum is its log evidence."""
    program, *truth = linear_gaussian()
    xs = drawn(*truth, 5)
    present = torch.tensor([subset]).expand(5, -1)
    q = posterior(program, *xs, present)
    chosen = [m for m in range(3) if subset[m]]
    if not chosen:
        assert torch.equal(q.mean.squeeze(), torch.zeros(5, LATENT)) and (q.variance == 1).all()
        return
    w, b, noise = joined(*truth, chosen)
    x = torch.cat([xs[m] for m in chosen], 1)
    covariance = torch.linalg.inv(torch.eye(LATENT) + w.T @ (w / noise[:, None]))
    mean = (x - b) / noise @ w @ covariance
    torch.testing.assert_close(q.mean.reshape(5, -1), mean)
    torch.testing.assert_close(q.variance.reshape(5, -1), covariance.diagonal().expand(5, -1))
    evidence = torch.distributions.MultivariateNormal(b, w @ w.T + noise.diag()).log_prob(x)
    torch.testing.assert_close(pv.elbo(program, (*xs, present)), evidence, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("subset", SUBSETS[:-1])
def test_log_evidence_of_a_subset(subset: tuple[bool, ...]) -> None:
    """By importance sampling from experts that are off, within 4 standard errors."""
    program, *truth = linear_gaussian()
    with torch.no_grad():
        for expert in program.experts:
            expert.get_parameter("1.bias").add_(0.1)
    xs = drawn(*truth, 20)
    present = torch.tensor([subset]).expand(20, -1)
    chosen = [m for m in range(3) if subset[m]]
    w, b, noise = joined(*truth, chosen)
    exact = torch.distributions.MultivariateNormal(b, w @ w.T + noise.diag())
    exact = exact.log_prob(torch.cat([xs[m] for m in chosen], 1))
    data = (*xs, present)
    found = torch.stack([pv.log_evidence(program, data, 1000, seed=s).mean() for s in range(8)])
    assert abs(found.mean() - exact.mean()) < 4 * found.std() / math.sqrt(len(found))


def test_the_product_by_quadrature() -> None:
    """Untrained experts of one latent: the normalised product of their densities on a grid."""
    torch.manual_seed(1)
    program = programs.Multimodal(
        [[2], [1], [3]],
        1,
        [
            likelihoods.Normal(LINEAR),
            likelihoods.Categorical(4, LINEAR),
            likelihoods.Normal(LINEAR),
        ],
        networks.MLP([8]),
    ).double()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    xs = [torch.randn(1, 2).double(), torch.tensor([[2.0]]), torch.randn(1, 3).double()]
    inputs = [xs[0], nn.functional.one_hot(xs[1].long(), 4).double(), xs[2]]
    for subset in SUBSETS:
        density = torch.distributions.Normal(0.0, 1.0).log_prob(grid)
        for m in (m for m in range(3) if subset[m]):
            loc, raw = program.experts[m](inputs[m])
            scale = nn.functional.softplus(raw) + 1e-3
            density = density + torch.distributions.Normal(loc, scale).log_prob(grid[:, None])[:, 0]
        weight = density.softmax(0)
        mean = (weight * grid).sum()
        variance = (weight * (grid - mean) ** 2).sum()
        q = posterior(program, *xs, torch.tensor([subset]))
        torch.testing.assert_close(q.mean.flatten()[0], mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(q.variance.flatten()[0], variance, atol=1e-6, rtol=1e-5)


def test_absent_in_three_ways() -> None:
    """NaN, -1 and ``present`` say the same; what stands where one is absent counts for nothing."""
    torch.manual_seed(0)
    program = programs.Multimodal(
        [[3], [1]], 2, [likelihoods.Normal(LINEAR), likelihoods.Categorical(4, LINEAR)], LINEAR
    )
    x, y = torch.randn(6, 3), (torch.arange(6) % 4)[:, None].float()
    here = torch.ones(6, 2, dtype=torch.bool)
    here[:2, 0], here[4:, 1] = False, False
    gone = x.masked_fill(~here[:, :1], torch.nan), y.masked_fill(~here[:, 1:], -1)
    others = torch.where(here[:, :1], x, 7.0), torch.where(here[:, 1:], y, 1.0)
    expected = pv.elbo(program, (x, y, here))
    assert torch.equal(pv.elbo(program, gone), expected)
    assert torch.equal(pv.elbo(program, (gone[0], gone[1].long())), expected)
    assert torch.equal(pv.elbo(program, (*others, here)), expected)


def test_serve() -> None:
    data = TensorData(torch.rand(5, 3), labels=torch.arange(5) % 2)
    decided = programs.Multimodal.decided_by(data, 2)
    assert decided["event_shapes"] == [[3], [1]]
    program = programs.Multimodal(latent_dim=2, **decided)
    assert [list(t.shape) for t in program.serve(data)[:]] == [[5, 3], [5, 1], [5, 2]]
    x, y, present = program.serve(data, training=True)[:]
    assert torch.equal(y[:, 0], data.labels.repeat(3).float()) and torch.equal(x[5:10], data.x)
    alone = torch.tensor([[True, False], [False, True]]).repeat_interleave(5, 0)
    assert present[:5].all() and torch.equal(present[5:], alone)
    gone = torch.tensor([1.0, torch.nan, 0.0, torch.nan, 0.0])[:, None]
    x, y, present = program.serve(TensorData(torch.rand(5, 3), gone), training=True)[:]
    assert y.isfinite().all() and len(x) == 5 + 3 + 3
    with pytest.raises(UsageError, match="has 2 modalities, the data 1"):
        program.serve(TensorData(torch.rand(5, 3)))


def test_refused() -> None:
    with pytest.raises(UsageError, match="two or more modalities"):
        programs.Multimodal([[3]])
    with pytest.raises(UsageError, match="one likelihood per modality"):
        programs.Multimodal([[3], [2]], 2, [likelihoods.Normal()])
