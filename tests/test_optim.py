"""Optimisers, held against torch's formulas written in NumPy, and what `minimize` chooses to train."""

import math

import numpy as np
import pytest

from graphc.errors import ArgumentError, GradientError, ShapeError
from graphc.ir import Graph
from graphc.nn import BatchNorm1d, Linear, Module, ReLU, Sequential
from graphc.occurrences import scope
from graphc.operands import cast
from graphc.ops.control import stop_gradient
from graphc.ops.linalg import matmul
from graphc.ops.math import square
from graphc.ops.reduce import mean, sum
from graphc.ops.state import Variable, group, placeholder
from graphc.optim import SGD, Adam, AdamW, clip_grad_norm, clip_grad_value
from graphc.passes.gradients import gradients
from graphc.runtime.session import Session

STEPS = 10


@pytest.fixture(autouse=True)
def graph():
    with Graph() as graph:
        yield graph


# ------------------------------------------------------------------------------------------ torch's formulas


def sgd(w, gradient, steps, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False):
    buffer = None
    for _ in range(steps):
        g = -gradient(w) if maximize else gradient(w)
        g = g + weight_decay * w
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        w = w - lr * g
    return w


def adam(
    w,
    gradient,
    steps,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
    decoupled=False,
):
    m, v, largest = 0.0, 0.0, 0.0
    for t in range(1, steps + 1):
        g = -gradient(w) if maximize else gradient(w)
        if decoupled:
            w = w * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        largest = np.maximum(largest, v)
        root = np.sqrt(largest if amsgrad else v) / math.sqrt(1 - betas[1] ** t)
        w = w - lr / (1 - betas[0] ** t) * m / (root + eps)
    return w


def adamw(w, gradient, steps, lr, weight_decay=1e-2, **options):
    return adam(w, gradient, steps, lr, weight_decay=weight_decay, decoupled=True, **options)


VARIANTS = [
    (SGD, sgd, dict(lr=0.05)),
    (SGD, sgd, dict(lr=0.05, momentum=0.9)),
    (SGD, sgd, dict(lr=0.05, momentum=0.9, dampening=0.3)),
    (SGD, sgd, dict(lr=0.05, momentum=0.9, nesterov=True)),
    (SGD, sgd, dict(lr=0.05, momentum=0.8, weight_decay=0.1)),
    (SGD, sgd, dict(lr=0.05, weight_decay=0.1, maximize=True)),
    (Adam, adam, dict(lr=0.1)),
    (Adam, adam, dict(lr=0.1, betas=(0.5, 0.9), eps=1e-3)),
    (Adam, adam, dict(lr=0.1, weight_decay=0.1)),
    (Adam, adam, dict(lr=0.1, amsgrad=True)),
    (Adam, adam, dict(lr=0.1, amsgrad=True, weight_decay=0.1, maximize=True)),
    (AdamW, adamw, dict(lr=0.1)),
    (AdamW, adamw, dict(lr=0.1, weight_decay=0.3, amsgrad=True)),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("optimizer", "formula", "options"), VARIANTS)
def test_ten_steps_are_those_of_torchs_formula(optimizer, formula, options, dtype):
    rng = np.random.default_rng(0)
    data, start = rng.standard_normal((7, 3)).astype(dtype), rng.standard_normal(3).astype(dtype)
    wide = data.astype(np.float64)
    expected = formula(start.astype(np.float64), lambda w: 2 * wide.T @ (wide @ w - 1) / len(wide), STEPS, **options)
    w = Variable(start, "w")
    train = optimizer(**options).minimize(mean(square(matmul(data, w) - 1)))
    with Session() as sess:
        for _ in range(STEPS):
            sess.run(train)
        found = sess[w]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-11 if dtype == "float64" else 2e-5)


def test_the_first_steps_of_adam_keep_their_digits_in_float32():
    """1 - 0.999 ** step is 0.001 at the first step: in float32 it would lose half its digits."""
    w = Variable(np.float32(1), "w")
    train = Adam(lr=1e-3).minimize(3 * w)
    with Session() as sess:
        sess.run(train)
        assert float(sess[w]) == pytest.approx(1 - 1e-3, rel=1e-7)


# ------------------------------------------------------------------------------------------ linear regression

CELSIUS = np.array([0.5, 14, 15, 28, 11, 8, 3, -4, 6, 13, 21], np.float32)
UNKNOWN = np.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4], np.float32)


def thermometer(scale):
    w, b = Variable(1.0, "w"), Variable(0.0, "b")
    return w, b, mean(square(w * (np.float32(scale) * UNKNOWN) + b - CELSIUS))


