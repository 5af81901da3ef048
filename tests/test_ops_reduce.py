"""Reductions: NumPy's signatures and dtypes, symbolic sizes, gradients at ties and zeros, and what errors say."""

import numpy as np
import pytest
from op_values import apply, gradient, value

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import Graph, toposort
from graphc.operands import constant
from graphc.ops import reduce as ops
from graphc.ops.extent import extent
from graphc.ops.math import sqrt
from graphc.ops.state import placeholder

SEVERAL_AXES = ("sum", "prod", "max", "min", "mean", "var", "std", "any", "all")
NAMES = (*SEVERAL_AXES, "argmax", "argmin")
X = np.random.default_rng(0).uniform(-2, 2, (3, 4, 5)).round(1)


def with_dims(function, array, shape, **dims):
    """The value of `function` of `array`, fed to a placeholder with symbolic dimensions."""
    with Graph():
        x = placeholder("x", shape, array.dtype)
        y = function(x)
        for node in toposort([y]):
            assert all(guard.holds(dims) for guard in node.guards)
        return evaluate([y], {x: array}, dims)[0]


# --- signatures


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    ("name", "axis"),
    [(name, axis) for name in NAMES for axis in (None, 0, -1, 1)]
    + [(name, axes) for name in SEVERAL_AXES for axes in ((0, 2), (-1, 0), (0, 1, 2))],
)
def test_axes_are_numpys(name, axis, keepdims):
    expected = getattr(np, name)(X, axis=axis, keepdims=keepdims)
    for function in (getattr(ops, name), lambda x, axis, keepdims: getattr(x, name)(axis, keepdims)):
        got = apply(lambda x, f=function: f(x, axis, keepdims), X)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("name", SEVERAL_AXES)
def test_no_axes_reduce_nothing(name):
    expected = getattr(np, name)(X, axis=())
    np.testing.assert_allclose(apply(lambda x: getattr(ops, name)(x, axis=()), X), expected, rtol=1e-12)
    scalar = np.float64(3.0)
    assert apply(getattr(ops, name), scalar) == getattr(np, name)(scalar)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"])
def test_dtypes_are_numpys_but_for_means_of_integers(dtype):
    x = np.array([[1, 2, 3], [3, 0, 1]]).astype(dtype)
    for name in NAMES:
        expected = getattr(np, name)(x, axis=1)
        got = apply(lambda t, n=name: getattr(ops, n)(t, axis=1), x)
        moment = name in ("mean", "var", "std") and not dtype.startswith("float")
        wanted = "float32" if moment else "int64" if expected.dtype == np.uint64 else expected.dtype
        assert got.dtype == wanted, name
        np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=1e-3)


def test_dtype_is_that_of_the_accumulation():
    x = np.array([100, 100], np.int8)
    assert apply(lambda t: t.sum(dtype="int8"), x) == np.int8(-56)
    assert apply(lambda t: t.sum(), x) == 200
    assert apply(lambda t: t.mean(dtype="float64"), x).dtype == "float64"
    assert apply(lambda t: t.prod(dtype="float32"), x) == np.float32(10_000)


