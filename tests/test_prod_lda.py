"""Topics: the density, the prior, the fit against a corpus whose topics are known, the scores."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import pyrovae as pv
from pyrovae import networks, traces
from pyrovae.errors import UsageError
from pyrovae.programs import ProdLDA
from pyrovae.programs.prod_lda import coherence
from pyrovae.tensors import TensorData

TOPICS, VOCABULARY = 4, 40


def program(**options: object) -> ProdLDA:
    torch.manual_seed(0)
    network = networks.MLP([50], "Softplus")
    return ProdLDA((VOCABULARY,), TOPICS, **{"network": network, **options})


def corpus(documents: int = 600) -> tuple[Tensor, Tensor]:
    """Counts and the topics [4, 40] they are drawn from, 4/5 of each on words of its own: latent
    Dirichlet allocation with few topics to a document, of about 60 words."""
    generator = np.random.default_rng(0)
    own = VOCABULARY // TOPICS
    topics = np.full((TOPICS, VOCABULARY), 0.2 / VOCABULARY)
    for k in range(TOPICS):
        topics[k, k * own : (k + 1) * own] += 0.8 * generator.dirichlet(np.full(own, 3.0))
    theta = generator.dirichlet(np.full(TOPICS, 0.1), documents)
    lengths = 1 + generator.poisson(60, documents)
    each = [generator.multinomial(n, t @ topics) for n, t in zip(lengths, theta, strict=True)]
    return torch.tensor(np.stack(each)).float(), torch.tensor(topics).float()


@pytest.mark.slow
def test_topics_that_generated_a_corpus_are_found() -> None:
    """Total variation below 0.2 from each of them; a topic is 0.8 from another."""
    x, topics = corpus()
    found = program(alpha=0.1, **{k: v for k, v in decided(x).items() if k == "words"})
    data = TensorData(x)
    found.initialise(data)
    before = found.scores(data)
    pv.fit(found, data, epochs=60, batch_size=100, lr=1e-2, progress=False)
    distance = torch.cdist(topics, found.topic_words(), p=1) / 2
    rows, columns = linear_sum_assignment(distance)
    assert (distance[rows, columns] < 0.2).all()
    own = [{int(w) // 10 for w in words[:5]} for words in found.top_words()]
    assert sorted(own, key=min) == [{k} for k in range(TOPICS)]
    after = found.scores(data)
    assert 20 < after["perplexity"] < 0.8 * before["perplexity"]
    assert after["coherence"] > before["coherence"] + 0.1
    assert found.shares(x).sum(-1).allclose(torch.ones(len(x)))


def decided(x: Tensor) -> dict[str, object]:
    return ProdLDA.decided_by(TensorData(x), None)


def test_the_mean_length_is_decided_by_the_data() -> None:
    x = torch.tensor([[3.0, 1.0], [0.0, 9.0]])
    assert decided(x) == {"event_shape": (2,), "words": 6}
    drawn = pv.sample(ProdLDA(topics=2, **decided(x)), 5)
    assert (drawn.sum(-1) == 6).all()


def test_log_prob_is_scipys_for_documents_of_any_length() -> None:
    pair, x = program(words=7), corpus(5)[0]
    pair.eval()
    z = torch.randn(3, 5, TOPICS)
    with torch.no_grad():
        logits = pair.normalise(z.softmax(-1) @ pair.beta)
        found = traces.Problem.at(pair, (x,)).log_density((x,), {"z": z})
    p = logits.softmax(-1).double().numpy()
    counts = x.double().numpy()
    expected = scipy.stats.multinomial.logpmf(counts, counts.sum(-1), p / p.sum(-1, keepdims=True))
    # Laplace's approximation to Dirichlet(1): variance 1 - 2/K + K/K^2
    prior = scipy.stats.norm.logpdf(z.numpy(), scale=np.sqrt(1 - 1 / TOPICS)).sum(-1)
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found.numpy(), expected + prior, rtol=1e-4)


def test_particles_broadcast() -> None:
    pair, x = program(), corpus(6)[0]
    assert traces.Problem.at(pair, (x,)).shape.broadcasts
    found = pv.evaluate(pair, x, 300)
    assert found.elbo.shape == (6,) and (found.log_evidence > found.elbo).all()


def test_one_document_alone_can_be_trained_on() -> None:
    """A last batch of one, whose variance is none."""
    pair = program()
    history = pv.fit(pair, corpus(41)[0], epochs=12, batch_size=20, progress=False)
    assert np.isfinite(history.rows[-1]["loss"])
    assert pair.normalise.variance.isfinite().all()


def test_coherence_of_pairs() -> None:
    """Together always 1, never -1, independent 0; the mean of the pairs of each topic."""
    x = torch.tensor([[1, 2, 0, 1], [3, 1, 0, 0], [0, 0, 1, 1], [0, 0, 4, 0]])
    for pair, expected in (((0, 1), 1.0), ((0, 2), -1.0), ((0, 3), 0.0)):
        assert coherence(x, torch.tensor([pair])) == pytest.approx(expected)
    assert coherence(x, torch.tensor([[0, 1, 2]])) == pytest.approx(-1 / 3)
    assert coherence(torch.ones(3, 2), torch.tensor([[0, 1]])) == 1.0


def test_perplexity_of_words_in_order() -> None:
    """Where all words are as probable and the guide is the prior: the size of the vocabulary."""
    pair, x = program(alpha=1 - 1 / TOPICS), corpus(20)[0]
    with torch.no_grad():
        for weights in (pair.beta, *pair.encoder.parameters()):
            weights.zero_()
    found = pair.scores(TensorData(x))["perplexity"]
    assert found == pytest.approx(VOCABULARY, rel=1e-5)


def test_figure_has_the_most_frequent_topics_words() -> None:
    pair, names = program(), [f"w{i}" for i in range(VOCABULARY)]
    axes = pair.figure(TensorData(corpus(20)[0]), names)
    assert axes.shape == (TOPICS,)
    shown = [label.get_text() for label in axes[0].get_yticklabels()]
    topic = int(axes[0].get_title().split(":")[0].removeprefix("topic ")) - 1
    assert shown == pair.top_words(8, names)[topic]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"event_shape": (1, 4, 4)}, "one row of counts per document"),
        ({"event_shape": (4,), "dropout": 1.0}, "dropout is a share"),
        ({"event_shape": (4,), "topics": 1}, "topics must be a whole number of at least 2"),
    ],
)
def test_mistakes_are_explained(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ProdLDA(**options)


def test_counts_are_whole_and_not_missing() -> None:
    with pytest.raises(UsageError, match="takes whole numbers from 0 on"):
        pv.evaluate(program(), torch.full((3, VOCABULARY), 0.5), 2)
    with pytest.raises(UsageError, match="joint density"):
        pv.evaluate(program(), torch.full((3, VOCABULARY), torch.nan), 2)
