"""Layers: what they start from, that they are their functions, and the statistics that they keep."""

import math

import numpy as np
import pytest
from error_testing import check_form

from graphc import nn
from graphc.errors import ArgumentError, ShapeError
from graphc.ir import Graph
from graphc.nn import (
    ELU,
    GELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    BCEWithLogitsLoss,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    Flatten,
    GroupNorm,
    Identity,
    LayerNorm,
    LeakyReLU,
    Linear,
    LogSoftmax,
    MaxPool2d,
    ReLU,
    RMSNorm,
    Sequential,
    SmoothL1Loss,
    Softmax,
    Softplus,
    init,
)
from graphc.ops.activations import elu, gelu, leaky_relu, log_softmax, relu, softmax, softplus
from graphc.ops.conv import conv2d, conv_transpose2d
from graphc.ops.losses import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from graphc.ops.math import square
from graphc.ops.nn import group_norm, layer_norm, rms_norm
from graphc.ops.pooling import avg_pool2d, max_pool2d
from graphc.ops.reduce import mean, sum
from graphc.ops.shape import flatten, pad
from graphc.ops.state import placeholder
from graphc.optim import SGD
from graphc.runtime.session import Session


@pytest.fixture(autouse=True)
def graph():
    with Graph() as graph:
        yield graph


def images(name="x"):
    return placeholder(name, ("batch", 1, 4, 4))


def rows(width=3, name="x"):
    return placeholder(name, ("batch", width))


# ------------------------------------------------------------------------------------------ initialisers

SHAPE = (64, 32, 5, 5)
FAN_IN, FAN_OUT = 32 * 25, 64 * 25


def drawn(initializer, shape=SHAPE, name="w", seed=0, dtype="float32"):
    return initializer(seed, name, shape, dtype)


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        (init.uniform(-3, 3), 3),
        (init.normal(1, 2), 4),
        (init.xavier_uniform(gain=2), 8 / (FAN_IN + FAN_OUT)),
        (init.xavier_normal(), 2 / (FAN_IN + FAN_OUT)),
        (init.kaiming_uniform(), 2 / FAN_IN),
        (init.kaiming_uniform(a=math.sqrt(5)), 1 / (3 * FAN_IN)),
        (init.kaiming_normal(mode="fan_out", nonlinearity="relu"), 2 / FAN_OUT),
        (init.trunc_normal(std=2, a=-2, b=2), 4 * 0.29112509),
        (init.orthogonal(gain=3), 9 / FAN_IN),
    ],
)
def test_the_spread_of_initial_values(initializer, variance):
    values = drawn(initializer)
    assert values.shape == SHAPE and values.dtype == np.float32
    assert values.var(dtype=np.float64) == pytest.approx(variance, rel=0.03)
    assert np.array_equal(values, drawn(initializer))
    assert not np.array_equal(values, drawn(initializer, name="v"))
    assert not np.array_equal(values, drawn(initializer, seed=1))


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 2, 3)])
def test_orthogonal_rows_or_columns(shape):
    matrix = drawn(init.orthogonal(), shape, dtype="float64").reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)


def test_truncated_draws_keep_their_bounds_and_their_shape():
    values = drawn(init.trunc_normal(mean=1, std=1, a=1, b=2))
    assert values.min() >= 1 and values.max() <= 2
    below = (values < 1.5).mean()
    assert below == pytest.approx(0.19146246 / 0.34134475, rel=0.02)


def test_plain_values():
    assert drawn(init.zeros(), (2,)).tolist() == [0, 0]
    assert drawn(init.ones(), (2,)).tolist() == [1, 1]
    assert drawn(init.constant(0.5), (2,)).tolist() == [0.5, 0.5]
    assert drawn(init.eye(), (2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("initializer", [init.uniform(-1, 1), init.xavier_normal(), init.kaiming_uniform()])
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_every_float_dtype_and_empty_weights(initializer, dtype):
    assert drawn(initializer, (3, 4), dtype=dtype).dtype.name == dtype
    assert drawn(initializer, (0, 4), dtype=dtype).shape == (0, 4)
    assert drawn(initializer, (4, 0), dtype=dtype).shape == (4, 0)


def test_gains():
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu", math.sqrt(5)) == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: init.calculate_gain("rellu"),
        lambda: init.kaiming_normal(mode="fan"),
        lambda: init.trunc_normal(a=5, b=6),
        lambda: init.trunc_normal(std=0),
        lambda: drawn(init.xavier_normal(), (3,)),
        lambda: drawn(init.eye(), (3,)),
        lambda: drawn(init.orthogonal(), (3,)),
    ],
)
def test_what_cant_be_initialised(wrong):
    with pytest.raises((ArgumentError, ShapeError)):
        wrong()


