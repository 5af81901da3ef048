"""Composites: one node with a body, what they capture, how they nest, their own gradient rules."""

import numpy as np
import pytest
from op_testing import decomposed

from graphc.composites import composite, custom_gradient
from graphc.errors import ArgumentError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import Graph
from graphc.occurrences import derived_from
from graphc.op import Op
from graphc.operands import constant
from graphc.ops.activations import gelu
from graphc.ops.math import add, multiply, subtract
from graphc.ops.random import uniform
from graphc.ops.state import placeholder


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def x_leaf(shape=(3,), name="x", dtype="float32"):
    return placeholder(name, shape, dtype)


@composite
def twice_plus(x, y=None, *, times=2):
    total = x if y is None else add(x, y)
    for _ in range(times):
        total = add(total, total)
    return total


@composite
def both(x, y):
    return add(x, y), subtract(x, y)


def test_a_composite_is_one_node_with_a_body():
    x = x_leaf()
    node = twice_plus(x)
    assert node.op is twice_plus
    assert node.inputs == (x,)
    assert node.attrs == {"times": 2}
    assert node.type is x.type
    assert [n.op.name for n in node.body.nodes()] == ["parameter", "add", "add"]


def test_equal_calls_of_a_composite_are_one_node():
    x = x_leaf()
    assert twice_plus(x) is twice_plus(x, times=2)
    assert twice_plus(x) is not twice_plus(x, times=3)
    assert twice_plus(x, x) is not twice_plus(x)
    assert twice_plus(x=x) is twice_plus(x, None)


def test_composites_declared_twice_are_two_ops():
    def declare():
        @composite
        def same(x):
            return add(x, x)

        return same

    x = x_leaf()
    first, second = declare(), declare()
    assert first(x) is not second(x)
    assert first(x).body == second(x).body


def test_a_composite_of_several_results_returns_them_as_a_tuple():
    x, y = x_leaf(), x_leaf(name="y")
    total, difference = both(x, y)
    assert total.inputs == difference.inputs
    assert total.inputs[0].op is both
    assert decomposed((total, difference)) == (add(x, y), subtract(x, y))


def test_composites_take_arguments_by_position_and_name_and_explain_wrong_ones():
    x = x_leaf()
    with pytest.raises(ArgumentError, match=r"twice_plus: .*unexpected keyword argument 'time'"):
        twice_plus(x, time=1)
    with pytest.raises(ArgumentError, match=r"hint: twice_plus\(x, y=None, \*, times=2\)"):
        twice_plus()

    @composite
    def three(x, y=None, z=None):
        return x

    with pytest.raises(ArgumentError, match="three: y is missing, but later operands are given"):
        three(x, None, x)


def test_numbers_and_arrays_become_operands_of_a_composite():
    total, _ = both(x_leaf((), dtype="float64"), np.float64(2.0))
    assert total.inputs[0].inputs[1] is constant(np.float64(2.0))


def test_a_composite_captures_the_tensors_it_refers_to():
    x, w = x_leaf(), x_leaf(name="w")
    outside = add(w, 1.0)

    @composite
    def shifted(x):
        return add(add(x, outside), constant(np.float32(5.0)))

    node = shifted(x)
    assert node.inputs == (x, outside)
    assert len(node.body.inputs) == 2
    assert all(n.graph is None for n in node.body.nodes())
    assert decomposed([node]) == (add(add(x, outside), constant(np.float32(5.0))),)
    values = evaluate([node], {x: np.ones(3, np.float32), w: np.full(3, 2, np.float32)})
    np.testing.assert_array_equal(values[0], np.full(3, 9, np.float32))


def test_leaves_that_a_composite_declares_are_captured():
    made = []

    @composite
    def with_weight(x):
        made.append(x_leaf(name="w"))
        return add(x, made[-1])

    x = x_leaf()
    node = with_weight(x)
    assert node.inputs == (x, made[0])


def test_a_users_composite_is_traced_at_every_call():
    value = 1.0

    @composite
    def plus(x):
        return add(x, value)

    x = x_leaf()
    first = plus(x)
    value = 2.0
    assert plus(x) is not first
    value = 1.0
    assert plus(x) is first


def test_composites_nest_and_decompose():
    x = x_leaf()

    @composite
    def outer(x):
        total, difference = both(twice_plus(x, times=1), x)
        return add(total, difference)

    node = outer(x)
    assert {n.op.name for n in node.body.nodes()} == {"parameter", "twice_plus", "both", "item", "add"}
    double = add(x, x)
    assert decomposed([node]) == (add(add(double, x), subtract(double, x)),)


