"""What goes wrong in a run, and what is said and saved then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.callbacks import Callback, EarlyStopping, Run, TensorBoard, TimeLimit

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
SETTINGS: dict[str, Any] = {"batch_size": 16, "progress": False, "device": "cpu"}


class Exploding(nn.Module):
    """A pair whose decoder gives ``what`` from a certain step on."""

    def __init__(self, what: str, at: int, times: int = 10**9) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 2)
        self.what, self.at, self.times = what, at, times
        self.register_buffer("runs", torch.zeros(()))

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.decoder(z)
            if self.training and pyro.poutine.runtime.am_i_wrapped():
                self.runs += 1
                if self.runs >= self.at and self.times:
                    loc = bad(loc, self.what)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class Cliff(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("inf")


def bad(loc: Tensor, what: str) -> Tensor:
    if what == "gradient":
        return Cliff.apply(loc)
    return loc + torch.zeros_like(loc).index_fill_(0, torch.tensor([3]), float(what))


def values(pair: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in pair.parameters()]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "nan",
            r"at step 30 \(epoch 8\).* loc of site 'x' in the model is nan at position \[3, 0\]",
        ),
        (
            "inf",
            r"at step 30 \(epoch 8\).* loc of site 'x' in the model is inf at position \[3, 0\]",
        ),
        ("gradient", r"at step 30 \(epoch 8\) the gradient of .*decoder.* is not finite"),
    ],
)
def test_a_bad_step_is_named_and_the_last_good_weights_stay(
    tmp_path: Path, what: str, said: str
) -> None:
    torch.manual_seed(0)
    pair = Exploding(what, 30)
    with pytest.raises(pv.training.Diverged, match=said) as raised:
        pv.fit(
            pair, X, epochs=20, out=tmp_path / "run", compile=False, checkpoint_every=5, **SETTINGS
        )
    assert "the weights are those of step 25" in str(raised.value).lower()
    assert "rollbacks=3" in str(raised.value)
    saved = pv.load(tmp_path / "run", into=Exploding(what, 30))
    for mine, theirs in zip(values(pair), values(saved), strict=True):
        assert torch.equal(mine, theirs) and mine.isfinite().all()
    torch.manual_seed(0)
    good = Exploding(what, 10**9)
    pv.fit(good, X, epochs=20, compile=False, callbacks=[stops(25)], **SETTINGS)
    assert all(map(torch.equal, values(good), values(pair)))


def stops(at: int) -> Callback:
    class Stop(Callback):
        def step(self, run: Run) -> str | None:
            return "enough" if run.step == at else None

    return Stop()


@pytest.mark.parametrize("out", [True, False])
def test_rolling_back_lowers_the_rate(tmp_path: Path, out: bool) -> None:
    """SGD at a rate that diverges gets there by itself once the rate has been halved."""
    torch.manual_seed(0)
    pair = pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8]), scale=1.0))

    def sgd(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr)

    settings = SETTINGS | {"epochs": 10, "lr": 0.4, "optimizer": sgd}
    with pytest.raises(pv.training.Diverged):
        pv.fit(pair, X, **settings)
    torch.manual_seed(0)
    pair = pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8]), scale=1.0))
    history = pv.fit(
        pair, X, rollbacks=12, checkpoint_every=8, out=tmp_path / "run" if out else None, **settings
    )
    assert len(history.rows) == 10
    assert history.last["lr"] < 0.4 and 0.4 / history.last["lr"] in {2.0**k for k in range(13)}
    assert all(p.isfinite().all() for p in pair.parameters())
    epochs = [row["epoch"] for row in history.rows]
    assert epochs == list(range(1, 11))


def test_a_loss_that_is_bad_from_the_start(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = Exploding("nan", 1)
    with pytest.raises(pv.training.Diverged, match="at step 1"):
        pv.fit(pair, X, epochs=2, compile=False, **SETTINGS)


def test_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(Exploding):
        def guide(self, x: Tensor) -> None:
            if self.training and len(x) > 8:
                torch.empty(2**50)
            super().guide(x)

    torch.manual_seed(0)
    with pytest.raises(pv.training.OutOfMemory, match="take batch_size 8 or less, or accumulate=2"):
        pv.fit(Greedy("nan", 10**9), X, epochs=1, compile=False, **SETTINGS)
    pv.fit(Greedy("nan", 10**9), X, epochs=1, compile=False, accumulate=2, **SETTINGS)


@pytest.mark.slow
def test_a_full_disk_does_not_end_training(tmp_path: Path) -> None:
    """Files of this process may have 60 kB: the state of this pair has more, its weights less."""
    script = """
