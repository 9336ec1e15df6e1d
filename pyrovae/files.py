"""Files as a run writes and reads them: whole or not at all, safetensors and plain text.

Nothing that is read here can execute, allocate more than the file holds, or name another place to
write; a file from a stranger gives its values or a :class:`UsageError`.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from pyrovae.errors import UsageError, got

__all__ = [
    "home",
    "inside",
    "plain",
    "read_json",
    "read_notes",
    "read_tensors",
    "read_text",
    "read_yaml",
    "write_tensors",
    "writing",
]

HEADER, JSON, YAML = 100_000_000, 64_000_000, 1_000_000  # bytes
# Of a plain text: longer scalars take quadratic time, deeper trees the stack, more values minutes;
# a table of thousands of columns is described within it.
SCALAR, DEPTH, VALUES = 10_000, 50, 100_000
NESTED = 4 * DEPTH  # levels of JSON: a checkpoint's state takes three for each of a tree
KEY, CHECKSUM = "pyrovae", "crc32"
DAMAGE = (SafetensorError, ArithmeticError, LookupError, TypeError, ValueError)
WIDTHS = {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "C64": 8} | {
    f"{kind}{8 * width}": width for kind in "UIF" for width in (1, 2, 4, 8)
}


def home(path: str | Path) -> Path:
    """The path with ``~`` written out."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # of a user that is not known
        raise UsageError(f"{got(str(path))}: {error} Write the path out") from error


# --- writing -----------------------------------------------------------------------------------


def inside(root: str | Path, name: str | Path) -> Path:
    """The path of a run's file, to write it: within the folder ``root``, by no symbolic link.

    The folder itself may be a link: that is where its owner put it.

    Raises:
        UsageError: a name that leaves the folder, or a link below it.

    >>> inside("runs/mine", "figures/kl.png").as_posix()
    'runs/mine/figures/kl.png'
    >>> inside("runs/mine", "../kl.png")
    Traceback (most recent call last):
    pyrovae.errors.UsageError: '../kl.png' leaves the folder runs/mine; nothing is written there
    """
    pure, path = PurePath(name), Path(root)
    if pure.anchor or ".." in pure.parts or "\0" in str(name):
        raise UsageError(f"{str(name)!r} leaves the folder {root}; nothing is written there")
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, which may lead out of the run folder: nothing is "
                f"written to it; replace it with what it stands for, or choose another folder"
            )
    return path


@contextmanager
def writing(file: Path) -> Iterator[Path]:
    """A temporary neighbour that replaces ``file`` once it is complete and on disk."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors writes 0600
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(file)
        with suppress(OSError):  # not every system opens a folder
            _sync(file.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {file}: {reason}; choose another path") from error
    finally:
        with suppress(OSError):  # a parent that is no folder
            temporary.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_tensors(file: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, object]) -> None:
    """A safetensors file: tensors, and notes as JSON, with a checksum of both.

    Raises:
        UsageError: a path that cannot be written.
    """
    own = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    text = json.dumps({**notes, CHECKSUM: _checksum(own, notes)})
    with writing(file) as temporary:
        safetensors.torch.save_file(own, temporary, metadata={KEY: text})


def _checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, object]) -> int:
    """Of names, types, shapes, bytes and notes."""
    code = zlib.crc32(json.dumps(notes).encode())
    for name, tensor in sorted(tensors.items()):
        code = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), code)
        code = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, code)
    return code


# --- reading -----------------------------------------------------------------------------------


@contextmanager
def _reading(file: Path) -> Iterator[tuple[IO[bytes], int]]:
    """An opened regular file and its length: a pipe or a device might never end."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"cannot read {file}: it is not a file; take another copy")
            yield stream, status.st_size
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error


