"""The command line's options: what they are, how they are read, from flags and from files."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyrovae as pv

if TYPE_CHECKING:
    from pyrovae.files import Place
    from pyrovae.outlines import Outline
    from pyrovae.program import Program
    from pyrovae.tensors import TensorData

OF_A_MODEL = ("prior", "likelihood", "guide")
# Options that are objects, the kind of part that each is, and words for none of its classes.
PARTS = {name: name for name in ("program", *OF_A_MODEL, "loss")} | {"lr_schedule": "schedule"}
LOSSES = {"trace": "Trace_ELBO", "analytic": "TraceMeanField_ELBO", "enum": "TraceEnum_ELBO"}
BOOLEANS: dict[str, bool] = {"true": True, "false": False}
WORDS = {"loss": ("auto", *LOSSES), "lr_schedule": ("constant",)}

TEXT = (int, float, bool, str, list[int])  # what a text can give

PAIR = (
    "FILE.py:NAME, a pair of your own or a function that gives one, called with data, event_shape "
    "or classes where it asks for them; its code runs"
)

# Options of the command line's own; those of pv.fit come from its signature.
Option = tuple[Any, Any, str]  # type, default, help
OWN: dict[str, dict[str, Option]] = {
    "data": {
        "data": (str, "mnist5k", "a name or a path"),
        "data_dir": (str | None, None, "where named sets are kept"),
        "label": (str | None, None, "of a table: the column of classes, which are no part of x"),
        "columns": (str | None, None, "of a table: those of x by name, a,b,c, or all but -a,-b"),
        "drop": (str | None, None, "of a table: columns that are left out, a,b"),
        "target": (
            str | None,
            None,
            "of a table: the column y of numbers, for --program Regression",
        ),
        "kinds": (
            str | None,
            None,
            "of a table: what columns are, year=category,age=count (real, positive, count, "
            "category, boolean, date), where they are not recognised",
        ),
        "delimiter": (str | None, None, "of a text file: between its cells; recognised by default"),
        "decimal": (str | None, None, "of a text file: the decimal mark, . or ,"),
        "encoding": (str | None, None, "of a text file: utf-8, latin-1, ..."),
        "header": (bool | None, None, "of a text file: whether its first line has the names"),
        "binarise": (
            str,
            "auto",
            "dynamic, static, threshold or none; auto: dynamic for a named set of images under a "
            "Bernoulli likelihood, else none",
        ),
        "resize": (str | None, None, "H or HxW: scale pictures to one size and cut out the middle"),
        "layout": (str, "auto", "channels_first or channels_last, of images in arrays"),
        "scale": (
            float | None,
            None,
            "what stored numbers are divided by: 255 for pixels, 1 for the values as they are; by "
            "default as the likelihood and the values of uint8 tell",
        ),
        "stream": (str, "auto", "auto, true or false: read files as training goes, not at once"),
        "validation": (float, 0.1, "held-out fraction, or number from 1 on; 0 for none"),
    },
    "model": {
        "latent_dim": (int | None, None, "size of z; by default the program's own"),
        "pair": (str | None, None, PAIR),
    },
    "training": {
        "patience": (int | None, None, "epochs without a better validation ELBO to end after"),
        "max_seconds": (float | None, None, "wall-clock time to stop after, ready to --resume"),
    },
    "results": {
        "num_particles": (int, 1000, "for the log evidence"),
        "tensorboard": (bool, False, "write the curves for TensorBoard too"),
        "quiet": (bool, False, "no progress"),
        "json": (bool, False, "a line of JSON per epoch, and the table as JSON"),
    },
}
# not part of what repeats a run
TRANSIENT = ("out", "force", "resume", "max_seconds", "quiet", "json")
# said on the command line alone: a file of a stranger could make others be overwritten or run
ALONE = ("force", "out", "resume", "allow")
TABLE = (
    "label",
    "columns",
    "drop",
    "target",
    "kinds",
    "delimiter",
    "decimal",
    "encoding",
    "header",
)
PICTURES = ("resize", "layout", "scale")
INSTEAD = ("validation", "progress")  # arguments of pv.fit that options above stand for


@functools.cache
def of_fit() -> dict[str, Option]:
    """Those arguments of ``pv.fit`` that a text can give, as options."""
    return {
        name: (kind, option.default, option.words)
        for name, option in pv.outlines.options("training", "fit").items()
        if (kind := option.told(TEXT)) is not None and name not in INSTEAD
    }


@functools.cache
def fit_groups() -> dict[str, dict[str, Option]]:
    """The options of fit and the keys of its config, as the help shows them."""
    return OWN | {"training": of_fit() | OWN["training"]}


def all_options() -> dict[str, Option]:
    """The same in one table."""
    return {name: option for group in fit_groups().values() for name, option in group.items()}


def as_flags(text: str) -> str:
    """A message about a table with its options as the command line has them.

    >>> as_flags("say kinds={'a b': 'category'}, or leave it out with drop='a b'")
    "say --kinds 'a b=category', or leave it out with --drop 'a b'"
    """
    text = re.sub(r"\bkinds=\{'([^']*)': '([^']*)'\}", r"--kinds '\1=\2'", text)
    names = "|".join(TABLE)
    text = re.sub(rf"(?<![-\w.(])({names})=(?=['\"])", r"--\1 ", text)
    return re.sub(rf"(?<![-\w.])({names})=(?![\w'\"{{])", r"--\1", text)


def joined(arguments: Sequence[str]) -> list[str]:
    """Arguments in which a list of columns may begin with a minus.

    >>> joined(["--columns", "-a,-b", "--quiet"])
    ['--columns=-a,-b', '--quiet']
    """
    words: list[str] = []
    for word in arguments:
        lists = bool(words) and words[-1] in ("--columns", "--drop")
        if lists and word.startswith("-") and not word.startswith("--"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def of_a_table(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a table, as ``pv.data.load`` takes it."""
    return {name: options[name] for name in TABLE if options.get(name) is not None}


