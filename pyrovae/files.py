"""Files as a run writes and reads them: whole or not at all, safetensors and plain text.

Nothing that is read here can execute, allocate more than the file holds, or name another place to
write; a file from a stranger gives its values or a :class:`UsageError`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from pyrovae.errors import UsageError, got
from pyrovae.memory import fits

__all__ = [
    "Place",
    "check_held",
    "check_size",
    "extend",
    "home",
    "inside",
    "plain",
    "read_json",
    "read_notes",
    "read_tensors",
    "read_text",
    "read_yaml",
    "sweep",
    "write_bytes",
    "write_tensors",
    "writing",
]

HEADER, JSON, YAML = 100_000_000, 64_000_000, 1_000_000  # bytes
UNPACKED, TIMES = 100_000_000, 100  # in memory, of how much less on disk
# Of a plain text: longer scalars take quadratic time, deeper trees the stack, more values minutes;
# a table of thousands of columns is described within it.
SCALAR, DEPTH, VALUES = 10_000, 50, 100_000
NESTED = 4 * DEPTH  # levels of JSON: a checkpoint's state takes three for each of a tree
KEY, CHECKSUM = "pyrovae", "crc32"
DAMAGE = (SafetensorError, ArithmeticError, LookupError, TypeError, ValueError)
WIDTHS = {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "C64": 8} | {
    f"{kind}{8 * width}": width for kind in "UIF" for width in (1, 2, 4, 8)
}
KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64", torch.bool: "BOOL",
}  # fmt: skip


def home(path: str | Path) -> Path:
    """The path with ``~`` written out."""
    if "\0" in str(path):
        raise UsageError(
            f"{got(str(path))} is no path: it has a character that ends it; leave it out"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # of a user that is not known
        raise UsageError(f"{got(str(path))}: {error} Write the path out") from error


# --- places ------------------------------------------------------------------------------------

HANDLES = hasattr(os, "O_NOFOLLOW") and os.supports_dir_fd >= {
    *(os.mkdir, os.open, os.rename, os.stat, os.unlink)
}
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True)
class Place:
    """Where a file of a run is: its name below the run's folder, by no symbolic link.

    Every folder on the way is opened in the one above it and the file in the last, so that a link
    that meanwhile takes the place of one of them leads nowhere. The run's folder itself may be a
    link: that is where its owner put it. A system that opens no folders (Windows) is asked for
    links first.

    Attributes:
        root: the run's folder.
        name: of the file, below it.
    """

    root: Path
    name: str

    def __str__(self) -> str:
        return str(self.root / self.name)

    @contextmanager
    def folder(self, *, make: bool = False) -> Iterator[tuple[str, int | None]]:
        """The file's name in the folder that it is in, and a handle of that folder; without
        handles its path, and None.

        Raises:
            OSError: there is no such folder, and none is to be made.
            UsageError: a link leads to it.
        """
        *above, name = PurePath(self.name).parts
        if make:
            with suppress(FileExistsError):  # a file, which is no folder to open
                self.root.mkdir(parents=True, exist_ok=True)
        if not HANDLES:
            yield self._looked_at(make), None
            return
        handle = os.open(self.root, FOLDER)
        try:
            for part in above:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                below = self._open(part, FOLDER, handle)
                os.close(handle)
                handle = below
            yield name, handle
        finally:
            os.close(handle)

    def _looked_at(self, make: bool) -> str:
        """The path, after a look at every part of it."""
        path = self.root
        for part in PurePath(self.name).parts:
            path = path / part
            self.refuse_link(str(path), None)
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)

    def _open(self, part: str, flags: int, folder: int | None) -> int:
        try:
            return os.open(part, flags | NO_LINK, 0o666, dir_fd=folder)
        except OSError:
            self.refuse_link(part, folder)
            raise

    def refuse_link(self, part: str, folder: int | None) -> None:
        """Raise UsageError where a part of the path is a symbolic link."""
        try:
            status = os.stat(part, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return
        if stat.S_ISLNK(status.st_mode):
            raise UsageError(
                f"{self} is a symbolic link or behind one ({Path(part).name}), which may lead out "
                f"of the run folder and is not followed; replace it with what it stands for, or "
                f"choose another folder"
            )

    def open(self, flags: int, *, make: bool = False) -> int:
        """A handle of the file itself.

        Raises:
            OSError: it cannot be opened.
            UsageError: it is a link, or behind one.
        """
        with self.folder(make=make) as (name, folder):
            return self._open(name, flags, folder)

    def status(self) -> os.stat_result | None:
        """What the system knows of the file, or of a link in its place; None where nothing is.

        Raises:
            UsageError: it is behind a link, or the folder cannot be looked into.
        """
        try:
            with self.folder() as (name, folder):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"cannot read {self}: {error.strerror or error}") from error

    def exists(self) -> bool:
        """Whether there is a file, or a link in its place."""
        return self.status() is not None

    def remove(self) -> None:
        """Take the file away where there is one, or a link in its place.

        Raises:
            UsageError: that is not possible.
        """
        try:
            with self.folder() as (name, folder):
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UsageError(
                f"cannot remove {self}: {error.strerror or error}; take it away, or choose another "
                f"folder"
            ) from error

    def replace(self, other: Place) -> None:
        """Let the file take another one's place.

        Raises:
            UsageError: that is not possible.
        """
        try:
            with self.folder() as (name, folder), other.folder() as (new, into):
                other.refuse_link(new, into)
                os.replace(name, new, src_dir_fd=folder, dst_dir_fd=into)
        except OSError as error:
            raise UsageError(f"cannot write {other}: {error.strerror or error}") from error


def inside(root: str | Path, name: str | Path) -> Place:
    """The place of a run's file, within the folder ``root``.

    Raises:
        UsageError: a name that leaves the folder.

    >>> str(inside("runs/mine", "figures/kl.png"))
    'runs/mine/figures/kl.png'
    >>> inside("runs/mine", "../kl.png")
    Traceback (most recent call last):
    pyrovae.errors.UsageError: '../kl.png' leaves the folder runs/mine; nothing is written there
    """
    pure = PurePath(name)
    if pure.anchor or not pure.parts or ".." in pure.parts or "\0" in str(name):
        raise UsageError(f"{str(name)!r} leaves the folder {root}; nothing is written there")
    return Place(Path(root), str(name))


def sweep(root: str | Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed left half-written of the files of these names, and
    nothing else.

    Raises:
        UsageError: a link leads to one of their folders.
    """
    for place in (inside(root, name) for name in names):
        with suppress(OSError), place.folder() as (name, folder):
            path = Path(name)
            ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}")
            with os.scandir(path.parent if folder is None else folder) as entries:
                left = [entry.name for entry in entries if ours.fullmatch(entry.name)]
            for each in left:
                with suppress(OSError):  # a folder of that name is none of ours
                    os.unlink(path.with_name(each), dir_fd=folder)