import resource, signal, sys, warnings, torch, pyrovae as pv
torch.manual_seed(0)
x = torch.rand(64, 30).round()
pair = pv.VAE((30,), 2, likelihood=pv.likelihoods.Bernoulli(pv.networks.MLP([64])),
    guide=pv.guides.MeanField(pv.networks.MLP([64])))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    history = pv.fit(pair, x, epochs=3, batch_size=16, out=sys.argv[1], progress=False)
words = [str(w.message) for w in caught]
assert any("no checkpoint at step" in w and "File too large" in w for w in words), words
assert len(history.rows) == 3
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"metrics.csv", "model.safetensors"}
    assert not list((tmp_path / "run" / "checkpoints").glob("*.safetensors"))


# --- what people expect -------------------------------------------------------------------------


def vae() -> pv.VAE:
    torch.manual_seed(0)
    return pv.VAE((4,), 2, likelihood=pv.likelihoods.Normal(pv.networks.MLP([8])))


def test_early_stopping_and_the_best_weights() -> None:
    class Falls(Callback):
        """Weights that get worse from the third epoch on."""

        def epoch(self, run: Run) -> None:
            if run.epoch >= 3:
                with torch.no_grad():
                    for p in run.pair.parameters():
                        p.mul_(1.3)
            if run.epoch == 3:
                self.kept = values(run.pair)

    history = pv.fit(
        pair := vae(), X, epochs=50, validation=0.25, keep_best=True, lr=1e-2,
        callbacks=[Falls(), EarlyStopping(patience=4)], **SETTINGS,
    )  # fmt: skip
    assert history.stopped.startswith("no better for 4 epochs than epoch")
    assert len(history.rows) == history.best() + 5 < 50
    found = float(pv.elbo(pair, X, 200).mean())
    again = vae()
    pv.fit(
        again,
        X,
        epochs=len(history.rows),
        validation=0.25,
        lr=1e-2,
        callbacks=[Falls()],
        **SETTINGS,
    )
    assert found > float(pv.elbo(again, X, 200).mean())


def test_early_stopping_needs_something_to_watch() -> None:
    with pytest.raises(pv.UsageError, match="early stopping watches validation_elbo, and no"):
        pv.fit(vae(), X, epochs=2, callbacks=[EarlyStopping()], **SETTINGS)
    with pytest.raises(pv.UsageError, match="'nats', which this run does not measure; there is"):
        pv.fit(vae(), X, epochs=2, callbacks=[EarlyStopping(metric="nats")], **SETTINGS)
    with pytest.raises(pv.UsageError, match="keep_best needs validation"):
        pv.fit(vae(), X, epochs=2, keep_best=True, **SETTINGS)


def test_a_time_limit_ends_within_an_epoch(tmp_path: Path) -> None:
    whole, again = vae(), vae()
    history = pv.fit(
        vae(), X, epochs=3, callbacks=[TimeLimit(1e-9)], out=tmp_path / "run", **SETTINGS
    )
    assert "time limit" in history.stopped and history.rows == []
    pv.fit(again, X, epochs=3, out=tmp_path / "run", resume=True, **SETTINGS)
    pv.fit(whole, X, epochs=3, **SETTINGS)
    assert all(map(torch.equal, values(whole), values(again)))


def test_gradients_are_clipped() -> None:
    seen: list[float] = []

    class Norms(Callback):
        def step(self, run: Run) -> None:
            grads = [p.grad.flatten() for p in run.pair.parameters() if p.grad is not None]
            seen.append(float(torch.cat(grads).norm()))

    pv.fit(vae(), X, epochs=2, callbacks=[Norms()], **SETTINGS)
    free, seen[:] = list(seen), []
    pv.fit(vae(), X, epochs=2, clip_norm=0.5, callbacks=[Norms()], **SETTINGS)
    assert min(free) > 0.5 and all(norm == pytest.approx(0.5, rel=1e-3) for norm in seen)


