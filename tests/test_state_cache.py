"""The plan cache: what makes two runs the same request, what is forgotten, and when the user is told."""

import itertools
import linecache
import warnings

import numpy as np
import pytest
from state_testing import variable

import graphc as gc


def counts(session):
    """Hits, misses and size."""
    return session.cache_info()[:3]


def test_the_same_request_compiles_once(session):
    x = gc.placeholder("x", shape=("n",))
    for size in (1, 2, 3, 0):
        session.run([x * 2, {"a": x}], {x: np.ones(size)})
    assert counts(session) == (3, 1, 1)
    session.run({"b": (x * 2, x)}, {"x": [1.0]})
    assert counts(session) == (4, 1, 1)


def test_the_order_of_feeds_makes_no_other_request(session):
    x, y, z = (gc.placeholder(name, shape=(None,)) for name in "xyz")
    values = {x: [1.0], y: [1.0, 2.0], z: [1.0, 2.0, 3.0]}
    for order in itertools.permutations(values.items()):
        assert session.run([x.sum(), y.sum(), z.sum()], dict(order)) == [1, 3, 6]
    assert counts(session) == (5, 1, 1)
    step = session.compile([x.sum(), y.sum(), z.sum()], feeds=[z, x, y])
    assert step(values[z], values[x], values[y]) == [1, 3, 6]
    assert counts(session) == (7, 1, 1)


def test_an_update_that_is_built_again_is_the_same_request(session):
    w = variable(0.0)
    for _ in range(3):
        session.run(w.assign(w + 1))
        session.run([w.assign(w + 1), w.assign(w + 1)])
    assert counts(session) == (5, 1, 1) and float(session[w]) == 6


def test_other_requests_have_other_plans(session):
    x = gc.placeholder("x", shape=(2,), default=[1.0, 1.0])
    w = variable([3.0, 3.0])
    h = x * w
    y = gc.by_mode(h, h + 1)
    update = w.assign(w, training=True)
    runs = [
        (lambda: session.run(y), [4, 4]),
        (lambda: session.run(y, training=True), [3, 3]),
        (lambda: session.run(y, {x: [2, 2]}), [7, 7]),
        (lambda: session.run(y, {h: [5, 5]}), [6, 6]),
        (lambda: session.run(y, {w: [2, 2]}), [3, 3]),
        (lambda: session.run(y, {w: [2, 2]}, training=True), [2, 2]),
        (lambda: session.run([y, update])[0], [3, 3]),
        (lambda: session.run([y, w.assign(w)])[0], [4, 4]),
        (lambda: session.run([h, y])[1], [4, 4]),
        (lambda: session.run([y, h])[0], [4, 4]),
    ]
    for _ in range(2):
        for run, expected in runs:
            assert run().tolist() == expected
    assert counts(session) == (10, 10, 10)


def test_other_shapes_have_the_sizes_of_their_own(session):
    x, y = gc.placeholder("x", shape=("n", None)), gc.placeholder("y", shape=("n",))
    z = (gc.ones((x.shape[0],)) + y).sum() + x.sum()
    shapes = [(2, 3), (3, 2), (2, 2), (0, 4), (2, 3), (3, 2)]
    for n, m in shapes:
        assert session.run(z, {x: np.ones((n, m)), y: np.ones(n)}) == n * m + 2 * n
        with pytest.raises(gc.FeedError, match=f"n = {n} from feed 'x'"):
            session.run(z, {x: np.ones((n, m)), y: np.ones(n + 1)})
    assert counts(session)[1:] == (1, 1)


def test_assumed_sizes_are_checked_for_every_new_shape(session):
    x = gc.placeholder("x", shape=("n",))
    pairs = x.reshape((-1, 2)).sum(axis=0)
    for size in (2, 4, 2, 4):
        assert session.run(pairs, {x: np.ones(size)}).tolist() == [size / 2] * 2
        with pytest.raises(gc.GuardError, match="the graph assumes"):
            session.run(pairs, {x: np.ones(size + 1)})


def test_very_many_shapes_are_not_all_remembered(monkeypatch):
    monkeypatch.setattr("graphc.runtime.feeds.MAX_SHAPES", 5)
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("n",))
        for size in (*range(20), *range(20)):
            assert session.run(x.sum(), {x: np.ones(size)}) == size
        (compiled,) = session._plans.values()
        assert len(compiled.intake._known) <= 5


