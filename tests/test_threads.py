"""Threads take turns: each gives what it gives alone, and none waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import turns

X = torch.bernoulli(torch.rand(64, 6, generator=torch.Generator().manual_seed(0)))


def vae(seed: int = 0) -> pv.VAE:
    torch.manual_seed(seed)
    return pv.VAE((6,), 2)


def model(x: Tensor) -> None:
    mean = pyro.param("mean", torch.zeros(6))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None] + mean, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    slope, scale = pyro.param("slope", torch.zeros(6)), pyro.param("scale", torch.tensor(1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, scale.exp()))


def fitted(pair: object, seed: int) -> list[Tensor]:
    pv.fit(pair, X, epochs=4, batch_size=16, seed=seed, progress=False)
    return [t.detach().clone() for t in pv.traces.as_pair(pair).tensors().values()]


def works(seed: int) -> list[Callable[[], Any]]:
    """What a thread does, each with a pair of its own."""
    pairs = [vae(seed), vae(seed), vae(seed), vae(seed), pv.Pair(model, guide)]
    evaluated = ("elbo", "log_evidence", "kl", "reconstruction")
    return [
        lambda: fitted(pairs[0], seed),
        lambda: [
            getattr(pv.evaluate(pairs[1], X, 8, seed=seed), name) for name in evaluated
        ],
        lambda: [pv.sample(pairs[2], 20, seed=seed)],
        lambda: [pv.encode(pairs[3], X)],
        lambda: fitted(pairs[4], seed),
    ]  # fmt: skip


@pytest.fixture
def store() -> Iterator[dict[str, Tensor]]:
    """Pyro's own store, as a user has left it."""
    pyro.clear_param_store()
    pyro.param("mean", torch.full((3,), 7.0))
    pyro.param("mine", torch.ones(2))
    yield {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
    pyro.clear_param_store()


def test_threads_give_what_they_give_in_turn(store: dict[str, Tensor]) -> None:
    seeds = range(3)
    alone = [[work() for work in works(seed)] for seed in seeds]
    todo = [work for seed in seeds for work in works(seed)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(len(todo)) as executor:
        done = [future.result() for future in [executor.submit(work) for work in todo]]
    for expected, found in zip([each for row in alone for each in row], done, strict=True):
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    now = dict(pyro.get_param_store().items())
    assert list(now) == list(store) and all(torch.equal(now[n], store[n]) for n in store)
    assert not _PYRO_STACK


def test_verbs_of_one_pair_in_many_threads() -> None:
    pair = vae()
    alone = pv.log_evidence(pair, X, 20)
    with ThreadPoolExecutor(4) as executor:
        for found in executor.map(lambda _: pv.log_evidence(pair, X, 20), range(8)):
            assert torch.equal(found, alone)
    assert pair.training


def test_modules_that_another_thread_trains_keep_their_mode() -> None:
    """A plain network in a thread of its own is not switched to evaluation by a verb."""
    net, stop, seen = nn.Dropout(0.5), threading.Event(), []

    def train() -> None:
        while not stop.is_set():
            seen.append(bool(net.train()(torch.ones(50)).eq(1).all()))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        pv.evaluate(vae(), X, 200)
    finally:
        stop.set()
        thread.join()
    assert not any(seen) and net.training


def test_a_callback_may_ask_in_its_own_thread() -> None:
    found: list[Tensor] = []
    pair, other = vae(), vae(1)

    def look(history: pv.History) -> None:
        found.append(pv.log_evidence(pair, X, 5))
        found.append(pv.log_evidence(other, X, 5))

    pv.fit(pair, X, epochs=2, batch_size=32, callbacks=[look], progress=False)
    assert torch.equal(found[1], found[3]) and not torch.equal(found[0], found[2])


def by_thread(work: Callable[[], object]) -> None:
    def run() -> None:
        try:
            work()
        except pv.UsageError as error:
            errors.append(error)

    errors: list[pv.UsageError] = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def by_executor(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(2) as executor:
        executor.submit(work).result()


def by_map(work: Callable[[], object]) -> None:
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda _: work(), range(3)))


def by_another(work: Callable[[], object]) -> None:
    by_executor(lambda: by_thread(work))


@pytest.mark.parametrize("asked", [by_thread, by_executor, by_map, by_another])
def test_a_thread_that_its_own_holder_waits_for_is_refused(
    asked: Callable[[Callable[[], object]], None],
) -> None:
    pair = vae()

    def look(history: pv.History) -> None:
        asked(lambda: pv.log_evidence(pair, X, 5))

    with pytest.raises(pv.UsageError, match="would wait for ever.*busy with fit"):
        pv.fit(pair, X, epochs=2, batch_size=32, callbacks=[look], progress=False)
    assert torch.isfinite(pv.elbo(pair, X)).all()  # nothing is left locked


def test_long_waits_are_said_and_limited(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "LONG", 0.1)
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.turn("fit"):
            begun.set()
            go.wait(20)

    thread = threading.Thread(target=hold, name="trains")
    thread.start()
    begun.wait()
    with pytest.raises(pv.UsageError, match="busy with fit.*ask again"), turns.at_most(0.5):
        pv.encode(vae(), X)
    assert caplog.text.count("another thread (trains) is busy with fit") == 1
    go.set()
    assert len(pv.encode(vae(), X)) == len(X)
    thread.join()


def test_a_turn_ends_with_its_thread() -> None:
    thread = threading.Thread(target=turns.turn("fit").__enter__)
    thread.start()
    thread.join()
    assert len(pv.encode(vae(), X)) == len(X)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_beside_a_fit_says_so() -> None:
    """Its memory has half of what the other thread was about."""
    program = """
import os, sys, threading, warnings, torch, pyrovae as pv
warnings.simplefilter("ignore")
torch.manual_seed(0)
X, pair, begun, go = torch.ones(40, 6), pv.VAE((6,), 2), threading.Event(), threading.Event()
def look(history):
    begun.set()
    go.wait(60)
def ask():
    child = os.fork()
    if not child:
        try:
            print(len(pv.encode(pv.VAE((6,), 2), X)), flush=True)
        except pv.UsageError as error:
            print(error, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
options = dict(epochs=1, progress=False, callbacks=[look])
thread = threading.Thread(target=lambda: pv.fit(pair, X, **options))
thread.start()
begun.wait()
ask()
go.set()
thread.join()
pv.fit(pair, X, epochs=1, progress=False, callbacks=[lambda history: ask()])
ask()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert "forked while another thread was busy (fit)" in first
    assert others == ["40", "40"]
