"""Sorting on a GPU: the order of each line along an axis, and the first few of it.

An element becomes an unsigned key whose order is the wanted one: NaN is the greatest, -0 equals 0, and complements
descend. What is sorted are records of key and index, all different, so that every way of sorting them is stable.

Tiles of a line are sorted in shared memory by bitonic networks (K. Batcher, "Sorting networks and their applications",
1968); a block does one tile, or several short lines. Tiles of long lines are merged in pairs, pass by pass: each block
finds, by binary search along a diagonal, what parts of two runs make its tile, and each of its threads does the same
for what it merges (O. Green, R. McColl, D. Bader, "GPU merge path", 2012).

A few of a long line are found without sorting it: counts of digits, the highest first, narrow down to the last record
that is wanted (radix selection; T. Alabi and others, "Fast k-selection algorithms for graphics processing units",
2012). A line that many blocks can read is cut into parts, whose first few are chosen from in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from graphc.dims import Dim, ceil_div, product
from graphc.op import Op
from graphc.ops.sorting import argsort_op, topk_op
from graphc.runtime.cuda import lanes as regions
from graphc.runtime.cuda.grids import THREADS, each, unravelled
from graphc.runtime.cuda.launches import Argument, CudaCode, Frame, Pointer, Size
from graphc.runtime.cuda.scalars import HALVES, MEMORY
from graphc.runtime.cuda.scan import STEPS, TEAMS
from graphc.runtime.strided import Strided, itemsize
from graphc.types import is_float

TILE = 2048  # records that a block sorts or merges
SEVERAL = TILE // 2  # records of a block that sorts several lines
WIDTH = 512  # threads of a block that sorts a tile
MERGED = 8  # records that a thread merges
FEW = 1024  # records up to which they are chosen without sorting
PART = 1 << 14  # elements among which a block chooses
PASSES = 20  # over runs that are merged, where it isn't known how many are needed: for 2^31 elements
INDEX_BITS = 32  # of an index that shares a word with its key
INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}

RECORDS = """\
// A key and the index of what it was made from; in one word, if they fit it.
typedef u64 Narrow;
struct alignas(16) Wide {
    u64 key, index;
};
template <bool IS_NARROW> struct Fitting { typedef Narrow Type; };
template <> struct Fitting<false> { typedef Wide Type; };
typedef Fitting<sizeof(Index) == 4>::Type Fitted;
template <class R> __device__ R record(u64 key, u64 index);
template <> __device__ __forceinline__ Narrow record<Narrow>(u64 key, u64 index) { return key << 32 | index; }
template <> __device__ __forceinline__ Wide record<Wide>(u64 key, u64 index) { return Wide{key, index}; }
template <class R> __device__ R last_record();  // behind all others
template <> __device__ __forceinline__ Narrow last_record<Narrow>() { return ~0ULL; }
template <> __device__ __forceinline__ Wide last_record<Wide>() { return Wide{~0ULL, ~0ULL}; }
__device__ __forceinline__ i64 index_of(Narrow x) { return (i64)(x & 0xffffffffu); }
__device__ __forceinline__ i64 index_of(const Wide& x) { return (i64)x.index; }
__device__ __forceinline__ u64 key_of(Narrow x) { return x >> 32; }
__device__ __forceinline__ u64 key_of(const Wide& x) { return x.key; }
__device__ __forceinline__ bool precedes(Narrow a, Narrow b) { return a < b; }
__device__ __forceinline__ bool precedes(const Wide& a, const Wide& b) {
    return a.key != b.key ? a.key < b.key : a.index < b.index;
}
"""

NETWORK = """\
// Sorts each `size` (a power of 2) of `count` records in shared memory.
template <class R> __device__ __forceinline__ void sort_shared(R* records, int size, int count) {
    for (int run = 2; run <= size; run *= 2) {
        for (int step = run / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < count / 2; pair += blockDim.x) {
                const int low = 2 * pair - (pair & (step - 1));
                const bool falls = (low & (size - 1) & run) != 0;
                const R a = records[low], b = records[low + step];
                if (precedes(b, a) != falls) {
                    records[low] = b;
                    records[low + step] = a;
                }
            }
        }
    }
    __syncthreads();
}
"""

MERGE = f"""\
// How many of the first `total` records of two merged runs come from the first run.
template <class R> __device__ __forceinline__
Index taken(const R* a, Index in_a, const R* b, Index in_b, Index total) {{
    Index low = most<Index>(total - in_b, 0), high = least<Index>(total, in_a);
    while (low < high) {{
        const Index middle = (low + high) / 2;
        if (precedes(b[total - 1 - middle], a[middle])) high = middle; else low = middle + 1;
    }}
    return low;
}}

