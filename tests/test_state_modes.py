"""Training or evaluation: which runs are what, what is committed besides, and what freezing means."""

import numpy as np
import pytest
from state_testing import variable

import graphc as gc
from graphc.ops.state import tracked

# --- the mode of a run


@pytest.fixture
def mode():
    """1 in training runs, 2 in all others."""
    return gc.by_mode(gc.constant(1.0), gc.constant(2.0))


def test_a_run_is_a_training_run_when_it_fetches_a_training_update(session, mode):
    w = variable(0.0)
    plain, training = w.assign(mode), w.assign(mode, training=True)
    assert float(session.run(mode)) == 2
    assert float(session.run([mode, plain])[0]) == 2 and float(session[w]) == 2
    assert float(session.run([mode, training])[0]) == 1 and float(session[w]) == 1
    assert float(session.run(training[w])) == 2  # the new value alone is no update


def test_a_run_can_be_told_its_mode(session, mode):
    w = variable(0.0)
    training = w.assign(mode, training=True)
    assert float(session.run(mode, training=True)) == 1
    assert float(session.run([mode, training], training=False)[0]) == 2 and float(session[w]) == 2
    assert float(session.compile(mode, training=True)()) == 1
    assert float(session.compile([mode, training], training=False)()[0]) == 2
    with pytest.raises(gc.ArgumentError, match="training must be True, False or None, got 'no'"):
        session.run(mode, training="no")


def test_each_way_to_assign_can_make_a_training_update(session, mode):
    w = variable(0.0)
    for update in (w.assign(mode, training=True), w.assign_add(mode, training=True), w.assign_sub(mode, training=True)):
        assert float(session.run([update, mode])[1]) == 1
    for update in (w.assign(mode), w.assign_add(mode), w.assign_sub(mode)):
        assert float(session.run([update, mode])[1]) == 2


def test_a_group_trains_if_one_of_its_updates_does(session, mode):
    a, b = variable(0.0, "a"), variable(0.0, "b")
    plain, training = a.assign(mode), b.assign(mode, training=True)
    assert float(session.run([gc.group(plain, training), mode])[1]) == 1
    assert float(session.run([plain, training, mode])[2]) == 1
    assert float(session.run([gc.group(plain), mode])[1]) == 2


def test_an_optimisers_update_is_a_training_one(session, mode):
    w = variable(1.0)
    train = gc.optim.SGD(lr=0.5).minimize(w * mode)
    session.run(train)
    assert float(session[w]) == 0.5
    session.run(train, training=False)
    assert float(session[w]) == -0.5


def test_the_branch_of_the_other_mode_is_not_computed(session):
    index = gc.placeholder("index", shape=(1,), dtype="int64")
    w = variable([5.0])
    out_of_range = gc.take(w, index)
    mode = gc.by_mode(out_of_range, w)
    assert session.run(mode, {index: [9]}).tolist() == [5]
    with pytest.raises(gc.GraphcError):
        session.run(mode, {index: [9]}, training=True)


def test_the_evaluation_graph_has_no_draws_and_no_writes():
    with gc.Graph(), gc.Session() as sess:
        x = gc.placeholder("x", shape=("n", 4))
        y = gc.dropout(gc.nn.BatchNorm1d(4)(x), 0.5)
        sess.run(y, {x: np.ones((2, 4))})
        (compiled,) = sess._plans.values()
        assert compiled.draws == () and compiled.updated == ()
        sess.run(y, {x: np.ones((2, 4))}, training=True)
        compiled = list(sess._plans.values())[1]
        assert len(compiled.draws) == 1 and len(compiled.updated) == 3


# --- auxiliary updates