def test_loss_and_gradient_of_the_linear_regression():
    w, b, loss = thermometer(1)
    with Session() as sess:
        value, slopes = sess.run([loss, gradients(loss, [w, b])])
    assert float(value) == pytest.approx(1763.8848, rel=1e-6)
    assert [float(slope) for slope in slopes] == pytest.approx([4517.2969, 82.6000], rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "losses", "end"),
    [
        (
            SGD(lr=1e-2),
            [22.148710, 16.608067, 12.664559, 9.857802, 7.860115, 6.438284, 5.426309, 4.706046, 4.193405, 3.828538],
            (4.8021, -14.1031),
        ),
        (
            Adam(lr=1e-1),
            [18.730587, 8.292550, 4.275753, 3.178962, 2.962302, 2.931170, 2.927909, 2.927659, 2.927646, 2.927647],
            (5.3676, -17.3044),
        ),
    ],
    ids=["sgd", "adam"],
)
def test_a_thousand_epochs_of_linear_regression(optimizer, losses, end):
    w, b, loss = thermometer(0.1)
    train = optimizer.minimize(loss)
    with Session() as sess:
        step = sess.compile([loss, train])
        found = [float(step()[0]) for _ in range(1000)][99::100]
        assert found == pytest.approx(losses, rel=1e-6, abs=1.5e-6)
        assert (float(sess[w]), float(sess[b])) == pytest.approx(end, abs=1e-4)


# ------------------------------------------------------------------------------------------ what is trained


def test_all_trainable_variables_that_the_loss_reaches_are_trained():
    used, other, frozen = Variable(1.0, "used"), Variable(1.0, "other"), Variable(1.0, "frozen", trainable=False)
    train = SGD().minimize(used * used * frozen)
    assert set(train) == {used}
    assert other not in train
    assert train.training


def test_a_variable_behind_a_cut_is_left_alone_by_default():
    target, w = Variable(1.0, "target"), Variable(2.0, "w")
    assert set(SGD().minimize(square(w - stop_gradient(target)))) == {w}


def test_named_variables_must_be_reached():
    w, lonely = Variable(1.0, "w"), Variable(1.0, "lonely")
    with pytest.raises(GradientError, match="lonely"):
        SGD().minimize(w * w, variables=[w, lonely])


def test_a_loss_that_trains_nothing_is_an_error_that_names_what_it_doesnt_reach():
    w = Variable(1.0, "weights")
    with pytest.raises(GradientError, match="weights"):
        SGD().minimize(square(stop_gradient(w)))
    with pytest.raises(GradientError, match="reaches a trainable variable"):
        SGD().minimize(sum(placeholder("x", (3,))))
    with pytest.raises(GradientError, match="reaches a trainable variable"):
        SGD().minimize(square(w), variables=[])


def test_the_loss_is_a_scalar():
    w = Variable(np.ones(3, np.float32), "w")
    with pytest.raises(ShapeError, match="scalar"):
        SGD().minimize(w * 2)


def test_freezing_counts_when_minimize_is_called():
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    loss = mean(model(placeholder("x", ("batch", 2))))
    before = SGD().minimize(loss)
    model[0].freeze()
    after = SGD().minimize(loss)
    model[0].unfreeze()
    assert {v.name for v in before} == {"0/weight", "0/bias", "2/weight", "2/bias"}
    assert {v.name for v in after} == {"2/weight", "2/bias"}
    assert set(SGD().minimize(loss)) == set(before)


@pytest.mark.parametrize("params", [lambda m: m, lambda m: m.parameters(), lambda m: list(m.parameters())])
def test_params_restrict_what_is_trained(params):
    first, second = Linear(2, 2), Linear(2, 1)
    loss = mean(second(first(placeholder("x", ("batch", 2)))))
    assert set(SGD(params(second)).minimize(loss)) == set(second.parameters())
    assert set(SGD().minimize(loss, variables=params(first))) == set(first.parameters())


def test_one_variable_may_be_the_only_param():
    v, w = Variable([1.0, 2.0], "v"), Variable([1.0, 2.0], "w")
    assert list(SGD(w).minimize(sum(v * w))) == [w]


def test_groups_have_their_own_hyperparameters():
    v, w = Variable(1.0, "v"), Variable(1.0, "w")
    train = SGD([{"params": [v]}, {"params": [w], "lr": 0.5}], lr=0.1).minimize(v + w)
    with Session() as sess:
        assert sess.run([train[v], train[w]]) == pytest.approx([0.9, 0.5])


# ------------------------------------------------------------------------------------------ learning rates


def test_the_learning_rate_may_be_fed():
    w, lr = Variable(1.0, "w"), placeholder("lr", default=0.5)
    for optimizer in (SGD(lr=lr), Adam(lr=lr, eps=0.0), AdamW(lr=lr, eps=0.0, weight_decay=0.0)):
        train = optimizer.minimize(w + 0)
        with Session() as sess:
            assert float(sess.run(train[w])) == pytest.approx(0.5)
            assert float(sess.run(train[w], {lr: 0.25})) == pytest.approx(0.75)


