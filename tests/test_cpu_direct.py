"""Requests that come again, served by entries: the same results and rules, whatever moves in between."""

from __future__ import annotations

import gc as collector
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cpu_phases import helpers
from state_testing import Interrupt, user_op, variable

import graphc as gc
from graphc.runtime import session as session_module
from graphc.runtime.cpu import blocks, direct, entry, pool
from graphc.runtime.cpu.driver import SHORT_NS
from graphc.runtime.session import Session

TIMES = 5  # runs after which a request is served by its entry


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Counts what is bound, and what Python has to do."""
    counts = SimpleNamespace(bound=0, by_python=0)
    bind, execute = direct.bind, Session._execute

    def counting_bind(*args: Any) -> None:
        counts.bound += 1
        bind(*args)

    def counting_execute(*args: Any, **kwargs: Any) -> Any:
        counts.by_python += 1
        return execute(*args, **kwargs)

    monkeypatch.setattr(direct, "bind", counting_bind)
    monkeypatch.setattr(Session, "_execute", counting_execute)
    return counts


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Session, Session]]:
    """One that has entries, and one in which Python does everything."""
    with gc.Session(device="cpu", seed=3) as native, gc.Session(device="cpu", seed=3) as plain:
        monkeypatch.setattr(plain._shortcuts, "note", lambda *_: None)
        yield native, plain


def data(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 7 - 1


def same(found: Any, wanted: Any) -> None:
    if isinstance(wanted, list | tuple):
        assert type(found) is type(wanted) and len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    elif wanted is None:
        assert found is None
    else:
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes()


FETCHES: dict[str, Callable[[Any, Any], Any]] = {
    "tensor": lambda x, y: x * 2 + y,
    "list": lambda x, y: [x + y, x.sum()],
    "tuple": lambda x, y: (x.sum(), y - x, x * y),
    "nothing": lambda x, y: [],
    "scalar": lambda x, y: (x * y).mean(),
    "integers": lambda x, y: [x > y, (x * 3).astype("int32")],
    "a feed": lambda x, y: [x, x + y],
    "unused feed": lambda x, y: x + 1,
}


@pytest.mark.parametrize("shape", [(11,), (3, 5), (), (0, 4), (600, 200)])
@pytest.mark.parametrize("fetch", FETCHES)
def test_a_request_that_comes_again_gives_the_same(
    sessions: tuple[Session, Session], fetch: str, shape: tuple[int, ...]
) -> None:
    x, y = (gc.placeholder(name, shape) for name in "xy")
    fetches = FETCHES[fetch](x, y)
    native, plain = sessions
    step = native.compile(fetches, [x, y])
    for k in range(TIMES):
        feeds = {x: data(*shape) + k, y: data(*shape) * k}
        wanted = plain.run(fetches, feeds)
        same(native.run(fetches, feeds), wanted)
        same(native.run(fetches, dict(reversed(feeds.items()))), wanted)
        same(step(*feeds.values()), wanted)


def test_after_the_second_time_python_has_nothing_to_do(entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", (11,))
    with gc.Session(device="cpu") as session:
        step, y = session.compile(x * 2, [x]), x * 2
        for _ in range(TIMES):
            step(data(11))
        assert (entered.bound, entered.by_python) == (1, 2)
        for _ in range(TIMES):
            session.run(y, {x: data(11)})
        assert (entered.bound, entered.by_python) == (2, 4)
        assert session.cache_info().hits >= TIMES


def test_what_moves_from_run_to_run_is_not_bound(entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", ("n",))
    w = variable([0.0, 0.0])
    y = x.sum() + w.sum()
    with gc.Session(device="cpu") as session:
        for k in range(2 * TIMES):
            session[w] = [k, k]
            assert session.run(y, {x: np.ones(3, np.float32)}) == 3 + 2 * k
        for k in range(2 * TIMES):
            assert session.run(y, {x: np.ones(k, np.float32)}) == k + 2 * (2 * TIMES - 1)
    assert entered.bound == 0


def test_an_arena_that_has_been_outgrown_is_freed() -> None:
    x, large = gc.placeholder("x", (10,)), gc.placeholder("large", (1000, 100))
    y, z = gc.sort(x) + gc.sort(x * x), gc.sort(large) + gc.sort(large * large)
    with gc.Session(device="cpu") as session:
        for _ in range(TIMES):
            session.run(y, {x: data(10)})
        arena = weakref.ref(session._target.memory.bytes)
        session.run(z, {large: data(1000, 100)})
        assert arena() is None
        for _ in range(TIMES):
            same(session.run(y, {x: data(10)}), np.sort(data(10)) + np.sort(data(10) ** 2))


def test_a_longer_plan_is_served_too(entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", (1000, 200))
    with gc.Session(device="cpu", threads=2) as session:
        step, y = session.compile(gc.tanh(x), [x]), gc.tanh(x)
        for _ in range(TIMES):
            np.testing.assert_allclose(step(data(1000, 200)), np.tanh(data(1000, 200)), rtol=1e-5)
            np.testing.assert_allclose(session.run(y, {x: data(1000, 200)}), np.tanh(data(1000, 200)), rtol=1e-5)
        assert (entered.bound, entered.by_python) == (2, 4)
        commands = next(iter(session._plans.values())).executable.bound({}).segments[0].commands
        assert not commands.short and SHORT_NS > 0


@pytest.mark.parametrize("rows", [11, 5000])  # short or longer
def test_results_whose_memory_is_recycled_are_served_too(
    entered: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(blocks, "LARGE", 1000)
    x = gc.placeholder("x", (rows, 40))
    with gc.Session(device="cpu", threads=2) as session:
        step = session.compile((x + 1, x.sum(), x * 2), [x])
        places, kept = set(), []
        for k in range(4 * TIMES):
            given = data(rows, 40) + k
            found = step(given)
            same(found[::2], (given + 1, given * 2))
            assert not np.shares_memory(found[0], found[2])
            places |= {array.ctypes.data for array in found[::2]}
            kept += [(given, found)] if k % 5 == 0 else []
            del found
        for given, found in kept:
            same(found[::2], (given + 1, given * 2))
        assert len(places) <= 2 * len(kept) + 4
    assert (entered.bound, entered.by_python) == (1, 2)


def test_where_memory_for_a_recycled_result_is_short_python_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "LARGE", 1000)
    x = gc.placeholder("x", (1000,))
    with gc.Session(device="cpu") as session:
        step = session.compile(x + 1, [x])
        for _ in range(TIMES):
            step(data(1000))

        def array(*_: Any) -> Any:
            raise MemoryError

        with monkeypatch.context() as short:
            short.setattr(blocks.Blocks, "array", array)
            with pytest.raises(MemoryError, match="add, float32"):
                step(data(1000))
        same(step(data(1000)), data(1000) + 1)


@pytest.mark.parametrize("size", [6, 300_000])
def test_values_that_must_be_converted_are_served_too(
    sessions: tuple[Session, Session], size: int, entered: SimpleNamespace
) -> None:
    x, rate, mask = gc.placeholder("x", (size,)), gc.placeholder("rate", ()), gc.placeholder("mask", (size,), "bool")
    y = gc.where(mask, x * rate, x)
    native, plain = sessions
    values = [data(size), data(2 * size)[::2], data(size).astype(np.float64), data(size)[::-1]]
    rates, masks = [0.5, 2, np.float32(3), np.array(4.0)], [data(size) > 0, [True] * size]
    for k in range(12):
        feeds = {x: values[k % 4], rate: rates[k % 3], mask: masks[k % 2]}
        same(native.run(y, feeds), plain.run(y, feeds))
    assert entered.bound == 1 and entered.by_python == 12 + 2
    with pytest.raises(gc.FeedError, match="3 feeds don't fit"):
        native.run(y, {x: "text", rate: 1j, mask: data(size)})


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("size", [8, 256])
def test_training_by_entries_is_training(
    sessions: tuple[Session, Session], optimizer: str, size: int, entered: SimpleNamespace
) -> None:
    x, t = gc.placeholder("x", (size, 6)), gc.placeholder("t", (size, 2))
    w, b = variable(data(6, 2), "w"), variable(np.zeros(2), "b")
    loss = ((gc.tanh(x @ w + b) - t) ** 2).mean()
    train = getattr(gc.optim, optimizer)(lr=0.05).minimize(loss)
    native, plain = sessions
    step = native.compile(train, [x, t])
    for k in range(3 * TIMES):
        feeds = {x: data(size, 6) * (k % 3), t: data(size, 2)}
        same(native.run([loss, train], feeds), plain.run([loss, train], feeds))
        assert step(*feeds.values()) is None
        plain.run(train, feeds)
        for v in (w, b):
            same(native[v], plain[v])
    assert entered.by_python <= 4 + 2 * 3 * TIMES  # these last in the plain session


def test_draws_are_the_same(sessions: tuple[Session, Session], entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", (40,))
    noise = gc.dropout(x, 0.5) + gc.random.uniform((40,))
    native, plain = sessions
    for _ in range(TIMES):
        for value in (data(40), data(40).tolist()):  # which an entry doesn't take: nothing is drawn twice
            found = [session.run(noise, {x: value}) for session in sessions]
            same(*found)
    step = native.compile(noise, [x])
    for _ in range(TIMES):
        same(step(data(40)), plain.run(noise, {x: data(40)}))
    assert entered.bound >= 2


def test_short_plans_draw_without_python(sessions: tuple[Session, Session], entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", (40,))
    outputs = [gc.dropout(x, 0.5), gc.random.normal((40,)), gc.random.integers(0, 9, (40,))]
    native, plain = sessions
    step = native.compile(outputs, [x])
    found = [step(data(40)) for _ in range(3 * TIMES)]
    assert entered.by_python == 2
    for one in found:
        same(one, plain.run(outputs, {x: data(40)}))
    same(native.run(outputs[1]), plain.run(outputs[1]))  # streams go on in other requests


def test_a_run_that_fails_draws_once(sessions: tuple[Session, Session]) -> None:
    x, i = gc.placeholder("x", (5,)), gc.placeholder("i", (3,), "int64")
    taken, noise = gc.take(x, i, 0), gc.random.normal((3,))
    good, bad = np.array([0, 4, -5]), np.array([0, 5, 1])
    steps = [session.compile([taken, noise], [x, i]) for session in sessions]
    for _ in range(TIMES):
        same(*[step(data(5), good) for step in steps])
    for step in steps:
        with pytest.raises(gc.GraphcError):
            step(data(5), bad)
    same(*[step(data(5), good) for step in steps])


@pytest.mark.parametrize("size", [3, 100_000])  # the entry is called at any time, or in one's turn
def test_draws_go_on_from_a_file(sessions: tuple[Session, Session], tmp_path: Path, size: int) -> None:
    w, noise = variable([1.0]), gc.random.normal((size,))
    native, plain = sessions
    step = native.compile(noise * w, [])
    for _ in range(TIMES):
        same(step(), plain.run(noise * w))
    native.save(tmp_path / "file")
    later = [step() for _ in range(3)]
    plain.load(tmp_path / "file")
    same([plain.run(noise * w) for _ in range(3)], later)
    native.load(tmp_path / "file")
    same([step() for _ in range(3)], later)


@pytest.fixture
def shelved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shelves for results of every size."""
    monkeypatch.setattr(blocks, "MIDDLE", 1)


