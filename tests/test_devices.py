"""Everything on a GPU: no operation mixes devices, results lie where they should, and the numbers
are the CPU's.

Where there is no GPU one is made up (devices.py), which draws the CPU's noise: whatever comes out
is held against the CPU's answer, number by number. Where there is one, the same rooms run on it;
its noise is its own, so there only places and shapes are compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from devices import Elsewhere, moved
from pyro import infer, poutine
from pyro.ops.indexing import Vindex
from test_components import GUIDES, LIKELIHOODS, NETWORKS, PRIORS, SMALL, event_of
from test_latents import fits, size
from test_objectives import OBJECTIVES
from test_programs import ROWS
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import guides, likelihoods, objectives, priors
from pyrovae.program import Program

Batch = tuple[Tensor, ...]
Case = tuple[Program, Batch]  # on the CPU
N = 8

# A GPU of fakes is called "cuda". What differentiates is called "lazy", a kind of device whose
# gradients PyTorch's engine computes in the calling thread: for CUDA's it asks the driver.
FAKE, DIFFERENTIABLE = "cuda:0", "lazy:0"
REAL = pytest.param(
    "real", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
)
places = pytest.mark.parametrize("place", ["made up", REAL])


def vae(
    prior: priors.Prior | None = None,
    guide: guides.Guide | None = None,
    likelihood: likelihoods.Likelihood | None = None,
) -> Case:
    """A VAE of these parts and the first others that suit them, and data that it draws."""
    every = [make() for make in GUIDES.values()]
    guide = guide or next(g for g in every if prior is None or fits(prior, g))
    prior = prior or next(p for p in (make() for make in PRIORS.values()) if fits(p, guide))
    likelihood = likelihood or likelihoods.Bernoulli(SMALL)
    pair = pv.VAE(event_of(likelihood), size(guide), prior, likelihood, guide)
    labels = (torch.arange(N) % 3,) if prior.takes_labels else ()
    return pair, (pv.sample(pair, N), *labels)


def program(name: str) -> Case:
    row = ROWS[name]
    made = row.make()
    return made, made.serve(row.data().select(range(N)))[:]


CASES: dict[str, Callable[[], Case]] = {
    **{f"prior {n}": lambda m=m: vae(prior=m()) for n, m in PRIORS.items()},
    **{f"guide {n}": lambda m=m: vae(guide=m()) for n, m in GUIDES.items()},
    **{f"likelihood {n}": lambda m=m: vae(likelihood=m()) for n, m in LIKELIHOODS.items()},
    **{
        f"network {n}": lambda m=m: vae(
            guide=guides.MeanField(m()), likelihood=likelihoods.Bernoulli(m())
        )
        for n, m in NETWORKS.items()
    },
    **{f"program {n}": lambda n=n: program(n) for n in ROWS},
}


def call(batch: Batch) -> Any:
    return batch if len(batch) > 1 else batch[0]


def part(batch: Batch, *rows: int) -> Any:
    return call(tuple(a[slice(*rows)] for a in batch))


def broken(batch: Batch) -> Any:
    x = batch[0].clone()
    x.view(N, -1)[::2, 0] = torch.nan
    return call((x, *batch[1:]))


def sites(pair: Any, batch: Batch) -> dict[str, Tensor]:
    """What the two programs draw and observe."""
    with torch.no_grad():
        guide = poutine.trace(pair.guide).get_trace(*batch)
        model = poutine.trace(poutine.replay(pair.model, guide)).get_trace(*batch)
    return {
        f"{which} {name}": site["value"]
        for which, trace in (("guide", guide), ("model", model))
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site)
    }


# Each verb gives its results on the CPU: so their docstrings, the figures and tables made of them.
VERBS: dict[str, Callable[[Any, Batch], object]] = {
    "evaluate": lambda p, b: vars(pv.evaluate(p, call(b), 30)),
    "elbo": lambda p, b: pv.elbo(p, call(b), 2),
    "log_evidence": lambda p, b: pv.log_evidence(p, call(b), 3),
    "sample": lambda p, b: pv.sample(p, 3),
    "encode": lambda p, b: pv.encode(p, call(b)),
    "decode": lambda p, b: pv.decode(p, pv.encode(p, call(b))),
    "reconstruct": lambda p, b: pv.reconstruct(p, call(b), num_particles=2),
    "impute": lambda p, b: pv.impute(p, broken(b), num_particles=3),
}
# Those that differ from the ones above in how they handle codes, not in what they ask of a pair.
WALKS: dict[str, Callable[[Any, Batch], object]] = {
    "sample mean": lambda p, b: pv.sample(p, 3, mean=True),
    "reconstruct draws": lambda p, b: pv.reconstruct(p, call(b), draws=2),
    "interpolate": lambda p, b: pv.interpolate(p, part(b, 0, 2), part(b, 2, 4), 3),
    "interpolate spherical": lambda p, b: pv.interpolate(
        p, part(b, 0, 2), part(b, 2, 4), 3, method="spherical"
    ),
    "traverse": lambda p, b: pv.traverse(p, call(b), steps=3),
    "impute draws": lambda p, b: pv.impute(p, broken(b), draws=2, num_particles=3),
    "neighbours": lambda p, b: pv.neighbours(p, call(b), call(b), 2),
}


# programs, but for their variants, and a part of each kind
WHOLE = (
    *(n for n in CASES if n.startswith("program") and n.count(" ") == 1),
    "prior Conditional", "guide RelaxedOneHot", "likelihood Mixed", "likelihood Normal",
)  # fmt: skip
# a vector, labels, several arguments, several latents, discrete ones
WALKED = ("prior Normal", "program Conditional", "program Multimodal", "program SpikeAndSlab",
          "program DiscreteCode")  # fmt: skip


def asked(question: Callable[[Any, Batch], object], pair: Any, batch: Batch) -> object:
    """The answer, or the words of the refusal."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    try:
        return question(pair, batch)
    except pv.UsageError as error:
        return str(error)


