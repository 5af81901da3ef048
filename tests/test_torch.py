"""Functions held against PyTorch's: values, dtypes and gradients, at kinks, ties, zeros, infinities and nan too;
of graphs, and of eager tensors.

Runs where torch is installed: `make test-torch`. Where graphc means something else on purpose, the last table says so.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from torch_testing import SIDES, ours, theirs, torch

import graphc as gc
from benchmarks import op_cases
from benchmarks.systems import torch_ops
from benchmarks.workloads import FULL
from graphc.ops.activations import log_sigmoid
from graphc.ops.math import xlogy

F = torch.nn.functional

# torch warns once of what some of the cases are about
pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (r"var\(\)", "Using padding='same'")]

TOLERANCES = {"float64": 1e-11, "float32": 1e-5}  # relative to the value, or to 1
INF, NAN = np.inf, np.nan


class Case(NamedTuple):
    """One function here and in torch, and its operands: float64 ones have each dtype in turn, and a gradient."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    operands: tuple[np.ndarray[Any, Any], ...]


def drawn(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def in_dtype(operands: Any, dtype: str) -> list[np.ndarray[Any, Any]]:
    return [array.astype(dtype) if array.dtype == np.float64 else array for array in operands]


def each(cases: dict[str, Case]) -> Callable[..., Any]:
    """Run a test for every case of a table, in both precisions, of graphs and of eager tensors."""
    table = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases.items()])
    sides = pytest.mark.parametrize("side", SIDES)
    return lambda test: table(pytest.mark.parametrize("dtype", TOLERANCES)(sides(test)))


def check(case: Case, dtype: str, side: str, *, sums: bool = False) -> None:
    """Both agree up to rounding: of each element; of `sums`, whose terms cancel, of the largest one."""
    operands = in_dtype(case.operands, dtype)
    got, known = SIDES[side](case.ours, operands), theirs(case.theirs, operands)
    assert [a.dtype for a in got] == [a.dtype for a in known]
    tolerance = TOLERANCES.get(got[0].dtype.name, 0)
    for what, a, b in zip(("value", *[f"gradient {k}" for k in range(len(got))]), got, known, strict=False):
        largest = max(1, np.abs(b).max(initial=0, where=np.isfinite(b))) if sums else 1
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * largest, err_msg=what)


def both(name: str, **options: Any) -> tuple[Any, Any]:
    return partial(getattr(gc, name), **options), partial(getattr(F, name), **options)


# --- pointwise

KINKS = np.array([0, -0.0, 1, -1, 0.5, -0.5, 1.5, -1.5, 2, -2, 2.5, -2.5, 3, -3, 6, -6])
SPECIAL = np.array([*KINKS, 1e-30, -1e-30, 20, -20, 25, -25, 88.8, -88.8, 710, -710, 1e4, -1e4, INF, -INF, NAN])
NUMBERS = SPECIAL[~np.isnan(SPECIAL)]
FINITE = SPECIAL[np.isfinite(SPECIAL)]
PAIRS = tuple(m.ravel() for m in np.meshgrid([*KINKS[:8], 7, -7, INF, -INF, NAN], [*KINKS[:8], 3, -3, INF, -INF, NAN]))
REAL_PAIRS = tuple(array[~np.isnan(PAIRS[0]) & ~np.isnan(PAIRS[1])] for array in PAIRS)

