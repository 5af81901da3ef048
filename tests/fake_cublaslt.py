"""What `nvmath.bindings.cublasLt` would be, over the host's memory: functions of its names, as NVIDIA documents them.

Matrices lie by columns, their leading dimension is no less than they have rows; D = epilogue(alpha op(A) op(B) + bias),
where the bias has a number for each row of D. Where the real bindings are installed, `test_cuda_cublaslt` compares
names, arguments and types with theirs.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from graphc.runtime.cuda.cublas import COMPUTE, DTYPES
from graphc.types import np_dtype

Array = np.ndarray[Any, Any]
STREAM = 7
NAMES = {number: name for name, number in DTYPES.items()}


class Epilogue(IntEnum):
    """`cublasLtEpilogue_t`: those that are asked for."""

    RELU = 2
    BIAS = 4
    RELU_BIAS = 6
    GELU = 32
    GELU_BIAS = 36


class MatmulDescAttribute(IntEnum):
    """`cublasLtMatmulDescAttributes_t`."""

    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8


class MatrixLayoutAttribute(IntEnum):
    """`cublasLtMatrixLayoutAttribute_t`."""

    BATCH_COUNT = 5
    STRIDED_BATCH_OFFSET = 6


class MatmulPreferenceAttribute(IntEnum):
    """`cublasLtMatmulPreferenceAttributes_t`."""

    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


TYPES: dict[IntEnum, type[np.generic]] = {
    MatmulDescAttribute.TRANSA: np.int32,
    MatmulDescAttribute.TRANSB: np.int32,
    MatmulDescAttribute.EPILOGUE: np.uint32,
    MatmulDescAttribute.BIAS_POINTER: np.int64,
}
LAYOUT_TYPES: dict[IntEnum, type[np.generic]] = {
    MatrixLayoutAttribute.BATCH_COUNT: np.int32,
    MatrixLayoutAttribute.STRIDED_BATCH_OFFSET: np.int64,
}
PREFERENCE_TYPES: dict[IntEnum, type[np.generic]] = {
    each: np.uint64 if each is MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES else np.uint32
    for each in MatmulPreferenceAttribute
}


class cuBLASLtError(Exception):
    """Of the bindings' name."""


