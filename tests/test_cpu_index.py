"""Gathers and scatters in native code agree with NumPy, and say when an index is out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.op import Sample
from graphc.ops import indexing
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu import index as index_room
from graphc.runtime.cpu.target import CpuTarget
from graphc.types import np_dtype
from tests.cpu_cores import INFO, WIDTHS, FailedError, assemble, host_of, native, run
from tests.plan_testing import prepared

GATHERS = list(indexing._gathers(np.random.default_rng(0)))
SCATTERS = list(indexing._scatters(np.random.default_rng(0)))
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool")


def check(sample: Sample, op: Any, dtype: str, index: str, **how: Any) -> None:
    """Run a sample with data and indices of these dtypes; positive ones where they have no sign."""
    data = 1 if op is indexing.gather_op else 2
    values = [(a * 4).astype(np_dtype(dtype)) for a in sample.args[:data]]
    indices = [(abs(a) if index == "uint8" else a).astype(index) for a in sample.args[data:]]
    nodes = [gc.placeholder(f"p{k}", a.shape, a.dtype.name) for k, a in enumerate([*values, *indices])]
    (found,) = run([op(*nodes, **sample.attrs)], dict(zip(nodes, [*values, *indices], strict=True)), **how)
    wanted = op.ref(*values, *np.broadcast_arrays(*indices), **sample.attrs)
    if op is indexing.scatter_add_op and dtype in ("float16", "bfloat16"):
        wide = [a.astype(np.float32) for a in values]
        wanted = op.ref(*wide, *np.broadcast_arrays(*indices), **sample.attrs).astype(np_dtype(dtype))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("number", range(len(GATHERS)))
def test_samples(number: int, width: int) -> None:
    check(GATHERS[number], indexing.gather_op, "float32", "int64", host=host_of(width), parts=3)
    check(SCATTERS[number], indexing.scatter_add_op, "float32", "int64", host=host_of(width), parts=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_of_every_dtype(dtype: str) -> None:
    for number in (0, 1, 3):
        check(GATHERS[number], indexing.gather_op, dtype, "int64")
        if dtype != "bool":
            check(SCATTERS[number], indexing.scatter_add_op, dtype, "int64")


@pytest.mark.parametrize("index", ["int8", "uint8", "int16", "int32"])
def test_indices_of_every_dtype(index: str) -> None:
    for number in (0, 1, 3, 4):
        check(GATHERS[number], indexing.gather_op, "float32", index)
        check(SCATTERS[number], indexing.scatter_add_op, "float32", index)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sizes", [dict(n=5, m=40, k=33), dict(n=1, m=1, k=9), dict(n=4, m=3, k=0)], ids=str)
def test_rows_of_their_own_indices(sizes: dict[str, int], width: int) -> None:
    n, m, k = sizes.values()
    rng = np.random.default_rng(1)
    x, updates = rng.normal(size=(n, m)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
    index = rng.integers(-m, m, (n, k))
    a, i, u = gc.placeholder("a", ("n", "m")), gc.placeholder("i", ("n", "k"), "int64"), gc.placeholder("u", ("n", "k"))
    outputs = [gc.take_along_axis(a, i, 1), gc.scatter_add_along_axis(a, i, u, axis=1)]
    taken, added = run(outputs, {a: x, i: index, u: updates}, host=host_of(width), parts=2, **sizes)
    np.testing.assert_array_equal(taken, np.take_along_axis(x, index, 1))
    np.add.at(x, (np.arange(n)[:, None], index), updates)
    np.testing.assert_array_equal(added, x)


@pytest.mark.parametrize("columns", [1, 5, 16, 70, 300])
@pytest.mark.parametrize("parts", [1, 4])
def test_rows_of_a_table(columns: int, parts: int) -> None:
    rng = np.random.default_rng(2)
    table, sent = rng.normal(size=(30, columns)).astype(np.float32), rng.normal(size=(7, 9, columns)).astype(np.float32)
    index = rng.integers(-30, 30, (7, 9))
    nodes = gc.placeholder("t", table.shape), gc.placeholder("g", sent.shape), gc.placeholder("i", (7, 9), "int64")
    outputs = [gc.embedding(nodes[2], nodes[0]) * 2, gc.scatter_add(gc.full(table.shape, 3.0), nodes[2], nodes[1], 0)]
    found, gradient = run(outputs, dict(zip(nodes, (table, sent, index), strict=True)), parts=parts)
    np.testing.assert_array_equal(found, table[index] * 2)
    wanted = np.full_like(table, 3)
    np.add.at(wanted, index, sent)
    np.testing.assert_array_equal(gradient, wanted)


@pytest.mark.parametrize("width", WIDTHS)
def test_many_updates_are_added_to_rows_that_were_copied_before(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(index_room, "MANY", 0)
    for number in range(len(SCATTERS)):
        for dtype in ("float32", "bfloat16", "int8"):
            check(SCATTERS[number], indexing.scatter_add_op, dtype, "int64", host=host_of(width), parts=3)
    for columns in (1, 70, 300):
        for parts in (1, 4):
            test_rows_of_a_table(columns, parts)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all scatters of rows list their updates."""
    for name in ("MANY", "LISTED", "LISTED_ROW"):
        monkeypatch.setattr(index_room, name, 0)


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_added_up_from_lists_of_their_updates(width: int) -> None:
    for number in range(len(SCATTERS)):
        for dtype in ("float32", "float64", "bfloat16", "int8"):
            check(SCATTERS[number], indexing.scatter_add_op, dtype, "int32", host=host_of(width), parts=3)
    for columns in (1, 16, 70, 300):
        for parts in (1, 4):
            test_rows_of_a_table(columns, parts)


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sizes", [(30, 7, 45), (4, 3, 0), (1, 90, 300), (0, 0, 20), (5, 0, 37)], ids=str)
def test_listed_updates_of_sizes_that_come_with_the_run(sizes: tuple[int, int, int], width: int) -> None:
    """Once spread over the rows, once all of one row, in which their order counts."""
    rows, count, columns = sizes
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    sent = (10.0 ** rng.integers(-6, 6, (count, columns))).astype(np.float32)
    nodes = gc.placeholder("x", ("n", "m")), gc.placeholder("i", ("k",), "int64"), gc.placeholder("u", ("k", "m"))
    for index in (rng.integers(-rows, max(rows, 1), count), np.zeros(count, np.int64)):
        feeds = dict(zip(nodes, (x, index, sent), strict=True))
        known = dict(n=rows, m=columns, k=count)
        (found,) = run([gc.scatter_add(*nodes)], feeds, host=host_of(width), parts=3, **known)
        wanted = x.copy()
        np.add.at(wanted, index, sent)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("width", WIDTHS)