@pytest.mark.usefixtures("shelved")
def test_results_that_are_kept_stay_as_they_are(sessions: tuple[Session, Session], entered: SimpleNamespace) -> None:
    x = gc.placeholder("x", (30, 7))
    native, plain = sessions
    step = native.compile([x * 2, x > 0, x.sum()], [x])
    kept = [step(data(30, 7) - k) for k in range(3 * TIMES)]
    for k, found in enumerate(kept):
        same(found, plain.run([x * 2, x > 0, x.sum()], {x: data(30, 7) - k}))
    arrays = [array for found in kept for array in found]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))
    assert all(array.flags.carray for array in arrays)
    assert entered.by_python == 2 + len(kept)


@pytest.mark.usefixtures("shelved")
def test_results_that_are_dropped_leave_their_memory_to_the_next_ones(sessions: tuple[Session, Session]) -> None:
    x = gc.placeholder("x", (100,))
    native, plain = sessions
    step, double = native.compile(x + 1, [x]), native.compile(x * 2, [x])
    for f in (step, double):
        for _ in range(TIMES):
            f(data(100))
    places = set()
    for _ in range(TIMES):
        found = step(data(100))  # the one before is dropped only now
        assert found.ctypes.data % 64 == 0
        places.add(found.ctypes.data)
    assert len(places) == 2
    view, memory = found[3:].reshape(1, -1), memoryview(step(data(100)))
    del found
    for _ in range(TIMES):
        same(double(step(step(data(100)))), plain.run((x + 2) * 2, {x: data(100)}))
    assert view.tolist() == [(data(100) + 1)[3:].tolist()] and memory.tolist() == (data(100) + 1).tolist()


