"""The passes over programs, one by one and in their order: modes, expansion, folding, stability, switches."""

import os
import stat

import numpy as np
import pytest
from op_testing import same_bits
from random_graphs import Numbers, random_case

import graphc as gc
from graphc.composites import composite
from graphc.errors import ArgumentError, InternalError, StateError
from graphc.evaluate import evaluate
from graphc.ir import Graph, Program
from graphc.operands import constant, expand, primitive
from graphc.ops.activations import relu, softmax_op
from graphc.ops.control import identity
from graphc.ops.creation import iota
from graphc.ops.math import exp, log, log1p, sigmoid, sqrt, tanh, where
from graphc.ops.nn import dropout
from graphc.ops.state import Variable, by_mode, placeholder, tracked
from graphc.passes import fold
from graphc.passes.decompose import decompose, inline
from graphc.passes.gradients import gradients
from graphc.passes.modes import resolve_mode
from graphc.passes.pipeline import PIPELINE, Pass, run_pipeline, switches
from graphc.passes.rewrite import rewrite
from graphc.runtime.reference import ReferenceTarget
from graphc.target import TargetInfo

TARGET = TargetInfo("test")


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def leaf(*shape, dtype="float32", name="x"):
    return placeholder(name, shape, dtype)


def program_of(*outputs, updates=()):
    nodes = Program((), outputs, tuple(updates)).nodes()
    return Program(tuple(n for n in nodes if n.op.kind == "placeholder"), outputs, tuple(updates))


def optimised(*outputs, target=TARGET, **options):
    return run_pipeline(program_of(*outputs), target, **options).outputs


def ops_of(program):
    return [node.op.name for node in program.nodes()]


# --- modes


def test_a_run_has_one_branch_and_does_not_compute_the_other():
    x = leaf(3)
    program = program_of(by_mode(exp(x), tanh(x)))
    assert ops_of(resolve_mode(program, training=True)) == ["placeholder", "exp"]
    assert ops_of(resolve_mode(program, training=False)) == ["placeholder", "tanh"]


def test_choices_nest():
    x = leaf(3)
    inner = by_mode(exp(x), tanh(x))
    program = program_of(by_mode(inner * 2.0, inner * 3.0))
    assert resolve_mode(program, training=True).outputs == (exp(x) * 2.0,)
    assert resolve_mode(program, training=False).outputs == (tanh(x) * 3.0,)


def test_evaluation_draws_nothing():
    program = program_of(dropout(leaf(3), 0.5))
    assert resolve_mode(program, training=False).outputs == program.inputs
    assert "random_bernoulli" in ops_of(resolve_mode(program, training=True))


def test_choices_inside_composites_are_made_and_other_composites_stay_whole():
    @composite
    def noisy(x):
        return relu(by_mode(x * 2.0, x))

    x = leaf(3)
    assert resolve_mode(program_of(noisy(x)), training=True).outputs == (relu(x * 2.0),)
    assert resolve_mode(program_of(noisy(x)), training=False).outputs == (relu(x),)


def test_an_auxiliary_update_is_committed_once_in_training_and_dropped_otherwise():
    x, mean = leaf(3), Variable([0.0, 0.0, 0.0], "mean")
    y = tracked(x, mean, mean * 0.9 + x * 0.1)
    program = program_of(y * 2.0, y * 3.0)
    trained = resolve_mode(program, training=True)
    assert trained.outputs == (x * 2.0, x * 3.0)
    assert trained.updates == ((mean, mean * 0.9 + x * 0.1),)
    assert resolve_mode(program, training=False).updates == ()


def test_an_auxiliary_update_in_the_branch_not_taken_does_nothing():
    x, mean = leaf(3), Variable([0.0, 0.0, 0.0], "mean")
    program = program_of(by_mode(x, tracked(x, mean, x)))
    assert resolve_mode(program, training=True).updates == ()


