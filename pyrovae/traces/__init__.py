"""Any pair and a batch -> per-site log p, log q, values and distributions.

Everything that pyrovae knows of a model and a guide it sees here, by running the guide and
replaying the model against it; a pair that has met its data is a :class:`Problem`. Particles are
one outer plate, so the guide runs once however many are drawn. Log probabilities are unscaled (a
subsampled plate's N/B belongs to training), masked as the program says, and summed over every
plate but the one over the data: what is left is ``[particles, batch]`` for a local site and
``[particles]`` for a global one.
"""

from pyrovae.traces.density import STARTS, Density, to_reals
from pyrovae.traces.faults import adds, first_bad
from pyrovae.traces.fingerprint import PLAIN, Fingerprint, Place, is_number, may_be_input
from pyrovae.traces.handlers import Refinement, completed, completing, filling, sharing
from pyrovae.traces.meeting import met
from pyrovae.traces.own import OwnPair
from pyrovae.traces.pair import Args, Pair, as_pair
from pyrovae.traces.parameters import (
    Backwards,
    Shown,
    in_graph_order,
    leaves_of,
    naming,
    naming_in_store,
    parameters,
    showing,
    stored,
    unreached,
    wrapped,
)
from pyrovae.traces.problem import Problem, draw, generate, replaced
from pyrovae.traces.reads import Looks, Reads
from pyrovae.traces.sketches import Sketch, SketchedSite, sketch
from pyrovae.traces.structure import NoPlate, Structure, check, enumerates, head, rows, said
from pyrovae.traces.supports import Supports
from pyrovae.traces.terms import Site, Traces, rebuild
from pyrovae.traces.wiring import Wire, Wiring, put

__all__ = [
    "PLAIN",
    "STARTS",
    "Args",
    "Backwards",
    "Density",
    "Fingerprint",
    "Looks",
    "NoPlate",
    "OwnPair",
    "Pair",
    "Place",
    "Problem",
    "Reads",
    "Refinement",
    "Shown",
    "Site",
    "Sketch",
    "SketchedSite",
    "Structure",
    "Supports",
    "Traces",
    "Wire",
    "Wiring",
    "adds",
    "as_pair",
    "check",
    "completed",
    "completing",
    "draw",
    "enumerates",
    "filling",
    "first_bad",
    "generate",
    "head",
    "in_graph_order",
    "is_number",
    "leaves_of",
    "may_be_input",
    "met",
    "naming",
    "naming_in_store",
    "parameters",
    "put",
    "rebuild",
    "replaced",
    "rows",
    "said",
    "sharing",
    "showing",
    "sketch",
    "stored",
    "to_reals",
    "unreached",
    "wrapped",
]
