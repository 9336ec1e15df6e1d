"""Kinds of programs that came back from the field, each with its right value.

A verb gives the right number or one sentence; where a kind may be refused, the test takes either
and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyrovae as pv
from pyrovae.explorer import View
from zoo import (
    programs_batches,
    programs_groups,
    programs_holders,
    programs_latents,
    programs_observed,
    programs_plates,
    programs_series,
)
from zoo.closed_forms import factor_analysis, gaussian, linear, loadings, seeded

quiet = functools.partial(pv.fit, progress=False)


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    """Pyro's own store is empty before, and whatever a test leaves there goes."""
    pyro.clear_param_store()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
    pyro.clear_param_store()


def paired(made: tuple[Any, Any, Any]) -> tuple[pv.Pair, Any]:
    model, guide, data = made
    return pv.Pair(model, guide), data


@contextlib.contextmanager
def right_or_refused(about: str) -> Iterator[None]:
    """What is asserted within holds, or the verb refuses in one sentence that names ``about``."""
    try:
        yield
    except pv.UsageError as error:
        if about not in str(error):
            raise


# --- numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("logit", [3.0, 0.0, -3.0])
def test_what_a_guide_observes_is_no_draw_of_q(logit: float) -> None:
    pair, data = paired(seeded(lambda: programs_observed.treatment(logit))())
    exact = programs_observed.exact_guide_observes(data)
    assert torch.allclose(pv.log_evidence(pair, data, 4000).double(), exact, atol=0.05)
    found = pv.evaluate(pair, data, 200)
    assert list(found.kl_sites) == ["z"]
    assert (found.elbo.double() - exact).mean() < 0.02


ANALYTIC = {"lr": 0.05, "loss": TraceMeanField_ELBO(), "lr_schedule": pv.schedules.Cosine()}


def below(pair: pv.Pair, data: Any, exact: Tensor) -> float:
    """How far the ELBO of all the data lies below log p of all of them, nats."""
    return float(exact - pv.elbo(pair, data, 1000).double().sum())


@pytest.mark.parametrize(("batch_size", "epochs"), [(60, 200), (6, 20)])
def test_a_latent_of_all_data_is_counted_once_per_epoch(batch_size: int, epochs: int) -> None:
    """In a plain plate, which says nothing of the data that are not in the batch."""

    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    _, guide, x = programs_groups.make_global_mean()
    pair = pv.Pair(model, guide)
    with right_or_refused("mean"):
        quiet(pair, x, epochs=epochs, batch_size=batch_size, **ANALYTIC)
        assert abs(below(pair, x, programs_groups.exact_global_mean(x))) < 0.1


def test_a_latent_of_all_data_under_a_plate_of_n() -> None:
    pair, x = paired(programs_groups.make_global_mean())
    quiet(pair, x, epochs=40, batch_size=6, **ANALYTIC)
    assert abs(below(pair, x, programs_groups.exact_global_mean(x))) < 0.1


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (programs_groups.make_hierarchical, programs_groups.exact_hierarchical),
        (programs_groups.make_auto_delta, programs_groups.exact_delta),
    ],
)
def test_shares_of_what_all_data_share_add_up(
    make: Callable[[], Any], exact: Callable[[Any], Tensor]
) -> None:
    """A guide that is the posterior, and one of points: without noise either way."""
    pair, data = paired(make())
    assert torch.allclose(pv.elbo(pair, data, 5).double().sum(), exact(data), atol=1e-3)


@pytest.mark.parametrize("make", [programs_groups.make_auto_low_rank,
                                  programs_groups.make_auto_list])  # fmt: skip
def test_autoguides_of_regression_lie_below_the_evidence(make: Callable[[], Any]) -> None:
    pair, data = paired(make())
    exact = programs_groups.exact_regression(data)
    assert below(pair, data, exact) > 3
    quiet(pair, data, epochs=150, batch_size=20, **ANALYTIC | {"loss": Trace_ELBO()})
    assert -0.05 < below(pair, data, exact) < 0.7


