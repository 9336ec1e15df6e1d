# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. The VAE in 30 lines
#
# **Is there anything in a VAE that you could not write yourself?** No. Here it is thrice: by
# hand in PyTorch, as a model and a guide in Pyro, and declared in pyrovae. With the same weights
# and the same dice, the three give the same loss, the same gradients, and the same training curve.
# Then we look at what each of the three leaves to you, at two ways to get it wrong, and at one line
# that a VAE does not need and other models do.
#
# Before: [4. Gradients through dice](04_gradients_through_dice.ipynb). Next: [6. Better than an
# autoencoder, at what?](06_better_than_an_autoencoder.ipynb)

# %%
# A fresh hosted runtime (Colab, Kaggle) lacks pyrovae. There this cell installs it, with the data of
# the notebooks inside, and leaves a torch that fits alone; anywhere else it does nothing.
import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pyrovae") is None:
    install = [sys.executable, "-m", "pip", "install", "-q", "pyrovae"]
    there = [f"torch=={found.version}" for found in importlib.metadata.distributions(name="torch")]
    if subprocess.run(install + there).returncode:  # a torch that does not fit is replaced
        subprocess.run(install, check=True)
    importlib.invalidate_caches()

# %%
# %config InlineBackend.figure_formats = ["retina"]
import copy
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import guides, likelihoods

torch.set_num_threads(1)
plt.rcParams.update(pv.plots.STYLE)

# %% alt="Twelve handwritten digits of 28 by 28 pixels, every pixel black or white."
mnist = pv.data.load("mnist5k")
x_train = mnist.train.binarised("static").x
x_test = mnist.test.binarised("static").x
print("train", tuple(x_train.shape), " test", tuple(x_test.shape))
pv.plots.image_grid(x_train[:12], nrow=12).set_title("training digits, binarised");

# %% [markdown]
# ## The two networks, shared by all three
#
# The encoder gives the centre and a raw spread of $q(z \mid x)$, the decoder one logit per pixel.
# Each version below starts from a copy of these weights.


# %%
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 20))

    def forward(self, x):
        return self.body(x).chunk(2, -1)  # loc, raw scale


torch.manual_seed(0)
ENCODER = Encoder()
DECODER = nn.Sequential(
    nn.Linear(10, 200), nn.Tanh(), nn.Linear(200, 784), nn.Unflatten(-1, (1, 28, 28))
)


def networks():
    return copy.deepcopy(ENCODER), copy.deepcopy(DECODER)


# %% [markdown]
# ## 1. PyTorch
#
# All of notebooks 3 and 4 in one function: reparameterised $z$, the reconstruction term as a sum
# over pixels, the closed-form KL of diagonal Gaussians, and the sign: we minimise minus the ELBO.
#
# $$ -\mathrm{ELBO} = -\sum_i \log \mathrm{Bernoulli}(x_i; \sigma(f(z)_i))
#    + \tfrac{1}{2} \sum_j \big( s_j^2 + m_j^2 - 1 - \log s_j^2 \big),
#    \qquad z = m + s \odot \varepsilon. $$

# %%
encoder_1, decoder_1 = networks()


def torch_loss(x):
    loc, raw = encoder_1(x)
    scale = F.softplus(raw) + 1e-5
    z = loc + scale * torch.randn_like(scale)
    logits = decoder_1(z)
    reconstruction = -F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum()
    return kl - reconstruction  # a sum over the batch


# %% [markdown]
# ## 2. Pyro
#
# Two programs, and the loss is not written at all. `TraceMeanField_ELBO` runs the guide, replays
# the model against it, and takes the KL between the two sites named `"z"` in closed form.

# %%
encoder_2, decoder_2 = networks()


def model(x):
    pyro.module("decoder", decoder_2)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder_2(z)).to_event(3), obs=x)


def guide(x):
    pyro.module("encoder", encoder_2)
    with pyro.plate("data", len(x)):
        loc, raw = encoder_2(x)
        pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-5).to_event(1))