UNARY: dict[str, tuple[Any, Any, Any]] = {
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("exp", "exp2", "expm1", "reciprocal")},
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("log", "log1p", "log2", "log10", "sqrt")},
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("rsqrt", "sigmoid", "tanh", "erf")},
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("sin", "cos", "tan", "square")},
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("ceil", "floor", "negative")},
    **{name: (getattr(gc, name), getattr(torch, name), SPECIAL) for name in ("isnan", "isinf", "isfinite")},
    "abs": (gc.abs, torch.abs, NUMBERS),
    "sign": (gc.sign, torch.sign, NUMBERS),
    "round": (gc.round, torch.round, SPECIAL),
    "round to decimals": (partial(gc.round, decimals=1), partial(torch.round, decimals=1), FINITE / 7),
    "relu": (gc.relu, F.relu, NUMBERS),
    "leaky_relu": (partial(gc.leaky_relu, negative_slope=0.3), partial(F.leaky_relu, negative_slope=0.3), SPECIAL),
    "elu": (gc.elu, F.elu, NUMBERS),
    "elu, alpha": (partial(gc.elu, alpha=1.7), partial(F.elu, alpha=1.7), NUMBERS),
    "gelu": (gc.gelu, F.gelu, FINITE),
    "gelu, tanh": (partial(gc.gelu, approximate="tanh"), partial(F.gelu, approximate="tanh"), FINITE),
    "silu": (gc.silu, F.silu, SPECIAL),
    "softplus": (gc.softplus, F.softplus, SPECIAL),
    "softplus, options": (lambda x: gc.softplus(x, 2.0, 7.0), lambda x: F.softplus(x, 2.0, 7.0), SPECIAL),
    "log_sigmoid": (log_sigmoid, F.logsigmoid, SPECIAL),
    "clip": (lambda x: gc.clip(x, -1, 1.5), lambda x: torch.clamp(x, -1, 1.5), SPECIAL),
    "clip below": (lambda x: gc.clip(x, min=0.5), lambda x: torch.clamp(x, min=0.5), SPECIAL),
    "clip, crossed": (lambda x: gc.clip(x, 2, 1), lambda x: torch.clamp(x, 2, 1), SPECIAL),
    **{f"power {k}": (lambda x, k=k: x**k, lambda x, k=k: x**k, FINITE) for k in (0, 1, 2, 3, 2.5, -1)},
    "power 0.5": (lambda x: x**0.5, lambda x: x**0.5, FINITE[FINITE > 0]),
    **{f"power of {k}": (lambda x, k=k: k**x, lambda x, k=k: k**x, SPECIAL) for k in (0, 2)},
}


@each({name: Case(*functions, (x,)) for name, (*functions, x) in UNARY.items()})
def test_functions_of_one_operand(case, dtype, side):
    check(case, dtype, side)


BINARY: dict[str, tuple[Any, Any, Any]] = {
    **{name: (getattr(gc, name), getattr(torch, name), PAIRS) for name in ("add", "subtract", "multiply", "divide")},
    **{name: (getattr(gc, name), getattr(torch, name), PAIRS) for name in ("less", "greater", "not_equal")},
    **{name: (getattr(gc, name), getattr(torch, name), PAIRS) for name in ("less_equal", "greater_equal", "remainder")},
    **{name: (getattr(gc, name), getattr(torch, name), REAL_PAIRS) for name in ("maximum", "minimum")},
    "equal": (gc.equal, torch.eq, PAIRS),
    "floor_divide": (gc.floor_divide, lambda a, b: torch.floor_divide(a.detach(), b.detach()), PAIRS),
    "power": (gc.power, torch.pow, REAL_PAIRS),
    "xlogy": (xlogy, torch.xlogy, PAIRS),
    "where": (lambda a, b: gc.where(a > b, a, b), lambda a, b: torch.where(a > b, a, b), PAIRS),
    "clip": (lambda a, b: gc.clip(a, b, 2 * gc.ones_like(a)), lambda a, b: a.clamp(b, torch.full_like(a, 2)), PAIRS),
}


@each({name: Case(*functions, pairs) for name, (*functions, pairs) in BINARY.items()})
def test_functions_of_two_operands(case, dtype, side):
    check(case, dtype, side)


# --- reductions, scans, order

X = drawn(2, 3, 4)
ROWS = np.array([[1, 3, 3, 2], [2, 2, 2, 2], [0, -0.0, 5, -1], [0, 0, 2, 3], [0, 1, 2, 3], [-1, -1, -2, -2.0]])
EXTREMES = np.array([[INF, 1, 2, 3], [-INF, 1, -INF, 3], [-INF, -INF, -INF, 0], [710, 709, 0, -710]])
TORCHS = {"max": "amax", "min": "amin"}


def reduction(name: str, axis: Any, keepdims: bool, **correction: float) -> tuple[Any, Any]:
    """The same reduction in NumPy's and in torch's spelling."""
    every = (0, 1, 2) if axis is None else axis
    divisor = {"correction": correction.get("correction", 0)} if name in ("var", "std") else {}
    return (
        partial(getattr(gc, name), axis=axis, keepdims=keepdims, **correction),
        partial(getattr(torch, TORCHS.get(name, name)), dim=every, keepdim=keepdims, **divisor),
    )