def test_rows_of_a_graph_are_not_shuffled() -> None:
    """All rows as one batch are the graph as it was given; parts of it are refused."""
    model, guide, data = programs_plates.make_graph()
    nodes = len(data[0])
    losses = torch.tensor([Trace_ELBO().loss(model, guide, *data) / nodes for _ in range(300)])
    pyro.clear_param_store()
    with right_or_refused("nodes"):
        history = quiet(pv.Pair(model, guide), data, epochs=300, batch_size=nodes, lr=1e-12)
        ours = torch.tensor([row["loss"] for row in history.rows])
        error = (losses.var() / 300 + ours.var() / 300).sqrt()
        assert abs(ours.mean() - losses.mean()) < 4 * error
    with pytest.raises(pv.UsageError):
        quiet(pv.Pair(model, guide), data, epochs=1, batch_size=10)


@pytest.mark.parametrize("batch_size", [24, 8])
def test_a_parameter_per_datum_is_not_shuffled(batch_size: int) -> None:
    """An autoguide over a local latent: right, or refused with the ways out; never other rows'."""
    pair, x = paired(programs_groups.make_auto_normal_tied())
    exact = programs_groups.exact_auto_normal_tied(x).sum()
    with right_or_refused("batch"):
        # as many steps of either size
        epochs = 300 if batch_size == len(x) else 100
        quiet(pair, x, epochs=epochs, batch_size=batch_size, **ANALYTIC | {"loss": Trace_ELBO()})
        assert abs(below(pair, x, exact)) < 0.5


def test_a_parameter_per_datum_with_its_places() -> None:
    """The way out: the places are an argument, and batches of any size train their own."""
    pair, data = paired(programs_groups.make_auto_normal_places())
    quiet(pair, data, epochs=100, batch_size=8, **ANALYTIC | {"loss": Trace_ELBO()})
    assert abs(below(pair, data, programs_groups.exact_auto_normal_places(data).sum())) < 0.5


def test_exact_evidence_keeps_its_digits() -> None:
    """Where single precision cannot hold log p(x, z), double does, or it is refused."""
    w = torch.tensor([[1e4], [2e4]])
    x = torch.randn(5, 1) @ w.T + torch.randn(5, 2)
    fine = torch.tensor([[10.0], [20.0]])
    near = torch.randn(5, 1) @ fine.T + 0.01 * torch.randn(5, 2)
    for weight, noise, data in ((w, 1.0, x), (fine, 0.01, near)):

        def model(x: Tensor, w: Tensor = weight, noise: float = noise) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ w.to(z).T, noise).to_event(1), obs=x)

        def guide(x: Tensor, w: Tensor = weight, noise: float = noise) -> None:
            with pyro.plate("data", len(x)):
                scale = (1 + w.square().sum() / noise**2).rsqrt().to(x)
                loc = x @ w.to(x) / (w.square().sum() + noise**2).to(x)
                pyro.sample("z", dist.Normal(loc, scale).to_event(1))

        covariance = weight.double() @ weight.double().T + noise**2 * torch.eye(2).double()
        with right_or_refused("precision"):
            found = pv.exact_log_evidence(pv.Pair(model, guide), data)
            # the data are single-precision numbers: the answer on them, as they are
            assert torch.allclose(found, gaussian(data, covariance), atol=1e-3)


# --- where parameters live -----------------------------------------------------------------


AUTOGUIDES = (
    AutoDelta, AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal,
    AutoLowRankMultivariateNormal,
)  # fmt: skip


