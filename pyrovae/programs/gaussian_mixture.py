"""Clusters: a mixture of Gaussians over the latent, the component summed out exactly."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import plots
from pyrovae.errors import whole_number
from pyrovae.evaluation import clustering
from pyrovae.generation import decode
from pyrovae.guides import Guide
from pyrovae.likelihoods import Likelihood
from pyrovae.program import Program
from pyrovae.programs.autoencoder import codes
from pyrovae.progress import doing, shown
from pyrovae.tensors import TensorData


class GaussianMixture(Program[Tensor, Tensor]):
    """p(x, z, y) = p(y) N(z; loc_y, L_y L_y') p(x|z), guide q(z|x); y is summed out.

    ::

        y -> z -> x        y in 0 .. clusters - 1, its posterior p(y|z) in closed form

    The guide has no y: given z, the sum over the clusters is exact, and so is p(y|z), which
    :meth:`assign` averages over q(z|x). Jiang et al., "Variational Deep Embedding", 2017;
    Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational
    Autoencoders", 2016. Clusters found from random weights are seldom classes: :meth:`initialise`
    trains an autoencoder and fits a mixture to its codes, as Jiang et al. do.

    Args:
        event_shape: shape of one datum.
        clusters: how many.
        latent_dim: size of z.
        likelihood: p(x|z).
        guide: q(z|x).
        pretraining: epochs of the autoencoder, 0 for none.

    >>> program = GaussianMixture((6,), clusters=3, latent_dim=2)
    >>> program.assign(torch.ones(4, 6)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        clusters: int = 10,
        latent_dim: int = 10,
        likelihood: Likelihood | None = None,
        guide: Guide | None = None,
        pretraining: int = 10,
    ) -> None:
        super().__init__(event_shape)
        self.clusters = whole_number("clusters", clusters, least=2)
        self.latent_dim = whole_number("latent_dim", latent_dim)
        self.pretraining = whole_number("pretraining", pretraining, least=0)
        self.likelihood = likelihood or self.usual()["likelihood"]
        self.posterior = guide or self.usual()["guide"]
        self.likelihood.build((latent_dim,), self.event_shape)
        self.posterior.build(self.likelihood.feature_shape, (latent_dim,))
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.loc = nn.Parameter(torch.randn(clusters, latent_dim))
        self.raw = nn.Parameter(torch.zeros(clusters, latent_dim, latent_dim))

    def model(self, x: Tensor) -> None:
        """y ~ p(y), z ~ N(loc_y, L_y L_y'), x ~ p(x|z) observed."""
        with pyro.plate("data", len(x)):
            clusters = dist.Categorical(logits=self.logits)
            y = pyro.sample("y", clusters, infer={"enumerate": "parallel"})
            of_y = dist.MultivariateNormal(self.loc[y], scale_tril=self.scale_tril()[y])
            z = pyro.sample("z", of_y)
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """z ~ q(z|x)."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(self.features(x)))

    def scale_tril(self) -> Tensor:
        """L, ``[clusters, latent_dim, latent_dim]``, with a positive diagonal."""
        positive = torch.diag_embed(self.raw.diagonal(dim1=-2, dim2=-1).exp())
        return self.raw.tril(-1) + positive

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """p(y|x), ``[N, clusters]``: p(y|z) at the mean of q(z|x)."""
        z = self.posterior(self.features(x)).mean[..., None, :]
        of_y = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril())
        return (self.logits.log_softmax(-1) + of_y.log_prob(z)).softmax(-1)

    @shown("initialise")
    def initialise(self, data: TensorData, seed: int = 0) -> None:
        """Train an autoencoder of the same networks, fit a mixture to its codes."""
        super().initialise(data, seed)
        if not self.pretraining:
            return
        likelihood, posterior = self.likelihood, self.posterior
        found = codes(
            likelihood,
            lambda x: posterior(likelihood.features(x)),
            self.latent_dim,
            data,
            self.pretraining,
            seed,
        )
        from sklearn import mixture as sklearn_mixture

        mixture = sklearn_mixture.GaussianMixture(
            self.clusters, covariance_type="full", n_init=5, random_state=seed
        )
        with doing(f"mixture of {self.clusters} for {len(found):,} codes"):
            mixture.fit(found.cpu().numpy())
        with torch.no_grad():
            self.logits.copy_(torch.as_tensor(mixture.weights_).log())
            self.loc.copy_(torch.as_tensor(mixture.means_))
            lower = torch.linalg.cholesky(torch.as_tensor(mixture.covariances_))
            log = lower.diagonal(dim1=-2, dim2=-1).log()
            self.raw.copy_(lower.tril(-1) + torch.diag_embed(log))

    def scores(self, data: TensorData) -> dict[str, float]:
        """Clustering accuracy against the labels, one to one and by majority."""
        if data.labels is None:
            return {}
        found = torch.cat([self.assign(x).argmax(-1) for (x,) in data.batches(1000)])
        return clustering(found, data.labels)

    @torch.no_grad()
    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """The clusters: the centre of each decoded, and the data most surely in it."""
        x = data[: min(1000, len(data))][0]
        each = min(9, len(x))
        members = x[self.assign(x).topk(each, 0).indices.T].cpu()
        centres = decode(self, self.loc.detach(), like=x)
        share = self.logits.softmax(-1).tolist()
        rows = [f"{k}: {p:.0%}" for k, p in enumerate(share)]
        cells = torch.cat([centres[:, None], members], 1)
        return plots.strips(cells, rows, ["centre", *[""] * each], schema=data.schema)
