"""What values data have, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Summary:
    """What values data have: of all entries, or of one column of a table.

    Attributes:
        low: the smallest value.
        high: the largest value.
        whole: whether all are whole numbers.
        binary: whether all are 0 or 1.
        eight_bit: whether all are one of k / 255, k = 0 to 255.
        distinct: how many values differ, 257 for more than 256 or any that is not whole.
        missing: how many entries are NaN.
        entries: how many entries there are.
        mean: of all entries.
        dispersion: variance over mean within a dimension: 1 for Poisson counts, NaN where the
            mean is not positive.
        excess: kurtosis beyond the normal's within a dimension: 3 for Laplace.
        zeros: share of zeros.
        expected_zeros: share that negative binomials of the dimensions' means and variances have.
        constant: how many dimensions never vary.
        spread: the smallest and the largest standard deviation of those that do.
        columns: of a table, the summary of every column.
    """

    low: float
    high: float
    whole: bool
    binary: bool
    eight_bit: bool
    distinct: int
    missing: int
    entries: int
    mean: float
    dispersion: float
    excess: float
    zeros: float
    expected_zeros: float
    constant: int
    spread: tuple[float, float]
    columns: tuple[Summary, ...] = ()

    @classmethod
    def of(cls, x: Tensor, *, columns: bool = True) -> Summary:
        """Of data [N, *event].

        >>> seen = Summary.of(torch.tensor([[0.0, 2.0], [1.0, float("nan")]]))
        >>> seen.low, seen.high, seen.missing, seen.columns[0].binary
        (0.0, 2.0, 1, True)
        """
        x = x.reshape(len(x), -1)
        known = x.isfinite()
        seen = x[known]
        if not seen.numel():
            nan = math.nan
            kind = (nan, nan, False, False, False, 0)
            return cls(*kind, x.numel(), x.numel(), nan, nan, nan, nan, nan, 0, (nan, nan))
        count = known.sum(0).clamp_min(1)
        mean, variance, fourth = _moments(x, known, count)
        varying = variance > 1e-12 * mean.square()
        whole = bool((seen == seen.round()).all())
        scales = variance[varying].sqrt()
        kurtosis = fourth[varying] / variance[varying].square()
        positive = mean.sum() > 0
        inverse = mean.square() / (variance - mean).clamp_min(1e-9 * mean.abs() + 1e-30)
        zero = torch.where(mean > 0, -inverse * torch.log1p(mean / inverse), 0.0).exp()
        table = x.shape[1] if columns and x.shape[1] <= 1000 else 0
        level = seen * 255
        return cls(
            low=float(seen.min()),
            high=float(seen.max()),
            whole=whole,
            binary=bool(((seen == 0) | (seen == 1)).all()),
            eight_bit=bool(
                ((level - level.round()).abs().max() < 1e-2) & (seen.min() >= 0) & (seen.max() <= 1)
            ),
            distinct=min(len(seen.unique()), 257) if whole else 257,
            missing=int(x.isnan().sum()),
            entries=x.numel(),
            mean=float(seen.mean(dtype=torch.float64)),
            dispersion=float(variance.sum() / mean.sum()) if positive else math.nan,
            excess=float(kurtosis.mean() - 3),  # NaN of none
            zeros=1 - int(seen.count_nonzero()) / len(seen),
            expected_zeros=float((zero * count).sum() / count.sum()) if positive else math.nan,
            constant=int((~varying).sum()),
            spread=(float(scales.min()), float(scales.max())) if len(scales) else (0.0, 0.0),
            columns=tuple(cls.of(x[:, [i]], columns=False) for i in range(table)),
        )


def _moments(x: Tensor, known: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and fourth central moment of every column's known entries."""
    # 0 for unknown entries: they add nothing
    mean = torch.where(known, x, 0.0).sum(0, dtype=torch.float64) / count
    squares, fourths = torch.zeros_like(mean), torch.zeros_like(mean)
    for rows, of in zip(x.split(4096), known.split(4096), strict=True):
        centred = torch.where(of, rows.double() - mean, 0.0).square_()
        squares += centred.sum(0)
        fourths += centred.square_().sum(0)
    return mean, squares / count, fourths / count
