"""``pyrovae info``: what a run is, what a data set looks like."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrovae as pv
from pyrovae.cli.options import (
    OWN,
    PICTURES,
    TABLE,
    Parser,
    add_allow,
    add_option,
    add_pair,
    of_a_table,
)
from pyrovae.cli.verbs import Run

if TYPE_CHECKING:
    from pyrovae.data import Splits
    from pyrovae.files import Place
    from pyrovae.likelihoods import Likelihood
    from pyrovae.summaries import Summary

__all__ = ["info"]

WORDS = {"elbo": "ELBO", "kl": "KL", "ess": "effective sample size"}


def info(arguments: list[str]) -> None:
    """what a run is, or what a data set looks like

    Examples:
      pyrovae info runs/mine
      pyrovae info runs/mine --full
      pyrovae info --data digits
      pyrovae info --data table.csv
      pyrovae info --data table.csv --label species --drop island
    """
    parser = Parser(info)
    parser.add_argument("run", nargs="?", type=Path, help="run folder")
    add_option(parser, "data", str | None, None, "a data set's name or path")
    add_option(parser, "data_dir", str | None, None, "where named sets are kept")
    for name in (*TABLE, *PICTURES):
        add_option(parser, name, *OWN["data"][name])
    add_option(parser, "full", bool, False, "configuration, environment and evaluation, whole")
    add_allow(parser)
    add_pair(parser)
    options = parser.parse_args(arguments)
    beside = options.run is not None and options.pair is not None  # what the code is run on
    if (options.run is None) == (options.data is None) and not beside:
        raise pv.UsageError("give a run folder, or --data with a name or path")
    print(_describe_data(options) if options.run is None else _describe_run(options.run, options))


def _describe_run(run: Path, options: Namespace) -> str:
    """A run in a page that a person can read, or, in ``full``, what its files say."""
    own = pv.runs.of_own_code(run)
    opened = Run(Namespace(**vars(options), seed=0, device="cpu"))
    pair = None if own and options.pair is None else opened.pair
    found = _Files(run if run.is_dir() else run.parent)
    told = [str(pair), "", *found.dump()] if options.full else _summary(found)
    return pv.progress.printable("\n".join([*_made_of(run, pair, found), "", *told]))


class _Files:
    """The files of a run, whoever made it: one that cannot be read says so in ``faults``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults = folder, list[str]()

    def _read(self, name: str, read: Callable[[Place], object]) -> object:
        try:  # a link might show another file
            file = pv.files.inside(self.folder, name)
            return read(file) if file.exists() else None
        except pv.UsageError as error:
            self.faults.append(f"{name} not shown: {error}")
            return None

    def mapping(self, name: str) -> dict[str, Any]:
        """A file of names and values; empty where there is none."""
        reader = pv.files.read_yaml if name.endswith(".yaml") else pv.files.read_json
        found = self._read(name, reader)
        return found if isinstance(found, dict) else {}

    def rows(self) -> list[dict[str, str]]:
        """What was told of every epoch."""
        text = self._read("metrics.csv", pv.files.read_text)
        try:
            return [*csv.DictReader(io.StringIO(text))] if isinstance(text, str) else []
        except csv.Error as error:
            self.faults.append(f"metrics.csv not shown: {error}")
            return []

    def noted(self) -> dict[str, str]:
        """What the last checkpoint says that it is a state of."""
        found = self._read(pv.checkpoints.LAST, lambda file: pv.files.read_notes(file)[1])
        return pv.checkpoints.identity_in(found)

    def dump(self) -> list[str]:
        """Configuration, environment and evaluation as they are on disk."""
        lines = []
        for name in ("config.yaml", "environment.json", "evaluation.json"):
            text = self._read(name, lambda file: pv.files.read_text(file, 100_000))
            lines += [f"{name}:", str(text).rstrip(), ""] if text else []
        return [*lines, *self.faults]


def _made_of(run: Path, pair: Any, found: _Files) -> list[str]:
    """What was trained: the parts of a program, or the code of a pair."""
    if pair is None:
        code = found.mapping("config.yaml").get("pair")
        words = f"--pair {code} runs that code" if code else "--pair FILE.py:NAME tells of it"
        return [f"{run}: a pair of its own code, which no file carries ({words})"]
    count = sum(p.numel() for p in pair.parameters())
    if not isinstance(pair, pv.program.Program):
        return [f"{run}: a pair of its own code, {count:,} parameters"]
    parts = {name: _in_words(value) for name, value in pair.arguments().items()}
    head = f"{run}: {type(pair).__name__}, {count:,} parameters"
    return [head, *(f"  {name:<12} {words}" for name, words in parts.items() if words != "None")]


def _in_words(value: object) -> str:
    """An argument of a program, as one would write it."""
    try:
        return pv.errors.in_short(_written(pv.components.describe(value)))
    except TypeError:  # of a class that no file can name
        return type(value).__name__


def _written(described: object) -> str:
    """A described component as the call that makes it."""
    if isinstance(described, list):
        return f"[{', '.join(map(_written, described))}]"
    arguments = described.get("init_args") if isinstance(described, dict) else None
    if not isinstance(described, dict) or not isinstance(arguments, dict):
        return str(described)
    given = ", ".join(f"{name}={_written(value)}" for name, value in arguments.items())
    return f"{str(described.get('class_path')).rpartition('.')[2]}({given})"


def _summary(found: _Files) -> list[str]:
    """On what it was trained, how long, what it came to, what is there."""
    config, environment = found.mapping("config.yaml"), found.mapping("environment.json")
    rows, evaluation = found.rows(), found.mapping("evaluation.json")
    files = [
        str(each.relative_to(found.folder))
        for each in sorted(found.folder.rglob("*"))[:1000]
        if not each.is_dir() and not each.name.startswith(".")
    ]
    return [
        *_on_what(config, found.noted()),
        *_how_long(config, rows, environment),
        *_came_to(rows, evaluation),
        f"files     {', '.join(files[:20])}{', ...' * (len(files) > 20)}",
        *_repeated(found.folder / "config.yaml", config),
        *found.faults,
    ]


