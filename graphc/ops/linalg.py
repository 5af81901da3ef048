"""Products of matrices and tensors: matmul by NumPy's rules, einsum, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import Any

import numpy as np

from graphc.composites import composite
from graphc.dims import Dim, compare, product, require_equal, take_guards
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.ir import Leaf, Node
from graphc.op import Cotangents, Op, Sample
from graphc.operands import (
    as_node,
    astype,
    expand,
    expand_dims_op,
    normalise_axis,
    primitive,
    reduce_sum,
    squeeze_op,
)
from graphc.operators import method
from graphc.ops.indexing import diagonal
from graphc.ops.math import multiply
from graphc.ops.shape import broadcast_to, matrix_transpose, reshape, transpose
from graphc.source import here
from graphc.types import TensorType, broadcast_shapes, promote

Labels = tuple[str, ...]


def in_one_dtype(*values: Any) -> list[Any]:
    """The operands as tensors of the dtype that they are promoted to."""
    nodes = [as_node(value) for value in values]
    dtype = promote(*[node.dtype for node in nodes])
    return [astype(node, dtype) for node in nodes]


def origins(*values: Any) -> list[str]:
    """The user's line, and where the operands were made, for a message."""
    return [here(), *dict.fromkeys(value.made_at for value in values if isinstance(value, Node) and value.made_at)]


# --------------------------------------------------------------------------------------------- matmul


def _infer_matmul(a: TensorType, b: TensorType) -> TensorType:
    if a.dtype != b.dtype:
        raise DTypeError(f"operands must have one dtype, got {a} and {b}")
    if a.rank != b.rank or a.rank < 2:
        raise ShapeError(f"operands must be [..., m, k] and [..., k, n] with the same batch sizes, got {a} and {b}")
    if a.shape[-1] is not b.shape[-2]:
        require_equal(a.shape[-1], b.shape[-2], f"inner sizes of {a} @ {b}")
    batch = a.shape[:-2]
    if batch != b.shape[:-2]:
        why = f"batch sizes of {a} @ {b}"
        batch = tuple([require_equal(m, n, why) for m, n in zip(batch, b.shape[:-2], strict=True)])
    return a.with_shape((*batch, a.shape[-2], b.shape[-1]))


def _matmul_vjp(g: Node, y: Node, a: Node, b: Node) -> Cotangents:
    to_a, to_b = matmul_op(g, matrix_transpose(b)), matmul_op(matrix_transpose(a), g)
    return expand(to_a, a.shape), expand(to_b, b.shape)


def _matrices(rng: np.random.Generator) -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 5), (5, 2)),
        ((2, 3, 4, 5), (2, 3, 5, 1)),
        ((7, 1, 3), (7, 3, 1)),
        ((3, 0), (0, 2)),
        ((0, 3), (3, 2)),
    ]
    return [Sample((rng.standard_normal(a), rng.standard_normal(b))) for a, b in shapes]


matmul_op: Op = primitive(
    "matmul",
    _infer_matmul,
    np.matmul,
    _matmul_vjp,
    "contract",
    samples=_matrices,
    doc="a[..., m, k] times b[..., k, n], of one dtype and with the same batch sizes.",
)


@method("matmul")
def matmul(a: Any, b: Any) -> Any:
    """The matrix product, by NumPy's rules.

    Args:
        a: [..., m, k], or a vector [k].
        b: [..., k, n], or a vector [k].

    Returns:
        [..., m, n]; the leading sizes broadcast, and a vector's axis is dropped again.

    Raises:
        ShapeError: the inner sizes differ, the leading ones don't broadcast, or an operand is a scalar.
    """
    if isinstance(a, Node) and isinstance(b, Node) and (a.type, b.type) in matmul_op.results:
        return matmul_op(a, b)  # operands of types that once needed no cast, broadcast or guard don't need them now
    a, b = in_one_dtype(a, b)
    if not a.ndim or not b.ndim:
        raise ShapeError(f"matmul: a scalar is no matrix: {a.type} @ {b.type}", hint="a * b", lines=origins(a, b))
    left = expand_dims_op(a, axes=(0,)) if a.ndim == 1 else a
    right = expand_dims_op(b, axes=(1,)) if b.ndim == 1 else b
    if compare(left.shape[-1], right.shape[-2]) == "different":
        raise ShapeError(
            f"matmul: inner sizes differ: {a.type} @ {b.type}", hint=_transposed_hint(a, b), lines=origins(a, b)
        )
    try:
        batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ShapeError as error:
        raise ShapeError(f"matmul: batch sizes don't broadcast: {a.type} @ {b.type}", lines=origins(a, b)) from error
    take_guards()  # broadcast_to records them again, on the node that needs them
    y = matmul_op(broadcast_to(left, (*batch, *left.shape[-2:])), broadcast_to(right, (*batch, *right.shape[-2:])))
    added = [axis for axis, vector in ((y.ndim - 2, a.ndim == 1), (y.ndim - 1, b.ndim == 1)) if vector]
    return squeeze_op(y, axes=tuple(added)) if added else y


