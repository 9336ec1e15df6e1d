"""Counts: topics of documents, single cells, a deep exponential family."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

from zoo.cases import Case
from zoo.programs_vae import Gaussian, labels, mlp

WORDS, VOCABULARY, TOPICS = 6, 8, 3


def words(n: int) -> torch.Tensor:
    """Documents of six words each, about one topic mostly."""
    topics = torch.rand(TOPICS, VOCABULARY).square() + 0.05
    probs = topics[torch.arange(n) % TOPICS]
    return dist.Categorical(probs[:, None].expand(n, WORDS, VOCABULARY)).sample()


class Topics(nn.Module):
    """Latent Dirichlet allocation: a topic per word, summed out; the guide reads the counts."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(TOPICS, VOCABULARY))
        self.predictor = mlp([VOCABULARY, 5, TOPICS])

    def model(self, documents):
        pyro.module("lda", self)
        topics = self.logits.softmax(-1)
        with pyro.plate("documents", len(documents)):
            shares = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(TOPICS)))
            with pyro.plate("words", documents.shape[1]):
                infer = {"enumerate": "parallel"}
                topic = pyro.sample("word_topics", dist.Categorical(shares), infer=infer)
                pyro.sample("doc_words", dist.Categorical(topics[topic]), obs=documents.T)

    def guide(self, documents):
        pyro.module("lda", self)
        counts = F.one_hot(documents, VOCABULARY).sum(-2).float()
        with pyro.plate("documents", len(documents)):
            concentration = F.softplus(self.predictor(counts)) + 0.5
            pyro.sample("doc_topics", dist.Dirichlet(concentration))


def lda():
    pair = Topics()
    return pair.model, pair.guide, words(16)


def bayesian_lda():
    """Topics of all data, N documents of which a batch comes, each word's topic added up."""
    predictor, n = mlp([VOCABULARY, 5, TOPICS]), 16
    concentration = 1 + 4 * torch.rand(TOPICS, VOCABULARY)

    def model(documents):
        with pyro.plate("topics", TOPICS):
            topics = pyro.sample("topic_words", dist.Dirichlet(torch.ones(VOCABULARY)))
        with pyro.plate("documents", n, subsample_size=len(documents), dim=-1):
            shares = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(TOPICS)))
            p = (shares[..., None, :] @ topics[..., None, :, :])[..., 0, :]
            likelihood = dist.Categorical(p[..., None, :].expand(*p.shape[:-1], WORDS, VOCABULARY))
            pyro.sample("doc_words", likelihood.to_event(1), obs=documents)

    def guide(documents):
        pyro.module("predictor", predictor)
        positive = dist.constraints.positive
        posterior = pyro.param("concentration", concentration, constraint=positive)
        with pyro.plate("topics", TOPICS):
            pyro.sample("topic_words", dist.Dirichlet(posterior))
        counts = F.one_hot(documents, VOCABULARY).sum(-2).float()
        with pyro.plate("documents", n, subsample_size=len(documents), dim=-1):
            shares = F.softplus(predictor(counts)) + 0.5
            pyro.sample("doc_topics", dist.Dirichlet(shares))

    return model, guide, words(n)


class ProductOfTopics(nn.Module):
    """ProdLDA: a logistic normal instead of the Dirichlet, topics multiplied, batches normed."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.beta = nn.Linear(TOPICS, VOCABULARY, bias=False)
        self.norm = nn.BatchNorm1d(VOCABULARY, affine=False)
        self.body, self.norm_loc = Gaussian(VOCABULARY, TOPICS), nn.BatchNorm1d(TOPICS)

    def model(self, documents):
        pyro.module("decoder", self)
        with pyro.plate("documents", documents.shape[0]):
            zeros = documents.new_zeros(documents.shape[0], TOPICS)
            theta = pyro.sample("logtheta", dist.Normal(zeros, zeros + 1).to_event(1)).softmax(-1)
            probs = self.norm(self.beta(self.drop(theta))).softmax(-1)
            total = int(documents.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, probs), obs=documents)

    def guide(self, documents):
        pyro.module("encoder", self)
        with pyro.plate("documents", documents.shape[0]):
            loc, scale = self.body(documents / 10)
            pyro.sample("logtheta", dist.Normal(self.norm_loc(loc), scale).to_event(1))


def prod_lda():
    pair, counts = ProductOfTopics(), F.one_hot(words(16), VOCABULARY).sum(-2).float()
    counts[3:6, 0] += 4
    return pair.model, pair.guide, counts


class SingleCells(nn.Module):
    """Counts of genes with a library size, a class and two layers of latents; the labelled
    part's classifier is trained by a factor in the guide."""

    def __init__(self, genes: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.classes, self.scale = classes, 0.2
        self.theta = nn.Parameter(torch.zeros(genes))
        self.z2_decoder, self.x_decoder = Gaussian(2 + classes, 2, 1.0), mlp([2, 6, 2 * genes])
        self.encoder, self.z1_encoder = Gaussian(genes, 3), Gaussian(2 + classes, 2)
        self.classifier = mlp([2, 5, classes])

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.scale):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            even = dist.OneHotCategorical(logits=x.new_zeros(self.classes))
            y = pyro.sample("y", even, obs=y)
            z2 = pyro.sample("z2", dist.Normal(*self.z2_decoder(z1, y)).to_event(1))
            size = pyro.sample("l", dist.LogNormal(x.new_tensor([2.0]), 0.4).to_event(1))
            gate, logits = self.x_decoder(z2).chunk(2, -1)
            theta = self.theta.exp()
            odds = (size * logits.softmax(-1)).log() - theta.log()
            counts = dist.ZeroInflatedNegativeBinomial(theta, logits=odds, gate_logits=gate - 2)
            pyro.sample("x", counts.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.scale):
            loc, scale = self.encoder(torch.log1p(x) - 1)
            z2 = pyro.sample("z2", dist.Normal(loc[..., :2], scale[..., :2]).to_event(1))
            library = dist.LogNormal(2 + 0.3 * loc[..., 2:], 0.4 * scale[..., 2:])
            pyro.sample("l", library.to_event(1))
            classes = dist.OneHotCategorical(logits=self.classifier(z2))
            if y is None:
                y = pyro.sample("y", classes)
            else:
                loss = -5.0 * classes.log_prob(y)
                pyro.factor("classification_loss", loss, has_rsample=False)
            pyro.sample("z1", dist.Normal(*self.z1_encoder(z2, y)).to_event(1))


