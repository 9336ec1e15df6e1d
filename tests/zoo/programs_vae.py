"""Autoencoders as Pyro's examples write them: their priors, guides, labels and conditions."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
import torch.nn.functional as F
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions.conditional import ConditionalTransformedDistribution
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from zoo.cases import Case


def mlp(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Gaussian(nn.Module):
    """The parameters of a diagonal normal. Untrained, it is a little wider than a standard normal
    that the data hardly move, and so a good proposal for the posterior of an untrained decoder."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.1) -> None:
        super().__init__()
        self.body, self.scale = mlp([inputs, 6, 2 * outputs]), scale
        with torch.no_grad():
            self.body[-1].weight.mul_(0.3)
            self.body[-1].bias.zero_()

    def forward(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        batch = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
        joined = torch.cat([p.expand(*batch, p.shape[-1]) for p in parts], -1)
        loc, raw = self.body(joined).chunk(2, -1)
        return loc, self.scale * raw.exp()


def table(n: int, width: int) -> Tensor:
    """Rows of real numbers with two directions of variance."""
    return torch.randn(n, 2) @ torch.randn(2, width) + 0.5 * torch.randn(n, width)


def binary(n: int, width: int) -> Tensor:
    """Rows of zeros and ones of two patterns."""
    shapes = torch.rand(2, width).round() * 0.7 + 0.15
    return torch.bernoulli(shapes[torch.arange(n) % 2])


def linear_gaussian():
    """x = W z + noise with the exact posterior as the guide, modules registered by both."""
    decoder, encoder, noise = nn.Linear(2, 4), nn.Linear(4, 2), 0.5
    with torch.no_grad():
        weight = decoder.weight
        covariance = (torch.eye(2) + weight.T @ weight / noise**2).inverse()
        encoder.weight.copy_(covariance @ weight.T / noise**2)
        encoder.bias.copy_(-encoder.weight @ decoder.bias)
    scale_tril = torch.linalg.cholesky(covariance)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.MultivariateNormal(encoder(x), scale_tril=scale_tril))

    return model, guide, torch.randn(20, 4) * 1.3


def linear_gaussian_evidence(x):
    pyro.set_rng_seed(0)
    decoder = nn.Linear(2, 4)
    weight, bias = decoder.weight.detach().double(), decoder.bias.detach().double()
    covariance = weight @ weight.T + 0.25 * torch.eye(4, dtype=torch.double)
    return dist.MultivariateNormal(bias, covariance).log_prob(x.double())


class ImageVAE(nn.Module):
    """Binary images, flattened where they are observed; model and guide are methods."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = mlp([2, 6, 16]), Gaussian(16, 2)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], 2, dtype=x.dtype)
            z = pyro.sample("latent", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            pixels = torch.sigmoid(self.decoder(z))
            pyro.sample("obs", dist.Bernoulli(pixels).to_event(1), obs=x.reshape(-1, 16))
            return pixels

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder(x.reshape(-1, 16))
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def image_vae():
    vae = ImageVAE()
    return vae.model, vae.guide, binary(24, 16).reshape(-1, 1, 4, 4)


class Generator(PyroModule):
    """p(z) p(x|z), with a noise scale that is a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = PyroModule[nn.Linear](2, 5)
        self.out = PyroModule[nn.Linear](5, 4)
        self.noise = PyroParam(torch.tensor(0.8), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.out(torch.tanh(self.hidden(z)))
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1), obs=x)


