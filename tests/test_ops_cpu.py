"""Every op as native code: values and gradients of all samples in all dtypes are those of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import ml_dtypes
import numpy as np
import pytest
from native_ops import BY_NUMPY, native_values
from op_testing import FLOATS, HALVES, Call, call, close, retyped, samples_of
from test_ops import TESTED, differentiable, each_op, retypings

from graphc.errors import DTypeError
from graphc.ir import Graph, Node
from graphc.op import Array, Op
from graphc.passes.gradients import gradients
from graphc.runtime.cpu import driver
from graphc.types import is_float, np_dtype

# How far a value may lie from the reference's, in units of the dtype's precision at the largest magnitude (at least 1).
# Ops that aren't named give what NumPy gives, to the bit.
ELEMENTARY = ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "tanh", "erf", "power")
COMPOSED = ("rsqrt", "sigmoid", "xlogy", "gelu", "silu", "elu", "softplus", "log_sigmoid", "binary_cross_entropy")
SUMS = ("reduce_sum", "reduce_prod", "mean", "var", "std", "logsumexp", "softmax", "log_softmax", "masked_softmax")
WINDOWS = ("avg_pool", "avg_pool_input_grad", "global_avg_pool")
NORMALISATIONS = ("standardize", "batch_norm_train", "layer_norm", "rms_norm", "group_norm", "instance_norm")
CONTRACTIONS = ("matmul", "linear", "einsum", "conv", "conv_input_grad", "conv_weight_grad", "conv_bias")
ROUNDED: dict[str, float] = {
    **dict.fromkeys((*ELEMENTARY, *COMPOSED), 2),
    **dict.fromkeys((*SUMS, *WINDOWS, *NORMALISATIONS, *CONTRACTIONS), 3),
    **dict.fromkeys(("conv_transpose", "cross_entropy", "batch_stats"), 4),
    **dict.fromkeys(("scaled_dot_product_attention", "scaled_dot_product_attention_grad"), 4),
}
GRADIENT_ULPS = 4  # of all ops: gradients are sums and products of several such values


@pytest.fixture(autouse=True)
def cut_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide commands among threads as if all were costly: one unit of work is a ticket."""
    for name in ("SHORT_NS", "PARALLEL_NS"):
        monkeypatch.setattr(driver, name, 0)
    monkeypatch.setattr(driver, "TICKET_NS", 1)


def calls_of(op: Op) -> Iterator[Call]:
    """The op on its samples, in each dtype that it takes."""
    graph = Graph()
    for sample in samples_of(op):
        for _, typed in retypings(sample):
            try:
                yield call(op, typed, graph=graph)
            except DTypeError:
                continue


def tolerance(dtype: str, made: Call, ulps: float) -> float:
    """What a result of this dtype may be off by; one of integers may have been computed in float32."""
    if not is_float(dtype):
        return 0.0
    computed = dtype if any(leaf.dtype == dtype for leaf in made.feeds) or dtype in HALVES else "float32"
    return ulps * float(ml_dtypes.finfo(np_dtype(computed)).eps)


def check(
    name: str,
    calls: Sequence[Call],
    roots: Sequence[Sequence[Node]],
    ulps: float,
    run: Callable[..., tuple[Iterator[Array], frozenset[str]]] = native_values,
) -> frozenset[str]:
    """Compare roots of calls with their values by the reference; the dtypes that NumPy ran."""
    found, by_numpy = run(calls, roots)
    for made, some in zip(calls, roots, strict=True):
        for root, expected in zip(some, made.evaluate(some), strict=True):
            value = next(found)
            types = ", ".join(f"{leaf.type}" for leaf in made.feeds)
            assert value.dtype == expected.dtype and value.shape == expected.shape, f"{name}({types})"
            with np.errstate(all="ignore"):
                near = close(value, expected, tolerance(root.dtype, made, ulps))
            assert near, f"{name}({types}): {value} is not {expected}"
    return by_numpy


@each_op()
def test_native_values_are_those_of_the_reference(op):
    calls = list(calls_of(op))
    by_numpy = check(op.name, calls, [made.results for made in calls], ROUNDED.get(op.name, 0))
    assert by_numpy == BY_NUMPY.get(op.name, frozenset())


def gradients_of(made: Call) -> list[Node]:
    """The gradients of the float results, weighted at random, with respect to the float leaves."""
    floats = [result for result in made.results if is_float(result.dtype)]
    rng = np.random.default_rng(2)
    weights = [rng.standard_normal(value.shape) for value in made.evaluate(floats)]
    return gradients(floats, made.float_leaves, weights, disconnected="zero") if floats else []


@each_op(lambda op: any(differentiable(op, sample) for sample in samples_of(op)))
def test_native_gradients_are_those_of_the_reference(op):
    graph = Graph()
    samples = [sample for sample in samples_of(op) if differentiable(op, sample)]
    calls = [call(op, retyped(sample, dtype), graph=graph) for dtype in FLOATS for sample in samples]
    by_numpy = check(op.name, calls, [gradients_of(made) for made in calls], GRADIENT_ULPS)
    assert not by_numpy


def test_the_table_names_ops_that_exist():
    assert {*ROUNDED, *BY_NUMPY} <= {op.name for op in TESTED}
