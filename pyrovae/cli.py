"""``pyrovae fit | evaluate | sample | reconstruct | interpolate | traverse | info``."""

from __future__ import annotations

import datetime
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrovae as pv

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

__all__ = ["main"]

DEFAULT_NETWORK = {"class_path": "pyrovae.networks.MLP", "init_args": {"hidden": [400]}}
PARTS = {
    "prior": ("priors", "Prior", "StandardNormal"),
    "likelihood": ("likelihoods", "Likelihood", "Bernoulli"),
    "guide": ("guides", "Guide", "MeanField"),
}
TRANSIENT = ("config", "out", "force", "quiet", "debug")  # not part of what repeats a run


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits 0, 2 on a mistake in what was asked, 130 on Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_dispatch(arguments))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"pyrovae {pv.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    debug = "--debug" in rest
    try:
        if name not in COMMANDS:
            raise pv.UsageError(
                f"there is no command {name!r}{pv.data.nearest(name, list(COMMANDS))}. "
                f"Commands: {', '.join(COMMANDS)}; see pyrovae --help"
            )
        return COMMANDS[name](rest) or 0
    except KeyboardInterrupt as stop:
        if debug:
            raise
        print(f"pyrovae: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    except (pv.UsageError, pv.training.Diverged, OSError) as error:
        if debug:
            raise
        print(f"pyrovae: error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # a defect of ours, said as such
        if debug:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"pyrovae: internal error: {type(error).__name__}: {error} (at {last.name}, line "
            f"{last.lineno}). This is a defect of pyrovae; --debug shows the traceback",
            file=sys.stderr,
        )
        return 1


def _overview() -> str:
    lines = [
        "pyrovae: variational autoencoders as probabilistic programs",
        "",
        "  pyrovae fit                              train on bundled digits: under a minute",
        "  pyrovae fit --data mnist --epochs 20     a named data set",
        "  pyrovae fit --data x.npy --likelihood Normal --latent-dim 2",
        "  pyrovae evaluate runs/...                numbers of a saved run",
        "",
        "commands (each answers --help with examples):",
    ]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<12} {(inspect.getdoc(command) or '').splitlines()[0]}")
    return "\n".join([*lines, "", "options: --help, --version; --debug shows tracebacks"])


