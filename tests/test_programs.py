"""One contract for the structured programs, one row for each."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import components, guides, likelihoods, networks, programs
from pyrovae.program import Program
from pyrovae.tensors import TensorData

SMALL = networks.MLP([16])
EVENT, CLASSES = (1, 4, 4), 3


def images() -> TensorData:
    """60 labelled binary images of three patterns."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % CLASSES
    shapes = torch.rand(CLASSES, *EVENT, generator=generator).round() * 0.8 + 0.1
    return TensorData(torch.bernoulli(shapes[labels], generator=generator), labels=labels)


@dataclass
class Row:
    """A small program, data as they are loaded, and the parts of a copy of the program that is
    made without pyrovae: what its model and guide look for in ``self``."""

    make: Callable[[], Program]
    data: Callable[[], TensorData]
    plain: Callable[[], SimpleNamespace]


def bernoulli(*sizes: int) -> Callable[..., dist.TorchDistribution]:
    """p(x|contexts) of torch and pyro alone, as one would write it in a notebook."""
    body = nn.Linear(sum(sizes), 16)

    def forward(*contexts: Tensor) -> dist.TorchDistribution:
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in contexts))
        h = torch.cat([c.expand(*batch, c.shape[-1]) for c in contexts], -1)
        return dist.Bernoulli(logits=body(h).unflatten(-1, EVENT)).to_event(3)

    return forward


def normal(*sizes: int, out: int) -> Callable[..., dist.TorchDistribution]:
    """q(z|contexts) of torch and pyro alone; images are flattened."""
    body = nn.Linear(sum(sizes), 2 * out)

    def forward(*contexts: Tensor) -> dist.TorchDistribution:
        flat = [c.flatten(-3) if c.shape[-3:] == EVENT else c for c in contexts]
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in flat))
        h = torch.cat([c.expand(*batch, c.shape[-1]) for c in flat], -1)
        loc, raw = body(h).chunk(2, -1)
        return dist.Normal(loc, F.softplus(raw)).to_event(1)

    forward.enumerate = False
    return forward


def parts() -> dict[str, object]:
    """A likelihood and a guide of small networks."""
    return {"likelihood": likelihoods.Bernoulli(SMALL), "guide": guides.MeanField(SMALL)}


def prior(size: int) -> Callable[[], dist.TorchDistribution]:
    return lambda: dist.Normal(torch.zeros(size), 1.0).to_event(1)


