"""The order of the passes; their switches; what is dumped, verified and said between them.

`GRAPHC_DUMP=DIR` writes the program before the first and after each pass, and what a target makes of it;
`GRAPHC_VERIFY=1` checks it, and `GRAPHC_DEBUG=1..3` says on stderr what was compiled, what each pass did, and which
rules fired.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphc import dumps
from graphc.collector import paused
from graphc.errors import ArgumentError, InternalError, did_you_mean
from graphc.ir import Program
from graphc.passes import fold, rules, rules_logic, rules_shape, stabilise
from graphc.passes.decompose import Transform, decompose, inline
from graphc.passes.modes import resolve_mode
from graphc.passes.rewrite import FP_CLASSES, Candidates, Rewriter, Rule, ops_in, rules_of
from graphc.printer import text
from graphc.target import TargetInfo
from graphc.verify import verify


@dataclass(frozen=True)
class Options:
    """What a pass may depend on besides the program.

    Attributes:
        disable: names of passes, rules and floating-point classes of rules that are switched off.
        debug: how much to say on stderr, 0 to 3.
        candidates: the rules of each pass that applies some, for this run of the pipeline.
    """

    target: TargetInfo
    training: bool = False
    disable: frozenset[str] = frozenset()
    debug: int = 0
    candidates: dict[tuple[str, ...], Candidates] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Pass:
    """One step: `apply` takes a program and the options and returns a program.

    Attributes:
        name: by which it is switched off, and its dumps are called.
        optional: programs mean the same without it, so it can be switched off.
        techniques: further names that can be switched off within it.
    """

    name: str
    apply: Callable[[Program, Options], Program]
    optional: bool = True
    techniques: frozenset[str] = field(default=frozenset())


COMMUTE = "commute"  # merging a + b with b + a


def rewriting(name: str, groups: Mapping[str, Sequence[Rule]]) -> Pass:
    """The pass that applies the rules of all groups, in their order; a group can be switched off by its name."""
    all_rules = {rule: group for group, rules in groups.items() for rule in rules}
    groups_in_order = tuple(groups)

    def apply(program: Program, options: Options) -> Program:
        found = options.candidates.get(groups_in_order)
        if found is None:
            enabled = [r for r, group in all_rules.items() if options.disable.isdisjoint((group, r.name, r.fp))]
            found = options.candidates[groups_in_order] = Candidates(enabled)
        rewriter = Rewriter(found, commute=COMMUTE not in options.disable)
        result = rewriter.run(program)
        if options.debug >= 3:
            for fired, count in rewriter.fired.most_common():
                say(f"{name}: {fired} fired {count} times")
        return result

    names = {rule.name for rule in all_rules}
    return Pass(name, apply, techniques=frozenset({COMMUTE, *FP_CLASSES, *groups, *names}))


STABILISE = rules_of(stabilise)
ALGEBRA = rules_of(fold, rules, rules_logic, rules_shape)

# While composites are whole, and once more when none is left that isn't the target's own.
STABILISE_AND_SIMPLIFY = rewriting("simplify", {"stabilise": STABILISE, "algebra": ALGEBRA})
SIMPLIFY = rewriting("simplify", {"algebra": ALGEBRA})


def preparation(simplify: Pass, options: Options) -> Transform:
    """What is done to the body of a composite before it is instantiated, so that it isn't done to each instance."""
    quiet = replace(options, debug=0)
    return lambda body: body if simplify.name in options.disable else simplify.apply(body, quiet)


def inlined(program: Program, options: Options) -> Program:
    """`inline`, of all composites that no rule looks for."""
    return inline(program, options.target, ops_in(STABILISE), preparation(STABILISE_AND_SIMPLIFY, options))


def decomposed(program: Program, options: Options) -> Program:
    """`decompose`, of all that are left."""
    return decompose(program, options.target, preparation(SIMPLIFY, options))


PIPELINE: tuple[Pass, ...] = (
    Pass("resolve_mode", lambda program, options: resolve_mode(program, training=options.training), optional=False),
    Pass("inline", inlined),
    STABILISE_AND_SIMPLIFY,
    Pass("decompose", decomposed, optional=False),
    SIMPLIFY,
)

