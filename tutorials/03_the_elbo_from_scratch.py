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
# form. What is missing has a name, and it can be taken apart. Then you watch both parts while a VAE
# learns, and see that only their sum has to rise.
#
# Before: [2. Look the posterior in the eye](02_look_the_posterior_in_the_eye.ipynb). Next:
# [4. Gradients through dice](04_gradients_through_dice.ipynb).

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
BLUE, ORANGE, GREEN, GREY = pv.plots.BLUE, pv.plots.ORANGE, pv.plots.GREEN, pv.plots.GREY

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
# $$ \mathrm{ELBO}(x) = \log p(x) - \mathrm{KL}\big(q(z \mid x) \,\|\, p(z \mid x)\big). $$
#
# The gap is the KL of notebook 2, from the guide to the true posterior. So the ELBO is one number
# made of two: how probable the data are, minus how wrong the guide is about them. To raise it is to
# raise the *difference*. It is often said that the data become more probable *and* the guide more
# truthful. Either may get worse meanwhile, if the other gains more; below you will see both.
#
# With $p(x, z) = p(z)\, p(x \mid z)$ the same number falls into two other parts, of opposite wishes:
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

# %% alt="Boxes of shapes. The model has z of 7 data by 5 and x of 7 data by 64, the guide has z of 7 data by 5, the same box."
pv.plots.shapes(pv.sketch(pair, seven)).set_title("one z in two programs", size=10);

# %% [markdown]
# **Forget `replay`**, and the model draws a $z$ of its own. There is no error: every shape is right,
# and the number that comes out is a sum of log probabilities too, but of two unrelated stories. Let
# us first train, so that the guide has something to say, and then look at both.

# %% alt="Two histograms of 500 estimates. Replayed ones stand in a narrow peak near -171 nats, forgotten ones spread from -300 to -180."
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
ax.hist(right, bins, color=BLUE, label=f"replayed: mean {right.mean():.0f}")
ax.hist(wrong, bins, color=GREY, alpha=0.8, label=f"forgotten: mean {wrong.mean():.0f}")
ax.set(xlabel="estimate of one digit's ELBO (nats)", ylabel="estimates (of 500)")
ax.set_title("the same two programs, with and without replay")
ax.legend(loc="upper left")
assert 20 < right.mean() - wrong.mean() < 100, "tens of nats"
assert wrong.max() - wrong.min() > 100, "over a hundred"

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
# of the same data in the same units, nothing else. (Bits per dimension, notebook 1, are for discrete
# data, where no unit can be changed.)

# %% alt="Ninety bars hang down from a line at zero, log p(x). Each is one digit's gap; most are shorter than 2 nats, a few reach 3."
order = log_p.argsort()[::4]
gaps = (log_p - elbo)[order]
_, ax = plt.subplots(figsize=(8, 3.2))
ax.bar(range(len(order)), -gaps, 0.8, color=ORANGE, label="gap: KL(guide || posterior)")
ax.axhline(0, color=BLUE, lw=2, label="log p(x)")
ax.axhline(-gaps.mean(), color=pv.plots.INK, lw=1, ls="--", label=f"mean, {gaps.mean():.1f} nats")
places = range(0, len(order), 15)
ax.set_xticks(places, [f"{log_p[order][k]:.0f}" for k in places])
ax.set(xlabel="log p(x) of the digit (nats)", ylabel="ELBO minus log p(x) (nats)")
ax.set_title("how far below log p(x) the ELBO of 90 test digits hangs")
ax.legend(loc="lower right")
print(f"mean gap {(log_p - elbo).mean():.2f} nats")

# %% [markdown]
# ## The sum rises, either part may worsen
#
# First the VAE of notebook 2, with two latent dimensions, so that the exact $\log p(x)$ is a sum over
# a grid. We look at it while it trains: on 300 digits that it learns from, and on 300 others. Then
# the linear model from here, from an unusual start: the *best* decoder there is, and a guide that
# knows nothing.

# %%
mnist = pv.data.load("mnist5k")
train, test = (split.binarised("threshold") for split in (mnist.train, mnist.test))
torch.manual_seed(0)
vae = pv.VAE(event_shape=(1, 28, 28), latent_dim=2)
grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 121)] * 2)


@torch.no_grad()
def evidence(x):
    """log p(x) by a sum over a grid in steps of 0.1, as in notebook 2."""
    joint = []
    for z in grid.split(2048):
        logits = vae.likelihood(z).base_dist.logits.flatten(1)
        pixels = x.flatten(1) @ logits.T - F.softplus(logits).sum(1)
        joint.append(pixels + vae.prior().log_prob(z))
    return torch.cat(joint, 1).logsumexp(1) + 2 * math.log(0.1)


