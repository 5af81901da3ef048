"""Products of matrices: the core `matmul`, by cuBLAS where it is the best, else by kernels of our own.

cuBLAS takes floats that lie as it wants them, or are packed so; what follows is then one launch more, which reads the
product back. That pays where k is long. Where cublasLt is there, and has an epilogue for what follows, one call of it
may do both instead (see `epilogues`). Everything else is a kernel that computes what follows on the sums that it has
in registers: of vectors by teams of threads, of matrices by tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise

from graphc.dims import Dim, lower_bound, product
from graphc.ir import Program
from graphc.kernel import Access, Load, Loop, Region, Store
from graphc.op import Op
from graphc.operands import parameter
from graphc.ops.linalg import matmul_op
from graphc.passes.sizes import guess
from graphc.runtime.contraction import Contraction, contraction, layout, stored, transposed
from graphc.runtime.cuda import lanes
from graphc.runtime.cuda.epilogues import epilogue_of
from graphc.runtime.cuda.launches import CudaCode, Frame, Fused, Gemm
from graphc.runtime.cuda.products import Lines, Products, by_teams, by_tiles, pack_of, rounded_sum
from graphc.runtime.cuda.scalars import HALVES, MEMORY, REGISTER
from graphc.runtime.cuda.scalars import stored as in_memory
from graphc.runtime.strided import Strided
from graphc.types import TensorType

FLOATS = ("float32", "float64", *HALVES)
SMALL = 128**3  # multiplications up to which a launch of cuBLAS takes longer than what it does
LONG = 256  # k from which cuBLAS gains more than reading the product back costs


def contract(code: CudaCode) -> bool:
    """Emit a product of matrices."""
    problem = contraction(code.kernel, lanes.operand(code, 0), lanes.operand(code, 1))
    since = code.position
    why_not = _why_not_library(problem)
    if why_not:
        (by_teams if problem.m == 1 else by_tiles)(code, _products(problem))
        code.note(f"not by cublas, {why_not}")
    else:
        _library(code, problem)
    fused = _fused(code, problem) if "cublaslt" in code.libraries else None
    if fused is not None:
        code.fused(fused, since)
    return True


def _out(problem: Contraction, frame: Frame, index: Sequence[str], sum: str) -> None:
    """Emit what the kernel does with an element of the product, at batch, row and column."""
    *batch, i, j = index
    value = frame.value(REGISTER[problem.dtype], rounded_sum(problem.dtype, sum), "element")
    if problem.c is not None:
        frame.line(f"{frame.at(problem.c, index)} = {in_memory(problem.dtype, value)};")
    else:
        lanes.finish_at(frame, 0, [*batch, j, i] if problem.swapped else index, value)


# --------------------------------------------------------------------------------------------- cuBLAS


def _why_not_library(problem: Contraction) -> str:
    """Why a kernel of our own computes it faster than cuBLAS, in a few words; "" if it doesn't."""
    if problem.dtype not in FLOATS:
        return f"which takes no {problem.dtype}"
    if problem.m == 1:
        return "since one row is only read"
    if problem.k == 0 or guess(problem.m * problem.n * problem.k * product(problem.batch)) <= SMALL:
        return "whose launch takes longer"
    if problem.c is None and guess(problem.k) < LONG:
        return "since what follows would read the product back"
    return ""


def _library(code: CudaCode, problem: Contraction) -> None:
    """Emit a product by cuBLAS, packing what it can't take; and what follows, if that is more than its result."""
    batch, m, n, k = problem.batch, problem.m, problem.n, problem.k
    a, b = _in_order(code, problem.a, (*batch, m, k)), _in_order(code, problem.b, (*batch, k, n))
    direct = None if problem.c is None else _ordered(problem.c, (*batch, m, n))
    between = lanes.in_workspace(code, [*batch, m, n], problem.dtype) if direct is None else None
    c = direct if between is None else _ordered(between, (*batch, m, n))
    assert c is not None
    compute = _compute(code, problem.dtype)
    code.gemm(Gemm(a, b, c, product(batch), m, n, k, compute))
    code.note("cublas" + (f", operands rounded to {compute}" if compute in ("tf32", "bfloat16") else ""))
    if between is None:
        return
    region = code.kernel.results[0]
    if problem.c is None:
        lanes.region_launches(code, region, element=transposed(between) if problem.swapped else between)
    else:  # the matrices of the batch lie where cuBLAS can't put them
        loops = tuple([Loop(size) for size in (*batch, m, n)])
        store = Store(int(problem.c.number), Access(problem.c.offset, problem.c.strides))
        lanes.region_launches(code, Region(loops, (), region.body, (store,)), element=between)


