"""Shapes: NumPy's functions on known and symbolic sizes, what is worked out, what is guarded, and the messages."""

import numpy as np
import pytest
from numpy_testing import check, guards, leaf, numbers, run

from graphc.dims import symbol
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import toposort
from graphc.operands import cast, parameter
from graphc.ops import creation, shape
from graphc.ops.control import stop_gradient
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
n, m = symbol("n"), symbol("m")


def tensor(*dims, dtype="float32", index=0):
    return parameter(index, TensorType(dtype, dims))


def ops(x):
    return [node.op.name for node in toposort([x]) if node.inputs]


# A NumPy call and ours, by the name that both have.
CALLS = [
    ("reshape", (3, 4), ((2, -1),), {}),
    ("reshape", (3, 4), (-1,), {}),
    ("reshape", (1, 1), ((),), {}),
    ("reshape", (0, 3), ((3, -1, 2),), {}),
    ("ravel", (2, 3, 2), (), {}),
    ("transpose", (2, 3, 4), (), {}),
    ("transpose", (2, 3, 4), ((1, -1, 0),), {}),
    ("transpose", (), (), {}),
    ("swapaxes", (2, 3, 4), (0, -1), {}),
    ("moveaxis", (2, 3, 4, 5), (0, -1), {}),
    ("moveaxis", (2, 3, 4, 5), ([0, 2], [-1, 0]), {}),
    ("matrix_transpose", (2, 3, 4), (), {}),
    ("squeeze", (1, 3, 1), (), {}),
    ("squeeze", (1, 3, 1), (-1,), {}),
    ("expand_dims", (3, 4), (1,), {}),
    ("expand_dims", (3, 4), ((0, -1),), {}),
    ("flip", (3, 4), (), {}),
    ("flip", (3, 4), (-1,), {}),
    ("rot90", (3, 4), (), {}),
    ("rot90", (3, 4, 2), (2, (0, 2)), {}),
    ("rot90", (3, 4, 2), (3, (2, 1)), {}),
    ("rot90", (3, 4), (-4,), {}),
    ("tile", (2, 3), (2,), {}),
    ("tile", (2, 3), ((2, 1),), {}),
    ("tile", (3,), ((2, 2),), {}),
    ("tile", (2, 3), ((1, 0, 2),), {}),
    ("roll", (5,), (2,), {}),
    ("roll", (3, 4), (-1,), {}),
    ("roll", (3, 4), (1, 1), {}),
    ("roll", (3, 4), ((1, -2), (0, 1)), {}),
    ("roll", (3, 4), (0, 0), {}),
    ("split", (6, 2), (3,), {}),
    ("split", (2, 6), (2, 1), {}),
    ("split", (6,), ([1, 4],), {}),
    ("split", (6,), ([0, 2, 2, -1],), {}),
    ("array_split", (7,), (3,), {}),
    ("array_split", (2, 5), (4, 1), {}),
    ("unstack", (1, 3), (), {}),
    ("pad", (3, 4), (1,), {}),
    ("pad", (3, 4), ((1, 2),), {"constant_values": 7}),
    ("pad", (3, 4), (((0, 2), (1, 0)),), {}),
    ("pad", (3, 4), (((0, 2), (1, 0)),), {"mode": "edge"}),
    ("pad", (3, 4), (((2, 1), (3, 0)),), {"mode": "reflect"}),
    ("pad", (3, 4), (((2, 1), (4, 0)),), {"mode": "symmetric"}),
    ("pad", (3, 4), (((2, 3), (0, 1)),), {"mode": "wrap"}),
    ("meshgrid", (3,), (), {}),
]


@EACH_SIZE
@pytest.mark.parametrize(("name", "dims", "args", "options"), CALLS)
def test_function_is_numpys(name, dims, args, options, symbolic):
    ours, theirs = getattr(shape, name), getattr(np, name)
    check(lambda x: ours(x, *args, **options), lambda x: theirs(x, *args, **options), numbers(*dims), symbolic=symbolic)


@EACH_SIZE
@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_meshgrid_is_numpys(indexing, symbolic):
    a, b, c = numbers(2), numbers(3), numbers(4)
    check(
        lambda *xs: shape.meshgrid(*xs, indexing=indexing),
        lambda *xs: tuple(np.meshgrid(*xs, indexing=indexing)),
        *(a, b, c),
        symbolic=symbolic,
    )


@EACH_SIZE
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_stack_is_numpys(axis, symbolic):
    def stacked(module):
        return lambda *xs: module.stack(xs, axis)

    check(stacked(shape), stacked(np), numbers(2, 3), numbers(2, 3) + 1, symbolic=symbolic)


