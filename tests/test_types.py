"""Dtypes and their promotion, interned tensor types, and the shapes that broadcast."""

import copy
import gc
import itertools
import pickle
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.dims import Guard, evaluate, parse_dim, symbol, take_guards
from graphc.errors import DTypeError, ShapeError
from graphc.types import (
    DTYPES,
    TensorType,
    TupleType,
    broadcast_shapes,
    dtype_name,
    float_result,
    is_bool,
    is_float,
    is_integer,
    np_dtype,
    parse_shape,
    promote,
    promote_scalar,
)

batch, h = symbol("batch"), symbol("h")

INTEGERS = [name for name in DTYPES if is_integer(name)]


# ---- dtypes


@pytest.mark.parametrize("name", DTYPES)
def test_the_table_agrees_with_numpy(name):
    assert np_dtype(name).name == name
    assert DTYPES[name].itemsize == np.empty(1, np_dtype(name)).nbytes
    assert [is_float(name), is_integer(name), is_bool(name)].count(True) == 1


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_may_be_a_name_a_numpy_dtype_or_a_type(name):
    for written in (name, np_dtype(name), np_dtype(name).type):
        assert dtype_name(written) == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (float, "float64"),
        (int, "int64"),
        (bool, "bool"),
        ("float", "float64"),
        ("<f4", "float32"),
    ],
)
def test_python_types_and_aliases_mean_what_they_mean_in_numpy(written, name):
    assert dtype_name(written) == name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("flaot32", "'flaot32' is not a dtype of graphc; did you mean 'float32'"),
        ("int46", "did you mean .*'int64'"),
        (np.complex64, "complex64.* is not a dtype of graphc"),
        ("uint16", "'uint16' is not a dtype of graphc"),
        ("f4,,", "'f4,,' is not a dtype of graphc"),
        (None, "None is not a dtype of graphc"),
        (object(), "is not a dtype of graphc"),
    ],
)
def test_unknown_dtypes_get_near_names(written, message):
    with pytest.raises(DTypeError, match=message) as caught:
        dtype_name(written)
    assert "the dtypes are float64, float32" in str(caught.value)


# ---- promotion


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES, repeat=2)))
def test_promotion_is_numpys_but_for_integers_that_meet_floats(a, b):
    floats = [name for name in (a, b) if is_float(name)]
    if len(floats) == 1:
        assert promote(a, b) == floats[0]
    elif {a, b} == {"float16", "bfloat16"}:  # NumPy has no common dtype for these
        assert promote(a, b) == "float32"
    else:
        assert promote(a, b) == np.promote_types(np_dtype(a), np_dtype(b)).name


def test_the_exceptions():
    assert promote("int64", "float32") == "float32"
    assert promote("int64", "bfloat16") == "bfloat16"
    assert promote("bool", "float16") == "float16"
    assert promote("bfloat16", "float16") == "float32"