def test_whatever_moves_is_noticed(sessions: tuple[Session, Session], tmp_path: Path) -> None:
    x = gc.placeholder("x", ("n",))
    w = variable([1.0, 2.0, 3.0])
    y, bump = (w * x.sum()).sum() + w[0], w.assign_add(gc.constant([1.0, 1.0, 1.0]))
    native, plain = sessions
    step = native.compile(y, [x])
    files = {native: tmp_path / "native", plain: tmp_path / "plain"}
    for session, file in files.items():
        session.run(bump)
        session.save(file)

    def check() -> None:
        for n in (4, 4, 4, 7, 7, 4):
            wanted = plain.run(y, {x: data(n)})
            same(native.run(y, {x: data(n)}), wanted)
            same(step(data(n)), wanted)

    check()
    for change in (
        lambda s: s.__setitem__(w, [5.0, 6.0, 7.0]),
        lambda s: s.run(bump),
        lambda s: s.load(files[s]),
        lambda s: s.run(w.assign(w * 2)),
        lambda s: s.run(gc.random.normal((100_000,)) + 1),  # needs a larger arena
    ):
        for session in sessions:
            change(session)
        check()


def test_results_belong_to_the_user(sessions: tuple[Session, Session]) -> None:
    x = gc.placeholder("x", (8,))
    w = variable(data(8))
    native, _ = sessions
    given = data(8)
    found = []
    for _ in range(TIMES):
        found += native.run([x, w, x + w, w + 0], {x: given})
    for k, array in enumerate(found):
        assert array.flags.owndata and array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in [*found[:k], given])
        array[:] = -1
    assert given.tolist() == data(8).tolist()
    same(native[w], data(8))