def pyro_loss(x):
    return TraceMeanField_ELBO().differentiable_loss(model, guide, x)


# %% [markdown]
# ## 3. pyrovae
#
# A prior, a likelihood, a guide. The networks could be left out, or named (`networks.MLP([200])`);
# here we hand in our own modules so that the weights are the same.

# %%
encoder_3, decoder_3 = networks()
vae = pv.VAE(
    event_shape=(1, 28, 28),
    latent_dim=10,
    likelihood=likelihoods.Bernoulli(decoder_3),
    guide=guides.MeanField(encoder_3),
)


def pyrovae_loss(x):
    return TraceMeanField_ELBO().differentiable_loss(vae.model, vae.guide, x)


print(pv.sketch(vae, x_train[:5]))

# %% [markdown]
# ## The same numbers thrice
#
# One batch, one seed, so that all three roll the same dice. Loss and every gradient:

# %%
batch = x_train[:128]
modules = {"PyTorch": (encoder_1, decoder_1), "Pyro": (encoder_2, decoder_2)}
modules["pyrovae"] = (encoder_3, decoder_3)
losses = {"PyTorch": torch_loss, "Pyro": pyro_loss, "pyrovae": pyrovae_loss}


def loss_and_gradient(name):
    torch.manual_seed(1)
    loss = losses[name](batch) / len(batch)
    weights = [p for module in modules[name] for p in module.parameters()]
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


by_hand, gradient_by_hand = loss_and_gradient("PyTorch")
for name in losses:
    loss, gradient = loss_and_gradient(name)
    apart = (gradient - gradient_by_hand).abs().max()
    print(f"{name:8} loss {loss:.5f} nats per datum, largest difference of a gradient {apart:.1e}")
    assert abs(loss - by_hand) < 1e-4 and apart < 1e-4

# %% [markdown]
# ## The same training thrice
#
# Ten epochs of Adam each. The dice are seeded anew at every step, so the three see the same noise.
# The loop of the third is Pyro's `SVI` with one letter more: `pv.SVI` has the same constructor and
# the same `step`, and takes the graph of tensor operations that Pyro's handlers leave behind.

# %%
EPOCHS, SIZE = 10, 128
torch.manual_seed(0)
shuffles = [torch.randperm(len(x_train)) for _ in range(EPOCHS)]


def train(step):
    curve = []
    for epoch, order in enumerate(shuffles):
        total = 0.0
        for k, rows in enumerate(order.split(SIZE)):
            torch.manual_seed(1000 * epoch + k)
            total += float(step(x_train[rows]))
        curve.append(total / len(x_train))
    return torch.tensor(curve, dtype=torch.float64)


adam = torch.optim.Adam([*encoder_1.parameters(), *decoder_1.parameters()], lr=1e-3)


def torch_step(x):
    adam.zero_grad()
    loss = torch_loss(x)
    loss.backward()
    adam.step()
    return loss.detach()


pyro.clear_param_store()
plain = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
same = pyro.optim.Adam({"lr": 1e-3})
ours = pv.SVI(vae.model, vae.guide, same, TraceMeanField_ELBO(), compile="auto")

curves = {"PyTorch": train(torch_step), "Pyro": train(plain.step), "pyrovae": train(ours.step)}

# %% alt="The training ELBO over ten epochs, three lines that lie exactly upon each other, from -325 to -147 nats per datum."
_, ax = plt.subplots(figsize=(6.5, 3.2))
styles = {"PyTorch": ("-", 7, pv.plots.GREY), "Pyro": ("-", 3.5, pv.plots.BLUE)}
styles["pyrovae"] = ("--", 1.5, pv.plots.ORANGE)
for name, curve in curves.items():
    line, width, colour = styles[name]
    ax.plot(range(1, EPOCHS + 1), -curve, line, lw=width, color=colour, label=name)
