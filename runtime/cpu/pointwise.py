"""How each pointwise op is emitted, for every dtype, on scalars and on vectors of any number of lanes.

In registers a bool is an i1, an integer an iN, a 16-bit float a float, which holds more than it: `rounded` brings it
back, as `cast` does. Nothing here is undefined, whatever the operands: integers wrap, an integer divided by 0 gives 0,
and a float beyond the integers becomes the lowest one, as with NumPy on x86.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from graphc.ir import Node
from graphc.op import Op
from graphc.operands import cast_op, splat_value
from graphc.ops import control
from graphc.ops import math as ops
from graphc.runtime.cpu import vector_math
from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.values import MEMORY_TYPE, Value, constant, element_of, with_element
from graphc.runtime.cpu.vector_math import Math, any_lane

Emit = Callable[[Function, Node, Sequence[Value]], Value]

# How an element of a dtype is in registers.
REGISTER_TYPE = {**MEMORY_TYPE, "bool": "i1", "float16": "float", "bfloat16": "float"}
FLOATS = ("float", "double")
HALVES = ("float16", "bfloat16")
UNSIGNED = ("bool", "uint8")


def emit(f: Function, node: Node, args: Sequence[Value]) -> Value:
    """Emit a pointwise op.

    Args:
        args: its operands in registers, of the types that `REGISTER_TYPE` gives or vectors of them.
    """
    return TABLE[node.op](f, node, args)


def rounded(f: Function, value: Value, dtype: str) -> Value:
    """A value in registers, rounded to what the dtype holds; half to even."""
    memory = with_element(value.type, MEMORY_TYPE[dtype])
    return value if dtype not in HALVES else f.convert("fpext", f.convert("fptrunc", value, memory), value.type)


# --------------------------------------------------------------------------------------------- by the kind of dtype


def _is_float(value: Value) -> bool:
    return element_of(value.type) in FLOATS


def _is_bool(value: Value) -> bool:
    return element_of(value.type) == "i1"


def _unsigned(node: Node) -> bool:
    return node.inputs[0].dtype in UNSIGNED


def _passed(f: Function, node: Node, args: Sequence[Value]) -> Value:
    return args[0]


def _simple(make: Callable[..., Value]) -> Emit:
    """An op that a function of its operands emits."""
    return lambda f, node, args: make(f, *args)


def _intrinsic(name: str) -> Emit:
    return lambda f, node, args: f.intrinsic(name, *args)


def _binary(floats: str, integers: str, bools: str) -> Emit:
    """An op that is one instruction for each kind of dtype."""

    def make(f: Function, node: Node, args: Sequence[Value]) -> Value:
        a, b = args
        return f.binary(floats if _is_float(a) else bools if _is_bool(a) else integers, a, b)

    return make


def _comparison(floats: str, integers: str) -> Emit:
    """A comparison by its predicate for floats, and that for integers, signed or not."""

    def make(f: Function, node: Node, args: Sequence[Value]) -> Value:
        a, b = args
        if _is_float(a):
            return f.compare(f"fcmp {floats}", a, b)
        sign = "" if integers in ("eq", "ne") else "u" if _unsigned(node) else "s"
        return f.compare(f"icmp {sign}{integers}", a, b)

    return make


# --------------------------------------------------------------------------------------------- bounds and signs


def _is_number(value: Value) -> bool:
    """Whether a float is known, and not nan."""
    if value.text.startswith(("%", "@")):
        return False
    digits = value.text.removesuffix(")").rsplit("0x", 1)
    return len(digits) == 2 and not math.isnan(struct.unpack(">d", bytes.fromhex(digits[1]))[0])


def _extreme(floats: str, integers: str, bools: str) -> Callable[[Function, Node, Value, Value], Value]:
    """The greater or smaller of two, by the predicate that holds for it; nan if one is."""

    def make(f: Function, node: Node, a: Value, b: Value) -> Value:
        if not _is_float(a):
            if _is_bool(a):
                return f.binary(bools, a, b)
            return f.intrinsic(f"{'u' if _unsigned(node) else 's'}{integers}", a, b)
        if _is_number(b):
            a, b = b, a
        found = f.select(f.compare(f"fcmp {floats}", a, b), a, b)  # b if one is nan
        return found if _is_number(a) else f.select(f.compare("fcmp uno", a, a), a, found)

    return make


_greater, _smaller = _extreme("ogt", "max", "or"), _extreme("olt", "min", "and")


def _maximum(f: Function, node: Node, args: Sequence[Value]) -> Value:
    return _greater(f, node, *args)


def _minimum(f: Function, node: Node, args: Sequence[Value]) -> Value:
    return _smaller(f, node, *args)


def _clip(f: Function, node: Node, args: Sequence[Value]) -> Value:
    x, low, high = args
    return _smaller(f, node, _greater(f, node, x, low), high)


def _negative(f: Function, node: Node, args: Sequence[Value]) -> Value:
    x = args[0]
    return f.negate(x) if _is_float(x) else f.binary("sub", constant(x.type, 0), x)


def _abs(f: Function, node: Node, args: Sequence[Value]) -> Value:
    x = args[0]
    if _is_float(x):
        return f.intrinsic("fabs", x)
    return x if _unsigned(node) else f.select(_below_zero(f, x), f.binary("sub", constant(x.type, 0), x), x)


def _sign(f: Function, node: Node, args: Sequence[Value]) -> Value:
    x = args[0]
    if _is_float(x):
        m = Math(f, x.type)
        return m.select(m.less(0.0, x), 1.0, m.select(m.less(x, 0.0), -1.0, m.add(x, 0.0)))
    if _unsigned(node):
        return f.intrinsic("umin", x, constant(x.type, 1))
    return f.intrinsic("smax", f.intrinsic("smin", x, constant(x.type, 1)), constant(x.type, -1))


def _below_zero(f: Function, x: Value) -> Value:
    return f.compare("icmp slt", x, constant(x.type, 0))


# --------------------------------------------------------------------------------------------- division and powers

EXACT = {"i8": "float", "i16": "float", "i32": "double"}  # in which the quotient of integers is truncated rightly


def _divided(f: Function, node: Node, a: Value, b: Value) -> tuple[Value, Value]:
    """floor(a / b) of integers, and the remainder of that; 0 and 0 where b is 0. The lowest, by -1, stays it."""
    zero, one = constant(a.type, 0), constant(a.type, 1)
    by_zero = f.compare("icmp eq", b, zero)
    if _unsigned(node):
        quotient = f.select(by_zero, zero, _truncated(f, "u", a, f.select(by_zero, one, b)))
        return quotient, f.select(by_zero, zero, f.binary("sub", a, f.binary("mul", quotient, b)))
    negated = f.compare("icmp eq", b, constant(b.type, -1))
    divisor = f.select(f.binary("or", by_zero, negated), one, b)
    quotient = _truncated(f, "s", a, divisor)
    rest = f.binary("sub", a, f.binary("mul", quotient, divisor))
    opposed = _below_zero(f, f.binary("xor", rest, divisor))
    down = f.binary("and", opposed, f.compare("icmp ne", rest, zero))
    quotient = f.binary("add", quotient, f.convert("sext", down, a.type))
    quotient = f.select(negated, f.binary("sub", zero, a), f.select(by_zero, zero, quotient))
    return quotient, f.binary("add", rest, f.select(down, divisor, zero))


def _truncated(f: Function, sign: str, a: Value, b: Value) -> Value:
    """a / b of integers, towards 0; in floats where they are exact, since no vector unit divides integers."""
    exact = EXACT.get(element_of(a.type))
    if exact is None:
        return f.binary(f"{sign}div", a, b)
    x, y = (f.convert(f"{sign}itofp", value, with_element(a.type, exact)) for value in (a, b))
    return f.convert(f"fpto{sign}i", f.binary("fdiv", x, y), a.type)


def _modulo(f: Function, a: Value, b: Value) -> Value:
    """The C library's fmod: exact by one multiplication where |a / b| is moderate; else, rarely, by the library.

    The quotient is rounded, so the rest may come out as one divisor too little; both are exact.
    """
    m = Math(f, a.type)
    quotient = f.intrinsic("trunc", m.div(a, b))
    large = f.compare("fcmp uge", m.abs(quotient), m.value(2.0 ** (m.format.fraction - 1)))

    def near() -> list[Value]:
        rest = m.fma(f.negate(quotient), b, a)
        below = m.less(m.mul(m.copysign(m.value(1.0), a), rest), 0.0)
        rest = m.select(below, m.add(rest, m.copysign(b, a)), rest)
        return [m.select(m.equal(quotient, 0.0), a, rest)]

    return f.if_(any_lane(f, large), lambda: [vector_math.libm(f, "fmod", a, b)], near)[0]


def _corrected(f: Function, a: Value, b: Value) -> tuple[Value, Value, Value]:
    """fmod(a, b), whether it is to be moved by b to have the sign of b, and what it is then."""
    m = Math(f, a.type)
    rest = _modulo(f, a, b)
    opposed = f.binary("xor", m.less(rest, 0.0), m.less(b, 0.0))
    down = f.binary("and", opposed, f.compare("fcmp une", rest, m.value(0.0)))
    moved = m.select(down, m.add(rest, b), m.select(m.equal(rest, 0.0), m.copysign(m.value(0.0), b), rest))
    return rest, down, moved


def _remainder(f: Function, node: Node, args: Sequence[Value]) -> Value:
    a, b = args
    return _corrected(f, a, b)[2] if _is_float(a) else _divided(f, node, a, b)[1]


def _floor_divide(f: Function, node: Node, args: Sequence[Value]) -> Value:
    """As NumPy has it: the quotient without the remainder is rounded to the integer that it nearly is."""
    a, b = args
    if not _is_float(a):
        return _divided(f, node, a, b)[0]
    m = Math(f, a.type)
    rest, down, _ = _corrected(f, a, b)
    quotient = m.div(m.sub(a, rest), b)
    quotient = m.select(down, m.sub(quotient, 1.0), quotient)
    floor = f.intrinsic("floor", quotient)
    floor = m.select(m.less(0.5, m.sub(quotient, floor)), m.add(floor, 1.0), floor)
    plain = m.div(a, b)
    floor = m.select(m.equal(quotient, 0.0), m.copysign(m.value(0.0), plain), floor)
    return m.select(m.equal(b, 0.0), plain, floor)


def _power(f: Function, node: Node, args: Sequence[Value]) -> Value:
    a, b = args
    if _is_float(a):
        return vector_math.exp2(f, b) if _is_exp2(node) else vector_math.power(f, a, b)
    if _unsigned(node):
        return _powers(f, a, b)
    one = constant(a.type, 1)
    negative = _below_zero(f, b)
    found = _powers(f, a, f.select(negative, f.binary("and", b, one), b))
    unit = f.binary("or", f.compare("icmp eq", a, one), f.compare("icmp eq", a, constant(a.type, -1)))
    vanishes = f.binary("and", negative, f.binary("xor", unit, constant(unit.type, True)))
    return f.select(vanishes, constant(a.type, 0), found)


def _is_exp2(node: Node) -> bool:
    """Whether a node is a power of the number 2."""
    return node.op is ops.power_op and bool(splat_value(node.inputs[0]) == 2)


def _powers(f: Function, a: Value, b: Value) -> Value:
    """a ** b of integers, by squaring while an exponent has bits left."""
    zero, one = constant(a.type, 0), constant(a.type, 1)

    def step(values: list[Value]) -> list[Value]:
        result, base, left = values
        odd = f.compare("icmp ne", f.binary("and", left, one), zero)
        product = f.select(odd, f.binary("mul", result, base), result)
        return [product, f.binary("mul", base, base), f.binary("lshr", left, one)]

    return f.loop_while(lambda values: any_lane(f, f.compare("icmp ne", values[2], zero)), step, [one, a, b])[0]


# --------------------------------------------------------------------------------------------- casts


def _cast(f: Function, node: Node, args: Sequence[Value]) -> Value:
    source, target = node.inputs[0].dtype, node.dtype
    x = args[0]
    if source == target:
        return x
    type = with_element(x.type, REGISTER_TYPE[target])
    if target == "bool":
        return f.compare("fcmp une" if _is_float(x) else "icmp ne", x, constant(x.type, 0))
    if element_of(type) not in FLOATS:
        return _float_to_integer(f, x, type) if _is_float(x) else _integer_to_integer(f, x, type, source)
    if not _is_float(x):
        x = f.convert("uitofp" if source in UNSIGNED else "sitofp", x, type)
    elif target == "float16" and x.type != type:
        x = _odd(f, x, type)
    else:
        x = f.convert("fpext" if element_of(type) == "double" else "fptrunc", x, type)
    return rounded(f, x, target)


def _integer_to_integer(f: Function, x: Value, type: str, source: str) -> Value:
    narrower = int(element_of(type)[1:]) < int(element_of(x.type)[1:])
    return f.convert("trunc" if narrower else "zext" if source in UNSIGNED else "sext", x, type)


def _float_to_integer(f: Function, x: Value, type: str) -> Value:
    """Towards 0, by way of an i32 or i64; what doesn't fit that, and nan, becomes its lowest."""
    wide = "i64" if element_of(type) == "i64" else "i32"
    limit = 2.0 ** (int(wide[1:]) - 1)
    m = Math(f, x.type)
    found = m.select(m.less(m.abs(x), limit), x, -limit)
    return f.convert("trunc", f.convert("fptosi", found, with_element(type, wide)), type)


