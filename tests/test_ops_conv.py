"""Convolutions and pooling: torch's arguments, sizes and conventions, symbolic sizes, and the messages."""

import numpy as np
import pytest
from numpy_testing import check, guards, leaf, numbers, run

from graphc.dims import parse_dim, symbol
from graphc.errors import ArgumentError, ShapeError
from graphc.operands import parameter
from graphc.ops import conv as conv_module
from graphc.ops.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from graphc.ops.pooling import (
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])


def tensor(*dims, dtype="float32", index=0):
    shape = tuple(parse_dim(dim) if isinstance(dim, str) else dim for dim in dims)
    return parameter(index, TensorType(dtype, shape))


def correlated(x, w, stride, pads, dilation, groups):
    """The definition of a convolution, one result at a time."""
    x = np.pad(x, ((0, 0), (0, 0), *pads))
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    counts = [(n - s) // step + 1 for n, s, step in zip(x.shape[2:], spans, stride, strict=True)]
    y = np.zeros((x.shape[0], w.shape[0], *counts))
    inputs, outputs = w.shape[1], w.shape[0] // groups
    for n, o, *place in np.ndindex(y.shape):
        first = o // outputs * inputs
        starts = [p * step for p, step in zip(place, stride, strict=True)]
        window = tuple(slice(s, s + span, d) for s, span, d in zip(starts, spans, dilation, strict=True))
        y[(n, o, *place)] = np.sum(x[(n, slice(first, first + inputs), *window)] * w[o])
    return y


# --- convolutions

CONVOLUTIONS = [
    (conv1d, (2, 3, 9), (4, 3, 3), {}),
    (conv1d, (1, 2, 9), (2, 2, 2), {"stride": 3, "padding": 1, "dilation": 2}),
    (conv2d, (2, 3, 6, 7), (4, 3, 3, 2), {}),
    (conv2d, (2, 3, 6, 7), (4, 3, 3, 2), {"stride": (2, 3), "padding": (1, 0)}),
    (conv2d, (1, 2, 8, 9), (3, 2, 3, 3), {"dilation": (2, 3)}),
    (conv2d, (1, 2, 5, 5), (3, 2, 3, 3), {"padding": ((2, 0), (0, 1))}),
    (conv2d, (2, 6, 5, 5), (9, 2, 3, 3), {"groups": 3, "padding": 1}),
    (conv2d, (2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
    (conv2d, (2, 3, 4, 4), (5, 3, 1, 1), {}),
    (conv3d, (1, 2, 4, 5, 3), (3, 2, 2, 3, 1), {"padding": 1, "stride": (1, 2, 1)}),
]


def spelled_out(x, w, stride=1, padding=0, dilation=1, groups=1):
    count = x.ndim - 2
    steps, spread = (v if isinstance(v, tuple) else (v,) * count for v in (stride, dilation))
    padding = padding if isinstance(padding, tuple) else (padding,) * count
    pads = [p if isinstance(p, tuple) else (p, p) for p in padding]
    return steps, pads, spread, groups


@pytest.mark.parametrize(("fn", "x", "w", "options"), CONVOLUTIONS)
def test_a_convolution_slides_the_kernel_over_the_input(fn, x, w, options):
    x, w, bias = numbers(*x, dtype="float64"), numbers(*w, dtype="float64"), numbers(w[0], dtype="float64")
    wanted = correlated(x, w, *spelled_out(x, w, **options))
    assert np.array_equal(run(lambda x, w: fn(x, w, **options), x, w), wanted)
    biased = wanted + bias.reshape(-1, *(1,) * (x.ndim - 2))
    assert np.array_equal(run(lambda x, w, b: fn(x, w, b, **options), x, w, bias), biased)


def test_the_reference_works_in_blocks_of_the_batch(monkeypatch):
    x, w, g = numbers(5, 2, 4, 4), numbers(3, 2, 3, 3), numbers(5, 3, 4, 4)

    def all_three():
        y = conv2d(leaf(x), leaf(w, index=1), padding=1)
        grads = gradients(y, [leaf(x), leaf(w, index=1)], leaf(g, index=2))
        return run(lambda *_: (y, *grads), x, w, g)

    whole = all_three()
    monkeypatch.setattr(conv_module, "BLOCK", 2 * 2 * 9 * 16)  # two samples
    for a, b in zip(whole, all_three(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (2, 1), (4, 1), (3, 2), (1, 1)])
def test_same_padding_keeps_the_size_and_puts_the_odd_zero_behind(kernel, dilation):
    x, w = numbers(1, 1, 7), numbers(1, 1, kernel)
    total = dilation * (kernel - 1)
    check(
        lambda x, w: conv1d(x, w, padding="same", dilation=dilation),
        lambda x, w: conv_reference(x, w, (total // 2, total - total // 2), dilation),
        x,
        w,
    )


def conv_reference(x, w, pad, dilation):
    return correlated(x, w, (1,), [pad], (dilation,), 1).astype(x.dtype)


def test_valid_padding_is_none():
    x, w = tensor(1, 1, 7, 7), tensor(1, 1, 3, 3, index=1)
    assert conv2d(x, w, padding="valid") is conv2d(x, w)


def test_options_may_go_by_position_in_torchs_order():
    x, w = tensor(1, 4, 9, 9), tensor(4, 2, 3, 3, index=1)
    assert conv2d(x, w, None, 2, 1, 1, 2) is conv2d(x, w, stride=2, padding=1, dilation=1, groups=2)
    up = conv_transpose2d(x, w, None, 2, 1, 1, 2, 1)
    assert up is conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, groups=2, dilation=1)


def test_operands_of_a_convolution_meet_in_one_dtype():
    x, w = tensor(1, 1, 4, 4, dtype="float16"), tensor(1, 1, 3, 3, index=1)
    assert conv2d(x, w, tensor(1, dtype="float64", index=2)).dtype == "float64"
    assert conv2d(tensor(1, 1, 4, 4, dtype="uint8"), w).dtype == "float32"


def test_symbolic_sizes_go_through_a_convolution():
    w = tensor(8, 3, 3, 3, index=1)
    y = conv2d(tensor("n", 3, "h", "w"), w, stride=2, padding=1)
    assert str(y.type) == "float32[n, 8, (h + 1)//2, (w + 1)//2]"
    assert guards(y) == ["h + 2 >= 3", "w + 2 >= 3"]
    assert str(conv2d(tensor("n", 3, "h", "w"), w, padding="same").type) == "float32[n, 8, h, w]"
    assert guards(conv2d(tensor("n", "c", 8, 8), w)) == ["c == 3"]


@pytest.mark.parametrize(
    ("x", "w", "bias", "options", "error", "message"),
    [
        ((1, 3, 9), (4, 3, 3, 3), None, {}, ShapeError, r"input must be \[batch, channels, height, width\], got"),
        ((1, 3, 9, 9), (4, 3, 3), None, {}, ShapeError, r"conv2d: the weight must be"),
        ((1, 4, 9, 9), (4, 3, 3, 3), None, {}, ShapeError, r"channels of float32\[1, 4, 9, 9\] .*: 4 and 3 differ"),
        ((1, 4, 9, 9), (3, 2, 3, 3), None, {"groups": 2}, ShapeError, "output channels must divide by groups=2"),
        ((1, 3, 2, 9), (4, 3, 5, 5), None, {"padding": 1}, ShapeError, "must fit the padded size: 4 is less than 5"),
        ((1, 3, 9, 9), (4, 3, 3, 3), (3,), {}, ShapeError, r"bias must be \[4\], one for each output channel, got"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"stride": (1, 2, 3)}, ArgumentError, r"an int or 2 ints that are >= 1"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"stride": 0}, ArgumentError, r"stride must be .* >= 1, got 0"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"padding": -1}, ArgumentError, r"padding must be .* >= 0, got -1"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"padding": ((1, 1),)}, ArgumentError, "1 pairs for 2 spatial axes"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"padding": "full"}, ArgumentError, "padding must be .*, got 'full'"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"padding": "same", "stride": 2}, ArgumentError, "'same' needs stride=1"),
        ((1, 3, 9, 9), (4, 3, 3, 3), None, {"dilation": 1.5}, ArgumentError, "dilation must be an int"),
    ],
)
def test_a_convolution_explains_what_is_wrong(x, w, bias, options, error, message):
    operands = [tensor(*shape, index=k) for k, shape in enumerate((x, w, bias)) if shape is not None]
    with pytest.raises(error, match=message):
        conv2d(*operands, **options)


