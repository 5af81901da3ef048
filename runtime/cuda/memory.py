"""Where things lie on the device: the memory of runs, and the homes of variables."""

from __future__ import annotations

import weakref

import numpy as np

from graphc.op import Array
from graphc.runtime.cuda.arrays import DeviceArray
from graphc.runtime.cuda.carrier import Carrier
from graphc.runtime.cuda.driver import Driver, Memory
from graphc.types import TensorType, np_dtype


class Room:
    """One block on the device and one of pinned memory, for what lives during a run; a session's plans share them.

    Both only grow.

    Attributes:
        generation: another number whenever a block has moved: graphs that were captured before know wrong addresses.
        memory: None as long as nothing was needed.
        mirror: pinned bytes.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.generation = 0
        self.memory: Memory | None = None
        self.mirror: Array = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return 0 if self.memory is None else self.memory.nbytes

    @property
    def base(self) -> int:
        """The address of the first byte on the device."""
        return 0 if self.memory is None else self.memory.address

    def reserve(self, nbytes: int, mirrored: int) -> None:
        """See that there are so many bytes on the device and of pinned memory; what was there is lost.

        Raises:
            DeviceMemoryError: there are none.
        """
        if nbytes > self.nbytes:
            self.generation += 1
            self.memory = None  # before the new block is taken
            self.memory = self.driver.allocate(nbytes)
        if mirrored > self.mirror.size:
            self.generation += 1
            self.mirror = self.driver.pinned(mirrored)


class Stored(DeviceArray):
    """The value of a variable in its home, or in memory of its own once something else is to be there."""

    def __init__(self, home: Home) -> None:
        super().__init__(home.carrier, home.memory, home.shape, home.dtype)

    def move(self, memory: Memory) -> None:
        """It lies elsewhere from now on."""
        self._memory = memory


class Home:
    """Where a variable lies: always at one address, so that captured graphs find it there.

    A session's state says what a variable's value is: an array of the host's, which this may hold a copy of, or a
    `DeviceArray` that tells where on the device it is, here or elsewhere.
    """

    def __init__(self, carrier: Carrier, type: TensorType) -> None:
        self.carrier = carrier
        self.driver = driver = carrier.driver
        self.shape = tuple([int(dim) for dim in type.shape])
        self.dtype = type.dtype
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * np_dtype(type.dtype).itemsize
        self.memory = driver.allocate(max(1, self.nbytes))
        self._copied: Array | None = None  # the host's array that this is a copy of
        self._lent: weakref.ref[Stored] | None = None

    def bring(self, value: Array | DeviceArray) -> None:
        """See that a value is here."""
        if isinstance(value, DeviceArray):
            if value.memory is not self.memory:
                self.preserve()
                self.overwritten()
                self.driver.copy(self.memory.address, value.address, self.nbytes)
        elif value is not self._copied:
            self.preserve()
            self.overwritten()
            self.carrier.send(value, self.memory.address)
            self._copied = value

    def overwritten(self) -> None:
        """Something else is to be here: it is no copy of what the host has any more."""
        self._copied = None

    def preserve(self) -> None:
        """Give the value that was lent memory of its own, if anyone refers to it still."""
        lent = None if self._lent is None else self._lent()
        if lent is not None and lent.memory is self.memory:
            saved = self.driver.allocate(max(1, self.nbytes), pooled=True)
            self.driver.copy(saved.address, self.memory.address, self.nbytes)
            lent.move(saved)

    def lend(self) -> Stored:
        """What is here, as a value of the variable."""
        stored = Stored(self)
        self._lent = weakref.ref(stored)
        return stored
