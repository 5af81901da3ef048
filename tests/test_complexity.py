"""Work grows in proportion to the graph, counted in calls of functions, and nothing recurses along it.

What is counted is every call in Python and from Python, and each time that a node is hashed or compared, be it by
code in C: a search through a list counts as much as a loop over it.
"""

import gc as collector
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc.ir import Node, Program
from graphc.passes.gradients import gradients
from graphc.passes.pipeline import run_pipeline
from graphc.passes.plan import plan_program
from graphc.runtime.plan import PlanTarget
from graphc.runtime.reference import ReferenceTarget
from graphc.verify import verify
from graphc.verify_plan import verify_plan

GROWTH = 2.2  # times as much work, at most, for twice the graph
DEEP = ("build", "gradients", "verify", "run", "plan", "run by plan", "export", "text", "draw", "networkx", "delete")


# --------------------------------------------------------------------------------------------- graphs


def variable(*shape):
    return gc.Variable(np.ones(shape, np.float32))


def chain(n):
    """A recurrence with a skip connection."""
    w, x = variable(8, 8), gc.placeholder("x", (4, 8))
    h = x
    for _ in range(n // 4):
        h = gc.tanh(h @ w) * 0.5 + x
    return h, [w]


def layers(n):
    """Each layer has a weight of its own."""
    weights, h = [variable(8, 8) for _ in range(n // 4)], gc.placeholder("x", (4, 8))
    for w in weights:
        h = gc.relu(h @ w) + 0.5
    return h, weights


def dense_blocks(n):
    """Each layer of a block takes all layers before it, side by side (DenseNet)."""
    h, weights = gc.placeholder("x", (4, 4)), [variable(4 * k, 4) for k in range(1, 13)]
    for _ in range(n // 36):
        seen = [h]
        for w in weights:
            seen.append(gc.tanh(gc.concat(seen, axis=1) @ w))
        h = seen[-1]
    return h, weights


def forks(n):
    """Four ways from each place to the next (GoogLeNet): 4^n paths."""
    h, w = gc.placeholder("x", (4, 8)), variable(8, 2)
    for _ in range(n // 10):
        h = gc.concat([gc.tanh(h @ w), gc.exp(h @ w), h[:, 2:4] * 0.5, gc.relu(h[:, :2])], axis=1)
    return h, [w]


def fan_out_and_in(n):
    """One value that all others are computed from, and a sum of all of them."""
    x = variable(4, 8)
    terms = [gc.tanh(x + float(k)) for k in range(n // 3)]
    return sum(terms[1:], terms[0]), [x]


def composites(n):
    """Composites, whose bodies are expanded."""
    x = variable(4, 8)
    y = x
    for _ in range(n // 8):
        y = gc.softmax(gc.layer_norm(y, (8,)), axis=-1)
    return y, [x]


def masks(n):
    """Masks, which move outward in the gradient."""
    x = variable(4, 8)
    y = x
    for k in range(n // 4):
        y = gc.where(y > float(k), y * 2.0, gc.maximum(y, 1.0))
    return y, [x]


def unrolled(n):
    """A recurrence over the rows of a tensor, whose gradient is put together from as many."""
    x, h = variable(n // 4, 8), gc.zeros((8,))
    for k in range(n // 4):
        h = gc.tanh(x[k] + h * 0.5)
    return h, [x]


def taken_apart(n):
    """What is put together is taken apart again."""
    x = variable(n // 8, 8)
    whole = gc.stack([gc.tanh(part) for part in gc.unstack(x, 0)], 0)
    return sum([gc.exp(part) for part in gc.unstack(whole, 0)], gc.zeros((8,))), [x]


SHAPES = (chain, layers, dense_blocks, forks, fan_out_and_in, composites, masks, unrolled, taken_apart)


# --------------------------------------------------------------------------------------------- counting


@pytest.fixture
def visible_nodes(monkeypatch):
    """Hashing and comparing nodes are calls of functions in Python; freeing what others have left isn't counted."""
    by_identity = object.__hash__
    monkeypatch.setattr(Node, "__hash__", lambda node: by_identity(node))
    monkeypatch.setattr(Node, "__eq__", lambda node, other: node is other)
    monkeypatch.setenv("GRAPHC_VERIFY", "0")  # it is counted by itself
    collector.collect()
    collector.disable()
    yield
    collector.enable()


class Work:
    """Counts the calls of each stage."""

    def __init__(self):
        self.calls = {}

    def __call__(self, stage, function, *args, **options):
        """The result of the function; its calls are those of the stage."""
        ticks = itertools.count()
        sys.setprofile(lambda *event: next(ticks))
        try:
            return function(*args, **options)
        finally:
            sys.setprofile(None)
            self.calls[stage] = next(ticks)


def work_on(shape, n):
    """The calls of each stage for a graph of about `n` forward nodes."""
    work, target = Work(), PlanTarget.info
    with gc.Graph():
        y, variables = work("build", shape, n)
        loss = gc.sum(y)
        slopes = work("gradients", gradients, loss, variables)
        train = gc.group(*[v.assign_sub(0.1 * g) for v, g in zip(variables, slopes, strict=True)])
        feeds = {node: np.ones(node.shape) for node in gc.current_graph().nodes() if node.op.kind == "placeholder"}
        program = Program(tuple(feeds), (loss,), tuple(train.items()))
        with gc.Session() as sess:
            work("run", sess.run, [loss, train], feeds)
        work("text", gc.text, program)
        work("verify", verify, program)
        optimised = work("passes", run_pipeline, program, target, training=True)
        work("reference", ReferenceTarget().compile, optimised)
        plan = work("plan", plan_program, optimised, target, {})
        work("verify_plan", verify_plan, plan)
    return work.calls


def growths(shape, n):
    """How many times as many calls each stage takes for twice the graph."""
    work_on(shape, n // 8)  # what is remembered from run to run
    small, large = work_on(shape, n), work_on(shape, 2 * n)
    return {stage: round(large[stage] / small[stage], 2) for stage in large}


# --------------------------------------------------------------------------------------------- tests


@pytest.mark.usefixtures("visible_nodes")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_twice_the_graph_is_twice_the_work(shape):
    found = growths(shape, 1000)
    assert max(found.values()) <= GROWTH, found


@pytest.mark.usefixtures("visible_nodes")
def test_a_deep_chain_is_in_proportion_too():
    """Of 30,000 nodes with its gradient: what is quadratic with a small factor shows here."""
    found = growths(chain, 5000)
    assert max(found.values()) <= GROWTH, found


@pytest.mark.usefixtures("visible_nodes")
def test_quadratic_work_is_found_out():
    def searching(n):
        nodes = []
        for node in (gc.placeholder("x", (3,)) for _ in range(n)):
            assert node not in nodes
            nodes.append(node)

    small, large = (Work() for _ in range(2))
    with gc.Graph():
        small("build", searching, 100)
        large("build", searching, 200)
    assert large.calls["build"] > GROWTH * small.calls["build"]


def test_nothing_recurses_along_a_chain_of_20_000_nodes():
    script = Path(__file__).with_name("deep_chain.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:-1] == list(DEEP), done.stderr[-3000:]
