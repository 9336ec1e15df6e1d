"""Files as a run writes and reads them: whole or not at all, safetensors and plain text."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from pyrovae.tensors import UsageError

__all__ = ["writing"]


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
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {file}: {reason}; choose another path") from error
    finally:
        with suppress(OSError):  # a parent that is no folder
            temporary.unlink()
