"""Products of matrices by cuBLAS, called through ctypes.

CuPy's own binding refuses calls while a stream is being captured, which cuBLAS itself allows once it has a workspace.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

from graphc.runtime.cuda.driver import Matrices, Product

OK = 0
NO, TRANSPOSED = 0, 1
DTYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType_t
COMPUTE = {"float32": 68, "float64": 70, "bfloat16": 75, "tf32": 77}  # cublasComputeType_t
SCALARS = {"float64": ctypes.c_double}  # of alpha and beta; all others compute in float32
DEFAULT_ALGORITHM = -1
WORKSPACE_BYTES = 32 << 20  # what cuBLAS recommends for the GPUs that need most
STATUSES = {  # cublasStatus_t
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    3: "CUBLAS_STATUS_ALLOC_FAILED",
    7: "CUBLAS_STATUS_INVALID_VALUE",
    8: "CUBLAS_STATUS_ARCH_MISMATCH",
    11: "CUBLAS_STATUS_MAPPING_ERROR",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    14: "CUBLAS_STATUS_INTERNAL_ERROR",
    15: "CUBLAS_STATUS_NOT_SUPPORTED",
}


class CublasError(RuntimeError):
    """cuBLAS returned a status that isn't success."""


class Cublas:
    """A handle of cuBLAS on one stream.

    Args:
        library: of ctypes.
        stream: its handle.
        workspace: address of `WORKSPACE_BYTES` on the device.
    """

    def __init__(self, library: Any, stream: int, workspace: int) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        weakref.finalize(self, library.cublasDestroy_v2, self._handle).atexit = False  # CUDA may have ended by then
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        self._call("cublasSetWorkspace_v2", self._handle, ctypes.c_void_p(workspace), ctypes.c_size_t(WORKSPACE_BYTES))

    def multiply(self, product: Product) -> None:
        """c = a @ b. cuBLAS counts by columns, and so computes the transposed result of the transposed operands."""
        a, b, c = product.a, product.b, product.c
        across_b, across_a = by_columns(b, product.k, product.n), by_columns(a, product.m, product.k)
        scalar = SCALARS.get(product.compute, ctypes.c_float)
        self._call(
            "cublasGemmStridedBatchedEx_64",
            self._handle,
            *(across_b[0], across_a[0]),
            *map(ctypes.c_int64, (product.n, product.m, product.k)),
            ctypes.byref(scalar(1)),
            *_operand(b, across_b[1]),
            *_operand(a, across_a[1]),
            ctypes.byref(scalar(0)),
            *_operand(c, max(c.strides[1], product.n)),
            ctypes.c_int64(product.batch),
            COMPUTE[product.compute],
            DEFAULT_ALGORITHM,
        )

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != OK:
            raise CublasError(f"{name} returned {STATUSES.get(status, f'status {status}')}")


def by_columns(matrices: Matrices, rows: int, columns: int) -> tuple[int, int]:
    """How cuBLAS is to read matrices [rows, columns], and from column to column how far: what it calls the leading
    dimension, at least 1. By columns, rows that lie together are the transposed matrix."""
    _, down, right = matrices.strides
    if right == 1 or columns == 1:
        return NO, max(down, columns, 1)
    return TRANSPOSED, max(right, rows, 1)


def _operand(matrices: Matrices, leading: int) -> tuple[Any, ...]:
    between = ctypes.c_longlong(matrices.strides[0])
    return ctypes.c_void_p(matrices.address), DTYPES[matrices.dtype], ctypes.c_int64(leading), between
