"""Variables: their first values, reading and setting them, and what updates mean."""

import numpy as np
import pytest
from state_testing import variable

import graphc as gc

# --- first values


def first_value(extra=0, name="layer/w", seed=3, before=True):
    with gc.Graph():
        kept = [gc.Variable(gc.nn.init.normal(), shape=(3,), name=f"unrelated{k}") for k in range(extra)]
        w = gc.Variable(gc.nn.init.normal(), shape=(5,), name=name)
        with gc.Session(seed=seed) as sess:
            if before:
                sess.run(kept)
            return sess.run(w)


def test_first_values_depend_on_seed_and_name_only():
    assert (first_value() == first_value(extra=4)).all()
    assert (first_value(extra=2) == first_value(extra=2, before=False)).all()
    assert (first_value() != first_value(name="layer/v")).all()
    assert (first_value() != first_value(seed=4)).all()


def test_a_random_expression_is_a_first_value_that_depends_on_seed_and_name_only(session):
    def first(name, unrelated=0):
        with gc.Graph():
            for _ in range(unrelated):
                gc.random.normal((3,))
            w = gc.Variable(gc.random.normal((3,)) + gc.random.normal((3,)) * 2, name=name)
            with gc.Session(device=session.device, seed=1) as own:
                return own.run(w).tolist()

    assert first("w") == first("w") == first("w", unrelated=3) != first("v")


def test_the_draws_of_a_random_expression_are_streams_of_their_own(session):
    w = gc.Variable(gc.random.normal((4,)) - gc.random.normal((4,)), name="w")
    assert (session.run(w) != 0).all()


def test_first_values_are_made_once(session):
    made = []
    w = gc.Variable(lambda seed, name, shape, dtype: made.append(name) or np.ones(shape), name="w", shape=(2,))
    for _ in range(3):
        session.run([w, w.assign(w * 2)])
    assert made == ["w"] and session[w].tolist() == [8, 8]


def test_a_variable_may_start_from_others(session):
    a = variable([1, 2], "a")
    c = gc.Variable(gc.Variable(a * 2, name="b") + a, name="c")
    session.run(a.assign(a * 10))
    assert session.run(c).tolist() == [30, 60]  # made when it is first needed


def test_what_an_initialiser_returned_is_not_what_is_kept(session):
    mine = np.array([1, 2], "float32")
    w = gc.Variable(lambda *_: mine, name="w", shape=(2,))
    session.run(w)
    mine[...] = 99
    assert session.run(w).tolist() == [1, 2]


def test_variables_that_start_from_one_value_dont_share_it(session):
    first = gc.Variable(gc.nn.init.normal(), shape=(4,), name="first")
    second, third = gc.Variable(first, name="second"), gc.Variable(first, name="third")
    start = session.run([first, second, third])
    session.run(second.assign(second + 1))
    session.run(second.assign(second * 2))
    found = session.run([first, second, third])
    assert (found[0] == start[0]).all()
    assert (found[1] == (start[0] + 1) * 2).all()
    assert (found[2] == start[0]).all()


def test_parts_of_what_an_initialiser_keeps_are_not_what_is_kept(session):
    kept = np.zeros((2, 3), np.float32)
    w = gc.Variable(lambda seed, name, shape, dtype: kept[:, ::2], shape=(2, 2), name="w")
    session.run(w.assign(w + 1))
    session.run(w.assign(w + 1))
    assert (kept == 0).all()
    assert (session[w] == 2).all()


def test_a_first_value_is_not_shared_between_sessions(session):
    initial = np.array([1, 2], "float32")
    w = gc.Variable(initial, name="w")
    initial[...] = 99
    with gc.Session(device=session.device) as other:
        other.run(w.assign_add(5))
        session[w] = [7, 7]
        assert other[w].tolist() == [6, 7] and session[w].tolist() == [7, 7]
    assert gc.Session(device=session.device).run(w).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "says"),
    [(np.ones((3, 3)), r"returned float64\[3, 3\], expected float32\[2\]"), (["a", "b"], "returned <U1"), (1j, "comp")],
)
def test_an_initialiser_that_returns_something_else_is_refused(session, value, says):
    w = gc.Variable(lambda *_: value, name="w", shape=(2,))
    other = variable([1.0], "other")
    with pytest.raises(gc.StateError, match=says):
        session.run([other.assign(other + 1), w])
    assert session[other].tolist() == [1]


