"""What an exported graph looks like: steps, stored values, sizes, names, opsets, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_testing import agrees, exported, kinds, run, stored

import graphc as gc
from graphc.composites import composite
from graphc.errors import ExportError
from graphc.exporters.onnx.builder import Builder, Value
from graphc.exporters.onnx.export import to_onnx
from graphc.exporters.onnx.line import Line, direct
from graphc.exporters.onnx.schema import schema
from graphc.exporters.onnx.table import TABLE, onnx_target
from graphc.ir import Node, Program
from graphc.op import NoGradient
from graphc.operands import pointwise
from graphc.ops.scan import linear_recurrence
from graphc.ops.state import Variable, placeholder
from graphc.passes.pipeline import run_pipeline
from graphc.types import TensorType


def attributes(step: Any) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in step.attribute}


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- broadcasts and reductions


def test_broadcasts_are_left_to_onnx() -> None:
    x, row, column = placeholder("x", ("batch", 4)), placeholder("r", (4,)), placeholder("c", ("batch", 1))
    found = exported((x + row) * column - 2.5, [x, row, column])
    assert kinds(found) == ["Add", "Mul", "Sub"]
    assert [a.shape for a in stored(found).values()] == [()]
    a, b, c = floats(3, 4), floats(4), floats(3, 1)
    assert agrees(run(found, a, b, c)[0], (a + b) * c - np.float32(2.5))


def test_what_is_computed_before_a_broadcast_is_computed_small() -> None:
    x, row = placeholder("x", ("batch", 4)), placeholder("r", (4,))
    found = exported(gc.where(gc.greater(gc.exp(gc.broadcast_to(row, x.shape)), x), x, 0.0), [x, row])
    assert kinds(found) == ["Exp", "Greater", "Where"]
    types = {v.name: len(v.type.tensor_type.shape.dim) for v in found.model.graph.value_info}
    assert types == {"exp": 1, "greater": 2}


def test_a_broadcast_that_is_returned_or_reshaped_is_written_out() -> None:
    row = placeholder("r", ("n", 1))
    wide = gc.broadcast_to(row, (5, *row.shape[:1], 3))
    found = exported([wide, gc.ravel(wide)], [row])
    value = floats(2, 1)
    assert agrees(run(found, value)[0], np.broadcast_to(value, (5, 2, 3)))
    assert kinds(found).count("Expand") == 1


def test_a_matrix_that_serves_a_whole_batch_is_not_repeated() -> None:
    x, w = placeholder("x", ("batch", 3, 4)), placeholder("w", (4, 5))
    assert kinds(exported(gc.matmul(x, w), [x, w])) == ["MatMul"]


def test_a_reduction_and_the_squeeze_behind_it_are_one_step() -> None:
    x = placeholder("x", ("batch", 4))
    for reduced in (gc.sum(x, 1), gc.max(x, 0), gc.mean(x), gc.argmax(x, 1), gc.logsumexp(x, 1), gc.any(x > 0, 1)):
        found = exported(reduced, [x])
        assert attributes(found.model.graph.node[-1])["keepdims"] == 0
        assert "Squeeze" not in kinds(found)


def test_a_reduction_that_is_used_otherwise_too_keeps_its_axes() -> None:
    x = placeholder("x", ("batch", 4))
    total = gc.sum(x, 1, keepdims=True)
    assert kinds(exported([gc.squeeze(total, 1), x / total], [x])) == ["ReduceSum", "Squeeze", "Div"]


# --- stored values


def test_equal_constants_are_stored_once_and_unused_ones_not_at_all() -> None:
    x = placeholder("x", (2, 3))
    table = floats(2, 3)
    found = exported([x + table, x * table, x + 2.0, x * 2.0], [x])
    assert sorted(a.shape for a in stored(found).values()) == [(), (2, 3)]


def test_variables_keep_their_names_with_dots() -> None:
    with gc.scope("encoder"):
        w, b = Variable(floats(5, 4), "fc/weight"), Variable(floats(5), "fc/bias")
    x = placeholder("x", ("batch", 4))
    found = exported(gc.linear(x, w, b), [x])
    assert kinds(found) == ["Gemm"]
    assert set(stored(found)) == {"encoder.fc.weight", "encoder.fc.bias"}


def test_a_weight_is_stored_as_it_is_multiplied() -> None:
    w = Variable(floats(5, 4), "weight")
    x = placeholder("x", ("batch", "time", 4))
    found = exported(gc.linear(x, w), [x])
    assert kinds(found) == ["MatMul"]
    assert np.array_equal(stored(found)["weight.T"], w.initial.T)


def test_an_output_that_is_an_input_or_a_variable_or_returned_twice_is_a_copy() -> None:
    x, w = placeholder("x", (3,)), Variable(floats(3), "w")
    y = gc.tanh(x)
    found = exported([x, w, y, y, gc.constant([1.0, 2.0])], [x])
    value = floats(3)
    results = run(found, value)
    assert agrees(results[0], value)
    assert agrees(results[1], w.initial)
    assert agrees(results[2], results[3])
    assert list(results[4]) == [1, 2]


# --- sizes


def test_named_sizes_are_named_everywhere_and_every_value_has_a_type() -> None:
    x = placeholder("x", ("batch", 3, "h", "w"))
    w = Variable(floats(4, 3, 3, 3), "w")
    y = gc.relu(gc.conv2d(x, w, stride=2))
    found = exported([gc.max_pool2d(y, 2), gc.mean(y, (2, 3))], [x])
    graph = found.model.graph
    known = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    assert known["conv"] == ["batch", 4, "(h - 3)//2 + 1", "(w - 3)//2 + 1"]
    assert known["relu"] == known["conv"]
    assert str(found.inputs["x0"]) == "float32[batch, 3, h, w]"
    assert str(found.outputs["y1"]) == "float32[batch, 4]"
    typed = {*known, *found.outputs}
    assert all(name in typed for node in graph.node for name in node.output)


@pytest.mark.parametrize("shape", [("batch", 4, 8), (6, "seq", 8), ("batch", "seq", 8)])
def test_sizes_that_stay_and_one_that_is_unknown_need_no_shape(shape: tuple[Any, ...]) -> None:
    x = placeholder("x", shape)
    found = exported(gc.reshape(x, (*shape[:2], 2, 4)), [x])
    assert kinds(found) == ["Reshape"]
    joined = exported(gc.reshape(x, (-1, 8)), [x])
    assert kinds(joined) == ["Reshape"]
    sizes = [5 if isinstance(dim, str) else dim for dim in shape]
    assert run(joined, floats(*sizes))[0].shape == (int(np.prod(sizes[:2])), 8)


def test_other_sizes_are_worked_out_from_the_inputs() -> None:
    x = placeholder("x", ("batch", "2*h + 1"))
    batch, width = x.shape
    moved = gc.reshape(x, (width, batch))
    padded = gc.pad(x, ((0, 0), (1, (width - 1) // 2)))
    filled = gc.ones((batch, width + batch))
    found = exported([moved, padded, filled, gc.arange(width // 3), gc.mean(x)], [x])
    value = floats(3, 7)
    results = run(found, value)
    assert agrees(results[0], value.reshape(7, 3))
    assert agrees(results[1], np.pad(value, ((0, 0), (1, 3))))
    assert agrees(results[2], np.ones((3, 10), np.float32))
    assert list(results[3]) == [0, 1]
    assert agrees(results[4], value.mean())


def test_a_size_that_no_input_has_is_a_problem() -> None:
    x, y = placeholder("x", ("n",)), placeholder("y", ("m",))
    with pytest.raises(ExportError, match="the size 'm' is in the shape of no input"):
        exported(x.sum() + gc.ones(y.shape).sum(), [x])


def test_an_empty_result_is_stored_whatever_computes_it() -> None:
    x = placeholder("x", (0, 3, 4, 4))
    found = exported(gc.conv2d(x, Variable(floats(2, 3, 3, 3), "w")), [x])
    assert kinds(found) == ["Identity"]
    assert run(found, np.zeros((0, 3, 4, 4), np.float32))[0].shape == (0, 2, 2, 2)


# --- whole composites


def network(x: Node) -> Node:
    y = gc.relu(gc.batch_norm(gc.conv2d(x, weight(8, 3, 3, 3), weight(8), padding=1), *statistics(8)))
    y = gc.relu(gc.conv2d(y, weight(8, 8, 3, 3), padding=1) + y)
    y = gc.global_avg_pool2d(gc.max_pool2d(y, 2))
    return gc.softmax(gc.linear(gc.flatten(y, 1), weight(10, 8), weight(10)))


def weight(*shape: int) -> Variable:
    return Variable(floats(*shape), "w")


def statistics(channels: int) -> tuple[Variable, ...]:
    positive = np.abs(floats(channels)) + 0.5
    return Variable(floats(channels), "mean"), Variable(positive, "var"), weight(channels), weight(channels)


def test_a_convolutional_network_keeps_its_layers_and_has_no_transpose() -> None:
    x = placeholder("x", ("batch", 3, 8, 8))
    program = run_pipeline(Program((x,), (network(x),)), onnx_target(20))
    found = exported(program.outputs, [x])
    assert kinds(found) == [
        *("Conv", "BatchNormalization", "Relu", "Conv", "Add", "Relu"),
        *("MaxPool", "GlobalAveragePool", "Squeeze", "Gemm", "Softmax"),
    ]


def test_younger_operators_are_used_from_their_opset_on() -> None:
    q, scale = placeholder("q", ("batch", 2, "time", 8)), Variable(floats(8), "scale")
    y = gc.gelu(gc.scaled_dot_product_attention(gc.rms_norm(q, 8, scale), q, q))
    by_opset = {opset: set(kinds(exported(y, [q], opset=opset))) for opset in (19, 20, 23)}
    assert "Gelu" not in by_opset[19]
    assert "Gelu" in by_opset[20]
    assert by_opset[23] == {"RMSNormalization", "Attention", "Gelu"}


@pytest.mark.parametrize("masked", ["none", "bool", "float", "causal"])
def test_attention_means_the_same_whole_and_decomposed(masked: str) -> None:
    q, k, v = (placeholder(n, (2, 3, length, 4)) for n, length in (("q", 5), ("k", 6), ("v", 6)))
    seen = np.random.default_rng(1).random((5, 6)) < 0.7
    seen[:, 0] = True
    mask = {"bool": seen, "float": floats(5, 6)}.get(masked)
    y = gc.scaled_dot_product_attention(q, k, v, mask, is_causal=masked == "causal")
    feeds = [floats(2, 3, 5, 4), floats(2, 3, 6, 4), floats(2, 3, 6, 4)]
    whole, parts = (exported(y, [q, k, v], opset=opset) for opset in (23, 20))
    assert "Attention" in kinds(whole)
    assert "Softmax" in kinds(parts)
    assert agrees(run(whole, *feeds)[0], run(parts, *feeds)[0])


def test_a_composite_that_onnx_has_for_other_dtypes_only_is_decomposed() -> None:
    x = placeholder("x", ("batch", 4), "int32")
    w = placeholder("w", (5, 4), "int32")
    assert kinds(exported(gc.linear(x, w), [x, w])) == ["Transpose", "MatMul"]
    assert kinds(exported(gc.relu(x), [x])) == ["Max"]


def test_a_composite_of_mixed_precision_is_decomposed_where_onnx_wants_one_dtype() -> None:
    x, scale = placeholder("x", ("batch", 4), "float16"), placeholder("scale", (4,))
    found = exported(gc.layer_norm(x, 4, scale), [x, scale])
    assert "LayerNormalization" not in kinds(found)
    assert found.outputs["y0"] is TensorType("float16", x.shape)


def test_an_attribute_that_would_lose_digits_is_not_stored_as_one() -> None:
    single, double = placeholder("x", (3,)), placeholder("x", (3,), "float64")
    assert kinds(exported(gc.leaky_relu(single, 0.1), [single])) == ["LeakyRelu"]
    assert "LeakyRelu" not in kinds(exported(gc.leaky_relu(double, 0.1), [double]))
    assert "LeakyRelu" in kinds(exported(gc.leaky_relu(double, 0.25), [double]))


def test_a_dtype_that_an_operator_lacks_is_widened_around_it() -> None:
    x = placeholder("x", (3, 4), "int8")
    found = exported(gc.sum(x, 1, dtype="int8"), [x])
    assert kinds(found) == ["Cast", "ReduceSum", "Cast"]
    value = np.full((3, 4), 100, np.int8)
    assert run(found, value)[0].tolist() == value.sum(1, dtype=np.int8).tolist()


def test_a_users_composite_is_exported_through_its_definition() -> None:
    @composite
    def swish(x: Any, *, beta: float = 1.0) -> Any:
        return x * gc.sigmoid(beta * x)

    x = placeholder("x", (3,))
    assert kinds(exported(swish(x, beta=2.0), [x])) == ["Mul", "Sigmoid", "Mul"]


# --- random draws


def test_two_draws_are_two_steps() -> None:
    x = placeholder("x", ("batch", 3))
    first, second, fixed, other = (
        gc.random.uniform(x.shape),
        gc.random.uniform(x.shape),
        gc.random.normal((4,)),
        gc.random.normal((4,)),
    )
    found = exported([first + second, fixed + other], [x])
    assert sorted(kinds(found)).count("RandomUniformLike") == 2
    assert kinds(found).count("RandomNormal") == 2
    assert len(found.random) == 4


def test_draws_have_the_distribution_that_was_asked_for() -> None:
    x = placeholder("x", ("n",))
    draws = [
        gc.random.uniform(x.shape, -1.0, 3.0),
        gc.random.normal(x.shape, 5.0, 2.0, "float64"),
        gc.random.bernoulli(0.25, x.shape),
        gc.random.integers(-3, 4, x.shape, "int32"),
        gc.random.uniform(),
    ]
    found = exported(draws, [x])
    uniform, normal, flags, integers, scalar = run(found, np.zeros(20000, np.float32))
    assert (uniform.min() >= -1, uniform.max() < 3) == (True, True)
    assert abs(uniform.mean() - 1) < 0.05
    assert abs(normal.mean() - 5) < 0.1
    assert abs(normal.std() - 2) < 0.1
    assert normal.dtype == np.float64
    assert abs(flags.mean() - 0.25) < 0.02
    assert set(integers.tolist()) == set(range(-3, 4))
    assert scalar.shape == ()


# --- bodies


def test_the_body_of_a_loop_has_names_of_its_own() -> None:
    a, b = placeholder("a", ("n", 3)), placeholder("b", ("n", 3))
    states = linear_recurrence(a, b, axis=0) * linear_recurrence(b, a, axis=0)
    found = exported(states, [a, b])
    bodies = [attributes(step)["body"] for step in found.model.graph.node if step.op_type == "Scan"]
    names = [name for graph in (found.model.graph, *bodies) for step in graph.node for name in step.output]
    assert len(bodies) == 2
    assert len(set(names)) == len(names)


# --- names and metadata


HOSTILE = ["", "a b", "x\n", "../../etc", "日本", "'; DROP", "x" * 300, "\ud800", "%s{}", "0"]


def test_hostile_names_are_made_storable_and_unique() -> None:
    x, y = placeholder("x", (2,)), placeholder("y", (2,))
    program = Program((x, y), tuple(gc.tanh(x + y * k) for k in range(len(HOSTILE))))
    found = to_onnx(program, ["y0", "y0"], HOSTILE, {})
    names = [*found.inputs, *found.outputs]
    assert len(set(names)) == len(names) == len(HOSTILE) + 2
    onnx.checker.check_model(found.model, full_check=True)
    assert all(name.isprintable() and name for name in names)


def test_a_step_is_called_after_its_scope_and_op() -> None:
    x = placeholder("x", (4,))
    with gc.scope("encoder"), gc.scope("block"):
        y = gc.tanh(gc.tanh(x))
        z = gc.log1p(y)
    graph = exported(z, [x]).model.graph
    names = [step.name for step in graph.node]
    assert names[:3] == ["encoder/block/tanh", "encoder/block/tanh_1", "encoder/block/log1p/Add"]
    assert names[-1] == "encoder/block/log1p"
    assert len(set(names)) == len(names)


def test_metadata_tell_where_a_step_comes_from_but_no_line_unless_asked() -> None:
    x = placeholder("x", (4,))
    with gc.scope("encoder"):
        y = gc.tanh(x)
    plain = exported(y, [x])
    assert {p.key: p.value for p in plain.model.graph.node[0].metadata_props} == {
        "namespace": "encoder",
        "pkg.graphc.op": "tanh",
    }
    assert b"test_onnx.py" not in plain.model.SerializeToString()
    told = exported(y, [x], source_lines=True)
    source = {p.key: p.value for p in told.model.graph.node[0].metadata_props}["pkg.graphc.source"]
    assert source.startswith("test_onnx.py:")
    assert source.endswith("y = gc.tanh(x)")


SCRIPT = """
import sys, hashlib, numpy as np, graphc as gc
from graphc.exporters.onnx.export import to_onnx
from graphc.ir import Program
for junk in range(int(sys.argv[1])):
    gc.tanh(gc.placeholder("junk", (junk + 1,)))