def test_several_auxiliary_updates_of_a_variable_compose_in_the_order_of_their_creation():
    a, b, count = leaf(3), leaf(3), Variable([1.0, 1.0, 1.0], "count")
    first = tracked(a, count, count * 2.0 + a)
    second = tracked(b, count, count * 3.0 + b)
    program = resolve_mode(program_of(second, first), training=True)
    assert program.updates == ((count, (count * 2.0 + a) * 3.0 + b),)


def test_outputs_see_the_values_from_before_the_auxiliary_updates():
    x, count = leaf(3), Variable([1.0, 1.0, 1.0], "count")
    program = resolve_mode(program_of(tracked(x, count, count + 1.0) + count), training=True)
    assert program.outputs == (x + count,)


def test_an_explicit_update_beside_an_auxiliary_one_is_a_conflict_of_two_lines():
    x, mean = leaf(3), Variable([0.0, 0.0, 0.0], "mean")
    output = tracked(x, mean, mean + x)
    program = program_of(output, updates=[(mean, mean * 2.0)])
    with pytest.raises(StateError, match="'mean' is given two different values") as error:
        resolve_mode(program, training=True)
    assert "(mean, mean * 2.0)" in str(error.value)
    assert "tracked(x, mean, mean + x)" in str(error.value)
    assert resolve_mode(program, training=False).updates == ((mean, mean * 2.0),)


def test_auxiliary_updates_inside_composites_reach_the_program():
    mean = Variable([0.0, 0.0, 0.0], "mean")

    @composite
    def counted(x):
        return tracked(x, mean, mean + x)

    x = leaf(3)
    program = resolve_mode(program_of(counted(x)), training=True)
    assert (program.outputs, program.updates) == ((x,), ((mean, mean + x),))


# --- expansion


@composite
def doubled(x):
    return x * 2.0


@composite
def quadrupled(x):
    return doubled(doubled(x))


@composite
def both(x):
    return exp(x), doubled(x)


def test_composites_are_expanded_wherever_they_nest():
    x = leaf(3)
    assert decompose(program_of(quadrupled(x)), TARGET).outputs == (x * 2.0 * 2.0,)


def test_a_target_keeps_what_it_takes_whole():
    x = leaf(3)
    target = TargetInfo("test", whole=frozenset({doubled}))
    assert decompose(program_of(quadrupled(x) + 1.0), target).outputs == (doubled(doubled(x)) + 1.0,)
    program = program_of(doubled(x))
    assert decompose(program, target) is program


def test_each_result_of_a_composite_is_found_again():
    x = leaf(3)
    first, second = both(x)
    assert decompose(program_of(second - first), TARGET).outputs == (x * 2.0 - exp(x),)


def test_expanded_nodes_know_where_they_come_from():
    x = leaf(3)
    whole = doubled(x)
    (product,) = decompose(program_of(whole), TARGET).outputs
    assert product.occurrence.rule == "decompose"
    assert product.occurrence.site == whole.occurrence.site


def test_a_body_is_prepared_once_however_often_it_is_used():
    prepared = []

    def prepare(body):
        prepared.append(body)
        return body

    y = leaf(3)
    for _ in range(100):
        y = quadrupled(y)
    decompose(program_of(y), TARGET, prepare)
    assert len(prepared) == 2


def test_constants_in_a_body_are_shared_by_its_instances():
    @composite
    def shifted(x):
        return x + expand(constant([1.0, 2.0, 3.0]), (2, 3))

    program = decompose(program_of(shifted(leaf(2, 3)) * shifted(leaf(2, 3))), TARGET)
    assert ops_of(program).count("constant") == 1


def test_inlining_leaves_what_rules_look_for():
    @composite
    def loss(x):
        return log(softmax_op(x, axis=1))

    x = leaf(2, 3)
    assert inline(program_of(loss(x)), TARGET, {softmax_op}).outputs == (log(softmax_op(x, axis=1)),)


def test_a_long_chain_of_composites_is_expanded():
    y = leaf(3)
    for _ in range(20_000):
        y = doubled(y)
    assert len(decompose(program_of(y), TARGET).nodes()) == 20_000 + 3  # the leaf, and 2.0 broadcast


