"""Data given their class: the label decides what, the latent how."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.errors import whole_number
from pyrovae.generation import decode
from pyrovae.guides import Guide, MeanField
from pyrovae.labels import OneHot
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.networks import MLP
from pyrovae.priors import Prior
from pyrovae.program import Parts, Program
from pyrovae.tensors import TensorData

DEEP = MLP([400, 400])  # a single layer would add what y says to what z says


class Conditional(Program[Tensor, Tensor]):
    """p(x, z|y) = p(z) p(x|z, y), guide q(z|x, y): the label y is given, never modelled.

    ::

        z -> x <- y

    Sohn, Lee and Yan, "Learning Structured Output Representation using Deep Conditional
    Generative Models", 2015; Kingma et al., "Semi-supervised Learning with Deep Generative
    Models", 2014. What y says need not be said by z, which is left with the style.

    Args:
        event_shape: shape of one datum.
        classes: how many labels there are, 0 to ``classes`` - 1.
        latent_dim: size of z.
        prior: p(z).
        likelihood: p(x|z, y).
        guide: q(z|x, y).

    >>> program = Conditional((6,), classes=3, latent_dim=2)
    >>> x, y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
    >>> import pyrovae as pv
    >>> pv.reconstruct(program, (x, y)).shape
    torch.Size([4, 6])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        classes: int = 10,
        latent_dim: int = 8,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(event_shape)
        self.classes = whole_number("classes", classes, least=2)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.one_hot = OneHot(classes, "Conditional")
        self.prior = prior or self.usual()["prior"]
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.posterior = guide or self.usual()["guide"]
        self.likelihood.build([(latent_dim,), (classes,)], self.event_shape)
        self.posterior.build([self.likelihood.feature_shape, (classes,)], (latent_dim,))
        self.prior.build(latent_dim, self.posterior)

    @classmethod
    def usual(cls) -> Parts:
        """The parts where none are given, new ones."""
        return super().usual() | {"likelihood": Bernoulli(DEEP), "guide": MeanField(DEEP)}

    def model(self, x: Tensor, y: Tensor) -> None:
        """z ~ p(z), x ~ p(x|z, y) observed; ``y``: ``[batch]``."""
        y = self.one_hot(y)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z, y), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        """z ~ q(z|x, y)."""
        y = self.one_hot(y)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(self.features(x), y))

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """(x, y), y the labels."""
        return data.with_labels()

    def example_data(self) -> tuple[Tensor, ...]:
        """A datum of each class."""
        return torch.zeros(self.classes, *self.event_shape), torch.arange(self.classes)

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """One style in a row, each class in a column: z drawn once, decoded with every label."""
        styles, y = 8, torch.arange(self.classes)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            z = self.prior().sample((styles,)).repeat_interleave(self.classes, 0)
        like = torch.zeros(len(z), *self.event_shape), y.repeat(styles)
        drawn = decode(self, z, like=like).unflatten(0, (styles, self.classes))
        columns = names or list(map(str, range(self.classes)))
        return plots.strips(drawn, columns=columns, schema=data.schema)