@EACH_SIZE
@pytest.mark.parametrize("axis", [0, -2, None])
def test_concat_is_numpys(axis, symbolic):
    arrays = numbers(2, 3), numbers(4, 3), numbers(1, 3)
    check(lambda *xs: shape.concat(xs, axis), lambda *xs: np.concatenate(xs, axis), *arrays, symbolic=symbolic)


def test_concat_promotes():
    assert shape.concat([tensor(2, dtype="int64"), tensor(3, dtype="float16")]).dtype == "float16"
    assert shape.concat([tensor(2, dtype="uint8"), tensor(3, dtype="int8")]).dtype == "int16"


def test_methods_take_a_sequence_or_its_elements():
    x = tensor(2, 3, 4)
    assert x.reshape(4, 6) is x.reshape((4, 6)) is shape.reshape(x, (4, 6))
    assert x.transpose(2, 0, 1) is x.permute((2, 0, 1)) is shape.permute_dims(x, (2, 0, 1))
    assert x.transpose() is x.T is shape.transpose(x)
    assert x.flip(0, 1) is shape.flip(x, (0, 1))
    assert x.mT is x.swapaxes(1, 2)
    assert x.view(-1, 2) is x.reshape(-1, 2)


def test_methods_under_torchs_names():
    x = tensor(2, 3, 4)
    assert x.unsqueeze(0) is shape.expand_dims(x, 0)
    assert x.detach() is stop_gradient(x)
    assert x.astype("int8") is cast(x, "int8")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("item", "sess.run"), ("backward", "gc.gradients"), ("float", "gc.cast"), ("dim", "x.ndim"), ("resh", "reshape")],
)
def test_what_only_torchs_tensors_have_is_told_with_what_is_here(name, remedy):
    with pytest.raises(AttributeError, match=remedy):
        getattr(tensor(2), name)


def test_what_changes_nothing_builds_nothing():
    x = tensor(2, n)
    same = [
        shape.reshape(x, (2, n)),
        shape.reshape(x, (-1, n)),
        shape.transpose(x, (0, 1)),
        shape.squeeze(x),
        shape.expand_dims(x, ()),
        shape.broadcast_to(x, (2, n)),
        shape.flip(x, ()),
        shape.narrow(x, 1, 0, n),
        shape.roll(x, 2, 0),
        shape.pad(x, 0),
    ]
    assert all(y is x for y in same)


# --- reshape


@pytest.mark.parametrize(
    ("dims", "given", "result"),
    [
        ((n, 16, 4, 4), (-1, 256), (n, 256)),
        ((n, 16, 4, 4), (n, -1), (n, 256)),
        ((n, m), (-1,), (n * m,)),
        ((n, m), ("m", "n"), (m, n)),
        ((2 * n, 3), (-1, 6), (n, 6)),
        ((n, 4), ("2*n", -1), (2 * n, 2)),
    ],
)
def test_reshape_works_out_symbolic_sizes(dims, given, result):
    y = shape.reshape(tensor(*dims), given)
    assert y.shape == result
    assert guards(y) == []


