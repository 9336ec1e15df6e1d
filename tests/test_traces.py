"""Traces of any pair: exact answers, structure, and the silent failures that became errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import Bed
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import traces


@pytest.mark.parametrize("make", pairs.BEDS, ids=lambda f: f.__name__)
def test_log_evidence_is_exact(make: Callable[[], Bed]) -> None:
    """Within 4 standard errors of the closed form; constant weights where the guide is exact."""
    bed = make()
    drawn = traces.draw(bed.pair, bed.args, 20_000)
    weights = drawn.log_weights.detach().double()
    assert weights.shape == (20_000, len(bed.args[0]))
    if bed.exact_guide:
        assert (weights - bed.log_evidence).abs().max() < 1e-4
    else:
        ratio = (weights - bed.log_evidence).exp()
        error = ratio.std(0) / math.sqrt(len(ratio))
        assert ((ratio.mean(0) - 1).abs() < 4 * error + 1e-6).all()


@pytest.mark.parametrize("make", pairs.BEDS, ids=lambda f: f.__name__)
def test_sequential_particles_agree(make: Callable[[], Bed]) -> None:
    """The fallback without vectorisation gives terms of the same shape and law."""
    bed = make()
    shape = traces.Problem.at(bed.pair, bed.args).shape
    problem = traces.Problem.at(bed.pair, bed.args)
    one_by_one = list(
        problem.like(dataclasses.replace(shape, broadcasts=False)).slices(bed.args, 3, 3)
    )
    assert len(one_by_one) == 3
    for part in one_by_one:
        assert part.log_weights.shape == (1, len(bed.args[0]))
        for name in shape.latents:
            assert part.guide[name].log_prob.shape == (1, len(bed.args[0]))


@pytest.mark.parametrize("at_once", [1, 3, 7])
def test_slices_equal_the_whole(at_once: int) -> None:
    """Slicing particles changes neither values nor closed-form KL, and runs the guide once."""
    for bed in (pairs.ppca(), pairs.ppca_diagonal(), pairs.two_level()):
        shape = traces.Problem.at(bed.pair, bed.args).shape
        torch.manual_seed(0)
        whole = traces.Problem.at(bed.pair, bed.args).draw(bed.args, 10)
        torch.manual_seed(0)
        parts = list(
            traces.Problem.at(bed.pair, bed.args).like(shape).slices(bed.args, 10, at_once)
        )
        for read in (lambda t: t.log_weights, lambda t: t.elbo, lambda t: t.total_kl):
            joined = torch.cat([read(part) for part in parts])
            torch.testing.assert_close(joined, read(whole), rtol=1e-5, atol=1e-5)


def test_guide_runs_once_per_datum() -> None:
    rows = []
    vae = pv.VAE((4,), 2)
    vae.posterior.body.register_forward_hook(lambda m, a, o: rows.append(len(a[0])))
    x = torch.ones(40, 4)
    pv.log_evidence(vae, x, 1)
    overhead = sum(rows) - 40  # structure is learnt from a few data
    rows.clear()
    pv.log_evidence(vae, x, 20, chunk_bytes=1)  # every particle is a slice of its own
    assert sum(rows) - 40 <= overhead


def test_terms_equal_pyros_elbos() -> None:
    """Sums of our terms are Pyro's own losses on the same noise."""
    torch.manual_seed(0)
    vae = pv.VAE((6,), 2)
    x = torch.bernoulli(torch.rand(9, 6))
    for loss, read in (
        (Trace_ELBO(), lambda t: t.elbo.sum()),
        (TraceMeanField_ELBO(), lambda t: (t.reconstruction - t.total_kl).sum()),
    ):
        torch.manual_seed(1)
        expected = -loss.differentiable_loss(vae.model, vae.guide, x)
        torch.manual_seed(1)
        torch.testing.assert_close(read(traces.draw(vae, (x,), 1)), expected)


