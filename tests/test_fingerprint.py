"""Nothing that a graph bakes in goes out of date: every step's loss is Pyro's on the same noise,
whatever the programs read in Python and whoever changes it."""

from __future__ import annotations

import contextvars
import copy
import functools
import itertools
import logging
import os
import random
import time
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import svi

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
STEPS = 36
EVERY = 6  # steps between two changes

Change = Callable[[int], None]
Made = tuple[Callable[..., object], Callable[..., object], Change]


class Base(nn.Module):
    """A linear VAE whose KL weight is whatever ``weight`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.dec, self.enc = nn.Linear(2, 5), nn.Linear(5, 4)

    def weight(self) -> float | Tensor:
        return 1.0

    def model(self, x: Tensor) -> None:
        pyro.module("dec", self.dec)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=self.weight()):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.dec(z), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("enc", self.enc)
        with pyro.plate("data", len(x)), poutine.scale(scale=self.weight()):
            loc, raw = self.enc(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, raw.exp()).to_event(1))


def of(pair: Base, change: Change) -> Made:
    return pair.model, pair.guide, change


def level(step: int) -> float:
    """A weight that rises every few steps."""
    return 0.25 + 0.125 * (step // EVERY)


def attribute() -> Made:
    class Own(Base):
        beta = 0.25

        def weight(self) -> float:
            return self.beta

    pair = Own()
    return of(pair, lambda k: setattr(pair, "beta", level(k)))  # an instance's hides the class's


def class_attribute() -> Made:
    class Own(Base):
        beta = 0.25

        def weight(self) -> float:
            return self.beta

    return of(Own(), lambda k: setattr(Own, "beta", level(k)))


WEIGHT = 0.25


def global_number() -> Made:
    class Own(Base):
        def weight(self) -> float:
            return WEIGHT

    return of(Own(), lambda k: globals().__setitem__("WEIGHT", level(k)))


def closed_over() -> Made:
    beta = 0.25

    class Own(Base):
        def weight(self) -> float:
            return beta

    def change(step: int) -> None:
        nonlocal beta
        beta = level(step)

    return of(Own(), change)


def of_config(
    config: object, read: Callable[[object], float], put: Callable[[int], object]
) -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.config = config

        def weight(self) -> float:
            return read(self.config)

    return of(Own(), lambda k: put(k) and None)


def entry() -> Made:
    config = {"kl": {"weight": 0.25}}
    return of_config(
        config, lambda c: c["kl"]["weight"], lambda k: config["kl"].update(weight=level(k))
    )


def element() -> Made:
    config = [3, 0.25]
    return of_config(config, lambda c: c[1], lambda k: config.__setitem__(1, level(k)))


def namespace() -> Made:
    config = types.SimpleNamespace(beta=0.25)
    return of_config(config, lambda c: c.beta, lambda k: setattr(config, "beta", level(k)))


def module_of_constants() -> Made:
    config = types.ModuleType("settings_of_this_test")
    config.beta = 0.25
    return of_config(config, lambda c: c.beta, lambda k: setattr(config, "beta", level(k)))


def class_of_constants() -> Made:
    class Config:
        beta = 0.25

    return of_config(Config, lambda c: c.beta, lambda k: setattr(Config, "beta", level(k)))


def slots() -> Made:
    class Config:
        __slots__ = ("beta",)

    config = Config()
    config.beta = 0.25
    return of_config(config, lambda c: c.beta, lambda k: setattr(config, "beta", level(k)))


def attribute_by_a_made_up_name() -> Made:
    class Own(Base):
        weight_of_kl = 0.25

        def weight(self) -> float:
            return getattr(self, "_".join(["weight", "of", "kl"]))

    pair = Own()
    return of(pair, lambda k: setattr(pair, "weight_of_kl", level(k)))


def attribute_through_vars() -> Made:
    class Own(Base):
        def weight(self) -> float:
            return vars(self)["beta"]

    pair = Own()
    pair.beta = 0.25
    return of(pair, lambda k: setattr(pair, "beta", level(k)))


def dynamic_attribute() -> Made:
    class Config:
        def __init__(self) -> None:
            self.held = {"beta": 0.25}

        def __getattr__(self, name: str) -> float:
            return self.__dict__["held"][name]

    config = Config()
    return of_config(config, lambda c: c.beta, lambda k: config.held.update(beta=level(k)))


@dataclass(frozen=True)
class Frozen:
    beta: float


def frozen_settings() -> Made:
    class Own(Base):
        config = Frozen(0.25)

        def weight(self) -> float:
            return self.config.beta

    pair = Own()
    return of(pair, lambda k: setattr(pair, "config", replace(pair.config, beta=level(k))))


def computed_property() -> Made:
    class Own(Base):
        epoch = 0

        @property
        def beta(self) -> float:
            return min(1.0, 0.25 + 0.125 * self.epoch)

        def weight(self) -> float:
            return self.beta

    pair = Own()
    return of(pair, lambda k: setattr(pair, "epoch", k // EVERY))


def default_argument() -> Made:
    settings = {"beta": 0.25}

    class Own(Base):
        def weight(self, settings: dict[str, float] = settings) -> float:
            return settings["beta"]

    return of(Own(), lambda k: settings.update(beta=level(k)))


def attribute_of_a_function() -> Made:
    def weight() -> float:
        return weight.beta

    weight.beta = 0.25

    class Own(Base):
        def weight(self) -> float:
            return weight()

    return of(Own(), lambda k: setattr(weight, "beta", level(k)))


def keyword_of_a_partial() -> Made:
    pair = Base()

    def model(x: Tensor, beta: float) -> None:
        with poutine.scale(scale=beta):
            pair.model(x)

    partial = functools.partial(model, beta=0.25)
    return partial, pair.guide, lambda k: partial.keywords.update(beta=level(k))


def scale_of_a_handler() -> Made:
    pair = Base()
    messenger = poutine.scale_messenger.ScaleMessenger(scale=0.25)
    return messenger(pair.model), pair.guide, lambda k: setattr(messenger, "scale", level(k))


def tensor_replaced() -> Made:
    class Own(Base):
        beta = torch.tensor(0.25)

        def weight(self) -> Tensor:
            return self.beta

    pair = Own()
    return of(pair, lambda k: setattr(pair, "beta", torch.tensor(level(k))))


def tensor_filled() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("beta", torch.tensor(0.25))

        def weight(self) -> Tensor:
            return self.beta

    pair = Own()
    return of(pair, lambda k: pair.beta.fill_(level(k)))


def tensor_looked_at() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("epoch", torch.tensor(0.0))

        def weight(self) -> float:
            return 0.25 + 0.125 * float(self.epoch)

    pair = Own()
    return of(pair, lambda k: k % EVERY or pair.epoch.fill_(k // EVERY))


def array() -> Made:
    weights = np.array([0.25, 1.0])
    return of_config(weights, lambda w: float(w[0]), lambda k: weights.__setitem__(0, level(k)))


def dropout() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.dec = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5))

    pair = Own()
    return of(pair, lambda k: pair.train(k // EVERY % 2 == 0))


def own_mode() -> Made:
    class Own(Base):
        def weight(self) -> float:
            return 1.0 if self.training else 0.5

    pair = Own()
    return of(pair, lambda k: pair.train(k // EVERY % 2 == 0))


def temperature() -> Made:
    class Own(Base):
        temperature = 1.0

        def guide(self, x: Tensor) -> None:
            pyro.module("enc", self.enc)
            with pyro.plate("data", len(x)):
                loc, raw = self.enc(x).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, raw.exp() * self.temperature).to_event(1))

    pair = Own()
    return of(pair, lambda k: setattr(pair, "temperature", 1.0 / (1 + k // EVERY)))


def frozen_encoder() -> Made:
    pair = Base()

    def change(step: int) -> None:
        pair.enc.requires_grad_(step < STEPS // 2)

    return of(pair, change)


def module_replaced() -> Made:
    pair = Base()

    def change(step: int) -> None:
        if step == STEPS // 2:
            torch.manual_seed(1)
            pyro.get_param_store().__delitem__("dec$$$weight")
            pyro.get_param_store().__delitem__("dec$$$bias")
            pair.dec = nn.Linear(2, 5)

    return of(pair, change)


def layer_appended() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.dec = nn.Sequential(nn.Linear(2, 5))

    pair = Own()

    def change(step: int) -> None:
        if step == STEPS // 2:
            pair.dec.append(nn.Tanh())

    return of(pair, change)


def hook_on_a_module() -> Made:
    pair = Base()

    def change(step: int) -> None:
        if step == STEPS // 2:
            pair.dec.register_forward_hook(lambda module, inputs, out: 2 * out)

    return of(pair, change)


def method_replaced() -> Made:
    pair = Base()

    def change(step: int) -> None:
        if step == STEPS // 2:
            pair.weight = lambda: 0.3
        if step == STEPS - 5:
            del pair.weight

    return of(pair, change)


def parameter_set_anew() -> Made:
    pair = Base()

    def model(x: Tensor) -> None:
        with poutine.scale(scale=1.0):
            pair.model(x - pyro.param("shift", torch.zeros(5)))

    def change(step: int) -> None:
        if step == STEPS // 2:
            pyro.get_param_store()["shift"] = torch.full((5,), 2.0)

    return model, pair.guide, change


def weights_replaced_in_place() -> Made:
    pair = Base()

    def change(step: int) -> None:
        if step % EVERY == 0:
            pair.dec.weight.data = torch.full((5, 2), 0.1 * step)

    return of(pair, change)


def object_in_a_module() -> Made:
    class Settings:
        def __init__(self) -> None:
            self.beta = 0.25

    config = types.ModuleType("settings_of_this_test")
    config.settings = Settings()
    return of_config(
        config, lambda c: c.settings.beta, lambda k: setattr(config.settings, "beta", level(k))
    )


def network_in_a_module() -> Made:
    nets = types.ModuleType("networks_of_this_test")
    nets.drop = nn.Dropout(0.5)

    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            linear = nn.Linear(2, 5)
            self.dec = linear
            self.dec.forward = lambda z: nets.drop(nn.functional.linear(z, linear.weight))

    return of(Own(), lambda k: nets.drop.train(k // EVERY % 2 == 0))


def attribute_of_the_type() -> Made:
    class Own(Base):
        beta = 0.25

        def weight(self) -> float:
            return type(self).beta

    return of(Own(), lambda k: setattr(Own, "beta", level(k)))


def environment() -> Made:
    os.environ["BETA_OF_THIS_TEST"] = "0.25"

    class Own(Base):
        def weight(self) -> float:
            return float(os.environ["BETA_OF_THIS_TEST"])

    return of(Own(), lambda k: os.environ.__setitem__("BETA_OF_THIS_TEST", str(level(k))))


def bound_method_of_a_dictionary() -> Made:
    config = {"beta": 0.25}
    read = config.get

    class Own(Base):
        def weight(self) -> float:
            return read("beta")

    return of(Own(), lambda k: config.update(beta=level(k)))


def weak_reference() -> Made:
    class Settings:
        beta = 0.25

    config = Settings()
    held = weakref.ref(config)

    class Own(Base):
        def weight(self) -> float:
            return held().beta

    return of(Own(), lambda k: setattr(config, "beta", level(k)))


def of_numpys() -> Made:
    class Own(Base):
        beta = np.float64(0.25)

        def weight(self) -> float:
            return self.beta

    pair = Own()
    return of(pair, lambda k: setattr(pair, "beta", np.float64(level(k))))


def written_through_data() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("beta", torch.tensor(0.25))

        def weight(self) -> float:
            return float(self.beta)

    pair = Own()
    return of(pair, lambda k: pair.beta.data.fill_(level(k)))


def autoguide_in_a_plate() -> Made:
    pair = Base()
    guide = pyro.infer.autoguide.AutoNormal(pair.model)
    return pair.model, guide, lambda k: None


def copied_settings() -> Made:
    class Settings:
        def __init__(self) -> None:
            self.beta = 0.25

    return of_config(
        config := Settings(),
        lambda c: copy.copy(c).beta,
        lambda k: setattr(config, "beta", level(k)),
    )


def class_of_an_object_changed() -> Made:
    class Low:
        def beta(self) -> float:
            return 0.25

    class High(Low):
        def beta(self) -> float:
            return 0.75

    config = Low()
    return of_config(
        config, lambda c: c.beta(), lambda k: setattr(config, "__class__", (Low, High)[k // 9 % 2])
    )


STALE: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        attribute, class_attribute, global_number, closed_over, entry, element, namespace,
        module_of_constants, class_of_constants, slots, attribute_by_a_made_up_name,
        attribute_through_vars, dynamic_attribute, computed_property,
        default_argument, attribute_of_a_function, keyword_of_a_partial, scale_of_a_handler,
        tensor_replaced, tensor_filled, tensor_looked_at, array, dropout, own_mode, temperature,
        frozen_encoder, module_replaced, layer_appended, hook_on_a_module, method_replaced,
        parameter_set_anew, weights_replaced_in_place, object_in_a_module, network_in_a_module,
        attribute_of_the_type, environment, bound_method_of_a_dictionary, weak_reference, of_numpys,
        written_through_data, autoguide_in_a_plate, copied_settings, class_of_an_object_changed,
    )
}  # fmt: skip


def trained(
    make: type[pyro.infer.SVI],
    made: Callable[[], Made],
    loss: Callable[[], ELBO] = Trace_ELBO,
    steps: int = STEPS,
    calls: Callable[[int], tuple[tuple[object, ...], dict[str, object]]] = lambda k: ((X,), {}),
) -> tuple[list[float], dict[str, Tensor], pyro.infer.SVI]:
    """Losses of every step, the parameters after the last one, and who took them."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    model, guide, change = made()
    options = {"compile": "auto"} if issubclass(make, pv.SVI) else {}
    inference = make(model, guide, pyro.optim.Adam({"lr": 0.01}), loss(), **options)
    losses = []
    for step in range(steps):
        change(step)
        torch.manual_seed(step)
        args, kwargs = calls(step)
        losses.append(float(inference.step(*args, **kwargs)))
    ends = {n: p.detach().clone() for n, p in pyro.get_param_store().items()}
    pyro.clear_param_store()
    return losses, ends, inference


