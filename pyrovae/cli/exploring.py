"""``pyrovae explore``: a page on which a run is explored."""

from __future__ import annotations

import pyrovae as pv
from pyrovae.cli.options import say
from pyrovae.cli.verbs import Count, Run, Whole, verb

__all__ = ["explore"]


@verb()
def explore(
    run: Run,
    *,
    points: Whole = 1000,
    port: Count = 0,
    browser: bool = True,
    export: str | None = None,
) -> None:
    """look at a run in the browser: codes, what they decode to, one datum's posterior

    Args:
        points: how many test data to show
        port: on this machine alone; 0 is a free one
        browser: open the page in the browser
        export: write one page that needs no server and runs the networks itself, and end

    Examples:
      pyrovae explore runs/mine
      pyrovae explore runs/mine --port 8000 --browser false
      pyrovae explore runs/mine --export page.html
    """
    view = pv.explorer.View(run.pair, run.test, points=points, seed=run.seed)
    if export is not None:
        print(pv.explorer.export(view, export))
        return
    with pv.explorer.serve(view, port) as server:
        print(server.url, flush=True)
        say("the address has the key to the page; Ctrl-C ends it")
        if browser:
            server.open()
        server.wait()
