"""What is observed, and how: masks, plates of pixels, counts, factors, several sites."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from zoo.cases import Case
from zoo.closed_forms import (
    decoder,
    draws,
    encoder,
    gaussian,
    line,
    linear,
    loadings,
    normal,
    seeded,
)

Program = Callable[..., None]
Made = tuple[Program, Program, Tensor]
Made2 = tuple[Program, Program, tuple[Tensor, Tensor]]
W = loadings(5, [1.5, 1.0])


def observed_part(x: Tensor, there: Tensor) -> Tensor:
    """log p of the entries that are there, x = W z + noise of 0.5; ``[N]``."""
    covariance = W.double() @ W.double().T + 0.25 * torch.eye(5).double()
    rows = zip(x.double(), there, strict=True)
    return torch.stack([gaussian(row[m], covariance[m][:, m]) for row, m in rows])


def _gaps() -> tuple[Tensor, Tensor]:
    there = torch.rand(24, 5) < 0.8
    there[:, 0] = True
    return torch.where(there, draws(24, W, 0.5), 0.0), there


@seeded
def make_masked() -> Made2:
    """poutine.mask over the entries in a plate of their own: the mask is an argument."""
    decode, encode = decoder(W), encoder(W, 0.5, 1.5)

    def model(x: Tensor, there: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, 2), 1.0).to_event(1))
            with pyro.plate("entries", 5, dim=-1), poutine.mask(mask=there):
                pyro.sample("x", dist.Normal(decode(z).squeeze(-2), 0.5), obs=x)

    def guide(x: Tensor, there: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2):
            fn = dist.Normal(loc[..., None, :], log_scale.exp()[..., None, :])
            pyro.sample("z", fn.to_event(1))

    return model, guide, _gaps()


def exact_masked(data: tuple[Tensor, Tensor]) -> Tensor:
    return observed_part(*data)


@seeded
def make_obs_mask() -> Made2:
    """pyro.sample(obs=x, obs_mask=m): entries that are not there are a latent site of their own,
    ``x_unobserved``, which the guide draws and masks likewise."""
    decode, encode = decoder(W), encoder(W, 0.5, 1.5)

    def model(x: Tensor, there: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, 2), 1.0).to_event(1))
            with pyro.plate("entries", 5, dim=-1):
                pyro.sample("x", dist.Normal(decode(z).squeeze(-2), 0.5), obs=x, obs_mask=there)

    def guide(x: Tensor, there: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2):
            fn = dist.Normal(loc[..., None, :], log_scale.exp()[..., None, :])
            z = pyro.sample("z", fn.to_event(1))
            with pyro.plate("entries", 5, dim=-1), poutine.mask(mask=~there):
                pyro.sample("x_unobserved", dist.Normal((z @ W.T).squeeze(-2), 0.6))

    return model, guide, _gaps()


def exact_obs_mask(data: tuple[Tensor, Tensor]) -> Tensor:
    return observed_part(*data)


BARS = torch.tensor([[2.0, 1.0, 0.5, -0.5, -1.0, -2.0, 0.0, 1.5, -1.5]])


@seeded
def make_pixels() -> Made:
    """A plate of pixels inside the plate of images; one number per image says which pixels."""
    decode, encode = linear(BARS.T), linear(torch.cat([BARS / 5, torch.zeros(1, 9)]))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        images = pyro.plate("images", len(x), dim=-2)
        pixels = pyro.plate("pixels", 9, dim=-1)
        with images:
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
        with images, pixels:
            pyro.sample("x", dist.Bernoulli(logits=decode(z)), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x - 0.5).split(1, -1)
        with pyro.plate("images", len(x), dim=-2):
            pyro.sample("z", dist.Normal(loc, 0.7 * log_scale.exp()))

    x = torch.bernoulli(torch.sigmoid(torch.randn(20, 1) @ BARS))
    return model, guide, x


def exact_pixels(x: Tensor) -> Tensor:
    bars = BARS.double()

    def log_density(z: Tensor) -> Tensor:
        logits = z @ bars
        log_x = logits @ x.double().T - torch.nn.functional.softplus(logits).sum(-1, keepdim=True)
        return normal(z, 0.0, 1.0) + log_x

    return line(log_density)


@seeded
def make_pixel_mixture() -> Made:
    """Robust observations: each pixel, in the inner plate, is an outlier or not; summed out in
    the model. The code of the image is drawn by the guide."""
    decode, encode = linear(BARS.T), linear(torch.cat([BARS / 20, torch.zeros(1, 9)]))

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        scales = torch.tensor([0.5, 2.0])
        outliers = pyro.param(
            "outliers", torch.tensor(0.2), constraint=dist.constraints.unit_interval
        )
        images = pyro.plate("images", len(x), dim=-2)
        pixels = pyro.plate("pixels", 9, dim=-1)
        with images:
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0))
        with images, pixels:
            far = pyro.sample("far", dist.Bernoulli(outliers), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(decode(z), scales[far.long()]), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x).split(1, -1)
        with pyro.plate("images", len(x), dim=-2):
            pyro.sample("z", dist.Normal(loc, 0.25 * log_scale.exp()))

    scale = torch.where(torch.rand(16, 9) < 0.2, 2.0, 0.5)
    return model, guide, torch.randn(16, 1) @ BARS + scale * torch.randn(16, 9)


def exact_pixel_mixture(x: Tensor) -> Tensor:
    def log_density(z: Tensor) -> Tensor:
        apart = x.double() - (z @ BARS.double())[:, None]
        near = normal(apart, 0.0, 0.5) + math.log(0.8)
        far = normal(apart, 0.0, 2.0) + math.log(0.2)
        return normal(z, 0.0, 1.0) + torch.logaddexp(near, far).sum(-1)

    return line(log_density)


WORDS = torch.tensor([[1.0, 0.5, 0.0, -0.5, -1.0, 0.3]])


@seeded
def make_documents() -> Made:
    """Multinomial documents of different lengths, as topic models have them: the distribution's
    total is the batch's largest, and the first five documents are the short ones."""
    encode = linear(torch.cat([WORDS / 8, torch.zeros(1, 6)]))

    def model(x: Tensor) -> None:
        words = pyro.param("words", WORDS.clone())
        total = int(x.sum(-1).max())
        with pyro.plate("documents", len(x)):
            topic = pyro.sample("topic", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Multinomial(total, logits=topic @ words), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x).split(1, -1)
        with pyro.plate("documents", len(x)):
            fn = dist.Normal(loc, 0.5 * log_scale.exp()).to_event(1)
            pyro.sample("topic", fn)

    lengths = [4, 5, 6, 7, 8] + [10, 20, 15] * 5
    topics = torch.softmax(torch.randn(20, 1) @ WORDS, -1)
    rows = zip(lengths, topics, strict=True)
    return model, guide, torch.stack([dist.Multinomial(n, probs=p).sample() for n, p in rows])


