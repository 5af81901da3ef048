"""Pooling in CUDA C agrees with the references, window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops import pooling
from graphc.types import np_dtype
from tests.cuda_cores import kernels_of, run
from tests.cuda_host import needs_compiler

GEOMETRIES = list(pooling._geometries())
FLOATS = ("float64", "float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "int8", "uint8", "int32", "int64", "bool")
TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}
WIDE = dict(kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False)
# Of windows some of which meet nothing but padding.
SPARSE = dict(kernel=(2, 2), stride=(1, 1), padding=((2, 2), (2, 1)), dilation=(3, 3), ceil_mode=False)

pytestmark = needs_compiler


def wide(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """16-bit floats as float32, as references take them."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x


def gradient(g: Any, x: Any, **attrs: Any) -> Any:
    """Where `max_pool` found its maxima, g added up."""
    windows, plane = [int(np.prod(a.shape[2:])) for a in (g, x)]
    at = pooling._max_pool_indices(wide(x), **attrs).reshape(*x.shape[:2], windows)
    total = np.zeros((*x.shape[:2], plane), wide(g).dtype)
    lead = np.ogrid[: x.shape[0], : x.shape[1], :windows][:2]
    np.add.at(total, (*lead, at), wide(g).reshape(at.shape))
    return total.reshape(x.shape)