def _parser(command: Callable[..., Any], run: bool = True) -> ArgumentParser:
    """A parser whose help is the command's docstring, examples included."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    name = command.__name__.strip("_")
    text, _, examples = (inspect.getdoc(command) or "").partition("Examples:\n")

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(indent + line for line in text.splitlines())

    parser = ArgumentParser(
        prog=f"pyrovae {name}",
        description=text.strip(),
        epilog="examples:\n" + examples.rstrip(),
        formatter_class=Formatter,
        exit_on_error=False,
        default_env=False,
    )
    if run:
        parser.add_argument("run", type=str, help="run folder, or a model.safetensors file")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _option(parser: Any, name: str, **settings: Any) -> None:
    """An option that may be written with dashes or underscores."""
    names = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
    parser.add_argument(*names, **settings)


def _parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    from argparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        words = " ".join(str(error).split()).replace("Parser key", "option")
        raise pv.UsageError(f"{words}. See {parser.prog} --help") from error


def _classes(part: str) -> dict[str, type]:
    """The concrete classes of a room, by name: a new class is here as soon as it is written."""
    room, base, _ = PARTS.get(part, ("networks", "Network", "MLP"))
    module = getattr(pv, room)
    found: dict[str, type] = {}
    for name in module.__all__:
        cls = getattr(module, name)
        if inspect.isclass(cls) and issubclass(cls, getattr(module, base)):
            if not inspect.isabstract(cls):
                found[name] = cls
    return found


def _known(part: str, path: str) -> str:
    """The full path of a class given by name or path.

    Raises:
        UsageError: no such class, with the nearest name.
    """
    known = _classes(part)
    paths = {f"{cls.__module__}.{name}": name for name, cls in known.items()}
    if path in paths:
        return path
    if path not in known:
        raise pv.UsageError(
            f"there is no {part} {path!r}{pv.data.nearest(path, list(known))}. Choose one of "
            f"{', '.join(known)}"
        )
    return f"{known[path].__module__}.{path}"


def _check_classes(arguments: list[str]) -> None:
    """Refuse unknown class names before the parser tries to import them."""
    for flag, value in _pairs(arguments):
        part = flag.split(".")[-1]
        if flag in PARTS or (part == "network" and flag.split(".")[0] in PARTS):
            if not value.lstrip().startswith("{"):
                _known(part, value)


def _pairs(arguments: list[str]) -> Iterator[tuple[str, str]]:
    for position, argument in enumerate(arguments):
        if argument.startswith("--") and "=" in argument:
            flag, _, value = argument.removeprefix("--").partition("=")
            yield flag, value
        elif argument.startswith("--") and position + 1 < len(arguments):
            yield argument.removeprefix("--"), arguments[position + 1]


def _read_config(path: str) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is not a YAML file"
        raise pv.UsageError(f"cannot read the config {path}: {reason}") from error
    if not isinstance(config, dict):
        raise pv.UsageError(f"the config {path} is not a mapping of options to values")
    for part in PARTS:
        value = config.get(part)
        if value is not None:
            config[part] = value = {"class_path": value} if isinstance(value, str) else value
            value["class_path"] = _known(part, str(value.get("class_path")))
            network = (value.get("init_args") or {}).get("network")
            if isinstance(network, dict):
                network["class_path"] = _known("network", str(network.get("class_path")))
    return config


def _fit_parser() -> ArgumentParser:
    parser = _parser(fit, run=False)
    parser.add_argument("--config", type=str, help="YAML file of options; flags win over it")
    group = parser.add_argument_group("data")
    _option(group, "data", type=str, default="mnist5k", help="a name or a path")
    _option(group, "data_dir", type=str | None, default=None, help="where named sets are kept")
    _option(group, "label", type=str | None, default=None, help="label column of a table")
    _option(
        group,
        "binarise",
        type=str,
        default="auto",
        help="dynamic, static, threshold or none; auto: dynamic for a named set of images under "
        "a Bernoulli likelihood, else none",
    )
    _option(group, "validation", type=float, default=0.1, help="held-out fraction or number")
    group = parser.add_argument_group("model")
    _option(group, "latent_dim", type=int, default=20, help="size of z")
    for part, (room, base, default) in PARTS.items():
        init = {} if part == "prior" else {"init_args": {"network": DEFAULT_NETWORK}}
        cls = getattr(pv, room)
        parser.add_subclass_arguments(
            getattr(cls, base),
            part,
            default={"class_path": f"pyrovae.{room}.{default}", **init},
            help=f"one of {', '.join(_classes(part))}; its own arguments follow a dot",
        )
    group = parser.add_argument_group("training")
    _option(group, "loss", type=str, default="trace", help="trace, or analytic (closed-form KL)")
    _option(group, "epochs", type=int, default=40, help="passes over the data")
    _option(group, "batch_size", type=int, default=128, help="data per step")
    _option(group, "lr", type=float, default=1e-3, help="learning rate of Adam")
    _option(group, "seed", type=int, default=0, help="of weights, order and noise")
    _option(group, "device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group = parser.add_argument_group("results")
    _option(group, "num_particles", type=int, default=1000, help="for the log evidence")
    _option(group, "out", type=str | None, default=None, help="run folder (default: runs/...)")
    group.add_argument("--force", action="store_true", help="overwrite an existing run folder")
    group.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def fit(arguments: list[str]) -> int:
    """train a VAE and leave a run folder with model, metrics, table and figures

    Any class of priors, likelihoods, guides and networks can be named, and its own arguments
    given after a dot; --config takes a file of the same options (every run saves one).

    Examples:
      pyrovae fit
      pyrovae fit --data mnist --data-dir ~/data --epochs 20 --loss analytic
      pyrovae fit --data digits --likelihood Normal --likelihood.scale per_dimension
      pyrovae fit --data x.npy --binarise dynamic --latent-dim 2 --out runs/mine
      pyrovae fit --likelihood.network ConvNet --guide.network ConvNet
      pyrovae fit --guide.network.hidden [300,300] --epochs 5
      pyrovae fit --config runs/mine/config.yaml --out runs/again
    """
    _check_classes(arguments)
    parser = _fit_parser()
    options = _parse(parser, arguments)
    if options.config is not None:
        given = _read_config(options.config)
        unknown = [key for key in given if key not in vars(options)]
        if unknown:
            raise pv.UsageError(
                f"{options.config} has unknown option(s) {', '.join(map(str, unknown))}"
                f"{pv.data.nearest(str(unknown[0]), list(vars(options)))}"
            )
        try:
            parser.set_defaults(given)
            options = _parse(parser, arguments)
        except (TypeError, ValueError) as error:
            raise pv.UsageError(f"{options.config}: {error}") from error
    losses = {"trace": "Trace_ELBO", "analytic": "TraceMeanField_ELBO"}
    if options.loss not in losses:
        raise pv.UsageError(
            f"there is no loss {options.loss!r}{pv.data.nearest(options.loss, list(losses))}. "
            f"Choose trace or analytic"
        )
    import pyro.infer
    import torch

    device = pv.training.choose_device(options.device)
    parts = {name: _component(options[name]) for name in PARTS}
    binary = type(parts["likelihood"]).__name__ == "Bernoulli"
    splits = pv.data.load(options.data, options.data_dir, label=options.label, seed=options.seed)
    train, test, binarise = _binarised(splits, options, binary)
    config = {k: v for k, v in options.as_dict().items() if k not in TRANSIENT and k not in PARTS}
    config |= {"binarise": binarise}
    config |= {name: pv.runs.describe(part) for name, part in parts.items()}
    out = options.out or _new_folder(splits.name)
    folder = pv.runs.Folder.prepare(out, force=options.force, config=config)

    torch.manual_seed(options.seed)
    vae = pv.VAE(tuple(train.event_shape), options.latent_dim, **parts)
    print(
        f"{splits.description}\n{len(train):,} data to train on, device {device}, "
        f"seed {options.seed}, {sum(p.numel() for p in vae.parameters()):,} parameters",
        file=sys.stderr,
    )
    history = pv.fit(
        vae,
        train,
        loss=getattr(pyro.infer, losses[options.loss])(),
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        validation=_share(options.validation),
        seed=options.seed,
        device=device,
        out=folder,
        progress=not options.quiet,
    )
    found = pv.evaluate(vae, test, options.num_particles)
    folder.write_json("evaluation.json", found.to_dict())
    _figures(vae, test, splits.classes, history, found, folder.path)
    print(f"\ntest set, {found}\n\n{folder.path}")
    return 0


def _component(value: Any) -> Any:
    return pv.runs.construct(value.as_dict() if hasattr(value, "as_dict") else value)


def _share(value: float) -> float | int | None:
    """A fraction below 1, a number of data from 1 on, None for 0."""
    if value < 0:
        raise pv.UsageError(f"validation is a fraction or a number of data, got {value}")
    return None if value == 0 else value if value < 1 else int(value)


def _binarised(splits: Any, options: Any, binary: bool) -> tuple[Any, Any, str]:
    mode = options.binarise
    if mode == "auto":
        named = splits.name in pv.data.NAMES
        mode = "dynamic" if binary and named and splits.train.maximum is not None else "none"
    # a test set is drawn once, so that its numbers can be compared
    return splits.train.binarised(mode, options.seed), splits.test.binarised(mode), mode


def _new_folder(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"vae-{Path(name).stem}-{stamp}"


def _figures(vae: Any, test: Any, classes: Any, history: Any, found: Any, path: Path) -> None:
    figures = path / "figures"
    plots = pv.plots
    few = test.select(_first_of_each(test, 10)).fixed()
    plots.save(plots.training_curves(history.rows), figures / "training.png")
    x, mean = few.x.cpu(), pv.reconstruct(vae, few)
    plots.save(plots.reconstructions(x, mean), figures / "reconstructions.png")
    plots.save(plots.data_grid(pv.sample(vae, 64, mean=True)), figures / "samples.png")
    half = len(x) // 2
    if half:
        between = pv.interpolate(vae, x[:half], x[half : 2 * half], steps=10)
        plots.save(plots.interpolation(between), figures / "interpolation.png")
    codes, kl = found.codes["z"], found.kl_dimensions.get("z")
    if codes.shape[1] > 1:
        axes = plots.latent_map(codes, test.labels, classes=classes)
        plots.save(axes, figures / "latent_map.png")
    if kl is not None:
        plots.save(plots.kl_bars(kl, active=found.active["z"]), figures / "kl.png")


def _first_of_each(data: Any, n: int) -> Any:
    """``n`` data of different classes where there are labels, the first ones elsewhere."""
    import torch

    if data.labels is None:
        return torch.arange(min(n, len(data)))
    chosen = [int((data.labels == label).nonzero()[0]) for label in data.labels.unique()[:n]]
    rest = [i for i in range(len(data)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen + rest)


def _open(options: Any) -> tuple[Any, Any]:
    """The run's pair, and the test data that it was trained beside (or ``--data``)."""
    run = Path(options.run)
    pair = pv.load(run)
    config_file = (run if run.is_dir() else run.parent) / "config.yaml"
    config = _read_config(str(config_file)) if config_file.is_file() else {}
    name = options.data or config.get("data")
    if name is None:
        raise pv.UsageError(f"{run} does not say what data it was trained on; pass --data")
    mode = options.binarise or config.get("binarise", "none")
    splits = pv.data.load(
        name,
        options.data_dir or config.get("data_dir"),
        label=config.get("label"),
        seed=config.get("seed", 0),
    )
    if tuple(splits.test.event_shape) != pair.event_shape:
        raise pv.UsageError(
            f"the run models data of shape {pair.event_shape}, {name} has "
            f"{tuple(splits.test.event_shape)}; pass data of the run's shape"
        )
    return pair, (splits, splits.test.binarised(mode))