def test_the_learning_rate_may_be_a_schedule_over_a_variable():
    w, epoch = Variable(1.0, "w"), Variable(0, "epoch")
    train = group(SGD(lr=0.5 * 0.5 ** cast(epoch, "float64")).minimize(w + 0), epoch.assign_add(1))
    with Session() as sess:
        seen = []
        for _ in range(3):
            sess.run(train)
            seen.append(float(sess[w]))
    assert seen == [0.5, 0.25, 0.125]
    assert train[w].dtype == "float32"


def test_a_learning_rate_that_is_no_scalar_is_refused():
    w = Variable(1.0, "w")
    with pytest.raises(ShapeError, match="scalar"):
        Adam(lr=placeholder("lr", (2,))).minimize(w + 0)


# ------------------------------------------------------------------------------------------ slots


def test_slots_are_named_after_their_variables():
    with scope("net"):
        w = Variable(np.ones(2, np.float16), "w")
    with scope("elsewhere"):
        train = Adam(amsgrad=True).minimize(sum(w))
    slots = [v for v in train if v is not w]
    names = {"optim/net/w/exp_avg", "optim/net/w/exp_avg_sq", "optim/net/w/max_exp_avg_sq", "optim/step"}
    assert {v.name for v in slots} == names
    assert not any(v.trainable for v in slots)
    assert all(train[v].type is v.type for v in train)


def test_sgd_keeps_only_what_it_needs():
    w = Variable(1.0, "w")
    assert {v.name for v in SGD().minimize(w + 0)} == {"w"}
    assert {v.name for v in SGD(momentum=0.9).minimize(w + 0)} == {"w", "optim/w/momentum_buffer"}


def test_minimizing_again_builds_nothing_new():
    w = Variable(1.0, "w")
    optimizer = Adam()
    first, second = optimizer.minimize(w * w), optimizer.minimize(w * w)
    assert dict(first) == dict(second)


def test_two_optimizers_and_two_losses_train_side_by_side():
    v, w = Variable(1.0, "v"), Variable(1.0, "w")
    optimizer = Adam(lr=0.1)
    first, second = optimizer.minimize(v + 0), optimizer.minimize(w + 0)
    other = Adam(lr=0.1).minimize(v * w, variables=[w])
    with Session() as sess:
        sess.run(group(first, second))
        sess.run(first)
        sess.run(other)
        steps = [int(sess[s]) for s in (*first, *second, *other) if s.name.startswith("optim/step")]
        values = [float(sess[v]), float(sess[w])]
    assert steps == [2, 1, 1]
    assert values == pytest.approx([0.8, 0.8])


def test_an_interrupted_training_continues_bit_for_bit(tmp_path):
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    model = Sequential(Linear(3, 4), BatchNorm1d(4), Linear(4, 1))
    train = Adam(lr=0.1).minimize(mean(square(model(x) - 1)))
    with Session() as sess:
        for _ in range(6):
            sess.run(train)
        expected = sess.run(model.state_dict())
    with Session() as sess:
        for _ in range(3):
            sess.run(train)
        sess.save(tmp_path / "half.safetensors")
    with Session(seed=7) as sess:
        sess.load(tmp_path / "half.safetensors")
        for _ in range(3):
            sess.run(train)
        found = sess.run(model.state_dict())
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


def test_an_optimizers_memory_is_loaded_as_a_whole_or_not_at_all(tmp_path):
    """A count of steps without its averages would scale the next steps as if the averages were full."""
    x = np.ones((2, 3), np.float32)

    def trained(outputs, steps):
        with Graph():
            model = Sequential(Linear(3, 4), Linear(4, outputs))
            train = Adam().minimize(mean(square(model(x))))
            with Session() as sess:
                report = sess.load(tmp_path / "file", strict=False) if not steps else None
                for _ in range(steps):
                    sess.run(train)
                if steps:
                    sess.save(tmp_path / "file")
                return report, {v.name: sess[v] for v in train if v.name.startswith("optim/")}

    _, saved = trained(2, steps=3)
    report, found = trained(2, steps=0)
    assert all(np.array_equal(found[name], value) for name, value in saved.items())
    assert {"0.weight", "optim.step"} < set(report.loaded)
    report, found = trained(5, steps=0)
    assert report.loaded == ("0.weight", "0.bias")
    assert not any(value.any() for value in found.values())


def test_optimizing_outside_the_graphs_block_stays_in_its_graph():
    with Graph("inner") as inner:
        w = Variable(1.0, "w")
        loss = w * w
    train = Adam().minimize(loss)
    assert all(v.graph is inner for v in train)


