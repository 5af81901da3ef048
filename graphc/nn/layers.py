"""Layers with parameters, under torch's names, arguments, defaults and initial values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from graphc.errors import ArgumentError, ShapeError, public
from graphc.nn import init
from graphc.nn.limits import require, require_windows
from graphc.nn.module import Module
from graphc.nn.state import Buffer, Parameter
from graphc.op import Array
from graphc.operands import as_node, cast
from graphc.ops.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from graphc.ops.indexing import embedding
from graphc.ops.linalg import linear
from graphc.ops.nn import batch_norm, group_norm, layer_norm, rms_norm
from graphc.ops.shape import pad
from graphc.ops.state import tracked
from graphc.ops.windows import paddings, per_axis

Shape = tuple[int, ...]
WEIGHT = init.kaiming_uniform(a=math.sqrt(5))


class _Affine(Module):
    """A layer with a weight and a bias that start as torch's: the weight `WEIGHT`, the bias uniform in ±1/√fan_in."""

    weight: Any
    bias: Any

    def _parametrise(self, shape: Shape, outputs: int, bias: bool, dtype: Any) -> None:
        bound = 0.0 if 0 in shape else 1 / math.sqrt(init.fans(shape)[0])
        self.weight = Parameter(WEIGHT, shape, dtype)
        self.bias = Parameter(init.uniform(-bound, bound), (outputs,), dtype) if bias else None


class Linear(_Affine):
    """A fully connected layer: x[..., in_features] to [..., out_features], by weight[out, in] and bias[out]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__()
        require("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self._parametrise((out_features, in_features), out_features, bias, dtype)

    def forward(self, x: Any) -> Any:
        """The layer applied to x[..., in_features]."""
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


# --------------------------------------------------------------------------------------------- convolutions

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # NumPy's names


class _Filters(_Affine):
    """What convolutions and transposed convolutions share."""

    rank: ClassVar[int]
    function: ClassVar[Callable[..., Any]]

    def _filters(self, channels: tuple[int, int], kernel_size: Any, groups: int, bias: bool, dtype: Any) -> None:
        """Make the weight [channels[0], channels[1] / groups, *kernel] and a bias for each output channel."""
        kind = type(self).__name__
        require(kind, in_channels=self.in_channels, out_channels=self.out_channels)
        (groups,) = per_axis(kind, "groups", groups, 1)
        if self.in_channels % groups or self.out_channels % groups:
            raise ArgumentError(
                f"{kind}: groups={groups} must divide {self.in_channels} input and {self.out_channels} output channels",
            )
        self.kernel_size = per_axis(kind, "kernel_size", kernel_size, self.rank)
        shape = (channels[0], channels[1] // groups, *self.kernel_size)
        require_windows(self.function, self.rank, self._options, shape)
        self._parametrise(shape, self.out_channels, bias, dtype)

    def extra_repr(self) -> str:
        """Its sizes, and the options that differ from their defaults."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        plain = dict(stride=1, padding=0, output_padding=0, dilation=1, groups=1)
        parts += [f"{name}={value}" for name, value in self._options.items() if value != plain[name]]
        return ", ".join(parts if self.bias is not None else [*parts, "bias=False"])


