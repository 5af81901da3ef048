"""Convolutions as numbers: what relates x[N, C, *spatial], w[O, C/groups, *kernel] and g[N, O, *counts].

Along an axis, window `p` has its tap `t` at the element `i = p * stride + t * dilation - before` of x. Each of the
three primitives knows two of the operands and computes the third.

To compute g, or x's gradient, every result along an axis is a *sweep*: a few taps at affine places of a source. For the
gradient with a stride, the results fall into classes by their remainder, since each class meets other taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from graphc.dims import Dim
from graphc.ir import Node
from graphc.ops.windows import Pads
from graphc.runtime.strided import Strided

# What each primitive takes, in order, and what it computes.
ROLES = {"conv": ("x", "w", "g"), "conv_input_grad": ("g", "w", "x"), "conv_weight_grad": ("x", "g", "w")}


class Axis(NamedTuple):
    """One spatial axis: elements of x, taps, windows, and how they meet."""

    size: Dim
    kernel: Dim
    windows: Dim
    stride: int = 1
    before: int = 0
    dilation: int = 1


POINT = Axis(1, 1, 1)


class Convolution(NamedTuple):
    """What the three primitives share.

    Attributes:
        inputs, outputs: channels of one group.
        roles: the operands' letters and then the result's, of `xwg`.
    """

    batch: Dim
    groups: int
    inputs: Dim
    outputs: Dim
    axes: tuple[Axis, ...]
    roles: tuple[str, str, str]

    @property
    def is_static(self) -> bool:
        """Whether all sizes but the batch are known, and none is 0."""
        sizes = [size for axis in self.axes for size in (axis.size, axis.kernel, axis.windows)]
        return all(isinstance(size, int) and size > 0 for size in (self.inputs, self.outputs, *sizes))

    @property
    def products(self) -> Dim:
        """Multiplications, those with the padding included."""
        found: Dim = self.batch * self.groups * self.inputs * self.outputs
        for axis in self.axes:
            found = found * axis.kernel * axis.windows
        return found

    def extents(self, role: str) -> tuple[Dim, ...]:
        """The shape of an operand."""
        channels = {"x": self.groups * self.inputs, "g": self.groups * self.outputs}
        spatial = {
            "x": [a.size for a in self.axes],
            "w": [a.kernel for a in self.axes],
            "g": [a.windows for a in self.axes],
        }
        if role == "w":
            return (self.groups * self.outputs, self.inputs, *spatial[role])
        return (self.batch, channels[role], *spatial[role])


def described(core: Node) -> Convolution:
    """The convolution that a core computes a part of."""
    roles = ROLES[core.op.name]
    shape = dict(zip(roles, [*(i.tensor_type.shape for i in core.inputs), core.tensor_type.shape], strict=True))
    attrs = core.attrs
    groups: int = attrs["groups"]
    pads: Pads = attrs["padding"]
    spatial = zip(shape["x"][2:], shape["w"][2:], shape["g"][2:], attrs["stride"], pads, attrs["dilation"], strict=True)
    axes = tuple(Axis(n, k, count, stride, pad[0], dilation) for n, k, count, stride, pad, dilation in spatial)
    outputs = shape["w"][0] // groups
    return Convolution(shape["x"][0], groups, shape["w"][1], outputs, axes, roles)


def two_dimensional(convolution: Convolution, *arrays: Strided) -> tuple[Convolution, list[Strided]]:
    """A convolution along one axis as one along two, of which the first has one element."""
    if len(convolution.axes) == 2:
        return convolution, list(arrays)
    wide = [array._replace(strides=(*array.strides[:2], 0, *array.strides[2:])) for array in arrays]
    return convolution._replace(axes=(POINT, *convolution.axes)), wide


# --------------------------------------------------------------------------------------------- sweeps


class Taps(NamedTuple):
    """The taps that one class of results along an axis meets.

    Attributes:
        first: the class's first result; the next lies `Sweep.spread` further.
        met: how many taps.
        start, step: the first tap's element of the source, for the first result, and how far the next tap's is.
        weight, weight_step: the first tap's number in the kernel, and the next one's distance.
    """

    first: int
    met: int
    start: int
    step: int
    weight: int
    weight_step: int


class Sweep(NamedTuple):
    """One axis of a convolution that computes g or x.

    Attributes:
        results: how many.
        points: results of a class, at most.
        stride: elements of the source between the results of a class.
        spread: number of classes, and the distance of a class's results.
        size: elements of the source.
    """

    results: int
    points: int
    stride: int
    spread: int
    size: int
    classes: tuple[Taps, ...]

    @property
    def reach(self) -> tuple[int, int]:
        """The elements of the source, first and last (exclusive), that are met if `points` are computed in all classes.

        They may lie outside the source, where it counts as 0.
        """
        met = [taps for taps in self.classes if taps.met]
        ends = [(taps.start, taps.start + (taps.met - 1) * taps.step) for taps in met] or [(0, 0)]
        low = min(min(pair) for pair in ends)
        return low, max(max(pair) for pair in ends) + (self.points - 1) * self.stride + 1


def sweep(axis: Axis, role: str) -> Sweep:
    """The sweep of an axis (whose numbers are all known) that computes `role`, g or x."""
    size, kernel, count, stride, before, dilation = (int(n) for n in axis)
    if role == "g":
        return Sweep(count, count, stride, 1, size, (Taps(0, kernel, -before, dilation, 0, 1),))
    return Sweep(size, -(-size // stride), 1, stride, count, tuple(taps_of(axis, first) for first in range(stride)))


def taps_of(axis: Axis, first: int) -> Taps:
    """The taps, whose number is known, that meet the elements `first`, `first + stride`, ... of x.

    Tap `t` meets element `i` in window `(i + before - t * dilation) / stride`.
    """
    reached = first + axis.before
    taps = [t for t in range(int(axis.kernel)) if (reached - t * axis.dilation) % axis.stride == 0]
    if not taps:
        return Taps(first, 0, 0, 0, 0, 0)
    apart = axis.stride // math.gcd(axis.stride, axis.dilation)
    start = (reached - taps[0] * axis.dilation) // axis.stride
    return Taps(first, len(taps), start, -(apart * axis.dilation // axis.stride), taps[0], apart)
