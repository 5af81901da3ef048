"""Memory for many arrays that live as long as each other: one range of large pages, of zeros until it is written.

Arrays of some MB each, as the C library places them, lie across the bounds of large pages, so most of their memory
comes from the system in pages of 4 KB, at the price of a fault each: for the weights of a network, as long as a step.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.op import Array
from graphc.runtime.strided import ALIGN
from graphc.types import TensorType, np_dtype

HUGE = 2 << 20  # bytes of a large page on most systems
LEAST = 2 * HUGE  # bytes of all arrays from which they get a range of their own


class Pages(np.ndarray[Any, Any]):
    """Bytes that arrays which share none are views of; all of them are there until the last array is gone."""


def zeros(types: Iterable[TensorType]) -> list[Array]:
    """Arrays of zeros, of known sizes."""
    return _arrays([(np_dtype(type.dtype), tuple([int(dim) for dim in type.shape])) for type in types])


def copies(arrays: Sequence[Array]) -> list[Array]:
    """Copies of arrays, in row-major order."""
    found = _arrays([(array.dtype, array.shape) for array in arrays])
    for copy, array in zip(found, arrays, strict=True):
        copy[...] = array
    return found


def is_alone(array: Array) -> bool:
    """Whether an array has bytes of its own; it isn't seen whether there are views of it."""
    return array.base is None or isinstance(array.base, Pages)


def aligned_memory(nbytes: int) -> Array:
    """Bytes whose address is a multiple of `ALIGN`, not initialised; much memory begins with a large page."""
    align = HUGE if nbytes >= LEAST else ALIGN
    memory = np.empty(nbytes + align, np.uint8)  # NumPy asks for large pages
    start = -memory.ctypes.data % align
    return memory[start : start + nbytes]


def _arrays(wanted: Sequence[tuple[np.dtype[Any], tuple[int, ...]]]) -> list[Array]:
    sizes = [-(-dtype.itemsize * math.prod(shape) // ALIGN) * ALIGN for dtype, shape in wanted]
    if sum(sizes) < LEAST:
        return [np.zeros(shape, dtype) for dtype, shape in wanted]
    pages = _pages(sum(sizes))
    at = 0
    found: list[Array] = []
    for (dtype, shape), size in zip(wanted, sizes, strict=True):
        found.append(np.ndarray(shape, dtype, buffer=pages, offset=at))
        at += size
    return found


def _pages(nbytes: int) -> Pages:
    """New memory that begins with a large page."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, nbytes + HUGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    return Pages(nbytes, np.uint8, buffer=memory, offset=-start % HUGE)  # of a view, arrays would refer to its array
