"""Sessions on the GPU target whose kernels are the printed CUDA C, run on the CPU: whole programs, step after step."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import on_host
from cuda_host import needs_compiler

import graphc as gc

pytestmark = needs_compiler


def mlp():
    x, y = gc.placeholder("x", shape=("batch", 12)), gc.placeholder("y", shape=("batch",), dtype="int64")
    model = gc.nn.Sequential(gc.nn.Linear(12, 20), gc.nn.ReLU(), gc.nn.Dropout(0.3), gc.nn.Linear(20, 5))
    loss = gc.losses.cross_entropy(model(x), y)
    return {x: (12,), y: 5}, loss, gc.optim.Adam(lr=0.05).minimize(loss)


def convolutional():
    x, y = gc.placeholder("x", shape=("batch", 2, 8, 8)), gc.placeholder("y", shape=("batch",), dtype="int64")
    layers = [gc.nn.Conv2d(2, 6, 3, padding=1), gc.nn.BatchNorm2d(6), gc.nn.ReLU(), gc.nn.MaxPool2d(2)]
    model = gc.nn.Sequential(*layers, gc.nn.Flatten(), gc.nn.Linear(6 * 16, 4))
    loss = gc.losses.cross_entropy(model(x), y)
    return {x: (2, 8, 8), y: 4}, loss, gc.optim.SGD(lr=0.1, momentum=0.9).minimize(loss)


def attentive():
    words, y = (gc.placeholder(name, shape=("batch", 6), dtype="int64") for name in ("words", "y"))
    table = gc.Variable(gc.nn.init.normal(std=0.5), name="table", shape=(9, 8))
    heads = gc.reshape(gc.embedding(words, table), (-1, 6, 2, 4)).transpose((0, 2, 1, 3))
    mixed = gc.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    hidden = gc.layer_norm(gc.reshape(mixed.transpose((0, 2, 1, 3)), (-1, 6, 8)), (8,))
    loss = gc.losses.cross_entropy(gc.reshape(hidden @ table.T, (-1, 9)), gc.reshape(y, (-1,)))
    return {words: 9, y: 9}, loss, gc.optim.AdamW(lr=0.05).minimize(loss)


def fed(inputs, batch, rng):
    """Normal numbers of a shape, or classes below a number."""
    normal = {x: rng.normal(size=(batch, *of)).astype("float32") for x, of in inputs.items() if isinstance(of, tuple)}
    return normal | {x: rng.integers(0, of, [batch, *x.shape[1:]]) for x, of in inputs.items() if isinstance(of, int)}


@pytest.mark.parametrize("network", [mlp, convolutional, attentive])
def test_networks_learn_as_on_the_reference(network, monkeypatch):
    drivers = on_host(monkeypatch, printed=True)
    with gc.Graph():
        inputs, loss, train = network()
        with gc.Session(device="cuda", seed=3) as session, gc.Session(device="reference", seed=3) as reference:
            rng = np.random.default_rng(0)
            for batch in (7, 7, 7, 3, 7):
                feeds = fed(inputs, batch, rng)
                found, expected = session.run([loss, train], feeds)[0], reference.run([loss, train], feeds)[0]
                np.testing.assert_allclose(found, expected, rtol=2e-4)
            for variable in train:
                np.testing.assert_allclose(session[variable], reference[variable], rtol=5e-3, atol=5e-5)
            feeds = fed(inputs, 5, rng)
            np.testing.assert_allclose(session.run(loss, feeds), reference.run(loss, feeds), rtol=2e-3)
            report = session.plan([loss, train], feeds).report()
    assert "NumPy" not in report and drivers[0].asked["replay"] >= 3


def test_an_index_out_of_range_is_told_by_the_kernel_that_finds_it(monkeypatch):
    on_host(monkeypatch, printed=True)
    with gc.Graph(), gc.Session(device="cuda") as session:
        words = gc.placeholder("words", shape=("n",), dtype="int64")
        table = gc.Variable(np.arange(12).reshape(4, 3), name="table", dtype="float32")
        train = gc.optim.SGD(lr=0.1).minimize((gc.embedding(words, table) ** 2).sum())
        for _ in range(3):
            before = session[table]
            with pytest.raises(gc.ArgumentError, match="index -9 is out of range") as caught:
                session.run(train, {words: [1, -9]})
            assert "test_cuda_sessions.py" in str(caught.value) and (session[table] == before).all()
            session.run(train, {words: [1, 2]})
            assert (session[table][1:3] != before[1:3]).any()


def test_products_of_wide_integers_keep_all_their_bits(monkeypatch):
    on_host(monkeypatch, printed=True)
    with gc.Graph(), gc.Session(device="cuda") as session:
        a, b = (gc.placeholder(name, shape=("n", "n"), dtype="int64") for name in "ab")
        for n in (1, 5, 40):
            x, y = np.random.default_rng(n).integers(-(1 << 40), 1 << 40, (2, n, n))
            vector, whole = session.run([a[0] @ b, a @ b], {a: x, b: y})
            assert (vector == x[0] @ y).all() and (whole == x @ y).all()
