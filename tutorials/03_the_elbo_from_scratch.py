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
# # 3. The ELBO from scratch
#
# **What is maximised when a VAE is trained?** A number that can be computed, and that is never larger
# than the one we want, $\log p(x)$. Here you derive it in three lines, compute it yourself from two
# traces, and hold it against the *exact* $\log p(x)$, on a model for which that is known in closed
# form. What is missing has a name, and it can be taken apart.
#
# Before: [2. Look the posterior in the eye](02_look_the_posterior_in_the_eye.ipynb). Next:
# [4. Gradients through dice](04_gradients_through_dice.ipynb).

# %%
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from sklearn.decomposition import PCA
from torch import nn

import pyrovae as pv

torch.set_num_threads(1)
plt.rcParams.update(pv.plots.STYLE)
torch.manual_seed(0)

digits = pv.data.load("digits")
mean = digits.train.x.flatten(1).float().mean(0)
x_train, x_test = (s.x.flatten(1).float() - mean for s in (digits.train, digits.test))
D, K = x_train.shape[1], 5
print(f"{len(x_train)} training and {len(x_test)} test digits of {D} pixels, 0 to 16, centred")

# %% [markdown]
# ## Three lines
#
# The model has latents $z$ and data $x$. We want $\log p(x) = \log \int p(x, z)\, dz$, an integral
# over everything that could have been behind $x$. Bring in any distribution $q(z \mid x)$ that can
# be drawn from:
#
# $$
# \begin{aligned}
# \log p(x) &= \log \mathbb{E}_{q(z \mid x)}\left[ \frac{p(x, z)}{q(z \mid x)} \right]
#   && \text{multiply and divide by } q \\
# &\ge \mathbb{E}_{q(z \mid x)}\left[ \log \frac{p(x, z)}{q(z \mid x)} \right]
#   && \text{Jensen: the log of a mean is at least the mean of the logs} \\
# &=: \mathrm{ELBO}(x)
#   && \text{the \emph{evidence lower bound}.}
# \end{aligned}
# $$
#
# Jensen says *that* something is lost. What exactly? Write $p(x, z) = p(z \mid x)\, p(x)$ inside:
#
# $$ \log p(x) = \mathrm{ELBO}(x) + \mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)\big). $$
#
# The gap is how far the guide is from the true posterior. Raising the ELBO does two things at once:
# it makes the data more probable, and the guide more truthful. And with $p(x, z) = p(z)\, p(x \mid z)$
# the same number falls into two parts with opposite wishes:
#
# $$ \mathrm{ELBO}(x) =
#    \underbrace{\mathbb{E}_{q(z \mid x)}[\log p(x \mid z)]}_{\text{reconstruction: explain } x}
#    - \underbrace{\mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)}_{\text{stay near the prior}}. $$

# %% [markdown]
# ## A model whose answer is known
#
# A decoder that is *linear*, with Gaussian noise, is probabilistic PCA (Tipping and Bishop, 1999):
#
# $$ z \sim \mathcal{N}(0, I_5), \qquad x \mid z \sim \mathcal{N}(W z, \sigma^2 I_{64})
#    \quad\Longrightarrow\quad x \sim \mathcal{N}(0,\, W W^\top + \sigma^2 I). $$
#
# So $\log p(x)$ is one Gaussian density, no integral left. As a program with a linear encoder:

# %%
decoder = nn.Linear(K, D, bias=False)
encoder = nn.Linear(D, 2 * K)
nn.init.normal_(encoder.weight, std=0.01)
log_sigma = nn.Parameter(torch.tensor(1.0))


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(K), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), log_sigma.exp()).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


pair = pv.Pair(model, guide)

# %% [markdown]
# ## Six lines of Pyro
#
# Two programs, one bound. The guide is run and its trace kept. Then the model is run **again with the
# guide's values in place of its own draws**: that is `poutine.replay`. After that both traces talk
# about the same $z$, and the ELBO is a difference of two sums.


# %%
def my_elbo(x):
    guide_trace = poutine.trace(guide).get_trace(x)  # z ~ q(z|x)
    replayed = poutine.replay(model, trace=guide_trace)  # the model, with that z
    model_trace = poutine.trace(replayed).get_trace(x)
    return model_trace.log_prob_sum() - guide_trace.log_prob_sum()


