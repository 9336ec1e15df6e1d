"""Objectives against closed forms, against each other, and under Pyro's own SVI."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from test_components import SMALL
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import components, guides, likelihoods, objectives, priors, schedules, traces
from pyrovae.objectives import (
    CIWAE,
    IWAE,
    MIWAE,
    MMD,
    BetaELBO,
    Capacity,
    DReG,
    FreeBits,
    Objective,
    Renyi,
    StickingTheLanding,
    TotalCorrelation,
)
from pyrovae.svi import Step

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "BetaELBO": lambda: BetaELBO(2.0, schedules.Linear(epochs=3)),
    "BetaELBO at particles": lambda: BetaELBO(analytic=False, num_particles=3),
    "FreeBits": lambda: FreeBits(0.2),
    "Capacity": lambda: Capacity(2.0, 10.0, schedules.Sigmoid(epochs=3)),
    "IWAE": lambda: IWAE(4),
    "Renyi": lambda: Renyi(0.5, 4),
    "MIWAE": lambda: MIWAE(2, 3),
    "CIWAE": lambda: CIWAE(0.3, 4),
    "StickingTheLanding": lambda: StickingTheLanding(2),
    "DReG": lambda: DReG(4),
    "TotalCorrelation": lambda: TotalCorrelation(beta=3.0),
    "MMD": lambda: MMD(weight=5.0, beta=0.1),
}
X = torch.bernoulli(torch.rand(64, 6, generator=torch.Generator().manual_seed(0)))


def vae(**parts: object) -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((6,), 2, **{"likelihood": likelihoods.Bernoulli(SMALL), **parts})


def told(objective: Objective) -> Objective:
    objective.prepare(len(X))
    objective.clock(1.0, 10)
    return objective


def row(table: dict[str, Callable[[], object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", table.values(), ids=table.keys())


def gradient(objective: Objective, pair: nn.Module, x: Tensor, leaves: list[Tensor]) -> Tensor:
    loss = objective.differentiable_loss(pair.model, pair.guide, x)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    both = zip(grads, leaves, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in both])


def losses(objective: Objective, pair: object, x: Tensor, draws: int) -> Tensor:
    values = [objective.loss(pair.model, pair.guide, x) for _ in range(draws)]
    return torch.tensor(values, dtype=torch.float64)


def agree(draws: Tensor, target: Tensor | float, errors: float = 4.0) -> bool:
    """Whether the mean of draws ``[n, ...]`` is the target within some standard errors."""
    off = (draws.mean(0) - torch.as_tensor(target)).abs()
    return bool((off < errors * draws.std(0) / math.sqrt(len(draws)) + 1e-6).all())


class Amortised(nn.Module):
    """pPCA with a Gaussian guide of its own parameters: the exact posterior, and off by some."""

    def __init__(self, off: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(3)
        d, k = 4, 2
        self.w = nn.Parameter(torch.randn(d, k).to(dtype))
        self.noise = 0.8
        precision = self.w.detach().T @ self.w.detach() / self.noise**2 + torch.eye(k, dtype=dtype)
        covariance = precision.inverse()
        self.a = nn.Parameter(covariance @ self.w.detach().T / self.noise**2 + off)
        self.tril = nn.Parameter(torch.linalg.cholesky(covariance) * (1 + off))

    def encoder(self) -> list[Tensor]:
        return [self.a, self.tril]

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(self.w.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.w.T, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            fn = dist.MultivariateNormal(x @ self.a.T, scale_tril=self.tril.tril())
            pyro.sample("z", fn)

    def evidence(self, x: Tensor) -> Tensor:
        covariance = self.w @ self.w.T + self.noise**2 * torch.eye(len(self.w))
        return dist.MultivariateNormal(torch.zeros(len(self.w)), covariance).log_prob(x).detach()


def test_every_class_has_a_row() -> None:
    concrete = {getattr(objectives, name) for name in objectives.__all__} - {Objective}
    assert concrete == {type(make()) for make in OBJECTIVES.values()}


@row(OBJECTIVES)
def test_signature_is_configuration(make: Callable[[], Objective]) -> None:
    first = make()
    again = components.construct(components.describe(first), "loss")
    assert components.describe(again) == components.describe(first) and type(again) is type(first)


@row(OBJECTIVES)
def test_works_in_pyros_own_svi(make: Callable[[], Objective]) -> None:
    pyro.clear_param_store()
    pair, objective = vae(), told(make())
    before = [p.detach().clone() for p in pair.parameters()]

    def model(x: Tensor) -> None:
        pyro.module("pair", pair)
        pair.model(x)

    svi = SVI(model, pair.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    values = [svi.step(X) for _ in range(60)]
    assert sum(values[-10:]) < sum(values[:10])
    assert any(not torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))
    assert math.isfinite(svi.evaluate_loss(X))
    pyro.clear_param_store()


@row(OBJECTIVES)
def test_compiles_to_the_same(make: Callable[[], Objective]) -> None:
    """Loss and gradients of the graph are the handlers', at another time and on other data."""
    pair, objective = vae(), told(make())
    program = traces.as_pair(pair)
    step = Step(program, objective, traces.parameters(program, (X,)), True)
    for _ in range(3):
        step((X,))
    assert not step.why_not
    ((graph,),) = step.graphs.values()
    objective.clock(2.5, 10)
    other = X.flip(0).roll(1, -1)
    torch.manual_seed(5)
    ours = graph(other)
    torch.manual_seed(5)
    value = step.by_handlers((other,))
    assert float(ours[0]) == pytest.approx(float(value), rel=1e-5)
    for grad, p in zip(ours[1:], step.parameters.values(), strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-4)


