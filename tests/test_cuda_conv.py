"""Convolutions and their gradients as CUDA C: they are NumPy's, for every geometry, dtype and way to compute them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.dims import evaluate, symbol
from graphc.ops.conv import conv_input_grad, conv_op, conv_weight_grad
from graphc.runtime.cuda import products
from graphc.runtime.cuda.kernels import INFO
from graphc.runtime.cuda.launches import Precision
from graphc.types import np_dtype
from tests.cuda_cores import Case, kernels_of, made, run, run_all
from tests.cuda_host import needs_compiler
from tests.test_cpu_conv import GEOMETRIES, OPERANDS, TOLERANCE
from tests.test_cpu_conv import Case as Convolution

OPS = (conv_op, conv_input_grad, conv_weight_grad)
EACH_OP = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)

pytestmark = needs_compiler


def case_of(convolution: Convolution, precision: Precision = "float32", **sizes: int) -> Case:
    """A convolution to be run, with its operands in the dtypes of their places."""
    feeds = {place: array.astype(np_dtype(place.dtype)) for place, array in convolution.feeds.items()}
    return Case([convolution.node], feeds, precision=precision, info=INFO, **sizes)


def check(convolutions: list[Convolution], **sizes: int) -> None:
    """Run convolutions, and compare."""
    cases = [case_of(convolution, **sizes) for convolution in convolutions]
    run_all(cases)
    for convolution, case in zip(convolutions, cases, strict=True):
        convolution.check(case.found[0])


@EACH_OP
def test_all_geometries(op: Any) -> None:
    check([Convolution(op, geometry) for geometry in GEOMETRIES.values()])


@EACH_OP
def test_all_dtypes(op: Any) -> None:
    names = ("padded", "stride and dilation", "groups", "one axis", "three axes")
    check([Convolution(op, GEOMETRIES[name], dtype) for name in names for dtype in ("float64", "float16", "bfloat16")])


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@EACH_OP
def test_operands_are_rounded_on_request(op: Any, precision: Precision) -> None:
    convolution = Convolution(op, GEOMETRIES["small planes"])
    case = case_of(convolution, precision)
    run_all([case])
    assert "on tensor cores" in " ".join(case.kernels[0].notes)
    off = np.abs(case.found[0] - convolution.wanted).max() / np.sqrt((convolution.wanted**2).mean())
    assert 1e-5 < off < (4e-3 if precision == "tf32" else 3e-2)


@pytest.mark.parametrize("way", ["by_tiles", "by_columns", "by_teams"])
@EACH_OP
def test_every_way_to_compute_gives_the_same(op: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("padded", "stride 2", "groups", "depthwise", "one axis", "three axes", "no images")
    monkeypatch.setattr("graphc.runtime.cuda.conv._algorithm", lambda problem: getattr(products, way))
    made.cache_clear()
    check([Convolution(op, GEOMETRIES[name]) for name in names])
    made.cache_clear()


# As `GEOMETRIES`, with so many channels that slabs of tiles have one tap each.
IN_SLABS = (
    ((2, 32, 5, 6), (32, 32, 3, 3), (1, 1), ((1, 1), (2, 0)), (1, 1), 1),
    ((2, 64, 7, 5), (64, 32, 3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 2),
    ((1, 32, 9, 4), (32, 32, 3, 2), (3, 2), ((0, 0), (0, 0)), (1, 1), 1),
    ((3, 64, 6), (32, 64, 1), (1,), ((0, 0),), (1,), 1),
    ((1, 32, 3, 4, 2), (32, 32, 2, 3, 2), (1, 2, 1), ((0, 1), (1, 1), (1, 1)), (1, 1, 1), 1),
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", [conv_op, conv_input_grad], ids=lambda op: op.name)
def test_slabs_of_one_tap(op: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.runtime.cuda.conv._algorithm", lambda problem: products.by_tiles)
    made.cache_clear()
    convolutions = [Convolution(op, geometry, dtype) for geometry in IN_SLABS]
    check(convolutions)
    for convolution in convolutions:
        (kernel,) = kernels_of(convolution.node, info=INFO)
        assert "weight arranged" in kernel.notes
    made.cache_clear()


# A window of one point meets all of x as it lies, so accesses may be of 16 bytes; the last has 9 points to a channel.
POINTS = (
    ((3, 16, 4, 6), (24, 16, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 32, 8), (48, 16, 1), (1,), ((0, 0),), (1,), 2),
    ((1, 12, 2, 4, 2), (20, 12, 1, 1, 1), (1, 1, 1), ((0, 0), (0, 0), (0, 0)), (1, 1, 1), 1),
    ((2, 64, 4, 4), (32, 64, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((3, 16, 3, 3), (24, 16, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
)


@pytest.mark.parametrize(("dtype", "count"), [("float32", 4), ("float64", 2), ("bfloat16", 8)])
@EACH_OP
def test_convolutions_of_points_are_read_by_16_bytes(
    op: Any, dtype: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphc.runtime.cuda.conv._algorithm", lambda problem: products.by_tiles)
    made.cache_clear()
    convolutions = [Convolution(op, geometry, dtype) for geometry in POINTS]
    check(convolutions)
    sources = [kernels_of(convolution.node, info=INFO)[0].source for convolution in convolutions]
    packs = [re.findall(r"= (?:lines|slabbed|spotted)<\w+, (\d+)>", source) for source in sources]
    assert packs[0] == packs[1] == packs[3] == [str(count)] * 2
    assert packs[4] == (["1", "1"] if op is conv_weight_grad else [str(count), "1"])
    made.cache_clear()


@EACH_OP
def test_the_batch_may_be_a_symbol(op: Any) -> None:
    for name in ("padded", "stride 2", "small planes", "no images"):
        geometry = GEOMETRIES[name]
        check([Convolution(op, geometry, batch=symbol("n"))], n=geometry[0][0])


@EACH_OP
def test_every_size_may_be_a_symbol(op: Any) -> None:
    n, c, h, w, o = (symbol(name) for name in "nchwo")
    shapes = {"x": (n, c, h, w), "w": (o, c, 3, 2), "g": (n, o, h - 2, w - 1)}
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    extra = {"conv_input_grad": {"spatial": (h, w)}, "conv_weight_grad": {"kernel": (3, 2)}}.get(op.name, {})
    places = [gc.placeholder(name, shapes[name]) for name in OPERANDS[op.name]]
    sizes = {"n": 2, "c": 3, "h": 5, "w": 7, "o": 4}
    rng = np.random.default_rng(1)
    numbers = [rng.standard_normal([evaluate(d, sizes) for d in place.shape]).astype(np.float32) for place in places]
    (found,) = run([op(*places, **attrs, **extra)], dict(zip(places, numbers, strict=True)), info=INFO, **sizes)
    bound = {"conv_input_grad": {"spatial": (5, 7)}}.get(op.name, extra)
    wanted = op.ref(*[array.astype(np.float64) for array in numbers], **attrs, **bound)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["padded", "stride 2", "small planes", "one axis"])
@pytest.mark.parametrize("op", [conv_op, conv_input_grad], ids=lambda op: op.name)
def test_what_follows_is_computed_in_the_same_launch(op: Any, name: str) -> None:
    convolution = Convolution(op, GEOMETRIES[name])
    channels = convolution.node.shape[1]
    bias = gc.placeholder("bias", (channels,))
    shape = (1, channels, *[1] * (convolution.node.ndim - 2))
    output = gc.relu(convolution.node + gc.reshape(bias, shape))
    feeds = {place: array.astype(np.float32) for place, array in convolution.feeds.items()}
    feeds[bias] = np.linspace(-1, 1, channels).astype(np.float32)
    (kernel,) = kernels_of(output, info=INFO)
    assert len(kernel.launches) == len(kernels_of(convolution.node, info=INFO)[0].launches)
    (found,) = run([output], feeds, info=INFO)
    wanted = np.maximum(convolution.wanted + feeds[bias].reshape(shape), 0)
    assert np.abs(found - wanted).max() <= TOLERANCE["float32"] * 10


def test_views_are_read_where_they_are() -> None:
    rng = np.random.default_rng(0)
    x, w = gc.placeholder("x", (2, 9, 7, 3)), gc.placeholder("w", (3, 2, 3, 4))
    feeds = {place: rng.standard_normal(place.shape).astype(np.float32) for place in (x, w)}
    output = gc.conv2d(gc.transpose(x, (0, 3, 1, 2)), gc.transpose(w, (3, 0, 1, 2)), padding=1)
    assert len(kernels_of(output, info=INFO)) == 1
    (found,) = run([output], feeds, info=INFO)
    geometry = dict(stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
    a, b = feeds[x].transpose(0, 3, 1, 2).astype(np.float64), feeds[w].transpose(3, 0, 1, 2).astype(np.float64)
    np.testing.assert_allclose(found, conv_op.ref(a, b, **geometry), atol=1e-5)


def test_few_channels_and_few_results_do_without_tiles() -> None:
    x, w = gc.placeholder("x", (8, 32, 20, 20)), gc.placeholder("w", (32, 1, 3, 3))
    depthwise = gc.conv2d(x, w, padding=1, groups=32)
    assert kernels_of(depthwise, info=INFO)[0].notes == (
        "1 results a thread",
        "not by cudnn, which isn't there",
    )
    (gradient,) = gc.gradients(gc.sum(depthwise * depthwise), [w])
    assert "teams of 32 threads for a result" in kernels_of(gradient, info=INFO)[-1].notes


def test_strides_are_never_walked_in_vain() -> None:
    x, w = gc.placeholder("x", (2, 16, 9, 9)), gc.placeholder("w", (20, 16, 3, 3))
    (gradient,) = gc.gradients(gc.sum(gc.conv2d(x, w, stride=2, padding=1)), [x])
    assert len(kernels_of(gradient, info=INFO)[-1].launches) == 4  # each of 2 x 2 classes meets its own taps


@EACH_OP
def test_counters_of_64_bits(op: Any) -> None:
    convolutions = [Convolution(op, geometry) for geometry in (GEOMETRIES["stride 2"], IN_SLABS[1])]
    cases = [case_of(convolution) for convolution in convolutions]
    run_all(cases, wide=True)
    for convolution, case in zip(convolutions, cases, strict=True):
        convolution.check(case.found[0])
