"""What every prior and every guide must do, inherited by a row in test_components."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from test_components import EVENT, GUIDES, LIKELIHOODS, PRIORS, SMALL, event_of, rows
from torch import Tensor
from torch.distributions import kl_divergence

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, priors, traces
from pyrovae.objectives import BetaELBO

X = torch.rand(64, *EVENT, generator=torch.Generator().manual_seed(0)).round()


def size(part: priors.Prior | guides.Guide) -> int:
    """A latent's size that fills the codes of a part."""
    return 6 if hasattr(part, "categories") else 2


def built_prior(make: Callable[[], priors.Prior], dims: int | None = None) -> priors.Prior:
    torch.manual_seed(0)
    prior, guide = make(), guides.MeanField(SMALL)
    dims = dims or size(prior)
    guide.build(EVENT, (dims,))
    prior.build(dims, guide)
    return prior


def built_guide(make: Callable[[], guides.Guide], dims: int | None = None) -> guides.Guide:
    torch.manual_seed(0)
    guide = make()
    guide.build(EVENT, (dims or size(guide),))
    return guide


def labels(prior: priors.Prior, *batch: int) -> tuple[Tensor, ...]:
    return (torch.ones(batch, dtype=torch.long),) if prior.takes_labels else ()


def matching(prior: priors.Prior, likelihood: object = None) -> pv.VAE:
    """A VAE with this prior and the first guide that lives where it does."""
    guide = next(g for g in (make() for make in GUIDES.values()) if fits(prior, g))
    return pv.VAE(EVENT, size(prior), prior, likelihood or likelihoods.Bernoulli(SMALL), guide)


def fits(prior: priors.Prior, guide: guides.Guide) -> bool:
    return isinstance(prior, priors.VampPrior) or prior.space == guide.space


def data(vae: pv.VAE, x: Tensor = X) -> tuple[Tensor, ...]:
    return (x, torch.arange(len(x)) % 3) if vae.prior.takes_labels else (x,)


def nodes(space: str) -> tuple[Tensor, Tensor]:
    """Points that cover a space, and the log weights that make sums over them integrals."""
    if space == "real numbers":
        t = torch.linspace(-6, 6, 401, dtype=torch.float64)
        width = t.cosh().log() + math.log(float(t[1] - t[0]))
        points = torch.cartesian_prod(t.sinh(), t.sinh())
        return points, torch.cartesian_prod(width, width).sum(-1)
    if space == "the unit sphere":
        angle = torch.arange(4000, dtype=torch.float64) * 2 * math.pi / 4000
        circle = torch.stack([angle.cos(), angle.sin()], -1)
        return circle, torch.full((4000,), math.log(2 * math.pi / 4000))
    if space.startswith("one-hot"):
        codes = torch.eye(3, dtype=torch.float64)
        points = [torch.cat(pair) for pair in itertools.product(codes, codes)]
        return torch.stack(points), torch.zeros(9)
    raise NotImplementedError(space)


DENSITIES = {**PRIORS, **GUIDES}


@rows(PRIORS)
def test_prior_shapes(make: Callable[[], priors.Prior]) -> None:
    prior = built_prior(make)
    for batch in ((), (5,), (4, 5)):
        fn = prior(*labels(prior, *batch))
        own = batch if prior.takes_labels else ()
        assert fn.batch_shape == own and fn.event_shape == (size(prior),)
        value = fn.expand(batch).sample((2,))
        assert fn.log_prob(value).shape == (2, *batch)
        torch.testing.assert_close(fn.expand(batch).log_prob(value), fn.log_prob(value))


