"""Every likelihood of the table is a normalised density, draws what it says, and survives."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from test_components import LIKELIHOODS, event_of, rows
from torch import Tensor, nn
from torch.distributions import constraints

import pyrovae as pv
from pyrovae import components, distributions, likelihoods, networks
from pyrovae.distributions import eight_bit
from pyrovae.summaries import Summary
from pyrovae.tensors import TensorData

SMALL = networks.MLP([8])
Make = Callable[[], likelihoods.Likelihood]


def of_one_number(make: Make) -> likelihoods.Likelihood:
    """The likelihood built for data of one number, in double precision."""
    torch.manual_seed(1)
    likelihood = make()
    if isinstance(likelihood, likelihoods.Mixed):
        pytest.skip("its columns have rows of their own")
    likelihood.build((3,), (1,))
    return likelihood.double()


def grid(fn: Any) -> tuple[Tensor, Tensor]:
    """Points that cover the support, and the weight of each in an integral."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is eight_bit:
        return torch.arange(256).double() / 255, torch.ones(256).double()
    if support.is_discrete:
        points = torch.arange(int(getattr(support, "upper_bound", 20_000)) + 1)
        return points.double(), torch.ones(len(points)).double()
    s = torch.linspace(-22, 22, 400_001, dtype=torch.float64)
    if support is constraints.real:
        points, slope = s.sinh(), s.cosh()
    elif getattr(support, "lower_bound", None) == 0 and not hasattr(support, "upper_bound"):
        points, slope = s.exp(), s.exp()
    else:
        points = torch.linspace(0, 1, 400_001, dtype=torch.float64)
        slope = torch.ones_like(points)
        s = points
    weights = slope * (s[1] - s[0])
    weights[[0, -1]] /= 2
    return points, weights


@rows(LIKELIHOODS)
def test_sums_to_one_and_draws_what_it_says(make: Make) -> None:
    """KS statistic below 2.2 / sqrt(n) (p = 1e-4), chi-square within 5 standard errors."""
    likelihood, n = of_one_number(make), 4000
    z = torch.randn(1, 3).double()
    fn = likelihood(z)
    if isinstance(getattr(fn, "base_dist", None), torch.distributions.Bernoulli):
        points, weights = torch.tensor([0.0, 1.0]).double(), torch.ones(2).double()
    else:
        points, weights = grid(fn)
    mass = likelihood(z.expand(len(points), 3)).log_prob(points[:, None]).exp() * weights
    mass = mass.detach()
    assert abs(mass.sum() - 1) < 1e-5
    drawn = likelihood(z.expand(n, 3)).sample()[:, 0]
    if not isinstance(likelihood, likelihoods.Categorical):
        expected = (mass * points).sum()
        torch.testing.assert_close(fn.mean[0, 0].detach(), expected, rtol=1e-4, atol=1e-4)
    if fn.support.is_discrete:
        assert torch.isin(drawn.float(), points.float()).all()
        counts = torch.stack([(drawn.float() == p).sum() for p in points.float()[:400]]).double()
        keep = mass[:400] * n > 10
        observed = torch.cat([counts[keep], (n - counts[keep].sum())[None]])
        wanted = torch.cat([mass[:400][keep] * n, (n - (mass[:400][keep] * n).sum())[None]])
        statistic = ((observed - wanted) ** 2 / wanted.clamp_min(1)).sum()
        df = len(observed) - 1
        assert statistic < df + 5 * math.sqrt(2 * df)
    else:
        below = torch.searchsorted(points, drawn.sort().values.contiguous())
        cdf = mass.cumsum(0)[below.clamp_max(len(points) - 1)]
        steps = torch.arange(1, n + 1).double() / n
        assert (cdf - steps).abs().max() < 2.2 / math.sqrt(n)


@rows(LIKELIHOODS)
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_extreme_outputs_break_nothing(make: Make, size: float) -> None:
    torch.manual_seed(0)
    likelihood = make()
    event = event_of(likelihood)
    likelihood.build((3,), event)
    likelihood.eval()
    usual = likelihood(torch.zeros(4, 3)).sample()
    for _ in range(4):
        raw = [
            (size * (2.0 * torch.randint(0, 2, (4, *shape)) - 1)).requires_grad_()
            for shape in likelihood.parameter_shapes(event).values()
        ]
        fn = likelihood.distribution(*raw)
        drawn = fn.sample()
        assert drawn.isfinite().all() and fn.support.check(drawn).all()
        for x in (drawn, usual):
            log_prob = fn.log_prob(x)
            assert log_prob.isfinite().all()
            for grad in torch.autograd.grad(log_prob.sum(), raw, retain_graph=True):
                assert grad.isfinite().all()