def shared_mean(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def far_away() -> Tensor:
    return torch.randn(50, 2) + torch.tensor([3.0, -2.0])


def as_new(auto: Any) -> pv.Pair:
    """As a script that starts again makes it."""
    torch.manual_seed(5)
    return pv.Pair(shared_mean, auto(shared_mean))


@pytest.mark.parametrize("auto", AUTOGUIDES)
def test_autoguides_come_back_from_their_file(auto: Any, tmp_path: Path) -> None:
    x, pair = far_away(), as_new(auto)
    begun = pv.elbo(as_new(auto), x, 20).sum()
    quiet(pair, x, epochs=40, batch_size=50, lr=0.05)
    trained = pv.elbo(pair, x, 20)
    assert trained.sum() > begun + 10
    pv.save(pair, tmp_path / "pair.safetensors")
    again = as_new(auto)
    pv.load(tmp_path / "pair.safetensors", into=again)
    assert torch.allclose(pv.elbo(again, x, 20), trained, atol=1e-4)
    run_before = as_new(auto)
    pv.elbo(run_before, x)
    pv.load(tmp_path / "pair.safetensors", into=run_before)
    assert torch.allclose(pv.elbo(run_before, x, 20), trained, atol=1e-4)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
def test_training_of_an_autoguide_goes_on(auto: Any, tmp_path: Path) -> None:
    x, whole, how = far_away(), as_new(auto), {"batch_size": 50, "lr": 0.02}
    quiet(whole, x, epochs=20, **how)
    quiet(as_new(auto), x, epochs=10, out=tmp_path / "run", **how)
    resumed = as_new(auto)
    quiet(resumed, x, epochs=20, out=tmp_path / "run", resume=True, **how)
    assert torch.allclose(pv.elbo(resumed, x, 20), pv.elbo(whole, x, 20), atol=1e-5)


@pytest.mark.parametrize("step", [SVI, pv.SVI])
def test_what_a_loop_of_the_users_own_trained_is_what_is_measured(step: Any) -> None:
    """Parameters that a loop left in Pyro's store: a pair made of it has them, and none other
    stands for them in silence."""

    def model(x: Tensor) -> None:
        mean = pyro.param("mean", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 0.1))
            pyro.sample("x", dist.Normal(mean + z, 0.1), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * (x - 3), 0.005**0.5))

    x = 3 + 0.02**0.5 * torch.randn(100)
    svi = step(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(150):
        svi.step(x)
    mean = pyro.param("mean").detach()
    assert abs(mean - 3) < 0.1
    exact = dist.Normal(mean, 0.02**0.5).log_prob(x)
    here = pv.Pair.here(model, guide)
    assert (pv.log_evidence(here, x, 2000) - exact).abs().max() < 0.05
    with right_or_refused("store"):
        assert (pv.log_evidence(pv.Pair(model, guide), x, 2000) - exact).abs().max() < 0.05
    assert abs(pv.sample(here, 400, like=x).mean() - mean) < 4 * 0.02**0.5 / 20


@pytest.mark.parametrize("program", ["VAE", "MissingData"])
def test_pyros_own_svi_trains_what_is_declared(program: str) -> None:
    x = (torch.rand(32, 6) > 0.5).float()
    made = (
        pv.VAE((6,), 2)
        if program == "VAE"
        else pv.programs.MissingData(event_shape=(6,), latent_dim=2)
    )
    before = [p.detach().clone() for p in made.parameters()]
    svi = SVI(made.model, made.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(60)]
    assert not any(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))
    assert sum(losses[-10:]) < sum(losses[:10])


HELD = {
    name.removeprefix("make_"): make
    for name, make in inspect.getmembers(programs_holders, inspect.isfunction)
    if name.startswith("make_")
}


@pytest.mark.parametrize("name", HELD)
def test_weights_are_saved_wherever_the_program_holds_them(name: str, tmp_path: Path) -> None:
    (pair, x), (fresh, _) = paired(HELD[name]()), paired(HELD[name]())
    begun = pv.elbo(fresh, x, 20).mean()
    quiet(pair, x + 2, epochs=15, batch_size=8, lr=0.05)
    trained = pv.elbo(pair, x, 20)
    assert abs(trained.mean() - begun) > 0.5
    pv.save(pair, tmp_path / "pair.safetensors")
    again, _ = paired(HELD[name]())
    pv.load(tmp_path / "pair.safetensors", into=again)
    assert torch.allclose(pv.elbo(again, x, 20), trained, atol=1e-4)


@pytest.mark.parametrize("name", HELD)
def test_training_goes_on_wherever_the_program_holds_its_weights(name: str, tmp_path: Path) -> None:
    how = {"batch_size": 8, "lr": 0.05}
    whole, x = paired(HELD[name]())
    quiet(whole, x, epochs=4, **how)
    quiet(paired(HELD[name]())[0], x, epochs=2, out=tmp_path / "run", **how)
    resumed, _ = paired(HELD[name]())
    quiet(resumed, x, epochs=4, out=tmp_path / "run", resume=True, **how)
    assert torch.allclose(pv.elbo(resumed, x, 20), pv.elbo(whole, x, 20), atol=1e-5)


