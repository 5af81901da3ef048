"""`__graphc_op__`: an operand that isn't a node takes the call, so the same functions run on other kinds of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from op_testing import call, has_kind, is_array, same_bits, samples_of

import graphc as gc
from graphc.composites import Composite, composite, items
from graphc.evaluate import evaluate
from graphc.ir import Graph
from graphc.op import Op
from graphc.operands import parameter
from graphc.operators import Operators
from graphc.ops import REGISTRY
from graphc.ops.math import add, multiply, subtract
from graphc.ops.state import placeholder
from graphc.types import TensorType, dtype_name, is_float

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


X = np.random.default_rng(0).standard_normal((2, 4, 6, 6))
INDEX = np.array([1, 0, 3, 1])
VECTOR = X[0, :, 0, 0]

# Public functions of a tensor of the shape [2, 4, 6, 6]; they must not assume that it is a node.
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "adaptive_avg_pool2d": lambda x: gc.adaptive_avg_pool2d(x, 3),
    "argmax": lambda x: gc.argmax(x, axis=1),
    "argsort": lambda x: gc.argsort(x, axis=None),
    "array_split": lambda x: gc.array_split(x, 4, axis=2),
    "avg_pool2d": lambda x: gc.avg_pool2d(x, 2, stride=1, padding=1),
    "batch_norm": lambda x: gc.batch_norm(x, VECTOR, np.abs(VECTOR), VECTOR, VECTOR),
    "batch_norm of a batch": lambda x: gc.batch_norm(x),
    "broadcast_arrays": lambda x: gc.broadcast_arrays(x, X[:1]),
    "broadcast_to": lambda x: gc.broadcast_to(x, (3, 2, 4, 6, 6)),
    "cast": lambda x: gc.cast(x, "int32"),
    "ceil": gc.ceil,
    "chunk": lambda x: gc.chunk(x, 3, 2),
    "clip": lambda x: gc.clip(x, -0.5, 0.5),
    "clip from one side": lambda x: gc.clip(x, min=0),
    "concat": lambda x: gc.concat([x, X], axis=1),
    "conv2d": lambda x: gc.conv2d(x, X[:, :, :3, :3], VECTOR[:2], stride=2, padding=1),
    "conv_transpose2d": lambda x: gc.conv_transpose2d(x, X[:, :, :2, :2].swapaxes(0, 1), stride=2),
    "cross_entropy": lambda x: gc.cross_entropy(x[:, :, 0, 0], INDEX[:2]),
    "cumprod": lambda x: gc.cumprod(x, axis=-1),
    "cumsum": lambda x: gc.cumsum(x, axis=0),
    "diagonal": lambda x: gc.diagonal(x, 1, 2, 3),
    "dot": lambda x: gc.dot(x, VECTOR[:1].repeat(6)),
    "dropout": lambda x: gc.dropout(x, 0.0),
    "einsum": lambda x: gc.einsum("bchw,c->bhw", x, VECTOR),
    "elu": gc.elu,
    "embedding": lambda x: gc.embedding(INDEX[:2] % 2, x),
    "expand_dims": lambda x: gc.expand_dims(x, (0, -1)),
    "flatten": lambda x: gc.flatten(x, 1),
    "flip": lambda x: gc.flip(x, (0, 3)),
    "full_like": lambda x: gc.full_like(x, 3),
    "gather_nd": lambda x: gc.gather_nd(x, [[0, 1], [1, 3]]),
    "gelu": lambda x: gc.gelu(x, approximate="tanh"),
    "getitem": lambda x: x[..., None, 1:, ::-2],
    "getitem at indices": lambda x: x[1, INDEX, :, INDEX],
    "global_avg_pool2d": gc.global_avg_pool2d,
    "global_max_pool2d": gc.global_max_pool2d,
    "group_norm": lambda x: gc.group_norm(x, 2, VECTOR, VECTOR),
    "instance_norm": gc.instance_norm,
    "layer_norm": lambda x: gc.layer_norm(x, 6),
    "leaky_relu": gc.leaky_relu,
    "linear": lambda x: gc.linear(x, X[0, 0]),
    "logsumexp": lambda x: gc.logsumexp(x, axis=(1, 2)),
    "matmul": lambda x: gc.matmul(x, X[0, 0]),
    "matmul from the right": lambda x: X[0, 0] @ x,
    "max": lambda x: gc.max(x, axis=1),
    "max_pool2d": lambda x: gc.max_pool2d(x, 2),
    "mean": lambda x: gc.mean(x, axis=(0, 2), keepdims=True),
    "moveaxis": lambda x: gc.moveaxis(x, 1, -1),
    "mse_loss": lambda x: gc.mse_loss(x, X),
    "one_hot": lambda x: gc.one_hot(gc.cast(x, "int64"), 3),
    "ones_like": gc.ones_like,
    "outer": lambda x: gc.outer(x, VECTOR),
    "pad": lambda x: gc.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1))),
    "pad by reflection": lambda x: gc.pad(x, ((0, 0), (0, 0), (1, 2), (0, 1)), mode="reflect"),
    "power": lambda x: abs(x) ** 1.5 + x**2,
    "prod": lambda x: gc.prod(x, axis=2),
    "repeat": lambda x: gc.repeat(x, 2, axis=1),
    "reshape": lambda x: gc.reshape(x, (2, -1)),
    "rms_norm": lambda x: gc.rms_norm(x, (6, 6)),
    "roll": lambda x: gc.roll(x, 2, axis=3),
    "rot90": gc.rot90,
    "round": lambda x: gc.round(x, 1),
    "scaled_dot_product_attention": lambda x: gc.scaled_dot_product_attention(x, X, X, is_causal=True),
    "scatter_add": lambda x: gc.scatter_add(x, INDEX, 1.0, axis=1),
    "softmax": lambda x: gc.softmax(x, axis=1),
    "softplus": gc.softplus,
    "sort": lambda x: gc.sort(x, descending=True),
    "split": lambda x: gc.split(x, [1, 3], axis=1),
    "squeeze": lambda x: gc.squeeze(x[:1], 0),
    "stack": lambda x: gc.stack([x, X], axis=2),
    "std": lambda x: gc.std(x, axis=1, ddof=1),
    "sum": lambda x: gc.sum(x, axis=-1, dtype="float32"),
    "swapaxes": lambda x: gc.swapaxes(x, 1, 2),
    "take": lambda x: gc.take(x, INDEX, axis=1),
    "take_along_axis": lambda x: gc.take_along_axis(x, np.argsort(X, axis=1), axis=1),
    "tensordot": lambda x: gc.tensordot(x, X, axes=([1, 2], [1, 3])),
    "tile": lambda x: gc.tile(x, (2, 1, 1, 3)),
    "topk": lambda x: gc.topk(x, 2, axis=1),
    "transpose": lambda x: gc.transpose(x, (1, 0, 3, 2)),
    "tril": lambda x: gc.tril(x, 1),
    "unstack": lambda x: gc.unstack(x, axis=1),
    "var": lambda x: gc.var(x, axis=(2, 3)),
    "where": lambda x: gc.where(x > 0, x, 0),
    "zeros_like": gc.zeros_like,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_run_on_eager_tensors(name):
    with Graph():
        x = placeholder("x", X.shape, "float64")
        roots = _flat(FUNCTIONS[name](x))
        values = evaluate(roots, {x: X})
    found = _flat(FUNCTIONS[name](Eager(X)))
    assert len(found) == len(values)
    for eager, value in zip(found, values, strict=True):
        computed = eager.array if isinstance(eager, Eager) else evaluate([eager], {})[0]  # a result may be constant
        assert same_bits(computed, value)


def _flat(returned: Any) -> list[Any]:
    return list(returned) if isinstance(returned, tuple | list) else [returned]


RULES = [
    pytest.param(op, sample, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    if callable(op.vjp)
    for k, sample in enumerate(samples_of(op))
    if has_kind(sample, "f")
]


@pytest.mark.parametrize(("op", "sample"), RULES)
def test_gradient_rules_run_on_eager_tensors(op, sample):
    made = call(op, sample)
    rng = np.random.default_rng(0)
    node = made.results[0] if len(made.results) == 1 else made.results[0].inputs[0]
    given = [parameter(k, result.type) if is_float(result.dtype) else None for k, result in enumerate(made.results)]
    flowing = [g for g in given if g is not None]
    feeds = {**made.feeds, **{g: rng.standard_normal(g.shape).astype(g.dtype) for g in flowing}}

    def one_or_all(cotangents):
        return cotangents[0] if len(made.results) == 1 else tuple(cotangents)

    held = one_or_all([Eager(value) for value in evaluate(made.results, feeds)])
    operands = [Eager(value) for value in evaluate(node.inputs, feeds)]
    found = op.vjp(one_or_all([None if g is None else Eager(feeds[g]) for g in given]), held, *operands, **node.attrs)
    for eager, cotangent in zip(found, op.vjp(one_or_all(given), node, *node.inputs, **node.attrs), strict=True):
        assert (eager is None) == (cotangent is None)
        if cotangent is not None:
            assert same_bits(eager.array, evaluate([cotangent], feeds)[0])
