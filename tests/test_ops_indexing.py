"""Indexing: NumPy's on random index expressions, gathers and scatters, what is guarded, and the messages."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy_testing import check, guards, leaf, numbers, run

from graphc.composites import composite
from graphc.dims import symbol
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.evaluate import evaluate
from graphc.ir import toposort
from graphc.operands import parameter
from graphc.ops import getitem, indexing
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
n, m = symbol("n"), symbol("m")


def tensor(*dims, dtype="float32", index=0):
    return parameter(index, TensorType(dtype, dims))


def ops(x):
    return [node.op.name for node in toposort([x]) if node.inputs]


# --- x[index] against NumPy, at random

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def basic(draw):
    """A shape, and an index of slices, integers, new axes and an ellipsis for it."""
    dims = draw(SHAPES)
    return dims, draw(hnp.basic_indices(dims, min_dims=0, max_dims=7, allow_ellipsis=True, allow_newaxis=True))


@st.composite
def advanced(draw):
    """A shape without empty axes, and an index for it with at least one array of integers."""
    dims = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    arrays = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(dims), max_dims=2, max_side=3)).input_shapes
    entries = []
    for size, shape in zip(dims, arrays, strict=True):
        index = st.integers(-size, size - 1)
        array = hnp.arrays(np.int64, shape, elements=index)
        entries.append(draw(st.one_of(array, index, st.slices(size), array.map(np.ndarray.tolist))))
    assume(any(isinstance(entry, np.ndarray) for entry in entries))
    for extra in draw(st.lists(st.sampled_from([None, Ellipsis]), max_size=2, unique=True)):
        entries.insert(draw(st.integers(0, len(entries))), extra)
    return dims, tuple(entries)


@given(basic())
@example(((5,), slice(7, 1, 2)))
@example(((5,), slice(-9, 9, 3)))
@example(((5,), slice(4, None, -3)))
@example(((5, 3), (slice(None, None, -1), slice(-1, -9, -2))))
@example(((0,), slice(None, None, -1)))
@example(((), (Ellipsis, None)))
def test_basic_indexing_is_numpys(case):
    dims, index = case
    check(lambda x: getitem.getitem(x, index), lambda a: a[index], numbers(*dims))


@given(advanced())
@example(((3, 4, 2), (np.array([0, 1]), slice(None), np.array([[1], [0]]))))
@example(((3, 4, 2), (0, Ellipsis, np.array([1, 0]))))
@example(((1, 3, 4), (slice(None), 0, Ellipsis, np.array([1, 0]))))
@example(((3, 4), (slice(None), None, np.array([1, 0]))))
@example(((3, 4, 2), (slice(None), 2, np.array([1, 0]))))
@example(((3,), np.array(1)))
@example(((3, 2), [[2, 0]]))
@example(((3, 2), []))
def test_indexing_with_integer_arrays_is_numpys(case):
    dims, index = case
    check(lambda x: x[index], lambda a: a[index], numbers(*dims))


@given(basic())
@example(((4,), slice(1, -1)))
@example(((4,), slice(-2, 0, -1)))
@example(((3,), slice(1, None, 2)))
@example(((3,), -1))
def test_indexing_symbolic_sizes_is_numpys_where_its_guards_hold(case):
    shape, index = case
    dims = {}
    a = numbers(*shape)
    x = leaf(a, dims)
    try:
        y = x[index]
    except ShapeError:  # provably not inside, such as x[n - 5:] of n - 2 elements
        return
    held = all(guard.holds(dims) for node in toposort([y]) for guard in node.guards)
    assume(held)
    (got,) = evaluate([y], {x: a}, dims)
    np.testing.assert_array_equal(got, a[index], strict=True)
    assert y.tensor_type.bind(dims).shape == got.shape


def written(at, size, left_out):
    """How a bound may be written: from the start, from the end, or not at all."""
    inside = [at, at - size] if 0 <= at < size else [at] if at == size else []
    return st.sampled_from([*inside, None] if left_out else inside)


@given(st.data(), st.integers(2, 6), st.sampled_from([1, 2, 3, -1, -2]))
def test_symbolic_slices_within_bounds_break_no_guard(data, size, step):
    low = data.draw(st.integers(0, size - 1))
    high = data.draw(st.integers(low + 1, size))
    bottom = data.draw(written(low if step > 0 else low - 1, size, left_out=low == 0))
    top = data.draw(written(high if step > 0 else high - 1, size, left_out=high == size))
    start, stop = (bottom, top) if step > 0 else (top, bottom)
    check(lambda x: x[start:stop:step], lambda a: a[start:stop:step], numbers(size), symbolic=True)


# --- x[index] of symbolic sizes


@pytest.mark.parametrize(
    ("index", "size", "guarded"),
    [
        (slice(1, None), n - 1, ["n - 1 >= 0"]),
        (slice(3), 3, ["n >= 3"]),
        (slice(-3, None), 3, ["n - 3 >= 0"]),
        (slice(1, -1), n - 2, ["n - 2 >= 0"]),
        (slice(None, None, 2), (n + 1) // 2, []),
        (slice(1, None, 2), n // 2, []),
        (slice(None, None, -1), n, []),
        (slice(None, None, -2), (n + 1) // 2, []),
        (slice(2, None, -1), 3, ["n - 3 >= 0"]),
        (slice(5, 2), 0, []),
        (slice(0, n), n, []),
        (slice(n + 2), n, []),
        (slice(n // 2, None), n - n // 2, []),
        (slice(n - 1, None), 1, ["n - 1 >= 0"]),
        (slice(m), m, ["n >= m"]),
    ],
)
def test_slices_of_symbolic_sizes(index, size, guarded):
    y = tensor(n)[index]
    assert y.shape == (size,)
    assert guards(y) == guarded


def test_an_integer_demands_that_the_element_exists():
    x = tensor(n, 3)
    assert (x[-1].shape, guards(x[-1])) == ((3,), ["n - 1 >= 0"])
    assert (x[2].shape, guards(x[2])) == ((3,), ["n - 2 >= 1"])
    assert x[n - 1] is x[-1]


def test_a_known_size_may_be_cut_at_a_symbolic_place():
    y = tensor(8)[n:]
    assert y.shape == (8 - n,)
    (guard,) = y.guards
    assert guard.holds({"n": 8})
    assert not guard.holds({"n": 9})


def test_a_tensor_indexes_at_run_time():
    check(lambda x, i: x[:, i], lambda a, i: a[:, i], numbers(3, 4), np.array([[1, -1]]))
    check(lambda x, i: x[i], lambda a, i: a[i], numbers(3, 4), np.array(2, "int32"))
    assert tensor(n, 3)[tensor(m, dtype="int32", index=1)].shape == (m, 3)


def test_tensors_unpack_and_have_a_length():
    a, b, c = tensor(3, n)
    assert [a.shape, b.shape, c.shape] == [(n,)] * 3
    assert b is tensor(3, n)[1]
    assert len(tensor(3, n)) == 3
    with pytest.raises(ShapeError, match="symbolic first dimension"):
        iter(tensor(n)).__next__()


def test_whole_slices_build_nothing():
    x = tensor(2, n)
    assert x[:] is x[...] is x[:, :n] is x[:2, 0:] is x


def test_views_are_chained_and_nothing_more():
    assert ops(tensor(4, 5, 6)[1:, 2, None, ::-1]) == ["flip", "slice", "squeeze", "expand_dims"]


def test_results_of_an_op_with_several_are_taken_by_index():
    @composite
    def both(x):
        return x + 1, x * 2

    first, _ = both(tensor(3))
    (pair,) = first.inputs
    assert pair[0] is first
    assert [item.shape for item in pair] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (3, "index 3 is out of range for axis 0, which has 3 elements"),
        ((0, -5), "index -5 is out of range for axis 1, which has 4 elements"),
        ([0, 7], "index 7 is out of range for axis 0"),
        ((..., 0, ...), "one ellipsis only"),
        ("a", "an index can't be 'a'"),
        (1.0, "an index can't be 1.0"),
        (True, "an index can't be True"),
        (slice(None, None, 0), "step must be an integer other than 0"),
        (slice(0.5), "must be integers or dimensions, got 0.5"),
        (slice(-n, None), "the index -n is negative"),
        (-n, "the index -n is negative"),
    ],
)
def test_indices_that_make_no_sense(index, message):
    with pytest.raises(ArgumentError, match=message) as error:
        tensor(3, 4)[index]
    assert "tensor(3, 4)[index]" in str(error.value)


def test_too_many_indices():
    with pytest.raises(ShapeError, match=r"3 indices for the 2 axes of float32\[3, 4\]"):
        tensor(3, 4)[0, 0, 0]


@pytest.mark.parametrize("mask", [[True, False, True], np.array([True, False, True]), tensor(3, dtype="bool", index=1)])
def test_a_mask_is_refused_with_the_remedy(mask):
    with pytest.raises(DTypeError, match="must be of integers, got bool") as error:
        tensor(3, 4)[mask]
    assert "gc.where(mask, x, 0)" in str(error.value)
    assert "tensor(3, 4)[mask]" in str(error.value)


def test_a_slice_from_a_tensor_is_refused_with_the_remedy():
    with pytest.raises(ArgumentError, match=r"gc.take\(x, start \+ gc.arange\(count\), axis\)"):
        tensor(3)[tensor(dtype="int64", index=1) :]


# --- gathers and scatters


@EACH_SIZE
@pytest.mark.parametrize(("axis", "indices"), [(0, [[0, 2], [1, -1]]), (-1, [3]), (1, 2), (None, [5, -1]), (0, [])])
def test_take_is_numpys(axis, indices, symbolic):
    index = np.array(indices, np.int64)
    check(lambda x: indexing.take(x, index, axis), lambda a: np.take(a, index, axis), numbers(3, 4), symbolic=symbolic)


def test_take_is_a_method_and_gather_is_its_name_in_tensorflow():
    x = tensor(3, 4)
    assert x.take([1], axis=0) is indexing.take(x, [1], 0) is indexing.gather(x, [1]) is x[[1]]


@EACH_SIZE
@pytest.mark.parametrize(
    ("shape", "index", "axis"),
    [((3, 4), (3, 2), 1), ((3, 4), (5, 4), 0), ((3, 4), (1, 2), -1), ((1, 4), (3, 2), 1), ((3, 4), (6,), None)],
)
def test_take_along_axis_is_numpys(shape, index, axis, symbolic):
    indices = np.random.default_rng(0).integers(-2, 3, index)
    check(
        lambda x, i: indexing.take_along_axis(x, i, axis),
        lambda a, i: np.take_along_axis(a, i, axis),
        *(numbers(*shape), indices),
        symbolic=symbolic,
    )


def test_gather_nd_takes_coordinates():
    i = np.array([[0, 1], [2, -1]])
    check(indexing.gather_nd, lambda a, i: a[i[:, 0], i[:, 1]], numbers(3, 4, 2), i)
    check(indexing.gather_nd, lambda a, i: a[i[..., 0]], numbers(3, 4), i[..., None])
    with pytest.raises(ShapeError, match="is no coordinate"):
        indexing.gather_nd(tensor(3), [[0, 1]])


@EACH_SIZE
def test_scatter_add_adds_what_meets(symbolic):
    x, updates = numbers(3, 2), numbers(4, 2)

    def expected(a, u):
        out = a.copy()
        np.add.at(out, [0, 2, 0, -1], u)
        return out

    check(lambda x, u: indexing.scatter_add(x, [0, 2, 0, -1], u), expected, x, updates, symbolic=symbolic)


def test_scatter_add_broadcasts_and_promotes():
    got = run(lambda x: indexing.scatter_add(x, [[1, 1]], 1, axis=1), np.zeros((2, 3), "float16"))
    np.testing.assert_array_equal(got, np.array([[0, 2, 0]] * 2, "float16"), strict=True)
    assert indexing.scatter_add(tensor(2, dtype="int8"), [0], tensor(1, dtype="int32", index=1)).dtype == "int32"
    assert indexing.scatter_add(tensor(2, dtype="int8"), [0], 1).dtype == "int8"
    assert indexing.scatter_add(tensor(2, dtype="bfloat16"), [0], 0.5).dtype == "bfloat16"


def test_scatter_add_along_axis_is_the_adjoint_of_take_along_axis():
    i = np.array([[0, 0, 2], [1, -1, 1]])

    def expected(a, u):
        out = a.copy()
        np.add.at(out, (np.arange(2)[:, None], i), u)
        return out

    check(lambda x, u: indexing.scatter_add_along_axis(x, i, u), expected, numbers(2, 4), numbers(2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: indexing.take(x, [0.5], 0), "must be of integers, got float64"),
        (lambda x: indexing.take(x, tensor(2, index=1), 0), "must be of integers, got float32"),
        (lambda x: indexing.take_along_axis(x, tensor(3, 4, index=1)), "must be of integers, got float32"),
        (lambda x: indexing.one_hot(x, 3), "must be of integers, got float32"),
        (lambda x: indexing.scatter_add(x > 0, [0], True), "expected numbers"),
    ],
)
def test_dtypes_that_do_not_index(call, message):
    with pytest.raises(DTypeError, match=message):
        call(tensor(3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: indexing.take(x, [0], 2), "axis 2 doesn't exist"),
        (lambda x: indexing.take_along_axis(x, np.array([0])), "has not as many axes as"),
        (lambda x: indexing.take_along_axis(x, np.zeros((2, 1), int), 1), "do not broadcast"),
        (lambda x: indexing.scatter_add(x, [0], np.zeros((2, 4))), "2 and 1 differ"),
        (lambda x: indexing.embedding([0], x[0, 0]), "has no rows"),
        (lambda x: indexing.tril(x[0]), "is no matrix"),
        (lambda x: indexing.diagonal(x, axis1=1), "are one"),
        (lambda x: indexing.diagonal(tensor(n, m)), "isn't known which is shorter"),
        (lambda x: indexing.gather_op(x, [0], axes=(0, 1)), "one for each of 1 indices"),
    ],
)
def test_shapes_that_do_not_index(call, message):
    with pytest.raises(ShapeError, match=message):
        call(tensor(3, 4))


@pytest.mark.parametrize("bad", [3, -4])
def test_an_index_out_of_range_in_the_run_is_an_error(bad):
    with pytest.raises(ArgumentError, match=f"index {bad} is out of range for axis 1, which has 3 elements"):
        run(lambda x, i: indexing.take(x, i, 1), numbers(2, 3), np.array([0, bad]))


def test_gradient_of_repeated_indices_adds_up():
    a = numbers(3, 2)
    x = leaf(a)
    (g,) = gradients(x[[0, 0, 2]], [x])
    (got,) = evaluate([g], {x: a})
    np.testing.assert_array_equal(got, [[2, 2], [0, 0], [1, 1]])


def test_gradient_of_a_gather_at_symbolic_sizes_has_the_type_of_the_tensor():
    x, i = tensor(n, m, 4), tensor(m, dtype="int32", index=1)
    (g,) = gradients(x[:, i, i], [x])
    assert g.type is x.type


# --- lookups


def test_one_hot_is_zero_outside():
    got = run(lambda i: indexing.one_hot(i, 3), np.array([[0, 2], [-1, 3]]))
    wanted = np.array([[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]], "float32")
    np.testing.assert_array_equal(got, wanted, strict=True)
    assert indexing.one_hot(tensor(n, dtype="uint8"), m, "bool").type is TensorType("bool", (n, m))


def test_embedding_looks_rows_up_and_pads_without_gradient():
    w, i = numbers(4, 2), np.array([[1, 3], [1, 0]])
    check(lambda i, w: indexing.embedding(i, w, padding_idx=-1), lambda i, w: w[i], i, w)
    weight = leaf(w)
    (g,) = gradients(indexing.embedding(i, weight, padding_idx=1), [weight])
    (got,) = evaluate([g], {weight: w})
    np.testing.assert_array_equal(got, [[1, 1], [0, 0], [0, 0], [1, 1]])
    with pytest.raises(ArgumentError, match="padding_idx=4 is no row"):
        indexing.embedding(i, weight, padding_idx=4)


# --- diagonals, triangles, repetition


@EACH_SIZE
@pytest.mark.parametrize(("offset", "axes"), [(0, (0, 1)), (1, (0, 1)), (-2, (1, 2)), (1, (2, 0)), (0, (-1, 1))])
def test_diagonal_is_numpys(offset, axes, symbolic):
    check(lambda x: indexing.diagonal(x, offset, *axes), lambda a: np.diagonal(a, offset, *axes), numbers(3, 3, 3))
    known = numbers(3, 2, 4)
    check(lambda x: indexing.diagonal(x, offset, *axes), lambda a: np.diagonal(a, offset, *axes), known)
    if not symbolic or offset == 0:
        check(lambda x: x.diagonal(0, *axes), lambda a: np.diagonal(a, 0, *axes), numbers(3, 3, 3), symbolic=symbolic)


@EACH_SIZE
@pytest.mark.parametrize("k", [0, 1, -2])
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangles_are_numpys(name, k, symbolic):
    ours, theirs = getattr(indexing, name), getattr(np, name)
    check(lambda x: ours(x, k), lambda a: theirs(a, k), numbers(2, 3, 4), symbolic=symbolic)
    check(lambda x: ours(x, k), lambda a: theirs(a, k), numbers(3, 3) > 0, symbolic=symbolic)


@EACH_SIZE
@pytest.mark.parametrize(("repeats", "axis"), [(2, 0), (3, -1), (2, None), (0, 0)])
def test_repeat_is_numpys(repeats, axis, symbolic):
    check(lambda x: x.repeat(repeats, axis), lambda a: np.repeat(a, repeats, axis), numbers(3, 4), symbolic=symbolic)


def test_repeat_takes_a_count_for_each_element():
    check(lambda x: x.repeat([2, 0, 1], 0), lambda a: np.repeat(a, [2, 0, 1], 0), numbers(3, 4))
    assert tensor(n).repeat(m).shape == (n * m,)
    with pytest.raises(ArgumentError, match="3 ints >= 0 for axis 0"):
        tensor(3).repeat([1, 2], 0)
