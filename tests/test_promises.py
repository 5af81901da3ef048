"""What define-then-run systems got wrong for years, as programs: initialisation, growing graphs, the order of reads and
writes, statistics of batches."""

from __future__ import annotations

import gc as collector
import threading
import weakref

import numpy as np
import pytest
from cuda_driver import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc as gc

# --- no variable is ever uninitialised

RECIPES = {
    "a number": (3.0, {}),
    "an array": (np.arange(3.0, dtype="float32"), {}),
    "an initialiser": (gc.nn.init.normal(), {"shape": (4,)}),
    "an own initialiser": (lambda seed, name, shape, dtype: np.full(shape, len(name), dtype), {"shape": (2,)}),
    "integers": ([1, 2], {"dtype": "int64"}),
}


class Model:
    """Variables of every recipe, one made from others, and a session that never saw them."""

    def __init__(self, folder):
        self.file = folder / "model.safetensors"
        self.variables = [gc.Variable(initial, name=name, **options) for name, (initial, options) in RECIPES.items()]
        drawn = gc.random.normal((3,), name="start")
        self.variables.append(gc.Variable(self.variables[1] * 2 + drawn, name="from others"))
        self.layer = gc.nn.Linear(3, 1, bias=False)
        self.loss = (self.layer(self.variables[1][None]) ** 2).sum()
        self.session = gc.Session(seed=4)

    def actions(self):
        """One use of each public way to a variable's value."""
        session, variables = self.session, self.variables
        floats = [v for v in variables if v.dtype == "float32"]
        return {
            "run": lambda: session.run(variables),
            "run by name": lambda: session.run(variables[0].name),
            "compute": lambda: session.run([v * 2 for v in variables]),
            "read": lambda: [session[v] for v in variables],
            "write": lambda: session.__setitem__(variables[0], 1.0),
            "assign": lambda: session.run(gc.group(*[v.assign(v) for v in floats])),
            "add": lambda: session.run(gc.group(*[v.assign_add(v) for v in floats])),
            "minimise": lambda: session.run(gc.optim.Adam(lr=0.1).minimize(self.loss)),
            "new optimiser": lambda: session.run(gc.optim.SGD(lr=0.1, momentum=0.9).minimize(self.loss)),
            "new variable": lambda: session.run(self.loss + gc.Variable(1.0, name="late")),
            "step": lambda: session.compile(self.loss)(),
            "plan": lambda: session.plan(self.loss),
            "save": lambda: session.save(self.file),
            "load": lambda: (session.save(self.file), session.load(self.file)),
            "override": lambda: session.run(variables[0] + 1, {variables[0]: 5.0}),
            "training": lambda: session.run(self.loss, training=True),
        }


@settings(max_examples=40)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=4))
def test_no_order_of_uses_finds_an_uninitialised_variable(tmp_path_factory, order):
    with gc.Graph():
        model = Model(tmp_path_factory.mktemp("model"))
        actions = list(model.actions().values())
        for k in order:
            actions[k]()
        values = model.session.run(model.variables)
    assert all(np.isfinite(value).all() for value in values)


