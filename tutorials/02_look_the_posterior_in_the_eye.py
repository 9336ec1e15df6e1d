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
# # 2. Look the posterior in the eye
#
# **Why does a VAE answer with a distribution instead of one code, and why is that distribution
# called intractable?**
#
# We train a VAE whose latent $z$ has only two dimensions. In two dimensions nothing has to be
# guessed: we can evaluate the posterior $p(z\mid x)$ on a grid and draw it as a map. On this map we
# lay the ellipse that the encoder gives, say how far apart the two are, and which way round that is
# measured. Then we compute $\log p(x)$ without a grid, in three ways, and see when each of them fails.
#
# Before: [1. Write the story](01_write_the_story.ipynb).
# Next: [3. The ELBO from scratch](03_the_elbo_from_scratch.ipynb).

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
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Ellipse
from scipy import ndimage

import pyrovae as pv
from pyrovae import explorer

torch.set_num_threads(1)
torch.manual_seed(0)
plt.rcParams.update(pv.plots.STYLE)
BLUE, ORANGE, GREEN, GREY = pv.plots.BLUE, pv.plots.ORANGE, pv.plots.GREEN, pv.plots.GREY

# %% [markdown]
# ## The model and its guide
#
# The **model** tells how a digit comes about: draw a code $z \sim N(0, I)$ in the plane, turn it
# into 784 probabilities with a network (the *decoder*), flip 784 coins. That gives $p(z)$ and
# $p(x\mid z)$.
#
# The **guide** goes the other way. A second network (the *encoder*) looks at $x$ and answers with a
# Gaussian over codes, $q(z\mid x)$: a mean and a standard deviation per dimension.
#
# `pv.VAE` writes both programs. The data are 5,000 real digits for training and 1,000 for testing,
# each of the 784 pixels black or white.

# %%
digits = pv.data.load("mnist5k")
train, test = digits.train.binarised("threshold"), digits.test.binarised("threshold")

vae = pv.VAE(event_shape=(1, 28, 28), latent_dim=2)
history = pv.fit(vae, train, epochs=30, seed=0, progress=False)
last = history.rows[-1]
print(f"after 30 epochs: ELBO {last['elbo']:.1f} nats per digit (what an ELBO is: notebook 3)")
assert len(train.x) == 5000 and len(test.x) == 1000 and test.x[0].numel() == 784

# %% [markdown]
# ## Where the guide puts the test digits
#
# Each dot is the mean of $q(z\mid x)$ for one test digit. The orange ellipses show the whole of
# $q(z\mid x)$ for forty of them: two standard deviations wide. Nobody told the model what a 3 is; it
# puts digits that look alike next to each other.

# %% alt="A map of 1,000 codes coloured by digit, with rings at 1, 2 and 3 standard deviations of the prior, and forty small orange ellipses. Digits of one class lie together."
x = test.x
codes = pv.encode(vae, test)
with torch.no_grad():
    q = vae.posterior(x).base_dist  # two independent Normals per digit
    loc, scale = q.loc, q.scale

ax = pv.plots.latent_map(codes, test.labels)
for centre, sd in zip(loc[:40], scale[:40], strict=True):
    ax.add_patch(Ellipse(centre.tolist(), *(4 * sd).tolist(), fill=False, ec=ORANGE, lw=1.3))
ax.set_title("means of q(z|x), ellipses of 2 sd for 40 digits");

# %% [markdown]
# Move it yourself. The next cell writes one file that holds both networks and runs them in the browser,
# without a server, on a phone too: drag the cross over the map and watch $p(x\mid z)$, draw a digit of
# your own and see where $q(z\mid x)$ puts it.

# %%
page = explorer.export(explorer.View(vae, test), "posterior.html")
explorer.Page(page)

# %% [markdown]
# ## Why a region and not a point
#
# A plain autoencoder gives each digit one code. But ask the model which codes could have produced
# this digit, and the answer is rarely one point: a small step in $z$ changes a few pixels a little,
# and the digit remains about as probable. Bayes' rule says how plausible each code is:
#
# $$p(z\mid x) = \frac{p(x\mid z)\,p(z)}{p(x)}, \qquad p(x) = \int p(x\mid z)\,p(z)\,dz .$$
#
# The numerator is easy: one pass through the decoder. The denominator $p(x)$ is the **marginal**, or
# the **evidence** of the datum. It adds up *every* code, each weighted by how well it explains $x$.
# The network sits inside the integral, so there is no formula for it. This is what "intractable"
# means.
#
# It does not mean impossible. Here is the numerator, in logarithms. The Bernoulli likelihood of all
# pixels at all codes is one matrix product, because
# $\log p(x\mid z)=\sum_d x_d\,t_d(z)-\log(1+e^{t_d(z)})$ with $t(z)$ the logits of the decoder.


# %%
@torch.no_grad()
def log_likelihood(x, z):
    """log p(x|z) in nats, one row per digit and one column per code."""
    logits = vae.likelihood(z).base_dist.logits.flatten(1)
    return x.flatten(1) @ logits.T - F.softplus(logits).sum(1)


