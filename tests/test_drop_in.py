"""``pv.SVI`` where ``pyro.infer.SVI`` stood: the same parameters are trained, by the same options,
on the same arguments, with the same mistakes found."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.optim as optim
import pytest
import test_fingerprint
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from test_fingerprint import STEPS, Base, Made, X, held_against_pyro, of, trained
from torch import Tensor, nn
from torch.optim import lr_scheduler

import pyrovae as pv

# --- what is trained ------------------------------------------------------------------------------


def two_signatures() -> Made:
    """Kingma's M2: labels come with every other batch, and with them a network."""

    class M2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dec, self.enc, self.label = nn.Linear(5, 5), nn.Linear(8, 4), nn.Linear(5, 3)

        def model(self, x: Tensor, y: Tensor | None = None) -> None:
            pyro.module("dec", self.dec)
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=y)
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                loc = self.dec(torch.cat([z, torch.eye(3)[y]], -1))
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor, y: Tensor | None = None) -> None:
            pyro.module("enc", self.enc)
            with pyro.plate("data", len(x)):
                if y is None:
                    pyro.module("label", self.label)
                    y = pyro.sample("y", dist.Categorical(logits=self.label(x)))
                loc, raw = self.enc(torch.cat([x, torch.eye(3)[y]], -1)).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))

    pair = M2()
    return pair.model, pair.guide, lambda k: None


LABELS = torch.arange(len(X)) % 3


def test_a_signature_brings_its_own_parameters() -> None:
    inference = held_against_pyro(
        two_signatures, calls=lambda k: ((X,) if k % 2 else (X, LABELS), {})
    )
    assert not inference.evaluate.why_not
    counts = sorted(len(g.leaves) for gs in inference.evaluate.graphs.values() for g in gs)
    assert counts == [4, 6]


def test_a_parameter_first_used_at_step_20() -> None:
    def made() -> Made:
        class Late(Base):
            late = False

            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(torch.zeros(5))

            def model(self, x: Tensor) -> None:
                super().model(x - pyro.param("shift", torch.ones(5)) if self.late else x)

        pair = Late()
        return of(pair, lambda k: setattr(pair, "late", k >= 20))

    inference = held_against_pyro(made)
    assert not inference.evaluate.why_not


def test_a_parameter_that_comes_and_goes_keeps_its_momentum() -> None:
    """Named and not reached: it moves by its momentum, as with Pyro."""

    def made() -> Made:
        class Blinking(Base):
            on = True

            def weight(self) -> Tensor:
                raw = pyro.param("raw", torch.tensor(1.0))
                return (raw if self.on else raw.detach()).exp()

        pair = Blinking()
        return of(pair, lambda k: setattr(pair, "on", k // 6 % 2 == 0))

    held_against_pyro(made)


def baseline() -> Made:
    enc, dec, base = nn.Linear(5, 1), nn.Linear(1, 5), nn.Linear(5, 1)

    def model(x: Tensor) -> None:
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(dec(k[:, None]), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("enc", enc)
        pyro.module("base", base)
        with pyro.plate("data", len(x)):
            infer = {"baseline": {"baseline_value": base(x)[:, 0]}}
            pyro.sample("k", dist.Bernoulli(logits=enc(x)[:, 0]), infer=infer)

    return model, guide, lambda k: None


def test_a_baseline_network_is_trained() -> None:
    pyro.clear_param_store()
    inference = held_against_pyro(baseline, TraceGraph_ELBO)
    assert len(inference.evaluate.leaves) == 6


@pytest.mark.parametrize(
    "loss", [RenyiELBO, ReweightedWakeSleep, TraceGraph_ELBO], ids=lambda loss: loss.__name__
)
def test_losses_that_differentiate_themselves(loss: type[ELBO]) -> None:
    made = {"num_particles": 2} if loss is not TraceGraph_ELBO else {}
    ends = []
    for make in (pyro.infer.SVI, pv.SVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, _ = test_fingerprint.attribute()
        options = {"compile": "auto"} if make is pv.SVI else {}
        inference = make(model, guide, optim.Adam({"lr": 0.01}), loss(**made), **options)
        torch.manual_seed(1)
        losses = [inference.step(X) for _ in range(10)]
        ends.append((losses, {k: v.detach().clone() for k, v in pyro.get_param_store().items()}))
    (ours, ends_here), (theirs, ends_there) = ends[1], ends[0]
    for a, b in zip(ours, theirs, strict=True):
        assert (list(a) if isinstance(a, tuple) else float(a)) == pytest.approx(
            list(b) if isinstance(b, tuple) else float(b), rel=1e-5
        )
    for name, value in ends_there.items():
        torch.testing.assert_close(ends_here[name], value)
    pyro.clear_param_store()


def test_a_network_that_is_never_named_is_trained_by_every_loss() -> None:
    """Pyro would step for ever and train nothing."""
    for loss in (Trace_ELBO(), TraceGraph_ELBO(), RenyiELBO(num_particles=2)):
        pyro.clear_param_store()
        torch.manual_seed(0)
        dec = nn.Linear(1, 5)

        def model(x: Tensor, dec: nn.Module = dec) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(dec(z[:, None]), 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, 0], 1.0))

        inference = pv.SVI(model, guide, optim.Adam({"lr": 0.05}), loss, compile="auto")
        losses = [float(inference.step(X)) for _ in range(80)]
        assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
        assert not list(pyro.get_param_store().keys())


def hidden() -> tuple[Callable[..., None], Callable[..., None]]:
    def model(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with poutine.block(hide_types=["param"]):
            pyro.sample("mu", dist.Delta(pyro.param("mu_hat", torch.tensor(1.0))))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("a", torch.tensor(0.0)) + x / 2, 0.7))

    return model, guide


def test_what_is_hidden_keeps_its_value() -> None:
    x = X[:, 0] + 5

    def made() -> Made:
        return *hidden(), lambda k: None

    held_against_pyro(made, calls=lambda k: ((x,), {}))
    pair = pv.Pair(*hidden())
    with pytest.warns(UserWarning, match="do not depend on mu_hat"):
        pv.fit(pair, x, epochs=20, batch_size=len(x), lr=0.05, progress=False)
    ends = {name: float(value.detach()) for name, value in pair.params.items()}
    assert ends["mu_hat"] == 1.0
    assert abs(ends["a"]) > 0.1


def quiet_enumeration() -> ELBO:
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def test_programs_without_a_parameter_are_stepped_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def made() -> Made:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([5]).to_event(1), obs=x)

        return model, lambda x: None, lambda k: None

    for loss in (Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, quiet_enumeration):
        caplog.clear()
        held_against_pyro(made, loss, steps=5)
        lines = [r.getMessage() for r in caplog.records if "depends on a parameter" in r.message]
        assert len(lines) == 1


