"""Modules that serve all plans: a process that starts again finds their code without writing their assembly.

What will surely be needed is begun early: other threads compile it while the interpreter prepares what needs it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from threading import RLock
from weakref import WeakSet

from graphc.cached import cached_property
from graphc.runtime.cache import object_cache
from graphc.runtime.cpu import packs
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.jit import Code, Compiler, Loading, Unit, keep, unit_of


class Part:
    """A module that depends on nothing but the machine and the versions of what writes and compiles it.

    Args:
        name: among the parts.
        symbols: the functions that others call.
        write: gives its assembly, which calls no function of a library.
    """

    def __init__(self, name: str, symbols: tuple[str, ...], write: Callable[[], str]) -> None:
        self.name = name
        self.symbols = symbols
        self.write = write
        self.loaded: Code | None = None
        self.begun: Batch | None = None  # with which it will be loaded

    @cached_property
    def unit(self) -> Unit:
        """What is to be known of it besides its code."""
        versions = packs.versions()
        if not versions:
            return unit_of(self.write(), self.symbols)
        return Unit(hashlib.sha256(f"{versions}\n{self.name}".encode()).hexdigest(), self.symbols, ())

    @property
    def is_at_hand(self) -> bool:
        """Whether it is in memory, or can be loaded without being compiled."""
        return self.loaded is not None or object_cache().find(self.unit.key) is not None

    def take(self, loading: Loading) -> None:
        """Have it loaded along with others, unless it has been begun."""
        if self.begun is not None:
            self.code  # noqa: B018 - it is in memory then, where `loading` finds it
        loading.take(self.unit, self.write)

    @property
    def code(self) -> Code:
        """The module in memory."""
        if self.loaded is None:
            with _loading:
                if self.loaded is None:
                    self.begun = self.begun or Batch([self])
                    self.begun.load()
        assert self.loaded is not None
        return self.loaded


class Batch:
    """Parts that are loaded together, and compiled by other threads from now on, if they have to be."""

    def __init__(self, parts: Sequence[Part], compiler: Compiler | None = None) -> None:
        self.parts = parts
        self._loading = Loading(compiler=compiler or _compiler())
        for part in parts:
            self._loading.take(part.unit, part.write)
        _batches.add(self)

    def load(self) -> None:
        """Have them all in memory; where that fails, each begins anew."""
        try:
            for part, code in zip(self.parts, self._loading.codes(), strict=True):
                part.loaded = code
        finally:
            self.forget()

    def forget(self) -> None:
        """Let each part begin anew, if it isn't loaded."""
        for part in self.parts:
            part.begun = None


@cache
def _compiler() -> Compiler:
    """One for all, so that no more threads are busy than help."""
    return Compiler(this_host(), keep=keep)


_batches: WeakSet[Batch] = WeakSet()
_loading = RLock()  # of who loads a part


def begin(parts: Iterable[Part], compiler: Compiler | None = None) -> None:
    """Have those parts compiled in the background of which nothing is known yet; nobody waits for it.

    Args:
        compiler: of what else is begun, so that no more threads are busy than help.
    """
    new = [part for part in parts if part.loaded is None and part.begun is None]
    if new:
        batch = Batch(new, compiler)
        for part in new:
            part.begun = batch


def _begin_anew() -> None:
    """A child has only the thread that forks: what others have begun would never be done there."""
    for batch in _batches:
        batch.forget()
    _compiler.cache_clear()
    _loading.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_begin_anew)
