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
# # 4. Gradients through dice
#
# **Why not `.sample()`?** The ELBO is an average over random codes, and the encoder decides how
# these codes are drawn. To train the encoder we need the derivative of an average by the
# parameters of its own randomness. You will see where backpropagation stops, how one line of
# algebra mends it, what the other way of doing it costs (on the order of a hundred thousand times the
# variance, before training), a mistake that raises no error and gives gradients that are zero on
# average, and what to do when a latent is discrete and cannot be mended.
#
# Before: [3. The ELBO from scratch](03_the_elbo_from_scratch.ipynb). Next: [5. The VAE in 30
# lines](05_the_vae_in_30_lines.ipynb).

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
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv

torch.set_num_threads(1)
plt.rcParams.update(pv.plots.STYLE)
pyro.set_rng_seed(0)

# %% [markdown]
# ## A path that ends at the dice
#
# Take one latent number, $z \sim \mathcal{N}(\mu, \sigma^2)$, and a function of it to be made
# small on average, $f(z) = z^2$. PyTorch has two ways to draw $z$.

# %%
mu, sigma = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0)

dice = dist.Normal(mu, sigma).sample()
path = dist.Normal(mu, sigma).rsample()
print(f"sample():  {dice:.2f}  requires_grad = {dice.requires_grad}")
print(f"rsample(): {path:.2f}  requires_grad = {path.requires_grad}")
try:
    (dice**2).backward()
except RuntimeError as error:
    print("\nbackward() after sample():", error)
(path**2).backward()
print(f"backward() after rsample(): gradient by mu = {mu.grad:.2f}")
assert not dice.requires_grad and path.requires_grad

# %% [markdown]
# `sample()` gives a number that has forgotten where it came from. `rsample()` (r for
# *reparameterised*) draws the same distribution in another way:
#
# $$ z = \mu + \sigma\,\varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, 1). $$
#
# The dice, $\varepsilon$, have no parameters. They stand beside the path, and the path from the
# loss to $\mu$ and $\sigma$ is ordinary arithmetic: $\partial z/\partial\mu = 1$,
# $\partial z/\partial\sigma = \varepsilon$.

# %% alt="Two chains of boxes from data to loss. Above, z is drawn inside the chain, and the gradient's arrows stop there. Below, the dice stand beside the chain, and the arrows go all the way back."
fig, panels = plt.subplots(2, 1, figsize=(9, 3.9), height_ratios=[1.45, 2.4])


def box(ax, x, y, words, edge=pv.plots.INK, fill="white"):
    shape = "round,pad=0,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch((x - 0.62, y - 0.36), 1.24, 0.72, shape, fc=fill, ec=edge, lw=1.4))
    ax.text(x, y, words, ha="center", va="center", size=11)


def arrow(ax, start, end, **style):
    style = {"color": pv.plots.INK, "lw": 1.3, "mutation_scale": 13} | style
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", shrinkA=0, shrinkB=0, **style))


for beside, ax in zip((False, True), panels, strict=True):
    ax.set_title(f"dice {'beside' if beside else 'in'} the path", loc="left", weight="bold")
    formula = r"$\mu + \sigma\varepsilon$" if beside else r"$z\sim\mathcal{N}(\mu,\sigma^2)$"
    words = ["data $x$", r"encoder $\phi$", r"$\mu,\ \sigma$", formula, r"decoder $\theta$", "loss"]
    for k, name in enumerate(words):
        rolled = k == 3 and not beside
        box(ax, 1.9 * k, 0, name, fill="#F6D9C6" if rolled else "white")
        if k:
            arrow(ax, (1.9 * k - 1.25, 0.12), (1.9 * k - 0.65, 0.12))
        if k > 1:  # the gradient's way back
            reaches = beside or k > 3
            style = {"color": pv.plots.GREEN} if reaches else {"color": pv.plots.GREY, "ls": ":"}
            arrow(ax, (1.9 * k - 0.65, -0.14), (1.9 * k - 1.25, -0.14), **style)
    if beside:
        box(ax, 5.7, 1.1, r"$\varepsilon\sim\mathcal{N}(0,1)$", fill="#F6D9C6")
        arrow(ax, (5.7, 0.72), (5.7, 0.38))
        ax.text(5.7, -0.72, "arithmetic: the gradient passes", ha="center", color=pv.plots.GREEN)
    else:
        ax.text(5.7, -0.72, "a draw: the gradient ends here", ha="center", color=pv.plots.ORANGE)
    ax.set(xlim=(-0.75, 10.25), ylim=(-0.95, 1.5 if beside else 0.5), aspect="equal")
    ax.axis("off")
