"""The rewriting engine: what patterns match, and what it does with rules, good and bad."""

from types import ModuleType

import pytest

from graphc.errors import ArgumentError, InternalError
from graphc.ir import Graph, Program
from graphc.operands import cast, constant, expand, reduce_sum
from graphc.ops.activations import softmax_op
from graphc.ops.math import add, exp, log, maximum, multiply, negative, subtract, tanh
from graphc.ops.shape import concat_op, transpose_op
from graphc.ops.slicing import slice_op
from graphc.ops.state import placeholder
from graphc.passes.rewrite import Number, Rewriter, rewrite, rule, rules_of


@pytest.fixture(autouse=True)
def graph():
    """Every test has a graph of its own."""
    with Graph("test") as graph:
        yield graph


def leaf(*shape, dtype="float32", name="x"):
    return placeholder(name, shape, dtype)


def rewritten(node, *rules, **options):
    return rewrite(Program((), (node,)), rules, **options).outputs[0]


# --- what patterns match


@rule(fp="exact")
def mul_one(x):
    return x * 1, x


@rule(fp="reassoc")
def factor(a, b, c):
    return a * b + a * c, a * (b + c)


@rule(fp="exact")
def add_nothing(x):
    return x + -0.0, x


@rule(fp="reassoc")
def add_any_zero(x):
    return x + 0, x


@rule(fp="exact")
def self_difference(x):
    return x - x, 0


@rule(fp="exact")
def twice_summed(x, *, axes):
    return reduce_sum(reduce_sum(x, axes=axes), axes=axes), reduce_sum(x, axes=axes)


@rule(fp="exact")
def summed_rows(x):
    return reduce_sum(x, axes=(1,)), reduce_sum(negative(x), axes=(1,))


@rule(fp="exact")
def log_softmax(x, *, axis):
    return log(softmax_op(x, axis=axis)), softmax_op(x, axis=axis)


@rule(fp="reassoc")
def scaled_twice(x, c: Number, d: Number):
    return (x * c) * d, x * (c * d)


@rule(fp="exact", where=lambda x: x.dtype == "float64")
def only_float64(x):
    return tanh(x), x


def test_a_number_matches_a_constant_that_holds_it_everywhere():
    x, n = leaf(3, 5), leaf(3, dtype="int64")
    assert rewritten(x * 1, mul_one) is x
    assert rewritten(x * expand(constant(1.0), (3, 5)), mul_one) is x
    assert rewritten(n * 1, mul_one) is n
    assert rewritten(x * 2, mul_one) is x * 2
    ones = x * constant([1.0] * 5)  # not known to be one number
    assert rewritten(ones, mul_one) is ones


def test_operands_of_commutative_ops_match_in_both_orders():
    x = leaf(3)
    assert rewritten(1 * x, mul_one) is x
    assert rewritten(x * 1, mul_one) is x


@pytest.mark.parametrize("left", [lambda a, b: a * b, lambda a, b: b * a])
@pytest.mark.parametrize("right", [lambda a, c: a * c, lambda a, c: c * a])
def test_matching_goes_back_when_a_first_choice_does_not_work_out(left, right):
    a, b, c = leaf(3), leaf(3), leaf(3)
    assert rewritten(left(a, b) + right(a, c), factor).op is multiply
    assert rewritten(left(a, b) + right(c, c), factor).op is add


def test_a_repeated_name_is_the_same_tensor():
    x, y = leaf(3), leaf(3)
    assert rewritten(x - y, self_difference) is x - y
    assert rewritten(x - x, self_difference) is rewritten(y - y, self_difference)


def test_zeros_of_both_signs_differ_for_exact_rules_only():
    x = leaf(3)
    assert rewritten(x + -0.0, add_nothing) is x
    assert rewritten(x + 0.0, add_nothing) is x + 0.0
    assert rewritten(x + 0.0, add_any_zero) is x
    assert rewritten(x + -0.0, add_any_zero) is x


def test_an_integer_zero_has_no_sign():
    n = leaf(3, dtype="int32")
    assert rewritten(n + 0, add_nothing) is n


def test_a_name_for_an_attribute_matches_any_value_but_only_one():
    x = leaf(3, 5)
    once = reduce_sum(x, axes=(1,))
    assert rewritten(reduce_sum(once, axes=(1,)), twice_summed) is once
    other = reduce_sum(once, axes=(0,))
    assert rewritten(other, twice_summed) is other


