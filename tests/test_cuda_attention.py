"""Attention as one kernel of CUDA C: its values are those of its definition, in every dtype and size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import graphc as gc
from graphc.dims import product, symbol
from graphc.ir import Program
from graphc.ops.nn import attention_grad
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_kernels
from graphc.runtime.cuda.kernels import INFO, cuda_kernel
from graphc.runtime.cuda.launches import Precision
from graphc.types import np_dtype
from tests.attention_testing import attended, cotangents
from tests.cuda_cores import Case, kernels_of, run, run_all
from tests.cuda_host import needs_compiler

# What results, which are means of numbers of about 1, may be off by.
ROUNDING = {"float32": 2e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 1.6e-2}
PRECISIONS: dict[Precision, float] = {"tf32": 4e-3, "bfloat16": 1.6e-2}

pytestmark = needs_compiler


class Attention:
    """Attention of random operands, and what it should be."""

    def __init__(
        self,
        batch: Sequence[int],
        queries: int,
        keys: int,
        width: int,
        value_width: int,
        dtype: str = "float32",
        precision: Precision = "float32",
        mask: str = "",
        is_causal: bool = False,
    ) -> None:
        rng = np.random.default_rng(queries + keys)
        shapes = {"q": (*batch, queries, width), "k": (*batch, keys, width), "v": (*batch, keys, value_width)}
        places = [gc.placeholder(name, shape, dtype) for name, shape in shapes.items()]
        feeds = {place: rng.standard_normal(place.shape).astype(np_dtype(dtype)) for place in places}
        seen = None
        if mask:
            seen = gc.placeholder("mask", (queries, keys), mask)
            feeds[seen] = rng.standard_normal((queries, keys)).astype(np_dtype(mask))
            if mask == "bool":
                feeds[seen] = rng.random((queries, keys)) < 0.5
                feeds[seen][0] = False
        output = gc.scaled_dot_product_attention(*places, seen, is_causal=is_causal)
        self.case = Case([output], feeds, precision=precision, info=INFO)
        exact = [feeds[place].astype(np.float64) for place in places]
        self.wanted = attended(*exact, None if seen is None else feeds[seen], is_causal)
        self.rounding = ROUNDING[dtype] if dtype != "float32" else PRECISIONS.get(precision, ROUNDING[dtype])
        self.what = f"{batch} {queries}x{keys} {width} {value_width} {dtype} {precision} {mask} {is_causal}"

    def check(self) -> None:
        """The result is as exact as its dtype and the precision allow."""
        (found,) = self.case.found
        assert found.shape == self.wanted.shape, self.what
        assert np.abs(found.astype(np.float64) - self.wanted).max(initial=0) <= self.rounding, self.what


def check(cases: list[Attention]) -> None:
    """Run cases, and compare."""
    run_all([attention.case for attention in cases])
    for attention in cases:
        attention.check()


@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_dtype_and_mask(dtype: str) -> None:
    check(
        [
            Attention((2,), 70, 45, 20, 33, dtype),
            Attention((), 5, 6, 4, 3, dtype, mask="bool"),
            Attention((), 40, 70, 8, 8, dtype, mask=dtype),
            Attention((1, 2), 66, 70, 16, 16, dtype, is_causal=True),
            Attention((), 7, 5, 3, 4, dtype, mask="bool", is_causal=True),
            Attention((), 3, 5, 0, 4, dtype),
            Attention((0,), 3, 5, 2, 4, dtype),
            Attention((2,), 0, 5, 2, 4, dtype),
        ]
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_operands_are_rounded_on_request(precision: Precision) -> None:
    cases = [Attention((), 40, 50, 24, 16, precision=precision), Attention((), 20, 30, 100, 60, precision=precision)]
    check(cases)
    assert min(np.abs(each.case.found[0] - each.wanted).max() for each in cases) > 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wide_queries_are_divided_into_smaller_blocks_or_done_alone(dtype: str) -> None:
    cases = [Attention((), 20, 35, width, width, dtype) for width in (64, 128, 256)]
    cases.append(Attention((), 9, 20, 600, 4, dtype))
    check(cases)
    notes = [each.case.kernels[0].notes[-1] for each in cases]
    assert notes[0].startswith("attention, 64 queries")
    assert notes[1].startswith("attention, 32 queries" if dtype == "float32" else "attention, 64 queries")
    assert notes[3] == "attention, a block for each query"


def test_leading_sizes_broadcast() -> None:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 3, 5, 4), "k": (3, 6, 4), "v": (2, 1, 6, 3), "m": (1, 5, 1)}
    q, k, v, m = places = [gc.placeholder(name, shape) for name, shape in shapes.items()]
    feeds = {place: rng.standard_normal(place.shape).astype(np.float32) for place in places}
    (found,) = run([gc.scaled_dot_product_attention(q, k, v, m)], feeds, info=INFO)
    exact = [feeds[place].astype(np.float64) for place in places]
    np.testing.assert_allclose(found, attended(*exact, False), atol=1e-6)


def test_heads_are_read_and_stored_where_they_lie() -> None:
    rng = np.random.default_rng(0)
    places = [gc.placeholder(name, (2, 9, 3 * 4)) for name in "qkv"]
    feeds = {place: rng.standard_normal(place.shape).astype(np.float32) for place in places}
    q, k, v = (gc.transpose(gc.reshape(place, (2, 9, 3, 4)), (0, 2, 1, 3)) for place in places)
    output = gc.reshape(gc.transpose(gc.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), (2, 9, 12))
    (kernel,) = kernels_of(output, info=INFO)
    assert len(kernel.commands) == 1
    (found,) = run([output], feeds, info=INFO)
    exact = [feeds[place].astype(np.float64).reshape(2, 9, 3, 4).swapaxes(1, 2) for place in places]
    np.testing.assert_allclose(found, attended(*exact, None, False).swapaxes(1, 2).reshape(2, 9, 12), atol=2e-6)


def test_sizes_may_be_symbols() -> None:
    rng = np.random.default_rng(0)
    b, n, m = (symbol(name) for name in "bnm")
    shapes = {"q": (b, n, 8), "k": (b, m, 8), "v": (b, m, 6)}
    places = [gc.placeholder(name, shape) for name, shape in shapes.items()]
    output = gc.scaled_dot_product_attention(*places, is_causal=True)
    for sizes in ({"b": 2, "n": 5, "m": 7}, {"b": 1, "n": 70, "m": 65}):
        bound = [(sizes["b"], sizes["n"], 8), (sizes["b"], sizes["m"], 8), (sizes["b"], sizes["m"], 6)]
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in bound]
        (found,) = run([output], dict(zip(places, arrays, strict=True)), info=INFO, **sizes)
        np.testing.assert_allclose(found, attended(*[x.astype(np.float64) for x in arrays], None, True), atol=2e-6)


def test_what_is_not_a_number_shows() -> None:
    rng = np.random.default_rng(0)
    places = [gc.placeholder(name, (40, 4)) for name in "qkv"]
    feeds = {place: rng.standard_normal(place.shape).astype(np.float32) for place in places}
    feeds[places[0]][3, 1] = np.nan
    feeds[places[2]][5, 2] = np.inf
    (found,) = run([gc.scaled_dot_product_attention(*places)], feeds, info=INFO)
    assert np.isnan(found[3]).all()
    assert (np.delete(found, 3, axis=0)[:, 2] == np.inf).all()
    assert np.isfinite(np.delete(found, 3, axis=0)[:, [0, 1, 3]]).all()


class Gradient:
    """The gradients of attention for a random cotangent, and what they should be."""

    def __init__(
        self,
        batch: Sequence[int],
        queries: int,
        keys: int,
        width: int,
        value_width: int,
        dtype: str = "float32",
        precision: Precision = "float32",
        is_masked: bool = False,
        is_causal: bool = False,
    ) -> None:
        rng = np.random.default_rng(queries + keys)
        shapes = {"g": (queries, value_width), "q": (queries, width), "k": (keys, width), "v": (keys, value_width)}
        places = [gc.placeholder(name, (*batch, *shape), dtype) for name, shape in shapes.items()]
        feeds = {place: rng.standard_normal(place.shape).astype(np_dtype(dtype)) for place in places}
        exact = [feeds[place].astype(np.float64) for place in places]
        seen = np.tri(queries, keys, dtype=bool) if is_causal else np.ones((queries, keys), bool)
        if is_masked:
            places.append(gc.placeholder("mask", (queries, keys), "bool"))
            feeds[places[-1]] = rng.random((queries, keys)) < 0.5
            feeds[places[-1]][0] = False
            seen = seen & feeds[places[-1]]
        scale = 1 / max(width, 1) ** 0.5
        outputs = attention_grad(*places, is_causal=is_causal, scale=scale)
        self.case = Case(list(outputs), feeds, precision=precision, info=INFO)
        self.wanted = cotangents(*exact, seen, scale)
        self.rounding = ROUNDING[dtype] if dtype != "float32" else PRECISIONS.get(precision, ROUNDING[dtype])
        self.what = f"{batch} {queries}x{keys} {width} {value_width} {dtype} {precision} {is_masked} {is_causal}"

    def check(self) -> None:
        """The results are as exact as their dtype and the precision allow."""
        for found, wanted in zip(self.case.found, self.wanted, strict=True):
            assert found.shape == wanted.shape, self.what
            assert np.abs(found.astype(np.float64) - wanted).max(initial=0) <= self.rounding, self.what


@pytest.mark.parametrize("dtype", ROUNDING)
def test_gradients_in_every_dtype(dtype: str) -> None:
    cases = [
        Gradient((2,), 70, 45, 20, 33, dtype),
        Gradient((), 5, 6, 4, 3, dtype, is_masked=True),
        Gradient((1, 2), 40, 66, 16, 16, dtype, is_causal=True),
        Gradient((), 40, 7, 8, 8, dtype, is_masked=True, is_causal=True),
        Gradient((0,), 3, 5, 2, 4, dtype),
        Gradient((), 3, 20, 600, 4, dtype),
    ]
    run_all([gradient.case for gradient in cases])
    for gradient in cases:
        gradient.check()


def test_gradients_of_wide_queries_and_of_rounded_operands() -> None:
    cases = [Gradient((), 20, 35, width, width) for width in (64, 128)]
    cases += [Gradient((), 20, 35, 64, 128, "bfloat16"), Gradient((), 20, 35, 128, 40, precision="tf32")]
    run_all([gradient.case for gradient in cases])
    for gradient in cases:
        gradient.check()
        assert "gradients of attention, a block for each line" not in gradient.case.kernels[0].notes


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_gradients_of_operands_that_are_broadcast(dtype: str) -> None:
    """As keys and values are to the heads of a group."""
    shapes = {"g": (2, 3, 20, 9), "q": (2, 3, 20, 8), "k": (2, 1, 35, 8), "v": (1, 35, 9), "mask": (20, 35)}
    cases = []
    for given in (shapes, {**shapes, "q": (20, 8), "k": (1, 3, 35, 8), "v": (2, 3, 35, 9), "mask": (2, 1, 20, 35)}):
        rng = np.random.default_rng(0)
        places = [gc.placeholder(name, shape, "bool" if name == "mask" else dtype) for name, shape in given.items()]
        feeds = {place: rng.standard_normal(place.shape) > -1 for place in places[4:]}
        feeds |= {place: rng.standard_normal(place.shape).astype(np_dtype(dtype)) for place in places[:4]}
        exact = [feeds[place].astype(np.float64) for place in places[:4]]
        full = [np.broadcast_to(x, (2, 3, *x.shape[-2:])) for x in exact]
        wanted = []
        for x, whole in zip(exact[1:], cotangents(*full, feeds[places[4]], 0.5), strict=True):
            summed = whole.sum(tuple(range(4 - x.ndim)))
            wanted.append(summed.sum(tuple(k for k, size in enumerate(x.shape) if size == 1), keepdims=True))
        cases.append((Case(list(attention_grad(*places, is_causal=False, scale=0.5)), feeds, info=INFO), wanted))
    run_all([case for case, _ in cases])
    for case, wanted in cases:
        for found, exact_one in zip(case.found, wanted, strict=True):
            assert found.shape == exact_one.shape
            assert np.abs(found.astype(np.float64) - exact_one).max() <= 6 * ROUNDING[dtype]


def test_training_never_stores_the_scores() -> None:
    q, k, v = (gc.placeholder(name, (2, 300, 16)) for name in "qkv")
    y = gc.scaled_dot_product_attention(q, k, v, is_causal=True)
    program = Program((q, k, v), tuple(gc.gradients(gc.sum(y * y), [q, k, v])), ())
    plan = plan_kernels(run_pipeline(program, INFO, training=True), INFO)
    assert max(product(buffer.type.shape) for buffer in plan.buffers) == 2 * 300 * 16
    assert all(cuda_kernel(step.kernel) is not None for step in plan.steps)
    shared = gc.placeholder("shared", (2, 4, 300, 16))  # the queries of 4 heads, with the same keys and values
    y = gc.scaled_dot_product_attention(shared, *(gc.expand_dims(x, 1) for x in (k, v)))
    program = Program((shared, k, v), tuple(gc.gradients(gc.sum(y * y), [shared, k, v])), ())
    plan = plan_kernels(run_pipeline(program, INFO, training=True), INFO)
    assert all(cuda_kernel(step.kernel) is not None for step in plan.steps)
    mask = gc.placeholder("m", (300, 300))  # its own gradient is as large as the scores
    wanted = gc.gradients(gc.sum(gc.scaled_dot_product_attention(q, k, v, mask)), [q, mask])
    plan = plan_kernels(run_pipeline(Program((q, k, v, mask), tuple(wanted), ()), INFO, training=True), INFO)
    assert all(cuda_kernel(step.kernel) is not None for step in plan.steps)


def test_counters_of_64_bits() -> None:
    cases = [Attention((2,), 20, 35, 8, 8, is_causal=True), Gradient((2,), 20, 35, 8, 8, is_causal=True)]
    run_all([each.case for each in cases], wide=True)
    for each in cases:
        each.check()
