"""Sizes from feeds: the symbols in declared shapes, unified with the shapes of the arrays that came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from graphc.dims.expression import Dim, DimExpr, constant_of, shape_text, substitute, symbols_of

Kind = Literal["rank", "size", "conflict", "unsolvable"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which a feed doesn't fit.

    Attributes:
        kind: "rank": too many or too few axes; "size": an axis has another size than expected; "conflict": two
            axes give a symbol different sizes; "unsolvable": an axis leaves a symbol open.
        feed: name of the feed.
        axis: the axis, None when the ranks differ.
        message: a full sentence that says all of this.
    """

    kind: Kind
    feed: str
    axis: int | None
    message: str


class _Axis(NamedTuple):
    feed: str
    axis: int
    declared: Dim
    size: int

    def problem(self, kind: Kind, message: str) -> Problem:
        return Problem(kind, self.feed, self.axis, message)


class _Sizes:
    """The sizes found so far, and the axis that gave each."""

    def __init__(self) -> None:
        self.bindings: dict[str, int] = {}
        self.given_by: dict[str, _Axis] = {}

    def bind(self, name: str, size: int, axis: _Axis) -> list[Problem]:
        """Give `name` its size, or say which axis gave it another one."""
        first = self.given_by.setdefault(name, axis)
        known = self.bindings.setdefault(name, size)
        if known == size:
            return []
        message = (
            f"{name} = {known} from feed {first.feed!r} (axis {first.axis}), "
            f"but {size} from feed {axis.feed!r} (axis {axis.axis})"
        )
        return [axis.problem("conflict", message)]

    def resolve(self, axis: _Axis) -> list[Problem] | None:
        """Check an axis whose symbols have sizes, or solve it for the only one that has none; None: neither."""
        if _is_symbol(axis.declared):
            return self.bind(str(axis.declared), axis.size, axis)
        wanted = substitute(axis.declared, self.bindings)
        place = f"feed {axis.feed!r} has {axis.size} on axis {axis.axis}, expected {axis.declared}"
        if isinstance(wanted, int):
            if wanted == axis.size:
                return []
            known = ", ".join(f"{name} = {self.bindings[name]}" for name in sorted(symbols_of(axis.declared)))
            return [axis.problem("size", f"{place} = {wanted} ({known})" if known else place)]
        (monomial, factor), *others = wanted.terms
        name = monomial[0]
        if len(monomial) != 1 or not isinstance(name, str) or any(other for other, _ in others):
            return None
        size, rest = divmod(axis.size - constant_of(wanted), factor)
        if rest or size < 0:
            return [axis.problem("size", f"{place}, which no size of {name} gives")]
        return self.bind(name, size, axis)


def unify(
    feeds: Iterable[tuple[str, tuple[Dim, ...], tuple[int, ...]]],
) -> tuple[dict[str, int], list[Problem]]:
    """The size of each symbol, from the declared shapes and those that were fed, and all that doesn't fit.

    Plain symbols bind first; then expressions that are linear in one symbol without a size are solved for it
    (`2*h + 1` fed with 9 gives h = 4); then everything is checked.

    Args:
        feeds: (name, declared shape, shape that was fed) of each feed.
    """
    problems: list[Problem] = []
    axes: list[_Axis] = []
    for feed, declared, got in feeds:
        if len(declared) == len(got):
            axes += [_Axis(feed, axis, declared[axis], got[axis]) for axis in range(len(got))]
            continue
        message = (
            f"feed {feed!r} has shape {shape_text(got)} of rank {len(got)}, "
            f"expected {shape_text(declared)} of rank {len(declared)}"
        )
        problems.append(Problem("rank", feed, None, message))
    sizes = _Sizes()
    waiting = sorted(axes, key=lambda axis: not _is_symbol(axis.declared))
    resolved = True
    while resolved:
        resolved, unsolved = False, []
        for axis in waiting:
            found = sizes.resolve(axis)
            if found is None:
                unsolved.append(axis)
            else:
                resolved = True
                problems += found
        waiting = unsolved
    for axis in waiting:
        missing = ", ".join(sorted(symbols_of(axis.declared) - sizes.bindings.keys()))
        message = f"{axis.declared} = {axis.size} from feed {axis.feed!r} (axis {axis.axis}) leaves {missing} open"
        problems.append(axis.problem("unsolvable", message))
    return sizes.bindings, problems


def _is_symbol(dim: Dim) -> bool:
    return isinstance(dim, DimExpr) and dim.text in dim.symbols
