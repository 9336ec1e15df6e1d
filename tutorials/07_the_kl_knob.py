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
# # 7. The KL knob
#
# **What happens if the two terms of the ELBO are not weighed one to one?** Many VAEs in the wild
# have a factor $\beta$ in front of the KL. Too much of it and every reconstruction is the same
# blur. Too little and what is left is an autoencoder. You will train seven models that differ in
# $\beta$ alone, ask each for the log evidence, see why $\beta<1$ bounds nothing, watch units die
# at $\beta=1$, and try two remedies.
#
# Before: [6. Better than an autoencoder?](06_better_than_an_autoencoder.ipynb). Next: [8. Choose
# the likelihood](08_choose_the_likelihood.ipynb).

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
from itertools import pairwise

import matplotlib.pyplot as plt
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrovae as pv
from pyrovae import guides, likelihoods, networks, objectives, schedules

torch.set_num_threads(1)
plt.rcParams.update(pv.plots.STYLE)
pyro.set_rng_seed(0)

# %% [markdown]
# ## One number, seven models
#
# The knob is a weight on the second term:
#
# $$ \mathcal{L}_\beta(x) = \underbrace{\mathbb{E}_{q(z|x)}[\log p(x|z)]}_{\text{reconstruction}}
#    - \beta \; \underbrace{\mathrm{KL}(q(z|x) \,\|\, p(z))}_{\text{what the code costs}} $$
#
# $\beta=1$ is the ELBO. In `pyrovae` the weight belongs to the objective, not to the programs:
# `BetaELBO(beta=...)`. So model and guide are the same two programs every time, from the same
# random start, on the same 5,000 digits.

# %%
digits = pv.data.load("mnist5k")
train, test = digits.train.binarised("dynamic"), digits.test.binarised("dynamic")
print(f"{len(train):,} digits to train on, {len(test):,} to measure")


def new_vae(hidden, latent_dim=10):
    torch.manual_seed(0)
    return pv.VAE(
        event_shape=(1, 28, 28),
        latent_dim=latent_dim,
        likelihood=likelihoods.Bernoulli(networks.MLP(hidden)),
        guide=guides.MeanField(networks.MLP(hidden)),
    )


# %%
betas = [0, 0.1, 0.3, 1, 3, 10, 30]
models, found = {}, {}
for beta in betas:
    models[beta] = new_vae([200])
    objective = objectives.BetaELBO(beta=beta)
    pv.fit(models[beta], train, loss=objective, epochs=8, lr=3e-3, progress=False)
    found[beta] = pv.evaluate(models[beta], test, num_particles=10)

# %% [markdown]
# `pv.evaluate` measures on 1,000 test digits, always with the true, unweighted terms, whatever
# the model was trained on. All numbers are nats per digit.

# %%
rec = {beta: float(found[beta].reconstruction.mean()) for beta in betas}
kl = {beta: float(found[beta].kl.mean()) for beta in betas}
elbo = {beta: float(found[beta].elbo.mean()) for beta in betas}
print(" beta   reconstruction      KL     ELBO")
for beta in betas:
    print(f"{beta:5}   {rec[beta]:14.1f}  {kl[beta]:6.2f}  {elbo[beta]:7.1f}")

# %% [markdown]
# The knob does what it says. A dear code is a short one: the KL falls from over a hundred nats to
# nearly none. A cheap code is a long one, and reconstructions gain from it, though less and less.
# Of the seven, $\beta=1$ has the best ELBO. That is no surprise: it is the one that was asked for
# it.

# %%
assert all(kl[a] > kl[b] for a, b in pairwise(betas))
assert max(elbo, key=elbo.get) == 1 and kl[30] < 0.5
assert kl[0] > 100, "over a hundred nats"

# %% [markdown]
# ## The curve of all choices
#
# Call the KL the **rate**: what the code costs. Call minus the reconstruction the **distortion**: how
# badly $x$ is described once $z$ is known. Each $\beta$ buys a point on one curve. On a grey line the
# sum of the two, minus the ELBO, is the same, and the knob sets the slope at which one is traded for
# the other. ($\beta=0$ is off the figure, to the right: it spends more than three times the rate of
# $\beta=0.1$ for next to nothing.)