panels[0].plot([], [], color=pv.plots.INK, label="forward")
panels[0].plot([], [], color=pv.plots.GREEN, label="gradient")
panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2);

# %% [markdown]
# ## Two ways to differentiate an average
#
# With $\varepsilon$, the derivative goes inside the average. This is the **pathwise** gradient:
#
# $$ \nabla_\mu\, \mathbb{E}[f(z)]
#    = \mathbb{E}_\varepsilon\big[ f'(\mu + \sigma\varepsilon) \big]. $$
#
# There is another way, which needs no derivative of $f$ and no path through the draw. Since
# $\nabla q = q\, \nabla \log q$,
#
# $$ \nabla_\mu\, \mathbb{E}_q[f(z)] = \int f(z)\, \nabla_\mu q(z)\, dz
#    = \mathbb{E}_q\big[ f(z)\, \nabla_\mu \log q(z) \big]
#    = \mathbb{E}_q\Big[ f(z)\, \frac{z - \mu}{\sigma^2} \Big]. $$
#
# This is the **score function** gradient (REINFORCE in reinforcement learning): try a draw, and
# make it more likely in proportion to how good it was.
#
# For $f(z) = z^2$ the exact answer is known: $\mathbb{E}[z^2] = \mu^2 + \sigma^2$, so the
# derivative by $\mu$ is $2\mu$. Both estimators should average to 2 at $\mu = \sigma = 1$.

# %%
eps = torch.randn(100_000)
z = 1 + 1 * eps
pathwise, score = 2 * z, z**2 * (z - 1)

for name, draws in (("pathwise", pathwise), ("score function", score)):
    error = draws.std() / len(draws) ** 0.5
    print(f"{name:15s} mean {draws.mean():.3f} ± {error:.3f} (exact 2), variance {draws.var():.1f}")
    assert abs(draws.mean() - 2) < 5 * error  # both are unbiased
assert abs(pathwise.var() - 4) < 0.3 and abs(score.var() - 30) < 4

# %% [markdown]
# Both are right on average. One draw of them is not equally useful: the variance is 4 in one case
# and 30 in the other (the exact values; they follow from the moments of a normal).
#
# Now add a constant to $f$. The derivative of the average does not change. The pathwise estimator
# does not notice, for a constant has no slope. The score function multiplies by the *value* of
# $f$, and notices very much: for $f(z) = z^2 + c$ its variance is $(c+1)^2 + 6(c+1) + 23$.

# %% alt="Left, densities of one draw: the score function's is far wider than the pathwise one. Right, the score function's variance grows from 30 to a million as the constant grows to 1,000; the pathwise one stays at 4."
constants = torch.tensor([0.0, 1, 3, 10, 30, 100, 300, 1000])
measured = torch.stack([((z**2 + c) * (z - 1)).var() for c in constants])
exact = (constants + 1) ** 2 + 6 * (constants + 1) + 23
assert torch.allclose(measured, exact, rtol=0.1)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3))
bins = torch.linspace(-15, 25, 81)
left.hist(score, bins, density=True, color=pv.plots.ORANGE, alpha=0.7, label="score function")
left.hist(pathwise, bins, density=True, color=pv.plots.BLUE, alpha=0.7, label="pathwise")
left.axvline(2, color=pv.plots.INK, lw=1, ls="--", label="exact: 2")
left.set(xlabel="one draw of the gradient", ylabel="density", title="$f(z) = z^2$")
left.set(yscale="log", ylim=(1e-4, 4))
left.legend(fontsize=9)
right.plot(constants + 1, exact, color=pv.plots.ORANGE, label="score function, exact")
right.plot(constants + 1, measured, "o", color=pv.plots.ORANGE, ms=5, label="measured")
right.plot(constants + 1, 0 * constants + 4, color=pv.plots.BLUE, label="pathwise, exact")
coins = 784 * math.log(2)  # nats, of 784 pixels that are fair coins
right.axvline(coins, color=pv.plots.GREY, lw=1, ls="--")
right.text(0.92 * coins, 60, "an untrained VAE's\nloss: 784 log 2", ha="right", va="top", size=9)
right.set(xscale="log", yscale="log", xlabel="$c + 1$, $c$ the constant added to $f$")
right.set(ylabel="variance of one draw", title="$f(z) = z^2 + c$")
right.legend(fontsize=9, loc="upper left");