def check_maxima(cases: list[tuple[np.ndarray[Any, Any], Any]], **how: Any) -> None:
    """Maxima, their places and, of floats, gradients of arrays with their geometries."""
    feeds, outputs, wanted = {}, [], []
    for number, (x, attrs) in enumerate(cases):
        node = gc.placeholder(f"x{number}", x.shape, x.dtype.name)
        feeds[node] = x
        outputs += [pooling.max_pool_op(node, **attrs), pooling.max_pool_indices(node, **attrs)]
        wanted += [
            pooling._max_pool(wide(x), **attrs).astype(x.dtype),
            pooling._max_pool_indices(wide(x), **attrs),
        ]
        if x.dtype.name in FLOATS:
            g = np.random.default_rng(9).integers(-4, 5, outputs[-1].shape).astype(x.dtype)
            sent = gc.placeholder(f"g{number}", g.shape, g.dtype.name)
            feeds[sent] = g
            outputs.append(pooling.max_pool_input_grad(sent, node, **attrs))
            wanted.append(gradient(g, x, **attrs).astype(x.dtype))
    for found, expected in zip(run(outputs, feeds, **how), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", [False, True])
def test_maxima_with_ties(index: bool) -> None:
    rng = np.random.default_rng(0)
    check_maxima([(rng.integers(-3, 4, shape).astype(np.float32), a) for shape, _, a in GEOMETRIES], wide=index)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maxima_of_every_dtype(dtype: str) -> None:
    x = np.random.default_rng(1).integers(-100, 100, (2, 2, 9, 37)).astype(np_dtype(dtype))
    check_maxima([(x, WIDE), (-np.abs(x) if dtype in FLOATS else x, {**WIDE, "stride": (1, 3)})])


def test_a_nan_is_the_maximum_and_padding_never_is() -> None:
    x = np.random.default_rng(2).normal(size=(1, 2, 6, 40)).astype(np.float32)
    x[0, 0, 2, 3:5] = np.nan
    x[0, 0, 3, 4] = np.nan
    x[0, 1] = -np.inf
    x[0, 1, 5, 39] = np.inf
    check_maxima([(x, WIDE), (x, {**WIDE, "padding": ((0, 0), (0, 0)), "kernel": (2, 2)})])


LARGE_WINDOWS = [
    dict(kernel=(9, 37), stride=(9, 37), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False),
    dict(kernel=(8, 9), stride=(1, 3), padding=((3, 2), (4, 4)), dilation=(1, 2), ceil_mode=True),
    dict(kernel=(9, 20), stride=(4, 5), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64", "bool"])
def test_large_windows_have_warps(dtype: str) -> None:
    x = np.random.default_rng(10).integers(-5, 6, (2, 3, 9, 37)).astype(np_dtype(dtype))
    cases = [(x, attrs) for attrs in LARGE_WINDOWS]
    if dtype in FLOATS:
        y = x.copy()
        y[0, 0, 2, 3:5], y[0, 1, 8, 36], y[0, 1, 0, 0], y[1] = np.nan, np.nan, np.nan, -np.inf
        cases += [(y, attrs) for attrs in LARGE_WINDOWS]
    check_maxima(cases)
    node = gc.placeholder("x", x.shape, dtype)
    assert kernels_of(pooling.max_pool_op(node, **LARGE_WINDOWS[0]))[0].notes == ("a window a warp",)
    assert kernels_of(pooling.max_pool_op(node, **WIDE))[0].notes == ("a window a thread",)


def test_means_of_large_windows() -> None:
    x = np.random.default_rng(11).normal(size=(2, 3, 9, 37))
    node = gc.placeholder("x", x.shape, "float64")
    attrs = [{**geometry, "count_include_pad": include} for geometry in LARGE_WINDOWS for include in (False, True)]
    for found, each in zip(run([pooling.avg_pool_op(node, **a) for a in attrs], {node: x}), attrs, strict=True):
        np.testing.assert_allclose(found, pooling._avg_pool(x, **each), rtol=1e-12, atol=1e-12)


def test_windows_that_meet_nothing() -> None:
    x = np.random.default_rng(3).normal(size=(2, 1, 1, 2)).astype(np.float32)
    check_maxima([(x, SPARSE)])


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_means_and_their_adjoint(dtype: str, include: bool) -> None:
    rng = np.random.default_rng(4)
    feeds, outputs, wanted = {}, [], []
    for number, (shape, counts, attrs) in enumerate(GEOMETRIES):
        attrs = {**attrs, "count_include_pad": include}
        x, g = rng.normal(size=shape).astype(np_dtype(dtype)), rng.normal(size=counts).astype(np_dtype(dtype))
        nodes = gc.placeholder(f"x{number}", shape, dtype), gc.placeholder(f"g{number}", counts, dtype)
        feeds |= dict(zip(nodes, (x, g), strict=True))
        outputs += [
            pooling.avg_pool_op(nodes[0], **attrs),
            pooling.avg_pool_input_grad(nodes[1], spatial=shape[2:], **attrs),
        ]
        wanted += [
            pooling._avg_pool(x.astype(float), **attrs),
            pooling._avg_pool_input_grad(g.astype(float), spatial=shape[2:], **attrs),
        ]
    near = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for found, expected in zip(run(outputs, feeds), wanted, strict=True):
        np.testing.assert_allclose(found.astype(float), expected, **near)


@pytest.mark.parametrize("sizes", [(2, 9, 12), (1, 4, 3), (0, 5, 5)], ids=str)
def test_sizes_that_come_with_the_run(sizes: tuple[int, int, int]) -> None:
    b, h, w = sizes
    rng = np.random.default_rng(5)
    x = rng.integers(-5, 6, (b, 3, h, w)).astype(np.float32)
    node = gc.placeholder("x", ("b", 3, "h", "w"))
    mean = gc.avg_pool2d(node, 3, 2, 1)
    attrs = {**WIDE, "count_include_pad": True}
    most = gc.max_pool2d(node, 3, 2, 1)
    g = rng.integers(-5, 6, (b, 3, *pooling._max_pool(x, **WIDE).shape[2:])).astype(np.float32)
    sent = gc.placeholder("g", most.shape)
    outputs = [
        most * 2,
        mean,
        pooling.max_pool_input_grad(sent, node, **WIDE),
        pooling.avg_pool_input_grad(sent, spatial=node.shape[2:], **attrs),
    ]
    found = run(outputs, {node: x, sent: g}, b=b, h=h, w=w)
    np.testing.assert_array_equal(found[0], pooling._max_pool(x, **WIDE) * 2)
    np.testing.assert_allclose(found[1], pooling._avg_pool(x, **attrs), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[2], gradient(g, x, **WIDE))
    wanted = pooling._avg_pool_input_grad(g, spatial=(h, w), **attrs)
    np.testing.assert_allclose(found[3], wanted, rtol=1e-6, atol=1e-6)


def test_views_are_read_where_they_lie() -> None:
    x = np.random.default_rng(6).normal(size=(2, 8, 9, 3)).astype(np.float32)
    node = gc.placeholder("x", x.shape)
    attrs = {**WIDE, "stride": (1, 2)}
    (found,) = run([pooling.max_pool_op(gc.permute_dims(node, (0, 3, 1, 2)), **attrs)], {node: x})
    np.testing.assert_array_equal(found, pooling._max_pool(x.transpose(0, 3, 1, 2), **attrs))