# %% alt="Distortion against rate for six betas: from beta = 30 at no rate and a distortion near 210 nats down to beta = 0.1 at nearly 40 nats of rate and 108 of distortion. Beta = 1 lies nearest to the lower left."
shown = betas[1:]
pv.plots.rate_distortion(
    [kl[beta] for beta in shown],
    [-rec[beta] for beta in shown],
    labels=[rf"$\beta$ = {beta}" for beta in shown],
    ax=plt.subplots(figsize=(7, 4.5))[1],
)
print(f"rate at beta = 0: {kl[0] / kl[0.1]:.1f} times that at 0.1, {rec[0] - rec[0.1]:.1f} nats gained")
assert kl[0] > 3 * kl[0.1], "three times the rate"
assert rec[0] - rec[0.1] < 3

# %% [markdown]
# ### What the rate buys, and what it wastes
#
# The rate is often called the information that $z$ keeps about $x$. It is that *and something else*.
# Mix the answers $q(z|x)$ of all data, and you have the **aggregate posterior**
# $q(z)=\mathbb{E}_x[q(z|x)]$: where the codes lie, taken together. Then the mean rate splits in two,
#
# $$ \mathbb{E}_x\,\mathrm{KL}(q(z|x)\,\|\,p(z)) = \underbrace{I_q(x;z)}_{\text{information}}
#    + \underbrace{\mathrm{KL}(q(z)\,\|\,p(z))}_{\text{codes that do not fit the prior}}. $$
#
# So the rate is an *upper bound* on the information. The second part tells $x$ nothing, and it is
# why draws from the prior fail: they come from where no codes are. `pv.information` bounds both parts
# from both sides, but cannot prove more information than $\log N$ of $N$ data. Where the rate is large,
# one more bound helps: a density fitted to the codes (`pv.fit_codes`) beats the prior, on held-out
# codes, by `gain`, and by no more than $\mathrm{KL}(q(z)\,\|\,p(z))$ in expectation.

# %% alt="Seven bars, one per beta, each the whole of its rate, split into a share that is surely information, one that is either, and one that is surely misfit. The misfit shrinks as beta grows, and from beta = 10 on nearly all is information."
rates, sure, waste = [], [], []
print(" beta      rate    information    misfit, at least")
for beta, pair in models.items():
    part = pv.information(pair, test)
    gain = float(pv.fit_codes(pair, train, components=1, progress=False).gain.mean())
    rates.append(float(part.kl.mean()))
    sure.append(part.mutual_information[0])
    waste.append(max(part.marginal_kl[0], gain, 0))
    most = min(part.mutual_information[1], rates[-1] - waste[-1])
    print(f"{beta:5}  {rates[-1]:8.2f}  {sure[-1]:5.2f} to {most:6.2f}  {waste[-1]:13.2f}")
print(f"log N = {math.log(len(test)):.2f} nats")

rate, sure, waste = (torch.tensor(values) for values in (rates, sure, waste))
_, ax = plt.subplots(figsize=(7.5, 3.4))
ax.bar(range(7), sure / rate, color=pv.plots.BLUE, label="surely information")
ax.bar(range(7), 1 - (sure + waste) / rate, bottom=sure / rate, color=pv.plots.GREY, label="either")
ax.bar(range(7), waste / rate, bottom=1 - waste / rate, color=pv.plots.ORANGE, label="surely misfit")
ax.set_xticks(range(7), [f"{beta}\n{value:.1f} nats" for beta, value in zip(betas, rates, strict=True)])
ax.set(xlabel=r"$\beta$ in training, and the mean rate", ylabel="share of the rate")
ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
assert (sure + waste <= rate + 0.1).all() and sure.max() <= math.log(len(test)) + 1e-3
assert waste[0] > 10 and waste[5] < 1 < sure[5]

# %% [markdown]
# ## What it looks like
#
# Left: six test digits, and how each model reconstructs them. Right: what each model makes of the
# same six draws from the prior. (All are means: the chance that a pixel is ink.)

# %% alt="Eight rows of digits: the data, then what each beta makes of them. Reconstructions blur from beta = 10 on; draws from the prior are ruins at beta = 0, digits at 1 and 3, and all the same blur at 30."
(x,) = next(test.batches(1000))
picks = [int((test.labels == d).nonzero()[0]) for d in (7, 2, 5, 4, 8, 3)]
originals = x[picks]
rebuilt = torch.stack([originals] + [pv.reconstruct(models[b], originals) for b in betas])
dreamt = torch.stack([pv.sample(models[b], 6, mean=True, seed=2) for b in betas])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 5.4))
pv.plots.strips(rebuilt, ["data"] + [rf"$\beta$ = {b}" for b in betas], ax=left)
pv.plots.strips(torch.cat([torch.full_like(dreamt[:1], torch.nan), dreamt]), ax=right)
left.set_title("reconstructions")
right.set_title("draws from the prior")
print(f"log 10 = {math.log(10):.1f} nats; the rate at beta = 10 is {kl[10]:.1f}")
assert abs(kl[10] - math.log(10)) < 1