@pytest.mark.parametrize(
    ("value", "dtype"), [([1.5, 2.0], "int64"), ([1, 300], "int8"), ([0, 2], "bool"), ([np.nan, 0.0], "int64")]
)
def test_a_first_value_that_its_dtype_does_not_have_is_refused(session, value, dtype):
    w = gc.Variable(lambda *_: np.array(value), name="w", shape=(2,), dtype=dtype)
    with pytest.raises(gc.StateError, match="the initialiser of 'w' returned"):
        session.run(w)
    v = gc.Variable(lambda *_: np.array([1.0, 0.0]), name="v", shape=(2,), dtype=dtype)
    assert session.run(v).tolist() == [1, 0]


def test_added_variables_just_work(session):
    w = variable([1.0])
    session.run(w)
    later = variable([5.0], "later")
    assert session.run(w + later).tolist() == [6]


# --- reading and setting


def test_values_can_be_read_and_set_by_variable_and_by_name(session):
    w = variable([1, 2])
    session["w"] = [3, 4]
    assert session[w].tolist() == [3, 4] and session["w"].dtype == np.float32
    for wrong in ([1, 2, 3], [[1, 2]], "ab", None, [1j, 2j]):
        with pytest.raises(gc.FeedError):
            session[w] = wrong
    assert session[w].tolist() == [3, 4]
    for key in (w + 1, 3, None):
        with pytest.raises(gc.ArgumentError, match="is no variable"):
            session[key]
    with pytest.raises(gc.GraphError, match="no node named"):
        session["v"]


def test_what_is_set_is_stored_in_order_whatever_its_strides(session):
    w = variable(np.zeros((2, 3)))
    value = np.arange(6.0).reshape(3, 2)
    session[w] = value.T[:, ::-1]
    assert (session[w] == value.T[:, ::-1]).all()
    assert (session.run(w * 2) == 2 * value.T[:, ::-1]).all()


def test_a_value_that_is_set_before_the_first_run_replaces_the_first_value(session):
    def unused(*_):
        raise AssertionError("it is not needed")

    w = gc.Variable(unused, name="w", shape=(2,))
    session[w] = [1, 2]
    assert session.run(w).tolist() == [1, 2]


def test_a_variable_that_is_only_written_needs_no_first_value(session):
    def unused(*_):
        raise AssertionError("it is not needed")

    w = gc.Variable(unused, name="w", shape=(2,))
    session.run(w.assign(gc.constant(np.array([3, 4], "float32"))))
    assert session[w].tolist() == [3, 4]


class Actions:
    """What may be done to a variable by a session, in any order."""

    def __init__(self, device, path):
        with gc.Graph() as graph:
            self.x = gc.placeholder("x", shape=("n", 3))
            self.w = gc.Variable(np.eye(3, dtype="float32"), name="w")
            self.loss = ((self.x @ self.w) ** 2).mean()
            self.update = gc.optim.SGD(lr=0.1, momentum=0.9).minimize(self.loss)
        self.session, self.path = gc.Session(graph, device=device, seed=1), path
        self.save()

    def train(self):
        self.session.run([self.loss, self.update], {self.x: np.ones((4, 3))})

    def eval(self):
        return self.session.run(self.loss, {self.x: np.ones((2, 3))})

    def assign(self):
        self.session[self.w] = np.full((3, 3), 0.5)

    def save(self):
        self.session.save(self.path)

    def load(self):
        self.session.load(self.path)


