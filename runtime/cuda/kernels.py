"""From kernels to CUDA C: which room emits which core. What no room serves is run by NumPy, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from graphc.kernel import Kernel
from graphc.op import Op
from graphc.ops.nn import attention_grad as attention_grad_op
from graphc.ops.nn import attention_op
from graphc.ops.pooling import max_pool_input_grad
from graphc.ops.sorting import topk_op
from graphc.runtime.cuda import attention, attention_grad, conv, gemm, index, philox, pointwise, scan, sort, window
from graphc.runtime.cuda.lanes import all_launches
from graphc.runtime.cuda.launches import CudaCode, CudaKernel, Precision
from graphc.runtime.cuda.reductions import REDUCTIONS
from graphc.runtime.regions import is_expressible
from graphc.target import TargetInfo

Core = Callable[[CudaCode], bool]  # emits the commands of a kernel with a core; False: it isn't served

# Each has a table of the cores that it emits.
ROOMS = (attention, attention_grad, conv, gemm, index, philox, scan, sort, window)
CORES: Mapping[Op, Core] = {op: core for room in ROOMS for op, core in room.CORES.items()}

INFO = TargetInfo(
    name="cuda",
    whole=frozenset({attention_grad_op, attention_op, max_pool_input_grad, topk_op}),
    epilogues=frozenset({"contract", "conv", "window", "index", "composite"}),
    views=frozenset({"contract", "conv", "window", "index", "scan", "sort", "composite"}),
)


def cuda_kernel(
    kernel: Kernel,
    cores: Mapping[Op, Core] = CORES,
    precision: Precision = "float32",
    libraries: Collection[str] = frozenset(),
) -> CudaKernel | None:
    """The code of a kernel, or None if it must be run by NumPy.

    Args:
        precision: to which products may round what they multiply.
        libraries: that may be asked; see `CudaCode`.
    """
    if not all(is_expressible(region, pointwise.TABLE, REDUCTIONS) for region in kernel.regions):
        return None
    code = CudaCode(kernel, precision, libraries)
    if kernel.core is None:
        all_launches(code)
    elif kernel.core.op not in cores or not cores[kernel.core.op](code):
        return None
    return code.finished()
