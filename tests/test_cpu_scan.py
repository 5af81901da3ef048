"""Running sums and recurrences in native code have the bits of the references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops.scan import cumsum_op, recurrence_op
from graphc.types import np_dtype
from tests.cpu_cores import WIDTHS, assemble, host_of, run

SHAPES = [((3, 5), 1), ((5, 2, 3), 0), ((2, 5, 3), 1), ((7,), 0), ((1, 2), 0), ((0, 3), 0), ((2, 0), 1), ((3, 0), 0)]
LONG = [((37, 21), 1), ((9, 150), 0), ((3, 4, 19), 2), ((2, 6, 90), 1)]  # groups of lines, and what is left over
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64")


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np_dtype(dtype))


def reference(op: Any, *args: Any, **attrs: Any) -> Any:
    """What the op means: 16-bit floats are computed as float32."""
    dtype = args[0].dtype
    is_half = dtype.itemsize == 2 and dtype.kind not in "iu"
    with np.errstate(all="ignore"):
        return op.ref(*[a.astype(np.float32) if is_half else a for a in args], **op.frozen_attrs(attrs)).astype(dtype)


def check(op: Any, args: list[Any], width: int = 64, **attrs: Any) -> None:
    nodes = [gc.placeholder(f"p{k}", a.shape, a.dtype.name) for k, a in enumerate(args)]
    (found,) = run([op(*nodes, **attrs)], dict(zip(nodes, args, strict=True)), host=host_of(width), parts=2)
    np.testing.assert_array_equal(found, reference(op, *args, **attrs))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("shape", "axis"), SHAPES + LONG, ids=str)
def test_every_axis_and_direction(shape: tuple[int, ...], axis: int, width: int) -> None:
    for reverse, exclusive in ((False, False), (True, True)):
        check(cumsum_op, [values(shape, "float32")], width, axis=axis, reverse=reverse, exclusive=exclusive)
    operands = [values(shape, "float32"), values(shape, "float32", 1)]
    check(recurrence_op, operands, width, axis=axis, reverse=True, initial=1.5)
    check(recurrence_op, operands, width, axis=axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    for shape, axis in LONG[:2]:
        check(cumsum_op, [values(shape, dtype)], axis=axis)
        check(recurrence_op, [values(shape, dtype), values(shape, dtype, 1)], axis=axis, initial=2.0)


def test_infinities_and_nan_stay_in_their_lines() -> None:
    x = values((3, 40), "float32")
    x[1, 7], x[2, 3], x[2, 9] = np.nan, np.inf, -np.inf
    check(cumsum_op, [x], axis=1)
    check(cumsum_op, [x], axis=0, reverse=True)


@pytest.mark.parametrize("sizes", [dict(n=20, m=70), dict(n=1, m=1), dict(n=0, m=4)], ids=str)
def test_sizes_that_come_with_the_run(sizes: dict[str, int]) -> None:
    node = gc.placeholder("x", ("n", "m"))
    x = values(tuple(sizes.values()), "float32")
    outputs = [gc.cumsum(node, 0) * 2, gc.cumprod(node, 1), gc.cumsum(gc.transpose(node), 0)]
    found = run(outputs, {node: x}, **sizes)
    wanted = [np.cumsum(x, 0) * 2, np.cumprod(x, 1), np.cumsum(x.T, 0)]
    for ours, expected in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_other_machines() -> None:
    x = gc.placeholder("x", ("n", 40), "bfloat16")
    assert assemble(gc.cumsum(x, 0), gc.cumsum(x, 1, reverse=True)) == 2
    assert assemble(recurrence_op(x, x, axis=0)) == 1
