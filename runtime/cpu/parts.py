"""Modules that serve all plans: a process that starts again finds their code without writing their assembly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from graphc.cached import cached_property
from graphc.runtime.cpu import packs
from graphc.runtime.cpu.jit import Code, Loading, Unit, unit_of


@dataclass(frozen=True, eq=False)
class Part:
    """A module that depends on nothing but the machine and the versions of what writes and compiles it.

    Attributes:
        name: among the parts.
        symbols: the functions that others call.
        write: gives its assembly, which calls no function of a library.
    """

    name: str
    symbols: tuple[str, ...]
    write: Callable[[], str]

    @cached_property
    def unit(self) -> Unit:
        """What is to be known of it besides its code."""
        versions = packs.versions()
        if not versions:
            return unit_of(self.write(), self.symbols)
        return Unit(hashlib.sha256(f"{versions}\n{self.name}".encode()).hexdigest(), self.symbols, ())

    def take(self, loading: Loading) -> None:
        """Have it loaded."""
        loading.take(self.unit, self.write)

    @cached_property
    def code(self) -> Code:
        """The module in memory."""
        loading = Loading()
        self.take(loading)
        return loading.codes()[0]
