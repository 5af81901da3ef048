"""What the verifier finds wrong with a program."""

import pytest

import graphc as gc
from graphc.composites import composite
from graphc.errors import InternalError
from graphc.ir import Graph, Node, Program
from graphc.ops.linalg import matmul_op
from graphc.ops.math import tanh
from graphc.ops.state import Variable, placeholder
from graphc.verify import verify


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


@composite
def doubled(x):
    return x * 2.0


def leaf(*shape, dtype="float32", name="x"):
    return placeholder(name, shape, dtype)


def program_of(output):
    nodes = Program((), (output,)).nodes()
    return Program(tuple(n for n in nodes if n.op.kind == "placeholder"), (output,))



def broken(op, inputs, type, body=None):
    """A node that no op would make."""
    node = Node()
    like = (inputs or [leaf(3)])[0] + 1.0
    node.op, node.inputs, node.attrs, node.type, node.body = op, tuple(inputs), like.attrs, type, body
    node.graph, node.serial, node.guards, node.more, node.where = like.graph, like.serial, (), {}, like.where
    return node


def test_a_well_formed_program_passes():
    x, w = leaf("batch", 3), Variable([[1.0], [2.0], [3.0]], "w")
    first, second = gc.batch_norm(x, training=True), doubled(x @ w)
    verify(Program((x,), (first, second), ((w, w * 2.0),)))


def wrong_type():
    return program_of(broken(tanh, [leaf(3)], leaf(4).type))


def impossible_type():
    return program_of(broken(matmul_op, [leaf(3), leaf(3)], leaf(3).type))


def too_old():
    x = leaf(3)
    node = broken(tanh, [x], x.type)
    node.serial = x.serial - 1
    return Program((x,), (node,))


def other_graph():
    x = leaf(3)
    with Graph("other"):
        return Program((x,), (tanh(leaf(3)),))


def unbound():
    return Program((), (tanh(leaf(3)),))


def wrong_body():
    x = leaf(3)
    return program_of(broken(doubled, [x], x.type, doubled(leaf(4)).body))


def updated_twice():
    x, w = leaf(3), Variable([1.0, 2.0, 3.0], "w")
    return Program((x,), (), ((w, x), (w, -x)))


def updated_placeholder():
    x = leaf(3)
    return Program((x,), (), ((x, -x),))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (wrong_type, r"is float32\[3\] by its op's rule"),
        (impossible_type, "can't be typed"),
        (too_old, "is older than its input"),
        (other_graph, "belong to 2 graphs: other, test"),
        (unbound, "is no input of the program"),
        (wrong_body, "doesn't fit its body"),
        (updated_twice, "is updated twice"),
        (updated_placeholder, "is updated but is no variable"),
    ],
)
def test_a_broken_program_is_refused(program, problem):
    with pytest.raises(InternalError, match=problem):
        verify(program())