ORDERS = [
    "train eval assign save load",
    "load train train assign eval",
    "save assign load eval",
    "train save load train",
    "train save train assign load train eval",
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("device", ["cpu", "plan"])
def test_any_interleaving_equals_the_reference(device, order, tmp_path):
    actions, expected = (Actions(d, tmp_path / f"{d}.safetensors") for d in (device, "reference"))
    for name in order.split():
        getattr(actions, name)(), getattr(expected, name)()
        np.testing.assert_allclose(actions.session[actions.w], expected.session[expected.w], rtol=1e-6)
    np.testing.assert_allclose(actions.eval(), expected.eval(), rtol=1e-6)


def test_a_load_that_is_refused_changes_nothing(session, tmp_path):
    path = tmp_path / "small.safetensors"
    a, b = variable([1.0, 2.0], "a"), variable([3.0], "b")
    draw = gc.random.uniform((2,), name="draw")
    with gc.Graph(), gc.Session(seed=99) as writer:
        kept = variable([7.0, 7.0], "a"), variable([7.0, 7.0], "b"), gc.random.uniform((2,), name="draw")
        writer.run(kept)
        writer.save(path)
    session.run([a.assign(a * 2), draw])
    with pytest.raises(gc.StateError, match="b is float32"):
        session.load(path)
    assert session[a].tolist() == [2, 4] and session[b].tolist() == [3] and session.seed == 0
    with gc.Session(device=session.device) as fresh:
        fresh.run(draw)
        assert (fresh.run(draw) == session.run(draw)).all()
    report = session.load(path, strict=False)
    assert report.loaded == ("a",) and len(report.mismatched) == 1 and session.seed == 99
    assert session[a].tolist() == [7, 7] and session[b].tolist() == [3]


# --- updates


def test_two_values_for_one_variable_are_an_error_with_both_lines(session):
    w = variable([1.0], "conflicting")
    one = w.assign(w + 1)
    two = w.assign(w + 2)
    with pytest.raises(gc.StateError, match="two different values") as caught:
        gc.group(one, two)
    assert "w.assign(w + 1)" in str(caught.value) and "w.assign(w + 2)" in str(caught.value)
    for fetches in ([one, two], {"a": one, "b": [two]}):
        with pytest.raises(gc.StateError, match="two different values"):
            session.run(fetches)
    assert session[w].tolist() == [1]


def test_the_same_update_twice_is_one(session):
    w = variable([1.0])
    bump = w.assign(w + 1)
    session.run([bump, bump, gc.group(bump, w.assign(w + 1))])
    assert session[w].tolist() == [2]


def test_a_group_updates_all_that_its_parts_do(session):
    a, b, c = variable(1.0, "a"), variable(2.0, "b"), variable(3.0, "c")
    together = gc.group(a.assign(b), gc.group(b.assign(c), c.assign(a)))
    assert set(together) == {a, b, c} and together[a] is b
    assert session.run([together, gc.group()]) == [None, None]
    assert [float(v) for v in session.run([a, b, c])] == [2, 3, 1]


def test_fetching_a_variable_with_its_update_gives_the_value_before(session):
    w = variable([1.0])
    bump = w.assign(w + 1)
    for fetches in ([w, bump, bump[w]], [bump[w], bump, w]):
        before = float(session[w][0])
        found = session.run(fetches)
        assert found[1] is None and {float(found[0][0]), float(found[2][0])} == {before, before + 1}
        assert float(found[fetches.index(w)][0]) == before
        assert session[w].tolist() == [before + 1]


def test_fetching_a_new_value_alone_updates_nothing(session):
    w = variable([1.0])
    bump = w.assign(w + 1)
    assert session.run(bump[w]).tolist() == [2]
    assert session[w].tolist() == [1]


def test_fetching_loss_and_train_gives_the_loss_before_the_update(session):
    w = variable([3.0])
    loss = (w * w).sum()
    train = gc.optim.SGD(lr=0.5).minimize(loss)
    for _ in range(3):
        before = float(session.run(loss))
        assert float(session.run([loss, train])[0]) == before


def test_a_value_that_is_fed_is_what_an_update_reads(session):
    w = variable([1.0, 2.0])
    found, _ = session.run([w, w.assign(w + 1)], {w: [10, 20]})
    assert found.tolist() == [10, 20] and session[w].tolist() == [11, 21]
    assert session.run(w * 2, {w: [5, 5]}).tolist() == [10, 10]
    assert session[w].tolist() == [11, 21]


def test_an_in_place_update_waits_until_nothing_can_fail():
    with gc.Graph():
        w, v = variable(np.ones(1000)), variable(np.ones(1000), "v")
        index = gc.placeholder("index", shape=(1,), dtype="int64")
        picked = gc.take(v, index)
        plain = gc.group(w.assign(w * 2), v.assign(v + 1))
        plan = gc.Session().plan(plain)
        assert [b.takes is not None for b in plan.buffers if b.role == "update"] == [True, True]
        plan = gc.Session().plan([plain, picked], {index: [0]})
        last_that_fails = max(at for at, step in enumerate(plan.kernels) if step.kernel.can_fail)
        overwriting = {k for k, b in enumerate(plan.buffers) if b.role == "update" and b.takes is not None}
        writers = [at for at, step in enumerate(plan.kernels) if overwriting & set(step.writes)]
        assert all(at > last_that_fails for at in writers)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", np.array([1.0, 2.0])),
        ("float32", [1, 2]),
        ("float32", np.array([1, 2], "uint8")),
        ("float64", [1.0, 2.0]),
        ("float16", [1.0, 2.0]),
        ("int64", np.array([1, 2], "int8")),
        ("int32", [1, 2]),
    ],
)
def test_values_are_assigned_as_they_are_fed(dtype, value):
    with gc.Graph(), gc.Session() as session:
        w = gc.Variable(np.zeros(2, dtype), name="w")
        session.run(w.assign(value))
        assert session[w].dtype == dtype and session[w].tolist() == [1, 2]
        session.run(w.assign_add(value))
        session.run(w.assign_sub(2))
        assert session[w].dtype == dtype and session[w].tolist() == [0, 2]
        session[w] = value
        assert session[w].dtype == dtype and session[w].tolist() == [1, 2]