# --- constants


effect = primitive("effect", lambda x: x, lambda x: x, None, "opaque")


def folded(node):
    return rewrite(program_of(node), [fold.fold_constants]).outputs[0]


def values(node):
    return evaluate([node], {})[0]


def test_what_depends_on_constants_alone_is_a_constant():
    node = exp(constant([[1.0, 2.0], [3.0, 4.0]])).sum(axis=0) + 1.0
    assert folded(node).op.name == "constant"
    assert same_bits(values(folded(node)), values(node))


def test_a_large_broadcast_is_never_written_out():
    node = expand(constant(2.0), (1000, 1000)) * expand(constant(3.0), (1000, 1000))
    (number,) = folded(node).inputs
    assert folded(node).op.name == "broadcast_to"
    assert values(number) == 6.0
    row, column = constant(np.arange(1000.0)), constant(np.arange(1000.0)[:, None])
    grid = expand(row, (1000, 1000)) * expand(column, (1000, 1000))
    assert folded(grid) is grid


def test_numbers_of_a_symbolic_size_are_computed():
    node = expand(constant(2.0), leaf("batch").shape) * 3.0
    assert values(folded(node).inputs[0]) == 6.0


@pytest.mark.parametrize("rule", ["fold_constants", "sub_constant", "add_neg"])
def test_no_rule_is_needed_for_the_others_to_end(rule):
    x = leaf("batch", 3)
    assert optimised(-(2.0 - (x - 1.0)) * 4.0 - 1.0, disable=(rule,)) is not None


def test_equal_elements_are_stored_once():
    node = constant([1.0, 2.0]) * constant([2.0, 1.0])
    (number,) = folded(node).inputs
    assert values(number) == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: leaf(3) + 1.0,
        lambda: gc.random.uniform((3,)) + 1.0,
        lambda: gc.cast(iota(length=3), "float32") + 1.0,
        lambda: exp(expand(constant([1.0, 2.0]), leaf("batch", 2).shape)),
        lambda: effect(constant([1.0, 2.0])),
    ],
    ids=["leaf", "random", "counter", "symbolic", "effect"],
)
def test_what_is_no_constant_stays(make):
    node = make()
    assert folded(node) is node


# --- stability


def log_total(x):
    return np.logaddexp.reduce(x)


STABLE = {
    "log softmax": (lambda x: log(softmax_op(x, axis=0)), lambda x: x - log_total(x), [1000.0, 0.0, -1000.0]),
    "log sum exp": (lambda x: log(exp(x).sum()), log_total, [1000.0, 999.0, -1000.0]),
    "log sum exp, kept": (lambda x: log(exp(x).sum(keepdims=True)), log_total, [1000.0, 0.0, 1.0]),
    "softmax": (lambda x: exp(x) / exp(x).sum(), lambda x: np.exp(x - log_total(x)), [1000.0, 0.0, -1000.0]),
    "softplus": (lambda x: log(1 + exp(x)), lambda x: np.logaddexp(0, x), [1000.0, -80.0, 0.0]),
    "log sigmoid": (lambda x: log(sigmoid(x)), lambda x: -np.logaddexp(0, -x), [80.0, -1000.0, 0.0]),
    "log 1 - sigmoid": (lambda x: log(1 - sigmoid(x)), lambda x: -np.logaddexp(0, x), [1000.0, -80.0, 0.0]),
    "logistic by exp": (lambda x: exp(x) / (1 + exp(x)), lambda x: np.exp(-np.logaddexp(0, -x)), [100.0, -80.0, 0.0]),
    "tanh": (lambda x: (exp(x) - exp(-x)) / (exp(x) + exp(-x)), np.tanh, [100.0, -100.0, 0.5]),
    "log1p": (lambda x: log(1 + x), np.log1p, [1e-20, -1e-20, 1.0]),
    "log 1 - x": (lambda x: log(1 - x), lambda x: np.log1p(-x), [1e-20, -1e-20, 0.5]),
    "expm1": (lambda x: exp(x) - 1, np.expm1, [1e-20, -1e-20, 1.0]),
    "root of a square": (lambda x: sqrt(x * x), np.abs, [1e-30, -1e30, 2.0]),
    "log exp": (lambda x: log(exp(x)), lambda x: x, [1000.0, -1000.0, 1.0]),
}


