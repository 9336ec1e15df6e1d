"""The commands that read a run: evaluate, sample, reconstruct, interpolate, traverse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyrovae as pv
from pyrovae.cli.data import (
    check_data,
    draw_paths,
    evaluated,
    first_of_each,
    observed,
    standardised,
)
from pyrovae.cli.options import BOOLEANS, Parser, add_allow, add_option, at_least, read_config


def run_parser(command: Callable[..., Any], *, data: bool = True, figure: bool = True) -> Parser:
    """The options that the commands on a run share."""
    parser = Parser(command)
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors file")
    if data:
        add_option(parser, "data", str | None, None, "other data than the run's")
        add_option(parser, "data_dir", str | None, None, "where named sets are kept")
        add_option(parser, "binarise", str | None, None, "other than the run's")
    if figure:
        text = "a .png figure or a .npy array, by default a figure in the run folder"
        add_option(parser, "out", str | None, None, text)
    add_allow(parser)
    add_option(parser, "seed", int, 0, "of the draws")
    add_option(parser, "device", str, "auto", "auto, cpu, cuda, cuda:1, ...")
    return parser


def _open(options: Any) -> Any:
    """The run's pair on the device."""
    if getattr(options, "out", None) and Path(options.out).suffix not in (".png", ".npy"):
        raise pv.UsageError(f"--out ends with .png or .npy, got {options.out}")
    at_least(0, options, "seed")
    device = pv.training.choose_device(options.device)
    return pv.load(options.run, allow=options.allow).to(device)


def folder_of(run: Path) -> Path:
    """The run's folder, where one of its files was named."""
    return run if run.is_dir() else run.parent


def open_with_data(options: Any, part: str = "test") -> tuple[Any, Any]:
    """The run's pair, and the test data beside which it was trained (or those of ``--data``)."""
    pair = _open(options)
    file = folder_of(options.run) / "config.yaml"
    config = read_config(file) if file.is_file() else {}
    name = options.data or config.get("data")
    if name is None:
        raise pv.UsageError(f"{options.run} does not say what data it was trained on; give --data")
    theirs = options.data is None and Path(name).is_dir()
    if theirs and Path(name).resolve() in Path(options.run).resolve().parents:
        # such as /, which takes minutes to walk
        raise pv.UsageError(f"{file}: data names a folder around the run, {name}; give --data")
    table = str(name).endswith((".csv", ".parquet"))
    seed = config.get("seed", 0)
    if not 0 <= seed < 2**32:
        raise pv.UsageError(f"{file}: seed must be at least 0 and below 2^32, got {seed}")
    theirs = options.data_dir is None and config.get("data_dir") is not None
    splits = pv.data.load(
        name,
        config["data_dir"] if theirs else options.data_dir,
        download=not theirs,  # a run does not choose where on this machine to write
        label=config.get("label") if table else None,
        seed=seed,
        stream="auto" if options.data else BOOLEANS.get(config.get("stream", ""), "auto"),
    )
    given = getattr(splits, part)
    if config.get("standardise"):
        if options.data is not None:
            raise pv.UsageError(
                f"the run's data were standardised; {name} would need the same shift and scale: "
                f"evaluate it in Python, with data.standardised(by=the training data)"
            )
        given = standardised(given, splits.train)
    test = pair.serve(given.binarised(options.binarise or config.get("binarise", "none")))
    if tuple(test.event_shape) != pair.event_shape:
        raise pv.UsageError(
            f"the run models data of shape {pair.event_shape}, {name} has "
            f"{tuple(given.event_shape)}; give data of the run's shape"
        )
    check_data(pair, test)
    return pair, test


def _write(options: Any, name: str, values: Any, axes: Callable[[], Any]) -> None:
    """A figure, or the numbers behind it."""
    import numpy as np

    path = Path(options.out or pv.files.inside(folder_of(options.run), f"figures/{name}.png"))
    if path.suffix == ".npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values.numpy())
    else:
        pv.plots.save(axes(), path)
    print(path)


def _indices(data: Any, chosen: Sequence[int]) -> Any:
    import torch

    wrong = [i for i in chosen if not 0 <= i < len(data)]
    if wrong:
        raise pv.UsageError(f"the test data have indices 0 to {len(data) - 1}, got {wrong[0]}")
    return data.select(torch.tensor(list(chosen))).fixed()


def evaluate(arguments: list[str]) -> None:
    """ELBO, reconstruction, KL, log evidence, k-hat and active units of a run on test data

    Examples:
      pyrovae evaluate runs/mine
      pyrovae evaluate runs/mine --num-particles 5000 --json
      pyrovae evaluate runs/mine --data other.npy
    """
    parser = run_parser(evaluate, figure=False)
    add_option(parser, "num_particles", int, 1000, "importance samples per datum")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    at_least(1, options, "num_particles")
    pair, test = open_with_data(options)
    _, evaluation, words = evaluated(pair, test, options.num_particles, options.seed)
    print(json.dumps(evaluation, indent=2) if options.json else words)
    if options.run.is_dir() and not (options.data or options.binarise):
        with contextlib.suppress(pv.UsageError):  # a run that may only be read
            pv.runs.Folder(options.run).write_json("evaluation.json", evaluation)