@row(OBJECTIVES)
def test_fit_trains_and_counts_time(make: Callable[[], Objective]) -> None:
    pair, objective = vae(), make()
    history = pv.fit(pair, X, loss=objective, epochs=6, batch_size=32, lr=0.01, progress=False)
    assert all(math.isfinite(v) for v in history["loss"])
    if objective.schedule is not None:
        assert float(objective.factor) == pytest.approx(1.0)


def test_bounds_are_ordered_below_the_evidence() -> None:
    """ELBO < CIWAE, MIWAE < IWAE-5 < IWAE-50 < log p(x), each gap many standard errors wide."""
    pair, x = Amortised(0.15), pairs.data(40, 4)
    exact = float(pair.evidence(x).sum())
    made = [BetaELBO(num_particles=25), MIWAE(5, 5), CIWAE(0.2, 25), IWAE(25), IWAE(100)]
    found = [-losses(objective, pair, x, 60) for objective in made]
    means = [float(f.mean()) for f in found]
    errors = [float(f.std()) / math.sqrt(60) for f in found]
    for low, high in ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4)):
        assert means[high] - means[low] > 4 * math.hypot(errors[low], errors[high])
    assert exact > means[-1] - 4 * errors[-1]


def test_iwae_bias_is_half_chi_squared_over_k() -> None:
    """L_K - log p(x) -> -chi^2(p || q) / 2K (Domke and Sheldon, 2018)."""
    pair, x = Amortised(0.2), torch.tensor([[0.4, -0.3, 0.5, 0.1]])
    with torch.no_grad():
        covariance = (pair.w.T @ pair.w / pair.noise**2 + torch.eye(2)).inverse()
        p = dist.MultivariateNormal(x[0] @ pair.w @ covariance / pair.noise**2, covariance)
        q = dist.MultivariateNormal(x[0] @ pair.a.T, scale_tril=pair.tril.tril())
        side = torch.linspace(-6, 6, 600)
        grid = torch.cartesian_prod(side, side)
        ratio = (2 * p.log_prob(grid) - q.log_prob(grid)).exp().sum() * (12 / 599) ** 2
    chi_squared, k = float(ratio) - 1, 40
    many = x.expand(5000, 4)
    bound = -torch.tensor([IWAE(k).loss(pair.model, pair.guide, many) for _ in range(20)]) / 5000
    bias = bound.double() - float(pair.evidence(x))
    assert chi_squared > 0.2
    assert agree(bias, -chi_squared / (2 * k), errors=5), (bias.mean(), -chi_squared / (2 * k))


