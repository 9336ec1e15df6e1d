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
# lay the ellipse that the encoder gives. Then we compute $\log p(x)$ in three ways, see when each of
# them fails, and measure how much worse the encoder is on digits it has not seen.
#
# Before: [1. Write the story](01_write_the_story.ipynb).
# Next: [3. The ELBO from scratch](03_the_elbo_from_scratch.ipynb).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Ellipse
from scipy import ndimage

import pyrovae as pv

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
# each pixel black or white.

# %%
digits = pv.data.load("mnist5k")
train, test = digits.train.binarised("threshold"), digits.test.binarised("threshold")

vae = pv.VAE(event_shape=(1, 28, 28), latent_dim=2)
history = pv.fit(vae, train, epochs=30, seed=0, progress=False)
last = history.rows[-1]
print(f"after 30 epochs: ELBO {last['elbo']:.1f} nats per digit (what an ELBO is: notebook 3)")

# %% [markdown]
# ## Where the guide puts the test digits
#
# Each dot is the mean of $q(z\mid x)$ for one test digit. The orange ellipses show the whole of
# $q(z\mid x)$ for forty of them: two standard deviations wide. Nobody told the model what a 3 is; it
# puts digits that look alike next to each other.

# %%
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

# %% [markdown]
# `pv.exact_log_evidence` does the same with a grid that it narrows around each digit's own posterior.
# The two agree to a few hundredths of a nat at worst.
#
# With $p(x)$ known, Bayes' rule gives the whole posterior. For each test digit we ask three things:
#
# - **gap**: $\log p(x)-\text{ELBO}$. Notebook 3 shows that this is exactly
#   $\mathrm{KL}(q(z\mid x)\,\|\,p(z\mid x))$, the distance in nats between guide and posterior.
# - **inside**: how much of the true posterior lies in the ellipse that holds 99 % of the guide.
# - **regions**: into how many separate islands the posterior falls (above 2 % of its peak, and
#   holding at least a tenth of the probability).

# %%
log_posterior = log_joint - log_joint.logsumexp(1, keepdim=True)
posterior = log_posterior.exp()  # probability per grid cell: each row sums to 1
gap = log_p - pv.elbo(vae, x, num_particles=200)

inside = torch.zeros(len(x))
second = torch.zeros(len(x))  # the probability of the second largest region
for i in range(len(x)):
    away = ((grid - loc[i]) / scale[i]).square().sum(1)
    inside[i] = posterior[i][away < 9.21].sum()  # 9.21: the 99 % point of a chi-square with 2 df
    cells = posterior[i].reshape(241, 241).numpy()
    islands, count = ndimage.label(cells > 0.02 * cells.max(), structure=np.ones((3, 3)))
    masses = np.sort(ndimage.sum(cells, islands, range(1, count + 1)))
    second[i] = float(masses[-2]) if count > 1 else 0.0

split = second > 0.1
print(f"gap: mean {gap.mean():.1f}, median {gap.median():.1f} nats")
print(f"digits whose ellipse holds most of the posterior: {(inside > 0.5).float().mean():.0%}")
print(f"digits whose posterior has two or more regions:   {split.float().mean():.0%}")
assert gap.min() > -0.1  # a KL is not negative; the rest is Monte Carlo error
assert 0 < split.float().mean() < 0.1
assert 0.3 < (inside > 0.5).float().mean() < 0.7

# %% [markdown]
# ## Three test digits
#
# Now we look. The digits are chosen by rule, not by taste: the one with the smallest gap, the one
# with two regions of which the guide holds most, and one whose gap is at the 95th percentile.

# %%
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

# %% [markdown]
# ## What a region means
#
# A posterior is a set of codes, with weights. So draw eight codes from the exact posterior of one
# digit and decode each. Three typical digits come first (of the zeros, twos and threes, the one with
# the median $\log p(x)$), then the second and third digit of the figure above. For comparison the
# last row decodes eight draws from the prior.

