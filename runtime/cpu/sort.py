"""Sorting: the order of each line along an axis, and the first few of it.

An element becomes an unsigned key whose order is the wanted one: NaN is the greatest, -0 equals 0, and complements
descend. Records of key and index are sorted by one byte after the other, the lowest first, which keeps equal ones in
their order (H. Hollerith's radix sort; D. Knuth, "The Art of Computer Programming", volume 3, 5.2.5); bytes that all
keys share are left out. Short lines are sorted by insertion. For a few elements of a line, the best ones so far are
kept in order, and whole vectors are compared with the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.dims import Dim, product
from graphc.ir import Node
from graphc.op import Op
from graphc.ops.sorting import argsort_op, topk_op
from graphc.runtime.cpu import lanes as regions
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.elements import load_lanes, store_lanes
from graphc.runtime.cpu.phases import Frame, KernelCode
from graphc.runtime.cpu.rows import columns, sweep, units
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, Int, Value, constant, lanes_of, vector
from graphc.runtime.strided import Strided, aligned, itemsize
from graphc.types import is_float

SHORT = 32  # elements of a line up to which it is sorted by insertion
FEW = 32  # elements up to which the best ones are kept in order
DIGITS = 256  # values of a byte
INDEX_BITS = 32  # of an index that shares a word with its key
INFINITY = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0000000000000}


def _keys(f: Function, values: Value, dtype: str, descending: bool) -> Value:
    """Unsigned keys, of the width of the elements, whose order is the wanted order of elements as in memory."""
    width = 8 * itemsize(dtype)
    type = vector(f"i{width}", lanes_of(values.type))
    bits = f.convert("bitcast", values, type)
    sign, ones = constant(type, -(1 << (width - 1))), constant(type, -1)
    if is_float(dtype):
        size = f.binary("and", bits, f.binary("xor", sign, ones))
        is_nan = f.compare("icmp ugt", size, constant(type, INFINITY[dtype]))
        bits = f.select(f.compare("icmp eq", size, constant(type, 0)), size, bits)
        turned = f.binary("or", f.binary("ashr", bits, constant(type, width - 1)), sign)
        bits = f.select(is_nan, ones, f.binary("xor", bits, turned))
    elif dtype not in ("bool", "uint8"):
        bits = f.binary("xor", bits, sign)
    return f.binary("xor", bits, ones) if descending else bits


class _Line:
    """Sorts one line after the other: records of key and index in the worker's scratch.

    A record is one word, if key and index fit it, the key in the high half; else two, the key first.
    """

    def __init__(self, frame: Frame, dtype: str, size: Dim, descending: bool) -> None:
        self.frame, self.f, self.dtype, self.descending = frame, frame.f, dtype, descending
        self.size = frame.size(size)
        self.words = _words(dtype, size)
        self.shift = INDEX_BITS if self.words == 1 else 0
        self.record = vector(I64, self.words)
        self.count = "i32" if self.words == 1 else I64
        self.lanes = frame.host.lanes(8)
        room = _room(dtype, size)
        self.first, self.second, self.counts = [
            self.f.address(frame.scratch, frame.size(k * room), "i8") for k in range(3)
        ]

    def keys(self, row: Value, step: Int, at: Int, lanes: int, mask: Value | None) -> Value:
        """The keys of neighbours on a line."""
        f = self.f
        where = f.address(row, f.mul(at, step), MEMORY_TYPE[self.dtype])
        return _keys(f, load_lanes(f, self.dtype, where, step, lanes, mask), self.dtype, self.descending)

    def fill(self, row: Value, step: Int) -> None:
        """Make the records of a line; what is written behind them doesn't matter."""
        f, lanes = self.f, self.lanes

        def some(at: Int, mask: Value | None) -> None:
            index = f.binary("add", f.splat(f.i64(at), lanes), f.counter(lanes))
            keys = f.convert("zext", self.keys(row, step, at, lanes, mask), index.type)
            if self.words == 1:
                keys = f.binary("shl", keys, constant(keys.type, INDEX_BITS))
                f.store(f.binary("or", keys, index), f.address(self.first, at, I64), 8)
                return
            order = [lane + other for lane in range(lanes) for other in (0, lanes)]
            for half in range(2):
                records = f.shuffle(keys, index, order[half * lanes : (half + 1) * lanes])
                f.store(records, f.address(self.first, f.add(f.mul(at, 2), half * lanes), I64), 8)

        columns(f, self.size, lanes, some)

    def record_at(self, row: Value, step: Int, at: Int) -> Value:
        """The record of one element."""
        f = self.f
        key = f.convert("zext", self.keys(row, step, at, 1, None), I64)
        if self.words == 1:
            return f.binary("or", f.binary("shl", key, constant(I64, INDEX_BITS)), f.i64(at))
        return f.insert(f.splat(f.i64(at), 2), key, 0)

    def choose(self, row: Value, step: Int, few: int) -> Value:
        """Make and sort the records of the first `few` elements in the order; the address of the first."""
        f, width = self.f, 8 * itemsize(self.dtype)
        lanes = self.frame.host.lanes(itemsize(self.dtype))
        f.loop(0, few, 1, lambda i, _: self.insert(i, self.record_at(row, step, i)))

        def last() -> Value:
            """The key of the last one."""
            key = self.key(self.load(self.first, few - 1))
            return f.convert("trunc", f.binary("lshr", key, constant(I64, self.shift)), f"i{width}")

        def look(at: Int, mask: Value | None, carried: list[Value]) -> list[Value]:
            begin = f.add(at, few)
            better = f.compare("icmp ult", self.keys(row, step, begin, lanes, mask), f.splat(carried[0], lanes))
            better = better if mask is None else f.binary("and", better, mask)
            found = f.convert("zext", f.convert("bitcast", better, f"i{lanes}"), I64)

            def take(left: list[Value]) -> list[Value]:
                lane = f.intrinsic("cttz", left[0], Value("true", "i1"), overloads=[I64])
                record = self.record_at(row, step, f.add(begin, lane))
                greater = f.compare("icmp ugt", self.key(self.load(self.first, few - 1)), self.key(record))
                f.if_(greater, lambda: self.insert(few - 1, record))
                return [f.binary("and", left[0], f.i64(f.sub(left[0], 1)))]

            def take_all() -> list[Value]:
                f.loop_while(lambda left: f.compare("icmp ne", left[0], constant(I64, 0)), take, [found])
                return [last()]

            return f.if_(f.compare("icmp ne", found, constant(I64, 0)), take_all, lambda: carried)

        sweep(f, f.sub(self.size, few), lanes, look, [last()])
        return self.first

    def sort(self) -> Value:
        """Sort the records; the address of the first."""
        f = self.f
        short = [self.first]

        def insert_all() -> list[Value]:
            f.loop(1, self.size, 1, lambda i, _: self.insert(i, self.load(self.first, i)))
            return short

        if isinstance(self.size, int):
            return (insert_all() if self.size <= SHORT else self._by_bytes())[0]
        return f.if_(f.is_less(SHORT, self.size), self._by_bytes, insert_all)[0]

    def load(self, base: Value, i: Int) -> Value:
        """A record."""
        return self.f.load(self.record, self.f.address(base, i, self.record), 8)

    def key(self, record: Value) -> Value:
        """What records are compared by."""
        return record if self.words == 1 else self.f.extract(record, 0)

    def insert(self, i: Int, record: Value) -> None:
        """Put a record among the first `i`, which are in order, behind those that aren't greater."""
        f = self.f

        def before(j: Value) -> Value:
            return self.load(self.first, f.max(f.sub(j, 1), 0))

        def is_greater(place: list[Value]) -> Value:
            greater = f.compare("icmp ugt", self.key(before(place[0])), self.key(record))
            return f.binary("and", greater, f.is_less(0, place[0]))

        def move(place: list[Value]) -> list[Value]:
            f.store(before(place[0]), f.address(self.first, place[0], self.record), 8)
            return [f.i64(f.sub(place[0], 1))]

        (place,) = f.loop_while(is_greater, move, [f.i64(i)])
        f.store(record, f.address(self.first, place, self.record), 8)

    def _by_bytes(self) -> list[Value]:
        f, passes = self.f, itemsize(self.dtype)
        words = passes * DIGITS * itemsize_of(self.count) // 8
        columns(
            f,
            words,
            self.lanes,
            lambda at, mask: f.store(constant(vector(I64, self.lanes), 0), f.address(self.counts, at, I64), 8, mask),
        )
        tables = [f.address(self.counts, number * DIGITS, self.count) for number in range(passes)]

        def tally(i: Value, _: list[Value]) -> None:
            key = self.key(self.load(self.first, i))
            for number, table in enumerate(tables):
                self._next(f.address(table, self._digit(key, number), self.count))

        f.loop(0, self.size, 1, tally)
        places = [self.first, self.second]
        for number, table in enumerate(tables):
            places = self._by_byte(places, table, number)
        return places[:1]

    def _digit(self, key: Value, number: int) -> Value:
        f = self.f
        moved = f.binary("lshr", key, constant(I64, self.shift + 8 * number))
        return f.binary("and", moved, constant(I64, DIGITS - 1))

    def _next(self, at: Value) -> Value:
        """Count one more; what was there before."""
        f, align = self.f, itemsize_of(self.count)
        found = f.load(self.count, at, align)
        f.store(f.binary("add", found, constant(self.count, 1)), at, align)
        return f.convert("zext", found, I64)

    def _by_byte(self, places: Sequence[Value], table: Value, number: int) -> list[Value]:
        """Sort by one byte of the keys, from the first of two places to the other; those places, the result first."""
        f, align = self.f, itemsize_of(self.count)
        source, target = places
        shared = f.address(table, self._digit(self.key(self.load(source, 0)), number), self.count)
        count = f.convert("zext", f.load(self.count, shared, align), I64)

        def begin(digit: Value, carried: list[Value]) -> list[Value]:
            at = f.address(table, digit, self.count)
            here = f.load(self.count, at, align)
            f.store(carried[0], at, align)
            return [f.binary("add", carried[0], here)]

        def move(i: Value, _: list[Value]) -> None:
            record = self.load(source, i)
            place = self._next(f.address(table, self._digit(self.key(record), number), self.count))
            f.store(record, f.address(target, place, self.record), 8)

        def sort() -> list[Value]:
            f.loop(0, DIGITS, 1, begin, [constant(self.count, 0)])
            f.loop(0, self.size, 1, move)
            return [target, source]

        return f.if_(f.compare("icmp eq", count, f.i64(self.size)), lambda: [source, target], sort)

    def indices(self, records: Value, at: Int) -> Value:
        """The indices of neighbouring records; lanes behind the last have any number."""
        f, lanes = self.f, self.lanes
        low, high = [
            f.load(vector(I64, lanes), f.address(records, f.add(f.mul(at, self.words), k * lanes), I64), 8)
            for k in (0, self.words - 1)
        ]
        if self.words == 1:
            return f.binary("and", low, constant(low.type, (1 << INDEX_BITS) - 1))
        return f.shuffle(low, high, range(1, 2 * lanes, 2))