by_library = vae.likelihood(codes[:1]).log_prob(x[:1]).item()
by_formula = log_likelihood(x[:1], codes[:1]).item()
print(f"log p(x|z) of one digit at its code: {by_library:.3f} and {by_formula:.3f} nats")
assert abs(by_library - by_formula) < 0.01

# %% [markdown]
# ## The integral as a sum over a grid
#
# In the plane we lay a grid from $-6$ to $6$ in steps of $0.05$ and add up:
#
# $$p(x) \approx \sum_{z \in \text{grid}} p(x\mid z)\,p(z)\;0.05^2 .$$
#
# This is called *quadrature*. It takes 58,081 passes through the decoder, shared by all digits. We do
# it in logarithms (`logsumexp`), since $p(x)$ itself is about $e^{-158}$.

# %%
axis = torch.linspace(-6, 6, 241)
step = 12 / 240
grid = torch.cartesian_prod(axis, axis)
log_prior = vae.prior().log_prob(grid)


def joint_on_grid(x):
    """log p(x, z) for digits (rows) and grid points (columns)."""
    return torch.cat([log_likelihood(x, part) for part in grid.split(4096)], 1).add_(log_prior)


log_joint = joint_on_grid(x)
log_p = log_joint.logsumexp(1) + 2 * math.log(step)
oracle = pv.exact_log_evidence(vae, x[:6], points=80).float()
print("sum over our grid    ", log_p[:6].numpy().round(2))
print("pv.exact_log_evidence", oracle.numpy().round(2))
assert torch.allclose(log_p[:6], oracle, atol=0.05)
assert len(grid) == 58_081

# %% [markdown]
# `pv.exact_log_evidence` does the same with a grid that it narrows around each digit's own posterior.
#
# ## How far apart are two distributions?
#
# With $p(x)$ known, Bayes' rule gives the whole posterior, and we can ask how far the guide is from it.
# The measure is the **Kullback-Leibler divergence**: draw $z$ from the first, and see by how much the
# first finds its own draws more probable than the second does, on average and in logarithms:
#
# $$ \mathrm{KL}(q\,\|\,p) = \mathbb{E}_{z\sim q}\big[\log q(z) - \log p(z)\big] . $$
#
# It is in nats. It is 0 if the two are the same, and above 0 otherwise. It is not symmetric: who draws
# and who judges makes a difference, as we will see.
#
# For each test digit we ask three things:
#
# - **gap**: $\mathrm{KL}(q(z\mid x)\,\|\,p(z\mid x))$, by adding up over the grid. Notebook 3 shows that
#   it equals $\log p(x)-\text{ELBO}$, and the cell checks that it does.
# - **inside**: how much of the true posterior lies in the ellipse that holds 99 % of the guide.
# - **regions**: into how many separate islands the posterior falls (above 2 % of its peak, and
#   holding at least a tenth of the probability).

# %%
log_posterior = log_joint - log_joint.logsumexp(1, keepdim=True)
posterior = log_posterior.exp()  # probability per grid cell: each row sums to 1
gap = log_p - pv.elbo(vae, x, num_particles=200)


def log_normal(z, m, s):
    """log N(z; m, s^2) in the plane, rows m and columns z."""
    away = (z - m[..., None, :]) / s[..., None, :]
    return (-0.5 * away**2 - s.log()[..., None, :]).sum(-1) - math.log(2 * math.pi)


def kl(log_a, log_b):
    """KL(a || b) of densities on the grid, per row."""
    return (log_a.exp() * (log_a - log_b)).sum(-1) * step**2


log_density = log_posterior - 2 * math.log(step)
by_grid = torch.cat([
    kl(log_normal(grid, loc[k : k + 20], scale[k : k + 20]), log_density[k : k + 20])
    for k in range(0, 300, 20)
])
print(f"KL(guide || posterior) of 300 digits: on the grid {by_grid.mean():.2f}, ", end="")
print(f"log p(x) - ELBO {gap[:300].mean():.2f} nats")
assert abs(by_grid.mean() - gap[:300].mean()) < 0.1
assert by_grid.min() > -0.001

inside = torch.zeros(len(x))
second = torch.zeros(len(x))  # the probability of the second largest region
for i in range(len(x)):
    away = ((grid - loc[i]) / scale[i]).square().sum(1)
    inside[i] = posterior[i][away < 9.21].sum()  # 9.21: the 99 % point of a chi-square with 2 df
    cells = posterior[i].reshape(241, 241).numpy()
    islands, count = ndimage.label(cells > 0.02 * cells.max(), structure=np.ones((3, 3)))
    masses = np.sort(ndimage.sum(cells, islands, range(1, count + 1)))
    second[i] = float(masses[-2]) if count > 1 else 0.0

