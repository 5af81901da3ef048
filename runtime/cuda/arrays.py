"""Arrays on the device: values of variables, and results where the user asks for them there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphc.errors import DeviceError, ResourceError
from graphc.op import Array
from graphc.plan_text import with_unit
from graphc.runtime.cuda.carrier import Carrier
from graphc.runtime.cuda.driver import DeviceMemoryError, Driver, Imported, Memory
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

    def __init__(self, carrier: Carrier, memory: Memory, shape: tuple[int, ...], dtype: str) -> None:
        self._carrier = carrier
        self._driver = carrier.driver
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
            DeviceError: the device was lost. ResourceError: there is no pinned memory to copy by way of.
        """
        found = np.empty(self.shape, self.dtype)
        if found.nbytes:
            with told(self._driver, f"{self!r} can't be copied to the host"):
                self._carrier.fetch(found, self.address)
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

    def _itself(self) -> Imported:
        return Imported(self, self.shape, self._name, self.address)

    def _shared(self) -> Any:
        with told(self._driver, f"{self!r} can't be shared"):
            return self._driver.shared(self._memory, self.address, self.shape, self._name)

    def __repr__(self) -> str:
        return f"<array on {KEPT_ON!r}, {self._name}{list(self.shape)}>"


class DeviceFeed:
    """An array of anyone's that lies on the device, to be copied from there.

    Attributes:
        dtype: its name.

    Raises:
        DeviceError: the device was lost.
    """

    def __init__(self, carrier: Carrier, value: Any) -> None:
        self._carrier = carrier
        self._driver = carrier.driver
        with told(self._driver, "what is fed can't be read"):
            own = isinstance(value, DeviceArray) and value._driver is self._driver  # in the order of our own stream
            self._imported = value._itself() if own else self._driver.imported(value)
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
        """An array of one's own.

        Raises:
            ResourceError: the device has no memory for it. DeviceError: it was lost.
        """
        nbytes = math.prod(self.shape) * np_dtype(self.dtype).itemsize
        with told(self._driver, f"{with_unit(nbytes)} on the device, {self.dtype}{list(self.shape)}, can't be copied"):
            memory = self._memory_for_copy()
            self.write(memory.address)
            self._driver.synchronise()  # its owner may write to it from now on
        return DeviceArray(self._carrier, memory, self.shape, self.dtype)


@contextmanager
def told(driver: Driver, what: str) -> Iterator[None]:
    """A use of the device by the thread that asks; `what` says what can't be done if its memory lacks.

    Raises:
        ResourceError: the device lacks memory. DeviceError: it was lost.
    """
    try:
        driver.enter()
        yield
    except DeviceMemoryError as error:
        free = with_unit(driver.free_bytes())
        raise ResourceError(
            f"{what}: the device {driver.name} has {free} left{f' ({error})' if str(error) else ''}",
            hint="let go of results that lie there, or close sessions that aren't used any more",
        ) from error
    except driver.failures as error:
        raise lost(driver, error) from error


def lost(driver: Driver, error: Exception) -> DeviceError:
    """What to raise where a device fails while it is used."""
    return DeviceError(
        f"the device {driver.name} failed: {error}",
        hint="what was on it is lost: take a new process, and session.load(...) the last checkpoint; sessions on other "
        "devices, such as gc.Session(device='cpu'), go on",
    )
