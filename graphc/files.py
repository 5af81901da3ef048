"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from graphc.errors import ArgumentError, GraphcError


def write_atomically(path: str | os.PathLike[str], data: bytes, error: type[GraphcError]) -> None:
    """Write `data` beside its place, flush it to the disk, and rename it; a previous file stays until then.

    Raises:
        error: the folder doesn't exist or can't be written to; nothing is left behind.
    """
    target = as_path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as cause:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(cause, OSError):
            raise error(f"can't write {str(target)!r}: {cause.strerror or cause}") from cause
        raise


def as_path(path: Any) -> Path:
    """`path` as a `Path`.

    Raises:
        ArgumentError: it is no path.
    """
    try:
        return Path(os.fsdecode(path))
    except TypeError:
        raise ArgumentError(f"a path is a string or a pathlib.Path, got {type(path).__name__} {path!r}") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX systems can open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
