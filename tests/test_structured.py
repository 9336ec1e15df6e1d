"""Hierarchies, mixtures and classes summed out, against closed forms and brute force."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, programs
from pyrovae.evaluation import clustering
from pyrovae.streams import FileData
from pyrovae.tensors import TensorData

LINEAR = networks.MLP([])
NOISE = 0.6


def linear(part: object) -> torch.nn.Linear:
    """The one layer of a linear part."""
    (found,) = [m for m in part.modules() if isinstance(m, torch.nn.Linear)]
    return found


def emission_of(program: programs.Program) -> torch.nn.Linear:
    """The mean of x given what a linear likelihood is given, in the data's own units."""
    own, units = copy.deepcopy(linear(program.likelihood)), program.likelihood.scale_of
    own.weight.data *= units.unit[:, None]
    own.bias.data = units.centre + units.unit * own.bias.data
    return own.requires_grad_(False)


def fitted(program: programs.Program, *batch: Tensor) -> None:
    """Trained a little: the weights of a guide from random weights have no variance to speak of."""
    pv.fit(program, batch, epochs=100, batch_size=50, lr=1e-2, progress=False)


def gaussian(loc: Tensor, covariance: Tensor, x: Tensor) -> Tensor:
    return MultivariateNormal(loc.double(), covariance.double()).log_prob(x.double()).float()


def noise(size: int) -> Tensor:
    return NOISE**2 * torch.eye(size)


def within(found: Tensor, exact: Tensor, errors: float) -> None:
    """Estimates of log p(x) ``[repeats, N]``: those of p(x) / its exact value are 1 on the mean,
    which has no bias, in its standard errors."""
    ratios = (found.double() - exact.double()).exp().mean(1)
    error = float(ratios.std() / math.sqrt(len(ratios))) + 1e-6
    assert error < 0.1  # or it says little
    assert abs(float(ratios.mean()) - 1) < errors * error


