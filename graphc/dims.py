"""Symbolic dimensions: integer polynomials over named sizes and floor divisions, in one canonical form.

A dimension (`Dim`) is an `int` when it is known and a `DimExpr` when it is not. Every `DimExpr` is interned, so two
dimensions that have the same canonical form are the same object, and equality costs one pointer comparison:

    >>> batch, height = symbol("batch"), symbol("height")
    >>> (2 * height + 5) // 2 is height + 2, batch * 16 // batch
    (True, 16)
    >>> print((height - 5) // 2 + 1)
    (height - 5)//2 + 1

The form is bounded, not complete: `2*(h//2)` and `h` are different forms that agree for even `h`. `compare` says
"unknown" for such a pair, and `require_equal` lets the caller go on under a `Guard`, which is checked when sizes
are known. Symbols are sizes, so they are >= 0, and whatever divides is assumed to be > 0.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple, NoReturn, TypeAlias, final
from weakref import WeakValueDictionary

import numpy as np

from graphc.errors import ShapeError

Atom: TypeAlias = "str | FloorDiv"
Monomial: TypeAlias = tuple[Atom, ...]  # sorted; h*h is ("h", "h"), the constant is ()
Terms: TypeAlias = tuple[tuple[Monomial, int], ...]  # no zero coefficient, the leading monomial first

MAX_LENGTH = 4000  # characters of a printed dimension, and
MAX_DEPTH = 50  # floor divisions inside each other: what keeps every operation on dimensions cheap

_CACHED = 4096  # results kept per operation


class FloorDiv(NamedTuple):
    """The atom `numerator // denominator`, reduced: see `_floor_div`. Equal atoms hold identical dimensions."""

    numerator: DimExpr | int
    denominator: DimExpr | int

    def __str__(self) -> str:
        return f"{_operand_text(self.numerator)}//{_operand_text(self.denominator)}"


@final
class DimExpr:
    """A dimension that is not known when the graph is built; immutable, interned, equal only to itself.

    Made by `symbol`, `parse_dim` and the operators `+ - * // %`, which collapse to `int` where the result is constant.
    """

    __slots__ = ("__weakref__", "_text", "depth", "symbols", "terms")

    terms: Terms
    symbols: frozenset[str]
    depth: int

    __array_ufunc__ = None  # so that np.int64(2) * dim comes to __rmul__

    def __init__(self, terms: Terms) -> None:
        atoms = {atom for monomial, _ in terms for atom in monomial}
        floors = [part for atom in atoms if isinstance(atom, FloorDiv) for part in atom]
        text = _text(_window_form(terms))
        depth = 1 + max(map(_depth, floors), default=-1)
        if len(text) > MAX_LENGTH or depth > MAX_DEPTH:
            raise ShapeError(
                f"the symbolic dimension {text[:60]}... has grown past {MAX_LENGTH} characters or {MAX_DEPTH} nested "
                "divisions",
                hint="declare the size where it is needed as a symbol of its own",
            )
        names = frozenset(atom for atom in atoms if isinstance(atom, str))
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "symbols", names.union(*map(symbols_of, floors)))
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "_text", text)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a dimension is immutable: cannot set {name!r} of {self}")

    def __reduce__(self) -> tuple[Callable[[str], Dim], tuple[str]]:
        return parse_dim, (self._text,)

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _add(self, dim)

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _multiply(self, dim)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return _multiply(self, -1)

    def __sub__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _add(self, -dim)

    def __rsub__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _add(_multiply(self, -1), dim)

    def __floordiv__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _floor_div(self, dim)

    def __rfloordiv__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else _floor_div(dim, self)

    def __mod__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else self - dim * _floor_div(self, dim)

    def __rmod__(self, other: Dim) -> Dim:
        dim = _operand(other)
        return NotImplemented if dim is None else dim - self * _floor_div(dim, self)

    def __index__(self) -> int:
        self._refuse("an integer")

    __int__ = __index__

    def __bool__(self) -> bool:
        self._refuse("a truth value")

    def _no_order(self, other: object) -> bool:
        self._refuse(f"an order against {other}")

    __lt__ = __le__ = __gt__ = __ge__ = _no_order

    def _no_fraction(self, other: object) -> Dim:
        raise ShapeError(f"a dimension can't be a fraction: {self} and {other}", hint="divide with //")

    __truediv__ = __rtruediv__ = _no_fraction

    def _refuse(self, wanted: str) -> NoReturn:
        raise ShapeError(
            f"the dimension {self} has no value while the graph is built: it can't give {wanted}",
            hint="keep it symbolic (a reshape takes symbols and -1), or declare the placeholder with integer sizes",
        )


Dim: TypeAlias = int | DimExpr

_table: WeakValueDictionary[Terms, DimExpr] = WeakValueDictionary()
_table_lock = threading.RLock()  # reentrant: the collector may run finalizers that build dimensions


def _operand(value: object) -> Dim | None:
    """`value` as a dimension for an operator, None if it isn't one."""
    if type(value) is int or type(value) is DimExpr:
        return value
    return int(value) if isinstance(value, int | np.integer) else None


