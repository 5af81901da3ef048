"""Convolutions and their gradients, of any number of axes, as implicit products of matrices.

Each of the three is a sum of products of two operands, of which one is read as it lies and the other, the *source*, is
met by windows: x, where g or w is computed, and g, where x is. Its matrix, the windows side by side, is never made: an
element's place is worked out from its row and column when it is loaded. The gradient of x with a stride falls into
classes by remainder, since each class meets other taps (see `conv_geometry`); each is a launch.

Where cuDNN is installed, it may do the same instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Literal, NamedTuple

from graphc.dims import Dim, DimExpr, ceil_div, product
from graphc.op import Op
from graphc.ops.conv import conv_input_grad, conv_op, conv_weight_grad
from graphc.passes.sizes import guess
from graphc.runtime.conv_geometry import Axis, Convolution, described, taps_of
from graphc.runtime.cuda import lanes
from graphc.runtime.cuda.grids import each_point, unravelled
from graphc.runtime.cuda.launches import Convolution as Library
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.products import (
    Lines,
    Products,
    Spots,
    by_columns,
    by_teams,
    by_tiles,
    pack_of,
    rounded_sum,
)
from graphc.runtime.cuda.scalars import HALVES, MEMORY, REGISTER
from graphc.runtime.strided import Strided

FEW_ROWS = 8  # results that a thread can compute side by side
FEW_RESULTS = 64  # of a group, which teams compute, if there are no more
MANY = 4096  # columns, with a thread for each, that keep a GPU busy


CUDNN_DTYPES = ("float32", *HALVES)
CUDNN_AXES = (2, 3)
DIRECTIONS: Mapping[str, Literal["forward", "data", "weight"]] = {"g": "forward", "x": "data", "w": "weight"}


class Walk(NamedTuple):
    """How one class of results meets the source along an axis.

    Column `u` of the implicit matrix meets, in row `v`, element `start + u * across + v * down` of the source, if there
    is one. It belongs to the result at `first + u * spread`, and row v to tap `tap + v * tap_step`.

    Attributes:
        columns, rows: how many.
        size: elements of the source.
    """

    columns: Dim
    rows: Dim
    size: Dim
    start: Dim
    across: int
    down: int
    first: int = 0
    spread: int = 1
    tap: int = 0
    tap_step: int = 1


def walks(axis: Axis, role: str) -> list[Walk] | None:
    """How the results of a role, of "xwg", meet their source along an axis, class by class.

    None where the classes aren't known yet, as the number of taps isn't.
    """
    size, kernel, windows, stride, before, dilation = axis
    if role == "g":
        return [Walk(windows, kernel, size, -before, stride, dilation)]
    if role == "w":
        return [Walk(kernel, windows, size, -before, dilation, stride)]
    if stride == 1:
        return [Walk(size, kernel, windows, before, 1, -dilation)]
    if isinstance(kernel, DimExpr):
        return None
    found = []
    for first in range(stride):
        taps = taps_of(axis, first)
        columns = ceil_div(size - first, stride)
        places = (taps.start, 1, taps.step, first, stride, taps.weight, taps.weight_step)
        found.append(Walk(columns, taps.met, windows, *places))
    return found


def convolve(code: CudaCode) -> bool:
    """Emit a convolution, or its gradient in x or w."""
    core = code.kernel.core
    assert core is not None
    convolution = described(core)
    role = convolution.roles[2]
    by_axis = [walks(axis, role) for axis in convolution.axes]
    if any(found is None for found in by_axis):
        return False
    arrays = {role: lanes.operand(code, k) for k, role in enumerate(convolution.roles[:2])}
    since = code.position
    arranged = cache(partial(_arranged, code, convolution, arrays))
    for some in itertools.product(*[found for found in by_axis if found is not None]):
        problem = _Problem(core.dtype, convolution, arrays, some, arranged).products()
        _algorithm(problem)(code, problem)
    if why_not := _why_not_library(code, convolution):
        code.note(f"not by cudnn, {why_not}")
    else:
        arrays[role] = lanes.result(code, 0)
        then = code.position
        lanes.finish(code, 0)
        code.convolution(_by_library(code, convolution, arrays), since, then)
    return True


def _why_not_library(code: CudaCode, convolution: Convolution) -> str:
    """Why cuDNN isn't asked, in a few words; "" if it is."""
    core = code.kernel.core
    assert core is not None
    if "cudnn" not in code.libraries:
        return "which isn't there"
    if core.dtype not in CUDNN_DTYPES:
        return f"which takes no {core.dtype}"
    return "" if len(convolution.axes) in CUDNN_AXES else "which takes two or three axes"


