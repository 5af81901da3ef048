"""Symbolic gradients: what the functions return, own rules, tuples, dtypes, depth, and where paths are cut."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from error_testing import check_form
from gradient_testing import grad, run, slope, variable
from op_testing import call, samples_of

import graphc as gc
from graphc.composites import Composite
from graphc.evaluate import evaluate
from graphc.ir import toposort
from graphc.ops import REGISTRY
from graphc.passes import gradients as room
from graphc.types import is_float


@pytest.fixture(autouse=True)
def graph():
    with gc.Graph() as graph:
        yield graph


# --- gradients


def test_the_gradient_is_of_the_sum_of_all_ys():
    w = variable()
    assert grad(w * w, w).tolist() == [2, 4, 6]
    assert grad([w * w, w.sum() * 10], w).tolist() == [12, 14, 16]
    assert grad([w * w, w * w], w).tolist() == [4, 8, 12]


def test_ys_are_weighted():
    w = variable()
    y = w * w
    assert grad(y, w, grad_ys=[np.array([1.0, 10, 100])]).tolist() == [2, 40, 600]
    assert grad(y, w, grad_ys=2).tolist() == [4, 8, 12]
    assert grad(y, w, grad_ys=[np.float32(2)]).tolist() == [4, 8, 12]
    assert grad([y, y], w, grad_ys=[1, 2.0]).tolist() == [6, 12, 18]
    assert grad(y, w, grad_ys=[w]).tolist() == [2, 8, 18]


def test_a_y_may_be_an_x_and_an_x_may_be_in_between():
    w = variable()
    middle = gc.exp(w)
    y = middle * middle
    of_y, of_middle, of_w = run(gc.gradients(y, [y, middle, w]))
    assert of_y.tolist() == [1, 1, 1]
    np.testing.assert_allclose(of_middle, 2 * np.exp([1, 2, 3]))
    np.testing.assert_allclose(of_w, 2 * np.exp(2 * np.array([1.0, 2, 3])))


def test_an_x_keeps_its_paths_around_another_x():
    w = variable()
    middle = w * 2
    y = middle * w
    of_middle, of_w = run(gc.gradients(y, [middle, w]))
    assert of_middle.tolist() == [1, 2, 3] and of_w.tolist() == [4, 8, 12]


def test_xs_may_be_one_tensor_a_placeholder_or_repeated():
    x = gc.placeholder("x", shape=("n",), dtype="float64")
    (alone,) = gc.gradients((x**3).sum(), x)
    assert run(alone, {x: [1.0, 2.0]}).tolist() == [3, 12]
    first, second = gc.gradients(x * x, [x, x])
    assert first is second is gc.gradients(x * x, x)[0]


def test_asking_again_builds_nothing(graph):
    w = variable()
    loss = gc.logsumexp(gc.tanh(w) * w)
    kept = gc.gradients(loss, [w])
    before = len(graph)
    for _ in range(5):
        again = gc.gradients(loss, [w])
        assert again[0] is kept[0] and len(graph) == before


def test_frozen_variables_have_gradients_but_are_not_minimised():
    w, frozen = variable(), variable(name="frozen")
    frozen.trainable = False
    loss = (w * frozen).sum()
    assert grad(loss, frozen).tolist() == [1, 2, 3]
    assert set(gc.optim.SGD(lr=1.0).minimize(loss)) == {w}


def test_what_no_gradient_reaches_is_an_error_zeros_or_none():
    w, other = variable(), variable(name="other")
    loss = (w * gc.stop_gradient(other)).sum()
    with pytest.raises(gc.GradientError, match="no gradient reaches 'other'"):
        gc.gradients(loss, [w, other])
    of_w, of_other = gc.gradients(loss, [w, other], disconnected="none")
    assert of_w is not None and of_other is None
    assert run(gc.gradients(loss, [other], disconnected="zero"))[0].tolist() == [0, 0, 0]


def test_gradients_are_nodes_like_others():
    w = variable()
    (g,) = gc.gradients((w**3).sum(), [w])
    (h,) = gc.gradients(g.sum(), [w])
    assert run([g * 2, h]) == pytest.approx(np.array([[6, 24, 54], [6, 12, 18]]))
    waves = gc.sin(w)
    (of_waves,) = gc.gradients(waves, [w])
    assert of_waves.occurrence.origin is waves and of_waves.occurrence.rule == "gradient"
    assert str(of_waves.occurrence.site).endswith("waves = gc.sin(w)")


# --- products with Jacobians


def network(w):
    """A function of a vector of 4 with curvature everywhere: matmul, softmax, a reduction, a gather and a slice."""
    hidden = gc.tanh(w[None, :] @ np.linspace(-1, 1, 12).reshape(4, 3))
    scores = gc.softmax(hidden * w[1:4], axis=-1)
    picked = gc.take(gc.exp(w * 0.5), [3, 0, 0])
    return gc.concat([scores[0], picked, gc.layer_norm(w, 4)])


POINT = np.array([0.3, -0.7, 1.1, 0.2])
DIRECTION = np.array([1.0, -2.0, 0.5, 3.0])


def test_vjp_equals_finite_differences():
    w = variable(POINT)
    y = network(w)
    weights = np.linspace(-2, 1, 10)
    (found,) = gc.vjp(y, [w], [weights])
    assert run(found) @ DIRECTION == pytest.approx(slope(y * weights, w, POINT, DIRECTION), rel=1e-6)


def test_jvp_equals_finite_differences():
    w = variable(POINT)
    y = network(w)
    found = run(gc.jvp(y, [w], [DIRECTION]))
    h = 1e-6
    with gc.Session() as session:
        ahead, behind = (session.run(y, {w: POINT + sign * h * DIRECTION}) for sign in (1, -1))
    np.testing.assert_allclose(found, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-8)


def test_jvp_adds_over_xs_and_is_zero_where_nothing_depends():
    a, b = variable(name="a"), variable(name="b")
    assert run(gc.jvp(a * b, [a, b], [[1.0, 0, 0], [0.0, 1, 0]])).tolist() == [1, 2, 0]
    assert run(gc.jvp(a * a, [b], [[1.0, 1, 1]])).tolist() == [0, 0, 0]
    assert run(gc.jvp(a * a, [a, b], [[1.0, 1, 1], [1.0, 1, 1]])).tolist() == [2, 4, 6]


def test_jvp_of_jvp_is_the_second_directional_derivative():
    w = variable(POINT)
    loss = network(w).sum()
    twice = run(gc.jvp(gc.jvp(loss, [w], [DIRECTION]), [w], [DIRECTION]))
    assert twice == pytest.approx(DIRECTION @ run(gc.hessian(loss, w)) @ DIRECTION)


def test_the_hessian_is_symmetric_and_hvp_is_its_product():
    w = variable(POINT)
    loss = (network(w) ** 2).sum()
    hessian = run(gc.hessian(loss, w))
    assert hessian.shape == (4, 4)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run(gc.hvp(loss, w, DIRECTION)), hessian @ DIRECTION)
    (g,) = gc.gradients(loss, [w])
    for k, unit in enumerate(np.eye(4)):
        assert slope(g[k], w, POINT, DIRECTION) == pytest.approx(hessian[k] @ DIRECTION, rel=1e-5)
        assert run(gc.hvp(loss, w, unit))[k] == pytest.approx(hessian[k, k])


def test_the_hessian_of_a_matrix_and_of_a_linear_loss():
    w = variable(np.arange(4.0).reshape(2, 2))
    hessian = run(gc.hessian((w**3).sum() / 6, w))
    assert hessian.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(hessian.reshape(4, 4), np.diag([0.0, 1, 2, 3]))
    assert not run(gc.hessian(w.sum(), w)).any() and not run(gc.hvp(w.sum(), w, w)).any()


@pytest.mark.parametrize("y_shape", [(), (3,), (2, 3), (0,), (2, 0)])
@pytest.mark.parametrize("x_shape", [(), (2,), (1, 2), (0,)])
def test_the_jacobian_has_the_shape_of_y_and_then_of_x(y_shape, x_shape):
    x = variable(np.ones(x_shape), "x")
    weights = np.arange(np.prod(y_shape)).reshape(y_shape)
    jacobian = run(gc.jacobian((x * 2).sum() * weights, x))
    assert jacobian.shape == (*y_shape, *x_shape)
    rows = weights.reshape((*y_shape, *[1] * len(x_shape)))
    assert (jacobian == np.broadcast_to(2 * rows, jacobian.shape)).all()


def test_the_jacobian_of_a_network_equals_its_products():
    w = variable(POINT)
    y = network(w)
    jacobian, forward, (backward,) = run([gc.jacobian(y, w), gc.jvp(y, [w], [DIRECTION]), gc.vjp(y, [w], [y])])
    np.testing.assert_allclose(jacobian @ DIRECTION, forward)
    np.testing.assert_allclose(run(y) @ jacobian, backward)


# --- own rules


def test_a_custom_gradient_is_used_and_can_be_differentiated():
    @gc.custom_gradient
    def cubed(x):
        return x**3, lambda dy: dy * 3 * x**2

    w = variable()
    (g,) = gc.gradients(cubed(w).sum(), [w])
    (h,) = gc.gradients(g.sum(), [w])
    value, first, second = run([cubed(w), g, h])
    assert value.tolist() == [1, 8, 27] and first.tolist() == [3, 12, 27] and second.tolist() == [6, 12, 18]


def test_a_custom_gradient_may_differ_from_the_true_one():
    @gc.custom_gradient
    def clipped(x, *, limit=1.0):
        return x * 1, lambda dy: gc.clip(dy, -limit, limit)

    w = variable()
    assert grad((clipped(w) * [0.5, 5.0, -5.0]).sum(), w).tolist() == [0.5, 1, -1]
    assert grad((clipped(w, limit=2.0) * [0.5, 5.0, -5.0]).sum(), w).tolist() == [0.5, 2, -2]


def test_a_custom_gradient_with_several_inputs_and_none():
    @gc.custom_gradient
    def scaled(x, factor):
        return x * factor, lambda dy: (dy * factor, None)

    a, b = variable(name="a"), variable((5.0, 6.0, 7.0), "b")
    y = scaled(a, b)
    assert grad(y, a).tolist() == [5, 6, 7]
    assert gc.gradients(y, [b], disconnected="none") == [None]
    with pytest.raises(gc.GradientError, match=r"b: cut by scaled \(its rule passes none\)"):
        gc.gradients(y, [b])


def test_a_custom_gradient_with_several_outputs():
    @gc.custom_gradient
    def halves(x):
        return (x[:1], x[1:]), lambda first, second: gc.concat([first * 10, second * 100])

    w = variable()
    first, second = halves(w)
    assert grad([first, second], w).tolist() == [10, 100, 100]
    with pytest.raises((gc.GraphcError, TypeError)):
        gc.gradients(gc.topk(w, 2)[1], [w])


def test_a_custom_gradient_that_refers_to_a_tensor_outside():
    scale = variable((2.0, 3.0, 4.0), "scale")

    @gc.custom_gradient
    def scaled(x):
        return x * scale, lambda dy: dy * scale * 10

    w = variable()
    y = scaled(w)
    assert run(y).tolist() == [2, 6, 12]
    assert grad(y, w).tolist() == [20, 30, 40]
    assert gc.gradients(y, [scale], disconnected="none") == [None]


def test_a_straight_through_estimator_trains_what_it_rounds():
    @gc.custom_gradient
    def rounded(x):
        return gc.round(x), lambda dy: dy

    w = variable((0.4, 1.6, 2.5))
    assert grad((rounded(w) ** 2).sum(), w).tolist() == [0, 4, 4]


def test_a_composite_is_differentiated_through_its_body_in_any_nest():
    @gc.composite
    def inner(x, y):
        return gc.sin(x) * y

    @gc.composite
    def outer(x, y):
        return inner(x, y) + inner(y, x), x * y

    a, b = variable(name="a"), variable((0.5, 0.1, -1.0), "b")
    total, product = outer(a, b)
    plain = gc.sin(a) * b + gc.sin(b) * a
    for order in (total * product, total, product):
        direct = plain * (a * b) if order is not total and order is not product else plain if order is total else a * b
        for x in (a, b):
            np.testing.assert_allclose(grad(order, x), grad(direct, x), rtol=1e-12)


# Composites whose bodies have kinks at their samples, which their rules know to be none.
KINKED = {"masked_softmax": "its maximum with 1 ties where only one element of a row is finite"}

RULED = [op for op in REGISTRY.values() if isinstance(op, Composite) and callable(op.vjp) and op.name not in KINKED]
SMOOTH = [(op, s) for op in RULED for s in samples_of(op) if s.differentiable]


@pytest.mark.parametrize(("op", "sample"), [pytest.param(op, s, id=op.name) for op, s in SMOOTH])
def test_a_given_rule_agrees_with_the_one_derived_from_the_body(op, sample):
    derived = dataclasses.replace(op, vjp=None, bodies={})
    found = []
    for version in (op, derived):
        made = call(version, sample)
        xs = [x for x in made.feeds if is_float(x.dtype)]
        loss = [y * np.linspace(-1, 2, int(y.size)).reshape(y.shape) for y in made.results if is_float(y.dtype)]
        roots = gc.gradients(loss, xs, disconnected="zero")
        found.append([np.asarray(v) for v in evaluate(roots, made.feeds)])
    for given, through in zip(*found, strict=True):
        np.testing.assert_allclose(given, through, rtol=1e-9, atol=1e-10)


# --- results that are tuples


def test_one_or_both_results_of_an_op_may_be_used():
    w = variable((3.0, 1.0, 2.0))
    values, places = gc.topk(w, 2)
    assert grad(values * [1.0, 10.0], w).tolist() == [1, 0, 10]
    assert grad((values * gc.cast(places, "float64")).sum(), w).tolist() == [0, 0, 2]
    first, second, third = gc.split(w, 3)
    assert grad(second * 5, w).tolist() == [0, 5, 0]
    assert grad(third * first, w).tolist() == [2, 0, 3]


def test_results_that_are_not_used_get_no_cotangent():
    seen = []

    def rule(g, y, x):
        seen.append([part is not None for part in g])
        return (g[0] * 2 if g[0] is not None else g[1] * 3,)

    pair = gc.composite(vjp=rule, name="pair")(lambda x: (x * 2, x * 3))
    w = variable()
    assert grad(pair(w)[0], w).tolist() == [2, 2, 2]
    assert grad(pair(w)[1], w).tolist() == [3, 3, 3]
    assert seen == [[True, False], [False, True]]


# --- dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_cotangent_has_the_dtype_of_its_tensor(dtype):
    x = gc.placeholder("x", shape=("n",), dtype=dtype)
    wide = gc.cast(x, "float64")
    loss = gc.layer_norm(x[None] * 2.5, x.shape[0] if isinstance(x.shape[0], int) else (x.shape[0],)).sum()
    loss = loss + gc.cast((wide * wide).mean(), dtype) + gc.softmax(x).max()
    of_x, of_wide = gc.gradients(loss, [x, wide])
    assert of_x.dtype == dtype and of_wide.dtype == "float64"
    assert of_x.shape == x.shape


def test_no_gradient_passes_integers():
    w = variable()
    whole = gc.cast(w, "int64")
    loss = (gc.cast(whole, "float64") * w).sum()
    assert grad(loss, w).tolist() == [1, 2, 3]


# --- size and depth


def pulled(monkeypatch):
    """The names of the ops whose rule was asked, in order."""
    asked = []
    rule = room.pulled_back

    def counted(node, g):
        asked.append(node.op.name)
        return rule(node, g)

    monkeypatch.setattr(room, "pulled_back", counted)
    return asked


def test_a_chain_of_100_000_ops(monkeypatch):
    w = variable(0.5)
    y = w
    for k in range(100_000):
        y = y + (k % 2)
    asked = pulled(monkeypatch)
    (g,) = gc.gradients(y, [w])
    assert asked == ["add"] * 100_000
    assert run(g) == 1


@pytest.mark.parametrize("depth", [10, 100, 1000])
def test_every_node_on_a_path_is_asked_once(monkeypatch, depth):
    w = variable(0.5)
    y = w
    for _ in range(depth):
        y = gc.sin(y) * y
    off_path = gc.exp(gc.constant(2.0))
    asked = pulled(monkeypatch)
    (g,) = gc.gradients(y * off_path, [w])
    assert len(asked) == 2 * depth + 1 and "exp" not in asked
    assert len(toposort([g])) <= 8 * depth + 10


def test_paths_that_fork_and_meet_are_followed_once(monkeypatch):
    w = variable(1.0)
    y = w
    for _ in range(60):
        y = y + y * 1.0
    asked = pulled(monkeypatch)
    (g,) = gc.gradients(y, [w])
    assert len(asked) == 120
    assert run(g) == 2.0**60


def test_only_the_paths_to_what_is_asked_are_followed(monkeypatch):
    a, b = variable(name="a"), variable(name="b")
    loss = (gc.sin(a) * gc.cos(gc.exp(b))).sum()
    asked = pulled(monkeypatch)
    gc.gradients(loss, [a])
    assert "sin" in asked and "cos" not in asked and "exp" not in asked


# --- reports on cut paths


def cut(loss, *xs):
    """The lines of the report about the paths from `xs` to the loss."""
    with pytest.raises(gc.GradientError) as caught:
        gc.gradients(loss, list(xs))
    text = str(caught.value)
    check_form(text)
    assert all(repr(x.display_name) in text.splitlines()[0] for x in xs)
    return [line.strip() for line in text.splitlines()[1:]]


CUTS = {
    "argmax": (lambda w: gc.cast(gc.argmax(w), "float64"), "argmax (it is a position)"),
    "integer cast": (lambda w: gc.cast(gc.cast(w, "int32"), "float64"), "cast (it is int32[3])"),
    "stop_gradient": (gc.stop_gradient, "stop_gradient (stop_gradient cuts it)"),
    "floor": (gc.floor, "floor (it is piecewise constant)"),
    "sign": (gc.sign, "sign (it is piecewise constant)"),
    "comparison": (lambda w: gc.cast(w > 0, "float64"), "greater (it is true or false)"),
    "choice by comparison": (lambda w: gc.where(w > 0, 1.0, 0.0), "greater (it is true or false)"),
    "positions of topk": (lambda w: gc.cast(gc.topk(w, 2)[1], "float64"), "item (it is int64[2])"),
    "index": (lambda w: gc.take(np.ones(5), gc.cast(w, "int64")), "cast (it is int64[3])"),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_named_with_its_reason_and_line(name):
    function, says = CUTS[name]
    w = variable()
    first, *_ = cut(function(w).sum() * 2, w)
    assert first.startswith("w: cut ") and f"by {says}: test_gradients.py:" in first


def test_the_last_connected_tensor_is_named():
    w = variable()
    hidden = gc.tanh(w) * 2
    chosen = gc.argmax(hidden)
    lines = cut(gc.cast(chosen, "float64"), w)
    assert lines[0].startswith("w: cut behind multiply by argmax (it is a position): test_gradients.py:")
    assert lines[0].endswith("chosen = gc.argmax(hidden)")


def test_every_cut_of_a_variable_and_every_variable_is_told():
    a, b = variable(name="a"), variable(name="b")
    lines = cut(gc.floor(a).sum() + gc.sign(a).sum() + gc.round(b).sum(), a, b)
    assert [line.partition(" (")[0] for line in lines[:3]] == ["a: cut by floor", "a: cut by sign", "b: cut by round"]


def test_a_variable_that_is_not_used_is_told_with_what_is():
    w, other = variable(), variable(name="other")
    x = gc.placeholder("x", shape=())
    lines = cut((w * gc.cast(x, "float64")).sum(), other)
    assert lines[0].startswith("other: not used in computing squeeze, which depends on")
    assert "w" in lines[0] and "x" in lines[0]


def test_a_value_that_another_run_computed_is_told():
    w = variable()
    hidden = gc.tanh(w)
    refed = gc.placeholder("refed", shape=(3,), dtype="float64")
    lines = cut((refed * refed).sum(), w)
    assert lines[0] == "w: not used in computing squeeze, which depends on refed"
    assert any("a value that another run computed carries no gradient" in line for line in lines)
    lines = cut((gc.constant(run(hidden)) ** 2).sum(), w)
    assert lines[0] == "w: not used in computing squeeze"


def test_a_frozen_module_is_told_by_minimize():
    layer = gc.nn.Linear(3, 1).freeze()
    loss = layer(np.ones((2, 3), "float32")).sum()
    with pytest.raises(gc.GradientError, match="it depends on 'bias', 'weight': name them in variables="):
        gc.optim.SGD(lr=0.1).minimize(loss)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: gc.gradients([], [w]), "ys is empty"),
        (lambda w: gc.gradients(w * w, ["w"]), "xs must be tensors of a graph, got str 'w'"),
        (lambda w: gc.jvp([w, w * 2], [w], [w]), "y must be one tensor, got 2"),
        (lambda w: gc.hessian(3.0, w), "the loss must be tensors of a graph, got float 3.0"),
        (lambda w: gc.jacobian([], w), "y must be one tensor, got 0"),
    ],
)
def test_wrong_arguments_are_told(wrong, says):
    with pytest.raises(gc.ArgumentError) as caught:
        wrong(variable())
    check_form(str(caught.value))
    assert says in str(caught.value) and "test_gradients.py:" in str(caught.value)


def test_gradients_of_random_expressions_equal_finite_differences():
    """Every composition of three of these functions: no pair of rules disagrees about shapes, dtypes or masks."""
    functions = [gc.sin, lambda x: x[::-1] * x, lambda x: gc.softmax(x) + x, lambda x: gc.where(x > 0, x**2, x)]
    functions += [lambda x: x.reshape(2, 2).T.reshape(4), lambda x: gc.cumsum(x) / 2, lambda x: x - x.mean()]
    w = variable(POINT)
    for f, g, h in itertools.product(functions, repeat=3):
        y = f(g(h(w)))
        assert grad(y, w) @ DIRECTION == pytest.approx(slope(y, w, POINT, DIRECTION), rel=1e-5, abs=1e-7)
