"""The order of the kernels: right, the same every time, and with few bytes live."""

from __future__ import annotations

import numpy as np
import pytest
from plan_testing import SIZES, TARGET, batch, ops, planned, prepared
from random_graphs import Numbers, random_case

import graphc as gc
from graphc.ir import Node
from graphc.passes.decompose import decompose
from graphc.passes.lower import lower
from graphc.passes.modes import resolve_mode
from graphc.passes.plan import bind_plan, plan_kernels
from graphc.passes.schedule import schedule
from graphc.plan import SymbolicPlan
from graphc.verify_plan import verify_plan


def branches(count: int) -> Node:
    """A sum of columns of wide intermediate values, all written before any is used up."""
    x = gc.placeholder("x", (batch, 64))
    wide = [gc.cumsum(x * k, 0) for k in range(2, 2 + count)]
    return sum((gc.sum(gc.cumsum(gc.sort(y), 0)) for y in wide[1:]), gc.sum(wide[0]))


def peak(plan: SymbolicPlan) -> int:
    return bind_plan(plan, SIZES).lower_bound_bytes


def test_what_frees_memory_runs_as_soon_as_it_can() -> None:
    program = prepared([branches(8)])
    written = lower(program, TARGET)
    assert peak(schedule(written)) * 2 < peak(written)


def test_an_update_runs_when_its_gradient_is_there() -> None:
    x = gc.placeholder("x", (batch, 16))
    ws = [gc.Variable(np.eye(16), f"w{k}", dtype="float32") for k in range(6)]
    hs = [x]
    for w in ws:
        hs.append(gc.tanh(gc.matmul(hs[-1], w)))
    g: Node = hs[-1]
    gradients = []
    for w, h in zip(reversed(ws), reversed(hs[:-1]), strict=True):
        gradients.append(gc.cumsum(gc.matmul(gc.transpose(h), g), 0))  # keeps the update out of the matmul
        g = gc.matmul(g, gc.transpose(w)) * h
    updates = {w: w - gc.cumsum(dw, 0) for w, dw in zip(reversed(ws), gradients, strict=True)}
    plan = planned(updates=updates)
    gradient, activation = 16 * 16 * 4, 6 * 16 * 4
    assert plan.lower_bound_bytes <= 2 * gradient + 9 * activation


@pytest.mark.parametrize("seed", range(40))
def test_no_order_is_worse_than_the_written_one(seed: int) -> None:
    case = random_case(Numbers(1000 + seed), 30)
    program = decompose(resolve_mode(case.program, training=case.training), TARGET)
    written = lower(program, TARGET)
    ordered = schedule(written)
    assert sorted(map(id, ordered.steps)) == sorted(map(id, written.steps))
    verify_plan(bind_plan(ordered, case.dims))
    if not case.dims:  # symbolic sizes are guessed
        assert bind_plan(ordered, {}).lower_bound_bytes <= bind_plan(written, {}).lower_bound_bytes


def test_the_same_program_has_the_same_order() -> None:
    program = prepared([branches(5)])
    first, second = plan_kernels(program, TARGET), plan_kernels(program, TARGET)
    assert [ops(step) for step in first.steps] == [ops(step) for step in second.steps]
    assert [step.reads for step in first.steps] == [step.reads for step in second.steps]


def test_readers_of_a_variable_run_before_it_is_overwritten() -> None:
    w = gc.Variable(np.ones(8), "w", dtype="float32")
    old = gc.cumsum(w)
    plan = planned(gc.sum(old), gc.max(w), updates={w: w * 2})
    (update,) = plan.symbolic.updates
    assert plan.buffers[update].takes == plan.symbolic.given[w]


def test_a_reader_that_needs_the_new_value_too_runs_after_it() -> None:
    w = gc.Variable(np.ones(8), "w", dtype="float32")
    new = gc.cumsum(w * 2)
    plan = planned(gc.cumsum(w) + gc.cumsum(new), updates={w: new})
    (update,) = plan.symbolic.updates
    writer = next(at for at, step in enumerate(plan.kernels) if update in step.writes)
    readers = [at for at, step in enumerate(plan.kernels) if plan.symbolic.given[w] in step.reads]
    assert max(readers) < writer or plan.buffers[update].takes is None


def test_a_hundred_thousand_kernels_are_ordered() -> None:
    x, w = gc.placeholder("x", (batch, 4)), gc.placeholder("w", (4, 4))
    value = x
    for k in range(50_000):
        value = gc.tanh(gc.matmul(value, w)) + (x if k % 7 == 0 else value)
    plan = plan_kernels(prepared([value]), TARGET)
    assert len(plan.steps) == 50_000
    verify_plan(bind_plan(plan, SIZES))
