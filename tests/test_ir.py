"""Level 1: interning, occurrences, scopes, names, graphs, attributes, programs, composites and their bodies."""

import copy
import gc
import pickle
import sys
import threading
import weakref

import numpy as np
import pytest

from graphc import ir, occurrences
from graphc.attrs import Attrs, freeze
from graphc.composites import items
from graphc.dims import require_equal, symbol
from graphc.errors import ArgumentError, DTypeError, GraphError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import Graph, Program, reachable, substitute, to_networkx, toposort
from graphc.occurrences import scope
from graphc.operands import Literal, constant, pointwise, primitive, reduce_sum, splat, splat_value
from graphc.ops.math import add, subtract
from graphc.ops.state import placeholder
from graphc.types import TensorType

scaled = primitive("scaled", lambda x, *, by: x, lambda x, *, by: x * by, None, "pointwise", required=("by",))
halves = primitive(
    "halves",
    lambda x: ir.TupleType([x, x]),
    lambda x: (x / 2, x - x / 2),
    None,
    "opaque",
)


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def x_leaf(shape=(3,), name="x", dtype="float32"):
    return placeholder(name, shape, dtype)


# --- interning


def test_structurally_equal_nodes_are_one_object():
    x = x_leaf()
    assert x + 1.0 is x + 1.0
    assert add(x, x) is add(x, x)
    assert add(x, 1.0) is not add(1.0, x)
    assert subtract(x, 1.0) is not add(x, 1.0)


def test_leaves_are_never_interned():
    assert x_leaf() is not x_leaf()


def test_same_structure_in_two_graphs_is_two_nodes():
    x = x_leaf()
    with Graph():
        y = x_leaf()
    assert x + 1.0 is not y + 1.0


def test_constants_are_shared_between_graphs():
    one = constant(1.0)
    with Graph():
        assert constant(1.0) is one
    assert one.graph is None
    assert (one + one).graph is None


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, True), (1, 1.0), (True, 1.0), (0, False), (0.0, -0.0), ((1, 2), (1, True)), ((0.0,), (-0.0,)), ("1", 1)],
)
def test_attributes_that_python_calls_equal_make_different_nodes(a, b):
    x = x_leaf()
    assert freeze(a) != freeze(b)
    assert scaled(x, by=a) is not scaled(x, by=b)
    assert scaled(x, by=a) is scaled(x, by=a)


def test_nan_attributes_are_equal_to_themselves():
    x = x_leaf()
    assert scaled(x, by=float("nan")) is scaled(x, by=np.float64("nan"))


def test_numpy_scalars_and_lists_are_plain_attributes():
    x = x_leaf()
    node = scaled(x, by=[np.int64(1), [np.float32(2.0)]])
    assert node.attrs["by"] == (1, (2.0,))
    assert [type(v) for v in (node.attrs["by"][0], node.attrs["by"][1][0])] == [int, float]
    assert node is scaled(x, by=(1, (2.0,)))


@pytest.mark.parametrize("value", [{"a": 1}, {1, 2}, np.ones(3)])
def test_attributes_that_cannot_be_hashed_are_refused(value):
    with pytest.raises(ArgumentError, match="an attribute can't be"):
        scaled(x_leaf(), by=value)


def test_unknown_and_missing_attributes_are_told_together():
    with pytest.raises(ArgumentError) as error:
        scaled(x_leaf(), bye=2)
    assert error.value.message == "scaled: has no argument 'bye'; did you mean 'by'? and needs the argument 'by'"
    assert "test_ir.py" in str(error.value)


def test_order_of_attributes_does_not_matter():
    assert Attrs({"a": 1, "b": 2}).key == Attrs({"b": 2, "a": 1}).key


def test_symbolic_attributes_are_known_as_such():
    n = symbol("n")
    assert Attrs({"shape": (2, n)}).symbolic
    assert Attrs({"k": ((1, n),)}).symbolic
    assert not Attrs({"shape": (2, 3), "name": "n"}).symbolic