@pytest.mark.parametrize("name", STABLE)
def test_formulas_that_overflow_or_cancel_are_computed_as_they_are_meant(name):
    formula, meaning, values = STABLE[name]
    x, given = leaf(3), np.array(values, np.float32)
    wanted = meaning(given.astype(np.float64))
    (naive,) = evaluate([formula(x)], {x: given})
    (stable,) = evaluate(optimised(formula(x)), {x: given})
    np.testing.assert_allclose(stable, np.broadcast_to(wanted, stable.shape), rtol=3e-6, atol=1e-44)
    assert not np.allclose(naive, wanted, rtol=3e-6, atol=1e-44), "the formula was right as it stood"


def softmax(x):
    return np.exp(x - log_total(x))


STABLE_GRADIENTS = {
    "log softmax": (lambda x: log(softmax_op(x, axis=0))[0], lambda x: np.eye(3)[0] - softmax(x)),
    "log sum exp": (lambda x: log(exp(x).sum()), softmax),
    "log sum exp, kept": (lambda x: log(exp(x).sum(keepdims=True)), softmax),
    "softplus": (lambda x: log(1 + exp(x)), lambda x: np.exp(-np.logaddexp(0, -x))),
    "log sigmoid": (lambda x: log(sigmoid(x)), lambda x: np.exp(-np.logaddexp(0, x))),
    "log 1 - sigmoid": (lambda x: log(1 - sigmoid(x)), lambda x: -np.exp(-np.logaddexp(0, -x))),
}


@pytest.mark.parametrize("name", STABLE_GRADIENTS)
def test_so_are_their_gradients(name):
    formula, meaning = STABLE_GRADIENTS[name]
    x, given = leaf(3), np.array([200.0, 0.0, -200.0], np.float32)
    (stable,) = evaluate(optimised(*gradients(formula(x), [x])), {x: given})
    np.testing.assert_allclose(stable, meaning(given.astype(np.float64)), rtol=1e-6, atol=1e-7)


# --- what is left as it stands, since floats have a limited range and nan is meant


def factored(w, h):
    return (w * h * np.float16(1 / 4096)).sum()


def guarded(a, x):
    quotient = a / x * x
    return where(gc.isnan(quotient), -1.0, quotient)


AS_THEY_STAND = {
    "mean of products": (factored, [np.ones(4096, np.float16), np.full(4096, 100, np.float16)]),
    "its gradient": (lambda w, h: gradients(factored(w, h), [w])[0], [np.float16(1), np.full(4096, 100, np.float16)]),
    "scaled sum": (lambda v: (v * np.float32(1e-30)).sum(), [np.full(4, 3e38, np.float32)]),
    "guard of a quotient": (guarded, [np.ones(3, np.float32), np.array([0, 1, np.inf], np.float32)]),
    "cancelled multiples": (lambda x: x - x * 0.5, [np.array([np.inf, 1], np.float32)]),
    "sum of nothing": (lambda x: expand(x, (0,)).sum(), [np.float32(np.inf)]),
}


@pytest.mark.parametrize("name", AS_THEY_STAND)
def test_no_rule_makes_nan_or_infinity_or_removes_what_is_asked_for(name):
    formula, values = AS_THEY_STAND[name]
    leaves = [leaf(*v.shape, dtype=v.dtype.name) for v in values]
    node = formula(*leaves)
    given = dict(zip(leaves, values, strict=True))
    np.testing.assert_array_equal(evaluate(optimised(node), given), evaluate([node], given))