def told(answer: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What an answer consists of, by name."""
    if isinstance(answer, dict | tuple | list):
        each = answer.items() if isinstance(answer, dict) else enumerate(answer)
        for key, value in each:
            yield from told(value, f"{name} {key}")
    else:
        yield name, answer


def same(ours: object, theirs: object, device: str, exact: bool) -> None:
    """Whether two answers agree, the second's tensors on a device."""
    pairs = zip(told(ours), told(theirs), strict=True)
    for (name, a), (other, b) in pairs:
        assert name == other
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            assert type(a) is type(b) and (a == b or not exact), name
            continue
        assert (b.device.type, b.shape, b.dtype) == (device, a.shape, a.dtype), name
        if exact:
            torch.testing.assert_close(
                b.value, a, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
            )


def ask_both(
    case: Case,
    questions: dict[str, Callable[[Any, Batch], object]],
    place: str,
    *,
    device: str = FAKE,
    results: str = "cpu",  # where they lie; "" for the pair's device
    data: str = "",
) -> None:
    """Put questions to a pair here and to its copy elsewhere, and compare what they say."""
    pair, batch = case
    real = place == "real"
    device = FAKE if real else device
    twin = copy.deepcopy(pair)
    ours = {name: asked(question, pair, batch) for name, question in questions.items()}
    with nullcontext() if real else Elsewhere() as elsewhere:
        twin = twin.to(device) if real else moved(twin, device)
        there = tuple(a.to(data or device) for a in batch)
        theirs = {name: asked(question, twin, there) for name, question in questions.items()}
    assert real or not elsewhere.mixed, elsewhere.mixed
    for name in questions:
        same({name: ours[name]}, {name: theirs[name]}, results or device.split(":")[0], not real)


def at(name: str) -> str:
    """A GRU on CUDA has kernels of its own, which the CPU has no twin of."""
    return DIFFERENTIABLE if "DeepMarkov" in name else FAKE


@places
@pytest.mark.parametrize("name", CASES)
def test_verbs(name: str, place: str) -> None:
    """Every verb on every program; on the parts, those that run all that they can do."""
    questions = {n: VERBS[n] for n in ("evaluate", "sample")}
    ask_both(CASES[name](), VERBS if name in WHOLE else questions, place, device=at(name))


@places
@pytest.mark.parametrize("name", WALKED)
def test_walks(name: str, place: str) -> None:
    ask_both(CASES[name](), WALKS, place, device=at(name))


@places
@pytest.mark.parametrize("name", ["prior Normal", "program Multimodal"])
def test_data_may_stay_on_the_cpu(name: str, place: str) -> None:
    ask_both(CASES[name](), VERBS, place, data="cpu")


def told_of_training(loss: infer.ELBO) -> infer.ELBO:
    if isinstance(loss, objectives.Objective):
        loss.prepare(100)
        loss.clock(1.0, 10)
    return loss


def gradients(make: Callable[[], infer.ELBO]) -> Callable[[Any, Batch], object]:
    """The loss, and its gradient by every parameter."""

    def found(pair: Any, batch: Batch) -> object:
        loss = told_of_training(make())
        value = loss.loss_and_grads(pair.model, pair.guide, *batch)
        return value, {n: p.grad for n, p in pair.named_parameters() if p.grad is not None}

    return found


LOSSES: dict[str, Callable[[], infer.ELBO]] = {
    **OBJECTIVES,
    "Trace_ELBO": lambda: infer.Trace_ELBO(num_particles=2),
    "Trace_ELBO vectorised": lambda: infer.Trace_ELBO(2, 1, vectorize_particles=True),
    "TraceMeanField_ELBO": infer.TraceMeanField_ELBO,
    "TraceGraph_ELBO": infer.TraceGraph_ELBO,
    "TraceEnum_ELBO": lambda: infer.TraceEnum_ELBO(max_plate_nesting=1),
    "RenyiELBO": lambda: infer.RenyiELBO(0.5, 2),
}


@places
@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
def test_losses(make: Callable[[], infer.ELBO], place: str) -> None:
    enumerates = isinstance(make(), infer.TraceEnum_ELBO)
    case = CASES["program GaussianMixture" if enumerates else "prior Normal"]()

    def loss(pair: Any, batch: Batch) -> object:
        with torch.no_grad():
            return told_of_training(make()).loss(pair.model, pair.guide, *batch)

    ask_both(case, {"loss": loss}, place)
    found = {"gradients": gradients(make)}
    ask_both(case, found, place, device=DIFFERENTIABLE, results="")


@places
@pytest.mark.parametrize("name", CASES)
def test_programs(name: str, place: str) -> None:
    """While training: sites and gradients lie where the parameters lie."""
    loss = objectives.BetaELBO if name.startswith("program") else infer.Trace_ELBO
    found = {"sites": sites, "gradients": gradients(loss)}
    ask_both(CASES[name](), found, place, device=DIFFERENTIABLE, results="")


class Chain(nn.Module):
    """Two hidden classes, one after the other, each seen through noise: summed out by message
    passing, which takes gradients by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3, 2, 2))
        self.loc = nn.Parameter(torch.tensor([-1.0, 2.0]))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = 0
            for t in pyro.markov(range(3)):
                p = dist.Categorical(logits=Vindex(self.logits)[t, y])
                y = pyro.sample(f"y{t}", p, infer={"enumerate": "parallel"})
                pyro.sample(f"x{t}", dist.Normal(self.loc[y], 1.0), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        """Nothing is left to draw."""


@places
def test_message_passing(place: str) -> None:
    case = Chain(), (torch.randn(N, 3),)
    some = {n: VERBS[n] for n in ("evaluate", "elbo", "log_evidence", "sample", "reconstruct")}
    ask_both(case, some, place, device=DIFFERENTIABLE)


@places
def test_what_refines_and_tests_guides(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short = tuple(replace(path, chains=3, temperatures=4) for path in pv.evaluation.GAP_PATHS)
    monkeypatch.setattr(pv.evaluation, "GAP_PATHS", short)
    questions = {
        "gap": lambda p, b: vars(pv.gap(p, b[0], steps=2, num_particles=5)),
        "exact": lambda p, b: pv.exact_log_evidence(p, b[0]),
        "calibrate": lambda p, b: pv.calibrate(p, b[0], simulations=20).ranks,
        "fit_codes": lambda p, b: pv.fit_codes(p, b[0], "mixture", components=2).sample(3),
    }
    ask_both(CASES["prior Normal"](), questions, place, device=DIFFERENTIABLE)


@places
def test_khat_lies_where_its_weights_do(place: str) -> None:
    with nullcontext() if place == "real" else Elsewhere():
        for particles in (10, 100):  # too few for a tail, and enough
            weights = torch.randn(particles, 4, device=FAKE)
            assert pv.evaluation.pareto_khat(weights).device == weights.device


class Wrong(nn.Module):
    """A program with a constant that was made on the CPU, of so many numbers."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.constant = torch.ones(shape)  # no buffer: it stays where it was made

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.constant, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x), 2), 1.0).to_event(1))


