"""Docstrings are complete, and the sentences that they quote are those that are raised."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import get_overloads

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrovae as pv

VERBS = {
    name: getattr(pv, name) for name in pv.__all__ if inspect.isfunction(getattr(pv, name, None))
}


def functions(path: str, found: object) -> Iterator[tuple[str, object]]:
    """What is public in a module or class of pyrovae, and itself, by its path."""
    yield path, found
    if isinstance(found, ModuleType):
        for name in getattr(found, "__all__", ()):
            yield from functions(f"{path}.{name}", getattr(found, name))
    elif inspect.isclass(found) and found.__module__.startswith("pyrovae"):
        kinds = (property, functools.cached_property, staticmethod, classmethod)
        for name, member in vars(found).items():
            if not name.startswith("_") and (inspect.isfunction(member) or type(member) in kinds):
                yield f"{path}.{name}", getattr(found, name)  # with what it inherits


def test_every_public_object_has_a_docstring() -> None:
    found = [each for name in pv.__all__ for each in functions(name, getattr(pv, name))]
    assert len(found) > 800
    assert [path for path, each in found if not inspect.getdoc(each)] == []


def whole(verb: Callable[..., object]) -> str:
    """A verb's docstring, and those that it sends to for its arguments."""
    doc = inspect.getdoc(verb) or ""
    others = re.findall(r"(?:as in|as of|arguments of)\s+:func:`(?:pyrovae\.)?(\w+)`", doc)
    return "\n".join([doc, *(inspect.getdoc(VERBS[name]) or "" for name in others)])


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_of_a_verb_is_named(name: str) -> None:
    for argument in inspect.signature(VERBS[name]).parameters:
        pattern = rf"^    \*{{0,2}}{argument}: |``{argument}``|``{argument}=|\b{argument}="
        assert re.search(pattern, whole(VERBS[name]), re.MULTILINE), argument


@pytest.mark.parametrize("name", VERBS)
def test_verbs_that_give_tensors_state_their_shapes(name: str) -> None:
    ways = [VERBS[name], *get_overloads(VERBS[name])]
    given = [str(inspect.signature(way).return_annotation) for way in ways]
    if any(re.search(r"^(Observed|Latent)$|\bTensor\b", one) for one in given):
        assert re.search(r"``\[\w[^`]*\]``", inspect.getdoc(VERBS[name]) or ""), given


IN_NATS = ("elbo", "log_evidence", "exact_log_evidence", "evaluate", "gap", "anneal", "sandwich")


@pytest.mark.parametrize("name", IN_NATS)
def test_log_densities_are_in_nats(name: str) -> None:
    assert re.search(r"\bnats\b", whole(VERBS[name]))


# --- what they raise -----------------------------------------------------------------------------

NAN = float("nan")
LOC = torch.zeros(1, requires_grad=True)


def site(name: str, size: int, obs: Tensor | None = None) -> Tensor:
    normal = dist.Normal(LOC.new_zeros(size), 1.0).to_event(1)
    drawn: Tensor = pyro.sample(name, normal, obs=obs)
    return drawn


def pair(model: Callable[..., object], guide: Callable[..., object]) -> pv.Pair:
    """Two programs within a plate over the data."""

    def plated(program: Callable[..., object]) -> Callable[..., None]:
        def run(*args: Tensor) -> None:
            with pyro.plate("data", len(args[0])):
                program(*args)

        return run

    return pv.Pair(plated(model), plated(guide))


def two_latents() -> pv.Pair:
    def latents(x: Tensor) -> None:
        site("a", 2)
        site("b", 1)

    def model(x: Tensor) -> None:
        latents(x)
        site("x", 4, x)

    return pair(model, latents)


