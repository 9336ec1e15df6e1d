"""The autoencoder against principal components, and what noise and a fitted density are for."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA

import pyrovae as pv
from pyrovae import likelihoods, networks, programs


def test_a_linear_one_spans_the_principal_components() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(3, 10) * torch.tensor([[3.0], [2.0], [1.0]])
    x = torch.randn(500, 3) @ mixing + 0.3 * torch.randn(500, 10)
    linear = networks.MLP([])
    normal = likelihoods.Normal(linear, units="none")  # the components of x as it is
    program = programs.Autoencoder((10,), 2, likelihood=normal, network=linear)
    pv.fit(program, x, epochs=60, batch_size=50, lr=1e-2, progress=False)
    pv.fit(program, x, epochs=20, batch_size=500, lr=1e-3, progress=False)
    ours = (program.denoise(x) - x).square().mean()
    pca = PCA(2).fit(x)
    best = (torch.as_tensor(pca.inverse_transform(pca.transform(x))) - x).square().mean()
    assert float(ours) == pytest.approx(float(best), rel=0.02)


@pytest.mark.slow
def test_noise_teaches_to_fill_in() -> None:
    digits = pv.data.load("mnist5k")
    train = digits.train.select(slice(0, 1500)).binarised("threshold")
    x = digits.test.select(slice(0, 300)).binarised("threshold").x
    errors = {}
    for noise in (0.0, 0.5):
        torch.manual_seed(0)
        net = networks.MLP([100])
        program = programs.Autoencoder(
            (1, 28, 28), 20, noise, likelihood=likelihoods.Bernoulli(net), network=net
        )
        pv.fit(program, train, epochs=15, batch_size=50, lr=3e-3, progress=False)
        corrupted = programs.Autoencoder((1, 28, 28), noise=0.5).hide(x)
        errors[noise] = float((program.denoise(corrupted) - x).square().sum((1, 2, 3)).mean())
    assert errors[0.5] < 0.9 * errors[0.0]  # 37.4 pixels for 44.3


def test_a_density_fitted_to_the_codes_is_drawn_from() -> None:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((300, 6), 0.5))
    program = programs.Autoencoder((6,), 2, network=networks.MLP([16]))
    pv.fit(program, x, epochs=5, batch_size=50, progress=False)
    fitted = pv.fit_codes(program, x, "mixture", components=3)
    drawn, codes = fitted.codes(2000), program.code(x)[0].detach()
    assert fitted.sample(5).shape == (5, 6)
    assert torch.allclose(drawn.mean(0), codes.mean(0), atol=0.15 * float(codes.std()))
    assert torch.allclose(drawn.std(0), codes.std(0), rtol=0.15)


def test_noise_is_for_training_alone() -> None:
    torch.manual_seed(0)
    program, x = programs.Autoencoder((50,), 2, noise=0.5), torch.ones(4, 50)
    seen = []
    program.code.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    program.train().guide(x)
    program.eval().guide(x)
    assert 0.3 < float(seen[0].mean()) < 0.7 and torch.equal(seen[1], x)
    with pytest.raises(pv.UsageError, match="below 1"):
        programs.Autoencoder((6,), noise=1.0)
