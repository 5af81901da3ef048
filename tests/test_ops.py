"""Every op of the registry against its own declaration: an op is tested by existing.

For each op and each of its samples: what an op must have, its type rule against its reference in every dtype and with
symbolic shapes, composites against their bodies and against NumPy, gradients against finite differences.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from native_ops import lacks_code
from op_meanings import ADJOINTS, MEANINGS, UNARY
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
    doubled,
    has_kind,
    is_array,
    retyped,
    same_bits,
    samples_of,
    special_values,
)

from graphc.composites import item_op
from graphc.errors import ArgumentError, DTypeError, GraphcError, ShapeError
from graphc.evaluate import bind_attrs, widened
from graphc.ir import Node, toposort
from graphc.op import NoGradient, Op, Sample
from graphc.operands import ACCEPTS, constant, reduce_sum, zeros_like
from graphc.ops import REGISTRY
from graphc.ops.control import stop_gradient
from graphc.ops.math import multiply, tanh
from graphc.passes.gradients import gradients
from graphc.types import DTYPES, TensorType, TupleType, is_float, np_dtype

# Kinds of ops that have no samples, and where their meaning is tested instead.
WITHOUT_SAMPLES = {
    "parameter": "stands for an operand of a body: tests/test_ir.py",
    "placeholder": "its value is fed: tests/test_state.py",
    "variable": "its value is kept by a session: tests/test_state.py",
    "constant": "its value is its attribute: tests/test_ir.py",
    "extent": "its value is a size that a run binds: tests/test_ops_reduce.py",
    "random": "its value comes from a stream: tests/test_philox.py",
    "tuple": "takes an item of ops with several results, whose samples exercise it",
}

# Who must be able to run an op: the target's name, and what it lacks for the op (None: nothing).
TARGETS: dict[str, Callable[[Op], str | None]] = {
    "reference": lambda op: None if op.ref or op.kind == "composite" else "its `ref` is missing",
    "cpu": lacks_code,
}

# Ops that cut a gradient which is not zero, on purpose.
CUTS = {"stop_gradient": "that is its purpose"}

# Ops whose gradient is nan at some of their samples, as torch's is.
NAN_GRADIENTS = {"power": "in the exponent of a negative base", "xlogy": "in a where both are 0"}

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
    if op.name not in {*MEANINGS, *ADJOINTS}:
        yield "its meaning in NumPy: a line in tests/op_meanings.py"
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
    assert {*CUTS, *CANCELS, *NAN_GRADIENTS, *MEANINGS, *ADJOINTS, *ADJOINTS.values()} <= set(REGISTRY)


# --- types


@each_case()
def test_reference_agrees_with_the_type_rule_in_every_dtype(op, sample):
    for dtype, typed in retypings(sample):
        try:
            made = call(op, typed)
        except DTypeError:
            assert op.kind == "pointwise" or dtype not in (*FLOATS, "int64"), f"{op.name} must take {_types(typed)}"
            continue
        _check_types(made, _types(typed))


def retypings(sample: Sample) -> Iterator[tuple[str, Sample]]:
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


@each_case()
def test_what_the_type_rule_lets_pass_can_be_computed(op, sample):
    """Operands of other shapes and dtypes than the samples': refused when the op is called, or computed."""
    for position, arg in enumerate(sample.args):
        for changed in _changed(arg) if is_array(arg) else ():
            args = (*sample.args[:position], changed, *sample.args[position + 1 :])
            typed = Sample(args, sample.attrs)
            made, refusal = _made(op, typed)
            if made is None:
                assert op.name in refusal, refusal
            else:
                _check_computed(op, made, typed)


def _changed(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """An axis more or less, another size of an axis, a scalar, other dtypes."""
    yield from (array[None], array[..., None], np.zeros((), array.dtype))
    if array.size:
        yield array[0] if array.ndim else array
    for axis in range(array.ndim):
        for size in (0, 1, array.shape[axis] + 1):
            yield np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), array.dtype)
    yield from (convert(array, dtype) for dtype in ("bool", "int8", "float16"))