def say(message: str) -> None:
    """A line of the program's own, on the standard error."""
    pv.progress.say(f"pyrovae: {message}")


def at_least(least: int) -> Callable[[str, int], int]:
    """The check of an option that is a whole number, seeds among them."""

    def check(name: str, value: int) -> int:
        if not least <= value < 2**32:
            raise pv.UsageError(f"{name} must be at least {least} and below 2^32, got {value}")
        return int(value)

    return check


def flag_of(name: str) -> str:
    """An option as it is written."""
    return f"--{name.replace('_', '-')}"


class Parser(argparse.ArgumentParser):
    """A parser whose help is the command's docstring, examples included."""

    def __init__(self, command: Callable[..., object]) -> None:
        self.command = command
        text, _, examples = (inspect.getdoc(command) or "").partition("Examples:\n")
        text = text.partition("\nArgs:\n")[0]
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
            word = unknown[1].partition("=")[0]
            alone = "" if pv.errors.synonym(word, names) else _in_python(self.command, word)
            hint = alone or pv.errors.meant(word, names)
            message = f"there is no option {word}{hint}"
        message = re.sub(r"^argument (--[\w-]+)\S*:? (?=\w)", r"\1 ", message)
        raise pv.UsageError(
            f"{message.removesuffix('.')}. See {self.prog} --help".replace("?.", "?")
        )


def _in_python(command: Callable[..., object], word: str) -> str:
    """What to say of an option of ``fit`` that Python alone can give, such as an optimiser."""
    known = pv.outlines.options("training", "fit") if command.__name__ == "fit" else ()
    name = pv.errors.synonym(word, [name for name in known if name not in all_options()])
    return f": that is given in Python, pv.fit(pair, x, {name}=...)" if name else ""


def add_option(
    parser: argparse._ActionsContainer, name: str, kind: Any, default: object, text: str
) -> None:
    """An option that may be written with dashes or underscores."""
    names = dict.fromkeys([flag_of(name), f"--{name}"])
    if kind is bool and not default:
        parser.add_argument(*names, action="store_true", default=default, help=text)
        return

    def typed(value: str) -> object:
        if value == default:  # argparse asks of defaults too
            return default
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