def _transposed_hint(a: Any, b: Any) -> str | None:
    """The operand whose transpose would fit, if one would."""
    if a.ndim != 2 or b.ndim != 2:
        return None
    for x, side, fits in ((b, "second", a.shape[1] == b.shape[1]), (a, "first", a.shape[0] == b.shape[0])):
        if fits:
            return f"did you mean {x.display_name}.T?" if isinstance(x, Leaf) else f"transpose the {side} operand: x.T"
    return None


# --------------------------------------------------------------------------------------------- linear layers


def _layers(rng: np.random.Generator) -> list[Sample]:
    shapes: list[tuple[tuple[int, ...], ...]] = [
        ((3, 5), (2, 5), (2,)),
        ((2, 3, 4), (5, 4), (5,)),
        ((4,), (3, 4), (3,)),
        ((3, 2), (1, 2)),
        ((0, 3), (2, 3), (2,)),
    ]
    return [Sample(tuple(map(rng.standard_normal, operands))) for operands in shapes]


@composite(name="linear", samples=_layers)
def linear_op(x: Any, weight: Any, bias: Any = None) -> Any:
    """x[..., k] times the transpose of weight[n, k], plus bias[n]."""
    if not x.ndim or weight.ndim != 2 or compare(x.shape[-1], weight.shape[1]) == "different":
        raise ShapeError(f"linear: the input must be [..., k] and the weight [n, k], got {x.type} and {weight.type}")
    if bias is not None and (bias.ndim != 1 or compare(bias.shape[0], weight.shape[0]) == "different"):
        raise ShapeError(f"linear: the bias must be [{weight.shape[0]}], one for each output, got {bias.type}")
    rows = x if x.ndim == 2 else reshape(x, (product(x.shape[:-1]), x.shape[-1]))
    y = matmul_op(rows, matrix_transpose(weight))
    y = y if bias is None else y + bias
    return y if x.ndim == 2 else reshape(y, (*x.shape[:-1], weight.shape[0]))


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """A fully connected layer, as `torch.nn.functional.linear`: x[..., k], weight[n, k], bias[n] give [..., n].

    Raises:
        ShapeError: the sizes k, or the sizes n, differ.
    """
    return linear_op(*in_one_dtype(*(value for value in (x, weight, bias) if value is not None)))


# --------------------------------------------------------------------------------------------- einsum


def _split(equation: str, count: int) -> tuple[list[str], str]:
    """The labels of `count` operands and of the result, as written, without spaces.

    Without `->` the result has the labels that occur once, in alphabetical order, after the ellipsis.

    Raises:
        ArgumentError: the equation is malformed, or speaks of another number of operands.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    for term in (*terms, right):
        bare = term.replace("...", "", 1)
        if bare and not (bare.isascii() and bare.isalpha()):
            raise ArgumentError(f"einsum: {term!r} in {equation!r} is neither letters nor '...'")
    if len(terms) != count:
        raise ArgumentError(f"einsum: {equation!r} is for {len(terms)} operands, got {count}")
    if not arrow:
        letters = "".join(terms).replace(".", "")
        once = sorted(label for label in set(letters) if letters.count(label) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    result = right.replace(".", "")
    wrong = [label for label in dict.fromkeys(result) if label not in left or result.count(label) > 1]
    if wrong or ("..." in right and "..." not in left):
        raise ArgumentError(
            f"einsum: the result {right!r} of {equation!r} may have each label of the operands once",
        )
    return terms, right


def _labels(term: str, rank: int, extra: int) -> Labels:
    """The label of each axis of an operand; those of an ellipsis are numbered from the last of `extra` ones."""
    before, ellipsis, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    if hidden < 0 or (hidden and not ellipsis):
        raise ShapeError(f"einsum: {term!r} can't label the axes of an operand that has {rank}")
    return (*before, *map(str, range(extra - hidden, extra)), *after)


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each axis of the operands and of the result."""
    terms, result = _split(equation, len(ranks))
    hidden = [rank - len(term) + len("...") for term, rank in zip(terms, ranks, strict=True) if "..." in term]
    extra = max(hidden, default=0)
    operands = [_labels(term, rank, extra) for term, rank in zip(terms, ranks, strict=True)]
    written = len(result.replace("...", ""))
    return operands, _labels(result, written + extra if "..." in result else written, extra)


