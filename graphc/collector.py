"""Python's cyclic garbage collector, out of the way while many nodes are built."""

from __future__ import annotations

import gc
import operator
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 10_000  # objects made in a block whose next scan is worth avoiding


class _Pause:
    """A block that wants the collector to rest."""


class _Pauses:
    """Which blocks want the collector to rest, and whether it was running before the first of them.

    An interrupt may come before any line. A block is known weakly, so one that couldn't say that it ended is gone with
    its frame; and that the collector is to run again is forgotten only once it does.

    The collector knows from what it has scanned when a full collection is due, and what `_grow_old` takes from it isn't
    counted. `unseen` counts that, garbage of the program among it: a collection is due when it is as much as there is.
    """

    def __init__(self) -> None:
        self.blocks: weakref.WeakSet[_Pause] = weakref.WeakSet()
        self.stopped = False
        self.unseen = 0

    def begin(self, block: _Pause) -> None:
        if self.unseen and gc.isenabled() and self.unseen > sys.getallocatedblocks():
            self.unseen = 0
            gc.collect()
        self.blocks.add(block)
        if gc.isenabled():
            self.stopped = True
            gc.disable()

    def end(self, block: _Pause) -> None:
        self.blocks.discard(block)
        if self.stopped and not self.blocks:
            made = gc.get_count()[0]
            if made > MANY and not gc.get_freeze_count():  # what a program keeps frozen, before it forks, stays so
                self.unseen += made
                _grow_old()
            gc.enable()
            self.stopped = False


def _grow_old() -> None:
    """Have all objects count as old, which takes no time; the scan for young garbage would go over all of them."""
    list(map(operator.call, (gc.freeze, gc.unfreeze)))  # one call, within which no interrupt comes


_pauses = _Pauses()


@contextmanager
def paused() -> Iterator[None]:
    """Pause the cyclic collector: nodes form no cycles, so scanning them as they are made finds nothing.

    It takes a third of the time of building 10^5 nodes. Reference counting goes on; blocks nest, and may overlap
    between threads: the collector, which is one for all of them, goes on after the last.
    """
    block = _Pause()
    try:
        _pauses.begin(block)
        yield
    finally:
        _pauses.end(block)
