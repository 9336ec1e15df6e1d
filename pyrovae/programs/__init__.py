"""Structured pairs: a model and a guide each, plain Pyro, to use or to copy."""

from pyrovae.program import Program
from pyrovae.programs.autoencoder import Autoencoder
from pyrovae.programs.conditional import Conditional
from pyrovae.programs.deep_markov import DeepMarkov
from pyrovae.programs.discrete_code import DiscreteCode
from pyrovae.programs.gaussian_mixture import GaussianMixture
from pyrovae.programs.hierarchical import Hierarchical
from pyrovae.programs.missing_data import MissingData
from pyrovae.programs.multimodal import Multimodal
from pyrovae.programs.prod_lda import ProdLDA
from pyrovae.programs.regression import Regression
from pyrovae.programs.semi_supervised import SemiSupervised
from pyrovae.programs.spike_and_slab import SpikeAndSlab
from pyrovae.vae import VAE

__all__ = [
    "VAE",
    "Autoencoder",
    "Conditional",
    "DeepMarkov",
    "DiscreteCode",
    "GaussianMixture",
    "Hierarchical",
    "MissingData",
    "Multimodal",
    "ProdLDA",
    "Program",
    "Regression",
    "SemiSupervised",
    "SpikeAndSlab",
]