def exact_documents(x: Tensor) -> Tensor:
    x = x.double()
    ways = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)

    def log_density(z: Tensor) -> Tensor:
        return normal(z, 0.0, 1.0) + ways + (z @ WORDS.double()).log_softmax(-1) @ x.T

    return line(log_density)


GENES = torch.tensor([[0.8, -0.6, 0.4, 0.0, -0.9]])


def _rates(z: Tensor, library: Tensor) -> Tensor:
    return library[..., None] * torch.softmax(z @ GENES.to(z.dtype), -1)


def _negative_binomial(x: Tensor, mean: Tensor, size: float) -> Tensor:
    """log of the negative binomial of this mean and dispersion, variance mean + mean² / size."""
    ways = torch.lgamma(x + size) - torch.lgamma(x + 1) - math.lgamma(size)
    return ways + size * (size / (size + mean)).log() + x * (mean / (size + mean)).log()


def _expression(gate: float) -> Made2:
    encode = linear(torch.cat([GENES, torch.zeros(1, 5)]))

    def model(x: Tensor, library: Tensor) -> None:
        size = pyro.param("size", torch.tensor(3.0), constraint=dist.constraints.positive)
        with pyro.plate("cells", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            logits = _rates(z, library).log() - size.log()
            if gate:
                fn = dist.ZeroInflatedNegativeBinomial(
                    total_count=size, logits=logits, gate=torch.tensor(gate)
                )
            else:
                fn = dist.NegativeBinomial(total_count=size, logits=logits)
            pyro.sample("x", fn.to_event(1), obs=x)

    def guide(x: Tensor, library: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x / library[..., None]).split(1, -1)
        with pyro.plate("cells", len(x)):
            pyro.sample("z", dist.Normal(1.2 * loc, 0.55 * log_scale.exp()).to_event(1))

    library = torch.tensor([20.0, 60.0, 35.0, 90.0]).repeat(5)
    means = _rates(torch.randn(20, 1), library)
    x = dist.NegativeBinomial(3.0, logits=(means / 3.0).log()).sample()
    return model, guide, (torch.where(torch.rand(20, 5) < gate, 0.0, x), library)


@seeded
def make_negative_binomial() -> Made2:
    """Gene counts with the cell's size as an argument that nothing observes."""
    return _expression(0.0)


@seeded
def make_zero_inflated() -> Made2:
    """The same with zeros that are no measurements."""
    return _expression(0.3)


def _exact_expression(data: tuple[Tensor, Tensor], gate: float) -> Tensor:
    x, library = (t.double() for t in data)

    def log_density(z: Tensor) -> Tensor:
        log_x = _negative_binomial(x, _rates(z[:, None], library), 3.0)
        inflated = log_x.exp() * (1 - gate) + gate * (x == 0)
        return normal(z, 0.0, 1.0) + inflated.log().sum(-1)

    return line(log_density)


def exact_negative_binomial(data: tuple[Tensor, Tensor]) -> Tensor:
    return _exact_expression(data, 0.0)


def exact_zero_inflated(data: tuple[Tensor, Tensor]) -> Tensor:
    return _exact_expression(data, 0.3)


@seeded
def make_factor() -> Made:
    """pyro.deterministic and pyro.factor in the model: neither is data. The factor tilts the
    prior by exp(-z² / 2), and counts in log p(x)."""

    def model(x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(1.3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = pyro.deterministic("loc", slope * z)
            pyro.factor("tilt", -0.5 * z**2)
            pyro.sample("x", dist.Normal(loc, 0.8), obs=x)

    def guide(x: Tensor) -> None:
        precision = 2 + 1.69 / 0.64
        slope = pyro.param("guide slope", torch.tensor(1.3 / 0.64 / precision))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.05 * precision**-0.5))

    return model, guide, torch.randn(24)


def exact_factor(x: Tensor) -> Tensor:
    """The tilted prior is half of a normal of variance a half, by 2^(-1/2)."""
    return normal(x.double(), 0.0, math.sqrt(1.69 / 2 + 0.64)) - 0.5 * math.log(2)


def treatment(logit: float) -> Made2:
    """The guide scores the treatment with these odds."""

    def model(x: Tensor, t: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * z, 1.0), obs=x)
            pyro.sample("t", dist.Bernoulli(logits=z), obs=t)

    def guide(x: Tensor, t: Tensor) -> None:
        odds = pyro.param("odds", torch.tensor(logit))
        with pyro.plate("data", len(x)):
            fn = dist.Bernoulli(logits=odds * torch.ones(len(x)))
            pyro.sample("t", fn, obs=t, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2 + 0.3 * (t - 0.5), 0.5**0.5))

    z = torch.randn(24)
    return model, guide, (z + torch.randn(24), torch.bernoulli(torch.sigmoid(z)))


