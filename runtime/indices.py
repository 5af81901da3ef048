"""Indices of gathers and scatters, as targets that generate code see them: some are arrays, and some only count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphc.dims import Dim
from graphc.kernel import Kernel, Region


@dataclass(frozen=True)
class Indices:
    """The indices of a kernel.

    Attributes:
        axes: of the data, one for each index.
        shape: of the indices.
        along: for an index that only counts, the axis of the indices along which it does; each has its own.
        operands: which of the core's operands the others are.
    """

    axes: tuple[int, ...]
    shape: tuple[Dim, ...]
    along: Mapping[int, int]
    operands: Mapping[int, int]

    def result_axes(self, rank: int) -> tuple[list[int], list[int]]:
        """The axes of the data that lie before and after those of the indices in a result of `gather`."""
        rest = [axis for axis in range(rank) if axis not in self.axes]
        return rest[: self.axes[0]], rest[self.axes[0] :]

    @property
    def free(self) -> list[int]:
        """The axes of the indices along which none of them only counts."""
        return [k for k in range(len(self.shape)) if k not in self.along.values()]


def indices_of(kernel: Kernel, first: int) -> Indices:
    """The indices of a kernel: the operands of its core from `first` on."""
    core = kernel.core
    assert core is not None
    axes, x = core.attrs["axes"], core.inputs[0]
    along: dict[int, int] = {}
    operands: dict[int, int] = {}
    for k, axis in enumerate(axes, start=first):
        counted = _counts_along(kernel.operands[k], x.shape[axis])
        if counted is None or counted in along.values():
            operands[axis] = k
        else:
            along[axis] = counted
    return Indices(axes, core.inputs[first].shape, along, operands)


def _counts_along(region: Region, size: Dim) -> int | None:
    """The axis along which an index counts all of `size` elements, if it is no more than that."""
    if len(region.loads) != 1 or region.body.outputs != region.body.inputs or region.loads[0].read is not None:
        return None
    access = region.loads[0].access
    moving = [k for k, stride in enumerate(access.strides) if stride != 0]
    if access.offset != 0 or len(moving) != 1 or access.strides[moving[0]] != 1:
        return None
    return moving[0] if region.loops[moving[0]].extent == size else None