def several(*outs: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A network with several outputs."""
    body = nn.LazyLinear(sum(outs))
    return lambda x: body(x.flatten(1)).split(outs, -1)


ROWS: dict[str, Row] = {
    "VAE": Row(
        lambda: pv.VAE(EVENT, 2, **parts()),
        images,
        lambda: SimpleNamespace(
            prior=prior(2),
            likelihood=bernoulli(2),
            posterior=normal(16, out=2),
            _fits=lambda x: None,
        ),
    ),
    "Conditional": Row(
        lambda: programs.Conditional(EVENT, CLASSES, 2, **parts()),
        images,
        lambda: SimpleNamespace(
            classes=CLASSES,
            prior=prior(2),
            likelihood=bernoulli(2, CLASSES),
            posterior=normal(16, CLASSES, out=2),
        ),
    ),
    "SemiSupervised": Row(
        lambda: programs.SemiSupervised(
            EVENT, CLASSES, 2, classifier=SMALL, labels=6, share=0.2, **parts()
        ),
        images,
        lambda: SimpleNamespace(
            classes=CLASSES,
            training=True,
            alpha=1.0,
            even=torch.zeros(CLASSES),
            zeros=torch.zeros(2),
            logits=several(CLASSES),
            likelihood=bernoulli(2, CLASSES),
            posterior=normal(16, CLASSES, out=2),
        ),
    ),
    "GaussianMixture": Row(
        lambda: programs.GaussianMixture(EVENT, 4, 2, pretraining=2, **parts()),
        images,
        lambda: SimpleNamespace(
            logits=torch.zeros(4),
            loc=torch.randn(4, 2),
            log_scale=torch.zeros(4, 2),
            likelihood=bernoulli(2),
            posterior=normal(16, out=2),
        ),
    ),
    "Hierarchical": Row(
        lambda: programs.Hierarchical(
            EVENT, [3, 2], likelihood=likelihoods.Bernoulli(SMALL), network=SMALL
        ),
        images,
        lambda: SimpleNamespace(
            names=["z1", "z2"],
            order="ladder",
            prior=prior(2),
            down=[normal(2, out=3)],
            up=[several(5, 3, 3), several(5, 2, 2)],
            likelihood=bernoulli(3, 2),
        ),
    ),
    "Hierarchical bottom-up": Row(
        lambda: programs.Hierarchical(
            EVENT,
            [3, 2],
            likelihood=likelihoods.Bernoulli(SMALL),
            network=SMALL,
            order="bottom-up",
        ),
        images,
        lambda: SimpleNamespace(
            names=["z1", "z2"],
            order="bottom-up",
            prior=prior(2),
            down=[normal(2, out=3)],
            up=[normal(16, out=3), normal(3, out=2)],
            likelihood=bernoulli(3, 2),
        ),
    ),
}
each = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def test_every_program_has_a_row() -> None:
    assert set(components.classes("program").values()) == {type(r.make()) for r in ROWS.values()}


@each
def test_signature_is_configuration(row: Row) -> None:
    first = row.make()
    again = components.construct(components.describe(first), "program")
    assert components.describe(again) == components.describe(first)
    assert {n: t.shape for n, t in first.state_dict().items()} == {
        n: t.shape for n, t in again.state_dict().items()
    }


@each
def test_copied_into_a_notebook_it_runs(row: Row) -> None:
    """The source of model and guide, executed where only pyro and torch are known."""
    program = row.make()
    known = {"pyro": pyro, "dist": dist, "torch": torch, "F": F, "Tensor": Tensor}
    for name in ("model", "guide"):
        source = inspect.getsource(getattr(type(program), name))
        exec("from __future__ import annotations\n" + textwrap.dedent(source), known)
    torch.manual_seed(0)
    copy = row.plain()
    model, guide = (functools.partial(known[name], copy) for name in ("model", "guide"))
    batch = program.serve(row.data(), training=True)[:20]
    with pyro.validation_enabled():
        discrete = "parallel" in inspect.getsource(type(program).model)
        loss = (
            pyro.infer.TraceEnum_ELBO(max_plate_nesting=1) if discrete else pyro.infer.Trace_ELBO()
        )
        assert torch.isfinite(torch.tensor(loss.loss(model, guide, *batch)))


@each
def test_trains_and_its_steps_compile(row: Row) -> None:
    """The bound rises, and the graph of a step gives what the handlers give."""
    torch.manual_seed(0)
    program = row.make()
    data = program.serve(row.data(), training=True)
    program.initialise(data)
    found = {}
    state = {name: value.clone() for name, value in program.state_dict().items()}
    for how in ("auto", False):
        program.load_state_dict(state)
        history = pv.fit(
            program, data, epochs=3, batch_size=20, lr=3e-3, compile=how, progress=False
        )
        found[how] = {n: v.clone() for n, v in program.state_dict().items()}
        assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    for name, value in found["auto"].items():
        assert torch.allclose(value.float(), found[False][name].float(), atol=2e-4), name
    # as kernels: what cannot be compiled warns, and warnings are errors
    pv.fit(program, data, epochs=1, batch_size=len(data), compile=True, progress=False)


@each
def test_saved_and_loaded_it_is_the_same(row: Row, tmp_path: object) -> None:
    torch.manual_seed(0)
    program = row.make()
    data = program.serve(row.data())
    program.initialise(program.serve(row.data(), training=True))
    pv.save(program, tmp_path)
    again = pv.load(tmp_path)
    assert torch.equal(pv.elbo(program, data), pv.elbo(again, data))


@each
def test_figure(row: Row) -> None:
    torch.manual_seed(0)
    program = row.make()
    program.initialise(program.serve(row.data(), training=True))
    axes = program.figure(program.serve(row.data()), ["a", "b", "c"])
    assert axes is not None or type(program) is pv.VAE