class FakeCublasLt:
    """The module.

    Args:
        do: what is done with a product: at once, or later.
        keeps_nan: whether RELU of nan is nan.
        refused: epilogues for which there is no algorithm.

    Attributes:
        asked: how many algorithms were looked for; products: how many were multiplied.
        things: what handles stand for.
    """

    Epilogue, MatmulDescAttribute = Epilogue, MatmulDescAttribute
    MatrixLayoutAttribute, MatmulPreferenceAttribute = MatrixLayoutAttribute, MatmulPreferenceAttribute
    cuBLASLtError = cuBLASLtError  # noqa: N815
    matmul_heuristic_result_dtype = np.dtype(
        [
            ("algo", [("data_", "<u8", (8,))]),
            ("workspace_size", "<u8"),
            ("state", "<i4"),
            ("waves_count", "<f4"),
            ("reserved", "<i4", (4,)),
        ],
        align=True,
    )

    def __init__(
        self, do: Callable[[Callable[[], None]], None], keeps_nan: bool = True, refused: tuple[str, ...] = ()
    ) -> None:
        self.do, self.keeps_nan, self.refused = do, keeps_nan, refused
        self.things: dict[int, dict[Any, int]] = {}
        self.asked = self.products = 0
        self._last = 0

    def _made(self, **told: int) -> int:
        self._last += 1
        self.things[self._last] = dict(told)
        return self._last

    def _given(self, types: dict[IntEnum, type[np.generic]], handle: int, attr: int, buf: int, size: int) -> None:
        (name,) = [each for each in types if each == attr]
        assert size == np.dtype(types[name]).itemsize, f"{name.name} has another size"
        data = ctypes.string_at(buf, size)
        self.things[handle][name.name] = int(np.frombuffer(data, types[name])[0])

    # --- functions of the bindings

    def create(self) -> int:
        return self._made()

    def destroy(self, light_handle: int) -> None:
        del self.things[light_handle]

    matmul_preference_destroy = matmul_desc_destroy = matrix_layout_destroy = destroy

    def matmul_desc_create(self, compute_type: int, scale_type: int) -> int:
        assert compute_type in COMPUTE.values() and scale_type == DTYPES["float32"]
        return self._made(compute=compute_type)

    def matrix_layout_create(self, type: int, rows: int, cols: int, ld: int) -> int:
        assert ld >= max(1, rows), "the leading dimension is less than there are rows"
        return self._made(type=type, rows=rows, cols=cols, ld=ld)

    def matmul_preference_create(self) -> int:
        return self._made()

    def get_matmul_desc_attribute_dtype(self, attr: int) -> Any:
        return TYPES[MatmulDescAttribute(attr)]

    def get_matrix_layout_attribute_dtype(self, attr: int) -> Any:
        return LAYOUT_TYPES[MatrixLayoutAttribute(attr)]

    def get_matmul_preference_attribute_dtype(self, attr: int) -> Any:
        return PREFERENCE_TYPES[MatmulPreferenceAttribute(attr)]

    def matmul_desc_set_attribute(self, matmul_desc: int, attr: int, buf: int, size_in_bytes: int) -> None:
        self._given(TYPES, matmul_desc, attr, buf, size_in_bytes)

    def matrix_layout_set_attribute(self, mat_layout: int, attr: int, buf: int, size_in_bytes: int) -> None:
        self._given(LAYOUT_TYPES, mat_layout, attr, buf, size_in_bytes)

    def matmul_preference_set_attribute(self, pref: int, attr: int, buf: int, size_in_bytes: int) -> None:
        self._given(PREFERENCE_TYPES, pref, attr, buf, size_in_bytes)

    def matmul_algo_get_heuristic(
        self,
        light_handle: int,
        operation_desc: int,
        adesc: int,
        bdesc: int,
        cdesc: int,
        ddesc: int,
        preference: int,
        requested_algo_count: int,
        heuristic_results_array: int,
        return_algo_count: int,
    ) -> None:
        self.asked += 1
        operation, wanted = self.things[operation_desc], self.things[preference]
        self._sizes(operation_desc, adesc, bdesc, ddesc)
        assert cdesc == ddesc and requested_algo_count == 1
        if Epilogue(operation["EPILOGUE"]).name in self.refused:
            raise cuBLASLtError("CUBLAS_STATUS_NOT_SUPPORTED")
        found = np.zeros(1, self.matmul_heuristic_result_dtype)
        aligned = [wanted[f"MIN_ALIGNMENT_{name}_BYTES"] for name in "ABCD"]
        found["algo"]["data_"][0] = [operation["EPILOGUE"], *self._sizes(operation_desc, adesc, bdesc, ddesc), *aligned]
        found["workspace_size"] = wanted["MAX_WORKSPACE_BYTES"] // 2
        ctypes.memmove(heuristic_results_array, found.ctypes.data, found.nbytes)
        ctypes.c_int.from_address(return_algo_count).value = 1

    def matmul(
        self,
        light_handle: int,
        compute_desc: int,
        alpha: int,
        a: int,
        adesc: int,
        b: int,
        bdesc: int,
        beta: int,
        c: int,
        cdesc: int,
        d: int,
        ddesc: int,
        algo: int,
        workspace: int,
        workspace_size_in_bytes: int,
        stream: int,
    ) -> None:
        self.products += 1
        operation = self.things[compute_desc]
        scalars = [ctypes.c_float.from_address(where).value for where in (alpha, beta)]
        assert scalars == [1, 0] and (c, cdesc) == (d, ddesc) and stream == STREAM
        known = (ctypes.c_uint64 * 8).from_address(algo)
        told = [operation["EPILOGUE"], *self._sizes(compute_desc, adesc, bdesc, ddesc)]
        assert list(known[:4]) == told, "this algorithm was chosen for another product"
        assert not any(address % least for address, least in zip((a, b, c, d), known[4:], strict=True))
        assert workspace % 256 == 0 and workspace_size_in_bytes > 0
        layouts = [dict(self.things[layout]) for layout in (adesc, bdesc, ddesc)]
        told_then = dict(operation)
        self.do(lambda: self._multiply(told_then, layouts, (a, b, d)))

    # --- what they mean

    def _sizes(self, description: int, *layouts: int) -> tuple[int, int, int]:
        """m, n and k of D = op(A) op(B)."""
        operation = self.things[description]
        a, b, d = (self.things[layout] for layout in layouts)
        m, k = (a["rows"], a["cols"])[:: -1 if operation["TRANSA"] else 1]
        of_b, n = (b["rows"], b["cols"])[:: -1 if operation["TRANSB"] else 1]
        assert (d["rows"], d["cols"], of_b) == (m, n, k), "the matrices don't fit together"
        assert a["BATCH_COUNT"] == b["BATCH_COUNT"] == d["BATCH_COUNT"]
        assert a["type"] == b["type"] == d["type"]
        return m, n, k

    def _multiply(self, operation: dict[Any, int], layouts: list[dict[Any, int]], addresses: tuple[int, ...]) -> None:
        a, b, d = (_matrices(*each) for each in zip(layouts, addresses, strict=True))
        left = np.swapaxes(a, 1, 2) if operation["TRANSA"] else a
        right = np.swapaxes(b, 1, 2) if operation["TRANSB"] else b
        with np.errstate(all="ignore"):
            found = left.astype(np.float64) @ right.astype(np.float64)
            epilogue = Epilogue(operation["EPILOGUE"]).name
            if epilogue.endswith("BIAS"):
                bias = _flat(operation["BIAS_POINTER"], d.shape[1], d.dtype).astype(np.float64)
                found = found + bias[:, None]
            if epilogue.startswith("RELU"):
                found = np.maximum(found, 0) if self.keeps_nan else np.fmax(found, 0)
            if epilogue.startswith("GELU"):
                found = 0.5 * found * (1 + np.tanh(math.sqrt(2 / math.pi) * (found + 0.044715 * found**3)))
            d[...] = found


def _flat(address: int, count: int, dtype: np.dtype[Any]) -> Array:
    return np.frombuffer((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address), dtype, count)


def _matrices(layout: dict[Any, int], address: int) -> Array:
    """A batch of matrices by columns."""
    dtype = np_dtype(NAMES[layout["type"]])
    shape = (layout["BATCH_COUNT"], layout["rows"], layout["cols"])
    steps = (layout["STRIDED_BATCH_OFFSET"], 1, layout["ld"])
    reach = 1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    strides = [dtype.itemsize * step for step in steps]
    return np.lib.stride_tricks.as_strided(_flat(address, reach, dtype), shape, strides)
