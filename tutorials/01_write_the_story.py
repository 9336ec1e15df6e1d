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
# # 1. Write the story
#
# **What is a generative program?** A variational autoencoder is often drawn as an hourglass of
# layers. Here it is a story of how a picture came to be, written as a program that can be run.
# You will write that story in Pyro, run it before it has learned anything, see the three mistakes
# that everyone makes once (with the shapes they produce), and train it in one line.
#
# You need PyTorch. You do not need Pyro. Next: [2. Look the posterior in the
# eye](02_look_the_posterior_in_the_eye.ipynb).

# %%
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

import pyrovae as pv

torch.set_num_threads(1)
plt.rcParams.update(pv.plots.STYLE)
pyro.set_rng_seed(0)

# %% [markdown]
# ## The data
#
# 1,797 handwritten digits of 8 by 8 pixels, from scikit-learn. A pixel counts the ink in a cell of
# a finer scan, 0 to 16. We call it black from 8 on, so that a picture is 64 zeros and ones.

# %%
digits = pv.data.load("digits")
x_train, x_test = ((split.x >= 8).float() for split in (digits.train, digits.test))
print("train", tuple(x_train.shape), " test", tuple(x_test.shape))
pv.plots.image_grid(x_train[:24], nrow=12);
# %% [markdown]
# ## The story
#
# Somebody has an idea of what to write: which digit, how slanted, how heavy. We cannot see the
# idea. We call it $z$, and say only that it is a point in a space of 10 dimensions, drawn from a
# bell curve around zero. That is the **prior**:
#
# $$ z \sim p(z) = \mathcal{N}(0, I). $$
#
# Then the idea becomes ink. A network, the **decoder**, turns $z$ into 64 chances, and every pixel
# is a coin with its own chance. That is the **likelihood**:
#
# $$ x \mid z \sim p(x \mid z) = \prod_{i=1}^{64} \mathrm{Bernoulli}(x_i;\, \sigma(f(z)_i)). $$
#
# Both together are the **joint density** $p(x, z) = p(z)\,p(x \mid z)$. The program below says the
# same, line by line. It is the whole generative model.

# %%
decoder = nn.Sequential(
    nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 64), nn.Unflatten(-1, (1, 8, 8))
)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


# %% [markdown]
# Three words of Pyro's carry it:
#
# | word | what it says |
# |---|---|
# | `pyro.sample(name, distribution)` | here something is random, and this is its name |
# | `pyro.sample(..., obs=x)` | this random thing was seen, and its value is `x` |
# | `pyro.plate(name, size)` | what follows happens `size` times, independently |
# | `distribution.to_event(n)` | the last `n` dimensions are *one* thing, with one probability |
#
# Because the program names its random choices, other programs can look at it. `pv.sketch` runs it
# once and notes what depends on what. White circles are hidden (*latent*), grey ones observed, the
# frame is the plate.

# %%
story = pv.sketch(model, x_train[:7])
print(story)
pv.plots.graph(story);
# %% [markdown]
# ## Telling it before learning anything
#
# A story can be told forwards: draw $z$, draw $x$. Pyro's `poutine.uncondition` forgets what was
# observed and draws it instead. This is the *prior predictive*: what the program believes before it
# has seen a single digit. An untrained decoder believes in noise.

# %%
with torch.no_grad():
    told = poutine.trace(poutine.uncondition(model)).get_trace(x_train[:12])
before = told.nodes["x"]["value"]
pv.plots.image_grid(before, nrow=12);
# %% [markdown]
# `poutine.trace` ran the program and kept a record, the *trace*: the value and the distribution of
# every site. That is all that inference ever needs. In it is also $\log p(x, z)$, the sum over
# sites. Let us check Pyro's sum by hand. The unit of a natural logarithm of a probability is the
# **nat**; we will quote nats per datum throughout.

# %%
seen = poutine.trace(model).get_trace(x_train[:7])  # z is drawn, x is what we gave
z = seen.nodes["z"]["value"]

log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
log_likelihood = dist.Bernoulli(logits=decoder(z)).log_prob(x_train[:7]).sum((-3, -2, -1))
by_hand = (log_prior + log_likelihood).sum()