with gc.Graph():
    x = gc.placeholder("x", ("batch", 3, "h", "w"))
    w = gc.Variable(np.ones((4, 3, 3, 3), "float32"), "w")
    y = gc.softmax(gc.mean(gc.elu(gc.conv2d(x, w)), (2, 3)))
    model = to_onnx(Program((x,), (y, gc.log1p(y), y.reshape(-1))), ["x"], ["a", "b", "c"], {w: w.initial}).model
print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_same_graph_gives_the_same_bytes() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, junk],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, junk in (("1", "0"), ("2", "5"))
    ]
    assert runs[0] == runs[1]


def test_a_deep_graph_is_exported() -> None:
    x = placeholder("x", (2,))
    y = x
    for _ in range(5000):
        y = gc.tanh(y)
    assert len(to_onnx(Program((x,), (y,)), ["x"], ["y"], {}).model.graph.node) == 5000


# --- opsets, and what can't be said


def lonely(name: str) -> Any:
    """A primitive that has no line."""
    return pointwise(name, lambda x: x, NoGradient("it is an example"), doc="An op that ONNX doesn't have.")


def cumprod_line(b: Builder, node: Node, x: Value) -> Value:
    return b.op("CumProd", x, b.constant(0), out=node.shape)


def test_the_default_opset_is_raised_where_an_op_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    op = lonely("young")
    monkeypatch.setitem(TABLE, op, Line(cumprod_line))
    x = placeholder("x", (3,))
    found = exported(op(x), [x])
    assert (found.opset, found.model.ir_version) == (26, 13)
    (reason,) = found.raised
    assert reason.startswith("young(float32[3]): ONNX's CumProd needs opset 26, not 20")
    assert "found = exported(op(x), [x])" in reason


