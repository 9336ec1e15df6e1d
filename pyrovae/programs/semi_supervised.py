"""Few labels among many data: the class is a latent, summed out where it is not known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.generation import decode
from pyrovae.guides import Guide
from pyrovae.labels import OneHot
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.programs.autoencoder import codes
from pyrovae.progress import doing, shown, task
from pyrovae.tensors import TensorData
from pyrovae.traces import Pair
from pyrovae.training import fit

UNKNOWN = -1
NEIGHBOURS = 20


def _once(data: TensorData) -> Tensor:
    """Rows of the data with each labelled datum once; none where nothing is labelled."""
    x, label = (t.cpu() for t in data.tensors)
    labelled = (label >= 0).nonzero()[:, 0]
    if not len(labelled):
        return labelled
    _, which = x[labelled].unique(dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(x)).scatter_reduce(0, which, labelled, "amin")
    return torch.cat([(label < 0).nonzero()[:, 0], first])


class SemiSupervised(Program[dict[str, Tensor], Tensor]):
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
        pretraining: epochs of :meth:`initialise`, 0 for none.

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
        pretraining: int = 10,
    ) -> None:
        super().__init__(event_shape)
        self.classes = whole_number("classes", classes, least=2)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.alpha, self.share = number("alpha", alpha, zero=True), number("share", share)
        self.labels = whole_number("labels", labels)
        self.pretraining = whole_number("pretraining", pretraining, least=0)
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.posterior = guide or self.usual()["guide"]
        self.classifier, self.one_hot = classifier, OneHot(classes, "SemiSupervised")
        self.likelihood.build([(latent_dim,), (classes,)], self.event_shape)
        self.posterior.build([self.likelihood.feature_shape, (classes,)], (latent_dim,))
        self.logits = classifier.build(self.likelihood.feature_shape, {"logits": (classes,)})
        self.even: Tensor
        self.zeros: Tensor
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
                logits = self.logits(self.features(x))[0]
                log_q = dist.Categorical(logits=logits).log_prob(label.clamp(min=0))
                pyro.factor("classifier", self.alpha * log_q * (label >= 0))

    def guide(self, x: Tensor, label: Tensor | None = None) -> None:
        """y ~ q(y|x), or the label; z ~ q(z|x, y)."""
        label = x.new_full((len(x),), -1).long() if label is None else label
        x = self.features(x)
        with pyro.plate("data", len(x)):
            known = 1e4 * self.one_hot(label.clamp(min=0))
            logits = torch.where(label[:, None] >= 0, known, self.logits(x)[0])
            q = dist.OneHotCategorical(logits=logits)
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            pyro.sample("z", self.posterior(x, y))

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """q(y|x), ``[N, classes]``."""
        return self.logits(self.features(x))[0].softmax(-1)

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """(x, label): all labels -1, unknown, but for :attr:`labels` of them to train on."""
        self._in_memory(data)
        hidden = torch.full((len(data),), UNKNOWN, device=data.tensors[0].device)
        if not training:
            return data.with_arguments(hidden)
        if data.labels is None:
            raise UsageError(
                "SemiSupervised learns from a few labels, and the data have none: give "
                "TensorData(x, labels=...), or name the column of a table that holds them "
                "(label=, --label)"
            )
        labels = data.labels
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

    @shown("initialise")
    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """Train the networks as an autoencoder that knows no y, spread the labels to the nearest
        neighbours of their codes, and those to theirs, and train all as if these were known.

        From random weights q(y|x) learns from the labelled data alone, and what it takes the
        others for is what p(x|y, z) learns; few mistakes are ever undone. Zhou et al., "Learning
        with Local and Global Consistency", 2004.
        """
        super().initialise(data, seed)
        rows = _once(data)
        if not self.pretraining or not len(rows):
            return
        data = data.select(rows)
        likelihood, posterior, logits = self.likelihood, self.posterior, self.logits
        one_hot, zeros, even = self.one_hot, self.zeros, self.even.softmax(-1)

        def labelled(x: Tensor, label: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
                y = one_hot(label)
                pyro.sample("x", likelihood(z, y), obs=x)
                y = logits(likelihood.features(x))[0]
                pyro.sample("label", dist.Categorical(logits=y), obs=label)

        def given(x: Tensor, label: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", posterior(likelihood.features(x), one_hot(label)))

        means = codes(
            lambda z: likelihood(z, even),
            lambda x: posterior(likelihood.features(x), even),
            self.latent_dim,
            data.with_arguments(),
            self.pretraining,
            seed,
        )
        from sklearn.semi_supervised import LabelSpreading

        spread = LabelSpreading(
            kernel="knn", n_neighbors=min(NEIGHBOURS, len(data)), alpha=0.99, max_iter=300
        )
        with doing(f"labels spread among {len(data):,} codes"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how far the last labels have spread changes no class
            spread.fit(means.cpu().numpy(), data.tensors[1].cpu().numpy())
        found = torch.as_tensor(spread.transduction_)
        with task("all as if labelled"):
            fit(
                Pair(labelled, given),
                data.with_arguments(found.to(data.tensors[0].device)),
                epochs=self.pretraining,
                batch_size=min(128, len(data)),
                seed=seed,
            )

    def scores(self, data: TensorData) -> dict[str, float]:
        """How many of the labels that were hidden q(y|x) finds."""
        if data.labels is None:
            return {}
        found = torch.cat([self.classify(x).argmax(-1) for x, _ in data.batches(1000)])
        return {"accuracy": float((found == data.labels).double().mean())}

    @torch.no_grad()
    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """Analogies: data whose class was hidden, and the style of each in every class."""
        shown = min(8, len(data))
        x = data[:shown][0]
        certain = self.one_hot(self.classify(x).argmax(-1))
        z = self.posterior(self.features(x), certain).mean.repeat_interleave(self.classes, 0)
        y = torch.eye(self.classes, device=x.device).repeat(shown, 1)
        drawn = decode(self, {"z": z, "y": y}, like=(x,))["x"]
        cells = torch.cat([x[:, None].cpu(), drawn.unflatten(0, (shown, self.classes))], 1)
        columns = ["given", *(names or map(str, range(self.classes)))]
        return plots.strips(cells, columns=columns, schema=data.schema)
