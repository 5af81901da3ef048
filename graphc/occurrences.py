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
    device: str = ""  # where they are to be computed; "" leaves it to the session
    derived: tuple[Any, ...] | None = None  # the occurrence of all nodes that a pass builds on behalf of a node

    def __init__(self) -> None:
        self.entered: list[tuple[Graph | None, str, str]] = []  # what the blocks that this thread is in return to

    def enter(self, graph: Graph | None, scope: str, device: str | None = None) -> None:
        """Begin a block: new nodes are of this graph, scope and, unless it is None, device."""
        self.entered.append((self.graph, self.scope, self.device))
        self.graph, self.scope = graph, scope
        if device is not None:
            self.device = device

    def leave(self) -> None:
        """End the block that was entered last."""
        self.graph, self.scope, self.device = self.entered.pop()


context = Context()


class Occurrence(NamedTuple):
    """One place where a node was written: its scope, and the user's line or the node it was derived from."""

    scope: str
    code: CodeType | None
    offset: int
    origin: Node | None = None
    rule: str = ""
    device: str = ""

    @property
    def site(self) -> Site | None:
        """The user's line, following derived nodes back to what they were derived from."""
        at = self
        while at.code is None and at.origin is not None:
            at = at.origin.occurrence
        return None if at.code is None else Site.of(at.code, at.offset)

    @property
    def placed(self) -> str:
        """The device that the user chose, following derived nodes back to what they were derived from; "" for none."""
        at = self
        while not at.device and at.origin is not None:
            at = at.origin.occurrence
        return at.device


_places: dict[tuple[str, int, int, str], tuple[Any, ...]] = {}


def place(scope: str, code: CodeType | None, offset: int, device: str = "") -> tuple[Any, ...]:
    """The bare tuple behind an `Occurrence`, one for all nodes of a line: the collector counts every tuple."""
    key = (scope, id(code), offset, device)  # hashing the code itself would read all of it; the tuple keeps it alive
    found = _places.get(key)
    if found is None:
        if len(_places) >= MAX_PLACES:
            _places.clear()
        found = _places[key] = (scope, code, offset, None, "", device) if device else (scope, code, offset)
    return found


def current_occurrence(depth: int = 1) -> Occurrence:
    """The occurrence that a node built now would get."""
    if context.derived is not None:
        return Occurrence(*context.derived)
    return Occurrence(context.scope, *user_site(depth + 1), device=context.device)


def derived_by(node: Node, rule: str) -> tuple[Any, ...]:
    """The bare tuple behind the occurrence of what a rule makes of `node`."""
    return (node.where[0], None, 0, node, rule)


class derived_from:
    """Within this block, new nodes are recorded as derived from `node` by `rule` instead of from a user's line."""

    __slots__ = ("saved", "where")

    def __init__(self, node: Node, rule: str) -> None:
        self.where = derived_by(node, rule)

    def __enter__(self) -> None:
        self.saved = context.derived
        context.derived = self.where

    def __exit__(self, *exc: object) -> None:
        context.derived = self.saved


class on_this_line:
    """Within this block, which is graphc's own code, new nodes are recorded on the line of the user that runs now: it
    is looked for once."""

    __slots__ = ("saved",)

    def __enter__(self) -> None:
        self.saved = context.derived
        context.derived = self.saved or place(context.scope, *user_site(2), context.device)

    def __exit__(self, *exc: object) -> None:
        context.derived = self.saved


class unwritten:
    """Within this block, new nodes are on no line and in no scope: they serve whoever comes by them later, too."""

    __slots__ = ("saved",)

    def __enter__(self) -> None:
        self.saved = context.derived
        context.derived = ("", None, 0)

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


PLACES = ("cpu", "cuda")
_chosen = [False]  # whether this process has ever said where something is to be computed


class device:
    """`with gc.device("cpu"):` leaves it to the host to compute the nodes built inside, where a session is on a GPU.

    What they read is copied to the host and what they give back again, as `sess.plan(...).report()` lists; their
    gradients are computed there, too. `gc.device("cuda")`, inside, ends that. Sessions on other devices compute
    everything where they are. One call on the same operands is one node: it is where it was written first.
    """

    def __init__(self, name: str) -> None:
        if name not in PLACES:
            known = " or ".join(map(repr, PLACES))
            raise ArgumentError(f"a device to compute nodes on is {known}, got {name!r}", hint="gc.Session(device=...)")
        self.name = name

    def __enter__(self) -> None:
        _chosen[0] = True
        context.enter(context.graph, context.scope, self.name)

    def __exit__(self, *exc: object) -> None:
        context.leave()


def on_host(node: Node) -> bool:
    """Whether the user left it to the host to compute a node."""
    return _chosen[0] and node.occurrence.placed == "cpu"


def current_scope() -> str:
    """The scope that nodes built now are in; empty at the top."""
    return context.scope
