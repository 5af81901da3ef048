"""Fusion: what is computed together, what isn't, and that the kernels never wait for each other in a circle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from plan_testing import batch, kernels, ops, planned, prepared, run
from random_graphs import Numbers, random_case

import graphc as gc
from graphc.ir import Node
from graphc.kernel import Access, Load, Store
from graphc.operands import cast_op
from graphc.ops.creation import coordinate
from graphc.ops.extent import extent
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_kernels
from graphc.printer import text
from graphc.runtime.plan import PlanTarget
from graphc.target import LIGHT, TargetInfo


def rows(width: int = 10) -> Node:
    return gc.placeholder("x", (batch, width))


def matrices() -> tuple[Node, Node, Node]:
    return gc.placeholder("x", (batch, 8)), gc.placeholder("w", (8, 4)), gc.placeholder("b", (4,))


# --------------------------------------------------------------------------------------------- pointwise and views


def test_a_chain_of_pointwise_ops_is_one_kernel() -> None:
    x = rows()
    (step,) = kernels(gc.tanh(x * 2 + 1) * x).steps
    assert text(step.kernel) == "\n".join(
        [
            "pointwise kernel",
            "  for i in 10*batch:",
            "    p0: float32[] = r0[i]",
            "    %0: float32[] = multiply(p0, 2.0)",
            "    %1: float32[] = add(%0, 1.0)",
            "    %2: float32[] = tanh(%1)",
            "    %3: float32[] = multiply(%2, p0)",
            "    w0[i] = %3",
        ]
    )


def test_views_are_other_indices_and_compute_nothing() -> None:
    x, row = gc.placeholder("x", (batch, 4)), gc.placeholder("row", (4,))
    (step,) = kernels(gc.exp(gc.flip(gc.transpose(x), 0)) + row.reshape((4, 1))).steps
    (region,) = step.kernel.results
    assert [loop.extent for loop in region.loops] == [4, batch]
    assert region.loads == (Load(0, Access(3, (-1, 4))), Load(1, Access(0, (1, 0))))
    assert region.stores == (Store(0, Access(0, (batch, 1))),)


def test_loops_that_every_access_could_run_as_one_are_one() -> None:
    x, column = gc.placeholder("x", (batch, 3, 4)), gc.placeholder("column", (batch, 1, 1))
    (whole,) = kernels(gc.exp(x)).steps
    assert [loop.extent for loop in whole.kernel.results[0].loops] == [12 * batch]
    (broadcast,) = kernels(x * column).steps
    assert [loop.extent for loop in broadcast.kernel.results[0].loops] == [batch, 12]


def test_counters_and_sizes_need_no_memory() -> None:
    x = gc.placeholder("x", (batch, 4))
    (step,) = kernels(gc.where(gc.greater(coordinate((batch, 4), 1), 2), x, 0) / extent(batch, "float32")).steps
    (region,) = step.kernel.results
    assert len(step.reads) == 1
    assert Load(None, Access(0, (0, 1))) in region.loads
    assert "extent" in {node.op.name for node in region.body.nodes()}


def test_what_sizes_alone_decide_is_worked_out_where_it_is_used() -> None:
    x, w = gc.placeholder("x", (batch, 4)), gc.placeholder("w", (4, 4))
    share = 1 / extent(batch, "float32")
    plan = kernels(gc.exp(x) * share, gc.matmul(x, w) * share, gc.sum(x) * share)
    assert [step.kernel.kind for step in plan.steps] == ["pointwise", "contract", "reduce"]
    (number,), _ = run(planned(share), {})
    assert number == np.float32(1 / 6)


def test_a_matmul_is_not_kept_from_its_epilogue_by_the_order_of_writing() -> None:
    x, w = rows(), gc.placeholder("w", (10, 4))
    z = gc.matmul(x, w)
    for product in (lambda scale: z * scale, lambda scale: scale * z):
        plan = kernels(product(1 / gc.sum(gc.exp(x), axis=1, keepdims=True)))
        assert [step.kernel.kind for step in plan.steps] == ["reduce", "contract"]


def test_a_reshape_of_what_is_in_memory_is_no_copy() -> None:
    x = gc.placeholder("x", (batch, 4))
    y = gc.exp(x)
    plan = kernels(gc.matmul(gc.reshape(y, (batch * 2, 2)), gc.constant(np.ones((2, 3), np.float32))))
    assert [ops(step) for step in plan.steps] == [["exp"], ["matmul"]]
    assert [buffer.role for buffer in plan.buffers].count("arena") == 1


def test_a_transpose_of_an_operand_is_read_through() -> None:
    x, w = gc.placeholder("x", (batch, 8)), gc.placeholder("w", (4, 8))
    (step,) = kernels(gc.matmul(x, gc.transpose(w))).steps
    operand = step.kernel.operands[1]
    assert operand.is_view
    assert operand.loads == (Load(1, Access(0, (1, 8))),)


def test_a_target_without_strided_operands_gets_copies() -> None:
    x, w = gc.placeholder("x", (batch, 8)), gc.placeholder("w", (4, 8))
    plan = kernels(gc.matmul(x, gc.transpose(w)), views=frozenset())
    assert [ops(step) for step in plan.steps] == [["transpose"], ["matmul"]]


# --------------------------------------------------------------------------------------------- rows


def exponentials(x: Node) -> Node:
    """Softmax over the rows, in primitives."""
    e = gc.exp(x - gc.max(x, axis=1, keepdims=True))
    return e / gc.sum(e, axis=1, keepdims=True)


def test_softmax_is_one_kernel() -> None:
    (step,) = kernels(exponentials(rows())).steps
    assert text(step.kernel) == "\n".join(
        [
            "reduce kernel",
            "  for i in batch, j in reduce 10:",
            "    p0: float32[10] = r0[10*i + j]",
            "    %0: float32[1] = reduce_max(p0)",
            "    %1: float32[10] = broadcast_to(%0)",
            "    %2: float32[10] = subtract(p0, %1)",
            "    %3: float32[10] = exp(%2)",
            "    %4: float32[1] = reduce_sum(%3)",
            "    %5: float32[10] = broadcast_to(%4)",
            "    %6: float32[10] = divide(%3, %5)",
            "    w0[10*i + j] = %6",
        ]
    )


def test_layer_norm_is_one_kernel() -> None:
    x, weight, bias = rows(), gc.placeholder("weight", (10,)), gc.placeholder("bias", (10,))
    (step,) = kernels(gc.layer_norm(x, (10,), weight, bias)).steps
    (region,) = step.kernel.results
    assert region.rows == (10,)
    assert ops(step).count("reduce_sum") == 2


def test_softmax_of_a_layer_norm_is_one_kernel() -> None:
    assert len(kernels(gc.softmax(gc.layer_norm(rows(), (10,)) * 2)).steps) == 1


def test_a_row_that_leaves_the_cache_is_not_read_twice_by_one_kernel() -> None:
    x = rows(1000)
    assert len(kernels(gc.softmax(x), row_bytes=4000).steps) == 1
    assert len(kernels(gc.softmax(x), row_bytes=3999).steps) == 3


def test_a_reduction_takes_what_it_reduces_and_what_follows() -> None:
    x = rows()
    (step,) = kernels(gc.mean(gc.exp(x) * 2, axis=1) + 1).steps
    assert step.kernel.kind == "reduce"


def test_reductions_over_different_axes_are_different_kernels() -> None:
    x = rows()
    assert len(kernels(gc.sum(x / gc.sum(x, axis=0, keepdims=True), axis=1)).steps) == 2


def test_sums_of_one_value_over_the_same_columns_are_one_kernel() -> None:
    g, x = gc.placeholder("g", (batch, 8)), gc.placeholder("x", (batch, 8))
    (step,) = kernels(gc.sum(g, axis=0), gc.sum(g * x, axis=0)).steps
    assert len(step.writes) == 2


def test_sums_of_different_values_keep_no_value_alive_for_each_other() -> None:
    x, y = gc.placeholder("x", (batch, 8)), gc.placeholder("y", (batch, 8))
    assert len(kernels(gc.sum(gc.cumsum(x, 1)) + gc.sum(gc.cumsum(y, 1))).steps) == 4


def test_at_most_five_reductions_share_a_kernel() -> None:
    x = rows()
    total = sum(gc.sum(x * k, axis=1) for k in range(2, 9))
    counts = [ops(step).count("reduce_sum") for step in kernels(total).steps]
    assert sum(counts) == 7
    assert max(counts) == 5


def test_a_position_is_counted_along_its_own_axis() -> None:
    x = gc.placeholder("x", (3, 4, 5))
    values = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    for axis in range(3):
        (found,), _ = run(planned(gc.argmax(x * 2, axis=axis)), {x: values})
        assert np.array_equal(found, np.argmax(values, axis=axis))


# --------------------------------------------------------------------------------------------- cores


def test_bias_and_activation_are_the_epilogue_of_a_matmul() -> None:
    x, w, b = matrices()
    (step,) = kernels(gc.relu(gc.matmul(x, w) + b)).steps
    assert text(step.kernel) == "\n".join(
        [
            "contract kernel",
            "  operand 0, for i in batch, j in 8:",
            "    p0: float32[] = r0[8*i + j]",
            "    yields p0",
            "  operand 1, for i in 8, j in 4:",
            "    p0: float32[] = r1[4*i + j]",
            "    yields p0",
            "  matmul(operand 0: float32[batch, 8], operand 1: float32[8, 4]): float32[batch, 4]",
            "  result 0, for i in batch, j in 4:",
            "    p0: float32[] = r2[j]",
            "    %0: float32[] = add(core, p0)",
            "    %1: float32[] = maximum(%0, 0.0)",
            "    w0[4*i + j] = %1",
        ]
    )


def test_a_result_is_stored_in_the_order_that_its_user_wants() -> None:
    x, w, _ = matrices()
    (step,) = kernels(gc.transpose(gc.matmul(x, w))).steps
    (region,) = step.kernel.results
    assert region.stores == (Store(0, Access(0, (1, batch))),)


def test_what_a_matmul_gives_can_be_stored_before_its_epilogue_too() -> None:
    x, w, b = matrices()
    z = gc.matmul(x, w) + b
    (step,) = kernels(z, gc.tanh(z)).steps
    assert len(step.writes) == 2


def test_a_kernel_has_one_core() -> None:
    x, w, _ = matrices()
    plan = kernels(gc.matmul(x, w) + gc.matmul(x * 2, w))
    assert [ops(step).count("matmul") for step in plan.steps if "matmul" in ops(step)] == [1, 1]


def test_a_gradient_that_several_need_is_finished_in_the_kernel_of_its_matmul() -> None:
    g, w, mask = gc.placeholder("g", (batch, 4)), gc.placeholder("w", (4, 8)), gc.placeholder("mask", (batch, 8))
    inner = gc.matmul(g, w) * mask
    plan = kernels(gc.sum(inner, axis=0), gc.matmul(inner, gc.transpose(w)))
    assert ["matmul", "multiply"] in [ops(step) for step in plan.steps]


def test_a_target_without_epilogues_stores_every_core() -> None:
    x, w, b = matrices()
    plan = kernels(gc.relu(gc.matmul(x, w) + b), epilogues=frozenset())
    assert [ops(step) for step in plan.steps] == [["matmul"], ["add", "maximum"]]


def test_a_target_with_prologues_computes_operands_while_it_reads_them() -> None:
    x, w, _ = matrices()
    plan = kernels(gc.matmul(gc.tanh(x), w), prologues=frozenset({"contract"}))
    assert [ops(step) for step in plan.steps] == [["tanh", "matmul"]]
    assert [ops(step) for step in kernels(gc.matmul(gc.tanh(x), w)).steps] == [["tanh"], ["matmul"]]


def test_parts_are_computed_where_they_are_put_together() -> None:
    x, y = gc.placeholder("x", (batch, 3)), gc.placeholder("y", (batch, 2))
    (step,) = kernels(gc.concat([gc.exp(x), y], 1)).steps
    first, second = step.kernel.results
    assert (first.stores[0].access, second.stores[0].access) == (Access(0, (5, 1)), Access(3, (5, 1)))
    (padded,) = kernels(gc.pad(gc.exp(x), ((0, 0), (1, 1)))).steps
    fill, inside = padded.kernel.results
    assert not fill.loads
    assert inside.stores[0].access == Access(1, (5, 1))


def test_parts_are_stored_in_the_order_that_the_user_of_the_whole_wants() -> None:
    x, y, w = (gc.placeholder(name, (batch, 3, 4)) for name in "xyw")
    turned = gc.transpose(gc.stack([gc.exp(x), y]), (1, 2, 0, 3))
    plan = kernels(gc.matmul(gc.reshape(turned, (batch, 24)), gc.constant(np.ones((24, 2), np.float32))), w)
    first, second = plan.steps[1].kernel.results
    assert ops(plan.steps[1]) == ["exp", "concat", "transpose"]
    assert (first.stores[0].access, second.stores[0].access) == (Access(0, (8, 1)), Access(4, (8, 1)))


def test_a_composite_that_the_target_takes_is_one_kernel() -> None:
    @gc.composite
    def shifted(x: Node) -> Node:
        return x + 1

    x = rows()
    info = TargetInfo("test", whole=frozenset({shifted}))
    whole = plan_kernels(prepared([shifted(gc.exp(x))], info=info), info)
    assert [(step.kernel.kind, ops(step)) for step in whole.steps] == [
        ("pointwise", ["exp"]),
        ("composite", ["shifted"]),
    ]


def test_an_op_with_several_results_stores_those_that_are_needed() -> None:
    @gc.composite
    def both(x: Node) -> tuple[Node, Node]:
        return x + 1, x * 2

    x = rows()
    info = TargetInfo("test", whole=frozenset({both}))
    plan = plan_kernels(prepared([gc.exp(both(x)[1])], info=info), info)
    step = plan.steps[0]
    assert [len(region.stores) for region in step.kernel.results] == [0, 1]


def test_a_random_draw_is_a_kernel_whose_result_can_be_used_at_once() -> None:
    x = rows()
    drawn = gc.where(gc.random.bernoulli(0.5, (batch, 10)), x, 0)
    plan = plan_kernels(prepared([drawn]), PlanTarget.info)
    assert [ops(step) for step in plan.steps] == [["random_bernoulli", "where"]]


# --------------------------------------------------------------------------------------------- several users


def test_a_value_that_one_kernel_uses_twice_is_computed_once_and_never_stored() -> None:
    t = gc.tanh(rows())
    (step,) = kernels(t * t + t).steps
    assert ops(step).count("tanh") == 1
    assert len(step.writes) == 1


def test_a_value_that_other_kernels_need_is_stored_where_it_is_used_first() -> None:
    x, w = gc.placeholder("x", (batch, 8)), gc.placeholder("w", (8, 4))
    t = gc.tanh(x)
    plan = kernels(t + 1, gc.matmul(t, w))
    assert [ops(step) for step in plan.steps] == [["tanh", "add"], ["matmul"]]
    assert len(plan.steps[0].writes) == 2


@pytest.mark.parametrize("body", [lambda x: gc.exp(x) / 3, lambda x: x * 3], ids=["heavy", "light"])
def test_nothing_is_computed_twice_for_a_maximum_and_a_difference(body: Callable[[Node], Node]) -> None:
    x = gc.placeholder("x", (batch, 8, 16))
    y = body(x)
    shifted = gc.exp(y - gc.max(y, axis=1, keepdims=True))
    counts = Counter(node for step in kernels(shifted, row_bytes=-1).steps for node in step.nodes)
    assert max(counts.values()) == 1


def test_light_ops_of_one_stored_value_are_computed_where_they_are_needed() -> None:
    x = gc.placeholder("x", (batch, 8))
    scaled = x * 0.5
    plan = kernels(gc.sum(gc.exp(scaled), axis=0), gc.sum(gc.tanh(scaled), axis=1))
    assert [ops(step).count("multiply") for step in plan.steps] == [1, 1]
    assert [step.reads for step in plan.steps] == [(plan.given[x],)] * 2
    heavy = kernels(gc.sum(gc.exp(scaled), axis=0), gc.sum(gc.tanh(scaled), axis=1), light=frozenset())
    assert sum(ops(step).count("multiply") for step in heavy.steps) == 1


def test_a_row_result_that_others_need_is_stored_by_the_kernel_of_the_row() -> None:
    x, w = rows(), gc.placeholder("w", (10, 4))
    scale = 1 / gc.sqrt(gc.mean(x * x, axis=1, keepdims=True))
    plan = kernels(x * scale, gc.matmul(x, w) * scale)
    assert [step.kernel.kind for step in plan.steps] == ["reduce", "contract"]


def test_casts_that_widen_are_repeated_and_others_are_not() -> None:
    x, w = gc.placeholder("x", (batch, 8), "float16"), gc.placeholder("w", (8, 8))
    wide = gc.cast(x, "float32")
    plan = kernels(gc.matmul(wide * 2, w), gc.sum(wide, axis=0))
    assert Counter(node.op for step in plan.steps for node in step.nodes)[cast_op] == 2
    narrow = gc.cast(gc.placeholder("y", (batch, 8)), "float16")
    plan = kernels(gc.sort(narrow * 2), gc.sum(narrow, axis=0))
    assert [cast_op in {node.op for node in step.nodes} for step in plan.steps].count(True) >= 1


def test_kernels_never_wait_for_each_other_in_a_circle() -> None:
    x, w = gc.placeholder("x", (batch, 8)), gc.placeholder("w", (8, 8))
    a = gc.tanh(x)
    through = gc.matmul(a, w)  # a -> matmul -> sum, and a -> sum: the sum can't be computed with a
    plan = planned(through * 2 + a, gc.sum(a * through, axis=1))
    assert ops(plan.kernels[0]) == ["tanh"]


def test_diamonds_of_all_kinds_run_in_an_order_that_exists() -> None:
    x, w = gc.placeholder("x", (batch, 8)), gc.placeholder("w", (8, 8))
    value = x
    values = []
    for _ in range(6):
        left = gc.tanh(value) + 1
        right = gc.matmul(left, w)
        scale = gc.sum(left * right, axis=1, keepdims=True)
        value = left * scale + gc.transpose(gc.transpose(right)) - gc.max(right, axis=0, keepdims=True)
        values.append(value)
    planned(*values)  # verified: every value is written before it is read


def square(dtype: str = "float32") -> tuple[Node, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return gc.placeholder("x", (5, 5), dtype), np.random.default_rng(1).integers(-4, 5, (5, 5)).astype(dtype)


def test_a_kernel_stores_a_value_only_if_it_computes_all_of_it() -> None:
    x, values = square()
    t = gc.tanh(x)
    part, whole = t[1:] + 1, gc.cumsum(t, 0)
    (first, second), _ = run(planned(part, whole), {x: values})
    assert np.array_equal(first, np.tanh(values)[1:] + 1)
    assert np.array_equal(second, np.cumsum(np.tanh(values), axis=0))


def test_rows_and_columns_of_one_size_are_told_apart() -> None:
    x, values = square()
    y = gc.exp(x - gc.max(x, axis=0, keepdims=True)) * gc.sum(x, axis=1, keepdims=True)
    (found,), _ = run(planned(y), {x: values})
    shifted = values - values.max(axis=0, keepdims=True)
    assert np.array_equal(found, np.exp(shifted) * values.sum(axis=1, keepdims=True))


def test_kernels_that_need_a_value_in_different_orders_stay_apart() -> None:
    x, values = square()
    half, halves = square("float16")
    wide = gc.cast(half, "float32")  # computed in both, straight and transposed
    (first, second), _ = run(
        planned(gc.sum(x * wide, axis=0), gc.sum(x * gc.transpose(wide), axis=0)), {x: values, half: halves}
    )
    assert np.array_equal(first, (values * halves).sum(axis=0))
    assert np.array_equal(second, (values * halves.T).sum(axis=0))


@pytest.mark.parametrize("seed", range(30))
def test_every_value_is_computed_in_one_kernel_but_what_costs_nothing(seed: int) -> None:
    case = random_case(Numbers(seed), 25)
    program = run_pipeline(case.program, PlanTarget.info, training=case.training)
    steps = plan_kernels(program, PlanTarget.info).steps
    counts = Counter(node for step in steps for node in step.nodes)
    for node, count in counts.items():
        assert count == 1 or node.op is cast_op or node.op in LIGHT or not node.inputs or node in program.roots


def test_without_fusion_every_kernel_computes_one_op() -> None:
    x, w, b = matrices()
    plan = kernels(gc.softmax(gc.relu(gc.matmul(x, w) + b)), fuses=False)
    assert all(len(step.nodes) == 1 for step in plan.steps)


# --------------------------------------------------------------------------------------------- limits, sizes, sharing


def test_a_kernel_keeps_few_values_at_a_time() -> None:
    xs = [gc.placeholder("x", (batch,)) for _ in range(60)]
    plan = kernels(sum((gc.tanh(x) for x in xs[1:]), gc.tanh(xs[0])), max_live=8)
    assert all(len(step.reads) <= 9 for step in plan.steps)
    assert len(plan.steps) > 5


def test_a_kernel_has_a_limited_number_of_ops() -> None:
    x = rows()
    for _ in range(100):
        x = gc.tanh(x) + 0.5
    assert max(len(step.nodes) for step in kernels(x, max_ops=16).steps) == 16


def test_layers_that_do_the_same_are_one_kernel() -> None:
    x = gc.placeholder("x", (batch, 8))
    for _ in range(5):
        x = gc.tanh(gc.matmul(x, gc.placeholder("w", (8, 8))) + gc.placeholder("b", (8,)))
    plan = kernels(x)
    assert len(plan.steps) == 5
    assert len({id(step.kernel) for step in plan.steps}) == 1


def test_a_chain_of_a_hundred_thousand_views_is_looked_through() -> None:
    y: Node = gc.placeholder("x", (3, 4))
    x = y
    for k in range(100_000):
        y = gc.transpose(y) if k % 2 else gc.flip(y, 0)
    (step,) = kernels(y + 1).steps
    assert step.kernel.results[0].loads[0].read == 0
    assert len(step.reads) == 1
    assert x.op.kind == "placeholder"


def test_a_chain_of_a_hundred_thousand_ops_is_cut_into_kernels() -> None:
    y: Node = gc.placeholder("x", (3,))
    for _ in range(50_000):
        y = gc.tanh(y) + 0.5
    plan = kernels(y)
    assert len(plan.steps) == -(-100_000 // TargetInfo("test").max_ops)
    assert len({id(step.kernel) for step in plan.steps}) <= 4


def test_a_value_with_many_users_takes_linear_time() -> None:
    x, scale = gc.placeholder("x", (8, 8)), gc.placeholder("scale", ())
    y = x
    for _ in range(3000):
        y = gc.matmul(y, x) * gc.exp(scale)
    assert len(kernels(y).steps) == 3001


# --------------------------------------------------------------------------------------------- networks


def test_a_training_step_of_an_mlp() -> None:
    x, t = gc.placeholder("x", (batch, 8)), gc.placeholder("t", (batch, 4))
    w, b = gc.Variable(np.ones((8, 4)), "w", dtype="float32"), gc.Variable(np.zeros(4), "b", dtype="float32")
    y = gc.matmul(x, w) + b
    g = (exponentials(y) - t) / extent(batch, "float32")
    loss = gc.mean((y - t) * (y - t))
    dw, db = gc.matmul(gc.transpose(x), g), gc.sum(g, axis=0)
    plan = planned(loss, updates={w: w - 0.1 * dw, b: b - 0.1 * db})
    assert [ops(step) for step in plan.kernels] == [
        ["matmul", "add"],
        ["subtract", "multiply", "reduce_sum", "divide"],
        ["reduce_max", "subtract", "exp", "reduce_sum", "divide", "subtract", "divide"],
        ["matmul", "multiply", "subtract"],
        ["reduce_sum", "multiply", "subtract"],
    ]
    assert [len(step.in_place) for step in plan.kernels] == [0, 0, 1, 1, 1]


def test_the_statistics_of_a_batch_are_computed_together() -> None:
    x = gc.placeholder("x", (batch, 8, 5, 5))
    axes = (0, 2, 3)
    plan = kernels(gc.mean(x, axis=axes), gc.var(x, axis=axes), gc.max(x, axis=axes))
    assert len(plan.steps) == 1
    assert len(plan.steps[0].kernel.results[0].rows) == 2


def test_heads_of_attention_are_read_in_place() -> None:
    x, w = gc.placeholder("x", (batch, 6, 8)), gc.placeholder("w", (8, 24))
    q, k, v = gc.unstack(gc.transpose(gc.reshape(gc.matmul(x, w), (batch, 6, 3, 2, 4)), (2, 0, 3, 1, 4)), 0)
    weights = gc.softmax(gc.matmul(q, gc.transpose(k, (0, 1, 3, 2))) * 0.5)
    out = gc.reshape(gc.transpose(gc.matmul(weights, v), (0, 2, 1, 3)), (batch, 6, 8))
    plan = kernels(out)
    assert [step.kernel.kind for step in plan.steps] == ["contract", "contract", "reduce", "contract"]


def test_an_embedding_is_looked_up_and_normalised() -> None:
    table, index = gc.placeholder("table", (50, 8)), gc.placeholder("index", (batch,), "int64")
    plan = kernels(gc.layer_norm(gc.take(table, index, 0), (8,)))
    assert [step.kernel.kind for step in plan.steps] == ["index", "reduce"]


def test_constants_are_inlined() -> None:
    x = rows()
    (step,) = kernels(gc.where(gc.full((batch, 10), True), x * gc.full((batch, 10), 2.0), 1.0)).steps
    assert len(step.reads) == 1