def held_against_pyro(*args: object, **kwargs: object) -> pv.SVI:
    """Run by both; ours, once all is the same."""
    theirs, their_ends, _ = trained(pyro.infer.SVI, *args, **kwargs)
    ours, ends, inference = trained(pv.SVI, *args, **kwargs)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert set(ends) == set(their_ends)  # and nothing of ours is left in the store
    for name, value in their_ends.items():
        torch.testing.assert_close(ends[name], value, rtol=1e-4, atol=1e-5)
    return inference


@pytest.mark.filterwarnings("ignore:weight was not registered", "ignore:bias was not registered")
@pytest.mark.parametrize("kind", STALE)
def test_nothing_goes_out_of_date(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svi, "WORTH", 0)  # a graph for a few steps
    inference = held_against_pyro(STALE[kind], TraceMeanField_ELBO)
    assert not inference.evaluate.why_not
    assert any(inference.evaluate.graphs.values())


@pytest.mark.parametrize(
    "kind",
    [
        "attribute",
        "global_number",
        "closed_over",
        "entry",
        "element",
        "slots",
        "temperature",
        "tensor_replaced",
    ],
)
def test_a_number_that_changes_is_an_input(kind: str) -> None:
    """Changed twice, one graph takes all its values."""
    inference = held_against_pyro(STALE[kind])
    (graphs,) = inference.evaluate.graphs.values()
    assert len(graphs) == 2
    assert len(graphs[-1].inputs) == 1