def _intern(coefficients: Mapping[Monomial, int]) -> Dim:
    """The one dimension with these coefficients: an int when nothing symbolic is left."""
    terms = tuple(sorted([term for term in coefficients.items() if term[1]], key=_term_order))
    if not terms or not terms[0][0]:
        return terms[0][1] if terms else 0
    found = _table.get(terms)
    if found is None:
        with _table_lock:
            found = _table.setdefault(terms, DimExpr(terms))
    return found


def _terms(dim: Dim) -> Terms:
    if isinstance(dim, DimExpr):
        return dim.terms
    return (((), dim),) if dim else ()


def _constant(dim: Dim) -> int:
    """The constant term."""
    terms = _terms(dim)
    return terms[-1][1] if terms and not terms[-1][0] else 0


def _atom_order(atom: Atom) -> tuple[bool, str]:
    return isinstance(atom, FloorDiv), str(atom)


def _monomial_order(monomial: Monomial) -> tuple[int, list[tuple[bool, str]]]:
    """Graded lexicographic, the leading monomial first: an admissible order, which `_divide` relies on."""
    return -len(monomial), [_atom_order(atom) for atom in monomial]


def _term_order(term: tuple[Monomial, int]) -> tuple[int, list[tuple[bool, str]]]:
    return _monomial_order(term[0])


# ---- arithmetic


def _product_of_monomials(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted(a + b, key=_atom_order)) if a and b else a or b


def _quotient_of_monomials(a: Monomial, b: Monomial) -> Monomial | None:
    """a / b, None if b does not divide a."""
    left = list(a)
    for atom in b:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


@lru_cache(_CACHED)
def _add(a: Dim, b: Dim) -> Dim:
    total = dict(_terms(a))
    for monomial, coefficient in _terms(b):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _intern(total)


@lru_cache(_CACHED)
def _multiply(a: Dim, b: Dim) -> Dim:
    total: dict[Monomial, int] = {}
    for left, x in _terms(a):
        for right, y in _terms(b):
            monomial = _product_of_monomials(left, right)
            total[monomial] = total.get(monomial, 0) + x * y
    return _intern(total)


@lru_cache(_CACHED)
def _floor_div(numerator: Dim, denominator: Dim) -> Dim:
    """numerator // denominator in canonical form.

    The polynomial quotient leaves the floor, the rest loses what it shares with the denominator, a floor of a floor
    becomes one floor, and what then lies provably in [-denominator, denominator) is a constant.
    """
    if denominator == 0:
        raise ShapeError(f"division of the dimension {numerator} by zero")
    if _terms(denominator)[0][1] < 0:
        return _floor_div(-numerator, -denominator)
    quotient, rest = _divide(numerator, denominator)
    rest, denominator = _cancel(rest, denominator)
    if isinstance(rest, int) and isinstance(denominator, int):
        return quotient + rest // denominator
    inner = _only_floor(rest)
    if inner is not None:
        flat = inner.numerator + (rest - _intern({(inner,): 1})) * inner.denominator
        return quotient + _floor_div(flat, denominator * inner.denominator)
    if isinstance(denominator, DimExpr):
        for value in (0, -1):  # value <= rest / denominator < value + 1 ?
            above = rest - denominator * value
            if _at_least(above, 0) and _at_least(denominator - above, 1):
                return quotient + value
    return quotient + _intern({(FloorDiv(rest, denominator),): 1})