def test_results_are_written_to_the_arrays_that_the_user_has(sessions: tuple[Session, Session]) -> None:
    x, y = gc.placeholder("x", (6,)), gc.placeholder("y", (6,))
    fetches = [x + y, x * y, x, (x - y).reshape((2, 3))]
    native, plain = sessions
    step = native.compile(fetches, [x, y])
    for outs in (
        lambda a, b: [np.empty(6, np.float32) for _ in range(3)] + [np.empty((2, 3), np.float32)],
        lambda a, b: [a, b, np.empty(6, np.float32), np.empty((3, 2), np.float32).T],
        lambda a, b: [b, np.empty(12, np.float32)[::2], a, np.empty((2, 3), np.float32, order="F")],
        lambda a, b: [np.empty(6, np.float32), np.empty(6, np.float32), b, a.reshape(2, 3)],
    ):
        one, other = data(6), data(6) * 3
        wanted = plain.run(fetches, {x: one, y: other})
        out = outs(one, other)
        found = step(one, other, out=out)
        for array, mine, value in zip(found, out, wanted, strict=True):
            assert array is mine
            same(np.ascontiguousarray(array), value)


def test_a_variable_that_is_fed_is_not_written(sessions: tuple[Session, Session]) -> None:
    w = variable([1.0, 2.0])
    bump = w.assign_add(gc.constant([10.0, 10.0]))
    native, plain = sessions
    for _ in range(TIMES):
        given = np.array([3.0, 4.0], np.float32)
        for session in sessions:
            session.run(bump, {w: given})
        assert given.tolist() == [3.0, 4.0]
        same(native[w], plain[w])


