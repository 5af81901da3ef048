"""Random programs: whatever the passes make of one, and however a plan runs it, its values are the reference's.

`make test-random` runs the same tests on twenty times as many programs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st
from op_testing import same_bits, samples_of
from random_checks import Array, byte_problems, disagreement, is_hopeless, is_tight, least_peak, updates_of, values_of
from random_graphs import SEED, Builder, Case, Numbers, cases, random_case
from random_starts import RULES, STARTS, loosely_sized, whole_case, with_curvature, with_gradients, with_rule

from graphc.errors import ArgumentError, FeedError, GraphcError, GuardError, ShapeError
from graphc.ir import Graph, Node, Program
from graphc.operands import constant
from graphc.ops import REGISTRY
from graphc.ops.indexing import gather, scatter_add_along_axis_op, scatter_add_op
from graphc.ops.shape import broadcast_to
from graphc.ops.state import Placeholder, Variable, group, placeholder
from graphc.passes import pipeline
from graphc.passes.gradients import gradients
from graphc.passes.pipeline import PIPELINE, run_pipeline, switches
from graphc.passes.plan import TECHNIQUES
from graphc.passes.rewrite import Rewriter
from graphc.printer import text
from graphc.runtime.plan import PlanTarget
from graphc.runtime.reference import Executable, ReferenceTarget
from graphc.runtime.session import Session
from graphc.target import LIGHT, TargetInfo
from graphc.verify_plan import verify_plan

INEXACT = frozenset({"reassoc", "stabilise"})  # what to switch off so that the bits stay
PATIENCE = 20  # programs, at most, in which a rule has to fit
PASSES = sorted({each.name for each in PIPELINE if each.optional} | {"algebra", "stabilise", "commute"})


# --------------------------------------------------------------------------------------------- checks


@dataclass
class Tally:
    """What is counted over many programs.

    Attributes:
        hopeless: results that differ in their last bits, of which rounding alone may change every digit.
        tight: plans that need little more bytes than are live at a time.
    """

    programs: int = 0
    results: int = 0
    hopeless: int = 0
    tight: int = 0
    ops: Counter[str] = field(default_factory=Counter)

    def check(
        self,
        case: Case,
        without: Collection[str] = (),
        *,
        enable: Collection[str] = (),
        info: TargetInfo = PlanTarget.info,
    ) -> None:
        """Assert that a case means what the reference says: after the passes, on the reference target, and as a plan.

        Args:
            without: the passes and techniques to switch off. Without the `INEXACT` rules the bits must be the same
                where the case says that they are exact; not on the reference target, which leaves it to NumPy how
                arrays lie in memory, and so which of its loops computes them.
            enable: "finite" for the rules that are off by default.
            info: what a target takes, for which it is planned.
        """
        self.programs += 1
        options = {"training": case.training, "disable": frozenset(without) & switches(), "enable": enable}
        program = run_pipeline(case.program, ReferenceTarget.info, **options)
        planned = run_pipeline(case.program, info, **options)
        self._count_ops(case.program, program, planned)
        self._compare(case, program, values_of(case, program.roots), bits=set(without) >= INEXACT)
        self._compare(case, program, ran(ReferenceTarget().compile(program), case), bits=False)
        planner = PlanTarget(SEED, frozenset(without) & TECHNIQUES)
        planner.info = info
        executable = planner.compile(planned)
        self._compare(case, planned, ran(executable, case), bits=set(without) >= INEXACT)
        plan = executable.plan(case.dims)
        verify_plan(plan)
        assert list(byte_problems(plan)) == []
        assert plan.lower_bound_bytes == least_peak(plan) or "arena" in without
        self.tight += is_tight(plan)

    def _compare(self, case: Case, program: Program, values: Sequence[Array], *, bits: bool) -> None:
        """Compare the values of the roots of a program, made from that of the case, with the reference."""
        exact = dict(zip(case.program.roots, case.exact, strict=True))
        keys: list[Key] = [*range(len(program.outputs)), *[variable for variable, _ in program.updates]]
        found, wanted = dict(zip(keys, values, strict=True)), expected_results(case)
        assert found.keys() == wanted.keys()
        for key, (root, value) in wanted.items():
            wrong = disagreement(found[key], case, root, value, bits=bits and exact.get(root, False))
            assert not wrong, wrong
            self.results += 1
            self.hopeless += found[key].tobytes() != value.tobytes() and is_hopeless(case, root, value)

    def _count_ops(self, *programs: Program) -> None:
        for program in programs:
            nodes = program.nodes()
            self.ops.update(node.op.name for node in nodes)
            self._count_ops(*[node.body for node in nodes if node.body is not None])


Key = int | Node  # the number of an output, or an updated variable


def expected_results(case: Case) -> dict[Key, tuple[Node, Array]]:
    """Each result of a case by the reference, with the node that it is the value of."""
    wanted: dict[Key, Node] = {**dict(enumerate(case.program.outputs)), **updates_of(case)}
    return dict(zip(wanted, zip(wanted.values(), values_of(case, list(wanted.values())), strict=True), strict=True))


def ran(executable: Executable, case: Case) -> list[Array]:
    """The values of the roots of a program, by a target."""
    outputs, news = executable.run(case.values, case.dims, case.draws)
    return [*outputs, *news]


def for_random(strategy: st.SearchStrategy[Case], number: int, check: Callable[[Case], None]) -> None:
    """Check random cases, as many as the settings say; each `number` gives others."""

    @seed(number)
    @given(strategy)
    def run(case: Case) -> None:
        check(case)

    run()


# --------------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("number", range(8))
def test_random_programs_keep_every_bit_without_reassociation(number):
    tally = Tally()
    for_random(cases(16), number, lambda case: tally.check(case, INEXACT))
    assert tally.tight >= 0.95 * tally.programs


@pytest.mark.parametrize("technique", sorted(TECHNIQUES))
def test_random_plans_are_right_without_any_one_technique(technique):
    tally = Tally()
    for_random(cases(), sum(map(ord, technique)), lambda case: tally.check(case, INEXACT | {technique}))


KINDS = ("concat", "contract", "conv", "index", "random", "scan", "sort", "window")
WHOLE = [op.name for op in REGISTRY.values() if op.kind == "composite"]


LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "whole": st.frozensets(st.sampled_from(sorted(WHOLE))),
    "light": st.frozensets(st.sampled_from(sorted(op.name for op in LIGHT))),
    **dict.fromkeys(("epilogues", "prologues", "views"), st.frozensets(st.sampled_from(KINDS))),
    "fuses": st.booleans(),
    "max_live": st.sampled_from([1, 2, 4, 24]),
    "max_ops": st.sampled_from([1, 2, 8, 96]),
    "max_reductions": st.sampled_from([1, 2, 5]),
    "row_bytes": st.sampled_from([0, 16, 1 << 18]),
}


def target_of(limits: Mapping[str, Any]) -> TargetInfo:
    """A target with these limits, ops given by their names."""
    ops = {name: frozenset(REGISTRY[op] for op in limits[name]) for name in ("whole", "light")}
    return TargetInfo("any", **{**limits, **ops})


@pytest.mark.parametrize("finish", [Builder.case, whole_case, with_gradients], ids=lambda finish: finish.__name__)
def test_random_plans_are_right_for_targets_of_any_kind(finish):
    tally = Tally()

    @given(cases(16, finish), st.fixed_dictionaries(LIMITS))
    def run(case: Case, limits: Mapping[str, Any]) -> None:
        tally.check(case, INEXACT, info=target_of(limits))

    run()


@pytest.mark.parametrize("without", ["", *PASSES])
def test_random_programs_agree_when_sums_are_reassociated(without):
    tally = Tally()
    for_random(cases(), sum(map(ord, without)), lambda case: tally.check(case, {without} - {""}))
    assert tally.hopeless <= 0.01 * tally.results


@pytest.mark.parametrize("without", ["", "reassoc"])
@pytest.mark.parametrize("number", range(2))
def test_gradients_of_random_losses_agree(number, without):
    tally = Tally()
    for_random(cases(10, with_gradients), number, lambda case: tally.check(case, {without} - {""}))
    assert tally.hopeless <= 0.05 * tally.results
    assert tally.tight >= 0.95 * tally.programs


def test_gradients_of_gradients_agree():
    tally = Tally()
    for_random(cases(6, with_curvature), 0, tally.check)
    assert tally.hopeless <= 0.05 * tally.results


@pytest.mark.parametrize("without", ["", "fuse"])
def test_the_arenas_of_large_random_plans_are_little_larger_than_what_is_live(without):
    tight: Counter[bool] = Counter()

    def measure(case: Case) -> None:
        target = PlanTarget(SEED, {without})
        plan = target.compile(run_pipeline(case.program, target.info, training=case.training)).plan(case.dims)
        if sum(buffer.role == "arena" for buffer in plan.buffers) >= 3:
            tight[is_tight(plan)] += 1

    for_random(cases(40, with_gradients), 0, measure)
    assert tight[True] >= 0.95 * tight.total() > 15


@pytest.mark.parametrize("part", range(4))
def test_each_op_is_right_in_random_company(part):
    for name in sorted(STARTS)[part::4]:
        tally = Tally()
        for number in range(4):
            case = random_case(Numbers(number), 4, STARTS[name], whole_case)
            tally.check(case, INEXACT)
            tally.check(random_case(Numbers(number), 4, STARTS[name], with_gradients))
        assert tally.ops[name], f"no program has the op {name!r}"


@pytest.mark.parametrize("part", range(4))
def test_each_op_takes_sizes_that_only_guards_make_equal(part):
    rng = np.random.default_rng(part)
    calls = [(op, sample) for op in REGISTRY.values() for sample in samples_of(op)]
    made = [loosely_sized(op, sample, rng) for op, sample in calls[part::4]]
    tally = Tally()
    for case in made:
        if case is not None:
            tally.check(case)
    assert tally.programs > 0.7 * len(made)


@pytest.mark.parametrize("part", range(4))
def test_each_rule_is_right_in_random_company(part, monkeypatch):
    fired: Counter[str] = Counter()

    class Counting(Rewriter):
        def run(self, program: Program) -> Program:
            found = super().run(program)
            fired.update(self.fired)
            return found

    monkeypatch.setattr(pipeline, "Rewriter", Counting)
    for name in sorted(RULES)[part::4]:
        enable = {"finite"} & {RULES[name].fp}
        for number in range(PATIENCE):
            Tally().check(random_case(Numbers(number), 4, with_rule(RULES[name]), whole_case), enable=enable)
            if fired[name] and number >= 3:
                break
    never = [name for name in sorted(RULES)[part::4] if not fired[name]]
    assert not never, f"rules that no program fires: {', '.join(never)}"


def test_the_ops_that_no_program_begins_with_are_in_the_company():
    tally = Tally()
    for number in range(60):
        for finish in (whole_case, with_gradients):
            tally.check(random_case(Numbers(number), 12, Builder.random, finish))
    assert REGISTRY.keys() - STARTS.keys() <= tally.ops.keys()


# --------------------------------------------------------------------------------------------- sessions


SIZES: tuple[Mapping[str, int], ...] = (
    {},
    {"n2": 3, "n3": 2},
    {"n3": 1, "n4": 1, "n5": 1},
    {"n3": 0, "n4": 0, "n5": 8},
    {"n2": 5, "n5": 0, "n6": 1, "n7": 9},
)
REFUSALS = (GuardError, FeedError, ShapeError)  # of sizes that a program can't have


def resized(case: Case, sizes: Mapping[str, int]) -> Case:
    """The case with other sizes of its symbolic dimensions, and values of these sizes."""
    dims = {name: sizes.get(name, size) for name, size in case.dims.items()}
    values = {leaf: _tiled(array, leaf.tensor_type.bind(dims).shape) for leaf, array in case.values.items()}
    return replace(case, dims=dims, values=values)


def _tiled(array: Array, shape: tuple[int, ...]) -> Array:
    return np.resize(array, shape) if array.size else np.zeros(shape, array.dtype)


class Life:
    """A session in which a case is run again and again, at various sizes."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.session = Session(device="plan", seed=SEED)
        self.updates = group(*[variable.assign(new) for variable, new in case.program.updates])
        self.runs = 0
        with Graph() if not case.values else next(iter(case.values)).graph:
            self.sizes = placeholder("sizes", tuple(case.dims), "bool")  # some have no other feed to tell them

    def variables(self) -> dict[Node, Array]:
        """The values of all variables."""
        return {leaf: self.session[leaf] for leaf in self.case.values if isinstance(leaf, Variable)}

    def now(self, sizes: Mapping[str, int]) -> Case:
        """What the next run is to compute."""
        draws = {leaf: (number, stream, self.runs) for leaf, (number, stream, _) in self.case.draws.items()}
        return resized(replace(self.case, values={**self.case.values, **self.variables()}, draws=draws), sizes)

    def run(self, case: Case, *more: Node, feeds: Mapping[Node, Array] | None = None) -> None:
        """Run, and compare results and variables with the reference."""
        before = self.variables()
        given = {leaf: array for leaf, array in case.values.items() if isinstance(leaf, Placeholder)}
        given[self.sizes] = np.zeros(tuple(case.dims.values()), np.bool_)
        fetches = [list(case.program.outputs), self.updates, more]
        try:
            outputs, _, _ = self.session.run(fetches, given | (feeds or {}), training=case.training)
            wanted = expected_results(case)
            self.runs += 1
        except Exception:
            assert all(same_bits(value, before[leaf]) for leaf, value in self.variables().items())
            raise
        after = self.variables()
        for key, (root, value) in wanted.items():
            wrong = disagreement(outputs[key] if isinstance(key, int) else after[key], case, root, value)
            assert not wrong, f"in run {self.runs}: {wrong}"
        assert all(same_bits(value, before[leaf]) for leaf, value in after.items() if leaf not in wanted)


