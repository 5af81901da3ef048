"""What is proven about two dimensions, and guards: what isn't, to be checked when sizes are known."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from graphc.dims.expression import (
    CACHED,
    Dim,
    DimExpr,
    at_least,
    constant_of,
    evaluate,
    symbols_of,
    terms_of,
)
from graphc.errors import ShapeError


@lru_cache(CACHED)
def compare(a: Dim, b: Dim) -> Literal["equal", "different", "unknown"]:
    """Whether two dimensions are the same size: proven so, proven otherwise, or known only with the feeds.

    Expressions without a common symbol count as different: distinct symbols never broadcast.
    """
    if a == b:
        return "equal"
    difference = a - b
    if isinstance(difference, int) or at_least(difference, 1) or at_least(-difference, 1):
        return "different"
    step = math.gcd(*(x for monomial, x in terms_of(difference) if monomial))
    if constant_of(difference) % step:
        return "different"
    symbolic = isinstance(a, DimExpr) and isinstance(b, DimExpr)
    return "different" if symbolic and symbols_of(a).isdisjoint(symbols_of(b)) else "unknown"


def naming_hint(a: Iterable[Dim], b: Iterable[Dim]) -> str | None:
    """The remedy where sizes of two shapes count as different because they have different names; else None."""
    for left, right in zip(a, b, strict=False):
        symbolic = isinstance(left, DimExpr) and isinstance(right, DimExpr)
        if symbolic and symbols_of(left).isdisjoint(symbols_of(right)):
            return f"if {left} and {right} are one size, declare it by one name, as in shape=('batch', ...)"
    return None


@dataclass(frozen=True, slots=True)
class Guard:
    """A relation between dimensions that the graph assumes, and what assumes it."""

    left: Dim
    relation: Literal["==", ">="]
    right: Dim
    reason: str

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"

    def holds(self, bindings: Mapping[str, int]) -> bool:
        """Whether the relation is true for these sizes; raises ShapeError when they don't suffice."""
        left, right = evaluate(self.left, bindings), evaluate(self.right, bindings)
        return left == right if self.relation == "==" else left >= right


class _Pending(threading.local):
    """The guards that this thread recorded since it last took them."""

    def __init__(self) -> None:
        self.guards: list[Guard] = []


_pending = _Pending()


def take_guards() -> tuple[Guard, ...]:
    """The guards recorded on this thread since the last call, without repetition; they are forgotten here.

    Whoever infers a type calls it afterwards, also when the inference raised, or the next node inherits them.
    """
    guards = _pending.guards
    if not guards:
        return ()
    _pending.guards = []
    return tuple(dict.fromkeys(guards))


def require_equal(a: Dim, b: Dim, reason: str) -> Dim:
    """The size that `a` and `b` share: the simpler of both, under a guard when their equality isn't proven.

    Args:
        reason: what needs them equal, such as "matmul: inner sizes"; begins the message of a failure.

    Raises:
        ShapeError: they are provably different.
    """
    if a is b:
        return a
    verdict = compare(a, b)
    if verdict == "equal":
        return a
    if verdict == "different":
        raise ShapeError(f"{reason}: {a} and {b} differ", hint=naming_hint([a], [b]))
    _pending.guards.append(Guard(a, "==", b, reason))
    return min(a, b, key=_complexity)


def _complexity(dim: Dim) -> tuple[bool, int]:
    return isinstance(dim, DimExpr), len(str(dim))


def require_at_least(a: Dim, limit: Dim, reason: str) -> None:
    """Make sure that a >= limit: by proof, or under a guard.

    Args:
        reason: what needs it; begins the message of a failure.

    Raises:
        ShapeError: a is provably smaller.
    """
    difference = a - limit
    if at_least(difference, 0):
        return
    if at_least(-difference, 1):
        raise ShapeError(f"{reason}: {a} is less than {limit}")
    _pending.guards.append(Guard(a, ">=", limit, reason))
