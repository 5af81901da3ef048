"""Symbolic dimensions: the canonical form against evaluation, what is proven, guards, and sizes from feeds."""

import copy
import functools
import gc
import itertools
import operator
import pickle
import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graphc.dims import (
    DimExpr,
    Guard,
    as_dim,
    ceil_div,
    compare,
    evaluate,
    lower_bound,
    parse_dim,
    product,
    require_at_least,
    require_equal,
    substitute,
    symbol,
    symbols_of,
    take_guards,
    unify,
    upper_bound,
)
from graphc.errors import ShapeError

h, w, n = symbol("h"), symbol("w"), symbol("n")

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}
DIVISORS = [1, 2, 3, 4, 6, "h", "w", ("*", 2, "h"), ("+", "h", 1), ("+", ("*", 2, "w"), 1)]

# A tree is an int, the name of a symbol, or (operator, tree, tree). Divisors are positive where symbols are.
leaves = st.integers(-7, 7) | st.sampled_from(["h", "w", "n"])


def polynomials(parts):
    return st.tuples(st.sampled_from("+-*"), parts, parts)


def divisions(parts):
    return st.tuples(st.sampled_from(["//", "%"]), parts, st.sampled_from(DIVISORS))


trees = st.recursive(leaves, lambda parts: polynomials(parts) | divisions(parts), max_leaves=8)
polynomial_trees = st.recursive(st.integers(-3, 3) | st.sampled_from(["h", "w"]), polynomials, max_leaves=4)
sizes = st.fixed_dictionaries({name: st.integers(1, 40) for name in "hwn"})


def build(tree, leaf=lambda value: symbol(value) if isinstance(value, str) else value):
    """The value of a tree: a Dim, or whatever `leaf` makes of its leaves."""
    if not isinstance(tree, tuple):
        return leaf(tree)
    operation, left, right = tree
    return OPERATORS[operation](build(left, leaf), build(right, leaf))


@pytest.fixture(autouse=True)
def _no_guards_left():
    take_guards()
    yield
    assert take_guards() == ()


# ---- the canonical form


@given(trees, sizes)
@example(("//", ("-", "h", 5), 2), {"h": 2, "w": 1, "n": 1})
@example(("//", ("//", ("-", ("*", 3, "h"), "w"), 4), 6), {"h": 3, "w": 38, "n": 1})
def test_a_dimension_has_the_value_of_the_expression_it_was_built_from(tree, bindings):
    assert evaluate(build(tree), bindings) == build(tree, lambda leaf: bindings.get(leaf, leaf))


@given(trees)
@example(("//", 1, ("*", 2, "h")))
def test_text_parses_to_the_same_object(tree):
    dim = build(tree)
    assert parse_dim(str(dim)) is dim or parse_dim(str(dim)) == dim


@given(trees)
def test_copies_and_pickles_are_the_same_object(tree):
    dim = build(tree)
    for again in (pickle.loads(pickle.dumps(dim)), copy.copy(dim), copy.deepcopy(dim)):
        assert again is dim or (isinstance(dim, int) and again == dim)


@given(polynomial_trees, polynomial_trees)
@example(("*", ("+", "h", "w"), ("-", "h", "w")), ("-", ("*", "h", "h"), ("*", "w", "w")))
def test_polynomials_are_identical_exactly_when_they_agree_everywhere(left, right):
    a, b = build(left), build(right)
    # A polynomial of degree <= 4 in each of two variables is fixed by its values on a grid of 5 x 5 points.
    grid = [{"h": x, "w": y} for x, y in itertools.product(range(5), repeat=2)]
    agree = all(evaluate(a, point) == evaluate(b, point) for point in grid)
    assert (a is b or (isinstance(a, int) and a == b)) == agree


