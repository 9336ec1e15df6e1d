"""The declarative pair: a prior, a likelihood and a guide make a model and a guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from pyrovae.errors import UsageError, whole_number
from pyrovae.guides import Guide
from pyrovae.likelihoods import Likelihood
from pyrovae.priors import Prior
from pyrovae.program import Program
from pyrovae.tensors import TensorData

__all__ = ["VAE"]

T = TypeVar("T")


class VAE(Program[Tensor, Tensor]):
    """A variational autoencoder as two Pyro programs.

    The model draws z from the prior, then x from p(x|z); the guide draws z from q(z|x); one
    plate over the batch. Sites are named ``z`` and ``x``, the plate ``data``.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.

    Args:
        event_shape: shape of one datum, e.g. ``(1, 28, 28)``.
        latent_dim: size of z.
        prior: p(z), StandardNormal by default.
        likelihood: p(x|z), Bernoulli with an MLP by default.
        guide: q(z|x), MeanField with an MLP by default.

    Raises:
        UsageError: a size below 1, an object of the wrong kind, a network that does not fit.

    >>> import torch
    >>> vae = VAE(event_shape=(1, 28, 28), latent_dim=20)
    >>> vae.guide(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 20])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        usual = self.usual()
        self.prior = _part("prior", Prior, usual["prior"] if prior is None else prior)
        likelihood = usual["likelihood"] if likelihood is None else likelihood
        self.likelihood = _part("likelihood", Likelihood, likelihood)
        # named apart from the method `guide`, which is the Pyro program
        self.posterior = _part("guide", Guide, usual["guide"] if guide is None else guide)
        self.likelihood.build((latent_dim,), self.event_shape)
        self.posterior.build(self.likelihood.feature_shape, (latent_dim,))
        self.prior.build(latent_dim, self.posterior)
        if self.prior.space != self.posterior.space:
            raise UsageError(
                f"the prior {type(self.prior).__name__} is over {self.prior.space}, the guide "
                f"{type(self.posterior).__name__} over {self.posterior.space}: the KL between "
                f"them is infinite. Sphere goes with PowerSpherical, OneHot with OneHot, "
                f"RelaxedOneHot with RelaxedOneHot, of as many categories; every other prior with "
                f"every other guide"
            )

    def model(self, x: Tensor, *labels: Tensor) -> Tensor:
        """z ~ p(z), x ~ p(x|z) observed; ``x``: ``[batch, *event_shape]``. A prior p(z|y) takes
        the labels y ``[batch]`` too."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior(*labels))
            sample: Tensor = pyro.sample("x", self.likelihood(z), obs=x)
            return sample

    def guide(self, x: Tensor, *labels: Tensor) -> Tensor:
        """z ~ q(z|x); returns z ``[batch, latent_dim]``."""
        self._fits(x)
        seen = self.features(x)
        infer = {"enumerate": "parallel"} if self.posterior.enumerate else {}
        with pyro.plate("data", x.shape[0]):
            z: Tensor = pyro.sample("z", self.posterior(seen), infer=infer)
            return z

    def serve(self, data: TensorData, training: bool = False) -> TensorData:
        """The data, with their labels where the prior takes them."""
        return data.with_labels() if self.prior.takes_labels else data

    def example_data(self) -> tuple[Tensor, ...]:
        """Data of the shapes that the programs take; of labels, one each."""
        labels = torch.arange(getattr(self.prior, "classes", 1))
        x = torch.zeros(len(labels), *self.event_shape)
        return (x, labels) if self.prior.takes_labels else (x[:1],)


def _part(name: str, kind: Any, value: T) -> T:
    if not isinstance(value, kind):
        raise UsageError(
            f"{name} must be a {kind.__module__}.{kind.__name__} object such as "
            f"{kind.__module__.split('.')[-1]}.{_example(kind)}(), got {value!r}"
        )
    return value


def _example(kind: type[object]) -> str:
    names = [cls.__name__ for cls in kind.__subclasses__()]
    return (names or [kind.__name__])[0]
