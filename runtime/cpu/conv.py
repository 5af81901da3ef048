"""Convolutions and their gradients, of all dtypes and geometries: which algorithm computes which, and the plain one.

The plain one computes each element of the result by itself, in one order for all sizes. It serves what nothing faster
does: dtypes but float32, three spatial axes and more, symbolic sizes but the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from graphc.dims import product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.conv import conv_input_grad, conv_op, conv_weight_grad
from graphc.runtime.conv_geometry import Axis, Convolution, described
from graphc.runtime.cpu import (
    conv_channels,
    conv_depthwise_weight,
    conv_direct,
    conv_few,
    conv_points,
    conv_points_weight,
    conv_weight,
    conv_winograd,
    conv_winograd_channels,
    conv_winograd_weight,
    lanes,
)
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.conv_tiles import BYTES, counters
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.phases import KernelCode
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, constant
from graphc.runtime.cpu.winograd import TRANSFORMS
from graphc.runtime.strided import itemsize
from graphc.target import NO_PREFERENCE, Order, Preference


class Algorithm(NamedTuple):
    """A way to compute what it serves; the name is what a plan's report says."""

    name: str
    serves: Callable[[KernelCode, Convolution], bool]
    emit: Callable[[KernelCode, Convolution], None]


# For float32, the fastest first. The transforms round more than the others, which only order their sums differently.
_TRANSFORMS = (
    *(
        Algorithm(
            f"winograd {transform.name}, channels in lanes",
            partial(conv_winograd_channels.is_served, transform),
            partial(conv_winograd_channels.winograd, transform),
        )
        for transform in TRANSFORMS
    ),
    Algorithm("winograd 4x4", conv_winograd.is_served, conv_winograd.winograd),
    Algorithm("winograd 4x4", conv_winograd_weight.is_served, conv_winograd_weight.winograd_weight),
)
_EXACT = (
    Algorithm("direct, images in lanes", conv_points.is_served, conv_points.points),
    Algorithm("direct, few points", conv_points_weight.is_served, conv_points_weight.weight_gradient),
    Algorithm("direct, channels in lanes", conv_channels.is_served, conv_channels.channels),
    Algorithm("direct, source in place", conv_few.is_served, conv_few.few),
    Algorithm("direct, windows in lanes", conv_depthwise_weight.is_served, conv_depthwise_weight.weight_gradient),
    Algorithm("direct", conv_direct.is_served, conv_direct.direct),
    Algorithm("direct", conv_weight.is_served, conv_weight.weight_gradient),
)


def fastest(code: KernelCode) -> bool:
    """Emit a convolution, or its gradient in x or w."""
    return _emit(code, (*_TRANSFORMS, *_EXACT))


def exact(code: KernelCode) -> bool:
    """Emit the same, exact up to the order of its sums."""
    return _emit(code, _EXACT)


def _emit(code: KernelCode, algorithms: Sequence[Algorithm]) -> bool:
    core = code.kernel.core
    assert core is not None
    convolution = described(core)
    found = [a for a in algorithms if core.dtype == "float32" and a.serves(code, convolution)]
    algorithm = found[0] if found else Algorithm("one result at a time", lambda *_: True, plain)
    code.note(algorithm.name)
    algorithm.emit(code, convolution)
    return True


HEAVY = 1 << 19  # elements of weights: with more, little time goes into turning, and threads write what others read
_LAST: Mapping[int, Order] = {3: (0, 2, 1), 4: (0, 2, 3, 1)}  # channels last, by how many axes there are


def preference(host: Host, precision: str, core: Node, steady: Collection[int]) -> Preference:
    """The orders in which a convolution's operands and result should lie: channels last where they lie in lanes."""
    if core.op is not conv_op or core.dtype != "float32" or 1 not in steady:
        return NO_PREFERENCE
    convolution = described(core)
    last = _LAST.get(core.ndim)
    if last is None or not conv_channels.fits(convolution, host) or math.prod(convolution.extents("w")) > HEAVY:
        return NO_PREFERENCE
    if precision != "exact":
        if any(conv_winograd_channels.fits(transform, convolution, host) for transform in TRANSFORMS):
            whole = int(convolution.inputs) % host.lanes(BYTES) == 0
            return Preference({0: last} if whole else {}, last)
        if conv_winograd.is_profitable(convolution, host):
            return NO_PREFERENCE
    return Preference({0: last}, last)


_OPS = (conv_op, conv_input_grad, conv_weight_grad)
CORES: Mapping[Op, Callable[[KernelCode], bool]] = dict.fromkeys(_OPS, fastest)
EXACT_CORES: Mapping[Op, Callable[[KernelCode], bool]] = dict.fromkeys(_OPS, exact)


# --------------------------------------------------------------------------------------------- plain

# The counters of a place in the three operands: "n" image, "G" group, "c" and "o" channels in the group, and along
# axis k "i{k}" the element, "p{k}" the window, "t{k}" the tap.
_OUTER = {"x": "nGc", "g": "nGo", "w": "Goc"}
_SPATIAL = {"x": "i", "g": "p", "w": "t"}

