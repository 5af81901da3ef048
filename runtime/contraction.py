"""Products of matrices as sizes and strides: what the targets that generate code share about the core `matmul`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphc.dims import Dim
from graphc.kernel import Kernel, Region
from graphc.runtime.strided import Strided


@dataclass(frozen=True)
class Contraction:
    """A product C[..., m, n] of A[..., m, k] and B[..., k, n].

    Attributes:
        batch: leading sizes.
        a, b: where the operands lie; the strides of the last two axes are those of (m, k) and (k, n).
        c: where the product goes, its rows contiguous; None if something else is computed from it. The matrices of a
            batch that are multiplied by the same B, and lie like one matrix in `a` and `c`, are one.
        swapped: whether A and B are the second operand and the first, transposed, and so is the result.
    """

    dtype: str
    batch: tuple[Dim, ...]
    m: Dim
    n: Dim
    k: Dim
    a: Strided
    b: Strided
    c: Strided | None
    swapped: bool


def contraction(kernel: Kernel, a: Strided, b: Strided) -> Contraction:
    """The product that a kernel computes of its operands; a column is a row, with the operands exchanged."""
    core = kernel.core
    assert core is not None
    (*batch, m, k), n = core.inputs[0].shape, core.inputs[1].shape[-1]
    swapped = m != 1 and (n == 1 or is_transposed(kernel.results[0]))
    if swapped:
        m, n, a, b = n, m, transposed(b), transposed(a)
    region = kernel.results[0]
    found = Contraction(core.dtype, tuple(batch), m, n, k, a, b, None, swapped)
    is_all = not region.loads and region.body.outputs == region.body.inputs
    return stored(found, region) if is_all else found


def stored(problem: Contraction, region: Region) -> Contraction:
    """A product that goes where a region stores its one output; as it is, if rows aren't contiguous there."""
    c = _destination(region, problem.dtype, problem.swapped)
    if c is None:
        return problem
    batch, m, a, b = [*problem.batch], problem.m, problem.a, problem.b
    while batch and b.strides[-3] == 0 and _is_one_matrix(m, a) and _is_one_matrix(m, c):
        a, c = _joined(m, a), _joined(m, c)
        b = b._replace(strides=(*b.strides[:-3], *b.strides[-2:]))
        m = m * batch.pop()
    return replace(problem, batch=tuple(batch), m=m, a=a, b=b, c=c)


def is_transposed(region: Region) -> bool:
    """Whether what a region loads and stores is rather contiguous along the last axis but one than along the last."""
    accesses = [load.access for load in region.loads] + [store.access for store in region.stores]
    votes = [(access.strides[-2] == 1) - (access.strides[-1] == 1) for access in accesses if len(access.strides) > 1]
    return sum(votes) > 0


def layout(shape: Sequence[Dim], strides: Sequence[Dim]) -> str:
    """Whether the rows of a matrix are contiguous, or its columns, or none ("strided")."""
    by_row, by_column = (size == 1 or stride == 1 for size, stride in zip(shape, strides, strict=True))
    return "rows" if by_column else "columns" if by_row else "strided"


def transposed(x: Strided) -> Strided:
    """A matrix, or a batch of them, with rows and columns exchanged."""
    *batch, rows, columns = x.strides
    return x._replace(strides=(*batch, columns, rows))


def _is_one_matrix(m: Dim, x: Strided) -> bool:
    """Whether the matrices of m rows along the last axis of the batch are the rows of one matrix."""
    return m == 1 or x.strides[-3] == m * x.strides[-2]


def _joined(m: Dim, x: Strided) -> Strided:
    """An array without the last axis of the batch: rows follow each other through its matrices of m rows."""
    *batch, matrix, row, column = x.strides
    return x._replace(strides=(*batch, matrix if m == 1 else row, column))


def _destination(region: Region, dtype: str, swapped: bool) -> Strided | None:
    """Where the one output of a region is stored, if rows are contiguous there."""
    if len(region.stores) != 1:
        return None
    store, columns = region.stores[0], region.loops[-2 if swapped else -1].extent
    found = Strided("write", store.write, store.access.offset, store.access.strides, dtype)
    found = transposed(found) if swapped else found
    return found if columns == 1 or found.strides[-1] == 1 else None