def _by_library(code: CudaCode, convolution: Convolution, arrays: Mapping[str, Strided]) -> Library:
    """The same for cuDNN, whose y is our g."""
    core = code.kernel.core
    assert core is not None
    x, w, y = (arrays[role] for role in "xwg")
    shapes = (convolution.extents("x"), convolution.extents("w"), convolution.extents("g"))
    attrs = core.attrs
    compute = code.precision if core.dtype == "float32" else "float32"
    steps = (attrs["stride"], attrs["dilation"], attrs["padding"])
    return Library(DIRECTIONS[convolution.roles[2]], x, w, y, shapes, *steps, compute)


def _algorithm(problem: Products) -> Callable[[CudaCode, Products], None]:
    rows, columns = guess(problem.m), guess(problem.n)
    if rows * columns <= FEW_RESULTS:
        return by_teams
    few = isinstance(problem.m, int) and rows <= FEW_ROWS
    return by_columns if few and columns * guess(product(problem.batch)) >= MANY else by_tiles


class Steps(NamedTuple):
    """Axes of an array: their extents, and how far apart elements along each are."""

    extents: tuple[Dim, ...]
    strides: tuple[Dim, ...]

    def offset(self, frame: Frame, number: str) -> str:
        """The offset of the element with a row-major number over the axes, as an expression."""
        extents, strides = list(self.extents[:1]), list(self.strides[:1])
        for extent, stride in zip(self.extents[1:], self.strides[1:], strict=True):
            if strides[-1] == extent * stride:
                extents[-1], strides[-1] = extents[-1] * extent, stride
            else:
                extents.append(extent)
                strides.append(stride)
        return frame.offset(0, strides, unravelled(frame, number, extents))


def _arranged(code: CudaCode, convolution: Convolution, arrays: Mapping[str, Strided]) -> Strided:
    """The weight as tiles of x or g read it best, [group, *taps, what is summed over, rows]; emits what copies it."""
    w, by_output = arrays["w"], convolution.roles[2] == "g"
    taps = [axis.kernel for axis in convolution.axes]
    channels = (convolution.inputs, convolution.outputs) if by_output else (convolution.outputs, convolution.inputs)
    shape = [convolution.groups, *taps, *channels]
    copy = lanes.in_workspace(code, shape, w.dtype)
    with each_point(code, shape) as (frame, index):
        group, *tap, inner, row = index
        output, given = (row, inner) if by_output else (inner, row)
        outer = frame.value("Index", frame.offset(0, (convolution.outputs, 1), (group, output)), "output")
        frame.line(f"{frame.at(copy, index)} = {frame.at(w, (outer, given, *tap))};")
    code.note("weight arranged")
    return copy


