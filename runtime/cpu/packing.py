"""The library of copies around matrix products: operands into panels, sums of half-precision products out of them.

A panel holds `width` rows of A or columns of B, next to each other for each k: element (x, k) at `k * width + x`. What
exceeds the matrix in the last panel is never read, so it isn't written either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.runtime.cpu.builder import Function, Module
from graphc.runtime.cpu.host import Host
from graphc.runtime.cpu.values import MEMORY_TYPE, Int, Value, vector
from graphc.types import np_dtype

LINE = 64  # bytes of a line of the cache, about

# Parameters of `pack.*.<dtype>`, which packs an array of this dtype.
PACK = (
    ("ptr noalias", "source"),
    ("i64", "source_x"),  # distances; 1 in `lines`
    ("i64", "source_k"),  # 1 in `columns`
    ("ptr noalias", "panels"),
    ("i64", "distance"),  # of panels
    ("i64", "count"),  # of x, in one or several panels
    ("i64", "k"),
    ("i64", "width"),
)

# Parameters of `narrow.<dtype>`, which rounds a block of float32 to this dtype.
NARROW = (
    ("ptr noalias", "source"),
    ("i64", "source_row"),
    ("ptr noalias", "target"),
    ("i64", "target_row"),
    ("i64", "m"),
    ("i64", "n"),
)


AHEAD = 16  # rows of the source that are asked for before they are needed


def compute_dtype(dtype: str) -> str:
    """The dtype in which products of this dtype are summed."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def prefetch(f: Function, at: Value, *, write: bool = False, level: int = 1) -> None:
    """Ask for the line of an address, which need not be memory, to be in a level of the cache."""
    hints = [Value(str(hint), "i32") for hint in (int(write), 4 - level, 1)]
    f.call("llvm.prefetch.p0", "void", at, *hints)


def library(host: Host, symbol: str) -> str:
    """The assembly of one function."""
    kind, _, dtype = symbol.rpartition(".")
    module = Module()
    MAKERS[kind](module, host, dtype, symbol)
    return module.text()


def _element(f: Function, at: Value, type: str, target: str, lanes: int = 1, mask: Value | None = None) -> Value:
    """A scalar or vector of `type` from memory, converted to `target`."""
    found = f.load(vector(MEMORY_TYPE[type], lanes), at, np_dtype(type).itemsize, mask)
    return f.convert("fpext", found, vector(MEMORY_TYPE[target], lanes))


def _begin(module: Module, symbol: str) -> tuple[Function, list[Value]]:
    f = module.function(symbol, PACK)
    return f, [f.parameter(k) for k in range(len(PACK))]


def _lines(module: Module, host: Host, dtype: str, symbol: str) -> None:
    """Rows of the source are contiguous along x: copy them, one after the other, into all panels."""
    target = compute_dtype(dtype)
    lanes = host.lanes(np_dtype(target).itemsize)
    f, (source, _, source_k, panels, distance, count, k, width) = _begin(module, symbol)

    def copy(at: Value, to: Value, x: Int, mask: Value | None) -> None:
        prefetch(f, f.address(at, f.add(f.mul(AHEAD, source_k), x), MEMORY_TYPE[dtype]))
        value = _element(f, f.address(at, x, MEMORY_TYPE[dtype]), dtype, target, lanes, mask)
        f.store(value, f.address(to, x, MEMORY_TYPE[target]), np_dtype(target).itemsize, mask)

    def part(number: Value, start: Value, panel: Value) -> Value:
        at = f.address(source, f.add(f.mul(number, source_k), start), MEMORY_TYPE[dtype])
        to = f.address(panel, f.mul(number, width), MEMORY_TYPE[target])
        size = f.min(width, f.sub(count, start))
        whole = f.mul(f.div(size, lanes), lanes)
        f.loop(0, whole, lanes, lambda x, _: copy(at, to, x, None))
        left = f.sub(size, whole)
        f.if_(f.is_less(0, left), lambda: copy(at, to, whole, f.mask(left, lanes)))
        return f.address(panel, distance, MEMORY_TYPE[target])

    def line(number: Value, _: list[Value]) -> None:
        _by_panel(f, count, width, lambda start, panel: part(number, start, panel), panels)

    f.loop(0, k, 1, line)
    f.ret()


def _by_panel(f: Function, count: Value, width: Value, part: Callable[[Value, Value], Value], first: Value) -> None:
    """Code for each panel, from its first x and its address; it returns the address of the next."""

    def panel(number: Value, carried: list[Value]) -> Sequence[Value]:
        return [part(f.i64(f.mul(number, width)), carried[0])]

    f.loop(0, f.div(f.add(count, f.sub(width, 1)), width), 1, panel, [first])