ax.set(xlabel="epoch", ylabel="training ELBO (nats per datum)", title="three programs, one curve")
ax.legend(loc="lower right");

# %%
for name in ("Pyro", "pyrovae"):
    curve = (curves[name] - curves["PyTorch"]).abs().max()
    pairs = zip(modules[name], modules["PyTorch"], strict=True)
    weights = torch.stack([
        (a - b).abs().max()
        for ours_, theirs in pairs
        for a, b in zip(ours_.parameters(), theirs.parameters(), strict=True)
    ]).max()
    print(f"{name:8} curve at most {curve:.0e} nats apart, trained weights at most {weights:.0e}")
    assert curve < 1e-2 and weights < 1e-2
assert curves["PyTorch"][-1] < 160 < curves["PyTorch"][0]
assert sum(len(order.split(SIZE)) for order in shuffles) == 400, "four hundred steps"

# %% [markdown]
# Four hundred steps later the weights still agree to the last digits of a 32-bit number. (They need
# not be *equal*: the three add the same numbers up in another order.)
#
# ## What the loss is made of
#
# One number hides two. Reconstruction rises (pictures are explained better), and the KL rises with
# it: $q(z \mid x)$ moves away from the prior to say *which* picture. `pv.fit` is the loop that you
# do not have to write, and it keeps the two apart.

# %% alt="A stacked area over 20 epochs. Minus reconstruction falls from 211 to 102 nats, the KL below it grows from 6 to 17."
torch.manual_seed(0)
fresh = pv.VAE((1, 28, 28), 10)
history = pv.fit(fresh, x_train, loss=TraceMeanField_ELBO(), epochs=20, progress=False)

rows = history.rows
epoch = [row["epoch"] for row in rows]
bad_pixels = torch.tensor([-row["reconstruction"] for row in rows])
kl = torch.tensor([row["kl"] for row in rows])
_, ax = plt.subplots(figsize=(6.5, 3.2))
ax.stackplot(
    epoch, kl, bad_pixels, colors=[pv.plots.ORANGE, pv.plots.BLUE], alpha=0.85,
    labels=["KL", "minus reconstruction"],
)
ax.set(xlabel="epoch", ylabel="minus ELBO (nats per datum)", xlim=(1, 20), xticks=range(2, 21, 2))
ax.set_title("the loss is two costs")
ax.legend(loc="upper right");

# %%
first, last = rows[0], rows[-1]
for row in (first, last):
    print(f"epoch {row['epoch']:2}: reconstruction {row['reconstruction']:.1f}, KL {row['kl']:.1f}")
assert last["reconstruction"] > first["reconstruction"] and last["kl"] > first["kl"]

# %% [markdown]
# ## `Trace_ELBO` or `TraceMeanField_ELBO`?
#
# Both estimate the same bound. The first takes the KL from the one drawn $z$, as
# $\log q(z \mid x) - \log p(z)$, and works for any pair of programs. The second takes it in closed
# form where there is one. On one batch, with 300 rolls of the dice:

# %% alt="Two histograms of 300 estimates each, with the same middle; that of the closed form is a little wider."
rolls = {}
for loss in (Trace_ELBO(), TraceMeanField_ELBO()):
    with torch.no_grad():
        torch.manual_seed(0)
        draws = [loss.differentiable_loss(vae.model, vae.guide, batch) for _ in range(300)]
    rolls[type(loss).__name__] = -torch.stack(draws) / len(batch)

_, ax = plt.subplots(figsize=(6.5, 3))
for (name, values), colour in zip(rolls.items(), (pv.plots.BLUE, pv.plots.ORANGE), strict=True):
    label = f"{name}: mean {values.mean():.2f}, sd {values.std():.2f}"
    ax.hist(values.numpy(), 25, color=colour, alpha=0.6, label=label)
