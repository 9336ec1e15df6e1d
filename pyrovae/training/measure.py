"""What is told of an epoch: the ELBO and its terms, measured on data."""

from __future__ import annotations

import torch

from pyrovae.processes import Processes
from pyrovae.streams import Data
from pyrovae.traces import Args
from pyrovae.training.faults import refuse_other_shapes
from pyrovae.training.observed import Observed, always_alike

__all__ = ["Measure", "watched_of"]

TERMS = ("elbo", "reconstruction", "kl")
WATCHED = 1000  # training data whose terms are measured after an epoch


def watched_of(data: Data, seed: int) -> Data:
    """The data to train on that are watched: at random in a file, whose first rows may be of one
    kind."""
    return data if data.in_memory or data.own_batches else data.sample(WATCHED, seed)


class Measure:
    """The ELBO, reconstruction and KL of a pair, whatever it is trained with.

    Args:
        observed: the pair; where its structure is not known, nothing is measured.
        watched: data to train on, the first thousand of which are measured.
        held_out: of which all are.
        processes: those that measure together.
        size: data at a time.
        device: where the data are served.
    """

    def __init__(
        self,
        observed: Observed,
        watched: Data,
        held_out: Data | None,
        processes: Processes,
        *,
        size: int,
        device: torch.device,
    ) -> None:
        self.observed, self.watched, self.held_out = observed, watched, held_out
        self.processes, self.size, self.device = processes, size, device

    def row(self, step: int) -> dict[str, float]:
        """Means over some of the data trained on and over all the data held out, one particle
        each; the random state is untouched."""
        found = self._means(self.watched, "", WATCHED, step)
        if self.held_out is not None:
            found |= self._means(self.held_out, "validation_", None, step)
        return found

    def columns(self) -> list[str]:
        """The names of what is told of an epoch."""
        names = ["epoch", "step", "seconds", "images_per_second", "lr", "loss"]
        if self.observed.structure is None:
            return names
        prefixes = [""] + ["validation_"] * (self.held_out is not None)
        return names + [prefix + term for prefix in prefixes for term in TERMS]

    def glance(self, batch: Args) -> dict[str, float]:
        """Means over a batch."""
        if self.observed.structure is None or not len(batch[0]):
            return {}
        return dict(zip(TERMS, self.observed.terms(batch), strict=True))

    def _means(self, data: Data, prefix: str, most: int | None, step: int) -> dict[str, float]:
        if self.observed.structure is None:
            return {}
        sums = torch.zeros(4, dtype=torch.float64)
        share = (self.processes.rank, self.processes.size)
        size, gone = min(self.size, len(data)), 0
        for batch in data.batches(size, generator=always_alike(self.device), share=share):
            if count := len(batch[0]):
                try:
                    terms = self.observed.terms(batch)
                except (ValueError, RuntimeError, TypeError, LookupError) as error:
                    refuse_other_shapes(self.observed.few, batch, step, error)
                    raise
                sums += count * torch.tensor([1.0, *terms], dtype=torch.float64)
            gone += size
            if most is not None and gone >= most:
                break
        self.processes.sum([sums])
        names = (prefix + term for term in TERMS)
        return dict(zip(names, (sums[1:] / sums[0]).tolist(), strict=True))
