"""Integers as sums of multiples of values, known while code is written.

So an address is computed in the order in which its parts become known, each part before the loops that don't change
it, and what is left in a loop is what an instruction of a processor adds by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

MAX_TERMS = 8  # a sum of more is a value like any other
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "ptr": 8, "half": 2, "bfloat": 2, "float": 4, "double": 8}


class Sum(NamedTuple):
    """`offset` and, for each value of `terms`, so many times that value."""

    terms: Mapping[str, int]
    offset: int


ZERO = Sum({}, 0)


def plus(a: Sum, b: Sum, times: int = 1) -> Sum:
    """a + times * b."""
    offset = a.offset + times * b.offset
    if not b.terms:
        return Sum(a.terms, offset)
    if not a.terms:
        return Sum({value: times * factor for value, factor in b.terms.items()} if times != 1 else b.terms, offset)
    terms = dict(a.terms)
    for value, factor in b.terms.items():
        found = terms.get(value, 0) + times * factor
        if found:
            terms[value] = found
        else:
            del terms[value]
    return Sum(terms, offset)


@cache
def bytes_of(type: str) -> int:
    """Bytes of a scalar or vector type in memory."""
    if not type.startswith("<"):
        return BYTES[type]
    lanes, element = type[1:-1].split(" x ", 1)
    return int(lanes) * BYTES[element]
