"""Copies between arrays of the host's and the device, by way of pinned memory.

The device copies to and from pinned memory by itself. An array of anyone's isn't pinned, so its elements go through two
pieces that are: while the device is busy with one, the host copies to or from the other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.op import Array
from graphc.runtime.cuda.driver import Driver

PIECE = 8 << 20  # bytes of each piece, at most
LEAST = 1 << 20  # of what is copied at a time; an array that isn't much larger is halved, so that both have something
PIECES = 2


class Carrier:
    """Two pieces of pinned memory, for copies one after the other; threads take turns."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._pieces: list[Array] = []
        self._marks: list[Any] = [None] * PIECES  # when the device is done with each
        self._next = 0
        self._turn = threading.RLock()

    def send(self, array: Array, address: int) -> None:
        """Copy the elements of an array to the device, in row-major order; it may change when this has returned.

        Raises:
            DeviceMemoryError: there is no pinned memory.
        """
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        with self._turn:
            for start, part in _parts(data):
                at = self._piece()
                piece = self._pieces[at][: part.size]
                piece[...] = part
                self.driver.upload(address + start, piece)
                self._marks[at] = self.driver.mark()

    def fetch(self, array: Array, address: int) -> None:
        """Copy what is on the device into a contiguous array, and wait for it.

        Raises:
            DeviceMemoryError: there is no pinned memory.
        """
        waiting: list[tuple[int, Array]] = []
        with self._turn:
            for start, part in _parts(array.reshape(-1).view(np.uint8)):
                at = self._piece()
                self.driver.download(self._pieces[at][: part.size], address + start)
                self._marks[at] = self.driver.mark()
                waiting.append((at, part))
                if len(waiting) == PIECES:
                    self._arrived(*waiting.pop(0))
            for each in waiting:
                self._arrived(*each)

    def _arrived(self, at: int, part: Array) -> None:
        self.driver.wait(self._marks[at])
        part[...] = self._pieces[at][: part.size]

    def _piece(self) -> int:
        """The number of the piece whose turn it is, with which the device is done."""
        if not self._pieces:
            self._pieces = [self.driver.pinned(PIECE) for _ in range(PIECES)]
        at, self._next = self._next, (self._next + 1) % PIECES
        if self._marks[at] is not None:
            self.driver.wait(self._marks[at])
        return at


def _parts(data: Array) -> Iterator[tuple[int, Array]]:
    """Bytes piece by piece, each with where it begins."""
    step = min(PIECE, max(LEAST, -(-data.size // PIECES)))
    for start in range(0, data.size, step):
        yield start, data[start : start + step]
