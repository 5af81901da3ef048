"""Which line a message shows, wherever the mistake is written: over several lines, without source, inside functions
that graphc calls, and in a run that fails."""

from __future__ import annotations

import copy
import functools
import linecache
import operator
import pickle

import numpy as np
import pytest
from cuda_driver import DEVICES
from error_testing import Programs, check, check_form

import graphc as gc
from graphc import errors
from graphc.errors import MAX_LINES, did_you_mean

broken = Programs()


def x(*shape, dtype="float32", name="x"):
    return gc.placeholder(name, shape=shape, dtype=dtype)


# --- expressions over several lines


@broken(gc.ShapeError, "add", "[2, 3]", "[4, 3]")
def call_over_several_lines():
    a, b = x(2, 3), x(4, 3, name="y")
    return a * 2.0 + gc.add(  # <-
        a,
        b,
    )


@broken(gc.ShapeError, "transpose", "axis 5", "[3, 2]")
def chain_of_methods():
    return (
        x(2, 3)
        .reshape(3, 2)
        .transpose(0, 5)  # <-
        .sum()
    )


@broken(gc.ShapeError, "subtract", "add was made at")
def operators_over_several_lines():
    a, b = x(2, 3), x(4, 3, name="y")
    return (
        a * 2  # <-
        + 1
        - b
    )


@broken(gc.ShapeError, "matmul")
def in_a_lambda():
    product = lambda a, b: a @ b  # <-  # noqa: E731
    return product(x(2, 3), x(2, 3))


@broken(gc.ShapeError, "add")
def in_a_comprehension():
    return [x(2, k) + x(3, k) for k in range(3, 5)]  # <-


@broken(gc.ShapeError, "add")
def called_by_the_standard_library():
    return functools.reduce(operator.add, [x(2), x(3)])  # <-


@broken(gc.ArgumentError, "a graph node can't be pickled or copied", "sess.save")
def copied_by_the_standard_library():
    return copy.deepcopy(x(3))  # <-


# --- code without source


@pytest.mark.parametrize("file", ["<string>", "<stdin>", "<ipython-input-3-0f1e2d>", "deleted.py"])
def test_code_without_source_is_named_by_its_line(file):
    source = "import graphc as gc\na = gc.placeholder('a', shape=(2,))\n\nb = a + gc.placeholder('b', shape=(3,))"
    with gc.Graph(), pytest.raises(gc.ShapeError) as caught:
        exec(compile(source, file, "exec"), {})
    text = str(caught.value)
    check_form(text)
    assert f"  {file}:4\n" in text and f"a was made at {file}:2" in text


def test_a_notebook_cell_shows_its_source():
    source = "c = gc.placeholder('a', shape=(2,)) @ gc.placeholder('b', shape=(3,))\n"
    linecache.cache["<cell 7>"] = (len(source), None, [source], "<cell 7>")
    with gc.Graph(), pytest.raises(gc.ShapeError) as caught:
        exec(compile(source, "<cell 7>", "exec"), {"gc": gc})
    assert f"<cell 7>:1   {source.strip()}" in str(caught.value)


def test_code_without_line_numbers_is_no_second_error():
    code = compile("gc.placeholder('a', shape=(2,)) + gc.placeholder('b', shape=(3,))", "stripped.py", "exec")
    with gc.Graph(), pytest.raises(gc.ShapeError, match=r"stripped\.py:1"):
        exec(code.replace(co_linetable=b""), {"gc": gc})


def test_a_long_line_is_cut():
    source = f"gc.placeholder('a', shape=(2,)) + [{', '.join(['1.0'] * 200)}]"
    linecache.cache["<long>"] = (len(source), None, [source], "<long>")
    with gc.Graph(), pytest.raises(gc.ShapeError) as caught:
        exec(compile(source, "<long>", "exec"), {"gc": gc})
    (line,) = [line for line in str(caught.value).splitlines() if "<long>:1   gc." in line]
    assert len(line) < 160 and line.endswith(" ...")


# --- inside what graphc calls


@broken(gc.ShapeError, "add", "inside outer(float32[3], float32[4])", "return outer(a, b)", "inside inner(")
def nested_composites():
    @gc.composite
    def inner(a, b):
        return a + b  # <-

    @gc.composite
    def outer(a, b):
        return inner(a, b)

    a, b = x(3), x(4, name="y")
    return outer(a, b)


@broken(gc.ShapeError, "matmul", "inside scaled(float32[3], float32[3])", "captured was made at")
def composite_with_a_captured_tensor():
    captured = x(4, 3, name="captured")

    @gc.composite
    def scaled(a, b):
        return (a * b) @ captured  # <-

    return scaled(x(3), x(3))


@broken(gc.ShapeError, "add", "y = masked(w)")
def backward_of_a_custom_gradient():
    @gc.custom_gradient
    def masked(a):
        return a * 2, lambda dy: dy + np.ones(4, "float32")  # <-

    w = gc.Variable(np.ones(3, "float32"), name="w")
    y = masked(w)
    return gc.gradients(y, [w])


