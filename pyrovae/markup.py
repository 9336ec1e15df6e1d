"""Results as a notebook shows them: tables and small figures, of text that is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

__all__ = ["Shown", "bars", "frame", "lines", "note", "table"]

WIDTH, HEIGHT = 280, 90  # of a figure, in pixels
BLUE, ORANGE = "#0072b2", "#d55e00"
POINTS = 300  # of a line, at most
ROWS = 100  # of a table, at most


class Shown:
    """What a notebook shows of itself: the parts that :meth:`in_notebook` gives, one below the
    other. No script and no style sheet, so that it is shown wherever HTML is."""

    def in_notebook(self) -> Sequence[str]:
        """The parts, each made by a function of :mod:`pyrovae.markup`."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return "".join(f'<div style="margin:4px 0">{part}</div>' for part in self.in_notebook())


def text(value: object) -> str:
    """Text as HTML has it.

    >>> text("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return html.escape(str(value), quote=True)


def note(words: object, *, strong: bool = False) -> str:
    """A line of words.

    >>> note("1 < 2")
    '<span>1 &lt; 2</span>'
    """
    return f"<strong>{text(words)}</strong>" if strong else f"<span>{text(words)}</span>"


def frame(file: str, height: int = 900) -> str:
    """A page beside the notebook, in it.

    >>> frame("a page.html")
    '<iframe src="a%20page.html" width="100%" height="900"></iframe>'
    """
    return f'<iframe src="{quote(file)}" width="100%" height="{height}"></iframe>'


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table of at most a hundred rows, numbers to four digits; what is left out is said.

    >>> table(["a"], [[1.23456]])
    '<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1.235</td></tr></tbody></table>'
    """
    lines = ["".join(f"<td>{text(_plain(cell))}</td>" for cell in row) for row in rows[:ROWS]]
    if len(rows) > ROWS:
        lines.append(f'<td colspan="{len(head)}">{len(rows) - ROWS:,} more</td>')
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _plain(cell: object) -> object:
    return f"{cell:.4g}" if isinstance(cell, float) else cell


def bars(title: str, values: Sequence[float], level: float | None = None) -> str:
    """Bars beside each other, from 0 up; a dashed line at ``level``."""
    known = [v if math.isfinite(v) else 0.0 for v in values]
    top = max([*known, level or 0.0, 1e-12])
    step = WIDTH / max(1, len(known))
    shapes = [
        f'<rect x="{k * step:.1f}" y="{HEIGHT * (1 - max(v, 0.0) / top):.1f}" '
        f'width="{0.9 * step:.1f}" height="{HEIGHT * max(v, 0.0) / top:.1f}" fill="{BLUE}"/>'
        for k, v in enumerate(known)
    ]
    if level is not None:
        y = HEIGHT * (1 - level / top)
        shapes.append(
            f'<line x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{ORANGE}" '
            f'stroke-dasharray="4"/>'
        )
    return _figure(f"{title} (0 to {top:.3g})", shapes)


def lines(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """Lines over the places of their values, each in a colour of its own."""
    known = [v for values in series.values() for v in values if math.isfinite(v)]
    if not known:
        return note(f"{title}: no finite values")
    low, high = min(known), max(known)
    shapes = [
        f'<polyline points="{_points(values, low, high)}" fill="none" stroke="{colour}"/>'
        for values, colour in zip(series.values(), (BLUE, ORANGE), strict=False)
    ]
    names = ", ".join(
        f"{name} {colour}" for name, colour in zip(series, ("blue", "orange"), strict=False)
    )
    return _figure(f"{title}: {names} ({low:.4g} to {high:.4g})", shapes)


def _points(values: Sequence[float], low: float, high: float) -> str:
    every, last = max(1, len(values) // POINTS), max(1, len(values) - 1)
    places = [(k, v) for k, v in enumerate(values) if math.isfinite(v) and k % every == 0]
    span = high - low or 1.0
    return " ".join(
        f"{WIDTH * k / last:.1f},{HEIGHT * (1 - (v - low) / span):.1f}" for k, v in places
    )


def _figure(title: str, shapes: Sequence[str]) -> str:
    box = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    drawn = "".join(shapes)
    return f'<svg {box} role="img"><title>{text(title)}</title>{drawn}</svg><br/>{note(title)}'