@given(trees, trees, trees, st.sampled_from(DIVISORS))
def test_laws_hold_by_identity(x, y, z, divisor):
    x, y, z, d = map(build, (x, y, z, divisor))
    laws = [
        (x + y, y + x),
        (x * y, y * x),
        ((x + y) + z, x + (y + z)),
        (x * (y + z), x * y + x * z),
        (x - y, -(y - x)),
        ((x * d + y) // d, x + y // d),
        ((x * d) % d, 0),
        (x // d * d + x % d, x),
    ]
    for left, right in laws:
        assert left == right


@given(polynomial_trees, st.integers(1, 9), st.integers(1, 9))
def test_a_floor_of_a_floor_is_one_floor(tree, a, b):
    dim = build(tree)
    assert dim // a // b == dim // (a * b)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("(2*h)//2", "h"),
        ("(2*h + 1)//2", "h"),
        ("(2*h + 5)//2", "h + 2"),
        ("h//2//3", "h//6"),
        ("((h - 5)//2 + 1)//2", "(h - 7)//4 + 1"),
        ("(2*h + 3)//6", "(h + 1)//3"),
        ("n*16//n", "16"),
        ("(n*16 + h)//n", "h//n + 16"),
        ("h*w//(2*w)", "h//2"),
        ("(h*w + h)//(w + 1)", "h"),
        ("h//(h + 1)", "0"),
        ("h//(-2)", "-h + h//2"),
        ("h - h", "0"),
        ("w*h*2 - h*w", "h*w"),
    ],
)
def test_simplification(written, canonical):
    assert str(parse_dim(written)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "2*h + 1",
        "(h - 5)//2 + 1",
        "2*(h//2)",
        "-(h//2)",
        "h - h//2",
        "-h + 3",
        "h*w + h + 1",
        "(h + w)//(n + 1)",
        "h//n",
    ],
)
def test_text_is_printed_as_it_is_written(text):
    assert str(parse_dim(text)) == text
    assert f"{parse_dim(text)}" == repr(parse_dim(text)) == text


