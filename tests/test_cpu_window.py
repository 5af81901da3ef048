"""Pooling in native code agrees with the references, window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops import pooling
from graphc.types import np_dtype
from tests.cpu_cores import WIDTHS, assemble, host_of, run

GEOMETRIES = list(pooling._geometries())
FLOATS = ("float64", "float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "int8", "uint8", "int32", "int64", "bool")
TOLERANCE = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}
WIDE = dict(kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False)


def maxima(x: np.ndarray[Any, Any], attrs: Any, **how: Any) -> list[Any]:
    node = gc.placeholder("x", x.shape, x.dtype.name)
    return run([pooling.max_pool_op(node, **attrs), pooling.max_pool_indices(node, **attrs)], {node: x}, **how)


def wide(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """16-bit floats as float32, as references take them."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x


def check_maxima(x: np.ndarray[Any, Any], attrs: Any, **how: Any) -> None:
    values, places = maxima(x, attrs, **how)
    np.testing.assert_array_equal(values, pooling._max_pool(wide(x), **attrs).astype(x.dtype))
    np.testing.assert_array_equal(places, pooling._max_pool_indices(wide(x), **attrs))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_maxima_with_ties(case: Any, width: int) -> None:
    shape, _, attrs = case
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)
    check_maxima(x, attrs, host=host_of(width), parts=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maxima_of_every_dtype(dtype: str) -> None:
    x = np.random.default_rng(1).integers(-100, 100, (2, 2, 9, 37)).astype(np_dtype(dtype))
    check_maxima(x, WIDE)


def test_a_nan_is_the_maximum_and_padding_never_is() -> None:
    x = np.random.default_rng(2).normal(size=(1, 2, 6, 40)).astype(np.float32)
    x[0, 0, 2, 3:5] = np.nan
    x[0, 0, 3, 4] = np.nan
    x[0, 1] = -np.inf
    x[0, 1, 5, 39] = np.inf
    check_maxima(x, WIDE)
    check_maxima(x, {**WIDE, "padding": ((0, 0), (0, 0)), "kernel": (2, 2)})


@pytest.mark.parametrize("last", [1, 2, 13, 16, 33, 70, 200])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [0, 1])
def test_rows_of_every_length(last: int, stride: int, pad: int) -> None:
    x = np.random.default_rng(3).normal(size=(1, 1, 2, last + 2)).astype(np.float32)
    pads = ((0, 0), (pad, pad))
    check_maxima(x, dict(kernel=(1, 3), stride=(1, stride), padding=pads, dilation=(1, 1), ceil_mode=False))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_means_and_their_adjoint(case: Any, dtype: str, include: bool) -> None:
    shape, counts, attrs = case
    rng = np.random.default_rng(4)
    attrs = {**attrs, "count_include_pad": include}
    x, g = rng.normal(size=shape).astype(np_dtype(dtype)), rng.normal(size=counts).astype(np_dtype(dtype))
    nodes = gc.placeholder("x", shape, dtype), gc.placeholder("g", counts, dtype)
    adjoint_node = pooling.avg_pool_input_grad(nodes[1], spatial=shape[2:], **attrs)
    mean, adjoint = run(
        [pooling.avg_pool_op(nodes[0], **attrs), adjoint_node], dict(zip(nodes, (x, g), strict=True)), parts=2
    )
    near = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(mean.astype(float), pooling._avg_pool(x.astype(float), **attrs), **near)
    wanted = pooling._avg_pool_input_grad(g.astype(float), spatial=shape[2:], **attrs)
    np.testing.assert_allclose(adjoint.astype(float), wanted, **near)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("sizes", [dict(n=2, h=7, w=50), dict(n=3, h=2, w=2), dict(n=0, h=4, w=4)], ids=str)
def test_sizes_that_come_with_the_run(sizes: dict[str, int], width: int) -> None:
    node = gc.placeholder("x", ("n", 2, "h", "w"))
    g = gc.placeholder("g", ("n", 2, "(h - 1)//2 + 1", "(w - 1)//2 + 1"))
    rng = np.random.default_rng(5)
    x = rng.normal(size=(sizes["n"], 2, sizes["h"], sizes["w"])).astype(np.float32)
    mean = {**WIDE, "count_include_pad": False}
    outputs = [
        pooling.max_pool_op(node, **WIDE),
        pooling.max_pool_indices(node, **WIDE),
        pooling.avg_pool_op(node, **mean),
        pooling.avg_pool_input_grad(g, spatial=node.shape[2:], **mean),
    ]
    wanted = [pooling._max_pool(x, **WIDE), pooling._max_pool_indices(x, **WIDE), pooling._avg_pool(x, **mean)]
    sent = rng.normal(size=wanted[0].shape).astype(np.float32)
    wanted.append(pooling._avg_pool_input_grad(sent, spatial=x.shape[2:], **mean))
    for found, expected in zip(run(outputs, {node: x, g: sent}, host=host_of(width), **sizes), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_operands_lie_as_they_are_and_results_go_on() -> None:
    node = gc.placeholder("x", (2, 20, 9, 3))
    x = np.random.default_rng(6).normal(size=node.shape).astype(np.float32)
    pooled = gc.max_pool2d(gc.transpose(node, (0, 3, 1, 2)), 2)
    (found,) = run([gc.relu(pooled) * 2], {node: x})
    plain = dict(kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False)
    wanted = pooling._max_pool(x.transpose(0, 3, 1, 2), **plain)
    np.testing.assert_array_equal(found, np.maximum(wanted, 0) * 2)


def test_other_machines() -> None:
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        node = gc.placeholder("x", ("n", 2, 9, "w"), dtype)
        assert assemble(pooling.max_pool_op(node, **WIDE), pooling.max_pool_indices(node, **WIDE)) == 2
    mean = {**WIDE, "count_include_pad": False}
    assert assemble(pooling.avg_pool_op(gc.placeholder("x", ("n", 2, 9, "w")), **mean)) == 1
    g = gc.placeholder("g", ("n", 2, 5, 20), "bfloat16")
    assert assemble(pooling.avg_pool_input_grad(g, spatial=(9, 40), **mean)) == 1
