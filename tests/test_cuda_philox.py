"""Draws in CUDA C have the bits of `graphc.philox`; normal ones lie within 4 units in the last place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import philox
from graphc.passes.plan import plan_kernels
from graphc.runtime.cuda.kernels import cuda_kernel
from graphc.types import np_dtype
from tests.cuda_cores import INFO, run
from tests.cuda_host import needs_compiler
from tests.plan_testing import prepared

KEY = (2**63 + 5, 2**64 - 3, (7 << 33) + 1)  # seed, stream, counter
FLOATS = ("float64", "float32", "float16", "bfloat16")
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}

pytestmark = needs_compiler


def drawn(*nodes: Any, **how: Any) -> list[Any]:
    return run(nodes, {}, draw=KEY, **how)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 31, 4103])
def test_numbers_of_every_length(count: int, wide: bool) -> None:
    shape = (count,)
    draws = [
        gc.random.uniform(shape),
        gc.random.uniform(shape, dtype="float64"),
        gc.random.bernoulli(0.3, shape),
        gc.random.integers(-3, 1000, shape),
    ]
    wanted = [
        philox.uniform(*KEY, shape),
        philox.uniform(*KEY, shape, np.float64),
        philox.bernoulli(*KEY, shape, 0.3),
        philox.integers(*KEY, shape, -3, 1000),
    ]
    for found, expected in zip(drawn(*draws, wide=wide), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_scalars() -> None:
    uniform, chosen = drawn(gc.random.uniform(()), gc.random.integers(5, 9, ()))
    np.testing.assert_array_equal(uniform, philox.uniform(*KEY, ()))
    np.testing.assert_array_equal(chosen, philox.integers(*KEY, (), 5, 9))


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_numbers_stay_below_the_upper_bound(dtype: str) -> None:
    bounds = [(0.0, 1.0), (-3.0, 5.5), (1.0, 1.0078125)]
    draws = [gc.random.uniform((3, 3000), *pair, dtype=dtype) for pair in bounds]
    for found, pair in zip(drawn(*draws), bounds, strict=True):
        np.testing.assert_array_equal(found, philox.uniform(*KEY, (3, 3000), np_dtype(dtype), *pair))
        assert (found < np_dtype(dtype).type(pair[1])).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_numbers(dtype: str) -> None:
    count = 1 << 17
    draws = gc.random.normal((count + 3,), dtype=dtype), gc.random.normal((count,), -2.0, 0.5, dtype=dtype)
    found, scaled = [array.astype(float) for array in drawn(*draws)]
    # Beside zeros of what float64 gives, the reference itself is only as good as its angle.
    near = dict(rtol=4 * EPSILON[dtype], atol=2e-15)
    np.testing.assert_allclose(found, philox.normal(*KEY, found.shape, np_dtype(dtype)).astype(float), **near)
    wanted = philox.normal(*KEY, (count,), np_dtype(dtype), -2.0, 0.5).astype(float)
    np.testing.assert_allclose(scaled, wanted, **near)


@pytest.mark.parametrize("std", [0.0, 1e-44, 1e-32, 0.01, 3.0, 1e32, 1e39])
def test_normal_numbers_of_every_scale(std: float) -> None:
    (found,) = drawn(gc.random.normal((5000,), 0.0, std))
    with np.errstate(over="ignore"):
        wanted = philox.normal(*KEY, (5000,), np.float32, 0.0, std)
    is_tiny = np.abs(wanted) < 1e-37
    np.testing.assert_allclose(found[~is_tiny], wanted[~is_tiny], rtol=4 * EPSILON["float32"])
    np.testing.assert_array_equal(found[is_tiny], wanted[is_tiny])


def test_normal_numbers_differ_by_few_units_in_the_last_place() -> None:
    (found,) = drawn(gc.random.normal((1 << 18,)))
    wanted = philox.normal(*KEY, found.shape)
    units = np.abs(found.astype(float) - wanted) / np.spacing(np.abs(wanted)).astype(float)
    assert units.max() <= 4
    assert np.percentile(units, 99.9) <= 2


def test_probabilities() -> None:
    chances = [0.0, 1e-8, 0.3, 0.5, 1 - 2.0**-30, 1.0]
    for found, p in zip(drawn(*[gc.random.bernoulli(p, (5000,)) for p in chances]), chances, strict=True):
        np.testing.assert_array_equal(found, philox.bernoulli(*KEY, (5000,), p))


def test_ranges_of_integers() -> None:
    ranges = [
        (0, 1, "int64"),
        (-5, 3, "int8"),
        (0, 256, "uint8"),
        (-(2**31), 2**31, "int32"),
        (-(2**62), 2**62 + 5, "int64"),
        (-(2**63), 2**63, "int64"),
    ]
    draws = [gc.random.integers(low, high, (500,), dtype) for low, high, dtype in ranges]
    for found, (low, high, dtype) in zip(drawn(*draws), ranges, strict=True):
        np.testing.assert_array_equal(found, philox.integers(*KEY, (500,), low, high, np_dtype(dtype)))


def test_a_shape_that_comes_with_the_run_and_what_follows() -> None:
    (found,) = drawn(gc.random.uniform((3, "n")) * 2, n=50)
    np.testing.assert_array_equal(found, philox.uniform(*KEY, (3, 50)) * 2)


@pytest.mark.parametrize(
    "refused",
    [gc.random.uniform((3,), 1.0, 1.0), gc.random.normal((3,), 0.0, -1.0), gc.random.integers(0, 300, (3,), "uint8")],
    ids=str,
)
def test_what_the_reference_refuses_is_left_to_it(refused: Any) -> None:
    (step,) = plan_kernels(prepared([refused], info=INFO), INFO).steps
    assert cuda_kernel(step.kernel) is None
