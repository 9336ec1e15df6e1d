"""MissingData: only what is observed counts, under every likelihood and encoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from test_components import LIKELIHOODS, event_of, rows
from test_missing import vae_with_gaps
from torch import Tensor

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, programs
from pyrovae.errors import UsageError
from pyrovae.tensors import TensorData

LINEAR = networks.MLP([])


@pytest.mark.slow
@rows(LIKELIHOODS)
def test_zeros_are_what_any_pair_is_given(make: Callable[[], likelihoods.Likelihood]) -> None:
    """The program says in its source what ``completing`` does to a pair that knows of no gaps."""
    vae, x, broken = vae_with_gaps(make)
    event = event_of(vae.likelihood)
    program = programs.MissingData(event, 2, "zero", make(), guides.MeanField(LINEAR))
    program.load_state_dict(vae.state_dict())
    for data in (x, broken):
        torch.testing.assert_close(pv.elbo(program, data), pv.elbo(vae, data), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoding", ["zero", "mask", "learned"])
def test_linear_gaussian_evidence_and_imputation(encoding: str) -> None:
    """log p(x_observed) and E[x_missing|x_observed] in closed form, q(z|x) wider than p(z)."""
    torch.manual_seed(0)
    likelihood = likelihoods.Normal(LINEAR, scale=0.7)
    program = programs.MissingData((5,), 2, encoding, likelihood, guides.MeanField(LINEAR))
    layer = next(m for m in program.likelihood.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        layer.weight.mul_(2)
        for name, value in program.posterior.named_parameters():
            value.copy_(torch.tensor([0, 0, 2, 2]) if name.endswith("bias") else 0.0)
    w, b = layer.weight.detach(), layer.bias.detach()
    covariance = w @ w.T + 0.49 * torch.eye(5)
    x = torch.distributions.MultivariateNormal(b, covariance).sample((8,))
    gone = torch.rand(8, 5) < 0.4
    gone[:, 0] = False
    broken = x.masked_fill(gone, math.nan)
    found = pv.log_evidence(program, broken, 20_000)
    filled = pv.impute(program, broken, num_particles=20_000)
    for i in range(8):
        o, m = (~gone[i]).nonzero()[:, 0], gone[i].nonzero()[:, 0]
        of = torch.distributions.MultivariateNormal(b[o], covariance[o][:, o])
        assert abs(float(found[i] - of.log_prob(x[i, o]))) < 0.1
        gain = covariance[m][:, o] @ torch.linalg.inv(covariance[o][:, o])
        expected = b[m] + gain @ (x[i, o] - b[o])
        torch.testing.assert_close(filled[i, m], expected, atol=0.08, rtol=0.05)


def test_the_encodings_differ_where_entries_are_missing() -> None:
    seen = {}
    x = torch.tensor([[1.0, math.nan, 2.0]])
    for encoding in ("zero", "mask", "learned"):
        torch.manual_seed(0)
        program = programs.MissingData((3,), 2, encoding)
        inputs: list[Tensor] = []
        program.posterior.register_forward_pre_hook(lambda _, args, to=inputs: to.extend(args))
        if encoding == "learned":
            program.learned.data.fill_(7.0)
        program.guide(x)
        seen[encoding] = [t.detach().tolist() for t in inputs]
    assert seen["zero"] == [[[1.0, 0.0, 2.0]]] and seen["learned"] == [[[1.0, 7.0, 2.0]]]
    assert seen["mask"] == [[[1.0, 0.0, 2.0]], [[1.0, 0.0, 1.0]]]


def test_scores_hide_other_entries_than_the_users() -> None:
    torch.manual_seed(0)
    program = programs.MissingData((4,), 2, likelihood=likelihoods.Normal(LINEAR))
    gone = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    data = TensorData(torch.randn(50, 4).masked_fill(gone, math.nan))
    scores = program.scores(data)
    assert set(scores) == {"imputation_mse", "coverage_90"}
    assert all(math.isfinite(v) for v in scores.values()) and scores == program.scores(data)
    with pytest.raises(UsageError, match="no entry is left to hide"):
        program.scores(TensorData(torch.full((3, 4), math.nan)))


class Joint(likelihoods.Normal):
    """Entries that depend on each other given z."""

    def distribution(self, loc: Tensor, *raw: Tensor) -> Any:
        return dist.MultivariateNormal(loc, torch.eye(3))


def test_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'mask'"):
        programs.MissingData((3,), encoding="masks")
    with pytest.raises(UsageError, match="Joint has a joint density .* independent over entries"):
        programs.MissingData((3,), likelihood=Joint())
