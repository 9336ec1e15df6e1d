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
# **Is there anything in a VAE that you could not write yourself?** No. Here it is three times: by
# hand in PyTorch, as a model and a guide in Pyro, and declared in pyrovae. With the same weights
# and the same dice, the three give the same loss, the same gradients, and the same training curve.
# Then we look at what each of the three leaves to you, and at two ways to get it wrong.
#
# Before: [4. Gradients through dice](04_gradients_through_dice.ipynb). Next: [6. Better than an
# autoencoder, at what?](06_better_than_an_autoencoder.ipynb)

# %%
import copy

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

mnist = pv.data.load("mnist5k")
x_train = mnist.train.binarised("static").x
x_test = mnist.test.binarised("static").x
print("train", tuple(x_train.shape), " test", tuple(x_test.shape))
pv.plots.image_grid(x_train[:12], nrow=12);

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

# %%
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

# %% [markdown]
# Four hundred steps later the weights still agree to the last digits of a 32-bit number. (They need
# not be *equal*: the three add the same numbers up in another order.)
#
# ## What the loss is made of
#
# One number hides two. Reconstruction rises (pictures are explained better), and the KL rises with
# it: $q(z \mid x)$ moves away from the prior to say *which* picture. `pv.fit` is the loop that you
# do not have to write, and it keeps the two apart.

# %%
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

# %%
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
ax.set(xlabel="estimate of the batch's ELBO (nats per datum)", ylabel="rolls of the dice")
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1));

# %%
trace, analytic = rolls.values()
standard_error = (trace.var() / 300 + analytic.var() / 300).sqrt()
print(f"means differ by {abs(trace.mean() - analytic.mean()) / standard_error:.1f} standard errors")
assert abs(trace.mean() - analytic.mean()) < 4 * standard_error
assert analytic.std() > 0.95 * trace.std()

# %% [markdown]
# Same mean. The closed form removes the dice from one term, and still its sum is not quieter, here
# even a little noisier: near the optimum the noise of the sampled KL cancels some of that of the
# reconstruction. Notebook 4 measures what this does to gradients.
#
# ## Two ways to get it wrong
#
# **Averages instead of sums.** `binary_cross_entropy` averages over 784 pixels by default, and the
# KL is often averaged over the 10 units. Each mean is harmless, the pair is not: the reconstruction
# is divided by 784 and the KL by 10, so the KL weighs 78 times too much.


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

# %%
ten = x_test[:10]
rows = torch.stack([ten, pv.reconstruct(vae, ten), pv.reconstruct(collapsed, ten)])
pv.plots.strips(rows, ["data", "sums", "averages"]);

# %% [markdown]
# Nothing crashed, the loss went down, and the model reconstructs every digit as the same grey blur:
# its code says nothing. This is the most common bug of hand-written VAEs. An ELBO read from a trace
# cannot have it, because log probabilities of one event are summed by definition.
#
# **Data in $[0, 1]$ under a Bernoulli.** By hand, `binary_cross_entropy` takes grey pixels without
# a word, and the number it returns is not a log probability of anything. A distribution refuses
# them:

# %%
grey = mnist.train.x[:100]  # as they were scanned, from 0 to 1
try:
    pv.evaluate(vae, grey)
except pv.UsageError as error:
    print(error)
else:
    raise AssertionError("no error")

# %% [markdown]
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
# ## Exercise
#
# A colleague's VAE for colour images of 32 by 32 pixels with three channels and 64 latent units
# averages the reconstruction over all values of the image and the KL over all units.
#
# **Predict**: is that KL too strong or too weak? **Then code**: which $\beta$ in
# $\mathrm{reconstruction} - \beta\,\mathrm{KL}$, both as sums, is the colleague really maximising
# (up to a constant factor)?

# %%
answer = ...  # beta


def check(answer, tolerance=0.01):
    if answer is ...:
        return "Predict, then replace the dots."
    pixels, units = torch.ones(3, 32, 32), torch.ones(64)
    reconstruction, kl = pixels.mean() / pixels.sum(), units.mean() / units.sum()
    if abs(answer / (kl / reconstruction).item() - 1) <= tolerance:
        return "Right: far too strong, and most units will collapse."
    return "Not yet. Hint: multiply the averaged loss by what makes the reconstruction a sum again."


print(check(answer))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution = 3 * 32 * 32 / 64
print(f"beta = {solution:.0f}")
print(check(solution))
assert check(solution).startswith("Right") and check(1 / solution).startswith("Not yet")