@rows(LIKELIHOODS)
def test_gradients_reach_every_parameter(make: Make) -> None:
    torch.manual_seed(0)
    likelihood = make()
    likelihood.build((3,), event_of(likelihood))
    z = torch.randn(64, 3, requires_grad=True)
    fn = likelihood(z)
    (-fn.log_prob(fn.sample()).mean()).backward()
    assert z.grad is not None and (z.grad != 0).any()
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@rows(LIKELIHOODS)
def test_trains_on_its_own_draws_and_is_saved(make: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    likelihood = make()
    vae = pv.VAE(event_of(likelihood), 2, likelihood=likelihood, guide=pv.guides.MeanField(SMALL))
    x = pv.sample(vae, 64)
    vae.train()
    history = pv.fit(vae, x, epochs=10, batch_size=32, progress=False)
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert all(p.isfinite().all() for p in vae.parameters())
    vae.eval()
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path)
    torch.testing.assert_close(pv.elbo(again, x, 5), pv.elbo(vae, x, 5), rtol=0, atol=0)
    reconstructed = pv.reconstruct(again, x)
    assert reconstructed.shape == x.shape and reconstructed.isfinite().all()


def close(ours: Tensor, theirs: Any) -> None:
    expected = torch.as_tensor(np.asarray(theirs))
    torch.testing.assert_close(ours.double(), expected.double(), rtol=1e-6, atol=1e-8)


def test_formulas_of_others() -> None:
    """Held against scipy.stats, one parameterisation at a time."""
    k = torch.arange(13).double()
    a, b = torch.tensor(0.7).double(), torch.tensor(2.3).double()
    binomial = distributions.Binomial(logits=(a / (1 - a)).log(), total_count=12)
    close(binomial.log_prob(k), scipy.stats.binom.logpmf(k, 12, 0.7))
    beta = distributions.BetaBinomial(concentration1=a, concentration0=b, total_count=12)
    close(beta.log_prob(k), scipy.stats.betabinom.logpmf(k, 12, 0.7, 2.3))
    for r, m in ((0.3, 2.0), (5.0, 40.0), (1e5, 3.0)):
        r_, m_ = torch.tensor(r).double(), torch.tensor(math.log(m)).double()
        fn = distributions.NegativeBinomial(log_mean=m_, inverse_dispersion=r_)
        close(fn.log_prob(k), scipy.stats.nbinom.logpmf(k, r, r / (r + m)))
        zero = distributions.ZeroInflatedNegativeBinomial(
            log_mean=m_, inverse_dispersion=r_, gate=torch.zeros(()).double()
        )
        expected = 0.5 * scipy.stats.nbinom.pmf(k, r, r / (r + m)) + 0.5 * (k.numpy() == 0)
        close(zero.log_prob(k).exp(), expected)
    close(
        distributions.Poisson(log_rate=b).log_prob(k),
        scipy.stats.poisson.logpmf(k, math.exp(2.3)),
    )
    x = torch.linspace(0.1, 9, 20).double()
    fn = distributions.LogNormal(loc=a, scale=b)
    close(fn.log_prob(x), scipy.stats.lognorm.logpdf(x, 2.3, scale=math.exp(0.7)))
    for make, theirs in (
        (likelihoods.Laplace(SMALL, scale=2.3), scipy.stats.laplace(0.7, 2.3)),
        (likelihoods.StudentT(SMALL, 2.3, 3.5), scipy.stats.t(3.5, 0.7, 2.3)),
    ):
        make.build((2,), (20,))
        ours = make.family(a, torch.tensor(2.3).double()).log_prob(x)
        close(ours, theirs.logpdf(x))