def test_ops_match_by_identity_not_by_name():
    x = x_leaf()
    mine = pointwise("add", np.add, None)
    assert mine(x, x) is not add(x, x)


def test_dead_nodes_leave_the_table(graph):
    x = x_leaf()
    before = len(graph)
    node = add(x, x)
    ref = weakref.ref(node)
    assert len(graph) == before + 1
    del node
    gc.collect()
    assert ref() is None
    assert len(graph) == before


def test_a_program_with_other_inputs_computes_the_same(graph):
    x, y = placeholder("x", (3,)), placeholder("y", (3,))
    program = Program((x,), (x * y,))
    other = program.with_inputs((x, y))
    assert other.inputs == (x, y) and other.outputs == program.outputs
    assert other.nodes() is program.nodes()
    assert other.kinds == {"placeholder", "pointwise"}


def test_rebuilding_in_a_loop_builds_nothing(graph):
    x = x_leaf()
    kept = add(add(x, x), 1.0)
    before = len(graph)
    serial = ir.next_serial()
    for _ in range(100):
        add(add(x, x), 1.0)
    assert len(graph) == before
    assert ir.next_serial() == serial + 1
    assert kept.serial < serial


def test_inputs_are_older_than_their_users():
    x = x_leaf()
    node = add(add(x, 1.0), add(x, x))
    assert all(i.serial < n.serial for n in toposort([node]) for i in n.inputs)


# --- constants


def test_zeros_of_both_signs_are_two_constants_and_nan_is_one():
    assert constant(0.0) is not constant(-0.0)
    assert constant(np.nan) is constant(np.nan)
    assert splat(0.0, TensorType("float32", (2,))) is not splat(-0.0, TensorType("float32", (2,)))


def test_constants_differ_by_dtype_and_shape():
    assert constant(1.0) is not constant(1.0, "float64")
    assert constant([1.0]) is not constant(1.0)
    assert constant(np.int32(1)) is not constant(np.int64(1))


@pytest.mark.parametrize("size", [3, 128, 129, 10_000])
def test_equal_bytes_are_one_constant_whatever_their_size(size):
    values = np.arange(size, dtype=np.float32)
    other = values.copy()
    other[-1] += 1
    node = constant(values)
    assert constant(values.copy()) is node
    assert constant(other) is not node
    assert constant(values.reshape(1, -1)) is not node


