"""Any pair and a batch -> per-site log p, log q, values and distributions.

Everything that pyrovae knows of a model and a guide it learns here, by running the guide and
replaying the model against it. Particles are one outer plate, so the guide runs once however
many are drawn. Log probabilities are unscaled (a subsampled plate's N/B belongs to training),
masked as the program says, and summed over every plate but the one over the data: what is left
is ``[particles, batch]`` for a local site and ``[particles]`` for a global one.
"""

from pyrovae.traces.draws import (
    discrete,
    draw,
    generate,
    latents,
    log_density,
    sampling,
    simulate,
    slices,
)
from pyrovae.traces.faults import adds, first_bad
from pyrovae.traces.handlers import Refinement, completed, completing
from pyrovae.traces.pair import Args, Pair, as_pair
from pyrovae.traces.sketches import Sketch, SketchedSite, sketch
from pyrovae.traces.structure import (
    Supports,
    check,
    parameters,
    prepare,
    structure,
    unreached,
)
from pyrovae.traces.terms import Site, Structure, Traces, entries, rebuild

__all__ = [
    "Args",
    "Pair",
    "Refinement",
    "Site",
    "Sketch",
    "SketchedSite",
    "Structure",
    "Supports",
    "Traces",
    "adds",
    "as_pair",
    "check",
    "completed",
    "completing",
    "discrete",
    "draw",
    "entries",
    "first_bad",
    "generate",
    "latents",
    "log_density",
    "parameters",
    "prepare",
    "rebuild",
    "sampling",
    "simulate",
    "sketch",
    "slices",
    "structure",
    "unreached",
]