def cells(n: int) -> torch.Tensor:
    rates = 0.4 + 3 * torch.rand(3, 5)
    return torch.poisson(rates[torch.arange(n) % 3])


def scanvi_labelled():
    pair = SingleCells()
    return pair.model, pair.guide, (cells(18), labels(18))


def scanvi_unlabelled():
    pair = SingleCells()
    return pair.model, config_enumerate(pair.guide, "parallel", expand=True), cells(18)


def exponential_family():
    """Two layers of gammas over weights of all data, and a guide with parameters for each datum:
    the rows are tied to their places."""
    n, top, bottom, width = 12, 2, 3, 4

    def model(x):
        with pyro.plate("w_top_plate", top * bottom):
            w_top = pyro.sample("w_top", dist.Gamma(1.0, 1.0)).reshape(-1, top, bottom)
        with pyro.plate("w_bottom_plate", bottom * width):
            w_bottom = pyro.sample("w_bottom", dist.Gamma(1.0, 1.0)).reshape(-1, bottom, width)
        with pyro.plate("data", len(x)):
            z_top = pyro.sample("z_top", dist.Gamma(1.0, 1.0).expand([top]).to_event(1))
            mean = (z_top.unsqueeze(-2) @ w_top).squeeze(-2)
            z_bottom = pyro.sample("z_bottom", dist.Gamma(1.0, 1.0 / mean).to_event(1))
            rate = (z_bottom.unsqueeze(-2) @ w_bottom).squeeze(-2)
            pyro.sample("obs", dist.Poisson(rate).to_event(1), obs=x)

    def gamma(name, *shape):
        raw = pyro.param(f"{name}_mean", torch.ones(shape), dist.constraints.positive)
        shape_ = pyro.param(f"{name}_shape", 3 * torch.ones(shape), dist.constraints.positive)
        return dist.Gamma(shape_, shape_ / raw)

    def guide(x):
        with pyro.plate("w_top_plate", top * bottom):
            pyro.sample("w_top", gamma("w_top", top * bottom))
        with pyro.plate("w_bottom_plate", bottom * width):
            pyro.sample("w_bottom", gamma("w_bottom", bottom * width))
        with pyro.plate("data", n):
            pyro.sample("z_top", gamma("z_top", n, top).to_event(1))
            pyro.sample("z_bottom", gamma("z_bottom", n, bottom).to_event(1))

    return model, guide, torch.poisson(3 * torch.rand(n, 1) * torch.rand(1, width) + 0.5)


CASES = [
    Case(
        "LDA",
        lda,
        like="LDA example: amortised, whole numbers, a plate of words",
        latents=("doc_topics",),
        enumerated=("word_topics",),
        observed={"doc_words": 0},
        plates=("documents",),
        loss=lambda: TraceEnum_ELBO(max_plate_nesting=2),
        hide=None,
        refused=dict.fromkeys(("traverse", "explore"), "support|simplex|no such|lie in"),
        meaningless={"impute": "LongTensor"},
    ),
    Case(
        "LDA, topics of all data",
        bayesian_lda,
        like="LDA example: `subsample_size`, a global Dirichlet",
        latents=("doc_topics",),
        globals=("topic_words",),
        lr=5e-2,
        observed={"doc_words": 0},
        plates=("documents",),
        hide=None,
        refused=dict.fromkeys(("traverse", "explore"), "support|simplex|no such|lie in"),
        meaningless={"impute": "LongTensor"},
    ),
    Case(
        "ProdLDA",
        prod_lda,
        like="ProdLDA tutorial: `Multinomial`, BatchNorm, dropout",
        latents=("logtheta",),
        observed={"obs": 0},
        plates=("documents",),
        separable=False,
        hide=None,
        as_pyro=False,
    ),
    Case(
        "scANVI, labelled",
        scanvi_labelled,
        like="scANVI tutorial: `pyro.factor` in the guide, library sizes, a scale",
        latents=("z1", "z2", "l"),
        observed={"x": 0, "y": 1},
        as_pyro=False,
    ),
    Case(
        "scANVI, unlabelled",
        scanvi_unlabelled,
        like="scANVI tutorial: classes summed out",
        latents=("z1", "y", "z2", "l"),
        discrete=("y",),
        enumerated=("y",),
        loss=lambda: TraceEnum_ELBO(max_plate_nesting=1),
        as_pyro=False,
    ),
    Case(
        "sparse gamma family",
        exponential_family,
        like="sparse gamma DEF example: parameters per datum, global weights",
        latents=("z_top", "z_bottom"),
        globals=("w_top", "w_bottom"),
        lr=3e-2,
        observed={"obs": 0},
        rows=False,
    ),
]