def test_the_default_is_opset_20_and_the_file_format_that_most_runtimes_read() -> None:
    x = placeholder("x", (3,))
    found = exported(gc.tanh(x), [x])
    assert (found.opset, found.model.ir_version, found.raised) == (20, 10, ())


def test_an_opset_that_is_asked_for_is_kept_and_what_would_help_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    op = lonely("young")
    monkeypatch.setitem(TABLE, op, Line(cumprod_line))
    x = placeholder("x", (3,))
    with pytest.raises(ExportError, match="needs opset 26, not 21") as error:
        exported(op(x), [x], opset=21)
    assert error.value.hint == "opset=26 has what is missing"


@pytest.mark.parametrize("opset", [16, 29, "20", 20.0, True])
def test_other_opsets_are_refused(opset: Any) -> None:
    x = placeholder("x", (3,))
    with pytest.raises(gc.ArgumentError, match="isn't one of 17 to 28"):
        exported(gc.tanh(x), [x], opset=opset)


def test_all_that_cannot_be_said_is_told_at_once() -> None:
    first, second = lonely("first"), lonely("second")
    x = placeholder("x", ("batch", 3))
    with gc.scope("head"):
        y = first(x)
    z = second(gc.tanh(y))
    with pytest.raises(ExportError) as error:
        exported(z, [x])
    assert error.value.message == "ONNX can't express 2 operations of this graph at opset 20"
    line, other = error.value.lines
    assert line.startswith("first(float32[batch, 3]) in head: ONNX has no such operator: test_onnx.py:")
    assert line.endswith("y = first(x)")
    assert other.startswith("second(float32[batch, 3]): ONNX has no such operator")
    assert "gc.composite" in str(error.value)