split = second > 0.1  # at least a tenth of the probability
print(f"gap: mean {gap.mean():.1f}, median {gap.median():.1f} nats")
print(f"digits whose ellipse holds most of the posterior: {(inside > 0.5).float().mean():.0%}")
print(f"digits whose posterior has two or more regions:   {split.float().mean():.0%}")
assert gap.min() > -0.1  # a KL is not negative; the rest is Monte Carlo error
assert 0.004 < split.float().mean() < 0.025, "one posterior in a hundred"
assert 0.35 < (inside > 0.5).float().mean() < 0.65, "half of the, less than half"
assert second[split].min() > 0.1, "at least a tenth"

# %% [markdown]
# ## Three test digits
#
# Now we look. The digits are chosen by rule, not by taste: the one with the smallest gap, the one
# with two regions of which the guide holds most, and one whose gap is at the 95th percentile.

# %% alt="Three digits above heat maps of their posteriors. Left, the guide's ellipse fits the blob. Middle, two islands, and the ellipse stands between them. Right, the blob is far from the ellipse."
good = int(gap.argmin())
two = int(torch.where(split, inside, -1).argmax())
off = int(torch.where(split, torch.inf, (gap - gap.quantile(0.95)).abs()).argmin())
chosen = {"a good guide": good, "two regions": two, "a guide that is off": off}

figure, axes = plt.subplots(
    2, 4, figsize=(9, 4.3), height_ratios=[1, 3.4], width_ratios=[1, 1, 1, 0.06]
)
for (picture, ax), (title, i) in zip(axes.T, chosen.items(), strict=False):
    pv.plots.image_grid(x[i : i + 1], ax=picture)
    picture.set_title(title)
    seen = grid[log_joint[i] > log_joint[i].max() - 6]
    low = torch.minimum(seen.amin(0), loc[i] - 3 * scale[i])
    high = torch.maximum(seen.amax(0), loc[i] + 3 * scale[i])
    middle, half = (low + high) / 2, 0.55 * (high - low).max()
    across, up = (torch.linspace(float(m - half), float(m + half), 160) for m in middle)
    z = torch.cartesian_prod(across, up)
    here = log_likelihood(x[i : i + 1], z)[0] + vae.prior().log_prob(z)
    heat = (here - here.max()).exp().reshape(160, 160).T
    ends = (float(across[0]), float(across[-1]), float(up[0]), float(up[-1]))
    shown = ax.imshow(heat, "viridis", origin="lower", extent=ends, vmin=0, vmax=1)
    size = (4 * scale[i]).tolist()
    ax.add_patch(Ellipse(loc[i].tolist(), *size, fill=False, ec=ORANGE, lw=2.5))
    ax.set(title=f"KL(guide || posterior)\n{gap[i]:.1f} nats", xlabel="$z_0$", ylabel="$z_1$")
    ax.title.set_size("medium")
axes[0, 3].axis("off")
figure.colorbar(shown, cax=axes[1, 3], label="p(z|x), relative to its peak");

# %% [markdown]
# The heat map is the truth, the ellipse is the guide's answer (2 sd). Left: they agree. Middle: the
# posterior has two islands, and a single Gaussian can stand on one of them only; this guide stands
# beside it. Right: the truth is one tidy blob, and the guide points elsewhere.
#
# It is often said that the Gaussian shape of the guide is its weakness. In this model it is rarely
# so: about one posterior in a hundred has two islands. The common failure is the right-hand one. A
# Gaussian of this size would fit; the encoder puts it in the wrong place. For about half of the test
# digits, less than half of the posterior lies within the guide's 99 % ellipse.
#
# ## Which way round? Mode-seeking and mass-covering
#
# On the two islands of the middle digit, what is the *best* Gaussian? It depends on who draws.
#
# - $\mathrm{KL}(q\,\|\,p)$: **the guide draws**. It pays wherever it has mass and the posterior has none,
#   and nothing for what it leaves out. So it settles on one island: *mode-seeking*. If the island holds
#   a share $m$ of the posterior, the price is at least $-\log m$.
# - $\mathrm{KL}(p\,\|\,q)$: **the posterior draws**. The guide pays for every place that it does not
#   expect. So it spreads over both islands and the water between: *mass-covering*. Its optimum has the
#   posterior's mean and standard deviations.
#
# Here are both optima for this digit: the first by gradient steps from either island, the second from
# the moments.

# %% alt="Left, a heat map with two islands: one orange ellipse on each, and one wide dashed ellipse over both. Right, decoded draws: those of an orange ellipse all look alike, those of the dashed one are a mixture."
target = log_density[two]
cells = posterior[two].reshape(241, 241).numpy()
islands, _ = ndimage.label(cells > 0.02 * cells.max(), structure=np.ones((3, 3)))
sizes = ndimage.sum(cells, islands, range(1, islands.max() + 1))
peaks = ndimage.maximum_position(cells, islands, np.argsort(sizes)[::-1][:2] + 1)