@pytest.mark.parametrize("how", ["partial", "list", "closure"])
def test_modules_are_in_evaluation_mode_wherever_they_are_held(how: str) -> None:
    """Dropout is off, and BatchNorm's averages stay, when a number is asked for."""
    encode = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    decode, held = nn.Linear(2, 5), [encode]
    model = functools.partial(programs_holders.model, decode)
    guides = {
        "partial": functools.partial(programs_holders.guide, encode),
        "list": lambda x: programs_holders.guide(held[0], x),
        "closure": lambda x: programs_holders.guide(encode, x),
    }
    x = torch.randn(20, 5)
    means = encode[0].running_mean.clone()
    codes = pv.encode(pv.Pair(model, guides[how]), x)
    assert torch.equal(encode[0].running_mean, means) and encode.training
    with torch.no_grad():
        assert torch.allclose(codes, encode.eval()(x)[:, :2], atol=1e-5)


@dataclass(slots=True)
class SlottedPair:
    model: Callable[..., None]
    guide: Callable[..., None]


def test_a_pair_may_have_slots() -> None:
    model, guide, x = programs_holders.make_closure()
    found = pv.log_evidence(SlottedPair(model, guide), x, 500)
    assert torch.allclose(found.double(), programs_holders.exact_linear(x), atol=0.1)


# --- programs that must run ----------------------------------------------------------------


def test_more_rows_than_the_plate_holds() -> None:
    """pyro.plate("data", 40, subsample_size=len(x)), and verbs that need more rows than 40."""
    pair, x = paired(programs_plates.make_subsample_size())
    exact = programs_plates.exact_linear
    more = torch.cat([x, x[:20] + 0.1])
    found = pv.evaluate(pair, more, 500)
    assert torch.allclose(found.log_evidence.double(), exact(more), atol=0.1)
    assert pv.sample(pair, 64, like=x).shape == (64, 5)
    assert pv.interpolate(pair, x[:10], x[10:20], 8).shape == (10, 8, 5)
    assert pv.traverse(pair, x, dims=[0, 1], steps=30)[0].shape == (2, 30, 5)
    assert len(pv.calibrate(pair, x, simulations=100).ranks) == 100
    gaps = x.clone()
    gaps[0, 0] = torch.nan
    covariance = programs_plates.W @ programs_plates.W.T + 0.25 * torch.eye(5)
    expected = covariance[0, 1:] @ covariance[1:, 1:].inverse() @ x[0, 1:]
    filled = pv.impute(pair, gaps, num_particles=4000)
    assert torch.equal(filled[1:], x[1:]) and torch.equal(filled[0, 1:], x[0, 1:])
    assert abs(filled[0, 0] - expected) < 0.1


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", ["matrix", "scalar"])
def test_paths_under_weights_that_all_data_share(shape: str, n: int) -> None:
    """The path's ends are what the codes decode to; the weights are whole, not one per datum."""
    if shape == "matrix":
        pair, x = paired(programs_groups.make_matrix_global())
        weights = programs_groups.W.T
    else:
        pair, x = _scaled_by_one_number()
        weights = torch.ones(2, 5)
    ends = (x[:n], x[5 : 5 + n])
    path = pv.interpolate(pair, *ends, 4)
    assert path.shape == (n, 4, 5)
    codes = [pv.encode(pair, end) for end in ends]
    for step, code in ((0, codes[0]), (-1, codes[1])):
        assert torch.allclose(path[:, step], code @ weights, atol=0.2)


def _scaled_by_one_number() -> tuple[pv.Pair, Tensor]:
    encode = nn.Linear(5, 4)

    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = (w * z.sum(-1))[..., None].expand(*z.shape[:-1], 5)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(pyro.param("w_loc", torch.ones(())), 0.01))
        with pyro.plate("data", len(x)):
            loc, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return pv.Pair(model, guide), torch.randn(20, 5)


CENTRES = torch.tensor([[-2.0, 0.0, 1.0, 0.5], [2.0, 1.0, -1.0, 0.0], [0.0, -2.0, 0.0, 1.5]])
FACTORS = loadings(4, [1.2, 0.8])


def _clusters() -> tuple[Any, Any, Tensor]:
    """Groups of factor analysers, the group enumerated in the guide, which is the posterior."""
    covariance = FACTORS @ FACTORS.T + 0.25 * torch.eye(4)
    precision = 1 + FACTORS.square().sum(0) / 0.25
    groups = linear(
        CENTRES @ covariance.inverse(),
        -0.5 * ((CENTRES @ covariance.inverse()) * CENTRES).sum(-1),
    )

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = y @ CENTRES + z @ FACTORS.T
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=groups(x))
            y = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            loc = (x - y @ CENTRES) @ FACTORS / 0.25 / precision
            pyro.sample("z", dist.Normal(loc, precision.rsqrt()).to_event(1))

    y = torch.randint(0, 3, (40,))
    x = CENTRES[y] + torch.randn(40, 2) @ FACTORS.T + 0.5 * torch.randn(40, 4)
    return model, guide, x


