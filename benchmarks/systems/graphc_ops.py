"""Single ops in graphc: forward, and forward with the gradient in every float operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphc as gc
from benchmarks import op_cases
from benchmarks.systems import Prepared, Table
from benchmarks.systems.graphc_session import Arrays, Data, placeholders
from graphc.ops.activations import log_sigmoid
from graphc.ops.losses import nll_loss
from graphc.ops.math import xlogy

# Ops whose public function has the same name and takes the operands as they are.
PLAIN = op_cases.words(
    "reciprocal sqrt rsqrt log log1p log2 log10 negative exp expm1 exp2 sin cos tan tanh sigmoid erf abs sign floor "
    "ceil round isnan isinf isfinite relu leaky_relu elu gelu silu softplus identity add subtract multiply maximum "
    "minimum equal not_equal less less_equal greater greater_equal divide power floor_divide remainder logical_not "
    "logical_and logical_or logical_xor where tril triu gather scatter_add take_along_axis scatter_add_along_axis "
    "embedding matmul linear instance_norm cross_entropy scaled_dot_product_attention"
)

ALONG_ROWS = op_cases.words("argmax argmin mean logsumexp cumsum cumprod softmax log_softmax sort argsort")
REDUCTIONS = op_cases.words("sum max min prod any all")


def along(name: str) -> Callable[[Any], Any]:
    """A function along the last axis."""
    function = getattr(gc, name)
    return lambda x: function(x, axis=-1)


def functions(size: int) -> dict[str, Callable[..., Any]]:
    """How each op is called; those that draw, count or grow make `size` elements."""
    return {
        **{name: getattr(gc, name) for name in PLAIN},
        **{name: along(name) for name in ALONG_ROWS},
        **{f"reduce_{name}": along(name) for name in REDUCTIONS},
        "binary_cross_entropy": gc.losses.binary_cross_entropy,
        "nll_loss": nll_loss,
        "log_sigmoid": log_sigmoid,
        "xlogy": xlogy,
        "cast": lambda x: gc.cast(x, "float64"),
        "clip": lambda x: gc.clip(x, -1.0, 1.0),
        "transpose": lambda x: gc.transpose(x, (1, 0)),
        "slice": lambda x: x[:, ::2],
        "flip": lambda x: gc.flip(x, 1),
        "pad": lambda x: gc.pad(x, ((1, 1), (1, 1))),
        "pad_border": lambda x: gc.pad(x, ((0, 0), (2, 2)), mode="edge"),
        "broadcast_to": lambda x: gc.broadcast_to(x, (size // op_cases.COLUMNS, op_cases.COLUMNS)),
        "concat": lambda a, b: gc.concat([a, b], 0),
        "iota": lambda: gc.arange(size),
        "var": lambda x: gc.var(x, axis=-1, correction=1),
        "std": lambda x: gc.std(x, axis=-1, correction=1),
        "topk": lambda x: gc.topk(x, 8)[0],
        "one_hot": lambda x: gc.one_hot(x, op_cases.COLUMNS),
        "einsum": lambda a, b: gc.einsum("bij,bjk->bik", a, b),
        "conv": lambda x, w: gc.conv2d(x, w, padding=1),
        "conv_bias": lambda x, w, b: gc.conv2d(x, w, b, padding=1),
        "conv_transpose": lambda x, w: gc.conv_transpose2d(x, w, padding=1),
        "max_pool": lambda x: gc.max_pool2d(x, 3, 2, 1),
        "avg_pool": lambda x: gc.avg_pool2d(x, 3, 2, 1),
        "global_avg_pool": gc.global_avg_pool2d,
        "global_max_pool": gc.global_max_pool2d,
        "batch_norm_train": lambda x, w, b: gc.batch_norm(x, None, None, w, b, training=True),
        "batch_norm_inference": lambda x, m, v, w, b: gc.batch_norm(x, m, v, w, b, training=False),
        "group_norm": lambda x, w, b: gc.group_norm(x, 8, w, b),
        "layer_norm": lambda x, w, b: gc.layer_norm(x, x.shape[-1:], w, b),
        "rms_norm": lambda x, w: gc.rms_norm(x, x.shape[-1:], w, 1e-5),
        "random_uniform": lambda: gc.random.uniform((size,)),
        "random_normal": lambda: gc.random.normal((size,)),
        "random_integers": lambda: gc.random.integers(0, 1000, (size,)),
        "random_bernoulli": gc.random.bernoulli,
    }


def prepare(variant: str, threads: int) -> Table:
    """The table of all ops, sizes and directions."""

    def prepared(name: str) -> Callable[[Arrays, Data], Prepared]:
        op, size, direction = op_cases.parts(name)

        def build(weights: Arrays, data: Data) -> Prepared:
            with gc.Graph():
                leaves = placeholders(data)
                fetches = [functions(size)[op](*leaves)]
                if direction == "gradient":
                    start = op_cases.cotangent(fetches[0].shape)
                    chosen = [leaves[k] for k in op_cases.differentiated(op, data)]
                    leaves, data = [*leaves, gc.placeholder("start", start.shape)], (*data, start)
                    fetches += gc.vjp(fetches[0], chosen, leaves[-1])
            step = gc.Session(device="cpu", threads=threads).compile(fetches, leaves)
            return Prepared(lambda: step(*data), lambda results: results[-1])

        return build

    return {name: prepared(name) for name in op_cases.labels()}