ax.set(xlabel="estimate of the batch's ELBO (nats per datum)", ylabel="estimates (of 300)")
ax.set_title("one batch, two estimators")
ax.set_ylim(0, 60)
ax.legend(loc="upper left", fontsize=9);

# %%
trace, analytic = rolls.values()
standard_error = (trace.var() / 300 + analytic.var() / 300).sqrt()
print(f"means differ by {abs(trace.mean() - analytic.mean()) / standard_error:.1f} standard errors")
assert abs(trace.mean() - analytic.mean()) < 4 * standard_error
assert 0.95 < analytic.std() / trace.std() < 1.6, "a little noisier"

# %% [markdown]
# Same mean. The closed form removes the dice from one term, and still its sum is not quieter, here
# even a little noisier: near the optimum the noise of the sampled KL cancels some of that of the
# reconstruction. Notebook 4 measures what this does to gradients.
#
# ## Two ways to get it wrong
#
# **Averages instead of sums.** `binary_cross_entropy` averages over 784 pixels by default, and the
# KL is often averaged over the 10 units. Each mean is harmless, the pair is not: the reconstruction
# is divided by 784 and the KL by 10, so the KL weighs 78 times too much. It is worth no unit's while to
# say anything, and all of them fall back on the prior. That is called **collapse** (notebook 7).


# %%
def averaged_loss(x, encoder, decoder):
    loc, raw = encoder(x)
    scale = F.softplus(raw) + 1e-5
    z = loc + scale * torch.randn_like(scale)
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).mean()
    return kl + F.binary_cross_entropy_with_logits(decoder(z), x)


encoder_4, decoder_4 = networks()
optimiser = torch.optim.Adam([*encoder_4.parameters(), *decoder_4.parameters()], lr=1e-3)


def averaged_step(x):
    optimiser.zero_grad()
    loss = averaged_loss(x, encoder_4, decoder_4)
    loss.backward()
    optimiser.step()
    return loss.detach()


train(averaged_step)
collapsed = pv.VAE(
    event_shape=(1, 28, 28),
    latent_dim=10,
    likelihood=likelihoods.Bernoulli(decoder_4),
    guide=guides.MeanField(encoder_4),
)
summed, averaged = (pv.evaluate(pair, x_test, 100) for pair in (vae, collapsed))
print(f"sums      KL {summed.kl.mean():7.3f}   ELBO {summed.elbo.mean():.1f} nats per datum")
print(f"averages  KL {averaged.kl.mean():7.3f}   ELBO {averaged.elbo.mean():.1f}")
assert averaged.kl.mean() < 0.5 < 10 < summed.kl.mean()
assert 78 < 784 / 10 < 79, "78 times too much"

# %% alt="Ten digits, their reconstructions by the VAE with sums, and by that with averages: the latter are all the same grey blur."
ten = x_test[:10]
rows = torch.stack([ten, pv.reconstruct(vae, ten), pv.reconstruct(collapsed, ten)])
pv.plots.strips(rows, ["data", "sums", "averages"], title="test digits, reconstructed");

# %% [markdown]
# Nothing crashed, the loss went down, and the model reconstructs every digit as the same grey blur:
# its code says nothing. An ELBO read from a trace cannot have this bug, because log probabilities of one
# event are summed by definition.
#
# **Grey pixels under a Bernoulli.** By hand, `binary_cross_entropy` takes pixels between 0 and 1 without
# a word. A distribution refuses them:

# %%
grey = mnist.train.x[:100]  # as they were scanned, from 0 to 1
try:
    pv.evaluate(vae, grey)
except pv.UsageError as error:
    print(error)
else:
    raise AssertionError("no error")