# --- writing -----------------------------------------------------------------------------------


@contextmanager
def writing(file: Path | Place) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``file`` once it is complete and on disk.

    Raises:
        UsageError: it cannot be written; what was there stays.
    """
    place = file if isinstance(file, Place) else _named(file)
    try:
        with place.folder(make=True) as (name, folder):
            place.refuse_link(name, folder)
            temporary = str(Path(name).with_name(f".{Path(name).name}.{uuid.uuid4().hex}"))
            handle = place._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder)
            try:
                with os.fdopen(handle, "wb") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                if folder is not None:
                    with suppress(OSError):  # not every system does
                        os.fsync(folder)
            finally:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write {file}: {reason}; choose another path") from error


def _named(file: Path) -> Place:
    """The place that a user names, wherever it leads."""
    path = Path(os.path.realpath(file))
    return Place(path.parent, path.name)


def write_bytes(file: Path | Place, content: bytes) -> None:
    """A file of these bytes, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    with writing(file) as stream:
        stream.write(content)


def extend(place: Place, content: bytes, at: int) -> None:
    """Write bytes behind the first ``at`` bytes of a file: all of it or nothing.

    Raises:
        UsageError: it cannot be written.
    """
    rest = memoryview(content)
    try:
        handle = place.open(os.O_WRONLY | os.O_CREAT, make=True)
        try:
            os.lseek(handle, at, os.SEEK_SET)
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, at)
            raise
        finally:
            os.close(handle)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror or error}") from error


def write_tensors(
    file: Path | Place, tensors: Mapping[str, Tensor], notes: Mapping[str, object]
) -> None:
    """A safetensors file: tensors, and notes as JSON, with a checksum of both.

    It is written tensor by tensor, as the format has it: the largest numbers first.

    Raises:
        UsageError: a path that cannot be written, or a type that the format has not.
    """
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**notes, CHECKSUM: _checksum(own, notes)})
    header: dict[str, object] = {"__metadata__": {KEY: text}}
    order, end = sorted(own, key=lambda name: (-own[name].element_size(), name)), 0
    for name in order:
        tensor = own[name]
        if tensor.dtype not in KINDS:
            raise UsageError(f"cannot write {file}: {name!r} is {tensor.dtype}")
        begin, end = end, end + tensor.nbytes
        kind, shape = KINDS[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with writing(file) as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            stream.write(_bytes(own[name]))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor], notes: Mapping[str, object]) -> int:
    """Of names, types, shapes, bytes and notes."""
    code = zlib.crc32(json.dumps(notes).encode())
    for name, tensor in sorted(tensors.items()):
        code = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), code)
        code = zlib.crc32(_bytes(tensor), code)
    return code


