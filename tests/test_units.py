"""Units live in the model: what they are learned from, and that nothing else depends on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pyrovae as pv
from pyrovae import likelihoods, networks, priors
from pyrovae.likelihoods import Likelihood
from pyrovae.units import Units

SMALL = networks.MLP([16])


def table(n: int = 400) -> Tensor:
    """Columns of very different units that one factor moves, with gaps."""
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, n, generator=generator), torch.randn(n, 3, generator=generator)
    x = torch.stack([
        0.01 + 0.002 * (z[0] + 0.3 * noise[:, 0]),
        4200 + 800 * (z[0] + 0.3 * noise[:, 1]),
        (2 + 0.7 * z[1] + 0.2 * noise[:, 2]).exp(),
    ], 1)  # fmt: skip
    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
    return x


def fitted(x: Tensor, make: type[Likelihood] | None = None, **options: object) -> pv.VAE:
    torch.manual_seed(0)
    columns = [likelihoods.Normal(), likelihoods.Normal(), likelihoods.LogNormal()]
    likelihood = likelihoods.Mixed(columns, SMALL) if make is None else make(SMALL, **options)
    vae = pv.VAE((x.shape[1],), 2, likelihood=likelihood, guide=pv.guides.MeanField(SMALL))
    pv.fit(vae, x, epochs=15, batch_size=50, progress=False, compile=False)
    return vae


SCALES = torch.tensor([1000.0, 0.001, 50.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [None, likelihoods.Normal, likelihoods.Laplace, likelihoods.StudentT],
    ids=["Mixed", "Normal", "Laplace", "StudentT"],
)
def test_a_change_of_units_shifts_the_elbo_by_the_log_of_the_scale(
    make: type[Likelihood] | None,
) -> None:
    """Grams or kilograms: the same training, the same model, densities per another unit."""
    x = table()
    one, other = fitted(x, make), fitted(x * SCALES, make)
    shift = ((~x.isnan()) * SCALES.log()).sum(1)
    ours, theirs = pv.elbo(one, x, 20), pv.elbo(other, x * SCALES, 20)
    torch.testing.assert_close(ours - shift, theirs, atol=0.02, rtol=0)
    evidence = [pv.log_evidence(one, x, 50) - shift, pv.log_evidence(other, x * SCALES, 50)]
    torch.testing.assert_close(*evidence, atol=0.02, rtol=0)
    torch.testing.assert_close(pv.encode(one, x), pv.encode(other, x * SCALES), atol=0.01, rtol=0)
    both = pv.impute(one, x) * SCALES, pv.impute(other, x * SCALES)
    torch.testing.assert_close(*both, rtol=0.01, atol=0)
    both = pv.sample(one, 50) * SCALES, pv.sample(other, 50)
    torch.testing.assert_close(*both, rtol=0.02, atol=1e-4)


def test_a_shift_of_real_columns_changes_no_density() -> None:
    x = table()[:, :2] * torch.tensor([1000.0, 0.01])
    one, other = (fitted(each, likelihoods.Normal) for each in (x, x + 500))
    torch.testing.assert_close(pv.elbo(one, x, 20), pv.elbo(other, x + 500, 20), atol=0.05, rtol=0)


def test_units_are_the_mean_and_the_deviation_of_the_training_part_alone() -> None:
    x = torch.randn(300, 2) * torch.tensor([3.0, 700.0]) + 40
    vae = pv.VAE((2,), 2, likelihood=likelihoods.Normal(SMALL))
    train, held = pv.tensors.TensorData(x).split(0.3, seed=0)
    pv.fit(vae, x, epochs=1, validation=0.3, progress=False, compile=False)
    units = vae.likelihood.scale_of
    assert units is not None
    np.testing.assert_allclose(units.centre, train.x.double().mean(0), rtol=1e-5)
    np.testing.assert_allclose(units.unit, train.x.double().std(0, correction=0), rtol=1e-5)
    pv.fit(vae, held.x * 1000, epochs=1, progress=False, compile=False)  # they stay
    np.testing.assert_allclose(units.centre, train.x.double().mean(0), rtol=1e-5)


def test_units_are_shared_within_a_channel_and_a_column_of_a_series() -> None:
    x = torch.randn(50, 2, 4, 4) * torch.tensor([1.0, 200.0]).reshape(2, 1, 1)
    units = Units((2, 4, 4))
    assert units.measure(x)
    flat = x.transpose(0, 1).reshape(2, -1)
    np.testing.assert_allclose(units.unit[:, 0, 0], flat.std(1, correction=0), rtol=1e-5)
    assert bool((units.unit == units.unit[:, :1, :1]).all())
    series = torch.randn(50, 7, 3) * torch.tensor([1.0, 10.0, 100.0])
    units = Units((7, 3))
    units.measure(series)
    np.testing.assert_allclose(units.unit[0], series.flatten(0, 1).std(0, correction=0), rtol=1e-5)


def test_images_in_0_to_1_are_seen_as_they_are() -> None:
    x = torch.rand(20, 1, 4, 4)
    likelihood = likelihoods.Normal(SMALL)
    likelihood.build((2,), (1, 4, 4))
    likelihood.measure(x)
    assert likelihood.measured and torch.equal(likelihood.features(x), x)


def test_what_never_varies_and_what_is_never_known_have_a_unit_of_one() -> None:
    units = Units((3,))
    x = torch.tensor([[5.0, torch.nan, 1.0], [5.0, torch.nan, 3.0]])
    units.measure(x)
    assert units.unit.tolist() == [1, 1, 1] and units.centre.tolist() == [5, 0, 2]
    assert units(x).tolist() == [[0, 0, -1], [0, 0, 1]]


KINDS = {
    "Normal of 5e4, 2,400 channels": (
        lambda: likelihoods.Normal(SMALL),
        lambda g: (
            5e4
            + 9e3 * torch.randn(60, 1, generator=g)
            + 2e3 * torch.randn(60, 2400, generator=g)
        ),
    ),
    "int16 audio": (
        lambda: likelihoods.Normal(SMALL),
        lambda g: (8000 * torch.randn(60, 1, 128, generator=g)).round().clamp(-(2**15), 2**15 - 1),
    ),
    "images of 0 to 300": (
        lambda: likelihoods.Normal(SMALL),
        lambda g: 300 * torch.rand(60, 1, 1, 1, generator=g) * torch.rand(60, 1, 6, 6, generator=g),
    ),
    "Poisson of thousands": (
        lambda: likelihoods.Poisson(SMALL),
        lambda g: torch.poisson(4000 * (1 + 0.3 * torch.rand(60, 4, generator=g)), generator=g),
    ),
    "counts of very different size": (
        lambda: likelihoods.NegativeBinomial(SMALL),
        lambda g: torch.poisson(
            torch.tensor([0.1, 3.0, 5e5]) * torch.rand(200, 3, generator=g), generator=g
        ),
    ),
    "900 levels": (
        lambda: likelihoods.Mixed([likelihoods.Categorical(900), likelihoods.Normal()], SMALL),
        lambda g: torch.stack([
            torch.randint(0, 900, (400,), generator=g).float(),
            torch.randn(400, generator=g),
        ], 1),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_likelihood_starts_where_the_data_are(kind: str) -> None:
    """Before a step is taken draws have the data's size, after some the bound has risen."""
    make, draw = KINDS[kind]
    x = draw(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    vae = pv.VAE(tuple(x.shape[1:]), 2, likelihood=make(), guide=pv.guides.MeanField(SMALL))
    vae.initialise(pv.tensors.TensorData(x))
    drawn = pv.sample(vae, 2000)
    centre, spread = x.double().median(0).values, x.double().std(0)
    # what shares a unit starts alike; a first network answers counts within a factor of two
    near = 2 * spread + 0.5 * centre.abs() + 1
    assert bool(((drawn.double().median(0).values - centre).abs() < near).all())
    start = pv.elbo(vae, x).mean()
    history = pv.fit(vae, x, epochs=20, batch_size=20, progress=False, compile=False)
    assert history.last["elbo"] > float(start) and np.isfinite(history.last["elbo"])


@pytest.mark.parametrize("kind", ["Poisson of thousands", "counts of very different size"])
def test_a_decoder_asked_far_out_does_not_answer_by_factors(kind: str) -> None:
    make, draw = KINDS[kind]
    x = draw(torch.Generator().manual_seed(0))
    vae = pv.VAE(tuple(x.shape[1:]), 2, likelihood=make(), guide=pv.guides.MeanField(SMALL))
    vae.initialise(pv.tensors.TensorData(x))
    means = pv.decode(vae, 1e4 * torch.randn(100, 2))
    assert bool((means <= 1.01 * np.e * x.amax(0)).all())
    skewed = x[:, -1:].clamp_min(1e-3)
    vae = pv.VAE((1,), 2, likelihood=likelihoods.LogNormal(SMALL))
    vae.initialise(pv.tensors.TensorData(skewed))
    spread = skewed.log().std()
    medians = vae.likelihood(1e4 * torch.randn(100, 2)).base_dist.loc
    assert bool((medians <= skewed.log().max() + 1.01 * spread).all())


def test_units_are_saved_and_come_back(tmp_path: Path) -> None:
    x = table()
    vae = fitted(x)
    back = pv.load(pv.save(vae, tmp_path))
    assert back.likelihood.measured
    torch.testing.assert_close(pv.elbo(vae, x), pv.elbo(back, x), rtol=0, atol=0)


def test_without_units_a_network_sees_the_data() -> None:
    likelihood = likelihoods.Normal(SMALL, units="none")
    likelihood.build((2,), (3,))
    x = 100 * torch.randn(5, 3)
    likelihood.measure(x)
    assert torch.equal(likelihood.features(x), x) and not list(likelihood.buffers())
    with pytest.raises(pv.UsageError, match="units is auto or none, got 'mm'"):
        likelihoods.Normal(SMALL, units="mm")


def test_pseudo_data_within_0_and_1_are_refused_beside_standardised_data() -> None:
    vae = pv.VAE((3,), 2, prior=priors.VampPrior(4), likelihood=likelihoods.Normal(SMALL))
    with pytest.raises(pv.UsageError, match="VampPrior\\(unit=False\\)"):
        pv.fit(vae, table()[:, :3].nan_to_num(1.0), epochs=1, progress=False)


def test_categories_are_seen_as_one_hot_codes() -> None:
    likelihood = likelihoods.Categorical(3, SMALL)
    likelihood.build((2,), (2,))
    x = torch.tensor([[0.0, 2.0], [torch.nan, 1.0]])
    seen = likelihood.features(x)
    assert seen.shape == (2, *likelihood.feature_shape) == (2, 3, 2)
    assert seen[0].T.tolist() == [[1, 0, 0], [0, 0, 1]] and seen[1].T.tolist() == [
        [0] * 3,
        [0, 1, 0],
    ]
    image = likelihoods.Categorical(4, SMALL)
    image.build((2,), (2, 5, 5))
    x = torch.randint(0, 4, (3, 2, 5, 5)).float()
    seen = image.features(x)
    assert seen.shape == (3, 8, 5, 5)
    assert torch.equal(seen.unflatten(1, (4, 2)).argmax(1).float(), x)
    assert torch.equal(image.marks(x)[:, :2], x)


def test_mixed_shows_its_columns_and_their_gaps() -> None:
    columns = [likelihoods.Normal(), likelihoods.Categorical(3), likelihoods.Normal()]
    likelihood = likelihoods.Mixed(columns, SMALL)
    likelihood.build((2,), (3,))
    x = torch.tensor([[1.0, 0.0, 5.0], [3.0, 2.0, torch.nan], [2.0, 1.0, 7.0]])
    likelihood.measure(x)
    seen = likelihood.features(x)
    # the two real columns together, the one-hot code, a mark for the column that had a gap
    assert seen.shape == (3, *likelihood.feature_shape) == (3, 2 + 3 + 3)
    np.testing.assert_allclose(seen[:, 0], (x[:, 0] - 2) / np.sqrt(2 / 3), atol=1e-6)
    assert seen[:, 1].tolist() == [-1, 0, 1] and seen[:, 2:5].argmax(1).tolist() == [0, 2, 1]
    assert seen[:, 5:].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert likelihood.marks(x)[:, [0, 1]].equal(x[:, [0, 2]]) or bool(x.isnan().any())
