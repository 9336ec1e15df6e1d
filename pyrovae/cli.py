"""``pyrovae fit | evaluate | sample | reconstruct | interpolate | traverse | info``."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import inspect
import itertools
import json
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import pyrovae as pv

__all__ = ["main"]

OF_A_MODEL = ("prior", "likelihood", "guide")
# Options that are objects, the kind of part that each is, and words for none of its classes.
PARTS = {name: name for name in (*OF_A_MODEL, "loss")} | {"lr_schedule": "schedule"}
LOSSES = {"trace": "Trace_ELBO", "analytic": "TraceMeanField_ELBO"}
WORDS = {"loss": tuple(LOSSES), "lr_schedule": ("constant",)}

# The options of fit and the keys of its config: type, default, help.
Option = tuple[Any, Any, str]
FIT: dict[str, dict[str, Option]] = {
    "data": {
        "data": (str, "mnist5k", "a name or a path"),
        "data_dir": (str | None, None, "where named sets are kept"),
        "label": (str | None, None, "label column of a table"),
        "binarise": (
            str,
            "auto",
            "dynamic, static, threshold or none; auto: dynamic for a named set of images under a "
            "Bernoulli likelihood, else none",
        ),
        "validation": (float, 0.1, "held-out fraction, or number from 1 on; 0 for none"),
    },
    "model": {"latent_dim": (int, 20, "size of z")},
    "training": {
        "epochs": (int, 40, "passes over the data"),
        "batch_size": (int, 128, "data per step"),
        "lr": (float, 1e-3, "learning rate of Adam"),
        "seed": (int, 0, "of weights, order and noise"),
        "device": (str, "auto", "auto, cpu, cuda, cuda:1, ..."),
        "precision": (str, "float32", "float32, or bf16 for matrix products in bfloat16"),
    },
    "results": {
        "num_particles": (int, 1000, "for the log evidence"),
        "out": (str | None, None, "run folder, by default runs/..."),
        "force": (bool, False, "overwrite the files of a run that is there already"),
        "quiet": (bool, False, "no progress"),
    },
}
OPTIONS = {name: option for group in FIT.values() for name, option in group.items()}
TRANSIENT = ("out", "force", "quiet")  # not part of what repeats a run


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits 0, 2 on a mistake in what was asked, 130 on Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
            if not arguments or arguments[0] in ("-h", "--help", "help"):
                print(_overview())
            elif arguments[0] in ("-V", "--version"):
                print(f"pyrovae {pv.__version__}")
            elif arguments[0] in COMMANDS:
                COMMANDS[arguments[0]](arguments[1:])
            else:
                raise pv.components.unknown("command", arguments[0], COMMANDS)
            sys.stdout.flush()
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        code = _explain(error)
    sys.exit(code)


def _say(message: str) -> None:
    print(f"pyrovae: {message}", file=sys.stderr)


def _explain(error: BaseException) -> int:
    """One line about what went wrong, and the exit code."""
    words, code = textwrap.shorten(str(error), 600), 2
    if isinstance(error, KeyboardInterrupt):
        _say(words or "interrupted")
        return 130
    if isinstance(error, BrokenPipeError):  # | head: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError) and error.filename:
        words = f"cannot use {error.filename}: {error.strerror}; choose another path"
    elif re.search("out of memory|can't allocate|Storage size|MemoryError", repr(error)):
        words = (
            "there is not enough memory for this; lower --batch-size, --num-particles, "
            "--latent-dim or the network's sizes"
        )
    elif not isinstance(error, (pv.UsageError, pv.training.Diverged, OSError)):
        last, code = traceback.extract_tb(error.__traceback__)[-1], 1
        words = (
            f"internal error: {type(error).__name__}: {words} (at {last.name}, line "
            f"{last.lineno}). This is a defect of pyrovae; --debug shows the traceback"
        )
    _say(f"error: {words}")
    return code


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


class _Parser(argparse.ArgumentParser):
    """A parser whose help is the command's docstring, examples included."""

    def __init__(self, command: Callable[..., Any]) -> None:
        text, _, examples = (inspect.getdoc(command) or "").partition("Examples:\n")
        super().__init__(
            prog=f"pyrovae {command.__name__}",
            description=text.strip(),
            epilog="examples:\n" + examples.rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            names = [name for name in self._option_string_actions if name.startswith("--")]
            hint = pv.data.nearest(unknown[1], names)
            message = f"there is no option {unknown[1]}{hint}"
        message = re.sub(r"^argument (--[\w-]+)\S*:? (?=\w)", r"\1 ", message)
        raise pv.UsageError(
            f"{message.removesuffix('.')}. See {self.prog} --help".replace("?.", "?")
        )


def _option(parser: Any, name: str, kind: Any, default: Any, text: str) -> None:
    """An option that may be written with dashes or underscores."""
    names = dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"])
    if kind is bool and not default:
        parser.add_argument(*names, action="store_true", default=default, help=text)
        return

    def typed(value: str) -> Any:
        try:
            return pv.components.typed(kind, value, "")
        except pv.UsageError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from error

    parser.add_argument(
        *names,
        type=typed,
        default=default,
        metavar=name.upper(),
        help=text if default is None else f"{text} (default: {default})",
    )


def _describe_class(option: str, cls: Any) -> str:
    """What a class is and the flags of its own arguments, for the help."""
    words = (inspect.getdoc(cls) or "").partition(">>>")[0].rstrip()
    lines = [f"{option} {cls.__name__}:", textwrap.indent(words, "  "), ""]
    for name, slot in pv.components.slots(cls).items():
        flag = f"  --{option}.{name}".replace("_", "-")
        if slot.part:
            own = type(slot.default).__name__ if slot.default is not None else "none"
            lines.append(
                f"{flag} one of {', '.join(pv.components.classes(slot.part))} (default: {own})"
            )
        else:
            lines.append(flag + (" (required)" if slot.required else f" (default: {slot.default})"))
    return "\n".join(lines)


def _take_parts(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """The flags of parts such as the guide (``--guide.network.hidden``) apart from the rest.

    They are open-ended: which there are depends on the classes chosen.
    """
    rest, flags, words = [], {}, iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        path = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and path.split(".")[0] in PARTS:
            value = value if equals else next(words, "--")
            if value.startswith("--"):
                raise pv.UsageError(f"{flag} needs a value; see pyrovae fit --help")
            flags[path] = value
        else:
            rest.append(word)
    return rest, flags


def _put(tree: dict[str, Any], path: str, value: str) -> None:
    """Set one flag of a part in the config's tree."""
    *above, last = path.split(".")
    for name in above:
        node = tree.get(name) or {}
        tree[name] = {"class_path": node} if isinstance(node, str) else dict(node)
        tree[name]["init_args"] = dict(tree[name].get("init_args") or {})
        tree = tree[name]["init_args"]
    if not above:  # another likelihood keeps the network that the config gives
        node = tree.get(last)
        if value in WORDS.get(last, ()):
            tree[last] = value
            return
        slots = pv.components.slots(_class(last, value))
        init = (node.get("init_args") or {}) if isinstance(node, Mapping) else {}
        kept = {k: v for k, v in init.items() if k in slots and slots[k].part}
        tree[last] = {"class_path": value, "init_args": kept}
    else:
        tree[last] = value


def _class(option: str, name: Any) -> Any:
    """The class that an option names."""
    try:
        return pv.components.find(PARTS[option], name)
    except pv.UsageError as error:
        words = WORDS.get(option, ())
        choices = [*words, *pv.components.classes(PARTS[option])]
        raise (pv.components.unknown(option, name, choices) if words else error) from error


def _part(option: str, given: Any) -> Any:
    """The object that an option means; a word stays a word."""
    words = WORDS.get(option, ())
    given = words[0] if words and given is None else given
    if given in words:
        return given
    name = given.get("class_path") if isinstance(given, Mapping) else given
    if isinstance(name, str):
        _class(option, name)
    return pv.components.construct(given, PARTS[option], option)


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or "it is not a YAML file"
        raise pv.UsageError(f"cannot read the config {path}: {reason}") from error
    if not isinstance(config, dict):
        raise pv.UsageError(f"the config {path} is not a mapping of options to values")
    for name, value in config.items():
        if name in OPTIONS:
            config[name] = pv.components.typed(OPTIONS[name][0], value, f"{path}: {name}")
        elif name not in PARTS:
            raise pv.components.unknown(f"option for {path} to set:", name, [*OPTIONS, *PARTS])
    return config


def _fit_parser(flags: Mapping[str, str]) -> _Parser:
    """The parser; its help has the arguments of the classes that the flags choose."""
    parser = _Parser(fit)
    chosen = {option: value for option, value in flags.items() if option in PARTS}
    known = {o: c for o, v in chosen.items() if (c := pv.components.classes(PARTS[o]).get(v))}
    parser.epilog = "\n\n".join(
        [*(_describe_class(option, cls) for option, cls in known.items()), str(parser.epilog)]
    )
    parser.add_argument("--config", help="YAML file of options; flags win over it")
    for title, options in FIT.items():
        group = parser.add_argument_group(title)
        for name, option in options.items():
            _option(group, name, *option)
        # only for the help: _take_parts sees them first
        for part in {"model": OF_A_MODEL, "training": ("loss", "lr_schedule")}.get(title, ()):
            words = WORDS.get(part, ())
            named = [*words, *pv.components.classes(PARTS[part])]
            usual = words[0] if words else pv.components.PARTS[PARTS[part]][2]
            text = f"{', '.join(named)}; --{part.replace('_', '-')} {named[-1]} --help tells more"
            _option(group, part, str, usual, text)
    return parser


def _fit_options(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and those that are objects: by default, as configured, as flagged."""
    rest, flags = _take_parts(arguments)
    parser = _fit_parser(flags)
    options = parser.parse_args(rest)
    config = {} if options.config is None else _read_config(Path(options.config))
    tree = {part: config.pop(part, None) for part in PARTS}
    for path in sorted(flags, key=lambda path: path.count(".")):
        _put(tree, path, flags[path])
    parts = {part: _part(part, tree[part]) for part in PARTS}
    parser.set_defaults(**config)
    options = parser.parse_args(rest)
    _at_least(1, options, "num_particles")
    _at_least(0, options, "seed")
    return options, parts


def fit(arguments: list[str]) -> None:
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
    options, parts = _fit_options(arguments)
    import pyro.infer
    import torch

    device = pv.training.choose_device(options.device)
    splits = pv.data.load(options.data, options.data_dir, label=options.label, seed=options.seed)
    train, test, binarise = _binarised(splits, options, parts["likelihood"])
    config = {name: getattr(options, name) for name in OPTIONS if name not in TRANSIENT}
    config |= {"binarise": binarise}
    for name in ("data", "data_dir"):  # so that the run is repeated from any folder
        given = config[name]
        if given is not None and given not in pv.data.NAMES and Path(given).exists():
            config[name] = str(Path(given).resolve())
    config |= {name: pv.components.describe(part) for name, part in parts.items()}
    torch.manual_seed(options.seed)
    of_a_model = {name: parts[name] for name in OF_A_MODEL}
    vae = pv.VAE(tuple(train.event_shape), options.latent_dim, **of_a_model)
    train, test = (_labelled(vae, part) for part in (train, test))
    _check(vae, test)
    folder = pv.runs.Folder.prepare(
        options.out or _new_folder(splits.name),
        force=options.force,
        config=config,
        # said once nothing can be refused any more
        heading=f"{splits.description}\n{len(train):,} data to train on, device {device}, "
        f"seed {options.seed}, {sum(p.numel() for p in vae.parameters()):,} parameters"
        + _missing(train),
    )
    loss = parts["loss"]
    if isinstance(loss, str):
        loss = getattr(pyro.infer, LOSSES[loss])()
    try:
        history = pv.fit(
            vae,
            train,
            loss=loss,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            lr_schedule=None if parts["lr_schedule"] == "constant" else parts["lr_schedule"],
            validation=options.validation or None,
            seed=options.seed,
            device=device,
            precision=options.precision,
            out=folder,
            progress=not options.quiet,
        )
    except KeyboardInterrupt as stop:
        if not str(stop):  # the second Ctrl-C
            raise
        raise KeyboardInterrupt(f"{stop}; the model is saved in {folder.path}") from stop
    found = pv.evaluate(vae, test, options.num_particles)
    folder.write_json("evaluation.json", found.to_dict())
    _figures(vae, test, splits.classes, history, found, folder.path)
    print(f"\ntest set, {found}\n\n{folder.path}")


def _binarised(splits: Any, options: Any, likelihood: Any) -> tuple[Any, Any, str]:
    mode = options.binarise
    if mode == "auto":
        images = splits.name in pv.data.NAMES and splits.train.maximum is not None
        mode = "dynamic" if images and isinstance(likelihood, pv.likelihoods.Bernoulli) else "none"
    # a test set is drawn once, so that its numbers can be compared
    return splits.train.binarised(mode, options.seed), splits.test.binarised(mode), mode


def _labelled(vae: Any, data: Any) -> Any:
    """The data, with their labels where the programs take them."""
    return data.with_labels() if vae.prior.takes_labels else data


def _missing(data: Any) -> str:
    rows = data.incomplete()
    if not len(rows):
        return ""
    x = data.tensors[0]
    count = int(x[rows].isnan().sum())
    return f"\n{count:,} of {x.numel():,} training entries are missing (NaN), left out"


def _check(vae: Any, data: Any) -> None:
    """Refuse data that the likelihood does not hold before work is done on any."""
    data.check_finite(missing=True)
    pair = pv.traces.as_pair(vae)
    few = tuple(t.to(pair.device) for t in data[:2])
    with pair.evaluating():
        pv.traces.check_support(pair, few, data)


def _new_folder(name: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stem = f"vae-{Path(name).stem}-{stamp}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(path for path in (Path("runs", name) for name in names) if not path.exists())


def _figures(vae: Any, test: Any, classes: Any, history: Any, found: Any, path: Path) -> None:
    plots = pv.plots

    def save(name: str, axes: Any) -> None:
        plots.save(axes, path / "figures" / f"{name}.png")

    few = test.select(_first_of_each(test, 10)).fixed()
    x, mean = few.x.cpu(), cast(Any, pv.reconstruct(vae, few))
    save("training", plots.training_curves(history.rows))
    save("reconstructions", plots.reconstructions(x, mean))
    save("samples", plots.data_grid(cast(Any, pv.sample(vae, 64, mean=True))))
    half = len(x) // 2
    if half:
        ends = few.select(range(half)), few.select(range(half, 2 * half))
        save("interpolation", _paths(pv.interpolate(vae, *ends, steps=10)))
    codes, kl = found.codes["z"], found.kl_dimensions.get("z")
    if codes.shape[1] > 1 and len(codes.unique(dim=0)) > 1:
        save("latent_map", plots.latent_map(codes, test.labels, classes=classes))
    if kl is not None:
        save("kl", plots.kl_bars(kl, active=found.active["z"]))


def _paths(values: Any) -> Any:
    """Paths drawn with axes of 1 before the event, lest rows of vectors pass for images."""
    rows, steps, *event = values.shape
    ones = {1: 3, 2: 1 if min(event) >= 4 else 2}.get(len(event), 0)
    return pv.plots.interpolation(values.reshape(rows, steps, *[1] * ones, *event))


def _first_of_each(data: Any, n: int) -> Any:
    """``n`` data of different classes where there are labels, the first ones elsewhere."""
    import torch

    if data.labels is None:
        return torch.arange(min(n, len(data)))
    chosen = [int((data.labels == label).nonzero()[0]) for label in data.labels.unique()[:n]]
    rest = [i for i in range(len(data)) if i not in chosen][: n - len(chosen)]
    return torch.tensor(chosen + rest)


def _parser(command: Callable[..., Any], *, data: bool = True, figure: bool = True) -> _Parser:
    """The options that the commands on a run share."""
    parser = _Parser(command)
    parser.add_argument("run", type=Path, help="run folder, or a model.safetensors file")
    if data:
        _option(parser, "data", str | None, None, "other data than the run's")
        _option(parser, "data_dir", str | None, None, "where named sets are kept")
        _option(parser, "binarise", str | None, None, "other than the run's")
    if figure:
        text = "a .png figure or a .npy array, by default a figure in the run folder"
        _option(parser, "out", str | None, None, text)
    _option(parser, "seed", int, 0, "of the draws")
    _option(parser, "device", str, "auto", "auto, cpu, cuda, cuda:1, ...")
    return parser


def _open(options: Any) -> Any:
    """The run's pair on the device."""
    if getattr(options, "out", None) and Path(options.out).suffix not in (".png", ".npy"):
        raise pv.UsageError(f"--out ends with .png or .npy, got {options.out}")
    _at_least(0, options, "seed")
    device = pv.training.choose_device(options.device)
    return pv.load(options.run).to(device)


def _folder(run: Path) -> Path:
    return run if run.is_dir() else run.parent


def _open_with_data(options: Any, part: str = "test") -> tuple[Any, Any]:
    """The run's pair, and the test data beside which it was trained (or those of ``--data``)."""
    pair = _open(options)
    file = _folder(options.run) / "config.yaml"
    config = _read_config(file) if file.is_file() else {}
    name = options.data or config.get("data")
    if name is None:
        raise pv.UsageError(f"{options.run} does not say what data it was trained on; give --data")
    table = str(name).endswith((".csv", ".parquet"))
    splits = pv.data.load(
        name,
        options.data_dir or config.get("data_dir"),
        label=config.get("label") if table else None,
        seed=config.get("seed", 0),
    )
    given = getattr(splits, part)
    if tuple(given.event_shape) != pair.event_shape:
        raise pv.UsageError(
            f"the run models data of shape {pair.event_shape}, {name} has "
            f"{tuple(given.event_shape)}; give data of the run's shape"
        )
    test = given.binarised(options.binarise or config.get("binarise", "none"))
    test = _labelled(pair, test)
    _check(pair, test)
    return pair, test


def _write(options: Any, name: str, values: Any, axes: Callable[[], Any]) -> None:
    """A figure, or the numbers behind it."""
    import numpy as np

    path = Path(options.out or _folder(options.run) / "figures" / f"{name}.png")
    if path.suffix == ".npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values.numpy())
    else:
        pv.plots.save(axes(), path)
    print(path)


def _at_least(least: int, options: Any, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if not least <= value < 2**32:
            flag = f"--{name.replace('_', '-')}"
            raise pv.UsageError(f"{flag} must be at least {least} and below 2^32, got {value}")


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
    parser = _parser(evaluate, figure=False)
    _option(parser, "num_particles", int, 1000, "importance samples per datum")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    _at_least(1, options, "num_particles")
    pair, test = _open_with_data(options)
    found = pv.evaluate(pair, test, options.num_particles, seed=options.seed)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    if options.run.is_dir() and not (options.data or options.binarise):
        with contextlib.suppress(pv.UsageError):  # a run that may only be read
            pv.runs.Folder(options.run).write_json("evaluation.json", found.to_dict())


def sample(arguments: list[str]) -> None:
    """draw new data from the prior, or from a density fitted to the codes of the training data

    Examples:
      pyrovae sample runs/mine
      pyrovae sample runs/mine --n 100 --mean false --out samples.png
      pyrovae sample runs/mine --density mixture
      pyrovae sample runs/mine --n 10000 --mean false --out samples.npy
    """
    parser = _parser(sample, data=False)
    _option(parser, "n", int, 64, "how many")
    _option(parser, "mean", bool, True, "E[x|z] instead of a draw of x")
    _option(parser, "density", str, "prior", "prior, or mixture or flow fitted to the codes")
    options = parser.parse_args(arguments)
    _at_least(1, options, "n")
    values: Any
    if options.density == "prior":
        values = pv.sample(_open(options), options.n, mean=options.mean, seed=options.seed)
    elif not options.mean:
        raise pv.UsageError(f"--density {options.density} gives E[x|z]; leave --mean as it is")
    else:
        if options.density not in (known := ("prior", *pv.aggregate.KINDS)):
            raise pv.components.unknown("density", options.density, known)
        options.data = options.data_dir = options.binarise = None
        pair, data = _open_with_data(options, "train")
        density = pv.fit_codes(pair, data, options.density, seed=options.seed)
        print(density)
        values = density.sample(options.n, seed=options.seed)
    _write(options, "samples", values, lambda: pv.plots.data_grid(values))


def reconstruct(arguments: list[str]) -> None:
    """data beside their reconstructions

    Examples:
      pyrovae reconstruct runs/mine
      pyrovae reconstruct runs/mine --n 5 --draws 3 --out reconstructions.png
    """
    parser = _parser(reconstruct)
    _option(parser, "n", int, 10, "how many test data")
    _option(parser, "draws", int, 0, "rows of draws below the mean")
    options = parser.parse_args(arguments)
    _at_least(1, options, "n")
    _at_least(0, options, "draws")
    pair, test = _open_with_data(options)
    few = test.select(_first_of_each(test, options.n)).fixed()
    mean: Any = pv.reconstruct(pair, few, seed=options.seed)
    draws: Any = None
    if options.draws:
        draws = pv.reconstruct(pair, few, draws=options.draws, seed=options.seed)
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
    parser = _parser(interpolate)
    _option(parser, "start", int | None, None, "index of a test datum")
    _option(parser, "end", int | None, None, "index of another")
    _option(parser, "steps", int, 10, "points on the path")
    _option(parser, "method", str, "linear", "linear or spherical")
    options = parser.parse_args(arguments)
    if (options.start is None) != (options.end is None):
        raise pv.UsageError("give both --start and --end, or neither")
    _at_least(2, options, "steps")
    pair, test = _open_with_data(options)
    if options.start is None:
        ends = _first_of_each(test, 10).tolist()
        starts, stops = ends[: (len(ends) + 1) // 2], ends[len(ends) // 2 :]
    else:
        starts, stops = [options.start], [options.end]
    values: Any = pv.interpolate(
        pair, _indices(test, starts), _indices(test, stops), options.steps, method=options.method
    )
    _write(options, "interpolation", values, lambda: _paths(values))


def traverse(arguments: list[str]) -> None:
    """vary one latent unit at a time, the active ones first

    Examples:
      pyrovae traverse runs/mine
      pyrovae traverse runs/mine --index 7 --dims [0,3] --steps 11 --span 3
    """
    parser = _parser(traverse)
    _option(parser, "index", int, 0, "the test datum to vary")
    _option(parser, "dims", list[int] | None, None, "units, e.g. [0,3]")
    _option(parser, "steps", int, 9, "values of each unit")
    _option(parser, "span", float, 2.0, "from -span to span")
    options = parser.parse_args(arguments)
    _at_least(1, options, "steps")
    pair, test = _open_with_data(options)
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


def info(arguments: list[str]) -> None:
    """what a run is, or what a data set looks like

    Examples:
      pyrovae info runs/mine
      pyrovae info --data digits
      pyrovae info --data table.csv
    """
    parser = _Parser(info)
    parser.add_argument("run", nargs="?", type=Path, help="run folder")
    _option(parser, "data", str | None, None, "a data set's name or path")
    _option(parser, "data_dir", str | None, None, "where named sets are kept")
    _option(parser, "label", str | None, None, "label column of a table")
    options = parser.parse_args(arguments)
    if (options.run is None) == (options.data is None):
        raise pv.UsageError("give a run folder, or --data with a name or path")
    print(_describe_data(options) if options.data else _describe_run(options.run))


def _describe_run(run: Path) -> str:
    pair = pv.load(run)
    lines = [f"{run}", f"parameters: {sum(p.numel() for p in pair.parameters()):,}", str(pair)]
    for name in ("config.yaml", "environment.json", "evaluation.json"):
        file = _folder(run) / name
        if file.is_file():
            lines += ["", f"{name}:", file.read_text(errors="replace").rstrip()]
    return "\n".join(lines)


def _describe_data(options: Any) -> str:
    splits = pv.data.load(options.data, options.data_dir, label=options.label)
    x, seen = splits.train.x, splits.train.summary()
    unknown = x.numel() - int(x.isfinite().sum())
    kinds = {
        "nothing": unknown == x.numel(),
        "0 or 1": seen.binary,
        "whole numbers": seen.whole,
        "numbers in [0, 1]": seen.low >= 0 and seen.high <= 1,
        "real numbers": True,
    }
    text = (
        f"{splits.description}\ntrain {len(splits.train):,}, test {len(splits.test):,}, shape "
        f"{list(x.shape[1:])}, {len(splits.classes or ())} classes\n"
        f"values: {next(kind for kind, holds in kinds.items() if holds)}"
    )
    if unknown < x.numel():
        text += f", from {seen.low:.4g} to {seen.high:.4g}, mean {seen.mean:.4g}"
    text += f", {unknown:,} missing or infinite"
    fitting = pv.likelihoods.advice(seen)
    transforms = _transforms(seen)
    if fitting:
        text += "\nlikelihoods that suit:"
        text += "".join(f"\n  --likelihood {name:<28} {why}" for name, why in fitting.items())
    if "Mixed" in fitting and len(seen.columns) <= 100:
        columns = ", ".join(map(_column, pv.likelihoods.column_likelihoods(seen)))
        text += f'\n  column by column: --likelihood Mixed --likelihood.columns "[{columns}]"'
    if transforms:
        text += "\nworth considering:" + "".join(f"\n  {line}" for line in transforms)
    return text


def _column(likelihood: Any) -> str:
    """One column's likelihood as the command line takes it."""
    name = type(likelihood).__name__
    slots = pv.components.slots(type(likelihood))
    given = {k: v for k, v in likelihood.arguments().items() if slots[k].required}
    if not given:
        return name
    arguments = ", ".join(f"{k}: {v}" for k, v in given.items())
    return f"{{class_path: {name}, init_args: {{{arguments}}}}}"


def _transforms(seen: Any) -> list[str]:
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
    constant = [str(i) for i, column in enumerate(seen.columns) if column.constant]
    if constant:
        lines.append(
            f"drop the columns that never vary: {', '.join(constant[:10])}"
            f"{', ...' if len(constant) > 10 else ''}"
        )
    elif seen.constant:
        lines.append(f"{seen.constant:,} dimensions never vary: a density of them has no bound")
    if seen.missing:
        lines.append(f"{seen.missing / seen.entries:.1%} of the entries are missing (NaN)")
    return lines


COMMANDS: Mapping[str, Callable[[list[str]], None]] = {
    command.__name__: command
    for command in (fit, evaluate, sample, reconstruct, interpolate, traverse, info)
}