@given(st.lists(st.sampled_from(list(DTYPES)), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_promotion_depends_on_no_order(dtypes, random):
    shuffled = random.sample(dtypes, len(dtypes))
    assert promote(*dtypes) == promote(*shuffled) == promote(promote(*dtypes), dtypes[0])


def test_promotion_of_one_or_of_unknown_dtypes():
    assert promote("int8") == "int8"
    for unknown in (("float31",), ("float32", "float31"), ("float31", "float31"), ()):
        with pytest.raises(DTypeError):
            promote(*unknown)


@pytest.mark.parametrize(("dtype", "value"), list(itertools.product(DTYPES, [True, 3, 2.5])))
def test_python_scalars_are_weak_as_in_numpy(dtype, value):
    numpys = "float32" if dtype == "bfloat16" else dtype  # the extension type's scalars aren't weak in NumPy
    expected = np.result_type(np_dtype(numpys), value).name
    assert promote_scalar(dtype, value) == (dtype if expected == numpys else expected)


def test_numpy_scalars_are_not_weak():
    assert promote_scalar("float32", np.float64(2)) == "float64"
    assert promote_scalar("int8", np.int32(2)) == "int32"


@pytest.mark.parametrize(("dtype", "value"), [("int8", 128), ("uint8", -1), ("int64", 2**63), ("bool", 2**63)])
def test_an_integer_must_fit(dtype, value):
    with pytest.raises(DTypeError, match=f"the integer {value} does not fit") as caught:
        promote_scalar(dtype, value)
    assert "hint: cast the tensor" in str(caught.value)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_limits_of_an_integer_dtype_fit(dtype):
    limits = np.iinfo(np_dtype(dtype))
    assert promote_scalar(dtype, int(limits.min)) == promote_scalar(dtype, int(limits.max)) == dtype


@pytest.mark.parametrize("value", [1j, "1", None])
def test_other_values_are_no_scalars(value):
    with pytest.raises(DTypeError, match="is not a number that float32 can meet"):
        promote_scalar("float32", value)


@pytest.mark.parametrize("name", DTYPES)
def test_float_results_are_numpys(name):
    assert float_result(name) == np.exp(np.ones(1, np_dtype(name))).dtype.name


# ---- types


def test_equal_types_are_one_object():
    assert TensorType("float32", (batch, 784)) is TensorType("float32", (parse_dim("batch + 0"), 784))
    assert TensorType("float32", (batch,)) is not TensorType("float64", (batch,))
    assert TensorType("float32", (batch,)) is not TensorType("float32", (h,))
    assert TupleType([TensorType("bool"), TensorType("int8")]) is TupleType((TensorType("bool"), TensorType("int8")))


def test_a_type_is_made_of_canonical_parts():
    type_ = TensorType(np.float16, (np.int64(11), "2*h"))
    assert type_ is TensorType("float16", (11, 2 * h))
    assert [type(dim) for dim in type_.shape] == [int, type(h)]
    assert type(type_.dtype) is str


@pytest.mark.parametrize("shape", [(-1,), (2.5,), (None,), ("a b",)])
def test_a_type_needs_dimensions(shape):
    with pytest.raises(ShapeError):
        TensorType("float32", shape)


def test_a_type_needs_a_dtype():
    with pytest.raises(DTypeError, match="did you mean"):
        TensorType("float23", (3,))


@pytest.mark.parametrize(
    "value", [TensorType("bfloat16", (batch, 2 * h + 1, 3)), TupleType([TensorType("bool", (h,))])]
)
def test_copies_and_pickles_are_the_same_object(value):
    assert pickle.loads(pickle.dumps(value)) is value
    assert copy.copy(value) is value
    assert copy.deepcopy([value])[0] is value


def test_types_are_immutable():
    for value, name in ((TensorType("bool"), "shape"), (TupleType([]), "items")):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(value, name, ())
        with pytest.raises(AttributeError, match="immutable"):
            delattr(value, name)


def test_types_that_nobody_holds_are_forgotten():
    types = (TensorType("int16", (12345, size)) for size in range(10_000))
    gone = list(map(weakref.ref, types))
    gc.collect()
    assert sum(reference() is not None for reference in gone) < 5_000


def test_a_type_that_is_held_stays_the_same_object():
    held = TensorType("int16", (54321,))
    for size in range(10_000):
        TensorType("int16", (54321, size))
    assert TensorType("int16", (54321,)) is held


def test_attributes():
    type_ = TensorType("float32", (batch, 2 * h, 3))
    assert (type_.dtype, type_.rank, type_.symbolic) == ("float32", 3, True)
    assert type_.size is 6 * batch * h
    assert type_.nbytes is 24 * batch * h
    assert type_.symbols == {"batch", "h"}
    assert type_.with_dtype("int8") is TensorType("int8", (batch, 2 * h, 3))
    assert type_.with_shape((2,)) is TensorType("float32", (2,))

    known = TensorType("bool", (2, 3))
    assert (known.symbolic, known.symbols, known.size, known.nbytes) == (False, frozenset(), 6, 6)
    assert TensorType("float64").size == 1
    assert TensorType("float64").rank == 0


def test_bind_fills_in_sizes():
    type_ = TensorType("float32", (batch, 2 * h, 3))
    assert type_.bind({"batch": 4, "h": 5}) is TensorType("float32", (4, 10, 3))
    assert TupleType([type_]).bind({"batch": 4, "h": 5}) is TupleType([TensorType("float32", (4, 10, 3))])
    with pytest.raises(ShapeError, match="the size of h is not known"):
        type_.bind({"batch": 4})


def test_text():
    assert str(TensorType("float32", (batch, 784))) == "float32[batch, 784]"
    assert str(TensorType("float32")) == "float32[]"
    assert repr(TensorType("int8", ((h - 5) // 2 + 1,))) == "int8[(h - 5)//2 + 1]"
    assert str(TupleType([TensorType("bool"), TensorType("int8", (2,))])) == "(bool[], int8[2])"


# ---- shapes


@pytest.mark.parametrize(
    ("written", "shape"),
    [
        ((), ()),
        (3, (3,)),
        (np.int64(3), (3,)),
        ("batch", (batch,)),
        (2 * h, (2 * h,)),
        (["batch", 3, 2 * h], (batch, 3, 2 * h)),
        (np.array([2, 3]), (2, 3)),
        ((dim for dim in ("batch", 0)), (batch, 0)),
    ],
)
def test_parse_shape(written, shape):
    assert parse_shape(written) == shape
    assert not any(isinstance(dim, np.integer) for dim in parse_shape(shape))


def test_parse_shape_tells_every_problem():
    with pytest.raises(ShapeError) as caught:
        parse_shape((-1, 3, 2.0))
    assert "axis 0: a dimension can't be negative: -1" in str(caught.value)
    assert "axis 2: 2.0 (float) is not a dimension" in str(caught.value)


@pytest.mark.parametrize("written", [2.0, None, True, "2nd"])
def test_a_single_dimension_is_checked_too(written):
    with pytest.raises(ShapeError, match="is not a dimension"):
        parse_shape(written)


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple), max_size=3))
def test_known_shapes_broadcast_as_in_numpy(shapes):
    try:
        expected = np.broadcast_shapes(*shapes)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            broadcast_shapes(*shapes)
    else:
        assert broadcast_shapes(*shapes) == expected


@given(st.lists(st.lists(st.sampled_from([1, 3, "h", "h + 1", "w"]), max_size=4).map(tuple), max_size=3))
def test_symbolic_shapes_broadcast_as_their_sizes_do(shapes):
    sizes = {"h": 5, "w": 7}
    symbolic = [tuple(map(parse_dim, map(str, shape))) for shape in shapes]
    known = [tuple(evaluate(dim, sizes) for dim in shape) for shape in symbolic]
    try:
        result = broadcast_shapes(*symbolic)
    except ShapeError:
        holds = False
    else:
        holds = all(guard.holds(sizes) for guard in take_guards())
    take_guards()
    try:
        expected = np.broadcast_shapes(*known)
    except ValueError:
        assert not holds
    else:
        assert holds
        assert tuple(evaluate(dim, sizes) for dim in result) == expected


def test_a_symbol_meets_itself_and_1():
    assert broadcast_shapes((batch, 1, 3), (h, 1), (3,)) == (batch, h, 3)
    assert broadcast_shapes((batch, 784), (batch, 784)) == (batch, 784)
    assert take_guards() == ()


def test_what_is_not_proven_is_guarded():
    assert broadcast_shapes((2 * (h // 2), 4), (h, 4)) == (h, 4)
    assert broadcast_shapes((batch,), (3,)) == (3,)
    assert take_guards() == (
        Guard(2 * (h // 2), "==", h, "shapes [2*(h//2), 4] and [h, 4] are broadcast: axis -2"),
        Guard(batch, "==", 3, "shapes [batch] and [3] are broadcast: axis -1"),
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 3), (4,)), r"shapes \[2, 3\] and \[4\] do not broadcast: axis -1 is 3 and 4"),
        (((batch, 3), (h, 1)), r"shapes \[batch, 3\] and \[h, 1\] do not broadcast: axis -2 is batch and h"),
        (((h,), (h + 1,)), r"axis -1 is h and h \+ 1"),
    ],
)
def test_shapes_that_do_not_broadcast(shapes, message):
    with pytest.raises(ShapeError, match=message):
        broadcast_shapes(*shapes)
