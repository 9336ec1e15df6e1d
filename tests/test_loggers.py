"""Numbers for trackers and for Python's own log: every epoch's row, whole, at its step."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyrovae as pv
from pyrovae.callbacks import Logger, TensorBoard

FAKES = str(Path(__file__).parent / "fakes")
X = torch.bernoulli(torch.full((64, 6), 0.4), generator=torch.Generator().manual_seed(0))


def trained(*callbacks: Any, **options: Any) -> pv.History:
    return pv.fit(pv.VAE((6,), 2), X, epochs=3, batch_size=16, callbacks=callbacks, **options)


@pytest.mark.parametrize(
    ("name", "function"), [("wandb", "Run().log"), ("mlflow", "log_metrics"), ("trackio", "log")]
)
def test_a_tracker_gets_every_row(
    name: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.delitem(sys.modules, name, raising=False)
    tracker = importlib.import_module(name)
    log = tracker.Run().log if name == "wandb" else getattr(tracker, function)
    history = trained(Logger(log), progress=False)
    assert [{"step": step, **row} for step, row in tracker.ROWS] == history.rows
    assert history["step"] == [4, 8, 12]


def test_tensorboard_takes_them_too(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = trained(TensorBoard(tmp_path), progress=False)
    found = events.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [e.value for e in found.Scalars("elbo")] == pytest.approx(history["elbo"], rel=1e-6)


def test_the_loss_between_epochs() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    trained(Logger(lambda row, step: seen.append((step, row)), every=2), progress=False)
    assert [step for step, row in seen if "step_loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [row["epoch"] for _, row in seen if "elbo" in row] == [1, 2, 3]


def away(after: int) -> Callable[[dict[str, float], int], None]:
    """A tracker whose server is away from a call on."""
    calls: list[int] = []

    def send(row: dict[str, float], step: int) -> None:
        calls.append(step)
        if len(calls) > after:
            raise ConnectionError("no route")

    return send


def test_a_tracker_that_goes_away_ends_nothing() -> None:
    with pytest.warns(UserWarning, match="ConnectionError: no route.*training goes on") as said:
        history = trained(Logger(away(after=1)), progress=False)
    assert len(history.rows) == 3 and len(said) == 1


def test_a_tracker_that_never_worked_is_a_mistake() -> None:
    with pytest.raises(ConnectionError):
        trained(Logger(away(after=0)), progress=False)
    with pytest.raises(pv.UsageError, match="log is a function"):
        Logger("elbo")  # type: ignore[arg-type]


def test_who_listens_to_the_log_hears_every_row(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "pyrovae"):
        history = trained(compile=False)
    records = [r for r in caplog.records if r.name == "pyrovae" and hasattr(r, "metrics")]
    assert [r.metrics for r in records] == history.rows
    assert records[-1].getMessage().startswith("epoch 3/3") and "ELBO" in records[-1].getMessage()
    assert "epoch" not in capsys.readouterr().err  # not twice


def test_where_nobody_listens_it_is_the_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained(compile=False)
    assert capsys.readouterr().err.count("ELBO") == 3


def test_quiet_is_quiet_for_the_log_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pyrovae"), pv.quiet():
        trained(compile=False)
    assert not caplog.records


def test_what_a_function_happens_to_return_ends_nothing() -> None:
    """``file.write`` returns a count, a lambda its last number."""
    assert len(trained(lambda history: history.last["elbo"], progress=False).rows) == 3
    assert len(trained(lambda history: 11, progress=False).rows) == 3
    assert len(trained(lambda history: history.last["epoch"] >= 2, progress=False).rows) == 2
