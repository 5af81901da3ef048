"""Messages of wrong calls of ops: the op, what it was given, the user's own line, and a remedy where there is one."""

from __future__ import annotations

import numpy as np
from error_testing import Programs, check

import graphc as gc

broken = Programs()


def x(*shape, dtype="float32", name="x"):
    return gc.placeholder(name, shape=shape, dtype=dtype)


# --- arithmetic, comparisons and choice


@broken(gc.ShapeError, "add", "[2, 3]", "[4, 3]", "axis -2 is 2 and 4", "x was made at", "y was made at")
def add_shapes():
    a, b = x(2, 3), x(4, 3, name="y")
    return a + b  # <-


@broken(gc.ShapeError, "multiply", "[n]", "[m]", "do not broadcast", "hint: if n and m are one size")
def multiply_symbols():
    a, b = x("n"), x("m", name="y")
    return a * b  # <-


@broken(gc.ShapeError, "subtract", "[2]", "[3]")
def subtract_arrays():
    a = x(2)
    return np.zeros(3, "float32") - a  # <-


@broken(gc.DTypeError, "subtract", "bool[2]", "cast first")
def subtract_bools():
    a = x(2, dtype="bool")
    return a - a  # <-


@broken(gc.DTypeError, "add", "str 'abc'", "no tensor of numbers")
def add_string():
    return x(2) + "abc"  # <-


@broken(gc.DTypeError, "add", "NoneType None", "no tensor of numbers")
def add_none():
    return x(2) + None  # <-


@broken(gc.DTypeError, "multiply", "complex 1j")
def multiply_complex():
    return x(2) * 1j  # <-


@broken(gc.ShapeError, "add", "ragged list", "rows differ in length")
def add_ragged():
    return gc.add(x(2), [[1.0], [2.0, 3.0]])  # <-


@broken(gc.DTypeError, "add", "1000", "int8", "-128 to 127", "wider dtype")
def integer_overflow():
    return x(2, dtype="int8") + 1000  # <-


@broken(gc.DTypeError, "logical_not", "float32[2]", "compare first")
def invert_floats():
    return ~x(2)  # <-


@broken(gc.DTypeError, "where", "bool[2]", "float32[2]", "compare first, such as gc.not_equal(x, 0)")
def where_of_floats():
    return gc.where(x(2), 1.0, 0.0)  # <-


@broken(gc.ArgumentError, "where", "two tensors are one object", "gc.equal and gc.not_equal compare elements")
def where_of_an_identity():
    a = x(2)
    return gc.where(a != 0, 1 / a, 0.0)  # <-


@broken(gc.ArgumentError, "logical_and", "two tensors are one object", "gc.equal")
def and_of_an_identity():
    a = x(2)
    return (a == 0) & (a > -1)  # <-


@broken(gc.ShapeError, "where", "[2]", "[3]", "greater was made at")
def where_shapes():
    a, b = x(2), x(3, name="y")
    return gc.where(a > 0, b, 0.0)  # <-


@broken(gc.ShapeError, "clip", "[2]", "[3]", "low was made at")
def clip_shapes():
    a, low = x(2), x(3, name="low")
    return gc.clip(a, low, 1.0)  # <-


@broken(gc.ArgumentError, "tanh", "takes 1 operand", "got 2")
def too_many_operands():
    a = x(2)
    return gc.tanh(a, a)  # <-


@broken(gc.ArgumentError, "tanh", "no argument 'aixs'")
def unknown_argument():
    return gc.tanh(x(2), aixs=1)  # <-


@broken(gc.DTypeError, "cast", "'float33'", "did you mean 'float32'", "the dtypes are")
def cast_to_nothing():
    return gc.cast(x(2), "float33")  # <-


# --- reductions and scans


@broken(gc.ShapeError, "sum", "axis 2", "[2, 3]")
def sum_axis():
    return x(2, 3).sum(2)  # <-


@broken(gc.ShapeError, "mean", "'bacth'", "[batch, 3]", "did you mean 'batch'?")
def mean_misspelt_axis():
    return x("batch", 3).mean("bacth")  # <-