def test_continuous_bernoulli_normaliser() -> None:
    """log C = log(2 atanh(1 - 2l) / (1 - 2l)), at every l and smooth across l = 1/2."""
    x = torch.tensor([0.0, 0.3, 1.0]).double()
    for probability in (1e-6, 0.1, 0.4, 0.49, 0.499999, 0.51, 0.9):
        far = 1 - 2 * probability
        constant = math.log(2 * math.atanh(far) / far)
        expected = x * math.log(probability) + (1 - x) * math.log1p(-probability) + constant
        logits = torch.tensor(math.log(probability / (1 - probability))).double()
        fn = distributions.ContinuousBernoulli(logits=logits)
        close(fn.log_prob(x), expected)
    t = torch.linspace(-0.2, 0.2, 401).double().requires_grad_()
    fn = distributions.ContinuousBernoulli(logits=t)
    (slope,) = torch.autograd.grad(fn.log_prob(x[1]).sum(), t)
    torch.testing.assert_close(slope, x[1] - fn.mean.detach(), rtol=0, atol=1e-8)
    single = distributions.ContinuousBernoulli(logits=t.detach().float()).mean
    torch.testing.assert_close(single.double(), fn.mean.detach(), rtol=0, atol=1e-6)


def optimal(event: tuple[int, ...] = (4,)) -> likelihoods.Normal:
    likelihood = likelihoods.Normal(SMALL, scale="optimal")
    likelihood.build((3,), event)
    return likelihood