def _run_parser(command: Callable[..., Any]) -> ArgumentParser:
    parser = _parser(command)
    _option(parser, "data", type=str | None, default=None, help="other data than the run's")
    _option(parser, "data_dir", type=str | None, default=None, help="where named sets are kept")
    _option(parser, "binarise", type=str | None, default=None, help="other than the run's")
    _option(parser, "seed", type=int, default=0, help="of the draws")
    return parser


def _figure_parser(command: Callable[..., Any]) -> ArgumentParser:
    parser = _run_parser(command)
    _option(
        parser,
        "out",
        type=str | None,
        default=None,
        help="a .png figure or a .npy array (default: a figure in the run folder)",
    )
    return parser


def _write(options: Any, name: str, values: Any, axes: Callable[[], Any]) -> int:
    """A figure, or the numbers behind it."""
    import numpy as np

    run = Path(options.run)
    default = (run if run.is_dir() else run.parent) / "figures" / f"{name}.png"
    path = Path(options.out) if options.out else default
    try:
        if path.suffix == ".npy":
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values.numpy())
        elif path.suffix == ".png":
            pv.plots.save(axes(), path)
        else:
            raise pv.UsageError(f"--out ends with .png or .npy, got {path}")
    except OSError as error:
        raise pv.UsageError(f"cannot write {path}: {error.strerror}") from error
    print(path)
    return 0


