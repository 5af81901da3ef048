"""What is remembered while a graph is built, types of results and places in the source, changes no node."""

import pytest

from graphc import occurrences, op
from graphc.dims import require_equal
from graphc.ir import Graph
from graphc.occurrences import scope
from graphc.operands import primitive
from graphc.ops.math import add, subtract
from graphc.ops.state import placeholder


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def leaf(*shape):
    return placeholder("x", shape)


def test_a_type_rule_is_asked_once_for_operands_of_the_same_types(monkeypatch):
    asked = []

    def infer(x):
        asked.append(x)
        return x

    monkeypatch.setattr(op, "MAX_RESULTS", 2)
    mine = primitive("mine", infer, None, None, "opaque")
    vectors = [leaf(3), leaf(3), leaf(4), leaf(3), leaf(5), leaf(3)]
    assert [mine(x).type for x in vectors] == [x.type for x in vectors]
    assert [x.shape for x in asked] == [(3,), (4,), (5,), (3,)]  # a third type: the two before it are forgotten


def test_every_node_that_needs_a_guard_has_it():
    def infer(x, y):
        require_equal(x.shape[0], y.shape[0], "mine")
        return x

    mine = primitive("mine", infer, None, None, "opaque")
    nodes = [mine(leaf("a + 1"), leaf("a*a")) for _ in range(2)]
    assert nodes[0] is not nodes[1]
    assert [[str(guard) for guard in node.guards] for node in nodes] == [["a + 1 == a*a"]] * 2


def test_nodes_of_one_line_and_scope_share_their_place():
    def doubled(node):
        return add(node, node)

    first = doubled(leaf(3))
    second = doubled(first)
    with scope("a"):
        third = doubled(second)
    assert first.where is second.where
    assert third.where == ("a", *first.where[1:])


def test_a_place_that_was_forgotten_is_the_same_occurrence(monkeypatch):
    monkeypatch.setattr(occurrences, "MAX_PLACES", 1)
    monkeypatch.setattr(occurrences, "_places", {})
    x = leaf(3)
    for _ in range(2):
        node = add(x, x)
        other = subtract(x, x)
    assert [at.site.text for at in node.occurrences] == ["node = add(x, x)"]
    assert [at.site.text for at in other.occurrences] == ["other = subtract(x, x)"]
    assert len(occurrences._places) == 1