@pytest.mark.parametrize("number", range(4))
def test_one_plan_serves_all_sizes_and_updates_variables_once(number):
    done: Counter[bool] = Counter()

    def live(case: Case) -> None:
        life = Life(case)
        for sizes in SIZES if case.dims else SIZES[:1] * 2:
            try:
                life.run(life.now(sizes))
            except GraphcError as error:
                assert sizes, "its own sizes are refused"
                if not isinstance(error, REFUSALS):
                    with pytest.raises(type(error)):
                        expected_results(life.now(sizes))
                if case.draws:
                    return  # whether they were drawn depends on what refused
            done[bool(sizes)] += 1
        assert life.session.cache_info().misses == 1

    for_random(cases(10), number, live)
    assert done[True] > 100


def test_a_run_that_fails_changes_no_variable():
    failed = []

    def fail(case: Case) -> None:
        inputs = [leaf for leaf in case.program.inputs if not case.draws]
        if not inputs or not case.program.updates:
            return
        with inputs[0].graph:
            index = placeholder("index", (2,), "int64")
            broken = gather(constant([1.0, 2.0]), index) * 2.0
        life = Life(case)
        with pytest.raises(ArgumentError, match="out of range"):
            life.run(life.now({}), broken, feeds={index: np.array([1, 5])})
        life.run(life.now({}), broken, feeds={index: np.array([1, 0])})
        failed.append(case)

    for_random(cases(10), 0, fail)
    assert len(failed) > 15


