"""Sorting: NumPy's order, NaN and ties, the largest elements, and where gradients go."""

import numpy as np
import pytest
from numpy_testing import check, leaf, run

from graphc.dims import symbol
from graphc.errors import ArgumentError, ShapeError
from graphc.evaluate import evaluate
from graphc.operands import parameter
from graphc.ops import sorting
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
n = symbol("n")

TIES = np.array([[3, 1, 2, 1], [0, 0, -1, 5], [2, 2, 2, 2]], "float32")
SPECIAL = np.array([0.0, np.nan, -np.inf, 1.0, -0.0, np.inf, np.nan, -1.0])


@EACH_SIZE
@pytest.mark.parametrize("axis", [-1, 0, None])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "bool"])
def test_sorts_are_numpys(axis, dtype, symbolic):
    a = np.abs(TIES).astype(dtype)
    check(lambda x: sorting.sort(x, axis), lambda a: np.sort(a, axis), a, symbolic=symbolic)
    check(lambda x: sorting.argsort(x, axis), lambda a: np.argsort(a, axis, kind="stable"), a, symbolic=symbolic)


def test_nan_is_last_and_zeros_of_both_signs_are_equal():
    check(sorting.argsort, lambda a: np.argsort(a, kind="stable"), SPECIAL)
    assert run(sorting.argsort, SPECIAL).tolist() == [2, 7, 0, 4, 3, 5, 1, 6]


def test_nan_comes_first_in_descending_order():
    descending = run(lambda x: sorting.argsort(x, descending=True), SPECIAL)
    assert descending.tolist() == [1, 6, 5, 3, 0, 4, 7, 2]


def test_equal_elements_keep_their_order_both_ways():
    a = np.array([1, 0, 1, 0, 1])
    assert run(sorting.argsort, a).tolist() == [1, 3, 0, 2, 4]
    assert run(lambda x: sorting.argsort(x, descending=True), a).tolist() == [0, 2, 4, 1, 3]


@EACH_SIZE
@pytest.mark.parametrize(("k", "axis"), [(2, -1), (3, 0), (0, 1), (4, 1)])
def test_topk_is_the_head_of_the_sorted(k, axis, symbolic):
    def head(order):
        return lambda a: (np.take_along_axis(a, order(a), axis), order(a))

    def largest(a):
        return np.argsort(-a, axis, kind="stable").take(range(k), axis)

    def smallest(a):
        return np.argsort(a, axis, kind="stable").take(range(k), axis)

    check(lambda x: sorting.topk(x, k, axis), head(largest), TIES, symbolic=symbolic)
    check(lambda x: x.topk(k, axis, largest=False), head(smallest), TIES, symbolic=symbolic)


def test_topk_of_a_symbolic_count():
    values, indices = sorting.topk(parameter(0, TensorType("float32", (n, 9))), n // 2, 0)
    assert values.shape == indices.shape == (n // 2, 9)
    assert indices.dtype == "int64"


def test_topk_of_more_than_there_are():
    with pytest.raises(ArgumentError, match="k=5 of the 4 elements of axis 1"):
        sorting.topk(leaf(TIES), 5)
    with pytest.raises(ShapeError, match="axis -1 doesn't exist"):
        sorting.sort(leaf(np.float32(3)))


def test_gradients_go_where_the_elements_came_from():
    x, w = leaf(TIES), np.arange(12, dtype="float32").reshape(3, 4)
    (g,) = gradients(sorting.sort(x, descending=True), [x], [w])
    (got,) = evaluate([g], {x: TIES})
    np.testing.assert_array_equal(got, [[0, 2, 1, 3], [5, 6, 7, 4], [8, 9, 10, 11]])

    values, _ = sorting.topk(x, 2)
    (g,) = gradients(values, [x])
    (got,) = evaluate([g], {x: TIES})
    np.testing.assert_array_equal(got, [[1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]])