# --- transposed convolutions

TRANSPOSED = [
    (conv_transpose1d, conv1d, (2, 3, 4), (3, 2, 3), {"stride": 2}),
    (conv_transpose2d, conv2d, (2, 3, 4, 5), (3, 2, 3, 2), {}),
    (conv_transpose2d, conv2d, (1, 2, 3, 3), (2, 3, 4, 4), {"stride": 2, "padding": 1}),
    (conv_transpose2d, conv2d, (1, 4, 3, 3), (4, 2, 2, 2), {"groups": 2, "dilation": 2}),
    (conv_transpose3d, conv3d, (1, 2, 2, 3, 2), (2, 1, 2, 2, 2), {"padding": ((1, 0), (0, 0), (0, 1))}),
]


@pytest.mark.parametrize(("fn", "adjoint", "x", "w", "options"), TRANSPOSED)
def test_a_transposed_convolution_is_the_gradient_of_the_convolution(fn, adjoint, x, w, options):
    y = fn(tensor(*x), tensor(*w, index=1), **options)
    image = tensor(*y.shape, index=2)
    (pulled,) = gradients(adjoint(image, tensor(*w, index=1), **options), image, tensor(*x))
    operands = {tensor(*x): numbers(*x), tensor(*w, index=1): numbers(*w), image: numbers(*y.shape)}
    got, wanted = run(lambda *_: (y, pulled), *operands.values())
    assert np.array_equal(got, wanted)


