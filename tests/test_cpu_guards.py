"""Selections by where an element is: only what a lane takes is computed and read."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.kernel import Region
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu.guards import counted, guards_of
from graphc.types import np_dtype
from tests.cpu_cores import INFO, WIDTHS, host_of, native, run
from tests.plan_testing import prepared

DTYPES = ("float64", "float32", "bfloat16", "int8", "bool")
SHAPES = [(1, 1), (0, 7), (5, 37), (40, 33), (3, 64, 64), (70, 20)]


def values(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    return (np.random.default_rng(len(shape)).normal(0, 2, shape) + 1).astype(np_dtype(dtype))


def region_of(output: Any) -> Region:
    (step,) = plan_kernels(prepared([output], info=INFO), INFO).steps
    (region,) = step.kernel.results
    return region


def guarded(output: Any) -> list[str]:
    return sorted(node.op.name for nodes in guards_of(region_of(output)).values() for node in nodes)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_triangles(shape: tuple[int, ...], dtype: str, width: int) -> None:
    array = values(shape, dtype)
    x = gc.placeholder("x", shape, dtype)
    wanted = [np.where(np.tri(*shape[-2:], k, dtype=bool), array, array.dtype.type(0)) for k in (0, -3, 40)]
    wanted += [np.where(np.tri(*shape[-2:], k - 1, dtype=bool), array.dtype.type(0), array) for k in (0, 2)]
    found = run(
        [*(gc.tril(x, k) for k in (0, -3, 40)), *(gc.triu(x, k) for k in (0, 2))], {x: array}, host=host_of(width)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_isnt_taken_leaves_no_trace_and_what_is_keeps_its_bits(width: int) -> None:
    array = values((40, 40))
    array[0], array[1], array[2], array[3] = np.nan, np.inf, -np.inf, -0.0
    x = gc.placeholder("x", array.shape)
    (found,) = run([gc.triu(x, 3)], {x: array}, host=host_of(width))
    np.testing.assert_array_equal(found.view(np.int32), np.triu(array, 3).view(np.int32))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sizes", [dict(n=37, m=21), dict(n=3, m=90), dict(n=0, m=4)], ids=str)
def test_selections_within_each_other_of_sizes_that_come_with_the_run(sizes: dict[str, int], width: int) -> None:
    array = values(tuple(sizes.values()))
    x, y = gc.placeholder("x", ("n", "m")), gc.placeholder("y", ("n", "m"))
    rows, columns = gc.arange(x.shape[0]).reshape(-1, 1), gc.arange(x.shape[1])
    inner = gc.where(columns < 17, gc.abs(x), y * 3)
    (found,) = run([gc.where(rows >= columns, inner + x, y)], {x: array, y: 2 * array}, host=host_of(width), **sizes)
    i, j = np.indices(array.shape)
    wanted = np.where(i >= j, np.where(j < 17, np.abs(array), 2 * array * 3) + array, 2 * array)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_is_read_where_a_lane_takes_it_and_nowhere_else(width: int) -> None:
    x = gc.placeholder("x", (64, 64))
    (step,) = plan_kernels(prepared([gc.triu(x)], info=INFO), INFO).steps
    assembly = native(step.kernel, host_of(width)).assembly
    found = re.findall(r"(%\w+) = call i1 @llvm.vector.reduce.or[^\n]*\n\s*br i1 (%\w+), label %(\w+),", assembly)
    blocks = dict(re.findall(r"^(\w+):\n(.*?)(?=^\w+:\n|\Z)", assembly, re.MULTILINE | re.DOTALL))
    reading = [label for label, code in blocks.items() if "= load <" in code]
    assert reading and reading == [label for any_lane, condition, label in found if any_lane == condition]


def test_guarded_is_what_one_side_alone_needs() -> None:
    x, y = gc.placeholder("x", (40, 40)), gc.placeholder("y", (40, 40))
    rows, columns = gc.arange(40).reshape(-1, 1), gc.arange(40)
    lower = rows >= columns
    assert guarded(gc.where(lower, gc.exp(x), 0)) == ["exp", "parameter"]
    assert guarded(gc.where(lower, x, y)) == ["parameter"]
    assert guarded(gc.where(lower, x, 0) + x) == []
    assert guarded(gc.where(lower, gc.exp(x), x)) == []  # whose operand is read in any case
    assert guarded(gc.where(x > 0, y, 0)) == []
    assert guarded(gc.where(lower, 2, x)) == []


def test_counted_values_are_made_of_counters_and_numbers() -> None:
    x = gc.placeholder("x", (40, 40))
    region = region_of(gc.where(gc.arange(40).reshape(-1, 1) + gc.arange(40) >= 7, gc.exp(x), 0))
    names = {node.op.name for node in counted(region)}
    assert {"add", "greater_equal"} < names and not {"exp", "where"} & names