def _made(op: Op, sample: Sample) -> tuple[Call | None, str]:
    """The call, or what was wrong with it."""
    try:
        return call(op, sample), ""
    except GraphcError as error:
        return None, str(error)


def _check_computed(op: Op, made: Call, sample: Sample) -> None:
    label = f"{op.name}({_types(sample)}, {dict(sample.attrs)})"
    try:
        values = made.values()
    except ArgumentError as error:  # an index is a value, so no type rule can know it
        values = [] if "out of range" in error.message else pytest.fail(f"{label}: {error}")
    except Exception as error:
        raise AssertionError(f"{label} passes its type rule") from error
    for result, value in zip(made.results, values, strict=False):
        assert value.shape == result.shape, f"{label} has type {result.type}, but shape {value.shape}"


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


# A few roundings of each dtype, relative to the largest magnitude of the result or 1.
ROUNDINGS = {dtype: 8 * float(ml_dtypes.finfo(np_dtype(dtype)).eps) for dtype in ("float32", *HALVES)}


@each_case(has_floats)
def test_lower_precision_differs_by_rounding_only(op, sample):
    for dtype, tolerance in ROUNDINGS.items():
        rounded = retyped(sample, dtype)
        for low, high in zip(call(op, rounded).values(), call(op, doubled(rounded)).values(), strict=True):
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


# --- traits, which passes rely on


@each_case(lambda op, sample: is_pointwise(op))
def test_a_pointwise_op_computes_each_element_alone(op, sample):
    """The elements in reverse order give the results in reverse order."""
    made = call(op, sample)
    for node in made.results:
        operands = made.evaluate(node.inputs)
        turned = [operand.ravel()[::-1] for operand in operands]
        with np.errstate(all="ignore"):
            value, mirrored = op.ref(*operands, **node.attrs), op.ref(*turned, **node.attrs)
        assert close(mirrored, np.ravel(value)[::-1], 1e-15)


@each_case(lambda op, sample: op.kind == "view")
def test_a_view_only_selects_elements(op, sample):
    numbered = np.arange(1.0, sample.args[0].size + 1).reshape(sample.args[0].shape)
    (value,) = call(op, Sample((numbered,), sample.attrs)).values()
    assert set(value.ravel()) <= set(numbered.ravel())
    if op.injective:
        assert len(set(value.ravel())) == value.size


@each_case(lambda op, sample: op.positions is not None)
def test_a_position_lies_within_as_many_elements_as_the_op_says(op, sample):
    made = call(op, sample)
    for node, value in zip(made.results, made.values(), strict=True):
        assert ((value >= 0) & (value < op.positions(node))).all()


@each_case(lambda op, sample: op.indexed)
def test_the_last_operands_of_an_indexed_op_are_its_indices(op, sample):
    """Moved out of range, they make it fail."""
    axes = sample.attrs["axes"]
    first = len(sample.args) - len(axes)
    beyond = [*sample.args[:first], *(index + 1000 for index in sample.args[first:])]
    if any(index.size for index in sample.args[first:]):
        with pytest.raises((IndexError, GraphcError)):
            call(op, Sample(tuple(beyond), sample.attrs)).values()


# --- gradients


@each_case(differentiable)
def test_gradients_of_first_and_second_order(op, sample):
    """Along random directions, the gradient of a random projection equals its finite difference; so does its own."""
    made, rng = call(op, sample), np.random.default_rng(1)
    objective = _projected(made.results, rng)
    for order in (1, 2):
        found = _gradients(objective, made)
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
def test_gradients_with_symbolic_shapes_are_the_same(op, sample):
    known, named = (_gradient_values(call(op, sample, symbolic=symbolic)) for symbolic in (False, True))
    assert all(close(a, b, 1e-12) for a, b in zip(named, known, strict=True))


@each_case(differentiable)
def test_gradients_in_lower_precision_have_their_types_and_differ_by_rounding_only(op, sample):
    for dtype, tolerance in ROUNDINGS.items():
        rounded = retyped(sample, dtype)
        made = call(op, rounded)
        exact = _gradient_values(call(op, doubled(rounded)))
        for leaf, low, high in zip(made.float_leaves, _gradient_values(made), exact, strict=True):
            assert TensorType(low.dtype.name, low.shape) is leaf.type
            assert close(low, high, tolerance), f"{op.name} in {dtype}: {low} is not {high}"