# %% [markdown]
# What is it, then, that the cross-entropy of a grey $x$ computes? Read $x$ as a chance of ink, and
# flip the coin, $b \sim \mathrm{Bernoulli}(x)$. Since $b$ is $x$ on average and the log probability is
# linear in $b$,
#
# $$ \mathbb{E}_{b \sim \mathrm{Bernoulli}(x)}\big[\log \mathrm{Bernoulli}(b; p)\big]
#    = x \log p + (1 - x) \log(1 - p) = -\mathrm{BCE}(x, p). $$
#
# - **It is** exactly the expected log probability of the *binarised* pictures. With the KL it bounds
#   the expected evidence of those pictures, for a guide that sees the grey one. Training on it is
#   legitimate: it is binarising anew at every step (`binarised("dynamic")`), without the dice.
# - **It is not** the log density of the grey picture. $p^x (1 - p)^{1 - x}$ does not integrate to 1 over
#   $x$ from 0 to 1, but to 0.5 at most, so it must not be compared with one. Nor is 0 its best value: at $p = x$ it is
#   minus the entropy of the coin, in general far from 0.

# %% alt="Left, the mean over binarisations of the log probability closes in on minus the cross-entropy as draws grow. Right, the integral of p to the x times (1 - p) to the (1 - x) over x, against p: 0.5 in the middle, less towards both ends."
with torch.no_grad():
    z = pv.encode(vae, mnist.train.binarised("static").x[:100])
    logits = vae.likelihood(z).base_dist.logits
cross_entropy = F.binary_cross_entropy_with_logits(logits, grey, reduction="none").flatten(1).sum(1)
torch.manual_seed(0)
flipped = torch.stack([
    dist.Bernoulli(logits=logits).log_prob(torch.bernoulli(grey)).flatten(1).sum(1) for _ in range(400)
])
error = flipped.mean(1).std() / 20
print(f"minus the cross-entropy of grey pixels   {-cross_entropy.mean():.3f} nats per picture")
print(f"mean log probability of 400 binarisations {flipped.mean():.3f} ± {error:.3f}")
entropy = dist.Bernoulli(grey).entropy().flatten(1).sum(1)
print(f"its best possible value, at p = x         {-entropy.mean():.3f}")
assert abs(flipped.mean() + cross_entropy.mean()) < 4 * error
assert (cross_entropy > entropy).all() and entropy.mean() > 10, "far from 0"

p = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
mass = (2 * p - 1) / (p.log() - (1 - p).log())  # the integral over x, in closed form
x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
assert torch.allclose(torch.trapezoid(p**x * (1 - p) ** (1 - x), x, dim=0), mass, atol=1e-4)
assert abs(mass.max() - 0.5) < 1e-3 and mass.min() < 0.2

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
running = flipped.mean(1).cumsum(0) / torch.arange(1, 401)
left.plot(range(1, 401), running, color=pv.plots.BLUE, label="binarised, mean so far")
left.axhline(-cross_entropy.mean(), color=pv.plots.ORANGE, ls="--", label="grey, cross-entropy")
left.set(xscale="log", xlabel="binarisations", ylabel="nats per picture", title="the same number")
left.legend(fontsize=9)
right.plot(p, mass, color=pv.plots.BLUE)
right.set(xlabel="p", ylabel="integral over x from 0 to 1", title="no density of grey pixels", ylim=(0, 1.05))
right.axhline(1, color=pv.plots.GREY, ls="--", label="a density")
right.legend(fontsize=9, loc="center right");

# %% [markdown]
# A density *of* grey pixels divides by that integral: it is `likelihoods.ContinuousBernoulli` (notebook
# 8 compares the choices).
#
# ## Batches, and the line that a VAE does not need
#
# Pyro's plate can cut a batch out of the data by itself: `pyro.plate("data", N, subsample_size=M)`. It
# then multiplies every log probability inside by $N / M$, so that the sum over the batch estimates the
# sum over all data. None of the programs above does this. Does it matter?
#
# In a VAE every latent is *local*: it belongs to one datum and lies in the plate. So all terms of the
# loss carry the same factor. It scales the gradient, and Adam divides by the gradient's size. A
# *global* latent, one for all data, lies outside. Its prior and its $q$ are counted once, and they must
# be weighed against all $N$ data, not against $M$. Here is the smallest example: the mean of 2,400
# numbers, $\mu \sim \mathcal{N}(0, 1)$, $y_n \sim \mathcal{N}(\mu, 1)$. The exact posterior has the
# standard deviation $1 / \sqrt{1 + N}$.