looks = {"training": [], "test": []}


def look(history=None):
    epoch = len(history.rows) if history else 0
    if epoch in (0, 1, 2, 3, 5, 10, 20, 30):
        for name, split in (("training", train), ("test", test)):
            bound = pv.elbo(vae, split.x[:300], num_particles=50)
            looks[name].append([epoch, evidence(split.x[:300]).mean(), bound.mean()])


look()
pv.fit(vae, train, epochs=30, seed=0, progress=False, callbacks=[look])
looks = {name: torch.tensor(rows) for name, rows in looks.items()}
print(f"{'':10}{'epoch':>6}{'ELBO':>10}{'log p(x)':>10}{'gap':>7}   nats per digit")
for name, rows in looks.items():
    for epoch, exact_, bound in rows.tolist():
        print(f"{name:10}{epoch:6.0f}{bound:10.1f}{exact_:10.1f}{exact_ - bound:7.2f}")

# %% [markdown]
# Now the other way round. scikit-learn gives the best decoder in closed form; the encoder starts
# anew.

# %%
noise = float(pca.noise_variance_)
best = torch.tensor(pca.components_.T * (pca.explained_variance_ - noise) ** 0.5)
weights = [*decoder.parameters(), *encoder.parameters(), log_sigma]
learned = [weight.detach().clone() for weight in weights]
with torch.no_grad():
    decoder.weight.copy_(best), log_sigma.fill_(0.5 * math.log(noise))
    torch.manual_seed(1)
    nn.init.normal_(encoder.weight, std=0.01), nn.init.zeros_(encoder.bias)
    from_best = [[0, exact(x_train).mean(), pv.elbo(pair, x_train, num_particles=20).mean()]]


def look_again(history):
    with torch.no_grad():
        bound = pv.elbo(pair, x_train, num_particles=20).mean()
        from_best.append([len(history.rows), exact(x_train).mean(), bound])


pv.fit(pair, x_train, epochs=25, batch_size=64, lr=5e-3, progress=False, callbacks=[look_again])
from_best = torch.tensor(from_best)
low = from_best[:, 1].argmin()
for epoch in sorted({0, 1, int(low), 25}):
    _, exact_, bound = from_best[epoch].tolist()
    print(f"from the best decoder, epoch {epoch:2}: ELBO {bound:8.1f}, log p(x) {exact_:7.1f}")
with torch.no_grad():
    [weight.copy_(value) for weight, value in zip(weights, learned, strict=True)]  # back again

# %% alt="Three panels. Left: log p(x) and ELBO of training digits both rise over 30 epochs. Middle: the gap of training and of test digits goes up and down, and ends high for test digits. Right: from the best decoder the ELBO rises while log p(x) first falls."
_, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.2))
epoch, exact_, bound = looks["training"].T
left.plot(epoch, exact_, color=BLUE, marker="o", ms=4, label="log p(x)")
left.plot(epoch, bound, color=ORANGE, marker="o", ms=4, label="ELBO")
left.set(title="z in the plane, training", ylabel="nats per digit", xlabel="epoch", ylim=(-240, -150))
left.legend()
for (name, rows), style in zip(looks.items(), ("o-", "s--"), strict=True):
    middle.plot(rows[:, 0], rows[:, 1] - rows[:, 2], style, color=ORANGE, ms=4, label=name)
middle.set(title="its gap", ylabel="log p(x) - ELBO (nats)", xlabel="epoch", ylim=(0, None))
middle.legend()
right.plot(from_best[:, 0], from_best[:, 1], color=BLUE, label="log p(x)")
right.plot(from_best[:, 0], from_best[:, 2], color=ORANGE, label="ELBO")
right.set(title="linear, from the best decoder", ylabel="nats per digit", xlabel="epoch")
right.set_ylim(float(from_best[:, 1].min()) - 12, float(from_best[0, 1]) + 3)
right.legend()

gap_of = {name: rows[:, 1] - rows[:, 2] for name, rows in looks.items()}
assert (looks["training"][:, 2].diff() > 0).all()  # the sum rises at every look
assert gap_of["training"][1] > gap_of["training"][0] + 2  # the guide got worse meanwhile
assert gap_of["test"][-1] > gap_of["test"].min() + 4  # and worse again on digits not seen
assert from_best[-1, 2] > from_best[0, 2] + 20  # the sum rises
assert from_best[low, 1] < from_best[0, 1] - 1  # the data became less probable meanwhile
last = {name: rows[-1, 1] for name, rows in looks.items()}
print(f"from training to test digits, log p(x) falls by {last['training'] - last['test']:.1f} nats,", end=" ")
print(f"and the gap grows by {gap_of['test'][-1] - gap_of['training'][-1]:.1f}")
assert gap_of["test"][-1] - gap_of["training"][-1] > 3