def sample(arguments: list[str]) -> None:
    """draw new data from the prior, or from a density fitted to the codes of the training data

    Examples:
      pyrovae sample runs/mine
      pyrovae sample runs/mine --n 100 --mean false --out samples.png
      pyrovae sample runs/mine --density mixture
      pyrovae sample runs/mine --n 10000 --mean false --out samples.npy
    """
    parser = run_parser(sample, data=False)
    add_option(parser, "n", int, 64, "how many")
    add_option(parser, "mean", bool, True, "E[x|z] instead of a draw of x")
    add_option(parser, "density", str, "prior", "prior, or mixture or flow fitted to the codes")
    options = parser.parse_args(arguments)
    at_least(1, options, "n")
    values: Any
    if options.density == "prior":
        pair = _open(options)
        values = observed(pv.sample(pair, options.n, mean=options.mean, seed=options.seed), pair)
    elif not options.mean:
        raise pv.UsageError(f"--density {options.density} gives E[x|z]; leave --mean as it is")
    else:
        if options.density not in (known := ("prior", *pv.aggregate.KINDS)):
            raise pv.components.unknown("density", options.density, known)
        options.data = options.data_dir = options.binarise = None
        pair, data = open_with_data(options, "train")
        density = pv.fit_codes(pair, data, options.density, seed=options.seed)
        print(density)
        values = observed(density.sample(options.n, seed=options.seed), pair)
    _write(options, "samples", values, lambda: pv.plots.data_grid(values))


def reconstruct(arguments: list[str]) -> None:
    """data beside their reconstructions

    Examples:
      pyrovae reconstruct runs/mine
      pyrovae reconstruct runs/mine --n 5 --draws 3 --out reconstructions.png
    """
    parser = run_parser(reconstruct)
    add_option(parser, "n", int, 10, "how many test data")
    add_option(parser, "draws", int, 0, "rows of draws below the mean")
    options = parser.parse_args(arguments)
    at_least(1, options, "n")
    at_least(0, options, "draws")
    pair, test = open_with_data(options)
    few = test.select(first_of_each(test, options.n)).fixed()
    mean: Any = observed(pv.reconstruct(pair, few, seed=options.seed), pair)
    draws: Any = None
    if options.draws:
        draws = observed(pv.reconstruct(pair, few, draws=options.draws, seed=options.seed), pair)
    _write(
        options,
        "reconstructions",
        mean if draws is None else draws,
        lambda: pv.plots.reconstructions(few.x.cpu(), mean, draws, n=len(few)),
    )


def interpolate(arguments: list[str]) -> None:
    """decode the path between the codes of two test data

    Examples:
      pyrovae interpolate runs/mine
      pyrovae interpolate runs/mine --start 3 --end 17 --steps 12 --method spherical
    """
    parser = run_parser(interpolate)
    add_option(parser, "start", int | None, None, "index of a test datum")
    add_option(parser, "end", int | None, None, "index of another")
    add_option(parser, "steps", int, 10, "points on the path")
    add_option(parser, "method", str, "linear", "linear or spherical")
    options = parser.parse_args(arguments)
    if (options.start is None) != (options.end is None):
        raise pv.UsageError("give both --start and --end, or neither")
    at_least(2, options, "steps")
    pair, test = open_with_data(options)
    if options.start is None:
        few = first_of_each(test, 10).tolist()
        starts, stops = few[: (len(few) + 1) // 2], few[len(few) // 2 :]
    else:
        starts, stops = [options.start], [options.end]
    ends = _indices(test, starts), _indices(test, stops)
    path = pv.interpolate(pair, *ends, options.steps, method=options.method)
    values: Any = observed(path, pair)
    _write(options, "interpolation", values, lambda: draw_paths(values))


def traverse(arguments: list[str]) -> None:
    """vary one latent unit at a time, the active ones first

    Examples:
      pyrovae traverse runs/mine
      pyrovae traverse runs/mine --index 7 --dims [0,3] --steps 11 --span 3
    """
    parser = run_parser(traverse)
    add_option(parser, "index", int, 0, "the test datum to vary")
    add_option(parser, "dims", list[int] | None, None, "units, e.g. [0,3]")
    add_option(parser, "steps", int, 9, "values of each unit")
    add_option(parser, "span", float, 2.0, "from -span to span")
    options = parser.parse_args(arguments)
    at_least(1, options, "steps")
    pair, test = open_with_data(options)
    # the datum to vary first; the others tell which units are active
    order = [options.index, *(i for i in range(min(len(test), 1000)) if i != options.index)]
    images, dims, values = pv.traverse(
        pair,
        _indices(test, order),
        dims=options.dims or None,
        steps=options.steps,
        span=options.span,
    )
    _write(
        options, "traversal", images, lambda: pv.plots.traversal(images, dims=dims, values=values)
    )
