"""What each op is measured on: its operands at three sizes, from a cache line's worth to beyond every cache.

How the op is called is in `benchmarks.systems.graphc_ops` and `torch_ops`, under the same names. Ops that have no case
are in `WITHOUT_CASE`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.workloads import Array, Scale, Workload

SIZES = (1 << 10, 1 << 16, 1 << 22)  # elements of the operand that counts
SHOWN = ("1 K", "64 K", "4 M")
DIRECTIONS = ("forward", "gradient")

Operands = Callable[[int], tuple[Array, ...]]
F32 = np.float32
COLUMNS = 256


def _rng(n: int) -> np.random.Generator:
    return np.random.default_rng(n)


def normal(*shape: int) -> Array:
    """Normal draws."""
    return _rng(len(shape)).standard_normal(shape, F32)


def positive(*shape: int) -> Array:
    """Uniform in [0.5, 1.5)."""
    return _rng(len(shape)).random(shape, F32) + F32(0.5)


def chances(*shape: int) -> Array:
    """Uniform in [0.1, 0.9)."""
    return _rng(len(shape)).random(shape, F32) * F32(0.8) + F32(0.1)


def bools(*shape: int) -> Array:
    """True and False."""
    return normal(*shape) > 0


def below(limit: int, *shape: int) -> Array:
    """Indices."""
    return _rng(limit).integers(0, limit, shape)


def rows(n: int) -> Array:
    """[n / 256, 256]."""
    return normal(n // COLUMNS, COLUMNS)


# A batch of images [batch, channels, height, width], by its number of elements.
IMAGES = dict(zip(SIZES, ((1, 16, 8, 8), (4, 64, 16, 16), (16, 64, 64, 64)), strict=True))
SIDES = dict(zip(SIZES, (32, 128, 512), strict=True))  # of matrices to multiply
LENGTHS = dict(zip(SIZES, (16, 64, 512), strict=True))  # of sequences to attend to


def images(n: int) -> Array:
    """A batch of images."""
    return normal(*IMAGES[n])


def channels(n: int, *, count: int = 1) -> tuple[Array, ...]:
    """Vectors with an element for each channel of `images(n)`, all of them positive."""
    return tuple(positive(IMAGES[n][1]) for _ in range(count))


def filters(n: int) -> Array:
    """3x3, as many as channels."""
    return normal(IMAGES[n][1], IMAGES[n][1], 3, 3) * F32(0.05)


def matrices(n: int) -> tuple[Array, Array]:
    """Two square ones."""
    side = SIDES[n]
    return normal(side, side), normal(side, side)


def batches(n: int) -> tuple[Array, Array]:
    """Two stacks of square matrices."""
    side = SIDES[n] // 4
    return normal(8, side, side), normal(8, side, side)


def heads(n: int) -> tuple[Array, ...]:
    """Query, key and value of 8 heads of width 32."""
    return tuple(normal(2, 8, LENGTHS[n], 32) + F32(k) for k in range(3))


def _same(draw: Callable[..., Array], count: int) -> Operands:
    return lambda n: tuple(draw(n) + F32(0.25) * k for k in range(count))


def _conditions(count: int) -> Operands:
    return lambda n: tuple(np.roll(bools(n), k) for k in range(count))


def words(text: str) -> tuple[str, ...]:
    """Names, as they are listed."""
    return tuple(text.split())


def _named(operands: Operands, names: str) -> dict[str, Operands]:
    return dict.fromkeys(words(names), operands)


CASES: dict[str, Operands] = {
    **_named(_same(positive, 1), "reciprocal sqrt rsqrt log log1p log2 log10"),
    **_named(_same(normal, 1), "cast negative exp expm1 exp2 sin cos tan tanh sigmoid erf abs sign floor ceil round"),
    **_named(_same(normal, 1), "isnan isinf isfinite relu leaky_relu elu gelu silu softplus log_sigmoid identity clip"),
    **_named(_same(normal, 2), "add subtract multiply maximum minimum"),
    **_named(_same(normal, 2), "equal not_equal less less_equal greater greater_equal"),
    **_named(_same(positive, 2), "divide power floor_divide remainder xlogy"),
    **_named(_conditions(1), "logical_not"),
    **_named(_conditions(2), "logical_and logical_or logical_xor"),
    "where": lambda n: (bools(n), normal(n), positive(n)),
    # views, where they are copied; joins
    **_named(lambda n: (rows(n),), "transpose slice flip pad pad_border tril triu"),
    "broadcast_to": lambda n: (normal(COLUMNS),),
    "concat": lambda n: (rows(n // 2), rows(n // 2)),
    "iota": lambda n: (),
    # reductions and scans along rows
    **_named(lambda n: (rows(n),), "reduce_sum reduce_max reduce_min argmax argmin mean var std logsumexp"),
    "reduce_prod": lambda n: (positive(n // COLUMNS, COLUMNS),),
    **_named(lambda n: (bools(n // COLUMNS, COLUMNS),), "reduce_any reduce_all"),
    **_named(lambda n: (rows(n),), "cumsum softmax log_softmax sort argsort topk"),
    "cumprod": lambda n: (positive(n // COLUMNS, COLUMNS),),
    # indices
    "gather": lambda n: (rows(n), below(n // COLUMNS, n // COLUMNS)),
    "scatter_add": lambda n: (rows(n), below(n // COLUMNS, n // COLUMNS), rows(n)),
    "take_along_axis": lambda n: (rows(n), below(COLUMNS, n // COLUMNS, COLUMNS)),
    "scatter_add_along_axis": lambda n: (rows(n), below(COLUMNS, n // COLUMNS, COLUMNS), rows(n)),
    "one_hot": lambda n: (below(COLUMNS, n // COLUMNS),),
    "embedding": lambda n: (below(1000, n // COLUMNS), normal(1000, COLUMNS)),
    # products
    "matmul": matrices,
    "linear": lambda n: (*matrices(n), normal(SIDES[n])),
    "einsum": batches,
    **_named(lambda n: (images(n), filters(n)), "conv conv_transpose"),
    "conv_bias": lambda n: (images(n), filters(n), *channels(n)),
    "scaled_dot_product_attention": heads,
    # windows, norms, losses
    **_named(lambda n: (images(n),), "max_pool avg_pool global_avg_pool global_max_pool"),
    "batch_norm_train": lambda n: (images(n), *channels(n, count=2)),
    "batch_norm_inference": lambda n: (images(n), *channels(n, count=4)),
    **_named(lambda n: (images(n), *channels(n, count=2)), "group_norm instance_norm"),
    "layer_norm": lambda n: (rows(n), positive(COLUMNS), normal(COLUMNS)),
    "rms_norm": lambda n: (rows(n), positive(COLUMNS)),
    **_named(lambda n: (rows(n), below(COLUMNS, n // COLUMNS)), "nll_loss cross_entropy"),
    "binary_cross_entropy": lambda n: (chances(n), chances(n)[::-1].copy()),
    # draws; p is given for each element
    **_named(lambda n: (), "random_uniform random_normal random_integers"),
    "random_bernoulli": lambda n: (chances(n),),
}

_PART = "is measured as a part of "
_LEAF = "computes nothing"
_VIEW = "computes nothing in torch, which returns a view"

WITHOUT_CASE: dict[str, str] = {
    **dict.fromkeys(("constant", "parameter", "placeholder", "variable", "extent", "item"), _LEAF),
    **dict.fromkeys(("by_mode", "tracked", "stop_gradient"), _LEAF),
    **dict.fromkeys(("expand_dims", "squeeze", "reshape"), _VIEW),
    **dict.fromkeys(("conv_input_grad", "conv_weight_grad"), _PART + "conv's gradient"),
    **dict.fromkeys(("max_pool_input_grad", "max_pool_indices"), _PART + "max_pool's gradient"),
    "scaled_dot_product_attention_grad": _PART + "scaled_dot_product_attention's gradient",
    "avg_pool_input_grad": _PART + "avg_pool's gradient",
    "standardize": _PART + "layer_norm",
    "batch_stats": _PART + "batch norm in the training of ResNet-18",
    "masked_softmax": _PART + "scaled_dot_product_attention",
    "linear_recurrence": "has no counterpart in torch",
}

WITHOUT_GRADIENT = words(
    "sign floor ceil round isnan isinf isfinite equal not_equal less less_equal greater greater_equal floor_divide "
    "logical_not logical_and logical_or logical_xor iota reduce_any reduce_all argmax argmin argsort one_hot "
    "random_uniform random_normal random_integers random_bernoulli cast"
)
# Ops of which torch gives some gradient as a view of what it starts from; `VIEWS` measures them so, as they come, while
# "gradient" has them copied: a result of graphc is an array of its own.
WITH_VIEWS = words("identity add subtract remainder transpose concat reduce_sum scatter_add scatter_add_along_axis")
VIEWS = "views"  # a direction
FIXED = {"batch_norm_inference": (1, 2)}  # operands in which torch gives no gradient
RANDOM = frozenset(name for name in CASES if name.startswith("random_"))


def label(op: str, level: int, direction: str) -> str:
    """The name of a workload: an op at a size, alone or with its gradient."""
    return f"{op}/{level}/{direction}"


def labels(only: tuple[str, ...] = ()) -> list[str]:
    """Of all that is measured, or of some ops."""
    return [
        label(op, level, direction)
        for op in only or CASES
        for level in range(len(SIZES))
        for direction in DIRECTIONS
        if direction == "forward" or op not in WITHOUT_GRADIENT
    ]


def parts(name: str) -> tuple[str, int, str]:
    """The inverse of `label`."""
    op, level, direction = name.split("/")
    return op, SIZES[int(level)], direction


def workload(name: str) -> Workload:
    """The operands of an op at a size, as what a step is fed."""
    op, size, _ = parts(name)

    def data(scale: Scale) -> tuple[Array, ...]:
        return CASES[op](size)

    return Workload(name, 0, data)


def differentiated(op: str, data: Sequence[Array]) -> list[int]:
    """The positions of the operands in which the gradient is taken."""
    return [k for k, array in enumerate(data) if array.dtype == F32 and k not in FIXED.get(op, ())]


def cotangent(shape: tuple[int, ...]) -> Array:
    """What a gradient starts from: all positive, so that nothing cancels."""
    return positive(*shape)