print(f"by hand {by_hand:.4f}   Pyro {seen.log_prob_sum():.4f}   nats for 7 pictures")
assert torch.isclose(by_hand, seen.log_prob_sum(), atol=1e-3)
assert -50 < log_likelihood.mean() < -40  # 64 fair coins: 64 log 2 = 44.4 nats

# %% [markdown]
# ## Shapes, and what happens when one is forgotten
#
# Every distribution has two shapes. `batch_shape` counts independent draws, each with a log
# probability of its own. `event_shape` is the shape of *one* draw. Seven pictures through our
# program:

# %%
pv.plots.shapes(story);

# %% [markdown]
# Blue dimensions must lie in a plate, and orange ones are summed over inside one log probability:
# `log_prob` of either site is a vector of 7.
#
# **Forget `to_event`** and the ten coordinates of $z$ are no longer one point but a batch dimension
# that no plate explains. (We draw it outside the plate, because inside it does not even run.)


# %%
def without_to_event(x):
    pyro.sample("z", dist.Normal(x.new_zeros(len(x), 10), 1.0))


pv.plots.shapes(pv.sketch(without_to_event, x_train[:7]));


# %%
def forgot_to_event(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0))  # .to_event(1) is missing
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


def the_error(run):
    try:
        run()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    else:
        raise AssertionError("no error")


the_error(lambda: poutine.trace(forgot_to_event).get_trace(x_train[:7]))

# %% [markdown]
# "7 vs 10": the plate has 7, the last batch dimension 10. The coordinates of $z$ *are* independent
# under this prior, so why must we call them one event? Because the plate is a claim about the data,
# and `to_event` about the random variable: a datum has one $z$, drawn once, with one log
# probability.
#
# The nastier case is a batch of exactly 10. Then 10 and 10 agree, and the program runs, with ten
# log probabilities where there should be one:

# %%
lucky = poutine.trace(forgot_to_event).get_trace(x_train[:10]).nodes["z"]
print("value", tuple(lucky["value"].shape), " event_shape", tuple(lucky["fn"].event_shape))
assert lucky["value"].shape == (10,)  # ten numbers for ten pictures, instead of ten points each

# %% [markdown]
# Ten numbers instead of ten points: the decoder took the whole batch for one $z$. pyrovae also runs
# a pair on fewer data than it was given, so that luck of this kind cannot pass in silence:


# %%
def any_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))


the_error(lambda: pv.evaluate(pv.Pair(forgot_to_event, any_guide), x_train[:10]))


# %% [markdown]
# **Forget `plate`** and Pyro does not know that the seven pictures are seven independent ones.


# %%
def forgot_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 10), 1.0).to_event(1))
    pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


pv.plots.shapes(pv.sketch(forgot_plate, x_train[:7]))
the_error(lambda: pv.fit(pv.Pair(forgot_plate, any_guide), x_train, epochs=1, progress=False))


# %% [markdown]
# **Forget `sample`** and draw $z$ with plain torch instead. It runs, the pictures look the same,
# but the program no longer says that $z$ is random: there is no circle for it. Nothing can infer
# what has no name.


# %%
def forgot_sample(x):
    with pyro.plate("data", len(x)):
        z = torch.randn(len(x), 10)  # no pyro.sample
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


_, (left, right) = plt.subplots(1, 2, figsize=(4.6, 3), width_ratios=[1, 1])
pv.plots.graph(story, ax=left).set_title("pyro.sample", size=10)
pv.plots.graph(pv.sketch(forgot_sample, x_train[:7]), ax=right).set_title("torch.randn", size=10);
the_error(lambda: pv.fit(pv.Pair(forgot_sample, any_guide), x_train, epochs=1, progress=False))

# %% [markdown]
# ## Reading the story backwards
#
# Given a picture, which idea was behind it? Bayes' rule says
# $p(z \mid x) = p(z)\,p(x \mid z) / p(x)$, and the denominator is the trouble (notebook 2). So we
# write a second program that *guesses*: the **guide** $q(z \mid x)$. Its network, the **encoder**,
# answers with a centre and a spread for each of the ten coordinates, because several ideas can
# explain one picture. That is a distribution instead of one code.

# %%
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 20))


