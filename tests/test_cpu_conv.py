"""Convolutions and their gradients as native code: they are NumPy's, for every geometry, dtype and width of vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cpu_cores import INFO, WIDTHS, assemble, called, host_of, native, run
from plan_testing import prepared

import graphc as gc
from graphc.dims import Dim, evaluate, symbol
from graphc.ir import Node
from graphc.ops.conv import conv_input_grad, conv_op, conv_weight_grad
from graphc.ops.windows import window_counts
from graphc.passes.plan import plan_kernels
from graphc.runtime.conv_geometry import described
from graphc.runtime.cpu import conv_taps, conv_winograd_channels
from graphc.runtime.cpu.conv import CORES, EXACT_CORES
from graphc.runtime.cpu.host import HOSTS
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.winograd import FOUR, TRANSFORMS, Transform
from graphc.types import np_dtype

# (x, w, stride, padding, dilation, groups)
GEOMETRIES: Mapping[str, tuple[Any, ...]] = {
    "plain": ((2, 3, 5, 7), (4, 3, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "padded": ((2, 3, 5, 7), (4, 3, 3, 3), (1, 1), ((1, 1), (2, 0)), (1, 1), 1),
    "padded by more than the kernel": ((1, 2, 5, 4), (3, 2, 2, 2), (1, 1), ((4, 4), (0, 3)), (1, 1), 1),
    "stride 2": ((2, 3, 9, 7), (5, 3, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "stride above the kernel": ((1, 7, 9, 9), (5, 7, 1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 1),
    "stride and dilation": ((1, 3, 12, 11), (2, 3, 2, 2), (3, 2), ((1, 1), (0, 1)), (2, 3), 1),
    "stride of many classes": ((1, 2, 9, 9), (3, 2, 4, 4), (4, 4), ((0, 0), (0, 0)), (1, 1), 1),
    "groups": ((2, 4, 9, 8), (6, 2, 3, 2), (3, 2), ((2, 0), (0, 1)), (1, 2), 2),
    "depthwise": ((3, 6, 4, 4), (6, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
    "depthwise, stride 2": ((2, 5, 11, 37), (5, 1, 3, 5), (2, 2), ((1, 1), (2, 1)), (1, 1), 5),
    "depthwise, two results a channel": ((3, 4, 7, 20), (8, 1, 5, 4), (1, 1), ((2, 2), (1, 2)), (2, 1), 4),
    "depthwise, stride 3, one axis": ((2, 3, 70), (3, 1, 4), (3,), ((1, 1),), (1,), 3),
    "1x1": ((1, 40, 5, 21), (35, 40, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "rows in one set of the cache": ((1, 1024, 3, 5), (20, 1024, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "few channels": ((3, 5, 17, 13), (4, 5, 3, 2), (1, 1), ((0, 1), (1, 2)), (1, 2), 1),
    "few channels, wide rows": ((2, 2, 37, 49), (16, 2, 3, 3), (1, 1), ((1, 1), (0, 0)), (2, 1), 1),
    "few channels in groups": ((2, 6, 9, 16), (9, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "small planes": ((20, 16, 2, 2), (33, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "few points": ((16, 40, 2, 2), (18, 40, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "few points, uneven": ((13, 9, 3, 4), (10, 9, 4, 3), (1, 1), ((2, 2), (1, 2)), (1, 1), 1),
    "few points, stride 2": ((32, 24, 4, 4), (19, 24, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "few points of one axis": ((16, 9, 3), (8, 9, 5), (1,), ((2, 2),), (1,), 1),
    "many channels": ((1, 70, 4, 4), (140, 70, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "wide rows": ((1, 2, 4, 300), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "one axis": ((2, 20, 13), (17, 20, 5), (2,), ((2, 2),), (1,), 1),
    "three axes": ((1, 2, 3, 5, 2), (2, 2, 2, 1, 2), (1, 1, 2), ((0, 1), (0, 0), (1, 1)), (1, 1, 1), 1),
    "one point": ((2, 9, 3, 3), (20, 9, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one point of one pixel": ((1, 17, 1, 1), (40, 17, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one point, stride 2": ((2, 64, 2, 2), (72, 64, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "one point in groups": ((3, 6, 2, 2), (22, 3, 2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    "one point of one axis": ((2, 5, 4), (19, 5, 4), (1,), ((0, 0),), (1,), 1),
    "one column": ((2, 12, 9, 3), (21, 12, 3, 3), (1, 1), ((1, 1), (0, 0)), (1, 1), 1),
    "one column, few channels": ((2, 3, 40, 5), (6, 3, 5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "one row": ((2, 12, 3, 23), (21, 12, 3, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    "no input channels": ((2, 0, 5, 5), (3, 0, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "no output channels": ((2, 3, 5, 5), (0, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "no elements": ((2, 3, 0, 5), (4, 3, 2, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "no images": ((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
}
EACH_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=list(GEOMETRIES))
EACH_OP = pytest.mark.parametrize("op", [conv_op, conv_input_grad, conv_weight_grad], ids=lambda op: op.name)
NARROW = WIDTHS[1:]  # bytes of vectors; the other tests have the widest
OPERANDS = {"conv": "xw", "conv_input_grad": "gw", "conv_weight_grad": "xg"}
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}


class Case:
    """One primitive in one geometry: the node, what to feed, and what NumPy finds in double precision."""

    def __init__(
        self,
        op: Any,
        geometry: tuple[Any, ...],
        dtype: str = "float32",
        batch: Dim | None = None,
        *,
        steady: bool = False,
    ) -> None:
        x, w, stride, padding, dilation, groups = geometry
        counts = window_counts(x[2:], w[2:], stride, padding, dilation)
        shapes = {"x": x, "w": w, "g": (x[0], w[0], *counts)}
        attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        attrs |= {"conv_input_grad": {"spatial": x[2:]}, "conv_weight_grad": {"kernel": w[2:]}}.get(op.name, {})
        rng = np.random.default_rng(0)
        rounded = [rng.standard_normal(shapes[name]).astype(np_dtype(dtype)) for name in OPERANDS[op.name]]
        numbers = [array.astype(np.float64) for array in rounded]
        self.places = []
        for name in OPERANDS[op.name]:
            shape = shapes[name] if batch is None or name == "w" else (batch, *shapes[name][1:])
            self.places.append(gc.placeholder(name, shape, dtype))
        self.feeds = dict(zip(self.places, numbers, strict=True))
        if steady:
            self.places[1] = gc.constant(rounded[1])
        self.node: Node = op(*self.places, **attrs)
        self.wanted = op.ref(*numbers, **attrs)
        self.dtype = dtype

    def check(self, found: Any) -> None:
        """The result is right up to rounding, relative to how large results are."""
        scale = float(np.sqrt((self.wanted**2).mean())) if self.wanted.size else 1.0
        assert found.shape == self.wanted.shape
        assert np.abs(found.astype(np.float64) - self.wanted).max(initial=0) <= TOLERANCE[self.dtype] * (scale or 1.0)


@EACH_GEOMETRY
@EACH_OP
def test_all_geometries_are_served(op: Any, geometry: tuple[Any, ...]) -> None:
    case = Case(op, geometry)
    case.check(run([case.node], case.feeds)[0])


@pytest.mark.parametrize(
    "name",
    [
        *("padded", "stride 2", "groups", "depthwise", "depthwise, stride 2", "one axis", "few channels, wide rows"),
        *("one point", "one column"),
    ],
)
@pytest.mark.parametrize("width", NARROW)
@EACH_OP
def test_every_width_of_vectors_gives_the_same(op: Any, width: int, name: str) -> None:
    case = Case(op, GEOMETRIES[name])
    case.check(run([case.node], case.feeds, host=host_of(width))[0])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["padded", "stride and dilation", "groups", "one axis", "three axes", "one point"])
@EACH_OP
def test_all_float_dtypes_are_served(op: Any, name: str, dtype: str) -> None:
    case = Case(op, GEOMETRIES[name], dtype)
    case.check(run([case.node], case.feeds)[0])


@pytest.mark.parametrize("name", ["padded", "stride 2", "few channels", "small planes", "no images"])
@EACH_OP
def test_the_batch_may_be_a_symbol(op: Any, name: str) -> None:
    geometry = GEOMETRIES[name]
    case = Case(op, geometry, batch=symbol("n"))
    case.check(run([case.node], case.feeds, n=geometry[0][0])[0])


@EACH_OP
def test_every_size_may_be_a_symbol(op: Any) -> None:
    n, c, h, w, o = (symbol(name) for name in "nchwo")
    shapes = {"x": (n, c, h, w), "w": (o, c, 3, 2), "g": (n, o, h - 2, w - 1)}
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    extra = {"conv_input_grad": {"spatial": (h, w)}, "conv_weight_grad": {"kernel": (3, 2)}}.get(op.name, {})
    places = [gc.placeholder(name, shapes[name]) for name in OPERANDS[op.name]]
    sizes = {"n": 2, "c": 3, "h": 5, "w": 7, "o": 4}
    rng = np.random.default_rng(1)
    numbers = [rng.standard_normal([evaluate(dim, sizes) for dim in place.shape]) for place in places]
    (found,) = run([op(*places, **attrs, **extra)], dict(zip(places, numbers, strict=True)), **sizes)
    bound = {"conv_input_grad": {"spatial": (5, 7)}}.get(op.name, extra)
    np.testing.assert_allclose(found, op.ref(*numbers, **attrs, **bound), atol=1e-5)


@pytest.mark.parametrize(
    "name", ["padded", "stride 2", "groups", "few channels", "small planes", "many channels", "three axes"]
)
@EACH_OP
def test_units_of_work_may_be_divided_at_will(op: Any, name: str) -> None:
    case = Case(op, GEOMETRIES[name])
    whole, divided = (run([case.node], case.feeds, parts=parts)[0] for parts in (1, 7))
    assert np.array_equal(whole, divided)


@pytest.mark.parametrize(
    "name", ["padded", "few channels", "small planes", "one axis", "1x1", "stride 2", "one point", "one column"]
)
@pytest.mark.parametrize("op", [conv_op, conv_input_grad], ids=lambda op: op.name)
def test_pointwise_ops_that_follow_are_computed_in_the_same_kernel(op: Any, name: str) -> None:
    case = Case(op, GEOMETRIES[name])
    bias = gc.placeholder("bias", (case.node.shape[1], *[1] * (case.node.ndim - 2)))
    rest = gc.placeholder("rest", case.node.shape)
    rng = np.random.default_rng(2)
    feeds = {**case.feeds, bias: rng.standard_normal(bias.shape), rest: rng.standard_normal(rest.shape)}
    case.wanted = np.maximum(case.wanted + feeds[bias], 0) + feeds[rest]
    case.check(run([gc.relu(case.node + bias) + rest], feeds)[0])


@pytest.mark.parametrize("name", ["few points", "few points, uneven", "few points, stride 2", "few points of one axis"])
@pytest.mark.parametrize("width", WIDTHS)
@EACH_OP
def test_images_of_a_few_points_serve_all_widths_parts_and_what_follows(op: Any, width: int, name: str) -> None:
    case, host = Case(op, GEOMETRIES[name]), host_of(width)
    rest = gc.placeholder("rest", case.node.shape)
    feeds = {**case.feeds, rest: np.random.default_rng(2).standard_normal(rest.shape)}
    outputs = [gc.relu(case.node * 2.0) + rest, case.node - rest]
    first, second = run(outputs, feeds, host=host)
    again = run(outputs, feeds, host=host, parts=5)
    assert all(np.array_equal(a, b) for a, b in zip((first, second), again, strict=True))
    product = case.wanted
    case.wanted = np.maximum(product * 2, 0) + feeds[rest]
    case.check(first)
    case.wanted = product - feeds[rest]
    case.check(second)


@EACH_OP
def test_operands_may_be_strided_views_or_computed_on_the_way(op: Any) -> None:
    case = Case(op, GEOMETRIES["padded"])
    attrs = dict(case.node.attrs)
    first, second = case.places
    turned = gc.placeholder("turned", tuple(reversed(first.shape)))
    wider = gc.placeholder("wider", (*second.shape[:-1], 2 * second.shape[-1]))
    one, two = case.feeds.values()
    feeds = {turned: one.T, wider: np.repeat(two, 2, axis=-1)}
    case.check(run([op(gc.transpose(turned, (3, 2, 1, 0)), wider[..., ::2], **attrs)], feeds)[0])
    case.check(run([op(first * 2.0, second * 0.5, **attrs)], case.feeds)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["padded", "stride 2", "small planes"])
def test_what_is_not_finite_reaches_the_windows_that_meet_it_alone(name: str, value: float) -> None:
    case = Case(conv_op, GEOMETRIES[name])
    x, w = case.feeds.values()
    x[0, 0, 1, 1] = value
    wanted = conv_op.ref(x, w, **dict(case.node.attrs))
    (found,) = run([case.node], case.feeds)
    assert np.array_equal(np.isfinite(found), np.isfinite(wanted))


@pytest.mark.parametrize("name", ["padded", "stride 2", "three axes", "whole tiles"])
@EACH_OP
def test_code_for_other_machines_can_be_made(op: Any, name: str) -> None:
    assert assemble(Case(op, {**GEOMETRIES, **TRANSFORMED}[name]).node) >= 1


# Geometries for which transforms are chosen: uneven tiles, blocks of lines or of images, few tiles and many weights.
TRANSFORMED: Mapping[str, tuple[Any, ...]] = {
    "whole tiles": ((2, 16, 8, 8), (32, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "uneven padding": ((20, 16, 4, 4), (33, 16, 3, 3), (1, 1), ((0, 1), (2, 1)), (1, 1), 1),
    "uneven sizes": ((2, 17, 21, 18), (20, 17, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "rows of tiles": ((1, 32, 18, 130), (40, 32, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "many weights": ((1, 140, 14, 14), (150, 140, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "wide padding": ((1, 40, 14, 14), (130, 40, 3, 3), (1, 1), ((3, 3), (4, 4)), (1, 1), 1),
}
EACH_TRANSFORMED = pytest.mark.parametrize("geometry", TRANSFORMED.values(), ids=list(TRANSFORMED))


@EACH_TRANSFORMED
@EACH_OP
def test_transforms_compute_convolutions_of_stride_1(op: Any, geometry: tuple[Any, ...]) -> None:
    case = Case(op, geometry)
    fast, exact = (run([case.node], case.feeds, cores=cores)[0] for cores in (CORES, EXACT_CORES))
    assert not np.array_equal(fast, exact)  # they were chosen
    case.check(fast)
    case.check(exact)


@pytest.mark.parametrize("name", ["uneven padding", "many weights"])
@pytest.mark.parametrize("width", NARROW)
@EACH_OP
def test_transforms_give_the_same_for_every_width(op: Any, width: int, name: str) -> None:
    case = Case(op, TRANSFORMED[name])
    case.check(run([case.node], case.feeds, host=host_of(width))[0])


@pytest.mark.parametrize("name", ["whole tiles", "uneven sizes", "many weights"])
@pytest.mark.parametrize("images", [0, 5])
@EACH_OP
def test_transforms_serve_a_symbolic_batch(op: Any, name: str, images: int) -> None:
    x, *rest = TRANSFORMED[name]
    case = Case(op, ((images, *x[1:]), *rest), batch=symbol("n"))
    case.check(run([case.node], case.feeds, n=images)[0])


@pytest.mark.parametrize("name", ["uneven sizes", "many weights"])
@EACH_OP
def test_transforms_may_be_divided_and_followed_by_pointwise_ops(op: Any, name: str) -> None:
    case = Case(op, TRANSFORMED[name])
    rest = gc.placeholder("rest", case.node.shape)
    feeds = {**case.feeds, rest: np.random.default_rng(3).standard_normal(rest.shape)}
    outputs = [gc.relu(case.node * 2.0) + rest]
    whole, divided = (run(outputs, feeds, parts=parts)[0] for parts in (1, 5))
    assert np.array_equal(whole, divided)
    case.wanted = np.maximum(case.wanted * 2, 0) + feeds[rest]
    case.check(whole)


@pytest.mark.parametrize("name", [*TRANSFORMED, *(name for name in GEOMETRIES if not name.startswith("no "))])
@pytest.mark.parametrize("op", [conv_op, conv_input_grad], ids=lambda op: op.name)
def test_steady_weights_give_the_same_as_others(op: Any, name: str) -> None:
    geometry = {**GEOMETRIES, **TRANSFORMED}[name]
    moving, steady = Case(op, geometry), Case(op, geometry, steady=True)
    steady.check(run([steady.node], steady.feeds)[0])
    whole, divided = (run([steady.node], steady.feeds, parts=parts)[0] for parts in (1, 3))
    assert np.array_equal(whole, divided)
    exact = [run([case.node], case.feeds, cores=EXACT_CORES)[0] for case in (moving, steady)]
    np.testing.assert_allclose(*exact, rtol=1e-4, atol=1e-4)


WRITTEN_OUT: Mapping[str, tuple[Any, ...]] = {
    "whole lines": ((3, 5, 7, 7), (16, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "parts of lines": ((1, 40, 21, 33), (48, 40, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "stride 2": ((2, 30, 14, 15), (33, 30, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "stride and dilation": ((2, 3, 15, 17), (16, 3, 3, 2), (2, 3), ((2, 1), (1, 3)), (2, 1), 1),
    "padded by more than the kernel": ((1, 3, 5, 4), (16, 3, 2, 2), (1, 1), ((4, 4), (0, 3)), (1, 1), 1),
    "groups": ((2, 6, 9, 9), (32, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "one axis": ((2, 6, 140), (30, 6, 5), (2,), ((2, 2),), (1,), 1),
    "lines of many taps": ((1, 3, 23, 90), (36, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "many taps and padding": ((2, 2, 5, 40), (16, 2, 4, 5), (1, 1), ((6, 5), (1, 7)), (2, 1), 1),
    "nothing but padding": ((1, 3, 1, 2), (16, 3, 3, 3), (1, 1), ((3, 3), (3, 3)), (1, 1), 1),
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_taps_that_are_written_out_give_the_same_for_every_division(name: str, width: int) -> None:
    case = Case(conv_op, WRITTEN_OUT[name], batch=symbol("n"), steady=True)
    count = len(case.feeds[case.places[0]])
    whole, divided = (
        run([case.node], case.feeds, parts=parts, cores=EXACT_CORES, host=host_of(width), n=count)[0]
        for parts in (1, 3)
    )
    assert np.array_equal(whole, divided)
    case.check(whole)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_taps_that_are_written_out_give_the_same_where_channels_are_stored_last(name: str, width: int) -> None:
    case = Case(conv_op, WRITTEN_OUT[name], batch=symbol("n"), steady=True)
    count = len(case.feeds[case.places[0]])
    last = gc.transpose(gc.maximum(case.node, 0.0), (0, *range(2, case.node.ndim), 1))
    whole, divided = (
        run([last], case.feeds, parts=parts, cores=EXACT_CORES, host=host_of(width), n=count)[0] for parts in (1, 3)
    )
    assert np.array_equal(whole, divided)
    case.wanted = np.maximum(case.wanted, 0)
    case.check(np.moveaxis(whole, -1, 1))


@pytest.mark.parametrize("name", ["lines of many taps", "parts of lines"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_where_results_go_is_asked_for_when_no_channels_follow(name: str, dtype: str) -> None:
    case = Case(conv_op, WRITTEN_OUT[name], steady=True)
    last = gc.transpose(gc.cast(case.node, dtype), (0, 2, 3, 1))
    (step,) = plan_kernels(prepared([last], info=INFO), INFO).steps
    assembly = native(step.kernel, host_of(32), EXACT_CORES, step.steady).assembly
    symbols = {symbol for symbol in called(assembly) if symbol.startswith("taps.")}
    asked = {
        hint
        for symbol in symbols
        for hint in re.findall(r"i32 (\d), i32 \d, i32 1\)", conv_taps.library(host_of(32), symbol))
    }
    assert symbols and asked == ({"0", "1"} if (name, dtype) == ("lines of many taps", "float32") else {"0"})


def test_taps_that_are_written_out_meet_nothing_outside_of_the_source() -> None:
    case = Case(conv_op, WRITTEN_OUT["whole lines"])
    x, w = case.feeds.values()
    w[..., 0, 0] = np.inf  # times a zero of the padding, it would be no number
    node = conv_op(case.places[0], gc.constant(w.astype(np.float32)), **dict(case.node.attrs))
    found = run([node], {case.places[0]: np.ones_like(x)}, cores=EXACT_CORES)[0]
    assert np.isfinite(found[:, :, 0]).all() and np.isfinite(found[:, :, :, 0]).all()
    assert np.isposinf(found[:, :, 1:, 1:]).all()


@pytest.mark.parametrize("by_panels", [False, True], ids=["blocks", "panels"])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=[each.name for each in TRANSFORMS])
@pytest.mark.parametrize("name", [*TRANSFORMED, "tiny"])
def test_tiles_of_all_sizes_give_the_same(
    name: str, transform: Transform, by_panels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_winograd_channels, "UNITS", 1 << 20 if by_panels else 0)
    monkeypatch.setattr(conv_winograd_channels, "LARGE", 1 << 40)
    tiny = ((3, 16, 3, 2), (18, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    case = Case(conv_op, {**TRANSFORMED, "tiny": tiny}[name], batch=symbol("n"), steady=True)

    def core(code: KernelCode) -> bool:
        assert code.kernel.core is not None
        conv_winograd_channels.winograd(transform, code, described(code.kernel.core))
        return True

    x = case.feeds[case.places[0]]
    rest = gc.placeholder("rest", case.node.shape)
    feeds = {case.places[0]: x, rest: np.random.default_rng(3).standard_normal(case.wanted.shape)}
    case.wanted = np.maximum(case.wanted * 2, 0) + feeds[rest]
    for width in WIDTHS:
        outputs, host = [gc.relu(case.node * 2.0) + rest], host_of(width)
        whole, divided = (run(outputs, feeds, parts=k, cores={conv_op: core}, host=host, n=len(x))[0] for k in (1, 3))
        assert np.array_equal(whole, divided)
        case.check(whole)


@pytest.mark.parametrize("name", ["many weights", "tiny"])
def test_weights_that_come_from_memory_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ((3, 16, 3, 2), (18, 16, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    case, symbols = Case(conv_op, {**TRANSFORMED, "tiny": tiny}[name], steady=True), []

    def core(code: KernelCode) -> bool:
        assert code.kernel.core is not None
        conv_winograd_channels.winograd(FOUR, code, described(code.kernel.core))
        symbols.append(re.findall(r"@outer[\w.]*", code.module.text()))
        return True

    for width in WIDTHS:
        found = []
        for most in (1 << 40, 0):
            monkeypatch.setattr(conv_winograd_channels, "LARGE", most)
            found.append(run([case.node], case.feeds, cores={conv_op: core}, host=host_of(width))[0])
        assert np.array_equal(*found)
        case.check(found[0])
    modes = [first.split(".")[3].split("_") for first, *_ in symbols]
    asked = [(fetches, lines != "0") for _, fetches, _, lines in modes]
    assert asked == [("far", False), ("second", True)] * len(WIDTHS)


@pytest.mark.parametrize(("channels", "size", "tiles"), [(512, 14, "2x2"), (256, 14, "4x2"), (128, 28, "4x4")])
def test_small_images_with_many_weights_take_small_tiles(channels: int, size: int, tiles: str) -> None:
    shapes = (1, channels, size, size), (channels, channels, 3, 3)
    case = Case(conv_op, (*shapes, (1, 1), ((1, 1), (1, 1)), (1, 1), 1), steady=True)
    (step,) = plan_kernels(prepared([case.node], info=INFO), INFO).steps
    assert native(step.kernel, HOSTS["avx512"], steady=step.steady).notes[0].startswith(f"winograd {tiles}")


def test_steady_weights_may_be_computed_on_the_way() -> None:
    case = Case(conv_op, TRANSFORMED["many weights"], steady=True)
    x, w = case.places
    case.wanted = case.wanted * 0.5
    doubled = conv_op(x, w.astype("float64").astype("float32") * 0.5, **dict(case.node.attrs))
    case.check(run([doubled], case.feeds)[0])


def test_an_operand_of_a_transform_may_be_a_view() -> None:
    case = Case(conv_op, TRANSFORMED["whole tiles"])
    first, second = case.places
    turned, channels_last = (
        gc.placeholder(name, tuple(reversed(p.shape))) for name, p in zip("ab", case.places, strict=True)
    )
    feeds = {turned: case.feeds[first].T, channels_last: case.feeds[second].T}
    operands = [gc.transpose(node, (3, 2, 1, 0)) for node in (turned, channels_last)]
    case.check(run([conv_op(*operands, **dict(case.node.attrs))], feeds)[0])
