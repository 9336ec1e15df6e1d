"""A VAE among scikit-learn's estimators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import pyrovae as pv
from pyrovae import guides, likelihoods, networks
from pyrovae.sklearn import VAETransformer

NOISE = "score_samples draws particles, whose noise goes by a row's place"
EXPECTED = dict.fromkeys(
    ("check_methods_sample_order_invariance", "check_methods_subset_invariance"),
    NOISE + "; test_codes_of_a_row_are_its_own holds the codes to it",
)
SKIPPED = {"check_array_api_input"}  # asks for SCIPY_ARRAY_API in the environment
PENGUINS = Path(__file__).with_name("penguins.csv")


def linear(latent_dim: int | None = None, **settings: object) -> VAETransformer:
    """Probabilistic PCA as a VAE."""
    return VAETransformer(
        latent_dim,
        likelihood=likelihoods.Normal(networks.MLP([])),
        guide=guides.FullRank(networks.MLP([])),
        random_state=0,
        **settings,
    )


def short(**settings: object) -> VAETransformer:
    return VAETransformer(epochs=1, num_particles=5, random_state=0, **settings)


def factors(n: int) -> np.ndarray:
    """Rows of which two factors explain most."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, 6))
    return rng.normal(size=(n, 2)) @ loadings + 0.3 * rng.normal(size=(n, 6))


@pytest.mark.slow
def test_scikit_learn_checks() -> None:
    found = check_estimator(
        short(settings={"compile": False}), expected_failed_checks=EXPECTED, on_skip=None
    )
    status = {each["check_name"]: each["status"] for each in found}
    assert {name for name, how in status.items() if how == "xfail"} == set(EXPECTED)
    assert {name for name, how in status.items() if how == "skipped"} <= SKIPPED
    assert sum(how == "passed" for how in status.values()) > 30


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_codes_of_a_row_are_its_own(kind: str) -> None:
    x = factors(40).astype(kind)
    model = short().fit(x)
    codes, order = model.transform(x), np.random.default_rng(1).permutation(40)
    assert codes.dtype == model.inverse_transform(codes).dtype == kind
    near = 1e-12 if kind == "float64" else 1e-5
    np.testing.assert_allclose(model.transform(x[order]), codes[order], atol=near)
    np.testing.assert_allclose(np.concatenate([model.transform(x[i : i + 1]) for i in range(40)]),
                               codes, atol=near)  # fmt: skip


@pytest.mark.slow
def test_a_search_finds_the_factors_and_their_likelihood() -> None:
    """In a pipeline, against the maximum likelihood of Tipping and Bishop, "Probabilistic principal
    component analysis", 1999, as scikit-learn has it."""
    x = factors(600)
    train, test = x[:300], x[300:]
    steps = make_pipeline(StandardScaler(), linear(epochs=12, batch_size=32, lr=3e-2))
    search = GridSearchCV(steps, {"vaetransformer__latent_dim": [1, 2]}, cv=2).fit(train)
    assert search.best_params_ == {"vaetransformer__latent_dim": 2}
    best = search.best_estimator_
    scaled = best[0].transform(test)
    pca = PCA(2).fit(best[0].transform(train))
    exact, found = pca.score_samples(scaled), best.score_samples(test)
    assert abs(found.mean() - exact.mean()) < 0.4  # nats; one factor is 1.9 nats worse
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert best.score(test) == pytest.approx(found.mean())
    again = best[1].inverse_transform(best.transform(test))
    least = np.square(pca.inverse_transform(pca.transform(scaled)) - scaled).mean()
    assert np.square(again - scaled).mean() < 1.5 * least
    assert best[:-1].get_feature_names_out().tolist() == [f"x{k}" for k in range(6)]
    assert best.get_feature_names_out().tolist() == ["z0", "z1"]


def test_gaps_are_missing_entries() -> None:
    x = factors(60)
    x[::3, 1] = np.nan
    model = short().fit(x)
    assert np.isfinite(model.transform(x)).all() and np.isfinite(model.score_samples(x)).all()


def test_a_table_is_modelled_by_its_columns() -> None:
    frame = pd.read_csv(PENGUINS).set_index(np.arange(1000, 1000 + len(pd.read_csv(PENGUINS))))
    model = short(kinds={"year": "category"}).set_output(transform="pandas").fit(frame)
    codes = model.transform(frame)
    assert codes.index.equals(frame.index) and list(codes) == model.get_feature_names_out().tolist()
    assert codes.shape == (len(frame), 1 + frame.shape[1] // 2)
    pd.testing.assert_frame_equal(codes, pd.DataFrame(model.transform(frame[frame.columns])))
    plain = clone(model).set_output(transform="default").fit(frame).transform(frame)
    np.testing.assert_array_equal(codes, plain)  # the same seed
    for table in (model.inverse_transform(codes), model.sample(5)):
        assert list(table) == list(frame)
        assert set(table["species"]) <= set(frame["species"])
        assert set(table["year"]) <= set(frame["year"])
    alone = pv.encode(model.vae_, frame)
    np.testing.assert_allclose(codes, alone, atol=1e-6)
    with pytest.raises(pv.UsageError, match=r"'Emperor'.*none of its levels"):
        model.transform(frame.assign(species="Emperor"))
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(frame.drop(columns="sex"))


def test_parts_are_copied_and_settings_handed_on() -> None:
    part, x = likelihoods.StudentT(networks.MLP([8])), factors(40)
    model = short(likelihood=part, settings={"validation": 10})
    model.fit(x)
    assert isinstance(model.vae_.likelihood, likelihoods.StudentT)
    assert model.vae_.likelihood is not part and not list(part.parameters())
    assert "validation_elbo" in model.history_.last
    assert clone(model).fit(x).score(x) == model.score(x)
    assert {**model.get_params(), "likelihood": None} == {
        **clone(model).get_params(), "likelihood": None
    }  # fmt: skip
    with pytest.raises(pv.UsageError, match="epoch"):
        short(settings={"epoch": 2}).fit(x)
    with pytest.raises(pv.UsageError, match="latent_dim"):
        short().set_params(latent_dim=0).fit(x)
    with pytest.raises(pv.UsageError, match="one per unit of z"):
        model.inverse_transform(np.zeros((2, 9)))


def test_a_mask_hides_and_an_index_stays() -> None:
    import pandas as pd

    x = np.random.default_rng(0).normal(size=(60, 3))
    masked = np.ma.masked_array(x, x > 1)
    gaps = np.where(x > 1, np.nan, x)
    short = {"epochs": 1, "random_state": 0, "num_particles": 5}
    given = [VAETransformer(2, **short).fit(one).score(gaps) for one in (masked, gaps)]
    assert given[0] == given[1]
    frame = pd.DataFrame(x, columns=list("abc"), index=range(100, 160))
    model = VAETransformer(2, **short).set_output(transform="pandas").fit(frame)
    assert list(model.inverse_transform(model.transform(frame)).index) == list(frame.index)
