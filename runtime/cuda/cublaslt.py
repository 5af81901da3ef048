"""Products of matrices with what follows from them, by cublasLt, through the bindings of `nvmath-python`.

Only the bindings are used: stream, memory and graphs stay ours. For each kind of product the algorithm is the one that
cublasLt's heuristic holds to be the fastest, asked for once, when a plan gets its addresses.
"""

from __future__ import annotations

import importlib
import importlib.util
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from graphc.op import Array
from graphc.runtime.cuda.cublas import COMPUTE, DTYPES, WORKSPACE_BYTES, CublasError, by_columns
from graphc.runtime.cuda.driver import DeviceMemoryError, Driver, Matrices, Memory, Product
from graphc.runtime.strided import ALIGN
from graphc.types import np_dtype

FLOAT = DTYPES["float32"]  # in which all that has an epilogue is scaled
PIECE = 1 << 16  # bytes that are looked at, at each end of a result, and of a copy
NAN = 0xFF  # each byte of a float that is none


def installed() -> Any:
    """The bindings, or None if they aren't there or can't be loaded."""
    if importlib.util.find_spec("nvmath") is None:
        return None
    try:
        return importlib.import_module("nvmath.bindings.cublasLt")
    except (ImportError, OSError, RuntimeError):  # a library is missing, or is of another version
        return None


class CublasLt:
    """A handle of cublasLt.

    An algorithm is taken only if nan stays nan: some versions' RELU makes it 0
    (forums.developer.nvidia.com/t/329783), and a network whose numbers have gone wrong would look right. That is tried
    once for each kind of product.

    Args:
        bindings: the module.
        stream: on which everything is done.
        workspace: address of `WORKSPACE_BYTES` on the device.
    """

    def __init__(self, bindings: Any, stream: int, workspace: int) -> None:
        self._bindings, self._stream, self._workspace = bindings, stream, workspace
        self._handle = bindings.create()
        weakref.finalize(self, bindings.destroy, self._handle).atexit = False  # CUDA may have ended by then
        self._algorithms: dict[tuple[Product, str], Array | str] = {}  # or why there is none

    def fused(self, driver: Driver, product: Product, epilogue: str, bias: int) -> Callable[[], None] | str:
        """See `Driver.fused`. `driver` gives memory for a trial."""
        operation = _Operation(self._bindings, product, epilogue, bias)
        kind = _kind(product), epilogue
        if kind not in self._algorithms:
            found = self._heuristic(operation, kind[0])
            if not isinstance(found, str) and not self._keeps_nan(driver, operation, found, product):
                found = "isn't seen to keep nan"
            self._algorithms[kind] = found
        algorithm = self._algorithms[kind]
        if isinstance(algorithm, str):
            return algorithm
        addresses = (product.b.address, product.a.address, product.c.address)
        return partial(self._multiply, operation, algorithm, addresses)

    def _heuristic(self, operation: _Operation, kind: Product) -> Array | str:
        """What cublasLt knows of the best algorithm, as bytes, the algorithm first; or why there is none."""
        bindings, names = self._bindings, self._bindings.MatmulPreferenceAttribute
        found, count = np.zeros(1, bindings.matmul_heuristic_result_dtype), np.zeros(1, np.int32)
        preference = bindings.matmul_preference_create()
        alignments = {"A": kind.b, "B": kind.a, "C": kind.c, "D": kind.c}
        wanted = {f"MIN_ALIGNMENT_{name}_BYTES": each.address for name, each in alignments.items()}
        try:
            for name, value in {"MAX_WORKSPACE_BYTES": WORKSPACE_BYTES, **wanted}.items():
                _set(bindings, "matmul_preference", preference, names[name], value)
            layouts = [operation.layouts[k] for k in (0, 1, 2, 2)]
            where = (found.ctypes.data, count.ctypes.data)
            bindings.matmul_algo_get_heuristic(self._handle, operation.description, *layouts, preference, 1, *where)
        except bindings.cuBLASLtError as error:  # what isn't supported
            return f"has no algorithm for it: {error}"
        finally:
            bindings.matmul_preference_destroy(preference)
        return found if count[0] and found["state"][0] == 0 else "has no algorithm for it"

    def _multiply(self, operation: _Operation, algorithm: Array, addresses: tuple[int, int, int]) -> None:
        """D = epilogue(A B). cublasLt counts by columns, and so computes transposed results of transposed operands."""
        a, b, d = addresses
        a_layout, b_layout, d_layout = operation.layouts
        one, zero = (scalar.ctypes.data for scalar in operation.scalars)
        matrices = (one, a, a_layout, b, b_layout, zero, d, d_layout, d, d_layout)
        room = (self._workspace, int(algorithm["workspace_size"][0]), self._stream)
        try:
            self._bindings.matmul(self._handle, operation.description, *matrices, algorithm.ctypes.data, *room)
        except self._bindings.cuBLASLtError as error:
            raise CublasError(f"cublasLtMatmul: {error}") from error

    def _keeps_nan(self, driver: Driver, operation: _Operation, algorithm: Array, product: Product) -> bool:
        """Whether the result is nan where operands are; False, too, where there is no memory to try it."""
        m, n, k = product.m, product.n, product.k
        sizes = [_reach(product, *each) for each in ((product.b, k, n), (product.a, m, k), (product.c, m, n))]
        try:
            memories = [driver.allocate(ALIGN + size, pooled=True) for size in sizes]
        except DeviceMemoryError:
            return False
        for memory in memories[:2]:
            _fill(driver, memory)
        result, seen = memories[2].address, min(PIECE, sizes[2])
        ends = {place: np.zeros(seen, np.uint8) for place in (result, result + sizes[2] - seen)}
        for place, end in ends.items():
            driver.upload(place, end)
        self._multiply(operation, algorithm, (memories[0].address, memories[1].address, result))
        for place, end in ends.items():
            driver.download(end, place)
        driver.synchronise()
        first, last = (ends[place].view(np_dtype(product.c.dtype)) for place in (min(ends), max(ends)))
        row = min(n, first.size)
        return bool(np.isnan(first[:row]).all() and np.isnan(last[last.size - row :]).all())