def test_a_constant_owns_a_read_only_copy():
    values = np.arange(4.0)
    node = constant(values)
    values[0] = 9
    held = node.attrs["value"].array
    assert held[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 1


def test_constants_of_python_numbers_and_lists_are_float32_and_arrays_keep_their_dtype():
    assert [constant(v).dtype for v in (1.5, [1.0, 2.0], np.float64(1), np.ones(2), 3, True)] == [
        "float32",
        "float32",
        "float64",
        "float64",
        "int64",
        "bool",
    ]


def test_values_that_are_no_tensors_are_refused():
    with pytest.raises(ShapeError, match="ragged"):
        constant([[1], [2, 3]])
    for value in ("text", None, object(), 1j, ["a", 1]):
        with pytest.raises(DTypeError):
            constant(value)


def test_literals_compare_by_their_bytes():
    def literal(*values, dtype="float64"):
        return Literal(np.array(values, dtype))

    assert literal(1, 2) == literal(1, 2)
    assert hash(literal(1, 2)) == hash(literal(1, 2))
    assert literal(0.0) != literal(-0.0)
    assert literal(np.nan) == literal(np.nan)
    assert literal(1, dtype="int64") != literal(1, dtype="int32")
    assert literal(1) != np.float64(1)
    big = np.zeros(1000)
    assert Literal(big) == Literal(big.copy())
    other = big.copy()
    other[999] = -0.0
    assert Literal(big) != Literal(other)


def test_splats_are_recognised_through_broadcasts():
    type = TensorType("float32", (2, symbol("n")))
    node = splat(2.5, type)
    assert node.type is type
    assert splat_value(node) == np.float32(2.5)
    assert splat_value(constant([1.0, 2.0])) is None
    assert splat(2.5, type) is node


# --- occurrences


def test_a_node_built_in_a_loop_has_one_occurrence_and_two_lines_give_two():
    x = x_leaf()
    for _ in range(5):
        node = add(x, x)
    assert len(node.occurrences) == 1
    again = add(x, x)
    assert again is node
    assert len(node.occurrences) == 2
    first, second = (o.site for o in node.occurrences)
    assert first.file == second.file == __file__
    assert (first.text, second.text) == ("node = add(x, x)", "again = add(x, x)")


def test_scopes_are_occurrences_and_the_first_names_the_node(graph):
    x = x_leaf()
    with scope("a"):
        node = add(x, x)
    with scope("b"), scope("c/d"):
        again = add(x, x)
    assert again is node
    assert [o.scope for o in node.occurrences] == ["a", "b/c/d"]
    assert node.display_name == "a/add"
    assert graph["a/add"] is node


def test_a_leaf_is_named_in_its_scope(graph):
    with scope("encoder"):
        x = x_leaf(name="w")
        assert occurrences.current_scope() == "encoder"
    assert occurrences.current_scope() == ""
    assert x.name == "encoder/w"
    assert graph["encoder/w"] is x


def test_a_scope_may_be_entered_again_inside_itself():
    again = scope("a")
    with again:
        with again:
            assert occurrences.current_scope() == "a/a"
        assert occurrences.current_scope() == "a"
    assert occurrences.current_scope() == ""


def test_a_scope_is_left_when_its_block_raises():
    with pytest.raises(KeyError), scope("a"):
        raise KeyError
    assert occurrences.current_scope() == ""


@pytest.mark.parametrize("name", ["", "/a", "a/"])
def test_names_that_are_no_scopes_are_refused(name):
    with pytest.raises(ArgumentError, match="a scope's name can't be"):
        scope(name)


def test_derived_nodes_lead_back_to_the_users_line():
    x = x_leaf()
    with scope("model"):
        origin = add(x, x)
    with occurrences.derived_from(origin, "rule"):
        middle = add(x, 1.0)
        with occurrences.derived_from(middle, "other"):
            node = add(x, 2.0)
    assert node.occurrence.origin is middle
    assert node.occurrence.rule == "other"
    assert node.occurrence.site.text == "origin = add(x, x)"
    assert node.scope == "model"


def test_deriving_an_existing_node_adds_no_occurrence():
    x = x_leaf()
    node = add(x, x)
    with occurrences.derived_from(x, "rule"):
        assert add(x, x) is node
    assert len(node.occurrences) == 1


# --- names and graphs


def test_display_names_are_unique_and_numbered(graph):
    x = x_leaf()
    kept = [add(x, 1.0), add(x, 2.0), add(x, 3.0)]
    names = graph.names()
    assert [name for name in names if name.startswith("add")] == ["add", "add_1", "add_2"]
    assert [names[name] for name in ("add", "add_1", "add_2")] == kept
    assert set(names.values()) == set(graph.nodes())


def test_numbering_avoids_names_that_leaves_have(graph):
    x = x_leaf(name="add")
    taken = x_leaf(name="add_1")
    node = add(x, taken)
    names = graph.names()
    assert names["add"] is x
    assert names["add_1"] is taken
    assert names["add_2"] is node


def test_leaves_with_one_name_are_numbered(graph):
    leaves = [x_leaf(name="w") for _ in range(3)]
    assert [leaf.name for leaf in leaves] == ["w", "w_1", "w_2"]
    assert graph["w_2"] is leaves[2]
    leaves += [x_leaf(name="w") for _ in range(97)]
    assert {leaf.name for leaf in leaves} == {"w", *(f"w_{k}" for k in range(1, 100))}


def test_a_dead_leafs_name_is_free_again():
    first = x_leaf(name="w")
    del first
    gc.collect()
    assert x_leaf(name="w").name == "w"


def test_an_unknown_name_is_an_error_that_offers_near_ones(graph):
    x = x_leaf(name="weight")
    with pytest.raises(GraphError, match=r"graph 'test' has no node named 'wieght'; did you mean 'weight'\?"):
        graph["wieght"]
    assert x.name == "weight"


def test_graphs_nest_and_reset_the_scope():
    outer = ir.current_graph()
    with scope("a"), Graph() as inner:
        assert ir.current_graph() is inner
        assert occurrences.current_scope() == ""
        with inner:
            assert ir.current_graph() is inner
        assert ir.current_graph() is inner
    assert ir.current_graph() is outer


def test_threads_that_enter_one_graph_return_to_their_own():
    shared, left = Graph(), []
    steps = [threading.Event() for _ in range(2)]

    def other():
        with shared:
            steps[0].set()
            steps[1].wait(10)
        left.append(ir.current_graph().name)

    thread = threading.Thread(target=other)
    with Graph("mine") as mine:
        with shared:
            thread.start()
            steps[0].wait(10)
        assert ir.current_graph() is mine
        steps[1].set()
        thread.join()
    assert left == ["default"]


def test_the_current_graph_is_that_of_the_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(ir.current_graph().name))
    thread.start()
    thread.join()
    assert found == ["default"]