def test_listed_updates_of_a_batch_that_is_counted(width: int) -> None:
    rng = np.random.default_rng(6)
    x, index = rng.normal(size=(3, 8, 37)).astype(np.float32), rng.integers(-8, 8, (3, 20))
    sent = rng.normal(size=(3, 20, 37)).astype(np.float32)
    nodes = gc.placeholder("x", x.shape), gc.placeholder("i", index.shape, "int64"), gc.placeholder("u", sent.shape)
    batch = gc.broadcast_to(gc.arange(3).reshape(3, 1), (3, 20))
    added = indexing.scatter_add_op(nodes[0], nodes[2], batch, nodes[1], axes=(0, 1))
    (found,) = run([added], dict(zip(nodes, (x, index, sent), strict=True)), host=host_of(width), parts=2)
    np.add.at(x, (np.arange(3)[:, None], index), sent)
    np.testing.assert_array_equal(found, x)


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize("wrong", [5, -6, 2**62])
def test_an_index_out_of_range_is_never_listed(wrong: int) -> None:
    test_an_index_out_of_range_fails_before_anything_is_written(wrong, 20)


def test_much_data_in_long_rows_is_added_up_from_lists() -> None:
    def workspace(*shape: int) -> Any:
        nodes = gc.placeholder("x", shape), gc.placeholder("i", (40,), "int64")
        updates = gc.placeholder("u", (40, *shape[1:]))
        (step,) = plan_kernels(prepared([gc.scatter_add(*nodes, updates)], info=INFO), INFO).steps
        return native(step.kernel, host_of(64)).workspace

    assert workspace(20000, 64) == 8 * (20000 + 40)
    assert workspace(80000, 16) == workspace(40, 64) == 0


LINES = [(), (37,), (37, 1), (1, 37, 1, 1), (3, 70, 1), (1, 1), (0, 1), (2, 0)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", LINES, ids=str)
def test_lines_of_indices_are_read_in_parts(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], width: int
) -> None:
    monkeypatch.setattr(index_room, "LINE", 32)
    monkeypatch.setattr(index_room, "CHECKED", 8)
    rng = np.random.default_rng(7)
    x, index = rng.normal(size=40).astype(np.float32), rng.integers(-40, 40, shape)
    a, i = gc.placeholder("a", x.shape), gc.placeholder("i", shape, "int64")
    outputs = [gc.take(a, i, 0), gc.take(a, gc.permute_dims(i, range(len(shape))[::-1]), 0) * 2]
    taken, turned = run(outputs, {a: x, i: index}, host=host_of(width), parts=3)
    np.testing.assert_array_equal(taken, x[index])
    np.testing.assert_array_equal(turned, x[index.T] * 2)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", [shape for shape in LINES if shape], ids=str)
def test_lines_of_counters_and_indices_are_read_in_parts(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], width: int
) -> None:
    monkeypatch.setattr(index_room, "LINE", 32)
    rng = np.random.default_rng(8)
    x, index = rng.normal(size=(*shape[:-1], 9)).astype(np.float32), rng.integers(-9, 9, shape)
    a, i = gc.placeholder("a", x.shape), gc.placeholder("i", shape, "int64")
    (found,) = run([gc.take_along_axis(a, i, -1)], {a: x, i: index}, host=host_of(width), parts=3)
    np.testing.assert_array_equal(found, np.take_along_axis(x, index, -1))


