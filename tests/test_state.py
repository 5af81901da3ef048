"""Results belong to the user; a run commits as a whole or not at all. (The other rules: test_state_*.py.)"""

import dataclasses
import gc as collector
import itertools
import signal
import sys
import weakref

import numpy as np
import pytest
from state_testing import RUNTIME, Interrupt, apart, user_op, variable

import graphc as gc
from graphc import occurrences
from graphc.runtime import plan as plan_target
from graphc.runtime import reference
from graphc.runtime.turns import exclusive

# --- results belong to the user


def test_results_never_share_memory(session):
    x = gc.placeholder("x", shape=(4, 4))
    w = variable(np.ones((4, 4)))
    fetched = [x, w, w, x.T, x[1:], x.reshape(16), x + 1, x + 1, (x + 1).T, gc.constant(np.ones((4, 4), "float32"))]
    feed = np.arange(16, dtype="float32").reshape(4, 4)
    results = session.run(fetched, {x: feed})
    owners = [*results, feed, session[w], session.run(w)]
    for i, a in enumerate(owners):
        for b in owners[i + 1 :]:
            assert not np.shares_memory(a, b)


def test_writing_to_a_result_or_a_feed_changes_nothing_inside(session):
    x = gc.placeholder("x", shape=(3,))
    w = variable([1, 2, 3])
    c = gc.constant(np.array([7, 8, 9], "float32"))
    feed = np.zeros(3, "float32")
    for result in session.run([w, x, c, w * 1, gc.broadcast_to(w[0], (3,))], {x: feed}):
        result[...] = 99
    assert session.run([w, c])[0].tolist() == [1, 2, 3]
    session.run([w.assign(x), gc.exp(x)], {x: feed})
    feed[...] = 55
    assert session.run(w).tolist() == [0, 0, 0]
    assert session.run(c).tolist() == [7, 8, 9]


def test_a_new_value_that_is_fetched_is_not_the_one_that_is_kept(session):
    w = variable([1, 2, 3])
    bump = w.assign(w + 1)
    new, _ = session.run([bump[w], bump])
    new[...] = 99
    assert session.run(w).tolist() == [2, 3, 4]


def test_a_value_that_was_assigned_is_not_the_users_array(session):
    w = variable([1, 2])
    mine = np.array([3, 4], "float32")
    session[w] = mine
    mine[...] = 99
    assert session.run(w).tolist() == [3, 4]
    session[w][...] = 99
    assert session.run(w).tolist() == [3, 4]


@pytest.mark.parametrize("writeable", [True, False])
def test_feeds_are_not_written(session, writeable):
    x = gc.placeholder("x", shape=(3,))
    w = variable([1, 2, 3])
    feed = np.array([4, 5, 6], "float32")
    feed.setflags(write=writeable)
    for _ in range(2):
        session.run([w.assign(x * 2), gc.exp(x), x], {x: feed})
        assert feed.tolist() == [4, 5, 6]


def test_feeds_are_not_kept(session):
    x = gc.placeholder("x", shape=(3,))
    w = variable([1, 2, 3])
    feed = np.array([4, 5, 6], "float32")
    gone = weakref.ref(feed)
    session.run([w.assign(x), x, x[1:], x * 2], {x: feed})
    del feed
    assert gone() is None


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
    fetched = [x, x.sum(), x[0] * gc.ones((5, 3)), x.T, x.T + 1, gc.constant(np.ones((2, 3))), gc.constant(1.0)]
    for feed in (np.ones((2, 3), "float32"), np.ones((3, 2), "float32").T, [[1, 2, 3], [4, 5, 6]]):
        for result in session.run(fetched, {x: feed}):
            assert type(result) is np.ndarray
            assert result.flags.writeable and result.flags.c_contiguous and result.flags.owndata


# --- results in arrays of the user's


@pytest.fixture
def step(session):
    """Two results, and an update that a failed call must not make."""
    x = gc.placeholder("x", shape=(2, 3))
    w = variable(0.0)
    count = w.assign_add(1.0)
    call = session.compile([x + 1, count, x.T], feeds=[x])

    def step(*values, **options):
        return call(*values, **options)

    step.count = lambda: float(session[w])
    return step


X = np.arange(6, dtype="float32").reshape(2, 3)


def arrays(*shapes, dtype="float32"):
    return [np.zeros(shape, dtype) for shape in shapes]


def test_a_compiled_step_writes_into_the_arrays_given(step):
    out = arrays((2, 3), (3, 2))
    a, nothing, b = step(X, out=out)
    assert a is out[0] and nothing is None and b is out[1]
    assert (a == X + 1).all() and (b == X.T).all() and step.count() == 1