def _header(file: Path, stream: IO[bytes], size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each tensor is (``{name: {"dtype", "shape", ...}}``), and the notes."""
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(size - 8, HEADER):
        raise _corrupt(file, "its header is longer than the file")
    try:
        tensors = dict(_json(stream.read(length).decode()))
        notes = dict(_json(dict(tensors.pop("__metadata__", None) or {}).get(KEY, "{}")))
        for name, given in tensors.items():
            _check_extent(name, given, size - 8 - length)
    except DAMAGE as error:
        raise _corrupt(file, f"{type(error).__name__}: {error}") from error
    return tensors, notes


def _check_extent(name: str, given: Mapping[str, Any], size: int) -> None:
    """Raise ValueError where a tensor is not what lies at its place."""
    begin, end = given["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (begin, end, *given["shape"])):
        raise ValueError(f"{name!r} has no shape")
    held = math.prod(given["shape"]) * WIDTHS[given["dtype"]]
    if not begin <= end <= size or end - begin != held:
        raise ValueError(f"{name!r} is longer than the file or shorter than its shape")


def _corrupt(file: Path, reason: object) -> UsageError:
    return UsageError(
        f"{file} is not a readable safetensors file ({str(reason)[:300]}); it is corrupt or cut "
        f"off: take another copy, or train again"
    )


def read_notes(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of a safetensors file's tensors, and its notes; the tensors stay on disk.

    Raises:
        UsageError: no such file, or a corrupt one.
    """
    with _reading(file) as (stream, size):
        tensors, notes = _header(file, stream, size)
    notes.pop(CHECKSUM, None)
    return {name: tuple(given["shape"]) for name, given in tensors.items()}, notes


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote: the tensors, in memory of their own, and the notes.

    Files of others have no checksum and are read as well.

    Raises:
        UsageError: no such file, or one that is corrupt, cut off or of another checksum.
    """
    with _reading(file) as (stream, size):
        shapes, notes = _header(file, stream, size)
        stream.seek(0)
        content = stream.read(size)
    checksum = notes.pop(CHECKSUM, None)
    try:
        tensors = safetensors.torch.load(content)
        found = None if checksum is None else _checksum(tensors, notes)
    except (*DAMAGE, RuntimeError) as error:
        raise _corrupt(file, error) from error
    if {n: list(t.shape) for n, t in tensors.items()} != {n: g["shape"] for n, g in shapes.items()}:
        raise _corrupt(file, "it names a tensor twice")
    if checksum != found:
        raise _corrupt(file, "its checksum is another")
    return tensors, notes


def read_text(file: Path, most: int = JSON) -> str:
    """A text file of at most ``most`` bytes.

    Raises:
        UsageError: no such file, a larger one, or no UTF-8.
    """
    with _reading(file) as (stream, size):
        content = stream.read(most + 1)
    if len(content) > most:
        raise UsageError(f"cannot read {file}: it is larger than {most:,} bytes; take another copy")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {file}: it is not a text file in UTF-8") from error


def read_json(file: Path) -> Any:
    """The values of a JSON file.

    Raises:
        UsageError: no such file, or one that is no JSON, too large or nested too deep.
    """
    text = read_text(file)
    try:
        return _json(text)
    except ValueError as error:
        raise UsageError(
            f"cannot read {file}: it is not a JSON file ({str(error)[:300]})"
        ) from error


_NESTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)  # strings, brackets


def _json(text: str) -> Any:
    """The values of a JSON text, whose depth is judged before the parser recurses.

    Raises:
        ValueError: it is no JSON, or deep.
    """
    depth = 0
    for found in _NESTS.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > NESTED:
            raise ValueError(f"more than {NESTED} levels")
    return json.loads(text)


def read_yaml(file: Path) -> Any:
    """The values of a YAML file: plain ones, as :func:`plain` has them.

    Raises:
        UsageError: no such file, one that is no YAML, or one that is not plain.
    """
    text = read_text(file, YAML)
    try:
        return plain(text)
    except UsageError as error:
        raise UsageError(f"cannot read {file}: {error}") from error


def plain(text: str) -> Any:
    """The values of a YAML text that means no more than it shows: nothing in it is named, referred
    to, deep, long or many.

    Whatever reads YAML here, of files, options or values, reads it by this function.

    Raises:
        UsageError: it is no YAML, or not plain.

    >>> plain("[1, {a: 2}]")
    [1, {'a': 2}]
    >>> plain("[&a [1, 1], *a, *a]")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pyrovae.errors.UsageError: it is not plain YAML, which has no tags (!), anchors (&) or ...
    """
    try:
        return yaml.load(text, _Plain)
    except UsageError:
        raise
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UsageError("it is not a YAML file") from error  # such as a date without a month


class _Plain(yaml.SafeLoader):
    """The loader written in Python: libyaml's releases differ in what they refuse and when.

    An event is judged before it is built upon, the only place where the parser recurses.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = self.values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        nests = isinstance(event, yaml.CollectionStartEvent)
        self.level, self.values = self.level + nests, self.values + 1
        if (
            isinstance(event, yaml.AliasEvent)
            or event.anchor is not None
            or event.tag is not None
            or self.level > DEPTH
            or self.values > VALUES
            or (isinstance(event, yaml.ScalarEvent) and len(event.value) > SCALAR)
        ):
            raise UsageError(
                f"it is not plain YAML, which has no tags (!), anchors (&) or aliases (*), no more "
                f"than {DEPTH} levels and {VALUES:,} values, and none longer than {SCALAR:,} "
                f"characters"
            )
        node = super().compose_node(parent, index)
        self.level -= nests
        return node