class _Operation:
    """What cublasLt is told of one product: the operation, and its matrices A, B and D, by columns."""

    def __init__(self, bindings: Any, product: Product, epilogue: str, bias: int) -> None:
        self._bindings = bindings
        m, n, k = product.m, product.n, product.k
        (turn_a, leading_a), (turn_b, leading_b) = by_columns(product.b, k, n), by_columns(product.a, m, k)
        shapes = [(k, n) if turn_a else (n, k), (m, k) if turn_b else (k, m), (n, m)]
        leading = [leading_a, leading_b, max(product.c.strides[1], n)]
        matrices = [product.b, product.a, product.c]
        batch = product.batch
        self.layouts = [self._layout(*each, batch) for each in zip(matrices, shapes, leading, strict=True)]
        self.description = bindings.matmul_desc_create(COMPUTE[product.compute], FLOAT)
        self.scalars = np.ones(1, np.float32), np.zeros(1, np.float32)
        weakref.finalize(self, _destroy, bindings, self.description, self.layouts).atexit = False
        values = {"TRANSA": turn_a, "TRANSB": turn_b, "EPILOGUE": bindings.Epilogue[epilogue]}
        for name, value in {**values, **({"BIAS_POINTER": bias} if bias else {})}.items():
            _set(bindings, "matmul_desc", self.description, bindings.MatmulDescAttribute[name], value)

    def _layout(self, matrices: Matrices, shape: tuple[int, int], leading: int, batch: int) -> int:
        bindings = self._bindings
        found: int = bindings.matrix_layout_create(DTYPES[matrices.dtype], *shape, leading)
        for name, value in (("BATCH_COUNT", batch), ("STRIDED_BATCH_OFFSET", matrices.strides[0])):
            _set(bindings, "matrix_layout", found, bindings.MatrixLayoutAttribute[name], value)
        return found


def _destroy(bindings: Any, description: int, layouts: list[int]) -> None:
    bindings.matmul_desc_destroy(description)
    for layout in layouts:
        bindings.matrix_layout_destroy(layout)


def _set(bindings: Any, what: str, handle: int, attribute: Any, value: int) -> None:
    """Set an attribute of what a handle stands for; the bindings know its type."""
    type = getattr(bindings, f"get_{what}_attribute_dtype")(attribute)
    data = np.array([value], type)
    getattr(bindings, f"{what}_set_attribute")(handle, attribute, data.ctypes.data, data.nbytes)


def _kind(product: Product) -> Product:
    """A product without its addresses: in their place, to how many bytes they are aligned."""
    a, b, c = (x._replace(address=min(ALIGN, x.address & -x.address)) for x in (product.a, product.b, product.c))
    return product._replace(a=a, b=b, c=c)


def _reach(product: Product, matrices: Matrices, rows: int, columns: int) -> int:
    """Bytes from the first element of a batch of matrices to the last."""
    steps = zip((product.batch, rows, columns), matrices.strides, strict=True)
    return (1 + sum([(size - 1) * stride for size, stride in steps])) * np_dtype(matrices.dtype).itemsize


def _fill(driver: Driver, memory: Memory) -> None:
    """Make all of a piece of memory nan."""
    done = min(PIECE, memory.nbytes)
    driver.upload(memory.address, np.full(done, NAN, np.uint8))
    while done < memory.nbytes:
        more = min(done, memory.nbytes - done)
        driver.copy(memory.address + done, memory.address, more)
        done += more