def test_mixing_graphs_names_both_with_their_lines():
    x = x_leaf()
    with Graph("other"):
        y = x_leaf(name="y")
    with pytest.raises(GraphError) as error:
        add(x, y)
    lines = str(error.value).splitlines()
    assert lines[0] == "add: the operands belong to different graphs, 'test' and 'other'"
    assert lines[1].startswith("  in 'test': x was made at test_ir.py:")
    assert lines[2].startswith("  in 'other': y was made at test_ir.py:")
    assert lines[3].startswith("  test_ir.py:") and lines[3].endswith("add(x, y)")
    assert lines[4] == "  hint: build both inside one `with graph:` block"


def test_an_error_names_the_op_the_users_line_and_where_operands_were_made():
    x, y = x_leaf((3,)), x_leaf((4,), "y")
    with pytest.raises(ShapeError) as error:
        reduce_sum(add(x, y), axes=(0,))
    text = str(error.value)
    assert "[3]" in text
    assert "[4]" in text
    assert "reduce_sum(add(x, y), axes=(0,))" in text


def test_a_failed_node_leaves_no_guards_behind():
    x, y = x_leaf(("a + 1", 3)), x_leaf(("a*a", 3), "y")
    assert [str(g) for node in toposort([add(x, y)]) for g in node.guards] == ["a + 1 == a*a"]
    with pytest.raises(ShapeError, match="axis -1 is 3 and 4"):
        add(x, x_leaf(("a*a", 4), "z"))
    assert add(x, x).guards == ()


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyboardInterrupt])
def test_a_type_rule_that_fails_in_any_way_leaves_no_guards_behind(error):
    def infer(x, y):
        require_equal(x.shape[0], y.shape[0], "mine")
        raise error

    x, y = x_leaf(("a + 1",)), x_leaf(("a*a",), "y")
    with pytest.raises(error):
        primitive("mine", infer, None, None, "opaque")(x, y)
    assert add(x, x).guards == ()


# --- nodes as Python objects


def test_nodes_have_no_truth_value_no_number_and_no_array():
    x = x_leaf(())
    for convert in (bool, float, int, np.asarray, lambda node: [1, 2, 3][node]):
        with pytest.raises(ArgumentError):
            convert(x)


def test_nodes_are_keys_and_equal_only_to_themselves():
    x, y = x_leaf(), x_leaf()
    assert x == x
    assert x != y
    assert {x: 1, y: 2}[x] == 1