def test_output_padding_chooses_among_the_sizes_that_a_stride_merges():
    x, w = tensor(1, 1, 3, 3), tensor(1, 1, 3, 3, index=1)
    sizes = [conv_transpose2d(x, w, stride=2, padding=1, output_padding=extra).shape[2] for extra in (0, 1)]
    assert sizes == [5, 6]
    assert all(conv2d(tensor(1, 1, n, n), w, stride=2, padding=1).shape[2] == 3 for n in sizes)
    with pytest.raises(ArgumentError, match=r"output_padding \(2, 2\) must be smaller than stride \(2, 2\)"):
        conv_transpose2d(x, w, stride=2, output_padding=2)


def test_a_transposed_convolution_doubles_symbolic_sizes():
    y = conv_transpose2d(tensor("n", 3, "h", "w"), tensor(3, 8, 4, 4, index=1), stride=2, padding=1)
    assert str(y.type) == "float32[n, 8, 2*h, 2*w]"
    assert guards(y) == []


def test_the_bias_of_a_transposed_convolution_is_one_for_each_output_channel():
    x, w = tensor(1, 4, 3, 3), tensor(4, 3, 2, 2, index=1)
    assert conv_transpose2d(x, w, tensor(6, index=2), groups=2).shape == (1, 6, 4, 4)
    with pytest.raises(ShapeError, match=r"conv_transpose2d: the bias must be \[6\]"):
        conv_transpose2d(x, w, tensor(3, index=2), groups=2)


# --- pooling


