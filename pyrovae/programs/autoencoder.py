"""The autoencoder without the variational: a code for each datum, no prior to draw one from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import plots
from pyrovae.aggregate import fit_codes
from pyrovae.errors import UsageError, number, whole_number
from pyrovae.generation import decode
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.program import Program
from pyrovae.progress import task
from pyrovae.tensors import TensorData
from pyrovae.traces import Pair
from pyrovae.training import fit


class Autoencoder(Program[Tensor, Tensor]):
    """p(x|z), z = f(x): the prior is flat, p(z) = 1, and the guide a point.

    ::

        z -> x        z ~ Delta(f(x)); while training f sees x with a share ``noise`` set to 0

    What remains of the bound is log p(x|f(x)). Hinton and Salakhutdinov, "Reducing the
    Dimensionality of Data with Neural Networks", 2006; with noise, Vincent et al., "Extracting and
    Composing Robust Features with Denoising Autoencoders", 2008: x is still scored as it was. The
    point of comparison for what variational inference buys. There is no log p(x) and nothing to
    draw z from; a density fitted to the codes, ``pv.fit_codes(program, x)``, is drawn from instead.

    Args:
        event_shape: shape of one datum.
        latent_dim: size of z.
        noise: share of the entries that are hidden from f while training, at random.
        likelihood: p(x|z).
        network: of f.

    >>> _ = torch.manual_seed(0)
    >>> program = Autoencoder((6,), latent_dim=2)
    >>> import pyrovae as pv
    >>> pv.reconstruct(program, torch.ones(4, 6)).shape
    torch.Size([4, 6])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int = 20,
        noise: float = 0.0,
        likelihood: Likelihood | None = None,
        network: Network = MLP([400]),  # noqa: B008
    ) -> None:
        super().__init__(event_shape)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.noise = number("noise", noise, zero=True)
        if self.noise >= 1:
            raise UsageError(
                f"noise is the share of a datum's entries that are hidden, below 1, or nothing "
                f"is seen of it; got {noise}"
            )
        self.likelihood, self.network = likelihood or self.usual()["likelihood"], network
        self.likelihood.build((latent_dim,), self.event_shape)
        self.code = network.build(self.likelihood.feature_shape, {"code": (latent_dim,)})

    def model(self, x: Tensor) -> None:
        """z anywhere, x ~ p(x|z) observed."""
        with pyro.plate("data", len(x)):
            flat = dist.ImproperUniform(dist.constraints.real_vector, (), (self.latent_dim,))
            z = pyro.sample("z", flat)
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """z = f(x), while training f of what the noise leaves of x."""
        x = self.features(x)
        if self.training and self.noise > 0:
            x = x * (torch.rand_like(x) >= self.noise)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.code(x)[0], event_dim=1))

    def hide(self, x: Tensor, seed: int = 0) -> Tensor:
        """x as f sees it while training: a share :attr:`noise` of the entries is 0."""
        generator = torch.Generator().manual_seed(seed)
        return x * (torch.rand(x.shape, generator=generator) >= self.noise).to(x)

    @torch.no_grad()
    def denoise(self, x: Tensor) -> Tensor:
        """E[x|z] at z = f(x), ``[N, *event_shape]``, for x as it is."""
        return decode(self, self.code(self.features(x))[0], like=x)

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """Data, what f sees of them, reconstructions, draws from a mixture fitted to codes."""
        x = data.fixed().x[: min(10, len(data))]
        seen = self.hide(x)
        rows = {"data": x, "seen": seen, "reconstruction": self.denoise(seen)}
        if not self.noise:
            del rows["seen"]
        components = min(10, len(data) // 4 - 1)
        if components >= 1:
            fitted = fit_codes(self, data, "mixture", components=components)
            rows["draw"] = fitted.sample(len(x))
        cells = torch.stack([row.cpu() for row in rows.values()])
        return plots.strips(cells, list(rows), schema=data.schema)


def codes(
    likelihood: Callable[[Tensor], dist.TorchDistribution],
    posterior: Callable[[Tensor], dist.TorchDistribution],
    latent_dim: int,
    data: TensorData,
    epochs: int,
    seed: int,
) -> Tensor:
    """Train p(x|z) and the mean of q(z|x) of another program as an autoencoder, for it to start
    from; the codes of the data, ``[N, latent_dim]``."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            flat = dist.ImproperUniform(dist.constraints.real_vector, (), (latent_dim,))
            pyro.sample("x", likelihood(pyro.sample("z", flat)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(posterior(x).mean, event_dim=1))

    with task("autoencoder"):
        fit(Pair(model, guide), data, epochs=epochs, seed=seed)
    return torch.cat([posterior(x).mean.detach() for (x,) in data.fixed().batches(1000)])