def test_reshape_guards_what_it_cant_prove():
    x = tensor(n)
    y = shape.reshape(x, (-1, 4))
    assert y.shape == (n // 4, 4)
    (guard,) = y.guards
    assert guard.holds({"n": 12})
    assert not guard.holds({"n": 13})
    (g,) = gradients(y.T, [x], [tensor(4, n // 4, index=1)])
    assert g.type is x.type


@pytest.mark.parametrize(
    ("dims", "given", "message"),
    [
        ((3, 4), (5, 2), r"elements of \[5, 2\] and of float32\[3, 4\]: 10 and 12 differ"),
        ((3, 4), (5, -1), "its 12 elements are no multiple of 5"),
        ((3, 4), (-1, -1), "only one size can be worked out"),
        ((0, 4), (0, -1), "a size beside 0 can't be worked out"),
        ((3, 4), (-2, 6), "is not a shape"),
        ((n, 4), (m, 4), r"4\*m and 4\*n differ"),
    ],
)
def test_reshape_says_what_does_not_fit(dims, given, message):
    with pytest.raises(ShapeError, match=message):
        shape.reshape(tensor(*dims), given)


def test_an_error_shows_the_line():
    with pytest.raises(ShapeError) as error:
        shape.reshape(tensor(3), (2, 2))
    assert "shape.reshape(tensor(3), (2, 2))" in str(error.value)


@pytest.mark.parametrize(
    ("start", "end", "result"), [(0, -1, (24,)), (1, -1, (2, 12)), (0, 1, (6, 4)), (1, 1, (2, 3, 4))]
)
def test_flatten_joins_axes(start, end, result):
    assert shape.flatten(tensor(2, 3, 4), start, end).shape == result


def test_flatten_makes_vectors_of_scalars_and_refuses_axes_in_reverse():
    assert shape.flatten(tensor()).shape == (1,)
    with pytest.raises(ShapeError, match="start_dim 2 lies behind end_dim 0"):
        shape.flatten(tensor(2, 3, 4), 2, 0)


# --- axes


def test_axes_may_be_named():
    x = tensor(n, 3, m)
    assert shape.transpose(x, ("m", "n", 1)).shape == (m, n, 3)
    assert shape.flip(x, "m") is shape.flip(x, 2)
    assert shape.concat([x, x], "n").shape == (2 * n, 3, m)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: shape.transpose(x, (0, 0, 1)), "no permutation of the axes"),
        (lambda x: shape.transpose(x, (0, 1)), "no permutation of the axes"),
        (lambda x: shape.swapaxes(x, 0, 3), "axis 3 doesn't exist"),
        (lambda x: shape.squeeze(x, 0), "axis 0 is squeezed away: 2 and 1 differ"),
        (lambda x: shape.moveaxis(x, (0, 1), 2), "2 axes can't go to 1 positions"),
        (lambda x: shape.moveaxis(x, (0, 1), (2, 2)), "names one axis twice"),
        (lambda x: shape.matrix_transpose(x[0, 0]), "is no matrix"),
        (lambda x: shape.broadcast_to(x, (3, 3, 4)), "2 and 3 differ"),
        (lambda x: shape.concat([x, x[0]]), "one rank"),
        (lambda x: shape.concat([x, x[:, :2]]), "axis 1 of the operands: 3 and 2 differ"),
        (lambda x: shape.concat([x[0, 0, 0]] * 2), "scalars can't be joined"),
        (lambda x: shape.split(x, 2, 1), "can't be cut into 2 equal parts"),
        (lambda x: shape.split_with_sizes(x, [1, 1], 1), "16 and 24 differ"),
        (lambda x: shape.narrow(x, 1, 2, 2), "2 elements from 2 on, 1 apart, in 3"),
        (lambda x: shape.pad(x, -1), "can't be negative"),
        (lambda x: shape.pad(x, ((0, 0), (3, 0), (0, 0)), mode="reflect"), "3 elements from 1 on"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(ShapeError, match=message):
        call(tensor(2, 3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: shape.concat([]), "no tensors to join"),
        (lambda x: shape.split(x, 0), "can't cut into 0 parts"),
        (lambda x: shape.pad(x, 1, mode="mirror"), "'mirror' is not one of constant, edge, reflect"),
        (lambda x: shape.pad(x, ((1, 1), (1, 1))), "don't fit"),
        (lambda x: shape.roll(x, (1, 2), (0,)), "2 shifts for 1 axes"),
        (lambda x: shape.meshgrid(x), "takes vectors"),
    ],
)
def test_arguments_that_make_no_sense(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(tensor(2, 3, 4))


@pytest.mark.parametrize(("dtype", "value"), [("int32", 0.5), ("int64", float("nan")), ("uint8", -1), ("bool", 2)])
def test_padding_must_fit_the_dtype(dtype, value):
    with pytest.raises(DTypeError, match=r"can't hold the value|does not fit uint8"):
        shape.pad(tensor(3, dtype=dtype), 1, constant_values=value)


def test_padding_takes_infinities():
    got = run(lambda x: shape.pad(x, (1, 0), constant_values=-np.inf), np.ones(1, "float16"))
    np.testing.assert_array_equal(got, np.array([-np.inf, 1], "float16"), strict=True)


# --- symbolic sizes


def test_symbolic_sizes_of_what_is_put_together_and_taken_apart():
    x = tensor(n, 3)
    assert shape.concat([x, tensor(m, 3, index=1), x]).shape == (2 * n + m, 3)
    assert shape.pad(x, ((1, m), (0, 0))).shape == (n + m + 1, 3)
    assert shape.tile(x, (m, 2)).shape == (n * m, 6)
    assert [part.shape for part in shape.split_with_sizes(tensor(n + m), [n, m])] == [(n,), (m,)]
    assert shape.narrow(tensor(n + 2), 0, 1, n).guards == ()


def test_split_demands_that_a_symbolic_size_is_a_multiple():
    parts = shape.split(tensor(n), 3)
    (guard,) = guards(parts[0])
    assert guard == "3*(n//3) == n"
    assert {part.shape for part in parts} == {(n // 3,)}
    assert guards(*shape.split(tensor(3 * n), 3)) == []


def test_roll_demands_enough_elements_of_a_symbolic_size():
    assert guards(shape.roll(tensor(n), -2, 0)) == ["n - 2 >= 0", "n >= 2"]


def test_chunk_makes_the_last_part_smaller():
    assert [p.shape for p in shape.chunk(tensor(7), 3)] == [(3,), (3,), (1,)]
    assert [p.shape for p in shape.chunk(tensor(2), 5)] == [(1,), (1,)]
    assert [p.shape for p in shape.chunk(tensor(0), 2)] == [(0,)]
    with pytest.raises(ShapeError, match="isn't known"):
        shape.chunk(tensor(n), 2)


# --- gradients


def test_slices_and_pads_are_each_others_gradient():
    x = tensor(n, 4)
    (g,) = gradients(x[1::2], [x])
    assert g.op.name == "pad"
    assert g.type is x.type
    w = tensor(*g.shape, index=1)
    (h,) = gradients(shape.pad(x, 1), [x], [tensor(n + 2, 6, index=1)])
    assert ops(h) == ["slice"]
    assert ops(w) == []


def test_gradient_of_overlapping_slices_adds_up():
    a = numbers(5)
    x = leaf(a)
    (g,) = gradients((x[:-1] * x[1:]).reshape(-1), [x])
    (got,) = evaluate([g], {x: a})
    np.testing.assert_array_equal(got, np.append(a[1:], 0) + np.append(0, a[:-1]))


# --- creation


@pytest.mark.parametrize(
    "args",
    [(5,), (2, 7), (2, 7, 2), (7, 2, -2), (5, 2), (0,), (0.0, 1.0, 0.25), (1.5,), (3, 0.0, -0.5), (1, 2, 0.1)],
)
def test_arange_is_numpys(args):
    for dtype in ("float64", "int32", "float32"):
        if dtype == "int32" and any(isinstance(v, float) for v in args):
            continue
        got = run(lambda dtype=dtype: creation.arange(*args, dtype=dtype))
        np.testing.assert_allclose(got, np.arange(*args, dtype=dtype), rtol=1e-6, strict=True)


def test_arange_has_the_dtype_of_its_arguments():
    assert creation.arange(3).dtype == "int64"
    assert creation.arange(3.0).dtype == "float32"
    assert creation.arange(0, 3, dtype="float16").dtype == "float16"


def test_arange_counts_to_a_symbolic_size():
    for args, wanted in [
        (("n",), np.arange(7)),
        ((2, n), np.arange(2, 7)),
        ((n, 2 * n, 2), np.arange(7, 14, 2)),
        ((n, 0, -3), np.arange(7, 0, -3)),
    ]:
        (got,) = evaluate([creation.arange(*args)], {}, {"n": 7})
        np.testing.assert_array_equal(got, wanted, strict=True)


@pytest.mark.parametrize("args", [(1, 2, 0), (0, n, 0.5), ("n", 2.5), (0, 3, n)])
def test_arange_needs_a_step_and_integers_beside_dimensions(args):
    with pytest.raises(ArgumentError, match="step must"):
        creation.arange(*args)


@pytest.mark.parametrize("endpoint", [True, False])
@pytest.mark.parametrize("args", [(0, 1, 11), (-3.5, 7.25, 6), (2, 2, 3), (5, 1, 1), (0, 1, 0), (0.1, 0.7, 50)])
def test_linspace_is_numpys(args, endpoint):
    got = run(lambda: creation.linspace(*args, endpoint=endpoint, dtype="float64"))
    np.testing.assert_allclose(got, np.linspace(*args, endpoint=endpoint), rtol=1e-14, atol=1e-15, strict=True)
    if endpoint and args[2] > 1:
        assert got[-1] == args[1]


@pytest.mark.parametrize("args", [(3,), (2, 4), (4, 2, 1), (3, 3, -2), (0, 2)])
def test_eye_is_numpys(args):
    got = run(lambda: creation.eye(*args))
    np.testing.assert_array_equal(got, np.eye(*args, dtype="float32"), strict=True)


def test_filled_tensors_hold_one_number_only():
    for made, wanted in [
        (creation.zeros((2, 3)), np.zeros((2, 3), "float32")),
        (creation.ones(4, "int8"), np.ones(4, "int8")),
        (creation.full((2, 2), 7), np.full((2, 2), 7)),
        (creation.full((), True), np.full((), True)),
        (creation.full((2,), 1, "float64"), np.ones(2)),
        (creation.full_like(tensor(2, dtype="int16"), 3), np.full(2, 3, "int16")),
        (creation.zeros_like(tensor(2), "bool"), np.zeros(2, "bool")),
        (creation.ones_like(tensor(2, 1)), np.ones((2, 1), "float32")),
    ]:
        constants = [node for node in toposort([made]) if node.op.kind == "constant"]
        assert [node.size for node in constants] == [1]
        np.testing.assert_array_equal(evaluate([made], {})[0], wanted, strict=True)


def test_filled_tensors_may_be_symbolic_and_filled_with_a_tensor():
    value = tensor()
    (got,) = evaluate([creation.full(("n", 2), value)], {value: np.float32(3)}, {"n": 2})
    np.testing.assert_array_equal(got, np.full((2, 2), 3, "float32"), strict=True)