OFF_BY_DEFAULT = frozenset({"finite"})


def switches(passes: Iterable[Pass] = PIPELINE) -> frozenset[str]:
    """Every name that can be switched off."""
    return frozenset().union(*({p.name} | p.techniques if p.optional else p.techniques for p in passes))


def check_switches(names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ArgumentError for each of `names` that isn't known; tells all, with near names."""
    known = sorted(known)
    wrong = [f"{name!r}{did_you_mean(name, known)}" for name in names if name not in known]
    if wrong:
        raise ArgumentError(f"nothing that can be switched off is called {' or '.join(wrong)}")


def run_pipeline(
    program: Program,
    target: TargetInfo,
    *,
    training: bool = False,
    disable: Iterable[str] = (),
    enable: Iterable[str] = (),
    passes: Sequence[Pass] = PIPELINE,
) -> Program:
    """`program` after all `passes`, ready for `target`.

    Args:
        training: which branch of `by_mode` is taken, and whether auxiliary updates are committed.
        disable: what to leave out: names of passes, of rules, or of a floating-point class of rules ("reassoc").
        enable: what is off unless asked for: "finite", the rules that are wrong for nan and infinities.

    Raises:
        ArgumentError: a name that nothing has.
        StateError: two different new values for one variable.
        InternalError: a pass broke the program; names the pass.
    """
    check_switches((*disable, *enable), switches(passes))
    off = frozenset(disable) | OFF_BY_DEFAULT - frozenset(enable)
    options = Options(target, training, off, _debug_level())
    watch = _Watch(program, options)
    with paused():
        for each in passes:
            if each.name not in off and watch.last.get(each.name) is not program:
                program = watch.step(each, program)
    watch.finish(program)
    return program


# --------------------------------------------------------------------------------------------- between passes

class _Watch:
    """Dumps, verifies and reports between passes, as the environment asks."""

    def __init__(self, program: Program, options: Options) -> None:
        self.options = options
        self.verify = os.environ.get("GRAPHC_VERIFY", "") not in ("", "0")
        self.folder = dumps.new_folder()
        self.count = itertools.count()
        self.started = time.perf_counter()
        self.before = len(program.nodes()) if options.debug else 0
        self.last: dict[str, Program] = {}  # what each pass gave; it has nothing to do on that
        self._look(program, "input")

    def step(self, each: Pass, program: Program) -> Program:
        started = time.perf_counter()
        try:
            result = each.apply(program, self.options)
        except InternalError as error:
            raise InternalError(f"in pass {each.name}: {error.message}", lines=error.lines, hint=error.hint) from error
        if self.options.debug >= 2:
            took = 1e3 * (time.perf_counter() - started)
            say(f"{each.name}: {len(program.nodes())} -> {len(result.nodes())} nodes in {took:.1f} ms")
        self.last[each.name] = result
        if result is not program:
            self._look(result, each.name)
        return result

    def finish(self, program: Program) -> None:
        if self.folder:
            dumps.keep_folder(program, self.folder)
        if self.options.debug:
            took = 1e3 * (time.perf_counter() - self.started)
            purpose = f"{'training' if self.options.training else 'evaluation'} on {self.options.target.name}"
            say(f"{self.before} -> {len(program.nodes())} nodes for {purpose} in {took:.1f} ms")

    def _look(self, program: Program, name: str) -> None:
        if self.folder:
            file = f"{next(self.count):02d}-{dumps.file_name(name)}.txt"
            dumps.write(self.folder / file, text(program, sources=True))
        if self.verify:
            try:
                verify(program)
            except InternalError as error:
                raise InternalError(f"after pass {name}: {error.message}", lines=error.lines) from error


def say(line: str) -> None:
    """A line of progress, to stderr."""
    print(f"graphc: {line}", file=sys.stderr)


def _debug_level() -> int:
    asked = os.environ.get("GRAPHC_DEBUG", "") or "0"
    if asked not in ("0", "1", "2", "3"):
        raise ArgumentError(f"GRAPHC_DEBUG is a number from 0 to 3, got {asked!r}")
    return int(asked)
