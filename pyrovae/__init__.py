"""Variational autoencoders as probabilistic programs: a Pyro model, a Pyro guide, SVI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pyrovae import (
        data,
        guides,
        likelihoods,
        networks,
        objectives,
        plots,
        priors,
        programs,
        progress,
        schedules,
    )
    from pyrovae.aggregate import CodeDensity, fit_codes
    from pyrovae.annealing import Annealed, Annealing, Sandwich, anneal, sandwich
    from pyrovae.arviz import to_arviz
    from pyrovae.calibration import Calibration, calibrate, predictive_check
    from pyrovae.errors import UsageError
    from pyrovae.evaluation import Evaluation, Gap, elbo, evaluate, gap, log_evidence
    from pyrovae.explorer import explore
    from pyrovae.exports import export
    from pyrovae.generation import (
        decode,
        encode,
        impute,
        interpolate,
        neighbours,
        reconstruct,
        sample,
        traverse,
    )
    from pyrovae.measures import Information, disentanglement, information
    from pyrovae.oracles import exact_log_evidence
    from pyrovae.posteriors import Posterior, posterior
    from pyrovae.progress import quiet
    from pyrovae.runs import load, save
    from pyrovae.svi import SVI
    from pyrovae.traces import Pair, Sketch, sketch
    from pyrovae.training import History, fit
    from pyrovae.vae import VAE

_ROOMS = {
    "aggregate": ("CodeDensity", "fit_codes"),
    "annealing": ("Annealed", "Annealing", "Sandwich", "anneal", "sandwich"),
    "arrays": (),
    "arviz": ("to_arviz",),
    "data": (),
    "cells": (),
    "calibration": ("Calibration", "calibrate", "predictive_check"),
    "callbacks": (),
    "checkpoints": (),
    "cli": (),
    "components": (),
    "distributions": (),
    "errors": ("UsageError",),
    "evaluation": ("Evaluation", "Gap", "elbo", "evaluate", "gap", "log_evidence"),
    "explorer": ("explore",),
    "exports": ("export",),
    "files": (),
    "generation": (
        "decode",
        "encode",
        "impute",
        "interpolate",
        "neighbours",
        "reconstruct",
        "sample",
        "traverse",
    ),
    "guides": (),
    "hmc": (),
    "labels": (),
    "layouts": (),
    "likelihoods": (),
    "markup": (),
    "measures": ("Information", "disentanglement", "information"),
    "memory": (),
    "networks": (),
    "objectives": (),
    "oracles": ("exact_log_evidence",),
    "plots": (),
    "posteriors": ("Posterior", "posterior"),
    "potentials": (),
    "priors": (),
    "program": (),
    "programs": (),
    "progress": ("quiet",),
    "randomness": (),
    "runs": ("load", "save"),
    "processes": (),
    "schedules": (),
    "schema": (),
    "signatures": (),
    "serving": (),
    "sklearn": (),
    "sources": (),
    "streams": (),
    "summaries": (),
    "supports": (),
    "svi": ("SVI",),
    "tables": (),
    "tensors": (),
    "traces": ("Pair", "Sketch", "sketch"),
    "training": ("History", "fit"),
    "vae": ("VAE",),
}
__all__ = sorted(name for room, names in _ROOMS.items() for name in (room, *names))


def __getattr__(name: str) -> Any:
    """Rooms are opened when first asked for, so that ``pyrovae --help`` does not wait for torch."""
    for room, names in _ROOMS.items():
        if name == room:
            return importlib.import_module(f"{__name__}.{room}")
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{room}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