def first_values(module):
    with Session() as sess:
        return sess.run(module.state_dict())


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(Linear(64, 500), 64), (Conv2d(8, 64, 5), 200), (Conv2d(8, 128, 5, groups=2), 100)]
)
def test_linear_and_convolution_start_as_torchs(layer, fan_in):
    bound = 1 / math.sqrt(fan_in)
    values = first_values(layer)
    for array in values.values():
        assert abs(array).max() <= bound
        assert abs(array).max() > 0.95 * bound
        assert array.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_norms_and_embeddings_start_as_torchs():
    norm = first_values(BatchNorm2d(3))
    assert [norm[name].tolist() for name in ("weight", "bias", "running_mean", "running_var")] == [
        [1, 1, 1],
        [0, 0, 0],
        [0, 0, 0],
        [1, 1, 1],
    ]
    table = first_values(Embedding(300, 40, padding_idx=-2))["weight"]
    assert not table[298].any()
    assert np.delete(table, 298, axis=0).std() == pytest.approx(1, rel=0.03)


def test_own_initial_values():
    layer = Linear(30, 40).initialize(weight=init.normal(std=0.02), bias=init.constant(7))
    values = first_values(layer)
    assert values["weight"].std() == pytest.approx(0.02, rel=0.1)
    assert set(values["bias"].tolist()) == {7}
    layer.initialize(bias=init.ones())
    assert set(first_values(layer)["bias"].tolist()) == {1}


# ------------------------------------------------------------------------------------------ layers


def test_layers_without_parameters_are_their_functions():
    x = images()
    pairs = [
        (ReLU(), relu(x)),
        (LeakyReLU(0.2), leaky_relu(x, 0.2)),
        (ELU(alpha=0.5, inplace=True), elu(x, 0.5)),
        (GELU("tanh"), gelu(x, "tanh")),
        (Softplus(2.0), softplus(x, 2.0)),
        (Softmax(dim=1), softmax(x, axis=1)),
        (LogSoftmax(1), log_softmax(x, axis=1)),
        (MaxPool2d(2, padding=1), max_pool2d(x, 2, padding=1)),
        (AvgPool2d(2, ceil_mode=True), avg_pool2d(x, 2, ceil_mode=True)),
        (Flatten(), flatten(x, 1)),
        (Identity(), x),
    ]
    assert all(layer(x) is expected for layer, expected in pairs)


def test_a_loss_is_a_layer_of_two_tensors():
    x, y = rows(), placeholder("y", ("batch",), "int64")
    assert CrossEntropyLoss(label_smoothing=0.1)(x, y) is cross_entropy(x, y, label_smoothing=0.1)
    z = rows(name="z")
    assert BCEWithLogitsLoss(reduction="sum")(x, z) is binary_cross_entropy_with_logits(x, z, reduction="sum")
    assert SmoothL1Loss(beta=0.5)(x, z) is smooth_l1_loss(x, z, beta=0.5)


@pytest.mark.parametrize("wrong", [lambda: MaxPool2d(), lambda: ReLU(slope=1), lambda: Softmax(0, 1)])
def test_a_layers_wrong_options_are_told_with_its_signature(wrong):
    with pytest.raises(ArgumentError, match="hint: "):
        wrong()


def test_layers_with_parameters_are_their_functions():
    x = images()
    conv = Conv2d(1, 4, (3, 2), stride=2, padding="valid", dilation=(1, 2))
    assert conv(x) is conv2d(x, conv.weight, conv.bias, stride=2, padding="valid", dilation=(1, 2))
    up = ConvTranspose2d(1, 4, 3, stride=2, output_padding=1, bias=False)
    assert up.weight.shape == (1, 4, 3, 3)
    assert up(x) is conv_transpose2d(x, up.weight, stride=2, output_padding=1)
    norm = LayerNorm((4, 4), eps=1e-3)
    assert norm(x) is layer_norm(x, (4, 4), norm.weight, norm.bias, 1e-3)
    rms = RMSNorm(4)
    assert rms(x) is rms_norm(x, 4, rms.weight)
    parts = GroupNorm(2, 4)
    z = placeholder("z", ("batch", 4, 3))
    assert parts(z) is group_norm(z, 2, parts.weight, parts.bias)


