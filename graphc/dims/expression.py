"""The dimension that is not known yet: its canonical form, arithmetic, text, values and bounds."""

from __future__ import annotations

import keyword
import math
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, NoReturn, TypeAlias, final
from weakref import WeakValueDictionary

import numpy as np

from graphc.errors import ShapeError

Atom: TypeAlias = "str | FloorDiv"  # a string is a symbol
Monomial: TypeAlias = tuple[Atom, ...]  # sorted; h*h is ("h", "h"), the constant is ()
Terms: TypeAlias = tuple[tuple[Monomial, int], ...]  # no zero coefficient, the leading monomial first

# What keeps every operation on dimensions cheap, and every recursion into them shallow:
MAX_LENGTH = 4000  # characters of a printed dimension
MAX_DEPTH = 50  # floor divisions inside each other
CACHED = 4096  # results kept per operation


class FloorDiv(NamedTuple):
    """The atom `numerator // denominator`, as `_floor_div` reduces it: equal atoms hold identical dimensions."""

    numerator: Dim
    denominator: Dim

    def __str__(self) -> str:
        return f"{_operand_text(self.numerator)}//{_operand_text(self.denominator)}"


@final
class DimExpr:
    """A dimension that is not known when the graph is built; immutable, interned, equal only to itself.

    Made by `symbol`, `parse_dim` and the operators `+ - * // %`, which give an `int` where the result is constant.
    """

    __slots__ = ("__weakref__", "depth", "symbols", "terms", "text")

    terms: Terms
    symbols: frozenset[str]
    depth: int
    text: str

    __array_ufunc__ = None  # so that np.int64(2) * dim comes to __rmul__

    def __init__(self, terms: Terms) -> None:
        atoms = {atom for monomial, _ in terms for atom in monomial}
        parts = [dim for atom in atoms if isinstance(atom, FloorDiv) for dim in atom]
        text = _text(_window_form(terms))
        depth = 1 + max((dim.depth for dim in parts if isinstance(dim, DimExpr)), default=-1)
        if len(text) > MAX_LENGTH or depth > MAX_DEPTH:
            raise ShapeError(
                f"the dimension {text[:60]}... has more than {MAX_LENGTH} characters or {MAX_DEPTH} nested divisions",
                hint="declare the size where it is needed as a symbol of its own",
            )
        symbols = frozenset(atom for atom in atoms if isinstance(atom, str)).union(*map(symbols_of, parts))
        for name, value in (("terms", terms), ("symbols", symbols), ("depth", depth), ("text", text)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a dimension is immutable: cannot set {name!r} of {self}")

    def __reduce__(self) -> tuple[Callable[[Terms], Dim], tuple[Terms]]:
        return _restore, (self.terms,)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _add(self, dim)

    __radd__ = __add__

    def __mul__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _multiply(self, dim)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return _multiply(self, -1)

    def __sub__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _add(self, -dim)

    def __rsub__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _add(_multiply(self, -1), dim)

    def __floordiv__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _floor_div(self, dim)

    def __rfloordiv__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else _floor_div(dim, self)

    def __mod__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else self - dim * _floor_div(self, dim)

    def __rmod__(self, other: Dim) -> Dim:
        dim = operand(other)
        return NotImplemented if dim is None else dim - self * _floor_div(dim, self)

    def __index__(self) -> int:
        raise _no_value(self, "an integer")

    __int__ = __index__

    def __bool__(self) -> bool:
        raise _no_value(self, "a truth value")

    def _no_order(self, other: object) -> bool:
        raise _no_value(self, f"an order against {other}")

    __lt__ = __le__ = __gt__ = __ge__ = _no_order

    def _no_fraction(self, other: object) -> Dim:
        raise ShapeError(f"a dimension can't be a fraction: {self} and {other}", hint="divide with //")

    __truediv__ = __rtruediv__ = _no_fraction


Dim: TypeAlias = int | DimExpr

_table: WeakValueDictionary[Terms, DimExpr] = WeakValueDictionary()
_table_lock = threading.RLock()  # reentrant: the collector may run finalizers that build dimensions


def _no_value(dim: DimExpr, wanted: str) -> ShapeError:
    return ShapeError(
        f"the dimension {dim} has no value while the graph is built: it can't give {wanted}",
        hint="keep it symbolic (a reshape takes symbols and -1), or declare the placeholder with integer sizes",
    )


def operand(value: object) -> Dim | None:
    """`value` as a dimension, None if it isn't one; NumPy's integers and bool count as integers."""
    if type(value) is int or type(value) is DimExpr:
        return value
    return int(value) if isinstance(value, int | np.integer) else None


def _intern(coefficients: Mapping[Monomial, int]) -> Dim:
    """The one dimension with these coefficients: an int when nothing symbolic is left."""
    terms = tuple(sorted([term for term in coefficients.items() if term[1]], key=_term_order))
    if not terms:
        return 0
    return _expression(terms) if terms[0][0] else terms[0][1]


def _expression(terms: Terms) -> DimExpr:
    found = _table.get(terms)
    if found is None:
        with _table_lock:
            found = _table.setdefault(terms, DimExpr(terms))
    return found


def _restore(terms: Terms) -> Dim:
    """What a pickle calls."""
    return _intern(dict(terms))


@lru_cache(CACHED)
def symbol(name: str) -> DimExpr:
    """The dimension called `name`: a size >= 0 that is known when the graph runs.

    Raises:
        ShapeError: `name` is not an identifier.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ShapeError(
            f"{name!r} can't name a dimension",
            hint="a name has letters, digits and underscores, such as 'batch'",
        )
    return _expression((((unicodedata.normalize("NFKC", name),), 1),))  # as Python does with names


def terms_of(dim: Dim) -> Terms:
    """The polynomial; of an int, its constant term."""
    if isinstance(dim, DimExpr):
        return dim.terms
    return (((), dim),) if dim else ()


def constant_of(dim: Dim) -> int:
    """The constant term."""
    terms = terms_of(dim)
    return terms[-1][1] if terms and not terms[-1][0] else 0


def _atom_order(atom: Atom) -> tuple[bool, str]:
    return isinstance(atom, FloorDiv), str(atom)


def _monomial_order(monomial: Monomial) -> tuple[int, list[tuple[bool, str]]]:
    """Graded lexicographic, the leading monomial first: an admissible order, which `_divide` relies on."""
    return -len(monomial), [_atom_order(atom) for atom in monomial]


def _term_order(term: tuple[Monomial, int]) -> tuple[int, list[tuple[bool, str]]]:
    return _monomial_order(term[0])


# ---- arithmetic


def _monomial_product(a: Monomial, b: Monomial) -> Monomial:
    return tuple(sorted(a + b, key=_atom_order)) if a and b else a or b


def _monomial_quotient(a: Monomial, b: Monomial) -> Monomial | None:
    """a / b, None if b does not divide a."""
    left = list(a)
    for atom in b:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


@lru_cache(CACHED)
def _add(a: Dim, b: Dim) -> Dim:
    total = dict(terms_of(a))
    for monomial, coefficient in terms_of(b):
        total[monomial] = total.get(monomial, 0) + coefficient
    return _intern(total)


@lru_cache(CACHED)
def _multiply(a: Dim, b: Dim) -> Dim:
    total: dict[Monomial, int] = {}
    for left, x in terms_of(a):
        for right, y in terms_of(b):
            monomial = _monomial_product(left, right)
            total[monomial] = total.get(monomial, 0) + x * y
    return _intern(total)


@lru_cache(CACHED)
def _floor_div(numerator: Dim, denominator: Dim) -> Dim:
    """numerator // denominator in canonical form.

    The polynomial quotient leaves the floor, the rest loses what it shares with the denominator, a floor of a
    floor (by integers) becomes one floor, and what then lies provably in [-denominator, denominator) is constant.

    Raises:
        ShapeError: the denominator is 0.
    """
    if denominator == 0:
        raise ShapeError(f"the dimension {numerator} is divided by zero")
    if terms_of(denominator)[0][1] < 0:
        return _floor_div(-numerator, -denominator)
    quotient, rest = _divide(numerator, denominator)
    rest, divisor = _cancel(rest, denominator)
    if rest == 0:
        return quotient
    if isinstance(rest, int) and isinstance(divisor, int):
        return quotient + rest // divisor
    lone = _lone_floors(terms_of(rest))
    if isinstance(divisor, int) and len(lone) == 1:
        ((top, bottom),) = lone
        return quotient + _floor_div(top + (rest - top // bottom) * bottom, divisor * bottom)
    if isinstance(divisor, DimExpr):
        for value in (0, -1):  # is value <= rest / divisor < value + 1 ?
            above = rest - divisor * value
            if at_least(above, 0) and at_least(divisor - above, 1):
                return quotient + value
    return quotient + _intern({(FloorDiv(rest, divisor),): 1})


def _divide(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Quotient and normal form of `numerator` modulo `denominator`, whose leading coefficient is positive.

    Multivariate division by one polynomial (Cox, Little, O'Shea: Ideals, Varieties, and Algorithms, chapter 2,
    section 3), over the integers, with coefficients reduced to [0, leading coefficient): numerators that differ
    by a multiple of the denominator leave the same rest.
    """
    (lead, lead_coefficient), *tail = terms_of(denominator)
    pending = dict(terms_of(numerator))
    quotient: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    while pending:
        monomial = min(pending, key=_monomial_order)
        coefficient = pending.pop(monomial)
        factor = _monomial_quotient(monomial, lead)
        if factor is None:
            rest[monomial] = coefficient
            continue
        times, rest[monomial] = divmod(coefficient, lead_coefficient)
        quotient[factor] = times
        for other, x in tail if times else ():
            lower = _monomial_product(factor, other)
            pending[lower] = pending.get(lower, 0) - times * x
    return _intern(quotient), _intern(rest)


def _cancel(numerator: Dim, denominator: Dim) -> tuple[Dim, Dim]:
    """Both without their common monomial and number: floor((g*x + c) / (g*y)) is floor((x + c // g) / y)."""
    top, bottom = terms_of(numerator), terms_of(denominator)
    common = _common_monomial([monomial for monomial, _ in (*top, *bottom)])
    number = math.gcd(*(x for _, x in bottom), *(x for monomial, x in top if monomial))
    return _shrink(top, common, number), _shrink(bottom, common, number)


def _common_monomial(monomials: list[Monomial]) -> Monomial:
    return tuple(
        atom for atom in dict.fromkeys(monomials[0]) for _ in range(min(monomial.count(atom) for monomial in monomials))
    )


def _shrink(terms: Terms, common: Monomial, number: int) -> Dim:
    return _intern({_monomial_quotient(monomial, common) or (): x // number for monomial, x in terms})


def _lone_floors(terms: Terms) -> list[FloorDiv]:
    """The floor divisions by an integer that are summands of their own, with coefficient 1."""
    lone = [monomial[0] for monomial, x in terms if x == 1 and len(monomial) == 1]
    return [atom for atom in lone if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int)]


def ceil_div(a: Dim, b: Dim) -> Dim:
    """The least integer that is >= a / b, for b > 0."""
    return (a + b - 1) // b


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dims, 1 for none: the number of elements of a shape."""
    return math.prod(dims)


# ---- text


def _window_form(terms: Terms) -> Terms:
    """`terms` as they are printed: `(h + 1)//2 - 2` in the form that windows have, `(h - 5)//2 + 1`."""
    constant = terms[-1][1] if not terms[-1][0] else 0
    windows = [atom for atom in _lone_floors(terms) if constant_of(atom.numerator) > 0]
    if constant >= 0 or len(windows) != 1:
        return terms
    numerator, denominator = windows[0]
    window: Monomial = (FloorDiv(numerator + denominator * (constant - 1), denominator),)
    return (*((window if monomial == (windows[0],) else monomial, x) for monomial, x in terms[:-1]), ((), 1))


def _text(terms: Terms) -> str:
    """Python's notation, with parentheses around a floor division unless it is a summand of its own."""
    parts: list[str] = []
    for monomial, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        bare = len(monomial) == 1 and abs(coefficient) == 1 and (sign == "+" or bool(parts))
        factors = [f"({atom})" if isinstance(atom, FloorDiv) and not bare else str(atom) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        parts.append(f" {sign} {'*'.join(factors)}")
    text = "".join(parts)
    return f"-{text[3:]}" if text.startswith(" -") else text[3:]


def _operand_text(dim: Dim) -> str:
    text = str(dim)
    return text if text.isidentifier() or text.isdecimal() else f"({text})"


def shape_text(shape: Iterable[Dim]) -> str:
    """`[batch, 784]`."""
    return f"[{', '.join(map(str, shape))}]"


# ---- values and bounds


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
        factors = [_substitute_atom(atom, mapping) for atom in monomial]
        total = total + coefficient * product(factors)
    return total


def _substitute_atom(atom: Atom, mapping: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, FloorDiv):
        return substitute(atom.numerator, mapping) // substitute(atom.denominator, mapping)
    return mapping[atom] if atom in mapping else symbol(atom)


@lru_cache(CACHED)
def lower_bound(dim: Dim) -> int | None:
    """A value that `dim` is never below, whatever sizes >= 0 the symbols have; None when none was found."""
    if isinstance(dim, int):
        return dim
    bounds = [_linear_bound(dim, relax_all=False), _linear_bound(dim, relax_all=True)]
    return max((bound for bound in bounds if bound is not None), default=None)


def upper_bound(dim: Dim) -> int | None:
    """A value that `dim` is never above; None when none was found."""
    bound = lower_bound(-dim)
    return None if bound is None else -bound


def at_least(dim: Dim, limit: int) -> bool:
    """Whether dim >= limit is proven."""
    bound = lower_bound(dim)
    return bound is not None and bound >= limit


def _linear_bound(dim: DimExpr, *, relax_all: bool) -> int | None:
    """The lower bound that follows from x/d - (d-1)/d <= floor(x/d) <= x/d.

    Floors that are subtracted are relaxed so; those that are added keep their own bound unless `relax_all`.
    """
    pending = [(monomial, Fraction(x)) for monomial, x in dim.terms]
    total: dict[Monomial, Fraction] = {}
    while pending:
        monomial, x = pending.pop()
        atom = monomial[0] if len(monomial) == 1 else None
        if isinstance(atom, FloorDiv) and isinstance(atom.denominator, int) and (x < 0 or relax_all):
            divisor = atom.denominator
            pending += [(inner, x * y / divisor) for inner, y in terms_of(atom.numerator)]
            if x > 0:
                pending.append(((), x * (1 - divisor) / divisor))
        else:
            total[monomial] = total.get(monomial, Fraction(0)) + x
    bound = Fraction(0)
    for monomial, x in total.items():
        least = _monomial_bound(monomial)
        if monomial and (x < 0 or (x > 0 and least is None)):
            return None
        bound += x * (least or 0)
    return math.ceil(bound)


def _monomial_bound(monomial: Monomial) -> int | None:
    """A lower bound of a product: of factors that are >= 0, or of a single one."""
    bounds = [_atom_bound(atom) for atom in monomial]
    if len(bounds) == 1:
        return bounds[0]
    known = [bound for bound in bounds if bound is not None and bound >= 0]
    return math.prod(known) if len(known) == len(bounds) else None


def _atom_bound(atom: Atom) -> int | None:
    if isinstance(atom, str):
        return 0
    least = lower_bound(atom.numerator)
    if least is None:
        return None
    if isinstance(atom.denominator, int):
        return least // atom.denominator
    return min(least, 0)  # a positive divisor brings a quotient nearer to zero