seven = x_train[:7]
torch.manual_seed(0)
mine = my_elbo(seven) / 7
torch.manual_seed(0)  # the same dice
pyros = -Trace_ELBO().differentiable_loss(model, guide, seven) / 7
print(f"mine {mine:.4f}   Trace_ELBO {pyros:.4f}   nats per datum")
assert torch.isclose(mine, pyros, rtol=1e-5)

# %% [markdown]
# What replay does, in shapes: the box of $z$ is the same in both programs, `[7 | 5]`, and it is the
# *same tensor*. The guide fills it, the model reads it and scores it.

# %%
pv.plots.shapes(pv.sketch(pair, seven));

# %% [markdown]
# **Forget `replay`**, and the model draws a $z$ of its own. There is no error: every shape is right,
# and the number that comes out is a sum of log probabilities too, but of two unrelated stories. Let
# us first train, so that the guide has something to say, and then look at both.

# %%
pv.fit(pair, x_train, epochs=80, batch_size=64, lr=5e-3, progress=False)


def forgot_replay(x):
    guide_trace = poutine.trace(guide).get_trace(x)
    model_trace = poutine.trace(model).get_trace(x)  # another z
    return model_trace.log_prob_sum() - guide_trace.log_prob_sum()


with torch.no_grad():
    torch.manual_seed(0)
    right = torch.stack([my_elbo(x_test[:1]) for _ in range(500)])
    wrong = torch.stack([forgot_replay(x_test[:1]) for _ in range(500)])

_, ax = plt.subplots(figsize=(7, 3))
bins = torch.linspace(float(wrong.quantile(0.02)), float(right.max()), 60).numpy()
ax.hist(right, bins, color=pv.plots.BLUE, label=f"replayed: mean {right.mean():.0f}")
ax.hist(wrong, bins, color=pv.plots.ORANGE, alpha=0.8, label=f"forgotten: mean {wrong.mean():.0f}")
ax.set(xlabel="estimate of one digit's ELBO (nats)", ylabel="draws of 500")
ax.legend(loc="upper left")
assert right.mean() - wrong.mean() > 20

# %% [markdown]
# The forgotten one is tens of nats too low and spreads over a hundred. Training on it would teach the
# decoder to ignore $z$, since the $z$ it sees says nothing about $x$.
#
# ## The bound against the truth
#
# Now the exact $\log p(x)$, by the formula; by `pv.exact_log_evidence`, which finds out by itself that
# the pair is linear and Gaussian; and the ELBO by your six lines.


# %%
def exact(x):
    covariance = decoder.weight @ decoder.weight.T + (2 * log_sigma).exp() * torch.eye(D)
    return dist.MultivariateNormal(torch.zeros(D), covariance).log_prob(x)


with torch.no_grad():
    log_p = exact(x_test)
library = pv.exact_log_evidence(pair, x_test)
elbo = pv.elbo(pair, x_test, num_particles=200)
pca = PCA(K).fit(x_train.numpy())
print(f"exact log p(x), formula      {log_p.mean():9.3f}   nats per test digit")
print(f"exact log p(x), pyrovae      {library.mean():9.3f}")
print(f"ELBO                         {elbo.mean():9.3f}")
print(f"scikit-learn's PCA           {pca.score(x_test.numpy()):9.3f}   (its own, best weights)")
assert torch.allclose(log_p.double(), library.double(), atol=0.05)
assert (elbo <= log_p + 1.0).all() and elbo.mean() < log_p.mean()  # 200 draws per digit: noise
assert abs(log_p.mean() - pca.score(x_test.numpy())) < 3

# %% [markdown]
# `PCA.score` is the log likelihood of the *best* weights, in closed form. Training by the ELBO came
# within a few nats of it, with a guide, dice and Adam, and without ever computing $p(x)$.
#
# A log *density* may have any sign: pixels here are real numbers in units of ink, and in other units
# the same model would say another number. A positive one is no mistake either. Compare log densities
# of the same data in the same units, nothing else.

