"""What this machine achieves at most: multiply-adds on registers, and bytes that go to memory and come from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from graphc.op import Array
from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.driver import Command, CommandList, Scratch, run
from graphc.runtime.cpu.fields import Fields
from graphc.runtime.cpu.host import Host, this_host
from graphc.runtime.cpu.jit import load
from graphc.runtime.cpu.phases import PARAMETERS
from graphc.runtime.cpu.pool import shared_pool
from graphc.runtime.cpu.values import I64, MEMORY_TYPE, PTR, Int, Value, constant, vector
from graphc.runtime.pages import aligned_memory
from graphc.runtime.profile import Peak
from graphc.runtime.strided import itemsize

SUMS = 12  # independent ones: more than the latency of a multiply-add times how many begin at once; all in registers
STEPS = 2_000  # multiply-adds to each sum, in one unit
UNITS = 256  # of each measurement, for one thread
COPIED = 64 << 20  # bytes: several times what the caches hold
BLOCK = 1 << 20  # bytes of a unit of copying
LINES = 8  # vectors that are loaded before they are stored
SUM_REPEATS, COPY_REPEATS = 25, 7  # of which the fastest counts
FLOATS = ("float32", "float64")


def assembly(host: Host) -> str:
    """Phases `sums.DTYPE`, which compute, and `copy`, which moves blocks from the first buffer to the second."""
    module = Module()
    for dtype in FLOATS:
        _sums(module, host, dtype)
    _copy(module, host)
    return module.text()


def _sums(module: Module, host: Host, dtype: str) -> None:
    f = module.function(f"sums_{dtype}", PARAMETERS, I64)
    type = vector(MEMORY_TYPE[dtype], host.lanes(itemsize(dtype)))
    scratch = f.parameter(4)
    factor, more = constant(type, 0.5), constant(type, 1.0)
    first = [constant(type, float(k)) for k in range(SUMS)]

    def unit(_: Value, sums: list[Value]) -> Sequence[Value]:
        return f.loop(0, STEPS, 1, lambda _, found: [f.fma(x, factor, more) for x in found], sums)

    for k, total in enumerate(f.loop(f.parameter(2), f.parameter(3), 1, unit, first)):
        f.store(total, f.address(scratch, k * host.vector_bytes, "i8"), host.vector_bytes)
    f.ret(constant(I64, 0))


def _copy(module: Module, host: Host) -> None:
    f = module.function("copy", PARAMETERS, I64)
    table = Fields(f, f.parameter(0))
    source, target = table.load(PTR, 0), table.load(PTR, 8)
    size, type = host.vector_bytes, vector("float", host.lanes(4))

    def line(at: Int) -> None:
        places = [f.add(at, k * size) for k in range(LINES)]
        loaded = [f.load(type, f.address(source, place, "i8"), size) for place in places]
        for value, place in zip(loaded, places, strict=True):
            f.store(value, f.address(target, place, "i8"), size, stream=True)

    low, high = (f.mul(f.parameter(k), BLOCK) for k in (2, 3))
    f.loop(low, high, LINES * size, lambda at, _: line(at))
    f.ret(constant(I64, 0))


@cache
def measured_peak(threads: int) -> Peak:
    """What so many threads achieve together, measured in some 0.2 s, once in a process.

    Of several measurements the fastest counts, so another busy process hardly matters; where a machine slows down
    under a steady load, what it sustains is less.
    """
    host, pool = this_host(), shared_pool(threads)
    symbols = [*(f"sums_{dtype}" for dtype in FLOATS), "copy"]
    code = load([assembly(host)], [symbols])[0]
    scratch = Scratch(threads, SUMS * host.vector_bytes)

    def fastest(symbol: str, units: int, table: Array, repeats: int) -> int:
        """Nanoseconds, if divided among the threads."""
        commands = CommandList([Command(code.address(symbol), (0,), units, 10**9, symbol)])
        times = []
        for _ in range(repeats):
            start = time.perf_counter_ns()
            run(commands, table.ctypes.data, scratch, pool)
            times.append(time.perf_counter_ns() - start)
        return min(times)

    flops = {}
    for dtype in FLOATS:
        each = 2 * SUMS * STEPS * host.lanes(itemsize(dtype))
        units = UNITS * threads
        flops[dtype] = each * units / fastest(f"sums_{dtype}", units, np.zeros(1, np.int64), SUM_REPEATS)
    source, target = aligned_memory(COPIED), aligned_memory(COPIED)
    source.fill(1)  # memory that was never written to is one page of zeros
    table = np.array([source.ctypes.data, target.ctypes.data], np.int64)
    return Peak(flops, 2 * COPIED / fastest("copy", COPIED // BLOCK, table, COPY_REPEATS))
