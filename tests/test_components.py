"""One contract per kind, one row per class: a new class adds a row here and nothing else."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import components, guides, likelihoods, networks, priors
from pyrovae.components import Component

SMALL = networks.MLP([8])
EVENT = (1, 6, 5)

PRIORS: dict[str, Callable[[], priors.Prior]] = {
    "StandardNormal": priors.StandardNormal,
    "Normal": priors.Normal,
    "Laplace": priors.Laplace,
    "StudentT": lambda: priors.StudentT(df=4.0),
    "Mixture": lambda: priors.Mixture(3),
    "VampPrior": lambda: priors.VampPrior(4),
    "Flow": lambda: priors.Flow(transforms=2, hidden=[8]),
    "Flow spline": lambda: priors.Flow("spline", transforms=2, hidden=[8]),
    "Conditional": lambda: priors.Conditional(3),
    "Sphere": priors.Sphere,
    "OneHot": lambda: priors.OneHot(3),
    "RelaxedOneHot": lambda: priors.RelaxedOneHot(3),
}
LIKELIHOODS: dict[str, Callable[[], likelihoods.Likelihood]] = {
    "Bernoulli": lambda: likelihoods.Bernoulli(SMALL),
    "Normal": lambda: likelihoods.Normal(SMALL),
    "Normal per dimension": lambda: likelihoods.Normal(SMALL, scale="per_dimension"),
    "Normal network": lambda: likelihoods.Normal(SMALL, scale="network"),
    "Normal fixed": lambda: likelihoods.Normal(SMALL, scale=0.3),
    "Normal optimal": lambda: likelihoods.Normal(SMALL, scale="optimal").eval(),
    "Laplace": lambda: likelihoods.Laplace(SMALL),
    "Laplace optimal": lambda: likelihoods.Laplace(SMALL, scale="optimal").eval(),
    "StudentT": lambda: likelihoods.StudentT(SMALL),
    "StudentT network": lambda: likelihoods.StudentT(SMALL, scale="network", df="per_dimension"),
    "LogNormal": lambda: likelihoods.LogNormal(SMALL),
    "LogNormal network": lambda: likelihoods.LogNormal(SMALL, scale="network"),
    "ContinuousBernoulli": lambda: likelihoods.ContinuousBernoulli(SMALL),
    "Categorical": lambda: likelihoods.Categorical(4, SMALL),
    "Binomial": lambda: likelihoods.Binomial(16, SMALL),
    "BetaBinomial": lambda: likelihoods.BetaBinomial(16, SMALL),
    "Poisson": lambda: likelihoods.Poisson(SMALL),
    "NegativeBinomial": lambda: likelihoods.NegativeBinomial(SMALL),
    "NegativeBinomial network": lambda: likelihoods.NegativeBinomial(SMALL, dispersion="network"),
    "NegativeBinomial fixed": lambda: likelihoods.NegativeBinomial(SMALL, dispersion=2.0),
    "ZeroInflatedNegativeBinomial": lambda: likelihoods.ZeroInflatedNegativeBinomial(SMALL),
    "LogisticMixture": lambda: likelihoods.LogisticMixture(3, SMALL),
    "Mixed": lambda: likelihoods.Mixed(
        [likelihoods.Normal(), likelihoods.Poisson(), likelihoods.Categorical(3)], SMALL
    ),
}
GUIDES: dict[str, Callable[[], guides.Guide]] = {
    "MeanField": lambda: guides.MeanField(SMALL),
    "FullRank": lambda: guides.FullRank(SMALL),
    "LowRank": lambda: guides.LowRank(SMALL, rank=2),
    "Flow": lambda: guides.Flow(SMALL, context=4, hidden=[8]),
    "Flow spline": lambda: guides.Flow(SMALL, "spline", transforms=1, context=4, hidden=[8]),
    "Mixture": lambda: guides.Mixture(SMALL, components=2),
    "PowerSpherical": lambda: guides.PowerSpherical(SMALL),
    "OneHot": lambda: guides.OneHot(SMALL, categories=3),
    "RelaxedOneHot": lambda: guides.RelaxedOneHot(SMALL, categories=3),
}
NETWORKS: dict[str, Callable[[], networks.Network]] = {
    "MLP": lambda: networks.MLP([8, 7], "Tanh"),
    "MLP linear": lambda: networks.MLP([]),
    "GatedMLP": lambda: networks.GatedMLP([8, 7]),
    "ConvNet": lambda: networks.ConvNet([4, 6], hidden=9),
    "ConvNet deep": lambda: networks.ConvNet([4, 4, 4], hidden=9, activation="SiLU"),
    "ResNet": lambda: networks.ResNet([4, 6], hidden=9),
    "ResNet deep": lambda: networks.ResNet([1, 5, 16], blocks=2, hidden=9, activation="ELU"),
}
CONVOLUTIONS: dict[str, Callable[..., networks.Network]] = {
    "ConvNet": networks.ConvNet,
    "ResNet": networks.ResNet,
}


def event_of(likelihood: likelihoods.Likelihood) -> tuple[int, ...]:
    """EVENT, or a table's row of as many columns as it has likelihoods."""
    columns = getattr(likelihood, "columns", None)
    return EVENT if columns is None else (len(columns),)