@pytest.mark.parametrize("kind", ["dropout", "own_mode"])
def test_states_that_alternate_have_a_graph_each(kind: str) -> None:
    inference = held_against_pyro(STALE[kind])
    (graphs,) = inference.evaluate.graphs.values()
    assert len(graphs) == 2


def counter() -> Made:
    class Own(Base):
        calls = 0

        def weight(self) -> float:
            self.calls += 1
            return min(1.0, self.calls / 50)

    pair = Own()
    return of(pair, lambda k: None)


def kept_for_later() -> Made:
    class Own(Base):
        def weight(self) -> float:
            self.seen = torch.ones(())
            return 1.0

    return of(Own(), lambda k: None)


COUNT = 0


def global_counter() -> Made:
    class Own(Base):
        def weight(self) -> float:
            global COUNT
            COUNT += 1
            return 1.0 + COUNT % 2

    globals()["COUNT"] = 0
    return of(Own(), lambda k: None)


def list_that_grows() -> Made:
    seen: list[float] = []

    class Own(Base):
        def weight(self) -> float:
            seen.append(1.0)
            return min(1.0, len(seen) / 50)

    return of(Own(), lambda k: None)


def iterator() -> Made:
    weights = itertools.cycle([0.25, 0.5])

    class Own(Base):
        def weight(self) -> float:
            return next(weights)

    return of(Own(), lambda k: None)


