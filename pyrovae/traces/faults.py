"""What a bad step was made of, and how a batch may be taken in parts."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import torch
from pyro.poutine.runtime import Message
from torch import Tensor

from pyrovae.errors import UsageError
from pyrovae.traces.pair import Args, Pair
from pyrovae.traces.sites import run, sites
from pyrovae.traces.structure import same


def first_bad(pair: Pair, args: Args) -> str:
    """The first site of a run on this batch with a number that is not finite, in words: program,
    site, which of its tensors, which datum; "" where all are finite. Draws from the random state
    as it is."""
    with torch.no_grad(), pyro.validation_enabled(False), pair.scope():
        model_trace, guide_trace = run(pair, args)
        for program, trace in (("guide", guide_trace), ("model", model_trace)):
            for name, site in sites(trace).items():
                for what, value in _tensors(site):
                    bad = ~torch.isfinite(value)
                    if bool(bad.any()):
                        at = bad.nonzero()[0].tolist()
                        return (
                            f"{what} of site {name!r} in the {program} is "
                            f"{value[tuple(at)].item()}{f' at position {at}' if at else ''}"
                        )
    return ""


def _tensors(site: Message) -> Iterator[tuple[str, Tensor]]:
    """A site's numbers, in the order in which they come about."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    for name in getattr(fn, "arg_constraints", {}):
        value = fn.__dict__.get(name)
        if isinstance(value, Tensor):
            yield name, value
    if isinstance(site["value"], Tensor):
        yield "value", site["value"]
    yield "log_prob", site["fn"].log_prob(site["value"])


def adds(pair: Pair, args: Args) -> bool:
    """Whether the loss of a batch is the sum of its parts' losses; if not, it is their mean, as
    where a plate stands for N data or the programs scale by one over the batch.

    Raises:
        UsageError: neither.
    """
    if len(args[0]) == 1:
        args = tuple(torch.cat([a, a]) for a in args)
    half = tuple(a[: len(a) // 2] for a in args)
    ratios = _scale_ratios(pair, args, half)
    n, m = len(args[0]), len(half[0])
    if all(same(ratio, 1.0) for ratio in ratios):
        return True
    if all(torch.allclose(ratio.float(), torch.tensor(n / m)) for ratio in ratios):
        return False
    raise UsageError(
        "a batch cannot be taken in parts here: the scale of an observed site neither stays nor "
        "grows as one over the batch; train in one process with accumulate=1"
    )


def _scale_ratios(pair: Pair, args: Args, part: Args) -> list[Tensor]:
    """How the scale of each observed site on a part compares to its scale on the whole."""
    with pair.evaluating():
        whole, fewer = (sites(run(pair, rows)[0]) for rows in (args, part))
    return [
        torch.as_tensor(fewer[name]["scale"]) / torch.as_tensor(site["scale"])
        for name, site in whole.items()
        if site["is_observed"] and name in fewer
    ]
