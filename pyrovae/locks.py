"""One writer per folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import datetime
import errno
import os
import re
import socket
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyrovae.errors import UsageError
from pyrovae.files import Place, inside

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["NAME", "writer"]

NAME = ".writer"  # the file that is locked, while there is a writer
# not to write, so that a disk can become read-only while it is held
OPEN = os.O_RDONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
OPEN |= getattr(os, "O_NONBLOCK", 0)  # nor wait for a pipe
# where a lock cannot be had for no fault of the user's
UNLOCKED = (errno.ENOSPC, errno.EDQUOT, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
WORDS = r"process (\d+) on ([\w.-]*) since ([\d-]+ [\d:]+)\n"
AGAIN = 100  # times that a file is opened, while others come and go


@contextmanager
def writer(folder: Path) -> Iterator[None]:
    """Be the one that writes in the folder, which is made if it is not there and removed again if
    it stays empty.

    The lock is the system's own (``flock``): it is gone when the process is, killed or not, and
    the children that the process forks do not have it. Where the file system knows no locks, or
    has no room, there is none, and a warning says so.

    Raises:
        UsageError: another has it, named by its process; a folder that cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, writer(Path(folder)), writer(Path(folder)):
    ...     pass
    Traceback (most recent call last):
    pyrovae.errors.UsageError: ... is being written by this process, ... since ...; wait for it, ...
    """
    made = [each for each in (folder, *folder.absolute().parents) if not each.exists()]
    held = None
    try:
        try:
            held = _taken(inside(folder, NAME))
        except OSError as error:
            if error.errno not in UNLOCKED:
                reason = error.strerror or error
                raise UsageError(
                    f"cannot write to {folder} ({reason}); choose another folder (out, --out)"
                ) from error
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}): nothing keeps another process from "
                f"writing there at the same time",
                stacklevel=4,
            )
        yield
    finally:
        if held is not None:
            held.release()
        with suppress(OSError):  # what something has been written to stays
            for each in made:
                each.rmdir()


class _Held:
    """A file that this process has locked.

    Args:
        place: where the file is.
        handle: of it, opened.
    """

    def __init__(self, place: Place, handle: int) -> None:
        self.place, self.handle = place, handle
        _all.add(self)

    def release(self) -> None:
        """Unlock and remove the file; in a forked child it is the parent's."""
        if self in _all:
            with suppress(UsageError):
                if self.there():
                    self.place.remove()
            self.close()

    def there(self) -> bool:
        """Whether the path leads to this file and no other."""
        found = self.place.status()
        return found is not None and os.path.samestat(found, os.fstat(self.handle))

    def close(self) -> None:
        """Let go of the file."""
        _all.discard(self)
        os.close(self.handle)


_all: set[_Held] = set()


def _forget() -> None:
    """Leave the locks to the parent: a forked child, such as one that reads ahead, may outlive
    it."""
    for held in list(_all):
        held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _taken(place: Place) -> _Held:
    """The file, locked.

    Raises:
        OSError: it cannot be opened or locked.
        UsageError: another has locked it.
    """
    flags = OPEN
    for _ in range(AGAIN):
        try:
            held = _Held(place, place.open(flags, make=True))
        except FileNotFoundError:  # the folder was removed by the one that had made it
            continue
        try:
            if _locked(held):
                return held
        except OSError as error:
            held.close()
            if error.errno != errno.EBADF or flags & os.O_RDWR:
                raise
            flags |= os.O_RDWR  # as a file system over the network wants it
            continue
        except BaseException:
            held.close()
            raise
        held.close()  # it was removed by the one that had it
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _locked(held: _Held) -> bool:
    """Lock an opened file and write whose it is; False where its path leads to it no longer."""
    handle, place = held.handle, held.place
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise UsageError(f"{place} is no file of a run's own; remove it, or choose another folder")
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError) as error:
        raise UsageError(
            f"{place.root} is being written by {_owner(handle)}; wait for it, stop it, or choose "
            f"another folder (out, --out)"
        ) from error
    if not held.there():
        return False
    since = datetime.datetime.now().isoformat(" ", "seconds")
    words = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
    with suppress(OSError, UsageError):  # a full disk has no room for them
        writable = place.open(os.O_WRONLY)
        try:
            if os.path.samestat(os.fstat(writable), found):
                os.ftruncate(writable, 0)
                os.write(writable, words.encode())
        finally:
            os.close(writable)
    return True


def _lock(handle: int) -> None:
    if sys.platform == "win32":  # a byte far behind the words, which others may read
        os.lseek(handle, 2**30, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _owner(handle: int) -> str:
    """Who has locked the file, in words."""
    for _ in range(20):  # it may be about to write them
        os.lseek(handle, 0, os.SEEK_SET)
        text = os.read(handle, 200).decode(errors="replace")
        if found := re.fullmatch(WORDS, text):
            process, machine, since = found.groups()
            where = "" if machine == socket.gethostname() else f" on {machine}"
            own = "this process, " * (process == str(os.getpid()) and not where)
            return f"{own}process {process}{where} since {since}"
        time.sleep(0.01)
    return "another process"