@pytest.mark.parametrize(("mode", "numpys"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_padding_modes(mode, numpys):
    x = images()
    conv = Conv2d(1, 2, 3, padding=(1, 2), padding_mode=mode)
    assert conv(x) is conv2d(pad(x, ((0, 0), (0, 0), (1, 1), (2, 2)), mode=numpys), conv.weight, conv.bias)


def test_convolutions_of_every_rank():
    assert Conv1d(2, 4, 3)(placeholder("a", (1, 2, 5))).shape == (1, 4, 3)
    assert Conv3d(2, 4, 3, padding="same")(placeholder("b", (1, 2, 5, 5, 5))).shape == (1, 4, 5, 5, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Conv2d(3, 4, 3, groups=2),
        lambda: Conv2d(3, 4, 3, padding_mode="mirror"),
        lambda: Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        lambda: Conv2d(3, 4, (3, 3, 3)),
        lambda: Embedding(3, 4, padding_idx=3),
        lambda: GroupNorm(2, 3),
        lambda: BatchNorm1d(3)(images()),
        lambda: BatchNorm3d(3)(images()),
    ],
)
def test_what_a_layer_refuses(wrong):
    with pytest.raises((ArgumentError, ShapeError)):
        wrong()


def test_other_dtypes():
    layer = Sequential(Linear(3, 4, dtype="float64"), BatchNorm1d(4, momentum=None, dtype="float64"))
    assert layer(placeholder("x", (5, 3), "float64")).dtype == "float64"
    assert layer[1].num_batches_tracked.dtype == "int64"


def test_a_padding_row_isnt_trained():
    table = Embedding(4, 3, padding_idx=1)
    loss = mean(square(table(np.array([[0, 1], [1, 2]])) - 1))
    train = SGD(lr=1.0).minimize(loss)
    with Session() as sess:
        before = sess[table.weight]
        sess.run(train)
        changed = (sess[table.weight] != before).any(axis=1)
    assert changed.tolist() == [True, False, True, False]


def test_dropout_drops_in_training_runs_only():
    x = np.ones((100, 100), np.float32)
    dropped = Dropout(0.25)(x)
    with Session() as sess:
        assert np.array_equal(sess.run(dropped), x)
        found = sess.run(dropped, training=True)
    assert set(np.unique(found)) == {0, np.float32(1 / 0.75)}
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.02)


# ------------------------------------------------------------------------------------------ batch statistics


def trained(layer, batches, **options):
    """The layer's state after a training run on each batch, and its output on the first in evaluation."""
    x = placeholder("x", ("batch", *batches[0].shape[1:]), batches[0].dtype)
    y = layer(x)
    train = SGD(lr=0.0).minimize(sum(square(y)))
    with Session(**options) as sess:
        for batch in batches:
            sess.run(train, {x: batch})
        return sess.run([layer.state_dict(), y], {x: batches[0]})