def itemsize_of(count: str) -> int:
    """Bytes of an integer type."""
    return int(count[1:]) // 8


def _words(dtype: str, size: Dim) -> int:
    """Words of a record."""
    return 1 if itemsize(dtype) <= 4 and isinstance(size, int) and size < 1 << INDEX_BITS else 2


def _room(dtype: str, size: Dim) -> Dim:
    """Bytes for the records of a line, and for the vector that may reach over their end."""
    return aligned(8 * _words(dtype, size) * size + 128)


def _scratch(dtype: str, size: Dim) -> Dim:
    return 2 * _room(dtype, size) + itemsize(dtype) * DIGITS * 8 + 128


def _lines(
    code: KernelCode, x: Strided, core: Node, descending: bool, ns: int, body: Callable[[_Line, list[Int]], None]
) -> None:
    """A phase whose units are lines.

    Args:
        ns: nanoseconds for each element.
        body: takes what sorts a line, and the index of its first element.
    """
    type, axis = core.inputs[0], core.attrs["axis"]
    size = type.shape[axis]
    others = tuple([1 if k == axis else dim for k, dim in enumerate(type.shape)])
    frame = code.phase(product(others), product(type.shape) * ns + 1, _scratch(x.dtype, size))
    line = _Line(frame, x.dtype, size, descending)
    units(frame, others, lambda index: body(line, index))
    frame.done()


