"""What a run leaves on disk: safetensors and plain text, nothing that executes when opened."""

from __future__ import annotations

import csv
import datetime
import importlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pyrovae.data import UsageError
from pyrovae.networks import Component
from pyrovae.traces import as_pair

__all__ = ["Folder", "describe", "environment", "load", "save"]

WEIGHTS = "model.safetensors"
OWN = ("config.yaml", "metrics.csv", WEIGHTS, "environment.json", "evaluation.json", "figures")


def describe(value: Any) -> Any:
    """A component as plain data: ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        TypeError: a class or module of the user's own is part of it.
    """
    if isinstance(value, Component) and type(value).__module__.startswith("pyrovae."):
        cls = type(value)
        arguments = {name: describe(part) for name, part in value.arguments().items()}
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": arguments}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written as plain data")


def _description(owner: Any) -> Any:
    try:
        return describe(owner)
    except TypeError:
        return None


def construct(description: Any) -> Any:
    """The component that :func:`describe` described.

    Raises:
        UsageError: a class that is not one of pyrovae's own.
    """
    if not isinstance(description, Mapping):
        return description
    path = str(description.get("class_path"))
    if not re.fullmatch(r"pyrovae(\.[a-z_]+)+\.[A-Za-z]+", path):
        raise UsageError(f"{path!r} is not a class of pyrovae; only those are built from a file")
    module, name = path.rsplit(".", 1)
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"this version of pyrovae has no class {path}") from error
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        raise UsageError(f"{path!r} is not a component of pyrovae")
    return cls(**{k: construct(v) for k, v in description.get("init_args", {}).items()})


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
            notes = json.loads((opened.metadata() or {}).get("pyrovae", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
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
        pair = construct(notes["model"])
    as_pair(pair).fill(tensors, str(file))
    return pair


@contextmanager
def _writing(file: Path) -> Iterator[Path]:
    """A temporary neighbour that replaces ``file`` once it is complete and on disk."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; choose another path") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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

    @classmethod
    def prepare(
        cls, path: str | Path, *, force: bool = False, config: dict[str, Any] | None = None
    ) -> Folder:
        """Check that the folder can be made, and leave no trace of having checked.

        Raises:
            UsageError: it is there already (without ``force``), is a file, or cannot be written.
        """
        path = Path(path)
        if path.is_file() or (path.exists() and not path.is_dir()):
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
        return cls(path, config)

    def create(self) -> None:
        """Make the folder; an earlier run's files in it, and nothing else, are removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in OWN:
            old = self.path / name
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        if self.config is not None:
            text = yaml.safe_dump(self.config, sort_keys=False)
            (self.path / "config.yaml").write_text(text)

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
        with _writing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
