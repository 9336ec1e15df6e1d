"""Pictures of data, training, latents and checks: the only room that uses matplotlib.

Every function draws on the axes it is given, or else on new ones, and returns them; columns of
tables and series have a panel each, in the place of the axes given, and all are returned. Nothing
is shown and no setting is changed: a notebook shows what is returned, `save` writes it to a file.
Arguments are tensors, arrays or nested lists, and a shape that cannot be drawn is a `UsageError`.
Log-probabilities are natural: their unit is nats.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.annealing import Sandwich
from pyrovae.arrays import channels_last
from pyrovae.data import UsageError
from pyrovae.files import Place, writing
from pyrovae.schema import Column, Schema, face
from pyrovae.traces import Sketch, SketchedSite

Values = Tensor | NDArray[np.generic] | Sequence[object] | float
Floats = NDArray[np.float64]
Panels = NDArray[np.object_]  # of Axes
Drawn = Axes | Panels

# safe for the colour-blind: Okabe and Ito's colours, then Tol's muted ones with black for pale
# grey and, since olive is close to sand, blue for olive
INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#A8A8A8"
CLASSES = [f"#{code}" for code in ("332288", "88CCEE", "117733", "DDCC77", "CC6677")]
CLASSES += [f"#{code}" for code in ("AA4499", "44AA99", "3377EE", "882255", "000000")]
PAPER = 0.92  # the grey between images, so that white-edged ones stay apart

# the same look for figures of one's own: plt.rcParams.update(pv.plots.STYLE)
STYLE = {
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, GREY, INK]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "font.size": 10,
    "image.cmap": "gray_r",
    "legend.frameon": False,
}


def _array(values: Values, name: str, *shapes: str) -> Floats:
    """`values` as floats, if of one of `shapes` ("N d"; a last "..." is any number of axes)."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().to("cpu", torch.float64).numpy()
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} is not an array of numbers ({error}): convert it") from error
    for axes in map(str.split, shapes):
        fits = array.ndim >= len(axes) - 1 if axes[-1:] == ["..."] else array.ndim == len(axes)
        if fits and array.size:
            return array
    wanted = " or ".join(f"[{', '.join(shape.split())}]" for shape in shapes)
    raise UsageError(
        f"{name} has shape {list(array.shape)}, but is drawn as {wanted}, not empty: index or "
        f"reshape it first"
    )


def _same(name: str, shape: Sequence[int], wanted: Sequence[int], other: str) -> None:
    if tuple(shape) != tuple(wanted):
        raise UsageError(
            f"{name} has shape {list(shape)}, which does not go with {other}: give it the shape "
            f"{list(wanted)}"
        )


def _axes(ax: Any, width: float, height: float, panels: int = 1) -> Any:
    """`ax`, or that of a new figure, in inches, which pyplot keeps so that notebooks show it."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # only here and in save: it looks for a screen

    return plt.subplots(1, panels, figsize=(width, height), layout="constrained")[1]


def _dress(ax: Axes, title: str, x: str, y: str, legend_above: int = 0) -> Axes:
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    if legend_above:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=legend_above, frameon=False)
    return ax


def _upright(images: Floats) -> Floats:
    """[N, C, H, W] of images whose channels are last, by their shape; others as they are."""
    last = images.ndim == 4 and channels_last(images.shape[1:])
    return np.moveaxis(images, 3, 1) if last else images


def _extremes(x: Floats) -> tuple[float, float]:
    finite = x[np.isfinite(x)]
    return (finite.min(), finite.max()) if finite.size else (0.0, 1.0)


def _histogram(ax: Axes, values: Floats, **options: Any) -> None:
    # not bins="auto", which asks for millions of them where one value is far out
    bins = int(np.clip(np.sqrt(len(values)), 5, 40))
    ax.hist(values[np.isfinite(values)], bins, color=BLUE, edgecolor="white", **options)


def image_grid(
    images: Values,
    *,
    nrow: int = 8,
    padding: int = 2,
    value_range: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images, `nrow` to a row with `padding` pixels around each, as torchvision's make_grid lays.

    They are [N, C, H, W] with C 1 (drawn as ink on paper: larger is darker) or 3, [N, H, W, C]
    where the shape tells (:func:`pyrovae.arrays.channels_last`), or [N, H, W].
    The ends of `value_range` are drawn as the extremes; None means (0, 1) where the images lie in
    it, otherwise their own extremes.

    >>> image_grid(torch.rand(10, 1, 28, 28), nrow=5).images[0].get_array().shape
    (62, 152)
    """
    x = _upright(_array(images, "images", "N C H W", "N H W"))
    x = x[:, None] if x.ndim == 3 else x
    n, channels, height, width = x.shape
    if channels not in (1, 3):
        raise UsageError(
            f"images have {channels} channels (shape {list(x.shape)}), and only 1 (grey) or 3 "
            f"(colour) can be shown: select channels, or draw them with data_grid"
        )
    if nrow < 1 or padding < 0:
        raise UsageError(f"nrow must be at least 1 and padding 0, got {nrow} and {padding}")
    low, high = _ends(x) if value_range is None else value_range
    columns = min(nrow, n)
    rows = -(-n // columns)
    if channels == 3:
        grid = _tiled(((x - low) / ((high - low) or 1)).clip(0, 1), rows, columns, padding, PAPER)
    else:  # nan is transparent: the axes' background shows
        grid = _tiled(x, rows, columns, padding, np.nan)[..., 0]
    scale = min(0.75, 10 / columns)
    ax = _axes(ax, max(2, scale * columns), max(1, scale * rows * height / width))
    ax.imshow(grid, "gray_r", vmin=low, vmax=high, interpolation="nearest")
    ax.set(xticks=[], yticks=[], facecolor=str(PAPER))
    ax.spines[:].set_visible(False)
    return ax


def _ends(x: Floats) -> tuple[float, float]:
    """What is drawn as the extremes: 0 and 1 where all lie between them."""
    low, high = _extremes(x)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _tiled(x: Floats, rows: int, columns: int, padding: int, fill: float) -> Floats:
    """Images [N, C, H, W] side by side in one of [H, W, C], with what is between them filled."""
    n, channels, height, width = x.shape
    cells = np.full((rows * columns, height + padding, width + padding, channels), fill)
    cells[:n, padding:, padding:] = x.transpose(0, 2, 3, 1)
    grid = cells.reshape(rows, columns, *cells.shape[1:]).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)
    return np.pad(grid, ((0, padding), (0, padding), (0, 0)), constant_values=fill)


def data_grid(
    x: Values,
    *,
    nrow: int = 8,
    ax: Axes | None = None,
    value_range: tuple[float, float] | None = None,
    schema: Schema | None = None,
    data: Values | None = None,
) -> Drawn:
    """Data x [N, *event] of any kind.

    Images ([N, C, H, W] with C 1 or 3, or [N, H, W] from 4 by 4 pixels on) as an `image_grid`;
    tables [N, D] as a panel per column, which `schema` names: shares of numbers in a histogram, of
    categories as bars; series [N, T, D] as a panel per column over time; all else flattened to a
    heat map with a row per datum. At most 24 panels are drawn, in the place of `ax`.

    `data` [M, *event] are drawn beside tables and series: what x are samples of.

    >>> [panel.get_title() for panel in data_grid(torch.rand(50, 2))]
    ['column 1', 'column 2']
    """
    array = _array(x, "x", "N ...")
    other = array[:0] if data is None else _array(data, "data", "M ...")
    _same("data", other.shape[1:], array.shape[1:], "x (after the first axis)")
    if array.ndim == 1:  # a number is a row of one
        array, other = array[:, None], other[:, None]
    kind = face(array.shape[1:], schema)
    if kind == "image":
        return image_grid(array, nrow=nrow, value_range=value_range, ax=ax)
    if kind in ("table", "series"):
        named = _schema(schema, array)
        groups = [("data", BLUE, array if data is None else other)]
        groups += [] if data is None else [("samples", ORANGE, array)]
        draw = _distributions if kind == "table" else _bundles
        return draw(groups, named, ax)
    flat = array.reshape(len(array), -1)
    ax = _axes(ax, 6, 3.5)
    low, high = value_range or _extremes(flat)
    heat = ax.imshow(flat, "viridis", aspect="auto", vmin=low, vmax=high, interpolation="nearest")
    ax.figure.colorbar(heat, ax=ax, label="value")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return _dress(ax, f"{len(flat)} data, one per row", "feature", "datum")


