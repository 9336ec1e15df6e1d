"""What a run leaves on disk: safetensors and plain text, nothing that executes when opened."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from pyrovae import progress
from pyrovae.checkpoints import BEFORE, LAST, NEXT, Checkpoints
from pyrovae.components import Bounded, construct, describe
from pyrovae.errors import UsageError, got, in_short
from pyrovae.files import (
    Place,
    extend,
    inside,
    read_notes,
    read_tensors,
    sweep,
    write_bytes,
    write_tensors,
)
from pyrovae.likelihoods import Likelihood, Mixed
from pyrovae.locks import NAME as LOCK
from pyrovae.locks import writer
from pyrovae.schema import Schema
from pyrovae.traces import Pair, as_pair

__all__ = ["Folder", "before_units", "environment", "load", "of_own_code", "save"]

WEIGHTS, BEST, DATA = "model.safetensors", "checkpoints/best.safetensors", "data.json"
CONFIG, METRICS = "config.yaml", "metrics.csv"
FIGURES = ("training", "reconstructions", "samples", "interpolation", "latent_map", "kl", "program")
OWN = (
    *(CONFIG, METRICS, WEIGHTS, "environment.json", "evaluation.json"),
    *(DATA, LAST, BEFORE, BEST, NEXT),
    *(f"figures/{name}.png" for name in (*FIGURES, "traversal")),
)


def save(pair: object, path: str | Path) -> Path:
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
    named = path.suffix == ".safetensors"
    program = as_pair(pair)
    write_tensors(path if named else inside(path, WEIGHTS), program.tensors(), _notes(program))
    return path if named else path / WEIGHTS


def load(path: str | Path, into: object = None, allow: Sequence[str] = ()) -> Any:
    """Read what :func:`save` wrote. The file executes nothing, whoever made it.

    Args:
        path: the file, or a folder (a run's) that holds ``model.safetensors``.
        into: a pair of the same structure to fill; needed where the saved one was made of your
            own functions or modules, which no file can hold.
        allow: modules of your own whose classes the file may name; they are imported, and
            nothing else is.

    Returns:
        The pair, on the CPU where it is built here.

    Raises:
        UsageError: no such file, a corrupt one, tensors that do not fit, ``into`` missing, a class
            of a module that is not allowed, a model larger than the file's tensors.
    """
    file = _weights(path)
    if not file.exists():
        raise UsageError(f"there is no saved model at {file}; give a run folder or its {WEIGHTS}")
    pair = _build(file, allow) if into is None else into
    tensors, notes = read_tensors(file)
    program = as_pair(pair)
    tensors = _as_now(_current(notes, file), tensors, program)
    if notes.get("schema") is not None:
        program.keep(Schema.from_dict(notes["schema"]))
    for name, own in program.tensors().items():
        kind = tensors[name].dtype if name in tensors else own.dtype
        if kind.is_complex or kind.is_floating_point != own.dtype.is_floating_point:
            raise UsageError(f"{file}: {name!r} is {kind}, the pair's is {own.dtype}")
    program.fill(tensors, str(file))
    return pair


def of_own_code(path: str | Path) -> bool:
    """Whether a file, or that of a run's folder, holds the parameters of a pair that no file can
    describe."""
    file = _weights(path)
    if not file.exists():
        return False
    _, notes = read_notes(file)
    return "state" not in notes and notes.get("model") is None


def _weights(path: str | Path) -> Path | Place:
    """A file that was named, or that of a run's folder."""
    path = Path(path)
    return inside(path, WEIGHTS) if path.is_dir() else path


def _build(file: Path | Place, allow: Sequence[str]) -> Any:
    """The pair that a file describes, if its tensors are those of the file."""
    shapes, notes = read_notes(file)
    notes = _current(notes, file)
    if "state" in notes:
        raise UsageError(
            f"{file} is a checkpoint, which fit(resume=True) goes on from; the weights of the best "
            f"epoch are in {BEST}, the last ones in {WEIGHTS}"
        )
    if notes.get("model") is None:
        raise UsageError(
            f"{file} holds the parameters of a pair of your own code, which no file can "
            f"carry; build the pair and call pv.load(path, into=pair)"
        )
    # masks, orders and what draws the first weights come to a few times the weights
    elements = 10**7 + 30 * sum(map(math.prod, shapes.values()))
    operations = 10**3 + 20 * min(len(shapes), 10**4)
    try:
        with Bounded(elements, operations, f"{file} describes a larger model than it holds"):
            pair = construct(notes["model"], "program", f"{file}: model", allow=allow)
            program = as_pair(pair)
            held = {n: torch.empty(s, device="meta") for n, s in shapes.items()}
            held = _as_now(notes, held, program)
            own = {name: tuple(t.shape) for name, t in program.tensors().items()}
            if own != {name: tuple(t.shape) for name, t in held.items()}:
                program.fill(held, str(file))  # raises, and says what differs
    except UsageError:
        raise
    except Exception as error:  # torch refuses sizes in many ways
        raise UsageError(
            f"{file} describes a model that cannot be built ({in_short(error)}); it is corrupt: "
            f"take another copy"
        ) from error
    return pair


def _usable(path: str | Path) -> Path:
    """A path that the system can look up."""
    try:
        found = Path(path).expanduser()
        found.absolute().stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return found
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or in_short(error, 100)
        raise UsageError(
            f"{got(path)} cannot be the run's folder ({reason}); choose another (out, --out)"
        ) from error
    return found


def _notes(program: Pair) -> dict[str, object]:
    """What a file says of its tensors: how to build what they are of, where that can be said, and
    what the columns of its data are."""
    try:
        model = describe(program.owner)
    except TypeError:
        model = None
    schema = {} if program.schema is None else {"schema": program.schema.to_dict()}
    return {"version": VERSION, "model": model, **schema}


def _current(notes: Mapping[str, Any], file: Path | Place) -> dict[str, Any]:
    """What a file says, as this version would write it."""
    version = notes.get("version", 1)
    if not isinstance(version, int) or not 0 < version <= VERSION:
        raise UsageError(
            f"{file} is of version {got(version)}, and this pyrovae reads those up to {VERSION}: "
            f"install the pyrovae that wrote it, or a newer one"
        )
    found = {**notes, "version": VERSION, "was": version}
    for step in STEPS[version - 1 :]:
        found = step(found)
    return found


def _without_units(notes: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew no units: its likelihoods take data as they are."""

    def apart(part: Any) -> Any:
        if isinstance(part, list):
            return [apart(each) for each in part]
        if not isinstance(part, Mapping):
            return part
        found = {name: apart(value) for name, value in part.items()}
        path = str(found.get("class_path", ""))
        if path.startswith("pyrovae.likelihoods.") and not path.endswith(".Mixed"):
            found["init_args"] = {"units": "none"} | (found.get("init_args") or {})
        return found

    return {**notes, "model": apart(notes.get("model"))}


VERSION = 2
STEPS = (_without_units,)  # from each version to the next


def _as_now(
    notes: Mapping[str, Any], tensors: Mapping[str, Tensor], program: Pair
) -> dict[str, Tensor]:
    """Tensors under the names that this version gives them. In version 1 every column of a
    ``Mixed`` had its own; those of one kind are together now."""
    found = dict(tensors)
    if notes.get("was", VERSION) > 1:
        return found
    if not isinstance(program.owner, nn.Module):
        return before_units(program, found)
    for path, module in program.owner.named_modules():
        if isinstance(module, Mixed):
            for name, own, olds in module.columns_of_old():
                each = [found.pop(f"{path}.{old}") for old in olds if f"{path}.{old}" in found]
                if each:
                    found[f"{path}.{name}"] = torch.stack(each, -1) if own.dim() else each[0]
    return before_units(program, found)


def before_units(program: Pair, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that may have been saved before units were learned: those that a likelihood lacks
    are such that it takes x as it is, to the bit as it did."""
    names = {id(tensor): name for name, tensor in program.tensors().items()}
    found: dict[str, Tensor] = {}
    if tensors.keys() >= set(names.values()):  # nothing is lacking
        return dict(tensors)
    for top in program.reach().modules.values():
        for part in top.modules():
            if isinstance(part, Likelihood):
                own = dict(part.named_buffers())  # none of a column that is together with others
                values = part.unmeasured() if own else {}
                found |= {names[id(own[n])]: value for n, value in values.items()}
    return found | dict(tensors)


def environment(device: str = "cpu") -> dict[str, object]:
    """The machine and versions that made a run."""
    # of the code that runs; what is installed may be another
    versions = {"pyrovae": sys.modules["pyrovae"].__version__}
    for name in ("torch", "pyro-ppl", "numpy", "safetensors"):
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
    """A run's folder: nothing of it exists until it is written :meth:`alone`."""

    path: Path
    config: Mapping[str, object] | None = None
    heading: str = ""  # said on stderr when the folder is made
    figures: Sequence[str] = ()  # names of pictures that are removed besides
    about: Mapping[str, object] | None = None  # the data, in data.json
    _alone: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self._rows: list[Mapping[str, float]] = []  # of metrics.csv, those that are on disk first
        self._told, self._size = 0, cast("int | None", 0)  # rows and bytes; None: to be made anew

    @classmethod
    def prepare(
        cls,
        path: str | Path,
        *,
        force: bool = False,
        resume: bool = False,
        config: Mapping[str, object] | None = None,
        heading: str = "",
        figures: Sequence[str] = (),
        about: Mapping[str, object] | None = None,
    ) -> Folder:
        """Check that the folder can be made, and leave no trace of having checked.

        Raises:
            UsageError: it is there already (without ``force`` or ``resume``), is a file, cannot be
                written, or is a run without a checkpoint to resume from.
        """
        path = _usable(path)
        made = cls(path, config, heading, figures, about)
        made._refuse(wanted=force or resume, unfinished=resume and not force)
        ancestor = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
        try:
            with tempfile.TemporaryDirectory(dir=ancestor, prefix=".pyrovae-"):
                pass
        except OSError as error:
            raise UsageError(
                f"cannot write to {ancestor} ({error.strerror}); choose another folder for the "
                f"run (out, --out)"
            ) from error
        return made

    def _refuse(self, *, wanted: bool, unfinished: bool) -> None:
        """Refuse what is there, unless it is ``wanted``, and where it must be ``unfinished``, what
        has no checkpoint."""
        path = self.path
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file; choose another folder for the run")
        if not wanted and path.is_dir() and any(each.name != LOCK for each in path.iterdir()):
            raise UsageError(
                f"the run folder {path} exists already; choose another (out, --out), go on with "
                f"it (resume=True, --resume), or overwrite it with force=True (--force)"
            )
        if unfinished and (path / WEIGHTS).exists() and not self.checkpoints.there():
            raise UsageError(
                f"the run in {path} has no checkpoint to go on from; choose another folder, or "
                f"overwrite it with force=True (--force)"
            )

    @contextmanager
    def alone(self) -> Iterator[Folder]:
        """Be the one process that writes here; within, it may be said again.

        Raises:
            UsageError: another one writes here.
        """
        if self._alone:
            yield self
            return
        with writer(self.path):
            self._alone = True
            try:
                yield self
            finally:
                self._alone = False

    @property
    def checkpoints(self) -> Checkpoints:
        """Where the states of the run are kept."""
        return Checkpoints(self.path)

    def create(self) -> None:
        """Make the folder; an earlier run's files in it, and nothing else, are removed."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.tidy()
        for name in (*OWN, *(f"figures/{figure}.png" for figure in self.figures)):
            inside(self.path, name).remove()  # of a link, not what it leads to
        self.introduce()

    def introduce(self) -> None:
        """Write the config and what the data are, and say what is about to be done."""
        self._describe()
        if self.heading:
            progress.say(self.heading)

    def _describe(self, *, lacking: bool = False) -> None:
        """Write the config and what the data are, or what is ``lacking`` of them."""
        if self.config is not None and not (lacking and inside(self.path, CONFIG).exists()):
            text = yaml.safe_dump(self.config, sort_keys=False)
            write_bytes(inside(self.path, CONFIG), text.encode())
        if self.about is not None and not (lacking and inside(self.path, DATA).exists()):
            self.write_json(DATA, self.about)

    def tidy(self) -> None:
        """Remove what a process that was killed left half-written.

        Raises:
            UsageError: a link in the place of a folder.
        """
        sweep(self.path, OWN)

    def rewrite(self, rows: Sequence[Mapping[str, float]]) -> None:
        """``metrics.csv`` with these rows alone.

        Raises:
            UsageError: it cannot be written; :meth:`catch_up` tries again.
        """
        self._rows, self._told, self._size = list(rows), 0, None
        self.catch_up()

    def append(self, row: Mapping[str, float]) -> None:
        """One more line of ``metrics.csv``.

        Raises:
            UsageError: it cannot be written; :meth:`catch_up` tries again.
        """
        self._rows.append(row)
        self.catch_up()

    def catch_up(self) -> None:
        """Write what could not be written before and what was deleted meanwhile: the rows that
        ``metrics.csv`` lacks, all of them where it is not as it was left, and what describes the
        run.

        Raises:
            UsageError: it cannot be written.
        """
        self._describe(lacking=True)
        file = inside(self.path, METRICS)
        there = file.status()
        if self._size is None or self._size != (there.st_size if there else 0):
            text = _as_csv(self._rows, header=True)
            write_bytes(file, text) if text else file.remove()
            self._size = len(text)
        elif self._told < len(self._rows):
            text = _as_csv(self._rows[self._told :], header=not self._told)
            extend(file, text, self._size)
            self._size += len(text)
        self._told = len(self._rows)

    def save_best(self, pair: object, tensors: Mapping[str, Tensor]) -> None:
        """The weights of the best epoch, as :func:`load` reads them."""
        write_tensors(inside(self.path, BEST), tensors, _notes(as_pair(pair)))

    def save(self, pair: object, device: str) -> None:
        """The weights, and the environment that made them."""
        save(pair, self.path)
        self.write_json("environment.json", environment(device))

    def write_json(self, name: str, content: object) -> None:
        """One file of the run."""
        text = json.dumps(content, indent=2) + "\n"
        write_bytes(inside(self.path, name), text.encode())


def _as_csv(rows: Sequence[Mapping[str, float]], *, header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    if header and rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