def test_checks_of_a_pair_whose_guide_enumerates() -> None:
    pair, x = paired(_clusters())
    parts = torch.stack([factor_analysis(x - c, FACTORS, 0.5) for c in CENTRES.double()])
    exact = parts.logsumexp(0) - math.log(3)
    assert torch.allclose(pv.log_evidence(pair, x, 2000).double(), exact, atol=0.1)
    assert torch.allclose(pv.elbo(pair, x, 200).double(), exact, atol=0.1)
    calibrated = pv.calibrate(pair, x, simulations=200, draws=19)
    assert {name.partition("[")[0] for name in calibrated.names} == {"z"}
    assert calibrated.passes(0.001)
    check = pv.predictive_check(pair, x, torch.mean, replicates=40)
    assert check.p_value > 0.02
    y = torch.eye(3)
    decoded = pv.decode(pair, {"z": torch.zeros(3, 2), "y": y}, like=x)
    assert torch.allclose(decoded, CENTRES, atol=1e-5)


def test_one_number_per_datum() -> None:
    """Every verb sees the code [N] of the tutorials' first pair as one unit."""
    pair, x = paired(programs_latents.make_scalar())
    exact = programs_latents.exact_scalar(x)
    assert torch.allclose(pv.encode(pair, x), x / 2, atol=1e-5)
    assert torch.allclose(pv.exact_log_evidence(pair, x), exact, atol=1e-5)
    index, distance = pv.neighbours(pair, x[:3], x, k=2)
    apart = (x[:3, None] - x).abs() / 2
    nearest = apart.topk(2, largest=False)
    assert torch.equal(index, nearest.indices)
    assert torch.allclose(distance, nearest.values, atol=1e-5)
    images, units, values = pv.traverse(pair, x, steps=5)
    assert units == [0] and torch.allclose(images.flatten(), values.flatten(), atol=1e-5)
    path = pv.interpolate(pair, x[:2], x[2:4], 3)
    middle = (x[:2] + x[2:4]) / 4
    assert path.shape == (2, 3) and torch.allclose(path[:, 1], middle, atol=1e-5)
    found = pv.evaluate(pair, x, 200)
    kl = (0.5 - 1 - math.log(0.5) + x.square() / 4) / 2
    assert found.kl_dimensions["z"].shape == (1,)
    assert torch.allclose(found.kl_dimensions["z"][0].double(), kl.mean().double(), atol=1e-3)
    assert pv.calibrate(pair, x, simulations=100).ranks.shape == (100, 1)
    report = pv.gap(pair, x[:4])
    assert torch.allclose(report.log_evidence.double(), exact[:4], atol=1e-3)
    assert pv.fit_codes(pair, x) is not None
    assert pv.plots.latent_map(pv.encode(pair, x)) is not None
    assert View(pair, x).about()


def test_integers_stay_integers() -> None:
    pair, x = paired(programs_batches.make_tokens())
    exact = programs_batches.exact_tokens(x)
    assert torch.allclose(pv.log_evidence(pair, x, 4000).double(), exact, atol=0.2)
    assert pv.evaluate(pair, x, 100).elbo.isfinite().all()
    history = quiet(pair, x, epochs=4, batch_size=10)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    drawn = pv.sample(pair, 6, like=x)
    assert drawn.shape == (6, 4) and not drawn.is_floating_point()
    assert int(drawn.min()) >= 0 and int(drawn.max()) < 7


def test_large_integers_keep_their_digits() -> None:
    """Above 2**24 a number is no longer a float32: what the programs see is what was given."""
    seen: list[Tensor] = []

    def model(x: Tensor, stamp: Tensor) -> None:
        seen.append(stamp)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, stamp: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    stamps = 1_700_000_000 + torch.arange(10)
    pv.elbo(pv.Pair(model, guide), (torch.randn(10), stamps))
    assert seen and all(torch.isin(s.long(), stamps).all() for s in seen)
    assert all(len(s.unique()) == len(s) for s in seen)


