"""The rules of run time: who owns what, what is committed when, which mode a run has, what random draws depend on."""

import threading
import warnings

import numpy as np
import pytest

import graphc as gc

DEVICES = ("reference", "cpu", "plan")


@pytest.fixture(params=DEVICES)
def session(request):
    with gc.Graph(), gc.Session(device=request.param) as sess:
        yield sess


def variable(value, name="w", **options):
    return gc.Variable(np.asarray(value, "float32"), name=name, **options)


# --- results belong to the user


def test_results_never_share_memory(session):
    x = gc.placeholder("x", shape=(4, 4))
    w = variable(np.ones((4, 4)))
    fetched = [x, w, w, x.T, x[1:], x.reshape(16), x + 1, x + 1, (x + 1).T, gc.constant(np.ones((4, 4), "float32"))]
    feed = np.arange(16, dtype="float32").reshape(4, 4)
    results = session.run(fetched, {x: feed})
    owners = [*results, feed, session[w]]
    for i, a in enumerate(owners):
        for b in owners[i + 1 :]:
            assert not np.shares_memory(a, b)


def test_writing_to_a_result_or_a_feed_changes_nothing_inside(session):
    x = gc.placeholder("x", shape=(3,))
    w = variable([1, 2, 3])
    c = gc.constant(np.array([7, 8, 9], "float32"))
    feed = np.zeros(3, "float32")
    for result in session.run([w, x, c, w * 1], {x: feed}):
        result[...] = 99
    session.run(w.assign(x), {x: feed})
    feed[...] = 55
    assert session.run(w).tolist() == [0, 0, 0]
    assert session.run(c).tolist() == [7, 8, 9]


def test_feeds_are_not_written(session):
    x = gc.placeholder("x", shape=(3,))
    w = variable([1, 2, 3])
    feed = np.array([4, 5, 6], "float32")
    session.run([w.assign(x * 2), gc.exp(x)], {x: feed})
    assert feed.tolist() == [4, 5, 6]


def test_results_survive_close():
    w = variable([1, 2], name="survivor")
    session = gc.Session()
    result = session.run(w)
    session.close()
    session.close()
    assert result.tolist() == [1, 2]
    with pytest.raises(gc.SessionError, match="closed"):
        session.run(w)


def test_results_are_arrays_that_can_be_written(session):
    x = gc.placeholder("x", shape=(2, 3))
    for result in session.run([x, x.sum(), gc.broadcast_to(x[0], (5, 3)), x.T], {x: np.ones((2, 3))}):
        assert type(result) is np.ndarray
        assert result.flags.writeable and result.flags.c_contiguous


def test_a_compiled_step_can_write_into_given_arrays(session):
    x = gc.placeholder("x", shape=("n",))
    step = session.compile([x + 1, x * 2], feeds=[x])
    out = [np.empty(3, "float32"), np.empty(3, "float32")]
    found = step(np.arange(3), out=out)
    assert found[0] is out[0] and out[0].tolist() == [1, 2, 3] and out[1].tolist() == [0, 2, 4]
    with pytest.raises(gc.ArgumentError, match="out="):
        step(np.arange(4), out=out)


# --- commit


def test_reads_see_the_values_before_the_run_and_updates_commit_together(session):
    a, b = variable(1.0, "a"), variable(2.0, "b")
    swap = gc.group(a.assign(b), b.assign(a))
    before, new, _ = session.run([(a, b), swap[a], swap])
    assert [float(v) for v in before] == [1, 2]
    assert float(new) == 2
    assert [float(v) for v in session.run((a, b))] == [2, 1]


def test_a_failed_run_leaves_every_variable_as_it_was(session):
    x = gc.placeholder("x", shape=("n",))
    index = gc.placeholder("index", shape=("k",), dtype="int64")
    a, b = variable(1.0, "a"), variable(np.ones(3), "b")
    both = gc.group(a.assign(a + 1), b.assign(b * 2))
    picked = gc.take(x, index)
    session.run([both, picked], {x: [1, 2], index: [0]})
    with pytest.raises(gc.GraphcError):
        session.run([both, picked], {x: [1, 2], index: [5]})
    assert float(session[a]) == 2 and session[b].tolist() == [2, 2, 2]
    session.run([both, picked], {x: [1, 2], index: [1]})
    assert float(session[a]) == 3