# %%
show = log_p.argsort()[:: len(log_p) // 12][:12]
_, ax = plt.subplots(figsize=(8, 3.4))
heights = (log_p - elbo)[show]
floor = float(elbo[show].min()) - 15
at = range(12)
ax.bar(at, elbo[show] - floor, bottom=floor, color=pv.plots.BLUE, label="ELBO")
ax.bar(at, heights, bottom=elbo[show], color=pv.plots.ORANGE, label="gap: KL(guide || posterior)")
ax.plot(at, log_p[show], "_", color=pv.plots.INK, ms=26, mew=2, label="log p(x)")
ax.set(xlabel="twelve test digits, from the least to the most probable", ylabel="nats", xticks=at)
ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
print(f"mean gap {(log_p - elbo).mean():.2f} nats")

# %% [markdown]
# ## Whose fault is the gap?
#
# The posterior of this model is Gaussian too, and known. Its precision is
# $\Lambda = I + W^\top W / \sigma^2$, the same for every $x$, its mean $\Lambda^{-1} W^\top x / \sigma^2$.
# Our guide has two handicaps. Its *family*: independent coordinates, while $\Lambda$ is not diagonal.
# The best it could do is the true mean with variances $1 / \Lambda_{jj}$, and that costs exactly
# $\tfrac{1}{2}\big(\sum_j \log \Lambda_{jj} - \log |\Lambda|\big)$. All else is *imperfect
# optimisation* of a guide that must answer for every $x$ with the same weights, the
# *amortisation* gap.

# %%
with torch.no_grad():
    precision = torch.eye(K) + decoder.weight.T @ decoder.weight / (2 * log_sigma).exp()
    family = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
gap = pv.gap(pair, x_test[:100])
print(f"the family's share, by the formula: {family:.3f} nats")
print(f"pv.gap: approximation {gap.approximation.mean():.3f}, amortisation {gap.amortisation.mean():.3f}")
assert abs(gap.approximation.mean() - family) < 0.1
few = slice(0, 8)
pv.plots.gap_bars(
    gap.elbo[few], gap.log_evidence[few], gap.approximation[few], gap.amortisation[few]
);

# %% [markdown]
# `pv.gap` finds both shares of *any* pair, by refining $q$ for each datum on its own. Here it agrees
# with the formula. Almost nothing is lost to the family: what is lost is lost by the encoder. (Notebook
# 9 changes the family.)
#
# ## The KL of two diagonal Gaussians
#
# The term that keeps $q$ near the prior has a closed form. For one coordinate, with
# $q = \mathcal{N}(m, s^2)$ and $p = \mathcal{N}(0, 1)$,
#
# $$
# \begin{aligned}
# \mathrm{KL}(q \,\|\, p) &= \mathbb{E}_q[\log q(z) - \log p(z)]
#   = \mathbb{E}_q\left[ -\log s - \tfrac{(z-m)^2}{2 s^2} + \tfrac{z^2}{2} \right] \\
# &= -\log s - \tfrac{1}{2} + \tfrac{1}{2}(m^2 + s^2)
#   = \tfrac{1}{2}\left( m^2 + s^2 - 1 - \log s^2 \right),
# \end{aligned}
# $$
#
# since $\mathbb{E}_q[(z - m)^2] = s^2$ and $\mathbb{E}_q[z^2] = m^2 + s^2$. Coordinates add up. Three
# ways to the same number:

# %%
m, s = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.3, 1.0, 2.0])
q, p = dist.Normal(m, s), dist.Normal(torch.zeros(3), 1.0)
closed = 0.5 * (m**2 + s**2 - 1 - (s**2).log())
z = q.sample((100_000,))
sampled = q.log_prob(z) - p.log_prob(z)
error = sampled.std(0) / math.sqrt(len(z))
print("closed form  ", closed.numpy().round(4))
print("torch        ", torch.distributions.kl_divergence(q, p).numpy().round(4))
print("Monte Carlo  ", sampled.mean(0).numpy().round(4), "+-", error.numpy().round(4))
assert torch.allclose(closed, torch.distributions.kl_divergence(q, p), atol=1e-6)
assert ((sampled.mean(0) - closed).abs() < 5 * error + 1e-6).all()