# %% [markdown]
# **Left and middle.** At every look the training ELBO is higher than before. But in the first epoch
# the guide becomes *less* truthful: an untrained decoder ignores $z$, so the posterior is the prior
# and easy to guess; once the decoder says something, there is something to be wrong about. Later the
# gap on training digits closes, while the one on test digits opens again. Most of what the ELBO loses
# on digits that were not seen, the **encoder** loses: a test ELBO mixes how good the model is with
# how well its guide reads new digits.
#
# **Right.** Here no decoder can make the data more probable than the first one. The ELBO rises all
# the same, and the data become *less* probable on the way: the decoder goes to meet a guide that
# cannot follow it yet.

# %% [markdown]
# ## Whose fault is the gap?
#
# The posterior of this model is Gaussian too, and known. Its precision is
# $\Lambda = I + W^\top W / \sigma^2$, the same for every $x$, its mean $\Lambda^{-1} W^\top x / \sigma^2$.
# Our guide has two handicaps.
#
# - Its *family*: independent coordinates, while $\Lambda$ need not be diagonal. The best it could do is
#   the true mean with variances $1 / \Lambda_{jj}$, and that costs exactly
#   $\tfrac{1}{2}\big(\sum_j \log \Lambda_{jj} - \log |\Lambda|\big)$: the **approximation gap**.
# - Its *encoder*: one set of weights must answer for every $x$. What is lost against the best member
#   of the family, chosen for each datum on its own, is the **amortisation gap**.

# %% alt="Horizontal bars of eight digits, from their ELBO to log p(x). Nearly all of each bar is amortisation gap, a sliver is approximation gap."
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
# ## More draws, a tighter bound: IWAE
#
# Jensen was applied to one weight $w = p(x, z) / q(z \mid x)$. Apply it to the mean of $K$ of them
# (Burda et al., 2015):
#
# $$ \mathcal{L}_K = \mathbb{E}_{z_1 \ldots z_K \sim q}\Big[ \log \frac{1}{K} \sum_{k=1}^{K}
#    \frac{p(x, z_k)}{q(z_k \mid x)} \Big] \;\le\; \log p(x). $$
#
# $\mathcal{L}_1$ is the ELBO. The mean of more weights varies less, so less is lost, and the bound
# rises with $K$. This is also what importance sampling estimates (notebook 2): **its answer is too low
# on average, and by how much depends on $K$.** How much exactly? The logarithm of a mean that is off
# by a little: for large $K$
#
# $$ \log p(x) - \mathcal{L}_K \;\approx\; \frac{1}{2K} \operatorname{Var}\Big[\frac{w}{p(x)}\Big]. $$
#
# Twice the draws, half the bias, if that variance is finite. It need not be. Where the guide is much
# *narrower* than the posterior, rare draws have huge weights. So we compare two guides: the trained
# one, whose widths vary with $x$, and one with the same means and all widths the posterior's times
# 1.5. For the second everything can be computed: the exact $\log p(x)$, and the variance too, since
# guide and posterior are Gaussian.

# %% alt="On two logarithmic axes the bias falls with K. The trained guide begins lower, near 1 nat, and falls slowly; the wider one begins near 2 and falls along a dashed line of slope -1."
some = x_test[:100]
counts = [2**k for k in range(11)]
with torch.no_grad():
    q_loc, q_raw = encoder(some).chunk(2, -1)
    right_width = precision.diagonal().rsqrt()
    centre = torch.linalg.solve(precision, decoder.weight.T @ some.T / (2 * log_sigma).exp()).T


@torch.no_grad()
def too_low(width):
    """log p(x) - L_K of a guide with the encoder's means: its mean, and that mean's error, by K."""
    q = dist.Normal(q_loc, width.expand_as(q_loc)).to_event(1)
    weights = []
    for _ in range(16):
        z = q.sample((512,))
        pixels = dist.Normal(decoder(z), log_sigma.exp()).log_prob(some).sum(-1)
        prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        weights.append(prior + pixels - q.log_prob(z) - exact(some))
    weights = torch.cat(weights).double()  # log w - log p(x), [8192, 100]
    bounds = [weights.reshape(-1, k, 100).logsumexp(1).mean(1) - math.log(k) for k in counts]
    errors = [bound.std() / math.sqrt(len(bound)) for bound in bounds]
    return -torch.stack([bound.mean() for bound in bounds]), torch.stack(errors)


