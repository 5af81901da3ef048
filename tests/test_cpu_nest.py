"""Loop nests in native code: elements that are read backwards or across, and extremes with nan."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu.nest_layout import FLIGHT
from graphc.types import np_dtype
from tests.cpu_cores import INFO, WIDTHS, host_of, native, run
from tests.plan_testing import prepared

DTYPES = ("float64", "float32", "bfloat16", "int8", "bool")


def values(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    return (np.random.default_rng(len(shape)).normal(0, 2, shape) + 1).astype(np_dtype(dtype))


def check(built: Any, feeds: dict[Any, Any], wanted: Any, width: int = 64) -> None:
    (found,) = run([built], feeds, host=host_of(width))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 5, 16, 37, 128])
def test_rows_are_read_backwards(columns: int, dtype: str, width: int) -> None:
    array = values((3, columns), dtype)
    x = gc.placeholder("x", array.shape, dtype)
    check(gc.flip(x, 1), {x: array}, array[:, ::-1], width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_nan_anywhere_is_both_extremes(dtype: str, width: int) -> None:
    array = values((70, 70), dtype)
    array[np.arange(70), np.arange(70)] = np.nan
    x = gc.placeholder("x", array.shape, dtype)
    for axis in (0, 1):
        for extreme in (gc.max, gc.min):
            check(extreme(x, axis), {x: array}, np.full(70, np.nan, dtype), width)
            check(extreme(x[:, 1:-1], axis), {x: array}, getattr(np, extreme.__name__)(array[:, 1:-1], axis), width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("axis", [0, 1])
def test_shares_of_a_sum_are_near_and_that_of_the_only_one_is_1(axis: int, dtype: str, width: int) -> None:
    array = 30 * values((70, 70), dtype)
    array[:, 3], array[5] = 1e4, -np.inf
    array[5, 3] = 0
    x = gc.placeholder("x", array.shape, dtype)
    found, rows = run([gc.softmax(x, axis), gc.softmax(x * 0.01, axis)], {x: array}, host=host_of(width))
    exact = (np.exp(y - y.max(axis, keepdims=True)) for y in (array.astype(float), array.astype(float) * 0.01))
    with np.errstate(all="ignore"):
        for ours, terms in zip((found, rows), exact, strict=True):
            wanted = terms / terms.sum(axis, keepdims=True)
            np.testing.assert_allclose(ours, wanted, rtol=2e-5 if dtype == "float32" else 1e-13, atol=1e-38)
    if axis == 1:
        assert (found[:, 3] == 1).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_other_divisors_of_rows_are_divided_by(width: int) -> None:
    array = np.abs(values((70, 70))) + 1
    array[4], array[5] = 1e-40, np.inf
    x = gc.placeholder("x", array.shape)
    with np.errstate(invalid="ignore"):
        check(x / gc.max(x, 1, keepdims=True), {x: array}, array / array.max(1, keepdims=True), width)


@pytest.mark.parametrize("shape", [(9, 40), (9, 5000), (1, 300), (3, 4, 70)], ids=str)
def test_rows_that_are_fetched_ahead(shape: tuple[int, ...]) -> None:
    array = values(shape)
    x, y = gc.placeholder("x", shape), gc.placeholder("y", shape[-1:])
    (found,) = run([gc.softmax(x + y)], {x: array, y: array[..., 0, :].reshape(-1)[: shape[-1]]})
    exact = array.astype(float) + array[..., 0, :].reshape(-1)[: shape[-1]]
    terms = np.exp(exact - exact.max(-1, keepdims=True))
    np.testing.assert_allclose(found, terms / terms.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8"])
def test_each_line_is_asked_for_once_before_it_is_needed(dtype: str, width: int) -> None:
    nodes = gc.placeholder("x", ("n",), dtype), gc.placeholder("y", ("n",), dtype)
    (step,) = plan_kernels(prepared([nodes[0] + nodes[1]], info=INFO), INFO).steps
    host = host_of(width)  # as wide as that, if this machine is
    assembly = native(step.kernel, host).assembly
    size = np_dtype(dtype).itemsize
    bytes_at_once = FLIGHT * host.lanes(max(4, size)) * size
    asked = re.findall(r"call void @llvm.prefetch.p0\(ptr [^,]*, i32 (\d)", assembly)
    assert sorted(asked) == sorted(["0", "0", "1"] * max(1, bytes_at_once // 64))
    arrays = [values((5000,), dtype) for _ in nodes]
    with np.errstate(over="ignore"):
        (found,) = run([nodes[0] + nodes[1]], dict(zip(nodes, arrays, strict=True)), host=host, n=5000)
        np.testing.assert_array_equal(found, arrays[0] + arrays[1])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 7), (3, 40), (37, 21), (16, 16), (70, 70)], ids=str)
def test_squares_are_turned_in_registers(shape: tuple[int, ...], dtype: str, width: int) -> None:
    array = values(shape, dtype)
    x = gc.placeholder("x", shape, dtype)
    check(gc.transpose(x), {x: array}, array.T, width)


@pytest.mark.parametrize("sizes", [dict(n=37, m=21), dict(n=3, m=90), dict(n=0, m=4)], ids=str)
def test_squares_of_sizes_that_come_with_the_run(sizes: dict[str, int]) -> None:
    array = values(tuple(sizes.values()))
    x, y = gc.placeholder("x", ("n", "m")), gc.placeholder("y", ("m", "n"))
    (found,) = run([gc.transpose(x) + y], {x: array, y: 2 * array.T}, **sizes)
    np.testing.assert_array_equal(found, array.T + 2 * array.T)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 37), (40, 33), (64, 64)], ids=str)
def test_counters_of_eight_bytes_take_part_in_vectors_of_any_element(
    shape: tuple[int, int], dtype: str, width: int
) -> None:
    """A mask that is computed from where an element is, in a row of maxima, and one that chooses between numbers."""
    array = values(shape, dtype)
    x = gc.placeholder("x", shape, dtype)
    rows, columns = gc.arange(shape[0]).reshape(-1, 1), gc.arange(shape[1])
    seen = np.arange(shape[0])[:, None] >= np.arange(shape[1])
    masked = gc.where(rows >= columns, x, -9)
    check(gc.max(masked, 1), {x: array}, np.where(seen, array, np.array(-9, dtype)).max(1), width)
    check(gc.where(columns < 2, x, 1), {x: array}, np.where(np.arange(shape[1]) < 2, array, np.array(1, dtype)), width)
    check(gc.where(rows >= columns, rows * columns, 0), {}, np.where(seen, np.indices(shape).prod(0), 0), width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 2, 2, 2), (6, 5, 3, 3), (37, 1, 4, 3), (0, 2, 3, 3)], ids=str)
def test_rows_of_two_axes_keep_what_lies_beside_in_lanes(shape: tuple[int, ...], dtype: str, width: int) -> None:
    """Vectors may lie along the outer one, of a size that comes with the run; what they keep must not overlap."""
    array = np.clip(np.round(values(shape)), -1, 2).astype(dtype)
    x = gc.placeholder("x", ("n", *shape[1:]), dtype)
    whole = gc.clip(gc.round(x), -4, 4)
    (found,) = run(
        [gc.minimum(gc.prod(whole, axis=(0, 2), keepdims=True), whole)], {x: array}, host=host_of(width), n=shape[0]
    )
    wanted = np.clip(array, -4, 4)
    np.testing.assert_array_equal(found, np.minimum(wanted.prod((0, 2), keepdims=True), wanted))