class _Problem(NamedTuple):
    """One class of results.

    Attributes:
        arranged: emits a copy of the weight, when it is first asked for; see `_arranged`.
    """

    dtype: str
    convolution: Convolution
    arrays: Mapping[str, Strided]
    walks: tuple[Walk, ...]
    arranged: Callable[[], Strided]

    @property
    def channels(self) -> tuple[Dim, Dim, Dim]:
        """How many rows and images, or channels, the matrices have: rows, of columns, and summed over."""
        batch, inputs, outputs = self.convolution.batch, self.convolution.inputs, self.convolution.outputs
        return {"g": (outputs, batch, inputs), "x": (inputs, batch, outputs), "w": (outputs, inputs, batch)}[
            self.convolution.roles[2]
        ]

    def products(self) -> Products:
        """The results as sums of products: a row is a channel, a column a place."""
        rows, lead, inner = self.channels
        n = lead * product([walk.columns for walk in self.walks])
        k = inner * product([walk.rows for walk in self.walks])
        by_weight = self.convolution.roles[2] == "w"
        sizes = ((self.convolution.groups,), rows, n, k)
        return Products(self.dtype, *sizes, by_weight, self.operands, self.out, self.in_slabs)

    def in_slabs(self, code: CudaCode, step: int) -> Products | None:
        """The same, tap by tap, if slabs have no more than one tap each: then it is found once for a slab."""
        _, _, inner = self.channels
        if self.convolution.roles[2] == "w" or not isinstance(inner, int) or inner == 0 or inner % step:
            return None
        weight = self.arranged()

        def operands(frame: Frame, batch: Sequence[str]) -> tuple[Lines, Lines]:
            (group,) = batch
            return self.plain_slabs(frame, group, weight), self.source_slabs(frame, group)

        return self.products()._replace(operands=operands, along=False, in_slabs=lambda *_: None)

    def plain_slabs(self, frame: Frame, group: str, weight: Strided) -> Lines:
        """The arranged weight, whose rows lie side by side."""
        rows, _, inner = self.channels
        pointer = f"const {MEMORY[self.dtype]}*"
        base = frame.value(pointer[6:], f"&{frame.at(weight, (group,))}", "base")
        extents = [*(walk.rows for walk in self.walks), inner]
        _, *taps, along, _ = weight.strides
        first = sum([walk.tap * stride for walk, stride in zip(self.walks, taps, strict=True)])
        strides = [walk.tap_step * stride for walk, stride in zip(self.walks, taps, strict=True)]

        def line() -> None:
            frame.line(f"return i < {frame.size(rows)} ? {base} + {frame.offset(first, (1,), ('i',))} : nullptr;")

        def slab() -> None:
            frame.line(f"if (p == nullptr || k >= {frame.size(product(extents))}) return nullptr;")
            frame.line(f"return p + {frame.offset(0, (*strides, along), unravelled(frame, 'k', extents))};")

        pack = pack_of(self.dtype, [rows], [1], [])  # the copy is in order, so all its steps are multiples of rows
        return Lines(False, pointer, line, partial(self.element, frame, along), (pointer, slab), pack=pack)

    def source_slabs(self, frame: Frame, group: str) -> Lines:
        """The columns of the implicit matrix, of which a slab has one tap."""
        source = self.source(frame, group)
        array = self.arrays["g" if self.convolution.roles[2] == "x" else "x"]
        pointer = f"const {MEMORY[self.dtype]}*"
        extents = [*(walk.rows for walk in self.walks), self.channels[2]]

        def slab() -> None:
            frame.line(f"if (p.start == nullptr || k >= {frame.size(product(extents))}) return nullptr;")
            *taps, inner = unravelled(frame, "k", extents)
            places = self.places(frame, taps, "nullptr")
            frame.line(f"return p.start + {frame.offset(0, array.strides[1:], (inner, *places))};")

        return source._replace(slab=(pointer, slab), place=partial(self.element, frame, array.strides[1]))

    def element(self, frame: Frame, stride: Dim) -> None:
        """Emit what returns where an element of a slab is."""
        frame.line(f"return p != nullptr ? p + {frame.offset(0, (stride,), ('k',))} : nullptr;")

    def places(self, frame: Frame, taps: Sequence[str], beyond: str) -> list[str]:
        """Where a column meets these taps, along each axis; emits what returns `beyond` where it meets nothing."""
        met = []
        for number, (walk, v) in enumerate(zip(self.walks, taps, strict=True)):
            met.append(frame.value("Index", f"p.at{number} + {_affine(frame, 0, v, walk.down)}", "place"))
            if not _is_inside(walk):
                frame.line(f"if ({met[-1]} < 0 || {met[-1]} >= {frame.size(walk.size)}) return {beyond};")
        return met

    def operands(self, frame: Frame, batch: Sequence[str]) -> tuple[Lines, Lines]:
        """The operand that is read as it lies, and the source."""
        (group,) = batch
        return self.plain(frame, group), self.source(frame, group)

    def base(self, frame: Frame, role: str, group: str) -> str:
        """A pointer to a group's part of an operand."""
        convolution, array = self.convolution, self.arrays[role]
        size = convolution.inputs if role == "x" else convolution.outputs
        axis = 0 if role == "w" else 1
        at = frame.offset(array.offset, (size * array.strides[axis],), (group,))
        return frame.value(f"{MEMORY[self.dtype]}*", f"{frame.base(array)} + {at}", "base")

    def plain(self, frame: Frame, group: str) -> Lines:
        """w, or g where w is computed: a row is a channel of the result, and what is summed over lies as it may."""
        role = "g" if self.convolution.roles[2] == "w" else "w"
        array, (rows, _, inner) = self.arrays[role], self.channels
        outer, *space = array.strides[:2], *array.strides[2:]
        row, lead = (outer[1], outer[0]) if self.convolution.roles[2] != "g" else outer
        first: Dim = 0
        if role == "w":
            first = sum([walk.tap * stride for walk, stride in zip(self.walks, space, strict=True)])
            space = [walk.tap_step * stride for walk, stride in zip(self.walks, space, strict=True)]
        steps = Steps((inner, *(walk.rows for walk in self.walks)), (lead, *space))
        base = self.base(frame, role, group)
        pointer = f"const {MEMORY[self.dtype]}*"
        k = product(steps.extents)

        def line() -> None:
            at = frame.offset(first, (row,), ("i",))
            frame.line(f"return i < {frame.size(rows)} ? {base} + {at} : nullptr;")

        def place() -> None:
            frame.line(f"if (p == nullptr || k >= {frame.size(k)}) return nullptr;")
            frame.line(f"return p + {steps.offset(frame, 'k')};")

        def find() -> None:
            frame.line(f"const bool inside = k < {frame.size(k)};")
            frame.line(f"return PlainSpot{{{steps.offset(frame, 'k')}, inside}};")

        def there() -> None:
            frame.line("return (p != nullptr) & s.inside ? p + s.offset : nullptr;")

        near = min([guess(stride) for size, stride in zip(*steps, strict=True) if size != 1], default=1)
        along = near < guess(row)
        others = [first, *self.before(role)]
        if along:
            pack = pack_of(self.dtype, *steps, [*others, *([row] if rows != 1 else [])])
        else:
            pack = pack_of(self.dtype, [rows], [row], [*others, *_far(steps)])
        return Lines(
            along, pointer, line, place, spots=Spots("PlainSpot", "Index offset; bool inside;", find, there), pack=pack
        )

    def before(self, role: str) -> list[Dim]:
        """What is added to the address of an operand for a group."""
        convolution, array = self.convolution, self.arrays[role]
        size = convolution.inputs if role == "x" else convolution.outputs
        groups = [size * array.strides[0 if role == "w" else 1]] if convolution.groups != 1 else []
        return [array.offset, *groups]

    def source(self, frame: Frame, group: str) -> Lines:
        """The columns of the implicit matrix: windows of x or g, or elements of x that meet a tap."""
        source = "g" if self.convolution.roles[2] == "x" else "x"
        array, (_, lead, inner) = self.arrays[source], self.channels
        outer = array.strides[:2] if self.convolution.roles[2] != "w" else array.strides[1::-1]
        base = self.base(frame, source, group)
        columns, rows = [lead, *(w.columns for w in self.walks)], [inner, *(w.rows for w in self.walks)]
        count = len(self.walks)
        places = "".join(f" Index at{k};" for k in range(count))
        frame.line(f"struct Column {{ const {MEMORY[self.dtype]}* start;{places} }};")

        def line() -> None:
            index = unravelled(frame, "i", columns)
            start = f"{base} + {frame.offset(0, outer[:1], index[:1])}"
            at = [_affine(frame, walk.start, u, walk.across) for walk, u in zip(self.walks, index[1:], strict=True)]
            frame.line(f"return Column{{i < {frame.size(product(columns))} ? {start} : nullptr, {', '.join(at)}}};")

        def place() -> None:
            frame.line(f"if (p.start == nullptr || k >= {frame.size(product(rows))}) return nullptr;")
            first, *taps = unravelled(frame, "k", rows)
            at = frame.offset(0, (outer[1], *array.strides[2:]), (first, *self.places(frame, taps, "nullptr")))
            frame.line(f"return p.start + {at};")

        def find() -> None:
            first, *taps = unravelled(frame, "k", rows)
            moved = [_affine(frame, 0, v, walk.down) for walk, v in zip(self.walks, taps, strict=True)]
            inside = f"k < {frame.size(product(rows))}"
            frame.line(f"return SourceSpot{{{', '.join([frame.offset(0, outer[1:], (first,)), *moved, inside])}}};")

        def there() -> None:
            places = [frame.value("Index", f"p.at{k} + s.at{k}", "place") for k in range(count)]
            met = [(at, walk) for at, walk in zip(places, self.walks, strict=True) if not _is_inside(walk)]
            bounds = "".join([f" & ({at} >= 0) & ({at} < {frame.size(walk.size)})" for at, walk in met])
            at = frame.offset(0, (1, *array.strides[2:]), ("s.offset", *places))
            frame.line(f"return (p.start != nullptr) & s.inside{bounds} ? p.start + {at} : nullptr;")

        along = self.convolution.roles[2] == "w"
        spots = Spots("SourceSpot", f"Index offset;{places} bool inside;", find, there)
        pack = self.pack_of_source(source, along=along)
        return Lines(along, "Column", line, place, spots=spots if along else None, pack=pack)

    def pack_of_source(self, role: str, *, along: bool) -> int:
        """Elements of an access to the source: neighbours of space, if it is walked as it lies, and all of it."""
        array, walks = self.arrays[role], self.walks
        batch, channel, *space = array.strides
        walked = [(w.columns, w.rows, w.down) if along else (w.rows, w.columns, w.across) for w in walks]
        whole = all(
            (taps, step, w.start, size) == (1, 1, 0, w.size)
            for w, (taps, size, step) in zip(walks, walked, strict=True)
        )
        extents = (self.convolution.batch, *(w.size for w in walks))
        return pack_of(self.dtype, extents, (batch, *space), [*self.before(role), channel]) if whole else 1

    def out(self, frame: Frame, index: Sequence[str], sum: str) -> None:
        """What the kernel does with a result, at its group, row and column."""
        group, i, j = index
        role, (rows, lead, _) = self.convolution.roles[2], self.channels
        first, *places = unravelled(frame, j, [lead, *(walk.columns for walk in self.walks)])
        spots = [_affine(frame, walk.first, u, walk.spread) for walk, u in zip(self.walks, places, strict=True)]
        channel = frame.value("Index", frame.offset(0, (rows, 1), (group, i)), "channel")
        value = frame.value(REGISTER[self.dtype], rounded_sum(self.dtype, sum), "element")
        lanes.finish_at(frame, 0, [channel, first, *spots] if role == "w" else [first, channel, *spots], value)


def _far(steps: Steps) -> list[Dim]:
    """The strides of axes along which there is something."""
    return [stride for extent, stride in zip(*steps, strict=True) if extent != 1]


def _affine(frame: Frame, start: Dim, index: str, step: int) -> str:
    """`start + index * step`."""
    return frame.offset(start, (step,), (index,))


def _is_inside(walk: Walk) -> bool:
    """Whether it is known that no window goes beyond the source."""
    sizes = (walk.columns, walk.rows, walk.size, walk.start)
    if any(isinstance(size, DimExpr) for size in sizes):
        return False
    columns, rows, size, start = map(int, sizes)
    ends = [start + u * walk.across + v * walk.down for u in (0, columns - 1) for v in (0, rows - 1)]
    return min(ends) >= 0 and max(ends) < size


CORES: Mapping[Op, Callable[[CudaCode], bool]] = dict.fromkeys((conv_op, conv_input_grad, conv_weight_grad), convolve)