# --------------------------------------------------------------------------------------------- what they have found


def test_the_gradients_of_scatters_have_the_shape_of_what_is_added():
    """Where its sizes are only known by a guard to be those of the data, or of the indices."""
    with Graph():
        x, added, row = placeholder("x", (3, "n")), placeholder("added", (3, 4)), constant([0, 1, 1, 2])
        rows = placeholder("rows", (3, "m"), "int64")
        for total in (
            scatter_add_op(x, added, row, axes=(1,)),
            scatter_add_along_axis_op(x, rows, added, axis=1),
        ):
            assert [slope.type for slope in gradients(total, [x, added])] == [x.type, added.type]


def test_broadcasts_under_two_guards_stay_two():
    with Graph():
        x, y, z = placeholder("x", ("n", 1)), placeholder("y", (2, 3)), placeholder("z", ("m", 3))
        program = Program((x, y, z), (broadcast_to(broadcast_to(x, y.shape), z.shape),))
    assert run_pipeline(program, ReferenceTarget.info) is program


def test_a_constant_of_symbolic_size_changes_sides_once():
    with Graph():
        x = placeholder("x", ("n",))
        program = Program((x,), (x - 2.5,))
    assert text(run_pipeline(program, ReferenceTarget.info)) == text(Program((x,), (x + -2.5,)))