def shared_latent() -> pv.Pair:
    def model(x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand([4]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("w", dist.Normal(LOC.sum(), 1.0))

    return pv.Pair(model, guide)


def half_observed() -> pv.Pair:
    """A model that observes the first half of each datum, and makes nothing of the other."""

    def model(x: Tensor) -> None:
        site("z", 2)
        site("x", 2, x[:, :2])

    return pair(model, lambda x: site("z", 2))


def unobserved() -> pv.Pair:
    """A model that takes an argument of which it makes nothing."""

    def model(x: Tensor, y: Tensor) -> None:
        site("z", 2)
        site("x", 4, x)

    return pair(model, lambda x, y: site("z", 2))


def vae() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((4,), 2)


X = torch.bernoulli(torch.full((6, 4), 0.5), generator=torch.Generator().manual_seed(0))
GAPS = X.clone()
GAPS[0, 3] = NAN
MUCH = 10**14

# by verb: calls that fail, each with one of the sentences in its docstring
MISTAKES: dict[str, list[Callable[[], object]]] = {
    "sample": [
        lambda: pv.sample(vae(), 0),
        lambda: pv.sample(vae(), MUCH),
        lambda: pv.sample(two_latents()),
    ],
    "decode": [
        lambda: pv.decode(two_latents(), torch.zeros(3, 2), like=X),
        lambda: pv.decode(vae(), {"y": torch.zeros(3, 2)}),
        lambda: pv.decode(two_latents(), {"a": torch.zeros(3, 2), "b": torch.zeros(2, 1)}, like=X),
        lambda: pv.decode(vae(), torch.zeros(3, 7)),
        lambda: pv.decode(two_latents(), {"a": torch.zeros(3, 2)}),
    ],
    "encode": [lambda: pv.encode(shared_latent(), X)],
    "reconstruct": [
        lambda: pv.reconstruct(vae(), X, draws=-1),
        lambda: pv.reconstruct(vae(), X, num_particles=0),
        lambda: pv.reconstruct(vae(), X, method="mcmc"),
        lambda: pv.reconstruct(vae(), X, draws=MUCH),
    ],
    "interpolate": [
        lambda: pv.interpolate(vae(), X[:1], X[1:2], 1),
        lambda: pv.interpolate(vae(), X[:1], X[1:2], method="sperical"),
        lambda: pv.interpolate(vae(), X[:1], X[1:3]),
        lambda: pv.interpolate(shared_latent(), X[:1], X[1:2]),
        lambda: pv.interpolate(vae(), X[:1], X[1:2], MUCH),
    ],
    "traverse": [
        lambda: pv.traverse(two_latents(), X),
        lambda: pv.traverse(vae(), X, dims=[2]),
        lambda: pv.traverse(vae(), X, steps=0),
        lambda: pv.traverse(vae(), X, span=-1.0),
        lambda: pv.traverse(vae(), X, steps=MUCH),
    ],
    "impute": [
        lambda: pv.impute(vae(), GAPS, draws=-1),
        lambda: pv.impute(vae(), GAPS, num_particles=0),
        lambda: pv.impute(vae(), GAPS, method="guide"),
        lambda: pv.impute(shared_latent(), GAPS),
        lambda: pv.impute(pv.programs.Autoencoder((4,), 2), GAPS),
        lambda: pv.impute(unobserved(), (X, torch.tensor([NAN] * 6))),
        lambda: pv.impute(half_observed(), GAPS),
    ],
    "neighbours": [
        lambda: pv.neighbours(vae(), X, X, 0),
        lambda: pv.neighbours(vae(), X, X, 2.5),  # type: ignore[arg-type]
        lambda: pv.neighbours(vae(), X, X, 7),
        lambda: pv.neighbours(shared_latent(), X, X),
    ],
    "elbo": [
        lambda: pv.elbo(3, X),
        lambda: pv.elbo(vae(), X[:0]),
        lambda: pv.elbo(vae(), X / 0),
        lambda: pv.elbo(vae(), X + 7),
        lambda: pv.elbo(vae(), X[:, :3]),
        lambda: pv.elbo(pv.programs.Autoencoder((4,), 2), X),
    ],
}


def quoted(verb: Callable[..., object]) -> list[str]:
    """The sentences in quotes under "Raises:"."""
    section = (inspect.getdoc(verb) or "").partition("\nRaises:\n")[2].partition("\n\n")[0]
    return re.findall(r'UsageError: "([^"]*)"', re.sub(r"\s+", " ", section))


@pytest.mark.parametrize("name", MISTAKES)
def test_the_sentences_are_those_that_are_raised(name: str) -> None:
    """Every mistake raises a sentence of the docstring, up to its values (...), and every sentence
    of the docstring is raised by one of them."""
    sentences = {text: re.escape(text).replace(r"\.\.\.", ".+") for text in quoted(VERBS[name])}
    raised = set()
    for call in MISTAKES[name]:
        with pytest.raises(pv.UsageError) as caught:
            call()
        said = str(caught.value)
        matching = [text for text, known in sentences.items() if re.match(known, said)]
        assert matching, said
        raised.update(matching)
    assert raised == set(sentences) and sentences


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "elbo"])
def test_verbs_say_of_no_pair_what_elbo_does(name: str) -> None:
    given = {"x": X, "a": X[:1], "b": X[:1], "among": X, "latents": X}
    asked = inspect.signature(VERBS[name]).parameters.keys() & given.keys()
    with pytest.raises(pv.UsageError, match=re.escape("expected a pair: pv.Pair(model, guide)")):
        VERBS[name](3, **{argument: given[argument] for argument in asked})
    assert ":func:`pyrovae.elbo` says of data, and of what is no pair" in VERBS[name].__doc__
