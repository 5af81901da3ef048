"""Symbolic dimensions: integer polynomials over named sizes and floor divisions, in one canonical form.

A dimension (`Dim`) is an `int` when it is known and a `DimExpr` when it is not. Every `DimExpr` is interned, so
two dimensions that have the same canonical form are the same object, and equality costs a pointer comparison:

    >>> from graphc.dims import symbol
    >>> batch, height = symbol("batch"), symbol("height")
    >>> (2 * height + 5) // 2 is height + 2, batch * 16 // batch
    (True, 16)
    >>> print((height - 5) // 2 + 1)
    (height - 5)//2 + 1

The form is bounded, not complete: `2*(h//2)` and `h` are different forms that agree for even `h`. `compare` says
"unknown" for such a pair, and `require_equal` lets the caller go on under a `Guard`, which is checked when sizes
are known. Symbols are sizes, so they are >= 0, and whatever divides is assumed to be > 0.
"""

from graphc.dims.expression import (
    Dim,
    DimExpr,
    ceil_div,
    evaluate,
    lower_bound,
    product,
    shape_text,
    substitute,
    symbol,
    symbols_of,
    upper_bound,
)
from graphc.dims.guards import Guard, compare, naming_hint, require_at_least, require_equal, take_guards
from graphc.dims.parse import as_dim, parse_dim
from graphc.dims.unify import Problem, unify

__all__ = [
    "Dim",
    "DimExpr",
    "Guard",
    "Problem",
    "as_dim",
    "ceil_div",
    "compare",
    "evaluate",
    "lower_bound",
    "naming_hint",
    "parse_dim",
    "product",
    "require_at_least",
    "require_equal",
    "shape_text",
    "substitute",
    "symbol",
    "symbols_of",
    "take_guards",
    "unify",
    "upper_bound",
]