def test_an_array_given_for_a_result_may_have_any_strides(step):
    wide, fortran = np.zeros((2, 6), "float32"), np.zeros((3, 2), "float32", order="F")
    step(X, out=(wide[:, ::-2], fortran))
    assert (wide[:, ::-2] == X + 1).all() and (wide[:, ::2] == 0).all() and (fortran == X.T).all()


def test_an_array_given_for_a_result_may_be_that_of_a_feed(step):
    feed, other = X.copy(), X.copy()
    _, _, transposed = step(feed, out=[feed, arrays((3, 2))[0]])
    assert (feed == X + 1).all() and (transposed == X.T).all()
    step(other, out=[arrays((2, 3))[0], other.reshape(3, 2)])
    assert (other.reshape(3, 2) == X.T).all()


def read_only(array):
    array.setflags(write=False)
    return array


WRONG_OUT = {
    "one array": arrays((2, 3))[0],
    "too few": arrays((2, 3)),
    "too many": arrays((2, 3), (3, 2), (1,)),
    "another shape": arrays((2, 3), (2, 3)),
    "another dtype": arrays((2, 3), (3, 2), dtype="float64"),
    "read-only": [arrays((2, 3))[0], read_only(arrays((3, 2))[0])],
    "lists": [[[0.0] * 3] * 2, [[0.0] * 2] * 3],
    "one array twice": [(base := np.zeros(6, "float32")).reshape(2, 3), base.reshape(3, 2)],
    "a number": 5,
    "nothing": [],
}


@pytest.mark.parametrize("case", WRONG_OUT)
def test_wrong_arrays_for_results_are_refused_before_anything_is_committed(step, case):
    with pytest.raises(gc.ArgumentError, match="out= needs"):
        step(X, out=WRONG_OUT[case])
    assert step.count() == 0
    step(X)
    assert step.count() == 1


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


class Counted:
    """Stands for `compute` where a target calls it: the n-th call fails."""

    def __init__(self, function, at=None):
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args):
        self.calls += 1
        if self.calls - 1 == self.at:
            raise MemoryError("no memory for 7 bytes")
        return self.function(*args)


@pytest.mark.parametrize(("device", "target"), [("reference", reference), ("plan", plan_target)])
def test_a_run_that_fails_anywhere_changes_nothing_and_the_next_one_works(device, target, monkeypatch):
    session = gc.Session(device=device)
    x = gc.placeholder("x", shape=("n", 3))
    w = variable(np.ones((3, 2)))
    loss = (gc.tanh(x @ w) ** 2).mean()
    train = gc.optim.SGD(lr=0.1, momentum=0.9).minimize(loss)
    feeds = {x: np.linspace(-1, 1, 12).reshape(4, 3)}
    variables = [*train]
    session.run([loss, train], feeds)
    before = [session[v] for v in variables]
    counted = Counted(target.compute)
    monkeypatch.setattr(target, "compute", counted)
    expected = session.run(loss, feeds)
    for at in range(1000):
        failing = Counted(counted.function, at)
        monkeypatch.setattr(target, "compute", failing)
        try:
            session.run([loss, train], feeds)
            break
        except MemoryError as error:
            notes = error.__notes__
        assert any(".py:" in note for note in notes)  # the line of an op; a constant's may be in another file
        assert all((session[v] == value).all() for v, value in zip(variables, before, strict=True))
        failing.at = None
        assert session.run(loss, feeds) == expected
    assert at > 10


# Where interrupts are tried: everywhere but in the lock's own module, where Python itself takes care of them.
ANYWHERE = frozenset(map(str, {*RUNTIME.glob("*.py"), *RUNTIME.glob("c*/*.py")} - {RUNTIME / "turns.py"}))
SESSION = frozenset({str(RUNTIME / "session.py")})
PROVENANCE = frozenset({occurrences.__file__})


class Swap:
    """A session in which all variables change together, always all or none, some in place and some from other arrays.

    Args:
        call: what is done to the sum that is fetched besides.
    """

    def __init__(self, device, call=lambda x: x):
        with gc.Graph():
            self.a, self.b, self.c = (variable(v, n) for v, n in ((([1, 2]), "a"), ([3, 4], "b"), ([0, 0, 0], "c")))
            self.x = gc.placeholder("x", shape=("n",))
            self.noise = gc.random.uniform((2,), name="noise")
            self.update = gc.group(self.a.assign(self.b), self.b.assign(self.a), self.c.assign(self.x - self.c))
            self.total = call(self.x.sum() + self.noise.sum())
        self.session = gc.Session(device=device)

    def run(self):
        return self.session.run([self.update, {"total": self.total}], {self.x: np.ones(3, "float32")})

    def state(self):
        return tuple(self.session[v].tolist() for v in (self.a, self.b, self.c))