# %%
N, M = 2400, 25
y = 0.5 + torch.randn(N, generator=torch.Generator().manual_seed(0))


def q_of_mean(y):
    scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
    pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.5)), scale))


def plain(y):  # y is a batch, and the plate has its size
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def subsampled(y):  # y is a batch of N data
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample_size=len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def learned_sd(model):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    schedule = pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.996}
    )
    svi = SVI(model, q_of_mean, schedule, TraceMeanField_ELBO(num_particles=4))
    for _ in range(1000):
        svi.step(y[torch.randint(N, (M,))])
        schedule.step()
    return pyro.param("scale").item()


exact = 1 / math.sqrt(1 + N)
found = {"plain plate": learned_sd(plain), "subsampled plate": learned_sd(subsampled)}
pyro.clear_param_store()
pair = pv.Pair(plain, q_of_mean)
pv.fit(pair, y, epochs=20, batch_size=M, lr=0.01, progress=False)
found["pv.fit, plain plate"] = pair.params["scale"].exp().item()  # kept as its logarithm
print(f"exact posterior sd of the mean {exact:.4f}")
for name, sd in found.items():
    print(f"{name:<20} learned sd {sd:.4f}, {sd / exact:.1f} times the exact one")
assert abs(found["subsampled plate"] / exact - 1) < 0.35
assert abs(found["plain plate"] * math.sqrt(1 + M) - 1) < 0.35  # as if there were M data
assert found["plain plate"] > 6 * exact
assert abs(found["pv.fit, plain plate"] / exact - 1) < 0.35

half = x_train[:64]  # of a VAE, all terms lie in the plate: the factor is common to all


def scaled(program):
    return lambda x: pyro.poutine.scale(program, scale=5000 / 64)(x)


gradients = []
for programs in ((model, guide), (scaled(model), scaled(guide))):
    torch.manual_seed(0)
    loss = TraceMeanField_ELBO().differentiable_loss(*programs, half)
    weights = [*encoder_2.parameters(), *decoder_2.parameters()]
    gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
ratio = gradients[1].norm() / gradients[0].norm()
print(f"a VAE with N / M: the same gradient, {ratio:.2f} times as long")
assert torch.allclose(gradients[1], gradients[0] * 5000 / 64, rtol=1e-3, atol=1e-2)
assert abs(ratio - 5000 / 64) < 0.1

# %% [markdown]
# With the plain plate the prior is counted once for every 25 numbers, and the answer is as vague as if
# there were no more than 25. `pv.fit` knows how many data there are, and weighs a global latent right
# in either plate. It reports losses per datum, so that the factor does not show.
#
# ## What each leaves to you
#
# | | PyTorch | Pyro | pyrovae |
# |---|---|---|---|
# | loss and its signs | you | from the programs | from the programs |
# | another prior or likelihood | rewrite the loss | change a line of the model | change a word |
# | more latents, labels | rewrite the loss | change the programs | the same, or `pv.programs` |
# | loop, validation, checkpoints | you | you | `pv.fit` |
# | log evidence, k-hat, calibration | you | you | `pv.evaluate`, `pv.calibrate` |
# | parameters | yours | one global store: clear it before the next model | in the pair |
#
# ## Exercises
#
# From easy to hard. **Predict** first, in words; **then code**, and replace the dots. Every check says
# how exact it wants the answer.

