"""Verbs on a run: functions of it whose signature is their options and whose docstring the help."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyrovae as pv
from pyrovae.cli.data import check_data, standardised
from pyrovae.cli.options import (
    BOOLEANS,
    Parser,
    add_allow,
    add_option,
    add_options,
    at_least,
    checked_options,
    read_config,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pyrovae.data import Splits
    from pyrovae.plots import Axes
    from pyrovae.program import Program
    from pyrovae.tensors import TensorData

__all__ = ["Count", "Drawing", "Run", "Verb", "Whole", "verb"]

Whole = Annotated[int, at_least(1)]
Count = Annotated[int, at_least(0)]


@dataclass(frozen=True)
class Drawing:
    """What a verb has found: a picture, and the numbers behind it.

    Attributes:
        values: a tensor.
        draw: gives the picture's Axes.
    """

    values: Tensor
    draw: Callable[[], Axes]


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
            if self.out.suffix not in (".png", ".npy"):
                raise pv.UsageError(f"--out ends with .png or .npy, got {self.out}")
        self.seed: int = options.seed
        self.device = pv.training.choose_device(options.device)

    @property
    def folder(self) -> Path:
        """The run's folder, where one of its files was named."""
        return self.path if self.path.is_dir() else self.path.parent

    @functools.cached_property
    def pair(self) -> Program:
        """The pair, on the device."""
        return pv.load(self.path, allow=self.options.allow).to(self.device)

    @functools.cached_property
    def test(self) -> TensorData:
        """The test data beside which the pair was trained, or those of ``--data``."""
        return self.data("test")

    def data(self, part: str) -> TensorData:
        """A part of those data, as the pair takes them."""
        pair = self.pair  # what cannot be opened says so before data are loaded
        config = self._config()
        splits = self._splits(config)
        given = getattr(splits, part)
        binarise = getattr(self.options, "binarise", None) or config.get("binarise", "none")
        if config.get("standardise"):
            if self._other is not None:
                raise pv.UsageError(
                    f"the run's data were standardised; {self._other} would need the same shift "
                    f"and scale: evaluate it in Python, with data.standardised(by=the training "
                    f"data)"
                )
            given = standardised(given, splits.train)
        found = pair.serve(given.binarised(binarise))
        if tuple(found.event_shape) != pair.event_shape:
            raise pv.UsageError(
                f"the run models data of shape {pair.event_shape}, {config['data']} has "
                f"{tuple(given.event_shape)}; give data of the run's shape"
            )
        check_data(pair, found)
        return found

    def write(self, name: str, drawing: Drawing) -> None:
        """A picture in the run's folder, or what ``--out`` says; its path is printed."""
        import numpy as np

        path = self.out or pv.files.inside(self.folder, f"figures/{name}.png")
        if path.suffix == ".npy":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, drawing.values.numpy())
        else:
            pv.plots.save(drawing.draw(), path)
        print(path)

    @property
    def _other(self) -> str | None:
        """Other data than the run's, where they were given."""
        return getattr(self.options, "data", None)

    def _config(self) -> dict[str, Any]:
        file = self.folder / "config.yaml"
        config = read_config(file) if file.is_file() else {}
        name = self._other or config.get("data")
        if name is None:
            raise pv.UsageError(
                f"{self.path} does not say what data it was trained on; give --data"
            )
        around = self._other is None and Path(name).is_dir()
        if around and Path(name).resolve() in self.path.resolve().parents:
            # such as /, which takes minutes to walk
            raise pv.UsageError(f"{file}: data names a folder around the run, {name}; give --data")
        seed = config.get("seed", 0)
        if not 0 <= seed < 2**32:
            raise pv.UsageError(f"{file}: seed must be at least 0 and below 2^32, got {seed}")
        return config | {"data": name, "seed": seed}

    def _splits(self, config: dict[str, Any]) -> Splits:
        ours = getattr(self.options, "data_dir", None)
        theirs = ours is None and config.get("data_dir") is not None
        table = str(config["data"]).endswith((".csv", ".parquet"))
        return pv.data.load(
            config["data"],
            config["data_dir"] if theirs else ours,
            download=not theirs,  # a run does not choose where on this machine to write
            label=config.get("label") if table else None,
            seed=config["seed"],
            stream="auto" if self._other else BOOLEANS.get(config.get("stream", ""), "auto"),
            **self._asked(config),
        )

    def _asked(self, config: dict[str, Any]) -> dict[str, Any]:
        """What was asked for of the run's data, as far as other data have it."""
        name, ours = str(config["data"]), getattr(self.options, "scale", None)
        asked = {
            "resize": config.get("resize") if Path(name).is_dir() else None,
            "layout": config.get("layout", "auto") if name.endswith(pv.data.ARRAYS) else "auto",
            "scale": None if self._other else config.get("scale"),
        }
        return asked | ({} if ours is None else {"scale": ours})


class Verb:
    """A function of a run as a command.

    Its arguments with a default are the options, beside those that all verbs share.

    Args:
        function: ``function(run, *, options)``.
        figure: the name in the run's folder of the picture that it gives as a :class:`Drawing`,
            unless ``--out`` says otherwise; None where it gives none.
        data: whether other data than the run's may be given.
    """

    def __init__(
        self, function: Callable[..., Drawing | None], figure: str | None, data: bool
    ) -> None:
        functools.update_wrapper(self, function)
        self.function, self.figure, self.data = function, figure, data
        self.__name__ = function.__name__

    def __call__(self, arguments: Sequence[str]) -> None:
        options = self._parser().parse_args(arguments)
        own = checked_options(self.function, options)
        at_least(0)("--seed", options.seed)
        run = Run(options)
        drawing = self.function(run, **own)
        if drawing is not None and self.figure is not None:
            run.write(self.figure, drawing)

    def _parser(self) -> Parser:
        parser = Parser(self)
        parser.add_argument("run", type=Path, help="run folder, or a model.safetensors file")
        if self.data:
            add_option(parser, "data", str | None, None, "other data than the run's")
            add_option(parser, "data_dir", str | None, None, "where named sets are kept")
            add_option(parser, "binarise", str | None, None, "other than the run's")
            add_option(parser, "scale", float | None, None, "of other data: what divides them")
        if self.figure is not None:
            text = "a .png figure or a .npy array, by default a figure in the run folder"
            add_option(parser, "out", str | None, None, text)
        add_allow(parser)
        add_option(parser, "seed", int, 0, "of the draws")
        add_option(parser, "device", str, "auto", "auto, cpu, cuda, cuda:1, ...")
        add_options(parser, self.function)
        return parser


def verb(
    figure: str | None = None, *, data: bool = True
) -> Callable[[Callable[..., Drawing | None]], Verb]:
    """Make a function of a run a command, see :class:`Verb`."""
    return functools.partial(Verb, figure=figure, data=data)