def rows(table: dict[str, Callable[[], object]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", table.values(), ids=table.keys())


@pytest.mark.parametrize(
    ("room", "table"),
    [(priors, PRIORS), (likelihoods, LIKELIHOODS), (guides, GUIDES), (networks, NETWORKS)],
    ids=["priors", "likelihoods", "guides", "networks"],
)
def test_every_class_has_a_row(room: object, table: dict[str, Callable[[], object]]) -> None:
    classes = [getattr(room, name) for name in room.__all__]
    concrete = {c for c in classes if inspect.isclass(c) and not inspect.isabstract(c)}
    concrete.discard(Component)
    assert concrete == {type(make()) for make in table.values()}


@rows({**PRIORS, **LIKELIHOODS, **GUIDES, **NETWORKS})
def test_signature_is_configuration(make: Callable[[], Component]) -> None:
    """Described as plain data and built again: the same description, the same shapes."""
    first = make()
    again = components.construct(components.describe(first))
    assert components.describe(again) == components.describe(first)
    assert set(components.describe(first)["init_args"]) == set(first.arguments())
    assert type(again) is type(first)


@rows(LIKELIHOODS)
@pytest.mark.parametrize("batch", [(7,), (4, 7)], ids=["batch", "particles"])
def test_likelihood(make: Callable[[], likelihoods.Likelihood], batch: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    likelihood = make()
    event = event_of(likelihood)
    likelihood.build((3,), event)
    z = torch.randn(*batch, 3)
    fn = likelihood(z)
    assert fn.batch_shape == batch and fn.event_shape == event
    x = fn.sample()
    log_prob = fn.log_prob(x)
    assert log_prob.shape == batch
    # each datum's density is its own: the first is that of the first z alone
    alone = likelihood(z.reshape(-1, 3)[:1]).log_prob(x.reshape(-1, *event)[:1])
    torch.testing.assert_close(log_prob.flatten()[:1], alone, rtol=1e-4, atol=1e-4)
    assert all(p.grad_fn is None for p in likelihood.parameters())


@rows(NETWORKS)
@pytest.mark.parametrize(
    "image",
    [(1, 1, 1), (3, 1, 2), (3, 32, 32), *itertools.product((1, 3), (7, 8), (5, 28))],
    ids=lambda s: "x".join(map(str, s)),
)
def test_network_fits_any_image(
    make: Callable[[], networks.Network], image: tuple[int, int, int]
) -> None:
    x = torch.randn(2, *image)
    encoder = make().build(image, {"loc": (4,), "raw_scale": (4,)})
    assert [t.shape for t in encoder(x)] == [(2, 4), (2, 4)]
    decoder = make().build((4,), {"loc": image, "raw": (5, *image)})
    assert [t.shape for t in decoder(torch.randn(2, 4))] == [(2, *image), (2, 5, *image)]
    # no datum sees another
    torch.testing.assert_close(encoder(x)[0][:1], encoder(x[:1])[0], rtol=1e-4, atol=1e-5)


@rows(CONVOLUTIONS)
def test_convolutions_refuse_channels_last(make: Callable[..., networks.Network]) -> None:
    for image in ((28, 28, 1), (32, 30, 3), (28, 28, 4)):
        first = tuple(image[k] for k in (2, 0, 1))
        for inputs, outputs in ((image, {"loc": (3,)}), ((3,), {"logits": image})):
            with pytest.raises(
                pv.UsageError, match=r"channels last.*permute\(0, 3, 1, 2\)"
            ) as error:
                make([4]).build(inputs, outputs)
            assert str(first) in str(error.value)
    for image in ((64, 4, 4), (1, 3, 3), (3, 8, 5)):  # small, and not channels last
        make([4]).build(image, {"loc": (3,)})


@rows(CONVOLUTIONS)
def test_convolutions_reach_every_pixel(make: Callable[..., networks.Network]) -> None:
    """No output pixel is constant, no input pixel ignored, at even and odd sizes."""
    torch.manual_seed(0)
    for image in ((1, 28, 28), (2, 27, 50), (1, 9, 6)):
        body = make([4, 4], hidden=16, activation="Tanh")
        z = torch.randn(64, 3)
        (out,) = body.build((3,), {"logits": image})(z)
        assert (out.std(0) > 0).all()
        x = torch.randn(2, *image, requires_grad=True)
        body.build(image, {"loc": (3,)})(x)[0].sum().backward()
        assert (x.grad.abs().sum(0) > 0).all()


def test_a_residual_block_is_the_paper_s_and_begins_as_the_identity() -> None:
    torch.manual_seed(0)
    block = networks.ResNet(activation="ReLU").stage(12)[0]
    x = 3 + 2 * torch.randn(5, 12, 4, 7)
    assert torch.equal(block(x), x)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    h = x
    gain1, shift1, kernel1, bias1, gain2, shift2, kernel2, bias2 = block.parameters()
    for gain, shift, kernel, bias in (
        (gain1, shift1, kernel1, bias1),
        (gain2, shift2, kernel2, bias2),
    ):
        groups = h.reshape(5, 3, 4 * 4 * 7)  # three groups of four channels
        centred = groups - groups.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        h = scaled.reshape(x.shape) * gain[:, None, None] + shift[:, None, None]
        h = nn.functional.conv2d(h.clamp(min=0), kernel, bias, padding=1)
    torch.testing.assert_close(block(x), x + h, rtol=1e-4, atol=1e-4)


def test_bernoulli_density_and_gradient_equal_torchs() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 2, *EVENT, dtype=torch.float64) * 10).requires_grad_()
    x = (torch.rand(2, *EVENT) < 0.5).double()
    usual = dist.Bernoulli(logits=logits).to_event(3)
    fast = pv.distributions.IndependentBernoulli(dist.Bernoulli(logits=logits), 3)
    torch.testing.assert_close(fast.log_prob(x), usual.log_prob(x))
    ours = torch.autograd.grad(fast.log_prob(x).sum(), logits)
    theirs = torch.autograd.grad(usual.log_prob(x).sum(), logits)
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="support"):
        fast.log_prob(x + 0.5)


