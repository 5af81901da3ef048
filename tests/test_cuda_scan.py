"""Running sums and recurrences in CUDA C are those of the references, to the rounding of sums in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops.scan import cumsum_op, recurrence_op
from graphc.runtime.cuda.scan import BY_WARPS, PARTS, SHORT
from graphc.types import is_float, np_dtype
from tests.cuda_cores import kernels_of, run
from tests.cuda_host import needs_compiler

SHAPES = [((3, 5), 1), ((5, 2, 3), 0), ((2, 5, 3), 1), ((7,), 0), ((1, 2), 0), ((0, 3), 0), ((2, 0), 1), ((3, 0), 0)]
SHAPES += [((4, 1), 0), ((2, SHORT), 1)]
# Lines of warps, and of blocks.
TEAMS = [((2, SHORT + 1), 1), ((3, 300), 1), ((2, BY_WARPS), 1), ((2, BY_WARPS + 5), 1), ((3, 2, 2100), 2)]
PARTED = [((2, 2 * PARTS[256] + 4), 1), ((PARTS[256] + 13,), 0), ((PARTS[1] + 3, 3), 0), ((2 * PARTS[1], 2, 2), 0)]
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64")
ROUNDED = {"float64": 1e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}

pytestmark = needs_compiler


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np_dtype(dtype))


def reference(op: Any, *args: Any, **attrs: Any) -> Any:
    """What the op means: 16-bit floats are computed as float32."""
    dtype = args[0].dtype
    is_half = dtype.itemsize == 2 and dtype.kind not in "iu"
    with np.errstate(all="ignore"):
        return op.ref(*[a.astype(np.float32) if is_half else a for a in args], **op.frozen_attrs(attrs)).astype(dtype)


def check(op: Any, cases: list[tuple[list[Any], dict[str, Any]]], exact: bool = False, **how: Any) -> None:
    """Run an op on several operands, with attributes for each, and compare with the reference."""
    feeds, outputs = {}, []
    for number, (args, attrs) in enumerate(cases):
        nodes = [gc.placeholder(f"p{number}_{k}", a.shape, a.dtype.name) for k, a in enumerate(args)]
        feeds |= dict(zip(nodes, args, strict=True))
        outputs.append(op(*nodes, **attrs))
    for found, (args, attrs) in zip(run(outputs, feeds, **how), cases, strict=True):
        wanted = reference(op, *args, **attrs)
        dtype = args[0].dtype.name
        if exact or not is_float(dtype):
            np.testing.assert_array_equal(found, wanted)
            continue
        finite = np.abs(wanted[np.isfinite(wanted)].astype(float))
        size = 1 + finite.max(initial=0) if op is cumsum_op else 1
        near = dict(rtol=ROUNDED[dtype], atol=ROUNDED[dtype] * size)
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), **near)


def sums(shape: tuple[int, ...], axis: int, dtype: str = "float32") -> list[tuple[list[Any], dict[str, Any]]]:
    x = values(shape, dtype)
    return [
        ([x], dict(axis=axis, reverse=reverse, exclusive=exclusive))
        for reverse, exclusive in ((False, False), (True, True), (False, True), (True, False))
    ]


def recurrences(shape: tuple[int, ...], axis: int, dtype: str = "float32") -> list[tuple[list[Any], dict[str, Any]]]:
    factors = values(shape, dtype)
    if is_float(dtype):
        factors = (np.tanh(factors.astype(float)) * 0.95).astype(factors.dtype)
    operands = [factors, values(shape, dtype, 1)]
    return [(operands, dict(axis=axis)), (operands, dict(axis=axis, reverse=True, initial=2.0))]


@pytest.mark.parametrize("wide", [False, True])
def test_every_axis_and_direction(wide: bool) -> None:
    check(cumsum_op, [case for shape in SHAPES for case in sums(*shape)], wide=wide)
    check(recurrence_op, [case for shape in SHAPES for case in recurrences(*shape)], exact=True, wide=wide)


@pytest.mark.parametrize("shape", TEAMS + PARTED, ids=str)
def test_lines_that_threads_share(shape: Any) -> None:
    check(cumsum_op, sums(*shape))
    check(recurrence_op, recurrences(*shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    shapes = [((9, 150), 0), ((3, 150), 1), ((2, 1500), 1), ((PARTS[256] + 13,), 0)]
    check(cumsum_op, [case for shape in shapes for case in sums(*shape, dtype)])
    check(recurrence_op, [case for shape in shapes for case in recurrences(*shape, dtype)])


def test_every_thread_by_itself_gives_the_bits_of_the_reference() -> None:
    x = values((40, 3), "float32")
    check(cumsum_op, [([x], dict(axis=0, reverse=False, exclusive=False))], exact=True)


def test_sums_of_bools_are_whether_any_was_true() -> None:
    x = np.zeros((2, 700), bool)
    x[0, 300], x[1, 5] = True, True
    check(cumsum_op, [([x], dict(axis=1, reverse=reverse, exclusive=reverse)) for reverse in (False, True)])


@pytest.mark.parametrize("length", [20, 200, 3000, 20000])
def test_infinities_and_nan_stay_in_their_lines_and_come_no_earlier(length: int) -> None:
    x = values((4, length), "float32")
    x[1, 7], x[2, 3], x[2, 9], x[3, length // 2] = np.nan, np.inf, -np.inf, np.inf
    check(cumsum_op, [([x], dict(axis=1)), ([x], dict(axis=1, reverse=True))])


@pytest.mark.parametrize("length", [20, 200, 3000, 20000])
@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan, 0.0])
def test_recurrences_with_special_factors(length: int, special: float) -> None:
    a, b = (np.tanh(values((5, length), "float32")) * 0.9), values((5, length), "float32", 1)
    a[1, 0], a[2, 7], a[3, length // 2], a[4, length - 2] = [special] * 4
    b[2, 5] = special
    nothing = np.zeros_like(b)
    cases = [([a, b], dict(axis=1)), ([a, b], dict(axis=1, reverse=True)), ([a, nothing], dict(axis=1, initial=1.0))]
    check(recurrence_op, cases)


@pytest.mark.parametrize("length", [200, 3000, 20000])
def test_products_of_large_and_small_factors_meet_zeros(length: int) -> None:
    a, b = np.full((3, length), 1e20, np.float32), np.zeros((3, length), np.float32)
    a[0, 0] = 0
    a[1, 1::2] = 1e-20
    a[2] = 1e-30
    b[2, ::100] = 1
    check(recurrence_op, [([a, b], dict(axis=1, initial=1.0))])


@pytest.mark.parametrize("sizes", [dict(n=20, m=70), dict(n=1, m=1), dict(n=0, m=4), dict(n=2, m=9000)], ids=str)
def test_sizes_that_come_with_the_run(sizes: dict[str, int]) -> None:
    node = gc.placeholder("x", ("n", "m"))
    x = values(tuple(sizes.values()), "float32")
    x = x / (np.abs(x) + 0.1)
    outputs = [gc.cumsum(node, 0) * 2, gc.cumprod(node, 1), gc.cumsum(gc.transpose(node), 0), gc.cumsum(node, 1)]
    found = run(outputs, {node: x}, **sizes)
    wanted = [np.cumsum(x, 0) * 2, np.cumprod(x, 1), np.cumsum(x.T, 0), np.cumsum(x, 1)]
    for ours, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


def test_lines_are_done_by_threads_warps_and_blocks() -> None:
    notes = [
        kernels_of(gc.cumsum(gc.placeholder("x", shape), axis))[0].notes[0]
        for shape, axis in [((9, 20), 1), ((900, 20), 0), ((9, 900), 1), ((900, 5000), 1), ((100000,), 0)]
    ]
    assert notes == [
        "lines by threads",
        f"lines by threads, in parts of {PARTS[1]}",
        "lines by warps",
        "lines by blocks",
        f"lines by blocks, in parts of {PARTS[256]}",
    ]
