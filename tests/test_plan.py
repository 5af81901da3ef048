"""Plans: bytes, results, updates in place, new sizes; and that a wrong plan is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from op_testing import same_bits
from plan_testing import SIZES, TARGET, batch, kernels, n, ops, planned, prepared, run
from random_graphs import Numbers, expected, random_case

import graphc as gc
from graphc.dims import symbol
from graphc.errors import InternalError, ShapeError
from graphc.fallible import fallible
from graphc.ir import Node, Program
from graphc.kernel import Access, Region
from graphc.ops.indexing import embedding_op
from graphc.ops.pooling import max_pool_input_grad
from graphc.ops.sorting import topk_op
from graphc.ops.state import Variable
from graphc.passes.decompose import decompose
from graphc.passes.gradients import gradients
from graphc.passes.index_maps import row_major
from graphc.passes.modes import resolve_mode
from graphc.passes.plan import TECHNIQUES, bind_plan, in_place_pairs, plan_kernels, plan_program
from graphc.plan import Buffer, Plan
from graphc.printer import text
from graphc.runtime.plan import PlanTarget
from graphc.verify_plan import verify_plan

Array = np.ndarray[Any, Any]


def vector(name: str = "x") -> Node:
    return gc.placeholder(name, (8,))


def variable(value: float = 1.0, name: str = "w") -> Variable:
    return Variable(np.full(8, value), name, dtype="float32")


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --------------------------------------------------------------------------------------------- results


def test_results_are_arrays_of_their_own() -> None:
    x, w = vector(), variable()
    y = gc.exp(x)
    plan = planned(y, y, gc.reshape(y, (2, 4)), x, w, gc.constant([1.0, 2.0]), gc.tanh(y), updates={w: w + 1})
    fed, held = numbers(8), np.ones(8, np.float32)
    outputs, _ = run(plan, {x: fed, w: held})
    everything = [*outputs, fed, held]
    for k, array in enumerate(everything):
        assert not any(np.shares_memory(array, other) for other in everything[:k])
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[2], outputs[0].reshape(2, 4))
    assert np.array_equal(outputs[3], fed)
    assert np.array_equal(outputs[4], held)
    assert np.array_equal(outputs[5], [1.0, 2.0])


def test_a_result_that_several_ask_for_is_computed_once_and_stored_twice() -> None:
    y = gc.exp(vector())
    (step,) = planned(y, y).kernels
    assert len(step.writes) == 2
    assert ops(step) == ["exp"]


def test_results_are_outside_of_the_arena() -> None:
    plan = planned(gc.cumsum(gc.exp(vector())))
    assert plan.peak_bytes == 64
    assert [b.role for b in plan.buffers if b.role == "result"] == ["result"]
    assert all(plan.buffers[k].role == "result" for k in plan.symbolic.outputs)


def test_counters_draws_and_sizes_can_be_results() -> None:
    drawn = gc.random.uniform((3,))
    plan = planned(gc.arange(5), gc.zeros((2, batch)), drawn)
    (counted, zeros, draw), _ = PlanTarget().compile(plan.symbolic.program).run({}, SIZES, {drawn: (1, 2, 3)})
    assert counted.tolist() == [0, 1, 2, 3, 4]
    assert zeros.shape == (2, 6)
    assert not zeros.any()
    assert np.array_equal(draw, gc.philox.uniform(1, 2, 3, shape=(3,), dtype="float32", low=0.0, high=1.0))


def test_a_program_without_results_has_an_empty_plan() -> None:
    plan = plan_program(Program((), ()), TARGET, {})
    assert (plan.kernels, plan.peak_bytes) == ((), 0)
    assert run(plan, {}) == ([], [])


def test_empty_tensors_need_no_bytes() -> None:
    x = gc.placeholder("x", (n, 4))
    y = gc.cumsum(gc.exp(x), 0)
    plan = planned(gc.sum(y, axis=0), gc.sum(gc.tanh(y)), y * 2, n=0)
    assert plan.peak_bytes == 0
    (columns, total, none), _ = run(plan, {x: numbers(0, 4)})
    assert columns.tolist() == [0, 0, 0, 0]
    assert total == 0
    assert none.shape == (0, 4)


# --------------------------------------------------------------------------------------------- sizes


def test_new_sizes_change_bytes_and_no_kernel() -> None:
    x = gc.placeholder("x", (batch, 16))
    symbolic = kernels(gc.cumsum(gc.cumsum(gc.exp(x), 1), 0))
    small, large = bind_plan(symbolic, {"batch": 2}), bind_plan(symbolic, {"batch": 2000})
    assert small.kernels is large.kernels
    assert large.peak_bytes == 1000 * small.peak_bytes
    with pytest.raises(ShapeError, match="batch"):
        bind_plan(symbolic, {})


def test_equal_sizes_are_recognised_although_they_are_not_known() -> None:
    x = gc.placeholder("x", (batch, 2 * n))
    plan = planned(gc.cumsum(gc.exp(gc.reshape(gc.cumsum(x, 0), (batch * n, 2))), 0))
    assert len(plan.kernels[1].in_place) == 1


# --------------------------------------------------------------------------------------------- in place


def test_a_temporary_that_dies_gives_its_bytes_to_a_result_of_its_kernel() -> None:
    plan = planned(gc.cumsum(gc.exp(gc.cumsum(vector()))), disable=("epilogues",))
    assert [len(step.in_place) for step in plan.kernels] == [0, 1, 0]
    assert plan.peak_bytes == 64


def pairs_of(body: Callable[[Node], Node], dtype: str = "float32") -> int:
    """How many buffers are taken over if a temporary goes through `body` in a kernel of its own."""
    x = gc.placeholder("x", (8,), dtype)
    y = body(gc.cumsum(x))
    plan = planned(gc.matmul(y, gc.constant(np.ones((8, 8)), y.dtype)), disable=("epilogues",))
    return sum(len(step.in_place) for step in plan.kernels)


def test_a_value_that_is_read_at_other_places_keeps_its_bytes() -> None:
    assert not pairs_of(lambda x: gc.flip(x) + x)
    assert pairs_of(lambda x: gc.exp(x) + x)


def test_a_row_may_be_overwritten_by_what_its_last_pass_gives() -> None:
    x = gc.placeholder("x", (batch, 8))
    y = gc.cumsum(x, 0)
    e = gc.exp(y - gc.max(y, axis=1, keepdims=True))
    soft = e / gc.sum(e, axis=1, keepdims=True)
    assert [len(step.in_place) for step in planned(gc.cumsum(soft, 0)).kernels] == [0, 1, 0]
    # e is stored in an earlier pass than soft: it must not take the bytes that the last pass reads again
    plan = planned(gc.cumsum(soft, 0), gc.cumsum(e, 0))
    (step,) = [step for step in plan.kernels if "reduce_sum" in ops(step)]
    stored = {plan.buffers[new].node.op.name for _, new in step.in_place}
    assert stored == {"divide"}


def test_an_operand_of_a_matmul_keeps_its_bytes_and_a_residual_gives_them() -> None:
    x, w = gc.placeholder("x", (8, 8)), gc.placeholder("w", (8, 8))
    y, residual = gc.cumsum(x, 0), gc.cumsum(w, 0)
    plan = planned(gc.cumsum(gc.matmul(y, w) + residual, 0))
    (step,) = [step for step in plan.kernels if step.kernel.kind == "contract"]
    ((old, _),) = step.in_place
    assert plan.buffers[old].node is residual


def test_elements_of_another_size_never_share_bytes() -> None:
    assert not pairs_of(lambda x: gc.cast(gc.exp(gc.sin(gc.flip(x))), "float32"), "float64")
    assert not pairs_of(lambda x: gc.cast(gc.exp(x), "float16"))
    assert pairs_of(lambda x: gc.cast(gc.exp(x), "int32"))


# --------------------------------------------------------------------------------------------- variables


def update_of(plan: Plan, which: int = 0) -> Buffer:
    return plan.buffers[plan.symbolic.updates[which]]


def test_a_variable_is_updated_in_its_own_bytes() -> None:
    w, g = variable(), vector("g")
    plan = planned(updates={w: w - 0.1 * g})
    assert update_of(plan).takes == plan.symbolic.given[w]
    (new,) = run(plan, {w: np.ones(8, np.float32), g: np.full(8, 5, np.float32)})[1]
    assert np.allclose(new, 0.5)


def test_fetching_a_variable_gives_its_value_from_before_the_run() -> None:
    w = variable()
    held = np.full(8, 3, np.float32)
    (before, new), (stored,) = run(planned(w, w + 1, updates={w: w + 1}), {w: held})
    assert (before[0], new[0], stored[0]) == (3, 4, 4)
    assert not np.shares_memory(new, stored)


def test_variables_can_be_exchanged() -> None:
    a, b = variable(name="a"), variable(name="b")
    plan = planned(updates={a: b, b: a})
    _, (new_a, new_b) = run(plan, {a: np.full(8, 1, np.float32), b: np.full(8, 2, np.float32)})
    assert (new_a[0], new_b[0]) == (2, 1)


def test_a_variable_can_be_given_what_it_has_a_constant_and_what_another_gets() -> None:
    a, b, c = variable(name="a"), variable(name="b"), variable(name="c")
    plan = planned(updates={a: a, b: gc.constant(np.full(8, 7, np.float32)), c: a})
    _, (same, seven, taken) = run(plan, {v: np.full(8, 1, np.float32) for v in (a, b, c)})
    assert (same[0], seven[0], taken[0]) == (1, 7, 1)


def test_a_variable_read_after_its_update_gets_a_second_array() -> None:
    w = variable()
    new = gc.cumsum(w)
    plan = planned(gc.cumsum(new) + gc.cumsum(gc.cumsum(w * new)), updates={w: new})
    assert update_of(plan).takes is None


def test_a_variable_is_not_overwritten_while_a_later_kernel_can_fail() -> None:
    w, table, index = variable(), gc.placeholder("table", (5, 8)), gc.placeholder("index", (8,), "int64")
    looked_up = gc.take(table, index, 0)
    after = gc.take(table, gc.cast(w * 2, "int64"), 0)
    plan = planned(gc.sum(after), updates={w: w + gc.sum(looked_up, axis=0)})
    order = [ops(step) for step in plan.kernels]
    writer = next(at for at, step in enumerate(plan.kernels) if plan.symbolic.updates[0] in step.writes)
    failing = [at for at, names in enumerate(order) if "gather" in names]
    assert update_of(plan).takes is None or max(failing) < writer


def test_indices_that_were_checked_cannot_fail_again() -> None:
    table = Variable(np.ones((50, 8)), "table", dtype="float32")
    other = variable()
    index = gc.placeholder("index", (4,), "int64")
    rows = gc.take(table, index, 0)
    gradient = gc.scatter_add(gc.zeros((50, 8)), index, gc.cumsum(rows * other, 0), 0)
    plan = planned(updates={other: other - gc.sum(rows, axis=0), table: table - gradient})
    assert [update_of(plan, k).takes is not None for k in range(2)] == [True, True]


def test_composites_that_a_target_takes_whole_fail_where_their_bodies_do() -> None:
    def failing(*outputs: Node) -> list[str]:
        """The cores of the steps that can fail."""
        whole = frozenset({topk_op, max_pool_input_grad, embedding_op})
        info = replace(TARGET, whole=whole)
        steps = plan_kernels(prepared(outputs, info=info), info).steps
        cores = [step.kernel.core for step, fails in zip(steps, fallible(steps), strict=True) if fails]
        return [core.op.name for core in cores if core is not None]

    x, image = gc.placeholder("x", (4, 50)), gc.placeholder("image", (2, 3, 8, 8))
    index = gc.placeholder("index", (4,), "int64")
    chosen, order = gc.topk(x, 3)
    assert failing(order, *gradients(gc.sum(chosen * chosen), [x])) == []
    assert failing(*gradients(gc.sum(gc.max_pool2d(image, 2) ** 2), [image])) == []
    assert failing(gc.embedding(index, x)) == ["embedding"]
    assert failing(gc.take(x, order[:, 0], 1)) == []
    assert failing(gc.take(x, order[:, 0], 0)) == ["gather"]


def test_a_run_that_fails_leaves_every_array_as_it_was() -> None:
    w, table, index = variable(), gc.placeholder("table", (5, 8)), gc.placeholder("index", (3,), "int64")
    plan = planned(gc.take(table, index, 0), updates={w: w + 1})
    values = {w: np.ones(8, np.float32), table: numbers(5, 8), index: np.array([0, 9, 1])}
    with pytest.raises(Exception, match="9"):
        run(plan, values)
    assert (values[w] == 1).all()


# --------------------------------------------------------------------------------------------- bytes


def chain(length: int) -> Node:
    value: Node = gc.placeholder("x", (batch, 16))
    for k in range(length):
        value = gc.cumsum(gc.reshape(value, (batch * 16,)) if k % 2 else value.reshape((batch, 16)), 0) + 1
    return value


def network(width: int, depth: int) -> tuple[list[Node], dict[Any, Node]]:
    """A training step by hand: layers, their backward pass, updates."""
    x = gc.placeholder("x", (batch, width))
    weights = [Variable(np.eye(width), f"w{k}", dtype="float32") for k in range(depth)]
    activations: list[Node] = [x]
    for w in weights:
        activations.append(gc.tanh(gc.matmul(activations[-1], w)))
    updates: dict[Any, Node] = {}
    g: Node = activations[-1] * 2
    for k in reversed(range(depth)):
        g = g * (1 - activations[k + 1] * activations[k + 1])
        updates[weights[k]] = weights[k] - 0.1 * gc.matmul(gc.transpose(activations[k]), g)
        g = gc.matmul(g, gc.transpose(weights[k]))
    return [gc.mean(activations[-1] * activations[-1])], updates


@pytest.mark.parametrize("depth", [1, 4, 20])
def test_the_arena_is_as_small_as_it_can_be(depth: int) -> None:
    outputs, updates = network(32, depth)
    plan = planned(*outputs, updates=updates)
    assert plan.lower_bound_bytes <= plan.peak_bytes <= 1.08 * plan.lower_bound_bytes
    assert all(update_of(plan, k).takes is not None for k in range(depth))


def test_a_chain_runs_in_two_buffers() -> None:
    assert planned(chain(40)).peak_bytes <= 2 * 6 * 16 * 4


def test_techniques_can_be_switched_off_one_by_one() -> None:
    outputs, updates = network(8, 6)
    normal = planned(*outputs, updates=updates)
    counts = {name: planned(*outputs, updates=updates, disable=(name,)) for name in TECHNIQUES}
    assert len(counts["fuse"].kernels) > len(normal.kernels)
    assert len(counts["epilogues"].kernels) > len(normal.kernels)
    assert counts["arena"].peak_bytes > normal.peak_bytes
    assert not any(step.in_place for step in counts["in_place"].kernels)
    values = {node: numbers(*node.tensor_type.bind(SIZES).shape) for node in normal.symbolic.given}
    wanted = run(normal, values)[0][0]
    for plan in counts.values():
        assert np.allclose(run(plan, values)[0][0], wanted)


def test_a_report_says_what_was_made_of_the_program() -> None:
    outputs, updates = network(8, 2)
    plan = planned(*outputs, updates=updates)
    assert plan.report().splitlines()[:5] == [
        f"{len(plan.kernels)} kernels, 5 different, for batch = 6, n = 5, m = 7",
        "memory: 576 B of arena, at least 576 B needed; results 4 B, updated in place 512 B, given 704 B",
        "fused: 22 of 29 values are never in memory (8 pointwise, 7 view, 5 contract, 1 extent, 1 reduce)",
        "in place: 0 temporaries, 2 of 2 updates",
        "reused: 768 B of temporaries lie in 576 B",
    ]
    assert "contract: matmul tanh" in plan.report()
    assert "test_plan.py:" in plan.report()
    assert text(plan).count("contract kernel") <= len(plan.kernels)


# --------------------------------------------------------------------------------------------- random programs


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("disable", [(), ("fuse",), ("schedule", "rows"), ("in_place", "epilogues")], ids="-".join)
def test_plans_of_random_programs_give_the_reference_values(seed: int, disable: tuple[str, ...]) -> None:
    case = random_case(Numbers(seed), 20)
    program = decompose(resolve_mode(case.program, training=case.training), PlanTarget.info)
    case = replace(case, program=program)
    outputs, updates = PlanTarget(seed, disable).compile(program).run(case.values, case.dims, case.draws)
    for found, wanted, exact in zip([*outputs, *updates], expected(case), case.exact, strict=False):
        assert same_bits(found, wanted) or not exact


# --------------------------------------------------------------------------------------------- wrong plans


def busy() -> Plan:
    """A plan with temporaries that live together, one taken in place, and an update in place."""
    x, w = gc.placeholder("x", (batch, 8)), Variable(np.ones((8, 8)), "w", dtype="float32")
    a = gc.cumsum(x, 0)
    b = gc.cumsum(gc.exp(a), 1)
    c = gc.cumsum(gc.matmul(a, w) + b, 0)
    return planned(gc.sum(c * b), updates={w: w - gc.matmul(gc.transpose(a), c)})


def moved(plan: Plan) -> Plan:
    """All temporaries at one offset."""
    return replace(plan, offsets=(0,) * len(plan.offsets))


def too_small(plan: Plan) -> Plan:
    return replace(plan, peak_bytes=plan.peak_bytes - 64)


def freed_early(plan: Plan) -> Plan:
    """Offsets for lifetimes that all end in the step after the birth."""
    symbolic = replace(plan.symbolic)
    symbolic.__dict__["lifetimes"] = tuple((born, min(born + 1, last)) for born, last in plan.symbolic.lifetimes)
    for k, buffer in enumerate(symbolic.buffers):
        if buffer.takes is not None and buffer.role == "arena":
            symbolic = without(symbolic, k)
    return replace(bind_plan(symbolic, SIZES), symbolic=without_cache(plan.symbolic))


def without(symbolic: Any, k: int) -> Any:
    buffers = list(symbolic.buffers)
    buffers[k] = buffers[k]._replace(takes=None)
    changed = replace(symbolic, buffers=tuple(buffers))
    changed.__dict__["lifetimes"] = symbolic.lifetimes
    return changed


def without_cache(symbolic: Any) -> Any:
    return replace(symbolic)


def wrongly_in_place(plan: Plan) -> Plan:
    """A result in the bytes of an operand that its kernel reads at other places, or that is read again later."""
    for at, step in enumerate(plan.kernels):
        for read in step.reads:
            for write in step.writes:
                arena = plan.buffers[read].role == plan.buffers[write].role == "arena"
                if arena and plan.nbytes[read] == plan.nbytes[write] and (read, write) not in step.in_place:
                    offsets = list(plan.offsets)
                    offsets[write] = offsets[read]
                    buffers = list(plan.buffers)
                    buffers[write] = buffers[write]._replace(takes=read)
                    steps = list(plan.kernels)
                    steps[at] = step._replace(in_place=(*step.in_place, (read, write)))
                    symbolic = replace(plan.symbolic, buffers=tuple(buffers), steps=tuple(steps))
                    return replace(plan, symbolic=symbolic, offsets=tuple(offsets))
    raise AssertionError("the plan has no such pair")


def reordered(plan: Plan) -> Plan:
    steps = plan.kernels
    return replace(plan, symbolic=replace(plan.symbolic, steps=(*steps[1:], steps[0])))


def updated_early(plan: Plan) -> Plan:
    """The update before the other reader of the variable."""
    (update,) = plan.symbolic.updates
    w = plan.symbolic.given[plan.symbolic.program.updates[0][0]]
    steps = list(plan.kernels)
    writer = next(step for step in steps if update in step.writes)
    steps.remove(writer)
    reader = next(at for at, step in enumerate(steps) if w in step.reads)
    steps.insert(reader, writer)
    return replace(plan, symbolic=replace(plan.symbolic, steps=tuple(steps)))


def with_region(plan: Plan, change: Callable[[Region], Region]) -> Plan:
    """The first kernel that has a load and a store, changed."""
    steps = list(plan.kernels)
    for at, step in enumerate(steps):
        region = step.kernel.results[0]
        if region.loads and region.stores:
            steps[at] = step._replace(kernel=replace(step.kernel, results=(change(region),)))
            return replace(plan, symbolic=replace(plan.symbolic, steps=tuple(steps)))
    raise AssertionError("the plan has no such kernel")


def outside(region: Region) -> Region:
    """A load one element off."""
    load = region.loads[0]
    return replace(region, loads=(load._replace(access=load.access._replace(offset=1)), *region.loads[1:]))


def incomplete(region: Region) -> Region:
    """A store to one place only."""
    store = region.stores[0]
    nowhere = Access(0, (0,) * len(store.access.strides))
    return replace(region, stores=(store._replace(access=nowhere), *region.stores[1:]))


FAULTS: list[tuple[Callable[[Plan], Plan], str]] = [
    (moved, "over buffer"),
    (too_small, "bytes"),
    (freed_early, "over buffer"),
    (wrongly_in_place, "over buffer"),
    (reordered, "before it is written"),
    (updated_early, "has overwritten|before it is written"),
    (lambda plan: with_region(plan, outside), "uses elements"),
    (lambda plan: with_region(plan, incomplete), "of the .* elements"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", "")[:20])
def test_a_wrong_plan_is_found_out(fault: Callable[[Plan], Plan], message: str) -> None:
    plan = busy()
    verify_plan(plan)
    with pytest.raises(InternalError, match=f"(?s){message}"):
        verify_plan(fault(plan))


@pytest.mark.parametrize("fault", [moved, freed_early, wrongly_in_place], ids=lambda fault: fault.__name__)
def test_a_wrong_plan_gives_wrong_values(fault: Callable[[Plan], Plan]) -> None:
    plan = busy()
    values = {node: numbers(*node.tensor_type.bind(SIZES).shape) for node in plan.symbolic.given}
    right = run(plan, values)
    wrong = run(fault(plan), values)
    assert not all(np.array_equal(a, b) for a, b in zip([*right[0], *right[1]], [*wrong[0], *wrong[1]], strict=True))


def test_the_order_of_the_blocks_changes_nothing() -> None:
    plan = busy()
    values = {node: numbers(*node.tensor_type.bind(SIZES).shape) for node in plan.symbolic.given}
    first = run(plan, values, seed=0)
    for seed in range(1, 8):
        again = run(plan, values, seed=seed)
        assert all(np.array_equal(a, b) for a, b in zip([*first[0], *first[1]], [*again[0], *again[1]], strict=True))


def test_only_what_is_read_where_it_is_written_may_be_in_place() -> None:
    x = gc.placeholder("x", (4, 4))
    (same,) = kernels(gc.exp(x) + x).steps
    (turned,) = kernels(gc.exp(x) + gc.transpose(x)).steps
    assert list(in_place_pairs(same.kernel)) == [(0, 0)]
    assert list(in_place_pairs(turned.kernel)) == []


# --------------------------------------------------------------------------------------------- sessions


def test_a_session_runs_plans() -> None:
    with gc.Graph():
        x = gc.placeholder("x", ("rows", 3))
        w = Variable(np.ones((3, 2)), "w", dtype="float32")
        loss = gc.mean(gc.tanh(x @ w))
        step = gc.optim.SGD(lr=0.5).minimize(loss)
        fed = numbers(5, 3)
        with gc.Session(device="plan") as planned_session, gc.Session(device="reference") as reference:
            for _ in range(3):
                found, _ = planned_session.run([loss, step], {x: fed})
                wanted, _ = reference.run([loss, step], {x: fed})
                assert np.allclose(found, wanted, rtol=1e-6)
            assert np.allclose(planned_session[w], reference[w], rtol=1e-6)
            report = planned_session.plan([loss, step], {x: fed}).report()
    assert "rows = 5" in report


def test_a_plan_is_made_once_for_all_sizes() -> None:
    x = gc.placeholder("x", (symbol("rows"), 3))
    executable = PlanTarget().compile(prepared([gc.cumsum(gc.exp(x), 0)]))
    for rows in (1, 4, 2):
        fed = numbers(rows, 3)
        (found,), _ = executable.run({x: fed}, {"rows": rows}, {})
        assert np.array_equal(found, np.cumsum(np.exp(fed), axis=0))
    assert executable.plan({"rows": 4}).kernels is executable.symbolic.steps
    assert row_major((4, 3)) == (3, 1)
    assert plan_kernels(executable.symbolic.program, TARGET).outputs == executable.symbolic.outputs
