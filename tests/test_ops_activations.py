"""Activations against their definitions, at their kinks, and far out."""

import math

import numpy as np
import pytest
from op_values import apply, gradient

from graphc.errors import ArgumentError, ShapeError
from graphc.operands import constant
from graphc.ops import activations as ops
from graphc.ops.math import sigmoid

X = np.array([-1e3, -30.0, -2.0, -0.5, -0.0, 0.0, 0.5, 2.0, 30.0, 1e3])


def logistic(x):
    return np.exp(-np.logaddexp(0, -x))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (ops.relu, np.maximum(X, 0)),
        (ops.leaky_relu, np.where(X > 0, X, 0.01 * X)),
        (lambda x: ops.leaky_relu(x, 0.3), np.where(X > 0, X, 0.3 * X)),
        (ops.elu, np.where(X > 0, X, np.expm1(np.minimum(X, 0)))),
        (lambda x: ops.elu(x, 2), np.where(X > 0, X, 2 * np.expm1(np.minimum(X, 0)))),
        (ops.gelu, X * [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in X]),
        (ops.silu, X * logistic(X)),
        (ops.softplus, np.logaddexp(0, X)),
        (lambda x: ops.softplus(x, beta=3), np.logaddexp(0, 3 * X) / 3),
        (lambda x: ops.softplus(x, 1, threshold=-math.inf), X),
        (ops.log_sigmoid, -np.logaddexp(0, -X)),
    ],
)
def test_values(function, expected):
    np.testing.assert_allclose(apply(function, X), expected, rtol=1e-8, atol=1e-300)


@pytest.mark.parametrize(
    "function",
    [
        *(ops.relu, ops.leaky_relu, ops.elu, ops.gelu, ops.silu, ops.softplus, ops.log_sigmoid, sigmoid),
        lambda x: ops.gelu(x, "tanh"),
        lambda x: ops.softmax(x, 0),
        lambda x: ops.log_softmax(x, 0),
    ],
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_all_derivatives_are_finite_far_out(function, order):
    found = gradient(function, X, order=order) if order else [apply(function, X)]
    assert np.isfinite(found).all()


def test_the_axis_of_a_softmax_may_be_called_dim():
    x = constant(np.ones((2, 3)))
    assert ops.softmax(x, dim=0) is ops.softmax(x, 0)
    assert x.log_softmax(dim=-2) is ops.log_softmax(x, 0)
    with pytest.raises(ArgumentError, match="two names of one argument"):
        ops.softmax(x, 0, dim=1)


def test_the_tanh_approximation_of_gelu_is_near_and_different():
    x = np.linspace(-3, 3, 13)
    exact, near = apply(ops.gelu, x), apply(lambda t: ops.gelu(t, approximate="tanh"), x)
    assert 1e-6 < np.abs(exact - near).max() < 1e-3


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (ops.relu, 0.0),
        (ops.leaky_relu, 0.01),
        (lambda x: ops.elu(x, 2.0), 2.0),
        (ops.gelu, 0.5),
        (ops.silu, 0.5),
        (ops.softplus, 0.5),
    ],
)
def test_slopes_at_zero_are_torchs(function, slope):
    assert gradient(function, [0.0]) == [slope]


def test_nan_stays_nan():
    x = np.array([np.nan])
    for function in (ops.relu, ops.leaky_relu, ops.elu, ops.gelu, ops.silu, ops.softplus):
        assert np.isnan(apply(function, x)).all()


def test_relu_of_integers_stays_integral():
    got = apply(ops.relu, np.array([-1, 2], np.int8))
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, [0, 2])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_and_its_logarithm(axis):
    x = np.array([[1.0, 2.0, 1e3], [-1e3, 0.0, 1e3]])
    shifted = x - x.max(axis, keepdims=True)
    expected = np.exp(shifted) / np.exp(shifted).sum(axis, keepdims=True)
    np.testing.assert_allclose(apply(lambda t: ops.softmax(t, axis), x), expected, rtol=1e-14)
    logs = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    np.testing.assert_allclose(apply(lambda t: ops.log_softmax(t, axis), x), logs, rtol=1e-14)


def test_masked_entries_get_no_weight_and_no_gradient():
    x = np.array([[0.0, -np.inf, 1.0]])
    weights = apply(ops.softmax, x)
    assert weights[0, 1] == 0
    np.testing.assert_allclose(weights.sum(), 1)
    for function in (lambda t: ops.softmax(t)[:, 2:], lambda t: ops.log_softmax(t)[:, 2:]):
        (g,) = gradient(function, x)
        assert np.isfinite(g).all()
        assert g[0, 1] == 0


def test_softmax_of_halves_sums_in_float32():
    weights = apply(ops.softmax, np.zeros(3000, np.float16))
    assert weights.dtype == np.float16
    assert weights[0] == np.float16(1 / 3000)


def test_softmax_of_integers_is_one_of_floats():
    assert apply(ops.softmax, np.array([1, 2])).dtype == np.float64


def test_softmax_takes_the_name_of_an_axis_and_refuses_others():
    with pytest.raises(ShapeError, match="axis 2 doesn't exist"):
        apply(lambda t: ops.softmax(t, 2), np.ones((2, 2)))


def test_an_unknown_approximation_of_gelu_is_refused():
    with pytest.raises(ArgumentError, match="approximate='fast' is not one of 'none', 'tanh'"):
        apply(lambda t: ops.gelu(t, "fast"), X)
