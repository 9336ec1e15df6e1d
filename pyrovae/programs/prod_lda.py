"""Topics of documents: counts of words given shares of topics."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import plots
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.evaluation import evaluate
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.tensors import TensorData


class Counts(dist.Multinomial):
    """A multinomial that scores documents of any length; one that is drawn has ``total_count``
    words."""

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.nonnegative_integer, 1)


class Normalised(nn.Module):
    """Batch normalisation over all leading dimensions, without a learned scale; ``bias`` is
    learned where ``shift`` says so."""

    bias: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, shift: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size), requires_grad=shift)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        own = self.training and len(flat) > 1  # one datum has no variance
        return F.batch_norm(flat, self.mean, self.variance, None, self.bias, own).reshape(x.shape)


class ProdLDA(Program[Tensor, Tensor]):
    """p(x, z) = N(z; 0, s^2) Multinomial(x; softmax(BatchNorm(theta beta))), theta = softmax(z).

    ::

        z -> theta -> x        x the counts of the words of a vocabulary, theta shares of topics

    A topic is a row of beta. Topics are multiplied, p(word) ~ prod_k p_k(word)^theta_k up to what
    BatchNorm does, where latent Dirichlet allocation averages them. N(0, s^2) with s^2 =
    (1 - 1 / topics) / alpha stands for theta ~ Dirichlet(alpha), its Laplace approximation in z.
    Guide q(z|x), normal, location and log variance batch-normalised, lest topics die. Srivastava
    and Sutton, "Autoencoding Variational Inference for Topic Models", 2017.

    Args:
        event_shape: (vocabulary,).
        topics: how many.
        network: of q(z|x), which sees log(1 + x).
        alpha: of the Dirichlet; below 1, documents have few topics.
        dropout: share of theta that is dropped while training.
        words: length of a document that is drawn; any is observed.

    >>> program = ProdLDA((6,), topics=2)
    >>> program.topic_words().shape
    torch.Size([2, 6])
    >>> program.shares(torch.ones(4, 6)).shape
    torch.Size([4, 2])
    """

    named = "columns"

    def __init__(
        self,
        event_shape: Sequence[int],
        topics: int = 20,
        network: Network = MLP([100, 100], "Softplus"),  # noqa: B008
        alpha: float = 1.0,
        dropout: float = 0.2,
        words: int = 100,
    ) -> None:
        super().__init__(event_shape)
        if len(self.event_shape) != 1:
            raise UsageError(
                f"ProdLDA models counts of the words of a vocabulary, event_shape (vocabulary,); "
                f"got {list(self.event_shape)}: give one row of counts per document"
            )
        self.topics = whole_number("topics", topics, least=2)
        self.alpha, self.words = number("alpha", alpha), whole_number("words", words)
        self.dropout = number("dropout", dropout, zero=True)
        if self.dropout >= 1:
            raise UsageError(f"dropout is a share of theta, from 0 to below 1; got {dropout}")
        self.network = network
        (vocabulary,) = self.event_shape
        self.counts = functools.partial(Counts, self.words)
        self.beta = nn.Parameter(nn.init.xavier_uniform_(torch.empty(topics, vocabulary)))
        self.normalise = Normalised(vocabulary, shift=True)
        self.encoder = network.build(self.event_shape, dict.fromkeys(("loc", "log_var"), (topics,)))
        self.normalise_loc, self.normalise_log_var = Normalised(topics), Normalised(topics)
        self.register_buffer("zeros", torch.zeros(topics), persistent=False)
        self.scale = math.sqrt((1 - 1 / self.topics) / self.alpha)

    def model(self, x: Tensor) -> None:
        """z ~ N(0, s^2), x ~ Multinomial observed."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zeros, self.scale).to_event(1))
            theta = F.dropout(z.softmax(-1), self.dropout, self.training)
            pyro.sample("x", self.counts(logits=self.normalise(theta @ self.beta)), obs=x)

    def guide(self, x: Tensor) -> None:
        """z ~ q(z|x)."""
        loc, log_var = self.encoder(x.log1p())
        loc, log_var = self.normalise_loc(loc), self.normalise_log_var(log_var)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, (log_var / 2).exp()).to_event(1))

    @classmethod
    def decided_by(cls, data: TensorData, classes: int | None) -> dict[str, Any]:
        """The vocabulary, and as ``words`` the mean length."""
        length = float(data.x.flatten(1).nansum(1).mean())
        return super().decided_by(data, classes) | {"words": max(1, round(length))}

    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """Start from the words' own frequencies, so that topics tell what differs from them."""
        counts = torch.stack([x.sum(0) for (x,) in data.batches(1000)]).sum(0)
        with torch.no_grad():
            log = (counts + 0.5).log()  # a word may be in the test documents alone
            self.normalise.bias.copy_(log - log.mean())

    @torch.no_grad()
    def topic_words(self) -> Tensor:
        """p(word|topic), ``[topics, vocabulary]``: of documents with all of theta on one topic."""
        state = self.training
        found = self.eval().normalise(self.beta).softmax(-1)
        self.train(state)
        return found

    @torch.no_grad()
    def shares(self, x: Tensor) -> Tensor:
        """theta at the mean of q(z|x), ``[N, topics]``."""
        state = self.training
        found = self.eval().normalise_loc(self.encoder(x.log1p())[0]).softmax(-1)
        self.train(state)
        return found

    def top_words(self, n: int = 10, names: Sequence[str] | None = None) -> list[list[str]]:
        """The n most probable words of each topic, by name or else by number."""
        names = names or list(map(str, range(*self.event_shape)))
        best = self.topic_words().topk(min(n, *self.event_shape)).indices.tolist()
        return [[names[word] for word in words] for words in best]

    def scores(self, data: TensorData) -> dict[str, float]:
        """``perplexity``: exp(-bound / words), the bound that of log p of the documents' words in
        order, without the number of orders that have these counts; over all documents, an upper
        bound. ``coherence``: mean over topics, and over pairs of a topic's 10 most probable words,
        of the normalised pointwise mutual information log(p(v, w) / p(v) p(w)) / -log p(v, w), p
        the share of these documents that have the words; -1 where none has both (Aletras and
        Stevenson, "Evaluating Topic Coherence Using Distributional Semantics", 2013).
        """
        elbo = evaluate(self, data, num_particles=10).elbo.double()
        x = data.x.cpu().double()
        length = x.sum(1)
        orders = (length + 1).lgamma() - (x + 1).lgamma().sum(1)
        best = self.topic_words().topk(min(10, *self.event_shape)).indices.cpu()
        return {
            "perplexity": float(((orders - elbo).sum() / length.sum()).exp()),
            "coherence": coherence(x, best),
        }

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Panels:
        """The most probable words of the topics that the documents have most of."""
        shares = torch.cat([self.shares(x) for (x,) in data.batches(1000)]).mean(0)
        order = shares.argsort(descending=True)
        titles = [f"topic {k + 1}: {share:.0%}" for k, share in enumerate(shares.tolist())]
        chosen = [titles[k] for k in order.tolist()]
        return plots.top_words(self.topic_words()[order], names, titles=chosen)


def coherence(x: Tensor, topics: Tensor) -> float:
    """Mean normalised pointwise mutual information of the pairs of words of each topic.

    Args:
        x: counts, ``[N, vocabulary]``.
        topics: words by number, ``[topics, n]``.

    >>> coherence(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([[0, 1], [0, 2]]))
    0.0
    """
    words = topics.unique()
    has = (x[:, words] > 0).double()
    both = has.T @ has / len(x)
    apart = both.diagonal()[:, None] * both.diagonal()
    information = (both / apart).log() / -both.log()
    information = torch.where(both == 1, 1.0, torch.where(both == 0, -1.0, information))
    at = torch.searchsorted(words, topics)
    pairs = torch.combinations(torch.arange(topics.shape[1]))
    return float(information[at[:, pairs[:, 0]], at[:, pairs[:, 1]]].mean())
