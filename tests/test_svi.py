"""The traced step gives what Pyro's handlers give, or leaves the step to them."""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from test_components import GUIDES, LIKELIHOODS, PRIORS, SMALL, event_of
from test_latents import data, fits, size
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import kernels, traces
from pyrovae.objectives import IWAE, BetaELBO
from pyrovae.svi import Step

X = torch.bernoulli(torch.rand(64, 6, generator=torch.Generator().manual_seed(0)))


def vae(**parts: object) -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((6,), 2, **parts)


def step(pair: object, x: Tensor, loss: ELBO, compile: bool | str = True) -> Step:  # noqa: A002
    program = traces.as_pair(pair)
    return Step(program, loss, traces.parameters(program, (x,)), compile)


def handlers(pair: nn.Module, loss: ELBO, x: Tensor, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    value = loss.differentiable_loss(pair.model, pair.guide, x)
    return [value.detach(), *torch.autograd.grad(value, list(pair.parameters()))]


def convolutional(net: pv.networks.Network) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    pair = pv.VAE(
        (1, 8, 8),
        2,
        likelihood=pv.likelihoods.Normal(net, scale="per_dimension"),
        guide=pv.guides.MeanField(net),
    )
    return pair, torch.rand(16, 1, 8, 8)


KINDS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "Bernoulli": lambda: (vae(), X),
    "convolutions": lambda: convolutional(pv.networks.ConvNet([4], hidden=8)),
    "residual": lambda: convolutional(pv.networks.ResNet([4], hidden=8)),
    "linear-Gaussian": lambda: (pairs.PPCA("diagonal"), pairs.data(8, 5)),
    "full-rank guide": lambda: (pairs.PPCA("exact"), pairs.data(8, 5)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "loss",
    [
        Trace_ELBO(),
        Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1),
        TraceMeanField_ELBO(),
    ],
    ids=["trace", "particles", "analytic"],
)
def test_graph_equals_handlers_on_the_same_noise(kind: str, loss: ELBO) -> None:
    """On data and noise that the graph was not traced or checked on."""
    pair, x = KINDS[kind]()
    traced = step(pair, x, loss)
    for _ in range(3):
        traced((x,))
    assert traced.graphs and not traced.why_not
    ((graph,),) = traced.graphs.values()
    other = x.flip(0).roll(1, -1)
    for seed in range(3):
        torch.manual_seed(seed)
        ours = graph(other)
        theirs = handlers(pair, loss, other, seed)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max() + 1e-3))


def test_training_is_the_same_either_way() -> None:
    """Whole runs agree far below the noise of training, and repeat bit for bit."""
    runs = []
    for compiled in (True, True, False):
        pair = vae()
        pv.fit(pair, X, epochs=20, batch_size=24, compile=compiled, progress=False)
        runs.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.equal(runs[0], runs[1])
    torch.testing.assert_close(runs[0], runs[2], rtol=1e-3, atol=1e-4)


