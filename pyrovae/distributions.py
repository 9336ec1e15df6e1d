"""The few distributions that Pyro lacks."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["IndependentBernoulli"]


class IndependentBernoulli(dist.Independent):
    """``Bernoulli(logits=...).to_event(n)`` whose ``log_prob`` without gradients is faster.

    log p(x) = sum_d log sigmoid(t_d) with t = (2x - 1) logits, and log sigmoid(t) = min(t, 0) +
    log sigmoid(|t|). As sigmoid(|t|) lies in [1/2, 1], up to a hundred of them are multiplied
    before one logarithm is taken, which is what costs.

    >>> logits, x = torch.randn(3, 1, 28, 28), torch.ones(3, 1, 28, 28)
    >>> fast = IndependentBernoulli(dist.Bernoulli(logits=logits), 3).log_prob(x)
    >>> torch.allclose(fast, dist.Bernoulli(logits=logits).to_event(3).log_prob(x), rtol=1e-5)
    True
    """

    GROUP = 64  # 2^-64 is far from float32's smallest number

    def log_prob(self, value: Tensor) -> Tensor:
        base = self.base_dist
        if "logits" not in base.__dict__ or (torch.is_grad_enabled() and base.logits.requires_grad):
            exact: Tensor = super().log_prob(value)
            return exact
        if base._validate_args:
            base._validate_sample(value)
        dims = tuple(range(-self.reinterpreted_batch_ndims, 0))
        t = (2 * value - 1) * base.logits
        total = t.clamp_max(0).sum(dims)
        factors = t.abs_().sigmoid_().flatten(t.dim() - len(dims))
        multiplied = 1
        while factors.shape[-1] % 2 == 0 and multiplied < self.GROUP:
            half = factors.shape[-1] // 2
            factors = factors[..., :half] * factors[..., half:]
            multiplied *= 2
        return total + factors.log().sum(-1)