def test_ddof_and_correction_are_one_argument():
    np.testing.assert_allclose(apply(lambda x: x.var(1, ddof=1), X), X.var(1, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(apply(lambda x: x.std(correction=2), X), X.std(ddof=2), rtol=1e-12)
    with pytest.raises(ArgumentError, match="ddof and correction"):
        constant(X).var(ddof=1, correction=1)


# --- values


@pytest.mark.parametrize("name", ["max", "min"])
def test_extremes_propagate_nan(name):
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    np.testing.assert_array_equal(apply(lambda t: getattr(ops, name)(t, axis=1), x), getattr(np, name)(x, axis=1))
    assert apply(getattr(ops, f"arg{name}"), x) == 1


def test_the_first_of_several_positions_counts():
    x = np.array([[2.0, 1.0, 2.0, 1.0]])
    assert apply(lambda t: t.argmax(1), x) == 0
    assert apply(lambda t: t.argmin(1), x) == 1


def test_quantifiers_take_numbers_as_not_zero():
    x = np.array([[0.0, np.nan], [0.0, 0.0]])
    np.testing.assert_array_equal(apply(lambda t: t.any(1), x), [True, False])
    np.testing.assert_array_equal(apply(lambda t: t.all(0), x), [False, False])


def test_empty_axes_give_the_identity():
    x = np.ones((0, 3))
    np.testing.assert_array_equal(apply(lambda t: t.sum(0), x), [0, 0, 0])
    np.testing.assert_array_equal(apply(lambda t: t.prod(0), x), [1, 1, 1])
    np.testing.assert_array_equal(apply(lambda t: t.any(0), x), [False] * 3)
    np.testing.assert_array_equal(apply(lambda t: t.all(0), x), [True] * 3)
    assert np.isnan(apply(lambda t: t.mean(0), x)).all()
    assert apply(lambda t: t.max(1), x).shape == (0,)


def test_the_variance_does_not_cancel():
    x = np.array([1.0, 2.0, 3.0, 4.0]) + 1e8
    assert apply(ops.var, x) == 1.25


def test_halves_are_accumulated_in_float32():
    x = np.full((10_000,), 100.0, np.float16)
    assert apply(ops.mean, x) == 100
    assert apply(ops.std, np.tile(np.float16([0, 200]), 5_000)) == 100
    assert apply(ops.logsumexp, np.zeros(60_000, np.float16)).dtype == np.float16


def test_means_of_integers_do_not_overflow():
    assert apply(ops.mean, np.array([2**62, 2**62, 2**62])) == np.float32(2.0**62)
    assert apply(ops.mean, np.array([True, False, True, True])) == 0.75


def test_logsumexp():
    x = np.array([[1e4, 1e4], [-1e4, -1e4], [-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 2.0]])
    expected = [1e4 + np.log(2), -1e4 + np.log(2), -np.inf, np.inf, 2.0]
    np.testing.assert_allclose(apply(lambda t: ops.logsumexp(t, axis=1), x), expected)
    assert apply(lambda t: ops.logsumexp(t, axis=1, keepdims=True), x).shape == (5, 1)


# --- symbolic sizes


def test_an_axis_may_be_named():
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(with_dims(lambda t: t.sum("batch"), x, ("batch", 3), batch=2), [3, 5, 7])
    with Graph(), pytest.raises(ShapeError, match="no axis is named 'rows'"):
        placeholder("x", ("batch", 3)).sum("rows")


@pytest.mark.parametrize("function", [ops.mean, ops.var, ops.std, ops.logsumexp, ops.max, ops.prod])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_symbolic_sizes_reduce_like_known_ones(function, axis):
    expected = apply(lambda t: function(t, axis), X)
    got = with_dims(lambda t: function(t, axis), X, ("n", "m", 5), n=3, m=4)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_an_extent_is_a_constant_or_a_value_of_the_run():
    assert value(extent(7, "float32")) == np.float32(7)
    assert extent(7).op.kind == "constant"
    with Graph():
        x = placeholder("x", ("batch", 3))
        size = extent(2 * x.shape[0] + 1, "float64")
        assert evaluate([size], {}, {"batch": 4})[0] == 9.0


def test_one_mean_serves_every_batch_size():
    with Graph():
        x = placeholder("x", ("batch",), "float64")
        y = x.mean()
        for size in (1, 4):
            assert evaluate([y], {x: np.arange(float(size))}, {"batch": size})[0] == (size - 1) / 2


def test_the_maximum_of_an_unknown_number_is_guarded():
    with Graph():
        x = placeholder("x", ("batch", 3))
        (guard,) = x.max(axis=0).inputs[0].guards
    assert guard.holds({"batch": 1})
    assert not guard.holds({"batch": 0})


# --- gradients


@pytest.mark.parametrize(("function", "best"), [(ops.max, 3.0), (ops.min, -3.0)])
def test_ties_share_the_gradient_evenly(function, best):
    (g,) = gradient(lambda x: function(x, axis=1), [[best, best, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(g, [[0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]])


@pytest.mark.parametrize("axis", [None, 1])
def test_products_have_right_gradients_where_factors_are_zero(axis):
    x = np.array([[2.0, 3.0, 0.0], [0.0, 5.0, 0.0]])
    for order in (1, 2):
        (got,) = gradient(lambda t: ops.prod(t, axis), x, order=order)
        rows = [x.reshape(-1)] if axis is None else list(x)
        expected = np.concatenate([leave_out(row, order) for row in rows]).reshape(x.shape)
        np.testing.assert_allclose(got, expected)


def leave_out(row, order):
    """For each element, the products of the others, or the sums of products without one more of them."""
    n = len(row)
    if order == 1:
        return np.array([np.prod(np.delete(row, i)) for i in range(n)])
    return np.array([sum(np.prod(np.delete(row, [i, j])) for j in range(n) if j != i) for i in range(n)])


def test_a_deviation_of_zero_has_gradient_zero():
    for order in (1, 2):
        np.testing.assert_array_equal(gradient(ops.std, [2.0, 2.0, 2.0], order=order), [[0, 0, 0]])
    assert np.isnan(gradient(lambda x: sqrt(ops.var(x)), [2.0, 2.0])).all()


def test_a_row_of_minus_infinity_does_not_poison_logsumexp():
    (g,) = gradient(lambda x: ops.logsumexp(x, axis=1), [[-np.inf, -np.inf], [-np.inf, 1.0]])
    np.testing.assert_array_equal(g, [[0, 0], [0, 1]])


def test_the_gradient_of_logsumexp_is_the_softmax_where_it_is_infinite_or_nan_too():
    (g,) = gradient(lambda x: ops.logsumexp(x, axis=1), [[1.0, np.inf], [1.0, np.nan]])
    np.testing.assert_array_equal(g, [[0, np.nan], [np.nan, np.nan]])


def test_gradients_reach_through_symbolic_means():
    with Graph():
        (g,) = gradient(lambda x: (x * x).mean(), [1.0, 2.0, 3.0])
    np.testing.assert_allclose(g, np.array([2.0, 4.0, 6.0]) / 3)


# --- errors


def test_the_maximum_of_nothing_is_refused():
    for name in ("max", "min", "argmax", "argmin"):
        with pytest.raises(ShapeError, match="must not be empty") as caught:
            getattr(constant(np.ones((0, 3))), name)(axis=0)
        assert any("test_ops_reduce.py" in line for line in caught.value.lines)


@pytest.mark.parametrize("axis", [3, -4, (0, 3), "batch", 1.5, True])
def test_axes_that_do_not_exist_are_refused(axis):
    with pytest.raises(ShapeError, match="axis"):
        constant(X).sum(axis=axis)


def test_an_axis_given_twice_is_refused():
    with pytest.raises(ShapeError, match="names one axis twice"):
        constant(X).sum(axis=(0, -3))


def test_a_mean_in_integers_is_refused():
    with pytest.raises(DTypeError, match="mean: dtype='int64'"):
        constant(X).mean(dtype="int64")