def _indices(data: Any, chosen: Sequence[int]) -> Any:
    wrong = [i for i in chosen if not 0 <= i < len(data)]
    if wrong:
        raise pv.UsageError(f"the data have indices 0 to {len(data) - 1}, got {wrong}")
    import torch

    return data.select(torch.tensor(list(chosen)))


def evaluate(arguments: list[str]) -> int:
    """ELBO, reconstruction, KL, log evidence, k-hat and active units of a run on test data

    Examples:
      pyrovae evaluate runs/mine
      pyrovae evaluate runs/mine --num-particles 5000 --json
      pyrovae evaluate runs/mine --data other.npy
    """
    parser = _run_parser(evaluate)
    _option(parser, "num_particles", type=int, default=1000, help="importance samples per datum")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = _parse(parser, arguments)
    pair, (_, test) = _open(options)
    found = pv.evaluate(pair, test, options.num_particles, seed=options.seed)
    run = Path(options.run)
    if run.is_dir():
        pv.runs.Folder(run).write_json("evaluation.json", found.to_dict())
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0


def sample(arguments: list[str]) -> int:
    """draw new data from the prior

    Examples:
      pyrovae sample runs/mine
      pyrovae sample runs/mine --n 100 --mean false --out samples.png
      pyrovae sample runs/mine --n 10000 --mean false --out samples.npy
    """
    parser = _figure_parser(sample)
    _option(parser, "n", type=int, default=64, help="how many")
    _option(parser, "mean", type=bool, default=True, help="E[x|z] instead of a draw of x")
    options = _parse(parser, arguments)
    values = pv.sample(pv.load(options.run), options.n, mean=options.mean, seed=options.seed)
    return _write(options, "samples", values, lambda: pv.plots.data_grid(values))


def reconstruct(arguments: list[str]) -> int:
    """data beside their reconstructions

    Examples:
      pyrovae reconstruct runs/mine
      pyrovae reconstruct runs/mine --n 5 --draws 3 --out reconstructions.png
    """
    parser = _figure_parser(reconstruct)
    _option(parser, "n", type=int, default=10, help="how many test data")
    _option(parser, "draws", type=int, default=0, help="rows of draws below the mean")
    options = _parse(parser, arguments)
    pair, (_, test) = _open(options)
    few = test.select(_first_of_each(test, _at_least_one("n", options.n))).fixed()
    mean = pv.reconstruct(pair, few, seed=options.seed)
    draws = None
    if options.draws:
        count = _at_least_one("draws", options.draws)
        draws = pv.reconstruct(pair, few, draws=count, seed=options.seed)
    n = len(few)
    return _write(
        options,
        "reconstructions",
        mean if draws is None else draws,
        lambda: pv.plots.reconstructions(few.x.cpu(), mean, draws, n=n),
    )


