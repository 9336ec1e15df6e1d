"""What the commands do to data before they look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyrovae as pv

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.generation import Values
    from pyrovae.plots import Axes
    from pyrovae.program import Program
    from pyrovae.tensors import Data, TensorData


def standardised(part: Data, train: Data) -> TensorData:
    """A part of the data in units of the training part."""
    held = pv.tensors.TensorData
    if not (isinstance(part, held) and isinstance(train, held)):
        raise pv.UsageError("--standardise needs data in memory: give --stream false")
    return part.standardised(train)


def observed(values: Values, pair: Program) -> Tensor:
    """Of what several sites observe, that which has the shape of the data."""
    if not isinstance(values, dict):
        return values
    found = [
        v for v in values.values() if tuple(v.shape[-len(pair.event_shape) :]) == pair.event_shape
    ]
    return (found or list(values.values()))[0]


def check_data(vae: Program, data: TensorData) -> None:
    """Refuse data that the likelihood does not hold before work is done on any."""
    data.check_finite()
    pair = pv.traces.as_pair(vae)
    few = tuple(t.to(pair.device) for t in data[:2])
    with pair.evaluating():
        pv.traces.Supports(pair, few).check(data)


def draw_paths(values: Tensor) -> Axes:
    """Paths drawn with axes of 1 before the event, lest rows of vectors pass for images."""
    rows, steps, *event = values.shape
    ones = {1: 3, 2: 1 if min(event) >= 4 else 2}.get(len(event), 0)
    return pv.plots.interpolation(values.reshape(rows, steps, *[1] * ones, *event))


def first_of_each(data: TensorData, n: int) -> Tensor:
    """``n`` data of different classes where there are labels, the first ones elsewhere."""
    import torch

    if data.labels is None:
        return torch.arange(min(n, len(data)))
    chosen = [int((data.labels == label).nonzero()[0]) for label in data.labels.unique()[:n]]
    rest = [i for i in range(len(data)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen + rest)


def evaluated(
    pair: Program, test: TensorData, num_particles: int, seed: int = 0, **evidence: Any
) -> tuple[pv.Evaluation, dict[str, object], str]:
    """What every pair is measured by; the same with what the program is scored by besides, as
    plain data and in lines; ``evidence`` says how the log evidence is measured."""
    found = pv.evaluate(pair, test, num_particles, seed=seed, **evidence)
    scores = pair.scores(test.fixed())
    lines = [f"\n{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items()]
    plain = found.to_dict() | ({"scores": scores} if scores else {})
    return found, plain, "".join([str(found), *lines])