def test_constants_collapse_to_int():
    assert type(h - h + 3) is int
    assert type(h * 0) is int
    assert type((h + 4) // 2 - h // 2) is int


def test_a_dimension_equals_itself_only():
    assert h == symbol("h")
    assert h != w
    assert h != 3
    assert {h: 1}[parse_dim("h + 0")] == 1
    assert (h, 3) == (symbol("h"), 3)


def test_numpy_integers_are_operands():
    assert np.int64(2) * h is 2 * h
    assert h + np.int32(1) is h + 1
    assert type((h + np.int64(1)).terms[-1][1]) is int


def test_the_table_is_weak():
    live = len([found for found in gc.get_objects() if isinstance(found, DimExpr)])
    for index in range(20_000):
        symbol(f"temporary_{index}")
    gc.collect()
    assert len([found for found in gc.get_objects() if isinstance(found, DimExpr)]) < live + 10_000


def test_threads_get_the_same_object():
    barrier, found = threading.Barrier(4), []

    def build_many():
        barrier.wait()
        found.append([symbol("thread") * k + k for k in range(1, 200)])

    threads = [threading.Thread(target=build_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a is b for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(
    "grow", [lambda dim: dim + dim // 2, lambda dim: (dim * w + 1) // 2 + 1, lambda dim: dim * (dim + 1)]
)
def test_growth_is_bounded(grow):
    with pytest.raises(ShapeError, match="has more than 4000 characters or 50 nested divisions"):
        functools.reduce(lambda dim, _: grow(dim), range(1000), h)


def test_a_long_chain_of_strided_windows_stays_flat():
    dim = h
    for _ in range(200):
        dim = (dim - 3) // 2 + 1
    assert dim.depth == 1
    assert evaluate(dim, {"h": 2**201 - 1}) == 1


# ---- what users write


@pytest.mark.parametrize(
    "text",
    [
        "h/2",
        "h**2",
        "1//0",
        "h//0",
        "batch size",
        "f(x)",
        "",
        "class",
        "1.5",
        "(((",
        "h if w else n",
        "True",
        "'h'",
        "h\0",
    ],
)
def test_other_text_is_an_error(text):
    with pytest.raises(ShapeError):
        parse_dim(text)


def test_as_dim_takes_what_users_write():
    assert as_dim(3) == 3
    assert type(as_dim(np.int64(3))) is int
    assert as_dim("batch") is symbol("batch")
    assert as_dim(h) is h
    assert as_dim(" 2*h+1 ") is 2 * h + 1
    assert as_dim("2*8") == 16


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1, "can't be negative: -1"),
        ("2 - 5", "can't be negative: -3"),
        (2.0, r"2.0 \(float\) is not a dimension"),
        (True, r"True \(bool\) is not a dimension"),
        (None, r"None \(NoneType\) is not a dimension"),
        ("2nd", "'2nd' is not a dimension: it is not an expression"),
    ],
)
def test_as_dim_says_what_is_wrong(value, message):
    with pytest.raises(ShapeError, match=message):
        as_dim(value)


@pytest.mark.parametrize("name", ["", "2nd", "a b", "for", "a-b"])
def test_symbols_are_identifiers(name):
    with pytest.raises(ShapeError, match="can't name a dimension"):
        symbol(name)


@pytest.mark.parametrize(
    "use",
    [
        bool,
        int,
        range,
        operator.index,
        float,
        np.zeros,
        lambda dim: dim < 3,
        lambda dim: dim <= 3,
        lambda dim: max(3, dim),
    ],
)
def test_a_dimension_has_no_value_while_the_graph_is_built(use):
    with pytest.raises(ShapeError, match="the dimension 2\\*h has no value") as caught:
        use(2 * h)
    assert "hint: keep it symbolic" in str(caught.value)


def test_true_division_names_the_remedy():
    for divide in (lambda: h / 2, lambda: 2 / h):
        with pytest.raises(ShapeError, match="divide with //"):
            divide()


@pytest.mark.parametrize("operation", OPERATORS.values())
def test_operands_are_dimensions(operation):
    with pytest.raises(TypeError):
        operation(h, 1.5)
    with pytest.raises(TypeError):
        operation(None, h)


def test_dimensions_are_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        h.terms = ()


# ---- values


def test_evaluate_names_what_is_missing():
    assert evaluate(7, {}) == 7
    with pytest.raises(ShapeError, match=r"h\*w has no value: the size of w is not known"):
        evaluate(h * w, {"h": 2})


def test_evaluate_rejects_divisors_that_are_not_positive():
    with pytest.raises(ShapeError, match="divides by w = 0"):
        evaluate(h // w, {"h": 2, "w": 0})


@given(trees, trees, sizes)
def test_substitution_is_evaluation_in_two_steps(tree, inner, bindings):
    dim, value = build(tree), build(inner)
    got = evaluate(value, bindings)
    if got > 0:  # a divisor may be this symbol
        assert evaluate(substitute(dim, {"h": got}), bindings) == evaluate(dim, {**bindings, "h": got})
        assert substitute(dim, {}) is dim


def test_substitution_takes_dimensions():
    assert substitute((h - 5) // 2 + w, {"h": 2 * n + 5}) is n + w


def test_symbols_of():
    assert symbols_of((h + 1) // (w * 2) + n * n) == {"h", "w", "n"}
    assert symbols_of(3) == frozenset()


@given(st.integers(0, 50), st.integers(1, 9))
def test_ceil_div(a, b):
    assert ceil_div(a, b) == evaluate(ceil_div(h, b), {"h": a}) == -(-a // b)


def test_product():
    assert product(()) == 1
    assert product((2, 3)) == 6
    assert product((h, 3, w)) is 3 * h * w


# ---- what is proven


@given(trees, sizes)
def test_bounds_hold(tree, bindings):
    dim = build(tree)
    value = evaluate(dim, bindings)
    low, high = lower_bound(dim), upper_bound(dim)
    assert low is None or low <= value
    assert high is None or value <= high


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("h", 0, None),
        ("2*h + 3", 3, None),
        ("3 - h", None, 3),
        ("h*w + 1", 1, None),
        ("h - h//2", 0, None),
        ("h - 2*(h//2)", 0, 1),
        ("(h - 5)//2 + 1", -2, None),
        ("h//4 + w//4", 0, None),
        ("h//(w + 1)", 0, None),
        ("h - w", None, None),
    ],
)
def test_bounds(text, low, high):
    assert lower_bound(parse_dim(text)) == low
    assert upper_bound(parse_dim(text)) == high


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ("h", "h", "equal"),
        ("3", "3", "equal"),
        ("3", "4", "different"),
        ("h", "h + 1", "different"),
        ("h + 1", "0", "different"),
        ("2*h", "3", "different"),
        ("h", "w", "different"),
        ("h*w", "n + 1", "different"),
        ("h - 2*(h//2)", "2", "different"),
        ("h", "3", "unknown"),
        ("2*(h//2)", "h", "unknown"),
        ("h*w", "h", "unknown"),
        ("2*h", "4", "unknown"),
    ],
)
def test_compare(a, b, verdict):
    assert compare(parse_dim(a), parse_dim(b)) == compare(parse_dim(b), parse_dim(a)) == verdict


@given(trees, trees, sizes)
def test_compare_is_right_about_expressions_that_share_symbols(left, right, bindings):
    a, b = build(left), build(right)
    same = evaluate(a, bindings) == evaluate(b, bindings)
    disjoint = isinstance(a, DimExpr) and isinstance(b, DimExpr) and symbols_of(a).isdisjoint(symbols_of(b))
    assert disjoint or compare(a, b) in ({"equal", "unknown"} if same else {"different", "unknown"})


# ---- guards


def test_equal_sizes_need_no_guard():
    assert require_equal(h + 1, 1 + h, "add") is h + 1
    assert require_equal(3, 3, "add") == 3
    assert take_guards() is take_guards()


def test_sizes_that_differ_are_an_error_without_a_guard():
    with pytest.raises(ShapeError, match="matmul: inner sizes: h and w differ"):
        require_equal(h, w, "matmul: inner sizes")
    assert take_guards() == ()


def test_what_is_not_proven_becomes_a_guard_and_the_simpler_size():
    assert require_equal(2 * (h // 2), h, "add") is h
    assert require_equal(w, 3, "conv") == 3
    assert take_guards() == (Guard(2 * (h // 2), "==", h, "add"), Guard(w, "==", 3, "conv"))
    assert take_guards() == ()


def test_a_guard_is_recorded_once():
    for _ in range(3):
        require_equal(h, 3, "add")
    assert len(take_guards()) == 1


def test_guards_are_checked_with_sizes():
    guard = Guard(2 * (h // 2), "==", h, "add")
    assert str(guard) == "2*(h//2) == h"
    assert guard.holds({"h": 4})
    assert not guard.holds({"h": 5})
    assert Guard(h, ">=", 3, "slice").holds({"h": 4})
    assert not Guard(h, ">=", 3, "slice").holds({"h": 2})


def test_require_at_least():
    require_at_least(h + 3, 3, "window")
    require_at_least(4, 3, "window")
    assert take_guards() == ()
    require_at_least(h, 3, "window")
    require_at_least(h, w, "window")
    assert take_guards() == (Guard(h, ">=", 3, "window"), Guard(h, ">=", w, "window"))
    with pytest.raises(ShapeError, match="window: 2 is less than 3"):
        require_at_least(2, 3, "window")
    with pytest.raises(ShapeError, match="window: -h is less than 1"):
        require_at_least(-h, 1, "window")


def test_guards_belong_to_their_thread():
    require_equal(h, 3, "here")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(take_guards()))
    thread.start()
    thread.join()
    assert seen == [()]
    assert [guard.reason for guard in take_guards()] == ["here"]


# ---- sizes from feeds


def test_unify_binds_solves_and_checks():
    feeds = [
        ("x", (2 * h + 1, w), (9, 5)),
        ("y", (h * w, n - h), (20, 3)),
        ("z", (3, (h + w) // 2), (3, 4)),
    ]
    assert unify(feeds) == ({"h": 4, "w": 5, "n": 7}, [])


def test_plain_symbols_bind_before_expressions():
    sizes_found, problems = unify([("x", (2 * h,), (7,)), ("y", (h,), (3,))])
    assert sizes_found == {"h": 3}
    assert [problem.message for problem in problems] == ["feed 'x' has 7 on axis 0, expected 2*h = 6 (h = 3)"]


def test_unify_returns_every_problem():
    _, problems = unify(
        [
            ("x", (symbol("batch"), 3), (64, 4)),
            ("y", (symbol("batch"),), (32,)),
            ("z", (h, w), (1, 2, 3)),
            ("u", (2 * n,), (5,)),
            ("v", (h // 2,), (5,)),
            ("t", (n + 9,), (5,)),
        ]
    )
    assert [(problem.kind, problem.feed, problem.axis) for problem in problems] == [
        ("rank", "z", None),
        ("conflict", "y", 0),
        ("size", "x", 1),
        ("size", "u", 0),
        ("size", "t", 0),
        ("unsolvable", "v", 0),
    ]
    assert [problem.message for problem in problems] == [
        "feed 'z' has shape [1, 2, 3] of rank 3, expected [h, w] of rank 2",
        "batch = 64 from feed 'x' (axis 0), but 32 from feed 'y' (axis 0)",
        "feed 'x' has 4 on axis 1, expected 3",
        "feed 'u' has 5 on axis 0, expected 2*n, which no size of n gives",
        "feed 't' has 5 on axis 0, expected n + 9, which no size of n gives",
        "h//2 = 5 from feed 'v' (axis 0) leaves h open",
    ]


@given(st.lists(trees, max_size=4), sizes)
def test_unify_accepts_shapes_that_were_made_from_sizes(extra, bindings):
    dims = (*map(build, extra), h, w, n)
    assert unify([("x", dims, tuple(evaluate(dim, bindings) for dim in dims))]) == (bindings, [])