# %% [markdown]
# Keep the grey line in mind. A VAE's loss is a sum over hundreds of pixels. Before training it is
# about $784 \log 2$ nats for any code $z$: a large constant, and little else. (We will measure it
# below.)
#
# ## The mistake that raises no error
#
# `backward()` above refused a loss without a path. The ELBO has one more term, $-\log q(z)$, and
# that term depends on $\mu$ directly. So an ELBO written with `sample()` does have a path to
# $\mu$, and `backward()` is content. What it computes has nothing to do with $f$:

# %%
mu = torch.tensor(1.0, requires_grad=True)
slopes = {}
for name in ("sample", "rsample"):
    q = dist.Normal(mu, 1.0)
    draws = getattr(q, name)((100_000,))
    loss = draws**2 + q.log_prob(draws)  # f(z) + log q(z)
    # the derivative by mu of every draw's own loss, as the draws share one mu
    (total,) = torch.autograd.grad(loss.mean(), mu)
    slopes[name] = float(total)
    print(f"{name + '()':10s} gradient of E[f(z) + log q(z)] by mu: {total:+.3f}   (exact +2)")
assert abs(slopes["rsample"] - 2) < 0.05 and abs(slopes["sample"]) < 0.05

# %% [markdown]
# Zero, since $\mathbb{E}_q[\nabla \log q] = 0$ whatever $f$ is. No error, no warning, a loss that
# can be printed, and an encoder that gets noise instead of a gradient.
#
# ## A VAE, with and without the path
#
# The model and the guide are those of the notebooks before, for 28 by 28 digits and 10 latent
# dimensions. The guide is written once, with a hole where the name of the distribution goes.
#
# Nobody calls `sample()` or `rsample()` in a Pyro program. `pyro.sample` takes `rsample()` where
# the distribution has one (`has_rsample`), and `Trace_ELBO` adds the score function for sites that
# have none. Pyro ships `NonreparameterizedNormal` for its own tests: the same density, the same
# draws, but no `rsample`.

# %%
digits = pv.data.load("mnist5k")
train, test = digits.train.binarised("dynamic"), digits.test.binarised("dynamic")
x = digits.train.binarised("static").x[:100]  # one fixed batch to measure gradients on


def networks(seed):
    torch.manual_seed(seed)
    to_image = nn.Unflatten(-1, (1, 28, 28))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 20))
    decoder = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 784), to_image)
    return encoder, decoder


def programs(encoder, decoder, normal):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    def guide(x):
        loc, raw_scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(loc, F.softplus(raw_scale)).to_event(1))

    return pv.Pair(model, guide)


encoder, decoder = networks(seed=0)
for normal in (dist.Normal, NonreparameterizedNormal):
    trace = poutine.trace(programs(encoder, decoder, normal).guide).get_trace(x)
    site = trace.nodes["z"]
    print(f"{normal.__name__:25s} has_rsample = {site['fn'].has_rsample!s:6s}", end="")
    print(f"requires_grad = {site['value'].requires_grad}")
    assert site["fn"].has_rsample == site["value"].requires_grad == (normal is dist.Normal)

with torch.no_grad():
    tried = [dist.Bernoulli(logits=decoder(z)).log_prob(x) for z in torch.randn(50, 100, 10)]
losses = -torch.stack(tried).sum((2, 3, 4))  # 50 codes for each of 100 digits
print(f"reconstruction loss before training: {losses.mean():.0f} nats per datum;", end=" ")
print(f"from code to code it varies by {losses.std(0).mean():.0f}")
assert abs(losses.mean() - coins) < 40 and losses.std(0).mean() < 20
assert x[0].numel() == 784, "hundreds of pixels"
assert round(sum(weight.numel() for weight in encoder.parameters()), -4) == 160_000

# %% [markdown]
# ## Seven ways to get one gradient
#
# On the fixed batch of 100 digits we draw the gradient of the negative ELBO (nats per datum) by
# the encoder's 160,000 parameters, many times, with fresh dice each time.
#
# | name below | program | loss |
# |---|---|---|
# | pathwise | `Normal` | `Trace_ELBO()`: all terms at the drawn $z$ |
# | analytic KL | `Normal` | `TraceMeanField_ELBO()`: the KL in closed form, no dice |
# | 10 particles | `Normal` | `Trace_ELBO(num_particles=10)`: ten draws of $z$, averaged |
# | sticking the landing | `Normal` | `pv.objectives.StickingTheLanding()`: see the aside below |
# | score function | no `rsample` | `Trace_ELBO()` |
# | score, baseline | no `rsample` | `pv.objectives.BetaELBO(analytic=False)`: with a baseline |
# | by hand | no `rsample` | $\log q - \log p$ of two traces: the mistake above |
#
# A **baseline** is the classic repair of the score function: subtract from $f$ a number that does
# not depend on this datum's $z$, here the mean over the other data of the batch. The average stays,
# the large constant goes.


