"""How each pointwise op reads in CUDA C, for every dtype.

In registers a value has the type that `scalars.REGISTER` gives; 16-bit floats are computed in float32. Nothing here is
undefined, whatever the operands: integers wrap, an integer divided by 0 gives 0, and a float beyond the integers
becomes the lowest one, as on the CPU and in NumPy on x86.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from graphc.ir import Node
from graphc.op import Op
from graphc.operands import cast_op, splat_value
from graphc.ops import control
from graphc.ops import math as ops
from graphc.runtime.cuda.scalars import HALVES, REGISTER, rounded

Print = Callable[[Node, Sequence[str]], str]  # an expression of a node, for those of its operands

FLOATS = ("float64", "float32", *HALVES)
UNSIGNED = {"int8": "u32", "int16": "u32", "int32": "u32", "int64": "u64", "uint8": "u32"}  # in which integers wrap


def expression(node: Node, args: Sequence[str]) -> str:
    """A pointwise op as an expression.

    Args:
        args: its operands: names, or expressions in parentheses.
    """
    return TABLE[node.op](node, args)


def _kind(node: Node) -> str:
    dtype = node.inputs[0].dtype
    return "float" if dtype in FLOATS else "bool" if dtype == "bool" else "int"


def _by_kind(floats: str, integers: str | None = None, bools: str | None = None) -> Print:
    """An op by templates for kinds of dtypes; `{t}` is the type of the operands, `{f}` marks float32's functions."""
    templates = {"float": floats, "int": integers or floats, "bool": bools or integers or floats}

    def make(node: Node, args: Sequence[str]) -> str:
        register = REGISTER[node.inputs[0].dtype]
        suffix = "" if register == "double" else "f"
        return templates[_kind(node)].format(*args, t=register, f=suffix)

    return make


def _wrapping(floats: str, operator: str, bools: str) -> Print:
    """Arithmetic, which of integers is that of unsigned ones: it wraps."""

    def make(node: Node, args: Sequence[str]) -> str:
        dtype = node.inputs[0].dtype
        if dtype not in UNSIGNED:
            return (bools if dtype == "bool" else floats).format(*args)
        unsigned = UNSIGNED[dtype]
        return f"({REGISTER[dtype]})({f' {operator} '.join(f'({unsigned}){arg}' for arg in args)})"

    return make


def _negative(node: Node, args: Sequence[str]) -> str:
    dtype = node.inputs[0].dtype
    return f"-{args[0]}" if dtype in FLOATS else f"({REGISTER[dtype]})(0 - ({UNSIGNED[dtype]}){args[0]})"


def _abs(node: Node, args: Sequence[str]) -> str:
    (x,) = args
    if _kind(node) == "int":
        return f"({x} < 0 ? {_negative(node, args)} : {x})"
    return f"fabs({x})" if _kind(node) == "float" else x


def _power(node: Node, args: Sequence[str]) -> str:
    if _kind(node) == "int":
        return f"integer_power({args[0]}, {args[1]})"
    suffix = "" if node.dtype == "float64" else "f"
    return f"exp2{suffix}({args[1]})" if is_exp2(node) else f"pow{suffix}({args[0]}, {args[1]})"


def is_exp2(node: Node) -> bool:
    """Whether a node is a power of the number 2."""
    return node.op is ops.power_op and bool(splat_value(node.inputs[0]) == 2)


def _cast(node: Node, args: Sequence[str]) -> str:
    source, target = node.inputs[0].dtype, node.dtype
    (x,) = args
    if source == target:
        return x
    if target == "bool":
        return f"({x} != 0)"
    if target not in FLOATS and source in FLOATS:
        return f"long_of({x})" if target == "int64" else f"({REGISTER[target]})integer_of({x})"
    if target == "float16" and source == "float64":
        return f"widened(f16{{half_bits({x})}})"  # rounded once
    return rounded(target, f"({REGISTER[target]}){x}")


TABLE: Mapping[Op, Print] = MappingProxyType(
    {
        cast_op: _cast,
        control.identity: _by_kind("{0}"),
        control.stop_gradient: _by_kind("{0}"),
        ops.add: _wrapping("{0} + {1}", "+", "({0} | {1})"),
        ops.subtract: _wrapping("{0} - {1}", "-", "({0} ^ {1})"),
        ops.multiply: _wrapping("{0} * {1}", "*", "({0} & {1})"),
        ops.divide: _by_kind("{0} / {1}"),
        ops.negative: _negative,
        ops.floor_divide: _by_kind("float_quotient({0}, {1})", "quotient({0}, {1})"),
        ops.remainder: _by_kind("float_remainder({0}, {1})", "remainder_of({0}, {1})"),
        ops.power_op: _power,
        ops.sqrt: _by_kind("sqrt{f}({0})"),
        ops.exp: _by_kind("exp{f}({0})"),
        ops.expm1: _by_kind("expm1{f}({0})"),
        ops.log: _by_kind("log{f}({0})"),
        ops.log1p: _by_kind("log1p{f}({0})"),
        ops.log2: _by_kind("log2{f}({0})"),
        ops.log10: _by_kind("({t})log10((double){0})"),  # of float32 in double, so that powers of 10 are exact
        ops.sin: _by_kind("sin{f}({0})"),
        ops.cos: _by_kind("cos{f}({0})"),
        ops.tanh: _by_kind("tanh{f}({0})"),
        ops.erf: _by_kind("erf{f}({0})"),
        ops.abs: _abs,
        ops.sign: _by_kind("sign({0})"),
        ops.maximum: _by_kind("maximum({0}, {1})", bools="({0} | {1})"),
        ops.minimum: _by_kind("minimum({0}, {1})", bools="({0} & {1})"),
        ops.clip_op: _by_kind("minimum(maximum({0}, {1}), {2})"),
        ops.floor_op: _by_kind("floor{f}({0})"),
        ops.ceil_op: _by_kind("ceil{f}({0})"),
        ops.round_op: _by_kind("rint{f}({0})"),
        ops.equal: _by_kind("{0} == {1}"),
        ops.not_equal: _by_kind("{0} != {1}"),
        ops.less: _by_kind("{0} < {1}"),
        ops.less_equal: _by_kind("{0} <= {1}"),
        ops.greater: _by_kind("{0} > {1}"),
        ops.greater_equal: _by_kind("{0} >= {1}"),
        ops.logical_and: _by_kind("({0} & {1})"),
        ops.logical_or: _by_kind("({0} | {1})"),
        ops.logical_xor: _by_kind("({0} ^ {1})"),
        ops.logical_not: _by_kind("!{0}"),
        ops.where: lambda node, args: f"{args[0]} ? {args[1]} : {args[2]}",
    }
)