@pytest.mark.filterwarnings("error")
def test_constants_too_large_to_be_merged_are_told_without_a_warning():
    x = leaf(3)
    (merged,) = optimised(x * 1e30 * 1e30 * 1e-30)
    np.testing.assert_array_equal(evaluate([merged], {x: np.zeros(3, np.float32)}), [np.zeros(3)])


# --- all together


def run(program, training, values, dims, draws, **options):
    ready = run_pipeline(program, TARGET, training=training, **options)
    outputs, news = ReferenceTarget().compile(ready).run(values, dims, draws)
    return [*outputs, *news]


REQUIRED = tuple(each for each in PIPELINE if not each.optional)


@pytest.mark.parametrize("seed", range(60))
def test_exact_rules_change_no_bit_of_a_random_program(seed):
    case = random_case(Numbers(seed), 16)
    given = (case.program, case.training, case.values, case.dims, case.draws)
    before = run(*given, passes=REQUIRED)
    after = run(*given, disable=("reassoc", "stabilise"))
    for a, b, exact in zip(before, after, case.exact, strict=False):
        assert same_bits(a, b) if exact else np.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def network():
    """A classifier with everything that training brings: masks, sums of broadcasts, views, statistics."""
    x, labels = leaf(8, 6), leaf(8, dtype="int64", name="labels")
    rng = np.random.default_rng(0)
    w, v = (Variable(rng.standard_normal(s).astype(np.float32), n) for s, n in (((6, 5), "w"), ((5, 4), "v")))
    hidden = relu(x @ w) + tanh(x[:, :5]) - x[:, 1:].clip(-1, 1)
    logits = (hidden - hidden.mean(axis=0)) / sqrt(hidden.var(axis=0) + 1e-5) @ v
    loss = -log(gc.softmax(logits, axis=1))[gc.arange(8), labels].mean()
    grads = gradients(loss, [w, v])
    updates = tuple((p, p - 0.1 * g) for p, g in zip((w, v), grads, strict=True))
    values = {x: rng.standard_normal((8, 6)).astype(np.float32), labels: rng.integers(0, 4, 8)}
    return Program((x, labels), (loss,), updates), values | {w: w.initial, v: v.initial}


def test_a_training_step_is_the_same_after_all_passes_and_smaller():
    program, values = network()
    before = run(program, True, values, {}, {}, passes=REQUIRED)
    after = run(program, True, values, {}, {})
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    sizes = [len(run_pipeline(program, TARGET, training=True, passes=p).nodes()) for p in (REQUIRED, PIPELINE)]
    assert sizes[1] < sizes[0]


def test_the_result_is_a_fixpoint():
    program, _ = network()
    once = run_pipeline(program, TARGET, training=True)
    assert run_pipeline(once, TARGET, training=True) is once


@pytest.mark.parametrize("layer", [sigmoid, tanh, relu])
@pytest.mark.parametrize("length", [100, 1_000])
def test_programs_are_linear_in_the_length_of_a_gradient_chain(layer, length):
    def sizes(count):
        x = y = leaf(3)
        for _ in range(count):
            y = layer(y * 1.01 + x)
        program = program_of(*gradients(y.sum(), [x]))
        return len(program.nodes()), len(run_pipeline(program, TARGET, training=True).nodes())

    for twice, once in zip(sizes(2 * length), sizes(length), strict=True):
        assert twice / once <= 2.1


# --- switches


def test_what_does_not_exist_cannot_be_switched_off():
    with pytest.raises(ArgumentError) as error:
        optimised(leaf(3), disable=("simplfy", "mul_on"))
    assert "'simplfy'; did you mean 'simplify'?" in str(error.value)
    assert "'mul_on'; did you mean 'mul_one'" in str(error.value)


@pytest.mark.parametrize("name", ["resolve_mode", "decompose"])
def test_what_programs_mean_cannot_be_switched_off(name):
    with pytest.raises(ArgumentError, match=name):
        optimised(leaf(3), disable=(name,))


