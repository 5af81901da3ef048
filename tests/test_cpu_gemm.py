"""Products of matrices as native code: they are NumPy's, for every shape, layout, dtype and width of vectors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import cpu_gemm
import ml_dtypes
import numpy as np
import pytest
from cpu_gemm import INFO, called, load, run
from plan_testing import prepared

import graphc as gc
from graphc.dims import symbol
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu import microkernels
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.gemm import CORES, library
from graphc.runtime.cpu.host import HOSTS, narrowed, this_host
from graphc.runtime.cpu.jit import compiled
from graphc.runtime.cpu.kernels import native_kernel
from graphc.runtime.cpu.microkernels import tile
from graphc.runtime.cpu.values import Value

WIDTHS = [width for width in (64, 32, 16) if width <= this_host().vector_bytes]
HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SHAPES = [
    (1, 1, 1), (1, 64, 64), (2, 9, 40), (3, 300, 17), (4, 70, 33), (5, 17, 1), (300, 21, 1), (11, 1, 3), (13, 65, 31),
    (14, 33, 64), (29, 100, 47), (33, 270, 20), (130, 33, 70), (170, 40, 100), (0, 3, 2), (3, 0, 2), (2, 3, 0),
    (130, 3, 0),
]  # fmt: skip
LAYOUTS = ("nn", "tn", "nt", "tt", "ss", "ff")  # normal, transposed, strided, flipped


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Random numbers; of integers small ones, so that some products wrap and others don't."""
    if dtype == "bool":
        return rng.random(shape) < 0.2
    if "int" in dtype:
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(HALVES.get(dtype, dtype))


def operand(name: str, shape: tuple[int, ...], layout: str, dtype: str) -> tuple[Any, Any, tuple[int, ...]]:
    """A matrix in a layout, the placeholder of which it is a view, and the shape of that."""
    *batch, rows, columns = shape
    given = {"n": (*batch, rows, columns), "t": (*batch, columns, rows), "s": (*batch, 2 * rows, 3 * columns)}.get(
        layout, shape
    )
    x = gc.placeholder(name, given, dtype)
    views = {"n": x, "t": gc.matrix_transpose(x), "s": x[..., ::2, ::3], "f": x[..., ::-1, ::-1]}
    return views[layout], x, given


def product(
    m: int, k: int, n: int, layout: str, dtype: str, width: int = 64, parts: int = 1, cores: int = 1
) -> tuple[Any, Any]:
    """A product as native code, and by NumPy in double precision where that is exacter."""
    rng = np.random.default_rng(m + k + n)
    (a, x, x_shape), (b, y, y_shape) = operand("x", (m, k), layout[0], dtype), operand("y", (k, n), layout[1], dtype)
    feeds = {x: numbers(rng, x_shape, dtype), y: numbers(rng, y_shape, dtype)}
    (found,) = run([a @ b], feeds, host=replace(narrowed(this_host(), width), cores=cores), parts=parts)
    views = {"n": lambda v: v, "t": lambda v: v.T, "s": lambda v: v[::2, ::3], "f": lambda v: v[::-1, ::-1]}
    left, right = views[layout[0]](feeds[x]), views[layout[1]](feeds[y])
    if dtype in ("float32", *HALVES):
        left, right = left.astype(np.float64), right.astype(np.float64)
    return found, left @ right


