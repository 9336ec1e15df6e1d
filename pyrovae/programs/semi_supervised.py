"""Few labels among many data: the class is a latent, summed out where it is not known."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.guides import Guide, MeanField
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.tensors import TensorData, number, whole_number

UNKNOWN = -1


class SemiSupervised(Program):
    """p(x, y, z) = p(y) p(z) p(x|y, z), guide q(y|x) q(z|x, y); y is summed out where unknown.

    ::

        z -> x <- y -> label      a label is y, read without error: p(label|y) = 1(label = y)

    Kingma et al., "Semi-supervised Learning with Deep Generative Models", 2014 (its model M2).
    The bound of a labelled datum is that of log p(x, y), of another one that of log p(x), the
    sum over y exact. While training, a labelled datum adds ``alpha`` times log q(y|x), without
    which the classifier q(y|x) would learn nothing from the labels.

    Args:
        event_shape: shape of one datum.
        classes: how many.
        latent_dim: size of z.
        likelihood: p(x|y, z).
        guide: q(z|x, y).
        classifier: network of q(y|x).
        alpha: weight of the classifier's term.
        labels: how many labels :meth:`serve` keeps to train on, as many of each class as can be.
        share: of the data served to train on that have labels: those are repeated.

    >>> program = SemiSupervised((6,), classes=3)
    >>> program.classify(torch.ones(4, 6)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int = 10,
        latent_dim: int = 50,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
        classifier: Network = MLP([400]),  # noqa: B008
        alpha: float = 50.0,
        labels: int = 100,
        share: float = 0.1,
    ) -> None:
        super().__init__(event_shape)
        self.classes = whole_number("classes", classes, least=2)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.alpha, self.share = number("alpha", alpha, zero=True), number("share", share)
        self.labels = whole_number("labels", labels)
        self.likelihood = likelihood or Bernoulli()
        self.posterior = guide or MeanField()
        self.classifier = classifier
        self.likelihood.build([(latent_dim,), (classes,)], self.event_shape)
        self.posterior.build([self.event_shape, (classes,)], (latent_dim,))
        self.logits = classifier.build(self.event_shape, {"logits": (classes,)})
        self.register_buffer("zeros", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("even", torch.zeros(classes), persistent=False)

    def model(self, x: Tensor, label: Tensor | None = None) -> None:
        """y ~ p(y), z ~ p(z), x ~ p(x|y, z) observed; label observed where it is not -1."""
        label = x.new_full((len(x),), -1).long() if label is None else label
        with pyro.plate("data", len(x)):
            classes = dist.OneHotCategorical(logits=self.even)
            y = pyro.sample("y", classes, infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(self.zeros, 1.0).to_event(1))
            pyro.sample("x", self.likelihood(z, y), obs=x)
            reads = dist.Categorical(logits=1e4 * y).mask(label >= 0)
            pyro.sample("label", reads, obs=label.clamp(min=0))
            if self.training:
                log_q = dist.Categorical(logits=self.logits(x)[0]).log_prob(label.clamp(min=0))
                pyro.factor("classifier", self.alpha * log_q * (label >= 0))

    def guide(self, x: Tensor, label: Tensor | None = None) -> None:
        """y ~ q(y|x), or the label; z ~ q(z|x, y)."""
        label = x.new_full((len(x),), -1).long() if label is None else label
        with pyro.plate("data", len(x)):
            known = 1e4 * F.one_hot(label.clamp(min=0), self.classes).to(x)
            logits = torch.where(label[:, None] >= 0, known, self.logits(x)[0])
            q = dist.OneHotCategorical(logits=logits)
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            pyro.sample("z", self.posterior(x, y))

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """q(y|x), ``[N, classes]``."""
        return self.logits(x)[0].softmax(-1)

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """(x, label): all labels -1, unknown, but for :attr:`labels` of them to train on."""
        if data.labels is None:
            hidden = torch.full((len(data),), UNKNOWN)
            return data.with_arguments(hidden)
        labels = data.labels
        hidden = torch.full_like(labels, UNKNOWN)
        if not training:
            return data.with_arguments(hidden)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(labels), generator=generator)
        rank = torch.zeros_like(order)  # of a datum among those of its class
        for label in labels.unique():
            own = order[labels[order].cpu() == label.cpu()]
            rank[own] = torch.arange(len(own))
        chosen = torch.argsort(rank, stable=True)[: self.labels]
        hidden[chosen] = labels[chosen]
        repeats = round(self.share / (1 - self.share) * len(labels) / len(chosen))
        index = torch.cat([torch.arange(len(labels)), chosen.repeat(repeats)])
        return data.with_arguments(hidden).select(index)

    def scores(self, data: TensorData) -> dict[str, float]:
        """How many of the labels that were hidden q(y|x) finds."""
        if data.labels is None:
            return {}
        found = torch.cat([self.classify(x).argmax(-1) for x, _ in data.batches(1000)])
        return {"accuracy": float((found == data.labels).double().mean())}
