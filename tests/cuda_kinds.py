"""A small program for each way in which kernels of the GPU's cores are computed, and their printed text.

`python -m tests.cuda_kinds` writes the texts that tests compare with anew; what has changed is then seen in a diff.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graphc as gc
from graphc.ops import pooling
from graphc.ops.nn import attention_grad
from graphc.ops.scan import recurrence_op
from graphc.runtime.cuda.kernels import INFO as TARGET
from graphc.runtime.cuda.launches import Argument, CudaKernel, Gemm, Key, Launch, Pointer, Precision, Size
from tests.cuda_cores import kernels_of

GOLDENS = Path(__file__).parent / "goldens" / "cuda"
FUNCTION = re.compile(r'^extern "C" __global__ .*?^}$', re.MULTILINE | re.DOTALL)
WINDOWS = dict(kernel=(3, 3), stride=(2, 2), padding=((1, 1), (0, 1)), dilation=(1, 1), ceil_mode=False)


def leaf(name: str, *shape: int | str, dtype: str = "float32") -> Any:
    """A placeholder."""
    return gc.placeholder(name, shape, dtype)


def scattered(count: int) -> Any:
    """Updates of rows of a table."""
    return gc.scatter_add(leaf("x", 50, 12), leaf("i", count, dtype="int64"), leaf("u", count, 12), 0)


def convolution(role: str, **options: Any) -> Any:
    """A convolution, or its gradient in x or w."""
    shape = options.pop("shape", (2, 24, 20, 20))
    groups = options.get("groups", 1)
    x, w = leaf("x", *shape), leaf("w", 24, shape[1] // groups, 3, 3)
    y = gc.conv2d(x, w, padding=1, **options)
    return y if role == "y" else gc.gradients(y, [{"x": x, "w": w}[role]], leaf("g", *y.shape))[0]


def attended(width: int, dtype: str = "float32", **options: Any) -> Any:
    """Attention of 3 heads, under a mask."""
    q, k, v = (leaf(name, 2, "n", 3 * width, dtype=dtype) for name in "qkv")
    heads = [gc.transpose(gc.reshape(x, (2, x.shape[1], 3, width)), (0, 2, 1, 3)) for x in (q, k, v)]
    return gc.scaled_dot_product_attention(*heads, **options)


def attended_gradient(width: int, dtype: str = "float32", is_causal: bool = False) -> Any:
    """The gradient of attention in the keys, values and queries."""
    operands = [leaf(name, 2, 3, "n", width, dtype=dtype) for name in "gqkv"]
    return attention_grad(*operands, is_causal=is_causal, scale=0.25)[1]


# Of products, the precision, too.
PRODUCTS: Mapping[str, tuple[Precision, Callable[[], Any]]] = {
    "gemm_tiles": ("float32", lambda: gc.relu(leaf("x", "m", 70) @ leaf("y", 70, 33) + leaf("z", 33))),
    "gemm_parts": ("float32", lambda: leaf("x", 9, 5000, dtype="int8") @ leaf("y", 5000, 20, dtype="int8")),
    "gemm_tf32": ("tf32", lambda: gc.relu(leaf("x", 2000, 70) @ leaf("y", 70, 2000))),
    "gemm_halves": ("float32", lambda: leaf("x", 30, 70, dtype="float16") @ leaf("y", 70, 20, dtype="float16") + 1),
    "gemm_library": ("tf32", lambda: gc.matrix_transpose(leaf("x", "b", 300, 400) @ leaf("y", "b", 400, 500))),
    "gemm_row": ("float32", lambda: leaf("x", 70) @ leaf("y", 70, 40)),
    "gemm_column": ("float32", lambda: leaf("x", 40, "k") @ leaf("y", "k")),
    "convolution": ("float32", lambda: gc.relu(convolution("y", stride=2))),
    "convolution_slabs": ("tf32", lambda: convolution("y", shape=(2, 32, 20, 20), stride=2)),
    "convolution_bfloat16": ("bfloat16", lambda: convolution("y")),
    "convolution_data": ("float32", lambda: convolution("x", stride=2)),
    "convolution_weight": ("float32", lambda: convolution("w", stride=2)),
    "convolution_depthwise": ("float32", lambda: convolution("y", groups=24)),
    "convolution_depthwise_weight": ("float32", lambda: convolution("w", groups=24)),
    "attention": ("float32", lambda: attended(20, is_causal=True)),
    "attention_halves": ("float32", lambda: attended(64, "bfloat16", attn_mask=leaf("m", "n", "n", dtype="bool"))),
    "attention_alone": ("float32", lambda: attended(16, "float64")),
    "attention_gradient": ("float32", lambda: attended_gradient(20, is_causal=True)),
    "attention_gradient_halves": ("float32", lambda: attended_gradient(64, "bfloat16")),
    "attention_gradient_alone": ("float32", lambda: attended_gradient(300)),
}


# Kernels without a core: how points and rows are walked.
REGIONS: Mapping[str, Callable[[], Any]] = {
    "pointwise": lambda: gc.relu(leaf("x", 300, 260) + leaf("b", 260)) * 2,
    "pointwise_symbolic": lambda: leaf("x", "n", dtype="float16") * leaf("y", "n", dtype="float16"),
    "pointwise_few": lambda: gc.where(leaf("c", 7, 5, dtype="bool"), leaf("x", 7, 5), 0.5),
    "pointwise_integers": lambda: leaf("x", 9, dtype="int32") // leaf("y", 9, dtype="int32") % 7,
    "pointwise_counter": lambda: gc.cast(gc.arange(100), "float32") * leaf("x", 3, 100),
    "side_by_side": lambda: gc.concat([leaf("x", "n", 20), leaf("y", "n", 36)], 1),
    "transposed": lambda: gc.transpose(leaf("x", 300, "n")) + leaf("y", "n", 300),
    "transposed_many": lambda: gc.transpose(sum([leaf(f"x{k}", 40, 50, dtype="float64") for k in range(9)])),
    "rows_warp": lambda: gc.sum(leaf("x", 300, 131), 1),
    "rows_kept": lambda: gc.softmax(leaf("x", 300, 1000)),
    "rows_block": lambda: gc.max(leaf("x", 300, 5000), 1),
    "rows_streamed": lambda: gc.softmax(leaf("x", 300, "n")),
    "rows_in_parts": lambda: gc.softmax(leaf("x", 2, 100000)),
    "rows_of_loops": lambda: gc.mean(leaf("x", 30, 64, 7, 9), (0, 2, 3)),
    "rows_positions": lambda: gc.argmax(leaf("x", 300, 77), 1),
    "whole": lambda: gc.sum(leaf("x", 1000, 1000)),
    "whole_symbolic": lambda: gc.mean(leaf("x", "n")),
    "columns": lambda: gc.sum(leaf("x", 100, 264, dtype="bfloat16"), 0),
    "columns_in_parts": lambda: gc.sum(leaf("x", 5000, 64), 0),
    "columns_streamed": lambda: gc.softmax(leaf("x", 50, 300), 0),
}

KINDS: Mapping[str, Callable[[], Any]] = {
    **REGIONS,
    "uniform": lambda: gc.random.uniform((3, "n"), -1.0, 2.0),
    "normal_float32": lambda: gc.random.normal((1000,), 0.0, 0.5),
    "normal_with_mean": lambda: gc.random.normal((1000,), 1.0, 0.5, dtype="float16"),
    "normal_float64": lambda: gc.random.normal((1000,), dtype="float64"),
    "bernoulli": lambda: gc.random.bernoulli(0.3, ("n",)),
    "integers": lambda: gc.random.integers(-3, 1000, (1000,), "int32"),
    "cumsum_threads": lambda: gc.cumsum(leaf("x", 5, 7, 300, dtype="float16"), 0, exclusive=True),
    "cumsum_warps": lambda: gc.cumsum(leaf("x", 9, 300), 1, reverse=True),
    "cumsum_parts": lambda: gc.cumsum(leaf("x", "length", dtype="int64"), 0),
    "recurrence_blocks": lambda: recurrence_op(leaf("a", 9, 5000), leaf("b", 9, 5000), axis=1, initial=1.0),
    "recurrence_columns": lambda: recurrence_op(leaf("a", 3, 40), leaf("b", 3, 40), axis=0, reverse=True),
    "argsort_short": lambda: gc.argsort(leaf("x", 40, 60), 0, descending=True),
    "argsort_merged": lambda: gc.argsort(leaf("x", 4, 10000, dtype="float64"), 1),
    "argsort_symbolic": lambda: gc.argsort(leaf("x", 3, "length", dtype="bfloat16"), 1),
    "topk_short": lambda: gc.topk(leaf("x", 5, 100), 3)[0],
    "topk_chosen": lambda: gc.topk(leaf("x", 5, 50000), 40)[1],
    "max_pool": lambda: pooling.max_pool_op(leaf("x", 2, 3, 9, 37), **WINDOWS) * 2,
    "max_pool_warps": lambda: pooling.max_pool_indices(
        leaf("x", 2, 3, 20, 30), **{**WINDOWS, "kernel": (20, 9), "stride": (1, 3)}
    ),
    "max_pool_indices": lambda: pooling.max_pool_indices(leaf("x", "b", 3, "h", "w"), **WINDOWS),
    "max_pool_gradient": lambda: pooling.max_pool_input_grad(leaf("g", 2, 3, 5, 18), leaf("x", 2, 3, 9, 37), **WINDOWS),
    "avg_pool": lambda: pooling.avg_pool_op(leaf("x", 2, 3, 9, 37), **WINDOWS, count_include_pad=False),
    "avg_pool_gradient": lambda: pooling.avg_pool_input_grad(
        leaf("g", 2, 3, 5, 18), spatial=(9, 37), **WINDOWS, count_include_pad=True
    ),
    "gather_rows": lambda: gc.take(leaf("x", 50, 64), leaf("i", 7, 3, dtype="int64"), 0),
    "gather_elements": lambda: gc.take_along_axis(leaf("x", 5, 40), leaf("i", 5, "k", dtype="int32"), 1) * 2,
    "scatter_compared": lambda: scattered(3) * 2,
    "scatter_in_order": lambda: scattered(20),
    "scatter_sorted": lambda: scattered(700),
    **{kind: make for kind, (_, make) in PRODUCTS.items()},
}


def options_of(kind: str) -> dict[str, Any]:
    """How a kind's program is compiled."""
    return dict(precision=PRODUCTS[kind][0], info=TARGET) if kind in PRODUCTS else {}


