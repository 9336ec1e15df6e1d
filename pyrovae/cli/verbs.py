"""Verbs on a run: functions of it whose signature is their options and whose docstring the help."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyrovae as pv
from pyrovae.cli import pairs
from pyrovae.cli.data import check_data
from pyrovae.cli.options import (
    BOOLEANS,
    Parser,
    add_allow,
    add_option,
    add_options,
    add_pair,
    at_least,
    checked_options,
    of_a_table,
    read_config,
    refuse_home,
    say,
)

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from pyrovae.cli.pairs import Shown
    from pyrovae.data import Splits
    from pyrovae.plots import Drawn
    from pyrovae.schema import Schema
    from pyrovae.tensors import TensorData

__all__ = ["Count", "Drawing", "Run", "Verb", "Whole", "verb"]

TABLES = (".csv", ".tsv", ".parquet")
FORM = ("delimiter", "decimal", "encoding", "header")  # of a text file
Whole = Annotated[int, at_least(1)]
Count = Annotated[int, at_least(0)]


@dataclass(frozen=True)
class Drawing:
    """What a verb has found: numbers, and what they look like.

    Attributes:
        values: a tensor.
        draw: gives the picture's Axes; None where there is no picture.
        table: gives the numbers as a table; by default that of the pair's columns.
    """

    values: Tensor
    draw: Callable[[], Drawn] | None = None
    table: Callable[[], DataFrame] | None = None


class Run:
    """A run that a verb was given, opened as far as the verb asks.

    Args:
        options: the run's path, and those that the verbs share.
    """

    def __init__(self, options: Namespace) -> None:
        self.options, self.path = options, Path(options.run)
        self.out: Path | None = None
        if getattr(options, "out", None):
            self.out = Path(options.out)
            if self.out.suffix not in (".png", ".npy", *TABLES):
                known = ", ".join((".png", ".npy", *TABLES))
                raise pv.UsageError(f"--out ends with one of {known}, got {self.out}")
        self.seed: int = options.seed
        self.device = pv.training.choose_device(options.device)
        self._loaded: dict[str, Splits] = {}
        self._digests: dict[Path, str] = {}

    @property
    def folder(self) -> Path:
        """The run's folder, where one of its files was named."""
        return self.path if self.path.is_dir() else self.path.parent

    @functools.cached_property
    def pair(self) -> Shown:
        """The pair, on the device."""
        given = self.options.pair
        if given is None and pv.runs.of_own_code(self.path):
            raise self._needs_code()
        if given is None:
            pair: Shown = pv.load(self.path, allow=self.options.allow)
        else:
            config = self._config()
            classes = self._splits(config).classes
            pair = pairs.own_pair(
                given,
                self._part("train", config).sample(10_000),
                None if classes is None else len(classes),
                # other data than those that it was made beside would make another pair
                lambda: self._part("train", self._config(own=True)).sample(10_000).x,
            )
            pv.load(self.path, into=pair)
        pair.to(self.device)
        return pair

    def _needs_code(self) -> pv.UsageError:
        """What to say of a run that no file describes whole."""
        code = self._made_of("pair")
        if code is None:
            return pv.UsageError(
                f"{self.path} was made of code of its own, which no file carries; give --pair "
                f"FILE.py:NAME of what gives its pair, and --data"
            )
        return pv.UsageError(f"{self.path} was made of {code}; give --pair {code} to run that code")

    def _made_of(self, option: str) -> object:
        """What the run's config says; None where it says nothing."""
        return self._written.get(option)

    @functools.cached_property
    def _written(self) -> dict[str, Any]:
        """The run's config as it was written; empty where there is none."""
        file = pv.files.inside(self.folder, pv.runs.CONFIG)
        return read_config(file) if file.exists() else {}

    @functools.cached_property
    def test(self) -> TensorData:
        """The test data beside which the pair was trained, or all of ``--data``; or the part that
        ``--part`` names."""
        return self.data(getattr(self.options, "part", None) or "test")

    def data(self, part: str) -> TensorData:
        """A part of those data, as the pair takes them."""
        pair = self.pair  # what cannot be opened says so before data are loaded
        config = self._config()
        given = self._part(part, config)
        found = pair.serve(given)
        if tuple(found.event_shape) != pair.event_shape:
            raise pv.UsageError(
                f"the run models data of shape {pair.event_shape}, {config['data']} has "
                f"{tuple(given.event_shape)}; give data of the run's shape"
            )
        check_data(pair, found)
        if config["other"]:
            whole = config["whole"] and config["data"] not in pv.data.NAMES
            say(f"{len(found):,} data from {config['data']}{'' if whole else ', the test part'}")
        return found

    def _part(self, part: str, config: dict[str, Any]) -> TensorData:
        """A part of the data, as the pair was given them."""
        given = getattr(self._splits(config), {"all": "test"}.get(part, part))
        binarise = getattr(self.options, "binarise", None) or config.get("binarise", "none")
        binary: TensorData = given.binarised(binarise)
        return binary

    def write(self, name: str, drawing: Drawing) -> None:
        """What was found in the run's folder, or where ``--out`` says; its path is printed."""
        import numpy as np

        usual = f"{name}.csv" if drawing.draw is None else f"figures/{name}.png"
        path = self.out or pv.files.inside(self.folder, usual)
        suffix = Path(str(path)).suffix
        if suffix == ".npy":
            with pv.files.writing(path) as stream:
                np.save(stream, drawing.values.numpy())
        elif suffix in TABLES:
            pv.schema.write(self._frame(drawing), path)
        elif drawing.draw is not None:
            pv.plots.save(drawing.draw(), path)
        print(pv.progress.printable(str(path)))

    def _frame(self, drawing: Drawing) -> DataFrame:
        """What was found as a table: of the columns that the pair models, where it does."""
        import pandas as pd

        if drawing.table is not None:
            return drawing.table()
        values, schema = drawing.values, pv.traces.as_pair(self.pair).schema
        rows = values.reshape(-1, values.shape[-1]) if values.dim() > 1 else values[:, None]
        if schema is not None and rows.shape[1] == len(schema.columns):
            return schema.decode(rows)
        if values.dim() > 2:
            raise pv.UsageError(
                f"what is found has the shape {list(values.shape)}, which is no table: --out ends "
                f"with .npy or .png"
            )
        return pd.DataFrame(rows.cpu().numpy(), columns=[f"x{i}" for i in range(rows.shape[1])])

    @property
    def _other(self) -> str | None:
        """Other data than the run's, where they were given."""
        return getattr(self.options, "data", None)

    def _config(self, *, own: bool = False) -> dict[str, Any]:
        """What the run's config says, of other data where they were given; if it is asked for its
        ``own``, where it says none."""
        config = self._written
        given = None if own and config.get("data") else self._other
        name = given or config.get("data")
        if name is None:
            raise pv.UsageError(
                f"{self.path} does not say what data it was trained on; give --data"
            )
        seed = at_least(0)(f"{self.folder / 'config.yaml'}: seed", config.get("seed", 0))
        self._check_unchanged(name, given is not None)
        part = getattr(self.options, "part", None) or ("test" if given is None else "all")
        of = {"other": given is not None, "whole": part == "all"}
        return config | {"data": name, "seed": seed, **of}

    def _check_unchanged(self, name: str, given: bool) -> None:
        """Refuse what has taken the place of the run's data; say of given data that they are
        these."""
        path = pv.files.home(name)
        if name in pv.data.NAMES or (given and not path.exists()):
            return
        if not given:
            self._check_own(name, path)
        elif self._same(path) and getattr(self.options, "part", None) is None:
            say(f"{name} has what the run was trained on; --part test is what was held out")

    @property
    def gone(self) -> bool:
        """Whether the run's own data are not there any more, and no others were given."""
        name = str(self._made_of("data") or "")
        own = self._other is None and name not in ("", *pv.data.NAMES)
        return own and not pv.files.home(name).exists()

    def _check_own(self, name: str, path: Path) -> None:
        """Refuse a path in the run's config that is not what it was."""
        if not path.exists():
            raise pv.UsageError(
                f"the data of this run, {name}, are not there any more; give --data with where "
                f"they are now, or with others"
            )
        if path.is_dir() and path.resolve() in self.path.resolve().parents:
            # such as /, which takes minutes to walk
            raise pv.UsageError(
                f"{self.path}: data names a folder around the run, {name}; give --data"
            )
        refuse_home(self.path, name)
        if self._same(path) is False:
            raise pv.UsageError(
                f"{name} has changed since the run was trained on it, so that its test part may be "
                f"another; give --data {name} to take it as new data, all of it"
            )

    @functools.cached_property
    def _about(self) -> dict[str, Any]:
        """What the run keeps of its data; empty where it keeps nothing."""
        file = pv.files.inside(self.folder, pv.runs.DATA)
        found = pv.files.read_json(file) if file.exists() else {}
        if not isinstance(found, dict):
            raise pv.UsageError(f"{file} does not say what the data are; take another copy")
        return found

    def _same(self, path: Path) -> bool | None:
        """Whether a path has the data that the run was trained on; None where that is not known."""
        known = self._about.get("digest")
        if known is not None and path not in self._digests:
            self._digests[path] = pv.data.digest(path)
        return None if known is None else self._digests[path] == known

    def _splits(self, config: dict[str, Any]) -> Splits:
        """The data that a config names, loaded once."""
        if config["data"] not in self._loaded:
            self._loaded[config["data"]] = self._load(config)
        return self._loaded[config["data"]]

    def _load(self, config: dict[str, Any]) -> Splits:
        ours, name = getattr(self.options, "data_dir", None), config["data"]
        theirs = ours is None and config.get("data_dir") is not None
        return pv.data.load(
            name,
            config["data_dir"] if theirs else ours,
            download=not theirs,  # a run does not choose where on this machine to write
            seed=config["seed"],
            stream="auto" if config["other"] else BOOLEANS.get(config.get("stream", ""), "auto"),
            hold_out=not config["whole"],
            **self._of_a_table(config),
            **self._of_pictures(config),
        )

    def _of_pictures(self, config: dict[str, Any]) -> dict[str, Any]:
        """How pictures and arrays are read: as the run's were; others as far as they have it."""
        name, ours = str(config["data"]), getattr(self.options, "scale", None)
        theirs = self._whole() if config["other"] else config.get("scale")
        return {
            "resize": config.get("resize") if Path(name).is_dir() else None,
            "layout": config.get("layout", "auto") if name.endswith(pv.data.ARRAYS) else "auto",
            "scale": theirs if ours is None else ours,
        }

    def _whole(self) -> float | None:
        """What whole numbers are divided by where the likelihood takes such: 1."""
        return None if self.options.pair else pv.traces.as_pair(self.pair).scale

    def _of_a_table(self, config: dict[str, Any]) -> dict[str, Any]:
        """How a table is read: as the run's was; others by its columns, where they are known."""
        asked = of_a_table(config)
        if not config["other"]:
            return asked
        if Path(config["data"]).suffix.lower() not in pv.tables.SUFFIXES:
            return {}
        schema = self._schema()
        form = {name: value for name, value in asked.items() if name in FORM}
        return asked if schema is None else form | {"schema": schema}

    def _schema(self) -> Schema | None:
        """The columns of the tables that the run is of; a pair of its own code waits for data."""
        if self.options.pair is None:
            return pv.traces.as_pair(self.pair).schema
        known = self._about.get("schema")
        return None if known is None else pv.schema.Schema.from_dict(known)


