"""Several layers of latents, inferred from the bottom up or from the top down."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae import plots
from pyrovae.errors import UsageError, nearest, whole_number
from pyrovae.generation import decode
from pyrovae.guides import MeanField
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP, Network
from pyrovae.priors import Prior
from pyrovae.program import Program
from pyrovae.tensors import TensorData

ORDERS = ("ladder", "bottom-up")


def _normals(
    network: Network, shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> nn.ModuleList:
    """N(z; loc, scale^2) of each size, given something of each shape."""
    made = [MeanField(network) for _ in sizes]
    for each, shape, size in zip(made, shapes, sizes, strict=True):
        each.build(shape, (size,))
    return nn.ModuleList(made)


class Hierarchical(Program[Tensor, dict[str, Tensor]]):
    """p(x, z_1, .., z_L) = p(z_L) prod_l p(z_l|z_{l+1}) p(x|z_1).

    ::

        z_L -> .. -> z_2 -> z_1 -> x      (skip: from every layer to x, p(x|z_1, .., z_L))

    Guide "bottom-up": q(z_1|x) q(z_2|z_1) ..; Rezende, Mohamed and Wierstra, "Stochastic
    Backpropagation", 2014. Guide "ladder": q(z_L|x) q(z_{L-1}|z_L, x) .., each layer the product
    of what the model expects of it given the layer above, p(z_l|z_{l+1}), and what a network says
    of it given x; Sønderby et al., "Ladder Variational Autoencoders", 2016. The ladder draws in
    the model's order, so its KL is in closed form, and the layers above stay in use more often.

    Args:
        event_shape: shape of one datum.
        latent_dims: sizes of z_1 (next to the data), .., z_L.
        prior: p(z_L).
        likelihood: p(x|z_1), with ``skip`` p(x|z_1, .., z_L).
        network: of every other conditional.
        order: "ladder" or "bottom-up".
        skip: whether x sees every layer.

    >>> program = Hierarchical((6,), latent_dims=[3, 2])
    >>> import torch, pyrovae as pv
    >>> {name: tuple(z.shape) for name, z in pv.encode(program, torch.ones(4, 6)).items()}
    {'z2': (4, 2), 'z1': (4, 3)}
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dims: list[int] = [20, 10],  # noqa: B006
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        network: Network = MLP([400]),  # noqa: B008
        order: str = "ladder",
        skip: bool = False,
    ) -> None:
        super().__init__(event_shape)
        self.latent_dims = [whole_number("latent_dims", size) for size in latent_dims]
        if len(latent_dims) < 2:
            raise UsageError(
                f"latent_dims has the size of each of two or more layers, got {latent_dims}"
            )
        if order not in ORDERS:
            known = " or ".join(ORDERS)
            raise UsageError(f"order is {known}, got {order!r}{nearest(order, ORDERS)}")
        self.network, self.order, self.skip = network, order, skip
        self.seen = len(latent_dims) if skip else 1  # layers that x sees
        self.prior, self.likelihood = (
            prior or self.usual()["prior"],
            likelihood or self.usual()["likelihood"],
        )
        self.likelihood.build([(size,) for size in latent_dims[: self.seen]], self.event_shape)
        self.names = [f"z{layer}" for layer in range(1, len(latent_dims) + 1)]
        below, above = latent_dims[:-1], latent_dims[1:]
        self.down = _normals(network, [(size,) for size in above], below)
        self.up = self._upwards(latent_dims)
        self.prior.build(latent_dims[-1])

    def _upwards(self, latent_dims: list[int]) -> nn.ModuleList:
        """The guide's networks, from x on."""
        below = latent_dims[:-1]
        if self.order == "bottom-up":
            shapes = [self.likelihood.feature_shape, *((size,) for size in below)]
            return _normals(self.network, shapes, latent_dims)
        width = 2 * max(latent_dims)
        shapes = [self.likelihood.feature_shape, *[(width,)] * len(below)]
        outputs = [{"h": (width,), "loc": (d,), "raw_scale": (d,)} for d in latent_dims]
        return nn.ModuleList(map(self.network.build, shapes, outputs))

    def model(self, x: Tensor) -> None:
        """z_L ~ p(z_L), z_l ~ p(z_l|z_{l+1}), x ~ p(x|z_1) observed."""
        with pyro.plate("data", len(x)):
            z = [pyro.sample(self.names[-1], self.prior())]
            for layer in reversed(range(len(self.down))):
                z.insert(0, pyro.sample(self.names[layer], self.down[layer](z[0])))
            pyro.sample("x", self.likelihood(*z[: self.seen]), obs=x)

    def guide(self, x: Tensor) -> None:
        """z_1, .., z_L ~ q, in the order that was chosen."""
        x = self.features(x)
        with pyro.plate("data", len(x)):
            if self.order == "bottom-up":
                for layer, up in enumerate(self.up):
                    x = pyro.sample(self.names[layer], up(x))
                return
            evidence = []
            for up in self.up:
                x, loc, raw_scale = up(x)
                evidence.append((loc, F.softplus(raw_scale) + 1e-5))
            loc, scale = evidence[-1]
            z = pyro.sample(self.names[-1], dist.Normal(loc, scale).to_event(1))
            for layer in reversed(range(len(self.names) - 1)):
                expected, (loc, scale) = self.down[layer](z).base_dist, evidence[layer]
                ours, theirs = scale**-2, expected.scale**-2
                loc = (ours * loc + theirs * expected.loc) / (ours + theirs)
                product = dist.Normal(loc, (ours + theirs) ** -0.5).to_event(1)
                z = pyro.sample(self.names[layer], product)

    def figure(self, data: TensorData, names: Sequence[str] | None = None) -> plots.Drawn:
        """What the layers say: a draw of the top one in each row, of those below in each column."""
        rows, columns = 6, 8
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            top = self.prior().sample((rows,)).repeat_interleave(columns, 0)
        drawn = decode(self, {self.names[-1]: top}, like=data[:1])
        labels = [f"{self.names[-1]} {row + 1}" for row in range(rows)]
        return plots.strips(drawn.unflatten(0, (rows, columns)), labels, schema=data.schema)