def guide(x):
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


pair = pv.Pair(model, guide)
pv.plots.graph(pv.sketch(pair, x_train[:7]));

# %% [markdown]
# Model and guide meet at the site named `"z"`. The name is the contract. Pyro itself only warns
# when the names differ and trains on; here it is an error:


# %%
def guide_of_another_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("code", dist.Normal(x.new_zeros(10), 1.0).to_event(1))


the_error(lambda: pv.fit(pv.Pair(model, guide_of_another_name), x_train, epochs=1, progress=False))

# %% [markdown]
# ## Learning
#
# Both programs now have weights that can be better or worse. Notebook 3 derives what is maximised,
# the ELBO: a lower bound on $\log p(x)$. For now, one line. Everything it needs it reads from
# traces of the two programs.

# %%
history = pv.fit(pair, x_train, epochs=80, batch_size=64, lr=3e-3, progress=False)
pv.plots.training_curves(history.rows);
# %% [markdown]
# The same story, told forwards again. Above, what the program believed at first; below, what it
# believes now. No picture was copied: each began as ten random numbers.

# %%
after = pv.sample(pair, 12, seed=1)
pv.plots.strips(torch.stack([before, after]), ["before", "after"]);
# %%
found = pv.evaluate(pair, x_test, 200)
print(found)
assert -22 < found.elbo.mean() < -16

# %% [markdown]
# 64 fair coins give every picture $-64 \log 2 = -44$ nats. The bound is now near -19 nats for
# pictures that were never trained on: each is $e^{25}$ times as probable as under coins. (The other
# lines of the table come up one by one in the notebooks that follow.)
#
# And told backwards and forwards in one go: picture, guess, picture.

# %%
pv.plots.reconstructions(x_test[:12], pv.reconstruct(pair, x_test[:12]), n=12);
# %% [markdown]
# ## The words, once more
#
# | in the papers | in the program |
# |---|---|
# | prior $p(z)$ | the first line of `model` |
# | likelihood $p(x \mid z)$, *decoder* | the second line of `model`, the network in it |
# | generative model $p(x, z)$ | `model` |
# | approximate posterior, inference network $q(z \mid x)$, *encoder* | `guide`, the network in it |
# | latent variable, code | the site `"z"` |
# | one data set of N independent items | `pyro.plate("data", N)` |
#
# The declarative form of the same pair is `pv.VAE((1, 8, 8), latent_dim=10)`; notebook 5 shows that
# they give the same numbers.
#
# ## Exercise
#
# The joint density scores any complete story, also an unlikely one. Take the first test picture and
# the idea $z = 0$.
#
# **Predict**: is $\log p(x, z=0)$ larger or smaller than $\log p(z=0)$ alone, and by how much,
# roughly, if the picture is not the one that $z = 0$ decodes to? **Then code**: compute
# $\log p(x, z = 0)$ in nats under the trained model, and replace the dots.

# %%
answer = ...  # nats


def check(answer, tolerance=0.01):
    if answer is ...:
        return "Predict, then replace the dots."
    first = x_test[:1]
    at_zero = poutine.condition(model, {"z": torch.zeros(1, 10)})
    truth = poutine.trace(at_zero).get_trace(first).log_prob_sum().item()
    if abs(float(answer) - truth) <= tolerance:
        return "Right: the prior is highest at 0, and the picture still costs tens of nats there."
    return (
        "Not yet. Hint: two log probabilities, each summed over its dimensions: ten of a standard "
        "normal at 0, and 64 Bernoullis with the logits decoder(zeros)."
    )


print(check(answer))

# %% jupyter={"source_hidden": true} tags=["solution"]
with torch.no_grad():
    zero = torch.zeros(1, 10)
    prior = dist.Normal(0.0, 1.0).log_prob(zero).sum()
    pixels = dist.Bernoulli(logits=decoder(zero)).log_prob(x_test[:1]).sum()
solution = (prior + pixels).item()
print(f"log p(z=0) = {prior:.2f}, log p(x | z=0) = {pixels:.2f}, together {solution:.2f} nats")
print(check(solution))
assert check(solution).startswith("Right")
assert check(pixels.item()).startswith("Not yet")  # the likelihood alone