@pytest.mark.slow
def test_losses_have_the_same_expectation() -> None:
    """Trace and analytic KL agree within 4 standard errors on fixed weights."""
    torch.manual_seed(0)
    vae = pv.VAE((6,), 2)
    x = torch.bernoulli(torch.rand(5, 6))
    means, errors = [], []
    for loss in (Trace_ELBO(), TraceMeanField_ELBO()):
        with torch.no_grad():
            values = torch.tensor([loss.loss(vae.model, vae.guide, x) for _ in range(3000)])
        means.append(values.mean())
        errors.append(values.var() / len(values))
    assert (means[0] - means[1]).abs() < 4 * (errors[0] + errors[1]).sqrt()


def two_plates(x: Tensor) -> None:
    with pyro.plate("columns", x.shape[1], dim=-1):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Normal(b, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def two_plates_guide(x: Tensor) -> None:
    n = x.shape[0]
    with pyro.plate("columns", x.shape[1], dim=-1):
        loc = x.sum(0) / (n + 2)
        b = pyro.sample("b", dist.Normal(loc, math.sqrt(2 / (n + 2))))
        with pyro.plate("rows", n, dim=-2):
            pyro.sample("z", dist.Normal((x + b) / 2, math.sqrt(0.5)))


def test_nested_plates_with_an_exact_guide() -> None:
    """Rows share column effects: a joint evidence, known in closed form, counted once."""
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    drawn = traces.draw(pv.Pair(two_plates, two_plates_guide), (x,), 50)
    assert drawn.shape.globals == ("b",) and drawn.shape.plate == "rows"
    covariance = torch.ones(6, 6) + 2 * torch.eye(6)
    exact = dist.MultivariateNormal(torch.zeros(6), covariance).log_prob(x.T).sum()
    torch.testing.assert_close(drawn.elbo.sum(1), exact.expand(50), rtol=1e-4, atol=1e-4)
    with pytest.raises(pv.UsageError, match=r"b lie outside the plate 'rows'"):
        drawn.log_weights  # noqa: B018


def test_subsampled_plate_does_not_scale_diagnostics() -> None:
    """A plate of 60,000 with a batch of 8 gives the same per-datum terms as a plate of 8."""
    bed = pairs.ppca()

    def model(x: Tensor) -> None:
        with pyro.plate("data", 60_000, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ bed.pair.w.T, bed.pair.noise).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc, covariance = bed.pair.posterior(x)
        with pyro.plate("data", 60_000, subsample_size=len(x)):
            pyro.sample("z", dist.MultivariateNormal(loc, covariance))

    drawn = traces.draw(pv.Pair(model, guide), bed.args, 5)
    assert drawn.shape.size == 60_000
    assert (drawn.log_weights - bed.log_evidence).abs().max() < 1e-4
    history = pv.fit(
        pv.Pair(model, guide), pairs.data(32, 5), epochs=1, batch_size=8, progress=False
    )
    assert abs(history.last["loss"] + history.last["elbo"]) < 5  # both per datum


def test_a_plate_that_subsamples_by_itself_is_refused() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=6) as i:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[i])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=6) as i:
            pyro.sample("z", dist.Normal(x[i] / 2, 0.7))

    pair = pv.Pair(model, guide)
    with pytest.raises(pv.UsageError, match="draws 6 of the 20 data by itself"):
        traces.draw(pair, (torch.zeros(20),))


def test_masks_leave_entries_out() -> None:
    """A model that masks rows by itself: a masked row's evidence is that of nothing."""
    keep = torch.tensor([True, False, True])

    def model(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = torch.where(mask, x / 2, 0.0), torch.where(mask, 0.5**0.5, 1.0)
            pyro.sample("z", dist.Normal(loc, scale))

    x = torch.tensor([0.3, 5.0, -1.0])
    drawn = traces.draw(pv.Pair(model, guide), (x, keep), 7)
    exact = torch.where(keep, dist.Normal(0.0, math.sqrt(2)).log_prob(x), 0.0)
    torch.testing.assert_close(drawn.log_weights, exact.expand(7, 3), rtol=1e-5, atol=1e-5)


def test_several_observed_sites_and_an_auxiliary_one() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = (x + y) / 3
            h = pyro.sample("h", dist.Normal(loc, 3**-0.5), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(h))

    x, y = pairs.data(4, 2).unbind(1)
    drawn = traces.draw(pv.Pair(model, guide), (x, y), 9)
    covariance = torch.ones(2, 2) + torch.eye(2)
    exact = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.stack([x, y], -1))
    assert drawn.shape.auxiliary == ("h",) and drawn.shape.observed == ("x", "y")
    torch.testing.assert_close(drawn.log_weights, exact.expand(9, 4), rtol=1e-4, atol=1e-4)


