"""Distributions of latents that Pyro lacks, and closed forms between them."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, register_kl

__all__: list[str] = []


@register_kl(MultivariateNormal, dist.Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: dist.Independent) -> Tensor:
    """KL(N(m, LL') || prod_d N(l_d, s_d^2)): a full-rank guide against a diagonal prior."""
    normal = p.base_dist
    if not isinstance(normal, torch.distributions.Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    scaled = (q.scale_tril / normal.scale[..., None]).square().sum((-2, -1))
    shift = ((q.loc - normal.loc) / normal.scale).square().sum(-1)
    log_det = normal.scale.log().sum(-1) - q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    kl: Tensor = 0.5 * (scaled + shift - q.event_shape[0]) + log_det
    return kl
