"""Rewrite rules, and the engine that applies them until none fits.

A rule is a pattern *program*: a function of tensors that returns what to look for and what to put in its place.

    @rule(fp="exact")
    def mul_one(x): return x * 1, x

Positional parameters match any tensor (annotated with `Number`: a constant that is one number everywhere),
keyword-only parameters match an attribute, a Python number matches a constant that holds it everywhere, and operands
of commutative ops match in both orders. What a pattern can't say is a function of the node (`@rule(fp=..., on=op)`).
Every rule states its floating-point class, and every rule is tested by existing (`tests/test_rules.py`).
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import permutations, product
from types import ModuleType
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import numpy as np

from graphc.attrs import Attrs, freeze
from graphc.errors import ArgumentError, GraphcError, InternalError
from graphc.evaluate import compute
from graphc.ir import Node, Program, rebuild
from graphc.occurrences import derived_from
from graphc.op import Op
from graphc.operands import broadcast_op, constant, constant_op, expand, splat, splat_value
from graphc.operators import Operators
from graphc.types import is_float

# What a rule may change. From finite numbers, only "finite" may make nan or infinities that weren't there.
# exact: nothing; the same bits for every input (whatever a nan's payload).
# reassoc: the rounding. Equal over the reals, and nan and infinities stay. What the left side loses on the way for want
#   of range alone ((x * 1e30) * 1e-30) may be right.
# stabilise: as reassoc, and where the left side is nan or infinite the right side may be the number that is meant.
# finite: wrong where a value is nan, infinite or outside the domain.
FpClass: TypeAlias = Literal["exact", "reassoc", "stabilise", "finite"]
FP_CLASSES: tuple[FpClass, ...] = ("exact", "reassoc", "stabilise", "finite")

MAX_STEPS = 1000  # rewrites of one node, with all that they lead to

Number = Annotated[Any, "a constant that is one number everywhere"]  # for parameters of rules
CONSTANTS = frozenset({constant_op, broadcast_op})  # the ops that make such constants

# Makes a free tensor of a shape for a rule's samples: `leaf(3, 5)`, `leaf(3, dtype="bool")`.
LeafMaker: TypeAlias = Callable[..., Node]
Samples: TypeAlias = Callable[[LeafMaker], Iterable[Node]]
Ops: TypeAlias = Op | Set[Op] | None  # what an input may be made by; None: anything


def number_of(node: Node) -> float | None:
    """The number that all elements of a constant have, or None."""
    while node.op is broadcast_op:
        node = node.inputs[0]
    return node.attrs["value"].number if node.op is constant_op else None


def holds(node: Node, number: float, signed: bool = True) -> bool:
    """Whether `node` is a constant that is exactly `number` everywhere (0.1 is no float32).

    Args:
        signed: of floats, 0.0 and -0.0 are different numbers.
    """
    value = number_of(node)
    if value is None or value != number:
        return False
    return not signed or value != 0 or not is_float(node.dtype) or math.copysign(1, value) == math.copysign(1, number)


# --------------------------------------------------------------------------------------------- patterns


class Pattern(Operators):
    """What stands for a tensor while a rule is declared: ops called on it build the pattern."""

    __slots__ = ()

    def __graphc_op__(self, op: Op, args: Sequence[Any], attrs: Mapping[str, Any]) -> Call:
        return Call(op, tuple(args), op.frozen_attrs(attrs))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ArgumentError(
            f"a pattern has no {name!r}: it stands for tensors of every type",
            hint="write it with ops and operators, or give the rule on=op",
        )


class Variable(Pattern):
    """Matches any tensor, or any `Number`; the same one wherever the name occurs."""

    __slots__ = ("is_number", "name")

    def __init__(self, name: str, is_number: bool = False) -> None:
        self.name, self.is_number = name, is_number


class Call(Pattern):
    """Matches an application of `op`."""

    __slots__ = ("attrs", "inputs", "op")

    def __init__(self, op: Op, inputs: tuple[Any, ...], attrs: Attrs) -> None:
        self.op, self.inputs, self.attrs = op, inputs, attrs


@dataclass(frozen=True)
class Attribute:
    """Matches any value of an attribute; the same one wherever the name occurs."""

    name: str


def instantiate(pattern: Any, found: Mapping[str, Any]) -> Any:
    """`pattern` with what its names stand for put in; numbers stay numbers, but not True and False as operands."""
    if isinstance(pattern, Variable):
        return found[pattern.name]
    if not isinstance(pattern, Call):
        return pattern
    attrs = {n: found[v.name] if isinstance(v, Attribute) else v for n, v in pattern.attrs.items()}
    operands = [constant(i) if isinstance(i, bool) else instantiate(i, found) for i in pattern.inputs]
    return computed(pattern.op(*operands, **attrs))


def computed(node: Node) -> Node:
    """A pointwise op of numbers as the number that it is, whatever its size; any other node itself.

    What rules make of constants is computed at once, as the next rule looks for a constant again.
    """
    numbers = [splat_value(i) for i in node.inputs]
    if node.op.kind != "pointwise" or any(number is None for number in numbers):
        return node
    with np.errstate(all="ignore"):
        value = compute(node, [np.asarray(number) for number in numbers], node.attrs, {})
    number: Node = expand(constant(value), node.shape)
    return number


def orders(pattern: Any) -> Iterator[Any]:
    """`pattern` with the operands of its commutative ops in every order."""
    if not isinstance(pattern, Call):
        yield pattern
        return
    for inputs in permutations(pattern.inputs) if pattern.op.commutative else [pattern.inputs]:
        for chosen in product(*map(orders, inputs)):
            yield Call(pattern.op, chosen, pattern.attrs)


Matcher: TypeAlias = Callable[[Node], Iterator[tuple[Any, ...]]]


def matcher(pattern: Call, names: Sequence[str], signed: bool) -> Matcher:
    """Every way in which `pattern` fits a node, as what `names` stand for.

    It is asked millions of times, so it is made as Python code: for each order of operands one condition, which tests
    the ops first and binds names on the way.

    Args:
        signed: 0.0 and -0.0 are different constants.
    """
    scope: dict[str, Any] = {"_holds": holds, "_number": number_of, "_same": _same}
    conditions = dict.fromkeys(
        " and ".join(_tests(each, "_node", set(), scope, signed)) for each in orders(pattern)
    )
    found = f"({''.join(f'{name}, ' for name in names)})"
    lines = [f"    if {condition}:\n        yield {found}" for condition in conditions]
    exec("\n".join(["def match(_node):", *lines]), scope)
    match: Matcher = scope["match"]
    return match


def _tests(pattern: Call, place: str, bound: set[str], scope: dict[str, Any], signed: bool) -> Iterator[str]:
    """What must hold of the node that the variable `place` stands for, as expressions."""

    def value(of: Any) -> str:
        name = f"_{len(scope)}"
        scope[name] = of
        return name

    inner: list[tuple[Call, str]] = []
    yield f"len({place}.inputs) == {len(pattern.inputs)}"
    for k, each in enumerate(pattern.inputs):
        if isinstance(each, Call):
            inner.append((each, value(None)))
            yield f"({inner[-1][1]} := {place}.inputs[{k}]).op is {value(each.op)}"
        elif not isinstance(each, Variable):
            yield f"_holds({place}.inputs[{k}], {value(each)}, {signed})"
        elif each.name in bound:
            yield f"{place}.inputs[{k}] is {each.name}"
        else:
            bound.add(each.name)
            named = f"({each.name} := {place}.inputs[{k}])"
            yield f"_number({named}) is not None" if each.is_number else f"{named} is not None"
    for name, wanted in pattern.attrs.items():
        given = f"{place}.attrs[{name!r}]"
        if not isinstance(wanted, Attribute):
            yield f"_same({given}, {value(wanted)})"
        elif wanted.name in bound:
            yield f"_same({given}, {wanted.name})"
        else:
            bound.add(wanted.name)
            yield f"[{wanted.name} := {given}]"
    for each, at in inner:
        yield from _tests(each, at, bound, scope, signed)


def _same(a: Any, b: Any) -> bool:
    return bool(freeze(a) == freeze(b))


# --------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, eq=False)
class Rule:
    """One rewrite.

    Attributes:
        name: by which it is switched off, and which the nodes it makes carry as their origin.
        fp: what it may change, see `FpClass`.
        apply: the node to put in place of the given one, or None where the rule doesn't fit.
        concerns: whether it could fit nodes of an op; asked once for each.
        may_fit: whether it could fit a node of such an op whose inputs were made by given ops; asked once for each.
        left: the pattern, unless the rule is a function of the node.
        samples: left sides for the tests, built from leaves; derived from the pattern where it is None.
    """

    name: str
    fp: FpClass
    apply: Callable[[Node], Node | None]
    concerns: Callable[[Op], bool]
    may_fit: Callable[[Op, Sequence[Op]], bool]
    left: Call | None
    samples: Samples | None

    def __repr__(self) -> str:
        return f"<rule {self.name} ({self.fp})>"


def rule(
    *,
    fp: FpClass,
    on: Ops | Callable[[Op], bool] = None,
    of: Ops | tuple[Ops, ...] = None,
    where: Callable[..., bool] | None = None,
    samples: Samples | None = None,
) -> Callable[[Callable[..., Any]], Rule]:
    """Declare a rewrite rule; the function's name is the rule's.

    Without `on`, the function takes patterns and returns `(left side, right side)`. With it, the function takes a
    node of that op and returns what to put in its place, or None.

    Args:
        fp: "exact", "reassoc", "stabilise" or "finite", see `FpClass`.
        on: an op, a set of them, or a condition on the op.
        of: with `on`: the op that made each input, or a set of them; a tuple has an entry for each input.
        where: without `on`: a further condition on what was matched, by the same parameter names.
        samples: left sides for the tests; needed with `on`, with `where`, and where a `Number` or attribute is matched.

    Example:
        >>> from graphc.passes.rewrite import rule
        >>> @rule(fp="reassoc")
        ... def twice(x):
        ...     return x + x, x * 2
        >>> twice
        <rule twice (reassoc)>
    """
    return lambda fn: _pattern_rule(fn, fp, where, samples) if on is None else _node_rule(fn, fp, on, of, samples)


def _node_rule(
    fn: Callable[[Node], Node | None],
    fp: FpClass,
    on: Op | Set[Op] | Callable[[Op], bool],
    of: Ops | tuple[Ops, ...],
    samples: Samples | None,
) -> Rule:
    def apply(node: Node) -> Node | None:
        with derived_from(node, fn.__name__):
            return fn(node)

    def concerns(op: Op) -> bool:
        return _made_by(on, op) if isinstance(on, Op | Set) else on(op)

    def may_fit(op: Op, makers: Sequence[Op]) -> bool:
        if not isinstance(of, tuple):
            return of is None or (len(makers) > 0 and all(_made_by(of, maker) for maker in makers))
        found = permutations(makers) if op.commutative else [tuple(makers)]
        return any(len(of) == len(order) and all(map(_made_by, of, order)) for order in found)

    return Rule(fn.__name__, fp, apply, concerns, may_fit, None, samples)


def _made_by(wanted: Ops, op: Op) -> bool:
    return wanted is None or (op is wanted if isinstance(wanted, Op) else op in wanted)


def _pattern_rule(
    fn: Callable[..., Any], fp: FpClass, where: Callable[..., bool] | None, samples: Samples | None
) -> Rule:
    parameters = inspect.signature(fn).parameters.values()
    hints = get_type_hints(fn, include_extras=True)
    attributes = {p.name: Attribute(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
    tensors = [Variable(p.name, hints.get(p.name) == Number) for p in parameters if p.name not in attributes]
    left, right = fn(*tensors, **attributes)
    if not isinstance(left, Call):
        raise ArgumentError(f"rule {fn.__name__}: its left side is {left!r}", hint="begin with an op or operator")
    names = tuple(p.name for p in parameters)
    asked = () if where is None else tuple(inspect.signature(where).parameters)
    match = matcher(left, names, fp == "exact")

    def apply(node: Node) -> Node | None:
        for values in match(node):
            found = dict(zip(names, values, strict=True))
            if where is None or where(*[found[name] for name in asked]):
                with derived_from(node, fn.__name__):
                    made = instantiate(right, found)
                    return made if isinstance(made, Node) else splat(made, node.tensor_type)
        return None

    return Rule(fn.__name__, fp, apply, lambda op: op is left.op, _may_fit(left), left, samples)


def _may_fit(pattern: Call) -> Callable[[Op, Sequence[Op]], bool]:
    def fits(inner: Any, maker: Op, variables: dict[str, Op]) -> bool:
        if isinstance(inner, Call):
            return inner.op is maker
        if isinstance(inner, Variable) and variables.setdefault(inner.name, maker) is not maker:
            return False
        return maker in CONSTANTS if not isinstance(inner, Variable) or inner.is_number else True

    calls = frozenset([inner.op for inner in pattern.inputs if isinstance(inner, Call)])

    def may_fit(op: Op, makers: Sequence[Op]) -> bool:
        if len(makers) != len(pattern.inputs) or not calls.issubset(makers):
            return False
        found = permutations(makers) if op.commutative else [tuple(makers)]
        return any(
            all(fits(inner, maker, seen) for inner, maker in zip(pattern.inputs, order, strict=True))
            for order in found
            for seen in [dict[str, Op]()]
        )

    return may_fit


def ops_in(rules: Iterable[Rule]) -> frozenset[Op]:
    """All ops that the patterns of `rules` speak of."""
    found: set[Op] = set()
    pending: list[Any] = [each.left for each in rules]
    while pending:
        pattern = pending.pop()
        if isinstance(pattern, Call):
            found.add(pattern.op)
            pending += pattern.inputs
    return frozenset(found)


def rules_of(*modules: ModuleType) -> tuple[Rule, ...]:
    """The rules that the modules define, in that order; the first one that fits a node is taken."""
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Rule))


# --------------------------------------------------------------------------------------------- engine


class Candidates:
    """Rules in order of preference, and which of them could fit nodes of which ops: asked once, for all rewriters."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._concerning: dict[Op, tuple[Rule, ...]] = {}
        self._found: dict[tuple[Op, ...], tuple[Rule, ...]] = {}

    def of(self, node: Node) -> tuple[Rule, ...]:
        """The rules that may fit a node."""
        key = (node.op, *[i.op for i in node.inputs])
        found = self._found.get(key)
        if found is None:
            likely = self._about(node.op)
            found = self._found[key] = tuple([each for each in likely if each.may_fit(key[0], key[1:])])
        return found

    def _about(self, op: Op) -> tuple[Rule, ...]:
        """The rules that may fit nodes of an op."""
        found = self._concerning.get(op)
        if found is None:
            found = self._concerning[op] = tuple([each for each in self.rules if each.concerns(op)])
        return found


