"""Discrete codes against sums written out by hand."""

from __future__ import annotations

import itertools
import math

import pyro
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import likelihoods, networks, objectives, programs

SMALL, CATEGORIES = networks.MLP([8]), 3


def make(estimator: str = "enumerate", **options: object) -> programs.DiscreteCode:
    torch.manual_seed(0)
    likelihood = likelihoods.Bernoulli(SMALL)
    made = programs.DiscreteCode(
        (6,), 2, CATEGORIES, estimator, likelihood=likelihood, network=SMALL, **options
    )
    with torch.no_grad():  # weights that say something of x
        for value in made.parameters():
            value.mul_(3.0)
    return made.double().eval()


def data(n: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 6, generator=generator, dtype=torch.float64).round()


def by_hand(program: programs.DiscreteCode, x: Tensor) -> tuple[Tensor, Tensor]:
    """(log p(x), ELBO) per datum, one combination of the two codes after the other."""
    log_q = program.logits(x)[0].log_softmax(-1)
    joint, bound = [], torch.zeros(len(x), dtype=x.dtype)
    for first, second in itertools.product(range(CATEGORIES), repeat=2):
        z = torch.zeros(1, 2 * CATEGORIES, dtype=x.dtype)
        z[0, first] = z[0, CATEGORIES + second] = 1
        logits = program.likelihood.body(z)[0].expand(x.shape)
        log_x = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        joint.append(log_x - 2 * math.log(CATEGORIES))
        both = log_q[:, 0, first] + log_q[:, 1, second]
        bound = bound + both.exp() * (joint[-1] - both)
    return torch.stack(joint).logsumexp(0), bound


def test_sums_are_those_by_hand() -> None:
    program, x = make(), data()
    log_evidence, bound = by_hand(program, x)
    assert torch.allclose(pv.log_evidence(program, x, 1), log_evidence, atol=1e-8)
    assert torch.allclose(pv.elbo(program, x), bound, atol=1e-8)
    ours = objectives.BetaELBO().loss(program.model, program.guide, x)
    theirs = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1).loss(program.model, program.guide, x)
    assert ours == pytest.approx(-float(bound.sum().detach()), abs=1e-8)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_gradient_is_that_by_hand() -> None:
    program, x = make(), data()
    parameters = list(program.parameters())
    loss = objectives.BetaELBO().differentiable_loss(program.model, program.guide, x)
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(-by_hand(program, x)[1].sum(), parameters)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-8)


class Held(nn.Module):
    """The same logits for each row, as a parameter: a row's gradient is a draw of its own."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.logits[: len(x)],)


def drawn(estimator: str, n: int, beta: float = 1.0, **options: object) -> Tensor:
    """``[n, codes * categories]``: gradients of one datum's bound by its logits."""
    program, x = make(estimator, **options), data(1).expand(n, 6).contiguous()
    program.logits = Held(program.logits(x)[0].detach())
    loss = objectives.BetaELBO(beta).differentiable_loss(program.model, program.guide, x)
    return torch.autograd.grad(loss, program.logits.logits)[0].flatten(1)


def test_score_function_has_the_exact_mean() -> None:
    (exact,), scored = drawn("enumerate", 1), drawn("score", 20_000)
    error = scored.std(0) / math.sqrt(len(scored))
    assert bool(((scored.mean(0) - exact).abs() < 4 * error + 1e-12).all())


@pytest.mark.slow
def test_relaxed_bias_cools_away_from_the_reconstruction_and_not_from_the_kl() -> None:
    """The relaxed KL is the same at every temperature, and above that of the codes: their argmax
    has the codes' distribution, and what is thrown away only adds to a KL."""
    kls, biases = [], []
    (exact,) = drawn("enumerate", 1, beta=0.0)
    for temperature in (2.0, 0.67, 0.2):
        found = drawn("relaxed", 50_000, beta=0.0, temperature=temperature)
        biases.append(float((found.mean(0) - exact).norm() / exact.norm()))
        program = make("relaxed", temperature=temperature)
        kls.append(float(pv.evaluate(program, data(), 5000).kl.mean()))
    assert biases[0] > 2 * biases[1] > 4 * biases[2]
    discrete = float(pv.evaluate(make(), data(), 1).kl.mean())
    assert kls == pytest.approx([kls[0]] * 3, rel=0.03) and min(kls) > 1.1 * discrete


def test_exact_shares_the_weights_whatever_the_estimator() -> None:
    x, found = data(), []
    for estimator in ("enumerate", "relaxed", "score"):
        program = make(estimator)
        twin = program.exact()
        assert (program.estimator, twin.estimator) == (estimator, "enumerate")
        assert twin.logits is program.logits and twin.likelihood is program.likelihood
        found.append(pv.log_evidence(twin, x, 1))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_relaxed_codes_stay_finite_where_the_encoder_is_sure() -> None:
    """Pyro's own relaxation draws exact zeros there, whose log is -inf."""
    program = make("relaxed").float()
    with torch.no_grad():
        list(program.logits.parameters())[-1].mul_(0).add_(torch.tensor([0.0, 80.0, -80.0] * 2))
    assert bool(pv.elbo(program, data(50).float(), 20).isfinite().all())


def test_what_cannot_be_summed_is_refused() -> None:
    with pytest.raises(pv.UsageError, match="100,000 combinations"):
        programs.DiscreteCode((6,), 5, 10)
    many = programs.DiscreteCode((6,), 5, 10, "score")
    with pytest.raises(pv.UsageError, match="at most 1,024"):
        many.exact()
    assert many.scores(pv.data.TensorData(data())) == {}
    with pytest.raises(pv.UsageError, match="did you mean 'relaxed'"):
        programs.DiscreteCode((6,), estimator="relax")


@pytest.mark.parametrize(("codes", "rows"), [(1, 1), (2, 3), (3, 3)])
def test_figure_has_a_picture_of_each_value(codes: int, rows: int) -> None:
    program = programs.DiscreteCode(
        (1, 4, 4), codes, 3, likelihood=likelihoods.Bernoulli(SMALL), network=SMALL
    )
    axes = program.figure(pv.data.TensorData(torch.ones(5, 1, 4, 4)))
    assert axes.images[0].get_array().shape == (rows * 6 + 2, 3 * 6 + 2)
