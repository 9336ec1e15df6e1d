"""Latents of other shapes and spaces than one vector of real numbers per datum."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from scipy import special
from torch import Tensor, nn

from zoo.cases import Case
from zoo.closed_forms import (
    decoder,
    draws,
    encoder,
    factor_analysis,
    gaussian,
    line,
    linear,
    loadings,
    normal,
    seeded,
)

Program = Callable[..., None]
Made = tuple[Program, Program, Tensor]


@seeded
def make_scalar() -> Made:
    """One number per datum, and data that are one number: the tutorials' first pair."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 0.5**0.5))

    return model, guide, torch.randn(30) * math.sqrt(2)


def exact_scalar(x: Tensor) -> Tensor:
    return normal(x.double(), 0.0, math.sqrt(2))


MATRIX = loadings(9, [1.5, 1.2, 1.0, 0.9, 0.8, 0.7])


@seeded
def make_matrix() -> Made:
    """A matrix per datum: factors by states."""
    decode, encode = decoder(MATRIX), encoder(MATRIX, 0.5)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(decode(z.flatten(-2)), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", len(x)):
            loc, log_scale = encode(x).unflatten(-1, (2, 2, 3)).unbind(-3)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(2))

    return model, guide, draws(20, MATRIX, 0.5)


def exact_matrix(x: Tensor) -> Tensor:
    return factor_analysis(x, MATRIX, 0.5)


KERNEL = torch.tensor([[0.1, -0.2, 0.1], [0.25, 1.0, -0.1], [0.0, 0.15, 0.1]])[None, None]


def blurred(z: Tensor) -> Tensor:
    """The kernel over images ``[..., 1, 4, 4]``."""
    kernel = KERNEL.to(z.dtype)
    return F.conv2d(z.reshape(-1, 1, 4, 4), kernel, padding=1).reshape(z.shape)


def blur_matrix() -> Tensor:
    """The same as a matrix ``[16, 16]``, float64."""
    return blurred(torch.eye(16).double().reshape(16, 1, 4, 4)).flatten(1).T