BOTH = ([1, 2], [3, 4], [0, 0, 0]), ([3, 4], [1, 2], [1, 1, 1])
by_numpy = user_op(lambda x: x * 2)


def interrupted(at, files, call, **options):
    """Interrupt a call at a step; whether there was such a step."""
    with np.errstate(), Interrupt(at, files, **options) as interrupt:
        try:
            call()
        except KeyboardInterrupt:
            assert interrupt.reached
    return interrupt.reached


NATIVE = ("cpu", "played")
CALLS = {"": lambda x: x, "and a step of Python": by_numpy}


@pytest.mark.parametrize(
    ("device", "files", "call"),
    [("reference", ANYWHERE, ""), ("plan", SESSION, ""), *((name, ANYWHERE, c) for name in NATIVE for c in CALLS)],
    indirect=["device"],
)
def test_an_interrupt_before_any_line_leaves_all_variables_or_none_changed(device, files, call):
    swap = Swap(device, CALLS[call])
    swap.run()
    at = 0
    while interrupted(at, files, swap.run):
        assert swap.state() in BOTH
        before = swap.state()
        swap.run()
        assert swap.state() in BOTH and swap.state() != before
        at += 1
    assert at > 50


@pytest.mark.parametrize("device", ["reference", "cpu", "played"], indirect=True)
@apart
def test_an_interrupt_before_any_instruction_leaves_all_variables_or_none_changed(device):
    swap = Swap(device)
    swap.run()
    at, changed, going_on = 0, [], True
    while going_on:
        before = swap.state()
        going_on = interrupted(at, ANYWHERE, swap.run, opcodes=True)
        assert swap.state() in BOTH
        changed.append(swap.state() != before)
        at += 1
    assert at > 500 and changed == sorted(changed) and changed[-1]  # nothing interrupts a commit


@pytest.mark.parametrize("device", ["reference", "plan", "cpu", "played"], indirect=True)
def test_an_interrupted_first_run_can_be_repeated(device):
    at = 0
    while interrupted(at, SESSION, (swap := Swap(device)).run):
        swap.run()
        assert swap.state() in BOTH and len(swap.session._plans) == 1
        at += 1
    assert at > 50


def test_an_interrupted_compilation_leaves_no_trace_in_what_is_built_later():
    with gc.Graph():
        x = gc.placeholder("x", shape=("n", 3))
        y = gc.log(gc.softmax(x * 1.0 + 0.0)) - gc.gelu(x)
    at = 0
    while interrupted(at, PROVENANCE, lambda: gc.Session().run(y, {x: np.ones((2, 3))})):
        later = x + float(at + 2)
        assert "later = x + float(at + 2)" in str(later.occurrence.site) and later.occurrence.origin is None
        at += 1
    assert at > 50


def test_an_interrupted_load_takes_all_or_nothing(tmp_path):
    path = tmp_path / "other.safetensors"

    class Model:
        def __init__(self, seed, values):
            with gc.Graph() as graph:
                self.a, self.b = (variable(value, name) for value, name in zip(values, "ab", strict=True))
                self.draw = gc.random.uniform((), name="draw")
            self.session = gc.Session(graph, seed=seed)

        def state(self):
            session = self.session
            return float(session[self.a]), float(session[self.b]), session.seed, float(session.run(self.draw))

        def load(self):
            self.session.load(path)

    writer = Model(5, (10.0, 20.0))
    writer.session.run(writer.draw)
    writer.session.save(path)
    seen, at = [], 0
    while interrupted(at, SESSION, (model := Model(3, (1.0, 2.0))).load):
        seen.append(model.state())
        at += 1
    assert set(seen) == {Model(3, (1.0, 2.0)).state(), writer.state()}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX timers")
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_signals_at_any_moment_leave_the_session_usable(device, monkeypatch):
    swap = Swap(device)
    swap.run()
    turn = exclusive(lambda self: None).__code__

    def interrupt(number, frame):
        while frame is not None and frame.f_code is not turn:
            frame = frame.f_back
        if frame is not None:  # the run has begun, and has not ended
            raise KeyboardInterrupt

    def unraisable(unraisable):
        if unraisable.exc_type is not KeyboardInterrupt:  # which Python drops in what frees an object
            told(unraisable)

    told = sys.unraisablehook
    monkeypatch.setattr(sys, "unraisablehook", unraisable)
    previous = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for k in range(400):
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (k % 100 + 1))
            try:
                swap.run()
            except KeyboardInterrupt:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert swap.state() in BOTH
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupts


