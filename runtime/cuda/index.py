"""Gathers and scatters on a GPU; an index that is out of range sets the run's flag, and nothing is read or added there.

A thread gathers one element, or as many neighbours as an access takes, where what is gathered lies contiguous.

A scatter adds without atomic operations, so that its bits are the same in every run. Places that counters tell apart
(as in `take_along_axis`) are independent slices. Where very few updates belong to each, every element looks which of
them are its own; where few do, one thread adds them in their order. Else the updates are sorted by their place, stably;
those of one place are then neighbours, and a thread adds them up for each column (as in the gradient of an embedding:
N. Bell and M. Garland reduce by key like this in Thrust). Many of one place are added in parts, which begin at
multiples of a fixed number, and then the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from graphc.cached import cached_property
from graphc.dims import Dim, ceil_div, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.indexing import gather_op, scatter_add_op
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.cores import is_multiple
from graphc.runtime.cuda.grids import each_point, unravelled
from graphc.runtime.cuda.launches import CudaCode, Frame
from graphc.runtime.cuda.pointwise import UNSIGNED
from graphc.runtime.cuda.scalars import HALVES, MEMORY, REGISTER, loaded, stored
from graphc.runtime.cuda.sort import Lines, Sorted, sort_records
from graphc.runtime.indices import Indices, indices_of
from graphc.runtime.regions import is_direct, viewed
from graphc.runtime.strided import Strided, itemsize

ACCESS = 16  # bytes that a thread copies at once
COMPARED = 4  # updates of a slice that each element compares its place with
FEW = 32  # and that one thread adds in their order
PART = 32  # updates of one place that are added one after the other


def _places(frame: Frame, indices: Indices, shape: Sequence[Dim], point: Sequence[str]) -> tuple[dict[int, str], str]:
    """Print where the indices point, on each of their axes, counted from the beginning; and whether all are in range.

    Args:
        shape: of the data.
        point: of the indices.
    """
    found = {axis: point[k] for axis, k in indices.along.items()}
    ranges = []
    for axis, operand in indices.operands.items():
        size = frame.number(shape[axis])
        index = frame.value("i64", regions.element(frame, operand, point), "index")
        found[axis] = frame.value("Index", f"(Index)({index} < 0 ? {index} + {size} : {index})", "place")
        ranges.append(f"{index} >= -{size} && {index} < {size}")
    return found, " && ".join(ranges) or "true"


def _require(frame: Frame, condition: str, otherwise: str) -> None:
    """Print that the run fails unless a condition holds."""
    if condition != "true":
        with frame.block(f"if (!({condition}))"):
            frame.line(f"*{frame.failed()} = 1;")
            frame.line(otherwise)


# ---------------------------------------------------------------------------------------------- gather


def _gather(code: CudaCode) -> bool:
    core = code.kernel.core
    assert core is not None
    indices, shape = indices_of(code.kernel, 1), core.inputs[0].shape
    before, after = indices.result_axes(len(shape))
    rank = len(indices.shape)
    vector = _vector(code, core, after)
    last = [ceil_div(dim, vector) for dim in core.shape[-1:]]
    with each_point(code, [*core.shape[:-1], *last]) as (frame, index):
        index = [*index[:-1], *(frame.value("Index", f"{i} * {vector}") if vector > 1 else i for i in index[-1:])]
        point = index[len(before) : len(before) + rank]
        places, in_range = _places(frame, indices, shape, point)
        _require(frame, in_range, "return;")
        places |= dict(zip(before, index, strict=False)) | dict(zip(after, index[len(before) + rank :], strict=True))
        where = [places[axis] for axis in range(len(shape))]
        if vector > 1:
            x, y = viewed(code.kernel.operands[0]), regions.result(code, 0)
            frame.line(f"put<{vector}>(&{frame.at(y, index)}, fetched<{vector}>(&{frame.at(x, where)}));")
        else:
            regions.finish_at(frame, 0, index, regions.element(frame, 0, where))
    code.note(f"{vector} elements a thread" if vector > 1 else "an element a thread")
    return True


def _vector(code: CudaCode, core: Node, after: Sequence[int]) -> int:
    """How many neighbours a thread may copy at once: they are in both arrays, and their accesses are aligned."""
    operand = code.kernel.operands[0]
    if not after or not operand.is_view or not is_direct(code.kernel.results[0]):
        return 1
    x, shape = viewed(operand), core.inputs[0].shape
    steps = [stride for k, stride in enumerate(x.strides) if k != after[-1] and shape[k] != 1]
    vector = ACCESS // itemsize(x.dtype) if x.strides[after[-1]] == 1 else 1
    while not all(is_multiple(dim, vector) for dim in (x.offset, *steps, core.shape[-1])):
        vector //= 2
    return vector


# ---------------------------------------------------------------------------------------------- scatter_add


def _scatter_add(code: CudaCode) -> bool:
    core = code.kernel.core
    assert core is not None
    adding = _Adding(code, core)
    updates = product(adding.extents(adding.indices.free, adding.indices.shape))
    known = updates if isinstance(updates, int) else FEW + 1
    if known <= (COMPARED if core.dtype in HALVES else FEW) and not adding.has_elements:
        adding.check()
    if known <= COMPARED:
        adding.compare()
        code.note("the updates of an element a thread")
        return True
    if known <= FEW and core.dtype not in HALVES:
        adding.copy()
        adding.add_in_order()
        code.note("the updates of a slice a thread")
    else:
        found = adding.sort(updates)
        adding.copy()
        adding.add_sorted(found)
        code.note("updates sorted by place")
    regions.finish(code, 0)
    return True


class _Adding:
    """The launches of a scatter.

    Attributes:
        before, after: the axes of the data that aren't indexed.
        type: in which updates are added: floats of 16 bits in float32, integers as unsigned ones, which wrap.
        lead: the axes of the indices along which some only count: for each of their points there is a slice.
        chosen: the axes of the data along which indices choose.
    """

    def __init__(self, code: CudaCode, core: Node) -> None:
        self.code, self.core = code, core
        self.indices = indices_of(code.kernel, 2)
        self.before, self.after = self.indices.result_axes(core.ndim)
        self.type = UNSIGNED.get(core.dtype, REGISTER[core.dtype])
        self.lead = sorted(self.indices.along.values())
        self.chosen = list(self.indices.operands)

    @cached_property
    def y(self) -> Strided:
        """Where the result is written."""
        return regions.result(self.code, 0)

    @property
    def has_elements(self) -> bool:
        """Whether it is known that there are elements to add to, whose threads look at the indices."""
        return all(isinstance(dim, int) and dim > 0 for dim in self.core.shape)

    def extents(self, axes: Sequence[int], of: Sequence[Dim] | None = None) -> list[Dim]:
        """Sizes of some axes of the data, or of something else."""
        shape = self.core.shape if of is None else of
        return [shape[axis] for axis in axes]

    def check(self) -> None:
        """Fail if an index is out of range."""
        with each_point(self.code, self.indices.shape) as (frame, point):
            _, in_range = _places(frame, self.indices, self.core.shape, point)
            _require(frame, in_range, "return;")

    def copy(self) -> None:
        """Copy what is added to."""
        with each_point(self.code, self.core.shape) as (frame, index):
            value = stored(self.core.dtype, regions.element(frame, 0, index))
            frame.line(f"{frame.at(self.y, index)} = {value};")

    def compare(self) -> None:
        """A thread for each element goes through the updates of its slice, and adds those that are its own."""
        free = self.extents(self.indices.free, self.indices.shape)
        where = {k: axis for axis, k in self.indices.along.items()}
        with each_point(self.code, self.core.shape) as (frame, index):
            frame.line(f"{self.type} sum = ({self.type}){regions.element(frame, 0, index)};")
            with frame.block(f"for (Index number = 0; number < {frame.size(product(free))}; ++number)"):
                point = self._point(frame, [index[where[k]] for k in self.lead], "number")
                places, in_range = _places(frame, self.indices, self.core.shape, point)
                _require(frame, in_range, "return;")
                with frame.block(f"if ({' && '.join([f'{places[k]} == {index[k]}' for k in self.chosen]) or 'true'})"):
                    column = [index[axis] for axis in (*self.before, *self.after)]
                    frame.line(f"sum += ({self.type}){self._update(frame, point, column)};")
            regions.finish_at(frame, 0, index, f"({REGISTER[self.core.dtype]})sum")

    def add_in_order(self) -> None:
        """A thread for each slice and column goes through the updates."""
        lead, columns = self.extents(self.lead, self.indices.shape), self.extents([*self.before, *self.after])
        with each_point(self.code, [*lead, *columns]) as (frame, index):
            slices, rest = index[: len(lead)], index[len(lead) :]
            updates = product(self.extents(self.indices.free, self.indices.shape))
            with frame.block(f"for (Index number = 0; number < {frame.size(updates)}; ++number)"):
                point = self._point(frame, slices, "number")
                places, in_range = _places(frame, self.indices, self.core.shape, point)
                _require(frame, in_range, "return;")
                at = frame.at(self.y, self._index(places, rest))
                sum = f"({self.type}){loaded(self.core.dtype, at)} + ({self.type}){self._update(frame, point, rest)}"
                frame.line(f"{at} = {self._stored(f'({sum})')};")

    # ------------------------------------------------------------------------------------ sorted by place

    def sort(self, updates: Dim) -> Sorted:
        """Sort the updates of each slice by where they are added."""
        lead = self.extents(self.lead, self.indices.shape)
        chosen = self.extents(self.chosen)
        places = product(chosen)
        self.code.span(places)
        bits = None if not isinstance(places, int) else 32 if places < 1 << 32 else 64

        def key(frame: Frame, line: str, i: str) -> str:
            point = self._point(frame, unravelled(frame, line, lead), i)
            found, in_range = _places(frame, self.indices, self.core.shape, point)
            fits = frame.value("bool", in_range, "fits")
            frame.line(f"if (!{fits}) *{frame.failed()} = 1;")
            number = "0"
            for axis, extent in zip(self.chosen, chosen, strict=True):
                number = found[axis] if number == "0" else f"({number}) * {frame.size(extent)} + {found[axis]}"
            return f"(u64)({fits} ? {number} : 0)"

        return sort_records(self.code, Lines(product(lead), updates, bits, True, key))

    def add_sorted(self, found: Sorted) -> None:
        """A thread for some columns of the first update of a place adds all of that place."""
        parts = ceil_div(found.lines.size, PART)
        partial = self._add_parts(found, parts) if parts != 1 else None
        with self._each_column([found.lines.count, found.lines.size]) as (frame, (line, first), rest):
            frame.line(f"const Index first = {first};")
            self._stop(frame)
            run = self._run(frame, found, line)
            frame.line(f"if (first > 0 && key_of({run}[first - 1]) == key) return;")
            place = self._place_of(frame, line, "key", rest)
            old = self._fetched(frame, self.y, place)
            frame.line(f"{self.type} sum[{self.vector}];")
            with self._each_lane(frame) as v:
                frame.line(f"sum[{v}] = ({self.type}){loaded(self.core.dtype, f'{old}.item[{v}]')};")
            self._add_run(frame, found, run, line, rest)
            if partial is not None:
                more = f"for (; at < {frame.size(found.lines.size)} && key_of({run}[at]) == key; at += {PART})"
                with frame.block(more):
                    rest_of = self._fetched(frame, partial, [line, f"at / {PART}", *rest])
                    with self._each_lane(frame) as v:
                        frame.line(f"sum[{v}] += ({self.type}){rest_of}.item[{v}];")
            self._put(frame, self.y, place, self._stored)

    def _add_parts(self, found: Sorted, parts: Dim) -> Strided:
        """Add what of each part has the place of what comes before it; where these sums lie."""
        kept = {"u32": "int32", "u64": "int64", "float": "float32", "double": "float64"}[self.type]
        columns = self.extents([*self.before, *self.after])
        partial = regions.in_workspace(self.code, [found.lines.count, parts, *columns], kept)
        with self._each_column([found.lines.count, parts]) as (frame, (line, part), rest):
            frame.line(f"const Index first = {part} * {PART};")
            frame.line(f"if ({part} == 0) return;")
            run = self._run(frame, found, line)
            frame.line(f"if (key_of({run}[first - 1]) != key) return;")
            frame.line(f"{self.type} sum[{self.vector}] = {{}};")
            self._add_run(frame, found, run, line, rest)
            self._put(frame, partial, [line, part, *rest], lambda sum: f"({MEMORY[kept]}){sum}")
        return partial

    @cached_property
    def vector(self) -> int:
        """Neighbouring columns of a thread, which are aligned wherever they lie."""
        region, axis = self.code.kernel.operands[1], self.core.ndim - 1
        if axis not in self.after or not region.is_view:
            return 1
        updates = viewed(region)
        steps = [s for s, loop in zip(updates.strides[:-1], region.loops, strict=False) if loop.extent != 1]
        vector = ACCESS // itemsize(updates.dtype) if updates.strides[-1] == 1 else 1
        while not all(is_multiple(dim, vector) for dim in (updates.offset, *steps, self.core.shape[axis])):
            vector //= 2
        return vector

    @contextmanager
    def _each_column(self, outer: Sequence[Dim]) -> Iterator[tuple[Frame, list[str], list[str]]]:
        """A launch with a thread for some columns at each point of a box: that point, and the first column."""
        columns = self.extents([*self.before, *self.after])
        columns[-1:] = [ceil_div(dim, self.vector) for dim in columns[-1:]]
        with each_point(self.code, [*outer, *columns]) as (frame, index):
            rest = index[len(outer) :]
            if self.vector > 1:
                rest[-1] = frame.value("Index", f"{rest[-1]} * {self.vector}", "column")
            yield frame, index[: len(outer)], rest

    @contextmanager
    def _each_lane(self, frame: Frame) -> Iterator[str]:
        """For each of a thread's columns: its number."""
        if self.vector == 1:
            yield "0"
            return
        frame.line("#pragma unroll")
        with frame.block(f"for (int v = 0; v < {self.vector}; ++v)"):
            yield "v"

    def _fetched(self, frame: Frame, array: Strided, index: Sequence[str]) -> str:
        """Print that a thread's columns are loaded; the name of the pack."""
        pack = f"Pack<{self.vector}, {MEMORY[array.dtype]}>"
        return frame.value(pack, f"fetched<{self.vector}>(&{frame.at(array, index)})", "x")

    def _put(self, frame: Frame, array: Strided, index: Sequence[str], element: Callable[[str], str]) -> None:
        """Print that the sums of a thread's columns are stored."""
        name = frame.name("out")
        frame.line(f"Pack<{self.vector}, {MEMORY[array.dtype]}> {name};")
        with self._each_lane(frame) as v:
            frame.line(f"{name}.item[{v}] = {element(f'sum[{v}]')};")
        frame.line(f"put<{self.vector}>(&{frame.at(array, index)}, {name});")

    def _run(self, frame: Frame, found: Sorted, line: str) -> str:
        """Print a pointer to the records of a line, and the key of the first."""
        run = frame.name("run")
        records, size = found.records(frame), frame.size(found.lines.size)
        frame.line(f"const {found.lines.record}* const {run} = {records} + {line} * {size};")
        frame.line(f"const u64 key = key_of({run}[first]);")
        return run

    def _add_run(self, frame: Frame, found: Sorted, run: str, line: str, rest: Sequence[str]) -> None:
        """Print the sum of the updates from the first on that have its place, up to the end of a part."""
        lead = unravelled(frame, line, self.extents(self.lead, self.indices.shape))
        size = frame.size(found.lines.size)
        frame.line(f"const Index end = least<Index>((first / {PART} + 1) * {PART}, {size});")
        frame.line("Index at = first;")
        with frame.block(f"for (; at < end && key_of({run}[at]) == key; ++at)"):
            number = frame.value("Index", f"(Index)index_of({run}[at])", "number")
            point = self._point(frame, lead, number)
            if self.vector == 1:
                frame.line(f"sum[0] += ({self.type}){self._update(frame, point, rest)};")
                return
            cut = len(self.before)
            pack = self._fetched(frame, viewed(self.code.kernel.operands[1]), [*rest[:cut], *point, *rest[cut:]])
            with self._each_lane(frame) as v:
                frame.line(f"sum[{v}] += ({self.type}){loaded(self.core.dtype, f'{pack}.item[{v}]')};")

    def _place_of(self, frame: Frame, line: str, key: str, rest: Sequence[str]) -> list[str]:
        """Print the place in the data of a key, in a slice and a column."""
        lead = unravelled(frame, line, self.extents(self.lead, self.indices.shape))
        places = {axis: lead[self.lead.index(k)] for axis, k in self.indices.along.items()}
        number = frame.value("Index", f"(Index){key}", "number")
        places |= dict(zip(self.chosen, unravelled(frame, number, self.extents(self.chosen)), strict=True))
        return self._index(places, rest)

    # ------------------------------------------------------------------------------------ points

    def _point(self, frame: Frame, lead: Sequence[str], number: str) -> list[str]:
        """Print the point of the indices, for that of the slice and the number of an update."""
        free = unravelled(frame, number, self.extents(self.indices.free, self.indices.shape))
        found = dict(zip(self.lead, lead, strict=True)) | dict(zip(self.indices.free, free, strict=True))
        return [found[k] for k in range(len(self.indices.shape))]

    def _index(self, places: Mapping[int, str], rest: Sequence[str]) -> list[str]:
        """An index of the data: where indices point, and the column."""
        found = {**places, **dict(zip([*self.before, *self.after], rest, strict=True))}
        return [found[axis] for axis in range(self.core.ndim)]

    def _update(self, frame: Frame, point: Sequence[str], rest: Sequence[str]) -> str:
        """Print an update: of a point of the indices, and a column."""
        cut = len(self.before)
        return regions.element(frame, 1, [*rest[:cut], *point, *rest[cut:]])

    def _stored(self, sum: str) -> str:
        """A sum as an element of the data."""
        return stored(self.core.dtype, f"({REGISTER[self.core.dtype]}){sum}")

    def _stop(self, frame: Frame) -> None:
        """Print that nothing is added where the run has failed: there may be no place at all."""
        if self.indices.operands:
            frame.line(f"if (*{frame.failed()}) return;")


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {gather_op: _gather, scatter_add_op: _scatter_add}