def test_enumerated_label_beside_a_continuous_latent() -> None:
    """p(y) p(z) p(x|y,z) with y summed out exactly and z drawn from its exact posterior."""
    locs = torch.tensor([-2.0, 1.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.4, 0.6])))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(locs[y] + z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y",
                dist.Categorical(torch.tensor([0.7, 0.3])),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("z", dist.Normal((x - locs[y]) / 2, 0.5**0.5))

    x = pairs.data(5, 1)[:, 0]
    drawn = traces.draw(pv.Pair(model, guide), (x,), 11)
    normal = dist.Normal(locs, math.sqrt(2)).log_prob(x[:, None])
    exact = (normal + torch.tensor([0.4, 0.6]).log()).logsumexp(1)
    torch.testing.assert_close(drawn.log_weights, exact.expand(11, 5), rtol=1e-4, atol=1e-4)
    q = torch.tensor([0.7, 0.3])
    bound = (q * (normal + torch.tensor([0.4, 0.6]).log() - q.log())).sum(1)
    torch.testing.assert_close(drawn.elbo, bound.expand(11, 5), rtol=1e-4, atol=1e-4)


def test_a_pair_that_cannot_broadcast_runs_one_by_one() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            shifted = z - z.mean() + z.mean()  # mixes data and, vectorised, particles
            centred = z if z.dim() == 1 else z - z.mean(0)
            pyro.sample("x", dist.Normal((shifted + centred) / 2, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = pairs.data(6, 1)[:, 0]
    pair = pv.Pair(model, guide)
    assert not traces.Problem.at(pair, (x,)).shape.broadcasts
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert (pv.log_evidence(pair, x, 20) - exact).abs().max() < 1e-4
    assert "one by one" in str(pv.evaluate(pair, x, 5))


# --- what Pyro does silently


def simple_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def simple_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.7))


def renamed_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("latent", dist.Normal(x / 2, 0.7))


def forgot_obs(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0))


def no_plate(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def no_plate_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))


def forgot_to_event(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None].expand(-1, 7), 1.0), obs=x[:, None].expand(-1, 7))


@pytest.mark.parametrize(
    ("model", "guide", "match"),
    [
        (simple_model, renamed_guide, r"Model: \[z \[5\]\]; guide: \[latent \[5\]\]"),
        (forgot_obs, simple_guide, r"obs= forgotten.*Missing from the guide: \[x\]"),
        (simple_model, lambda x: None, r"Missing from the guide: \[z\]"),
        (no_plate, no_plate_guide, "no plate follows the size of the batch"),
        (forgot_to_event, simple_guide, "every batch dimension in a pyro.plate"),
    ],
    ids=["names", "obs", "no guide", "no plate", "to_event"],
)
def test_mistakes_in_programs_are_errors(
    model: Callable[..., None], guide: Callable[..., None], match: str
) -> None:
    with pytest.raises(pv.UsageError, match=match):
        traces.Problem.at(pv.Pair(model, guide), (torch.zeros(5),))


def test_two_pairs_never_share_a_parameter() -> None:
    """The same names in two pairs: both train, and neither sees the other's values."""

    def pair(start: float) -> pv.Pair:
        def guide(x: Tensor) -> None:
            loc = pyro.param("loc", torch.tensor(start))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 0.7))

        return pv.Pair(simple_model, guide)

    x = torch.ones(64)
    first, second = pair(0.0), pair(-3.0)
    pv.fit(first, x, epochs=5, batch_size=16, lr=0.05, progress=False)
    before = float(first.params["loc"].detach())
    pv.fit(second, x, epochs=1, batch_size=16, lr=0.05, progress=False)
    assert before > 0.1 and float(first.params["loc"].detach()) == before
    assert -3 < float(second.params["loc"].detach()) < -2.5
    assert "loc" not in pyro.get_param_store()