def numpys_generator() -> Made:
    generator = np.random.default_rng(0)

    class Own(Base):
        def weight(self) -> float:
            return float(generator.uniform(0.5, 1.0))

    return of(Own(), lambda k: None)


def clock() -> Made:
    class Own(Base):
        def weight(self) -> float:
            return 1.0 if time.time() > 0 else 0.5

    return of(Own(), lambda k: None)


def moving_average() -> Made:
    """A tensor that is no buffer, moved by the program."""
    seen = torch.ones(())

    class Own(Base):
        def weight(self) -> Tensor:
            return seen.mul_(0.99)

    return of(Own(), lambda k: None)


def branch_on_what_changes() -> Made:
    class Own(Base):
        step = 0

        def weight(self) -> float:
            return 0.5 if self.step % 2 else 0.25 + self.step / 100 if self.step > 3 else 1.0

    pair = Own()
    return of(pair, lambda k: setattr(pair, "step", k))


def computed_and_looked_at() -> Made:
    class Own(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("epoch", torch.tensor(0.0))

        def weight(self) -> float:
            return float(0.25 + 0.125 * self.epoch)

    pair = Own()
    return of(pair, lambda k: k % EVERY or pair.epoch.fill_(k // EVERY))


def generator_of_torch() -> Made:
    generator = torch.Generator().manual_seed(0)

    class Own(Base):
        def weight(self) -> Tensor:
            return 1 + torch.rand((), generator=generator)

    return of(Own(), lambda k: None)


def context_variable() -> Made:
    weight: contextvars.ContextVar[float] = contextvars.ContextVar("weight", default=0.25)

    class Own(Base):
        def weight(self) -> float:
            return weight.get()

    return of(Own(), lambda k: weight.set(level(k)) and None)


def logs() -> Made:
    class Own(Base):
        def weight(self) -> float:
            logging.getLogger("of this test").error("a line")
            return 1.0

    return of(Own(), lambda k: None)


def data_in_numpy() -> Made:
    class Own(Base):
        def model(self, x: Tensor) -> None:
            with poutine.scale(scale=1 + abs(float(x.detach().numpy().mean()))):
                super().model(x)

    return of(Own(), lambda k: None)


def size_by_mask() -> Made:
    class Own(Base):
        def model(self, x: Tensor) -> None:
            super().model(x)
            kept = x[x[:, 0] > 0]
            pyro.factor("size", pyro.param("c", torch.tensor(0.1)) * float(len(kept)))

    return of(Own(), lambda k: None)


def hooked_parameter() -> Made:
    pair = Base()

    def change(step: int) -> None:
        if step == STEPS // 2:
            pair.dec.weight.register_hook(lambda grad: grad / 2)

    return of(pair, change)


def file_looked_for() -> Made:
    class Own(Base):
        def weight(self) -> float:
            return 0.5 if os.path.exists("no such file") else 1.0  # noqa: PTH110

    return of(Own(), lambda k: None)


def cached_function() -> Made:
    @functools.cache
    def weight() -> float:
        return 0.5

    class Own(Base):
        def weight(self) -> float:
            return weight()

    return of(Own(), lambda k: None)


LEFT: dict[str, tuple[Callable[[], Made], str]] = {
    "counter": (counter, r"the programs write to Own\.calls"),
    "kept for later": (kept_for_later, r"the programs write to Own\.seen"),
    "global counter": (global_counter, "the programs write to the global 'COUNT'"),
    "list that grows": (list_that_grows, "the programs write to 'seen' of weight"),
    "iterator": (iterator, "'weights' of weight is an iterator"),
    "NumPy's generator": (
        numpys_generator,
        "'generator' of weight is a generator of random numbers",
    ),
    "clock": (clock, r"weight calls time\.time"),
    "moving average": (moving_average, "the programs write to a tensor of shape"),
    "computed and looked at": (computed_and_looked_at, "the programs look at values"),
    "frozen settings": (frozen_settings, r"Own\.config keeps changing"),
    "torch's generator": (generator_of_torch, "'generator' of weight is a generator"),
    "context variable": (context_variable, "'weight' of weight is a ContextVar"),
    "logs": (logs, "the programs log"),
    "data in NumPy": (data_in_numpy, "the programs look at values"),
    "size by a mask": (size_by_mask, "the programs look at values"),
    "hooked parameter": (hooked_parameter, "a parameter has hooks"),
    "file looked for": (file_looked_for, r"the programs look at files \(exists\)"),
    "cached function": (cached_function, "'weight' of weight is a _lru_cache_wrapper"),
    "branch": (branch_on_what_changes, r"Own\.step keeps changing"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_programs_that_write_stay_with_the_handlers(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, in a line; every run is one of Pyro's, so that a counter counts steps."""
    made, why = LEFT[kind]
    batches = [X, X.roll(1, 0) + 0.1, X.roll(2, 0) - 0.1]
    inference = held_against_pyro(made, calls=lambda k: ((batches[k % 3],), {}))
    lines = [r.getMessage() for r in caplog.records if r.name == "pyrovae"]
    assert len(lines) == 1
    assert lines[0].startswith("the step is not compiled: ")
    assert inference.evaluate.why_not in lines[0]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(inference.evaluate.why_not)


def test_random_numbers_of_pythons_are_drawn_at_every_step() -> None:
    def made() -> Made:
        class Own(Base):
            def weight(self) -> float:
                return random.uniform(0.5, 1.0)

        random.seed(0)
        return of(Own(), lambda k: None)

    inference = held_against_pyro(made)
    assert "random" in inference.evaluate.why_not


class Rising(pv.callbacks.Callback):
    """Raises a plain number at every third step, as annealing by hand does."""

    def __init__(self, pair: Base) -> None:
        self.pair = pair

    def step(self, run: pv.callbacks.Run) -> None:
        self.pair.beta = 0.1 + 0.02 * (run.step // 3)


@pytest.mark.parametrize("compiled", ["auto", True])
def test_fit_follows_what_a_callback_changes_at_a_step(compiled: bool | str) -> None:
    class Own(Base):
        beta = 0.1

        def weight(self) -> float:
            return self.beta

    def end(compiled: bool | str) -> list[Tensor]:
        torch.manual_seed(0)
        pair = Own()
        options = {"epochs": 30, "batch_size": 8, "lr": 0.01, "progress": False}
        pv.fit(pair, X, callbacks=[Rising(pair)], compile=compiled, **options)
        return [p.detach() for p in pair.parameters()]

    for ours, theirs in zip(end(compiled), end(False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class Freezing(pv.callbacks.Callback):
    def __init__(self, pair: Base) -> None:
        self.pair = pair
        self.kept: Tensor | None = None

    def step(self, run: pv.callbacks.Run) -> None:
        if run.step == 40:
            self.pair.enc.requires_grad_(False)
            self.kept = self.pair.enc.weight.detach().clone()


@pytest.mark.filterwarnings("ignore:weight was not registered", "ignore:bias was not registered")
def test_fit_stops_moving_what_is_frozen() -> None:
    pair = Base()
    freezing = Freezing(pair)
    before = pair.dec.weight.detach().clone()
    pv.fit(pair, X, epochs=30, batch_size=8, lr=0.01, callbacks=[freezing], progress=False)
    assert torch.equal(pair.enc.weight, freezing.kept)
    assert not torch.equal(pair.dec.weight, before)


def test_fit_refuses_a_parameter_that_appears_late() -> None:
    class Late(Base):
        late = False

        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Linear(5, 5)

        def guide(self, x: Tensor) -> None:
            super().guide(self.shift(x) if self.late else x)

    class Switching(pv.callbacks.Callback):
        def step(self, run: pv.callbacks.Run) -> None:
            pair.late = run.step >= 30

    pair = Late()
    with (
        pytest.warns(UserWarning, match="shift"),
        pytest.raises(pv.UsageError, match=r"did not use when training began \(shift\.weight"),
    ):
        pv.fit(pair, X, epochs=30, batch_size=8, callbacks=[Switching()], progress=False)


@pytest.mark.slow
def test_ten_thousand_steps_with_fifty_changes_of_state() -> None:
    """Every step's loss is the handlers' on the same noise."""

    class Own(Base):
        beta, halved = 1.0, False

        def __init__(self) -> None:
            super().__init__()
            self.dec = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.2))

        def weight(self) -> float:
            return self.beta / 2 if self.halved else self.beta

    pyro.clear_param_store()
    torch.manual_seed(0)
    pair, loss = Own(), TraceMeanField_ELBO()
    optim = pyro.optim.Adam({"lr": 1e-3})
    inference = pv.SVI(pair.model, pair.guide, optim, loss, compile="auto")
    chance = random.Random(0)
    changes = set(chance.sample(range(10_000), 50))
    wrong = 0
    for step in range(10_000):
        if step in changes:
            kind = chance.randrange(3)
            pair.train(chance.random() < 0.5) if kind == 0 else None
            pair.beta = chance.random() if kind == 1 else pair.beta
            pair.halved = not pair.halved if kind == 2 else pair.halved
        torch.manual_seed(step)
        theirs = loss.loss(pair.model, pair.guide, X)
        torch.manual_seed(step)
        wrong += float(inference.step(X)) != pytest.approx(theirs, rel=1e-4)
    pyro.clear_param_store()
    assert wrong == 0
    assert not inference.evaluate.why_not
