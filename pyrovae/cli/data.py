"""What the commands do to data before they look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyrovae as pv

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.cli.pairs import Shown
    from pyrovae.generation import Values
    from pyrovae.plots import Drawn
    from pyrovae.schema import Schema
    from pyrovae.tensors import TensorData


def observed(values: Values, pair: Shown) -> Tensor:
    """Of what several sites observe, that which has the shape of the data; one number per datum,
    however a site observes it, is taken in their shape."""
    event = pair.event_shape
    several = [*values.values()] if isinstance(values, dict) else [values]
    found = [v for v in several if tuple(v.shape[-len(event) :]) == event]
    if not found and set(event) == {1}:
        return several[0].reshape(*several[0].shape, *event)
    return (found or several)[0]


def check_data(pair: Shown, data: TensorData) -> None:
    """Refuse data that the likelihood does not hold before work is done on any."""
    pv.traces.Problem.of(pair, data)


def draw_paths(values: Tensor, schema: Schema | None) -> Drawn:
    """Paths ``[rows, steps, *event]``: rows of vectors do not pass for images."""
    return pv.plots.interpolation(values, event_dim=values.dim() - 2, schema=schema)


def first_of_each(data: TensorData, n: int) -> Tensor:
    """``n`` data of different classes where there are labels, the first ones elsewhere."""
    import torch

    if data.labels is None:
        return torch.arange(min(n, len(data)))
    chosen = [int((data.labels == label).nonzero()[0]) for label in data.labels.unique()[:n]]
    rest = [i for i in range(len(data)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen + rest)


def evaluated(
    pair: Shown, test: TensorData, num_particles: int, seed: int = 0, **evidence: Any
) -> tuple[pv.Evaluation, dict[str, object], str]:
    """What every pair is measured by; the same with what the program is scored by besides, as
    plain data and in lines; ``evidence`` says how the log evidence is measured."""
    found = pv.evaluate(pair, test, num_particles, seed=seed, **evidence)
    scores = pair.scores(test.fixed())
    lines = [f"\n{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items()]
    plain = found.to_dict() | ({"scores": scores} if scores else {})
    return found, plain, "".join([str(found), *lines])
