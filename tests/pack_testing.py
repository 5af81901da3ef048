"""What tests of plans that are kept on disk begin with: a cache of their own, and files that count as unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from weakref import WeakValueDictionary

import pytest

from graphc.runtime.cache import ObjectCache
from graphc.runtime.cpu import jit, packs


def own_cache(folder: Path, rooms: tuple[ModuleType, ...], monkeypatch: pytest.MonkeyPatch) -> ObjectCache:
    """A cache in a folder, which these rooms use, in a process that has loaded nothing."""
    made = ObjectCache(folder / "graphc")
    monkeypatch.setattr(jit, "_loaded", WeakValueDictionary())
    for room in rooms:
        monkeypatch.setattr(room, "object_cache", lambda: made)
    return made


@contextmanager
def unchanged_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files that somebody edits while the tests run count as those that were imported."""
    monkeypatch.setattr(packs, "IMPORTED", 1 << 62)
    found = packs._sources
    found.cache_clear()
    yield
    found.cache_clear()
