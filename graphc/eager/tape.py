"""The tape: what was called on which tensors, kept so that a gradient can go back along it.

An entry stands for one call. An edge `(entry, slot)` is one result of it: a tensor that has a gradient holds the edge
it comes from, and an entry holds the edges of its operands and those values that its gradient needs. The values are
given up as soon as a gradient has passed, unless the tape is to be retained; the entries stay, so it can be drawn.
Entries are numbered as they are made, so an operand's number is lower than that of what was computed from it: the
highest number that a cotangent has reached is an entry that all its cotangents have reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import count
from threading import RLock
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from graphc.errors import GradientError
from graphc.ir import Graph, Node
from graphc.ops.state import Variable
from graphc.source import Site, here, user_site
from graphc.types import TensorType, np_dtype

Edge = tuple["Entry", int]
Hook = Callable[[Any], Any]
Waiting = dict["Entry", list[Any]]  # the cotangents that have reached the results of an entry
numbers = count()
collecting = RLock()  # threads may share leaves, and none of their gradients may get lost


class Freed(NamedTuple):
    """Stands for saved values that were given up: where in the user's code that was."""

    code: CodeType | None
    offset: int


class Entry(ABC):
    """One call on the tape, or a leaf.

    Attributes:
        parents: for each operand the edge that it came by, or None.
        saved: the values that the gradient needs, false if there are none; or `Freed`.
        hooks: what looks at the cotangents, by result.
        number: how many were made before it.
    """

    __slots__ = ("hooks", "number", "parents", "saved")
    number: int
    parents: Sequence[Edge | None]
    saved: Any
    hooks: dict[int, list[Hook]] | None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @property
    def name(self) -> str:
        """What PyTorch would call it, such as `MultiplyBackward`."""
        return "".join([part.capitalize() for part in self.label.split("_")]) + "Backward"

    @property
    def next_functions(self) -> tuple[tuple[Entry | None, int], ...]:
        """The entries that the operands came by, each with which of their results it was; None without a gradient."""
        return tuple([(None, 0) if edge is None else edge for edge in self.parents])

    @property
    @abstractmethod
    def label(self) -> str:
        """The name of the op."""

    @abstractmethod
    def types(self) -> Sequence[TensorType]:
        """The types of the results."""

    @abstractmethod
    def nodes(self, operands: Sequence[Node | None]) -> Sequence[Node]:
        """The results as nodes of the current graph, for a drawing; operands without an edge are None."""

    @abstractmethod
    def pull(self, cotangents: Sequence[Any]) -> Iterable[tuple[Edge, Any]]:
        """The cotangents of operands, by edge, for those of the results (None where there is none)."""


class Leaf(Entry):
    """A tensor that collects its gradient.

    Attributes:
        title: what it is called in drawings.
    """

    __slots__ = ("grad", "title", "type")
    label = "accumulate_grad"
    name = "AccumulateGrad"

    def __init__(self, type: TensorType) -> None:
        self.parents, self.saved, self.hooks, self.number = (), (), None, next(numbers)
        self.type = type
        self.title = "leaf"
        self.grad: Any = None

    def types(self) -> Sequence[TensorType]:
        """See `Entry.types`."""
        return (self.type,)

    def nodes(self, operands: Sequence[Node | None]) -> Sequence[Node]:
        """See `Entry.nodes`."""
        return (Variable(_unknown, self.title, shape=self.type.shape, dtype=self.type.dtype),)

    def pull(self, cotangents: Sequence[Any]) -> Iterable[tuple[Edge, Any]]:
        """Add to the gradient; nothing is behind a leaf."""
        with collecting:
            self.grad = cotangents[0] if self.grad is None else self.grad + cotangents[0]
        return ()


