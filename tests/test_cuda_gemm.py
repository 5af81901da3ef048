"""Products of matrices as CUDA C: they are NumPy's, for every shape, layout, dtype and way to compute them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.dims import symbol
from graphc.ir import Node
from graphc.runtime.cuda import tiles
from graphc.runtime.cuda.kernels import INFO
from graphc.runtime.cuda.launches import Gemm, Launch, Precision
from graphc.runtime.cuda.products import pack_of
from graphc.runtime.cuda.tiles import CORE_TILES, PLAIN_TILES, chosen
from tests.cuda_cores import Case, kernels_of, made, run, run_all
from tests.cuda_host import needs_compiler
from tests.test_cpu_gemm import LAYOUTS, SHAPES, numbers, operand

# What a result may be off by, relative to the size of a sum of as many products.
ROUNDING = {"float32": 3e-6, "float64": 1e-14, "float16": 1e-3, "bfloat16": 8e-3}
PRECISIONS: dict[Precision, float] = {"tf32": 2e-3, "bfloat16": 1.6e-2}
VIEWS = {"n": lambda v: v, "t": lambda v: v.swapaxes(-1, -2), "s": lambda v: v[..., ::2, ::3]}
VIEWS["f"] = lambda v: v[..., ::-1, ::-1]

pytestmark = needs_compiler


class Product:
    """A product of random operands in some layouts, and what it should be."""

    def __init__(
        self, m: int, k: int, n: int, layout: str = "nn", dtype: str = "float32", precision: Precision = "float32"
    ) -> None:
        rng = np.random.default_rng(m + k + n)
        (a, x, x_shape) = operand("x", (m, k), layout[0], dtype)
        (b, y, y_shape) = operand("y", (k, n), layout[1], dtype)
        feeds = {x: numbers(rng, x_shape, dtype), y: numbers(rng, y_shape, dtype)}
        self.case = Case([a @ b], feeds, precision=precision, info=INFO)
        left, right = VIEWS[layout[0]](feeds[x]), VIEWS[layout[1]](feeds[y])
        self.is_float = dtype in ROUNDING
        exact = left.astype(np.float64) @ right.astype(np.float64) if self.is_float else left @ right
        self.wanted = exact.astype(np.float64) if self.is_float else exact
        self.rounding = PRECISIONS.get(precision, ROUNDING.get(dtype, 0.0)) * max(1, k) ** 0.5
        self.what = f"{m}x{k}x{n} {layout} {dtype} {precision}"

    def check(self) -> None:
        """The result is as exact as its dtype and the precision allow; integers and bools are equal."""
        (found,) = self.case.found
        assert found.shape == self.wanted.shape
        if self.is_float:
            assert np.abs(found.astype(np.float64) - self.wanted).max(initial=0) <= self.rounding * 4, self.what
        else:
            assert np.array_equal(found, self.wanted), self.what


def check(products: list[Product]) -> None:
    """Run products, and compare."""
    run_all([product.case for product in products])
    for product in products:
        product.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_and_shape(layout: str) -> None:
    check([Product(*shape, layout) for shape in SHAPES])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool"])
def test_every_dtype(dtype: str) -> None:
    shapes = [(1, 40, 33), (70, 1, 1), (13, 65, 31), (9, 1100, 20), (3, 0, 2), (0, 3, 2)]
    check([Product(*shape, layout, dtype) for shape in shapes for layout in ("nn", "tt")])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_are_rounded_on_request(precision: Precision) -> None:
    products = [Product(*shape, precision=precision) for shape in [(33, 70, 40), (20, 1100, 30), (140, 20, 100)]]
    check(products)
    assert all("on tensor cores" in " ".join(product.case.kernels[0].notes) for product in products)
    errors = [np.abs(product.case.found[0] - product.wanted).max() for product in products]
    assert min(errors) > 1e-5  # or nothing was rounded


@pytest.mark.parametrize(
    ("dtype", "kind"), [("float32", ""), ("float32", "Tf32"), ("bfloat16", ""), ("float16", "Pair_f16")]
)
def test_every_tile(dtype: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tile in CORE_TILES if kind else PLAIN_TILES:
        monkeypatch.setattr(tiles, "chosen", lambda *_, tile=tile: tile._replace(kind=kind))
        made.cache_clear()
        rng = np.random.default_rng(0)
        x, y, z = (gc.placeholder(k, s, dtype) for k, s in (("x", (140, 40)), ("y", (40, 135)), ("z", (135,))))
        feeds = {v: numbers(rng, v.shape, dtype) for v in (x, y, z)}
        (found,) = run([gc.relu(x @ y + z)], feeds, info=INFO)
        exact = np.maximum(feeds[x].astype(np.float64) @ feeds[y].astype(np.float64) + feeds[z].astype(np.float64), 0)
        rounding = PRECISIONS["tf32"] if kind == "Tf32" else ROUNDING[dtype]
        assert np.abs(found.astype(np.float64) - exact).max() <= rounding * 40**0.5 * 4, str(tile)
    made.cache_clear()


ALIGNED = {"float64": 2, "float32": 4, "float16": 8, "bfloat16": 8, "int8": 1, "int16": 8, "int32": 4, "int64": 2}


def packs(product: Product) -> list[int]:
    """How many elements accesses to both operands bring."""
    found = re.findall(r"= lines<\w+, (\d+)>", product.case.kernels[0].source)
    return [int(count) for count in found]


@pytest.mark.parametrize("dtype", ALIGNED)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_accesses_are_of_16_bytes_where_operands_are_aligned(dtype: str, layout: str) -> None:
    aligned = [Product(*shape, layout, dtype) for shape in ((16, 32, 24), (72, 40, 136), (24, 1104, 16))]
    others = [Product(*shape, layout, dtype) for shape in ((17, 33, 23), (71, 41, 135))]
    check([*aligned, *others])
    assert [packs(product) for product in aligned] == [[ALIGNED[dtype]] * 2] * 3
    assert [packs(product) for product in others] == [[1, 1]] * 2


@pytest.mark.parametrize(
    ("rows", "columns", "there"), [(slice(None), slice(4, None), 4), (slice(None), slice(1, -3), 1)]
)
def test_slices_are_read_by_16_bytes_where_they_begin_at_multiples_of_them(rows: Any, columns: Any, there: int) -> None:
    rng = np.random.default_rng(0)
    x, y = gc.placeholder("x", (40, 36)), gc.placeholder("y", (32, 24))
    feeds = {v: numbers(rng, v.shape, "float32") for v in (x, y)}
    (found,) = run([gc.relu(x[rows, columns] @ y)], feeds, info=INFO)
    np.testing.assert_allclose(found, np.maximum(feeds[x][rows, columns] @ feeds[y], 0), rtol=1e-4, atol=1e-4)
    (kernel,) = kernels_of(gc.relu(x[rows, columns] @ y), info=INFO)
    assert re.findall(r"= lines<\w+, (\d+)>", kernel.source) == [str(there), "4"]


def test_what_leads_to_neighbours_must_be_aligned() -> None:
    n = symbol("n")
    assert pack_of("float32", [6, 8], [8, 1], [0, 48]) == 4
    assert pack_of("float32", [6, 8], [10, 1], [0, 60]) == 1  # rows begin anywhere
    assert pack_of("float32", [3, 6], [6, 1], []) == 1 and pack_of("float32", [2, 6], [6, 1], []) == 4
    assert pack_of("float32", [6, 8], [12, 1], [2]) == 1  # the offset
    assert pack_of("float32", [8], [2], []) == 1 and pack_of("float32", [1, 8, 1], [5, 1, 3], []) == 4
    assert pack_of("float32", [n * 4], [1], [n * 8]) == 4 and pack_of("float32", [n], [1], []) == 1
    assert [pack_of(dtype, [16], [1], []) for dtype in ALIGNED] == list(ALIGNED.values())


def test_large_results_get_large_tiles_and_small_ones_small_tiles() -> None:
    sizes = ((4096, 4096), (1024, 1024), (8, 512), (30, 30))
    found = [chosen("float32", "float32", m, n, 1, 64) for m, n in sizes]
    assert [(tile.rows, tile.columns) for tile in found] == [(128, 128), (64, 64), (16, 64), (16, 64)]
    assert chosen("float32", "float32", 64, 576, 1, 100_000).rows == 64  # of which many parts are computed side by side
    assert chosen("float32", "tf32", 4096, 4096, 1, 64).kind == "Tf32"
    assert chosen("bfloat16", "float32", symbol("m"), 8, 1, 64).kind == "Pair_bf16"


def commands(*outputs: Node) -> list[Any]:
    """What the kernels of a program run."""
    return [command for kernel in kernels_of(*outputs, info=INFO) for command in kernel.commands]


def test_cublas_takes_what_is_large_and_in_order() -> None:
    x, y = gc.placeholder("x", (300, 400)), gc.placeholder("y", (400, 500))
    for outputs in ([x @ y], [gc.transpose(gc.transpose(y) @ gc.transpose(x))]):
        (command,) = commands(*outputs)
        assert isinstance(command, Gemm)
    (command,) = commands(gc.placeholder("i", (300, 400), "int32") @ gc.placeholder("j", (400, 500), "int32"))
    assert isinstance(command, Launch)
    short, tall = gc.placeholder("s", (3000, 40)), gc.placeholder("t", (40, 500))
    (command,) = commands(gc.relu(short @ tall))  # reading the product back would take longer than the product
    assert isinstance(command, Launch)
    first, then = commands(gc.relu(x @ y))
    assert isinstance(first, Gemm) and isinstance(then, Launch)


@pytest.mark.parametrize(
    ("shapes", "dtype", "how"),
    [
        (((300, 400), (400, 500)), "float32", "cublas"),
        (((300, 400), (400, 500)), "int32", "not by cublas, which takes no int32"),
        (((1, 400), (400, 500)), "float32", "not by cublas, since one row is only read"),
        (((30, 40), (40, 50)), "float32", "not by cublas, whose launch takes longer"),
        (((3000, 40), (40, 500)), "float32", "not by cublas, since what follows would read the product back"),
    ],
)
def test_a_kernel_says_why_cublas_does_not_compute_it(shapes: Any, dtype: str, how: str) -> None:
    x, y = (gc.placeholder(name, shape, dtype) for name, shape in zip("xy", shapes, strict=True))
    follows = shapes[1] == (40, 500)
    (kernel,) = kernels_of(gc.relu(x @ y) if follows else x @ y, info=INFO)
    assert kernel.notes[-1] == how


def heads(x: Any, count: int) -> Any:
    """[batch, time, count * width] as [batch, count, time, width], as attention has it."""
    return gc.transpose(gc.reshape(x, (*x.shape[:2], count, x.shape[2] // count)), (0, 2, 1, 3))


def test_a_batch_in_odd_steps_is_packed_or_read_as_it_is() -> None:
    rng = np.random.default_rng(0)
    for time in (5, 90):
        q, k = gc.placeholder("q", (3, time, 4 * 32)), gc.placeholder("k", (3, time, 4 * 32))
        feeds = {v: numbers(rng, v.shape, "float32") for v in (q, k)}
        scores = heads(q, 4) @ gc.matrix_transpose(heads(k, 4))
        back = gc.transpose(scores @ heads(k, 4), (0, 2, 1, 3))
        found = run([scores, back], feeds, info=INFO)
        a, b = (v.reshape(3, time, 4, 32).transpose(0, 2, 1, 3) for v in feeds.values())
        exact = a.astype(np.float64) @ b.swapaxes(2, 3)
        np.testing.assert_allclose(found[0], exact, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], (exact @ b).transpose(0, 2, 1, 3), rtol=1e-3, atol=1e-3)
        packed = any("packed" in note for kernel in kernels_of(scores, info=INFO) for note in kernel.notes)
        assert packed == (time == 90)


def test_sizes_may_be_symbols() -> None:
    rng = np.random.default_rng(0)
    m, k, n = (symbol(name) for name in "mkn")
    x, y, z = gc.placeholder("x", (m, k)), gc.placeholder("y", (k, n)), gc.placeholder("z", (n,))
    outputs = [x @ y, gc.relu(x @ y + z), y @ z, gc.matrix_transpose(x @ y) * 2]
    for sizes in ({"m": 7, "k": 9, "n": 5}, {"m": 130, "k": 33, "n": 70}, {"m": 1, "k": 300, "n": 2}):
        shapes = {x: (sizes["m"], sizes["k"]), y: (sizes["k"], sizes["n"]), z: (sizes["n"],)}
        feeds = {v: numbers(rng, shape, "float32") for v, shape in shapes.items()}
        found = run(outputs, feeds, info=INFO, **sizes)
        a, b, c = (feeds[v].astype(np.float64) for v in (x, y, z))
        for value, wanted in zip(found, (a @ b, np.maximum(a @ b + c, 0), b @ c, (a @ b).T * 2), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)


def test_infinities_and_nan_stay_where_they_belong() -> None:
    for shape in ((2, 40, 33), (20, 40, 33), (200, 40, 140)):
        m, k, n = shape
        x, y = gc.placeholder("x", (m, k)), gc.placeholder("y", (k, n))
        feeds = {x: np.ones((m, k), np.float32), y: np.ones((k, n), np.float32)}
        feeds[x][1, 3], feeds[y][5, 32] = np.inf, np.nan
        found = run([x @ y], feeds, info=INFO)[0] if m < 200 else run([x @ y + 0], feeds, info=INFO)[0]
        assert np.isnan(found[:, 32]).all()
        assert (found[1, :32] == np.inf).all()
        assert (np.delete(found, 1, axis=0)[:, :32] == k).all()


def test_a_long_sum_of_a_small_product_is_divided_by_sizes_alone() -> None:
    x, y = gc.placeholder("x", (20, 8000), "int32"), gc.placeholder("y", (8000, 20), "int32")
    (kernel,) = kernels_of(x @ y, info=INFO)
    assert len(kernel.commands) == 2
    assert any("k in parts of" in note for note in kernel.notes)


def test_counters_of_64_bits() -> None:
    shapes = [(33, 65, 31), (1, 40, 7)]
    products = [Product(*shape, "tn", dtype) for shape in shapes for dtype in ("float32", "float16")]
    run_all([product.case for product in products], wide=True)
    for product in products:
        product.check()
