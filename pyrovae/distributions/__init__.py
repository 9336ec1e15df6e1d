"""The few distributions, and closed forms between them, that Pyro lacks."""

from pyrovae.distributions.latents import *  # noqa: F403
from pyrovae.distributions.observations import *  # noqa: F403