@broken(gc.ShapeError, "sum", "more than one axis", "'n'", "[n, n]", "position")
def sum_ambiguous_axis():
    return x("n", "n").sum("n")  # <-


@broken(gc.ShapeError, "prod", "(0, -2)", "one axis twice")
def prod_axis_twice():
    return x(2, 3).prod((0, -2))  # <-


@broken(gc.ShapeError, "max", "float32[0, 3]", "axis 0", "must not be empty")
def max_of_nothing():
    return x(0, 3).max(0)  # <-


@broken(gc.DTypeError, "mean", "int32", "cast the result")
def mean_in_integers():
    return x(2).mean(dtype="int32")  # <-


@broken(gc.ShapeError, "argmax", "(0, 1)", "[2, 3]")
def argmax_axes():
    return gc.argmax(x(2, 3), axis=(0, 1))  # <-


@broken(gc.ShapeError, "cumsum", "axis 4", "[2, 3]")
def cumsum_axis():
    return gc.cumsum(x(2, 3), 4)  # <-


@broken(gc.ShapeError, "logsumexp", "axis 1", "[3]")
def logsumexp_axis():
    return gc.logsumexp(x(3), axis=1)  # <-


@broken(gc.ShapeError, "sort", "axis 2", "[2, 3]")
def sort_axis():
    return gc.sort(x(2, 3), 2)  # <-


@broken(gc.ArgumentError, "topk", "k=5", "3 elements", "float32[3]")
def topk_too_many():
    return gc.topk(x(3), 5)  # <-


# --- shapes


@broken(gc.ShapeError, "reshape", "[4, 2]", "float32[2, 3]", "8 and 6")
def reshape_size():
    return x(2, 3).reshape(4, 2)  # <-


@broken(gc.ShapeError, "reshape", "[4, -1]", "float32[2, 3]", "6 elements are no multiple of 4")
def reshape_remainder():
    return x(2, 3).reshape(4, -1)  # <-


@broken(gc.ShapeError, "reshape", "float32[2, 3]", "only one size can be worked out")
def reshape_two_holes():
    return x(2, 3).reshape(-1, -1)  # <-


@broken(gc.ShapeError, "reshape", "(-2, 3)", "axis 0", "can't be negative", "give a string")
def reshape_negative():
    return x(2, 3).reshape(-2, 3)  # <-


@broken(gc.ShapeError, "reshape", "axis 0: 2.0 (float)", "integer >= 0 or a string")
def reshape_float():
    return x(2, 3).reshape(2.0, 3)  # <-


@broken(gc.ShapeError, "transpose", "(0, 0)", "float32[2, 3]", "permutation")
def transpose_twice():
    return x(2, 3).transpose(0, 0)  # <-


@broken(gc.ShapeError, "squeeze", "float32[2, 3]", "axis 0", "2 and 1 differ")
def squeeze_large():
    return x(2, 3).squeeze(0)  # <-


@broken(gc.ShapeError, "concat", "axis 1", "3 and 4 differ", "float32[2, 3]", "float32[2, 4]")
def concat_sizes():
    a, b = x(2, 3), x(2, 4, name="y")
    return gc.concat([a, b], axis=0)  # <-


@broken(gc.ArgumentError, "concat", "no tensors")
def concat_nothing():
    return gc.concat([])  # <-


@broken(gc.ShapeError, "stack", "3 and 4 differ")
def stack_sizes():
    a, b = x(2, 3), x(2, 4, name="y")
    return gc.stack([a, b])  # <-


@broken(gc.ShapeError, "split", "float32[5]", "2 equal parts", "gc.array_split")
def split_unevenly():
    return gc.split(x(5), 2)  # <-


@broken(gc.ShapeError, "broadcast_to", "float32[2, 3]", "[2, 4]", "3 and 4 differ")
def broadcast_sizes():
    return gc.broadcast_to(x(2, 3), (2, 4))  # <-


@broken(gc.ShapeError, "tile", "(-1,)", "can't be negative")
def tile_negative():
    return gc.tile(x(2, 3), (-1,))  # <-


@broken(gc.ArgumentError, "roll", "2 shifts for 1 axes")
def roll_shifts():
    return gc.roll(x(3), (1, 2), (0,))  # <-


