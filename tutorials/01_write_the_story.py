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
# You will write that story in Pyro, run it before it has learned anything, make each mistake that
# can be made in it once (with the shapes it produces), and train it in one line.
#
# You need PyTorch. You do not need Pyro. Next: [2. Look the posterior in the
# eye](02_look_the_posterior_in_the_eye.ipynb).

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
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
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

# %% alt="Twenty-four handwritten digits in two rows, 8 by 8 pixels each, every pixel black or white."
digits = pv.data.load("digits")
x_train, x_test = ((split.x >= 8).float() for split in (digits.train, digits.test))
print("train", tuple(x_train.shape), " test", tuple(x_test.shape))
assert len(x_train) + len(x_test) == 1797 and x_train[0].numel() == 64
pv.plots.image_grid(x_train[:24], nrow=12).set_title("24 of the training digits");
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
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


# %% [markdown]
# Four words of Pyro's carry it:
#
# | word | what it says |
# |---|---|
# | `pyro.module(name, network)` | the weights of this network are to be learned |
# | `pyro.sample(name, distribution)` | here something is random, and this is its name |
# | `pyro.sample(..., obs=x)` | this random thing was seen, and its value is `x` |
# | `pyro.plate(name, size)` | what follows happens `size` times, independently |
# | `distribution.to_event(n)` | the last `n` dimensions are *one* thing, with one probability |
#
# Because the program names its random choices, other programs can look at it. `pv.sketch` runs it
# once and notes what depends on what. White circles are hidden (*latent*), grey ones observed, the
# frame is the plate.

# %% alt="A white circle z with an arrow to a grey circle x, both in a frame labelled data, 7."
story = pv.sketch(model, x_train[:7])
print(story)
pv.plots.graph(story).set_title("what depends on what", size=10);
# %% [markdown]
# ## Telling it before learning anything
#
# A story can be told forwards: draw $z$, draw $x$. Pyro's `poutine.uncondition` forgets what was
# observed and draws it instead. This is the *prior predictive*: what the program believes before it
# has seen a single digit. An untrained decoder believes in noise.

# %% alt="Twelve pictures of 8 by 8 pixels that look like noise: each pixel black or white at random."
with torch.no_grad():
    told = poutine.trace(poutine.uncondition(model)).get_trace(x_train[:12])
before = told.nodes["x"]["value"]
pv.plots.image_grid(before, nrow=12).set_title("twelve draws from the untrained program");
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
assert -50 < log_likelihood.mean() < -40  # about 64 fair coins: 64 log 2 = 44.4 nats

# %% [markdown]
# ## Shapes, and what happens when one is forgotten
#
# Every distribution has two shapes. `batch_shape` counts independent draws, each with a log
# probability of its own. `event_shape` is the shape of *one* draw. Seven pictures through our
# program:

# %% alt="Boxes of shapes. z ~ Normal: 7 (data) before the line, 10 (event) after it. x ~ Bernoulli: 7 (data), then 1, 8, 8 (event)."
pv.plots.shapes(story).set_title("batch_shape | event_shape of each site", size=10);

# %% [markdown]
# Blue dimensions must lie in a plate, and orange ones are summed over inside one log probability:
# `log_prob` of either site is a vector of 7.
#
# **Forget `to_event`** and the ten coordinates of $z$ are no longer one point but a batch dimension
# that no plate explains. (We draw it outside the plate, because inside it does not even run, as the
# error below the picture shows. Networks are not registered here: nothing of this is trained.)


# %% alt="Boxes of shapes. z ~ Normal: 7 and 10, both before the line and hatched: they lie in no plate."
def without_to_event(x):
    pyro.sample("z", dist.Normal(x.new_zeros(len(x), 10), 1.0))


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
pv.plots.shapes(pv.sketch(without_to_event, x_train[:7])).set_title("to_event forgotten", size=10);