def test_what_does_not_fit_is_told_as_ever(sessions: tuple[Session, Session]) -> None:
    x = gc.placeholder("x", (3,))
    y = x + 1
    native, _ = sessions
    step = native.compile(y, [x])
    for _ in range(TIMES):
        step(data(3)), native.run(y, {x: data(3)})
    for wrong in (lambda value: step(value), lambda value: native.run(y, {x: value})):
        with pytest.raises(gc.FeedError, match="expected 3"):
            wrong(data(4))
        with pytest.raises(gc.FeedError, match="float32"):
            wrong(data(3) * 1j)
    with pytest.raises(gc.ArgumentError, match=r"takes 1 values .*, got 2"):
        step(data(3), data(3))
    with pytest.raises(TypeError, match="unexpected keyword"):
        step(data(3), into=data(3))
    out = np.empty(3, np.float32)
    (found,) = [step(data(3), out=[out])]
    same(found, data(3) + 1)
    same(out, data(3) + 1)
    same(step([0, 1, 2]), np.array([1, 2, 3], np.float32))
    same(step(data(6)[::2]), data(6)[::2] + 1)
    same(step(data(3).astype(np.float64)), data(3) + 1)


def test_an_interpreter_that_entries_do_not_know_needs_none(
    monkeypatch: pytest.MonkeyPatch, entered: SimpleNamespace
) -> None:
    monkeypatch.setattr(entry, "is_known", lambda: False)
    x = gc.placeholder("x", (3,))
    y = x + 1
    with gc.Session(device="cpu") as session:
        step = session.compile(y, [x])
        for _ in range(TIMES):
            same(step(data(3)), data(3) + 1)
            same(session.run(y, {x: data(3)}), data(3) + 1)
    assert (entered.bound, entered.by_python) == (0, 2 * TIMES)


def test_a_closed_session_says_so() -> None:
    x = gc.placeholder("x", (3,))
    y = x + 1
    session = gc.Session(device="cpu")
    step = session.compile(y, [x])
    for _ in range(TIMES):
        step(data(3)), session.run(y, {x: data(3)})
    session.close()
    for call in (lambda: step(data(3)), lambda: session.run(y, {x: data(3)})):
        with pytest.raises(gc.SessionError, match="closed"):
            call()


def test_closing_ends_the_threads_and_frees_the_memory_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gc.placeholder("x", (1000, 200))
    y = gc.tanh(gc.tanh(x) @ np.ones((200, 7), np.float32)).sum()
    monkeypatch.setattr(pool, "_shared", weakref.WeakValueDictionary())  # of no session that isn't collected yet
    before = helpers()
    session = gc.Session(device="cpu", threads=3)
    for _ in range(TIMES):
        session.run(y, {x: data(1000, 200)})
    assert len(helpers() - before) == 2
    memory = weakref.ref(session._target.memory)
    session.close()
    assert helpers() <= before
    assert memory() is None


def test_a_session_is_freed_with_its_last_user() -> None:
    x = gc.placeholder("x", (3,))
    y = x + 1
    collector.disable()
    try:
        session = gc.Session(device="cpu")
        step = session.compile(y, [x])
        for _ in range(TIMES):
            step(data(3)), session.run(y, {x: data(3)})
        dead = weakref.ref(session)
        del session
        assert dead() is not None, "the step needs it"
        del step
        assert dead() is None
    finally:
        collector.enable()


