"""The part of MLflow's interface that the recipes use, with its signatures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ROWS: list[tuple[int, dict[str, float]]] = []
PARAMS: dict[str, Any] = {}


@contextmanager
def start_run(run_id: str | None = None, run_name: str | None = None) -> Iterator[object]:
    yield object()
    assert ROWS, "nothing was logged"


def log_params(params: dict[str, Any], synchronous: bool | None = None) -> None:
    PARAMS.update(params)


def log_metrics(
    metrics: dict[str, float], step: int | None = None, synchronous: bool | None = None
) -> None:
    assert step is not None
    assert all(type(value) in (int, float) for value in metrics.values()), metrics
    ROWS.append((step, metrics))