def test_an_error_inside_a_composite_names_both_ops_and_the_users_operands():
    @composite
    def inner(x, y):
        return add(x, y)

    @composite
    def outer(x, y):
        return inner(x, y)

    x, y = x_leaf((3,), "x"), x_leaf((4,), "y")
    with pytest.raises(ShapeError) as error:
        outer(x, y)
    lines = str(error.value).splitlines()
    assert lines[0] == "add: shapes [3] and [4] do not broadcast: axis -1 is 3 and 4"
    assert lines[1].endswith("return add(x, y)")
    assert lines[2].startswith("  inside inner(float32[3], float32[4]), test_composites.py:")
    assert lines[2].endswith("return inner(x, y)")
    assert lines[3].startswith("  inside outer(float32[3], float32[4]), test_composites.py:")
    assert lines[3].endswith("outer(x, y)")
    assert [line.split(" was made")[0] for line in lines[4:]] == ["  x", "  y"]


def test_a_custom_gradient_computes_its_forward_and_keeps_its_rule():
    @custom_gradient
    def doubled(x):
        return add(x, x), lambda dy: add(dy, dy)

    x = x_leaf()
    node = doubled(x)
    assert isinstance(doubled, Op)
    assert node.op is doubled
    assert decomposed([node]) == (add(x, x),)
    g = x_leaf(name="g")
    assert doubled.vjp(g, node, x, **node.attrs) == (add(g, g),)


def test_a_custom_gradient_passes_nothing_to_what_it_captured():
    x, w = x_leaf(), x_leaf(name="w")

    @custom_gradient
    def shifted(x):
        return add(x, w), lambda dy: dy

    node = shifted(x)
    assert node.inputs == (x, w)
    g = x_leaf(name="g")
    assert shifted.vjp(g, node, *node.inputs, **node.attrs) == (g, None)


def test_a_custom_gradient_with_too_few_cotangents_says_so():
    @custom_gradient
    def wrong(x, y):
        return add(x, y), lambda dy: dy

    x = x_leaf()
    with pytest.raises(ArgumentError, match="its backward returned 1 cotangents for 2 inputs"):
        wrong(x, x)


def test_a_custom_gradient_takes_as_many_inputs_as_it_is_given():
    @custom_gradient
    def total(*xs):
        return add(*xs), lambda dy: (dy, add(dy, dy))

    x, y, g = x_leaf(), x_leaf(name="y"), x_leaf(name="g")
    node = total(x, y)
    assert total.vjp(g, node, x, y, **node.attrs) == (g, add(g, g))


def test_a_custom_gradient_keeps_the_rule_of_its_call():
    x, g = x_leaf(), x_leaf(name="g")
    nodes = []
    for k in (2.0, 3.0):

        @custom_gradient
        def scaled(x):
            return multiply(x, k), lambda dy: multiply(dy, k)  # noqa: B023 - that is the point

        nodes.append(scaled(x))
    for node, k in zip(nodes, (2.0, 3.0), strict=True):
        assert node.op.vjp(g, node, x, **node.attrs) == (multiply(g, k),)


def test_a_custom_gradient_and_its_rule_share_their_random_draws():
    @custom_gradient
    def dropped(x):
        mask = uniform(x.shape)
        return multiply(x, mask), lambda dy: multiply(dy, mask)

    x, g = x_leaf(), x_leaf(name="g")
    node = dropped(x)
    (mask,) = node.inputs[1:]
    assert dropped.vjp(g, node, *node.inputs, **node.attrs) == (multiply(g, mask), None)
    assert dropped(x) is not node


def test_calls_with_equal_definitions_and_rules_are_one_node():
    @custom_gradient
    def doubled(x):
        return add(x, x), lambda dy: add(dy, dy)

    x = x_leaf()
    assert doubled(x) is doubled(x)


def test_a_composite_inside_another_may_refer_to_its_operands():
    @composite
    def outer(x):
        @composite
        def inner(y):
            return add(y, subtract(x, y))

        return inner(add(x, x))

    x = x_leaf()
    assert decomposed([outer(x)]) == (add(add(x, x), subtract(x, add(x, x))),)


def test_a_composite_that_calls_itself_is_told():
    @composite
    def endless(x):
        return endless(x)

    with pytest.raises(ArgumentError, match="endless is defined by itself"):
        endless(x_leaf())


@pytest.mark.parametrize(("returned", "told"), [(None, "None"), ((), "nothing"), ({}, "a dict")])
def test_a_composite_that_returns_no_tensor_is_told(returned, told):
    with pytest.raises(ArgumentError, match=f"returned {told}"):
        composite(lambda x: returned)(x_leaf())


def test_what_a_composite_of_graphc_is_made_of_is_on_the_line_that_called_it_first():
    made = gelu(x_leaf((7, 411)))
    inside = [node for node in made.body.nodes() if node.op.kind == "pointwise"]
    assert inside and {node.occurrence.site for node in inside} == {made.occurrence.site}
    assert "made = gelu" in str(made.occurrence.site)


def test_nodes_on_behalf_of_another_stay_its_own_in_a_composite_of_graphc():
    x = x_leaf((7, 412))
    with derived_from(x, "rule"):
        inside = [node for node in gelu(x).body.nodes() if node.op.kind == "pointwise"]
    assert {node.occurrence.rule for node in inside} == {"rule"}
    assert gelu(x_leaf((7, 413))).occurrence.rule == ""
