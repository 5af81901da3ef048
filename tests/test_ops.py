"""Every op of the registry against its own declaration: an op is tested by existing.

For each op and each of its samples: what an op must have, its type rule against its reference in every dtype and with
symbolic shapes, composites against their bodies and against NumPy, gradients against finite differences.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from op_meanings import MEANINGS, UNARY
from op_testing import (
    FLOATS,
    HALVES,
    INTEGERS,
    Call,
    call,
    close,
    convert,
    decomposed,
    derivative,
    has_kind,
    is_array,
    retyped,
    same_bits,
    samples_of,
    special_values,
)

from graphc.composites import item_op
from graphc.errors import DTypeError
from graphc.evaluate import bind_attrs, widened
from graphc.ir import Node, toposort
from graphc.op import NoGradient, Op, Sample
from graphc.operands import ACCEPTS, constant, reduce_sum
from graphc.ops import REGISTRY
from graphc.ops.math import multiply
from graphc.passes.gradients import gradients
from graphc.types import DTYPES, TensorType, TupleType, is_float, np_dtype

# Kinds of ops that have no samples, and where their meaning is tested instead.
WITHOUT_SAMPLES = {
    "parameter": "stands for an operand of a body: tests/test_ir.py",
    "placeholder": "its value is fed: the tests of sessions",
    "variable": "its value is kept by a session: the tests of sessions",
    "constant": "its value is its attribute: tests/test_ir.py",
    "extent": "its value is a size that a run binds: tests/test_ops_reduce.py",
    "iota": "counts without operands: tests/test_ops_shape.py",
    "random": "its value comes from a stream: tests/test_random.py",
    "tuple": "takes an item of ops with several results, whose samples exercise it",
}

# Who must be able to run an op: the target's name, and what it lacks for the op (None: nothing).
TARGETS: dict[str, Callable[[Op], str | None]] = {
    "reference": lambda op: None if op.ref or op.kind == "composite" else "its `ref` is missing",
}

# Ops that cut a gradient which is not zero, on purpose.
CUTS = {"stop_gradient": "that is its purpose"}

# Unary ops whose small results are only accurate relative to 1.
CANCELS = {"gelu": "1 + erf(x) in the left tail, as in torch"}

TESTED = [op for op in REGISTRY.values() if op.kind not in WITHOUT_SAMPLES]


def each_op(wanted: Callable[[Op], object] = lambda op: True) -> pytest.MarkDecorator:
    """Run a test for every op that it is about."""
    return pytest.mark.parametrize("op", [pytest.param(op, id=op.name) for op in TESTED if wanted(op)])


def each_case(wanted: Callable[[Op, Sample], object] = lambda op, sample: True) -> pytest.MarkDecorator:
    """Run a test for every sample that it is about of every op."""
    cases = [(op, k, sample) for op in TESTED for k, sample in enumerate(samples_of(op)) if wanted(op, sample)]
    return pytest.mark.parametrize(("op", "sample"), [pytest.param(op, s, id=f"{op.name}-{k}") for op, k, s in cases])


def is_pointwise(op: Op) -> bool:
    return op.kind == "pointwise"


def has_floats(op: Op, sample: Sample) -> bool:
    return has_kind(sample, "f")


def differentiable(op: Op, sample: Sample) -> bool:
    return sample.differentiable and has_kind(sample, "f") and not isinstance(op.vjp, NoGradient)


# --- what every op must have


@each_op()
def test_op_is_complete(op):
    assert list(_missing(op)) == [], f"op {op.name!r} is not complete"


def _missing(op: Op) -> Iterator[str]:
    calls = [call(op, sample) for sample in samples_of(op)]
    shapes = [node.shape for made in calls for node in (*made.feeds, *made.results)]
    if not calls:
        yield "samples: declare it with samples=..."
    elif all(math.prod(shape) <= 1 for shape in shapes):
        yield "a sample with more than one element"
    elif not any(shape == () or 0 in shape or any(d % 2 and d > 1 for d in shape) for shape in shapes):
        yield "a sample that is empty, 0-d or of odd size"
    if op.vjp is None and op.kind != "composite":
        yield "a decision about its gradient: vjp=rule, or NoGradient(reason)"
    if callable(op.vjp) and not any(s.differentiable and has_kind(s, "f") for s in samples_of(op)):
        yield "a sample at which its gradient can be checked"


@each_op()
@pytest.mark.parametrize("target", TARGETS)
def test_op_runs_on_target(op, target):
    lacking = TARGETS[target](op)
    assert lacking is None, f"op {op.name!r} can't run on target {target!r}: {lacking}"


def test_reasons_name_ops_that_exist():
    assert {*CUTS, *CANCELS, *MEANINGS} <= set(REGISTRY)


# --- types


@each_case()
def test_reference_agrees_with_the_type_rule_in_every_dtype(op, sample):
    for dtype, typed in _retypings(sample):
        try:
            made = call(op, typed)
        except DTypeError:
            assert op.kind == "pointwise" or dtype not in (*FLOATS, "int64"), f"{op.name} must take {_types(typed)}"
            continue
        _check_types(made, _types(typed))


def _retypings(sample: Sample) -> Iterator[tuple[str, Sample]]:
    """The sample with its float operands in every dtype, and its integer operands in every integer dtype."""
    if has_kind(sample, "f"):
        yield from ((dtype, retyped(sample, dtype, "int64")) for dtype in DTYPES)
    if has_kind(sample, "i"):
        yield from ((dtype, retyped(sample, "float32", dtype)) for dtype in INTEGERS)
    if not has_kind(sample, "f") and not has_kind(sample, "i"):
        yield "bool", sample


def _check_types(made: Call, label: str) -> None:
    """Every node below the results, with composites opened, has a value of its type, computed in that precision."""
    nodes = toposort(decomposed(made.results))
    values = dict(zip(nodes, made.evaluate(nodes), strict=True))
    for node in nodes:
        if node in made.feeds or node.op is item_op:
            continue
        operands = [widened(values[i]) for i in node.inputs]
        with np.errstate(all="ignore"):
            raw = node.op.ref(*operands, **bind_attrs(node.attrs, made.dims))
        several = isinstance(node.type, TupleType)
        types = node.type.items if several else (node.type,)
        for type, array in zip(types, raw if several else (raw,), strict=True):
            computed = "float32" if type.dtype in HALVES else type.dtype
            shape, dtype = np.shape(array), np.asarray(array).dtype.name
            assert shape == type.shape, f"{label}: {node.op.name} has type {type}, but shape {shape}"
            assert dtype in (computed, type.dtype), f"{label}: {node.op.name} has type {type}, but computes {dtype}"


def _types(sample: Sample) -> str:
    return ", ".join(f"{a.dtype.name}{list(a.shape)}" if is_array(a) else repr(a) for a in sample.args)


@each_op(is_pointwise)
def test_pointwise_op_accepts_what_it_declares(op):
    (data,) = _data_classes(op)
    sample = next(s for s in samples_of(op) if any(is_array(a) and a.size > 1 for a in s.args))
    for dtype in DTYPES:
        args = tuple(
            convert(arg, dtype) if is_array(arg) and (arg.dtype != bool or op.accepts == ("bool",)) else arg
            for arg in sample.args
        )
        try:
            call(op, Sample(args, sample.attrs))
            accepted = True
        except DTypeError:
            accepted = False
        promoted = data == "float" and dtype not in FLOATS
        assert accepted == (promoted or dtype in ACCEPTS[data]), f"{op.name} of {dtype}, but it accepts {data}"


def _data_classes(op: Op) -> set[str]:
    """The classes of dtypes that a pointwise op accepts, masks beside data apart."""
    return set(op.accepts) - {"bool"} or {"bool"}


@each_case()
def test_symbolic_shapes_give_the_same_types_and_values(op, sample):
    plain, symbolic = call(op, sample), call(op, sample, symbolic=True)
    for node in toposort(symbolic.results):
        assert all(guard.holds(symbolic.dims) for guard in node.guards)
    for known, named in zip(plain.results, symbolic.results, strict=True):
        assert named.type.bind(symbolic.dims) is known.type
    for known, named in zip(plain.values(), symbolic.values(), strict=True):
        assert same_bits(known, named)


# --- values


@each_case(lambda op, sample: op.kind == "composite")
def test_a_composite_means_what_its_body_means(op, sample):
    made = call(op, sample)
    for whole, part in zip(made.values(), made.evaluate(decomposed(made.results)), strict=True):
        assert same_bits(whole, part)


@each_case(lambda op, sample: op.name in MEANINGS)
def test_an_op_means_what_numpy_says(op, sample):
    with np.errstate(all="ignore"):
        meant = MEANINGS[op.name](*sample.args, **sample.attrs)
    values = call(op, sample).values()
    for value, known in zip(values, meant if isinstance(meant, tuple) else (meant,), strict=True):
        assert value.shape == np.shape(known)
        assert close(value, np.asarray(known, value.dtype), 1e-12), (
            f"{op.name}{dict(sample.attrs)}: {value} is not {known}"
        )


@each_op(lambda op: op.name in UNARY)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)])
def test_a_unary_op_means_what_numpy_says_at_special_values(op, dtype, tolerance):
    """Element by element: what is infinite, nan or exactly zero must be so, small results are relatively accurate."""
    x = special_values(dtype)
    (value,) = call(op, Sample((x,))).values()
    with np.errstate(all="ignore"):
        known = np.asarray(UNARY[op.name](x.astype(np.float64))).astype(value.dtype)
        if known.dtype.kind == "f":
            small = tolerance if op.name in CANCELS else 100 * np.finfo(dtype).tiny
            agrees = (value == known) | (np.abs(value - known) <= tolerance * np.abs(known) + small)
        else:
            agrees = value == known
    near = agrees | (np.isnan(value) & np.isnan(known))
    far = ~near
    assert not far.any(), f"{op.name} of {x[far]} is {value[far]}, not {known[far]}"


# Relative to the largest magnitude of the result: a few roundings of each dtype.
ROUNDINGS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


@each_case(has_floats)
def test_lower_precision_differs_by_rounding_only(op, sample):
    for dtype, tolerance in ROUNDINGS.items():
        rounded = retyped(sample, dtype)
        same = tuple(a.astype(np.float64) if is_array(a) and a.dtype == np_dtype(dtype) else a for a in rounded.args)
        for low, high in zip(call(op, rounded).values(), call(op, Sample(same, sample.attrs)).values(), strict=True):
            assert close(low, high, tolerance), f"{op.name} in {dtype}: {low} is not {high}"


@each_op(is_pointwise)
def test_pointwise_op_handles_special_values(op):
    """Halves are float32 rounded once, nothing warns, and swapped operands of commutative ops change nothing."""
    sample = samples_of(op)[0]
    for dtype in DTYPES:
        if not all(dtype in ACCEPTS[accepted] for accepted in _data_classes(op)):
            continue
        grid = np.meshgrid(*[special_values("bool" if a.dtype == bool else dtype) for a in sample.args if is_array(a)])
        args = tuple(operand.ravel() for operand in grid)
        with warnings.catch_warnings(), np.errstate(all="warn"):
            warnings.simplefilter("error")
            (value,) = call(op, Sample(args, sample.attrs)).values()
            swapped = call(op, Sample(args[::-1], sample.attrs)).values()[0] if op.commutative else value
        assert np.array_equal(value, swapped, equal_nan=value.dtype.kind in "fV")
        with np.errstate(all="ignore"):
            assert same_bits(value, np.asarray(op.ref(*map(widened, args), **sample.attrs)).astype(value.dtype))


# --- gradients


@each_case(differentiable)
def test_gradients_of_first_and_second_order(op, sample):
    """Along random directions, the gradient of a random projection equals its finite difference; so does its own."""
    made, rng = call(op, sample), np.random.default_rng(1)
    objective = _projected(made.results, rng)
    for order in (1, 2):
        found = gradients(objective, made.float_leaves, disconnected="zero")
        along = _directions(made, rng)
        slopes = [_total(multiply(g, constant(u))) for g, u in zip(found, along.values(), strict=True)]
        exact = sum(float(value.sum()) for value in made.evaluate(slopes))
        norm = np.sqrt(sum(float(np.sum(np.square(value))) for value in made.evaluate(found)))
        length = np.sqrt(sum(float(np.sum(np.square(u))) for u in along.values()))
        numeric, error = _slope(made, objective, along)
        assert abs(exact - numeric) <= 1e-6 * norm * length + 1e-9, (
            f"{op.name}({_types(sample)}, {dict(sample.attrs)}), order {order}: "
            f"the gradient gives {exact:.12g}, finite differences {numeric:.12g} ± {error:.1g}"
        )
        objective = slopes


def _projected(results: tuple[Node, ...], rng: np.random.Generator) -> list[Node]:
    """Each result, weighted at random; those that round to fewer bits have no finite differences."""
    return [multiply(r, constant(rng.standard_normal(r.shape))) for r in results if r.dtype == "float64"]


def _total(node: Node) -> Node:
    return reduce_sum(node, axes=tuple(range(node.ndim)))


def _directions(made: Call, rng: np.random.Generator) -> dict[Node, Any]:
    """A random direction for each float leaf, with entries of magnitude at most 1."""
    drawn = {leaf: rng.uniform(-1, 1, leaf.shape) for leaf in made.float_leaves}
    return {leaf: np.asarray(u, np.float64) for leaf, u in drawn.items()}


def _slope(made: Call, objective: list[Node], along: dict[Node, Any]) -> tuple[float, float]:
    """The derivative of the sum of `objective` along a direction by finite differences, and its error."""

    def moved(t: float) -> float:
        feeds = {leaf: value + t * along[leaf] if leaf in along else value for leaf, value in made.feeds.items()}
        return sum(float(value.sum()) for value in Call(made.results, feeds).evaluate(objective))

    return derivative(moved)


@each_op(lambda op: isinstance(op.vjp, NoGradient) and op.name not in CUTS)
def test_an_op_without_a_gradient_is_flat(op):
    """`NoGradient` is only right where finite differences vanish too."""
    for sample in samples_of(op):
        if not sample.differentiable or not has_kind(sample, "f"):
            continue
        made, rng = call(op, sample), np.random.default_rng(1)
        slope, _ = _slope(made, _projected(made.results, rng), _directions(made, rng))
        assert slope == 0, f"{op.name}: {op.vjp.reason}, but it has the slope {slope}"


@each_case(differentiable)
def test_gradients_keep_their_types_in_every_precision_and_with_symbolic_shapes(op, sample):
    exact = _gradient_values(call(op, sample))
    for named, known in zip(_gradient_values(call(op, sample, symbolic=True)), exact, strict=True):
        assert close(named, known, 1e-12)
    for dtype in FLOATS:
        made = call(op, retyped(sample, dtype))
        for value, leaf in zip(_gradient_values(made), made.float_leaves, strict=True):
            assert TensorType(value.dtype.name, value.shape) is leaf.type


def _gradient_values(made: Call) -> list[np.ndarray[Any, Any]]:
    floats = [result for result in made.results if is_float(result.dtype)]
    return made.evaluate(gradients(floats, made.float_leaves, disconnected="zero"))