def test_optimal_scale_is_the_batchs_error() -> None:
    torch.manual_seed(0)
    likelihood, z, x = optimal(), torch.randn(6, 3), torch.randn(6, 4)
    loc = likelihood.outputs(z)[0]
    error = (x - loc).square().mean()
    log_prob = likelihood(z).log_prob(x)
    assert log_prob.shape == (6,)
    torch.testing.assert_close(log_prob.sum(), -12 * (1 + (2 * math.pi * error).log()))
    # sigma-VAE's gradient: that of -(ND / 2) log error
    parameters = list(likelihood.parameters())
    ours = torch.autograd.grad(log_prob.sum(), parameters)
    theirs = torch.autograd.grad(-12 * error.log(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # evaluation keeps what training has seen, and moves nothing
    torch.testing.assert_close(likelihood.running_scale, error.sqrt().detach())
    likelihood.eval()
    fixed = torch.distributions.Normal(loc, error.sqrt()).log_prob(x + 1).sum(-1)
    torch.testing.assert_close(likelihood(z).log_prob(x + 1), fixed)
    likelihood.train()
    likelihood(z).log_prob(loc + 10 * (x - loc))
    torch.testing.assert_close(likelihood.running_scale, 1.9 * error.sqrt().detach())


def test_optimal_scale_is_that_of_the_observed_entries() -> None:
    torch.manual_seed(0)
    for likelihood in (optimal(), likelihoods.Mixed([likelihoods.Normal(scale="optimal")], SMALL)):
        event = (4,) if isinstance(likelihood, likelihoods.Normal) else (1,)
        if event == (1,):
            likelihood.build((3,), event)
        z, x = torch.randn(6, 3), torch.randn(6, *event)
        observed = torch.rand(6, *event) < 0.5
        observed[0] = True
        x[~observed] = 1e3
        masked = likelihood(z).base_dist.mask(observed).to_event(1)
        loc = likelihood.outputs(z)[0].reshape(x.shape)
        error = (x - loc)[observed].square().mean()
        expected = -0.5 * observed.sum() * (1 + (2 * math.pi * error).log())
        torch.testing.assert_close(masked.log_prob(x).sum(), expected)


def test_optimal_scale_learns_the_noise() -> None:
    torch.manual_seed(0)
    z = torch.randn(512, 1)
    x = z @ torch.tensor([[1.0, -1.0, 2.0, 0.5]]) + 0.3 * torch.randn(512, 4)
    make = likelihoods.Normal(networks.MLP([]), scale="optimal")
    vae = pv.VAE((4,), 1, likelihood=make, guide=pv.guides.MeanField(networks.MLP([])))
    pv.fit(vae, x, epochs=60, batch_size=64, lr=1e-2, progress=False)
    # the mean squared error holds the posterior's variance too, 0.3^2 / 6.25 |w_d|^2
    assert abs(float(make.running_scale) / 0.3 - 1) < 0.2


MIXED = [
    likelihoods.Normal,
    likelihoods.Poisson,
    likelihoods.Bernoulli,
    lambda: likelihoods.Categorical(3),
]


def mixed() -> likelihoods.Mixed:
    return likelihoods.Mixed([make() for make in MIXED], SMALL)


def test_mixed_is_its_columns() -> None:
    """The parameters of the columns stand end to end; columns of one kind are one part."""
    torch.manual_seed(0)
    likelihood = likelihoods.Mixed([*mixed().columns, likelihoods.Normal()], SMALL)
    likelihood.build((3,), (5,))
    assert likelihood.shapes == {"parameters": (1 + 1 + 1 + 3 + 1,)}
    parameters = torch.randn(2, 5, 7)
    fn = likelihood.distribution(parameters)
    loc, log_rate, logits, *classes, last = parameters.unbind(-1)
    scale = math.log(2) + likelihoods.Normal.MINIMUM
    columns = [
        dist.Normal(loc, scale),
        dist.Poisson(log_rate.exp()),
        dist.Bernoulli(logits=logits),
        dist.Categorical(logits=torch.stack(classes, -1)),
        dist.Normal(last, scale),
    ]
    x = fn.sample()
    apart = torch.stack([c.log_prob(x[..., i]) for i, c in enumerate(columns)], -1)
    torch.testing.assert_close(fn.base_dist.log_prob(x), apart)
    torch.testing.assert_close(fn.log_prob(x), apart.sum(-1))
    assert fn.support.check(x).all() and not fn.support.check(x + 0.5).any()
    mean, expected = fn.mean, [columns[i].mean for i in (0, 1, 2, 4)]
    torch.testing.assert_close(mean[..., [0, 1, 2, 4]], torch.stack(expected, -1))
    assert mean[..., 3].isnan().all()
    assert torch.equal(fn.base_dist.mode[..., 3], columns[3].logits.argmax(-1).float())
    fn = likelihood(torch.randn(2, 5, 3))
    assert fn.batch_shape == (2, 5) and fn.event_shape == (5,)


def test_classes_are_never_averaged() -> None:
    torch.manual_seed(0)
    vae = pv.VAE((4,), 2, likelihood=mixed())
    x = pv.sample(vae, 200)
    for values in (pv.sample(vae, 50, mean=True), pv.reconstruct(vae, x)):
        assert set(values[:, 3].unique().tolist()) <= {0.0, 1.0, 2.0}
        assert len(values[:, 0].unique()) > 10
    x[:20, 3] = math.nan
    filled = pv.impute(vae, x[:20], num_particles=50)
    assert set(filled[:, 3].unique().tolist()) <= {0.0, 1.0, 2.0}
    assert filled.isfinite().all()


def test_a_vote_weighs_particles() -> None:
    from pyrovae.generation import _average

    values = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, 4.0]])
    weights = torch.tensor([0.3, 0.5, 0.2])
    out = _average(values, weights, torch.tensor([True, False]))
    torch.testing.assert_close(out, torch.tensor([0.0, 2.1]))