// A block merges what lies in [low, low + {TILE}) of a line, once runs of `width` are merged in pairs.
template <class R> __device__ __noinline__
void merge_tile(const R* source, R* target, Index size, Index low, Index width) {{
    __shared__ R records[{TILE}];
    __shared__ Index ends[2];
    const Index start = low - low % (2 * width);
    const Index middle = least<Index>(start + width, size), stop = least<Index>(middle + width, size);
    const Index high = least<Index>(low + {TILE}, size);
    const R* a = source + start;
    const R* b = source + middle;
    const int t = threadIdx.x;
    if (t < 2) ends[t] = taken(a, middle - start, b, stop - middle, (t == 0 ? low : high) - start);
    __syncthreads();
    a += ends[0];
    b += low - start - ends[0];
    const int count = (int)(high - low), in_a = (int)(ends[1] - ends[0]), in_b = count - in_a;
    for (int k = t; k < count; k += {TILE // MERGED}) records[k] = k < in_a ? a[k] : b[k - in_a];
    __syncthreads();
    R merged[{MERGED}];
    const int first = least(t * {MERGED}, count);
    int i = (int)taken(records, in_a, records + in_a, in_b, first), j = first - i;
#pragma unroll
    for (int k = 0; k < {MERGED}; ++k) {{
        if (first + k < count) {{
            const bool from_a = j >= in_b || (i < in_a && precedes(records[i], records[in_a + j]));
            merged[k] = records[from_a ? i : in_a + j];
            if (from_a) ++i; else ++j;
        }}
    }}
    __syncthreads();
#pragma unroll
    for (int k = 0; k < {MERGED}; ++k) {{
        if (first + k < count) records[first + k] = merged[k];
    }}
    __syncthreads();
    for (int k = t; k < count; k += {TILE // MERGED}) target[low + k] = records[k];
}}
"""

CHOICE = f"""\
// The digits of a record, 8 bits each, the lowest first: 4 of the index and up to 4 of the key, or 8 and 8.
__device__ __forceinline__ u32 digit(Narrow x, int level) {{ return (u32)(x >> 8 * level) & 255u; }}
__device__ __forceinline__ u32 digit(const Wide& x, int level) {{
    return (u32)((level < 8 ? x.index : x.key) >> 8 * (level % 8)) & 255u;
}}
// Whether two have the same digits above a level.
__device__ __forceinline__ bool agree(Narrow a, Narrow b, int level) {{ return ((a ^ b) >> 8 * level) >> 8 == 0; }}
__device__ __forceinline__ bool agree(const Wide& a, const Wide& b, int level) {{
    if (level >= 8) return agree(a.key, b.key, level - 8);
    return a.key == b.key && agree(a.index, b.index, level);
}}
// With a digit at a level, and ones below it if `filled`.
__device__ __forceinline__ Narrow with_digit(Narrow x, int level, u32 digit, bool filled) {{
    return x | (u64)digit << 8 * level | (filled ? (1ULL << 8 * level) - 1 : 0);
}}
__device__ __forceinline__ Wide with_digit(const Wide& x, int level, u32 digit, bool filled) {{
    if (level < 8) return Wide{{x.key, with_digit(x.index, level, digit, filled)}};
    return Wide{{with_digit(x.key, level - 8, digit, filled), filled ? ~0ULL : 0}};
}}

// A block of {THREADS} threads chooses the first `few` of `count` records, few <= count, in any order.
template <class R, int LEVELS, class Get> __device__ __forceinline__
void choose(Get get, Index count, int few, R* chosen) {{
    __shared__ u32 counts[{THREADS}], found[3];
    R limit = record<R>(0, 0);
    u32 left = (u32)few;
    for (int level = LEVELS - 1; level >= 0 && left > 0; --level) {{
        counts[threadIdx.x] = 0;
        __syncthreads();
        for (Index i = threadIdx.x; i < count; i += {THREADS}) {{
            const R x = get(i);
            if (agree(x, limit, level)) atomicAdd(&counts[digit(x, level)], 1u);
        }}
        __syncthreads();
        const u32 here = counts[threadIdx.x];
        Shift<u32> all;
        const u32 before = steps_before<{THREADS}>(Shift<u32>{{here}}, all).term;
        if (before < left && left <= before + here) {{
            found[0] = threadIdx.x;
            found[1] = before;
            found[2] = here;
        }}
        __syncthreads();
        left -= found[1];
        const bool is_whole = left == found[2];
        limit = with_digit(limit, level, found[0], is_whole);
        if (is_whole) break;
    }}
    __syncthreads();
    if (threadIdx.x == 0) found[0] = 0;
    __syncthreads();
    for (Index i = threadIdx.x; i < count; i += {THREADS}) {{
        const R x = get(i);
        if (few > 0 && !precedes(limit, x)) chosen[atomicAdd(&found[0], 1u)] = x;
    }}
    __syncthreads();
}}
"""


# ---------------------------------------------------------------------------------------------- keys


@dataclass(frozen=True)
class Lines:
    """What is sorted: lines of keys.

    Attributes:
        count: of lines.
        size: of a line.
        bits: of a key; None: as many as an `Index` has.
        along: whether keys of a line lie side by side, rather than those of different lines.
        key: prints the key of an element of a line, a u64.
        declared: what that takes.
    """

    count: Dim
    size: Dim
    bits: int | None
    along: bool
    key: Callable[[Frame, str, str], str]
    declared: str = ""

    @property
    def record(self) -> str:
        """The type of records: one word, if key and index fit it; where sizes come with the run, `Index` tells."""
        if self.bits is None or (self.bits <= 32 and not isinstance(self.size, int)):
            return "Fitted"
        return "Narrow" if self.nbytes == 8 else "Wide"

    @property
    def nbytes(self) -> int:
        """Bytes of a record, at most."""
        is_narrow = self.bits is not None and self.bits <= 32 and isinstance(self.size, int)
        return 8 if is_narrow and self.size < 1 << INDEX_BITS else 16

    @property
    def levels(self) -> str:
        """Digits of a record that may differ."""
        return f"sizeof({self.record}) == 8 ? {4 + (self.bits or 32) // 8} : 16"


def _key_function(dtype: str, descending: bool) -> str:
    """`sort_key` of an element; its order as a number is the wanted order of elements."""
    width = 8 * itemsize(dtype)
    sign, ones = f"0x{1 << width - 1:x}ULL", f"0x{(1 << width) - 1:x}ULL"
    bits = "x.bits" if dtype in HALVES else "bits_of(x)" if is_float(dtype) else "x"
    lines = [f"u64 key = (u64){bits} & {ones};"]
    if is_float(dtype):
        lines += [
            f"const u64 size = key & ~{sign};",
            "if (size == 0) key = 0;",
            f"key = size > 0x{INFINITY[dtype]:x}ULL ? {ones} : key & {sign} ? ~key & {ones} : key | {sign};",
        ]
    elif dtype not in ("bool", "uint8"):
        lines.append(f"key ^= {sign};")
    lines.append(f"return key ^ {ones};" if descending else "return key;")
    body = "".join([f"    {line}\n" for line in lines])
    return f"__device__ __forceinline__ u64 sort_key({MEMORY[dtype]} x) {{\n{body}}}\n"


def _lines_of(x: Strided, shape: Sequence[Dim], axis: int, descending: bool) -> Lines:
    """The lines of an array along an axis."""
    others = [dim for k, dim in enumerate(shape) if k != axis]

    def key(frame: Frame, line: str, i: str) -> str:
        index = unravelled(frame, line, others)
        return f"sort_key({frame.at(x, [*index[:axis], i, *index[axis:]])})"

    count, along = product(others), x.strides[axis] == 1
    return Lines(count, shape[axis], 8 * itemsize(x.dtype), along, key, _key_function(x.dtype, descending))


# ---------------------------------------------------------------------------------------------- tiles

Take = Callable[[Frame, str, str, str], None]  # prints what becomes of a record: the line, its place in it, the record


def _sort_tiles(code: CudaCode, lines: Lines, take: Take, few: Dim | None = None) -> None:
    """A launch that sorts tiles of lines; `take` gets the first `few` records of each, or all.

    A block has a tile, or several short lines. How many is printed as a number, or found when the size is known: then
    there are more blocks than it takes.
    """
    for text in (RECORDS, NETWORK, lines.declared):
        code.declare(text)
    extent = lines.size
    tiles = ceil_div(extent, TILE) if not isinstance(extent, int) or extent > TILE else 1
    room = 1 << max(0, extent - 1).bit_length() if tiles == 1 and isinstance(extent, int) else TILE
    several = max(1, SEVERAL // room)
    code.span(lines.count * tiles * room + SEVERAL * TILE)
    threads = min(WIDTH, max(32, several * room // 2))
    frame = code.launch(ceil_div(lines.count, several) * tiles, threads)
    total = frame.size(lines.count)
    frame.line(f"__shared__ {lines.record} records[{several * room}];")
    group, tile = _divided(frame, "blockIdx.x", tiles)
    low = frame.value("Index", f"{tile} * {TILE}", "low") if tiles != 1 else "0"
    rest = frame.size(extent) if tiles == 1 else f"(int)least<Index>({frame.size(extent)} - {low}, {TILE})"
    count = frame.value("int", rest, "count")
    size, beside = str(room), str(several)
    if not isinstance(extent, int) or tiles != 1:
        size, beside = _found_size(frame, count), "1"
    if not isinstance(extent, int):
        beside = f"({frame.size(tiles)} == 1 && {size} < {SEVERAL} ? {SEVERAL} / {size} : 1)"
        beside = frame.value("int", beside, "beside")
    first = group if beside == "1" else frame.value("Index", f"{group} * {beside}", "first")
    frame.line(f"if ({first} >= {total}) return;")
    slots = size if beside == "1" else f"{beside} * {size}"

    @contextmanager
    def each_record() -> Iterator[tuple[str, str, str]]:
        """For each place of the block, the line, the place in it, and that in shared memory."""
        with frame.block(f"for (int slot = threadIdx.x; slot < {slots}; slot += {threads})"):
            if beside == "1":
                yield first, "slot", "slot"
                return
            of, at = (f"slot / {size}", f"slot % {size}") if lines.along else (f"slot % {beside}", f"slot / {beside}")
            of, at = frame.value("int", of, "of"), frame.value("int", at, "at")
            yield frame.value("Index", f"{first} + {of}", "line"), at, f"{of} * {size} + {at}"

    with each_record() as (line, at, place):
        frame.line(f"{lines.record} x = last_record<{lines.record}>();")
        with frame.block(f"if ({at} < {count} && {line} < {total})"):
            i = frame.value("Index", at if low == "0" else f"{low} + {at}", "i")
            frame.line(f"x = record<{lines.record}>({lines.key(frame, line, i)}, (u64){i});")
        frame.line(f"records[{place}] = x;")
    frame.line(f"sort_shared(records, {size}, {slots});")
    wanted = count if few is None else f"least<Index>({count}, {frame.size(few)})"
    with each_record() as (line, at, place), frame.block(f"if ({at} < {wanted} && {line} < {total})"):
        i = frame.value("Index", at if low == "0" else f"{low} + {at}", "i")
        take(frame, line, i, f"records[{place}]")


def _found_size(frame: Frame, count: str) -> str:
    """Print the least power of 2 that isn't less."""
    name = frame.name("size")
    frame.line(f"int {name} = 1;")
    frame.line(f"while ({name} < {count}) {name} *= 2;")
    return name


def _divided(frame: Frame, number: str, by: Dim) -> tuple[str, str]:
    """Print quotient and remainder of a block's number and how many blocks a line has."""
    if by == 1:
        return frame.value("Index", f"(Index){number}", "line"), "0"
    size = frame.size(by)
    return frame.value("Index", f"(Index){number} / {size}", "line"), frame.value("Index", f"(Index){number} % {size}")


class Sorted(NamedTuple):
    """Where the sorted records of lines lie, one line after the other: in one of two places in workspace."""

    lines: Lines
    even: Dim
    odd: Dim

    def records(self, frame: Frame) -> str:
        """Print a pointer to the first of all, and give its name."""
        names = [_records_at(frame, self.lines, place) for place in dict.fromkeys((self.even, self.odd))]
        if len(names) == 1:
            return names[0]
        passes, name = frame.name("passes"), frame.name("sorted")
        frame.line(f"int {passes} = 0;")
        frame.line(f"while (((Index){TILE} << {passes}) < {frame.size(self.lines.size)}) ++{passes};")
        frame.line(f"const {self.lines.record}* {name} = {passes} % 2 == 0 ? {names[0]} : {names[1]};")
        return name


def _records_at(frame: Frame, lines: Lines, offset: Dim) -> str:
    """A pointer to records in workspace."""
    name, words = frame.name("at"), frame.pointer("workspace", offset, "int64")
    frame.line(f"{lines.record}* const {name} = reinterpret_cast<{lines.record}*>({words});")
    return name


def sort_records(code: CudaCode, lines: Lines) -> Sorted:
    """Launches that sort the records of each line."""
    room = lines.count * lines.size * lines.nbytes
    even = code.workspace(room)
    is_short = isinstance(lines.size, int) and lines.size <= TILE
    found = Sorted(lines, even, even if is_short else code.workspace(room))

    def keep(frame: Frame, line: str, place: str, record: str) -> None:
        at = _records_at(frame, lines, even)
        frame.line(f"{at}[{line} * {frame.size(lines.size)} + {place}] = {record};")

    _sort_tiles(code, lines, keep)
    if not is_short:
        _merge(code, found)
    code.note("bitonic tiles" + ("" if is_short else ", merged"))
    return found


def _merge(code: CudaCode, found: Sorted) -> None:
    """Launches of a function that merges runs of tiles in pairs, each time twice as long ones.

    Where sizes come with the run, there are more than it takes; those that find one run only have no blocks.
    """
    code.declare(MERGE)
    lines, tiles = found.lines, ceil_div(found.lines.size, TILE)
    passes = max(1, tiles - 1).bit_length() if isinstance(tiles, int) else PASSES
    blocks = [_blocks_of_pass(tiles, number) for number in range(passes)]
    frame = code.launch(lines.count * blocks[0], TILE // MERGED)
    size, across, width = frame.size(lines.size), frame.size(blocks[0]), frame.parameter(TILE, "width")
    line = frame.value("Index", f"(Index)blockIdx.x / {across}", "line")
    low = frame.value("Index", f"(Index)blockIdx.x % {across} * {TILE}", "low")
    frame.line(f"if ({low} >= {size}) return;")
    places = [f"{_records_at(frame, lines, place)} + {line} * {size}" for place in (found.even, found.odd)]
    frame.line(f"merge_tile<{lines.record}>({', '.join(places)}, {size}, {low}, (Index){width});")
    even, odd = Pointer("workspace", found.even), Pointer("workspace", found.odd)
    for number in range(1, passes):
        instead: dict[Argument, Argument] = {Size(blocks[0]): Size(blocks[number]), Size(TILE): Size(TILE << number)}
        instead |= {even: odd, odd: even} if number % 2 else {}
        code.again(frame, lines.count * blocks[number], instead)


def _blocks_of_pass(tiles: Dim, number: int) -> Dim:
    """Blocks for a line in a pass over runs of 2^number tiles: 0 if that is all, else at least one for each tile."""
    runs = (1 << number) + 1
    return tiles if isinstance(tiles, int) else tiles // runs * 2 * runs


# ---------------------------------------------------------------------------------------------- the first few


def _choose(code: CudaCode, lines: Lines, few: int, take: Take) -> None:
    """Launches that choose the first few records of each line."""
    for text in (RECORDS, NETWORK, STEPS, TEAMS, CHOICE, lines.declared):
        code.declare(text)
    code.note("chosen by digits")
    parts = ceil_div(lines.size, PART)

    def of_line(frame: Frame, line: str, low: str) -> str:
        name = frame.name("get")
        with frame.block(f"auto {name} = [&](Index i) -> {lines.record}", end="};"):
            at = frame.value("Index", f"{low} + i" if low != "0" else "i", "at")
            frame.line(f"return record<{lines.record}>({lines.key(frame, line, at)}, (u64){at});")
        return name

    if parts == 1:
        _choose_among(code, lines, few, 1, lines.size, of_line, take)
        return
    place = code.workspace(lines.count * parts * few * lines.nbytes)

    def keep(frame: Frame, line: str, number: str, record: str) -> None:
        frame.line(f"{_records_at(frame, lines, place)}[(Index)blockIdx.x * {few} + {number}] = {record};")

    def of_parts(frame: Frame, line: str, low: str) -> str:
        name, at = frame.name("get"), _records_at(frame, lines, place)
        frame.line(f"auto {name} = [&](Index i) {{ return {at}[{line} * {frame.size(parts * few)} + i]; }};")
        return name

    _choose_among(code, lines, few, parts, lines.size, of_line, keep)
    _choose_among(code, lines, few, 1, parts * few, of_parts, take)


def _choose_among(
    code: CudaCode,
    lines: Lines,
    few: int,
    parts: Dim,
    size: Dim,
    source: Callable[[Frame, str, str], str],
    take: Take,
) -> None:
    """A launch whose blocks choose the first few of `size` records, or of each part of them.

    Args:
        source: prints a function that gives a record, for a line and the place from which it counts; its name.
        take: gets those that are chosen; sorted, if there are no parts.
    """
    room = 1 << (few - 1).bit_length()
    frame = code.launch(lines.count * parts, THREADS)
    frame.line(f"__shared__ {lines.record} chosen[{room}];")
    line, part = _divided(frame, "blockIdx.x", parts)
    low = frame.value("Index", f"{part} * {PART}", "low") if parts != 1 else "0"
    extent = frame.size(size)
    count = frame.value("Index", extent if parts == 1 else f"least<Index>({extent} - {low}, {PART})", "count")
    with frame.block(f"for (int slot = threadIdx.x; slot < {room}; slot += {THREADS})"):
        frame.line(f"chosen[slot] = last_record<{lines.record}>();")
    get = source(frame, line, low)
    frame.line(f"choose<{lines.record}, {lines.levels}>({get}, {count}, (int)least<Index>({few}, {count}), chosen);")
    if parts == 1:
        frame.line(f"sort_shared(chosen, {room}, {room});")
    with frame.block(f"for (int slot = threadIdx.x; slot < {few}; slot += {THREADS})"):
        take(frame, line, "slot", "chosen[slot]")


# ---------------------------------------------------------------------------------------------- cores


def _take_first(code: CudaCode, lines: Lines, few: Dim, take: Take) -> None:
    """Launches that give `take` the first few records of each line, in order."""
    if isinstance(lines.size, int) and lines.size <= TILE:
        code.note("bitonic")
        _sort_tiles(code, lines, take, few)
        return
    if isinstance(few, int) and few <= FEW:
        if few:
            _choose(code, lines, few, take)
        return
    found = sort_records(code, lines)
    with each(code, lines.count * few) as (frame, number):
        sizes = (lines.count, few) if lines.along else (few, lines.count)
        line, place = unravelled(frame, number, sizes)[:: 1 if lines.along else -1]
        at = f"{found.records(frame)}[{line} * {frame.size(lines.size)} + {place}]"
        take(frame, line, place, at)


def _order(code: CudaCode, x: Strided, descending: bool, few: Dim, targets: Mapping[str, Strided]) -> None:
    """Launches that store the indices ("index") of the first few elements in order, and perhaps these ("value")."""
    core = code.kernel.core
    assert core is not None
    shape, axis = core.inputs[0].shape, core.attrs["axis"]
    lines = _lines_of(x, shape, axis, descending)
    others = [dim for k, dim in enumerate(shape) if k != axis]

    def take(frame: Frame, line: str, place: str, record: str) -> None:
        index = frame.value("i64", f"index_of({record})", "index")
        at = unravelled(frame, line, others)
        for what, target in targets.items():
            element = index if what == "index" else frame.at(x, [*at[:axis], f"(Index){index}", *at[axis:]])
            frame.line(f"{frame.at(target, [*at[:axis], place, *at[axis:]])} = {element};")

    _take_first(code, lines, few, take)


def _argsort(code: CudaCode) -> bool:
    core = code.kernel.core
    assert core is not None
    x, y = regions.operand(code, 0), regions.result(code, 0)
    _order(code, x, core.attrs["descending"], core.shape[core.attrs["axis"]], {"index": y})
    regions.finish(code, 0)
    return True


def _topk(code: CudaCode) -> bool:
    core = code.kernel.core
    assert core is not None
    x, values, order = regions.operand(code, 0), regions.result(code, 0), regions.result(code, 1)
    _order(code, x, core.attrs["largest"], core.attrs["k"], {"value": values, "index": order})
    for number in range(2):
        regions.finish(code, number)
    return True


CORES: Mapping[Op, Callable[[CudaCode], bool]] = {argsort_op: _argsort, topk_op: _topk}