# %%
def by_hand(model, guide, x):
    q = poutine.trace(guide).get_trace(x)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    return q.log_prob_sum() - p.log_prob_sum()


particles = {"num_particles": 10, "vectorize_particles": True, "max_plate_nesting": 1}
landing = pv.objectives.StickingTheLanding()
baseline = pv.objectives.BetaELBO(analytic=False)
ways = {
    "pathwise": (dist.Normal, Trace_ELBO().differentiable_loss, 100),
    "analytic KL": (dist.Normal, TraceMeanField_ELBO().differentiable_loss, 100),
    "10 particles": (dist.Normal, Trace_ELBO(**particles).differentiable_loss, 50),
    "sticking the landing": (dist.Normal, landing.differentiable_loss, 100),
    "score function": (NonreparameterizedNormal, Trace_ELBO().differentiable_loss, 200),
    "score, baseline": (NonreparameterizedNormal, baseline.differentiable_loss, 200),
    "by hand": (NonreparameterizedNormal, by_hand, 100),
}


def gradients(encoder, decoder, normal, loss, draws):
    pair, parameters = programs(encoder, decoder, normal), list(encoder.parameters())
    for _ in range(draws):
        found = torch.autograd.grad(loss(pair.model, pair.guide, x) / len(x), parameters)
        yield torch.cat([g.flatten() for g in found])


def measure(encoder, decoder):
    """By way: the total variance of one draw, and each draw's component along the truth."""
    torch.manual_seed(1)
    quiet = TraceMeanField_ELBO(**particles).differentiable_loss
    truth = torch.stack([*gradients(encoder, decoder, dist.Normal, quiet, 50)]).mean(0)
    rows = {}
    for name, (normal, loss, draws) in ways.items():
        drawn = torch.stack([*gradients(encoder, decoder, normal, loss, draws)])
        along = drawn @ truth / truth.square().sum()
        cosine = (drawn @ truth / drawn.norm(dim=1) / truth.norm()).mean()
        rows[name] = float(drawn.var(0).sum()), along, float(cosine)
    return rows


def table(rows):
    print(f"{'':21s}{'variance':>12s}   {'along the true gradient':24s}{'cosine':>8s}")
    for name, (variance, along, cosine) in rows.items():
        error = along.std() / len(along) ** 0.5
        mean = f"{along.mean() + 0.0:6.2f} ± {error:.3f}"
        print(f"{name:21s}{variance:12,.1f}   {mean:24s}{cosine:8.3f}")


start = measure(encoder, decoder)
table(start)

# %% [markdown]
# How to read it:
#
# - *variance*: summed over all parameters, in (nats per datum)² per unit of parameter².
# - *along the true gradient*: the average of 50 quiet draws, of ten particles each, serves as the truth. An unbiased
#   estimator has 1 here, within a few of its standard errors. The score function's own standard
#   error is so wide that this says little. The toy above is where its unbiasedness is tested.
# - *cosine* of the angle between one draw and the truth: what a step of SGD sees.

# %%
for name, (_, along, _) in start.items():
    error = along.std() / len(along) ** 0.5
    wanted = 0 if name == "by hand" else 1
    assert abs(along.mean() - wanted) < 5 * error + 0.03, name
variance = {name: row[0] for name, row in start.items()}
ratio = variance["score function"] / variance["pathwise"]
print(f"score function / pathwise: {ratio:,.0f}")
print(f"pathwise / analytic KL:    {variance['pathwise'] / variance['analytic KL']:.1f}")
print(f"pathwise / 10 particles:   {variance['pathwise'] / variance['10 particles']:.1f}")
assert 30_000 < ratio < 2_000_000, "on the order of a hundred thousand times the variance"
assert 1.3 < variance["pathwise"] / variance["analytic KL"] < 6
assert 6 < variance["pathwise"] / variance["10 particles"] < 15, "by ten"
assert 1e4 < variance["score function"] / variance["score, baseline"] < 5e5, "four orders of magnitude"
assert start["score function"][2] < 0.1 < 0.6 < start["pathwise"][2]

