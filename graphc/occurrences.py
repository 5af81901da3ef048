"""Where nodes were written: scopes, the user's lines, and what passes derived from what.

Occurrences stand beside a node, outside its identity: one node may have several, and has none that matter to its value.
"""

from __future__ import annotations

import threading
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from graphc.errors import ArgumentError
from graphc.source import Site, user_site

if TYPE_CHECKING:
    from graphc.ir import Graph, Node


MAX_PLACES = 4096  # recent lines whose nodes share one tuple


class Context(threading.local):
    """What new nodes inherit from the thread that builds them."""

    graph: Graph | None = None
    scope: str = ""
    derived: tuple[Any, ...] | None = None  # the occurrence of all nodes that a pass builds on behalf of a node

    def __init__(self) -> None:
        self.entered: list[tuple[Graph | None, str]] = []  # what the blocks that this thread is in return to

    def enter(self, graph: Graph | None, scope: str) -> None:
        self.entered.append((self.graph, self.scope))
        self.graph, self.scope = graph, scope

    def leave(self) -> None:
        self.graph, self.scope = self.entered.pop()


context = Context()


class Occurrence(NamedTuple):
    """One place where a node was written: its scope, and the user's line or the node it was derived from."""

    scope: str
    code: CodeType | None
    offset: int
    origin: Node | None = None
    rule: str = ""

    @property
    def site(self) -> Site | None:
        """The user's line, following derived nodes back to what they were derived from."""
        at = self
        while at.code is None and at.origin is not None:
            at = at.origin.occurrence
        return None if at.code is None else Site.of(at.code, at.offset)


_places: dict[tuple[str, int, int], tuple[Any, ...]] = {}


def place(scope: str, code: CodeType | None, offset: int) -> tuple[Any, ...]:
    """The bare tuple behind an `Occurrence`, one for all nodes of a line: the collector counts every tuple."""
    key = (scope, id(code), offset)  # hashing the code itself would read all of it; the tuple keeps it alive
    found = _places.get(key)
    if found is None:
        if len(_places) >= MAX_PLACES:
            _places.clear()
        found = _places[key] = (scope, code, offset)
    return found


def current_occurrence(depth: int = 1) -> Occurrence:
    """The occurrence that a node built now would get."""
    if context.derived is not None:
        return Occurrence(*context.derived)
    return Occurrence(context.scope, *user_site(depth + 1))


class derived_from:
    """Within this block, new nodes are recorded as derived from `node` by `rule` instead of from a user's line."""

    __slots__ = ("saved", "where")

    def __init__(self, node: Node, rule: str) -> None:
        self.where = (node.where[0], None, 0, node, rule)

    def __enter__(self) -> None:
        self.saved = context.derived
        context.derived = self.where

    def __exit__(self, *exc: object) -> None:
        context.derived = self.saved


class scope:
    """`with gc.scope("encoder"):` prefixes the names of the nodes built inside with `encoder/`; scopes nest."""

    def __init__(self, name: str) -> None:
        if not name or name.strip("/") != name:
            raise ArgumentError(f"a scope's name can't be {name!r}", hint="use letters, digits, '_' and inner '/'")
        self.name = name

    def __enter__(self) -> str:
        context.enter(context.graph, f"{context.scope}/{self.name}" if context.scope else self.name)
        return context.scope

    def __exit__(self, *exc: object) -> None:
        context.leave()


def current_scope() -> str:
    """The scope that nodes built now are in; empty at the top."""
    return context.scope