def variance(width):
    """Var[w / p(x)] per digit: the integral of posterior^2 / q, minus 1, in closed form."""
    sharp = torch.diag(width**-2)
    both = 2 * precision - sharp
    assert torch.linalg.eigvalsh(both).min() > 0  # or else it is infinite
    pull = 2 * centre @ precision - q_loc @ sharp
    log_integral = (
        torch.logdet(precision) - 0.5 * torch.logdet(sharp) - 0.5 * torch.logdet(both)
        - (centre @ precision * centre).sum(1) + 0.5 * (q_loc @ sharp * q_loc).sum(1)
        + 0.5 * (pull * torch.linalg.solve(both, pull.T).T).sum(1)
    )
    return log_integral.exp() - 1


trained, trained_error = too_low(q_raw.exp())
wider, wider_error = too_low(1.5 * right_width)
predicted = float(variance(1.5 * right_width).mean()) / 2 / torch.tensor(counts)
print(f"the trained guide's widths are {(q_raw.exp() / right_width).min():.1f} to ", end="")
print(f"{(q_raw.exp() / right_width).max():.1f} times the posterior's")
print(f"{'':10}{'trained guide':>22}{'wider guide':>22}{'variance / 2K':>16}   nats too low")
for k in (0, 2, 4, 6, 8, 10):
    print(f"K = {counts[k]:5} {trained[k]:12.4f} ± {trained_error[k]:.4f}", end="")
    print(f"{wider[k]:13.4f} ± {wider_error[k]:.4f}{predicted[k]:16.4f}")

_, ax = plt.subplots(figsize=(6.5, 3.4))
style = {"marker": "o", "ms": 4, "capsize": 3}
ax.errorbar(counts, trained, 2 * trained_error, color=ORANGE, label="trained guide", **style)
ax.errorbar(counts[:9], wider[:9], 2 * wider_error[:9], color=GREEN, label="wider guide", **style)
ax.plot(counts, predicted, "--", color=pv.plots.INK, label="Var / 2K of the wider")
ax.set(xscale="log", yscale="log", xlabel="K, draws per digit", ylabel="too low by (nats per digit)")
ax.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1,000"])
ax.set_title("the bias of the IWAE bound")
ax.legend();

# %%
iwae = torch.tensor([pv.objectives.IWAE(8).loss(model, guide, some) for _ in range(50)]) / 100
mine = exact(some).mean().item() - float(trained[3])
error = float((iwae.var() / 50 + trained_error[3] ** 2).sqrt())
print(f"L_8 by pv.objectives.IWAE: {-iwae.mean():.3f}, by hand {mine:.3f} ± {error:.3f} nats")
assert abs(-iwae.mean() - mine) < 5 * error
assert (trained.diff() < 0).all() and (wider[:8].diff() < 0).all()  # the bound rises with K
for k in (4, 5, 6):
    assert abs(wider[k] / wider[k - 1] - 0.5) < 0.1, "twice the draws, half the bias"
    assert abs(wider[k] - predicted[k]) < 4 * wider_error[k] + 0.05 * predicted[k]
assert trained[0] < wider[0] and trained[6] > 3 * wider[6]
assert trained[6] / trained[5] > 0.65  # with it, twice the draws is not half the bias

# %% [markdown]
# One draw each, and the trained guide is the better one. With many draws it is far behind: where it is
# too narrow its weights have no finite variance, and the bias melts slowly. **An ELBO judges a guide by
# its bulk, importance sampling by its tails.** k-hat (notebook 2) is the thermometer of those tails.
#
# The bound can be trained on too (`pv.objectives.IWAE`). Two things to know. It is a bound *on
# average*: a single estimate may lie above $\log p(x)$. And the tighter it is, the less the guide
# learns from it (Rainforth et al., 2018): with many draws a poor guide is good enough.
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