def test_a_moving_average_of_the_weights() -> None:
    steps: list[list[Tensor]] = []

    class Record(Callback):
        def step(self, run: Run) -> None:
            steps.append(values(run.pair))

    pair = vae()
    start = values(pair)
    pv.fit(pair, X, epochs=3, ema=0.8, callbacks=[Record()], **SETTINGS)
    mean = start
    for now in steps:
        mean = [0.8 * m + 0.2 * w for m, w in zip(mean, now, strict=True)]
    for mine, theirs in zip(values(pair), mean, strict=True):
        torch.testing.assert_close(mine, theirs)


def exact() -> Any:
    """A pair without noise: its loss and gradients are the same however a batch is taken."""

    class Exact(nn.Module):
        def __init__(self, size: int | None = None) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.decoder, self.encoder, self.size = nn.Linear(2, 4), nn.Linear(4, 2), size

        def plate(self, x: Tensor) -> Any:
            if self.size is None:
                return pyro.plate("data", len(x))
            return pyro.plate("data", self.size, subsample_size=len(x), dim=-1)

        def model(self, x: Tensor) -> None:
            with self.plate(x):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            with self.plate(x):
                pyro.sample("z", dist.Delta(self.encoder(x)).to_event(1))

    return Exact


@pytest.mark.parametrize("size", [None, 64], ids=["sum", "subsampled"])
@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_taken_in_parts_is_the_same_step(size: int | None, parts: int) -> None:
    whole, cut = exact()(size), exact()(size)
    settings = SETTINGS | {"epochs": 3, "batch_size": 24}  # the last batch is smaller
    one = pv.fit(whole, X, **settings)
    other = pv.fit(cut, X, accumulate=parts, **settings)
    for mine, theirs in zip(values(whole), values(cut), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_count_what_all_data_share_once(parts: int) -> None:
    """A batch taken in parts is the same step: what is global counts for each part's data."""

    def model(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shift, 1.0).expand([4]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        pyro.sample("shift", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale * 1e-3))

    found = []
    for accumulate in (1, parts):
        pair = pv.Pair(model, guide)
        settings = SETTINGS | {"epochs": 3, "batch_size": 24}
        history = pv.fit(pair, X, accumulate=accumulate, **settings)
        found.append((history["loss"], float(pair.params["loc"].detach())))
    assert found[0][0] == pytest.approx(found[1][0], abs=0.02)
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-3)


def test_callbacks_see_the_run(tmp_path: Path) -> None:
    said: list[Any] = []

    class All(Callback):
        def begin(self, run: Run) -> None:
            said.append(("begin", run.step, run.epochs, run.out))

        def step(self, run: Run) -> None:
            said.append(("step", run.step, run.epoch))
            assert float(run.loss) > 0 and run.optimizer.param_groups[0]["lr"] >= 1e-3

        def epoch(self, run: Run) -> None:
            said.append(("epoch", run.epoch, len(run.history.rows)))

        def end(self, run: Run) -> None:
            said.append(("end", run.step))

    pair = vae()
    pv.fit(pair, X, epochs=2, out=tmp_path / "run", callbacks=[All()], **SETTINGS)
    assert said[0] == ("begin", 0, 2, tmp_path / "run") and said[-1] == ("end", 8)
    assert said[5] == ("epoch", 1, 1) and said.count(("step", 8, 2)) == 1
    said.clear()
    with pytest.raises(pv.training.Diverged):
        pv.fit(pair, X, epochs=2, lr=1e30, callbacks=[All()], **SETTINGS)
    assert said[-1][0] == "end"


def test_tensorboard_has_every_epoch(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pv.fit(vae(), X, epochs=3, validation=0.2, out=tmp_path, callbacks=[TensorBoard()], **SETTINGS)
    events = loading.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("validation_elbo")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"accumulate": 17}, "cannot be taken in 17 parts"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive number"),
        ({"ema": 1.0}, "ema is the share"),
        ({"rollbacks": -1}, "rollbacks must be a whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every must be"),
        ({"seed": -1}, "seed must be"),
        ({"lr": float("nan")}, "lr must be a positive number"),
    ],
)
def test_mistakes_speak(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(pv.UsageError, match=said):
        pv.fit(vae(), X, epochs=1, **SETTINGS | settings)