@places
def test_a_wrong_program_fails(place: str) -> None:
    """Of one number, without a dimension, it is right: torch moves that along."""
    x, question = torch.randn(N, 2), {"elbo": VERBS["elbo"]}
    ask_both((Wrong(), (x,)), question, place)
    with pytest.raises(AssertionError, match="same device" if place == "made up" else None):
        ask_both((Wrong(2), (x,)), question, place)


MISTAKES: dict[str, tuple[Callable[[Tensor], object], type[Exception], str]] = {
    "sum": (lambda x: x + torch.ones(2), RuntimeError, "same device"),
    "comparison": (lambda x: torch.equal(x, torch.ones(2)), RuntimeError, "same device"),
    "choice": (lambda x: torch.masked_select(x, torch.ones(2) > 0), RuntimeError, "device"),
    "generator": (
        lambda x: torch.rand(2, device=x.device, generator=torch.Generator()),
        RuntimeError,
        "generator",
    ),
    "numpy": (lambda x: x.numpy(), TypeError, "can't convert"),
}


@places
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_raises(name: str, place: str) -> None:
    mistake, error, words = MISTAKES[name]
    with nullcontext() if place == "real" else Elsewhere():
        x = torch.ones(2, device=FAKE)
        mistake(x.cpu())
        with pytest.raises(error, match=words):
            mistake(x)
