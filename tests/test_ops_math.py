"""Pointwise ops: NumPy's dtypes and corner cases, torch's gradients at kinks, and what errors say."""

import math

import numpy as np
import pytest
from op_values import apply, gradient, value

from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import Graph
from graphc.operands import constant
from graphc.ops import math as ops
from graphc.ops.control import identity, stop_gradient
from graphc.ops.state import placeholder

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def of(dtype, count=4):
    return np.arange(1, count + 1).astype(dtype)


def tensor(dtype="float32", shape=(2, 3)):
    return placeholder("x", shape, dtype)


# --- dtypes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        *("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "maximum", "minimum"),
        *("equal", "less", "negative", "abs", "sign", "sqrt", "exp", "tanh", "floor", "ceil"),
    ],
)
def test_one_dtype_gives_what_numpy_gives(name, dtype):
    operands = [of(dtype)] * getattr(np, name).nin
    try:
        expected = getattr(np, name)(*operands)
    except TypeError:
        with pytest.raises(DTypeError):
            apply(getattr(ops, name), *operands)
        return
    if dtype == "bool" and name in ("floor_divide", "remainder", "abs"):  # NumPy computes the first two in int8
        with pytest.raises(DTypeError):
            apply(getattr(ops, name), *operands)
        return
    got = apply(getattr(ops, name), *operands)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=1e-3 if dtype != "float64" else 1e-15)


def test_an_integer_never_widens_a_float():
    assert (tensor("float32") + tensor("int64")).dtype == "float32"
    assert (tensor("float16") * tensor("int32")).dtype == "float16"
    assert (tensor("float32") + tensor("float64")).dtype == "float64"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_python_numbers_are_weak(dtype):
    x = tensor(dtype)
    for y in (x + 1, 1 + x, x * 2.5, 2.5 / x, x**2.5, 2**x, x // 2, x % 2.0, ops.maximum(x, 0), ops.clip(x, -1, 1.0)):
        assert y.dtype == dtype


def test_python_floats_make_floats_of_integers():
    assert (tensor("int32") * 0.5).dtype == "float64"
    assert (tensor("int32") * 2).dtype == "int32"
    assert (tensor("bool") + 1).dtype == "int64"


def test_where_of_numbers_alone_has_the_dtype_of_constants():
    mask = tensor("bool")
    assert ops.where(mask, 1.0, 0.0).dtype == "float32"
    assert ops.where(mask, 1, 0).dtype == "int64"
    assert ops.where(mask, tensor("float16"), 0.0).dtype == "float16"


def test_bools_are_added_and_multiplied_as_logic():
    a, b = np.array([True, True, False]), np.array([True, False, False])
    np.testing.assert_array_equal(apply(ops.add, a, b), [True, True, False])
    np.testing.assert_array_equal(apply(ops.multiply, a, b), [True, False, False])


# --- values


def test_erf_is_accurate_to_an_ulp():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            rng.uniform(-7, 7, 20_000),
            10.0 ** rng.uniform(-320, 1, 5_000),
            *[np.nextafter(edge, [0, 9]) for edge in (0.84375, 1.25, 1 / 0.35, 6.0)],
            [0.84375, 1.25, 1 / 0.35, 6.0, 0.0, -0.0, np.inf, -np.inf],
        ]
    )
    expected = np.array([math.erf(v) for v in x])
    got = apply(ops.erf, x)
    assert np.all(np.abs(got - expected) <= np.spacing(np.abs(expected)))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))
    assert np.isnan(apply(ops.erf, np.array([np.nan])))


def test_powers_of_two_are_exact():
    exponents = np.arange(-300.0, 300.0)
    np.testing.assert_array_equal(apply(ops.exp2, exponents), np.exp2(exponents))


@pytest.mark.parametrize(
    ("log", "base", "dtype", "exponents"),
    [
        (ops.log2, 2.0, "float64", range(-1022, 1024)),
        (ops.log2, 2.0, "float32", range(-126, 128)),
        (ops.log10, 10.0, "float64", range(23)),
        (ops.log10, 10.0, "float32", range(11)),
    ],
)
def test_logarithms_are_exact_at_powers_of_their_base(log, base, dtype, exponents):
    np.testing.assert_array_equal(apply(log, np.array([base**k for k in exponents], dtype)), exponents)


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise"):
        np.testing.assert_allclose(
            apply(ops.sigmoid, np.array([-1e4, -30.0, 0.0, 30.0, 1e4])), [0, 9.357622968839e-14, 0.5, 1, 1], rtol=1e-12
        )


def test_division_of_integers_rounds_down_and_gives_zero_for_zero():
    a, b = np.array([7, -7, 7, -7, 5, 0]), np.array([2, 2, -2, -2, 0, 0])
    np.testing.assert_array_equal(apply(ops.floor_divide, a, b), [3, -4, -4, 3, 0, 0])
    np.testing.assert_array_equal(apply(ops.remainder, a, b), [1, 1, -1, -1, 0, 0])