# %% [markdown]
# - At $\beta=0$ reconstructions are the best there are, and draws from the prior are pale ruins.
#   Nothing asked the codes to lie where the prior is, so the decoder has never seen these $z$.
#   This is an autoencoder. Up to 0.3, draws are broken in places.
# - At $\beta=1$ and $\beta=3$ most draws look like digits.
# - At $\beta=10$ draws are whole but blurred, and reconstructions change one digit into another:
#   the code holds little more than the $\log 10$ nats that choose one of ten shapes.
# - At $\beta=30$ every picture is the same: the mean of all digits.
#
# ## Whose units are paid for
#
# The KL of this guide is a sum over the ten dimensions of $z$, so we can see who spends it. A
# unit is called **active** when its posterior mean moves from digit to digit (a variance over
# 0.01, Burda et al. 2015).

# %% alt="The KL of each of ten latent dimensions, largest first: between 3 and 5 nats at beta = 0.1, 1 to 2 at beta = 1, and ten crosses at zero at beta = 30."
figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True)
for ax, beta in zip(axes, (0.1, 1, 30), strict=True):
    pv.plots.kl_bars(found[beta].kl_dimensions["z"], active=found[beta].active["z"], ax=ax)
    ax.set_title(rf"$\beta$ = {beta}: {found[beta].active_units} of 10 active")
    ax.legend(loc="upper right")
    ax.label_outer()
    moves = found[beta].codes["z"].var(0) > 0.01
    assert moves.equal(found[beta].active["z"])

# %% [markdown]
# ## The aggregate posterior, where we can look
#
# With two latent dimensions $q(z)$ can be seen. One draw of each $q(z|x)$ is a draw of it. The rings
# are the prior's.

# %% alt="Draws of the aggregate posterior in two dimensions, coloured by digit, beside the rings of the prior: at beta = 0.1 the cloud lies mostly outside of them and is wider, at beta = 1 nearer."
planes = {}
for beta in (0.1, 1):
    planes[beta] = new_vae([200], latent_dim=2)
    objective = objectives.BetaELBO(beta=beta)
    pv.fit(planes[beta], train, loss=objective, epochs=5, progress=False)
figure, axes = plt.subplots(1, 2, figsize=(9, 4.2))
for ax, (beta, pair) in zip(axes, planes.items(), strict=True):
    with torch.no_grad():
        draws = pair.posterior(x).sample()
    pv.plots.latent_map(draws, test.labels, ax=ax)
    least, most = pv.information(pair, x).marginal_kl
    ax.set_title(rf"$\beta$ = {beta}: KL(q(z) || p(z)) = {least:.1f} to {most:.1f} nats")
    print(f"beta = {beta}: KL(q(z) || p(z)) from {least:.2f} to {most:.2f} nats")
axes[0].get_legend().remove()

# %% [markdown]
# ## Below 1 there is no bound
#
# What you read off while training is $\mathcal{L}_\beta$. It differs from the ELBO by
# $(1-\beta)\,\mathrm{KL}$. For $\beta \ge 1$ that can only lower it, so it is still below $\log
# p(x)$: a looser bound. For $\beta<1$ it is *added*, and nothing promises that the result is
# below $\log p(x)$.
#
# To see it, we need $\log p(x)$ itself. With two latent dimensions it can be summed over a fine
# grid, without sampling: `pv.exact_log_evidence` (notebook 2).

# %%
flat = planes[0.1]
some = x[:8]
exact = pv.exact_log_evidence(flat, some).mean()
flat_found = pv.evaluate(flat, some, num_particles=300)
reported = (flat_found.reconstruction - 0.1 * flat_found.kl).mean()
print(f"ELBO                        {flat_found.elbo.mean():7.1f}")
print(f"exact log evidence          {exact:7.1f}")
print(f"the objective at beta = 0.1 {reported:7.1f}   <- above log p(x): not a bound")
assert flat_found.elbo.mean() < exact < reported - 3

