"""Where arrays lie, for both targets that generate code: affine in their indices, in memory that a kernel is given."""

from __future__ import annotations

from typing import Literal, NamedTuple

from graphc.dims import Dim, ceil_div
from graphc.types import np_dtype

ALIGN = 64  # bytes to which every buffer, workspace and scratch is aligned


class Strided(NamedTuple):
    """Where an array lies: affine in its indices, counted in elements of its dtype.

    Attributes:
        place: what `number` counts: the kernel's reads or writes; in "workspace", "kept" (memory of one step that
            stays as it is between runs) and "scratch" (memory of one CPU thread) it is an offset in bytes.
    """

    place: Literal["read", "write", "workspace", "kept", "scratch"]
    number: Dim
    offset: Dim
    strides: tuple[Dim, ...]
    dtype: str


def aligned(nbytes: Dim) -> Dim:
    """`nbytes`, rounded up to `ALIGN`."""
    return ceil_div(nbytes, ALIGN) * ALIGN


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    return int(np_dtype(dtype).itemsize)
