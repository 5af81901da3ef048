"""Eager twins of modules and optimisers: the losses of 20 steps are those of a session."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import eager as ge
from graphc.errors import ArgumentError, GraphcError

STEPS = 20
TOLERANCE = 1e-5


pytestmark = pytest.mark.usefixtures("as_a_thread_begins")


Loss = Callable[[Any, Any], Any]


def static_losses(model: Any, criterion: Loss, rules: Any, x: Any, y: Any) -> list[float]:
    """The losses of a session's training steps."""
    given = gc.placeholder("x", x.shape, x.dtype.name), gc.placeholder("y", y.shape, y.dtype.name)
    loss = criterion(model(given[0]), given[1])
    with gc.Session(seed=3) as session:
        step = session.compile([loss, rules.minimize(loss)], given)
        return [float(step(x, y)[0]) for _ in range(STEPS)]


def eager_losses(model: Any, criterion: Loss, rules: Any, x: Any, y: Any) -> list[float]:
    """The losses of the same steps of the twins."""
    twin = ge.module(model, seed=3)
    opt = ge.optimizer(rules, twin.parameters())
    losses = []
    for _ in range(STEPS):
        opt.zero_grad()
        loss = criterion(twin(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def regression() -> tuple[Any, Loss, Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 3)).astype("float32")
    y = (x @ np.array([[1.0], [-2.0], [0.5]]) + 0.3).astype("float32")
    return gc.nn.Linear(3, 1), gc.losses.mse_loss, x, y


def digits() -> tuple[Any, Loss, Any, Any]:
    rng = np.random.default_rng(1)
    model = gc.nn.Sequential(
        gc.nn.Conv2d(1, 4, 3, padding=1), gc.nn.BatchNorm2d(4), gc.nn.ReLU(), gc.nn.MaxPool2d(2),
        gc.nn.Flatten(), gc.nn.Linear(4 * 4 * 4, 16), gc.nn.LayerNorm(16), gc.nn.GELU(), gc.nn.Linear(16, 10),
    )  # fmt: skip
    x = rng.standard_normal((16, 1, 8, 8)).astype("float32")
    return model, gc.losses.cross_entropy, x, rng.integers(0, 10, 16)


RULES = {
    "sgd": lambda: gc.optim.SGD(lr=0.05),
    "momentum": lambda: gc.optim.SGD(lr=0.05, momentum=0.9, dampening=0.1, weight_decay=1e-3),
    "nesterov": lambda: gc.optim.SGD(lr=0.05, momentum=0.9, nesterov=True),
    "maximize": lambda: gc.optim.SGD(lr=1e-3, maximize=True),
    "adam": lambda: gc.optim.Adam(lr=1e-2, amsgrad=True),
    "adamw": lambda: gc.optim.AdamW(lr=1e-2),
}


@pytest.mark.parametrize("rule", RULES)
def test_linear_regression_has_the_losses_of_a_session(rule):
    model, criterion, x, y = regression()
    static = static_losses(model, criterion, RULES[rule](), x, y)
    np.testing.assert_allclose(eager_losses(model, criterion, RULES[rule](), x, y), static, rtol=0, atol=TOLERANCE)
    assert (static[-1] > static[0]) == (rule == "maximize")


@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_a_convolutional_network_has_the_losses_of_a_session(rule):
    model, criterion, x, y = digits()
    static = static_losses(model, criterion, RULES[rule](), x, y)
    found = eager_losses(model, criterion, RULES[rule](), x, y)
    np.testing.assert_allclose(found, static, rtol=0, atol=TOLERANCE)
    assert static[-1] < static[0] / 2


def test_batch_norm_keeps_the_statistics_of_training():
    model, _, x, _ = digits()
    given = gc.placeholder("x", x.shape)
    y = model(given)
    twin = ge.module(model)
    with gc.Session() as session:
        session.run(y, {given: x}, training=True)
        twin(x)
        for name, variable in model.state_dict().items():
            np.testing.assert_allclose(twin.state_dict()[name].numpy(), session[variable], rtol=1e-5, atol=1e-6)
        evaluated = session.run(y, {given: x})
    before = twin[1].running_mean.tolist()
    with ge.set_training(False), ge.no_grad():
        np.testing.assert_allclose(twin(x).numpy(), evaluated, rtol=1e-4, atol=1e-5)
    assert twin[1].running_mean.tolist() == before


def test_a_twin_starts_from_the_values_of_a_session():
    model = gc.nn.Sequential(gc.nn.Linear(3, 4), gc.nn.Linear(4, 2))
    twin = ge.module(model, seed=5)
    with gc.Session(seed=5) as session:
        for name, variable in model.named_parameters():
            np.testing.assert_array_equal(dict(twin.named_parameters())[name].numpy(), session[variable])
    assert all(isinstance(value, gc.Variable) for value in model.parameters())


def test_tied_and_frozen_parameters_stay_so():
    class Tied(gc.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = gc.nn.Linear(3, 3, bias=False), gc.nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.shift = gc.nn.Linear(3, 1).freeze()

        def forward(self, x: Any) -> Any:
            return self.shift(self.second(self.first(x)))

    twin = ge.module(Tied())
    assert twin.first.weight is twin.second.weight
    assert [parameter.requires_grad for parameter in twin.parameters()] == [True, False, False]
    twin(np.ones((2, 3), "float32")).sum().backward()
    assert twin.first.weight.grad is not None and twin.shift.weight.grad is None
    twin.shift.unfreeze()
    assert twin.shift.weight.requires_grad


def test_values_are_loaded_into_a_twin():
    twin = ge.module(gc.nn.Linear(2, 1))
    twin.load_state_dict({"weight": np.array([[1.0, 2.0]], "float32"), "bias": np.array([3.0], "float32")})
    assert twin(np.array([[1.0, 1.0]], "float32")).tolist() == [[6]]
    assert twin.weight.requires_grad


def test_groups_have_hyperparameters_of_their_own_that_may_change():
    a, b = (ge.tensor([1.0], requires_grad=True) for _ in range(2))
    opt = ge.optimizer(gc.optim.SGD(lr=0.5), [{"params": [a]}, {"params": [b], "lr": 0.25}])
    for lr in (0.5, 0.125):
        opt.param_groups[0]["lr"] = lr
        opt.zero_grad()
        (a + b).backward()
        opt.step()
    assert (a.item(), b.item()) == (1 - 0.5 - 0.125, 1 - 0.25 - 0.25)


def test_a_tensor_without_a_gradient_stays_as_it_is():
    a, b = (ge.tensor([1.0], requires_grad=True) for _ in range(2))
    opt = ge.optimizer(gc.optim.Adam(), [a, b])
    a.backward()
    opt.step()
    assert a.item() != 1 and b.item() == 1


def test_an_optimizer_takes_tensors_only():
    with pytest.raises(ArgumentError, match=r"eager tensors, got Variable.*\n.*\n.*ge\.module"):
        ge.optimizer(gc.optim.SGD(), gc.nn.Linear(2, 1).parameters())
    with pytest.raises(ArgumentError, match="did you mean 'momentum'"):
        ge.optimizer(gc.optim.SGD(), [{"params": [], "momentun": 0.9}])


def test_threads_train_side_by_side():
    def train(found: dict[int, list[float]], k: int) -> None:
        with gc.Graph():
            found[k] = eager_losses(*digits()[:2], gc.optim.Adam(lr=1e-2), *digits()[2:])

    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=train, args=(found, k)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    train(found, 3)
    assert [found[k] for k in range(3)] == [found[3]] * 3


def test_threads_that_share_a_parameter_lose_no_gradient():
    w = ge.tensor([1.0, 2.0], requires_grad=True)

    def work() -> None:
        for _ in range(100):
            (w * 3.0).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert w.grad.tolist() == [2400, 2400]


def test_parameters_are_fitted_to_arrays_by_hand():
    tu, tc = np.linspace(-1, 1, 11, dtype="float32"), np.linspace(-3, 3, 11, dtype="float32")
    w = ge.tensor(1.0, requires_grad=True)
    for _ in range(100):
        loss = ((w * tu - tc) ** 2).mean()
        w.grad = None
        loss.backward()
        with ge.no_grad():
            w.assign(w - 0.5 * w.grad)
    assert w.item() == pytest.approx(3.0) and loss < 1e-6


def test_metrics_run_eagerly():
    logits = ge.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert gc.metrics.accuracy(logits, np.array([1, 1])).item() == 0.5


def test_the_reference_runs_calls_too():
    try:
        ge.set_device("reference")
        w = ge.tensor([1.0, 2.0], requires_grad=True)
        gc.softmax(w)[0].backward()
        np.testing.assert_allclose(w.grad.numpy(), [0.19661194, -0.19661194], rtol=1e-5)
        with pytest.raises(GraphcError, match="did you mean 'reference'"):
            ge.set_device("referenc")
    finally:
        ge.set_device(None)


def test_dropout_of_an_array_follows_the_mode():
    model = ge.module(gc.nn.Sequential(gc.nn.Dropout(0.5), gc.nn.Linear(64, 1, bias=False)))
    ones = np.ones((1, 64), "float32")
    assert len({model(ones).item() for _ in range(3)}) == 3
    with ge.set_training(False):
        assert len({model(ones).item() for _ in range(3)}) == 1


@pytest.mark.parametrize("params", [lambda w: w, lambda w: [w * 2], lambda w: [w, w], lambda w: [ge.tensor([1.0])]])
def test_an_optimiser_refuses_what_it_could_not_change_once(params):
    w = ge.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(gc.ArgumentError, match="params"):
        ge.optimizer(gc.optim.SGD(lr=0.1), params(w))