class Verb:
    """A function of a run as a command.

    Its arguments with a default are the options, beside those that all verbs share.

    Args:
        function: ``function(run, *, options)``.
        figure: the name in the run's folder of the picture that it gives as a :class:`Drawing`,
            unless ``--out`` says otherwise; None where it gives none.
        table: the same of a table of numbers.
    """

    def __init__(
        self,
        function: Callable[..., Drawing | None],
        figure: str | None,
        table: str | None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.figure, self.table = function, figure, table
        self.__name__ = function.__name__

    def __call__(self, arguments: Sequence[str]) -> None:
        options = self._parser().parse_args(arguments)
        own = checked_options(self.function, options)
        at_least(0)("--seed", options.seed)
        run = Run(options)
        if self.figure is None and run.out is not None and run.out.suffix == ".png":
            raise pv.UsageError(f"{self.__name__} gives numbers: --out ends with .csv or .npy")
        with pv.progress.task(shown=not options.quiet):
            drawing = self.function(run, **own)
            if drawing is not None:
                run.write(self.figure or self.table or self.__name__, drawing)

    def _parser(self) -> Parser:
        parser = Parser(self)
        parser.add_argument("run", type=Path, help="run folder, or a model.safetensors file")
        add_option(parser, "data", str | None, None, "other data than the run's")
        add_option(parser, "data_dir", str | None, None, "where named sets are kept")
        add_option(parser, "binarise", str | None, None, "other than the run's")
        add_option(parser, "scale", float | None, None, "of other data: what divides them")
        kind = Literal["test", "train", "all"] | None
        text = "test, train or all: of the run's data the test part, of others all"
        add_option(parser, "part", kind, None, text)
        if self.figure is not None or self.table is not None:
            figure = "a .png figure, " if self.figure is not None else ""
            text = f"{figure}a .csv or .parquet table or a .npy array (default: in the run)"
            add_option(parser, "out", str | None, None, text)
        add_allow(parser)
        add_pair(parser)
        add_option(parser, "seed", int, 0, "of the draws")
        add_option(parser, "device", str, "auto", "auto, cpu, cuda, cuda:1, ...")
        add_option(parser, "quiet", bool, False, "no progress")
        add_options(parser, self.function)
        return parser


def verb(
    figure: str | None = None, *, table: str | None = None
) -> Callable[[Callable[..., Drawing | None]], Verb]:
    """Make a function of a run a command, see :class:`Verb`."""
    return functools.partial(Verb, figure=figure, table=table)
