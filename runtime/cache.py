"""Machine code on disk, so that what was compiled once isn't compiled again by later processes.

Files of this folder are run as code, so it must belong to the user alone. A file has a digest of its key and content;
one that is damaged counts as missing. Nothing that goes wrong here stops a program: without a folder, code is compiled
each time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 512 << 20  # of all files; those that were not used for longest go first
KEPT = 0.75  # of `MAX_BYTES`, when files have to go
MAGIC = b"graphc object 1\n"
HEAD_BYTES = len(MAGIC) + 32


class CodeCacheInfo(NamedTuple):
    """The cache of machine code.

    Attributes:
        entries, bytes: of all files, those of other processes included.
        hits, misses: how often this process found code, and compiled it.
        directory: where the files are, or would be.
        disabled: why nothing is kept, or None.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    directory: str
    disabled: str | None


class ObjectCache:
    """Object files by key, in a folder that only the user can read and write.

    Args:
        directory: the folder, made if it doesn't exist; None where there is no place for one.
        max_bytes: of all files.
    """

    def __init__(self, directory: Path | None, max_bytes: int = MAX_BYTES) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.hits = self.misses = 0
        self.disabled = "there is no home folder" if directory is None else _refusal(directory)
        self._bytes: int | None = None  # of all files, as far as this process knows

    def get(self, key: str) -> bytes | None:
        """The object file of a key, if there is a sound one."""
        found = self.find(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def find(self, key: str) -> bytes | None:
        """The same, without being counted."""
        return None if self.disabled else self._read(key)

    def put(self, key: str, data: bytes, *others: str) -> None:
        """Keep an object file, if that is possible, under one key or several.

        What has several is found under any of them, and by whoever gives it another's name: it has to be looked at.
        """
        if self.disabled or self.directory is None:
            return
        content = _head("" if others else key, data) + data
        try:
            _replace([self._path(each) for each in (key, *others)], content)
            self._bytes = self._total() if self._bytes is None else self._bytes + len(content)
            if self._bytes > self.max_bytes:
                self._evict()
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self.directory.is_dir():
                return  # who clears the cache has deleted the file before it had its name
            self.disabled = f"{str(self.directory)!r} can't be written to: {error.strerror or error}"

    def clear(self) -> None:
        """Delete all files."""
        for path, _ in self._files():
            path.unlink(missing_ok=True)
        self._bytes = 0

    def info(self) -> CodeCacheInfo:
        """What there is, and what was found."""
        sizes = [_size(status) for _, status in self._files()]
        return CodeCacheInfo(len(sizes), sum(sizes), self.hits, self.misses, str(self.directory or ""), self.disabled)

    def _path(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{key}.o"

    def _read(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)  # it is used: others go before it
        except OSError:
            return None
        head, data = content[:HEAD_BYTES], content[HEAD_BYTES:]
        return data if head == _head(key, data) or head == _head("", data) else None

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """All files, those included that an interrupted process left; none where the folder can't be used."""
        if self.disabled or self.directory is None:
            return []
        found = []
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # others rename and delete files meanwhile
                        if entry.is_file(follow_symlinks=False):
                            found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        except OSError:
            return found
        return found

    def _total(self) -> int:
        return sum([_size(status) for _, status in self._files()])

    def _evict(self) -> None:
        """Delete what was not used for longest, until there is room for a while."""
        files = sorted(self._files(), key=lambda file: file[1].st_mtime_ns)
        total = sum([_size(status) for _, status in files])
        for path, status in files:
            if total <= KEPT * self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= _size(status)
        self._bytes = total


def default_directory() -> Path | None:
    """`$XDG_CACHE_HOME/graphc`, or `~/.cache/graphc`."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "graphc"
    except RuntimeError:
        return None


@cache
def object_cache() -> ObjectCache:
    """The cache of this process."""
    return ObjectCache(default_directory())


def cache_info() -> CodeCacheInfo:
    """How much compiled code is kept on disk and where, and how often this process found what it needed."""
    return object_cache().info()


def clear_cache() -> None:
    """Delete all compiled code that is kept on disk."""
    object_cache().clear()


def _refusal(directory: Path) -> str | None:
    """Why code must not be taken from this folder, or can't be; None if it is the user's own."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
    except OSError as error:
        return f"{str(directory)!r} can't be made: {error.strerror or error}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{str(directory)!r} is a link, not a folder of the user's own"
    if not hasattr(os, "getuid"):  # where there are no modes, folders below the user's are private
        return None
    if status.st_uid != os.getuid():
        return f"{str(directory)!r} belongs to user {status.st_uid}, not to {os.getuid()}, who runs this"
    if status.st_mode & 0o077:
        return f"{str(directory)!r} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}); chmod 700 it"
    return None


def _head(key: str, data: bytes) -> bytes:
    """What a file begins with; without a key, one of several names."""
    return MAGIC + hashlib.sha256(key.encode() + data).digest()


def _size(status: os.stat_result) -> int:
    """The share of a file in the bytes that it and its other names take."""
    return status.st_size // max(1, status.st_nlink)


def _replace(paths: Sequence[Path], content: bytes) -> None:
    """Write a file that others see as a whole or not at all; it needn't survive a crash of the machine.

    Args:
        paths: its names. Another name takes the system a few microseconds, where another file takes hundreds.
    """
    first = f"{paths[0].parent}/.{secrets.token_hex(8)}.tmp"  # `tempfile` takes as long as the rest, and more
    temporary = first
    try:
        _write(first, content)
        for path in paths[1:]:
            temporary = f"{first}.tmp"
            try:
                os.link(first, temporary)
            except OSError:  # not all file systems have links
                _write(temporary, content)
            os.replace(temporary, path)
        os.replace(first, paths[0])
    except BaseException:
        for left in (first, temporary):
            Path(left).unlink(missing_ok=True)
        raise


def _write(path: str, content: bytes) -> None:
    with open(path, "xb", opener=_private) as file:
        file.write(content)


def _private(file: str, flags: int) -> int:
    return os.open(file, flags, mode=0o600)