def statistics(batches, momentum):
    centre, variance = 0.0, 1.0
    for k, batch in enumerate(batches):
        axes = tuple(axis for axis in range(batch.ndim) if axis != 1)
        share = 1 / (k + 1) if momentum is None else momentum
        wide = batch.astype(np.float64)
        centre = (1 - share) * centre + share * wide.mean(axes)
        variance = (1 - share) * variance + share * wide.var(axes, ddof=1)
    return centre, variance


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
@pytest.mark.parametrize(
    ("layer", "shape"), [(BatchNorm1d, (5, 3)), (BatchNorm1d, (4, 3, 2)), (BatchNorm2d, (3, 3, 4, 2))]
)
def test_running_statistics_after_ten_steps(layer, shape, momentum):
    rng = np.random.default_rng(1)
    batches = [rng.normal(2, 3, shape).astype(np.float32) for _ in range(10)]
    state, output = trained(layer(3, momentum=momentum), batches)
    centre, variance = statistics(batches, momentum)
    np.testing.assert_allclose(state["running_mean"], centre, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state["running_var"], variance, rtol=1e-6)
    assert state["num_batches_tracked"] == 10
    broadcast = (slice(None), *[None] * (len(shape) - 2))
    expected = (batches[0] - centre[broadcast]) / np.sqrt(variance[broadcast] + 1e-5)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_the_statistics_alone():
    layer = BatchNorm1d(2)
    y = layer(np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32))
    with Session() as sess:
        sess.run(y)
        assert sess[layer.num_batches_tracked] == 0
        standard = sess.run(y, training=True)
        assert sess[layer.num_batches_tracked] == 1
    np.testing.assert_allclose(standard.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(standard.var(axis=0), 1, rtol=1e-3)


def test_frozen_layers_still_keep_statistics():
    model = Sequential(Linear(2, 2), BatchNorm1d(2).freeze(), Linear(2, 1))
    train = SGD().minimize(mean(model(np.ones((4, 2), np.float32))))
    with Session() as sess:
        sess.run(train)
        assert sess[model[1].num_batches_tracked] == 1
        assert np.array_equal(sess[model[1].weight], [1, 1])


def test_statistics_of_two_calls_compose_and_those_of_one_input_count_once():
    rng = np.random.default_rng(2)
    first, second = (rng.normal(k, 1, (6, 3)).astype(np.float32) for k in (1, 5))
    layer = BatchNorm1d(3, momentum=None)
    a, b = rows(), rows(name="z")
    train = SGD(lr=0.0).minimize(sum(square(layer(a)) + square(layer(b)) + square(layer(a))))
    with Session() as sess:
        sess.run(train, {a: first, b: second})
        assert sess[layer.num_batches_tracked] == 2
        np.testing.assert_allclose(sess[layer.running_mean], statistics([first, second], None)[0], rtol=1e-6)


def test_without_running_statistics_the_batch_serves():
    layer = BatchNorm1d(2, affine=False, track_running_stats=False)
    assert list(layer.state_dict()) == []
    with Session() as sess:
        found = sess.run(layer(np.array([[1.0, 5.0], [3.0, 9.0]], np.float32)))
    np.testing.assert_allclose(found, [[-1, -1], [1, 1]], rtol=1e-4)


# --- arguments

# What a constructor must refuse, with what it says.
REFUSED = {
    "Dropout(2.0)": "Dropout: p must be a probability, in [0, 1], got 2.0",
    "Dropout(float('nan'))": "Dropout: p must be a probability, in [0, 1], got nan",
    "Linear(-1, 2.5)": "in_features must be an int that is at least 0, got -1; out_features must be an int",
    "Conv2d(-3, 4, 3)": "Conv2d: in_channels must be an int that is at least 0, got -3",
    "Conv2d(3, 4, 0)": "kernel_size must be an int or 2 ints that are >= 1, got 0",
    "Conv2d(3, 4, 3, stride=0)": "stride must be an int or 2 ints that are >= 1, got 0",
    "Conv2d(3, 4, 3, padding=-1)": "padding must be an int or 2 ints that are >= 0, got -1",
    "Conv2d(3, 4, 3, stride=2, padding='same')": "padding='same' needs stride=1",
    "Conv2d(3, 4, 3, dilation=0)": "dilation must be an int or 2 ints that are >= 1, got 0",
    "Conv2d(3, 4, 3, groups=2)": "groups=2 must divide 3 input and 4 output channels",
    "ConvTranspose1d(3, 4, 3, output_padding=1)": "output_padding (1,) must be smaller than stride (1,)",
    "BatchNorm2d(3, eps=-1)": "BatchNorm2d: eps must be a number that is at least 0, got -1",
    "BatchNorm1d(3, momentum=2)": "BatchNorm1d: momentum must be a number in [0, 1], got 2",
    "LayerNorm(2.5)": "LayerNorm: normalized_shape must be an int or several",
    "LayerNorm(3, eps=None)": "LayerNorm: eps must be a number that is at least 0, got None",
    "RMSNorm((3, -1))": "RMSNorm: normalized_shape must be an int or several",
    "GroupNorm(0, 4)": "GroupNorm: num_groups must be an int that is at least 1, got 0",
    "Embedding(-1, 3)": "Embedding: num_embeddings must be an int that is at least 0, got -1",
    "MaxPool2d(0)": "kernel_size must be an int or 2 ints that are >= 1, got 0",
    "MaxPool2d(2, padding=2)": "padding 2 must be smaller than the window 2",
    "AvgPool1d(2, stride=0)": "stride must be an int or 1 ints that are >= 1, got 0",
    "AdaptiveAvgPool2d((None, 0))": "output_size must be an int that is at least 1, or one or None for each",
    "LeakyReLU('steep')": "LeakyReLU: negative_slope must be a number, got 'steep'",
    "GELU('erf')": "GELU: approximate must be one of 'none', 'tanh', got 'erf'",
    "MSELoss(reduction='men')": "MSELoss: reduction must be one of 'none', 'mean', 'sum', got 'men'",
    "CrossEntropyLoss(label_smoothing=2)": "CrossEntropyLoss: label_smoothing must be a number in [0, 1], got 2",
}


@pytest.mark.parametrize("call", REFUSED)
def test_a_layer_that_could_never_be_called_is_refused_when_it_is_made(call):
    with pytest.raises(ArgumentError) as caught:
        eval(call, dict(vars(nn)))
    check_form(str(caught.value))
    assert REFUSED[call] in str(caught.value)


def test_trying_the_windows_of_a_layer_leaves_nothing_in_the_graph():
    with Graph() as graph:
        layers = [nn.Conv2d(3, 4, 3), nn.ConvTranspose1d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True)]
        assert layers and len(graph) == 0
