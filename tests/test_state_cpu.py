"""The rules of run time where native code makes them hard: memory in place, threads, hosts that refuse."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from state_testing import check_that_a_failing_form_changes_nothing, output_of, user_op, variable

import graphc as gc
from graphc.runtime.cpu import driver, target


@pytest.fixture
def session():
    with gc.Graph(), gc.Session(device="cpu") as made:
        yield made


def addresses(session, variables):
    return [session._state.values[v].ctypes.data for v in variables]


# --- variables stay where they are


def test_variables_are_updated_in_their_own_memory(session):
    """Also those that are swapped, and those of a plan in which NumPy has the last word."""
    a, b, c = variable([1, 2], "a"), variable([3, 4], "b"), variable([5, 6], "c")
    index = gc.placeholder("index", shape=(1,), dtype="int64")
    late = user_op(lambda x: x)(gc.take(a * 2, index))
    update = gc.group(a.assign(b), b.assign(a), c.assign_add(1))
    session.run([update, late], {index: [0]})
    before = addresses(session, (a, b, c))
    session.run([update, late], {index: [1]})
    session.run(update)
    assert addresses(session, (a, b, c)) == before
    assert [session[v].tolist() for v in (a, b, c)] == [[3, 4], [1, 2], [8, 9]]


def test_a_variable_that_a_run_only_writes_keeps_its_memory(session):
    w, x = variable([1, 2]), gc.placeholder("x", shape=(2,))
    for value in ([3, 4], [5, 6], [7, 8]):
        session.run(w.assign(x), {x: value})
        assert session[w].tolist() == value
    before = addresses(session, [w])
    session.run(w.assign(x), {x: [9, 9]})
    assert addresses(session, [w]) == before and session[w].tolist() == [9, 9]


def test_first_values_that_sessions_share_are_never_written():
    with gc.Graph():
        w = gc.Variable(np.array([1, 2], "float32"), name="w")
        one, other = gc.Session(device="cpu"), gc.Session(device="cpu")
        for _ in range(3):
            one.run(w.assign_add(1))
        assert one[w].tolist() == [4, 5] and other[w].tolist() == [1, 2]


def test_loaded_values_are_updated(session, tmp_path):
    w, v = variable(np.arange(100)), variable(np.arange(7), "v")
    both = gc.group(w.assign_add(1), v.assign_add(1))
    session.run(both)
    session.save(tmp_path / "state.safetensors")
    for _ in range(2):
        session.load(tmp_path / "state.safetensors")
        session.run(both)
        assert (session[w] == np.arange(100) + 2).all() and (session[v] == np.arange(7) + 2).all()


def test_a_feed_for_a_variable_is_not_written(session):
    w = variable([1, 2])
    feed = np.array([10, 20], "float32")
    for _ in range(3):
        session.run(w.assign(w + 1), {w: feed})
        assert feed.tolist() == [10, 20] and session[w].tolist() == [11, 21]


def test_a_feed_that_is_assigned_is_not_kept(session):
    w, x = variable([1, 2]), gc.placeholder("x", shape=(2,))
    feed = np.array([10, 20], "float32")
    for _ in range(3):
        session.run(w.assign(x), {x: feed})
        session.run(w.assign_add(1))
        assert feed.tolist() == [10, 20]
        assert not np.shares_memory(session._state.values[w], feed)


# --- runs that fail


def test_a_form_of_the_users_that_fails_leaves_everything_as_it_was(session):
    check_that_a_failing_form_changes_nothing(session)


def test_nothing_is_written_before_the_last_step_that_can_fail(session):
    """A step of NumPy's, and an index out of range, that come after everything an update needs."""
    w, x = variable(np.ones(1000)), gc.placeholder("x", shape=(3,))
    index = gc.placeholder("index", shape=(1,), dtype="int64")

    def picky(value):
        if value[0] > 5:
            raise ArithmeticError("too large")
        return value

    bump = w.assign(w * 2)
    late = gc.take(gc.exp(gc.softmax(bump[w])), index)
    called = user_op(picky)(bump[w][:3] + x)
    for fetch, feeds, error in (
        (late, {index: [1000]}, gc.GraphcError),
        (called, {x: [10, 0, 0]}, ArithmeticError),
        ([late, called], {index: [1], x: [10, 0, 0]}, ArithmeticError),
        ([called, late], {index: [-1001], x: [1, 0, 0]}, gc.GraphcError),
    ):
        before = session[w].tolist()
        for _ in range(2):
            with pytest.raises(error):
                session.run([bump, fetch], feeds)
            assert session[w].tolist() == before
        session.run([bump, fetch], {k: [0] * len(v) for k, v in feeds.items()})
        assert session[w].tolist() != before
        session[w] = np.ones(1000)


