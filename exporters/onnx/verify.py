"""Does the model compute what graphc computes? It is run on random inputs of several sizes and compared.

ONNX Runtime runs it where that is installed and able to, else the reference evaluator of the `onnx` package. Where an
output differs, all values on the way are computed by both, and the first that differs is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.dims import Guard, symbols_of, unify
from graphc.dims import evaluate as size_of
from graphc.errors import ExportError, GraphcError
from graphc.evaluate import evaluate
from graphc.exporters.onnx.export import Exported
from graphc.exporters.onnx.schema import ir_version
from graphc.ir import Node
from graphc.op import Array
from graphc.ops import special
from graphc.types import TensorType, is_float, np_dtype

if TYPE_CHECKING:
    from onnx import ModelProto

Feeds = Mapping[str, Array]
Run = Callable[[Feeds], Sequence[Array]]

# What an element may differ by, as a share of the largest element of its tensor. Integers and bools must be equal.
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
LEAST = 1e-3  # the largest element counts as at least this

# The sizes tried for each symbol, one list a trial: 1, a prime, a number that is neither. Where a size is impossible
# (a kernel wouldn't fit) the next of the list is taken.
SIZES = (
    (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256),
    (7, 11, 13, 17, 31, 61, 127, 251),
    (4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 224),
)
BOUNDS = (10, 2, 1)  # integers are drawn below the first of these that the graph takes: they may be indices


@dataclass(frozen=True)
class Deviation:
    """How far one output of one trial was off.

    Attributes:
        sizes: of the symbolic dimensions.
        absolute: the largest difference of two elements.
        relative: the same, as a share of the largest element.
    """

    output: str
    sizes: Mapping[str, int]
    absolute: float
    relative: float


@dataclass(frozen=True)
class Verification:
    """That a model agrees with graphc.

    Attributes:
        runner: what ran the model, with its version.
        refusal: why ONNX Runtime didn't, empty where it did or isn't installed.
    """

    runner: str
    refusal: str
    deviations: tuple[Deviation, ...]


@dataclass(frozen=True)
class Trial:
    """One set of inputs: the sizes of the symbolic dimensions, the arrays, and what graphc makes of them."""

    sizes: Mapping[str, int]
    feeds: Feeds
    expected: Sequence[Array]


def verify(exported: Exported, trials: Sequence[Trial], variables: Mapping[Node, Array]) -> Verification:
    """Compare the model with what graphc computed for `trials`.

    Args:
        variables: the values of the variables, to find the first value that differs.

    Raises:
        ExportError: the model doesn't run, or an output differs; names the first node that does and the user's line.
    """
    runner, refusal, found = run_all(exported.model, [each.feeds for each in trials])
    deviations = []
    for each, results in zip(trials, found, strict=True):
        for name, theirs, ours in zip(exported.outputs, results, each.expected, strict=True):
            deviation = deviation_of(name, each.sizes, theirs, ours)
            if not within(deviation, ours.dtype.name):
                raise _disagreement(exported, each, deviation, ours, variables, runner)
            deviations.append(deviation)
    return Verification(runner, refusal, tuple(deviations))


# --------------------------------------------------------------------------------------------- what to try


def random_trials(inputs: Mapping[str, TensorType], run: Run, guards: Sequence[Guard]) -> list[Trial]:
    """A trial for each of `SIZES`.

    Args:
        inputs: their types, by name.
        run: graphc's values of the outputs for inputs by name.
        guards: the sizes that the graph assumes.

    Raises:
        GraphcError: the graph can't be run on random inputs.
        ExportError: no sizes were found that satisfy the guards.
    """
    found = [sizes for choices in SIZES if (sizes := possible_sizes(inputs, choices, guards)) is not None]
    if not found:
        raise ExportError(
            f"no sizes were found that the graph can be verified with: it assumes {', '.join(map(str, guards))}",
            hint="verify=[{x: array}, ...] gives inputs of your own",
        )
    return [_trial(inputs, sizes, run, np.random.default_rng(k)) for k, sizes in enumerate(found)]


def possible_sizes(
    inputs: Mapping[str, TensorType], choices: Sequence[int], guards: Sequence[Guard]
) -> dict[str, int] | None:
    """A size for each symbol, of `choices`; different ones at first, unless the first choice is 1.

    Where a guard is broken, its symbols move on; None when a list is used up.
    """
    symbols = sorted({name for type in inputs.values() for name in type.symbols})
    places = {name: k % len(choices) if choices[0] != 1 else 0 for k, name in enumerate(symbols)}
    while all(place < len(choices) for place in places.values()):
        sizes = {name: choices[place] for name, place in places.items()}
        broken = [guard for guard in guards if not guard.holds(sizes)]
        if not broken:
            return sizes
        for name in set().union(*(symbols_of(guard.left) | symbols_of(guard.right) for guard in broken)):
            places[name] += 1
    return None


def given_trial(inputs: Mapping[str, TensorType], feeds: Feeds, run: Run) -> Trial:
    """A trial with inputs of the user's."""
    sizes, _ = unify([(name, type.shape, feeds[name].shape) for name, type in inputs.items()])
    return Trial(sizes, feeds, run(feeds))