class Normalised(nn.Module):
    """A body with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.net = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.3), nn.Unflatten(1, (2, 2)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net(self.norm(x)).unbind(1))


def normalised() -> tuple[pv.VAE, nn.BatchNorm1d]:
    torch.manual_seed(0)
    body = Normalised()
    return vae(guide=pv.guides.MeanField(body)), body.norm


def test_buffers_move_once_a_step() -> None:
    """BatchNorm's statistics and dropout's masks are those of the handlers."""
    found = []
    for compiled in (True, "auto", False):
        pair, norm = normalised()
        pv.fit(pair, X, epochs=15, batch_size=32, compile=compiled, progress=False)
        assert int(norm.num_batches_tracked) == 30  # two steps an epoch, none of them twice
        found.append(torch.cat([t.flatten() for t in pair.state_dict().values()]))
    torch.testing.assert_close(found[0], found[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=1e-4)


def test_programs_that_look_at_their_values_are_left_to_the_handlers() -> None:
    class Looks(pv.VAE):
        def guide(self, x: Tensor) -> Tensor:
            return super().guide(x if x.sum() > 0 else -x)

    torch.manual_seed(0)
    traced = step(Looks((6,), 2), X, Trace_ELBO())
    with pytest.warns(UserWarning, match="not compiled"):
        traced((X,))
    assert not traced.graphs
    assert traced((X,)) > 0


@pytest.mark.parametrize("loss", [TraceEnum_ELBO(max_plate_nesting=1), TraceGraph_ELBO()])
def test_other_losses_are_left_to_the_handlers(loss: ELBO) -> None:
    bed = pairs.mixture_in_guide()
    weight = nn.Parameter(torch.zeros(()))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = torch.stack([weight * x, x * 0, x * 0], -1)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    model = bed.pair.model
    traced = step(pv.Pair(model, guide), bed.args[0], loss, compile="auto")
    for _ in range(3):
        with traced.pair.scope():
            traced(bed.args)
    assert not traced.graphs
    assert weight.grad is not None


def test_a_value_changed_between_epochs_is_followed() -> None:
    """A plain Python number, changed by a callback, as annealing often is."""

    class Annealed(pv.VAE):
        beta = 0.0

        def model(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                with pyro.poutine.scale(scale=1.0 + self.beta):
                    z = pyro.sample("z", self.prior())
                pyro.sample("x", self.likelihood(z), obs=x)

        def guide(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)), pyro.poutine.scale(scale=1.0 + self.beta):
                pyro.sample("z", self.posterior(x))

    def trained(compiled: bool) -> Tensor:
        torch.manual_seed(0)
        pair = Annealed((6,), 2)

        def anneal(history: pv.History) -> None:
            pair.beta = 1.0 * len(history.rows)

        pv.fit(
            pair, X, epochs=14, batch_size=16, callbacks=[anneal], compile=compiled, progress=False
        )
        return torch.cat([p.detach().flatten() for p in pair.parameters()])

    torch.testing.assert_close(trained("auto"), trained(False), rtol=1e-3, atol=1e-4)


def test_validation_and_pyros_own_functions_are_put_back() -> None:
    import pyro.infer.trace_elbo as module

    before = module.torch_item, module.warn_if_nan
    traced = step(vae(), X, Trace_ELBO())
    traced((X,))
    assert (module.torch_item, module.warn_if_nan) == before
    with pytest.raises(ValueError, match="scale"):
        dist.Normal(0.0, torch.tensor(-1.0))


def catalogue() -> dict[str, Callable[[], tuple[pv.VAE, tuple[Tensor, ...]]]]:
    """A pair and data for every row of the tables of components."""

    def of(prior: object = None, likelihood: object = None, guide: object = None) -> object:
        def made() -> tuple[pv.VAE, tuple[Tensor, ...]]:
            torch.manual_seed(0)
            parts = [make() if make else None for make in (prior, likelihood, guide)]
            p, like, q = parts
            if q is None and p is not None:
                q = next(g for g in (m() for m in GUIDES.values()) if fits(p, g))
            if p is None and q is not None:
                p = next(p for p in (m() for m in PRIORS.values()) if fits(p, q))
            q = q or pv.guides.MeanField(SMALL)
            like = like or pv.likelihoods.Bernoulli(SMALL)
            event = event_of(like)
            pair = pv.VAE(event, size(q), p, like, q)
            with torch.no_grad():
                x = pair.likelihood(torch.randn(16, pair.latent_dim)).sample()
            return pair, data(pair, x)

        return made

    return (
        {f"prior {name}": of(prior=make) for name, make in PRIORS.items()}
        | {f"likelihood {name}": of(likelihood=make) for name, make in LIKELIHOODS.items()}
        | {f"guide {name}": of(guide=make) for name, make in GUIDES.items()}
    )


CATALOGUE = catalogue()


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_the_whole_catalogue_compiles(name: str, dtype: torch.dtype, relative: float) -> None:
    """Loss and every gradient are the handlers', on noise and data not traced on."""
    pair, args = CATALOGUE[name]()
    pair.to(dtype)
    args = tuple(a.to(dtype) if a.is_floating_point() else a for a in args)
    program, loss = traces.as_pair(pair), BetaELBO()
    with program.scope(), pyro.validation_enabled(False):
        traced = Step(program, loss, traces.parameters(program, args), "auto")
        for _ in range(2):
            traced(args)
        assert not traced.why_not, traced.why_not
        ((graph,),) = traced.graphs.values()
        other = tuple(a.flip(0) for a in args)
        torch.manual_seed(7)
        ours = graph(*other)
        torch.manual_seed(7)
        value = traced.by_handlers(other)
    assert float((ours[0] - value).abs()) <= relative * (1 + float(value.abs()))
    largest = max(float(p.grad.abs().max()) for p in traced.parameters.values() if p.numel())
    for grad, p in zip(ours[1:], traced.parameters.values(), strict=True):
        if p.numel():
            allowed = relative * max(float(p.grad.abs().max()), 1e-2 * largest)
            assert float((grad - p.grad).abs().max()) <= allowed