class _Conv(_Filters):
    """A convolution along `rank` axes; see `Conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        if padding_mode not in PADDING_MODES:
            known = ", ".join(map(repr, PADDING_MODES))
            raise ArgumentError(f"{kind}: padding_mode={padding_mode!r} is not one of {known}")
        self.in_channels, self.out_channels, self.padding_mode = in_channels, out_channels, padding_mode
        self._options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        self._filters((out_channels, in_channels), kernel_size, groups, bias, dtype)
        self._border = ((0, 0), (0, 0), *paddings(kind, padding, self.rank)) if padding_mode != "zeros" else None

    def forward(self, x: Any) -> Any:
        """The layer applied to x[batch, in_channels, *spatial]."""
        if self._border is None:
            return self.function(x, self.weight, self.bias, **self._options)
        padded = pad(x, self._border, mode=PADDING_MODES[self.padding_mode])
        return self.function(padded, self.weight, self.bias, **{**self._options, "padding": 0})


class Conv1d(_Conv):
    """A convolution along one axis: x[batch, C, length]; arguments as for `Conv2d`."""

    rank, function = 1, staticmethod(public(conv1d))


class Conv2d(_Conv):
    """A convolution (cross-correlation) of x[batch, C, height, width] by weight[O, C/groups, kh, kw] and bias[O].

    Args:
        in_channels, out_channels: C and O; `groups` must divide both.
        kernel_size, stride, dilation: an int, or one for each spatial axis.
        padding: an int, one for each axis, "same" (stride 1 only) or "valid".
        padding_mode: what surrounds the input: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ArgumentError: an argument that has another form than said above, or a word for `padding` in another mode than
            "zeros".
    """

    rank, function = 2, staticmethod(public(conv2d))


class Conv3d(_Conv):
    """A convolution of volumes: x[batch, C, depth, height, width]; arguments as for `Conv2d`."""

    rank, function = 3, staticmethod(public(conv3d))


class _ConvTranspose(_Filters):
    """A transposed convolution along `rank` axes; see `ConvTranspose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self._options = dict(
            stride=stride, padding=padding, output_padding=output_padding, groups=groups, dilation=dilation
        )
        self._filters((in_channels, out_channels), kernel_size, groups, bias, dtype)

    def forward(self, x: Any) -> Any:
        """The layer applied to x[batch, in_channels, *spatial]."""
        return self.function(x, self.weight, self.bias, **self._options)


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution along one axis: x[batch, C, length]; arguments as for `ConvTranspose2d`."""

    rank, function = 1, staticmethod(public(conv_transpose1d))


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution of x[batch, C, height, width] by weight[C, O/groups, kh, kw] and bias[O].

    Args:
        output_padding: rows and columns to add at the end of the result, fewer than the stride.
        in_channels, out_channels, kernel_size, stride, padding, groups, bias, dilation: those of the convolution.
    """

    rank, function = 2, staticmethod(public(conv_transpose2d))


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution of volumes: x[batch, C, d, h, w]; arguments as for `ConvTranspose2d`."""

    rank, function = 3, staticmethod(public(conv_transpose3d))


# --------------------------------------------------------------------------------------------- normalisations


class _Normalisation(Module):
    """A layer with a weight of ones and a bias of zeros, or None for them."""

    weight: Any
    bias: Any

    def _scale_and_shift(self, shape: Shape, weight: bool, bias: bool, dtype: Any) -> None:
        self.weight = Parameter(init.ones(), shape, dtype) if weight else None
        self.bias = Parameter(init.zeros(), shape, dtype) if bias else None


class _BatchNorm(_Normalisation):
    """Batch normalisation of inputs of these `ranks`; see `BatchNorm2d`."""

    ranks: ClassVar[tuple[int, ...]]
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        require(type(self).__name__, num_features=num_features, eps=eps, momentum=momentum)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        shape = (num_features,)
        self._scale_and_shift(shape, affine, affine, dtype)
        self.running_mean = Buffer(init.zeros(), shape, dtype) if track_running_stats else None
        self.running_var = Buffer(init.ones(), shape, dtype) if track_running_stats else None
        self.num_batches_tracked = Buffer(0, dtype="int64") if track_running_stats else None

    def forward(self, x: Any) -> Any:
        """The layer applied to x[batch, num_features, ...]; raises ShapeError for another number of dimensions."""
        x = as_node(x)
        if x.ndim not in self.ranks:
            wanted = " or ".join(map(str, self.ranks))
            raise ShapeError(f"{type(self).__name__} takes {wanted} dimensions, got {x.type}")
        count, momentum = self.num_batches_tracked, self.momentum
        if count is not None and momentum is None:
            momentum = 1 / cast(count + 1, self.running_mean.dtype)
        tensors = (x, self.running_mean, self.running_var, self.weight, self.bias)
        y = public(batch_norm)(*tensors, momentum=momentum, eps=self.eps)
        return y if count is None else tracked(y, count, count + 1)

    def extra_repr(self) -> str:
        """Its size and options."""
        options = f"eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        return f"{self.num_features}, {options}, track_running_stats={self.track_running_stats}"


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of x[batch, C] or x[batch, C, length]; arguments as for `BatchNorm2d`."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x[batch, num_features, height, width].

    Training runs use the batch's mean and variance and move the running ones towards them; all other runs use the
    running ones. There is nothing to switch or to fetch: see `Session.run`.

    Args:
        momentum: the share of the batch in the new running statistics; None makes them the mean over all batches.
        affine: whether there are weight and bias.
        track_running_stats: without them the batch's statistics serve in every run.
    """

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of x[batch, C, depth, height, width]; arguments as for `BatchNorm2d`."""

    ranks = (5,)


class LayerNorm(_Normalisation):
    """Standardise over the last axes, which have the sizes `normalized_shape` (or the one size, if it is an int)."""

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        require("LayerNorm", normalized_shape=normalized_shape, eps=eps)
        self.normalized_shape, self.eps = _sizes(normalized_shape), eps
        self._scale_and_shift(self.normalized_shape, elementwise_affine, elementwise_affine and bias, dtype)

    def forward(self, x: Any) -> Any:
        """The layer applied to x[..., *normalized_shape]."""
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Its size and options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class RMSNorm(_Normalisation):
    """Divide by the root of the mean square over the last axes; `eps` is that of the dtype by default."""

    def __init__(
        self, normalized_shape: Any, eps: float | None = None, elementwise_affine: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__()
        require("RMSNorm", normalized_shape=normalized_shape, **({} if eps is None else {"eps": eps}))
        self.normalized_shape, self.eps = _sizes(normalized_shape), eps
        self._scale_and_shift(self.normalized_shape, elementwise_affine, False, dtype)

    def forward(self, x: Any) -> Any:
        """The layer applied to x[..., *normalized_shape]."""
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Its size and options."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class GroupNorm(_Normalisation):
    """Standardise x[batch, num_channels, ...] over each of `num_groups` sets of channels."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__()
        require("GroupNorm", num_groups=num_groups, num_channels=num_channels, eps=eps)
        if num_channels % num_groups:
            raise ArgumentError(f"GroupNorm: {num_groups} groups don't divide {num_channels} channels")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self._scale_and_shift((num_channels,), affine, affine, dtype)

    def forward(self, x: Any) -> Any:
        """The layer applied to x[batch, num_channels, ...]."""
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Its sizes and options."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


def _sizes(shape: Any) -> Shape:
    return (shape,) if isinstance(shape, int) else tuple(shape)


# --------------------------------------------------------------------------------------------- embedding


@dataclass(frozen=True)
class _ZeroRow:
    """`initial`, with zeros in the row `index`."""

    initial: init.Initializer
    index: int

    def __call__(self, seed: int, name: str, shape: Shape, dtype: str) -> Array:
        values = self.initial(seed, name, shape, dtype)
        values[self.index] = 0
        return values


class Embedding(Module):
    """A table of vectors: integers [...] to [..., embedding_dim], the rows of weight[num_embeddings, embedding_dim].

    Args:
        padding_idx: a row (negative counts from the end) that starts as zeros and isn't trained.
    """

    weight: Any

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, dtype: Any = None
    ) -> None:
        super().__init__()
        require("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ArgumentError(f"Embedding: padding_idx={padding_idx} is no row of {num_embeddings} rows")
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        initial = init.normal() if padding_idx is None else _ZeroRow(init.normal(), padding_idx)
        self.weight = Parameter(initial, (num_embeddings, embedding_dim), dtype)

    def forward(self, indices: Any) -> Any:
        """The rows at integer indices [...]."""
        return embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """Its sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
