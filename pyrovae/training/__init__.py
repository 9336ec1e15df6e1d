"""Training: :func:`fit` any pair with any ``pyro.infer`` ELBO."""

from pyrovae.callbacks import History
from pyrovae.training.faults import Diverged, OutOfMemory
from pyrovae.training.fitting import choose_device, fit

__all__ = ["Diverged", "History", "OutOfMemory", "choose_device", "fit"]