@pytest.mark.parametrize("order", ["ladder", "bottom-up"])
@pytest.mark.parametrize("skip", [False, True], ids=["chain", "skip"])
def test_hierarchy_has_the_evidence_of_a_linear_gaussian_one(order: str, skip: bool) -> None:
    torch.manual_seed(0)
    likelihood = likelihoods.Normal(LINEAR, scale=NOISE)
    sizes = [3, 2]
    program = programs.Hierarchical(
        (4,), sizes, likelihood=likelihood, network=LINEAR, order=order, skip=skip
    )
    fitted(program, 2 * torch.randn(500, 4) @ torch.randn(4, 4))
    emission, down = emission_of(program), linear(program.down)
    down.weight.data[3:] = 0.0  # the scale of z1 does not depend on z2
    down = copy.deepcopy(down).requires_grad_(False)
    if order == "bottom-up":  # wider than the posterior, lest the weights have heavy tails
        for q in program.up:
            layer = linear(q)
            layer.weight.data[len(layer.bias) // 2 :] = 0.0
            layer.bias.data[len(layer.bias) // 2 :] = 0.5
    b, c = down.weight[:3], down.bias[:3]
    scale = torch.nn.functional.softplus(down.bias[3:]) + guides.SMALLEST
    a = emission.weight[:, :3]
    direct = emission.weight[:, 3:] if skip else torch.zeros(4, 2)
    whole = a @ b + direct
    loc = emission.bias + a @ c
    covariance = whole @ whole.T + a @ torch.diag(scale**2) @ a.T + noise(4)
    x = MultivariateNormal(loc, covariance).sample((5,))
    exact = gaussian(loc, covariance, x)
    assert torch.allclose(pv.exact_log_evidence(program, x).float(), exact, atol=1e-3)
    found = torch.stack([pv.log_evidence(program, x, 20_000, seed=s) for s in range(10)])
    within(found, exact, 4)


def mixture() -> tuple[programs.GaussianMixture, Tensor, Tensor]:
    """A linear decoder over a mixture: data, and log p(x, y) ``[N, clusters]``."""
    torch.manual_seed(1)
    likelihood = likelihoods.Normal(LINEAR, scale=NOISE)
    program = programs.GaussianMixture(
        (4,), 3, 2, likelihood=likelihood, guide=guides.MeanField(LINEAR), pretraining=0
    )
    with torch.no_grad():
        program.logits.copy_(torch.tensor([0.5, 0.0, -0.7]))
        program.raw.normal_(-0.5, 0.3)
        lower = program.scale_tril()
        emission = emission_of(program)
        w = emission.weight
        x = torch.randn(6, 4)
        prior = program.logits.log_softmax(-1)
        each = [
            gaussian(
                w @ program.loc[k] + emission.bias,
                w @ lower[k] @ lower[k].T @ w.T + noise(4),
                x,
            )
            for k in range(3)
        ]
        return program, x, torch.stack(each, 1) + prior


def test_mixture_sums_its_clusters_out_exactly() -> None:
    program, x, joint = mixture()
    found = torch.stack([pv.log_evidence(program, x, 20_000, seed=s) for s in range(10)])
    within(found, joint.logsumexp(1), 4)


def test_mixture_bound_is_that_of_a_sum_written_out() -> None:
    """On the same noise: by hand, by TraceEnum_ELBO and by the objective that compiles."""
    program, x, _ = mixture()
    torch.manual_seed(5)
    q = program.posterior(x)
    z = q.rsample()
    each = [
        program.logits.log_softmax(-1)[k]
        + MultivariateNormal(program.loc[k], scale_tril=program.scale_tril()[k]).log_prob(z)
        for k in range(3)
    ]
    by_hand = torch.stack(each).logsumexp(0) + program.likelihood(z).log_prob(x) - q.log_prob(z)
    losses = {
        "enum": TraceEnum_ELBO(max_plate_nesting=1),
        "ours": objectives.BetaELBO(analytic=False),
    }
    parameters = list(program.parameters())
    expected = torch.autograd.grad(-by_hand.sum(), parameters)
    for loss in losses.values():
        if isinstance(loss, objectives.Objective):  # learns the structure, on other noise
            loss.differentiable_loss(program.model, program.guide, x)
        torch.manual_seed(5)
        value = loss.differentiable_loss(program.model, program.guide, x)
        assert torch.allclose(value, -by_hand.sum(), rtol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(value, parameters), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_clusters_are_found_and_named() -> None:
    """Three well separated groups in eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 3 * torch.randn(3, 8, generator=generator)
    x = centres[labels] + 0.4 * torch.randn(300, 8, generator=generator)
    data = TensorData(x, labels=labels)
    torch.manual_seed(0)
    net = networks.MLP([32])
    program = programs.GaussianMixture(
        (8,), 3, 2, likelihood=likelihoods.Normal(net), guide=guides.MeanField(net)
    )
    program.initialise(data)
    pv.fit(program, data, epochs=10, batch_size=50, progress=False)
    assert program.scores(data)["one_to_one"] > 0.95
    assert torch.allclose(program.assign(x).sum(1), torch.ones(300), atol=1e-5)


def test_clustering_scores_by_hand() -> None:
    found = torch.tensor([0, 0, 1, 1, 2, 2])
    labels = torch.tensor([4, 4, 4, 4, 9, 4])
    # one to one: one cluster of two stands for 4, the last for 9; by majority all stand for 4
    assert clustering(found, labels) == {"one_to_one": 3 / 6, "majority": 5 / 6}
    with pytest.raises(pv.UsageError, match="alike"):
        clustering(found, labels[:3])


def classes() -> tuple[programs.SemiSupervised, Tensor, Tensor]:
    """M2 with linear maps: data, and log p(x, y) ``[N, classes]``."""
    torch.manual_seed(2)
    program = programs.SemiSupervised(
        (4,),
        3,
        2,
        likelihood=likelihoods.Normal(LINEAR, scale=NOISE),
        guide=guides.MeanField(LINEAR),
        classifier=LINEAR,
    )
    y = torch.arange(600) % 3
    fitted(program, 1.5 * torch.randn(3, 4)[y] + torch.randn(600, 4) @ torch.randn(4, 4) / 2, y)
    with torch.no_grad():
        emission = emission_of(program)
        w, shift = emission.weight[:, :2], emission.weight[:, 2:]
        x = torch.randn(6, 4)
        each = [gaussian(emission.bias + shift[:, y], w @ w.T + noise(4), x) for y in range(3)]
        return program, x, torch.stack(each, 1) - math.log(3)


def test_classes_are_summed_out_where_unknown_and_given_where_known() -> None:
    program, x, joint = classes()
    label = torch.tensor([0, -1, 2, -1, 1, -1])
    exact = torch.where(label >= 0, joint.gather(1, label.clamp(min=0)[:, None])[:, 0], 0)
    exact = torch.where(label >= 0, exact, joint.logsumexp(1))
    found = [pv.log_evidence(program, (x, label), 20_000, seed=s) for s in range(10)]
    within(torch.stack(found), exact, 4)
    # every known label and every unknown one by itself
    assert torch.allclose(torch.stack(found).mean(0), exact, atol=0.1)


def test_bound_of_the_unlabelled_is_the_sum_over_classes() -> None:
    """U(x) = sum_y q(y|x) (L(x, y) - log q(y|x)), Kingma et al. 2014, with L from labels given."""
    program, x, _ = classes()
    program.eval()
    unknown = torch.full((len(x),), -1)
    given = [
        pv.elbo(program, (x, torch.full((len(x),), y)), 40_000, seed=y).double() for y in range(3)
    ]
    q = program.classify(x).double()
    expected = (q * (torch.stack(given, 1) - q.log())).sum(1)
    found = pv.elbo(program, (x, unknown), 40_000).double()
    assert torch.allclose(found, expected, atol=0.15)
    losses = [TraceEnum_ELBO(max_plate_nesting=1), objectives.BetaELBO(analytic=False)]
    for loss in losses:
        with pyro.validation_enabled():
            value = [loss.loss(program.model, program.guide, x, unknown) for _ in range(300)]
        mean, error = torch.tensor(value).mean(), torch.tensor(value).std() / 300**0.5
        assert abs(float(-mean - expected.sum())) < 4 * float(error) + 0.3


def test_the_classifier_s_term_is_one_of_training_alone() -> None:
    """In training a label adds alpha log q(y|x); what is measured is log p(x, y)'s bound."""
    program, x, _ = classes()
    label = torch.zeros(len(x), dtype=torch.long)
    objective = objectives.BetaELBO()
    objective.loss(program.model, program.guide, x, label)
    values = {}
    for training in (True, False):
        program.train(training)
        torch.manual_seed(0)
        values[training] = objective.loss(program.model, program.guide, x, label)
    term = program.alpha * program.classify(x)[:, 0].log().sum()
    assert values[True] - values[False] == pytest.approx(-float(term), rel=1e-4)


def test_labels_are_kept_evenly_and_hidden_to_measure() -> None:
    labels = torch.arange(90) % 3
    data = TensorData(torch.randn(90, 4), labels=labels)
    program = programs.SemiSupervised((4,), 3, 2, labels=9, share=0.25)
    served = program.serve(data, training=True)
    given = served.tensors[1]
    known = given >= 0
    assert abs(float(known.double().mean()) - 0.25) < 0.07
    assert served.tensors[0][known].unique(dim=0).shape[0] == 9
    counts = [len(served.tensors[0][given == y].unique(dim=0)) for y in range(3)]
    assert counts == [3, 3, 3]
    assert bool((program.serve(data).tensors[1] == -1).all())


def test_data_that_are_streamed_or_without_labels_are_refused(tmp_path: Path) -> None:
    program = programs.SemiSupervised((4,), 3, 2)
    with pytest.raises(pv.UsageError, match="learns from a few labels"):
        program.serve(TensorData(torch.randn(9, 4)), training=True)
    np.save(tmp_path / "x.npy", np.zeros((9, 4), np.float32))
    with pytest.raises(pv.UsageError, match="in memory"):
        program.serve(FileData(tmp_path / "x.npy"), training=True)


def test_few_labels_spread_to_the_others() -> None:
    """Three groups, two labels each: nearly all the hidden labels are found."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 2 * torch.randn(3, 8, generator=generator)
    x = centres[labels] + 0.4 * torch.randn(300, 8, generator=generator)
    data = TensorData(x, labels=labels)
    torch.manual_seed(0)
    net = networks.MLP([32])
    program = programs.SemiSupervised(
        (8,),
        3,
        2,
        likelihood=likelihoods.Normal(net),
        guide=guides.MeanField(net),
        classifier=net,
        labels=6,
    )
    train, test = program.serve(data, training=True), program.serve(data)
    program.initialise(train)
    pv.fit(program, train, epochs=5, batch_size=50, progress=False)
    assert program.scores(test)["accuracy"] > 0.9


def test_a_class_changes_the_evidence_of_conditional_data() -> None:
    """log p(x|y) by quadrature and by sampling, for the given class alone."""
    torch.manual_seed(3)
    program = programs.Conditional((4,), 3, 2, likelihood=likelihoods.Bernoulli(networks.MLP([8])))
    y = torch.arange(300) % 3
    fitted(program, torch.bernoulli(torch.rand(3, 4)[y]), y)
    x, y = torch.ones(3, 4), torch.arange(3)
    exact = pv.exact_log_evidence(program, (x, y))
    assert float(exact.std()) > 1e-3
    found = torch.stack([pv.log_evidence(program, (x, y), 5000, seed=s) for s in range(8)])
    assert torch.allclose(found.mean(0), exact.float(), atol=0.02)