def _sizes(operands: Sequence[Any], terms: Sequence[Labels]) -> dict[str, Dim]:
    """The size of each label; 1 yields to any other.

    Raises:
        ShapeError: a label has two sizes.
    """
    sizes: dict[str, Dim] = {}
    for x, labels in zip(operands, terms, strict=True):
        for label, size in zip(labels, x.shape, strict=True):
            known = sizes.setdefault(label, size)
            if known == 1:
                sizes[label] = size
            elif size != 1 and compare(known, size) == "different":
                shapes = ", ".join(str(operand.type) for operand in operands)
                raise ShapeError(f"einsum: {label!r} is {known} and {size} in {shapes}")
    return sizes


def _only(x: Any, labels: Labels, kept: set[str]) -> tuple[Any, Labels]:
    """`x` summed over the axes whose labels aren't kept."""
    axes = tuple(k for k, label in enumerate(labels) if label not in kept)
    if not axes:
        return x, labels
    return squeeze_op(reduce_sum(x, axes=axes), axes=axes), tuple(label for label in labels if label in kept)


def _diagonal(x: Any, labels: Labels) -> tuple[Any, Labels]:
    """`x` with each label once: where one repeats, only the elements with equal indices."""
    while repeated := next((label for label in labels if labels.count(label) > 1), ""):
        first = labels.index(repeated)
        second = labels.index(repeated, first + 1)
        square = (*x.shape[:second], x.shape[first], *x.shape[second + 1 :])  # a guard, if it isn't known to be one
        x = diagonal(broadcast_to(x, square), 0, first, second)
        labels = (*(label for k, label in enumerate(labels) if k not in (first, second)), repeated)
    return x, labels


def _without_ones(x: Any, labels: Labels, sizes: dict[str, Dim]) -> tuple[Any, Labels]:
    """`x` without the axes of size 1 whose labels are larger elsewhere: there it is the same for every index."""
    axes = tuple(k for k, label in enumerate(labels) if x.shape[k] == 1 and sizes[label] != 1)
    if not axes:
        return x, labels
    return squeeze_op(x, axes=axes), tuple(label for k, label in enumerate(labels) if k not in axes)


def _ordered(x: Any, labels: Labels, order: Labels) -> Any:
    return transpose(x, [labels.index(label) for label in order])


def _joined(a: Any, a_labels: Labels, b: Any, b_labels: Labels, needed: set[str]) -> tuple[Any, Labels]:
    """The product of two operands, summed over the labels that both have and nobody else needs."""
    a, a_labels = _only(a, a_labels, needed | set(b_labels))
    b, b_labels = _only(b, b_labels, needed | set(a_labels))
    both = [label for label in a_labels if label in b_labels]
    batch = tuple(label for label in both if label in needed)
    inner = tuple(label for label in both if label not in needed)
    rows = tuple(label for label in a_labels if label not in both)
    columns = tuple(label for label in b_labels if label not in both)
    a = _ordered(a, a_labels, (*batch, *rows, *inner))
    b = _ordered(b, b_labels, (*batch, *inner, *columns))
    start, end = len(batch), len(batch) + len(rows)
    lead, left, right = a.shape[:start], a.shape[start:end], b.shape[start + len(inner) :]
    if inner:
        a = reshape(a, (*lead, product(left), product(a.shape[end:])))
        b = reshape(b, (*b.shape[:start], product(b.shape[start : start + len(inner)]), product(right)))
        y = reshape(matmul_op(a, b), (*lead, *left, *right))
    else:
        a = reshape(a, (*lead, *left, *(1,) * len(right)))
        y = multiply(a, reshape(b, (*b.shape[:start], *(1,) * len(left), *right)))
    return y, (*batch, *rows, *columns)