def missing() -> tuple[pv.Pair, Tensor]:
    x = X.masked_fill(
        torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) < 0.3, math.nan
    )
    return traces.completing(traces.as_pair(vae()), (x,)), x


def enumerated() -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(0)
    guide = pv.guides.OneHot(SMALL, categories=3, enumerate=True)
    pair = pv.VAE((6,), 3, pv.priors.OneHot(3), pv.likelihoods.Bernoulli(SMALL), guide)
    return traces.as_pair(pair), X


def subsampled() -> tuple[pv.Pair, Tensor]:
    pair = vae()

    def model(x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample_size=len(x)):
            z = pyro.sample("z", pair.prior())
            pyro.sample("x", pair.likelihood(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample_size=len(x)):
            pyro.sample("z", pair.posterior(x))

    return pv.Pair(model, guide), X


@pytest.mark.parametrize("make", [missing, enumerated, subsampled], ids=lambda f: f.__name__)
@pytest.mark.parametrize("loss", [BetaELBO(2.0), IWAE(3)], ids=["BetaELBO", "IWAE"])
def test_other_programs_compile(make: Callable[[], tuple[pv.Pair, Tensor]], loss: ELBO) -> None:
    pair, x = make()
    with pair.scope(), pyro.validation_enabled(False):
        traced = Step(pair, loss, traces.parameters(pair, (x,)), "auto")
        for _ in range(2):
            traced((x,))
        assert not traced.why_not, traced.why_not
        ((graph,),) = traced.graphs.values()
        other = x.flip(0)
        torch.manual_seed(7)
        ours = graph(other)
        torch.manual_seed(7)
        value = traced.by_handlers((other,))
    torch.testing.assert_close(ours[0], value, rtol=1e-4, atol=1e-4)
    for grad, theirs in zip(ours[1:], [p.grad for p in traced.leaves], strict=True):
        torch.testing.assert_close(grad, theirs, rtol=1e-3, atol=1e-3)


OPTIMISERS: dict[str, Callable[[], pyro.optim.PyroOptim]] = {
    "Adam": lambda: pyro.optim.Adam({"lr": 1e-2, "betas": (0.8, 0.99)}),
    "AdamW, by name": lambda: pyro.optim.AdamW(
        lambda name: {"lr": 0.02 if "body" in name else 0.01}
    ),
    "SGD, clipped": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}, {"clip_norm": 0.5}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2, "clip_norm": 0.1}),
    "scheduled": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.7}
    ),
}


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_svi_takes_pyros_steps(kind: str) -> None:
    """Same constructor, same step: weights and states after 24 steps on the same noise."""
    ends = []
    for make in (pv.SVI, pyro.infer.SVI):
        pyro.clear_param_store()
        pair, optim = vae(), OPTIMISERS[kind]()

        def model(x: Tensor, pair: pv.VAE = pair) -> None:
            pyro.module("pair", pair)
            pair.model(x)

        options = {"compile": "auto"} if make is pv.SVI else {}
        inference = make(model, pair.guide, optim, Trace_ELBO(), **options)
        torch.manual_seed(4)
        losses = []
        for step in range(24):
            if kind == "scheduled" and step in (5, 11):
                optim.step()
            torch.manual_seed(step)
            losses.append(float(inference.step(X)))
        state = optim.get_state()
        ends.append((losses, [p.detach().clone() for p in pair.parameters()], state))
    pyro.clear_param_store()
    (ours, weights, state), (theirs, their_weights, their_state) = ends
    assert ours == pytest.approx(theirs, rel=1e-4)
    for a, b in zip(weights, their_weights, strict=True):
        # Adam turns the last digits of a gradient that is nearly zero into a step
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert set(state) == set(their_state)


