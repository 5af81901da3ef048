"""Elements in CUDA C: how each dtype lies in memory, what it is in registers, and numbers as text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# How an element of a dtype lies in memory; these types, of the same sizes, are in `prelude.py`.
MEMORY = {
    "float64": "double",
    "float32": "float",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "bool": "u8",
}
# What it is in registers. A 16-bit float is a float, which holds more than it: `rounded` brings it back.
REGISTER = {**MEMORY, "float16": "float", "bfloat16": "float", "bool": "bool"}
HALVES = {"float16": "f16", "bfloat16": "bf16"}


def loaded(dtype: str, element: str) -> str:
    """An element of memory as it is in registers."""
    if dtype == "bool":
        return f"({element} != 0)"
    return f"widened({element})" if dtype in HALVES else element


def stored(dtype: str, value: str) -> str:
    """A value in registers as an element of memory; 16-bit floats are rounded half to even."""
    if dtype == "bool":
        return f"(u8){value}"
    return f"narrowed<{HALVES[dtype]}>({value})" if dtype in HALVES else value


def rounded(dtype: str, value: str) -> str:
    """A value in registers, rounded to what the dtype holds."""
    return f"widened({stored(dtype, value)})" if dtype in HALVES else value


def number(value: Any, dtype: str) -> str:
    """A number as a constant in registers, exactly: floats by their bits, but for those that decimals give."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in ("float64", "float32", *HALVES):
        return _float(np.float64(value) if dtype == "float64" else np.float32(value))
    whole = int(value)
    if dtype == "int64":
        return f"(i64)0x{whole & (1 << 64) - 1:x}ULL" if whole == -(1 << 63) else f"{whole}LL"
    return f"(i32)0x{1 << 31:x}" if whole == -(1 << 31) else f"({MEMORY[dtype]}){whole}"


def _float(value: np.float64 | np.float32) -> str:
    wide = isinstance(value, np.float64)
    if not math.isfinite(value):
        return f"double_of(0x{value.view(np.uint64):x}ULL)" if wide else f"float_of(0x{value.view(np.uint32):x}u)"
    text = f"{value}" if wide else f"{value}f"
    return f"({text})" if text.startswith("-") else text