def _unknown(seed: int, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """The first value of a leaf, which a drawing doesn't show."""
    return np.zeros(shape, np_dtype(dtype))


class Handle:
    """A hook that can be removed."""

    def __init__(self, edge: Edge, hook: Hook) -> None:
        entry, slot = edge
        if entry.hooks is None:
            entry.hooks = {}
        self._hooks = entry.hooks.setdefault(slot, [])
        self._hooks.append(hook)
        self._hook = hook

    def remove(self) -> None:
        """Call the hook no more."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


def entries(roots: Iterable[Entry]) -> list[Entry]:
    """All entries behind `roots`, each after those of its operands."""
    order: list[Entry] = []
    seen: set[Entry] = set()
    stack = [(root, False) for root in roots]
    while stack:
        entry, follows = stack.pop()
        if follows:
            order.append(entry)
        elif entry not in seen:
            seen.add(entry)
            stack.append((entry, True))
            stack += [(edge[0], False) for edge in entry.parents if edge is not None and edge[0] not in seen]
    return order


def drawn(edge: Edge) -> Node:
    """What the tape has of a tensor, as a node of a graph of its own."""
    made: dict[Edge, Node] = {}
    with Graph("tape"):
        for entry in entries([edge[0]]):
            found = entry.nodes([None if parent is None else made[parent] for parent in entry.parents])
            made.update({(entry, slot): node for slot, node in enumerate(found)})
    return made[edge]


def walk(seeds: Iterable[tuple[Edge, Any]], asked: Collection[Edge] | None, retain: bool) -> Mapping[Edge, Any]:
    """Pass cotangents back along the tape.

    Args:
        seeds: cotangents of some results, by edge.
        asked: edges whose cotangents are returned, and no others are computed; None lets all leaves collect theirs.
        retain: keep the values that gradients need.

    Raises:
        GradientError: an earlier walk gave up a value that is needed.
    """
    seeds = list(seeds)
    needed = None if asked is None else _leading_to(asked, entries([entry for (entry, _), _ in seeds]))
    waiting: Waiting = {}
    order: list[tuple[int, Entry]] = []
    for edge, g in seeds:
        _arrive(waiting, order, edge, g)
    freed, found = Freed(*user_site(2)), {}
    while order:
        entry = heappop(order)[1]
        cotangents = waiting.pop(entry)
        if entry.hooks:
            _hooked(entry.hooks, cotangents)
        if asked is not None and needed is not None:
            found.update({(entry, k): g for k, g in enumerate(cotangents) if g is not None and (entry, k) in asked})
            if entry.__class__ is Leaf or not any(edge is not None and edge[0] in needed for edge in entry.parents):
                continue
        saved = entry.saved
        if saved.__class__ is Freed:
            raise _given_up(entry)
        for edge, g in entry.pull(cotangents):
            if needed is None or edge[0] in needed:
                _arrive(waiting, order, edge, g)
        if saved and not retain:
            entry.saved = freed
    return found


def _leading_to(asked: Iterable[Edge], order: Iterable[Entry]) -> set[Entry]:
    """The entries through which a cotangent reaches what is asked for."""
    needed = {entry for entry, _ in asked}
    for entry in order:
        if any(edge is not None and edge[0] in needed for edge in entry.parents):
            needed.add(entry)
    return needed


def _arrive(waiting: Waiting, order: list[tuple[int, Entry]], edge: Edge, g: Any) -> None:
    """Add a cotangent to those that wait at an entry, which takes its place in the order when the first arrives."""
    entry, slot = edge
    slots = waiting.get(entry)
    if slots is None:
        slots = waiting[entry] = [None] * len(entry.types())
        heappush(order, (-entry.number, entry))
    slots[slot] = g if slots[slot] is None else slots[slot] + g


def _hooked(hooks: Mapping[int, Sequence[Hook]], cotangents: list[Any]) -> None:
    """Leave the cotangents as the hooks want them."""
    for slot, some in hooks.items():
        for hook in list(some):
            if cotangents[slot] is not None:
                changed = hook(cotangents[slot])
                cotangents[slot] = cotangents[slot] if changed is None else changed


def _given_up(entry: Entry) -> GradientError:
    code, offset = entry.saved
    line = "" if code is None else f"at {Site.of(code, offset)}"
    return GradientError(
        f"a gradient has passed {entry.name} already, and the values it needs were given up then",
        lines=[*filter(None, [line]), here()],
        hint="backward(retain_graph=True) there keeps them for another pass",
    )
