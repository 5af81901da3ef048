"""Products: NumPy's rules for ranks, dtypes and labels, what symbols guard, and the messages."""

import numpy as np
import pytest
from numpy_testing import check, guards, leaf, numbers, run

from graphc.dims import symbol
from graphc.errors import ArgumentError, ShapeError
from graphc.ir import toposort
from graphc.operands import parameter
from graphc.ops.linalg import dot, einsum, linear, matmul, outer, tensordot
from graphc.ops.state import placeholder
from graphc.passes.gradients import gradients
from graphc.types import TensorType

EACH_SIZE = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])


def tensor(*dims, dtype="float32", index=0):
    return parameter(index, TensorType(dtype, dims))


def named(*symbols):
    return tuple(symbol(name) if isinstance(name, str) else name for name in symbols)


# --- matmul


@EACH_SIZE
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3, 4)),
        ((3, 4), (5, 4, 2)),
        ((5, 1, 2, 3), (4, 3, 2)),
        ((3,), (2, 3, 4)),
        ((2, 2, 3), (3,)),
        ((0, 3), (3, 2)),
        ((2, 0), (0, 3)),
    ],
)
def test_matmul_is_numpys(a, b, symbolic):
    check(matmul, np.matmul, numbers(*a), numbers(*b), symbolic=symbolic)


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ("int8", "int8", "int8"),
        ("int32", "int64", "int64"),
        ("bool", "bool", "bool"),
        ("int64", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float16", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
    ],
)
def test_operands_of_matmul_meet_in_one_dtype(a, b, result):
    y = matmul(tensor(2, 3, dtype=a), tensor(3, 4, dtype=b, index=1))
    assert y.type is TensorType(result, (2, 4))


def test_the_operator_takes_arrays_on_either_side():
    x, array = numbers(2, 2), np.array([[1, 2], [3, 4]], "float32")
    check(lambda x: x @ array, lambda x: x @ array, x)
    check(lambda x: array @ x, lambda x: array @ x, x)


def test_unequal_symbols_for_the_inner_size_are_refused():
    with pytest.raises(ShapeError, match=r"inner sizes differ: float32\[2, n\] @ float32\[m, 3\]"):
        matmul(tensor(*named(2, "n")), tensor(*named("m", 3), index=1))


def test_an_inner_size_that_is_not_known_is_guarded():
    assert guards(matmul(tensor(*named(2, "n")), tensor(5, 3, index=1))) == ["n == 5"]


def test_a_gradient_under_a_guard_has_the_type_of_its_operand():
    a, b = tensor(*named(2, "n")), tensor(5, 3, index=1)
    to_a, to_b = gradients(matmul(a, b), [a, b])
    assert to_a.type is a.type
    assert to_b.type is b.type


def test_inner_sizes_that_differ_are_explained():
    hidden = placeholder("hidden", ("batch", 784))
    weights = placeholder("weights", (10, 784))
    with pytest.raises(ShapeError) as caught:
        hidden @ weights
    head, line, *made, hint = str(caught.value).splitlines()
    assert head == "matmul: inner sizes differ: float32[batch, 784] @ float32[10, 784]"
    assert line.strip().startswith("test_ops_linalg.py:")
    assert line.endswith("hidden @ weights")
    assert [text.split(" was made at ")[0].strip() for text in made] == [hidden.name, weights.name]
    assert hint.strip() == f"hint: did you mean {weights.name}.T?"


@pytest.mark.parametrize(
    ("a", "b", "hint"),
    [
        ((2, 3), (4, 3), "transpose the second operand: x.T"),
        ((3, 2), (3, 4), "transpose the first operand: x.T"),
        ((2, 3), (4, 5), None),
        ((2, 3), (4,), None),
    ],
)
def test_a_transpose_is_offered_where_one_would_fit(a, b, hint):
    with pytest.raises(ShapeError, match="inner sizes differ") as caught:
        matmul(tensor(*a), tensor(*b, index=1))
    assert caught.value.hint == hint


def test_matmul_refuses_scalars_and_batches_that_do_not_broadcast():
    with pytest.raises(ShapeError, match=r"a scalar is no matrix: float32\[2, 3\] @ float32\[\]"):
        matmul(tensor(2, 3), 2.0)
    with pytest.raises(ShapeError, match=r"batch sizes don't broadcast: float32\[2, 3, 4\] @ float32\[3, 4, 5\]"):
        matmul(tensor(2, 3, 4), tensor(3, 4, 5, index=1))


# --- linear


@EACH_SIZE
@pytest.mark.parametrize("lead", [(2,), (), (2, 5), (0,)])
def test_linear_multiplies_by_the_transposed_weight(lead, symbolic):
    operands = numbers(*lead, 3), numbers(4, 3), numbers(4)
    check(linear, lambda x, w, b: x @ w.T + b, *operands, symbolic=symbolic)
    check(linear, lambda x, w: x @ w.T, *operands[:2], symbolic=symbolic)


def test_linear_multiplies_a_sequence_as_one_matrix():
    """Otherwise the gradient of the weight would be a matrix for each element of the batch."""
    w = tensor(4, 3, index=1)
    y = linear(tensor(7, 5, 3), w)
    products = [node for node in toposort(y.body.outputs) if node.op.name == "matmul"]
    assert [node.shape for node in products] == [(35, 4)]


def test_linear_explains_what_does_not_fit():
    x, w = tensor(2, 3), tensor(4, 5, index=1)
    with pytest.raises(ShapeError, match=r"weight \[n, k\], got float32\[2, 3\] and float32\[4, 5\]"):
        linear(x, w)
    with pytest.raises(ShapeError, match=r"the bias must be \[4\], one for each output, got float32\[3\]"):
        linear(tensor(2, 5), w, tensor(3, index=2))