@seeded
def make_guide_observes() -> Made2:
    """Treatment effects: the guide scores the treatment too (``obs=``, trained beside the bound).
    What it observes is no draw of q."""
    return treatment(2.0)


def exact_guide_observes(data: tuple[Tensor, Tensor]) -> Tensor:
    x, t = (part.double() for part in data)

    def log_density(z: Tensor) -> Tensor:
        log_t = t * z - torch.nn.functional.softplus(z)
        return normal(z, 0.0, 1.0) + normal(x, z, 1.0) + log_t

    return line(log_density)


@seeded
def make_two_sites() -> tuple[Program, Program, tuple[Tensor, Tensor]]:
    """Images and labels, two observed sites from one code, each with its own argument."""
    decode, encode = linear(BARS.T), linear(torch.cat([BARS / 20, torch.zeros(1, 9)]))

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            loc = decode(z).unflatten(-1, (1, 3, 3))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)
            pyro.sample("y", dist.Categorical(logits=z * torch.tensor([-1.0, 0.0, 1.0])), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.module("encoder", encode)
        loc, log_scale = encode(x.flatten(-3)).split(1, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.25 * log_scale.exp()).to_event(1))

    z = torch.randn(20, 1)
    y = dist.Categorical(logits=z * torch.tensor([-1.0, 0.0, 1.0])).sample()
    return model, guide, ((z @ BARS + torch.randn(20, 9)).reshape(20, 1, 3, 3), y)