def test_division_of_floats_is_numpys():
    a = np.array([7.0, -7.0, 1.0, 1.0, -1.0, 0.0, 1.0])
    b = np.array([2.0, 2.0, 0.1, 0.0, np.inf, 0.0, -np.inf])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(apply(ops.floor_divide, a, b), np.floor_divide(a, b))
        np.testing.assert_array_equal(apply(ops.remainder, a, b), np.remainder(a, b))


def test_integer_powers():
    a, b = np.array([2, -2, 3, 0, 1, -1, -1, 5, 0]), np.array([10, 3, 0, 0, -7, -7, -8, -1, -1])
    np.testing.assert_array_equal(apply(ops.power, a, b), [1024, -8, 1, 1, 1, -1, 1, 0, 0])
    assert apply(lambda x: x**3, np.array([100], np.int8)) == np.array([100], np.int8) ** 3


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 0.5, -1, -0.5, 2.0, 2.5])
def test_powers_of_floats(exponent):
    x = np.array([0.3, 1.0, 2.5, 9.0])
    np.testing.assert_allclose(apply(lambda t: t**exponent, x), x**exponent, rtol=1e-15)
    (slope,) = gradient(lambda t: t**exponent, x)
    np.testing.assert_allclose(slope, exponent * x ** (exponent - 1.0), rtol=1e-14)
    (curvature,) = gradient(lambda t: t**exponent, x, order=2)
    np.testing.assert_allclose(curvature, exponent * (exponent - 1) * x ** (exponent - 2.0), rtol=1e-14)


def test_small_powers_are_products():
    x = tensor()
    assert x**2 is x * x
    assert x**3 is x * x * x
    assert x**1 is x
    assert (tensor("bool") ** 2).dtype == "int64"


def test_round_takes_halves_to_the_even_neighbour():
    np.testing.assert_array_equal(apply(ops.round, np.array([-2.5, -0.5, 0.5, 1.5, 2.5])), [-2, -0.0, 0, 2, 2])