Place = dict[str, Int]


def plain(code: KernelCode, convolution: Convolution) -> None:
    """Emit each element of the result as a sum over all that meets there."""
    first, second, target = convolution.roles
    arrays = {role: lanes.operand(code, k) for k, role in enumerate((first, second))}
    result = arrays[target] = lanes.result(code, 0)
    frame = code.phase(product(convolution.extents(target)), convolution.products * 2 + 1)
    f = frame.f
    extents = {"n": frame.size(convolution.batch), "G": convolution.groups}
    extents |= {"c": frame.size(convolution.inputs), "o": frame.size(convolution.outputs)}
    for k, axis in enumerate(convolution.axes):
        sizes = {"i": axis.size, "p": axis.windows, "t": axis.kernel}
        extents |= {f"{letter}{k}": frame.size(size) for letter, size in sizes.items()}
    outer = [*_OUTER[target], *(f"{_SPATIAL[target]}{k}" for k in range(len(convolution.axes)))]
    derived = "t" if target == "x" else "i"
    inner = [name for name in extents if name not in outer and name[0] != derived]
    memory = MEMORY_TYPE[result.dtype]
    is_integer = memory.startswith("i")
    register = memory if is_integer or memory == "double" else "float"

    def address(role: str, place: Place) -> Value:
        channels = {"x": ("n", "G", "c"), "g": ("n", "G", "o"), "w": ("G", "o", "c")}[role]
        a, b, c = (place[name] for name in channels)
        lead = (a, f.add(f.mul(b, extents[channels[2]]), c)) if role != "w" else (f.add(f.mul(a, extents["o"]), b), c)
        return frame.at(arrays[role], (*lead, *(place[f"{_SPATIAL[role]}{k}"] for k in range(len(convolution.axes)))))

    def load(role: str, place: Place) -> Value:
        return f.convert("fpext", f.load(memory, address(role, place), itemsize(result.dtype)), register)

    def summed(names: Sequence[str], place: Place, total: Value) -> Value:
        if names:
            name, *rest = names
            low, high = _meeting(f, convolution.axes, place, name, extents) if derived == "t" else (0, extents[name])
            (total,) = f.loop(low, high, 1, lambda i, sums: [summed(rest, {**place, name: i}, sums[0])], [total])
            return total
        met, exists = _met(f, convolution.axes, place, derived, extents)
        (total,) = f.if_(exists, lambda: [added(load(first, met), load(second, met), total)], lambda: [total])
        return total

    def added(a: Value, b: Value, total: Value) -> Value:
        return f.binary("add", f.binary("mul", a, b), total) if is_integer else f.fma(a, b, total)

    def element(unit: Value, _: list[Value]) -> None:
        place = dict(zip(outer, counters(f, unit, [extents[name] for name in outer]), strict=True))
        total = summed(inner, place, constant(register, 0))
        f.store(f.convert("fptrunc", total, memory), address(target, place), itemsize(result.dtype))

    f.loop(frame.low, frame.high, 1, element)
    frame.done()
    lanes.finish(code, 0)


def _meeting(f: Function, axes: Sequence[Axis], place: Place, name: str, extents: Mapping[str, Int]) -> tuple[Int, Int]:
    """Of what a counter runs over, the part that may meet an element of x: not all windows do."""
    if name[0] != "p":
        return 0, extents[name]
    axis, last = axes[int(name[1:])], f.sub(extents[f"t{name[1:]}"], 1)
    reached = f.add(place[f"i{name[1:]}"], axis.before)
    low = f.max(f.sub(reached, f.mul(last, axis.dilation)), 0)
    high = f.add(f.div(reached, axis.stride), 1)
    return f.div(f.add(low, axis.stride - 1), axis.stride), f.min(high, extents[name])


def _met(
    f: Function, axes: Sequence[Axis], place: Place, derived: str, extents: Mapping[str, Int]
) -> tuple[Place, Value]:
    """The place with the counter along each axis that follows from the two others, and whether it exists."""
    found, exists = dict(place), constant("i1", True)
    for k, axis in enumerate(axes):
        if derived == "i":
            tap = f.mul(place[f"t{k}"], axis.dilation)
            at = f.sub(f.add(f.mul(place[f"p{k}"], axis.stride), tap), axis.before)
        else:
            offset = f.sub(f.add(place[f"i{k}"], axis.before), f.mul(place[f"p{k}"], axis.stride))
            at = f.div(offset, axis.dilation)
            exists = f.binary("and", exists, f.compare("icmp eq", f.i64(f.rem(offset, axis.dilation)), f.i64(0)))
        exists = f.binary("and", exists, f.compare("icmp ult", f.i64(at), f.i64(extents[f"{derived}{k}"])))
        found[f"{derived}{k}"] = at
    return found, exists
