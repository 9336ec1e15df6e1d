"""What comes out of a pair: draws with the model's moments, paths with the right ends."""

from __future__ import annotations

import math

import pairs
import pytest
import torch
from pairs import PPCA

import pyrovae as pv
from pyrovae.generation import _linear, _spherical


def test_samples_have_the_models_moments() -> None:
    bed = PPCA("exact")
    x = pv.sample(bed, 40_000, like=torch.zeros(1, 5))
    exact = (bed.w @ bed.w.T + bed.noise**2 * torch.eye(5)).detach()
    sampled = x.T @ x / len(x)
    # the variance of a Gaussian's product moment is c_ii c_jj + c_ij^2
    error = ((exact.diagonal()[:, None] * exact.diagonal() + exact**2) / len(x)).sqrt()
    assert ((sampled - exact).abs() < 4 * error).all()
    assert torch.equal(x, pv.sample(bed, 40_000, like=torch.zeros(1, 5)))
    assert not torch.equal(x[:5], pv.sample(bed, 5, like=torch.zeros(1, 5), seed=1))


def test_reconstruction_is_the_posterior_mean() -> None:
    bed, x = PPCA("exact"), pairs.data(8, 5)
    loc, covariance = bed.posterior(x)
    exact = (loc @ bed.w.T).detach()
    error = (bed.w @ covariance @ bed.w.T).diagonal().detach().sqrt() / math.sqrt(1000)
    found = pv.reconstruct(bed, x, num_particles=1000)
    assert ((found - exact).abs() < 5 * error).all()
    draws = pv.reconstruct(bed, x, draws=1000)
    spread = (bed.w @ covariance @ bed.w.T).diagonal().detach() + bed.noise**2
    assert (draws.var(0) / spread - 1).abs().max() < 5 * math.sqrt(2 / 1000)


def test_encode_and_decode() -> None:
    bed, x = PPCA("exact"), pairs.data(8, 5)
    code = pv.encode(bed, x)
    torch.testing.assert_close(code, bed.posterior(x)[0].detach(), rtol=1e-4, atol=1e-4)
    out = pv.decode(bed, code, like=x)
    torch.testing.assert_close(out, code @ bed.w.detach().T, rtol=1e-4, atol=1e-4)


def test_interpolation_starts_and_ends_where_it_should() -> None:
    bed, x = PPCA("exact"), pairs.data(8, 5)
    for method in ("linear", "spherical"):
        path = pv.interpolate(bed, x[:3], x[3:6], 7, method=method)
        ends = [pv.decode(bed, pv.encode(bed, part), like=x) for part in (x[:3], x[3:6])]
        torch.testing.assert_close(path[:, 0], ends[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(path[:, -1], ends[1], rtol=1e-4, atol=1e-4)
    linear = pv.interpolate(bed, x[:3], x[3:6], 3)
    torch.testing.assert_close(linear[:, 1], (linear[:, 0] + linear[:, 2]) / 2)


def test_spherical_keeps_the_norm() -> None:
    a = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[0.0, 3.0], [1.0, 0.0], [-1.0, 0.0]])
    t = torch.linspace(0, 1, 5)
    path = _spherical(a, b, t)
    torch.testing.assert_close(path[0].norm(dim=1), torch.full((5,), 3.0))
    # parallel directions have no great circle between them: a straight line, never NaN
    torch.testing.assert_close(path[1:], _linear(a, b, t)[1:])


def test_traversal_moves_one_unit() -> None:
    bed, x = PPCA("exact"), pairs.data(50, 5)
    images, dims, values = pv.traverse(bed, x, steps=5, span=1.5)
    assert sorted(dims) == [0, 1] and images.shape == (2, 5, 5)
    assert values.tolist() == [-1.5, -0.75, 0.0, 0.75, 1.5]
    for row, dim in enumerate(dims):
        step = (images[row, 1:] - images[row, :-1]) / 0.75
        torch.testing.assert_close(step, bed.w.detach().T[dim].expand(4, 5), rtol=1e-3, atol=1e-4)


def test_imputation_equals_the_exact_conditional() -> None:
    bed, x = PPCA("exact"), pairs.data(6, 5)
    broken = x.clone()
    broken[:, 1] = broken[2, 4] = math.nan
    filled = pv.impute(bed, broken, num_particles=40_000)
    ess = pv.evaluate(bed, broken, 40_000).ess
    kept = ~broken.isnan()
    assert torch.equal(filled[kept], x[kept])
    covariance = (bed.w @ bed.w.T + bed.noise**2 * torch.eye(5)).detach()
    for n in range(6):
        seen, lost = kept[n].nonzero()[:, 0], (~kept[n]).nonzero()[:, 0]
        weights = covariance[lost][:, seen] @ covariance[seen][:, seen].inverse()
        spread = covariance[lost][:, lost] - weights @ covariance[seen][:, lost]
        error = spread.diagonal().sqrt() / ess[n].float().sqrt()
        assert ((filled[n, lost] - weights @ x[n, seen]).abs() < 5 * error).all()
    draws = pv.impute(bed, broken[:1], draws=4000, num_particles=40_000)[:, 0, 1]
    seen = [0, 2, 3, 4]
    weights = covariance[1, seen] @ covariance[seen][:, seen].inverse()
    variance = covariance[1, 1] - weights @ covariance[seen, 1]
    assert abs(draws.var() / variance - 1) < 5 * math.sqrt(2 / 4000) + 0.05


def test_neighbours() -> None:
    bed, x = PPCA("exact"), pairs.data(30, 5)
    codes = bed.posterior(x)[0].detach()
    indices, distances = pv.neighbours(bed, x[:4], x, 3)
    assert indices[:, 0].tolist() == [0, 1, 2, 3]
    assert (distances[:, 0] < 1e-2).all()
    expected = torch.cdist(codes[:4], codes).argsort(1)[:, :3]
    assert torch.equal(indices[:, 1:], expected[:, 1:])


def test_one_vector_is_no_batch_of_numbers() -> None:
    """Where a datum or a code is a vector, one alone has the shape of a batch of scalars."""
    vae = pv.VAE((5,), 2, likelihood=pv.likelihoods.Normal())
    x = torch.randn(30, 5)
    for verb in (pv.encode, pv.reconstruct, pv.log_evidence, pv.evaluate):
        with pytest.raises(pv.UsageError, match=r"a batch is \[batch, \*shape\]"):
            verb(vae, x[0])
    with pytest.raises(pv.UsageError, match=r"give one as z\[None\]"):
        pv.decode(vae, torch.tensor([1.0, -2.0]))
    assert pv.decode(vae, torch.tensor([[1.0, -2.0]])).shape == (1, 5)
    assert pv.encode(vae, x[:1]).shape == (1, 2)