# --- arguments ------------------------------------------------------------------------------------


def weighted() -> Made:
    pair = Base()

    def model(x: object, beta: float = 1.0, *, shift: Tensor | None = None) -> None:
        rows = x["rows"][0] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
        with poutine.scale(scale=beta):
            pair.model(rows if shift is None else rows - shift)

    def guide(x: object, beta: float = 1.0, *, shift: Tensor | None = None) -> None:
        rows = x["rows"][0] if isinstance(x, dict) else x[0] if isinstance(x, tuple) else x
        pair.guide(rows)

    return model, guide, lambda k: None


CALLS: dict[str, Callable[[int], tuple[tuple[object, ...], dict[str, object]]]] = {
    "a number by position": lambda k: ((X, 0.1 + 0.05 * k), {}),
    "a number by name": lambda k: ((X,), {"beta": 0.1 + 0.05 * k}),
    "a tensor by name": lambda k: ((X,), {"shift": torch.full((5,), 0.1 * k)}),
    "a tree": lambda k: (({"rows": [X + 0.01 * k, X]},), {}),
    "a tuple": lambda k: (((X + 0.01 * k, "name"),), {}),
    "now and then": lambda k: ((X, 0.5), {"shift": X[0]}) if k % 3 else ((X,), {}),
    "batches of two sizes": lambda k: ((X[: 24 - k % 2],), {}),
}


@pytest.mark.parametrize("kind", CALLS)
def test_arguments_of_every_form(kind: str) -> None:
    inference = held_against_pyro(weighted, calls=CALLS[kind])
    assert not inference.evaluate.why_not
    assert all(len(graphs) <= 2 for graphs in inference.evaluate.graphs.values())