# %% alt="A map of the KL over m and s: zero at m = 0, s = 1, growing to all sides, fastest towards s = 0."
loc, scale = torch.meshgrid(
    torch.linspace(-2.5, 2.5, 200), torch.linspace(0.08, 2.5, 200), indexing="ij"
)
kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log())
_, ax = plt.subplots(figsize=(5.5, 3.6))
levels = [0.05, 0.25, 0.5, 1, 2, 3, 4]
heat = ax.pcolormesh(loc, scale, kl, cmap="viridis", vmax=4, shading="auto")
ax.clabel(ax.contour(loc, scale, kl, levels, colors="white", linewidths=0.8), fontsize=8)
ax.plot(0, 1, "o", color=pv.plots.ORANGE)
ax.set(xlabel="$m$", ylabel="$s$", title="KL(N(m, s²) || N(0, 1))")
ax.figure.colorbar(heat, ax=ax, label="KL (nats)");

# %% [markdown]
# A narrow $q$ is expensive even when it is centred: $-\log s$ is what it costs to say *exactly* where.
# That is why this KL is called a rate, in nats: averaged over the data it is an upper bound on what
# the codes tell of the data (notebook 7).
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
# **1.** A guide answers $q(z \mid x) = \mathcal{N}(m, s^2)$ in two independent coordinates with
# $m = (1, -2)$ and $s = (0.5, 0.1)$. The prior is $\mathcal{N}(0, I)$. Which coordinate costs more,
# and is it because of its mean or its width? What is the KL, to two decimals?

# %% tags=["exercise"]
answer_1 = ...  # nats


def check_1(answer):
    q = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])).to_event(1)
    prior = dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1)
    truth = torch.distributions.kl_divergence(q, prior)
    hint = "half of m^2 + s^2 - 1 - log s^2, summed over the two coordinates."
    return verdict(answer, truth, 0.006, "the second, by its mean and its width alike.", hint)


print(check_1(answer_1))

# %% jupyter={"source_hidden": true} tags=["solution"]
m, s = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.1])
each = 0.5 * (m**2 + s**2 - 1 - (s**2).log())
solution_1 = each.sum().item()
print("per coordinate", each.numpy().round(3), " together", round(solution_1, 3), "nats")
print(check_1(solution_1))
assert check_1(solution_1).startswith("Right") and check_1(each.mean()).startswith("Not yet")

# %% [markdown]
# **2.** Below are the log weights of 3 data with 10 draws each. Estimate the IWAE bound with all ten
# draws, for every datum. (These are ordinary numbers for a picture: `exp` of them is 0 in 32 bits.)

# %% tags=["exercise"]
some_log_weights = 4 * torch.randn(10, 3, generator=torch.Generator().manual_seed(3)) - 300

answer_2 = ...  # nats, [3]


def check_2(answer):
    truth = some_log_weights.double().exp().mean(0).log()
    right = "the log of the mean weight, above the mean of the logs, datum by datum."
    hint = "logsumexp over the draws, minus log 10. One number for each datum."
    return verdict(answer, truth, 0.01, right, hint)


print(check_2(answer_2))

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_2 = some_log_weights.logsumexp(0) - math.log(10)
print("IWAE bound", solution_2.numpy().round(2), " ELBO", some_log_weights.mean(0).numpy().round(2))
print(check_2(solution_2))
assert check_2(solution_2).startswith("Right")
assert check_2(some_log_weights.mean(0)).startswith("Not yet")  # the ELBO
assert check_2(some_log_weights.logsumexp(0)).startswith("Not yet")  # log 10 forgotten
assert some_log_weights.exp().max() == 0

# %% [markdown]
# **3.** A posterior is Gaussian with precision $\Lambda = \begin{pmatrix} 2 & r \\ r & 2 \end{pmatrix}$.
# Which gap remains for the best guide with independent coordinates, at $r = 0$, $1$ and $1.9$?

# %% tags=["exercise"]
answer_3 = ...  # nats, [3]


def check_3(answer):
    truth = []
    for r in (0.0, 1.0, 1.9):
        posterior = dist.MultivariateNormal(
            torch.zeros(2), precision_matrix=torch.tensor([[2.0, r], [r, 2.0]])
        )
        best = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) / 2)
        truth.append(torch.distributions.kl_divergence(best, posterior))
    right = "nothing without correlation, and without limit as it becomes perfect."
    hint = "the formula for the family's share stands above; the determinant is 4 - r^2."
    return verdict(answer, torch.stack(truth), 0.006, right, hint)


print(check_3(answer_3))

# %% jupyter={"source_hidden": true} tags=["solution"]
r = torch.tensor([0.0, 1.0, 1.9])
solution_3 = 0.5 * (2 * math.log(2) - (4 - r**2).log())
print(solution_3.numpy().round(3), check_3(solution_3))
assert check_3(solution_3).startswith("Right") and check_3(2 * solution_3).startswith("Not yet")