# %% [markdown]
# So never compare values of $\mathcal{L}_\beta$ between different $\beta$, nor report one as a
# likelihood. Compare the models.
#
# ## Which beta makes the best model?
#
# A model is a density, and its score is the log evidence of test digits. Importance sampling with the
# guide as the proposal would be unfair here: a guide trained under the wrong $\beta$ is too narrow or
# too wide to be a good proposal, and would make a good *decoder* look bad. So we anneal (notebook 2):
# chains walk from the guide to the posterior, and what is scored is $p(z)\,p(x|z)$ alone. At $\beta=0$
# the guide is so narrow that they would not arrive; there `pv.gap` refines it first, for each digit by
# itself, under the true ELBO. Both are lower bounds in expectation. Both take thousands of passes per
# digit, so 16 digits must do.

# %%
scored = x[:16]
walk = {"method": "ais", "chains": 8, "temperatures": 50, "leapfrogs": 5}
refined = pv.gap(models[0], scored, num_particles=100, refine_particles=16, steps=20)
evidence = {beta: pv.log_evidence(models[beta], scored, **walk) for beta in betas}
stuck, evidence[0] = evidence[0].mean(), refined.log_evidence
print(f"beta = 0: annealed {stuck:.1f}, refined first {evidence[0].mean():.1f} nats per digit")
assert stuck < evidence[0].mean() - 20
own = {beta: float(found[beta].elbo[: len(scored)].mean()) for beta in betas}
ours = {b: float((found[b].reconstruction - b * found[b].kl)[: len(scored)].mean()) for b in betas}
assert walk["chains"] * walk["temperatures"] * walk["leapfrogs"] == 2000, "thousands of passes"

print(" beta  what was maximised     ELBO  log evidence    against beta = 1")
for beta in betas:
    difference = evidence[beta] - evidence[1]
    print(
        f"{beta:5}  {ours[beta]:18.1f}  {own[beta]:7.1f}"
        f"  {evidence[beta].mean():12.1f}"
        f"    {difference.mean():+6.1f} ± {difference.std() / len(scored) ** 0.5:.1f}"
    )

# %% alt="Three lines over beta. The log evidence is a gentle hill with its top near beta = 1. The ELBO falls far below it at beta = 0. What was maximised lies above the log evidence left of 1 and falls to the right."
at = range(len(betas))
ax = plt.subplots(figsize=(7.5, 4))[1]
ax.plot(at, list(ours.values()), "--s", color=pv.plots.ORANGE, label="what was maximised")
ax.plot(
    at, [evidence[b].mean() for b in betas], "-o", color=pv.plots.BLUE, label="log evidence"
)
ax.plot(at, own.values(), "-^", color=pv.plots.GREY, label="ELBO")
ax.set_xticks(at, betas)
ax.set(xlabel=r"$\beta$ in training", ylabel="nats per test digit", ylim=(-275, -85))
ax.legend();

# %% [markdown]
# The log evidence is a hill with its top near $\beta=1$, and a gentle one. Look at $\beta=0$: its ELBO
# is far below the best, yet most of that is the guide's fault. Given a proper guide, its decoder
# loses less than a third of it. The popular "small $\beta$ for sharp pictures" does give better
# reconstructions. It does not give a better model of the digits. And left of $\beta=1$, what was
# maximised lies above the estimate of $\log p(x)$.

# %%
mean = {beta: float(evidence[beta].mean()) for beta in betas}
best = max(mean, key=mean.get)
behind = own[1] - own[0], mean[1] - mean[0]
print("best log evidence at beta =", best)
print(f"beta = 0: ELBO {behind[0]:.0f} nats below that of beta = 1, log evidence {behind[1]:.0f}")
assert best in (0.3, 1, 3) and mean[1] > max(mean.values()) - 2
assert 10 < behind[1] < behind[0] / 3, "less than a third"
assert mean[1] > mean[10] + 10 and ours[0.1] > mean[0.1] + 5

# %% [markdown]
# ## A silent trap: the knob in the wrong place
#
# Pyro has a tool that looks made for this: `poutine.scale` multiplies the log probability of the
# sites within it. So put $\log p(z)$ of the model under a scale of 4, and have $\beta=4$?

# %%
vae = models[3]