REDUCTIONS: dict[str, Case] = {
    **{
        f"{name}, axis {axis}, keepdims {keepdims}": Case(*reduction(name, axis, keepdims), (X,))
        for name in ("sum", "mean", "logsumexp", "max", "min", "var", "std", "any", "all")
        for axis, keepdims in product((0, -1, (0, 2), (-1, 0), None), (False, True))
    },
    **{f"{name} of ties": Case(*reduction(name, 1, False), (ROWS,)) for name in ("max", "min", "std", "logsumexp")},
    **{f"{name} of extremes": Case(*reduction(name, 1, False), (EXTREMES,)) for name in ("max", "logsumexp", "sum")},
    **{
        f"{name}, correction {c}": Case(*reduction(name, 1, False, correction=c), (X,))
        for name, c in product(("var", "std"), (1, 2))
    },
    "var of one": Case(*reduction("var", 1, False, correction=1), (np.full((3, 1), 2.0),)),
    "prod": Case(partial(gc.prod, axis=1), partial(torch.prod, dim=1), (ROWS,)),
    "prod of all": Case(gc.prod, torch.prod, (ROWS[1:2],)),
    "sum of nothing": Case(partial(gc.sum, axis=0), partial(torch.sum, dim=0), (np.zeros((0, 3)),)),
    "mean of nothing": Case(partial(gc.mean, axis=0), partial(torch.mean, dim=0), (np.zeros((0, 3)),)),
    "argmax": Case(partial(gc.argmax, axis=1), partial(torch.argmax, dim=1), (ROWS,)),
    "argmin": Case(partial(gc.argmin, axis=-1, keepdims=True), partial(torch.argmin, dim=-1, keepdim=True), (ROWS,)),
    "argmax of all": Case(gc.argmax, torch.argmax, (X,)),
    "argmax of nan": Case(partial(gc.argmax, axis=0), partial(torch.argmax, dim=0), (np.array([1, NAN, 3, NAN]),)),
    "sum of integers": Case(gc.sum, torch.sum, (np.arange(5, dtype="int32"),)),
    **{
        f"{name} {k}": Case(partial(getattr(gc, name), axis=k), partial(getattr(torch, name), dim=k), (x,))
        for name, (k, x) in product(("cumsum", "cumprod"), ((1, ROWS), (-2, X)))
    },
}


@each(REDUCTIONS)
def test_reductions_and_scans(case, dtype, side):
    check(case, dtype, side)


ORDERED = np.array([*ROWS.tolist(), [NAN, 1, 2, NAN], [INF, 1, 2, -INF], [-INF] * 4])
DISTINCT = np.random.default_rng(0).permutation(24).reshape(2, 3, 4) * 0.5


def sorted_by(descending: bool, part: int) -> tuple[Any, Any]:
    """Values (0) or indices (1) of a stable sort."""
    functions = (gc.sort, gc.argsort)
    return (
        partial(functions[part], axis=1, descending=descending),
        lambda x: torch.sort(x, dim=1, descending=descending, stable=True)[part],
    )


def largest(k: int, axis: int, flag: bool, part: int) -> tuple[Any, Any]:
    return lambda x: gc.topk(x, k, axis, largest=flag)[part], lambda x: torch.topk(x, k, axis, largest=flag)[part]


ORDER: dict[str, Case] = {
    **{f"sort {d}, {part}": Case(*sorted_by(d, part), (ORDERED,)) for d, part in product((False, True), (0, 1))},
    **{
        f"topk {axis}, {flag}, {part}": Case(*largest(2, axis, flag, part), (DISTINCT,))
        for axis, flag, part in product((-1, 1), (False, True), (0, 1))
    },
    "softmax": Case(partial(gc.softmax, axis=1), partial(torch.softmax, dim=1), (np.vstack([ORDERED, EXTREMES]),)),
    "log_softmax": Case(partial(gc.log_softmax, axis=1), partial(torch.log_softmax, dim=1), (ORDERED,)),
    "softmax, axis -2": Case(partial(gc.softmax, axis=-2), partial(torch.softmax, dim=-2), (X,)),
}


@each(ORDER)
def test_order_and_softmax(case, dtype, side):
    check(case, dtype, side)


