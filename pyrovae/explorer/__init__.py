"""A page in the browser on which a pair is explored: ``pyrovae explore RUN``."""

from pyrovae.explorer.server import Page, Server, explore, export, serve
from pyrovae.explorer.view import View

__all__ = ["Page", "Server", "View", "explore", "export", "serve"]
