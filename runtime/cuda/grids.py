"""From numbers of threads and blocks to indices of arrays, for the rooms of the cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from graphc.dims import Dim, ceil_div, product
from graphc.runtime.cuda.launches import CudaCode, Frame

THREADS = 256  # of a block, where nothing else decides


def unravelled(frame: Frame, number: str, extents: Sequence[Dim], stem: str = "i") -> list[str]:
    """The index over a box at a row-major number: an expression for each extent.

    Only the first coordinate may go beyond its extent: a number beyond the last is divided like any other.
    """
    found = ["0"] * len(extents)
    moving = [k for k, extent in enumerate(extents) if extent != 1]
    for k in reversed(moving[1:]):
        size = frame.size(1 if extents[k] == 0 else extents[k])  # an empty box has no numbers
        found[k] = frame.value("Index", f"{number} % {size}", stem)
        number = frame.value("Index", f"{number} / {size}", "rest")
    for k in moving[:1]:
        found[k] = number
    return found


@contextmanager
def each(code: CudaCode, count: Dim, threads: int = THREADS) -> Iterator[tuple[Frame, str]]:
    """A launch with a thread for each of `count` numbers: the frame, in which they are a number's, and its name."""
    code.span(count)
    frame = code.launch(ceil_div(count, threads), threads)
    number = frame.value("Index", f"(Index)blockIdx.x * {threads} + threadIdx.x", "number")
    with frame.block(f"if ({number} < {frame.size(count)})"):
        yield frame, number


@contextmanager
def each_point(code: CudaCode, extents: Sequence[Dim], threads: int = THREADS) -> Iterator[tuple[Frame, list[str]]]:
    """A launch with a thread for each point of a box, neighbours side by side along the last axis: its index."""
    with each(code, product(extents), threads) as (frame, number):
        yield frame, unravelled(frame, number, extents)