# --- products, shapes, indices

SHAPES = (((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 1, 2, 3), (4, 3, 2)))
EQUATIONS = {
    "ij,jk": ((2, 3), (3, 4)),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "...ij,jk->...ik": ((5, 2, 3), (3, 4)),
    "ii->i": ((3, 3),),
    "ii": ((3, 3),),
    "ij->j": ((2, 3),),
    "iij->ij": ((3, 3, 2),),
    "bn,anm,bm->ba": ((2, 3), (5, 3, 4), (2, 4)),
    "b...,b...->b...": ((2, 3), (2, 3)),
    "bhqd,bhkd->bhqk": ((2, 3, 4, 5), (2, 3, 6, 5)),
}
ROW, TABLE = np.array([[0, 2, 4], [1, 1, 0]]), drawn(5, 3)
PAD = ((0, 0), (0, 0), (1, 2))
MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # torch's: NumPy's

STRUCTURE: dict[str, Case] = {
    **{f"matmul {a} {b}": Case(gc.matmul, torch.matmul, (drawn(*a), drawn(*b, seed=1))) for a, b in SHAPES},
    "matmul over nothing": Case(gc.matmul, torch.matmul, (drawn(2, 0), drawn(0, 3))),
    **{
        f"einsum {text}": Case(partial(gc.einsum, text), partial(torch.einsum, text), tuple(drawn(*s) for s in shapes))
        for text, shapes in EQUATIONS.items()
    },
    "linear": Case(gc.linear, F.linear, (X, drawn(5, 4), drawn(5))),
    "linear of a vector": Case(gc.linear, F.linear, (drawn(4), drawn(5, 4))),
    "outer": Case(gc.outer, torch.outer, (drawn(3), drawn(4))),
    "tensordot": Case(partial(gc.tensordot, axes=2), partial(torch.tensordot, dims=2), (X, drawn(3, 4, 5))),
    **{f"embedding {k}": Case(*both("embedding", padding_idx=k), (ROW, TABLE)) for k in (None, 0, 1, -1)},
    "one_hot": Case(partial(gc.one_hot, depth=5, dtype="int64"), partial(F.one_hot, num_classes=5), (ROW,)),
    "gather": Case(partial(gc.take_along_axis, axis=1), partial(torch.take_along_dim, dim=1), (drawn(2, 5), ROW)),
    "take": Case(lambda x, i: gc.take(x, i, axis=0), lambda x, i: x[i], (TABLE, ROW)),
    "tril": Case(partial(gc.tril, k=1), partial(torch.tril, diagonal=1), (X,)),
    "triu": Case(partial(gc.triu, k=-1), partial(torch.triu, diagonal=-1), (X,)),
    "diagonal": Case(gc.diagonal, torch.diagonal, (X,)),
    "roll": Case(lambda x: gc.roll(x, (1, -2), (0, 2)), lambda x: torch.roll(x, (1, -2), (0, 2)), (X,)),
    "repeat": Case(partial(gc.repeat, repeats=2, axis=1), lambda x: x.repeat_interleave(2, dim=1), (X,)),
    "tile": Case(lambda x: gc.tile(x, (2, 1, 3)), lambda x: torch.tile(x, (2, 1, 3)), (X,)),
    "flip": Case(lambda x: gc.flip(x, (0, 2)), lambda x: torch.flip(x, (0, 2)), (X,)),
    "chunk": Case(lambda x: gc.chunk(x, 3, 2)[1], lambda x: torch.chunk(x, 3, 2)[1], (X,)),
    **{
        f"pad, {mode}": Case(partial(gc.pad, pad_width=PAD, mode=numpys), lambda x, m=mode: F.pad(x, (1, 2), m), (X,))
        for mode, numpys in MODES.items()
    },
    "steps": Case(lambda x: x[:, 1:, ::2], lambda x: x[:, 1:, ::2], (X,)),
    "indices": Case(lambda x: x[0, [0, 2, 2], 1:], lambda x: x[0, [0, 2, 2], 1:], (X,)),
    "a new axis": Case(lambda x: x[None, ..., -1], lambda x: x[None, ..., -1], (X,)),
}


@each(STRUCTURE)
def test_products_shapes_and_indices(case, dtype, side):
    check(case, dtype, side, sums=True)


