"""Every op of the registry as an ONNX model: valid, typed throughout, and equal to the op's own meaning.

Models run in ONNX Runtime or, where that lacks a dtype, in the reference evaluator of `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx_testing import Array, agrees, of_call, run
from op_testing import FLOATS, INTEGERS, Call, call, convert, is_array, retyped, samples_of, special_values

from graphc.errors import ExportError, GraphcError
from graphc.exporters.onnx.schema import DEFAULT_OPSET, schema
from graphc.exporters.onnx.table import NOT_EXPRESSIBLE, lacks
from graphc.op import Op, Sample
from graphc.operands import ACCEPTS
from graphc.ops import REGISTRY

TESTED = [op for op in REGISTRY.values() if samples_of(op) and op not in NOT_EXPRESSIBLE]

POINTWISE = [op for op in TESTED if op.accepts != ("any",) and not op.required]

# How far ONNX Runtime is off near zero, beyond its rounding: its sigmoid is flat below -10 or so.
ROUGH = {"sigmoid": 1e-8, "silu": 1e-7}
FLUSHED = 1e-37  # what it takes for zero in some operators is smaller

# Ops that ONNX has for floats only, although ours take integers.
CONVOLUTIONS = {"conv", "conv_bias", "conv_input_grad", "conv_weight_grad", "conv_transpose"}
MAXIMA = {"max_pool", "max_pool_indices", "max_pool_input_grad", "global_max_pool"}  # narrower integers are cast

# Only the reference evaluator takes bfloat16, and these it refuses or gets wrong.
NOT_IN_BFLOAT16 = {"max_pool", "max_pool_indices", "max_pool_input_grad", "linear_recurrence", "cumprod"}


def cases(wanted: Callable[[Sample], bool] = lambda sample: True) -> pytest.MarkDecorator:
    """Run a test for every sample of every op."""
    found = [(op, k, sample) for op in TESTED for k, sample in enumerate(samples_of(op)) if wanted(sample)]
    params = [pytest.param(op, sample, id=f"{op.name}-{k}") for op, k, sample in found]
    return pytest.mark.parametrize(("op", "sample"), params)


each_op = pytest.mark.parametrize("op", TESTED, ids=[op.name for op in TESTED])


def is_empty(sample: Sample) -> bool:
    return any(is_array(arg) and arg.size == 0 for arg in sample.args)


def in_dtype(sample: Sample, dtype: str) -> Sample:
    """`sample` with its float operands in `dtype`; those of integers have been indices and stay."""
    args = [convert(arg, dtype) if is_array(arg) and arg.dtype.kind == "f" else arg for arg in sample.args]
    return Sample(tuple(args), sample.attrs, sample.differentiable)


def differing(op: Op, made: Call, opset: int | None = None, absolute: float | None = None) -> list[str]:
    """The outputs of the model of a call of `op` that aren't graphc's; see `agrees`."""
    model = of_call(made, opset)
    found = run(model, *made.feeds.values())
    return [
        f"{name}: {theirs} instead of {ours}"
        for name, theirs, ours in zip(model.outputs, found, made.values(), strict=True)
        if not agrees(theirs, ours, absolute)
    ]


@pytest.mark.parametrize("op", REGISTRY.values(), ids=list(REGISTRY))
def test_every_op_has_a_line_or_a_definition_or_a_reason(op: Op) -> None:
    assert lacks(op) is None, f"{op.name}: {lacks(op)}"


@cases()
def test_an_op_means_the_same_in_onnx(op: Op, sample: Sample) -> None:
    assert differing(op, call(op, retyped(sample, "float32"))) == []


@cases(lambda sample: not is_empty(sample))
def test_an_op_means_the_same_with_symbolic_sizes(op: Op, sample: Sample) -> None:
    assert differing(op, call(op, retyped(sample, "float32"), symbolic=True)) == []


def is_refused(op: Op, dtype: str) -> bool:
    """Whether ONNX has the operator for floats only, and no float dtype would do."""
    return (op.name in CONVOLUTIONS and dtype not in FLOATS) or (op.name in MAXIMA and dtype == "int64")


@each_op
def test_an_op_means_the_same_in_every_dtype(op: Op) -> None:
    sample = next(sample for sample in samples_of(op) if not is_empty(sample))
    for dtype in (*FLOATS, *INTEGERS, "bool"):
        try:
            made = call(op, in_dtype(sample, dtype))
        except GraphcError:
            continue  # not an operand of this op
        if is_refused(op, dtype):
            with pytest.raises(ExportError, match="doesn't take"):
                of_call(made)
        elif dtype != "bfloat16" or op.name not in NOT_IN_BFLOAT16:
            assert differing(op, made) == [], f"{op.name} of {dtype}"


@pytest.mark.parametrize("opset", range(17, 27))
def test_every_op_at_each_opset_that_onnx_runtime_takes(opset: int) -> None:
    for op in TESTED:
        sample = next(sample for sample in samples_of(op) if not is_empty(sample))
        assert differing(op, call(op, retyped(sample, "float32")), opset) == [], op.name


@pytest.mark.parametrize("opset", [27, 28])
def test_every_op_is_valid_at_the_opsets_to_come(opset: int) -> None:
    for op in TESTED:
        sample = next(sample for sample in samples_of(op) if not is_empty(sample))
        assert of_call(call(op, retyped(sample, "float32")), opset).opset == opset


@pytest.mark.parametrize("op", POINTWISE, ids=[op.name for op in POINTWISE])
def test_special_values_mean_the_same(op: Op) -> None:
    """Infinities, nan, ties of rounding, the ends of the ranges: each element for itself; signed zeros are equal."""
    sample = samples_of(op)[0]
    operands = [arg for arg in sample.args if is_array(arg)]
    for dtype in ("float32", "int32", "int64"):
        if not all(dtype in ACCEPTS[accepted] for accepted in op.accepts if accepted != "bool"):
            continue
        grid = np.meshgrid(*[special_values("bool" if a.dtype == bool else dtype) for a in operands])
        arrays = [axis.ravel() for axis in grid]
        if op.name == "power" and dtype != "float32":
            arrays = where_float64_holds_the_power(*arrays)
        made = call(op, Sample(tuple(arrays), sample.attrs))
        assert differing(op, made, absolute=ROUGH.get(op.name, FLUSHED)) == [], f"{op.name} of {dtype}"


def where_float64_holds_the_power(base: Array, exponent: Array) -> list[Array]:
    """ONNX Runtime computes powers of integers in float64: those operands with which nothing is rounded."""
    with np.errstate(all="ignore"):
        power = base.astype(np.float64) ** exponent.astype(np.float64)
    held = (np.abs(power) <= min(np.iinfo(base.dtype).max, 2**53)) & (np.abs(exponent.astype(np.float64)) <= 2**53)
    assert 0 < held.sum() < held.size
    return [base[held], exponent[held]]


def test_the_default_opset_is_enough_for_all_of_them() -> None:
    for op in TESTED:
        made = call(op, retyped(samples_of(op)[0], "float32"))
        assert of_call(made).opset == DEFAULT_OPSET, op.name


def test_an_operator_that_is_younger_than_the_opset_is_no_operator() -> None:
    with pytest.raises(ExportError) as error:
        schema("Gelu", 19)
    assert error.value.message == "ONNX's Gelu needs opset 20, not 19"
