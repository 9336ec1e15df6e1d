"""What a run leaves on disk: safetensors and plain text, nothing that executes when opened."""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pyrovae.components import construct, describe
from pyrovae.files import writing
from pyrovae.tensors import UsageError
from pyrovae.traces import as_pair

__all__ = ["Folder", "environment", "load", "save"]

WEIGHTS = "model.safetensors"
FIGURES = ("training", "reconstructions", "samples", "interpolation", "latent_map", "kl")
OWN = (
    *("config.yaml", "metrics.csv", WEIGHTS, "environment.json", "evaluation.json"),
    *(f"figures/{name}.png" for name in (*FIGURES, "traversal")),
)


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
    with writing(file) as temporary:
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


def _description(owner: Any) -> Any:
    try:
        return describe(owner)
    except TypeError:
        return None


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
            with writing(self.path / "config.yaml") as temporary:
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
        with writing(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