# %%
typical = {}
for label in (0, 2, 3):
    members = (test.labels == label).nonzero()[:, 0]
    typical[f"a typical {label}"] = int(members[log_p[members].argsort()[len(members) // 2]])
shown = typical | dict(list(chosen.items())[1:])

draws = [grid[posterior[i].multinomial(8, replacement=True)] for i in shown.values()]
decoded = torch.stack([pv.decode(vae, z) for z in (*draws, torch.randn(8, 2))])
data = torch.cat([x[list(shown.values())], torch.full((1, 1, 28, 28), math.nan)])
names = [*shown, "codes from the prior"]
pv.plots.strips(torch.cat([data[:, None], decoded], 1), names, ["data", *[""] * 8])

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
assert 100 < pointing.mean().exp() < 1000

# %%
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
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3);
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
# This is `pv.log_evidence`. `pv.evaluate` adds a warning light, **k-hat**: the weight of the tail of
# the $w_k$ (Vehtari et al., 2024). Below 0.5 the estimate is good, above 0.7 a few draws carry it all.
# We can do what is rarely possible: hold it against the truth.

# %%
found = pv.evaluate(vae, x, num_particles=500)
short = log_p - found.log_evidence
error = (1 / found.ess - 1 / 500).clamp_min(0).sqrt()  # the s.e. that the weights admit to
for name, some in {
    "k-hat below 0.5": found.khat < 0.5,
    "0.5 to 0.7": (found.khat >= 0.5) & (found.khat < 0.7),
    "above 0.7": found.khat >= 0.7,
}.items():
    within = (short[some].abs() < 3 * error[some] + 0.01).float().mean()
    print(
        f"{name:<16} {int(some.sum()):>4} digits: missing {short[some].mean():5.2f} nats on average,"
        f" {short[some].max():5.1f} at worst; within 3 s.e.: {within:.0%}"
    )

sure, unsure = found.khat < 0.5, found.khat >= 0.7
admitted = (short.abs() < 3 * error + 0.01).float()
assert admitted[sure].mean() > 0.75 > admitted[unsure].mean()
assert short[sure].median() < 0.1 and short[unsure].mean() > 1.5

worst = int(torch.where(sure, short, -1).argmax())
print(
    f"the worst blue dot: short by {short[worst]:.1f} nats; the guide's 99 % ellipse holds "
    f"{inside[worst]:.1%} of the posterior"
)

# %%
_, ax = plt.subplots(figsize=(7, 3.6))
for low, high, colour in ((-9, 0.5, BLUE), (0.5, 0.7, GREEN), (0.7, math.inf, ORANGE)):
    some = (found.khat >= low) & (found.khat < high)
    ax.plot(found.khat[some], short[some], ".", ms=5, color=colour)
for edge in (0.5, 0.7):
    ax.axvline(edge, color=pv.plots.INK, lw=0.8, ls="--")
ax.set_yscale("symlog", linthresh=1)
ax.set(xlabel="k-hat of 500 weights", ylabel="log p(x) minus its estimate (nats)")
ax.set_title("what importance sampling misses on 1,000 test digits");
# %% [markdown]
# Where k-hat is below 0.5, about nine estimates in ten agree with the grid within three of their own
# standard errors. Above 0.7 nearly half do not, and they miss by nats, mostly downwards. But look at
# the highest blue dot: its weights look even, and yet the estimate is short by far more than it
# admits (tens of nats in our run), because the draws never reached the region that counts. **k-hat
# sees only where the guide has been.** A warning light that stays dark is no proof.
#
# Does importance sampling at least beat draws from the prior? In the plane, on most digits, by a
# little. On average it does not: where the guide is off it is far off, and the prior looks everywhere.

# %%
by_prior = log_likelihood(x, prior_draws[:500]).logsumexp(1) - math.log(500)
missed = {"the guide": short, "the prior": log_p - by_prior}
for name, value in missed.items():
    print(
        f"500 draws from {name}: off by {value.abs().mean():.2f} nats on average, "
        f"median {value.abs().median():.2f}"
    )
assert missed["the guide"].abs().median() < missed["the prior"].abs().median()
assert missed["the guide"].abs().mean() > 0.8 * missed["the prior"].abs().mean()

# %% [markdown]
# ## Why not always a grid?
#
# Because of the dimension. First, how coarse may the grid be? We leave out points.

# %%
whole = log_joint.reshape(-1, 241, 241)
for every in (2, 3, 4, 5):
    part = whole[:, ::every, ::every].flatten(1)
    coarse = part.logsumexp(1) + 2 * math.log(step * every)
    off_by = (coarse - log_p).abs()
    print(f"{math.isqrt(part.shape[1]):>4} points per axis: off by {off_by.mean():.3f} nats")

# %% [markdown]
# About 80 points per axis will do. In $d$ dimensions that makes $80^d$ passes through the decoder
# for *one* sweep. Draws from the prior depend on something else: on how many nats it takes to point
# at the region, since about $e^{\mathrm{KL}}$ draws are needed for one hit. More dimensions make a
# better model, which says more about each digit. We train three for five epochs, and take the KL of
# their guides for it.

# %%
informed = {2: pointing.mean().item()}
for d in (5, 10, 20):
    larger = pv.VAE(event_shape=(1, 28, 28), latent_dim=d)
    pv.fit(larger, train, epochs=5, seed=0, progress=False)
    informed[d] = pv.evaluate(larger, x, num_particles=1).kl.mean().item()

print(*(f"{d} dimensions: {nats:.1f} nats" for d, nats in informed.items()), sep=", ")
assert informed[2] < informed[5] < informed[10] and informed[20] > 14

dims = np.arange(1, 21)
_, ax = plt.subplots(figsize=(7, 3.8))
ax.semilogy(dims, 80.0**dims, "-o", color=BLUE, ms=4, label="a grid of 80 points per axis")
hits = [math.exp(nats) for nats in informed.values()]
ax.semilogy(list(informed), hits, "-D", color=ORANGE, label="prior draws for one hit, $e^{KL}$")
for passes, text in ((1e5, "1 s"), (3.2e12, "1 year"), (4.4e22, "age of the universe")):
    ax.axhline(passes, color=GREY, lw=0.8, ls="--", zorder=0)
    ax.text(20.3, passes * 1.6, text, ha="right", size=8, color="#666666")
ax.set(xlabel="dimensions of z", ylabel="passes through the decoder")
ax.set_title("grey: at 100,000 passes per second", size="medium")
ax.set_xticks([1, 2, 5, 10, 15, 20])
ax.legend(loc="upper left");
# %% [markdown]
# With 6 dimensions the grid takes a month, with 12 longer than the universe is old. The prior lasts
# longer: its enemy is information, not dimension as such. But at 20 dimensions it too needs millions
# of draws to hit the region of one digit once. What remains is a guide that knows where to look.
#
# ## How good is this guide on digits it has not seen?
#
# $\log p(x)$ needs the model only, and the gap $\log p(x)-\mathrm{ELBO}$ is what the guide loses. So
# we can tell whose fault it is that test digits score worse: the decoder's or the encoder's.

# %%
x_train = train.x[:1000]
log_p_train = joint_on_grid(x_train).logsumexp(1) + 2 * math.log(step)
gap_train = log_p_train - pv.elbo(vae, x_train, num_particles=200)


def told(values):
    return f"{values.mean():9.2f} ± {values.std() / math.sqrt(len(values)):.2f}"


print(f"{'nats per digit':<18}{'log p(x)':>16}{'gap of the guide':>20}")
print(f"{'1,000 training':<18}{told(log_p_train):>16}{told(gap_train):>20}")
print(f"{'1,000 test':<18}{told(log_p):>16}{told(gap):>20}")
decoder_loses = (log_p_train.mean() - log_p.mean()).item()
encoder_loses = (gap.mean() - gap_train.mean()).item()
print(f"from training to test the decoder loses {decoder_loses:.1f}, the encoder {encoder_loses:.1f}")
assert encoder_loses > 2.5 and gap.mean() > 2 * gap_train.mean()

_, ax = plt.subplots(figsize=(7, 3))
bins = np.geomspace(0.02, 200, 40)
for values, colour, name in ((gap_train, BLUE, "training"), (gap, ORANGE, "test")):
    label = f"{name}, mean {values.mean():.1f}"
    ax.hist(values.clamp_min(0.02), bins, color=colour, histtype="step", lw=2, label=label)
ax.set(xscale="log", xlabel="KL(q(z|x) || p(z|x)), nats", ylabel="digits")
ax.legend(loc="upper left");
# %% [markdown]
# Most of what the ELBO loses on new digits, the **encoder** loses. $\log p(x)$ falls by a few nats,
# about as much as two samples of 1,000 digits may differ by chance; the gap grows several-fold. (Two
# further seeds gave the same order.) A test ELBO therefore mixes two things: how good the model is, and how
# well its guide reads digits it has not seen.
#
# **What to keep.** The posterior of a digit is a region. Its normaliser $p(x)$ is an integral without
# a formula, easy in the plane and hopeless on a grid beyond. A guide makes it affordable, and it can
# be wrong without noticing. What remains is to say what we train when we train a guide: that is
# [notebook 3](03_the_elbo_from_scratch.ipynb).
#
# ## Exercise
#
# Take the second test digit, `x[1:2]`, and 100,000 codes drawn from the prior.
#
# **Predict**: the grid says $\log p(x)$ is `log_p[1]`. How far from it will you be if you average
# $p(x\mid z)$ over the draws and take the logarithm? And if you average $\log p(x\mid z)$ instead?
# **Then code**: compute the one that estimates $\log p(x)$, in nats, and replace the dots.

# %%
answer = ...  # nats


def check(answer, tolerance=0.4):
    if answer is ...:
        return "Predict, then replace the dots."
    if abs(float(answer) - float(log_p[1])) <= tolerance:
        return "Right: the mean of p(x|z), in logarithms: logsumexp minus log of the number of draws."
    return (
        "Not yet. Hint: log_likelihood(x[1:2], z) for z of shape [100000, 2]; then log(mean(exp(.)))"
        " by logsumexp. The mean of the logarithms is what a code drawn blindly scores."
    )


print(check(answer))

# %% jupyter={"source_hidden": true} tags=["solution"]
z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(2))
scores = torch.cat([log_likelihood(x[1:2], part) for part in z.split(4096)], 1)[0]
solution = (scores.logsumexp(0) - math.log(len(scores))).item()
wrong = scores.mean().item()
error = standard_error(scores.double()).item()
print(f"log of the mean {solution:.2f} (s.e. {error:.2f}), mean of the log {wrong:.2f}, ", end="")
print(f"the grid {log_p[1]:.2f} nats")
print(check(solution))
assert check(solution).startswith("Right") and check(wrong).startswith("Not yet")