def test_svi_says_what_it_leaves_to_pyro() -> None:
    pyro.clear_param_store()
    pair = vae()

    def model(x: Tensor) -> None:
        pyro.module("pair", pair)
        pair.model(x)

    optim = pyro.optim.Adam({"lr": 1e-2})
    inference = pv.SVI(model, pair.guide, optim, TraceGraph_ELBO())
    with pytest.warns(UserWarning, match="TraceGraph_ELBO has no differentiable_loss"):
        losses = [float(inference.step(X))]
    losses += [float(inference.step(X)) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5])
    pyro.clear_param_store()


def test_kernels_give_what_the_handlers_give() -> None:
    """torch.compile's kernels over whole runs, every tenth step of them Pyro's; 5 seeds."""
    for seed in range(5):
        ends = []
        for compiled in (True, False):
            pair = vae()
            pv.fit(pair, X, epochs=20, batch_size=32, seed=seed, compile=compiled, progress=False)
            ends.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [Trace_ELBO(), TraceMeanField_ELBO()], ids=["trace", "analytic"])
def test_large_products_give_the_same_by_another_library(
    loss: ELBO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MKL is slow; forced here, on whichever CPU."""
    replaced: list[object] = []
    replace = kernels._replace

    def counted(*args: object) -> None:
        replaced.append(args[1])
        replace(*args)

    monkeypatch.setattr(kernels, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(kernels, "LEAST", 100)
    monkeypatch.setattr(kernels, "_replace", counted)
    pair = vae()
    x = X[:21]  # a shape of its own, lest kernels be found made
    import torch._inductor.config as config

    with config.patch(force_disable_caches=True):
        traced = step(pair, x, loss)
        for _ in range(3):
            traced((x,))
    assert len(replaced) >= 8
    assert not traced.why_not
    assert not traced.why_no_kernels
    ((graph,),) = traced.graphs.values()
    for seed in range(3):
        torch.manual_seed(seed)
        ours = graph(x.flip(0))
        for a, b in zip(ours, handlers(pair, loss, x.flip(0), seed), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max() + 1e-3))


def test_auto_compiles_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"epochs": 40, "batch_size": 8, "compile": "auto"}
    pv.fit(vae(), X, **settings)
    assert "compiling" not in capsys.readouterr().err
    monkeypatch.setattr(kernels, "COMPILE_SECONDS", 0.0)
    pv.fit(vae(), X, **settings)  # a graph of many operations takes longer to compile
    assert "compiling" not in capsys.readouterr().err
    monkeypatch.setattr(kernels, "COMPILE_NODE_SECONDS", 0.0)
    pv.fit(vae(), X, **settings)
    assert re.search(r"compiling the step: about \d+ s to be saved", capsys.readouterr().err)


def test_without_a_compiler_the_graph_is_used() -> None:
    import torch._inductor.config as config

    program = traces.as_pair(vae())
    x = X[:23]  # a shape of its own, lest kernels be found made
    traced = Step(program, Trace_ELBO(), traces.parameters(program, (x,)), True)
    no_compiler = {"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}
    with config.patch(no_compiler), pytest.warns(UserWarning, match="does not work here"):
        traced((x,))
    assert traced.graphs and not traced.why_not
    assert float(traced((x,))) > 0


def test_bfloat16_trains_near_float32() -> None:
    ends = []
    for precision in ("float32", "bf16"):
        pair = vae()
        pv.fit(pair, X, epochs=40, batch_size=32, lr=5e-3, precision=precision, progress=False)
        assert all(p.dtype == torch.float32 for p in pair.parameters())
        ends.append(float(pv.elbo(pair, X, 100).mean()))
    assert ends[0] == pytest.approx(ends[1], abs=0.05)
    assert ends[0] != ends[1]


def test_ten_thousand_steps_leak_nothing() -> None:
    program = traces.as_pair(vae())
    traced = Step(program, Trace_ELBO(), traces.parameters(program, (X,)), True)

    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    seen = []
    for count in range(10_000):
        traced((X,))
        if count in (1000, 9999):
            gc.collect()
            seen.append(resident())
    assert seen[1] < 1.01 * seen[0]


def test_mistake_speaks() -> None:
    with pytest.raises(pv.UsageError, match="compile must be 'auto', True or False"):
        pv.fit(vae(), X, batch_size=8, compile="always", progress=False)