# %% alt="Left, components along the true gradient: by hand near 0, pathwise and ten particles near 1. Right, the score function's spread from -100 to 130, on an axis 150 times as wide."
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
PARTICLES = pv.plots.CLASSES[1]  # each way has its colour in all figures
colours = {"by hand": pv.plots.GREY, "pathwise": pv.plots.BLUE, "10 particles": PARTICLES}
for name, colour in colours.items():
    label = "by hand, sample()" if name == "by hand" else name
    bins = torch.linspace(-0.5, 1.5, 81)
    left.hist(start[name][1], bins, density=True, color=colour, alpha=0.75, label=label)
left.axvline(1, color=pv.plots.INK, lw=1, ls="--", label="true gradient")
left.set(xlabel="component along the true gradient\n(1 = its length)", ylabel="density")
left.set(title="dice beside the path, and the mistake", yticks=[], xticks=[-0.5, 0, 0.5, 1, 1.5])
left.legend(fontsize=9, loc="upper left")
wide = torch.linspace(-150, 150, 26)
along = start["score function"][1]
right.hist(along, wide, color=pv.plots.ORANGE, alpha=0.75, label="score function")
right.axvline(1, color=pv.plots.INK, lw=1, ls="--", label="true gradient")
right.set(xlabel="component along the true gradient\n(1 = its length)", ylabel="draws")
right.set(title="dice in the path: the axis is 150 times as wide")
right.legend(fontsize=9, loc="upper left");

# %% [markdown]
# One draw of the score function is nearly at a right angle to where it should point. Its average
# is right, but it takes as many draws as the ratio above to get as close as a single pathwise draw does.
#
# The baseline does wonders here: it brings the variance down by four orders of magnitude. So the
# noise was almost all that large constant. Remember this number. We come back to it after training.
#
# ## What the noise costs in training
#
# Same networks, same seed, same data, ten epochs. Only the gradient differs.

# %%
runs = {
    "pathwise": (dist.Normal, Trace_ELBO(), pv.plots.BLUE),
    "score, baseline": (NonreparameterizedNormal, baseline, pv.plots.GREEN),
    "score function": (NonreparameterizedNormal, Trace_ELBO(), pv.plots.ORANGE),
}
curves, trained = {}, {}
for name, (normal, loss, _) in runs.items():
    trained[name] = networks(seed=0)
    pair = programs(*trained[name], normal)
    history = pv.fit(pair, train, loss=loss, epochs=10, validation=test, progress=False)
    curves[name] = [-row["validation_elbo"] for row in history.rows]
    print(f"{name:16s} test loss after 10 epochs: {curves[name][-1]:.1f} nats per datum")
assert curves["pathwise"][-1] + 15 < curves["score, baseline"][-1]
assert curves["pathwise"][-1] + 30 < curves["score function"][-1]

# %% alt="Test loss over ten epochs. The pathwise run falls fastest, to 142; the score function with a baseline to 174, without one to 193 nats per datum."
fig, ax = plt.subplots(figsize=(7, 3.4))
for name, (_, _, colour) in runs.items():
    ax.plot(range(1, 11), curves[name], "o-", ms=4, color=colour)
    ax.text(10.2, curves[name][-1], name, color=colour, va="center")
ax.set(xlabel="epoch", ylabel="minus ELBO, test (nats per datum)", xlim=(0.7, 12.6))
ax.set_title("the same VAE, three gradients")
ax.set_xticks(range(1, 11));

# %% [markdown]
# Two things are worth a second look.
#
# - The score function does learn something. The *decoder* stands after the dice: its gradient needs
#   no path through them, and all three runs compute it in the same way. The encoder lags behind.
# - The baseline cured the variance before training, and yet its run falls behind too. So measure
#   again, at the weights that the pathwise run has reached:

# %%
end = measure(*trained["pathwise"])
table(end)

# %% alt="The variance of one draw of each way before and after training, on a logarithmic axis. All grow; the score function is four to five orders above the pathwise ones, and the baseline's advantage is mostly gone after training."
fig, ax = plt.subplots(figsize=(8, 3.4))
names = [name for name in ways if name != "by hand"]
hues = {"10 particles": PARTICLES, "score function": pv.plots.ORANGE, "score, baseline": pv.plots.GREEN}
for k, name in enumerate(names):
    before, after = start[name][0], end[name][0]
    hue = hues.get(name, pv.plots.BLUE)
    ax.plot([before, after], [k, k], color=str(pv.plots.PAPER), lw=5, zorder=0)
    ax.plot(before, k, "o", mfc="white", mec=hue, mew=2, ms=8)
    ax.plot(after, k, "o", color=hue, ms=9)
