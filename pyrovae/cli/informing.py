"""``pyrovae info``: what a run is, what a data set looks like."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyrovae as pv
from pyrovae.cli.options import OWN, Parser, add_allow, add_option, printable

if TYPE_CHECKING:
    from pyrovae.likelihoods import Likelihood
    from pyrovae.summaries import Summary

__all__ = ["info"]


def info(arguments: list[str]) -> None:
    """what a run is, or what a data set looks like

    Examples:
      pyrovae info runs/mine
      pyrovae info --data digits
      pyrovae info --data table.csv
    """
    parser = Parser(info)
    parser.add_argument("run", nargs="?", type=Path, help="run folder")
    add_option(parser, "data", str | None, None, "a data set's name or path")
    add_option(parser, "data_dir", str | None, None, "where named sets are kept")
    add_option(parser, "label", str | None, None, "label column of a table")
    for name in ("resize", "layout", "scale"):
        add_option(parser, name, *OWN["data"][name])
    add_allow(parser)
    options = parser.parse_args(arguments)
    if (options.run is None) == (options.data is None):
        raise pv.UsageError("give a run folder, or --data with a name or path")
    print(_describe_data(options) if options.data else _describe_run(options.run, options.allow))


def _describe_run(run: Path, allow: Sequence[str]) -> str:
    pair = pv.load(run, allow=allow)
    lines = [f"{run}", f"parameters: {sum(p.numel() for p in pair.parameters()):,}", str(pair)]
    for name in ("config.yaml", "environment.json", "evaluation.json"):
        try:  # a link might show another file
            file = pv.files.inside(run if run.is_dir() else run.parent, name)
            text = pv.files.read_text(file, 100_000) if file.exists() else ""
        except pv.UsageError as error:
            text = f"not shown: {error}"
        if text:
            lines += ["", f"{name}:", text.rstrip()]
    return printable("\n".join(lines))


def _describe_data(options: Namespace) -> str:
    splits = pv.data.load(
        options.data,
        options.data_dir,
        label=options.label,
        resize=options.resize,
        layout=options.layout,
        scale=options.scale,
    )
    few = splits.train.sample(10_000)
    x, seen = few.x, few.summary()
    unknown = x.numel() - int(x.isfinite().sum())
    text = (
        f"{splits.description}\ntrain {len(splits.train):,}, test {len(splits.test):,}, shape "
        f"{list(x.shape[1:])}, {len(splits.classes or ())} classes\n"
        f"values: {'nothing' if unknown == x.numel() else _kind(seen)}"
    )
    if unknown < x.numel():
        text += f", from {seen.low:.4g} to {seen.high:.4g}, mean {seen.mean:.4g}"
    text += f", {unknown:,} missing or infinite"
    transforms = _transforms(seen)
    if transforms:
        transforms = ["worth considering:", *(f"  {line}" for line in transforms)]
    return "\n".join([text, *_suiting(seen), *transforms])


def _kind(seen: Summary) -> str:
    """What the values are, in words."""
    if seen.binary:
        return "0 or 1"
    if seen.whole:
        return "whole numbers"
    return "numbers in [0, 1]" if seen.low >= 0 and seen.high <= 1 else "real numbers"


def _suiting(seen: Summary) -> list[str]:
    """The likelihoods that suit, and why."""
    fitting = pv.likelihoods.advice(seen)
    lines = [f"  --likelihood {name:<28} {why}" for name, why in fitting.items()]
    if "Mixed" in fitting and len(seen.columns) <= 100:
        columns = ", ".join(map(_column, pv.likelihoods.column_likelihoods(seen)))
        lines.append(f'  column by column: --likelihood Mixed --likelihood.columns "[{columns}]"')
    return ["likelihoods that suit:", *lines] if fitting else []


def _column(likelihood: Likelihood) -> str:
    """One column's likelihood as the command line takes it."""
    name = type(likelihood).__name__
    slots = pv.components.slots(type(likelihood))
    given = {k: v for k, v in likelihood.arguments().items() if slots[k].required}
    if not given:
        return name
    arguments = ", ".join(f"{k}: {v}" for k, v in given.items())
    return f"{{class_path: {name}, init_args: {{{arguments}}}}}"


def _transforms(seen: Summary) -> list[str]:
    """What to do to the data, and why."""
    lines = []
    low, high = seen.spread
    if seen.low >= 0 and seen.high <= 1 and not seen.binary:
        lines.append(
            "--binarise dynamic, for Bernoulli: intensities become 0 or 1 at random, anew each time"
        )
    elif not seen.whole and high > 0 and (high > 10 * low or not 0.1 < high < 10):
        lines.append(
            f"standardise the columns for Normal: their deviations are {low:.3g} to {high:.3g}, "
            f"and one shared scale and network suit 1 (or --likelihood.scale per_dimension)"
        )
    lines += _constants(seen)
    if seen.missing:
        lines.append(f"{seen.missing / seen.entries:.1%} of the entries are missing (NaN)")
    return lines


def _constants(seen: Summary) -> list[str]:
    constant = [str(i) for i, column in enumerate(seen.columns) if column.constant]
    if constant:
        more = ", ..." if len(constant) > 10 else ""
        return [f"drop the columns that never vary: {', '.join(constant[:10])}{more}"]
    if seen.constant:
        return [f"{seen.constant:,} dimensions never vary: a density of them has no bound"]
    return []
