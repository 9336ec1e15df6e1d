"""A few categorical codes in the latent's place, and three ways to learn them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae import plots
from pyrovae.distributions import Relaxed
from pyrovae.errors import UsageError, nearest, number, whole_number
from pyrovae.evaluation import log_evidence
from pyrovae.generation import decode
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.tensors import TensorData

ESTIMATORS = ("enumerate", "relaxed", "score")
MOST = 1024  # combinations that are summed over


class DiscreteCode(Program[Tensor, Any]):
    """p(x, z) = prod_c p(z_c) p(x|z_1, .., z_C), guide prod_c Categorical(z_c; logits_c(x)).

    ::

        z_1 .. z_C -> x      z_c one of ``categories`` values, p(z_c) uniform, one-hot

    One graph, and one word for the gradient. "enumerate": every combination is summed over, so
    the bound and its gradient have no noise. "relaxed": z_c lies inside the simplex, and the
    gradient goes through the draws; Maddison et al., "The Concrete Distribution", 2017; Jang et
    al., "Categorical Reparameterization with Gumbel-Softmax", 2017. It is that of another model:
    the reconstruction nears this one's as the temperature falls, the KL is above it and the same
    at every temperature. "score": one draw, whose log probability is
    raised by what it earned; unbiased and noisy; Mnih and Gregor, "Neural Variational Inference
    and Learning in Belief Networks", 2014. :meth:`exact` measures all three alike.

    Args:
        event_shape: shape of one datum.
        codes: how many, C.
        categories: values of each.
        estimator: "enumerate", "relaxed" or "score".
        temperature: of "relaxed": towards 0 the draws become one-hot, and gradients noisy.
        likelihood: p(x|z_1, .., z_C).
        network: of the logits.

    >>> _ = torch.manual_seed(0)
    >>> program = DiscreteCode((6,), codes=2, categories=3)
    >>> program.assign(torch.ones(4, 6)).shape
    torch.Size([4, 2, 3])
    """

    even: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        codes: int = 2,
        categories: int = 10,
        estimator: str = "enumerate",
        temperature: float = 0.67,
        likelihood: Likelihood | None = None,
        network: Network = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(event_shape)
        self.codes = whole_number("codes", codes)
        self.categories = whole_number("categories", categories, least=2)
        if estimator not in ESTIMATORS:
            raise UsageError(
                f"estimator is {', '.join(ESTIMATORS)}, got {estimator!r}"
                f"{nearest(str(estimator), ESTIMATORS)}"
            )
        if estimator == "enumerate":
            self._countable()
        self.estimator, self.temperature = estimator, number("temperature", temperature)
        self.likelihood, self.network = likelihood or self.usual()["likelihood"], network
        self.names = [f"code{c}" for c in range(1, codes + 1)]
        self.likelihood.build([(categories,)] * codes, self.event_shape)
        self.logits = network.build(self.likelihood.feature_shape, {"logits": (codes, categories)})
        self.relaxation = Relaxed  # Pyro's own draws reach 0, where the density is not finite
        self.register_buffer("even", torch.zeros(categories), persistent=False)
        self.register_buffer("heat", torch.tensor(self.temperature), persistent=False)

    def _countable(self) -> None:
        if self.categories**self.codes > MOST:
            raise UsageError(
                f"{self.codes} codes of {self.categories} categories have "
                f"{self.categories**self.codes:,} combinations, and at most {MOST:,} are summed "
                f"over: use fewer, or estimator='relaxed' or 'score'"
            )

    def model(self, x: Tensor) -> None:
        """z_c ~ p(z_c), x ~ p(x|z_1, .., z_C) observed."""
        p = dist.OneHotCategorical(logits=self.even)
        if self.estimator == "relaxed":
            p = dist.RelaxedOneHotCategorical(self.heat, logits=self.even)
        how = {"enumerate": "parallel"} if self.estimator == "enumerate" else {}
        with pyro.plate("data", len(x)):
            z = []
            for name in self.names:
                z.append(pyro.sample(name, p, infer=how))
            pyro.sample("x", self.likelihood(*z), obs=x)

    def guide(self, x: Tensor) -> None:
        """z_c ~ q(z_c|x)."""
        how = {"enumerate": "parallel"} if self.estimator == "enumerate" else {}
        each = self.logits(self.features(x))[0].unbind(-2)
        with pyro.plate("data", len(x)):
            for name, logits in zip(self.names, each, strict=True):
                q = dist.OneHotCategorical(logits=logits)
                if self.estimator == "relaxed":
                    q = self.relaxation(self.heat, logits=logits)
                pyro.sample(name, q, infer=how)

    def exact(self) -> DiscreteCode:
        """The program with the same weights, not copied, that sums over the codes: its log
        evidence and its bound are exact with one particle, however the weights were learned."""
        self._countable()
        twin = copy.copy(self)
        twin.estimator = "enumerate"
        return twin

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """q(z_c|x), ``[N, codes, categories]``."""
        found: Tensor = self.logits(self.features(x))[0].softmax(-1)
        return found

    def scores(self, data: TensorData) -> dict[str, float]:
        """The exact log evidence, nats per datum, where the codes are few enough."""
        if self.categories**self.codes > MOST:
            return {}
        return {"exact_log_evidence": float(log_evidence(self.exact(), data, 1).double().mean())}

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """What the codes mean: a picture of every value of the first (rows) and the second
        (columns), others at the value that most data have; of a single code in one row."""
        sums = torch.stack([self.assign(x).sum(0) for (x,) in data.batches(1000)])
        usual = sums.sum(0).argmax(-1)
        values = [torch.arange(self.categories)] * min(self.codes, 2)
        grid = torch.cartesian_prod(*values).reshape(-1, len(values))
        at = usual.cpu().expand(len(grid), self.codes).clone()
        at[:, : len(values)] = grid
        one_hot = F.one_hot(at, self.categories).to(self.even).unbind(1)
        latents = dict(zip(self.names, one_hot, strict=True))
        drawn = decode(self, latents).unflatten(0, (-1, self.categories))
        told = [f"{value}" for value in range(self.categories)]
        if self.codes == 1:
            return plots.strips(drawn, columns=[f"z={value}" for value in told], schema=data.schema)
        rows, columns = ([f"$z_{c}$={value}" for value in told] for c in (1, 2))
        return plots.strips(drawn, rows, columns, schema=data.schema)