def interpolate(arguments: list[str]) -> int:
    """decode the path between the codes of two test data

    Examples:
      pyrovae interpolate runs/mine
      pyrovae interpolate runs/mine --start 3 --end 17 --steps 12 --method spherical
    """
    parser = _figure_parser(interpolate)
    _option(parser, "start", type=int | None, default=None, help="index of a test datum")
    _option(parser, "end", type=int | None, default=None, help="index of another")
    _option(parser, "steps", type=int, default=10, help="points on the path")
    _option(parser, "method", type=str, default="linear", help="linear or spherical")
    options = _parse(parser, arguments)
    pair, (_, test) = _open(options)
    if (options.start is None) != (options.end is None):
        raise pv.UsageError("give both --start and --end, or neither")
    if options.start is None:
        ends = _first_of_each(test, 10)
        half = len(ends) // 2
        a, b = test.select(ends[:half]), test.select(ends[half : 2 * half])
    else:
        a, b = _indices(test, [options.start]), _indices(test, [options.end])
    values = pv.interpolate(pair, a.fixed(), b.fixed(), options.steps, method=options.method)
    return _write(options, "interpolation", values, lambda: pv.plots.interpolation(values))


def traverse(arguments: list[str]) -> int:
    """vary one latent unit at a time, the active ones first

    Examples:
      pyrovae traverse runs/mine
      pyrovae traverse runs/mine --index 7 --dims [0,3] --steps 11 --span 3
    """
    parser = _figure_parser(traverse)
    _option(parser, "index", type=int, default=0, help="the test datum to vary")
    _option(parser, "dims", type=list[int] | None, default=None, help="units, e.g. [0,3]")
    _option(parser, "steps", type=int, default=9, help="values of each unit")
    _option(parser, "span", type=float, default=2.0, help="from -span to span")
    options = _parse(parser, arguments)
    pair, (_, test) = _open(options)
    _indices(test, [options.index])
    order = [options.index, *(i for i in range(min(len(test), 1000)) if i != options.index)]
    images, dims, values = pv.traverse(
        pair,
        _indices(test, order).fixed(),
        dims=options.dims,
        steps=_at_least_one("steps", options.steps),
        span=options.span,
    )
    return _write(
        options, "traversal", images, lambda: pv.plots.traversal(images, dims=dims, values=values)
    )


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise pv.UsageError(f"{name} must be at least 1, got {value}")
    return value


def info(arguments: list[str]) -> int:
    """what a run is, or what a data set looks like

    Examples:
      pyrovae info runs/mine
      pyrovae info --data digits
      pyrovae info --data table.csv
    """
    parser = _parser(info, run=False)
    parser.add_argument("run", nargs="?", type=str | None, default=None, help="run folder")
    _option(parser, "data", type=str | None, default=None, help="a data set's name or path")
    _option(parser, "data_dir", type=str | None, default=None, help="where named sets are kept")
    options = _parse(parser, arguments)
    if (options.run is None) == (options.data is None):
        raise pv.UsageError("give a run folder, or --data with a name or path")
    print(_describe_data(options) if options.data else _describe_run(Path(options.run)))
    return 0


def _describe_run(run: Path) -> str:
    pair = pv.load(run)
    folder = run if run.is_dir() else run.parent
    lines = [f"{run}", f"parameters: {sum(p.numel() for p in pair.parameters()):,}", str(pair)]
    for name in ("config.yaml", "environment.json", "evaluation.json"):
        if (folder / name).is_file():
            lines += ["", f"{name}:", (folder / name).read_text().rstrip()]
    return "\n".join(lines)


def _describe_data(options: Any) -> str:
    splits = pv.data.load(options.data, options.data_dir)
    x = splits.train.x
    finite = x[x.isfinite()]
    kinds = {
        "0 or 1": bool(((finite == 0) | (finite == 1)).all()),
        "whole numbers": bool((finite == finite.round()).all()),
        "numbers in [0, 1]": bool((finite.min() >= 0) & (finite.max() <= 1)),
    }
    kind = next((name for name, holds in kinds.items() if holds), "real numbers")
    return "\n".join(
        [
            splits.description,
            f"train {len(splits.train):,}, test {len(splits.test):,}, shape "
            f"{list(x.shape[1:])}, {len(splits.classes or ())} classes",
            f"values: {kind}, from {finite.min():.4g} to {finite.max():.4g}, mean "
            f"{finite.mean():.4g}, {x.numel() - finite.numel():,} missing or infinite",
        ]
    )


COMMANDS: Mapping[str, Callable[[list[str]], int]] = {
    command.__name__: command
    for command in (fit, evaluate, sample, reconstruct, interpolate, traverse, info)
}