@settings(max_examples=25)
@given(st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_unrelated_nodes_change_no_first_value(before, after, scoped):
    def first_values(unrelated_before, unrelated_after):
        with gc.Graph():
            kept = [unrelated(k) for k in range(unrelated_before)]
            with gc.scope("model"):
                model = gc.nn.Sequential(gc.nn.Linear(3, 4), gc.nn.BatchNorm1d(4), gc.nn.Linear(4, 2))
                model(gc.placeholder("x", shape=("batch", 3)))
            own = gc.Variable(gc.random.uniform((5,), name="start"), name="own")
            kept += [unrelated(k + 10) for k in range(unrelated_after)]
            with gc.Session(seed=9) as session:
                if scoped:
                    session.run(kept)
                return [session[v] for v in (*model.parameters(), own)]

    def unrelated(k):
        with gc.scope(f"unrelated{k}"):
            return gc.Variable(gc.nn.init.normal(), shape=(k + 1,)) * 2

    plain, crowded = first_values(0, 0), first_values(before, after)
    assert all((a == b).all() for a, b in zip(plain, crowded, strict=True))


# --- a loop does not grow the graph

STEPS = 10_000

LOOPS = {
    "negation": lambda a, b: -a,
    "an element": lambda a, b: a[0],
    "a sum": lambda a, b: a + b,
}


@pytest.mark.parametrize("name", LOOPS)
def test_an_expression_that_a_loop_rebuilds_is_one_node(name):
    expression = LOOPS[name]
    with gc.Graph() as graph, gc.Session() as session:
        a = gc.placeholder("a", shape=(2,))
        b = gc.Variable(np.ones(2, "float32"), name="b")
        feeds = {a: np.array([1, 2], "float32")}
        expected = session.run(expression(a, b), feeds)
        first = weakref.ref(expression(a, b))
        assert first() is not None, "the session's plan keeps it"
        nodes, plans = len(graph), session.cache_info().size
        for _ in range(STEPS):
            result = session.run(expression(a, b), feeds)
            assert len(graph) == nodes
        assert (result == expected).all() and first() is expression(a, b)
        assert session.cache_info().size == plans


def test_a_train_step_that_a_loop_rebuilds_is_one_update():
    with gc.Graph() as graph, gc.Session() as session:
        w = gc.Variable(np.ones(2, "float32"), name="w")
        rate = gc.placeholder("rate", shape=(), default=0.1)
        nodes = set()
        for _ in range(50):
            (slope,) = gc.gradients((w * w).sum(), [w])
            session.run(w.assign(w - rate * slope))
            nodes.add(len(graph))
        assert len(nodes) == 1
        np.testing.assert_allclose(session[w], 0.8**50, rtol=1e-5)


def test_closing_a_session_frees_the_nodes_that_only_its_plans_held():
    with gc.Graph() as graph:
        w = gc.Variable(np.ones(2, "float32"), name="w")
        session = gc.Session()
        session.run(gc.exp(w) * 2)
        held = len(graph)
        session.close()
        collector.collect()
        assert len(graph) < held
        del session, w
        collector.collect()
        assert len(graph) == 0


# --- reads and writes of a run have one order


def swap():
    a, b = gc.Variable(1.0, name="a"), gc.Variable(2.0, name="b")
    return [a, b, gc.group(a.assign(b), b.assign(a))], [[1, 2], [2, 1], [1, 2]]


def read_beside_a_write():
    w = gc.Variable(0.0, name="w")
    bump = w.assign_add(1.0)
    return [w, w * 10, bump, w + 0.5, bump[w]], [[0, 0, 0.5, 1], [1, 10, 1.5, 2], [2, 20, 2.5, 3]]


def one_update_twice():
    w = gc.Variable(0.0, name="w")
    return [w.assign_add(1.0), w, w.assign_add(1.0)], [[0], [1], [2]]


def loss_and_its_summary():
    w = gc.Variable(4.0, name="w")
    loss = w * w
    train = gc.optim.SGD(lr=0.25).minimize(loss)
    return [loss, train, loss * 1.0, gc.sqrt(loss)], [[16, 16, 4], [4, 4, 2], [1, 1, 1]]


def step_and_schedule():
    step = gc.Variable(0, name="step", dtype="int64")
    rate = gc.where(step < 2, 1.0, 0.5)
    w = gc.Variable(0.0, name="w")
    both = gc.group(w.assign_add(rate), step.assign_add(1))
    return [both, rate, step, w], [[1, 0, 0], [1, 1, 1], [0.5, 2, 2]]


def moving_average_of_a_trained_variable():
    w, mean = gc.Variable(1.0, name="w"), gc.Variable(0.0, name="mean")
    train = w.assign(w * 2)
    average = mean.assign(mean * 0.5 + train[w] * 0.5)
    return [train, average, w, mean, average[mean]], [[1, 0, 1], [2, 1, 2.5], [4, 2.5, 5.25]]


def two_writers_of_different_variables():
    a, b = gc.Variable(1.0, name="a"), gc.Variable(1.0, name="b")
    return [a.assign(a + b), b.assign(a * b), a, b], [[1, 1], [2, 1], [3, 2]]


PROGRAMS = [swap, read_beside_a_write, one_update_twice, loss_and_its_summary, step_and_schedule]
PROGRAMS += [moving_average_of_a_trained_variable, two_writers_of_different_variables]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("device", ["cpu", "reference", "plan"])
def test_reads_and_writes_have_one_order(program, device):
    with gc.Graph() as graph:
        fetches, expected = program()
    found = []

    def work():
        for _ in range(10 if device == "plan" else 50):
            with gc.Session(graph, device=device) as session:
                runs = [session.run(fetches) for _ in expected]
            found.append([[float(v) for v in values if v is not None] for values in runs])

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == (40 if device == "plan" else 200)
    assert all(values == expected for values in found)


def test_runs_of_many_threads_on_one_session_are_one_after_the_other():
    with gc.Graph(), gc.Session() as session:
        a, b = gc.Variable(0.0, name="a"), gc.Variable(0.0, name="b")
        both = gc.group(a.assign_add(1.0), b.assign(a + 1))
        torn = []

        def work():
            for _ in range(50):
                before_a, before_b, _ = session.run([a, b, both])
                if before_a != before_b:
                    torn.append((before_a, before_b))

        threads = [threading.Thread(target=work) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert torn == [] and session.run([a, b]) == [200, 200]


# --- statistics of batches


def torch_statistics(batches, momentum=0.1):
    """torch's formula: the mean of the batch, and its variance with n - 1, each moved by the momentum."""
    mean, var = np.zeros(batches.shape[2]), np.ones(batches.shape[2])
    for x in batches.astype("float64"):
        axes = (0, *range(2, x.ndim))
        mean = (1 - momentum) * mean + momentum * x.mean(axes)
        var = (1 - momentum) * var + momentum * x.var(axes, ddof=1)
    return mean, var


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_statistics_after_ten_steps_are_torchs(device):
    batches = np.random.default_rng(0).normal(2.0, 3.0, (10, 6, 3, 4, 5)).astype("float32")
    with gc.Graph():
        x = gc.placeholder("x", shape=("batch", 3, 4, 5))
        norm = gc.nn.BatchNorm2d(3)
        loss = (gc.nn.Conv2d(3, 2, 3)(norm(x)) ** 2).mean()
        train = gc.optim.SGD(lr=0.01).minimize(loss)
        with gc.Session(device=device) as session:
            for k, batch in enumerate(batches):
                session.run([loss, train], {x: batch})
                session.run(loss, {x: batch})  # an evaluation in between changes nothing
                assert session[norm.num_batches_tracked] == k + 1
            mean, var = torch_statistics(batches)
            np.testing.assert_allclose(session[norm.running_mean], mean, atol=1e-6, rtol=1e-6)
            np.testing.assert_allclose(session[norm.running_var], var, atol=1e-6, rtol=1e-6)


def test_evaluation_uses_the_statistics_and_changes_nothing():
    data = np.random.default_rng(0).normal(2.0, 3.0, (6, 3)).astype("float32")
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("batch", 3))
        norm = gc.nn.BatchNorm1d(3)
        y = gc.dropout(norm(x), 0.5)
        session[norm.running_mean], session[norm.running_var] = [1.0, 2.0, 3.0], [4.0, 1.0, 0.25]
        expected = (data - [1, 2, 3]) / np.sqrt(np.array([4, 1, 0.25]) + 1e-5)
        for _ in range(3):
            np.testing.assert_allclose(session.run(y, {x: data}), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(session.run(y, {x: data[:1]}), expected[:1], rtol=1e-5, atol=1e-5)
        assert session[norm.running_mean].tolist() == [1, 2, 3]
        assert not np.allclose(session.run(y, {x: data}, training=True), expected)
        assert session[norm.running_mean].tolist() != [1, 2, 3]


def test_an_evaluation_plan_has_no_draws_and_writes_nothing():
    with gc.Graph(), gc.Session() as session:
        x = gc.placeholder("x", shape=("batch", 3))
        model = gc.nn.Sequential(gc.nn.BatchNorm1d(3), gc.nn.Dropout(0.5), gc.nn.Linear(3, 2))
        train = gc.optim.Adam(lr=0.1).minimize((model(x) ** 2).sum())
        feeds = {x: np.ones((4, 3), "float32")}

        def contents(fetches):
            plan = session.plan(fetches, feeds)
            kinds = {node.op.kind for step in plan.kernels for node in step.nodes}
            return "random" in kinds, any(buffer.role == "update" for buffer in plan.buffers)

        assert contents(model(x)) == (False, False)
        assert contents([model(x), train]) == (True, True)