def check(m: int, k: int, n: int, layout: str, dtype: str, width: int = 64, parts: int = 1) -> None:
    """Assert that a product is as exact as its dtype allows, and integers and booleans are equal."""
    found, wanted = product(m, k, n, layout, dtype, width, parts)
    assert found.shape == wanted.shape
    if dtype in ("float32", "float64"):
        tolerance = 1e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * (k + 1) ** 0.5)
    elif dtype in HALVES:
        rounded = wanted.astype(HALVES[dtype]).astype(np.float64)
        step = np.spacing(np.abs(rounded).astype(np.float16)).astype(np.float64) if dtype == "float16" else 0.01
        np.testing.assert_allclose(found.astype(np.float64), rounded, rtol=0.01, atol=np.max(step, initial=1e-3))
    else:
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_layouts(shape, layout):
    check(*shape, layout, "float32")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_widths_of_vectors(width, dtype, layout):
    for shape in ((1, 50, 37), (4, 19, 21), (19, 70, 37), (170, 40, 37)):
        check(*shape, layout, dtype, width)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_dtypes(dtype):
    for layout in LAYOUTS:
        for shape in ((1, 50, 37), (13, 70, 37), (170, 5, 9), (3, 0, 2)):
            check(*shape, layout, dtype)


@pytest.mark.parametrize("width", WIDTHS)
def test_all_remainders_of_tiles(width):
    """Of known sizes, whose kernels have the tiles that occur alone."""
    for m in (1, 13, 15, 28):
        for n in (1, 7, 16, 17, 31, 32, 33, 63):
            check(m, 3, n, "nn" if m % 2 else "tn", "float32", width)
        for n in (1, 3, 8, 9):
            check(m, 2 * width, n, "nt", "float32", width)


@pytest.mark.parametrize(
    ("shape", "layout", "wanted"),
    [
        ((18, 16, 1000), "nn", ["masked.2.1", "masked.7.1", "tile.9.2"]),  # two panels of 9 rows, 31 whole strips
        ((31, 16, 24), "nn", ["masked.2.2", "masked.4.2", "masked.7.2"]),  # panels of 11, 11 and 9 rows
        ((31, 16, 64), "nn", ["tile.11.2", "tile.9.2"]),
        ((460, 40, 1024), "nn", ["tile.11.2", "tile.13.2"]),  # units of 115 rows, in panels of 13 and one of 11
        ((16, 512, 64), "nt", ["inner.1.8", "inner.3.8"]),
        ((2, 512, 67), "nt", ["inner.2.1", "inner.2.8"]),
        ((1, 16, 64), "nn", []),
    ],
)
def test_kernels_call_the_tiles_alone_that_occur(shape, layout, wanted):
    assert sorted(tiles_called(*shape, layout)) == wanted


def test_kernels_of_unknown_sizes_call_all_tiles():
    found = tiles_called("m", 16, "n", "nn")
    assert len(found) == len(set(found)) == 14 + 2 * 7


def tiles_called(m: Any, k: Any, n: Any, layout: str) -> list[str]:
    """The tiles of a product with vectors of 512 bits: kind, rows and vectors (of `inner`, columns)."""
    a = gc.placeholder("a", (m, k))
    b = gc.placeholder("b", (k, n)) if layout == "nn" else gc.matrix_transpose(gc.placeholder("b", (n, k)))
    (step,) = plan_kernels(prepared([a @ b], info=INFO), INFO).steps
    native = native_kernel(step.kernel, HOSTS["avx512"], CORES)
    assert native is not None
    parts = [name.split(".") for name in called(native.assembly)]
    return [".".join([kind, *sizes[-2:]]) for kind, *sizes, _ in parts if kind in ("tile", "masked", "inner")]


def test_b_that_is_read_once_from_afar():
    """By units of many columns, whose last is narrower; and few columns, by units of fewer rows."""
    for m in (1, 3, 9, 60):
        check(m, 500, 900, "nn", "float32")
    check(500, 40, 60, "nt", "float32")
    for layout in ("nn", "tn"):
        check(300, 500, 620, layout, "float32")
        for rows in (9, 300):
            once, _ = product(rows, 500, 620, layout, "float32")
            assert once.tobytes() == product(rows, 500, 620, layout, "float32", parts=2)[0].tobytes()


