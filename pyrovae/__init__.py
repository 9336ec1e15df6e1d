"""Variational autoencoders as probabilistic programs: a Pyro model, a Pyro guide, SVI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:  # each name as itself: what a checker lets others import
    from pyrovae import arrays as arrays
    from pyrovae import callbacks as callbacks
    from pyrovae import data as data
    from pyrovae import distributions as distributions
    from pyrovae import files as files
    from pyrovae import guides as guides
    from pyrovae import likelihoods as likelihoods
    from pyrovae import networks as networks
    from pyrovae import objectives as objectives
    from pyrovae import plots as plots
    from pyrovae import priors as priors
    from pyrovae import programs as programs
    from pyrovae import progress as progress
    from pyrovae import schedules as schedules
    from pyrovae import schema as schema
    from pyrovae import sklearn as sklearn
    from pyrovae import tables as tables
    from pyrovae.aggregate import CodeDensity as CodeDensity
    from pyrovae.aggregate import fit_codes as fit_codes
    from pyrovae.annealing import Annealed as Annealed
    from pyrovae.annealing import Annealing as Annealing
    from pyrovae.annealing import Sandwich as Sandwich
    from pyrovae.annealing import anneal as anneal
    from pyrovae.annealing import sandwich as sandwich
    from pyrovae.arviz import to_arviz as to_arviz
    from pyrovae.calibration import Calibration as Calibration
    from pyrovae.calibration import calibrate as calibrate
    from pyrovae.calibration import predictive_check as predictive_check
    from pyrovae.errors import UsageError as UsageError
    from pyrovae.evaluation import Evaluation as Evaluation
    from pyrovae.evaluation import Gap as Gap
    from pyrovae.evaluation import elbo as elbo
    from pyrovae.evaluation import evaluate as evaluate
    from pyrovae.evaluation import gap as gap
    from pyrovae.evaluation import log_evidence as log_evidence
    from pyrovae.explorer import explore as explore
    from pyrovae.exports import export as export
    from pyrovae.generation import decode as decode
    from pyrovae.generation import encode as encode
    from pyrovae.generation import impute as impute
    from pyrovae.generation import interpolate as interpolate
    from pyrovae.generation import neighbours as neighbours
    from pyrovae.generation import reconstruct as reconstruct
    from pyrovae.generation import sample as sample
    from pyrovae.generation import traverse as traverse
    from pyrovae.measures import Information as Information
    from pyrovae.measures import disentanglement as disentanglement
    from pyrovae.measures import information as information
    from pyrovae.oracles import exact_log_evidence as exact_log_evidence
    from pyrovae.posteriors import Posterior as Posterior
    from pyrovae.posteriors import posterior as posterior
    from pyrovae.progress import quiet as quiet
    from pyrovae.runs import load as load
    from pyrovae.runs import save as save
    from pyrovae.svi import SVI as SVI
    from pyrovae.traces import Pair as Pair
    from pyrovae.traces import Sketch as Sketch
    from pyrovae.traces import sketch as sketch
    from pyrovae.training import History as History
    from pyrovae.training import fit as fit
    from pyrovae.vae import VAE as VAE

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
    "outlines": (),
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
    "turns": (),
    "vae": ("VAE",),
}
__all__ = sorted(name for room, names in _ROOMS.items() for name in (room, *names))


if not TYPE_CHECKING:  # to a checker every name would be there

    def __getattr__(name: str) -> Any:
        """Rooms are opened when first asked for: ``pyrovae --help`` does not wait for torch."""
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
