"""Supports: whatever a distribution takes is told in words, and a value of it is found."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

import pyrovae as pv
from pyrovae import supports
from pyrovae.distributions import Columns, PerColumn, eight_bit

WORDS = {
    "0 or 1": constraints.boolean,
    "real numbers": constraints.real,
    "whole numbers": constraints.integer,
    "positive numbers": constraints.positive,
    "numbers from 0 on": constraints.nonnegative,
    "numbers above -2": constraints.greater_than(-2.0),
    "numbers from 3 on": constraints.greater_than_eq(3),
    "numbers below 4": constraints.less_than(4.0),
    "numbers from 0 to 1": constraints.unit_interval,
    "numbers from -1 to 1": constraints.half_open_interval(-1.0, 1.0),
    "whole numbers from 0 on": constraints.nonnegative_integer,
    "whole numbers from 1 on": constraints.positive_integer,
    "whole numbers from 0 to 9": constraints.integer_interval(0, 9),
    "whole numbers up to 3": constraints._IntegerLessThan(3)
    if hasattr(constraints, "_IntegerLessThan")
    else torch.distributions.constraints._IntegerLessThan(3),
    "the 8-bit levels 0, 1/255, ..., 1": eight_bit,
    "vectors of numbers from 0 on that add up to 1": constraints.simplex,
    "vectors of a single 1 among zeros": constraints.one_hot,
    "vectors of length 1": constraints.sphere,
    "vectors of whole numbers from 0 on that add up to 7": constraints.multinomial(7),
    "values that are positive definite": constraints.positive_definite,
    "values that are corr cholesky": constraints.corr_cholesky,
    "values that are ordered vector": constraints.ordered_vector,
    "real numbers; 0 or 1": PerColumn([constraints.real, constraints.boolean, constraints.real]),
}


class Even(torch.distributions.constraints.Constraint):
    """A support that nobody knows."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return (value % 2 == 0) & (value >= 2)


class TestWords:
    @pytest.mark.parametrize("words", list(WORDS))
    def test_come_from_what_it_accepts(self, words: str) -> None:
        assert supports.in_words(WORDS[words]) == words

    def test_of_one_that_nobody_knows(self) -> None:
        assert supports.in_words(Even()) == "values that are even"
        assert supports.in_words(None) == "values of a support that it does not declare"

    def test_of_bounds_that_differ(self) -> None:
        fn = dist.Binomial(torch.tensor([3.0, 5.0]), torch.tensor(0.5))
        words = "whole numbers from 0 to a bound that differs from datum to datum (3 to 5)"
        assert supports.in_words(supports.bare(fn)) == words


class TestInside:
    @pytest.mark.parametrize("words", [w for w in WORDS if "ordered" not in w])
    def test_lies_inside(self, words: str) -> None:
        support = WORDS[words]
        value = supports.inside(support, torch.zeros(4, 3, 3))
        assert value is not None
        value = value.expand(torch.broadcast_shapes(value.shape, (4, 3, 3)))
        assert bool(support.check(value).all())

    def test_of_bounds_that_differ_is_one_each(self) -> None:
        fn = dist.Uniform(torch.tensor([0.0, 4.0]), torch.tensor([2.0, 8.0]))
        assert supports.inside(supports.bare(fn), torch.zeros(5, 2)).tolist() == [1.0, 6.0]

    def test_of_one_that_nobody_knows(self) -> None:
        assert supports.inside(Even(), torch.zeros(3)) == 2.0
        assert supports.inside(None, torch.zeros(3)) is None

    def test_has_the_dtype_of_the_values(self) -> None:
        assert supports.inside(constraints.positive, torch.zeros(3).double()).dtype == torch.float64


