"""What a data set is, and the one made of arrays."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from graphc.errors import ArgumentError, ShapeError

Sample = TypeVar("Sample", covariant=True)


class Dataset(Protocol[Sample]):
    """Samples by number: any object with `len(dataset)` and `dataset[i]` for i from 0 to len - 1."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class ArrayDataset(Protocol):
    """A data set that makes a whole batch at once: the one `default_collate` would make, only faster."""

    def gather(self, indices: npt.NDArray[np.int64]) -> Any:
        """The batch of the samples with these numbers, [n] int64, in their order."""
        ...


class TensorDataset:
    """Arrays of the same length; sample i is the tuple of their i-th entries.

    Args:
        arrays: at least one array (or what NumPy makes one of), each of shape [n, ...]; they are not copied.

    Raises:
        ArgumentError: no array was given.
        ShapeError: the lengths differ, or an array has no dimensions.
    """

    def __init__(self, *arrays: npt.ArrayLike) -> None:
        self._arrays = tuple(np.asarray(array) for array in arrays)
        if not self._arrays:
            raise ArgumentError("TensorDataset needs at least one array")
        lengths = {array.shape[:1] for array in self._arrays}
        if len(lengths) > 1 or () in lengths:
            shapes = ", ".join(str(array.shape) for array in self._arrays)
            raise ShapeError(f"TensorDataset needs arrays of one length along axis 0, got shapes {shapes}")

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays themselves, whole."""
        return self._arrays

    def gather(self, indices: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
        """The batch of the samples `indices`: for each array a new one of shape [len(indices), ...]."""
        return tuple(array[indices] for array in self._arrays)

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitem__(self, index: int, /) -> tuple[Any, ...]:
        return tuple(array[index] for array in self._arrays)