@pytest.mark.parametrize("name", ["simplify", "algebra", "exact", "mul_one"])
def test_a_pass_a_group_a_class_and_a_rule_can_be_switched_off(name):
    x = leaf(3)
    assert optimised(x * 1) == (x,)
    assert optimised(x * 1, disable=(name,)) == (x * 1,)


def test_stability_can_be_switched_off():
    x = leaf(3)
    assert optimised(log(1 + x)) == (log1p(x),)
    assert optimised(log(1 + x), disable=("stabilise",)) == (log(x + 1),)


def test_rules_that_need_finite_values_are_off_unless_asked_for():
    x = leaf(3)
    assert optimised(x - x) == (x - x,)
    assert optimised(x - x, enable=("finite",))[0].op.name == "broadcast_to"


def test_everything_can_be_switched_off_at_once():
    program, values = network()
    given = (program, True, values, {}, {})
    for a, b in zip(run(*given, passes=REQUIRED), run(*given, disable=switches()), strict=True):
        assert same_bits(a, b)


def test_a_rule_and_a_pass_of_ones_own():
    seen = []

    def count_nodes(program, options):
        seen.append((len(program.nodes()), options.training))
        return program

    x = leaf(3)
    passes = (*PIPELINE, Pass("count", count_nodes))
    assert optimised(tanh(x), passes=passes, training=True) == (tanh(x),)
    assert seen == [(2, True)]
    assert "count" in switches(passes)
    optimised(tanh(x), passes=passes, disable=("count",))
    assert len(seen) == 1


# --- between passes


def dumps(folder):
    return sorted(path for run in folder.iterdir() for path in run.iterdir())


def test_programs_are_dumped_after_each_pass_that_changes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path / "dumps"))
    x = leaf(3)
    optimised(doubled(identity(x)) * 1)
    files = dumps(tmp_path / "dumps")
    assert [file.name for file in files] == ["00-input.txt", "01-inline.txt", "02-simplify.txt"]
    assert "multiply(x, 2.0)" in files[-1].read_text()
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700


def test_a_dump_cannot_leave_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    sneaky = Pass("../../sneaky pass", lambda program, options: Program(program.inputs, (tanh(program.outputs[0]),)))
    optimised(leaf(3), passes=(sneaky,))
    assert [file.name for file in dumps(tmp_path)] == ["00-input.txt", "01-______sneaky_pass.txt"]


def test_each_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHC_DUMP", str(tmp_path))
    optimised(leaf(3))
    optimised(leaf(3))
    assert len(os.listdir(tmp_path)) == 2


def test_a_pass_that_breaks_the_program_is_named(monkeypatch):
    monkeypatch.setenv("GRAPHC_VERIFY", "1")
    x, w = leaf(3), Variable([1.0, 2.0], "w")
    breaking = Pass("breaking", lambda program, options: Program(program.inputs, program.outputs, ((w, x),)))
    with pytest.raises(InternalError, match="after pass breaking") as error:
        optimised(tanh(x), passes=(*PIPELINE, breaking))
    assert "<w: float32[2]> is given <x: float32[3]>" in str(error.value)


def test_a_pass_that_fails_is_named():
    def failing(program, options):
        raise InternalError("something is off")

    with pytest.raises(InternalError, match="in pass failing: something is off"):
        optimised(leaf(3), passes=(Pass("failing", failing),))


@pytest.mark.parametrize(("level", "lines"), [("0", 0), ("1", 1), ("2", 5), ("3", 6)])
def test_progress_is_said_as_loudly_as_asked(level, lines, monkeypatch, capsys):
    monkeypatch.setenv("GRAPHC_DEBUG", level)
    optimised(leaf(3) * 1)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert all(line.startswith("graphc: ") for line in said)
    assert ("graphc: simplify: mul_one fired 1 times" in said) == (level == "3")


def test_a_debug_level_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("GRAPHC_DEBUG", "verbose")
    with pytest.raises(ArgumentError, match="GRAPHC_DEBUG is a number from 0 to 3, got 'verbose'"):
        optimised(leaf(3))
