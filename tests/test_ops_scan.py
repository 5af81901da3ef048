"""Running sums and products."""

import numpy as np
import pytest
from op_values import apply, gradient

from graphc.errors import DTypeError, ShapeError
from graphc.operands import constant
from graphc.ops.scan import cumprod, cumsum, linear_recurrence

X = np.array([[1.0, 2.0, -3.0, 4.0], [0.5, 0.0, 2.0, 0.0]])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize(("function", "expected"), [(cumsum, np.cumsum), (cumprod, np.cumprod)])
def test_scans_are_numpys(function, expected, axis):
    np.testing.assert_allclose(apply(lambda x: function(x, axis), X), expected(X, axis))


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "float32"])
@pytest.mark.parametrize(("function", "expected"), [(cumsum, np.cumsum), (cumprod, np.cumprod)])
def test_dtypes_are_numpys(function, expected, dtype):
    x = np.array([1, 1, 0, 1]).astype(dtype)
    got = apply(function, x)
    assert got.dtype == expected(x).dtype
    np.testing.assert_array_equal(got, expected(x))


def test_directions_and_exclusion():
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(apply(lambda t: t.cumsum(reverse=True), x), [6, 5, 3])
    np.testing.assert_array_equal(apply(lambda t: t.cumsum(exclusive=True), x), [0, 1, 3])
    np.testing.assert_array_equal(apply(lambda t: t.cumsum(reverse=True, exclusive=True), x), [5, 3, 0])
    np.testing.assert_array_equal(apply(lambda t: t.cumprod(reverse=True), x), [6, 6, 3])
    np.testing.assert_array_equal(apply(lambda t: t.cumprod(exclusive=True), x), [1, 1, 2])
    np.testing.assert_array_equal(apply(lambda t: t.cumprod(reverse=True, exclusive=True), x), [6, 3, 1])


def test_scans_of_nothing_and_of_numbers():
    assert apply(lambda t: t.cumsum(0), np.ones((0, 2))).shape == (0, 2)
    assert apply(lambda t: t.cumsum(0, exclusive=True), np.ones((0, 2))).shape == (0, 2)
    np.testing.assert_array_equal(apply(cumsum, np.float64(3)), [3])


def test_products_have_right_gradients_where_factors_are_zero():
    x = [2.0, 0.0, 3.0, 0.0]
    (g,) = gradient(cumprod, x)  # of 2 + 2·0 + 2·0·3 + 2·0·3·0 in each factor
    np.testing.assert_array_equal(g, [1, 2 + 2 * 3, 0, 0])
    (h,) = gradient(lambda t: cumprod(t)[3:], x, order=2)
    np.testing.assert_array_equal(h, [0, 2 * 3, 0, 2 * 3])


def test_a_linear_recurrence_gives_the_states_before_each_element():
    a, b = np.array([2.0, 3.0, 0.5]), np.array([1.0, -1.0, 4.0])
    got = apply(lambda s, t: linear_recurrence(s, t, initial=10.0), a, b)
    np.testing.assert_array_equal(got, [10, 21, 62])
    got = apply(lambda s, t: linear_recurrence(s, t, reverse=True), a, b)
    np.testing.assert_array_equal(got, [11, 4, 0])


def test_a_linear_recurrence_broadcasts():
    a = np.array([[2.0], [3.0]])
    got = apply(lambda s: linear_recurrence(s, np.ones(3), axis=1), a)
    np.testing.assert_array_equal(got, [[0, 1, 3], [0, 1, 4]])
    assert apply(lambda s: linear_recurrence(s, 1.0), np.ones(3, np.float16)).dtype == np.float16


def test_errors():
    with pytest.raises(ShapeError, match="axis 2 doesn't exist"):
        constant(X).cumsum(2)
    with pytest.raises(DTypeError, match="expected number operands"):
        linear_recurrence(np.array([True]), np.array([True]))
