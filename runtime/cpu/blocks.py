"""Memory for large results, used again when nothing refers to them any more.

Fresh memory of this size comes from the system page by page, at the price of a fault each; a loop that drops its
results gets the same blocks again, whose pages are there. Less memory the C library keeps by itself, mostly: it gives
back what is free at the end of its heap. So where machine code makes results of a middle size, it takes them from
shelves of a few blocks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from graphc.op import Array
from graphc.runtime.strided import ALIGN

LARGE = 16 << 20  # bytes of a result from which its memory is recycled
MAX_KEPT = 512 << 20  # bytes of blocks that are remembered, those included that are in use
MIDDLE = 128 << 10  # bytes of a result from which there are shelves
SHELVED = 2  # blocks of a shelf: while a loop has the result of one step, the next one is made
MAX_SHELVED = 256 << 20  # bytes of the blocks of all shelves
SLACK = 4  # a result gets a block that is larger than it by at most this part of itself


class Block(np.ndarray[Any, Any]):
    """Bytes that one result is a view of. What refers to the result, or to views of it, refers to the block.

    It owns its memory, or the views would refer to the owner instead.
    """


_block = [Block(0, np.uint8)]
UNUSED = sys.getrefcount(_block[0])  # of a block to which nothing but a list refers


def is_recycled(nbytes: int) -> bool:
    """Whether results of this size are lent their memory, and can't come from the allocator."""
    return nbytes >= LARGE


class Shelf(NamedTuple):
    """Blocks of one size for machine code, which nobody has while the shelf alone refers to them.

    Attributes:
        words: of each block its address as an object and that of its memory, aligned.
    """

    blocks: list[Block]
    words: Array


class Blocks:
    """Blocks that were lent to results; those that nothing refers to are lent again."""

    def __init__(self, max_kept: int = MAX_KEPT) -> None:
        self.max_kept = max_kept
        self._blocks: list[Block] = []  # the last one lent first
        self._shelves: dict[int, Shelf] = {}
        self._shelved = 0

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """An array that shares memory with no other that is in use, not initialised."""
        nbytes = math.prod(shape) * dtype.itemsize
        if not is_recycled(nbytes):
            return np.empty(shape, dtype)
        block = self._lent(nbytes + ALIGN)
        return np.ndarray(shape, dtype, buffer=block, offset=-block.ctypes.data % ALIGN)

    def shelf(self, nbytes: int) -> Shelf | None:
        """Where results of a size get their memory; None if that is the allocator, or `array`."""
        room = -(-nbytes // ALIGN) * ALIGN + ALIGN
        if nbytes < MIDDLE or is_recycled(nbytes):
            return None
        if room not in self._shelves and self._shelved + SHELVED * room <= MAX_SHELVED:
            blocks = [Block(room, np.uint8) for _ in range(SHELVED)]
            words = [[id(block), block.ctypes.data + -block.ctypes.data % ALIGN] for block in blocks]
            self._shelves[room] = Shelf(blocks, np.array(words, np.int64))
            self._shelved += SHELVED * room
        return self._shelves.get(room)

    def _lent(self, nbytes: int) -> Block:
        """A block of about this size that nobody has, or a new one; others are forgotten where all are too much."""
        blocks = self._blocks
        sizes = range(nbytes, nbytes + nbytes // SLACK + 1)
        free = (k for k in range(len(blocks)) if blocks[k].size in sizes and sys.getrefcount(blocks[k]) <= UNUSED)
        k = next(free, None)
        block = Block(nbytes, np.uint8) if k is None else blocks[k]
        kept, left = [block], self.max_kept - block.size
        for other in blocks:
            if other is not block and other.size <= left:
                kept.append(other)
                left -= other.size
        self._blocks = kept
        return block