def test_a_given_attribute_matches_its_value():
    x = leaf(3, 5)
    across, down = reduce_sum(x, axes=(1,)), reduce_sum(x, axes=(0,))
    with pytest.raises(InternalError, match="summed_rows"):  # it fires, and again on what it makes
        rewritten(across, summed_rows)
    assert rewritten(down, summed_rows) is down


def test_composites_match_as_any_op():
    x = leaf(3, 5)
    assert rewritten(log(softmax_op(x, axis=0)), log_softmax) is softmax_op(x, axis=0)


def test_a_number_parameter_matches_constants_only():
    x, y = leaf(3), leaf(3)
    assert rewritten((x * 2.0) * 3.0, scaled_twice).inputs[0] is x
    assert rewritten((x * y) * 3.0, scaled_twice) is (x * y) * 3.0
    assert rewritten((x * 2.0) * y, scaled_twice) is (x * 2.0) * y


def test_a_condition_restricts_what_was_matched():
    x, wide = leaf(3), leaf(3, dtype="float64")
    assert rewritten(tanh(wide), only_float64) is wide
    assert rewritten(tanh(x), only_float64) is tanh(x)


def test_a_number_on_the_right_side_takes_the_type_of_the_left():
    n = leaf(3, 5, dtype="int8")
    zero = rewritten(n - n, self_difference)
    assert str(zero.type) == "int8[3, 5]"


def test_a_function_of_the_node_sees_the_ops_and_inputs_it_asks_for():
    tried = []

    @rule(fp="exact", on={tanh, exp}, of=exp)
    def recorded(node):
        tried.append(node)

    x = leaf(3)
    rewritten(tanh(exp(x)) + exp(tanh(x)), recorded)
    assert tried == [tanh(exp(x))]


def test_of_can_name_the_op_of_each_input():
    @rule(fp="exact", on=subtract, of=(exp, None))
    def from_exp(node):
        return node.inputs[0]

    @rule(fp="exact", on=concat_op, of=exp)
    def all_exp(node):
        return exp(concat_op(*[i.inputs[0] for i in node.inputs], axis=0))

    x = leaf(3)
    assert rewritten(exp(x) - x, from_exp) is exp(x)
    assert rewritten(x - exp(x), from_exp) is x - exp(x)
    assert rewritten(concat_op(exp(x), exp(x), axis=0), all_exp).op is exp
    mixed = concat_op(exp(x), x, axis=0)
    assert rewritten(mixed, all_exp) is mixed


def test_on_can_be_a_condition_on_the_op():
    @rule(fp="exact", on=lambda op: op.kind == "view")
    def no_views(node):
        return node.inputs[0] if node.inputs[0].type is node.type else None

    x = leaf(3, 3)
    assert rewritten(transpose_op(x, axes=(1, 0)), no_views) is x
    part = slice_op(x, starts=(0, 0), steps=(1, 1), shape=(2, 3))
    assert rewritten(part, no_views) is part


def test_the_first_rule_that_fits_is_taken():
    @rule(fp="exact")
    def to_itself(x):
        return tanh(x), x

    @rule(fp="exact")
    def to_negative(x):
        return tanh(x), -x

    x = leaf(3)
    assert rewritten(tanh(x), to_itself, to_negative) is x
    assert rewritten(tanh(x), to_negative, to_itself) is -x


def test_a_pattern_says_what_it_cannot_do():
    with pytest.raises(ArgumentError, match="a pattern has no 'shape'"):

        @rule(fp="exact")
        def needs_a_shape(x):
            return expand(x, (3,)), x


def test_a_pattern_begins_with_an_op():
    with pytest.raises(ArgumentError, match="rule anything: its left side is"):

        @rule(fp="exact")
        def anything(x):
            return x, x * 1


# --- what the engine does


def test_a_program_that_no_rule_fits_is_returned_itself():
    x = leaf(3)
    program = Program((x,), (exp(x) + 2.0, tanh(x)))
    assert rewrite(program, [mul_one, factor]) is program


def test_inputs_come_first_so_one_walk_is_enough():
    @rule(fp="exact")
    def neg_neg(x):
        return negative(negative(x)), x

    x = leaf(3)
    tower = x
    for _ in range(8):
        tower = -(tower * 1)
    assert rewritten(tower, mul_one, neg_neg) is x
    assert rewritten(-tower, neg_neg, mul_one) is -x