def test_a_sketch_of_a_parameter_per_datum() -> None:
    pair, data = paired(programs_plates.make_places())
    before = str(pv.sketch(pair, data))
    quiet(pair, data, epochs=1, batch_size=10)
    assert str(pv.sketch(pair, data)) == before
    assert "z" in before


def test_an_auxiliary_draw_that_deltas_unpack() -> None:
    """The guide is the posterior, and what Deltas hand on is no point: weights are constant."""
    pair, x = paired(programs_latents.make_auxiliary())
    exact = programs_latents.exact_auxiliary(x)
    assert torch.allclose(pv.log_evidence(pair, x, 50).double(), exact, atol=1e-3)
    assert torch.allclose(pv.elbo(pair, x, 50).double(), exact, atol=1e-3)
    found = pv.evaluate(pair, x, 100)
    assert torch.allclose(found.log_evidence.double(), exact, atol=1e-3)
    with right_or_refused("joint"):
        report = pv.gap(pair, x[:4])
        assert torch.allclose(report.log_evidence.double(), exact[:4], atol=1e-2)


def _with_gaps() -> Tensor:
    x = programs_holders.make_closure()[2]
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.2] = torch.nan
    x[x.isnan().all(1), 0] = 0.0
    return x


def _loader(x: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x), batch_size=8)


@pytest.mark.parametrize("form", ["tensor", "loader", "late", "file"])
def test_nan_is_missing_wherever_data_come_from(form: str, tmp_path: Path) -> None:
    """The same data as a tensor, from a DataLoader (with gaps from the start, or not before its
    last batches), and from a file."""
    model, guide, _ = programs_holders.make_closure()
    pair, x = pv.Pair(model, guide), _with_gaps()
    if form == "late":
        x[:16] = x[:16].nan_to_num(0.0)
    np.save(tmp_path / "x.npy", x.numpy())
    data = {"tensor": x, "loader": _loader(x), "late": _loader(x),
            "file": pv.streams.FileData(tmp_path / "x.npy")}[form]  # fmt: skip
    w = programs_holders.W.double()
    covariance = w @ w.T + 0.25 * torch.eye(5).double()
    exact = torch.stack(
        [gaussian(r[m], covariance[m][:, m]) for r, m in zip(x.double(), ~x.isnan(), strict=True)]
    )
    found = pv.log_evidence(pair, data, 20_000).double()
    assert abs((found - exact).median()) < 0.05 and (found - exact).abs().max() < 1
    filled = pv.impute(pair, data, num_particles=20)
    there = ~x.isnan()
    assert filled.shape == x.shape and torch.equal(filled[there], x[there])
    assert filled.isfinite().all()
    history = quiet(pair, data, epochs=2, batch_size=8)
    assert all(math.isfinite(row["loss"]) for row in history.rows)


class Rows(Dataset[dict[str, Tensor]]):
    """A dict per datum."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


@pytest.mark.parametrize("make", [programs_batches.make_dict, programs_batches.make_keywords])
@pytest.mark.parametrize("form", ["dict", "dataset", "loader"])
def test_dicts_wherever_data_come_from(form: str, make: Callable[[], Any]) -> None:
    """A program of one argument gets the dict, one of named arguments gets them by name."""
    pair, columns = paired(make())
    exact = programs_batches.exact_dict(columns)
    data = {"dict": columns, "dataset": Rows(columns),
            "loader": DataLoader(Rows(columns), batch_size=7)}[form]  # fmt: skip
    assert torch.allclose(pv.log_evidence(pair, data, 2000).double(), exact, atol=0.1)
    history = quiet(pair, data, epochs=2, batch_size=7)
    assert all(math.isfinite(row["loss"]) for row in history.rows)


def test_packed_sequences_beside_tensors() -> None:
    """What a collate function packs for a recurrent guide, from a DataLoader."""
    pair, data = paired(programs_series.make_packed())
    exact = programs_series.exact_packed(data)
    found = pv.evaluate(pair, data, 500)
    assert torch.allclose(found.log_evidence.double(), exact, atol=0.1)
    assert (found.elbo.double() - exact).mean() < 0.02
    assert pv.encode(pair, data).shape == (20,)
    history = quiet(pair, data, epochs=2)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
