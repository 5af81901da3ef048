"""Memory that plans run in: where in it everything lies, and how the system is asked for it before it is used.

The system gives memory page by page, when it is first written to, and clears each page: for what a training step writes
first, a fourth of the step's time. Another thread can have that done while the interpreter still prepares the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from typing import NamedTuple

from graphc.dims import evaluate
from graphc.ir import Node
from graphc.op import Array
from graphc.plan import Plan
from graphc.runtime.cpu.driver import driver, module
from graphc.runtime.cpu.phases import NativeKernel
from graphc.runtime.pages import Pages, aligned_memory
from graphc.runtime.strided import aligned

AHEAD = 4 << 20  # bytes from which a thread is worth starting: the system clears as many in half a millisecond


class Memory:
    """One block of aligned memory that only grows, for what lives during a run; a session's plans share it."""

    def __init__(self) -> None:
        self.bytes = aligned_memory(0)

    def reserve(self, nbytes: int, *, ahead: bool = False) -> None:
        """See that there are so many bytes; what was there is lost.

        Args:
            ahead: whether to `prefault` them, if they are new.
        """
        if nbytes > self.bytes.size:
            self.bytes = aligned_memory(0)  # before the new block is taken
            self.bytes = aligned_memory(nbytes)
            if ahead:
                prefault(self.bytes)

    @property
    def base(self) -> int:
        """The address of the first byte."""
        return address(self.bytes)


class Expected:
    """New arrays whose memory another thread makes as soon as the driver is there, whose code it runs."""

    def __init__(self) -> None:
        self._waiting: list[Pages] = []

    def add(self, arrays: Iterable[Array]) -> None:
        """Arrays that will be written to."""
        shared = {id(array.base): array.base for array in arrays if isinstance(array.base, Pages)}
        self._waiting += shared.values()
        if module().loaded is not None:
            self.prefault()

    def prefault(self) -> None:
        """`prefault` what waits, when the driver is there or there was time to compile it."""
        while self._waiting:
            prefault(self._waiting.pop())


class Kept(Memory):
    """What one variant of a kernel keeps from run to run; the plans of a session that have it share it."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes = nbytes


def reserve_all(blocks: Iterable[Kept]) -> None:
    """See that all have their bytes. Those that have none yet lie one after the other, so that large pages hold them:
    they live as long as the last of them."""
    new = [block for block in dict.fromkeys(blocks) if block.bytes.size < block.nbytes]  # steps may share one
    if not new:
        return
    begins = [0, *itertools.accumulate([int(aligned(block.nbytes)) for block in new])]
    shared = aligned_memory(begins[-1])
    for block, begin in zip(new, begins, strict=False):
        block.bytes = shared[begin : begin + block.nbytes]


class Layout(NamedTuple):
    """Where in the memory of a run everything lies, for given sizes.

    Attributes:
        offsets: of the workspace, and then of each buffer; 0 for what lies elsewhere.
        copied: for each variable whose new value doesn't take its bytes, the buffer of that.
        nbytes: of the arena, the workspace and those new values, in this order.
    """

    offsets: tuple[int, ...]
    copied: Mapping[Node, int]
    nbytes: int

    @staticmethod
    def of(plan: Plan, natives: Iterable[NativeKernel]) -> Layout:
        """For a plan whose kernels have this code."""
        updates = zip(plan.symbolic.program.updates, plan.symbolic.updates, strict=True)
        copied = {variable: new for (variable, _), new in updates if plan.buffers[new].takes is None}
        offsets = [plan.peak_bytes, *plan.offsets]
        nbytes = plan.peak_bytes + max([evaluate(native.workspace, plan.dims) for native in natives], default=0)
        for new in copied.values():
            offsets[1 + new] = nbytes
            nbytes += evaluate(aligned(plan.nbytes[new]), plan.dims)
        return Layout(tuple(offsets), copied, nbytes)


def address(array: Array) -> int:
    """Where an array's elements begin."""
    found: int = array.__array_interface__["data"][0]
    return found


def prefault(memory: Array) -> None:
    """Have all pages of new, contiguous memory made by another thread, which changes nothing of what is there.

    Nobody waits for it: whoever uses a page first makes it.
    """
    if memory.nbytes < AHEAD:
        return
    touch = driver().touch  # not by that thread: a child forked meanwhile would find what it locks to load it taken
    try:
        Thread(target=_touch, args=(memory, touch), name="graphc-pages").start()
    except RuntimeError:  # the system grants no more threads
        return


def _touch(memory: Array, touch: Callable[[int, int], None]) -> None:
    touch(address(memory), memory.nbytes)