# --- errors in user code


def test_errors_in_user_code_surface_as_themselves_with_the_line(session):
    def broken(seed, name, shape, dtype):
        raise ZeroDivisionError("mine")

    w = gc.Variable(broken, name="w", shape=(2,))
    other = variable([1.0], "other")
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        session.run([w, other.assign(other + 1)])
    assert any("test_state.py" in note for note in caught.value.__notes__)
    assert session[other].tolist() == [1]


def test_an_error_in_an_op_of_the_users_surfaces_as_itself_and_commits_nothing(session):
    class MineError(Exception):
        pass

    def broken(x):
        raise MineError(x.tolist())

    w = variable([1.0])
    failing = user_op(broken)(w * 2)
    with pytest.raises(MineError, match=r"\[2\.0\]") as caught:
        session.run([w.assign(w + 1), failing])
    assert any("failing = user_op(broken)(w * 2)" in note for note in caught.value.__notes__)
    assert session[w].tolist() == [1]
    session.run(w.assign(w + 1))
    assert session[w].tolist() == [2]


def test_an_error_while_results_get_their_form_commits_nothing(session):
    @dataclasses.dataclass
    class Positive:
        value: object

        def __post_init__(self):
            if isinstance(self.value, np.ndarray) and self.value < 0:
                raise ArithmeticError("negative")

    w = variable(-1.0)
    for call in (lambda fetches: session.run(fetches), lambda fetches: session.compile(fetches)()):
        with pytest.raises(ArithmeticError, match="negative"):
            call([w.assign(w - 1), Positive(w)])
    assert float(session[w]) == -1


USES = {
    "run": lambda session, w: session.run(w),
    "compile": lambda session, w: session.compile(w),
    "read": lambda session, w: session[w],
    "write": lambda session, w: session.__setitem__(w, [2.0]),
    "save": lambda session, w: session.save("nowhere"),
    "load": lambda session, w: session.load("nowhere"),
    "plan": lambda session, w: session.plan(w),
    "close": lambda session, w: session.close(),
}


@pytest.mark.parametrize("use", USES)
def test_using_a_session_inside_its_own_run_is_an_error(session, use):
    inner = variable([1.0], "inner")
    made_inside = gc.Variable(lambda *_: USES[use](session, inner), name="w", shape=(1,))
    computed_inside = user_op(lambda x: USES[use](session, inner))(inner + 1)
    for fetch in (made_inside, computed_inside):
        with pytest.raises(gc.SessionError, match="inside one of its own runs"):
            session.run(fetch)
    assert session.run(inner).tolist() == [1]


def test_another_session_may_be_run_inside_a_run(session):
    inner = variable([1.0, 2.0], "inner")
    with gc.Session() as other:
        w = gc.Variable(lambda *_: other.run(inner), name="w", shape=(2,))
        assert session.run(w).tolist() == [1, 2]


# --- what is freed


@pytest.fixture
def collector_off():
    collector.collect()
    collector.disable()
    yield
    collector.enable()


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("device", ["reference", "plan", "cpu", "played"], indirect=True)
@pytest.mark.parametrize("closed", [True, False])
def test_arrays_and_plans_are_freed_with_the_session(device, closed):
    with gc.Graph():
        w = gc.Variable(lambda *_: np.ones(1000), name="w", shape=(1000,))
        y = gc.tanh(w) * 2
    session = gc.Session(device=device)
    session.run([y, w.assign(w + 1)])
    refs = [weakref.ref(session._state.values[w]), *map(weakref.ref, session._plans.values())]
    assert all(ref() is not None for ref in refs)
    if closed:
        session.close()
    else:
        del session
    assert [ref() for ref in refs] == [None, None]


@pytest.mark.parametrize(("device", "runs"), [("cpu", 5_000), ("plan", 300), ("played", 300)], indirect=["device"])
def test_memory_stays_the_same_from_run_to_run(device, runs):
    with gc.Graph(), gc.Session(device=device) as session:
        x = gc.placeholder("x", shape=("n",))
        w = variable([1.0, 2.0, 3.0])
        train = gc.optim.SGD(lr=0.01).minimize(((w * x - gc.random.uniform((3,))) ** 2).sum())
        feed = np.ones(3, "float32")

        def blocks_after(count):
            for _ in range(count):
                session.run([w, -x, train], {x: feed})
            collector.collect()
            return sys.getallocatedblocks()

        counts = [blocks_after(100), *(blocks_after(runs) for _ in range(4))]
        # Not even one object a run: what leaks does in every round, while caches fill and other threads end in some.
        assert min(later - earlier for earlier, later in itertools.pairwise(counts)) < runs / 10
