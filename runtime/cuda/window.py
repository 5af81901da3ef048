"""Pooling on a GPU: a thread has a window, or for gradients an element; those of neighbours lie side by side.

What a window meets is a range of positions along each axis, so that nothing is asked inside. A gradient adds up, for
each element, what the windows send that meet it, which are a range along each axis, too: nothing is scattered, and the
order of every sum is that of the windows. For that of a maximum, a first launch finds the places of all maxima.
A large window, such as that of a global pool, has a warp: its lanes take every 32nd element, and join what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np

from graphc.dims import Dim, product
from graphc.op import Op
from graphc.ops import pooling
from graphc.ops.windows import span
from graphc.passes.sizes import guess
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.grids import each, each_point, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.scalars import REGISTER, number
from graphc.runtime.strided import Strided
from graphc.types import is_float, np_dtype

WARP = 32
LARGE = 64  # elements of a window from which a warp looks at them
MAX_I32 = 1 << 30  # elements of a plane up to which places are kept in 32 bits


class _Axis(NamedTuple):
    """The windows along one spatial axis.

    Attributes:
        windows: how many there are.
        inside, padded: whether no window ever reaches beyond the data, or beyond its padding.
    """

    size: Dim
    kernel: Dim
    stride: Dim
    before: int
    after: int
    dilation: int
    windows: Dim
    inside: bool
    padded: bool

    def start(self, frame: Frame, window: str) -> str:
        """Print where a window begins."""
        before = f" - {self.before}" if self.before else ""
        return frame.value("Index", f"{window} * {frame.size(self.stride)}{before}", "start")

    def taps(self, frame: Frame, start: str, low: str, high: str) -> tuple[str, str]:
        """Print the first and last (exclusive) position in a window from `start` on that lies in [low, high)."""
        first, last = [self._ceil_div(f"most<Index>({end} - {start}, 0)") for end in (low, high)]
        last = f"least<Index>({last}, {frame.size(self.kernel)})"
        return frame.value("Index", first, "first"), frame.value("Index", last, "last")

    def met(self, frame: Frame, start: str) -> tuple[str, str]:
        """Those that lie in the data."""
        return ("0", frame.size(self.kernel)) if self.inside else self.taps(frame, start, "0", frame.size(self.size))

    def over(self, frame: Frame, i: str) -> tuple[str, str]:
        """Print the first and last (exclusive) window that may meet element i."""
        stride, reach = frame.size(self.stride), frame.size((self.kernel - 1) * self.dilation)
        past = frame.value("Index", f"{i} + {self.before}" if self.before else i, "past")
        first = f"(most<Index>({past} - {reach}, 0) + {stride} - 1) / {stride}"
        last = f"least<Index>({past} / {stride} + 1, {frame.size(self.windows)})"
        return frame.value("Index", first, "first"), frame.value("Index", last, "last")

    def _ceil_div(self, number: str) -> str:
        return number if self.dilation == 1 else f"({number} + {self.dilation - 1}) / {self.dilation}"


def _axes(spatial: Sequence[Dim], counts: Sequence[Dim], attrs: Mapping[str, Any]) -> list[_Axis]:
    per_axis = zip(spatial, *[attrs[name] for name in ("kernel", "stride", "padding", "dilation")], counts, strict=True)
    found = []
    for size, kernel, stride, (before, after), dilation, count in per_axis:
        room = size + before - ((count - 1) * stride + span(kernel, dilation))  # what the last window leaves over
        fits = room >= 0 if isinstance(room, int) else after == 0 and not attrs["ceil_mode"]
        padded = room + after >= 0 if isinstance(room, int) else not attrs["ceil_mode"]
        found.append(_Axis(size, kernel, stride, before, after, dilation, count, before == 0 and fits, padded))
    return found


@contextmanager
def _nest(frame: Frame, bounds: Sequence[tuple[str, str]], stem: str) -> Iterator[list[str]]:
    """Loops inside each other, the first one outermost: their counters."""
    with ExitStack() as stack:
        names = []
        for low, high in bounds:
            names.append(frame.name(stem))
            head = f"for (Index {names[-1]} = {low}; {names[-1]} < {high}; ++{names[-1]})"
            stack.enter_context(frame.block(head))
        yield names


def _row_major(frame: Frame, index: Sequence[str], extents: Sequence[Dim]) -> str:
    """The number of an element, counted over all axes."""
    text = index[0]
    for k, (i, extent) in enumerate(zip(index[1:], extents[1:], strict=True)):
        text = f"{f'({text})' if k else text} * {frame.size(extent)} + {i}"
    return text


# ---------------------------------------------------------------------------------------------- what windows make


class _Rule(NamedTuple):
    """What becomes of the elements of a window.

    Attributes:
        start: lines that declare what is carried along, for a type and the least of its values.
        join: lines that take one more element, "x" at "at".
        together: lines that join what the lanes of a warp have.
    """

    start: tuple[str, ...]
    join: tuple[str, ...]
    together: tuple[str, ...]


_MAXIMUM = _Rule(
    ("{type} best = {least};",),
    ("best = maximum(best, x);",),
    ("best = joined_lanes<Larger<{type}>, 32>(best);",),
)
_PLACE = _Rule(
    ("{type} best = {least};", "Index place = -1;"),
    ("if (place < 0 || x > best || x != x) {{", "    best = x;", "    place = at;", "}}"),
    ("place = joined_lanes<Better<{type}>, 32>(Spot<{type}>{{best, place}}).place;",),
)
_SUM = _Rule(("{type} total = 0;",), ("total += x;",), ("total = joined_lanes<Sum<{type}>, 32>(total);",))

TOGETHER = """\
template <typename T> struct Larger {
    typedef T Type;
    static __device__ __forceinline__ T join(T a, T b) { return maximum(a, b); }
};
// A value and its place, which is negative where there is none. The greater is better; of equal ones that which comes
// first, and of all the nan that comes last.
template <typename T> struct Spot {
    T value;
    Index place;
};
template <typename T> struct Better {
    typedef Spot<T> Type;
    static __device__ __forceinline__ Type join(Type a, Type b) {
        if (a.place < 0 || b.place < 0) return a.place < 0 ? b : a;
        const bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
        if (a_is_nan || b_is_nan) return a_is_nan && !(b_is_nan && a.place < b.place) ? a : b;
        return a.value > b.value || (a.value == b.value && a.place < b.place) ? a : b;
    }
};
"""


def _lowest(dtype: str) -> str:
    """What is below every other value, in registers."""
    if dtype == "bool":
        return "false"
    return number(-np.inf if is_float(dtype) else np.iinfo(np_dtype(dtype)).min, dtype)


def _is_large(axes: Sequence[_Axis]) -> bool:
    """Whether a warp should look at a window."""
    return guess(product([axis.kernel for axis in axes])) >= LARGE


@contextmanager
def _windows(code: CudaCode, counts: Sequence[Dim], axes: Sequence[_Axis]) -> Iterator[tuple[Frame, list[str]]]:
    """A launch with a thread or a warp for each window of [N, C, *windows]: its index."""
    if not _is_large(axes):
        code.note("a window a thread")
        with each_point(code, counts) as found:
            yield found
        return
    code.note("a window a warp")
    code.declare(TOGETHER)
    with each(code, product(counts) * WARP) as (frame, thread):
        number = frame.value("Index", f"{thread} / {WARP}", "number")
        yield frame, unravelled(frame, number, counts)


@contextmanager
def _taps(frame: Frame, axes: Sequence[_Axis], bounds: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """Loops over the positions in a window between bounds on each axis; of a large one, over each 32nd."""
    if not _is_large(axes):
        with _nest(frame, bounds, "j") as taps:
            yield taps
        return
    sizes = [high if low == "0" else frame.value("Index", f"most<Index>({high} - {low}, 0)") for low, high in bounds]
    with frame.block(f"for (Index tap = threadIdx.x % {WARP}; tap < {' * '.join(sizes)}; tap += {WARP})"):
        rest, taps = "tap", []
        for (low, _), size in reversed(list(zip(bounds, sizes, strict=True))):
            taps.append(frame.value("Index", f"{low} + {rest} % {size}", "j"))
            rest = frame.value("Index", f"{rest} / {size}", "rest")
        yield taps[::-1]


def _met(frame: Frame, rule: _Rule, axes: Sequence[_Axis], shape: Sequence[Dim], index: Sequence[str]) -> list[str]:
    """Print what becomes of the elements that a window meets; where it starts.

    Args:
        shape: of the data.
        index: of the window, in [N, C, *windows].
    """
    operand = len(frame.code.kernel.operands) - 1
    dtype = frame.code.kernel.operands[operand].body.outputs[0].dtype
    words = dict(type=REGISTER[dtype], least=_lowest(dtype))
    for line in rule.start:
        frame.line(line.format(**words))
    starts = [axis.start(frame, window) for axis, window in zip(axes, index[2:], strict=True)]
    bounds = [axis.met(frame, start) for axis, start in zip(axes, starts, strict=True)]
    with _taps(frame, axes, bounds) as taps:
        place = []
        for axis, start, j in zip(axes, starts, taps, strict=True):
            step = j if axis.dilation == 1 else f"{j} * {axis.dilation}"
            place.append(frame.value("Index", f"{start} + {step}", "at"))
        x = regions.element(frame, operand, [*index[:2], *place])
        frame.line(f"const {words['type']} x = {x};")
        if rule is _PLACE:
            frame.line(f"const Index at = {_row_major(frame, place, shape[2:])};")
        for line in rule.join:
            frame.line(line.format(**words))
    if _is_large(axes):
        for line in rule.together:
            frame.line(line.format(**words))
        frame.line(f"if (threadIdx.x % {WARP} != 0) return;")
    return starts


def _pool(code: CudaCode) -> bool:
    """Pooling of x[N, C, *spatial]."""
    core = code.kernel.core
    assert core is not None
    shape, attrs = core.inputs[0].shape, core.attrs
    axes = _axes(shape[2:], core.shape[2:], attrs)
    rule, found = _FORWARD[core.op]
    with _windows(code, core.shape, axes) as (frame, index):
        starts = _met(frame, rule, axes, shape, index)
        if core.op is pooling.avg_pool_op:
            found = f"total / {_count(frame, axes, starts, core.dtype, include_pad=attrs['count_include_pad'])}"
        regions.finish_at(frame, 0, index, found)
    return True


def _count(frame: Frame, axes: Sequence[_Axis], starts: Sequence[str], dtype: str, *, include_pad: bool) -> str:
    """Print how many elements windows count that begin at `starts`."""
    counts = []
    for axis, start in zip(axes, starts, strict=True):
        if axis.inside or (include_pad and axis.padded):
            counts.append(frame.size(axis.kernel))
            continue
        low, high = ("0", frame.size(axis.size))
        if include_pad:
            low, high = str(-axis.before), frame.size(axis.size + axis.after)
        first, last = axis.taps(frame, start, low, high)
        counts.append(f"most<Index>({last} - {first}, 0)")
    return frame.value(REGISTER[dtype], f"({REGISTER[dtype]})({' * '.join(counts)})", "count")


# ---------------------------------------------------------------------------------------------- gradients


def _spread(code: CudaCode) -> bool:
    """The adjoint of the mean: a thread has an element, and adds up what the windows that meet it send."""
    core = code.kernel.core
    assert core is not None
    attrs = core.attrs
    axes = _axes(core.shape[2:], core.inputs[0].shape[2:], attrs)
    type = REGISTER[core.dtype]
    include_pad = attrs["count_include_pad"]
    same = all(axis.inside or (include_pad and axis.padded) for axis in axes)
    with each_point(code, core.shape) as (frame, index):
        frame.line(f"{type} total = 0;")
        bounds = [axis.over(frame, i) for axis, i in zip(axes, index[2:], strict=True)]
        with _nest(frame, bounds, "window") as windows:
            starts = [axis.start(frame, window) for axis, window in zip(axes, windows, strict=True)]
            for axis, i, start in zip(axes, index[2:], starts, strict=True):
                if axis.dilation != 1:  # which skips elements
                    frame.line(f"if (({i} - {start}) % {axis.dilation} != 0) continue;")
            g = regions.element(frame, 0, [*index[:2], *windows])
            divided = "" if same else f" / {_count(frame, axes, starts, core.dtype, include_pad=include_pad)}"
            frame.line(f"total += {g}{divided};")
        count = _count(frame, axes, ["0"] * len(axes), core.dtype, include_pad=include_pad) if same else "1"
        regions.finish_at(frame, 0, index, f"total / {count}" if same else "total")
    code.note("the windows of an element a thread")
    return True


def _max_gradient(code: CudaCode) -> bool:
    """First the place of each window's maximum; then a thread has an element, and adds up what has its place."""
    core = code.kernel.core
    assert core is not None
    (g, x), attrs = core.inputs, core.attrs
    axes = _axes(x.shape[2:], g.shape[2:], attrs)
    plane = product(x.shape[2:])
    kept = "int32" if isinstance(plane, int) and plane < MAX_I32 else "int64"
    places = regions.in_workspace(code, g.shape, kept)
    with _windows(code, g.shape, axes) as (frame, index):
        _met(frame, _PLACE, axes, x.shape, index)
        frame.line(f"{frame.at(places, index)} = most<Index>(place, 0);")
    with each_point(code, core.shape) as (frame, index):
        _add_windows(frame, axes, places, index)
    code.note("the windows of an element a thread")
    return True


