"""LLVM IR for structures in memory: fields, which threads may share, and calls of the functions at addresses."""

from __future__ import annotations

from collections.abc import Callable

from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.values import I64, Value, constant

I32 = "i32"


class Fields:
    """Fields of a structure in memory, whose addresses are computed at the function's beginning."""

    def __init__(self, f: Function, base: Value) -> None:
        self.f = f
        self.base = base

    def at(self, offset: int) -> Value:
        """The address of the field that begins `offset` bytes into the structure."""
        return self.f.in_entry(lambda: self.f.address(self.base, offset, "i8"))

    def load(self, type: str, offset: int) -> Value:
        """The value of a field of this type."""
        return self.f.load(type, self.at(offset), 8)

    def store(self, value: Value, offset: int) -> None:
        """Give a field this value."""
        self.f.store(value, self.at(offset), 8)

    def atomic(self, type: str, offset: int, order: str = "seq_cst") -> Value:
        """Load a field that other threads write."""
        align = 4 if type == I32 else 8
        return self.f.emit(type, f"load atomic {type}, ptr {self.at(offset).text} {order}, align {align}")

    def put(self, value: Value, offset: int, order: str = "seq_cst") -> None:
        """Store into a field that other threads read."""
        align = 4 if value.type == I32 else 8
        self.f.do(f"store atomic {value.type} {value.text}, ptr {self.at(offset).text} {order}, align {align}")

    def update(self, operation: str, value: Value, offset: int) -> Value:
        """Change a field, and give what it was."""
        return self.f.emit(
            value.type, f"atomicrmw {operation} ptr {self.at(offset).text}, {value.type} {value.text} seq_cst"
        )

    def exchange(self, expected: Value, new: Value, offset: int) -> tuple[Value, Value]:
        """Put `new` where `expected` is: what was there, and whether it was."""
        f, type = self.f, f"{{ {new.type}, i1 }}"
        pair = f.emit(
            type,
            f"cmpxchg ptr {self.at(offset).text}, {new.type} {expected.text}, {new.type} {new.text} seq_cst seq_cst",
        )
        return f.emit(new.type, f"extractvalue {type} {pair.text}, 0"), f.emit(
            "i1", f"extractvalue {type} {pair.text}, 1"
        )


def is_zero(f: Function, value: Value) -> Value:
    """Whether an integer is 0."""
    return f.compare("icmp eq", value, constant(value.type, 0))


def both(f: Function, a: Value, b: Value) -> Value:
    """Whether two conditions hold."""
    return f.binary("and", a, b)


def do(f: Function, callee: Value, *args: Value) -> None:
    """Call the function without a result at an address."""
    f.do(f"call void {callee.text}({', '.join(f'{a.type} {a.text}' for a in args)})")


def call(f: Function, callee: Value, *args: Value, result: str = I64) -> Value:
    """Call the function at an address, or of this module."""
    return f.emit(result, f"call {result} {callee.text}({', '.join(f'{a.type} {a.text}' for a in args)})")


def unless(f: Function, condition: Value, then: Callable[[], None]) -> None:
    """Do something where a condition doesn't hold."""
    f.if_(condition, lambda: None, then)