def test_an_interrupt_leaves_every_variable_as_it_was(session, monkeypatch):
    w = variable([1.0])
    bump = w.assign(w + 1)
    session.run(bump)
    executable = next(iter(session._plans.values())).executable
    original = type(executable).run

    def interrupted(self, *args):
        original(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(executable), "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.run(bump)
    monkeypatch.undo()
    assert session[w].tolist() == [2]


# --- concurrency


def test_many_threads_may_use_one_session(session):
    w = variable(0.0)
    x = gc.placeholder("x", shape=())
    bump = w.assign_add(x)
    found = []

    def work():
        for _ in range(50):
            found.append(float(session.run([bump, bump[w] - w], {x: 1})[1]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert float(session[w]) == 200
    assert found == [1.0] * 200


def test_running_a_session_inside_its_own_run_is_an_error(session):
    inner = variable([1.0], "inner")

    def initialiser(seed, name, shape, dtype):
        return session.run(inner)

    w = gc.Variable(initialiser, name="w", shape=(1,))
    with pytest.raises(gc.SessionError, match="inside one of its own runs"):
        session.run(w)
    assert session.run(inner).tolist() == [1]


# --- variables


def test_variables_need_no_initialisation_and_depend_on_their_name_only():
    def first(extra):
        with gc.Graph():
            for k in range(extra):
                gc.Variable(gc.nn.init.normal(), shape=(3,), name=f"unrelated{k}")
            w = gc.Variable(gc.nn.init.normal(), shape=(5,), name="layer/w")
            with gc.Session(seed=3) as sess:
                return sess.run(w)

    assert (first(0) == first(4)).all()


def test_other_seeds_and_names_give_other_values():
    with gc.Graph():
        a = gc.Variable(gc.nn.init.normal(), shape=(5,), name="a")
        b = gc.Variable(gc.nn.init.normal(), shape=(5,), name="b")
        with gc.Session(seed=0) as zero, gc.Session(seed=1) as one:
            assert (zero.run(a) != zero.run(b)).all() and (zero.run(a) != one.run(a)).all()


def test_a_variable_may_start_from_others(session):
    a = variable([1, 2], "a")
    c = gc.Variable(gc.Variable(a * 2, name="b") + a, name="c")
    assert session.run(c).tolist() == [3, 6]


def test_added_variables_just_work(session):
    w = variable([1.0])
    session.run(w)
    later = variable([5.0], "later")
    assert session.run(w + later).tolist() == [6]


def test_values_can_be_read_and_set_by_variable_and_by_name(session):
    w = variable([1, 2])
    session["w"] = [3, 4]
    assert session[w].tolist() == [3, 4] and session["w"].dtype == np.float32
    session[w][0] = 99
    assert session[w].tolist() == [3, 4]
    with pytest.raises(gc.FeedError):
        session[w] = [1, 2, 3]
    assert session[w].tolist() == [3, 4]


@pytest.mark.parametrize(
    "order", ["train eval assign save load", "load train train assign eval", "save assign load eval"]
)
def test_any_interleaving_equals_the_reference(order, tmp_path):
    found = {}
    for device in ("reference", "plan"):
        with gc.Graph(), gc.Session(device=device, seed=1) as sess:
            x = gc.placeholder("x", shape=("n", 3))
            w = gc.Variable(np.eye(3, dtype="float32"), name="w")
            loss = ((x @ w) ** 2).mean()
            train = gc.optim.SGD(lr=0.1, momentum=0.9).minimize(loss)
            path = tmp_path / f"{device}.safetensors"
            sess.save(path)
            actions = {
                "train": lambda: sess.run([loss, train], {x: np.ones((4, 3))}),
                "eval": lambda: sess.run(loss, {x: np.ones((2, 3))}),
                "assign": lambda: sess.__setitem__(w, np.full((3, 3), 0.5)),
                "save": lambda: sess.save(path),
                "load": lambda: sess.load(path),
            }
            for action in order.split():
                actions[action]()
            found[device] = (sess[w], sess.run(loss, {x: np.ones((3, 3))}))
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# --- updates


def test_two_values_for_one_variable_are_an_error_with_both_lines():
    w = variable([1.0], "conflicting")
    one = w.assign(w + 1)
    two = w.assign(w + 2)
    with pytest.raises(gc.StateError, match="two different values") as caught:
        gc.group(one, two)
    assert "w.assign(w + 1)" in str(caught.value) and "w.assign(w + 2)" in str(caught.value)
    with pytest.raises(gc.StateError), gc.Session() as sess:
        sess.run([one, two])


def test_the_same_update_twice_is_one(session):
    w = variable([1.0])
    bump = w.assign(w + 1)
    session.run([bump, bump, gc.group(bump, w.assign(w + 1))])
    assert session[w].tolist() == [2]


def test_fetching_loss_and_train_gives_the_loss_before_the_update(session):
    w = variable([3.0])
    loss = (w * w).sum()
    train = gc.optim.SGD(lr=0.5).minimize(loss)
    for _ in range(3):
        before = float(session.run(loss))
        assert float(session.run([loss, train])[0]) == before


# --- mode


def test_a_run_is_a_training_run_when_it_fetches_a_training_update(session):
    w = variable(0.0)
    mode = gc.by_mode(gc.constant(1.0), gc.constant(2.0))
    plain, training = w.assign(mode), w.assign(mode, training=True)
    assert float(session.run(mode)) == 2
    assert float(session.run(mode, training=True)) == 1
    assert float(session.run([mode, plain])[0]) == 2
    assert float(session.run([mode, training])[0]) == 1 and float(session[w]) == 1
    assert float(session.run([mode, training], training=False)[0]) == 2


def test_batch_statistics_update_in_training_runs_only_and_once_a_node(session):
    x = gc.placeholder("x", shape=("n", 2))
    norm = gc.nn.BatchNorm1d(2)
    y = norm(x)
    w = variable(1.0)
    train = gc.optim.SGD(lr=0.0).minimize((y * w).sum() + (norm(x) * w).sum())
    data = np.array([[1, 2], [3, 6], [5, 10]], "float32")
    session.run(y, {x: data})
    assert session[norm.running_mean].tolist() == [0, 0]
    session.run(train, {x: data})
    np.testing.assert_allclose(session[norm.running_mean], [0.3, 0.6], rtol=1e-6)
    np.testing.assert_allclose(session[norm.running_var], 0.9 + 0.1 * np.array([4, 16]), rtol=1e-6)
    assert int(session[norm.num_batches_tracked]) == 1


def test_statistics_are_updated_even_if_no_gradient_depends_on_them(session):
    x = gc.placeholder("x", shape=("n", 1))
    norm = gc.nn.BatchNorm1d(1, affine=False)
    w = variable(1.0)
    train = gc.optim.SGD(lr=0.1).minimize(norm(x).sum() + w)
    session.run(train, {x: [[2.0], [4.0]]})
    np.testing.assert_allclose(session[norm.running_mean], [0.3], rtol=1e-6)


def test_several_statistics_on_one_variable_compose_in_the_order_of_creation(session):
    x, z = gc.placeholder("x", shape=("n", 1)), gc.placeholder("z", shape=("m", 1))
    norm = gc.nn.BatchNorm1d(1)
    loss = norm(x).sum() + norm(z).sum()
    session.run(loss, {x: [[1.0], [1.0]], z: [[3.0], [3.0]]}, training=True)
    np.testing.assert_allclose(session[norm.running_mean], [(0.9 * 0.1 * 1) + 0.1 * 3], rtol=1e-6)
    assert int(session[norm.num_batches_tracked]) == 2


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


def test_freezing_counts_when_minimize_is_called(session):
    a, b = variable(1.0, "a"), variable(1.0, "b")
    loss = a * b
    before = gc.optim.SGD(lr=0.5).minimize(loss)
    b.trainable = False
    after = gc.optim.SGD(lr=0.5).minimize(loss)
    assert set(before) == {a, b} and set(after) == {a}
    session.run(before)
    assert float(session[b]) == 0.5


# --- plan cache


def test_the_same_request_compiles_once(session):
    x = gc.placeholder("x", shape=("n",))
    for size in (1, 2, 3, 0):
        session.run([x * 2, {"a": x}], {x: np.ones(size)})
    info = session.cache_info()
    assert (info.hits, info.misses, info.size) == (3, 1, 1)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr("graphc.runtime.session.MAX_PLANS", 3)
    with gc.Graph(), gc.Session() as sess:
        w = variable([1.0])
        tensors = [w + float(k) for k in range(6)]
        for t in tensors:
            sess.run(t)
        assert sess.cache_info().size == 3


def test_a_number_folded_into_the_graph_each_step_is_told_once_with_its_line(session):
    w = variable([1.0])
    with pytest.warns(UserWarning, match="compiled a new plan") as caught:
        for k in range(20):
            session.run(w * float(k + 2))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "session.run(w * float(k + 2))" in text and "gc.placeholder" in text


def test_different_requests_are_no_reason_to_warn(session):
    w = variable([1.0])
    tensors = [gc.exp(w), gc.tanh(w), w + 1, w * 2, w - 3, w / 4, -w, gc.sin(w), gc.cos(w), gc.sqrt(w), w**3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for t in tensors:
            session.run(t)


def test_rebuilding_an_expression_in_a_loop_adds_no_nodes(session):
    a, b = variable([1.0, 2.0], "a"), variable([3.0, 4.0], "b")
    session.run([-a, a[0], a + b])
    count = len(session.graph)
    for _ in range(200):
        session.run(-a), session.run(a[0]), session.run(a + b), session.run([-a, a[0], a + b])
    assert len(session.graph) <= count and session.cache_info().misses == 4
    assert len((-a).occurrences) <= 5


# --- random draws


def draws(seed=0, device="cpu", extra=0, runs=3):
    with gc.Graph():
        for _ in range(extra):
            with gc.scope("elsewhere"):
                gc.random.normal((3,))
        with gc.scope("here"):
            x = gc.random.uniform((4,))
        y = gc.random.normal((4,), name="noise")
        with gc.Session(seed=seed, device=device) as sess:
            return np.array([sess.run([x, y]) for _ in range(runs)])


def test_draws_depend_on_seed_stream_and_counter_only():
    assert (draws() == draws(extra=5)).all()
    assert (draws(device="plan") == draws(device="reference")).all()
    assert (draws(seed=1) != draws(seed=0)).all()
    first, second, _ = draws()
    assert (first != second).all()


def test_each_stream_counts_for_itself():
    with gc.Graph():
        x, y = gc.random.uniform((4,), name="x"), gc.random.uniform((4,), name="y")
        with gc.Session() as one, gc.Session() as other:
            for _ in range(5):
                other.run(y)
            assert (one.run(x) == other.run(x)).all()


def test_equal_draws_are_two_streams(session):
    a, b = gc.random.uniform((4,)), gc.random.uniform((4,))
    assert a is not b
    x, y = session.run([a, b])
    assert (x != y).all()


def test_one_stream_has_one_value_in_a_run(session):
    a = gc.random.uniform((4,))
    x, y = session.run([a, a * 1])
    assert (x == y).all()


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    def steps(sess, train, w, count):
        for _ in range(count):
            sess.run(train)
        return sess[w]

    with gc.Graph():
        w = gc.Variable(np.zeros(6, "float32"), name="w")
        loss = (gc.dropout(w - 1, 0.5) ** 2).sum() + (w * gc.random.normal((6,))).sum()
        train = gc.optim.Adam(lr=0.1).minimize(loss)
        with gc.Session(seed=7) as unbroken:
            expected = steps(unbroken, train, w, 6)
        with gc.Session(seed=7) as first:
            steps(first, train, w, 3)
            first.save(tmp_path / "half.safetensors")
        with gc.Session(seed=0) as second:
            second.load(tmp_path / "half.safetensors")
            assert (steps(second, train, w, 3) == expected).all()


def test_a_failed_run_has_used_up_its_draws(session):
    x = gc.random.uniform((2,))
    index = gc.placeholder("index", shape=(1,), dtype="int64")
    y = gc.take(x, index)
    with pytest.raises(gc.GraphcError):
        session.run(y, {index: [9]})
    with gc.Session(device=session.device) as fresh:
        fresh.run(x)
        assert (fresh.run(x) == session.run(x)).all()


# --- determinism, and errors in user code


def test_the_same_program_and_seed_give_the_same_bits(session):
    def train():
        with gc.Graph():
            x = gc.placeholder("x", shape=("n", 5))
            net = gc.nn.Sequential(gc.nn.Linear(5, 7), gc.nn.Tanh(), gc.nn.Dropout(0.5), gc.nn.Linear(7, 1))
            train = gc.optim.Adam().minimize((net(x) ** 2).mean())
            with gc.Session(device=session.device, seed=5) as sess:
                for _ in range(5):
                    sess.run(train, {x: np.linspace(-1, 1, 15).reshape(3, 5)})
                return np.concatenate([sess[p].ravel() for p in net.parameters()])

    assert (train() == train()).all()


def test_errors_in_user_code_surface_as_themselves_with_the_line(session):
    def broken(seed, name, shape, dtype):
        raise ZeroDivisionError("mine")

    w = gc.Variable(broken, name="w", shape=(2,))
    other = variable([1.0], "other")
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        session.run([w, other.assign(other + 1)])
    assert any("test_state.py" in note for note in caught.value.__notes__)
    assert session[other].tolist() == [1]