def _repeated(file: Path, config: Mapping[str, Any]) -> list[str]:
    """The command that does the same again."""
    code = f" --pair {_short(config['pair'])}" if config.get("pair") else ""
    return [f"repeat    pyrovae fit --config {file}{code}"] if config else []


def _on_what(config: Mapping[str, Any], noted: Mapping[str, str]) -> list[str]:
    """The data, and how they were prepared."""
    ways = [f"{name} {_short(config[name])}" for name in ("label", "binarise") if config.get(name)]
    ways += ["standardised"] * bool(config.get("standardise"))
    name = _short(config.get("data", "not said: it was trained in Python"))
    count = str(noted.get("data", "")).partition(" data")[0]
    held = str(noted.get("validation", "none")).partition(" data")[0]
    ways += [f"{count} to train on"] * bool(count) + [f"{held} to watch"] * (held != "none")
    return [f"data      {', '.join([name, *ways])}"]


def _how_long(
    config: Mapping[str, Any], rows: list[dict[str, str]], environment: Mapping[str, Any]
) -> list[str]:
    """Epochs, steps, seconds, where and when."""
    if not rows:
        return ["training  no epoch has ended"]
    asked = config.get("epochs")
    epochs = f"{len(rows)} of {_short(asked)} epochs" if asked else f"{len(rows)} epochs"
    last = rows[-1]
    where = f" on {_short(environment['device'])}" if environment.get("device") else ""
    when = f", {str(environment['date'])[:10]}" if environment.get("date") else ""
    steps = _rounded(last.get("step")).removesuffix(".00")
    words = f"{epochs}, {steps} steps, {_rounded(last.get('seconds'))} s{where}{when}"
    settings = [
        f"{name} {_short(_written(value))}"
        for name in ("loss", "lr", "batch_size", "seed")
        if (value := config.get(name)) is not None
    ]
    return [f"training  {words}", *([f"          {', '.join(settings)}"] if settings else [])]


def _short(value: object) -> str:
    """What a file says, on one line."""
    return pv.errors.in_short(str(value), 200)


def _came_to(rows: list[dict[str, str]], evaluation: Mapping[str, Any]) -> list[str]:
    """The numbers of the last epoch and those of the test set."""
    lines = []
    if rows:
        known = {"ELBO": "elbo", "validation ELBO": "validation_elbo"}
        words = [f"{word} {_rounded(rows[-1][n])}" for word, n in known.items() if n in rows[-1]]
        lines.append(f"numbers   nats per datum; last epoch: {', '.join(words)}")
    lines += [_mean(name, value) for name, value in evaluation.items() if _is_mean(value)]
    if evaluation:
        lines += [f"  {k.replace('_', ' '):<22} {_rounded(v):>10}" for k, v in _scores(evaluation)]
        told = (_short(evaluation.get(name)) for name in ("data", "verdict"))
        lines.append("  of {} test data; {}".format(*told))
    return lines


def _is_mean(value: object) -> bool:
    return isinstance(value, dict) and "standard_error" in value


def _mean(name: str, value: Mapping[str, object]) -> str:
    word = WORDS.get(name, _short(name).replace("_", " "))
    number, error = (_rounded(value.get(k)) for k in ("mean", "standard_error"))
    return f"  {word:<22} {number:>10} +- {error}"


def _scores(evaluation: Mapping[str, Any]) -> list[tuple[str, object]]:
    scores = evaluation.get("scores")
    return [(_short(k), v) for k, v in scores.items()] if isinstance(scores, dict) else []


def _rounded(value: object) -> str:
    """A number with two digits after the point; anything else as it is."""
    try:
        return f"{float(str(value)):,.2f}"
    except ValueError:
        return str(value)[:30]


def _describe_data(options: Namespace) -> str:
    asked = of_a_table(vars(options)) | {name: getattr(options, name) for name in PICTURES}
    splits = pv.data.load(options.data, options.data_dir, **asked)
    few = splits.train.sample(10_000)
    x, seen = few.x, few.summary()
    if splits.schema is not None:
        return _describe_table(splits, seen)
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


def _describe_table(splits: Splits, seen: Summary) -> str:
    """What the columns are, what was left out, and the likelihood that each has by default."""
    schema = splits.schema
    assert schema is not None
    likelihood = pv.likelihoods.suited(seen, schema)
    named = [_column(each) for each in getattr(likelihood, "columns", [likelihood])]
    first, *rows = schema.describe().splitlines()
    width = max(map(len, named))
    lines = [f"{'likelihood':<{width}}  {first}"]
    lines += [
        f"{name:<{width}}  {row}"
        for name, row in zip([*named, *[""] * len(rows)], rows, strict=False)
    ]
    counts = f"train {len(splits.train):,}, test {len(splits.test):,}"
    notes = [f"  {note}" for note in schema.notes]
    return "\n".join([
        f"{splits.description}\n{counts}, {len(schema.columns)} columns", "", *lines,
        *(["", "left out or read so:", *notes] if notes else []), "",
        "pyrovae fit --data FILE trains on these columns in their own units, each with the "
        "likelihood beside it;", "--columns, --drop, --label, --target and --kinds change them",
    ])  # fmt: skip


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
    elif not seen.whole and high > 10 * low > 0:
        lines.append(
            f"--likelihood.scale per_dimension: deviations are {low:.3g} to {high:.3g}, and beside "
            f"their units, which are learned, one scale serves all dimensions"
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
