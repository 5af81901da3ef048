"""Gathers and scatters in CUDA C agree with NumPy, in the same order, and say when an index is out of range."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.op import Sample
from graphc.ops import indexing
from graphc.runtime.cuda.index import COMPARED, FEW, PART
from graphc.types import np_dtype
from tests.cuda_cores import kernels_of, run
from tests.cuda_host import needs_compiler

GATHERS = list(indexing._gathers(np.random.default_rng(0)))
SCATTERS = list(indexing._scatters(np.random.default_rng(0)))
DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool")

pytestmark = needs_compiler


def check(samples: list[Sample], op: Any, dtype: str, index: str, **how: Any) -> None:
    """Run samples with data and indices of these dtypes; positive ones where they have no sign."""
    data = 1 if op is indexing.gather_op else 2
    feeds, outputs, wanted = {}, [], []
    for number, sample in enumerate(samples):
        values = [(a * 4).astype(np_dtype(dtype)) for a in sample.args[:data]]
        indices = [(abs(a) if index == "uint8" else a).astype(index) for a in sample.args[data:]]
        arrays = [*values, *indices]
        nodes = [gc.placeholder(f"p{number}_{k}", a.shape, a.dtype.name) for k, a in enumerate(arrays)]
        feeds |= dict(zip(nodes, arrays, strict=True))
        outputs.append(op(*nodes, **sample.attrs))
        wide = [a.astype(np.float32) if dtype in ("float16", "bfloat16") else a for a in values]
        wanted.append(op.ref(*wide, *np.broadcast_arrays(*indices), **sample.attrs).astype(np_dtype(dtype)))
    for found, expected in zip(run(outputs, feeds, **how), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("wide", [False, True])
def test_samples(wide: bool) -> None:
    check(GATHERS, indexing.gather_op, "float32", "int64", wide=wide)
    check(SCATTERS, indexing.scatter_add_op, "float32", "int64", wide=wide)


@pytest.mark.parametrize("dtype", DTYPES)
def test_data_of_every_dtype(dtype: str) -> None:
    check(GATHERS, indexing.gather_op, dtype, "int64")
    if dtype != "bool":
        check(SCATTERS, indexing.scatter_add_op, dtype, "int64")


@pytest.mark.parametrize("index", ["int8", "uint8", "int16", "int32"])
def test_indices_of_every_dtype(index: str) -> None:
    check(GATHERS, indexing.gather_op, "float32", index)
    check(SCATTERS, indexing.scatter_add_op, "float32", index)


SIZES = [dict(n=5, m=40, k=FEW), dict(n=3, m=9, k=FEW + 1), dict(n=1, m=1, k=9), dict(n=4, m=3, k=0)]
SIZES += [dict(n=2, m=100, k=2500), dict(n=7, m=30, k=COMPARED), dict(n=3, m=50, k=1)]


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rows_of_their_own_indices(sizes: dict[str, int], symbolic: bool) -> None:
    n, m, k = sizes.values()
    rng = np.random.default_rng(1)
    x = rng.integers(-8, 9, (n, m)).astype(np.float32)  # whose sums are exact
    updates, index = rng.integers(-8, 9, (n, k)).astype(np.float32), rng.integers(-m, m, (n, k))
    of = ("n", "m", "k") if symbolic else (n, m, k)
    nodes = gc.placeholder("a", of[:2]), gc.placeholder("i", (of[0], of[2]), "int64"), gc.placeholder("u", of[::2])
    outputs = [gc.take_along_axis(nodes[0], nodes[1], 1), gc.scatter_add_along_axis(*nodes, axis=1)]
    feeds = dict(zip(nodes, (x, index, updates), strict=True))
    taken, added = run(outputs, feeds, **(sizes if symbolic else {}))
    np.testing.assert_array_equal(taken, np.take_along_axis(x, index, 1))
    total = x.copy()
    np.add.at(total, (np.arange(n)[:, None], index), updates)
    np.testing.assert_array_equal(added, total)


@pytest.mark.parametrize("columns", [1, 5, 16, 72])
def test_rows_of_a_table(columns: int) -> None:
    rng = np.random.default_rng(2)
    table, sent = rng.normal(size=(30, columns)).astype(np.float32), rng.normal(size=(7, 9, columns)).astype(np.float32)
    index = rng.integers(-30, 30, (7, 9))
    nodes = gc.placeholder("t", table.shape), gc.placeholder("g", sent.shape), gc.placeholder("i", (7, 9), "int64")
    outputs = [
        gc.embedding(nodes[2], nodes[0]) * 2,
        gc.embedding(nodes[2], nodes[0]),
        gc.scatter_add(gc.full(table.shape, 3.0), nodes[2], nodes[1], 0),
    ]
    doubled, found, gradient = run(outputs, dict(zip(nodes, (table, sent, index), strict=True)))
    np.testing.assert_array_equal(doubled, table[index] * 2)
    np.testing.assert_array_equal(found, table[index])
    wanted = np.full_like(table, 3)
    np.add.at(wanted, index, sent)
    np.testing.assert_array_equal(gradient, wanted)  # so few of a place are added in their order


@pytest.mark.parametrize("columns", [3, 16])
@pytest.mark.parametrize("dtype", DTYPES[:-1])
def test_many_updates_of_one_place_are_added_in_parts(dtype: str, columns: int) -> None:
    rng = np.random.default_rng(3)
    count = 5 * PART + 7
    index = np.sort(rng.integers(0, 3, count)) + 4
    index[::50] = -1
    sent = rng.integers(0, 3, (2, count, columns)).astype(np_dtype(dtype))
    x = np.ones((2, 9, columns), np_dtype(dtype))
    nodes = gc.placeholder("x", x.shape, dtype), gc.placeholder("u", sent.shape, dtype)
    i = gc.placeholder("i", (count,), "int64")
    (found,) = run([indexing.scatter_add_op(*nodes, i, axes=(1,))], {nodes[0]: x, nodes[1]: sent, i: index})
    total = x.astype(float)
    np.add.at(total, (slice(None), index), sent.astype(float))
    np.testing.assert_array_equal(found.astype(float), total)


def test_updates_that_are_views_are_added_as_they_lie() -> None:
    rng = np.random.default_rng(13)
    sent, index = rng.integers(-4, 5, (16, 100, 24)).astype(np.float32), rng.integers(-7, 7, 100)
    u, i, x = gc.placeholder("u", sent.shape), gc.placeholder("i", (100,), "int64"), gc.zeros((7, 8))
    cases = [(u[3, :, 8:16], sent[3, :, 8:16]), (u[3, :, 5:13], sent[3, :, 5:13])]
    cases += [(gc.transpose(u[:8, :, 2]), sent[:8, :, 2].T), (gc.flip(u[1, :, :8], 1), sent[1, :, 7::-1])]
    found = run([gc.scatter_add(x, i, view, 0) for view, _ in cases], {u: sent, i: index})
    for ours, (_, updates) in zip(found, cases, strict=True):
        wanted = np.zeros((7, 8), np.float32)
        np.add.at(wanted, index, updates)
        np.testing.assert_array_equal(ours, wanted)


def test_sums_of_halves_are_rounded_once() -> None:
    sent = np.full((60, 1), 2.0**-9, np.float16)
    nodes = gc.placeholder("u", sent.shape, "float16"), gc.placeholder("i", (60,), "int64")
    output = gc.scatter_add(gc.full((2, 1), 1.0, "float16"), nodes[1], nodes[0], 0)
    (found,) = run([output], {nodes[0]: sent, nodes[1]: np.zeros(60, np.int64)})
    np.testing.assert_array_equal(found, np.array([[1 + 60 * 2.0**-9], [1]], np.float16))


def test_two_indices_that_count_along_one_axis() -> None:
    x = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)
    node, u = gc.placeholder("x", (6, 6)), gc.placeholder("u", (6,))
    at = indexing.iota(length=6)
    outputs = [indexing.gather_op(node, at, at, axes=(0, 1)), indexing.scatter_add_op(node, u, at, at, axes=(0, 1))]
    diagonal, added = run(outputs, {node: x, u: np.arange(6, dtype=np.float32)})
    np.testing.assert_array_equal(diagonal, x.diagonal())
    np.testing.assert_array_equal(added, x + np.diag(np.arange(6, dtype=np.float32)))


def test_several_indices_and_axes_that_are_not_indexed() -> None:
    rng = np.random.default_rng(8)
    x, sent = rng.integers(-4, 5, (3, 4, 5, 2)).astype(np.float32), rng.integers(-4, 5, (3, 70, 2)).astype(np.float32)
    first, second = rng.integers(-4, 4, 70), rng.integers(0, 5, 70).astype(np.int32)
    nodes = [gc.placeholder(f"p{k}", a.shape, a.dtype.name) for k, a in enumerate((x, sent, first, second))]
    outputs = [
        indexing.scatter_add_op(*nodes, axes=(1, 2)),
        indexing.gather_op(nodes[0], *nodes[2:], axes=(1, 2)) + nodes[1],
    ]
    added, taken = run(outputs, dict(zip(nodes, (x, sent, first, second), strict=True)))
    np.testing.assert_array_equal(taken, x[:, first, second] + sent)
    np.add.at(x, (slice(None), first, second), sent)
    np.testing.assert_array_equal(added, x)


@pytest.mark.parametrize("wrong", [5, -6, 2**62, -(2**62)])
@pytest.mark.parametrize("count", [3, 20, 70, 3000])
def test_an_index_out_of_range_sets_the_flag(wrong: int, count: int) -> None:
    index = np.random.default_rng(4).integers(-5, 5, count)
    index[count // 2] = wrong
    x, i, u = gc.placeholder("x", (5, 3)), gc.placeholder("i", (count,), "int64"), gc.placeholder("u", (count, 3))
    feeds = {x: np.zeros((5, 3), np.float32), i: index, u: np.zeros((count, 3), np.float32)}
    for output in (gc.take(x, i, 0), gc.scatter_add(x, i, u, 0)):
        with pytest.raises(IndexError):
            run([output], feeds)


def test_nothing_can_be_taken_from_nothing() -> None:
    x, i, u = gc.placeholder("x", (0, 3)), gc.placeholder("i", (40,), "int64"), gc.placeholder("u", (40, 3))
    feeds = {x: np.zeros((0, 3), np.float32), i: np.zeros(40, np.int64), u: np.zeros((40, 3), np.float32)}
    for output in (gc.take(x, i, 0), gc.scatter_add(x, i, u, 0)):
        with pytest.raises(IndexError):
            run([output], feeds)


def test_updates_of_no_columns_are_looked_at() -> None:
    x, u = gc.placeholder("x", (5, "n")), gc.placeholder("u", (3, "n"))
    i = gc.placeholder("i", (3,), "int64")
    feeds = {x: np.zeros((5, 0), np.float32), u: np.zeros((3, 0), np.float32), i: np.array([0, 5, 0])}
    with pytest.raises(IndexError):
        run([gc.scatter_add(x, i, u, 0)], feeds, n=0)


def test_how_updates_are_added() -> None:
    def note(count: Any, dtype: str = "float32") -> str:
        i, u = gc.placeholder("i", (4, count), dtype="int64"), gc.placeholder("u", (4, count), dtype)
        (kernel,) = kernels_of(gc.scatter_add_along_axis(gc.placeholder("x", (4, 9), dtype), i, u, axis=1))
        assert kernel.fails
        return kernel.notes[-1]

    assert [note(COMPARED), note(FEW), note(FEW, "float16"), note("k")] == [
        "the updates of an element a thread",
        "the updates of a slice a thread",
        "updates sorted by place",
        "updates sorted by place",
    ]


def test_what_follows_a_scatter_of_few_updates_is_computed_at_once() -> None:
    x = np.random.default_rng(12).normal(size=(6, 10)).astype(np.float32)
    node, i = gc.placeholder("x", x.shape), gc.placeholder("i", (6, 1), "int64")
    output = gc.scatter_add_along_axis(gc.zeros(x.shape), i, gc.full((6, 1), 2.0), axis=1) - node
    index = np.arange(6)[:, None] % 10
    (found,) = run([output], {node: x, i: index})
    np.testing.assert_array_equal(found, np.eye(6, 10, dtype=np.float32) * 2 - x)
    (kernel,) = kernels_of(output)
    assert len(kernel.launches) == 1


def test_indices_that_only_count_need_no_flag() -> None:
    x, at = gc.placeholder("x", (6, 6)), indexing.iota(length=6)
    (kernel,) = kernels_of(indexing.gather_op(x, at, axes=(0,)))
    assert not kernel.fails


@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_what_follows_takes_the_elements_at_once(dtype: str) -> None:
    rng = np.random.default_rng(6)
    table, added = rng.integers(0, 2, (9, 37)).astype(np_dtype(dtype)), rng.normal(size=(5, 37)).astype(np.float32)
    index = rng.integers(-9, 9, (3, 5))
    nodes = gc.placeholder("t", ("v", 37), dtype), gc.placeholder("a", (5, "c")), gc.placeholder("i", (3, 5), "int64")
    output = gc.where(nodes[1] > 0, gc.cast(gc.take(nodes[0], nodes[2], 0), "float32"), nodes[1])
    (found,) = run([output], dict(zip(nodes, (table, added, index), strict=True)), v=9, c=37)
    np.testing.assert_array_equal(found, np.where(added > 0, table[index].astype(np.float32), added))
    assert len(kernels_of(output)) == 1


def test_views_are_read_as_they_lie() -> None:
    rng = np.random.default_rng(5)
    x, index = rng.normal(size=(9, 4, 20)).astype(np.float32), rng.integers(0, 4, (20, 11))
    node, i = gc.placeholder("x", x.shape), gc.placeholder("i", index.shape, "int64")
    turned = gc.permute_dims(node, (2, 1, 0))
    (found,) = run([gc.take(turned, gc.flip(i, 0)[3], 1)], {node: x, i: index})
    np.testing.assert_array_equal(found, x.transpose(2, 1, 0)[:, index[16]])


def test_neighbours_are_copied_at_once_where_they_are_aligned() -> None:
    def note(columns: Any, dtype: str = "float32") -> str:
        table, i = gc.placeholder("t", (50, columns), dtype), gc.placeholder("i", (7,), "int64")
        (kernel,) = kernels_of(gc.take(table, i, 0))
        return kernel.notes[0]

    assert [note(64), note(6), note(7), note(64, "int8"), note("n")] == [
        "4 elements a thread",
        "2 elements a thread",
        "an element a thread",
        "16 elements a thread",
        "an element a thread",
    ]
