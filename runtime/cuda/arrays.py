"""Arrays on the device: values of variables, and results where the user asks for them there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.errors import DeviceError
from graphc.op import Array
from graphc.runtime.cuda.driver import Driver, Memory
from graphc.runtime.strided import ALIGN
from graphc.types import np_dtype

KEPT_ON = "cuda"


class DeviceArray:
    """An array on the device, contiguous in row-major order.

    It speaks DLPack, so `torch.from_dlpack(x)`, `cupy.from_dlpack(x)` and `jax.dlpack.from_dlpack(x)` take it without a
    copy, and `__cuda_array_interface__`. `x.numpy()` and `np.asarray(x)` copy it to the host.

    Attributes:
        shape: ints.
        dtype: of NumPy; `ml_dtypes.bfloat16` for bfloat16.
    """

    def __init__(self, driver: Driver, memory: Memory, shape: tuple[int, ...], dtype: str) -> None:
        self._driver = driver
        self._memory = memory
        self._name = dtype
        self.shape = shape
        self.dtype = np_dtype(dtype)

    @property
    def memory(self) -> Memory:
        """Where it lies."""
        return self._memory

    @property
    def size(self) -> int:
        """How many elements there are."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def address(self) -> int:
        """Of the first element, on the device."""
        return self._memory.address

    def numpy(self) -> Array:
        """A copy on the host.

        Raises:
            DeviceError: the device was lost.
        """
        found = np.empty(self.shape, self.dtype)
        if found.nbytes:
            try:
                self._driver.enter()
                self._driver.download(found, self.address)
                self._driver.synchronise()
            except self._driver.failures as error:
                raise lost(self._driver, error) from error
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array on the device can't become one of NumPy without a copy")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def __dlpack__(self, **options: Any) -> Any:
        return self._shared().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self._shared().__dlpack_device__()
        return device

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found: dict[str, Any] = self._shared().__cuda_array_interface__
        return found

    def _shared(self) -> Any:
        try:
            self._driver.enter()
            return self._driver.shared(self._memory, self.address, self.shape, self._name)
        except self._driver.failures as error:
            raise lost(self._driver, error) from error

    def __repr__(self) -> str:
        return f"<array on {KEPT_ON!r}, {self._name}{list(self.shape)}>"


class DeviceFeed:
    """An array of anyone's that lies on the device, to be copied from there.

    Attributes:
        dtype: its name.
    """

    def __init__(self, driver: Driver, value: Any) -> None:
        self._driver = driver
        self._imported = driver.imported(value)
        self.shape, self.dtype = self._imported.shape, self._imported.dtype

    def in_order(self) -> tuple[int, Memory | None]:
        """The address at which the elements lie in row-major order, and the memory that they were copied to for it."""
        address = self._imported.address
        if address is not None and address % ALIGN == 0:
            return address, None
        memory = self._memory_for_copy()
        self.write(memory.address)
        return memory.address, memory

    def _memory_for_copy(self) -> Memory:
        nbytes = math.prod(self.shape) * np_dtype(self.dtype).itemsize
        return self._driver.allocate(max(1, nbytes), pooled=True)

    def write(self, address: int) -> None:
        """Copy the elements, in row-major order, to memory of the device."""
        self._driver.take(self._imported, address)

    def copy(self, order: str = "C") -> DeviceArray:
        """An array of one's own."""
        memory = self._memory_for_copy()
        self.write(memory.address)
        self._driver.synchronise()  # its owner may write to it from now on
        return DeviceArray(self._driver, memory, self.shape, self.dtype)


def lost(driver: Driver, error: Exception) -> DeviceError:
    """What to raise where a device fails while it is used."""
    return DeviceError(
        f"the device {driver.name} failed: {error}",
        hint="what was on it is lost: take a new process, and session.load(...) the last checkpoint; sessions on other "
        "devices, such as gc.Session(device='cpu'), go on",
    )