# --- convolutions and pooling

SIZES = (7, 6, 5)
KERNEL = (3, 2, 3)
CONVOLUTIONS = (
    *({}, {"stride": 2}, {"padding": 1}, {"padding": "same"}, {"padding": "valid"}, {"groups": 2}),
    *({"dilation": 2}, {"dilation": 2, "padding": "same"}, {"stride": 2, "padding": 1, "dilation": 2}),
)
TRANSPOSED = (
    *({}, {"stride": 2}, {"padding": 1}, {"stride": 2, "output_padding": 1}, {"groups": 2}, {"dilation": 2}),
    *({"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2},),
)
TIED = np.abs(np.round(drawn(2, 3, 9, 8, 5)))  # no zero of another sign, of which either may be the maximum
SMOOTH = drawn(2, 3, 9, 8, 5)
HOLES = np.where(drawn(2, 3, 9, 8) > 1.5, NAN, TIED[..., 0])


def pooling(name: str, *options: Any) -> tuple[Any, Any]:
    return lambda x: getattr(gc, name)(x, *options), lambda x: getattr(F, name)(x, *options)


def places(kernel: int, padding: int) -> tuple[Any, Any]:
    options: dict[str, Any] = dict(kernel_size=kernel, padding=padding, return_indices=True)
    return lambda x: gc.max_pool2d(x, **options)[1], lambda x: F.max_pool2d(x, **options)[1]


def plane(x: np.ndarray[Any, Any], rank: int) -> np.ndarray[Any, Any]:
    return x[(..., *[0] * (3 - rank))]


WINDOWS: dict[str, Case] = {
    **{
        f"conv{rank}d {options}": Case(
            *both(f"conv{rank}d", **options),
            (drawn(2, 4, *SIZES[:rank]), drawn(6, 4 // options.get("groups", 1), *KERNEL[:rank]), drawn(6)),
        )
        for rank, options in product((1, 2, 3), CONVOLUTIONS)
        if (rank, options.get("stride"), options.get("dilation")) != (3, 2, 2)  # the window wouldn't fit
    },
    **{
        f"conv_transpose{rank}d {options}": Case(
            *both(f"conv_transpose{rank}d", **options),
            (drawn(2, 4, *SIZES[:rank]), drawn(4, 6 // options.get("groups", 1), *KERNEL[:rank]), drawn(6)),
        )
        for rank, options in product((1, 2, 3), TRANSPOSED)
    },
    **{
        f"max_pool{rank}d {options}": Case(*pooling(f"max_pool{rank}d", *options), (plane(TIED, rank),))
        for rank, options in product((1, 2, 3), product((2, 3), (None, 1, 3), (0, 1), (1, 2), (False, True)))
        if rank == 2 or options[:3] == (3, None, 1)
    },
    **{
        f"avg_pool{rank}d {options}": Case(*pooling(f"avg_pool{rank}d", *options), (plane(SMOOTH, rank),))
        for rank, options in product((1, 2, 3), product((2, 3), (None, 1, 3), (0, 1), (False, True), (False, True)))
        if rank == 2 or options[:3] == (3, None, 1)
    },
    **{
        f"places in max_pool2d {k}, {padding}": Case(*places(k, padding), (TIED[..., 0],))
        for k, padding in product((2, 3), (0, 1))
    },
    "max_pool2d, uneven": Case(*both("max_pool2d", kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)), (TIED[..., 0],)),
    "max_pool2d of nan": Case(*both("max_pool2d", kernel_size=3, stride=2, padding=1), (HOLES,)),
    **{
        f"adaptive_avg_pool2d {size}": Case(*both("adaptive_avg_pool2d", output_size=size), (SMOOTH[..., 0],))
        for size in (1, 3, (3, 4), (2, None), (9, 8), (4, 5), (11, 8))
    },
}


@each(WINDOWS)
def test_convolutions_and_pooling(case, dtype, side):
    check(case, dtype, side, sums=True)


# --- normalisation and attention

IMAGES, VECTOR = drawn(4, 6, 3, 5), (drawn(6, seed=1), drawn(6, seed=2))
STATISTICS = drawn(6, seed=3), np.abs(drawn(6, seed=4)) + 0.1
QKV = drawn(2, 3, 5, 4), drawn(2, 3, 6, 4), drawn(2, 3, 6, 7)
SEEN = np.random.default_rng(0).random((5, 6)) < 0.5
SEEN[2], SEEN[3] = False, True  # one query sees nothing, one everything


def evaluated(module: Any) -> Callable[..., Any]:
    """Batch normalisation by statistics that torch doesn't differentiate."""
    centre, variance = (module.asarray(array) for array in STATISTICS)
    norm = gc.batch_norm if module is np else F.batch_norm
    cast = (lambda a, x: a.astype(x.dtype)) if module is np else (lambda a, x: a.to(x.dtype))
    return lambda x, w, b: norm(x, cast(centre, x), cast(variance, x), w, b, training=False, eps=1e-3)


def trained(norm: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *affine: norm(x, None, None, *affine, training=True, eps=1e-3)


LAYERS: dict[str, Case] = {
    "batch_norm, training": Case(trained(gc.batch_norm), trained(F.batch_norm), (IMAGES, *VECTOR)),
    "batch_norm of rows": Case(trained(gc.batch_norm), trained(F.batch_norm), (drawn(7, 6),)),
    "batch_norm, evaluation": Case(evaluated(np), evaluated(torch), (IMAGES, *VECTOR)),
    "layer_norm": Case(
        lambda x, w, b: gc.layer_norm(x, (3, 5), w, b),
        lambda x, w, b: F.layer_norm(x, (3, 5), w, b),
        (IMAGES, drawn(3, 5), drawn(3, 5, seed=1)),
    ),
    "layer_norm, plain": Case(lambda x: gc.layer_norm(x, 5), lambda x: F.layer_norm(x, (5,)), (IMAGES,)),
    "rms_norm": Case(lambda x, w: gc.rms_norm(x, 5, w), lambda x, w: F.rms_norm(x, (5,), w), (IMAGES, drawn(5))),
    "group_norm": Case(
        lambda x, w, b: gc.group_norm(x, 3, w, b), lambda x, w, b: F.group_norm(x, 3, w, b), (IMAGES, *VECTOR)
    ),
    "instance_norm": Case(
        gc.instance_norm, lambda x, w, b: F.instance_norm(x, weight=w, bias=b), (drawn(2, 6, 4, 5), *VECTOR)
    ),
    "attention": Case(*both("scaled_dot_product_attention"), QKV),
    "attention, scale": Case(*both("scaled_dot_product_attention", scale=0.3), QKV),
    "attention, causal": Case(*both("scaled_dot_product_attention", is_causal=True), QKV),
    "attention, more queries": Case(
        *both("scaled_dot_product_attention", is_causal=True), (drawn(2, 6, 4), drawn(2, 3, 4), drawn(2, 3, 4, seed=1))
    ),
    "attention, mask": Case(*both("scaled_dot_product_attention"), (*QKV, SEEN)),
    "attention, scores to add": Case(*both("scaled_dot_product_attention"), (*QKV, drawn(2, 1, 5, 6))),
    "attention, -inf to add": Case(*both("scaled_dot_product_attention"), (*QKV, np.where(SEEN, 0, -INF))),
}


@each(LAYERS)
def test_normalisation_and_attention(case, dtype, side):
    check(case, dtype, side)


def test_dropout_keeps_and_scales_as_often():
    x = np.ones((200, 200), "float32")
    with gc.Graph(), gc.Session() as session:
        got = session.run(gc.dropout(x, 0.3, training=True))
    known = F.dropout(torch.tensor(x), 0.3).numpy()
    assert set(np.unique(got)) == set(np.unique(known))
    assert got.mean() == pytest.approx(known.mean(), abs=0.02)


# --- losses

LOGITS, LABELS = drawn(6, 5), np.array([0, 4, 2, -100, 1, 2])
PLANES, PLANE_LABELS = drawn(3, 5, 4), np.random.default_rng(0).integers(0, 5, (3, 4))
CHANCES = np.random.default_rng(0).dirichlet(np.ones(5), 6)
CLASS_WEIGHT = np.array([0.5, 2, 1, 0.1, 3])
INPUT, TARGET = np.array([0, 1, -1, 2, 0.5, 3, -4, 1e4]), np.array([0, 0, 0, 0, 0, 1, 1, -1e4])
SCORES, WANTED = np.array([0, -0.0, 1, -1, 50, -50, 200, -200, 1e4]), np.array([0, 1, 0.3, 1, 0, 1, 1, 0, 0.5])
CERTAIN, OUTCOME = np.array([[0, 1, 0, 1, 0.5, 0.3, 1e-30], [0, 1, 1, 0, 0.5, 1, 1]], "float32")


def by_class(name: str, weighted: bool, target: Any, **options: Any) -> tuple[Any, Any]:
    """A loss of classes, whose weight torch doesn't differentiate."""

    def loss(module: Any, of: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Any) -> Any:
            weight = of(CLASS_WEIGHT.astype(str(x.dtype).removeprefix("torch."))) if weighted else None
            return getattr(module, name)(x, of(target), weight=weight, **options)

        return call

    return loss(gc.losses, lambda array: array), loss(F, torch.tensor)


def number_loss(name: str, **options: Any) -> tuple[Any, Any]:
    return partial(getattr(gc.losses, name), **options), partial(getattr(F, name), **options)


LOSSES: dict[str, Case] = {
    **{
        f"cross_entropy {reduction}, {smoothing}, {ignored}, {weighted}, rank {x.ndim}": Case(
            *by_class(
                "cross_entropy",
                weighted,
                np.where(y == -100, ignored, y),
                reduction=reduction,
                label_smoothing=smoothing,
                ignore_index=ignored,
            ),
            (x,),
        )
        for reduction, smoothing, ignored, weighted, (x, y) in product(
            *(("mean", "sum", "none"), (0.0, 0.1), (-100, 2), (False, True), ((LOGITS, LABELS), (PLANES, PLANE_LABELS)))
        )
    },
    **{
        f"cross_entropy of chances {reduction}, {smoothing}": Case(
            *number_loss("cross_entropy", reduction=reduction, label_smoothing=smoothing), (LOGITS, CHANCES)
        )
        for reduction, smoothing in product(("mean", "sum", "none"), (0.0, 0.2))
    },
    "cross_entropy of weighted chances": Case(*by_class("cross_entropy", True, CHANCES.astype("f")), (LOGITS,)),
    "cross_entropy of a vector": Case(*by_class("cross_entropy", False, np.array(2), reduction="none"), (LOGITS[0],)),
    "cross_entropy of nothing": Case(*by_class("cross_entropy", False, np.full(6, -100)), (LOGITS,)),
    "cross_entropy of large scores": Case(*by_class("cross_entropy", False, LABELS), (LOGITS * 1e4,)),
    **{
        f"nll_loss {how}, {weighted}": Case(*by_class("nll_loss", weighted, LABELS, reduction=how), (LOGITS,))
        for how, weighted in product(("mean", "sum", "none"), (False, True))
    },
    **{
        f"{name} {reduction} {options}": Case(*number_loss(name, reduction=reduction, **options), (INPUT, TARGET))
        for reduction, (name, options) in product(
            ("mean", "sum", "none"),
            [
                *[(name, {}) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")],
                *[("smooth_l1_loss", {"beta": beta}) for beta in (0.0, 0.5, 2.0)],
                *[("huber_loss", {"delta": delta}) for delta in (0.5, 2.0)],
            ],
        )
    },
    **{
        f"binary_cross_entropy_with_logits {reduction}": Case(
            *number_loss("binary_cross_entropy_with_logits", reduction=reduction), (SCORES, WANTED)
        )
        for reduction in ("mean", "sum", "none")
    },
    "binary_cross_entropy_with_logits, weights": Case(
        lambda x, y, *w: gc.losses.binary_cross_entropy_with_logits(x, y, weight=w[0], pos_weight=w[1]),
        lambda x, y, *w: F.binary_cross_entropy_with_logits(x, y, weight=w[0], pos_weight=w[1]),
        (SCORES.reshape(3, 3), WANTED.reshape(3, 3), np.array([1, 2, 3]), np.array([3, 1, 2])),
    ),
    **{
        f"binary_cross_entropy {reduction}": Case(
            lambda x, r=reduction: gc.losses.binary_cross_entropy(x, OUTCOME, reduction=r),
            lambda x, r=reduction: F.binary_cross_entropy(x, torch.tensor(OUTCOME), reduction=r),
            (CERTAIN,),
        )
        for reduction in ("mean", "sum", "none")
    },
}


@each(LOSSES)
def test_losses(case, dtype, side):
    check(case, dtype, side)


# --- where graphc means something else on purpose


class Deviation(NamedTuple):
    """Functions that differ at an operand: in the value (0) or the sum's gradient (1), what it is here and there."""

    why: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    operand: list[float]
    result: int
    here: Any
    there: Any


DEVIATIONS: dict[str, Deviation] = {
    "variance": Deviation("NumPy divides by n", gc.var, torch.var, [1, 3], 0, 1, 2),
    "sign of nan": Deviation("NumPy's", gc.sign, torch.sign, [NAN], 0, [NAN], [0]),
    "gradient of abs at nan": Deviation("that of sign", gc.abs, torch.abs, [NAN], 1, [NAN], [0]),
    "gradient of relu at nan": Deviation("nan isn't positive", gc.relu, F.relu, [NAN], 1, [0], [1]),
    "gradient of maximum at nan": Deviation(
        "nan isn't greater", lambda x: gc.maximum(x, 0), lambda x: x.maximum(torch.zeros(1)), [NAN], 1, [0], [1]
    ),
    "gradient of max at nan": Deviation("nothing equals nan", gc.max, torch.amax, [NAN, 1], 1, [0, 0], [NAN, NAN]),
    "gradient of logsumexp at -inf": Deviation(
        "neither of two hidden scores counts", gc.logsumexp, lambda x: x.logsumexp(0), [-INF] * 2, 1, [0, 0], [NAN, NAN]
    ),
    "remainder of 0": Deviation(
        "NumPy's has the divisor's sign, as a zero too",
        *(lambda x: 1 / gc.remainder(x, -1), lambda x: 1 / torch.remainder(x, -1)),
        *([1], 0, [-INF], [INF]),
    ),
    "split": Deviation(
        "NumPy's: before these indices, not into these sizes",
        *(lambda x: gc.split(x, (1, 2))[1], lambda x: torch.split(x, (1, 2))[1]),
        *([1, 2, 3], 0, [2], [2, 3]),
    ),
    "target of binary_cross_entropy": Deviation(
        "the loss that bounds its logarithms has a bounded slope",
        lambda y: gc.losses.binary_cross_entropy(np.zeros(1, "float32"), y),
        lambda y: F.binary_cross_entropy(torch.zeros(1), y),
        *([0], 1, [100], [INF]),
    ),
}


@pytest.mark.parametrize("deviation", [pytest.param(d, id=name) for name, d in DEVIATIONS.items()])
def test_what_differs_on_purpose(deviation):
    operand = [np.array(deviation.operand, "float32")]
    for side in SIDES.values():
        got = side(deviation.ours, operand, weight=np.ones)[deviation.result]
        np.testing.assert_allclose(got, deviation.here, err_msg=deviation.why)
    known = theirs(deviation.theirs, operand, weight=np.ones)[deviation.result]
    np.testing.assert_allclose(known, deviation.there, err_msg="torch has changed")


def test_topk_takes_the_first_of_equal_elements_where_torch_promises_nothing():
    x = np.array([2, 3, 2, 3, 2], "float32")
    assert ours(lambda x: gc.topk(x, 3)[1], [x])[0].tolist() == [1, 3, 0]


def test_the_benchmark_of_ops_knows_where_torch_returns_views_and_copies_them(monkeypatch):
    table = torch_ops.prepare("", 1)
    tensor = torch.tensor

    def step(op, direction):
        name = op_cases.label(op, 0, direction)
        data = op_cases.workload(name).data(FULL)
        leaves = []
        monkeypatch.setattr(torch, "tensor", lambda array: leaves.append(tensor(array)) or leaves[-1])
        return table[name]({}, data).step(), leaves

    def is_own(found, leaves):
        places = [tensor.untyped_storage().data_ptr() for tensor in (*found, *leaves)]
        return len(set(places)) == len(places)

    differentiable = [op for op in op_cases.CASES if op not in op_cases.WITHOUT_GRADIENT]
    assert [op for op in differentiable if not is_own(*step(op, "gradient"))] == []
    assert [op for op in op_cases.WITH_VIEWS if is_own(*step(op, op_cases.VIEWS))] == []