def test_bernoulli_with_very_large_logits() -> None:
    logits = torch.tensor([[300.0, -300.0, 80.0, -5.0]])
    fn = pv.distributions.IndependentBernoulli(dist.Bernoulli(logits=logits), 1)
    expected = dist.Bernoulli(logits=logits.double()).to_event(1)
    for x in (torch.tensor([[1.0, 0, 1, 0]]), torch.tensor([[0.0, 1, 0, 1]])):
        torch.testing.assert_close(fn.log_prob(x).double(), expected.log_prob(x.double()))


def test_module_of_your_own() -> None:
    event = (1, 6, 5)
    decoder = nn.Sequential(nn.Linear(3, 30), nn.Unflatten(1, event))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(30, 6), nn.Unflatten(1, (2, 3)))

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = encoder

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            loc, raw = self.body(x).unbind(1)
            return {"raw_scale": raw, "loc": loc}

    vae = pv.VAE(
        event, 3, likelihood=likelihoods.Bernoulli(decoder), guide=guides.MeanField(Split())
    )
    x = torch.bernoulli(torch.rand(4, *event))
    assert pv.log_evidence(vae, x, 10).shape == (4,)
    assert len(list(vae.parameters())) == 4


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (nn.Linear(3, 30), r"\(2, 30\); expected logits \(2, 1, 6, 5\)"),
        (nn.Linear(4, 30), "fails on an input of shape"),
        (nn.Sequential(nn.Linear(3, 31), nn.Unflatten(1, (1, 31))), "nn.Unflatten"),
    ],
)
def test_network_that_does_not_fit(network: nn.Module, match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        pv.VAE(EVENT, 3, likelihood=likelihoods.Bernoulli(network))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: pv.VAE((4,), 0), "at least 1, got 0"),
        (lambda: pv.VAE((4,), 2.0), "whole number"),
        (lambda: pv.VAE((), 2), "shape of one datum"),
        (lambda: pv.VAE((4,), 2, prior=likelihoods.Bernoulli()), "prior must be a"),
        (lambda: pv.VAE((4,), 2, likelihood="Bernoulli"), "likelihood must be a"),
        (lambda: pv.VAE((4,), 2, guide=networks.MLP()), "guide must be a"),
        (lambda: likelihoods.Normal(SMALL, scale="shard"), "did you mean 'shared'"),
        (lambda: likelihoods.Normal(SMALL, scale=-1.0), "positive"),
        (lambda: likelihoods.Bernoulli([400]), "networks.MLP"),
        (lambda: networks.MLP([0]), "positive whole"),
        (lambda: networks.MLP([4], "Relu").build((2,), {"a": (1,)}), "did you mean 'ReLU'"),
        (lambda: networks.ConvNet([]), "at least one"),
        (lambda: networks.ResNet([]), "ResNet needs at least one"),
        (lambda: networks.ResNet([4], blocks=0), "blocks must be a whole"),
        (lambda: networks.ResNet([4, 4], blocks=501), "blocks must .* at most 500"),
        (lambda: pv.VAE((4,), 2, likelihood=likelihoods.Bernoulli(networks.ConvNet())), "use MLP"),
    ],
)
def test_mistakes_speak(make: Callable[[], object], match: str) -> None:
    with pytest.raises(pv.UsageError, match=match):
        make()


def test_a_component_belongs_to_one_model() -> None:
    likelihood = likelihoods.Bernoulli(SMALL)
    pv.VAE((4,), 2, likelihood=likelihood)
    with pytest.raises(pv.UsageError, match="already belongs"):
        pv.VAE((4,), 2, likelihood=likelihood)
    pv.VAE((4,), 2, likelihood=likelihoods.Bernoulli(copy.deepcopy(SMALL)))
