"""One session from many threads: runs take turns; closing waits for them; a forked child has turns of its own."""

import gc as collector
import os
import sys
import threading

import numpy as np
import pytest
from state_testing import PATIENT_S, output_of, user_op, variable

import graphc as gc
from graphc.collector import paused


def in_threads(*functions):
    """Run functions in threads of their own; what they raised."""
    errors = []

    def safely(function):
        try:
            function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=safely, args=(function,), daemon=True) for function in functions]
    [thread.start() for thread in threads]
    [thread.join(PATIENT_S) for thread in threads]
    assert not any(thread.is_alive() for thread in threads)
    return errors


class Gate:
    """An op that tells when it is being computed, and waits until it is let through."""

    def __init__(self):
        self.entered, self.opened = threading.Event(), threading.Event()
        self.op = user_op(self.compute)

    def compute(self, x):
        self.entered.set()
        assert self.opened.wait(PATIENT_S)
        return x


@pytest.fixture
def often():
    """Threads are switched as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
def test_many_threads_may_use_one_session(session):
    w = variable(0.0)
    x = gc.placeholder("x", shape=())
    bump = w.assign_add(x)
    found = []

    def work():
        for _ in range(50):
            found.append(float(session.run([bump, bump[w] - w], {x: 1})[1]))

    assert in_threads(*[work] * 4) == []
    assert float(session[w]) == 200
    assert found == [1.0] * 200


@pytest.mark.usefixtures("often")
@pytest.mark.filterwarnings("ignore:8 runs compiled")
def test_many_threads_may_compile_different_things_in_one_session(session):
    x = gc.placeholder("x", shape=("n",))
    w = variable([1.0, 2.0])
    found = {}

    def work(k):
        for j in range(5):
            y = gc.tanh(x * (k + 1)) + w * j
            found[k, j] = session.run([y, gc.exp(y).sum()], {x: [0.5, 1.5]})

    assert in_threads(*[lambda k=k: work(k) for k in range(6)]) == []
    assert session.cache_info().misses == 30
    for (k, j), (y, total) in found.items():
        expected = np.tanh(np.array([0.5, 1.5], "float32") * (k + 1)) + np.array([1, 2], "float32") * j
        np.testing.assert_allclose(y, expected, rtol=1e-5)
        np.testing.assert_allclose(total, np.exp(expected).sum(), rtol=1e-5)


@pytest.mark.usefixtures("often")
def test_threads_may_run_sessions_of_their_own_on_one_graph(session):
    w = gc.Variable(gc.nn.init.normal(), name="w", shape=(3,))
    train = gc.optim.Adam(lr=0.1).minimize((gc.tanh(w) ** 2).sum())

    def trained():
        with gc.Session(device=session.device, seed=2) as own:
            for _ in range(5):
                own.run(train)
            return own[w].tolist()

    found = []
    assert in_threads(*[lambda: found.append(trained())] * 4) == []
    assert found == [trained()] * 4


@pytest.mark.parametrize("device", ["reference", "plan"])
def test_a_run_waits_until_the_one_of_another_thread_has_ended(device):
    with gc.Graph(), gc.Session(device=device) as session:
        w = variable([1.0])
        gate = Gate()
        slow = w.assign(gate.op(w + 1))
        ended = []

        def second():
            ended.append(session.run(w).tolist())

        first = threading.Thread(target=session.run, args=(slow,), daemon=True)
        first.start()
        assert gate.entered.wait(PATIENT_S)
        others = [threading.Thread(target=second, daemon=True) for _ in range(3)]
        [thread.start() for thread in others]
        others[0].join(0.05)
        assert ended == []
        gate.opened.set()
        [thread.join(PATIENT_S) for thread in [first, *others]]
        assert ended == [[2]] * 3


def test_closing_waits_for_the_run_of_another_thread():
    with gc.Graph():
        w = variable([1.0])
        gate = Gate()
        slow = gate.op(w + 1) * 2
    session = gc.Session()
    found = []
    run = threading.Thread(target=lambda: found.append(session.run(slow).tolist()), daemon=True)
    run.start()
    assert gate.entered.wait(PATIENT_S)
    close = threading.Thread(target=session.close, daemon=True)
    close.start()
    close.join(0.05)
    assert close.is_alive()
    gate.opened.set()
    run.join(PATIENT_S)
    close.join(PATIENT_S)
    assert found == [[4]]
    with pytest.raises(gc.SessionError, match="closed"):
        session.run(w)


def test_a_closed_session_refuses_every_use_but_closing(session):
    w = variable([1.0])
    step = session.compile(w)
    session.close()
    session.close()
    uses = [
        lambda: session.run(w),
        lambda: session.compile(w),
        step,
        lambda: session[w],
        lambda: session.__setitem__(w, [1.0]),
        lambda: session.save("nowhere"),
        lambda: session.load("nowhere"),
        lambda: session.plan(w),
        session.__enter__,
    ]
    for use in uses:
        with pytest.raises(gc.SessionError, match="closed"):
            use()
    assert "closed" in repr(session)


def test_an_error_in_one_thread_is_no_matter_to_the_others(session):
    w = variable([1.0, 2.0])
    index = gc.placeholder("index", shape=(1,), dtype="int64")
    taken = gc.take(w, index)
    found = []

    def work(k):
        for _ in range(10):
            try:
                found.append(float(session.run(taken, {index: [k]})[0]))
            except gc.GraphcError:
                found.append(None)

    assert in_threads(*[lambda k=k: work(k) for k in (0, 7, 1, 7)]) == []
    assert sorted(found, key=str) == [1.0] * 10 + [2.0] * 10 + [None] * 20


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_rests_until_the_last_of_overlapping_blocks_ends(enabled):
    try:
        collector.enable() if enabled else collector.disable()
        first, second, inner = paused(), paused(), paused()
        seen = []
        for step in (first.__enter__, second.__enter__, inner.__enter__):
            step()
            seen.append(collector.isenabled())
        for block in (first, inner, second):
            block.__exit__(None, None, None)
            seen.append(collector.isenabled())
        assert seen == [False] * 5 + [enabled]
    finally:
        collector.enable()


FORK = """
import os, signal, threading
import graphc as gc

w = gc.Variable([1.0, 2.0], name="w", dtype="float32")
bump = w.assign(w * 2)
entered, opened = threading.Event(), threading.Event()
{user_op}
session = gc.Session(device={device!r})
session.run(bump)

def slowly(x):
    entered.set()
    assert opened.wait({limit})
    return x

slow = session.compile(user_op(slowly)(w))
other = threading.Thread(target=slow)
other.start()
assert entered.wait({limit})  # from here on the lock of the session is held
child = os.fork()
if not child:
    signal.alarm({limit})
    session.run(bump)  # the parent's other thread doesn't exist here
    os._exit(0 if session[w].tolist() == [4, 8] else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
opened.set()
other.join()
print(code, session[w].tolist())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
@pytest.mark.parametrize("device", ["cpu", "plan"])
def test_a_child_forked_while_another_thread_runs_can_use_the_session(device):
    script = FORK.format(device=device, user_op="from state_testing import user_op", limit=PATIENT_S // 2)
    assert output_of(script, PYTHONWARNINGS="ignore") == "0 [2.0, 4.0]\n"