def _fused(code: CudaCode, problem: Contraction) -> Fused | None:
    """The product and what follows from it for cublasLt, if it has an epilogue for that and takes all as it lies."""
    found = epilogue_of(code.kernel.results[0], problem, code.precision)
    problem = stored(problem, code.kernel.results[0])
    batch, m, n, k = problem.batch, problem.m, problem.n, problem.k
    if found is None or problem.c is None or m == 1 or k == 0 or guess(m * n * k * product(batch)) <= SMALL:
        return None
    arrays = ((problem.a, (m, k)), (problem.b, (k, n)), (problem.c, (m, n)))
    a, b, c = (_ordered(x, (*batch, *shape)) for x, shape in arrays)
    if a is None or b is None or c is None or (n != 1 and c.strides[-1] != 1):
        return None
    gemm = Gemm(a, b, c, product(batch), m, n, k, _compute(code, problem.dtype))
    return Fused(gemm, found.name, found.bias)


def _compute(code: CudaCode, dtype: str) -> str:
    """In what products of a dtype are computed; see `Gemm.compute`."""
    return {"float32": code.precision, "float64": "float64"}.get(dtype, "float32")


def _in_order(code: CudaCode, x: Strided, shape: tuple[Dim, ...]) -> Strided:
    """An operand as cuBLAS takes it: as it is, or a copy, whose rows or columns are contiguous as they were."""
    found = _ordered(x, shape)
    if found is not None:
        return found
    turned = layout(shape[-2:], x.strides[-2:]) == "columns"
    order = (*shape[:-2], shape[-1], shape[-2]) if turned else shape
    copy = lanes.in_workspace(code, order, x.dtype)
    copy = transposed(copy) if turned else copy
    element = parameter(0, TensorType(x.dtype))
    load = Load(int(x.number), Access(x.offset, x.strides))
    loops = tuple([Loop(size) for size in shape])
    lanes.region_launches(code, Region(loops, (load,), Program((element,), (element,))), into=copy)
    code.note("operands packed")
    found = _ordered(copy, shape)
    assert found is not None and x.place == "read"  # what lies in workspace is in order
    return found


def _ordered(x: Strided, shape: tuple[Dim, ...]) -> Strided | None:
    """A batch of matrices with the one stride of the batch, and rows or columns that cuBLAS can step over."""
    *batch, rows, columns = shape
    axes = [(size, stride) for size, stride in zip(batch, x.strides, strict=False) if size != 1]
    if any(outer != size * inner for (_, outer), (size, inner) in pairwise(axes)):
        return None
    step = axes[-1][1] if axes else 0
    row, column = x.strides[-2:]
    if (columns == 1 or column == 1) and (rows == 1 or _at_least(row, columns)):
        return x._replace(strides=(step, columns if rows == 1 else row, 1))
    if (rows == 1 or row == 1) and (columns == 1 or _at_least(column, rows)):
        return x._replace(strides=(step, 1, rows if columns == 1 else column))
    return None


def _at_least(dim: Dim, limit: Dim) -> bool:
    bound = lower_bound(dim - limit)
    return bound is not None and bound >= 0


# --------------------------------------------------------------------------------------------- our own


def _products(problem: Contraction) -> Products:
    """The product for `by_tiles`."""
    dtype, k = problem.dtype, problem.k

    def lines(frame: Frame, batch: Sequence[str], x: Strided, extent: Dim, stride: Dim, along: Dim) -> Lines:
        outer = [step for size, step in zip(problem.batch, x.strides, strict=False) if size != 1]
        walked = ((k, along), (extent, stride)) if _is_along(along, stride) else ((extent, stride), (k, along))
        (near, near_step), (far, far_step) = walked
        pack = pack_of(dtype, [near], [near_step], [x.offset, *outer, *([far_step] if far != 1 else [])])
        start = frame.value(f"{MEMORY[dtype]}*", f"&{frame.at(x, batch)}", "start")

        def line() -> None:
            at = frame.offset(0, (stride,), ("i",))
            frame.line(f"return i < {frame.size(extent)} ? {start} + {at} : nullptr;")

        def place() -> None:
            at = frame.offset(0, (along,), ("k",))
            frame.line(f"return p != nullptr && k < {frame.size(k)} ? p + {at} : nullptr;")

        return Lines(_is_along(along, stride), f"const {MEMORY[dtype]}*", line, place, pack=pack)

    def operands(frame: Frame, batch: Sequence[str]) -> tuple[Lines, Lines]:
        (row, a_k), (b_k, column) = problem.a.strides[-2:], problem.b.strides[-2:]
        a = lines(frame, batch, problem.a, problem.m, row, a_k)
        return a, lines(frame, batch, problem.b, problem.n, column, b_k)

    sizes = (problem.batch, problem.m, problem.n, k)
    return Products(dtype, *sizes, _is_along(*problem.b.strides[-2:]), operands, partial(_out, problem))


def _is_along(along: Dim, across: Dim) -> bool:
    """Whether elements are closer along k than across lines, by these strides."""
    return across != 1 and (along == 1 or guess(along) < guess(across))


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {matmul_op: contract}