def scaled_model(x):
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=4.0):
            z = pyro.sample("z", vae.prior())
        pyro.sample("x", vae.likelihood(z), obs=x)


def scaled_guide(x):
    with pyro.plate("data", len(x)), poutine.scale(scale=4.0):
        pyro.sample("z", vae.posterior(x))


def minus_loss(loss, model, guide):
    pyro.set_rng_seed(0)
    return -loss(num_particles=10).loss(model, guide, scored) / len(scored)


pairs = {
    "nothing scaled": (vae.model, vae.guide),
    "the model's z scaled by 4": (scaled_model, vae.guide),
    "both sites scaled by 4": (scaled_model, scaled_guide),
}
values = {}
print(f"{'':26}{'Trace_ELBO':>12}{'TraceMeanField_ELBO':>22}")
for name, (model, guide) in pairs.items():
    values[name] = [minus_loss(e, model, guide) for e in (Trace_ELBO, TraceMeanField_ELBO)]
    print(f"{name:26}{values[name][0]:12.1f}{values[name][1]:22.1f}")

# %% [markdown]
# In the middle row two estimators of one quantity disagree by tens of nats, and neither is the
# $\beta=4$ of the last row. `Trace_ELBO` computes $4\log p(z) - \log q(z|x)$. Now $p(z)^4$ is, up
# to a constant, a normal of variance $1/4$: we have asked for a *narrower prior*, not for a
# dearer code. `TraceMeanField_ELBO` has a closed form for the KL and takes the scale from the
# guide's site, so it sees no scale at all. Pyro trains either without a word. In `pyrovae` it is
# an error.

# %%
alone, middle, both = values.values()
assert abs(alone[0] - alone[1]) < 1.5 and abs(both[0] - both[1]) < 4
assert abs(middle[0] - both[0]) > 5
assert middle[1] - middle[0] > 15, "tens of nats"
assert abs(middle[1] - alone[1]) < 0.5

try:
    pv.fit(pv.Pair(scaled_model, vae.guide), train, epochs=1, progress=False)
except pv.UsageError as error:
    print(error)
else:
    raise AssertionError("the scale was not noticed")

# %% [markdown]
# ## Units that die at beta = 1
#
# At $\beta=30$ silence is the best answer. But units also fall silent where they should not.
# Early in training the decoder makes nothing of $z$, so the KL is pure cost. The guide learns to
# send the prior, the decoder learns to ignore it, and there they stay: **posterior collapse**, of
# one unit or of all. Deeper networks and larger steps invite it. Here are both, with 20 units and
# $\beta=1$, and two popular remedies:
#
# - **warm-up**: $\beta$ rises from 0 to 1 over training. First use the code, then pay for it.
# - **free bits**: the first 0.1 nats of each unit are free, so nothing is gained by switching it
#   off.

# %%
remedies = {
    "plain ELBO": objectives.BetaELBO(),
    "warm-up": objectives.BetaELBO(schedule=schedules.Linear(epochs=10)),
    "free bits": objectives.FreeBits(nats=0.1),
}
deep = {}
print("             ELBO     KL   log evidence   active   over 0.2 nats")
for name, objective in remedies.items():
    pair = new_vae([200, 200], latent_dim=20)
    pv.fit(pair, train, loss=objective, epochs=10, batch_size=64, lr=4e-3, progress=False)
    deep[name] = pv.evaluate(pair, test, num_particles=100)
    m = deep[name]
    print(
        f"{name:10} {m.elbo.mean():7.1f}  {m.kl.mean():5.1f}  {m.log_evidence.mean():13.1f}"
        f"   {m.active_units:6}   {int((m.kl_dimensions['z'] > 0.2).sum()):13}"
    )

# %% alt="The KL of twenty latent dimensions under three objectives, largest first: most are near zero under the plain ELBO, more are in use with a warm-up, and with free bits the rest lie a little above 0.1 nats."
figure, axes = plt.subplots(3, 1, figsize=(7, 6), sharey=True)
for ax, (name, m) in zip(axes, deep.items(), strict=True):
    pv.plots.kl_bars(m.kl_dimensions["z"], active=m.active["z"], ax=ax)
    ax.set_title(f"{name}: log evidence {m.log_evidence.mean():.0f} nats")
    ax.set(xlabel="", xticks=[])
axes[2].legend().remove()
axes[2].set_xlabel("latent dimensions, the largest KL first");