@pytest.mark.parametrize("shape", [(37, 1), (1, 37), (4, 9, 1)], ids=str)
@pytest.mark.parametrize("place", [0, 8, 35])
def test_an_index_out_of_range_is_found_along_every_axis(shape: tuple[int, ...], place: int) -> None:
    index = np.zeros(shape, np.int64)
    index.flat[place] = 5
    x, i = gc.placeholder("x", (5,)), gc.placeholder("i", shape, "int64")
    for indices in (i, gc.permute_dims(i, range(len(shape))[::-1]), i[::-1]):
        with pytest.raises(FailedError, match="phase0"):
            run([gc.take(x, indices, 0)], {x: np.zeros(5), i: index})


def test_two_indices_that_count_along_one_axis() -> None:
    x = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)
    node, u = gc.placeholder("x", (6, 6)), gc.placeholder("u", (6,))
    at = indexing.iota(length=6)
    outputs = [indexing.gather_op(node, at, at, axes=(0, 1)), indexing.scatter_add_op(node, u, at, at, axes=(0, 1))]
    diagonal, added = run(outputs, {node: x, u: np.arange(6, dtype=np.float32)}, parts=2)
    np.testing.assert_array_equal(diagonal, x.diagonal())
    np.testing.assert_array_equal(added, x + np.diag(np.arange(6, dtype=np.float32)))


@pytest.mark.parametrize("wrong", [5, -6, 2**62, -(2**62)])
@pytest.mark.parametrize("place", [0, 20, 36])
def test_an_index_out_of_range_fails_before_anything_is_written(wrong: int, place: int) -> None:
    index = np.random.default_rng(4).integers(-5, 5, 37)
    index[place] = wrong
    x, i, u = gc.placeholder("x", (5, 3)), gc.placeholder("i", (37,), "int64"), gc.placeholder("u", (37, 3))
    feeds = {x: np.zeros((5, 3)), i: index, u: np.zeros((37, 3))}
    for output in (gc.take(x, i, 0), gc.scatter_add(x, i, u, 0)):
        with pytest.raises(FailedError, match="phase0"):
            run([output], feeds)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_what_follows_reads_the_rows_where_they_lie(dtype: str, width: int) -> None:
    rng = np.random.default_rng(6)
    table, added = rng.integers(0, 2, (9, 37)).astype(np_dtype(dtype)), rng.normal(size=(5, 37)).astype(np.float32)
    index = rng.integers(-9, 9, (3, 5))
    nodes = gc.placeholder("t", ("v", 37), dtype), gc.placeholder("a", (5, "c")), gc.placeholder("i", (3, 5), "int64")
    feeds = dict(zip(nodes, (table, added, index), strict=True))
    (found,) = run(
        [gc.where(nodes[1] > 0, gc.cast(gc.take(nodes[0], nodes[2], 0), "float32"), nodes[1])],
        feeds,
        host=host_of(width),
        parts=2,
        v=9,
        c=37,
    )
    np.testing.assert_array_equal(found, np.where(added > 0, table[index].astype(np.float32), added))


def test_views_are_read_as_they_lie() -> None:
    rng = np.random.default_rng(5)
    x, index = rng.normal(size=(9, 4, 20)).astype(np.float32), rng.integers(0, 4, (20, 11))
    node, i = gc.placeholder("x", x.shape), gc.placeholder("i", index.shape, "int64")
    turned = gc.permute_dims(node, (2, 1, 0))
    (found,) = run([gc.take(turned, gc.flip(i, 0)[3], 1)], {node: x, i: index})
    np.testing.assert_array_equal(found, x.transpose(2, 1, 0)[:, index[16]])


def test_the_target_never_stores_an_index_that_only_counts() -> None:
    x, i = gc.placeholder("x", (5, 40)), gc.placeholder("i", (5, 3), "int64")
    u = gc.placeholder("u", (5, 3))
    outputs = [gc.take_along_axis(x, i, 1), gc.scatter_add_along_axis(x, i, u, axis=1)]
    assert len(plan_kernels(prepared(outputs, info=CpuTarget.info), CpuTarget.info).steps) == len(outputs)


def test_other_machines() -> None:
    x, i = gc.placeholder("x", ("n", 7), "float16"), gc.placeholder("i", ("n", "k"), "int32")
    assert assemble(gc.take_along_axis(x, i, 1)) == 1
    u = gc.placeholder("u", ("n", "k"), "float16")
    assert assemble(gc.scatter_add_along_axis(x, i, u, axis=1)) == 1
    table, j = gc.placeholder("t", ("v", 100)), gc.placeholder("j", (5,), "uint8")
    assert assemble(gc.take(table, j, 0)) == 1