def test_from_inside_a_run_it_is_refused() -> None:
    x = gc.placeholder("x", (3,))
    y = x + 1
    session = gc.Session(device="cpu")
    step = session.compile(y, [x])
    for _ in range(TIMES):
        step(data(3)), session.run(y, {x: data(3)})
    told: list[str] = []

    def inside(value: Any) -> Any:
        for call in (lambda: step(data(3)), lambda: session.run(y, {x: data(3)})):
            with pytest.raises(gc.SessionError) as error:
                call()
            told.append(str(error.value))
        return value

    session.run(user_op(inside)(x), {x: data(3)})
    assert len(told) == 2 and all("from inside" in text for text in told)
    same(step(data(3)), data(3) + 1)


def test_many_threads_and_one_session() -> None:
    """Short plans, long ones and updates at the same time: each run sees one state."""
    x, long = gc.placeholder("x", (64,)), gc.placeholder("long", (500, 200))
    w = variable(np.zeros(64))
    bump, spread = w.assign_add(x), (w + x).max() - (w + x).min()
    total = gc.tanh(long).sum() * 0 + w.max() - w.min()
    wrong: list[Any] = []
    with gc.Session(device="cpu", threads=2) as session:
        steps = [session.compile(bump, [x]), session.compile(spread, [x]), session.compile(total, [long])]
        ones, longs = np.ones(64, np.float32), data(500, 200)

        def work() -> None:
            for _ in range(150):
                steps[0](ones)
                wrong.extend(value for value in (steps[1](ones), steps[2](longs)) if value != 0)

        users = [threading.Thread(target=work) for _ in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join()
        assert wrong == []
        assert session[w].tolist() == [600.0] * 64


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("rows", [2, 2000])
def test_entries_work_on_in_a_forked_child(rows: int) -> None:
    x = gc.placeholder("x", (rows, 100))
    w = variable(np.zeros((rows, 100)))
    bump = w.assign_add(gc.tanh(x))
    session = gc.Session(device="cpu", threads=3)
    step, ones = session.compile(bump, [x]), np.ones((rows, 100), np.float32)
    for _ in range(TIMES):
        step(ones)
    child = os.fork()
    for _ in range(TIMES):
        step(ones)
    good = np.allclose(session[w], 2 * TIMES * np.tanh(1))
    if child == 0:
        os._exit(0 if good else 1)
    assert good and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    session.close()


@pytest.mark.parametrize("size", [4, 200_000])
def test_an_interrupt_leaves_all_or_nothing(size: int) -> None:
    """Before each line of what runs around an entry, and of what binds it."""
    x = gc.placeholder("x", (size,))
    w, v = variable(np.zeros(size), "w"), variable(np.zeros(size), "v")
    bump = gc.group(w.assign_add(x), v.assign_add(x * 2 + gc.random.uniform((size,)) * 0))
    files = frozenset(module.__file__ or "" for module in (direct, entry, session_module))
    ones, at, reached = np.ones(size, np.float32), 0, True
    session = gc.Session(device="cpu")
    session.run(bump, {x: ones})
    while reached:
        session._shortcuts.forget()
        reached = False
        for _ in range(4):
            before = float(session[w][0])
            with Interrupt(at, files) as interrupt:
                try:
                    session.run(bump, {x: ones})
                except KeyboardInterrupt:
                    assert interrupt.reached
            reached = reached or interrupt.reached
            assert float(session[w][0]) in (before, before + 1)
            assert float(session[v][0]) == 2 * float(session[w][0])
        before = float(session[w][0])
        for _ in range(3):
            session.run(bump, {x: ones})
        assert (float(session[w][0]), float(session[v][0])) == (before + 3, 2 * before + 6)
        at += 1
    assert at > 100
