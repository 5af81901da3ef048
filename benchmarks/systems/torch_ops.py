"""Single ops in PyTorch, eager: forward, and forward with the gradient in every float operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from benchmarks import op_cases
from benchmarks.systems import Prepared, Table
from benchmarks.systems.torch_eager import Arrays, Data

# Ops whose function in torch has the same name and takes the operands as they are.
PLAIN = op_cases.words(
    "reciprocal sqrt rsqrt log log1p log2 log10 negative exp expm1 exp2 sin cos tan tanh sigmoid erf abs sign floor "
    "ceil round isnan isinf isfinite relu add subtract multiply maximum minimum not_equal less less_equal greater "
    "greater_equal divide floor_divide remainder xlogy logical_not logical_and logical_or logical_xor where tril triu "
    "matmul"
)

FUNCTIONAL = op_cases.words(
    "leaky_relu elu gelu silu softplus embedding linear nll_loss cross_entropy binary_cross_entropy "
    "scaled_dot_product_attention"
)

ALONG_ROWS = op_cases.words("argmax argmin mean logsumexp cumsum cumprod softmax log_softmax var std")
REDUCTIONS = {"sum": "sum", "max": "amax", "min": "amin", "prod": "prod", "any": "any", "all": "all"}


def along(name: str) -> Callable[[Any], Any]:
    """A function along the last axis."""
    function = getattr(torch, name)
    return lambda x: function(x, dim=-1)


def functions(size: int) -> dict[str, Callable[..., Any]]:
    """How each op is called; what would be a view is copied, as a result that belongs to the caller is."""
    return {
        **{name: getattr(torch, name) for name in PLAIN},
        **{name: getattr(functional, name) for name in FUNCTIONAL},
        **{name: along(name) for name in ALONG_ROWS},
        **{f"reduce_{ours}": along(theirs) for ours, theirs in REDUCTIONS.items()},
        "equal": torch.eq,
        "power": torch.pow,
        "log_sigmoid": functional.logsigmoid,
        "identity": torch.clone,
        "cast": lambda x: x.to(torch.float64),
        "clip": lambda x: torch.clamp(x, -1.0, 1.0),
        "transpose": lambda x: x.T.contiguous(),
        "slice": lambda x: x[:, ::2].contiguous(),
        "flip": lambda x: torch.flip(x, (1,)),
        "pad": lambda x: functional.pad(x, (1, 1, 1, 1)),
        "pad_border": lambda x: functional.pad(x[None], (2, 2), mode="replicate")[0],
        "broadcast_to": lambda x: x.expand(size // op_cases.COLUMNS, op_cases.COLUMNS).contiguous(),
        "concat": lambda a, b: torch.cat([a, b]),
        "iota": lambda: torch.arange(size),
        "sort": lambda x: torch.sort(x, stable=True)[0],
        "argsort": lambda x: torch.argsort(x, stable=True),
        "topk": lambda x: torch.topk(x, 8)[0],
        "gather": lambda x, i: torch.index_select(x, 0, i),
        "scatter_add": lambda x, i, updates: torch.index_add(x, 0, i, updates),
        "take_along_axis": lambda x, i: torch.gather(x, 1, i),
        "scatter_add_along_axis": lambda x, i, updates: torch.scatter_add(x, 1, i, updates),
        "one_hot": lambda x: functional.one_hot(x, op_cases.COLUMNS).to(torch.float32),
        "einsum": lambda a, b: torch.einsum("bij,bjk->bik", a, b),
        "conv": lambda x, w: functional.conv2d(x, w, padding=1),
        "conv_bias": lambda x, w, b: functional.conv2d(x, w, b, padding=1),
        "conv_transpose": lambda x, w: functional.conv_transpose2d(x, w, padding=1),
        "max_pool": lambda x: functional.max_pool2d(x, 3, 2, 1),
        "avg_pool": lambda x: functional.avg_pool2d(x, 3, 2, 1),
        "global_avg_pool": lambda x: x.mean((2, 3), keepdim=True),
        "global_max_pool": lambda x: x.amax((2, 3), keepdim=True),
        "batch_norm_train": lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
        "batch_norm_inference": lambda x, m, v, w, b: functional.batch_norm(x, m, v, w, b),
        "group_norm": lambda x, w, b: functional.group_norm(x, 8, w, b),
        "instance_norm": lambda x, w, b: functional.instance_norm(x, weight=w, bias=b),
        "layer_norm": lambda x, w, b: functional.layer_norm(x, x.shape[-1:], w, b),
        "rms_norm": lambda x, w: functional.rms_norm(x, x.shape[-1:], w, 1e-5),
        "random_uniform": lambda: torch.rand(size),
        "random_normal": lambda: torch.randn(size),
        "random_integers": lambda: torch.randint(0, 1000, (size,)),
        "random_bernoulli": lambda p: torch.bernoulli(p).bool(),
    }


def shared(tensors: Sequence[Any], others: Sequence[Any]) -> list[int]:
    """Which tensors share memory with one of the others, or with a tensor before them."""
    seen = {other.untyped_storage().data_ptr() for other in others}
    found = []
    for number, tensor in enumerate(tensors):
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            found.append(number)
        seen.add(place)
    return found


def prepare(variant: str, threads: int) -> Table:
    """The table of all ops, sizes and directions."""
    torch.set_num_threads(threads)

    def prepared(name: str) -> Callable[[Arrays, Data], Prepared]:
        op, size, direction = op_cases.parts(name)

        def forward(weights: Arrays, data: Data) -> Prepared:
            function, leaves = functions(size)[op], [torch.tensor(array) for array in data]
            return Prepared(torch.no_grad()(lambda: function(*leaves)))

        def gradient(weights: Arrays, data: Data) -> Prepared:
            function, leaves = functions(size)[op], [torch.tensor(array) for array in data]
            floats = [leaves[k].requires_grad_() for k in op_cases.differentiated(op, data)]
            start = torch.tensor(op_cases.cotangent(tuple(function(*leaves).shape)))

            def with_views() -> Sequence[Any]:
                return torch.autograd.grad(function(*leaves), floats, start)

            is_copied = direction != op_cases.VIEWS and op in op_cases.WITH_VIEWS
            copies = shared(with_views(), [*leaves, start]) if is_copied else ()  # found once: it takes time, too

            def copied() -> Sequence[Any]:
                gradients = list(with_views())
                for number in copies:
                    gradients[number] = gradients[number].clone(memory_format=torch.contiguous_format)
                return gradients

            step = copied if is_copied else with_views
            return Prepared(step, lambda gradients: gradients[-1])

        return forward if direction == "forward" else gradient

    views = [
        op_cases.label(op, level, op_cases.VIEWS) for op in op_cases.WITH_VIEWS for level in range(len(op_cases.SIZES))
    ]
    return {name: prepared(name) for name in (*op_cases.labels(), *views)}