# --- reading -----------------------------------------------------------------------------------


@contextmanager
def _reading(file: Path | Place) -> Iterator[tuple[IO[bytes], int]]:
    """An opened regular file, to be held in memory, and its length: a pipe or a device might never
    end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = file.open(flags) if isinstance(file, Place) else os.open(file, flags)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"cannot read {file}: it is not a file; take another copy")
            held = status.st_size - _holes(handle, status.st_size)
            whole = "copy it whole (cp --sparse=never) if that is what it should be"
            check_held(file, status.st_size, held, 2, whole)
            yield stream, status.st_size
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UsageError(
            f"cannot read {file}: there is not enough memory for it; lower what else is held"
        ) from error


def check_held(file: object, claimed: int, held: int, times: int, remedy: str) -> None:
    """Refuse to hold in memory what is small to send and large to open.

    Args:
        file: its name, for the message.
        claimed: bytes in memory.
        held: bytes on disk.
        times: how many times these may come in memory, beyond 100 MB.
        remedy: what to do.

    Raises:
        UsageError: it claims more.

    >>> check_held("x.npz", 10**9, 10**6, 100, "save it without compression")
    Traceback (most recent call last):
    pyrovae.errors.UsageError: cannot read x.npz: of 1,000,000 bytes on disk it would take ...
    """
    if claimed > max(UNPACKED, times * held):
        raise UsageError(
            f"cannot read {file}: of {held:,} bytes on disk it would take {claimed:,} in memory, "
            f"more than {UNPACKED:,} and {times} times as many; {remedy}"
        )


def check_size(file: Path) -> None:
    """Refuse a file most of which is holes, and an archive (.npz, .pt, .xlsx) that unpacks to more
    than 100 times its size, beyond 100 MB each.

    Raises:
        UsageError: such a file, or one that cannot be read.
    """
    with _reading(file) as (stream, size), suppress(zipfile.BadZipFile):
        claimed = sum(each.file_size for each in zipfile.ZipFile(stream).infolist())
        check_held(file, claimed, size, TIMES, "save it without compression if you trust it")


def _holes(handle: int, size: int) -> int:
    """Bytes of a file that no block on disk holds; 0 where the system does not tell."""
    holes = at = 0
    if hasattr(os, "SEEK_HOLE"):
        with suppress(OSError):
            while at < size and (begin := os.lseek(handle, at, os.SEEK_HOLE)) < size:
                at = _next_data(handle, begin, size)
                holes += at - begin
        os.lseek(handle, 0, os.SEEK_SET)
    return holes


def _next_data(handle: int, at: int, size: int) -> int:
    try:
        return os.lseek(handle, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size  # nothing but a hole is left


def _header(
    file: Path | Place, stream: IO[bytes], size: int
) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _corrupt(file: Path | Place, reason: object) -> UsageError:
    return UsageError(
        f"{file} is not a readable safetensors file ({str(reason)[:300]}); it is corrupt or cut "
        f"off: take another copy, or train again"
    )


def read_notes(file: Path | Place) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of a safetensors file's tensors, and its notes; the tensors stay on disk.

    Raises:
        UsageError: no such file, or a corrupt one.
    """
    with _reading(file) as (stream, size):
        tensors, notes = _header(file, stream, size)
    notes.pop(CHECKSUM, None)
    return {name: tuple(given["shape"]) for name, given in tensors.items()}, notes


def read_tensors(file: Path | Place) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote: the tensors, in memory of their own, and the notes.

    Files of others have no checksum and are read as well.

    Raises:
        UsageError: no such file, or one that is corrupt, cut off or of another checksum.
    """
    with _reading(file) as (stream, size):
        shapes, notes = _header(file, stream, size)
        if not fits(size, "cpu"):
            raise MemoryError
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


def read_text(file: Path | Place, most: int = JSON) -> str:
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


def read_json(file: Path | Place) -> Any:
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


def read_yaml(file: Path | Place) -> Any:
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
