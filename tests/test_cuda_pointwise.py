"""Every pointwise op as CUDA C, for every dtype, against its NumPy meaning; on a CPU, whose C library has the functions
of a GPU's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from cuda_host import Module, needs_compiler
from op_testing import is_float, same_bits
from test_cpu_pointwise import CASES, EITHER_ZERO, ULPS, dtypes_of, meant, operands, precise, ulps

from graphc.ir import Node
from graphc.op import Op
from graphc.operands import cast_op
from graphc.ops import math as ops
from graphc.ops.state import placeholder
from graphc.runtime.cuda.scalars import number
from graphc.types import DTYPES
from tests.cuda_cores import kernels_of, run

pytestmark = needs_compiler

Array = np.ndarray[Any, Any]
LIBRARY = 3.0  # units of the last place by which the C library of the host may be off, as that of a GPU may
PAIRS = [(source, target) for source in DTYPES for target in DTYPES if source != target]


@cache
def call_of(op: Op, dtypes: tuple[str, ...], **attrs: Any) -> tuple[tuple[Node, ...], Node]:
    leaves = tuple([placeholder(f"x{k}", ("n",), dtype) for k, dtype in enumerate(dtypes)])
    return leaves, op(*leaves, **attrs)


@cache
def compiled() -> Module:
    """All of them, compiled together."""
    calls = [call_of(case.values[0], dtypes_of(*case.values)) for case in CASES]
    calls += [call_of(cast_op, (source,), dtype=target) for source, target in PAIRS]
    kernels = [kernel for _, result in calls for kernel in kernels_of(result)]
    return Module(list({kernel.source: kernel for kernel in kernels}.values()))


def found(op: Op, arrays: list[Array], **attrs: Any) -> Array:
    leaves, result = call_of(op, tuple(array.dtype.name for array in arrays), **attrs)
    values: Array = run([result], dict(zip(leaves, arrays, strict=True)), module=compiled(), n=arrays[0].size)[0]
    return values


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_every_op_means_what_its_reference_means(op: Op, dtype: str) -> None:
    arrays = operands(op, dtype)
    values, expected = found(op, arrays), meant(op, arrays)
    if op in ULPS and is_float(dtype):
        off = ulps(values, precise(op, arrays))
        assert off.max() <= (LIBRARY if dtype in ("float32", "float64") else 1.0)
        return
    if op in EITHER_ZERO and is_float(dtype):
        values, expected = values + 0.0, expected + 0.0
        values, expected = (np.where(x == 0, np.zeros_like(x), x) for x in (values, expected))
    wrong = [k for k in range(values.size) if not same_bits(values[k : k + 1], expected[k : k + 1])]
    assert not wrong, [([a[k] for a in arrays], values[k], expected[k]) for k in wrong[:5]]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_casts_give_what_numpy_gives(source: str, target: str) -> None:
    (x,) = operands(ops.negative if source != "bool" else ops.logical_not, source)
    if target == "uint8":
        x = np.abs(x) if source != "bool" else x
    values, expected = found(cast_op, [x], dtype=target), meant(cast_op, [x], dtype=target)
    wrong = [k for k in range(x.size) if not same_bits(values[k : k + 1], expected[k : k + 1])]
    assert not wrong, [(x[k], values[k], expected[k]) for k in wrong[:5]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_are_written_exactly(dtype: str) -> None:
    for value in (0.1, -0.0, 1e30, 5e-324, 1.1754944e-38, 16777217.0, -1.5):
        text = number(value, dtype)
        digits = text.strip("()").removesuffix("f")
        assert np.array(digits, dtype) == np.array(value, dtype) and np.signbit(float(digits)) == np.signbit(value)
        assert text.startswith("(") == bool(np.signbit(value))  # so that a minus before it is another operator
    assert "_of(0x" in number(float("nan"), dtype) and "_of(0xf" in number(float("-inf"), dtype)


def test_the_lowest_integers_are_no_negated_numbers_that_do_not_fit() -> None:
    assert number(-(2**63), "int64") == "(i64)0x8000000000000000ULL"
    assert number(-(2**31), "int32") == "(i32)0x80000000"
