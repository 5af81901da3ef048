"""The last phase of a run: new values that couldn't be written over the old ones are copied there.

With it, all that a run does to variables is done by one call of native code, in which nothing interrupts it and nothing
fails: a run that is stopped before has changed no variable, and one that is stopped afterwards all of them.
"""

from __future__ import annotations

from typing import NamedTuple

from graphc.runtime.cpu.builder import Module
from graphc.runtime.cpu.driver import Command
from graphc.runtime.cpu.parts import Part
from graphc.runtime.cpu.phases import PARAMETERS
from graphc.runtime.cpu.values import I64, PTR, constant

UNIT = 1 << 16  # bytes that are copied in one unit of work
NS_PER_BYTE = 0.1


class Copy(NamedTuple):
    """Bytes to copy, from and to the memory at two slots of the table."""

    source: int
    target: int
    nbytes: int


def command(copy: Copy) -> Command:
    """What the driver runs to copy."""
    return Command(MODULE.code.address("copy"), copy, -(-copy.nbytes // UNIT), int(copy.nbytes * NS_PER_BYTE), "copy")


def assembly() -> str:
    """A phase whose `args` are a `Copy`."""
    module = Module()
    f = module.function("copy", PARAMETERS, I64)
    table, args, low, high, _ = (f.parameter(k) for k in range(5))
    source, target, nbytes = (f.load(I64, f.address(args, k, I64), 8) for k in range(3))
    first, second = (f.load(PTR, f.address(table, slot, PTR), 8) for slot in (source, target))
    start, end = f.mul(low, UNIT), f.min(f.mul(high, UNIT), nbytes)
    at, to = f.address(first, start, "i8"), f.address(second, start, "i8")
    f.call("llvm.memcpy.p0.p0.i64", "void", to, at, f.i64(f.sub(end, start)), constant("i1", False))
    f.ret(constant(I64, 0))
    return module.text()


MODULE = Part("copies", ("copy",), assembly)