def _trial(inputs: Mapping[str, TensorType], sizes: Mapping[str, int], run: Run, rng: np.random.Generator) -> Trial:
    """Random inputs of these sizes, and graphc's outputs; integers are as large as the graph takes them."""
    floats = {name: _floats(type, sizes, rng) for name, type in inputs.items() if is_float(type.dtype)}
    for bound in BOUNDS[:-1]:
        feeds = {
            name: floats[name] if name in floats else _integers(type, sizes, bound, rng)
            for name, type in inputs.items()
        }
        try:
            return Trial(sizes, feeds, run(feeds))
        except GraphcError:  # an index out of range, perhaps
            continue
    feeds = {
        name: floats[name] if name in floats else _integers(type, sizes, BOUNDS[-1], rng)
        for name, type in inputs.items()
    }
    return Trial(sizes, feeds, run(feeds))


def _floats(type: TensorType, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    return np.asarray(rng.standard_normal(_shape(type, sizes))).astype(np_dtype(type.dtype))


def _integers(type: TensorType, sizes: Mapping[str, int], bound: int, rng: np.random.Generator) -> Array:
    return np.asarray(rng.integers(0, bound, _shape(type, sizes))).astype(np_dtype(type.dtype))


def _shape(type: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(size_of(dim, sizes) for dim in type.shape)


# --------------------------------------------------------------------------------------------- running


def run_all(model: ModelProto, feeds: Sequence[Feeds]) -> tuple[str, str, list[list[Array]]]:
    """What runs the model, why ONNX Runtime doesn't if it doesn't, and the outputs for each of `feeds`.

    Raises:
        ExportError: nothing can run it.
    """
    refusals: list[str] = []
    for load in (_onnxruntime, _reference):
        try:
            runner, run = load(model)
            return runner, "; ".join(refusals), [run(each) for each in feeds]
        except ImportError:  # ONNX Runtime is optional
            continue
        except Exception as error:  # each runner has exceptions of its own for what it lacks
            refusals.append(" ".join(str(error).split())[:300])
    raise ExportError("the exported model doesn't run", lines=refusals)


def _onnxruntime(model: ModelProto) -> tuple[str, Callable[[Feeds], list[Array]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # refusals are told by us
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return f"ONNX Runtime {onnxruntime.__version__}", lambda feeds: list(session.run(None, dict(feeds)))


def _reference(model: ModelProto) -> tuple[str, Callable[[Feeds], list[Array]]]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    def run(feeds: Feeds) -> list[Array]:
        with np.errstate(all="ignore"):
            return list(evaluator.run(None, dict(feeds)))

    evaluator = ReferenceEvaluator(model, new_ops=[_exact_erf()])
    return f"the reference evaluator of onnx {onnx.__version__}", run


@lru_cache(maxsize=1)
def _exact_erf() -> type[Any]:
    """The operator Erf in the precision of its operand: that of the reference evaluator has single precision."""
    from onnx.reference.op_run import OpRun

    class Erf(OpRun):
        def _run(self, x: Array) -> tuple[Array]:
            return (special.erf(np.asarray(x, np.float64)).astype(x.dtype),)

    return Erf


def too_new_for_onnxruntime(opset: int) -> str:
    """The version of the installed ONNX Runtime if it refuses models of this opset, else an empty string."""
    from onnx import TensorProto, helper

    try:
        import onnxruntime
    except ImportError:
        return ""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset)]
    try:
        _onnxruntime(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version(opset)))
    except Exception:  # whatever it says, it won't load such a model
        return str(onnxruntime.__version__)
    return ""


# --------------------------------------------------------------------------------------------- comparing


def deviation_of(name: str, sizes: Mapping[str, int], theirs: Array, ours: Array) -> Deviation:
    """How far an output is off; infinitely where the shape or dtype differs, or only one of both is nan."""
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return Deviation(name, sizes, np.inf, np.inf)
    a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    if ours.dtype.kind in "iub":  # float64 doesn't hold every integer
        equal = np.array_equal(theirs, ours)
        return Deviation(name, sizes, 0.0 if equal else float(np.abs(a - b).max()), 0.0 if equal else np.inf)
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    worst = float(np.nan_to_num(difference, nan=np.inf).max(initial=0))
    return Deviation(name, sizes, worst, worst / max(float(np.abs(b[np.isfinite(b)]).max(initial=0)), LEAST))


def within(deviation: Deviation, dtype: str) -> bool:
    """Whether it is small enough for the dtype."""
    return deviation.relative <= TOLERANCE.get(dtype, 0)


def _disagreement(
    exported: Exported,
    trial: Trial,
    deviation: Deviation,
    expected: Array,
    variables: Mapping[Node, Array],
    runner: str,
) -> ExportError:
    """The error for an output that differs, with the first value on the way that does."""
    sizes = ", ".join(f"{name} = {size}" for name, size in trial.sizes.items())
    allowed = TOLERANCE.get(expected.dtype.name, 0)
    message = (
        f"{runner} computes another {deviation.output!r} than graphc{' for ' if sizes else ''}{sizes}: "
        f"off by {deviation.absolute:.3g}, {deviation.relative:.3g} of the largest element, {allowed:g} is allowed"
    )
    first = first_difference(exported, trial, variables)
    if first is None:
        return ExportError(message, hint="no value on the way differs if it is looked at: the runner optimises it away")
    name, node = first
    site = node.occurrence.site
    place = f"the first value that differs is {name!r}, of {node.op.name}"
    return ExportError(message, lines=[f"{place}: {site}" if site else place], hint="the file was not written")


def first_difference(exported: Exported, trial: Trial, variables: Mapping[Node, Array]) -> tuple[str, Node] | None:
    """The first value of the model, in the order of computation, that isn't what graphc computes for its node."""
    model = type(exported.model).FromString(exported.model.SerializeToString())
    model.graph.output.extend(v for v in model.graph.value_info if v.name in exported.nodes)
    names = [output.name for output in model.graph.output]
    theirs = dict(zip(names, run_all(model, [trial.feeds])[2][0], strict=True))
    produced = [name for step in model.graph.node for name in step.output if name in theirs and name in exported.nodes]
    env = {**variables, **dict(zip(exported.program.inputs, trial.feeds.values(), strict=True))}
    ours = evaluate([exported.nodes[name] for name in produced], env, trial.sizes)
    for name, value in zip(produced, ours, strict=True):
        if not _same(theirs[name], value, trial.sizes):
            return name, exported.nodes[name]
    return None


def _same(theirs: Array, ours: Array, sizes: Mapping[str, int]) -> bool:
    """Whether a value agrees; the model's may have yet to be broadcast."""
    try:
        wide = np.broadcast_to(theirs, ours.shape)
    except ValueError:
        return False
    return within(deviation_of("", sizes, wide, ours), ours.dtype.name)