def mode_seeking(start):
    m, log_s = start.clone().requires_grad_(), torch.full((2,), -2.3, requires_grad=True)
    adam = torch.optim.Adam([m, log_s], lr=0.02)
    for _ in range(300):
        adam.zero_grad()
        kl(log_normal(grid, m, log_s.exp()), target).backward()
        adam.step()
    return m.detach(), log_s.detach().exp()


seeking = [mode_seeking(torch.stack([axis[i], axis[j]])) for i, j in peaks]
mean = posterior[two] @ grid
covering = mean, (posterior[two] @ (grid - mean) ** 2).sqrt()
prices = {}
for name, (m, s) in {"larger island": seeking[0], "smaller island": seeking[1], "both": covering}.items():
    log_q = log_normal(grid, m, s)
    prices[name] = kl(log_q, target).item(), kl(target, log_q).item()
    print(f"a Gaussian on {name:15} KL(q || p) {prices[name][0]:6.2f}   KL(p || q) {prices[name][1]:7.2f} nats")
shares = np.sort(sizes)[::-1][:2]
print("the islands hold", *(f"{share:.2f}, -log of it {-math.log(share):.2f};" for share in shares))
for name, share in zip(("larger island", "smaller island"), shares, strict=True):
    assert prices[name][0] > -math.log(share) - 0.05
    assert prices[name][0] < prices["both"][0] / 2 and prices[name][1] > 3 * prices["both"][1]

_, (ax, pictures) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1, 1.35])
whole = (log_density[two] - log_density[two].max()).exp().reshape(241, 241).T
ax.imshow(whole, "viridis", origin="lower", extent=(-6.025, 6.025, -6.025, 6.025), vmin=0, vmax=1)
for k, (m, s) in enumerate(seeking):
    label = "" if k else "best by KL(q || p)"
    ax.add_patch(Ellipse(m.tolist(), *(4 * s).tolist(), fill=False, ec=ORANGE, lw=2.5, label=label))
m, s = covering
ax.add_patch(
    Ellipse(m.tolist(), *(4 * s).tolist(), fill=False, ec="white", lw=2, ls="--", label="best by KL(p || q)")
)
ax.set(xlim=(-1.8, 1.6), ylim=(-1.6, 1.8), xlabel="$z_0$", ylabel="$z_1$", title="two islands")
ax.legend(loc="upper center", labelcolor="white", fontsize=9)
noise = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
drawn = torch.cat([pv.decode(vae, m + s * noise) for m, s in (*seeking, covering)])
pv.plots.strips(drawn.unflatten(0, (3, 6)), ["larger", "smaller", "both"], ax=pictures)
pictures.set_title("draws from each ellipse, decoded");

# %% [markdown]
# A VAE is trained by the first. Not because one island is better than two, but because it can be
# computed: it needs draws from $q$, which we have, and $\log p(x, z)$, which is one pass through the
# decoder. The second needs draws from the posterior, which we have here only because of the grid. So
# expect of a VAE's guide that it is too sure rather than too vague, and that it drops an
# interpretation rather than blur two.

# %% [markdown]
# ## What a region means
#
# A posterior is a set of codes, with weights. So draw eight codes from the exact posterior of one
# digit and decode each. Three typical digits come first (of the zeros, twos and threes, the one with
# the median $\log p(x)$), then the second and third digit of the figure above. For comparison the
# last row decodes eight draws from the prior.

