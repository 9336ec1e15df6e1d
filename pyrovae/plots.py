"""Pictures of data, training, latents and checks: the only room that uses matplotlib.

Every function draws on the axes it is given, or else on new ones, and returns them. Nothing is
shown and no setting is changed: a notebook shows what is returned, `save` writes it to a file.
Arguments are tensors, arrays or nested lists. Log-probabilities are natural: their unit is nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from pyrovae.data import UsageError

Values = Tensor | NDArray[Any] | Sequence[Any] | float
Floats = NDArray[np.float64]

# Okabe and Ito's colours, then Tol's muted ones with black for his pale grey: safe for the
# colour-blind.
_INK, _BLUE, _ORANGE, _GREEN, _GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#B0B0B0"
_CLASSES = [
    "#332288",
    "#88CCEE",
    "#117733",
    "#DDCC77",
    "#CC6677",
    "#AA4499",
    "#44AA99",
    "#882255",
    "#999933",
    "#000000",
]
_PAPER = 0.92  # the grey between images, so that white-edged ones stay apart
_HALO = [withStroke(linewidth=2.5, foreground="white")]


def _array(values: Values, name: str, *shapes: str) -> Floats:
    """`values` as floats, if of one of `shapes` ("N d"; a last "..." is any number of axes)."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().to("cpu", torch.float64).numpy()
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} cannot be drawn: not an array of numbers ({error})") from error
    for shape in shapes:
        axes = shape.split()
        fits = array.ndim >= len(axes) - 1 if axes[-1:] == ["..."] else array.ndim == len(axes)
        if fits and array.size:
            return array
    wanted = " or ".join("[" + ", ".join(shape.split()) + "]" for shape in shapes)
    raise UsageError(
        f"{name} has shape {list(array.shape)}, and is drawn only as {wanted}, not empty: "
        f"index or reshape it first"
    )


def _same(name: str, array: NDArray[Any], shape: tuple[int, ...], other: str) -> None:
    if array.shape != shape:
        raise UsageError(
            f"{name} has shape {list(array.shape)}, which does not go with {other}: give it the "
            f"shape {list(shape)}"
        )


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or that of a new figure, in inches, which pyplot keeps so that notebooks show it."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # only here: it looks for a screen

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def _dress(ax: Axes, title: str, x: str, y: str) -> Axes:
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _is_image(event: tuple[int, ...]) -> bool:
    """[C, H, W] with 1 or 3 channels, or [H, W] from 4 by 4 on: narrower ones are series."""
    return (len(event) == 3 and event[0] in (1, 3)) or (len(event) == 2 and min(event) >= 4)