def test_renyi_has_its_limits() -> None:
    pair, x = Amortised(0.15), pairs.data(40, 4)
    for renyi, other in (
        (Renyi(0.0, 7), IWAE(7)),
        (Renyi(1 + 1e-4, 7), BetaELBO(analytic=False, num_particles=7)),
    ):
        torch.manual_seed(0)
        value = renyi.loss(pair.model, pair.guide, x)
        torch.manual_seed(0)
        assert value == pytest.approx(other.loss(pair.model, pair.guide, x), rel=1e-3)


@pytest.mark.parametrize(
    "objective", [StickingTheLanding(1), StickingTheLanding(4), DReG(1), DReG(6)]
)
def test_encoder_gradient_vanishes_at_the_exact_posterior(objective: Objective) -> None:
    """Per sample, not on average; the plain ELBO's does not."""
    pair = Amortised(dtype=torch.float64)
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.randn(3, 4, dtype=torch.float64)
        assert gradient(objective, pair, x, pair.encoder()).abs().max() < 1e-9
        plain = gradient(BetaELBO(analytic=False), pair, x, pair.encoder())
        assert plain.abs().max() > 1e-2


@pytest.mark.parametrize(
    ("clever", "plain"),
    [
        (StickingTheLanding(3), BetaELBO(analytic=False, num_particles=3)),
        (DReG(3), IWAE(3)),
    ],
    ids=["StickingTheLanding", "DReG"],
)
@pytest.mark.parametrize("kind", ["Gaussian", "flow", "Vamp"])
def test_their_gradients_have_the_same_mean(kind: str, clever: Objective, plain: Objective) -> None:
    """Model's and guide's, also where the prior is made of the guide (Vamp)."""
    if kind == "Gaussian":
        pair, x = Amortised(0.2), pairs.data(4, 4)
    elif kind == "flow":
        pair, x = vae(guide=guides.Flow(SMALL, context=3, hidden=[6], transforms=1)), X[:4]
    else:
        pair, x = vae(prior=priors.VampPrior(2), guide=guides.MeanField(SMALL)), X[:4]
    leaves = [p for p in pair.parameters() if p.requires_grad]
    torch.manual_seed(0)
    direction = torch.randn(8, sum(p.numel() for p in leaves))
    differences = torch.stack(
        [
            direction @ (gradient(clever, pair, x, leaves) - gradient(plain, pair, x, leaves))
            for _ in range(300)
        ]
    )
    assert agree(differences, 0.0, errors=4.5)


def test_gradient_of_the_guide_is_quieter() -> None:
    """Near the posterior, which is what the two estimators are for."""
    pair, x = Amortised(0.02), pairs.data(8, 4)

    def noise(objective: Objective) -> float:
        grads = [gradient(objective, pair, x, pair.encoder()) for _ in range(60)]
        return float(torch.stack(grads).var(0).sum())

    assert noise(StickingTheLanding()) < noise(BetaELBO(analytic=False)) / 20
    assert noise(DReG(8)) < noise(IWAE(8)) / 5


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_beta_means_the_same_under_every_estimator(beta: float) -> None:
    """And is the closed form E_q[log p(x|z)] - beta KL of the linear-Gaussian pair."""
    pair, x = pairs.PPCA("diagonal", scale=1.3), pairs.data(30, 5)
    kl = float(pair.kl(x, diagonal=True).sum().detach())
    elbo = float(pv.elbo(pair, x, 20000).sum())
    expected = -(elbo + (1 - beta) * kl)
    for analytic in (True, False):
        seen = losses(BetaELBO(beta, analytic=analytic, num_particles=10), pair, x, 100)
        assert agree(seen, expected, errors=5)


