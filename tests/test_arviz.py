"""What ArviZ itself makes of a pair's posterior: tables, plots, LOO."""

from __future__ import annotations

import numpy as np
import pairs
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from pairs import PPCA
from torch import Tensor

import pyrovae as pv

az = pytest.importorskip("arviz", reason="ArviZ is an extra: pip install pyrovae[arviz]")
VERSION = int(az.__version__.split(".")[0])  # from 1 on: a DataTree, and other names

pytestmark = pytest.mark.filterwarnings("ignore")  # ArviZ's own, of its future


def bed(n: int = 6) -> tuple[PPCA, Tensor]:
    return PPCA("diagonal"), pairs.data(n, 5)


@pytest.mark.parametrize("method", ["hmc", "guide"])
def test_groups_dimensions_and_numbers(method: str) -> None:
    pair, x = bed()
    found = pv.to_arviz(pair, x, draws=60, chains=4, method=method)
    assert found.posterior["z"].dims == ("chain", "draw", "datum", "z_unit")
    assert found.posterior["z"].shape == (4, 60, 6, 2) == found.prior["z"].shape
    assert (
        found.posterior_predictive["x"].shape == (4, 60, 6, 5) == found.prior_predictive["x"].shape
    )
    assert found.observed_data["x"].dims == ("datum", "x_unit")
    np.testing.assert_array_equal(found.observed_data["x"], x)
    # the log likelihood is that of x at the draws, and the weights add to it prior and guide
    z = torch.as_tensor(found.posterior["z"].values)
    likelihood = dist.Normal(z @ pair.w.detach().T, pair.noise).to_event(1).log_prob(x)
    ours = torch.as_tensor(found.log_likelihood["per_datum"].values)
    torch.testing.assert_close(ours, likelihood, rtol=1e-4, atol=1e-4)
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1).log_prob(z)
    stats = found.sample_stats
    if method == "hmc":
        lp = torch.as_tensor(stats["lp"].values)
        torch.testing.assert_close(lp, likelihood + prior, rtol=1e-4, atol=1e-4)
        assert float(stats["acceptance_rate"].mean()) > 0.5
    else:
        weights = torch.as_tensor(stats["log_weight"].values).flatten(0, 1)
        evidence = weights.logsumexp(0) - np.log(240)
        exact = pair.log_evidence(x).detach()
        error = (weights - evidence).exp().std(0) / 240**0.5
        assert ((evidence - exact).abs() < 4 * error + 1e-4).all()


def test_arviz_summarises_and_plots() -> None:
    pair, x = bed()
    found = pv.to_arviz(pair, x, draws=60)
    table = az.summary(found, var_names=["z"])
    assert len(table) == 12 and (table["r_hat"] < 1.1).all()
    exact = pair.posterior(x)[0].detach().flatten()
    spread = pair.posterior(x)[1].detach().diagonal().sqrt().repeat(6)
    ess = torch.as_tensor(table["ess_bulk"].values)
    assert (
        (torch.as_tensor(table["mean"].values) - exact).abs() < 4 * spread / ess.sqrt() + 6e-4
    ).all()
    assert az.plot_trace(found, var_names=["z"], coords={"datum": [0]}) is not None
    if VERSION < 1:
        assert az.plot_posterior(found, var_names=["z"], coords={"datum": [0]}) is not None
        assert az.plot_ppc(found, num_pp_samples=5) is not None
    else:
        assert az.plot_dist(found, var_names=["z"], coords={"datum": [0]}) is not None
        assert az.plot_ppc_dist(found, num_samples=5) is not None


def test_leave_one_out() -> None:
    """A datum has latents of its own, so that its draws say much of it: k-hat says so, and the
    sum is a number."""
    pair, x = bed(20)
    found = az.loo(pv.to_arviz(pair, x, draws=60), pointwise=True)
    total, each = (found.elpd_loo, found.loo_i) if VERSION < 1 else (found.elpd, found.elpd_i)
    assert np.isfinite(total) and len(each) == 20


def test_columns_have_their_names() -> None:
    frame = pd.DataFrame({"height": [1.5, 2.0, 1.0, 1.2], "weight": [0.1, 0.2, 0.4, 0.3]})
    table = pv.data.table(frame) if hasattr(pv.data, "table") else None
    if table is None:
        pytest.skip("tables have no names yet")
    vae = pv.VAE((2,), 1, likelihood=pv.likelihoods.Normal())
    found = pv.to_arviz(vae, table, draws=4, method="guide")
    assert list(found.observed_data.coords["column"].values) == ["height", "weight"]


def test_discrete_latents_and_series_of_sites() -> None:
    found = pv.to_arviz(pairs.binary_codes().pair, pairs.data(6, 3), draws=10, method="guide")
    assert found.posterior["z"].shape == (4, 10, 6, 4)
    two = pairs.two_level()
    both = pv.to_arviz(two.pair, two.args[0], draws=10)
    assert set(both.posterior.data_vars) == {"z1", "z2"}


def test_mistakes_speak() -> None:
    with pytest.raises(pv.UsageError, match="'hmc' or 'guide'"):
        pv.to_arviz(*bed(), method="nuts")