# %% [markdown]
# A unit that sends the prior has a KL of zero, and most units of the plain run are close to it.
#
# - Warm-up keeps more of them in use, and is worth several nats of log evidence.
# - Free bits make *every* unit count as active, and the log evidence gains less. Most units sit a
#   little above what was free. Count what units carry, not how many are on.
#
# Neither is a cure: one run of each is what you see here, and neither helps where silence is the
# optimum, as at $\beta=30$. After the warm-up the price is the same. Try smaller steps first.

# %%
plain, warm, free = (float(deep[name].log_evidence.mean()) for name in remedies)
low = {name: int((m.kl_dimensions["z"] < 0.2).sum()) for name, m in deep.items()}
assert low["plain ELBO"] >= 8 and deep["free bits"].active_units >= 17
assert warm > plain + 3 and warm > free and abs(free - plain) < 5

# %% [markdown]
# ## Exercises
#
# From easy to hard. **Predict** first, in words; **then compute**, and replace the dots. Every check
# says how exact it wants the answer.
#
# **1.** Which is the smallest of the seven values of $\beta$ whose model has **no** active unit? (See
# `found`.)
#
# **2.** What did each of the seven runs maximise, measured on the test digits? Seven numbers in the
# order of `betas`, from `rec` and `kl`, to a tenth of a nat. Which of them promise to lie below the log
# evidence?
#
# **3.** The trap put $\log p(z)$ under a scale of 4. Up to a constant that is the log density of a
# normal of variance $1/4$. Which constant, for a $z$ of ten dimensions? That is,
# $4\log\mathcal{N}(z;0,I) - \log\mathcal{N}(z;0,I/4)$, to a tenth of a nat.

# %% tags=["exercise"]
answer_1 = ...  # one of betas
answer_2 = ...  # seven numbers, nats
answer_3 = ...  # nats


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


def check_1(answer):
    truth = next(beta for beta in betas if found[beta].active_units == 0)
    right = "the code costs more than it can tell, and every unit is switched off."
    return verdict(answer, truth, 0, right, "found[beta].active_units counts them.")


def check_2(answer):
    truth = [rec[beta] - beta * kl[beta] for beta in betas]
    right = "only from beta = 1 on are they bounds. Below, part of the price was not counted."
    return verdict(answer, truth, 0.06, right, "the KL has a weight, and it is not 1.")


def check_3(answer):
    truth = 10 * (-1.5 * math.log(2 * math.pi) - math.log(2))
    right = "no gradient sees a constant, so the prior was made narrower, and nothing said so."
    return verdict(answer, truth, 0.06, right, "put in any z, and dist.Normal(...).log_prob, summed.")


print(check_1(answer_1), check_2(answer_2), check_3(answer_3), sep="\n")

# %% jupyter={"source_hidden": true} tags=["solution"]
solution_1 = min(beta for beta in betas if found[beta].active_units == 0)
print(solution_1, check_1(solution_1))
assert check_1(solution_1).startswith("Right") and check_1(10).startswith("Not yet")

solution_2 = [float((m.reconstruction - beta * m.kl).mean()) for beta, m in found.items()]
print([f"{value:.1f}" for value in solution_2], check_2(solution_2))
assert check_2(solution_2).startswith("Right")
assert check_2([elbo[beta] for beta in betas]).startswith("Not yet")

z = torch.randn(10, dtype=torch.float64)
wide, narrow = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 0.5)
solution_3 = float((4 * wide.log_prob(z) - narrow.log_prob(z)).sum())
print(f"{solution_3:.1f}", check_3(solution_3))
assert check_3(round(solution_3, 1)).startswith("Right") and check_3(0).startswith("Not yet")
assert check_3(solution_3 / 10).startswith("Not yet")  # one dimension

# %% [markdown]
# ## What to keep
#
# - $\beta$ sets the price of the code. Rate and distortion are what it trades; of the rate, only a
#   part is information, and the rest is the misfit of the aggregate posterior.
# - $\beta<1$ leans to an autoencoder and bounds nothing; $\beta>1$ blurs, and then silences the
#   code.
# - Judge models by the log evidence. Here it was best near $\beta=1$.
# - Give the weight to the objective, never to one site.
# - Dead units can be a trap (warm-up and smaller steps help) or the optimum (change the price).
#
# There is one place where a $\beta$ hides under another name: the noise of the likelihood. That
# is [notebook 8](08_choose_the_likelihood.ipynb).