def strips(
    cells: Values,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    title: str = "",
    schema: Schema | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """`cells` [R, S, *event] as R rows of S images.

    Of tables (*event is [D]) a panel per column, which `schema` names, with S places and a colour
    per row; of series ([T, D]) a row of panels per row, with S lines in each; all else becomes
    coloured barcodes. `rows` and `columns` are labels of R and S, as many as there are or none.
    """
    array = _array(cells, "cells", "rows columns ...")
    return _titled(_strips(array, rows, columns, schema, ax, "o"), title)


def _titled(drawn: Drawn, title: str) -> Drawn:
    """Panels have titles of their own, so that one for all of them stands above."""
    if title and isinstance(drawn, Axes):
        drawn.set_title(title)
    elif title:
        np.asarray(drawn, dtype=object)[0].figure.suptitle(title, size=10)
    return drawn


def _strips(
    cells: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    schema: Schema | None,
    ax: Axes | None,
    mark: str,
) -> Drawn:
    count, steps, *event = cells.shape
    for name, labels, size in (("rows", rows, count), ("columns", columns, steps)):
        _same(name, [len(labels)], [size if len(labels) else 0], "cells")
    kind = face(event, schema)
    if kind == "table":
        cells = cells if event else cells[..., None]  # a number is a row of one
        return _tracks(cells, rows, columns, _schema(schema, cells), ax, mark)
    if kind == "series":
        return _ribbons(cells, rows, columns, _schema(schema, cells), ax)
    return _pictures(cells, rows, columns, ax)


def _pictures(cells: Floats, rows: Sequence[str], columns: Sequence[str], ax: Axes | None) -> Axes:
    """Rows of images, or of barcodes where the event is none."""
    count, steps, *event = cells.shape
    flat = cells.reshape(count * steps, *event)
    if face(event) == "image":
        flat = _upright(flat)
        ax = image_grid(flat, nrow=steps, ax=ax)
    else:
        flat = flat.reshape(len(flat), -1, 1)
        thick = -(-16 // flat.shape[1])  # the gaps between are 2: barcodes must be much larger
        flat = flat.repeat(thick, axis=1).repeat(16, axis=2)
        ax = _axes(ax, max(3, min(9, 0.75 * steps + 1)), max(1.8, 1.3 * count))
        ax = image_grid(flat, nrow=steps, value_range=_extremes(flat), ax=ax)
        ax.images[-1].set_cmap("viridis")
        ax.set_aspect("auto")
        ax.figure.colorbar(ax.images[-1], ax=ax, label="value")
    height, width = flat.shape[-2] + 2, flat.shape[-1] + 2
    ax.set_yticks(np.arange(len(rows)) * height + (height + 1) / 2, rows)
    ax.set_xticks(np.arange(len(columns)) * width + (width + 1) / 2, columns)
    ax.tick_params(length=0)
    return ax


def reconstructions(
    x: Values,
    reconstruction: Values,
    draws: Values | None = None,
    *,
    n: int = 10,
    schema: Schema | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """Data x [N, *event] and their reconstructions, of the same shape.

    Images: the first `n` data above their reconstructions, and `draws` [K, N, *event] as K rows
    more. Tables [N, D]: a panel per column, which `schema` names, of all the data: what is
    reconstructed against what is there, categories as shares of both. Series [N, T, D]: a panel
    per series and column, the data as dots, reconstruction and draws as lines; 6 series and 4
    columns at most.
    """
    data = _array(x, "x", "N ...")
    mean = _array(reconstruction, "reconstruction", "N ...")
    extra = np.empty((0, *data.shape)) if draws is None else _array(draws, "draws", "K N ...")
    if data.shape[1:] in ((), (1,)):
        data, mean, extra = _rows(data, 1), _rows(mean, 1), _rows(extra, 2)
    _same("reconstruction", mean.shape, data.shape, "x")
    _same("draws", extra.shape[1:], data.shape, "x (after the first axis)")
    kind = face(data.shape[1:], schema)
    if kind == "table":
        return _agreement(data, mean, extra, _schema(schema, data), ax)
    if kind == "series":
        return _followed(data[:n], mean[:n], extra[:, :n], _schema(schema, data), ax)
    cells = np.concatenate([data[None], mean[None], extra])[:, : max(1, n)]
    return _pictures(cells, ["data", "reconstruction", *_numbered("draw", len(extra))], (), ax)


def _rows(values: Floats, lead: int) -> Floats:
    """A single number after the leading axes as a row of one."""
    return values[..., None] if values.ndim == lead else values


def _numbered(word: str, count: int) -> list[str]:
    return [f"{word} {k + 1}" for k in range(count)]


def interpolation(
    images: Values,
    *,
    event_dim: int | None = None,
    schema: Schema | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """A path from A to B: [steps, *event] in one row, or [rows, steps, *event].

    `event_dim` is how many axes one x has. Without it, or a `schema` of columns, [n, 1 or 3, H, W]
    are steps with channels, and [n, H, W] from 4 by 4 on steps without. Of tables each column has
    a panel, of series each path a row of them.
    """
    cells = _array(images, "images", "steps ...")
    if event_dim is None:
        event_dim = cells.ndim - 1 if cells.ndim <= 2 or _is_path(cells, schema) else cells.ndim - 2
    cells = cells[None] if cells.ndim == event_dim + 1 else cells
    ends = ["A", *[""] * (cells.shape[1] - 2), "B"][: cells.shape[1]]
    rows = _numbered("path", len(cells)) if len(cells) > 1 else ()
    if face(cells.shape[2:], schema) == "image":
        rows = ()
    drawn = _strips(cells, rows, ends, schema, ax, "o-")
    return _titled(drawn, f"from A to B in {cells.shape[1]} steps")


def _is_path(cells: Floats, schema: Schema | None) -> bool:
    """Whether the first axis is that of the steps: what follows is an image, its channels first, as
    the two axes before an image [H, W] may be."""
    event = cells.shape[1:]
    return schema is None and face(event) == "image" and not channels_last(event)


def traversal(
    images: Values,
    dims: Values | None = None,
    values: Values | None = None,
    *,
    schema: Schema | None = None,
    ax: Axes | None = None,
) -> Drawn:
    """One latent coordinate varied per row: decoded images [rows, steps, *event].

    `dims` [rows] are the coordinates varied, 0, 1, ... when None; `values` [steps] what they are
    set to. Of tables each column, which `schema` names, has a panel with a line per coordinate; of
    series each coordinate a row of panels.
    """
    cells = _array(images, "images", "rows steps ...")
    which = np.arange(len(cells)) if dims is None else _array(dims, "dims", "rows")
    _same("dims", which.shape, cells.shape[:1], "the rows of images")
    settings = np.empty(0)
    if values is not None:
        settings = _array(values, "values", "steps").round(1) + 0.0  # + 0.0: no "-0.0"
        _same("values", settings.shape, cells.shape[1:2], "the steps of images")
    units = [f"z{int(k)}" for k in which]
    drawn = _strips(cells, units, [f"{v:.1f}" for v in settings], schema, ax, "o-")
    if len(settings) and face(cells.shape[2:], schema) == "table":
        for panel in np.asarray(drawn, dtype=object):
            panel.set_xlabel("latent coordinate", size=8)
    return drawn


# columns of tables and series: each has a panel of its own, since their units are unlike

MOST_PANELS = 24
MOST_ROWS, MOST_FEATURES = 6, 4  # of panels of series
MOST_LEVELS = 8  # bars in a panel
MOST_LINES = 10  # in a panel
Groups = list[tuple[str, str, Floats]]  # what they are called, their colour, the values


def _schema(schema: Schema | None, values: Floats) -> Schema:
    """What the last axis of values is, named by its places where nothing else is known."""
    size = values.shape[-1]
    if schema is None:
        return Schema.unnamed(size)
    _same("schema", [len(schema.columns)], [size], "the columns of x")
    return schema


def _panels(ax: Axes | None, count: int, across: int, tall: float) -> tuple[Panels, Any]:
    """`count` panels, `across` to a row, in the place of `ax` or in a figure of their own, and the
    figure that they fill; None where they do not fill one."""
    import matplotlib.pyplot as plt
    from matplotlib.gridspec import GridSpec, GridSpecFromSubplotSpec

    figure: Any
    grid: Any
    if ax is None:
        rows = -(-count // across)
        size = min(9.0, 1.0 + 2.7 * across), 0.6 + tall * rows
        figure = plt.figure(figsize=size, layout="constrained")
        grid = GridSpec(rows, across, figure)
    else:
        figure, place = ax.get_figure(), ax.get_subplotspec()
        ax.axis("off")
        inches = ax.get_window_extent().width / figure.get_dpi()
        across = min(across, max(1, int(inches / 1.8)))
        rows = -(-count // across)
        laid = figure.get_layout_engine() is not None
        space = {} if laid else {"wspace": 0.6, "hspace": 0.9}
        if place is None:
            box = ax.get_position()
            sides = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
            grid = GridSpec(rows, across, figure, **sides, **space)
        else:
            grid = GridSpecFromSubplotSpec(rows, across, place, **space)
    panels = np.empty(count, dtype=object)
    for k in range(count):
        panels[k] = figure.add_subplot(grid[divmod(k, across)])
        panels[k].tick_params(labelsize=8)
    return panels, figure if ax is None else None


def _columns(schema: Schema, ax: Axes | None) -> tuple[Panels, Any, tuple[Column, ...]]:
    """A panel for each column that has one, named, the figure they fill, and these columns."""
    shown = schema.columns[:MOST_PANELS]
    across = len(shown) if len(shown) <= 4 else 3 if len(shown) in (5, 6, 9) else 4
    panels, figure = _panels(ax, len(shown), across, 2.7 if len(shown) < 3 else 1.75)
    for panel, column in zip(panels, shown, strict=True):
        _dress(panel, _short(column.name, 30), "", "")
        panel.title.set_size(9)
    return panels, figure, shown


def _legend(panels: Panels, figure: Any, *remarks: str) -> Panels:
    """One legend above all panels (in one it would push the others apart), and below them what is
    not drawn; in the first panel where they are part of another figure."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, word in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(word, handle)
    words, handles = list(found), list(found.values())
    columns = 1 if figure is None else min(len(words), 6)
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": max(1, columns)}
    if figure is None and len(words) > 1:
        panels[0].legend(handles, words, **style)
    elif len(words) > 1:
        figure.legend(handles, words, loc="outside upper left", **style)
    if figure is not None and any(remarks):
        figure.supxlabel("; ".join(filter(None, remarks)), size=8)
    return panels


def _rest(shown: int, count: int, what: str) -> str:
    return f"the first {shown} of {count} {what}" if shown < count else ""


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _discrete(column: Column) -> bool:
    return column.kind in ("category", "boolean")


def _levels(column: Column) -> list[str]:
    return [_short(str(level), 12) for level in column.levels or ("0", "1")]


def _placed(column: Column, values: Floats) -> Floats:
    """Numbers as they are drawn: dates as days since matplotlib's epoch."""
    if column.kind != "date" or not column.origin:
        return values
    from matplotlib.dates import date2num

    bounds = datetime.date(1000, 1, 1), datetime.date(9000, 1, 1)  # an axis bears years 1 to 9999
    unit = cast(Any, column.unit)
    days = values * (np.timedelta64(1, unit) / np.timedelta64(1, "D"))
    return np.clip(days + date2num(np.datetime64(column.origin)), *date2num(bounds))


def _units(axis: Any, column: Column, spread: bool = False) -> None:
    """Ticks as the column's values are written, and the unit; logarithmic where they spread."""
    if _discrete(column):
        names = _levels(column)
        axis.set_ticks(range(len(names)), labels=names)
        return
    if column.kind == "date" and column.origin:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=2, maxticks=4)
        axis.set_major_locator(locator)
        axis.set_major_formatter(ConciseDateFormatter(locator))
        axis.get_offset_text().set_size(8)
        return
    axis.set_label_text(_short(column.unit, 24), size=8)
    if spread:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    else:
        axis.set_major_locator(MaxNLocator(4, integer=column.kind == "count", min_n_ticks=2))


def _distributions(groups: Groups, schema: Schema, ax: Axes | None) -> Panels:
    """A panel per column: how often each value is in each of the groups [N, D]."""
    panels, figure, shown = _columns(schema, ax)
    for k, (panel, column) in enumerate(zip(panels, shown, strict=True)):
        own = [
            (name, colour, values[np.isfinite(values)])
            for name, colour, values in ((n, c, table[:, k]) for n, c, table in groups)
        ]
        (_bars if _discrete(column) else _shares)(panel, column, own)
    return _legend(panels, figure, _rest(len(shown), len(schema.columns), "columns"))


def _bars(panel: Axes, column: Column, groups: Groups) -> None:
    """The shares of a category's levels, the frequent ones where there are many."""
    names = _levels(column)
    shares = np.stack([
        np.bincount(v.round().clip(0, len(names) - 1).astype(int), minlength=len(names))
        / max(1, len(v))
        for _, _, v in groups
    ])  # fmt: skip
    shown = np.arange(len(names))
    if len(names) > MOST_LEVELS:
        shown = np.argsort(-shares[0], kind="stable")[:MOST_LEVELS]
        panel.set_title(f"{panel.get_title()}: {MOST_LEVELS} of {len(names)}", size=9)
    at, thick = np.arange(len(shown)), 0.8 / len(groups)
    for g, ((name, colour, _), share) in enumerate(zip(groups, shares, strict=True)):
        place = at + thick * (g - (len(groups) - 1) / 2)
        panel.barh(place, share[shown], thick, color=colour, label=name)
    panel.set_yticks(at, [names[k] for k in shown], size=8 if len(shown) <= 6 else 7)
    panel.set_ylim(len(shown) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(3))
    panel.set_xlabel("share", size=8)


def _shares(panel: Axes, column: Column, groups: Groups) -> None:
    """Histograms of a column's numbers, on a logarithmic axis where they are of many sizes."""
    spread = _spread(column, np.concatenate([values for _, _, values in groups]))
    edges = _edges(column, groups, spread)
    for g, (name, colour, values) in enumerate(groups):
        weights = np.full(len(values), 1 / max(1, len(values)))
        inside = _placed(column, values).clip(edges[0], edges[-1])
        last = g and g == len(groups) - 1
        style: dict[str, Any] = {"color": colour, "edgecolor": "white", "lw": 0.3}
        if last:
            style = {"edgecolor": colour, "histtype": "step", "lw": 1.6}
        panel.hist(inside, list(edges), weights=weights, label=name, **style)
    _units(panel.xaxis, column, spread)
    panel.yaxis.set_major_locator(MaxNLocator(3))
    panel.set_ylabel("share", size=8)
    panel.margins(x=0.02)


def _spread(column: Column, values: Floats) -> bool:
    """Whether the values of a positive column are of many sizes: its axis is logarithmic."""
    values = values[np.isfinite(values)]
    if column.kind != "positive" or not len(values) or values.min() <= 0:
        return False
    low, high = np.quantile(values, [0.01, 0.99])
    return bool(high > 100 * low)


def _edges(column: Column, groups: Groups, spread: bool) -> Floats:
    """Bins over the first group, which are the data, and over the others as far as half its range
    beyond; what is farther out is counted in the last ones."""
    first, *others = (_placed(column, v) for _, _, v in groups)
    low, high = _extremes(first)
    least, most = _extremes(np.concatenate([first, *others]))
    beyond = 0 if spread else (high - low) / 2
    low, high = max(least, low - beyond), min(most, high + beyond)
    bins = int(np.clip(np.sqrt(len(first)), 5, 30))
    if column.kind == "count":
        low, high = np.floor(low), np.ceil(high)
        return np.arange(low - 0.5, high + 0.5 + (step := max(1, (high - low) // bins)), step)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.geomspace(low, high, bins + 1) if spread else np.linspace(low, high, bins + 1)


def _agreement(x: Floats, mean: Floats, draws: Floats, schema: Schema, ax: Axes | None) -> Panels:
    """A panel per column: reconstructions against the data, [N, D]; draws [K, N, D]."""
    panels, figure, shown = _columns(schema, ax)
    for k, (panel, column) in enumerate(zip(panels, shown, strict=True)):
        known = np.isfinite(x[:, k]) & np.isfinite(mean[:, k])
        truth, guess, cloud = x[known, k], mean[known, k], draws[:, known, k]
        if _discrete(column):
            _bars(panel, column, [("data", BLUE, truth), ("reconstruction", ORANGE, guess)])
            right = np.mean(truth == guess.round()) if len(truth) else math.nan
            panel.set_title(f"{panel.get_title()} ({right:.0%} right)", size=9)
        else:
            _against(panel, column, truth, guess, cloud)
    for panel, column in zip(panels, shown, strict=True):
        if not _discrete(column):
            unit = f" ({_short(column.unit, 12)})" if column.unit and column.kind != "date" else ""
            panel.set_xlabel(f"data{unit}", size=8)
            panel.set_ylabel("reconstruction", size=8)
    return _legend(panels, figure, _rest(len(shown), len(schema.columns), "columns"))


def _against(panel: Axes, column: Column, x: Floats, mean: Floats, draws: Floats) -> None:
    """A column's reconstructions against its values, and the diagonal on which they should be."""
    spread = _spread(column, np.concatenate([x, mean]))
    x, mean, draws = (_placed(column, v) for v in (x, mean, draws))
    chosen = np.unique(np.linspace(0, max(0, len(x) - 1), min(300, len(x))).round().astype(int))
    for k, drawn in enumerate(draws[:, chosen]):
        panel.plot(x[chosen], drawn, ".", color=GREY, ms=2, label="" if k else "draws", zorder=1)
    panel.plot(x[chosen], mean[chosen], "o", color=BLUE, ms=3, alpha=0.6, mew=0)
    low, high = _extremes(np.concatenate([x, mean]))
    panel.plot([low, high], [low, high], color=INK, lw=0.8, ls="--", zorder=3)
    for axis in (panel.xaxis, panel.yaxis):
        _units(axis, column, spread)
        if column.kind == "date":
            axis.get_offset_text().set_visible(False)


def _tracks(
    cells: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    schema: Schema,
    ax: Axes | None,
    mark: str,
) -> Panels:
    """A panel per column of cells [R, S, D]: S places, a colour per row."""
    panels, figure, shown = _columns(schema, ax)
    drawn = min(len(cells), MOST_LINES)
    places = np.arange(cells.shape[1])
    ticks = _few_ticks(columns, cells.shape[1])
    for k, (panel, column) in enumerate(zip(panels, shown, strict=True)):
        step = {"drawstyle": "steps-mid"} if _discrete(column) and "-" in mark else {}
        for row in range(drawn):
            label = rows[row] if len(rows) else ""
            y = _placed(column, cells[row, :, k])
            panel.plot(places, y, mark, color=_hue(row, drawn), ms=3, lw=1.2, label=label, **step)
        _units(panel.yaxis, column, _spread(column, cells[:drawn, :, k].ravel()))
        panel.set_xticks(list(ticks), list(ticks.values()))
        if _discrete(column):
            panel.set_ylim(len(_levels(column)) - 0.6, -0.4)
    rest = _rest(drawn, len(cells), "rows")
    return _legend(panels, figure, rest, _rest(len(shown), len(schema.columns), "columns"))


def _few_ticks(names: Sequence[str], count: int) -> dict[int, str]:
    """Some of `count` places and what stands there: the two ends where only they have names."""
    if len(names) > 2 and not any(names[1:-1]):
        return {0: names[0], count - 1: names[-1]}
    return {k: names[k] if len(names) else f"{k + 1}" for k in range(0, count, -(-count // 6))}


def _effects(ax: Axes, cells: Floats, schema: Schema) -> float:
    """The columns [2, parts, D] as rows of a heat map: what each part does to them; the width of a
    part."""
    change = (cells[0] - cells[1]).reshape(cells.shape[1], -1).T[:MOST_PANELS]
    shown = schema.columns[: len(change)]
    steps = [_discrete(column) for column in shown]  # a level is another or it is not
    change[steps] = change[steps] != 0
    change = change / np.abs(change).max(1, keepdims=True).clip(1e-12)
    extent = (0.5, len(cells[0]) + 0.5, len(change) - 0.5, -0.5)
    heat = ax.imshow(change, "RdBu_r", vmin=-1, vmax=1, aspect="auto", extent=extent)
    ax.figure.colorbar(heat, ax=ax, label="change")
    ax.set_yticks(range(len(shown)), [_short(column.name, 24) for column in shown], size=8)
    ax.set_xticks([])
    ax.tick_params(length=0)
    return 1.0


def _hue(k: int, count: int) -> str:
    return [BLUE, ORANGE, GREEN][k] if count <= 3 else CLASSES[k % len(CLASSES)]


def _bundles(groups: Groups, schema: Schema, ax: Axes | None) -> Panels:
    """A panel per column of series [N, T, D], ten of each group as lines over time."""
    panels, figure, shown = _columns(schema, ax)
    for k, (panel, column) in enumerate(zip(panels, shown, strict=True)):
        for name, colour, x in groups:
            for i, line in enumerate(_placed(column, x[:MOST_LINES, :, k])):
                label = "" if i else name
                panel.plot(_time(x), line, color=colour, lw=0.9, alpha=0.8, label=label)
        _units(panel.yaxis, column)
        _steps(panel)
    lines = _rest(MOST_LINES, max(len(x) for _, _, x in groups), "series")
    return _legend(panels, figure, lines, _rest(len(shown), len(schema.columns), "columns"))


def _time(x: Floats) -> Floats:
    return np.arange(1.0, x.shape[-2] + 1)


def _steps(panel: Axes, last: bool = True) -> None:
    """An axis of time; its name only where nothing is below."""
    panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panel.set_xlabel("step" if last else "", size=8)


def _series_panels(
    rows: Sequence[str], schema: Schema, ax: Axes | None
) -> tuple[Panels, Any, list[tuple[int, int]]]:
    """A panel for each of some rows and of the columns, the figure they fill, and the row and the
    column of each."""
    count, features = min(len(rows), MOST_ROWS), min(len(schema.columns), MOST_FEATURES)
    across = features if features > 1 else min(3, count)
    panels, figure = _panels(ax, count * features, across, 1.5)
    places = [(i, d) for i in range(count) for d in range(features)]
    for panel, (i, d) in zip(panels, places, strict=True):
        column = schema.columns[d]
        title = f"{_short(column.name, 22)}, {rows[i]}" if rows[i] else column.name
        _dress(panel, title, "", "")
        panel.title.set_size(9)
    return panels, figure, places


def _series_rest(rows: int, schema: Schema, what: str) -> list[str]:
    size = len(schema.columns)
    return [
        _rest(min(rows, MOST_ROWS), rows, what),
        _rest(min(size, MOST_FEATURES), size, "columns"),
    ]


def _followed(x: Floats, mean: Floats, draws: Floats, schema: Schema, ax: Axes | None) -> Panels:
    """A panel per series and column: the data, their reconstruction and draws over time."""
    panels, figure, places = _series_panels(_numbered("series", len(x)), schema, ax)
    for panel, (i, d) in zip(panels, places, strict=True):
        column = schema.columns[d]
        for k, draw in enumerate(draws):
            line = _placed(column, draw[i, :, d])
            panel.plot(_time(x), line, color=GREY, lw=0.8, label="" if k else "draws")
        line = _placed(column, mean[i, :, d])
        panel.plot(_time(x), line, color=ORANGE, lw=1.4, label="reconstruction")
        panel.plot(_time(x), _placed(column, x[i, :, d]), "o", color=BLUE, ms=2.5, label="data")
        _units(panel.yaxis, column)
        _steps(panel, i == places[-1][0])
    return _legend(panels, figure, *_series_rest(len(x), schema, "series"))


def _ribbons(
    cells: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    schema: Schema,
    ax: Axes | None,
) -> Panels:
    """A panel per row and column of series [R, S, T, D]: S lines over time, from blue to yellow."""
    labels = list(rows) if len(rows) else [""] * len(cells)
    panels, figure, places = _series_panels(labels, schema, ax)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, cells.shape[1]))
    named = [name for name in columns if name]
    for panel, (i, d) in zip(panels, places, strict=True):
        column = schema.columns[d]
        for s, shade in enumerate(shades):
            label = columns[s] if len(columns) and (len(named) < 7 or not s % 2) else ""
            line = _placed(column, cells[i, s, :, d])
            panel.plot(_time(cells), line, color=shade, lw=1.1, label=label)
        _units(panel.yaxis, column)
        _steps(panel, i == places[-1][0])
    return _legend(panels, figure, *_series_rest(len(cells), schema, "rows"))


def training_curves(
    rows: Sequence[Mapping[str, float]], *, axes: Panels | Sequence[Axes] | None = None
) -> Panels:
    """ELBO, reconstruction and KL by epoch, in nats per datum, in three panels (`axes`: three).

    Each of `rows` has ``epoch``, ``elbo``, ``reconstruction``, ``kl`` and, if there were held-out
    data, ``validation_elbo`` and so on; None and nan are gaps. From 10 epochs on, the first
    twentieth may leave the view, so that it does not squash the rest.
    """
    terms = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
    _check_history(rows, ["epoch", *terms])
    panels: Panels = np.asarray(_axes(axes, 9, 2.8, panels=3), dtype=object)
    _same("axes", panels.shape, (3,), "three panels")
    epochs = _array([row["epoch"] for row in rows], "epoch", "epochs")
    for ax, (term, title) in zip(panels, terms.items(), strict=True):
        _curves(ax, rows, epochs, term)
        _dress(ax, f"{title} (nats per datum)", "epoch", "")
    if panels[0].lines:
        panels[0].legend(frameon=False)
    return panels


def _check_history(rows: Sequence[Mapping[str, float]], needed: Sequence[str]) -> None:
    missing = [name for name in needed if not rows or any(name not in row for row in rows)]
    if missing:
        raise UsageError(
            f"training curves need rows with {', '.join(needed)}; there are {len(rows)}, without "
            f"{', '.join(missing)} in some: give a history's rows"
        )


def _curves(ax: Axes, rows: Sequence[Mapping[str, float]], epochs: Floats, term: str) -> None:
    """One term by epoch, of the training and of the held-out data, in a view of what settled."""
    skipped = math.ceil(len(rows) / 20) if len(rows) >= 10 else 0
    settled = []
    for prefix, colour, label in (("", BLUE, "train"), ("validation_", ORANGE, "validation")):
        y = _array([row.get(prefix + term) for row in rows], prefix + term, "epochs")
        seen = np.isfinite(y)
        if seen.any():
            marker = "o" if seen.sum() <= 30 else ""
            ax.plot(epochs[seen], y[seen], color=colour, marker=marker, ms=4, label=label)
        settled.append(y[skipped:])
    low, high = _extremes(np.concatenate(settled))
    if skipped and low < high and np.isfinite(settled).any():
        ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(axis="y", color=str(PAPER))


def latent_map(
    codes: Values,
    labels: Values | None = None,
    *,
    dims: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Codes [N, d], such as posterior means, in the plane, coloured by label; those of other shapes
    are taken as vectors.

    Two coordinates (`dims`, or the only two) are drawn with rings at 1, 2 and 3 standard deviations
    of a standard normal prior; more without `dims` by their principal components; a single one
    spread over the height. `labels` are [N]: up to 10 distinct ones have a legend, in which
    `classes` [i] names label i, more a colour bar. `names` [d] are those of the coordinates.
    """
    points = _vectors(codes)
    n, d = points.shape
    names = [f"z{k}" for k in range(d)] if names is None else list(names)
    _same("names", [len(names)], [d], "codes")
    _check_dims(dims, d)
    ax = _axes(ax, 6.2, 5)
    if dims is not None or d == 2:
        _rings(ax)
    elif d == 1:
        ax.set_yticks([])
    points, names = _in_plane(points, names, dims)
    _coloured(ax, points, None if labels is None else _array(labels, "labels", "N"), classes)
    if d > 1:
        ax.set_aspect("equal", adjustable="datalim")
    return _dress(ax, f"codes of {n:,} data", names[0], names[1])


def _vectors(codes: Values) -> Floats:
    """Codes of any shape as [N, d]."""
    rows = np.asarray(codes)
    flat = rows.reshape(len(rows), -1) if rows.ndim and rows.size else rows
    points = _array(flat, "codes", "N d")
    if not np.isfinite(points).all():
        raise UsageError("codes hold nan or infinite values and cannot be placed: leave those out")
    return points


def _check_dims(dims: tuple[int, int] | None, count: int) -> None:
    if dims is not None and (len(dims) != 2 or not set(dims) <= set(range(count))):
        raise UsageError(
            f"dims={dims} are not two latent coordinates: choose from 0 to {count - 1}"
        )


def _in_plane(
    points: Floats, names: list[str], dims: tuple[int, int] | None
) -> tuple[Floats, list[str]]:
    """Points [N, 2], and what their coordinates are called."""
    n, d = points.shape
    if dims is not None or d == 2:
        across, up = dims or (0, 1)
        return points[:, [across, up]], [names[across], names[up]]
    if d > 1:
        return _principal(points)
    # the golden ratio's multiples spread evenly, and look scattered
    return np.column_stack([points, np.arange(n) * 0.618034 % 1]), [*names, ""]


def _rings(ax: Axes) -> None:
    """Where 1, 2 and 3 standard deviations of a standard normal are."""
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for radius in (1, 2, 3):
        ax.add_patch(Circle((0, 0), radius, fill=False, ec=INK, ls="--", lw=0.8, zorder=3))
        ax.text(0, radius, f"{radius} sd", size=8, ha="center", va="center", bbox=box, zorder=4)


def _principal(points: Floats) -> tuple[Floats, list[str]]:
    """The two principal components of points, and what they are called."""
    from sklearn.decomposition import PCA  # here, since it is slow to import

    if not np.ptp(points, axis=0).any():
        raise UsageError("codes are all the same and have no principal components: give dims")
    pca = PCA(2).fit(points)
    shares = enumerate(pca.explained_variance_ratio_, 1)
    return pca.transform(points), [
        f"component {k} ({share:.0%} of variance)" for k, share in shares
    ]


def _coloured(ax: Any, points: Floats, label: Floats | None, classes: Sequence[str] | None) -> None:
    size = np.clip(20000 / len(points), 6, 36)
    style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0}
    if label is None:
        ax.scatter(*points.T, color=BLUE, **style)
        return
    _same("labels", label.shape, points.shape[:1], "codes")
    kinds = np.unique(label)
    if classes is not None and not set(kinds) <= set(range(len(classes))):
        raise UsageError(
            f"labels go from {kinds[0]:g} to {kinds[-1]:g}, but there are {len(classes)} classes: "
            f"name all of them, in the order of whole-numbered labels from 0"
        )
    if len(kinds) > len(CLASSES):
        bar = ax.figure.colorbar(ax.scatter(*points.T, c=label, **style), ax=ax, label="label")
        if classes is not None:
            bar.set_ticks(range(len(classes)), labels=list(classes))
        return
    # a class keeps its colour where others are absent
    fixed = set(kinds) <= set(range(len(CLASSES)))
    for position, kind in enumerate(kinds):
        colour = CLASSES[int(kind) if fixed else position]
        name = f"{kind:g}" if classes is None else classes[int(kind)]
        ax.scatter(*points[label == kind].T, color=colour, label=name, **style)
    legend = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for handle in legend.legend_handles:
        handle.set(sizes=[40], alpha=1)


def kl_bars(kl: Values, *, active: Values | None = None, ax: Axes | None = None) -> Axes:
    """KL divergence from the prior per latent dimension, [d] in nats, the largest first.

    `active` (bool [d]) greys the other dimensions, whose bars may be too low to see, and crosses
    them out.

    >>> kl_bars([0.1, 2.0, 1.0], active=[False, True, True]).get_title()
    '2 of 3 latent dimensions active'
    """
    heights = _array(kl, "kl", "d")
    d, order = len(heights), np.argsort(-heights)
    on = np.ones(d, bool) if active is None else _array(active, "active", "d").astype(bool)
    _same("active", on.shape, (d,), "kl")
    ax = _axes(ax, float(np.clip(0.2 * d + 1.5, 4.5, 9.5)), 3.2)
    at, off = (np.flatnonzero(mask[order]) for mask in (on, ~on))
    if at.size:
        ax.bar(at, heights[order][at], color=BLUE, label="active")
    if off.size:
        ax.bar(off, heights[order][off], color=GREY)
        ax.plot(off, heights[order][off], "x", color=GREY, clip_on=False, label="inactive")
    every = math.ceil(d / 50)
    ax.set_xticks(range(0, d, every), [str(k) for k in order[::every]], size=9 if d <= 20 else 7)
    title = "KL per latent dimension"
    if active is not None:
        ax.legend(frameon=False)
        title = f"{on.sum()} of {d} latent dimensions active"
    return _dress(ax, title, "latent dimension", "KL (nats)")


def gap_bars(
    elbo: Values,
    log_evidence: Values,
    approximation: Values,
    amortisation: Values,
    *,
    ax: Axes | None = None,
) -> Axes:
    """What the ELBO lacks: log p(x) = ELBO + amortisation gap + approximation gap.

    Numbers, or one per datum [n], of which 20 are drawn (the means are of all); in nats. Bars begin
    at the datum's ELBO, which its label gives; the mark is at log p(x), where they should end.
    """
    given = {"elbo": elbo, "log_evidence": log_evidence}
    given |= {"approximation": approximation, "amortisation": amortisation}
    arrays = {name: np.atleast_1d(_array(v, name, "", "n")) for name, v in given.items()}
    for name, array in arrays.items():
        _same(name, array.shape, arrays["elbo"].shape, "elbo")
    base, evidence, family, encoder = (array[:20] for array in arrays.values())
    means = {name: f"{name} gap, mean {array.mean():.2f}" for name, array in arrays.items()}
    at = np.arange(len(base))
    ax = _axes(ax, 6.5, 1.9 + 0.24 * len(base))
    ax.barh(at, encoder, 0.7, color=ORANGE, label=means["amortisation"])
    ax.barh(at, family, 0.7, encoder, color=BLUE, label=means["approximation"])
    ax.plot(evidence - base, at, "|", color=INK, ms=14, mew=2, label="log p(x)")
    whose = [f"datum {i}, " if len(base) > 1 else "" for i in at]
    ax.set_yticks(at, [f"{who}ELBO {b:.1f}" for who, b in zip(whose, base, strict=True)])
    ax.set_ylim(len(base) - 0.4, -0.6)
    return _dress(ax, "", "nats above the ELBO", "", legend_above=1)


def khat(values: Values, *, ax: Axes | None = None) -> Axes:
    """Pareto k-hat per datum, [N], sorted: how far importance-sampled estimates can be trusted.

    Up to 0.5 they are good, up to 0.7 usable, from 1 on their mean need not exist. Values that are
    not finite count as above 0.7.
    """
    k = np.sort(_array(values, "values", "N"))
    share = (np.arange(len(k)) + 0.5) / len(k)
    ax = _axes(ax, 6, 3.5)
    for low, high, colour in ((-np.inf, 0.5, BLUE), (0.5, 0.7, GREEN), (0.7, np.inf, ORANGE)):
        zone = (k > low) & (k <= high) & np.isfinite(k)
        ax.plot(share[zone], k[zone], ".", color=colour, ms=6)
    for threshold, name in ((0.5, "good below"), (0.7, "usable below"), (1.0, "no mean above")):
        ax.axhline(threshold, color=INK, lw=0.8, ls="--")
        ax.text(0.01, threshold, f"{threshold}: {name}", size=8, va="bottom")
    ax.set_xlim(0, 1)
    title = f"{np.mean(~(k <= 0.7)):.1%} of {len(k)} data above 0.7"
    return _dress(ax, title, "share of data, sorted", "Pareto k-hat")


def sandwich(found: Iterable[Sandwich], *, ax: Axes | None = None) -> Axes:
    """How far the bounds of `pv.sandwich` are apart, against the temperatures that each took, with
    two standard errors over the data: what is left of the error of an annealed log evidence."""
    ordered = sorted(found, key=lambda one: one.path.temperatures)
    if not ordered:
        raise UsageError("there is nothing to draw: give one or more of what pv.sandwich returns")
    ax = _axes(ax, 6, 3.5)
    temperatures = [one.path.temperatures for one in ordered]
    widths, errors = [one.width for one in ordered], [2 * one.error for one in ordered]
    ax.errorbar(temperatures, widths, yerr=errors, color=BLUE, marker="o", ms=4, capsize=3)
    ax.axhline(0, color=INK, lw=0.8, ls="--")
    ax.set_xscale("log", base=2)
    ax.set_xticks(temperatures, [f"{t:,}" for t in temperatures])
    return _dress(ax, "", "temperatures", "upper - lower bound (nats)")


def ranks(ranks: Values, draws: int, *, alpha: float = 0.01, ax: Axes | None = None) -> Axes:
    """Simulation-based calibration: how the ranks' distribution differs from a uniform one.

    `ranks` are int [simulations, d] or [simulations], the true latent's rank among its `draws`
    posterior draws, 0 to `draws`. `alpha` is the chance, at most, that any line of a calibrated
    posterior leaves the band (Dvoretzky-Kiefer-Wolfowitz's, shared out over the d lines).
    """
    table = _array(ranks, "ranks", "simulations d", "simulations")
    table = np.sort(table.reshape(len(table), -1), axis=0)
    if not (table.min() >= 0 and table.max() <= draws):
        raise UsageError(
            f"ranks go from {table.min():g} to {table.max():g}, outside 0 to draws={draws}: a rank "
            f"counts the posterior draws below the truth"
        )
    (count, d), grid = table.shape, np.arange(draws + 1)
    band = math.sqrt(math.log(2 * d / alpha) / (2 * count))
    ax = _axes(ax, 6, 3.5)
    ax.fill_between([0, 1], -band, band, color=str(PAPER))
    outside = []
    for k in range(d):
        line = np.searchsorted(table[:, k], grid, "right") / count - (grid + 1) / (draws + 1)
        if np.abs(line).max() > band:
            outside.append(f"z{k}")
        ax.plot(grid / draws, line, color=ORANGE if f"z{k}" in outside else BLUE, lw=1.2)
    title = f"{d - len(outside)} of {d} dimensions within the {1 - alpha:.0%} band of uniform ranks"
    if outside:
        title += f"\noutside: {', '.join(outside[:10])}{', ...' if len(outside) > 10 else ''}"
    return _dress(ax, title, "rank / draws", "ECDF minus uniform")


def predictive_check(
    observed: Values, replicated: Values, *, name: str = "statistic", ax: Axes | None = None
) -> Axes:
    """A statistic of the data (a number) among those of replicated data sets, [R].

    The tail probability is twice the smaller share of replications at least as far on one side,
    with the data counted among them, so never 0.
    """
    truth = float(_array(observed, "observed", ""))
    replicas = _array(replicated, "replicated", "R")
    if np.isnan([truth, *replicas]).any():
        raise UsageError(f"{name} is nan for the data or a replication: leave those out")
    share = min(np.sum(replicas >= truth), np.sum(replicas <= truth)) + 1
    tail = min(1.0, 2 * share / (len(replicas) + 1))
    ax = _axes(ax, 6, 3.2)
    _histogram(ax, replicas, label="replicated")
    ax.axvline(truth, color=ORANGE, lw=2.5, label="observed")
    ax.legend(frameon=False)
    return _dress(ax, f"{name}: two-sided tail probability {tail:.2g}", name, "replications")


def rate_distortion(
    rate: Values, distortion: Values, *, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """Models by rate (KL) and distortion (minus reconstruction), [n] each, in nats per datum.

    On each grey line the negative ELBO, their sum, is the same. `labels` [n] name the models.
    """
    x, y = _array(rate, "rate", "n"), _array(distortion, "distortion", "n")
    labels = [""] * len(x) if labels is None else labels
    _same("distortion", y.shape, x.shape, "rate")
    _same("labels", [len(labels)], x.shape, "rate")
    ax = _axes(ax, 5.5, 4)
    order = np.argsort(x)
    ax.plot(x[order], y[order], "-o", color=BLUE, lw=1)
    ax.margins(0.15)
    for label, across, up in zip(labels, x, y, strict=True):
        ax.annotate(str(label), (across, up), (6, 4), textcoords="offset points")
    # many points to a line, so that its label finds a place inside the view
    right, high = (np.linspace(ends[0], ends[1], 50) for ends in (ax.get_xlim(), ax.get_ylim()))
    sums = np.add.outer(high, right)
    lines = ax.contour(right, high, sums, 6, colors=GREY, linewidths=0.8, zorder=0)
    ax.clabel(lines, fmt="%g", fontsize=8, colors="#666666")
    title = "grey lines: the same negative ELBO"
    return _dress(ax, title, "rate (nats per datum)", "distortion (nats per datum)")


def top_words(
    probabilities: Values,
    names: Sequence[str] | None = None,
    *,
    n: int = 8,
    titles: Sequence[str] | None = None,
    axes: Panels | Sequence[Axes] | None = None,
) -> Panels:
    """The `n` most probable words of each topic, [topics, words], a panel each, 12 at most.

    `names` [words] are the words, `titles` [topics] the topics' (`axes`: as many as panels).

    >>> top_words([[0.1, 0.9], [0.8, 0.2]], ["cat", "dog"], n=1)[0].get_yticklabels()
    [Text(0, 0, 'dog')]
    """
    table = _array(probabilities, "probabilities", "topics words")
    names = [f"word {k}" for k in range(table.shape[1])] if names is None else list(names)
    titles = [f"topic {k + 1}" for k in range(len(table))] if titles is None else list(titles)
    _same("names", [len(names)], [table.shape[1]], "probabilities")
    _same("titles", [len(titles)], [len(table)], "probabilities")
    table, n = table[:12], min(n, table.shape[1])
    columns = min(4, len(table))
    rows = -(-len(table) // columns)
    if axes is None:
        import matplotlib.pyplot as plt

        size = (2.6 * columns, 0.6 + (0.2 * n + 0.55) * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", sharex=True)
        axes = np.ravel(grid)
        for ax in axes[len(table) :]:
            ax.remove()
        for ax in axes[max(0, len(table) - columns) : len(table)]:
            ax.tick_params(labelbottom=True)  # where nothing is below
        axes = axes[: len(table)]
        figure.supxlabel("probability of the word in the topic", size="medium")
    panels: Panels = np.asarray(axes, dtype=object)
    _same("axes", panels.shape, (len(table),), "the topics' panels")
    for ax, row, title in zip(panels, table, titles, strict=False):
        best = np.argsort(-row, kind="stable")[:n]
        ax.barh(np.arange(n), row[best], 0.75, color=BLUE)
        ax.set_yticks(np.arange(n), [names[k] for k in best])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(n - 0.4, -0.6)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        _dress(ax, title, "", "")
        ax.title.set_size("medium")
    return panels


def forecasts(
    x: Values,
    draws: Values,
    given: Values,
    *,
    names: Sequence[str] | None = None,
    axes: Panels | Sequence[Axes] | None = None,
) -> Panels:
    """Series x [N, T, D] and forecasts `draws` [K, N, T, D] of what is nan in `given` [N, T, D].

    A panel per series and feature, 6 and 4 at most: what is given as dots, what came in fact as
    rings, the draws' median and the interval that holds 90 % of them. `names` [D] are those of the
    features (`axes`: [N, D]).
    """
    truth = _array(x, "x", "N T D")
    known = _array(given, "given", "N T D")
    cloud = _array(draws, "draws", "K N T D")
    _same("given", known.shape, truth.shape, "x")
    _same("draws", cloud.shape[1:], truth.shape, "x (after the first axis)")
    labels = [f"x{d}" for d in range(truth.shape[2])] if names is None else list(names)
    _same("names", [len(labels)], truth.shape[2:], "the features of x")
    count, features = min(6, len(truth)), min(4, truth.shape[2])
    if axes is None:
        import matplotlib.pyplot as plt

        size = (max(5.5, 3.4 * features), 0.8 + 1.5 * count)
        shape = {"figsize": size, "layout": "constrained", "squeeze": False}
        figure, axes = plt.subplots(count, features, sharex=True, sharey="col", **shape)
    panels: Panels = np.asarray(axes, dtype=object)
    _same("axes", panels.shape, (count, features), "the panels of series and features")
    time = np.arange(1, truth.shape[1] + 1)
    low, middle, high = np.quantile(cloud, [0.05, 0.5, 0.95], axis=0)
    for (i, d), ax in np.ndenumerate(panels):
        gone = np.isnan(known[i, :, d])
        ends = np.where(gone, np.stack([low, middle, high])[:, i, :, d], np.nan)
        ax.fill_between(time, ends[0], ends[2], color=ORANGE, alpha=0.25, lw=0, label="90 %")
        ax.plot(time, ends[1], ".-", color=ORANGE, lw=1.5, ms=4, label="median")
        style: dict[str, Any] = {"color": BLUE, "ms": 3.5}
        ax.plot(
            time, np.where(gone, truth[i, :, d], np.nan), "o", mfc="none", label="fact", **style
        )
        ax.plot(time, known[i, :, d], "o", label="given", **style)
        _dress(ax, "", "step" if i == count - 1 else "", labels[d])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # above all panels: in one it would push the others apart
    handles, words = panels[0, 0].get_legend_handles_labels()
    panels[0, 0].figure.legend(handles, words, loc="outside upper left", ncols=4, frameon=False)
    return panels


def parts(
    pictures: Values,
    use: Values,
    rows: Sequence[str] = (),
    *,
    title: str = "units",
    schema: Schema | None = None,
    axes: Panels | Sequence[Axes] | None = None,
) -> Panels:
    """What each part of a latent adds, and which data use it: pictures above a heat map.

    `pictures` [2, parts, *event] are decoded with the part alone, either way; `use` [rows, parts]
    are chances in [0, 1] that a part is in a datum, by row, which `rows` names (`axes`: two). Of
    tables, whose columns `schema` names, the difference of the two pictures stands above, each
    column's as a share of its largest.

    >>> parts(torch.rand(2, 5, 1, 8, 8), torch.rand(3, 5), ["a", "b", "c"]).shape
    (2,)
    """
    cells, table = _array(pictures, "pictures", "2 parts ..."), _array(use, "use", "rows parts")
    _same("use", table.shape[1:], cells.shape[1:2], "the parts of pictures")
    _same("rows", [len(rows)], [len(table) if len(rows) else 0], "use")
    (ways, count, *event), kinds = cells.shape, len(table)
    if axes is None:
        import matplotlib.pyplot as plt

        cell = float(np.clip(12 / count, 0.35, 0.9))
        tall = cell * (event[-2] / event[-1] if face(event) == "image" else 1.5) * ways
        if face(event, schema) == "table":
            tall = max(1.2, 0.2 * min(MOST_PANELS, cells[0, 0].size))
        heat = max(0.3 * kinds, 0.5)
        size = (min(9.5, cell * count + 1.6), tall + heat + 1.1)
        ratio = {"height_ratios": [tall, heat]}
        axes = plt.subplots(2, 1, figsize=size, layout="constrained", gridspec_kw=ratio)[1]
    panels: Panels = np.asarray(axes, dtype=object)
    _same("axes", panels.shape, (2,), "two panels")
    above, below = panels
    if face(event, schema) == "table":
        width = _effects(above, cells, _schema(schema, cells))
    else:
        _pictures(cells, ["+", "\u2212"][:ways], (), above)
        above.set_aspect("auto")
        above.set_ylabel("decoded alone")
        width = (above.get_xlim()[1] - above.get_xlim()[0] - 2) / count
    extent = (0.5, count * width + 0.5, kinds - 0.5, -0.5)
    heat = below.imshow(table, "viridis", vmin=0, vmax=1, aspect="auto", extent=extent)
    below.set_xlim(above.get_xlim())
    every = math.ceil(count / 40)
    at = 0.5 + width * (np.arange(count) + 0.5)
    below.set_xticks(at[::every], [str(k + 1) for k in range(0, count, every)])
    below.set_yticks(np.arange(kinds), rows if len(rows) else [""] * kinds)
    below.tick_params(length=0)
    below.figure.colorbar(heat, ax=below, label="chance open")
    _dress(below, "", title, "class" if kinds > 1 else "")
    return panels


def intervals(
    truth: Values,
    mean: Values,
    low: Values,
    high: Values,
    *,
    level: float = 0.9,
    x_label: str = "truth",
    y_label: str = "predicted",
    ax: Axes | None = None,
) -> Axes:
    """Numbers that were hidden, `truth` [n], against their predicted `mean` and interval.

    The title says how many lie within their interval, from `low` to `high`, and the root mean
    squared error in standard deviations of the truth; 300 of them are drawn, evenly chosen.

    >>> intervals([0.0, 1.0], [0.2, 1.0], [-1.0, 0.5], [1.0, 1.5]).get_title()
    '100% of 2 within their 90% interval, error 0.28 sd'
    """
    given = {"truth": truth, "mean": mean, "low": low, "high": high}
    arrays = {name: _array(values, name, "n") for name, values in given.items()}
    for name, array in arrays.items():
        _same(name, array.shape, arrays["truth"].shape, "truth")
    x, y, bottom, top = arrays.values()
    within = (bottom <= x) & (x <= top)
    error = math.sqrt(np.mean((y - x) ** 2)) / (x.std() or 1)
    chosen = np.unique(np.linspace(0, len(x) - 1, min(300, len(x))).round().astype(int))
    x, y, bottom, top, inside = (each[chosen] for each in (x, y, bottom, top, within))
    ax = _axes(ax, 5.5, 5)
    ends = _extremes(np.concatenate([x, y]))
    ax.plot(ends, ends, color=INK, lw=0.8, ls="--", zorder=3)
    for mask, colour, label in ((inside, BLUE, "within"), (~inside, ORANGE, "outside")):
        if mask.any():
            ax.vlines(x[mask], bottom[mask], top[mask], color=colour, lw=1, alpha=0.35)
            ax.plot(x[mask], y[mask], "o", color=colour, ms=3.5, label=label)
    ax.legend(frameon=False)
    title = f"{within.mean():.0%} of {len(within)} within their {level:.0%} interval"
    return _dress(ax, f"{title}, error {error:.2f} sd", x_label, y_label)


def graph(sketch: Sketch, *, ax: Axes | None = None) -> Axes:
    """What depends on what in a `pv.sketch`: sites as circles, observed ones filled, in plates.

    Arrows of the model are drawn through, those of the guide dashed; arguments that are given are
    squares. Parents stand above their children.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, figure 1.
    """
    model = {site.name: site for site in (*sketch.of("data"), *sketch.of("model"))}
    guide = sketch.of("guide")
    extra = {site.name: site for site in guide if site.name not in model}
    sites = {**model, **extra}
    if not 1 <= len(sites) <= 60:
        raise UsageError(f"{len(sites)} sites cannot be drawn as a graph (1 to 60): print it")
    at = _places(sites)
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*at.values(), strict=True))
    margin = 0.55 + 0.16 * max(len(site.plates) for site in sites.values())
    ax = _axes(ax, 0.8 * (right - left) + 2.6, 0.8 * (high - low) + 2)
    _draw_plates(ax, sites, at)
    _draw_arrows(ax, sketch, at)
    for name, place in at.items():
        _node(ax, sites[name], place)
    ax.set(xlim=(left - margin, right + margin), ylim=(low - 2 * margin + 0.4, high + margin))
    ax.set_aspect("equal")
    ax.axis("off")
    if guide:
        ax.plot([], [], "-", color=INK, label="model")
        ax.plot([], [], "--", color=ORANGE, label="guide")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    return ax


def _draw_plates(
    ax: Axes, sites: Mapping[str, SketchedSite], at: Mapping[str, tuple[float, float]]
) -> None:
    """A box around the sites of each plate, those of fewer sites inside."""
    plates: dict[str, list[str]] = {}
    dims: dict[str, int] = {}
    for site in sites.values():
        for dim, name in site.plates.items():
            plates.setdefault(name, []).append(site.name)
            dims[name] = dim
    inner = sorted(plates, key=lambda name: (len(plates[name]), -dims[name]))
    for level, name in enumerate(inner, 1):
        across, up = zip(*(at[member] for member in plates[name]), strict=True)
        pad, foot = 0.45 + 0.14 * level, 0.14 * level  # each plate's name has a line of its own
        corner = min(across) - pad, min(up) - pad - foot
        size = max(across) - min(across) + 2 * pad, max(up) - min(up) + 2 * pad + foot
        style = "round,pad=0,rounding_size=0.12"
        ax.add_patch(FancyBboxPatch(corner, *size, style, fc="none", ec=GREY, lw=1.2))
        end = corner[0] + size[0] - 0.08, corner[1] + 0.06
        ax.text(*end, _plate_label(name, sites[plates[name][0]]), size=9, ha="right", color=INK)


def _node(ax: Axes, site: SketchedSite, place: tuple[float, float]) -> None:
    fill = str(PAPER) if site.observed else "white"
    mark = "s" if site.program == "data" else "o"
    ax.plot(*place, mark, ms=30, mfc=fill, mec=INK, mew=1.2, zorder=3)
    letters = 12 if len(site.name) < 3 else 9 if len(site.name) < 5 else 7
    ax.text(*place, site.name, size=letters, ha="center", va="center", zorder=4)


def _places(sites: Mapping[str, SketchedSite]) -> dict[str, tuple[float, float]]:
    """Where each goes: a layer below its parents, beside its layer's others, under its parents."""
    depth: dict[str, int] = {}
    layers: dict[int, list[str]] = {}
    for name, site in sites.items():  # in the order they were run: parents come first
        depth[name] = max((depth[p] + 1 for p in site.parents if p in depth), default=0)
        layers.setdefault(depth[name], []).append(name)
    at: dict[str, tuple[float, float]] = {}
    for level in sorted(layers):
        above = {n: [at[p][0] for p in sites[n].parents if p in at] or [0.0] for n in layers[level]}
        order = sorted(layers[level], key=lambda n: sum(above[n]) / len(above[n]))
        for k, name in enumerate(order):
            at[name] = 1.4 * (k - (len(order) - 1) / 2), -1.4 * level
    return at


def _draw_arrows(ax: Axes, sketch: Sketch, at: Mapping[str, tuple[float, float]]) -> None:
    for site in sketch:
        for parent in site.parents:
            if parent in at:
                _arrow(ax, at[parent], at[site.name], site.program == "guide", at.values())


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    guide: bool,
    among: Iterable[tuple[float, float]],
) -> None:
    between = any(
        abs(x - start[0]) < 0.1 and min(start[1], end[1]) < y < max(start[1], end[1])
        for x, y in among
    )
    bend = 0.35 if guide else 0.3 if between and start[0] == end[0] else 0.0
    bend = min(bend, 1.1 / math.dist(start, end))  # long ones stay near their plate
    style: dict[str, Any] = {"color": ORANGE, "ls": (0, (4, 2))} if guide else {"color": INK}
    curve = f"arc3,rad={bend}"
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=14, connectionstyle=curve,
        shrinkA=17, shrinkB=17, lw=1.3, zorder=2, **style,
    )  # fmt: skip
    ax.add_patch(arrow)


def _plate_label(name: str, site: SketchedSite) -> str:
    dim = next(d for d, plate in site.plates.items() if plate == name)
    sizes = site.batch_shape
    return f"{name}, {sizes[dim]}" if -dim <= len(sizes) else name


def shapes(sketch: Sketch, *, ax: Axes | None = None) -> Axes:
    """The shapes of a `pv.sketch`: a row per site, a box per dimension, batch | event.

    Dimensions in a plate are blue, with the plate's name; those of one event, which share one log
    probability, orange; batch dimensions in no plate, a mistake, are hatched.
    """
    sites = [site for site in sketch if site.program != "data"]
    if not sites:
        raise UsageError("the programs have no sites, so there are no shapes: call pyro.sample")
    left = max(len(site.batch_shape) for site in sites)
    right = max(len(site.event_shape) for site in sites)
    ax = _axes(ax, 3.4 + 0.95 * (left + right), 0.9 + 0.72 * len(sites))
    several = len({site.program for site in sites}) > 1
    for row, site in enumerate(sites):
        _boxes(ax, site, row, left)
        who = f"{site.program}: " if several else ""
        words = f"{who}{site.name} ~ {site.distribution}" + (" (observed)" * site.observed)
        ax.text(-0.2, row, words, ha="right", va="center", size=10)
    ax.plot([left + 0.12] * 2, [-0.5, len(sites) - 0.5], color=INK, lw=1)
    ax.text(left - 0.05, -0.62, "batch_shape", ha="right", size=9, color=BLUE)
    ax.text(left + 0.29, -0.62, "event_shape", ha="left", size=9, color=ORANGE)
    ax.set(xlim=(-3.2, left + right + 0.5), ylim=(len(sites) - 0.4, -0.95))
    ax.axis("off")
    return ax


def _boxes(ax: Axes, site: SketchedSite, row: int, left: int) -> None:
    """A site's dimensions: the batch's up to the place ``left``, the event's from there on."""
    first = len(site.batch_shape)
    for k, n in enumerate(site.batch_shape):
        plate = site.plates.get(k - first)
        if plate:
            _box(ax, left - first + k, row, n, plate, BLUE, "")
        else:
            _box(ax, left - first + k, row, n, "no plate", "white", "////")
    for k, n in enumerate(site.event_shape):
        _box(ax, left + 0.25 + k, row, n, "event", ORANGE, "")


def _box(ax: Axes, x: float, y: float, size: int, name: str, colour: str, hatch: str) -> None:
    box = FancyBboxPatch(
        (x + 0.04, y - 0.36), 0.92, 0.72, "round,pad=0,rounding_size=0.08",
        fc=colour, ec=INK if hatch else "white", hatch=hatch, lw=0.8,
    )  # fmt: skip
    ax.add_patch(box)
    paint: dict[str, Any] = {"ha": "center", "va": "center", "color": "white"}
    if hatch:
        paint |= {"color": INK, "bbox": {"fc": "white", "ec": "none", "pad": 1}}
    ax.text(x + 0.5, y - 0.08, str(size), size=11, weight="bold", **paint)
    ax.text(x + 0.5, y + 0.2, name, size=7, **paint)


def save(axes: Drawn, path: str | Path | Place) -> Path:
    """Write the figure of `axes` (one, or an array) as a PNG, 120 dots per inch, and close it.

    Missing folders are made.

    Raises:
        UsageError: a name that does not end in .png, or a path that cannot be written.
    """
    import matplotlib.pyplot as plt

    file = Path(str(path))
    if file.suffix.lower() != ".png":
        raise UsageError(f"figures are saved as PNG, but the file is {file.name!r}: name it .png")
    figure = cast(Any, np.asarray(axes, dtype=object).flat[0]).get_figure(root=True)
    with writing(path if isinstance(path, Place) else file) as stream:
        figure.savefig(stream, format="png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    return file