def test_a_dtype_that_no_opset_takes_is_told() -> None:
    x, w = placeholder("x", (1, 1, 4, 4), "int64"), placeholder("w", (1, 1, 2, 2), "int64")
    with pytest.raises(ExportError, match="ONNX's Conv doesn't take int64 at opset 20"):
        exported(gc.conv2d(x, w), [x, w])


def test_an_attribute_must_be_known() -> None:
    x = placeholder("x", ("batch", 3, "h", "w"), "int32")
    with pytest.raises(ExportError, match=r"ONNX's MaxPool needs a known kernel_shape, not \[h, w\]"):
        exported(gc.global_max_pool2d(x), [x])


def test_an_op_that_depends_on_the_mode_is_resolved_before() -> None:
    x = placeholder("x", (3,))
    with pytest.raises(ExportError, match="it depends on the mode"):
        exported(gc.by_mode(x, x + 1), [x])


# --- integers


def test_a_known_divisor_needs_no_guard_against_zero() -> None:
    x, d = placeholder("x", (3,), "int64"), placeholder("d", (3,), "int64")
    assert kinds(exported(x // 3, [x])).count("Where") == 0
    assert kinds(exported(x % 3, [x])) == ["Mod"]
    found = exported([x // d, x % d], [x, d])
    values, divisors = np.array([7, -7, 5]), np.array([0, 2, -1])
    assert [y.tolist() for y in run(found, values, divisors)] == [[0, -4, -5], [0, 1, 0]]


# --- the schemas


def test_attributes_that_became_operands_are_given_as_the_opset_wants_them() -> None:
    x = placeholder("x", (3, 4))
    y = gc.max(x, 1)
    old, new = (exported(y, [x], opset=opset).model.graph.node[0] for opset in (17, 18))
    assert attributes(old)["axes"] == [1]
    assert len(old.input) == 1
    assert "axes" not in attributes(new)
    assert len(new.input) == 2


def test_schemas_are_those_of_onnx() -> None:
    assert "axes" in schema("ReduceMax", 17).attributes
    assert [formal.name for formal in schema("ReduceMax", 18).inputs] == ["data", "axes"]
    assert "bfloat16" not in schema("Conv", 20).dtypes["T"]
    assert "bfloat16" in schema("Conv", 22).dtypes["T"]


def test_a_line_for_a_users_own_primitive_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    op = lonely("softsign")
    monkeypatch.setitem(TABLE, op, direct("Softsign"))
    x = placeholder("x", (3,))
    value = floats(3)
    assert agrees(run(exported(op(x), [x]), value)[0], value / (1 + np.abs(value)))


def test_types_of_results_follow_from_the_operands() -> None:
    x = Value(TensorType("float32", (3, 1)), name="x")
    builder = Builder(20, [x])
    assert builder.op("Less", x, builder.constant([[1.0, 2.0]], "float32")).type is TensorType("bool", (3, 2))
    assert builder.op("Mul", x, x) is builder.op("Mul", x, x)