def test_nothing_is_written_before_the_last_step_that_numpy_runs(session, monkeypatch):
    """It can't fail, but be interrupted."""
    w, rest = variable(np.ones((3, 3))), variable(np.ones((3, 3)), "rest")
    bump = gc.group(w.assign(w * 2), rest.assign_add(1))
    late = gc.tanh(bump[w] @ rest)
    native = target.native_kernel

    def without_tanh(kernel, *more):
        names = {node.op.name for region in kernel.regions for node in region.values}
        return None if "tanh" in names else native(kernel, *more)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(target, "native_kernel", without_tanh)
    found, _ = session.run([late, bump])
    np.testing.assert_allclose(found, np.tanh(np.full((3, 3), 6)), rtol=1e-6)
    step = target.run_step
    monkeypatch.setattr(target, "run_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.run([late, bump])
    assert (session[w] == 2).all() and (session[rest] == 2).all()
    monkeypatch.setattr(target, "run_step", step)
    session.run([late, bump])
    assert (session[w] == 4).all() and (session[rest] == 3).all()


# --- feeds


FEEDS = {
    "transposed": lambda x: np.asfortranarray(x),
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "at an odd address": lambda x: np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "of the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "a subclass": lambda x: x.view(type("Mine", (np.ndarray,), {})),
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("how", FEEDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int16"])
def test_feeds_may_lie_in_memory_as_they_like(session, how, dtype):
    x = gc.placeholder("x", shape=(5, 7), dtype=dtype)
    y = [x + x, x.sum(axis=0), x.T, x @ x.T, gc.reshape(x, (35,))[3:]]
    plain = np.arange(35).reshape(5, 7).astype(dtype)
    feed = FEEDS[how](plain)
    kept = np.array(feed, copy=True)
    meant = np.asarray(feed).astype(dtype)
    for _ in range(3):
        found = session.run(y, {x: feed})
        expected = [meant + meant, meant.sum(axis=0), meant.T, meant @ meant.T, meant.reshape(35)[3:]]
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))
        assert (np.asarray(feed) == kept).all()


# --- threads


def network(threads):
    """A convolutional network with everything that is divided among threads, and three steps of its training."""
    with gc.Graph():
        rng = np.random.default_rng(0)
        x = gc.placeholder("x", shape=("n", 3, 16, 16))
        words = gc.placeholder("words", shape=("n",), dtype="int64")
        kernel = variable(rng.normal(size=(16, 3, 3, 3)) * 0.1, "kernel")
        table, long = variable(rng.normal(size=(50, 16)), "table"), variable(rng.normal(size=200_000), "long")
        dense = variable(rng.normal(size=(1024, 16)) * 0.1, "dense")
        h = gc.relu(gc.conv2d(x, kernel, padding=1))
        h = gc.max_pool2d(h, 2).reshape(-1, 1024)
        h = gc.softmax(h @ dense)
        loss = ((h + gc.tanh(gc.take(table, words, axis=0))) ** 2).mean() + (long * gc.sin(long)).mean()
        train = gc.optim.Adam(lr=0.01).minimize(loss)
        session = gc.Session(device="cpu", threads=threads)
        feeds = {x: rng.normal(size=(16, 3, 16, 16)).astype("float32"), words: rng.integers(0, 50, 16)}
        return session, (loss, train, [kernel, table, dense, long], feeds)


def trained(threads, steps=3):
    """The bytes of the losses and of what was trained."""
    session, (loss, train, variables, feeds) = network(threads)
    losses = [session.run([loss, train], feeds)[0] for _ in range(steps)]
    return [a.tobytes() for a in (*losses, *[session[v] for v in variables])]


def test_training_has_the_same_bits_on_any_number_of_threads(monkeypatch):
    one = trained(1)
    assert trained(2) == one and trained(4) == one
    monkeypatch.setattr(driver, "TICKET_NS", 1)
    monkeypatch.setattr(driver, "PARALLEL_NS", 0)
    assert trained(3) == one


def test_sessions_that_run_at_the_same_time_have_the_same_bits_as_alone():
    alone = trained(1)
    found = [None] * 4

    def train(k):
        found[k] = trained(2)

    workers = [threading.Thread(target=train, args=(k,)) for k in range(len(found))]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert found == [alone] * len(found)


def test_one_session_trains_the_same_from_many_threads():
    session, (loss, train, variables, feeds) = network(2)

    def some():
        for _ in range(2):
            session.run([loss, train], feeds)

    workers = [threading.Thread(target=some) for _ in range(4)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    assert [session[v].tobytes() for v in variables] == trained(1, steps=8)[8:]


# --- how native code is called


@pytest.mark.parametrize("without", ["commands", "entry"])
def test_runs_that_python_does_step_by_step_compute_the_same(without):
    """And a failure in the last step leaves variables that earlier steps would have written."""
    with gc.Graph():
        w, index = variable(np.ones(5)), gc.placeholder("index", shape=(1,), dtype="int64")
        bump = w.assign(w * 2)
        late = gc.take(gc.exp(gc.softmax(bump[w])), index)
        found = []
        for disable in ((), (without,)):
            with gc.Session(device="cpu", disable=disable) as session:
                step = session.compile([late, bump], [index])
                found.append([step(np.array([1]))[0].tolist() for _ in range(4)] + [session[w].tolist()])
                with pytest.raises(gc.GraphcError):
                    step(np.array([5]))
                assert session[w].tolist() == [16] * 5
        assert found[0] == found[1]


def test_without_commands_every_kernel_is_a_call():
    with gc.Graph():
        x = gc.placeholder("x", shape=(4, 4))
        y = x @ gc.exp(x @ x)
        for disable, calls in (((), 1), (("commands",), 3)):
            with gc.Session(device="cpu", disable=("fuse", "epilogues", "prologues", *disable)) as session:
                plan = session.plan(y, {x: np.eye(4)})
                (compiled,) = session._plans.values()
                assert len(plan.kernels) == 3
                assert len(compiled.executable.bound({}).segments) == calls


FORK = """
import os, signal
from test_state_cpu import network

session, (loss, train, variables, feeds) = network(2)
session.run([loss, train], feeds)  # the threads run
reading, writing = os.pipe()
if not os.fork():
    signal.alarm(300)
    session.run([loss, train], feeds)
    os.write(writing, b"".join(session[v].tobytes()[:4096] for v in variables))
    os._exit(0)
os.close(writing)
session.run([loss, train], feeds)
os.wait()
mine = b"".join(session[v].tobytes()[:4096] for v in variables)
print(os.read(reading, 1 << 16) == mine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_goes_on_as_its_parent_does():
    assert output_of(FORK, PYTHONWARNINGS="ignore") == "True\n"