ax.plot([], [], "o", mfc="white", mec=pv.plots.INK, mew=2, ms=8, label="before training")
ax.plot([], [], "o", color=pv.plots.INK, ms=9, label="after 10 epochs")
ax.set_yticks(range(len(names)), names)
ax.set(xscale="log", xlabel="total variance of one draw of the encoder's gradient")
ax.set_title("how noisy is one draw?")
ax.invert_yaxis()
ax.grid(axis="x", color=str(pv.plots.PAPER))
ax.legend(loc="upper right");

# %% [markdown]
# - **All variances grow**: a trained encoder is sure of itself (small $\sigma$) and a trained
#   decoder is steep.
# - **The baseline no longer suffices.** After training the loss does depend on $z$, and steeply so.
#   What is left is not a constant that could be subtracted.
# - **The benefit of the analytic KL fades.** Before training it halves the variance or better; now it
#   takes away a small part. The noise that is left comes from the reconstruction, for which there is
#   no closed form.
# - **Ten particles** divide the variance by ten, before and after, as averages of ten do.

# %%
then, now = variance, {name: row[0] for name, row in end.items()}
print(f"score function / pathwise: {now['score function'] / now['pathwise']:10,.0f}")
print(f"score, baseline / pathwise:{now['score, baseline'] / now['pathwise']:10,.0f}")
print(f"analytic KL / pathwise:    {now['analytic KL'] / now['pathwise']:10.2f}")
assert now["score function"] / now["pathwise"] > 1_000, "thousands of times"
assert then["score, baseline"] / then["pathwise"] < 30 < now["score, baseline"] / now["pathwise"]
assert 0.7 < now["analytic KL"] / now["pathwise"] < 1.1
assert now["pathwise"] > 5 * then["pathwise"]
for row in (then, now):
    assert 6 < row["pathwise"] / row["10 particles"] < 15, "by ten"
    assert row["sticking the landing"] < row["analytic KL"]

# %% [markdown]
# *Aside: sticking the landing.* $-\log q_\phi(z)$ depends on $\phi$ by way of $z$, and directly.
# The direct part is the one with mean zero that fooled us above. Roeder et al. (2017) leave
# it out and keep the path. The result stays unbiased, and its variance goes to zero as the guide
# approaches the exact posterior. It is the quietest single draw in both rows of the figure, at the
# price of running the programs twice.
#
# ## When the closed form is wrong
#
# `Trace_ELBO` and `TraceMeanField_ELBO` estimate the same number. The second is not always
# allowed. It replaces each site's $\log q - \log p$ by a KL, and that KL must be one given what
# was drawn *before*. With two latents, a guide that draws them in the opposite order breaks this:

# %%
slope = nn.Linear(1, 1)