class Recogniser(PyroModule):
    """q(z|x)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = PyroModule[nn.Linear](4, 2)
        self.scale = PyroParam(torch.full((2,), 1.1), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * self.loc(x), self.scale).to_event(1))


def pyro_modules():
    return Generator(), Recogniser(), table(20, 4) / 2


class SemiSupervised(nn.Module):
    """M2: p(y) p(z) p(x|y, z), q(y|x) q(z|x, y), labels given or not."""

    def __init__(self, classes: int = 3, width: int = 6) -> None:
        super().__init__()
        self.classes = classes
        self.decoder = mlp([2 + classes, 6, width])
        self.classifier, self.encoder = mlp([width, classes]), Gaussian(width + classes, 2)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", xs.shape[0]):
            z = pyro.sample("z", dist.Normal(xs.new_zeros(2), 1.0).to_event(1))
            even = xs.new_full((self.classes,), 1 / self.classes)
            y = pyro.sample("y", dist.OneHotCategorical(even), obs=ys)
            batch = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            both = [z.expand(*batch, 2), y.expand(*batch, self.classes)]
            logits = self.decoder(torch.cat(both, -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data", xs.shape[0]):
            if ys is None:
                logits = self.classifier(xs)
                ys = pyro.sample("y", dist.OneHotCategorical(logits=logits))
            loc, scale = self.encoder(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    def model_classify(self, xs, ys):
        """The classifier's own loss, of the labelled data."""
        pyro.module("ss_vae", self)
        with pyro.plate("data", xs.shape[0]):
            logits = self.classifier(xs)
            with pyro.poutine.scale(scale=5.0):
                pyro.sample("y_aux", dist.OneHotCategorical(logits=logits), obs=ys)

    def guide_classify(self, xs, ys):
        """Nothing is latent."""


def labels(n: int, classes: int = 3) -> Tensor:
    return F.one_hot(torch.arange(n) % classes, classes).float()


def m2_enumerated():
    pair = SemiSupervised()
    guide = pyro.infer.config_enumerate(pair.guide, "parallel", expand=True)
    return pair.model, guide, binary(18, 6)


def m2_labelled():
    pair = SemiSupervised()
    return pair.model, pair.guide, (binary(18, 6), labels(18))


def m2_auxiliary():
    pair = SemiSupervised()
    return pair.model_classify, pair.guide_classify, (binary(18, 6), labels(18))


def m2_auxiliary_exact(data):
    pyro.set_rng_seed(0)
    logits = SemiSupervised().classifier(data[0]).detach()
    return logits.log_softmax(-1)[data[1].bool()].double()


class ConditionalVAE(nn.Module):
    """One half of a row given the other: p(z|x) p(y|x, z), q(z|x, y)."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.decoder = Gaussian(3, 2, 1.0), mlp([5, 6, 5])
        self.recognition = Gaussian(8, 2)

    def model(self, xs, ys):
        pyro.module("generation_net", self)
        with pyro.plate("data", len(xs)):
            loc, scale = self.prior(xs)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            logits = self.decoder(torch.cat([z, xs.expand(*z.shape[:-1], 3)], -1))
            pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=ys)

    def guide(self, xs, ys):
        with pyro.plate("data", len(xs)):
            loc, scale = self.recognition(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def conditional():
    pair, both = ConditionalVAE(), binary(20, 8)
    return pair.model, pair.guide, (both[:, :3].clone(), both[:, 3:].clone())


class Effects(nn.Module):
    """A confounder of treatment t and outcome y with its proxies x; the guide scores t and y."""

    def __init__(self) -> None:
        super().__init__()
        self.x_net, self.t_net = mlp([2, 5, 4]), nn.Linear(2, 1)
        self.y_nets = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
        self.qt, self.qy = nn.Linear(4, 1), nn.Linear(5, 1)
        self.encoder = Gaussian(6, 2)

    def model(self, x, t, y):
        pyro.module("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.x_net(z), 1.0).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=self.t_net(z)[..., 0]), obs=t)
            loc = torch.where(t.bool(), self.y_nets[1](z)[..., 0], self.y_nets[0](z)[..., 0])
            pyro.sample("y", dist.Normal(loc, 0.7), obs=y)

    def guide(self, x, t, y):
        with pyro.plate("data", len(x)):
            auxiliary = {"is_auxiliary": True}
            treated = dist.Bernoulli(logits=self.qt(x)[..., 0])
            pyro.sample("t", treated, obs=t, infer=auxiliary)
            loc = self.qy(torch.cat([x, t[:, None]], -1))[..., 0]
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y, infer=auxiliary)
            loc, scale = self.encoder(x, t[:, None], y[:, None])
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def effects():
    pair = Effects()
    x, t = table(24, 4) / 2, (torch.arange(24) % 3 == 0).float()
    return pair.model, pair.guide, (x, t, t + x[:, 0] + 0.5 * torch.randn(24))


def flow_prior():
    """The prior is a normal pushed through coupling layers that have parameters."""
    flow = transforms.affine_coupling(2, hidden_dims=[5])
    decoder, encoder = mlp([2, 5, 4]), Gaussian(4, 2)

    def model(x):
        pyro.module("flow", flow)
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
            pyro.sample("x", dist.Normal(decoder(z), 0.8).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return model, guide, table(20, 4) / 2


def flow_guide():
    """An inverse autoregressive flow on top of the encoder's normal."""
    flow = transforms.affine_autoregressive(2, hidden_dims=[5])
    decoder, encoder = mlp([2, 5, 4]), Gaussian(4, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.8).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(*encoder(x)).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return model, guide, table(20, 4) / 2