def test_unregistered_modules_train() -> None:
    """Layers that no pyro.module announces are found by walking the loss's graph."""
    torch.manual_seed(0)
    encoder = nn.Linear(1, 1)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.7))

    before = encoder.weight.clone()
    pair = pv.Pair(simple_model, guide)
    assert sorted(traces.parameters(pair, (torch.zeros(3),))) == ["encoder.bias", "encoder.weight"]
    pv.fit(pair, torch.randn(64), epochs=20, batch_size=16, lr=0.05, progress=False)
    assert (encoder.weight - before).abs() > 0.01
    assert abs(float(encoder.weight.detach()) - 0.5) < 0.1  # the exact posterior mean is x / 2


def test_a_pair_without_parameters_is_refused() -> None:
    with pytest.raises(pv.UsageError, match="nothing to train"):
        pv.fit(pv.Pair(simple_model, simple_guide), torch.zeros(8), batch_size=4, progress=False)


def test_idle_parameters_are_named() -> None:
    class Half(pv.VAE):
        def __init__(self) -> None:
            super().__init__((4,), 2)
            self.idle = nn.Linear(2, 2)

    with pytest.warns(UserWarning, match=r"idle\.weight, idle\.bias: not trained"):
        pv.fit(Half(), torch.ones(16, 4), epochs=1, batch_size=8, progress=False)


@pytest.mark.parametrize("both", [False, True])
def test_kl_scaled_on_one_side_is_refused(both: bool) -> None:
    encoder = nn.Linear(1, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=4.0):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=4.0 if both else 1.0):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.7))

    pair, x = pv.Pair(model, guide), torch.randn(8)
    if both:
        pv.fit(pair, x, epochs=1, batch_size=4, progress=False)
    else:
        with pytest.raises(pv.UsageError, match=r"scaled by 4\.0 in the model and by 1\.0"):
            pv.fit(pair, x, epochs=1, batch_size=4, progress=False)


def test_analytic_kl_needs_pathwise_gradients() -> None:
    bed = pairs.binary_codes()
    with pytest.raises(pv.UsageError, match="z, which are not reparameterised"):
        pv.fit(bed.pair, bed.args[0], loss=TraceMeanField_ELBO(), batch_size=6, progress=False)


def test_analytic_kl_is_refused_where_it_would_be_wrong() -> None:
    bed = pairs.two_level()

    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def model(self, x: Tensor) -> None:
            bed.pair.model(x)

        def guide(self, x: Tensor) -> None:
            bed.pair.guide(x + self.shift)

    x = bed.args[0]
    with pytest.raises(pv.UsageError, match=r"silently wrong here: .* z1 come after"):
        pv.fit(Trained(), x, loss=TraceMeanField_ELBO(), batch_size=6, progress=False)
    assert traces.Problem.at(bed.pair, bed.args).shape.closed_form == ("z2",)
    pv.fit(Trained(), x, epochs=1, batch_size=6, progress=False)


def test_data_observed_in_another_shape_are_checked_and_simulated() -> None:
    """As in Pyro's own example: x.reshape(-1, 784); one grey pixel among the last data is found."""
    torch.manual_seed(0)
    decoder = torch.nn.Linear(2, 6)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            flat = x.reshape(-1, 6)
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=flat)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))

    x = torch.bernoulli(torch.full((3000, 1, 2, 3), 0.5))
    pair = traces.as_pair((model, guide))
    few = (x[:5],)
    with pair.evaluating():
        assert traces.Supports(pair, few).check(pv.data.TensorData(x))
        latents, (simulated,) = traces.Problem.at(pair, few).simulate(few, ["z"])
    assert simulated.shape == (5, 1, 2, 3) and latents["z"].shape == (5, 2)
    x[-1, 0, 1, 2] = 0.5
    with pytest.raises(pv.UsageError, match="Bernoulli takes 0 or 1"), pair.evaluating():
        traces.Supports(pair, few).check(pv.data.TensorData(x))