def two_layers(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(x.new_zeros(len(x)), 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(b, 1.0), obs=x)


def bottom_up(x):
    with pyro.plate("data", len(x)):
        b = pyro.sample("b", dist.Normal(slope(x[:, None])[:, 0], 0.8))
        pyro.sample("a", dist.Normal(b / 2, 0.7))


pair = pv.Pair(two_layers, bottom_up)
refused = []
for name, attempt in {
    "opposite order": (pair, torch.randn(100), TraceMeanField_ELBO()),
    "no rsample": (programs(encoder, decoder, NonreparameterizedNormal), x, TraceMeanField_ELBO()),
    "no rsample, sticking": (programs(encoder, decoder, NonreparameterizedNormal), x, landing),
}.items():
    try:
        pv.fit(*attempt[:2], loss=attempt[2], epochs=1, batch_size=50, progress=False)
    except pv.UsageError as error:
        refused.append(name)
        print(f"[{name}] {error}\n")
assert len(refused) == 3

# %% [markdown]
# The last two are the silent mistake from above, caught before the first step: an estimator that
# differentiates through the draw, and a site that has no path. `Trace_ELBO`, and `BetaELBO` with
# its baseline, accept such sites, since they know the score function.
#
# ## A discrete latent, exact or made soft
#
# A coin $b \in \{0, 1\}$ cannot be written as $\mu + \sigma\varepsilon$: a small step in its chance
# leaves nearly every draw where it was, and moves a few by 1. Three ways are left: sum over its values
# ([notebook 9](09_change_the_program.ipynb)), the score function, or to *relax* it. The last rests on
# a way to draw from a categorical distribution with dice beside the path: add **Gumbel** noise
# $g = -\log(-\log u)$ to the logits $\ell$ and take the largest,
#
# $$ b = \operatorname{arg\,max}_c\, (\ell_c + g_c) \;\sim\; \mathrm{Categorical}(\mathrm{softmax}(\ell)), \qquad
#    s = \mathrm{softmax}\big((\ell + g) / T\big). $$
#
# The first is exact, and has no gradient. The second, with a *temperature* $T$, is a point between the
# corners, and has one (Maddison et al., 2017; Jang et al., 2017). It is a draw of another
# distribution, so its gradient is *biased*. As $T$ goes to 0 the bias vanishes, and the variance explodes.
# Take one coin with the logit 0.4 and $f(b) = (b - 0.3)^2$. The exact derivative by the logit is
# $\sigma(\ell)\,\sigma(-\ell)\,(f(1) - f(0))$.

# %% alt="Left, densities of a relaxed coin: a hill in the middle at T = 2, two peaks at 0 and 1 at T = 0.2. Right, against T: the bias of the relaxed gradient rises with T, its standard deviation falls; the score function's is a level line."
torch.manual_seed(0)
three_logits = torch.tensor([0.0, 1.0, -1.0])
gumbel = -(-torch.rand(100_000, 3).log()).log()
drawn = (three_logits + gumbel).argmax(1).bincount() / 100_000
print("largest of logits + Gumbel noise", drawn.numpy().round(3), " softmax", end=" ")
print(three_logits.softmax(0).numpy().round(3))
assert torch.allclose(drawn, three_logits.softmax(0), atol=0.01)

logit, draws = torch.tensor(0.4, dtype=torch.float64), 400_000
chance = logit.sigmoid()
exact_slope = chance * (1 - chance) * (0.7**2 - 0.3**2)
u = torch.rand(draws, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
noise = u.log() - (-u).log1p()  # the difference of two Gumbels
coin = (logit + noise > 0).double()
score_slope = (coin - 0.3) ** 2 * (coin - chance)

temperatures = torch.logspace(-1.3, 0.7, 12)
bias, deviation = [], []
for T in temperatures:
    soft = ((logit + noise) / T).sigmoid()
    slope = 2 * (soft - 0.3) * soft * (1 - soft) / T  # f'(s) ds/dlogit, the path
    bias.append((slope.mean() - exact_slope).abs())
    deviation.append(slope.std())
bias, deviation = torch.stack(bias), torch.stack(deviation)
print(f"exact {exact_slope:.4f}, score function {score_slope.mean():.4f}, sd {score_slope.std():.3f}")
for k in (0, 4, 8, 11):
    print(f"T = {temperatures[k]:.2f}: bias {bias[k]:.4f}, sd {deviation[k]:.3f}")
assert abs(score_slope.mean() - exact_slope) < 5 * score_slope.std() / draws**0.5
assert bias[0] < 5 * deviation[0] / draws**0.5 + 0.003  # hardly any bias
assert bias[-1] > 0.3 * exact_slope  # a lot of it
assert deviation[0] > 2 * deviation[8]

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for T, colour in ((2.0, pv.plots.BLUE), (0.7, pv.plots.GREEN), (0.2, pv.plots.ORANGE)):
    soft = ((logit + noise) / T).sigmoid()
    left.hist(soft, 60, density=True, histtype="step", lw=2, color=colour, label=f"T = {T:g}")
left.set(xlabel="the relaxed coin", ylabel="density", title="a coin, more and less soft", ylim=(0, 8))
left.legend(loc="upper center")
right.plot(temperatures, deviation, "o-", ms=4, color=pv.plots.BLUE, label="sd of one relaxed draw")
right.plot(temperatures, bias, "s-", ms=4, color=pv.plots.ORANGE, label="bias of the relaxed gradient")
right.axhline(score_slope.std(), color=pv.plots.GREEN, ls="--", label="sd of the score function")
right.axhline(exact_slope, color=pv.plots.GREY, lw=1, label="the exact gradient")
right.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="size", ylim=(1e-4, 3))
right.set_title("the bargain")
right.legend(fontsize=8, loc="lower right");

# %% [markdown]
# In a program a relaxed coin is a `RelaxedBernoulli`, a relaxed choice a `RelaxedOneHotCategorical`, in
# model *and* guide; in pyrovae `priors.RelaxedOneHot` with `guides.RelaxedOneHot`. The bound that is
# then trained is one of the relaxed model, not of the discrete one: measure with the discrete one.
# For one coin the score function is quiet enough. It becomes hopeless with many.
#
# ## What to remember
#
# - In a Pyro guide, write `pyro.sample("z", dist.Normal(loc, scale).to_event(1))`. The path is
#   there. In a loop of your own, write `rsample()`.
# - The default, one pathwise draw, is good. The analytic KL is free where it is valid, and helps
#   most at the beginning.
# - The score function is unbiased and correct, and no use for a continuous latent of a VAE.
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
# **1.** Which of these draws let a gradient pass to their parameters: `Normal`, `Bernoulli`, `Beta`,
# `Categorical`, `RelaxedBernoulli`? (What would a small step of the parameter do to the value drawn?)

# %% tags=["exercise"]
answer_1 = ...  # five times True or False, in a list


def check_1(answer):
    names = ("Normal", "Bernoulli", "Beta", "Categorical", "RelaxedBernoulli")
    truth = [getattr(torch.distributions, name).has_rsample for name in names]
    right = "a draw that moves smoothly with its parameters has a path, even where no formula shows it."
    hint = "ask the classes of pyro.distributions for has_rsample."
    return verdict(answer, truth, 0, right, hint)


print(check_1(answer_1))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_1 = [True, False, True, False, True]
print(check_1(solution_1))
assert check_1(solution_1).startswith("Right")
assert check_1([True, False, False, False, True]).startswith("Not yet")  # Beta has a path

# %% [markdown]
# **2.** So far we differentiated by $\mu$. Take $\sigma$: with $f(z) = z^2$, the exact derivative of
# $\mathbb{E}[f(z)] = \mu^2 + \sigma^2$ by $\sigma$ is $2\sigma$. The score function's estimator is given.
# Is the ratio of its variance to the pathwise one's closer to 2, to 20 or to 200? Write the
# pathwise estimator by hand (no autograd) at $\mu = 1$, $\sigma = 1/2$, one number for each element of
# `eps`.

# %% tags=["exercise"]
mu, sigma = 1.0, 0.5
eps = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
z = mu + sigma * eps
score = z**2 * (eps**2 - 1) / sigma

answer_2 = ...  # the pathwise derivative of z**2 by sigma, [200000]


def check_2(answer):
    draws = mu + sigma * eps
    truth = 2 * draws.double() * eps
    right = f"mean {truth.mean():.3f} (exact 1), variance ratio {score.var() / truth.var():.1f}."
    hint = "the chain rule, df/dz times dz/dsigma, element by element. What is dz/dsigma?"
    return verdict(answer, truth, 1e-3, right, hint)


print(check_2(answer_2))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_2 = 2 * z * eps
print(check_2(solution_2))
assert check_2(solution_2).startswith("Right")
assert check_2(2 * z).startswith("Not yet")  # dz/dsigma forgotten
assert check_2(score).startswith("Not yet")  # unbiased, but not pathwise
assert check_2(2 * sigma * eps**2).startswith("Not yet")  # the same mean, another estimator

# %% [markdown]
# **3.** A baseline $c$ leaves $(z^2 - c)(z - 1)$ unbiased at $\mu = \sigma = 1$, whatever $c$ is. Which
# $c$ makes its variance smallest? It is *not* the mean of $z^2$, which is 2. Find it on paper or from
# draws, to within 0.2.

# %% tags=["exercise"]
answer_3 = ...  # a number


def check_3(answer):
    moments = {2: 1.0, 4: 3.0}  # of eps; z^2 eps^2 = (1 + eps)^2 eps^2
    best = (moments[2] + moments[4]) / moments[2]
    right = "the mean of z^2 weighted by eps^2. The usual baseline, the mean, is not the best one."
    hint = "the second moment is a parabola in c, with its bottom at E[z^2 eps^2] / E[eps^2]."
    return verdict(answer, best, 0.2, right, hint)


print(check_3(answer_3))

# %% jupyter={"source_hidden": true} tags=["solution"]
z = 1 + torch.randn(1_000_000, generator=torch.Generator().manual_seed(1))
solution_3 = ((z**2 * (z - 1) ** 2).mean() / ((z - 1) ** 2).mean()).item()
for c in (0.0, 2.0, solution_3):
    print(f"c = {c:.2f}: variance {((z**2 - c) * (z - 1)).var():.2f}")
print(check_3(solution_3))
assert check_3(solution_3).startswith("Right") and check_3(2.0).startswith("Not yet")