def image_grid(
    images: Values,
    *,
    nrow: int = 8,
    padding: int = 2,
    value_range: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images in rows of `nrow`, laid out as by torchvision's make_grid (a single one padded too).

    Args:
        images: [N, C, H, W] with C 1 (drawn as ink on paper: larger is darker) or 3, or [N, H, W].
        nrow: images per row.
        padding: pixels around each image.
        value_range: values drawn as the extremes; None means (0, 1) where the images lie in it,
            otherwise their own extremes.

    >>> image_grid(torch.rand(10, 1, 28, 28), nrow=5).images[0].get_array().shape
    (62, 152)
    """
    x = _array(images, "images", "N C H W", "N H W")
    x = x[:, None] if x.ndim == 3 else x
    n, channels, height, width = x.shape
    if channels not in (1, 3):
        raise UsageError(
            f"images have {channels} channels (shape {list(x.shape)}), and only 1 (grey) or 3 "
            f"(colour) can be shown: select channels, or draw them with data_grid"
        )
    if nrow < 1 or padding < 0:
        raise UsageError(f"nrow must be at least 1 and padding 0, got {nrow} and {padding}")
    finite = x[np.isfinite(x)]
    if value_range is not None:
        low, high = value_range
    elif finite.size == 0 or (finite.min() >= 0 and finite.max() <= 1):
        low, high = 0.0, 1.0
    else:
        low, high = finite.min(), finite.max()
    if channels == 3:
        x = ((x - low) / ((high - low) or 1)).clip(0, 1)
    columns = min(nrow, n)
    rows = -(-n // columns)
    fill = _PAPER if channels == 3 else np.nan  # nan is transparent: the axes' background shows
    cells = np.full((rows * columns, height + padding, width + padding, channels), fill)
    cells[:n, padding:, padding:] = x.transpose(0, 2, 3, 1)
    grid = cells.reshape(rows, columns, *cells.shape[1:]).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * cells.shape[1], columns * cells.shape[2], channels)
    grid = np.pad(grid, ((0, padding), (0, padding), (0, 0)), constant_values=fill)
    scale = min(0.75, 10 / columns)
    ax = _axes(ax, max(2, scale * columns), max(1, scale * rows * height / width))
    ax.imshow(grid.squeeze(2) if channels == 1 else grid, "gray_r", vmin=low, vmax=high)
    ax.images[-1].set_interpolation("nearest")
    ax.set(xticks=[], yticks=[], facecolor=str(_PAPER))
    ax.spines[:].set_visible(False)
    return ax


def data_grid(
    x: Values,
    *,
    nrow: int = 8,
    ax: Axes | None = None,
    value_range: tuple[float, float] | None = None,
) -> Axes:
    """Data x [N, *event] of any kind.

    Images ([N, C, H, W] with C 1 or 3, or [N, H, W] from 4 by 4 pixels on) as an `image_grid`; one
    number per datum as a histogram; all else, vectors and series, flattened to one heat map row
    per datum.
    """
    array = _array(x, "x", "N ...")
    if _is_image(array.shape[1:]):
        return image_grid(array, nrow=nrow, value_range=value_range, ax=ax)
    flat = array.reshape(len(array), -1)
    ax = _axes(ax, 6, 3.5)
    if flat.shape[1] == 1:
        ax.hist(flat[:, 0], bins="auto", range=value_range, color=_BLUE, edgecolor="white")
        return _dress(ax, f"{len(flat)} data", "value", "number of data")
    low, high = value_range or (None, None)
    heat = ax.imshow(flat, "viridis", aspect="auto", vmin=low, vmax=high, interpolation="nearest")
    ax.figure.colorbar(heat, ax=ax, label="value")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    return _dress(ax, f"{len(flat)} data, one per row", "feature", "datum")


def _strips(cells: Floats, rows: Sequence[str], columns: Sequence[str], ax: Axes | None) -> Axes:
    """`cells` [R, S, *event] as R labelled rows of S images; vectors become coloured barcodes."""
    count, steps, *rest = cells.shape
    flat = cells.reshape(count * steps, *rest)
    image = _is_image(tuple(rest))
    if not image:
        features = flat.reshape(len(flat), -1, 1)
        thick = -(-16 // features.shape[1])  # the gaps between are 2: keep barcodes much larger
        flat = features.repeat(thick, axis=1).repeat(16, axis=2)
    finite = flat[np.isfinite(flat)]
    span = None if image or not finite.size else (finite.min(), finite.max())
    if ax is None and not image:
        ax = _axes(ax, max(3, 0.75 * steps + 1), max(1.8, 1.3 * count))
    ax = image_grid(flat, nrow=steps, value_range=span, ax=ax)
    if not image:
        ax.images[-1].set_cmap("viridis")
        ax.set_aspect("auto")
        ax.figure.colorbar(ax.images[-1], ax=ax, label="value")
    height, width = flat.shape[-2] + 2, flat.shape[-1] + 2
    if rows:
        ax.set_yticks(np.arange(count) * height + (height + 1) / 2, rows)
    if columns:
        ax.set_xticks(np.arange(steps) * width + (width + 1) / 2, columns)
    ax.tick_params(length=0)
    return ax


def reconstructions(
    x: Values,
    reconstruction: Values,
    draws: Values | None = None,
    *,
    n: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """The first `n` data x [N, *event] above their reconstructions, of the same shape.

    `draws` [K, N, *event] add K rows. Data other than images are drawn side by side, as many of
    them as show (about 400 features in all): dots for x, lines for reconstruction and draws.
    """
    data = _array(x, "x", "N ...")
    mean = _array(reconstruction, "reconstruction", "N ...")
    _same("reconstruction", mean, data.shape, "x")
    extra = np.empty((0, *data.shape))
    if draws is not None:
        extra = _array(draws, "draws", "K N ...")
        _same("draws", extra, (len(extra), *data.shape), "x")
    rows = np.concatenate([data[None], mean[None], extra])[:, : max(1, n)]
    if _is_image(data.shape[1:]):
        names = ["data", "reconstruction", *(f"draw {k + 1}" for k in range(len(extra)))]
        return _strips(rows, names, [], ax)
    size = math.prod(data.shape[1:])
    rows = rows[:, : max(1, 400 // size)].reshape(len(rows), -1, size)
    shown = rows.shape[1]
    # a nan after each datum breaks the lines between data
    series = np.pad(rows, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan).reshape(len(rows), -1)
    ax = _axes(ax, 9, 3)
    for k, line in enumerate(series[2:]):
        ax.plot(line, "-_", color=_GREY, lw=0.8, label=None if k else "draws")
    ax.plot(series[1], "-_", color=_ORANGE, lw=1.5, label="reconstruction")
    ax.plot(series[0], "o", color=_BLUE, ms=3.5 if series.shape[1] < 200 else 2, label="data")
    ax.set_xticks(np.arange(shown) * (size + 1) + (size - 1) / 2, [str(i) for i in range(shown)])
    for edge in range(1, shown):
        ax.axvline(edge * (size + 1) - 1, color=str(_PAPER), lw=1, zorder=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
    return _dress(ax, "", f"datum ({size} features each)", "value")


def interpolation(images: Values, *, ax: Axes | None = None) -> Axes:
    """A path from A to B: [steps, *event] in one row, or [rows, steps, *event].

    [n, 1 or 3, H, W] are steps with channels; [n, H, W] from 4 by 4 on are steps, not rows of
    vectors.
    """
    cells = _array(images, "images", "steps ...")
    if cells.ndim <= 2 or _is_image(cells.shape[1:]):
        cells = cells[None]
    steps = cells.shape[1]
    return _strips(cells, [], ["A", *[""] * (steps - 2), "B"] if steps > 1 else ["A"], ax)


def traversal(
    images: Values,
    dims: Values | None = None,
    values: Values | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """One latent coordinate varied per row: [rows, steps, *event].

    Args:
        images: what is decoded.
        dims: the coordinate of each row, [rows]; 0, 1, ... when None.
        values: what the coordinate is set to in each column, [steps].
    """
    cells = _array(images, "images", "rows steps ...")
    rows, steps = cells.shape[:2]
    which = np.arange(rows) if dims is None else _array(dims, "dims", "rows")
    _same("dims", which, (rows,), "the rows of images")
    columns = []
    if values is not None:
        settings = _array(values, "values", "steps")
        _same("values", settings, (steps,), "the steps of images")
        columns = [f"{value + 0.0:.1f}" for value in settings.round(1)]  # + 0.0: no "-0.0"
    return _strips(cells, [f"z{int(k)}" for k in which], columns, ax)


def training_curves(rows: Sequence[Mapping[str, Any]], *, axes: Any = None) -> NDArray[Any]:
    """ELBO, reconstruction and KL by epoch, in nats per datum, in three panels.

    Args:
        rows: per epoch, a mapping with ``epoch``, ``elbo``, ``reconstruction``, ``kl`` and, if
            there were held-out data, ``validation_elbo`` and so on; None and nan are gaps.
        axes: three Axes.

    From 10 epochs on, the first twentieth may leave the view, so that it does not squash the rest.
    """
    terms = {"elbo": "ELBO", "reconstruction": "reconstruction", "kl": "KL"}
    missing = sorted({"epoch", *terms}.difference(*rows)) if rows else ["any row"]
    if missing:
        raise UsageError(
            f"the training curves lack {', '.join(missing)}: give one mapping per epoch with "
            f"epoch, {', '.join(terms)}, as a history's rows are"
        )
    if axes is None:
        import matplotlib.pyplot as plt

        axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")[1]
    panels: NDArray[Any] = np.asarray(axes, dtype=object)
    _same("axes", panels, (3,), "three panels")
    epochs = _array([row["epoch"] for row in rows], "epoch", "epochs")
    skipped = math.ceil(len(rows) / 20) if len(rows) >= 10 else 0
    for ax, (term, title) in zip(panels, terms.items(), strict=True):
        settled = []
        for prefix, colour, label in (("", _BLUE, "train"), ("validation_", _ORANGE, "validation")):
            y = _array([row.get(prefix + term) for row in rows], prefix + term, "epochs")
            seen = np.isfinite(y)
            if seen.any():
                marker = "o" if seen.sum() <= 30 else ""
                ax.plot(epochs[seen], y[seen], color=colour, marker=marker, ms=4, label=label)
            settled.append(y[skipped:][seen[skipped:]])
        kept = np.concatenate(settled)
        if skipped and kept.size and np.ptp(kept) > 0:
            margin = 0.06 * np.ptp(kept)
            ax.set_ylim(kept.min() - margin, kept.max() + margin)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.grid(axis="y", color=str(_PAPER))
        _dress(ax, title, "epoch", "nats per datum")
    if panels[0].lines:
        panels[0].legend(frameon=False)
    return panels


def latent_map(
    codes: Values,
    labels: Values | None = None,
    *,
    dims: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Codes [N, d] in the plane, coloured by label.

    Two coordinates (`dims`, or the only two) are drawn with rings at 1, 2 and 3 standard deviations
    of a standard normal prior; more without `dims` by their principal components; a single one
    spread over the height.

    Args:
        codes: one point per datum, such as posterior means.
        labels: [N]; up to 10 distinct ones have a legend, more a colour bar.
        dims: the two coordinates to draw.
        names: of all d coordinates; z0, z1, ... when None.
        classes: of class i, for labels that are whole numbers.
    """
    points = _array(codes, "codes", "N d")
    (n, d), known = points.shape, [] if names is None else list(names)
    known = known or [f"z{k}" for k in range(d)]
    if len(known) != d:
        raise UsageError(f"{len(known)} names for {d} latent coordinates: give one each")
    if not np.isfinite(points).all():
        raise UsageError("codes hold nan or infinite values and cannot be placed: leave those out")
    if dims is not None and not (len(dims) == 2 and all(-d <= k < d for k in dims)):
        raise UsageError(f"dims={dims} are not two of the {d} latent coordinates: 0 to {d - 1}")
    if d == 2 and dims is None:
        dims = (0, 1)
    ax = _axes(ax, 6.2, 5)
    if dims is not None:
        points = points[:, list(dims)]
        axis_names = [known[k] for k in dims]
        for radius in (1, 2, 3):
            ring = Circle((0, 0), radius, fill=False, ec=_INK, ls=(0, (4, 3)), lw=0.8, zorder=3)
            ax.add_patch(ring)
            note = ax.text(0, -radius, f"{radius} sd", size=7, ha="center", va="center", zorder=4)
            note.set_path_effects(_HALO)
    elif d == 1:
        points = np.column_stack([points, np.arange(n) * 0.618034 % 1])
        axis_names = [known[0], ""]
        ax.set_yticks([])
    else:
        from sklearn.decomposition import PCA

        if n < 2 or not np.ptp(points, axis=0).any():
            raise UsageError(
                "all codes are the same, so they have no principal components: "
                "choose two coordinates with dims=(0, 1)"
            )
        pca = PCA(2).fit(points)
        points = pca.transform(points)
        axis_names = [
            f"component {k + 1} ({share:.0%} of variance)"
            for k, share in enumerate(pca.explained_variance_ratio_)
        ]
    style: dict[str, Any] = {"s": float(np.clip(8000 / n, 4, 30)), "alpha": 0.75, "linewidths": 0}
    if labels is None:
        ax.scatter(*points.T, color=_BLUE, **style)
    else:
        label = _array(labels, "labels", "N")
        _same("labels", label, (n,), "codes")
        _colour(ax, points, label, classes, style)
    if d > 1:
        ax.set_aspect("equal", adjustable="datalim")
    return _dress(ax, "", *axis_names)


def _colour(
    ax: Axes,
    points: Floats,
    label: Floats,
    classes: Sequence[str] | None,
    style: dict[str, Any],
) -> None:
    kinds = np.unique(label)
    if classes is not None and not set(kinds) <= set(range(len(classes))):
        raise UsageError(
            f"labels go from {kinds[0]:g} to {kinds[-1]:g} but there are {len(classes)} classes: "
            f"name all of them, in the order of whole-numbered labels from 0"
        )
    if len(kinds) > len(_CLASSES):
        marks = ax.scatter(*points.T, c=label, cmap="viridis", **style)
        bar = ax.figure.colorbar(marks, ax=ax, label="label")
        if classes is not None:
            bar.set_ticks(range(len(classes)), labels=list(classes))
        return
    # a class keeps its colour where others are absent
    fixed = set(kinds) <= set(range(len(_CLASSES)))
    for position, kind in enumerate(kinds):
        colour = _CLASSES[int(kind) if fixed else position]
        name = f"{kind:g}" if classes is None else classes[int(kind)]
        ax.scatter(*points[label == kind].T, color=colour, label=name, **style)
    legend = ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for handle in legend.legend_handles:
        cast(Any, handle).set(sizes=[40], alpha=1)


def kl_bars(kl: Values, *, active: Values | None = None, ax: Axes | None = None) -> Axes:
    """KL divergence from the prior per latent dimension, [d] in nats, the largest first.

    `active` (bool [d]) greys the other dimensions.

    >>> kl_bars([0.1, 2.0, 1.0], active=[False, True, True]).get_title()
    '2 of 3 latent dimensions active'
    """
    heights = _array(kl, "kl", "d")
    order = np.argsort(-heights)
    d = len(order)
    on = np.ones(d, bool) if active is None else _array(active, "active", "d").astype(bool)
    _same("active", on, (d,), "kl")
    ax = _axes(ax, float(np.clip(0.2 * d + 1.5, 4.5, 12)), 3.2)
    for mask, colour, label in ((on, _BLUE, "active"), (~on, _GREY, "inactive")):
        at = np.flatnonzero(mask[order])
        if at.size:
            ax.bar(at, heights[order][at], color=colour, label=label)
    every = math.ceil(d / 50)
    ax.set_xticks(range(0, d, every), [str(k) for k in order[::every]], size=9 if d <= 20 else 7)
    if active is not None:
        ax.legend(frameon=False)
    title = "KL per latent dimension" if active is None else f"{on.sum()} of {d} latent dimensions"
    return _dress(ax, title + (" active" if active is not None else ""), "latent dimension", "nats")


def gap_bars(
    elbo: Values,
    log_evidence: Values,
    approximation: Values,
    amortisation: Values,
    *,
    ax: Axes | None = None,
) -> Axes:
    """What the ELBO lacks: log p(x) = ELBO + amortisation gap + approximation gap.

    Numbers, or one per datum [n], of which 20 are drawn; all in nats. Bars begin at the datum's
    ELBO, which its label gives; the line marks log p(x), where they should end.
    """
    given = {
        "elbo": elbo,
        "log_evidence": log_evidence,
        "approximation": approximation,
        "amortisation": amortisation,
    }
    arrays = [np.atleast_1d(_array(value, name, "", "n")) for name, value in given.items()]
    for name, array in zip(given, arrays, strict=True):
        _same(name, array, arrays[0].shape, "elbo")
    base, evidence, family, encoder = (array[:20] for array in arrays)
    at = np.arange(len(base))
    ax = _axes(ax, 6.5, 1.6 + 0.24 * len(base))
    gaps = (
        (encoder, 0 * encoder, _ORANGE, "amortisation gap"),
        (family, encoder, _BLUE, "approximation gap"),
    )
    for width, left, colour, name in gaps:
        ax.barh(at, width, 0.7, left, color=colour, label=f"{name} (mean {width.mean():.2f})")
    ax.plot(evidence - base, at, "|", color=_INK, ms=14, mew=2, label="log p(x)")
    prefix = [f"datum {i}, " if len(base) > 1 else "" for i in at]
    ax.set_yticks(at, [f"{p}ELBO {b:.1f}" for p, b in zip(prefix, base, strict=True)])
    ax.set_ylim(len(base) - 0.4, -0.6)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
    return _dress(ax, "", "nats above the ELBO", "")


def khat(values: Values, *, ax: Axes | None = None) -> Axes:
    """Pareto k-hat per datum, [N], sorted: how far importance-sampled estimates can be trusted.

    Up to 0.5 they are good, up to 0.7 usable, from 1 on their mean need not exist. Values that are
    not finite count as above 0.7.
    """
    k = np.sort(_array(values, "values", "N"))
    share = (np.arange(len(k)) + 0.5) / len(k)
    ax = _axes(ax, 6, 3.5)
    for low, high, colour in ((-np.inf, 0.5, _BLUE), (0.5, 0.7, _GREEN), (0.7, np.inf, _ORANGE)):
        zone = (k > low) & (k <= high) & np.isfinite(k)
        ax.plot(share[zone], k[zone], ".", color=colour, ms=5)
    for threshold, name in ((0.5, "good below"), (0.7, "usable below"), (1.0, "no mean above")):
        ax.axhline(threshold, color=_INK, lw=0.8, ls=(0, (4, 3)))
        ax.text(0.01, threshold, f"{threshold}: {name}", size=8, va="bottom", path_effects=_HALO)
    ax.set_xlim(0, 1)
    bad = np.mean(~(k <= 0.7))
    return _dress(ax, f"{bad:.1%} of {len(k)} data above 0.7", "share of data", "Pareto k-hat")


def ranks(ranks: Values, draws: int, *, alpha: float = 0.01, ax: Axes | None = None) -> Axes:
    """Simulation-based calibration: how the ranks' distribution differs from a uniform one.

    Args:
        ranks: int [simulations, d] or [simulations], the true latent's rank, 0 to `draws`, among
            its posterior draws.
        draws: the number of posterior draws.
        alpha: the chance, at most, that any line of a calibrated posterior leaves the band
            (Dvoretzky-Kiefer-Wolfowitz, shared out over the d lines).
    """
    table = _array(ranks, "ranks", "simulations d", "simulations")
    table = np.sort(table.reshape(len(table), -1), axis=0)
    if not (table.min() >= 0 and table.max() <= draws):
        raise UsageError(
            f"ranks go from {table.min():g} to {table.max():g}, outside 0 to draws={draws}: a rank "
            f"counts the posterior draws below the truth"
        )
    count, d = table.shape
    grid = np.arange(draws + 1)
    band = math.sqrt(math.log(2 * d / alpha) / (2 * count))
    ax = _axes(ax, 6, 3.5)
    ax.fill_between([0, 1], -band, band, color=str(_PAPER), label=f"uniform, {1 - alpha:.0%} band")
    outside = 0
    for k in range(d):
        difference = np.searchsorted(table[:, k], grid, "right") / count - (grid + 1) / (draws + 1)
        out = np.abs(difference).max() > band
        outside += out
        colour, label = (_ORANGE, f"z{k}") if out else (_BLUE, None)
        ax.plot(grid / draws, difference, color=colour, lw=1.2, label=label)
    ax.legend(frameon=False, ncols=-(-(outside + 1) // 6), loc="center left", bbox_to_anchor=(1, 1))
    title = f"{outside} of {d} dimensions leave the band of uniform ranks"
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
    share = min(np.sum(replicas >= truth), np.sum(replicas <= truth)) + 1
    tail = min(1.0, 2 * share / (len(replicas) + 1))
    ax = _axes(ax, 6, 3.2)
    ax.hist(replicas, bins="auto", color=_BLUE, edgecolor="white", label="replicated")
    ax.axvline(truth, color=_ORANGE, lw=2.5, label="observed")
    ax.legend(frameon=False)
    title = f"{name}: two-sided tail probability {tail:.2g}"
    return _dress(ax, title, name, "replications")


def rate_distortion(
    rate: Values,
    distortion: Values,
    *,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Models by rate (KL) and distortion (minus reconstruction), [n] each, in nats per datum.

    On each grey line the negative ELBO, their sum, is the same. `labels` [n] name the models.
    """
    x, y = _array(rate, "rate", "n"), _array(distortion, "distortion", "n")
    _same("distortion", y, x.shape, "rate")
    if labels is not None and len(labels) != len(x):
        raise UsageError(f"{len(labels)} labels for {len(x)} models: give one each")
    ax = _axes(ax, 5.5, 4)
    order = np.argsort(x)
    ax.plot(x[order], y[order], "-o", color=_BLUE, lw=1)
    ax.margins(0.15)
    for label, *at in zip(labels or [], x, y, strict=False):
        ax.annotate(str(label), at, (6, 4), textcoords="offset points", path_effects=_HALO)
    across, up = np.meshgrid(np.linspace(*ax.get_xlim(), 50), np.linspace(*ax.get_ylim(), 50))
    lines = ax.contour(across, up, across + up, 6, colors=_GREY, linewidths=0.8, zorder=0)
    ax.clabel(lines, fmt="%g", fontsize=7)
    return _dress(ax, "grey: equal negative ELBO", "rate (nats)", "distortion (nats)")


def save(axes: Axes | NDArray[Any], path: str | Path) -> Path:
    """Write the figure of `axes` (one, or an array of them) as a PNG, 120 dots per inch.

    The figure is closed, and missing folders are made.
    """
    import matplotlib.pyplot as plt

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"figures are saved as PNG, but the file is {path.name!r}: name it .png")
    figure = cast(Any, np.asarray(axes, dtype=object).flat[0]).get_figure(root=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return path
