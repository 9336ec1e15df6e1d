"""What is told of an epoch: the ELBO and its terms, measured on data."""

from __future__ import annotations

import torch

from pyrovae.processes import Processes
from pyrovae.streams import Data
from pyrovae.traces import Args, Problem
from pyrovae.training.faults import unlike

__all__ = ["WATCHED", "Measure", "fresh"]

TERMS = ("elbo", "reconstruction", "kl")
WATCHED = 1000  # training data whose terms are measured after an epoch


def fresh(device: torch.device) -> torch.Generator:
    """A generator that always draws the same."""
    return torch.Generator(device).manual_seed(0)


class Measure:
    """The ELBO, reconstruction and KL of a pair, whatever it is trained with.

    Args:
        problem: the pair and its data; None where they are not understood, and nothing is measured.
        few: the first data.
        processes: those that measure together.
        size: data at a time.
        device: where the data are served.
    """

    def __init__(
        self,
        problem: Problem | None,
        few: Args,
        processes: Processes,
        size: int,
        device: torch.device,
    ) -> None:
        self.problem, self.few = problem, few
        self.processes, self.size, self.device = processes, size, device

    def terms(self, data: Data, prefix: str, step: int) -> dict[str, float]:
        """Means over all the data held out, or some of the others, one particle each; the random
        state is untouched."""
        if self.problem is None:
            return {}
        sums = torch.zeros(4, dtype=torch.float64)
        share = (self.processes.rank, self.processes.size)
        size, gone = min(self.size, len(data)), 0
        for batch in data.batches(size, generator=fresh(self.device), share=share):
            count = len(batch[0])
            if count:
                try:
                    terms = self.batch_terms(batch)
                except (ValueError, RuntimeError, TypeError, LookupError) as error:
                    unlike(self.few, batch, step, error)
                    raise
                sums += count * torch.tensor([1.0, *terms.values()], dtype=torch.float64)
            gone += size
            if gone >= WATCHED and not prefix:
                break
        self.processes.sum([sums])
        names = (prefix + term for term in TERMS)
        return dict(zip(names, (sums[1:] / sums[0]).tolist(), strict=True))

    def columns(self, validating: bool) -> list[str]:
        """The names of what is told of an epoch."""
        names = ["epoch", "step", "seconds", "images_per_second", "lr", "loss"]
        prefixes = [""] + ["validation_"] * validating
        return names + [p + term for p in prefixes for term in TERMS if self.problem is not None]

    def batch_terms(self, batch: Args) -> dict[str, float]:
        """Means over a batch."""
        if self.problem is None or not len(batch[0]):
            return {}
        with self.problem.pair.evaluating():
            drawn = self.problem.draw(batch)
            reconstruction = drawn.reconstruction.mean()
            kl = drawn.total_kl.mean()
        values = (float(reconstruction - kl), float(reconstruction), float(kl))
        return dict(zip(TERMS, values, strict=True))
