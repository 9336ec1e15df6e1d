"""How stored numbers become a program's arguments: as floats, scaled, binarised, on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrovae.errors import UsageError, nearest

MODES = ("none", "dynamic", "threshold", "static")


@dataclass(frozen=True)
class Serving:
    """How the first tensor x of a batch is served; the others are only moved.

    Attributes:
        device: where to.
        dtype: of the floats; None for the default dtype.
        divisor: stored x / divisor = value.
        maximum: the largest value there can be; None when unknown, and binarising then takes 1.
        binarise: None, "dynamic" or "threshold".
        integral: whether x is served as the integers that are stored, int64.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    divisor: float | None = None
    maximum: float | None = None
    binarise: str | None = None
    integral: bool = False

    def keeps_integers(self, stored: Tensor) -> bool:
        """Whether x is stored as integers that mean what they are."""
        whole = not (stored.is_floating_point() or stored.dtype == torch.bool)
        return whole and self.divisor is None and self.binarise is None

    def check_digits(self, stored: Tensor) -> None:
        """Refuse integers that the floats to serve them in do not hold."""
        if self.integral or stored.is_floating_point() or not stored.numel():
            return
        if stored.dtype == torch.bool or torch.iinfo(stored.dtype).bits == 8:
            return
        stored = stored.long()
        dtype = self.dtype or torch.get_default_dtype()
        exact = 2 / torch.finfo(dtype).eps
        low, high = (int(bound) for bound in stored.aminmax())
        if max(-low, high) <= exact or bool((stored.to(dtype).to(stored.dtype) == stored).all()):
            return
        name = str(dtype).removeprefix("torch.")
        raise UsageError(
            f"x has integers as large as {max(low, high, key=abs)}, and {name} holds whole numbers "
            f"up to {int(exact):,}: the last digits would be lost. If they are names or codes, "
            f"number them anew (numpy.unique(x, return_inverse=True)); if they are quantities, "
            f"give x.float() to round them, or take double precision (x.double(), pair.double())"
        )

    def check_range(self, stored: Tensor, mode: str, modes: Sequence[str] = MODES) -> None:
        """Refuse to binarise in an unknown way, or values outside [0, maximum]."""
        if mode not in modes:
            hint = nearest(str(mode), modes) or "."
            raise UsageError(f"there is no way to binarise {mode!r}{hint} Ways: {', '.join(modes)}")
        known = stored[~stored.isnan()] if stored.is_floating_point() else stored
        if not known.numel():
            return
        low, high = (bound.item() / (self.divisor or 1) for bound in known.aminmax())
        maximum = 1.0 if self.maximum is None else self.maximum
        if not (low >= 0 and high <= maximum):
            raise UsageError(
                f"the data cannot be binarised: their values are in [{low:g}, {high:g}], not in "
                f"[0, {maximum:g}]; rescale them, or give the maximum or divisor they have"
            )

    def x(
        self,
        stored: Tensor,
        generator: torch.Generator | None = None,
        *,
        noise: bool = True,
        size: int | None = None,
        own: slice = slice(None),
    ) -> Tensor:
        """``stored`` as served: the rows ``own`` of a batch of ``size``, with their noise."""
        x = stored.to(self.device, non_blocking=True)
        if self.integral:
            return x.long()
        x = x.to(self.dtype or torch.get_default_dtype())
        if self.divisor is not None:
            x = x / self.divisor
        if self.binarise is None:
            return x
        drawn = self._binary(x, generator, noise, size, own)
        # what is missing stays missing
        return torch.where(x.isnan(), x, drawn) if stored.is_floating_point() else drawn

    def _binary(
        self,
        x: Tensor,
        generator: torch.Generator | None,
        noise: bool,
        size: int | None,
        own: slice,
    ) -> Tensor:
        probability = x if self.maximum in (None, 1) else x / self.maximum
        if self.binarise == "threshold":
            return (probability >= 0.5).to(x.dtype)
        if not noise:
            return probability
        probability = probability.nan_to_num(0.0)
        if size is None or size == len(x):
            return torch.bernoulli(probability, generator=generator)
        # as many draws as the whole batch takes, so that each row has the noise it has in there
        whole = probability.new_zeros((size, *probability.shape[1:]))
        whole[own] = probability
        return torch.bernoulli(whole, generator=generator)[own]

    def static(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """x ~ Bernoulli(value / maximum), drawn once: uint8, or floats where entries are missing.

        rand on the CPU, not bernoulli: its stream is the same on every machine.
        """
        dynamic = replace(self, binarise="dynamic")
        gaps = stored.is_floating_point() and bool(stored.isnan().any())
        out = torch.empty_like(stored, dtype=None if gaps else torch.uint8)
        for part, into in zip(stored.split(4096), out.split(4096), strict=True):
            probability = dynamic.x(part, noise=False).cpu()
            drawn = torch.rand(probability.shape, generator=generator) < probability
            into.copy_(torch.where(probability.isnan(), probability, drawn) if gaps else drawn)
        return out

    def batch(
        self,
        stored: Sequence[Any],
        generator: torch.Generator | None,
        size: int | None = None,
        own: slice = slice(None),
    ) -> tuple[Any, ...]:
        """The rows ``own`` of a batch of ``size``; what cannot be moved is handed on."""
        x, *others = stored
        moved = (
            other.to(self.device, non_blocking=True) if isinstance(other, Tensor)
            else other.to(self.device) if hasattr(other, "to") else other
            for other in others
        )  # fmt: skip
        return self.x(x, generator, size=size, own=own), *moved
