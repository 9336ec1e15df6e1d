"""What a run leaves on disk: safetensors and plain text, nothing that executes when opened."""

from __future__ import annotations

import csv
import datetime
import importlib
import inspect
import json
import os
import platform
import sys
import tempfile
import uuid
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pyrovae.data import UsageError, nearest
from pyrovae.networks import Component
from pyrovae.traces import as_pair

__all__ = ["Folder", "describe", "environment", "load", "save"]

# What is named by its class: the module, the base class, the class by default.
PARTS = {
    "model": ("vae", "VAE", "VAE"),
    "prior": ("priors", "Prior", "StandardNormal"),
    "likelihood": ("likelihoods", "Likelihood", "Bernoulli"),
    "guide": ("guides", "Guide", "MeanField"),
    "network": ("networks", "Network", "MLP"),
    "loss": ("objectives", "Objective", "BetaELBO"),
    "schedule": ("schedules", "Schedule", "Linear"),
}
WEIGHTS = "model.safetensors"
FIGURES = ("training", "reconstructions", "samples", "interpolation", "latent_map", "kl")
OWN = (
    *("config.yaml", "metrics.csv", WEIGHTS, "environment.json", "evaluation.json"),
    *(f"figures/{name}.png" for name in (*FIGURES, "traversal")),
)


