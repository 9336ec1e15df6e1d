"""The numbers that a run is made with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pyrovae.errors import UsageError, flag, number, whole_number

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The numbers that a run is made with; what they mean is told by :func:`pyrovae.fit`."""

    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3
    seed: int = 0
    accumulate: int = 1
    clip_norm: float | None = None
    ema: float | None = None
    keep_best: bool = False
    rollbacks: int = 0
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            self._set(name, whole_number(name, getattr(self, name)))
        self._set("rollbacks", whole_number("rollbacks", self.rollbacks, least=0))
        self._set("seed", whole_number("seed", self.seed, least=0, most=2**63 - 1))
        self._set("lr", number("lr", self.lr))
        self._set("keep_best", flag("keep_best", self.keep_best))
        if self.clip_norm is not None:
            self._set("clip_norm", number("clip_norm", self.clip_norm))
        if self.ema is not None:
            self._set("ema", number("ema", self.ema))
            if self.ema >= 1:
                raise UsageError(
                    f"ema is the share of the average that a step keeps, below 1; got {self.ema}"
                )
        if self.checkpoint_every is not None:
            every = whole_number("checkpoint_every", self.checkpoint_every)
            self._set("checkpoint_every", every)
        if self.accumulate > self.batch_size:
            raise UsageError(
                f"a batch of {self.batch_size} cannot be taken in {self.accumulate} parts; lower "
                f"accumulate"
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # a NumPy number as Python's

    def told(self) -> dict[str, str]:
        """What must be the same when a run is taken up again."""
        free = ("epochs", "rollbacks", "checkpoint_every", "keep_best")
        return {k: repr(v) for k, v in dataclasses.asdict(self).items() if k not in free}