def test_update_nodes_say_that_they_are_updates():
    w = Variable(1.0, "w")
    train = Adam().minimize(w * w)
    assert all(node.occurrence.rule == "update" for node in train.values())


# ------------------------------------------------------------------------------------------ gradients given


def test_gradients_can_be_changed_before_they_are_applied():
    v, w = Variable(np.array([3.0, 0.0], np.float32), "v"), Variable(np.float32(4), "w")
    loss = (sum(square(v)) + square(w)) / 2
    clipped, norm = clip_grad_norm(gradients(loss, [v, w]), 1.0)
    train = SGD(lr=1.0).apply(zip(clipped, [v, w], strict=True))
    with Session() as sess:
        length, first, second = sess.run([norm, train[v], train[w]])
    assert float(length) == pytest.approx(5)
    np.testing.assert_allclose(first, [3 - 3 / 5, 0], rtol=1e-5)
    assert float(second) == pytest.approx(4 - 4 / 5, rel=1e-5)


def test_parameters_may_be_iterated_where_variables_are_listed():
    model = Linear(2, 1)
    loss = mean(model(np.ones((1, 2), np.float32)))
    found = gradients(loss, model.parameters())
    assert [g.shape for g in found] == [(1, 2), (1,)]
    train = SGD(lr=1.0).minimize(loss, model.parameters())
    assert [v.name for v in train] == [v.name for v in SGD().apply(zip(found, model.parameters(), strict=True))]


def test_short_gradients_are_not_lengthened():
    with Session() as sess:
        (found,), norm = sess.run(clip_grad_norm([np.array([0.3, 0.4], np.float32)], 1.0))
    np.testing.assert_allclose(found, [0.3, 0.4], rtol=1e-6)
    assert float(norm) == pytest.approx(0.5)


def test_clipping_by_value():
    with Session() as sess:
        (found,) = sess.run(clip_grad_value([np.array([-3.0, 0.5, 2.0], np.float32)], 1.0))
    assert found.tolist() == [-1, 0.5, 1]


def test_what_cant_be_applied():
    w = Variable(1.0, "w")
    with pytest.raises(GradientError, match="'w'"):
        SGD().apply([(None, w)])
    with pytest.raises(ArgumentError, match="two gradients"):
        SGD().apply([(1.0, w), (2.0, w)])
    with pytest.raises(ArgumentError, match="pairs"):
        SGD().apply([(1.0, placeholder("x"))])
    with pytest.raises(ShapeError, match="'w'"):
        SGD().apply([(np.ones(2, np.float32), w)])


# ------------------------------------------------------------------------------------------ hyperparameters


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SGD(lr=-1.0, momentum=-0.5), ["lr", "momentum"]),
        (lambda: SGD(nesterov=True), ["nesterov"]),
        (lambda: SGD(lr="0.1"), ["lr must be at least 0, got '0.1'"]),
        (lambda: Adam(betas=0.9), ["betas must be two numbers in [0, 1), got 0.9"]),
        (lambda: SGD([np.ones(2), 1.0]), ["params are variables of a graph, got ndarray, float"]),
        (lambda: SGD([Linear(2, 2)]), ["got Linear", "hint: a module"]),
        (lambda: SGD(momentum=0.9, dampening=0.1, nesterov=True), ["nesterov"]),
        (lambda: Adam(betas=(0.9, 1.0), eps=-1.0), ["betas", "eps"]),
        (lambda: AdamW(weight_decay=-0.1), ["weight_decay"]),
        (lambda: Adam([{"params": [], "momentums": 0.9}]), ["momentums"]),
        (lambda: Adam([{"lr": 0.9}]), ["params"]),
    ],
)
def test_wrong_hyperparameters_are_told_together(make, told):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert all(word in str(caught.value) for word in told)


@pytest.mark.parametrize(
    ("name", "remedy"), [("step", "optimizer.minimize"), ("zero_grad", "don't accumulate"), ("minimise", "'minimize'")]
)
def test_what_only_torchs_optimizers_have_is_told_with_what_is_here(name, remedy):
    with pytest.raises(AttributeError, match=remedy):
        getattr(SGD(), name)


def test_an_optimizer_shows_its_hyperparameters():
    assert repr(SGD(lr=0.1, momentum=0.9)).startswith("SGD(lr=0.1, momentum=0.9, dampening=0.0")


def test_a_users_module_can_be_trained_whole():
    class Scale(Module):
        def __init__(self):
            super().__init__()
            self.inner = Linear(2, 2, bias=False)

        def forward(self, x):
            return self.inner(x)

    model = Scale()
    train = SGD(model).minimize(mean(model(placeholder("x", ("batch", 2)))))
    assert [v.name for v in train] == ["inner/weight"]