def sorting_ns(dtype: str) -> int:
    """Nanoseconds that sorting takes for each element, roughly: a pass for each byte."""
    return 2 + itemsize(dtype)


def _argsort(code: KernelCode) -> bool:
    core = code.kernel.core
    assert core is not None
    x, y, axis = regions.operand(code, 0), regions.result(code, 0), core.attrs["axis"]

    def order(line: _Line, index: list[Int]) -> None:
        f, frame = line.f, line.frame
        line.fill(frame.at(x, index), frame.size(x.strides[axis]))
        records, row, step = line.sort(), frame.at(y, index), frame.size(y.strides[axis])

        def some(at: Int, mask: Value | None) -> None:
            store_lanes(f, line.indices(records, at), f.address(row, f.mul(at, step), I64), step, 8, mask)

        columns(f, line.size, line.lanes, some)

    _lines(code, x, core, core.attrs["descending"], sorting_ns(x.dtype), order)
    regions.finish(code, 0)
    return True


def _topk(code: KernelCode) -> bool:
    core = code.kernel.core
    assert core is not None
    x, axis, k = regions.operand(code, 0), core.attrs["axis"], core.attrs["k"]
    values, order = regions.result(code, 0), regions.result(code, 1)
    memory, align = MEMORY_TYPE[x.dtype], itemsize(x.dtype)
    is_few = isinstance(k, int) and 0 < k <= FEW

    def first(line: _Line, index: list[Int]) -> None:
        f, frame = line.f, line.frame
        row, step = frame.at(x, index), frame.size(x.strides[axis])
        if is_few:
            records = line.choose(row, step, k)
        else:
            line.fill(row, step)
            records = line.sort()
        targets = [frame.at(array, index) for array in (values, order)]
        steps = [frame.size(array.strides[axis]) for array in (values, order)]

        def some(at: Int, mask: Value | None) -> None:
            lanes = line.lanes
            found = line.indices(records, at)
            offsets = f.binary("mul", found, f.splat(f.i64(step), lanes))
            elements = f.gather(vector(memory, lanes), f.addresses(row, offsets, memory), align, mask)
            places = [f.mul(at, each) for each in steps]
            store_lanes(f, elements, f.address(targets[0], places[0], memory), steps[0], align, mask)
            store_lanes(f, found, f.address(targets[1], places[1], I64), steps[1], 8, mask)

        columns(f, frame.size(k), line.lanes, some)

    _lines(code, x, core, core.attrs["largest"], 1 if is_few else sorting_ns(x.dtype), first)
    for number in range(2):
        regions.finish(code, number)
    return True


CORES: Mapping[Op, Callable[[KernelCode], bool]] = {argsort_op: _argsort, topk_op: _topk}