def _equations(rng: np.random.Generator) -> list[Sample]:
    cases: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
        ("ij,jk->ik", ((3, 4), (4, 2))),
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("...ij,...jk->...ik", ((2, 3, 4), (1, 4, 5))),
        ("ii->i", ((4, 4),)),
        ("iji->j", ((3, 2, 3),)),
        ("ij->", ((3, 0),)),
        ("i,j->ji", ((3,), (4,))),
        ("ab,bc,cd->ad", ((2, 3), (3, 4), (4, 5))),
        ("ij,ij,ij->i", ((2, 3), (2, 3), (2, 3))),
        ("ij,jk->ik", ((2, 1), (3, 4))),
    ]
    return [Sample(tuple(map(rng.standard_normal, shapes)), {"equation": text}) for text, shapes in cases]


@composite(name="einsum", samples=_equations)
def einsum_op(*operands: Any, equation: str) -> Any:
    """Einstein's sum over operands of one dtype; `equation` has its `->`. Operands are joined from the left."""
    terms, result = _parsed(equation, [x.ndim for x in operands])
    sizes = _sizes(operands, terms)
    work = [_without_ones(*_diagonal(x, labels), sizes) for x, labels in zip(operands, terms, strict=True)]
    y, labels = work[0]
    for k, (x, more) in enumerate(work[1:], start=2):
        needed = set(result).union(*(later for _, later in work[k:]))
        y, labels = _joined(y, labels, x, more, needed)
    y, labels = _only(y, labels, set(result))
    return _ordered(y, labels, result)


def einsum(equation: str, *operands: Any) -> Any:
    """Einstein's sum, as `numpy.einsum`.

    Args:
        equation: the labels of the axes of each operand and of the result, such as "bij,bjk->bik". A label that the
            result lacks is summed over; one that an operand repeats takes its diagonal; `...` stands for any leading
            sizes, which broadcast. Without `->` the result has the labels that occur once, in alphabetical order.
        operands: promoted to one dtype; a size 1 broadcasts.

    Raises:
        ArgumentError: the equation is malformed. ShapeError: it doesn't fit the operands.
    """
    terms, result = _split(equation, len(operands))
    tensors = in_one_dtype(*operands)
    parsed, _ = _parsed(equation, [x.ndim for x in tensors])
    _sizes(tensors, parsed)
    return einsum_op(*tensors, equation=f"{','.join(terms)}->{result}")


# --------------------------------------------------------------------------------------------- what follows


def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """The product of `a` and `b`, summed over pairs of axes, as `numpy.tensordot`.

    Args:
        axes: how many of the last axes of `a` meet the first of `b`, or the axes of `a` and those of `b`.
    """
    a, b = in_one_dtype(a, b)
    counted = not isinstance(axes, tuple | list)
    of_a, of_b = (range(a.ndim - axes, a.ndim), range(axes)) if counted else map(_several, axes)
    left = [normalise_axis(axis, a.shape) for axis in of_a]
    right = [normalise_axis(axis, b.shape) for axis in of_b]
    if len(left) != len(right):
        raise ArgumentError(f"tensordot: {len(left)} axes can't meet {len(right)}")
    first = ascii_letters[: a.ndim]
    second = list(ascii_letters[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        second[j] = first[i]
    result = [label for label in (*first, *second) if (label in first) != (label in second)]
    return einsum(f"{first},{''.join(second)}->{''.join(result)}", a, b)


def _several(axes: Any) -> Sequence[Any]:
    return axes if isinstance(axes, tuple | list) else (axes,)


@method("dot")
def dot(a: Any, b: Any) -> Any:
    """NumPy's product: of scalars their product; else summed over the last axis of `a` and the last but one of `b`."""
    a, b = in_one_dtype(a, b)
    if not a.ndim or not b.ndim:
        return multiply(a, b)
    return matmul(a, b) if b.ndim <= 2 else tensordot(a, b, axes=(-1, -2))


def outer(a: Any, b: Any) -> Any:
    """The products of all pairs of elements, [size of a, size of b]."""
    a, b = in_one_dtype(a, b)
    return multiply(reshape(a, (-1, 1)), reshape(b, (1, -1)))