def pooled(x, combine, kernel, stride, pad, dilation=1, ceil_mode=False):
    """torch's pooling of the last axes with square windows; `combine(values, with_padding)` of one window."""
    span = dilation * (kernel - 1) + 1
    free = [n + 2 * pad - span for n in x.shape[2:]]
    counts = [-(-f // stride) + 1 if ceil_mode else f // stride + 1 for f in free]
    counts = [c - 1 if (c - 1) * stride >= n + pad else c for c, n in zip(counts, x.shape[2:], strict=True)]
    y = np.zeros((*x.shape[:2], *counts))
    for n, c, *place in np.ndindex(y.shape):
        taps = [[p * stride - pad + j * dilation for j in range(kernel)] for p in place]
        inside = [[t for t in tap if 0 <= t < size] for tap, size in zip(taps, x.shape[2:], strict=True)]
        padded = [[t for t in tap if t < size + pad] for tap, size in zip(taps, x.shape[2:], strict=True)]
        y[(n, c, *place)] = combine(x[n, c][np.ix_(*inside)], int(np.prod([len(p) for p in padded])))
    return y


GEOMETRIES = [
    dict(kernel=2, stride=2, pad=0),
    dict(kernel=3, stride=2, pad=1),
    dict(kernel=3, stride=1, pad=1, ceil_mode=True),
    dict(kernel=2, stride=3, pad=0, ceil_mode=True),
    dict(kernel=2, stride=3, pad=1, ceil_mode=True),
    dict(kernel=3, stride=2, pad=1, ceil_mode=True),
    dict(kernel=3, stride=3, pad=0, ceil_mode=True),
    dict(kernel=1, stride=2, pad=0, ceil_mode=True),
]
EACH_GEOMETRY = pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: "-".join(map(str, g.values())))


@EACH_SIZE
@EACH_GEOMETRY
@pytest.mark.parametrize("dilation", [1, 2])
def test_max_pooling_is_torchs(g, dilation, symbolic):
    x = numbers(2, 3, 7, 8)
    check(
        lambda x: max_pool2d(x, g["kernel"], g["stride"], g["pad"], dilation, g.get("ceil_mode", False)),
        lambda x: pooled(x, lambda values, _: values.max(), **g, dilation=dilation).astype("float32"),
        x,
        symbolic=symbolic,
    )


@EACH_SIZE
@EACH_GEOMETRY
@pytest.mark.parametrize("include", [True, False])
def test_average_pooling_is_torchs(g, include, symbolic):
    x = numbers(2, 3, 7, 8, dtype="float64")
    got = run(
        lambda x: avg_pool2d(x, g["kernel"], g["stride"], g["pad"], g.get("ceil_mode", False), include),
        x,
        symbolic=symbolic,
    )
    wanted = pooled(x, lambda values, counted: values.sum() / (counted if include else values.size), **g)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("fn", "shape"),
    [(max_pool1d, (1, 2, 6)), (avg_pool1d, (1, 2, 6)), (max_pool3d, (1, 2, 4, 2, 6)), (avg_pool3d, (1, 2, 4, 2, 6))],
)
def test_pooling_of_one_and_three_axes_takes_windows_that_do_not_overlap(fn, shape):
    x = numbers(*shape, dtype="float64")
    halves = x.reshape(1, 2, *[part for size in shape[2:] for part in (size // 2, 2)])
    within = tuple(range(3, halves.ndim, 2))
    wanted = halves.max(within) if fn in (max_pool1d, max_pool3d) else halves.mean(within)
    np.testing.assert_allclose(run(lambda x: fn(x, 2), x), wanted)


def test_padding_is_never_a_maximum():
    x = np.full((1, 1, 2, 2), -5.0, "float32")
    assert np.array_equal(run(lambda x: max_pool2d(x, 3, 2, 1), x), [[[[-5]]]])
    small = np.full((1, 1, 2, 2), -128, "int8")
    assert np.array_equal(run(lambda x: max_pool2d(x, 2, 1, 1), small), np.full((1, 1, 3, 3), -128))


def test_a_nan_wins_its_windows_only():
    x = numbers(1, 1, 4, 4)
    x[0, 0, 0, 1] = np.nan
    y, indices = run(lambda x: max_pool2d(x, 2, return_indices=True), x)
    assert np.array_equal(np.isnan(y), [[[[True, False], [False, False]]]])
    assert indices[0, 0, 0, 0] == 1


def test_indices_count_over_the_plane_and_name_the_first_maximum():
    x = np.zeros((1, 2, 3, 4), "float32")
    x[0, 1, 1, 2] = 1
    _, indices = run(lambda x: max_pool2d(x, (3, 2), return_indices=True), x)
    assert indices.dtype == "int64"
    assert np.array_equal(indices, [[[[0, 2]], [[0, 6]]]])


def test_minus_infinity_everywhere_still_has_a_place():
    x = np.full((1, 1, 2, 2), -np.inf, "float32")
    y, indices = run(lambda x: max_pool2d(x, 2, 1, 1, return_indices=True), x)
    assert np.all(y == -np.inf)
    assert np.array_equal(indices, [[[[0, 0, 1], [0, 0, 1], [2, 2, 3]]]])


def test_the_first_of_equal_maxima_has_the_gradient():
    x = np.ones((1, 1, 2, 3), "float32")
    slope = run(lambda x: gradients(max_pool2d(x, 2, 1), x)[0], x)
    assert np.array_equal(slope, [[[[1, 1, 0], [0, 0, 0]]]])


def test_average_pooling_of_integers_is_float32():
    assert avg_pool2d(tensor(1, 1, 4, 4, dtype="int64"), 2).dtype == "float32"


def test_symbolic_sizes_go_through_pooling():
    x = tensor("n", 3, "h", "w")
    assert str(max_pool2d(x, 2).type) == "float32[n, 3, h//2, w//2]"
    assert str(max_pool2d(x, 3, 2, 1).type) == "float32[n, 3, (h + 1)//2, (w + 1)//2]"
    assert str(max_pool2d(x, 2, ceil_mode=True).type) == "float32[n, 3, (h + 1)//2, (w + 1)//2]"
    assert guards(max_pool2d(x, 2)) == ["h >= 2", "w >= 2"]


@pytest.mark.parametrize(
    ("shape", "arguments", "error", "message"),
    [
        ((1, 3, 9), (2,), ShapeError, r"max_pool2d: the input must be \[batch, channels, height, width\]"),
        ((1, 3, 9, 9), ((2, 2, 2),), ArgumentError, "kernel_size must be an int or 2 ints that are >= 1"),
        ((1, 3, 9, 9), (2, 2, 2), ArgumentError, "padding 2 must be smaller than the window 2"),
        ((1, 3, 2, 9), (3,), ShapeError, "the kernel must fit the padded size: 2 is less than 3"),
    ],
)
def test_pooling_explains_what_is_wrong(shape, arguments, error, message):
    with pytest.raises(error, match=message):
        max_pool2d(tensor(*shape), *arguments)


@EACH_SIZE
def test_global_pooling_leaves_one_element_of_each_plane(symbolic):
    x = numbers(2, 3, 4, 5, dtype="float64")
    check(global_max_pool2d, lambda x: x.max((2, 3), keepdims=True), x, symbolic=symbolic)
    check(global_avg_pool2d, lambda x: x.mean((2, 3), keepdims=True), x, symbolic=symbolic)


def test_adaptive_pooling_divides_the_plane():
    x = numbers(2, 3, 4, 6, dtype="float64")
    grid = x.reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    np.testing.assert_allclose(run(lambda x: adaptive_avg_pool2d(x, (2, 3)), x), grid)
    rows = x.reshape(2, 3, 2, 2, 6).mean(3)
    np.testing.assert_allclose(run(lambda x: adaptive_avg_pool2d(x, (2, None)), x), rows)
    named = tensor("n", 3, "h", "w")
    assert adaptive_avg_pool2d(named, 1).shape == (symbol("n"), 3, 1, 1)
    with pytest.raises(ShapeError, match=r"the height, width of float32\[n, 3, h, w\] must be known"):
        adaptive_avg_pool2d(named, 2)
    with pytest.raises(ArgumentError, match="output_size must be an int or 2 ints that are >= 1, got"):
        adaptive_avg_pool2d(named, (0, None))


@pytest.mark.parametrize("sizes", [(3, 6), (2, 4), (5, 7), (3, None)])
def test_adaptive_windows_overlap_where_they_do_not_divide_the_plane(sizes):
    x = numbers(2, 3, 4, 6, dtype="float64")
    rows, columns = (out or n for out, n in zip(sizes, x.shape[2:], strict=True))
    expected = np.empty((2, 3, rows, columns))
    for i, j in np.ndindex(rows, columns):
        top, bottom, left, right = i * 4 // rows, -(-(i + 1) * 4 // rows), j * 6 // columns, -(-(j + 1) * 6 // columns)
        expected[:, :, i, j] = x[:, :, top:bottom, left:right].mean((2, 3))
    np.testing.assert_allclose(run(lambda x: adaptive_avg_pool2d(x, sizes), x), expected)