def test_particles_changed_on_the_loss() -> None:
    loss = Trace_ELBO()

    def made() -> Made:
        model, guide, _ = test_fingerprint.attribute()
        return model, guide, lambda k: setattr(loss, "num_particles", 1 + k // 18)

    held_against_pyro(made, lambda: loss)


def losses_of_both(count: int, take: Callable[[int, pyro.infer.SVI], float]) -> list[list[float]]:
    """Pyro's losses and ours, of steps that ``take(step, inference)`` takes."""
    ends = []
    for make in (pyro.infer.SVI, pv.SVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, _ = test_fingerprint.attribute()
        options = {"compile": "auto"} if make is pv.SVI else {}
        inference = make(model, guide, optim.Adam({"lr": 0.01}), Trace_ELBO(), **options)
        losses = []
        for step in range(count):
            torch.manual_seed(step)
            losses.append(float(take(step, inference)))
        ends.append(losses)
    pyro.clear_param_store()
    return ends


def test_a_loss_replaced() -> None:
    def take(step: int, inference: pyro.infer.SVI) -> float:
        if step == 10:
            other = TraceMeanField_ELBO(num_particles=3)
            inference.loss, inference.loss_and_grads = other.loss, other.loss_and_grads
        return inference.step(X)

    theirs, ours = losses_of_both(20, take)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_step_inside_a_handler_is_pyros() -> None:
    def take(step: int, inference: pyro.infer.SVI) -> float:
        with poutine.scale(scale=1.0 + step // 4):
            return inference.step(X)

    theirs, ours = losses_of_both(12, take)
    assert ours == pytest.approx(theirs, rel=1e-4)


# --- mistakes that Pyro's validation finds --------------------------------------------------------


def other_shapes() -> Made:
    def model(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("a", torch.zeros(3)), 1.0).to_event(1))

    return model, guide, lambda k: None


def no_plate() -> Made:
    def model(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("a", torch.zeros(2)), 1.0))

    return model, guide, lambda k: None


@pytest.mark.parametrize("made", [other_shapes, no_plate], ids=lambda f: f.__name__)
def test_mistakes_speak_as_pyros(made: Callable[[], Made]) -> None:
    said = []
    for make in (pyro.infer.SVI, pv.SVI):
        with pyro.validation_enabled(True), pytest.raises(ValueError) as caught:
            trained(make, made, steps=3)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_validation_finds_bad_data_where_the_handlers_step() -> None:
    def made() -> Made:
        counts = iter(range(100))

        def model(x: Tensor) -> None:
            next(counts)
            p = pyro.param("p", torch.tensor(0.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Poisson(p.exp()).expand([5]).to_event(1), obs=x)

        return model, lambda x: None, lambda k: None

    with pyro.validation_enabled(True), pytest.raises(ValueError, match="support"):
        trained(pv.SVI, made, steps=6, calls=lambda k: ((X.abs().round() - int(k == 5),), {}))


# --- optimisers -----------------------------------------------------------------------------------


def scheduled(name: str, **options: object) -> Callable[[], optim.PyroOptim]:
    def made() -> optim.PyroOptim:
        inner = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}}
        return getattr(optim, name)({**inner, **options})

    return made


def momentum(name: str, **options: object) -> Callable[[], optim.PyroOptim]:
    def made() -> optim.PyroOptim:
        inner = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3, "momentum": 0.9}}
        return getattr(optim, name)({**inner, **options})

    return made


def of_two(kind: type, **options: object) -> Callable[[], optim.PyroOptim]:
    """A scheduler that is made of schedulers."""

    def made() -> optim.PyroOptim:
        def of(optimizer: torch.optim.Optimizer) -> object:
            first = lr_scheduler.ConstantLR(optimizer, 0.5, 4)
            parts = [first, lr_scheduler.ExponentialLR(optimizer, 0.9)]
            if kind is lr_scheduler.ChainedScheduler:
                return kind(parts, optimizer)
            return kind(optimizer, parts, **options)

        args = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.02}}
        return optim.PyroLRScheduler(of, args)

    return made


