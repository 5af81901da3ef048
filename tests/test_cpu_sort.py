"""Native sorting finds the very order of the references: stable, NaN the greatest, -0 equal to 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ops.sorting import _order, argsort_op, topk_op
from graphc.passes.gradients import gradients
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu.sort import FEW, SHORT
from graphc.types import np_dtype
from tests.cpu_cores import INFO, WIDTHS, assemble, host_of, run
from tests.plan_testing import prepared

DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64", "bool")
SHAPES = [((3, 5), 1), ((4, 3), 0), ((2, SHORT), 1), ((3, 300), 1), ((300, 2), 0), ((0, 3), 0), ((2, 0), 1), ((1,), 0)]
WHOLE = replace(INFO, whole=frozenset({topk_op}))


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


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_every_dtype(dtype: str, descending: bool) -> None:
    for shape, axis in SHAPES:
        x = values(shape, dtype)
        node = gc.placeholder("x", ("a", "b")[: len(shape)], dtype)
        feeds, sizes = {node: x}, dict(zip("ab", shape, strict=False))
        (order,) = run([gc.argsort(node, axis, descending=descending)], feeds, parts=2, **sizes)
        np.testing.assert_array_equal(order, wanted_order(x, axis, descending))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_lines_whose_size_is_known(dtype: str) -> None:
    for shape, axis in SHAPES:
        x = values(shape, dtype)
        node = gc.placeholder("x", shape, dtype)
        (order,) = run([gc.argsort(node, axis)], {node: x}, parts=2)
        np.testing.assert_array_equal(order, wanted_order(x, axis, False))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
def test_every_width(dtype: str, width: int) -> None:
    x = values((5, 90), dtype)
    node = gc.placeholder("x", x.shape, dtype)
    found = run([gc.argsort(node), gc.sort(gc.transpose(node), 0)], {node: x}, host=host_of(width))
    np.testing.assert_array_equal(found[0], wanted_order(x, 1, False))
    np.testing.assert_array_equal(found[1], np.take_along_axis(x, found[0], 1).T)


def test_bytes_that_all_keys_share_are_left_out() -> None:
    x = np.random.default_rng(1).integers(0, 300, (2, 1000)) << 16
    node = gc.placeholder("x", x.shape, "int64")
    (found,) = run([gc.argsort(node, descending=True)], {node: x})
    np.testing.assert_array_equal(found, wanted_order(x, 1, True))
    (found,) = run([gc.argsort(node)], {node: np.full_like(x, 7)})
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(1000), x.shape))


FIRST = [((3, 5), 1, 2), ((4, 3), 0, 4), ((2, 300), 1, FEW), ((2, 300), 1, FEW + 1), ((300, 2), 0, 7), ((2, 0), 1, 0)]


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_few_of_every_dtype(dtype: str, largest: bool) -> None:
    for shape, axis, k in FIRST:
        x = values(shape, dtype)
        node = gc.placeholder("x", ("a", "b"), dtype)
        found, order = run(
            gc.topk(node, k, axis, largest=largest), {node: x}, info=WHOLE, a=shape[0], b=shape[1], parts=2
        )
        np.testing.assert_array_equal(order, np.take(wanted_order(x, axis, largest), range(k), axis))
        assert found.tobytes() == np.take_along_axis(x, order, axis).tobytes()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_few_at_every_width(width: int) -> None:
    x = values((4, 200), "float32")
    node = gc.placeholder("x", x.shape)
    values_, order = gc.topk(node, 9)
    (found,) = run([order * 2], {node: x}, info=WHOLE, host=host_of(width))
    np.testing.assert_array_equal(found, wanted_order(x, 1, True)[:, :9] * 2)
    (found,) = run([values_], {node: x}, info=WHOLE, host=host_of(width))
    np.testing.assert_array_equal(found, np.take_along_axis(x, wanted_order(x, 1, True)[:, :9], 1))


def test_the_gradient_of_the_first_few_sorts_nothing() -> None:
    x = gc.placeholder("x", (4, 50))
    chosen, order = gc.topk(x, 3)
    outputs = [chosen, order, *gradients(gc.sum(chosen * chosen), [x])]
    data = values(x.shape, "float32")
    data[~np.isfinite(data)] = 1
    cores = [step.kernel.core for step in plan_kernels(prepared(outputs, info=WHOLE), WHOLE).steps]
    assert argsort_op not in [core.op for core in cores if core is not None]
    found, at, gradient = run(outputs, {x: data}, info=WHOLE)
    wanted = np.zeros_like(data)
    np.put_along_axis(wanted, at, 2 * found, 1)
    np.testing.assert_array_equal(gradient, wanted)


def test_other_machines() -> None:
    x = gc.placeholder("x", ("n", 100), "float16")
    assert assemble(gc.argsort(x), gc.argsort(x, 0)) == 2
    assert assemble(*gc.topk(x, 3), info=WHOLE) == 1
