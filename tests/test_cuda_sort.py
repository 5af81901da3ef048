"""Sorting in CUDA C finds the very order of the references: stable, NaN the greatest, -0 equal to 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops.sorting import _order
from graphc.runtime.cuda.sort import FEW, PART, TILE
from graphc.types import np_dtype
from tests.cuda_cores import Case, kernels_of, run, run_all
from tests.cuda_host import needs_compiler

DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool")
SHAPES = [((3, 5), 1), ((4, 3), 0), ((2, 33), 1), ((3, 300), 1), ((300, 2), 0), ((2, 3, 4), 1), ((1000, 7), 1)]
EMPTY = [((0, 3), 0), ((2, 0), 1), ((0, 3), 1), ((1,), 0)]
LONG = [((2, TILE + 1), 1), ((2 * TILE, 2), 0), ((7 * TILE + 5,), 0)]

pytestmark = needs_compiler


def values(shape: tuple[int, ...], dtype: str) -> Any:
    """Numbers with ties, and all that is special about floats."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.5 if dtype == "bool" else 50, shape).astype(np_dtype(dtype))
    if dtype.startswith("float") or dtype == "bfloat16":
        special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40]
        x.reshape(-1)[::3] = rng.choice(special, x.reshape(-1)[::3].shape).astype(x.dtype)
    return x


def wanted_order(x: Any, axis: int, descending: bool) -> Any:
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x
    return _order(wide, axis=axis, descending=descending)


def check(shapes: list[tuple[tuple[int, ...], int]], dtype: str, **how: Any) -> None:
    """Sort arrays of these shapes along an axis each, both ways."""
    arrays = [values(shape, dtype) for shape, _ in shapes]
    nodes = [gc.placeholder(f"x{k}", shape, dtype) for k, (shape, _) in enumerate(shapes)]
    cases = [(k, axis, way) for k, (_, axis) in enumerate(shapes) for way in (False, True)]
    outputs = [gc.argsort(nodes[k], axis, descending=way) for k, axis, way in cases]
    for found, (k, axis, way) in zip(run(outputs, dict(zip(nodes, arrays, strict=True)), **how), cases, strict=True):
        np.testing.assert_array_equal(found, wanted_order(arrays[k], axis, way))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_every_dtype(dtype: str) -> None:
    check(SHAPES + EMPTY, dtype)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_lines_that_several_blocks_sort(dtype: str, wide: bool) -> None:
    check(LONG, dtype, wide=wide)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_sizes_that_come_with_the_run(dtype: str, wide: bool) -> None:
    for shape in [(5, 3), (2 * TILE + 7, 2), (TILE, 1), (0, 3), (3, 0), (1, 1), (2, 3 * TILE)]:
        x = values(shape, dtype)
        node = gc.placeholder("x", ("a", "b"), dtype)
        outputs = [gc.argsort(node, 0), gc.argsort(node, 1, descending=True)]
        down, across = run(outputs, {node: x}, wide=wide, a=shape[0], b=shape[1])
        np.testing.assert_array_equal(down, wanted_order(x, 0, False))
        np.testing.assert_array_equal(across, wanted_order(x, 1, True))


def test_sorted_values_and_lines_that_are_views() -> None:
    x = values((40, 30), "float32")
    node = gc.placeholder("x", x.shape)
    found = run([gc.sort(gc.transpose(node), 0), gc.argsort(gc.flip(node, 1)[::2], 1) * 2], {node: x})
    np.testing.assert_array_equal(found[0], np.take_along_axis(x, wanted_order(x, 1, False), 1).T)
    np.testing.assert_array_equal(found[1], wanted_order(x[::2, ::-1], 1, False) * 2)


FIRST = [((3, 5), 1, 2), ((4, 3), 0, 4), ((2, 300), 1, 33), ((300, 2), 0, 7), ((2, 0), 1, 0), ((6,), 0, 0)]
CHOSEN = [((2, TILE + 1), 1, 5), ((TILE + 3, 2), 0, 1), ((2, 2 * PART + 9), 1, FEW), ((TILE + 1,), 0, 0)]
CHOSEN += [((PART + 1,), 0, 3), ((2, TILE + 60), 1, FEW + 1), ((TILE + 7,), 0, TILE + 7)]


def check_first(
    cases: list[tuple[tuple[int, ...], int, int]], dtype: str, symbolic: bool = False, wide: bool = False
) -> None:
    """Find the first few of arrays of these shapes along an axis each, both ways."""
    programs = []
    for shape, axis, k in cases:
        node = gc.placeholder("x", ("a", "b")[: len(shape)] if symbolic else shape, dtype)
        sizes = dict(zip("ab", shape, strict=False)) if symbolic else {}
        outputs = [item for way in (True, False) for item in gc.topk(node, k, axis, largest=way)]
        programs.append(Case(outputs, {node: values(shape, dtype)}, **sizes))
    run_all(programs, wide)
    for (_, axis, k), program in zip(cases, programs, strict=True):
        (x,) = program.feeds.values()
        for largest, (elements, order) in ((True, program.found[:2]), (False, program.found[2:])):
            np.testing.assert_array_equal(order, np.take(wanted_order(x, axis, largest), range(k), axis))
            assert elements.tobytes() == np.take_along_axis(x, order, axis).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_few_of_every_dtype(dtype: str) -> None:
    check_first(FIRST[:4] + CHOSEN[:1], dtype)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_the_first_few_of_long_lines(dtype: str) -> None:
    check_first(FIRST[4:] + CHOSEN, dtype)


def test_the_first_few_where_sizes_come_with_the_run() -> None:
    check_first([*FIRST, *CHOSEN[:3]], "float32", symbolic=True)
    check_first(CHOSEN[:1], "float32", symbolic=True, wide=True)


def test_equal_elements_are_chosen_in_their_order() -> None:
    x = np.full((2, 3 * PART), 7, np.int32)
    x[1, 5::1000] = 9
    node = gc.placeholder("x", x.shape, "int32")
    _, order = run(gc.topk(node, 100), {node: x})
    np.testing.assert_array_equal(order, wanted_order(x, 1, True)[:, :100])


def test_how_lines_are_sorted() -> None:
    def notes(size: Any, k: int | None = None) -> tuple[str, ...]:
        x = gc.placeholder("x", (4, size))
        (kernel,) = kernels_of(gc.argsort(x) if k is None else gc.topk(x, k)[1])
        return kernel.notes[:1]

    assert [notes(TILE), notes(TILE + 1), notes("n")] == [("bitonic",), *[("bitonic tiles, merged",)] * 2]
    assert [notes(TILE, 3), notes(9999, FEW), notes(9999, FEW + 1)] == [
        ("bitonic",),
        ("chosen by digits",),
        ("bitonic tiles, merged",),
    ]
