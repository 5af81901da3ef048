"""Regions as CUDA C: every way of walking them, for odd shapes, gives what the reference gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from cuda_host import Module, needs_compiler, run_on_host
from op_testing import close

import graphc as gc
from graphc.ir import Graph, Node
from graphc.passes.plan import plan_kernels
from graphc.runtime.cuda.launches import CudaKernel, Launch
from graphc.types import np_dtype
from tests.cuda_cores import INFO, kernels_of, made, run
from tests.plan_testing import prepared

pytestmark = needs_compiler

Array = np.ndarray[Any, Any]
Shape = tuple[int | str, ...]
FLOATS = ("float64", "float32", "float16", "bfloat16")
SPREAD = 3.0  # standard deviations of an error, about
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True, eq=False)
class Case:
    """A small program.

    Attributes:
        label: what it shows.
        make: its outputs, for its leaves.
        types: shape and dtype of each leaf.
        how: words of the notes that say how its kernels walk; they must be there.
        sizes: of symbols, one run for each.
        ulps: that results may be off by, of their largest magnitude.
    """

    label: str
    make: Callable[..., Any]
    types: tuple[tuple[Shape, str], ...]
    how: tuple[str, ...] = ()
    sizes: tuple[Mapping[str, int], ...] = ({},)
    ulps: float = 0


def of(shape: Shape, dtype: str = "float32", *more: Shape) -> tuple[tuple[Shape, str], ...]:
    """Leaves of some shapes and a dtype."""
    return tuple([(each, dtype) for each in (shape, *more)])


def blend(a: Node, b: Node) -> Node:
    """Some arithmetic."""
    return a * b + gc.maximum(a, b)


def sums(x: Node, axis: Any = None) -> list[Node]:
    """Reductions of several kinds, in one kernel."""
    return [gc.sum(x, axis), gc.max(x, axis), gc.min(x, axis)]


N = ({"n": 0}, {"n": 1}, {"n": 37}, {"n": 300})
NM = ({"n": 0, "m": 5}, {"n": 5, "m": 0}, {"n": 1, "m": 1}, {"n": 7, "m": 33}, {"n": 3, "m": 1500})
LONG = ({"n": 2, "m": 4096}, {"n": 2, "m": 4097}, {"n": 130, "m": 4100})  # the second is divided
SOME = (*NM[2:], *LONG)  # a softmax of nothing is an error

POINTWISE = [
    Case("scalars", blend, of((), "float32", ()), ("an element a thread",)),
    Case("nothing", blend, of((0,), "float32", (0,))),
    Case("one loop, with a rest", blend, of((70001,), "float32", (70001,)), ("4 elements",)),
    Case("few elements", blend, of((1000,), "float32", (1000,)), ("an element a thread",)),
    Case("16-bit floats", blend, of((140003,), "float16", (140003,)), ("8 elements",), ulps=2),
    Case("bfloat16", blend, of((140003,), "bfloat16", (140003,)), ("8 elements",), ulps=2),
    Case("doubles", blend, of((40001,), "float64", (40001,)), ("2 elements",)),
    Case("bytes", blend, of((150001,), "int8", (150001,)), ("8 elements",)),
    Case("truth", lambda a, b: gc.logical_or(a, b), of((150001,), "bool", (150001,)), ("8 elements",)),
    Case("several dtypes", lambda a, b: [a > 0, gc.cast(a, "float64") + b], (((70001,), "float32"), ((), "int16"))),
    Case("a bias along rows", blend, of((700, 260), "float32", (260,)), ("4 elements",)),
    Case("a bias along rows that chunks don't divide", blend, of((700, 259), "float32", (259,)), ("an element",)),
    Case("a bias along columns", blend, of((260, 700), "float32", (260, 1)), ("4 elements",)),
    Case("a transposed operand", lambda a, b: gc.transpose(a) + b, of((301, 70), "float32", (70, 301)), ("32x32",)),
    Case("transposed twice", lambda a: gc.transpose(a, (2, 0, 1)) * 2, of((5, 50, 70), "float16"), ("32x32",)),
    Case("two transposed operands", lambda a, b: gc.transpose(a - b), of((33, 65), "int16", (33, 65)), ("32x32",)),
    Case(
        "more transposed operands than fit",
        lambda *leaves: gc.transpose(functools.reduce(lambda a, b: a * 0.5 + b, leaves)),
        of((40, 50), "float64", *[(40, 50)] * 8),
        ("32x32",),
    ),
    Case("transposed, of unknown sizes", lambda a: gc.transpose(a) + 1, of(("n", "m")), ("32x32",), NM),
    Case("short loops are not worth tiles", lambda a: gc.transpose(a) + 1, of((3000, 3)), ("an element a thread",)),
    Case("a slice that isn't aligned", lambda a: a[:, 1:] * 2, of((300, 261))),
    Case("an aligned slice", lambda a: a[:, 4:264] * 2, of((700, 268)), ("4 elements",)),
    Case("backwards", lambda a: gc.flip(a, 1) + a, of((300, 200))),
    Case("backwards, of unknown sizes", lambda a: gc.flip(a, 0) + a, of(("n", "m")), ("an element",), NM),
    Case("counters", lambda a: a + gc.cast(gc.arange(260), "float32") * 3, of((700, 260)), ("4 elements",)),
    Case("a symbolic loop", blend, of(("n",), "float32", ("n",)), ("4 elements",), N),
    Case("rows of known length", blend, of(("n", 12), "float32", (12,)), ("4 elements",), N),
    Case("rows of unknown length", blend, of(("n", "m"), "float32", ("m",)), ("an element a thread",), NM),
]

ROWS = [
    Case("short rows", lambda x: sums(x, 1), of((300, 5)), ("rows by 8 threads",)),
    Case("a row is one chunk", lambda x: sums(x, 1), of((300, 4)), ("rows by threads, 4",)),
    Case("a warp a row", lambda x: sums(x, 1), of((130, 512)), ("rows by 32 threads, 4",)),
    Case("a warp a row, chunks of one", lambda x: sums(x, 1), of((131, 131)), ("rows by 32 threads, an element",)),
    Case("a block a row", lambda x: sums(x, 1), of((130, 3000)), ("rows by 256 threads",)),
    Case("the largest team", lambda x: sums(x, 1), of((128, 16384)), ("rows by 512 threads",)),
    Case("rows in parts", lambda x: sums(x, 1), of((3, 40000)), ("in parts",)),
    Case("the whole array", sums, of((300, 301)), ("in parts",)),
    Case("the whole of a few elements", sums, of((7, 9)), ("rows by",)),
    Case("no elements", lambda x: gc.sum(x, 1), of((5, 0))),
    Case("no rows", lambda x: gc.sum(x, 1), of((0, 5))),
    Case("two loops a row", lambda x: sums(x, (0, 2)), of((5, 140, 36)), ("rows by",)),
    Case("rows of unknown length", lambda x: gc.sum(x, 1), of((200, "m")), ("rows by 128 threads",), NM),
    Case("an unknown number of rows", lambda x: gc.sum(x, 1), of(("n", 40)), (), N),
    Case("the whole of unknown size", lambda x: gc.sum(x * x), of(("n", "m")), ("in parts if",), (*NM, *LONG)),
    Case("positions in a row", lambda x: [gc.argmax(x, 1), gc.argmin(x, 1)], of((200, 77)), ("rows by",)),
    Case("positions of ties", lambda x: gc.argmax(gc.floor(x), 1), of((200, 300)), ("rows by",)),
    Case("positions in parts", lambda x: gc.argmax(gc.floor(x * 4), 1), of((2, 20000)), ("in parts",)),
]

COLUMNS = [
    Case("few short columns", lambda x: sums(x, 0), of((3, 50)), ("columns by threads",)),
    Case("teams for columns", lambda x: sums(x, 0), of((100, 260)), ("columns by 8 threads, 4",)),
    Case("columns that chunks don't divide", lambda x: sums(x, 0), of((100, 261)), ("columns by 8 threads, an",)),
    Case("columns in parts", lambda x: sums(x, 0), of((3000, 64)), ("columns by 16 threads, in parts",)),
    Case("columns of unknown length", lambda x: gc.sum(x, 0), of(("n", 64)), ("in parts if",), N),
    Case("columns of nothing", lambda x: gc.sum(x, 0), of((0, 64))),
    Case("columns inside", lambda x: sums(x, 1), of((60, 30, 36)), ("columns",)),
    Case("columns of 16-bit floats", lambda x: gc.max(x, 0), of((100, 264), "float16"), ("columns by 8 threads, 8",)),
    Case("positions in columns", lambda x: [gc.argmax(x, 0), gc.argmin(gc.floor(x), 0)], of((100, 264)), ("columns",)),
]


def layer_norm(x: Node, g: Node, b: Node) -> Node:
    return gc.layer_norm(x, 768, g, b)


def gradients(f: Callable[..., Node]) -> Callable[..., list[Node]]:
    """The gradients of a function, weighted by its result."""

    def make(*leaves: Node) -> list[Node]:
        y = f(*leaves)
        return list(gc.gradients(gc.sum(y * y), list(leaves)))

    return make


LAYER = ((130, 768), "float32"), ((768,), "float32"), ((768,), "float32")
SEVERAL = [
    Case("softmax in registers", gc.softmax, of((130, 1000)), ("32 threads, kept in registers",), ulps=4),
    Case("softmax of short rows", gc.softmax, of((300, 10)), ("kept in registers",), ulps=4),
    Case("softmax by blocks", gc.softmax, of((129, 5000)), ("512 threads, kept in registers",), ulps=4),
    Case("softmax of rows too long to keep", gc.softmax, of((128, 40000)), ("rows by 512 threads, 4",), ulps=4),
    Case("softmax in parts", gc.softmax, of((2, 30000)), ("in parts",), ulps=4),
    Case("softmax of columns", lambda x: gc.softmax(x, axis=0), of((50, 300)), ("columns",), ulps=4),
    Case("softmax of columns in parts", lambda x: gc.softmax(x, axis=0), of((3000, 8)), ("in parts",), ulps=4),
    Case("softmax of unknown sizes", gc.softmax, of(("n", "m")), ("in parts if",), SOME, ulps=4),
    Case("softmax of rows of unknown length", gc.softmax, of((130, "m")), ("128 threads",), SOME, ulps=4),
    Case("log softmax", gc.log_softmax, of((130, 1000)), ("kept in registers",), ulps=4),
    Case("layer norm", layer_norm, LAYER, ("kept in registers",), ulps=4),
    Case("layer norm, its gradients", gradients(layer_norm), LAYER, ulps=8),
    Case("softmax, its gradients", gradients(gc.softmax), of((130, 100)), ulps=4),
    Case("rms norm in parts", lambda x: gc.rms_norm(x, 30000), of((2, 30000)), ("in parts",), ulps=4),
    Case("group norm", lambda x: gc.group_norm(x, 4), of((3, 8, 10, 12)), ulps=4),
    Case("masked rows", lambda x: gc.where(x > 0, x, gc.mean(x, 1, keepdims=True)), of((130, 100)), ulps=4),
]

DTYPES = [
    Case(f"reductions of {dtype}, axis {axis}", lambda x, axis=axis: sums(x, axis), of((60, 520), dtype), ulps=4)
    for dtype in (*FLOATS, "int8", "int16", "int32", "int64", "uint8")
    for axis in (0, 1, None)
] + [
    Case(f"any and all, axis {axis}", lambda x, axis=axis: [gc.any(x, axis), gc.all(x, axis)], of((60, 520), "bool"))
    for axis in (0, 1, None)
]

SHARED = [
    Case(
        "parts of a whole, side by side",
        lambda a, b, c: gc.concat([a, b * 2, c], 1),
        of((300, 20), "float32", (300, 7), (300, 53)),
        ("3 regions side by side",),
    ),
    Case(
        "parts of rows of unknown number",
        lambda a, b: gc.concat([gc.tanh(a), b], 1),
        of(("n", 5), "float64", ("n", 12)),
        ("2 regions side by side",),
        N,
        ulps=2,
    ),
    Case(
        "parts of 16-bit floats, aligned",
        lambda a, b: gc.concat([a, b], 2),
        of((2, 3000, 32), "bfloat16", (2, 3000, 64)),
        ("2 regions side by side",),
    ),
    Case("one on the other", lambda a: gc.stack([a, -a, a * a], 0), of((40, 30)), ("3 regions side by side",)),
    Case("parts along unknown loops", lambda a, b: gc.concat([a, b], 0), of(("n", 6), "float32", ("n", 6)), (), N),
    Case("a frame around what it is", lambda a: gc.pad(a, ((1, 2), (3, 0))), of((40, 30))),
    Case(
        "parts, some of them transposed",
        lambda a, b: gc.concat([gc.transpose(a), b], 1),
        of((40, 50), "float32", (50, 7)),
    ),
]

CASES = [*POINTWISE, *ROWS, *COLUMNS, *SEVERAL, *SHARED, *DTYPES]


class Built(NamedTuple):
    """A case as nodes."""

    leaves: list[Node]
    outputs: list[Node]


@cache
def built(case: Case) -> Built:
    with Graph():
        leaves = [gc.placeholder(f"x{k}", shape, dtype) for k, (shape, dtype) in enumerate(case.types)]
        made = case.make(*leaves)
    return Built(leaves, list(made) if isinstance(made, (list, tuple)) else [made])


@cache
def kernels(case: Case) -> list[CudaKernel]:
    return kernels_of(*built(case).outputs)


@cache
def compiled(wide: bool = False, backwards: bool = False) -> Module:
    """The kernels of all cases."""
    return Module([kernel for case in CASES for kernel in kernels(case)], wide, backwards)


def feeds_of(case: Case, sizes: Mapping[str, int]) -> dict[Node, Array]:
    rng = np.random.default_rng(3)
    found = {}
    for leaf, (shape, dtype) in zip(built(case).leaves, case.types, strict=True):
        bound = [sizes[size] if isinstance(size, str) else size for size in shape]
        values = rng.standard_normal(bound) * (40 if np_dtype(dtype).kind in "iu" else 1)
        found[leaf] = (np.abs(values) if dtype == "uint8" else values > 0 if dtype == "bool" else values).astype(
            np_dtype(dtype)
        )
    return found


def bound(case: Case) -> list[Mapping[str, int]]:
    """The runs of a case, each with the sizes that it has."""
    used = {size for shape, _ in case.types for size in shape if isinstance(size, str)}
    return [{name: size for name, size in sizes.items() if name in used} for sizes in case.sizes]


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.label) for case in cases])


class ExactSum(NamedTuple):
    """A sum in a higher precision, and how far from it a good one in an operand's precision is."""

    value: Array
    bound: Array