# %% jupyter={"source_hidden": true} tags=["exercise"]
def verdict(answer, truth, tolerance, right, hint):
    """Right where every number of the answer is within the tolerance of the truth."""
    if answer is ...:
        return "Predict, then replace the dots."
    truth = torch.as_tensor(truth, dtype=torch.float64).squeeze()
    try:
        given = torch.as_tensor(answer, dtype=torch.float64).squeeze()
    except (TypeError, ValueError, RuntimeError):
        return f"Not yet: numbers of shape {list(truth.shape)} are wanted, not {answer!r}."
    if given.shape != truth.shape:
        return f"Not yet: shape {list(truth.shape)} is wanted, not {list(given.shape)}. Hint: {hint}"
    if bool(((given - truth).abs() <= tolerance).all()):
        return f"Right: {right}"
    return f"Not yet, to within {tolerance}. Hint: {hint}"


# %% [markdown]
# **1.** A colleague's VAE for colour images of 32 by 32 pixels with three channels and 64 latent units
# averages the reconstruction over all values of the image and the KL over all units. Is that KL too
# strong or too weak? Which $\beta$ in $\mathrm{reconstruction} - \beta\,\mathrm{KL}$, both as sums, is
# the colleague really maximising (up to a constant factor)?

# %% tags=["exercise"]
answer_1 = ...  # beta


def check_1(answer):
    pixels, units = torch.ones(3, 32, 32), torch.ones(64)
    reconstruction, kl = pixels.mean() / pixels.sum(), units.mean() / units.sum()
    right = "far too strong, and most units will collapse."
    hint = "multiply the averaged loss by what makes the reconstruction a sum again."
    return verdict(answer, kl / reconstruction, 0.5, right, hint)


print(check_1(answer_1))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_1 = 3 * 32 * 32 / 64
print(f"beta = {solution_1:.0f}")
print(check_1(solution_1))
assert check_1(solution_1).startswith("Right") and check_1(1 / solution_1).startswith("Not yet")

# %% [markdown]
# **2.** What is the smallest binary cross-entropy that *any* decoder can reach on a pixel of grey 0, of
# 0.3 and of 0.5, to two decimals?

# %% tags=["exercise"]
answer_2 = ...  # nats, a list of three


def check_2(answer):
    entropy = torch.distributions.Bernoulli(torch.tensor([0.0, 0.3, 0.5])).entropy()
    right = "the entropy of the coin, reached at p = x. Only black and white can cost nothing."
    hint = "minimise -x log p - (1 - x) log(1 - p) over p; the best p is x itself."
    return verdict(answer, entropy, 0.006, right, hint)


print(check_2(answer_2))

# %% jupyter={"source_hidden": true} tags=["solution"]
grey_levels = torch.tensor([0.0, 0.3, 0.5])
solution_2 = F.binary_cross_entropy(grey_levels, grey_levels, reduction="none")
print(solution_2.numpy().round(3), check_2(solution_2))
assert check_2(solution_2).startswith("Right") and check_2([0, 0, 0]).startswith("Not yet")

# %% [markdown]
# **3.** In the example of the mean, batches of $M = 100$ are drawn from $N = 2400$ numbers, and the plate
# is a plain one. How many times too large is the standard deviation of $q$, in the end, and how many
# times with $M = 1$? Give one decimal.

# %% tags=["exercise"]
answer_3 = ...  # a list of two factors


def check_3(answer):
    batches = torch.tensor([100.0, 1.0], dtype=torch.float64)
    right = "q believes that there are M data, for that is all that its loss ever weighs the prior with."
    hint = "1 / sqrt(1 + M) for the one, 1 / sqrt(1 + N) for the other."
    return verdict(answer, ((1 + 2400) / (1 + batches)).sqrt(), 0.06, right, hint)


print(check_3(answer_3))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_3 = [math.sqrt(2401 / 101), math.sqrt(2401 / 2)]
print([round(factor, 2) for factor in solution_3], check_3(solution_3))
assert check_3(solution_3).startswith("Right") and check_3([24.0, 2400.0]).startswith("Not yet")