def add_options(parser: Parser, function: Callable[..., object]) -> None:
    """The options that a function's signature and docstring tell of."""
    for name, option in pv.signatures.options(function).items():
        add_option(parser, name, option.told(TEXT) or option.kind, option.default, option.words)


def checked_options(function: Callable[..., object], options: argparse.Namespace) -> dict[str, Any]:
    """What was given of a function's options, as the checks in its signature leave it."""
    return {
        name: option.check(flag_of(name), getattr(options, name))
        for name, option in pv.signatures.options(function).items()
    }


def add_allow(parser: Parser) -> None:
    """The option that names modules whose code may run."""
    parser.add_argument(
        "--allow",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        metavar="MODULE",
        help="a module of your own whose classes may be named; its code runs",
    )


def add_pair(parser: Parser) -> None:
    """The option that names the code of a pair."""
    add_option(parser, "pair", str | None, None, PAIR)


def _describe_class(option: str, cls: Outline) -> str:
    """What a class is and the flags of its own arguments, for the help."""
    words = cls.doc.partition(">>>")[0].rstrip()
    lines = [f"{option} {cls.name}:", textwrap.indent(words, "  "), ""]
    for name, (part, default) in cls.arguments.items():
        flag = f"  --{option}.{name}".replace("_", "-")
        one_of = f" one of {', '.join(pv.outlines.classes(part))}" if part else ""
        lines.append(
            flag + one_of + (" (required)" if default is None else f" (default: {default})")
        )
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


def _put(tree: dict[str, Any], path: str, value: str, allow: Sequence[str]) -> None:
    """Set one flag of a part in the config's tree."""
    *above, last = path.split(".")
    for name in above:
        node = tree.get(name) or {}
        tree[name] = {"class_path": node} if isinstance(node, str) else dict(node)
        tree[name]["init_args"] = dict(tree[name].get("init_args") or {})
        tree = tree[name]["init_args"]
    if above or value in WORDS.get(last, ()):
        tree[last] = value
    else:
        kept = _kept(tree.get(last), _class(last, value, allow))
        tree[last] = {"class_path": value, "init_args": kept}


def _kept(given: object, cls: type) -> dict[str, object]:
    """The parts that another class keeps: a likelihood the network that the config gives."""
    slots = pv.components.slots(cls)
    init = (given.get("init_args") or {}) if isinstance(given, Mapping) else {}
    return {k: v for k, v in init.items() if k in slots and slots[k].part}


def _class(option: str, name: object, allow: Sequence[str]) -> Any:
    """The class that an option names."""
    try:
        return pv.components.find(PARTS[option], name, allow)
    except pv.UsageError as error:
        words = WORDS.get(option, ())
        choices = [*words, *pv.components.classes(PARTS[option])]
        raise (pv.errors.unknown(option, name, choices) if words else error) from error


def _part(option: str, given: object, allow: Sequence[str], usual: object = None) -> object:
    """The object that an option means, or the usual one but for what is given; a word stays a
    word."""
    words = WORDS.get(option, ())
    given = words[0] if words and given is None else given
    if given in words:
        return given
    name = given.get("class_path") if isinstance(given, Mapping) else given
    if isinstance(name, str):
        _class(option, name, allow)
    return pv.components.construct(given, PARTS[option], option, usual, allow)