def exact_sum(output: Node, feeds: Mapping[Node, Array]) -> ExactSum | None:
    """What an output is, if it is the sum of floats of a leaf, whose mean is 0.

    Most of such a sum cancels, and the reference's is no more exact than ours: NumPy adds pairwise along contiguous
    axes, one by one along others, and differently in its versions. What is rounded are the sums within a tree of height
    h, of which those of n of such elements are about √n of them: with unit roundoff u and independent roundings
    (Higham and Mary, "Sharper probabilistic backward error analysis for basic linear algebra kernels with random data",
    SIAM J. Sci. Comput. 42 (2020)), the error is a few times u √h ‖x‖. What is 16 bits wide is rounded once more.
    """
    node = output.inputs[0] if output.op.name == "squeeze" else output
    if node.op.name != "reduce_sum" or node.inputs[0] not in feeds or node.dtype not in EPS:
        return None
    axes = tuple(node.attrs["axes"])
    x = feeds[node.inputs[0]].astype(np.longdouble)
    total, squares = (each.sum(axes, keepdims=node is output) for each in (x, x * x))
    height = np.log2(max(2, x.size // max(1, total.size)))
    unit, last = min(EPS[node.dtype], EPS["float32"]) / 2, EPS[node.dtype] / 2
    return ExactSum(total, SPREAD * unit * np.sqrt(height * squares) + last * np.abs(total))


def test_what_is_said_of_sums_refuses_what_is_less_exact():
    x = gc.placeholder("x", (300, 301), "float32")
    values = np.random.default_rng(3).standard_normal((300, 301)).astype("float32")
    value, bound = exact_sum(gc.sum(x), {x: values})
    assert abs(values.sum() - value) <= bound
    one_by_one, in_halves = np.cumsum(values)[-1], values.astype("float16").astype("float64").sum()
    without_one = values.sum(dtype="float64") - values[0, 0]
    assert all(abs(wrong - value) > bound for wrong in (one_by_one, in_halves, without_one))
    assert exact_sum(gc.max(x), {x: values}) is None and exact_sum(gc.sum(x * x), {x: values}) is None


@each(CASES)
def test_results_are_those_of_the_reference(case):
    outputs = built(case).outputs
    for sizes in bound(case):
        feeds = feeds_of(case, sizes)
        with gc.Session(device="reference") as session, np.errstate(all="ignore"):
            expected = session.run(outputs, feeds)
        found = run(outputs, feeds, module=compiled(), **sizes)
        for output, value, wanted in zip(outputs, found, expected, strict=True):
            assert value.dtype == wanted.dtype and value.shape == wanted.shape
            if exact := exact_sum(output, feeds):
                assert (np.abs(value.astype(np.longdouble) - exact.value) <= exact.bound).all(), sizes
                continue
            allowed = case.ulps or (4 if case in ROWS or case in COLUMNS else 0)
            with np.errstate(all="ignore"):
                assert close(value, np.asarray(wanted), allowed * EPS.get(wanted.dtype.name, 0)), sizes


@each([case for case in CASES if case.how])
def test_regions_are_walked_as_intended(case):
    notes = " | ".join([note for kernel in kernels(case) for note in kernel.notes])
    assert all(words in notes for words in case.how), notes


@each([case for case in CASES if case.sizes[0]] + ROWS[:4] + SEVERAL[:2])
def test_wide_indices_give_the_same_bits(case):
    for sizes in bound(case):
        feeds = feeds_of(case, sizes)
        narrow = run(built(case).outputs, feeds, module=compiled(), **sizes)
        wide = run(built(case).outputs, feeds, module=compiled(wide=True), **sizes)
        assert [value.tobytes() for value in wide] == [value.tobytes() for value in narrow]


@each([c for c in CASES if c in SHARED or "in parts" in c.label or "transposed" in c.label] + SEVERAL[:3])
def test_the_order_of_blocks_and_threads_does_not_matter(case):
    for sizes in bound(case):
        feeds = feeds_of(case, sizes)
        found = [
            run(built(case).outputs, feeds, module=compiled(backwards=backwards), **sizes)
            for backwards in (False, True)
        ]
        assert [value.tobytes() for value in found[0]] == [value.tobytes() for value in found[1]]


def test_nan_and_infinities_come_through_reductions():
    case = next(case for case in ROWS if case.label == "a warp a row")
    (leaf,), outputs = built(case)
    x = np.random.default_rng(0).standard_normal((130, 512)).astype(np.float32)
    x[0, 100], x[1, 0], x[2, 511], x[3, 7] = np.nan, np.inf, -np.inf, np.nan
    x[3, 8] = np.inf
    total, most, least = run(outputs, {leaf: x}, module=compiled())
    assert np.isnan(total[[0, 3]]).all() and np.isnan(most[[0, 3]]).all() and np.isnan(least[[0, 3]]).all()
    assert total[1] == most[1] == np.inf and total[2] == least[2] == -np.inf
    assert np.array_equal(most[4:], x[4:].max(1)) and np.array_equal(least[4:], x[4:].min(1))


@pytest.mark.parametrize("label", ["columns in parts", "rows in parts", "the whole array", "the largest team"])
def test_sums_are_as_accurate_as_pairwise_ones(label):
    case = next(case for case in (*ROWS, *COLUMNS) if case.label == label)
    (leaf,), outputs = built(case)
    x = np.random.default_rng(1).random(feeds_of(case, {})[leaf].shape, np.float32)
    total = run(outputs, {leaf: x}, module=compiled())[0]
    axis = {"columns in parts": 0, "the whole array": None}.get(label, 1)
    assert np.allclose(total, x.sum(axis, dtype=np.float64), rtol=6 * 2.0**-24, atol=0)


def test_the_position_of_the_first_nan_is_that_of_the_extreme():
    case = next(case for case in ROWS if case.label == "positions in a row")
    (leaf,), outputs = built(case)
    x = np.random.default_rng(0).standard_normal((200, 77)).astype(np.float32)
    x[5, [70, 3]], x[6] = np.nan, 1.0
    for value, meant in zip(run(outputs, {leaf: x}, module=compiled()), (x.argmax(1), x.argmin(1)), strict=True):
        assert np.array_equal(value, meant) and value[5] == 3 and value[6] == 0


def test_rows_that_are_overwritten_are_read_before():
    with Graph():
        x = gc.placeholder("x", (40, 300), "float32")
        plan = plan_kernels(prepared([gc.softmax(x)], info=INFO), INFO)
    (step,) = plan.steps
    values = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)
    kernel = made(step.kernel)
    from_there = [run_in_place(kernel, values, pairs) for pairs in ({}, {0: 0})]
    assert from_there[0].tobytes() == from_there[1].tobytes()


def run_in_place(kernel: CudaKernel, x: Array, pairs: Mapping[int, int]) -> Array:
    return run_on_host(kernel, [x], [(x.shape, "float32")], in_place=pairs)[0]


def test_regions_that_overwrite_each_other_run_one_after_the_other():
    (kernel,) = kernels(next(case for case in SHARED if case.label == "a frame around what it is"))
    assert len(kernel.launches) == 2 and not any("side by side" in note for note in kernel.notes)


def test_many_regions_take_several_launches():
    with Graph():
        (kernel,) = kernels_of(gc.stack([gc.placeholder(f"x{k}", (3,)) for k in range(100)], 0))
    assert [launch.blocks for launch in kernel.launches] == [64, 36]


def test_nothing_is_launched_for_arrays_without_elements():
    kernel = kernels(next(case for case in POINTWISE if case.label == "nothing"))[0]
    assert [command.blocks for command in kernel.commands if isinstance(command, Launch)] == [0]
