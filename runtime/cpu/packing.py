"""The library of copies around matrix products: operands into panels, sums of half-precision products out of them.

A panel holds `width` rows of A or columns of B, next to each other for each k: element (x, k) at `k * width + x`. What
exceeds the matrix in the last panel is never read, so it isn't written either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.runtime.cpu.builder import MEMORY_TYPE, Function, Int, Module, Value, vector
from graphc.runtime.cpu.host import Host
from graphc.types import np_dtype

# Parameters of `pack.*.<dtype>`, which packs one panel of an array of this dtype.
PACK = (
    ("ptr noalias", "source"),
    ("i64", "source_x"),  # distances; 1 in `lines`
    ("i64", "source_k"),  # 1 in `columns`
    ("ptr noalias", "panel"),
    ("i64", "count"),  # of x, at most `width`
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


def compute_dtype(dtype: str) -> str:
    """The dtype in which products of this dtype are summed."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


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
    """Rows of the source are contiguous along x: copy them, one for each k."""
    target = compute_dtype(dtype)
    lanes = host.lanes(np_dtype(target).itemsize)
    f, (source, _, source_k, panel, count, k, width) = _begin(module, symbol)
    whole = f.mul(f.div(count, lanes), lanes)
    left = f.sub(count, whole)

    def copy(at: Value, to: Value, x: Int, mask: Value | None) -> None:
        value = _element(f, f.address(at, x, MEMORY_TYPE[dtype]), dtype, target, lanes, mask)
        f.store(value, f.address(to, x, MEMORY_TYPE[target]), np_dtype(target).itemsize, mask)

    def line(number: Value, _: list[Value]) -> None:
        at = f.address(source, f.mul(number, source_k), MEMORY_TYPE[dtype])
        to = f.address(panel, f.mul(number, width), MEMORY_TYPE[target])
        f.loop(0, whole, lanes, lambda x, _: copy(at, to, x, None))
        f.if_(f.is_less(0, left), lambda: copy(at, to, whole, f.mask(left, lanes)))

    f.loop(0, k, 1, line)
    f.ret()


def _columns(module: Module, host: Host, dtype: str, symbol: str) -> None:
    """The source is contiguous along k: transpose squares of as many elements as a vector has, in registers."""
    target = compute_dtype(dtype)
    lanes = host.lanes(np_dtype(target).itemsize)
    element, align = MEMORY_TYPE[target], np_dtype(target).itemsize
    f, (source, source_x, _, panel, count, k, width) = _begin(module, symbol)

    def square(x: Int, number: Int) -> None:
        """k from `number` on for x from `x` on; beyond the panel's end, its last x stands in."""
        rows = []
        for lane in range(lanes):
            at = f.mul(f.min(f.add(x, lane), f.sub(count, 1)), source_x)
            address = f.address(source, f.add(at, number), MEMORY_TYPE[dtype])
            rows.append(_element(f, address, dtype, target, lanes))
        stored = f.mask(f.sub(width, x), lanes)
        for lane, column in enumerate(_transposed(f, rows)):
            to = f.address(panel, f.add(f.mul(f.add(number, lane), width), x), element)
            f.store(column, to, align, stored)

    def last(x: Int, number: Int) -> None:
        """The k that are left, one by one."""

        def one(n: Value, _: list[Value]) -> None:
            def move(i: Value, _: list[Value]) -> None:
                at = f.address(source, f.add(f.mul(i, source_x), n), MEMORY_TYPE[dtype])
                f.store(_element(f, at, dtype, target), f.address(panel, f.add(f.mul(n, width), i), element), align)

            f.loop(x, count, 1, move)

        f.loop(number, k, 1, one)

    whole = f.mul(f.div(k, lanes), lanes)
    f.loop(0, count, lanes, lambda x, _: f.loop(0, whole, lanes, lambda n, _: square(x, n)) and None)
    last(0, whole)
    f.ret()


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
    f, (source, source_x, source_k, panel, count, k, width) = _begin(module, symbol)

    def move(number: Value, x: Value) -> None:
        at = f.address(source, f.add(f.mul(number, source_k), f.mul(x, source_x)), MEMORY_TYPE[dtype])
        to = f.address(panel, f.add(f.mul(number, width), x), MEMORY_TYPE[target])
        f.store(_element(f, at, dtype, target), to, np_dtype(target).itemsize)

    f.loop(0, k, 1, lambda number, _: f.loop(0, count, 1, lambda x, _: move(number, x)) and None)
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