def test_annealing_and_free_bits_mean_the_same_under_every_estimator() -> None:
    pair, x = pairs.PPCA("diagonal", scale=1.3), pairs.data(30, 5)

    def both(make: Callable[[bool], Objective]) -> tuple[Tensor, Tensor]:
        found = []
        for analytic in (True, False):
            objective = make(analytic)
            objective.clock(2.0, 10)
            found.append(losses(objective, pair, x, 60))
        return found[0], found[1]

    cases: list[Callable[[bool], Objective]] = [
        lambda a: BetaELBO(2.0, schedules.Linear(5), analytic=a, num_particles=40),
        lambda a: FreeBits(0.05, analytic=a, num_particles=400),
        lambda a: FreeBits(3.0, analytic=a, num_particles=400),
        lambda a: Capacity(1.0, 3.0, schedules.Cyclic(), analytic=a, num_particles=400),
    ]
    for make in cases:
        first, second = both(make)
        error = math.hypot(float(first.std()), float(second.std())) / math.sqrt(60)
        assert abs(float(first.mean() - second.mean())) < 4.5 * error


def test_free_bits_are_free() -> None:
    """Above every unit's KL the bound no longer depends on the KL; at 0 it is the ELBO."""
    pair = vae(guide=guides.MeanField(SMALL))
    torch.manual_seed(0)
    floor = FreeBits(50.0).loss(pair.model, pair.guide, X)
    torch.manual_seed(0)
    reconstruction = BetaELBO(0.0).loss(pair.model, pair.guide, X)
    assert floor == pytest.approx(reconstruction + 64 * 2 * 50, rel=1e-5)
    torch.manual_seed(0)
    none = FreeBits(0.0).loss(pair.model, pair.guide, X)
    torch.manual_seed(0)
    assert none == pytest.approx(BetaELBO().loss(pair.model, pair.guide, X), rel=1e-5)


def test_total_correlation_of_weights_one_is_the_elbo() -> None:
    pair = vae(guide=guides.MeanField(SMALL))
    torch.manual_seed(0)
    parts = TotalCorrelation(1, 1, 1, data_size=1000).loss(pair.model, pair.guide, X)
    torch.manual_seed(0)
    assert parts == pytest.approx(
        BetaELBO(analytic=False).loss(pair.model, pair.guide, X), rel=1e-5
    )


def test_total_correlation_of_a_whole_data_set_is_exact() -> None:
    """With all data in the batch, q(z) is their mixture: TC by its definition."""
    pair = vae(guide=guides.MeanField(SMALL))
    torch.manual_seed(0)
    both = [TotalCorrelation(1, b, 1, data_size=64) for b in (1.0, 3.0)]
    values = []
    for objective in both:
        torch.manual_seed(0)
        values.append(objective.loss(pair.model, pair.guide, X))
    torch.manual_seed(0)
    with torch.no_grad():
        q = pair.posterior(X)
        z = q.rsample()
        each = q.base_dist.log_prob(z[:, None])
        joint = each.sum(-1).logsumexp(1) - math.log(64)
        units = (each.logsumexp(1) - math.log(64)).sum(-1)
    assert values[1] - values[0] == pytest.approx(2 * float((joint - units).sum()), rel=1e-3)


def test_discrepancy_is_zero_for_equals_and_not_for_others() -> None:
    torch.manual_seed(0)
    mmd = MMD()

    def found(shift: float, times: int) -> Tensor:
        draws = [(torch.randn(50, 3) + shift, torch.randn(50, 3)) for _ in range(times)]
        return torch.stack([mmd.discrepancy(*both) for both in draws])

    same = found(0.0, 200)
    assert agree(same, 0.0)
    assert float(found(1.0, 20).min()) > float(same.max())


def discrete() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE(
        (4,), 3, priors.OneHot(3), likelihoods.Bernoulli(SMALL), guides.OneHot(SMALL, categories=3)
    )