def _divide(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Quotient and normal form of `numerator` modulo `denominator`, whose leading coefficient is positive.

    Multivariate division by one polynomial over the integers (Cox, Little, O'Shea: Ideals, Varieties, and Algorithms,
    chapter 2, section 3), with coefficients reduced to [0, leading coefficient): the rest depends on the class of
    `numerator` alone.
    """
    (lead, lead_coefficient), *tail = _terms(denominator)
    pending, quotient, rest = dict(_terms(numerator)), {}, {}
    while pending:
        monomial = min(pending, key=_monomial_order)
        coefficient = pending.pop(monomial)
        factor = _quotient_of_monomials(monomial, lead)
        if factor is None:
            rest[monomial] = coefficient
            continue
        times, rest[monomial] = divmod(coefficient, lead_coefficient)
        quotient[factor] = times
        for other, x in tail if times else ():
            product = _product_of_monomials(factor, other)
            pending[product] = pending.get(product, 0) - times * x
    return _intern(quotient), _intern(rest)


def _cancel(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Both without their common monomial and number: floor((g*x + c) / (g*y)) is floor((x + c // g) / y)."""
    top, bottom = _terms(numerator), _terms(denominator)
    if not top:
        return 0, 1
    common: Monomial = top[0][0]
    for monomial, _ in (*top, *bottom):
        common = _common_factor(common, monomial)
    number = math.gcd(*(x for _, x in bottom), *(x for monomial, x in top if monomial))
    return _shrink(top, common, number), _shrink(bottom, common, number)


def _common_factor(a: Monomial, b: Monomial) -> Monomial:
    left, shared = list(b), []
    for atom in a:
        if atom in left:
            left.remove(atom)
            shared.append(atom)
    return tuple(shared)


def _shrink(terms: Terms, common: Monomial, number: int) -> Dim:
    return _intern({_quotient_of_monomials(monomial, common) or (): x // number for monomial, x in terms})


def _only_floor(dim: Dim) -> FloorDiv | None:
    """The floor of `floor + rest` when it is the only one with coefficient 1, None otherwise."""
    floors = [m[0] for m, x in _terms(dim) if x == 1 and len(m) == 1 and isinstance(m[0], FloorDiv)]
    found = floors[0] if len(floors) == 1 else None
    return found if isinstance(found, FloorDiv) else None


def ceil_div(a: Dim, b: Dim) -> Dim:
    """The least integer that is >= a / b, for b > 0."""
    return (a + b - 1) // b


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims; 1 for none: the number of elements of a shape."""
    total: Dim = math.prod(dims)  # type: ignore[arg-type]
    return total


# ---- text


def _depth(dim: Dim) -> int:
    return dim.depth if isinstance(dim, DimExpr) else 0


def _window_form(terms: Terms) -> Terms:
    """`terms` as they are printed: `(h + 1)//2 - 2` in the form that windows have, `(h - 5)//2 + 1`."""
    constant = terms[-1][1] if not terms[-1][0] else 0
    windows = [
        (index, atom)
        for index, (monomial, x) in enumerate(terms)
        if x == 1 and len(monomial) == 1 and isinstance(atom := monomial[0], FloorDiv)
        if isinstance(atom.denominator, int) and _constant(atom.numerator) > 0
    ]
    if constant >= 0 or len(windows) != 1:
        return terms
    index, atom = windows[0]
    shifted = FloorDiv(atom.numerator + atom.denominator * (constant - 1), atom.denominator)
    return (*terms[:index], ((shifted,), 1), *terms[index + 1 : -1], ((), 1))


def _text(terms: Terms) -> str:
    """Python's notation, with parentheses around every floor division but a term of its own."""
    parts: list[str] = []
    for monomial, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        alone = len(monomial) == 1 and abs(coefficient) == 1 and (sign == "+" or bool(parts))
        factors = [f"({a})" if isinstance(a, FloorDiv) and not alone else str(a) for a in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        parts.append(f" {sign} {'*'.join(factors)}")
    text = "".join(parts)
    return f"-{text[3:]}" if text.startswith(" -") else text[3:]


def _operand_text(dim: Dim) -> str:
    text = str(dim)
    return text if (isinstance(dim, int) and dim >= 0) or text.isidentifier() else f"({text})"


@lru_cache(_CACHED)
def symbol(name: str) -> DimExpr:
    """The dimension called `name`: a size >= 0 that is known when the graph runs.

    Raises:
        ShapeError: `name` is not an identifier.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ShapeError(
            f"{name!r} can't name a dimension", hint="a name has letters, digits and underscores, such as 'batch'"
        )
    found = _intern({(unicodedata.normalize("NFKC", name),): 1})  # what `ast` does with names in an expression
    assert isinstance(found, DimExpr)
    return found


_BINARY: dict[type[ast.AST], Callable[[Dim, Dim], Dim]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@lru_cache(_CACHED)
def parse_dim(text: str) -> Dim:
    """The dimension written as `text`: names, integers, `+ - * //`, unary minus and parentheses.

    Raises:
        ShapeError: `text` is no such expression.
    """
    try:
        todo: list[ast.AST] = [ast.parse(text.strip(), mode="eval").body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unreadable(text, "it is not an expression") from None
    values: list[Dim] = []
    while todo:
        match todo.pop():
            case ast.Name(name):
                values.append(symbol(name))
            case ast.Constant(value) if type(value) is int:
                values.append(value)
            case ast.UnaryOp(ast.USub() as sign, operand):
                todo += [sign, operand]
            case ast.USub():
                values.append(-values.pop())
            case ast.BinOp(left, operation, right) if type(operation) in _BINARY:
                todo += [operation, right, left]
            case ast.operator() as operation:
                right_value = values.pop()
                try:
                    values.append(_BINARY[type(operation)](values.pop(), right_value))
                except ZeroDivisionError:
                    raise _unreadable(text, "it divides by zero") from None
            case other:
                raise _unreadable(text, f"{ast.unparse(other)!r} is not allowed")
    return values[0]


def _unreadable(text: str, why: str) -> ShapeError:
    return ShapeError(
        f"{text!r} is not a dimension: {why}",
        hint="write a name such as 'batch', or an expression of names and integers with + - * //",
    )


def as_dim(value: object) -> Dim:
    """The dimension that a user wrote: an integer >= 0 (NumPy's too), the text of an expression, or a dimension.

    Raises:
        ShapeError: it is something else, or negative.
    """
    if type(value) is str:
        value = parse_dim(value)
    dim = None if isinstance(value, bool) else _operand(value)
    if dim is None:
        raise ShapeError(
            f"{value!r} ({type(value).__name__}) is not a dimension",
            hint="a dimension is an integer >= 0 or a string that names it, such as 'batch'",
        )
    if isinstance(dim, int) and dim < 0:
        raise ShapeError(f"a dimension can't be negative: {dim}")
    return dim


# ---- values and what can be proven


def symbols_of(dim: Dim) -> frozenset[str]:
    """The names in `dim`."""
    return dim.symbols if isinstance(dim, DimExpr) else frozenset()


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The value of `dim` where each symbol has the size that `bindings` gives it.

    Raises:
        ShapeError: a symbol has no size there, or a divisor is not positive.
    """
    if isinstance(dim, int):
        return dim
    try:
        return _value(dim, bindings)
    except KeyError:
        missing = ", ".join(sorted(dim.symbols - bindings.keys()))
        raise ShapeError(f"the dimension {dim} has no value: the size of {missing} is not known") from None


def _value(dim: Dim, bindings: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, factor in dim.terms:
        for atom in monomial:
            if isinstance(atom, str):
                factor *= bindings[atom]
                continue
            divisor = _value(atom.denominator, bindings)
            if divisor <= 0:
                raise ShapeError(f"the dimension {dim} divides by {atom.denominator} = {divisor}")
            factor *= _value(atom.numerator, bindings) // divisor
        total += factor
    return total


def substitute(dim: Dim, mapping: Mapping[str, Dim]) -> Dim:
    """`dim` with each symbol that `mapping` names replaced."""
    if isinstance(dim, int) or dim.symbols.isdisjoint(mapping):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = term * _substitute_atom(atom, mapping)
        total = total + term
    return total


def _substitute_atom(atom: Atom, mapping: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, FloorDiv):
        return substitute(atom.numerator, mapping) // substitute(atom.denominator, mapping)
    return mapping[atom] if atom in mapping else symbol(atom)


@lru_cache(_CACHED)
def lower_bound(dim: Dim) -> int | None:
    """A value that `dim` is never below, whatever sizes >= 0 the symbols have; None when none was found."""
    if isinstance(dim, int):
        return dim
    bounds = (_linear_bound(dim, relax_all=False), _linear_bound(dim, relax_all=True))
    return max((bound for bound in bounds if bound is not None), default=None)


def upper_bound(dim: Dim) -> int | None:
    """A value that `dim` is never above; None when none was found."""
    bound = lower_bound(-dim)
    return None if bound is None else -bound


def _linear_bound(dim: DimExpr, *, relax_all: bool) -> int | None:
    """The lower bound that follows from x/d - (d-1)/d <= floor(x/d) <= x/d.

    Floors that are subtracted are always relaxed so; those that are added keep their own bound unless `relax_all`.
    """
    pending = [(monomial, Fraction(x)) for monomial, x in dim.terms]
    total: dict[Monomial, Fraction] = {}
    while pending:
        monomial, x = pending.pop()
        atom = monomial[0] if len(monomial) == 1 else None
        if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int) and (x < 0 or relax_all):
            divisor = atom.denominator
            pending += [(inner, x * y / divisor) for inner, y in _terms(atom.numerator)]
            if x > 0:
                pending.append(((), x * (1 - divisor) / divisor))
        else:
            total[monomial] = total.get(monomial, Fraction(0)) + x
    bound = total.pop((), Fraction(0))
    for monomial, x in total.items():
        least = _monomial_bound(monomial)
        if x and (x < 0 or least is None):
            return None
        bound += x * (least or 0)
    return math.ceil(bound)


def _monomial_bound(monomial: Monomial) -> int | None:
    """A lower bound of the product: factors that are >= 0 multiply, a single one may be below."""
    bounds = [_atom_bound(atom) for atom in monomial]
    if len(bounds) == 1:
        return bounds[0]
    known = [bound for bound in bounds if bound is not None and bound >= 0]
    return math.prod(known) if len(known) == len(bounds) else None


def _atom_bound(atom: Atom) -> int | None:
    if isinstance(atom, str):
        return 0
    least = lower_bound(atom.numerator)
    if least is None or isinstance(atom.denominator, int):
        return None if least is None else least // atom.denominator
    return 0 if least >= 0 else least  # a positive divisor brings a quotient nearer to zero


def _at_least(dim: Dim, limit: int) -> bool:
    bound = lower_bound(dim)
    return bound is not None and bound >= limit


@lru_cache(_CACHED)
def compare(a: Dim, b: Dim) -> Literal["equal", "different", "unknown"]:
    """Whether two dimensions are the same size: proven so, proven otherwise, or not known before the feeds are.

    Expressions without a common symbol count as different: distinct symbols never broadcast.
    """
    if a == b:
        return "equal"
    difference = a - b
    if isinstance(difference, int) or _at_least(difference, 1) or _at_least(-difference, 1):
        return "different"
    step = math.gcd(*(x for monomial, x in difference.terms if monomial))
    if _constant(difference) % step:
        return "different"
    symbolic = isinstance(a, DimExpr) and isinstance(b, DimExpr)
    return "different" if symbolic and symbols_of(a).isdisjoint(symbols_of(b)) else "unknown"


# ---- guards: what could not be proven is checked when sizes are known


@dataclass(frozen=True, slots=True)
class Guard:
    """A relation between dimensions that the graph assumes, and why."""

    left: Dim
    relation: Literal["==", ">="]
    right: Dim
    reason: str

    def __str__(self) -> str:
        return f"{self.left} {self.relation} {self.right}"

    def holds(self, bindings: Mapping[str, int]) -> bool:
        """Whether the relation is true for these sizes; raises ShapeError when they don't suffice."""
        left, right = evaluate(self.left, bindings), evaluate(self.right, bindings)
        return left == right if self.relation == "==" else left >= right


class _Pending(threading.local):
    """The guards that this thread recorded since it last took them."""

    def __init__(self) -> None:
        self.guards: list[Guard] = []


_pending = _Pending()


def take_guards() -> tuple[Guard, ...]:
    """The guards recorded on this thread since the last call, without repetition; they are forgotten here.

    Whoever infers a type calls it afterwards, also when the inference raised: else the next node inherits them.
    """
    guards = _pending.guards
    if not guards:
        return ()
    _pending.guards = []
    return tuple(dict.fromkeys(guards))


def require_equal(a: Dim, b: Dim, reason: str) -> Dim:
    """The size that `a` and `b` share: the simpler of both, under a guard when their equality isn't proven.

    Args:
        reason: what needs them equal, such as "matmul: inner sizes"; begins the message of a failure.

    Raises:
        ShapeError: they are provably different.
    """
    if a is b:
        return a
    verdict = compare(a, b)
    if verdict == "equal":
        return a
    if verdict == "different":
        raise ShapeError(f"{reason}: {a} and {b} differ")
    _pending.guards.append(Guard(a, "==", b, reason))
    return min(a, b, key=_complexity)


def _complexity(dim: Dim) -> tuple[bool, int]:
    return isinstance(dim, DimExpr), len(str(dim))


def require_at_least(a: Dim, limit: Dim, reason: str) -> None:
    """Make sure that a >= limit: by proof, or under a guard.

    Raises:
        ShapeError: a is provably smaller.
    """
    difference = a - limit
    if _at_least(difference, 0):
        return
    if _at_least(-difference, 1):
        raise ShapeError(f"{reason}: {a} is less than {limit}")
    _pending.guards.append(Guard(a, ">=", limit, reason))


# ---- sizes from feeds


@dataclass(frozen=True, slots=True)
class Problem:
    """One way in which the shape of a feed doesn't fit: the feed, the axis (None: the rank) and a full sentence."""

    kind: Literal["rank", "size", "conflict", "unsolvable"]
    feed: str
    axis: int | None
    message: str


class _Axis(NamedTuple):
    feed: str
    axis: int
    declared: Dim
    size: int

    def problem(self, kind: Literal["size", "conflict", "unsolvable"], message: str) -> Problem:
        return Problem(kind, self.feed, self.axis, message)


def unify(
    feeds: Iterable[tuple[str, tuple[Dim, ...], tuple[int, ...]]],
) -> tuple[dict[str, int], list[Problem]]:
    """The size of each symbol in the declared shapes, from the shapes that were fed, and all that doesn't fit.

    Plain symbols bind first; then expressions that are linear in one symbol without a size are solved for it
    (`2*h + 1` fed with 9 gives h = 4); then everything is checked.

    Args:
        feeds: (name, declared shape, shape that was fed) of each feed.
    """
    problems: list[Problem] = []
    axes: list[_Axis] = []
    for feed, declared, got in feeds:
        if len(declared) == len(got):
            axes += [_Axis(feed, *rest) for rest in zip(range(len(got)), declared, got, strict=True)]
        else:
            message = f"feed {feed!r} has shape {shape_text(got)}, expected {shape_text(declared)}: the ranks differ"
            problems.append(Problem("rank", feed, None, message))
    bindings: dict[str, int] = {}
    binder: dict[str, _Axis] = {}
    waiting: list[_Axis] = []
    for axis in axes:
        if isinstance(axis.declared, DimExpr) and str(axis.declared) in axis.declared.symbols:
            problems += _bind(str(axis.declared), axis.size, axis, bindings, binder)
        else:
            waiting.append(axis)
    progress = True
    while progress:
        before, unsolved = len(waiting), []
        for axis in waiting:
            found = _resolve(axis, bindings, binder)
            if found is None:
                unsolved.append(axis)
            else:
                problems += found
        waiting, progress = unsolved, len(unsolved) < before
    for axis in waiting:
        missing = ", ".join(sorted(symbols_of(axis.declared) - bindings.keys()))
        message = f"{axis.declared} = {axis.size} in feed {axis.feed!r} (axis {axis.axis}) does not determine {missing}"
        problems.append(axis.problem("unsolvable", message))
    return bindings, problems


def _bind(
    name: str, value: int, axis: _Axis, bindings: dict[str, int], binder: dict[str, _Axis]
) -> list[Problem]:
    """Give `name` its size, or say which feed gave it another one."""
    first = binder.setdefault(name, axis)
    if bindings.setdefault(name, value) == value:
        return []
    message = (
        f"{name} = {bindings[name]} from feed {first.feed!r} (axis {first.axis}), "
        f"but {value} from feed {axis.feed!r} (axis {axis.axis})"
    )
    return [axis.problem("conflict", message)]


def _resolve(axis: _Axis, bindings: dict[str, int], binder: dict[str, _Axis]) -> list[Problem] | None:
    """Check an axis whose symbols have sizes, or solve it for the one that has none; None when neither is possible."""
    wanted = substitute(axis.declared, bindings)
    place = f"feed {axis.feed!r} has {axis.size} on axis {axis.axis}, expected"
    if isinstance(wanted, int):
        if wanted == axis.size:
            return []
        known = ", ".join(f"{name} = {bindings[name]}" for name in sorted(symbols_of(axis.declared)))
        return [axis.problem("size", f"{place} {axis.declared}{f' = {wanted} ({known})' if known else ''}")]
    (monomial, factor), *others = wanted.terms
    name = monomial[0]
    if len(monomial) != 1 or not isinstance(name, str) or any(other for other, _ in others):
        return None
    value, rest = divmod(axis.size - _constant(wanted), factor)
    if rest or value < 0:
        return [axis.problem("size", f"{place} {axis.declared}: no size of {name} gives that")]
    return _bind(name, value, axis, bindings, binder)


def shape_text(shape: Iterable[Dim]) -> str:
    """`[batch, 784]`."""
    return f"[{', '.join(map(str, shape))}]"
