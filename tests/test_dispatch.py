"""`__graphc_op__`: an operand that isn't a node takes the call, so the same functions run on other kinds of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from op_testing import call, is_array, same_bits, samples_of

from graphc.composites import Composite, composite, items
from graphc.evaluate import evaluate
from graphc.ir import Graph
from graphc.op import Op
from graphc.operands import parameter
from graphc.operators import Operators
from graphc.ops import REGISTRY
from graphc.ops.math import add, multiply, subtract
from graphc.ops.state import placeholder
from graphc.types import TensorType, dtype_name


TAKING = [
    pytest.param(op, id=op.name)
    for op in REGISTRY.values()
    if any(is_array(arg) for sample in samples_of(op) for arg in sample.args)
]


class Eager(Operators):
    """A tensor that has its value: each op is computed when it is called, a composite by running its definition."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)
        self.type = TensorType(dtype_name(self.array.dtype), self.array.shape)
        self.shape, self.dtype, self.ndim = self.type.shape, self.type.dtype, self.type.rank

    def __graphc_op__(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        if isinstance(op, Composite):
            return op.fn(*args, **{**op.defaults, **attrs})
        held = [arg if isinstance(arg, Eager) else None for arg in args]
        formals = [parameter(k, a.type) if a else arg for k, (a, arg) in enumerate(zip(held, args, strict=True))]
        node = op(*formals, **attrs)
        found = evaluate(items(node), {f: a.array for f, a in zip(formals, held, strict=True) if a})
        return Eager(found[0]) if isinstance(node.type, TensorType) else tuple(map(Eager, found))


class Recorder(Operators):
    """Notes the calls that it takes."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __graphc_op__(self, op: Op, args: tuple[Any, ...], attrs: dict[str, Any]) -> str:
        self.calls.append((op, args, attrs))
        return "taken"


@composite
def scaled_sum(x, y=None, *, scale=2.0):
    return multiply(x if y is None else add(x, y), scale)


def test_an_operand_takes_the_call_from_any_position():
    taker = Recorder()
    with Graph():
        x = placeholder("x", (2,))
    assert add(x, taker) == "taken"
    assert add(1.0, taker) == "taken"
    assert taker.calls == [(add, (x, taker), {}), (add, (1.0, taker), {})]


def test_the_first_of_several_takes_the_call():
    first, second = Recorder(), Recorder()
    add(first, second)
    assert len(first.calls) == 1
    assert second.calls == []


def test_a_composite_is_taken_whole_with_the_attributes_that_were_given():
    taker = Recorder()
    scaled_sum(taker)
    scaled_sum(1.0, taker, scale=3.0)
    scaled_sum(x=1.0, y=taker)
    assert taker.calls == [
        (scaled_sum, (taker,), {}),
        (scaled_sum, (1.0, taker), {"scale": 3.0}),
        (scaled_sum, (1.0, taker), {}),
    ]


def test_operators_reach_the_operand_from_both_sides():
    taker = Recorder()
    assert taker - 1.0 == "taken"
    assert 1.0 - taker == "taken"
    assert np.ones(2) - taker == "taken"
    assert [args[0] is taker for _, args, _ in taker.calls] == [True, False, False]
    assert {op for op, _, _ in taker.calls} == {subtract}


def test_a_node_on_the_left_leaves_an_operator_to_the_operand():
    taker = Recorder()
    with Graph():
        x = placeholder("x", (2,))
    assert x + taker == "taken"
    assert taker.calls == [(add, (x, taker), {})]


def test_nothing_is_built_when_a_call_is_taken():
    with Graph() as graph:
        x = placeholder("x", (2,))
        before = len(graph)
        add(x, Recorder())
        scaled_sum(x, Recorder())
        assert len(graph) == before


def test_operators_and_methods_compute_on_eager_tensors():
    x = Eager([[1.0, -2.0], [3.0, 4.0]])
    np.testing.assert_array_equal((2 * x - 1).array, [[1, -5], [5, 7]])
    np.testing.assert_array_equal((x / 2).array, [[0.5, -1], [1.5, 2]])
    np.testing.assert_array_equal((-x).array, [[-1, 2], [-3, -4]])
    np.testing.assert_array_equal((x > 0).array, [[True, False], [True, True]])
    np.testing.assert_array_equal((x @ x).array, [[-5, -10], [15, 10]])
    np.testing.assert_array_equal(x[:, 1].array, [-2, 4])
    np.testing.assert_array_equal(x.sum(axis=0).array, [4, 2])
    np.testing.assert_array_equal(x.reshape(4).array, [1, -2, 3, 4])
    np.testing.assert_array_equal(x.T.array, [[1, 3], [-2, 4]])


@pytest.mark.parametrize("op", TAKING)
def test_every_op_computes_on_eager_tensors_what_its_node_means(op):
    for sample in samples_of(op):
        made = call(op, sample)
        args = [Eager(arg) if is_array(arg) else arg for arg in sample.args]
        returned = op(*args, **sample.attrs)
        found = returned if isinstance(returned, tuple) else (returned,)
        for eager, value in zip(found, made.values(), strict=True):
            assert isinstance(eager, Eager)
            assert same_bits(eager.array, value)