def test_student_t_without_a_mean_shows_its_mode() -> None:
    vae = pv.VAE((4,), 2, likelihood=likelihoods.StudentT(SMALL, df=1))
    assert pv.sample(vae, 5, mean=True).isfinite().all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: likelihoods.Mixed([]), "one likelihood per column"),
        (lambda: likelihoods.Mixed([likelihoods.Normal()] * 2), "object of its own"),
        (lambda: likelihoods.Mixed(["Normal"]), "column 0 of Mixed must be a likelihood"),
        (lambda: likelihoods.Mixed([mixed()]), "column 0 of Mixed must be"),
        (lambda: likelihoods.Mixed([likelihoods.Normal(SMALL)]), "a network of its own"),
        (lambda: pv.VAE((3,), 2, likelihood=mixed()), r"4 likelihoods.*shape \(3,\)"),
        (lambda: likelihoods.Categorical(1), "classes must be"),
        (lambda: likelihoods.Binomial(0), "total_count must be"),
        (lambda: likelihoods.StudentT(scale="optimal"), "scale is one of"),
        (lambda: likelihoods.StudentT(df=0.0), "df is a positive"),
        (lambda: likelihoods.NegativeBinomial(dispersion="gene"), "dispersion is one of"),
        (lambda: components.construct(
            {"class_path": "Mixed", "init_args": {"columns": "Normal"}}, "likelihood"),
         "must be a list of classes"),
        (lambda: components.construct(
            {"class_path": "Mixed", "init_args": {"columns": ["os.system"]}}, "likelihood"),
         "there is no likelihood"),
    ],
)  # fmt: skip
def test_mistakes_speak(make: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        make()


def test_columns_as_text() -> None:
    text = "[Normal, {class_path: Categorical, init_args: {classes: 3}}]"
    given = {"class_path": "Mixed", "init_args": {"columns": text}}
    made = components.construct(given, "likelihood")
    assert [type(c).__name__ for c in made.columns] == ["Normal", "Categorical"]
    assert components.describe(
        components.construct(components.describe(made))
    ) == components.describe(made)


def counts(rate: float, spread: float = 0.0) -> Tensor:
    rng = np.random.default_rng(0)
    rates = rng.gamma(1 / spread, rate * spread, (500, 3)) if spread else rate
    return torch.tensor(rng.poisson(rates, (500, 3))).float()


RNG = torch.Generator().manual_seed(0)
GREY = torch.randint(0, 256, (50, 4), generator=RNG) / 255
KINDS: dict[str, tuple[Tensor, set[str]]] = {
    "binary": ((GREY > 0.5).float(), {"Bernoulli"}),
    "grey": (GREY, {"ContinuousBernoulli", "LogisticMixture", "Normal"}),
    "unit": (torch.rand(50, 4, generator=RNG), {"ContinuousBernoulli", "Normal"}),
    "real": (torch.randn(500, 4, generator=RNG), {"Normal"}),
    "tails": (torch.randn(500, 4, generator=RNG) ** 3, {"Normal", "Laplace", "StudentT"}),
    "positive": (torch.randn(500, 4, generator=RNG).exp(),
                 {"Normal", "Laplace", "StudentT", "LogNormal"}),
    "counts": (counts(4.0), {"Poisson", "Binomial", "Categorical", "BetaBinomial"}),
    "overdispersed": (counts(40.0, 0.5), {"Poisson", "NegativeBinomial", "Binomial",
                                          "BetaBinomial", "Categorical"}),
    "zeros": (counts(40.0, 0.5) * (torch.rand(500, 3, generator=RNG) < 0.6),
              {"Poisson", "NegativeBinomial", "ZeroInflatedNegativeBinomial", "Binomial",
               "BetaBinomial", "Categorical"}),
    "nothing": (torch.full((5, 2), math.nan), set()),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_advice(kind: str) -> None:
    x, expected = KINDS[kind]
    found = likelihoods.advice(TensorData(x).summary())
    assert set(found) - {"Mixed"} == expected
    assert all(found.values())


def test_advice_on_a_table() -> None:
    x = torch.stack([GREY[:, 0] * 7 - 3, (GREY[:, 1] > 0.5).float(), (GREY[:, 2] * 2).round()], 1)
    seen = TensorData(x).summary()
    assert "Mixed" in likelihoods.advice(seen)
    made = likelihoods.column_likelihoods(seen)
    assert [type(c).__name__ for c in made] == ["Normal", "Bernoulli", "Categorical"]
    vae = pv.VAE((3,), 2, likelihood=likelihoods.Mixed(made, SMALL))
    assert pv.elbo(vae, x).isfinite().all()


def test_summary() -> None:
    x = counts(3.0)
    x[0, 0] = math.nan
    seen = Summary.of(x)
    known = x[~x.isnan()]
    assert (seen.low, seen.high) == (0.0, float(known.max())) and seen.missing == 1
    assert seen.whole and not seen.binary and not seen.eight_bit
    assert seen.mean == pytest.approx(float(known.mean()), rel=1e-6)
    ratio = np.nanvar(x.numpy(), 0).sum() / np.nanmean(x.numpy(), 0).sum()
    assert seen.dispersion == pytest.approx(ratio, rel=1e-5)
    assert seen.zeros == pytest.approx(float((known == 0).double().mean()))
    assert len(seen.columns) == 3 and seen.columns[0].missing == 1
    assert TensorData(torch.full((4, 1), 0.5)).binarised("dynamic").summary().binary


@pytest.mark.parametrize(
    ("make", "x", "match"),
    [
        (likelihoods.Bernoulli, GREY, "0 or 1, the data range.*grey pixels, .*Binarise.*"
         "ContinuousBernoulli, LogisticMixture.*--likelihood Normal"),
        (likelihoods.Bernoulli, 3 * GREY[:, :4].round(), "0 or 1.*range from 0 to 3.*Categorical"),
        (likelihoods.Poisson, GREY - 0.5, "whole numbers from 0 on"),
        (lambda: likelihoods.Categorical(3), 3 * GREY.round(), "whole numbers from 0 to 2"),
        (lambda: likelihoods.Binomial(2), 3 * GREY.round(), "from 0 to 2, the data range"),
        (likelihoods.LogisticMixture, GREY * 0.99, "8-bit levels"),
        (likelihoods.LogNormal, GREY - 1, "positive numbers"),
        (mixed, GREY[:, :4] * 0.5, "column 1 range from"),
    ],
)  # fmt: skip
def test_data_outside_the_support(make: Make, x: Tensor, match: str) -> None:
    vae = pv.VAE((4,), 2, likelihood=make())
    with pytest.raises(pv.UsageError, match=match):
        pv.evaluate(vae, x, 2)
    broken = x.clone()
    broken[3, 0] = math.nan
    with pytest.raises(pv.UsageError, match=match):
        pv.evaluate(vae, broken, 2)


@pytest.mark.parametrize("body", [networks.ConvNet, networks.ResNet])
def test_logistic_mixture_by_a_convolutional_decoder(body: Callable[..., networks.Network]) -> None:
    network = body([4, 4], hidden=8)
    for likelihood in (
        likelihoods.LogisticMixture(2, network),
        likelihoods.Categorical(5, network),
    ):
        likelihood.build((3,), (1, 9, 8))
        fn = likelihood(torch.randn(4, 3))
        assert fn.event_shape == (1, 9, 8) and fn.log_prob(fn.sample()).shape == (4,)
    assert isinstance(likelihood.body, nn.Module)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        pv.cli.main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    assert stop.value.code == 0, out.err
    return out.out


@pytest.mark.slow
def test_info_gives_a_line_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=80), rng.poisson(20, 80), rng.integers(0, 2, 80),
               rng.integers(0, 3, 80), np.ones(80)]  # fmt: skip
    np.save(tmp_path / "table.npy", np.stack(columns, 1))
    out = said(capsys, "info", "--data", tmp_path / "table.npy")
    assert "drop the columns that never vary: 4" in out
    found = re.search(r'--likelihood Mixed --likelihood.columns "(\[Normal, Poisson.*)"', out)
    assert found and "{class_path: Categorical, init_args: {classes: 3}}" in found[1]
    run, again = tmp_path / "run", tmp_path / "again"
    common = ["--epochs", 1, "--batch-size", 36, "--num-particles", 2, "--quiet", "--out"]
    flags = ["--likelihood", "Mixed", "--likelihood.columns", found[1], "--latent-dim", 2]
    said(capsys, "fit", "--data", tmp_path / "table.npy", *flags, *common, run)
    said(capsys, "fit", "--config", run / "config.yaml", *common, again)
    one, two = ((f / "evaluation.json").read_text() for f in (run, again))
    assert json.loads(one)["elbo"] == json.loads(two)["elbo"]
    said(capsys, "sample", run, "--n", 3, "--out", tmp_path / "x.npy")
    assert set(np.load(tmp_path / "x.npy")[:, 3]) <= {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("data", "words", "never"),
    [
        ("mnist5k", ["ContinuousBernoulli", "LogisticMixture", "--binarise dynamic"], "Laplace"),
        ("digits", ["Binomial", "total_count=16", "variance/mean"], "Normal "),
    ],
)
def test_info_on_images(
    data: str, words: list[str], never: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(capsys, "info", "--data", data)
    assert all(word in out for word in words) and f"--likelihood {never}" not in out


def test_info_on_unequal_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2)) * [1, 1000]
    x[0, 0] = math.nan
    np.save(tmp_path / "x.npy", x)
    out = said(capsys, "info", "--data", tmp_path / "x.npy")
    assert "units, which are learned, one scale serves all" in out and "entries are missing" in out