@broken(gc.ArgumentError, "arange(0, 10, 0)", "step must not be 0")
def arange_step():
    return gc.arange(0, 10, 0)  # <-


@broken(gc.DTypeError, "full", "str 'a'")
def full_of_text():
    return gc.full((2,), "a")  # <-


# --- indexing


@broken(gc.ArgumentError, "getitem", "index 5", "axis 0", "2 elements")
def index_out_of_range():
    return x(2, 3)[5]  # <-


@broken(gc.ShapeError, "getitem", "3 indices", "2 axes", "float32[2, 3]")
def index_too_many():
    return x(2, 3)[0, 0, 0]  # <-


@broken(gc.ArgumentError, "getitem", "1.5", "use integers, slices")
def index_float():
    return x(2, 3)[1.5]  # <-


@broken(gc.DTypeError, "getitem", "got bool", "gc.where(mask, x, 0)")
def index_mask():
    a = x(3)
    return a[a > 0]  # <-


@broken(gc.ArgumentError, "getitem", "bounds of a slice", "<start: int64[]>", "gc.take")
def slice_from_a_tensor():
    a, start = x(3), x(dtype="int64", name="start")
    return a[start:]  # <-


@broken(gc.DTypeError, "take", "float64", "gc.cast(i, 'int64')")
def take_floats():
    return gc.take(x(3), [0.5])  # <-


@broken(gc.ArgumentError, "take", "index 5", "3 elements")
def take_out_of_range():
    return gc.take(x(3), [5])  # <-


@broken(gc.DTypeError, "one_hot", "float32", "gc.cast(i, 'int64')")
def one_hot_of_floats():
    return gc.one_hot(x(3), 4)  # <-


@broken(gc.DTypeError, "embedding", "float32[3]", "float32[5, 4]", "gc.cast(i, 'int64')", "weight was made at")
def embedding_of_floats():
    ids, weight = x(3), x(5, 4, name="weight")
    return gc.embedding(ids, weight)  # <-


@broken(gc.ShapeError, "take_along_axis", "int64[3]", "float32[2, 3]")
def take_along_axis_rank():
    a, i = x(2, 3), x(3, dtype="int64", name="i")
    return gc.take_along_axis(a, i)  # <-


@broken(gc.ShapeError, "scatter_add", "float32[2, 5]", "5 and 3 differ")
def scatter_add_shapes():
    a, updates = x(4, 3), x(2, 5, name="updates")
    return gc.scatter_add(a, [0, 1], updates)  # <-


# --- products


@broken(
    gc.ShapeError,
    "matmul: inner sizes differ: float32[batch, 784] @ float32[10, 784]",
    "weights was made at",
    "did you mean weights.T?",
)
def matmul_transposed():
    hidden, weights = x("batch", 784), x(10, 784, name="weights")
    return hidden @ weights  # <-


@broken(gc.ShapeError, "matmul", "float32[2, 3, 4]", "float32[5, 4, 3]", "batch sizes")
def matmul_batches():
    a, b = x(2, 3, 4), x(5, 4, 3, name="y")
    return gc.matmul(a, b)  # <-


@broken(gc.ShapeError, "matmul", "float32[2, 3] @ float32[]", "a * b")
def matmul_scalar():
    return x(2, 3) @ 2.0  # <-


@broken(gc.ShapeError, "einsum", "'j' is 3 and 4", "float32[2, 3]", "float32[4, 5]")
def einsum_sizes():
    a, b = x(2, 3), x(4, 5, name="y")
    return gc.einsum("ij,jk->ik", a, b)  # <-


@broken(gc.ArgumentError, "einsum", "'ij,jk->ik'", "2 operands, got 1")
def einsum_operands():
    return gc.einsum("ij,jk->ik", x(2, 3))  # <-


@broken(gc.ShapeError, "einsum", "'ijk'", "operand that has 2")
def einsum_rank():
    return gc.einsum("ijk->i", x(2, 3))  # <-