class Rewriter:
    """Brings nodes to their normal form: no rule fits the result or anything it is computed from.

    The inputs of a node are brought to theirs first, so a rule only ever sees normal inputs, and each node is visited
    a bounded number of times: the work is linear in the nodes and in the rewrites that happen.

    Attributes:
        normal: the normal form of each node that was seen.
        fired: how often each rule was applied.
        visits: how many nodes were looked at.
    """

    def __init__(self, rules: Iterable[Rule] | Candidates, *, commute: bool = True) -> None:
        self._candidates = rules if isinstance(rules, Candidates) else Candidates(rules)
        self.commute = commute
        self.normal: dict[Node, Node] = {}
        self.fired: Counter[str] = Counter()
        self.visits = 0
        self._twins: dict[tuple[Op, Node, Node], Node] = {}

    def run(self, program: Program) -> Program:
        """`program` with normal roots; itself if they were normal."""
        normal = self.normal
        for node in program.nodes():
            if node in normal:
                continue
            made, inputs = node, node.inputs
            for i in inputs:
                if normal[i] is not i:
                    made = rebuild(node, tuple([normal[i] for i in inputs]))
                    break
            if made not in normal:
                step = self._step(made)
                if step is None:
                    normal[made] = made
                else:
                    self._settle(made, step)
            normal[node] = normal[made]
        return program.with_roots([normal[root] for root in program.roots])

    def _step(self, node: Node) -> tuple[Node, str] | None:
        """What a node with normal inputs is rewritten to, and by which rule."""
        self.visits += 1
        for each in self._candidates.of(node):
            try:
                made = each.apply(node)
            except GraphcError as error:
                raise InternalError(f"rule {each.name} failed on {node!r}: {error.message}") from error
            if made is not None and made is not node:
                if made.type is not node.type:
                    raise InternalError(
                        f"rule {each.name} changed the type of {node!r} to {made.type}",
                        hint="a rule must keep dtype and shape",
                    )
                self.fired[each.name] += 1
                return made, each.name
        if self.commute and node.op.commutative and len(node.inputs) == 2:
            made = self._ordered(node)
            if made is not node:
                self.fired["commute"] += 1
                return made, "commute"
        return None

    def _ordered(self, node: Node) -> Node:
        """The first node seen that differs from `node` at most in the order of its operands; constants come last."""
        a, b = node.inputs
        if a.op in CONSTANTS and number_of(a) is not None and number_of(b) is None:
            with derived_from(node, "commute"):
                swapped: Node = node.op(b, a)
                return swapped
        return self._twins.setdefault((node.op, a, b) if a.serial < b.serial else (node.op, b, a), node)

    def _settle(self, start: Node, step: tuple[Node, str]) -> None:
        """Find the normal form of `start`, whose inputs are normal and which `step` rewrites, with all it leads to."""
        normal = self.normal
        becomes: dict[Node, Node] = {start: step[0]}  # rewritten, but the result isn't normal yet
        steps: list[str] = [step[1]]
        stack = [start, step[0]]
        while stack:
            node = stack[-1]
            if node in normal:
                stack.pop()
                continue
            if node in becomes:
                if becomes[node] not in normal:
                    raise _endless(start, steps)
                normal[node] = normal[becomes[node]]
                continue
            pending = [i for i in node.inputs if i not in normal]
            if pending:
                stack += pending
                continue
            made = rebuild(node, tuple([normal[i] for i in node.inputs]))
            if made is node:
                found = self._step(node)
                if found is None:
                    normal[node] = node
                    continue
                made, name = found
                steps.append(name)
                if len(steps) > MAX_STEPS:
                    raise _endless(start, steps)
            becomes[node] = made
            stack.append(made)


def _endless(start: Node, steps: Sequence[str]) -> InternalError:
    names = ", ".join(name for name, _ in Counter(steps[-50:]).most_common(5))
    return InternalError(
        f"rewriting {start!r} does not end; the rules that keep firing: {names}",
        hint=f"switch one off to go on: disable=({steps[-1]!r},)",
    )


def rewrite(program: Program, rules: Iterable[Rule], *, commute: bool = False) -> Program:
    """`program` with `rules` applied wherever they fit, bottom-up, until none does.

    Args:
        rules: in order of preference.
        commute: also bring the operands of commutative ops into one order, so that a + b and b + a are one node.

    Raises:
        InternalError: a rule changes the type of what it rewrites, or rewriting doesn't end; the rule is named.
    """
    return Rewriter(rules, commute=commute).run(program)
