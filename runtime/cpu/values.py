"""How LLVM writes types, values and constants."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np


class Value(NamedTuple):
    """An LLVM value: how it is written, and its type."""

    text: str
    type: str


Int = int | Value  # an i64, known when the code is written or when it runs

I64 = "i64"
PTR = "ptr"

# How elements of a dtype are in memory, and their bytes. A bool is a byte in memory, and an i1 in registers.
MEMORY_TYPE = {
    "bool": "i8", "int8": "i8", "uint8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "float16": "half", "bfloat16": "bfloat", "float32": "float", "float64": "double",
}  # fmt: skip

_FLOATS = {"half": np.float16, "bfloat": ml_dtypes.bfloat16, "float": np.float32, "double": np.float64}


def text_of(number: Int) -> str:
    """How an integer is written."""
    return number.text if isinstance(number, Value) else str(number)


def arguments(args: Sequence[Value]) -> str:
    """How the arguments of a call are written."""
    return ", ".join(f"{arg.type} {arg.text}" for arg in args)


def vector(element: str, lanes: int) -> str:
    """The type of `lanes` elements; of one lane, the element's."""
    return element if lanes == 1 else f"<{lanes} x {element}>"


@cache
def element_of(type: str) -> str:
    """The element type of a vector type, or the scalar type itself."""
    return type[:-1].split(" x ", 1)[1] if type.startswith("<") else type


@cache
def lanes_of(type: str) -> int:
    """The number of elements of a vector type, 1 of a scalar type."""
    return int(type[1:].split(" x ", 1)[0]) if type.startswith("<") else 1


def with_element(type: str, element: str) -> str:
    """A type of as many lanes, of another element."""
    return vector(element, lanes_of(type))


def as_bits(type: str) -> str:
    """The type in which masked instructions move elements: 16-bit floats would pass through a float32 one by one."""
    return with_element(type, "i16") if element_of(type) in ("half", "bfloat") else type


def mangled(type: str) -> str:
    """A type as it is spelled in the name of an overloaded intrinsic."""
    names = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
    element = element_of(type)
    name = names.get(element, element)
    return name if lanes_of(type) == 1 else f"v{lanes_of(type)}{name}"


def constant(type: str, number: float | int | bool) -> Value:
    """A number as a constant of a scalar type, or in every lane of a vector type. Floats are rounded to it."""
    element = element_of(type)
    text = literal(element, number)
    return Value(text if lanes_of(type) == 1 else f"splat ({element} {text})", type)


def literal(element: str, number: float | int | bool) -> str:
    """How a number of a scalar type is written."""
    if element not in _FLOATS:
        return str(int(number))
    rounded = np.asarray(number).astype(_FLOATS[element])
    if element == "half":
        return f"0xH{int(rounded.view(np.uint16)):04X}"
    if element == "bfloat":
        return f"0xR{int(rounded.view(np.uint16)):04X}"
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(rounded)))[0]:016X}"