OPTIMISERS: dict[str, Callable[[], optim.PyroOptim]] = {
    "ASGD": lambda: optim.ASGD({"lr": 1e-3}),
    "Adadelta": lambda: optim.Adadelta({"lr": 0.5}),
    "Adafactor": lambda: optim.Adafactor({"lr": 0.01}),
    "Adagrad": lambda: optim.Adagrad({"lr": 0.05}),
    "AdagradRMSProp": lambda: optim.AdagradRMSProp({"eta": 0.1}),
    "Adam": lambda: optim.Adam({"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.01}),
    "Adam, amsgrad": lambda: optim.Adam({"lr": 0.01, "amsgrad": True}),
    "Adam, maximize": lambda: optim.Adam({"lr": 1e-4, "maximize": True}),
    "AdamW": lambda: optim.AdamW({"lr": 0.01}),
    "Adamax": lambda: optim.Adamax({"lr": 0.01}),
    "ClippedAdam": lambda: optim.ClippedAdam({"lr": 0.01, "clip_norm": 0.1, "lrd": 0.97}),
    "DCTAdam": lambda: optim.DCTAdam({"lr": 0.01}),
    "NAdam": lambda: optim.NAdam({"lr": 0.01}),
    "RAdam": lambda: optim.RAdam({"lr": 0.01}),
    "RMSprop": lambda: optim.RMSprop({"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Rprop": lambda: optim.Rprop({"lr": 1e-3}),
    "SGD": lambda: optim.SGD({"lr": 1e-3, "momentum": 0.9, "nesterov": True}),
    "per parameter": lambda: optim.Adam(
        lambda name: {"lr": 0.05 if "bias" in name else 0.01, "eps": 1e-6}
    ),
    "per parameter, of one's own": lambda: optim.Adam(
        lambda module, name: {"lr": 0.05 if module == "enc" else 0.01}
    ),
    "clipped by norm": lambda: optim.Adam({"lr": 0.01}, {"clip_norm": 0.5}),
    "clipped by value": lambda: optim.SGD({"lr": 0.01}, {"clip_value": 0.1}),
    "clipped per parameter": lambda: optim.Adam(
        {"lr": 0.01}, lambda module, name: {"clip_norm": 0.1} if module == "enc" else {}
    ),
    "ChainedScheduler": of_two(lr_scheduler.ChainedScheduler),
    "ConstantLR": scheduled("ConstantLR", factor=0.3, total_iters=5),
    "CosineAnnealingLR": scheduled("CosineAnnealingLR", T_max=9),
    "CosineAnnealingWarmRestarts": scheduled("CosineAnnealingWarmRestarts", T_0=4),
    "CyclicLR": momentum("CyclicLR", base_lr=1e-4, max_lr=3e-3, step_size_up=3),
    "ExponentialLR": scheduled("ExponentialLR", gamma=0.9),
    "LambdaLR": scheduled("LambdaLR", lr_lambda=lambda epoch: 0.9**epoch),
    "LinearLR": scheduled("LinearLR", total_iters=7),
    "MultiStepLR": scheduled("MultiStepLR", milestones=[2, 5]),
    "MultiplicativeLR": scheduled("MultiplicativeLR", lr_lambda=lambda epoch: 0.95),
    "OneCycleLR": scheduled("OneCycleLR", max_lr=0.05, total_steps=70),
    "PolynomialLR": scheduled("PolynomialLR", total_iters=20, power=2.0),
    "ReduceLROnPlateau": scheduled("ReduceLROnPlateau", patience=1, factor=0.5),
    "SequentialLR": of_two(lr_scheduler.SequentialLR, milestones=[5]),
    "StepLR": scheduled("StepLR", step_size=3, gamma=0.5),
}


LEFT_OUT = {
    "HorovodOptimizer": "needs Horovod",
    "LRScheduler": "the base class",
    "Muon": "for matrices alone",
    "PyroLRScheduler": "the wrapper, tested by what it wraps",
    "PyroOptim": "the wrapper, tested by what it wraps",
    "SparseAdam": "for sparse gradients, which Pyro's step cannot zero either",
}


def test_every_optimiser_has_a_row() -> None:
    named = {name.split(",")[0] for name in OPTIMISERS} | set(LEFT_OUT)
    assert {n for n in dir(optim) if n[0].isupper()} <= named


def steps(
    make: type[pyro.infer.SVI],
    made: Callable[[], optim.PyroOptim],
    count: int = 60,
    between: Callable[[int, optim.PyroOptim], optim.PyroOptim | None] = lambda k, o: None,
) -> tuple[list[float], dict[str, Tensor], dict[str, object]]:
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, _ = test_fingerprint.attribute()
    options = {"compile": "auto"} if make is pv.SVI else {}
    optimiser = made()
    inference = make(model, guide, optimiser, Trace_ELBO(), **options)
    losses = []
    for step in range(count):
        torch.manual_seed(step)
        losses.append(float(inference.step(X)))
        if isinstance(optimiser, optim.PyroLRScheduler) and step % 2:
            plateau = isinstance(next(iter(optimiser.optim_objs.values())), PLATEAU)
            optimiser.step(*([losses[-1]] if plateau else []))
        if (other := between(step, optimiser)) is not None:
            inference.optim = optimiser = other
    ends = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
    state = optimiser.get_state()
    pyro.clear_param_store()
    return losses, ends, state


PLATEAU = lr_scheduler.ReduceLROnPlateau


def alike(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, Tensor):
        return torch.allclose(a.double(), torch.as_tensor(b).double(), rtol=1e-3, atol=1e-5)
    return a == pytest.approx(b, rel=1e-6) if isinstance(a, float) else True


def stacked() -> Made:
    """Beta's parameters are stacked, so that their gradients lie two apart in memory."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            p = pyro.sample("p", dist.Uniform(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Binomial(9, p), obs=x)

    def guide(x: Tensor) -> None:
        a, b = (pyro.param(name, torch.full((len(x),), 5.0)) for name in "ab")
        with pyro.plate("data", len(x)):
            pyro.sample("p", dist.Beta(a, b))

    return model, guide, lambda k: None


@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW, optim.SGD], ids=lambda f: f.__name__)
def test_gradients_that_lie_otherwise_in_memory(kind: Callable[..., optim.PyroOptim]) -> None:
    counts = torch.arange(1.0, 9.0)
    ends = []
    for make in (pyro.infer.SVI, pv.SVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, _ = stacked()
        options = {"compile": "auto"} if make is pv.SVI else {}
        inference = make(model, guide, kind({"lr": 0.05}), Trace_ELBO(), **options)
        for _ in range(10):
            inference.step(counts)
        ends.append({n: p.detach().clone() for n, p in pyro.get_param_store().items()})
    assert inference.evaluate.graphs
    pyro.clear_param_store()
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_every_option_is_followed_both_ways(kind: str) -> None:
    """60 steps on the same noise: weights within 1e-5 of Pyro's, and the state the same."""
    theirs, their_ends, their_state = steps(pyro.infer.SVI, OPTIMISERS[kind])
    ours, ends, state = steps(pv.SVI, OPTIMISERS[kind])
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in their_ends.items():
        torch.testing.assert_close(ends[name], value, rtol=1e-5, atol=1e-5)
    assert alike(their_state, state)


def options_changed(step: int, optimiser: optim.PyroOptim) -> None:
    if step % 7 == 6:
        for own in optimiser.optim_objs.values():
            own.param_groups[0]["betas"] = (0.5 + 0.05 * (step % 4), 0.999)
            own.param_groups[0]["weight_decay"] = 0.01 * (step % 3)


def state_loaded(step: int, optimiser: optim.PyroOptim) -> None:
    if step == 10:
        options_changed.kept = optimiser.get_state()
        options_changed.kept = torch.load(saved(options_changed.kept), weights_only=False)
    if step == 20:
        for leaf, own in optimiser.optim_objs.items():
            name = pyro.get_param_store().param_name(leaf)
            own.load_state_dict(options_changed.kept[name])


def saved(state: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def optimiser_replaced(step: int, optimiser: optim.PyroOptim) -> optim.PyroOptim | None:
    if step != 15:
        return None
    other = optim.Adam({"lr": 0.01})
    other.set_state(torch.load(saved(optimiser.get_state()), weights_only=False))
    return other


@pytest.mark.parametrize(
    "between", [options_changed, state_loaded, optimiser_replaced], ids=lambda f: f.__name__
)
def test_states_and_options_that_a_user_changes(between: Callable[..., object]) -> None:
    def made() -> optim.PyroOptim:
        return optim.Adam({"lr": 0.02})

    theirs, their_ends, _ = steps(pyro.infer.SVI, made, 40, between)
    ours, ends, _ = steps(pv.SVI, made, 40, between)
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in their_ends.items():
        torch.testing.assert_close(ends[name], value, rtol=1e-5, atol=1e-5)


def test_two_inferences_share_an_optimiser() -> None:
    """As Pyro's M2 does: a loss with labels and one without, over the same states."""
    ends = []
    for make in (pyro.infer.SVI, pv.SVI):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model, guide, _ = two_signatures()
        options = {"compile": "auto"} if make is pv.SVI else {}
        shared = optim.Adam({"lr": 0.01})
        one, two = (make(model, guide, shared, Trace_ELBO(), **options) for _ in range(2))
        for step in range(STEPS):
            torch.manual_seed(step)
            one.step(X) if step % 2 else two.step(X, LABELS)
        ends.append({n: p.detach().clone() for n, p in pyro.get_param_store().items()})
    pyro.clear_param_store()
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-5, atol=1e-5)


# --- said -----------------------------------------------------------------------------------------


def test_compiling_is_said_and_what_cannot_be_is_a_warning_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pair = pv.VAE((5,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([4])))
    inference = pv.SVI(pair.model, pair.guide, optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(5):
        inference.step(X)
    assert [r.getMessage() for r in caplog.records if r.name == "pyrovae"] == [
        "compiling the step, which takes some seconds the first time"
    ]
    model, guide, _ = test_fingerprint.counter()
    inference = pv.SVI(model, guide, optim.Adam({"lr": 0.01}), Trace_ELBO())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            inference.step(X)
    assert [str(w.message) for w in caught] == [
        "the step is not compiled: the programs write to Own.calls as they run"
    ]
    pyro.clear_param_store()