@seeded
def make_image() -> Made:
    """An image per datum behind a convolution: denoising, deblurring."""
    conv = nn.Conv2d(1, 1, 3, padding=1)
    conv.load_state_dict({"weight": KERNEL, "bias": torch.zeros(1)})
    w, noise = blur_matrix(), 1.0
    precision = w.T @ w / noise**2 + torch.eye(16)
    encode = linear((precision.inverse() @ w.T / noise**2).float())
    scales = precision.diagonal().rsqrt().float().reshape(1, 4, 4)

    def model(x: Tensor) -> None:
        pyro.module("decoder", conv)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, 4, 4), 1.0).to_event(3))
            loc = conv(z.reshape(-1, 1, 4, 4)).reshape(z.shape)
            pyro.sample("x", dist.Normal(loc, noise).to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        scale = pyro.param("scale", scales, constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            loc = encode(x.flatten(-3)).unflatten(-1, (1, 4, 4))
            pyro.sample("z", dist.Normal(loc, scale).to_event(3))

    x = blurred(torch.randn(16, 1, 4, 4)) + torch.randn(16, 1, 4, 4)
    return model, guide, x


def exact_image(x: Tensor) -> Tensor:
    return factor_analysis(x.flatten(1), blur_matrix(), 1.0)


W = loadings(5, [1.5, 1.0])


@seeded
def make_reparam() -> Made:
    """A latent under poutine.reparam(LocScaleReparam): the guide draws ``z_decentered``."""
    decode, encode = decoder(W), encoder(W, 0.5, 1.1)

    def centred(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", len(x)):
            loc, log_scale = encode(x).chunk(2, -1)
            pyro.sample("z_decentered", dist.Normal(loc, log_scale.exp()).to_event(1))

    model = poutine.reparam(centred, config={"z": LocScaleReparam(0.0)})
    return model, guide, draws(24, W, 0.5)


def exact_reparam(x: Tensor) -> Tensor:
    return factor_analysis(x, W, 0.5)


ALPHA = torch.tensor([0.7, 1.5, 2.0])


@seeded
def make_dirichlet() -> Made:
    """Proportions per datum; the guide's concentrations are softplus of a layer. Where counts are
    not small that is nearly the exact posterior, Dirichlet(alpha + counts)."""
    encode = linear(torch.eye(3), ALPHA)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            theta = pyro.sample("theta", dist.Dirichlet(ALPHA))
            pyro.sample("x", dist.Multinomial(12, theta), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        with pyro.plate("data", len(x)):
            pyro.sample("theta", dist.Dirichlet(F.softplus(encode(x))))

    theta = dist.Dirichlet(ALPHA).sample((20,))
    return model, guide, dist.Multinomial(12, theta).sample()


def exact_dirichlet(x: Tensor) -> Tensor:
    x, alpha = x.double(), ALPHA.double()
    ways = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
    before = torch.lgamma(alpha).sum() - torch.lgamma(alpha.sum())
    after = torch.lgamma(alpha + x).sum(-1) - torch.lgamma((alpha + x).sum(-1))
    return ways + after - before


@seeded
def make_logistic_normal() -> Made:
    """A point of the simplex under LogisticNormal, prior and guide: topics of two kinds."""
    topics = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    encode = linear(torch.tensor([[0.25, 0.05, -0.3]]))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            theta = pyro.sample("theta", dist.LogisticNormal(x.new_zeros(1), x.new_ones(1)))
            pyro.sample("x", dist.Multinomial(8, theta @ topics), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        scale = pyro.param("scale", torch.tensor([0.75]), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("theta", dist.LogisticNormal(encode(x), scale))

    theta = dist.LogisticNormal(torch.zeros(1), torch.ones(1)).sample((20,))
    return model, guide, dist.Multinomial(8, theta @ topics).sample()


def exact_logistic_normal(x: Tensor) -> Tensor:
    topics = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]).double()
    x = x.double()
    ways = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)

    def log_density(u: Tensor) -> Tensor:
        theta = torch.cat([torch.sigmoid(u), torch.sigmoid(-u)], -1)  # stick-breaking of two
        return normal(u, 0.0, 1.0) + ways + (theta @ topics).log() @ x.T

    return line(log_density)


@seeded
def make_von_mises() -> Made:
    """An angle per datum. Given noisy cosine and sine its posterior is von Mises again."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            angle = pyro.sample("angle", dist.VonMises(x.new_zeros(()), x.new_tensor(0.8)))
            loc = torch.stack([angle.cos(), angle.sin()], -1)
            pyro.sample("x", dist.Normal(loc, 0.6).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        precision = pyro.param("precision", torch.tensor(1 / 0.6**2))
        along = x * precision + torch.tensor([0.8, 0.0])
        with pyro.plate("data", len(x)):
            angle = torch.atan2(along[..., 1], along[..., 0])
            pyro.sample("angle", dist.VonMises(angle, along.norm(dim=-1)))

    angle = dist.VonMises(0.0, 0.8).sample((20,))
    x = torch.stack([angle.cos(), angle.sin()], -1) + 0.6 * torch.randn(20, 2)
    return model, guide, x


def exact_von_mises(x: Tensor) -> Tensor:
    x = x.double()
    along = (x / 0.36 + torch.tensor([0.8, 0.0])).norm(dim=-1)
    log_i0 = torch.as_tensor(special.i0e(along.numpy())).log() + along
    around = -0.5 * ((x**2).sum(-1) + 1) / 0.36 - math.log(2 * math.pi * 0.36)
    return around + log_i0 - math.log(special.i0(0.8))


@seeded
def make_projected_normal() -> Made:
    """A direction of the plane under ProjectedNormal: circular data in coordinates."""
    encode = linear(torch.eye(2) * 1.5 / 0.49, torch.tensor([0.7, 0.0]))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.ProjectedNormal(x.new_tensor([1.0, 0.0])))
            pyro.sample("x", dist.Normal(1.5 * u, 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        along = encode(x)
        with pyro.plate("data", len(x)):
            fn = dist.ProjectedNormal(along / along.norm(dim=-1, keepdim=True).sqrt())
            pyro.sample("u", fn)

    u = dist.ProjectedNormal(torch.tensor([1.0, 0.0])).sample((20,))
    return model, guide, 1.5 * u + 0.7 * torch.randn(20, 2)


def exact_projected_normal(x: Tensor) -> Tensor:
    """p(angle) of a normal with mean (1, 0) by integrating over the radius, then the line."""
    x = x.double()
    radius = torch.linspace(0, 12, 2001, dtype=torch.double)[1:]

    def log_density(angle: Tensor) -> Tensor:
        u = torch.cat([angle.cos(), angle.sin()], -1)
        apart = (radius[:, None] * u[:, None, :] - torch.tensor([1.0, 0.0])).square().sum(-1)
        log_prior = (radius.log() - 0.5 * apart).logsumexp(-1) + math.log(12 / 2000)
        log_x = normal(x, 1.5 * u[:, None], 0.7).sum(-1)
        return log_prior[:, None] - math.log(2 * math.pi) + log_x

    return line(log_density, -math.pi, math.pi, 721)


COVARIANCE = torch.tensor([[2.0, 1.0], [1.0, 3.0]])  # of x
PRECISION = torch.tensor([[3.0, -1.0], [-1.0, 2.0]])  # of (a, b) given x


@seeded
def make_auxiliary() -> Made:
    """One joint draw, and Deltas that hand its parts to the sites: what AutoContinuous guides
    and EasyGuide do. ``a`` and ``b`` are no points: their density is the joint draw's."""
    x = dist.MultivariateNormal(torch.zeros(2), COVARIANCE).sample((20,))
    encode = linear(PRECISION.inverse())
    tril = torch.linalg.cholesky(PRECISION.inverse())

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(torch.stack([a, b], -1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        scale_tril = pyro.param("tril", tril, constraint=dist.constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            joint = pyro.sample(
                "joint",
                dist.MultivariateNormal(encode(x), scale_tril=scale_tril),
                infer={"is_auxiliary": True},
            )
            pyro.sample("a", dist.Delta(joint[..., 0]))
            pyro.sample("b", dist.Delta(joint[..., 1]))

    return model, guide, x


def exact_auxiliary(x: Tensor) -> Tensor:
    return gaussian(x, COVARIANCE)


CASES = [
    Case(
        "scalar latent",
        make_scalar,
        like="a tutorial's first pair: one number per datum",
        exact=exact_scalar,
        exact_guide=True,
        lr=1e-4,
        falls=False,
    ),
    Case(
        "matrix latent",
        make_matrix,
        like="factors by states, `.to_event(2)`",
        exact=exact_matrix,
        exact_guide=True,
        lr=1e-3,
        falls=False,
    ),
    Case(
        "image latent",
        make_image,
        like="deblurring, `.to_event(3)` behind a convolution",
        exact=exact_image,
        lr=1e-3,
        falls=False,
    ),
    Case(
        "reparametrised latent",
        make_reparam,
        like="`poutine.reparam`, `LocScaleReparam`",
        latents=("z_decentered",),
        exact=exact_reparam,
        lr=1e-3,
        falls=False,
    ),
    Case(
        "Dirichlet latent",
        make_dirichlet,
        like="proportions per datum, softplus concentrations",
        latents=("theta",),
        exact=exact_dirichlet,
        hide=None,
        refused=dict.fromkeys(("traverse", "explore"), "lie in their sites' support|no such"),
    ),
    Case(
        "logistic-normal latent",
        make_logistic_normal,
        like="a point of the simplex, `LogisticNormal`",
        latents=("theta",),
        exact=exact_logistic_normal,
        hide=None,
        refused=dict.fromkeys(("traverse", "explore"), "lie in their sites' support|no such"),
    ),
    Case(
        "von Mises latent",
        make_von_mises,
        like="circular latents, `VonMises`",
        latents=("angle",),
        exact=exact_von_mises,
        exact_guide=True,
        lr=1e-3,
        falls=False,
        refused={"exact_log_evidence": "not mapped to real numbers", "gap": "not reparameterised"},
    ),
    Case(
        "projected-normal latent",
        make_projected_normal,
        like="directions, `ProjectedNormal`",
        latents=("u",),
        exact=exact_projected_normal,
        refused={"exact_log_evidence": "not mapped to real numbers"},
    ),
    Case(
        "auxiliary draw, Deltas",
        make_auxiliary,
        like="AutoContinuous, EasyGuide: a joint draw unpacked",
        latents=("a", "b"),
        exact=exact_auxiliary,
        exact_guide=True,
        lr=1e-4,
        falls=False,
    ),
]