def describe(value: Any) -> Any:
    """A component as plain data: ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        TypeError: a class or module of the user's own is part of it.
    """
    if isinstance(value, Component) and type(value).__module__.startswith("pyrovae."):
        cls = type(value)
        arguments = {name: describe(part) for name, part in value.arguments().items()}
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": arguments}
    if isinstance(value, list | tuple | torch.nn.ModuleList):
        return [describe(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as plain data")


def _description(owner: Any) -> Any:
    try:
        return describe(owner)
    except TypeError:
        return None


def unknown(what: str, name: object, choices: Iterable[str]) -> UsageError:
    """The error of a name that is none of the choices, with the nearest of them."""
    choices = list(choices)
    hint = nearest(str(name), choices) or "."
    return UsageError(f"there is no {what} {name!r}{hint} Choose one of {', '.join(choices)}")


def classes(part: str) -> dict[str, type]:
    """The concrete classes of a part, by name: a new class is here as soon as it is written."""
    room, base, _ = PARTS[part]
    module = importlib.import_module(f"pyrovae.{room}")
    named = {name: getattr(module, name) for name in module.__all__}
    return {
        name: cls
        for name, cls in named.items()
        if inspect.isclass(cls)
        and issubclass(cls, getattr(module, base))
        and not inspect.isabstract(cls)
    }


def find(part: str | None, name: Any) -> Any:
    """A class of a part (None: of any) by its name or full path; nothing else is ever imported.

    Raises:
        UsageError: no such class, with the nearest name.
    """
    known = {k: c for one in ([part] if part else PARTS) for k, c in classes(one).items()}
    paths = {f"{cls.__module__}.{cls.__name__}": cls for cls in known.values()}
    if not isinstance(name, str) or name not in known | paths:
        raise unknown(part or "component", name, known)
    return (known | paths)[name]


@dataclass(frozen=True)
class Slot:
    """One argument of a component: its type, its default, and which part it is, if one, or a
    list of it.
    """

    kind: Any
    default: Any
    part: str | None
    many: bool = False

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is inspect.Parameter.empty


def slots(cls: Any) -> dict[str, Slot]:
    """The arguments of a component's constructor."""
    hints = get_type_hints(cls.__init__)
    bases = {
        getattr(importlib.import_module(f"pyrovae.{room}"), base): part
        for part, (room, base, _) in PARTS.items()
    }
    found = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = hints.get(name, Any)
        part = next((bases[k] for k in (kind, *get_args(kind)) if k in bases), None)
        found[name] = Slot(kind, parameter.default, part, get_origin(kind) is list)
    return found


def typed(kind: Any, value: Any, where: str) -> Any:
    """A flag's text, or a value out of a file, as the type that was annotated.

    Raises:
        UsageError: it is not of that type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        if isinstance(value, str):
            return parser.parse_args([f"--value={value}"]).value
        return parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        kinds = [kind] if kind in _WORDS else [k for k in get_args(kind) if k is not type(None)]
        words = " or ".join(_WORDS.get(k, str(k)) for k in kinds or [kind])
        raise UsageError(f"{where} must be {words}, got {value!r}") from error


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[int]: "a list of whole numbers such as [3,5]",
}


def construct(
    given: Any, part: str | None = None, where: str = "the component", default: Any = None
) -> Any:
    """The component that a description means: that of :func:`describe`, or one made by hand.

    Args:
        given: the name of a class; or its name or path as ``class_path``, with ``init_args``.
        part: which part it must be.
        where: what to call it in errors.
        default: the component that is used where nothing else is given.

    Raises:
        UsageError: a class, argument or value that is not known.
    """
    given = {"class_path": given} if isinstance(given, str) else given or {}
    init = (given.get("init_args") or {}) if isinstance(given, Mapping) else None
    if not isinstance(init, Mapping) or set(given) - {"class_path", "init_args"}:
        raise UsageError(
            f"{where} must be the name of a class, or have the keys class_path and init_args, "
            f"got {given!r}"
        )
    usual = type(default).__name__ if part is None or default is not None else PARTS[part][2]
    cls = find(part, given.get("class_path", usual))
    known = slots(cls)
    for name in init:
        if name not in known:
            raise unknown(f"argument of {cls.__name__} ({where})", name, known)
    arguments = default.arguments() if type(default) is cls else {}
    for name, slot in known.items():
        path, value = f"{where}.{name}", init.get(name)
        if slot.part and slot.many and value is not None:
            arguments[name] = [
                construct(one, slot.part, f"{path}[{i}]")
                for i, one in enumerate(_several(value, path))
            ]
        elif (
            slot.part
            and not slot.many
            and (value is not None or slot.required or slot.default is not None)
        ):
            own = None if slot.required else slot.default
            arguments[name] = construct(value, slot.part, path, own)
        elif name in init:
            arguments[name] = typed(slot.kind, value, path)
        elif slot.required:
            raise UsageError(f"{cls.__name__} needs {name}; give {path}")
    return cls(**arguments)


def _several(given: Any, where: str) -> list[Any]:
    """A list, or the text of one."""
    try:
        value = yaml.safe_load(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        value = given
    if not isinstance(value, list):
        raise UsageError(
            f"{where} must be a list of classes such as [Normal, {{class_path: Categorical, "
            f"init_args: {{classes: 3}}}}], got {given!r}"
        )
    return value


def save(pair: Any, path: str | Path) -> Path:
    """Write a pair's parameters and buffers, and for a :class:`VAE` also how to build it again.

    Args:
        pair: any pair.
        path: a ``.safetensors`` file, or a folder to write ``model.safetensors`` in.

    Returns:
        The file written. It appears whole or not at all.

    Raises:
        UsageError: a path that cannot be written.
    """
    path = Path(path)
    file = path if path.suffix == ".safetensors" else path / WEIGHTS
    program = as_pair(pair)
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in program.tensors().items()}
    notes = {"pyrovae": json.dumps({"version": 1, "model": _description(program.owner)})}
    with _writing(file) as temporary:
        save_file(tensors, temporary, metadata=notes)
    return file


def load(path: str | Path, into: Any = None) -> Any:
    """Read what :func:`save` wrote.

    Args:
        path: the file, or a folder (a run's) that holds ``model.safetensors``.
        into: a pair of the same structure to fill; needed where the saved one was made of your
            own functions or modules, which no file can hold.

    Returns:
        The pair, on the CPU where it is built here.

    Raises:
        UsageError: no such file, a corrupt one, tensors that do not fit, ``into`` missing.
    """
    file = Path(path)
    file = file / WEIGHTS if file.is_dir() else file
    if not file.is_file():
        raise UsageError(f"there is no saved model at {file}; give a run folder or its {WEIGHTS}")
    try:
        with safe_open(str(file), "pt") as opened:
            notes = dict(json.loads((opened.metadata() or {}).get("pyrovae", "{}")))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file} is not a readable safetensors file ({error}); it is corrupt or cut off: "
            f"take another copy, or train again"
        ) from error
    pair = into
    if pair is None:
        if notes.get("model") is None:
            raise UsageError(
                f"{file} holds the parameters of a pair of your own code, which no file can "
                f"carry; build the pair and call pv.load(path, into=pair)"
            )
        pair = construct(notes["model"], "model", f"{file}: model")
    as_pair(pair).fill(tensors, str(file))
    return pair


@contextmanager
def _writing(file: Path) -> Iterator[Path]:
    """A temporary neighbour that replaces ``file`` once it is complete and on disk."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors writes 0600
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {file}: {reason}; choose another path") from error
    finally:
        with suppress(OSError):  # a parent that is no folder
            temporary.unlink()


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine and versions that made a run."""
    packages = ("pyrovae", "torch", "pyro-ppl", "numpy", "safetensors")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "device": device,
        "device_name": (
            torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


@dataclass
class Folder:
    """A run's folder: nothing of it exists until :meth:`create`."""

    path: Path
    config: dict[str, Any] | None = None
    heading: str = ""  # said on stderr when the folder is made

    @classmethod
    def prepare(
        cls,
        path: str | Path,
        *,
        force: bool = False,
        config: dict[str, Any] | None = None,
        heading: str = "",
    ) -> Folder:
        """Check that the folder can be made, and leave no trace of having checked.

        Raises:
            UsageError: it is there already (without ``force``), is a file, or cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; choose another folder for the run")
        if path.is_dir() and any(path.iterdir()) and not force:
            raise UsageError(
                f"the run folder {path} exists already; choose another (out, --out), or overwrite "
                f"it with force=True (--force)"
            )
        ancestor = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
        try:
            with tempfile.TemporaryDirectory(dir=ancestor, prefix=".pyrovae-"):
                pass
        except OSError as error:
            raise UsageError(
                f"cannot write to {ancestor} ({error.strerror}); choose another folder for the "
                f"run (out, --out)"
            ) from error
        return cls(path, config, heading)

    def create(self) -> None:
        """Make the folder; an earlier run's files in it, and nothing else, are removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in OWN:
            (self.path / name).unlink(missing_ok=True)
        if self.config is not None:
            with _writing(self.path / "config.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(self.config, sort_keys=False))
        if self.heading:
            print(self.heading, file=sys.stderr)

    def append(self, row: Mapping[str, Any]) -> None:
        """One more line of ``metrics.csv``."""
        file = self.path / "metrics.csv"
        new = not file.exists()
        with file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def save(self, pair: Any, device: str) -> None:
        """The weights, and the environment that made them."""
        save(pair, self.path)
        self.write_json("environment.json", environment(device))

    def write_json(self, name: str, content: Any) -> None:
        """One file of the run."""
        with _writing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