def _add_windows(frame: Frame, axes: Sequence[_Axis], places: Strided, index: Sequence[str]) -> None:
    """Print the sum of what windows send whose maximum is an element, and what becomes of it.

    A window that meets nothing has place 0: where there may be one, element 0 looks at all.
    """
    core = frame.code.kernel.core
    assert core is not None
    type = REGISTER[core.dtype]
    at = frame.value("Index", _row_major(frame, index[2:], core.shape[2:]), "at")
    frame.line(f"{type} total = 0;")
    bounds = [axis.over(frame, i) for axis, i in zip(axes, index[2:], strict=True)]
    may_miss = any(axis.dilation != 1 and not axis.inside for axis in axes)
    if may_miss:
        bounds = [
            (f"({at} == 0 ? 0 : {first})", f"({at} == 0 ? {frame.size(axis.windows)} : {last})")
            for axis, (first, last) in zip(axes, bounds, strict=True)
        ]
    with _nest(frame, bounds, "window") as windows:
        lead = [*index[:2], *windows]
        with frame.block(f"if ({frame.at(places, lead)} == {at})"):
            frame.line(f"total += {regions.element(frame, 0, lead)};")
    regions.finish_at(frame, 0, index, "total")


_FORWARD: Mapping[Op, tuple[_Rule, str]] = {  # and what is found in the end
    pooling.max_pool_op: (_MAXIMUM, "best"),
    pooling.max_pool_indices: (_PLACE, "(i64)most<Index>(place, 0)"),
    pooling.avg_pool_op: (_SUM, "total"),
}

CORES: Mapping[Op, Callable[[CudaCode], bool]] = {
    **dict.fromkeys(_FORWARD, _pool),
    pooling.avg_pool_input_grad: _spread,
    pooling.max_pool_input_grad: _max_gradient,
}