@each_case(lambda op, s: has_kind(s, "f") and not isinstance(op.vjp, NoGradient) and op.name not in NAN_GRADIENTS)
def test_gradients_are_numbers_at_kinks_and_ties_too(op, sample):
    for value in _gradient_values(call(op, sample)):
        assert not np.isnan(value).any(), f"{op.name}({_types(sample)}, {dict(sample.attrs)}): {value}"


def _gradient_values(made: Call) -> list[np.ndarray[Any, Any]]:
    """The gradients of the float results, weighted at random, with respect to the float leaves."""
    rng = np.random.default_rng(2)
    floats = [result for result in made.results if is_float(result.dtype)]
    weights = [rng.standard_normal(value.shape) for value in made.evaluate(floats)]
    return made.evaluate(_gradients(floats, made, weights))


def _gradients(ys: list[Node], made: Call, weights: Any = None) -> list[Node]:
    """Zeros where nothing flows, as from an op whose result isn't float."""
    if not ys:
        return [zeros_like(leaf) for leaf in made.float_leaves]
    return gradients(ys, made.float_leaves, weights, disconnected="zero")


# --- the checks themselves


FAULTS: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "no samples": (test_op_is_complete, {"samples": None}),
    "no gradient decision": (test_op_is_complete, {"vjp": None}),
    "no reference": (lambda op, sample: test_op_runs_on_target(op, "reference"), {"ref": None}),
    "no native code": (lambda op, sample: test_op_runs_on_target(op, "cpu"), {"name": "new"}),
    "a gradient that is off by 1e-5": (
        test_gradients_of_first_and_second_order,
        {"vjp": lambda g, y, x: (g * (1 - y * y) * (1 + 1e-5),)},
    ),
    "a gradient whose own gradient is cut": (
        test_gradients_of_first_and_second_order,
        {"vjp": lambda g, y, x: (g * stop_gradient(1 - y * y),)},
    ),
    "a gradient that ties dimensions to their size": (
        test_gradients_with_symbolic_shapes_are_the_same,
        {"vjp": lambda g, y, x: (g * constant(np.ones(x.shape)) * (1 - y * y),)},
    ),
    "no gradient where there is a slope": (test_an_op_without_a_gradient_is_flat, {"vjp": NoGradient("a mistake")}),
    "a reference in double precision": (
        test_reference_agrees_with_the_type_rule_in_every_dtype,
        {"ref": lambda x: np.tanh(x.astype(np.float64))},
    ),
    "a type rule with a wrong shape": (
        test_reference_agrees_with_the_type_rule_in_every_dtype,
        {"infer": lambda x: x.with_shape((*x.shape, 1))},
    ),
    "a type rule with a wrong dtype": (
        test_reference_agrees_with_the_type_rule_in_every_dtype,
        {"infer": lambda x: x.with_dtype("float64")},
    ),
    "a wrong value": (test_an_op_means_what_numpy_says, {"ref": lambda x: np.tanh(x) * (1 + 1e-9)}),
    "a wrong infinity": (
        lambda op, sample: test_a_unary_op_means_what_numpy_says_at_special_values(op, "float32", 1e-6),
        {"ref": lambda x: np.where(np.isinf(x), np.nan, np.tanh(x))},
    ),
    "a claim to be pointwise": (
        test_a_pointwise_op_computes_each_element_alone,
        {"ref": lambda x: x - np.cumsum(x.ravel()).reshape(x.shape)},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checks_find_planted_faults(fault):
    check, fields = FAULTS[fault]
    faulty = dataclasses.replace(tanh, **fields)
    with pytest.raises((AssertionError, ShapeError)):
        _run(check, faulty)


def _run(check: Callable[..., None], op: Op) -> None:
    """A test of ops, or of an op's samples."""
    if list(inspect.signature(check).parameters) == ["op"]:
        check(op)
    else:
        for sample in samples_of(tanh):
            check(op, sample)