def _columns(module: Module, host: Host, dtype: str, symbol: str) -> None:
    """The source is contiguous along k: transpose squares of as many elements as a vector has, in registers."""
    target = compute_dtype(dtype)
    lanes = host.lanes(np_dtype(target).itemsize)
    element, align = MEMORY_TYPE[target], np_dtype(target).itemsize
    f, (source, source_x, _, panels, distance, count, k, width) = _begin(module, symbol)
    whole = f.mul(f.div(k, lanes), lanes)

    def part(start: Value, panel: Value) -> Value:
        size = f.min(width, f.sub(count, start))

        def square(x: Value, number: Value) -> None:
            """Of some x and k; beyond the panel's end, its last x stands in."""
            rows = []
            for lane in range(lanes):
                at = f.mul(f.add(start, f.min(f.add(x, lane), f.sub(size, 1))), source_x)
                address = f.address(source, f.add(at, number), MEMORY_TYPE[dtype])
                rows.append(_element(f, address, dtype, target, lanes))
            stored = f.mask(f.sub(width, x), lanes)
            for lane, column in enumerate(_transposed(f, rows)):
                to = f.address(panel, f.add(f.mul(f.add(number, lane), width), x), element)
                f.store(column, to, align, stored)

        def single(x: Value, number: Value) -> None:
            at = f.add(f.mul(f.add(start, x), source_x), number)
            to = f.address(panel, f.add(f.mul(number, width), x), element)
            f.store(_element(f, f.address(source, at, MEMORY_TYPE[dtype]), dtype, target), to, align)

        _over(f, (0, size, lanes), (0, whole, lanes), square)
        _over(f, (0, size, 1), (whole, k, 1), single)
        return f.address(panel, distance, element)

    _by_panel(f, count, width, part, panels)
    f.ret()


Range = tuple[Int, Int, int]  # first, last (exclusive), step


def _over(f: Function, outer: Range, inner: Range, body: Callable[[Value, Value], None]) -> None:
    """Two loops."""

    def loop(i: Value, _: list[Value]) -> None:
        f.loop(*inner, lambda j, _: body(i, j))

    f.loop(*outer, loop)


def _transposed(f: Function, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of vectors, by exchanging ever smaller squares."""
    found = list(rows)
    lanes = len(found)
    distance = lanes // 2
    while distance:
        for i in range(lanes):
            if not i & distance:
                x, y = found[i], found[i + distance]
                low = [k if not k & distance else lanes + k - distance for k in range(lanes)]
                high = [k + distance if not k & distance else lanes + k for k in range(lanes)]
                found[i], found[i + distance] = f.shuffle(x, y, low), f.shuffle(x, y, high)
        distance //= 2
    return found


def _strided(module: Module, host: Host, dtype: str, symbol: str) -> None:
    """Any source: element by element."""
    target = compute_dtype(dtype)
    f, (source, source_x, source_k, panels, distance, count, k, width) = _begin(module, symbol)

    def part(start: Value, panel: Value) -> Value:
        def move(number: Value, x: Value) -> None:
            at = f.add(f.mul(number, source_k), f.mul(f.add(start, x), source_x))
            to = f.address(panel, f.add(f.mul(number, width), x), MEMORY_TYPE[target])
            found = _element(f, f.address(source, at, MEMORY_TYPE[dtype]), dtype, target)
            f.store(found, to, np_dtype(target).itemsize)

        _over(f, (0, k, 1), (0, f.min(width, f.sub(count, start)), 1), move)
        return f.address(panel, distance, MEMORY_TYPE[target])

    _by_panel(f, count, width, part, panels)
    f.ret()


def _narrow(module: Module, host: Host, dtype: str, symbol: str) -> None:
    """Round rows of float32 to a dtype of half its bytes."""
    lanes = host.lanes(np_dtype("float32").itemsize)
    f = module.function(symbol, NARROW)
    source, source_row, target, target_row, m, n = [f.parameter(k) for k in range(len(NARROW))]

    def row(i: Value, _: list[Value]) -> None:
        at = f.address(source, f.mul(i, source_row), "float")
        to = f.address(target, f.mul(i, target_row), MEMORY_TYPE[dtype])

        def convert(j: Int, count: int) -> None:
            value = f.load(vector("float", count), f.address(at, j, "float"), 4)
            rounded = f.convert("fptrunc", value, vector(MEMORY_TYPE[dtype], count))
            f.store(rounded, f.address(to, j, MEMORY_TYPE[dtype]), 2)

        whole = f.mul(f.div(n, lanes), lanes)
        f.loop(0, whole, lanes, lambda j, _: convert(j, lanes))
        f.loop(whole, n, 1, lambda j, _: convert(j, 1))

    f.loop(0, m, 1, row)
    f.ret()


MAKERS: Mapping[str, Callable[[Module, Host, str, str], None]] = {
    "pack.lines": _lines,
    "pack.columns": _columns,
    "pack.strided": _strided,
    "narrow": _narrow,
}
