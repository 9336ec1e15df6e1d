"""The traced step gives what Pyro's handlers give, or leaves the step to them."""

from __future__ import annotations

from collections.abc import Callable

import pairs
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import pyrovae as pv
from pyrovae import traces
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


def convolutional() -> tuple[nn.Module, Tensor]:
    net = pv.networks.ConvNet([4], hidden=8)
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
    "convolutions": convolutional,
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
    (graph,) = traced.graphs.values()
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


def test_buffers_that_move_are_left_to_the_handlers() -> None:
    norm = nn.BatchNorm1d(6)
    encoder = nn.Sequential(norm, nn.Linear(6, 4), nn.Unflatten(1, (2, 2)))

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = encoder

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.net(x).unbind(1))

    pair = vae(guide=pv.guides.MeanField(Split()))
    with pytest.warns(UserWarning, match="a buffer changes at every step"):
        pv.fit(pair, X, epochs=15, batch_size=32, compile=True, progress=False)
    assert int(norm.num_batches_tracked) == 30  # two steps an epoch, none of them twice


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


def test_mistake_speaks() -> None:
    with pytest.raises(pv.UsageError, match="compile is 'auto', True or False"):
        pv.fit(vae(), X, batch_size=8, compile="always", progress=False)
