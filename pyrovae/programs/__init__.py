"""Structured pairs: a model and a guide each, plain Pyro, to use or to copy."""

from pyrovae.program import Program
from pyrovae.programs.conditional import Conditional
from pyrovae.programs.gaussian_mixture import GaussianMixture
from pyrovae.programs.hierarchical import Hierarchical
from pyrovae.programs.semi_supervised import SemiSupervised
from pyrovae.vae import VAE

__all__ = ["VAE", "Conditional", "GaussianMixture", "Hierarchical", "Program", "SemiSupervised"]