def test_the_cache_is_bounded_and_forgets_what_was_not_used_longest(monkeypatch):
    monkeypatch.setattr("graphc.runtime.session.MAX_PLANS", 3)
    with gc.Graph(), gc.Session() as session:
        w = variable([1.0])
        a, b, c, d, e = (w + float(k) for k in range(5))
        for tensor in (a, b, c, a, d, e):  # b goes, then c
            session.run(tensor)
        assert counts(session) == (1, 5, 3)
        for tensor in (a, d, e):
            session.run(tensor)
        assert counts(session) == (4, 5, 3)
        for tensor in (b, c):
            session.run(tensor)
        assert counts(session) == (4, 7, 3)


def test_a_compiled_step_whose_plan_was_forgotten_still_works(monkeypatch):
    monkeypatch.setattr("graphc.runtime.session.MAX_PLANS", 1)
    with gc.Graph(), gc.Session() as session:
        w = variable([1.0])
        step = session.compile(w + 1.0)
        session.run(w * 2)
        assert step().tolist() == [2] and counts(session)[2] == 1


def test_plans_keep_the_nodes_that_they_are_for(session):
    x = gc.placeholder("x", shape=(2,))
    for _ in range(5):
        session.run(gc.tanh(x * 2) + 1, {x: [1.0, 2.0]})  # nobody else holds these
    assert counts(session) == (4, 1, 1)


def test_closing_forgets_the_plans(session):
    session.run(variable([1.0]) * 2)
    session.close()
    assert counts(session) == (0, 1, 0)


# --- graphs that grow


def test_a_number_folded_into_the_graph_each_step_is_told_once_with_its_line(session):
    w = variable([1.0])

    def loop():
        for k in range(40):
            session.run(w * float(k + 2))

    with pytest.warns(UserWarning, match="compiled a new plan") as caught:
        loop()
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "session.run(w * float(k + 2))" in text and "gc.placeholder" in text
    assert caught[0].filename == __file__
    assert "session.run(w * float(k + 2))" in linecache.getline(__file__, caught[0].lineno)


def test_an_optimiser_built_anew_each_step_is_told_with_its_line(session):
    w = variable([1.0, 2.0])
    loss = (w * w).sum()

    def loop():
        for k in range(20):
            train = gc.optim.SGD(lr=0.1 / (k + 1)).minimize(loss)
            session.run([loss, train])

    with pytest.warns(UserWarning, match="compiled a new plan") as caught:
        loop()
    assert len(caught) == 1 and "gc.optim.SGD(lr=0.1 / (k + 1)).minimize(loss)" in str(caught[0].message)


def test_runs_in_between_that_build_nothing_hide_nothing(session):
    w, rate = variable([1.0, 2.0]), variable(0.1, "rate")
    train = gc.optim.SGD(lr=rate).minimize((w * w).sum())

    def loop():
        for k in range(20):
            session.run(train)
            session.run(rate.assign(0.1 / (k + 1)))

    with pytest.warns(UserWarning, match="compiled a new plan") as caught:
        loop()
    assert len(caught) == 1 and "session.run(rate.assign(0.1 / (k + 1)))" in str(caught[0].message)


def test_different_requests_are_no_reason_to_warn(session):
    w = variable([1.0])
    tensors = [gc.exp(w), gc.tanh(w), w + 1, w * 2, w - 3, w / 4, -w, gc.sin(w), gc.cos(w), gc.sqrt(w), w**3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in tensors:
            session.run(t)


def test_new_plans_now_and_then_are_no_reason_to_warn(session):
    w = variable([1.0])
    known = w + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in range(12):
            session.run(w * float(k + 2))
            for _ in range(20):
                session.run(known)


def test_rebuilding_an_expression_in_a_loop_adds_no_nodes(session):
    a, b = variable([1.0, 2.0], "a"), variable([3.0, 4.0], "b")
    session.run([-a, a[0], a + b])
    count = len(session.graph)
    for _ in range(200):
        session.run(-a), session.run(a[0]), session.run(a + b), session.run([-a, a[0], a + b])
    assert len(session.graph) <= count and session.cache_info().misses == 4
    assert len((-a).occurrences) <= 5
