"""What the environment variable `GRAPHC_DUMP=DIR` asks for: a folder for each program, of files that can be read."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from weakref import WeakKeyDictionary

from graphc.ir import Program

_numbers = itertools.count()
_folders: WeakKeyDictionary[Program, Path] = WeakKeyDictionary()  # of programs whose passes have run


def new_folder() -> Path | None:
    """A new private folder, below the one that is asked for; None if none is."""
    parent = os.environ.get("GRAPHC_DUMP", "")
    if not parent:
        return None
    os.makedirs(parent, mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"program-{next(_numbers):04d}-", dir=parent))


def keep_folder(program: Program, folder: Path) -> None:
    """What is made of this program goes there, too."""
    _folders.pop(program, None)  # of an equal one, which may live shorter
    _folders[program] = folder


def folder_of(program: Program) -> Path | None:
    """Where the passes of a program were dumped, else a new folder; None if nothing is to be dumped."""
    if not os.environ.get("GRAPHC_DUMP", ""):
        return None
    found = _folders.get(program)
    return found if found is not None and found.is_dir() else new_folder()


def file_name(name: str) -> str:
    """A name as one that a file can have."""
    return "".join(c if c.isalnum() or c in "-_=" else "_" for c in name)[:60]


def write(path: Path, content: str) -> None:
    """Write a file."""
    path.write_text(content + "\n", encoding="utf-8")
