"""The instructions of LLVM IR that compute: each is remembered, and stands where what it depends on is known first.

Instructions that compute are remembered while their block dominates what follows, so that asking twice for an address
gives one. Integers known when the code is written stay Python ints and are folded. Parts of an address that a loop
doesn't change are computed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import reduce
from itertools import groupby
from typing import NamedTuple

from graphc.runtime.cpu.affine import MAX_TERMS, ZERO, Sum, bytes_of, plus
from graphc.runtime.cpu.values import (
    I64,
    PTR,
    Int,
    Value,
    arguments,
    as_bits,
    constant,
    element_of,
    literal,
    mangled,
    text_of,
    vector,
    with_element,
)


class OpenLoop(NamedTuple):
    """A loop that is being written: how deep it stands, and what is computed before it."""

    depth: int
    before: list[str]


class Instructions:
    """The lines of a function in the making: values are made by calling methods, in order.

    Args:
        declare: an external function or intrinsic: its name, the type of its result, those of its parameters.
    """

    def __init__(self, declare: Callable[[str, str, Sequence[str]], None]) -> None:
        self._declare = declare
        self._entry: list[str] = []  # what stands before all of `_lines`
        self._lines: list[str] = []
        self._count = 0
        self._always: dict[Hashable, Value] = {}  # by instruction, what is known from the entry on
        self._known: dict[Hashable, Value] = {}  # and what is known here
        self._blocks: list[list[Hashable]] = [[], []]  # what has become known in the entry and in each enclosing block
        self._depths: dict[str, int] = {}  # of values: in which of these blocks they are; 0 for parameters
        self.types: dict[str, str] = {}  # of values
        self._loops: list[OpenLoop] = []  # those around the next instruction, the outermost first
        self._lone: dict[str, int] = {}  # of masks in which one lane alone is known to be true: which
        self._sums: dict[str, Sum] = {}  # what i64 values are
        self._places: dict[str, tuple[Value, Sum]] = {}  # what addresses are: a base, and bytes from there

    def emit(self, type: str, instruction: str) -> Value:
        """A value of an instruction that has effects or reads memory: never remembered."""
        return self._put(self._lines, len(self._blocks) - 1, type, instruction)

    def _put(self, lines: list[str], depth: int, type: str, instruction: str) -> Value:
        self._count += 1
        text = f"%v{self._count}"
        lines.append(f"  {text} = {instruction}")
        self._depths[text] = depth
        self.types[text] = type
        return Value(text, type)

    def pure(self, type: str, instruction: str) -> Value:
        """A value that depends on its operands alone: found again while it dominates."""
        found = self._known.get(instruction) or self._always.get(instruction)
        if found is None:
            found = self._known[instruction] = self._put(self._lines, len(self._blocks) - 1, type, instruction)
            self._blocks[-1].append(instruction)
        return found

    def _early(self, depth: int, type: str, instruction: str) -> Value:
        """`pure`, of values that are not deeper than `depth`: before the loops that don't change them."""
        found = self._known.get(instruction) or self._always.get(instruction)
        if found is None:
            lines, at = self._lines, len(self._blocks) - 1
            for loop in self._loops:
                if loop.depth >= depth:
                    lines, at = loop.before, loop.depth
                    break
            found = self._known[instruction] = self._put(lines, at, type, instruction)
            self._blocks[at].append(instruction)
        return found

    def do(self, instruction: str) -> None:
        """An instruction without a value."""
        self._lines.append(f"  {instruction}")

    def in_entry(self, make: Callable[[], Value]) -> Value:
        """What `make` emits, at the function's beginning: it may depend on parameters and such values alone."""
        known, self._known = self._known, self._always
        try:
            return self._elsewhere(self._entry, 0, make)
        finally:
            self._known = known

    def _elsewhere(self, lines: list[str], depth: int, make: Callable[[], Value]) -> Value:
        """What `make` emits, at the end of other lines, which stand less deep."""
        kept = self._lines, self._blocks, self._loops
        self._lines, self._blocks, self._loops = lines, self._blocks[: depth + 1], []
        try:
            return make()
        finally:
            self._lines, self._blocks, self._loops = kept

    def binary(self, operation: str, a: Value, b: Value) -> Value:
        """`fadd`, `fmul`, `and`, `shl`, ... of two values of one type."""
        assert a.type == b.type, (operation, a, b)
        return self.pure(a.type, f"{operation} {a.type} {a.text}, {b.text}")

    def compare(self, operation: str, a: Value, b: Value) -> Value:
        """`fcmp olt`, `icmp slt`, ...: an i1 a lane."""
        assert a.type == b.type, (operation, a, b)
        return self.pure(with_element(a.type, "i1"), f"{operation} {a.type} {a.text}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """`a` where the condition holds, else `b`."""
        assert a.type == b.type, (a, b)
        return self.pure(a.type, f"select {condition.type} {condition.text}, {a.type} {a.text}, {b.type} {b.text}")

    def convert(self, operation: str, a: Value, type: str) -> Value:
        """`sitofp`, `fpext`, `trunc`, `bitcast`, ...; the value itself if it has the type."""
        if a.type == type:
            return a
        if operation == "fptrunc" and element_of(type) == "bfloat":
            return self._to_bfloat(self.convert("fptrunc", a, with_element(type, "float")), type)
        return self.pure(type, f"{operation} {a.type} {a.text} to {type}")

    def _to_bfloat(self, a: Value, type: str) -> Value:
        """Half to even, by integers: LLVM calls a library that may lack it, and x86's instruction loses subnormals."""
        wide = with_element(type, "i32")
        bits = self.convert("bitcast", a, wide)
        head = self.binary("lshr", bits, constant(wide, 16))
        odd = self.binary("and", head, constant(wide, 1))
        up = self.binary("add", bits, self.binary("add", odd, constant(wide, 0x7FFF)))
        quiet = self.binary("or", head, constant(wide, 0x40))
        nan = self.compare("fcmp uno", a, a)
        found = self.select(nan, quiet, self.binary("lshr", up, constant(wide, 16)))
        return self.convert("bitcast", self.convert("trunc", found, with_element(type, "i16")), type)

    def negate(self, a: Value) -> Value:
        """-a, of floats."""
        return self.pure(a.type, f"fneg {a.type} {a.text}")

    def intrinsic(self, name: str, *args: Value, result: str | None = None, overloads: Sequence[str] = ()) -> Value:
        """A pure intrinsic, `llvm.` left out, overloaded by its first argument's type unless `overloads` are given."""
        result = args[0].type if result is None else result
        suffix = "".join(f".{mangled(type)}" for type in overloads or (args[0].type,))
        full = f"llvm.{name}{suffix}"
        self._declare(full, result, [arg.type for arg in args])
        return self.pure(result, f"call {result} @{full}({arguments(args)})")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def call(self, name: str, result: str, *args: Value) -> Value | None:
        """A call with effects, of a function of this module or an external one; its value, unless it is void."""
        self._declare(name, result, [arg.type for arg in args])
        text = f"call {result} @{name}({arguments(args)})"
        if result == "void":
            self.do(text)
            return None
        return self.emit(result, text)

    def call_at(self, function: Value, *args: Value) -> None:
        """A call of the function at an address, which has no result."""
        self.do(f"call void {function.text}({arguments(args)})")

    # ------------------------------------------------------------------------------------ i64

    def i64(self, number: Int) -> Value:
        """An i64 as a value."""
        return number if isinstance(number, Value) else Value(str(number), I64)

    def _integer(self, operation: str, one: str, other: str) -> Value:
        """What is computed of two integers, before the loops that change neither."""
        depth = self._depths.get
        return self._early(max(depth(one, 0), depth(other, 0)), I64, f"{operation} i64 {one}, {other}")

    def add(self, a: Int, b: Int) -> Int:
        """a + b."""
        if isinstance(a, int):
            if isinstance(b, int):
                return a + b
            if a == 0:
                return b
        elif isinstance(b, int) and b == 0:
            return a
        return self._as_sum(self._integer("add nsw", text_of(a), text_of(b)), a, b)

    def _sum(self, number: Int) -> Sum:
        """What an integer is, as far as that is known."""
        if isinstance(number, int):
            return Sum({}, number) if number else ZERO
        text = number.text
        return self._sums.get(text) or Sum({text: 1}, 0)

    def _moved(self, start: Sum, by: Int, times: int) -> Sum:
        """start + times * by."""
        if isinstance(by, int):
            return Sum(start.terms, start.offset + times * by)
        return plus(start, self._sum(by), times)

    def _as_sum(self, value: Value, a: Int, b: Int, times: int = 1) -> Value:
        """Remember that a value is a + times * b."""
        if value.text not in self._sums:
            found = self._moved(self._sum(a), b, times)
            if len(found.terms) <= MAX_TERMS:
                self._sums[value.text] = found
        return value

    def sub(self, a: Int, b: Int) -> Int:
        """a - b."""
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        if isinstance(b, int) and b == 0:
            return a
        return self._as_sum(self._integer("sub nsw", text_of(a), text_of(b)), a, b, -1)

    def mul(self, a: Int, b: Int) -> Int:
        """a * b."""
        if isinstance(a, int):
            return a * b if isinstance(b, int) else self._times(b, a)
        return self._times(a, b) if isinstance(b, int) else self._integer("mul nsw", a.text, b.text)

    def _times(self, a: Value, factor: int) -> Int:
        if factor in (0, 1):
            return a if factor else 0
        return self._as_sum(self._integer("mul nsw", a.text, str(factor)), 0, a, factor)

    def div(self, a: Int, b: Int) -> Int:
        """a / b, of what is not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if isinstance(b, int) and b == 1 else self.binary("udiv", self.i64(a), self.i64(b))

    def rem(self, a: Int, b: Int) -> Int:
        """The remainder of a / b, of what is not negative."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if isinstance(b, int) and b == 1 else self.binary("urem", self.i64(a), self.i64(b))

    def min(self, a: Int, b: Int) -> Int:
        """The smaller of two."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self._extreme("smin", a, b)

    def max(self, a: Int, b: Int) -> Int:
        """The greater of two."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self._extreme("smax", a, b)

    def _extreme(self, name: str, a: Int, b: Int) -> Value:
        one, other, full = text_of(a), text_of(b), f"llvm.{name}.i64"
        self._declare(full, I64, [I64, I64])
        return self._early(max(self._depth(one), self._depth(other)), I64, f"call i64 @{full}(i64 {one}, i64 {other})")

    def is_less(self, a: Int, b: Int) -> Value:
        """Whether a < b, an i1."""
        return self.compare("icmp slt", self.i64(a), self.i64(b))

    # ------------------------------------------------------------------------------------ memory

    def address(self, base: Value, index: Int, element: str) -> Value:
        """The address of an element of an array of scalars or vectors (`"i8"` to count in bytes)."""
        root, start = self._places.get(base.text) or (base, ZERO)
        place = self._moved(start, index, bytes_of(element))
        at = self._far(root, place.terms) if place.terms else root
        if place.offset:
            at = self.pure(PTR, f"getelementptr i8, ptr {at.text}, i64 {place.offset}")
        self._places[at.text] = root, place
        return at

    def _far(self, base: Value, terms: Mapping[str, int]) -> Value:
        """The address that lies a sum of bytes from a base: what is known first is added first."""
        key = (base.text, *terms.items())
        at = self._known.get(key)
        if at is None:
            at, least = base, self._depth(base.text)
            ordered = sorted([(self._depth(text), text) for text in terms])
            for depth, group in groupby(ordered, lambda term: max(least, term[0])):
                parts = [text_of(self._times(Value(text, I64), terms[text])) for _, text in group]
                total = reduce(lambda a, b: self._integer("add nsw", a, b).text, parts)
                at = self._early(depth, PTR, f"getelementptr i8, ptr {at.text}, i64 {total}")
            self._known[key] = at
            self._blocks[self._depth(at.text)].append(key)
        return at

    def _depth(self, text: str) -> int:
        return self._depths.get(text, 0)

    def load(self, type: str, at: Value, align: int, mask: Value | None = None) -> Value:
        """A scalar or vector from memory; lanes where `mask` is false are not read, and 0."""
        if mask is None:
            return self.emit(type, f"load {type}, ptr {at.text}, align {align}")
        bits = as_bits(type)
        name = f"llvm.masked.load.{mangled(bits)}.p0"
        self._declare(name, bits, [PTR, "i32", mask.type, bits])
        found = self.emit(
            bits, f"call {bits} @{name}(ptr {at.text}, i32 {align}, {mask.type} {mask.text}, {bits} zeroinitializer)"
        )
        return self.convert("bitcast", found, type)

    def store(self, value: Value, at: Value, align: int, mask: Value | None = None, *, stream: bool = False) -> None:
        """A scalar or vector to memory; lanes where `mask` is false are left as they are.

        Args:
            stream: past the caches; the address must be a multiple of the vector's bytes.
        """
        if mask is None:
            hint = ", !nontemporal !0" if stream else ""
            self.do(f"store {value.type} {value.text}, ptr {at.text}, align {align}{hint}")
            return
        value = self.convert("bitcast", value, as_bits(value.type))
        if (lane := self._lone.get(mask.text)) is not None:  # LLVM 22 stores too many bytes of what `trunc` gave
            return self.store(self.extract(value, lane), self.address(at, lane, element_of(value.type)), align)
        name = f"llvm.masked.store.{mangled(value.type)}.p0"
        self._declare(name, "void", [value.type, PTR, "i32", mask.type])
        self.do(f"call void @{name}({value.type} {value.text}, ptr {at.text}, i32 {align}, {mask.type} {mask.text})")

    def gather(self, type: str, addresses: Value, align: int, mask: Value | None = None) -> Value:
        """A vector of elements, each from its own address."""
        mask = mask or constant(with_element(type, "i1"), True)
        bits = as_bits(type)
        name = f"llvm.masked.gather.{mangled(bits)}.{mangled(addresses.type)}"
        self._declare(name, bits, [addresses.type, "i32", mask.type, bits])
        found = self.emit(
            bits,
            f"call {bits} @{name}({addresses.type} {addresses.text}, i32 {align}, {mask.type} {mask.text}, "
            f"{bits} zeroinitializer)",
        )
        return self.convert("bitcast", found, type)

    def scatter(self, value: Value, addresses: Value, align: int, mask: Value | None = None) -> None:
        """Store the elements of a vector, each to its own address, the first lane first."""
        mask = mask or constant(with_element(value.type, "i1"), True)
        value = self.convert("bitcast", value, as_bits(value.type))
        name = f"llvm.masked.scatter.{mangled(value.type)}.{mangled(addresses.type)}"
        self._declare(name, "void", [value.type, addresses.type, "i32", mask.type])
        self.do(
            f"call void @{name}({value.type} {value.text}, {addresses.type} {addresses.text}, i32 {align}, "
            f"{mask.type} {mask.text})"
        )

    def addresses(self, base: Value, offsets: Value, element: str) -> Value:
        """The addresses of the elements at a vector of i64 offsets; or at one, of which nothing is known."""
        type = with_element(offsets.type, PTR)
        return self.pure(type, f"getelementptr inbounds {element}, ptr {base.text}, {offsets.type} {offsets.text}")

    def stack(self, type: str, count: int = 1) -> Value:
        """Memory of the function's frame, aligned for any vector."""
        return self.in_entry(lambda: self.emit(PTR, f"alloca {type}, i64 {count}, align 64"))

    # ------------------------------------------------------------------------------------ vectors

    def splat(self, scalar: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        if lanes == 1:
            return scalar
        type = vector(scalar.type, lanes)
        if not scalar.text.startswith(("%", "@")):
            return Value(f"splat ({scalar.type} {scalar.text})", type)
        first = self.pure(type, f"insertelement {type} poison, {scalar.type} {scalar.text}, i64 0")
        return self.pure(type, f"shufflevector {type} {first.text}, {type} poison, <{lanes} x i32> zeroinitializer")

    def shuffle(self, a: Value, b: Value | None, lanes: Sequence[int]) -> Value:
        """The chosen lanes of `a` and then `b`; -1 is any."""
        other = "poison" if b is None else b.text
        picks = ", ".join(f"i32 {'poison' if lane < 0 else lane}" for lane in lanes)
        type = vector(element_of(a.type), len(lanes))
        found = self.pure(type, f"shufflevector {a.type} {a.text}, {a.type} {other}, <{len(lanes)} x i32> <{picks}>")
        if b is None and a.text in self._lone:
            self._lone[found.text] = list(lanes).index(self._lone[a.text])
        return found

    def extract(self, a: Value, lane: Int) -> Value:
        """One lane of a vector."""
        return self.pure(element_of(a.type), f"extractelement {a.type} {a.text}, i64 {self.i64(lane).text}")

    def insert(self, a: Value, scalar: Value, lane: int) -> Value:
        """A vector with one lane replaced."""
        return self.pure(a.type, f"insertelement {a.type} {a.text}, {scalar.type} {scalar.text}, i64 {lane}")

    def counter(self, lanes: int, element: str = I64) -> Value:
        """0, 1, 2, ... as a constant."""
        if lanes == 1:
            return constant(element, 0)
        return Value(f"<{', '.join(f'{element} {literal(element, k)}' for k in range(lanes))}>", vector(element, lanes))

    def mask(self, left: Int, lanes: int) -> Value:
        """True in the first `left` lanes."""
        element = I64 if lanes <= 2 else "i32"
        value = constant(element, min(left, lanes)) if isinstance(left, int) else self.convert("trunc", left, element)
        found = self.compare("icmp slt", self.counter(lanes, element), self.splat(value, lanes))
        if left == 1:
            self._lone[found.text] = 0
        return found
