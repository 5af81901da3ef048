"""What kernels compute again for themselves, so that it needs no bytes between the parts of a step that use it."""

from collections import Counter

import numpy as np
import pytest
from plan_testing import kernels, ops

import graphc as gc
from graphc.ir import Node
from graphc.plan import SymbolicPlan

ROWS = 1 << 10  # so many rows of 256 floats are beyond the cache


def times(plan: SymbolicPlan, name: str) -> int:
    """How often an op is computed, in all kernels."""
    return Counter(op for step in plan.steps for op in ops(step))[name]


def written(plan: SymbolicPlan) -> list[Node]:
    """The values that are stored between kernels."""
    return [buffer.node for buffer in plan.buffers if buffer.role == "arena"]


def two_users(value: Node) -> list[Node]:
    """Sums over different axes, which are two kernels."""
    return [gc.sum(gc.exp(value), axis=0), gc.sum(gc.cos(value), axis=1)]


def test_what_is_normalised_is_stored_once_and_normalised_where_it_is_needed() -> None:
    x, w = gc.placeholder("x", (64, 32)), gc.placeholder("w", (32, 48))
    y = gc.matmul(x, w)
    plan = kernels(*two_users((y - gc.mean(y, axis=0)) * gc.rsqrt(gc.max(y, axis=0))))
    assert [node for node in written(plan) if node.shape == (64, 48)] == [y]


def test_a_chain_is_computed_again_as_a_whole() -> None:
    x = gc.placeholder("x", (64, 32))
    plan = kernels(*two_users((x * 2 + 1) * x))
    assert times(plan, "multiply") == 4
    assert written(plan) == []


def test_a_chain_that_costs_more_than_reading_is_stored() -> None:
    x = gc.placeholder("x", (64, 32))
    value = x
    for _ in range(20):
        value = value * x + 1
    plan = kernels(*two_users(value))
    assert times(plan, "add") == 20
    assert len(written(plan)) == 1


def test_what_follows_from_more_bytes_than_it_has_is_stored() -> None:
    x, y = gc.placeholder("x", (64, 32)), gc.placeholder("y", (64, 32))
    assert times(kernels(*two_users(x + y)), "add") == 1
    assert times(kernels(*two_users(x + gc.placeholder("row", (32,)))), "add") == 2


def test_what_would_have_to_be_stored_instead_is_not_taken_as_a_source() -> None:
    x = gc.placeholder("x", (64, 32))
    plan = kernels(*two_users(gc.exp(x) * 2))
    assert times(plan, "exp") == 2, "once for the product, once in the first of its users"
    assert times(plan, "multiply") == 1


@pytest.mark.parametrize(("rows", "tanhs"), [(64, 1), (1 << 12, 2)])
def test_a_tanh_is_computed_again_where_it_would_be_read_from_beyond_the_cache(rows: int, tanhs: int) -> None:
    x = gc.placeholder("x", (rows, 256))
    plan = kernels(*two_users(gc.tanh(x) * x))
    assert times(plan, "tanh") == tanhs
    assert len(written(plan)) == 2 - tanhs


def test_a_training_step_keeps_one_value_of_each_gelu_besides_its_result() -> None:
    x = gc.placeholder("x", (ROWS, 256))
    w, v = (gc.Variable(np.ones((256, 256), np.float32), name=name) for name in "wv")
    loss = gc.sum(gc.matmul(gc.gelu(gc.matmul(x, w), approximate="tanh"), v) ** 2)
    plan = kernels(*gc.gradients(loss, [w, v]))
    forward = [node for node in written(plan) if node.shape == (ROWS, 256)]
    assert Counter(node.op.name for node in forward)["tanh"] == 0
