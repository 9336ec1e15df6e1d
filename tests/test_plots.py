"""Plots: what is drawn where, on which axes, and which arguments are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.patches import Circle, FancyArrowPatch

import pyrovae as pv
from pyrovae import plots
from pyrovae.data import UsageError
from pyrovae.schema import Column, Schema

matplotlib.use("Agg")  # no screen is needed
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """No test leaves settings changed; figures of its own are closed."""
    before = dict(matplotlib.rcParams)
    yield
    plt.close("all")
    assert dict(matplotlib.rcParams) == before


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def epochs(n: int, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "elbo": -90 - 500 / i**3, "reconstruction": -70 - 500 / i**3, "kl": 20.0 + i}
        | extra
        for i in range(1, n + 1)
    ]


def drawn(ax: Axes) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(ax.images[0].get_array()), np.nan)


def bars(ax: Axes) -> list[Any]:
    """The bars of an upright chart, from left to right."""
    return sorted(ax.patches, key=lambda bar: cast(Any, bar).get_x())


def xy(line: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def ticks(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def _sketch() -> Any:
    return pv.sketch(pv.VAE((1, 4, 4), 2), random(5, 1, 4, 4).round())


def sandwiches() -> list[pv.Sandwich]:
    return [
        pv.Sandwich(torch.zeros(3), random(3) / t, pv.Annealing(temperatures=t)) for t in (20, 10)
    ]


CALLS: dict[str, Callable[..., Axes]] = {
    "image_grid": lambda ax: plots.image_grid(random(3, 1, 5, 5), ax=ax),
    "data_grid images": lambda ax: plots.data_grid(random(3, 5, 5), ax=ax),
    "data_grid volumes": lambda ax: plots.data_grid(random(9, 1, 3, 3, 3), ax=ax),
    "strips": lambda ax: plots.strips(random(2, 3, 1, 5, 5), ax=ax),
    "strips volumes": lambda ax: plots.strips(random(2, 3, 1, 3, 3, 3), ax=ax),
    "reconstructions": lambda ax: plots.reconstructions(
        random(3, 1, 5, 5), random(3, 1, 5, 5), ax=ax
    ),
    "interpolation": lambda ax: plots.interpolation(random(3, 1, 5, 5), ax=ax),
    "traversal": lambda ax: plots.traversal(random(2, 3, 1, 5, 5), ax=ax),
    "latent_map": lambda ax: plots.latent_map(random(9, 2), torch.arange(9) % 3, ax=ax),
    "latent_map pca": lambda ax: plots.latent_map(random(9, 5), ax=ax),
    "latent_map single": lambda ax: plots.latent_map(random(9, 1), ax=ax),
    "latent_map bar": lambda ax: plots.latent_map(random(20, 2), torch.arange(20), ax=ax),
    "kl_bars": lambda ax: plots.kl_bars(random(4), ax=ax),
    "gap_bars": lambda ax: plots.gap_bars(-9.0, -7.0, 0.5, 1.5, ax=ax),
    "graph": lambda ax: plots.graph(_sketch(), ax=ax),
    "shapes": lambda ax: plots.shapes(_sketch(), ax=ax),
    "khat": lambda ax: plots.khat(random(9), ax=ax),
    "sandwich": lambda ax: plots.sandwich(sandwiches(), ax=ax),
    "ranks": lambda ax: plots.ranks([1, 5, 3], 9, ax=ax),
    "intervals": lambda ax: plots.intervals([0, 1, 2], [0, 1, 5], [-1, 0, 4], [1, 2, 6], ax=ax),
    "predictive_check": lambda ax: plots.predictive_check(0.5, random(9), ax=ax),
    "rate_distortion": lambda ax: plots.rate_distortion([1.0, 2.0], [9.0, 5.0], ax=ax),
}


@pytest.mark.parametrize("name", CALLS)
def test_axes_given_are_drawn_on_and_returned_else_new_ones_are(name: str) -> None:
    figure, (ax, untouched) = plt.subplots(1, 2)
    assert CALLS[name](ax) is ax
    assert ax.has_data() and not untouched.has_data()
    assert plt.get_fignums() == [figure.number]
    own = CALLS[name](None)
    assert own.figure is not figure and len(plt.get_fignums()) == 2
    own.figure.canvas.draw()


def test_every_public_function_is_tried() -> None:
    public = {n for n, f in vars(plots).items() if getattr(f, "__module__", "") == plots.__name__}
    tried = {name.split()[0] for name in CALLS} | {"save", "training_curves", "parts"}
    tried |= {"forecasts", "top_words"}
    assert {name for name in public if not name.startswith("_")} == tried


def test_image_grid_puts_each_image_in_its_place() -> None:
    images = random(5, 1, 4, 6)
    grid = drawn(plots.image_grid(images, nrow=3, padding=2))
    assert grid.shape == (2 * (4 + 2) + 2, 3 * (6 + 2) + 2)
    seen = np.zeros(grid.shape, bool)
    for i, image in enumerate(images[:, 0]):
        top, left = 2 + (i // 3) * 6, 2 + (i % 3) * 8
        np.testing.assert_allclose(grid[top : top + 4, left : left + 6], image)
        seen[top : top + 4, left : left + 6] = True
    assert np.isnan(grid[~seen]).all()  # the padding, and where a sixth image would be


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_image_grid_is_laid_out_as_torchvision_does(padding: int) -> None:
    utils = pytest.importorskip("torchvision.utils")
    images = random(7, 3, 4, 5)
    ours = drawn(plots.image_grid(images, nrow=4, padding=padding))
    theirs = utils.make_grid(images, nrow=4, padding=padding, pad_value=plots.PAPER)
    np.testing.assert_allclose(ours, theirs.permute(1, 2, 0), atol=1e-6)


def test_image_grid_accepts_images_without_channels_and_other_dtypes() -> None:
    grey = random(4, 5, 5)
    expected = drawn(plots.image_grid(grey[:, None]))
    np.testing.assert_array_equal(drawn(plots.image_grid(grey)), expected)
    np.testing.assert_array_equal(drawn(plots.image_grid(grey.numpy())), expected)
    np.testing.assert_array_equal(drawn(plots.image_grid(grey.requires_grad_())), expected)
    half = drawn(plots.image_grid(grey.bfloat16()))
    np.testing.assert_allclose(half, expected, atol=0.01)
    plots.image_grid(grey > 0.5)


@pytest.mark.parametrize(
    ("scale", "value_range", "limits"),
    [(0.5, None, (0, 1)), (16.0, None, None), (1.0, (-1.0, 3.0), (-1, 3))],
)
def test_image_grid_range(scale: float, value_range: Any, limits: Any) -> None:
    images = random(4, 1, 5, 5) * scale
    clim = plots.image_grid(images, value_range=value_range).images[0].get_clim()
    assert clim == pytest.approx(limits or (images.min().item(), images.max().item()))


def test_colour_images_are_rescaled_to_their_range() -> None:
    images = random(2, 3, 4, 4) * 255
    grid = drawn(plots.image_grid(images, padding=0, value_range=(0, 255)))
    np.testing.assert_allclose(grid[:, :4], images[0].permute(1, 2, 0) / 255, atol=1e-6)


def test_data_grid_chooses_by_the_kind_of_data() -> None:
    assert drawn(plots.data_grid(random(3, 1, 8, 8), nrow=2)).shape == (22, 22)
    assert drawn(plots.data_grid(random(7, 2, 8, 8))).shape == (7, 128)  # two channels
    assert drawn(plots.data_grid(random(7, 1, 3, 3, 3))).shape == (7, 27)  # volumes
    assert len(plots.data_grid(random(7, 3))) == 3  # a table
    assert len(plots.data_grid(random(7, 20, 2))) == 2  # series
    far = torch.cat([random(49), torch.tensor([1e12, float("nan"), float("inf")])])
    for numbers in (random(50, 1), random(50), far):
        (panel,) = plots.data_grid(numbers)
        assert sum(bar.get_height() for bar in bars(panel)) == pytest.approx(1)


def test_reconstructions_put_data_above_means_above_draws() -> None:
    x, mean, draws = random(6, 1, 5, 5), random(6, 1, 5, 5, seed=1), random(2, 6, 1, 5, 5, seed=2)
    ax = plots.reconstructions(x, mean, draws, n=4)
    grid = drawn(ax)
    assert grid.shape == (4 * 7 + 2, 4 * 7 + 2)
    for row, images in enumerate([x, mean, *draws]):
        for column in range(4):
            top, left = 2 + 7 * row, 2 + 7 * column
            np.testing.assert_allclose(
                grid[top : top + 5, left : left + 5], images[column, 0], atol=1e-6
            )
    assert ticks(ax.yaxis) == ["data", "reconstruction", "draw 1", "draw 2"]
    np.testing.assert_allclose(ax.get_yticks(), [4, 11, 18, 25])  # the middle of each row


def test_training_curves_draw_what_there_is() -> None:
    rows = epochs(4)
    for row, value in zip(rows, (-99.0, None, float("nan"), -95.0), strict=True):
        row["validation_elbo"] = value
    panels = plots.training_curves(rows)
    train, validation = panels[0].lines
    assert train.get_ydata().tolist() == [row["elbo"] for row in rows]
    assert validation.get_xdata().tolist() == [1, 4]
    assert validation.get_ydata().tolist() == [-99, -95]
    assert [len(ax.lines) for ax in panels] == [2, 1, 1]
    assert all("nats" in ax.get_title() for ax in panels)


def test_training_curves_are_not_squashed_by_the_first_epoch() -> None:
    low, high = plots.training_curves(epochs(40))[0].get_ylim()
    settled = [row["elbo"] for row in epochs(40)[2:]]
    assert epochs(1)[0]["elbo"] < low < min(settled) and max(settled) < high
    assert plots.training_curves(epochs(5))[0].get_ylim()[0] < epochs(1)[0]["elbo"]


def test_training_curves_of_one_epoch_show_a_mark() -> None:
    for ax in plots.training_curves(epochs(1, validation_elbo=None)):
        (line,) = ax.lines
        assert line.get_marker() == "o"
    nothing = [dict.fromkeys(("elbo", "reconstruction", "kl"), float("nan")) | {"epoch": 1}]
    assert not plots.training_curves(nothing * 12)[0].lines


def test_training_curves_use_the_panels_given() -> None:
    given = plt.subplots(1, 3)[1]
    assert list(plots.training_curves(epochs(3), axes=given)) == list(given)
    assert list(plots.training_curves(epochs(3), axes=list(given))) == list(given)
    assert len(plt.get_fignums()) == 1


def test_interpolation_and_traversal_label_their_cells() -> None:
    ax = plots.interpolation(random(4, 1, 5, 5))
    assert ticks(ax.xaxis) == ["A", "", "", "B"]
    np.testing.assert_allclose(ax.get_xticks(), [4, 11, 18, 25])
    assert drawn(plots.interpolation(random(3, 4, 1, 5, 5))).shape == (23, 30)
    assert drawn(plots.interpolation(random(6, 5, 5))).shape == (9, 44)  # steps, not rows
    assert ticks(plots.interpolation(random(1, 1, 5, 5)).xaxis) == ["A"]
    ax = plots.traversal(random(2, 3, 1, 5, 5), [7, 2], torch.tensor([-2.0, -0.01, 2.0]))
    assert ticks(ax.yaxis) == ["z7", "z2"]
    assert ticks(ax.xaxis) == ["-2.0", "0.0", "2.0"]


MIXED = Schema(
    (
        Column("island", "category", "str", ("Biscoe", "Dream", "Torgersen")),
        Column("male", "boolean", "bool", (False, True)),
        Column("mass", "positive", "float64", unit="g"),
        Column("eggs", "count", "int64"),
        Column("day", "date", "datetime64[us]", unit="D", origin="2007-11-11"),
        Column("bill", "real", "float64", unit="mm"),
    )
)


def table(n: int = 200, seed: int = 0) -> torch.Tensor:
    """Rows of MIXED, some entries missing."""
    dice = np.random.default_rng(seed)
    columns = [dice.choice(3, n, p=[0.5, 0.3, 0.2]), dice.integers(0, 2, n)]
    columns += [dice.normal(4200, 800, n), dice.poisson(1.5, n), dice.integers(0, 800, n)]
    x = np.stack([*columns, dice.normal(44, 5, n)], 1)
    x[dice.random(x.shape) < 0.03] = np.nan
    return torch.tensor(x)


def wording(panels: Any) -> set[str]:
    """All that is written in the figure of some panels."""
    figure = np.ravel(panels)[0].figure
    figure.canvas.draw()
    texts = figure.findobj(matplotlib.text.Text)
    return {text.get_text() for text in texts if text.get_visible() and text.get_text()}


SERIES = Schema((Column("warmth", "real", "float64", unit="K"), Column("rain", "real", "float64")))
TABLES: dict[str, Callable[[], Any]] = {
    "data": lambda: plots.data_grid(table(), schema=MIXED),
    "samples": lambda: plots.data_grid(table(seed=1), schema=MIXED, data=table()),
    "reconstructions": lambda: plots.reconstructions(
        table(), table(), table()[None].repeat(2, 1, 1), schema=MIXED
    ),
    "interpolation": lambda: plots.interpolation(table(8), schema=MIXED),
    "interpolations": lambda: plots.interpolation(table(24).reshape(3, 8, 6), schema=MIXED),
    "traversal": lambda: plots.traversal(table(24).reshape(3, 8, 6), schema=MIXED),
    "strips": lambda: plots.strips(table(24).reshape(3, 8, 6), list("abc"), schema=MIXED),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_a_named_panel_per_column(name: str) -> None:
    panels = TABLES[name]()
    written = wording(panels)
    assert len(panels) == 6 and panels[0].figure.get_figwidth() <= 10
    for panel, column in zip(panels, MIXED.names, strict=True):
        assert panel.get_title().startswith(column)
    assert {"Biscoe", "Dream", "Torgersen", "False", "True"} <= written
    assert any("mm" in text for text in written) and any("g" in text for text in written)
    assert any(re.search("20(07|08|09|10)", text) for text in written)  # days as dates


@pytest.mark.parametrize("name", TABLES)
def test_no_line_joins_unlike_columns(name: str) -> None:
    """Each value that is drawn lies in the panel of its own column, on its own scale."""
    ends = [(0, 2), (0, 1), (500, 8000), (0, 20), (13828, 14628), (20, 70)]
    for panel, (low, high) in zip(TABLES[name](), ends, strict=True):
        for line in panel.lines:
            y = xy(line)[1]
            y = y[np.isfinite(y)]
            assert ((y >= low) & (y <= high)).all()


def test_categories_are_bars_of_their_shares() -> None:
    x, other = table(), table(seed=1)
    island = plots.data_grid(other, schema=MIXED, data=x)[0]
    assert not island.lines and ticks(island.yaxis) == ["Biscoe", "Dream", "Torgersen"]
    for container, values in zip(island.containers, (x, other), strict=True):
        known = values[:, 0][~values[:, 0].isnan()]
        shares = [(known == level).double().mean() for level in range(3)]
        np.testing.assert_allclose([bar.get_width() for bar in container], shares)
    assert {"data", "samples"} <= wording([island])
    places = [str(k) for k in range(40)]
    codes = torch.arange(40).repeat_interleave(torch.arange(40))[:, None]  # the last one most often
    column = Column("town", "category", "str", tuple(places))
    (many,) = plots.data_grid(codes, schema=Schema((column,)))
    assert many.get_title() == "town: 8 of 40" and ticks(many.yaxis) == places[:31:-1]


def test_reconstructed_categories_say_how_many_are_right() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [1.0], [torch.nan]])
    schema = Schema(MIXED.columns[:1])
    (panel,) = plots.reconstructions(x, torch.tensor([[0.0], [1], [1], [1], [2]]), schema=schema)
    assert panel.get_title() == "island (75% right)"


def test_reconstructed_numbers_stand_over_their_values() -> None:
    x, mean = table(), table(seed=1)
    panel = plots.reconstructions(x, mean, schema=MIXED)[2]
    dots, diagonal = panel.lines
    known = ~(x[:, 2] + mean[:, 2]).isnan()
    np.testing.assert_allclose(xy(dots)[0], x[known, 2])
    np.testing.assert_allclose(xy(dots)[1], mean[known, 2])
    np.testing.assert_array_equal(*xy(diagonal))


def test_bars_of_numbers_are_shares_of_both() -> None:
    x, other = table(), table(seed=1)
    other[0, 2] = 1e9  # one far out neither empties the view nor is lost
    mass, eggs = plots.data_grid(other, schema=MIXED, data=x)[2:4]
    assert mass.get_xlim()[1] < 20_000
    assert sum(bar.get_height() for bar in mass.containers[0]) == pytest.approx(1)
    heights = mass.patches[-1].get_path().vertices[:, 1]  # the outline's; each level is there twice
    assert heights[1:-1:2].sum() == pytest.approx(1)
    middles = [bar.get_x() + bar.get_width() / 2 for bar in eggs.containers[0]]
    np.testing.assert_allclose(middles, np.arange(len(middles)))  # whole numbers
    rain = Schema((Column("rain", "positive", "float64"),))
    sizes = 10 ** torch.linspace(-2, 4, 50)[:, None]
    assert plots.data_grid(sizes, schema=rain)[0].get_xscale() == "log"
    assert plots.data_grid(sizes + 1e4, schema=rain)[0].get_xscale() == "linear"


def test_dates_far_from_any_calendar_are_still_drawn() -> None:
    x = torch.tensor([[0.0], [1e12], [-1e12]])
    wording(plots.data_grid(x, schema=Schema(MIXED.columns[4:5])))
    seconds = Column("at", "date", "datetime64[us]", unit="s", origin="2026-01-01T00:00:00")
    (panel,) = plots.data_grid(86_400.0 * torch.arange(90)[:, None], schema=Schema((seconds,)))
    assert any(month in " ".join(wording([panel])) for month in ("Feb", "2026-02"))


def test_many_columns_are_said_not_drawn() -> None:
    panels = plots.data_grid(random(9, 30))
    assert len(panels) == 24 and panels[23].get_title() == "column 24"
    assert "the first 24 of 30 columns" in wording(panels)
    lines = plots.traversal(random(12, 3, 2))
    assert len(lines[0].lines) == 10 and "the first 10 of 12 rows" in wording(lines)


def test_panels_stand_in_the_place_of_axes_given() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 6), layout="constrained")
    panels = plots.data_grid(table(), schema=MIXED, ax=left)
    figure.canvas.draw()
    edge = right.get_position().x0
    assert all(panel.figure is figure for panel in panels) and len(plt.get_fignums()) == 1
    assert all(panel.get_position().x1 < edge for panel in panels) and not left.axison


def test_series_are_drawn_over_time_a_panel_per_column() -> None:
    x, mean = random(9, 20, 2), random(9, 20, 2, seed=1)
    warmth, rain = plots.data_grid(mean, schema=SERIES, data=x)
    assert (warmth.get_title(), warmth.get_xlabel(), warmth.get_ylabel()) == ("warmth", "step", "K")
    np.testing.assert_allclose(xy(rain.lines[0]), [np.arange(1, 21), x[0, :, 1]])
    panels = plots.reconstructions(x, mean, mean[None], n=4, schema=SERIES)
    assert [panel.get_title() for panel in panels[:3]] == [
        "warmth, series 1",
        "rain, series 1",
        "warmth, series 2",
    ]
    lines = {line.get_label(): line for line in panels[3].lines}
    np.testing.assert_allclose(xy(lines["data"])[1], x[1, :, 1])
    np.testing.assert_allclose(xy(lines["reconstruction"])[1], mean[1, :, 1])
    paths = plots.traversal(random(3, 5, 20, 2), [4, 0, 2], np.linspace(-2, 2, 5), schema=SERIES)
    assert paths.shape == (6,) and paths[2].get_title() == "warmth, z0"
    assert {"-2.0", "2.0"} <= wording(paths)


def test_series_of_many_named_columns_are_no_images() -> None:
    schema = Schema.unnamed(5)
    assert len(plots.data_grid(random(7, 20, 5), schema=schema)) == 5
    assert plots.data_grid(random(7, 20, 5)).images


def test_rows_of_a_table_are_no_steps_of_images() -> None:
    paths = random(2, 8, 5)  # [rows, steps, columns], and it could be [steps, height, width]
    assert plots.interpolation(paths).images
    assert len(plots.interpolation(paths, event_dim=1)) == 5
    (line, _) = plots.interpolation(paths, event_dim=1)[3].lines
    np.testing.assert_allclose(xy(line)[1], paths[0, :, 3])


def test_the_parts_of_a_table_change_named_columns() -> None:
    pictures = torch.zeros(2, 3, 6)
    pictures[0, 1, 2], pictures[0, 2, 2], pictures[1, 0, 0] = 500.0, -250.0, 2.0
    above, below = plots.parts(pictures, random(4, 3), list("abcd"), schema=MIXED)
    assert ticks(above.yaxis) == list(MIXED.names) and above.get_xlim() == below.get_xlim()
    np.testing.assert_allclose(drawn(above)[2], [0, 1, -0.5])
    np.testing.assert_allclose(drawn(above)[0], [1, 0, 0])  # another level


def points(ax: Axes) -> list[PathCollection]:
    return [c for c in ax.collections if isinstance(c, PathCollection)]


def test_latent_map_of_coordinates_has_rings() -> None:
    codes = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    ax = plots.latent_map(codes, dims=(2, 0), names=["a", "b", "c"])
    np.testing.assert_allclose(np.asarray(points(ax)[0].get_offsets()), codes[:, [2, 0]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")
    rings = [patch for patch in ax.patches if isinstance(patch, Circle)]
    assert [ring.radius for ring in rings] == [1, 2, 3]
    assert ax.get_aspect() == 1
    assert plots.latent_map(codes[:, :2]).get_xlabel() == "z0"


def test_latent_map_of_many_coordinates_shows_their_main_components() -> None:
    spread = torch.tensor([0.1, 3.0, 0.1, 1.0])
    codes = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * spread
    ax = plots.latent_map(codes)
    across = np.asarray(points(ax)[0].get_offsets())[:, 0]
    assert abs(np.corrcoef(across, codes[:, 1])[0, 1]) > 0.99
    share = int(ax.get_xlabel().split("(")[1].split("%")[0])
    assert share == pytest.approx(90, abs=3)
    assert not ax.patches  # the rings would not be the prior's


def test_latent_map_colours_each_class_the_same_wherever_it_is() -> None:
    codes, labels = random(60, 2), torch.arange(60) % 10
    every = plots.latent_map(codes, labels, classes=[f"digit {i}" for i in range(10)])
    colours = {c.get_label(): tuple(c.get_facecolor()[0]) for c in points(every)}
    assert len(set(colours.values())) == 10
    legend = every.get_legend()
    assert legend and [t.get_text() for t in legend.get_texts()] == list(colours)
    chosen = labels >= 7
    for group in points(plots.latent_map(codes[chosen], labels[chosen])):
        assert tuple(group.get_facecolor()[0]) == colours[f"digit {group.get_label()}"]
    many = plots.latent_map(codes, torch.arange(60))
    assert many.get_legend() is None and len(many.figure.axes) == 2  # a colour bar


def test_kl_bars_are_sorted_and_say_which_dimension() -> None:
    kl = torch.tensor([0.01, 3.0, 0.5, 0.02, 1.5])
    ax = plots.kl_bars(kl, active=kl > 0.1)
    heights = [bar.get_height() for bar in bars(ax)]
    assert heights == sorted(kl.tolist(), reverse=True)
    assert ticks(ax.xaxis) == ["1", "4", "2", "3", "0"]
    colours = [bar.get_facecolor() for bar in bars(ax)]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1 and colours[0] != colours[3]
    assert ax.get_title().startswith("3 of 5")
    assert len({bar.get_facecolor() for bar in plots.kl_bars(kl).patches}) == 1
    assert len(ticks(plots.kl_bars(random(200)).xaxis)) <= 50


def test_what_the_key_of_kl_bars_names_can_be_seen_however_low_the_bars() -> None:
    ax = plots.kl_bars([2.0, 0.0, 1.0, 0.0], active=[True, False, True, False])
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"active", "inactive"}
    (crosses,) = ax.lines
    assert crosses.get_marker() == "x" and list(crosses.get_xdata()) == [2, 3]
    assert not plots.kl_bars([2.0, 1.0], active=[True, True]).lines


def test_figures_say_what_they_show() -> None:
    assert plots.interpolation(random(4, 1, 5, 5)).get_title() == "from A to B in 4 steps"
    assert plots.latent_map(random(9, 2)).get_title() == "codes of 9 data"
    ax = plt.subplots()[1]
    ax.set_title("mine")
    assert plots.strips(random(2, 3, 1, 5, 5), ax=ax).get_title() == "mine"


def test_gap_bars_end_at_the_evidence() -> None:
    family, encoder = random(30), random(30, seed=1)
    elbo = -90 - random(30, seed=2)
    ax = plots.gap_bars(elbo, elbo + family + encoder, family, encoder)
    assert len(ax.patches) == 40  # two for each of 20
    ends = [bar.get_x() + bar.get_width() for bar in cast(list[Any], ax.patches[20:])]
    np.testing.assert_allclose(ends, xy(ax.lines[0])[0], atol=1e-4)
    assert ticks(ax.yaxis)[3] == f"datum 3, ELBO {elbo[3]:.1f}"
    labels = ax.get_legend_handles_labels()[1]
    assert f"amortisation gap, mean {encoder.mean():.2f}" in labels  # of all 30
    assert ticks(plots.gap_bars(-9.0, -7.0, 0.5, 1.5).yaxis) == ["ELBO -9.0"]


def test_widths_are_drawn_in_the_order_of_temperatures() -> None:
    found = sandwiches()
    ax = plots.sandwich(found)
    assert ticks(ax.xaxis) == ["10", "20"]
    drawn = ax.lines[0].get_ydata(orig=False)
    np.testing.assert_allclose(drawn, [found[1].width, found[0].width])
    with pytest.raises(pv.UsageError, match="nothing to draw"):
        plots.sandwich([])


def test_khat_tells_the_share_above_the_threshold() -> None:
    ax = plots.khat([0.1, 0.6, 0.7, 0.71, 1.3, float("inf"), float("nan"), -0.2])
    assert ax.get_title() == "50.0% of 8 data above 0.7"
    shown = [xy(line)[1].tolist() for line in ax.lines]
    assert shown == [[-0.2, 0.1], [0.6, 0.7], [0.71, 1.3], [0.5, 0.5], [0.7, 0.7], [1.0, 1.0]]


def test_ranks_tell_uniform_from_not() -> None:
    generator = np.random.default_rng(0)
    uniform = generator.integers(0, 100, size=(500, 4))
    ax = plots.ranks(uniform, 99)
    assert ax.get_title().startswith("4 of 4 dimensions within the 99% band")
    narrow = generator.binomial(99, generator.beta(2, 2, size=500))
    biased = generator.binomial(99, generator.beta(1.5, 1, size=500))
    table = np.column_stack([uniform[:, 0], narrow, biased])
    assert plots.ranks(table, 99).get_title().endswith("outside: z1, z2")


def test_the_band_of_ranks_is_seldom_left_by_uniform_ones() -> None:
    generator, left = np.random.default_rng(1), 0
    ax = plt.subplots()[1]
    for _ in range(60):
        ax.clear()
        plots.ranks(generator.integers(0, 20, size=(100, 3)), 19, alpha=0.1, ax=ax)
        left += "outside" in ax.get_title()
    assert left <= 13  # at most 6 are expected


def test_ranks_lines_are_the_difference_of_distributions() -> None:
    (line,) = plots.ranks(torch.tensor([0, 0, 1, 3]), 3).lines
    x, y = xy(line)
    np.testing.assert_allclose(x, np.arange(4) / 3)
    np.testing.assert_allclose(y, np.array([0.25, 0.25, 0.0, 0.0]))


@pytest.mark.parametrize(("observed", "tail"), [(-1.0, "0.02"), (49.5, "1"), (1000.0, "0.02")])
def test_predictive_check_has_a_two_sided_tail(observed: float, tail: str) -> None:
    ax = plots.predictive_check(torch.tensor(observed), torch.arange(100), name="sum")
    assert ax.get_title() == f"sum: two-sided tail probability {tail}"
    assert xy(ax.lines[0])[0][0] == observed
    assert sum(bar.get_height() for bar in bars(ax)) == 100


def test_rate_distortion_is_in_order_of_rate() -> None:
    ax = plots.rate_distortion([20.0, 5.0, 10.0], [70.0, 110.0, 90.0], labels=["a", "b", "c"])
    x, y = xy(ax.lines[0])
    assert (x.tolist(), y.tolist()) == ([5, 10, 20], [110, 90, 70])
    places = {text.get_text(): getattr(text, "xy", None) for text in ax.texts}
    assert places["a"] == (20, 70) and places["b"] == (5, 110)


def test_save_writes_a_png_and_closes_the_figure(tmp_path: Path) -> None:
    path = plots.save(plots.kl_bars([1.0, 2.0]), tmp_path / "a" / "b" / "kl.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    dots = plt.imread(path).shape[1]
    assert dots == pytest.approx(4.5 * 120, rel=0.1)
    plots.save(plots.training_curves(epochs(2)), str(tmp_path / "curves.png"))
    assert plt.get_fignums() == []
    with pytest.raises(UsageError, match=r"PNG.*'kl\.pdf'.*name it \.png"):
        plots.save(plots.khat([0.1]), tmp_path / "kl.pdf")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "rank of images": (
        lambda: plots.image_grid(random(5, 5)),
        r"images has shape \[5, 5\].*\[N, C, H, W\] or \[N, H, W\].*reshape",
    ),
    "no images": (lambda: plots.image_grid(random(0, 1, 5, 5)), r"\[0, 1, 5, 5\].*not empty"),
    "channels": (lambda: plots.image_grid(random(2, 4, 5, 5)), "4 channels.*data_grid"),
    "nrow": (lambda: plots.image_grid(random(2, 5, 5), nrow=0), "nrow must be at least 1.*got 0"),
    "words": (lambda: plots.data_grid(["a", "b"]), "x is not an array of numbers.*convert"),
    "ragged": (lambda: plots.data_grid([[1.0], [1.0, 2.0]]), "x is not an array of numbers"),
    "reconstruction": (
        lambda: plots.reconstructions(random(4, 3), random(3, 3)),
        r"reconstruction has shape \[3, 3\].*go with x.*\[4, 3\]",
    ),
    "draws": (
        lambda: plots.reconstructions(random(4, 3), random(4, 3), random(4, 3)),
        r"draws has shape \[3\].*go with x",
    ),
    "no rows": (lambda: plots.training_curves([]), "there are 0.*history's rows"),
    "columns": (lambda: plots.training_curves([{"epoch": 1, "elbo": 2}]), "reconstruction, kl in"),
    "panels": (lambda: plots.training_curves(epochs(2), axes=plt.gca()), "three panels"),
    "dims": (lambda: plots.traversal(random(2, 3, 4), [1]), r"dims has shape \[1\].*\[2\]"),
    "values": (lambda: plots.traversal(random(2, 3, 4), values=[1]), r"values has shape \[1\]"),
    "codes": (lambda: plots.latent_map(random(0, 2)), r"codes has shape \[0, 2\].*\[N, d\]"),
    "nan codes": (lambda: plots.latent_map([[float("nan"), 1.0]]), "codes hold nan.*leave"),
    "same codes": (lambda: plots.latent_map(torch.ones(5, 3)), "all the same.*give dims"),
    "coordinates": (lambda: plots.latent_map(random(5, 3), dims=(0, 3)), "choose from 0 to 2"),
    "names": (lambda: plots.latent_map(random(5, 3), names=["a"]), r"names.*\[1\].*\[3\]"),
    "labels": (lambda: plots.latent_map(random(5, 2), [1, 2]), r"labels.*\[2\].*codes.*\[5\]"),
    "classes": (
        lambda: plots.latent_map(random(3, 2), [0, 1, 2], classes=["a", "b"]),
        "labels go from 0 to 2.*2 classes.*name all",
    ),
    "active": (lambda: plots.kl_bars(random(3), active=[True]), r"active.*\[1\].*\[3\]"),
    "gaps": (lambda: plots.gap_bars(random(25), random(25), random(21), random(25)), "approxim"),
    "k-hat": (lambda: plots.khat(random(2, 2)), r"values has shape \[2, 2\].*\[N\]"),
    "ranks": (lambda: plots.ranks([0, 10], 9), "from 0 to 10, outside 0 to draws=9"),
    "observed": (lambda: plots.predictive_check(random(2), random(9)), r"observed.*\[2\].*\[\]"),
    "nan statistic": (lambda: plots.predictive_check(float("nan"), random(9)), "is nan.*leave"),
    "distortion": (lambda: plots.rate_distortion([1.0], [1.0, 2.0]), r"distortion.*\[2\].*rate"),
    "schema": (
        lambda: plots.data_grid(random(4, 3), schema=MIXED),
        r"schema has shape \[6\].*the columns of x.*\[3\]",
    ),
    "beside": (lambda: plots.data_grid(random(4, 3), data=random(4, 2)), r"data.*\[2\].*\[3\]"),
    "models": (lambda: plots.rate_distortion([1.0], [1.0], labels=["a", "b"]), r"labels.*\[2\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_with_a_remedy(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        call()


def test_parts_stand_below_their_pictures() -> None:
    above, below = plots.parts(random(2, 3, 1, 8, 8), random(4, 3), list("abcd"), title="units")
    assert above.get_xlim() == below.get_xlim() and below.get_xlabel() == "units"
    picture = below.get_xticks()[1]  # the middle of the second one: 2 + 10 + 4 pixels from the left
    assert picture == 2 + 10 + 4 - 0.5 and below.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in below.get_yticklabels()] == list("abcd")
    with pytest.raises(UsageError, match="parts of pictures"):
        plots.parts(random(2, 3, 1, 8, 8), random(4, 2))


def test_top_words_are_sorted_and_named() -> None:
    table, names = [[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]], ["ant", "bee", "cow"]
    axes = plots.top_words(table, names, n=2, titles=["a", "b"])
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    assert [ticks(ax.yaxis) for ax in axes] == [["bee", "cow"], ["ant", "cow"]]
    assert [bar.get_width() for bar in axes[0].patches] == [0.6, 0.3]
    assert plots.top_words(random(20, 9)).shape == (12,)
    with pytest.raises(UsageError, match=r"names has shape \[2\]"):
        plots.top_words(table, names[:2])


def test_forecasts_begin_where_what_is_given_ends() -> None:
    x = random(2, 6, 1)
    given = x.clone()
    given[:, 4:] = torch.nan
    draws = torch.linspace(0, 1, 101)[:, None, None, None] + x
    axes = plots.forecasts(x, draws, given, names=["height"])
    assert axes.shape == (2, 1) and axes[0, 0].get_ylabel() == "height"
    middle, fact, known = (xy(line)[1] for line in axes[1, 0].lines)
    assert np.isfinite(middle).tolist() == np.isfinite(fact).tolist() == [False] * 4 + [True] * 2
    assert np.isfinite(known).tolist() == [True] * 4 + [False] * 2
    np.testing.assert_allclose(middle[4:], x[1, 4:, 0] + 0.5, atol=1e-6)
    band = axes[1, 0].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(float(x[1, 4:].min()) + 0.05, abs=1e-6)
    with pytest.raises(UsageError, match="given has shape"):
        plots.forecasts(x, draws, given[:1])


def test_graph_has_the_circles_arrows_and_plate_of_a_vae() -> None:
    ax = plots.graph(_sketch())
    assert {t.get_text() for t in ax.texts} == {"z", "x", "data, 5"}
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert [(a.get_linestyle() == "solid") for a in arrows] == [True, False]  # model, then guide
    filled = {t.get_text(): line.get_mfc() for t, line in zip(ax.texts[1:], ax.lines, strict=False)}
    assert filled["z"] == "white" and filled["x"] != "white"


def test_shapes_show_a_forgotten_plate() -> None:
    def model(x: torch.Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(7, 2), 1.0).to_event(1))
        with pyro.plate("data", 7):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    words = [t.get_text() for t in plots.shapes(pv.sketch(model, torch.zeros(7))).texts]
    assert words.count("no plate") == 1 and words.count("data") == 1 and words.count("event") == 1
