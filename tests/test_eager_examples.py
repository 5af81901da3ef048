"""The eager twin of each example: its own model, data, rules and batches, an op at a time, with the same numbers."""

from __future__ import annotations

import runpy
from itertools import islice

import numpy as np
import pytest
from checkout import ROOT

import graphc as gc
from graphc import eager as ge

TOLERANCE = 1e-5  # of the losses of a step, relative to the first
STEPS = 40  # of the network of digits


@pytest.fixture(autouse=True)
def begin():
    """A graph of its own for every test, so that names and first values are the example's."""
    with gc.Graph(), ge.set_grad_enabled(True), ge.set_training(True):
        yield


def load(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name=name)


# --- linear regression


def trained(example, way, steps):
    """The losses that a way of the example has on eager tensors, at every hundredth, and the final (w, b)."""
    w, b = ge.tensor(1.0, requires_grad=True), ge.tensor(0.0, requires_grad=True)
    optimizer = ge.optimizer(example["RULES"][way](), [w, b]) if way in example["RULES"] else None
    t_u, t_c = ge.tensor(0.1 * example["T_U"]), ge.tensor(example["T_C"])
    losses = []
    for _ in range(steps):
        loss = gc.losses.mse_loss(example["predict"](t_u, w, b), t_c)
        losses.append(loss.item())
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            continue
        slope = example["slope_by_hand"](t_u, t_c, w, b) if way == "by_hand" else ge.grad(loss, [w, b])
        with ge.no_grad():
            w -= 1e-2 * slope[0]
            b -= 1e-2 * slope[1]
    return losses[99::100], w.item(), b.item()


@pytest.mark.parametrize("way", ["by_hand", "symbolic", "sgd", "adam"])
def test_linear_regression(way):
    example = load("linear_regression")
    losses, *fit = example["train"](way)
    found, *fitted = trained(example, way, 1000)
    assert len(found) == len(losses) == 10
    np.testing.assert_allclose(found, losses, rtol=0, atol=TOLERANCE * losses[0])
    np.testing.assert_allclose(fitted, fit, rtol=1e-5)


# --- digits


def test_digits():
    example = load("digits")
    images, labels, _, loss, accuracy, train = example["declare"](rate=2e-3, dropout=0.0)  # each side draws its own
    with gc.Graph():  # where its names, and so its first values, are those of the graph
        twin = ge.module(example["network"](dropout=0.0), seed=0)
    optimizer = ge.optimizer(gc.optim.Adam(lr=2e-3), twin)

    def step(x, y):
        optimizer.zero_grad()
        found = gc.losses.cross_entropy(twin(x), y)
        found.backward()
        optimizer.step()
        return found.item()

    with gc.Session(seed=0) as session:
        compiled = session.compile([loss, train], feeds=[images, labels])
        declared = [float(compiled(*batch)[0]) for batch in taken(example)]
        held_out = gc.data.digits("test").arrays()
        right = session.run(accuracy, dict(zip((images, labels), held_out, strict=True)))
    found = [step(*batch) for batch in taken(example)]
    assert len(found) == STEPS and declared[-1] < declared[0] / 5
    np.testing.assert_allclose(found, declared, rtol=0, atol=TOLERANCE * declared[0])
    with ge.no_grad(), ge.set_training(False):
        assert abs(gc.metrics.accuracy(twin(held_out[0]), held_out[1]).item() - right) < 0.005


def taken(example):
    """The first batches of the example: more than an epoch."""
    loader = example["batches"]()
    return islice((batch for _ in range(2) for batch in loader), STEPS)


def test_digits_are_learnt_with_dropout_too():
    example = load("digits")
    ge.manual_seed(0)
    twin = ge.module(example["network"](), seed=0)
    optimizer = ge.optimizer(gc.optim.Adam(lr=2e-3), twin)
    losses = []
    for x, y in taken(example):
        optimizer.zero_grad()
        loss = gc.losses.cross_entropy(twin(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < losses[0] / 5


# --- the network in three systems


def test_static_vs_eager():
    losses = load("static_vs_eager")["train"](100)
    np.testing.assert_allclose(losses["eager"], losses["static"], rtol=0, atol=TOLERANCE)


# --- own gradients


def test_custom_gradient():
    example = load("custom_gradient")
    expected = example["main"]()
    for name, loss in example["LOSSES"].items():
        x = ge.tensor(example["POINT"], requires_grad=True)
        loss(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), expected[name], rtol=1e-6)
    x = ge.tensor(example["POINT"], requires_grad=True)
    (slope,) = ge.grad(example["LOSSES"]["sum(round_straight_through(x)**2)"](x), x, create_graph=True)
    rows = [ge.grad(part, x, retain_graph=True)[0].numpy() for part in slope]
    np.testing.assert_allclose(rows, expected["its Hessian"], rtol=1e-6)