# %% [markdown]
# "7 vs 10": the plate has 7, the last batch dimension 10. The coordinates of $z$ *are* independent
# under this prior, so why must we call them one event? Because the plate is a claim about the data,
# and `to_event` about the random variable: a datum has one $z$, drawn once, with one log
# probability. **A plate says what is repeated, `to_event` what belongs together.** Only what lies in
# a plate may be cut into batches.
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


# %% alt="Boxes of shapes. The batch dimension 7 of z and of x is hatched: no plate. The event dimensions are 10, and 1, 8, 8."
def forgot_plate(x):
    z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 10), 1.0).to_event(1))
    pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


pv.plots.shapes(pv.sketch(forgot_plate, x_train[:7])).set_title("plate forgotten", size=10)
the_error(lambda: pv.fit(pv.Pair(forgot_plate, any_guide), x_train, epochs=1, progress=False))


# %% [markdown]
# **Forget `sample`** and draw $z$ with plain torch instead. It runs, the pictures look the same,
# but the program no longer says that $z$ is random: there is no circle for it. Nothing can infer
# what has no name.


# %% alt="Two graphs side by side. With pyro.sample a white circle z points to a grey circle x. With torch.randn the circle z is missing."
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

# %% alt="The circles z and x in their frame. A solid arrow of the model leads from z to x, a dashed one of the guide from x to z."
encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 20))


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


pair = pv.Pair(model, guide)
pv.plots.graph(pv.sketch(pair, x_train[:7])).set_title("there and back", size=10, y=1.12);

# %% [markdown]
# Model and guide meet at the site named `"z"`. The name is the contract. Pyro itself only warns
# when the names differ and trains on; here it is an error:


# %%
def guide_of_another_name(x):
    with pyro.plate("data", len(x)):
        pyro.sample("code", dist.Normal(x.new_zeros(10), 1.0).to_event(1))


the_error(lambda: pv.fit(pv.Pair(model, guide_of_another_name), x_train, epochs=1, progress=False))

# %% [markdown]
# ## Where the parameters live
#
# Both programs use networks, and the weights of these are to be learned. Pyro keeps what it learns
# in one global dictionary, the **parameter store**. A tensor comes into it by being declared while a
# program runs: `pyro.module(name, network)` declares all weights of a network,
# `pyro.param(name, start)` one tensor that belongs to no network. Here is one of each, and Pyro's own
# loop, `pyro.infer.SVI`, for sixty steps. (It minimises minus the ELBO, which notebook 3 derives.)


# %%
def brighter(x):
    pyro.module("decoder", decoder)
    ink = pyro.param("ink", torch.tensor(0.0))  # one number, added to all logits
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z) + ink).to_event(3), obs=x)


weights = copy.deepcopy((decoder.state_dict(), encoder.state_dict()))


def sixty_steps(model, guide):
    decoder.load_state_dict(weights[0]), encoder.load_state_dict(weights[1])  # from the start
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3}), Trace_ELBO())
    losses = torch.tensor([svi.step(x_train) for _ in range(60)]) / len(x_train)
    print(f"loss {losses[:5].mean():.1f} in the first five steps, {losses[-5:].mean():.1f} in the last")
    return losses


registered = sixty_steps(brighter, guide)
print("in the store:", *pyro.get_param_store().keys(), sep="\n  ")
assert registered[-5:].mean() < registered[:5].mean() - 10

# %% [markdown]
# **Forget `pyro.module`**, and the store stays empty. `SVI` has nothing to move. It steps on, returns
# a loss that goes up and down with the dice, and says nothing:


