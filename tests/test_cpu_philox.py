"""Native draws have the bits of `graphc.philox`; normal ones are as near as the rounding of log, sin and cos allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import philox
from graphc.passes.plan import plan_kernels
from graphc.runtime.cpu.host import this_host
from graphc.runtime.cpu.kernels import native_kernel
from graphc.runtime.cpu.philox import UNIT
from graphc.types import np_dtype
from tests.cpu_cores import INFO, WIDTHS, assemble, host_of, run
from tests.plan_testing import prepared

KEY = (2**63 + 5, 2**64 - 3, (7 << 33) + 1)  # seed, stream, counter
FLOATS = ("float64", "float32", "float16", "bfloat16")
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def drawn(node: Any, width: int = 64, **how: Any) -> Any:
    (found,) = run([node], {}, draw=KEY, host=host_of(width), **how)
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 2, 31, 33, UNIT + 7])
def test_numbers_of_every_length(count: int, width: int) -> None:
    shape = (count,)
    np.testing.assert_array_equal(drawn(gc.random.uniform(shape), width, parts=2), philox.uniform(*KEY, shape))
    wide = philox.uniform(*KEY, shape, np.float64)
    np.testing.assert_array_equal(drawn(gc.random.uniform(shape, dtype="float64"), width), wide)
    np.testing.assert_array_equal(drawn(gc.random.bernoulli(0.3, shape), width), philox.bernoulli(*KEY, shape, 0.3))
    whole = philox.integers(*KEY, shape, -3, 1000)
    np.testing.assert_array_equal(drawn(gc.random.integers(-3, 1000, shape), width), whole)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.5), (1.0, 1.0078125)], ids=str)
def test_uniform_numbers_stay_below_the_upper_bound(dtype: str, bounds: tuple[float, float]) -> None:
    found = drawn(gc.random.uniform((3, 3000), *bounds, dtype=dtype), parts=3)
    np.testing.assert_array_equal(found, philox.uniform(*KEY, (3, 3000), np_dtype(dtype), *bounds))
    assert (found < np_dtype(dtype).type(bounds[1])).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_normal_numbers(dtype: str, width: int) -> None:
    found = drawn(gc.random.normal((UNIT + 77,), dtype=dtype), width).astype(float)
    wanted = philox.normal(*KEY, found.shape, np_dtype(dtype)).astype(float)
    # Beside zeros of sine and cosine the reference itself is only as good as its angle.
    np.testing.assert_allclose(found, wanted, rtol=4 * EPSILON[dtype], atol=2e-15)
    scaled = drawn(gc.random.normal((99,), -2.0, 0.5, dtype=dtype), width).astype(float)
    wanted = philox.normal(*KEY, (99,), np_dtype(dtype), -2.0, 0.5).astype(float)
    np.testing.assert_allclose(scaled, wanted, rtol=4 * EPSILON[dtype], atol=4 * EPSILON[dtype])


@pytest.mark.parametrize("p", [0.0, 1e-8, 0.3, 0.5, 1 - 2.0**-30, 1.0])
def test_probabilities(p: float) -> None:
    np.testing.assert_array_equal(drawn(gc.random.bernoulli(p, (5000,))), philox.bernoulli(*KEY, (5000,), p))


RANGES = [
    (0, 1, "int64"),
    (-5, 3, "int8"),
    (0, 256, "uint8"),
    (-(2**31), 2**31, "int32"),
    (-(2**62), 2**62 + 5, "int64"),
    (-(2**63), 2**63, "int64"),
]


@pytest.mark.parametrize(("low", "high", "dtype"), RANGES)
def test_ranges_of_integers(low: int, high: int, dtype: str) -> None:
    found = drawn(gc.random.integers(low, high, (500,), dtype))
    np.testing.assert_array_equal(found, philox.integers(*KEY, (500,), low, high, np_dtype(dtype)))


def test_a_shape_that_comes_with_the_run() -> None:
    (found,) = run([gc.random.uniform((3, "n")) * 2], {}, draw=KEY, n=50)
    np.testing.assert_array_equal(found, philox.uniform(*KEY, (3, 50)) * 2)


@pytest.mark.parametrize(
    "refused",
    [gc.random.uniform((3,), 1.0, 1.0), gc.random.normal((3,), 0.0, -1.0), gc.random.integers(0, 300, (3,), "uint8")],
    ids=str,
)
def test_what_the_reference_refuses_is_left_to_it(refused: Any) -> None:
    (step,) = plan_kernels(prepared([refused], info=INFO), INFO).steps
    assert native_kernel(step.kernel, this_host()) is None


def test_other_machines() -> None:
    draws = (gc.random.uniform((99,)), gc.random.normal((99,)), gc.random.normal((99,), dtype="float64"))
    assert assemble(*draws, gc.random.bernoulli(0.5, ("n",)), gc.random.integers(0, 9, ("n",))) == 5
