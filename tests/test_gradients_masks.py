"""Gradients that must be finite or exist at all: branches that were not taken, and second order of whole networks."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import DEVICES
from gradient_testing import grad, run, slope, variable

import graphc as gc
from graphc.ir import toposort

VALUES = np.array([-1.0, 0.0, 0.25, 4.0])


@pytest.fixture(autouse=True)
def graph():
    with gc.Graph() as graph:
        yield graph


# --- masks


@gc.composite
def doubled_root(x):
    """A composite without a rule, whose derivative is infinite at 0."""
    return gc.sqrt(x) * 2


@gc.composite
def guarded_root(x):
    """A composite with the choice inside."""
    return gc.where(x > 0, gc.sqrt(x), 0.0)


@gc.composite
def mean_of_roots(x):
    """A composite without a rule that broadcasts and reduces."""
    return (gc.sqrt(x)[:, None] * np.array([0.5, 1.5])).mean(axis=1)


@gc.composite
def roots(x):
    """A composite with two results."""
    return gc.sqrt(x), gc.sqrt(x) * 2


def root_slope(x):
    return np.where(x > 0, 0.5 / np.sqrt(np.where(x > 0, x, 1)), 0)


# Functions of a vector whose untaken branch has an infinite or undefined derivative, with their gradients.
MASKED = {
    "root": (lambda x: gc.where(x > 0, gc.sqrt(x), 0.0), root_slope),
    "the other way round": (lambda x: gc.where(x <= 0, 0.0, gc.sqrt(x)), root_slope),
    "logarithm": (lambda x: gc.where(x > 0, gc.log(x), x), lambda x: np.where(x > 0, 1 / np.where(x > 0, x, 1), 1)),
    "quotient": (
        lambda x: gc.where(gc.equal(x, 0), 1.0, gc.sin(x) / x),
        lambda x: np.where(x == 0, 0, (x * np.cos(x) - np.sin(x)) / np.where(x == 0, 1, x * x)),
    ),
    "power": (lambda x: gc.where(x > 0, x**0.5, 0.0), root_slope),
    "several ops deep": (
        lambda x: gc.where(x > 0, gc.exp(gc.log(x) * 0.5), 0.0),
        root_slope,
    ),
    "nested": (lambda x: gc.where(x > 0, gc.where(x > 1, gc.sqrt(x), gc.sqrt(x)), 0.0), root_slope),
    "cast": (lambda x: gc.where(x > 0, gc.cast(gc.sqrt(gc.cast(x, "float32")), "float64"), 0.0), root_slope),
    "reshape": (lambda x: gc.where((x > 0).reshape(2, 2), gc.sqrt(x).reshape(2, 2), 0.0), root_slope),
    "transpose": (lambda x: gc.where((x > 0).reshape(2, 2).T, gc.sqrt(x).reshape(2, 2).T, 0.0), root_slope),
    "flip": (lambda x: gc.where(gc.flip(x > 0), gc.flip(gc.sqrt(x)), 0.0), root_slope),
    "new axis": (lambda x: gc.where((x > 0)[:, None], gc.sqrt(x)[:, None], 0.0), root_slope),
    "slices": (lambda x: gc.concat([gc.where((x > 0)[k::2], gc.sqrt(x)[k::2], 0.0) for k in (0, 1)]), root_slope),
    "pad": (lambda x: gc.where(gc.pad(x > 0, 1), gc.pad(gc.sqrt(x), 1), 0.0), root_slope),
    "concat": (
        lambda x: gc.where(gc.concat([x > 0, x > 0]), gc.concat([gc.sqrt(x), gc.sqrt(x)]), 0.0),
        lambda x: 2 * root_slope(x),
    ),
    "library composite": (
        lambda x: gc.where(x > 0, gc.softplus(gc.log(x)), 0.0),
        lambda x: np.where(x > 0, 1 / (1 + np.where(x > 0, x, 1)), 0),
    ),
    "own composite": (lambda x: gc.where(x > 0, doubled_root(x), 0.0), lambda x: 2 * root_slope(x)),
    "choice in a composite": (guarded_root, root_slope),
    "clip": (
        lambda x: gc.log(gc.clip(x, 0.5, 9.0)),
        lambda x: np.where((x >= 0.5) & (x <= 9), 1 / np.where(x > 0, x, 1), 0),
    ),
    "weighted": (lambda x: gc.where(x > 0, gc.sqrt(x), 0.0) * 3, lambda x: 3 * root_slope(x)),
    "mean": (lambda x: gc.where(x > 0, gc.sqrt(x), 0.0).mean() * 4, root_slope),
    "sum behind the branch": (
        lambda x: gc.where(gc.not_equal(x, 0), gc.stack([1 / x, x]).sum(axis=0), 0.0),
        lambda x: np.where(x == 0, 0, 1 - 1 / np.where(x == 0, 1, x * x)),
    ),
    "mean behind the branch": (
        lambda x: gc.where(x > 0, gc.stack([gc.sqrt(x), gc.sqrt(x)]).mean(axis=0), 0.0),
        root_slope,
    ),
    "broadcast of a group": (
        lambda x: gc.where((x > 0)[:, None], gc.sqrt(x)[:, None] * np.array([1.0, 2.0]), 0.0),
        lambda x: 3 * root_slope(x),
    ),
    "broadcast of a group that is masked in part": (
        lambda x: gc.where(gc.stack([x > 0, x > 1]), gc.sqrt(x), 0.0),
        lambda x: (1.0 + (x > 1)) * root_slope(x),
    ),
    "broadcast to more dimensions": (
        lambda x: gc.where(gc.broadcast_to(x > 0, (3, 2, 4)), gc.broadcast_to(gc.sqrt(x), (3, 2, 4)), 0.0),
        lambda x: 6 * root_slope(x),
    ),
    "means in an own composite": (
        lambda x: gc.where(x > 0, mean_of_roots(x), 0.0),
        root_slope,
    ),
    "one of two results": (lambda x: gc.where(x > 0, roots(x)[1], 0.0), lambda x: 2 * root_slope(x)),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_branch_that_was_not_taken_cannot_poison_the_gradient(name):
    function, expected = MASKED[name]
    w = variable(VALUES)
    np.testing.assert_allclose(grad(function(w), w), expected(VALUES), rtol=1e-6)


@pytest.mark.parametrize("name", ["root", "reshape", "slices", "own composite", "choice in a composite", "weighted"])
def test_nor_can_it_poison_the_second_derivative(name):
    function, _ = MASKED[name]
    w = variable(VALUES)
    (g,) = gc.gradients(function(w), [w])
    expected = np.where(VALUES > 0, -0.25 * np.where(VALUES > 0, VALUES, 1) ** -1.5, 0)
    factor = {"own composite": 2, "weighted": 3}.get(name, 1)
    np.testing.assert_allclose(grad(g, w), factor * expected)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_masks_survive_every_device(device):
    w = variable(VALUES)
    (g,) = gc.gradients(gc.where(w > 0, gc.sqrt(w), 0.0), [w])
    with gc.Session(device=device) as session:
        np.testing.assert_allclose(session.run(g), root_slope(VALUES))


SAFE = {
    "quotient": lambda x, n: gc.where(n > 0, x / n, 0.0),
    "the other way round": lambda x, n: gc.where(n <= 0, 0.0, x / n),
    "product": lambda x, n: gc.where(n > 0, x * (1 / n), 0.0),
    "used twice": lambda x, n: gc.where(n > 0, x / n, 0.0) + gc.where(n > 0, 0 * x / n, 0.0),
    "repeated mask": lambda x, n: gc.where(gc.broadcast_to(n > 0, x.shape), x / n, 0.0),
}


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("keepdims", [True, False])
def test_vectors_divided_by_their_norm_have_a_gradient_where_they_are_zero(name, keepdims):
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    w = variable(rows if keepdims else rows[1])
    norm = gc.sqrt((w * w).sum(axis=-1, keepdims=keepdims))
    weights = np.array([1.0, 2.0])
    found = grad((SAFE[name](w, norm) * weights).sum(), w)
    lengths = np.sqrt((rows**2).sum(-1, keepdims=True))
    unit = rows / np.where(lengths > 0, lengths, 1)
    expected = (weights - unit * (unit @ weights)[:, None]) / np.where(lengths > 0, lengths, np.inf)
    np.testing.assert_allclose(found, expected if keepdims else expected[1], rtol=1e-10, atol=1e-12)


def test_a_row_of_zeros_can_be_normalised_safely():
    rows = np.array([[3.0, 4.0], [0.0, 0.0]])
    w = variable(rows)
    norm = gc.sqrt((w * w).sum(axis=1))
    unit = gc.where(gc.expand_dims(norm > 0, 1), w / gc.expand_dims(norm, 1), 0.0)
    expected = np.array([[(1 - 3 * 7 / 25) / 5, (1 - 4 * 7 / 25) / 5], [0, 0]])
    np.testing.assert_allclose(grad(unit.sum(), w), expected, atol=1e-15)


def test_a_group_that_is_masked_out_apart_from_one_element_keeps_its_gradient():
    """The elements of a group have masks of their own: only where none is taken is the sum masked out."""
    w = variable(np.array([4.0, 0.0]))
    taken = np.array([[True, False], [False, False], [False, False]])
    assert grad(gc.where(taken, gc.sqrt(w), 0.0).sum(), w).tolist() == [0.25, 0]


def test_a_mask_costs_a_bias_nothing():
    """No rule behind a leaf multiplies, so nobody asks whether any element of the batch is taken."""
    w, b, x = variable(np.ones((3, 4)), "w"), variable(np.ones(4), "b"), np.ones((2, 3))
    backward = gc.gradients(gc.relu(gc.matmul(x, w) + b), [w, b])
    assert not any(node.op.name == "reduce_any" for node in toposort(backward))


# --- second order of whole networks

SECOND_ORDER = {
    "max_pool2d": lambda x: gc.max_pool2d(x**3, 2),
    "avg_pool2d": lambda x: gc.avg_pool2d(x**3, 2, padding=1),
    "conv2d": lambda x: gc.tanh(gc.conv2d(x, np.linspace(-1, 1, 36).reshape(2, 2, 3, 3), padding=1, stride=2)),
    "depthwise conv2d": lambda x: gc.conv2d(x * x, np.linspace(-1, 1, 18).reshape(2, 1, 3, 3), groups=2),
    "conv_transpose2d": lambda x: gc.sin(gc.conv_transpose2d(x, np.linspace(-1, 1, 16).reshape(2, 2, 2, 2))),
    "gather": lambda x: gc.take(x, [1, 0, 1], axis=1) ** 3,
    "softmax": lambda x: gc.softmax(x, axis=-1) ** 2,
    "cross_entropy": lambda x: gc.cross_entropy(x.reshape(4, 8), [0, 7, 3, 3]),
    "batch_norm": lambda x: gc.batch_norm(x) ** 3,
    "attention": lambda x: gc.scaled_dot_product_attention(x[0], x[0], x[0]),
    "cumprod": lambda x: gc.cumprod(x, axis=-1),
    "sort": lambda x: gc.sort(x, axis=-1) ** 3 * np.arange(1.0, 5.0),
    "max": lambda x: x.max(axis=-1) ** 3,
    "norm": lambda x: gc.sqrt((x * x).sum(axis=-1)),
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order(name):
    at = np.random.default_rng(0).permutation(32).reshape(1, 2, 4, 4) / 16.0 - 0.9
    direction = np.random.default_rng(1).standard_normal(at.shape)
    w = variable(at)
    y = SECOND_ORDER[name](w)
    (g,) = gc.gradients(y, [w], [np.linspace(0.5, 1.5, int(y.size)).reshape(y.shape)])
    projected = g * np.random.default_rng(2).standard_normal(at.shape)
    (h,) = gc.gradients(projected, [w])
    assert (run(h) * direction).sum() == pytest.approx(slope(projected, w, at, direction), rel=1e-5, abs=1e-7)