# %%
def forgot_module(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


def guide_forgot_module(x):
    with pyro.plate("data", len(x)):
        loc, raw = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


unregistered = sixty_steps(forgot_module, guide_forgot_module)
print("in the store:", list(pyro.get_param_store().keys()))
assert abs(unregistered[-5:].mean() - unregistered[:5].mean()) < 1
assert not list(pyro.get_param_store().keys())
assert all(torch.equal(decoder.state_dict()[name], value) for name, value in weights[0].items())

# %% [markdown]
# pyrovae does not ask the store. It goes back from the loss, along PyTorch's own graph of
# operations, to the tensors that the loss depends on, and trains those: both versions above would
# learn. A pair without any such tensor is an error. And what the programs declare with `pyro.param`
# lives in a store of the pair's own, so that a second model never takes over the first one's
# numbers. Write `pyro.module` all the same: then the programs are also right in Pyro's hands.
#
# ## Learning
#
# Notebook 3 derives what is maximised, the ELBO: a lower bound on $\log p(x)$. For now, one line.
# Everything it needs it reads from traces of the two programs.

# %% alt="Three curves over 80 epochs, all rising: the ELBO from -26 to -18, the reconstruction from -24 to -13, the KL from 2 to 5 nats per datum."
pyro.clear_param_store()
history = pv.fit(pair, x_train, epochs=80, batch_size=64, lr=3e-3, progress=False)
pv.plots.training_curves(history.rows);
# %% [markdown]
# The same story, told forwards again. Above, what the program believed at first; below, what it
# believes now. No picture was copied: each began as ten random numbers.

# %% alt="Two rows of twelve pictures. Before training: noise. After training: strokes that look like digits."
after = pv.sample(pair, 12, seed=1)
pv.plots.strips(
    torch.stack([before, after]), ["before", "after"], title="draws from the program"
);
# %%
found = pv.evaluate(pair, x_test, 200)
print(found)
coins = -64 * math.log(2)
better = found.log_evidence - coins
print(f"\nfair coins: {coins:.1f} nats, {-coins / (64 * math.log(2)):.2f} bits per pixel")
print(f"the program is better by {better.mean():.0f} nats, from {better.min():.0f} to {better.max():.0f}")
bits = found.bits_per_dimension.mean()
assert -22 < found.elbo.mean() < -16
assert 24 < better.mean() < 29 and 5 < better.min() < 18, "more than twenty"
assert 30 < better.max() < 40
assert torch.allclose(found.bits_per_dimension, -found.log_evidence / (64 * math.log(2)))
assert 0.35 < bits < 0.5, "less than half a bit per pixel"

# %% [markdown]
# How good is that? 64 fair coins give every picture $-64 \log 2$ nats, whatever is on it. For
# pictures that were never trained on, the program's $\log p(x)$ is better by more than twenty nats on
# average, though not evenly: the spread from picture to picture is printed above.
#
# **Bits per dimension** say the same in a unit that does not grow with the picture. Divide
# $-\log p(x)$ by the number of pixels, and by $\log 2$ to turn nats into bits. It is the length of
# the shortest code for a picture that the model allows, per pixel. Fair coins need 1; the program
# needs less than half a bit per pixel. Lower is better. It is a number for *discrete* data; a density over real
# numbers changes with their unit, and can be anything (notebook 3). The table's other lines come up
# one by one in the notebooks that follow.
#
# And told backwards and forwards in one go: picture, guess, picture.

# %% alt="Twelve test digits above their reconstructions, which are grey and softer, most of them the same digit."
ax = pv.plots.reconstructions(x_test[:12], pv.reconstruct(pair, x_test[:12]), n=12)
ax.set_title("test digits, and the mean of x given the guess");
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
# **1.** How many log probabilities does `log_prob` return for a batch of 5 codes, if $z$ is drawn from
# `dist.Normal(torch.zeros(5, 10), 1.0)` followed by `.to_event(1)`, by nothing, by `.to_event(2)`?
# Which of the three does a plate of size 5 accept?

# %% tags=["exercise"]
answer_1 = ...  # three whole numbers in a list


def check_1(answer):
    counts = [5, 50, 1]
    right = "one for each datum, one for each coordinate, one for all. The plate wants the first."
    hint = "what is an event has one log probability; count the events."
    return verdict(answer, counts, 0, right, hint)


print(check_1(answer_1))

# %% jupyter={"source_hidden": true} tags=["solution"]
normal = dist.Normal(torch.zeros(5, 10), 1.0)
solution_1 = [normal.to_event(n).log_prob(torch.zeros(5, 10)).numel() for n in (1, 0, 2)]
print(solution_1, check_1(solution_1))
assert check_1(solution_1).startswith("Right") and check_1([5, 10, 1]).startswith("Not yet")

# %% [markdown]
# **2.** The joint density scores any complete story, also an unlikely one. Take the first test picture
# and the idea $z = 0$. Is $\log p(x, z=0)$ larger or smaller than $\log p(z=0)$ alone, and by how
# much, roughly, if the picture is not the one that $z = 0$ decodes to? Compute $\log p(x, z = 0)$
# under the trained model, to a tenth of a nat.

# %% tags=["exercise"]
answer_2 = ...  # nats


def check_2(answer):
    at_zero = poutine.condition(model, {"z": torch.zeros(1, 10)})
    truth = poutine.trace(at_zero).get_trace(x_test[:1]).log_prob_sum().item()
    right = "the prior is highest at 0, and the picture still costs tens of nats there."
    hint = (
        "two log probabilities, each summed over its dimensions: ten of a standard normal at 0, "
        "and 64 Bernoullis with the logits decoder(zeros)."
    )
    return verdict(answer, truth, 0.06, right, hint)


print(check_2(answer_2))

# %% jupyter={"source_hidden": true} tags=["solution"]
with torch.no_grad():
    zero = torch.zeros(1, 10)
    prior = dist.Normal(0.0, 1.0).log_prob(zero).sum()
    pixels = dist.Bernoulli(logits=decoder(zero)).log_prob(x_test[:1]).sum()
solution_2 = (prior + pixels).item()
print(f"log p(z=0) = {prior:.2f}, log p(x | z=0) = {pixels:.2f}, together {solution_2:.2f} nats")
print(check_2(solution_2))
assert check_2(solution_2).startswith("Right") and check_2(round(solution_2, 1)).startswith("Right")
assert check_2(pixels).startswith("Not yet")  # the likelihood alone
assert pixels < -10, "tens of nats"

# %% [markdown]
# **3.** Write a model in which the prior's spread is learned: $z_j \sim \mathcal{N}(0, s_j^2)$, with
# the ten $s_j$ a parameter named `"scale"` that starts at 1 and stays positive
# (`constraint=dist.constraints.positive`). Sites and plate keep their names.

# %% tags=["exercise"]
answer_3 = ...  # a function of x


def check_3(answer):
    if answer is ...:
        return "Predict, then replace the dots."
    hint = "one line before the plate, pyro.param(...), and its value in the Normal."
    try:
        with pyro.get_param_store().scope():
            sites = poutine.trace(answer).get_trace(x_test[:3]).nodes
        z, scale, seen = (sites[name] for name in ("z", "scale", "x"))
        log_prob = z["fn"].log_prob(torch.zeros(3, 10))
        spread = z["fn"].base_dist.scale.expand(3, 10)
    except Exception as error:  # whatever the program does
        words = str(error).splitlines() or [""]
        return f"Not yet: {type(error).__name__}: {words[0]}. Hint: {hint}"
    if scale["type"] != "param" or not torch.equal(scale["value"], torch.ones(10)):
        return f"Not yet: scale is not a parameter of ten ones. Hint: {hint}"
    if spread.grad_fn is None or scale["kwargs"].get("constraint") is not dist.constraints.positive:
        return f"Not yet: the scale is not used, or may become negative. Hint: {hint}"
    if log_prob.shape != (3,) or not torch.equal(seen["value"], x_test[:3]):
        return "Not yet: one log probability for each datum's z, and x observed."
    return "Right: the program declares it, and whoever runs the program can learn it."


print(check_3(answer_3))

# %% jupyter={"source_hidden": true} tags=["solution"]
def solution_3(x):
    pyro.module("decoder", decoder)
    scale = pyro.param("scale", torch.ones(10), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(10), scale).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(3), obs=x)


print(check_3(solution_3))
assert check_3(solution_3).startswith("Right") and check_3(model).startswith("Not yet")