def kernel_of(kind: str) -> CudaKernel:
    """The kernel of a kind's program, the last if there are several."""
    return kernels_of(KINDS[kind](), **options_of(kind))[-1]


def printed(kernel: CudaKernel) -> str:
    """The commands of a kernel and its functions, without what they share with other kernels."""
    products = [command for command in kernel.commands if isinstance(command, Gemm)]
    commands = "".join([f"// {line}\n" for line in (*map(_multiplied, products), *map(_launched, kernel.launches))])
    notes = "".join([f"// {note}\n" for note in kernel.notes])
    return f"{notes}{commands}// workspace {kernel.workspace}\n\n" + "\n\n".join(FUNCTION.findall(kernel.source)) + "\n"


def _launched(launch: Launch) -> str:
    arguments = ", ".join(map(_argument, launch.arguments))
    return f"{launch.symbol}<<<{launch.blocks}, {launch.threads}>>>({arguments})"


def _multiplied(gemm: Gemm) -> str:
    matrices = ", ".join(f"{x.place} {x.number} + {x.offset} by {x.strides}" for x in (gemm.a, gemm.b, gemm.c))
    return f"cublas {gemm.compute}: {gemm.batch} of {gemm.m} x {gemm.n} x {gemm.k}: {matrices}"


def _argument(argument: Argument) -> str:
    if isinstance(argument, Pointer):
        return f"{argument.place} {argument.number}"
    if isinstance(argument, Size):
        return str(argument.dim)
    return "key" if isinstance(argument, Key) else "failed"


if __name__ == "__main__":
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (GOLDENS / f"{kind}.cu").write_text(printed(kernel_of(kind)))
