"""Steps of elementary functions that AVX-512 has single instructions for, on vectors of 512 bits.

They give the very bits of what `vector_math.py` computes where a host or a vector lacks them.
"""

from __future__ import annotations

from graphc.runtime.cpu.builder import Function
from graphc.runtime.cpu.values import Value, constant, element_of, lanes_of, with_element

SUFFIXES = {"<16 x float>": "ps.512", "<8 x double>": "pd.512"}
AS_SET = 4  # rounding: that of the thread, to nearest
FROM_1_TO_2 = 0  # the interval that mantissas are taken from

# What `fixupimm` makes of a result, by the class of the operand: a digit for each class, the last one's first.
KEEP, OPERAND, QUIET, NAN, MINUS_INFINITY, INFINITY = 0, 1, 2, 3, 4, 5
CLASSES = ("quiet nan", "signalling nan", "zero", "one", "-inf", "inf", "negative", "positive")


def served(f: Function, type: str) -> bool:
    """Whether a vector of this type has these instructions."""
    return f.module.avx512 and type in SUFFIXES


def _masked(f: Function, name: str, *args: Value, merged: bool = True) -> Value:
    """An intrinsic under a mask that lets all lanes pass; `merged`: it says what the others would have."""
    type = args[0].type
    others = [Value("poison", type)] if merged else []
    operands = [*args, *others, constant(f"i{lanes_of(type)}", -1), constant("i32", AS_SET)]
    full = f"llvm.x86.avx512.mask.{name}.{SUFFIXES[type]}"
    f.module.declare(full, type, [operand.type for operand in operands])
    return f.pure(type, f"call {type} @{full}({', '.join(f'{o.type} {o.text}' for o in operands)})")


def scaled(f: Function, x: Value, power: Value) -> Value:
    """x · 2 ** power, rounded once, for whole powers of any size."""
    return _masked(f, "scalef", x, power)


def exponent(f: Function, x: Value) -> Value:
    """The exponent of x > 0, subnormal or not, as a float."""
    return _masked(f, "getexp", x)


def mantissa(f: Function, x: Value) -> Value:
    """The x > 0 in [1, 2) that differs by a power of 2."""
    return _masked(f, "getmant", x, constant("i32", FROM_1_TO_2))


def fixed_up(f: Function, result: Value, x: Value, **responses: int) -> Value:
    """`result`, but where x is of a class that has a response.

    Args:
        responses: by the classes, blanks and signs as in Python names: `quiet_nan`, `zero`, `minus_inf`, ...
    """
    digits = [responses.get(name.replace(" ", "_").replace("-", "minus_"), KEEP) for name in CLASSES]
    table = sum([digit << 4 * place for place, digit in enumerate(digits)])
    element = "i32" if element_of(x.type) == "float" else "i64"
    classes = constant(with_element(x.type, element), table)
    return _masked(f, "fixupimm", result, x, classes, constant("i32", 0), merged=False)