@rows(GUIDES)
@pytest.mark.parametrize("batch", [(7,), (3, 7)], ids=["batch", "particles"])
def test_guide_shapes(make: Callable[[], guides.Guide], batch: tuple[int, ...]) -> None:
    guide = built_guide(make)
    x = torch.randn(*batch, *EVENT)
    fn = guide(x)
    assert fn.batch_shape == batch and fn.event_shape == (size(guide),)
    draw = fn.rsample if fn.has_rsample else fn.sample
    z = draw((2,))
    assert fn.log_prob(z).shape == (2, *batch) and z.shape == (2, *batch, size(guide))
    alone = guide(x.reshape(-1, *EVENT)[:1]).log_prob(z.reshape(-1, size(guide))[:1])
    torch.testing.assert_close(fn.log_prob(z).flatten()[:1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", DENSITIES)
def test_density_is_one_and_samples_follow_it(name: str) -> None:
    """Sums to one, and draws have the expectations that the density says (4 s.e.)."""
    if name in PRIORS:
        prior = built_prior(PRIORS[name]).double()
        for guide in getattr(prior, "owner", ()):
            guide.double()
        fn, space = prior(*labels(prior)), prior.space
    else:
        guide = built_guide(GUIDES[name]).double()
        fn, space = guide(X[0].double()), guide.space
    if space.startswith("relaxed"):
        pytest.skip("two categories, below")
    points, log_weights = nodes(space)
    with torch.no_grad():
        density = (fn.log_prob(points) + log_weights).exp()
        torch.manual_seed(1)
        z = fn.sample((20000,))
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)

    def looks(z: Tensor) -> Tensor:
        rest = [(z[:, 0] * z[:, -1]).tanh(), (-z.square().sum(-1) / 2).exp()]
        return torch.stack([*z.tanh().unbind(-1), *rest], -1)

    seen, expected = looks(z), (looks(points) * density[:, None]).sum(0)
    error = seen.std(0) / math.sqrt(len(z)) + 1e-6
    assert ((seen.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_relaxed_codes_are_a_density(temperature: float) -> None:
    guide = guides.RelaxedOneHot(SMALL, categories=2, temperature=temperature)
    torch.manual_seed(0)
    guide.build(EVENT, (2,))
    fn = guide.double()(X[0].double())
    t = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    points = torch.stack([t.sigmoid(), (-t).sigmoid()], -1)
    width = torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t)
    density = (fn.log_prob(points) + width).exp() * float(t[1] - t[0])
    assert float(density.detach().sum()) == pytest.approx(1, abs=1e-4)
    torch.manual_seed(1)
    first = fn.sample((20000,))[:, 0]
    expected = float((points[:, 0] * density.detach()).sum())
    assert abs(float(first.mean()) - expected) < 4 * float(first.std()) / math.sqrt(20000)


@rows({k: v for k, v in PRIORS.items() if k != "StandardNormal"})
def test_prior_learns(make: Callable[[], priors.Prior]) -> None:
    """Gradients reach every parameter."""
    prior = built_prior(make)
    fn = prior(*labels(prior, 3))
    parameters = list(prior.parameters())
    prior_only = fn.log_prob(fn.sample((40,) if prior.takes_labels else (40, 3))).square().sum()
    if parameters:
        prior_only.backward()
    seen = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]
    assert all(seen)
    assert all(p.grad.isfinite().all() for p in parameters)


@rows(GUIDES)
@pytest.mark.parametrize("raw", [50.0, -50.0])
def test_guide_survives_extreme_outputs(make: Callable[[], guides.Guide], raw: float) -> None:
    guide = make()
    dims = 18
    guide.build(EVENT, (dims,))
    signs = torch.Generator().manual_seed(0)
    outputs = []
    for shape in guide.shapes.values():
        flips = torch.randint(0, 2, (5, *shape), generator=signs) * 2.0 - 1
        outputs.append((raw * torch.cat([flips.abs(), flips])).requires_grad_())
    fn = guide.distribution(*outputs)
    torch.manual_seed(0)
    z = fn.rsample() if fn.has_rsample else fn.sample()
    log_prob = fn.log_prob(z)
    assert z.isfinite().all() and log_prob.isfinite().all()
    (log_prob.sum() + z.square().sum()).backward()
    assert all(o.grad.isfinite().all() for o in outputs if o.grad is not None)


KINDS = list(itertools.product(PRIORS, GUIDES))


@pytest.mark.parametrize(("prior", "guide"), KINDS, ids=lambda name: name)
def test_closed_form_kl_is_the_expectation(prior: str, guide: str) -> None:
    """Where there is one, within 4 standard errors of Monte Carlo."""
    p, q = built_prior(PRIORS[prior]), built_guide(GUIDES[guide])
    fn, to = q(X[:6]), p(*labels(p, 6))
    if not fits(p, q) or p.latent_dim != size(q):
        pytest.skip("they do not live in the same space")
    try:
        exact = kl_divergence(fn, to.expand((6,)))
    except NotImplementedError:
        pytest.skip("no closed form")
    torch.manual_seed(0)
    with torch.no_grad():
        z = fn.sample((20000,))
        drawn = fn.log_prob(z) - to.log_prob(z)
    error = drawn.std(0) / math.sqrt(len(drawn)) + 1e-5
    assert ((drawn.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize(("prior", "guide"), KINDS, ids=lambda name: name)
def test_every_pairing_trains_or_says_why_not(prior: str, guide: str) -> None:
    """A pair that cannot be is refused with both spaces named; every other one trains."""
    p, q = PRIORS[prior](), GUIDES[guide]()
    torch.manual_seed(0)
    if not fits(p, q):
        with pytest.raises(pv.UsageError, match="the KL between them is infinite"):
            pv.VAE(EVENT, 6, p, guide=q)
        return
    vae = pv.VAE(EVENT, size(q), p, likelihoods.Bernoulli(SMALL), q)
    x = data(vae, X[:32])
    history = pv.fit(vae, x, epochs=5, batch_size=32, loss=BetaELBO(), progress=False)
    assert all(math.isfinite(v) for v in history["loss"])
    assert all(t.isfinite().all() for t in vae.state_dict().values())
    found = pv.evaluate(vae, x, 20)
    assert found.log_evidence is not None and found.log_evidence.isfinite().all()
    assert pv.sample(vae, 3).shape == (3, *EVENT)
    assert pv.reconstruct(vae, x).shape == (32, *EVENT)


@pytest.mark.parametrize(("prior", "guide"), KINDS, ids=lambda name: name)
def test_bounds_lie_below_the_exact_evidence(prior: str, guide: str) -> None:
    """ELBO <= IWAE-10 <= log p(x) by quadrature, within 4 standard errors, for every pairing."""
    p, q = PRIORS[prior](), GUIDES[guide]()
    if not fits(p, q) or q.space != "real numbers":
        pytest.skip("no quadrature there")
    torch.manual_seed(0)
    vae = pv.VAE(EVENT, 2, p, likelihoods.Bernoulli(SMALL), q)
    x = data(vae, X[:3])
    exact = pv.exact_log_evidence(vae, x, points=200).sum()
    problem = traces.Problem.of(vae, x)
    program = problem.pair
    with program.evaluating():
        torch.manual_seed(1)
        weights = problem.draw(x, 4000).log_weights
    elbo = weights.sum(1)
    iwae = (weights.unflatten(0, (-1, 10)).logsumexp(1) - math.log(10)).sum(1)

    error = float(iwae.std()) / math.sqrt(len(iwae))
    both = math.hypot(error, float(elbo.std()) / math.sqrt(len(elbo)))
    assert float(elbo.mean() - iwae.mean()) < 4 * both
    assert float(iwae.mean() - exact) < 4 * error + 1e-4
    assert float(elbo.mean()) < float(exact)


@pytest.mark.parametrize(("prior", "guide"), KINDS, ids=lambda name: name)
def test_every_likelihood_trains_under_every_pairing(prior: str, guide: str) -> None:
    """Two steps on data of its own kind: loss and parameters stay finite."""
    if not fits(PRIORS[prior](), GUIDES[guide]()):
        pytest.skip("they do not live in the same space")
    with pyro.validation_enabled(False):
        for name, make in LIKELIHOODS.items():
            torch.manual_seed(0)
            likelihood, q = make(), GUIDES[guide]()
            event = event_of(likelihood)
            vae = pv.VAE(event, size(q), PRIORS[prior](), likelihood, q)
            with torch.no_grad():
                x = likelihood(torch.randn(8, vae.latent_dim)).sample()
            adam, elbo = torch.optim.Adam(vae.parameters(), lr=1e-2), BetaELBO()
            for _ in range(2):
                adam.zero_grad()
                loss = elbo.loss_and_grads(vae.model, vae.guide, *data(vae, x))
                adam.step()
                assert math.isfinite(loss), name
            assert all(p.isfinite().all() for p in vae.parameters()), name


@rows({**PRIORS, **GUIDES})
def test_trains_saves_and_loads(
    make: Callable[[], priors.Prior | guides.Guide], tmp_path: object
) -> None:
    torch.manual_seed(0)
    part = make()
    if isinstance(part, priors.Prior):
        vae = matching(part)
    else:
        prior = next(p for p in (make() for make in PRIORS.values()) if fits(p, part))
        vae = pv.VAE(EVENT, size(part), prior, likelihoods.Bernoulli(SMALL), part)
    x = data(vae)
    before = [p.detach().clone() for p in vae.parameters()]
    history = pv.fit(vae, x, epochs=5, batch_size=16, lr=0.01, progress=False)
    assert all(math.isfinite(v) for v in history["elbo"])
    moved = [not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True)]
    assert all(moved)
    pv.save(vae, tmp_path)
    again = pv.load(tmp_path)
    torch.testing.assert_close(pv.elbo(again, x), pv.elbo(vae, x))


def test_one_code_is_summed_out() -> None:
    """The enumerated ELBO is the mean over draws, and its evidence the sum over codes."""
    torch.manual_seed(0)
    vae = pv.VAE(
        EVENT,
        3,
        priors.OneHot(3),
        likelihoods.Bernoulli(SMALL),
        guides.OneHot(SMALL, categories=3, enumerate=True),
    )
    pv.fit(vae, X, epochs=3, batch_size=32, loss=TraceEnum_ELBO(max_plate_nesting=1),
           progress=False)  # fmt: skip
    codes = torch.eye(3)
    with torch.no_grad():
        log_p = vae.prior().log_prob(codes)
        joint = log_p + vae.likelihood(codes[:, None]).log_prob(X).T
    torch.testing.assert_close(pv.log_evidence(vae, X, 2), joint.logsumexp(-1))
    sampled = pv.VAE(EVENT, 3, priors.OneHot(3), likelihoods.Bernoulli(SMALL),
                     guides.OneHot(SMALL, categories=3))  # fmt: skip
    sampled.load_state_dict(vae.state_dict())
    draws = torch.stack([pv.elbo(sampled, X, seed=k).mean() for k in range(200)])
    error = float(draws.std()) / math.sqrt(200)
    assert abs(float(draws.mean() - pv.elbo(vae, X).mean())) < 4 * error + 1e-5


def test_conditional_prior_separates_classes() -> None:
    """Trained on data whose label matters, p(z|y) differs by y, and samples follow the label."""
    torch.manual_seed(0)
    y = torch.arange(300) % 3
    x = torch.zeros(300, 6)
    x[torch.arange(300), y * 2] = 1.0
    vae = pv.VAE(
        (6,), 2, priors.Conditional(3), likelihoods.Bernoulli(SMALL), guides.MeanField(SMALL)
    )
    pv.fit(vae, (x, y), epochs=60, batch_size=50, lr=0.01, progress=False)
    one_each = (x[:3], y[:3])
    mean = pv.sample(vae, 300, like=one_each, mean=True)
    assert (mean.argmax(-1) == (torch.arange(300) % 3) * 2).float().mean() > 0.9
    with pytest.raises(pv.UsageError, match="give the data as"):
        pv.elbo(vae, x)


def test_iaf_density_is_its_jacobian() -> None:
    guide = built_guide(GUIDES["Flow"], 4).double()
    fn = guide(X[0].double())
    noise = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(fn.transform, noise)
    z = fn.transform(noise)
    expected = fn.base_dist.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(fn.log_prob(z), expected)


def test_gradients_of_a_mixture_are_those_of_its_moments() -> None:
    """E[z], E[z^2] and E[z_1 z_2] by every parameter, within 4 standard errors."""
    torch.manual_seed(0)
    leaves = [torch.randn(3), torch.randn(3, 2) * 2, torch.rand(3, 2) + 0.3]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    logits, loc, scale = leaves
    weight = logits.softmax(-1)
    cross = (weight * loc[:, 0] * loc[:, 1]).sum()
    square = (weight[:, None] * (loc.square() + scale.square())).sum(0)
    exact = [(weight[:, None] * loc).sum(0)[0], square[1], cross]
    fn = pv.distributions.MixtureOfNormals(*leaves)
    for k, target in enumerate(exact):
        wanted = torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True)
        wanted = [
            torch.zeros_like(p) if g is None else g for g, p in zip(wanted, leaves, strict=True)
        ]
        runs = []
        for _ in range(200):
            z = fn.rsample((200,))
            moment = (z[:, 0], z[:, 1].square(), z[:, 0] * z[:, 1])[k].mean()
            runs.append(torch.cat([g.flatten() for g in torch.autograd.grad(moment, leaves)]))
        runs = torch.stack(runs)
        off = (runs.mean(0) - torch.cat([w.flatten() for w in wanted])).abs()
        assert (off < 4.5 * runs.std(0) / math.sqrt(200) + 1e-9).all()


def test_vamp_with_one_component_is_that_gaussian() -> None:
    prior = built_prior(lambda: priors.VampPrior(1))
    (guide,) = prior.owner
    z = torch.randn(50, 2)
    torch.testing.assert_close(prior().log_prob(z), guide(prior.pseudo[0]).log_prob(z))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: priors.Flow("splin"), "did you mean 'spline'"),
        (lambda: guides.Flow(SMALL, kind="affine"), "kind is autoregressive or spline"),
        (lambda: priors.StudentT(df=0), "df must be a positive number"),
        (lambda: priors.Mixture(0), "components must be"),
        (lambda: guides.LowRank(SMALL, rank=0), "rank must be"),
        (lambda: guides.OneHot(SMALL, categories=1), "at least 2"),
        (lambda: pv.VAE((4,), 7, priors.OneHot(3), guide=guides.OneHot(SMALL, 3)), "latent_dim=6"),
        (lambda: pv.VAE((4,), 1, priors.Sphere(), guide=guides.PowerSpherical(SMALL)), "least 2"),
        (lambda: priors.VampPrior(3).build(2), "made of its pair's guide"),
    ],
)
def test_mistakes_speak(make: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        make()


def test_flows_leave_validation_on() -> None:
    networks.flow("spline", 3)
    with pytest.raises(ValueError, match="scale"):
        pyro.distributions.Normal(0.0, torch.tensor(-1.0))