@broken(gc.ShapeError, "reshape", "in module layers/0 (Wrong)", "return self.layers(x)")
def module_in_a_module():
    class Wrong(gc.nn.Module):
        def forward(self, x):
            return x.reshape(4, 2)  # <-

    class Net(gc.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = gc.nn.Sequential(Wrong())

        def forward(self, x):
            return self.layers(x)

    net = Net()
    return net(x(2, 3))


def test_an_exception_of_a_users_rule_is_itself_with_the_line_of_the_op():
    @gc.custom_gradient
    def fragile(a):
        return a * 2, lambda dy: dy / (1 // 0)

    w = gc.Variable(np.ones(3, "float32"), name="w")
    with pytest.raises(ZeroDivisionError) as caught:
        fragile(w)
    assert len(caught.value.__notes__) == 1
    assert "in the gradient rule of fragile, test_errors_context.py:" in caught.value.__notes__[0]
    assert "fragile(w)" in caught.value.__notes__[0]


# --- in a run


@broken(gc.ArgumentError, "gather: index 7", "3 elements", "float32[n]", "int64[k]", "session.run(doubled")
def index_in_a_run():
    table, index = x("n"), x("k", dtype="int64", name="index")
    picked = gc.take(table, index)  # <-
    doubled = picked * 2
    with gc.Session() as session:
        return session.run(doubled, {table: [1, 2, 3], index: [7]})


@broken(gc.ArgumentError, "scatter_add: index 7", "5 elements")
def index_in_a_gradient():
    index, weight = x("k", dtype="int64", name="index"), gc.Variable(np.ones((5, 2), "float32"), name="weight")
    rows = gc.embedding(index, weight)  # <-
    (slope,) = gc.gradients(rows.sum(), [weight])
    with gc.Session() as session:
        return session.run(slope, {index: [7]})


@broken(gc.ArgumentError, "gather: index 7", "inside lookup")
def index_in_a_composite():
    @gc.composite
    def lookup(table, index):
        rows = gc.take(table, index)
        return rows * 2

    table, index = x("n"), x("k", dtype="int64", name="index")
    y = lookup(table, index)  # <-
    with gc.Session() as session:
        return session.run(y, {table: [1, 2, 3], index: [7]})


@broken(gc.GuardError, "4*(n//4) == n", "n = 6", "reshape")
def guard_in_a_run():
    table = x("n")
    rows = table.reshape(-1, 4)  # <-
    with gc.Session() as session:
        return session.run(rows, {table: np.ones(6)})


@broken(gc.GuardError, "4*(n//4) == n", "n = 6", "rows_of_four")
def guard_in_a_composite():
    @gc.composite
    def rows_of_four(a):
        return a.reshape(-1, 4).sum(axis=1)

    table = x("n")
    rows = rows_of_four(table)  # <-
    with gc.Session() as session:
        return session.run(rows, {table: np.ones(6)})


@broken(gc.StateError, "initialiser of 'w'", "float64[5]", "float32[2]")
def initialiser_shape():
    w = gc.Variable(lambda *recipe: np.zeros(5), name="w", shape=(2,))  # <-
    with gc.Session() as session:
        return session.run(w)


@broken(gc.ArgumentError, "first value of 'w'", "'x'", "w.assign")
def variable_from_a_placeholder():
    return gc.Variable(x(3) * 2, name="w")  # <-


@broken.each
def test_message(program):
    check(program)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_a_failing_run_names_the_line_of_the_op_on_every_device(device):
    """After all passes and fusion, in the forward and the backward graph."""
    with gc.Graph(), gc.Session(device=device) as session:
        index = x("k", dtype="int64", name="index")
        weight = gc.Variable(np.ones((5, 4), "float32"), name="weight")
        rows = gc.embedding(index, weight)
        hidden = gc.relu(rows * 2 + 1) @ np.ones((4, 3), "float32")
        (slope,) = gc.gradients(gc.tanh(hidden).sum(), [weight])
        for fetched, op in ((hidden, "gather"), (slope, "gather"), ([hidden.mean(), slope], "gather")):
            with pytest.raises(gc.ArgumentError, match=f"{op}: index 7") as caught:
                session.run(fetched, {index: [1, 7]})
            text = str(caught.value)
            check_form(text)
            assert "rows = gc.embedding(index, weight)" in text
            assert "session.run(fetched, {index: [1, 7]})" in text


# --- the errors themselves

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, gc.GraphcError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_graphc_error_that_survives_pickling(kind):
    arguments = ("numpy", "all", "drawing") if kind is gc.MissingExtra else ("something is wrong",)
    error = kind(*arguments).at("model.py:3   a + b")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is kind and isinstance(restored, gc.GraphcError)
    assert str(restored) == str(error) and "model.py:3   a + b" in str(error)


def test_a_long_report_keeps_the_users_line_and_the_hint_and_counts_the_rest():
    error = gc.FeedError("many feeds don't fit", lines=[f"feed {k}" for k in range(40)], hint="look at them")
    lines = str(error).splitlines()
    assert len(lines) == MAX_LINES
    assert any("test_errors_context.py:" in line for line in lines)
    assert lines[-1] == "  hint: look at them"
    told = sum(line.startswith("  feed ") for line in lines)
    assert f"  ... and {40 - told} more" in lines


def test_lines_that_are_known_are_not_replaced():
    error = gc.ShapeError("wrong", lines=["first.py:1   a"])
    assert "first.py:1   a" in str(error.at("second.py:2   b"))
    assert "  second.py:2   b" not in str(error).splitlines()


def test_near_names_are_offered_and_others_are_not():
    assert did_you_mean("wieght", ["weight", "bias"]) == "; did you mean 'weight'?"
    assert did_you_mean("zzz", ["weight", "bias"]) == ""
