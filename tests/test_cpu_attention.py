"""Attention as one native kernel, and its gradient, compute what their definitions say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.dims import symbol
from graphc.ir import Node
from graphc.ops.nn import attention_grad
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu import attention
from graphc.types import np_dtype
from tests.attention_testing import attended, cotangents
from tests.cpu_cores import INFO, KINDS, WIDTHS, assemble, host_of, native, run
from tests.plan_testing import prepared

WHOLE = KINDS | {"composite"}
WHOLES = replace(INFO, whole=frozenset(attention.CORES), suits=attention.suits, epilogues=WHOLE, views=WHOLE)
ROUNDING = {"float32": 3e-6, "float64": 1e-14}  # what results, which are means of numbers of about 1, may be off by

# Leading sizes, queries, keys, width of keys and of values; more than a block, and sizes that divide nothing.
SIZES = [
    ((2,), 70, 45, 20, 33),
    ((1, 2), 66, 70, 16, 16),
    ((3,), 17, 5, 1, 1),
    ((), 128, 128, 64, 64),
    ((), 20, 150, 128, 7),
    ((2,), 33, 1, 3, 130),
    ((2,), 0, 5, 4, 3),
    ((0,), 33, 5, 2, 4),
    ((20,), 18, 18, 8, 8),
]


def operands(batch: Sequence[int], *shapes: Sequence[int], dtype: str = "float32") -> tuple[list[Node], list[Any]]:
    """Places for arrays of numbers, and such arrays."""
    rng = np.random.default_rng(sum(map(sum, shapes)))
    places = [gc.placeholder(f"x{k}", (*batch, *shape), dtype) for k, shape in enumerate(shapes)]
    return places, [rng.standard_normal(place.shape).astype(np_dtype(dtype)) for place in places]


def exact(arrays: Sequence[Any]) -> list[Any]:
    """Arrays in float64."""
    return [array.astype(np.float64) for array in arrays]


def is_near(found: Any, wanted: Any, rounding: float = ROUNDING["float32"]) -> bool:
    """Whether a result is as exact as it must be."""
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max(initial=0) <= rounding)


def visible(queries: int, keys: int) -> Any:
    """A mask by which the first query sees no key."""
    found = np.random.default_rng(keys).random((queries, keys)) < 0.5
    found[:1] = False
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_of_every_size(is_causal: bool, width: int) -> None:
    for batch, queries, keys, size, value_size in SIZES:
        places, arrays = operands(batch, (queries, size), (keys, size), (keys, value_size))
        output = gc.scaled_dot_product_attention(*places, is_causal=is_causal)
        (found,) = run([output], dict(zip(places, arrays, strict=True)), host=host_of(width), parts=2, info=WHOLES)
        q, k, v = exact(arrays)
        assert is_near(found, attended(q, k, v, None, is_causal)), (batch, queries, keys)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_of_every_size(is_causal: bool, width: int) -> None:
    for batch, queries, keys, size, value_size in SIZES:
        places, arrays = operands(batch, (queries, value_size), (queries, size), (keys, size), (keys, value_size))
        outputs = list(attention_grad(*places, is_causal=is_causal, scale=size**-0.5))
        found = run(outputs, dict(zip(places, arrays, strict=True)), host=host_of(width), parts=3, info=WHOLES)
        seen = np.tri(queries, keys, dtype=bool) if is_causal else np.ones((queries, keys), bool)
        wanted = cotangents(*exact(arrays), seen, size**-0.5)
        assert all(map(is_near, found, wanted)), (batch, queries, keys)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("kind", ["all", "transposed", "row", "column", "head"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_masks(kind: str, is_causal: bool, dtype: str, width: int) -> None:
    places, arrays = operands((2,), (45, 6), (37, 6), (37, 5), dtype=dtype)
    seen = visible(45, 37)
    mask = {"row": seen[1:2], "column": seen[:, :1], "head": np.stack([seen, ~seen])}.get(kind, seen)
    given = gc.placeholder("mask", mask.T.shape if kind == "transposed" else mask.shape, "bool")
    shown = gc.transpose(given) if kind == "transposed" else given
    output = gc.scaled_dot_product_attention(*places, shown, is_causal=is_causal)
    feeds = dict(zip((*places, given), (*arrays, mask.T if kind == "transposed" else mask), strict=True))
    (found,) = run([output], feeds, host=host_of(width), info=WHOLES)
    q, k, v = exact(arrays)
    assert is_near(found, attended(q, k, v, mask, is_causal), ROUNDING[dtype])
    assert kind == "row" or not found[0, 0].any()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradients_under_a_mask(is_causal: bool, dtype: str) -> None:
    places, arrays = operands((2,), (45, 5), (45, 6), (37, 6), (37, 5), dtype=dtype)
    mask, seen = gc.placeholder("mask", (45, 37), "bool"), visible(45, 37)
    outputs = list(attention_grad(*places, mask, is_causal=is_causal, scale=0.5))
    found = run(outputs, dict(zip((*places, mask), (*arrays, seen), strict=True)), info=WHOLES)
    if is_causal:
        seen = seen & np.tri(45, 37, dtype=bool)
    for ours, wanted in zip(found, cotangents(*exact(arrays), seen, 0.5), strict=True):
        assert is_near(ours, wanted, ROUNDING[dtype])


def test_bits_are_those_of_any_division_of_the_work() -> None:
    for batch in ((3,), (20,)):
        places, arrays = operands(batch, (100, 8), (100, 9), (90, 9), (90, 8))
        g, q, k, v = places
        outputs = [gc.scaled_dot_product_attention(q, k, v), *attention_grad(g, q, k, v, is_causal=True, scale=0.5)]
        feeds = dict(zip(places, arrays, strict=True))
        alone, *others = (run(outputs, feeds, parts=parts, info=WHOLES) for parts in (1, 2, 4))
        for other in others:
            assert all(np.array_equal(ours, theirs) for ours, theirs in zip(alone, other, strict=True))


@pytest.mark.parametrize(("time", "copies"), [(20, 0), (520, 2)])
def test_heads_are_read_and_stored_where_they_lie_unless_many_lines_lie_apart(time: int, copies: int) -> None:
    places, arrays = operands((2, time), (12,), (12,), (12,))
    q, k, v = (gc.transpose(gc.reshape(place, (2, time, 3, 4)), (0, 2, 1, 3)) for place in places)
    output = gc.reshape(gc.transpose(gc.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), (2, time, 12))
    (step,) = steps_of(output)
    assert len(native(step.kernel, host_of(64)).phases) == 1 + copies
    (found,) = run([output], dict(zip(places, arrays, strict=True)), info=WHOLES)
    q, k, v = (array.reshape(2, time, 3, 4).swapaxes(1, 2) for array in exact(arrays))
    assert is_near(found, attended(q, k, v, None, False).swapaxes(1, 2).reshape(2, time, 12))


def test_operands_whose_lines_are_scattered_and_results_that_are_computed_with() -> None:
    places, arrays = operands((2,), (6, 20), (6, 18), (5, 18), (20, 5))
    q, k, v = (gc.transpose(place, (0, 2, 1)) for place in places[:3])
    output = gc.scaled_dot_product_attention(q, k, v) * places[3]
    (found,) = run([output], dict(zip(places, arrays, strict=True)), info=WHOLES)
    q, k, v = (array.swapaxes(1, 2) for array in exact(arrays[:3]))
    assert is_near(found, attended(q, k, v, None, False) * arrays[3], 1e-5)


def test_leading_sizes_broadcast() -> None:
    places, arrays = operands((), (2, 3, 20, 4), (3, 6, 4), (2, 1, 6, 3))
    mask, seen = gc.placeholder("mask", (1, 20, 1), "bool"), visible(20, 6)[None, :, :1]
    output = gc.scaled_dot_product_attention(*places, mask)
    (found,) = run([output], dict(zip((*places, mask), (*arrays, seen), strict=True)), info=WHOLES)
    q, k, v = exact(arrays)
    assert is_near(found, attended(q, k, v, seen, False))


def test_sizes_may_be_symbols() -> None:
    b, n, m = (symbol(name) for name in "bnm")
    shapes = {"g": (b, n, 6), "q": (b, n, 8), "k": (b, m, 8), "v": (b, m, 6)}
    places = [gc.placeholder(name, shape) for name, shape in shapes.items()]
    outputs = [gc.scaled_dot_product_attention(*places[1:], is_causal=True)]
    outputs += attention_grad(*places, is_causal=True, scale=8**-0.5)
    for size in ({"b": 2, "n": 5, "m": 7}, {"b": 1, "n": 70, "m": 65}, {"b": 1, "n": 0, "m": 3}):
        _, arrays = operands((size["b"],), (size["n"], 6), (size["n"], 8), (size["m"], 8), (size["m"], 6))
        found = run(outputs, dict(zip(places, arrays, strict=True)), info=WHOLES, **size)
        seen = np.tri(size["n"], size["m"], dtype=bool)
        g, q, k, v = exact(arrays)
        wanted = [attended(q, k, v, None, True), *cotangents(g, q, k, v, seen, 8**-0.5)]
        assert all(map(is_near, found, wanted)), size


def test_what_is_not_a_number_shows() -> None:
    places, arrays = operands((), (40, 4), (40, 4), (40, 4))
    arrays[0][3, 1], arrays[2][5, 2] = np.nan, np.inf
    (found,) = run([gc.scaled_dot_product_attention(*places)], dict(zip(places, arrays, strict=True)), info=WHOLES)
    assert np.isnan(found[3]).all()
    assert (np.delete(found, 3, axis=0)[:, 2] == np.inf).all()
    assert np.isfinite(np.delete(found, 3, axis=0)[:, [0, 1, 3]]).all()


def test_scores_may_be_great() -> None:
    places, arrays = operands((), (40, 4), (40, 4), (40, 4))
    arrays[0] *= 1e3
    (found,) = run([gc.scaled_dot_product_attention(*places)], dict(zip(places, arrays, strict=True)), info=WHOLES)
    q, k, v = exact(arrays)
    assert is_near(found, attended(q, k, v, None, False), 2e-3)


@pytest.mark.parametrize(
    ("queries", "dtype", "is_whole"),
    [(20, "float32", True), (20, "float64", True), (1, "float32", False), (20, "float16", False)],
)
def test_few_queries_and_16_bit_floats_are_left_to_products(queries: int, dtype: str, is_whole: bool) -> None:
    places, _ = operands((), (queries, 4), (30, 4), (30, 4), dtype=dtype)
    kinds = [step.kernel.kind for step in steps_of(gc.scaled_dot_product_attention(*places))]
    assert ("contract" not in kinds) == is_whole


def test_masks_of_floats_are_left_to_products() -> None:
    places, _ = operands((), (20, 4), (30, 4), (30, 4), (20, 30))
    assert "contract" in [step.kernel.kind for step in steps_of(gc.scaled_dot_product_attention(*places))]


def test_gradients_of_leading_sizes_that_broadcast_are_left_to_products() -> None:
    places, _ = operands((), (2, 20, 4), (2, 20, 4), (1, 20, 4), (1, 20, 4))
    kinds = [step.kernel.kind for step in steps_of(*attention_grad(*places, is_causal=False, scale=0.5))]
    assert "contract" in kinds


def steps_of(*outputs: Node) -> Sequence[Any]:
    """The kernels' calls of a program."""
    return plan_kernels(prepared(outputs, info=WHOLES), WHOLES).steps


def test_other_machines() -> None:
    for dtype in ROUNDING:
        places, _ = operands((2,), (33, 20), (33, 20), (30, 20), (30, 20), dtype=dtype)
        outputs = [gc.scaled_dot_product_attention(*places[1:]), *attention_grad(*places, is_causal=True, scale=0.5)]
        assert assemble(*outputs, info=WHOLES) == 2
