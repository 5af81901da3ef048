"""Programs as text."""

from textwrap import dedent

import pytest

import graphc as gc
from graphc.composites import composite
from graphc.errors import ArgumentError
from graphc.ir import Graph, Program
from graphc.operands import constant, parameter, primitive
from graphc.ops.math import exp, multiply, tanh
from graphc.ops.state import Variable, placeholder
from graphc.passes.gradients import gradients
from graphc.printer import text
from graphc.types import TensorType


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def lines(golden):
    return dedent(golden).strip()


def test_a_tensor_is_shown_with_all_that_it_is_computed_from():
    x = placeholder("x", ("batch", 3))
    w = Variable([[1.0], [2.0], [3.0]], "w")
    assert text(tanh(x @ w)) == lines("""
        x: float32[batch, 3] = placeholder
        w: float32[3, 1] = variable
        %0: float32[batch, 1] = matmul(x, w)
        %1: float32[batch, 1] = tanh(%0)
        return %1
    """)


def test_numbers_stand_where_they_are_used():
    x = placeholder("x", (2, 3))
    assert text(x * 2.0 + 1) == lines("""
        x: float32[2, 3] = placeholder
        %0: float32[2, 3] = multiply(x, 2.0)
        %1: float32[2, 3] = add(%0, 1.0)
        return %1
    """)


def test_numbers_have_lines_of_their_own_where_their_size_matters():
    assert text(gc.ones((2, 3)).sum()) == lines("""
        %0: float32[2, 3] = broadcast_to(1.0, shape=(2, 3))
        %1: float32[1, 1] = reduce_sum(%0, axes=(0, 1))
        %2: float32[] = squeeze(%1, axes=(0, 1))
        return %2
    """)


def test_counters_are_numbered_as_they_have_no_name():
    assert text([gc.arange(2), gc.arange(3)]) == lines("""
        %0: int64[2] = iota(length=2)
        %1: int64[3] = iota(length=3)
        return %0, %1
    """)


def test_constants_are_shown_shortened():
    assert text(exp(constant([1.5, 2.5]))) == lines("""
        %0: float32[2] = constant(value=[1.5, 2.5])
        %1: float32[2] = exp(%0)
        return %1
    """)
    assert len(text(constant(range(1000)))) < 200


def test_a_program_shows_its_inputs_its_outputs_and_its_updates():
    x, w = placeholder("x", (3,)), Variable([1.0, 2.0, 3.0], "w")
    assert text(Program((x,), (x, exp(x)), ((w, w + x),))) == lines("""
        inputs x: float32[3]
        %0: float32[3] = exp(x)
        w: float32[3] = variable
        %1: float32[3] = add(w, x)
        return x, %0
        update w = %1
    """)


def test_an_input_that_nothing_uses_is_shown():
    x, y = placeholder("x", ()), placeholder("y", ("n",))
    assert text(Program((x, y), (x,))) == "inputs x: float32[], y: float32[n]\nreturn x"


def test_the_body_of_a_composite_is_a_program_over_parameters():
    @composite
    def scaled(x, *, by):
        return multiply(x, by)

    node = scaled(placeholder("x", (2,)), by=3.0)
    assert text(node) == lines("""
        x: float32[2] = placeholder
        %0: float32[2] = scaled(x, by=3.0)
        return %0
    """)
    assert text(node.body) == lines("""
        inputs p0: float32[2]
        %0: float32[2] = multiply(p0, 3.0)
        return %0
    """)


def test_a_list_of_tensors_shows_what_they_share_once():
    x = placeholder("x", ())
    y = exp(x)
    assert text([y * y, y]) == lines("""
        x: float32[] = placeholder
        %0: float32[] = exp(x)
        %1: float32[] = multiply(%0, %0)
        return %1, %0
    """)


def test_an_attribute_that_is_a_program_is_indented():
    repeat = primitive("repeat", lambda x, *, body: x, None, None, "opaque", required=("body",))
    p = parameter(0, TensorType("float32", ()))
    assert text(repeat(placeholder("x", ()), body=Program((p,), (exp(p),)))) == lines("""
        x: float32[] = placeholder
        %0: float32[] = repeat(x, body={
            inputs p0: float32[]
            %0: float32[] = exp(p0)
            return %0
        })
        return %0
    """)


def test_sources_are_the_users_line_and_the_rule():
    x = placeholder("x", ())
    (g,) = gradients(exp(x), [x])
    shown = text(g, sources=True).splitlines()
    assert all("  # test_printer.py:" in line for line in shown[:-1])
    assert shown[-2].endswith(" gradient")
    assert "#" not in text(g)


def test_text_is_the_same_whenever_the_graph_is_built():
    def built():
        with Graph():
            x = placeholder("x", ("n",))
            return text([*gradients(tanh(x * 2).sum(), [x]), gc.arange(2), gc.arange(3)])

    before = built()
    older = gc.arange(3)
    assert older is not None
    assert built() == before


def test_a_long_chain_is_printed():
    y = placeholder("x", ())
    for _ in range(20_000):
        y = tanh(y)
    assert text(y).count("\n") == 20_001


def test_what_has_no_text_is_refused():
    with pytest.raises(ArgumentError, match="a int has no text"):
        text(3)