def _of_a_program(tree: Mapping[str, Any], allow: Sequence[str]) -> dict[str, Any]:
    """The program's description, its usual parts, and those that are named."""
    default = pv.outlines.PARTS["program"][2]
    given = tree["program"] or default
    given = {"class_path": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise pv.UsageError(f"program must name a class, got {given!r:.200}")
    cls = _class("program", given.get("class_path", default), allow)
    slots, usual = pv.components.slots(cls), cls.usual()
    named = {name: tree[name] for name in OF_A_MODEL if tree[name] is not None}
    for name, each in named.items():
        if name not in slots:
            raise pv.UsageError(
                f"{cls.__name__} takes no --{name}; its own options are "
                f"{', '.join(f'--program.{slot}' for slot in slots)}"
            )
        if not _waits(each, _class_of(name, each, usual[name], allow)):
            _part(name, each, allow, usual[name])  # what is wrong is said before data are loaded
    likelihood = _class_of("likelihood", named.get("likelihood"), usual["likelihood"], allow)
    described = {**given, "class_path": f"{cls.__module__}.{cls.__name__}"}
    return {"program": described, "named": named, "usual": usual, "likelihood": likelihood}


def _class_of(option: str, given: object, usual: object, allow: Sequence[str]) -> Any:
    """The class that a description names, or that of the usual part."""
    name = given.get("class_path") if isinstance(given, Mapping) else given
    return _class(option, name, allow) if isinstance(name, str) else type(usual)


def _waits(given: object, kind: type) -> bool:
    """Whether the data decide what a part is, or an argument that it lacks."""
    if not isinstance(given, str | Mapping):
        return False
    if isinstance(given, Mapping) and "class_path" not in given:
        return True
    return bool(_lacking(given, kind)) and hasattr(kind, "decided_by")


def _parts_for(
    data: TensorData, decided: Mapping[str, Any], parts: Mapping[str, Any], allow: Sequence[str]
) -> dict[str, object]:
    """The named parts, and what the data decide of them."""
    found = {}
    for name, given in parts["named"].items():
        usual = decided.get(name, parts["usual"][name])
        kind = _class_of(name, given, usual, allow)
        found[name] = _part(name, _completed(given, kind, data), allow, usual)
    return found


def _completed(given: Any, kind: Any, data: TensorData) -> Any:
    """A description with the arguments that it lacks and the data decide; those are said."""
    lacks = _lacking(given, kind)
    if not (lacks and hasattr(kind, "decided_by")):
        return given
    given = {"class_path": given} if isinstance(given, str) else dict(given)
    more = {n: v for n, v in kind.decided_by(data.summary(), data.schema).items() if n in lacks}
    told = [f"{name} {value}" for name, value in more.items() if isinstance(value, int)]
    if told:
        say(f"{', '.join(told)}, from the data to train on")
    return given | {"init_args": _described(more) | (given.get("init_args") or {})}


def _lacking(given: Any, kind: type) -> list[str]:
    """The arguments that a class must be given and a description does not."""
    init = (given.get("init_args") or {}) if isinstance(given, Mapping) else {}
    return [n for n, slot in pv.components.slots(kind).items() if slot.required and n not in init]


def _say_decided(decided: Mapping[str, Any], named: Mapping[str, object]) -> None:
    """A line about a likelihood that follows the data."""
    likelihood = decided.get("likelihood")
    if likelihood is None or "likelihood" in named:
        return
    words = type(likelihood).__name__
    if isinstance(likelihood, pv.likelihoods.Mixed):
        counted = collections.Counter(type(column).__name__ for column in likelihood.columns)
        words += f" of {', '.join(f'{count} {name}' for name, count in counted.items())}"
    prior = decided.get("prior")
    also = "" if prior is None or "prior" in named else f" and prior {type(prior).__name__}"
    said = (
        "suit the data (--likelihood and --prior choose others)"
        if also
        else ("suits the data (--likelihood chooses another)")
    )
    say(f"likelihood {words}{also}, which {said}")


def program(
    data: TensorData,
    classes: int | None,
    options: argparse.Namespace,
    parts: Mapping[str, Any],
) -> tuple[Program, dict[str, object]]:
    """The program that the options mean, made to fit the data; and its part of the config."""
    described = parts["program"]
    cls = _class("program", described["class_path"], options.allow)
    own = dict(described.get("init_args") or {})
    given = cls.decided_by(data, classes)
    _say_decided(given, parts["named"] | own)
    decided = {n: v for n, v in _described(given).items() if n not in own}
    shared = _described(_parts_for(data, given, parts, options.allow))
    if options.latent_dim is not None:
        shared["latent_dim"] = _latent_dim(cls, options.latent_dim)
    init = {**decided, **shared, **own}
    made = pv.components.construct(
        {**described, "init_args": init}, "program", "program", allow=options.allow
    )
    arguments = pv.components.describe(made)["init_args"]
    return made, _in_config(described["class_path"], arguments, decided)


def _in_config(
    name: str, arguments: Mapping[str, object], decided: Mapping[str, object]
) -> dict[str, object]:
    """A program's part of the config: what data decide is left to them."""
    apart = {n: arguments[n] for n in (*OF_A_MODEL, "latent_dim") if n in arguments}
    kept = {n: v for n, v in arguments.items() if n not in decided and n not in apart}
    return {"program": {"class_path": name, "init_args": kept}, **apart}


def _described(parts: Mapping[str, object]) -> dict[str, object]:
    return {name: pv.components.describe(value) for name, value in parts.items()}


def _latent_dim(cls: type, given: int) -> int:
    if "latent_dim" not in pv.components.slots(cls):
        raise pv.UsageError(
            f"{cls.__name__} takes no --latent-dim; see --program {cls.__name__} --help"
        )
    return given


def _refuse_code(config: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Refuse to run code because a file names it."""
    if code := config.get("pair"):
        where = options.config or options.out
        raise pv.UsageError(f"{where} was made of {code}; give --pair {code} to run that code")


def _refuse_beside_a_pair(
    tree: Mapping[str, Any], options: argparse.Namespace, config: Mapping[str, Any]
) -> None:
    """Refuse parts of a program beside a whole pair."""
    given = [name for name in ("program", *OF_A_MODEL) if tree[name] is not None]
    if options.latent_dim is not None or config.get("latent_dim") is not None:
        given.append("latent_dim")
    if given:
        raise pv.UsageError(
            f"--pair is a whole model and guide: {flag_of(given[0])} has no place beside it; leave "
            f"out one of the two"
        )


def read_config(path: Path | Place) -> dict[str, Any]:
    """The options in a file, each of the type that it has as a flag."""
    config = pv.files.read_yaml(path)
    if not isinstance(config, dict):
        raise pv.UsageError(f"the config {path} is not a mapping of options to values")
    if config.pop("standardise", False):
        raise pv.UsageError(
            f"{path} asks for standardise, whose shift and scale were in no file: units are "
            f"learned and kept with the model now; take the line out and fit anew"
        )
    for name in ALONE:
        if name in config:
            raise pv.UsageError(
                f"{path} cannot say {name}: what is written, overwritten or trusted is said by "
                f"{flag_of(name)} alone; take the line out"
            )
    known = all_options()
    for name, value in config.items():
        if name in known:
            config[name] = pv.components.typed(known[name][0], value, f"{path}: {name}")
        elif name not in PARTS:
            raise pv.errors.unknown(f"option for {path} to set:", name, [*known, *PARTS])
    return config


def refuse_home(where: object, name: str) -> None:
    """Refuse a folder that a file names where it is somebody's home or around one: what is in it
    is not for a stranger's file to have read."""
    path = pv.files.home(name).resolve()
    if name in pv.data.NAMES or not path.is_dir():
        return
    homes = [Path.home().resolve()]
    with contextlib.suppress(ImportError, KeyError):  # Windows; an owner without an account
        import pwd

        homes.append(Path(pwd.getpwuid(path.stat().st_uid).pw_dir).resolve())
    if any(path == home or path in home.parents for home in homes):
        raise pv.UsageError(
            f"{where}: data names a home or a folder around one, {name}; give --data"
        )


def _chosen(flags: Mapping[str, str]) -> dict[str, Outline]:
    """The classes that flags name, by the flag, those of a part's own parts after it."""
    chosen: dict[str, Outline] = {}
    for option in sorted(flags, key=lambda option: option.count(".")):
        whole, _, name = option.rpartition(".")
        # where a part's own class is not said, any that has such an argument tells what it is
        owners = [chosen[whole]] if whole in chosen else _outlines(PARTS.get(whole)).values()
        kinds = [o.arguments[name].part for o in owners if name in o.arguments]
        found = _outlines(next(iter(kinds), PARTS.get(option))).get(flags[option])
        if found is not None:
            chosen[option] = found
    return chosen


def _outlines(part: str | None) -> dict[str, Outline]:
    return pv.outlines.classes(part) if part else {}


def _fit_parser(command: Callable[..., object], flags: Mapping[str, str]) -> Parser:
    """The parser; its help has the arguments of the classes that the flags choose."""
    parser = Parser(command)
    known = _chosen(flags)
    parser.epilog = "\n\n".join(
        [*(_describe_class(option, cls) for option, cls in known.items()), str(parser.epilog)]
    )
    parser.add_argument("--config", help="YAML file of options; flags win over it")
    add_allow(parser)
    for title, options in fit_groups().items():
        group = parser.add_argument_group(title)
        for name, option in options.items():
            add_option(group, name, *option)
        # only for the help: _take_parts sees them first
        parts = {"model": ("program", *OF_A_MODEL), "training": ("loss", "lr_schedule")}
        for part in parts.get(title, ()):
            add_option(group, part, str, *_part_in_words(part))
    return parser


def _check_named(asked: Sequence[str], flags: Mapping[str, str]) -> None:
    """Refuse names that no class has, of which help would say nothing; your own have a dot."""
    if not {"-h", "--help"} & {*asked}:
        return  # whoever makes them knows more
    for option, name in ((option, flags[option]) for option in flags.keys() & PARTS.keys()):
        classes = pv.outlines.classes(PARTS[option])
        if "." not in name and name not in (*classes, *WORDS.get(option, ())):
            raise pv.errors.unknown(PARTS[option], name, classes)


def _part_in_words(part: str) -> tuple[str, str]:
    """What an option that names a class is by default, and its help."""
    words = WORDS.get(part, ())
    named = [*words, *pv.outlines.classes(PARTS[part])]
    usual = words[0] if words else pv.outlines.PARTS[PARTS[part]][2]
    usual = "the program's own" if part in OF_A_MODEL else usual
    return usual, f"{', '.join(named)}; {flag_of(part)} {named[-1]} --help tells more"


def _configured(options: argparse.Namespace) -> dict[str, Any]:
    """What the given file says, or that of the run which is resumed."""
    if options.resume and options.out is None:
        raise pv.UsageError("--resume needs the run's folder: give --out")
    if options.config is not None:
        return read_config(pv.files.home(options.config))
    if options.resume:
        begun = pv.files.inside(pv.files.home(options.out), pv.runs.CONFIG)
        return read_config(begun) if begun.exists() else {}
    return {}


def fit_options(
    command: Callable[..., object], arguments: list[str]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and those that are objects: by default, as configured, as flagged."""
    rest, flags = _take_parts(arguments)
    _check_named(rest, flags)
    parser = _fit_parser(command, flags)
    options = parser.parse_args(rest)
    config = _configured(options)
    tree = {part: config.pop(part, None) for part in PARTS}
    for path in sorted(flags, key=lambda path: path.count(".")):
        _put(tree, path, flags[path], options.allow)
    parts = {part: _part(part, tree[part], options.allow) for part in ("loss", "lr_schedule")}
    if options.pair is None:
        _refuse_code(config, options)
        parts |= _of_a_program(tree, options.allow)
    else:
        _refuse_beside_a_pair(tree, options, config)
    # a config does not choose where on this machine to download to
    theirs = options.data_dir is None and config.get("data_dir") is not None
    parser.set_defaults(**config, theirs=theirs)
    options = parser.parse_args(rest)
    if options.data == config.get("data"):
        refuse_home(options.config or options.out, options.data)
    at_least(1)("--num-particles", options.num_particles)
    at_least(0)("--seed", options.seed)
    known = pv.signatures.options(pv.fit)
    for name in of_fit():
        known[name].check(flag_of(name), getattr(options, name))
    return options, parts
