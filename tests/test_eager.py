"""`graphc.eager`: every op of the registry gives the reference's values and gradients, and the tape does as torch's."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from op_testing import call, close, is_array, retyped, samples_of
from test_dispatch import FUNCTIONS, X

import graphc as gc
from graphc import eager as ge
from graphc.eager.tensors import lifted
from graphc.op import NoGradient, Op
from graphc.ops import REGISTRY
from graphc.passes.gradients import gradients
from graphc.types import is_float, np_dtype

ULPS = {"values": 4, "gradients": 8}  # of the dtype's precision at the largest magnitude, or at 1

TAKING = [
    pytest.param(op, id=op.name)
    for op in REGISTRY.values()
    if any(is_array(arg) for sample in samples_of(op) for arg in sample.args)
]


pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


def near(found: Any, expected: np.ndarray[Any, Any], what: str) -> bool:
    """Whether an eager tensor has the reference's value."""
    value = found.numpy()
    eps = float(ml_dtypes.finfo(np_dtype("float32")).eps) if is_float(value.dtype.name) else 0.0
    return value.dtype == expected.dtype and value.shape == expected.shape and close(value, expected, ULPS[what] * eps)


# --------------------------------------------------------------------------------------------- every op


def operand(arg: Any) -> Any:
    """An operand of a sample, as an eager tensor if it is an array; one that has a gradient requires it."""
    return ge.tensor(arg, requires_grad=arg.dtype.kind == "f") if is_array(arg) else arg


@pytest.mark.parametrize("op", TAKING)
def test_values_and_gradients_are_those_of_the_reference(op: Op):
    for sample in samples_of(op):
        typed = retyped(sample, floats="float32")
        made = call(op, typed)
        args = list(map(operand, typed.args))
        with ge.set_training(False):  # as the reference evaluates
            returned = op(*args, **typed.attrs)
        results = returned if isinstance(returned, tuple) else (returned,)
        for found, expected in zip(results, made.values(), strict=True):
            assert near(found, expected, "values")

        leaves = [arg for arg in args if isinstance(arg, ge.Tensor) and arg.requires_grad]
        taped = [k for k, result in enumerate(results) if result.requires_grad]
        if not taped:
            continue
        rng = np.random.default_rng(2)
        weights = [rng.standard_normal(results[k].shape).astype("float32") for k in taped]
        found = ge.grad([results[k] for k in taped], leaves, weights, allow_unused=True)
        wanted = gradients([made.results[k] for k in taped], made.float_leaves, weights, disconnected="zero")
        for g, expected in zip(found, made.evaluate(wanted), strict=True):
            assert not expected.any() if g is None else near(g, expected, "gradients")


@pytest.mark.parametrize("op", TAKING)
def test_what_has_a_gradient_is_on_the_tape(op: Op):
    if isinstance(op.vjp, NoGradient):
        sample = samples_of(op)[0]
        returned = op(*map(operand, sample.args), **sample.attrs)
        results = returned if isinstance(returned, tuple) else (returned,)
        assert not any(result.requires_grad for result in results)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_give_tensors_with_the_values_of_nodes(name: str):
    x = gc.placeholder("x", X.shape, "float64")
    with gc.Session(device="reference") as session:
        expected = session.run(_flat(FUNCTIONS[name](x)), {x: X})
    with ge.set_training(False):
        found = [lifted(value) for value in _flat(FUNCTIONS[name](ge.tensor(X, requires_grad=True)))]
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype.name
        np.testing.assert_allclose(value.numpy(), wanted, rtol=1e-10, atol=1e-10)


def _flat(returned: Any) -> list[Any]:
    return list(returned) if isinstance(returned, tuple | list) else [returned]
