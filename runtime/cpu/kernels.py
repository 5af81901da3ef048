"""From kernels to native code: which room emits which core. What no room serves is run by NumPy, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache

from graphc.kernel import Kernel
from graphc.op import Op
from graphc.runtime.cpu import (
    attention,
    conv,
    conv_points_weight,
    conv_product,
    conv_rows,
    conv_source,
    conv_taps,
    conv_tiles,
    gemm,
    index,
    philox,
    pointwise,
    scan,
    sort,
    window,
    window_channels,
    winograd_library,
)
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.lanes import region_phase
from graphc.runtime.cpu.phases import KernelCode, NativeKernel
from graphc.runtime.cpu.reductions import REDUCTIONS
from graphc.runtime.regions import is_expressible

Core = Callable[[KernelCode], bool]  # emits the phases of a kernel with a core; False: it isn't served

# Each has a table of the cores that it emits; later ones come before others.
ROOMS = (attention, conv, gemm, index, philox, scan, sort, window, window_channels)
CORES: Mapping[Op, Core] = {op: core for room in ROOMS for op, core in room.CORES.items()}
EXACT_CORES: Mapping[Op, Core] = {**CORES, **conv.EXACT_CORES}  # none of an algorithm that loses bits for speed


LIBRARIES: Mapping[str, Callable[[Host, str], str]] = {  # by how names begin; else gemm's
    "outer": conv_tiles.library,
    "points": conv_points_weight.library,
    "product": conv_product.library,
    "rows": conv_rows.library,
    "source": conv_source.library,
    "taps": conv_taps.library,
    "winograd": winograd_library.library,
}


@cache
def function(host: Host, symbol: str) -> str:
    """The assembly of a function that kernels call, by its name; made once, since many plans ask for the same."""
    room = LIBRARIES.get(symbol.split(".")[0], gemm.library)
    return room(host, symbol)


def native_kernel(
    kernel: Kernel, host: Host, cores: Mapping[Op, Core] = CORES, steady: Collection[int] = frozenset()
) -> NativeKernel | None:
    """The code of a kernel, some of whose reads may be steady, or None if it must be run by NumPy."""
    if not all(is_expressible(region, pointwise.TABLE, REDUCTIONS) for region in kernel.regions):
        return None
    code = KernelCode(kernel, host, steady)
    if kernel.core is None:
        for region in kernel.results:
            region_phase(code, region)
    elif kernel.core.op not in cores or not cores[kernel.core.op](code):
        return None
    return code.finished()
