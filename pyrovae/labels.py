"""Labels of data: the classes 0 to ``classes`` - 1, checked, and as one-hot rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.errors import UsageError

__all__ = ["OneHot", "check_labels"]


def check_labels(labels: Tensor, classes: int, name: str) -> None:
    """Refuse labels that are no class, where distributions are validated.

    Raises:
        UsageError: labels below 0 or from ``classes`` on.
    """
    if torch.distributions.Distribution._validate_args and bool(
        ((labels < 0) | (labels >= classes)).any()
    ):
        raise UsageError(
            f"the labels go from {int(labels.min())} to {int(labels.max())}, {name} has the "
            f"classes 0 to {classes - 1}: give {name}(classes=...) as many as there are"
        )


class OneHot(nn.Module):
    """Labels ``[*batch]`` as one-hot rows ``[*batch, classes]``; unlike ``F.one_hot`` it looks at
    their values only where distributions are validated, so that a graph of it can be made.

    >>> OneHot(3)(torch.tensor([0, 2])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """

    rows: Tensor

    def __init__(self, classes: int, owner: str = "OneHot") -> None:
        super().__init__()
        self.classes, self.owner = classes, owner
        self.register_buffer("rows", torch.eye(classes), persistent=False)

    def forward(self, labels: Tensor) -> Tensor:
        check_labels(labels, self.classes, self.owner)
        return self.rows[labels.long()]