def _odd(f: Function, x: Value, type: str) -> Value:
    """A double as a float that rounds to a shorter one as the double would: if inexact, the neighbour that is odd.

    Rounding to odd: S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums" (2008).
    """
    integers = with_element(type, "i32")
    near = f.convert("fptrunc", x, type)
    bits = f.convert("bitcast", near, integers)
    back = f.convert("fpext", near, x.type)
    inexact = f.compare("fcmp one", back, x)
    even = f.compare("icmp eq", f.binary("and", bits, constant(integers, 1)), constant(integers, 0))
    beyond = f.compare("fcmp ogt", f.intrinsic("fabs", back), f.intrinsic("fabs", x))
    step = f.select(beyond, constant(integers, -1), constant(integers, 1))
    moved = f.select(f.binary("and", inexact, even), f.binary("add", bits, step), bits)
    return f.convert("bitcast", moved, type)


# --------------------------------------------------------------------------------------------- the tables

TABLE: Mapping[Op, Emit] = MappingProxyType(
    {
        cast_op: _cast,
        control.identity: _passed,
        control.stop_gradient: _passed,
        ops.add: _binary("fadd", "add", "or"),
        ops.subtract: _binary("fsub", "sub", "xor"),
        ops.multiply: _binary("fmul", "mul", "and"),
        ops.divide: _simple(lambda f, a, b: f.binary("fdiv", a, b)),
        ops.negative: _negative,
        ops.floor_divide: _floor_divide,
        ops.remainder: _remainder,
        ops.power_op: _power,
        ops.sqrt: _intrinsic("sqrt"),
        ops.exp: _simple(vector_math.exp),
        ops.expm1: _simple(vector_math.expm1),
        ops.log: _simple(vector_math.log),
        ops.log1p: _simple(vector_math.log1p),
        ops.log2: _simple(vector_math.log2),
        ops.log10: _simple(vector_math.log10),
        ops.sin: _simple(vector_math.sin),
        ops.cos: _simple(vector_math.cos),
        ops.tanh: _simple(vector_math.tanh),
        ops.erf: _simple(vector_math.erf),
        ops.abs: _abs,
        ops.sign: _sign,
        ops.maximum: _maximum,
        ops.minimum: _minimum,
        ops.clip_op: _clip,
        ops.floor_op: _intrinsic("floor"),
        ops.ceil_op: _intrinsic("ceil"),
        ops.round_op: _intrinsic("rint"),
        ops.equal: _comparison("oeq", "eq"),
        ops.not_equal: _comparison("une", "ne"),
        ops.less: _comparison("olt", "lt"),
        ops.less_equal: _comparison("ole", "le"),
        ops.greater: _comparison("ogt", "gt"),
        ops.greater_equal: _comparison("oge", "ge"),
        ops.logical_and: _simple(lambda f, a, b: f.binary("and", a, b)),
        ops.logical_or: _simple(lambda f, a, b: f.binary("or", a, b)),
        ops.logical_xor: _simple(lambda f, a, b: f.binary("xor", a, b)),
        ops.logical_not: _simple(lambda f, x: f.binary("xor", x, constant(x.type, True))),
        ops.where: _simple(lambda f, condition, a, b: f.select(condition, a, b)),
    }
)

# Nanoseconds that one core with 512-bit vectors needs for an element of float32; of what isn't here, PLAIN.
PLAIN = 0.03
COSTS: Mapping[Op, float] = MappingProxyType(
    {
        ops.divide: 0.1,
        ops.sqrt: 0.16,
        ops.floor_divide: 0.4,
        ops.remainder: 0.2,
        ops.power_op: 1.4,
        ops.exp: 0.16,
        ops.expm1: 0.16,
        ops.log: 0.22,
        ops.log1p: 0.3,
        ops.log2: 0.3,
        ops.log10: 0.35,
        ops.sin: 0.16,
        ops.cos: 0.16,
        ops.tanh: 0.25,
        ops.erf: 0.25,
    }
)
WIDE = {"float64": 3.0, "int64": 3.0}  # how much longer it takes for these dtypes


def cost(node: Node) -> float:
    """Nanoseconds that an element of a pointwise op takes, roughly."""
    dtype = node.inputs[0].dtype if node.inputs else node.dtype
    return COSTS.get(ops.exp if _is_exp2(node) else node.op, PLAIN) * WIDE.get(dtype, 1.0)