def test_many_blocks_of_k():
    check(60, 600, 40, "nn", "float32")
    check(60, 300, 60, "nn", "int32")
    check(20, 1500, 40, "nn", "float32")
    check(200, 1100, 40, "nt", "float64")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_units_pack_their_rows_of_a(layout):
    for shape in ((170, 60, 257), (230, 600, 300)):
        for width in WIDTHS:
            check(*shape, layout, "float32", width)
        check(*shape, layout, "float64")
    check(150, 70, 270, layout, "float16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_units_have_all_columns_of_b_where_that_stays_in_the_cache(layout):
    """However A is read; the last shape has too many columns."""
    for shape in ((130, 70, 260), (150, 20, 1030), (300, 33, 770), (120, 9, 2060)):
        for width in WIDTHS:
            check(*shape, layout, "float32", width)
        check(*shape, layout, "float64", parts=2)
    check(130, 20, 600, layout, "float16")
    check(130, 20, 600, layout, "int32")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_units_have_all_columns_where_a_has_many_rows(layout):
    """B is read as it lies or packed before, by the number of rows; the columns of the last shape are too many."""
    for shape in ((460, 300, 530), (690, 40, 700), (470, 20, 2100)):
        check(*shape, layout, "float32", parts=2)
    for width in WIDTHS[1:]:
        check(460, 70, 530, layout, "float32", width)
    check(460, 20, 530, layout, "float64")
    check(460, 20, 530, layout, "float16", parts=3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_cores_for_which_units_are_made(layout):
    for shape in ((690, 300, 530), (300, 300, 300)):
        once, _ = product(*shape, layout, "float32")
        assert all(once.tobytes() == product(*shape, layout, "float32", cores=c)[0].tobytes() for c in (6, 64))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_few_long_rows_of_a_that_stay_in_the_cache(layout):
    """As they lie, and 4096 bytes apart; blocks of k are whole squares but for the last."""
    for shape in ((64, 790, 260), (64, 1024, 260), (20, 1500, 270)):
        check(*shape, layout, "float32", parts=2)
    check(64, 790, 260, layout, "float32", width=16)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_how_units_are_divided(layout):
    for shape in ((1, 300, 700), (170, 60, 300), (300, 40, 1), (230, 600, 300), (170, 30, 1030), (64, 790, 260)):
        once, _ = product(*shape, layout, "float32")
        divided, _ = product(*shape, layout, "float32", parts=3)
        assert once.tobytes() == divided.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "sizes", [(1, 30, 40), (4, 30, 40), (9, 30, 40), (60, 600, 40), (200, 30, 41), (0, 3, 2), (3, 0, 2), (3, 2, 0)]
)
def test_sizes_known_when_it_runs(layout, sizes):
    rows, inner, columns = symbol("rows"), symbol("inner"), symbol("columns")
    rng = np.random.default_rng(0)
    m, k, n = sizes
    x = gc.placeholder("x", (rows, inner) if layout[0] != "t" else (inner, rows))
    y = gc.placeholder("y", (inner, columns) if layout[1] != "t" else (columns, inner))
    a, b = (gc.matrix_transpose(v) if of == "t" else v for v, of in zip((x, y), layout, strict=True))
    feeds = {x: numbers(rng, (m, k), "float32"), y: numbers(rng, (k, n), "float32")}
    wanted = feeds[x].astype(np.float64) @ feeds[y]
    feeds = {x: feeds[x].T if layout[0] == "t" else feeds[x], y: feeds[y].T if layout[1] == "t" else feeds[y]}
    (found,) = run([a @ b], feeds, rows=m, inner=k, columns=n)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_batches_and_what_is_broadcast_over_them():
    rng = np.random.default_rng(0)
    count = symbol("count")
    for x_shape, y_shape in (
        ((3, 1, 5, 7), (4, 7, 9)),
        ((4, 30, 8), (8, 40)),
        ((2, 3, 1, 6), (3, 6, 1)),
        ((2, 3, 1, 6), (6, 5)),
        ((3, 4, 5), (5, 1)),
    ):
        for dtype in ("float32", "float16", "int32"):
            x, y = gc.placeholder("x", x_shape, dtype), gc.placeholder("y", y_shape, dtype)
            feeds = {x: numbers(rng, x_shape, dtype), y: numbers(rng, y_shape, dtype)}
            wanted = (feeds[x].astype(np.float64) @ feeds[y].astype(np.float64)).astype(np.float32)
            (found,) = run([x @ y], feeds, parts=2)
            np.testing.assert_allclose(
                found.astype(np.float32),
                wanted,
                rtol=1e-2 if dtype == "float16" else 1e-5,
                atol=1e-2 if dtype == "float16" else 1e-5,
            )
    x, y = gc.placeholder("x", (count, 6, 5)), gc.placeholder("y", (count, 3, 5))
    feeds = {x: numbers(rng, (4, 6, 5), "float32"), y: numbers(rng, (4, 3, 5), "float32")}
    (found,) = run([x @ gc.matrix_transpose(y)], feeds, count=4)
    np.testing.assert_allclose(found, feeds[x] @ feeds[y].swapaxes(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "shape",
    [(3, 20, 50), (130, 20, 50), (130, 20, 600), (460, 20, 600), (130, 20, 1), (1, 20, 50), (40, 0, 3)],
    ids=str,
)
def test_what_follows_runs_on_each_block(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, y, bias = (gc.placeholder(name, s, dtype) for name, s in (("x", (m, k)), ("y", (k, n)), ("bias", (n,))))
    feeds = {v: numbers(rng, v.shape, dtype) for v in (x, y, bias)}
    (found,) = run([gc.maximum(x @ y + bias, 0)], feeds)
    wanted = np.maximum(feeds[x].astype(np.float64) @ feeds[y] + feeds[bias], 0)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
@pytest.mark.parametrize("shape", [(3, 20, 50), (130, 600, 50), (130, 30, 600), (200, 300, 260)], ids=str)
def test_sums_lie_in_a_result_only_where_it_is_apart_from_all_operands(shape, dtype):
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, y = gc.placeholder("x", (m, k), dtype), gc.placeholder("y", (k, n), dtype)
    c, d = gc.placeholder("c", (m, n), dtype), gc.placeholder("d", (n, m), dtype)
    feeds = {v: numbers(rng, v.shape, dtype) for v in (x, y, c, d)}
    product = feeds[x].astype(np.float64) @ feeds[y].astype(np.float64)
    one, other = feeds[c].astype(np.float64), feeds[d].astype(np.float64)
    cases = [
        ([x @ y + c, c - x @ y], [product + one, one - product]),
        ([gc.matrix_transpose(x @ y) + d, x @ y - c], [product.T + other, product - one]),
        ([gc.matrix_transpose(x @ y) * d * d], [product.T * other**2]),
    ]
    for outputs, wanted in cases:
        for found, right in zip(run(outputs, feeds, parts=2), wanted, strict=True):
            if dtype == "int32":
                assert np.array_equal(found, right.astype(np.int64).astype(np.int32))
            else:
                tolerance = 1e-5 if dtype == "float32" else 2e-2
                scale = np.abs(right).max()
                np.testing.assert_allclose(found / scale, right / scale, rtol=tolerance, atol=tolerance)


def test_a_result_in_the_bytes_of_an_operand_is_not_where_the_sums_lie():
    """Of the first two products one is read for the last time when the other is ready: its bytes are those of h."""
    rng = np.random.default_rng(0)
    with gc.Graph(), gc.Session(device="cpu") as session:
        x, y, z, d = (gc.placeholder(name, (130, 130)) for name in "xyzd")
        h = gc.maximum(x @ z - x @ y, 0)
        feeds = {v: numbers(rng, v.shape, "float32") for v in (x, y, z, d)}
        found = session.run(h @ d, feeds)
    wanted = np.maximum(feeds[x] @ feeds[z] - feeds[x] @ feeds[y], 0) @ feeds[d]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("shape", [(3, 20, 50), (40, 20, 33), (460, 20, 600), (40, 20, 1), (1, 20, 50)], ids=str)
def test_results_are_stored_where_views_put_them(shape):
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, y = gc.placeholder("x", (2, m, k)), gc.placeholder("y", (2, k, n))
    feeds = {v: numbers(rng, v.shape, "float32") for v in (x, y)}
    wanted = feeds[x] @ feeds[y]
    (found,) = run([gc.matrix_transpose(x @ y)], feeds)
    np.testing.assert_allclose(found, wanted.swapaxes(1, 2), rtol=1e-5, atol=1e-5)
    (found,) = run([gc.transpose(x @ y, (1, 0, 2))], feeds)
    np.testing.assert_allclose(found, wanted.swapaxes(0, 1), rtol=1e-5, atol=1e-5)
    (found,) = run([gc.matrix_transpose(gc.relu(x @ y))], feeds)
    np.testing.assert_allclose(found, np.maximum(wanted, 0).swapaxes(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["nn", "tn"])
@pytest.mark.parametrize("shape", [(170, 300, 128), (170, 250, 512), (41, 40, 1024), (511, 512, 512)])
def test_no_rows_below_b_are_asked_for(shape, layout, monkeypatch):
    """Or memory of another worker that lies there would go to and fro between two caches."""
    log = np.zeros(1 << 20, np.int64)  # how many addresses were asked for, and which
    monkeypatch.setattr(microkernels, "prefetch", partial(noted, log))
    monkeypatch.setattr(cpu_gemm, "function", lambda name, host: compiled(library(host, name), host))  # not one kept
    m, k, n = shape
    a, x, x_shape = operand("x", (m, k), layout[0], "float32")
    b, y, y_shape = operand("y", (k, n), layout[1], "float32")
    feeds = {x: np.ones(x_shape, np.float32), y: np.ones(y_shape, np.float32)}
    values, (kernel,), (result,) = load([a @ b], feeds, this_host(), {})
    kernel.run()
    asked = log[1 : 1 + log[0]]
    (memory,) = [value for value in values if value.array is not values[result].array and value.array.shape == (k, n)]
    after_last = memory.address + memory.array.nbytes + tile(this_host(), "float32").width * 4
    assert len(asked) > 0
    assert memory.address <= min(asked) and max(asked) < after_last


def noted(log: Any, f: Function, at: Value, *, write: bool = False, level: int = 1) -> None:
    """In place of asking for an address that is read, write it down."""
    if write:
        return
    place = Value(f"inttoptr (i64 {log.ctypes.data} to ptr)", "ptr")
    count = f.i64(f.add(f.load("i64", place, 8), 1))
    f.store(f.convert("ptrtoint", at, "i64"), f.address(place, count, "i64"), 8)
    f.store(count, place, 8)


def test_infinities_and_nan_stay_where_they_belong():
    for m in (2, 20, 200):
        x, y = gc.placeholder("x", (m, 40)), gc.placeholder("y", (40, 33))
        feeds = {x: np.ones((m, 40), np.float32), y: np.ones((40, 33), np.float32)}
        feeds[x][1, 3], feeds[y][5, 32] = np.inf, np.nan
        (found,) = run([x @ y], feeds)
        assert np.isnan(found[:, 32]).all()
        assert (found[1, :32] == np.inf).all()
        assert (np.delete(found, 1, axis=0)[:, :32] == 40).all()


@pytest.mark.parametrize("host", ["avx2", "neon"])
def test_other_machines(host):
    for layout in LAYOUTS:
        (a, *_), (b, *_) = operand("x", (50, 40), layout[0], "float32"), operand("y", (40, 30), layout[1], "float32")
        (step,) = plan_kernels(prepared([a @ b], info=INFO), INFO).steps
        native = native_kernel(step.kernel, HOSTS[host], CORES)
        assert compiled(native.assembly, HOSTS[host])
        for name in called(native.assembly):
            assert compiled(library(HOSTS[host], name), HOSTS[host])