def conditional_flow_guide():
    """A flow whose shape depends on the datum."""
    flow = transforms.conditional_affine_coupling(2, context_dim=3, hidden_dims=[5])
    decoder, context = mlp([2, 5, 4]), mlp([4, 5, 3])

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.8).to_event(1), obs=x)

    def guide(x):
        pyro.module("context", context)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.2 * torch.ones(2)).to_event(1)
            conditioned = ConditionalTransformedDistribution(base, [flow])
            pyro.sample("z", conditioned.condition(context(x)))

    return model, guide, table(20, 4) / 2


def easy_guide():
    """Two latents that the guide draws as one auxiliary vector and unpacks by Deltas."""
    decoder = mlp([3, 5, 4])

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z_group", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            w = pyro.sample("z_own", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = decoder(torch.cat([z, w], -1))
            pyro.sample("x", dist.Normal(loc, 0.8).to_event(1), obs=x)

    class Guide(EasyGuide):
        def __init__(self, model) -> None:
            super().__init__(model)
            self.encoder = Gaussian(4, 3)

        def guide(self, x):
            group = self.group(match="z_.*")
            with self.plate("data", len(x)):
                group.sample("z_aux", dist.Normal(*self.encoder(x)).to_event(1))

    guide, x = Guide(model), table(20, 4) / 2
    guide(x)  # learns the model's sites
    return model, guide, x


CASES = [
    Case(
        "linear-Gaussian VAE",
        linear_gaussian,
        like="VAE of functions, `pyro.module`",
        exact=linear_gaussian_evidence,
        exact_guide=True,
    ),
    Case(
        "image VAE",
        image_vae,
        like="VAE example: methods of an `nn.Module`, images flattened",
        latents=("latent",),
        observed={"obs": 0},
    ),
    Case("PyroModule VAE", pyro_modules, like="`PyroModule`, `PyroParam`"),
    Case(
        "M2, unlabelled",
        m2_enumerated,
        like="SS-VAE example: `config_enumerate` guide",
        latents=("z", "y"),
        discrete=("y",),
        enumerated=("y",),
        loss=lambda: pyro.infer.TraceEnum_ELBO(max_plate_nesting=1),
    ),
    Case(
        "M2, labelled",
        m2_labelled,
        like="SS-VAE example: the same programs with labels",
        observed={"x": 0, "y": 1},
    ),
    Case(
        "M2, auxiliary loss",
        m2_auxiliary,
        like="SS-VAE example: the classifier's loss, an empty guide",
        latents=(),
        observed={"y_aux": 1},
        exact=m2_auxiliary_exact,
        hide=None,
        as_pyro=False,
    ),
    Case(
        "conditional VAE",
        conditional,
        like="CVAE example: prior, generation and recognition networks",
        observed={"y": 1},
        hide=1,
    ),
    Case(
        "CEVAE",
        effects,
        like="`contrib.cevae`: the guide scores what is observed",
        observed={"x": 0, "t": 1, "y": 2},
        as_pyro=False,
    ),
    Case("flow prior", flow_prior, like="normalizing-flow tutorial: coupling layers as a prior"),
    Case("flow guide", flow_guide, like="IAF guide"),
    Case(
        "conditional flow guide",
        conditional_flow_guide,
        like="normalizing-flow tutorial: `ConditionalTransformedDistribution`",
    ),
    Case("EasyGuide VAE", easy_guide, like="`contrib.easyguide`", latents=("z_group", "z_own")),
]
