"""Dimensions that a user wrote: text, integers, or dimensions."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from functools import lru_cache

from graphc.dims.expression import CACHED, Dim, operand, symbol
from graphc.errors import ShapeError

_OPERATORS: dict[type[ast.operator], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@lru_cache(CACHED)
def parse_dim(text: str) -> Dim:
    """The dimension written as `text`: names, integers, `+ - * //`, unary minus and parentheses.

    Raises:
        ShapeError: `text` is no such expression.
    """
    source = text.strip()
    try:
        todo: list[ast.AST] = [ast.parse(source, mode="eval").body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unreadable(text, "it is not an expression") from None
    values: list[Dim] = []
    while todo:
        match todo.pop():
            case ast.Name(name):
                values.append(symbol(name))
            case ast.Constant(value) if type(value) is int:
                values.append(value)
            case ast.UnaryOp(ast.USub() as sign, argument):
                todo += [sign, argument]
            case ast.USub():
                values.append(-values.pop())
            case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
                todo += [operation, right, left]
            case ast.operator() as operation:
                right_value, left_value = values.pop(), values.pop()
                values.append(_apply(operation, left_value, right_value, text))
            case other:
                raise _unreadable(text, f"{ast.get_source_segment(source, other)!r} is not allowed")
    return values[0]


def _apply(operation: ast.operator, left: Dim, right: Dim, text: str) -> Dim:
    try:
        return _OPERATORS[type(operation)](left, right)
    except ZeroDivisionError:
        raise _unreadable(text, "it divides by zero") from None


def _unreadable(text: str, why: str) -> ShapeError:
    return ShapeError(
        f"{text!r} is not a dimension: {why}",
        hint="write a name such as 'batch', or an expression of names and integers with + - * //",
    )


def as_dim(value: object) -> Dim:
    """The dimension that a user wrote: an integer >= 0 (NumPy's too), a text, or a dimension.

    Raises:
        ShapeError: it is something else, or negative.
    """
    if type(value) is str:
        value = parse_dim(value)
    dim = None if isinstance(value, bool) else operand(value)
    if dim is None:
        raise ShapeError(
            f"{value!r} ({type(value).__name__}) is not a dimension",
            hint="a dimension is an integer >= 0 or a string that names it, such as 'batch'",
        )
    if isinstance(dim, int) and dim < 0:
        raise ShapeError(
            f"a dimension can't be negative: {dim}",
            hint="give a string, such as 'batch', for a size that is not known yet",
        )
    return dim