# %% alt="Six rows of a digit and eight decoded codes. In the first three rows the eight look alike; for the digit with two regions they are of two kinds; a 4 becomes a 9; codes of the prior give different digits."
typical = {}
for label in (0, 2, 3):
    members = (test.labels == label).nonzero()[:, 0]
    typical[f"a typical {label}"] = int(members[log_p[members].argsort()[len(members) // 2]])
shown = typical | dict(list(chosen.items())[1:])

draws = [grid[posterior[i].multinomial(8, replacement=True)] for i in shown.values()]
decoded = torch.stack([pv.decode(vae, z) for z in (*draws, torch.randn(8, 2))])
data = torch.cat([x[list(shown.values())], torch.full((1, 1, 28, 28), math.nan)])
names = [*shown, "codes from the prior"]
pv.plots.strips(
    torch.cat([data[:, None], decoded], 1), names, ["data", *[""] * 8],
    title="a digit, and eight codes of its exact posterior, decoded",
)

apart = {n: (a - a.mean(0)).abs().mean().item() for n, a in zip(names, decoded, strict=True)}
print("how far the eight are from their mean, per pixel:")
print("\n".join(f"  {name:<22} {value:.3f}" for name, value in apart.items()))
assert max(apart[name] for name in typical) < 0.5 * apart["codes from the prior"]

# %% [markdown]
# A region of the plane is *an interpretation of the digit*: whichever of its codes we take, nearly
# the same picture comes out. A posterior with two islands is two interpretations. And the region is
# what the *model* makes of the digit: that 4 becomes a 9, even under the exact posterior. Two
# dimensions are too few to keep the two apart, and no guide can repair that.
#
# The size of the region has an exact price. From Bayes' rule, averaged over the posterior:
#
# $$\log p(x) = \mathbb{E}_{p(z\mid x)}[\log p(x\mid z)] - \mathrm{KL}(p(z\mid x)\,\|\,p(z)) .$$
#
# How well codes of the region explain $x$, minus how many nats it takes to point at the region among
# all codes. Here is the balance for the 1,000 test digits, and beside it the best single code, which
# is what an autoencoder looks for.

# %%
log_lik = log_joint - log_prior
explained = (posterior * log_lik).sum(1)
pointing = (posterior * (log_posterior - 2 * math.log(step) - log_prior)).sum(1)
print(f"E[log p(x|z)] under the posterior {explained.mean():8.2f} nats")
print(f"KL(posterior || prior)            {pointing.mean():8.2f}")
print(f"their difference                  {(explained - pointing).mean():8.2f}")
print(f"log p(x) from the sum             {log_p.mean():8.2f}")
print(f"log p(x|z) at the best single z   {log_lik.max(1).values.mean():8.2f}")
assert torch.allclose(explained - pointing, log_p, atol=0.02)
assert (log_lik.max(1).values > log_p).all()

# %% [markdown]
# The single code always claims more than $\log p(x)$, because it does not pay for being pointed at.
# That is why its score says nothing about how probable the digit is.
#
# ## Without a grid: draws from the prior
#
# $p(x)$ is also a mean, $\mathbb{E}_{p(z)}[p(x\mid z)]$. So draw $K$ codes from the prior and
# average. For three digits we do this with 200,000 draws, and cut them into 200 estimates of 1,000
# draws and 2 of 100,000.

# %%
prior_draws = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
three = x[list(chosen.values())]
weights = torch.cat([log_likelihood(three, z) for z in prior_draws.split(4096)], 1).double()
small = weights.reshape(3, 200, 1000).logsumexp(2) - math.log(1000)
large = weights.reshape(3, 2, 100_000).logsumexp(2) - math.log(100_000)


def standard_error(log_weights):
    """of log(mean of exp(log_weights)), by the delta method."""
    w = (log_weights - log_weights.max(-1, keepdim=True).values).exp()
    return w.std(-1) / w.mean(-1) / math.sqrt(w.shape[-1])


error = standard_error(weights.reshape(3, 2, 100_000))[:, 0]
print(f"{'':<24}{'grid':>9}{'1,000 draws (sd)':>20}{'100,000 draws (s.e.)':>24}")
for k, (title, i) in enumerate(chosen.items()):
    print(
        f"{title:<24}{log_p[i]:>9.2f}{small[k].mean():>12.2f} ({small[k].std():.2f})"
        f"{large[k, 0]:>16.2f} ({error[k]:.2f})"
    )
truths = log_p[list(chosen.values())].double()
assert ((large[:, 0] - truths).abs() < 4 * error + 0.01).all()
assert (small.mean(1) < truths + 0.05).all()
print(f"KL(posterior || prior) is {pointing.mean():.1f} nats: one draw in {pointing.mean().exp():.0f}")
assert 100 < pointing.mean().exp() < 1000, "one draw in a few hundred"

# %% alt="Errors of log p(x) for three digits. 200 estimates of 1,000 draws scatter, mostly downwards, by up to 12 nats for the first digit; estimates of 100,000 draws lie on the line of the grid."
_, ax = plt.subplots(figsize=(7, 3.2))
spread = small - truths[:, None]
for k in range(3):
    at = k + 0.28 * (torch.rand(200) - 0.5)
    ax.plot(at, spread[k], ".", color=GREY, ms=5, label="" if k else "1,000 draws, 200 times")
    ends = (large[k] - truths[k]).tolist()
    ax.plot([k] * 2, ends, "D", color=ORANGE, ms=6, label="" if k else "100,000 draws, twice")
ax.axhline(0, color=BLUE, lw=1.5, label="the grid")
ax.set_xticks(range(3), list(chosen))
ax.set_ylabel("error of log p(x) (nats)")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
ax.set_title("log p(x) from draws of the prior")
assert len(prior_draws) == 2 * 100_000, "a hundred thousand, a thousand"
# %% [markdown]
# A hundred thousand draws agree with the grid within four standard errors. With a thousand, the
# estimate scatters, and it scatters *downwards*: a few draws hit the region or none does. The mean
# of the logarithm of an estimate lies below the logarithm of what is estimated. This is Jensen's
# inequality, and in the next notebook it is made into a method. Note which digit is hardest here:
# the one with the best guide. Its region is far from the centre of the prior, so few draws hit it.
#
# How many draws are needed? The region holds about $e^{-\mathrm{KL}}$ of the prior, with the KL of
# the balance above: here one draw in a few hundred hits it.
#
# ## Draws from the guide, and when to believe them
#
# The guide claims to know where the region is. So draw $z_k \sim q(z\mid x)$ instead, and correct for
# not having drawn from the prior (*importance sampling*):
#
# $$\log p(x) \approx \log \frac1K \sum_{k=1}^K w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k\mid x)} .$$
#
# This is `pv.log_evidence`. Two numbers say whether to believe it, and both look at the weights.
#
# - **ESS**, the *effective sample size*, $(\sum_k w_k)^2 / \sum_k w_k^2$: how many draws of equal weight
#   would be worth as much. It lies between 1 (one draw carries all) and $K$ (the guide is the
#   posterior). The standard error that the weights admit to is $\sqrt{1/\mathrm{ESS} - 1/K}$.
# - **k-hat** (Vehtari et al., 2024) looks at the *tail* of the weights: the shape $k$ of a generalised
#   Pareto distribution fitted to the largest. Only moments below order $1/k$ are finite: above
#   $k = 1/2$ the variance is infinite, and the larger $k$, the more draws it takes until the mean
#   settles. With $S$ draws it should stay below $\min(1 - 1/\log_{10} S,\; 0.7)$.
#
# We can do what is rarely possible: hold both against the truth.

# %%
found = pv.evaluate(vae, x, num_particles=500)
limit = found.khat_limit
for draws in (100, 500, 10_000):
    print(f"{draws:>6,} draws: k-hat should be below {min(1 - 1 / math.log10(draws), 0.7):.2f}")
assert abs(limit - min(1 - 1 / math.log10(500), 0.7)) < 1e-9

short = log_p - found.log_evidence
error = (1 / found.ess - 1 / 500).clamp_min(0).sqrt()  # the s.e. that the weights admit to
admitted = (short.abs() < 3 * error + 0.01).float()
sure = found.khat < limit
for name, some in {"k-hat below its limit": sure, "above": ~sure}.items():
    print(
        f"{name:<22}{int(some.sum()):>4} digits: ESS {found.ess[some].median():3.0f} of 500 (median), missing"
        f" {short[some].mean():4.1f} nats on average; within 3 s.e.: {admitted[some].mean():.0%}"
    )
assert 0.82 < admitted[sure].mean() < 0.97, "nine estimates in ten"
assert 0.3 < admitted[~sure].mean() < 0.7, "about half"
assert short[sure].median() < 0.1 and short[~sure].mean() > 1.5

worst = int(torch.where(sure, short, -1).argmax())
print(
    f"the worst blue dot: k-hat {found.khat[worst]:.2f}, ESS {found.ess[worst]:.0f}, short by "
    f"{short[worst]:.1f} nats; the guide's 99 % ellipse holds {inside[worst]:.1%} of the posterior"
)
assert short[worst] > 10, "tens of nats"

# %% alt="What importance sampling misses against k-hat, for 1,000 digits. Below the limit nearly all lie at zero, with a few far above; above it they scatter, mostly upwards, by up to 100 nats."
_, ax = plt.subplots(figsize=(7, 3.4))
for some, colour, name in ((sure, BLUE, "below"), (~sure, ORANGE, "above")):
    ax.plot(found.khat[some], short[some], ".", ms=5, color=colour, label=f"{name} the limit")
ax.axvline(limit, color=pv.plots.INK, lw=0.8, ls="--")
ax.set_yscale("symlog", linthresh=1)
ax.set_ylim(-5, 150)
ax.set_yticks([-1, 0, 1, 10, 100], ["-1", "0", "1", "10", "100"])
ax.set(xlabel="k-hat of 500 weights", ylabel="log p(x) minus its estimate (nats)")
ax.set_title("what importance sampling misses on 1,000 test digits")
ax.legend(loc="lower right");
# %% [markdown]
# Below the limit, about nine estimates in ten agree with the grid within three of their own standard
# errors. Above it about half do, and the others miss by nats, mostly downwards. But look at the highest
# blue dot: its weights look even, and yet the estimate is short by tens of nats, because the draws
# never reached the region that counts. **ESS and k-hat see only where the guide has been.** A warning
# light that stays dark is no proof.
#
# ## Walking instead of jumping: annealing
#
# A draw from the prior or the guide hits the region in one jump, or misses it. **Annealed importance
# sampling** (Neal, 2001) walks. A chain begins at a draw from the prior and passes through densities
# between prior and posterior,
#
# $$ p_\beta(z) \propto p(z)\,p(x\mid z)^{\beta}, \qquad \beta \text{ from } 0 \text{ to } 1, $$
#
# moving a little at each of these *temperatures*. The weights that it collects on the way average to
# $p(x)$ exactly, so the logarithm of their mean is again a lower bound on average. It does not rest on
# the guide. It rests on the walk being slow enough. Can that be measured?
#
# Yes, on data that the *model* has made: draw $z$, then $x$. That $z$ is an exact draw of the posterior.
# A chain that starts there and walks back to the prior gives an **upper** bound. Between the two lies
# $\log p(x)$, as in a sandwich (Grosse et al., 2015), and both close in as the temperatures rise.

# %% alt="The distance between the two bounds falls from about 8 nats with 4 temperatures to below 1 nat with 64."
sandwiches = [
    pv.sandwich(vae, path=pv.Annealing(start="prior", temperatures=t), progress=False)
    for t in (4, 16, 64)
]
ax = pv.plots.sandwich(sandwiches)
ax.set_title("how far the two bounds are apart, 32 simulated digits")
ax.set_ylim(0, None)
for one in sandwiches:
    print(f"{one.path.temperatures:3} temperatures: {one.width:5.2f} ± {one.error:.2f} nats")
widths = [one.width for one in sandwiches]
assert widths[0] > 2 * widths[1] > 3 * widths[2] and widths[2] < 1, "less than a nat"

# %% [markdown]
# With 64 temperatures less than a nat is left. So ask the chains about the twenty digits on which the
# guide's draws failed worst.

# %%
failed = short.argsort()[-20:]
annealed = pv.anneal(vae, x[failed], pv.Annealing(start="prior", temperatures=64), progress=False)
off_by = {
    "500 draws from the prior": log_likelihood(x[failed], prior_draws[:500]).logsumexp(1) - math.log(500),
    "500 draws from the guide": found.log_evidence[failed],
    "16 annealed chains": annealed.log_evidence,
}
for name, value in off_by.items():
    miss = (log_p[failed] - value).abs()
    print(f"{name:<25} off by {miss.mean():5.2f} nats on average, {miss.max():6.2f} at worst")
assert (log_p[failed] - off_by["16 annealed chains"]).abs().mean() < 1
assert (log_p[failed] - off_by["500 draws from the guide"]).abs().mean() > 10

# %% [markdown]
# The chains find what the guide did not see. They also cost more: 16 chains, 64 temperatures and 5
# small steps at each make 5,120 passes through the decoder, for one digit.
# `pv.evaluate(..., evidence="ais")` does all of this and reports the sandwich.

# %% [markdown]
# ## Why not always a grid?
#
# Because of the dimension. First, how coarse may the grid be? We leave out points.

# %%
whole = log_joint.reshape(-1, 241, 241)
points = {}
for every in (2, 3, 4, 5):
    part = whole[:, ::every, ::every].flatten(1)
    coarse = part.logsumexp(1) + 2 * math.log(step * every)
    off_by = (coarse - log_p).abs()
    points[math.isqrt(part.shape[1])] = float(off_by.mean())
    print(f"{math.isqrt(part.shape[1]):>4} points per axis: off by {off_by.mean():.3f} nats")
assert points[81] < 0.1 < 2 * points[49]
assert annealed.path.cost == 5120

# %% [markdown]
# About 80 points per axis will do. In $d$ dimensions that makes $80^d$ passes through the decoder
# for *one* sweep. Draws from the prior depend on something else: on how many nats it takes to point
# at the region, since about $e^{\mathrm{KL}}$ draws are needed for one hit. More dimensions make a
# better model, which says more about each digit. We train three for five epochs, and take the KL of
# their guides for it.

# %% alt="Passes through the decoder on a logarithmic axis against dimensions. A grid rises to 10 to the 38 at 20 dimensions; draws from the prior reach between a million and a hundred million."
informed = {2: pointing.mean().item()}
for d in (5, 10, 20):
    larger = pv.VAE(event_shape=(1, 28, 28), latent_dim=d)
    pv.fit(larger, train, epochs=5, seed=0, progress=False)
    informed[d] = pv.evaluate(larger, x, num_particles=1).kl.mean().item()

print(*(f"{d} dimensions: {nats:.1f} nats" for d, nats in informed.items()), sep=", ")
assert informed[2] < informed[5] < informed[10] and informed[20] > 14
assert 1e6 < math.exp(informed[20]) < 1e9, "millions"
day, universe = 86_400 * 1e5, 4.4e22  # passes, at 100,000 a second
assert 20 < 80**6 / day < 40, "a month"
assert 80**11 < universe < 80**12

dims = np.arange(1, 21)
_, ax = plt.subplots(figsize=(7, 3.8))
ax.semilogy(dims, 80.0**dims, "-o", color=BLUE, ms=4, label="a grid of 80 points per axis")
hits = [math.exp(nats) for nats in informed.values()]
ax.semilogy(list(informed), hits, "-D", color=ORANGE, label="prior draws for one hit, $e^{KL}$")
for passes, text in ((1e5, "1 s"), (3.2e12, "1 year"), (4.4e22, "age of the universe")):
    ax.axhline(passes, color=GREY, lw=0.8, ls="--", zorder=0)
    ax.text(20.3, passes * 1.6, text, ha="right", size=8, color="#666666")
ax.set(xlabel="dimensions of z", ylabel="passes through the decoder")
ax.set_title("what one log p(x) costs (grey: at 100,000 passes per second)", size="medium")
ax.set_xticks([1, 2, 5, 10, 15, 20])
ax.legend(loc="upper left");
# %% [markdown]
# With 6 dimensions the grid takes a month, with 12 longer than the universe is old. The prior lasts
# longer: its enemy is information, not dimension as such. But at 20 dimensions it too needs millions
# of draws to hit the region of one digit once. What remains is a guide that knows where to look.
#
# **What to keep.** The posterior of a digit is a region. Its normaliser $p(x)$ is an integral without
# a formula, easy in the plane and hopeless on a grid beyond. A guide makes it affordable, and it can
# be wrong without noticing. Annealing is slower, and says how far it can be trusted. What remains is
# to say what we train when we train a guide: that is [notebook 3](03_the_elbo_from_scratch.ipynb).
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
# **1.** Two coins: $q$ shows heads with probability 0.5, $p$ with 0.9. What are
# $\mathrm{KL}(q\,\|\,p)$ and $\mathrm{KL}(p\,\|\,q)$, to two decimals? Which is larger, and why?

# %% tags=["exercise"]
answer_1 = ...  # nats, a list of two


def check_1(answer):
    q, p = (torch.distributions.Bernoulli(torch.tensor(heads)) for heads in (0.5, 0.9))
    divergence = torch.distributions.kl_divergence
    truth = torch.stack([divergence(q, p), divergence(p, q)])
    right = "the fair coin shows tails often, which the other finds hard to believe."
    hint = "0.5 log(0.5 / 0.9) + ...: one term for heads, one for tails, weighted by who draws."
    return verdict(answer, truth, 0.006, right, hint)


print(check_1(answer_1))

# %% jupyter={"source_hidden": true} tags=["solution"]
a, b = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
solution_1 = torch.stack([(a * (a / b).log()).sum(), (b * (b / a).log()).sum()])
print(solution_1.numpy().round(3), check_1(solution_1))
assert check_1(solution_1).startswith("Right") and check_1(solution_1.flip(0)).startswith("Not yet")

# %% [markdown]
# **2.** Estimate $\log p(x)$ of the second test digit, `x[1:2]`, from the 1,000 codes below, which are
# drawn from the prior. How far from the grid will you be if you average $p(x\mid z)$ over the draws and
# take the logarithm? And if you average $\log p(x\mid z)$ instead? Compute the one that estimates
# $\log p(x)$, to a hundredth of a nat.

# %% tags=["exercise"]
some_codes = torch.randn(1000, 2, generator=torch.Generator().manual_seed(2))

answer_2 = ...  # nats


def check_2(answer):
    truth = log_likelihood(x[1:2], some_codes)[0].double().logsumexp(0) - math.log(1000)
    right = "the mean of p(x|z), in logarithms: logsumexp minus log of the number of draws."
    hint = (
        "log_likelihood(x[1:2], some_codes), then log(mean(exp(.))) by logsumexp. It is an estimate: "
        "neither the grid's number nor the mean of the logarithms."
    )
    return verdict(answer, truth, 0.02, right, hint)


print(check_2(answer_2))

# %% jupyter={"source_hidden": true} tags=["solution"]
scores = log_likelihood(x[1:2], some_codes)[0]
solution_2 = (scores.logsumexp(0) - math.log(len(scores))).item()
print(f"log of the mean {solution_2:.2f} (s.e. {standard_error(scores.double()):.2f}), ", end="")
print(f"mean of the log {scores.mean():.2f}, the grid {log_p[1]:.2f} nats")
print(check_2(solution_2))
assert check_2(solution_2).startswith("Right") and check_2(scores.mean()).startswith("Not yet")
assert check_2(log_p[1]).startswith("Not yet")  # the grid's number is another one

# %% [markdown]
# **3.** Below are the log weights of three digits, twenty draws each. What is the effective sample size
# of each, to a tenth? (`exp` of these numbers is 0 in 32 bits: stay in logarithms, or subtract the
# largest first, which changes nothing.)

# %% tags=["exercise"]
some_log_weights = torch.randn(20, 3, generator=torch.Generator().manual_seed(4))
some_log_weights = some_log_weights * torch.tensor([0.1, 1.0, 5.0]) - 300

answer_3 = ...  # draws, [3]


def check_3(answer):
    w = some_log_weights.double().exp()
    right = "nearly all twenty, some, and nearly one: the more the weights differ, the fewer count."
    hint = "(sum w)^2 / sum w^2; in logarithms 2 logsumexp(log w) - logsumexp(2 log w), then exp."
    return verdict(answer, w.sum(0) ** 2 / (w**2).sum(0), 0.06, right, hint)


print(check_3(answer_3))

# %% jupyter={"source_hidden": true} tags=["solution"]
log_w = some_log_weights
solution_3 = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
print(solution_3.numpy().round(1), check_3(solution_3))
assert check_3(solution_3).startswith("Right") and check_3(solution_3 / 20).startswith("Not yet")
assert some_log_weights.exp().max() == 0