def test_nodes_are_neither_copied_nor_pickled():
    x = x_leaf()
    for action in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ArgumentError, match="can't be pickled or copied"):
            action(x)


def test_length_needs_a_known_first_dimension():
    assert len(x_leaf((3, 2))) == 3
    with pytest.raises(ShapeError, match="symbolic first dimension, n"):
        len(x_leaf(("n",)))
    with pytest.raises(ShapeError, match="no dimensions"):
        len(x_leaf(()))


def test_unknown_attributes_raise_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        x_leaf().frobnicate  # noqa: B018


def test_a_node_of_several_results_says_so():
    node = halves(x_leaf())
    assert len(node) == 2
    with pytest.raises(ArgumentError, match="has several results"):
        node.shape  # noqa: B018
    first, second = items(node)
    assert items(node)[0] is first
    assert first is not second
    assert first.type is TensorType("float32", (3,))
    assert items(first) == (first,)


# --- depth and threads


def test_a_chain_of_100000_nodes_is_built_walked_rewritten_and_freed():
    x, y = x_leaf(), x_leaf(name="y")
    node = x
    for _ in range(100_000):
        node = add(node, x)
    assert len(toposort([node])) == 100_001
    (copied,) = substitute([node], {x: y})
    assert len(reachable([copied])) == 100_001
    ref = weakref.ref(node.inputs[0])
    del node, copied
    assert ref() is None


def test_evaluation_of_a_long_chain_needs_no_recursion():
    x = x_leaf((), dtype="int64")
    node = x
    for _ in range(20_000):
        node = add(node, x)
    assert evaluate([node], {x: np.array(1)})[0] == 20_001


def test_threads_that_build_the_same_nodes_get_the_same_objects():
    x = x_leaf((), dtype="int64")
    results = []
    start = threading.Barrier(4)

    def build():
        start.wait()
        mine = []
        for k in range(300):
            node = add(add(x, k), x)
            add(node, -k - 1)  # dies at once, while the others may be building it
            mine.append(node)
        results.append(mine)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=build) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(results) == 4
    assert all(a is b for other in results[1:] for a, b in zip(results[0], other, strict=True))


# --- programs


def test_program_roots_are_outputs_then_new_values():
    x = x_leaf()
    a, b, new = add(x, 1.0), add(x, 2.0), add(x, 3.0)
    program = Program((x,), (a, b), ((x, new),))
    assert program.roots == (a, b, new)
    assert str(program.type) == "(float32[3], float32[3])"
    assert program.with_roots((b, a, b)) == Program((x,), (b, a), ((x, b),))
    assert Program((x,), (a,)).type is a.type
    assert program.nodes()[0] is min(program.nodes(), key=lambda node: node.serial)


def test_substitution_replaces_all_at_once():
    x, y = x_leaf(), x_leaf(name="y")
    (swapped,) = substitute([subtract(x, y)], {x: y, y: x})
    assert swapped is subtract(y, x)
    (same,) = substitute([add(x, 1.0)], {y: x})
    assert same is add(x, 1.0)


def test_substituted_nodes_are_derived_from_the_old_ones():
    x, y = x_leaf(), x_leaf(name="y")
    old = add(x, x)
    (new,) = substitute([old], {x: y})
    assert new.occurrence.origin is old


def test_graphs_become_networkx_graphs(graph):
    x = x_leaf()
    node = subtract(x, add(x, x))
    found = to_networkx([node])
    assert set(found.nodes) == set(toposort([node]))
    assert found.nodes[x] == {"name": "x", "op": "placeholder", "type": "float32[3]"}
    assert sorted(d["index"] for _, _, d in found.in_edges(node, data=True)) == [0, 1]
    assert found.number_of_edges(x, add(x, x)) == 2
    assert set(graph.to_networkx().nodes) == set(graph.nodes())