# --- einsum

EQUATIONS = [
    ("ij,jk", (3, 4), (4, 2)),
    ("ba", (2, 3)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij,jkk->ik", (3, 3, 2), (2, 4, 4)),
    ("iii->i", (3, 3, 3)),
    ("ij->", (2, 3)),
    ("i,->i", (3,), ()),
    ("i,j", (3,), (4,)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("i,i,i->", (3,), (3,), (3,)),
    ("abc,cd,bd->a", (2, 3, 4), (4, 5), (3, 5)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("...ij,...jk->...ik", (5, 2, 3), (3, 4)),
    ("...ij,kj->...ik", (5, 7, 2, 3), (4, 3)),
    ("i...,j->...ij", (2, 3), (4,)),
    ("b...a,a->b...", (2, 5, 1, 3), (3,)),
    ("...,...", (2, 3), (3,)),
    ("...i", (2, 3)),
    ("... i -> ...", (2, 3)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ab,ab", (1, 3), (4, 3)),
]


@EACH_SIZE
@pytest.mark.parametrize("case", EQUATIONS, ids=lambda case: case[0])
def test_einsum_is_numpys(case, symbolic):
    equation, *shapes = case
    arrays = [numbers(*shape, dtype="float64") for shape in shapes]
    check(lambda *xs: einsum(equation, *xs), lambda *xs: np.einsum(equation, *xs), *arrays, symbolic=symbolic)


def test_a_contraction_is_a_matmul_and_an_outer_product_is_none():
    def ops(equation, *shapes):
        y = einsum(equation, *[tensor(*shape, index=k) for k, shape in enumerate(shapes)])
        return {node.op.name for node in toposort(y.body.outputs)}

    assert "matmul" in ops("bij,bkj->bik", (2, 3, 4), (2, 5, 4))
    assert ops("i,j->ij", (3,), (4,)).isdisjoint({"matmul", "reduce_sum"})


def test_equations_that_mean_the_same_are_one_node():
    a, b = tensor(2, 3), tensor(3, 4, index=1)
    assert einsum("ij,jk", a, b) is einsum("ij, jk -> ik", a, b)


def test_einsum_promotes_its_operands():
    assert einsum("i,i", tensor(3, dtype="int32"), tensor(3, dtype="float64", index=1)).dtype == "float64"


def test_a_diagonal_of_sizes_that_may_differ_is_guarded():
    y = einsum("ii->i", tensor(*named("n", 5)))
    assert [str(guard) for node in toposort(y.body.outputs) for guard in node.guards] == ["5 == n"]


@pytest.mark.parametrize(
    ("equation", "error", "message"),
    [
        ("i1,j->i", ArgumentError, "'i1' in 'i1,j->i' is neither letters nor"),
        ("ij->i", ArgumentError, "is for 1 operands, got 2"),
        ("ij,jk->il", ArgumentError, "the result 'il' of 'ij,jk->il' may have each label of the operands once"),
        ("ij,jk->ii", ArgumentError, "the result 'ii'"),
        ("ij,jk->...ik", ArgumentError, "the result '...ik'"),
        ("ijk,jk->i", ShapeError, "'ijk' can't label the axes of an operand that has 2"),
        ("i...jk,jk->i", ShapeError, "can't label the axes of an operand that has 2"),
        ("ij,jk->ik", ShapeError, r"'j' is 3 and 4 in float32\[2, 3\], float32\[4, 5\]"),
    ],
)
def test_einsum_explains_what_is_wrong(equation, error, message):
    with pytest.raises(error, match=message):
        einsum(equation, tensor(2, 3), tensor(4, 5, index=1))


# --- what follows from them


@pytest.mark.parametrize(
    ("a", "b", "axes"),
    [
        ((2, 3, 4), (3, 4, 5), 2),
        ((2, 3), (3, 4), 1),
        ((2, 3), (4,), 0),
        ((2, 3, 4), (4, 3, 5), ((1, 2), (1, 0))),
        ((2, 3, 4), (5, 2), (0, -1)),
    ],
)
def test_tensordot_is_numpys(a, b, axes):
    operands = numbers(*a), numbers(*b)
    check(lambda a, b: tensordot(a, b, axes), lambda a, b: np.tensordot(a, b, axes), *operands)


def test_tensordot_refuses_axes_that_do_not_pair():
    with pytest.raises(ArgumentError, match="2 axes can't meet 1"):
        tensordot(tensor(2, 3), tensor(2, 3, index=1), ((0, 1), (0,)))


@pytest.mark.parametrize(
    ("a", "b"), [((), (3,)), ((3,), (3,)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((2, 3, 4), (5, 4, 2)), ((2, 3), ())]
)
def test_dot_is_numpys(a, b):
    check(dot, np.dot, numbers(*a), numbers(*b))


@pytest.mark.parametrize(("a", "b"), [((3,), (4,)), ((2, 2), (3,)), ((), (3,))])
def test_outer_is_numpys(a, b):
    check(outer, np.outer, numbers(*a), numbers(*b))


def test_products_are_methods_too():
    x, y = numbers(2, 3), numbers(3, 2)
    assert np.array_equal(run(lambda x, y: x.matmul(y), x, y), x @ y)
    assert np.array_equal(run(lambda x, y: x.dot(y), x, y), x @ y)
    assert leaf(x).matmul(leaf(y, index=1)) is matmul(leaf(x), leaf(y, index=1))