@pytest.mark.parametrize("decimals", [-2, -1, 0, 1, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int32"])
def test_round_to_decimals(decimals, dtype):
    x = np.array([-1234.5678, 15.0, 25.0, 250.0, 0.0625]).astype(dtype)
    got = apply(lambda t: t.round(decimals), x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, np.round(x, decimals))


@pytest.mark.parametrize("function", [ops.floor, ops.ceil, ops.round])
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_rounding_leaves_integers_alone(function, dtype):
    x = tensor(dtype)
    assert function(x) is x


def test_classification():
    x = np.array([1.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(apply(ops.isnan, x), np.isnan(x))
    np.testing.assert_array_equal(apply(ops.isinf, x), np.isinf(x))
    np.testing.assert_array_equal(apply(ops.isfinite, x), np.isfinite(x))
    np.testing.assert_array_equal(apply(ops.isfinite, np.array([1, 2])), [True, True])
    assert value(ops.isnan(np.array([1, 2]))).dtype == bool


def test_extremes_propagate_nan():
    x = np.array([np.nan, 1.0])
    for function in (ops.maximum, ops.minimum):
        np.testing.assert_array_equal(apply(function, x, np.array([1.0, np.nan])), [np.nan, np.nan])


@pytest.mark.parametrize(
    ("low", "high"), [(-1, 1), (None, 1), (-1, None), (0.5, None), (None, None), (2, -2), (np.array([0.0, 3, 0, 0]), 1)]
)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_clip_is_numpys(low, high, dtype):
    x = np.array([-3, -1, 1, 5]).astype(dtype)
    got = apply(lambda t: ops.clip(t, low, high), x)
    np.testing.assert_array_equal(
        got, np.minimum(np.maximum(x, -9 if low is None else low), 9 if high is None else high)
    )
    widens = isinstance(low, np.ndarray) or (dtype == "int64" and isinstance(low, float))
    assert got.dtype == ("float64" if widens else dtype)


def test_clip_takes_the_method_and_names():
    x = constant(np.array([-3.0, 0.5, 3.0]))
    np.testing.assert_array_equal(value(x.clip(max=1)), [-3, 0.5, 1])
    np.testing.assert_array_equal(value(x.clip(min=-1)), [-1, 0.5, 3])


# --- gradients at kinks


def test_the_gradient_of_abs_is_zero_at_zero():
    np.testing.assert_array_equal(gradient(ops.abs, [-2.0, 0.0, 3.0]), [[-1, 0, 1]])


@pytest.mark.parametrize("function", [ops.maximum, ops.minimum])
def test_ties_share_the_gradient(function):
    at_tie = [found[0] for found in gradient(function, [1.0], [1.0])]
    assert at_tie == [0.5, 0.5]
    assert gradient(lambda x: function(x, x), [1.0]) == [1]


def test_the_gradient_of_clip_is_one_inside_and_at_the_bounds():
    x, low, high = gradient(ops.clip, [-2.0, -1.0, 0.0, 1.0, 2.0], [-1.0] * 5, [1.0] * 5)
    np.testing.assert_array_equal(x, [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(low, [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(high, [0, 0, 0, 0, 1])


def test_crossed_bounds_clip_to_the_upper_one():
    x, low, high = gradient(ops.clip, [0.0], [2.0], [1.0])
    assert (x, low, high) == (0, 0, 1)


def test_powers_have_finite_gradients_at_zero():
    for order in (1, 2, 3):
        (square,) = gradient(lambda x: ops.power(x, constant(np.float64(2))), [0.0], order=order)
        (cube,) = gradient(lambda x: x**3, [0.0], order=order)
        assert square == (0, 2, 0)[order - 1]
        assert cube == (0, 0, 6)[order - 1]
    base, exponent = gradient(ops.power, [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(base, [0, 1, 0, 0])
    np.testing.assert_array_equal(exponent, [0, 0, 0, 0])
    assert gradient(lambda x: x**0, [0.0, 2.0])[0].tolist() == [0, 0]
    assert gradient(lambda x: x**0.5, [0.0]) == [np.inf]


def test_the_branch_not_taken_does_not_poison_the_gradient():
    (g,) = gradient(lambda x: ops.where(x > 0, ops.sqrt(x), x), [-1.0, 0.0, 4.0])
    np.testing.assert_array_equal(g, [1, 1, 0.25])


def test_remainder_has_the_gradient_of_its_definition():
    a, b = gradient(ops.remainder, [7.5, -7.5], [2.0, 2.0])
    np.testing.assert_array_equal(a, [1, 1])
    np.testing.assert_array_equal(b, [-3, 4])


def test_stop_gradient_stops_it_and_identity_does_not():
    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(gradient(lambda t: t * stop_gradient(t), x), [x])
    np.testing.assert_array_equal(gradient(lambda t: t * identity(t), x), [2 * x])
    np.testing.assert_array_equal(apply(stop_gradient, x), x)


# --- operators


def test_operators_mean_the_ops_from_both_sides():
    x, y = np.array([5, 3]), np.array([2, -2])
    a, b = constant(x), constant(y)
    cases = {
        a + b: x + y, a - b: x - y, a * b: x * y, a / b: x / y, a // b: x // y, a % b: x % y, -a: -x, abs(b): abs(y),
        10 - a: 10 - x, 10 / a: 10 / x, 10 // a: 10 // x, 10 % a: 10 % x, 2**a: 2**x, y + a: y + x,
        a < b: x < y, a <= 3: x <= 3, a > b: x > y, a >= b: x >= y,
        ~(a < b): ~(x < y), (a > 3) & (b > 0): (x > 3) & (y > 0), (a > 3) | (b > 0): (x > 3) | (y > 0),
    }  # fmt: skip
    for node, expected in cases.items():
        got = value(node)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_symbolic_shapes_broadcast():
    with Graph():
        x = placeholder("x", ("batch", 3))
        y = placeholder("y", (3,))
        z = ops.maximum(x, y) * 2
        assert str(z.type) == "float32[batch, 3]"
        feeds = {x: np.zeros((2, 3), np.float32), y: np.arange(3, dtype=np.float32)}
        np.testing.assert_array_equal(evaluate([z], feeds, {"batch": 2})[0], [[0, 2, 4], [0, 2, 4]])


# --- errors


def test_shapes_that_do_not_broadcast_are_told_with_the_line():
    with pytest.raises(ShapeError, match=r"add: shapes \[2, 3\] and \[4\] do not broadcast") as caught:
        tensor(shape=(2, 3)) + tensor(shape=(4,))
    assert any("test_ops_math.py" in line for line in caught.value.lines)


def test_an_operand_too_many_is_told():
    with pytest.raises(ArgumentError, match="tanh: takes 1 operands, got 2"):
        ops.tanh(tensor(), tensor())


def test_logic_of_numbers_tells_to_compare():
    with pytest.raises(DTypeError, match="logical_and: expected bool") as caught:
        tensor("int64") & tensor("int64")
    assert "gc.not_equal(x, 0)" in caught.value.hint


def test_arithmetic_that_bools_lack_tells_to_cast():
    for function in (ops.subtract, ops.power_op, ops.floor_divide):
        with pytest.raises(DTypeError, match="expected number operands, got bool"):
            function(tensor("bool"), tensor("bool"))


def test_an_integer_to_a_negative_power_is_refused():
    with pytest.raises(DTypeError, match=r"power: int64\[2, 3\] to the power -1") as caught:
        tensor("int64") ** -1
    assert "cast" in caught.value.hint


def test_a_number_that_the_dtype_cannot_hold_is_refused():
    with pytest.raises(DTypeError, match="the integer 300 does not fit uint8"):
        tensor("uint8") + 300
