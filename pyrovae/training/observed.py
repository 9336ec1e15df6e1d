"""A pair and the data it is trained on, as a run shows them: all that training asks of traces."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from pyrovae import traces
from pyrovae.errors import UsageError
from pyrovae.streams import Data
from pyrovae.traces import Args, Pair
from pyrovae.traces.sites import Trace
from pyrovae.training.state import Weights

__all__ = ["Observed", "always_alike", "refuse_closed_form"]


def always_alike(device: torch.device) -> torch.Generator:
    """A generator that always draws the same."""
    return torch.Generator(device).manual_seed(0)


class Observed:
    """A pair that has met its data.

    Args:
        program: the pair.
        data: to train on.
        held_out: to watch.
        few: the first data.

    Attributes:
        data, held_out: the same, each datum held against the supports as it is used.
        problem: the pair on these data; None where they are not understood, with a warning.
        structure: what was seen of it.
        enumerates: whether a discrete site asks to be summed out.
        tied: whether the rows must stay together and in their order.
        leaves: what the loss depends on, by name.
        covered: whether the data in memory lie in every support, and no other can be met.

    Raises:
        UsageError: model and guide sites that differ, no parameters, data outside the support.
    """

    def __init__(self, program: Pair, data: Data, held_out: Data | None, few: Args) -> None:
        program.begin()
        program.example(few)
        with program.evaluating():
            self._supports = traces.Supports(program, few)
            self.data = self._supports.check(data)
            self.held_out = held_out
            if held_out is not None:
                held_out.check_finite()
                self.held_out = self._supports.check(held_out)
            program.measure_units(self.data)
            self.enumerates = traces.enumerates(*self._traced(program, few, data))
        size, total = len(few[0]), len(data)
        self.tied, self.problem = False, None
        try:
            self.problem = traces.Problem.at(program, few)
            self.tied = self.problem.shape.tied
        except UsageError as error:
            self.tied = isinstance(error, traces.NoPlate)
            if not self.tied:
                warnings.warn(f"no reconstruction and KL while training: {error}", stacklevel=4)
        if self.tied and size < total:
            raise _tied(size, total)
        shape = self.structure
        if shape is not None and shape.globals and shape.size is None and size < total:
            program = traces.sharing(program, shape.plate, total)
            self.problem = traces.Problem.at(program, few)
        self.program, self.few = program, few

    def _traced(self, program: Pair, few: Args, data: Data) -> tuple[Trace, Trace]:
        """A run on the first data; programs that run on all of them alone are told so."""
        try:
            return traces.check(program, few)
        except UsageError as error:
            if len(few[0]) < len(data) and data.in_memory:
                try:
                    traces.check(program, data.first(len(data))[:])
                except UsageError:
                    raise error from None
                raise _tied(len(few[0]), len(data)) from error
            raise

    @functools.cached_property
    def leaves(self) -> dict[str, Tensor]:
        return traces.parameters(self.program, self.few)

    @property
    def structure(self) -> traces.Structure | None:
        return None if self.problem is None else self.problem.shape

    @property
    def covered(self) -> bool:
        return self._supports.covered

    def additive(self) -> bool:
        """Whether the loss of a batch is the sum of its parts' losses, or their mean; by this
        process or by several. Refuse what may not be taken in parts."""
        sums, found = traces.adds(self.program, self.few), self.structure
        if sums and found is not None and found.globals and not found.share:
            raise UsageError(
                f"every part of a batch would count {', '.join(found.globals)}, which all "
                f"data share, once more. Say for how many data the plate stands: "
                f"pyro.plate({found.plate!r}, N, subsample_size=len(x))"
            )
        return sums

    def idle(self) -> list[str]:
        """Parameters that the log probabilities do not depend on."""
        return traces.unreached(self.program, self.leaves)

    def scale(self, batch: int) -> float:
        """A plate that stands for N data scales a batch of B by N / B."""
        if self.structure is None or self.structure.size is None:
            return 1.0
        return self.structure.size / batch

    def terms(self, batch: Args) -> tuple[float, float, float]:
        """ELBO, reconstruction and KL of a batch, means in nats per datum, of one particle."""
        assert self.problem is not None
        with self.program.evaluating():
            drawn = self.problem.draw(batch)
            reconstruction, kl = drawn.reconstruction.mean(), drawn.total_kl.mean()
        return float(reconstruction - kl), float(reconstruction), float(kl)

    def fault(self, batch: Args) -> str:
        """The first number of a run on the batch that is not finite, in words; "" if none is."""
        return traces.first_bad(self.program, batch) if len(batch[0]) else ""

    def sound(self) -> bool:
        """Whether every parameter is finite."""
        return all(bool(torch.isfinite(leaf).all()) for leaf in self.leaves.values())

    def weights(self) -> Weights:
        """Parameters and buffers by name, and the leaves that the pair has no name for."""
        named = self.program.tensors()
        reached = {id(tensor) for tensor in named.values()}
        return Weights(named, {n: p for n, p in self.leaves.items() if id(p) not in reached})

    def fill(self, weights: Weights) -> None:
        """Put weights in."""
        self.program.fill(weights.named, "the checkpoint")
        with torch.no_grad():
            for name, value in weights.strays.items():
                self.leaves[name].copy_(value)

    def values(self) -> list[Tensor]:
        """The leaves, in their order."""
        return list(self.leaves.values())


def _tied(size: int, total: int) -> UsageError:
    return UsageError(
        f"these programs are tied to their rows' places (one graph or series, a parameter per "
        f"datum, a plate that takes all data): batches of {size} of the {total} data, shuffled, "
        f"would be other data to them. Give all rows as one batch (batch_size={total}), or the "
        f"rows' index as an argument of both programs, with pyro.plate('data', {total}, "
        f"subsample=index), or train with pv.SVI"
    )


def refuse_closed_form(found: traces.Structure) -> None:
    """Refuse a closed form of the KL where it would be wrong."""
    unsafe = [n for n in found.latents if n not in found.closed_form]
    scored = [n for n in found.latents if n not in found.pathwise]
    if scored:
        raise UsageError(
            f"TraceMeanField_ELBO differentiates through the draws of {', '.join(scored)}, "
            f"which are not reparameterised: gradients would be wrong. Use Trace_ELBO(), or "
            f"enumerate a discrete site with TraceEnum_ELBO()"
        )
    if unsafe:
        raise UsageError(
            f"TraceMeanField_ELBO would be silently wrong here: in the model, the site(s) "
            f"{', '.join(unsafe)} come after latents that the guide draws later, so their KL "
            f"has no closed form given what the guide has drawn. Use Trace_ELBO(), or draw "
            f"the guide's sites in the model's order"
        )