def test_batch_statistics_update_in_training_runs_only_and_once_a_node(session):
    x = gc.placeholder("x", shape=("n", 2))
    norm = gc.nn.BatchNorm1d(2)
    y = norm(x)
    w = variable(1.0)
    train = gc.optim.SGD(lr=0.0).minimize((y * w).sum() + (norm(x) * w).sum())
    data = np.array([[1, 2], [3, 6], [5, 10]], "float32")
    session.run(y, {x: data})
    session.run([y, train], {x: data}, training=False)
    assert session[norm.running_mean].tolist() == [0, 0] and int(session[norm.num_batches_tracked]) == 0
    session.run([y, train, norm(x)], {x: data})
    np.testing.assert_allclose(session[norm.running_mean], [0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(session[norm.running_var], 0.9 + 0.1 * np.array([4, 16]), rtol=1e-6)
    assert int(session[norm.num_batches_tracked]) == 1


def test_statistics_are_updated_even_if_no_gradient_depends_on_them(session):
    x = gc.placeholder("x", shape=("n", 1))
    norm = gc.nn.BatchNorm1d(1, affine=False)
    w = variable(1.0)
    train = gc.optim.SGD(lr=0.1).minimize(norm(x).sum() + w)
    for update in (train, gc.group(train, variable(0.0, "other").assign(1.0))):
        session[norm.running_mean] = [0.0]
        session.run(update, {x: [[2.0], [4.0]]})
        np.testing.assert_allclose(session[norm.running_mean], [0.3], rtol=1e-6)


def test_several_statistics_on_one_variable_compose_in_the_order_of_creation(session):
    x, z = gc.placeholder("x", shape=("n", 1)), gc.placeholder("z", shape=("m", 1))
    norm = gc.nn.BatchNorm1d(1)
    first, second = norm(x), norm(z)
    feeds = {x: [[1.0], [1.0]], z: [[3.0], [3.0]]}
    for fetches in (first.sum() + second.sum(), [second, first]):
        session[norm.running_mean] = [0.0]
        session.run(fetches, feeds, training=True)
        np.testing.assert_allclose(session[norm.running_mean], [(0.9 * 0.1 * 1) + 0.1 * 3], rtol=1e-6)
    assert int(session[norm.num_batches_tracked]) == 4


def test_three_statistics_on_one_variable_and_two_on_another_compose(session):
    a, b = variable(1.0, "a"), variable(1.0, "b")
    x = gc.constant(0.0)
    chain = [(a, a * 2), (b, b * 10), (a, a + 3), (b, b + 7), (a, a * a)]
    total = sum((tracked(x + float(k), v, new) for k, (v, new) in enumerate(chain)), gc.constant(0.0))
    assert float(session.run(total, training=True)) == 10
    assert float(session[a]) == ((1 * 2) + 3) ** 2
    assert float(session[b]) == 1 * 10 + 7


def test_a_statistic_that_a_run_does_not_meet_is_not_updated(session):
    a, b = variable(0.0, "a"), variable(0.0, "b")
    x = gc.constant(1.0)
    trained, evaluated = tracked(x, a, a + 1), tracked(x, b, b + 1)
    y = gc.by_mode(trained, evaluated)
    tracked(x * 2, a, a + 100)
    for training in (True, False):
        session.run(y, training=training)
    assert (float(session[a]), float(session[b])) == (1, 0)


def test_an_overridden_statistic_is_not_updated(session):
    x = gc.placeholder("x", shape=("n", 1))
    norm = gc.nn.BatchNorm1d(1)
    y = norm(x)
    session.run(y * 2, {y: [[1.0]]}, training=True)
    assert int(session[norm.num_batches_tracked]) == 0


def test_a_failed_training_run_updates_no_statistic(session):
    x = gc.placeholder("x", shape=("n", 1))
    index = gc.placeholder("index", shape=(1,), dtype="int64")
    norm = gc.nn.BatchNorm1d(1)
    y = gc.take(norm(x).sum(axis=0), index)
    with pytest.raises(gc.GraphcError):
        session.run(y, {x: [[1.0], [2.0]], index: [5]}, training=True)
    assert int(session[norm.num_batches_tracked]) == 0 and session[norm.running_mean].tolist() == [0]


def test_a_statistic_and_an_update_of_one_variable_are_an_error_with_both_lines(session):
    x = gc.placeholder("x", shape=("n", 1))
    norm = gc.nn.BatchNorm1d(1)
    y = norm(x)
    reset = norm.running_mean.assign([5.0], training=True)
    with pytest.raises(gc.StateError, match="running_mean' is given two different values") as caught:
        session.run([y, reset], {x: [[1.0]]})
    assert "y = norm(x)" in str(caught.value) and "reset = norm.running_mean.assign" in str(caught.value)
    assert int(session[norm.num_batches_tracked]) == 0
    session.run([y, reset], {x: [[1.0]]}, training=False)
    assert session[norm.running_mean].tolist() == [5]


# --- freezing


def test_freezing_counts_when_minimize_is_called(session):
    a, b = variable(1.0, "a"), variable(1.0, "b")
    loss = a * b
    before = gc.optim.SGD(lr=0.5).minimize(loss)
    b.trainable = False
    after = gc.optim.SGD(lr=0.5).minimize(loss)
    assert set(before) == {a, b} and set(after) == {a}
    session.run(before)
    assert float(session[b]) == 0.5
    session.run(after)
    assert (float(session[a]), float(session[b])) == (0.25, 0.5)
    b.trainable = True
    session.run(after)
    assert (float(session[a]), float(session[b])) == (0.0, 0.5)


def test_a_module_frozen_later_is_still_trained_by_updates_built_before(session):
    x = gc.placeholder("x", shape=("n", 2))
    layer = gc.nn.Linear(2, 1)
    train = gc.optim.SGD(lr=0.1).minimize((layer(x) ** 2).mean())
    layer.freeze()
    before = session[layer.weight]
    session.run(train, {x: [[1.0, 2.0]]})
    assert (session[layer.weight] != before).all()
