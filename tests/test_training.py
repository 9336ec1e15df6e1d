"""fit: what it learns, repeats, refuses and leaves behind."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import PPCA
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv

X = torch.bernoulli(torch.rand(96, 6, generator=torch.Generator().manual_seed(0)))


def vae(seed: int = 0) -> pv.VAE:
    torch.manual_seed(seed)
    return pv.VAE((6,), 2, likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP([8])))


def fit(pair: object, x: object = X, **settings: object) -> pv.History:
    return pv.fit(pair, x, **{"epochs": 2, "batch_size": 32, "progress": False, **settings})


def weights(pair: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in pair.parameters()]


def test_ppca_reaches_the_maximum_likelihood() -> None:
    """Trained on data with known covariance, the evidence is that of the closed-form optimum."""
    truth = PPCA("exact", d=5, k=2)
    x = pv.sample(truth, 2000, like=torch.zeros(1, 5))

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(5, 2) * 0.1)
            self.raw = nn.Parameter(torch.zeros(()))
            self.encoder = nn.Linear(5, 2)
            self.log_scale = nn.Parameter(torch.zeros(2))

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                fn = dist.Normal(z @ self.w.T, self.raw.exp()).to_event(1)
                pyro.sample("x", fn, obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                fn = dist.Normal(self.encoder(x), self.log_scale.exp()).to_event(1)
                pyro.sample("z", fn)

    torch.manual_seed(0)
    pair = Linear()
    pv.fit(pair, x, epochs=60, batch_size=100, lr=0.01, loss=TraceMeanField_ELBO(), progress=False)
    values = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    sigma2 = values[2:].mean()
    best = -0.5 * (values[:2].log().sum() + 3 * sigma2.log() + 5 * (1 + math.log(2 * math.pi)))
    found = pv.evaluate(pair, x, 200)
    assert abs(float(found.elbo.mean() - best)) < 0.02
    assert abs(float(found.log_evidence.mean() - best)) < 0.02
    assert found.active_units == 2


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO], ids=lambda c: c.__name__)
def test_the_same_seed_gives_the_same_weights(loss: Callable[[], object]) -> None:
    first, second, third = vae(), vae(), vae()
    before = torch.get_rng_state()
    fit(first, loss=loss(), validation=0.2)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second.load_state_dict(vae().state_dict())
    fit(second, loss=loss(), validation=0.2)
    fit(third, loss=loss(), validation=0.2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights(first), weights(third), strict=True))


def test_watching_does_not_change_training(tmp_path: Path) -> None:
    """Progress, metrics, validation data and callbacks leave the weights alone."""
    first, second = vae(), vae()
    fit(first)
    seen = []
    fit(second, validation=X[:8], callbacks=[lambda h: seen.append(h.last["epoch"])],
        out=tmp_path / "run", progress=True)  # fmt: skip
    assert seen == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_two_models_in_one_process_do_not_influence_each_other() -> None:
    alone = vae()
    fit(alone)
    other = vae(seed=5)
    fit(other, epochs=3, lr=0.1)
    after = vae()
    fit(after)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone), weights(after), strict=True))
    start = weights(vae(seed=5))
    assert all(not torch.equal(a, b) for a, b in zip(weights(other), start, strict=True))


def test_what_data_may_be() -> None:
    """Tensor, array, Dataset and loader give the same first step where order is the same."""
    reference = weights_after(X)
    for x in (X.numpy(), X.double(), TensorDataset(X), pv.data.TensorData(X)):
        assert all(torch.equal(a, b) for a, b in zip(reference, weights_after(x), strict=True))
    loader = DataLoader(TensorDataset(X), batch_size=24)
    pair = vae()
    history = fit(pair, loader)
    assert history.last["step"] == 8 and history.last["elbo"] > -6 * math.log(2) - 5
    with pytest.raises(pv.UsageError, match="streamed data cannot be split"):
        fit(vae(), loader, validation=0.1)


def weights_after(x: object) -> list[Tensor]:
    pair = vae()
    fit(pair, x, epochs=1)
    return weights(pair)


@pytest.mark.parametrize(
    "loss", [RenyiELBO(alpha=0.5, num_particles=3), TraceGraph_ELBO()], ids=["Renyi", "Graph"]
)
def test_losses_without_a_differentiable_form_train(loss: object) -> None:
    pair = vae()
    start = pv.elbo(pair, X, 50).mean()
    fit(pair, loss=loss, epochs=30, lr=0.01)
    assert pv.elbo(pair, X, 50).mean() > start + 0.05


@pytest.mark.slow
def test_score_function_and_enumeration_train() -> None:
    """A discrete latent: sampled with the score function, and summed out exactly."""
    for infer, loss in (({}, Trace_ELBO(num_particles=5)), ({"enumerate": "parallel"},
                        TraceEnum_ELBO(max_plate_nesting=1))):  # fmt: skip
        torch.manual_seed(0)
        encoder, locs = nn.Linear(1, 2), nn.Parameter(torch.tensor([-0.5, 0.5]))

        def model(x: Tensor, locs: Tensor = locs) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Bernoulli(0.5))
                pyro.sample("x", dist.Normal(locs[y.long()], 0.5), obs=x)

        def guide(x: Tensor, encoder: nn.Module = encoder, infer: dict = infer) -> None:
            with pyro.plate("data", len(x)):
                logits = encoder(x[:, None])
                pyro.sample("y", dist.Bernoulli(logits=logits[:, 0]), infer=infer)

        x = torch.cat([torch.full((100,), -2.0), torch.full((100,), 2.0)])
        pv.fit(pv.Pair(model, guide), x, loss=loss, epochs=60, batch_size=50, lr=0.05,
               progress=False)  # fmt: skip
        assert (locs.detach().sort().values - torch.tensor([-2.0, 2.0])).abs().max() < 0.3


def test_metrics_and_folder(tmp_path: Path) -> None:
    pair = vae()
    history = fit(pair, validation=0.25, out=tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [1, 2]
    for name in ("elbo", "reconstruction", "kl", "validation_elbo", "loss", "images_per_second"):
        assert float(rows[-1][name]) == pytest.approx(history.last[name])
    last = history.last
    assert last["elbo"] == pytest.approx(last["reconstruction"] - last["kl"])
    again = pv.load(tmp_path / "run")
    assert torch.equal(pv.elbo(pair, X), pv.elbo(again, X))
    with pytest.raises(pv.UsageError, match="exists already"):
        fit(vae(), out=tmp_path / "run")
    fit(vae(), out=tmp_path / "run", force=True)


def test_a_callback_can_end_training() -> None:
    history = fit(vae(), epochs=50, callbacks=[lambda h: len(h.rows) == 3])
    assert len(history.rows) == 3


def test_dynamic_binarisation_draws_anew() -> None:
    grey = torch.full((64, 6), 0.5)
    seen: list[Tensor] = []

    class Watching(pv.VAE):
        def guide(self, x: Tensor) -> Tensor:
            if self.training:
                seen.append(x.clone())
            return super().guide(x)

    data = pv.data.TensorData(grey).binarised("dynamic")
    pv.fit(Watching((6,), 2), data, epochs=2, batch_size=64, compile=False, progress=False)
    first, second = seen[-2:]
    assert set(first.unique().tolist()) == {0.0, 1.0} and not torch.equal(first, second)
    assert abs(float(torch.stack([first, second]).mean()) - 0.5) < 4 * 0.5 / math.sqrt(768)


def test_unstable_training_stops_with_a_reason() -> None:
    class Explodes(pv.VAE):
        def guide(self, x: Tensor) -> Tensor:
            with pyro.plate("data", len(x)):
                loc = self.posterior.body(x)[0] * 1e30
                return pyro.sample("z", dist.Normal(loc * 1e30, 1.0).to_event(1))

    with pytest.raises((pv.training.Diverged, pv.UsageError)):
        fit(Explodes((6,), 2))


def test_validation_of_distributions_stays_as_it_was() -> None:
    fit(vae())
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, torch.tensor(-1.0))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fit(vae(), X * 0.5), "grey pixels, .* Binarise"),
        (lambda: fit(vae(), X * 3), "--likelihood Normal"),
        (lambda: fit(vae(), torch.where(X > 0, math.inf, X)), "entries that are infinite"),
        (lambda: fit(vae(), X[:0]), "no data"),
        (lambda: fit(vae(), X, batch_size=97), "larger than the 96"),
        (lambda: fit(vae(), X, batch_size=0), "batch_size must be"),
        (lambda: fit(vae(), X, epochs=0), "epochs must be"),
        (lambda: fit(vae(), X, lr=-1.0), "lr must be"),
        (lambda: fit(vae(), X, lr=math.nan), "lr must be"),
        (lambda: fit(vae(), X, validation=1.5), "hold out"),
        (lambda: fit(vae(), X, device="cuda:9"), "not usable here"),
        (lambda: fit(vae(), X[:, :5]), r"batch of shape \(32, 5\)"),
        (lambda: fit(vae(), "mnist5k"), "is a name, not data"),
        (lambda: fit(nn.Linear(2, 2), X), "expected a pair"),
        (lambda: fit(vae(), np.array(["a", "b"])), "not real numbers"),
        (lambda: fit(vae(), X, out="/proc/pyrovae/run"), "cannot write"),
    ],
)
def test_mistakes_speak(call: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        call()


def test_support_is_checked_on_all_data() -> None:
    x = X.clone()
    x[-1, -1] = 0.25  # one grey pixel in the last datum
    with pytest.raises(pv.UsageError, match="0 or 1, the data range from 0 to 1"):
        fit(vae(), x)


def test_the_usual_batch_is_as_large_as_the_data_and_a_given_one_is_kept_to() -> None:
    few, model = X[:10], vae()
    history = pv.fit(model, few, epochs=1, progress=False)
    assert history.last["step"] == 1
    for count, size in ((100, 16), (400, 50), (2000, 128)):  # of few data an eighth, 16 at least
        x = X[torch.arange(count) % len(X)]
        history = pv.fit(vae(), x, epochs=1, progress=False)
        assert history.last["step"] == math.ceil(count / size)
    with pytest.raises(pv.UsageError, match="batch_size 128 is larger than the 10 training data"):
        pv.fit(vae(), few, batch_size=128, progress=False)
    with pytest.raises(pv.UsageError, match="batch_size must be a whole number of at least 1"):
        pv.fit(vae(), few, batch_size=0, progress=False)


def test_a_run_that_noted_the_usual_size_is_the_same_run(tmp_path: Path) -> None:
    x = torch.cat([X, X])
    pv.fit(vae(), x, epochs=1, batch_size=len(x) // 8, out=tmp_path / "run", progress=False)
    history = pv.fit(vae(), x, epochs=2, out=tmp_path / "run", resume=True, progress=False)
    assert len(history.rows) == 2
    with pytest.raises(pv.UsageError, match="batch_size was 24, is now 96"):
        pv.fit(vae(), x, epochs=3, batch_size=96, out=tmp_path / "run", resume=True, progress=False)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optim", "did you mean 'optimizer'"),
        ("learning_rate", "did you mean 'lr'"),
        ("num_epochs", "did you mean 'epochs'"),
        ("beta", r"did you mean 'loss=pv.objectives.BetaELBO\(beta=...\)'"),
        ("ephocs", "did you mean 'epochs'"),
        ("xyzzy", "it has pair, x, loss"),
    ],
)
def test_an_argument_by_another_name_is_told_its_own(word: str, said: str) -> None:
    with pytest.raises(pv.UsageError, match=f"fit has no argument '{word}'.*{said}"):
        fit(vae(), **{word: 3})


def test_data_of_which_nothing_is_known_are_refused() -> None:
    nothing = torch.full((20, 6), math.nan)
    with pytest.raises(pv.UsageError, match="all entries of the 20 data are missing"):
        fit(vae(), nothing, batch_size=5)
    with pytest.raises(pv.UsageError, match="all entries of the 20 data are missing"):
        pv.fit(vae(), np.asarray(nothing), progress=False)
    assert pv.evaluate(vae(), nothing, 5).elbo.isfinite().all()  # to measure, they are no mistake


@pytest.mark.parametrize(
    ("shape", "gone", "said"),
    [
        ((6,), [2], "column 2 of x is missing"),
        ((6,), [0, 5], "columns 0, 5 of x are missing"),
        ((2, 3), [4], "1 of 6 entries of x are missing"),
    ],
)
def test_an_entry_that_no_datum_has_is_said(
    shape: tuple[int, ...], gone: list[int], said: str
) -> None:
    x = X.clone()
    x[:, gone] = math.nan
    pair = pv.VAE(shape, 2, likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP([8])))
    with pytest.warns(UserWarning, match=f"{said} .NaN. in all of the 96 data"):
        fit(pair, x.reshape(96, *shape))


@pytest.mark.slow
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("rows", [16, 64], ids=["batches", "whole"])
def test_what_surrounds_the_call_changes_nothing(around: Callable[[], Any], rows: int) -> None:
    """Gradients are found in no_grad() and inference_mode() too, to the same bits."""

    def vae() -> pv.VAE:
        torch.manual_seed(0)
        return pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))

    x = torch.randn(64, 4)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": rows, "progress": False, "lr": 1e-2}
    plain, inside = vae(), vae()
    pv.fit(plain, x, **settings)
    with around():
        pv.fit(inside, x.clone(), **settings)
        assert not torch.is_grad_enabled()
        elbo = pv.gap(inside, x[:4].clone(), 20, steps=2).elbo
    assert torch.equal(elbo, pv.gap(inside, x[:4], 20, steps=2).elbo)
    assert all(map(torch.equal, plain.parameters(), inside.parameters()))
    with torch.inference_mode():
        untrainable = vae()
    with pytest.raises(pv.UsageError, match="made under torch.inference_mode.*make it outside"):
        pv.fit(untrainable, x, **settings)


NOTHING = torch.full((64, 4), float("nan"))


@pytest.mark.parametrize(
    ("x", "validation"),
    [
        (NOTHING, None),
        (NOTHING.numpy(), 0.25),
        (DataLoader(TensorDataset(NOTHING), 16), None),
        (torch.zeros(64, 4), NOTHING),
    ],
    ids=["tensor", "array", "loader", "validation"],
)
def test_data_of_which_nothing_is_known(x: Any, validation: Any) -> None:
    with pytest.raises(pv.UsageError, match="all entries .*are missing .NaN., so there is nothing"):
        pv.fit(pv.VAE((4,), 2), x, epochs=1, validation=validation, progress=False)


def test_a_loader_whose_first_data_are_missing_is_taken_and_left_as_it_is() -> None:
    x = torch.cat([NOTHING[:32], torch.randn(32, 4)])
    x[40] = x[41] = float("nan")
    loaders = [
        DataLoader(TensorDataset(x), 1, shuffle=True, generator=torch.Generator().manual_seed(0))
        for _ in range(2)
    ]
    data = pv.tensors.Data
    assert isinstance(stream := pv.data.as_data(loaders[0]), data) and stream.check_known() == ""
    assert all(a[0].equal(b[0]) or a[0].isnan().all() for a, b in zip(*loaders, strict=True))
