"""What a user writes: the scripts that the interface was designed from, as they were written then."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

import graphc as gc


@pytest.fixture(autouse=True)
def graph():
    """A graph of its own for every test, so that names are what the test says."""
    with gc.Graph() as graph:
        yield graph


def test_train_run_export_and_draw(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    losses = []
    epochs = 3

    x = gc.placeholder("x", shape=("batch", 1, 8, 8))
    y = gc.placeholder("y", shape=("batch",), dtype="int64")

    model = gc.nn.Sequential(
        gc.nn.Conv2d(1, 16, 3, padding=1), gc.nn.BatchNorm2d(16), gc.nn.ReLU(), gc.nn.MaxPool2d(2),
        gc.nn.Flatten(), gc.nn.Dropout(0.2), gc.nn.Linear(16 * 4 * 4, 10))  # fmt: skip
    logits = model(x)
    loss = gc.losses.cross_entropy(logits, y)
    accuracy = gc.metrics.accuracy(logits, y)
    train = gc.optim.Adam(lr=1e-3).minimize(loss)

    loader = gc.data.DataLoader(gc.data.digits("train"), batch_size=64, shuffle=True)
    with gc.Session(seed=0) as sess:
        for _ in range(epochs):
            for images, labels in loader:
                value, nothing = sess.run([loss, train], {x: images, y: labels})
                losses.append(value)
        images, labels = gc.data.digits("test").arrays()
        found = sess.run(accuracy, {x: images, y: labels})
        sess.save("digits.safetensors")
        gc.export_onnx("digits.onnx", inputs=[x], outputs={"logits": logits}, session=sess, verify=True)
    gc.render(loss, "digits.svg")

    assert nothing is None
    assert losses[0] == pytest.approx(np.log(10), abs=0.5) and np.mean(losses[-5:]) < 0.5 * losses[0]
    assert found > 0.85
    assert {p.name for p in tmp_path.iterdir()} == {"digits.safetensors", "digits.onnx", "digits.svg"}
    assert [output.name for output in onnx.load("digits.onnx").graph.output] == ["logits"]
    with gc.Session(seed=1) as other:
        report = other.load("digits.safetensors")
        assert other.run(accuracy, {x: images, y: labels}) == found
        assert not report.missing and not report.unexpected


# --------------------------------------------------------------------------------------------- graphs and gradients


def test_gradients_are_graphs_again():
    w = gc.Variable(np.ones(3, "float32"), name="w", trainable=True)
    v = gc.placeholder("v", shape=(3,))
    loss = (w**3).sum()
    y = w * w
    dy = gc.placeholder("dy", shape=(3,))

    (g,) = gc.gradients(loss, [w])
    (u,) = gc.vjp(y, [w], [dy])
    h = gc.hessian(loss, w)
    t = gc.jvp(loss, [w], [v])
    hv = gc.hvp(loss, w, v)
    J = gc.jacobian(y, w)
    (third,) = gc.gradients(h.sum(), [w])

    feeds = {v: [1, 2, 3], dy: [4, 5, 6]}
    with gc.Session() as sess:
        found = sess.run({"g": g, "u": u, "h": h, "t": t, "hv": hv, "J": J, "third": third}, feeds)
    expected = {
        "g": [3, 3, 3],
        "u": [8, 10, 12],
        "h": 6 * np.eye(3),
        "t": 18,
        "hv": [6, 12, 18],
        "J": 2 * np.eye(3),
        "third": [6, 6, 6],
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_gradient_that_does_not_exist_raises_or_is_zero_or_none():
    w, other = gc.Variable([1.0, 2.0], name="w"), gc.Variable(3.0, name="other")
    loss = w.sum()
    with pytest.raises(gc.GradientError, match="other"):
        gc.gradients(loss, [other])
    (zero,) = gc.gradients(loss, [other], disconnected="zero")
    assert gc.gradients(loss, [other], disconnected="none") == [None]
    assert gc.gradients(loss, [w], grad_ys=[5.0])[0].shape == (2,)
    with gc.Session() as sess:
        assert sess.run(zero) == 0
        assert sess.run(gc.gradients(loss, [w], grad_ys=[5.0])[0]).tolist() == [5, 5]


def test_what_is_frozen_is_not_trained():
    a = gc.placeholder("a", shape=(2,))
    layer, head = gc.nn.Linear(2, 2), gc.nn.Linear(2, 1)
    z = gc.stop_gradient(layer(a))
    loss = head(z).sum()
    assert gc.gradients(loss, [layer.weight], disconnected="none") == [None]
    layer.freeze()
    assert set(gc.optim.SGD(lr=1.0).minimize(head(layer(a)).sum())) == {head.weight, head.bias}
    layer.unfreeze()
    layer.weight.trainable = False
    assert layer.bias in gc.optim.SGD(lr=1.0).minimize(head(layer(a)).sum())
    assert layer.weight not in gc.optim.SGD(lr=1.0).minimize(head(layer(a)).sum())


def test_updates_read_the_old_values_and_commit_together():
    w = gc.Variable(np.ones(3, "float32"), name="w")
    b = gc.Variable(5.0, name="b")
    train = b.assign(b - w.sum())

    bump = w.assign(w * 2)
    both = gc.group(bump, train)

    with gc.Session() as sess:
        new, old, nothing = sess.run([bump[w], w, both])
        assert (new.tolist(), old.tolist(), nothing) == ([2, 2, 2], [1, 1, 1], None)
        assert (sess[w].tolist(), sess[b]) == ([2, 2, 2], 2)


class Encoder(gc.nn.Module):
    """A module with one named part."""

    def __init__(self):
        super().__init__()
        self.conv1 = gc.nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv1(x)


def test_names_and_values_are_at_hand():
    with gc.Graph() as graph, gc.scope("encoder"):
        encoder = Encoder()
        y = encoder(gc.placeholder("x", shape=("batch", 1, 8, 8)))
    w = encoder.conv1.weight
    array = np.ones((2, 1, 3, 3), "float32")
    with gc.Session(graph) as sess:
        first = sess.run("encoder/conv1/weight")
        np.testing.assert_array_equal(first, sess[w])
        sess[w] = array
        np.testing.assert_array_equal(sess.run("encoder/conv1/weight"), array)
        assert sess.run(y, {"encoder/x": np.zeros((5, 1, 8, 8))}).shape == (5, 2, 6, 6)
    assert graph["encoder/conv1/weight"] is w
    assert not np.array_equal(first, array)


def test_own_backward_rules():
    @gc.custom_gradient
    def clip_grad(x):
        return x, lambda dy: gc.clip(dy, -1, 1)

    x = gc.placeholder("x", shape=(2,))
    (g,) = gc.gradients((clip_grad(x) * 3).sum(), [x])
    with gc.Session() as sess:
        assert sess.run([clip_grad(x), g], {x: [5, 6]})[0].tolist() == [5, 6]
        assert sess.run(g, {x: [5, 6]}).tolist() == [1, 1]


def test_own_ops():
    @gc.composite
    def swish(x, *, beta=1.0):
        return x * gc.sigmoid(beta * x)

    x = gc.placeholder("x", shape=(3,))
    y = swish(x, beta=2.0)
    (g,) = gc.gradients(y.sum(), [x])
    value = np.array([-1, 0, 2], "float32")
    s = 1 / (1 + np.exp(-2 * value))
    with gc.Session() as sess:
        found = sess.run([y, g], {x: value})
    np.testing.assert_allclose(found[0], value * s, rtol=1e-6)
    np.testing.assert_allclose(found[1], s + 2 * value * s * (1 - s), rtol=1e-6)
    assert y.body is not None and y.op is swish


@dataclass
class Both:
    """A fetch may be a dataclass."""

    loss: Any
    rest: Any


def test_fetches_nest_and_feeds_override():
    x = gc.placeholder("x", shape=("n",))
    scale = gc.placeholder("scale", default=np.float32(2.0))
    hidden = x * scale
    loss = hidden.sum()
    with gc.Session() as sess:
        found = sess.run(Both(loss, {"parts": [hidden, (x, "x")]}), {x: [1, 2]})
        assert found.loss == 6 and [part.tolist() for part in found.rest["parts"][1]] == [[1, 2], [1, 2]]
        assert sess.run(loss, {x: [1, 2], scale: 3.0}) == 9
        assert sess.run(loss, {hidden: [10, 20, 30]}) == 60
        step = sess.compile([loss, hidden], feeds=[x])
        assert [step(np.full(n, 1.0))[0] for n in (1, 4)] == [2, 8]
