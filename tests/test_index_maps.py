"""Index maps: a view, looked through, reads what NumPy's view reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_graphs import Numbers

from graphc.dims import symbol
from graphc.ir import Node
from graphc.operands import expand_dims_op, parameter, squeeze_op
from graphc.ops import REGISTRY
from graphc.ops.shape import broadcast_to, flip, reshape, transpose
from graphc.ops.slicing import slice_op
from graphc.passes.index_maps import FIRST, VIEWS, Axis, along, covers, identity, keeps_order, linear, pull, row_major
from graphc.types import TensorType

batch = symbol("batch")


def tensor(*shape: Any) -> Node:
    return parameter(0, TensorType("float32", shape))


def positions(view: Node, source: Node) -> np.ndarray[Any, Any] | None:
    """The element of `source` that each element of `view` is, by the maps; None where they aren't affine."""
    index, extents = identity(view.shape)
    at: Any = index
    node = view
    while node is not source:
        at = pull(node, at, extents)
        if at is None:
            return None
        node = node.inputs[0]
    offset, strides = linear(at, source.shape, len(extents))
    found = np.full(extents, offset)
    for k, stride in enumerate(strides):
        found = found + np.arange(extents[k]).reshape([-1 if j == k else 1 for j in range(len(extents))]) * stride
    return found.reshape(view.shape)


def by_reference(view: Node, source: Node) -> np.ndarray[Any, Any]:
    """The same by the ops' references."""
    chain = []
    node = view
    while node is not source:
        chain.append(node)
        node = node.inputs[0]
    array = np.arange(int(np.prod(source.shape))).reshape(source.shape)
    for node in reversed(chain):
        array = node.op.ref(array, **node.attrs)
    return array


VIEWED = [
    transpose(tensor(2, 3, 4), (2, 0, 1)),
    flip(tensor(3, 4), (0,)),
    flip(transpose(tensor(3, 4)), (0, 1)),
    slice_op(tensor(7, 5), starts=(1, 0), steps=(2, 3), shape=(3, 2)),
    slice_op(flip(tensor(7), 0), starts=(2,), steps=(2,), shape=(2,)),
    broadcast_to(tensor(3, 1), (2, 3, 5)),
    broadcast_to(tensor(), (2, 2)),
    expand_dims_op(tensor(3, 4), axes=(0, 2)),
    squeeze_op(tensor(1, 3, 1, 2), axes=(0, 2)),
    reshape(tensor(2, 3, 4), (6, 4)),
    reshape(transpose(tensor(6, 4)), (4, 6)),
    reshape(reshape(tensor(6, 4), (2, 3, 4)), (6, 4)),
    transpose(reshape(tensor(6, 4), (2, 3, 2, 2)), (2, 0, 3, 1)),
    reshape(slice_op(tensor(4, 6), starts=(1, 0), steps=(1, 1), shape=(2, 6)), (2, 3, 2)),
]


@pytest.mark.parametrize("view", VIEWED, ids=str)
def test_a_view_that_is_looked_through_reads_what_numpys_view_reads(view: Node) -> None:
    source = view
    while source.inputs:
        source = source.inputs[0]
    found = positions(view, source)
    assert found is None or np.array_equal(found, by_reference(view, source))
    assert found is not None or any(node.op.name == "reshape" for node in (view, *view.inputs))


@pytest.mark.parametrize("seed", range(200))
def test_chains_of_views_read_what_numpy_reads(seed: int) -> None:
    choose = Numbers(seed)
    source = view = tensor(*[(1, 2, 3, 4, 6)[choose.integer(0, 4)] for _ in range(choose.integer(0, 3))])
    for _ in range(4):
        view = random_view(view, choose)
    found = positions(view, source)
    assert found is None or np.array_equal(found, by_reference(view, source))


def random_view(x: Node, choose: Numbers) -> Node:
    rank = x.ndim
    which = choose.integer(0, 5)
    if which == 0:
        return transpose(x, sorted(range(rank), key=lambda _: choose.integer(0, 99)))
    if which == 1:
        return flip(x, [k for k in range(rank) if choose.integer(0, 1)])
    if which == 2:
        starts = tuple(choose.integer(0, n - 1) for n in x.shape)
        left = tuple(n - start for n, start in zip(x.shape, starts, strict=True))
        return slice_op(x, starts=starts, steps=(1,) * rank, shape=left)
    if which == 3:
        return broadcast_to(x, (2, *(3 if n == 1 else n for n in x.shape)))
    if which == 4:
        return reshape(x, (-1,))
    return reshape(x, (*x.shape[:-1], *split(x.shape[-1]))) if rank else x


def split(size: int) -> tuple[int, int]:
    return (2, size // 2) if size % 2 == 0 else (size, 1)


def test_every_view_op_has_a_rule() -> None:
    views = {op for op in REGISTRY.values() if op.kind == "view"}
    assert views == VIEWS.keys()


def test_symbolic_views_are_looked_through() -> None:
    x = tensor(batch, 4, 3)
    joined = reshape(x, (batch, 12))
    index, extents = identity(joined.shape)
    assert pull(joined, index, extents) is None  # one loop can't run over two axes
    parted = reshape(tensor(batch, 12), (batch, 4, 3))
    index, extents = identity(parted.shape)
    assert pull(parted, index, extents) == (along(0), Axis(0, ((1, 3), (2, 1))))
    assert linear(pull(parted, index, extents), (batch, 12), 3) == (0, (12, 3, 1))


def test_neighbours_lie_as_far_apart_as_the_inner_axes_have_elements() -> None:
    assert row_major((batch, 4, 3)) == (12, 3, 1)
    assert row_major((4, batch)) == (batch, 1)


def test_an_index_covers_a_shape_if_each_axis_has_a_loop_of_its_own() -> None:
    assert covers((along(1), along(0)), (3, batch), (batch, 3))
    assert covers((along(0), FIRST), (5, 1), (5,))
    assert not covers((along(0), along(0)), (5, 5), (5,)), "a diagonal"
    assert not covers((Axis(1, ((0, 1),)),), (5,), (4,)), "a slice"
    assert not covers((Axis(0, ((0, 1),)),), (1,), (0,)), "an axis of size 1 along a loop that never runs"


@pytest.mark.parametrize(
    ("view", "keeps"),
    [
        (reshape(tensor(2, 6), (3, 4)), True),
        (expand_dims_op(tensor(2, 6), axes=(1,)), True),
        (broadcast_to(tensor(2, 6), (1, 2, 6)), True),
        (transpose(tensor(1, 6)), True),
        (transpose(tensor(2, 6)), False),
        (flip(tensor(2, 6), 0), False),
        (broadcast_to(tensor(1, 6), (2, 6)), False),
        (slice_op(tensor(4, 6), starts=(0, 0), steps=(1, 1), shape=(2, 6)), False),
    ],
    ids=str,
)
def test_a_view_in_the_same_order_needs_no_bytes(view: Node, keeps: bool) -> None:
    assert keeps_order(view) == keeps