# %%
loc, scale = torch.meshgrid(
    torch.linspace(-2.5, 2.5, 200), torch.linspace(0.08, 2.5, 200), indexing="ij"
)
kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log())
_, ax = plt.subplots(figsize=(5.5, 3.6))
levels = [0.05, 0.25, 0.5, 1, 2, 3, 4]
heat = ax.pcolormesh(loc, scale, kl, cmap="viridis", vmax=4, shading="auto")
ax.clabel(ax.contour(loc, scale, kl, levels, colors="white", linewidths=0.8), fontsize=8)
ax.plot(0, 1, "o", color=pv.plots.ORANGE)
ax.set(xlabel="$m$", ylabel="$s$", title="zero where q is the prior, $m=0$, $s=1$")
ax.figure.colorbar(heat, ax=ax, label="KL (nats)");

# %% [markdown]
# A narrow $q$ is expensive even when it is centred: $-\log s$ is what it costs to say *exactly* where.
# That is why the KL counts information, in nats.
#
# ## The loss used in practice
#
# $$ \text{loss} = \frac{1}{N} \sum_{n=1}^{N} \Big( -\sum_{i=1}^{D} \log p(x_{ni} \mid z_n)
#    + \sum_{j=1}^{K} \mathrm{KL}_{nj} \Big), \qquad z_n \sim q(z \mid x_n). $$
#
# Three things go wrong when it is typed by hand. The **sign**: the ELBO is maximised, optimisers
# minimise. The **sums**: a *sum* over pixels and over units, and only then a mean over data. Taking
# means over pixels and units instead divides the two terms by different numbers, $D$ and $K$, and
# weighs the KL by $D / K$ (notebook 5 shows the result). And the **constants** of the likelihood: a
# squared error is a Gaussian log density only with its $\sigma$ (notebook 8).

# %%
with torch.no_grad():
    q_loc, q_raw = encoder(x_test).chunk(2, -1)
    torch.manual_seed(0)
    z = q_loc + q_raw.exp() * torch.randn_like(q_loc)
    square = ((x_test - decoder(z)) ** 2).sum(1) / (2 * (2 * log_sigma).exp())
    constant = D * (log_sigma + 0.5 * math.log(2 * math.pi))
    divergence = 0.5 * (q_loc**2 + (2 * q_raw).exp() - 1 - 2 * q_raw).sum(1)
by_hand = (square + constant + divergence).mean()
found = pv.evaluate(pair, x_test, 100)
print(f"loss by hand {by_hand:.2f}, minus the ELBO of pv.evaluate {-found.elbo.mean():.2f} nats per datum")
print(f"reconstruction {found.reconstruction.mean():.2f}, KL {found.kl.mean():.2f}")
assert abs(by_hand + found.elbo.mean()) < 0.5

# %% [markdown]
# ## Exercise
#
# A guide answers $q(z \mid x) = \mathcal{N}(m, s^2)$ in two independent coordinates with
# $m = (1, -2)$ and $s = (0.5, 0.1)$. The prior is $\mathcal{N}(0, I)$.
#
# **Predict**: which coordinate costs more, and is it because of its mean or its width? **Then code**
# the KL in nats, and replace the dots.

# %%
answer = ...  # nats


def check(answer, tolerance=1e-3):
    if answer is ...:
        return "Predict, then replace the dots."
    q = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])).to_event(1)
    prior = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    truth = torch.distributions.kl_divergence(q, prior).item()
    if abs(float(answer) - truth) <= tolerance:
        return "Right: the second, by its mean and its width alike."
    return "Not yet. Hint: half of m^2 + s^2 - 1 - log s^2, summed over the two coordinates."


print(check(answer))

# %% jupyter={"source_hidden": true} tags=["solution"]
m, s = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])
each = 0.5 * (m**2 + s**2 - 1 - (s**2).log())
solution = each.sum().item()
print("per coordinate", each.numpy().round(3), " together", round(solution, 3), "nats")
print(check(solution))
assert check(solution).startswith("Right") and check(each.mean().item()).startswith("Not yet")
