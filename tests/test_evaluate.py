"""Evaluation by the ops' references: the meaning of programs."""

import warnings

import ml_dtypes
import numpy as np
import pytest
from op_testing import same_bits

from graphc.composites import composite, items
from graphc.dims import symbol
from graphc.errors import InternalError, ShapeError
from graphc.evaluate import bind_value, evaluate
from graphc.ir import Graph
from graphc.operands import broadcast_op, cast, constant, expand_dims_op, one_type, pointwise, primitive, reduce_sum
from graphc.ops.math import add, subtract
from graphc.ops.state import placeholder
from graphc.types import TensorType, TupleType

split = primitive("split", lambda x: TupleType([x, x]), lambda x: (x - 1, x + 1), None, "opaque")
logarithm = pointwise("logarithm", np.log, None)


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph() as graph:
        yield graph


def test_the_values_of_all_roots_come_in_their_order():
    x, y = placeholder("x", (2,), "float64"), placeholder("y", (), "float64")
    total = add(x, y)
    values = evaluate([subtract(total, x), x, total], {x: np.array([1.0, 2.0]), y: np.array(3.0)})
    assert [value.tolist() for value in values] == [[3.0, 3.0], [1.0, 2.0], [4.0, 5.0]]


def test_every_value_is_an_array_of_the_nodes_type():
    x = placeholder("x", (3,), "float32")
    for node in (reduce_sum(x, axes=(0,)), cast(x, "int8"), add(x, 1.0), expand_dims_op(x, axes=(0,)), constant(2.0)):
        (value,) = evaluate([node], {x: np.ones(3, np.float32)})
        assert isinstance(value, np.ndarray)
        assert TensorType(value.dtype.name, value.shape) is node.type


def test_zero_dimensional_values_stay_arrays():
    x = placeholder("x", (), "float64")
    (value,) = evaluate([add(x, x)], {x: np.array(2.0)})
    assert isinstance(value, np.ndarray)
    assert value.shape == ()


def test_a_given_value_is_taken_instead_of_computed():
    x = placeholder("x", (), "float64")
    inner = add(x, 1.0)
    outer = add(inner, inner)
    assert evaluate([outer], {inner: np.array(10.0)})[0] == 20  # x itself isn't needed then
    assert evaluate([outer, inner], {x: np.array(0.0), inner: np.array(10.0)})[1] == 10


def test_a_leaf_without_a_value_is_named():
    x = placeholder("x", (2,), "float32")
    with pytest.raises(InternalError, match=r"<x: float32\[2\]> has no value"):
        evaluate([add(x, x)], {})


def test_symbolic_attributes_take_the_sizes_of_the_run():
    n = symbol("n")
    x = placeholder("x", (1, "n"), "float64")
    node = broadcast_op(x, shape=(2 * n + 1, n))
    (value,) = evaluate([node], {x: np.zeros((1, 3))}, {"n": 3})
    assert value.shape == (7, 3)
    with pytest.raises(ShapeError, match="n is not known"):
        evaluate([node], {x: np.zeros((1, 3))})


def test_sizes_reach_the_bodies_of_composites():
    @composite
    def widened(x):
        return broadcast_op(x, shape=(x.shape[1], x.shape[1]))

    x = placeholder("x", (1, "n"), "float64")
    (value,) = evaluate([widened(x)], {x: np.zeros((1, 3))}, {"n": 3})
    assert value.shape == (3, 3)


def test_attributes_are_bound_inside_nested_tuples():
    n = symbol("n")
    assert bind_value(((1, n), "n", (n + 1,), None, 2.5), {"n": 4}) == ((1, 4), "n", (5,), None, 2.5)


def test_several_results_are_a_tuple_and_each_has_its_type():
    x = placeholder("x", (2,), "float16")
    node = split(x)
    below, above = items(node)
    whole, low, high = evaluate([node, below, above], {x: np.array([1, 2], np.float16)})
    assert isinstance(whole, tuple)
    assert low is whole[0]
    assert high is whole[1]
    assert high.dtype == np.float16
    assert high.tolist() == [2, 3]


def test_a_composite_of_several_results_is_a_tuple():
    @composite
    def both(x):
        return add(x, 1.0), subtract(x, 1.0)

    x = placeholder("x", (2,), "float64")
    up, down = both(x)
    assert [v.tolist() for v in evaluate([down, up], {x: np.array([1.0, 2.0])})] == [[0, 1], [2, 3]]


def test_a_composite_may_return_its_operand():
    @composite
    def same(x):
        return x

    x = placeholder("x", (2,), "float64")
    given = np.array([1.0, 2.0])
    assert evaluate([same(x)], {x: given})[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    seen = []

    def three_times(x):
        seen.append(x.dtype)
        return x + x + x

    thrice = pointwise("thrice", three_times, None)
    x = placeholder("x", (1,), dtype)
    given = np.array([1.0 + float(ml_dtypes.finfo(kind).eps)], kind)
    (value,) = evaluate([thrice(x)], {x: given})
    assert seen == [np.float32]
    assert same_bits(value, (3 * given.astype(np.float32)).astype(kind))


def test_a_sum_of_many_halves_does_not_lose_its_small_terms():
    x = placeholder("x", (4096,), "float16")
    (value,) = evaluate([reduce_sum(x, axes=(0,))], {x: np.ones(4096, np.float16)})
    assert value == 4096  # 2048 + 1 is 2048 in float16


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_special_values_raise_no_warnings(dtype):
    x = placeholder("x", (3,), dtype)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (value,) = evaluate([logarithm(x)], {x: np.array([-1, 0, np.inf], kind)})
    assert np.isnan(value[0])
    assert value[1] == -np.inf


def test_evaluation_changes_no_given_array():
    double = primitive("double", one_type, lambda x: np.multiply(x, 2), None, "pointwise")
    x = placeholder("x", (2,), "float64")
    given = np.array([1.0, 2.0])
    given.setflags(write=False)
    assert evaluate([double(add(x, 0.0))], {x: given})[0].tolist() == [2.0, 4.0]
    assert given.tolist() == [1.0, 2.0]