class NoMean(dist.Categorical):
    @property
    def mean(self) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("fn", "votes"),
    [
        (dist.Categorical(torch.ones(3)), [True]),
        (NoMean(torch.ones(3)), [True]),
        (pv.distributions.Categorical(logits=torch.zeros(4, 3)).to_event(1), [True]),
        (dist.Binomial(3, torch.tensor(0.5)), [False]),
        (dist.Poisson(torch.ones(2)).to_event(1), [False]),
        (dist.OneHotCategorical(torch.ones(3)), [False]),
        (dist.Normal(0.0, 1.0).mask(True), [False]),
        (
            Columns([dist.Normal(torch.zeros(2, 1), 1.0), dist.Categorical(torch.ones(2, 1, 3))]),
            [False, True],
        ),
    ],
)
def test_classes_are_voted_on(fn: dist.Distribution, votes: list[bool]) -> None:
    assert supports.voted(fn).tolist() == votes


class Silent(dist.Normal):
    """A distribution that declares no support, as flows do."""

    support = None  # type: ignore[assignment]


class Bounded(dist.TorchDistribution):
    """One whose support depends on what it does not say."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.dependent


@pytest.mark.parametrize(
    "fn", [Silent(0.0, 1.0, validate_args=False), Bounded(validate_args=False)]
)
def test_undeclared_supports_are_told_by_the_dtype(fn: dist.Distribution) -> None:
    assert supports.bare(fn) is None
    assert supports.discrete(fn, torch.tensor([1])) and not supports.discrete(fn, torch.zeros(1))
    assert not supports.voted(fn).any()


def observing(p: object) -> pv.Pair:
    """A pair with one latent that observes x under the distribution ``p(z)``."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", p(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return pv.Pair(model, guide)


class TestInVerbs:
    """Supports that no table named, in errors, with missing entries and in numbers."""

    def test_a_gamma_takes_missing_entries(self) -> None:
        pair = observing(lambda z: dist.Gamma(2.0 + 0 * z, 1.0).to_event(1))
        x = torch.tensor([[1.0, torch.nan], [0.5, 2.0]])
        found = pv.evaluate(pair, x, 4).reconstruction
        expected = dist.Gamma(2.0, 1.0).log_prob(x.nan_to_num(1.0)) * ~x.isnan()
        torch.testing.assert_close(found, expected.sum(1), rtol=1e-5, atol=1e-5)

    def test_a_gamma_says_what_it_takes(self) -> None:
        pair = observing(lambda z: dist.Gamma(2.0 + 0 * z, 1.0).to_event(1))
        with pytest.raises(pv.UsageError, match=r"Gamma takes numbers from 0 on.*from -1 to 2"):
            pv.elbo(pair, torch.tensor([[-1.0, 2.0]]))

    def test_zeros_under_a_gamma_are_named(self) -> None:
        pair = observing(lambda z: dist.Gamma(2.0 + 0 * z, 1.0).to_event(1))
        with pytest.raises(pv.UsageError, match=r"1 entries are 0, where the density of.*Gamma"):
            pv.elbo(pair, torch.tensor([[1.0, 2.0], [0.0, 2.0]]))
        exponential = observing(lambda z: dist.Exponential(1.0 + 0 * z).to_event(1))
        zeros = pv.elbo(exponential, torch.zeros(3, 2))
        torch.testing.assert_close(zeros, torch.zeros(3), rtol=0, atol=1e-6)

    def test_padding_of_torch_is_named(self) -> None:
        pair = observing(lambda z: dist.Categorical(logits=z.new_zeros(len(z), 2, 5)).to_event(1))
        with pytest.raises(pv.UsageError, match="-100 marks padding.*write NaN"):
            pv.elbo(pair, torch.tensor([[1.0, -100.0], [2.0, 3.0]]))

    def test_an_undeclared_support_gives_numbers(self) -> None:
        pair = observing(lambda z: Silent(0 * z, 1.0, validate_args=False).to_event(1))
        x = torch.randn(6, 2)
        found = pv.evaluate(pair, x, 4).reconstruction
        torch.testing.assert_close(found, dist.Normal(0.0, 1.0).log_prob(x).sum(1))