@pytest.mark.parametrize(("make", "k"), [(lambda: BetaELBO(1.5), 1), (lambda: IWAE(2), 2)])
def test_score_function_gradients_are_right(make: Callable[[], Objective], k: int) -> None:
    """Discrete codes: the mean gradient is that of the sum over all codes."""
    pair, x = discrete(), torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])
    leaves = list(pair.parameters())
    codes = torch.eye(3)
    log_q = pair.posterior(x).log_prob(codes[:, None])  # [codes, data]
    log_p = pair.prior().log_prob(codes)[:, None]
    log_x = pair.likelihood(codes[:, None]).log_prob(x)
    total = torch.zeros(())
    for chosen in itertools.product(range(3), repeat=k):
        index = torch.tensor(chosen)
        probability = log_q[index].sum(0).exp()
        if k == 1:
            value = (log_x - 1.5 * (log_q - log_p))[index][0]
        else:
            value = (log_x + log_p - log_q)[index].logsumexp(0) - math.log(k)
        total = total + (probability * value).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-total, leaves)])
    torch.manual_seed(1)
    objective = make()
    drawn = torch.stack([gradient(objective, pair, x, leaves) for _ in range(2500)])
    assert agree(drawn, exact, errors=4.5)


def test_scales_like_pyros_elbo_in_a_subsampled_plate() -> None:
    class Subsampled(pairs.PPCA):
        def model(self, x: Tensor) -> None:
            with pyro.plate("data", 1000, subsample_size=len(x), subsample=torch.arange(len(x))):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ self.w.T, self.noise).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            loc, covariance = self.posterior(x)
            with pyro.plate("data", 1000, subsample_size=len(x), subsample=torch.arange(len(x))):
                pyro.sample("z", dist.MultivariateNormal(loc, covariance))

    pair, x = Subsampled(), pairs.data(10, 5)
    theirs = torch.tensor(
        [TraceMeanField_ELBO().loss(pair.model, pair.guide, x) for _ in range(200)]
    )
    assert agree(losses(BetaELBO(), pair, x, 400), theirs.mean(), errors=5)
    exact = float(pair.log_evidence(x).sum().detach()) * 100
    assert IWAE(50).loss(pair.model, pair.guide, x) == pytest.approx(-exact, rel=1e-4)


def test_a_global_latent_is_counted_once() -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("mean", dist.Normal(0.3, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    x = pairs.data(20, 1)[:, 0]
    values = []
    for loss in (BetaELBO(analytic=False), Trace_ELBO()):
        torch.manual_seed(0)
        values.append(loss.loss(model, guide, x))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    with pytest.raises(pv.UsageError, match="outside the plate"):
        IWAE(3).loss(model, guide, x)


def scaled() -> pv.Pair:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=0.5):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    return pv.Pair(model, guide)


def call(objective: Objective, pair: object, x: Tensor = X) -> None:
    objective.loss(pair.model, pair.guide, x)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda: BetaELBO(-1.0), "beta must be a number of at least 0"),
        (lambda: BetaELBO(math.nan), "beta must be"),
        (lambda: IWAE(0), "num_particles must be"),
        (lambda: Renyi(1.0), "other than 1"),
        (lambda: CIWAE(1.5), r"in \[0, 1\]"),
        (lambda: schedules.Cyclic(rise=0.0), "share of a cycle"),
        (lambda: schedules.Linear(epochs=0), "epochs must be"),
        (lambda: call(BetaELBO(schedule=schedules.Linear()), vae()), "was not told the time"),
        (lambda: call(TotalCorrelation(), vae()), "needs data_size"),
        (lambda: call(TotalCorrelation(data_size=9), vae(guide=guides.FullRank())), "independent"),
        (lambda: call(MMD(), vae(), X[:1]), "2 or more"),
        (lambda: call(StickingTheLanding(), discrete(), X[:, :4]), "not reparameterised"),
        (lambda: call(FreeBits(), discrete(), X[:, :4]), "not reparameterised"),
        (lambda: call(BetaELBO(), scaled(), X[:, 0]), "a scale of their own"),
    ],
)
def test_mistakes_speak(wrong: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        wrong()
