"""What a step of a plan, or a node of a program, has to do: for profiles. Nothing here runs anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from graphc.dims import Dim, evaluate, product
from graphc.ir import Node
from graphc.kernel import Kernel, Load, Region, Store
from graphc.passes.memory import round_up
from graphc.plan import Plan, Step
from graphc.plan_text import source_line, step_name
from graphc.types import TensorType, TupleType, dtype_info

WITH_TAPS = {"conv": (1, None), "conv_input_grad": (1, 0), "conv_weight_grad": (None, 1)}  # which is w, which is y

# Attention and its gradient: their first operand with queries, and the products over elements of keys, and of values.
ATTENTION = {"scaled_dot_product_attention": (0, 1, 1), "scaled_dot_product_attention_grad": (1, 3, 2)}


class Work(NamedTuple):
    """What one kernel, or one node, does.

    Attributes:
        name: the kind and the ops, `contract: matmul add maximum`.
        kind: see `Kernel.kind`; of a node that of its op.
        node: what the user calls the last value that it computes, with its scope.
        line: where the user wrote that, `model.py:12`, or "".
        operands, results: types of what it reads and writes.
        nbytes: that are read and written at least, each once.
        flops: arithmetic operations, a multiply-add being two; a product of matrices, a convolution and attention by
            their definition, whatever algorithm computes them.
        dtype: of the results.
        how: what a target says about its code, or "".
    """

    name: str
    kind: str
    node: str
    line: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    nbytes: int
    flops: int
    dtype: str
    how: str = ""


def work_of(step: Step, plan: Plan, how: str = "") -> Work:
    """What a step of a plan does."""
    dims, kernel, last = plan.dims, step.kernel, step.nodes[-1]
    reads, writes = ([plan.buffers[k].type.bind(dims) for k in found] for found in (step.reads, step.writes))
    moved = sum(_bytes_touched(kernel, dims, step, plan))
    return Work(
        step_name(step),
        kernel.kind,
        full_name(last),
        source_line(last),
        tuple(map(str, reads)),
        tuple(map(str, writes)),
        moved,
        _core_flops(kernel.core, dims) + sum(_region_flops(region, dims) for region in kernel.regions),
        writes[0].dtype if writes else "",
        how,
    )


def work_of_node(node: Node, dims: Mapping[str, int]) -> Work:
    """What the reference does for a node: reads all inputs, and writes the value."""
    given, made = [t for i in node.inputs for t in _types(i)], _types(node)
    arithmetic = node.op.kind in ("pointwise", "reduce")
    counted = node.inputs[0] if node.op.kind == "reduce" else node
    flops = evaluate(product(counted.shape), dims) if arithmetic else _core_flops(node, dims)
    bound = [t.bind(dims) for t in (*given, *made)]
    names = tuple(map(str, bound))
    moved = sum(int(t.nbytes) for t in bound if isinstance(t.nbytes, int))
    return Work(
        f"{node.op.kind}: {node.op.name}",
        node.op.kind,
        full_name(node),
        source_line(node),
        names[: len(given)],
        names[len(given) :],
        moved,
        flops,
        made[0].dtype,
    )


def full_name(node: Node) -> str:
    """The name of a node with the scope that it was written in, `encoder/conv1/add`."""
    scope, name = node.occurrence.scope, node.display_name
    return f"{scope}/{name}" if scope and not name.startswith(scope) else name


def live_bytes(plan: Plan) -> list[int]:
    """Bytes of temporaries that are live at each step; the most of them are `plan.lower_bound_bytes`."""
    change = [0] * (len(plan.kernels) + 1)
    for k, (buffer, (born, last)) in enumerate(zip(plan.buffers, plan.symbolic.lifetimes, strict=True)):
        if buffer.role == "arena":
            shared = buffer.takes is not None  # in the step that makes it, its bytes are those of the giver
            change[born + shared] += round_up(plan.nbytes[k])
            change[last + 1] -= round_up(plan.nbytes[k])
    found, live = [], 0
    for step in change[:-1]:
        live += step
        found.append(live)
    return found


def live_values(order: Iterable[tuple[Node, Iterable[Node]]], dims: Mapping[str, int]) -> list[int]:
    """Bytes of computed values that are live at each node of an order, which tells what nothing needs afterwards."""
    found, live, sizes = [], 0, {}
    for node, dead in order:
        sizes[node] = sum([evaluate(t.nbytes, dims) for t in _types(node)])
        live += sizes[node]
        found.append(live)
        live -= sum([sizes.pop(used, 0) for used in dead])
    return found


def _types(node: Node) -> tuple[TensorType, ...]:
    return node.type.items if isinstance(node.type, TupleType) else (node.tensor_type,)


# ------------------------------------------------------------------------------------------- arithmetic


def _core_flops(core: Node | None, dims: Mapping[str, int]) -> int:
    """Two for each multiply-add of a product, a convolution or attention; other cores move data, and count as none."""
    if core is not None and core.op.name in ATTENTION:
        return _attention_flops(core, dims)
    if core is None or core.op.kind not in ("contract", "conv"):
        return 0
    if core.op.name in WITH_TAPS:
        weight, result = (core if k is None else core.inputs[k] for k in WITH_TAPS[core.op.name])
        return 2 * evaluate(product(result.shape) * product(weight.shape[1:]), dims)
    return 2 * evaluate(product(core.shape) * core.inputs[0].shape[-1], dims)


def _attention_flops(core: Node, dims: Mapping[str, int]) -> int:
    """Of the products, for the pairs of a query and a key that it sees as far as `is_causal` says; none twice."""
    first, by_key, by_value = ATTENTION[core.op.name]
    *batch, queries, value_width = core.inputs[0].shape if first else core.shape
    keys, width = core.inputs[first + 1].shape[-2:]
    rows, columns = evaluate(queries, dims), evaluate(keys, dims)
    triangle = min(rows, columns)
    pairs = triangle * (triangle + 1) // 2 + (rows - triangle) * columns if core.attrs["is_causal"] else rows * columns
    return 2 * pairs * evaluate(product(batch) * (by_key * width + by_value * value_width), dims)


def _region_flops(region: Region, dims: Mapping[str, int]) -> int:
    """One for each pointwise op at each point where it is computed, and for each element that is reduced."""
    points = evaluate(product([loop.extent for loop in region.loops]), dims)
    rows = evaluate(product([loop.extent for loop in region.loops if not loop.reduce]), dims)
    inside = {node for node in region.values if node.shape == region.rows}
    total = 0
    for node in region.values:
        if node.op.kind in ("pointwise", "reduce"):
            total += points if node.op.kind == "reduce" or node in inside else rows
    return total


# ------------------------------------------------------------------------------------------- bytes


def _bytes_touched(kernel: Kernel, dims: Mapping[str, int], step: Step, plan: Plan) -> Iterable[int]:
    """Of each buffer that a step reads or writes, the bytes that it reaches, each once."""
    core = kernel.core
    taken = sum(evaluate(product(t.shape), dims) for t in _types(core)) if core is not None else 0
    reads, writes = [0] * len(step.reads), [0] * len(step.writes)
    for region in kernel.regions:
        extents = [evaluate(loop.extent, dims) for loop in region.loops]
        formals = region.body.inputs[len(region.body.inputs) - len(region.loads) :]
        # What picks elements by index reads no more of its table than it gives.
        picks = core is not None and core.op.kind == "index" and region in kernel.operands[:1]
        for load, formal in zip(region.loads, formals, strict=True):
            if load.read is not None:
                count = _elements(load, extents)
                reads[load.read] += dtype_info(formal.dtype).itemsize * (min(count, taken) if picks else count)
        for store, output in zip(region.stores, region.body.outputs, strict=False):
            writes[store.write] += dtype_info(output.dtype).itemsize * _elements(store, extents)
    for found, buffers in ((reads, step.reads), (writes, step.writes)):
        yield from (min(count, plan.nbytes[k]) for count, k in zip(found, buffers, strict=True))


def _elements(access: Load | Store, extents: Iterable[Dim]) -> int:
    """How many elements an access reaches, if no two points reach the same but along loops that it doesn't follow."""
    return int(product([n for n, stride in zip(extents, access.access.strides, strict=True) if stride != 0]))