def test_what_a_rule_makes_is_rewritten_too():
    @rule(fp="exact")
    def tanh_to_products(x):
        return tanh(x), exp(x * 1) * 1

    x = leaf(3)
    assert rewritten(tanh(x), tanh_to_products, mul_one) is exp(x)


def test_new_nodes_know_the_node_and_the_rule_they_come_from():
    a, b, c = leaf(3), leaf(3), leaf(3)
    before = a * b + a * c
    after = rewritten(before, factor)
    assert (after.occurrence.origin, after.occurrence.rule) == (before, "factor")
    assert after.occurrence.site == before.occurrence.site


def test_updates_are_rewritten_and_keep_their_variables():
    x, w = leaf(3), leaf(3)
    program = rewrite(Program((x,), (x,), ((w, x * 1),)), [mul_one])
    assert program == Program((x,), (x,), ((w, x),))


def test_equal_up_to_the_order_of_operands_becomes_one_node():
    a, b = leaf(3), leaf(3)
    program = rewrite(Program((a, b), (exp(a * b), exp(b * a))), [], commute=True)
    assert program.outputs[0] is program.outputs[1]
    apart = Program((a, b), (a - b, b - a))
    assert rewrite(apart, [], commute=True) is apart


def test_constants_come_last():
    x = leaf(3)
    assert rewritten(2.0 * x, commute=True) is x * 2.0
    assert rewritten(2.0 - x, commute=True) is 2.0 - x


def test_a_rule_that_changes_the_type_is_refused_by_name():
    @rule(fp="exact", on=tanh)
    def widens(node):
        return cast(node.inputs[0], "float64")

    with pytest.raises(InternalError, match=r"rule widens changed the type of .* to float64\[3\]"):
        rewritten(tanh(leaf(3)), widens)


def test_a_rule_that_fails_is_named():
    @rule(fp="exact", on=tanh)
    def joins_nothing(node):
        return concat_op(node, axis=7)

    with pytest.raises(InternalError, match="rule joins_nothing failed on <tanh"):
        rewritten(tanh(leaf(3)), joins_nothing)


@rule(fp="exact")
def there(x):
    return exp(x), tanh(x)


@rule(fp="exact")
def back(x):
    return tanh(x), exp(x)


@rule(fp="exact")
def grows(x):
    return exp(x), exp(exp(x))


@rule(fp="exact")
def counts_on(x, c: Number):
    return x + c, x + (c + 1)


@pytest.mark.parametrize("looping", [(there, back), (grows,), (counts_on,)], ids=lambda r: r[0].name)
def test_rules_that_loop_are_refused_by_name(looping):
    x = leaf(3)
    with pytest.raises(InternalError, match="does not end") as error:
        rewritten(exp(x) + tanh(x) if looping[0] is not counts_on else x + 1.0, *looping)
    assert all(each.name in str(error.value) for each in looping)


def test_a_rule_that_keeps_saying_the_same_does_not_loop():
    @rule(fp="exact", on=maximum)
    def nothing_new(node):
        return maximum(*node.inputs)

    node = maximum(leaf(3), leaf(3))
    assert rewritten(node, nothing_new) is node


def test_rules_are_found_in_modules_in_their_order():
    module = ModuleType("rules")
    module.second, module.first, module.other = back, there, exp
    assert rules_of(module) == (back, there)


# --- cost


def chain(length):
    x = leaf(3)
    y = x
    for _ in range(length):
        y = tanh(y * 1)
    return Program((x,), (y,))


def visits(program, *rules):
    rewriter = Rewriter(rules)
    rewriter.run(program)
    return rewriter.visits


@pytest.mark.parametrize("length", [1_000, 10_000])
def test_work_is_linear_in_the_length_of_a_chain(length):
    assert visits(chain(2 * length), mul_one) / visits(chain(length), mul_one) <= 2.1


def test_a_deep_chain_is_rewritten():
    deep = chain(100_000)
    assert len(rewrite(deep, [mul_one]).nodes()) == 100_001


def test_a_node_is_visited_once_however_many_use_it():
    x = leaf(3)
    y = x
    for _ in range(100):
        y = y + y
    assert visits(Program((x,), (y,))) == 101
