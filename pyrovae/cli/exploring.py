"""``pyrovae explore``: a page on which a run is explored."""

from __future__ import annotations

import webbrowser

import pyrovae as pv
from pyrovae.cli.options import add_option, at_least, say
from pyrovae.cli.reading import open_with_data, run_parser


def explore(arguments: list[str]) -> None:
    """look at a run in the browser: codes, what they decode to, one datum's posterior

    Examples:
      pyrovae explore runs/mine
      pyrovae explore runs/mine --port 8000 --browser false
      pyrovae explore runs/mine --export page.html
    """
    parser = run_parser(explore, figure=False)
    add_option(parser, "points", int, 1000, "how many test data to show")
    add_option(parser, "port", int, 0, "on this machine alone; 0 is a free one")
    add_option(parser, "browser", bool, True, "open the page in the browser")
    add_option(parser, "export", str | None, None, "write one page that needs no server, and end")
    options = parser.parse_args(arguments)
    at_least(1, options, "points")
    at_least(0, options, "port")
    pair, test = open_with_data(options)
    view = pv.explorer.View(pair, test, points=options.points, seed=options.seed)
    if options.export is not None:
        print(pv.explorer.export(view, options.export))
        return
    with pv.explorer.serve(view, options.port) as server:
        print(server.url, flush=True)
        say("Ctrl-C ends it")
        if options.browser:
            webbrowser.open(server.url)
        server.wait()