def exact_two_sites(data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data[0].flatten(1).double(), data[1].long()

    def log_density(z: Tensor) -> Tensor:
        log_x = normal(x, (z @ BARS.double())[:, None], 1.0).sum(-1)
        log_y = (z * torch.tensor([-1.0, 0.0, 1.0])).log_softmax(-1)[:, y]
        return normal(z, 0.0, 1.0) + log_x + log_y

    return line(log_density)


CASES = [
    Case(
        "masked entries",
        make_masked,
        like="`poutine.mask` in a plate of entries",
        exact=exact_masked,
        refused={"exact_log_evidence": "plate over the data"},
    ),
    Case(
        "obs_mask",
        make_obs_mask,
        like="`pyro.sample(obs=x, obs_mask=m)`",
        latents=("z", "x_unobserved"),
        observed={"x_observed": 0},
        exact=exact_obs_mask,
        refused={"exact_log_evidence": "plate over the data"},
    ),
    Case(
        "nested plates",
        make_pixels,
        like="a plate of pixels inside the plate of images",
        plates=("images",),
        exact=exact_pixels,
        refused={"exact_log_evidence": "plate over the data"},
    ),
    Case(
        "mixture per pixel",
        make_pixel_mixture,
        like="`air`-like outliers summed out in the inner plate",
        plates=("images",),
        enumerated=("far",),
        exact=exact_pixel_mixture,
        loss=functools.partial(TraceEnum_ELBO, max_plate_nesting=2),
    ),
    Case(
        "documents",
        make_documents,
        like="`prodlda`: `Multinomial` of different totals",
        latents=("topic",),
        plates=("documents",),
        exact=exact_documents,
        hide=None,
    ),
    Case(
        "negative binomial",
        make_negative_binomial,
        like="`scanvi`: library size an argument",
        plates=("cells",),
        exact=exact_negative_binomial,
    ),
    Case(
        "zero-inflated counts",
        make_zero_inflated,
        like="`scanvi`: `ZeroInflatedNegativeBinomial`",
        plates=("cells",),
        exact=exact_zero_inflated,
    ),
    Case(
        "deterministic and factor",
        make_factor,
        like="`pyro.deterministic`, `pyro.factor` in the model",
        exact=exact_factor,
    ),
    Case(
        "guide observes",
        make_guide_observes,
        like="`contrib.cevae`: `obs=` in the guide",
        observed={"x": 0, "t": 1},
        exact=exact_guide_observes,
        as_pyro=False,
    ),
    Case(
        "images and labels",
        make_two_sites,
        like="two observed sites, an argument each",
        observed={"x": 0, "y": 1},
        exact=exact_two_sites,
    ),
]