@broken(gc.ShapeError, "tensordot", "3 and 4", "float32[2, 3]", "float32[4, 5]")
def tensordot_sizes():
    a, b = x(2, 3), x(4, 5, name="y")
    return gc.tensordot(a, b, 1)  # <-


@broken(gc.ShapeError, "linear", "float32[2, 3]", "float32[5, 4]", "[..., k]", "[n, k]")
def linear_sizes():
    a, weight = x(2, 3), x(5, 4, name="weight")
    return gc.linear(a, weight)  # <-


# --- windows


@broken(gc.ShapeError, "conv2d", "float32[1, 3, 8, 8]", "float32[4, 2, 3, 3]", "groups=1", "3 and 2 differ")
def conv_channels():
    a, weight = x(1, 3, 8, 8), x(4, 2, 3, 3, name="weight")
    return gc.conv2d(a, weight)  # <-


@broken(gc.ShapeError, "conv2d", "float32[3, 8, 8]", "[batch, channels, height, width]")
def conv_without_batch():
    a, weight = x(3, 8, 8), x(4, 3, 3, 3, name="weight")
    return gc.conv2d(a, weight)  # <-


@broken(gc.ShapeError, "conv1d", "kernel must fit", "2 is less than 3", "float32[1, 3, 2]", "float32[4, 3, 3]")
def conv_kernel_too_large():
    a, weight = x(1, 3, 2), x(4, 3, 3, name="weight")
    return gc.conv1d(a, weight)  # <-


@broken(gc.ShapeError, "conv2d", "bias must be [4]", "float32[3]")
def conv_bias():
    a, weight, bias = x(1, 3, 8, 8), x(4, 3, 3, 3, name="weight"), x(3, name="bias")
    return gc.conv2d(a, weight, bias)  # <-


@broken(gc.ArgumentError, "conv2d", "stride", ">= 1", "got 0")
def conv_stride():
    a, weight = x(1, 3, 8, 8), x(4, 3, 3, 3, name="weight")
    return gc.conv2d(a, weight, stride=0)  # <-


@broken(gc.ShapeError, "conv2d", "4 output channels must divide by groups=3")
def conv_groups():
    a, weight = x(1, 3, 8, 8), x(4, 1, 3, 3, name="weight")
    return gc.conv2d(a, weight, groups=3)  # <-


@broken(gc.ArgumentError, "conv2d", "'sam'", "padding")
def conv_padding():
    a, weight = x(1, 3, 8, 8), x(4, 3, 3, 3, name="weight")
    return gc.conv2d(a, weight, padding="sam")  # <-


@broken(gc.ShapeError, "conv_transpose2d", "float32[1, 3, 8, 8]", "float32[4, 1, 3, 3]", "3 and 4 differ")
def conv_transpose_channels():
    a, weight = x(1, 3, 8, 8), x(4, 1, 3, 3, name="weight")
    return gc.conv_transpose2d(a, weight)  # <-


@broken(gc.ArgumentError, "conv_transpose2d", "output_padding (2, 2)", "smaller than stride (2, 2)")
def conv_transpose_output_padding():
    a, weight = x(1, 4, 8, 8), x(4, 1, 3, 3, name="weight")
    return gc.conv_transpose2d(a, weight, stride=2, output_padding=2)  # <-


@broken(gc.ShapeError, "max_pool2d", "float32[3, 8, 8]", "[batch, channels, height, width]")
def pool_without_batch():
    return gc.max_pool2d(x(3, 8, 8), 2)  # <-


@broken(gc.ShapeError, "max_pool2d", "kernel must fit", "2 is less than 3", "float32[1, 3, 2, 2]")
def pool_window_too_large():
    return gc.max_pool2d(x(1, 3, 2, 2), 3)  # <-


@broken(gc.ArgumentError, "max_pool2d", "padding 2", "window 2")
def pool_padding():
    return gc.max_pool2d(x(1, 3, 8, 8), 2, padding=2)  # <-


@broken(gc.ArgumentError, "avg_pool2d", "kernel_size", ">= 1", "got 0")
def pool_of_nothing():
    return gc.avg_pool2d(x(1, 3, 8, 8), 0)  # <-


@broken.each
def test_message(program):
    check(program)
